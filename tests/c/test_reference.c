/* The reference engine by itself: what crosses its boundary, its errors, and programs that no device can finish. The
 * numbers of its rows are the operator table's; its communication is tested wherever a plan is compared with it. */
#include "engine/reference/reference_run.h"
#include "open_engine.h"
#include "unit.h"

static const mth__engine_vtable *const engine = &mth__engine_reference;

TEST(buffers_keep_their_engine) {
    mth__engine *e;
    mth__buffer *buffer;
    int64_t before = mth_debug_live_allocations(), data = 0;
    CHECK_STATUS(open_engine(engine, &(mth__mesh){.count = 2}, &e));
    CHECK_STATUS(engine->memory.new(e, 1, 16, &buffer));
    engine->close(e);
    engine->memory.retain(buffer);
    CHECK_STATUS(engine->memory.write(buffer, 8, &(int64_t){77}, 8));
    engine->memory.release(buffer);
    CHECK_STATUS(engine->memory.read(buffer, 8, &data, 8));
    CHECK(data == 77 && ((int64_t *)engine->memory.host(buffer))[1] == 77 &&
        (uintptr_t)engine->memory.host(buffer) % 64 == 0);
    engine->memory.release(buffer);
    CHECK(mth_debug_live_allocations() == before);
}

TEST(every_dtype_crosses) {
    static const double values[4] = {0, 1, -3, 1.5};
    const mth_dtype dtypes[] = {MTH_FLOAT32, MTH_FLOAT64, MTH_INT32, MTH_INT64, MTH_BOOL, MTH_BFLOAT16};
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        mth__ref_element in[4], out[4];
        _Alignas(8) char room[4 * 8];
        for (int i = 0; i < 4; i++) in[i] = mth__ref_from_real(dtypes[d], values[i]);
        mth__ref_value from = {.data = in, .dtype = dtypes[d], .local = {1, {4}}}, to = from;
        to.data = out;
        mth__ref_narrow(&from, room);
        mth__ref_widen(&to, room);
        for (int i = 0; i < 4; i++) CHECK(in[i].integer == out[i].integer);
    }
#define REAL(dtype, x) mth__ref_from_real(MTH_##dtype, x).real
#define WHOLE(dtype, x) mth__ref_from_real(MTH_##dtype, x).integer
    CHECK(REAL(BFLOAT16, 1 + 0x1p-8) == 1 && REAL(BFLOAT16, 1 + 3 * 0x1p-8) == 1 + 0x1p-6); /* ties to even */
    CHECK(REAL(BFLOAT16, -1 - 0x1p-7) == -1 - 0x1p-7 && isinf(REAL(BFLOAT16, INFINITY)));
    CHECK(WHOLE(INT32, -2.7) == -2 && WHOLE(BOOL, 0.1) == 1 && WHOLE(BOOL, NAN) == 1);
    CHECK(WHOLE(INT32, 1e10) == INT32_MAX && WHOLE(INT32, -INFINITY) == INT32_MIN);
    CHECK(WHOLE(INT32, -0x1p31 - 0.5) == INT32_MIN);
    CHECK(WHOLE(INT64, 0x1p63) == INT64_MAX && WHOLE(INT64, -0x1p63) == INT64_MIN && WHOLE(INT64, NAN) == 0);
}

