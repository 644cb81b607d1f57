/* What channels mean for each device: followed on numbers and compared with what the kind says of the whole tensor;
 * bytes against formulas; what is sent is what is received. */
#include "emit/traffic.h"
#include "emit/verify_moves.h"
#include "pick.h"
#include "plans.h"
#include <math.h>
#include <string.h>
#include "guarded.h"

enum { GROUPS = 2, LARGEST = 6 };

/* Over axis 1 of a mesh of (GROUPS, n): groups side by side, as in a plan of data and tensor parallelism. */
typedef struct {
    mth__channel channel;
    int n;
    bool in_place;
} one_case;

static one_case case_of(mth__channel_kind kind, mth__algorithm algorithm, int n, mth__shape shape, bool max) {
    mth__mesh *mesh = MESH(arena, GROUPS, n);
    const mth__placement *on = mth__place_whole(mesh);
    mth__sharding whole = split_by(on, shape, SPLIT(0, -1, -1)), partial = whole,
                  split[2] = {split_by(on, shape, SPLIT(0, 1, -1)), split_by(on, shape, SPLIT(0, -1, 1))};
    partial.partial = 2;
    partial.reduce = max ? MTH__REDUCE_MAX : MTH__REDUCE_SUM;
    mth__channel channel = {.kind = kind,
        .algorithm = algorithm,
        .dtype = MTH_FLOAT32,
        .shape = shape,
        .axes = 2,
        .dim = -1,
        .dim2 = -1,
        .label = "case",
        .from = whole,
        .to = whole};
    switch (kind) {
    case MTH__ALL_REDUCE: channel.from = partial; break;
    case MTH__REDUCE_SCATTER:
        channel.from = partial;
        channel.to = split[0];
        channel.dim = 1;
        break;
    case MTH__ALL_GATHER:
        channel.from = split[0];
        channel.dim = 1;
        break;
    case MTH__ALL_TO_ALL:
        channel.from = split[0];
        channel.to = split[1];
        channel.dim = 2;
        channel.dim2 = 1;
        break;
    default: /* from one device to all, or to all but itself */
        channel.from = (mth__sharding){.on = mth__place_device(mesh, max ? n : 0)};
        channel.to = (mth__sharding){.on = max ? mth__place_slice(mesh, 0, 0) : on};
        channel.axes = 0;
    }
    channel.reduce = channel.from.reduce;
    return (one_case){channel, n, false};
}

/* ---------------------------------------------------------------- followed on numbers */
/* What device `device` has of element `flat` of the tensor: where it is no term of a sum, the same on all. */
static double value_of(const mth__channel *channel, int device, int64_t flat) {
    return (double)(flat + 1) + (channel->from.partial ? 1000.0 * (device + 1) : 0);
}

static int64_t local_size(const mth__channel *channel, const mth__sharding *sharding, int device) {
    int rank = sharding->on->rank_of[device];
    return rank < 0 ? 0 : mth__shape_size(mth__local_shape(channel->shape, sharding, rank, NULL, NULL));
}

/* The flat global index of local element i. */
static int64_t global_of(const mth__channel *channel, const mth__sharding *sharding, int device, int64_t i) {
    int64_t start[MTH__RANK], step[MTH__RANK], flat = 0, at[MTH__RANK];
    mth__shape local = mth__local_shape(channel->shape, sharding, sharding->on->rank_of[device], start, step);
    for (int d = local.rank - 1; d >= 0; i /= local.dim[d--]) at[d] = start[d] + i % local.dim[d] * step[d];
    for (int d = 0; d < local.rank; d++) flat = flat * channel->shape.dim[d] + at[d];
    return flat;
}

