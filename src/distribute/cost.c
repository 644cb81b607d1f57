/* Seconds of a node and of a communication on a nominal device. Only ratios matter: they decide which of two plans
 * moves less. */
#include "distribute/decide.h"

static const double FLOPS = 50e9, MEMORY = 10e9, LINK = 5e9, LATENCY = 20e-6;

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
    double compute = mth__op_flops(n, in, out) / FLOPS, memory = bytes / MEMORY;
    return compute > memory ? compute : memory;
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

static int ranks(const mth__placement *on, int64_t axes) {
    int n = 1;
    for (int a = 0; a < on->naxes; a++)
        if (axes >> a & 1) n *= on->dim[a];
    return n;
}

double mth__move_cost(mth__shape shape, size_t element, const mth__sharding *from, const mth__move *m) {
    double before = (double)mth__local_size(shape, from) * (double)element;
    double after = (double)mth__local_size(shape, &m->to) * (double)element;
    double n = ranks(from->on, m->attrs.axes), part = (n - 1) / n;
    switch (m->row) {
    case MTH__ROW_keep: return 0;
    case MTH__ROW_all_reduce: return LATENCY + 2 * part * before / LINK;
    case MTH__ROW_reduce_scatter: return LATENCY + part * before / LINK;
    case MTH__ROW_all_gather: return LATENCY + part * after / LINK;
    case MTH__ROW_all_to_all: return LATENCY + part * before / LINK;
    default: return 1.5 * LATENCY + after / LINK; /* transfer, broadcast: boxes of any owners */
    }
}

double mth__cost_reshard(const mth__value *v, const mth__sharding *from, const mth__sharding *to) {
    mth__move moves[MTH__MOST_MOVES];
    int n = mth__moves(v->shape, from, to, moves);
    double seconds = 0;
    for (int k = 0; k < n; k++)
        seconds += mth__move_cost(v->shape, mth_dtype_size(v->dtype), k ? &moves[k - 1].to : from, &moves[k]);
    return seconds;
}
