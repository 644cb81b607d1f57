/* Any text as a plan: parsed, verified, printed again. What parses prints, and what is printed parses to the same text. */
#include "driver.h"
#include "mithril.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1), *once = NULL, *twice = NULL;
    memcpy(text, data, size);
    text[size] = 0;
    mth_error_free(mth_plan_verify_text(text));
    mth_status s = mth_plan_reprint(text, &once);
    if (!s) {
        s = mth_plan_reprint(once, &twice);
        if (s || strcmp(once, twice)) {
            fprintf(stderr, "a printed plan does not print again as it was\n%s\n%s\n", once, s ? mth_error_get_message(s) : twice);
            abort();
        }
        mth_text_free(once);
        mth_text_free(twice);
    }
    mth_error_free(s);
    free(text);
    return 0;
}
