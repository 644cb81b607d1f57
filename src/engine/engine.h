/* Who runs a program: the vtable. An engine sees emit/program.h and nothing behind it. */
#ifndef MTH__ENGINE_H
#define MTH__ENGINE_H
#include "emit/collective.h"
#include <stdatomic.h>

typedef struct mth__engine mth__engine;
typedef struct mth__executable mth__executable;
typedef struct mth__buffer mth__buffer;  /* memory of one device, reference counted (atomic); an engine may recycle it when the count falls to 0 */

typedef struct {
    const char *name;
    mth_status (*open)(int devices, int threads, mth__engine **out); /* threads: the calling one included; 0: one per core (engines without threads ignore it) */
    void (*close)(mth__engine *);                       /* drops a reference: executables and buffers keep the engine alive */
    mth_status (*describe)(mth__engine *, mth__text *);
    const char *(*lacks)(const mth__op *, mth_dtype);   /* NULL: has a kernel; else the reason */

    mth_status (*buffer_new)(mth__engine *, int device, int64_t bytes, mth__buffer **out); /* uninitialised, 64-byte aligned */
    void (*buffer_retain)(mth__buffer *);
    void (*buffer_release)(mth__buffer *);
    void *(*buffer_host)(mth__buffer *);                /* host memory of the buffer; NULL where an engine has none (then read/write) */
    mth_status (*buffer_write)(mth__buffer *, int64_t offset, const void *data, int64_t bytes);
    mth_status (*buffer_read)(mth__buffer *, int64_t offset, void *data, int64_t bytes);

    /* Allocates slabs, streams and tables once; a run allocates only exits (recycled). Keeps the program (the caller keeps it alive longer). */
    mth_status (*load)(mth__engine *, const mth__program *, mth__executable **out);
    void (*unload)(mth__executable *);
    /* entry[e * devices + d]: the buffer of entry e on device d, NULL where d holds none. exit likewise: filled with new references.
       Runs of one executable exclude each other (the engine locks). `stop` is polled: nonzero ends the run with MTH_ERROR_INTERRUPTED. */
    mth_status (*run)(mth__executable *, mth__buffer *const *entry, mth__buffer **exit, const atomic_int *stop);
} mth__engine_vtable;

int mth__core_count(void); /* cores that this process may use */
extern const mth__engine_vtable mth__engine_native, mth__engine_reference;
#endif
