#include "engine/pjrt/pjrt_plugin.h"
#include "base/number.h"
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the engine calls without asking. The table only grows at its end, so the order is that of the table. */
static const struct {
    const char *name;
    size_t offset;
} required[] = {
#define SLOT(name) {#name, offsetof(PJRT_Api, name)}
    SLOT(PJRT_Error_Destroy),
    SLOT(PJRT_Error_Message),
    SLOT(PJRT_Error_GetCode),
    SLOT(PJRT_Plugin_Initialize),
    SLOT(PJRT_Event_Destroy),
    SLOT(PJRT_Event_Await),
    SLOT(PJRT_Client_Create),
    SLOT(PJRT_Client_Destroy),
    SLOT(PJRT_Client_PlatformName),
    SLOT(PJRT_Client_PlatformVersion),
    SLOT(PJRT_Client_AddressableDevices),
    SLOT(PJRT_Client_Compile),
    SLOT(PJRT_Client_BufferFromHostBuffer),
    SLOT(PJRT_DeviceDescription_Id),
    SLOT(PJRT_DeviceDescription_Attributes),
    SLOT(PJRT_DeviceDescription_Kind),
    SLOT(PJRT_Device_GetDescription),
    SLOT(PJRT_Device_AddressableMemories),
    SLOT(PJRT_Device_DefaultMemory),
    SLOT(PJRT_Memory_Kind),
    SLOT(PJRT_Executable_Destroy),
    SLOT(PJRT_Executable_NumOutputs),
    SLOT(PJRT_Executable_GetCostAnalysis),
    SLOT(PJRT_Executable_OptimizedProgram),
    SLOT(PJRT_Executable_Serialize),
    SLOT(PJRT_LoadedExecutable_Destroy),
    SLOT(PJRT_LoadedExecutable_GetExecutable),
    SLOT(PJRT_LoadedExecutable_Execute),
    SLOT(PJRT_Executable_DeserializeAndLoad),
    SLOT(PJRT_Buffer_Destroy),
    SLOT(PJRT_Buffer_CopyToDevice),
    SLOT(PJRT_Buffer_ToHostBuffer),
    SLOT(PJRT_Buffer_OpaqueDeviceMemoryDataPointer),
    SLOT(PJRT_Compile),
    SLOT(PJRT_Executable_GetCompiledMemoryStats),
#undef SLOT
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, child_lock = PTHREAD_MUTEX_INITIALIZER;
static mth__plugin *opened; /* newest first; entries are never freed */
static const char *loading; /* under the lock; the path of the plugin that is being loaded */
static mth__fork_watch watch;

/* Loading takes seconds, and a fork doesn't wait for it: the child can't load what the parent had begun with. */
static char half_loaded[PATH_MAX];
static void around_fork(void *nothing, mth__fork_moment moment) {
    (void)nothing;
    if (moment == MTH__FORK_BEFORE)
        pthread_mutex_lock(&child_lock);
    else
        pthread_mutex_unlock(&child_lock);
    if (moment != MTH__FORK_CHILD) return;
    if (loading) snprintf(half_loaded, sizeof half_loaded, "%s", loading);
    loading = NULL;
    pthread_mutex_init(&lock, NULL);
}
static void watch_forks(void) { mth__fork_watch_add(&watch, around_fork, NULL); }

char *mth__pjrt_error_text(const mth__plugin *plugin, PJRT_Error *error, PJRT_Error_Code *code) {
    const PJRT_Api *api = plugin->api;
    MTH__ARGS(PJRT_Error_Message, message);
    MTH__ARGS(PJRT_Error_GetCode, number);
    MTH__ARGS(PJRT_Error_Destroy, destroy);
    message.error = number.error = destroy.error = error;
    PJRT_Error *nested = api->PJRT_Error_GetCode(&number);
    *code = nested ? PJRT_Error_Code_UNKNOWN : number.code;
    api->PJRT_Error_Message(&message);
    size_t n = message.message ? message.message_size : 0;
    while (n && strchr(" \n\t.", message.message[n - 1])) n--;
    char *text = F("%.*s", (int)(n > INT_MAX ? INT_MAX : n), n ? message.message : "");
    api->PJRT_Error_Destroy(&destroy);
    if (nested) {
        destroy.error = nested;
        api->PJRT_Error_Destroy(&destroy);
    }
    return text;
}

mth_status mth__pjrt_status(const mth__plugin *plugin, PJRT_Error *error, const char *doing) {
    if (!error) return NULL;
    PJRT_Error_Code code;
    char *text = mth__pjrt_error_text(plugin, error, &code), *what = F("XLA can't %s: %s", doing, text);
    const bool unknown_option = strstr(text, "No such compile option") != NULL,
               bad_option = strstr(text, "While setting option") != NULL;
    mth__free(text);
    if (unknown_option)
        return FAIL(MTH_ERROR_VALUE, what,
            F("compile_options takes the names of XLA's debug options, such as 'xla_backend_optimization_level'"));
    if (bad_option)
        return FAIL(MTH_ERROR_VALUE, what, F("give compile_options a value of the kind that the text names"));
    switch (code) {
    case PJRT_Error_Code_RESOURCE_EXHAUSTED:
        return FAIL(MTH_ERROR_MEMORY, what, F("split the tensors over more devices, or make the batch smaller"));
    case PJRT_Error_Code_UNIMPLEMENTED:
        return FAIL(MTH_ERROR_UNSUPPORTED, what,
            F("this plugin (API %d.%d) has no such thing: use a newer one by the option plugin=, or another backend",
                plugin->major, plugin->minor));
    case PJRT_Error_Code_CANCELLED: return FAIL(MTH_ERROR_INTERRUPTED, what, F("run it again"));
    default:
        return FAIL(MTH_ERROR_INTERNAL, what,
            F("this is a defect of mithril or of the plugin %s: please report it with the text above", plugin->path));
    }
}

static mth_status not_a_plugin(const char *path, char *why) {
    return FAIL(MTH_ERROR_IO, why,
        F("give the path of a PJRT plugin, such as .../pjrt_c_api_cpu_plugin.so, instead of %s, or leave the option "
          "out: "
          "installed plugins are found",
            path));
}

static mth_status check_table(const char *path, const PJRT_Api *api) {
    enum { HEAD = offsetof(PJRT_Api, PJRT_Error_Destroy) };
    if (api->struct_size < HEAD)
        return not_a_plugin(path,
            F("%s is no usable PJRT plugin: its table of functions has %zu bytes, the version alone takes %d", path,
                api->struct_size, (int)HEAD));
    int major = api->pjrt_api_version.major_version, minor = api->pjrt_api_version.minor_version;
    if (major != PJRT_API_MAJOR)
        return FAIL(MTH_ERROR_IO,
            F("the plugin %s has version %d.%d of the PJRT API, versions from %d.%d below %d.0 are understood", path,
                major, minor, PJRT_API_MAJOR, PJRT_API_MINOR, PJRT_API_MAJOR + 1),
            F("install a plugin of version %d.%d or a later one of %d.x", PJRT_API_MAJOR, PJRT_API_MINOR,
                PJRT_API_MAJOR));
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        void *slot = NULL;
        if (api->struct_size >= required[i].offset + sizeof slot)
            memcpy(&slot, (const char *)api + required[i].offset, sizeof slot);
        if (!slot)
            return FAIL(MTH_ERROR_IO,
                F("the plugin %s is too old: its version %d.%d of the PJRT API has no %s", path, major, minor,
                    required[i].name),
                F("install a plugin of version %d.%d or newer", PJRT_API_MAJOR, PJRT_API_MINOR));
    }
    return NULL;
}

