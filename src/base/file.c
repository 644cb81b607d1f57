#include "base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

int mth__open_to_read(const char *path, uint64_t *bytes, const char **other) {
    struct stat info;
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor < 0) return -1;
    if (fstat(descriptor, &info)) {
        const int code = errno;
        close(descriptor);
        errno = code;
        return -1;
    }
    *bytes = (uint64_t)info.st_size;
    *other = S_ISREG(info.st_mode) ? NULL
        : S_ISDIR(info.st_mode)    ? "folder"
        : S_ISFIFO(info.st_mode)   ? "pipe"
        : S_ISSOCK(info.st_mode)   ? "socket"
                                   : "device";
    return descriptor;
}
