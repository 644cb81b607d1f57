/* OpenBLAS, kept to one thread, and from ending the process. A product packs its operands into a block that OpenBLAS
 * maps when more products than ever before are under way at once, and keeps; where nothing can be mapped it calls exit.
 * So no more products are let in than there are blocks, or room to map one: the first block is mapped when the pool
 * starts, where failing is a status, and who finds no room for a further one waits until a product is done.
 * OpenBLAS doesn't tell how many blocks it has. A new one shows in the size of the process, so a product that may map
 * one is run with a look before and after; once one has shown, or after many such products without one, its level is
 * known, and looks are over. The same count lets a fork wait until no product is under way: so the lock of OpenBLAS's
 * blocks is free in the child. */
#include "base/arena.h"
#include "base/fork.h"
#include "engine/native/kernel_util.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MTH_BLAS_PREFIX
#define MTH_BLAS_PREFIX scipy_
#endif
#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define BLAS(name) JOIN(MTH_BLAS_PREFIX, name)
/* Our own declarations: the header's place and its prefixed names differ between distributions, the ABI does not. */
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
void BLAS(cblas_sgemm)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
    const float *b, int ldb, float beta, float *c, int ldc);
void BLAS(cblas_sgemv)(int order, int ta, int m, int n, float alpha, const float *a, int lda, const float *x, int incx,
    float beta, float *y, int incy);
void BLAS(openblas_set_num_threads)(int);
const char *BLAS(openblas_get_config)(void);

/* ---------------------------------------------------------------- products */
static void product(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
    const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    if (n == 1)
        BLAS(cblas_sgemv)(ROW_MAJOR, ta ? TRANS : NO_TRANS, (int)(ta ? k : m), (int)(ta ? m : k), alpha, a, (int)lda, b,
            tb ? 1 : (int)ldb, beta, c, (int)ldc);
    else if (m == 1)
        BLAS(cblas_sgemv)(ROW_MAJOR, tb ? NO_TRANS : TRANS, (int)(tb ? n : k), (int)(tb ? k : n), alpha, b, (int)ldb, a,
            ta ? (int)lda : 1, beta, c, 1);
    else
        BLAS(cblas_sgemm)(ROW_MAJOR, ta ? TRANS : NO_TRANS, tb ? TRANS : NO_TRANS, (int)m, (int)n, (int)k, alpha, a,
            (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

/* ---------------------------------------------------------------- room */
/* PyPI's builds map blocks of 32 MiB, others as much as 128. SPARE is what must be free: the rest is for whoever maps
 * memory meanwhile. */
enum { BLOCK = MTH_BLAS_BLOCK_MIB << 20, SPARE = BLOCK + (16 << 20), LOOKS = 200, SHUT = 1 << 20 };

typedef struct {
    bool looks;
    size_t before;
} room;                                                     /* of one product */
static pthread_mutex_t looking = PTHREAD_MUTEX_INITIALIZER; /* one product at a time looks */
/* products under way; how many of them need no look */
static atomic_int inside, known;
/* products that OpenBLAS has blocks for; looks in a row that saw none mapped */
static int most, unseen;
static mth__fork_watch watch;

/* Bytes of the process's address space; 0 where they can't be told. */
static size_t process_bytes(void) {
    char text[64];
    int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    if (n <= 0) return 0;
    text[n] = 0;
    return (size_t)strtoull(text, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

static bool is_room(void) {
    void *spare = mmap(NULL, SPARE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (spare == MAP_FAILED) return false;
    munmap(spare, SPARE);
    return true;
}

/* One more than are known to fit. Where it is let in, the lock is held until it leaves. */
static bool enter_looking(room *panel) {
    pthread_mutex_lock(&looking);
    const int n = atomic_load(&inside);
    if (n >= atomic_load(&known) && n < most && is_room()) {
        atomic_fetch_add(&inside, 1);
        *panel = (room){true, process_bytes()};
        return true;
    }
    pthread_mutex_unlock(&looking);
    return false;
}

static room enter(void) {
    room panel = {false, 0};
    for (int n = atomic_load_explicit(&inside, memory_order_relaxed);;) {
        if (n < atomic_load_explicit(&known, memory_order_relaxed)) {
            if (atomic_compare_exchange_weak(&inside, &n, n + 1)) return panel;
            continue;
        }
        if (enter_looking(&panel)) return panel;
        sched_yield();
        n = atomic_load(&inside);
    }
}

/* `certain`: it was a product that takes a block, and the only one. */
static void leave(room panel, bool certain) {
    atomic_fetch_sub(&inside, 1);
    if (!panel.looks) return;
    const size_t after = process_bytes();
    if (certain || (panel.before && after >= panel.before + BLOCK && after < panel.before + SPARE) ||
        ++unseen == LOOKS) {
        unseen = 0;
        atomic_fetch_add(&known, 1);
    }
    pthread_mutex_unlock(&looking);
}

static void around_fork(void *nothing, mth__fork_moment moment) {
    (void)nothing;
    if (moment == MTH__FORK_BEFORE) {
        pthread_mutex_lock(&looking);
        atomic_fetch_sub(&known, SHUT); /* who is outside waits for the lock */
        while (atomic_load(&inside)) sched_yield();
    } else {
        atomic_fetch_add(&known, SHUT);
        pthread_mutex_unlock(&looking);
    }
}

/* ---------------------------------------------------------------- for the kernels */
void mth__gemm_open(void) {
    const char *threads = strstr(BLAS(openblas_get_config)(), "MAX_THREADS=");
    most = threads ? (int)strtol(threads + strlen("MAX_THREADS="), NULL, 10) : 0;
    if (most < 1) most = 1;
    BLAS(openblas_set_num_threads)(1);
    mth__fork_watch_add(&watch, around_fork, NULL);
}

mth_status mth__gemm_start(void) {
    enum { N = 160 /* OpenBLAS may do without a block for less */ };
    room panel;
    if (atomic_load(&known)) return NULL;
    float *a = mth__calloc(3 * N * N, sizeof *a);
    const bool alone = a && enter_looking(&panel);
    if (alone) {
        product(false, false, N, N, N, 1, a, N, a + N * N, N, 0, a + 2 * N * N, N);
        leave(panel, true);
    }
    mth__free(a);
    if (alone || atomic_load(&known)) return NULL; /* another thread may have come first */
    return FAIL(MTH_ERROR_MEMORY, F("no memory for matrix products: OpenBLAS takes %d MiB", BLOCK >> 20),
        F("free memory, or raise the limit of the process (ulimit -v) by %d MiB", SPARE >> 20));
}

void mth__gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
    const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    if (m <= 0 || n <= 0) return;
    if (k <= 0) { /* BLAS need not touch c */
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
        return;
    }
    const room panel = enter();
    product(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    leave(panel, false);
}
