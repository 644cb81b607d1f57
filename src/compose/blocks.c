/* Blocks, their ports and wires; copies of modules and of models, which hold each other. */
#include "compose/model.h"
#include "compose/parts.h"
#include <string.h>

/* ---------------------------------------------------------------- ports */
void mth__ports_add(mth__arena *arena, mth__ports *ports, mth__port port) {
    if ((size_t)ports->n == ports->room)
        ports->at = mth__grow(arena, ports->at, (size_t)ports->n, &ports->room, sizeof *ports->at);
    ports->at[ports->n] = port;
    if ((size_t)mth__names_add(arena, &ports->names, port.name) == ports->first.n) PUSH(arena, ports->first, ports->n);
    ports->n++;
}

mth__ports mth__ports_parse(mth__arena *arena, const char *text) {
    mth__ports ports = {0};
    while (*text) {
        size_t n = strcspn(text, ",");
        char *name = mth__format(arena, "%.*s", (int)n, text);
        mth__port port = {name, false, false};
        for (size_t end = n; end && strchr("?*", name[end - 1]); name[--end] = 0) {
            port.optional |= name[end - 1] == '?';
            port.repeats |= name[end - 1] == '*';
        }
        mth__ports_add(arena, &ports, port);
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

/* ---------------------------------------------------------------- names */
mth_status mth__name_check(const char *name, const char *what) {
    if (name && *name && !strpbrk(name, "./ \t\n")) return NULL;
    return FAIL(MTH_ERROR_VALUE, F("%s '%s' is empty or holds a dot, a slash or a space", what, name ? name : ""),
        F("use letters, digits and underscores, such as 'encoder_0'"));
}

const char *mth__snake_case(mth__arena *arena, const char *type) {
    if (!strcmp(type, "MoE")) return "moe";
    if (!strcmp(type, "RMSNorm")) return "rms_norm";
    mth__text text = mth__text_new(arena);
    for (const char *at = type; *at; at++) {
        bool upper = *at >= 'A' && *at <= 'Z';
        if (upper && at > type) mth__text_add(&text, "_");
        mth__text_add(&text, "%c", upper ? *at - 'A' + 'a' : *at);
    }
    return text.at;
}

const mth__block *mth__model_block(const mth_model *model, const char *name, size_t n) {
    for (size_t i = 0; i < model->block.n; i++)
        if (!strncmp(model->block.at[i]->name, name, n) && !model->block.at[i]->name[n]) return model->block.at[i];
    return NULL;
}

/* ---------------------------------------------------------------- wires */
static const mth_wire *copy_wires(mth__arena *arena, const mth_wire *from, size_t n) {
    mth_wire *to = NEW_ARRAY(arena, mth_wire, n);
    for (size_t i = 0; i < n; i++)
        to[i] = (mth_wire){mth__copy_text(arena, from[i].port), mth__copy_text(arena, from[i].name)};
    return to;
}

/* Sets what each port is wired to; the ports and the wires are there. */
static void wire_ports(mth__arena *arena, mth__block *block) {
    int *next = NEW_ARRAY(arena, int, block->in.n + 1);
    block->in_first = NEW_ARRAY(arena, int, block->in.n + 1);
    block->in_name = NEW_ARRAY(arena, const char *, block->wires);
    block->out_name = NEW_ARRAY(arena, const char *, block->out.n);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < block->wires; i++) {
            int in = mth__ports_find(&block->in, block->wire[i].port);
            if (in < 0)
                block->out_name[mth__ports_find(&block->out, block->wire[i].port)] = block->wire[i].name;
            else if (pass)
                block->in_name[block->in_first[in] + next[in]++] = block->wire[i].name;
            else
                block->in_first[in + 1]++;
        }
        for (int port = 0; !pass && port < block->in.n; port++) block->in_first[port + 1] += block->in_first[port];
    }
}

void mth__block_wire(mth__arena *arena, mth__block *block, const mth_wire *wire, size_t count) {
    block->wire = copy_wires(arena, wire, count);
    block->wires = count;
    wire_ports(arena, block);
}

/* ---------------------------------------------------------------- copies */
static mth__ports copy_ports(mth__arena *arena, mth__ports from) {
    mth__ports to = {0};
    for (int i = 0; i < from.n; i++) {
        mth__port port = from.at[i];
        port.name = mth__copy_text(arena, port.name);
        mth__ports_add(arena, &to, port);
    }
    return to;
}

mth_model *mth__model_new(mth__arena *arena) {
    mth_model *model = NEW(arena, mth_model);
    model->arena = arena;
    model->resolved = NEW(arena, const mth__resolved *);
    model->levels = 1;
    return model;
}

/* But for the submodel. Not part of the walk below: that one has a frame for each level of models. */
__attribute__((noinline)) static mth__block *copy_block(mth__arena *arena, const mth__block *from) {
    mth__block *block = NEW(arena, mth__block);
    *block = (mth__block){.name = mth__copy_text(arena, from->name),
        .in = copy_ports(arena, from->in),
        .out = copy_ports(arena, from->out),
        .mode = from->mode,
        .line = mth__copy_line(arena, from->line)};
    mth__block_wire(arena, block, from->wire, from->wires);
    if (from->module) block->module = mth__module_copy_into(arena, from->module);
    return block;
}

mth_model *mth__model_copy_into(mth__arena *arena, const mth_model *from) {
    mth_model *model = mth__model_new(arena);
    for (size_t i = 0; i < from->block.n; i++) {
        mth__block *block = copy_block(arena, from->block.at[i]);
        if (!block->module) block->model = mth__model_copy_into(arena, from->block.at[i]->model);
        PUSH(arena, model->block, block);
    }
    model->levels = from->levels;
    for (size_t i = 0; i < from->join.n; i++) {
        const mth__join *join = &from->join.at[i];
        mth__join copy = {mth__copy_text(arena, join->source), mth__copy_text(arena, join->destination),
            mth__copy_line(arena, join->line)};
        PUSH(arena, model->join, copy);
    }
    for (size_t i = 0; i < from->exposure.n; i++) {
        const mth__exposure *exposure = &from->exposure.at[i];
        mth__exposure copy = {mth__copy_text(arena, exposure->name), mth__copy_line(arena, exposure->line)};
        PUSH(arena, model->exposure, copy);
    }
    return model;
}

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

static size_t option_count(const mth_module *module) {
    size_t n = 0;
    for (int k = 0; module->tables[k]; k++)
        for (const mth__opt *option = module->tables[k]; option->name; option++) n++;
    return n;
}

void mth__module_own_models(mth_module *module) {
    for (size_t i = 0, n = option_count(module); i < n; i++)
        module->values[i] = own_models(module->arena, module->values[i], &module->levels);
}

const mth_module *mth__module_copy_into(mth__arena *arena, const mth_module *from) {
    mth_module *module = NEW(arena, mth_module);
    size_t n = option_count(from);
    *module = *from;
    module->arena = arena;
    module->values = NEW_ARRAY(arena, mth_arg, n);
    for (size_t i = 0; i < n; i++) module->values[i] = mth__arg_copy(arena, from->values[i]);
    mth__module_own_models(module);
    module->inputs = mth__copy_text(arena, from->inputs);
    module->outputs = mth__copy_text(arena, from->outputs);
    module->ports = mth__copy_text(arena, from->ports);
    return module;
}

/* No two modules of a process have one number. */
uint64_t mth__next_object(void) {
    static _Atomic uint64_t last;
    return ++last;
}