static double expected(const one_case *x, int device, int64_t flat) {
    const mth__channel *channel = &x->channel;
    if (!channel->from.partial) return value_of(channel, device, flat);
    double sum = channel->reduce == MTH__REDUCE_MAX ? -INFINITY : 0;
    for (int r = 0; r < x->n; r++) {
        double term = value_of(channel, device / x->n * x->n + r, flat);
        sum = channel->reduce == MTH__REDUCE_MAX ? fmax(sum, term) : sum + term;
    }
    return sum;
}

typedef struct {
    double *at[MTH__MOVE_MEMORIES];
    int64_t size[MTH__MOVE_MEMORIES];
} memories;

static void apply(const mth__channel *channel, const mth__channel_move *move, const memories *all, int device) {
    const memories *own = &all[device], *peer = &all[move->peer];
    const mth__strided_copy *copy = &move->copy;
    for (int64_t k = 0, n = mth__strided_copy_size(copy); k < n; k++) {
        int64_t to = copy->to, from = copy->from, rest = k;
        for (int d = copy->rank - 1; d >= 0; rest /= copy->size[d--]) {
            to += rest % copy->size[d] * copy->to_stride[d];
            from += rest % copy->size[d] * copy->from_stride[d];
        }
        bool inside = to >= 0 && to < own->size[move->to] && from >= 0 && from < peer->size[move->from];
        CHECK(inside);
        if (!inside) return;
        double *result = &own->at[move->to][to], term = peer->at[move->from][from];
        *result = !move->reduce ? term : channel->reduce == MTH__REDUCE_MAX ? fmax(*result, term) : *result + term;
    }
}

/* Device by device within a round, in either order: nobody reads what is written in the same round. */
static bool comes_out_right(const one_case *x, const mth__channel_part *part, bool backwards) {
    const mth__channel *channel = &x->channel;
    const int devices = GROUPS * x->n;
    memories *all = NEW_ARRAY(arena, memories, devices);
    for (int d = 0; d < devices; d++) {
        int64_t *size = all[d].size;
        size[MTH__MOVE_OPERAND] = local_size(channel, &channel->from, d);
        size[MTH__MOVE_RESULT] = local_size(channel, &channel->to, d);
        size[MTH__MOVE_SCRATCH] = mth__channel_scratch(channel, d) / 4;
        for (int m = 0; m < MTH__MOVE_MEMORIES; m++) {
            all[d].at[m] = NEW_ARRAY(arena, double, size[m] + 1);
            for (int64_t i = 0; i < size[m]; i++)
                all[d].at[m][i] =
                    m == MTH__MOVE_OPERAND ? value_of(channel, d, global_of(channel, &channel->from, d, i)) : NAN;
        }
        if (x->in_place) all[d].at[MTH__MOVE_RESULT] = all[d].at[MTH__MOVE_OPERAND];
    }
    int *next = NEW_ARRAY(arena, int, devices);
    for (int round = 0; round < part[0].rounds; round++)
        for (int k = 0; k < devices; k++) {
            const int d = backwards ? devices - 1 - k : k;
            for (; next[d] < part[d].count && part[d].move[next[d]].round == round; next[d]++)
                apply(channel, &part[d].move[next[d]], all, d);
        }
    bool right = true;
    for (int d = 0; d < devices; d++) {
        right &= next[d] == part[d].count;
        for (int64_t i = 0; i < local_size(channel, &channel->to, d); i++)
            right &= all[d].at[MTH__MOVE_RESULT][i] == expected(x, d, global_of(channel, &channel->to, d, i));
    }
    return right;
}

static mth__channel_part *parts_of(const one_case *x) {
    mth__channel_part *part = NEW_ARRAY(arena, mth__channel_part, GROUPS * x->n);
    mth__templates templates = {.arena = arena};
    CHECK_STATUS(mth__channel_check(&x->channel));
    for (int d = 0; d < GROUPS * x->n; d++)
        CHECK_STATUS(mth__channel_moves(arena, &templates, &x->channel, d, &part[d]));
    return part;
}

