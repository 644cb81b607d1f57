/* From the ordered graph to programs by role. A node costs what the roles that take part in it cost, not the devices.
 */
#include "base/names.h"
#include "catalog/rows.h"
#include "emit/emit.h"
#include <stdio.h>
#include <string.h>

typedef struct {
    mth__arena *arena, *scratch; /* the program's; of this pass */
    const mth__graph *graph;
    mth__program *p;
    const mth__role_list *roles; /* by placement id */
    /* by value id: the value's index in each role of roles[placement]; -1: not made */
    int **slot;
    const char **name; /* by value id */
    /* by value id: its first exit or -1; by exit: the next one of the same value */
    int *exit_of, *next_exit;
    mth__algorithm algorithm[MTH__CHANNEL_KINDS];
    bool overlap, views, global;
    mth__names taken; /* in use */
} emission;

/* ---------------------------------------------------------------- names */
static bool take_name(emission *e, const char *name) {
    const int before = (int)e->taken.name.n;
    return mth__names_add(e->scratch, &e->taken, name) == before;
}

static const char *numbered_name(mth__arena *arena, int id) { /* "%id", the name of most values */
    char digits[12], *s = mth__alloc(arena, 12);
    int n = 0, at = 0;
    do digits[n++] = (char)('0' + id % 10);
    while (id /= 10);
    s[at++] = '%';
    while (n) s[at++] = digits[--n];
    return s;
}

/* The user's name where it can't be mistaken for one of ours and is not in use yet. */
static const char *name_of(emission *e, const mth__value *v) {
    if (!e->name[v->id]) {
        const char *name = v->name && *v->name && !strpbrk(v->name, "%~") ? v->name : NULL;
        /* named as its output, which it is not */
        if (name && v->kind == MTH__VALUE_SEED) name = mth__format(e->arena, "%s~gradient", name);
        e->name[v->id] = name && take_name(e, name) ? mth__copy_text(e->arena, name) : numbered_name(e->arena, v->id);
    }
    return e->name[v->id];
}

/* ---------------------------------------------------------------- values of a role */
static int position_of(const emission *e, const mth__value *v, int role, int hint) {
    const mth__role_list *l = &e->roles[v->sharding.on->id];
    if (hint < l->n && l->role[hint] == role) return hint;
    int a = 0, b = l->n;
    while (a < b) {
        int middle = (a + b) / 2;
        if (l->role[middle] < role)
            a = middle + 1;
        else
            b = middle;
    }
    return a < l->n && l->role[a] == role ? a : -1;
}

/* `hint`: where the role probably stands in the list of the value's placement. -1: the role has no such value. */
static int slot_of(const emission *e, const mth__value *v, int role, int hint) {
    int at = e->slot[v->id] ? position_of(e, v, role, hint) : -1;
    return at < 0 ? -1 : e->slot[v->id][at];
}

static int push_value(emission *e, int role, mth__pvalue v) {
    mth__role *r = &e->p->role.at[role];
    v.offset = v.storage == MTH__IN_SLAB ? -1 : v.offset;
    v.bytes = mth__shape_size(v.local) * (int64_t)mth_dtype_size(v.dtype);
    PUSH(e->arena, r->value, v);
    return (int)r->value.n - 1;
}

static mth__pvalue describe(emission *e, int role, const mth__value *v) {
    const mth__placement *on = v->sharding.on;
    mth__shape local = v->shape;
    if (!e->global)
        local = mth__local_shape(v->shape, &v->sharding, on->rank_of[e->p->role.at[role].device[0]], NULL, NULL);
    return (mth__pvalue){
        .name = name_of(e, v), .dtype = v->dtype, .shape = v->shape, .sharding = v->sharding, .local = local};
}

static void set_slot(emission *e, const mth__value *v, int role, int hint, int index) {
    const mth__role_list *l = &e->roles[v->sharding.on->id];
    if (!e->slot[v->id]) {
        e->slot[v->id] = NEW_ARRAY(e->scratch, int, l->n);
        for (int i = 0; i < l->n; i++) e->slot[v->id][i] = -1;
    }
    e->slot[v->id][position_of(e, v, role, hint)] = index;
}

