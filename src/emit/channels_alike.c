#include "emit/channels_alike.h"
#include "base/table.h"

static uint64_t hash_sharding(uint64_t hash, const mth__sharding *sharding, int rank) {
    hash = mth__hash_add(hash, (uint64_t)sharding->on->id << 16 | (uint64_t)sharding->partial << 8 | sharding->reduce);
    for (int d = 0; d < rank; d++) {
        hash = mth__hash_add(hash,
            (uint64_t)sharding->dim[d].grain << 8 | (uint64_t)sharding->dim[d].cyclic << 7 |
                (uint64_t)sharding->dim[d].naxes);
        for (int i = 0; i < sharding->dim[d].naxes; i++) hash = mth__hash_add(hash, (uint64_t)sharding->dim[d].axis[i]);
    }
    return hash;
}

static uint64_t hash_channel(const mth__channel *channel) {
    uint64_t hash = mth__hash_add(mth__hash_key(),
        (uint64_t)channel->kind << 24 | (uint64_t)channel->algorithm << 16 | (uint64_t)channel->dtype << 8 |
            channel->axes);
    for (int d = 0; d < channel->shape.rank; d++) hash = mth__hash_add(hash, (uint64_t)channel->shape.dim[d]);
    return hash_sharding(hash_sharding(hash, &channel->from, channel->shape.rank), &channel->to, channel->shape.rank);
}

static bool alike(const mth__channel *a, const mth__channel *b) {
    return a->kind == b->kind && a->algorithm == b->algorithm && a->dtype == b->dtype &&
        mth__shape_equal(a->shape, b->shape) && a->axes == b->axes && a->dim == b->dim && a->dim2 == b->dim2 &&
        mth__sharding_equal(&a->from, &b->from, a->shape.rank) && mth__sharding_equal(&a->to, &b->to, a->shape.rank);
}

typedef struct {
    const mth__alike_channels *kind;
    const mth__channel *channel;
} channel_key;

static bool is_alike(const void *key, int number) {
    const channel_key *wanted = key;
    return alike(wanted->kind[number].like, wanted->channel);
}

size_t mth__channels_alike(mth__arena *arena, const mth__program *program, mth__alike_channels **out) {
    int kinds = 0;
    mth__table table = {0}; /* of indices in `kind` */
    mth__alike_channels *kind = NEW_ARRAY(arena, mth__alike_channels, program->channel.n);
    for (size_t i = 0; i < program->channel.n; i++) {
        const mth__channel *channel = &program->channel.at[i];
        const int found =
            mth__table_add(arena, &table, hash_channel(channel), is_alike, &(channel_key){kind, channel}, kinds);
        if (found == kinds) kind[kinds++] = (mth__alike_channels){channel, 0};
        kind[found].times++;
    }
    *out = kind;
    return (size_t)kinds;
}
