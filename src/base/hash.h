/* Hashes of what texts and users choose. The key is the process's own secret, so that nobody can choose names, lists or
   numbers that all fall into one slot of a table: a table's operations stay constant in time, whatever it is given.
     Multiplication as in Wang Yi's wyhash. */
#ifndef MTH__HASH_H
#define MTH__HASH_H
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

extern _Atomic uint64_t mth__hash_secret; /* 0: not chosen yet */
uint64_t mth__hash_choose(void);
static inline uint64_t mth__hash_key(void) { /* the same for as long as the process lives; not 0 */
    const uint64_t key = atomic_load_explicit(&mth__hash_secret, memory_order_relaxed);
    return key ? key : mth__hash_choose();
}

static inline uint64_t mth__hash_fold(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}
/* Begins with mth__hash_key(). */
static inline uint64_t mth__hash_add(uint64_t hash, uint64_t word) {
    return mth__hash_fold(hash ^ word, mth__hash_key() ^ 0x9e3779b97f4a7c15) + 0xd6e8feb86659fd93;
}
uint64_t mth__hash_words(const uint64_t *, size_t n);
uint64_t mth__hash_text(const char *, size_t n);
#endif
