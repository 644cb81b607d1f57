/* Who takes part in a channel: the boxes of a transfer, the groups of a collective, and the scratch that they need. */
#include "emit/program.h"
#include "emit/area.h"
#include "emit/collective.h"
#include <string.h>

const char *const mth__channel_names[MTH__CHANNEL_KINDS] = {
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "transfer"};
const char *const mth__algorithm_names[MTH__ALGORITHMS] = {"direct", "ring", "tree", "hierarchical"};

/* Part number `at` of a split, counted row by row over its axes; sets coordinate[] of these axes. */
static mth__extent part(
    int64_t n, const mth__split *split, const mth__placement *on, int at, int coordinate[MTH__AXES]) {
    for (int i = split->naxes - 1; i >= 0; i--) {
        coordinate[split->axis[i]] = at % on->dim[split->axis[i]];
        at /= on->dim[split->axis[i]];
    }
    return mth__split_extent(n, split, on, coordinate);
}

static int parts(const mth__split *split, const mth__placement *on) {
    int n = 1;
    for (int i = 0; i < split->naxes; i++) n *= on->dim[split->axis[i]];
    return n;
}

/* The first part that ends behind element `low`: parts of a split that isn't cyclic are in order. */
static int first_part(int64_t n, const mth__split *split, const mth__placement *on, int64_t low) {
    int a = 0, b = parts(split, on), coordinate[MTH__AXES];
    while (a < b) {
        int middle = a + (b - a) / 2;
        mth__extent extent = part(n, split, on, middle, coordinate);
        if (extent.start + extent.size > low)
            b = middle;
        else
            a = middle + 1;
    }
    return a;
}

/* ---------------------------------------------------------------- transfers */
/* The rank of the first device at or after `rank`, in rank order and around, whose coordinates agree with those that
 * are not -1. */
static int nearest_rank(const mth__placement *on, int rank, const int *fixed) {
    int at[MTH__AXES], found[MTH__AXES] = {0};
    mth__placement_coordinates(on, rank, at);
    int same = 0; /* leading coordinates that can stay as they are */
    while (same < on->naxes && (fixed[same] < 0 || fixed[same] == at[same])) same++;
    if (same == on->naxes) return rank;
    for (int turn = same; turn >= -1; turn--) { /* the coordinate that grows; -1: around, from the first rank */
        for (int axis = 0; axis < on->naxes; axis++)
            found[axis] = axis < turn ? at[axis] : fixed[axis] >= 0 ? fixed[axis] : 0;
        if (turn < 0) break;
        if (fixed[turn] < 0) found[turn] = at[turn] + 1;
        if (found[turn] > at[turn] && found[turn] < on->dim[turn]) break;
    }
    int nearest = 0;
    for (int axis = 0; axis < on->naxes; axis++) nearest = nearest * on->dim[axis] + found[axis];
    return nearest;
}

typedef struct {
    const mth__channel *channel;
    int rank; /* in from.on, of the device or as far along */
    int64_t start[MTH__RANK], step[MTH__RANK];
    mth__shape part;
    int fixed[MTH__AXES]; /* coordinates of the owner so far; -1: any */
    mth__piece piece;
    mth__arena *arena;
    VEC(mth__piece) pieces;
} walk;

static void visit(walk *state, int d) {
    const mth__channel *channel = state->channel;
    const mth__placement *on = channel->from.on;
    if (d == channel->shape.rank) {
        state->piece.from_device = on->device[nearest_rank(on, state->rank, state->fixed)];
        PUSH(state->arena, state->pieces, state->piece);
        return;
    }
    const mth__split *split = &channel->from.dim[d];
    const int64_t n = channel->shape.dim[d];
    const mth__extent needed = {state->start[d], state->part.dim[d], state->step[d]};
    const int64_t last = needed.start + (needed.size - 1) * needed.step;
    for (int i = split->cyclic || split->naxes == 0 ? 0 : first_part(n, split, on, needed.start),
             all = parts(split, on);
        i < all; i++) {
        mth__extent extent = part(n, split, on, i, state->fixed);
        if (extent.start > last && !split->cyclic) break;
        extent = mth__extent_common(extent, needed);
        if (extent.size == 0) continue;
        state->piece.start[d] = extent.start;
        state->piece.size[d] = extent.size;
        state->piece.step[d] = extent.step;
        visit(state, d + 1);
    }
    for (int i = 0; i < split->naxes; i++) state->fixed[split->axis[i]] = -1;
}

