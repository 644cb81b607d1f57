/* What grows with the input: the depth of recursion is bounded, and time and memory grow in proportion. Times are of
 * the process's own CPU, the best of several runs, and a four times larger input may take eight times as long. */
#include "unit.h"
#include "compile.h"
#include "compose/model.h"
#include "emit/ranges.h"
#include "engine/native/kernel.h"
#include "engine/native/native.h"
#include "engine/pjrt/segment.h"
#include <malloc.h>
#include <pthread.h>
#include <time.h>

/* ---- in a thread with little stack: as docs/limits.md asks, and more under a sanitizer, whose frames are
 * larger */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { LEAST_STACK = 1024 << 10 };
#else
enum { LEAST_STACK = 256 << 10 };
#endif
static void *run_body(void *body) {
    ((void (*)(void))body)();
    return NULL;
}
static void on_small_stack(size_t bytes, void (*body)(void)) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstacksize(&attributes, bytes) == 0);
    CHECK(pthread_create(&thread, &attributes, run_body, (void *)body) == 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
}

/* ---- ranges */
enum { RANGES = 20000 };
typedef struct {
    uint32_t key;
    int at;
} ranked;
static int by_key(const void *x, const void *y) {
    uint32_t p = ((const ranked *)x)->key, q = ((const ranked *)y)->key;
    return (p > q) - (p < q);
}
/* The k-th start of an order: up, down, from both ends, and that of a well-known generator's numbers, which a tree
   balanced by them would be a path for. */
static void make_order(int kind, int *order) {
    ranked *rank = calloc(RANGES, sizeof *rank);
    uint32_t state = 2463534242u;
    for (int k = 0; k < RANGES; k++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        rank[k] = (ranked){state, k};
        order[k] = kind == 0 ? k : kind == 1 ? RANGES - 1 - k : k % 2 ? RANGES - 1 - k / 2 : k / 2;
    }
    if (kind == 3) qsort(rank, RANGES, sizeof *rank, by_key);
    for (int k = 0; k < RANGES && kind == 3; k++) order[rank[k].at] = k;
    free(rank);
}

static mth_status ranges_in_an_order(void *kind) {
    mth__arena *arena = mth__arena_new();
    mth__ranges ranges = mth__ranges_new(arena);
    int *order = NEW_ARRAY(arena, int, RANGES);
    make_order(*(int *)kind, order);
    for (int k = 0; k < RANGES; k++) mth__ranges_insert(&ranges, 64 * (int64_t)order[k], 1 + order[k] % 60, order[k]);
    CHECK(ranges.node.at[ranges.root].height <= 21); /* 1.44 log2(20002) */
    for (int k = 0; k < RANGES; k += 7) {
        const mth__range *range = mth__ranges_overlapping(&ranges, 64 * (int64_t)k, 64);
        CHECK(range && range->tag == k);
        CHECK(!mth__ranges_overlapping(&ranges, 64 * (int64_t)k + 60, 4));
    }
    const mth__range *fit = mth__ranges_fit(&ranges, 60);
    CHECK(fit && fit->start == 64 * 59);
    for (int k = 0; k < RANGES; k += 2) mth__ranges_erase(&ranges, 64 * (int64_t)order[k]);
    for (int k = 0; k < RANGES; k++)
        CHECK(!mth__ranges_overlapping(&ranges, 64 * (int64_t)order[k], 64) == (k % 2 == 0));
    CHECK(ranges.node.at[ranges.root].height <= 20);
    mth__arena_free(arena);
    return NULL;
}
static void all_orders(void) {
    for (int kind = 0; kind < 4; kind++) CHECK_STATUS(mth__guard(ranges_in_an_order, &kind));
}
TEST(ranges_are_flat_whatever_their_order) { on_small_stack(512 << 10, all_orders); }

