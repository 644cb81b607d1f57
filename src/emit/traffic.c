/* Channels that move alike are counted once and multiplied. */
#include "emit/traffic.h"
#include "emit/channels_alike.h"

enum { MOST_STEPS = 1 << 24 };

static bool in_groups(const mth__channel *channel) {
    return channel->kind != MTH__TRANSFER && channel->kind != MTH__BROADCAST;
}

/* What a device moves depends on its rank in the group alone. */
static bool is_uniform(const mth__channel *channel) {
    return in_groups(channel) && mth__sharding_even(channel->shape, &channel->from) &&
        mth__sharding_even(channel->shape, &channel->to);
}

/* On how many devices each element of the tensor is. */
static int64_t copies_of(const mth__channel *channel, const mth__sharding *sharding) {
    const unsigned split = mth__sharding_axes(sharding, channel->shape.rank);
    int64_t copies = 1;
    for (int axis = 0; axis < sharding->on->naxes; axis++)
        if (!(split >> axis & 1)) copies *= sharding->on->dim[axis];
    return copies;
}

/* Direct collectives are counted by formula, and transfers from devices that share nothing: their moves may be as many
 * as the pairs of devices. */
static bool by_formula(const mth__channel *channel) {
    if (channel->kind == MTH__TRANSFER) return copies_of(channel, &channel->from) == 1;
    return in_groups(channel) && channel->algorithm == MTH__DIRECT;
}

/* A bound on the boxes that a device of a transfer takes. */
static double boxes_of(const mth__channel *channel) {
    mth__shape part = mth__largest_part(channel->shape, &channel->from),
               whole = mth__largest_part(channel->shape, &channel->to);
    double boxes = 1;
    for (int d = 0; d < channel->shape.rank; d++) {
        double parts = 1, covered = part.dim[d] ? (double)whole.dim[d] / (double)part.dim[d] + 2 : 1;
        for (int i = 0; i < channel->from.dim[d].naxes; i++)
            parts *= channel->from.on->dim[channel->from.dim[d].axis[i]];
        boxes *= covered < parts && !channel->from.dim[d].cyclic ? covered : parts;
    }
    return boxes;
}

/* A bound on the steps that counting one kind takes. */
static double steps_of(const mth__channel *channel) {
    double n = mth__channel_size(channel), devices = is_uniform(channel) ? n : channel->to.on->count;
    if (channel->kind == MTH__TRANSFER)
        return by_formula(channel) ? devices + channel->from.on->count : devices * boxes_of(channel);
    if (channel->algorithm == MTH__DIRECT) return devices * (channel->kind == MTH__BROADCAST ? 1 : 4);
    return devices * 2 * n * (channel->kind == MTH__ALL_TO_ALL ? n : 1);
}

static int64_t elements_of(const mth__channel *channel, const mth__sharding *sharding, int device) {
    return mth__shape_size(mth__local_shape(channel->shape, sharding, sharding->on->rank_of[device], NULL, NULL));
}

/* What a device's part of the operand and its part of the result have in common. */
static int64_t staying(const mth__channel *channel, int device) {
    mth__area from = mth__area_local(channel->shape, &channel->from, device),
              to = mth__area_local(channel->shape, &channel->to, device), box;
    return mth__area_intersect(&from, &to, &box) ? mth__area_size(&box) : 0;
}

/* Of a direct collective: what the moves of a device's group come to, for that device. */
static mth__traffic direct_traffic(const mth__channel *channel, int device) {
    const int64_t element = (int64_t)mth_dtype_size(channel->dtype), others = mth__channel_size(channel) - 1,
                  operand = elements_of(channel, &channel->from, device),
                  result = elements_of(channel, &channel->to, device);
    int64_t received, sent;
    switch (channel->kind) {
    case MTH__ALL_REDUCE: { /* others' terms of its own part, and their parts; each of them likewise */
        int64_t start, own;
        mth__chunk_range(result, (int)others + 1, mth__channel_group(channel, device, NULL), &start, &own);
        received = sent = mth__size_sum(mth__size_product(others, own), result - own);
        break;
    }
    case MTH__REDUCE_SCATTER:
        received = mth__size_product(others, result);
        sent = operand - result;
        break;
    case MTH__ALL_GATHER:
        received = result - operand;
        sent = mth__size_product(others, operand);
        break;
    default: { /* all_to_all: all but the box that stays */
        const int64_t stays = staying(channel, device);
        received = result - stays;
        sent = operand - stays;
    }
    }
    return (mth__traffic){mth__size_product(received, element), mth__size_product(sent, element), received > 0};
}

