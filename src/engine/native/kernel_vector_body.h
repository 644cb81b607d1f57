/* Included once for each instruction set with W (lanes), N (names), TITLE, FMA, SQRT, MUL32 (the low halves of 64-bit
 * lanes), STREAM (a store past the caches) and FENCE; undefines them at its end. GNU vectors: gcc and clang turn the
 * operators into the machine's. The part is not guarded: it is a body, not a header. */
#define V N(v)
#define I N(vi)
#define B N(vb)
#define D N(vd)
#define H N(vh)
#define U N(vu)
#define INLINE static inline __attribute__((always_inline))
typedef float V __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t I __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t B __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef double D __attribute__((vector_size(4 * W), aligned(8), may_alias)); /* W / 2 lanes */
typedef float H __attribute__((vector_size(2 * W), aligned(4), may_alias));
typedef uint64_t U __attribute__((vector_size(4 * W), aligned(8), may_alias));

INLINE V N(set)(float x) { return x - (V){0}; } /* not +: 0 + -0 is 0, so that the addition would stay */
INLINE V N(load)(const float *p) { return *(const V *)p; }
INLINE void N(store)(float *p, V x) { *(V *)p = x; }
INLINE V N(load_part)(const float *p, int64_t n, float rest) {
    float t[W];
    for (int i = 0; i < W; i++) t[i] = i < n ? p[i] : rest;
    return N(load)(t);
}
INLINE void N(store_part)(float *p, V x, int64_t n) {
    float t[W];
    N(store)(t, x);
    for (int i = 0; i < n; i++) p[i] = t[i];
}
INLINE V N(choose)(I mask, V a, V b) { return (V)((mask & (I)a) | (~mask & (I)b)); }
INLINE V N(larger)(V a, V b) { return N(choose)((a > b) | (a != a), a, b); } /* NaN where one is */
INLINE double N(lanes)(V x) {
    double s = 0;
    for (int i = 0; i < W; i++) s += (double)x[i];
    return s;
}
INLINE float N(lanes_max)(V x) {
    float m = x[0];
    for (int i = 1; i < W; i++) m = x[i] > m || x[i] != x[i] ? x[i] : m;
    return m;
}

/* ---- functions of one vector */
/* exp(x) = 2^k exp(r), r in [-ln 2 / 2, ln 2 / 2], a polynomial of degree 7 (Cephes). 2^k in two factors: subnormal
 * results round once. */
