/* Words for shapes, placements and shardings. Each is written by a function in the manner of snprintf, so that errors,
   which have no arena, print the same as plans. */
#include "base/types.h"

static void put_tuple(mth__sink *sink, int n, const int64_t *values) {
    mth__sink_add(sink, "(");
    for (int i = 0; i < n; i++) mth__sink_add(sink, "%s%lld", i ? ", " : "", (long long)values[i]);
    mth__sink_add(sink, n == 1 ? ",)" : ")");
}

static void put_dims(mth__sink *sink, const mth__placement *placement) {
    int64_t dim[MTH__AXES];
    for (int axis = 0; axis < placement->naxes; axis++) dim[axis] = placement->dim[axis];
    put_tuple(sink, placement->naxes, dim);
}

static bool is_whole(const mth__placement *placement) { return placement->id == 0; }

static void put_placement(mth__sink *sink, const mth__placement *placement) {
    if (is_whole(placement)) {
        mth__sink_add(sink, "mesh");
        put_dims(sink, placement);
    } else if (placement->naxes == 0) {
        mth__sink_add(sink, "device %d", placement->device[0]);
    } else {
        mth__sink_add(sink, "devices[");
        for (int i = 0, n; i < placement->count; i += n) { /* runs: "4..7", "0..6:2" */
            int step = i + 1 < placement->count ? placement->device[i + 1] - placement->device[i] : 0;
            for (n = 1; i + n < placement->count && placement->device[i + n] - placement->device[i + n - 1] == step;)
                n++;
            if (n < 3 || step < 1) n = 1;
            mth__sink_add(sink, "%s%d", i ? "," : "", placement->device[i]);
            if (n > 1) mth__sink_add(sink, "..%d", placement->device[i + n - 1]);
            if (n > 1 && step > 1) mth__sink_add(sink, ":%d", step);
        }
        mth__sink_add(sink, "]");
        if (placement->naxes > 1) put_dims(sink, placement);
    }
}

static void put_sharding(mth__sink *sink, const mth__sharding *sharding, int rank) {
    mth__sink_add(sink, "(");
    for (int d = 0; d < rank; d++) {
        const mth__split *split = &sharding->dim[d];
        if (d) mth__sink_add(sink, ", ");
        if (split->naxes == 0)
            mth__sink_add(sink, "None");
        else if (split->naxes == 1)
            mth__sink_add(sink, "%d", split->axis[0]);
        else
            for (int i = 0; i < split->naxes; i++)
                mth__sink_add(sink, "%s%d%s", i ? ", " : "(", split->axis[i], i + 1 < split->naxes ? "" : ")");
        if (split->naxes && split->cyclic)
            mth__sink_add(sink, " cyclic");
        else if (split->naxes && split->grain > 1)
            mth__sink_add(sink, " by %d", split->grain);
    }
    mth__sink_add(sink, rank == 1 ? ",)" : ")");
    if (sharding->partial) {
        bool several = sharding->partial & (sharding->partial - 1), first = true;
        mth__sink_add(
            sink, " partial %s over %s", sharding->reduce == MTH__REDUCE_MAX ? "max" : "sum", several ? "(" : "");
        for (int axis = 0; axis < MTH__AXES; axis++)
            if (sharding->partial >> axis & 1) {
                mth__sink_add(sink, "%s%d", first ? "" : ", ", axis);
                first = false;
            }
        if (several) mth__sink_add(sink, ")");
    }
}

static void put_where(mth__sink *sink, const mth__sharding *sharding, int rank) {
    const mth__placement *on = sharding->on;
    put_sharding(sink, sharding, rank);
    if (!on) return;
    mth__sink_add(sink, on->naxes == 0 ? " on " : is_whole(on) ? " over mesh " : " over ");
    if (is_whole(on))
        put_dims(sink, on);
    else
        put_placement(sink, on);
}

size_t mth__shape_write(char *buffer, size_t room, mth__shape shape) {
    mth__sink sink = mth__sink_new(buffer, room);
    put_tuple(&sink, shape.rank, shape.dim);
    return sink.n;
}

size_t mth__placement_write(char *buffer, size_t room, const mth__placement *placement) {
    mth__sink sink = mth__sink_new(buffer, room);
    put_placement(&sink, placement);
    return sink.n;
}

size_t mth__sharding_write(char *buffer, size_t room, const mth__sharding *sharding, int rank) {
    mth__sink sink = mth__sink_new(buffer, room);
    put_sharding(&sink, sharding, rank);
    return sink.n;
}

size_t mth__where_write(char *buffer, size_t room, const mth__sharding *sharding, int rank) {
    mth__sink sink = mth__sink_new(buffer, room);
    put_where(&sink, sharding, rank);
    return sink.n;
}

const char *mth__shape_text(mth__arena *arena, mth__shape shape) {
    size_t n = mth__shape_write(NULL, 0, shape) + 1;
    char *text = mth__alloc(arena, n);
    mth__shape_write(text, n, shape);
    return text;
}

const char *mth__placement_text(mth__arena *arena, const mth__placement *placement) {
    size_t n = mth__placement_write(NULL, 0, placement) + 1;
    char *text = mth__alloc(arena, n);
    mth__placement_write(text, n, placement);
    return text;
}

const char *mth__sharding_text(mth__arena *arena, const mth__sharding *sharding, int rank) {
    size_t n = mth__sharding_write(NULL, 0, sharding, rank) + 1;
    char *text = mth__alloc(arena, n);
    mth__sharding_write(text, n, sharding, rank);
    return text;
}

const char *mth__where_text(mth__arena *arena, const mth__sharding *sharding, int rank) {
    size_t n = mth__where_write(NULL, 0, sharding, rank) + 1;
    char *text = mth__alloc(arena, n);
    mth__where_write(text, n, sharding, rank);
    return text;
}