/* even; uneven; fewer elements than devices; nothing in some parts */
#define SHAPES {SHAPE(2, 60, 60), SHAPE(4, 7, 5), SHAPE(2, 3, 11), SHAPE(2, 1, 2), SHAPE(3, 13, 1)}
#define EACH_CASE(x)                                                                                                   \
    for (int kind_ = 0; kind_ < MTH__TRANSFER; kind_++)                                                                \
        for (int algorithm_ = 0; algorithm_ < MTH__ALGORITHMS; algorithm_++)                                           \
            for (int n_ = 2; n_ <= LARGEST; n_++)                                                                      \
                for (int shape_ = 0; shape_ < 5; shape_++)                                                             \
                    for (int max_ = 0; max_ < 2; max_++)                                                               \
                        for (one_case x = case_of((mth__channel_kind)kind_, (mth__algorithm)algorithm_, n_,            \
                                          ((mth__shape[])SHAPES)[shape_], max_),                                       \
                                      *once_ = &x;                                                                     \
                            once_; once_ = NULL)

GUARDED(moves_do_what_the_kind_says) {
    EACH_CASE(x) {
        mth__channel_part *part = parts_of(&x);
        CHECK(comes_out_right(&x, part, false));
        CHECK(comes_out_right(&x, part, true));
        CHECK(part[0].rounds == mth__channel_rounds(&x.channel));
        x.in_place = x.channel.kind == MTH__ALL_REDUCE;
        if (x.in_place) CHECK(comes_out_right(&x, part, false));
    }
}

/* A move left out, one from another peer, one that copies what it should add: seen. */
GUARDED(mutants_come_out_wrong) {
    for (int kind = 0; kind < MTH__TRANSFER; kind++)
        for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++) {
            one_case x = case_of((mth__channel_kind)kind, (mth__algorithm)algorithm, 4, SHAPE(2, 8, 8), false);
            mth__channel_part *part = parts_of(&x);
            int last = part[1].count - 1;
            mth__channel_move *move = NEW_ARRAY(arena, mth__channel_move, part[1].count);
            memcpy(move, part[1].move, (size_t)part[1].count * sizeof *move);
            const mth__channel_part good = part[1];
            part[1].move = move;
            part[1].count = last;
            CHECK(!comes_out_right(&x, part, false));
            part[1].count = last + 1;
            move[last].copy.to_stride[move[last].copy.rank - 1] = 0;
            CHECK(!comes_out_right(&x, part, false));
            move[last] = good.move[last];
            for (int i = 0; i <= last; i++)
                if (move[i].reduce) {
                    move[i].reduce = false;
                    CHECK(!comes_out_right(&x, part, false));
                    move[i].reduce = true;
                    break;
                }
        }
}

/* What the verifier says of moves: the right ones pass; those that leave a memory, bring other elements than belong
 * there, fill too little or reduce a term too few do not. */
