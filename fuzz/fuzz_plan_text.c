/* Any text as a plan: parsed, verified, printed again, and run where it verifies and is small. What parses prints, what
 * is printed parses to the same text, and what verifies runs on the engines that need no plugin. */
#include "driver.h"
#include "run_program.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RUN = 1 << 22 };

static mth_status run_everywhere(void *text) {
    const mth__engine_vtable *const engines[] = {&mth__engine_native, &mth__engine_reference};
    mth__arena *arena = mth__arena_new();
    mth__program *program;
    TRY(mth__program_parse(arena, text, &program));
    mth_status status = mth__program_verify(program);
    for (size_t k = 0; k < sizeof engines / sizeof *engines && !status && program_weight(program) <= MOST_RUN; k++) {
        mth_status ran = run_program(arena, engines[k], program);
        if (ran && mth_error_get_code(ran) == MTH_ERROR_INTERNAL) {
            fprintf(stderr, "the %s engine, of a plan that verifies: %s\n%s\n", engines[k]->name,
                mth_error_get_message(ran), (char *)text);
            abort();
        }
        mth_error_free(ran);
    }
    if (!status) mth__arena_free(arena);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1), *once = NULL, *twice = NULL;
    memcpy(text, data, size);
    text[size] = 0;
    mth_error_free(mth__guard(run_everywhere, text));
    mth_status status = mth_plan_reprint(text, &once);
    if (!status) {
        status = mth_plan_reprint(once, &twice);
        if (status || strcmp(once, twice)) {
            fprintf(stderr, "a printed plan does not print again as it was\n%s\n%s\n", once,
                status ? mth_error_get_message(status) : twice);
            abort();
        }
        mth_text_free(once);
        mth_text_free(twice);
    }
    mth_error_free(status);
    free(text);
    return 0;
}
