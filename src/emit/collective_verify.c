/* Runs a template on sets: a slot of a rank's buffer holds the contributions of a set of ranks to one chunk. */
#include "emit/collective.h"
#include <string.h>

/* What the slots hold. With one buffer it stays until it is overwritten; with two, a slot is defined where the round
 * before wrote it. */
typedef struct {
    int *chunk;    /* by rank and slot; -1: undefined */
    int *written;  /* the round that wrote it last; -1: it is there from the beginning */
    uint64_t *set; /* `words` for each */
} slots;
typedef struct {
    const mth__template *t;
    size_t words; /* of a set of ranks */
    /* as the round found them, as it leaves them; with one buffer the same: no round reads what it writes */
    slots old, next;
    /* by rank and slot: the last round that copied or added to it; a round copies to a slot only once */
    int *changed;
    int round;
} check;
enum { NEVER = -2 }; /* a round before all others; -1 stands for what is there from the beginning */

static slots slots_new(mth__arena *arena, const check *c) {
    const size_t n = (size_t)c->t->n * (size_t)c->t->chunks;
    slots s = {NEW_ARRAY(arena, int, n), NEW_ARRAY(arena, int, n), NEW_ARRAY(arena, uint64_t, n * c->words)};
    for (size_t i = 0; i < n; i++) s.chunk[i] = -1, s.written[i] = NEVER;
    return s;
}
static size_t slot_of(const check *c, int rank, int chunk) {
    return (size_t)rank * (size_t)c->t->chunks + (size_t)chunk;
}

/* The chunk that a slot holds after `round`; -1: it is undefined. */
static int chunk_after(const check *c, const slots *s, size_t at, int round) {
    return c->t->double_buffer && s->written[at] != round ? -1 : s->chunk[at];
}

static void begin(check *c, mth__arena *arena) {
    const mth__template *t = c->t;
    c->old = slots_new(arena, c);
    c->next = t->double_buffer ? slots_new(arena, c) : c->old;
    for (int r = 0; r < t->n; r++)
        for (int k = 0; k < t->chunks; k++) {
            size_t at = slot_of(c, r, k);
            if (t->kind == MTH__ALL_GATHER ? k != r : t->kind == MTH__BROADCAST && r > 0) continue;
            c->old.chunk[at] = k;
            c->old.written[at] = -1;
            c->old.set[at * c->words + (size_t)r / 64] |= (uint64_t)1 << r % 64;
        }
}

/* The ranks whose contributions slot k of rank r has in the end: all, or one of them (-1: undefined by the contract);
 * and the chunk. */
static bool expected(const mth__template *t, int r, int k, int *chunk, int *only) {
    *chunk = k;
    *only = -1;
    switch (t->kind) {
    case MTH__REDUCE_SCATTER: return k == r;
    case MTH__ALL_GATHER: *only = k; return true;
    case MTH__BROADCAST: *only = 0; return true;
    case MTH__ALL_TO_ALL:
        *chunk = r;
        *only = k;
        return true;
    default: return true;
    }
}

#define BAD(...)                                                                                                       \
    return INTERNAL("collective %s, algorithm %s, %d ranks: " FIRST(__VA_ARGS__), mth__channel_names[c->t->kind],      \
        mth__algorithm_names[c->t->algorithm], c->t->n, REST(__VA_ARGS__))
#define FIRST(format, ...) format
#define REST(format, ...) __VA_ARGS__