INLINE V N(exp_v)(V x) {
    x = N(choose)(x < -104.0f, N(set)(-104.0f), N(choose)(x > 89.0f, N(set)(89.0f), x));
    const V magic = N(set)(12582912.0f);
    V k = FMA(x, N(set)(1.44269504088896341f), magic) - magic;
    V r = FMA(k, N(set)(-0.693359375f), x);
    r = FMA(k, N(set)(2.12194440e-4f), r);
    V p = N(set)(1.9875691500e-4f);
    p = FMA(p, r, N(set)(1.3981999507e-3f));
    p = FMA(p, r, N(set)(8.3334519073e-3f));
    p = FMA(p, r, N(set)(4.1665795894e-2f));
    p = FMA(p, r, N(set)(1.6666665459e-1f));
    p = FMA(p, r, N(set)(5.0000001201e-1f));
    p = FMA(p, r * r, r) + 1.0f;
    I i = __builtin_convertvector(N(choose)(k == k, k, N(set)(0)), I), half = i >> 1;
    return p * (V)((half + 127) << 23) * (V)((i - half + 127) << 23);
}
INLINE V N(log_v)(V x) {
    I tiny = x < 1.17549435e-38f;
    V scaled = N(choose)(tiny, x * 8388608.0f, x);
    B bits = (B)scaled; /* of negative numbers they wrap: those become NaN below */
    I e = (I)(bits - 0x3f3504f3u) >> 23;
    V m = (V)(bits - ((B)e << 23)) - 1.0f, k = __builtin_convertvector(e - (tiny & 23), V), z = m * m;
    V p = N(set)(7.0376836292e-2f);
    p = FMA(p, m, N(set)(-1.1514610310e-1f));
    p = FMA(p, m, N(set)(1.1676998740e-1f));
    p = FMA(p, m, N(set)(-1.2420140846e-1f));
    p = FMA(p, m, N(set)(1.4249322787e-1f));
    p = FMA(p, m, N(set)(-1.6668057665e-1f));
    p = FMA(p, m, N(set)(2.0000714765e-1f));
    p = FMA(p, m, N(set)(-2.4999993993e-1f));
    p = FMA(p, m, N(set)(3.3333331174e-1f));
    p = FMA(k, N(set)(-2.12194440e-4f), p * m * z);
    V y = FMA(k, N(set)(0.693359375f), m + FMA(z, N(set)(-0.5f), p));
    y = N(choose)(x == INFINITY, x, y);
    y = N(choose)(x == 0.0f, N(set)(-INFINITY), y);
    return N(choose)((x < 0.0f) | (x != x), N(set)(NAN), y);
}
INLINE V N(absolute)(V x) { return (V)((I)x & 0x7fffffff); }
INLINE V N(with_sign)(V x, V sign) { return (V)((I)x | ((I)sign & (int32_t)0x80000000)); } /* x >= 0 */
INLINE V N(sigmoid_v)(V x) { return 1.0f / (1.0f + N(exp_v)(-x)); }
INLINE V N(tanh_v)(V x) {
    V t = N(absolute)(x), z = x * x;
    V p = N(set)(-5.70498872745e-3f);
    p = FMA(p, z, N(set)(2.06390887954e-2f));
    p = FMA(p, z, N(set)(-5.37397155531e-2f));
    p = FMA(p, z, N(set)(1.33314422036e-1f));
    p = FMA(p, z, N(set)(-3.33332819422e-1f));
    V near = FMA(p * z, t, t), far = 1.0f - 2.0f / (N(exp_v)(t + t) + 1.0f);
    return N(with_sign)(N(choose)(t < 0.625f, near, far), x);
}
/* erf: an odd polynomial below 475/512, above it 1 - exp(a polynomial). */
INLINE V N(erf_v)(V x) {
    V t = N(absolute)(x), s = x * x;
    V r = FMA(N(set)(-1.72853470e-5f), t, N(set)(3.83197126e-4f)),
      u = FMA(N(set)(-3.88396438e-3f), t, N(set)(2.42546219e-2f));
    r = FMA(r, s, u);
    r = FMA(r, t, N(set)(-1.06777877e-1f));
    r = FMA(r, t, N(set)(-6.34846687e-1f));
    r = FMA(r, t, N(set)(-1.28717512e-1f));
    r = FMA(r, t, -t);
    V far = N(with_sign)(N(choose)(t > 4.0f, N(set)(1.0f), 1.0f - N(exp_v)(r)), x);
    V p = N(set)(-5.96761703e-4f);
    p = FMA(p, s, N(set)(4.99119423e-3f));
    p = FMA(p, s, N(set)(-2.67681349e-2f));
    p = FMA(p, s, N(set)(1.12819925e-1f));
    p = FMA(p, s, N(set)(-3.76125336e-1f));
    p = FMA(p, s, N(set)(1.28379166e-1f));
    return N(choose)(t > 0.927734375f, far, FMA(p, x, x));
}
/* of the standard normal */
INLINE V N(cdf)(V x) { return FMA(N(erf_v)(x * 0.707106781186547524f), N(set)(0.5f), N(set)(0.5f)); }
/* 0.5 (1 + tanh u) is sigmoid(2u): keeps the precision of the negative tail. */
INLINE V N(gelu_gate)(V x) {
    return N(sigmoid_v)(x * FMA(x * x, N(set)(2 * 0.797884560802865f * 0.044715f), N(set)(2 * 0.797884560802865f)));
}
INLINE V N(gelu_slope)(V x) { return FMA(x * 0.398942280401432678f, N(exp_v)(x * x * -0.5f), N(cdf)(x)); }
INLINE V N(gelu_tanh_slope)(V x) {
    V z = x * x; /* which may overflow where s is 0 or 1 long since, and 0 * inf is NaN */
    z = N(choose)(z < 1e30f, z, N(set)(1e30f));
    V s = N(gelu_gate)(x), du = FMA(z, N(set)(6 * 0.797884560802865f * 0.044715f), N(set)(2 * 0.797884560802865f));
    return FMA(x * s * (1.0f - s), du, s);
}
INLINE V N(silu_slope)(V x) {
    V s = N(sigmoid_v)(x);
    return s * FMA(x, 1.0f - s, N(set)(1.0f));
}

