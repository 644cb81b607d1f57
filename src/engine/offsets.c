/* Where the buffers of entries and exits lie in the lists that a run takes. */
#include "engine/engine.h"

/* Of n things, `size` bytes each, whose sharding stands `sharding` bytes behind the thing's begin. */
static const int64_t *offsets_of(mth__arena *arena, const void *things, size_t n, size_t size, size_t sharding) {
    int64_t *offset = NEW_ARRAY(arena, int64_t, n + 1);
    for (size_t i = 0; i < n; i++) {
        const mth__sharding *of = (const void *)((const char *)things + i * size + sharding);
        offset[i + 1] = offset[i] + of->on->count;
    }
    return offset;
}

mth__offsets mth__buffer_offsets(mth__arena *arena, const mth__program *program) {
#define OFFSETS(list, type) offsets_of(arena, (list).at, (list).n, sizeof(type), offsetof(type, sharding))
    return (mth__offsets){OFFSETS(program->entry, mth__entry), OFFSETS(program->exit, mth__exit)};
}