static mth__memory_kind memory_of_exit(const emission *e, int exit) {
    return e->p->exit.at[exit].kind == MTH__EXIT_GRADIENT ? MTH__MEMORY_GRADIENT : MTH__MEMORY_OUTPUT;
}

/* A partitioner is asked for an exit as it leaves, whatever its maker's layout. */
static void lie_in_exit(const emission *e, mth__pvalue *p, int exit) {
    p->storage = MTH__IN_EXIT;
    p->index = exit;
    p->memory = memory_of_exit(e, exit);
    if (e->global) p->sharding = e->p->exit.at[exit].sharding;
}

/* A result of an instruction: in the slab, or in the exit that it is. */
static int new_result(emission *e, int role, const mth__value *v, int hint) {
    mth__pvalue p = describe(e, role, v);
    int exit = e->exit_of[v->id];
    if (exit >= 0) lie_in_exit(e, &p, exit);
    int index = push_value(e, role, p);
    set_slot(e, v, role, hint, index);
    return index;
}

static void new_alias(emission *e, int role, const mth__value *v, int hint, int of, int64_t offset) {
    mth__pvalue p = describe(e, role, v);
    const mth__pvalue *base = &e->p->role.at[role].value.at[of];
    p.storage = MTH__IN_ALIAS;
    p.index = base->storage == MTH__IN_ALIAS ? base->index : of;
    p.offset = offset + (base->storage == MTH__IN_ALIAS ? base->offset : 0);
    if (mth__shape_size(p.local) == 0) p.offset = 0; /* an empty part may begin behind the end */
    set_slot(e, v, role, hint, push_value(e, role, p));
}

/* ---------------------------------------------------------------- instructions */
static mth__instr *push_instr(
    emission *e, int role, const mth__node *n, mth__instr_kind kind, int channel, int nin, int nout) {
    int *operands = NEW_ARRAY(e->arena, int, nin + nout);
    mth__instr i = {.kind = kind,
        .channel = channel,
        .nin = nin,
        .nout = nout,
        .in = operands,
        .out = operands + nin,
        .awaited = -1,
        .scratch = -1,
        .label = n ? n->label : mth__label_outside(NULL, MTH__FORWARD)};
    mth__role *r = &e->p->role.at[role];
    PUSH(e->arena, r->instr, i);
    return &r->instr.at[r->instr.n - 1];
}

static mth_status missing(const emission *e, const mth__node *n, const mth__value *v, int role) {
    mth_status s = INTERNAL("%s (node %d) reads a value that device %d, where it runs, does not hold", n->op->name,
        n->id, e->p->role.at[role].device[0]);
    return mth__error_tensor(mth__error_operator(s, n->label.module), mth__value_text(v));
}

/* Copies of v into exits from `exit` on. */
static mth_status copy_to_exits(emission *e, const mth__value *v, int exit) {
    static const mth__attrs none;
    const mth__role_list *l = &e->roles[v->sharding.on->id];
    for (; exit >= 0; exit = e->next_exit[exit])
        for (int k = 0; k < l->n; k++) {
            int role = l->role[k], from = slot_of(e, v, role, k);
            mth__pvalue p = describe(e, role, v);
            p.name = mth__format(e->arena, "%s~%d", p.name, exit);
            lie_in_exit(e, &p, exit);
            int to = push_value(e, role, p);
            mth__instr *i = push_instr(e, role, v->node, MTH__COMPUTE, -1, 1, 1);
            i->op = mth__op_at(MTH__ROW_copy);
            i->attrs = &none;
            i->in[0] = from;
            i->out[0] = to;
        }
    return NULL;
}

/* Bytes into the operand at which a slice lies on this role, or -1 where it is not in one piece. */
static int64_t slice_offset(const mth__node *n, const mth__pvalue *in, const mth__value *out) {
    int d = (int)n->attrs.dimension;
    if (in->sharding.dim[d].naxes || out->sharding.dim[d].naxes) return -1;
    for (int k = 0; k < d; k++)
        if (in->local.dim[k] > 1) return -1;
    int64_t row = (int64_t)mth_dtype_size(in->dtype);
    for (int k = d + 1; k < in->local.rank; k++) row *= in->local.dim[k];
    return n->attrs.start * row;
}

