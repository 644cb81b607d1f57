#include "base/types.h"
#include <string.h>

/* ---------------------------------------------------------------- shapes */
bool mth__shape_equal(mth__shape a, mth__shape b) {
    if (a.rank != b.rank) return false;
    for (int d = 0; d < a.rank; d++)
        if (a.dim[d] != b.dim[d]) return false;
    return true;
}

int64_t mth__shape_size(mth__shape shape) {
    int64_t n = 1;
    for (int d = 0; d < shape.rank; d++) n *= shape.dim[d];
    return n;
}

void mth__shape_strides(mth__shape shape, int64_t stride[MTH__RANK]) {
    int64_t n = 1;
    for (int d = shape.rank - 1; d >= 0; d--) {
        stride[d] = n;
        n *= shape.dim[d];
    }
}

mth_status mth__shape_check(mth__shape shape, mth_dtype dtype) {
    if (!mth__is_dtype(dtype))
        return FAIL(MTH_ERROR_TYPE, F("%d is no dtype", (int)dtype), F("use float32, or another dtype of mithril.h"));
    if (shape.rank < 0 || shape.rank > MTH__RANK)
        return FAIL(MTH_ERROR_VALUE, F("a tensor has 0 to %d dimensions, this one %d", MTH__RANK, shape.rank),
            F("reshape it to %d dimensions or fewer", MTH__RANK));
    int64_t bytes = (int64_t)mth_dtype_size(dtype);
    for (int d = 0; d < shape.rank; d++)
        if (shape.dim[d] < 0)
            return FAIL(MTH_ERROR_VALUE, F("dimension %d has size %lld", d, (long long)shape.dim[d]),
                F("give every dimension a size of 0 or more"));
    /* a 0 counts as 1: products of some of the dimensions, such as strides, must fit too */
    for (int d = 0; d < shape.rank; d++)
        if (__builtin_mul_overflow(bytes, shape.dim[d] ? shape.dim[d] : 1, &bytes) || bytes >= (int64_t)1 << 62) {
            char text[256];
            mth__shape_write(text, sizeof text, shape);
            return FAIL(MTH_ERROR_VALUE, F("the shape %s of %s has 2^62 bytes or more", text, mth_dtype_name(dtype)),
                F("use smaller dimensions"));
        }
    return NULL;
}

/* ---------------------------------------------------------------- the mesh and its placements */
static uint64_t hash(int naxes, const int *dim, int count, const int32_t *device) {
    uint64_t code = mth__hash_add(mth__hash_key(), (uint64_t)naxes);
    for (int axis = 0; axis < naxes; axis++) code = mth__hash_add(code, (uint64_t)dim[axis]);
    for (int i = 0; i < count; i++) code = mth__hash_add(code, (uint64_t)device[i]);
    return code;
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
    const mth__placement *placement = wanted->mesh->placements.at[number];
    return placement->naxes == wanted->naxes && placement->count == wanted->count &&
        !memcmp(placement->dim, wanted->dim, (size_t)wanted->naxes * sizeof *wanted->dim) &&
        !memcmp(placement->device, wanted->device, (size_t)wanted->count * sizeof *wanted->device);
}

static mth__placement *place_new(mth__mesh *mesh, int naxes, const int *dim, int count, const int32_t *device) {
    mth__placement *placement = NEW(mesh->arena, mth__placement);
    placement->id = (int)mesh->placements.n;
    placement->naxes = naxes;
    for (int axis = 0; axis < naxes; axis++) placement->dim[axis] = dim[axis];
    for (int axis = 0; axis < MTH__AXES; axis++) placement->mesh_axis[axis] = -1;
    placement->count = count;
    placement->device = device;
    placement->mesh = mesh;
    placement->lowest = device[0];
    for (int i = 1; i < count; i++)
        if (device[i] < placement->lowest) placement->lowest = device[i];
    PUSH(mesh->arena, mesh->placements, placement);
    return placement;
}

