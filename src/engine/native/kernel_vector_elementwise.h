/* A part of kernel_vector_body.h: rows that compute each element from the elements at its place. Not guarded, as it
   is a body. */
#define EACH_1(what) what(0)
#define EACH_2(what) EACH_1(what) what(1)
#define EACH_3(what) EACH_2(what) what(2)
#define EACH_4(what) EACH_3(what) what(3)
#define EACH_5(what) EACH_4(what) what(4)
#define EACH_6(what) EACH_5(what) what(5)
#define EACH_7(what) EACH_6(what) what(6)
#define EACH_8(what) EACH_7(what) what(7)
/* of operand j */
#define BEGIN(j)                                                                                                       \
    const float *x##j = in[j];                                                                                         \
    const bool run##j = step[j] != 0;                                                                                  \
    V v##j;
#define IS_RUN(j) &&run##j
#define SAME(j) const V same##j = run##j ? (V){0} : N(set)(*x##j);
#define LOAD(j) v##j = N(load)(x##j + i);
#define LOAD_OR_SAME(j) v##j = run##j ? N(load)(x##j + i) : same##j;
#define LOAD_PART(j) v##j = run##j ? N(load_part)(x##j + i, n - i, 1) : N(set)(*x##j);
/* of result k */
#define RESULT(k)                                                                                                      \
    float *y##k = out[k];                                                                                              \
    V r##k;
#define STORE(k) N(store)(y##k + i, r##k);
#define STORE_PART(k) N(store_part)(y##k + i, r##k, n - i);
/* The loop of one row. `constants` are set once; the formulas compute r0, r1, ..., the results, from v0, v1, ..., the
   operands. All operands of a place are read before a result is written there, so a result may lie on any of them. An
   operand may be one value for all. */
#define MAP(name, operands, results, constants, ...)                                                                   \
    static void N(name)(                                                                                               \
        int64_t n, const float *const *in, const int *step, float *const *out, const mth__attrs *attrs) {              \
        (void)attrs;                                                                                                   \
        constants;                                                                                                     \
        EACH_##operands(BEGIN) EACH_##results(RESULT) int64_t i = 0;                                                   \
        if (operands == 1 || (true EACH_##operands(IS_RUN)))                                                           \
            for (; i + W <= n; i += W) {                                                                               \
                EACH_##operands(LOAD);                                                                                 \
                __VA_ARGS__;                                                                                           \
                EACH_##results(STORE)                                                                                  \
            }                                                                                                          \
        else {                                                                                                         \
            EACH_##operands(SAME) for (; i + W <= n; i += W) {                                                         \
                EACH_##operands(LOAD_OR_SAME);                                                                         \
                __VA_ARGS__;                                                                                           \
                EACH_##results(STORE)                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            EACH_##operands(LOAD_PART);                                                                                \
            __VA_ARGS__;                                                                                               \
            EACH_##results(STORE_PART)                                                                                 \
        }                                                                                                              \
    }
#define UNARY(name, expression) MAP(name, 1, 1, , const V x = v0; r0 = expression)
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
MAP(scale_row, 1, 1, const float by = (float)attrs->by, r0 = v0 * by)
MAP(shift_row, 1, 1, const float by = (float)attrs->by, r0 = v0 + by)
UNARY(erf_row, N(erf_v)(x))

#define BINARY(name, expression) MAP(name, 2, 1, , const V a = v0, b = v1; r0 = expression)
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
/* a and b, or b and y = a / b, beside dy */
#define BACKWARD_OF_TWO(name, ...) MAP(name, 3, 2, , const V p = v0, q = v1, dy = v2; __VA_ARGS__)
BACKWARD_OF_TWO(mul_grad_row, r0 = dy * q; r1 = dy * p)
BACKWARD_OF_TWO(div_grad_row, r0 = dy / p; r1 = -r0 * q)
BACKWARD_OF_TWO(maximum_grad_row, const V tie = N(choose)(p == q, N(set)(0.5f), N(set)(0));
    r0 = dy * N(choose)(p > q, N(set)(1), tie); r1 = dy * N(choose)(q > p, N(set)(1), tie))
#undef EACH_1
#undef EACH_2
#undef EACH_3
#undef EACH_4
#undef EACH_5
#undef EACH_6
#undef EACH_7
#undef EACH_8
#undef BEGIN
#undef IS_RUN
#undef SAME
#undef LOAD
#undef LOAD_OR_SAME
#undef LOAD_PART
#undef RESULT
#undef STORE
#undef STORE_PART
#undef MAP
#undef UNARY
#undef BINARY
#undef BACKWARD_OF_TWO
