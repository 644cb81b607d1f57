/* From wires to connections. Names are one space in a model; a name has one writer, or it is an input of the model.
 * Where the user said nothing:
 *   - an output has the name "<block>.<port>"; of a submodel also its plain name, where no other writer has it
 *   - an open input takes the name "<block>.<port>" if somebody uses it; of a submodel its plain name if the parent
 *     uses or makes it
 *   - then += gives the one open input that is left the previous block's output
 *   - what is still open becomes an input of the model, named as the port where no other input is (of a submodel:
 *     shared by name) */
#include "compose/model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *text;
    int block, port; /* the writer; block -1: none */
    int source;      /* the name it is joined to by connect, or -1 */
    const mth__join *join;
    bool said;   /* the user wrote it as an input's name or in connect */
    bool used;   /* some input reads it */
    bool joined; /* some connect reads it */
    bool shared; /* an input of the model that came from a submodel's open input */
    int input;   /* of the model, or -1 */
    /* unwired outputs of submodels with this plain name; the last of them */
    int candidates, candidate_block, candidate_port;
    int open; /* how many of those nothing consumes */
} name_entry;

typedef struct {
    const mth_model *model;
    mth__arena *scratch;
    mth__names names;
    VEC(name_entry) name; /* by number */
    /* by block; name: read by it, or -1 where `from` is known */
    struct inlets {
        VEC(mth__source) from;
        VEC(int) name;
        VEC(const char *) port;
    } *in;
    VEC(const char *) input;
    mth__block **sorted; /* the model's, by name; NULL until somebody asks */
    mth__resolved *out;
} wiring;

/* ---------------------------------------------------------------- names */
static int find(const wiring *wires, const char *text) { return mth__names_find(&wires->names, text); }

static int intern(wiring *wires, const char *text) {
    int id = mth__names_add(wires->scratch, &wires->names, text);
    if ((size_t)id == wires->name.n)
        PUSH(wires->scratch, wires->name, ((name_entry){.text = text, .block = -1, .source = -1, .input = -1}));
    return id;
}

static const char *qualified(wiring *wires, const mth__block *block, const char *port) {
    return mth__format(wires->model->arena, "%s.%s", block->name, port);
}

static mth_status at_line(mth_status status, const char *line) { return mth__error_source(status, line); }

static mth_status two_writers(wiring *wires, const name_entry *entry, int block_number, int port) {
    const mth__block *a = wires->model->block.at[entry->block], *b = wires->model->block.at[block_number];
    mth_status status = FAIL(MTH_ERROR_VALUE,
        F("'%s' is written by %s (port %s) and by %s (port %s)", entry->text, a->name, a->out.at[entry->port].name,
            b->name, b->out.at[port].name),
        F("give the output of one of them another name"));
    return at_line(mth__error_operator(status, b->name), b->line);
}

/* ---------------------------------------------------------------- what the user said */
static mth_status read_wires(wiring *wires, int block_number) {
    const mth__block *block = wires->model->block.at[block_number];
    for (size_t i = 0; i < block->wires; i++) {
        int id = intern(wires, block->wire[i].name), port = mth__ports_find(&block->in, block->wire[i].port);
        if (port >= 0) {
            wires->name.at[id].said = true;
            continue;
        }
        port = mth__ports_find(&block->out, block->wire[i].port);
        if (wires->name.at[id].block >= 0) return two_writers(wires, &wires->name.at[id], block_number, port);
        wires->name.at[id].block = block_number;
        wires->name.at[id].port = port;
    }
    return NULL;
}

static void read_joins(wiring *wires) {
    for (size_t i = 0; i < wires->model->join.n; i++) {
        const mth__join *join = &wires->model->join.at[i];
        int source = intern(wires, join->source), destination = intern(wires, join->destination);
        wires->name.at[source].said = wires->name.at[destination].said = true;
        wires->name.at[source].joined = true;
        wires->name.at[destination].source = source;
        wires->name.at[destination].join = join;
    }
}

