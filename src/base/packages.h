/* Files of installed Python packages, found without Python. */
#ifndef MTH__PACKAGES_H
#define MTH__PACKAGES_H
#include "base/option.h"
#include <limits.h>

/* Finds the first file that is there and readable, into `found`. Patterns are below a folder of packages, as glob takes
 * them, and end with NULL; the first that matches wins in each folder. The folders, in this order: `folders` (None, or
 * a list of texts; NULL: none); python3's site-packages beside libmithril; those of VIRTUAL_ENV, of the home folder,
 * and the system's. */
bool mth__packages_find(const mth_arg *folders, const char *const *patterns, char found[PATH_MAX]);
/* TYPE where an item of the list `folders`, the option `name`, is no text. */
mth_status mth__packages_check(mth__arena *, const char *name, const mth_arg *folders);
#endif
