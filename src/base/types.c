#include "base/types.h"
#include <string.h>

/* ---------------------------------------------------------------- shapes */
bool mth__shape_equal(mth__shape a, mth__shape b) {
    if (a.rank != b.rank) return false;
    for (int d = 0; d < a.rank; d++)
        if (a.dim[d] != b.dim[d]) return false;
    return true;
}

int64_t mth__shape_size(mth__shape s) {
    int64_t n = 1;
    for (int d = 0; d < s.rank; d++) n *= s.dim[d];
    return n;
}

void mth__shape_strides(mth__shape s, int64_t stride[MTH__RANK]) {
    int64_t n = 1;
    for (int d = s.rank - 1; d >= 0; d--) {
        stride[d] = n;
        n *= s.dim[d];
    }
}

mth_status mth__shape_check(mth__shape s, mth_dtype dtype) {
    if (!mth__is_dtype(dtype))
        return FAIL(MTH_ERROR_TYPE, F("%d is no dtype", (int)dtype), F("use float32, or another dtype of mithril.h"));
    if (s.rank < 0 || s.rank > MTH__RANK)
        return FAIL(MTH_ERROR_VALUE, F("a tensor has 0 to %d dimensions, this one %d", MTH__RANK, s.rank),
            F("reshape it to %d dimensions or fewer", MTH__RANK));
    int64_t bytes = (int64_t)mth_dtype_size(dtype);
    for (int d = 0; d < s.rank; d++)
        if (s.dim[d] < 0)
            return FAIL(MTH_ERROR_VALUE, F("dimension %d has size %lld", d, (long long)s.dim[d]),
                F("give every dimension a size of 0 or more"));
    /* a 0 counts as 1: products of some of the dimensions, such as strides, must fit too */
    for (int d = 0; d < s.rank; d++)
        if (__builtin_mul_overflow(bytes, s.dim[d] ? s.dim[d] : 1, &bytes) || bytes >= (int64_t)1 << 62) {
            char text[256];
            mth__shape_write(text, sizeof text, s);
            return FAIL(MTH_ERROR_VALUE, F("the shape %s of %s has 2^62 bytes or more", text, mth_dtype_name(dtype)),
                F("use smaller dimensions"));
        }
    return NULL;
}

/* ---------------------------------------------------------------- the mesh and its placements */
static uint64_t hash(int naxes, const int *dim, int count, const int32_t *device) {
    uint64_t h = mth__hash_add(mth__hash_key(), (uint64_t)naxes);
    for (int a = 0; a < naxes; a++) h = mth__hash_add(h, (uint64_t)dim[a]);
    for (int i = 0; i < count; i++) h = mth__hash_add(h, (uint64_t)device[i]);
    return h;
}

/* A placement that may be there already. */
typedef struct {
    const mth__mesh *mesh;
    int naxes, count;
    const int *dim;
    const int32_t *device;
} placement_key;

static bool is_placement(const void *key, int number) {
    const placement_key *wanted = key;
    const mth__placement *p = wanted->mesh->placements.at[number];
    return p->naxes == wanted->naxes && p->count == wanted->count &&
        !memcmp(p->dim, wanted->dim, (size_t)wanted->naxes * sizeof *wanted->dim) &&
        !memcmp(p->device, wanted->device, (size_t)wanted->count * sizeof *wanted->device);
}

static mth__placement *place_new(mth__mesh *m, int naxes, const int *dim, int count, const int32_t *device) {
    mth__placement *p = NEW(m->arena, mth__placement);
    p->id = (int)m->placements.n;
    p->naxes = naxes;
    for (int a = 0; a < naxes; a++) p->dim[a] = dim[a];
    for (int a = 0; a < MTH__AXES; a++) p->mesh_axis[a] = -1;
    p->count = count;
    p->device = device;
    p->mesh = m;
    p->lowest = device[0];
    for (int i = 1; i < count; i++)
        if (device[i] < p->lowest) p->lowest = device[i];
    PUSH(m->arena, m->placements, p);
    return p;
}

