/* Bytes -> a model, a mesh, specs and a schedule. The same bytes give the model twice: annotated (sharded, placed,
 * pipelined) and plain, so that whatever the plan does, both must give the same numbers. Used by the fuzzer, by its
 * corpus as a plain test, and by the property test. */
#ifndef RANDOM_MODEL_H
#define RANDOM_MODEL_H
#include "mithril.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const uint8_t *at, *end;
} bytes;
/* out of bytes: the simplest choice */
static int pick(bytes *b, int n) { return b->at < b->end ? *b->at++ % n : 0; }

typedef struct {
    mth_backend *mesh, *single;
    mth_model *annotated, *plain;
    int rank;
    int64_t shape[3]; /* of the input */
    int naxes;
    int64_t dim[2];
    int64_t devices;
    mth_option compile[1];
    size_t compile_count;
    const char *input_key[1];
    mth_arg input_spec[1], input_axes[3];
    bool forward, backward; /* what the annotated model is evaluated for */
    /* the first in float32, once the plain model has run */
    char output[96];
    int output_rank;
    int64_t output_shape[8];
    char what[1024]; /* the choices, for a report */
} random_case;

#define OR_RETURN(call)                                                                                                \
    do {                                                                                                               \
        mth_status or_s = (call);                                                                                      \
        if (or_s) return or_s;                                                                                         \
    } while (0)

static void note(random_case *c, const char *text, long long value) {
    size_t n = strlen(c->what);
    snprintf(c->what + n, sizeof c->what - n, "%s%lld ", text, value);
}

/* One spec of two entries over the mesh's axes: none repeated. */
static mth_arg pick_spec(bytes *b, random_case *c, mth_arg room[4]) {
    int choice = pick(b, c->naxes == 1 ? 3 : 7);
    note(c, "spec", choice);
    room[0] = room[1] = MTH_NONE;
    room[2] = mth_int(0);
    room[3] = mth_int(1);
    switch (choice) {
    case 1: room[0] = mth_int(0); break;
    case 2: room[1] = mth_int(0); break;
    case 3:
        room[0] = mth_int(0);
        room[1] = mth_int(1);
        break;
    case 4:
        room[0] = mth_int(1);
        room[1] = mth_int(0);
        break;
    case 5: room[1] = mth_list(2, room + 2); break;
    case 6: room[0] = mth_list(2, room + 2); break;
    }
    return mth_list(2, room);
}

static mth_status add(mth_model *model, const char *type, const mth_option *option, size_t n, mth_add_mode mode) {
    mth_module *module;
    OR_RETURN(mth_module_create(type, option, n, &module));
    mth_status status = mth_model_add(model, module, NULL, 0, mode);
    mth_module_free(module);
    return status;
}

/* The same block on both models: the annotated one has `extra` more options (they stand last). */
static mth_status add_both(mth_model *annotated, mth_model *plain, const char *type, const mth_option *option, size_t n,
    size_t extra, mth_add_mode mode) {
    OR_RETURN(add(annotated, type, option, n, mode));
    return plain ? add(plain, type, option, n - extra, mode) : NULL;
}

static mth_status add_block(
    bytes *b, random_case *c, mth_model *annotated, mth_model *plain, mth_add_mode mode, bool inside_stage) {
    static const char *const unary[] = {"Relu", "Gelu", "Silu", "Sigmoid", "Tanh", "LayerNorm", "RMSNorm", "Softmax"};
    mth_arg room[4];
    int64_t width = 1 + pick(b, 13);
    bool place = !inside_stage && pick(b, 4) == 0;
    mth_option device = {"device_id", mth_int(place ? pick(b, (int)c->devices) : 0)};
    int kind = pick(b, c->rank == 3 ? 6 : 4);
    note(c, "block", kind);
    switch (kind) {
    default: {
        mth_option option[] = {{"dimension", mth_int(width)}, {"weight_shard_spec", pick_spec(b, c, room)}};
        if (place || inside_stage) option[1] = device;
        return add_both(annotated, plain, "Linear", option, inside_stage ? 1 : 2, inside_stage ? 0 : 1, mode);
    }
    case 1: {
        const char *type = unary[pick(b, 8)];
        return add_both(annotated, plain, type, &device, place, place, mode);
    }
    case 2: {
        mth_option option[] = {{"hidden_dim", mth_int(width)}, {"tensor_axis", mth_int(pick(b, c->naxes))}};
        if (place) option[1] = device;
        return add_both(annotated, plain, "FeedForward", option, inside_stage ? 1 : 2, inside_stage ? 0 : 1, mode);
    }
    case 3: {
        mth_option option[] = {{"num_experts", mth_int(2 + pick(b, 5))}, {"expert_dim", mth_int(width)},
            {"top_k", mth_int(1 + pick(b, 2))}, {"expert_distribution", mth_string("one_per_device")}};
        if (inside_stage) return add_both(annotated, plain, "MoE", option, 3, 0, mode);
        if (c->naxes == 1 && pick(b, 2)) option[3].value = mth_string("round_robin");
        return add_both(annotated, plain, "MoE", option, 4, 1, mode);
    }
    case 4:
    case 5: {
        int heads = 1 + pick(b, 5);
        mth_option option[] = {{"num_heads", mth_int(heads)}, {"head_dim", mth_int(1 + pick(b, 4))},
            {"causal", mth_bool(pick(b, 2))}, {"tensor_axis", mth_int(pick(b, c->naxes))}};
        if (place) option[3] = device;
        return add_both(
            annotated, plain, "MultiHeadAttention", option, inside_stage ? 3 : 4, inside_stage ? 0 : 1, mode);
    }
    }
}

