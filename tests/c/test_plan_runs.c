/* Plans spoilt by number, line and shape: whatever verifies runs, on each engine that runs programs as they
 * are, without a fault. */
#include "plain_verify.h"
#include "random_plan.h"
#include "pick.h"
#include "run_program.h"
#include "guarded.h"

enum { MOST_RUN = 1 << 20 };
static bool is_digit(char character) { return character >= '0' && character <= '9'; }

/* A copy of the text in which s[from, to) is `word`. */
static char *replace(const char *s, size_t from, size_t to, const char *word) {
    return mth__format(arena, "%.*s%s%s", (int)from, s, word, s + to);
}

/* Another number for one of the text's. */
static char *spoil_number(char *s) {
    static const char *const wild[] = {
        "0", "0", "0", "1", "2", "3", "4", "8", "64", "128", "2147483648", "1099511627776", "4611686018427387904"};
    size_t n = strlen(s), at = (size_t)pick(n), end;
    while (at < n && !is_digit(s[at])) at++;
    while (at > 0 && is_digit(s[at - 1])) at--;
    for (end = at; end < n && is_digit(s[end]);) end++;
    return end > at ? replace(s, at, end, wild[pick(sizeof wild / sizeof *wild)]) : s;
}

/* All shapes that begin with the number of one of them begin with 0: values without elements. */
static char *empty_shapes(char *s) {
    size_t n = strlen(s), at = (size_t)pick(n), length = 0;
    while (at < n && s[at] != '[') at++;
    while (at + 1 + length < n && is_digit(s[at + 1 + length])) length++;
    if (at >= n || length == 0) return s;
    char *number = mth__format(arena, "%.*s", (int)length, s + at + 1), *out = s;
    for (size_t i = 0; out[i]; i++) {
        bool begins =
            (out[i] == '[' || out[i] == ',') && !strncmp(out + i + 1, number, length) && !is_digit(out[i + 1 + length]);
        if (begins) out = replace(out, i + 1, i + 1 + length, "0");
    }
    return out;
}

static char *spoil_line(char *s) { /* dropped, or doubled */
    size_t n = strlen(s), at = (size_t)pick(n), end;
    while (at > 0 && s[at - 1] != '\n') at--;
    end = at + strcspn(s + at, "\n");
    end += s[end] == '\n';
    return pick(2) ? replace(s, at, end, "")
                   : replace(s, end, end, mth__format(arena, "%.*s", (int)(end - at), s + at));
}

/* A place in the slab becomes one in an exit, or a place in an exit one in another. */
static char *spoil_place(char *s) {
    char *slab = strstr(s + pick(strlen(s)), " at slab+");
    if (!slab) return s;
    size_t at = (size_t)(slab - s), end = at + strlen(" at slab+");
    while (is_digit(s[end])) end++;
    static const char *const places[] = {" at exit 0+0", " at exit 1+0", " at exit 2+0", " at slab+0", " at exit 0"};
    return replace(s, at, end, places[pick(sizeof places / sizeof *places)]);
}

/* Runs it where it is right and small; counts what ran. */
static void run_text(const char *text, unsigned seed, int *ran) {
    static const mth__engine_vtable *const engines[] = {
        &mth__engine_native, &mth__engine_reference, &mth__engine_torch};
    mth__program *program = NULL;
    mth_status status = mth__program_parse(arena, text, &program);
    if (!status) status = mth__program_verify(program);
    if (!status && program_weight(program) <= MOST_RUN) {
        const char *fault = plain_verify(arena, program, seed);
        CHECK(fault == NULL);
        if (fault) printf("%s\n%s\n", fault, text);
        for (size_t k = 0; k < sizeof engines / sizeof *engines && !fault; k++) {
            status = run_program(arena, engines[k], program);
            if (status && mth_error_get_code(status) == MTH_ERROR_IO) SKIP("%s", mth_error_get_what(status));
            bool wrong = status && mth_error_get_code(status) == MTH_ERROR_INTERNAL;
            CHECK(!wrong);
            if (wrong) printf("seed %u, %s: %s\n%s\n", seed, engines[k]->name, mth_error_get_message(status), text);
            mth_error_free(status);
            status = NULL;
        }
        ++*ran;
    }
    mth_error_free(status);
}

/* What follows from the other lines of a plan is left out. */
static char *without_comments(const char *text) {
    const char *end = strstr(text, "\n#");
    return mth__format(arena, "%.*s\n", end ? (int)(end - text) : (int)strlen(text), text);
}

