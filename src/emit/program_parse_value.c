/* Values of roles, and what they are made of: shapes, shardings, where they lie. */
#include "emit/program_parse.h"
#include <string.h>

static const int64_t MOST_EXTENT = (int64_t)1 << 40;

static mth_status shape(mth__plan_parser *x, mth__shape *out) {
    *out = (mth__shape){0};
    TRY(mth__read_need(&x->in, "["));
    int64_t product = 1;
    if (mth__read_symbol(&x->in, ']')) return NULL;
    do {
        int64_t n;
        if (out->rank == MTH__RANK) return mth__read_fail(&x->in, F("more than %d dimensions", MTH__RANK));
        TRY(mth__read_integer(&x->in, 0, MOST_EXTENT, &n));
        if (n && (__builtin_mul_overflow(product, n, &product) || product > INT64_MAX / 32))
            return mth__read_fail(&x->in, F("the shape is too large"));
        out->dim[out->rank++] = n;
    } while (mth__read_symbol(&x->in, ','));
    return mth__read_need(&x->in, "]");
}

mth_status mth__parse_typed_shape(mth__plan_parser *x, mth_dtype *dtype, mth__shape *out) {
    int d;
    mth__read_skip(&x->in);
    TRY(mth__read_one_of(&x->in, mth__dtype_words + 1, MTH_BFLOAT16, "dtype", &d));
    *dtype = (mth_dtype)(d + 1);
    return shape(x, out);
}

mth_status mth__parse_axis(mth__plan_parser *x, int8_t *out) {
    int a;
    TRY(mth__read_small(&x->in, 0, MTH__AXES - 1, &a));
    *out = (int8_t)a;
    return NULL;
}

static mth_status split(mth__plan_parser *x, mth__split *out) {
    if (mth__read_word(&x->in, "None")) return NULL;
    if (mth__read_symbol(&x->in, '(')) {
        do {
            if (out->naxes == MTH__AXES) return mth__read_fail(&x->in, F("more than %d axes", MTH__AXES));
            TRY(mth__parse_axis(x, &out->axis[out->naxes++]));
        } while (mth__read_symbol(&x->in, ','));
        TRY(mth__read_need(&x->in, ")"));
    } else {
        TRY(mth__parse_axis(x, &out->axis[out->naxes++]));
    }
    int grain = 0;
    if (mth__read_word(&x->in, "cyclic"))
        out->cyclic = true;
    else if (mth__read_word(&x->in, "by"))
        TRY(mth__read_small(&x->in, 2, INT32_MAX, &grain));
    out->grain = grain;
    return NULL;
}

mth_status mth__parse_sharding(mth__plan_parser *x, mth__shape s, mth__sharding *out) {
    *out = (mth__sharding){0};
    TRY(mth__read_need(&x->in, "("));
    for (int d = 0; d < s.rank; d++) {
        if (d) TRY(mth__read_need(&x->in, ","));
        TRY(split(x, &out->dim[d]));
    }
    if (s.rank == 1) TRY(mth__read_need(&x->in, ","));
    TRY(mth__read_need(&x->in, ")"));
    if (mth__read_word(&x->in, "partial")) {
        int8_t a;
        if (mth__read_word(&x->in, "max"))
            out->reduce = MTH__REDUCE_MAX;
        else
            TRY(mth__read_need(&x->in, "sum"));
        TRY(mth__read_need(&x->in, "over"));
        bool several = mth__read_symbol(&x->in, '(');
        do {
            TRY(mth__parse_axis(x, &a));
            out->partial |= (uint8_t)(1u << a);
        } while (several && mth__read_symbol(&x->in, ','));
        if (several) TRY(mth__read_need(&x->in, ")"));
    }
    int p;
    TRY(mth__read_need(&x->in, "on"));
    TRY(mth__read_reference(&x->in, 'p', x->placement.n, &p));
    out->on = x->placement.at[p];
    mth_status status = mth__sharding_check(out, s);
    if (status) return mth__error_operator(status, mth__format(x->in.arena, "line %d of the plan", x->in.line));
    mth__sharding_canonical(out, s);
    return NULL;
}

