/* What each device receives in one run. Channels that move alike are counted once and multiplied. */
#include "base/hash.h"
#include "emit/program.h"
#include <string.h>

enum { MOST_STEPS = 1 << 24 };
typedef struct {
    const mth__channel *like;
    int64_t times;
} kind_of_channel;

static uint64_t hash_sharding(uint64_t h, const mth__sharding *s, int rank) {
    h = mth__hash_add(h, (uint64_t)s->on->id << 16 | (uint64_t)s->partial << 8 | s->reduce);
    for (int d = 0; d < rank; d++) {
        h = mth__hash_add(
            h, (uint64_t)s->dim[d].grain << 8 | (uint64_t)s->dim[d].cyclic << 7 | (uint64_t)s->dim[d].naxes);
        for (int i = 0; i < s->dim[d].naxes; i++) h = mth__hash_add(h, (uint64_t)s->dim[d].axis[i]);
    }
    return h;
}

static uint64_t hash(const mth__channel *c) {
    uint64_t h = mth__hash_add(
        mth__hash_key(), (uint64_t)c->kind << 24 | (uint64_t)c->algorithm << 16 | (uint64_t)c->dtype << 8 | c->axes);
    for (int d = 0; d < c->shape.rank; d++) h = mth__hash_add(h, (uint64_t)c->shape.dim[d]);
    return hash_sharding(hash_sharding(h, &c->from, c->shape.rank), &c->to, c->shape.rank);
}

static bool alike(const mth__channel *a, const mth__channel *b) {
    return a->kind == b->kind && a->algorithm == b->algorithm && a->dtype == b->dtype &&
        mth__shape_equal(a->shape, b->shape) && a->axes == b->axes && a->dim == b->dim && a->dim2 == b->dim2 &&
        mth__sharding_equal(&a->from, &b->from, a->shape.rank) && mth__sharding_equal(&a->to, &b->to, a->shape.rank);
}

/* what a device receives depends on its rank in the group alone */
static bool is_uniform(const mth__channel *c) {
    return c->kind != MTH__TRANSFER && c->kind != MTH__BROADCAST && mth__sharding_even(c->shape, &c->from) &&
        mth__sharding_even(c->shape, &c->to);
}

/* A bound on the steps that counting one kind takes. */
static double steps(const mth__channel *c) {
    double n = mth__channel_size(c), devices = is_uniform(c) ? n : c->to.on->count;
    if (c->algorithm == MTH__DIRECT || c->kind == MTH__TRANSFER) return devices * (c->kind == MTH__BROADCAST ? 1 : 4);
    return devices * 2 * n * (c->kind == MTH__ALL_TO_ALL ? n : 1);
}

static void count(mth__arena *arena, const kind_of_channel *k, int64_t *by_device) {
    const mth__channel *c = k->like;
    const mth__placement *on = c->to.on;
    /* 1 + bytes; 0: not known yet */
    int64_t *by_rank = is_uniform(c) ? NEW_ARRAY(arena, int64_t, mth__channel_size(c)) : NULL;
    for (int i = 0; i < on->count; i++) {
        int d = on->device[i];
        int64_t bytes;
        if (by_rank) {
            int64_t *known = &by_rank[mth__channel_group(c, d, NULL)];
            if (*known == 0) *known = 1 + mth__channel_bytes(c, d);
            bytes = *known - 1;
        } else {
            bytes = mth__channel_bytes(c, d);
        }
        by_device[d] = mth__size_sum(by_device[d], mth__size_product(bytes, k->times));
    }
}

bool mth__program_received(const mth__program *p, int64_t *by_device) {
    mth__arena *arena = mth__arena_new();
    size_t room = 64, kinds = 0;
    while (room < 2 * p->channel.n) room *= 2;
    int *slot = NEW_ARRAY(arena, int, room); /* 1 + index in `kind` */
    kind_of_channel *kind = NEW_ARRAY(arena, kind_of_channel, p->channel.n);
    double work = 0;
    for (size_t i = 0; i < p->channel.n; i++) {
        const mth__channel *c = &p->channel.at[i];
        size_t at = hash(c) & (room - 1);
        while (slot[at] && !alike(kind[slot[at] - 1].like, c)) at = (at + 1) & (room - 1);
        if (!slot[at]) {
            kind[kinds] = (kind_of_channel){c, 0};
            slot[at] = (int)++kinds;
            work += steps(c);
        }
        kind[slot[at] - 1].times++;
    }
    for (size_t k = 0; k < kinds && work <= MOST_STEPS; k++) count(arena, &kind[k], by_device);
    mth__arena_free(arena);
    return work <= MOST_STEPS;
}
