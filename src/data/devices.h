/* The devices on which arrays lie, as far as arrays know them: a mesh, and memory that an engine hands out. A backend
 * (engine/backend.h) is devices with an engine that runs programs on them. */
#ifndef MTH__DEVICES_H
#define MTH__DEVICES_H
#include "base/types.h"
#include <stdatomic.h>

typedef struct mth__engine mth__engine; /* each engine has its own */
/* memory of one device, reference counted (atomic); an engine may recycle it when the count falls to 0 */
typedef struct mth__buffer mth__buffer;

typedef struct {
    /* uninitialised, aligned */
    mth_status (*new)(mth__engine *, int device, int64_t bytes, mth__buffer **out);
    void (*retain)(mth__buffer *);
    void (*release)(mth__buffer *);
    /* host memory of the buffer, there as long as it lives; NULL where an engine has none (then read/write) */
    void *(*host)(mth__buffer *);
    /* the same of a buffer that was just made, for its contents: there until it is used */
    void *(*fill)(mth__buffer *);
    mth_status (*write)(mth__buffer *, int64_t offset, const void *data, int64_t bytes);
    mth_status (*read)(mth__buffer *, int64_t offset, void *data, int64_t bytes);
    /* Memory of the caller's, aligned to MTH__ALIGNMENT, that nobody changes until release(context), which is called
       once: when the buffer dies, or not at all where this fails. NULL: the engine can't. */
    mth_status (*borrow)(mth__engine *, int device, const void *data, int64_t bytes, void (*release)(void *),
        void *context, mth__buffer **out);
} mth__memory_vtable;

/* Reference counted: an array keeps the devices alive on which it lies. */
typedef struct mth__devices {
    atomic_int references;
    const mth__memory_vtable *memory;
    mth__engine *engine;
    mth__mesh *mesh;
    void (*free)(struct mth__devices *); /* called when the last reference is released */
} mth__devices;
mth__devices *mth__devices_retain(mth__devices *);
void mth__devices_release(mth__devices *);
#endif