/* ---- models in models */
static mth_module *module(const char *type, const mth_option *option, size_t n) {
    mth_module *m = NULL;
    CHECK_STATUS(mth_module_create(type, option, n, &m));
    return m;
}
static void add(
    mth_model *to, const char *type, const mth_option *option, size_t n, const mth_wire *wire, size_t wires) {
    mth_module *m = module(type, option, n);
    CHECK_STATUS(mth_model_add(to, m, wire, wires, MTH_CHAIN));
    mth_module_free(m);
}
static mth_model *wrapped(mth_model *sub) {
    mth_model *model = NULL;
    CHECK_STATUS(mth_model_create(&model));
    if (sub)
        CHECK_STATUS(mth_model_add_model(model, sub, NULL, NULL, 0, MTH_CHAIN));
    else
        add(model, "Relu", NULL, 0, MTH_WIRES({"input", "input"}, {"output", "output"}));
    mth_model_free(sub);
    return model;
}

static mth_backend *open_backend(int64_t devices) {
    mth_backend *backend = NULL;
    CHECK_STATUS(mth_backend_create(
        "native", MTH_OPTIONS({"device_mesh", MTH_INTS(devices)}, {"threads", mth_int(1)}), &backend));
    return backend;
}

static void evaluate_relu(const mth_model *model) {
    static const float given[4] = {-1, 2, -3, 4}, wanted[4] = {0, 2, 0, 4};
    mth_backend *backend = open_backend(1);
    mth_compiled *compiled = NULL;
    mth_array *array = NULL;
    mth_arrays *arrays = NULL, *slopes = NULL;
    float out[4] = {7};
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &compiled));
    CHECK_STATUS(mth_array_from_data(backend, MTH_FLOAT32, 2, (int64_t[]){1, 4}, given, NULL, &array));
    const char *of = "input";
    CHECK_STATUS(mth_evaluate(compiled, NULL, (mth_named[]){{"input", array}}, 1,
        &(mth_gradient_request){.input_gradients = &of, .input_gradient_count = 1}, &arrays, &slopes));
    CHECK_STATUS(mth_array_gather(mth_arrays_get(arrays, 0).array, out));
    CHECK(!memcmp(out, wanted, sizeof out));
    mth_arrays_free(arrays);
    mth_arrays_free(slopes);
    mth_array_free(array);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
}

static void nest(void) {
    mth_model *model = wrapped(NULL), *more = NULL, *other = NULL, *flat = NULL;
    for (int level = 2; level < MTH__MODEL_LEVELS; level++) model = wrapped(model);
    mth_module *pipeline =
        module("Pipeline", MTH_OPTIONS({"stages", MTH_SPEC(mth_submodel(model), mth_submodel(model))}));
    CHECK_STATUS(mth_model_create(&other)); /* a stage is a level too */
    CHECK_STATUS(mth_model_add(other, pipeline, MTH_WIRES({"input", "input"}), MTH_PLAIN));
    evaluate_relu(other);
    model = wrapped(model);
    evaluate_relu(model);
    char *text = NULL;
    CHECK_STATUS(mth_model_print(model, &text));
    CHECK(text && strstr(text, "relu_0"));
    mth_text_free(text);
    CHECK_STATUS(mth_model_create(&more));
    CHECK_FAILS(mth_model_add_model(more, model, NULL, NULL, 0, MTH_CHAIN), MTH_ERROR_VALUE, "256 levels of them");
    CHECK_FAILS(mth_model_add_model(more, other, NULL, NULL, 0, MTH_CHAIN), MTH_ERROR_VALUE, "a model has at most 256");
    mth_module_free(pipeline);
    pipeline = module("Pipeline", MTH_OPTIONS({"stages", MTH_SPEC(mth_submodel(model))}));
    CHECK_FAILS(mth_model_add(more, pipeline, NULL, 0, MTH_CHAIN), MTH_ERROR_VALUE, "a stage holds models in models");
    CHECK(more->block.n == 0); /* nothing of what was refused is left; beside each other many find room */
    flat = wrapped(NULL);
    for (int i = 0; i < 2 * MTH__MODEL_LEVELS; i++)
        CHECK_STATUS(mth_model_add_model(more, flat, NULL, NULL, 0, MTH_CHAIN));
    CHECK(more->levels == 2);
    mth_module_free(pipeline);
    mth_model_free(other);
    mth_model_free(flat);
    mth_model_free(more);
    mth_model_free(model);
}
TEST(models_nest_up_to_a_stated_level) { on_small_stack(LEAST_STACK, nest); }

