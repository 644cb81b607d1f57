/* Who takes part in a channel: the boxes of a transfer, the groups of a collective, and the scratch that they need. */
#include "emit/program.h"
#include "emit/area.h"
#include "emit/collective.h"
#include <string.h>

const char *const mth__channel_names[MTH__CHANNEL_KINDS] = {
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "transfer"};
const char *const mth__algorithm_names[MTH__ALGORITHMS] = {"direct", "ring", "tree", "hierarchical"};

/* Part number `at` of a split, counted row by row over its axes; sets coordinate[] of these axes. */
static mth__extent part(int64_t n, const mth__split *s, const mth__placement *on, int at, int coordinate[MTH__AXES]) {
    for (int i = s->naxes - 1; i >= 0; i--) {
        coordinate[s->axis[i]] = at % on->dim[s->axis[i]];
        at /= on->dim[s->axis[i]];
    }
    return mth__split_extent(n, s, on, coordinate);
}

static int parts(const mth__split *s, const mth__placement *on) {
    int n = 1;
    for (int i = 0; i < s->naxes; i++) n *= on->dim[s->axis[i]];
    return n;
}

/* The first part that ends behind element `low`: parts of a split that isn't cyclic are in order. */
static int first_part(int64_t n, const mth__split *s, const mth__placement *on, int64_t low) {
    int a = 0, b = parts(s, on), coordinate[MTH__AXES];
    while (a < b) {
        int middle = a + (b - a) / 2;
        mth__extent e = part(n, s, on, middle, coordinate);
        if (e.start + e.size > low)
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
        for (int a = 0; a < on->naxes; a++) found[a] = a < turn ? at[a] : fixed[a] >= 0 ? fixed[a] : 0;
        if (turn < 0) break;
        if (fixed[turn] < 0) found[turn] = at[turn] + 1;
        if (found[turn] > at[turn] && found[turn] < on->dim[turn]) break;
    }
    int r = 0;
    for (int a = 0; a < on->naxes; a++) r = r * on->dim[a] + found[a];
    return r;
}

typedef struct {
    const mth__channel *c;
    int rank; /* in from.on, of the device or as far along */
    int64_t start[MTH__RANK], step[MTH__RANK];
    mth__shape want;
    int fixed[MTH__AXES]; /* coordinates of the owner so far; -1: any */
    mth__piece piece;
    mth__arena *arena;
    VEC(mth__piece) pieces;
} walk;

static void visit(walk *w, int d) {
    const mth__channel *c = w->c;
    const mth__placement *on = c->from.on;
    if (d == c->shape.rank) {
        w->piece.from_device = on->device[nearest_rank(on, w->rank, w->fixed)];
        PUSH(w->arena, w->pieces, w->piece);
        return;
    }
    const mth__split *s = &c->from.dim[d];
    const int64_t n = c->shape.dim[d];
    const mth__extent want = {w->start[d], w->want.dim[d], w->step[d]};
    const int64_t last = want.start + (want.size - 1) * want.step;
    for (int i = s->cyclic || s->naxes == 0 ? 0 : first_part(n, s, on, want.start), all = parts(s, on); i < all; i++) {
        mth__extent e = part(n, s, on, i, w->fixed);
        if (e.start > last && !s->cyclic) break;
        e = mth__extent_common(e, want);
        if (e.size == 0) continue;
        w->piece.start[d] = e.start;
        w->piece.size[d] = e.size;
        w->piece.step[d] = e.step;
        visit(w, d + 1);
    }
    for (int i = 0; i < s->naxes; i++) w->fixed[s->axis[i]] = -1;
}

int mth__transfer_pieces(mth__arena *arena, const mth__channel *c, int to_device, mth__piece **out) {
    walk w = {.c = c, .arena = arena, .fixed = {-1, -1, -1, -1}};
    int to = c->to.on->rank_of[to_device], own = c->from.on->rank_of[to_device];
    w.rank = own >= 0 ? own : to % c->from.on->count;
    w.want = mth__local_shape(c->shape, &c->to, to, w.start, w.step);
    if (mth__shape_size(w.want) > 0) visit(&w, 0);
    *out = w.pieces.at;
    return (int)w.pieces.n;
}

/* ---------------------------------------------------------------- groups */
int mth__channel_size(const mth__channel *c) {
    if (c->kind == MTH__TRANSFER) return 1;
    if (c->kind == MTH__BROADCAST) return c->to.on->count + (c->to.on->rank_of[c->from.on->device[0]] < 0);
    int n = 1;
    for (int a = 0; a < c->from.on->naxes; a++)
        if (c->axes >> a & 1) n *= c->from.on->dim[a];
    return n;
}

int mth__channel_group(const mth__channel *c, int device, int32_t *member) {
    int mine = 0;
    if (c->kind == MTH__TRANSFER) {
        if (member) member[0] = device;
        return 0;
    }
    if (c->kind == MTH__BROADCAST) {
        int32_t root = c->from.on->device[0];
        if (member) member[0] = root;
        for (int i = 0, r = 1; i < c->to.on->count; i++) {
            if (c->to.on->device[i] == root) continue;
            if (c->to.on->device[i] == device) mine = r;
            if (member) member[r] = c->to.on->device[i];
            r++;
        }
        return mine;
    }
    const mth__placement *on = c->from.on;
    int coordinate[MTH__AXES], size = mth__channel_size(c), stride[MTH__AXES], base = 0;
    mth__placement_coordinates(on, on->rank_of[device], coordinate);
    for (int a = on->naxes - 1, s = 1; a >= 0; s *= on->dim[a--]) stride[a] = s;
    for (int a = 0; a < on->naxes; a++) {
        if (c->axes >> a & 1)
            mine = mine * on->dim[a] + coordinate[a];
        else
            base += coordinate[a] * stride[a];
    }
    for (int n = 0; member && n < size; n++) {
        int rank = base;
        for (int a = on->naxes - 1, rest = n; a >= 0; a--)
            if (c->axes >> a & 1) {
                rank += rest % on->dim[a] * stride[a];
                rest /= on->dim[a];
            }
        member[n] = on->device[rank];
    }
    return mine;
}

/* ---------------------------------------------------------------- bytes */
static int64_t local_bytes(const mth__channel *c, const mth__sharding *s, int device) {
    return mth__shape_size(mth__local_shape(c->shape, s, s->on->rank_of[device], NULL, NULL)) *
        (int64_t)mth_dtype_size(c->dtype);
}

/* Bytes of the box that `origin` has for `destination` in an all_to_all. */
static int64_t box_bytes(const mth__channel *c, int origin, int destination) {
    mth__shape from = mth__local_shape(c->shape, &c->from, c->from.on->rank_of[origin], NULL, NULL);
    from.dim[c->dim] = mth__local_shape(c->shape, &c->to, c->to.on->rank_of[destination], NULL, NULL).dim[c->dim];
    return mth__shape_size(from) * (int64_t)mth_dtype_size(c->dtype);
}

int64_t mth__channel_slot(const mth__channel *c) {
    /* the first device has the most of each dimension */
    return box_bytes(c, c->from.on->device[0], c->to.on->device[0]);
}

int64_t mth__channel_scratch(const mth__channel *c, int device) {
    if (c->kind == MTH__TRANSFER || c->algorithm == MTH__DIRECT || c->from.on->rank_of[device] < 0) return 0;
    mth__template t = mth__template_get(c->kind, c->algorithm, mth__channel_size(c));
    return mth__template_scratch(
        &t, local_bytes(c, &c->from, device), c->kind == MTH__ALL_TO_ALL ? mth__channel_slot(c) : 0);
}