#include "engine/native/kernel_vector_elementwise.h"

/* ---- runs */
static void N(fill)(int64_t n, float value, float *y) {
    int64_t i = 0;
    for (; i + W <= n; i += W) N(store)(y + i, N(set)(value));
    for (; i < n; i++) y[i] = value;
}
static void N(add_to)(int64_t n, const float *x, float *y) {
    N(add_row)(n, (const float *const[]){y, x}, (const int[]){1, 1}, (float *const[]){y}, NULL);
}
static void N(max_to)(int64_t n, const float *x, float *y) {
    N(maximum_row)(n, (const float *const[]){y, x}, (const int[]){1, 1}, (float *const[]){y}, NULL);
}
static void N(scale)(int64_t n, float by, const float *x, float *y) {
    N(scale_row)(n, &x, (const int[]){1}, &y, &(mth__attrs){.by = (double)by});
}
static void N(axpy)(int64_t n, float a, const float *x, float *y) {
    int64_t i = 0;
    const V va = N(set)(a);
    for (; i + W <= n; i += W) N(store)(y + i, FMA(va, N(load)(x + i), N(load)(y + i)));
    for (; i < n; i++) y[i] = y[i] + a * x[i];
}
/* The sum of `term` (of the vectors at i) over a row: four chains hide the latency of the addition. */
#define TOTAL(total, n, term, term_part)                                                                               \
    double total = 0;                                                                                                  \
    for (int64_t begin = 0, end; begin < (n); begin = end) {                                                           \
        end = begin + 4096 < (n) ? begin + 4096 : (n);                                                                 \
        V s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};                                                                      \
        int64_t at = begin, i;                                                                                         \
        for (; at + 4 * W <= end; at += 4 * W) {                                                                       \
            i = at;                                                                                                    \
            s0 += term;                                                                                                \
            i = at + W;                                                                                                \
            s1 += term;                                                                                                \
            i = at + 2 * W;                                                                                            \
            s2 += term;                                                                                                \
            i = at + 3 * W;                                                                                            \
            s3 += term;                                                                                                \
        }                                                                                                              \
        for (i = at; i + W <= end; i += W) s0 += term;                                                                 \
        if (i < end) {                                                                                                 \
            const int64_t k = end - i;                                                                                 \
            s1 += term_part;                                                                                           \
        }                                                                                                              \
        total += N(lanes)((s0 + s1) + (s2 + s3));                                                                      \
    }
