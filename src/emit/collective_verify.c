/* Runs a template on sets: a slot of a rank's buffer holds the contributions of a set of ranks to one chunk. */
#include "emit/collective.h"
#include <string.h>

typedef struct { const mth__template *t; size_t words; /* of a set of ranks */ } check;
typedef struct { int *chunk; uint64_t *set; } state; /* by rank and slot; chunk -1: undefined */

static state state_new(mth__arena *arena, const check *c) {
    size_t slots = (size_t)c->t->n * (size_t)c->t->chunks;
    return (state){NEW_ARRAY(arena, int, slots), NEW_ARRAY(arena, uint64_t, slots * c->words)};
}
static size_t slot_of(const check *c, int rank, int chunk) { return (size_t)rank * (size_t)c->t->chunks + (size_t)chunk; }

static void begin(const check *c, state s) {
    const mth__template *t = c->t;
    for (int r = 0; r < t->n; r++)
        for (int k = 0; k < t->chunks; k++) {
            size_t at = slot_of(c, r, k);
            bool has = t->kind == MTH__ALL_GATHER ? k == r : t->kind == MTH__BROADCAST ? r == 0 : true;
            s.chunk[at] = has ? k : -1;
            if (has) s.set[at * c->words + (size_t)r / 64] |= (uint64_t)1 << r % 64;
        }
}

/* The ranks whose contributions slot k of rank r has in the end: all, or one of them (-1: undefined by the contract); and the chunk. */
static bool expected(const mth__template *t, int r, int k, int *chunk, int *only) {
    *chunk = k;
    *only = -1;
    switch (t->kind) {
    case MTH__REDUCE_SCATTER: return k == r;
    case MTH__ALL_GATHER: *only = k; return true;
    case MTH__BROADCAST: *only = 0; return true;
    case MTH__ALL_TO_ALL: *chunk = r; *only = k; return true;
    default: return true;
    }
}

#define BAD(...) return INTERNAL("collective %s, algorithm %s, %d ranks: " FIRST(__VA_ARGS__), mth__channel_names[c->t->kind], \
                                 mth__algorithm_names[c->t->algorithm], c->t->n, REST(__VA_ARGS__))
#define FIRST(format, ...) format
#define REST(format, ...) __VA_ARGS__

static mth_status step_check(const check *c, int rank, mth__step s, const bool *written, bool *mine, state old, state next) {
    const mth__template *t = c->t;
    if (s.peer < 0 || s.peer >= t->n || s.from_chunk < 0 || s.from_chunk >= t->chunks || s.to_chunk < 0 || s.to_chunk >= t->chunks)
        BAD("round %d of rank %d pulls chunk %d of rank %d into %d", s.round, rank, s.from_chunk, s.peer, s.to_chunk);
    size_t from = slot_of(c, s.peer, s.from_chunk), to = slot_of(c, rank, s.to_chunk);
    if (old.chunk[from] < 0) BAD("in round %d rank %d reads chunk %d of rank %d, which is undefined", s.round, rank, s.from_chunk, s.peer);
    if (!t->double_buffer && written[from])
        BAD("in round %d rank %d reads chunk %d of rank %d, which is overwritten in that round", s.round, rank, s.from_chunk, s.peer);
    if (!s.reduce) {
        if (mine[to]) BAD("in round %d rank %d writes chunk %d twice", s.round, rank, s.to_chunk);
        next.chunk[to] = old.chunk[from];
        memcpy(next.set + to * c->words, old.set + from * c->words, c->words * sizeof *next.set);
    } else {
        if (next.chunk[to] != old.chunk[from])
            BAD("in round %d rank %d adds chunk %d to chunk %d", s.round, rank, old.chunk[from], next.chunk[to]);
        for (size_t w = 0; w < c->words; w++) {
            if (next.set[to * c->words + w] & old.set[from * c->words + w])
                BAD("in round %d rank %d adds a contribution to chunk %d again", s.round, rank, s.to_chunk);
            next.set[to * c->words + w] |= old.set[from * c->words + w];
        }
    }
    mine[to] = true;
    return NULL;
}

static mth_status end_check(const check *c, state s) {
    const mth__template *t = c->t;
    for (int r = 0; r < t->n; r++)
        for (int k = 0; k < t->chunks; k++) {
            int chunk, only;
            if (!expected(t, r, k, &chunk, &only)) continue;
            size_t at = slot_of(c, r, k);
            bool right = s.chunk[at] == chunk;
            for (int q = 0; q < t->n; q++)
                right &= (s.set[at * c->words + (size_t)q / 64] >> q % 64 & 1) == (only < 0 || only == q);
            if (!right) BAD("rank %d ends with a wrong chunk %d", r, k);
        }
    return NULL;
}

mth_status mth__template_verify_steps(mth__arena *arena, const mth__template *t, mth__step *const *steps, const int *count) {
    check state_of = {t, ((size_t)t->n + 63) / 64}, *c = &state_of;
    size_t slots = (size_t)t->n * (size_t)t->chunks;
    state old = state_new(arena, c), next = state_new(arena, c);
    bool *written = NEW_ARRAY(arena, bool, slots), *mine = NEW_ARRAY(arena, bool, slots);
    int *at = NEW_ARRAY(arena, int, t->n);
    begin(c, old);
    for (int round = 0; round < t->rounds; round++) {
        memset(written, 0, slots);
        memset(mine, 0, slots);
        for (int r = 0; r < t->n; r++)
            for (int i = at[r]; i < count[r] && steps[r][i].round == round; i++) {
                if (steps[r][i].to_chunk < 0 || steps[r][i].to_chunk >= t->chunks) BAD("rank %d writes chunk %d", r, steps[r][i].to_chunk);
                written[slot_of(c, r, steps[r][i].to_chunk)] = true;
            }
        /* the second buffer begins undefined; one buffer keeps what is not written */
        for (size_t i = 0; i < slots; i++) next.chunk[i] = t->double_buffer ? -1 : old.chunk[i];
        memcpy(next.set, old.set, slots * c->words * sizeof *old.set);
        for (int r = 0; r < t->n; r++)
            for (; at[r] < count[r] && steps[r][at[r]].round == round; at[r]++)
                TRY(step_check(c, r, steps[r][at[r]], written, mine, old, next));
        state swap = old;
        old = next;
        next = swap;
    }
    for (int r = 0; r < t->n; r++)
        if (at[r] != count[r]) BAD("rank %d has steps out of the order of rounds, or after the last one (%d)", r, t->rounds);
    return end_check(c, old);
}

static mth_status verify(void *argument) {
    const mth__template *t = argument;
    mth__arena *arena = mth__arena_new();
    mth__step **steps = NEW_ARRAY(arena, mth__step *, t->n);
    int *count = NEW_ARRAY(arena, int, t->n);
    for (int r = 0; r < t->n; r++) count[r] = mth__template_steps(arena, t, r, &steps[r]);
    mth_status s = mth__template_verify_steps(arena, t, steps, count);
    mth__arena_free(arena);
    return s;
}
mth_status mth__template_verify(const mth__template *t) {
    mth__template copy = *t;
    return mth__guard(verify, &copy);
}
