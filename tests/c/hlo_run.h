/* StableHLO made by a test: its partitions are XLA's replicas, run by a PJRT plugin for CPUs. Where none is installed,
 * nothing runs. */
#ifndef HLO_RUN_H
#define HLO_RUN_H
#include "cpu_plugin.h"
#include "engine/pjrt/hlo.h"
#include "engine/pjrt/xla.h"

enum { HLO_DEVICES = 8 };
static mth__plugin *hlo_plugin;
static PJRT_Client *hlo_client; /* NULL: no plugin */
static PJRT_Device *const *hlo_devices;

/* Threads of a client let go of a program after they say that it ran: where the process ends meanwhile, the plugin
 * aborts it. */
static void hlo_close(void) {
    MTH__ARGS(PJRT_Client_Destroy, destroy);
    destroy.client = hlo_client;
    mth_error_free(mth__pjrt_status(hlo_plugin, hlo_plugin->api->PJRT_Client_Destroy(&destroy), "close a client"));
}
static mth_status hlo_open(void) {
    if (hlo_client) return NULL;
    TRY(cpu_plugin(&hlo_plugin));
    if (!hlo_plugin) return NULL;
    TRY(cpu_client(hlo_plugin, HLO_DEVICES, &hlo_client, &hlo_devices));
    unit_end = hlo_close;
    return NULL;
}

/* ---------------------------------------------------------------- the text */
/* What emits the body of a module. */
static mth__hlo hlo_body(mth__arena *arena, int count, const int32_t *device) {
    return (mth__hlo){.arena = arena, .body = mth__text_new(arena), .partitions = count, .device = device};
}
/* The module around it: its arguments with their types, the types of its results, and their names. */
static mth__text hlo_wrap(
    const mth__hlo *hlo, const mth__text *arguments, const mth__text *types, const mth__text *names) {
    mth__text all = mth__text_new(hlo->arena);
    mth__text_add(&all,
        "module @m attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = %d : i32} {\n"
        "  func.func public @main(%s) -> (%s) {\n",
        hlo->partitions, arguments->n ? arguments->at : "", types->at);
    mth__text_add(&all, "%s    return %s : %s\n  }\n}\n", hlo->body.n ? hlo->body.at : "", names->at, types->at);
    return all;
}

/* ---------------------------------------------------------------- the run */
static mth_status hlo_await(PJRT_Event *event) {
    MTH__ARGS(PJRT_Event_Await, wait);
    wait.event = event;
    PJRT_TRY(hlo_plugin, "wait", hlo_plugin->api->PJRT_Event_Await(&wait));
    MTH__ARGS(PJRT_Event_Destroy, destroy);
    destroy.event = event;
    return mth__pjrt_status(hlo_plugin, hlo_plugin->api->PJRT_Event_Destroy(&destroy), "end an event");
}
static mth_status hlo_drop(PJRT_Buffer *buffer) {
    MTH__ARGS(PJRT_Buffer_Destroy, args);
    args.buffer = buffer;
    return mth__pjrt_status(hlo_plugin, hlo_plugin->api->PJRT_Buffer_Destroy(&args), "free a buffer");
}
static mth_status hlo_send(const mth__hlo_part *part, const void *data, int d, PJRT_Buffer **out) {
    MTH__ARGS(PJRT_Client_BufferFromHostBuffer, args);
    args.client = hlo_client;
    args.data = data;
    args.type = (PJRT_Buffer_Type)mth__pjrt_type(part->dtype);
    args.dims = part->local.dim;
    args.num_dims = (size_t)part->local.rank;
    args.host_buffer_semantics = PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes;
    args.device = hlo_devices[d];
    PJRT_TRY(hlo_plugin, "send an argument", hlo_plugin->api->PJRT_Client_BufferFromHostBuffer(&args));
    *out = args.buffer;
    return hlo_await(args.done_with_host_buffer);
}
/* A result, which goes. */
static mth_status hlo_fetch(mth__arena *arena, PJRT_Buffer *buffer, const mth__hlo_part *part, void **out) {
    MTH__ARGS(PJRT_Buffer_ToHostBuffer, args);
    args.src = buffer;
    args.dst_size = (size_t)mth__shape_size(part->local) * mth_dtype_size(part->dtype);
    args.dst = *out = mth__alloc(arena, args.dst_size + 64);
    PJRT_TRY(hlo_plugin, "fetch a result", hlo_plugin->api->PJRT_Buffer_ToHostBuffer(&args));
    TRY(hlo_await(args.event));
    return hlo_drop(buffer);
}
/* Compiles the text and runs it once: partition p on device[p], with the arguments in[p * nin + i], which go; its
 * results are out[p * nout + i]. */
static mth_status hlo_execute(mth__arena *arena, const mth__text *text, const mth__pjrt_env *env, int count,
    const int32_t *device, int nin, PJRT_Buffer **in, int nout, PJRT_Buffer **out) {
    const mth__xla_options options = {.partitions = 1, .replicas = count, .device = device};
    const unsigned char *bytes;
    size_t size;
    mth__xla_options_encode(arena, &options, env, &bytes, &size);
    PJRT_Program program = {.struct_size = PJRT_Program_STRUCT_SIZE,
        .code = text->at,
        .code_size = text->n,
        .format = "mlir",
        .format_size = 4};
    MTH__ARGS(PJRT_Client_Compile, compile);
    compile.client = hlo_client;
    compile.program = &program;
    compile.compile_options = (const char *)bytes;
    compile.compile_options_size = size;
    PJRT_TRY(hlo_plugin, "compile", hlo_plugin->api->PJRT_Client_Compile(&compile));
    PJRT_Buffer *const *in_list[HLO_DEVICES], **out_list[HLO_DEVICES];
    PJRT_Event *done[HLO_DEVICES];
    for (int partition = 0; partition < count; partition++) {
        in_list[partition] = in + partition * nin;
        out_list[partition] = out + partition * nout;
    }
    PJRT_ExecuteOptions how = {.struct_size = PJRT_ExecuteOptions_STRUCT_SIZE};
    MTH__ARGS(PJRT_LoadedExecutable_Execute, run);
    run.executable = compile.executable;
    run.options = &how;
    run.argument_lists = in_list;
    run.num_devices = (size_t)count;
    run.num_args = (size_t)nin;
    run.output_lists = out_list;
    run.device_complete_events = done;
    PJRT_TRY(hlo_plugin, "run", hlo_plugin->api->PJRT_LoadedExecutable_Execute(&run));
    for (int partition = 0; partition < count; partition++) TRY(hlo_await(done[partition]));
    for (int i = 0; i < count * nin; i++) TRY(hlo_drop(in[i]));
    MTH__ARGS(PJRT_LoadedExecutable_Destroy, destroy);
    destroy.executable = compile.executable;
    return mth__pjrt_status(hlo_plugin, hlo_plugin->api->PJRT_LoadedExecutable_Destroy(&destroy), "unload");
}
#endif
