/* From wires to connections. Names are one space in a model; a name has one writer, or it is an input of the model.
 * Where the user said
 * nothing:
 *   - an output has the name "<block>.<port>"; of a submodel also its plain name, where no other writer has it
 *   - an open input takes the name "<block>.<port>" if somebody uses it; of a submodel its plain name if the parent
 *   uses or makes it
 *   - then += gives the one open input that is left the previous block's output
 *   - what is still open becomes an input of the model, named as the port where no other input is (of a submodel:
 *   shared by name) */
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
static int find(const wiring *w, const char *text) { return mth__names_find(&w->names, text); }

static int intern(wiring *w, const char *text) {
    int id = mth__names_add(w->scratch, &w->names, text);
    if ((size_t)id == w->name.n)
        PUSH(w->scratch, w->name, ((name_entry){.text = text, .block = -1, .source = -1, .input = -1}));
    return id;
}

static const char *qualified(wiring *w, const mth__block *b, const char *port) {
    return mth__format(w->model->arena, "%s.%s", b->name, port);
}

static mth_status at_line(mth_status s, const char *line) { return mth__error_source(s, line); }

static mth_status two_writers(wiring *w, const name_entry *n, int block, int port) {
    const mth__block *a = w->model->block.at[n->block], *b = w->model->block.at[block];
    mth_status s = FAIL(MTH_ERROR_VALUE,
        F("'%s' is written by %s (port %s) and by %s (port %s)", n->text, a->name, a->out.at[n->port].name, b->name,
            b->out.at[port].name),
        F("give the output of one of them another name"));
    return at_line(mth__error_operator(s, b->name), b->line);
}

/* ---------------------------------------------------------------- what the user said */
static mth_status read_wires(wiring *w, int block) {
    const mth__block *b = w->model->block.at[block];
    for (size_t i = 0; i < b->wires; i++) {
        int id = intern(w, b->wire[i].name), port = mth__ports_find(&b->in, b->wire[i].port);
        if (port >= 0) {
            w->name.at[id].said = true;
            continue;
        }
        port = mth__ports_find(&b->out, b->wire[i].port);
        if (w->name.at[id].block >= 0) return two_writers(w, &w->name.at[id], block, port);
        w->name.at[id].block = block;
        w->name.at[id].port = port;
    }
    return NULL;
}

static void read_joins(wiring *w) {
    for (size_t i = 0; i < w->model->join.n; i++) {
        const mth__join *j = &w->model->join.at[i];
        int source = intern(w, j->source), destination = intern(w, j->destination);
        w->name.at[source].said = w->name.at[destination].said = true;
        w->name.at[source].joined = true;
        w->name.at[destination].source = source;
        w->name.at[destination].join = j;
    }
}

/* ---------------------------------------------------------------- what follows */
static mth_status name_outputs(wiring *w) {
    for (size_t k = 0; k < w->model->block.n; k++) {
        const mth__block *b = w->model->block.at[k];
        for (int p = 0; p < b->out.n; p++) {
            if (b->out_name[p]) continue;
            int id = intern(w, qualified(w, b, b->out.at[p].name));
            if (w->name.at[id].block >= 0) return two_writers(w, &w->name.at[id], (int)k, p);
            w->name.at[id].block = (int)k;
            w->name.at[id].port = p;
            if (!b->model) continue;
            name_entry *plain = &w->name.at[intern(w, b->out.at[p].name)];
            if (plain->said && plain->candidates && plain->block < 0) {
                name_entry first = *plain;
                first.block = plain->candidate_block;
                first.port = plain->candidate_port;
                return two_writers(w, &first, (int)k, p);
            }
            plain->candidates++;
            plain->candidate_block = (int)k;
            plain->candidate_port = p;
        }
    }
    for (size_t i = 0; i < w->name.n; i++) {
        name_entry *n = &w->name.at[i];
        if (n->candidates != 1 || n->block >= 0 || n->source >= 0) continue;
        n->block = n->candidate_block;
        n->port = n->candidate_port;
    }
    return NULL;
}

static void bind(wiring *w, int block, const char *port, int name, mth__source from) {
    struct inlets *in = &w->in[block];
    if (name >= 0) w->name.at[name].used = true;
    PUSH(w->scratch, in->from, from);
    PUSH(w->scratch, in->name, name);
    PUSH(w->scratch, in->port, port);
}

