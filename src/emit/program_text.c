/* A program as text, by role, complete: program_parse.c reads it back and prints the same. Lines that begin with #
 * follow from the others (the steps of the algorithms, what devices receive); the parser skips them.
 *
 *     program
 *     mesh (4,)
 *     placement p0 whole        (or: device 3; devices 0, 1; slice axis 0 at 1; grid (2, 2) 0, 1, 4, 5)
 *     entry 0 input x: f32[8,32] (None, None) on p0
 *     entry 1 parameter linear_0.weight: f32[32,64] (None, 0) on p0
 *     exit 0 output y: f32[8,16] (None, None) on p0
 *     channel c0 all_reduce ring f32[8,16] (None, None) partial sum over 0 on p0 to (None, None) on p0 over 0
 *     "linear_1: all_reduce" role 0 devices 0..3 slab 4096
 *       x: f32[8,32] (None, None) on p0 at entry 0
 *       0  %5: f32[8,16] of [8,64] (None, 0) on p0 at slab+0 = contract x, linear_0.weight spec="bi,io->bo" @linear_0
 *       1  y: f32[8,16] (None, None) on p0 at exit 0 = all_reduce ring c0 %7 @linear_1 */
#include "emit/program_words.h"
#include "emit/traffic.h"
#include <inttypes.h>
#include <string.h>

static void add_quoted(mth__text *text, const char *quoted) {
    mth__text_add(text, "\"");
    for (; *quoted; quoted++) {
        if (*quoted == '"' || *quoted == '\\')
            mth__text_add(text, "\\%c", *quoted);
        else if ((unsigned char)*quoted < 32 || *quoted == 127)
            mth__text_add(text, "\\x%02x", (unsigned char)*quoted);
        else
            mth__text_add(text, "%c", *quoted);
    }
    mth__text_add(text, "\"");
}

static void add_name(mth__text *text, const char *name) {
    if (mth__plain_name(name, strlen(name)))
        mth__text_add(text, "%s", name);
    else
        add_quoted(text, name);
}

/* "0..3, 8, 10..14:2" */
static void add_devices(mth__text *text, const int32_t *device, int n) {
    for (int i = 0, run; i < n; i += run) {
        int step = i + 1 < n ? device[i + 1] - device[i] : 0;
        for (run = 1; i + run < n && device[i + run] - device[i + run - 1] == step;) run++;
        if (run < 3 || step < 1) run = 1;
        mth__text_add(text, "%s%d", i ? ", " : "", device[i]);
        if (run > 1) mth__text_add(text, "..%d", device[i + run - 1]);
        if (run > 1 && step > 1) mth__text_add(text, ":%d", step);
    }
}

/* ---------------------------------------------------------------- the head */
typedef struct {
    mth__text *text;
    const mth__program *program;
    int *placement; /* by id: its number in the text, -1: unused */
} printer;

static void use(printer *writer, const mth__sharding *sharding) { writer->placement[sharding->on->id] = 0; }

static void number_placements(printer *writer) {
    const mth__program *program = writer->program;
    size_t n = program->mesh->placements.n;
    writer->placement = NEW_ARRAY(writer->text->arena, int, n);
    memset(writer->placement, -1, n * sizeof *writer->placement);
    for (size_t i = 0; i < program->entry.n; i++) use(writer, &program->entry.at[i].sharding);
    for (size_t i = 0; i < program->exit.n; i++) use(writer, &program->exit.at[i].sharding);
    for (size_t i = 0; i < program->channel.n; i++) {
        use(writer, &program->channel.at[i].from);
        use(writer, &program->channel.at[i].to);
    }
    for (size_t j = 0; j < program->role.n; j++)
        for (size_t m = 0; m < program->role.at[j].value.n; m++) use(writer, &program->role.at[j].value.at[m].sharding);
    for (size_t k = 0, number = 0; k < n; k++)
        if (writer->placement[k] >= 0) writer->placement[k] = (int)number++;
}