static double N(sum)(int64_t n, const float *x) {
    TOTAL(total, n, N(load)(x + i), N(load_part)(x + i, k, 0))
    return total;
}
static double N(dot)(int64_t n, const float *a, const float *b) {
    TOTAL(total, n, N(load)(a + i) * N(load)(b + i), N(load_part)(a + i, k, 0) * N(load_part)(b + i, k, 0))
    return total;
}
/* a * (b - c) */
static double N(dot_apart)(int64_t n, const float *a, const float *b, const float *c) {
    TOTAL(total, n, N(load)(a + i) * (N(load)(b + i) - N(load)(c + i)),
        N(load_part)(a + i, k, 0) * (N(load_part)(b + i, k, 0) - N(load_part)(c + i, k, 0)))
    return total;
}
static double N(deviation)(int64_t n, const float *x, float mean) {
    TOTAL(total, n, (N(load)(x + i) - mean) * (N(load)(x + i) - mean),
        (N(load_part)(x + i, k, mean) - mean) * (N(load_part)(x + i, k, mean) - mean))
    return total;
}
/* a * b * (c - mean) */
static double N(dot3)(int64_t n, const float *a, const float *b, const float *c, float mean) {
    TOTAL(total, n, N(load)(a + i) * N(load)(b + i) * (N(load)(c + i) - mean),
        N(load_part)(a + i, k, 0) * N(load_part)(b + i, k, 0) * (N(load_part)(c + i, k, 0) - mean))
    return total;
}
static float N(max)(int64_t n, const float *x) {
    V m0 = N(set)(-INFINITY), m1 = m0;
    int64_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        m0 = N(larger)(m0, N(load)(x + i));
        m1 = N(larger)(m1, N(load)(x + i + W));
    }
    for (; i + W <= n; i += W) m0 = N(larger)(m0, N(load)(x + i));
    if (i < n) m1 = N(larger)(m1, N(load_part)(x + i, n - i, -INFINITY));
    return N(lanes_max)(N(larger)(m0, m1));
}
static float N(hide_max)(int64_t n, float *s, const float *hide) {
    if (!hide) return N(max)(n, s);
    V m = N(set)(-INFINITY);
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        const V h = N(load)(hide + i), x = N(choose)(h < 0.0f, h, N(load)(s + i));
        N(store)(s + i, x);
        m = N(larger)(m, x);
    }
    if (i < n) {
        const V h = N(load_part)(hide + i, n - i, -INFINITY), x = N(choose)(h < 0.0f, h, N(load_part)(s + i, n - i, 0));
        N(store_part)(s + i, x, n - i);
        m = N(larger)(m, x);
    }
    return N(lanes_max)(m);
}
/* The sign bit is set where x is not finite. */
INLINE I N(beyond)(V x) { return (I)(((B)x & 0x7fffffffu) + 0x00800000u); }
/* Whether the sign bit of a lane is set: of the result of a comparison, whether it holds in one. */
INLINE bool N(any)(I x) {
    int all = 0;
    for (int i = 0; i < W; i++) all |= x[i];
    return all < 0;
}
static bool N(finite)(int64_t rows, int64_t n, const float *x, int64_t ld) {
    I beyond = {0};
    for (int64_t row = 0; row < rows; row++, x += ld) {
        int64_t i = 0;
        for (; i + W <= n; i += W) beyond |= N(beyond)(N(load)(x + i));
        if (i < n) beyond |= N(beyond)(N(load_part)(x + i, n - i, 0));
    }
    return !N(any)(beyond);
}
static bool N(scale_rows)(int64_t rows, int64_t n, const float *factor, float *x, int64_t ld) {
    I beyond = {0};
    for (int64_t row = 0; row < rows; row++, x += ld) {
        const V f = N(set)(factor[row]);
        int64_t i = 0;
        for (; i + W <= n; i += W) {
            const V y = N(load)(x + i) * f;
            N(store)(x + i, y);
            beyond |= N(beyond)(y);
        }
        if (i < n) {
            const V y = N(load_part)(x + i, n - i, 0) * f;
            N(store_part)(x + i, y, n - i);
            beyond |= N(beyond)(y);
        }
    }
    return !N(any)(beyond);
}
static float N(exp_sum)(int64_t n, float *s, float m) {
    V sum = {0};
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        V p = N(exp_v)(N(load)(s + i) - m);
        N(store)(s + i, p);
        sum += p;
    }
    if (i < n) {
        V p = N(exp_v)(N(load_part)(s + i, n - i, -INFINITY) - m);
        N(store_part)(s + i, p, n - i);
        sum += p;
    }
    return (float)N(lanes)(sum);
}
static void N(softmax)(int64_t n, const float *x, float *y) {
    const float m = N(max)(n, x);
    double total = 0;
    for (int64_t at = 0; at < n; at += 4096) {
        const int64_t k = n - at < 4096 ? n - at : 4096;
        memcpy(y + at, x + at, (size_t)k * sizeof *y);
        total += (double)N(exp_sum)(k, y + at, m);
    }
    N(scale)(n, (float)(1 / total), y, y);
}
static void N(softmax_grad)(int64_t n, const float *y, const float *dy, float *dx) {
    const float d = (float)N(dot)(n, y, dy);
    int64_t i = 0;
    for (; i + W <= n; i += W) N(store)(dx + i, N(load)(y + i) * (N(load)(dy + i) - d));
    for (; i < n; i++) dx[i] = y[i] * (dy[i] - d);
}
static void N(layer_norm)(
    int64_t n, const float *x, const float *w, const float *b, float epsilon, float *y, float *mean, float *rstd) {
    const float m = n ? (float)(N(sum)(n, x) / (double)n) : 0;
    const float r = (float)(1 / sqrt((n ? N(deviation)(n, x, m) / (double)n : 0) + (double)epsilon));
    int64_t i = 0;
    for (; i + W <= n; i += W) N(store)(y + i, FMA((N(load)(x + i) - m) * r, N(load)(w + i), N(load)(b + i)));
    for (; i < n; i++) y[i] = (x[i] - m) * r * w[i] + b[i];
    *mean = m;
    *rstd = r;
}
static void N(layer_norm_grad)(int64_t n, const float *x, const float *w, float mean, float rstd, const float *dy,
    float *dx, float *dw, float *db) {
    const double count = n ? (double)n : 1;
    const float c1 = (float)(N(dot)(n, dy, w) / count), c2 = (float)(N(dot3)(n, dy, w, x, mean) * (double)rstd / count);
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        V g = N(load)(dy + i), h = (N(load)(x + i) - mean) * rstd;
        N(store)(dx + i, (g * N(load)(w + i) - c1 - h * c2) * rstd);
        N(store)(dw + i, FMA(g, h, N(load)(dw + i)));
        N(store)(db + i, N(load)(db + i) + g);
    }
    for (; i < n; i++) {
        const float g = dy[i], h = (x[i] - mean) * rstd;
        dx[i] = (g * w[i] - c1 - h * c2) * rstd;
        dw[i] += g * h;
        db[i] += g;
    }
}
static void N(rms_norm)(int64_t n, const float *x, const float *w, float epsilon, float *y, float *rstd) {
    const float r = (float)(1 / sqrt((n ? N(dot)(n, x, x) / (double)n : 0) + (double)epsilon));
    int64_t i = 0;
    for (; i + W <= n; i += W) N(store)(y + i, N(load)(x + i) * r * N(load)(w + i));
    for (; i < n; i++) y[i] = x[i] * r * w[i];
    *rstd = r;
}
static void N(rms_norm_grad)(
    int64_t n, const float *x, const float *w, float rstd, const float *dy, float *dx, float *dw) {
    const float c2 = (float)(N(dot3)(n, dy, w, x, 0) * (double)rstd / (n ? (double)n : 1));
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        V g = N(load)(dy + i), h = N(load)(x + i) * rstd;
        N(store)(dx + i, (g * N(load)(w + i) - h * c2) * rstd);
        N(store)(dw + i, FMA(g, h, N(load)(dw + i)));
    }
    for (; i < n; i++) {
        const float g = dy[i], h = x[i] * rstd;
        dx[i] = (g * w[i] - h * c2) * rstd;
        dw[i] += g * h;
    }
}
static bool N(attention_ds)(int64_t n, float *s, float *dp, const float *hide, float most, float over_sum, float delta,
    float scale, float large) {
    I any = {0};
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        V p = N(exp_v)(N(load)(s + i) - most) * over_sum, d = p * (N(load)(dp + i) - delta) * scale;
        if (hide) {
            const I seen = N(load)(hide + i) >= 0.0f;
            p = (V)(seen & (I)p);
            d = (V)(seen & (I)d);
        }
        N(store)(s + i, p);
        N(store)(dp + i, d);
        any |= p >= large;
    }
    if (i < n) {
        V p = N(exp_v)(N(load_part)(s + i, n - i, -INFINITY) - most) * over_sum,
          d = p * (N(load_part)(dp + i, n - i, 0) - delta) * scale;
        if (hide) {
            const I seen = N(load_part)(hide + i, n - i, -INFINITY) >= 0.0f;
            p = (V)(seen & (I)p);
            d = (V)(seen & (I)d);
        }
        N(store_part)(s + i, p, n - i);
        N(store_part)(dp + i, d, n - i);
        any |= p >= large;
    }
    return N(any)(any);
}
/* In double, angles reduced by pi/2 in three parts (exact products while the quotient has at most 20 bits), Taylor
   polynomials on [-pi/4, pi/4]: an error of about 2e-16 before the rounding to float32. Larger positions: libm.
   Frequencies are at most 1. */
