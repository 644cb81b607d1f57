/* Ranges of bytes that are taken: found, given back, and fitted. */
#include "emit/ranges.h"
#include "guarded.h"

GUARDED(ranges_agree_with_a_bitmap) {
    mth__ranges ranges = mth__ranges_new(arena);
    uint8_t taken[300] = {0}; /* by byte: 1 where a range starts, 2 where it goes on */
    unsigned seed = 1;
    for (int k = 0; k < 20000; k++) {
        seed = seed * 1664525u + 1013904223u;
        int start = (int)((seed >> 8) % 256), size = 1 + (int)((seed >> 20) % 40), busy = 0;
        for (int i = start; i < start + size; i++) busy |= taken[i];
        const mth__range *range = mth__ranges_overlapping(&ranges, start, size);
        CHECK((range != NULL) == (busy != 0));
        if (range) {
            int64_t first = range->start, n = range->size;
            CHECK(first < start + size && first + n > start && taken[first] == 1);
            if (k % 3) continue;
            mth__ranges_erase(&ranges, first);
            memset(taken + first, 0, (size_t)n);
        } else {
            mth__ranges_insert(&ranges, start, size, k);
            memset(taken + start, 2, (size_t)size);
            taken[start] = 1;
        }
        int wanted = 1 + (int)(seed >> 16) % 40, lowest = -1;
        for (int i = 0, n; i < 300 && lowest < 0; i += n) {
            for (n = 1; taken[i] == 1 && taken[i + n] == 2;) n++;
            if (taken[i] == 1 && n >= wanted) lowest = i;
        }
        range = mth__ranges_fit(&ranges, wanted);
        CHECK(range ? range->start == lowest : lowest < 0);
    }
}
RUN()
