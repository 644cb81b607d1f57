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
    EACH_TEMPLATE(template) CHECK_STATUS(mth__template_verify(&template));
    int large[] = {24, 31, 32, 33, 36, 48, 60, 63, 64, 65, 97, 100, 128, 256};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        for (int kind = 0; kind < MTH__TRANSFER; kind++)
            for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++) {
                /* n^3 steps */
                if (kind == MTH__ALL_TO_ALL && algorithm == MTH__RING && large[i] > 65) continue;
                mth__template template =
                    mth__template_get((mth__channel_kind)kind, (mth__algorithm)algorithm, large[i]);
                CHECK_STATUS(mth__template_verify(&template));
            }
}

static int64_t received(mth__arena *scratch, const mth__template *template, int rank) { /* chunks from other ranks */
    mth__step *step;
    int count = mth__template_steps(scratch, template, rank, &step);
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
            mth__template template = mth__template_get(want[i].kind, want[i].algorithm, n);
            CHECK(template.chunks == want[i].chunks);
            CHECK(want[i].rounds < 0 || template.rounds == want[i].rounds);
            for (int rank = 0; rank < n && want[i].each >= 0; rank++)
                CHECK(received(arena, &template, rank) == want[i].each);
            for (int rank = 0; rank < n && want[i].kind == MTH__BROADCAST; rank++)
                CHECK(received(arena, &template, rank) == (rank ? template.chunks : 0));
        }
        mth__template tree = mth__template_get(MTH__ALL_REDUCE, MTH__TREE, n);
        int64_t total = 0;
        for (int rank = 0; rank < n; rank++) total += received(arena, &tree, rank);
        CHECK(total == 2 * (n - 1)); /* whole tensors, over all ranks */
    }
    mth__template square = mth__template_get(MTH__ALL_REDUCE, MTH__HIERARCHICAL, 12);
    CHECK(square.rounds == 2 * (3 - 1) + 2 * (4 - 1));
}

/* Runs a template on numbers: rank r's chunk c begins as value(r, c) where it has one. */
static double value(int rank, int chunk) { return 1000.0 * (rank + 1) + chunk; }
GUARDED(numbers_come_out_right) {
    EACH_TEMPLATE(template) {
        int n = template.n, chunks = template.chunks;
        size_t slots = (size_t)(n * chunks);
        double *now = NEW_ARRAY(arena, double, slots), *next = NEW_ARRAY(arena, double, slots);
        mth__step **step = NEW_ARRAY(arena, mth__step *, n);
        mth__box_name **box = NEW_ARRAY(arena, mth__box_name *, n);
        int *count = NEW_ARRAY(arena, int, n);
        for (int rank = 0; rank < n; rank++) {
            count[rank] = mth__template_steps(arena, &template, rank, &step[rank]);
            for (int c = 0; c < chunks; c++) now[rank * chunks + c] = value(rank, c);
        }
        if (template.kind == MTH__ALL_TO_ALL) mth__template_trace(arena, &template, step, count, box);
        for (int round = 0; round < template.rounds; round++) {
            for (size_t i = 0; i < slots; i++) next[i] = now[i];
            for (int rank = 0; rank < n; rank++)
                for (int i = 0; i < count[rank]; i++) {
                    mth__step s = step[rank][i];
                    if (s.round != round) continue;
                    double *to = &next[rank * chunks + s.to_chunk], from = now[s.peer * chunks + s.from_chunk];
                    *to = s.reduce ? *to + from : from;
                    if (template.kind == MTH__ALL_TO_ALL)
                        CHECK(from == value(box[rank][i].origin, box[rank][i].destination));
                }
            double *swap = now;
            now = next;
            next = swap;
        }
        for (int rank = 0; rank < n; rank++)
            for (int c = 0; c < chunks; c++) {
                double sum = 0;
                for (int q = 0; q < n; q++) sum += value(q, c);
                double got = now[rank * chunks + c];
                if (template.kind == MTH__ALL_REDUCE || (template.kind == MTH__REDUCE_SCATTER && rank == c))
                    CHECK(got == sum);
                if (template.kind == MTH__ALL_GATHER) CHECK(got == value(c, c));
                if (template.kind == MTH__ALL_TO_ALL) CHECK(got == value(c, rank));
                if (template.kind == MTH__BROADCAST) CHECK(got == value(0, c));
            }
    }
}

GUARDED(mutants_are_refused) {
    static const char *const texts[] = {
        "undefined", "overwritten", "again", "twice", "ends with a wrong chunk", "adds chunk"};
    int seen[6] = {0}, mutants = 0;
    for (int kind = 0; kind < MTH__TRANSFER; kind++)
        for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++) {
            mth__template template = mth__template_get((mth__channel_kind)kind, (mth__algorithm)algorithm, 4);
            mth__step *step[4];
            int count[4];
            for (int r = 0; r < 4; r++) count[r] = mth__template_steps(arena, &template, r, &step[r]);
            for (int r = 0; r < 4; r++)
                for (int i = 0; i < count[r]; i++)
                    for (int mutation = 0; mutation < 4; mutation++) {
                        mth__step kept = step[r][i];
                        mth__step *s = &step[r][i];
                        if (mutation == 0) s->peer = (int16_t)((s->peer + 1) % 4);
                        if (mutation == 1) s->from_chunk = (int16_t)((s->from_chunk + 1) % template.chunks);
                        if (mutation == 2) s->to_chunk = (int16_t)((s->to_chunk + 1) % template.chunks);
                        if (mutation == 3) s->reduce = !s->reduce;
                        if (template.chunks == 1 && (mutation == 1 || mutation == 2)) continue;
                        mutants++;
                        mth_status status = mth__template_verify_steps(arena, &template, step, count);
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
    mth__text text = mth__text_new(arena);
    mth__template ring = mth__template_get(MTH__ALL_REDUCE, MTH__RING, 4);
    mth__template_print(&text, &ring);
    char *printed = mth__text_publish(&text);
    CHECK(!strcmp(printed,
        "all_reduce ring, n = 4: 6 rounds on 4 chunks\n"
        "  rounds k = 1..n - 1: reduce chunk (r - k) mod n of rank (r - 1) mod n\n"
        "  rounds k = 1..n - 1: copy chunk (r - k + 1) mod n of rank (r - 1) mod n\n"));
    mth_text_free(printed);
    EACH_TEMPLATE(template) {
        text.n = 0;
        mth__template_print(&text, &template);
        printed = mth__text_publish(&text);
        CHECK((strstr(printed, "ring") != NULL) == (template.algorithm == MTH__RING));
        CHECK(strstr(printed, mth__algorithm_names[template.algorithm]) != NULL);
        if (getenv("UNIT_PRINT") && template.n == 6) fputs(printed, stdout);
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
