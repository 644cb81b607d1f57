#include "engine/torch/torch_library.h"
#include "base/fork.h"
#include "base/number.h"
#include "base/packages.h"
#include "engine/crew.h"
#include "engine/torch/torch_trial.h"
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VERSIONS = 8 };

/* Where each function lies in mth__torch_library. */
static const struct {
    const char *name;
    size_t offset;
    int since;
} symbols[] = {
#define X(result, name, arguments, since) {#name, offsetof(mth__torch_library, name), since},
    MTH__TORCH_SYMBOLS(X)
#undef X
};
static const struct {
    const char *mangled;
    size_t offset;
} direct[] = {
#define X(name, mangled, arguments) {mangled, offsetof(mth__torch_library, direct.name)},
    MTH__TORCH_DIRECT(X)
#undef X
};

/* One entry for each release that is seen: what tests pretend, and what is there. Filled under the lock, then
   unchanging. */
typedef struct {
    int version; /* 0: as it is */
    bool hides;  /* the direct functions */
} pretence;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static mth__torch_library opened[VERSIONS];
static pretence pretended[VERSIONS], pretend;
static int openings;
static mth__fork_watch watch;

static void around_fork(void *nothing, mth__fork_moment moment) {
    (void)nothing;
    if (moment == MTH__FORK_CHILD) pthread_mutex_init(&lock, NULL);
}
static void watch_forks(void) { mth__fork_watch_add(&watch, around_fork, NULL); }

void mth__torch_library_pretend(int version, bool hides) {
    pthread_mutex_lock(&lock);
    pretend = (pretence){version, hides};
    pthread_mutex_unlock(&lock);
}

/* ---------------------------------------------------------------- opening */
static mth_status none_found(void) {
    return FAIL(MTH_ERROR_IO,
        F("no torch is installed: looked for torch/lib/libtorch.so in the folders of Python packages"),
        F("pip install \"mithril-parallel[torch]\", or give the folder of libtorch.so by the environment variable "
          "MITHRIL_TORCH"));
}

static mth_status not_loadable(const char *path) {
    const char *said = mth__load_error();
    return FAIL(MTH_ERROR_IO, F("%s can't be loaded: %s", path, said ? said : "the system does not say why"),
        F("install torch anew (pip install --force-reinstall torch), or name another by MITHRIL_TORCH"));
}

/* The one that the process has already, which in Python is the one that was imported; else the first that is found. */
static mth_status load(const mth_arg *folders, void **handle) {
    static const char *const patterns[] = {"torch/lib/libtorch.so", NULL};
    char found[PATH_MAX];
    if ((*handle = dlopen("libtorch.so", RTLD_NOW | RTLD_NOLOAD))) return NULL;
    const char *said = getenv("MITHRIL_TORCH");
    if (said && *said) {
        if (snprintf(found, sizeof found, "%s/libtorch.so", said) >= (int)sizeof found || access(found, R_OK))
            return FAIL(MTH_ERROR_IO, F("MITHRIL_TORCH is '%s', a folder without a readable libtorch.so", said),
                F("set it to the folder torch/lib of an installed torch, or unset it"));
    } else if (!mth__packages_find(folders, patterns, found)) {
        return none_found();
    }
    return (*handle = dlopen(found, RTLD_NOW | RTLD_LOCAL)) ? NULL : not_loadable(found);
}

static mth_status too_old(const mth__torch_library *library) {
    return FAIL(MTH_ERROR_UNSUPPORTED,
        F("torch %d.%d at %s is too old: its C ABI has no dispatcher before 2.10", library->version / 100,
            library->version % 100, library->path),
        F("pip install --upgrade \"mithril-parallel[torch]\""));
}

