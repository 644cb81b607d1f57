#include "engine/native/kernel_vector.h"
#include <math.h>
#include <string.h>

#define CAT2(a, b) a##b
#define CAT(a, b) CAT2(a, b)

/* The variant that runs anywhere: 4 lanes, which every 64-bit machine has (SSE2, NEON). */
#define W 4
#define N(name) CAT(name, _base)
#define TITLE "baseline"
#if defined(__x86_64__)
#include <immintrin.h>
#define FMA(a, b, c) ((a) * (b) + (c))
#define SQRT(x) ((V)_mm_sqrt_ps((__m128)(x)))
#define MUL32(a, b) ((U)_mm_mul_epu32((__m128i)(a), (__m128i)(b)))
#define STREAM(p, x) _mm_stream_ps(p, (__m128)(x))
#define FENCE _mm_sfence
#elif defined(__aarch64__)
#include <arm_neon.h>
#define FMA(a, b, c) ((V)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define SQRT(x) ((V)vsqrtq_f32((float32x4_t)(x)))
#define MUL32(a, b) ((a) * (b))
#define STREAM(p, x) N(store)(p, x)
#define FENCE() ((void)0)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#define SQRT(x) ((V){sqrtf((x)[0]), sqrtf((x)[1]), sqrtf((x)[2]), sqrtf((x)[3])})
#define MUL32(a, b) ((a) * (b))
#define STREAM(p, x) N(store)(p, x)
#define FENCE() ((void)0)
#endif
#include "engine/native/kernel_vector_body.h"

#if defined(__x86_64__)
#define W 8
#define N(name) CAT(name, _avx2)
#define TITLE "AVX2"
#define FMA(a, b, c) ((V)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define SQRT(x) ((V)_mm256_sqrt_ps((__m256)(x)))
#define MUL32(a, b) ((U)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#define STREAM(p, x) _mm256_stream_ps(p, (__m256)(x))
#define FENCE _mm_sfence
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "engine/native/kernel_vector_body.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define W 16
#define N(name) CAT(name, _avx512)
#define TITLE "AVX-512"
#define FMA(a, b, c) ((V)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define SQRT(x) ((V)_mm512_sqrt_ps((__m512)(x)))
#define MUL32(a, b) ((U)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#define STREAM(p, x) _mm512_stream_ps(p, (__m512)(x))
#define FENCE _mm_sfence
#if defined(__clang__)
#pragma clang attribute push(                                                                                          \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#include "engine/native/kernel_vector_body.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

const mth__vector *mth__vec = &table_base;

const mth__vector *mth__vector_variant(int i) {
    const mth__vector *variant[3];
    int n = 0;
    variant[n++] = &table_base;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        variant[n++] = &table_avx2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            variant[n++] = &table_avx512;
    }
#endif
    return i < n ? variant[i] : NULL;
}

void mth__vector_open(void) {
    const mth__vector *vector;
    for (int i = 0; (vector = mth__vector_variant(i)); i++) mth__vec = vector;
}
