#include "emit/area.h"

/* The factor, at least 0 and below b, by which a becomes gcd(a, b) modulo b; sets *divisor to the gcd. Euclid's
 * algorithm. */
static int64_t inverse(int64_t a, int64_t b, int64_t *divisor) {
    int64_t rest = a % b, last = b, factor = 1, last_x = 0;
    while (rest) {
        int64_t quotient = last / rest, swap = last - quotient * rest;
        last = rest;
        rest = swap;
        swap = last_x - quotient * factor;
        last_x = factor;
        factor = swap;
    }
    *divisor = last;
    return last_x < 0 ? last_x + b : last_x;
}

/* Steps are at most the number of devices, so that products of two of them fit. */
mth__extent mth__extent_common(mth__extent a, mth__extent b) {
    const mth__extent none = {0, 0, 1};
    if (a.size == 0 || b.size == 0) return none;
    int64_t low = a.start > b.start ? a.start : b.start, last = a.start + (a.size - 1) * a.step,
            end = b.start + (b.size - 1) * b.step;
    if (end < last) last = end;
    int64_t first = a.start + mth__ceil_div(low - a.start, a.step) * a.step, away = (b.start - first) % b.step, shared;
    if (away < 0) away += b.step;
    int64_t inverted = inverse(a.step, b.step, &shared), turn = b.step / shared;
    if (away % shared) return none;
    first += away / shared * inverted % turn * a.step; /* the least that is on b's grid too */
    if (first > last) return none;
    int64_t step = a.step * turn;
    return (mth__extent){first, (last - first) / step + 1, step};
}

mth__area mth__area_local(mth__shape global, const mth__sharding *sharding, int device) {
    mth__area area = {.rank = global.rank};
    int64_t start[MTH__RANK], step[MTH__RANK];
    mth__shape local = mth__local_shape(global, sharding, sharding->on->rank_of[device], start, step);
    for (int d = 0; d < global.rank; d++) area.dim[d] = (mth__extent){start[d], local.dim[d], step[d] ? step[d] : 1};
    return area;
}

bool mth__area_intersect(const mth__area *a, const mth__area *b, mth__area *out) {
    out->rank = a->rank;
    for (int d = 0; d < a->rank; d++) {
        out->dim[d] = mth__extent_common(a->dim[d], b->dim[d]);
        if (out->dim[d].size == 0) return false;
    }
    return true;
}

int64_t mth__area_size(const mth__area *area) {
    int64_t n = 1;
    for (int d = 0; d < area->rank; d++) n *= area->dim[d].size;
    return n;
}

/* Where a box lies in the memory of a part: its first element and its strides. */
static bool view(const mth__area *part, const mth__area *box, int64_t *offset, int64_t *stride) {
    int64_t row = 1;
    *offset = 0;
    for (int d = part->rank - 1; d >= 0; d--) {
        mth__extent held = part->dim[d], taken = box->dim[d];
        int64_t away = taken.start - held.start, step = taken.size > 1 ? taken.step : held.step;
        if (away % held.step || step % held.step || away < 0 ||
            (away + (taken.size - 1) * step) / held.step >= held.size)
            return false;
        *offset += away / held.step * row;
        stride[d] = step / held.step * row;
        row *= held.size;
    }
    return true;
}

bool mth__area_copy(const mth__area *box, const mth__area *whole, const mth__area *part, mth__strided_copy *out) {
    out->rank = (int8_t)box->rank;
    for (int d = 0; d < box->rank; d++) out->size[d] = box->dim[d].size;
    return view(whole, box, &out->to, out->to_stride) && view(part, box, &out->from, out->from_stride);
}

int64_t mth__strided_copy_size(const mth__strided_copy *copy) {
    int64_t n = 1;
    for (int d = 0; d < copy->rank; d++) n *= copy->size[d];
    return n;
}
