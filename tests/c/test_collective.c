/* Templates of collectives: proved on sets, run on numbers, counted in bytes, refused when mutated. */
#include "emit/collective.h"
#include "guarded.h"

enum { LARGEST = 17 };

#define EACH_TEMPLATE(t)                                                                                               \
    for (int kind_ = 0; kind_ < MTH__TRANSFER; kind_++)                                                                \
        for (int algorithm_ = 0; algorithm_ < MTH__ALGORITHMS; algorithm_++)                                           \
            for (int n_ = 1; n_ <= LARGEST; n_++)                                                                      \
                for (mth__template t = mth__template_get((mth__channel_kind)kind_, (mth__algorithm)algorithm_, n_),    \
                                   *once_ = &t;                                                                        \
                    once_; once_ = NULL)

TEST(templates_verify) {
    EACH_TEMPLATE(t) CHECK_STATUS(mth__template_verify(&t));
    int large[] = {24, 31, 32, 33, 36, 48, 60, 63, 64, 65, 97, 100, 128, 256};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        for (int kind = 0; kind < MTH__TRANSFER; kind++)
            for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++) {
                /* n^3 steps */
                if (kind == MTH__ALL_TO_ALL && algorithm == MTH__RING && large[i] > 65) continue;
                mth__template t = mth__template_get((mth__channel_kind)kind, (mth__algorithm)algorithm, large[i]);
                CHECK_STATUS(mth__template_verify(&t));
            }
}

static int64_t received(mth__arena *arena, const mth__template *t, int rank) { /* chunks from other ranks */
    mth__step *step;
    int count = mth__template_steps(arena, t, rank, &step);
    int64_t n = 0;
    for (int i = 0; i < count; i++) n += step[i].peer != rank;
    return n;
}
static int ceil_log2(int n) {
    int l = 0;
    while (1 << l < n) l++;
    return l;
}

GUARDED(bytes_and_rounds_match_the_formulas) {
    for (int n = 1; n <= LARGEST; n++) {
        struct {
            mth__channel_kind kind;
            mth__algorithm algorithm;
            int chunks, rounds;
            int64_t each;
        } want[] = {
            {MTH__ALL_REDUCE, MTH__DIRECT, n, 2, 2 * (n - 1)},
            {MTH__ALL_REDUCE, MTH__RING, n, 2 * (n - 1), 2 * (n - 1)}, /* of n chunks: 2(n-1)/n of the tensor */
            {MTH__ALL_REDUCE, MTH__HIERARCHICAL, n, -1, 2 * (n - 1)},
            {MTH__ALL_REDUCE, MTH__TREE, 1, 2 * ceil_log2(n), -1},
            {MTH__REDUCE_SCATTER, MTH__DIRECT, n, 1, n - 1},
            {MTH__REDUCE_SCATTER, MTH__RING, n, n - 1, n - 1},
            {MTH__REDUCE_SCATTER, MTH__HIERARCHICAL, n, -1, n - 1},
            {MTH__REDUCE_SCATTER, MTH__TREE, n, 2 * ceil_log2(n), -1},
            {MTH__ALL_GATHER, MTH__DIRECT, n, 1, n - 1},
            {MTH__ALL_GATHER, MTH__RING, n, n - 1, n - 1},
            {MTH__ALL_GATHER, MTH__HIERARCHICAL, n, -1, n - 1},
            {MTH__ALL_GATHER, MTH__TREE, n, 2 * ceil_log2(n), -1},
            {MTH__ALL_TO_ALL, MTH__DIRECT, n, 1, n - 1},
            {MTH__ALL_TO_ALL, MTH__RING, n, n - 1, n * (n - 1) / 2},
            {MTH__ALL_TO_ALL, MTH__TREE, n, ceil_log2(n) + 2, -1},
            {MTH__BROADCAST, MTH__DIRECT, 1, 1, -1},
            {MTH__BROADCAST, MTH__RING, n, 2 * n - 2, -1},
            {MTH__BROADCAST, MTH__TREE, 1, ceil_log2(n), -1},
        };
        for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
            mth__template t = mth__template_get(want[i].kind, want[i].algorithm, n);
            CHECK(t.chunks == want[i].chunks);
            CHECK(want[i].rounds < 0 || t.rounds == want[i].rounds);
            for (int r = 0; r < n && want[i].each >= 0; r++) CHECK(received(a, &t, r) == want[i].each);
            for (int r = 0; r < n && want[i].kind == MTH__BROADCAST; r++)
                CHECK(received(a, &t, r) == (r ? t.chunks : 0));
        }
        mth__template tree = mth__template_get(MTH__ALL_REDUCE, MTH__TREE, n);
        int64_t total = 0;
        for (int r = 0; r < n; r++) total += received(a, &tree, r);
        CHECK(total == 2 * (n - 1)); /* whole tensors, over all ranks */
    }
    mth__template square = mth__template_get(MTH__ALL_REDUCE, MTH__HIERARCHICAL, 12);
    CHECK(square.rounds == 2 * (3 - 1) + 2 * (4 - 1));
}

