/* A PJRT plugin: a shared library that holds a compiler and a runtime of XLA behind a C table of functions.
 *   pjrt_abi.h       our own declarations of the parts of that table that are used (versions and layouts are the
 *   published ones) pjrt_plugin.c    opens one, checks that it is new enough, turns its errors into ours
 *   pjrt_discover.c  finds one among the installed packages
 * A plugin is opened once a process and never closed: closing would tear down registries of its own that outlive us. */
#ifndef MTH__PJRT_PLUGIN_H
#define MTH__PJRT_PLUGIN_H
#include "base/fork.h"
#include "base/option.h"
#include "engine/pjrt/pjrt_abi.h"
#include <pthread.h>
#include <sys/types.h>

typedef struct mth__plugin {
    const PJRT_Api *api;
    const char *path; /* real path */
    int major, minor; /* of its API */
    struct mth__plugin *next;
    /* that loaded it: the plugin's threads, which all of its work needs, exist there alone */
    pid_t process;
} mth__plugin;

/* In a child by fork nothing may be called that waits for a thread or frees what threads hold: what is there leaks with
 * the process. */
bool mth__plugin_forked(const mth__plugin *);
mth_status mth__plugin_check_process(const mth__plugin *); /* UNSUPPORTED in such a child */
pthread_mutex_t *mth__plugin_child_lock(void);             /* of such a child's own threads */

/* MTH__ARGS(PJRT_Client_Create, c): a zeroed PJRT_Client_Create_Args c with its struct_size. */
#define MTH__ARGS(name, variable) name##_Args variable = {.struct_size = name##_Args_STRUCT_SIZE}
/* Is the slot within the plugin's table, and filled? */
#define MTH__HAS(plugin, slot)                                                                                         \
    ((plugin)->api->struct_size >= offsetof(PJRT_Api, slot) + sizeof(void *) && (plugin)->api->slot != NULL)

/* IO error with a fix where the file is missing, no plugin, broken, or too old; VALUE where XLA_FLAGS (or libtpu's
   LIBTPU_INIT_ARGS) names a flag that the plugin doesn't know, at which it would end the process; a known flag with a
   value of the wrong kind still does. Sets, unless set, before it loads: TF_CPP_MIN_LOG_LEVEL=3; for libtpu
   TPU_SKIP_MDS_QUERY=1, since its query of a metadata server hangs where there is none, and, where no TPU is here,
   ALLOW_MULTIPLE_LIBTPU_LOAD=1. */
mth_status mth__plugin_open(const char *path, mth__plugin **out);
/* platform: "cpu", "cuda", "tpu". Looks, in this order: environment MITHRIL_PJRT_PLUGIN_CPU (_CUDA, _TPU), where an
   empty text is none at all; the folders in `site_packages` (None, or a list of texts; NULL: none); python3's
   site-packages beside libmithril (dladdr), then the folders of VIRTUAL_ENV and the system's. The path goes to `arena`.
   None found: an IO error that says what was looked for and which package brings one. */
mth_status mth__plugin_find(mth__arena *arena, const char *platform, const mth_arg *site_packages, const char **path);
/* Consumes the error: its text (F's: free by mth__free) without the last full stop, and its code. */
char *mth__pjrt_error_text(const mth__plugin *, PJRT_Error *, PJRT_Error_Code *);
/* Consumes the error; NULL is NULL. `doing`: "compile linear_0". RESOURCE_EXHAUSTED is MEMORY, UNIMPLEMENTED is
   UNSUPPORTED, CANCELLED INTERRUPTED, a compile option that is unknown or of the wrong kind VALUE, all else
   INTERNAL. */
mth_status mth__pjrt_status(const mth__plugin *, PJRT_Error *, const char *doing);
#define PJRT_TRY(plugin, doing, call) TRY(mth__pjrt_status(plugin, call, doing))
#endif
