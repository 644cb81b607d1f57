/* Runs a template on sets: a slot of a rank's buffer holds the contributions of a set of ranks to one chunk. */
#include "emit/collective.h"

/* What the slots hold. With one buffer it stays until it is overwritten; with two, a slot is defined where the round
 * before wrote it. */
typedef struct {
    int *chunk;    /* by rank and slot; -1: undefined */
    int *written;  /* the round that wrote it last; -1: it is there from the beginning */
    uint64_t *set; /* `words` for each */
} slots;
typedef struct {
    const mth__template *template;
    size_t words; /* of a set of ranks */
    /* as the round found them, as it leaves them; with one buffer the same: no round reads what it writes */
    slots old, next;
    /* by rank and slot: the last round that copied or added to it; a round copies to a slot only once */
    int *changed;
    int round;
} check;
enum { NEVER = -2 }; /* a round before all others; -1 stands for what is there from the beginning */

static slots slots_new(mth__arena *arena, const check *pass) {
    const size_t n = (size_t)pass->template->n * (size_t)pass->template->chunks;
    slots table = {NEW_ARRAY(arena, int, n), NEW_ARRAY(arena, int, n), NEW_ARRAY(arena, uint64_t, n * pass->words)};
    for (size_t i = 0; i < n; i++) table.chunk[i] = -1, table.written[i] = NEVER;
    return table;
}
static size_t slot_of(const check *pass, int rank, int chunk) {
    return (size_t)rank * (size_t)pass->template->chunks + (size_t)chunk;
}

static bool has_chunk(const check *pass, int chunk) { return chunk >= 0 && chunk < pass->template->chunks; }

/* The chunk that a slot holds after `round`; -1: it is undefined. */
static int chunk_after(const check *pass, const slots *table, size_t at, int round) {
    return pass->template->double_buffer && table->written[at] != round ? -1 : table->chunk[at];
}

static void begin(check *pass, mth__arena *arena) {
    const mth__template *template = pass->template;
    pass->old = slots_new(arena, pass);
    pass->next = template->double_buffer ? slots_new(arena, pass) : pass->old;
    for (int rank = 0; rank < template->n; rank++)
        for (int k = 0; k < template->chunks; k++) {
            size_t at = slot_of(pass, rank, k);
            if (template->kind == MTH__ALL_GATHER ? k != rank : template->kind == MTH__BROADCAST && rank > 0) continue;
            pass->old.chunk[at] = k;
            pass->old.written[at] = -1;
            pass->old.set[at * pass->words + (size_t)rank / 64] |= (uint64_t)1 << rank % 64;
        }
}

/* The ranks whose contributions slot k of rank r has in the end: all, or one of them (-1: undefined by the contract);
 * and the chunk. */
static bool expected(const mth__template *template, int rank, int k, int *chunk, int *only) {
    *chunk = k;
    *only = -1;
    switch (template->kind) {
    case MTH__REDUCE_SCATTER: return k == rank;
    case MTH__ALL_GATHER: *only = k; return true;
    case MTH__BROADCAST: *only = 0; return true;
    case MTH__ALL_TO_ALL:
        *chunk = rank;
        *only = k;
        return true;
    default: return true;
    }
}

#define BAD(...)                                                                                                       \
    return INTERNAL("collective %s, algorithm %s, %d ranks: " FIRST(__VA_ARGS__),                                      \
        mth__channel_names[pass->template->kind], mth__algorithm_names[pass->template->algorithm], pass->template->n,  \
        REST(__VA_ARGS__))
#define FIRST(format, ...) format
#define REST(format, ...) __VA_ARGS__

static mth_status step_check(check *pass, int rank, mth__step step) {
    const mth__template *template = pass->template;
    if (step.peer < 0 || step.peer >= template->n || !has_chunk(pass, step.from_chunk))
        BAD("round %d of rank %d pulls chunk %d of rank %d into %d", step.round, rank, step.from_chunk, step.peer,
            step.to_chunk);
    if (!has_chunk(pass, step.to_chunk)) BAD("rank %d writes chunk %d", rank, step.to_chunk);
    const size_t from = slot_of(pass, step.peer, step.from_chunk), to = slot_of(pass, rank, step.to_chunk);
    const int chunk = chunk_after(pass, &pass->old, from, pass->round - 1);
    if (chunk < 0)
        BAD("in round %d rank %d reads chunk %d of rank %d, which is undefined", step.round, rank, step.from_chunk,
            step.peer);
    if (!template->double_buffer && pass->old.written[from] == pass->round)
        BAD("in round %d rank %d reads chunk %d of rank %d, which is overwritten in that round", step.round, rank,
            step.from_chunk, step.peer);
    const uint64_t *read = pass->old.set + from * pass->words;
    uint64_t *set = pass->next.set + to * pass->words;
    if (!step.reduce) {
        if (pass->changed[to] == pass->round)
            BAD("in round %d rank %d writes chunk %d twice", step.round, rank, step.to_chunk);
        pass->next.chunk[to] = chunk;
        pass->next.written[to] = pass->round;
        for (size_t word = 0; word < pass->words; word++) set[word] = read[word]; /* one or two, mostly */
    } else {
        const int sum = chunk_after(pass, &pass->next, to, pass->round);
        if (sum != chunk) BAD("in round %d rank %d adds chunk %d to chunk %d", step.round, rank, chunk, sum);
        for (size_t word = 0; word < pass->words; word++) {
            if (set[word] & read[word])
                BAD("in round %d rank %d adds a contribution to chunk %d again", step.round, rank, step.to_chunk);
            set[word] |= read[word];
        }
    }
    pass->changed[to] = pass->round;
    return NULL;
}

