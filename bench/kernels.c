/* The native engine's kernels on one thread: CPU time of all chunks, GFLOP/s or GB/s (operands read once, results
 * written once), chunks. Causal attention counts the hidden half too.
 *     kernels [words]     the cases whose names hold one of the words; all by default */
#include "base/arena.h"
#include "catalog/op.h"
#include "engine/native/kernel.h"
#include "engine/native/kernel_vector.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OPERANDS = 10 };
typedef struct {
    const char *name;
    int row;
    mth__attrs attrs;
    int nin, nout;
    struct {
        mth_dtype dtype;
        int64_t dim[6];
        int64_t ids;
    } operand[OPERANDS]; /* in, then out; a dimension of 0 ends; ids: values in [0, ids) */
    double flops;
} bench_case;
#define T(...) {MTH_FLOAT32, {__VA_ARGS__}, 0}
#define IDS(limit, ...) {MTH_INT32, {__VA_ARGS__}, limit}
#define CONTRACT(formula, a, b, y, m, n, k)                                                                            \
    {formula " " #m " x " #n " x " #k, MTH__ROW_contract, {.spec = formula}, 2, 1, {a, b, y}, 2.0 * m * n * k}
#define UNARY(name, value) {#name, MTH__ROW_##name, {.by = value}, 1, 1, {T(1024, 2048), T(1024, 2048)}, 0}
#define ATTENTION(b, s, h, d, mask)                                                                                    \
    {"attention " #b " x " #s ", " #h " heads of " #d ", causal " #mask, MTH__ROW_attention,                           \
        {.causal = mask, .scale = 0.125}, 3, 3,                                                                        \
        {T(b, s, h, 1, d), T(b, s, h, d), T(b, s, h, d), T(b, s, h, 1, d), T(b, s, h, 1), T(b, s, h, 1)},              \
        4.0 * b * h * s * s * d},                                                                                      \
    {                                                                                                                  \
        "attention_grad " #b " x " #s ", " #h " heads of " #d ", causal " #mask, MTH__ROW_attention_grad,              \
            {.causal = mask, .scale = 0.125}, 7, 3,                                                                    \
            {T(b, s, h, 1, d), T(b, s, h, d), T(b, s, h, d), T(b, s, h, 1, d), T(b, s, h, 1), T(b, s, h, 1),           \
                T(b, s, h, 1, d), T(b, s, h, 1, d), T(b, s, h, d), T(b, s, h, d)},                                     \
            10.0 * b *h *s *s *d                                                                                       \
    }
static const bench_case cases[] = {
    CONTRACT("mk,kn->mn", T(512, 2048), T(2048, 2048), T(512, 2048), 512, 2048, 2048),
    CONTRACT("mk,kn->mn", T(512, 8192), T(8192, 2048), T(512, 2048), 512, 2048, 8192),
    CONTRACT("mk,kn->mn", T(32, 4096), T(4096, 2048), T(32, 2048), 32, 2048, 4096),
    CONTRACT("mk,kn->mn", T(1024, 512), T(512, 512), T(1024, 512), 1024, 512, 512),
    CONTRACT("mk,kn->mn", T(1024, 2048), T(2048, 512), T(1024, 512), 1024, 512, 2048),
    CONTRACT("mk,kn->mn", T(1024, 512), T(512, 2048), T(1024, 2048), 1024, 2048, 512),
    CONTRACT("km,kn->mn", T(512, 2048), T(512, 2048), T(2048, 2048), 2048, 2048, 512),
    CONTRACT("km,kn->mn", T(1024, 512), T(1024, 2048), T(512, 2048), 512, 2048, 1024),
    CONTRACT("mk,nk->mn", T(512, 2048), T(2048, 2048), T(512, 2048), 512, 2048, 2048),
    CONTRACT("mk,nk->mn", T(32, 4096), T(2048, 4096), T(32, 2048), 32, 2048, 4096),
    CONTRACT("km,kn->mn", T(32, 4096), T(32, 2048), T(4096, 2048), 4096, 2048, 32),
    CONTRACT("mk,kn->mn", T(4096, 2048), T(2048, 10), T(4096, 10), 4096, 10, 2048),
    CONTRACT("mk,kn->mn", T(1, 4096), T(4096, 4096), T(1, 4096), 1, 4096, 4096),
    UNARY(exp, 0),
    UNARY(log, 0),
    UNARY(gelu, 0),
    UNARY(gelu_tanh, 0),
    UNARY(silu, 0),
    UNARY(tanh, 0),
    UNARY(relu, 0),
    UNARY(scale, 2),
    UNARY(copy, 0),
    {"dropout", MTH__ROW_dropout, {.key = 3, .probability = 0.1}, 1, 1, {T(1024, 2048), T(1024, 2048)}, 0},
    {"gelu_grad", MTH__ROW_gelu_grad, {0}, 2, 1, {T(1024, 2048), T(1024, 2048), T(1024, 2048)}, 0},
    {"mul_grad", MTH__ROW_mul_grad, {0}, 3, 2,
        {T(1024, 2048), T(1024, 2048), T(1024, 2048), T(1024, 2048), T(1024, 2048)}, 0},
    {"div_grad", MTH__ROW_div_grad, {0}, 3, 2,
        {T(1024, 2048), T(1024, 2048), T(1024, 2048), T(1024, 2048), T(1024, 2048)}, 0},
    {"add", MTH__ROW_add, {0}, 2, 1, {T(1024, 2048), T(1024, 2048), T(1024, 2048)}, 0},
    {"mul", MTH__ROW_mul, {0}, 2, 1, {T(1024, 2048), T(1024, 2048), T(1024, 2048)}, 0},
    {"div", MTH__ROW_div, {0}, 2, 1, {T(1024, 2048), T(1024, 2048), T(1024, 2048)}, 0},
    {"neg", MTH__ROW_neg, {0}, 1, 1, {T(1024, 2048), T(1024, 2048)}, 0},
    {"add bias", MTH__ROW_add, {0}, 2, 1, {T(1024, 2048), T(2048), T(1024, 2048)}, 0},
    {"mul column", MTH__ROW_mul, {0}, 2, 1, {T(1024, 2048), T(1024, 1), T(1024, 2048)}, 0},
    {"reduce_sum rows", MTH__ROW_reduce_sum, {.dimensions = 1}, 1, 1, {T(1024, 2048), T(2048)}, 0},
    {"reduce_sum columns", MTH__ROW_reduce_sum, {.dimensions = 2}, 1, 1, {T(1024, 2048), T(1024)}, 0},
    {"transpose", MTH__ROW_transpose, {.rank = 2, .permutation = {1, 0}}, 1, 1, {T(1024, 2048), T(2048, 1024)}, 0},
    {"softmax", MTH__ROW_softmax, {.dimension = 1}, 1, 1, {T(4096, 512), T(4096, 512)}, 0},
    {"layer_norm", MTH__ROW_layer_norm, {.epsilon = 1e-5}, 3, 3,
        {T(1024, 512), T(512), T(512), T(1024, 512), T(1024), T(1024)}, 0},
    {"layer_norm_grad", MTH__ROW_layer_norm_grad, {0}, 5, 3,
        {T(1024, 512), T(512), T(1024), T(1024), T(1024, 512), T(1024, 512), T(512), T(512)}, 0},
    {"gather", MTH__ROW_gather, {0}, 2, 1, {T(30000, 512), IDS(30000, 4096), T(4096, 512)}, 0},
    {"gather_grad", MTH__ROW_gather_grad, {.rows = 30000}, 2, 1, {IDS(30000, 4096), T(4096, 512), T(30000, 512)}, 0},
    {"sinusoid", MTH__ROW_sinusoid, {.length = 1024, .width = 512}, 0, 1, {T(1024, 512)}, 0},
    {"rope", MTH__ROW_rope, {.dimension = 1, .base = 10000}, 1, 1, {T(8, 128, 8, 64), T(8, 128, 8, 64)}, 0},
    ATTENTION(8, 128, 8, 64, 0),
    ATTENTION(8, 128, 8, 64, 1),
    ATTENTION(1, 2048, 8, 64, 1),
    ATTENTION(8, 128, 12, 32, 0),
    ATTENTION(32, 16, 12, 32, 0),
};

typedef struct {
    const bench_case *b;
} job;
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static mth_status measure(void *arguments) {
    const bench_case *b = ((job *)arguments)->b;
    mth__arena *arena = mth__arena_new();
    mth__operand operand[OPERANDS + 1] = {0};
    double bytes = 0;
    for (int i = 0; i < b->nin + b->nout; i++) {
        int64_t n = 1;
        operand[i].dtype = b->operand[i].dtype;
        for (int d = 0; d < 6 && b->operand[i].dim[d]; d++) {
            n *= operand[i].shape.dim[operand[i].shape.rank++] = b->operand[i].dim[d];
            operand[i].step[d] = 1;
        }
        operand[i].global = operand[i].shape;
        operand[i].data = mth__malloc((size_t)n * 4);
        for (int64_t k = 0; k < n; k++) {
            if (b->operand[i].ids)
                ((int32_t *)operand[i].data)[k] = (int32_t)(k * 7919 % b->operand[i].ids);
            else
                ((float *)operand[i].data)[k] = (float)(k % 1013) / 500 + 0.01f;
        }
        bytes += 4.0 * (double)n;
    }
    mth__call call = {.op = mth__op_at(b->row),
        .attrs = &b->attrs,
        .nin = b->nin,
        .nout = b->nout,
        .in = operand,
        .out = operand + b->nin};
    mth__fault fault = {0};
    call.fault = &fault;
    TRY(mth__kernels[b->row].prepare(arena, &call));
    call.shared = mth__malloc(call.call_scratch + 1);
    void *scratch = mth__malloc(call.thread_scratch + 1);
    /* The best time of each chunk, added: other work on the machine spoils few of them. */
    int all = 0;
    for (int phase = 0; phase < call.phases; phase++) all += call.chunks[phase];
    double *chunk = NEW_ARRAY(arena, double, all), best = 0, longest = 0;
    const double begin = now();
    for (int r = 0; r < 50 && (r < 3 || now() - begin < 0.2); r++) {
        double *at = chunk;
        for (int phase = 0; phase < call.phases; phase++)
            for (int i = 0; i < call.chunks[phase]; i++, at++) {
                const double t = now();
                mth__kernels[b->row].run(&call, phase, i, scratch);
                if (!r || now() - t < *at) *at = now() - t;
            }
    }
    for (int i = 0; i < all; i++) {
        best += chunk[i];
        if (chunk[i] > longest) longest = chunk[i];
    }
    printf("%-52s %9.3f ms  %7.1f %s  %d chunks of at most %.2f ms\n", b->name, best * 1e3,
        (b->flops > 0 ? b->flops : bytes) / best * 1e-9, b->flops > 0 ? "GFLOP/s" : "GB/s   ", all, longest * 1e3);
    mth__free(call.shared);
    mth__free(scratch);
    for (int i = 0; i < b->nin + b->nout; i++) mth__free(operand[i].data);
    mth__arena_free(arena);
    return NULL;
}
int main(int argc, char **argv) {
    mth__kernels_open();
    printf("%s, one thread\n", mth__vec->name);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++) wanted |= strstr(cases[i].name, argv[a]) != NULL;
        if (!wanted) continue;
        mth_status status = mth__guard(measure, &(job){&cases[i]});
        if (status) {
            fprintf(stderr, "%s\n", mth_error_get_message(status));
            return 1;
        }
        fflush(stdout);
    }
    return 0;
}