GUARDED(the_verifier_knows_good_moves) {
    int64_t looked = 0, astray = 0, terms = 0;
    EACH_CASE(x) {
        mth__channel_part *part = parts_of(&x);
        for (int d = 0; d < GROUPS * x.n; d++) CHECK_STATUS(mth__verify_device_moves(&x.channel, d, &part[d]));
        if (!part[1].count) continue;
        mth__channel_move *move = NEW_ARRAY(arena, mth__channel_move, part[1].count), *last = &move[part[1].count - 1];
        memcpy(move, part[1].move, (size_t)part[1].count * sizeof *move);
        mth__channel_part spoilt = {part[1].rounds, part[1].count, move};
        const mth__channel_move good = *last;
        const bool direct = x.channel.algorithm == MTH__DIRECT;
#define REFUSED_WITH(words) CHECK_FAILS(mth__verify_device_moves(&x.channel, 1, &spoilt), MTH_ERROR_INTERNAL, words)
        last->copy.from = -1;
        REFUSED_WITH("does not hold");
        *last = good;
        last->copy.to += 1 << 20;
        REFUSED_WITH("outside its memory");
        *last = good;
        last->copy.to_stride[0] += last->copy.size[0] > 1 ? 1 << 20 : 0;
        if (last->copy.size[0] > 1) REFUSED_WITH("outside its memory");
        *last = good;
        last->round = part[1].rounds;
        REFUSED_WITH("is in round");
        *last = good;
        /* one element less of it, shifted on one side: all inside of both memories, and in the wrong place */
        const int rank = last->copy.rank;
        if (rank && last->copy.size[rank - 1] > 1 &&
            (x.channel.kind != MTH__ALL_TO_ALL || (last->from != MTH__MOVE_SCRATCH && last->to != MTH__MOVE_SCRATCH))) {
            last->copy.size[rank - 1]--;
            last->copy.from += last->copy.from_stride[rank - 1];
            REFUSED_WITH("other elements");
            astray++;
        }
        *last = good;
        if (rank) last->copy.size[0]--;
        if (direct && rank && last->copy.size[0]) REFUSED_WITH(last->reduce ? "reduces" : "its result has");
        *last = good;
        for (int i = 0; direct && i < part[1].count; i++)
            if (move[i].reduce) {
                move[i].reduce = false;
                REFUSED_WITH("its result has");
                move[i].reduce = true;
                const int peer = move[i].peer_rank; /* twice the same peer's, in place of another's */
                const mth__channel_move kept = move[i];
                if (i + 1 < part[1].count && move[i + 1].reduce) {
                    move[i] = move[i + 1];
                    CHECK(move[i].peer_rank != peer);
                    REFUSED_WITH("reduces");
                    move[i] = kept;
                    terms++;
                }
            }
        if (!direct) continue;
        spoilt.count--;
        REFUSED_WITH(last->reduce ? "reduces" : "its result has");
        looked++;
    }
    CHECK(looked > 100 && astray > 200 && terms > 50);
}

/* ---------------------------------------------------------------- cuts */
/* Does each element of a coarse part lie in one part of its group, and in no other, and no part of a group exceed the
 * first? By counting. */
static bool fills_by_counting(int64_t n, const mth__split *coarse, const mth__split *fine, const mth__placement *on) {
    mth__sharding one = {.on = on, .dim = {*coarse}}, other = {.on = on, .dim = {*fine}};
    const mth__shape line = {1, {n}};
    unsigned outer = 0, inner = 0;
    for (int i = 0; i < coarse->naxes; i++) outer |= 1u << coarse->axis[i];
    for (int i = 0; i < fine->naxes; i++) inner |= 1u << fine->axis[i];
    for (int rank = 0; rank < on->count; rank++) {
        int at[MTH__AXES], to[MTH__AXES], times[64] = {0};
        int64_t start[MTH__RANK], step[MTH__RANK], first = -1;
        const int64_t held = mth__local_shape(line, &one, rank, start, step).dim[0];
        for (int64_t i = 0; i < held; i++) times[start[0] + i * step[0]]--;
        mth__placement_coordinates(on, rank, at);
        for (int k = 0; k < on->count; k++) {
            bool of_group = true;
            mth__placement_coordinates(on, k, to);
            for (int axis = 0; axis < on->naxes; axis++)
                of_group &= !(inner >> axis & 1) || (outer >> axis & 1) ? to[axis] == at[axis] : true;
            if (!of_group) continue;
            const int64_t size = mth__local_shape(line, &other, k, start, step).dim[0];
            for (int64_t i = 0; i < size; i++) times[start[0] + i * step[0]]++;
            if (first < 0) first = size;
            if (size > first) return false;
        }
        for (int64_t i = 0; i < n; i++)
            if (times[i]) return false;
    }
    return true;
}

