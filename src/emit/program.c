/* From the ordered graph to programs by role. The time for a node grows with the roles that take part in it, not with
 * their devices. */
#include "base/names.h"
#include "base/rewrite.h"
#include "catalog/rows.h"
#include "emit/emit.h"
#include <stdio.h>
#include <string.h>

typedef struct {
    mth__arena *arena, *scratch; /* the program's; of this pass */
    const mth__graph *graph;
    mth__program *program;
    const mth__role_list *roles; /* by placement id */
    /* by value id: the value's index in each role of roles[placement]; -1: not made */
    int **slot;
    const char **name; /* by value id */
    /* by value id: its first exit or -1; by exit: the next one of the same value */
    int *exit_of, *next_exit;
    mth__algorithm algorithm[MTH__CHANNEL_KINDS];
    bool overlap, views, global;
    const bool *owned; /* by value id */
    mth__names taken;  /* in use */
} emission;

/* ---------------------------------------------------------------- names */
static bool take_name(emission *pass, const char *name) {
    const int before = (int)pass->taken.name.n;
    return mth__names_add(pass->scratch, &pass->taken, name) == before;
}

static const char *numbered_name(mth__arena *arena, int id) { /* "%id", the name of most values */
    char digits[12], *name = mth__alloc(arena, 12);
    int n = 0, at = 0;
    do digits[n++] = (char)('0' + id % 10);
    while (id /= 10);
    name[at++] = '%';
    while (n) name[at++] = digits[--n];
    return name;
}

/* The user's name where it can't be mistaken for one of ours and is not in use yet. */
static const char *name_of(emission *pass, const mth__value *value) {
    if (!pass->name[value->id]) {
        const char *name = value->name && *value->name && !strpbrk(value->name, "%~") ? value->name : NULL;
        /* named as its output, which it is not */
        if (name && value->kind == MTH__VALUE_SEED) name = mth__format(pass->arena, "%s~gradient", name);
        pass->name[value->id] =
            name && take_name(pass, name) ? mth__copy_text(pass->arena, name) : numbered_name(pass->arena, value->id);
    }
    return pass->name[value->id];
}

/* ---------------------------------------------------------------- values of a role */
static int position_of(const emission *pass, const mth__value *value, int role_number, int hint) {
    const mth__role_list *list = &pass->roles[value->sharding.on->id];
    if (hint < list->n && list->role[hint] == role_number) return hint;
    int a = 0, b = list->n;
    while (a < b) {
        int middle = (a + b) / 2;
        if (list->role[middle] < role_number)
            a = middle + 1;
        else
            b = middle;
    }
    return a < list->n && list->role[a] == role_number ? a : -1;
}

/* `hint`: where the role probably stands in the list of the value's placement. -1: the role has no such value. */
static int slot_of(const emission *pass, const mth__value *value, int role_number, int hint) {
    int at = pass->slot[value->id] ? position_of(pass, value, role_number, hint) : -1;
    return at < 0 ? -1 : pass->slot[value->id][at];
}

static int push_value(emission *pass, int role_number, mth__program_value value) {
    mth__role *role = &pass->program->role.at[role_number];
    value.offset = value.storage == MTH__IN_SLAB ? -1 : value.offset;
    value.bytes = mth__shape_size(value.local) * (int64_t)mth_dtype_size(value.dtype);
    PUSH(pass->arena, role->value, value);
    return (int)role->value.n - 1;
}

static mth__program_value describe(emission *pass, int role_number, const mth__value *value) {
    const mth__placement *on = value->sharding.on;
    mth__shape local = value->shape;
    if (!pass->global)
        local = mth__local_shape(
            value->shape, &value->sharding, on->rank_of[pass->program->role.at[role_number].device[0]], NULL, NULL);
    return (mth__program_value){.name = name_of(pass, value),
        .dtype = value->dtype,
        .shape = value->shape,
        .sharding = value->sharding,
        .local = local};
}

