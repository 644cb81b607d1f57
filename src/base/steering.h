/* What steers decisions: a backend's options put it here, compile adds what it was given, and the passes of distribute/
 * read it. */
#ifndef MTH__STEERING_H
#define MTH__STEERING_H
#include "base/option.h"

/* Of an input or an output, by name, read against the whole mesh; compile has checked the rank */
typedef struct {
    const char *name;
    int rank;
    mth__sharding sharding;
} mth__spec_of;
/* partition.c: in which parts operators that nobody placed are cut, one for each device */
typedef enum { MTH__NOT_CUT, MTH__EQUAL_PARAMETERS, MTH__EQUAL_OPERATORS, MTH__EQUAL_TIME } mth__partition_policy;
typedef struct {
    const mth__spec_of *spec;
    size_t specs;
    /* layouts of an earlier plan: they bind */
    const mth__sharding *fixed_parameter;
    const char *const *fixed_name;
    size_t fixed;
    const struct mth__module_place *fixed_place; /* of the modules of that plan, as a policy placed them; NULL: none */
    /* as the backend's options say */
    bool communication_optimization, overlap, pipeline_communication;
    mth__when sequence; /* sequence parallelism, shard_sequence.c */
    bool auto_sharding;
    int64_t partition_dims; /* auto_sharding: dimensions of one parameter that it may split; 0: any */
    mth__partition_policy partition;
    bool store_sharded;   /* memory_optimization */
    bool ports_in_blocks; /* what comes in and leaves is split in blocks, along axes in the mesh's order */
} mth__distribute_options;
#endif
