/* Opening: options, the plugin, its client (or a topology without devices), the mesh's devices. */
#include "engine/pjrt/xla.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* As given: the values live as long as the backend. */
typedef struct {
    const char *backend, *plugin, *topology, *cache_dir;
    const mth_arg *site_packages, *platform_options, *compile_options, *spmd_mesh_shape;
} pjrt_options;
#define TEXT(field) .read = mth__read_text, .at = offsetof(pjrt_options, field)
#define VALUE(field) .read = mth__read_value, .at = offsetof(pjrt_options, field)
const mth__opt mth__pjrt_options[] = {
    {"backend", MTH__OPT_CHOICE, "'cpu'", "The platform that XLA compiles for.", "cpu|cuda|tpu", TEXT(backend)},
    {"plugin", MTH__OPT_STRING, "None", "Path of the PJRT plugin; the installed packages are searched unless said.",
        TEXT(plugin)},
    {"site_packages", MTH__OPT_LIST, "None",
        "Folders of Python packages, which are searched for plugins before others; Python gives those of sys.path.",
        VALUE(site_packages), .surroundings = true},
    {"topology", MTH__OPT_STRING, "None",
        "With backend='tpu', the slice to plan and compile for where no TPU is, such as 'v5p:2x4x8'; without a "
        "generation, '2x4x8' is v5p.",
        TEXT(topology)},
    {"platform_options", MTH__OPT_DICT, "None",
        "Options of the plugin's client, passed on as they are: of cuda such as {'allocator': 'bfc', "
        "'memory_fraction': 0.5, "
        "'visible_devices': (0, 1)}, of cpu {'asynchronous': False}.",
        VALUE(platform_options)},
    {"compile_options", MTH__OPT_DICT, "None",
        "XLA's debug options for the programs of this backend, such as {'xla_backend_optimization_level': 0}.",
        VALUE(compile_options)},
    {"cache_dir", MTH__OPT_STRING, "None",
        "Folder where compiled programs are kept for later processes; not kept unless said.", TEXT(cache_dir)},
    {"spmd_mesh_shape", MTH__OPT_MESH, "None",
        "With mesh_context='spmd', the mesh handed to XLA: device_mesh, or its axes cut into factors.",
        VALUE(spmd_mesh_shape)},
    {0}};
#undef TEXT
#undef VALUE

int mth__pjrt_type(mth_dtype dtype) {
    static const int type[MTH__DTYPE_COUNT] = {[MTH_FLOAT32] = PJRT_Buffer_Type_F32,
        [MTH_FLOAT64] = PJRT_Buffer_Type_F64,
        [MTH_INT32] = PJRT_Buffer_Type_S32,
        [MTH_INT64] = PJRT_Buffer_Type_S64,
        [MTH_BOOL] = PJRT_Buffer_Type_PRED,
        [MTH_BFLOAT16] = PJRT_Buffer_Type_BF16,
        [MTH_FLOAT16] = PJRT_Buffer_Type_F16};
    return type[dtype];
}

typedef struct {
    mth__engine *engine;
    const mth__engine_setup *setup;
    pjrt_options given;
} opening;

/* A leading ~/ is the user's home, as in a shell. */
static const char *own_path(const opening *task, const char *path) {
    const char *home = getenv("HOME");
    if (!path) return NULL;
    return home && !strncmp(path, "~/", 2) ? mth__format(task->engine->arena, "%s%s", home, path + 1)
                                           : mth__copy_text(task->engine->arena, path);
}

/* ---------------------------------------------------------------- options */
static const char *mesh_text(mth__arena *arena, int naxes, const int *dim) {
    mth__shape shape = {.rank = naxes};
    for (int i = 0; i < naxes; i++) shape.dim[i] = dim[i];
    return mth__shape_text(arena, shape);
}

