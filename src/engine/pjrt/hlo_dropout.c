/* dropout: Philox4x32-10 by the element's global index, the same bits as base/philox.c and the other engines.
 *
 * Words are held in i64, 0 <= word < 2^32. The signed product of two of them has the bits of the unsigned one, so that
 * a product, a shift and a mask are all that a round needs: no unsigned types, and compilers see the 32 x 32 -> 64
 * multiplication in it (0.7 of the time of the same rounds written in ui32 and ui64). */
#include "engine/pjrt/hlo.h"
#include <math.h>

enum { ROUNDS = 10 };
#define LOW 0xffffffffu

static mth__hlo_val exclusive_or(mth__hlo *hlo, mth__hlo_val a, mth__hlo_val b) {
    return mth__hlo_binary(hlo, "xor", a, b);
}

/* Word 0 of Philox of (key, index): i64. `index` is below 2^32 where not `wide`. */
static mth__hlo_val first_word(mth__hlo *hlo, uint64_t key, mth__hlo_val index, bool wide) {
#define CONSTANT(value) mth__hlo_splat(hlo, MTH_INT64, index.shape, (double)(value))
    const mth__hlo_val low = CONSTANT(LOW), bits = CONSTANT(32), zero = CONSTANT(0), m0 = CONSTANT(0xD2511F53u),
                       m1 = CONSTANT(0xCD9E8D57u);
    mth__hlo_val c0 = wide ? mth__hlo_binary(hlo, "and", index, low) : index, c2 = zero, c3 = zero;
    mth__hlo_val c1 = wide ? mth__hlo_binary(hlo, "shift_right_logical", index, bits) : zero;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        mth__hlo_val p1 = mth__hlo_binary(hlo, "multiply", c2, m1);
        mth__hlo_val n0 = exclusive_or(
            hlo, exclusive_or(hlo, mth__hlo_binary(hlo, "shift_right_logical", p1, bits), c1), CONSTANT(k0));
        if (round == ROUNDS - 1) return n0;
        mth__hlo_val p0 = mth__hlo_binary(hlo, "multiply", c0, m0);
        c2 = exclusive_or(
            hlo, exclusive_or(hlo, mth__hlo_binary(hlo, "shift_right_logical", p0, bits), c3), CONSTANT(k1));
        c1 = mth__hlo_binary(hlo, "and", p1, low);
        c3 = mth__hlo_binary(hlo, "and", p0, low);
        c0 = n0;
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
#undef CONSTANT
    return c0;
}

void mth__hlo_dropout(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_part *part = call->out[0].part;
    const mth__hlo_val x = call->in[0].value;
    const int64_t box = call->attrs->dimension, box_start = call->attrs->start, box_size = call->attrs->size;
    const double rate = call->attrs->probability;
    mth__shape whole = part->shape;
    if (box_size) whole.dim[box] = box_size;
    int64_t stride[MTH__RANK];
    mth__shape_strides(whole, stride);

    /* kept where word * 2^-32 >= rate, as integers */
    const double threshold = ceil(rate * 0x1p32);
    if (threshold <= 0) { /* nothing is dropped, and the scale is 1 */
        call->out[0].value = x;
        return;
    }
    mth__hlo_val index = mth__hlo_splat(
        hlo, MTH_INT64, x.shape, box_size && !call->by_microbatch ? (double)(box_start * stride[box]) : 0);
    if (box_size && call->by_microbatch) {
        const mth__hlo_val start = mth__hlo_convert(hlo, MTH_INT64, mth__hlo_number(hlo, box_start));
        index =
            mth__hlo_broadcast(hlo, mth__hlo_binary_scalar(hlo, "multiply", start, (double)stride[box]), x.shape, NULL);
    }
    for (int d = 0; d < x.shape.rank; d++) {
        if (whole.dim[d] == 1) continue;
        mth__hlo_val along = mth__hlo_convert(hlo, MTH_INT64, mth__hlo_index(hlo, part, d));
        along = mth__hlo_broadcast(hlo, mth__hlo_binary_scalar(hlo, "multiply", along, (double)stride[d]), x.shape, &d);
        index = mth__hlo_binary(hlo, "add", index, along);
    }
    mth__hlo_val word = first_word(hlo, (uint64_t)call->attrs->key, index, mth__shape_size(whole) > (int64_t)LOW);
    mth__hlo_val keep = mth__hlo_compare(hlo, "GE", word, mth__hlo_splat(hlo, MTH_INT64, x.shape, threshold));
    mth__hlo_val y = mth__hlo_binary_scalar(hlo, "multiply", x, 1 / (1 - rate));
    call->out[0].value = mth__hlo_select(hlo, keep, y, mth__hlo_splat(hlo, x.dtype, x.shape, 0));
}