/* Are the contributions those of all ranks, or of one alone? */
static bool is_set(const check *pass, const uint64_t *set, int only) {
    for (size_t word = 0; word < pass->words; word++) {
        const int n = pass->template->n - 64 * (int)word;
        uint64_t all = n >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1;
        uint64_t one = only >= 0 && (size_t)only / 64 == word ? (uint64_t)1 << only % 64 : 0;
        if (set[word] != (only < 0 ? all : one)) return false;
    }
    return true;
}

static mth_status end_check(const check *pass) {
    const mth__template *template = pass->template;
    for (int rank = 0; rank < template->n; rank++)
        for (int k = 0; k < template->chunks; k++) {
            int chunk, only;
            if (!expected(template, rank, k, &chunk, &only)) continue;
            size_t at = slot_of(pass, rank, k);
            if (chunk_after(pass, &pass->old, at, template->rounds - 1) != chunk ||
                !is_set(pass, pass->old.set + at * pass->words, only))
                BAD("rank %d ends with a wrong chunk %d", rank, k);
        }
    return NULL;
}

static check *check_new(mth__arena *arena, const mth__template *template) {
    const size_t n = (size_t)template->n * (size_t)template->chunks;
    check *pass = NEW(arena, check);
    *pass = (check){template, ((size_t)template->n + 63) / 64, .changed = NEW_ARRAY(arena, int, n)};
    begin(pass, arena);
    for (size_t i = 0; i < n; i++) pass->changed[i] = NEVER;
    return pass;
}

/* The next round, whose steps are given by rank. */
static mth_status check_round(check *pass, const mth__steps *by_rank) {
    const mth__template *template = pass->template;
    for (int rank = 0; rank < template->n && !template->double_buffer; rank++)
        for (size_t i = 0; i < by_rank[rank].n; i++) {
            const int to = by_rank[rank].at[i].to_chunk;
            if (!has_chunk(pass, to)) BAD("rank %d writes chunk %d", rank, to);
            pass->old.written[slot_of(pass, rank, to)] = pass->round;
        }
    for (int rank = 0; rank < template->n; rank++)
        for (size_t i = 0; i < by_rank[rank].n; i++) TRY(step_check(pass, rank, by_rank[rank].at[i]));
    slots swap = pass->old;
    pass->old = pass->next;
    pass->next = swap;
    pass->round++;
    return NULL;
}

mth_status mth__template_verify_steps(
    mth__arena *arena, const mth__template *template, mth__step *const *steps, const int *count) {
    check *pass = check_new(arena, template);
    mth__steps *of_round = NEW_ARRAY(arena, mth__steps, template->n);
    int *at = NEW_ARRAY(arena, int, template->n);
    while (pass->round < template->rounds) {
        for (int rank = 0; rank < template->n; rank++) {
            of_round[rank] = (mth__steps){.at = steps[rank] + at[rank]};
            for (; at[rank] < count[rank] && steps[rank][at[rank]].round == pass->round; at[rank]++) of_round[rank].n++;
        }
        TRY(check_round(pass, of_round));
    }
    for (int rank = 0; rank < template->n; rank++)
        if (at[rank] != count[rank])
            BAD("rank %d has steps out of the order of rounds, or after the last one (%d)", rank, template->rounds);
    return end_check(pass);
}

static mth_status verify(void *argument) {
    const mth__template *template = argument;
    mth__arena *arena = mth__arena_new();
    mth__step_maker *maker = mth__step_maker_new(arena, template);
    mth__steps *of_round = NEW_ARRAY(arena, mth__steps, template->n);
    check *pass = check_new(arena, template);
    mth_status status = NULL;
    while (!status && pass->round < template->rounds) {
        for (int rank = 0; rank < template->n; rank++) {
            of_round[rank].n = 0;
            mth__round_steps(arena, maker, rank, pass->round, &of_round[rank]);
        }
        status = check_round(pass, of_round);
    }
    if (!status) status = end_check(pass);
    mth__arena_free(arena);
    return status;
}
mth_status mth__template_verify(const mth__template *template) { return mth__guard(verify, (void *)template); }
