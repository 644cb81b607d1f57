/* The largest parts of a split value, and the seconds of one move of it. */
#include "distribute/decide.h"

int64_t mth__split_size(int64_t n, const mth__split *s, const mth__placement *on) {
    int64_t grain = s->grain > 1 ? s->grain : 1;
    for (int k = 0; k < s->naxes; k++) {
        int64_t d = on->dim[s->axis[k]], grains = grain == 1 ? n : mth__ceil_div(n, grain),
                part = mth__ceil_div(grains, d) * grain;
        if (part < n) n = part;
    }
    return n;
}

int64_t mth__local_size(mth__shape shape, const mth__sharding *s) {
    int64_t n = 1;
    for (int d = 0; d < shape.rank; d++)
        n *= s->dim[d].naxes ? mth__split_size(shape.dim[d], &s->dim[d], s->on) : shape.dim[d];
    return n;
}

/* A communication over axes of the placement: the devices of a group, and what the slowest of its links can do. */
typedef struct {
    double ranks, rate, latency;
} passage;

static passage passage_of(const mth__placement *on, int64_t axes) {
    const mth__device_model *model = on->mesh->model;
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
