/* What a channel moves: the boxes of a transfer, the groups of a collective, and their bytes. */
#include "emit/program.h"
#include "emit/collective.h"
#include <string.h>

const char *const mth__channel_names[MTH__CHANNEL_KINDS] = {
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "transfer"};
const char *const mth__algorithm_names[MTH__ALGORITHMS] = {"direct", "ring", "tree", "hierarchical"};

/* ---------------------------------------------------------------- extents: start, start + step, ... */
static int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

/* The x below b with a * x = gcd(a, b), counted around b; sets *divisor to the gcd. Euclid's algorithm. */
static int64_t inverse(int64_t a, int64_t b, int64_t *divisor) {
    int64_t r = a % b, last = b, x = 1, last_x = 0;
    while (r) {
        int64_t q = last / r, t = last - q * r;
        last = r;
        r = t;
        t = last_x - q * x;
        last_x = x;
        x = t;
    }
    *divisor = last;
    return last_x < 0 ? last_x + b : last_x;
}

/* The common elements. Steps are numbers of devices: products of two fit. */
static mth__extent common(mth__extent a, mth__extent b) {
    const mth__extent none = {0, 0, 1};
    if (a.size == 0 || b.size == 0) return none;
    int64_t low = a.start > b.start ? a.start : b.start, last = a.start + (a.size - 1) * a.step,
            end = b.start + (b.size - 1) * b.step;
    if (end < last) last = end;
    int64_t first = a.start + ceil_div(low - a.start, a.step) * a.step, away = (b.start - first) % b.step, shared;
    if (away < 0) away += b.step;
    int64_t inverted = inverse(a.step, b.step, &shared), turn = b.step / shared;
    if (away % shared) return none;
    first += away / shared * inverted % turn * a.step; /* the least that is on b's grid too */
    if (first > last) return none;
    int64_t step = a.step * turn;
    return (mth__extent){first, (last - first) / step + 1, step};
}

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
        e = common(e, want);
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

/* Elements of `to` on the device that it has in `from` already. */
static int64_t elements_kept(const mth__channel *c, int device) {
    int own = c->from.on->rank_of[device];
    if (own < 0) return 0;
    int64_t start[2][MTH__RANK], step[2][MTH__RANK], n = 1;
    mth__shape a = mth__local_shape(c->shape, &c->from, own, start[0], step[0]);
    mth__shape b = mth__local_shape(c->shape, &c->to, c->to.on->rank_of[device], start[1], step[1]);
    for (int d = 0; d < c->shape.rank && n; d++)
        n *= common((mth__extent){start[0][d], a.dim[d], step[0][d]}, (mth__extent){start[1][d], b.dim[d], step[1][d]})
                 .size;
    return n;
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

static int64_t direct_bytes(const mth__channel *c, int device) {
    int64_t n = mth__channel_size(c), element = (int64_t)mth_dtype_size(c->dtype), own_start, own;
    switch (c->kind) {
    /* reduces its own part of n, which it reads from n - 1 others, and takes the n - 1 other parts */
    case MTH__ALL_REDUCE: {
        int64_t elements = local_bytes(c, &c->to, device) / element;
        mth__chunk_range(elements, (int)n, mth__channel_group(c, device, NULL), &own_start, &own);
        return mth__size_product(mth__size_sum(mth__size_product(n - 1, own), elements - own), element);
    }
    case MTH__REDUCE_SCATTER: return mth__size_product(n - 1, local_bytes(c, &c->to, device));
    default: return local_bytes(c, &c->to, device) - elements_kept(c, device) * element;
    }
}

/* By the steps of the template, whose chunks are boxes or ranges of what the group holds. */
static int64_t template_bytes(mth__arena *arena, const mth__channel *c, int device) {
    int n = mth__channel_size(c);
    int32_t *member = NEW_ARRAY(arena, int32_t, n);
    int rank = mth__channel_group(c, device, member);
    mth__template t = mth__template_get(c->kind, c->algorithm, n);
    mth__step **steps = NEW_ARRAY(arena, mth__step *, n);
    int *count = NEW_ARRAY(arena, int, n);
    mth__box_name **box = NEW_ARRAY(arena, mth__box_name *, n);
    bool trace = c->kind == MTH__ALL_TO_ALL; /* boxes differ in size and move on */
    for (int r = 0; r < n; r++)
        if (trace || r == rank) count[r] = mth__template_steps(arena, &t, r, &steps[r]);
    if (trace) mth__template_trace(arena, &t, steps, count, box);
    int64_t bytes = 0, start, size, element = (int64_t)mth_dtype_size(c->dtype);
    int64_t flat = local_bytes(c, &c->from, member[0]) / element; /* of all_reduce and broadcast */
    for (int i = 0; i < count[rank]; i++) {
        mth__step s = steps[rank][i];
        int64_t more;
        if (s.peer == rank) continue;
        switch (c->kind) {
        case MTH__ALL_GATHER: more = local_bytes(c, &c->from, member[s.from_chunk]); break;
        case MTH__REDUCE_SCATTER: more = local_bytes(c, &c->to, member[s.from_chunk]); break;
        case MTH__ALL_TO_ALL: more = box_bytes(c, member[box[rank][i].origin], member[box[rank][i].destination]); break;
        default: mth__chunk_range(flat, t.chunks, s.from_chunk, &start, &size); more = size * element;
        }
        bytes = mth__size_sum(bytes, more);
    }
    return bytes;
}

int64_t mth__channel_bytes(const mth__channel *c, int device) {
    if (c->to.on->rank_of[device] < 0) return 0;
    if (c->kind == MTH__TRANSFER || c->algorithm == MTH__DIRECT) return direct_bytes(c, device);
    mth__arena *arena = mth__arena_new();
    int64_t bytes = template_bytes(arena, c, device);
    mth__arena_free(arena);
    return bytes;
}