/* A pipeline of 1 to 3 stages against the same stages on one device in one microbatch. */
static mth_status add_pipeline(bytes *b, random_case *c) {
    int stages = 1 + pick(b, 3);
    mth_model *stage[3] = {NULL};
    mth_arg list[3], device[3], zero[3];
    note(c, "pipeline", stages);
    mth_status status = NULL;
    for (int i = 0; i < stages; i++) {
        if (!status) status = mth_model_create(&stage[i]);
        int blocks = 1 + pick(b, 2);
        for (int k = 0; !status && k < blocks; k++)
            status = add_block(b, c, stage[i], NULL, k ? MTH_CHAIN : MTH_PLAIN, true);
        list[i] = mth_submodel(stage[i]);
        device[i] = mth_int(pick(b, (int)c->devices));
        zero[i] = mth_int(0);
    }
    mth_option option[] = {{"stages", mth_list((size_t)stages, list)},
        {"device_assignment", mth_list((size_t)stages, device)}, {"microbatch_size", mth_int(1 + pick(b, 5))},
        {"schedule", mth_string(pick(b, 2) ? "1f1b" : "gpipe")}};
    note(c, "microbatch", option[2].value.integer);
    if (!status) status = add(c->annotated, "Pipeline", option, 4, MTH_CHAIN);
    option[1].value = mth_list((size_t)stages, zero);
    option[2].value = mth_int(1 << 20);
    if (!status) status = add(c->plain, "Pipeline", option, 4, MTH_CHAIN);
    for (int i = 0; i < stages; i++) mth_model_free(stage[i]);
    return status;
}

static void random_free(random_case *c) {
    mth_model_free(c->annotated);
    mth_model_free(c->plain);
    mth_backend_free(c->mesh);
    mth_backend_free(c->single);
}

/* The engine that runs the annotated model, and options of its own. Plans that take long are made once for a model:
   forward, or forward and backward. */
typedef struct {
    const char *name;
    bool once;
    size_t count;
    mth_option option[4];
    double noise; /* times what other engines have where much cancels; 0: as they */
} random_engine;