static void run_spoilt(const char *text, unsigned seed, int times, int *ran) {
    char *(*const spoil[])(char *) = {spoil_number, empty_shapes, spoil_line, spoil_place};
    state = seed;
    for (int k = 0; k < times; k++) {
        char *s = without_comments(text);
        for (int changes = 1 + pick(3); changes > 0 && *s; changes--) s = spoil[pick(4)](s);
        run_text(s, seed, ran);
    }
}

static unsigned rounds(unsigned usual) {
    const char *said = getenv("ROUNDS");
    return said ? (unsigned)atoi(said) : usual;
}

GUARDED(what_verifies_runs) {
    mth__arena *outer = arena;
    const unsigned plans = rounds(60);
    int ran = 0, untouched = 0;
    for (unsigned seed = 0; seed < plans && unit_failures < 3; seed++) {
        arena = mth__arena_new();
        mth__emit_options options = random_emit_options(seed);
        const char *text = plan_text(emit_plan(random_graph(arena, seed), &options));
        run_text(text, seed, &untouched);
        run_spoilt(text, seed, 24, &ran);
        mth__arena_free(arena);
    }
    arena = outer;
    CHECK(untouched == (int)plans);
    CHECK(ran > (int)plans);
    if (getenv("SHOW")) printf("%d of %u spoilt plans ran\n", ran, 24 * plans);
}

static const char *read_whole(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = NEW_ARRAY(arena, char, 1 << 17);
    if (file) text[fread(text, 1, (1 << 17) - 1, file)] = 0;
    if (file) fclose(file);
    return text;
}

/* What a text says of ids is not proved: an id of nothing is an error of the run. */
GUARDED(choices_of_no_expert_are_errors) {
    static const char *const lines[] = {
        "  0  k: i32[4,2] (None, None) on p0 at slab+0, d: i32[1] (None,) on p0 at slab+64 = "
        "moe_capacity e capacity=2 experts=1\n",
        "  0  g: f32[4,1] (None, None) on p0 at slab+0 = moe_route_grad w, e, w experts=1\n"};
    for (int k = 0; k < 2; k++) {
        static const char head[] =
            "program\nmesh (1,)\nplacement p0 whole\nentry 0 input e: i32[4,2] (None, None) on p0\n"
            "entry 1 input w: f32[4,2] (None, None) on p0\nrole 0 devices 0 slab 128\n"
            "  e: i32[4,2] (None, None) on p0 at entry 0\n  w: f32[4,2] (None, None) on p0 at entry 1\n";
        const char *text = mth__format(arena, "%s%s", head, lines[k]);
        mth__program *program = NULL;
        CHECK_STATUS(mth__program_parse(arena, text, &program));
        if (!program) break;
        CHECK_STATUS(mth__program_verify(program));
        CHECK_FAILS(run_program(arena, &mth__engine_native, program), MTH_ERROR_VALUE, "expert 1 is outside [0, 1)");
        CHECK_FAILS(run_program(arena, &mth__engine_reference, program), MTH_ERROR_VALUE, "expert 1 is outside [0, 1)");
    }
}

/* Plans of models: attention, experts, pipelines, vocabularies; and a step of training that no pass makes. */
GUARDED(what_verifies_of_models_runs) {
    static const char *const names[] = {"training_step", "own_storage", "1f1b", "data_and_tensor",
        "device_per_operator", "experts", "experts_of_sharded_tokens", "gpipe", "interleaved", "overlap", "ring",
        "tensor_parallel_uneven", "transformer_block", "two_dimensions", "vocabulary"};
    enum { NAMES = sizeof names / sizeof *names };
    mth__arena *outer = arena;
    int ran = 0, untouched = 0;
    for (unsigned i = 0; i < NAMES && unit_failures < 3; i++) {
        arena = mth__arena_new();
        const char *path = i < 2 ? "fuzz/corpus_plan_text/%s" : "tests/golden/plans/%s.txt";
        const char *text = read_whole(mth__format(arena, path, names[i]));
        run_text(text, i, &untouched);
        run_spoilt(text, i, (int)rounds(60), &ran);
        mth__arena_free(arena);
    }
    arena = outer;
    CHECK(untouched == NAMES);
    CHECK(ran > NAMES);
    if (getenv("SHOW")) printf("%d spoilt plans of models ran\n", ran);
}
RUN()