/* As they are now: passes behind the global product change some. */
static const mth__sharding *copy_layouts(emission *e, const mth__node *n) {
    mth__sharding *layouts = NEW_ARRAY(e->arena, mth__sharding, n->nin + n->nout);
    for (int j = 0; j < n->nin; j++) layouts[j] = n->need[j];
    for (int j = 0; j < n->nout; j++) layouts[n->nin + j] = n->out[j]->sharding;
    return layouts;
}

static mth_status emit_compute(emission *e, const mth__node *n) {
    const mth__role_list *l = &e->roles[n->out[0]->sharding.on->id];
    bool alias = n->op->flags & MTH__ALIAS,
         slice = e->views && n->op->row == MTH__ROW_slice && e->exit_of[n->out[0]->id] < 0;
    for (int k = 0; k < l->n; k++) {
        int role = l->role[k], in[MTH__MAX_IN];
        for (int j = 0; j < n->nin; j++)
            if ((in[j] = slot_of(e, n->in[j], role, k)) < 0) return missing(e, n, n->in[j], role);
        int64_t offset = alias ? 0 : slice ? slice_offset(n, &e->p->role.at[role].value.at[in[0]], n->out[0]) : -1;
        if (offset >= 0) {
            new_alias(e, role, n->out[0], k, in[0], offset);
            continue;
        }
        mth__instr *i = push_instr(e, role, n, MTH__COMPUTE, -1, n->nin, n->nout);
        i->op = n->op;
        i->attrs = &n->attrs;
        i->accumulates = n->accumulates;
        if (e->global) i->layouts = copy_layouts(e, n);
        for (int j = 0; j < n->nin; j++) i->in[j] = in[j];
        for (int j = 0; j < n->nout; j++) i->out[j] = new_result(e, role, n->out[j], k);
    }
    return NULL;
}

static mth_status add_scratch(emission *e, int role, mth__instr *i, const mth__channel *c, const char *result) {
    int64_t bytes = mth__channel_scratch(c, e->p->role.at[role].device[0]);
    if (bytes == 0) return NULL;
    const mth__shape shape = {1, {bytes / (int64_t)mth_dtype_size(c->dtype)}};
    mth_status bad = mth__shape_check(shape, c->dtype);
    if (bad) {
        mth_error_free(bad);
        return mth__error_operator(
            FAIL(MTH_ERROR_VALUE,
                F("%s %s over %d devices needs 2^62 bytes of scratch or more", mth__channel_names[c->kind],
                    mth__algorithm_names[c->algorithm], mth__channel_size(c)),
                F("use collective_ops={'%s': 'direct'}, or smaller shapes", mth__channel_names[c->kind])),
            c->label);
    }
    mth__pvalue v = {.name = mth__format(e->arena, "%s~work", result),
        .dtype = c->dtype,
        .shape = shape,
        .local = shape,
        .sharding = {.on = c->from.on},
        .memory = MTH__MEMORY_COMMUNICATION};
    i->scratch = push_value(e, role, v);
    return NULL;
}

/* One instruction of a channel on one role: with the operand where `sends`, with the result where `takes`; on the
 * stream that communicates where `starts`. */
static mth_status take_part(
    emission *e, const mth__node *n, int channel, mth__instr_kind kind, int role, bool starts, bool sends, bool takes) {
    int in = sends ? slot_of(e, n->in[0], role, 0) : -1;
    if (sends && in < 0) return missing(e, n, n->in[0], role);
    mth__instr *i = push_instr(e, role, n, kind, channel, sends, takes);
    i->stream = starts ? 1 : 0;
    if (sends) i->in[0] = in;
    if (takes) i->out[0] = new_result(e, role, n->out[0], 0);
    if (sends && kind != MTH__SEND) TRY(add_scratch(e, role, i, &e->p->channel.at[channel], name_of(e, n->out[0])));
    return NULL;
}

static const struct {
    enum mth__row row;
    mth__channel_kind kind;
} kinds[] = {{MTH__ROW_all_reduce, MTH__ALL_REDUCE}, {MTH__ROW_all_gather, MTH__ALL_GATHER},
    {MTH__ROW_reduce_scatter, MTH__REDUCE_SCATTER}, {MTH__ROW_all_to_all, MTH__ALL_TO_ALL},
    {MTH__ROW_broadcast, MTH__BROADCAST}, {MTH__ROW_transfer, MTH__TRANSFER}};

