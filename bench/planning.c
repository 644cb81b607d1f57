/* How long planning takes: the guide's transformer over 4 devices; 80 layers over 16,384 devices (tensor 8 x pipeline
 * 16 x data 128); and how the time grows with layers and with stages. Prints "what, seconds, bytes of the plan's text"
 * a line; fails where a limit is missed. */
#include <mithril.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void add(
    mth_model *m, const char *type, const mth_option *o, size_t n, const mth_wire *w, size_t wires, mth_add_mode mode) {
    mth_module *module;
    MTH_CHECK(mth_module_create(type, o, n, &module));
    MTH_CHECK(mth_model_add(m, module, w, wires, mode));
    mth_module_free(module);
}

/* Post-norm blocks: attention, add, norm, feed-forward, add, norm. `axis`: tensor parallel over that axis of the
 * (stage's) mesh; -1: by device ids. */
static mth_model *blocks(int count, int width, int heads, int axis, int first) {
    mth_model *m;
    char x[32] = "input", attention[32], sum[32], norm[32], feed[32], last[32], out[32];
    MTH_CHECK(mth_model_create(&m));
    for (int i = 0; i < count; i++) {
        int device = (first + i) / 2 % 4;
        snprintf(attention, sizeof attention, "a%d", i), snprintf(sum, sizeof sum, "s%d", i),
            snprintf(norm, sizeof norm, "n%d", i);
        snprintf(feed, sizeof feed, "f%d", i), snprintf(last, sizeof last, "t%d", i),
            snprintf(out, sizeof out, "x%d", i);
        mth_option here =
            axis < 0 ? (mth_option){"device_id", mth_int(device)} : (mth_option){"tensor_axis", mth_int(axis)};
        mth_option next = axis < 0 ? (mth_option){"device_id", mth_int((device + 1) % 4)} : here;
        add(m, "MultiHeadAttention",
            MTH_OPTIONS({"num_heads", mth_int(heads)}, {"head_dim", mth_int(width / heads)}, here),
            MTH_WIRES({"input", x}, {"output", attention}), MTH_PLAIN);
        add(m, "Add", NULL, 0, MTH_WIRES({"inputs", x}, {"inputs", attention}, {"output", sum}), MTH_PLAIN);
        add(m, "LayerNorm", NULL, 0, MTH_WIRES({"input", sum}, {"output", norm}), MTH_PLAIN);
        add(m, "FeedForward", MTH_OPTIONS({"hidden_dim", mth_int(4 * width)}, next),
            MTH_WIRES({"input", norm}, {"output", feed}), MTH_PLAIN);
        add(m, "Add", NULL, 0, MTH_WIRES({"inputs", norm}, {"inputs", feed}, {"output", last}), MTH_PLAIN);
        add(m, "LayerNorm", NULL, 0, MTH_WIRES({"input", last}, {"output", out}), MTH_PLAIN);
        strcpy(x, out);
    }
    return m;
}

typedef struct {
    double seconds;
    size_t text;
} cost;

static cost plan(const mth_model *m, const int64_t *mesh, int axes, const int64_t *shape, const char *dtype,
    const mth_option *o, size_t options, bool gradients) {
    mth_arg dim[3], size[3], of[2];
    for (int i = 0; i < axes; i++) dim[i] = mth_int(mesh[i]);
    int rank = strcmp(dtype, "int32") ? 3 : 2;
    for (int i = 0; i < rank; i++) size[i] = mth_int(shape[i]);
    of[0] = mth_list((size_t)rank, size);
    of[1] = mth_string(dtype);
    const char *key = "input";
    mth_arg shapes = mth_list(2, of);
    mth_option all[4] = {{"shapes", mth_dict(1, &key, &shapes)}};
    for (size_t i = 0; i < options; i++) all[1 + i] = o[i];
    mth_backend *backend;
    mth_compiled *compiled;
    MTH_CHECK(mth_backend_create(
        "native", MTH_OPTIONS({"device_mesh", mth_list((size_t)axes, dim)}, {"threads", mth_int(1)}), &backend));
    double begin = now();
    MTH_CHECK(mth_compile(m, backend, all, 1 + options, &compiled));
    MTH_CHECK(mth_plan(compiled, NULL, 0, gradients));
    cost c = {now() - begin, 0};
    char *text;
    MTH_CHECK(mth_plan_print(compiled, &text));
    c.text = strlen(text);
    mth_text_free(text);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
    return c;
}