/* The name that an unwired input takes because somebody else uses or makes it; -1: none. */
static int implied_name(wiring *w, int block, const char *port) {
    const mth__block *b = w->model->block.at[block];
    int id = find(w, qualified(w, b, port));
    if (id >= 0 && w->name.at[id].said) return id;
    if (!b->model) return -1;
    id = find(w, port);
    if (id < 0) return -1;
    const name_entry *n = &w->name.at[id];
    return n->block != block && (n->said || n->block >= 0) ? id : -1;
}

/* The model's own name for an input that nothing binds. */
static int open_name(wiring *w, int block, const char *port) {
    const mth__block *b = w->model->block.at[block];
    int id = intern(w, port);
    name_entry *n = &w->name.at[id];
    bool taken = n->said || n->block >= 0 || n->candidates || (n->used && !(b->model && n->shared));
    if (taken) return intern(w, qualified(w, b, port));
    n->shared = b->model != NULL;
    return id;
}

static mth_status too_open(const mth__block *b, const char *const *port, size_t n, const char *previous) {
    char text[256];
    mth__sink t = mth__sink_new(text, sizeof text);
    for (size_t i = 0; i < n; i++) mth__sink_add(&t, "%s%s", i ? ", " : "", port[i]);
    mth_status s = FAIL(MTH_ERROR_VALUE,
        F("%zu inputs of %s are open (%s), and MTH_CHAIN can give only one of them the output of %s", n, b->name, text,
            previous),
        F("wire the others by name: %s='...'", port[n - 1]));
    return at_line(mth__error_operator(s, b->name), b->line);
}

static mth_status bind_inputs(wiring *w, int block) {
    const mth__block *b = w->model->block.at[block];
    const mth__source unknown = {-1, -1};
    VEC(const char *) open = {0};
    int *wires = NEW_ARRAY(w->scratch, int, b->in.n + 1);
    for (int p = 0; p < b->in.n; p++) {
        const char *port = b->in.at[p].name;
        for (int i = b->in_first[p]; i < b->in_first[p + 1]; i++) bind(w, block, port, find(w, b->in_name[i]), unknown);
        wires[p] = b->in_first[p + 1] - b->in_first[p];
        if (wires[p]) continue;
        int id = implied_name(w, block, port);
        if (id < 0 && b->in.at[p].optional) continue;
        wires[p] = 1;
        if (id < 0) PUSH(w->scratch, open, port);
        bind(w, block, port, id, unknown);
    }
    bool chain = b->mode == MTH_CHAIN && block > 0 && open.n;
    const mth__block *previous = chain ? w->model->block.at[block - 1] : NULL;
    if (chain && open.n > 1) return too_open(b, open.at, open.n, previous->name);
    struct inlets *in = &w->in[block];
    for (size_t i = 0; i < in->port.n; i++) {
        if (in->name.at[i] >= 0) continue;
        if (chain) {
            in->from.at[i] = (mth__source){block - 1, mth__ports_main(&previous->out)};
            continue;
        }
        in->name.at[i] = open_name(w, block, in->port.at[i]);
        w->name.at[in->name.at[i]].used = true;
    }
    if (!b->module || !b->module->type->wired) return NULL;
    return at_line(mth__error_operator(b->module->type->wired(b->module, wires), b->name), b->line);
}

/* ---------------------------------------------------------------- connect */
static mth_status unknown_name(wiring *w, const mth__join *j, const char *name, const char *role) {
    VEC(const char *) known = {0};
    for (size_t i = 0; i < w->name.n; i++)
        if (strcmp(w->name.at[i].text, name) && (w->name.at[i].used || w->name.at[i].block >= 0))
            PUSH(w->scratch, known, w->name.at[i].text);
    const char *near = mth__nearest(name, known.at, known.n);
    return at_line(FAIL(MTH_ERROR_KEY,
                       F("connect(source='%s', destination='%s'): no block has the %s '%s'", j->source, j->destination,
                           role, name),
                       near ? F("did you mean '%s'?", near) : F("use the name that a block's %s is wired to", role)),
        j->line);
}