/* Each axis of the mesh is the product of the next entries. */
static bool refines(const mth__engine *engine, const mth__mesh *mesh) {
    int at = 0;
    for (int axis = 0; axis < mesh->naxes; axis++) {
        int64_t product = 1;
        while (product < mesh->dim[axis] && at < engine->spmd_axes) product *= engine->spmd_dim[at++];
        if (product != mesh->dim[axis]) return false;
    }
    while (at < engine->spmd_axes && engine->spmd_dim[at] == 1) at++;
    return at == engine->spmd_axes;
}

static mth_status read_spmd(const opening *task) {
    mth__engine *engine = task->engine;
    const mth__mesh *whole = task->setup->mesh;
    const mth_arg *shape = task->given.spmd_mesh_shape;
    const int64_t dims = task->setup->distribute->partition_dims;
    engine->spmd = task->setup->spmd;
    engine->spmd_axes = whole->naxes;
    memcpy(engine->spmd_dim, whole->dim, sizeof whole->dim);
    if (shape->kind == MTH_ARG_LIST) {
        const char *mesh = mesh_text(engine->arena, whole->naxes, whole->dim),
                   *given = mth__arg_text(engine->arena, *shape);
        if (!engine->spmd)
            return FAIL(MTH_ERROR_VALUE,
                F("spmd_mesh_shape=%s has no effect with mesh_context='mpmd': mithril's plan uses device_mesh", given),
                F("give mesh_context='spmd' too, or leave spmd_mesh_shape out"));
        bool fits = true;
        engine->spmd_axes = (int)shape->count;
        for (int i = 0; i < engine->spmd_axes; i++) {
            fits &= shape->items[i].integer <= whole->count;
            engine->spmd_dim[i] = fits ? (int)shape->items[i].integer : 0;
        }
        if (!fits || !refines(engine, whole))
            return FAIL(MTH_ERROR_VALUE,
                F("spmd_mesh_shape=%s doesn't cut the axes of device_mesh=%s into factors, in their order", given,
                    mesh),
                F("give spmd_mesh_shape=%s, or that with an axis replaced by factors of it, such as (2, 4) for an axis "
                  "of 8",
                    mesh));
    }
    if (dims) {
        if (!task->setup->distribute->auto_sharding)
            return FAIL(MTH_ERROR_VALUE,
                F("spmd_partition_dims=%" PRId64 " has no effect without auto_sharding=True", dims),
                F("give auto_sharding=True too, or leave spmd_partition_dims out"));
        if (dims > engine->spmd_axes) {
            const char *mesh = mesh_text(engine->arena, engine->spmd_axes, engine->spmd_dim);
            return FAIL(MTH_ERROR_VALUE,
                F("spmd_partition_dims=%" PRId64 " is more than the axes of the mesh %s", dims, mesh),
                F("give spmd_partition_dims a value from 1 to %d, or leave it out", engine->spmd_axes));
        }
    }
    return NULL;
}

/* XLA checks names and kinds; a count below 0 ends the process. */
static bool is_negative_count(const char *name, const mth_arg *value) {
    static const char end[] = "_count";
    const size_t n = strlen(name), k = sizeof end - 1;
    if (n < k || strcmp(name + n - k, end)) return false;
    return value->kind == MTH_ARG_INT ? value->integer < 0
                                      : value->kind == MTH_ARG_STRING && strtoll(value->string, NULL, 10) < 0;
}

/* CPU plugins compile a maximum so that it loses NaN, where every other engine, and jax, hands it on. */
static const char NO_FAST_MAX[] = "xla_cpu_enable_fast_min_max";