/* Runs a template on numbers: rank r's chunk c begins as value(r, c) where it has one. */
static double value(int rank, int chunk) { return 1000.0 * (rank + 1) + chunk; }
GUARDED(numbers_come_out_right) {
    EACH_TEMPLATE(t) {
        int n = t.n, chunks = t.chunks;
        size_t slots = (size_t)(n * chunks);
        double *now = NEW_ARRAY(a, double, slots), *next = NEW_ARRAY(a, double, slots);
        mth__step **step = NEW_ARRAY(a, mth__step *, n);
        mth__box_name **box = NEW_ARRAY(a, mth__box_name *, n);
        int *count = NEW_ARRAY(a, int, n);
        for (int r = 0; r < n; r++) {
            count[r] = mth__template_steps(a, &t, r, &step[r]);
            for (int c = 0; c < chunks; c++) now[r * chunks + c] = value(r, c);
        }
        if (t.kind == MTH__ALL_TO_ALL) mth__template_trace(a, &t, step, count, box);
        for (int round = 0; round < t.rounds; round++) {
            for (size_t i = 0; i < slots; i++) next[i] = now[i];
            for (int r = 0; r < n; r++)
                for (int i = 0; i < count[r]; i++) {
                    mth__step s = step[r][i];
                    if (s.round != round) continue;
                    double *to = &next[r * chunks + s.to_chunk], from = now[s.peer * chunks + s.from_chunk];
                    *to = s.reduce ? *to + from : from;
                    if (t.kind == MTH__ALL_TO_ALL) CHECK(from == value(box[r][i].origin, box[r][i].destination));
                }
            double *swap = now;
            now = next;
            next = swap;
        }
        for (int r = 0; r < n; r++)
            for (int c = 0; c < chunks; c++) {
                double sum = 0;
                for (int q = 0; q < n; q++) sum += value(q, c);
                double got = now[r * chunks + c];
                if (t.kind == MTH__ALL_REDUCE || (t.kind == MTH__REDUCE_SCATTER && r == c)) CHECK(got == sum);
                if (t.kind == MTH__ALL_GATHER) CHECK(got == value(c, c));
                if (t.kind == MTH__ALL_TO_ALL) CHECK(got == value(c, r));
                if (t.kind == MTH__BROADCAST) CHECK(got == value(0, c));
            }
    }
}

GUARDED(mutants_are_refused) {
    static const char *const texts[] = {
        "undefined", "overwritten", "again", "twice", "ends with a wrong chunk", "adds chunk"};
    int seen[6] = {0}, mutants = 0;
    for (int kind = 0; kind < MTH__TRANSFER; kind++)
        for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++) {
            mth__template t = mth__template_get((mth__channel_kind)kind, (mth__algorithm)algorithm, 4);
            mth__step *step[4];
            int count[4];
            for (int r = 0; r < 4; r++) count[r] = mth__template_steps(a, &t, r, &step[r]);
            for (int r = 0; r < 4; r++)
                for (int i = 0; i < count[r]; i++)
                    for (int mutation = 0; mutation < 4; mutation++) {
                        mth__step kept = step[r][i];
                        mth__step *s = &step[r][i];
                        if (mutation == 0) s->peer = (int16_t)((s->peer + 1) % 4);
                        if (mutation == 1) s->from_chunk = (int16_t)((s->from_chunk + 1) % t.chunks);
                        if (mutation == 2) s->to_chunk = (int16_t)((s->to_chunk + 1) % t.chunks);
                        if (mutation == 3) s->reduce = !s->reduce;
                        if (t.chunks == 1 && (mutation == 1 || mutation == 2)) continue;
                        mutants++;
                        mth_status status = mth__template_verify_steps(a, &t, step, count);
                        /* right after all: a peer's own chunk, taken from that peer */
                        if (!status) CHECK(mutation == 0 && kind == MTH__ALL_GATHER && s->from_chunk == s->peer);
                        for (int k = 0; status && k < 6; k++)
                            seen[k] += strstr(mth_error_get_message(status), texts[k]) != NULL;
                        mth_error_free(status);
                        *s = kept;
                    }
        }
    for (int k = 0; k < 6; k++) CHECK(seen[k] > 0);
    CHECK(mutants > 500);
}

GUARDED(text_is_the_formula) {
    mth__text text = mth__text_new(a);
    mth__template ring = mth__template_get(MTH__ALL_REDUCE, MTH__RING, 4);
    mth__template_print(&text, &ring);
    char *printed = mth__text_publish(&text);
    CHECK(!strcmp(printed,
        "all_reduce ring, n = 4: 6 rounds on 4 chunks\n"
        "  rounds k = 1..n - 1: reduce chunk (r - k) mod n of rank (r - 1) mod n\n"
        "  rounds k = 1..n - 1: copy chunk (r - k + 1) mod n of rank (r - 1) mod n\n"));
    mth_text_free(printed);
    EACH_TEMPLATE(t) {
        text.n = 0;
        mth__template_print(&text, &t);
        printed = mth__text_publish(&text);
        CHECK((strstr(printed, "ring") != NULL) == (t.algorithm == MTH__RING));
        CHECK(strstr(printed, mth__algorithm_names[t.algorithm]) != NULL);
        if (getenv("UNIT_PRINT") && t.n == 6) fputs(printed, stdout);
        mth_text_free(printed);
    }
}

TEST(chunk_ranges) {
    for (int64_t elements = 0; elements < 40; elements++)
        for (int chunks = 1; chunks < 10; chunks++) {
            int64_t at = 0, start, size, first = 0;
            for (int c = 0; c < chunks; c++) {
                mth__chunk_range(elements, chunks, c, &start, &size);
                if (!c) first = size;
                CHECK(start == at && size >= 0 && size <= first);
                at += size;
            }
            CHECK(at == elements && first == (elements + chunks - 1) / chunks);
        }
    int64_t start, size;
    mth__chunk_range(INT64_MAX, 7, 6, &start, &size);
    CHECK(start + size == INT64_MAX);
}
RUN()