mth_status mth__parse_number(mth__plan_parser *x, const char *what, size_t next) {
    int n;
    TRY(mth__read_small(&x->in, 0, INT32_MAX, &n));
    return n == (int)next ? NULL : mth__read_fail(&x->in, F("%s %d stands where %zu should", what, n, next));
}

/* ---------------------------------------------------------------- roles: values */
static mth_status declare(mth__plan_parser *x, const char *s, mth__pvalue v, int *out) {
    *out = (int)x->role->value.n;
    if (mth__names_add(x->in.arena, &x->names, s) != *out)
        return mth__read_fail(&x->in, F("%s is written a second time", s));
    PUSH(x->in.arena, x->role->value, v);
    return NULL;
}

mth_status mth__parse_value_named(mth__plan_parser *x, int *out) {
    const char *s;
    TRY(mth__read_name(&x->in, &s));
    *out = mth__names_find(&x->names, s);
    return *out >= 0 ? NULL : mth__read_fail(&x->in, F("%s is read, and nothing has written it on this role", s));
}

static mth_status location(mth__plan_parser *x, mth__pvalue *v) {
    if (mth__read_word(&x->in, "entry")) {
        v->storage = MTH__IN_ENTRY;
        return mth__read_small(&x->in, 0, (int)x->p->entry.n - 1, &v->index);
    }
    if (mth__read_word(&x->in, "exit")) {
        v->storage = MTH__IN_EXIT;
        TRY(mth__read_small(&x->in, 0, (int)x->p->exit.n - 1, &v->index));
        if (!mth__read_symbol(&x->in, '+')) return NULL;
        v->storage = MTH__IN_LENT;
        return mth__read_integer(&x->in, 0, INT64_MAX / 4, &v->offset);
    }
    for (int space = 0; space < MTH__SPACES; space++) {
        if (!mth__read_word(&x->in, mth__space_words[space])) continue;
        v->storage = MTH__IN_SLAB;
        v->space = (mth__space)space;
        v->offset = -1;
        return mth__read_symbol(&x->in, '+') ? mth__read_integer(&x->in, 0, INT64_MAX / 4, &v->offset) : NULL;
    }
    if (mth__read_word(&x->in, "own")) {
        v->storage = MTH__IN_OWN;
        v->space = mth__read_word(&x->in, "host") ? MTH__HOST : MTH__DEVICE;
        return NULL;
    }
    v->storage = MTH__IN_ALIAS;
    TRY(mth__parse_value_named(x, &v->index));
    if (x->role->value.at[v->index].storage == MTH__IN_ALIAS) return mth__read_fail(&x->in, F("a view of a view"));
    v->space = x->role->value.at[v->index].space;
    TRY(mth__read_need(&x->in, "+"));
    return mth__read_integer(&x->in, 0, INT64_MAX / 4, &v->offset);
}

/* "%5: f32[8,16] of [8,64] (None, 0) on p0 at slab+0". Entries and views stand on lines of their own, what is `written`
 * with its writer. */
mth_status mth__parse_value(mth__plan_parser *x, bool written, int *out) {
    mth__pvalue v = {0};
    const char *s;
    TRY(mth__read_name(&x->in, &s));
    TRY(mth__read_need(&x->in, ":"));
    v.name = s;
    TRY(mth__parse_typed_shape(x, &v.dtype, &v.local));
    v.shape = v.local;
    if (mth__read_word(&x->in, "of")) TRY(shape(x, &v.shape));
    TRY(mth__parse_sharding(x, v.shape, &v.sharding));
    TRY(mth__read_need(&x->in, "at"));
    TRY(location(x, &v));
    if (written != (v.storage != MTH__IN_ENTRY && v.storage != MTH__IN_ALIAS))
        return mth__read_fail(&x->in, written ? F("an entry or a view is written") : F("no instruction writes %s", s));
    v.memory = mth__usual_memory(x->p, v.storage, v.index);
    if (mth__read_word(&x->in, "memory")) {
        int kind;
        TRY(mth__read_one_of(&x->in, mth__memory_words, MTH__MEMORY_KINDS, "kind of memory", &kind));
        v.memory = (mth__memory_kind)kind;
    }
    v.bytes = mth__shape_size(v.local) * (int64_t)mth_dtype_size(v.dtype);
    return declare(x, s, v, out);
}
