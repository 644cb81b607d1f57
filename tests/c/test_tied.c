/* A head tied to an embedding, composed, run and read from a file by the C API; values and gradients against loops in
 * double. */
#include "public_kit.h"
#include "tensor_file.h"
#include <math.h>

enum { WORDS = 7, WIDTH = 4, TOKENS = 6 };
static const int32_t ids[TOKENS] = {1, 4, 4, 0, 6, 2}, targets[TOKENS] = {4, 4, 0, 6, 2, 1};
static const double SEED = 1.5;

/* The embedding in one model, the head and the loss in another: the two ends of a chain, or two stages. */
static mth_model *embedding(int axis) {
    mth_model *made = model();
    ADD(made, "Embedding",
        MTH_OPTIONS({"vocab_size", mth_int(WORDS)}, {"embedding_dim", mth_int(WIDTH)},
            {"tensor_axis", axis < 0 ? MTH_NONE : mth_int(axis)}, {"name", mth_string("embed")}),
        MTH_WIRES({"input", "ids"}, {"output", "h"}), MTH_PLAIN);
    return made;
}

static void add_head(mth_model *model, const char *table) {
    ADD(model, "Linear",
        MTH_OPTIONS({"dimension", mth_int(WORDS)}, {"bias", mth_bool(false)}, {"weight", mth_string(table)},
            {"name", mth_string("head")}),
        MTH_WIRES({"input", "h"}, {"output", "logits"}), MTH_PLAIN);
    ADD(model, "CrossEntropy", NOTHING, MTH_WIRES({"input", "logits"}, {"target", "target"}, {"output", "loss"}),
        MTH_PLAIN);
}

static mth_model *tied(int axis) {
    mth_model *model = embedding(axis);
    add_head(model, "embed.weight");
    return model;
}

static mth_model *tied_in_stages(int axis) {
    mth_model *made = model(), *first = embedding(axis), *last = model();
    add_head(last, "stage_0.embed.weight");
    mth_arg stages[] = {mth_submodel(first), mth_submodel(last)};
    ADD(made, "Pipeline",
        MTH_OPTIONS({"stages", mth_list(2, stages)}, {"axis", mth_int(0)}, {"microbatch_size", mth_int(1)},
            {"name", mth_string("p")}),
        MTH_WIRES({"input", "ids"}, {"target", "target"}, {"output", "loss"}), MTH_PLAIN);
    mth_model_free(first);
    mth_model_free(last);
    return made;
}

static void fill(float table[WORDS][WIDTH]) {
    for (int i = 0; i < WORDS; i++)
        for (int k = 0; k < WIDTH; k++) table[i][k] = (float)sin(1 + 3 * i + 5 * k);
}

/* The loss, and SEED times its gradient: of each token's row as it is looked up, and of all rows as the head's. */
static double expected(float table[WORDS][WIDTH], double slope[WORDS][WIDTH]) {
    double loss = 0;
    memset(slope, 0, sizeof(double) * WORDS * WIDTH);
    for (int t = 0; t < TOKENS; t++) {
        const float *h = table[ids[t]];
        double logit[WORDS] = {0}, sum = 0;
        for (int i = 0; i < WORDS; i++) {
            for (int k = 0; k < WIDTH; k++) logit[i] += (double)table[i][k] * h[k];
            sum += exp(logit[i]);
        }
        loss -= (logit[targets[t]] - log(sum)) / TOKENS;
        for (int i = 0; i < WORDS; i++) {
            const double d = SEED * (exp(logit[i]) / sum - (i == targets[t])) / TOKENS;
            for (int k = 0; k < WIDTH; k++) {
                slope[i][k] += d * h[k];
                slope[ids[t]][k] += d * table[i][k];
            }
        }
    }
    return loss;
}

static const char *write_file(float table[WORDS][WIDTH]) {
    char header[128];
    const int n = snprintf(header, sizeof header,
        "{\"tok\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[0,%d]}}", WORDS, WIDTH, WORDS * WIDTH * 4);
    return file_of(header, (size_t)n, table, WORDS * WIDTH * sizeof(float));
}