static mth__split some_split(unsigned *axes) {
    mth__split split = {0};
    for (int count = (int)(pick(4)); count > 0; count--) {
        const int axis = (int)pick(3);
        if (*axes >> axis & 1) continue;
        *axes |= 1u << axis;
        split.axis[split.naxes++] = (int8_t)axis;
    }
    split.grain = split.naxes && pick(3) == 0 ? (int32_t)(1 + pick(4)) : 0;
    split.cyclic = split.naxes == 1 && !split.grain && pick(4) == 0;
    return split;
}

/* Splits at random, most of which do not fit: never is one passed that does not fill, and of those that the check of
 * channels lets through all that fill are passed. */
GUARDED(cuts_that_pass_fill_each_part) {
    int passed = 0, spilt = 0, checked = 0;
    for (unsigned seed = 1; seed <= 6000; seed++) {
        unsigned axes = 0;
        state = seed;
        const int64_t n = (int64_t)pick(30) + 1;
        const mth__placement *on = mth__place_whole(MESH(arena, 2, 3, 2));
        mth__split coarse = some_split(&axes), fine = coarse;
        axes = 0;
        if (pick(3)) { /* further, along one axis more */
            for (int i = 0; i < fine.naxes; i++) axes |= 1u << fine.axis[i];
            const int axis = (int)pick(3);
            if (!(axes >> axis & 1)) fine.axis[fine.naxes++] = (int8_t)axis;
            if (pick(2)) fine.grain = (int32_t)pick(4);
        } else {
            fine = some_split(&axes);
        }
        mth__channel channel = {.kind = MTH__ALL_GATHER, .dtype = MTH_FLOAT32, .shape = {1, {n}}, .label = "case"};
        channel.from = (mth__sharding){.on = on, .dim = {fine}};
        channel.to = (mth__sharding){.on = on, .dim = {coarse}};
        if (mth__split_equal(&coarse, &fine)) continue;
        mth_status refused = mth__verify_cuts(&(mth__verification){.arena = arena}, &channel);
        const bool fills = fills_by_counting(n, &coarse, &fine, on);
        if (!refused) CHECK(fills);
        for (int i = coarse.naxes; i < fine.naxes; i++) channel.axes |= (uint8_t)(1u << fine.axis[i]);
        mth_status unfit = mth__channel_check(&channel);
        if (!unfit) CHECK(!refused && fills);
        passed += !refused;
        spilt += !fills;
        checked += !unfit;
        mth_error_free(refused);
        mth_error_free(unfit);
    }
    CHECK(passed > 500 && spilt > 500 && checked > 300);
}

/* A channel whose sides do not fit is refused by name; the right ones are not. */
GUARDED(cuts_of_channels) {
    EACH_CASE(x) {
        CHECK_STATUS(mth__verify_cuts(&(mth__verification){.arena = arena}, &x.channel));
        mth__channel spoilt = x.channel;
        const bool gathers = x.channel.kind == MTH__ALL_GATHER;
        if (!gathers && x.channel.kind != MTH__REDUCE_SCATTER) continue;
        mth__split *coarse = gathers ? &spoilt.to.dim[1] : &spoilt.from.dim[1];
        *coarse = (mth__split){.naxes = 1, .axis = {0}};
        CHECK_FAILS(
            mth__verify_cuts(&(mth__verification){.arena = arena}, &spoilt), MTH_ERROR_VALUE, "along dimension 1");
        *coarse = gathers ? spoilt.from.dim[1] : spoilt.to.dim[1];
        CHECK_FAILS(
            mth__verify_cuts(&(mth__verification){.arena = arena}, &spoilt), MTH_ERROR_INTERNAL, "on both sides");
    }
}

/* ---------------------------------------------------------------- bytes */
/* Of what the group holds: elements of flat chunk k of n; of rank k's part along a dimension of `size`. */
static int64_t chunk(int64_t elements, int n, int k) {
    int64_t each = (elements + n - 1) / n, start = each * k;
    return start >= elements ? 0 : elements - start < each ? elements - start : each;
}
static int modulo(int k, int n) { return (k % n + n) % n; }

