#include "base/philox.h"
#include <math.h>

void mth__philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)counter_low, c1 = (uint32_t)(counter_low >> 32), c2 = (uint32_t)counter_high,
             c3 = (uint32_t)(counter_high >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53 * c0, p1 = (uint64_t)0xCD9E8D57 * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9; /* Weyl sequences: the golden ratio and sqrt(3) - 1 */
        k1 += 0xBB67AE85;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static float normal(const uint32_t *words) {
    double uniform = ((double)words[0] + 1) * 0x1p-32; /* in (0, 1]: the logarithm is finite */
    return (float)(sqrt(-2 * log(uniform)) * cos(6.283185307179586 * 0x1p-32 * words[1]));
}

float mth__philox_normal(uint64_t key, uint64_t stream, uint64_t index) {
    uint32_t word[4];
    mth__philox(key, index / 2, stream, word);
    return normal(word + 2 * (index % 2));
}

void mth__philox_normals(uint64_t key, uint64_t stream, uint64_t index, uint64_t stride, size_t count, float *out) {
    uint32_t word[4];
    for (size_t i = 0; i < count; i++, index += stride) {
        if (i == 0 || stride > 1 || index % 2 == 0) mth__philox(key, index / 2, stream, word);
        out[i] = normal(word + 2 * (index % 2));
    }
}

float mth__philox_uniform(uint64_t key, uint64_t stream, uint64_t index) {
    uint32_t word[4];
    mth__philox(key, index / 4, stream, word);
    return (float)(word[index % 4] >> 8) * 0x1p-24f;
}

int64_t mth__philox_below(uint64_t key, uint64_t stream, uint64_t index, int64_t range) {
    uint32_t word[4];
    mth__philox(key, index / 4, stream, word);
    return (int64_t)(word[index % 4] * (uint64_t)range >> 32);
}

uint64_t mth__philox_stream(const char *name) {
    uint64_t hash = 0xcbf29ce484222325;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3;
    return hash;
}
