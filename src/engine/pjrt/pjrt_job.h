/* A loaded program: for every segment its executable and the frame of its call, for every hop the pieces that travel.
 * All that a run needs is laid out when the program is loaded; a run allocates nothing but device buffers. */
#ifndef MTH__PJRT_JOB_H
#define MTH__PJRT_JOB_H
#include "engine/pjrt/segment.h"
#include "engine/pjrt/xla.h"

/* A text that is compiled once; `device` NULL: for any one device. */
typedef struct {
    mth__module_text text;
    mth__xla_options options;
    mth__xla *xla;
    /* the devices, and as many copies as fill the topology; NULL, 0: not needed or not possible */
    const int32_t *slice;
    int copies;
    int64_t outputs, temporaries, aliased; /* bytes of a device, -1: not told; set by mth__pjrt_memory */
    bool replicated;                       /* XLA wants the topology used as a whole: the copies run too */
} mth__module;
/* Devices that the program wants of it. */
static inline int mth__module_devices(const mth__module *module) {
    return module->options.partitions * module->options.replicas / (module->replicated ? module->copies + 1 : 1);
}

/* A buffer of a run, under one or several slots. Lent: an entry's view, which the caller's array owns. */
typedef struct {
    PJRT_Buffer *buffer;
    int references;
    bool lent;
} mth__cell;

/* A piece of a value: cut from the owner's part (NULL: all of it), copied to the device that wants it. */
typedef struct {
    int from_device;
    mth__module *cut;
    PJRT_Event *done;
} mth__hop_piece;
/* What one device receives: several pieces, or one that is no whole part, are joined there. */
typedef struct {
    int device, pieces;
    mth__hop_piece *piece;
    mth__module *join;
    PJRT_Event *done;
} mth__hop_target;

typedef struct {
    const mth__segment *segment; /* NULL: a hop */
    mth__module *module;
    int together;      /* devices of one launch: all of them, or one after another */
    int args, results; /* of the call; args count the numbers, results the checks of ids */
    int *number;       /* the last args: indices into the executable's numbers */
    PJRT_Buffer **argument;
    PJRT_Buffer *const **arguments; /* [device][argument] */
    PJRT_Buffer **result, ***results_of;
    PJRT_Event **complete; /* by device; NULL when awaited */
    int64_t begin;         /* when it was launched, where runs are recorded */
    mth__hop hop;
    mth__hop_target *target;
    int targets;
    int *drop, drops; /* slots that nothing reads after this */
} mth__job;

/* On one device: what an entry's or exit's buffer holds, and its shape. */
typedef struct {
    mth__shape real, padded;
} mth__part_shape;

struct mth__executable {
    mth__engine *engine;
    mth__arena *arena;
    const mth__program *program, *global; /* ours; XLA's partitioner's, or NULL */
    mth__segments *segments;              /* of the one that runs */
    VEC(mth__module *) module;            /* all texts, each once */
    VEC(mth__job) job;
    bool compiled;
    mth__recorder *recorder; /* of the run under way, or NULL */
    pthread_mutex_t lock;    /* runs and compiling exclude each other */
    int64_t *first;          /* by slot: its first place in `at`; behind the last slot, how many there are */
    mth__cell **at;          /* of each slot one for each device of its placement, by rank: mth__cell_of */
    mth__cell *cell;
    mth__cell **unused;
    int unuseds;
    mth__offsets offset; /* of buffers in a run's lists, as in these two: */
    mth__part_shape *entry_port, *exit_port;
    int *flying; /* [device]: executions that were enqueued and not awaited */
    int most_pieces;
    PJRT_Buffer **pieces;
    /* A value that a device has no part of, but must pass to a module: zeros, made once. By slot, then by device; NULL
       for slots of which no device needs them. */
    PJRT_Buffer ***zeros;
    /* Numbers that texts take as arguments, each once, and the buffers of them, at number * devices + device. */
    VEC(int64_t) number;
    PJRT_Buffer **number_buffer;
};

/* the same text is one module */
mth__module *mth__module_add(mth__executable *, const mth__module_text *, const mth__xla_options *);
/* pjrt_move.c. Inside a guard: plans a hop. Then, in a run, does it. */
void mth__hop_plan(mth__executable *, mth__job *);
mth_status mth__hop_run(mth__executable *, mth__job *);
/* waits for its modules; the first failure, that given before all */
mth_status mth__hop_finish(mth__executable *, mth__job *, mth_status);
/* pjrt_run.c */
mth_status mth__executable_compile(mth__executable *); /* pjrt_load.c; with the lock held; once */
/* pjrt_load.c. Compiles the modules if needed, then calls `body` in a guard. Takes the lock for both. */
mth_status mth__executable_read(mth__executable *, mth_status (*body)(void *context), void *context);
/* NULL where the device has no part of the slot. */
static inline mth__cell **mth__cell_of(const mth__executable *executable, int slot, int device) {
    const int rank = executable->segments->slot.at[slot].any->sharding.on->rank_of[device];
    return rank < 0 ? NULL : &executable->at[executable->first[slot] + rank];
}
void mth__cell_put(mth__executable *, int slot, int device, PJRT_Buffer *, bool lent);
void mth__cell_share(mth__executable *, int from_slot, int to_slot, int device);
void mth__cell_drop(mth__executable *, int slot, int device);
mth_status mth__buffer_destroy(mth__engine *, PJRT_Buffer *);
#endif
