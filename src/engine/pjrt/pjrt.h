/* The engine "pjrt": programs run by XLA, through any plugin of the PJRT C API.
 *   pjrt_client.c   options, client or topology, devices, describe
 *   pjrt_buffer.c   memory of arrays, on the host and on devices
 *   segment.c       program -> segments and moves
 *   hlo*.c          segment -> StableHLO
 *   xla*.c          StableHLO -> executable
 *   pjrt_load.c     all of a program
 *   pjrt_run.c      one run: everything is enqueued, then awaited
 *   pjrt_move.c     values from device to device
 *   pjrt_explain.c  what XLA made of a program
 * On a topology without devices (a TPU that is not here) everything works but the run. */
#ifndef MTH__PJRT_H
#define MTH__PJRT_H
#include "engine/engine.h"
#include "engine/pjrt/pjrt_plugin.h"

typedef struct {
    const char *name;
    char type; /* 's' 'b' 'i' 'd' */
    const char *string;
    int64_t integer;
    double real;
} mth__pjrt_setting;
/* env_option_overrides of every compilation */
typedef struct {
    mth__pjrt_setting *setting;
    int count;
} mth__pjrt_env;

struct mth__engine {
    atomic_int references;
    mth__arena *arena;
    mth__plugin *plugin;
    PJRT_Client *client;                          /* NULL on a topology */
    PJRT_TopologyDescription *topology;           /* of the option `topology`; else NULL */
    const char *platform;                         /* "cpu", "cuda", "tpu": the option backend */
    const char *platform_name, *platform_version; /* what the plugin says */
    const char *topology_name;                    /* "v5p:2x4x8" as it was created, else NULL */
    int devices;                                  /* of the mesh */
    PJRT_Device **device;                         /* [devices]; NULL on a topology */
    PJRT_Memory **memory;                         /* the default memory of each */
    int32_t *global_id;                           /* [slice] as device assignments count them; the mesh's come first */
    int slice;                                    /* devices of the topology (>= devices); else = devices */
    /* device memory is this process's memory (CPU): no copies in and out */
    bool host_visible;
    mth__pjrt_env env;
    const char *cache_dir;           /* NULL: none */
    pthread_mutex_t running;         /* held during a run */
    pthread_mutex_t lock;            /* of the cache below */
    struct mth__xla_entry *compiled; /* xla_compile.c */
    bool spmd;
    int spmd_axes, spmd_dim[MTH__AXES]; /* the mesh handed to Shardy */
};

/* pjrt_client.c */
mth_status mth__pjrt_open(const mth__engine_setup *, mth__engine **out);
void mth__pjrt_close(mth__engine *);
mth_status mth__pjrt_describe(mth__engine *, mth__text *);
extern const mth__opt mth__pjrt_options[];
int mth__pjrt_type(mth_dtype); /* PJRT_Buffer_Type: bool is PRED */

/* pjrt_buffer.c. A buffer is memory on the host, views of it on devices, or both. What is missing is made when it is
   asked for. With a CPU plugin a view of whole, 64-byte aligned host memory shares that memory; and once there is a
   padded view, the host's copy is freed until somebody reads it. */
mth_status mth__pjrt_buffer_new(mth__engine *, int device, int64_t bytes, mth__buffer **out);
mth_status mth__pjrt_buffer_borrow(mth__engine *, int device, const void *data, int64_t bytes, void (*release)(void *),
    void *context, mth__buffer **out);
void mth__pjrt_buffer_retain(mth__buffer *);
void mth__pjrt_buffer_release(mth__buffer *);
void *mth__pjrt_buffer_host(mth__buffer *);
void *mth__pjrt_buffer_fill(mth__buffer *);
mth_status mth__pjrt_buffer_write(mth__buffer *, int64_t offset, const void *data, int64_t bytes);
mth_status mth__pjrt_buffer_read(mth__buffer *, int64_t offset, void *data, int64_t bytes);
/* The view of `real` elements of dtype in a padded shape on a device: lent, lives as long as the buffer. */
mth_status mth__pjrt_view(mth__buffer *, int device, mth_dtype, mth__shape real, mth__shape padded, PJRT_Buffer **out);
/* Takes over `view`, which holds `real` elements in a padded shape; where this fails, the caller keeps it. */
mth_status mth__pjrt_adopt(
    mth__engine *, int device, mth_dtype, mth__shape real, mth__shape padded, PJRT_Buffer *view, mth__buffer **out);
/* Waits for an event and destroys it. NULL counts as ready. */
mth_status mth__pjrt_await(mth__engine *, PJRT_Event *, const char *doing);

mth_status mth__pjrt_check_global(const mth__program *global); /* pjrt_parts.c */
mth_status mth__pjrt_check_program(const mth__program *);      /* pjrt_parts.c: what a load refuses */
/* pjrt_load.c, pjrt_run.c */
mth_status mth__pjrt_load(mth__engine *, const mth__program *, const mth__program *global, mth__executable **out);
void mth__pjrt_unload(mth__executable *);
mth_status mth__pjrt_run(mth__executable *, mth__buffer *const *entry, mth__buffer **exit, const mth__control *);
mth_status mth__pjrt_stablehlo(mth__executable *, mth__text *);
mth_status mth__pjrt_memory(mth__executable *, int64_t *working, int64_t *moving); /* pjrt_memory.c */
mth_status mth__pjrt_explain(mth__executable *, mth__text *);
#endif