/* ---------------------------------------------------------------- what follows */
static mth_status name_outputs(wiring *wires) {
    for (size_t k = 0; k < wires->model->block.n; k++) {
        const mth__block *block = wires->model->block.at[k];
        for (int port = 0; port < block->out.n; port++) {
            if (block->out_name[port]) continue;
            int id = intern(wires, qualified(wires, block, block->out.at[port].name));
            if (wires->name.at[id].block >= 0) return two_writers(wires, &wires->name.at[id], (int)k, port);
            wires->name.at[id].block = (int)k;
            wires->name.at[id].port = port;
            if (!block->model) continue;
            name_entry *plain = &wires->name.at[intern(wires, block->out.at[port].name)];
            if (plain->said && plain->candidates && plain->block < 0) {
                name_entry first = *plain;
                first.block = plain->candidate_block;
                first.port = plain->candidate_port;
                return two_writers(wires, &first, (int)k, port);
            }
            plain->candidates++;
            plain->candidate_block = (int)k;
            plain->candidate_port = port;
        }
    }
    for (size_t i = 0; i < wires->name.n; i++) {
        name_entry *entry = &wires->name.at[i];
        if (entry->candidates != 1 || entry->block >= 0 || entry->source >= 0) continue;
        entry->block = entry->candidate_block;
        entry->port = entry->candidate_port;
    }
    return NULL;
}

static void bind(wiring *wires, int block_number, const char *port, int name, mth__source from) {
    struct inlets *in = &wires->in[block_number];
    if (name >= 0) wires->name.at[name].used = true;
    PUSH(wires->scratch, in->from, from);
    PUSH(wires->scratch, in->name, name);
    PUSH(wires->scratch, in->port, port);
}

/* The name that an unwired input takes because somebody else uses or makes it; -1: none. */
static int implied_name(wiring *wires, int block_number, const char *port) {
    const mth__block *block = wires->model->block.at[block_number];
    int id = find(wires, qualified(wires, block, port));
    if (id >= 0 && wires->name.at[id].said) return id;
    if (!block->model) return -1;
    id = find(wires, port);
    if (id < 0) return -1;
    const name_entry *entry = &wires->name.at[id];
    return entry->block != block_number && (entry->said || entry->block >= 0) ? id : -1;
}

/* The model's own name for an input that nothing binds. */
static int open_name(wiring *wires, int block_number, const char *port) {
    const mth__block *block = wires->model->block.at[block_number];
    int id = intern(wires, port);
    name_entry *entry = &wires->name.at[id];
    bool taken =
        entry->said || entry->block >= 0 || entry->candidates || (entry->used && !(block->model && entry->shared));
    if (taken) return intern(wires, qualified(wires, block, port));
    entry->shared = block->model != NULL;
    return id;
}

static mth_status too_open(const mth__block *block, const char *const *port, size_t n, const char *previous) {
    char text[256];
    mth__sink sink = mth__sink_new(text, sizeof text);
    for (size_t i = 0; i < n; i++) mth__sink_add(&sink, "%s%s", i ? ", " : "", port[i]);
    mth_status status = FAIL(MTH_ERROR_VALUE,
        F("%zu inputs of %s are open (%s), and MTH_CHAIN can give only one of them the output of %s", n, block->name,
            text, previous),
        F("wire the others by name: %s='...'", port[n - 1]));
    return at_line(mth__error_operator(status, block->name), block->line);
}

