/* Reads what program_text.c prints. Any text gives a program or an error with its line; memory and time are bounded by
 * the text and the mesh. What it accepts can be printed; whether it is right is the verifier's to say. */
#include "emit/program_parse.h"
#include <string.h>

enum { MOST_PLACED = 1 << 24 }; /* devices in all placements together */

/* ---------------------------------------------------------------- devices */
typedef struct {
    VEC(int32_t) at;
} devices;

/* "0..3, 8, 10..14:2", each once. */
static mth_status device_list(mth__plan_parser *parser, devices *out) {
    parser->marks++;
    do {
        int first, last, step = 1;
        TRY(mth__read_small(&parser->in, 0, parser->program->mesh->count - 1, &first));
        last = first;
        if (parser->in.at[0] == '.' && parser->in.at[1] == '.') {
            parser->in.at += 2;
            TRY(mth__read_small(&parser->in, first, parser->program->mesh->count - 1, &last));
            if (*parser->in.at == ':') {
                parser->in.at++;
                TRY(mth__read_small(&parser->in, 1, parser->program->mesh->count, &step));
            }
        }
        for (int d = first; d <= last; d += step) {
            if (parser->mark[d] == parser->marks) return mth__read_fail(&parser->in, F("device %d is listed twice", d));
            parser->mark[d] = parser->marks;
            PUSH(parser->in.arena, out->at, d);
        }
    } while (mth__read_symbol(&parser->in, ','));
    return NULL;
}

/* ---------------------------------------------------------------- the head */
static mth_status mesh(mth__plan_parser *parser) {
    int64_t dim[MTH__AXES], count = 1;
    int n = 0;
    TRY(mth__read_need(&parser->in, "("));
    do {
        if (n && *parser->in.at == ')') break; /* (4,) */
        if (n == MTH__AXES) return mth__read_fail(&parser->in, F("more than %d axes", MTH__AXES));
        TRY(mth__read_integer(&parser->in, 1, MOST_PLACED, &dim[n]));
        count *= dim[n++];
        if (count > 1 << 20) return mth__read_fail(&parser->in, F("more than %d devices", 1 << 20));
    } while (mth__read_symbol(&parser->in, ','));
    TRY(mth__read_need(&parser->in, ")"));
    TRY(mth__mesh_new(parser->in.arena, n, dim, &parser->program->mesh));
    parser->role_of = NEW_ARRAY(parser->in.arena, int32_t, count);
    parser->mark = NEW_ARRAY(parser->in.arena, int, count);
    memset(parser->role_of, -1, (size_t)count * sizeof *parser->role_of);
    parser->program->role_of = parser->role_of;
    return NULL;
}

/* (2, 2) 0, 1, 4, 5 */
static mth_status grid(mth__plan_parser *parser, const mth__placement **on) {
    int naxes = 0, dim[MTH__AXES];
    int64_t count = 1;
    devices list = {0};
    TRY(mth__read_need(&parser->in, "("));
    do {
        if (naxes == MTH__AXES) return mth__read_fail(&parser->in, F("more than %d axes", MTH__AXES));
        TRY(mth__read_small(&parser->in, 1, parser->program->mesh->count, &dim[naxes]));
        count = mth__size_product(count, dim[naxes++]);
    } while (mth__read_symbol(&parser->in, ','));
    TRY(mth__read_need(&parser->in, ")"));
    if (naxes < 2) return mth__read_fail(&parser->in, F("a grid has two axes or more"));
    TRY(device_list(parser, &list));
    if ((int64_t)list.at.n != count)
        return mth__read_fail(&parser->in, F("%zu devices for a grid of %lld", list.at.n, (long long)count));
    *on = mth__place_grid(parser->program->mesh, naxes, dim, list.at.at);
    return NULL;
}

