/* Models under composition: blocks and the wires that the user gave. What follows from them is resolve.c's. */
#include "compose/model.h"
#include "compose/parts.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const mth_model *from;
    mth_model **out;
    bool anew; /* with weights of its own */
} copying;

/* Modules become objects of their own; what was one object is one again. */
static void renew(mth__arena *arena, mth_model *m) {
    mth__names met = {0};
    VEC(uint64_t) object = {0};
    VEC(mth_model *) open = {0};
    PUSH(arena, open, m);
    while (open.n) {
        mth_model *at = open.at[--open.n];
        for (size_t i = 0; i < at->block.n; i++) {
            mth__block *b = at->block.at[i];
            if (b->model) PUSH(arena, open, b->model);
            if (!b->module) continue;
            const int id = mth__names_add(arena, &met, mth__format(arena, "%" PRIu64, b->module->object));
            if ((size_t)id == object.n) PUSH(arena, object, mth__next_object());
            ((mth_module *)b->module)->object = object.at[id]; /* the copy is this model's own */
            for (size_t s = 0; s < mth__pipeline_stages(b->module); s++)
                PUSH(arena, open, (mth_model *)mth__pipeline_stage(b->module, s));
        }
    }
}

static mth_status copy(void *context) {
    const copying *c = context;
    mth__arena *arena = mth__arena_new();
    mth_model *m = c->from ? mth__model_copy_into(arena, c->from) : mth__model_new(arena);
    if (c->anew) renew(arena, m);
    mth__arena_keep(arena);
    *c->out = m;
    return NULL;
}

mth_status mth_model_create(mth_model **out) {
    TRY(mth__result_given(out));
    return mth__guard(copy, &(copying){NULL, out, false});
}
mth_status mth__model_snapshot(const mth_model *from, mth_model **out) {
    return mth__guard(copy, &(copying){from, out, false});
}
mth_status mth_model_copy(const mth_model *from, mth_model **out) {
    TRY(mth__given(from, "the model"));
    TRY(mth__result_given(out));
    return mth__guard(copy, &(copying){from, out, true});
}

void mth_model_free(mth_model *m) {
    if (m) mth__arena_free(m->arena);
}

/* ---------------------------------------------------------------- blocks */
/* blocks: how many are named "<kind>_<number>"; from, to: numbers that were found taken, to be passed over next */
typedef struct {
    int blocks, from, to;
} kind_count;
typedef struct mth__taken {
    mth__names block, destination, kind;
    VEC(kind_count) count;
} taken;

/* Tables of the names of blocks, of their kinds, and of what connect has joined, brought up to date. An allocation that
   fails on the way leaves them right as far as they go. */
static taken *taken_names(mth_model *m) {
    if (!m->taken) m->taken = NEW(m->arena, taken);
    taken *t = m->taken;
    while (t->destination.name.n < m->join.n)
        mth__names_add(m->arena, &t->destination, m->join.at[t->destination.name.n].destination);
    while (t->block.name.n < m->block.n) {
        const char *name = m->block.at[t->block.name.n]->name;
        size_t n = strlen(name), digits = n;
        while (digits && name[digits - 1] >= '0' && name[digits - 1] <= '9') digits--;
        int kind = -1;
        if (digits < n && digits && name[digits - 1] == '_') {
            kind = mth__names_add(m->arena, &t->kind, mth__format(m->arena, "%.*s", (int)digits - 1, name));
            while (t->count.n < t->kind.name.n) PUSH(m->arena, t->count, ((kind_count){0}));
        }
        mth__names_add(m->arena, &t->block, name);
        if (kind >= 0) t->count.at[kind].blocks++;
    }
    return t;
}

static bool has_block(mth_model *m, const char *name) { return mth__names_find(&taken_names(m)->block, name) >= 0; }

/* "linear_0": the kind and the number of earlier blocks that were named so, past names that are taken. */
static const char *next_name(mth_model *m, const char *kind) {
    taken *t = taken_names(m);
    int k = mth__names_find(&t->kind, kind);
    kind_count none = {0}, *count = k < 0 ? &none : &t->count.at[k];
    if (count->blocks < count->from || count->blocks >= count->to) count->from = count->to = count->blocks;
    char *name;
    while (has_block(m, name = mth__format(m->arena, "%s_%d", kind, count->to))) count->to++;
    return name;
}

/* "dropped capacity_factor=1.25, ...": the ports that options make, one after the other. */
static const char *next_port_option(const char *at) {
    at += strcspn(at, ",");
    return at + strspn(at, ", ");
}

