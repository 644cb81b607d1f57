/* Bytes -> model, mesh, specs, schedule -> plan -> verify -> equals unsharded, forward and backward.
   MITHRIL_FUZZ_ENGINE: the engine that runs it, "native" unless said. */
#include "random_model.h"
#include "driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char report[4096];
    const char *said = getenv("MITHRIL_FUZZ_ENGINE");
    const random_engine engine = {.name = said && *said ? said : "native"};
    if (random_compare(&engine, data, size, report, sizeof report) == RANDOM_DIFFERENT) {
        fprintf(stderr, "%s\n", report);
        abort();
    }
    return 0;
}
