/* A PJRT plugin for CPUs, without an engine around it. */
#ifndef CPU_PLUGIN_H
#define CPU_PLUGIN_H
#include "base/arena.h"
#include "engine/pjrt/pjrt_plugin.h"
#include "unit.h"

/* Opened once; NULL where none is installed: the test that asked is then skipped. */
static mth_status cpu_plugin(mth__plugin **out) {
    static mth__plugin *plugin;
    static bool tried;
    const char *path;
    if (!tried) {
        tried = true;
        mth__arena *arena = mth__arena_new();
        setenv("TF_CPP_MIN_LOG_LEVEL", "3", 0);
        mth_status none = mth__plugin_find(arena, "cpu", NULL, &path);
        if (!none) TRY(mth__plugin_open(path, &plugin));
        mth_error_free(none);
        mth__arena_free(arena);
    }
    if (!plugin) SKIP("no PJRT plugin for CPUs is installed: nothing was compiled or compared");
    *out = plugin;
    return NULL;
}
static inline mth_status cpu_client(
    const mth__plugin *plugin, int devices, PJRT_Client **client, PJRT_Device *const **device) {
    const PJRT_NamedValue count = {.struct_size = PJRT_NamedValue_STRUCT_SIZE,
        .name = "cpu_device_count",
        .name_size = 16,
        .type = PJRT_NamedValue_kInt64,
        .int64_value = devices,
        .value_size = 1};
    MTH__ARGS(PJRT_Client_Create, create);
    create.create_options = &count;
    create.num_options = 1;
    PJRT_TRY(plugin, "create a client", plugin->api->PJRT_Client_Create(&create));
    MTH__ARGS(PJRT_Client_AddressableDevices, list);
    list.client = *client = create.client;
    PJRT_TRY(plugin, "list devices", plugin->api->PJRT_Client_AddressableDevices(&list));
    *device = list.addressable_devices;
    return NULL;
}
#endif