static mth_status unknown_port(const mth__block *b, const char *port, const char *ports) {
    enum { MADE = 8, NAME = 32 };
    const char *options = b->module && b->module->type->port_options ? b->module->type->port_options : "";
    char made[MADE][NAME];
    int n = 0, count = 0;
    const char **names = mth__calloc((size_t)(b->in.n + b->out.n) + MADE, sizeof *names);
    if (!names) return FAIL(MTH_ERROR_MEMORY, F("no memory for an error"), F("free memory"));
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < (k ? b->out : b->in).n; i++) names[n++] = (k ? b->out : b->in).at[i].name;
    for (const char *at = options; *at && count < MADE; at = next_port_option(at)) {
        snprintf(made[count], NAME, "%.*s", (int)strcspn(at, " "), at);
        names[n++] = made[count++];
    }
    const char *near = mth__nearest(port, names, (size_t)n);
    for (const char *at = options; near && *at; at = next_port_option(at)) {
        const size_t length = strlen(near);
        bool open = strncmp(at, near, length) == 0 && at[length] == ' ';
        for (int i = 0; i < b->out.n; i++) open &= strcmp(b->out.at[i].name, near) != 0;
        if (!open) continue;
        const int option = (int)strcspn(at + length + 1, ",");
        char *what = !strcmp(near, port) ? F("%s has the port '%s' only where an option asks for it", b->name, port)
                                         : F("%s has no port '%s'", b->name, port),
             *fix = !strcmp(near, port)
            ? F("give %s %.*s", b->module->type->name, option, at + length + 1)
            : F("did you mean '%s'? Give %s %.*s for it", near, b->module->type->name, option, at + length + 1);
        mth__free(names);
        return mth__error_operator(FAIL(MTH_ERROR_TYPE, what, fix), b->name);
    }
    char *fix = near ? F("did you mean '%s'? Its ports are: %s", near, ports) : F("its ports are: %s", ports);
    mth__free(names);
    return mth__error_operator(FAIL(MTH_ERROR_TYPE, F("%s has no port '%s'", b->name, port), fix), b->name);
}

static const char *interface_text(mth__arena *arena, const mth__block *b) {
    if (b->module) return b->module->ports;
    mth__text t = mth__text_new(arena);
    for (int i = 0; i < b->in.n; i++) mth__text_add(&t, i ? ", %s" : "%s", b->in.at[i].name);
    mth__text_add(&t, " -> ");
    for (int i = 0; i < b->out.n; i++) mth__text_add(&t, i ? ", %s" : "%s", b->out.at[i].name);
    return t.at;
}

/* Each wire names a port; a port that takes one wire has one. The same wire twice is one. */
static mth_status check_wires(mth__arena *arena, mth__block *b, const mth_wire *wire, size_t count) {
    mth_wire *kept = NEW_ARRAY(arena, mth_wire, count);
    size_t keeps = 0;
    /* by port: what it is wired to, where that is one name */
    const char **name = NEW_ARRAY(arena, const char *, b->in.n + b->out.n);
    for (size_t i = 0; i < count; i++) {
        int in = mth__ports_find(&b->in, wire[i].port), out = mth__ports_find(&b->out, wire[i].port);
        if (in < 0 && out < 0) return unknown_port(b, wire[i].port, interface_text(arena, b));
        if (!*wire[i].name || strpbrk(wire[i].name, " \t\n\"',?*()="))
            return mth__error_operator(
                FAIL(MTH_ERROR_VALUE, F("'%s', given to %s, is no name", wire[i].name, wire[i].port),
                    F("use letters, digits, underscores and dots")),
                b->name);
        const char **first = &name[in >= 0 ? in : b->in.n + out];
        if (*first && strcmp(*first, wire[i].name))
            return mth__error_operator(
                FAIL(MTH_ERROR_VALUE,
                    F("port '%s' of %s is wired to '%s' and to '%s'", wire[i].port, b->name, *first, wire[i].name),
                    F("give one name; mth_model_connect joins two")),
                b->name);
        if (!*first) kept[keeps++] = wire[i];
        if (in < 0 || !b->in.at[in].repeats) *first = wire[i].name;
    }
    mth__block_wire(arena, b, kept, keeps);
    return NULL;
}

/* `module`: what the block is of, or NULL. A module object that has a name may be added again: its block is then called
 * "name_0" and so on. */
static mth_status new_name(
    mth_model *m, const mth_module *module, const char *given, const char *kind, const char **out) {
    if (!given) return *out = next_name(m, kind), NULL;
    TRY(mth__name_check(given, "the name"));
    if (has_block(m, given)) {
        const mth_module *has = mth__model_block(m, given, strlen(given))->module;
        if (module && has && has->object == module->object) return *out = next_name(m, given), NULL;
        const char *free_name = next_name(m, given);
        return mth__error_operator(FAIL(MTH_ERROR_VALUE, F("the model has two blocks named '%s'", given),
                                       F("give another name, such as '%s', or none", free_name)),
            given);
    }
    return *out = mth__copy_text(m->arena, given), NULL;
}