/* Ranks that take from rank r in a binomial tree. */
static int children(int r, int n) {
    int count = 0;
    for (int d = 1; d < n; d *= 2) count += r % (2 * d) == 0 && r + d < n;
    return count;
}

/* Elements that rank r of n receives and sends; false: no formula is known to this test. */
static bool formula(const one_case *x, int r, int64_t *received, int64_t *sent) {
    const mth__channel *channel = &x->channel;
    const int n = x->n, left = modulo(r - 1, n), right = modulo(r + 1, n);
    const int64_t batch = chunk(channel->shape.dim[0], GROUPS, 0), rows = channel->shape.dim[1],
                  columns = channel->shape.dim[2], all = batch * rows * columns;
#define ROWS(k) (batch * chunk(rows, n, k) * columns)
    switch (channel->kind) {
    case MTH__ALL_REDUCE:
        if (channel->algorithm == MTH__DIRECT) *received = *sent = (n - 1) * chunk(all, n, r) + all - chunk(all, n, r);
        if (channel->algorithm == MTH__RING) { /* 2 (n - 1) / n of the tensor, up to uneven chunks */
            *received = 2 * all - chunk(all, n, r) - chunk(all, n, right);
            *sent = 2 * all - chunk(all, n, right) - chunk(all, n, modulo(r + 2, n));
        }
        if (channel->algorithm == MTH__TREE) *received = *sent = (children(r, n) + (r > 0)) * all;
        if (channel->algorithm == MTH__HIERARCHICAL) *received = *sent = 2 * (n - 1) * chunk(all, n, 0);
        return channel->algorithm != MTH__HIERARCHICAL || all % n == 0;
    case MTH__REDUCE_SCATTER:
        if (channel->algorithm == MTH__DIRECT) *received = (n - 1) * ROWS(r), *sent = all - ROWS(r);
        if (channel->algorithm == MTH__RING) *received = all - ROWS(left), *sent = all - ROWS(r);
        if (channel->algorithm == MTH__HIERARCHICAL) *received = *sent = all - ROWS(0);
        return channel->algorithm != MTH__TREE && (channel->algorithm != MTH__HIERARCHICAL || rows % n == 0);
    case MTH__ALL_GATHER:
        *received = all - ROWS(r);
        if (channel->algorithm == MTH__DIRECT) *sent = (n - 1) * ROWS(r);
        if (channel->algorithm == MTH__RING) *sent = all - ROWS(right);
        if (channel->algorithm == MTH__HIERARCHICAL) *sent = all - ROWS(0);
        return channel->algorithm != MTH__TREE && (channel->algorithm != MTH__HIERARCHICAL || rows % n == 0);
    case MTH__ALL_TO_ALL: {
#define BOX(operand, d) (batch * chunk(rows, n, operand) * chunk(columns, n, d))
        *received = *sent = 0;
        if (channel->algorithm == MTH__DIRECT)
            for (int k = 0; k < n; k++)
                if (k != r) *received += BOX(k, r), *sent += BOX(r, k);
        if (channel->algorithm == MTH__RING) /* every box goes from neighbour to neighbour until it is there */
            for (int operand = 0; operand < n; operand++)
                for (int hops = 1; hops < n; hops++)
                    for (int hop = 1; hop <= hops; hop++) {
                        *received += modulo(operand + hop, n) == r ? BOX(operand, modulo(operand + hops, n)) : 0;
                        *sent += modulo(operand + hop - 1, n) == r ? BOX(operand, modulo(operand + hops, n)) : 0;
                    }
        return channel->algorithm == MTH__DIRECT || channel->algorithm == MTH__RING;
    }
    default: return false;
    }
}

