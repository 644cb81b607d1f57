/* Any text as a machine file: an error or a machine, whose own text is one again. */
#include "base/machine.h"
#include "driver.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static mth_status body(void *text) {
    mth__arena *arena = mth__arena_new();
    mth__machine *machine, *again;
    TRY(mth__machine_parse(arena, "fuzzed", text, &machine));
    mth__text printed = mth__text_new(arena);
    mth__machine_print(&printed, machine);
    mth_status status = mth__machine_parse(arena, "printed", printed.at, &again);
    if (status) {
        fprintf(stderr, "a printed machine does not parse\n%s\n%s\n", printed.at, mth_error_get_message(status));
        abort();
    }
    mth__device_model model = mth__device_model_of(machine, 3, 12);
    if (!(model.slowest_rate > 0)) abort();
    mth__arena_free(arena);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    mth_error_free(mth__guard(body, text));
    free(text);
    return 0;
}
