/* XLA's own collectives. Those that cut or join a dimension work on pieces of equal size: parts are padded to it
 * before, and put in order after. */
#include "engine/pjrt/hlo_group.h"
#include <string.h>

typedef struct {
    mth__hlo *hlo;
    const mth__channel *channel;
    mth__hlo_groups group;
    const char *groups;
} writer;

static const char *groups_text(mth__hlo *hlo, const mth__hlo_groups *groups) {
    mth__text text = mth__text_new(hlo->arena);
    mth__text_add(&text, "replica_groups = dense<[");
    for (int k = 0; k < groups->count; k++)
        for (int rank = 0; rank < groups->size; rank++)
            mth__text_add(&text, "%s%d%s",
                rank    ? ", "
                    : k ? ", ["
                        : "[",
                groups->member[k * groups->size + rank], rank == groups->size - 1 ? "]" : "");
    mth__text_add(&text, "]> : tensor<%dx%dxi64>", groups->count, groups->size);
    return text.at;
}

/* attributes: those of the kind, ", " behind them */
static mth__hlo_val reduce(
    const writer *plan, const char *kind, mth__hlo_val x, mth__shape to, const char *attributes) {
    mth__arena *arena = plan->hlo->arena;
    const char *one = mth__hlo_type(arena, x.dtype, (mth__shape){0});
    return mth__hlo_line(plan->hlo, x.dtype, to,
        "\"stablehlo.%s\"(%s) <{%s%s}> ({\n"
        "    ^bb0(%%x: %s, %%y: %s):\n"
        "      %%z = stablehlo.%s %%x, %%y : %s\n"
        "      stablehlo.return %%z : %s\n"
        "    }) : (%s) -> %s",
        kind, mth__hlo_name(arena, x), attributes, plan->groups, one, one, mth__hlo_reduction(plan->channel), one, one,
        mth__hlo_type(arena, x.dtype, x.shape), mth__hlo_type(arena, x.dtype, to));
}

static mth__hlo_val all_reduce(const writer *plan, mth__hlo_val x) {
    return reduce(plan, "all_reduce", x, x.shape, "");
}

static mth__hlo_val reduce_scatter(
    const writer *plan, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    int dim = plan->channel->dim;
    x = mth__hlo_cut_parts(plan->hlo, &plan->group, x, dim, from, to);
    mth__shape shape = x.shape;
    shape.dim[dim] /= plan->group.size;
    return reduce(
        plan, "reduce_scatter", x, shape, mth__format(plan->hlo->arena, "scatter_dimension = %d : i64, ", dim));
}

static mth__hlo_val all_gather(const writer *plan, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    mth__arena *arena = plan->hlo->arena;
    int dim = plan->channel->dim;
    mth__shape shape = x.shape;
    shape.dim[dim] *= plan->group.size;
    x = mth__hlo_line(plan->hlo, x.dtype, shape,
        "\"stablehlo.all_gather\"(%s) <{all_gather_dim = %d : i64, %s}> : "
        "(%s) -> %s",
        mth__hlo_name(arena, x), dim, plan->groups, mth__hlo_type(arena, x.dtype, x.shape),
        mth__hlo_type(arena, x.dtype, shape));
    return mth__hlo_join_parts(plan->hlo, &plan->group, x, dim, from, to);
}

static mth__hlo_val all_to_all(const writer *plan, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    mth__arena *arena = plan->hlo->arena;
    int split = plan->channel->dim, whole = plan->channel->dim2;
    x = mth__hlo_cut_parts(plan->hlo, &plan->group, x, split, from, to);
    mth__shape shape = x.shape;
    shape.dim[split] /= plan->group.size;
    shape.dim[whole] *= plan->group.size;
    x = mth__hlo_line(plan->hlo, x.dtype, shape,
        "\"stablehlo.all_to_all\"(%s) <{split_dimension = %d : i64, concat_dimension = %d : i64, "
        "split_count = %d : i64, %s}> : (%s) -> %s",
        mth__hlo_name(arena, x), split, whole, plan->group.size, plan->groups, mth__hlo_type(arena, x.dtype, x.shape),
        mth__hlo_type(arena, x.dtype, shape));
    return mth__hlo_join_parts(plan->hlo, &plan->group, x, whole, from, to);
}

void mth__hlo_collective(
    mth__hlo *hlo, const mth__channel *channel, const mth__hlo_operand *in, mth__hlo_operand *out) {
    writer plan = {hlo, channel, mth__hlo_groups_of(hlo, channel), NULL};
    const mth__hlo_part *from = in->part, *to = out->part;
    if (mth__shape_size(to->local) == 0) {
        out->value = mth__hlo_splat(hlo, channel->dtype, to->local, 0);
        return;
    }
    if (plan.group.size == 1) {
        out->value = in->value;
        return;
    }
    plan.groups = groups_text(hlo, &plan.group);
    mth__hlo_val x = mth__hlo_reduced_as(hlo, channel, in->value);
    /* Maxima between devices lose NaN, whatever the options. */
    const bool keys = (channel->kind == MTH__ALL_REDUCE || channel->kind == MTH__REDUCE_SCATTER) &&
        mth__is_float(x.dtype) && !strcmp(mth__hlo_reduction(channel), "maximum");
    if (keys) x = mth__hlo_order_keys(hlo, x);
    switch (channel->kind) {
    case MTH__ALL_REDUCE: x = all_reduce(&plan, x); break;
    case MTH__REDUCE_SCATTER: x = reduce_scatter(&plan, x, from, to); break;
    case MTH__ALL_GATHER: x = all_gather(&plan, x, from, to); break;
    default: x = all_to_all(&plan, x, from, to);
    }
    if (keys) x = mth__hlo_of_order_keys(hlo, channel->dtype, x);
    out->value = mth__hlo_convert(hlo, channel->dtype, x);
}