/* All its axes are the mesh's. */
static bool is_slice(const mth__placement *on) {
    for (int axis = 0; axis < on->naxes; axis++)
        if (on->mesh_axis[axis] < 0) return false;
    return true;
}

static void add_placement(printer *writer, const mth__placement *on) {
    const mth__mesh *mesh = writer->program->mesh;
    mth__text_add(writer->text, "placement p%d ", writer->placement[on->id]);
    if (on->id == 0) {
        mth__text_add(writer->text, "whole\n");
    } else if (on->naxes == 0) {
        mth__text_add(writer->text, "device %d\n", on->device[0]);
    } else if (on->naxes == 1 && on->count > 1) { /* a list of one is that device, without an axis */
        mth__text_add(writer->text, "devices ");
        add_devices(writer->text, on->device, on->count);
        mth__text_add(writer->text, "\n");
    } else if (!is_slice(on)) {
        mth__text_add(writer->text, "grid (");
        for (int k = 0; k < on->naxes; k++) mth__text_add(writer->text, "%s%d", k ? ", " : "", on->dim[k]);
        mth__text_add(writer->text, ") ");
        add_devices(writer->text, on->device, on->count);
        mth__text_add(writer->text, "\n");
    } else { /* the axis of the mesh that it lacks, and where */
        int axis = 0, stride = 1;
        while (axis < on->naxes && on->mesh_axis[axis] == axis) axis++;
        for (int k = axis + 1; k < mesh->naxes; k++) stride *= mesh->dim[k];
        mth__text_add(writer->text, "slice axis %d at %d\n", axis, on->device[0] / stride % mesh->dim[axis]);
    }
}

static void add_shape(mth__text *text, mth_dtype dtype, mth__shape shape) {
    if (dtype) mth__text_add(text, "%s", mth__dtypes[dtype].word);
    mth__text_add(text, "[");
    for (int d = 0; d < shape.rank; d++) mth__text_add(text, "%s%" PRId64, d ? "," : "", shape.dim[d]);
    mth__text_add(text, "]");
}

static void add_sharding(printer *writer, const mth__sharding *sharding, int rank) {
    char buffer[512];
    mth__sharding_write(buffer, sizeof buffer, sharding, rank);
    mth__text_add(writer->text, "%s on p%d", buffer, writer->placement[sharding->on->id]);
}

static void add_channel(printer *writer, int index) {
    const mth__channel *channel = &writer->program->channel.at[index];
    mth__text *text = writer->text;
    mth__text_add(
        text, "channel c%d %s %s ", index, mth__channel_names[channel->kind], mth__algorithm_names[channel->algorithm]);
    add_shape(text, channel->dtype, channel->shape);
    mth__text_add(text, " ");
    add_sharding(writer, &channel->from, channel->shape.rank);
    mth__text_add(text, " to ");
    add_sharding(writer, &channel->to, channel->shape.rank);
    if (channel->axes) {
        mth__text_add(text, " over ");
        for (int axis = 0, n = 0; axis < MTH__AXES; axis++)
            if (channel->axes >> axis & 1) mth__text_add(text, "%s%d", n++ ? "," : "", axis);
    }
    if (channel->dim >= 0)
        mth__text_add(text, channel->kind == MTH__ALL_TO_ALL ? " split %d" : " dimension %d", channel->dim);
    if (channel->dim2 >= 0) mth__text_add(text, " gathered %d", channel->dim2);
    mth__text_add(text, " ");
    add_quoted(text, channel->label);
    mth__text_add(text, "\n");
}

/* What an entry or an exit is called, and how it lies on its devices; the end of its line. */
static void add_port(
    printer *writer, const char *name, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding) {
    add_name(writer->text, name);
    mth__text_add(writer->text, ": ");
    add_shape(writer->text, dtype, shape);
    mth__text_add(writer->text, " ");
    add_sharding(writer, sharding, shape.rank);
    mth__text_add(writer->text, "\n");
}

