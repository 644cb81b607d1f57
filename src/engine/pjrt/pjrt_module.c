/* The modules of an executable: equal ones are one. */
#include "engine/pjrt/pjrt_job.h"
#include <string.h>

static bool same_options(const mth__xla_options *a, const mth__xla_options *b) {
    if (a->partitions != b->partitions || a->replicas != b->replicas || a->spmd != b->spmd || !a->device != !b->device)
        return false;
    return !a->device || !memcmp(a->device, b->device, (size_t)(a->partitions * a->replicas) * sizeof *a->device);
}

mth__module *mth__module_add(mth__executable *x, const mth__module_text *text, const mth__xla_options *options) {
    for (size_t i = 0; i < x->module.n; i++) {
        mth__module *m = x->module.at[i];
        if (m->text.bytes == text->bytes && !memcmp(m->text.text, text->text, text->bytes) &&
            same_options(&m->options, options))
            return m;
    }
    mth__module *m = NEW(x->arena, mth__module);
    *m = (mth__module){.text = *text, .options = *options};
    PUSH(x->arena, x->module, m);
    return m;
}