static mth_status read_compile_options(const opening *task) {
    const mth_arg *given = task->given.compile_options;
    const size_t n = given->kind == MTH_ARG_DICT ? given->count : 0;
    bool fast = strcmp(task->engine->platform, "cpu") != 0;
    mth__pjrt_setting *setting = NEW_ARRAY(task->engine->arena, mth__pjrt_setting, n + 1);
    for (size_t i = 0; i < n; i++) {
        const mth_arg *value = &given->items[i];
        fast |= !strcmp(given->keys[i], NO_FAST_MAX);
        setting[i].name = mth__copy_text(task->engine->arena, given->keys[i]);
        if (is_negative_count(setting[i].name, value))
            return FAIL(
                MTH_ERROR_VALUE, F("compile_options: the count '%s' is below 0", setting[i].name), F("give 1 or more"));
        switch (value->kind) {
        case MTH_ARG_BOOL:
            setting[i].type = 'b';
            setting[i].integer = value->integer;
            break;
        case MTH_ARG_INT:
            setting[i].type = 'i';
            setting[i].integer = value->integer;
            break;
        case MTH_ARG_FLOAT:
            setting[i].type = 'd';
            setting[i].real = value->real;
            break;
        case MTH_ARG_STRING:
            setting[i].type = 's';
            setting[i].string = mth__copy_text(task->engine->arena, value->string);
            break;
        default: {
            const char *text = mth__arg_text(task->engine->arena, *value);
            return FAIL(MTH_ERROR_TYPE, F("compile_options: '%s' is %s", setting[i].name, text),
                F("give a boolean, a number or a text"));
        }
        }
    }
    if (!fast) setting[n] = (mth__pjrt_setting){.name = NO_FAST_MAX, .type = 'b'};
    task->engine->env = (mth__pjrt_env){setting, (int)n + !fast};
    return NULL;
}

static PJRT_NamedValue named(const char *name, PJRT_NamedValue_Type type) {
    return (PJRT_NamedValue){.struct_size = PJRT_NamedValue_STRUCT_SIZE,
        .name = name,
        .name_size = strlen(name),
        .type = type,
        .value_size = 1};
}

/* The CPU's plugins pass over names that they don't know, so these are known here. */
static mth_status check_cpu_option(const mth__engine *engine, const char *name, const mth_arg *value) {
    enum { ASYNCHRONOUS_SINCE = 106 };
    if (!strcmp(name, "cpu_device_count"))
        return FAIL(MTH_ERROR_VALUE, F("platform_options: cpu_device_count is the size of device_mesh"),
            F("leave it out, and give device_mesh=(n,)"));
    if (strcmp(name, "asynchronous") || value->kind != MTH_ARG_BOOL)
        return FAIL(MTH_ERROR_VALUE, F("platform_options: backend='cpu' has no option '%s' of this type", name),
            F("the only one is 'asynchronous': True or False"));
    if (engine->plugin->minor < ASYNCHRONOUS_SINCE)
        return FAIL(MTH_ERROR_UNSUPPORTED,
            F("platform_options: the plugin %s (API %d.%d) has no 'asynchronous'", engine->plugin->path,
                engine->plugin->major, engine->plugin->minor),
            F("leave it out, or use a plugin of API 0.%d or newer", ASYNCHRONOUS_SINCE));
    return NULL;
}

static mth_status bad_platform_option(const opening *task, const char *name, const mth_arg *value) {
    const char *text = mth__arg_text(task->engine->arena, *value);
    return FAIL(MTH_ERROR_TYPE, F("platform_options: '%s' is %s", name, text),
        F("give a boolean, a number, a text or a list of integers"));
}

static mth_status read_platform_options(const opening *task, PJRT_NamedValue **out, size_t *count) {
    const mth_arg *given = task->given.platform_options;
    const bool cpu = !strcmp(task->engine->platform, "cpu");
    size_t n = given->kind == MTH_ARG_DICT ? given->count : 0;
    PJRT_NamedValue *values = NEW_ARRAY(task->engine->arena, PJRT_NamedValue, n + 1);
    for (size_t i = 0; i < n; i++) {
        const mth_arg *value = &given->items[i];
        const char *name = mth__copy_text(task->engine->arena, given->keys[i]);
        if (cpu) TRY(check_cpu_option(task->engine, name, value));
        values[i] = named(name, PJRT_NamedValue_kBool);
        switch (value->kind) {
        case MTH_ARG_BOOL: values[i].bool_value = value->integer; break;
        case MTH_ARG_INT:
            values[i].type = PJRT_NamedValue_kInt64;
            values[i].int64_value = value->integer;
            break;
        case MTH_ARG_FLOAT:
            values[i].type = PJRT_NamedValue_kFloat;
            values[i].float_value = (float)value->real;
            break;
        case MTH_ARG_STRING:
            values[i].type = PJRT_NamedValue_kString;
            values[i].string_value = mth__copy_text(task->engine->arena, value->string);
            values[i].value_size = strlen(value->string);
            break;
        case MTH_ARG_LIST: {
            int64_t *list = NEW_ARRAY(task->engine->arena, int64_t, value->count + 1);
            for (size_t k = 0; k < value->count; k++) {
                if (value->items[k].kind != MTH_ARG_INT) return bad_platform_option(task, name, value);
                list[k] = value->items[k].integer;
            }
            values[i].type = PJRT_NamedValue_kInt64List;
            values[i].int64_array_value = list;
            values[i].value_size = value->count;
            break;
        }
        default: return bad_platform_option(task, name, value);
        }
    }
    if (cpu) {
        values[n] = named("cpu_device_count", PJRT_NamedValue_kInt64);
        values[n++].int64_value = task->engine->devices;
    }
    *out = values;
    *count = n;
    return NULL;
}

