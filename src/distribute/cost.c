/* Seconds of a node and of a communication, by the device model of the mesh. */
#include "distribute/decide.h"

double mth__flops_rate(const mth__node *node) { return node->on->mesh->model->flops[mth__operand_dtype(node)]; }

double mth__cost_compute(
    const mth__device_model *model, const mth__node *node, const mth__shape *in, const mth__shape *out) {
    if (node->op->flags & (MTH__ALIAS | MTH__FREE)) return 0;
    double bytes = 0;
    for (int j = 0; j < node->nin; j++)
        bytes += (double)mth__shape_size(in[j]) * (double)mth_dtype_size(node->in[j]->dtype);
    for (int j = 0; j < node->nout; j++)
        bytes += (double)mth__shape_size(out[j]) * (double)mth_dtype_size(node->out[j]->dtype);
    if (node->op->row == MTH__ROW_slice) { /* reads what it keeps; where that lies together, it is a view */
        int64_t rows = 1;
        for (int d = 0; d < node->attrs.dimension; d++) rows *= in[0].dim[d];
        bytes = rows == 1 ? 0 : 2 * (double)mth__shape_size(out[0]) * (double)mth_dtype_size(node->out[0]->dtype);
    }
    double compute = mth__op_flops(node, in, out) / model->flops[mth__operand_dtype(node)],
           memory = bytes / model->memory_rate;
    if (compute == 0 && memory == 0) return 0;
    return model->kernel_latency + (compute > memory ? compute : memory);
}

double mth__cost_node(const mth__node *node) {
    if (node->op->flags & MTH__COMM)
        return mth__cost_reshard(node->in[0], &node->in[0]->sharding, &node->out[0]->sharding);
    mth__shape in[MTH__MAX_IN], out[MTH__MAX_OUT];
    for (int j = 0; j < node->nin; j++) {
        in[j] = node->in[j]->shape;
        for (int d = 0; d < in[j].rank; d++)
            in[j].dim[d] = mth__split_size(in[j].dim[d], &node->need[j].dim[d], node->need[j].on);
    }
    for (int k = 0; k < node->nout; k++) {
        out[k] = node->out[k]->shape;
        for (int d = 0; d < out[k].rank; d++)
            out[k].dim[d] = mth__split_size(out[k].dim[d], &node->out[k]->sharding.dim[d], node->on);
    }
    return mth__cost_compute(node->on->mesh->model, node, in, out);
}

double mth__cost_reshard(const mth__value *value, const mth__sharding *from, const mth__sharding *to) {
    mth__move moves[MTH__MOST_MOVES];
    int n = mth__moves(value->shape, mth_dtype_size(value->dtype), from, to, moves);
    double seconds = 0;
    for (int k = 0; k < n; k++)
        seconds += mth__move_cost(value->shape, mth_dtype_size(value->dtype), k ? &moves[k - 1].to : from, &moves[k]);
    return seconds;
}
