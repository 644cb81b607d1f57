/* What failing functions of libtorch say, as our errors. */
#include "engine/torch/torch_library.h"
#include <string.h>

mth_status mth__torch_error(const mth__torch_library *library, const char *doing) {
    const char *said = library->torch_exception_get_what_without_backtrace
        ? library->torch_exception_get_what_without_backtrace()
        : "";
    size_t n = said ? strlen(said) : 0;
    while (n && strchr(" \n\t.", said[n - 1])) n--;
    char *what = n ? F("torch can't do %s: %.*s", doing, (int)(n > 2000 ? 2000 : n), said)
                   : F("torch can't do %s, and torch %d.%d does not say why", doing, library->version / 100,
                         library->version % 100);
    if (n && (strstr(said, "not enough memory") || strstr(said, "out of memory") || strstr(said, "alloc")))
        return FAIL(MTH_ERROR_MEMORY, what, F("split the tensors over more devices, or make the batch smaller"));
    return FAIL(MTH_ERROR_INTERNAL, what,
        F("this is a defect of mithril or of torch %d.%d at %s: please report it with the text above",
            library->version / 100, library->version % 100, library->path));
}

bool mth__torch_guarded(const mth__torch_library *library, void (*work)(int64_t, int64_t, void *), void *context) {
    return library->torch_parallel_for(0, 1, 1, work, context) == 0;
}