static mth_status bind_inputs(wiring *pass, int block_number) {
    const mth__block *block = pass->model->block.at[block_number];
    const mth__source unknown = {-1, -1};
    VEC(const char *) open = {0};
    int *wires = NEW_ARRAY(pass->scratch, int, block->in.n + 1);
    for (int number = 0; number < block->in.n; number++) {
        const char *port = block->in.at[number].name;
        for (int i = block->in_first[number]; i < block->in_first[number + 1]; i++)
            bind(pass, block_number, port, find(pass, block->in_name[i]), unknown);
        wires[number] = block->in_first[number + 1] - block->in_first[number];
        if (wires[number]) continue;
        int id = implied_name(pass, block_number, port);
        if (id < 0 && block->in.at[number].optional) continue;
        wires[number] = 1;
        if (id < 0) PUSH(pass->scratch, open, port);
        bind(pass, block_number, port, id, unknown);
    }
    bool chain = block->mode == MTH_CHAIN && block_number > 0 && open.n;
    const mth__block *previous = chain ? pass->model->block.at[block_number - 1] : NULL;
    if (chain && open.n > 1) return too_open(block, open.at, open.n, previous->name);
    struct inlets *in = &pass->in[block_number];
    for (size_t i = 0; i < in->port.n; i++) {
        if (in->name.at[i] >= 0) continue;
        if (chain) {
            in->from.at[i] = (mth__source){block_number - 1, mth__ports_main(&previous->out)};
            continue;
        }
        in->name.at[i] = open_name(pass, block_number, in->port.at[i]);
        pass->name.at[in->name.at[i]].used = true;
    }
    if (!block->module || !block->module->type->wired) return NULL;
    return at_line(mth__error_operator(block->module->type->wired(block->module, wires), block->name), block->line);
}

/* ---------------------------------------------------------------- connect */
static mth_status unknown_name(wiring *wires, const mth__join *join, const char *name, const char *role) {
    VEC(const char *) known = {0};
    for (size_t i = 0; i < wires->name.n; i++)
        if (strcmp(wires->name.at[i].text, name) && (wires->name.at[i].used || wires->name.at[i].block >= 0))
            PUSH(wires->scratch, known, wires->name.at[i].text);
    const char *near = mth__nearest(name, known.at, known.n);
    return at_line(FAIL(MTH_ERROR_KEY,
                       F("connect(source='%s', destination='%s'): no block has the %s '%s'", join->source,
                           join->destination, role, name),
                       near ? F("did you mean '%s'?", near) : F("use the name that a block's %s is wired to", role)),
        join->line);
}

static mth_status check_joins(wiring *wires) {
    /* by name: 1 + the name whose walk to its source came through; 0: none yet */
    int *walked = NEW_ARRAY(wires->scratch, int, wires->name.n);
    for (size_t i = 0; i < wires->name.n; i++) {
        const name_entry *entry = &wires->name.at[i];
        if (entry->source < 0) continue;
        if (entry->block >= 0) {
            const mth__block *block = wires->model->block.at[entry->block];
            mth_status status = FAIL(MTH_ERROR_VALUE,
                F("connect(source='%s', destination='%s') contradicts the wire of %s, whose port '%s' is '%s'",
                    entry->join->source, entry->text, block->name, block->out.at[entry->port].name, entry->text),
                F("give the output another name, or leave out the connect"));
            return at_line(status, entry->join->line);
        }
        if (!entry->used && !entry->joined) return unknown_name(wires, entry->join, entry->text, "input");
        const name_entry *origin = &wires->name.at[entry->source];
        if (origin->block < 0 && !origin->used && origin->source < 0)
            return unknown_name(wires, entry->join, origin->text, "output");
        int k = (int)i;
        for (; wires->name.at[k].source >= 0 && !walked[k]; k = wires->name.at[k].source) walked[k] = (int)i + 1;
        if (wires->name.at[k].source >= 0 && walked[k] == (int)i + 1)
            return at_line(
                FAIL(MTH_ERROR_VALUE, F("the connects of '%s' and '%s' run in a circle", entry->text, origin->text),
                    F("leave out one of them")),
                entry->join->line);
    }
    return NULL;
}

static mth__source source_of(wiring *wires, int name) {
    int first = name;
    while (wires->name.at[first].source >= 0) first = wires->name.at[first].source;
    while (name != first) { /* the next that comes this way has one step */
        int next = wires->name.at[name].source;
        wires->name.at[name].source = first;
        name = next;
    }
    name_entry *entry = &wires->name.at[first];
    if (entry->block >= 0) return (mth__source){entry->block, entry->port};
    if (entry->input < 0) {
        entry->input = (int)wires->input.n;
        PUSH(wires->scratch, wires->input, entry->text);
    }
    return (mth__source){-1, entry->input};
}

