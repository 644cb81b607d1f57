/* What XLA says about an executable. Plugins lack some of these facts: a fact that a plugin does not tell is -1, and
   that is no error. */
#include "engine/pjrt/xla.h"
#include <string.h>

static void cost(const mth__plugin *plugin, PJRT_Executable *executable, mth__xla_facts *out) {
    static const char *const name[] = {"flops", "bytes accessed", "optimal_seconds"};
    double *const into[] = {&out->flops, &out->bytes_accessed, &out->seconds};
    MTH__ARGS(PJRT_Executable_GetCostAnalysis, get);
    get.executable = executable;
    PJRT_Error *error = plugin->api->PJRT_Executable_GetCostAnalysis(&get);
    if (error) {
        mth_error_free(mth__pjrt_status(plugin, error, "estimate the cost of an executable"));
        return;
    }
    for (size_t i = 0; i < get.num_properties; i++) {
        const PJRT_NamedValue *property = &get.properties[i];
        for (int k = 0; k < 3; k++) {
            if (property->name_size != strlen(name[k]) || memcmp(property->name, name[k], property->name_size))
                continue;
            if (property->type == PJRT_NamedValue_kFloat && property->float_value >= 0)
                *into[k] = (double)property->float_value;
            if (property->type == PJRT_NamedValue_kInt64 && property->int64_value >= 0)
                *into[k] = (double)property->int64_value;
        }
    }
}

static void memory(const mth__plugin *plugin, PJRT_Executable *executable, mth__xla_facts *out) {
    if (!MTH__HAS(plugin, PJRT_Executable_GetCompiledMemoryStats)) return;
    MTH__ARGS(PJRT_Executable_GetCompiledMemoryStats, get);
    get.executable = executable;
    PJRT_Error *error = plugin->api->PJRT_Executable_GetCompiledMemoryStats(&get);
    if (error) {
        mth_error_free(mth__pjrt_status(plugin, error, "tell the memory of an executable"));
        return;
    }
    out->arguments = get.argument_size_in_bytes;
    out->outputs = get.output_size_in_bytes;
    out->temporaries = get.temp_size_in_bytes;
    out->aliased = get.alias_size_in_bytes;
    out->code = get.generated_code_size_in_bytes;
    out->host_temporaries = get.host_temp_size_in_bytes;
    out->peak = get.peak_memory_in_bytes;
}

/* The text of the optimized program, in the arena: NULL where the plugin tells none in the one format that there is. */
static unsigned char *optimized(
    mth__arena *arena, const mth__plugin *plugin, PJRT_Executable *executable, size_t *bytes) {
    static const char format[] = "hlo_with_config";
    PJRT_Program program = {.struct_size = PJRT_Program_STRUCT_SIZE};
    MTH__ARGS(PJRT_Executable_OptimizedProgram, get);
    get.executable = executable;
    get.program = &program;
    for (int room = 0; room < 2; room++) {
        PJRT_Error *error = plugin->api->PJRT_Executable_OptimizedProgram(&get);
        if (error) {
            mth_error_free(mth__pjrt_status(plugin, error, "tell the optimized program"));
            return NULL;
        }
        if (program.format_size != strlen(format) || memcmp(program.format, format, strlen(format))) return NULL;
        if (!room) program.code = mth__alloc(arena, program.code_size);
    }
    *bytes = program.code_size;
    return (unsigned char *)program.code;
}

void mth__xla_memory(const mth__xla *xla, mth__xla_facts *out) {
    *out = (mth__xla_facts){.arguments = -1,
        .outputs = -1,
        .temporaries = -1,
        .aliased = -1,
        .code = -1,
        .host_temporaries = -1,
        .peak = -1,
        .flops = -1,
        .bytes_accessed = -1,
        .seconds = -1,
        .collectives = -1,
        .instructions = -1};
    memory(xla->engine->plugin, xla->executable, out);
}

mth_status mth__xla_inspect(mth__arena *arena, const mth__xla *xla, mth__xla_facts *out) {
    const mth__plugin *plugin = xla->engine->plugin;
    mth__xla_memory(xla, out);
    cost(plugin, xla->executable, out);
    mth__arena *scratch = mth__arena_new(); /* the program may take megabytes */
    size_t bytes;
    const unsigned char *program = optimized(scratch, plugin, xla->executable, &bytes);
    bool read = !program || mth__hlo_proto_collectives(arena, program, bytes, out);
    mth__arena_free(scratch);
    if (read) return NULL;
    return FAIL(MTH_ERROR_IO, F("the optimized program that the plugin %s returned is no HloModuleProto", plugin->path),
        F("use another plugin by the option plugin="));
}
