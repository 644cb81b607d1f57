#include "compose/parts.h"
#include <inttypes.h>
#include <string.h>

/* ---------------------------------------------------------------- options */
bool mth__opt_bool(const mth__expansion *expansion, const char *name) {
    return mth__module_option(expansion->module, name)->integer;
}

int64_t mth__opt_int(const mth__expansion *expansion, const char *name, int64_t where_none) {
    const mth_arg *a = mth__module_option(expansion->module, name);
    return a->kind == MTH_ARG_NONE ? where_none : a->integer;
}

double mth__opt_float(const mth__expansion *expansion, const char *name) {
    return mth__module_option(expansion->module, name)->real;
}
const char *mth__opt_string(const mth__expansion *expansion, const char *name) {
    return mth__module_option(expansion->module, name)->string;
}

mth_status mth__check_one_spec(const mth_module *module) {
    const mth_arg *axis = mth__module_option(module, "tensor_axis"),
                  *spec = mth__module_option(module, "weight_shard_spec");
    if (axis && spec && axis->kind == MTH_ARG_INT && spec->kind == MTH_ARG_LIST)
        return FAIL(MTH_ERROR_VALUE,
            F("weight_shard_spec and tensor_axis=%" PRId64 " both say how the weight is split", axis->integer),
            F("give one of the two"));
    return NULL;
}

mth_status mth__check_base(const mth_module *module, const char *option) {
    const double base = mth__module_option(module, option)->real;
    if (base > 0) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("%s=%g is the base of no angles", option, base),
        F("give %s a value above 0, such as 10000", option));
}

/* ---------------------------------------------------------------- operands */
char *mth__port_text(const char *port, const mth__value *value) {
    char shape[256];
    const char *connection = value->name ? value->name : value->wire;
    mth__shape_write(shape, sizeof shape, value->shape);
    if (connection && strcmp(connection, port))
        return F("%s ('%s'): %s %s", port, connection, mth__value_dtype(value), shape);
    return F("%s: %s %s", port, mth__value_dtype(value), shape);
}

mth_status mth__need_float(const mth__value *value, const char *port) {
    if (mth__is_float(value->dtype)) return NULL;
    return mth__error_tensor(FAIL(MTH_ERROR_TYPE, F("%s must be floating, it is %s", port, mth__value_dtype(value)),
                                 F("give %s as float32 (integers that are ids go through an Embedding)", port)),
        mth__port_text(port, value));
}

mth_status mth__need_ids(const mth__value *value, const char *port) {
    if (mth__is_integer(value->dtype)) return NULL;
    return mth__error_tensor(FAIL(MTH_ERROR_TYPE, F("%s must be integers, it is %s", port, mth__value_dtype(value)),
                                 F("give %s as int32 or int64", port)),
        mth__port_text(port, value));
}

mth_status mth__need_rank(const mth__value *value, const char *port, int least, int most) {
    int rank = value->shape.rank;
    if (rank >= least && rank <= most) return NULL;
    char *what = least == most ? F("%s has %d dimensions, %d are needed", port, rank, least)
                               : F("%s has %d dimensions, from %d to %d are needed", port, rank, least, most);
    mth_status status = FAIL(MTH_ERROR_VALUE, what, F("reshape %s, with the module Reshape", port));
    return mth__error_tensor(status, mth__port_text(port, value));
}

mth_status mth__need_axis(const mth__value *value, const char *port, const char *option, int64_t axis, int *out) {
    int rank = value->shape.rank;
    if (axis < -rank || axis >= rank) {
        mth_status status = FAIL(MTH_ERROR_VALUE,
            F("%s=%" PRId64 " is no dimension of %s, which has %d", option, axis, port, rank),
            rank ? F("give %s a value from %d to %d", option, -rank, rank - 1) : F("give an input that is no scalar"));
        return mth__error_tensor(status, mth__port_text(port, value));
    }
    *out = (int)(axis < 0 ? axis + rank : axis);
    return NULL;
}

