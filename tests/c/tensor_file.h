/* Writes a safetensors file for a test: one at a time, of this process. */
#ifndef TENSOR_FILE_H
#define TENSOR_FILE_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *file_path(void) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/mithril_test_%d.safetensors", (int)getpid());
    return path;
}

static const char *file_of(const char *header, size_t length, const void *data, size_t bytes) {
    FILE *file = fopen(file_path(), "wb");
    uint64_t n = length;
    if (!file || fwrite(&n, 8, 1, file) != 1 || fwrite(header, 1, length, file) != length ||
        fwrite(data, 1, bytes, file) != bytes || fclose(file))
        abort();
    return file_path();
}
#endif
