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
static const mth__opt *own_options(const mth__module_type *t) { return t->options ? t->options : no_options; }

const mth__module_type *mth__module_type_find(const char *name) {
    for (size_t i = 0; i < TYPES; i++)
        if (!strcmp(mth__module_types[i]->name, name)) return mth__module_types[i];
    return NULL;
}

const mth_arg *mth__module_option(const mth_module *m, const char *name) {
    return mth__options_get(m->tables, m->values, name);
}

/* ---------------------------------------------------------------- ports */
void mth__ports_add(mth__arena *arena, mth__ports *ports, mth__port p) {
    if ((size_t)ports->n == ports->room)
        ports->at = mth__grow(arena, ports->at, (size_t)ports->n, &ports->room, sizeof *ports->at);
    ports->at[ports->n] = p;
    if ((size_t)mth__names_add(arena, &ports->names, p.name) == ports->first.n) PUSH(arena, ports->first, ports->n);
    ports->n++;
}

mth__ports mth__ports_parse(mth__arena *arena, const char *text) {
    mth__ports ports = {0};
    while (*text) {
        size_t n = strcspn(text, ",");
        char *name = mth__format(arena, "%.*s", (int)n, text);
        mth__port p = {name, false, false};
        for (size_t end = n; end && strchr("?*", name[end - 1]); name[--end] = 0) {
            p.optional |= name[end - 1] == '?';
            p.repeats |= name[end - 1] == '*';
        }
        mth__ports_add(arena, &ports, p);
        text += n;
        text += strspn(text, ", ");
    }
    return ports;
}

int mth__ports_find(const mth__ports *ports, const char *name) {
    int number = mth__names_find(&ports->names, name);
    return number < 0 ? -1 : ports->first.at[number];
}

int mth__ports_main(const mth__ports *outputs) {
    int best = mth__ports_find(outputs, "output");
    for (int i = outputs->n - 1; i >= 0 && best < 0; i--)
        if (!outputs->at[i].optional) best = i;
    return best < 0 ? outputs->n - 1 : best;
}

/* The text without the marks of side results, which matter to chains alone. */
static const char *ports_text(mth__arena *arena, const char *inputs, const char *outputs) {
    char *text = mth__format(arena, "%s -> %s", inputs, outputs), *to = strstr(text, "-> ");
    for (const char *from = to; *from; from++)
        if (*from != '?') *to++ = *from;
    *to = 0;
    return text;
}

const char *mth__snake_case(mth__arena *arena, const char *type) {
    if (!strcmp(type, "MoE")) return "moe";
    if (!strcmp(type, "RMSNorm")) return "rms_norm";
    mth__text t = mth__text_new(arena);
    for (const char *c = type; *c; c++) {
        bool upper = *c >= 'A' && *c <= 'Z';
        if (upper && c > type) mth__text_add(&t, "_");
        mth__text_add(&t, "%c", upper ? *c - 'A' + 'a' : *c);
    }
    return t.at;
}

/* ---------------------------------------------------------------- making */
/* The models among the options become the module's own. */
static mth_arg own_models(mth__arena *arena, mth_arg a, int *levels) {
    if (a.kind == MTH_ARG_MODEL && a.model) {
        a.model = mth__model_copy_into(arena, a.model);
        if (*levels < a.model->levels) *levels = a.model->levels;
    }
    if (a.kind != MTH_ARG_LIST && a.kind != MTH_ARG_DICT) return a;
    mth_arg *items = NEW_ARRAY(arena, mth_arg, a.count);
    for (size_t i = 0; i < a.count; i++) items[i] = own_models(arena, a.items[i], levels);
    a.items = items;
    return a;
}

static size_t option_count(const mth_module *m) {
    size_t n = 0;
    for (int k = 0; m->tables[k]; k++)
        for (const mth__opt *o = m->tables[k]; o->name; o++) n++;
    return n;
}

const mth_module *mth__module_copy_into(mth__arena *arena, const mth_module *from) {
    mth_module *m = NEW(arena, mth_module);
    size_t n = option_count(from);
    *m = *from;
    m->arena = arena;
    m->values = NEW_ARRAY(arena, mth_arg, n);
    for (size_t i = 0; i < n; i++) m->values[i] = own_models(arena, mth__arg_copy(arena, from->values[i]), &m->levels);
    m->inputs = mth__copy_text(arena, from->inputs);
    m->outputs = mth__copy_text(arena, from->outputs);
    m->ports = mth__copy_text(arena, from->ports);
    return m;
}

mth_status mth__name_check(const char *name, const char *what) {
    if (name && *name && !strpbrk(name, "./ \t\n")) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("%s '%s' is empty or holds a dot, a slash or a space", what, name ? name : ""),
        F("use letters, digits and underscores, such as 'encoder_0'"));
}

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

static mth_status unknown_parameter(mth__arena *arena, const mth__module_type *t, const char *suffix) {
    mth__ports known = mth__parameter_names(arena, t);
    const char **names = NEW_ARRAY(arena, const char *, known.n);
    for (int i = 0; i < known.n; i++) names[i] = known.at[i].name;
    const char *near = mth__nearest(suffix, names, (size_t)known.n);
    if (near)
        return FAIL(MTH_ERROR_KEY, F("shard_specs names '%s', which is no parameter of %s", suffix, t->name),
            F("did you mean '%s'?", near));
    return FAIL(MTH_ERROR_KEY, F("shard_specs names '%s', which is no parameter of %s", suffix, t->name),
        F("its parameters are: %s", *t->parameters ? t->parameters : "none"));
}