pthread_mutex_t *mth__plugin_child_lock(void) { return &child_lock; }

bool mth__plugin_forked(const mth__plugin *plugin) { return plugin->process != getpid(); }

static mth_status forked(pid_t parent, const char *path) {
    return FAIL(MTH_ERROR_UNSUPPORTED,
        F("process %d is a fork of process %d, which had loaded the plugin %s: its threads stayed there", (int)getpid(),
            (int)parent, path),
        F("start processes without fork, as multiprocessing's 'spawn' does, or open the first backend of the engine "
          "pjrt after the fork"));
}

mth_status mth__plugin_check_process(const mth__plugin *plugin) {
    return mth__plugin_forked(plugin) ? forked(plugin->process, plugin->path) : NULL;
}

/* ---------------------------------------------------------------- the environment
   A plugin ends the process at flags that it doesn't know. What it knows is in it as a text, so what isn't there is
   refused here. */
#define SPACES " \t\n\r"

static bool file_holds(const char *bytes, size_t size, const char *variable, const char *name) {
    const size_t n = strlen(name) + 1;
    if (memmem(bytes, size, name, n)) return true;
    /* --noflag is false */
    return strcmp(variable, "XLA_FLAGS") && !strncmp(name, "no", 2) && memmem(bytes, size, name + 2, n - 2);
}