GUARDED(bytes_are_those_of_the_formulas) {
    int64_t compared = 0, apart = 0;
    EACH_CASE(x) {
        /* what the second group holds of an uneven batch is less */
        if (x.channel.kind == MTH__BROADCAST || x.channel.shape.dim[0] % GROUPS) continue;
        mth__traffic *traffic = NEW_ARRAY(arena, mth__traffic, GROUPS * x.n);
        CHECK_STATUS(mth__channel_traffic(&x.channel, traffic));
        int64_t received, sent;
        for (int d = 0; d < GROUPS * x.n; d++) {
            if (!formula(&x, d % x.n, &received, &sent)) continue;
            CHECK(traffic[d].received == 4 * received && traffic[d].sent == 4 * sent);
            compared++;
            apart += received != sent;
        }
    }
    CHECK(compared > 1000 && apart > 100);
}

/* The source is device n, of the second group; ranks are the devices 0, 1, ... behind it. */
GUARDED(a_broadcast_goes_by_its_algorithm) {
    for (int n = 2; n <= LARGEST; n++)
        for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++) {
            one_case x = case_of(MTH__BROADCAST, (mth__algorithm)algorithm, n, SHAPE(4, 7, 5), true);
            mth__traffic traffic[GROUPS * LARGEST] = {{0}};
            int32_t member[LARGEST + 1];
            const int ranks = mth__channel_size(&x.channel);
            const int64_t bytes = 4 * 7 * 5 * 4;
            CHECK_STATUS(mth__channel_traffic(&x.channel, traffic));
            mth__channel_group(&x.channel, n, member);
            CHECK(ranks == n + 1 && member[0] == n);
            int across = 1; /* ranks in a group of the hierarchy */
            for (int i = 2; i * i <= ranks; i++)
                if (ranks % i == 0) across = i;
            across = across > 1 ? ranks / across : ranks;
            for (int rank = 0; rank < ranks; rank++) {
                const int next = rank % across + 1 < across && rank + 1 < ranks,
                          below = rank % across == 0 && rank + across < ranks;
                const int takers[] = {rank ? 0 : ranks - 1, rank + 1 < ranks, children(rank, ranks), next + below};
                CHECK(traffic[member[rank]].received == (rank ? bytes : 0));
                CHECK(traffic[member[rank]].sent == takers[algorithm] * bytes);
                CHECK(traffic[member[rank]].messages == (rank > 0));
            }
        }
}

static bool balances(int devices, const mth__traffic *traffic) {
    int64_t received = 0, sent = 0;
    for (int d = 0; d < devices; d++) {
        received += traffic[d].received;
        sent += traffic[d].sent;
    }
    return received == sent;
}

/* Counted from the moves alone. */
static void count_moves(const one_case *x, const mth__channel_part *part, mth__traffic *traffic) {
    for (int d = 0; d < GROUPS * x->n; d++)
        for (int i = 0; i < part[d].count; i++) {
            const mth__channel_move *move = &part[d].move[i];
            if (move->peer == d) continue;
            traffic[d].received += mth__channel_move_bytes(&x->channel, move);
            traffic[move->peer].sent += mth__channel_move_bytes(&x->channel, move);
        }
}

GUARDED(what_is_sent_is_received) {
    EACH_CASE(x) {
        const int devices = GROUPS * x.n;
        mth__traffic *counted = NEW_ARRAY(arena, mth__traffic, devices),
                     *moved = NEW_ARRAY(arena, mth__traffic, devices);
        CHECK_STATUS(mth__channel_traffic(&x.channel, counted));
        CHECK(balances(devices, counted));
        count_moves(&x, parts_of(&x), moved);
        for (int d = 0; d < devices; d++)
            CHECK(counted[d].received == moved[d].received && counted[d].sent == moved[d].sent);
        if (counted[0].sent == counted[0].received) continue;
        counted[0].sent = counted[0].received; /* as if all sent what they receive */
        CHECK(!balances(devices, counted));
    }
}