static void N(sincos)(int64_t n, double position, const double *frequency, float *sine, float *cosine) {
    int64_t i = 0;
    const bool near = position < 1.5e6 && position > -1.5e6;
    for (; near && i + W / 2 <= n; i += W / 2) {
        D a = *(const D *)(frequency + i) * position;
        const D magic = (D){0} + 6755399441055744.0;
        D q = a * 0.63661977236758134308 + magic;
        U quadrant = (U)q;
        q -= magic;
        D r = a - q * 0x1.921fb544p+0, low = q * 0x1.0b4611a6p-34;
        r = (r - low) - q * 0x1.3198a2e037073p-69;
        D z = r * r;
        D s = (D){0} - 7.6471637318198165e-13;
        s = s * z + 1.6059043836821613e-10;
        s = s * z - 2.5052108385441719e-8;
        s = s * z + 2.7557319223985893e-6;
        s = s * z - 1.9841269841269841e-4;
        s = s * z + 8.3333333333333333e-3;
        s = s * z - 1.6666666666666667e-1;
        s = r + r * z * s;
        D c = (D){0} + 4.7794773323873853e-14;
        c = c * z - 1.1470745597729725e-11;
        c = c * z + 2.0876756987868099e-9;
        c = c * z - 2.7557319223985891e-7;
        c = c * z + 2.4801587301587302e-5;
        c = c * z - 1.3888888888888889e-3;
        c = c * z + 4.1666666666666667e-2;
        c = 1.0 - z * 0.5 + z * z * c;
        U odd = (U)((quadrant & 1) != 0), sign_s = (quadrant & 2) << 62, sign_c = ((quadrant + 1) & 2) << 62;
        D rs = (D)(((odd & (U)c) | (~odd & (U)s)) ^ sign_s), rc = (D)(((odd & (U)s) | (~odd & (U)c)) ^ sign_c);
        *(H *)(sine + i) = __builtin_convertvector(rs, H);
        *(H *)(cosine + i) = __builtin_convertvector(rc, H);
    }
    for (; i < n; i++) {
        sine[i] = (float)sin(frequency[i] * position);
        cosine[i] = (float)cos(frequency[i] * position);
    }
}
static void N(rotate)(
    int64_t n, const float *x0, const float *x1, const float *sine, const float *cosine, float *y0, float *y1) {
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        V a = N(load)(x0 + i), b = N(load)(x1 + i), s = N(load)(sine + i), c = N(load)(cosine + i);
        N(store)(y0 + i, a * c - b * s);
        N(store)(y1 + i, FMA(a, s, b * c));
    }
    for (; i < n; i++) {
        const float a = x0[i], b = x1[i];
        y0[i] = a * cosine[i] - b * sine[i];
        y1[i] = a * sine[i] + b * cosine[i];
    }
}
/* Word 0 of Philox4x32-10 (base/philox.h) with the element's index as the counter's low half, in 64-bit lanes: one
   vector of the even elements, one of the odd. */