/* ---- a pipeline against the order of its devices: each role waits for the next one, to the last */
enum { STAGES = 3000 };
static mth_status find_segments(void *compiled) {
    mth__arena *arena = mth__arena_new();
    mth__segments *all = NULL;
    CHECK_STATUS(mth__segments_make(arena, ((mth_compiled *)compiled)->last->program, false, &all));
    CHECK(all && all->work.n == 2 * STAGES - 1); /* a segment a stage, a hop between two */
    mth__arena_free(arena);
    return NULL;
}
static void segment_backwards(void) {
    mth_backend *backend = open_backend(STAGES);
    mth_model *model = NULL, *stage = wrapped(NULL);
    mth_compiled *compiled = NULL;
    mth_array *array = NULL;
    mth_arg *stages = calloc(STAGES, sizeof *stages), *device = calloc(STAGES, sizeof *device);
    for (int i = 0; i < STAGES; i++) stages[i] = mth_submodel(stage), device[i] = mth_int(STAGES - 1 - i);
    CHECK_STATUS(mth_model_create(&model));
    add(model, "Pipeline",
        MTH_OPTIONS({"stages", mth_list(STAGES, stages)}, {"device_assignment", mth_list(STAGES, device)}), NULL, 0);
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &compiled));
    CHECK_STATUS(mth_array_full(backend, MTH_FLOAT32, 1, 2, (int64_t[]){1, 4}, NULL, &array));
    CHECK_STATUS(mth_plan(compiled, (mth_named[]){{"input", array}}, 1, false));
    CHECK_STATUS(mth__guard(find_segments, compiled));
    mth_array_free(array);
    mth_compiled_free(compiled);
    mth_model_free(model);
    mth_model_free(stage);
    mth_backend_free(backend);
    free(stages);
    free(device);
}
TEST(segments_of_a_long_pipeline) { on_small_stack(512 << 10, segment_backwards); }

/* ---- time */
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static void in_proportion(const char *what, int n, void (*body)(int n)) {
    double least[2] = {INFINITY, INFINITY};
    /* more often where other work on the machine disturbs */
    for (int again = 0; again < 3 || (again < 9 && least[1] > 8 * least[0]); again++)
        for (int k = 0; k < 2; k++) {
            double begin = seconds();
            body(k ? 4 * n : n);
            double took = seconds() - begin;
            if (took < least[k]) least[k] = took;
        }
    printf("  %s: %d in %.3f s, %d in %.3f s\n", what, n, least[0], 4 * n, least[1]);
    CHECK(least[1] <= 8 * least[0]);
}

static char *numbered(char *room, const char *name, int i) {
    sprintf(room, "%s%d", name, i);
    return room;
}

/* Composes, plans with gradients, loads and runs `blocks` Linears: in a chain, or each with an input and an output of
   its own. */
static void linears(int blocks, bool apart) {
    mth_backend *backend = open_backend(1);
    mth_model *model = NULL;
    mth_compiled *compiled = NULL;
    mth_array *array = NULL;
    mth_arrays *parameters = NULL, *arrays = NULL, *slopes = NULL;
    char in[32], out[32], (*name)[32] = calloc((size_t)blocks, sizeof *name);
    CHECK_STATUS(mth_model_create(&model));
    for (int i = 0; i < blocks; i++)
        add(model, "Linear", MTH_OPTIONS({"dimension", mth_int(4)}),
            (mth_wire[]){{"input", numbered(in, "in", i)}, {"output", numbered(out, "out", i)}},
            apart || i == 0 ? 2 : 0);
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &compiled));
    CHECK_STATUS(mth_array_full(backend, MTH_FLOAT32, 1, 2, (int64_t[]){1, 4}, NULL, &array));
    int inputs = apart ? blocks : 1;
    mth_named *given = calloc((size_t)inputs, sizeof *given);
    const char **of = calloc((size_t)inputs, sizeof *of);
    /* the other way round */
    for (int i = 0; i < inputs; i++) given[i] = (mth_named){of[i] = numbered(name[i], "in", inputs - 1 - i), array};
    CHECK_STATUS(mth_get_parameters(compiled, given, (size_t)inputs, 0, &parameters));
    CHECK_STATUS(mth_evaluate(compiled, parameters, given, (size_t)inputs,
        &(mth_gradient_request){.input_gradients = of, .input_gradient_count = (size_t)inputs}, &arrays, &slopes));
    CHECK(mth_arrays_get_count(slopes) == 2 * (size_t)blocks + (size_t)inputs);
    for (int i = 0; i < blocks; i++) CHECK(mth_arrays_find(slopes, numbered(in, "linear_", i)) == NULL);
    for (int i = 0; i < blocks; i++)
        CHECK(mth_arrays_find(slopes, strcat(numbered(in, "linear_", i), ".bias")) != NULL);
    mth_arrays_free(parameters);
    mth_arrays_free(arrays);
    mth_arrays_free(slopes);
    mth_array_free(array);
    mth_compiled_free(compiled);
    mth_model_free(model);
    mth_backend_free(backend);
    free(given);
    free(of);
    free(name);
}
static void chain(int n) { linears(n, false); }
static void apart(int n) { linears(n, true); }