int mth__transfer_pieces(mth__arena *arena, const mth__channel *channel, int to_device, mth__piece **out) {
    walk state = {.channel = channel, .arena = arena, .fixed = {-1, -1, -1, -1}};
    int to = channel->to.on->rank_of[to_device], own = channel->from.on->rank_of[to_device];
    state.rank = own >= 0 ? own : to % channel->from.on->count;
    state.part = mth__local_shape(channel->shape, &channel->to, to, state.start, state.step);
    if (mth__shape_size(state.part) > 0) visit(&state, 0);
    *out = state.pieces.at;
    return (int)state.pieces.n;
}

/* ---------------------------------------------------------------- groups */
int mth__channel_size(const mth__channel *channel) {
    if (channel->kind == MTH__TRANSFER) return 1;
    if (channel->kind == MTH__BROADCAST)
        return channel->to.on->count + (channel->to.on->rank_of[channel->from.on->device[0]] < 0);
    int n = 1;
    for (int axis = 0; axis < channel->from.on->naxes; axis++)
        if (channel->axes >> axis & 1) n *= channel->from.on->dim[axis];
    return n;
}

int mth__channel_group(const mth__channel *channel, int device, int32_t *member) {
    int mine = 0;
    if (channel->kind == MTH__TRANSFER) {
        if (member) member[0] = device;
        return 0;
    }
    if (channel->kind == MTH__BROADCAST) {
        int32_t root = channel->from.on->device[0];
        if (member) member[0] = root;
        for (int i = 0, next = 1; i < channel->to.on->count; i++) {
            if (channel->to.on->device[i] == root) continue;
            if (channel->to.on->device[i] == device) mine = next;
            if (member) member[next] = channel->to.on->device[i];
            next++;
        }
        return mine;
    }
    const mth__placement *on = channel->from.on;
    int coordinate[MTH__AXES], size = mth__channel_size(channel), stride[MTH__AXES], base = 0;
    mth__placement_coordinates(on, on->rank_of[device], coordinate);
    for (int axis = on->naxes - 1, step = 1; axis >= 0; step *= on->dim[axis--]) stride[axis] = step;
    for (int axis = 0; axis < on->naxes; axis++) {
        if (channel->axes >> axis & 1)
            mine = mine * on->dim[axis] + coordinate[axis];
        else
            base += coordinate[axis] * stride[axis];
    }
    for (int n = 0; member && n < size; n++) {
        int rank = base;
        for (int axis = on->naxes - 1, rest = n; axis >= 0; axis--)
            if (channel->axes >> axis & 1) {
                rank += rest % on->dim[axis] * stride[axis];
                rest /= on->dim[axis];
            }
        member[n] = on->device[rank];
    }
    return mine;
}

/* ---------------------------------------------------------------- bytes */
static int64_t local_bytes(const mth__channel *channel, const mth__sharding *sharding, int device) {
    return mth__shape_size(mth__local_shape(channel->shape, sharding, sharding->on->rank_of[device], NULL, NULL)) *
        (int64_t)mth_dtype_size(channel->dtype);
}

/* Bytes of the box that `origin` has for `destination` in an all_to_all. */
static int64_t box_bytes(const mth__channel *channel, int origin, int destination) {
    mth__shape from = mth__local_shape(channel->shape, &channel->from, channel->from.on->rank_of[origin], NULL, NULL);
    from.dim[channel->dim] =
        mth__local_shape(channel->shape, &channel->to, channel->to.on->rank_of[destination], NULL, NULL)
            .dim[channel->dim];
    return mth__shape_size(from) * (int64_t)mth_dtype_size(channel->dtype);
}

int64_t mth__channel_slot(const mth__channel *channel) {
    /* the first device has the most of each dimension */
    return box_bytes(channel, channel->from.on->device[0], channel->to.on->device[0]);
}

int64_t mth__channel_scratch(const mth__channel *channel, int device) {
    if (channel->kind == MTH__TRANSFER || channel->algorithm == MTH__DIRECT || channel->from.on->rank_of[device] < 0)
        return 0;
    mth__template template = mth__template_get(channel->kind, channel->algorithm, mth__channel_size(channel));
    return mth__template_scratch(&template, local_bytes(channel, &channel->from, device),
        channel->kind == MTH__ALL_TO_ALL ? mth__channel_slot(channel) : 0);
}