static void add_head(printer *writer) {
    const mth__program *program = writer->program;
    mth__text *text = writer->text;
    mth__text_add(text, "program\nmesh (");
    for (int axis = 0; axis < program->mesh->naxes; axis++)
        mth__text_add(text, "%s%d", axis ? ", " : "", program->mesh->dim[axis]);
    mth__text_add(text, program->mesh->naxes == 1 ? ",)\n" : ")\n");
    for (size_t k = 0; k < program->mesh->placements.n; k++)
        if (writer->placement[k] >= 0) add_placement(writer, program->mesh->placements.at[k]);
    for (size_t i = 0; i < program->entry.n; i++) {
        const mth__entry *entry = &program->entry.at[i];
        mth__text_add(text, "entry %zu %s ", i, mth__entry_words[entry->kind]);
        add_port(writer, entry->name, entry->dtype, entry->shape, &entry->sharding);
    }
    for (size_t i = 0; i < program->exit.n; i++) {
        const mth__exit *exit = &program->exit.at[i];
        mth__text_add(text, "exit %zu %s ", i, mth__exit_words[exit->kind]);
        if (exit->kind == MTH__EXIT_SUCCESSOR) mth__text_add(text, "of %d ", exit->entry);
        add_port(writer, exit->name, exit->dtype, exit->shape, &exit->sharding);
    }
    for (size_t i = 0; i < program->channel.n && !mth__thread_stopped(); i++) add_channel(writer, (int)i);
}

/* ---------------------------------------------------------------- roles */
static void add_value(printer *writer, const mth__role *role, int number) {
    const mth__program_value *value = &role->value.at[number];
    mth__text *text = writer->text;
    add_name(text, value->name);
    mth__text_add(text, ": ");
    add_shape(text, value->dtype, value->local);
    if (!mth__shape_equal(value->local, value->shape)) {
        mth__text_add(text, " of ");
        add_shape(text, 0, value->shape);
    }
    mth__text_add(text, " ");
    add_sharding(writer, &value->sharding, value->shape.rank);
    switch (value->storage) {
    case MTH__IN_SLAB:
        mth__text_add(text, " at %s", mth__space_words[value->space]);
        if (value->offset >= 0) mth__text_add(text, "+%" PRId64, value->offset);
        break;
    case MTH__IN_ENTRY: mth__text_add(text, " at entry %d", value->index); break;
    case MTH__IN_EXIT: mth__text_add(text, " at exit %d", value->index); break;
    case MTH__IN_LENT: mth__text_add(text, " at exit %d+%" PRId64, value->index, value->offset); break;
    case MTH__IN_ALIAS:
        mth__text_add(text, " at ");
        add_name(text, role->value.at[value->index].name);
        mth__text_add(text, "+%" PRId64, value->offset);
        break;
    case MTH__IN_OWN: mth__text_add(text, value->space == MTH__HOST ? " at own host" : " at own"); break;
    }
    if (value->memory != mth__usual_memory(writer->program, value->storage, value->index))
        mth__text_add(text, " memory %s", mth__memory_words[value->memory]);
}

static void add_real(mth__text *text, double real) { /* the shortest that reads back the same */
    char shortest[40];
    for (int digits = 6; digits <= 17; digits++) {
        mth__print(shortest, sizeof shortest, "%.*g", digits, real);
        const char *end;
        if (mth__read_real(shortest, &end) == real) break;
    }
    mth__text_add(text, "%s", shortest);
}

static void add_attrs(mth__text *text, const mth__op *op, const mth__attrs *given) {
    mth__attrs attrs = *given;
    const mth__attribute *attribute;
    for (int k = 0; (attribute = mth__op_attribute(op, k)); k++) {
        if (mth__attribute_is_zero(&attrs, attribute)) continue;
        mth__text_add(text, " %s=", attribute->name);
        switch (attribute->kind) {
        case MTH__ATTRIBUTE_INTEGER: mth__text_add(text, "%" PRId64, *mth__attribute_integer(&attrs, attribute)); break;
        case MTH__ATTRIBUTE_REAL: add_real(text, *mth__attribute_real(&attrs, attribute)); break;
        case MTH__ATTRIBUTE_TEXT: add_quoted(text, *mth__attribute_text(&attrs, attribute)); break;
        }
    }
}

