/* Moves: what a device takes by the moves of a channel lies inside what its peers hold and arrives inside its own
 * memory; each element arrives where the device holds that same element of the tensor; and of a direct channel the
 * copies fill the result, and each peer's term is added once. That is looked at on the first device of each role, but
 * of direct collectives for no more than MTH__MOST_MOVE_LOOKS moves of a plan: devices that have a role each would have
 * as many as devices squared. For all devices it follows from the cuts of the channel (verify_cuts.c) and, of named
 * algorithms, from the proof of their templates. */
#include "emit/verify_moves.h"
#include "emit/channels_alike.h"

static const mth__sharding *sharding_of(const mth__channel *channel, mth__move_memory memory) {
    return memory == MTH__MOVE_RESULT ? &channel->to : &channel->from;
}

static int64_t elements_of(const mth__channel *channel, mth__move_memory memory, int device) {
    if (memory == MTH__MOVE_SCRATCH)
        return mth__channel_scratch(channel, device) / (int64_t)mth_dtype_size(channel->dtype);
    const mth__sharding *sharding = sharding_of(channel, memory);
    const int rank = sharding->on->rank_of[device];
    return rank < 0 ? 0 : mth__shape_size(mth__local_shape(channel->shape, sharding, rank, NULL, NULL));
}

/* Do the elements first, first + stride, ... lie in a memory of so many? */
static bool lies_inside(const mth__strided_copy *copy, int64_t first, const int64_t *stride, int64_t elements) {
    int64_t last = first;
    for (int d = 0; d < copy->rank; d++) {
        if (copy->size[d] < 1 || stride[d] < 0) return false;
        last = mth__size_sum(last, mth__size_product(copy->size[d] - 1, stride[d]));
    }
    return first >= 0 && last < elements;
}

/* ---------------------------------------------------------------- the same elements on both sides */
/* The scratch of an all_to_all holds boxes in slots, no part of the tensor. */
static bool holds_a_part(const mth__channel *channel, mth__move_memory memory) {
    return memory != MTH__MOVE_SCRATCH || channel->kind == MTH__REDUCE_SCATTER;
}

/* Element `at` of the part that the device holds, by its place in the whole tensor. */
static int64_t global_place(const mth__channel *channel, const mth__area *part, int64_t at) {
    int64_t place = 0, row = 1;
    for (int d = part->rank - 1; d >= 0; d--) {
        const mth__extent held = part->dim[d];
        place += (held.start + at % held.size * held.step) * row;
        at /= held.size;
        row *= channel->shape.dim[d];
    }
    return place;
}

/* Looks at the first element and at the last one along each dimension of the copy, which settle the others. */
static bool keeps_places(const mth__channel *channel, int device, const mth__channel_move *move) {
    if (!holds_a_part(channel, move->from) || !holds_a_part(channel, move->to)) return true;
    const mth__area from = mth__area_local(channel->shape, sharding_of(channel, move->from), move->peer),
                    to = mth__area_local(channel->shape, sharding_of(channel, move->to), device);
    const mth__strided_copy *copy = &move->copy;
    for (int d = -1; d < copy->rank; d++) {
        const int64_t steps = d < 0 ? 0 : copy->size[d] - 1;
        if (global_place(channel, &from, copy->from + (d < 0 ? 0 : steps * copy->from_stride[d])) !=
            global_place(channel, &to, copy->to + (d < 0 ? 0 : steps * copy->to_stride[d])))
            return false;
    }
    return true;
}

/* ---------------------------------------------------------------- one device */
/* Of a direct channel: elements that are copied; moves that reduce, and the least that one of them brings. */
typedef struct {
    int64_t copied, least;
    int terms, last_peer; /* rank of the last peer that gave a term */
    bool in_order;        /* each of these ranks is above the one before: none gives twice */
} taking;

static void count(taking *so_far, const mth__channel_move *move) {
    const int64_t size = mth__strided_copy_size(&move->copy);
    if (!move->reduce) {
        so_far->copied = mth__size_sum(so_far->copied, size);
        return;
    }
    so_far->in_order &= move->peer_rank > so_far->last_peer;
    so_far->last_peer = move->peer_rank;
    so_far->least = so_far->terms++ && so_far->least < size ? so_far->least : size;
}

