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
    switch (dtype) {
    case MTH_FLOAT32: return PJRT_Buffer_Type_F32;
    case MTH_FLOAT64: return PJRT_Buffer_Type_F64;
    case MTH_INT32: return PJRT_Buffer_Type_S32;
    case MTH_INT64: return PJRT_Buffer_Type_S64;
    case MTH_BOOL: return PJRT_Buffer_Type_PRED;
    case MTH_BFLOAT16: return PJRT_Buffer_Type_BF16;
    }
    return PJRT_Buffer_Type_INVALID;
}

typedef struct {
    mth__engine *e;
    const mth__engine_setup *setup;
    pjrt_options given;
} opening;

/* A leading ~/ is the user's home, as in a shell. */
static const char *own_path(const opening *o, const char *path) {
    const char *home = getenv("HOME");
    if (!path) return NULL;
    return home && !strncmp(path, "~/", 2) ? mth__format(o->e->arena, "%s%s", home, path + 1)
                                           : mth__copy_text(o->e->arena, path);
}

/* ---------------------------------------------------------------- options */
static const char *mesh_text(mth__arena *arena, int naxes, const int *dim) {
    mth__shape s = {.rank = naxes};
    for (int i = 0; i < naxes; i++) s.dim[i] = dim[i];
    return mth__shape_text(arena, s);
}

/* Each axis of the mesh is the product of the next entries. */
static bool refines(const mth__engine *e, const mth__mesh *m) {
    int at = 0;
    for (int a = 0; a < m->naxes; a++) {
        int64_t product = 1;
        while (product < m->dim[a] && at < e->spmd_axes) product *= e->spmd_dim[at++];
        if (product != m->dim[a]) return false;
    }
    while (at < e->spmd_axes && e->spmd_dim[at] == 1) at++;
    return at == e->spmd_axes;
}

static mth_status read_spmd(const opening *o) {
    mth__engine *e = o->e;
    const mth__mesh *m = o->setup->mesh;
    const mth_arg *shape = o->given.spmd_mesh_shape;
    const int64_t dims = o->setup->distribute->partition_dims;
    e->spmd = o->setup->spmd;
    e->spmd_axes = m->naxes;
    memcpy(e->spmd_dim, m->dim, sizeof m->dim);
    if (shape->kind == MTH_ARG_LIST) {
        const char *mesh = mesh_text(e->arena, m->naxes, m->dim), *given = mth__arg_text(e->arena, *shape);
        if (!e->spmd)
            return FAIL(MTH_ERROR_VALUE,
                F("spmd_mesh_shape=%s has no effect with mesh_context='mpmd': mithril's plan uses device_mesh", given),
                F("give mesh_context='spmd' too, or leave spmd_mesh_shape out"));
        bool fits = true;
        e->spmd_axes = (int)shape->count;
        for (int i = 0; i < e->spmd_axes; i++) {
            fits &= shape->items[i].integer <= m->count;
            e->spmd_dim[i] = fits ? (int)shape->items[i].integer : 0;
        }
        if (!fits || !refines(e, m))
            return FAIL(MTH_ERROR_VALUE,
                F("spmd_mesh_shape=%s doesn't cut the axes of device_mesh=%s into factors, in their order", given,
                    mesh),
                F("give spmd_mesh_shape=%s, or that with an axis replaced by factors of it, such as (2, 4) for an axis "
                  "of 8",
                    mesh));
    }
    if (dims) {
        if (!o->setup->distribute->auto_sharding)
            return FAIL(MTH_ERROR_VALUE,
                F("spmd_partition_dims=%" PRId64 " has no effect without auto_sharding=True", dims),
                F("give auto_sharding=True too, or leave spmd_partition_dims out"));
        if (dims > e->spmd_axes) {
            const char *mesh = mesh_text(e->arena, e->spmd_axes, e->spmd_dim);
            return FAIL(MTH_ERROR_VALUE,
                F("spmd_partition_dims=%" PRId64 " is more than the axes of the mesh %s", dims, mesh),
                F("give spmd_partition_dims a value from 1 to %d, or leave it out", e->spmd_axes));
        }
    }
    return NULL;
}