/* ---------------------------------------------------------------- the client */
static const char *piece(mth__arena *arena, const char *text, size_t size) {
    return mth__format(arena, "%.*s", (int)size, text ? text : "");
}

static mth_status client_error(const mth__engine *engine, PJRT_Error *error) {
    PJRT_Error_Code code;
    char *text = mth__pjrt_error_text(engine->plugin, error, &code);
    char *what = F("the plugin %s can't open its devices: %s", engine->plugin->path, text);
    bool options = strstr(text, "option") != NULL && code == PJRT_Error_Code_INVALID_ARGUMENT;
    const bool other = strstr(text, "cpu_device_count") != NULL; /* that we give, and every CPU plugin takes */
    mth__free(text);
    if (other)
        return FAIL(MTH_ERROR_VALUE, what,
            F("the plugin may be another platform's: give that as backend=, or leave plugin out"));
    if (options) return FAIL(MTH_ERROR_VALUE, what, F("mend platform_options, or leave them out"));
    if (!strcmp(engine->platform, "tpu"))
        return FAIL(MTH_ERROR_UNSUPPORTED, what,
            F("where no TPU is, give a topology to plan and compile for, such as topology='v5p:2x4x8', or use "
              "backend='cpu'"));
    if (!strcmp(engine->platform, "cuda"))
        return FAIL(
            MTH_ERROR_UNSUPPORTED, what, F("run it where an NVIDIA GPU and its driver are, or use backend='cpu'"));
    return FAIL(MTH_ERROR_IO, what, F("choose another plugin by the option plugin="));
}

static mth_status check_platform(const mth__engine *engine) {
    if (!strcmp(engine->platform_name, engine->platform)) return NULL;
    const char *is =
        strcmp(engine->platform_name, "cpu") && strcmp(engine->platform_name, "tpu") ? "cuda" : engine->platform_name;
    if (!strcmp(is, engine->platform)) return NULL; /* the platform of a GPU has had several names */
    return FAIL(MTH_ERROR_VALUE,
        F("the plugin %s is for the platform '%s', not for backend='%s'", engine->plugin->path, engine->platform_name,
            engine->platform),
        F("give backend='%s', or another plugin", is));
}

static mth_status few_devices(const mth__engine *engine, const mth__mesh *whole, int64_t n, const char *where) {
    const char *mesh = mesh_text(engine->arena, whole->naxes, whole->dim);
    return FAIL(MTH_ERROR_VALUE, F("device_mesh=%s takes %d devices, %s has %" PRId64, mesh, whole->count, where, n),
        n ? F("give a device_mesh of at most %" PRId64 " devices%s", n,
                engine->topology_name ? ", or a larger topology" : "")
          : F("use backend='cpu'"));
}

static mth_status device_id(const mth__engine *engine, PJRT_DeviceDescription *description, int32_t *id) {
    MTH__ARGS(PJRT_DeviceDescription_Id, get);
    get.device_description = description;
    PJRT_TRY(engine->plugin, "tell a device's id", engine->plugin->api->PJRT_DeviceDescription_Id(&get));
    *id = get.id;
    return NULL;
}

