#include "base/hash.h"
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

uint64_t mth__hash_key(void) {
    static _Atomic uint64_t key;
    uint64_t k = atomic_load_explicit(&key, memory_order_relaxed);
    if (k) return k;
    /* early in the life of a machine: better than a constant */
    if (getrandom(&k, sizeof k, GRND_NONBLOCK) != sizeof k) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        k = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15 ^ (uint64_t)now.tv_sec ^ (uint64_t)(uintptr_t)&now << 16;
    }
    uint64_t none = 0;
    k |= 1;
    return atomic_compare_exchange_strong(&key, &none, k) ? k : none;
}

uint64_t mth__hash_text(const char *s, size_t n) {
    uint64_t h = mth__hash_add(mth__hash_key(), n), x;
    for (; n >= sizeof x; s += sizeof x, n -= sizeof x) {
        memcpy(&x, s, sizeof x);
        h = mth__hash_add(h, x);
    }
    x = 0;
    memcpy(&x, s, n);
    return mth__hash_add(h, x);
}
