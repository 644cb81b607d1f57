/* Sums of many terms. A chain of n additions in float32 may lose n units in the last place, so no kernel has a long
 * one. */
#include "engine/native/kernel_util.h"

void mth__cascade_begin(mth__cascade *cascade, int64_t n, bool add, float *sum, float *scratch) {
    *cascade = (mth__cascade){.n = n, .sum = sum, .level = {add ? scratch : sum}};
    for (int i = 1; i < MTH__CASCADE_LEVELS; i++) cascade->level[i] = scratch + i * n;
    mth__vec->fill(n, 0, cascade->level[0]);
}
void mth__cascade_carry(mth__cascade *cascade) {
    int64_t blocks = cascade->rows;
    for (int i = 0; blocks % MTH__CASCADE_BLOCK == 0 && i < MTH__CASCADE_LEVELS - 1; i++) {
        blocks /= MTH__CASCADE_BLOCK;
        const bool first = i + 1 < MTH__CASCADE_LEVELS - 1 ? blocks % MTH__CASCADE_BLOCK == 1 : blocks == 1;
        if (first)
            memcpy(cascade->level[i + 1], cascade->level[i], (size_t)cascade->n * sizeof(float));
        else
            mth__vec->add_to(cascade->n, cascade->level[i], cascade->level[i + 1]);
    }
    mth__vec->fill(cascade->n, 0, cascade->level[0]);
}
void mth__cascade_end(mth__cascade *cascade) {
    int64_t blocks = cascade->rows ? cascade->rows - 1 : 0;
    for (int i = 1; i < MTH__CASCADE_LEVELS; i++) {
        blocks /= MTH__CASCADE_BLOCK;
        if (i < MTH__CASCADE_LEVELS - 1 ? blocks % MTH__CASCADE_BLOCK : blocks)
            mth__vec->add_to(cascade->n, cascade->level[i], cascade->level[0]);
    }
    if (cascade->level[0] != cascade->sum) mth__vec->add_to(cascade->n, cascade->level[0], cascade->sum);
}

float *mth__panels_begin(mth__panels *panels, int64_t m, int64_t n, void *scratch) {
    *panels = (mth__panels){.m = m, .n = n, .sum = scratch, .term = (float *)((double *)scratch + m * n)};
    return panels->term;
}
void mth__panels_add(mth__panels *panels) {
    const int64_t n = panels->m * panels->n;
    double *restrict sum = panels->sum;
    const float *restrict term = panels->term;
    if (panels->any)
        for (int64_t i = 0; i < n; i++) sum[i] += (double)term[i];
    else
        for (int64_t i = 0; i < n; i++) sum[i] = (double)term[i];
    panels->any = true;
}
void mth__panels_end(const mth__panels *panels, bool add, float *c, int64_t ldc) {
    for (int64_t i = 0; i < panels->m; i++) {
        const double *restrict sum = panels->sum + i * panels->n;
        float *restrict row = c + i * ldc;
        if (panels->any && add)
            for (int64_t j = 0; j < panels->n; j++) row[j] = (float)(sum[j] + (double)row[j]);
        else if (!add)
            for (int64_t j = 0; j < panels->n; j++) row[j] = panels->any ? (float)sum[j] : 0;
    }
}
