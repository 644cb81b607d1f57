/* Sums of many terms. A chain of n additions in float32 may lose n units in the last place, so no kernel has a long
 * one. */
#include "engine/native/kernel_util.h"

void mth__cascade_begin(mth__cascade *s, int64_t n, bool add, float *sum, float *scratch) {
    *s = (mth__cascade){.n = n, .sum = sum, .level = {add ? scratch : sum}};
    for (int i = 1; i < MTH__CASCADE_LEVELS; i++) s->level[i] = scratch + i * n;
    mth__vec->fill(n, 0, s->level[0]);
}
void mth__cascade_carry(mth__cascade *s) {
    int64_t blocks = s->rows;
    for (int i = 0; blocks % MTH__CASCADE_BLOCK == 0 && i < MTH__CASCADE_LEVELS - 1; i++) {
        blocks /= MTH__CASCADE_BLOCK;
        const bool first = i + 1 < MTH__CASCADE_LEVELS - 1 ? blocks % MTH__CASCADE_BLOCK == 1 : blocks == 1;
        if (first)
            memcpy(s->level[i + 1], s->level[i], (size_t)s->n * sizeof(float));
        else
            mth__vec->add_to(s->n, s->level[i], s->level[i + 1]);
    }
    mth__vec->fill(s->n, 0, s->level[0]);
}
void mth__cascade_end(mth__cascade *s) {
    int64_t blocks = s->rows ? s->rows - 1 : 0;
    for (int i = 1; i < MTH__CASCADE_LEVELS; i++) {
        blocks /= MTH__CASCADE_BLOCK;
        if (i < MTH__CASCADE_LEVELS - 1 ? blocks % MTH__CASCADE_BLOCK : blocks)
            mth__vec->add_to(s->n, s->level[i], s->level[0]);
    }
    if (s->level[0] != s->sum) mth__vec->add_to(s->n, s->level[0], s->sum);
}

float *mth__panels_begin(mth__panels *s, int64_t m, int64_t n, void *scratch) {
    *s = (mth__panels){.m = m, .n = n, .sum = scratch, .term = (float *)((double *)scratch + m * n)};
    for (int64_t i = 0; i < m * n; i++) s->sum[i] = 0;
    return s->term;
}
void mth__panels_add(mth__panels *s) {
    for (int64_t i = 0; i < s->m * s->n; i++) s->sum[i] += (double)s->term[i];
}
void mth__panels_end(const mth__panels *s, bool add, float *c, int64_t ldc) {
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t j = 0; j < s->n; j++)
            c[i * ldc + j] = (float)(s->sum[i * s->n + j] + (add ? (double)c[i * ldc + j] : 0));
}
