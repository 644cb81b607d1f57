/* Loops over contiguous float32 runs, compiled once for each instruction set (kernel_vector_body.h) and chosen when the
 * kernels open: on one machine the bits are always the same. Exponentials and their like are our own polynomials;
 * greatest errors against double libm, over every 997th float32 of the range (test_kernels: accuracy): exp 0.98 ulp,
 * log 0.77, tanh 1.22, erf 1.13, sigmoid 2.16. */
#ifndef MTH__KERNEL_VECTOR_H
#define MTH__KERNEL_VECTOR_H
#include "base/graph.h"
#include "catalog/rows.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A run of n elements of a row that computes each element of its results from those of its operands at the same place.
   step[j]: 1, or 0 where in[j] is one value for all; a row of one operand has a run of it. A result may lie on any
   operand of step 1. attrs: NULL for a row that has none. */
typedef void mth__elementwise(
    int64_t n, const float *const *in, const int *step, float *const *out, const mth__attrs *attrs);
typedef struct {
    const char *name;
    mth__elementwise *elementwise[MTH__ROW_COUNT]; /* NULL: the row is not one of these */
    mth__elementwise *erf;
    void (*fill)(int64_t n, float value, float *y);
    void (*add_to)(int64_t n, const float *x, float *y); /* y += x */
    void (*max_to)(int64_t n, const float *x, float *y);
    void (*scale)(int64_t n, float by, const float *x, float *y); /* y = by * x */
    void (*axpy)(int64_t n, float a, const float *x, float *y);   /* y += a * x */
    /* float32 lanes over blocks of 4096, blocks in double */
    double (*sum)(int64_t n, const float *x);
    double (*dot)(int64_t n, const float *a, const float *b);
    double (*dot_apart)(int64_t n, const float *a, const float *b, const float *c); /* of a and b - c */
    /* -inf where n is 0; NaN where there is one */
    float (*max)(int64_t n, const float *x);
    void (*softmax)(int64_t n, const float *x, float *y);
    void (*softmax_grad)(int64_t n, const float *y, const float *dy, float *dx);
    void (*layer_norm)(
        int64_t n, const float *x, const float *w, const float *b, float epsilon, float *y, float *mean, float *rstd);
    void (*layer_norm_grad)(int64_t n, const float *x, const float *w, float mean, float rstd, const float *dy,
        float *dx, float *dw, float *db); /* dw, db += */
    void (*rms_norm)(int64_t n, const float *x, const float *w, float epsilon, float *y, float *rstd);
    void (*rms_norm_grad)(int64_t n, const float *x, const float *w, float rstd, const float *dy, float *dx, float *dw);
    /* s = -inf where hide (unless NULL) is -inf, not 0; the maximum */
    float (*hide_max)(int64_t n, float *s, const float *hide);
    bool (*finite)(int64_t rows, int64_t n, const float *x, int64_t ld);
    /* row r *= factor[r]; whether all is finite */
    bool (*scale_rows)(int64_t rows, int64_t n, const float *factor, float *x, int64_t ld);
    float (*exp_sum)(int64_t n, float *s, float m); /* s = exp(s - m); the sum */
    /* s = exp(s - most) * over_sum, dp = s * (dp - delta) * scale; 0 where hide (unless NULL) is -inf. Whether an s is
     * at least `large`. */
    bool (*attention_ds)(int64_t n, float *s, float *dp, const float *hide, float most, float over_sum, float delta,
        float scale, float large);
    void (*sincos)(int64_t n, double position, const double *frequency, float *sine, float *cosine);
    /* n pairs */
    void (*rotate)(
        int64_t n, const float *x0, const float *x1, const float *sine, const float *cosine, float *y0, float *y1);
    void (*dropout)(int64_t n, const float *x, float *y, uint64_t key, uint64_t index, uint64_t index_step,
        uint64_t threshold, float scale);
    /* sums, in order of sources; a destination may be the source of its number; past: the caches */
    void (*reduce_all)(int64_t n, int sources, const float *const *src, int destinations, float *const *dst, bool past);
    /* c = a b, or with `add` c += a b; m x n, b and c with contiguous rows: for m, n or k of at most MTH__SMALL. NULL:
       BLAS is as good. */
    void (*product)(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_column, const float *b,
        int64_t ldb, float *c, int64_t ldc, bool add);
} mth__vector;
enum { MTH__SMALL = 64 };
/* the best for this machine after mth__kernels_open; before, one that runs anywhere */
extern const mth__vector *mth__vec;
void mth__vector_open(void);
/* y = row(x), y = row(a, b): n elements, of a row without attributes */
static inline void mth__map(int row, int64_t n, const float *x, float *y) {
    mth__vec->elementwise[row](n, &x, (const int[]){1}, &y, NULL);
}
static inline void mth__map_pair(int row, int64_t n, const float *a, const float *b, float *y) {
    mth__vec->elementwise[row](n, (const float *const[]){a, b}, (const int[]){1, 1}, &y, NULL);
}
/* those that run on this machine, worst first; NULL past the last: for tests */
const mth__vector *mth__vector_variant(int i);
#endif