static const mth__placement *intern(
    mth__mesh *m, int naxes, const int *dim, int count, const int32_t *device, const int *mesh_axis) {
    const placement_key key = {m, naxes, count, dim, device};
    const uint64_t h = hash(naxes, dim, count, device);
    const int found = mth__table_find(&m->interned, h, is_placement, &key);
    if (found >= 0) return m->placements.at[found];
    mth__table_reserve(m->arena, &m->interned);
    int32_t *copy = NEW_ARRAY(m->arena, int32_t, count), *rank_of = NEW_ARRAY(m->arena, int32_t, m->count);
    memcpy(copy, device, (size_t)count * sizeof *copy);
    memset(rank_of, -1, (size_t)m->count * sizeof *rank_of);
    for (int i = 0; i < count; i++) rank_of[device[i]] = i;
    mth__placement *p = place_new(m, naxes, dim, count, copy);
    p->rank_of = rank_of;
    for (int a = 0; a < naxes; a++) p->mesh_axis[a] = mesh_axis[a];
    mth__table_put(&m->interned, h, is_placement, &key, p->id);
    return p;
}

mth_status mth__mesh_new(mth__arena *arena, int naxes, const int64_t *dim, mth__mesh **out) {
    enum { MOST = 1 << 20 };
    if (naxes < 1 || naxes > MTH__AXES)
        return FAIL(MTH_ERROR_VALUE, F("a device mesh has 1 to %d axes, this one %d", MTH__AXES, naxes),
            F("give a device_mesh such as (4,) or (2, 2)"));
    int64_t count = 1;
    for (int a = 0; a < naxes; a++) {
        if (dim[a] < 1 || dim[a] > MOST || (count *= dim[a]) > MOST)
            return FAIL(MTH_ERROR_VALUE, F("axis %d of the device mesh has size %lld", a, (long long)dim[a]),
                F("give sizes of 1 or more, at most %d devices in all", MOST));
    }
    mth__mesh *m = NEW(arena, mth__mesh);
    m->arena = arena;
    m->naxes = naxes;
    m->count = (int)count;
    int mesh_axis[MTH__AXES];
    for (int a = 0; a < naxes; a++) {
        m->dim[a] = (int)dim[a];
        mesh_axis[a] = a;
    }
    int32_t *all = NEW_ARRAY(arena, int32_t, count);
    for (int i = 0; i < m->count; i++) all[i] = i;
    m->all = all;
    m->single = NEW_ARRAY(arena, mth__placement *, count);
    /* One table for all single devices: 0 in the middle, -1 elsewhere; each looks at it through its own window. */
    m->single_rank = NEW_ARRAY(arena, int32_t, 2 * count - 1);
    memset(m->single_rank, -1, (size_t)(2 * count - 1) * sizeof *m->single_rank);
    m->single_rank[count - 1] = 0;
    m->whole = intern(m, naxes, m->dim, m->count, all, mesh_axis);
    mth__machine *nominal;
    TRY(mth__machine_builtin(arena, "nominal", &nominal));
    mth__mesh_use(m, nominal);
    *out = m;
    return NULL;
}

void mth__mesh_use(mth__mesh *m, const mth__machine *machine) {
    mth__device_model *model = NEW(m->arena, mth__device_model);
    *model = mth__device_model_of(machine, m->naxes, m->count);
    m->model = model;
}

const mth__placement *mth__place_whole(mth__mesh *m) { return m->whole; }

const mth__placement *mth__place_device(mth__mesh *m, int device) {
    if (!m->single[device]) {
        mth__placement *p = place_new(m, 0, NULL, 1, m->all + device);
        p->rank_of = m->single_rank + (m->count - 1 - device);
        m->single[device] = p;
    }
    return m->single[device];
}

/* Distance in device ids of neighbours along an axis. */
static int axis_stride(const mth__mesh *m, int axis) {
    int stride = 1;
    for (int a = axis + 1; a < m->naxes; a++) stride *= m->dim[a];
    return stride;
}

