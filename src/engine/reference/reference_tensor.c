/* Products, reductions and layout. */
#include "engine/reference/reference.h"
#include <math.h>

mth_status mth__ref_contract(const mth__ref_call *call) {
    const mth__ref_value *a = call->in[0], *b = call->in[1], *y = call->out[0];
    const char *comma = strchr(call->attrs->spec, ','), *arrow = strstr(call->attrs->spec, "->");
    const char *term[3] = {call->attrs->spec, comma + 1, arrow + 2};
    const mth__ref_value *value[3] = {a, b, y};
    /* every letter with its stride in each term; those of the result first, the summed ones behind */
    struct {
        int n;
        char letter[2 * MTH__RANK];
        mth__shape size;
        int64_t stride[3][2 * MTH__RANK];
    } outer = {0}, inner = {0}, *entry;
    for (int operand = 2; operand >= 0; operand--) {
        int64_t stride[MTH__RANK];
        mth__shape_strides(value[operand]->local, stride);
        for (int d = 0; d < value[operand]->local.rank; d++) {
            char letter = term[operand][d];
            entry = operand == 2 || memchr(outer.letter, letter, (size_t)outer.n) ? &outer : &inner;
            const char *known = memchr(entry->letter, letter, (size_t)entry->n);
            int i = known ? (int)(known - entry->letter) : entry->n++;
            entry->letter[i] = letter;
            entry->size.dim[i] = value[operand]->local.dim[d];
            entry->stride[operand][i] = stride[d];
        }
    }
    outer.size.rank = outer.n;
    inner.size.rank = inner.n;
    FOR_EACH(outside, outer.size) {
        int64_t base[3] = {0};
        for (int operand = 0; operand < 3; operand++)
            for (int i = 0; i < outer.n; i++) base[operand] += outside[i] * outer.stride[operand][i];
        double sum = 0;
        FOR_EACH(inside, inner.size) {
            int64_t x = base[0], w = base[1];
            for (int i = 0; i < inner.n; i++) {
                x += inside[i] * inner.stride[0][i];
                w += inside[i] * inner.stride[1][i];
            }
            sum += a->data[x].real * b->data[w].real;
        }
        y->data[base[2]].real = sum;
    }
    return NULL;
}

mth_status mth__ref_reduce(const mth__ref_call *call) {
    const mth__ref_value *x = call->in[0], *y = call->out[0];
    bool max = call->op->row == MTH__ROW_reduce_max, keep = call->attrs->keep;
    for (int64_t i = 0; i < mth__shape_size(y->local); i++) y->data[i].real = max ? -INFINITY : 0;
    FOR_EACH(at, x->local) {
        int64_t to[MTH__RANK] = {0};
        for (int d = 0, n = 0; d < x->local.rank; d++) {
            bool gone = call->attrs->dimensions >> d & 1;
            if (!gone) to[n] = at[d];
            n += !gone || keep;
        }
        double v = *mth__ref_at(x, at), *r = mth__ref_at(y, to);
        *r = max ? (v > *r || v != v ? v : *r) : *r + v;
    }
    return NULL;
}

mth_status mth__ref_broadcast_to(const mth__ref_call *call) {
    FOR_EACH(at, call->out[0]->local) * mth__ref_element_at(call->out[0], at) =
        *mth__ref_broadcast(call->in[0], call->out[0], at);
    return NULL;
}

mth_status mth__ref_reshape(const mth__ref_call *call) {
    int64_t n = mth__shape_size(call->out[0]->local);
    if (mth__shape_size(call->in[0]->local) != n) return INTERNAL("reshape of parts of different sizes");
    memcpy(call->out[0]->data, call->in[0]->data, (size_t)n * sizeof *call->out[0]->data);
    return NULL;
}

mth_status mth__ref_transpose(const mth__ref_call *call) {
    FOR_EACH(at, call->out[0]->local) {
        int64_t from[MTH__RANK] = {0};
        for (int d = 0; d < call->out[0]->local.rank; d++) from[call->attrs->permutation[d]] = at[d];
        *mth__ref_element_at(call->out[0], at) = *mth__ref_element_at(call->in[0], from);
    }
    return NULL;
}

/* y[at] = x[at + shift along a dimension], in global indices; 0 outside x. */
static mth_status shifted(const mth__ref_value *x, const mth__ref_value *y, int64_t dimension, int64_t shift) {
    FOR_EACH(at, y->local) {
        int64_t from[MTH__RANK] = {0};
        bool inside = true;
        for (int d = 0; d < y->local.rank; d++) {
            int64_t global = mth__ref_global(y, d, at[d]) + (d == dimension ? shift : 0);
            inside &= global >= 0 && global < x->global.dim[d];
            from[d] = mth__ref_local(x, d, global);
            if (inside && from[d] < 0)
                return INTERNAL("element %lld of dimension %d is on another device", (long long)global, d);
        }
        *mth__ref_element_at(y, at) = inside ? *mth__ref_element_at(x, from) : (mth__ref_element){0};
    }
    return NULL;
}
mth_status mth__ref_slice(const mth__ref_call *call) {
    return shifted(call->in[0], call->out[0], call->attrs->dimension, call->attrs->start);
}
mth_status mth__ref_pad(const mth__ref_call *call) {
    return shifted(call->in[0], call->out[0], call->attrs->dimension, -call->attrs->before);
}
mth_status mth__ref_keep(const mth__ref_call *call) { return shifted(call->in[0], call->out[0], 0, 0); }

mth_status mth__ref_concat(const mth__ref_call *call) {
    int64_t dimension = call->attrs->dimension;
    const mth__ref_value *y = call->out[0];
    FOR_EACH(at, y->local) {
        int64_t from[MTH__RANK], global = mth__ref_global(y, (int)dimension, at[dimension]);
        int i = 0;
        while (global >= call->in[i]->global.dim[dimension]) global -= call->in[i++]->global.dim[dimension];
        memcpy(from, at, sizeof from);
        from[dimension] = mth__ref_local(call->in[i], (int)dimension, global);
        if (from[dimension] < 0)
            return INTERNAL("element %lld of operand %d is on another device", (long long)global, i);
        *mth__ref_element_at(y, at) = *mth__ref_element_at(call->in[i], from);
    }
    return NULL;
}