static mth_status check_joins(wiring *w) {
    /* by name: 1 + the name whose walk to its source came through; 0: none yet */
    int *walked = NEW_ARRAY(w->scratch, int, w->name.n);
    for (size_t i = 0; i < w->name.n; i++) {
        const name_entry *n = &w->name.at[i];
        if (n->source < 0) continue;
        if (n->block >= 0) {
            const mth__block *b = w->model->block.at[n->block];
            mth_status e = FAIL(MTH_ERROR_VALUE,
                F("connect(source='%s', destination='%s') contradicts the wire of %s, whose port '%s' is '%s'",
                    n->join->source, n->text, b->name, b->out.at[n->port].name, n->text),
                F("give the output another name, or leave out the connect"));
            return at_line(e, n->join->line);
        }
        if (!n->used && !n->joined) return unknown_name(w, n->join, n->text, "input");
        const name_entry *s = &w->name.at[n->source];
        if (s->block < 0 && !s->used && s->source < 0) return unknown_name(w, n->join, s->text, "output");
        int k = (int)i;
        for (; w->name.at[k].source >= 0 && !walked[k]; k = w->name.at[k].source) walked[k] = (int)i + 1;
        if (w->name.at[k].source >= 0 && walked[k] == (int)i + 1)
            return at_line(FAIL(MTH_ERROR_VALUE, F("the connects of '%s' and '%s' run in a circle", n->text, s->text),
                               F("leave out one of them")),
                n->join->line);
    }
    return NULL;
}

static mth__source source_of(wiring *w, int name) {
    int first = name;
    while (w->name.at[first].source >= 0) first = w->name.at[first].source;
    while (name != first) { /* the next that comes this way has one step */
        int next = w->name.at[name].source;
        w->name.at[name].source = first;
        name = next;
    }
    name_entry *n = &w->name.at[first];
    if (n->block >= 0) return (mth__source){n->block, n->port};
    if (n->input < 0) {
        n->input = (int)w->input.n;
        PUSH(w->scratch, w->input, n->text);
    }
    return (mth__source){-1, n->input};
}

/* ---------------------------------------------------------------- names of parameters */
static int by_name(const void *a, const void *b) {
    return strcmp((*(mth__block *const *)a)->name, (*(mth__block *const *)b)->name);
}

/* The block of the model that is resolved whose name these n bytes are: searched in order, since there may be as many
 * names as blocks. */
static const mth__block *block_named(wiring *w, const char *name, size_t n) {
    const size_t count = w->model->block.n;
    if (!w->sorted) {
        w->sorted = NEW_ARRAY(w->scratch, mth__block *, count);
        memcpy(w->sorted, w->model->block.at, count * sizeof *w->sorted);
        qsort(w->sorted, count, sizeof *w->sorted, by_name);
    }
    mth__block key = {.name = mth__format(w->scratch, "%.*s", (int)n, name)}, *wanted = &key;
    mth__block **found = bsearch(&wanted, w->sorted, count, sizeof *w->sorted, by_name);
    return found ? *found : NULL;
}

/* The block at or inside of `b` whose parameter `name` is, which is a path from there. */
static const mth__block *owner(mth__arena *scratch, const mth__block *b, const char *name) {
    while (b) {
        mth__ports parameters = {0};
        if (b->module) parameters = mth__parameter_names(scratch, b->module->type);
        if (mth__ports_find(&parameters, name) >= 0) return b;
        const int stage = b->module ? mth__pipeline_stage_named(scratch, b->module, &name) : -1;
        const mth_model *m = stage < 0 ? b->model : mth__pipeline_stage(b->module, (size_t)stage);
        const char *dot = m ? strchr(name, '.') : NULL;
        b = dot ? mth__model_block(m, name, (size_t)(dot - name)) : NULL;
        if (dot) name = dot + 1;
    }
    return NULL;
}

const mth__block *mth__parameter_block(mth__arena *scratch, const mth_model *m, const char *name) {
    const char *dot = strchr(name, '.');
    return dot ? owner(scratch, mth__model_block(m, name, (size_t)(dot - name)), dot + 1) : NULL;
}

