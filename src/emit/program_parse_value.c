/* Values of roles, and what they are made of: shapes, shardings, where they lie. */
#include "emit/program_parse.h"
#include <string.h>

static const int64_t MOST_EXTENT = (int64_t)1 << 40;

static mth_status shape(mth__plan_parser *parser, mth__shape *out) {
    *out = (mth__shape){0};
    TRY(mth__read_need(&parser->in, "["));
    int64_t product = 1;
    if (mth__read_symbol(&parser->in, ']')) return NULL;
    do {
        int64_t n;
        if (out->rank == MTH__RANK) return mth__read_fail(&parser->in, F("more than %d dimensions", MTH__RANK));
        TRY(mth__read_integer(&parser->in, 0, MOST_EXTENT, &n));
        if (n && (__builtin_mul_overflow(product, n, &product) || product > INT64_MAX / 32))
            return mth__read_fail(&parser->in, F("the shape is too large"));
        out->dim[out->rank++] = n;
    } while (mth__read_symbol(&parser->in, ','));
    return mth__read_need(&parser->in, "]");
}

mth_status mth__parse_typed_shape(mth__plan_parser *parser, mth_dtype *dtype, mth__shape *out) {
    const char *words[MTH__DTYPE_COUNT - 1];
    int word;
    for (int i = 1; i < MTH__DTYPE_COUNT; i++) words[i - 1] = mth__dtypes[i].word;
    mth__read_skip(&parser->in);
    TRY(mth__read_one_of(&parser->in, words, MTH__DTYPE_COUNT - 1, "dtype", &word));
    *dtype = (mth_dtype)(word + 1);
    return shape(parser, out);
}

mth_status mth__parse_axis(mth__plan_parser *parser, int8_t *out) {
    int axis;
    TRY(mth__read_small(&parser->in, 0, MTH__AXES - 1, &axis));
    *out = (int8_t)axis;
    return NULL;
}

static mth_status split(mth__plan_parser *parser, mth__split *out) {
    if (mth__read_word(&parser->in, "None")) return NULL;
    if (mth__read_symbol(&parser->in, '(')) {
        do {
            if (out->naxes == MTH__AXES) return mth__read_fail(&parser->in, F("more than %d axes", MTH__AXES));
            TRY(mth__parse_axis(parser, &out->axis[out->naxes++]));
        } while (mth__read_symbol(&parser->in, ','));
        TRY(mth__read_need(&parser->in, ")"));
    } else {
        TRY(mth__parse_axis(parser, &out->axis[out->naxes++]));
    }
    int grain = 0;
    if (mth__read_word(&parser->in, "cyclic"))
        out->cyclic = true;
    else if (mth__read_word(&parser->in, "by"))
        TRY(mth__read_small(&parser->in, 2, INT32_MAX, &grain));
    out->grain = grain;
    return NULL;
}

mth_status mth__parse_sharding(mth__plan_parser *parser, mth__shape shape, mth__sharding *out) {
    *out = (mth__sharding){0};
    TRY(mth__read_need(&parser->in, "("));
    for (int d = 0; d < shape.rank; d++) {
        if (d) TRY(mth__read_need(&parser->in, ","));
        TRY(split(parser, &out->dim[d]));
    }
    if (shape.rank == 1) TRY(mth__read_need(&parser->in, ","));
    TRY(mth__read_need(&parser->in, ")"));
    if (mth__read_word(&parser->in, "partial")) {
        int8_t axis;
        if (mth__read_word(&parser->in, "max"))
            out->reduce = MTH__REDUCE_MAX;
        else
            TRY(mth__read_need(&parser->in, "sum"));
        TRY(mth__read_need(&parser->in, "over"));
        bool several = mth__read_symbol(&parser->in, '(');
        do {
            TRY(mth__parse_axis(parser, &axis));
            out->partial |= (uint8_t)(1u << axis);
        } while (several && mth__read_symbol(&parser->in, ','));
        if (several) TRY(mth__read_need(&parser->in, ")"));
    }
    int partial;
    TRY(mth__read_need(&parser->in, "on"));
    TRY(mth__read_reference(&parser->in, 'p', parser->placement.n, &partial));
    out->on = parser->placement.at[partial];
    mth_status status = mth__sharding_check(out, shape);
    if (status)
        return mth__error_operator(status, mth__format(parser->in.arena, "line %d of the plan", parser->in.line));
    mth__sharding_canonical(out, shape);
    return NULL;
}