static void set_slot(emission *pass, const mth__value *value, int role_number, int hint, int index) {
    const mth__role_list *list = &pass->roles[value->sharding.on->id];
    if (!pass->slot[value->id]) {
        pass->slot[value->id] = NEW_ARRAY(pass->scratch, int, list->n);
        for (int i = 0; i < list->n; i++) pass->slot[value->id][i] = -1;
    }
    pass->slot[value->id][position_of(pass, value, role_number, hint)] = index;
}

static mth__memory_kind memory_of_exit(const emission *pass, int exit_number) {
    return pass->program->exit.at[exit_number].kind == MTH__EXIT_GRADIENT ? MTH__MEMORY_GRADIENT : MTH__MEMORY_OUTPUT;
}

/* A partitioner is asked for an exit as it leaves, whatever its maker's layout. */
static void lie_in_exit(const emission *pass, mth__program_value *value, int exit_number) {
    value->storage = MTH__IN_EXIT;
    value->index = exit_number;
    value->memory = memory_of_exit(pass, exit_number);
    if (pass->global) value->sharding = pass->program->exit.at[exit_number].sharding;
}

/* A result of an instruction: in the slab, or the engine's own, or in the exit that it is. */
static int new_result(emission *pass, int role_number, const mth__value *value, int hint) {
    mth__program_value made = describe(pass, role_number, value);
    int exit_number = pass->exit_of[value->id];
    if (exit_number >= 0)
        lie_in_exit(pass, &made, exit_number);
    else if (pass->owned[value->id])
        made.storage = MTH__IN_OWN;
    int index = push_value(pass, role_number, made);
    set_slot(pass, value, role_number, hint, index);
    return index;
}

static void new_alias(emission *pass, int role_number, const mth__value *value, int hint, int of, int64_t offset) {
    mth__program_value made = describe(pass, role_number, value);
    const mth__program_value *base = &pass->program->role.at[role_number].value.at[of];
    made.storage = MTH__IN_ALIAS;
    made.index = base->storage == MTH__IN_ALIAS ? base->index : of;
    made.offset = offset + (base->storage == MTH__IN_ALIAS ? base->offset : 0);
    if (mth__shape_size(made.local) == 0) made.offset = 0; /* an empty part may begin behind the end */
    set_slot(pass, value, role_number, hint, push_value(pass, role_number, made));
}

/* ---------------------------------------------------------------- instructions */
static mth__instr *push_instr(emission *pass, int role_number, const mth__node *node, mth__instr_kind kind,
    int channel_number, int nin, int nout) {
    int *operands = NEW_ARRAY(pass->arena, int, nin + nout);
    mth__instr instruction = {.kind = kind,
        .channel = channel_number,
        .nin = nin,
        .nout = nout,
        .in = operands,
        .out = operands + nin,
        .awaited = -1,
        .scratch = -1,
        .label = node ? node->label : mth__label_outside(NULL, MTH__FORWARD)};
    mth__role *role = &pass->program->role.at[role_number];
    PUSH(pass->arena, role->instr, instruction);
    return &role->instr.at[role->instr.n - 1];
}

static mth_status missing(const emission *pass, const mth__node *node, const mth__value *value, int role_number) {
    mth_status status = INTERNAL("%s (node %d) reads a value that device %d, where it runs, does not hold",
        node->op->name, node->id, pass->program->role.at[role_number].device[0]);
    return mth__error_tensor(mth__error_operator(status, node->label.module), mth__value_text(value));
}