static const mth__placement *intern(
    mth__mesh *mesh, int naxes, const int *dim, int count, const int32_t *device, const int *mesh_axis) {
    const placement_key key = {mesh, naxes, count, dim, device};
    const uint64_t code = hash(naxes, dim, count, device);
    const int found = mth__table_find(&mesh->interned, code, is_placement, &key);
    if (found >= 0) return mesh->placements.at[found];
    mth__table_reserve(mesh->arena, &mesh->interned);
    int32_t *copy = NEW_ARRAY(mesh->arena, int32_t, count), *rank_of = NEW_ARRAY(mesh->arena, int32_t, mesh->count);
    memcpy(copy, device, (size_t)count * sizeof *copy);
    memset(rank_of, -1, (size_t)mesh->count * sizeof *rank_of);
    for (int i = 0; i < count; i++) rank_of[device[i]] = i;
    mth__placement *placement = place_new(mesh, naxes, dim, count, copy);
    placement->rank_of = rank_of;
    for (int axis = 0; axis < naxes; axis++) placement->mesh_axis[axis] = mesh_axis[axis];
    mth__table_put(&mesh->interned, code, is_placement, &key, placement->id);
    return placement;
}

mth_status mth__mesh_new(mth__arena *arena, int naxes, const int64_t *dim, mth__mesh **out) {
    enum { MOST = 1 << 20 };
    if (naxes < 1 || naxes > MTH__AXES)
        return FAIL(MTH_ERROR_VALUE, F("a device mesh has 1 to %d axes, this one %d", MTH__AXES, naxes),
            F("give a device_mesh such as (4,) or (2, 2)"));
    int64_t count = 1;
    for (int axis = 0; axis < naxes; axis++) {
        if (dim[axis] < 1 || dim[axis] > MOST || (count *= dim[axis]) > MOST)
            return FAIL(MTH_ERROR_VALUE, F("axis %d of the device mesh has size %lld", axis, (long long)dim[axis]),
                F("give sizes of 1 or more, at most %d devices in all", MOST));
    }
    mth__mesh *mesh = NEW(arena, mth__mesh);
    mesh->arena = arena;
    mesh->naxes = naxes;
    mesh->count = (int)count;
    int mesh_axis[MTH__AXES];
    for (int axis = 0; axis < naxes; axis++) {
        mesh->dim[axis] = (int)dim[axis];
        mesh_axis[axis] = axis;
    }
    int32_t *all = NEW_ARRAY(arena, int32_t, count);
    for (int i = 0; i < mesh->count; i++) all[i] = i;
    mesh->all = all;
    mesh->single = NEW_ARRAY(arena, mth__placement *, count);
    /* One table for all single devices: 0 in the middle, -1 elsewhere; each looks at it through its own window. */
    mesh->single_rank = NEW_ARRAY(arena, int32_t, 2 * count - 1);
    memset(mesh->single_rank, -1, (size_t)(2 * count - 1) * sizeof *mesh->single_rank);
    mesh->single_rank[count - 1] = 0;
    mesh->whole = intern(mesh, naxes, mesh->dim, mesh->count, all, mesh_axis);
    mth__machine *nominal;
    TRY(mth__machine_builtin(arena, "nominal", &nominal));
    mth__mesh_use(mesh, nominal);
    *out = mesh;
    return NULL;
}

void mth__mesh_use(mth__mesh *mesh, const mth__machine *machine) {
    mth__device_model *model = NEW(mesh->arena, mth__device_model);
    *model = mth__device_model_of(machine, mesh->naxes, mesh->count);
    mesh->model = model;
}

const mth__placement *mth__place_whole(mth__mesh *mesh) { return mesh->whole; }