static mth_status random_make(const random_engine *engine, const uint8_t *data, size_t size, random_case *c) {
    static const int64_t meshes[][2] = {{1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 0}, {2, 2}, {2, 3}, {3, 2}, {4, 2}, {1, 3}};
    static const char *const algorithms[] = {"direct", "ring", "tree", "hierarchical"};
    static const char *const kinds[] = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"};
    bytes b = {data, data + size};
    memset(c, 0, sizeof *c);
    int mesh = pick(&b, 10);
    c->naxes = meshes[mesh][1] ? 2 : 1;
    c->dim[0] = meshes[mesh][0];
    c->dim[1] = meshes[mesh][1];
    c->devices = c->dim[0] * (c->naxes == 2 ? c->dim[1] : 1);
    note(c, "mesh", c->dim[0]);
    note(c, "x", c->dim[1]);
    mth_arg axes[2] = {mth_int(c->dim[0]), mth_int(c->dim[1])}, one = mth_int(1), named[5];
    for (int i = 0; i < 5; i++) named[i] = mth_string(algorithms[pick(&b, 4)]);
    mth_option option[10] = {{"device_mesh", mth_list((size_t)c->naxes, axes)},
        {"collective_ops", mth_dict(5, kinds, named)}, {"communication_optimization", mth_bool(pick(&b, 2))},
        {"overlap_communication", mth_bool(pick(&b, 2))}};
    int more = pick(&b, 6); /* of one byte, so that older seeds mean what they did */
    option[4] = (mth_option){"pipeline_communication", mth_bool(more & 1)};
    option[5] = (mth_option){"sequence_parallel", more / 2 ? mth_bool(more / 2 == 1) : MTH_NONE};
    /* not every engine has options of communication */
    const char *known = mth_backend_option_doc(engine->name);
    size_t options = known && strstr(known, "collective_ops") ? 6 : 1;
    for (size_t i = 0; i < engine->count; i++) option[options++] = engine->option[i];
    OR_RETURN(mth_backend_create(engine->name, option, options, &c->mesh));
    mth_option single = {"device_mesh", mth_list(1, &one)};
    OR_RETURN(mth_backend_create("reference", &single, 1, &c->single));
    OR_RETURN(mth_model_create(&c->annotated));
    OR_RETURN(mth_model_create(&c->plain));
    c->rank = 2 + pick(&b, 2);
    for (int d = 0; d < c->rank; d++) c->shape[d] = 1 + pick(&b, 9);
    if (pick(&b, 3) == 1) {
        for (int d = 0; d < c->rank; d++) c->input_axes[d] = MTH_NONE;
        c->input_axes[pick(&b, c->rank)] = mth_int(pick(&b, c->naxes));
        c->input_key[0] = "input";
        c->input_spec[0] = mth_list((size_t)c->rank, c->input_axes);
        c->compile[0] = (mth_option){"input_shard_specs", mth_dict(1, c->input_key, c->input_spec)};
        c->compile_count = 1;
        note(c, "sharded input", 1);
    }
    int blocks = 1 + pick(&b, 5);
    for (int i = 0; i < blocks; i++) {
        if (i && pick(&b, 5) == 1)
            OR_RETURN(add_pipeline(&b, c));
        else
            OR_RETURN(add_block(&b, c, c->annotated, c->plain, i ? MTH_CHAIN : MTH_PLAIN, false));
    }
    c->backward = !engine->once || pick(&b, 2);
    c->forward = !engine->once || !c->backward;
    return NULL;
}

/* Runs a model forward and backward; results are gathered as double, outputs first. */
typedef struct {
    size_t n;
    char name[96][96];
    double *data[96];
    size_t size[96];
} random_results;

static void results_free(random_results *r) {
    for (size_t i = 0; i < r->n; i++) free(r->data[i]);
    r->n = 0;
}

static mth_status results_take(random_results *r, const mth_arrays *arrays, const char *prefix) {
    for (size_t i = 0; i < mth_arrays_get_count(arrays) && r->n < 96; i++) {
        mth_named item = mth_arrays_get(arrays, i);
        if (mth_array_get_dtype(item.array) != MTH_FLOAT32) continue;
        size_t size = 1;
        for (int d = 0; d < mth_array_get_rank(item.array); d++) size *= (size_t)mth_array_get_shape(item.array)[d];
        float *f = malloc(size * sizeof *f + 1);
        mth_status status = mth_array_gather(item.array, f);
        if (status) {
            free(f);
            return status;
        }
        snprintf(r->name[r->n], sizeof r->name[0], "%s%s", prefix, item.name);
        r->size[r->n] = size;
        r->data[r->n] = malloc(size * sizeof(double) + 1);
        for (size_t k = 0; k < size; k++) r->data[r->n][k] = f[k];
        free(f);
        r->n++;
    }
    return NULL;
}

/* The output whose gradient is asked for. */
static void first_output(random_case *c, const mth_arrays *outputs) {
    for (size_t i = 0; i < mth_arrays_get_count(outputs); i++) {
        mth_named item = mth_arrays_get(outputs, i);
        if (mth_array_get_dtype(item.array) != MTH_FLOAT32) continue;
        snprintf(c->output, sizeof c->output, "%s", item.name);
        c->output_rank = mth_array_get_rank(item.array);
        memcpy(c->output_shape, mth_array_get_shape(item.array), (size_t)c->output_rank * sizeof *c->output_shape);
        return;
    }
}

