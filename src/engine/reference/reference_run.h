/* The reference engine's own objects. */
#ifndef MTH__REFERENCE_RUN_H
#define MTH__REFERENCE_RUN_H
#include "engine/reference/reference.h"
#include "engine/walk.h"

struct mth__engine {
    atomic_int references;
    int devices;
    mth__crew *crew; /* a thread for each device; NULL: the caller's for all */
};
struct mth__buffer {
    atomic_int references;
    mth__engine *engine;
    char *data;
};

typedef struct {
    int device;
    const mth__role *role;
    mth__ref_value *value; /* of the role */
    mth__ref_element *memory;
    int64_t elements; /* of all values that are no alias */
    int *leaves;      /* by exit: the value that is written last of it, -1: none */
} mth__ref_device;

struct mth__executable {
    mth__engine *engine;
    mth__arena *arena;
    const mth__program *program;
    pthread_mutex_t lock;
    mth__fork_watch watch;
    mth__offsets offset; /* of buffers in a run's lists */
    int count;
    mth__ref_device *device; /* count: those that have a role */
    mth__ref_device **by_id; /* by device id, or NULL */
    mth__walk *walk;
};

void mth__ref_close(mth__engine *);
mth_status mth__ref_buffer_new(mth__engine *, int device, int64_t bytes, mth__buffer **out);
void mth__ref_buffer_retain(mth__buffer *);
void mth__ref_buffer_release(mth__buffer *);
void *mth__ref_buffer_host(mth__buffer *);
mth_status mth__ref_buffer_write(mth__buffer *, int64_t offset, const void *data, int64_t bytes);
mth_status mth__ref_buffer_read(mth__buffer *, int64_t offset, void *data, int64_t bytes);
void mth__ref_widen(const mth__ref_value *, const void *from);
void mth__ref_narrow(const mth__ref_value *, void *to);

mth_status mth__ref_load(mth__engine *, const mth__program *, const mth__program *global, mth__executable **out);
void mth__ref_unload(mth__executable *);
mth_status mth__ref_run(mth__executable *, mth__buffer *const *entry, mth__buffer **exit, const mth__control *);
#endif
