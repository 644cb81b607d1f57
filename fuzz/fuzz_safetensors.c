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
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file)) abort();
    const mth_arg specs[] = {MTH_NONE, MTH_SPEC(mth_int(0), MTH_NONE), MTH_SPEC(MTH_NONE, mth_int(0))};
    static const char *const names[] = {"a", "\xc3\xa9\n", ""};
    for (int i = 0; i < 18; i++) {
        mth_array *array = NULL;
        mth_error_free(mth_array_from_safetensors(backend, path, names[i / 6], i % 2, &specs[i / 2 % 3], &array));
        mth_array_free(array);
    }
    unlink(path);
    return 0;
}
