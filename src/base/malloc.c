#include "base/malloc.h"
#include "mithril.h"
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

char mth__no_memory[] = "memory is exhausted";

static atomic_int_least64_t allocations, live;
static atomic_int_least64_t fail_at = -1; /* the value of `allocations` at which the next one fails */

void mth_debug_fail_allocation(int64_t index) {
    atomic_store(&fail_at, index < 0 ? -1 : atomic_load(&allocations) + index);
}
int64_t mth_debug_allocation_count(void) { return atomic_load(&allocations); }
int64_t mth_debug_live_allocations(void) { return atomic_load(&live); }

/* A first touch of fresh memory costs a third on large pages. The hint may be refused: then small ones do. */
enum { HUGE_PAGE = 2 << 20, LARGE = 2 * HUGE_PAGE };
static size_t page_below(size_t bytes, size_t page) { return bytes & ~(page - 1); }
static void *large(size_t size) {
    void *memory;
    if (posix_memalign(&memory, HUGE_PAGE, size)) return NULL;
    madvise(memory, page_below(size, HUGE_PAGE), MADV_HUGEPAGE);
    return memory;
}

void mth__memory_covered(void *memory, size_t from, size_t to) {
    const size_t first = page_below(from, HUGE_PAGE), end = page_below(to, HUGE_PAGE);
    if (first < end) madvise((char *)memory + first, end - first, MADV_HUGEPAGE);
}

void mth__memory_uncovered(void *memory, size_t size) {
    enum { PAGE = 4096 };
    const size_t before = (PAGE - (uintptr_t)memory % PAGE) % PAGE;
    if (size >= before + PAGE) madvise((char *)memory + before, page_below(size - before, PAGE), MADV_DONTNEED);
}

static bool is_to_fail(size_t size) {
    int64_t index = atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    return index == atomic_load_explicit(&fail_at, memory_order_relaxed) || size > PTRDIFF_MAX - HUGE_PAGE;
}

static void *counted(void *memory) {
    if (memory) atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    return memory;
}

void *mth__malloc(size_t size) {
    if (is_to_fail(size)) return NULL;
    return counted(size < LARGE ? aligned_alloc(64, size ? (size + 63) & ~(size_t)63 : 64) : large(size));
}

/* A call of a small model makes some dozen objects: aligned, each would take four times as long. */
static void *object(size_t size) {
    if (is_to_fail(size)) return NULL;
    return counted(size < LARGE ? malloc(size ? size : 1) : large(size));
}

void *mth__malloc_bare(size_t size) {
    void *memory;
    if (is_to_fail(size) || posix_memalign(&memory, HUGE_PAGE, size)) return NULL;
    madvise(memory, page_below(size, HUGE_PAGE), MADV_NOHUGEPAGE);
    return counted(memory);
}

static void *zeroed(size_t count, size_t size, void *(*allocate)(size_t)) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    void *memory = allocate(bytes);
    if (memory) memset(memory, 0, bytes);
    return memory;
}
void *mth__calloc(size_t count, size_t size) { return zeroed(count, size, object); }
void *mth__calloc_aligned(size_t count, size_t size) { return zeroed(count, size, mth__malloc); }

void mth__free(void *memory) {
    if (!memory || memory == mth__no_memory) return;
    atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    free(memory);
}
