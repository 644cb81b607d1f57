/* Models whose planning has limits: the guide's transformer over 4 devices; and layers in pipeline stages over a mesh
 * of (stages, data, tensor). They are planned on the native engine. */
#ifndef PLANNED_MODELS_H
#define PLANNED_MODELS_H
#include <mithril.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Seconds of the processor: planning is the work of one thread, and others on the machine do not count. */
static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void add(mth_model *model, const char *type, const mth_option *option, size_t n, const mth_wire *wire,
    size_t wires, mth_add_mode mode) {
    mth_module *module;
    MTH_CHECK(mth_module_create(type, option, n, &module));
    MTH_CHECK(mth_model_add(model, module, wire, wires, mode));
    mth_module_free(module);
}

/* Post-norm blocks: attention, add, norm, feed-forward, add, norm. `axis`: tensor parallel over that axis of the
 * (stage's) mesh; -1: by device ids. */
static mth_model *transformer_blocks(int count, int width, int heads, int axis, int first) {
    mth_model *model;
    char input[32] = "input", attention[32], sum[32], norm[32], feed[32], last[32], out[32];
    MTH_CHECK(mth_model_create(&model));
    for (int i = 0; i < count; i++) {
        int device = (first + i) / 2 % 4;
        snprintf(attention, sizeof attention, "a%d", i), snprintf(sum, sizeof sum, "s%d", i),
            snprintf(norm, sizeof norm, "n%d", i);
        snprintf(feed, sizeof feed, "f%d", i), snprintf(last, sizeof last, "t%d", i),
            snprintf(out, sizeof out, "x%d", i);
        mth_option here =
            axis < 0 ? (mth_option){"device_id", mth_int(device)} : (mth_option){"tensor_axis", mth_int(axis)};
        mth_option next = axis < 0 ? (mth_option){"device_id", mth_int((device + 1) % 4)} : here;
        add(model, "MultiHeadAttention",
            MTH_OPTIONS({"num_heads", mth_int(heads)}, {"head_dim", mth_int(width / heads)}, here),
            MTH_WIRES({"input", input}, {"output", attention}), MTH_PLAIN);
        add(model, "Add", NULL, 0, MTH_WIRES({"inputs", input}, {"inputs", attention}, {"output", sum}), MTH_PLAIN);
        add(model, "LayerNorm", NULL, 0, MTH_WIRES({"input", sum}, {"output", norm}), MTH_PLAIN);
        add(model, "FeedForward", MTH_OPTIONS({"hidden_dim", mth_int(4 * width)}, next),
            MTH_WIRES({"input", norm}, {"output", feed}), MTH_PLAIN);
        add(model, "Add", NULL, 0, MTH_WIRES({"inputs", norm}, {"inputs", feed}, {"output", last}), MTH_PLAIN);
        add(model, "LayerNorm", NULL, 0, MTH_WIRES({"input", last}, {"output", out}), MTH_PLAIN);
        strcpy(input, out);
    }
    return model;
}

typedef struct {
    double seconds;
    size_t text;
} planning_cost;

static planning_cost planning_cost_of(const mth_model *model, const int64_t *mesh, int axes, const int64_t *shape,
    const char *dtype, const mth_option *option, size_t options, bool gradients) {
    mth_arg dim[3], size[3], of[2];
    for (int i = 0; i < axes; i++) dim[i] = mth_int(mesh[i]);
    int rank = strcmp(dtype, "int32") ? 3 : 2;
    for (int i = 0; i < rank; i++) size[i] = mth_int(shape[i]);
    of[0] = mth_list((size_t)rank, size);
    of[1] = mth_string(dtype);
    const char *key = "input";
    mth_arg shapes = mth_list(2, of);
    mth_option all[4] = {{"shapes", mth_dict(1, &key, &shapes)}};
    for (size_t i = 0; i < options; i++) all[1 + i] = option[i];
    mth_backend *backend;
    mth_compiled *compiled;
    MTH_CHECK(mth_backend_create(
        "native", MTH_OPTIONS({"device_mesh", mth_list((size_t)axes, dim)}, {"threads", mth_int(1)}), &backend));
    double begin = now();
    MTH_CHECK(mth_compile(model, backend, all, 1 + options, &compiled));
    MTH_CHECK(mth_plan(compiled, NULL, 0, gradients));
    planning_cost cost = {now() - begin, 0};
    char *text;
    MTH_CHECK(mth_plan_print(compiled, &text));
    cost.text = strlen(text);
    mth_text_free(text);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
    return cost;
}

/* 8 layers of width 2048 between an embedding and logits of 50,000 words, two layers a device. */
static planning_cost plan_transformer(bool gradients) {
    mth_model *body = transformer_blocks(8, 2048, 32, -1, 0), *model;
    MTH_CHECK(mth_model_create(&model));
    add(model, "Embedding",
        MTH_OPTIONS({"vocab_size", mth_int(50000)}, {"embedding_dim", mth_int(2048)}, {"device_id", mth_int(0)}),
        MTH_WIRES({"input", "input"}, {"output", "e"}), MTH_PLAIN);
    add(model, "PositionalEncoding", MTH_OPTIONS({"max_len", mth_int(1024)}, {"device_id", mth_int(0)}),
        MTH_WIRES({"input", "e"}, {"output", "p"}), MTH_PLAIN);
    MTH_CHECK(mth_model_add_model(model, body, NULL, MTH_WIRES({"input", "p"}, {"x7", "y"}), MTH_PLAIN));
    add(model, "Linear", MTH_OPTIONS({"dimension", mth_int(50000)}, {"device_id", mth_int(3)}),
        MTH_WIRES({"input", "y"}, {"output", "logits"}), MTH_PLAIN);
    planning_cost cost = planning_cost_of(model, (int64_t[]){4}, 1, (int64_t[]){32, 512}, "int32", NULL, 0, gradients);
    mth_model_free(body);
    mth_model_free(model);
    return cost;
}

/* tensor x stages x data; `layers` in all. */
static planning_cost plan_layers(int layers, int tensor, int stages, int data, int microbatches, bool gradients) {
    mth_arg stage[64];
    mth_model *part[64];
    for (int k = 0; k < stages; k++)
        stage[k] = mth_submodel(part[k] = transformer_blocks(layers / stages, 1024, 16, 1, 0));
    mth_model *model;
    MTH_CHECK(mth_model_create(&model));
    add(model, "Pipeline",
        MTH_OPTIONS({"stages", mth_list((size_t)stages, stage)}, {"axis", mth_int(0)},
            {"microbatch_size", mth_int(data)}, {"schedule", mth_string("1f1b")}),
        MTH_WIRES({"input", "input"}, {"output", "output"}), MTH_PLAIN);
    const char *input = "input", *output = "output";
    mth_arg axes[3] = {mth_int(1), MTH_NONE, MTH_NONE}, spec = mth_list(3, axes);
    mth_option specs[] = {
        {"input_shard_specs", mth_dict(1, &input, &spec)}, {"output_shard_specs", mth_dict(1, &output, &spec)}};
    planning_cost cost = planning_cost_of(model, (int64_t[]){stages, data, tensor}, 3,
        (int64_t[]){(int64_t)data * microbatches, 64, 1024}, "float32", specs, 2, gradients);
    mth_model_free(model);
    for (int k = 0; k < stages; k++) mth_model_free(part[k]);
    return cost;
}
#endif