static mth_status parameter_name(wiring *w, const name_entry *n, const mth__block *of) {
    const bool output = n->block >= 0;
    char *other = mth__copy_text(w->scratch, n->text);
    for (char *c = other; *c; c++)
        if (*c == '.') *c = '_';
    const char *last = strrchr(n->text, '.');
    const char *share = strcmp(last, ".weight")
        ? "share it by adding one module object twice"
        : mth__format(w->scratch, "share it by the option weight='%s' of Linear or Embedding", n->text);
    for (size_t i = 0; i < w->model->join.n && !output; i++)
        if (!strcmp(w->model->join.at[i].source, n->text)) {
            const mth__join *j = &w->model->join.at[i];
            return at_line(FAIL(MTH_ERROR_VALUE,
                               F("connect(source='%s', destination='%s') joins a parameter of %s", j->source,
                                   j->destination, of->name),
                               F("leave it out and %s, or give the values as the input '%s'", share, j->destination)),
                j->line);
        }
    mth_status s = FAIL(MTH_ERROR_VALUE,
        F("the %s '%s' has the name of a parameter of %s", output ? "output" : "input", n->text, of->name),
        output ? F("call it '%s'", other) : F("%s, or call it '%s' and give the values as an input", share, other));
    for (size_t k = 0; k < w->model->block.n; k++)
        for (size_t i = 0; i < w->model->block.at[k]->wires; i++)
            if (!strcmp(w->model->block.at[k]->wire[i].name, n->text))
                return at_line(mth__error_operator(s, w->model->block.at[k]->name), w->model->block.at[k]->line);
    return s;
}

/* Parameters, inputs and outputs meet in dictionaries of names, such as the gradients': one of two of a name would be
 * lost. */
static mth_status check_parameters(wiring *w) {
    for (size_t i = 0; i < w->name.n; i++) {
        const char *text = w->name.at[i].text, *dot = strchr(text, '.');
        const mth__block *of = dot ? owner(w->scratch, block_named(w, text, (size_t)(dot - text)), dot + 1) : NULL;
        if (of) return parameter_name(w, &w->name.at[i], of);
    }
    return NULL;
}

/* ---------------------------------------------------------------- order, cycles */
static mth_status cycle(wiring *w, const int *stack, size_t depth, int again) {
    mth__text t = mth__text_new(w->scratch);
    size_t first = depth;
    while (first && stack[first - 1] != again) first--;
    for (size_t i = depth; i >= first; i--) /* the stack runs against the data */
        mth__text_add(&t, "%s -> ", w->model->block.at[stack[i - 1]]->name);
    const mth__block *b = w->model->block.at[stack[depth - 1]];
    mth__text_add(&t, "%s", b->name);
    return at_line(mth__error_operator(FAIL(MTH_ERROR_VALUE, F("the wiring has a cycle: %s", t.at),
                                           F("let one of them read another name")),
                       b->name),
        b->line);
}