GUARDED(transfers_are_counted_on_both_sides) {
    mth__mesh *mesh = MESH(arena, 2, 3);
    mth__shape shape = SHAPE(7, 10);
    const mth__placement *whole = mth__place_whole(mesh), *row = mth__place_slice(mesh, 0, 1);
    mth__channel channel = {.kind = MTH__TRANSFER,
        .dtype = MTH_FLOAT32,
        .shape = shape,
        .from = split_by(row, shape, SPLIT(0, -1)),
        .to = split_by(whole, shape, SPLIT(-1, 1)),
        .label = "case"};
    mth__traffic traffic[6] = {{0}};
    CHECK_STATUS(mth__channel_traffic(&channel, traffic));
    CHECK(balances(6, traffic));
    int64_t columns[] = {4, 4, 2}, rows[] = {3, 3, 1};
    for (int d = 0; d < 6; d++) { /* row 1 holds rows of the tensor, and every device takes columns of it */
        int64_t kept = d < 3 ? 0 : rows[d - 3];
        CHECK(traffic[d].received == 4 * columns[d % 3] * (7 - kept));
        CHECK(traffic[d].sent == (d < 3 ? 0 : 4 * rows[d - 3] * (2 * 10 - columns[d - 3])));
    }
}

/* The next way to split two dimensions by axes of the placement, in blocks or cyclically; false: there is none. */
static bool next_split(const mth__placement *on, int axis[2], bool *cyclic) {
    do {
        if (!(*cyclic = !*cyclic) && ++axis[1] == on->naxes) {
            axis[1] = -1;
            if (++axis[0] == on->naxes) return false;
        }
    } while (axis[0] >= 0 && axis[0] == axis[1]);
    return true;
}
#define EACH_SPLIT(on, s)                                                                                              \
    for (struct {                                                                                                      \
             int axis[2];                                                                                              \
             bool cyclic, more;                                                                                        \
         } s = {{-1, -1}, false, true};                                                                                \
        s.more; s.more = next_split(on, s.axis, &s.cyclic))
static mth__sharding split_of(const mth__placement *on, mth__shape shape, const int axis[2], bool cyclic) {
    mth__sharding sharding = split_by(on, shape, SPLIT(axis[0], axis[1]));
    for (int d = 0; d < 2; d++) sharding.dim[d].cyclic = cyclic && axis[d] >= 0;
    mth__sharding_canonical(&sharding, shape);
    return sharding;
}

/* The source holds each element once, or several times; the sides share all their devices, some, or none. */
GUARDED(transfers_are_counted_as_they_move) {
    mth__mesh *mesh = MESH(arena, 2, 3);
    const mth__placement *on[] = {mth__place_whole(mesh), mth__place_slice(mesh, 0, 0), mth__place_slice(mesh, 0, 1)};
    const mth__shape shape = SHAPE(7, 4);
    int crossed = 0;
    for (int pair = 0; pair < 9; pair++) EACH_SPLIT(on[pair / 3], one) EACH_SPLIT(on[pair % 3], other) {
            one_case x = {.n = 3,
                .channel = {.kind = MTH__TRANSFER,
                    .dtype = MTH_FLOAT32,
                    .shape = shape,
                    .from = split_of(on[pair / 3], shape, one.axis, one.cyclic),
                    .to = split_of(on[pair % 3], shape, other.axis, other.cyclic),
                    .label = "case"}};
            mth__traffic counted[6] = {{0}}, moved[6] = {{0}};
            CHECK_STATUS(mth__channel_traffic(&x.channel, counted));
            count_moves(&x, parts_of(&x), moved);
            for (int d = 0; d < 6; d++) {
                CHECK(counted[d].received == moved[d].received && counted[d].sent == moved[d].sent);
                CHECK(counted[d].messages == (moved[d].received > 0));
                crossed += moved[d].sent > 0;
            }
        }
    CHECK(crossed > 1000);
}

RUN()
