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
static void renew(mth__arena *arena, mth_model *model) {
    mth__names met = {0};
    VEC(uint64_t) object = {0};
    VEC(mth_model *) open = {0};
    PUSH(arena, open, model);
    while (open.n) {
        mth_model *at = open.at[--open.n];
        for (size_t i = 0; i < at->block.n; i++) {
            mth__block *block = at->block.at[i];
            if (block->model) PUSH(arena, open, block->model);
            if (!block->module) continue;
            const int id = mth__names_add(arena, &met, mth__format(arena, "%" PRIu64, block->module->object));
            if ((size_t)id == object.n) PUSH(arena, object, mth__next_object());
            ((mth_module *)block->module)->object = object.at[id]; /* the copy is this model's own */
            for (size_t stage = 0; stage < mth__pipeline_stages(block->module); stage++)
                PUSH(arena, open, (mth_model *)mth__pipeline_stage(block->module, stage));
        }
    }
}

static mth_status copy(void *context) {
    const copying *copied = context;
    mth__arena *arena = mth__arena_new();
    mth_model *model = copied->from ? mth__model_copy_into(arena, copied->from) : mth__model_new(arena);
    if (copied->anew) renew(arena, model);
    mth__arena_keep(arena);
    *copied->out = model;
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

void mth_model_free(mth_model *model) {
    if (model) mth__arena_free(model->arena);
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
static taken *taken_names(mth_model *model) {
    if (!model->taken) model->taken = NEW(model->arena, taken);
    taken *names = model->taken;
    while (names->destination.name.n < model->join.n)
        mth__names_add(model->arena, &names->destination, model->join.at[names->destination.name.n].destination);
    while (names->block.name.n < model->block.n) {
        const char *name = model->block.at[names->block.name.n]->name;
        size_t n = strlen(name), digits = n;
        while (digits && name[digits - 1] >= '0' && name[digits - 1] <= '9') digits--;
        int kind = -1;
        if (digits < n && digits && name[digits - 1] == '_') {
            kind = mth__names_add(model->arena, &names->kind, mth__format(model->arena, "%.*s", (int)digits - 1, name));
            while (names->count.n < names->kind.name.n) PUSH(model->arena, names->count, ((kind_count){0}));
        }
        mth__names_add(model->arena, &names->block, name);
        if (kind >= 0) names->count.at[kind].blocks++;
    }
    return names;
}

static bool has_block(mth_model *model, const char *name) {
    return mth__names_find(&taken_names(model)->block, name) >= 0;
}

/* "linear_0": the kind and the number of earlier blocks that were named so, past names that are taken. */
static const char *next_name(mth_model *model, const char *kind) {
    taken *names = taken_names(model);
    int k = mth__names_find(&names->kind, kind);
    kind_count none = {0}, *count = k < 0 ? &none : &names->count.at[k];
    if (count->blocks < count->from || count->blocks >= count->to) count->from = count->to = count->blocks;
    char *name;
    while (has_block(model, name = mth__format(model->arena, "%s_%d", kind, count->to))) count->to++;
    return name;
}

/* "dropped capacity_factor=1.25, ...": the ports that options make, one after the other. */
static const char *next_port_option(const char *at) {
    at += strcspn(at, ",");
    return at + strspn(at, ", ");
}

static mth_status unknown_port(const mth__block *block, const char *port, const char *ports) {
    enum { MADE = 8, NAME = 32 };
    const char *options = block->module && block->module->type->port_options ? block->module->type->port_options : "";
    char made[MADE][NAME];
    int n = 0, count = 0;
    const char **names = mth__calloc((size_t)(block->in.n + block->out.n) + MADE, sizeof *names);
    if (!names) return FAIL(MTH_ERROR_MEMORY, F("no memory for an error"), F("free memory"));
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < (k ? block->out : block->in).n; i++) names[n++] = (k ? block->out : block->in).at[i].name;
    for (const char *at = options; *at && count < MADE; at = next_port_option(at)) {
        snprintf(made[count], NAME, "%.*s", (int)strcspn(at, " "), at);
        names[n++] = made[count++];
    }
    const char *near = mth__nearest(port, names, (size_t)n);
    for (const char *at = options; near && *at; at = next_port_option(at)) {
        const size_t length = strlen(near);
        bool open = strncmp(at, near, length) == 0 && at[length] == ' ';
        for (int i = 0; i < block->out.n; i++) open &= strcmp(block->out.at[i].name, near) != 0;
        if (!open) continue;
        const int option = (int)strcspn(at + length + 1, ",");
        char *what = !strcmp(near, port) ? F("%s has the port '%s' only where an option asks for it", block->name, port)
                                         : F("%s has no port '%s'", block->name, port),
             *fix = !strcmp(near, port)
            ? F("give %s %.*s", block->module->type->name, option, at + length + 1)
            : F("did you mean '%s'? Give %s %.*s for it", near, block->module->type->name, option, at + length + 1);
        mth__free(names);
        return mth__error_operator(FAIL(MTH_ERROR_TYPE, what, fix), block->name);
    }
    char *fix = near ? F("did you mean '%s'? Its ports are: %s", near, ports) : F("its ports are: %s", ports);
    mth__free(names);
    return mth__error_operator(FAIL(MTH_ERROR_TYPE, F("%s has no port '%s'", block->name, port), fix), block->name);
}

static const char *interface_text(mth__arena *arena, const mth__block *block) {
    if (block->module) return block->module->ports;
    mth__text text = mth__text_new(arena);
    for (int i = 0; i < block->in.n; i++) mth__text_add(&text, i ? ", %s" : "%s", block->in.at[i].name);
    mth__text_add(&text, " -> ");
    for (int i = 0; i < block->out.n; i++) mth__text_add(&text, i ? ", %s" : "%s", block->out.at[i].name);
    return text.at;
}

/* Each wire names a port; a port that takes one wire has one. The same wire twice is one. */
static mth_status check_wires(mth__arena *arena, mth__block *block, const mth_wire *wire, size_t count) {
    mth_wire *kept = NEW_ARRAY(arena, mth_wire, count);
    size_t keeps = 0;
    /* by port: what it is wired to, where that is one name */
    const char **name = NEW_ARRAY(arena, const char *, block->in.n + block->out.n);
    for (size_t i = 0; i < count; i++) {
        int in = mth__ports_find(&block->in, wire[i].port), out = mth__ports_find(&block->out, wire[i].port);
        if (in < 0 && out < 0) return unknown_port(block, wire[i].port, interface_text(arena, block));
        if (!*wire[i].name || strpbrk(wire[i].name, " \t\n\"',?*()="))
            return mth__error_operator(
                FAIL(MTH_ERROR_VALUE, F("'%s', given to %s, is no name", wire[i].name, wire[i].port),
                    F("use letters, digits, underscores and dots")),
                block->name);
        const char **first = &name[in >= 0 ? in : block->in.n + out];
        if (*first && strcmp(*first, wire[i].name))
            return mth__error_operator(
                FAIL(MTH_ERROR_VALUE,
                    F("port '%s' of %s is wired to '%s' and to '%s'", wire[i].port, block->name, *first, wire[i].name),
                    F("give one name; mth_model_connect joins two")),
                block->name);
        if (!*first) kept[keeps++] = wire[i];
        if (in < 0 || !block->in.at[in].repeats) *first = wire[i].name;
    }
    mth__block_wire(arena, block, kept, keeps);
    return NULL;
}

/* `module`: what the block is of, or NULL. A module object that has a name may be added again: its block is then called
 * "name_0" and so on. */
static mth_status new_name(
    mth_model *model, const mth_module *module, const char *given, const char *kind, const char **out) {
    if (!given) return *out = next_name(model, kind), NULL;
    TRY(mth__name_check(given, "the name"));
    if (has_block(model, given)) {
        const mth_module *has = mth__model_block(model, given, strlen(given))->module;
        if (module && has && has->object == module->object) return *out = next_name(model, given), NULL;
        const char *free_name = next_name(model, given);
        return mth__error_operator(FAIL(MTH_ERROR_VALUE, F("the model has two blocks named '%s'", given),
                                       F("give another name, such as '%s', or none", free_name)),
            given);
    }
    return *out = mth__copy_text(model->arena, given), NULL;
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

static mth_status add_block(void *context) {
    const addition *added = context;
    mth_model *model = added->model;
    mth__arena *arena = model->arena;
    mth__block *block = NEW(arena, mth__block);
    *block = (mth__block){.mode = added->mode, .line = mth__copy_line(arena, mth__source_line())};
    if (added->module) {
        const mth_arg *name = mth__module_option(added->module, "name");
        TRY(new_name(model, added->module, name->kind == MTH_ARG_STRING ? name->string : NULL,
            mth__snake_case(arena, added->module->type->name), &block->name));
        TRY(mth__error_operator(check_levels("a stage", added->module->levels), block->name));
        block->module = mth__module_copy_into(arena, added->module);
        block->in = mth__ports_parse(arena, block->module->inputs);
        block->out = mth__ports_parse(arena, block->module->outputs);
    } else {
        TRY(new_name(model, NULL, added->name, "model", &block->name));
        if (!added->sub->block.n)
            return mth__error_operator(FAIL(MTH_ERROR_VALUE, F("the submodel has no blocks"),
                                           F("add blocks to it first; it is copied as it is now")),
                block->name);
        TRY(mth__error_operator(check_levels("the submodel", added->sub->levels), block->name));
        mth_model *sub = mth__model_copy_into(arena, added->sub);
        const mth__resolved *resolved;
        TRY(mth__error_operator(mth__resolve(sub, &resolved), block->name));
        block->model = sub;
        block->in = mth__model_inputs(arena, resolved);
        block->out = mth__model_outputs(arena, resolved);
    }
    TRY(check_wires(arena, block, added->wire, added->count));
    PUSH(arena, model->block, block);
    int below = block->module ? block->module->levels : block->model->levels;
    if (model->levels <= below) model->levels = below + 1;
    *model->resolved = NULL;
    return NULL;
}

static mth_status wires_given(const mth_wire *wire, size_t count, mth_add_mode mode) {
    if (mode != MTH_PLAIN && mode != MTH_CHAIN)
        return FAIL(MTH_ERROR_TYPE, F("%d is no way to add a block", (int)mode), F("give MTH_PLAIN or MTH_CHAIN"));
    if (count) TRY(mth__given(wire, "the list of wires"));
    for (size_t i = 0; i < count; i++) {
        TRY(mth__given(wire[i].port, "the port of a wire"));
        TRY(mth__given(wire[i].name, "the name of a wire"));
    }
    return NULL;
}

mth_status mth_model_add(
    mth_model *model, const mth_module *module, const mth_wire *wire, size_t count, mth_add_mode mode) {
    TRY(mth__given(model, "the model"));
    TRY(mth__given(module, "the module"));
    TRY(wires_given(wire, count, mode));
    return mth__guard(add_block, &(addition){model, module, NULL, NULL, wire, count, mode});
}

mth_status mth_model_add_model(
    mth_model *model, const mth_model *sub, const char *name, const mth_wire *wire, size_t count, mth_add_mode mode) {
    TRY(mth__given(model, "the model"));
    TRY(mth__given(sub, "the submodel"));
    TRY(wires_given(wire, count, mode));
    return mth__guard(add_block, &(addition){model, NULL, sub, name, wire, count, mode});
}

/* ---------------------------------------------------------------- connect */
typedef struct {
    mth_model *model;
    const char *source, *destination;
} joining;

static mth_status join(void *context) {
    const joining *joined = context;
    mth_model *model = joined->model;
    if (!*joined->source || !*joined->destination)
        return FAIL(MTH_ERROR_TYPE, F("connect needs the names of a source and of a destination"),
            F("give both: connect(source='h', destination='input')"));
    if (!strcmp(joined->source, joined->destination)) return NULL; /* joined already */
    int earlier = mth__names_find(&taken_names(model)->destination, joined->destination);
    if (earlier >= 0) {
        const mth__join *other = &model->join.at[earlier];
        if (!strcmp(other->source, joined->source)) return NULL;
        return FAIL(MTH_ERROR_VALUE,
            F("connect(source='%s', destination='%s') contradicts connect(source='%s', destination='%s')",
                joined->source, joined->destination, other->source, joined->destination),
            F("an input has one source: leave out one of the two"));
    }
    mth__join added = {mth__copy_text(model->arena, joined->source), mth__copy_text(model->arena, joined->destination),
        mth__copy_line(model->arena, mth__source_line())};
    PUSH(model->arena, model->join, added);
    *model->resolved = NULL;
    return NULL;
}

mth_status mth_model_connect(mth_model *model, const char *source, const char *destination) {
    TRY(mth__given(model, "the model"));
    TRY(mth__given(source, "the source's name"));
    TRY(mth__given(destination, "the destination's name"));
    return mth__guard(join, &(joining){model, source, destination});
}

/* ---------------------------------------------------------------- outputs that something reads */
typedef struct {
    mth_model *model;
    const char *name;
} exposing;

static mth_status expose(void *context) {
    const exposing *exposed = context;
    mth_model *model = exposed->model;
    if (!*exposed->name)
        return FAIL(MTH_ERROR_TYPE, F("an empty text is given as the name of an output"),
            F("give the name of a connection, such as 'logits'"));
    mth__exposure added = {
        mth__copy_text(model->arena, exposed->name), mth__copy_line(model->arena, mth__source_line())};
    PUSH(model->arena, model->exposure, added);
    *model->resolved = NULL;
    return NULL;
}

mth_status mth_model_expose(mth_model *model, const char *name) {
    TRY(mth__given(model, "the model"));
    TRY(mth__given(name, "the name of the connection"));
    return mth__guard(expose, &(exposing){model, name});
}

/* ---------------------------------------------------------------- print */
const char *mth__source_name(mth__arena *arena, const mth_model *model, mth__source source) {
    if (source.block < 0) return (*model->resolved)->input[source.port];
    const mth__block *block = model->block.at[source.block];
    if (block->out_name[source.port]) return block->out_name[source.port];
    return mth__format(arena, "%s.%s", block->name, block->out.at[source.port].name);
}

static void print_options(mth__text *text, const mth_module *module) {
    size_t i = 0;
    bool first = true;
    for (int k = 0; module->tables[k]; k++)
        for (const mth__opt *option = module->tables[k]; option->name; option++, i++) {
            const char *value = mth__arg_text(text->arena, module->values[i]);
            if (option->standard && !strcmp(value, option->standard)) continue;
            mth__text_add(text, "%s%s=%s", first ? "" : ", ", option->name, value);
            first = false;
        }
}

static void print_model(mth__text *text, const mth_model *model, const mth__resolved *resolved, int depth) {
    mth__text_add(text, "%*sinputs: ", depth, "");
    for (int i = 0; i < resolved->inputs; i++) mth__text_add(text, i ? ", %s" : "%s", resolved->input[i]);
    mth__text_add(text, "\n");
    for (size_t i = 0; i < model->block.n; i++) {
        const mth__block *block = model->block.at[i];
        mth__text_add(text, "%*s%s", depth, "", block->name);
        mth__text_pad(text, (size_t)depth + 26);
        if (block->module) {
            mth__text_add(text, " %s(", block->module->type->name);
            print_options(text, block->module);
            mth__text_add(text, ")");
        } else
            mth__text_add(text, " model of %zu blocks", block->model->block.n);
        mth__text_add(text, ": ");
        const struct mth__inlet *in = &resolved->block[i];
        for (int k = 0; k < in->nin; k++)
            mth__text_add(
                text, "%s%s=%s", k ? ", " : "", in->port[k], mth__source_name(text->arena, model, in->from[k]));
        mth__text_add(text, " -> ");
        for (int k = 0; k < block->out.n; k++)
            mth__text_add(text, k ? ", %s" : "%s", mth__source_name(text->arena, model, (mth__source){(int)i, k}));
        mth__text_add(text, "\n");
        if (block->model) print_model(text, block->model, *block->model->resolved, depth + 4);
    }
    mth__text_add(text, "%*soutputs: ", depth, "");
    for (int i = 0; i < resolved->outputs; i++) mth__text_add(text, i ? ", %s" : "%s", resolved->output[i].name);
    mth__text_add(text, "\n");
}

typedef struct {
    const mth_model *model;
    char **out;
} printing;

static mth_status print(void *context) {
    const printing *printed = context;
    mth__arena *arena = mth__arena_new();
    const mth__resolved *resolved;
    TRY(mth__resolve(printed->model, &resolved));
    mth__text written = mth__text_new(arena);
    print_model(&written, printed->model, resolved, 0);
    char *text = mth__text_publish(&written);
    mth__arena_free(arena);
    if (!text) return FAIL(MTH_ERROR_MEMORY, F("memory is exhausted"), F("free arrays that are no longer needed"));
    *printed->out = text;
    return NULL;
}

mth_status mth_model_print(const mth_model *model, char **out) {
    TRY(mth__given(model, "the model"));
    TRY(mth__result_given(out));
    return mth__guard(print, &(printing){model, out});
}
