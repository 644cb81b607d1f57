/* What passes put in the place of a node. */
#include "distribute/decide.h"

mth_status mth__node_like(mth__graph *g, const mth__node *like, enum mth__row row, const mth__attrs *attrs, int nin,
    mth__value *const *in, const mth__sharding *need, const mth__sharding *result, mth__value **out) {
    mth__builder b = {.graph = g, .label = like->label, .on = result->on};
    TRY(mth__build(&b, mth__row_op(row), attrs, nin, in, out));
    mth__node *n = (*out)->node;
    n->need = NEW_ARRAY(g->arena, mth__sharding, nin);
    for (int j = 0; j < nin; j++) n->need[j] = need[j];
    (*out)->sharding = *result;
    return NULL;
}
