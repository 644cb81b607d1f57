/* Dtypes, shapes, placements (a grid of devices) and shardings (which axes of the grid split which dimension). */
#ifndef MTH__TYPES_H
#define MTH__TYPES_H
#include "base/dtype.h"
#include "base/machine.h"
#include "base/table.h"
#include "base/text.h"

enum { MTH__RANK = 8, MTH__AXES = 4 };
enum { MTH__ALIGNMENT = 64 }; /* bytes: of buffers in host memory, and of what lies in a device's slab */

/* Sizes of what a text or a user says, 0 or more: what would not fit stays at INT64_MAX, which nothing has, so that
   whoever compares it with what there is refuses it. */
static inline int64_t mth__size_product(int64_t a, int64_t b) {
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}
static inline int64_t mth__size_sum(int64_t a, int64_t b) {
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

typedef struct {
    int rank;
    int64_t dim[MTH__RANK];
} mth__shape;
bool mth__shape_equal(mth__shape a, mth__shape b);
/* elements; shapes are checked against 2^62 bytes when made */
int64_t mth__shape_size(mth__shape);
void mth__shape_strides(mth__shape, int64_t stride[MTH__RANK]); /* in elements, row-major */
const char *mth__shape_text(mth__arena *, mth__shape);          /* "(32, 2048)", "(4,)", "()" */
mth_status mth__shape_check(mth__shape, mth_dtype);             /* no dimension below 0; the bytes fit in 62 bits */

/* A grid of devices: the whole mesh, one device, a stage's list, a slice of the mesh. Interned (see mth__mesh): equal
 * is ==. */
typedef struct mth__placement {
    int id;
    int naxes;
    int dim[MTH__AXES];
    int mesh_axis[MTH__AXES]; /* the axis of the backend's mesh that this axis is, or -1 */
    int count;                /* devices: product of dim; a single device has naxes 0 */
    const int32_t *device;    /* row-major over dim; ids in the backend's mesh */
    int lowest;               /* smallest device id */
    const int32_t *rank_of;   /* by device id: its position in `device`, or -1 (one table a placement) */
    const struct mth__mesh *mesh;
} mth__placement;

/* The backend's mesh and all placements made on it. Lives in an arena; thread-safe use is the caller's (plans are made
 * under a lock). */
typedef struct mth__mesh {
    mth__arena *arena;
    int naxes;
    int dim[MTH__AXES];
    int count;
    VEC(mth__placement *) placements; /* [0] is the whole mesh */
    const mth__placement *whole;      /* the same; never changes, so needs no lock */
    const mth__device_model *model;   /* what plans assume of its devices */
    /* of types.c: the tables that intern */
    mth__table interned; /* of ids */
    mth__placement **single;
    int32_t *single_rank;
    const int32_t *all;
} mth__mesh;
/* of nominal devices */
mth_status mth__mesh_new(mth__arena *, int naxes, const int64_t *dim, mth__mesh **out);
void mth__mesh_use(mth__mesh *, const mth__machine *); /* before plans are made on it */
const mth__placement *mth__place_whole(mth__mesh *);
const mth__placement *mth__place_device(mth__mesh *, int device); /* naxes 0 */
/* one axis of n devices; of a single one it is mth__place_device */
const mth__placement *mth__place_list(mth__mesh *, int n, const int32_t *device);
/* the other axes, renumbered from 0 */
const mth__placement *mth__place_slice(mth__mesh *, int axis, int coordinate);
/* a grid of two axes or more, row by row; each device once */
const mth__placement *mth__place_grid(mth__mesh *, int naxes, const int *dim, const int32_t *device);
/* Grids of equal dimensions without a device in common, one behind the other, as one grid: their number is an axis of
 * it, `*axis`, and the others are theirs. All slices along an axis of the mesh are the whole mesh. */
const mth__placement *mth__place_stack(mth__mesh *, int n, const mth__placement *const *part, int *axis);
/* Is `part` one of the grids of which `stack` was made, with its first axis as their number? */
bool mth__place_stacked(const mth__placement *stack, const mth__placement *part);
/* Each device of `part` is one of `all`. */
bool mth__place_holds(const mth__placement *all, const mth__placement *part);
void mth__placement_coordinates(const mth__placement *, int rank, int coordinate[MTH__AXES]);
/* "mesh(2, 2)", "device 3", "devices[4..7]", "devices[0,2]", runs "0..6:2", grids "devices[0..3](2, 2)" */
const char *mth__placement_text(mth__arena *, const mth__placement *);

/* How one dimension is split. The first axis is outermost; along an axis of k the extent e gives chunks of ceil(e /
   grain / k) * grain elements, the last ones smaller or empty; nested axes split what the outer one gave: 10 over (2,
   2) is 3, 2, 3, 2. `cyclic`: element i is on rank i mod k (only of one axis, and of grain 1). A grain of 0 reads as
   1. */
typedef struct {
    int8_t naxes;
    int8_t axis[MTH__AXES];
    bool cyclic;
    int32_t grain;
} mth__split;

enum { MTH__REDUCE_SUM = 0, MTH__REDUCE_MAX = 1 };
typedef struct {
    const mth__placement *on; /* NULL: not decided yet */
    mth__split dim[MTH__RANK];
    uint8_t partial; /* bit a: over axis a each device holds a term, to be combined by `reduce` */
    uint8_t reduce;
} mth__sharding;

/* the greatest common divisor; 0 and b: b */
static inline int64_t mth__gcd(int64_t a, int64_t b) {
    while (b) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* n / by, rounded up; neither is negative */
static inline int64_t mth__ceil_div(int64_t n, int64_t by) { return n / by + (n % by != 0); }

/* elements start, start + step, ... : `size` of them */
typedef struct {
    int64_t start, size, step;
} mth__extent;
/* The part of a dimension of n elements that the device at `coordinate` of the placement holds. */
mth__extent mth__split_extent(int64_t n, const mth__split *, const mth__placement *, const int *coordinate);
/* Removes axes of size 1 and a grain that changes no extent, so that equal partitions compare equal with memcmp-like
 * equality. */
void mth__sharding_canonical(mth__sharding *, mth__shape);
/* the same for one dimension of n */
void mth__split_canonical(mth__split *, int64_t n, const mth__placement *);
bool mth__split_equal(const mth__split *, const mth__split *);
bool mth__sharding_equal(const mth__sharding *, const mth__sharding *, int rank); /* of canonical shardings */
/* start, step may be NULL. */
mth__shape mth__local_shape(
    mth__shape, const mth__sharding *, int rank_in_placement, int64_t start[MTH__RANK], int64_t step[MTH__RANK]);
uint8_t mth__sharding_axes(const mth__sharding *, int rank); /* bits of the axes that split some dimension */
/* in each dimension the most that a device has */
mth__shape mth__largest_part(mth__shape, const mth__sharding *);
bool mth__sharding_even(mth__shape, const mth__sharding *); /* all devices have the same local shape */
/* the same for one dimension of n */
bool mth__split_even(int64_t n, const mth__split *, const mth__placement *);
/* The parts are of one size, ceil(n / devices), one behind the other but for the end: not nested unevenly, in grains or
 * cyclic. */
bool mth__split_in_blocks(int64_t n, const mth__split *, const mth__placement *);
/* every dimension is, over axes in the mesh's order */
bool mth__sharding_in_blocks(const mth__sharding *, mth__shape);
/* some dimension is split over axes against the mesh's order */
bool mth__sharding_disordered(const mth__sharding *, int rank);
/* "(0, None)", "((0, 1), None)", "(None, 0) partial sum over 1", "(0 by 64,)", "(0 cyclic,)" */
const char *mth__sharding_text(mth__arena *, const mth__sharding *, int rank);
/* the same with " over mesh (4,)" */
const char *mth__where_text(mth__arena *, const mth__sharding *, int rank);
/* The same in the manner of snprintf, for errors; what is cut ends in "...". */
size_t mth__shape_write(char *buffer, size_t room, mth__shape);
size_t mth__placement_write(char *buffer, size_t room, const mth__placement *);
size_t mth__sharding_write(char *buffer, size_t room, const mth__sharding *, int rank);
size_t mth__where_write(char *buffer, size_t room, const mth__sharding *, int rank);
#endif
