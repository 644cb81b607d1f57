/* The largest parts of a split value, and the seconds of one move of it. */
#include "distribute/decide.h"
#include <math.h>

int64_t mth__split_size(int64_t n, const mth__split *split, const mth__placement *on) {
    int64_t grain = split->grain > 1 ? split->grain : 1;
    for (int k = 0; k < split->naxes; k++) {
        int64_t d = on->dim[split->axis[k]], grains = grain == 1 ? n : mth__ceil_div(n, grain),
                part = mth__ceil_div(grains, d) * grain;
        if (part < n) n = part;
    }
    return n;
}

int64_t mth__local_size(mth__shape shape, const mth__sharding *sharding) {
    int64_t n = 1;
    for (int d = 0; d < shape.rank; d++)
        n *= sharding->dim[d].naxes ? mth__split_size(shape.dim[d], &sharding->dim[d], sharding->on) : shape.dim[d];
    return n;
}

/* A communication over axes of the placement: the devices of a group, and what the slowest of its links can do. */
typedef struct {
    double ranks, rate, latency;
} passage;

static passage passage_of(const mth__placement *on, int64_t axes) {
    const mth__device_model *model = on->mesh->model;
    passage link = {.ranks = 1};
    for (int k = 0; k < on->naxes; k++) {
        if (!(axes >> k & 1)) continue;
        const int axis = on->mesh_axis[k]; /* -1: neighbours may be anywhere on the mesh */
        const double rate = axis < 0 ? model->slowest_rate : model->link_rate[axis],
                     latency = axis < 0 ? model->slowest_latency : model->link_latency[axis];
        link.ranks *= on->dim[k];
        if (link.rate == 0 || rate < link.rate) link.rate = rate;
        if (latency > link.latency) link.latency = latency;
    }
    if (link.rate == 0) link.rate = model->slowest_rate, link.latency = model->slowest_latency;
    return link;
}

int64_t mth__latency_bytes(const mth__placement *on, int64_t axes, double latencies) {
    const passage crossing = passage_of(on, axes);
    const double bytes = latencies * crossing.latency * crossing.rate, most = 0x1p61; /* two of them have a sum */
    return llround(bytes < most ? bytes : most);
}

bool mth__worth_parts(const mth__placement *on, int64_t axes, int64_t bytes) {
    return bytes >= mth__latency_bytes(on, axes, 0.04096); /* 4 KiB on the nominal machine */
}

double mth__move_cost(mth__shape shape, size_t element, const mth__sharding *from, const mth__move *move) {
    double before = (double)mth__local_size(shape, from) * (double)element;
    double after = (double)mth__local_size(shape, &move->to) * (double)element;
    passage link = passage_of(from->on, move->attrs.axes);
    double part = (link.ranks - 1) / link.ranks;
    switch (move->row) {
    case MTH__ROW_keep: return 0;
    case MTH__ROW_all_reduce: return link.latency + 2 * part * before / link.rate;
    case MTH__ROW_reduce_scatter: return link.latency + part * before / link.rate;
    case MTH__ROW_all_gather: return link.latency + part * after / link.rate;
    case MTH__ROW_all_to_all: return link.latency + part * before / link.rate;
    default: /* transfer, broadcast: boxes of any owners */
        link = passage_of(from->on, 0);
        return 1.5 * link.latency + after / link.rate;
    }
}