/* Copies of the value into exits from `exit` on. */
static mth_status copy_to_exits(emission *pass, const mth__value *value, int exit_number) {
    static const mth__attrs none;
    const mth__role_list *list = &pass->roles[value->sharding.on->id];
    for (; exit_number >= 0; exit_number = pass->next_exit[exit_number])
        for (int k = 0; k < list->n; k++) {
            int role_number = list->role[k], from = slot_of(pass, value, role_number, k);
            mth__program_value made = describe(pass, role_number, value);
            made.name = mth__format(pass->arena, "%s~%d", made.name, exit_number);
            lie_in_exit(pass, &made, exit_number);
            int to = push_value(pass, role_number, made);
            mth__instr *instruction = push_instr(pass, role_number, value->node, MTH__COMPUTE, -1, 1, 1);
            instruction->op = mth__op_at(MTH__ROW_copy);
            instruction->attrs = &none;
            instruction->in[0] = from;
            instruction->out[0] = to;
        }
    return NULL;
}

/* Bytes into the operand at which a slice lies on this role, or -1 where it is not in one piece. */
static int64_t slice_offset(const mth__node *node, const mth__program_value *in, const mth__value *out) {
    int d = (int)node->attrs.dimension;
    if (in->sharding.dim[d].naxes || out->sharding.dim[d].naxes) return -1;
    for (int k = 0; k < d; k++)
        if (in->local.dim[k] > 1) return -1;
    int64_t row = (int64_t)mth_dtype_size(in->dtype);
    for (int k = d + 1; k < in->local.rank; k++) row *= in->local.dim[k];
    return node->attrs.start * row;
}

/* As they are now: passes behind the global product change some. */
static const mth__sharding *copy_layouts(emission *pass, const mth__node *node) {
    mth__sharding *layouts = NEW_ARRAY(pass->arena, mth__sharding, node->nin + node->nout);
    for (int j = 0; j < node->nin; j++) layouts[j] = node->need[j];
    for (int j = 0; j < node->nout; j++) layouts[node->nin + j] = node->out[j]->sharding;
    return layouts;
}

static mth_status emit_compute(emission *pass, const mth__node *node) {
    const mth__role_list *list = &pass->roles[node->out[0]->sharding.on->id];
    bool alias = node->op->flags & MTH__ALIAS || (mth__keeps_whole(node) && pass->exit_of[node->out[0]->id] < 0),
         slice = pass->views && node->op->row == MTH__ROW_slice && pass->exit_of[node->out[0]->id] < 0;
    for (int k = 0; k < list->n; k++) {
        int role_number = list->role[k], in[MTH__MAX_IN];
        for (int j = 0; j < node->nin; j++)
            if ((in[j] = slot_of(pass, node->in[j], role_number, k)) < 0)
                return missing(pass, node, node->in[j], role_number);
        int64_t offset = alias ? 0
            : slice            ? slice_offset(node, &pass->program->role.at[role_number].value.at[in[0]], node->out[0])
                               : -1;
        if (offset >= 0) {
            new_alias(pass, role_number, node->out[0], k, in[0], offset);
            continue;
        }
        mth__instr *instruction = push_instr(pass, role_number, node, MTH__COMPUTE, -1, node->nin, node->nout);
        instruction->op = node->op;
        instruction->attrs = &node->attrs;
        instruction->accumulates = node->accumulates;
        if (pass->global) instruction->layouts = copy_layouts(pass, node);
        for (int j = 0; j < node->nin; j++) instruction->in[j] = in[j];
        for (int j = 0; j < node->nout; j++) instruction->out[j] = new_result(pass, role_number, node->out[j], k);
    }
    return NULL;
}

static mth_status add_scratch(
    emission *pass, int role_number, mth__instr *instruction, const mth__channel *channel, const char *result) {
    int64_t bytes = mth__channel_scratch(channel, pass->program->role.at[role_number].device[0]);
    if (bytes == 0) return NULL;
    const mth__shape shape = {1, {bytes / (int64_t)mth_dtype_size(channel->dtype)}};
    mth_status bad = mth__shape_check(shape, channel->dtype);
    if (bad) {
        mth_error_free(bad);
        return mth__error_operator(
            FAIL(MTH_ERROR_VALUE,
                F("%s %s over %d devices needs 2^62 bytes of scratch or more", mth__channel_names[channel->kind],
                    mth__algorithm_names[channel->algorithm], mth__channel_size(channel)),
                F("use collective_ops={'%s': 'direct'}, or smaller shapes", mth__channel_names[channel->kind])),
            channel->label);
    }
    mth__program_value value = {.name = mth__format(pass->arena, "%s~work", result),
        .dtype = channel->dtype,
        .shape = shape,
        .local = shape,
        .sharding = {.on = channel->from.on},
        .memory = MTH__MEMORY_COMMUNICATION};
    instruction->scratch = push_value(pass, role_number, value);
    return NULL;
}

