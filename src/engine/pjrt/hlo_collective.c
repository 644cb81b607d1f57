/* XLA's own collectives. Those that cut or join a dimension work on pieces of equal size: parts are padded to it
 * before, and put in order after. */
#include "engine/pjrt/hlo_group.h"
#include <string.h>

typedef struct {
    mth__hlo *h;
    const mth__channel *c;
    mth__hlo_groups g;
    const char *groups;
} writer;

static const char *groups_text(mth__hlo *h, const mth__hlo_groups *g) {
    mth__text t = mth__text_new(h->arena);
    mth__text_add(&t, "replica_groups = dense<[");
    for (int k = 0; k < g->count; k++)
        for (int r = 0; r < g->size; r++)
            mth__text_add(&t, "%s%d%s",
                r       ? ", "
                    : k ? ", ["
                        : "[",
                g->member[k * g->size + r], r == g->size - 1 ? "]" : "");
    mth__text_add(&t, "]> : tensor<%dx%dxi64>", g->count, g->size);
    return t.at;
}

/* attributes: those of the kind, ", " behind them */
static mth__hlo_val reduce(const writer *w, const char *kind, mth__hlo_val x, mth__shape to, const char *attributes) {
    mth__arena *arena = w->h->arena;
    const char *one = mth__hlo_type(arena, x.dtype, (mth__shape){0});
    return mth__hlo_line(w->h, x.dtype, to,
        "\"stablehlo.%s\"(%s) <{%s%s}> ({\n"
        "    ^bb0(%%x: %s, %%y: %s):\n"
        "      %%z = stablehlo.%s %%x, %%y : %s\n"
        "      stablehlo.return %%z : %s\n"
        "    }) : (%s) -> %s",
        kind, mth__hlo_name(arena, x), attributes, w->groups, one, one, mth__hlo_reduction(w->c), one, one,
        mth__hlo_type(arena, x.dtype, x.shape), mth__hlo_type(arena, x.dtype, to));
}

static mth__hlo_val all_reduce(const writer *w, mth__hlo_val x) { return reduce(w, "all_reduce", x, x.shape, ""); }

static mth__hlo_val reduce_scatter(
    const writer *w, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    int dim = w->c->dim;
    x = mth__hlo_cut_parts(w->h, &w->g, x, dim, from, to);
    mth__shape s = x.shape;
    s.dim[dim] /= w->g.size;
    return reduce(w, "reduce_scatter", x, s, mth__format(w->h->arena, "scatter_dimension = %d : i64, ", dim));
}

static mth__hlo_val all_gather(const writer *w, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    mth__arena *arena = w->h->arena;
    int dim = w->c->dim;
    mth__shape s = x.shape;
    s.dim[dim] *= w->g.size;
    x = mth__hlo_line(w->h, x.dtype, s,
        "\"stablehlo.all_gather\"(%s) <{all_gather_dim = %d : i64, %s}> : "
        "(%s) -> %s",
        mth__hlo_name(arena, x), dim, w->groups, mth__hlo_type(arena, x.dtype, x.shape),
        mth__hlo_type(arena, x.dtype, s));
    return mth__hlo_join_parts(w->h, &w->g, x, dim, from, to);
}

static mth__hlo_val all_to_all(const writer *w, mth__hlo_val x, const mth__hlo_part *from, const mth__hlo_part *to) {
    mth__arena *arena = w->h->arena;
    int split = w->c->dim, whole = w->c->dim2;
    x = mth__hlo_cut_parts(w->h, &w->g, x, split, from, to);
    mth__shape s = x.shape;
    s.dim[split] /= w->g.size;
    s.dim[whole] *= w->g.size;
    x = mth__hlo_line(w->h, x.dtype, s,
        "\"stablehlo.all_to_all\"(%s) <{split_dimension = %d : i64, concat_dimension = %d : i64, "
        "split_count = %d : i64, %s}> : (%s) -> %s",
        mth__hlo_name(arena, x), split, whole, w->g.size, w->groups, mth__hlo_type(arena, x.dtype, x.shape),
        mth__hlo_type(arena, x.dtype, s));
    return mth__hlo_join_parts(w->h, &w->g, x, whole, from, to);
}

void mth__hlo_collective(mth__hlo *h, const mth__channel *c, const mth__hlo_operand *in, mth__hlo_operand *out) {
    writer w = {h, c, mth__hlo_groups_of(h, c), NULL};
    const mth__hlo_part *from = in->part, *to = out->part;
    if (mth__shape_size(to->local) == 0) {
        out->v = mth__hlo_splat(h, c->dtype, to->local, 0);
        return;
    }
    if (w.g.size == 1) {
        out->v = in->v;
        return;
    }
    w.groups = groups_text(h, &w.g);
    mth__hlo_val x = mth__hlo_reduced_as(h, c, in->v);
    /* Maxima between devices lose NaN, whatever the options. */
    const bool keys = (c->kind == MTH__ALL_REDUCE || c->kind == MTH__REDUCE_SCATTER) && mth__is_float(x.dtype) &&
        !strcmp(mth__hlo_reduction(c), "maximum");
    if (keys) x = mth__hlo_order_keys(h, x);
    switch (c->kind) {
    case MTH__ALL_REDUCE: x = all_reduce(&w, x); break;
    case MTH__REDUCE_SCATTER: x = reduce_scatter(&w, x, from, to); break;
    case MTH__ALL_GATHER: x = all_gather(&w, x, from, to); break;
    default: x = all_to_all(&w, x, from, to);
    }
    if (keys) x = mth__hlo_of_order_keys(h, c->dtype, x);
    out->v = mth__hlo_convert(h, c->dtype, x);
}
