/* What passes put in the place of a node. */
#include "distribute/decide.h"

mth_status mth__node_like(mth__graph *graph, const mth__node *like, enum mth__row row, const mth__attrs *attrs, int nin,
    mth__value *const *in, const mth__sharding *need, const mth__sharding *result, mth__value **out) {
    mth__builder builder = {.graph = graph, .label = like->label, .on = result->on};
    TRY(mth__build(&builder, row, attrs, nin, in, out));
    mth__node *node = (*out)->node;
    node->need = NEW_ARRAY(graph->arena, mth__sharding, nin);
    for (int j = 0; j < nin; j++) node->need[j] = need[j];
    (*out)->sharding = *result;
    return NULL;
}
