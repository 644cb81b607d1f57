/* What a channel must say of itself, whoever made it: read from a text, or emitted. */
#include "emit/program.h"
#include <string.h>

enum { MOST_RANKS = 32767 }; /* ranks of a template's steps have 16 bits */

static const char *const fix = "write the sharding that this kind of communication leads to";

mth_status mth__sharding_check(const mth__sharding *sharding, mth__shape shape) {
    static const char *const name_axes = "name each axis of the placement at most once";
    if (!sharding->on) return FAIL(MTH_ERROR_VALUE, F("a value has no placement"), F("say where it is"));
    unsigned used = 0;
    for (int d = 0; d < shape.rank; d++) {
        const mth__split *split = &sharding->dim[d];
        if (split->naxes < 0 || split->naxes > MTH__AXES || split->grain < 0 || (split->cyclic && split->naxes > 1))
            return FAIL(MTH_ERROR_VALUE, F("dimension %d is split in a way that there is not", d),
                F("split it by at most %d axes, cyclically by one", MTH__AXES));
        for (int i = 0; i < split->naxes; i++) {
            int axis = split->axis[i];
            if (axis < 0 || axis >= sharding->on->naxes)
                return FAIL(MTH_ERROR_VALUE,
                    F("dimension %d is split by axis %d, the placement has %d", d, axis, sharding->on->naxes),
                    F("%s", name_axes));
            if (used >> axis & 1) return FAIL(MTH_ERROR_VALUE, F("axis %d splits twice", axis), F("%s", name_axes));
            used |= 1u << axis;
        }
    }
    if (sharding->partial >> sharding->on->naxes)
        return FAIL(MTH_ERROR_VALUE, F("a partial sum over an axis that the placement lacks"), F("%s", name_axes));
    if (sharding->partial & used)
        return FAIL(MTH_ERROR_VALUE, F("an axis splits a dimension and holds partial sums"), F("%s", name_axes));
    return NULL;
}

static bool same_but(const mth__channel *channel, int d1, int d2) {
    for (int d = 0; d < channel->shape.rank; d++)
        if (d != d1 && d != d2 && !mth__split_equal(&channel->from.dim[d], &channel->to.dim[d])) return false;
    return true;
}

bool mth__split_begins(int64_t n, const mth__split *coarse, const mth__split *fine, const mth__placement *on) {
    if (coarse->naxes == 0) return true;
    if (mth__split_equal(coarse, fine)) return true;
    if (fine->naxes < coarse->naxes || fine->cyclic) return false;
    mth__sharding sharding = {.on = on, .dim = {*fine}};
    sharding.dim[0].naxes = coarse->naxes;
    mth__sharding_canonical(&sharding, (mth__shape){1, {n}});
    return mth__split_equal(&sharding.dim[0], coarse);
}

/* `fine` cuts the parts of `coarse` further, by exactly the axes of the channel. */
static bool cuts_further(const mth__channel *channel, int d, const mth__split *coarse, const mth__split *fine) {
    unsigned more = 0;
    for (int i = coarse->naxes; i < fine->naxes; i++) more |= 1u << fine->axis[i];
    return more == channel->axes && mth__split_begins(channel->shape.dim[d], coarse, fine, channel->from.on);
}

static mth_status wrong(const mth__channel *channel, const char *what) {
    char text[2][512];
    mth__where_write(text[0], sizeof text[0], &channel->from, channel->shape.rank);
    mth__where_write(text[1], sizeof text[1], &channel->to, channel->shape.rank);
    return FAIL(MTH_ERROR_VALUE, F("%s: %s (%s to %s)", mth__channel_names[channel->kind], what, text[0], text[1]),
        F("%s", fix));
}

static bool has_dimension(const mth__channel *channel, int d) { return d >= 0 && d < channel->shape.rank; }

static mth_status check_collective(const mth__channel *channel) {
    const unsigned partial = channel->from.partial, axes = channel->axes;
    bool reduces = channel->kind == MTH__ALL_REDUCE || channel->kind == MTH__REDUCE_SCATTER;
    if (channel->from.on != channel->to.on) return wrong(channel, "leads to another placement");
    if (!axes || axes >> channel->from.on->naxes)
        return wrong(channel, "the axes of its groups are none, or not the placement's");
    if (reduces && (axes & ~partial)) return wrong(channel, "reduces over an axis over which nothing is partial");
    if (channel->to.partial != (reduces ? partial & ~axes : partial))
        return wrong(channel, "the partial sums that it leaves are others");
    if (channel->to.partial && channel->to.reduce != channel->from.reduce)
        return wrong(channel, "partial sums become partial maxima or the reverse");
    int d = channel->dim, other = channel->dim2;
    switch (channel->kind) {
    case MTH__ALL_REDUCE:
        if (!same_but(channel, -1, -1)) return wrong(channel, "changes how a dimension is split");
        break;
    case MTH__ALL_GATHER:
        if (!has_dimension(channel, d) || !same_but(channel, d, d) ||
            !cuts_further(channel, d, &channel->to.dim[d], &channel->from.dim[d]))
            return wrong(channel, "does not gather the innermost axes of one dimension");
        break;
    case MTH__REDUCE_SCATTER:
        if (!has_dimension(channel, d) || !same_but(channel, d, d) ||
            !cuts_further(channel, d, &channel->from.dim[d], &channel->to.dim[d]))
            return wrong(channel, "does not split one dimension further by its axes");
        break;
    default:
        if (!has_dimension(channel, d) || !has_dimension(channel, other) || d == other ||
            !same_but(channel, d, other) || !cuts_further(channel, d, &channel->from.dim[d], &channel->to.dim[d]) ||
            !cuts_further(channel, other, &channel->to.dim[other], &channel->from.dim[other]))
            return wrong(channel, "does not move its axes from one dimension to another");
    }
    return NULL;
}

mth_status mth__channel_check(const mth__channel *channel) {
    if ((unsigned)channel->kind >= MTH__CHANNEL_KINDS || (unsigned)channel->algorithm >= MTH__ALGORITHMS)
        return FAIL(MTH_ERROR_VALUE, F("a channel of no kind"), F("use a kind and an algorithm that there is"));
    TRY(mth__shape_check(channel->shape, channel->dtype));
    TRY(mth__sharding_check(&channel->from, channel->shape));
    TRY(mth__sharding_check(&channel->to, channel->shape));
    if (channel->reduce != channel->from.reduce || channel->reduce > MTH__REDUCE_MAX)
        return wrong(channel, "reduces otherwise than its operand is partial");
    if (channel->kind < MTH__BROADCAST) {
        TRY(check_collective(channel));
    } else {
        if (channel->from.partial || channel->to.partial) return wrong(channel, "moves partial sums");
        if (channel->kind == MTH__BROADCAST && channel->from.on->count != 1)
            return wrong(channel, "has several sources");
        if (channel->kind == MTH__BROADCAST && mth__sharding_axes(&channel->to, channel->shape.rank))
            return wrong(channel, "gives parts, not the whole");
        if (channel->kind == MTH__TRANSFER && channel->algorithm != MTH__DIRECT)
            return wrong(channel, "transfers are direct");
    }
    if (channel->algorithm != MTH__DIRECT && mth__channel_size(channel) > MOST_RANKS)
        return FAIL(MTH_ERROR_VALUE,
            F("%s %s over %d devices", mth__channel_names[channel->kind], mth__algorithm_names[channel->algorithm],
                mth__channel_size(channel)),
            F("use direct for groups of more than %d devices", MOST_RANKS));
    return NULL;
}