static bool report(const char *what, int n, cost c, double limit) {
    printf("%s %d: %.1f ms, %zu bytes of text%s\n", what, n, c.seconds * 1e3, c.text,
        limit && c.seconds > limit ? "  ABOVE THE LIMIT" : "");
    fflush(stdout);
    return !limit || c.seconds <= limit;
}

/* tensor x stages x data; `layers` in all. */
static cost large(int layers, int tensor, int stages, int data, int microbatches, bool gradients) {
    mth_arg stage[64];
    mth_model *part[64];
    for (int s = 0; s < stages; s++) stage[s] = mth_submodel(part[s] = blocks(layers / stages, 1024, 16, 1, 0));
    mth_model *m;
    MTH_CHECK(mth_model_create(&m));
    add(m, "Pipeline",
        MTH_OPTIONS({"stages", mth_list((size_t)stages, stage)}, {"axis", mth_int(0)},
            {"microbatch_size", mth_int(data)}, {"schedule", mth_string("1f1b")}),
        MTH_WIRES({"input", "input"}, {"output", "output"}), MTH_PLAIN);
    const char *input = "input", *output = "output";
    mth_arg axes[3] = {mth_int(1), MTH_NONE, MTH_NONE}, spec = mth_list(3, axes);
    mth_option o[] = {
        {"input_shard_specs", mth_dict(1, &input, &spec)}, {"output_shard_specs", mth_dict(1, &output, &spec)}};
    cost c = plan(m, (int64_t[]){stages, data, tensor}, 3, (int64_t[]){(int64_t)data * microbatches, 64, 1024},
        "float32", o, 2, gradients);
    mth_model_free(m);
    for (int s = 0; s < stages; s++) mth_model_free(part[s]);
    return c;
}

int main(void) {
    bool good = true;
    for (int gradients = 0; gradients < 2; gradients++) {
        mth_model *body = blocks(8, 2048, 32, -1, 0), *m;
        MTH_CHECK(mth_model_create(&m));
        add(m, "Embedding",
            MTH_OPTIONS({"vocab_size", mth_int(50000)}, {"embedding_dim", mth_int(2048)}, {"device_id", mth_int(0)}),
            MTH_WIRES({"input", "input"}, {"output", "e"}), MTH_PLAIN);
        add(m, "PositionalEncoding", MTH_OPTIONS({"max_len", mth_int(1024)}, {"device_id", mth_int(0)}),
            MTH_WIRES({"input", "e"}, {"output", "p"}), MTH_PLAIN);
        MTH_CHECK(mth_model_add_model(m, body, NULL, MTH_WIRES({"input", "p"}, {"x7", "y"}), MTH_PLAIN));
        add(m, "Linear", MTH_OPTIONS({"dimension", mth_int(50000)}, {"device_id", mth_int(3)}),
            MTH_WIRES({"input", "y"}, {"output", "logits"}), MTH_PLAIN);
        good &=
            report(gradients ? "the guide's transformer with gradients, devices" : "the guide's transformer, devices",
                4, plan(m, (int64_t[]){4}, 1, (int64_t[]){32, 512}, "int32", NULL, 0, gradients), 0.050);
        mth_model_free(body);
        mth_model_free(m);
    }
    good &= report("80 layers, forward, devices", 8 * 16 * 128, large(80, 8, 16, 128, 16, false), 2.0);
    good &= report("80 layers, with gradients, devices", 8 * 16 * 128, large(80, 8, 16, 128, 16, true), 2.0);
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("peak memory so far %.0f MB\n", (double)u.ru_maxrss / 1e3);
    good &= u.ru_maxrss < 1000000;
    for (int layers = 16; layers <= 128; layers *= 2)
        report("4 stages, 4 microbatches, layers", layers, large(layers, 2, 4, 2, 4, true), 0);
    for (int stages = 2; stages <= 32; stages *= 2)
        report("4 layers a stage, 4 microbatches, stages", stages, large(4 * stages, 2, stages, 2, 4, true), 0);
    return !good;
}