/* Of a transfer whose source holds each element once: a device gives its part to all that take it, but itself. */
static mth__traffic transfer_traffic(const mth__channel *channel, int device) {
    const int64_t element = (int64_t)mth_dtype_size(channel->dtype);
    const bool gives = channel->from.on->rank_of[device] >= 0, takes = channel->to.on->rank_of[device] >= 0;
    const int64_t stays = gives && takes ? staying(channel, device) : 0,
                  received = takes ? elements_of(channel, &channel->to, device) - stays : 0,
                  all = gives
        ? mth__size_product(elements_of(channel, &channel->from, device), copies_of(channel, &channel->to))
        : 0;
    return (mth__traffic){mth__size_product(received, element), mth__size_product(all - stays, element), received > 0};
}

static void add_traffic(mth__traffic *sum, mth__traffic more, int64_t times) {
    sum->received = mth__size_sum(sum->received, mth__size_product(more.received, times));
    sum->sent = mth__size_sum(sum->sent, mth__size_product(more.sent, times));
    sum->messages += more.messages * times;
}

/* The moves of one device: what it receives, and at the index of each peer (its rank, else its id) what that sends. */
static mth_status add_moves(mth__templates *templates, const mth__channel *channel, int device, bool by_rank, int at,
    int64_t times, mth__traffic *all) {
    mth__arena *arena = mth__arena_new();
    mth__channel_part part;
    TRY(mth__channel_moves(arena, templates, channel, device, &part));
    int64_t received = 0;
    for (int i = 0; i < part.count; i++) {
        const mth__channel_move *move = &part.move[i];
        if (move->peer == device) continue;
        const int64_t bytes = mth__channel_move_bytes(channel, move);
        received = mth__size_sum(received, bytes);
        add_traffic(&all[by_rank ? move->peer_rank : move->peer], (mth__traffic){.sent = bytes}, times);
    }
    add_traffic(&all[at], (mth__traffic){.received = received, .messages = received > 0}, times);
    mth__arena_free(arena);
    return NULL;
}

/* Of a uniform channel: by rank in the first group. */
static mth_status group_traffic(mth__templates *templates, const mth__channel *channel, mth__traffic **by_rank) {
    mth__arena *arena = templates->arena;
    const int n = mth__channel_size(channel);
    int32_t *member = NEW_ARRAY(arena, int32_t, n);
    *by_rank = NEW_ARRAY(arena, mth__traffic, n);
    mth__channel_group(channel, channel->from.on->device[0], member);
    for (int rank = 0; rank < n; rank++) {
        if (by_formula(channel))
            (*by_rank)[rank] = direct_traffic(channel, member[rank]);
        else
            TRY(add_moves(templates, channel, member[rank], true, rank, 1, *by_rank));
    }
    return NULL;
}

static mth_status count_of(
    mth__templates *templates, const mth__channel *channel, int64_t times, mth__traffic *by_device) {
    mth__traffic *one = NULL;
    const mth__placement *on = channel->to.on;
    if (is_uniform(channel)) {
        TRY(group_traffic(templates, channel, &one));
        for (int i = 0; i < on->count; i++)
            add_traffic(&by_device[on->device[i]], one[mth__channel_group(channel, on->device[i], NULL)], times);
        return NULL;
    }
    if (by_formula(channel) && channel->kind == MTH__TRANSFER) {
        const mth__placement *from = channel->from.on;
        for (int i = 0; i < on->count; i++)
            add_traffic(&by_device[on->device[i]], transfer_traffic(channel, on->device[i]), times);
        for (int i = 0; i < from->count; i++)
            if (on->rank_of[from->device[i]] < 0)
                add_traffic(&by_device[from->device[i]], transfer_traffic(channel, from->device[i]), times);
        return NULL;
    }
    if (by_formula(channel)) {
        for (int i = 0; i < on->count; i++)
            add_traffic(&by_device[on->device[i]], direct_traffic(channel, on->device[i]), times);
        return NULL;
    }
    for (int i = 0; i < on->count; i++)
        TRY(add_moves(templates, channel, on->device[i], false, on->device[i], times, by_device));
    return NULL;
}
static mth_status count(const mth__channel *channel, int64_t times, mth__traffic *by_device) {
    mth__arena *arena = mth__arena_new(); /* of the template, which all devices share */
    TRY(count_of(&(mth__templates){.arena = arena}, channel, times, by_device));
    mth__arena_free(arena);
    return NULL;
}

mth_status mth__channel_traffic(const mth__channel *channel, mth__traffic *by_device) {
    return count(channel, 1, by_device);
}

mth_status mth__program_traffic(const mth__program *program, mth__traffic *by_device, bool *counted) {
    mth__arena *arena = mth__arena_new();
    mth__alike_channels *kind;
    const size_t kinds = mth__channels_alike(arena, program, &kind);
    double steps = 0;
    for (size_t k = 0; k < kinds; k++) steps += steps_of(kind[k].like);
    const bool counts = !counted || steps <= MOST_STEPS;
    for (size_t k = 0; k < kinds && counts; k++) TRY(count(kind[k].like, kind[k].times, by_device));
    if (counted) *counted = counts;
    mth__arena_free(arena);
    return NULL;
}