/* One instruction of a channel on one role: with the operand where `sends`, with the result where `takes`; on the
 * stream that communicates where `starts`. */
static mth_status take_part(emission *pass, const mth__node *node, int channel_number, mth__instr_kind kind,
    int role_number, bool starts, bool sends, bool takes) {
    int in = sends ? slot_of(pass, node->in[0], role_number, 0) : -1;
    if (sends && in < 0) return missing(pass, node, node->in[0], role_number);
    mth__instr *instruction = push_instr(pass, role_number, node, kind, channel_number, sends, takes);
    instruction->stream = starts ? 1 : 0;
    if (sends) instruction->in[0] = in;
    if (takes) instruction->out[0] = new_result(pass, role_number, node->out[0], 0);
    if (sends && kind != MTH__SEND)
        TRY(add_scratch(
            pass, role_number, instruction, &pass->program->channel.at[channel_number], name_of(pass, node->out[0])));
    return NULL;
}

static const struct {
    enum mth__row row;
    mth__channel_kind kind;
} kinds[] = {{MTH__ROW_all_reduce, MTH__ALL_REDUCE}, {MTH__ROW_all_gather, MTH__ALL_GATHER},
    {MTH__ROW_reduce_scatter, MTH__REDUCE_SCATTER}, {MTH__ROW_all_to_all, MTH__ALL_TO_ALL},
    {MTH__ROW_broadcast, MTH__BROADCAST}, {MTH__ROW_transfer, MTH__TRANSFER}};

static mth_status emit_channel(emission *pass, const mth__node *node) {
    const mth__sharding *from = &node->in[0]->sharding, *to = &node->out[0]->sharding;
    size_t k = 0;
    while (k < sizeof kinds / sizeof *kinds && kinds[k].row != node->op->row) k++;
    if (k == sizeof kinds / sizeof *kinds) return INTERNAL("%s is no communication that a program has", node->op->name);
    mth__channel_kind kind = kinds[k].kind;
    mth__channel channel = {.kind = kind,
        .algorithm = pass->algorithm[kind],
        .dtype = node->out[0]->dtype,
        .shape = node->out[0]->shape,
        .from = *from,
        .to = *to,
        .reduce = from->reduce,
        .dim = -1,
        .dim2 = -1};
    if (kind <= MTH__ALL_TO_ALL) channel.axes = (uint8_t)node->attrs.axes;
    if (kind == MTH__ALL_GATHER || kind == MTH__REDUCE_SCATTER) channel.dim = (int8_t)node->attrs.dimension;
    if (kind == MTH__ALL_TO_ALL) {
        channel.dim = (int8_t)node->attrs.split;
        channel.dim2 = (int8_t)node->attrs.gathered;
    }
    channel.label =
        mth__format(pass->arena, "%s: %s", node->label.module ? node->label.module : "model", node->op->name);
    int channel_number = (int)pass->program->channel.n;
    PUSH(pass->arena, pass->program->channel, channel);

    const mth__role_list *source = &pass->roles[from->on->id], *target = &pass->roles[to->on->id];
    if (kind == MTH__BROADCAST) {
        int root = source->role[0];
        if (to->on->rank_of[from->on->device[0]] < 0)
            TRY(take_part(pass, node, channel_number, MTH__COLLECTIVE, root, pass->overlap, true, false));
        for (int i = 0; i < target->n; i++)
            TRY(take_part(pass, node, channel_number, MTH__COLLECTIVE, target->role[i], pass->overlap,
                target->role[i] == root, true));
        return NULL;
    }
    if (from->on == to->on) {
        for (int i = 0; i < target->n; i++)
            TRY(take_part(pass, node, channel_number, MTH__COLLECTIVE, target->role[i], pass->overlap, true, true));
        return NULL;
    }
    if (kind != MTH__TRANSFER)
        return mth__error_tensor(INTERNAL("%s (node %d) leads to another placement", node->op->name, node->id),
            mth__value_text(node->in[0]));
    for (int i = 0; i < source->n; i++)
        TRY(take_part(pass, node, channel_number, MTH__SEND, source->role[i], false, true, false));
    for (int i = 0; i < target->n; i++) {
        bool both = slot_of(pass, node->in[0], target->role[i], 0) >= 0;
        TRY(take_part(pass, node, channel_number, MTH__RECV, target->role[i], pass->overlap && !both, false, true));
    }
    return NULL;
}