static mth_status random_run(random_case *c, bool annotated, random_results *r) {
    mth_backend *backend = annotated ? c->mesh : c->single;
    mth_compiled *compiled = NULL;
    mth_array *array = NULL, *seed = NULL;
    mth_arrays *parameters = NULL, *outputs = NULL, *again = NULL, *gradients = NULL;
    bool forward = !annotated || c->forward;
    mth_status status = mth_compile(
        annotated ? c->annotated : c->plain, backend, c->compile, annotated ? c->compile_count : 0, &compiled);
    if (!status) status = mth_array_randn(backend, c->rank, c->shape, 11, NULL, &array);
    mth_named input = {"input", array};
    if (!status) status = mth_get_parameters(compiled, &input, 1, 5, &parameters);
    if (!status && forward) status = mth_evaluate(compiled, parameters, &input, 1, NULL, &outputs, NULL);
    if (!status && forward) status = results_take(r, outputs, "output ");
    if (!status && !annotated) first_output(c, outputs);
    if (!status && *c->output && (!annotated || c->backward)) {
        status = mth_array_randn(backend, c->output_rank, c->output_shape, 12, NULL, &seed);
        mth_named given = {c->output, seed};
        const char *wanted = "input";
        mth_gradient_request request = {&given, 1, &wanted, 1};
        if (!status) status = mth_evaluate(compiled, parameters, &input, 1, &request, &again, &gradients);
        if (!status && !forward) status = results_take(r, again, "output ");
        if (!status) status = results_take(r, gradients, "gradient ");
    }
    if (!status) {
        char *plan;
        status = mth_plan_print(compiled, &plan);
        if (!status) {
            char *once = NULL;
            status = mth_plan_verify_text(plan);
            if (!status) status = mth_plan_reprint(plan, &once);
            if (!status && strcmp(plan, once)) {
                fprintf(stderr, "print, parse, print differs: %s\n", c->what);
                abort();
            }
            mth_text_free(once);
            mth_text_free(plan);
        }
    }
    mth_arrays_free(gradients);
    mth_arrays_free(again);
    mth_arrays_free(outputs);
    mth_arrays_free(parameters);
    mth_array_free(seed);
    mth_array_free(array);
    mth_compiled_free(compiled);
    return status;
}

/* EQUAL: all that both models gave. REFUSED: one of them gave a user's error, so that nothing was compared. DIFFERENT:
 * described in `report`. */
typedef enum { RANDOM_EQUAL, RANDOM_REFUSED, RANDOM_DIFFERENT } random_result;
static random_result random_compare(
    const random_engine *engine, const uint8_t *data, size_t size, char *report, size_t room) {
    random_case c;
    static random_results one, other; /* too large for a stack */
    mth_status s = random_make(engine, data, size, &c), t = NULL;
    int bad = 0;
    one.n = other.n = 0;
    if (!s) s = random_run(&c, false, &one);
    if (!s) t = random_run(&c, true, &other);
    if (t) {
        /* What the plain model computes the annotated one may refuse only with a user's error: some layers can't be cut
         * into microbatches. */
        bad = mth_error_get_code(t) == MTH_ERROR_INTERNAL || !strstr(mth_error_get_message(t), "microbatch");
        if (bad) snprintf(report, room, "%s: %s", c.what, mth_error_get_message(t));
    }
    if (s && mth_error_get_code(s) == MTH_ERROR_INTERNAL) {
        bad = 1;
        snprintf(report, room, "%s: plain: %s", c.what, mth_error_get_message(s));
    }
    double most = 0; /* what cancels keeps the rounding of what it was made of */
    for (size_t i = 0; i < one.n; i++)
        for (size_t e = 0; e < one.size[i]; e++) most = fmax(most, fabs(one.data[i][e]));
    for (size_t i = 0; !s && !t && !bad && i < one.n; i++) {
        size_t k = 0;
        if (!c.backward && !strncmp(one.name[i], "gradient ", 9)) continue;
        while (k < other.n && strcmp(other.name[k], one.name[i])) k++;
        if (k == other.n || other.size[k] != one.size[i]) {
            bad = 1;
            snprintf(report, room, "%s: %s is missing or has another size", c.what, one.name[i]);
            break;
        }
        double worst = 0, largest = 1e-2; /* float32 noise of values of order 1 */
        for (size_t e = 0; e < one.size[i]; e++) {
            worst = fmax(worst, fabs(one.data[i][e] - other.data[k][e]));
            largest = fmax(largest, fabs(one.data[i][e]));
            if (isnan(other.data[k][e]) && !isnan(one.data[i][e])) worst = INFINITY;
        }
        if (worst > 2e-3 * largest + 1e-6 * most * (engine->noise ? engine->noise : 1)) {
            bad = 1;
            snprintf(report, room, "%s: %s differs by %g of %g", c.what, one.name[i], worst, largest);
        }
    }
    const bool compared = !s && !t && one.n > 0;
    results_free(&one);
    results_free(&other);
    mth_error_free(s);
    mth_error_free(t);
    random_free(&c);
    return bad ? RANDOM_DIFFERENT : compared ? RANDOM_EQUAL : RANDOM_REFUSED;
}
#endif