static mth_status find_symbols(void *handle, mth__torch_library *library, pretence as) {
    Dl_info info;
    *(void **)&library->aoti_torch_abi_version = dlsym(handle, "aoti_torch_abi_version");
    void *(*any)(void) = NULL;
    *(void **)&any = library->aoti_torch_abi_version ? *(void **)&library->aoti_torch_abi_version
                                                     : dlsym(handle, "aoti_torch_delete_tensor_object");
    library->path = any && dladdr(*(void **)&any, &info) && info.dli_fname ? info.dli_fname : "libtorch.so";
    if (!library->aoti_torch_abi_version) return too_old(library);
    const uint64_t is = library->aoti_torch_abi_version();
    library->version = (int)(is >> 56) * 100 + (int)(is >> 48 & 255);
    if (as.version && as.version < library->version) library->version = as.version;
    const int known = library->version < MTH__TORCH_NEWEST ? library->version : MTH__TORCH_NEWEST;
    library->abi = (uint64_t)(known / 100) << 56 | (uint64_t)(known % 100) << 48;
    if (library->version < MTH__TORCH_OLDEST) return too_old(library);
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *found = symbols[i].since > library->version ? NULL : dlsym(handle, symbols[i].name);
        memcpy((char *)library + symbols[i].offset, &found, sizeof found);
        if (found || !symbols[i].since || symbols[i].since > library->version) continue;
        return FAIL(MTH_ERROR_UNSUPPORTED,
            F("torch %d.%d at %s lacks the function %s, which torch has since %d.%d", library->version / 100,
                library->version % 100, library->path, symbols[i].name, symbols[i].since / 100, symbols[i].since % 100),
            F("install a release of torch from its own packages: pip install --force-reinstall torch"));
    }
    void *operator_new = dlsym(RTLD_DEFAULT, "_Znwm"); /* a sanitizer's stands before that of torch's C++ library */
    if (!operator_new) operator_new = dlsym(handle, "_Znwm");
    memcpy(&library->operator_new, &operator_new, sizeof operator_new);
    for (size_t i = 0; !as.hides && i < sizeof direct / sizeof *direct; i++) {
        void *found = dlsym(handle, direct[i].mangled);
        memcpy((char *)library + direct[i].offset, &found, sizeof found);
    }
    return NULL;
}

static void name_dtypes(mth__torch_library *library) {
    library->dtype[MTH_FLOAT32] = library->aoti_torch_dtype_float32();
    library->dtype[MTH_FLOAT64] = library->aoti_torch_dtype_float64();
    library->dtype[MTH_FLOAT16] = library->aoti_torch_dtype_float16();
    library->dtype[MTH_BFLOAT16] = library->aoti_torch_dtype_bfloat16();
    library->dtype[MTH_INT32] = library->aoti_torch_dtype_int32();
    library->dtype[MTH_INT64] = library->aoti_torch_dtype_int64();
    library->dtype[MTH_BOOL] = library->aoti_torch_dtype_bool();
    library->cpu = library->aoti_torch_device_type_cpu();
}

void mth__torch_begin_thread(const mth__torch_library *library, int threads) {
    uint32_t teams;
    library->aoti_torch_grad_mode_set_enabled(false);
    library->torch_get_num_threads(&teams); /* makes torch set its own default, which would undo ours later */
    if (library->omp_set_num_threads) library->omp_set_num_threads(threads);
    if (library->MKL_Set_Num_Threads_Local) library->MKL_Set_Num_Threads_Local(threads);
}

/* ---------------------------------------------------------------- the trial */
/* On a thread of its own: the caller's settings stay, and no team of threads is made for a few small tensors. */
typedef struct {
    mth__torch_library *library;
    mth_status status;
} trial_run;
static void begin_trial(void *context, int device) {
    const trial_run *run = context;
    (void)device;
    mth__torch_begin_thread(run->library, 1);
}
static void try_library(void *context, int device) {
    trial_run *run = context;
    (void)device;
    run->status = mth__torch_try(run->library);
}
static mth_status try_apart(mth__torch_library *library) {
    const int32_t device = 0;
    trial_run run = {library, NULL};
    mth__crew *crew;
    TRY(mth__crew_new(1, begin_trial, &run, &crew));
    mth_status status = mth__crew_run(crew, &device, 1, try_library, &run, NULL);
    mth__crew_free(crew);
    return status ? status : run.status;
}

static mth_status open_locked(const mth_arg *folders, const mth__torch_library **out) {
    for (int i = 0; i < openings; i++)
        if (pretended[i].version == pretend.version && pretended[i].hides == pretend.hides) {
            *out = &opened[i];
            return NULL;
        }
    if (openings == VERSIONS) return INTERNAL("more than %d releases of torch are pretended", VERSIONS);
    mth__torch_library *library = &opened[openings];
    void *handle;
    TRY(load(folders, &handle));
    *library = (mth__torch_library){0};
    TRY(find_symbols(handle, library, pretend));
    name_dtypes(library);
    TRY(try_apart(library));
    pretended[openings++] = pretend;
    *out = library;
    return NULL;
}

mth_status mth__torch_library_open(mth__arena *arena, const mth_arg *folders, const mth__torch_library **out) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    TRY(mth__packages_check(arena, "site_packages", folders));
    pthread_mutex_lock(&lock);
    mth_status status = open_locked(folders, out);
    pthread_mutex_unlock(&lock);
    return status;
}