static void check_run(mth_compiled *compiled, const mth_arrays *parameters, const mth_named input[2],
    const mth_array *seed, const char *name, double loss, double slope[WORDS][WIDTH]) {
    mth_arrays *outputs = NULL, *gradients = NULL;
    const mth_named given = {"loss", (mth_array *)seed};
    CHECK_STATUS(mth_evaluate(
        compiled, parameters, input, 2, &(mth_gradient_request){&given, 1, NULL, 0}, &outputs, &gradients));
    CHECK(outputs && gradients && mth_arrays_get_count(gradients) == 1);
    if (!outputs || !gradients) return;
    float got = 0, gradient[WORDS][WIDTH];
    CHECK_STATUS(mth_array_gather(mth_arrays_find(outputs, "loss"), &got));
    CHECK(fabs(got - loss) <= 1e-6 * loss);
    CHECK_STATUS(mth_array_gather(mth_arrays_find(gradients, name), gradient));
    double worst = 0;
    for (int i = 0; i < WORDS; i++)
        for (int k = 0; k < WIDTH; k++) worst = fmax(worst, fabs(gradient[i][k] - slope[i][k]));
    CHECK(worst <= 1e-6);
    mth_arrays_free(outputs);
    mth_arrays_free(gradients);
}

/* `parts`: the shards of the table. The one parameter is given once, and read from the one tensor of a file. */
static void check_on(const char *engine, mth_arg mesh, mth_model *model, const char *name, size_t parts) {
    float table[WORDS][WIDTH];
    double slope[WORDS][WIDTH];
    fill(table);
    const double loss = expected(table, slope);
    const opened made = open_compiled(engine, mesh, model, NOTHING);
    mth_backend *backend = made.backend;
    mth_compiled *compiled = made.compiled;
    if (!compiled) return;
    size_t count = 0;
    const char *const *known = mth_compiled_get_parameters(compiled, &count);
    CHECK(count == 1 && !strcmp(known[0], name));
    mth_array *array[3] = {NULL}, *seed = NULL;
    const int64_t shape[] = {2, TOKENS / 2}, matrix[] = {WORDS, WIDTH};
    CHECK_STATUS(mth_array_from_data(backend, MTH_INT32, 2, shape, ids, NULL, &array[0]));
    CHECK_STATUS(mth_array_from_data(backend, MTH_INT32, 2, shape, targets, NULL, &array[1]));
    CHECK_STATUS(mth_array_from_data(backend, MTH_FLOAT32, 2, matrix, table, NULL, &array[2]));
    CHECK_STATUS(mth_array_full(backend, MTH_FLOAT32, SEED, 0, NULL, NULL, &seed));
    const mth_named input[] = {{"ids", array[0]}, {"target", array[1]}}, weight = {name, array[2]};
    mth_arrays *given = NULL, *layout = NULL, *read = NULL;
    CHECK_STATUS(mth_arrays_create(&weight, 1, &given));
    check_run(compiled, given, input, seed, name, loss, slope);
    CHECK_STATUS(mth_get_parameter_layout(compiled, input, 2, &layout));
    CHECK(mth_arrays_get_count(layout) == 1);
    const char *path = write_file(table);
    CHECK_STATUS(mth_arrays_read_safetensors(layout, path, &(mth_file_tensor){name, "tok", false}, 1, &read));
    unlink(path);
    CHECK(read && mth_arrays_get_count(read) == 1 && mth_array_get_shard_count(mth_arrays_get(read, 0).array) == parts);
    if (read) check_run(compiled, read, input, seed, name, loss, slope);
    mth_arrays *const arrays[] = {given, layout, read};
    for (int i = 0; i < 3; i++) mth_arrays_free(arrays[i]);
    for (int i = 0; i < 3; i++) mth_array_free(array[i]);
    mth_array_free(seed);
    close_compiled(made);
}

TEST(a_tied_head) {
    static const char *const engines[] = {"native", "reference"};
    for (int e = 0; e < 2; e++)
        for (int split = 0; split < 2; split++) { /* 7 rows over 3, 4 and 2 devices; then no split of the table */
            mth_model *line = tied(split ? 0 : -1), *plane = tied(split ? 1 : -1);
            check_on(engines[e], MTH_INTS(1), line, "embed.weight", 1);
            check_on(engines[e], MTH_INTS(3), line, "embed.weight", 3);
            check_on(engines[e], MTH_INTS(4), line, "embed.weight", 4);
            check_on(engines[e], MTH_INTS(2, 2), plane, "embed.weight", 4);
            mth_model_free(line);
            mth_model_free(plane);
        }
}

TEST(a_tied_head_in_stages) {
    for (int split = 0; split < 2; split++) {
        mth_model *model = tied_in_stages(split ? 0 : -1);
        check_on("native", MTH_INTS(2, 2), model, "p.stage_0.embed.weight", 4);
        check_on("native", MTH_INTS(2, 3), model, "p.stage_0.embed.weight", 6);
        mth_model_free(model);
    }
}

RUN()
