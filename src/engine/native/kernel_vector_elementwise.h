/* A part of kernel_vector_body.h: rows that compute each element from the elements at its place. Not guarded, as it
   is a body. */
#define UNARY(name, expression)                                                                                        \
    static void N(name)(int64_t n, const float *xs, float *ys, float f) {                                              \
        (void)f;                                                                                                       \
        int64_t i = 0;                                                                                                 \
        for (; i + W <= n; i += W) {                                                                                   \
            V x = N(load)(xs + i);                                                                                     \
            N(store)(ys + i, expression);                                                                              \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            V x = N(load_part)(xs + i, n - i, 1);                                                                      \
            N(store_part)(ys + i, expression, n - i);                                                                  \
        }                                                                                                              \
    }
UNARY(neg_row, -x)
UNARY(exp_row, N(exp_v)(x))
UNARY(log_row, N(log_v)(x))
UNARY(sqrt_row, SQRT(x))
UNARY(rsqrt_row, 1.0f / SQRT(x))
UNARY(reciprocal_row, 1.0f / x)
UNARY(square_row, x *x)
UNARY(relu_row, N(choose)(x < 0.0f, N(set)(0), x))
UNARY(gelu_row, x *N(cdf)(x))
UNARY(gelu_tanh_row, x *N(gelu_gate)(x))
UNARY(silu_row, x *N(sigmoid_v)(x))
UNARY(sigmoid_row, N(sigmoid_v)(x))
UNARY(tanh_row, N(tanh_v)(x))
UNARY(copy_row, x)
UNARY(scale_row, x *f)
UNARY(shift_row, x + f)
UNARY(erf_row, N(erf_v)(x))

#define BINARY(name, expression)                                                                                       \
    static void N(name)(int64_t n, const float *as, int step_a, const float *bs, int step_b, float *ys) {              \
        int64_t i = 0;                                                                                                 \
        if (step_a && step_b)                                                                                          \
            for (; i + W <= n; i += W) {                                                                               \
                V a = N(load)(as + i), b = N(load)(bs + i);                                                            \
                N(store)(ys + i, expression);                                                                          \
            }                                                                                                          \
        else if (step_a) {                                                                                             \
            const V b = N(set)(*bs);                                                                                   \
            for (; i + W <= n; i += W) {                                                                               \
                V a = N(load)(as + i);                                                                                 \
                N(store)(ys + i, expression);                                                                          \
            }                                                                                                          \
        } else if (step_b) {                                                                                           \
            const V a = N(set)(*as);                                                                                   \
            for (; i + W <= n; i += W) {                                                                               \
                V b = N(load)(bs + i);                                                                                 \
                N(store)(ys + i, expression);                                                                          \
            }                                                                                                          \
        } else {                                                                                                       \
            const V a = N(set)(*as), b = N(set)(*bs), y = expression;                                                  \
            for (; i + W <= n; i += W) N(store)(ys + i, y);                                                            \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            V a = step_a ? N(load_part)(as + i, n - i, 1) : N(set)(*as),                                               \
              b = step_b ? N(load_part)(bs + i, n - i, 1) : N(set)(*bs);                                               \
            N(store_part)(ys + i, expression, n - i);                                                                  \
        }                                                                                                              \
    }
BINARY(relu_grad_row, N(choose)(a > 0.0f, b, N(set)(0)))
BINARY(gelu_grad_row, b *N(gelu_slope)(a))
BINARY(gelu_tanh_grad_row, b *N(gelu_tanh_slope)(a))
BINARY(silu_grad_row, b *N(silu_slope)(a))
BINARY(sigmoid_grad_row, b *a * (1.0f - a))
BINARY(tanh_grad_row, b *FMA(-a, a, N(set)(1.0f)))
BINARY(add_row, a + b)
BINARY(sub_row, a - b)
BINARY(mul_row, a *b)
BINARY(div_row, a / b)
BINARY(maximum_row, N(larger)(a, b))
BINARY(equal_row, N(choose)(a == b, N(set)(1.0f), N(set)(0)))
