/* A backend: an engine opened on a mesh, with its options. It is kept alive by the arrays on its devices and by the
 * compiled models that run on it. */
#ifndef MTH__BACKEND_H
#define MTH__BACKEND_H
#include "base/steering.h"
#include "engine/engine.h"

/* What a plan of one compiled model places where. */
typedef struct mth__traced_model {
    struct mth__traced_model *next; /* of a model that was planned later */
    mth__arena *arena;
    int64_t number; /* of the compiled model */
    bool gradients;
    mth_traced_operator *row;
    size_t rows;
} mth__traced_model;

struct mth_backend {
    mth__devices devices; /* the first member: it is freed with the last reference to them */
    mth__arena *arena;
    const mth__engine_vtable *vtable;
    /* of the mesh: plans are made under it; mth__backend_lock, outside of guards */
    pthread_mutex_t lock;
    mth__fork_watch watch;
    /* the process in which this one was forked off while a thread held the lock there; 0: none */
    int lost;
    const char *options_text; /* the options as they were given, for describe */
    const char *algorithm[MTH__CHANNEL_KINDS];
    const char *machine;                /* the option: which one plans are for */
    bool spmd;                          /* mesh_context="spmd": the engine also gets the global program */
    mth__distribute_options distribute; /* what compile begins with */
    int64_t models;                     /* compiled for it */
    bool traces;                        /* trace_module_partitioning */
    mth__traced_model *traced;          /* under the lock */
    bool hooks;                         /* use_module_hooks */
    pthread_mutex_t hook_lock;          /* of `hook` */
    struct mth__hook *hook;
};
/* Keeps what was traced, in place of what there was of that model; it takes the arena. Called with the lock held. */
void mth__backend_keep_trace(mth_backend *, mth__traced_model *);
mth_status mth__backend_read_options(mth_backend *, const mth_arg *value); /* by row of the engine's tables */
mth_status mth__backend_lock(mth_backend *); /* fails in a fork that came while the mesh was being changed */
void mth__backend_unlock(mth_backend *);

#endif
