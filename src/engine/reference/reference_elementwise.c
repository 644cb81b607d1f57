#include "base/philox.h"
#include "engine/reference/reference.h"
#include <math.h>

#define PI 3.14159265358979323846

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

double mth__ref_activation(int row, double x) {
    switch (row) {
    case MTH__ROW_relu: return x <= 0 ? 0 : x; /* NaN stays */
    case MTH__ROW_gelu: return 0.5 * x * (1 + erf(x / sqrt(2)));
    case MTH__ROW_gelu_tanh: return 0.5 * x * (1 + tanh(sqrt(2 / PI) * (x + 0.044715 * x * x * x)));
    case MTH__ROW_silu: return x * sigmoid(x);
    default: return NAN;
    }
}

double mth__ref_activation_derivative(int row, double x) {
    switch (row) {
    case MTH__ROW_relu: return x > 0 ? 1 : 0;
    case MTH__ROW_gelu: return 0.5 * (1 + erf(x / sqrt(2))) + x * exp(-x * x / 2) / sqrt(2 * PI);
    case MTH__ROW_gelu_tanh: {
        double t = tanh(sqrt(2 / PI) * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / PI) * (1 + 3 * 0.044715 * x * x);
    }
    case MTH__ROW_silu: return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
    default: return NAN;
    }
}

static double unary(const mth__ref_call *c, int row, double x) {
    switch (row) {
    case MTH__ROW_neg: return -x;
    case MTH__ROW_exp: return exp(x);
    case MTH__ROW_log: return log(x);
    case MTH__ROW_sqrt: return sqrt(x);
    case MTH__ROW_rsqrt: return 1 / sqrt(x);
    case MTH__ROW_reciprocal: return 1 / x;
    case MTH__ROW_square: return x * x;
    case MTH__ROW_sigmoid: return sigmoid(x);
    case MTH__ROW_tanh: return tanh(x);
    case MTH__ROW_scale: return x * c->attrs->by;
    case MTH__ROW_shift: return x + c->attrs->by;
    default: return mth__ref_activation(row, x);
    }
}

mth_status mth__ref_unary(const mth__ref_call *c) {
    int row = mth__op_index(c->op);
    FOR_EACH(at, c->out[0]->local) * mth__ref_at(c->out[0], at) = unary(c, row, *mth__ref_at(c->in[0], at));
    return NULL;
}

mth_status mth__ref_copy(const mth__ref_call *c) {
    FOR_EACH(at, c->out[0]->local) * mth__ref_element_at(c->out[0], at) = *mth__ref_element_at(c->in[0], at);
    return NULL;
}

mth_status mth__ref_cast(const mth__ref_call *c) {
    const mth__ref_value *x = c->in[0], *y = c->out[0];
    const bool real = mth__is_float(x->dtype);
    FOR_EACH(at, y->local)
    *mth__ref_element_at(y, at) = real ? mth__ref_from_real(y->dtype, *mth__ref_at(x, at))
                                       : mth__ref_from_integer(y->dtype, *mth__ref_integer_at(x, at));
    return NULL;
}

mth_status mth__ref_mask(const mth__ref_call *c) {
    FOR_EACH(at, c->out[0]->local) {
        const double x = *mth__ref_at(c->in[0], at);
        if (x != 0 && x != 1) return mth__ref_outside(c, c->in[0], 0, 0);
        *mth__ref_integer_at(c->out[0], at) = x == 1;
    }
    return NULL;
}

static double binary(int row, double a, double b) {
    switch (row) {
    case MTH__ROW_add: return a + b;
    case MTH__ROW_sub: return a - b;
    case MTH__ROW_mul: return a * b;
    case MTH__ROW_div: return a / b;
    case MTH__ROW_maximum: return a > b || a != a ? a : b;
    case MTH__ROW_equal: return a == b;
    case MTH__ROW_relu_grad: return a > 0 ? b : 0; /* 0 of an infinite b too */
    case MTH__ROW_gelu_grad: return mth__ref_activation_derivative(MTH__ROW_gelu, a) * b;
    case MTH__ROW_gelu_tanh_grad: return mth__ref_activation_derivative(MTH__ROW_gelu_tanh, a) * b;
    case MTH__ROW_silu_grad: return mth__ref_activation_derivative(MTH__ROW_silu, a) * b;
    case MTH__ROW_sigmoid_grad: return a * (1 - a) * b;
    case MTH__ROW_tanh_grad: return (1 - a * a) * b;
    default: return NAN;
    }
}

mth_status mth__ref_binary(const mth__ref_call *c) {
    int row = mth__op_index(c->op);
    const mth__ref_value *y = c->out[0];
    FOR_EACH(at, y->local)
    *mth__ref_at(y, at) =
        binary(row, mth__ref_broadcast(c->in[0], y, at)->real, mth__ref_broadcast(c->in[1], y, at)->real);
    return NULL;
}

mth_status mth__ref_dropout(const mth__ref_call *c) {
    const mth__ref_value *x = c->in[0], *y = c->out[0];
    double p = c->attrs->probability;
    FOR_EACH(at, y->local) {
        uint64_t flat = 0; /* global */
        for (int d = 0; d < y->global.rank; d++) {
            bool box = c->attrs->size && d == c->attrs->dimension;
            flat = flat * (uint64_t)(box ? c->attrs->size : y->global.dim[d]) +
                (uint64_t)(mth__ref_global(y, d, at[d]) + (box ? c->attrs->start : 0));
        }
        uint32_t word[4];
        mth__philox((uint64_t)c->attrs->key, flat, 0, word);
        *mth__ref_at(y, at) = word[0] * 0x1p-32 >= p ? *mth__ref_at(x, at) / (1 - p) : 0;
    }
    return NULL;
}