/* XLA checks names and kinds; a count below 0 ends the process. */
static bool is_negative_count(const char *name, const mth_arg *a) {
    static const char end[] = "_count";
    const size_t n = strlen(name), k = sizeof end - 1;
    if (n < k || strcmp(name + n - k, end)) return false;
    return a->kind == MTH_ARG_INT ? a->integer < 0 : a->kind == MTH_ARG_STRING && strtoll(a->string, NULL, 10) < 0;
}

/* CPU plugins compile a maximum so that it loses NaN, where every other engine, and jax, hands it on. */
static const char NO_FAST_MAX[] = "xla_cpu_enable_fast_min_max";

static mth_status read_compile_options(const opening *o) {
    const mth_arg *given = o->given.compile_options;
    const size_t n = given->kind == MTH_ARG_DICT ? given->count : 0;
    bool fast = strcmp(o->e->platform, "cpu") != 0;
    mth__pjrt_setting *s = NEW_ARRAY(o->e->arena, mth__pjrt_setting, n + 1);
    for (size_t i = 0; i < n; i++) {
        const mth_arg *a = &given->items[i];
        fast |= !strcmp(given->keys[i], NO_FAST_MAX);
        s[i].name = mth__copy_text(o->e->arena, given->keys[i]);
        if (is_negative_count(s[i].name, a))
            return FAIL(
                MTH_ERROR_VALUE, F("compile_options: the count '%s' is below 0", s[i].name), F("give 1 or more"));
        switch (a->kind) {
        case MTH_ARG_BOOL:
            s[i].type = 'b';
            s[i].integer = a->integer;
            break;
        case MTH_ARG_INT:
            s[i].type = 'i';
            s[i].integer = a->integer;
            break;
        case MTH_ARG_FLOAT:
            s[i].type = 'd';
            s[i].real = a->real;
            break;
        case MTH_ARG_STRING:
            s[i].type = 's';
            s[i].string = mth__copy_text(o->e->arena, a->string);
            break;
        default: {
            const char *text = mth__arg_text(o->e->arena, *a);
            return FAIL(MTH_ERROR_TYPE, F("compile_options: '%s' is %s", s[i].name, text),
                F("give a boolean, a number or a text"));
        }
        }
    }
    if (!fast) s[n] = (mth__pjrt_setting){.name = NO_FAST_MAX, .type = 'b'};
    o->e->env = (mth__pjrt_env){s, (int)n + !fast};
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
static mth_status check_cpu_option(const mth__engine *e, const char *name, const mth_arg *a) {
    enum { ASYNCHRONOUS_SINCE = 106 };
    if (!strcmp(name, "cpu_device_count"))
        return FAIL(MTH_ERROR_VALUE, F("platform_options: cpu_device_count is the size of device_mesh"),
            F("leave it out, and give device_mesh=(n,)"));
    if (strcmp(name, "asynchronous") || a->kind != MTH_ARG_BOOL)
        return FAIL(MTH_ERROR_VALUE, F("platform_options: backend='cpu' has no option '%s' of this type", name),
            F("the only one is 'asynchronous': True or False"));
    if (e->plugin->minor < ASYNCHRONOUS_SINCE)
        return FAIL(MTH_ERROR_UNSUPPORTED,
            F("platform_options: the plugin %s (API %d.%d) has no 'asynchronous'", e->plugin->path, e->plugin->major,
                e->plugin->minor),
            F("leave it out, or use a plugin of API 0.%d or newer", ASYNCHRONOUS_SINCE));
    return NULL;
}

static mth_status bad_platform_option(const opening *o, const char *name, const mth_arg *a) {
    const char *text = mth__arg_text(o->e->arena, *a);
    return FAIL(MTH_ERROR_TYPE, F("platform_options: '%s' is %s", name, text),
        F("give a boolean, a number, a text or a list of integers"));
}

static mth_status read_platform_options(const opening *o, PJRT_NamedValue **out, size_t *count) {
    const mth_arg *given = o->given.platform_options;
    const bool cpu = !strcmp(o->e->platform, "cpu");
    size_t n = given->kind == MTH_ARG_DICT ? given->count : 0;
    PJRT_NamedValue *v = NEW_ARRAY(o->e->arena, PJRT_NamedValue, n + 1);
    for (size_t i = 0; i < n; i++) {
        const mth_arg *a = &given->items[i];
        const char *name = mth__copy_text(o->e->arena, given->keys[i]);
        if (cpu) TRY(check_cpu_option(o->e, name, a));
        v[i] = named(name, PJRT_NamedValue_kBool);
        switch (a->kind) {
        case MTH_ARG_BOOL: v[i].bool_value = a->integer; break;
        case MTH_ARG_INT:
            v[i].type = PJRT_NamedValue_kInt64;
            v[i].int64_value = a->integer;
            break;
        case MTH_ARG_FLOAT:
            v[i].type = PJRT_NamedValue_kFloat;
            v[i].float_value = (float)a->real;
            break;
        case MTH_ARG_STRING:
            v[i].type = PJRT_NamedValue_kString;
            v[i].string_value = mth__copy_text(o->e->arena, a->string);
            v[i].value_size = strlen(a->string);
            break;
        case MTH_ARG_LIST: {
            int64_t *list = NEW_ARRAY(o->e->arena, int64_t, a->count + 1);
            for (size_t k = 0; k < a->count; k++) {
                if (a->items[k].kind != MTH_ARG_INT) return bad_platform_option(o, name, a);
                list[k] = a->items[k].integer;
            }
            v[i].type = PJRT_NamedValue_kInt64List;
            v[i].int64_array_value = list;
            v[i].value_size = a->count;
            break;
        }
        default: return bad_platform_option(o, name, a);
        }
    }
    if (cpu) {
        v[n] = named("cpu_device_count", PJRT_NamedValue_kInt64);
        v[n++].int64_value = o->e->devices;
    }
    *out = v;
    *count = n;
    return NULL;
}

/* ---------------------------------------------------------------- the client */
static const char *piece(mth__arena *arena, const char *text, size_t size) {
    return mth__format(arena, "%.*s", (int)size, text ? text : "");
}

static mth_status client_error(const mth__engine *e, PJRT_Error *error) {
    PJRT_Error_Code code;
    char *text = mth__pjrt_error_text(e->plugin, error, &code);
    char *what = F("the plugin %s can't open its devices: %s", e->plugin->path, text);
    bool options = strstr(text, "option") != NULL && code == PJRT_Error_Code_INVALID_ARGUMENT;
    const bool other = strstr(text, "cpu_device_count") != NULL; /* that we give, and every CPU plugin takes */
    mth__free(text);
    if (other)
        return FAIL(MTH_ERROR_VALUE, what,
            F("the plugin may be another platform's: give that as backend=, or leave plugin out"));
    if (options) return FAIL(MTH_ERROR_VALUE, what, F("mend platform_options, or leave them out"));
    if (!strcmp(e->platform, "tpu"))
        return FAIL(MTH_ERROR_UNSUPPORTED, what,
            F("where no TPU is, give a topology to plan and compile for, such as topology='v5p:2x4x8', or use "
              "backend='cpu'"));
    if (!strcmp(e->platform, "cuda"))
        return FAIL(
            MTH_ERROR_UNSUPPORTED, what, F("run it where an NVIDIA GPU and its driver are, or use backend='cpu'"));
    return FAIL(MTH_ERROR_IO, what, F("choose another plugin by the option plugin="));
}

static mth_status check_platform(const mth__engine *e) {
    if (!strcmp(e->platform_name, e->platform)) return NULL;
    const char *is = strcmp(e->platform_name, "cpu") && strcmp(e->platform_name, "tpu") ? "cuda" : e->platform_name;
    if (!strcmp(is, e->platform)) return NULL; /* the platform of a GPU has had several names */
    return FAIL(MTH_ERROR_VALUE,
        F("the plugin %s is for the platform '%s', not for backend='%s'", e->plugin->path, e->platform_name,
            e->platform),
        F("give backend='%s', or another plugin", is));
}

static mth_status few_devices(const mth__engine *e, const mth__mesh *m, int64_t n, const char *where) {
    const char *mesh = mesh_text(e->arena, m->naxes, m->dim);
    return FAIL(MTH_ERROR_VALUE, F("device_mesh=%s takes %d devices, %s has %" PRId64, mesh, m->count, where, n),
        n ? F("give a device_mesh of at most %" PRId64 " devices%s", n,
                e->topology_name ? ", or a larger topology" : "")
          : F("use backend='cpu'"));
}

static mth_status device_id(const mth__engine *e, PJRT_DeviceDescription *description, int32_t *id) {
    MTH__ARGS(PJRT_DeviceDescription_Id, get);
    get.device_description = description;
    PJRT_TRY(e->plugin, "tell a device's id", e->plugin->api->PJRT_DeviceDescription_Id(&get));
    *id = get.id;
    return NULL;
}

static mth_status open_client(const opening *o) {
    mth__engine *e = o->e;
    const PJRT_Api *api = e->plugin->api;
    MTH__ARGS(PJRT_Client_Create, create);
    PJRT_NamedValue *options;
    TRY(read_platform_options(o, &options, &create.num_options));
    create.create_options = options;
    PJRT_Error *error = api->PJRT_Client_Create(&create);
    if (error) return client_error(e, error);
    e->client = create.client;

    MTH__ARGS(PJRT_Client_PlatformName, name);
    MTH__ARGS(PJRT_Client_PlatformVersion, version);
    MTH__ARGS(PJRT_Client_AddressableDevices, list);
    name.client = version.client = list.client = e->client;
    PJRT_TRY(e->plugin, "tell its platform", api->PJRT_Client_PlatformName(&name));
    PJRT_TRY(e->plugin, "tell its version", api->PJRT_Client_PlatformVersion(&version));
    e->platform_name = piece(e->arena, name.platform_name, name.platform_name_size);
    e->platform_version = piece(e->arena, version.platform_version, version.platform_version_size);
    TRY(check_platform(e));
    e->host_visible = !strcmp(e->platform_name, "cpu");

    PJRT_TRY(e->plugin, "list its devices", api->PJRT_Client_AddressableDevices(&list));
    if (list.num_addressable_devices < (size_t)e->devices)
        return few_devices(e, o->setup->mesh, (int64_t)list.num_addressable_devices, "this machine");
    e->slice = e->devices;
    e->device = NEW_ARRAY(e->arena, PJRT_Device *, e->devices);
    e->memory = NEW_ARRAY(e->arena, PJRT_Memory *, e->devices);
    e->global_id = NEW_ARRAY(e->arena, int32_t, e->devices);
    for (int i = 0; i < e->devices; i++) {
        MTH__ARGS(PJRT_Device_GetDescription, describe);
        MTH__ARGS(PJRT_Device_DefaultMemory, memory);
        describe.device = memory.device = e->device[i] = list.addressable_devices[i];
        PJRT_TRY(e->plugin, "describe a device", api->PJRT_Device_GetDescription(&describe));
        TRY(device_id(e, describe.device_description, &e->global_id[i]));
        PJRT_TRY(e->plugin, "tell a device's memory", api->PJRT_Device_DefaultMemory(&memory));
        e->memory[i] = memory.memory;
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

static mth_status open_topology(const opening *o, const char *name) {
    mth__engine *e = o->e;
    const PJRT_Api *api = e->plugin->api;
    const bool plain = *name && name[strspn(name, "0123456789x")] == 0;
    if (!MTH__HAS(e->plugin, PJRT_TopologyDescription_Create) ||
        !MTH__HAS(e->plugin, PJRT_TopologyDescription_Destroy) ||
        !MTH__HAS(e->plugin, PJRT_TopologyDescription_GetDeviceDescriptions) ||
        !MTH__HAS(e->plugin, PJRT_TopologyDescription_PlatformName) ||
        !MTH__HAS(e->plugin, PJRT_TopologyDescription_PlatformVersion))
        return FAIL(MTH_ERROR_UNSUPPORTED, F("the plugin %s knows no topologies", e->plugin->path),
            F("use a newer libtpu: pip install -U libtpu"));
    e->topology_name = mth__format(e->arena, "%s%s", plain ? DEFAULT_GENERATION ":" : "", name);
    if (!is_topology(e->topology_name)) return no_topology(name, F("there is no topology '%s'", e->topology_name));
    MTH__ARGS(PJRT_TopologyDescription_Create, create);
    PJRT_NamedValue *options;
    TRY(read_platform_options(o, &options, &create.num_options));
    create.create_options = options;
    create.topology_name = e->topology_name;
    create.topology_name_size = strlen(e->topology_name);
    PJRT_Error *error = api->PJRT_TopologyDescription_Create(&create);
    if (error) {
        PJRT_Error_Code code;
        char *text = mth__pjrt_error_text(e->plugin, error, &code),
             *what = F("there is no topology '%s': %s", e->topology_name, text);
        mth__free(text);
        return no_topology(name, what);
    }
    e->topology = create.topology;

    MTH__ARGS(PJRT_TopologyDescription_PlatformName, platform);
    MTH__ARGS(PJRT_TopologyDescription_PlatformVersion, version);
    MTH__ARGS(PJRT_TopologyDescription_GetDeviceDescriptions, list);
    platform.topology = version.topology = e->topology;
    list.topology = e->topology;
    PJRT_TRY(e->plugin, "tell its platform", api->PJRT_TopologyDescription_PlatformName(&platform));
    PJRT_TRY(e->plugin, "tell its version", api->PJRT_TopologyDescription_PlatformVersion(&version));
    e->platform_name = piece(e->arena, platform.platform_name, platform.platform_name_size);
    e->platform_version = piece(e->arena, version.platform_version, version.platform_version_size);
    TRY(check_platform(e));
    PJRT_TRY(e->plugin, "list its devices", api->PJRT_TopologyDescription_GetDeviceDescriptions(&list));
    e->slice = (int)list.num_descriptions;
    if (e->slice < e->devices)
        return few_devices(e, o->setup->mesh, e->slice, mth__format(e->arena, "the topology %s", e->topology_name));
    e->global_id = NEW_ARRAY(e->arena, int32_t, e->slice);
    for (int i = 0; i < e->slice; i++) TRY(device_id(e, list.descriptions[i], &e->global_id[i]));
    return NULL;
}

/* ---------------------------------------------------------------- open and close */
enum { CPU_DEVICES = 1024 };

static mth_status open_body(void *context) {
    opening *o = context;
    mth__engine *e = o->e;
    TRY(mth__options_hand_out(o->setup->tables, o->setup->value, mth__pjrt_options, &o->given));
    const char *topology = o->given.topology, *path = own_path(o, o->given.plugin);
    e->devices = o->setup->mesh->count;
    e->platform = mth__copy_text(e->arena, o->given.backend);
    e->cache_dir = own_path(o, o->given.cache_dir);
    TRY(read_spmd(o));
    TRY(read_compile_options(o));
    if (topology && strcmp(e->platform, "tpu"))
        return FAIL(MTH_ERROR_VALUE, F("topology='%s' is a slice of TPUs, and backend='%s'", topology, e->platform),
            F("give backend='tpu' too, or leave topology out"));
    if (!strcmp(e->platform, "cpu") && e->devices > CPU_DEVICES)
        return FAIL(MTH_ERROR_VALUE,
            F("a mesh of %d devices on CPUs, for each of which XLA starts a thread", e->devices),
            F("give a device_mesh of at most %d devices; the native engine takes more", CPU_DEVICES));
    if (!path) TRY(mth__plugin_find(e->arena, e->platform, o->given.site_packages, &path));
    TRY(mth__plugin_open(path, &e->plugin));
    return topology ? open_topology(o, topology) : open_client(o);
}

mth_status mth__pjrt_open(const mth__engine_setup *setup, mth__engine **out) {
    mth__arena *arena = mth__arena_new();
    mth__engine *e = mth__calloc(1, sizeof *e);
    if (!e) {
        mth__arena_free(arena);
        return mth__lacks_memory("a backend", sizeof *e);
    }
    /* the engine's own from here on, so that all that a jump leaves behind is closed below */
    mth__arena_keep(arena);
    e->arena = arena;
    e->references = 1;
    pthread_mutex_init(&e->running, NULL);
    pthread_mutex_init(&e->lock, NULL);
    opening o = {.e = e, .setup = setup};
    mth_status status = mth__guard(open_body, &o);
    if (status) {
        mth__pjrt_close(e);
        return status;
    }
    *out = e;
    return NULL;
}

void mth__pjrt_close(mth__engine *e) {
    if (!e || atomic_fetch_sub(&e->references, 1) != 1) return;
    mth__xla_cache_free(e);
    const bool forked = e->plugin && mth__plugin_forked(e->plugin);
    if (e->client && !forked) {
        MTH__ARGS(PJRT_Client_Destroy, destroy);
        destroy.client = e->client;
        mth_error_free(mth__pjrt_status(e->plugin, e->plugin->api->PJRT_Client_Destroy(&destroy), "close its client"));
    }
    if (e->topology && !forked) {
        MTH__ARGS(PJRT_TopologyDescription_Destroy, destroy);
        destroy.topology = e->topology;
        mth_error_free(mth__pjrt_status(
            e->plugin, e->plugin->api->PJRT_TopologyDescription_Destroy(&destroy), "close its topology"));
    }
    pthread_mutex_destroy(&e->running);
    pthread_mutex_destroy(&e->lock);
    mth__arena_free(e->arena);
    mth__free(e);
}

/* ---------------------------------------------------------------- describe */
static const PJRT_NamedValue *attribute(const mth__engine *e, PJRT_DeviceDescription *d, const char *name) {
    MTH__ARGS(PJRT_DeviceDescription_Attributes, get);
    get.device_description = d;
    mth_status failed =
        mth__pjrt_status(e->plugin, e->plugin->api->PJRT_DeviceDescription_Attributes(&get), "tell attributes");
    mth_error_free(failed);
    for (size_t i = 0; !failed && i < get.num_attributes; i++)
        if (get.attributes[i].name_size == strlen(name) && !memcmp(get.attributes[i].name, name, strlen(name)))
            return &get.attributes[i];
    return NULL;
}

static mth_status kind_of(const mth__engine *e, mth__arena *arena, PJRT_DeviceDescription *d, const char **out) {
    MTH__ARGS(PJRT_DeviceDescription_Kind, get);
    get.device_description = d;
    PJRT_TRY(e->plugin, "tell a device's kind", e->plugin->api->PJRT_DeviceDescription_Kind(&get));
    *out = piece(arena, get.device_kind, get.device_kind_size);
    return NULL;
}

/* Devices of one kind that follow each other are one line. */
static mth_status describe_devices(const mth__engine *e, mth__text *t) {
    const char *last = NULL;
    for (int i = 0, first = 0; i <= e->devices; i++) {
        const char *kind = NULL;
        if (i < e->devices) {
            MTH__ARGS(PJRT_Device_GetDescription, get);
            get.device = e->device[i];
            PJRT_TRY(e->plugin, "describe a device", e->plugin->api->PJRT_Device_GetDescription(&get));
            TRY(kind_of(e, t->arena, get.device_description, &kind));
        }
        if (last && (!kind || strcmp(kind, last))) {
            if (i - first == 1)
                mth__text_add(t, "device %d: %s, id %d\n", first, last, e->global_id[first]);
            else
                mth__text_add(t, "devices %d to %d: %s, ids %d to %d\n", first, i - 1, last, e->global_id[first],
                    e->global_id[i - 1]);
            first = i;
        }
        last = kind;
    }
    MTH__ARGS(PJRT_Device_AddressableMemories, list);
    list.device = e->device[0];
    PJRT_TRY(e->plugin, "list its memories", e->plugin->api->PJRT_Device_AddressableMemories(&list));
    mth__text_add(t, "memory kinds: ");
    for (size_t i = 0; i < list.num_memories; i++) {
        MTH__ARGS(PJRT_Memory_Kind, kind);
        kind.memory = list.memories[i];
        PJRT_TRY(e->plugin, "tell a memory's kind", e->plugin->api->PJRT_Memory_Kind(&kind));
        mth__text_add(t, "%s%.*s%s", i ? ", " : "", (int)kind.kind_size, kind.kind,
            list.memories[i] == e->memory[0] ? " (default)" : "");
    }
    mth__text_add(t, "\n");
    return NULL;
}

static mth_status describe_topology(const mth__engine *e, mth__text *t) {
    MTH__ARGS(PJRT_TopologyDescription_GetDeviceDescriptions, list);
    list.topology = e->topology;
    PJRT_TRY(e->plugin, "list its devices", e->plugin->api->PJRT_TopologyDescription_GetDeviceDescriptions(&list));
    int chips = 0;
    for (size_t i = 0; i < list.num_descriptions; i++) {
        const PJRT_NamedValue *core = attribute(e, list.descriptions[i], "core_on_chip");
        chips += !core || core->type != PJRT_NamedValue_kInt64 || core->int64_value == 0;
    }
    const char *kind, *unit = chips == e->slice ? "chip" : "core";
    TRY(kind_of(e, t->arena, list.descriptions[0], &kind));
    mth__text_add(t, "topology %s: %d chips of %s", e->topology_name, chips, kind);
    if (chips != e->slice) mth__text_add(t, " with %d cores", e->slice);
    mth__text_add(t, ", the mesh takes ");
    if (e->devices == e->slice)
        mth__text_add(t, "all of them, in order\n");
    else
        mth__text_add(t, "the first %d of %d %ss, in order\n", e->devices, e->slice, unit);
    const PJRT_NamedValue *bytes = attribute(e, list.descriptions[0], "device_memory_bytes_limit");
    if (bytes && bytes->type == PJRT_NamedValue_kInt64)
        mth__text_add(t, "memory: %.1f GB (%" PRId64 " bytes) a %s\n", (double)bytes->int64_value / 1e9,
            bytes->int64_value, unit);
    mth__text_add(t, "no device is open: programs are planned and compiled, and can't run\n");
    return NULL;
}

mth_status mth__pjrt_describe(mth__engine *e, mth__text *t) {
    const char *file = strrchr(e->plugin->path, '/');
    TRY(mth__plugin_check_process(e->plugin));
    mth__text_add(t, "XLA by the PJRT plugin %s, API %d.%d: %s\n", file ? file + 1 : e->plugin->path, e->plugin->major,
        e->plugin->minor, e->plugin->path);
    mth__text_add(t, "platform %s, version ", e->platform_name);
    for (const char *c = e->platform_version; *c; c++) mth__text_add(t, "%c", *c == '\n' ? ' ' : *c);
    mth__text_add(t, "\n");
    return e->topology ? describe_topology(e, t) : describe_devices(e, t);
}