const mth__placement *mth__place_list(mth__mesh *m, int n, const int32_t *device) {
    if (n == 1) return mth__place_device(m, device[0]);
    /* a list that runs along a whole axis is that axis, so that a slice and a list of the same devices are one */
    int mesh_axis = -1;
    for (int a = 0; a < m->naxes && mesh_axis < 0; a++) {
        int stride = axis_stride(m, a);
        bool along = n == m->dim[a] && device[0] / stride % m->dim[a] == 0;
        for (int i = 1; i < n && along; i++) along = device[i] == device[0] + i * stride;
        if (along) mesh_axis = a;
    }
    return intern(m, 1, &n, n, device, &mesh_axis);
}

const mth__placement *mth__place_slice(mth__mesh *m, int axis, int coordinate) {
    int naxes = 0, dim[MTH__AXES], mesh_axis[MTH__AXES];
    for (int a = 0; a < m->naxes; a++)
        if (a != axis) {
            dim[naxes] = m->dim[a];
            mesh_axis[naxes++] = a;
        }
    int stride = axis_stride(m, axis), count = 0;
    if (naxes == 0) return mth__place_device(m, coordinate);
    int32_t *device = NEW_ARRAY(m->arena, int32_t, m->count / m->dim[axis]);
    for (int i = 0; i < m->count; i++)
        if (i / stride % m->dim[axis] == coordinate) device[count++] = i;
    return intern(m, naxes, dim, count, device, mesh_axis);
}

const mth__placement *mth__place_grid(mth__mesh *m, int naxes, const int *dim, const int32_t *device) {
    static const int none[MTH__AXES] = {-1, -1, -1, -1};
    int count = 1;
    for (int a = 0; a < naxes; a++) count *= dim[a];
    return intern(m, naxes, dim, count, device, none);
}

/* The axis along which all these are slices, -1: they are not all slices of the mesh, or some are missing. */
static int sliced_axis(const mth__mesh *m, int n, const mth__placement *const *part) {
    unsigned axes = 0;
    if (n * part[0]->count != m->count || part[0]->naxes != m->naxes - 1) return -1;
    for (int a = 0; a < part[0]->naxes; a++) {
        if (part[0]->mesh_axis[a] < 0) return -1;
        axes |= 1u << part[0]->mesh_axis[a];
    }
    for (int k = 1; k < n; k++)
        if (memcmp(part[k]->mesh_axis, part[0]->mesh_axis, sizeof part[0]->mesh_axis)) return -1;
    int missing = 0;
    while (axes >> missing & 1) missing++;
    return missing;
}

const mth__placement *mth__place_stack(mth__mesh *m, int n, const mth__placement *const *part, int *axis) {
    const int inner = part[0]->naxes, sliced = sliced_axis(m, n, part);
    int dim[MTH__AXES] = {n}, mesh_axis[MTH__AXES] = {-1}, count = 0;
    *axis = sliced < 0 ? 0 : sliced;
    if (sliced >= 0) return m->whole;
    int32_t *device = NEW_ARRAY(m->arena, int32_t, n *part[0]->count);
    for (int k = 0; k < n; k++) {
        memcpy(device + count, part[k]->device, (size_t)part[k]->count * sizeof *device);
        count += part[k]->count;
    }
    if (!inner) return mth__place_list(m, n, device);
    for (int a = 0; a < inner; a++) {
        dim[a + 1] = part[0]->dim[a];
        mesh_axis[a + 1] = part[0]->mesh_axis[a];
        for (int k = 1; k < n; k++)
            if (part[k]->mesh_axis[a] != mesh_axis[a + 1]) mesh_axis[a + 1] = -1;
    }
    return intern(m, inner + 1, dim, count, device, mesh_axis);
}

bool mth__place_stacked(const mth__placement *stack, const mth__placement *part) {
    if (stack->naxes != part->naxes + 1) return false;
    if (memcmp(stack->dim + 1, part->dim, sizeof(int) * (size_t)part->naxes)) return false;
    const int at = stack->rank_of[part->device[0]];
    return at >= 0 && at % part->count == 0 &&
        !memcmp(stack->device + at, part->device, sizeof *part->device * (size_t)part->count);
}

