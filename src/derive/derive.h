/* What follows from the model: gradients (reverse mode, on the graph). */
#ifndef MTH__DERIVE_H
#define MTH__DERIVE_H
#include "catalog/op.h"

/* Adds, for each floating output that is `seeded`, a seed value named as the output, and the nodes of the gradients of
   all floating parameters and of the named inputs; lists them in graph->output (is_gradient, of), parameters in their
   order, then the inputs as named. Nodes made are `backward` and carry module, region, stage, microbatch and placement
   of the node they differentiate. Contributions to one value are summed in ascending order of microbatch (so that a
   schedule changes no bit), each add carrying the later contribution's microbatch; those of slices that don't overlap
   are joined by one concat, which carries the latest. What no seeded output depends on has the gradient zero: a `scale`
   by 0. Every gradient listed is a value of its own, made by a node. */
typedef struct {
    const char *const *inputs;
    size_t input_count;
    const bool *seeded; /* by output */
} mth__gradient_options;
mth_status mth__gradients(mth__graph *, const mth__gradient_options *);
#endif