static mth_status open_client(const opening *task) {
    mth__engine *engine = task->engine;
    const PJRT_Api *api = engine->plugin->api;
    MTH__ARGS(PJRT_Client_Create, create);
    PJRT_NamedValue *options;
    TRY(read_platform_options(task, &options, &create.num_options));
    create.create_options = options;
    PJRT_Error *error = api->PJRT_Client_Create(&create);
    if (error) return client_error(engine, error);
    engine->client = create.client;

    MTH__ARGS(PJRT_Client_PlatformName, name);
    MTH__ARGS(PJRT_Client_PlatformVersion, version);
    MTH__ARGS(PJRT_Client_AddressableDevices, list);
    name.client = version.client = list.client = engine->client;
    PJRT_TRY(engine->plugin, "tell its platform", api->PJRT_Client_PlatformName(&name));
    PJRT_TRY(engine->plugin, "tell its version", api->PJRT_Client_PlatformVersion(&version));
    engine->platform_name = piece(engine->arena, name.platform_name, name.platform_name_size);
    engine->platform_version = piece(engine->arena, version.platform_version, version.platform_version_size);
    TRY(check_platform(engine));
    engine->host_visible = !strcmp(engine->platform_name, "cpu");
    PJRT_TRY(engine->plugin, "list its devices", api->PJRT_Client_AddressableDevices(&list));
    if (list.num_addressable_devices < (size_t)engine->devices)
        return few_devices(engine, task->setup->mesh, (int64_t)list.num_addressable_devices, "this machine");
    engine->slice = engine->devices;
    engine->device = NEW_ARRAY(engine->arena, PJRT_Device *, engine->devices);
    engine->memory = NEW_ARRAY(engine->arena, PJRT_Memory *, engine->devices);
    engine->global_id = NEW_ARRAY(engine->arena, int32_t, engine->devices);
    for (int i = 0; i < engine->devices; i++) {
        MTH__ARGS(PJRT_Device_GetDescription, describe);
        MTH__ARGS(PJRT_Device_DefaultMemory, memory);
        describe.device = memory.device = engine->device[i] = list.addressable_devices[i];
        PJRT_TRY(engine->plugin, "describe a device", api->PJRT_Device_GetDescription(&describe));
        TRY(device_id(engine, describe.device_description, &engine->global_id[i]));
        PJRT_TRY(engine->plugin, "tell a device's memory", api->PJRT_Device_DefaultMemory(&memory));
        engine->memory[i] = memory.memory;
    }
    return NULL;
}

/* ---------------------------------------------------------------- a topology */
#define DEFAULT_GENERATION "v5p"

/* GENERATION:AxBxC, perhaps _twisted or _untwisted: plugins crash at sizes of 0 and at sizes that no slice has. */
static bool is_topology(const char *name) {
    enum { SIZES = 3, DEVICES = 1 << 16 };
    const char *at = name + strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789");
    int64_t product = 1;
    if (at == name || *at != ':') return false;
    for (int i = 0; i < SIZES && (i == 0 || *at == 'x'); i++) {
        int64_t size = 0;
        const char *digit = at + 1;
        for (at = digit; *at >= '0' && *at <= '9' && size <= DEVICES; at++) size = 10 * size + (*at - '0');
        product *= size;
        if (at == digit || product < 1 || product > DEVICES) return false;
    }
    return !*at || !strcmp(at, "_twisted") || !strcmp(at, "_untwisted");
}

static mth_status no_topology(const char *name, char *why) {
    return FAIL(MTH_ERROR_VALUE, why,
        F("give GENERATION:CHIPS of a slice that Google builds, instead of '%s', such as topology='v5p:2x4x8', "
          "'v5e:4x4', 'v6e:16x16' or "
          "'v4:2x2x1'",
            name));
}

