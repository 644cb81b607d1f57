#include "engine/pjrt/xla.h"
#include <string.h>

uint64_t mth__xla_hash(uint64_t seed, const void *bytes, size_t n) {
    /* FNV-1a over words: each step is a bijection of the state, so one changed word can't be undone by the ones that
     * follow. */
    uint64_t hash = seed ^ 0xcbf29ce484222325u, word;
    const char *byte = bytes;
    for (; n >= sizeof word; byte += sizeof word, n -= sizeof word) {
        memcpy(&word, byte, sizeof word);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    word = n;
    for (size_t i = 0; i < n; i++) word = word << 8 | (unsigned char)byte[i];
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}
