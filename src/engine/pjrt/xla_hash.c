#include "engine/pjrt/xla.h"
#include <string.h>

uint64_t mth__xla_hash(uint64_t seed, const void *bytes, size_t n) {
    /* FNV-1a over words: each step is a bijection of the state, so one changed word can't be undone by the ones that
     * follow. */
    uint64_t h = seed ^ 0xcbf29ce484222325u, word;
    const char *p = bytes;
    for (; n >= sizeof word; p += sizeof word, n -= sizeof word) {
        memcpy(&word, p, sizeof word);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    word = n;
    for (size_t i = 0; i < n; i++) word = word << 8 | (unsigned char)p[i];
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}