mth_status mth__parse_number(mth__plan_parser *parser, const char *what, size_t next) {
    int n;
    TRY(mth__read_small(&parser->in, 0, INT32_MAX, &n));
    return n == (int)next ? NULL : mth__read_fail(&parser->in, F("%s %d stands where %zu should", what, n, next));
}

/* ---------------------------------------------------------------- roles: values */
static mth_status declare(mth__plan_parser *parser, const char *name, mth__program_value value, int *out) {
    *out = (int)parser->role->value.n;
    if (mth__names_add(parser->in.arena, &parser->names, name) != *out)
        return mth__read_fail(&parser->in, F("%s is written a second time", name));
    PUSH(parser->in.arena, parser->role->value, value);
    return NULL;
}

mth_status mth__parse_value_named(mth__plan_parser *parser, int *out) {
    const char *name;
    TRY(mth__read_name(&parser->in, &name));
    *out = mth__names_find(&parser->names, name);
    return *out >= 0 ? NULL
                     : mth__read_fail(&parser->in, F("%s is read, and nothing has written it on this role", name));
}

static mth_status location(mth__plan_parser *parser, mth__program_value *value) {
    if (mth__read_word(&parser->in, "entry")) {
        value->storage = MTH__IN_ENTRY;
        return mth__read_small(&parser->in, 0, (int)parser->program->entry.n - 1, &value->index);
    }
    if (mth__read_word(&parser->in, "exit")) {
        value->storage = MTH__IN_EXIT;
        TRY(mth__read_small(&parser->in, 0, (int)parser->program->exit.n - 1, &value->index));
        if (!mth__read_symbol(&parser->in, '+')) return NULL;
        value->storage = MTH__IN_LENT;
        return mth__read_integer(&parser->in, 0, INT64_MAX / 4, &value->offset);
    }
    for (int space = 0; space < MTH__SPACES; space++) {
        if (!mth__read_word(&parser->in, mth__space_words[space])) continue;
        value->storage = MTH__IN_SLAB;
        value->space = (mth__space)space;
        value->offset = -1;
        return mth__read_symbol(&parser->in, '+') ? mth__read_integer(&parser->in, 0, INT64_MAX / 4, &value->offset)
                                                  : NULL;
    }
    if (mth__read_word(&parser->in, "own")) {
        value->storage = MTH__IN_OWN;
        value->space = mth__read_word(&parser->in, "host") ? MTH__HOST : MTH__DEVICE;
        return NULL;
    }
    value->storage = MTH__IN_ALIAS;
    TRY(mth__parse_value_named(parser, &value->index));
    if (parser->role->value.at[value->index].storage == MTH__IN_ALIAS)
        return mth__read_fail(&parser->in, F("a view of a view"));
    value->space = parser->role->value.at[value->index].space;
    TRY(mth__read_need(&parser->in, "+"));
    return mth__read_integer(&parser->in, 0, INT64_MAX / 4, &value->offset);
}

/* "%5: f32[8,16] of [8,64] (None, 0) on p0 at slab+0". Entries and views stand on lines of their own, what is `written`
 * with its writer. */
mth_status mth__parse_value(mth__plan_parser *parser, bool written, int *out) {
    mth__program_value value = {0};
    const char *name;
    TRY(mth__read_name(&parser->in, &name));
    TRY(mth__read_need(&parser->in, ":"));
    value.name = name;
    TRY(mth__parse_typed_shape(parser, &value.dtype, &value.local));
    value.shape = value.local;
    if (mth__read_word(&parser->in, "of")) TRY(shape(parser, &value.shape));
    TRY(mth__parse_sharding(parser, value.shape, &value.sharding));
    TRY(mth__read_need(&parser->in, "at"));
    TRY(location(parser, &value));
    if (written != (value.storage != MTH__IN_ENTRY && value.storage != MTH__IN_ALIAS))
        return mth__read_fail(
            &parser->in, written ? F("an entry or a view is written") : F("no instruction writes %s", name));
    value.memory = mth__usual_memory(parser->program, value.storage, value.index);
    if (mth__read_word(&parser->in, "memory")) {
        int kind;
        TRY(mth__read_one_of(&parser->in, mth__memory_words, MTH__MEMORY_KINDS, "kind of memory", &kind));
        value.memory = (mth__memory_kind)kind;
    }
    value.bytes = mth__shape_size(value.local) * (int64_t)mth_dtype_size(value.dtype);
    return declare(parser, name, value, out);
}
