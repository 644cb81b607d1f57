/* What follows from the model: gradients (reverse mode, on the graph). */
#ifndef MTH__DERIVE_H
#define MTH__DERIVE_H
#include "catalog/op.h"

/* Adds, for each output that `wants` (bits by index of graph->output; floating ones), a seed value named as the output, and the nodes of the
   gradients of all floating parameters and of the named inputs; lists them in graph->output (is_gradient, of). Nodes made are `backward`
   and carry module, region, stage, microbatch and placement of the node they differentiate. Contributions to one value are summed in
   ascending order of microbatch (so that a schedule changes no bit), each add carrying the later contribution's microbatch. A parameter that
   no wanted output depends on has the gradient zero (broadcast_to of nothing: a `scale` by 0 of the parameter). */
typedef struct { const char *const *inputs; size_t input_count; const bool *seeded; /* by output */ } mth__gradient_options;
mth_status mth__gradients(mth__graph *, const mth__gradient_options *);
#endif