static void add_instr(printer *writer, const mth__role *role, int index) {
    const mth__instr *instruction = &role->instr.at[index];
    mth__text *text = writer->text;
    mth__text_add(text, "  %d  ", index);
    for (int j = 0; j < instruction->nout; j++) {
        if (j) mth__text_add(text, ", ");
        add_value(writer, role, instruction->out[j]);
    }
    if (instruction->nout) mth__text_add(text, " = ");
    const mth__channel *channel = instruction->channel < 0 ? NULL : &writer->program->channel.at[instruction->channel];
    if (mth__is_started(instruction)) mth__text_add(text, "start ");
    if (mth__is_started(instruction) && instruction->stream != mth__usual_stream(instruction->kind))
        mth__text_add(text, "on %d ", instruction->stream);
    switch (instruction->kind) {
    case MTH__COMPUTE: mth__text_add(text, "%s", instruction->op->name); break;
    case MTH__COLLECTIVE:
        mth__text_add(text, "%s %s c%d", mth__channel_names[channel->kind], mth__algorithm_names[channel->algorithm],
            instruction->channel);
        break;
    case MTH__SEND: mth__text_add(text, "send c%d", instruction->channel); break;
    case MTH__RECV: mth__text_add(text, "recv c%d", instruction->channel); break;
    case MTH__COPY: mth__text_add(text, "%s", mth__copy_words[mth__space_of(role, instruction->out[0])]); break;
    case MTH__WAIT:
        if (channel)
            mth__text_add(text, "wait c%d", instruction->channel);
        else {
            mth__text_add(text, "wait for ");
            add_name(text, role->value.at[instruction->awaited].name);
        }
        break;
    }
    const int own = mth__row_operands(instruction->op, instruction->nin, instruction->accumulates);
    for (int j = 0; j < instruction->nin; j++) {
        mth__text_add(text, j == own ? " into " : j ? ", " : " ");
        add_name(text, role->value.at[instruction->in[j]].name);
    }
    if (instruction->kind == MTH__COMPUTE) add_attrs(text, instruction->op, instruction->attrs);
    if (instruction->scratch >= 0) {
        mth__text_add(text, " work ");
        add_value(writer, role, instruction->scratch);
    }
    if (instruction->label.module) {
        mth__text_add(text, " @");
        add_name(text, instruction->label.module);
    }
    if (instruction->label.region > 0) mth__text_add(text, " region %d", instruction->label.region);
    if (instruction->label.stage >= 0) mth__text_add(text, " stage %d", instruction->label.stage);
    if (instruction->label.microbatch >= 0) mth__text_add(text, " microbatch %d", instruction->label.microbatch);
    if (instruction->label.phase) mth__text_add(text, " %s", mth__phase_words[instruction->label.phase]);
    if (instruction->label.source) {
        mth__text_add(text, " from ");
        add_quoted(text, instruction->label.source);
    }
    mth__text_add(text, "\n");
}

typedef struct {
    int *head, *next;
} views; /* by base, by view: 1 + value */

static void add_views(printer *writer, const mth__role *role, const views *list, int base) {
    for (int at = list->head[base]; at; at = list->next[at - 1]) {
        mth__text_add(writer->text, "  ");
        add_value(writer, role, at - 1);
        mth__text_add(writer->text, "\n");
    }
}

