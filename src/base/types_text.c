/* Words for shapes, placements and shardings. Each is written by a function in the manner of snprintf, so that errors,
   which have no arena, print the same as plans. */
#include "base/types.h"

static void put_tuple(mth__sink *s, int n, const int64_t *v) {
    mth__sink_add(s, "(");
    for (int i = 0; i < n; i++) mth__sink_add(s, "%s%lld", i ? ", " : "", (long long)v[i]);
    mth__sink_add(s, n == 1 ? ",)" : ")");
}

static void put_dims(mth__sink *s, const mth__placement *p) {
    int64_t dim[MTH__AXES];
    for (int a = 0; a < p->naxes; a++) dim[a] = p->dim[a];
    put_tuple(s, p->naxes, dim);
}

static bool is_whole(const mth__placement *p) { return p->id == 0; }

static void put_placement(mth__sink *s, const mth__placement *p) {
    if (is_whole(p)) {
        mth__sink_add(s, "mesh");
        put_dims(s, p);
    } else if (p->naxes == 0) {
        mth__sink_add(s, "device %d", p->device[0]);
    } else {
        mth__sink_add(s, "devices[");
        for (int i = 0, n; i < p->count; i += n) { /* runs: "4..7", "0..6:2" */
            int step = i + 1 < p->count ? p->device[i + 1] - p->device[i] : 0;
            for (n = 1; i + n < p->count && p->device[i + n] - p->device[i + n - 1] == step;) n++;
            if (n < 3 || step < 1) n = 1;
            mth__sink_add(s, "%s%d", i ? "," : "", p->device[i]);
            if (n > 1) mth__sink_add(s, "..%d", p->device[i + n - 1]);
            if (n > 1 && step > 1) mth__sink_add(s, ":%d", step);
        }
        mth__sink_add(s, "]");
        if (p->naxes > 1) put_dims(s, p);
    }
}

static void put_sharding(mth__sink *s, const mth__sharding *sharding, int rank) {
    mth__sink_add(s, "(");
    for (int d = 0; d < rank; d++) {
        const mth__split *p = &sharding->dim[d];
        if (d) mth__sink_add(s, ", ");
        if (p->naxes == 0)
            mth__sink_add(s, "None");
        else if (p->naxes == 1)
            mth__sink_add(s, "%d", p->axis[0]);
        else
            for (int i = 0; i < p->naxes; i++)
                mth__sink_add(s, "%s%d%s", i ? ", " : "(", p->axis[i], i + 1 < p->naxes ? "" : ")");
        if (p->naxes && p->cyclic)
            mth__sink_add(s, " cyclic");
        else if (p->naxes && p->grain > 1)
            mth__sink_add(s, " by %d", p->grain);
    }
    mth__sink_add(s, rank == 1 ? ",)" : ")");
    if (sharding->partial) {
        bool several = sharding->partial & (sharding->partial - 1), first = true;
        mth__sink_add(
            s, " partial %s over %s", sharding->reduce == MTH__REDUCE_MAX ? "max" : "sum", several ? "(" : "");
        for (int a = 0; a < MTH__AXES; a++)
            if (sharding->partial >> a & 1) {
                mth__sink_add(s, "%s%d", first ? "" : ", ", a);
                first = false;
            }
        if (several) mth__sink_add(s, ")");
    }
}

static void put_where(mth__sink *s, const mth__sharding *sharding, int rank) {
    const mth__placement *on = sharding->on;
    put_sharding(s, sharding, rank);
    if (!on) return;
    mth__sink_add(s, on->naxes == 0 ? " on " : is_whole(on) ? " over mesh " : " over ");
    if (is_whole(on))
        put_dims(s, on);
    else
        put_placement(s, on);
}

size_t mth__shape_write(char *buffer, size_t room, mth__shape shape) {
    mth__sink s = mth__sink_new(buffer, room);
    put_tuple(&s, shape.rank, shape.dim);
    return s.n;
}

size_t mth__placement_write(char *buffer, size_t room, const mth__placement *p) {
    mth__sink s = mth__sink_new(buffer, room);
    put_placement(&s, p);
    return s.n;
}

size_t mth__sharding_write(char *buffer, size_t room, const mth__sharding *sharding, int rank) {
    mth__sink s = mth__sink_new(buffer, room);
    put_sharding(&s, sharding, rank);
    return s.n;
}

size_t mth__where_write(char *buffer, size_t room, const mth__sharding *sharding, int rank) {
    mth__sink s = mth__sink_new(buffer, room);
    put_where(&s, sharding, rank);
    return s.n;
}

const char *mth__shape_text(mth__arena *a, mth__shape shape) {
    size_t n = mth__shape_write(NULL, 0, shape) + 1;
    char *s = mth__alloc(a, n);
    mth__shape_write(s, n, shape);
    return s;
}

const char *mth__placement_text(mth__arena *a, const mth__placement *p) {
    size_t n = mth__placement_write(NULL, 0, p) + 1;
    char *s = mth__alloc(a, n);
    mth__placement_write(s, n, p);
    return s;
}

const char *mth__sharding_text(mth__arena *a, const mth__sharding *sharding, int rank) {
    size_t n = mth__sharding_write(NULL, 0, sharding, rank) + 1;
    char *s = mth__alloc(a, n);
    mth__sharding_write(s, n, sharding, rank);
    return s;
}

const char *mth__where_text(mth__arena *a, const mth__sharding *sharding, int rank) {
    size_t n = mth__where_write(NULL, 0, sharding, rank) + 1;
    char *s = mth__alloc(a, n);
    mth__where_write(s, n, sharding, rank);
    return s;
}