/* ---------------------------------------------------------------- entries, exits */
static void add_entries(emission *pass, const mth__value *const *value, size_t n, mth__entry_kind kind) {
    for (size_t i = 0; i < n; i++) {
        const mth__role_list *list = &pass->roles[value[i]->sharding.on->id];
        PUSH(pass->arena, pass->program->entry,
            ((mth__entry){kind, mth__copy_text(pass->arena, value[i]->name), value[i]->dtype, value[i]->shape,
                value[i]->sharding}));
        for (int k = 0; k < list->n; k++) {
            mth__program_value made = describe(pass, list->role[k], value[i]);
            made.storage = MTH__IN_ENTRY;
            made.index = (int)pass->program->entry.n - 1;
            made.memory = kind == MTH__ENTRY_PARAMETER ? MTH__MEMORY_WEIGHT : MTH__MEMORY_INPUT;
            set_slot(pass, value[i], list->role[k], k, push_value(pass, list->role[k], made));
        }
    }
}

static const mth__value *viewed(const mth__value *value) {
    while (value->kind == MTH__VALUE_NODE && value->node->op->flags & MTH__ALIAS) value = value->node->in[0];
    return value;
}

static void add_exits(emission *pass) {
    const mth__graph *graph = pass->graph;
    pass->exit_of = NEW_ARRAY(pass->scratch, int, graph->values);
    pass->next_exit = NEW_ARRAY(pass->scratch, int, graph->output.n);
    memset(pass->exit_of, -1, (size_t)graph->values * sizeof *pass->exit_of);
    for (size_t i = 0; i < graph->output.n; i++) {
        const mth__output *output = &graph->output.at[i];
        const char *name = output->is_gradient && output->of ? output->of : output->name;
        PUSH(pass->arena, pass->program->exit,
            ((mth__exit){output->is_gradient ? MTH__EXIT_GRADIENT : MTH__EXIT_OUTPUT, -1,
                mth__copy_text(pass->arena, name), output->value->dtype, output->value->shape,
                pass->global ? output->leaves : output->value->sharding}));
    }
    for (size_t i = graph->output.n; i-- > 0;) {
        int *first = &pass->exit_of[graph->output.at[i].value->id];
        pass->next_exit[i] = *first;
        *first = (int)i;
    }
    /* A view leaves as the value that it views, where that has no exit of its own. A partitioner lays an exit by its
     * own dimensions. */
    for (size_t i = 0; i < graph->output.n && !pass->global; i++) {
        const mth__value *value = graph->output.at[i].value, *base = viewed(value);
        if (pass->exit_of[value->id] != (int)i || base == value || base->kind != MTH__VALUE_NODE ||
            pass->exit_of[base->id] >= 0)
            continue;
        pass->exit_of[base->id] = (int)i;
        pass->exit_of[value->id] = pass->next_exit[i];
        pass->next_exit[i] = -1;
    }
}