/* a long way of names between two blocks, joined from its end on, and as many submodels */
static void connects(int n) {
    mth_model *model = NULL, *sub = wrapped(NULL);
    char from[32], to[32], *text = NULL;
    CHECK_STATUS(mth_model_create(&model));
    add(model, "Relu", NULL, 0, MTH_WIRES({"input", "x"}, {"output", "way0"}));
    for (int i = n; i-- > 0;)
        CHECK_STATUS(mth_model_connect(model, numbered(from, "way", i), numbered(to, "way", i + 1)));
    add(model, "Relu", NULL, 0, (mth_wire[]){{"input", numbered(to, "way", n)}, {"output", "y"}}, 2);
    for (int i = 0; i < n / 2; i++) CHECK_STATUS(mth_model_add_model(model, sub, NULL, NULL, 0, MTH_CHAIN));
    CHECK_STATUS(mth_model_print(model, &text));
    CHECK(text && strstr(text, "input=way0"));
    mth_text_free(text);
    mth_model_free(sub);
    mth_model_free(model);
}
/* A chain of n Linears, each on a device of its own, with gradients. */
static size_t load_bytes; /* of the last one */
static void one_a_device(int n) {
    mth_backend *backend = open_backend(n);
    mth_model *model = NULL;
    mth_compiled *compiled = NULL;
    mth_array *array = NULL;
    mth_arrays *parameters = NULL, *arrays = NULL, *slopes = NULL;
    CHECK_STATUS(mth_model_create(&model));
    for (int i = 0; i < n; i++)
        add(model, "Linear", MTH_OPTIONS({"dimension", mth_int(2)}, {"device_id", mth_int(i)}), NULL, 0);
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &compiled));
    CHECK_STATUS(mth_array_full(backend, MTH_FLOAT32, 1, 2, (int64_t[]){1, 2}, NULL, &array));
    const mth_named given = {"input", array};
    CHECK_STATUS(mth_get_parameters(compiled, &given, 1, 0, &parameters));
    CHECK_STATUS(mth_evaluate(compiled, parameters, &given, 1, &(mth_gradient_request){0}, &arrays, &slopes));
    CHECK(mth_arrays_get_count(slopes) == 2 * (size_t)n);
    load_bytes = mth__arena_bytes(compiled->last->executable->arena);
    mth_arrays_free(parameters);
    mth_arrays_free(arrays);
    mth_arrays_free(slopes);
    mth_array_free(array);
    mth_compiled_free(compiled);
    mth_model_free(model);
    mth_backend_free(backend);
}

/* Questions whether to end that are answered by no, before all are by yes; the longest time between two of them. */
typedef struct {
    int questions;
    double last, longest;
} patience;
static bool is_over(void *context) {
    patience *p = context;
    const double now = seconds();
    if (now - p->last > p->longest) p->longest = now - p->last;
    p->last = now;
    return p->questions-- <= 0;
}
static bool interrupts; /* does sum_of interrupt its plan first? */
/* A plan is given up at any question, and nothing of it is left; it never works on for long without one. */
static void interrupt_plans(mth_compiled *compiled, const mth_named *given, size_t n) {
    patience p = {.questions = INT32_MAX, .last = seconds()};
    const double begin = p.last;
    char *text = NULL;
    mth_set_interrupt_check(is_over, &p);
    CHECK_STATUS(mth_plan(compiled, given, n, false));
    const int questions = INT32_MAX - p.questions; /* one with gradients asks more often */
    CHECK_STATUS(mth_plan_print(compiled, &text));
    const double took = seconds() - begin;
    printf("  a plan asks %d times; with its text %.3f s, %.3f s at most between two questions\n", questions, took,
        p.longest);
    CHECK(questions > 1000 && p.longest < 0.4 * took);
    for (int k = 0; k < 8; k++) {
        const mth__plan *before = compiled->last, *first = compiled->plan;
        p.questions = k * (questions / 8);
        CHECK_FAILS(mth_plan(compiled, given, n, true), MTH_ERROR_INTERRUPTED, "call again");
        CHECK(compiled->last == before && compiled->plan == first);
    }
    mth_set_interrupt_check(NULL, NULL);
    mth_text_free(text);
}

