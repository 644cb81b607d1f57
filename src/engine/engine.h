/* Who runs a program: the vtable. An engine sees emit/program.h and nothing behind it. */
#ifndef MTH__ENGINE_H
#define MTH__ENGINE_H
#include "base/fork.h"
#include "base/steering.h"
#include "base/stop.h"
#include "data/devices.h"
#include "emit/collective.h"
#include "engine/control.h"
#include <pthread.h>
#include <stdatomic.h>

typedef struct mth__executable mth__executable;

/* Waits for a lock that others hold during their runs, and for as long; INTERRUPTED where it is not taken because of
 * `stop`. */
mth_status mth__lock_run(pthread_mutex_t *, const mth__stop *);

/* What an engine is opened with: the mesh, and the values of the backend's options, of which the engine reads its own
 * table: mth__options_hand_out. */
typedef struct {
    const mth__mesh *mesh;
    const mth__opt *const *tables;
    const mth_arg *value;
    bool spmd; /* the engine partitions by itself: load also gets the global program */
    const mth__distribute_options *distribute;
} mth__engine_setup;

/* What plans must know of an engine. What its devices can do stands in the mesh's model (base/machine.h). */
typedef struct {
    int streams;    /* those of emit/program.h that it has: 1 computes, 2 also communicates beside, 3 also copies */
    bool allocates; /* results lie where the engine wants: usage tells what they take, and the slabs are an estimate */
    /* Exits are memory from the start of a run, where the plan may keep activations of at least so many bytes; 0: they
       are not. */
    int64_t least_lent;
    bool pads;         /* a device's part of a value takes as much as the largest part of any device */
    mth__owns *owns;   /* results that lie in memory which the engine's library allocates; NULL: none */
    mth__keeps *keeps; /* NULL: nothing */
    bool views;        /* a slice may be a view of its operand (an ALIAS with an offset) */
    bool crossings;    /* a run calls control->crossing */
    bool doubles;      /* computes in float64 where the inputs have it; elsewhere floating inputs become float32 */
} mth__engine_traits;

typedef struct {
    const char *name;
    const mth__opt *const *options; /* tables of the backend's options, ended by NULL */
    mth__engine_traits traits;
    mth_status (*open)(const mth__engine_setup *, mth__engine **out);
    /* drops a reference: executables and buffers keep the engine alive */
    void (*close)(mth__engine *);
    mth_status (*describe)(mth__engine *, mth__text *);
    /* NULL: the engine runs the node. Else why not, and in *at the operand whose dtype is at fault, results counted
       behind the operands; -1: no dtype of it runs. */
    const char *(*lacks)(const mth__node *, int *at);
    mth__memory_vtable memory;
    /* cores of this machine that its devices share; 0: each has its own; NULL: the same */
    int (*cores)(mth__engine *);

    /* what the engine's partitioner can't do; NULL: there is none */
    mth_status (*check_global)(const mth__program *global);
    /* Allocates slabs, streams and tables once; a run allocates only exits (recycled). Keeps the programs (the caller
       keeps them alive longer). `global`: the second product of emit, for a backend that partitions by itself; else
       NULL. */
    mth_status (*load)(mth__engine *, const mth__program *, const mth__program *global, mth__executable **out);
    void (*unload)(mth__executable *);
    /* entry: the buffers of all entries, those of entry e from mth__buffer_offsets().entry[e] on. exit likewise: filled
       with new references. An exit that is the successor of an entry is that entry's buffer, which the run writes: it
       must be the engine's memory, not borrowed, and holds anything where the run fails. Runs of one executable exclude
       each other (the engine locks). Whichever threads run instructions ask control->stop between them, and write to
       control->recorder. */
    mth_status (*run)(mth__executable *, mth__buffer *const *entry, mth__buffer **exit, const mth__control *);
    mth_status (*stablehlo)(mth__executable *, mth__text *); /* NULL: the engine has none */
    /* what a compiler behind the engine made of the program; NULL: there is none */
    mth_status (*explain)(mth__executable *, mth__text *);
    /* Of an engine with traits.allocates: bytes that a run takes of each device besides entries and exits, working on
       values and moving them; -1 where it can't tell. Compiles what it must. NULL where slabs are allocated. */
    mth_status (*usage)(mth__executable *, int64_t *working, int64_t *moving);
} mth__engine_vtable;

/* Tables that engines share; the backend reads them (backend_options.c). */
extern const mth__opt mth__mesh_options[], mth__machine_options[]; /* device_mesh; machine: every engine has them */
extern const mth__opt mth__communication_options[]; /* collective_ops, and what passes do to communication */
extern const mth__opt mth__partition_options[];     /* who splits tensors, and how */
extern const mth__opt mth__placement_options[];     /* where operators run, and who is told */

/* Buffers of the entries, or the exits, of a program come as one list: of each one for each device of its placement, in
   its order. By number: where those of an entry begin; behind the last, how many there are. */
typedef struct {
    const int64_t *entry, *exit;
} mth__offsets;
mth__offsets mth__buffer_offsets(mth__arena *, const mth__program *);

extern const mth__engine_vtable mth__engine_native, mth__engine_reference, mth__engine_pjrt, mth__engine_torch;
#endif
