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
    const writer *state, const char *kind, mth__hlo_val x, mth__shape to, const char *attributes) {
    mth__arena *arena = state->hlo->arena;
    const char *one = mth__hlo_type(arena, x.dtype, (mth__shape){0});
    return mth__hlo_line(state->hlo, x.dtype, to,
        "\"stablehlo.%s\"(%s) <{%s%s}> ({\n"
        "    ^bb0(%%x: %s, %%y: %s):\n"
        "      %%z = stablehlo.%s %%x, %%y : %s\n"
        "      stablehlo.return %%z : %s\n"
        "    }) : (%s) -> %s",
        kind, mth__hlo_name(arena, x), attributes, state->groups, one, one, mth__hlo_reduction(state->channel), one,
        one, mth__hlo_type(arena, x.dtype, x.shape), mth__hlo_type(arena, x.dtype, to));
}

static mth__hlo_val all_reduce(const writer *state, mth__hlo_val x) {
    return reduce(state, "all_reduce", x, x.shape, "");
}

static mth__hlo_val reduce_scatter(
    const writer *state, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    int dim = state->channel->dim;
    x = mth__hlo_cut_parts(state->hlo, &state->group, x, dim, from, to);
    mth__shape shape = x.shape;
    shape.dim[dim] /= state->group.size;
    return reduce(
        state, "reduce_scatter", x, shape, mth__format(state->hlo->arena, "scatter_dimension = %d : i64, ", dim));
}

static mth__hlo_val all_gather(
    const writer *state, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    mth__arena *arena = state->hlo->arena;
    int dim = state->channel->dim;
    mth__shape shape = x.shape;
    shape.dim[dim] *= state->group.size;
    x = mth__hlo_line(state->hlo, x.dtype, shape,
        "\"stablehlo.all_gather\"(%s) <{all_gather_dim = %d : i64, %s}> : "
        "(%s) -> %s",
        mth__hlo_name(arena, x), dim, state->groups, mth__hlo_type(arena, x.dtype, x.shape),
        mth__hlo_type(arena, x.dtype, shape));
    return mth__hlo_join_parts(state->hlo, &state->group, x, dim, from, to);
}

static mth__hlo_val all_to_all(
    const writer *state, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    mth__arena *arena = state->hlo->arena;
    int split = state->channel->dim, whole = state->channel->dim2;
    x = mth__hlo_cut_parts(state->hlo, &state->group, x, split, from, to);
    mth__shape shape = x.shape;
    shape.dim[split] /= state->group.size;
    shape.dim[whole] *= state->group.size;
    x = mth__hlo_line(state->hlo, x.dtype, shape,
        "\"stablehlo.all_to_all\"(%s) <{split_dimension = %d : i64, concat_dimension = %d : i64, "
        "split_count = %d : i64, %s}> : (%s) -> %s",
        mth__hlo_name(arena, x), split, whole, state->group.size, state->groups, mth__hlo_type(arena, x.dtype, x.shape),
        mth__hlo_type(arena, x.dtype, shape));
    return mth__hlo_join_parts(state->hlo, &state->group, x, whole, from, to);
}

void mth__hlo_collective(
    mth__hlo *hlo, const mth__channel *channel, const mth__hlo_operand *in, mth__hlo_operand *out) {
    writer state = {hlo, channel, mth__hlo_groups_of(hlo, channel), NULL};
    const mth__hlo_part *from = in->part, *to = out->part;
    if (mth__shape_size(to->local) == 0) {
        out->value = mth__hlo_splat(hlo, channel->dtype, to->local, 0);
        return;
    }
    if (state.group.size == 1) {
        out->value = in->value;
        return;
    }
    state.groups = groups_text(hlo, &state.group);
    mth__hlo_val x = mth__hlo_reduced_as(hlo, channel, in->value);
    /* Maxima between devices lose NaN, whatever the options. */
    const bool keys = (channel->kind == MTH__ALL_REDUCE || channel->kind == MTH__REDUCE_SCATTER) &&
        mth__is_float(x.dtype) && !strcmp(mth__hlo_reduction(channel), "maximum");
    if (keys) x = mth__hlo_order_keys(hlo, x);
    switch (channel->kind) {
    case MTH__ALL_REDUCE: x = all_reduce(&state, x); break;
    case MTH__REDUCE_SCATTER: x = reduce_scatter(&state, x, from, to); break;
    case MTH__ALL_GATHER: x = all_gather(&state, x, from, to); break;
    default: x = all_to_all(&state, x, from, to);
    }
    if (keys) x = mth__hlo_of_order_keys(hlo, channel->dtype, x);
    out->value = mth__hlo_convert(hlo, channel->dtype, x);
}
