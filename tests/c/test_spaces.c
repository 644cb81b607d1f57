/* Programs that no pass makes yet: copies between spaces, states and scalars as entries, successors as exits, storage
 * that is the engine's own. As texts and at random; verified, and run on the engines that take them. */
#include "engine/engine.h"
#include "mithril.h"
#include "observe/report.h"
#include "offloads.h"
#include "plain_verify.h"
#include "random_plan.h"
#include "run_program.h"
#include "guarded.h"

/* A step of training on two devices: h = x w goes to the host while y = h^2 is made, and comes back for
 * dw = (x^2)' y + x' h, summed over the devices; m += dw; w -= rate m. */
#define HEAD                                                                                                           \
    "program\nmesh (2,)\nplacement p0 whole\nentry 0 input x: f32[4,2] (0, None) on p0\n"                              \
    "entry 1 parameter w: f32[2,3] (None, None) on p0\nentry 2 state m: f32[2,3] (None, None) on p0\n"                 \
    "entry 3 scalar rate: f32[] () on p0\nexit 0 output y: f32[4,3] (0, None) on p0\n"                                 \
    "exit 1 successor of 1 w: f32[2,3] (None, None) on p0\nexit 2 successor of 2 m: f32[2,3] (None, None) on p0\n"     \
    "channel c0 all_reduce direct f32[2,3] (None, None) partial sum over 0 on p0 to (None, None) on p0 over 0 \"m: "   \
    "all_reduce\"\nrole 0 devices 0, 1 slab 192 host 64\n  x: f32[2,2] of [4,2] (0, None) on p0 at entry 0\n"          \
    "  w: f32[2,3] (None, None) on p0 at entry 1\n  m: f32[2,3] (None, None) on p0 at entry 2\n"                       \
    "  rate: f32[] () on p0 at entry 3\n"
#define ROWS "f32[2,3] of [4,3] (0, None) on p0"
#define WEIGHT "f32[2,3] (None, None) on p0"
#define PARTIAL "f32[2,3] (None, None) partial sum over 0 on p0"
static const char step[] =
    HEAD "  0  h: " ROWS " at slab+0 = contract x, w spec=\"bi,io->bo\" @linear_0\n"
         "  1  h~host: " ROWS " at host+0 = start offload h @linear_0\n"
         "  2  y: " ROWS " at exit 0 = square h @linear_0\n"
         "  3  wait for h~host @linear_0\n"
         "  4  t: f32[2,2] of [4,2] (0, None) on p0 at slab+0 = square x @linear_0 backward\n"
         "  5  first: " PARTIAL " at slab+64 = contract t, y spec=\"bi,bo->io\" @linear_0 backward\n"
         "  6  h~back: " ROWS " at slab+0 = start reload h~host @linear_0 backward\n"
         "  7  wait for h~back @linear_0 backward\n"
         "  8  dw: " PARTIAL " at slab+64 = contract x, h~back into first spec=\"bi,bo->io\" @linear_0 backward\n"
         "  9  g: " WEIGHT " at slab+128 = start all_reduce direct c0 dw @linear_0 backward\n"
         "  10  wait c0 @linear_0 backward\n"
         "  11  m~next: " WEIGHT " at exit 2 = add m, g @linear_0 update\n"
         "  12  change: " WEIGHT " at slab+0 = mul m~next, rate @linear_0 update\n"
         "  13  w~next: " WEIGHT " at exit 1 = sub w, change @linear_0 update\n";

