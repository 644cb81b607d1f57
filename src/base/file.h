/* Opening files for reading. */
#ifndef MTH__FILE_H
#define MTH__FILE_H
#include <stdint.h>

/* Opens a file without waiting, as a plain open of a pipe waits for a writer. Returns a descriptor, which the caller
   closes, or -1 with errno set. `*other` is NULL for a regular file, whose size goes to `*bytes`; else it is what the
   path names: "folder", "pipe", "socket" or "device", which the caller should refuse to read. */
int mth__open_to_read(const char *path, uint64_t *bytes, const char **other);
#endif
