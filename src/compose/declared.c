/* What a type declares of its parameters, and what the options of a module say. */
#include "compose/model.h"
#include "compose/parts.h"
#include <string.h>

/* ---------------------------------------------------------------- options */
const mth_arg *mth__module_option(const mth_module *m, const char *name) {
    return mth__options_get(m->tables, m->values, name);
}

const char *mth__module_sharded(const mth_module *m) {
    static const char *const options[] = {"weight_shard_spec", "tensor_axis", "expert_distribution", "shard_specs"};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        const mth_arg *a = mth__module_option(m, options[i]);
        if (a && a->kind != MTH_ARG_NONE && (a->kind != MTH_ARG_DICT || a->count)) return options[i];
    }
    return NULL;
}

size_t mth__pipeline_stages(const mth_module *m) {
    return m->type == &mth__type_Pipeline ? mth__module_option(m, "stages")->count : 0;
}
const mth_model *mth__pipeline_stage(const mth_module *m, size_t i) {
    return mth__module_option(m, "stages")->items[i].model;
}
int mth__pipeline_stage_named(mth__arena *scratch, const mth_module *m, const char **name) {
    for (size_t s = 0; s < mth__pipeline_stages(m); s++) {
        const char *prefix = mth__format(scratch, "stage_%zu.", s);
        if (strncmp(*name, prefix, strlen(prefix))) continue;
        *name += strlen(prefix);
        return (int)s;
    }
    return -1;
}

/* ---------------------------------------------------------------- parameters */
/* The names of a type's parameters: the words that begin the entries of its `parameters`. */
mth__ports mth__parameter_names(mth__arena *arena, const mth__module_type *t) {
    mth__ports names = {0};
    int depth = 0;
    for (const char *c = t->parameters; *c; c++) {
        depth += (*c == '(') - (*c == ')');
        if (depth == 0 && (c == t->parameters || (c[-1] == ' ' && c >= t->parameters + 2 && c[-2] == ',')))
            mth__ports_add(
                arena, &names, (mth__port){mth__format(arena, "%.*s", (int)strcspn(c, " ,"), c), false, false});
    }
    return names;
}

static bool has_word(const char *name, const char *word, size_t n) { /* among the words between its dots */
    for (; name; name = strchr(name, '.') ? strchr(name, '.') + 1 : NULL)
        if (!strncmp(name, word, n) && (!name[n] || name[n] == '.')) return true;
    return false;
}

/* "gated", "kind=learned": does the option say so? */
static bool says(const mth_module *m, const char *condition, size_t n) {
    char word[64];
    const size_t name = strcspn(condition, "=,");
    if (name >= sizeof word) return false;
    memcpy(word, condition, name), word[name] = 0;
    const mth_arg *value = mth__module_option(m, word);
    if (condition[name] != '=') return value->integer;
    if (value->kind != MTH_ARG_STRING) return value->kind == MTH_ARG_NONE && !strncmp(condition + name, "=None", 5);
    return !strncmp(value->string, condition + name + 1, n - name - 1) && !value->string[n - name - 1];
}

mth__ports mth__module_parameters(mth__arena *arena, const mth_module *m) {
    const mth__ports all = mth__parameter_names(arena, m->type);
    mth__ports here = {0};
    for (int i = 0; i < all.n; i++) {
        bool is_here = true;
        for (const char *at = m->type->parameter_options; at && *at; at += strspn(at, ", ")) {
            const size_t word = strcspn(at, " "), condition = strcspn(at + word + 1, ",");
            if (has_word(all.at[i].name, at, word)) is_here &= says(m, at + word + 1, condition);
            at += word + 1 + condition;
        }
        if (is_here) mth__ports_add(arena, &here, all.at[i]);
    }
    return here;
}

/* "in, dimension)" of the entry "weight (in, dimension)" that a type declares; NULL: it declares none of the name. */
static const char *declared(const mth__module_type *t, const char *name) {
    const size_t n = strlen(name);
    int depth = 0;
    for (const char *c = t->parameters; *c; c++) {
        depth += (*c == '(') - (*c == ')');
        const bool begins = depth == 0 && (c == t->parameters || (c[-1] == ' ' && c[-2] == ','));
        if (begins && !strncmp(c, name, n) && !strncmp(c + n, " (", 2)) return c + n + 2;
    }
    return NULL;
}

static const char *next_dimension(const char *c) { /* "(d,)": what follows the last comma is no dimension */
    c += strcspn(c, ",)");
    return c + strspn(c, ", ");
}

int mth__parameter_rank(const mth__module_type *t, const char *parameter) {
    int rank = 0;
    for (const char *c = declared(t, parameter); c && *c != ')'; c = next_dimension(c)) rank++;
    return rank;
}

/* A whole number of 1 or more that the option holds whose name these n bytes are; where it is None, what `units` says
 * is meant; or 0. */
static int64_t size_option(const mth_module *m, const char *name, size_t n) {
    char word[64];
    if (n >= sizeof word) return 0;
    memcpy(word, name, n), word[n] = 0;
    const mth_arg *value = mth__module_option(m, word);
    if (value && value->kind == MTH_ARG_INT && value->integer >= 1) return value->integer;
    const bool counts = value && value->kind == MTH_ARG_NONE && m->type->units && !strncmp(m->type->units, word, n) &&
        m->type->units[n] == ' ';
    return counts ? size_option(m, m->type->units + n + 1, strlen(m->type->units + n + 1)) : 0;
}

bool mth__parameter_extent(const mth_module *m, const char *parameter, int dimension, int64_t *size, int32_t *grain) {
    const char *c = declared(m->type, parameter);
    for (int d = 0; c && *c != ')' && d < dimension; d++) c = next_dimension(c);
    if (!c || *c == ')') return false;
    const size_t first = strcspn(c, " ,)");
    const bool product = !strncmp(c + first, " * ", 3);
    const int64_t n = size_option(m, c, first);
    *grain = 1;
    if (!product || !m->type->units) return *size = n, n > 0 && !product;
    const char *width = c + first + 3;
    const int64_t wide = size_option(m, width, strcspn(width, " ,)")),
                  units = size_option(m, m->type->units, strcspn(m->type->units, " "));
    if (!n || !units || __builtin_mul_overflow(n, wide ? wide : 2, size) || *size / units > INT32_MAX) return false;
    *grain = (int32_t)(*size / units);
    return true;
}
