/* Which function runs a row of the catalog as calls of aten, and which of its results lie in memory that torch
 * allocates. By file: torch_elementwise.c, torch_layout.c, torch_reduce.c (sums, softmax, norms), torch_contract.c,
 * torch_index.c (gathers, positions, dropout), torch_attention.c, torch_moe_route.c (who goes where), torch_moe.c. */
#ifndef MTH__TORCH_ROWS_H
#define MTH__TORCH_ROWS_H
#include "engine/torch/torch_call.h"

typedef void mth__torch_run_row(mth__torch_call *);
typedef struct {
    mth__torch_run_row *run;
    unsigned owns;     /* bits of results */
    mth__keeps *keeps; /* what the row fills by mth__torch_keep; NULL: nothing that grows with activations */
} mth__torch_row;
extern const mth__torch_row mth__torch_rows[MTH__ROW_COUNT]; /* run NULL: communication, never computed */

mth__torch_run_row mth__torch_elementwise, mth__torch_copy, mth__torch_cast, mth__torch_mask, mth__torch_gradients;
mth__torch_run_row mth__torch_contract;
mth__torch_run_row mth__torch_broadcast_to, mth__torch_transpose, mth__torch_slice, mth__torch_pad, mth__torch_concat,
    mth__torch_part;
mth__torch_run_row mth__torch_reduce, mth__torch_softmax, mth__torch_softmax_grad, mth__torch_layer_norm,
    mth__torch_layer_norm_grad, mth__torch_rms_norm, mth__torch_rms_norm_grad;
mth__torch_run_row mth__torch_gather, mth__torch_gather_grad, mth__torch_pick, mth__torch_pick_grad,
    mth__torch_sinusoid, mth__torch_rope, mth__torch_dropout;
mth__keeps mth__torch_dropout_keeps;
mth__torch_run_row mth__torch_attention, mth__torch_attention_grad;
mth__torch_run_row mth__torch_moe_route, mth__torch_moe_route_grad, mth__torch_moe_capacity, mth__torch_moe_rows,
    mth__torch_moe_dispatch, mth__torch_moe_combine, mth__torch_moe_combine_weights_grad, mth__torch_moe_matmul,
    mth__torch_moe_outer, mth__torch_moe_bias, mth__torch_moe_bias_grad, mth__torch_moe_map, mth__torch_moe_count;
#endif