static mth_status open_topology(const opening *task, const char *name) {
    mth__engine *engine = task->engine;
    const PJRT_Api *api = engine->plugin->api;
    const bool plain = *name && name[strspn(name, "0123456789x")] == 0;
    if (!MTH__HAS(engine->plugin, PJRT_TopologyDescription_Create) ||
        !MTH__HAS(engine->plugin, PJRT_TopologyDescription_Destroy) ||
        !MTH__HAS(engine->plugin, PJRT_TopologyDescription_GetDeviceDescriptions) ||
        !MTH__HAS(engine->plugin, PJRT_TopologyDescription_PlatformName) ||
        !MTH__HAS(engine->plugin, PJRT_TopologyDescription_PlatformVersion))
        return FAIL(MTH_ERROR_UNSUPPORTED, F("the plugin %s knows no topologies", engine->plugin->path),
            F("use a newer libtpu: pip install -U libtpu"));
    engine->topology_name = mth__format(engine->arena, "%s%s", plain ? DEFAULT_GENERATION ":" : "", name);
    if (!is_topology(engine->topology_name))
        return no_topology(name, F("there is no topology '%s'", engine->topology_name));
    MTH__ARGS(PJRT_TopologyDescription_Create, create);
    PJRT_NamedValue *options;
    TRY(read_platform_options(task, &options, &create.num_options));
    create.create_options = options;
    create.topology_name = engine->topology_name;
    create.topology_name_size = strlen(engine->topology_name);
    PJRT_Error *error = api->PJRT_TopologyDescription_Create(&create);
    if (error) {
        PJRT_Error_Code code;
        char *text = mth__pjrt_error_text(engine->plugin, error, &code),
             *what = F("there is no topology '%s': %s", engine->topology_name, text);
        mth__free(text);
        return no_topology(name, what);
    }
    engine->topology = create.topology;

    MTH__ARGS(PJRT_TopologyDescription_PlatformName, platform);
    MTH__ARGS(PJRT_TopologyDescription_PlatformVersion, version);
    MTH__ARGS(PJRT_TopologyDescription_GetDeviceDescriptions, list);
    platform.topology = version.topology = engine->topology;
    list.topology = engine->topology;
    PJRT_TRY(engine->plugin, "tell its platform", api->PJRT_TopologyDescription_PlatformName(&platform));
    PJRT_TRY(engine->plugin, "tell its version", api->PJRT_TopologyDescription_PlatformVersion(&version));
    engine->platform_name = piece(engine->arena, platform.platform_name, platform.platform_name_size);
    engine->platform_version = piece(engine->arena, version.platform_version, version.platform_version_size);
    TRY(check_platform(engine));
    PJRT_TRY(engine->plugin, "list its devices", api->PJRT_TopologyDescription_GetDeviceDescriptions(&list));
    engine->slice = (int)list.num_descriptions;
    if (engine->slice < engine->devices)
        return few_devices(engine, task->setup->mesh, engine->slice,
            mth__format(engine->arena, "the topology %s", engine->topology_name));
    engine->global_id = NEW_ARRAY(engine->arena, int32_t, engine->slice);
    for (int i = 0; i < engine->slice; i++) TRY(device_id(engine, list.descriptions[i], &engine->global_id[i]));
    return NULL;
}

/* ---------------------------------------------------------------- open and close */
enum { CPU_DEVICES = 1024 };

static mth_status open_body(void *context) {
    opening *task = context;
    mth__engine *engine = task->engine;
    TRY(mth__options_hand_out(task->setup->tables, task->setup->value, mth__pjrt_options, &task->given));
    const char *topology = task->given.topology, *path = own_path(task, task->given.plugin);
    engine->devices = task->setup->mesh->count;
    engine->platform = mth__copy_text(engine->arena, task->given.backend);
    engine->cache_dir = own_path(task, task->given.cache_dir);
    TRY(read_spmd(task));
    TRY(read_compile_options(task));
    if (topology && strcmp(engine->platform, "tpu"))
        return FAIL(MTH_ERROR_VALUE,
            F("topology='%s' is a slice of TPUs, and backend='%s'", topology, engine->platform),
            F("give backend='tpu' too, or leave topology out"));
    if (!strcmp(engine->platform, "cpu") && engine->devices > CPU_DEVICES)
        return FAIL(MTH_ERROR_VALUE,
            F("a mesh of %d devices on CPUs, for each of which XLA starts a thread", engine->devices),
            F("give a device_mesh of at most %d devices; the native engine takes more", CPU_DEVICES));
    if (!path) TRY(mth__plugin_find(engine->arena, engine->platform, task->given.site_packages, &path));
    TRY(mth__plugin_open(path, &engine->plugin));
    return topology ? open_topology(task, topology) : open_client(task);
}