/* Depth first along the inputs, blocks as composed: an order that is the user's wherever it can be. */
static mth_status sort_blocks(wiring *w) {
    size_t n = w->model->block.n, done = 0;
    mth__resolved *r = w->out;
    enum { NEW_BLOCK, OPEN, DONE };
    char *state = NEW_ARRAY(w->scratch, char, n + 1);
    int *stack = NEW_ARRAY(w->scratch, int, n + 1), *next = NEW_ARRAY(w->scratch, int, n + 1);
    r->order = NEW_ARRAY(w->model->arena, int, n);
    for (size_t root = 0; root < n; root++) {
        size_t depth = 0;
        if (state[root] == NEW_BLOCK) stack[depth++] = (int)root, state[root] = OPEN;
        while (depth) {
            int b = stack[depth - 1];
            const struct mth__inlet *in = &r->block[b];
            if (next[b] == in->nin) {
                state[b] = DONE;
                r->order[done++] = b;
                depth--;
                continue;
            }
            int source = in->from[next[b]++].block;
            if (source < 0 || state[source] == DONE) continue;
            if (state[source] == OPEN) return cycle(w, stack, depth, source);
            state[source] = OPEN;
            stack[depth++] = source;
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- outputs */
static const char *output_name(wiring *w, int block, int port) {
    const mth__block *b = w->model->block.at[block];
    const char *p = b->out.at[port].name;
    if (b->out_name[port]) return b->out_name[port];
    if (!b->model) return qualified(w, b, p);
    const name_entry *plain = &w->name.at[find(w, p)];
    bool writer = plain->block == block && plain->port == port;
    /* of several blocks' "output" the one that no block consumes */
    bool last = plain->block < 0 && plain->open == 1 && plain->input < 0;
    return writer || last ? p : qualified(w, b, p);
}

/* Of what the user wants as outputs, only the names are known until here. */
static mth_status read_exposures(wiring *w) {
    for (size_t i = 0; i < w->model->exposure.n; i++) {
        const mth__exposure *exposure = &w->model->exposure.at[i];
        const int id = find(w, exposure->name);
        const name_entry *n = id < 0 ? NULL : &w->name.at[id];
        if (!n || (n->block < 0 && n->input < 0 && n->source < 0)) {
            VEC(const char *) known = {0};
            for (size_t k = 0; k < w->name.n; k++)
                if (w->name.at[k].block >= 0) PUSH(w->scratch, known, w->name.at[k].text);
            const char *near = mth__nearest(exposure->name, known.at, known.n);
            return at_line(
                FAIL(MTH_ERROR_KEY, F("'%s' is to be an output, and no block makes it", exposure->name),
                    near ? F("did you mean '%s'?", near) : F("use the name that a block's output is wired to")),
                exposure->line);
        }
        const mth__source from = source_of(w, id);
        if (from.block < 0)
            return at_line(
                FAIL(MTH_ERROR_VALUE, F("'%s' is to be an output, and it is an input of the model", exposure->name),
                    F("leave that out, or make an output of it by a module: Identity with input='%s', output='%s_out'",
                        exposure->name, exposure->name)),
                exposure->line);
        w->out->block[from.block].exposed[from.port] = true;
    }
    return NULL;
}

static void list_connections(wiring *w) {
    mth__arena *arena = w->model->arena;
    w->out->made_by = NEW_ARRAY(arena, mth__source, w->name.n);
    for (size_t i = 0; i < w->name.n; i++) {
        const name_entry *n = &w->name.at[i];
        if (n->block < 0 && n->source < 0 && n->input < 0) continue;
        const int id = mth__names_add(arena, &w->out->connection, mth__copy_text(arena, n->text));
        w->out->made_by[id] = source_of(w, (int)i);
    }
}

static void list_outputs(wiring *w) {
    VEC(struct mth__outlet) output = {0};
    const mth_model *m = w->model;
    for (size_t k = 0; k < m->block.n; k++)
        for (int p = 0; p < m->block.at[k]->out.n; p++) {
            if (!m->block.at[k]->model || w->out->block[k].consumed[p] || m->block.at[k]->out_name[p]) continue;
            w->name.at[find(w, m->block.at[k]->out.at[p].name)].open++;
        }
    for (size_t k = 0; k < m->block.n; k++)
        for (int p = 0; p < m->block.at[k]->out.n; p++) {
            const bool consumed = w->out->block[k].consumed[p], exposed = w->out->block[k].exposed[p];
            if (consumed && !exposed) continue;
            struct mth__outlet outlet = {
                output_name(w, (int)k, p), (int)k, p, m->block.at[k]->out.at[p].optional || consumed, exposed};
            PUSH(m->arena, output, outlet);
        }
    w->out->output = output.at;
    w->out->outputs = (int)output.n;
    w->out->output_name = NEW_ARRAY(m->arena, const char *, output.n);
    for (size_t i = 0; i < output.n; i++) w->out->output_name[i] = output.at[i].name;
}

/* ---------------------------------------------------------------- all of it */
static mth_status resolve(wiring *w) {
    const mth_model *m = w->model;
    for (size_t k = 0; k < m->block.n; k++) TRY(read_wires(w, (int)k));
    read_joins(w);
    TRY(name_outputs(w));
    for (size_t k = 0; k < m->block.n; k++) TRY(bind_inputs(w, (int)k));
    TRY(check_parameters(w));
    TRY(check_joins(w));
    w->out->block = NEW_ARRAY(m->arena, struct mth__inlet, m->block.n);
    for (size_t k = 0; k < m->block.n; k++) {
        w->out->block[k].consumed = NEW_ARRAY(m->arena, bool, m->block.at[k]->out.n);
        w->out->block[k].exposed = NEW_ARRAY(m->arena, bool, m->block.at[k]->out.n);
    }
    for (size_t k = 0; k < m->block.n; k++) {
        struct inlets *in = &w->in[k];
        struct mth__inlet *to = &w->out->block[k];
        to->nin = (int)in->from.n;
        to->port = NEW_ARRAY(m->arena, const char *, in->from.n);
        to->from = NEW_ARRAY(m->arena, mth__source, in->from.n);
        for (size_t i = 0; i < in->from.n; i++) {
            to->port[i] = in->port.at[i];
            to->from[i] = in->name.at[i] >= 0 ? source_of(w, in->name.at[i]) : in->from.at[i];
            if (to->from[i].block >= 0) w->out->block[to->from[i].block].consumed[to->from[i].port] = true;
        }
    }
    TRY(sort_blocks(w));
    TRY(read_exposures(w));
    list_outputs(w);
    list_connections(w);
    w->out->input = NEW_ARRAY(m->arena, const char *, w->input.n);
    for (size_t i = 0; i < w->input.n; i++) w->out->input[i] = w->input.at[i];
    w->out->inputs = (int)w->input.n;
    return NULL;
}

/* Not part of the walk below: that one has a frame for each level of models. */
__attribute__((noinline)) static mth_status resolve_own(const mth_model *m) {
    wiring w = {.model = m, .scratch = mth__arena_new()};
    w.in = NEW_ARRAY(w.scratch, struct inlets, m->block.n);
    w.out = NEW(m->arena, mth__resolved);
    TRY(resolve(&w));
    *m->resolved = w.out;
    mth__arena_free(w.scratch);
    return NULL;
}

mth_status mth__resolve(const mth_model *m, const mth__resolved **out) {
    for (size_t k = 0; k < m->block.n; k++) {
        const mth__resolved *unused;
        const mth__block *b = m->block.at[k];
        if (b->model) TRY(mth__error_operator(mth__resolve(b->model, &unused), b->name));
    }
    if (!*m->resolved) TRY(resolve_own(m));
    *out = *m->resolved;
    return NULL;
}

mth__ports mth__model_inputs(mth__arena *arena, const mth__resolved *r) {
    mth__ports ports = {0};
    for (int i = 0; i < r->inputs; i++) mth__ports_add(arena, &ports, (mth__port){r->input[i], false, false});
    return ports;
}

mth__ports mth__model_outputs(mth__arena *arena, const mth__resolved *r) {
    mth__ports ports = {0};
    for (int i = 0; i < r->outputs; i++)
        mth__ports_add(arena, &ports, (mth__port){r->output[i].name, r->output[i].side, false});
    return ports;
}

mth_status mth__model_resolve(const mth_model *m, mth__mesh *mesh, bool partitioned) {
    const mth__resolved *r;
    if (!m->block.n)
        return FAIL(MTH_ERROR_VALUE, F("the model has no blocks"),
            F("add some with mth_model_add, such as Linear(dimension=4) with input='x', output='y'"));
    TRY(mth__resolve(m, &r));
    mth__arena *scratch = mth__arena_new();
    mth__sharing sharing;
    TRY(mth__sharing_find(scratch, m, &sharing));
    mth__arena_free(scratch);
    return mth__site_check(m, mesh, &(mth__site){mth__place_whole(mesh), -1, -1}, partitioned);
}

typedef struct {
    const mth_model *model;
    const char *const **names;
    size_t *count;
    bool outputs;
} listing;

static mth_status list_names(void *context) {
    const listing *l = context;
    const mth__resolved *r;
    TRY(mth__resolve(l->model, &r));
    *l->names = l->outputs ? r->output_name : r->input;
    *l->count = (size_t)(l->outputs ? r->outputs : r->inputs);
    return NULL;
}

static mth_status get_names(const mth_model *m, const char *const **names, size_t *count, bool outputs) {
    TRY(mth__given(m, "the model"));
    TRY(mth__result_given(names));
    TRY(mth__result_given(count));
    return mth__guard(list_names, &(listing){m, names, count, outputs});
}
mth_status mth_model_get_inputs(const mth_model *m, const char *const **names, size_t *count) {
    return get_names(m, names, count, false);
}
mth_status mth_model_get_outputs(const mth_model *m, const char *const **names, size_t *count) {
    return get_names(m, names, count, true);
}

size_t mth__model_input_count(const mth_model *m) { return (size_t)(*m->resolved)->inputs; }
const char *mth__model_input_name(const mth_model *m, size_t i) { return (*m->resolved)->input[i]; }
size_t mth__model_output_count(const mth_model *m) { return (size_t)(*m->resolved)->outputs; }
const char *mth__model_output_name(const mth_model *m, size_t i) { return (*m->resolved)->output[i].name; }
