/* Seconds of a node and of a communication, by the device model of the mesh. */
#include "distribute/decide.h"

static const mth__device_model *model_of(const mth__placement *on) { return on->mesh->model; }

double mth__flops_rate(const mth__node *node) { return model_of(node->on)->flops[node->out[0]->dtype]; }

double mth__cost_compute(const mth__node *n, const mth__shape *in, const mth__shape *out) {
    if (n->op->flags & (MTH__ALIAS | MTH__FREE)) return 0;
    double bytes = 0;
    for (int j = 0; j < n->nin; j++) bytes += (double)mth__shape_size(in[j]) * (double)mth_dtype_size(n->in[j]->dtype);
    for (int j = 0; j < n->nout; j++)
        bytes += (double)mth__shape_size(out[j]) * (double)mth_dtype_size(n->out[j]->dtype);
    if (n->op->row == MTH__ROW_slice) { /* reads what it keeps; where that lies together, it is a view */
        int64_t rows = 1;
        for (int d = 0; d < n->attrs.dimension; d++) rows *= in[0].dim[d];
        bytes = rows == 1 ? 0 : 2 * (double)mth__shape_size(out[0]) * (double)mth_dtype_size(n->out[0]->dtype);
    }
    const mth__device_model *model = model_of(n->on);
    double compute = mth__op_flops(n, in, out) / mth__flops_rate(n), memory = bytes / model->memory_rate;
    if (compute == 0 && memory == 0) return 0;
    return model->kernel_latency + (compute > memory ? compute : memory);
}

double mth__cost_node(const mth__node *n) {
    if (n->op->flags & MTH__COMM) return mth__cost_reshard(n->in[0], &n->in[0]->sharding, &n->out[0]->sharding);
    mth__shape in[MTH__MAX_IN], out[MTH__MAX_OUT];
    for (int j = 0; j < n->nin; j++) {
        in[j] = n->in[j]->shape;
        for (int d = 0; d < in[j].rank; d++)
            in[j].dim[d] = mth__split_size(in[j].dim[d], &n->need[j].dim[d], n->need[j].on);
    }
    for (int k = 0; k < n->nout; k++) {
        out[k] = n->out[k]->shape;
        for (int d = 0; d < out[k].rank; d++)
            out[k].dim[d] = mth__split_size(out[k].dim[d], &n->out[k]->sharding.dim[d], n->on);
    }
    return mth__cost_compute(n, in, out);
}

double mth__cost_reshard(const mth__value *v, const mth__sharding *from, const mth__sharding *to) {
    mth__move moves[MTH__MOST_MOVES];
    int n = mth__moves(v->shape, mth_dtype_size(v->dtype), from, to, moves);
    double seconds = 0;
    for (int k = 0; k < n; k++)
        seconds += mth__move_cost(v->shape, mth_dtype_size(v->dtype), k ? &moves[k - 1].to : from, &moves[k]);
    return seconds;
}
