/* The native executor: one static dataflow over a pool of threads.
 *
 *   native.c       the vtable: engine, executable, a run's beginning and end
 *   stream.c       program -> streams of tasks, at load: addresses, counts, waits
 *   communicate.c  the tasks of collectives and transfers
 *   copy.c         the tasks of copies between spaces
 *   move.c         strided boxes between devices: planned at load, run in chunks
 *   pool.c         threads: who takes which task or chunk
 *   buffer.c       memory
 *
 * A device is as many in-order streams of tasks as the program has (emit/program.h). A stream's `done` counts the tasks
 * that it has completed and only grows in a run; a task may begin when every stream that it waits for has completed so
 * many. A task runs in phases of chunks. Whoever claims a stream runs its next task; a task of more than one chunk is
 * offered as a ticket, from which idle threads take chunks, and who ends the last chunk goes on with the stream: nobody
 * ever waits for a thread that the system has suspended, unless all do. In a run nothing is allocated or locked. */
#ifndef MTH__NATIVE_H
#define MTH__NATIVE_H
#include "emit/channel_moves.h"
#include "engine/engine.h"
#include "engine/native/kernel.h"

enum { MTH__PIECE_BYTES = 256 << 10 /* of a communication's chunk */, MTH__CHUNKS_MOST = 1 << 20 };

/* ---- buffers (buffer.c) */
typedef struct mth__span { /* addresses for several buffers; `buffers`: those that exist */
    int buffers;
    char *memory;
    int64_t size, used;
    struct mth__span *next;
} mth__span;
struct mth__buffer {
    atomic_int references;
    mth__engine *engine;
    int device;
    /* asked for; of data. size MTH__BORROWED: data is the caller's, until release */
    int64_t bytes, size;
    void *data;
    mth__span *span; /* that data is part of; NULL: it is an allocation of its own */
    void (*release)(void *);
    void *context;
    mth__buffer *next; /* in the free list */
};
enum { MTH__SIZE_CLASSES = 8 * 64, MTH__BORROWED = -1 };
/* lock: also of what else of the engine a fork must not find half changed */
typedef struct {
    pthread_mutex_t lock;
    mth__buffer *free[MTH__SIZE_CLASSES];
    int64_t cached, live;
    mth__span *spans;
} mth__buffers;
mth_status mth__native_buffer_new(mth__engine *, int device, int64_t bytes, mth__buffer **out);
mth_status mth__native_buffer_borrow(mth__engine *, int device, const void *data, int64_t bytes,
    void (*release)(void *), void *context, mth__buffer **out);
void mth__native_buffer_retain(mth__buffer *);
void mth__native_buffer_release(mth__buffer *);
void *mth__native_buffer_host(mth__buffer *);
mth_status mth__native_buffer_write(mth__buffer *, int64_t offset, const void *data, int64_t bytes);
mth_status mth__native_buffer_read(mth__buffer *, int64_t offset, void *data, int64_t bytes);
void mth__buffers_trim(mth__buffers *); /* frees what is cached */

/* ---- moves (move.c): dst[box] = src[0][box], then += or max= the others; rows of dimension 0 are split into parts.
   What they say is relative to the first byte of the destination and of each source, so that several devices can share
   them. */
typedef struct {
    int8_t rank;
    mth__box_op first, op; /* of source 0, of the others */
    mth_dtype dtype;
    int32_t parts, sources;
    int64_t rows; /* in a part */
    int64_t size[MTH__RANK], dst_stride[MTH__RANK], src_stride[MTH__RANK];
    int64_t to, from; /* bytes into the destination, into each source */
    void **src;       /* the sources' first bytes */
} mth__box_move;
/* one part of a large move, or `count` whole small ones */
typedef struct {
    int32_t move, count, part;
} mth__move_chunk;
typedef struct {
    const mth__box_move *move;
    const mth__move_chunk *chunk;
    int moves, chunks;
} mth__moves;
typedef struct {
    VEC(mth__box_move) move;
    VEC(mth__move_chunk) chunk;
} mth__move_list;
/* merges dimensions, cuts into chunks; copies the moves */
mth__moves mth__moves_plan(mth__arena *, mth__move_list *);
void mth__moves_run(const mth__moves *, void *dst, int chunk);
mth__box_move mth__move_of(const mth__strided_copy *, mth_dtype); /* of one source, which copies */

/* ---- tasks and streams */
typedef struct {
    int32_t stream, count;
} mth__stream_wait;
/* A point that n streams come to, each by completing a task, or from the beginning (`there`): it has happened when all
   have come. */
typedef struct {
    atomic_int arrived;
    int32_t n, there;
    const int32_t *stream;
} mth__event;
/* The devices of a collective, and what they share. Direct ones: each reads the operands of all when all have arrived,
   and goes on when all have read. */