static mth_status check_flags(const char *path, const char *variable, char *flags, const char *bytes, size_t size) {
    for (char *word = flags + strspn(flags, SPACES); *word; word += strspn(word, SPACES)) {
        char *start = word;
        word += strcspn(word, "=" SPACES);
        const size_t n = (size_t)(word - start);
        if (*word == '=') { /* the value may be quoted */
            char quote[2] = {word[1], 0};
            word += *quote == '\'' || *quote == '"' ? 2 + strcspn(word + 2, quote) : 1;
            word += strcspn(word, SPACES);
        }
        if (*word) *word++ = 0;
        start[n] = 0;
        if (strncmp(start, "--", 2) || !file_holds(bytes, size, variable, start + 2))
            return FAIL(MTH_ERROR_VALUE,
                F("the environment variable %s has '%s', which the plugin %s doesn't know", variable, start, path),
                F("mend %s, or unset it; options for this backend alone are given by compile_options", variable));
    }
    return NULL;
}

/* XLA_FLAGS that don't start with a hyphen are the name of a file of flags. */
static mth_status check_variable(const char *path, const char *variable, const char *bytes, size_t size) {
    const char *value = getenv(variable);
    if (value) value += strspn(value, SPACES);
    if (!value || !*value) return NULL;
    char flags[1 << 14];
    size_t n = (size_t)snprintf(flags, sizeof flags, "%s", value);
    if (*value != '-' && !strcmp(variable, "XLA_FLAGS")) {
        FILE *file = fopen(value, "r");
        if (!file)
            return FAIL(MTH_ERROR_IO,
                F("the environment variable XLA_FLAGS is no list of flags, nor a file that can be read: %s", value),
                F("start each flag with --, or unset XLA_FLAGS"));
        n = fread(flags, 1, sizeof flags - 1, file);
        fclose(file);
        flags[n] = 0;
    }
    if (n >= sizeof flags - 1)
        return FAIL(MTH_ERROR_VALUE,
            F("the environment variable %s has more than %zu bytes of flags", variable, sizeof flags - 2),
            F("give fewer flags"));
    return check_flags(path, variable, flags, bytes, size);
}

static mth_status check_environment(const char *path) {
    if (!getenv("XLA_FLAGS") && !getenv("LIBTPU_INIT_ARGS")) return NULL;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    void *bytes = file >= 0 && !fstat(file, &info) ? mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file, 0)
                                                   : MAP_FAILED;
    if (file >= 0) close(file);
    if (bytes == MAP_FAILED) return not_a_plugin(path, F("%s can't be read: %s", path, mth__errno_text(errno)));
    mth_status status = check_variable(path, "XLA_FLAGS", bytes, (size_t)info.st_size);
    if (!status && strstr(path, "libtpu"))
        status = check_variable(path, "LIBTPU_INIT_ARGS", bytes, (size_t)info.st_size);
    munmap(bytes, (size_t)info.st_size);
    return status;
}

/* What fails comes back as a status, and what ends the process is said at every level. As errors XLA also logs what is
   none: of each executable from disk that two hints for tuning, which it adds itself on AVX-512, are no features of
   this processor. libtpu asks a metadata server, which hangs where there is none, and lets one process of a machine
   load it, which only a TPU needs. */
static void prepare_environment(const char *path) {
    setenv("TF_CPP_MIN_LOG_LEVEL", "3", 0);
    if (!strstr(path, "libtpu")) return;
    setenv("TPU_SKIP_MDS_QUERY", "1", 0);
    if (access("/dev/accel0", F_OK) && access("/dev/vfio/0", F_OK)) setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1", 0);
}

/* The loader maps what the headers name without a look at the file's size: a download that was cut short would end the
 * process. */
static bool is_cut_short(const char *path) {
    ElfW(Ehdr) head;
    struct stat info;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    bool cut = false;
    if (!fstat(file, &info) && pread(file, &head, sizeof head, 0) == sizeof head &&
        !memcmp(head.e_ident, ELFMAG, SELFMAG))
        for (unsigned i = 0; i < head.e_phnum && !cut; i++) {
            ElfW(Phdr) segment;
            ssize_t n = pread(file, &segment, sizeof segment, (off_t)(head.e_phoff + i * sizeof segment));
            cut = n != sizeof segment ||
                (segment.p_type == PT_LOAD && segment.p_offset + segment.p_filesz > (uint64_t)info.st_size);
        }
    close(file);
    return cut;
}

