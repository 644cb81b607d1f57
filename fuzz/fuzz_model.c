/* Bytes -> model, mesh, specs, schedule -> plan -> verify -> equals unsharded, forward and backward. */
#include "random_model.h"
#include "driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char report[4096];
    if (random_compare("native", data, size, report, sizeof report)) {
        fprintf(stderr, "%s\n", report);
        abort();
    }
    return 0;
}
