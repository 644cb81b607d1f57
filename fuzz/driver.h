/* With -DFUZZ_STANDALONE a fuzz target is a plain program that runs the files and folders it is given, and prints "N
 * passed, N failed". A folder without files fails: it would show nothing. */
#ifndef DRIVER_H
#define DRIVER_H
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
#ifdef FUZZ_STANDALONE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

static int driver_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return -1;
    static uint8_t data[1 << 20];
    size_t n = fread(data, 1, sizeof data, file);
    fclose(file);
    LLVMFuzzerTestOneInput(data, n); /* aborts where it finds something */
    return 0;
}

int main(int argc, char **argv) {
    int passed = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        const int before = passed;
        DIR *d = opendir(argv[i]);
        if (!d) {
            if (driver_file(argv[i])) {
                printf("can't read %s\n", argv[i]);
                return 1;
            }
            passed++;
            continue;
        }
        for (struct dirent *e; (e = readdir(d));) {
            char path[4096];
            if (e->d_name[0] == '.') continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            printf("%s\n", path);
            fflush(stdout);
            if (driver_file(path))
                printf("FAIL can't read %s\n", path), failed++;
            else
                passed++;
        }
        closedir(d);
        if (passed == before && !failed) printf("FAIL %s holds no file\n", argv[i]), failed++;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
#endif
#endif