mth_status mth__product(int64_t a, int64_t b, const char *what, int64_t *out) {
    if (!__builtin_mul_overflow(a, b, out) && *out <= INT64_C(1) << 48) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("%s is %" PRId64 " * %" PRId64 ", more than any device can hold", what, a, b),
        F("use smaller sizes"));
}

/* ---------------------------------------------------------------- small graphs */
mth_status mth__part_reshape(mth__builder *builder, mth__value *x, mth__shape shape, mth__value **out) {
    if (mth__shape_equal(x->shape, shape)) return *out = x, NULL;
    mth__attrs attrs = mth__attrs_of_shape(shape);
    return mth__build1(builder, MTH__ROW_reshape, &attrs, x, out);
}

mth_status mth__part_reduce(
    mth__builder *builder, mth__reduction_kind kind, mth__value *x, unsigned dims, bool keep, mth__value **out) {
    if (!dims) return mth__build1(builder, MTH__ROW_copy, NULL, x, out);
    double count = 1;
    for (int d = 0; d < x->shape.rank; d++)
        if (dims >> d & 1) count *= (double)x->shape.dim[d];
    TRY(mth__build1(builder, kind == MTH__MAXIMUM ? MTH__ROW_reduce_max : MTH__ROW_reduce_sum,
        &(mth__attrs){.dimensions = dims, .keep = keep}, x, out));
    /* by the global count: a device or a microbatch may hold fewer */
    return kind == MTH__MEAN ? mth__build_scale(builder, *out, 1 / count, out) : NULL;
}

/* ---------------------------------------------------------------- linear */
/* The spec of a matrix from a mesh axis for each of its dimensions, or -1. */
static const mth_arg *axes_spec(mth__arena *arena, int64_t first, int64_t second) {
    if (first < 0 && second < 0) return NULL;
    mth_arg *items = NEW_ARRAY(arena, mth_arg, 2), *spec = NEW(arena, mth_arg);
    items[0] = first < 0 ? MTH_NONE : mth_int(first);
    items[1] = second < 0 ? MTH_NONE : mth_int(second);
    *spec = mth_list(2, items);
    return spec;
}

mth_status mth__part_linear(mth__expansion *expansion, const mth__linear_part *part, mth__value *x, mth__value **out) {
    mth__arena *arena = expansion->builder.graph->arena;
    TRY(mth__need_float(x, "input"));
    TRY(mth__need_rank(x, "input", 1, MTH__RANK));
    int64_t width = x->shape.dim[x->shape.rank - 1];
    mth__value *weight, *bias;
    bool across;
    const mth_arg *spec =
        part->spec && part->spec->kind == MTH_ARG_LIST ? part->spec : axes_spec(arena, part->axis_in, part->axis_out);
    TRY(mth__expansion_weight(expansion, mth__format(arena, "%sweight", part->prefix),
        (mth__shape){2, {width, part->width}}, MTH__INIT_NORMAL, 1 / __builtin_sqrt((double)width), spec,
        (int32_t[]){part->grain_in, part->grain_out}, &weight, &across));
    char text[3 * MTH__RANK + 8];
    int n = 0, lead = x->shape.rank < MTH__RANK ? x->shape.rank - 1 : MTH__RANK - 1;
    for (int d = 0; d < lead; d++) text[n++] = (char)('a' + d);
    memcpy(text + n, across ? "i,oi->" : "i,io->", 6), n += 6;
    for (int d = 0; d < lead; d++) text[n++] = (char)('a' + d);
    text[n++] = 'o', text[n] = 0;
    TRY(mth__build_contract(&expansion->builder, mth__copy_text(arena, text), x, weight, out));
    if (!part->bias) return NULL;
    TRY(mth__expansion_parameter(expansion, mth__format(arena, "%sbias", part->prefix), (mth__shape){1, {part->width}},
        MTH__INIT_ZERO, 0, NULL, (int32_t[]){part->grain_out}, &bias));
    return mth__build2(&expansion->builder, MTH__ROW_add, NULL, *out, bias, out);
}
