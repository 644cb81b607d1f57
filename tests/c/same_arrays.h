/* Two runs give the same numbers. */
#ifndef SAME_ARRAYS_H
#define SAME_ARRAYS_H
#include "data/array.h"
#include "engine/backend.h"
#include "unit.h"

/* Within |x - y| <= tolerance * (1 + |x|); 0: bit by bit. */
static void same_arrays(const mth_arrays *a, const mth_arrays *b, double tolerance) {
    CHECK(a && b && a->count == b->count);
    for (size_t i = 0; a && b && i < a->count && i < b->count; i++) {
        const size_t n = (size_t)mth__shape_size(a->item[i].array->shape);
        float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y);
        CHECK_STATUS(mth_array_gather(a->item[i].array, x));
        CHECK_STATUS(mth_array_gather(b->item[i].array, y));
        size_t wrong = 0, first = 0;
        for (size_t k = n; k-- > 0;) {
            /* of NaN nothing is */
            const bool near = fabs((double)x[k] - (double)y[k]) <= tolerance * (1 + fabs((double)x[k]));
            if (tolerance > 0 ? near : memcmp(&x[k], &y[k], sizeof *x) == 0) continue;
            wrong++;
            first = k;
        }
        if (wrong)
            printf("  %s: %zu of %zu differ, the first %.9g and %.9g\n", a->item[i].name, wrong, n, (double)x[first],
                (double)y[first]);
        CHECK(wrong == 0);
        free(x);
        free(y);
    }
}
#endif
