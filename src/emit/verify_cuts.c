/* Cuts: on every device of a channel's placement, the parts of the finer of two splits lie in the part of the coarser
 * one, side by side, without gap or overlap, and the first of them is the largest. It follows for all devices at once
 * what a collective's moves rest on. In each dimension the parts of a group are all the same, or the finer side cuts
 * the coarser one. So what one rank has in common with another is the product of one part for each dimension; the
 * common boxes of a gather and of an all_to_all fill the result, each element once; that of a reduction is the whole
 * result, of every rank; and no box is larger than that of the first ranks, by which scratch is measured. A transfer's
 * owners cut the whole tensor, so that each element that a device takes has an owner.
 *
 * The time is that of looking at each part once, for each dimension that is cut in a way that was not met before. */
#include "base/table.h"
#include "emit/verify_moves.h"

typedef struct {
    int64_t n;
    mth__split coarse, fine;
    const mth__placement *on;
} cut_pair;
struct mth__known_cuts {
    VEC(cut_pair) pair;
    mth__table table; /* of indices in `pair` */
};

/* ---------------------------------------------------------------- one pair */
/* The next coordinates along these axes, row by row; false: that was the last. */
static bool advance(const mth__placement *on, const int8_t *axis, int axes, int *coordinate) {
    for (int i = axes - 1; i >= 0; i--) {
        if (++coordinate[axis[i]] < on->dim[axis[i]]) return true;
        coordinate[axis[i]] = 0;
    }
    return false;
}

/* Part number `number` of a cyclic split holds each k-th element. */
static bool is_cyclic_part(mth__extent part, int64_t n, int64_t number, int64_t k) {
    return part.size == 0 ||
        (part.start == number && part.step == k && mth__size_sum(number, mth__size_product(part.size - 1, k)) < n);
}

/* At the coordinates of the coarse axes: the parts of the others fill the coarse part. */
static bool fills(const cut_pair *pair, int *coordinate) {
    const mth__split *fine = &pair->fine;
    const int outer = pair->coarse.naxes, inner = fine->naxes - outer;
    const mth__extent whole = mth__split_extent(pair->n, &pair->coarse, pair->on, coordinate);
    const int64_t largest = mth__split_extent(pair->n, fine, pair->on, coordinate).size;
    int64_t at = whole.start, filled = 0, number = 0;
    if (whole.size > 1 && whole.step != 1) return false;
    do {
        const mth__extent part = mth__split_extent(pair->n, fine, pair->on, coordinate);
        if (part.size < 0 || part.size > largest) return false;
        if (fine->cyclic) {
            if (!is_cyclic_part(part, pair->n, number++, pair->on->dim[fine->axis[0]])) return false;
        } else if (part.size > 0) {
            if (part.start != at || (part.size > 1 && part.step != 1)) return false;
            at += part.size;
        }
        filled += part.size;
    } while (advance(pair->on, fine->axis + outer, inner, coordinate));
    return filled == whole.size;
}

static bool cuts(const cut_pair *pair) {
    int coordinate[MTH__AXES] = {0};
    const int outer = pair->coarse.naxes;
    if (outer > pair->fine.naxes || (pair->fine.cyclic && (outer || pair->fine.naxes != 1))) return false;
    for (int i = 0; i < outer; i++)
        if (pair->fine.axis[i] != pair->coarse.axis[i]) return false;
    do
        if (!fills(pair, coordinate)) return false;
    while (advance(pair->on, pair->fine.axis, outer, coordinate));
    return true;
}

/* ---------------------------------------------------------------- each pair once */
static uint64_t hash_split(uint64_t hash, const mth__split *split) {
    hash = mth__hash_add(hash, (uint64_t)split->grain << 8 | (uint64_t)split->cyclic << 7 | (uint64_t)split->naxes);
    for (int i = 0; i < split->naxes; i++) hash = mth__hash_add(hash, (uint64_t)split->axis[i]);
    return hash;
}

typedef struct {
    const struct mth__known_cuts *known;
    const cut_pair *wanted;
} cut_key;

static bool is_pair(const void *key, int number) {
    const cut_pair *wanted = ((const cut_key *)key)->wanted, *pair = &((const cut_key *)key)->known->pair.at[number];
    return pair->n == wanted->n && pair->on == wanted->on && mth__split_equal(&pair->coarse, &wanted->coarse) &&
        mth__split_equal(&pair->fine, &wanted->fine);
}

static int64_t parts_of(const cut_pair *pair) {
    int64_t parts = 1;
    for (int i = 0; i < pair->fine.naxes; i++) parts *= pair->on->dim[pair->fine.axis[i]];
    return parts;
}

static mth_status check_pair(mth__verification *proof, const mth__channel *channel, int d, const cut_pair *pair) {
    if (!proof->cuts) proof->cuts = NEW(proof->arena, struct mth__known_cuts);
    struct mth__known_cuts *known = proof->cuts;
    const uint64_t hash =
        hash_split(hash_split(mth__hash_add(mth__hash_add(mth__hash_key(), (uint64_t)pair->n), (uint64_t)pair->on->id),
                       &pair->coarse),
            &pair->fine);
    const int next = (int)known->pair.n;
    if (mth__table_add(proof->arena, &known->table, hash, is_pair, &(cut_key){known, pair}, next) != next) return NULL;
    PUSH(proof->arena, known->pair, *pair);
    proof->looks += parts_of(pair);
    if (proof->looks > MTH__MOST_LOOKS)
        return mth__error_operator(
            FAIL(MTH_ERROR_VALUE,
                F("the plan's channels cut dimensions in more ways than are verified: these would be more than %d "
                  "looks at single parts",
                    MTH__MOST_LOOKS),
                F("use fewer different sizes, or a smaller mesh")),
            channel->label);
    if (cuts(pair)) return NULL;
    return mth__error_operator(
        FAIL(MTH_ERROR_VALUE,
            F("%s: along dimension %d the parts of one side don't fill those of the other",
                mth__channel_names[channel->kind], d),
            F("split the dimension by the same axes on both sides, the finer one by those of the channel in addition")),
        channel->label);
}

/* ---------------------------------------------------------------- a channel */
static mth_status check_dimension(mth__verification *proof, const mth__channel *channel, int d) {
    const mth__split *from = &channel->from.dim[d], *to = &channel->to.dim[d];
    const int64_t n = channel->shape.dim[d];
    if (channel->kind >= MTH__BROADCAST) {
        TRY(check_pair(proof, channel, d, &(cut_pair){n, {0}, *from, channel->from.on}));
        return check_pair(proof, channel, d, &(cut_pair){n, {0}, *to, channel->to.on});
    }
    if (mth__split_equal(from, to)) {
        for (int i = 0; i < from->naxes; i++)
            if (channel->axes >> from->axis[i] & 1)
                return INTERNAL("%s: its axes split dimension %d on both sides", channel->label, d);
        return NULL;
    }
    const bool gathers = channel->kind == MTH__ALL_GATHER || (channel->kind == MTH__ALL_TO_ALL && d == channel->dim2);
    return check_pair(proof, channel, d,
        gathers ? &(cut_pair){n, *to, *from, channel->to.on} : &(cut_pair){n, *from, *to, channel->from.on});
}

mth_status mth__verify_cuts(mth__verification *proof, const mth__channel *channel) {
    for (int d = 0; d < channel->shape.rank; d++) TRY(check_dimension(proof, channel, d));
    return NULL;
}
