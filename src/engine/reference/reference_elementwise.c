#include "base/philox.h"
#include "engine/fault.h"
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

static double derivative(int row, double x) {
    switch (row) {
    case MTH__ROW_gelu: return 0.5 * (1 + erf(x / sqrt(2))) + x * exp(-x * x / 2) / sqrt(2 * PI);
    case MTH__ROW_gelu_tanh: {
        double t = tanh(sqrt(2 / PI) * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / PI) * (1 + 3 * 0.044715 * x * x);
    }
    case MTH__ROW_silu: return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
    default: return NAN;
    }
}

double mth__ref_activation_grad(int row, double x, double dy) {
    if (row == MTH__ROW_relu) return x > 0 ? dy : 0; /* 0 of an infinite dy and of NaN too */
    return derivative(row, x) * dy;
}

/* y: of each result the element, from x: of each operand the one that broadcasting pairs with it */
static void compute(const mth__ref_call *call, const double *x, double *y) {
    const int row = call->op->row;
    const double a = x[0], b = call->nin > 1 ? x[1] : NAN, dy = x[call->nin - 1], tie = a == b ? 0.5 : 0;
    switch (row) {
    case MTH__ROW_neg: *y = -a; return;
    case MTH__ROW_exp: *y = exp(a); return;
    case MTH__ROW_log: *y = log(a); return;
    case MTH__ROW_sqrt: *y = sqrt(a); return;
    case MTH__ROW_rsqrt: *y = 1 / sqrt(a); return;
    case MTH__ROW_reciprocal: *y = 1 / a; return;
    case MTH__ROW_square: *y = a * a; return;
    case MTH__ROW_sigmoid: *y = sigmoid(a); return;
    case MTH__ROW_tanh: *y = tanh(a); return;
    case MTH__ROW_scale: *y = a * call->attrs->by; return;
    case MTH__ROW_shift: *y = a + call->attrs->by; return;
    case MTH__ROW_add: *y = a + b; return;
    case MTH__ROW_sub: *y = a - b; return;
    case MTH__ROW_mul: *y = a * b; return;
    case MTH__ROW_div: *y = a / b; return;
    case MTH__ROW_maximum: *y = a > b || a != a ? a : b; return;
    case MTH__ROW_equal: *y = a == b; return;
    case MTH__ROW_relu_grad: *y = mth__ref_activation_grad(MTH__ROW_relu, a, b); return;
    case MTH__ROW_gelu_grad: *y = mth__ref_activation_grad(MTH__ROW_gelu, a, b); return;
    case MTH__ROW_gelu_tanh_grad: *y = mth__ref_activation_grad(MTH__ROW_gelu_tanh, a, b); return;
    case MTH__ROW_silu_grad: *y = mth__ref_activation_grad(MTH__ROW_silu, a, b); return;
    case MTH__ROW_sigmoid_grad: *y = a * (1 - a) * b; return;
    case MTH__ROW_tanh_grad: *y = (1 - a * a) * b; return;
    case MTH__ROW_mul_grad:
        y[0] = dy * b;
        y[1] = dy * a;
        return;
    case MTH__ROW_div_grad: /* a is the divisor, b the quotient */
        y[0] = dy / a;
        y[1] = -dy / a * b;
        return;
    case MTH__ROW_maximum_grad:
        y[0] = dy * (a > b ? 1 : tie);
        y[1] = dy * (b > a ? 1 : tie);
        return;
    default: *y = mth__ref_activation(row, a);
    }
}

mth_status mth__ref_elementwise(const mth__ref_call *call) {
    FOR_EACH(at, call->out[0]->local) {
        double x[MTH__MAX_IN] = {0}, y[MTH__MAX_OUT];
        for (int j = 0; j < call->nin; j++) x[j] = mth__ref_broadcast(call->in[j], call->out[0], at)->real;
        compute(call, x, y);
        for (int k = 0; k < call->nout; k++) *mth__ref_at(call->out[k], at) = y[k];
    }
    return NULL;
}

mth_status mth__ref_copy(const mth__ref_call *call) {
    FOR_EACH(at, call->out[0]->local) * mth__ref_element_at(call->out[0], at) = *mth__ref_element_at(call->in[0], at);
    return NULL;
}

mth_status mth__ref_cast(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *y = call->out[0];
    const bool real = mth__is_float(x->dtype);
    FOR_EACH(at, y->local)
    *mth__ref_element_at(y, at) = real ? mth__ref_from_real(y->dtype, *mth__ref_at(x, at))
                                       : mth__ref_from_integer(y->dtype, *mth__ref_integer_at(x, at));
    return NULL;
}

mth_status mth__ref_mask(const mth__ref_call *call) {
    FOR_EACH(at, call->out[0]->local) {
        const double x = mth__ref_as_real(call->in[0]->dtype, *mth__ref_element_at(call->in[0], at));
        if (x != 0 && x != 1) return mth__ref_outside(call, call->in[0], mth__mask_fault(x), 0);
        *mth__ref_integer_at(call->out[0], at) = x == 1;
    }
    return NULL;
}

mth_status mth__ref_dropout(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *y = call->out[0];
    double p = call->attrs->probability;
    FOR_EACH(at, y->local) {
        uint64_t flat = 0; /* global */
        for (int d = 0; d < y->global.rank; d++) {
            bool box = call->attrs->size && d == call->attrs->dimension;
            flat = flat * (uint64_t)(box ? call->attrs->size : y->global.dim[d]) +
                (uint64_t)(mth__ref_global(y, d, at[d]) + (box ? call->attrs->start : 0));
        }
        uint32_t word[4];
        mth__philox((uint64_t)call->attrs->key, flat, 0, word);
        *mth__ref_at(y, at) = word[0] * 0x1p-32 >= p ? *mth__ref_at(x, at) / (1 - p) : 0;
    }
    return NULL;
}