static void add_role(printer *writer, int index) {
    const mth__role *role = &writer->program->role.at[index];
    mth__arena *scratch = mth__arena_new();
    views list = {NEW_ARRAY(scratch, int, role->value.n), NEW_ARRAY(scratch, int, role->value.n)};
    for (size_t k = role->value.n; k-- > 0;) {
        const mth__program_value *value = &role->value.at[k];
        if (value->storage != MTH__IN_ALIAS) continue;
        list.next[k] = list.head[value->index];
        list.head[value->index] = (int)k + 1;
    }
    mth__text_add(writer->text, "role %d devices ", index);
    add_devices(writer->text, role->device, role->ndevice);
    mth__text_add(writer->text, " slab %" PRId64, role->slab[MTH__DEVICE]);
    if (role->slab[MTH__HOST]) mth__text_add(writer->text, " host %" PRId64, role->slab[MTH__HOST]);
    mth__text_add(writer->text, "\n");
    for (size_t k = 0; k < role->value.n; k++)
        if (role->value.at[k].storage == MTH__IN_ENTRY) {
            mth__text_add(writer->text, "  ");
            add_value(writer, role, (int)k);
            mth__text_add(writer->text, "\n");
            add_views(writer, role, &list, (int)k);
        }
    for (size_t i = 0; i < role->instr.n && !mth__thread_stopped(); i++) {
        add_instr(writer, role, (int)i);
        for (int j = 0; j < role->instr.at[i].nout; j++) add_views(writer, role, &list, role->instr.at[i].out[j]);
    }
    mth__arena_free(scratch);
}

/* ---------------------------------------------------------------- what follows from it */
static void add_template(printer *writer, const mth__template *template) {
    mth__text steps = mth__text_new(writer->text->arena);
    mth__template_print(&steps, template);
    for (const char *line = steps.at; line && *line;) {
        int n = (int)strcspn(line, "\n");
        mth__text_add(writer->text, "# %.*s\n", n, line);
        line += n + (line[n] == '\n');
    }
}

/* Each once, in the order in which channels use them. */
static void add_templates(printer *writer) {
    const mth__program *program = writer->program;
    int largest = 0;
    for (size_t i = 0; i < program->channel.n; i++) {
        int n = mth__channel_size(&program->channel.at[i]);
        if (program->channel.at[i].algorithm != MTH__DIRECT && n > largest) largest = n;
    }
    bool *printed = NEW_ARRAY(writer->text->arena, bool, MTH__TRANSFER *MTH__ALGORITHMS *(largest + 1));
    for (size_t i = 0; i < program->channel.n; i++) {
        const mth__channel *channel = &program->channel.at[i];
        if (channel->algorithm == MTH__DIRECT || channel->kind == MTH__TRANSFER) continue;
        int n = mth__channel_size(channel);
        bool *done = &printed[((int)channel->kind * MTH__ALGORITHMS + (int)channel->algorithm) * (largest + 1) + n];
        if (*done) continue;
        *done = true;
        mth__template template = mth__template_get(channel->kind, channel->algorithm, n);
        add_template(writer, &template);
    }
}

static void add_totals(printer *writer) {
    int n = writer->program->mesh->count;
    mth__traffic *traffic = NEW_ARRAY(writer->text->arena, mth__traffic, n);
    bool counted;
    mth_status uncounted = mth__program_traffic(writer->program, traffic, &counted);
    if (uncounted || !counted) {
        mth__text_add(writer->text, "# what devices receive is not counted: %s\n",
            uncounted ? mth_error_get_what(uncounted) : "too many steps");
        mth_error_free(uncounted);
        return;
    }
    for (int d = 0, run; d < n; d += run) {
        for (run = 1; d + run < n && traffic[d + run].received == traffic[d].received;) run++;
        if (run > 1)
            mth__text_add(writer->text, "# devices %d..%d: each receives ", d, d + run - 1);
        else
            mth__text_add(writer->text, "# device %d: receives ", d);
        if (traffic[d].received == INT64_MAX)
            mth__text_add(writer->text, "2^63 bytes or more\n");
        else
            mth__text_add(writer->text, "%" PRId64 " bytes\n", traffic[d].received);
    }
}

void mth__program_print(mth__text *text, const mth__program *program) {
    printer writer = {.text = text, .program = program};
    number_placements(&writer);
    add_head(&writer);
    for (size_t role_number = 0; role_number < program->role.n && !mth__thread_stopped(); role_number++)
        add_role(&writer, (int)role_number);
    add_templates(&writer);
    add_totals(&writer);
}