static mth_status check_levels(const char *what, int levels) {
    if (levels < MTH__MODEL_LEVELS) return NULL;
    return FAIL(MTH_ERROR_VALUE,
        F("%s holds models in models, %d levels of them; with its own a model has at most %d", what, levels,
            MTH__MODEL_LEVELS),
        F("compose flatter: add its blocks to one model, or submodels one after the other to one parent"));
}

typedef struct {
    mth_model *model;
    const mth_module *module;
    const mth_model *sub;
    const char *name;
    const mth_wire *wire;
    size_t count;
    mth_add_mode mode;
} addition;

static mth_status add(void *context) {
    const addition *a = context;
    mth_model *m = a->model;
    mth__arena *arena = m->arena;
    mth__block *b = NEW(arena, mth__block);
    *b = (mth__block){.mode = a->mode, .line = mth__copy_line(arena, mth__source_line())};
    if (a->module) {
        const mth_arg *name = mth__module_option(a->module, "name");
        TRY(new_name(m, a->module, name->kind == MTH_ARG_STRING ? name->string : NULL,
            mth__snake_case(arena, a->module->type->name), &b->name));
        TRY(mth__error_operator(check_levels("a stage", a->module->levels), b->name));
        b->module = mth__module_copy_into(arena, a->module);
        b->in = mth__ports_parse(arena, b->module->inputs);
        b->out = mth__ports_parse(arena, b->module->outputs);
    } else {
        TRY(new_name(m, NULL, a->name, "model", &b->name));
        if (!a->sub->block.n)
            return mth__error_operator(FAIL(MTH_ERROR_VALUE, F("the submodel has no blocks"),
                                           F("add blocks to it first; it is copied as it is now")),
                b->name);
        TRY(mth__error_operator(check_levels("the submodel", a->sub->levels), b->name));
        mth_model *sub = mth__model_copy_into(arena, a->sub);
        const mth__resolved *r;
        TRY(mth__error_operator(mth__resolve(sub, &r), b->name));
        b->model = sub;
        b->in = mth__model_inputs(arena, r);
        b->out = mth__model_outputs(arena, r);
    }
    TRY(check_wires(arena, b, a->wire, a->count));
    PUSH(arena, m->block, b);
    int below = b->module ? b->module->levels : b->model->levels;
    if (m->levels <= below) m->levels = below + 1;
    *m->resolved = NULL;
    return NULL;
}

static mth_status wires_given(const mth_wire *wire, size_t count) {
    if (count) TRY(mth__given(wire, "the list of wires"));
    for (size_t i = 0; i < count; i++) {
        TRY(mth__given(wire[i].port, "the port of a wire"));
        TRY(mth__given(wire[i].name, "the name of a wire"));
    }
    return NULL;
}

mth_status mth_model_add(
    mth_model *m, const mth_module *module, const mth_wire *wire, size_t count, mth_add_mode mode) {
    TRY(mth__given(m, "the model"));
    TRY(mth__given(module, "the module"));
    TRY(wires_given(wire, count));
    return mth__guard(add, &(addition){m, module, NULL, NULL, wire, count, mode});
}

mth_status mth_model_add_model(
    mth_model *m, const mth_model *sub, const char *name, const mth_wire *wire, size_t count, mth_add_mode mode) {
    TRY(mth__given(m, "the model"));
    TRY(mth__given(sub, "the submodel"));
    TRY(wires_given(wire, count));
    return mth__guard(add, &(addition){m, NULL, sub, name, wire, count, mode});
}

/* ---------------------------------------------------------------- connect */
typedef struct {
    mth_model *model;
    const char *source, *destination;
} joining;

static mth_status join(void *context) {
    const joining *j = context;
    mth_model *m = j->model;
    if (!*j->source || !*j->destination)
        return FAIL(MTH_ERROR_TYPE, F("connect needs the names of a source and of a destination"),
            F("give both: connect(source='h', destination='input')"));
    if (!strcmp(j->source, j->destination)) return NULL; /* joined already */
    int earlier = mth__names_find(&taken_names(m)->destination, j->destination);
    if (earlier >= 0) {
        const mth__join *other = &m->join.at[earlier];
        if (!strcmp(other->source, j->source)) return NULL;
        return FAIL(MTH_ERROR_VALUE,
            F("connect(source='%s', destination='%s') contradicts connect(source='%s', destination='%s')", j->source,
                j->destination, other->source, j->destination),
            F("an input has one source: leave out one of the two"));
    }
    mth__join added = {mth__copy_text(m->arena, j->source), mth__copy_text(m->arena, j->destination),
        mth__copy_line(m->arena, mth__source_line())};
    PUSH(m->arena, m->join, added);
    *m->resolved = NULL;
    return NULL;
}