/* ---------------------------------------------------------------- names of parameters */
static int by_name(const void *a, const void *b) {
    return strcmp((*(mth__block *const *)a)->name, (*(mth__block *const *)b)->name);
}

/* The block of the model that is resolved whose name these n bytes are: searched in order, since there may be as many
 * names as blocks. */
static const mth__block *block_named(wiring *wires, const char *name, size_t n) {
    const size_t count = wires->model->block.n;
    if (!wires->sorted) {
        wires->sorted = NEW_ARRAY(wires->scratch, mth__block *, count);
        memcpy(wires->sorted, wires->model->block.at, count * sizeof *wires->sorted);
        qsort(wires->sorted, count, sizeof *wires->sorted, by_name);
    }
    mth__block key = {.name = mth__format(wires->scratch, "%.*s", (int)n, name)}, *wanted = &key;
    mth__block **found = bsearch(&wanted, wires->sorted, count, sizeof *wires->sorted, by_name);
    return found ? *found : NULL;
}

/* The block, `block` itself or one inside of it, that has the parameter `name`, which is a path from `block`. */
static const mth__block *owner(mth__arena *scratch, const mth__block *block, const char *name) {
    while (block) {
        mth__ports parameters = {0};
        if (block->module) parameters = mth__parameter_names(scratch, block->module->type);
        if (mth__ports_find(&parameters, name) >= 0) return block;
        const int stage = block->module ? mth__pipeline_stage_named(scratch, block->module, &name) : -1;
        const mth_model *model = stage < 0 ? block->model : mth__pipeline_stage(block->module, (size_t)stage);
        const char *dot = model ? strchr(name, '.') : NULL;
        block = dot ? mth__model_block(model, name, (size_t)(dot - name)) : NULL;
        if (dot) name = dot + 1;
    }
    return NULL;
}

const mth__block *mth__parameter_block(mth__arena *scratch, const mth_model *model, const char *name) {
    const char *dot = strchr(name, '.');
    return dot ? owner(scratch, mth__model_block(model, name, (size_t)(dot - name)), dot + 1) : NULL;
}

static mth_status parameter_name(wiring *wires, const name_entry *entry, const mth__block *of) {
    const bool output = entry->block >= 0;
    char *other = mth__copy_text(wires->scratch, entry->text);
    for (char *at = other; *at; at++)
        if (*at == '.') *at = '_';
    const char *last = strrchr(entry->text, '.');
    const char *share = strcmp(last, ".weight")
        ? "share it by adding one module object twice"
        : mth__format(wires->scratch, "share it by the option weight='%s' of Linear or Embedding", entry->text);
    for (size_t i = 0; i < wires->model->join.n && !output; i++)
        if (!strcmp(wires->model->join.at[i].source, entry->text)) {
            const mth__join *join = &wires->model->join.at[i];
            return at_line(
                FAIL(MTH_ERROR_VALUE,
                    F("connect(source='%s', destination='%s') joins a parameter of %s", join->source, join->destination,
                        of->name),
                    F("leave it out and %s, or give the values as the input '%s'", share, join->destination)),
                join->line);
        }
    mth_status status = FAIL(MTH_ERROR_VALUE,
        F("the %s '%s' has the name of a parameter of %s", output ? "output" : "input", entry->text, of->name),
        output ? F("call it '%s'", other) : F("%s, or call it '%s' and give the values as an input", share, other));
    for (size_t k = 0; k < wires->model->block.n; k++)
        for (size_t i = 0; i < wires->model->block.at[k]->wires; i++)
            if (!strcmp(wires->model->block.at[k]->wire[i].name, entry->text))
                return at_line(
                    mth__error_operator(status, wires->model->block.at[k]->name), wires->model->block.at[k]->line);
    return status;
}

/* Parameters, inputs and outputs meet in dictionaries of names, such as the gradients': one of two of a name would be
 * lost. */