static mth_status emit_channel(emission *e, const mth__node *n) {
    const mth__sharding *from = &n->in[0]->sharding, *to = &n->out[0]->sharding;
    size_t k = 0;
    while (k < sizeof kinds / sizeof *kinds && (int)kinds[k].row != n->op->row) k++;
    if (k == sizeof kinds / sizeof *kinds) return INTERNAL("%s is no communication that a program has", n->op->name);
    mth__channel_kind kind = kinds[k].kind;
    mth__channel c = {.kind = kind,
        .algorithm = e->algorithm[kind],
        .dtype = n->out[0]->dtype,
        .shape = n->out[0]->shape,
        .from = *from,
        .to = *to,
        .reduce = from->reduce,
        .dim = -1,
        .dim2 = -1};
    if (kind <= MTH__ALL_TO_ALL) c.axes = (uint8_t)n->attrs.axes;
    if (kind == MTH__ALL_GATHER || kind == MTH__REDUCE_SCATTER) c.dim = (int8_t)n->attrs.dimension;
    if (kind == MTH__ALL_TO_ALL) {
        c.dim = (int8_t)n->attrs.split;
        c.dim2 = (int8_t)n->attrs.gathered;
    }
    c.label = mth__format(e->arena, "%s: %s", n->label.module ? n->label.module : "model", n->op->name);
    int channel = (int)e->p->channel.n;
    PUSH(e->arena, e->p->channel, c);

    const mth__role_list *source = &e->roles[from->on->id], *target = &e->roles[to->on->id];
    if (kind == MTH__BROADCAST) {
        int root = source->role[0];
        if (to->on->rank_of[from->on->device[0]] < 0)
            TRY(take_part(e, n, channel, MTH__COLLECTIVE, root, e->overlap, true, false));
        for (int i = 0; i < target->n; i++)
            TRY(take_part(e, n, channel, MTH__COLLECTIVE, target->role[i], e->overlap, target->role[i] == root, true));
        return NULL;
    }
    if (from->on == to->on) {
        for (int i = 0; i < target->n; i++)
            TRY(take_part(e, n, channel, MTH__COLLECTIVE, target->role[i], e->overlap, true, true));
        return NULL;
    }
    if (kind != MTH__TRANSFER)
        return mth__error_tensor(
            INTERNAL("%s (node %d) leads to another placement", n->op->name, n->id), mth__value_text(n->in[0]));
    for (int i = 0; i < source->n; i++) TRY(take_part(e, n, channel, MTH__SEND, source->role[i], false, true, false));
    for (int i = 0; i < target->n; i++) {
        bool both = slot_of(e, n->in[0], target->role[i], 0) >= 0;
        TRY(take_part(e, n, channel, MTH__RECV, target->role[i], e->overlap && !both, false, true));
    }
    return NULL;
}

/* ---------------------------------------------------------------- entries, exits */
static void add_entries(emission *e, const mth__value *const *v, size_t n, mth__entry_kind kind) {
    for (size_t i = 0; i < n; i++) {
        const mth__role_list *l = &e->roles[v[i]->sharding.on->id];
        PUSH(e->arena, e->p->entry,
            ((mth__entry){kind, mth__copy_text(e->arena, v[i]->name), v[i]->dtype, v[i]->shape, v[i]->sharding}));
        for (int k = 0; k < l->n; k++) {
            mth__pvalue p = describe(e, l->role[k], v[i]);
            p.storage = MTH__IN_ENTRY;
            p.index = (int)e->p->entry.n - 1;
            p.memory = kind == MTH__ENTRY_PARAMETER ? MTH__MEMORY_WEIGHT : MTH__MEMORY_INPUT;
            set_slot(e, v[i], l->role[k], k, push_value(e, l->role[k], p));
        }
    }
}

static const mth__value *viewed(const mth__value *v) {
    while (v->kind == MTH__VALUE_NODE && v->node->op->flags & MTH__ALIAS) v = v->node->in[0];
    return v;
}