/* Closing a plugin that began to work tears down registries that outlive it, so a library is only closed before
 * that. */
static mth_status load(const char *path, const PJRT_Api **out) {
    if (is_cut_short(path))
        return FAIL(MTH_ERROR_IO, F("the plugin %s is shorter than its own headers say", path),
            F("install the package that it belongs to again"));
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* local: several plugins hold the same symbols */
    if (!library) {
        const char *why = mth__load_error();
        return not_a_plugin(path, F("%s can't be loaded: %s", path, why ? why : "unknown"));
    }
    const PJRT_Api *(*get)(void) = NULL;
    *(void **)&get = dlsym(library, "GetPjrtApi");
    if (!get) {
        dlclose(library);
        return not_a_plugin(path, F("%s is a shared library, but no PJRT plugin: it has no function GetPjrtApi", path));
    }
    const PJRT_Api *api = get();
    if (!api) return not_a_plugin(path, F("%s is broken: its GetPjrtApi returns nothing", path));
    TRY(check_table(path, api));
    mth__plugin plugin = {
        api, path, api->pjrt_api_version.major_version, api->pjrt_api_version.minor_version, NULL, getpid()};
    MTH__ARGS(PJRT_Plugin_Initialize, initialize);
    PJRT_Error *error = api->PJRT_Plugin_Initialize(&initialize);
    if (error) {
        PJRT_Error_Code code;
        char *text = mth__pjrt_error_text(&plugin, error, &code),
             *what = F("the plugin %s can't start: %s", path, text);
        mth__free(text);
        return FAIL(
            MTH_ERROR_IO, what, F("mend what the text above names, or choose another plugin by the option plugin="));
    }
    *out = api;
    return NULL;
}

/* libtpu takes over the signals of crashes and of the end, which are the host's. Its own remain: SIGPROF, whose timer
   it starts, and SIGPIPE, which it ignores. */
static mth_status load_quietly(const char *path, const PJRT_Api **out) {
    static const int host[] = {SIGHUP, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGTERM, SIGPWR};
    enum { N = sizeof host / sizeof *host };
    struct sigaction before[N], after;
    for (int i = 0; i < N; i++) sigaction(host[i], NULL, &before[i]);
    mth_status status = load(path, out);
    for (int i = 0; i < N; i++)
        if (sigaction(host[i], NULL, &after) == 0 && after.sa_handler != before[i].sa_handler)
            sigaction(host[i], &before[i], NULL);
    return status;
}

static mth_status open_locked(const char *path, mth__plugin **out) {
    for (mth__plugin *plugin = opened; plugin; plugin = plugin->next)
        if (!strcmp(plugin->path, path)) {
            TRY(mth__plugin_check_process(plugin));
            *out = plugin;
            return NULL;
        }
    if (!strcmp(half_loaded, path)) return forked(getppid(), path);
    size_t size = strlen(path) + 1;
    mth__plugin *plugin = mth__malloc(sizeof *plugin + size);
    if (!plugin)
        return FAIL(MTH_ERROR_MEMORY, F("no memory to open the plugin %s", path), F("free memory of this machine"));
    const PJRT_Api *api = NULL;
    mth_status status = check_environment(path);
    prepare_environment(path);
    loading = path;
    if (!status) status = load_quietly(path, &api);
    loading = NULL;
    if (status) {
        mth__free(plugin);
        return status;
    }
    char *copy = memcpy(plugin + 1, path, size);
    *plugin = (mth__plugin){
        api, copy, api->pjrt_api_version.major_version, api->pjrt_api_version.minor_version, opened, getpid()};
    *out = opened = plugin;
    return NULL;
}

mth_status mth__plugin_open(const char *path, mth__plugin **out) {
    char real[PATH_MAX];
    struct stat info;
    if (!realpath(path, real))
        return mth__error_errno(FAIL(MTH_ERROR_IO, F("there is no plugin at %s", path),
                                    F("give the path of a PJRT plugin that is there, or leave the option out: "
                                      "installed plugins are found")),
            errno);
    if (stat(real, &info) || !S_ISREG(info.st_mode)) return not_a_plugin(path, F("%s is no file", path));
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&lock);
    mth_status status = open_locked(real, out);
    pthread_mutex_unlock(&lock);
    return status;
}
