/* What a type declares of its parameters, and what the options of a module say. */
#include "compose/model.h"
#include "compose/parts.h"
#include <string.h>

/* ---------------------------------------------------------------- options */
const mth_arg *mth__module_option(const mth_module *module, const char *name) {
    return mth__options_get(module->tables, module->values, name);
}

const char *mth__module_sharded(const mth_module *module) {
    static const char *const options[] = {"weight_shard_spec", "tensor_axis", "expert_distribution", "shard_specs"};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        const mth_arg *a = mth__module_option(module, options[i]);
        if (a && a->kind != MTH_ARG_NONE && (a->kind != MTH_ARG_DICT || a->count)) return options[i];
    }
    return NULL;
}

size_t mth__pipeline_stages(const mth_module *module) {
    return module->type == &mth__type_Pipeline ? mth__module_option(module, "stages")->count : 0;
}
const mth_model *mth__pipeline_stage(const mth_module *module, size_t i) {
    return mth__module_option(module, "stages")->items[i].model;
}
int mth__pipeline_stage_named(mth__arena *scratch, const mth_module *module, const char **name) {
    for (size_t stage = 0; stage < mth__pipeline_stages(module); stage++) {
        const char *prefix = mth__format(scratch, "stage_%zu.", stage);
        if (strncmp(*name, prefix, strlen(prefix))) continue;
        *name += strlen(prefix);
        return (int)stage;
    }
    return -1;
}

/* ---------------------------------------------------------------- parameters */
/* The entry behind this one of a type's `parameters`; NULL: it is the last. */
static const char *next_entry(const char *entry) {
    int depth = 0;
    for (const char *at = entry; *at; at++) {
        depth += (*at == '(') - (*at == ')');
        if (depth == 0 && at[0] == ',' && at[1] == ' ') return at + 2;
    }
    return NULL;
}

/* The word that begins an entry is its parameter's name. */
mth__ports mth__parameter_names(mth__arena *arena, const mth__module_type *type) {
    mth__ports names = {0};
    for (const char *entry = *type->parameters ? type->parameters : NULL; entry; entry = next_entry(entry)) {
        const char *name = mth__format(arena, "%.*s", (int)strcspn(entry, " ,"), entry);
        mth__ports_add(arena, &names, (mth__port){name, false, false});
    }
    return names;
}

/* Is the word of n bytes among those between the dots of the name, which has `length`? */
static bool has_word(const char *name, size_t length, const char *word, size_t n) {
    for (const char *end = name + length; name < end;) {
        const char *dot = memchr(name, '.', (size_t)(end - name));
        const size_t part = (size_t)((dot ? dot : end) - name);
        if (part == n && !memcmp(name, word, n)) return true;
        name += part + 1;
    }
    return false;
}

/* "gated", "kind=learned": does the option say so? */
static bool says(const mth_module *module, const char *condition, size_t n) {
    char word[64];
    const size_t name = strcspn(condition, "=,");
    if (name >= sizeof word) return false;
    memcpy(word, condition, name), word[name] = 0;
    const mth_arg *value = mth__module_option(module, word);
    if (condition[name] != '=') return value->integer;
    if (value->kind != MTH_ARG_STRING) return value->kind == MTH_ARG_NONE && !strncmp(condition + name, "=None", 5);
    return !strncmp(value->string, condition + name + 1, n - name - 1) && !value->string[n - name - 1];
}

/* Has the module the parameter of the n bytes, as its options say? */
static bool has_parameter(const mth_module *module, const char *name, size_t n) {
    bool has = true;
    for (const char *at = module->type->parameter_options; at && *at; at += strspn(at, ", ")) {
        const size_t word = strcspn(at, " "), condition = strcspn(at + word + 1, ",");
        if (has_word(name, n, at, word)) has &= says(module, at + word + 1, condition);
        at += word + 1 + condition;
    }
    return has;
}

const char *mth__module_parameter(const mth_module *module, const char *before, size_t *n) {
    const char *first = *module->type->parameters ? module->type->parameters : NULL;
    for (const char *entry = before ? next_entry(before) : first; entry; entry = next_entry(entry)) {
        *n = strcspn(entry, " ,");
        if (has_parameter(module, entry, *n)) return entry;
    }
    return NULL;
}

/* "in, dimension)" of the entry "weight (in, dimension)" that a type declares; NULL: it declares none of the name. */
static const char *declared(const mth__module_type *type, const char *name) {
    const size_t n = strlen(name);
    for (const char *entry = *type->parameters ? type->parameters : NULL; entry; entry = next_entry(entry))
        if (!strncmp(entry, name, n) && !strncmp(entry + n, " (", 2)) return entry + n + 2;
    return NULL;
}

static const char *next_dimension(const char *at) { /* "(d,)": what follows the last comma is no dimension */
    at += strcspn(at, ",)");
    return at + strspn(at, ", ");
}

int mth__parameter_rank(const mth__module_type *type, const char *parameter) {
    int rank = 0;
    for (const char *at = declared(type, parameter); at && *at != ')'; at = next_dimension(at)) rank++;
    return rank;
}

/* A whole number of 1 or more that the option holds whose name these n bytes are; where it is None, what `units` says
 * is meant; or 0. */
static int64_t size_option(const mth_module *module, const char *name, size_t n) {
    char word[64];
    if (n >= sizeof word) return 0;
    memcpy(word, name, n), word[n] = 0;
    const mth_arg *value = mth__module_option(module, word);
    if (value && value->kind == MTH_ARG_INT && value->integer >= 1) return value->integer;
    const bool counts = value && value->kind == MTH_ARG_NONE && module->type->units &&
        !strncmp(module->type->units, word, n) && module->type->units[n] == ' ';
    return counts ? size_option(module, module->type->units + n + 1, strlen(module->type->units + n + 1)) : 0;
}

bool mth__parameter_extent(
    const mth_module *module, const char *parameter, int dimension, int64_t *size, int32_t *grain) {
    const char *at = declared(module->type, parameter);
    for (int d = 0; at && *at != ')' && d < dimension; d++) at = next_dimension(at);
    if (!at || *at == ')') return false;
    const size_t first = strcspn(at, " ,)");
    const bool product = !strncmp(at + first, " * ", 3);
    const int64_t n = size_option(module, at, first);
    *grain = 1;
    if (!product || !module->type->units) return *size = n, n > 0 && !product;
    const char *width = at + first + 3;
    const int64_t wide = size_option(module, width, strcspn(width, " ,)")),
                  units = size_option(module, module->type->units, strcspn(module->type->units, " "));
    if (!n || !units || __builtin_mul_overflow(n, wide ? wide : 2, size) || *size / units > INT32_MAX) return false;
    *grain = (int32_t)(*size / units);
    return true;
}
