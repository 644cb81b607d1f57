/* Module types: the table, the options that all have, ports, documentation. */
#include "base/fork.h"
#include "compose/model.h"
#include "compose/parts.h"
#include <stdio.h>
#include <string.h>

static const mth__opt common_options[] = {
    {"name", MTH__OPT_STRING, "None", "the name in its model, in place of the type and a counter (linear_0)", NULL},
    {"device_id", MTH__OPT_INT, "None",
        "runs on this device, and keeps its parameters there; a mesh is counted row by row", NULL},
    {"device_mesh", MTH__OPT_MESH, "None",
        "the mesh that specs refer to: that of the backend, or of the stage; runs on all of it", NULL},
    {0}};

#define X(name) &mth__type_##name,
const mth__module_type *const mth__module_types[] = {MTH__TYPES(X) NULL};
#undef X
enum { TYPES = sizeof mth__module_types / sizeof *mth__module_types - 1 };

static const mth__opt no_options[] = {{0}};
static const mth__opt *own_options(const mth__module_type *type) { return type->options ? type->options : no_options; }

const mth__module_type *mth__module_type_find(const char *name) {
    for (size_t i = 0; i < TYPES; i++)
        if (!strcmp(mth__module_types[i]->name, name)) return mth__module_types[i];
    return NULL;
}

/* The text without the marks of side results, which matter to chains alone. */
static const char *ports_text(mth__arena *arena, const char *inputs, const char *outputs) {
    char *text = mth__format(arena, "%s -> %s", inputs, outputs), *to = strstr(text, "-> ");
    for (const char *from = to; *from; from++)
        if (*from != '?') *to++ = *from;
    *to = 0;
    return text;
}

/* ---------------------------------------------------------------- making */
static mth_status unknown_parameter(mth__arena *arena, const mth__module_type *type, const char *suffix) {
    mth__ports known = mth__parameter_names(arena, type);
    const char **names = NEW_ARRAY(arena, const char *, known.n);
    for (int i = 0; i < known.n; i++) names[i] = known.at[i].name;
    const char *near = mth__nearest(suffix, names, (size_t)known.n);
    if (near)
        return FAIL(MTH_ERROR_KEY, F("shard_specs names '%s', which is no parameter of %s", suffix, type->name),
            F("did you mean '%s'?", near));
    return FAIL(MTH_ERROR_KEY, F("shard_specs names '%s', which is no parameter of %s", suffix, type->name),
        F("its parameters are: %s", *type->parameters ? type->parameters : "none"));
}

static mth_status check_common(const mth_module *module) {
    const mth_arg *name = mth__module_option(module, "name"), *specs = mth__module_option(module, "shard_specs"),
                  *id = mth__module_option(module, "device_id");
    if (name->kind == MTH_ARG_STRING) TRY(mth__name_check(name->string, "the name"));
    mth__ports known = mth__parameter_names(module->arena, module->type);
    for (size_t i = 0; specs && i < specs->count; i++)
        if (mth__ports_find(&known, specs->keys[i]) < 0)
            return unknown_parameter(module->arena, module->type, specs->keys[i]);
    const mth_arg *shared = mth__module_option(module, "weight"), *axis = mth__module_option(module, "tensor_axis");
    const mth_arg *weight = mth__module_option(module, "weight_shard_spec");
    const bool split = (weight && weight->kind != MTH_ARG_NONE) || (axis && axis->kind != MTH_ARG_NONE);
    if (shared && shared->kind == MTH_ARG_STRING && split)
        return FAIL(MTH_ERROR_VALUE,
            F("%s says how the weight is split, and that is '%s', of another module",
                weight && weight->kind != MTH_ARG_NONE ? "weight_shard_spec" : "tensor_axis", shared->string),
            F("leave it out: a shared weight is split as the module says whose it is"));
    const int rank = weight ? mth__parameter_rank(module->type, "weight") : 0;
    if (rank) TRY(mth__spec_rank(*weight, rank, "weight"));
    for (size_t i = 0; specs && i < specs->count; i++)
        TRY(mth__spec_rank(specs->items[i], mth__parameter_rank(module->type, specs->keys[i]), specs->keys[i]));
    for (size_t i = 0; weight && weight->kind != MTH_ARG_NONE && i < specs->count; i++)
        if (!strcmp(specs->keys[i], "weight"))
            return FAIL(MTH_ERROR_VALUE, F("weight_shard_spec and shard_specs both say how the weight is split"),
                F("give one of the two"));
    const char *sharded = mth__module_sharded(module);
    if (id->kind == MTH_ARG_INT && sharded)
        return FAIL(MTH_ERROR_VALUE,
            F("device_id=%lld puts all of it on one device, and %s splits it over several", (long long)id->integer,
                sharded),
            F("leave out device_id or %s", sharded));
    return NULL;
}