/* Does a value of this node leave by a copy alone? */
static bool only_copied(const mth__value *value) {
    return value->kind != MTH__VALUE_NODE || value->node->op->flags & MTH__ALIAS;
}

static mth_status emit_nodes(emission *pass) {
    const mth__graph *graph = pass->graph;
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        bool channel = node->op->flags & MTH__COMM && node->op->row != MTH__ROW_keep;
        TRY(channel ? emit_channel(pass, node) : emit_compute(pass, node));
        for (int k = 0; k < node->nout && !channel; k++) {
            int exit_number = pass->exit_of[node->out[k]->id];
            if (exit_number >= 0)
                TRY(copy_to_exits(
                    pass, node->out[k], only_copied(node->out[k]) ? exit_number : pass->next_exit[exit_number]));
        }
    }
    /* at the end, so that nothing waits early: entries, and what communication brought */
    for (size_t i = 0; i < graph->output.n; i++) {
        const mth__value *value = graph->output.at[i].value;
        if (pass->exit_of[value->id] != (int)i) continue;
        if (value->kind != MTH__VALUE_NODE)
            TRY(copy_to_exits(pass, value, (int)i));
        else if (value->node->op->flags & MTH__COMM && value->node->op->row != MTH__ROW_keep)
            TRY(copy_to_exits(pass, value, pass->next_exit[i]));
    }
    return NULL;
}

static mth_status check_placed(const mth__graph *graph) {
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        if (!node->on)
            return mth__error_operator(
                INTERNAL("%s (node %d) has no placement", node->op->name, node->id), node->label.module);
        for (int k = 0; k < node->nout; k++)
            if (!node->out[k]->sharding.on || node->out[k]->sharding.on != node->out[0]->sharding.on)
                return mth__error_tensor(
                    INTERNAL("a result of %s (node %d) has no sharding, or not on the placement of the others",
                        node->op->name, node->id),
                    mth__value_text(node->out[k]));
    }
    for (size_t k = 0; k < 3; k++) {
        size_t count = k == 0 ? graph->input.n : k == 1 ? graph->parameter.n : graph->seed.n;
        mth__value *const *value = k == 0 ? graph->input.at : k == 1 ? graph->parameter.at : graph->seed.at;
        for (size_t i = 0; i < count; i++)
            if (!value[i]->sharding.on)
                return mth__error_tensor(INTERNAL("a value has no sharding"), mth__value_text(value[i]));
    }
    return NULL;
}

static mth_status read_options(const mth__emit_options *options, mth__algorithm out[MTH__CHANNEL_KINDS]) {
    for (int k = 0; k < MTH__CHANNEL_KINDS; k++) {
        const char *name = options->algorithm[k];
        int algorithm = 0;
        while (name && algorithm < MTH__ALGORITHMS && strcmp(name, mth__algorithm_names[algorithm])) algorithm++;
        if (algorithm == MTH__ALGORITHMS || (k == MTH__TRANSFER && name && algorithm != MTH__DIRECT))
            return FAIL(MTH_ERROR_VALUE, F("collective_ops: %s has no algorithm '%s'", mth__channel_names[k], name),
                k == MTH__TRANSFER ? F("leave transfers direct") : F("choose one of direct, ring, tree, hierarchical"));
        out[k] = name ? (mth__algorithm)algorithm : MTH__DIRECT;
    }
    return NULL;
}