/* The sum of n inputs, planned with gradients. */
static size_t plan_bytes; /* of the last one */
static void sum_of(int n) {
    mth_backend *backend = open_backend(1);
    mth_model *model = NULL;
    mth_compiled *compiled = NULL;
    mth_array *array = NULL;
    char(*name)[32] = calloc((size_t)n, sizeof *name);
    mth_named *given = calloc((size_t)n, sizeof *given);
    mth_wire *wire = calloc((size_t)n + 1, sizeof *wire);
    CHECK_STATUS(mth_array_full(backend, MTH_FLOAT32, 1, 2, (int64_t[]){1, 4}, NULL, &array));
    for (int i = 0; i < n; i++) {
        given[i] = (mth_named){numbered(name[i], "in", i), array};
        wire[i] = (mth_wire){"inputs", name[i]};
    }
    wire[n] = (mth_wire){"output", "y"};
    CHECK_STATUS(mth_model_create(&model));
    add(model, "Add", NULL, 0, wire, (size_t)n + 1);
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &compiled));
    if (interrupts) interrupt_plans(compiled, given, (size_t)n);
    CHECK_STATUS(mth_plan(compiled, given, (size_t)n, true));
    plan_bytes = mth__arena_bytes(compiled->last->arena);
    mth_array_free(array);
    mth_compiled_free(compiled);
    mth_model_free(model);
    mth_backend_free(backend);
    free(name);
    free(given);
    free(wire);
}

/* A file of n tensors of one element, read as the parameters of a model. */
static void tensors_of_a_file(int n) {
    mth_backend *backend = open_backend(1);
    mth_array *array = NULL;
    mth_arrays *layout = NULL, *read = NULL;
    char path[] = "/tmp/mithril_test_XXXXXX", (*name)[32] = calloc((size_t)n, sizeof *name);
    mth_named *item = calloc((size_t)n, sizeof *item);
    mth_file_tensor *from = calloc((size_t)n, sizeof *from);
    char *header = malloc((size_t)n * 96 + 16), *end = header;
    float *data = calloc((size_t)n, sizeof *data), back = -1;
    CHECK_STATUS(mth_array_full(backend, MTH_FLOAT32, 0, 1, (int64_t[]){1}, NULL, &array));
    for (int i = 0; i < n; i++) {
        data[i] = (float)i;
        item[i] = (mth_named){numbered(name[i], "tensor", i), array};
        from[n - 1 - i] = (mth_file_tensor){name[i], name[i], false};
        end += sprintf(end, "%c\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%d,%d]}", i ? ',' : '{',
            name[i], 4 * i, 4 * i + 4);
    }
    *end++ = '}';
    const uint64_t bytes = (uint64_t)(end - header);
    FILE *file = fdopen(mkstemp(path), "wb");
    CHECK(fwrite(&bytes, 8, 1, file) == 1 && fwrite(header, 1, bytes, file) == bytes);
    CHECK(fwrite(data, sizeof *data, (size_t)n, file) == (size_t)n && !fclose(file));
    CHECK_STATUS(mth_arrays_create(item, (size_t)n, &layout));
    CHECK_STATUS(mth_arrays_read_safetensors(layout, path, from, (size_t)n, &read));
    CHECK_STATUS(mth_array_gather(mth_arrays_find(read, name[n - 2]), &back));
    CHECK(back == (float)(n - 2));
    remove(path);
    mth_arrays_free(read);
    mth_arrays_free(layout);
    mth_array_free(array);
    mth_backend_free(backend);
    free(name);
    free(item);
    free(from);
    free(header);
    free(data);
}
TEST(time_grows_with_the_blocks) {
    in_proportion("a chain of Linears", 2500, chain);
    in_proportion("Linears side by side", 2500, apart);
    in_proportion("connects", 6000, connects);
    in_proportion("a sum", 2500, sum_of);
    in_proportion("tensors of a file", 5000, tensors_of_a_file);
}
TEST(an_executable_grows_with_the_stages) {
    one_a_device(250);
    const size_t few = load_bytes;
    one_a_device(1000);
    printf("  %zu bytes for 250 devices, %zu for 1000\n", few, load_bytes);
    CHECK(load_bytes < 6 * few);
    in_proportion("an operator a device", 250, one_a_device);
}
TEST(a_plan_is_interrupted_at_any_step) {
    interrupts = true;
    sum_of(20000);
    interrupts = false;
}
TEST(a_plan_grows_with_the_terms_of_a_sum) {
    sum_of(1000);
    const size_t few = plan_bytes;
    sum_of(4000);
    printf("  %zu bytes for 1000 terms, %zu for 4000\n", few, plan_bytes);
    CHECK(plan_bytes < 5 * few);
}