static mth_status step_check(check *c, int rank, mth__step s) {
    const mth__template *t = c->t;
    if (s.peer < 0 || s.peer >= t->n || s.from_chunk < 0 || s.from_chunk >= t->chunks)
        BAD("round %d of rank %d pulls chunk %d of rank %d into %d", s.round, rank, s.from_chunk, s.peer, s.to_chunk);
    const size_t from = slot_of(c, s.peer, s.from_chunk), to = slot_of(c, rank, s.to_chunk);
    const int chunk = chunk_after(c, &c->old, from, c->round - 1);
    if (chunk < 0)
        BAD("in round %d rank %d reads chunk %d of rank %d, which is undefined", s.round, rank, s.from_chunk, s.peer);
    if (!t->double_buffer && c->old.written[from] == c->round)
        BAD("in round %d rank %d reads chunk %d of rank %d, which is overwritten in that round", s.round, rank,
            s.from_chunk, s.peer);
    const uint64_t *read = c->old.set + from * c->words;
    uint64_t *set = c->next.set + to * c->words;
    if (!s.reduce) {
        if (c->changed[to] == c->round) BAD("in round %d rank %d writes chunk %d twice", s.round, rank, s.to_chunk);
        c->next.chunk[to] = chunk;
        c->next.written[to] = c->round;
        memcpy(set, read, c->words * sizeof *set);
    } else {
        const int sum = chunk_after(c, &c->next, to, c->round);
        if (sum != chunk) BAD("in round %d rank %d adds chunk %d to chunk %d", s.round, rank, chunk, sum);
        for (size_t w = 0; w < c->words; w++) {
            if (set[w] & read[w])
                BAD("in round %d rank %d adds a contribution to chunk %d again", s.round, rank, s.to_chunk);
            set[w] |= read[w];
        }
    }
    c->changed[to] = c->round;
    return NULL;
}

/* Are the contributions those of all ranks, or of one alone? */
static bool is_set(const check *c, const uint64_t *set, int only) {
    for (size_t w = 0; w < c->words; w++) {
        const int n = c->t->n - 64 * (int)w;
        uint64_t all = n >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1;
        uint64_t one = only >= 0 && (size_t)only / 64 == w ? (uint64_t)1 << only % 64 : 0;
        if (set[w] != (only < 0 ? all : one)) return false;
    }
    return true;
}

static mth_status end_check(const check *c) {
    const mth__template *t = c->t;
    for (int r = 0; r < t->n; r++)
        for (int k = 0; k < t->chunks; k++) {
            int chunk, only;
            if (!expected(t, r, k, &chunk, &only)) continue;
            size_t at = slot_of(c, r, k);
            if (chunk_after(c, &c->old, at, t->rounds - 1) != chunk || !is_set(c, c->old.set + at * c->words, only))
                BAD("rank %d ends with a wrong chunk %d", r, k);
        }
    return NULL;
}

mth_status mth__template_verify_steps(
    mth__arena *arena, const mth__template *t, mth__step *const *steps, const int *count) {
    const size_t n = (size_t)t->n * (size_t)t->chunks;
    check state = {t, ((size_t)t->n + 63) / 64, .changed = NEW_ARRAY(arena, int, n)}, *c = &state;
    int *at = NEW_ARRAY(arena, int, t->n);
    begin(c, arena);
    for (size_t i = 0; i < n; i++) c->changed[i] = NEVER;
    for (; c->round < t->rounds; c->round++) {
        for (int r = 0; r < t->n; r++)
            for (int i = at[r]; i < count[r] && steps[r][i].round == c->round; i++) {
                const int to = steps[r][i].to_chunk;
                if (to < 0 || to >= t->chunks) BAD("rank %d writes chunk %d", r, to);
                if (!t->double_buffer) c->old.written[slot_of(c, r, to)] = c->round;
            }
        for (int r = 0; r < t->n; r++)
            for (; at[r] < count[r] && steps[r][at[r]].round == c->round; at[r]++)
                TRY(step_check(c, r, steps[r][at[r]]));
        slots swap = c->old;
        c->old = c->next;
        c->next = swap;
    }
    for (int r = 0; r < t->n; r++)
        if (at[r] != count[r])
            BAD("rank %d has steps out of the order of rounds, or after the last one (%d)", r, t->rounds);
    return end_check(c);
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
mth_status mth__template_verify(const mth__template *t) { return mth__guard(verify, (void *)t); }