static void add_exits(emission *e) {
    const mth__graph *g = e->graph;
    e->exit_of = NEW_ARRAY(e->scratch, int, g->values);
    e->next_exit = NEW_ARRAY(e->scratch, int, g->output.n);
    memset(e->exit_of, -1, (size_t)g->values * sizeof *e->exit_of);
    for (size_t i = 0; i < g->output.n; i++) {
        const mth__output *o = &g->output.at[i];
        const char *name = o->is_gradient && o->of ? o->of : o->name;
        PUSH(e->arena, e->p->exit,
            ((mth__exit){o->is_gradient ? MTH__EXIT_GRADIENT : MTH__EXIT_OUTPUT, -1, mth__copy_text(e->arena, name),
                o->value->dtype, o->value->shape, e->global ? o->leaves : o->value->sharding}));
    }
    for (size_t i = g->output.n; i-- > 0;) {
        int *first = &e->exit_of[g->output.at[i].value->id];
        e->next_exit[i] = *first;
        *first = (int)i;
    }
    /* A view leaves as the value that it views, where that has no exit of its own. A partitioner lays an exit by its
     * own dimensions. */
    for (size_t i = 0; i < g->output.n && !e->global; i++) {
        const mth__value *v = g->output.at[i].value, *base = viewed(v);
        if (e->exit_of[v->id] != (int)i || base == v || base->kind != MTH__VALUE_NODE || e->exit_of[base->id] >= 0)
            continue;
        e->exit_of[base->id] = (int)i;
        e->exit_of[v->id] = e->next_exit[i];
        e->next_exit[i] = -1;
    }
}

/* Does a value of this node leave by a copy alone? */
static bool only_copied(const mth__value *v) { return v->kind != MTH__VALUE_NODE || v->node->op->flags & MTH__ALIAS; }

static mth_status emit_nodes(emission *e) {
    const mth__graph *g = e->graph;
    for (size_t i = 0; i < g->node.n; i++) {
        const mth__node *n = g->node.at[i];
        bool channel = n->op->flags & MTH__COMM && n->op->row != MTH__ROW_keep;
        TRY(channel ? emit_channel(e, n) : emit_compute(e, n));
        for (int k = 0; k < n->nout && !channel; k++) {
            int exit = e->exit_of[n->out[k]->id];
            if (exit >= 0) TRY(copy_to_exits(e, n->out[k], only_copied(n->out[k]) ? exit : e->next_exit[exit]));
        }
    }
    /* at the end, so that nothing waits early: entries, and what communication brought */
    for (size_t i = 0; i < g->output.n; i++) {
        const mth__value *v = g->output.at[i].value;
        if (e->exit_of[v->id] != (int)i) continue;
        if (v->kind != MTH__VALUE_NODE)
            TRY(copy_to_exits(e, v, (int)i));
        else if (v->node->op->flags & MTH__COMM && v->node->op->row != MTH__ROW_keep)
            TRY(copy_to_exits(e, v, e->next_exit[i]));
    }
    return NULL;
}

static mth_status check_placed(const mth__graph *g) {
    for (size_t i = 0; i < g->node.n; i++) {
        const mth__node *n = g->node.at[i];
        if (!n->on)
            return mth__error_operator(INTERNAL("%s (node %d) has no placement", n->op->name, n->id), n->label.module);
        for (int k = 0; k < n->nout; k++)
            if (!n->out[k]->sharding.on || n->out[k]->sharding.on != n->out[0]->sharding.on)
                return mth__error_tensor(
                    INTERNAL("a result of %s (node %d) has no sharding, or not on the placement of the others",
                        n->op->name, n->id),
                    mth__value_text(n->out[k]));
    }
    for (size_t k = 0; k < 3; k++) {
        size_t count = k == 0 ? g->input.n : k == 1 ? g->parameter.n : g->seed.n;
        mth__value *const *v = k == 0 ? g->input.at : k == 1 ? g->parameter.at : g->seed.at;
        for (size_t i = 0; i < count; i++)
            if (!v[i]->sharding.on)
                return mth__error_tensor(INTERNAL("a value has no sharding"), mth__value_text(v[i]));
    }
    return NULL;
}