/* ---- what an executable keeps, by devices */
/* how the weight and the output are split; sizes 0: n */
typedef struct {
    const char *what;
    bool rows, columns, batch;
    int64_t input, width;
} layout;
static size_t kept_for(const layout *l, int n) {
    mth_backend *backend = open_backend(n);
    mth_model *model = NULL;
    mth_compiled *compiled = NULL;
    mth_array *array = NULL;
    mth_arrays *parameters = NULL, *arrays = NULL;
    const int64_t batch = l->batch ? n : 2, in = l->input ? l->input : n, width = l->width ? l->width : n;
    mth_arg split[2] = {mth_int(0), MTH_NONE},
            weight[2] = {l->rows ? mth_int(0) : MTH_NONE, l->columns ? mth_int(0) : MTH_NONE};
    mth_arg spec = mth_list(2, split);
    const char *output = "y";
    CHECK_STATUS(mth_model_create(&model));
    add(model, "Linear", MTH_OPTIONS({"dimension", mth_int(width)}, {"weight_shard_spec", mth_list(2, weight)}),
        MTH_WIRES({"input", "x"}, {"output", "y"}));
    const mth_option sharded = {"output_shard_specs", mth_dict(1, &output, &spec)};
    CHECK_STATUS(mth_compile(model, backend, &sharded, l->batch, &compiled));
    mth_named given = {"x", NULL};
    CHECK_STATUS(mth_array_full(backend, MTH_FLOAT32, 0.5, 2, (int64_t[]){batch, in}, NULL, &array));
    given.array = array;
    CHECK_STATUS(mth_get_parameters(compiled, &given, 1, 0, &parameters));
    CHECK_STATUS(mth_evaluate(compiled, parameters, &given, 1, NULL, &arrays, NULL));
    float *w = malloc((size_t)(in * width) * sizeof *w), *got = malloc((size_t)(batch * width) * sizeof *got);
    CHECK_STATUS(mth_array_gather(mth_arrays_find(parameters, "linear_0.weight"), w));
    CHECK_STATUS(mth_array_gather(mth_arrays_find(arrays, "y"), got));
    int wrong = 0;
    for (int64_t k = 0; k < width; k++) {
        double sum = 0;
        for (int64_t i = 0; i < in; i++) sum += 0.5 * w[i * width + k];
        for (int64_t r = 0; r < batch; r++) wrong += !(fabs(got[r * width + k] - sum) < 1e-4);
    }
    CHECK(!wrong);
    size_t bytes = mth__arena_bytes(compiled->last->executable->arena);
    free(w);
    free(got);
    mth_arrays_free(parameters);
    mth_arrays_free(arrays);
    mth_array_free(array);
    mth_compiled_free(compiled);
    mth_model_free(model);
    mth_backend_free(backend);
    return bytes;
}
TEST(an_executable_grows_with_the_devices) {
    static const layout layouts[] = {{"all_reduce", true, false, false, 0, 8}, {"all_gather", false, true, false, 4, 0},
        {"reduce_scatter", true, false, true, 0, 8}, {"all_to_all", false, true, true, 4, 0}};
    for (size_t k = 0; k < sizeof layouts / sizeof *layouts; k++) {
        size_t few = kept_for(&layouts[k], 100), many = kept_for(&layouts[k], 400);
        printf("  %s: %zu bytes for 100 devices, %zu for 400\n", layouts[k].what, few, many);
        CHECK(many < 6 * few);
    }
}
static void reduce_over(int n) { kept_for(&(layout){"all_reduce", true, false, false, 0, 8}, n); }

