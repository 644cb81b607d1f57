#include "base/packages.h"
#include "engine/pjrt/pjrt_plugin.h"
#include <stdlib.h>
#include <string.h>

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

mth_status mth__plugin_find(mth__arena *arena, const char *platform, const mth_arg *site_packages, const char **path) {
    TRY(mth__packages_check(arena, "site_packages", site_packages));
    const plugin_package *of = sources;
    while (strcmp(of->platform, platform)) of++;
    char found[PATH_MAX];
    const char *said = getenv(of->variable);
    if (said && !*said)
        return FAIL(MTH_ERROR_IO,
            F("no PJRT plugin for backend='%s': the environment variable %s is empty", platform, of->variable),
            F("unset %s, then installed plugins are found, or set it to the path of a plugin", of->variable));
    if (said) {
        *path = mth__copy_text(arena, said);
        return NULL;
    }
    if (mth__packages_find(site_packages, of->pattern, found)) {
        *path = mth__copy_text(arena, found);
        return NULL;
    }
    const char *files = "";
    for (const char *const *pattern = of->pattern; *pattern && !strchr(*pattern, '*'); pattern++)
        files = mth__format(arena, "%s%s%s", files, *files ? ", " : "", *pattern);
    return FAIL(MTH_ERROR_IO,
        F("no PJRT plugin for backend='%s' is installed: looked for %s in the folders of Python packages", platform,
            files),
        F("pip install %s%s%s, or give the path of a plugin by plugin=... or by the environment variable %s",
            strchr(of->package, '[') ? "\"" : "", of->package, strchr(of->package, '[') ? "\"" : "", of->variable));
}
