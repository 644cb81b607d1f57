/* The torch engine's own objects. */
#ifndef MTH__TORCH_RUN_H
#define MTH__TORCH_RUN_H
#include "emit/uses.h"
#include "engine/engine.h"
#include "engine/torch/torch_rows.h"
#include "engine/walk.h"

struct mth__engine {
    atomic_int references;
    const mth__torch_library *library;
    int devices;
    int threads; /* of a device, for torch's own loops */
    mth__crew *crew;
};
/* Memory of a torch tensor: its storage begins with the buffer's bytes. Views of it of any dtype share it, and keep it
 * alive by themselves. */
struct mth__buffer {
    atomic_int references;
    mth__engine *engine;
    mth__tensor tensor;
    int64_t bytes;
    void (*release)(void *); /* of memory that is the caller's; else NULL */
    void *context;
};

typedef struct {
    mth_dtype dtype;
    mth__torch_value bits;
    mth__tensor tensor;
} mth__torch_constant;
/* What a device's thread works with; nobody else writes it during a run. */
struct mth__torch_device {
    const mth__executable *executable;
    int device;
    const mth__role *role;
    mth__tensor slab;
    mth__torch_operand *operand; /* by value of the role; .tensor NULL: not made yet, or given back */
    int *drops, *drop_begins;    /* by instruction: values that it is the last to use, of torch's memory */
    mth__tensor *exit;           /* by exit: whose storage is the exit's memory; NULL: not made yet in this run */
    mth__tensor *kept;           /* MTH__TORCH_KEPT by instruction */
    mth__torch_constant *constant;
    int constants, constant_room;
    mth__tensor *temporary; /* of the instruction that runs */
    int temporaries, temporary_room;
};

struct mth__executable {
    mth__engine *engine;
    mth__arena *arena;
    const mth__program *program;
    pthread_mutex_t lock;
    mth__fork_watch watch;
    mth__offsets offset; /* of buffers in a run's lists */
    int count;
    mth__torch_device *device; /* count: those that have a role */
    mth__torch_device **by_id; /* by device id, or NULL */
    mth__walk *walk;
};

/* torch_buffer.c */
void mth__torch_close(mth__engine *); /* drops a reference */
mth_status mth__torch_buffer_new(mth__engine *, int device, int64_t bytes, mth__buffer **out);
mth_status mth__torch_buffer_borrow(mth__engine *, int device, const void *data, int64_t bytes, void (*release)(void *),
    void *context, mth__buffer **out);
/* Takes a tensor that torch has allocated, dense from the first byte of its storage; where it fails, frees it. */
mth_status mth__torch_buffer_take(mth__engine *, mth__tensor, int64_t bytes, mth__buffer **out);
void mth__torch_buffer_retain(mth__buffer *);
void mth__torch_buffer_release(mth__buffer *);
void *mth__torch_buffer_host(mth__buffer *);
mth_status mth__torch_buffer_write(mth__buffer *, int64_t offset, const void *data, int64_t bytes);
mth_status mth__torch_buffer_read(mth__buffer *, int64_t offset, void *data, int64_t bytes);
/* A new tensor over memory of another one: dense, `offset` bytes from the beginning of its storage. */
mth_status mth__torch_dense(
    const mth__torch_library *, mth__tensor of, int64_t offset, mth_dtype, mth__shape, mth__tensor *out);
void mth__torch_free(const mth__torch_library *, mth__tensor *); /* and NULL in its place */

/* torch_load.c */
mth_status mth__torch_load(mth__engine *, const mth__program *, const mth__program *global, mth__executable **out);
void mth__torch_unload(mth__executable *);

/* torch_place.c: where values lie. The tensor whose storage a value lies in, and at which byte; NULL: it has not been
   made. */
mth__tensor mth__torch_storage(mth__torch_device *, int number, int64_t *offset);
/* The value as a tensor, made where it has none. */
mth_status mth__torch_operand_of(mth__torch_device *, int number, mth__torch_operand **out);

/* torch_run.c */
mth_status mth__torch_run(mth__executable *, mth__buffer *const *entry, mth__buffer **exit, const mth__control *);
#endif