bool mth__place_holds(const mth__placement *all, const mth__placement *part) {
    if (all->count < part->count) return false;
    for (int i = 0; i < part->count && all->id != 0; i++)
        if (all->rank_of[part->device[i]] < 0) return false;
    return true;
}

void mth__placement_coordinates(const mth__placement *p, int rank, int coordinate[MTH__AXES]) {
    for (int a = p->naxes - 1; a >= 0; a--) {
        coordinate[a] = rank % p->dim[a];
        rank /= p->dim[a];
    }
}

/* ---------------------------------------------------------------- shardings */

/* Elements that each device along an axis of k has, but for the last ones. */
static int64_t chunk(int64_t n, int64_t grain, int64_t k) {
    return grain > 1 ? mth__ceil_div(mth__ceil_div(n, grain), k) * grain : mth__ceil_div(n, k);
}

mth__extent mth__split_extent(int64_t n, const mth__split *s, const mth__placement *on, const int *coordinate) {
    mth__extent e = {0, n, 1};
    if (s->cyclic && s->naxes) {
        int64_t k = on->dim[s->axis[0]], r = coordinate[s->axis[0]];
        return (mth__extent){r < n ? r : n, r < n ? mth__ceil_div(n - r, k) : 0, k};
    }
    for (int i = 0; i < s->naxes; i++) {
        int64_t c = chunk(e.size, s->grain, on->dim[s->axis[i]]), before = coordinate[s->axis[i]] * c;
        if (before > e.size) before = e.size;
        e.start += before;
        e.size = e.size - before < c ? e.size - before : c;
    }
    return e;
}

/* Do grain and grain 1 cut n elements alike, from axis i of the split on? Along an axis there are at most two sizes
 * besides 0. */
static bool grain_is_idle(int64_t n, const mth__split *s, const mth__placement *on, int i) {
    if (i == s->naxes) return true;
    int64_t k = on->dim[s->axis[i]], coarse = chunk(n, s->grain, k), fine = chunk(n, 1, k);
    if (coarse > n) coarse = n;
    if (coarse != fine) return false;
    if (n == 0) return true;
    int64_t rest = n % fine;
    return grain_is_idle(fine, s, on, i + 1) && (rest == 0 || grain_is_idle(rest, s, on, i + 1));
}

void mth__split_canonical(mth__split *p, int64_t n, const mth__placement *on) {
    int axes = 0;
    for (int i = 0; i < p->naxes; i++)
        if (on->dim[p->axis[i]] > 1) p->axis[axes++] = p->axis[i];
    for (int i = axes; i < MTH__AXES; i++) p->axis[i] = 0;
    p->naxes = (int8_t)axes;
    if (axes == 0) {
        *p = (mth__split){0};
    } else if (p->cyclic) {
        p->grain = 0;
        if (n <= on->dim[p->axis[0]]) p->cyclic = false; /* an element a device: a block is the same */
    } else if (p->grain > 1 ? grain_is_idle(n, p, on, 0) : p->grain != 0) {
        p->grain = 0;
    }
}

void mth__sharding_canonical(mth__sharding *s, mth__shape shape) {
    const mth__placement *on = s->on;
    for (int d = 0; d < MTH__RANK; d++)
        if (d < shape.rank && s->dim[d].naxes)
            mth__split_canonical(&s->dim[d], shape.dim[d], on);
        else
            s->dim[d] = (mth__split){0};
    for (int a = 0; s->partial >> a; a++)
        if (s->partial >> a & 1 && (a >= on->naxes || on->dim[a] == 1)) s->partial &= (uint8_t)~(1u << a);
    if (!s->partial) s->reduce = MTH__REDUCE_SUM;
}

bool mth__split_equal(const mth__split *a, const mth__split *b) {
    if (a->naxes != b->naxes) return false;
    if (a->naxes == 0) return true;
    if (a->cyclic != b->cyclic || (a->grain > 1 ? a->grain : 1) != (b->grain > 1 ? b->grain : 1)) return false;
    for (int i = 0; i < a->naxes; i++)
        if (a->axis[i] != b->axis[i]) return false;
    return true;
}