static mth_status check_parameters(wiring *wires) {
    for (size_t i = 0; i < wires->name.n; i++) {
        const char *text = wires->name.at[i].text, *dot = strchr(text, '.');
        const mth__block *of =
            dot ? owner(wires->scratch, block_named(wires, text, (size_t)(dot - text)), dot + 1) : NULL;
        if (of) return parameter_name(wires, &wires->name.at[i], of);
    }
    return NULL;
}

/* ---------------------------------------------------------------- order, cycles */
static mth_status cycle(wiring *wires, const int *stack, size_t depth, int again) {
    mth__text text = mth__text_new(wires->scratch);
    size_t first = depth;
    while (first && stack[first - 1] != again) first--;
    for (size_t i = depth; i >= first; i--) /* the stack runs against the data */
        mth__text_add(&text, "%s -> ", wires->model->block.at[stack[i - 1]]->name);
    const mth__block *block = wires->model->block.at[stack[depth - 1]];
    mth__text_add(&text, "%s", block->name);
    return at_line(mth__error_operator(FAIL(MTH_ERROR_VALUE, F("the wiring has a cycle: %s", text.at),
                                           F("let one of them read another name")),
                       block->name),
        block->line);
}

/* Depth first along the inputs, blocks as composed: an order that is the user's wherever it can be. */
static mth_status sort_blocks(wiring *wires) {
    size_t n = wires->model->block.n, done = 0;
    mth__resolved *resolved = wires->out;
    enum { NEW_BLOCK, OPEN, DONE };
    char *state = NEW_ARRAY(wires->scratch, char, n + 1);
    int *stack = NEW_ARRAY(wires->scratch, int, n + 1), *next = NEW_ARRAY(wires->scratch, int, n + 1);
    resolved->order = NEW_ARRAY(wires->model->arena, int, n);
    for (size_t root = 0; root < n; root++) {
        size_t depth = 0;
        if (state[root] == NEW_BLOCK) stack[depth++] = (int)root, state[root] = OPEN;
        while (depth) {
            int number = stack[depth - 1];
            const struct mth__inlet *in = &resolved->block[number];
            if (next[number] == in->nin) {
                state[number] = DONE;
                resolved->order[done++] = number;
                depth--;
                continue;
            }
            int source = in->from[next[number]++].block;
            if (source < 0 || state[source] == DONE) continue;
            if (state[source] == OPEN) return cycle(wires, stack, depth, source);
            state[source] = OPEN;
            stack[depth++] = source;
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- outputs */
static const char *output_name(wiring *wires, int block_number, int port) {
    const mth__block *block = wires->model->block.at[block_number];
    const char *port_name = block->out.at[port].name;
    if (block->out_name[port]) return block->out_name[port];
    if (!block->model) return qualified(wires, block, port_name);
    const name_entry *plain = &wires->name.at[find(wires, port_name)];
    bool writer = plain->block == block_number && plain->port == port;
    /* of several blocks' "output" the one that no block consumes */
    bool last = plain->block < 0 && plain->open == 1 && plain->input < 0;
    return writer || last ? port_name : qualified(wires, block, port_name);
}

/* Of what the user wants as outputs, only the names are known until here. */
static mth_status read_exposures(wiring *wires) {
    for (size_t i = 0; i < wires->model->exposure.n; i++) {
        const mth__exposure *exposure = &wires->model->exposure.at[i];
        const int id = find(wires, exposure->name);
        const name_entry *entry = id < 0 ? NULL : &wires->name.at[id];
        if (!entry || (entry->block < 0 && entry->input < 0 && entry->source < 0)) {
            VEC(const char *) known = {0};
            for (size_t k = 0; k < wires->name.n; k++)
                if (wires->name.at[k].block >= 0) PUSH(wires->scratch, known, wires->name.at[k].text);
            const char *near = mth__nearest(exposure->name, known.at, known.n);
            return at_line(
                FAIL(MTH_ERROR_KEY, F("'%s' is to be an output, and no block makes it", exposure->name),
                    near ? F("did you mean '%s'?", near) : F("use the name that a block's output is wired to")),
                exposure->line);
        }
        const mth__source from = source_of(wires, id);
        if (from.block < 0)
            return at_line(
                FAIL(MTH_ERROR_VALUE, F("'%s' is to be an output, and it is an input of the model", exposure->name),
                    F("leave that out, or make an output of it by a module: Identity with input='%s', output='%s_out'",
                        exposure->name, exposure->name)),
                exposure->line);
        wires->out->block[from.block].exposed[from.port] = true;
    }
    return NULL;
}

static void list_connections(wiring *wires) {
    mth__arena *arena = wires->model->arena;
    wires->out->made_by = NEW_ARRAY(arena, mth__source, wires->name.n);
    for (size_t i = 0; i < wires->name.n; i++) {
        const name_entry *entry = &wires->name.at[i];
        if (entry->block < 0 && entry->source < 0 && entry->input < 0) continue;
        const int id = mth__names_add(arena, &wires->out->connection, mth__copy_text(arena, entry->text));
        wires->out->made_by[id] = source_of(wires, (int)i);
    }
}

static void list_outputs(wiring *wires) {
    VEC(struct mth__outlet) output = {0};
    const mth_model *model = wires->model;
    for (size_t k = 0; k < model->block.n; k++)
        for (int port = 0; port < model->block.at[k]->out.n; port++) {
            if (!model->block.at[k]->model || wires->out->block[k].consumed[port] || model->block.at[k]->out_name[port])
                continue;
            wires->name.at[find(wires, model->block.at[k]->out.at[port].name)].open++;
        }
    for (size_t k = 0; k < model->block.n; k++)
        for (int port = 0; port < model->block.at[k]->out.n; port++) {
            const bool consumed = wires->out->block[k].consumed[port], exposed = wires->out->block[k].exposed[port];
            if (consumed && !exposed) continue;
            struct mth__outlet outlet = {output_name(wires, (int)k, port), (int)k, port,
                model->block.at[k]->out.at[port].optional || consumed, exposed};
            PUSH(model->arena, output, outlet);
        }
    wires->out->output = output.at;
    wires->out->outputs = (int)output.n;
    wires->out->output_name = NEW_ARRAY(model->arena, const char *, output.n);
    for (size_t i = 0; i < output.n; i++) wires->out->output_name[i] = output.at[i].name;
}

/* ---------------------------------------------------------------- all of it */
static mth_status resolve(wiring *wires) {
    const mth_model *model = wires->model;
    for (size_t k = 0; k < model->block.n; k++) TRY(read_wires(wires, (int)k));
    read_joins(wires);
    TRY(name_outputs(wires));
    for (size_t k = 0; k < model->block.n; k++) TRY(bind_inputs(wires, (int)k));
    TRY(check_parameters(wires));
    TRY(check_joins(wires));
    wires->out->block = NEW_ARRAY(model->arena, struct mth__inlet, model->block.n);
    for (size_t k = 0; k < model->block.n; k++) {
        wires->out->block[k].consumed = NEW_ARRAY(model->arena, bool, model->block.at[k]->out.n);
        wires->out->block[k].exposed = NEW_ARRAY(model->arena, bool, model->block.at[k]->out.n);
    }
    for (size_t k = 0; k < model->block.n; k++) {
        struct inlets *in = &wires->in[k];
        struct mth__inlet *to = &wires->out->block[k];
        to->nin = (int)in->from.n;
        to->port = NEW_ARRAY(model->arena, const char *, in->from.n);
        to->from = NEW_ARRAY(model->arena, mth__source, in->from.n);
        for (size_t i = 0; i < in->from.n; i++) {
            to->port[i] = in->port.at[i];
            to->from[i] = in->name.at[i] >= 0 ? source_of(wires, in->name.at[i]) : in->from.at[i];
            if (to->from[i].block >= 0) wires->out->block[to->from[i].block].consumed[to->from[i].port] = true;
        }
    }
    TRY(sort_blocks(wires));
    TRY(read_exposures(wires));
    list_outputs(wires);
    list_connections(wires);
    wires->out->input = NEW_ARRAY(model->arena, const char *, wires->input.n);
    for (size_t i = 0; i < wires->input.n; i++) wires->out->input[i] = wires->input.at[i];
    wires->out->inputs = (int)wires->input.n;
    return NULL;
}

/* Not part of the walk below: that one has a frame for each level of models. */
__attribute__((noinline)) static mth_status resolve_own(const mth_model *model) {
    wiring wires = {.model = model, .scratch = mth__arena_new()};
    wires.in = NEW_ARRAY(wires.scratch, struct inlets, model->block.n);
    wires.out = NEW(model->arena, mth__resolved);
    wires.out->sharing = NEW(model->arena, const mth__sharing *);
    TRY(resolve(&wires));
    *model->resolved = wires.out;
    mth__arena_free(wires.scratch);
    return NULL;
}

mth_status mth__resolve(const mth_model *model, const mth__resolved **out) {
    for (size_t k = 0; k < model->block.n; k++) {
        const mth__resolved *unused;
        const mth__block *block = model->block.at[k];
        if (block->model) TRY(mth__error_operator(mth__resolve(block->model, &unused), block->name));
    }
    if (!*model->resolved) TRY(resolve_own(model));
    *out = *model->resolved;
    return NULL;
}

mth__ports mth__model_inputs(mth__arena *arena, const mth__resolved *resolved) {
    mth__ports ports = {0};
    for (int i = 0; i < resolved->inputs; i++)
        mth__ports_add(arena, &ports, (mth__port){resolved->input[i], false, false});
    return ports;
}

mth__ports mth__model_outputs(mth__arena *arena, const mth__resolved *resolved) {
    mth__ports ports = {0};
    for (int i = 0; i < resolved->outputs; i++)
        mth__ports_add(arena, &ports, (mth__port){resolved->output[i].name, resolved->output[i].side, false});
    return ports;
}

mth_status mth__model_resolve(const mth_model *model, mth__mesh *mesh, bool partitioned) {
    const mth__resolved *resolved;
    if (!model->block.n)
        return FAIL(MTH_ERROR_VALUE, F("the model has no blocks"),
            F("add some with mth_model_add, such as Linear(dimension=4) with input='x', output='y'"));
    TRY(mth__resolve(model, &resolved));
    const mth__sharing *sharing;
    TRY(mth__sharing_find(model, &sharing));
    return mth__site_check(model, mesh, &(mth__site){mth__place_whole(mesh), -1, -1}, partitioned);
}

typedef struct {
    const mth_model *model;
    const char *const **names;
    size_t *count;
    bool outputs;
} listing;

static mth_status list_names(void *context) {
    const listing *list = context;
    const mth__resolved *resolved;
    TRY(mth__resolve(list->model, &resolved));
    *list->names = list->outputs ? resolved->output_name : resolved->input;
    *list->count = (size_t)(list->outputs ? resolved->outputs : resolved->inputs);
    return NULL;
}

static mth_status get_names(const mth_model *model, const char *const **names, size_t *count, bool outputs) {
    TRY(mth__given(model, "the model"));
    TRY(mth__result_given(names));
    TRY(mth__result_given(count));
    return mth__guard(list_names, &(listing){model, names, count, outputs});
}
mth_status mth_model_get_inputs(const mth_model *model, const char *const **names, size_t *count) {
    return get_names(model, names, count, false);
}
mth_status mth_model_get_outputs(const mth_model *model, const char *const **names, size_t *count) {
    return get_names(model, names, count, true);
}

size_t mth__model_input_count(const mth_model *model) { return (size_t)(*model->resolved)->inputs; }
const char *mth__model_input_name(const mth_model *model, size_t i) { return (*model->resolved)->input[i]; }
size_t mth__model_output_count(const mth_model *model) { return (size_t)(*model->resolved)->outputs; }
const char *mth__model_output_name(const mth_model *model, size_t i) { return (*model->resolved)->output[i].name; }