/* What a double does not hold: 2^53 + 1 and its like. */
TEST(integers_are_not_rounded) {
    const int64_t odd = (INT64_C(1) << 53) + 1, some[4] = {odd, -odd, INT64_MIN, INT64_MAX};
    mth__ref_element room[4];
    int64_t back[4];
    const mth__ref_value value = {.data = room, .dtype = MTH_INT64, .local = {1, {4}}};
    mth__ref_widen(&value, some);
    mth__ref_narrow(&value, back);
    CHECK(memcmp(some, back, sizeof some) == 0);
#define FROM(dtype, x) mth__ref_from_integer(MTH_##dtype, x)
    CHECK(FROM(INT64, odd).integer == odd && FROM(INT32, odd).integer == 1 && FROM(BOOL, INT64_MIN).integer == 1);
    CHECK(FROM(FLOAT64, odd).real == 0x1p53 && FROM(FLOAT32, INT64_MIN).real == -0x1p63);
    /* of float32: one more is to go up, rounded once */
    const int64_t tie = (INT64_C(1) << 54) + (INT64_C(1) << 30);
    CHECK(FROM(FLOAT32, tie).real == 0x1p54 && FROM(FLOAT32, tie + 1).real == 0x1p54 + 0x1p31);
    const int64_t of_8_bits = (INT64_C(1) << 62) + (INT64_C(1) << 54);
    CHECK(FROM(BFLOAT16, of_8_bits).real == 0x1p62 && FROM(BFLOAT16, of_8_bits + 1).real == 0x1p62 + 0x1p55);
    CHECK(FROM(BFLOAT16, -of_8_bits).real == -0x1p62 && FROM(BFLOAT16, -of_8_bits - 1).real == -0x1p62 - 0x1p55);
#define COMBINED(dtype, reduce, a, b)                                                                                  \
    mth__ref_combine(                                                                                                  \
        MTH_##dtype, MTH__REDUCE_##reduce, (mth__ref_element){.integer = a}, (mth__ref_element){.integer = b})         \
        .integer
    CHECK(COMBINED(INT64, SUM, odd, 1) == odd + 1 && COMBINED(INT64, SUM, INT64_MAX, 1) == INT64_MIN);
    CHECK(COMBINED(INT32, SUM, INT32_MIN, -1) == INT32_MAX);
    CHECK(COMBINED(BOOL, SUM, 1, 1) == 1 && COMBINED(BOOL, SUM, 0, 0) == 0);
    CHECK(COMBINED(INT64, MAX, odd, odd - 1) == odd && COMBINED(INT64, MAX, odd - 1, odd) == odd);
}

static bool always(void *nothing) { return nothing == NULL; }

/* Runs a program's text; no device has an entry. */
typedef struct {
    const char *text;
    const mth__stop *stop;
    bool threads; /* one for each device */
} job;
static mth_status run(void *argument) {
    const job *j = argument;
    mth__arena *arena = mth__arena_new();
    mth__engine *e;
    mth__executable *executable;
    mth__program *program;
    TRY(mth__program_parse(arena, j->text, &program));
    TRY(open_engine_with(engine, program->mesh, 1, j->threads, &e));
    mth_status status = engine->load(e, program, NULL, &executable);
    engine->close(e);
    if (status) return status;
    mth__buffer *none[64] = {NULL}, *left[64] = {NULL};
    status = engine->run(executable, none, left, &(mth__control){.stop = j->stop});
    for (int i = 0; i < 64; i++) CHECK(left[i] == NULL);
    engine->unload(executable);
    if (!status) mth__arena_free(arena);
    return status;
}

/* A plan of the public API, as text; the caller frees it. */
static char *plan_of(mth_dtype dtype, const void *ids, bool evaluate) {
    mth_module *module;
    mth_model *model;
    mth_backend *backend;
    mth_compiled *compiled;
    mth_array *array;
    mth_arrays *parameters = NULL, *outputs = NULL;
    char *text = NULL;
    CHECK_STATUS(mth_model_create(&model));
    CHECK_STATUS(mth_module_create("Embedding",
        MTH_OPTIONS({"vocab_size", mth_int(10)}, {"embedding_dim", mth_int(3)},
            {"weight_shard_spec", MTH_SPEC(mth_int(0), MTH_NONE)}),
        &module));
    CHECK_STATUS(mth_model_add(model, module, MTH_WIRES({"input", "input"}, {"output", "output"}), MTH_PLAIN));
    CHECK_STATUS(mth_backend_create("reference", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}), &backend));
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &compiled));
    CHECK_STATUS(mth_array_from_data(backend, dtype, 1, (int64_t[]){3}, ids, NULL, &array));
    mth_named input = {"input", array};
    CHECK_STATUS(mth_get_parameters(compiled, &input, 1, 0, &parameters));
    if (evaluate) {
        CHECK_FAILS(mth_evaluate(compiled, parameters, &input, 1, NULL, &outputs, NULL), MTH_ERROR_VALUE,
            "id 10 is outside [0, 10)");
    } else {
        CHECK_STATUS(mth_evaluate(compiled, parameters, &input, 1, NULL, &outputs, NULL));
        CHECK_STATUS(mth_plan_print(compiled, &text));
        mth_arrays_free(outputs);
    }
    mth_arrays_free(parameters);
    mth_array_free(array);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
    mth_module_free(module);
    mth_model_free(model);
    return text;
}

TEST(an_id_outside_is_named) {
    plan_of(MTH_INT64, (int64_t[]){1, 10, 2}, true);
    plan_of(MTH_INT32, (int32_t[]){9, 0, 10}, true);
}

TEST(a_program_needs_its_entries) {
    char *text = plan_of(MTH_INT32, (int32_t[]){1, 2, 9}, false);
    if (text) CHECK_FAILS(mth__guard(run, &(job){text, NULL, false}), MTH_ERROR_INTERNAL, "has no buffer");
    mth_text_free(text);
}

#define HEAD                                                                                                           \
    "program\nmesh (2,)\nplacement p0 whole\n"                                                                         \
    "channel c0 all_reduce direct f32[2,2] (None, None) partial sum over 0 on p0 to (None, None) on p0 over 0 "        \
    "\"first\"\n"                                                                                                      \
    "channel c1 all_reduce direct f32[2,2] (None, None) partial sum over 0 on p0 to (None, None) on p0 over 0 "        \
    "\"second\"\n"
#define TERM "  0  %0: f32[2,2] (None, None) partial sum over 0 on p0 at slab+0 = sinusoid length=2 width=2\n"
#define SUM(line, value, channel, at)                                                                                  \
    "  " line "  " value ": f32[2,2] (None, None) on p0 at slab+" at " = all_reduce direct " channel " %0\n"

TEST(devices_that_wait_for_each_other_are_named) {
    const char *crossed = HEAD "role 0 devices 0 slab 256\n" TERM SUM("1", "%1", "c0", "64") SUM("2", "%2", "c1",
        "128") "role 1 devices 1 slab 256\n" TERM SUM("1", "%2", "c1", "64") SUM("2", "%1", "c0", "128");
    const char *straight =
        HEAD "role 0 devices 0, 1 slab 256\n" TERM SUM("1", "%1", "c0", "64") SUM("2", "%2", "c1", "128");
    for (int threads = 0; threads < 2; threads++) {
        const mth__stop stop = {always, NULL};
        CHECK_STATUS(mth__guard(run, &(job){straight, NULL, threads}));
        CHECK_FAILS(mth__guard(run, &(job){crossed, NULL, threads}), MTH_ERROR_INTERNAL,
            "device 0 waits for ever at instruction 1, first");
        CHECK_FAILS(mth__guard(run, &(job){straight, &stop, threads}), MTH_ERROR_INTERRUPTED, "interrupted");
    }
}
RUN()
