/* Seconds of a node and of a communication, by the device model of the mesh. */
#include "distribute/decide.h"

static const mth__device_model *model_of(const mth__placement *on) { return on->mesh->model; }

double mth__flops_rate(const mth__node *node) {
    return model_of(node->on)->flops[(node->nin ? node->in[0] : node->out[0])->dtype];
}

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

/* A communication over axes of the placement: the devices of a group, and what the slowest of its links can do. */
typedef struct {
    double ranks, rate, latency;
} passage;

static passage passage_of(const mth__placement *on, int64_t axes) {
    const mth__device_model *model = model_of(on);
    passage p = {.ranks = 1};
    for (int a = 0; a < on->naxes; a++) {
        if (!(axes >> a & 1)) continue;
        const int axis = on->mesh_axis[a]; /* -1: neighbours may be anywhere on the mesh */
        const double rate = axis < 0 ? model->slowest_rate : model->link_rate[axis],
                     latency = axis < 0 ? model->slowest_latency : model->link_latency[axis];
        p.ranks *= on->dim[a];
        if (p.rate == 0 || rate < p.rate) p.rate = rate;
        if (latency > p.latency) p.latency = latency;
    }
    if (p.rate == 0) p.rate = model->slowest_rate, p.latency = model->slowest_latency;
    return p;
}

double mth__move_cost(mth__shape shape, size_t element, const mth__sharding *from, const mth__move *m) {
    double before = (double)mth__local_size(shape, from) * (double)element;
    double after = (double)mth__local_size(shape, &m->to) * (double)element;
    passage p = passage_of(from->on, m->attrs.axes);
    double part = (p.ranks - 1) / p.ranks;
    switch (m->row) {
    case MTH__ROW_keep: return 0;
    case MTH__ROW_all_reduce: return p.latency + 2 * part * before / p.rate;
    case MTH__ROW_reduce_scatter: return p.latency + part * before / p.rate;
    case MTH__ROW_all_gather: return p.latency + part * after / p.rate;
    case MTH__ROW_all_to_all: return p.latency + part * before / p.rate;
    default: /* transfer, broadcast: boxes of any owners */
        p = passage_of(from->on, 0);
        return 1.5 * p.latency + after / p.rate;
    }
}

double mth__cost_reshard(const mth__value *v, const mth__sharding *from, const mth__sharding *to) {
    mth__move moves[MTH__MOST_MOVES];
    int n = mth__moves(v->shape, mth_dtype_size(v->dtype), from, to, moves);
    double seconds = 0;
    for (int k = 0; k < n; k++)
        seconds += mth__move_cost(v->shape, mth_dtype_size(v->dtype), k ? &moves[k - 1].to : from, &moves[k]);
    return seconds;
}