mth_status mth__pjrt_open(const mth__engine_setup *setup, mth__engine **out) {
    mth__arena *arena = mth__arena_new();
    mth__engine *engine = mth__calloc(1, sizeof *engine);
    if (!engine) {
        mth__arena_free(arena);
        return mth__lacks_memory("a backend", sizeof *engine);
    }
    /* the engine's own from here on, so that all that a jump leaves behind is closed below */
    mth__arena_keep(arena);
    engine->arena = arena;
    engine->references = 1;
    pthread_mutex_init(&engine->running, NULL);
    pthread_mutex_init(&engine->lock, NULL);
    opening task = {.engine = engine, .setup = setup};
    mth_status status = mth__guard(open_body, &task);
    if (status) {
        mth__pjrt_close(engine);
        return status;
    }
    *out = engine;
    return NULL;
}

void mth__pjrt_close(mth__engine *engine) {
    if (!engine || atomic_fetch_sub(&engine->references, 1) != 1) return;
    mth__xla_cache_free(engine);
    const bool forked = engine->plugin && mth__plugin_forked(engine->plugin);
    if (engine->client && !forked) {
        MTH__ARGS(PJRT_Client_Destroy, destroy);
        destroy.client = engine->client;
        mth_error_free(
            mth__pjrt_status(engine->plugin, engine->plugin->api->PJRT_Client_Destroy(&destroy), "close its client"));
    }
    if (engine->topology && !forked) {
        MTH__ARGS(PJRT_TopologyDescription_Destroy, destroy);
        destroy.topology = engine->topology;
        mth_error_free(mth__pjrt_status(
            engine->plugin, engine->plugin->api->PJRT_TopologyDescription_Destroy(&destroy), "close its topology"));
    }
    pthread_mutex_destroy(&engine->running);
    pthread_mutex_destroy(&engine->lock);
    mth__arena_free(engine->arena);
    mth__free(engine);
}

/* ---------------------------------------------------------------- describe */
static const PJRT_NamedValue *attribute(
    const mth__engine *engine, PJRT_DeviceDescription *description, const char *name) {
    MTH__ARGS(PJRT_DeviceDescription_Attributes, get);
    get.device_description = description;
    mth_status failed = mth__pjrt_status(
        engine->plugin, engine->plugin->api->PJRT_DeviceDescription_Attributes(&get), "tell attributes");
    mth_error_free(failed);
    for (size_t i = 0; !failed && i < get.num_attributes; i++)
        if (get.attributes[i].name_size == strlen(name) && !memcmp(get.attributes[i].name, name, strlen(name)))
            return &get.attributes[i];
    return NULL;
}

static mth_status kind_of(
    const mth__engine *engine, mth__arena *arena, PJRT_DeviceDescription *description, const char **out) {
    MTH__ARGS(PJRT_DeviceDescription_Kind, get);
    get.device_description = description;
    PJRT_TRY(engine->plugin, "tell a device's kind", engine->plugin->api->PJRT_DeviceDescription_Kind(&get));
    *out = piece(arena, get.device_kind, get.device_kind_size);
    return NULL;
}