/* Room for what is to come, so that lists don't grow by copying. */
static void reserve(emission *pass) {
    const mth__graph *graph = pass->graph;
    size_t n = pass->program->role.n;
    size_t *values = NEW_ARRAY(pass->scratch, size_t, n), *instrs = NEW_ARRAY(pass->scratch, size_t, n);
    for (size_t i = 0; i < mth__graph_sources(graph); i++) {
        const mth__role_list *list = &pass->roles[mth__graph_source(graph, i)->sharding.on->id];
        for (int k = 0; k < list->n; k++) values[list->role[k]]++;
    }
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        const mth__role_list *list = &pass->roles[node->out[0]->sharding.on->id];
        for (int k = 0; k < list->n; k++) {
            values[list->role[k]] += (size_t)node->nout;
            instrs[list->role[k]]++;
        }
    }
    for (size_t i = 0; i < graph->output.n; i++) { /* a copy to the exit */
        const mth__role_list *list = &pass->roles[graph->output.at[i].value->sharding.on->id];
        for (int k = 0; k < list->n; k++) values[list->role[k]]++, instrs[list->role[k]]++;
    }
    for (size_t i = 0; i < n; i++) {
        mth__role *role = &pass->program->role.at[i];
        role->value.room = values[i] + 16; /* scratch */
        role->instr.room = instrs[i] + 16;
        role->value.at = NEW_ARRAY(pass->arena, mth__program_value, role->value.room);
        /* mth__emit_waits makes the final list */
        role->instr.at = NEW_ARRAY(pass->scratch, mth__instr, role->instr.room);
    }
}

static void find_owned(emission *pass, mth__owns *owns) {
    bool *leaves = NEW_ARRAY(pass->scratch, bool, pass->graph->values);
    for (int id = 0; id < pass->graph->values; id++) leaves[id] = pass->exit_of[id] >= 0;
    pass->owned = mth__owned_values(pass->scratch, pass->graph, owns, leaves);
}

static mth_status emit(emission *pass, mth__owns *owns) {
    const mth__graph *graph = pass->graph;
    size_t values = (size_t)graph->values;
    TRY(check_placed(graph));
    pass->roles = pass->global ? mth__emit_one_role(pass->scratch, graph, pass->program)
                               : mth__emit_roles(pass->scratch, graph, pass->program);
    pass->slot = NEW_ARRAY(pass->scratch, int *, values);
    pass->name = NEW_ARRAY(pass->scratch, const char *, values);
    reserve(pass);
    add_exits(pass);
    find_owned(pass, owns);
    add_entries(pass, (const mth__value *const *)graph->input.at, graph->input.n, MTH__ENTRY_INPUT);
    add_entries(pass, (const mth__value *const *)graph->parameter.at, graph->parameter.n, MTH__ENTRY_PARAMETER);
    add_entries(pass, (const mth__value *const *)graph->seed.at, graph->seed.n, MTH__ENTRY_SEED);
    TRY(emit_nodes(pass));
    for (size_t i = 0; i < pass->program->role.n; i++) mth__emit_waits(pass->program, &pass->program->role.at[i]);
    return NULL;
}

mth_status mth__emit_program(
    mth__arena *arena, const mth__graph *graph, const mth__emit_options *options, bool global, mth__program **out) {
    emission pass = {
        .arena = arena, .graph = graph, .overlap = options->overlap, .views = options->views, .global = global};
    TRY(read_options(options, pass.algorithm));
    pass.scratch = mth__arena_new();
    pass.program = NEW(arena, mth__program);
    pass.program->arena = arena;
    pass.program->mesh = graph->mesh;
    mth_status status = emit(&pass, options->owns);
    mth__arena_free(pass.scratch);
    if (!status) *out = pass.program;
    return status;
}

mth_status mth__emit(mth__arena *arena, const mth__graph *graph, const mth__emit_options *options, mth__program **out) {
    return mth__emit_program(arena, graph, options, false, out);
}

const char *mth__program_reader(const mth__program *program, int entry_number) {
    for (size_t role_number = 0; role_number < program->role.n; role_number++) {
        const mth__role *role = &program->role.at[role_number];
        for (size_t i = 0; i < role->instr.n; i++)
            for (int j = 0; j < role->instr.at[i].nin; j++) {
                const mth__program_value *value = &role->value.at[role->instr.at[i].in[j]];
                if (value->storage == MTH__IN_ENTRY && value->index == entry_number && role->instr.at[i].label.module)
                    return role->instr.at[i].label.module;
            }
    }
    return NULL;
}
