/* Any bytes as an optimized program. */
#include "driver.h"
#include "engine/pjrt/xla.h"
#include <stdlib.h>

typedef struct {
    const uint8_t *data;
    size_t size;
} input;

static mth_status read_program(void *argument) {
    const input *in = argument;
    mth__arena *arena = mth__arena_new();
    mth__xla_facts facts = {0};
    if (mth__hlo_proto_collectives(arena, in->data, in->size, &facts))
        for (int i = 0; i < facts.collectives; i++)
            if (facts.collective[i].count < 1 || facts.collective[i].count > facts.instructions ||
                facts.collective[i].bytes < 0)
                abort();
    mth__arena_free(arena);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    mth_error_free(mth__guard(read_program, &in));
    return 0;
}
