#include "engine/pjrt/pjrt_plugin.h"
#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What packages call their plugin, below a site-packages folder; the first pattern that matches wins in each folder.
   Known ones first: of the CPU's the one that mithril-parallel[jax] pins, then by age of the API. */
typedef struct {
    const char *platform, *variable, *package, *pattern[8];
} plugin_package;
static const plugin_package sources[] = {
    {"cpu", "MITHRIL_PJRT_PLUGIN_CPU", "mithril-parallel[jax]",
        {"fastatomstruct_xla_cpu/libpjrt_cpu.so", "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so",
            "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so", "xla_plugins/*cpu*/*.so", "jax_plugins/*cpu*/*pjrt*.so",
            "jax_plugins/*/*pjrt*cpu*.so"}},
    {"cuda", "MITHRIL_PJRT_PLUGIN_CUDA", "jax-cuda12-pjrt",
        {"jax_plugins/xla_cuda13/xla_cuda_plugin.so", "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
            "xla_plugins/*cuda*/*.so", "jax_plugins/*cuda*/*pjrt*.so", "jax_plugins/*/*pjrt*cuda*.so"}},
    {"tpu", "MITHRIL_PJRT_PLUGIN_TPU", "libtpu",
        {"libtpu/libtpu.so", "xla_plugins/*tpu*/*.so", "jax_plugins/*tpu*/*pjrt*.so"}},
};

/* The file that the text names, or that its pattern matches first. No arena here: a jump would lose what glob holds. */
static bool first_match(const char *pattern, char found[PATH_MAX]) {
    glob_t matches;
    bool good = false;
    if (glob(pattern, 0, NULL, &matches) == 0) {
        for (size_t i = 0; i < matches.gl_pathc && !good; i++)
            good = access(matches.gl_pathv[i], R_OK) == 0 &&
                snprintf(found, PATH_MAX, "%s", matches.gl_pathv[i]) < PATH_MAX;
        globfree(&matches);
    }
    return good;
}

typedef struct {
    const plugin_package *of;
    char found[PATH_MAX];
} search;

/* `folder` is itself a pattern; `count` characters of it. */
static bool look_in(search *query, const char *folder, size_t count) {
    char pattern[PATH_MAX];
    for (const char *const *at = query->of->pattern; *at; at++) {
        int n = snprintf(pattern, sizeof pattern, "%.*s/%s", (int)count, folder, *at);
        if (n < PATH_MAX && first_match(pattern, query->found)) return true;
    }
    return false;
}

/* A folder's own name is no pattern. */
static bool look_below(search *query, const char *folder, size_t count, const char *below) {
    char path[PATH_MAX];
    size_t n = 0;
    for (size_t i = 0; i < count && n < sizeof path - 2; i++) {
        if (strchr("*?[\\", folder[i])) path[n++] = '\\';
        path[n++] = folder[i];
    }
    n += (size_t)snprintf(path + n, sizeof path - n, "%s", below);
    return n < sizeof path && look_in(query, path, n);
}

static bool look_in_list(search *query, const mth_arg *folders) {
    for (size_t i = 0; folders && folders->kind == MTH_ARG_LIST && i < folders->count; i++)
        if (look_below(query, folders->items[i].string, strlen(folders->items[i].string), "")) return true;
    return false;
}

static mth_status check_list(mth__arena *arena, const mth_arg *folders) {
    for (size_t i = 0; folders && folders->kind == MTH_ARG_LIST && i < folders->count; i++) {
        const char *text = mth__arg_text(arena, folders->items[i]);
        if (folders->items[i].kind != MTH_ARG_STRING)
            return FAIL(MTH_ERROR_TYPE, F("site_packages: item %zu is %s", i, text), F("give paths of folders"));
    }
    return NULL;
}

/* libmithril lies in site-packages/mithril, or in PREFIX/lib or deeper. */
static bool look_beside(search *query) {
    static const char here;
    Dl_info info;
    char path[PATH_MAX];
    if (!dladdr(&here, &info) || !realpath(info.dli_fname, path)) return false;
    for (int up = 0; up < 3; up++) {
        char *slash = strrchr(path, '/');
        if (!slash || slash == path) return false;
        *slash = 0;
        if (look_below(query, path, strlen(path), "") ||
            look_below(query, path, strlen(path), "/python3*/site-packages"))
            return true;
    }
    return false;
}

static bool look_everywhere(search *query, const mth_arg *site_packages) {
    static const char *const system[] = {"/usr/local/lib/python3*/site-packages",
        "/usr/local/lib/python3*/dist-packages", "/usr/lib/python3*/site-packages", "/usr/lib/python3/dist-packages"};
    const char *virtual = getenv("VIRTUAL_ENV"), *home = getenv("HOME");
    if (look_in_list(query, site_packages) || look_beside(query)) return true;
    if (virtual && look_below(query, virtual, strlen(virtual), "/lib/python3*/site-packages")) return true;
    if (home && look_below(query, home, strlen(home), "/.local/lib/python3*/site-packages")) return true;
    for (size_t i = 0; i < sizeof system / sizeof *system; i++)
        if (look_in(query, system[i], strlen(system[i]))) return true;
    return false;
}

mth_status mth__plugin_find(mth__arena *arena, const char *platform, const mth_arg *site_packages, const char **path) {
    TRY(check_list(arena, site_packages));
    search query = {.of = sources};
    while (strcmp(query.of->platform, platform)) query.of++;
    const char *said = getenv(query.of->variable);
    if (said && !*said)
        return FAIL(MTH_ERROR_IO,
            F("no PJRT plugin for backend='%s': the environment variable %s is empty", platform, query.of->variable),
            F("unset %s, then installed plugins are found, or set it to the path of a plugin", query.of->variable));
    if (said) {
        *path = mth__copy_text(arena, said);
        return NULL;
    }
    if (look_everywhere(&query, site_packages)) {
        *path = mth__copy_text(arena, query.found);
        return NULL;
    }
    const char *files = "";
    for (const char *const *pattern = query.of->pattern; *pattern && !strchr(*pattern, '*'); pattern++)
        files = mth__format(arena, "%s%s%s", files, *files ? ", " : "", *pattern);
    return FAIL(MTH_ERROR_IO,
        F("no PJRT plugin for backend='%s' is installed: looked for %s in the folders of Python packages", platform,
            files),
        F("pip install %s%s%s, or give the path of a plugin by plugin=... or by the environment variable %s",
            strchr(query.of->package, '[') ? "\"" : "", query.of->package, strchr(query.of->package, '[') ? "\"" : "",
            query.of->variable));
}
