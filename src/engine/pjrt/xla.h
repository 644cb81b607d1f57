/* Compiled programs of XLA: options, compiling, caches, and what the compiler says about what it made.
 *   xla_options.c     CompileOptionsProto, as bytes
 *   xla_compile.c     text -> executable, through a cache in memory (text + options) and one on disk
 *   xla_cache_disk.c  the one on disk: a serialized executable a file
 *   xla_inspect.c     memory, flops, and the collectives of the optimized program
 *   xla_proto.c       the reader of that program (HloModuleProtoWithConfig, by field numbers) */
#ifndef MTH__XLA_H
#define MTH__XLA_H
#include "engine/pjrt/pjrt.h"

typedef struct {
    int partitions, replicas;
    /* Global ids: [replica * partitions + partition]. NULL: any one device, chosen at execution (portable; partitions
       and replicas are 1). */
    const int32_t *device;
    bool spmd; /* XLA's partitioner runs: Shardy */
} mth__xla_options;

/* The bytes of a CompileOptionsProto. Never empty: plugins abort on that. */
void mth__xla_options_encode(
    mth__arena *, const mth__xla_options *, const mth__pjrt_env *, const unsigned char **bytes, size_t *count);

/* What one caller holds of an executable; the engine's cache and other callers may hold the same one. */
typedef struct mth__xla {
    mth__engine *engine;           /* not counted: must outlive it */
    PJRT_LoadedExecutable *loaded; /* NULL where there is no client (a topology) */
    PJRT_Executable *executable;
    double seconds; /* that compiling took; 0 from a cache */
    bool from_disk;
    size_t results;
    const char *text;
    size_t bytes;                 /* that was compiled; ended by a 0 */
    struct mth__xla_entry *entry; /* xla_compile.c */
} mth__xla;

/* Finds it in the engine's cache, or on disk (option cache_dir), or compiles. On a failure of the plugin *line is the
   1-based line of the text at fault, 0 where the message names none. Thread-safe: different texts compile at the same
   time, of equal ones one thread compiles and the others wait. Needs no guard. An engine on a topology keeps nothing on
   disk: no plugin loads an executable without a client. */
mth_status mth__xla_compile(
    mth__engine *, const char *text, size_t bytes, const mth__xla_options *, mth__xla **out, int *line);
/* the last 64 that nobody holds stay in the cache; NULL is fine */
void mth__xla_release(mth__xla *);
void mth__xla_cache_free(mth__engine *); /* at close: everything is released by then */

/* The cache on disk: engine->cache_dir/<hash>.xla, one file for a text, its options, this very plugin, and this kind of
   machine. A file that is damaged, foreign or unreadable is as good as none: *out is NULL, the next store replaces it.
   Written aside and renamed, so that several processes may share a folder. Errors: a plugin that can't serialize, a
   folder that can't be written. */
typedef struct {
    const char *text;
    size_t bytes;
    const unsigned char *options;
    size_t options_bytes;
    uint64_t hash;
} mth__xla_key;
mth_status mth__xla_disk_load(mth__engine *, const mth__xla_key *, PJRT_LoadedExecutable **out);
mth_status mth__xla_disk_store(mth__engine *, const mth__xla_key *, const PJRT_Executable *);
/* of this process's byte order; every single changed byte changes it */
uint64_t mth__xla_hash(uint64_t seed, const void *, size_t);

/* Collectives of one kind in the optimized program. A loop's body counts once, an asynchronous pair once. */
typedef struct {
    const char
        *kind; /* "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "collective_permute", "broadcast" */
    int count;
    /* What one device receives in them by the direct (ring-optimal) algorithm: of n devices all_reduce 2 (n-1)/n of the
       tensor, all_gather and all_to_all (n-1)/n of the result, reduce_scatter n-1 results, the others one result (a
       permute of devices onto themselves none). */
    int64_t bytes;
} mth__xla_collective;
typedef struct {
    /* bytes of one device; -1: not told */
    int64_t arguments, outputs, temporaries, aliased, code, host_temporaries, peak;
    double flops, bytes_accessed, seconds; /* of one device, XLA's own figures; -1: not told */
    int collectives;
    mth__xla_collective *collective; /* the kinds that occur */
    /* of the optimized program, all of its computations; -1, as `collectives`: not told */
    int instructions;
} mth__xla_facts;
/* The bytes alone. */
void mth__xla_memory(const mth__xla *, mth__xla_facts *out);
mth_status mth__xla_inspect(mth__arena *, const mth__xla *, mth__xla_facts *out);
/* The reader of an optimized program (a HloModuleProtoWithConfig): fills `collective` and `instructions`. False where
   the bytes are no such message: nothing outside of them is read, whatever they are. */
bool mth__hlo_proto_collectives(mth__arena *, const unsigned char *bytes, size_t count, mth__xla_facts *out);
#endif
