#include "base/packages.h"
#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    const char *const *patterns;
    char *found; /* PATH_MAX */
} search;

/* `folder` is itself a pattern; `count` characters of it. */
static bool look_in(search *query, const char *folder, size_t count) {
    char pattern[PATH_MAX];
    for (const char *const *at = query->patterns; *at; at++) {
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

bool mth__packages_find(const mth_arg *folders, const char *const *patterns, char found[PATH_MAX]) {
    search whole = {patterns, found}, *query = &whole;
    static const char *const system[] = {"/usr/local/lib/python3*/site-packages",
        "/usr/local/lib/python3*/dist-packages", "/usr/lib/python3*/site-packages", "/usr/lib/python3/dist-packages"};
    const char *virtual = getenv("VIRTUAL_ENV"), *home = getenv("HOME");
    if (look_in_list(query, folders) || look_beside(query)) return true;
    if (virtual && look_below(query, virtual, strlen(virtual), "/lib/python3*/site-packages")) return true;
    if (home && look_below(query, home, strlen(home), "/.local/lib/python3*/site-packages")) return true;
    for (size_t i = 0; i < sizeof system / sizeof *system; i++)
        if (look_in(query, system[i], strlen(system[i]))) return true;
    return false;
}

mth_status mth__packages_check(mth__arena *arena, const char *name, const mth_arg *folders) {
    for (size_t i = 0; folders && folders->kind == MTH_ARG_LIST && i < folders->count; i++) {
        const char *text = mth__arg_text(arena, folders->items[i]);
        if (folders->items[i].kind != MTH_ARG_STRING)
            return FAIL(MTH_ERROR_TYPE, F("%s: item %zu is %s", name, i, text), F("give paths of folders"));
    }
    return NULL;
}