static mth_status read_options(const mth__emit_options *o, mth__algorithm out[MTH__CHANNEL_KINDS]) {
    for (int k = 0; k < MTH__CHANNEL_KINDS; k++) {
        const char *name = o->algorithm[k];
        int a = 0;
        while (name && a < MTH__ALGORITHMS && strcmp(name, mth__algorithm_names[a])) a++;
        if (a == MTH__ALGORITHMS || (k == MTH__TRANSFER && name && a != MTH__DIRECT))
            return FAIL(MTH_ERROR_VALUE, F("collective_ops: %s has no algorithm '%s'", mth__channel_names[k], name),
                k == MTH__TRANSFER ? F("leave transfers direct") : F("choose one of direct, ring, tree, hierarchical"));
        out[k] = name ? (mth__algorithm)a : MTH__DIRECT;
    }
    return NULL;
}

/* Room for what is to come, so that lists don't grow by copying. */
static void reserve(emission *e) {
    const mth__graph *g = e->graph;
    size_t n = e->p->role.n;
    size_t *values = NEW_ARRAY(e->scratch, size_t, n), *instrs = NEW_ARRAY(e->scratch, size_t, n);
    for (size_t i = 0; i < g->node.n; i++) {
        const mth__node *node = g->node.at[i];
        const mth__role_list *l = &e->roles[node->out[0]->sharding.on->id];
        for (int k = 0; k < l->n; k++) {
            values[l->role[k]] += (size_t)node->nout;
            instrs[l->role[k]]++;
        }
    }
    for (size_t i = 0; i < n; i++) {
        mth__role *r = &e->p->role.at[i];
        r->value.room = values[i] + 16;
        r->instr.room = instrs[i] + 16;
        r->value.at = NEW_ARRAY(e->arena, mth__pvalue, r->value.room);
        /* mth__emit_waits makes the final list */
        r->instr.at = NEW_ARRAY(e->scratch, mth__instr, r->instr.room);
    }
}

static mth_status emit(emission *e) {
    const mth__graph *g = e->graph;
    size_t values = (size_t)g->values;
    TRY(check_placed(g));
    e->roles = e->global ? mth__emit_one_role(e->scratch, g, e->p) : mth__emit_roles(e->scratch, g, e->p);
    e->slot = NEW_ARRAY(e->scratch, int *, values);
    e->name = NEW_ARRAY(e->scratch, const char *, values);
    reserve(e);
    add_exits(e);
    add_entries(e, (const mth__value *const *)g->input.at, g->input.n, MTH__ENTRY_INPUT);
    add_entries(e, (const mth__value *const *)g->parameter.at, g->parameter.n, MTH__ENTRY_PARAMETER);
    add_entries(e, (const mth__value *const *)g->seed.at, g->seed.n, MTH__ENTRY_SEED);
    TRY(emit_nodes(e));
    for (size_t i = 0; i < e->p->role.n; i++) mth__emit_waits(e->p, &e->p->role.at[i]);
    return NULL;
}

mth_status mth__emit_program(
    mth__arena *arena, const mth__graph *graph, const mth__emit_options *options, bool global, mth__program **out) {
    emission e = {
        .arena = arena, .graph = graph, .overlap = options->overlap, .views = options->views, .global = global};
    TRY(read_options(options, e.algorithm));
    e.scratch = mth__arena_new();
    e.p = NEW(arena, mth__program);
    e.p->arena = arena;
    e.p->mesh = graph->mesh;
    mth_status s = emit(&e);
    mth__arena_free(e.scratch);
    if (!s) *out = e.p;
    return s;
}

mth_status mth__emit(mth__arena *arena, const mth__graph *graph, const mth__emit_options *options, mth__program **out) {
    return mth__emit_program(arena, graph, options, false, out);
}

const char *mth__program_reader(const mth__program *p, int entry) {
    for (size_t r = 0; r < p->role.n; r++) {
        const mth__role *role = &p->role.at[r];
        for (size_t i = 0; i < role->instr.n; i++)
            for (int j = 0; j < role->instr.at[i].nin; j++) {
                const mth__pvalue *v = &role->value.at[role->instr.at[i].in[j]];
                if (v->storage == MTH__IN_ENTRY && v->index == entry && role->instr.at[i].label.module)
                    return role->instr.at[i].label.module;
            }
    }
    return NULL;
}
