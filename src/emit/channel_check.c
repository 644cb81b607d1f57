/* What a channel must say of itself, whoever made it: read from a text, or emitted. */
#include "emit/program.h"
#include <string.h>

enum { MOST_RANKS = 32767 }; /* ranks of a template's steps have 16 bits */

static const char *const fix = "write the sharding that this kind of communication leads to";

mth_status mth__sharding_check(const mth__sharding *s, mth__shape shape) {
    static const char *const name_axes = "name each axis of the placement at most once";
    if (!s->on) return FAIL(MTH_ERROR_VALUE, F("a value has no placement"), F("say where it is"));
    unsigned used = 0;
    for (int d = 0; d < shape.rank; d++) {
        const mth__split *p = &s->dim[d];
        if (p->naxes < 0 || p->naxes > MTH__AXES || p->grain < 0 || (p->cyclic && p->naxes > 1))
            return FAIL(MTH_ERROR_VALUE, F("dimension %d is split in a way that there is not", d),
                F("split it by at most %d axes, cyclically by one", MTH__AXES));
        for (int i = 0; i < p->naxes; i++) {
            int a = p->axis[i];
            if (a < 0 || a >= s->on->naxes)
                return FAIL(MTH_ERROR_VALUE,
                    F("dimension %d is split by axis %d, the placement has %d", d, a, s->on->naxes),
                    F("%s", name_axes));
            if (used >> a & 1) return FAIL(MTH_ERROR_VALUE, F("axis %d splits twice", a), F("%s", name_axes));
            used |= 1u << a;
        }
    }
    if (s->partial >> s->on->naxes)
        return FAIL(MTH_ERROR_VALUE, F("a partial sum over an axis that the placement lacks"), F("%s", name_axes));
    if (s->partial & used)
        return FAIL(MTH_ERROR_VALUE, F("an axis splits a dimension and holds partial sums"), F("%s", name_axes));
    return NULL;
}

static bool same_but(const mth__channel *c, int d1, int d2) {
    for (int d = 0; d < c->shape.rank; d++)
        if (d != d1 && d != d2 && !mth__split_equal(&c->from.dim[d], &c->to.dim[d])) return false;
    return true;
}

bool mth__split_begins(int64_t n, const mth__split *coarse, const mth__split *fine, const mth__placement *on) {
    if (coarse->naxes == 0) return true;
    if (mth__split_equal(coarse, fine)) return true;
    if (fine->naxes < coarse->naxes || fine->cyclic) return false;
    mth__sharding s = {.on = on, .dim = {*fine}};
    s.dim[0].naxes = coarse->naxes;
    mth__sharding_canonical(&s, (mth__shape){1, {n}});
    return mth__split_equal(&s.dim[0], coarse);
}

/* `fine` cuts the parts of `coarse` further, by exactly the axes of the channel. */
static bool cuts_further(const mth__channel *c, int d, const mth__split *coarse, const mth__split *fine) {
    unsigned more = 0;
    for (int i = coarse->naxes; i < fine->naxes; i++) more |= 1u << fine->axis[i];
    return more == c->axes && mth__split_begins(c->shape.dim[d], coarse, fine, c->from.on);
}

static mth_status wrong(const mth__channel *c, const char *what) {
    char text[2][512];
    mth__where_write(text[0], sizeof text[0], &c->from, c->shape.rank);
    mth__where_write(text[1], sizeof text[1], &c->to, c->shape.rank);
    return FAIL(
        MTH_ERROR_VALUE, F("%s: %s (%s to %s)", mth__channel_names[c->kind], what, text[0], text[1]), F("%s", fix));
}

static bool has_dimension(const mth__channel *c, int d) { return d >= 0 && d < c->shape.rank; }

static mth_status check_collective(const mth__channel *c) {
    const unsigned partial = c->from.partial, axes = c->axes;
    bool reduces = c->kind == MTH__ALL_REDUCE || c->kind == MTH__REDUCE_SCATTER;
    if (c->from.on != c->to.on) return wrong(c, "leads to another placement");
    if (!axes || axes >> c->from.on->naxes) return wrong(c, "the axes of its groups are none, or not the placement's");
    if (reduces && (axes & ~partial)) return wrong(c, "reduces over an axis over which nothing is partial");
    if (c->to.partial != (reduces ? partial & ~axes : partial))
        return wrong(c, "the partial sums that it leaves are others");
    if (c->to.partial && c->to.reduce != c->from.reduce)
        return wrong(c, "partial sums become partial maxima or the reverse");
    int d = c->dim, e = c->dim2;
    switch (c->kind) {
    case MTH__ALL_REDUCE:
        if (!same_but(c, -1, -1)) return wrong(c, "changes how a dimension is split");
        break;
    case MTH__ALL_GATHER:
        if (!has_dimension(c, d) || !same_but(c, d, d) || !cuts_further(c, d, &c->to.dim[d], &c->from.dim[d]))
            return wrong(c, "does not gather the innermost axes of one dimension");
        break;
    case MTH__REDUCE_SCATTER:
        if (!has_dimension(c, d) || !same_but(c, d, d) || !cuts_further(c, d, &c->from.dim[d], &c->to.dim[d]))
            return wrong(c, "does not split one dimension further by its axes");
        break;
    default:
        if (!has_dimension(c, d) || !has_dimension(c, e) || d == e || !same_but(c, d, e) ||
            !cuts_further(c, d, &c->from.dim[d], &c->to.dim[d]) || !cuts_further(c, e, &c->to.dim[e], &c->from.dim[e]))
            return wrong(c, "does not move its axes from one dimension to another");
    }
    return NULL;
}

mth_status mth__channel_check(const mth__channel *c) {
    if ((unsigned)c->kind >= MTH__CHANNEL_KINDS || (unsigned)c->algorithm >= MTH__ALGORITHMS)
        return FAIL(MTH_ERROR_VALUE, F("a channel of no kind"), F("use a kind and an algorithm that there is"));
    TRY(mth__shape_check(c->shape, c->dtype));
    TRY(mth__sharding_check(&c->from, c->shape));
    TRY(mth__sharding_check(&c->to, c->shape));
    if (c->reduce != c->from.reduce || c->reduce > MTH__REDUCE_MAX)
        return wrong(c, "reduces otherwise than its operand is partial");
    if (c->kind < MTH__BROADCAST) {
        TRY(check_collective(c));
    } else {
        if (c->from.partial || c->to.partial) return wrong(c, "moves partial sums");
        if (c->kind == MTH__BROADCAST && c->from.on->count != 1) return wrong(c, "has several sources");
        if (c->kind == MTH__BROADCAST && mth__sharding_axes(&c->to, c->shape.rank))
            return wrong(c, "gives parts, not the whole");
        if (c->kind == MTH__TRANSFER && c->algorithm != MTH__DIRECT) return wrong(c, "transfers are direct");
    }
    if (c->algorithm != MTH__DIRECT && mth__channel_size(c) > MOST_RANKS)
        return FAIL(MTH_ERROR_VALUE,
            F("%s %s over %d devices", mth__channel_names[c->kind], mth__algorithm_names[c->algorithm],
                mth__channel_size(c)),
            F("use direct for groups of more than %d devices", MOST_RANKS));
    return NULL;
}
