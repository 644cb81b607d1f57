/* Arrays on devices, and dictionaries of them. An array keeps its devices alive; both are reference counted. */
#ifndef MTH__ARRAY_H
#define MTH__ARRAY_H
#include "base/names.h"
#include "data/devices.h"

/* The part of an array that one device holds: which elements, by what the sharding says of its rank. */
typedef struct {
    int device;
    int64_t start[MTH__RANK], size[MTH__RANK], step[MTH__RANK];
} mth__held;
struct mth_array {
    atomic_int references;
    mth__devices *devices;
    mth_dtype dtype;
    mth__shape shape;
    mth__sharding sharding;
    _Atomic(char *) sharding_text; /* made when first asked for */
    bool lent;                     /* the one buffer is memory of the caller's (mth_array_borrow) */
    int count, parts;              /* of devices; of different parts among theirs */
    /* One a device in rank order of the placement where `apart`, as a run leaves them and as engines need them whose
       memory is not the host's; else devices with equal parts share one, so that there is one a part. NULL: a layout
       only. */
    mth__buffer **buffer;
    bool apart;
};
struct mth_arrays {
    size_t count;
    mth_named *item;
    mth__table table; /* of items, by name; the first of a name counts */
    /* of a layout: parameters that its model has and does not need, for which a file may name tensors too */
    size_t allowances;
    const char **allowed;
};

/* Room without contents (with_data false: a layout only). */
mth_status mth__array_new(
    mth__devices *, mth_dtype, mth__shape, const mth__sharding *, bool with_data, mth_array **out);
/* One buffer of the caller's memory stands for all devices, which share the host's. The devices' memory can borrow, and
   `release` is not NULL. */
mth_status mth__array_borrow(mth__devices *, mth_dtype, mth__shape, const mth__sharding *, const void *data,
    void (*release)(void *), void *context, mth_array **out);
/* Takes the references in buffer[rank], by the order of the placement, and leaves NULL there; none where it fails. */
mth_status mth__array_wrap(
    mth__devices *, mth_dtype, mth__shape, const mth__sharding *, mth__buffer **buffer, mth_array **out);
/* The same values in another layout, on the devices of another backend or in another floating dtype; buffers are shared
   where they can be. Fails where a finite value would become infinite: of the `kind`, "input", the one of that name. */
mth_status mth__array_as(mth_array *, const char *kind, const char *name, mth__devices *on, mth_dtype,
    const mth__sharding *, mth_array **out);
/* The error of `element`, at flat index `at` of a tensor, that the dtype `to` can't hold (mth__dtype_first_lost). */
mth_status mth__misfit(const char *what, mth_dtype from, const void *element, mth__shape, int64_t at, mth_dtype to);
/* Replaces the array's buffer, where the caller of mth_array_borrow owns its memory, by a copy among those of a run's
 * results. */
mth_status mth__array_unlend(const mth_array *, mth__buffer **buffer, size_t count);
mth__held mth__array_held(const mth_array *, int rank);
mth__buffer *mth__array_buffer(const mth_array *, int rank); /* NULL in a layout */
/* Calls fill for each distinct part: `data` is the part's memory, row-major. */
typedef mth_status mth__fill(void *context, const mth_array *, const mth__held *, void *data);
mth_status mth__array_fill(mth_array *, mth__fill *, void *context);
/* Deterministic by element: normal or uniform times scale, of the stream of `name`. */
mth_status mth__array_initialise(mth_array *, int init, double scale, uint64_t seed, uint64_t stream);
/* empty slots; items are set by the caller, names owned */
mth_status mth__arrays_new(size_t count, mth_arrays **out);
/* each has a name and an array */
mth_status mth__named_check(const mth_named *, size_t count, const char *what);
mth_status mth__arrays_set(mth_arrays *, size_t i, const char *name, mth_array *taken);
/* Copies the names that a layout allows beside those of its arrays. */
mth_status mth__arrays_allow(mth_arrays *, const mth__names *);
#endif