INLINE U N(philox)(U counter, uint64_t key) {
    U c0 = counter & 0xffffffffu, c1 = counter >> 32, c2 = {0}, c3 = {0};
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const U p0 = MUL32(c0, (U){0} + 0xD2511F53u), p1 = MUL32(c2, (U){0} + 0xCD9E8D57u);
        c0 = ((p1 >> 32) ^ c1 ^ k0) & 0xffffffffu;
        c2 = ((p0 >> 32) ^ c3 ^ k1) & 0xffffffffu;
        c1 = p1;
        c3 = p0;
    }
    return c0;
}
static void N(dropout)(int64_t n, const float *x, float *y, uint64_t key, uint64_t index, uint64_t index_step,
    uint64_t threshold, float scale) {
    U even;
    for (int j = 0; j < W / 2; j++) even[j] = index + 2 * (uint64_t)j * index_step;
    if (threshold > 0xffffffffu) {
        N(fill)(n, 0, y);
        return;
    }
    for (int64_t i = 0; i < n; i += W, even += index_step * W) {
        const B word = (B)(N(philox)(even, key) | N(philox)(even + index_step, key) << 32);
        const I keep = (I)(word >= (uint32_t)threshold);
        if (i + W <= n)
            N(store)(y + i, (V)(keep & (I)(N(load)(x + i) * scale)));
        else
            N(store_part)(y + i, (V)(keep & (I)(N(load_part)(x + i, n - i, 0) * scale)), n - i);
    }
}
/* Past the caches (`past`): the lines of the results are not read first, half as much again to and from memory. Only
   where no result is an operand and all lie alike. A result lies on no operand but the one of its own device, which has
   its number: with thousands of devices no pair is compared in vain. */