const mth__placement *mth__place_device(mth__mesh *mesh, int device) {
    if (!mesh->single[device]) {
        mth__placement *placement = place_new(mesh, 0, NULL, 1, mesh->all + device);
        placement->rank_of = mesh->single_rank + (mesh->count - 1 - device);
        mesh->single[device] = placement;
    }
    return mesh->single[device];
}

/* Distance in device ids of neighbours along an axis. */
static int axis_stride(const mth__mesh *mesh, int axis) {
    int stride = 1;
    for (int k = axis + 1; k < mesh->naxes; k++) stride *= mesh->dim[k];
    return stride;
}

const mth__placement *mth__place_list(mth__mesh *mesh, int n, const int32_t *device) {
    if (n == 1) return mth__place_device(mesh, device[0]);
    /* a list that runs along a whole axis is that axis, so that a slice and a list of the same devices are one */
    int mesh_axis = -1;
    for (int axis = 0; axis < mesh->naxes && mesh_axis < 0; axis++) {
        int stride = axis_stride(mesh, axis);
        bool along = n == mesh->dim[axis] && device[0] / stride % mesh->dim[axis] == 0;
        for (int i = 1; i < n && along; i++) along = device[i] == device[0] + i * stride;
        if (along) mesh_axis = axis;
    }
    return intern(mesh, 1, &n, n, device, &mesh_axis);
}

const mth__placement *mth__place_slice(mth__mesh *mesh, int axis, int coordinate) {
    int naxes = 0, dim[MTH__AXES], mesh_axis[MTH__AXES];
    for (int k = 0; k < mesh->naxes; k++)
        if (k != axis) {
            dim[naxes] = mesh->dim[k];
            mesh_axis[naxes++] = k;
        }
    int stride = axis_stride(mesh, axis), count = 0;
    if (naxes == 0) return mth__place_device(mesh, coordinate);
    int32_t *device = NEW_ARRAY(mesh->arena, int32_t, mesh->count / mesh->dim[axis]);
    for (int i = 0; i < mesh->count; i++)
        if (i / stride % mesh->dim[axis] == coordinate) device[count++] = i;
    return intern(mesh, naxes, dim, count, device, mesh_axis);
}

const mth__placement *mth__place_grid(mth__mesh *mesh, int naxes, const int *dim, const int32_t *device) {
    static const int none[MTH__AXES] = {-1, -1, -1, -1};
    int count = 1;
    for (int axis = 0; axis < naxes; axis++) count *= dim[axis];
    return intern(mesh, naxes, dim, count, device, none);
}

/* The axis along which all these are slices, -1: they are not all slices of the mesh, or some are missing. */
static int sliced_axis(const mth__mesh *mesh, int n, const mth__placement *const *part) {
    unsigned axes = 0;
    if (n * part[0]->count != mesh->count || part[0]->naxes != mesh->naxes - 1) return -1;
    for (int axis = 0; axis < part[0]->naxes; axis++) {
        if (part[0]->mesh_axis[axis] < 0) return -1;
        axes |= 1u << part[0]->mesh_axis[axis];
    }
    for (int k = 1; k < n; k++)
        if (memcmp(part[k]->mesh_axis, part[0]->mesh_axis, sizeof part[0]->mesh_axis)) return -1;
    int missing = 0;
    while (axes >> missing & 1) missing++;
    return missing;
}

