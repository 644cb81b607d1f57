/* Where the buffers of entries and exits lie in the lists that a run takes. */
#include "engine/engine.h"

int64_t *mth__entry_offsets(mth__arena *arena, const mth__program *program) {
    int64_t *offset = NEW_ARRAY(arena, int64_t, program->entry.n + 1);
    for (size_t e = 0; e < program->entry.n; e++) offset[e + 1] = offset[e] + program->entry.at[e].sharding.on->count;
    return offset;
}

int64_t *mth__exit_offsets(mth__arena *arena, const mth__program *program) {
    int64_t *offset = NEW_ARRAY(arena, int64_t, program->exit.n + 1);
    for (size_t e = 0; e < program->exit.n; e++) offset[e + 1] = offset[e] + program->exit.at[e].sharding.on->count;
    return offset;
}