static mth_status check_common(const mth_module *m) {
    const mth_arg *name = mth__module_option(m, "name"), *specs = mth__module_option(m, "shard_specs"),
                  *id = mth__module_option(m, "device_id");
    if (name->kind == MTH_ARG_STRING) TRY(mth__name_check(name->string, "the name"));
    mth__ports known = mth__parameter_names(m->arena, m->type);
    for (size_t i = 0; specs && i < specs->count; i++)
        if (mth__ports_find(&known, specs->keys[i]) < 0) return unknown_parameter(m->arena, m->type, specs->keys[i]);
    const mth_arg *shared = mth__module_option(m, "weight"), *axis = mth__module_option(m, "tensor_axis");
    const mth_arg *weight = mth__module_option(m, "weight_shard_spec");
    const bool split = (weight && weight->kind != MTH_ARG_NONE) || (axis && axis->kind != MTH_ARG_NONE);
    if (shared && shared->kind == MTH_ARG_STRING && split)
        return FAIL(MTH_ERROR_VALUE,
            F("%s says how the weight is split, and that is '%s', of another module",
                weight && weight->kind != MTH_ARG_NONE ? "weight_shard_spec" : "tensor_axis", shared->string),
            F("leave it out: a shared weight is split as the module says whose it is"));
    const int rank = weight ? mth__parameter_rank(m->type, "weight") : 0;
    if (rank) TRY(mth__spec_rank(*weight, rank, "weight"));
    for (size_t i = 0; specs && i < specs->count; i++)
        TRY(mth__spec_rank(specs->items[i], mth__parameter_rank(m->type, specs->keys[i]), specs->keys[i]));
    for (size_t i = 0; weight && weight->kind != MTH_ARG_NONE && i < specs->count; i++)
        if (!strcmp(specs->keys[i], "weight"))
            return FAIL(MTH_ERROR_VALUE, F("weight_shard_spec and shard_specs both say how the weight is split"),
                F("give one of the two"));
    const char *sharded = mth__module_sharded(m);
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

/* No two modules of a process have one number. */
uint64_t mth__next_object(void) {
    static _Atomic uint64_t last;
    return ++last;
}

static mth_status create(void *context) {
    const creation *c = context;
    mth__arena *arena = mth__arena_new();
    const mth__module_type *type = mth__module_type_find(c->type);
    if (!type) {
        const char *names[TYPES];
        for (size_t i = 0; i < TYPES; i++) names[i] = mth__module_types[i]->name;
        const char *near = mth__nearest(c->type, names, TYPES);
        return FAIL(MTH_ERROR_VALUE, F("there is no module '%s'", c->type),
            near ? F("did you mean '%s'?", near) : F("mth_module_type_name lists them: Linear, Relu, ..."));
    }
    mth_module *m = NEW(arena, mth_module);
    *m = (mth_module){.arena = arena,
        .type = type,
        .tables = {own_options(type), common_options, NULL},
        .object = mth__next_object()};
    TRY(mth__options_read(arena, type->name, m->tables, c->option, c->count, &m->values));
    for (size_t i = 0, n = option_count(m); i < n; i++) m->values[i] = own_models(arena, m->values[i], &m->levels);
    TRY(mth__error_operator(check_common(m), type->name));
    if (type->check) TRY(mth__error_operator(type->check(m), type->name));
    m->inputs = type->inputs;
    m->outputs = type->outputs;
    if (type->ports) type->ports(m, arena, &m->inputs, &m->outputs);
    m->ports = ports_text(arena, m->inputs, m->outputs);
    mth__arena_keep(arena);
    *c->out = m;
    return NULL;
}

mth_status mth_module_create(const char *type, const mth_option *option, size_t count, mth_module **out) {
    TRY(mth__given(type, "the type of the module"));
    TRY(mth__result_given(out));
    creation c = {type, option, count, out};
    return mth__guard(create, &c);
}

typedef struct {
    const mth_module *from;
    mth_module **out;
} module_copying;

static mth_status copy(void *context) {
    const module_copying *c = context;
    mth__arena *arena = mth__arena_new();
    mth_module *m = (mth_module *)mth__module_copy_into(arena, c->from);
    m->object = mth__next_object();
    mth__arena_keep(arena);
    *c->out = m;
    return NULL;
}

mth_status mth_module_copy(const mth_module *from, mth_module **out) {
    TRY(mth__given(from, "the module"));
    TRY(mth__result_given(out));
    return mth__guard(copy, &(module_copying){from, out});
}

void mth_module_free(mth_module *m) {
    if (m) mth__arena_free(m->arena);
}

const char *mth_module_get_warning(const mth_module *m) { return m && m->type->warning ? m->type->warning(m) : NULL; }
const char *mth_module_get_ports(const mth_module *m) { return m ? m->ports : NULL; }

/* ---------------------------------------------------------------- documentation */
/* Made at the first call, lent for ever. */
typedef struct {
    char *_Atomic signature, *_Atomic ports, *_Atomic doc;
} type_texts;
static type_texts texts[TYPES];

static void write_signature(mth__text *t, const void *type) {
    const mth__opt *const tables[] = {own_options(type), common_options, NULL};
    mth__text_add(t, "%s", mth__options_signature(t->arena, tables));
}

static void write_ports(mth__text *t, const void *type) {
    const mth__module_type *m = type;
    mth__text_add(t, "%s", ports_text(t->arena, m->inputs, m->outputs));
}

static void write_doc(mth__text *t, const void *type) {
    const mth__module_type *m = type;
    mth__text_add(t, "%s\n\nPorts: ", m->doc);
    write_ports(t, type);
    mth__text_add(t, "\n");
    if (*m->parameters) mth__text_add(t, "Parameters: %s\n", m->parameters);
    mth__text_add(t, "Options:\n");
    mth__options_doc(t, (const mth__opt *const[]){own_options(type), common_options, NULL}, "    ");
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