/* Devices of one kind that follow each other are one line. */
static mth_status describe_devices(const mth__engine *engine, mth__text *text) {
    const char *last = NULL;
    for (int i = 0, first = 0; i <= engine->devices; i++) {
        const char *kind = NULL;
        if (i < engine->devices) {
            MTH__ARGS(PJRT_Device_GetDescription, get);
            get.device = engine->device[i];
            PJRT_TRY(engine->plugin, "describe a device", engine->plugin->api->PJRT_Device_GetDescription(&get));
            TRY(kind_of(engine, text->arena, get.device_description, &kind));
        }
        if (last && (!kind || strcmp(kind, last))) {
            if (i - first == 1)
                mth__text_add(text, "device %d: %s, id %d\n", first, last, engine->global_id[first]);
            else
                mth__text_add(text, "devices %d to %d: %s, ids %d to %d\n", first, i - 1, last,
                    engine->global_id[first], engine->global_id[i - 1]);
            first = i;
        }
        last = kind;
    }
    MTH__ARGS(PJRT_Device_AddressableMemories, list);
    list.device = engine->device[0];
    PJRT_TRY(engine->plugin, "list its memories", engine->plugin->api->PJRT_Device_AddressableMemories(&list));
    mth__text_add(text, "memory kinds: ");
    for (size_t i = 0; i < list.num_memories; i++) {
        MTH__ARGS(PJRT_Memory_Kind, kind);
        kind.memory = list.memories[i];
        PJRT_TRY(engine->plugin, "tell a memory's kind", engine->plugin->api->PJRT_Memory_Kind(&kind));
        mth__text_add(text, "%s%.*s%s", i ? ", " : "", (int)kind.kind_size, kind.kind,
            list.memories[i] == engine->memory[0] ? " (default)" : "");
    }
    mth__text_add(text, "\n");
    return NULL;
}

static mth_status describe_topology(const mth__engine *engine, mth__text *text) {
    MTH__ARGS(PJRT_TopologyDescription_GetDeviceDescriptions, list);
    list.topology = engine->topology;
    PJRT_TRY(
        engine->plugin, "list its devices", engine->plugin->api->PJRT_TopologyDescription_GetDeviceDescriptions(&list));
    int chips = 0;
    for (size_t i = 0; i < list.num_descriptions; i++) {
        const PJRT_NamedValue *core = attribute(engine, list.descriptions[i], "core_on_chip");
        chips += !core || core->type != PJRT_NamedValue_kInt64 || core->int64_value == 0;
    }
    const char *kind, *unit = chips == engine->slice ? "chip" : "core";
    TRY(kind_of(engine, text->arena, list.descriptions[0], &kind));
    mth__text_add(text, "topology %s: %d chips of %s", engine->topology_name, chips, kind);
    if (chips != engine->slice) mth__text_add(text, " with %d cores", engine->slice);
    mth__text_add(text, ", the mesh takes ");
    if (engine->devices == engine->slice)
        mth__text_add(text, "all of them, in order\n");
    else
        mth__text_add(text, "the first %d of %d %ss, in order\n", engine->devices, engine->slice, unit);
    const PJRT_NamedValue *bytes = attribute(engine, list.descriptions[0], "device_memory_bytes_limit");
    if (bytes && bytes->type == PJRT_NamedValue_kInt64)
        mth__text_add(text, "memory: %.1f GB (%" PRId64 " bytes) a %s\n", (double)bytes->int64_value / 1e9,
            bytes->int64_value, unit);
    mth__text_add(text, "no device is open: programs are planned and compiled, and can't run\n");
    return NULL;
}

mth_status mth__pjrt_describe(mth__engine *engine, mth__text *text) {
    const char *file = strrchr(engine->plugin->path, '/');
    TRY(mth__plugin_check_process(engine->plugin));
    mth__text_add(text, "XLA by the PJRT plugin %s, API %d.%d: %s\n", file ? file + 1 : engine->plugin->path,
        engine->plugin->major, engine->plugin->minor, engine->plugin->path);
    mth__text_add(text, "platform %s, version ", engine->platform_name);
    for (const char *letter = engine->platform_version; *letter; letter++)
        mth__text_add(text, "%c", *letter == '\n' ? ' ' : *letter);
    mth__text_add(text, "\n");
    return engine->topology ? describe_topology(engine, text) : describe_devices(engine, text);
}