/* The text with `from` replaced, which must be there. */
static const char *with(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    CHECK(at != NULL);
    if (!at) return text;
    return mth__format(arena, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

static mth__program *parse(const char *text) {
    mth__program *program = NULL;
    CHECK_STATUS(mth__program_parse(arena, text, &program));
    return program;
}

/* ---------------------------------------------------------------- runs */
typedef struct {
    const mth__engine_vtable *vt;
    mth__engine *engine;
    mth__executable *x;
    mth__buffer *entry[16], *exit[16];
} session;

static mth_status load(session *s, const mth__engine_vtable *vt, const mth__program *program) {
    s->vt = vt;
    TRY(open_engine(vt, program->mesh, &s->engine));
    return vt->load(s->engine, program, NULL, &s->x);
}
static void give(session *s, int entry, int devices, int device, int n, const float *data) {
    mth__buffer **buffer = &s->entry[entry * devices + device];
    CHECK_STATUS(s->vt->memory.new(s->engine, device, n * 4, buffer));
    CHECK_STATUS(s->vt->memory.write(*buffer, 0, data, n * 4));
}
static void close_session(session *s) {
    let_go(s->vt, s->entry, 16);
    let_go(s->vt, s->exit, 16);
    if (s->x) s->vt->unload(s->x);
    s->vt->close(s->engine);
}
static bool same(session *s, int exit, int device, int n, const double *want) {
    float got[16];
    CHECK_STATUS(s->vt->memory.read(s->exit[exit * 2 + device], 0, got, n * 4));
    for (int i = 0; i < n; i++)
        if (got[i] != (float)want[i]) return false;
    return true;
}

static const mth__engine_vtable *const engines[] = {&mth__engine_native, &mth__engine_reference};

/* By the formulas, in double; small integers, so that all is exact. */
static void expect(
    const float x[4][2], const float *w, const float *m, double rate, double y[4][3], double *next_m, double *next_w) {
    double h[4][3];
    for (int b = 0; b < 4; b++)
        for (int operand = 0; operand < 3; operand++) {
            h[b][operand] = x[b][0] * w[operand] + x[b][1] * w[3 + operand];
            y[b][operand] = h[b][operand] * h[b][operand];
        }
    for (int i = 0; i < 2; i++)
        for (int operand = 0; operand < 3; operand++) {
            double dw = 0;
            for (int b = 0; b < 4; b++) dw += x[b][i] * x[b][i] * y[b][operand] + x[b][i] * h[b][operand];
            next_m[i * 3 + operand] = m[i * 3 + operand] + dw;
            next_w[i * 3 + operand] = w[i * 3 + operand] - rate * next_m[i * 3 + operand];
        }
}

static void run_step(const mth__engine_vtable *vt, const char *text) {
    static const float x[4][2] = {{1, 2}, {-1, 3}, {2, -2}, {0, 1}}, w[6] = {1, -1, 2, 0, 1, -2},
                       m[6] = {5, 4, 3, 2, 1, 0}, rate = 0.5f;
    double y[4][3], next_m[6], next_w[6];
    mth__program *program = parse(text);
    session s = {0};
    CHECK_STATUS(mth__program_verify(program));
    CHECK_STATUS(load(&s, vt, program));
    for (int d = 0; d < 2; d++) {
        give(&s, 0, 2, d, 4, x[2 * d]);
        give(&s, 1, 2, d, 6, w);
        give(&s, 2, 2, d, 6, m);
        give(&s, 3, 2, d, 1, &rate);
    }
    expect(x, w, m, rate, y, next_m, next_w);
    CHECK_STATUS(vt->run(s.x, s.entry, s.exit, NULL));
    for (int d = 0; d < 2; d++) {
        CHECK(same(&s, 0, d, 6, y[2 * d]) && same(&s, 1, d, 6, next_w) && same(&s, 2, d, 6, next_m));
        CHECK(s.exit[1 * 2 + d] == s.entry[1 * 2 + d] && s.exit[2 * 2 + d] == s.entry[2 * 2 + d]); /* its bytes */
    }
    close_session(&s);
}

GUARDED(a_step_of_training_runs) {
    const char *fault = plain_verify(arena, parse(step), 1);
    CHECK(fault == NULL);
    if (fault) puts(fault);
    CHECK(!strcmp(mth__format(arena, "%.*s", (int)strlen(step), plan_text(parse(step))), step));
    for (int k = 0; k < 2; k++) run_step(engines[k], step);
}

/* The same with what the engine allocates in place of the slabs, on both sides, sums included; and with copies that
 * return when they are done. */
GUARDED(what_is_the_engines_own_needs_no_offset) {
    const char *own = step;
    static const char *const moved[][2] = {{"slab 192 host 64", "slab 0"},
        {"h: " ROWS " at slab+0", "h: " ROWS " at own"}, {"at host+0", "at own host"},
        {"on p0 at slab+0 = square", "on p0 at own = square"}, {"at slab+64", "at own"}, {"at slab+64", "at own"},
        {"at slab+0 = start reload", "at own = start reload"}, {"at slab+128", "at own"},
        {"at slab+0 = mul", "at own = mul"}};
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) own = with(own, moved[i][0], moved[i][1]);
    for (int k = 0; k < 2; k++) run_step(engines[k], own);
    const mth__program *program = parse(own);
    /* t or h~back, first or dw, and g: 24 bytes each but t's 16. At most two live: t is over when h~back begins. */
    CHECK(mth__own_peak(program, &program->role.at[0], MTH__DEVICE, false) == 48 &&
        mth__own_peak(program, &program->role.at[0], MTH__HOST, false) == 24);
    const char *now = with(with(step, "start offload", "offload"), "start reload", "reload");
    now = with(with(now, "  3  wait for h~host @linear_0\n", ""), "  7  wait for h~back @linear_0 backward\n", "");
    for (int i = 4, n = 3; i < 14; i++)
        if (i != 7) now = with(now, mth__format(arena, "\n  %d  ", i), mth__format(arena, "\n  %d  ", n++));
    for (int k = 0; k < 2; k++) run_step(engines[k], now);
}

GUARDED(offsets_are_found_in_each_space) {
    const char *text = with(step, "slab 192 host 64", "slab 0");
    static const char *const lost[] = {
        "slab+0", "host+0", "slab+0", "slab+64", "slab+0", "slab+64", "slab+128", "slab+0"};
    for (size_t i = 0; i < sizeof lost / sizeof *lost; i++)
        text = with(text, lost[i], lost[i][0] == 'h' ? "host" : "slab");
    mth__program *program = parse(text);
    CHECK_FAILS(mth__program_verify(program), MTH_ERROR_VALUE, "h, at -1 of the slab");
    CHECK_STATUS(mth__emit_memory(program, 1));
    CHECK(program->role.at[0].slab[MTH__DEVICE] == 128 && program->role.at[0].slab[MTH__HOST] == 64);
    for (int k = 0; k < 2; k++) run_step(engines[k], plan_text(program));
}

/* A successor has its entry's bytes; what is in the host's pool is no part of the device's total. */
GUARDED(reports_count_each_space) {
    mth_memory_usage usage[2];
    CHECK_STATUS(mth__report_memory(parse(step), false, NULL, NULL, NULL, usage));
    for (int d = 0; d < 2; d++) {
        CHECK(usage[d].weights == 24 && usage[d].optimizer == 24 && usage[d].gradients == 0 && usage[d].host == 64);
        CHECK(usage[d].activations == 16 + 4 + 24 + 192 && usage[d].total == 24 + 24 + usage[d].activations);
    }
}

GUARDED(xla_refuses_by_name_what_it_lacks) {
    mth__executable *executable;
    CHECK_FAILS(mth__engine_pjrt.load(NULL, parse(step), NULL, &executable), MTH_ERROR_UNSUPPORTED,
        "XLA's engine gives no exit the bytes of an entry, and exit 1, w, is the successor of entry 1");
    const char *copies = with(with(step, "successor of 1 w", "output w"), "successor of 2 m", "output m");
    CHECK_FAILS(mth__engine_pjrt.load(NULL, parse(copies), NULL, &executable), MTH_ERROR_UNSUPPORTED,
        "linear_0: XLA's engine has no memory in the host's pool, and h is copied there or back");
}

/* ---------------------------------------------------------------- refusals */
GUARDED(what_breaks_the_rules_is_refused_by_name) {
    static const char last[] = "w~next: " WEIGHT " at exit 1 = sub w, change @linear_0 update\n";
    static const struct {
        const char *from, *to, *why;
    } all[] = {
        /* successors */
        {last, "w~next: " WEIGHT " at exit 1 = sub w, change @linear_0\n  14  z: " WEIGHT " at slab+0 = exp w @late\n",
            "instruction 13, sub: w~next is the successor of entry 1, w, and is written while that is still read, "
            "until instruction 14"},
        {"w~next: " WEIGHT " at exit 1 = sub w, change", "w~next: " WEIGHT " at exit 1 = softmax w dimension=1",
            "is written while that is still read"},
        {"m~next: " WEIGHT " at exit 2 = add m, g", "m~next: " WEIGHT " at exit 1 = add m, g", "written while that"},
        {"g: " WEIGHT " at slab+128", "g: " WEIGHT " at exit 1+0", "g lies in exit 1, a successor, whose bytes"},
        {"exit 2 successor of 2 m", "exit 2 successor of 1 m", "exits 1 and 2 are both the successor of entry 1, w"},
        {"entry 1 parameter w", "entry 1 input w", "the successor of entry 1, w, which is the caller's to keep"},
        {"exit 1 successor of 1 w: f32[2,3]", "exit 1 successor of 1 w: f32[3,2]", "is not what entry 1, w, is"},
        {"scalar rate: f32[] ()", "scalar rate: f32[1] (None,)", "entry 3, rate, is a scalar and has 1 dimensions"},
        /* copies */
        {"  3  wait for h~host @linear_0\n", "  3  z: " ROWS " at slab+64 = exp y @late\n",
            "start reload: reads h~host, which is started and not waited for"},
        {"  7  wait for h~back @linear_0 backward\n", "  7  z: " ROWS " at slab+128 = exp y @late\n",
            "contract: reads h~back, which is started and not waited for"},
        {"  3  wait for h~host @linear_0\n", "  3  wait for h~host @linear_0\n  4  wait for h~host @linear_0\n",
            "waits for what was not started or sent here, or is waited for already"},
        {"  2  y: ", "  2  z~host: f32[2,2] of [4,2] (0, None) on p0 at host+0 = offload x @late\n  3  y: ",
            "offload: z~host overlaps h~host, which lives until instruction"},
        {"host 64", "host 0", "h~host, at 0 of the host's pool, is not aligned to 64 or not inside its 0 bytes"},
        {"  2  y: " ROWS " at exit 0 = square h @linear_0\n",
            "  2  y: " ROWS " at exit 0 = square h @linear_0\n  3  early: f32[2,2] of [4,2] (0, None) on p0 at "
            "slab+0 = square x @early\n",
            "early overlaps h, which lives until instruction"},
        {"contract x, h~back into", "contract x, h~host into", "h~host lies in the host's pool, where only copies"},
        {"h~host: " ROWS " at host+0 = start offload h @", "h~host: " ROWS " at host+0 = start offload w @",
            "h~host is not what w is"},
        {"start reload h~host", "start reload y", "h~back lies in the same space as y"},
        /* streams */
        {"start offload h", "start on 1 offload h",
            "start offload: stands on stream 1, which communicates, where it would be one that copies between spaces"},
        {"start all_reduce", "start on 2 all_reduce",
            "stands on stream 2, which copies between spaces, where it would be one that communicates"},
        {"square x", "start on 2 square x",
            "stands on stream 2, which copies between spaces, where it would be one "
            "that computes"},
        {"square x", "start square x", "square is started on no stream"},
        {"offload h", "reload h", "reload needs one result, which lies in the device's memory"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *text = with(step, all[i].from, all[i].to), *at = strstr(all[i].to, "\n  ");
        /* instructions behind one that was added are counted on */
        int more = 0;
        for (const char *c = all[i].from; *c; c++) more -= *c == '\n';
        for (const char *c = all[i].to; *c; c++) more += *c == '\n';
        for (int n = 13; more && at && n > 0; n--) {
            const char *line = mth__format(arena, "\n  %d  ", n), *found = strstr(text, line), *second;
            second = found ? strstr(found + 1, line) : NULL;
            if (second || (found && found > strstr(text, all[i].to) + strlen(all[i].to) - 2)) {
                if (second) found = second;
                text = mth__format(arena, "%.*s\n  %d  %s", (int)(found - text), text, n + 1, found + strlen(line));
            }
        }
        CHECK_FAILS(mth_plan_verify_text(text), MTH_ERROR_VALUE, all[i].why);
    }
}

/* ---------------------------------------------------------------- at random */
static mth__program *random_offloads(unsigned seed, int *made) {
    mth__emit_options options = random_emit_options(seed);
    mth__program *program = NULL;
    mth__graph *graph = random_graph(arena, seed);
    CHECK_STATUS(mth__emit(arena, graph, &options, &program));
    *made += add_offloads(arena, program, seed);
    CHECK_STATUS(mth__emit_memory(program, 1));
    return program;
}

GUARDED(random_offloads_verify_and_run) {
    mth__arena *outer = arena;
    int made = 0, ran = 0;
    for (unsigned seed = 0; seed < 200 && unit_failures < 3; seed++) {
        arena = mth__arena_new();
        const mth__program *program = random_offloads(seed, &made);
        const char *text = plan_text(program), *fault;
        mth__program *again = parse(text);
        CHECK(!strcmp(plan_text(again), text));
        const int before = unit_failures;
        CHECK_STATUS(mth__program_verify(again));
        fault = plain_verify(arena, again, seed);
        CHECK(fault == NULL);
        for (int k = 0; k < 2 && seed % 4 == 0; k++, ran++) CHECK_STATUS(run_program(arena, engines[k], again));
        if (unit_failures > before) printf("seed %u: %s\n%s\n", seed, fault ? fault : "", text);
        mth__arena_free(arena);
    }
    arena = outer;
    CHECK(made > 200 && ran == 100);
    if (getenv("SHOW")) printf("%d values went to the host and back\n", made);
}

static bool is_copy(const mth__instr *instruction) { return instruction->kind == MTH__COPY; }
static bool is_copy_wait(const mth__instr *instruction) {
    return instruction->kind == MTH__WAIT && instruction->channel < 0;
}
static bool is_started(const mth__instr *instruction) { return mth__is_started(instruction); }
static int find(const mth__role *role, bool (*kind)(const mth__instr *)) {
    for (int tries = 0; role->instr.n && tries < 40; tries++) {
        const int i = pick(role->instr.n);
        if (kind(&role->instr.at[i])) return i;
    }
    return -1;
}
static bool drop_instr(mth__role *role, int i) {
    if (i < 0) return false;
    memmove(&role->instr.at[i], &role->instr.at[i + 1], (role->instr.n - (size_t)i - 1) * sizeof *role->instr.at);
    role->instr.n--;
    return true;
}
static bool lose_copy_wait(mth__role *role) { return drop_instr(role, find(role, is_copy_wait)); }
static bool lose_copy(mth__role *role) { return drop_instr(role, find(role, is_copy)); }
static bool other_stream(mth__role *role) {
    const int i = find(role, is_started);
    if (i < 0) return false;
    role->instr.at[i].stream = 3 - role->instr.at[i].stream;
    return true;
}
static bool begin_later(mth__role *role) { /* a copy behind its WAIT */
    const int wait = find(role, is_copy_wait);
    for (int i = 0; i < wait; i++)
        if (is_copy(&role->instr.at[i]) && role->instr.at[i].out[0] == role->instr.at[wait].awaited) {
            mth__instr instruction = role->instr.at[i];
            role->instr.at[i] = role->instr.at[wait];
            role->instr.at[wait] = instruction;
            return true;
        }
    return false;
}
static bool move_in_host(mth__role *role) {
    int host[2] = {-1, -1};
    for (int tries = 0; tries < 80; tries++) {
        const int number = pick(role->value.n);
        if (role->value.at[number].storage == MTH__IN_SLAB && role->value.at[number].space == MTH__HOST &&
            role->value.at[number].bytes)
            host[tries % 2] = number;
    }
    if (host[0] < 0 || host[1] < 0 || role->value.at[host[0]].offset == role->value.at[host[1]].offset ||
        role->value.at[host[1]].offset + role->value.at[host[0]].bytes > role->slab[MTH__HOST])
        return false;
    role->value.at[host[0]].offset = role->value.at[host[1]].offset;
    return true;
}
static bool bring_nowhere(mth__role *role) { /* a copy within the device's memory */
    const int i = find(role, is_copy);
    if (i < 0 || role->value.at[role->instr.at[i].out[0]].space != MTH__HOST) return false;
    role->value.at[role->instr.at[i].out[0]].space = MTH__DEVICE;
    role->slab[MTH__DEVICE] += role->slab[MTH__HOST];
    return true;
}
static bool shrink_host(mth__role *role) {
    if (!role->slab[MTH__HOST]) return false;
    role->slab[MTH__HOST] -= 64;
    return true;
}

static const struct {
    const char *name;
    bool (*change)(mth__role *);
    bool certain;
} mutations[] = {{"lose_copy_wait", lose_copy_wait, true}, {"lose_copy", lose_copy, true},
    {"other_stream", other_stream, true}, {"begin_later", begin_later, true}, {"move_in_host", move_in_host, false},
    {"bring_nowhere", bring_nowhere, true}, {"shrink_host", shrink_host, true}};
enum { MUTATIONS = sizeof mutations / sizeof *mutations };

GUARDED(mutants_with_spaces_are_refused) {
    mth__arena *outer = arena;
    int count[MUTATIONS] = {0}, refused[MUTATIONS] = {0}, made = 0;
    for (unsigned seed = 0; seed < 200 && unit_failures < 3; seed++)
        for (int m = 0; m < MUTATIONS; m++) {
            arena = mth__arena_new();
            mth__program *program = random_offloads(seed, &made);
            state = seed * 40503u + (unsigned)m;
            if (mutations[m].change(&program->role.at[pick(program->role.n)])) {
                mth_status status = mth__program_verify(program);
                const char *fault = status ? NULL : plain_verify(arena, program, seed);
                count[m]++;
                refused[m] += status != NULL;
                CHECK(status || !(mutations[m].certain || fault));
                if (!status && (mutations[m].certain || fault))
                    printf(
                        "seed %u, %s: %s\n%s\n", seed, mutations[m].name, fault ? fault : "wrong", plan_text(program));
                if (status) CHECK(strstr(mth_error_get_message(status), "role ") != NULL);
                mth_error_free(status);
            }
            mth__arena_free(arena);
        }
    arena = outer;
    for (int m = 0; m < MUTATIONS; m++) {
        CHECK(refused[m] > 10);
        if (getenv("SHOW")) printf("%-20s %4d made, %4d refused\n", mutations[m].name, count[m], refused[m]);
    }
}
RUN()