bool mth__sharding_equal(const mth__sharding *a, const mth__sharding *b, int rank) {
    if (a->on != b->on || a->partial != b->partial || (a->partial && a->reduce != b->reduce)) return false;
    for (int d = 0; d < rank; d++)
        if (!mth__split_equal(&a->dim[d], &b->dim[d])) return false;
    return true;
}

mth__shape mth__local_shape(
    mth__shape shape, const mth__sharding *s, int rank, int64_t start[MTH__RANK], int64_t step[MTH__RANK]) {
    int coordinate[MTH__AXES];
    bool located = false;
    for (int d = 0; d < shape.rank; d++) {
        mth__extent e = {0, shape.dim[d], 1};
        if (s->dim[d].naxes) {
            if (!located) mth__placement_coordinates(s->on, rank, coordinate);
            located = true;
            e = mth__split_extent(shape.dim[d], &s->dim[d], s->on, coordinate);
        }
        shape.dim[d] = e.size;
        if (start) start[d] = e.start;
        if (step) step[d] = e.step;
    }
    return shape;
}

uint8_t mth__sharding_axes(const mth__sharding *s, int rank) {
    unsigned axes = 0;
    for (int d = 0; d < rank; d++)
        for (int i = 0; i < s->dim[d].naxes; i++) axes |= 1u << s->dim[d].axis[i];
    return (uint8_t)axes;
}

bool mth__sharding_in_blocks(const mth__sharding *sharding, mth__shape shape) {
    for (int d = 0; d < shape.rank; d++)
        if (!mth__split_in_blocks(shape.dim[d], &sharding->dim[d], sharding->on)) return false;
    return !mth__sharding_disordered(sharding, shape.rank);
}
bool mth__sharding_disordered(const mth__sharding *s, int rank) {
    for (int d = 0; d < rank; d++)
        for (int a = 1; a < s->dim[d].naxes; a++)
            if (s->dim[d].axis[a] < s->dim[d].axis[a - 1]) return true;
    return false;
}

bool mth__split_even(int64_t n, const mth__split *p, const mth__placement *on) {
    for (int i = 0; i < p->naxes; i++) {
        int64_t k = on->dim[p->axis[i]], c = chunk(n, p->cyclic ? 1 : p->grain, k);
        if (c * k != n) return false;
        n = c;
    }
    return true;
}

bool mth__split_in_blocks(int64_t n, const mth__split *s, const mth__placement *on) {
    int coordinate[MTH__AXES];
    int64_t parts = 1;
    for (int a = 0; a < s->naxes; a++) parts *= on->dim[s->axis[a]];
    const int64_t part = mth__ceil_div(n, parts);
    for (int r = 0; r < on->count; r++) {
        int64_t from = 0;
        mth__placement_coordinates(on, r, coordinate);
        for (int a = 0; a < s->naxes; a++) from = from * on->dim[s->axis[a]] + coordinate[s->axis[a]];
        from *= part;
        const int64_t left = from < n ? n - from : 0;
        const mth__extent e = mth__split_extent(n, s, on, coordinate);
        if (e.size != (left < part ? left : part) || (e.size > 0 && e.start != from) || (e.size > 1 && e.step != 1))
            return false;
    }
    return true;
}

bool mth__sharding_even(mth__shape shape, const mth__sharding *s) {
    for (int d = 0; d < shape.rank; d++)
        if (!mth__split_even(shape.dim[d], &s->dim[d], s->on)) return false;
    return true;
}

mth__shape mth__largest_part(mth__shape shape, const mth__sharding *s) {
    mth__shape most = {shape.rank, {0}};
    bool even = mth__sharding_even(shape, s);
    for (int r = 0; r < (even ? 1 : s->on->count); r++) {
        mth__shape local = mth__local_shape(shape, s, r, NULL, NULL);
        for (int d = 0; d < shape.rank; d++)
            if (local.dim[d] > most.dim[d]) most.dim[d] = local.dim[d];
    }
    return most;
}