/* What a rank reduces of every peer: its result, or its chunk of it. */
static int64_t reduced_part(const mth__channel *channel, int device, int64_t result) {
    int64_t start, size = result;
    if (channel->kind == MTH__ALL_REDUCE)
        mth__chunk_range(result, mth__channel_size(channel), mth__channel_group(channel, device, NULL), &start, &size);
    return size;
}

static mth_status check_taking(const mth__channel *channel, int device, const taking *all) {
    const int64_t result = elements_of(channel, MTH__MOVE_RESULT, device);
    if (all->copied != result)
        return INTERNAL("%s: device %d takes %lld elements, its result has %lld", channel->label, device,
            (long long)all->copied, (long long)result);
    const bool reduces = channel->kind == MTH__ALL_REDUCE || channel->kind == MTH__REDUCE_SCATTER;
    const int64_t part = reduces ? reduced_part(channel, device, result) : 0;
    const int terms = part ? mth__channel_size(channel) - 1 : 0;
    if (all->terms != terms || !all->in_order || (terms && all->least != part))
        return INTERNAL("%s: device %d reduces %d terms of its %d peers", channel->label, device, all->terms, terms);
    return NULL;
}

mth_status mth__verify_device_moves(const mth__channel *channel, int device, const mth__channel_part *part) {
    taking all = {.last_peer = -1, .in_order = true};
    for (int i = 0; i < part->count; i++) {
        const mth__channel_move *move = &part->move[i];
        if (move->round < 0 || move->round >= part->rounds || (i && move->round < part->move[i - 1].round))
            return INTERNAL("%s: move %d of device %d is in round %d", channel->label, i, device, move->round);
        if (!lies_inside(
                &move->copy, move->copy.from, move->copy.from_stride, elements_of(channel, move->from, move->peer)))
            return INTERNAL(
                "%s: move %d of device %d reads what device %d does not hold", channel->label, i, device, move->peer);
        if (!lies_inside(&move->copy, move->copy.to, move->copy.to_stride, elements_of(channel, move->to, device)))
            return INTERNAL("%s: move %d of device %d writes outside its memory", channel->label, i, device);
        if (!keeps_places(channel, device, move))
            return INTERNAL("%s: move %d of device %d brings other elements of device %d than belong there",
                channel->label, i, device, move->peer);
        count(&all, move);
    }
    return channel->algorithm == MTH__DIRECT ? check_taking(channel, device, &all) : NULL;
}

/* ---------------------------------------------------------------- all channels */
/* How many moves a device has by a direct collective. */
static int64_t direct_moves(const mth__channel *channel) {
    if (channel->kind >= MTH__BROADCAST || channel->algorithm != MTH__DIRECT) return 0;
    return (int64_t)mth__channel_size(channel) * (channel->kind == MTH__ALL_REDUCE ? 2 : 1);
}

/* On the first device of each role; by direct collectives until enough moves were looked at. */
static mth_status check_kind(mth__verification *proof, const mth__channel *channel, bool *seen) {
    const mth__program *program = proof->program;
    mth__arena *arena = mth__arena_new();
    mth__templates templates = {.arena = arena};
    const mth__placement *on = channel->to.on;
    for (size_t role_number = 0; role_number < program->role.n; role_number++) seen[role_number] = false;
    const int64_t moves = direct_moves(channel);
    for (int i = 0; i < on->count && proof->moves + moves <= MTH__MOST_MOVE_LOOKS; i++) {
        const int reader = program->role_of[on->device[i]];
        if (reader < 0 || seen[reader]) continue;
        seen[reader] = true;
        mth__channel_part part;
        TRY(mth__channel_moves(arena, &templates, channel, on->device[i], &part));
        TRY(mth__verify_device_moves(channel, on->device[i], &part));
        proof->moves += moves;
    }
    mth__arena_free(arena);
    return mth__stop_check();
}

mth_status mth__verify_moves(mth__verification *proof) {
    mth__alike_channels *kind;
    const size_t kinds = mth__channels_alike(proof->arena, proof->program, &kind);
    bool *seen = NEW_ARRAY(proof->arena, bool, proof->program->role.n);
    for (size_t k = 0; k < kinds; k++) {
        TRY(mth__verify_cuts(proof, kind[k].like));
        TRY(check_kind(proof, kind[k].like, seen));
    }
    return NULL;
}