mth_status mth_model_connect(mth_model *m, const char *source, const char *destination) {
    TRY(mth__given(m, "the model"));
    TRY(mth__given(source, "the source's name"));
    TRY(mth__given(destination, "the destination's name"));
    return mth__guard(join, &(joining){m, source, destination});
}

/* ---------------------------------------------------------------- outputs that something reads */
typedef struct {
    mth_model *model;
    const char *name;
} exposing;

static mth_status expose(void *context) {
    const exposing *x = context;
    mth_model *m = x->model;
    if (!*x->name)
        return FAIL(MTH_ERROR_TYPE, F("an empty text is given as the name of an output"),
            F("give the name of a connection, such as 'logits'"));
    mth__exposure added = {mth__copy_text(m->arena, x->name), mth__copy_line(m->arena, mth__source_line())};
    PUSH(m->arena, m->exposure, added);
    *m->resolved = NULL;
    return NULL;
}

mth_status mth_model_expose(mth_model *m, const char *name) {
    TRY(mth__given(m, "the model"));
    TRY(mth__given(name, "the name of the connection"));
    return mth__guard(expose, &(exposing){m, name});
}

/* ---------------------------------------------------------------- print */
const char *mth__source_name(mth__arena *arena, const mth_model *m, mth__source s) {
    if (s.block < 0) return (*m->resolved)->input[s.port];
    const mth__block *b = m->block.at[s.block];
    if (b->out_name[s.port]) return b->out_name[s.port];
    return mth__format(arena, "%s.%s", b->name, b->out.at[s.port].name);
}

static void print_options(mth__text *t, const mth_module *m) {
    size_t i = 0;
    bool first = true;
    for (int k = 0; m->tables[k]; k++)
        for (const mth__opt *o = m->tables[k]; o->name; o++, i++) {
            const char *value = mth__arg_text(t->arena, m->values[i]);
            if (o->standard && !strcmp(value, o->standard)) continue;
            mth__text_add(t, "%s%s=%s", first ? "" : ", ", o->name, value);
            first = false;
        }
}

static void print_model(mth__text *t, const mth_model *m, const mth__resolved *r, int depth) {
    mth__text_add(t, "%*sinputs: ", depth, "");
    for (int i = 0; i < r->inputs; i++) mth__text_add(t, i ? ", %s" : "%s", r->input[i]);
    mth__text_add(t, "\n");
    for (size_t i = 0; i < m->block.n; i++) {
        const mth__block *b = m->block.at[i];
        mth__text_add(t, "%*s%s", depth, "", b->name);
        mth__text_pad(t, (size_t)depth + 26);
        if (b->module) {
            mth__text_add(t, " %s(", b->module->type->name);
            print_options(t, b->module);
            mth__text_add(t, ")");
        } else
            mth__text_add(t, " model of %zu blocks", b->model->block.n);
        mth__text_add(t, ": ");
        const struct mth__inlet *in = &r->block[i];
        for (int k = 0; k < in->nin; k++)
            mth__text_add(t, "%s%s=%s", k ? ", " : "", in->port[k], mth__source_name(t->arena, m, in->from[k]));
        mth__text_add(t, " -> ");
        for (int k = 0; k < b->out.n; k++)
            mth__text_add(t, k ? ", %s" : "%s", mth__source_name(t->arena, m, (mth__source){(int)i, k}));
        mth__text_add(t, "\n");
        if (b->model) print_model(t, b->model, *b->model->resolved, depth + 4);
    }
    mth__text_add(t, "%*soutputs: ", depth, "");
    for (int i = 0; i < r->outputs; i++) mth__text_add(t, i ? ", %s" : "%s", r->output[i].name);
    mth__text_add(t, "\n");
}

typedef struct {
    const mth_model *model;
    char **out;
} printing;

static mth_status print(void *context) {
    const printing *p = context;
    mth__arena *arena = mth__arena_new();
    const mth__resolved *r;
    TRY(mth__resolve(p->model, &r));
    mth__text t = mth__text_new(arena);
    print_model(&t, p->model, r, 0);
    char *text = mth__text_publish(&t);
    mth__arena_free(arena);
    if (!text) return FAIL(MTH_ERROR_MEMORY, F("memory is exhausted"), F("free arrays that are no longer needed"));
    *p->out = text;
    return NULL;
}

mth_status mth_model_print(const mth_model *m, char **out) {
    TRY(mth__given(m, "the model"));
    TRY(mth__result_given(out));
    return mth__guard(print, &(printing){m, out});
}