typedef struct {
    const char *type;
    const mth_option *option;
    size_t count;
    mth_module **out;
} creation;

static mth_status create(void *context) {
    const creation *created = context;
    mth__arena *arena = mth__arena_new();
    const mth__module_type *type = mth__module_type_find(created->type);
    if (!type) {
        const char *names[TYPES];
        for (size_t i = 0; i < TYPES; i++) names[i] = mth__module_types[i]->name;
        const char *near = mth__nearest(created->type, names, TYPES);
        return FAIL(MTH_ERROR_VALUE, F("there is no module '%s'", created->type),
            near ? F("did you mean '%s'?", near) : F("mth_module_type_name lists them: Linear, Relu, ..."));
    }
    mth_module *module = NEW(arena, mth_module);
    *module = (mth_module){.arena = arena,
        .type = type,
        .tables = {own_options(type), common_options, NULL},
        .object = mth__next_object()};
    TRY(mth__options_read(arena, type->name, module->tables, created->option, created->count, &module->values));
    mth__module_own_models(module);
    TRY(mth__error_operator(check_common(module), type->name));
    if (type->check) TRY(mth__error_operator(type->check(module), type->name));
    module->inputs = type->inputs;
    module->outputs = type->outputs;
    if (type->ports) type->ports(module, arena, &module->inputs, &module->outputs);
    module->ports = ports_text(arena, module->inputs, module->outputs);
    mth__arena_keep(arena);
    *created->out = module;
    return NULL;
}

mth_status mth_module_create(const char *type, const mth_option *option, size_t count, mth_module **out) {
    TRY(mth__given(type, "the type of the module"));
    TRY(mth__result_given(out));
    creation created = {type, option, count, out};
    return mth__guard(create, &created);
}

typedef struct {
    const mth_module *from;
    mth_module **out;
} module_copying;

static mth_status copy(void *context) {
    const module_copying *copied = context;
    mth__arena *arena = mth__arena_new();
    mth_module *module = (mth_module *)mth__module_copy_into(arena, copied->from);
    module->object = mth__next_object();
    mth__arena_keep(arena);
    *copied->out = module;
    return NULL;
}

mth_status mth_module_copy(const mth_module *from, mth_module **out) {
    TRY(mth__given(from, "the module"));
    TRY(mth__result_given(out));
    return mth__guard(copy, &(module_copying){from, out});
}

void mth_module_free(mth_module *module) {
    if (module) mth__arena_free(module->arena);
}

const char *mth_module_get_warning(const mth_module *module) {
    return module && module->type->warning ? module->type->warning(module) : NULL;
}
const char *mth_module_get_ports(const mth_module *module) { return module ? module->ports : NULL; }

/* ---------------------------------------------------------------- documentation */
/* Made at the first call, lent for ever. */
typedef struct {
    char *_Atomic signature, *_Atomic ports, *_Atomic doc;
} type_texts;
static type_texts texts[TYPES];

static void write_signature(mth__text *text, const void *type) {
    const mth__opt *const tables[] = {own_options(type), common_options, NULL};
    mth__text_add(text, "%s", mth__options_signature(text->arena, tables));
}

static void write_ports(mth__text *text, const void *type) {
    const mth__module_type *described = type;
    mth__text_add(text, "%s", ports_text(text->arena, described->inputs, described->outputs));
}

static void write_doc(mth__text *text, const void *type) {
    const mth__module_type *described = type;
    mth__text_add(text, "%s\n\nPorts: ", described->doc);
    write_ports(text, type);
    mth__text_add(text, "\n");
    if (*described->parameters) mth__text_add(text, "Parameters: %s\n", described->parameters);
    mth__text_add(text, "Options:\n");
    mth__options_doc(text, (const mth__opt *const[]){own_options(type), common_options, NULL}, "    ");
}

static size_t type_index(const char *type) { /* TYPES: there is none */
    size_t i = 0;
    while (i < TYPES && (!type || strcmp(mth__module_types[i]->name, type))) i++;
    return i;
}

size_t mth_module_type_count(void) { return TYPES; }
const char *mth_module_type_name(size_t i) { return i < TYPES ? mth__module_types[i]->name : NULL; }

const char *mth_module_type_signature(const char *type) {
    size_t i = type_index(type);
    return i == TYPES ? NULL : mth__text_once(&texts[i].signature, write_signature, mth__module_types[i]);
}

const char *mth_module_type_ports(const char *type) {
    size_t i = type_index(type);
    return i == TYPES ? NULL : mth__text_once(&texts[i].ports, write_ports, mth__module_types[i]);
}

const char *mth_module_type_doc(const char *type) {
    size_t i = type_index(type);
    return i == TYPES ? NULL : mth__text_once(&texts[i].doc, write_doc, mth__module_types[i]);
}