static mth_status placement(mth__plan_parser *parser) {
    mth__mesh *mesh = parser->program->mesh;
    const mth__placement *on = NULL;
    int number;
    TRY(mth__read_reference(&parser->in, 'p', parser->placement.n + 1, &number));
    if (number != (int)parser->placement.n) return mth__read_fail(&parser->in, F("placement p%d stands here", number));
    if (mth__read_word(&parser->in, "whole")) {
        on = mth__place_whole(mesh);
    } else if (mth__read_word(&parser->in, "device")) {
        int d;
        TRY(mth__read_small(&parser->in, 0, mesh->count - 1, &d));
        on = mth__place_device(mesh, d);
    } else {
        if ((parser->placed += mesh->count) > MOST_PLACED)
            return mth__read_fail(&parser->in, F("too many placements for a mesh of %d devices", mesh->count));
        if (mth__read_word(&parser->in, "devices")) {
            devices list = {0};
            TRY(device_list(parser, &list));
            on = mth__place_list(mesh, (int)list.at.n, list.at.at);
        } else if (mth__read_word(&parser->in, "grid")) {
            TRY(grid(parser, &on));
        } else {
            int axis, coordinate;
            TRY(mth__read_need(&parser->in, "slice"));
            TRY(mth__read_need(&parser->in, "axis"));
            TRY(mth__read_small(&parser->in, 0, mesh->naxes - 1, &axis));
            TRY(mth__read_need(&parser->in, "at"));
            TRY(mth__read_small(&parser->in, 0, mesh->dim[axis] - 1, &coordinate));
            on = mth__place_slice(mesh, axis, coordinate);
        }
    }
    PUSH(parser->in.arena, parser->placement, on);
    return NULL;
}

static mth_status entry(mth__plan_parser *parser) {
    mth__entry read = {0};
    int kind;
    TRY(mth__parse_number(parser, "entry", parser->program->entry.n));
    TRY(mth__read_one_of(&parser->in, mth__entry_words, MTH__ENTRY_KINDS, "kind of entry", &kind));
    read.kind = (mth__entry_kind)kind;
    TRY(mth__read_name(&parser->in, &read.name));
    TRY(mth__read_need(&parser->in, ":"));
    TRY(mth__parse_typed_shape(parser, &read.dtype, &read.shape));
    TRY(mth__parse_sharding(parser, read.shape, &read.sharding));
    PUSH(parser->in.arena, parser->program->entry, read);
    return NULL;
}

static mth_status exit_line(mth__plan_parser *parser) {
    mth__exit exit = {.entry = -1};
    int kind;
    TRY(mth__parse_number(parser, "exit", parser->program->exit.n));
    TRY(mth__read_one_of(&parser->in, mth__exit_words, MTH__EXIT_KINDS, "kind of exit", &kind));
    exit.kind = (mth__exit_kind)kind;
    if (exit.kind == MTH__EXIT_SUCCESSOR) {
        TRY(mth__read_need(&parser->in, "of"));
        TRY(mth__read_small(&parser->in, 0, (int)parser->program->entry.n - 1, &exit.entry));
    }
    TRY(mth__read_name(&parser->in, &exit.name));
    TRY(mth__read_need(&parser->in, ":"));
    TRY(mth__parse_typed_shape(parser, &exit.dtype, &exit.shape));
    TRY(mth__parse_sharding(parser, exit.shape, &exit.sharding));
    PUSH(parser->in.arena, parser->program->exit, exit);
    return NULL;
}

static mth_status channel(mth__plan_parser *parser) {
    mth__channel read = {.dim = -1, .dim2 = -1};
    int number_, kind, algorithm, d;
    TRY(mth__read_reference(&parser->in, 'c', parser->program->channel.n + 1, &number_));
    if (number_ != (int)parser->program->channel.n)
        return mth__read_fail(&parser->in, F("channel c%d stands here", number_));
    TRY(mth__read_one_of(&parser->in, mth__channel_names, MTH__CHANNEL_KINDS, "kind of communication", &kind));
    TRY(mth__read_one_of(&parser->in, mth__algorithm_names, MTH__ALGORITHMS, "algorithm", &algorithm));
    read.kind = (mth__channel_kind)kind;
    read.algorithm = (mth__algorithm)algorithm;
    TRY(mth__parse_typed_shape(parser, &read.dtype, &read.shape));
    TRY(mth__parse_sharding(parser, read.shape, &read.from));
    TRY(mth__read_need(&parser->in, "to"));
    TRY(mth__parse_sharding(parser, read.shape, &read.to));
    read.reduce = read.from.reduce;
    if (mth__read_word(&parser->in, "over")) {
        do {
            int8_t axis;
            TRY(mth__parse_axis(parser, &axis));
            read.axes |= (uint8_t)(1u << axis);
        } while (mth__read_symbol(&parser->in, ','));
    }
    if (mth__read_word(&parser->in, kind == MTH__ALL_TO_ALL ? "split" : "dimension")) {
        TRY(mth__read_small(&parser->in, 0, MTH__RANK - 1, &d));
        read.dim = (int8_t)d;
    }
    if (mth__read_word(&parser->in, "gathered")) {
        TRY(mth__read_small(&parser->in, 0, MTH__RANK - 1, &d));
        read.dim2 = (int8_t)d;
    }
    TRY(mth__read_quoted(&parser->in, &read.label));
    mth_status status = mth__channel_check(&read);
    if (status)
        return mth__error_operator(status, mth__format(parser->in.arena, "line %d of the plan", parser->in.line));
    PUSH(parser->in.arena, parser->program->channel, read);
    return NULL;
}