/* One element of each device, summed to all of them: in place, and to memory apart. */
static void reduce_one(int n) {
    float *x = calloc((size_t)n, sizeof *x), *y = calloc((size_t)n, sizeof *y);
    const void **src = calloc((size_t)n, sizeof *src);
    void **dst = calloc((size_t)n, sizeof *dst);
    mth__kernels_open();
    for (int again = 0; again < 200; again++)
        for (int apart_from = 0; apart_from < 2; apart_from++) {
            for (int i = 0; i < n; i++) src[i] = &x[i], dst[i] = apart_from ? &y[i] : &x[i], x[i] = 1;
            mth__reduce_to_all(MTH__BOX_ADD, MTH_FLOAT32, 1, n, src, n, dst, (int64_t)1 << 30);
            CHECK(*(float *)dst[0] == (float)n && *(float *)dst[n - 1] == (float)n);
        }
    free(x);
    free(y);
    free(src);
    free(dst);
}
TEST(time_grows_with_the_devices) {
    in_proportion("an element of each device", 3000, reduce_one);
    in_proportion("devices that reduce", 2000, reduce_over);
}

/* ---- what an array keeps */
static size_t heap(void) {
    const struct mallinfo2 now = mallinfo2();
    return now.uordblks + now.hblkhd;
}
static void ignore(void *nothing) { (void)nothing; }
/* Bytes of arrays of 16 numbers on n devices: each has all of them, which are copied or lent; a layout of n parts. */
static void measure_arrays(int n, size_t bytes[3]) {
    static const _Alignas(64) float numbers[16] = {3, 1, 4, 1, 5};
    mth_backend *backend = open_backend(n);
    mth_array *array = NULL;
    float back[16] = {0};
    for (int lent = 0; lent < 2; lent++) {
        size_t before = heap();
        if (lent)
            CHECK_STATUS(mth_array_borrow(backend, MTH_FLOAT32, 1, (int64_t[]){16}, numbers, ignore, NULL, &array));
        else
            CHECK_STATUS(mth_array_from_data(backend, MTH_FLOAT32, 1, (int64_t[]){16}, numbers, NULL, &array));
        bytes[lent] = heap() - before;
        CHECK(mth_array_get_shard_count(array) == (size_t)n);
        const mth_shard last = mth_array_get_shard(array, (size_t)n - 1);
        CHECK(last.device_id == n - 1 && last.size[0] == 16 && !memcmp(last.data, numbers, sizeof numbers));
        CHECK_STATUS(mth_array_gather(array, back));
        CHECK(!memcmp(back, numbers, sizeof back));
        mth_array_free(array);
    }
    mth__sharding split = {.on = backend->devices.mesh->whole, .dim = {{.naxes = 1}}};
    const size_t before = heap();
    CHECK_STATUS(
        mth__array_new(&backend->devices, MTH_FLOAT32, (mth__shape){1, {3 * (int64_t)n}}, &split, false, &array));
    bytes[2] = heap() - before;
    const mth_shard one = mth_array_get_shard(array, 5);
    CHECK(one.device_id == 5 && one.start[0] == 15 && one.size[0] == 3 && !one.data);
    mth_array_free(array);
    mth_backend_free(backend);
}
TEST(an_array_grows_with_what_it_holds) {
    size_t few[3], many[3];
    measure_arrays(8, few);
    measure_arrays(8192, many);
    for (int k = 0; k < 3; k++) {
        printf("  %zu bytes on 8 devices, %zu on 8192\n", few[k], many[k]);
        CHECK(many[k] < few[k] + 4096);
    }
}

RUN()
