/* Compiled programs of XLA: options, compiling, caches, and what the compiler says about what it made.
 *   xla_options.c   CompileOptionsProto, as bytes
 *   xla_compile.c   text -> executable, through a cache in memory (text + options) and one on disk
 *   xla_inspect.c   memory, flops, and the collectives of the optimized program (HloModuleProto, read by field numbers) */
#ifndef MTH__XLA_H
#define MTH__XLA_H
#include "engine/pjrt/pjrt.h"

typedef struct {
    int partitions, replicas;
    const int32_t *device;        /* global ids: [replica * partitions + partition]; NULL: any one device, chosen at execution (portable;
                                     partitions and replicas are 1) */
    bool spmd;                    /* XLA's partitioner runs: Shardy */
} mth__xla_options;

/* The bytes of a CompileOptionsProto. Never empty: plugins abort on that. */
void mth__xla_options_encode(mth__arena *, const mth__xla_options *, const mth__pjrt_env *, const unsigned char **bytes, size_t *count);

typedef struct mth__xla {
    atomic_int references;
    mth__engine *engine;                        /* not counted: belongs to the engine's cache */
    PJRT_LoadedExecutable *loaded;              /* NULL where there is no client (a topology) */
    PJRT_Executable *executable;
    double seconds;                             /* that compiling took; 0 from a cache */
    bool from_disk;
    size_t results;
    uint64_t hash; char *text; size_t bytes;    /* the key: text, and options behind it */
    size_t options_bytes;
    struct mth__xla *next;
} mth__xla;

/* Finds it in the engine's cache, or on disk (option cache_dir), or compiles. On a failure of the plugin *line is the 1-based line of the
   text at fault, 0 where the message names none. Thread-safe. */
mth_status mth__xla_compile(mth__engine *, const char *text, size_t bytes, const mth__xla_options *, mth__xla **out, int *line);
void mth__xla_release(mth__xla *);
void mth__xla_cache_free(mth__engine *);        /* at close */

typedef struct {
    const char *kind;                           /* "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "collective_permute", "broadcast" */
    int count; int64_t bytes;                   /* instructions in the optimized program; bytes that one device receives, by the kind's formula
                                                   for the direct (ring-optimal) algorithm: all_reduce 2 (n-1)/n of the tensor, ... */
} mth__xla_collective;
typedef struct {
    int64_t arguments, outputs, temporaries, aliased, code, host_temporaries, peak; /* bytes of one device; -1: not told */
    double flops, bytes_accessed, seconds;      /* of one device, XLA's own figures; -1: not told */
    int collectives; mth__xla_collective *collective;
    int instructions;                           /* of the optimized program */
} mth__xla_facts;
mth_status mth__xla_inspect(mth__arena *, const mth__xla *, mth__xla_facts *out);
/* The reader of HloModuleProto alone, for tests: counts the collectives. false where the bytes are no such message. */
bool mth__hlo_proto_collectives(mth__arena *, const unsigned char *bytes, size_t count, mth__xla_facts *out);
#endif