/* ---------------------------------------------------------------- roles */
static mth_status role(mth__plan_parser *parser) {
    mth__role read = {0};
    devices list = {0};
    TRY(mth__parse_number(parser, "role", parser->program->role.n));
    TRY(mth__read_need(&parser->in, "devices"));
    TRY(device_list(parser, &list));
    for (size_t i = 0; i < list.at.n; i++) {
        int32_t *of = &parser->role_of[list.at.at[i]];
        if (*of >= 0) return mth__read_fail(&parser->in, F("device %d has two roles", list.at.at[i]));
        if (i && list.at.at[i] < list.at.at[i - 1]) return mth__read_fail(&parser->in, F("devices don't ascend"));
        *of = (int32_t)parser->program->role.n;
    }
    TRY(mth__read_need(&parser->in, "slab"));
    TRY(mth__read_integer(&parser->in, 0, INT64_MAX / 4, &read.slab[MTH__DEVICE]));
    if (mth__read_word(&parser->in, "host"))
        TRY(mth__read_integer(&parser->in, 0, INT64_MAX / 4, &read.slab[MTH__HOST]));
    read.ndevice = (int)list.at.n;
    read.device = list.at.at;
    PUSH(parser->in.arena, parser->program->role, read);
    parser->role = &parser->program->role.at[parser->program->role.n - 1];
    parser->names = (mth__names){0};
    return NULL;
}

static mth_status line(mth__plan_parser *parser) {
    if (*parser->in.at == ' ') {
        int view;
        if (mth__read_ends(&parser->in)) return NULL;
        if (!parser->role) return mth__read_fail(&parser->in, F("an instruction of no role"));
        return *parser->in.at >= '0' && *parser->in.at <= '9' ? mth__parse_instruction(parser)
                                                              : mth__parse_value(parser, false, &view);
    }
    if (mth__read_word(&parser->in, "mesh"))
        return parser->program->mesh ? mth__read_fail(&parser->in, F("a second mesh")) : mesh(parser);
    if (!parser->program->mesh) return mth__read_fail(&parser->in, F("the mesh is missing"));
    if (mth__read_word(&parser->in, "role")) return role(parser);
    if (parser->role) return mth__read_fail(&parser->in, F("roles stand last"));
    if (mth__read_word(&parser->in, "placement")) return placement(parser);
    if (mth__read_word(&parser->in, "entry")) return entry(parser);
    if (mth__read_word(&parser->in, "exit")) return exit_line(parser);
    if (mth__read_word(&parser->in, "channel")) return channel(parser);
    return mth__read_fail(&parser->in, F("no placement, entry, exit, channel or role"));
}

mth_status mth__program_parse(mth__arena *arena, const char *text, mth__program **out) {
    mth__plan_parser parser = {.in = {arena, text, 1}, .program = NEW(arena, mth__program)};
    parser.program->arena = arena;
    if (!mth__read_word(&parser.in, "program") || !mth__read_ends(&parser.in))
        return mth__read_fail(&parser.in, F("the first word of a plan, 'program', is missing"));
    while (*parser.in.at) {
        TRY(mth__stop_check());
        if (*parser.in.at == '#')
            parser.in.at += strcspn(parser.in.at, "\n");
        else if (*parser.in.at != '\n')
            TRY(line(&parser));
        if (!mth__read_ends(&parser.in)) return mth__read_fail(&parser.in, F("more than the line should hold"));
        if (*parser.in.at == '\n') {
            parser.in.at++;
            parser.in.line++;
        }
    }
    if (!parser.program->mesh) return mth__read_fail(&parser.in, F("the mesh is missing"));
    *out = parser.program;
    return NULL;
}
