#include "catalog/op.h"
#include "catalog/rows.h"

static bool computes(const mth__node *node) {
    return !(node->op->flags & MTH__ALIAS) && (!(node->op->flags & MTH__COMM) || node->op->row == MTH__ROW_keep);
}

bool *mth__owned_values(mth__arena *arena, const mth__graph *graph, mth__owns *owns, const bool *leaves) {
    bool *owned = NEW_ARRAY(arena, bool, graph->values);
    if (!owns) return owned;
    bool *leaving = NEW_ARRAY(arena, bool, graph->values); /* itself, or as a sum to which terms are added */
    for (size_t i = graph->node.n; i-- > 0;) {
        const mth__node *node = graph->node.at[i];
        for (int k = 0; k < node->nout; k++) {
            leaving[node->out[k]->id] |= leaves[node->out[k]->id];
            const mth__value *sum = mth__sum_below(node, k);
            if (sum) leaving[sum->id] |= leaving[node->out[k]->id];
        }
    }
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        for (int k = 0; k < node->nout && computes(node); k++) {
            const mth__value *sum = mth__sum_below(node, k);
            owned[node->out[k]->id] = sum ? owned[sum->id] : !leaving[node->out[k]->id] && owns(node, k);
        }
    }
    return owned;
}
