/* Moves: what a device takes by the moves of a channel lies inside what its peers hold, and arrives inside its own
 * memory; where a channel is one round of copies, they fill the result. Of direct collectives nothing is looked at:
 * their boxes are what two parts have in common. */
#include "emit/verify_moves.h"
#include "emit/channels_alike.h"

static int64_t elements_of(const mth__channel *channel, mth__move_memory memory, int device) {
    if (memory == MTH__MOVE_SCRATCH)
        return mth__channel_scratch(channel, device) / (int64_t)mth_dtype_size(channel->dtype);
    const mth__sharding *sharding = memory == MTH__MOVE_OPERAND ? &channel->from : &channel->to;
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

mth_status mth__verify_device_moves(const mth__channel *channel, int device, const mth__channel_part *part) {
    int64_t filled = 0;
    const bool fills = part->rounds == 1 && channel->kind != MTH__REDUCE_SCATTER && channel->kind != MTH__ALL_REDUCE;
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
        filled = mth__size_sum(filled, mth__strided_copy_size(&move->copy));
    }
    const int64_t result = elements_of(channel, MTH__MOVE_RESULT, device);
    if (!fills || filled == result) return NULL;
    return INTERNAL("%s: device %d takes %lld elements, its result has %lld", channel->label, device, (long long)filled,
        (long long)result);
}

static bool is_looked_at(const mth__channel *channel) {
    return channel->kind == MTH__TRANSFER || channel->kind == MTH__BROADCAST || channel->algorithm != MTH__DIRECT;
}

/* On the first device of each role. */
static mth_status check_kind(const mth__program *program, const mth__channel *channel, bool *seen) {
    mth__arena *arena = mth__arena_new();
    mth__templates templates = {.arena = arena};
    const mth__placement *on = channel->to.on;
    for (size_t r = 0; r < program->role.n; r++) seen[r] = false;
    for (int i = 0; i < on->count; i++) {
        const int role = program->role_of[on->device[i]];
        if (role < 0 || seen[role]) continue;
        seen[role] = true;
        mth__channel_part part;
        TRY(mth__channel_moves(arena, &templates, channel, on->device[i], &part));
        TRY(mth__verify_device_moves(channel, on->device[i], &part));
    }
    mth__arena_free(arena);
    return mth__stop_check();
}

mth_status mth__verify_moves(mth__verification *proof) {
    mth__alike_channels *kind;
    const size_t kinds = mth__channels_alike(proof->arena, proof->program, &kind);
    bool *seen = NEW_ARRAY(proof->arena, bool, proof->program->role.n);
    for (size_t k = 0; k < kinds; k++)
        if (is_looked_at(kind[k].like)) TRY(check_kind(proof->program, kind[k].like, seen));
    return NULL;
}