const mth__placement *mth__place_stack(mth__mesh *mesh, int n, const mth__placement *const *part, int *axis) {
    const int inner = part[0]->naxes, sliced = sliced_axis(mesh, n, part);
    int dim[MTH__AXES] = {n}, mesh_axis[MTH__AXES] = {-1}, count = 0;
    *axis = sliced < 0 ? 0 : sliced;
    if (sliced >= 0) return mesh->whole;
    int32_t *device = NEW_ARRAY(mesh->arena, int32_t, n *part[0]->count);
    for (int k = 0; k < n; k++) {
        memcpy(device + count, part[k]->device, (size_t)part[k]->count * sizeof *device);
        count += part[k]->count;
    }
    if (!inner) return mth__place_list(mesh, n, device);
    for (int a = 0; a < inner; a++) {
        dim[a + 1] = part[0]->dim[a];
        mesh_axis[a + 1] = part[0]->mesh_axis[a];
        for (int k = 1; k < n; k++)
            if (part[k]->mesh_axis[a] != mesh_axis[a + 1]) mesh_axis[a + 1] = -1;
    }
    return intern(mesh, inner + 1, dim, count, device, mesh_axis);
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

void mth__placement_coordinates(const mth__placement *placement, int rank, int coordinate[MTH__AXES]) {
    for (int axis = placement->naxes - 1; axis >= 0; axis--) {
        coordinate[axis] = rank % placement->dim[axis];
        rank /= placement->dim[axis];
    }
}

/* ---------------------------------------------------------------- shardings */

/* Elements that each device along an axis of k has, but for the last ones. */
static int64_t chunk(int64_t n, int64_t grain, int64_t k) {
    return grain > 1 ? mth__ceil_div(mth__ceil_div(n, grain), k) * grain : mth__ceil_div(n, k);
}

mth__extent mth__split_extent(int64_t n, const mth__split *split, const mth__placement *on, const int *coordinate) {
    mth__extent extent = {0, n, 1};
    if (split->cyclic && split->naxes) {
        int64_t k = on->dim[split->axis[0]], at = coordinate[split->axis[0]];
        return (mth__extent){at < n ? at : n, at < n ? mth__ceil_div(n - at, k) : 0, k};
    }
    for (int i = 0; i < split->naxes; i++) {
        int64_t each = chunk(extent.size, split->grain, on->dim[split->axis[i]]),
                before = coordinate[split->axis[i]] * each;
        if (before > extent.size) before = extent.size;
        extent.start += before;
        extent.size = extent.size - before < each ? extent.size - before : each;
    }
    return extent;
}

/* Do grain and grain 1 cut n elements alike, from axis i of the split on? Along an axis there are at most two sizes
 * besides 0. */
static bool grain_is_idle(int64_t n, const mth__split *split, const mth__placement *on, int i) {
    if (i == split->naxes) return true;
    int64_t k = on->dim[split->axis[i]], coarse = chunk(n, split->grain, k), fine = chunk(n, 1, k);
    if (coarse > n) coarse = n;
    if (coarse != fine) return false;
    if (n == 0) return true;
    int64_t rest = n % fine;
    return grain_is_idle(fine, split, on, i + 1) && (rest == 0 || grain_is_idle(rest, split, on, i + 1));
}

void mth__split_canonical(mth__split *split, int64_t n, const mth__placement *on) {
    int axes = 0;
    for (int i = 0; i < split->naxes; i++)
        if (on->dim[split->axis[i]] > 1) split->axis[axes++] = split->axis[i];
    for (int i = axes; i < MTH__AXES; i++) split->axis[i] = 0;
    split->naxes = (int8_t)axes;
    if (axes == 0) {
        *split = (mth__split){0};
    } else if (split->cyclic) {
        split->grain = 0;
        if (n <= on->dim[split->axis[0]]) split->cyclic = false; /* an element a device: a block is the same */
    } else if (split->grain > 1 ? grain_is_idle(n, split, on, 0) : split->grain != 0) {
        split->grain = 0;
    }
}

void mth__sharding_canonical(mth__sharding *sharding, mth__shape shape) {
    const mth__placement *on = sharding->on;
    for (int d = 0; d < MTH__RANK; d++)
        if (d < shape.rank && sharding->dim[d].naxes)
            mth__split_canonical(&sharding->dim[d], shape.dim[d], on);
        else
            sharding->dim[d] = (mth__split){0};
    for (int axis = 0; sharding->partial >> axis; axis++)
        if (sharding->partial >> axis & 1 && (axis >= on->naxes || on->dim[axis] == 1))
            sharding->partial &= (uint8_t)~(1u << axis);
    if (!sharding->partial) sharding->reduce = MTH__REDUCE_SUM;
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
    mth__shape shape, const mth__sharding *sharding, int rank, int64_t start[MTH__RANK], int64_t step[MTH__RANK]) {
    int coordinate[MTH__AXES];
    bool located = false;
    for (int d = 0; d < shape.rank; d++) {
        mth__extent extent = {0, shape.dim[d], 1};
        if (sharding->dim[d].naxes) {
            if (!located) mth__placement_coordinates(sharding->on, rank, coordinate);
            located = true;
            extent = mth__split_extent(shape.dim[d], &sharding->dim[d], sharding->on, coordinate);
        }
        shape.dim[d] = extent.size;
        if (start) start[d] = extent.start;
        if (step) step[d] = extent.step;
    }
    return shape;
}

uint8_t mth__sharding_axes(const mth__sharding *sharding, int rank) {
    unsigned axes = 0;
    for (int d = 0; d < rank; d++)
        for (int i = 0; i < sharding->dim[d].naxes; i++) axes |= 1u << sharding->dim[d].axis[i];
    return (uint8_t)axes;
}

bool mth__sharding_in_blocks(const mth__sharding *sharding, mth__shape shape) {
    for (int d = 0; d < shape.rank; d++)
        if (!mth__split_in_blocks(shape.dim[d], &sharding->dim[d], sharding->on)) return false;
    return !mth__sharding_disordered(sharding, shape.rank);
}
bool mth__sharding_disordered(const mth__sharding *sharding, int rank) {
    for (int d = 0; d < rank; d++)
        for (int axis = 1; axis < sharding->dim[d].naxes; axis++)
            if (sharding->dim[d].axis[axis] < sharding->dim[d].axis[axis - 1]) return true;
    return false;
}

bool mth__split_even(int64_t n, const mth__split *split, const mth__placement *on) {
    for (int i = 0; i < split->naxes; i++) {
        int64_t k = on->dim[split->axis[i]], each = chunk(n, split->cyclic ? 1 : split->grain, k);
        if (each * k != n) return false;
        n = each;
    }
    return true;
}

bool mth__split_in_blocks(int64_t n, const mth__split *split, const mth__placement *on) {
    int coordinate[MTH__AXES];
    int64_t parts = 1;
    for (int axis = 0; axis < split->naxes; axis++) parts *= on->dim[split->axis[axis]];
    const int64_t part = mth__ceil_div(n, parts);
    for (int rank = 0; rank < on->count; rank++) {
        int64_t from = 0;
        mth__placement_coordinates(on, rank, coordinate);
        for (int axis = 0; axis < split->naxes; axis++)
            from = from * on->dim[split->axis[axis]] + coordinate[split->axis[axis]];
        from *= part;
        const int64_t left = from < n ? n - from : 0;
        const mth__extent extent = mth__split_extent(n, split, on, coordinate);
        if (extent.size != (left < part ? left : part) || (extent.size > 0 && extent.start != from) ||
            (extent.size > 1 && extent.step != 1))
            return false;
    }
    return true;
}

bool mth__sharding_even(mth__shape shape, const mth__sharding *sharding) {
    for (int d = 0; d < shape.rank; d++)
        if (!mth__split_even(shape.dim[d], &sharding->dim[d], sharding->on)) return false;
    return true;
}

mth__shape mth__largest_part(mth__shape shape, const mth__sharding *sharding) {
    mth__shape most = {shape.rank, {0}};
    bool even = mth__sharding_even(shape, sharding);
    for (int rank = 0; rank < (even ? 1 : sharding->on->count); rank++) {
        mth__shape local = mth__local_shape(shape, sharding, rank, NULL, NULL);
        for (int d = 0; d < shape.rank; d++)
            if (local.dim[d] > most.dim[d]) most.dim[d] = local.dim[d];
    }
    return most;
}