typedef struct {
    int n;
    const int32_t *member; /* by rank */
    /* by mth__move_memory and rank: where a member's operand, result and scratch lie; NULL: it has none */
    void **memory[MTH__MOVE_MEMORIES];
    mth__event *arrived, *read;
    /* all_to_all, by rank: what a member has before and afterwards; else NULL */
    mth__area *from, *to;
    const mth__moves *moves; /* the same for all members: all_gather, broadcast; else NULL */
} mth__collective_group;
/* all_reduce: a rank's part, from all operands to all results in one pass */
typedef struct {
    mth__box_op op;
    mth_dtype dtype;
    const mth__collective_group *group;
    int64_t start, count, piece; /* elements */
} mth__reduction;
/* all_to_all: a box from each member. Chunks are parts of one, or `boxes` boxes */
typedef struct {
    const mth__collective_group *group;
    mth_dtype dtype;
    int rank, parts, boxes;
} mth__exchange;
typedef enum {
    MTH__TASK_CALL,
    MTH__TASK_MOVES,
    MTH__TASK_REDUCTION,
    MTH__TASK_EXCHANGE,
    MTH__TASK_SYNC
} mth__task_kind;
typedef struct {
    mth__task_kind kind;
    int32_t instr; /* of the device's role */
    int32_t waits, dependents;
    mth__stream_wait *wait;
    int32_t *dependent;           /* streams that may become ready when this task is done */
    mth__event *awaits, *signals; /* must have happened; comes to it when it is done. Or NULL */
    int phases, chunks[MTH__PHASES];
    void (*run)(const mth__call *, int phase, int chunk, void *scratch); /* of a call */
    union {
        mth__call *call;
        struct {
            const mth__moves *all;
            void **dst;
        } moves; /* dst: where the destination's address lies */
        mth__reduction *reduction;
        mth__exchange *exchange;
    } work;
} mth__task;

typedef struct {
    _Alignas(64) atomic_int done; /* tasks completed */
    /* somebody runs the stream, or offers its ticket; stays 1 once all is done */
    atomic_int claimed;
    mth__task *task;
    int tasks, device;
    mth__fault fault;
    int64_t begin;                     /* of the task that runs, where it is recorded */
    void *shared;                      /* call_scratch of the call that runs */
    _Alignas(64) atomic_ullong ticket; /* sequence : 24, chunks : 20, next chunk : 20 */
    atomic_int finished, phase;        /* of the ticket's chunks; its phase */
} mth__stream;

/* *slot = data of slab (devices * space + device), entry or exit [index] + offset */
typedef struct {
    void **slot;
    int64_t index, offset;
} mth__fixup;
/* an entry or exit that a device has: its index in the caller's list; of an exit that succeeds an entry the index of
   that, else -1; the number of the entry or exit, or of the entry that it succeeds */
typedef struct {
    int64_t index, bytes, entry;
    int32_t number, device;
} mth__external;

struct mth__executable {
    mth__engine *engine;
    const mth__program *program;
    mth__arena *arena;   /* all tables */
    mth__stream *stream; /* each * device + the stream of the program */
    int streams, each;
    int64_t (*memory)[MTH__SPACES]; /* by role: bytes of the slab, and behind it of what is the engine's own */
    mth__event **event;
    size_t events;
    /* slabs: bound when they have moved; the others at each run */
    mth__fixup *slab_fixup, *entry_fixup, *exit_fixup;
    size_t slab_fixups, entry_fixups, exit_fixups;
    unsigned generation; /* of the slabs that it is bound to */
    mth__external *exit, *entry;
    size_t exits, entries;
    size_t thread_scratch, *shared_scratch; /* by stream */
};

/* ---- threads (pool.c) */
enum { MTH__RUN_STOPPED = 1, MTH__RUN_FAULT, MTH__RUN_STUCK };
typedef struct {
    _Alignas(64) pthread_t thread;
    mth__engine *engine;
    int index;
    void *scratch;
    size_t scratch_size;
} mth__worker;
typedef struct {
    mth__stream *stream;
    int streams;
    mth__event *const *event;
    size_t events;
    const mth__stop *stop;
    mth__recorder *recorder;      /* NULL: nothing is recorded */
    int each;                     /* streams of a device */
    _Alignas(64) atomic_int over; /* nonzero: all is done, or the run has failed */
    atomic_int left;              /* streams that have tasks left */
    atomic_int failure;           /* MTH__RUN_*; the first wins */
    int at_stream, at_task;       /* of a fault; of what is stuck */
} mth__run;
struct mth__engine {
    atomic_int references;
    int devices, threads;    /* threads: the calling one included */
    pthread_mutex_t running; /* one run or load at a time */
    mth__buffers buffers;
    mth__worker *worker; /* [0] is whoever calls run */
    int started;         /* workers that are threads of the pool, from worker[1] on */
    mth__fork_watch watch;
    /* Executables run one at a time, so all share each device's slab in a space: it is as large as the largest of them
       needs. By devices * space + device. */
    void **slab;
    size_t *slab_size;
    unsigned generation; /* counts the times that a slab has moved */
    void **shared;       /* call_scratch, by stream; size beside it */
    size_t *shared_size;
    mth__run run;
    _Alignas(64) atomic_int gate;   /* 2 * workers inside the run + open */
    _Alignas(64) atomic_uint event; /* the pool's sleepers wait for its change */
    atomic_int sleepers, quit;
    _Alignas(64) atomic_uint caller_sleeps; /* 1: the caller waits for its change */
};
mth_status mth__pool_start(mth__engine *); /* the threads that are not there yet */
void mth__pool_stop(mth__engine *);
/* in a process that was forked off: the threads, and the run that was under way, stayed behind */
void mth__pool_forget(mth__engine *);
/* run has been filled in; returns when nobody touches it any more */
void mth__pool_run(mth__engine *);

