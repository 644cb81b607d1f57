#include "base/hash.h"
#include <string.h>
#include <sys/random.h>
#include <time.h>

_Atomic uint64_t mth__hash_secret;

uint64_t mth__hash_choose(void) {
    uint64_t fresh;
    /* early in the life of a machine: better than a constant */
    if (getrandom(&fresh, sizeof fresh, GRND_NONBLOCK) != sizeof fresh) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        fresh = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15 ^ (uint64_t)now.tv_sec ^ (uint64_t)(uintptr_t)&now << 16;
    }
    uint64_t none = 0;
    fresh |= 1;
    return atomic_compare_exchange_strong(&mth__hash_secret, &none, fresh) ? fresh : none;
}

uint64_t mth__hash_words(const uint64_t *word, size_t n) {
    const uint64_t key = mth__hash_key() ^ 0x9e3779b97f4a7c15;
    uint64_t hash = mth__hash_add(mth__hash_key(), n);
    for (; n >= 2; word += 2, n -= 2) hash = mth__hash_fold(hash ^ word[0], key ^ word[1]) + 0xd6e8feb86659fd93;
    return n ? mth__hash_add(hash, *word) : hash;
}

uint64_t mth__hash_text(const char *text, size_t n) {
    uint64_t hash = mth__hash_add(mth__hash_key(), n), word;
    for (; n >= sizeof word; text += sizeof word, n -= sizeof word) {
        memcpy(&word, text, sizeof word);
        hash = mth__hash_add(hash, word);
    }
    word = 0;
    memcpy(&word, text, n);
    return mth__hash_add(hash, word);
}
