/* Any bytes as a safetensors file. */
#include "driver.h"
#include "mithril.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static mth_backend *backend;
    static char path[64];
    if (!backend) {
        mth_error_free(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}), &backend));
        snprintf(path, sizeof path, "/tmp/mithril_fuzz_%d.safetensors", (int)getpid());
    }
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) abort();
    for (int transpose = 0; transpose < 2; transpose++) {
        mth_array *a = NULL;
        mth_error_free(mth_array_from_safetensors(backend, path, "a", transpose, NULL, &a));
        mth_array_free(a);
    }
    unlink(path);
    return 0;
}