/* ---- load (stream.c, communicate.c) */
/* of a device in a channel: its instruction (-1: none), where its tasks begin and end; of a collective its group and
   rank there, once somebody has asked; of a transfer what it takes, once somebody has asked */
typedef struct {
    int32_t instr, stream, first, end, rank;
    mth__collective_group *group;
    const mth__channel_part *moves;
} mth__part;
/* Values in the caller's buffers. at: by entry or exit, 1 + where in `held` the device that was filled last has it. */
typedef struct {
    VEC(mth__fixup) fixup;
    VEC(mth__external) held;
    size_t *at;
    const int64_t *offset; /* of buffers in the caller's list */
} mth__moving;
/* Who takes something from each device in a transfer: device[first[sender]..first[sender + 1]), senders by their rank
   in from.on; first NULL: not made yet. */
typedef struct {
    int *first;
    int32_t *device;
} mth__readers;
/* The devices of a channel: those of to.on by rank, then, where it is another placement, those of from.on. */
typedef struct {
    mth__part *receive, *send;
    mth__readers readers;
} mth__parts;                               /* collectives are in receive */
typedef struct mth__partners mth__partners; /* of the ranks of a template in use */
typedef struct mth__communicating mth__communicating;
typedef struct mth__loader {
    mth__executable *executable;
    mth__arena *arena;
    const mth__program *program;
    int devices;
    mth__parts *channel;
    VEC(mth__fixup) slab;
    mth__moving entry, exit;
    int64_t *
        *own; /* by role and value: where what is the engine's own lies in the space's memory; NULL: there is none */
    /* the device that is being filled */
    int device, tasks[MTH__STREAMS]; /* of its streams, so far */
    const mth__role *role;
    int *copied; /* by value of the role: how many tasks of its stream bring it, where a copy is started */
    VEC(mth__stream_wait) pending[MTH__STREAMS]; /* of the next task */
    /* by stream: the count that earlier tasks have waited for, above 2^32 times the device */
    int64_t *seen[MTH__STREAMS];
    VEC(mth__event *) event;
    mth__templates templates;
    mth__partners *partners;
    mth__communicating *work; /* communicate.c's own */
} mth__loader;
mth_status mth__load_streams(mth__loader *);
/* What a device receives on a channel, or does in its collective; what it sends. */
mth__part *mth__load_receive(const mth__loader *, int channel_number, int device);
mth__part *mth__load_send(const mth__loader *, int channel_number, int device);
/* the next task on the stream `on` of the device waits for `stream` to complete `count` */
void mth__load_wait(mth__loader *, int on, int stream, int count);
mth__task *mth__load_task(mth__loader *, int on, mth__task_kind, int instruction_number);
/* The stream comes to the event with the task before the next one, which has no other event. */
void mth__load_arrival(mth__loader *, int on, mth__event *);
mth_status mth__load_moves(
    mth__loader *, int channel_number, int receiver, const mth__channel_part **out); /* of a transfer */
/* The devices that take something from `sender` in a transfer. */
mth_status mth__load_readers(mth__loader *, int channel_number, int sender, const int32_t **out, int *count);
const mth__role *mth__load_role(const mth__loader *, int device);
/* Has *slot hold the address of a value's first byte plus `bytes`: from now on, or set at each run. */
void mth__load_bind(mth__loader *, int device, int number, int64_t bytes, void **slot);
bool mth__load_same(const mth__loader *, int device, int number, int other); /* the same memory */
/* tasks of an instruction, without the arrival of one that is started */
int mth__communicate_count(const mth__channel *, const mth__instr *);
mth_status mth__communicate(mth__loader *, int instruction_number);
/* the task of a copy between spaces */
void mth__load_copy(mth__loader *, int instruction_number);
/* Where the caller's list of buffers has a device's of an entry or, else, an exit. */
static inline int64_t mth__load_external(const mth__loader *loader, mth__storage storage, int number, int device) {
    if (storage == MTH__IN_ENTRY)
        return loader->entry.offset[number] + loader->program->entry.at[number].sharding.on->rank_of[device];
    return loader->exit.offset[number] + loader->program->exit.at[number].sharding.on->rank_of[device];
}
static inline int mth__load_stream(const mth__loader *loader, int device, int on) {
    return loader->executable->each * device + on;
}
void mth__exchange_run(const mth__exchange *, int chunk);
#endif
