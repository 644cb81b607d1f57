/* The modules of an executable. Equal texts with equal options are one module. */
#include "engine/pjrt/pjrt_job.h"
#include <string.h>

static bool same_options(const mth__xla_options *a, const mth__xla_options *b) {
    if (a->partitions != b->partitions || a->replicas != b->replicas || a->spmd != b->spmd || !a->device != !b->device)
        return false;
    return !a->device || !memcmp(a->device, b->device, (size_t)(a->partitions * a->replicas) * sizeof *a->device);
}

mth__module *mth__module_add(
    mth__executable *executable, const mth__module_text *text, const mth__xla_options *options) {
    for (size_t i = 0; i < executable->module.n; i++) {
        mth__module *module = executable->module.at[i];
        if (module->text.bytes == text->bytes && !memcmp(module->text.text, text->text, text->bytes) &&
            same_options(&module->options, options))
            return module;
    }
    mth__module *module = NEW(executable->arena, mth__module);
    *module = (mth__module){.text = *text, .options = *options};
    PUSH(executable->arena, executable->module, module);
    return module;
}