static void N(reduce_all)(
    int64_t n, int sources, const float *const *src, int destinations, float *const *dst, bool past) {
    int64_t i = 0;
    for (int j = 0; past && j < destinations; j++)
        past = (uintptr_t)dst[j] % (4 * W) == (uintptr_t)dst[0] % (4 * W) &&
            (j >= sources || (const float *)dst[j] != src[j]);
    const int64_t head = past ? (int64_t)(-((uintptr_t)dst[0] / 4) % W) : 0;
#define ONE(at)                                                                                                        \
    {                                                                                                                  \
        float sum = src[0][at];                                                                                        \
        for (int s = 1; s < sources; s++) sum += src[s][at];                                                           \
        for (int j = 0; j < destinations; j++) dst[j][at] = sum;                                                       \
    }
#define FOUR(put)                                                                                                      \
    for (; i + 4 * W <= n; i += 4 * W) {                                                                               \
        const float *p = src[0] + i;                                                                                   \
        V a = N(load)(p), b = N(load)(p + W), c = N(load)(p + 2 * W), d = N(load)(p + 3 * W);                          \
        for (int s = 1; s < sources; s++) {                                                                            \
            p = src[s] + i;                                                                                            \
            a += N(load)(p);                                                                                           \
            b += N(load)(p + W);                                                                                       \
            c += N(load)(p + 2 * W);                                                                                   \
            d += N(load)(p + 3 * W);                                                                                   \
        }                                                                                                              \
        for (int j = 0; j < destinations; j++) {                                                                       \
            float *q = dst[j] + i;                                                                                     \
            put(q, a);                                                                                                 \
            put(q + W, b);                                                                                             \
            put(q + 2 * W, c);                                                                                         \
            put(q + 3 * W, d);                                                                                         \
        }                                                                                                              \
    }
    for (; i < head && i < n; i++) ONE(i)
    if (past)
        FOUR(STREAM)
    else
        FOUR(N(store))
    for (; i < n; i++) ONE(i)
    if (past) FENCE();
#undef FOUR
#undef ONE
}

#if W == 16
#include "engine/native/kernel_vector_product.h"
#endif

#define ROW(name) [MTH__ROW_##name] = N(name##_row)
static const mth__vector N(table) = {
    .name = TITLE,
    .elementwise = {ROW(neg), ROW(exp), ROW(log), ROW(sqrt), ROW(rsqrt), ROW(reciprocal), ROW(square), ROW(relu),
        ROW(gelu), ROW(gelu_tanh), ROW(silu), ROW(sigmoid), ROW(tanh), ROW(copy), ROW(scale), ROW(shift),
        ROW(relu_grad), ROW(gelu_grad), ROW(gelu_tanh_grad), ROW(silu_grad), ROW(sigmoid_grad), ROW(tanh_grad),
        ROW(mul_grad), ROW(div_grad), ROW(maximum_grad), ROW(add), ROW(sub), ROW(mul), ROW(div), ROW(maximum),
        ROW(equal)},
    .erf = N(erf_row),
    .fill = N(fill),
    .add_to = N(add_to),
    .max_to = N(max_to),
    .scale = N(scale),
    .axpy = N(axpy),
    .sum = N(sum),
    .dot = N(dot),
    .dot_apart = N(dot_apart),
    .max = N(max),
    .softmax = N(softmax),
    .softmax_grad = N(softmax_grad),
    .layer_norm = N(layer_norm),
    .layer_norm_grad = N(layer_norm_grad),
    .rms_norm = N(rms_norm),
    .rms_norm_grad = N(rms_norm_grad),
    .hide_max = N(hide_max),
    .finite = N(finite),
    .scale_rows = N(scale_rows),
    .exp_sum = N(exp_sum),
    .attention_ds = N(attention_ds),
    .sincos = N(sincos),
    .rotate = N(rotate),
    .dropout = N(dropout),
    .reduce_all = N(reduce_all),
#if W == 16
    .product = N(product),
#endif
};
#undef ROW
#undef TOTAL
#undef INLINE
#undef V
#undef I
#undef B
#undef D
#undef H
#undef MUL32
#undef STREAM
#undef FENCE
#undef U
#undef W
#undef N
#undef TITLE
#undef FMA
#undef SQRT
