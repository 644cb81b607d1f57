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
static mth_status device_list(mth__plan_parser *x, devices *out) {
    x->marks++;
    do {
        int first, last, step = 1;
        TRY(mth__read_small(&x->in, 0, x->p->mesh->count - 1, &first));
        last = first;
        if (x->in.at[0] == '.' && x->in.at[1] == '.') {
            x->in.at += 2;
            TRY(mth__read_small(&x->in, first, x->p->mesh->count - 1, &last));
            if (*x->in.at == ':') {
                x->in.at++;
                TRY(mth__read_small(&x->in, 1, x->p->mesh->count, &step));
            }
        }
        for (int d = first; d <= last; d += step) {
            if (x->mark[d] == x->marks) return mth__read_fail(&x->in, F("device %d is listed twice", d));
            x->mark[d] = x->marks;
            PUSH(x->in.arena, out->at, d);
        }
    } while (mth__read_symbol(&x->in, ','));
    return NULL;
}

/* ---------------------------------------------------------------- the head */
static mth_status mesh(mth__plan_parser *x) {
    int64_t dim[MTH__AXES], count = 1;
    int n = 0;
    TRY(mth__read_need(&x->in, "("));
    do {
        if (n && *x->in.at == ')') break; /* (4,) */
        if (n == MTH__AXES) return mth__read_fail(&x->in, F("more than %d axes", MTH__AXES));
        TRY(mth__read_integer(&x->in, 1, MOST_PLACED, &dim[n]));
        count *= dim[n++];
        if (count > 1 << 20) return mth__read_fail(&x->in, F("more than %d devices", 1 << 20));
    } while (mth__read_symbol(&x->in, ','));
    TRY(mth__read_need(&x->in, ")"));
    TRY(mth__mesh_new(x->in.arena, n, dim, &x->p->mesh));
    x->role_of = NEW_ARRAY(x->in.arena, int32_t, count);
    x->mark = NEW_ARRAY(x->in.arena, int, count);
    memset(x->role_of, -1, (size_t)count * sizeof *x->role_of);
    x->p->role_of = x->role_of;
    return NULL;
}

static mth_status placement(mth__plan_parser *x) {
    mth__mesh *m = x->p->mesh;
    const mth__placement *on;
    int number;
    TRY(mth__read_reference(&x->in, 'p', x->placement.n + 1, &number));
    if (number != (int)x->placement.n) return mth__read_fail(&x->in, F("placement p%d stands here", number));
    if (mth__read_word(&x->in, "whole")) {
        on = mth__place_whole(m);
    } else if (mth__read_word(&x->in, "device")) {
        int d;
        TRY(mth__read_small(&x->in, 0, m->count - 1, &d));
        on = mth__place_device(m, d);
    } else {
        if ((x->placed += m->count) > MOST_PLACED)
            return mth__read_fail(&x->in, F("too many placements for a mesh of %d devices", m->count));
        if (mth__read_word(&x->in, "devices")) {
            devices list = {0};
            TRY(device_list(x, &list));
            on = mth__place_list(m, (int)list.at.n, list.at.at);
        } else {
            int a, c;
            TRY(mth__read_need(&x->in, "slice"));
            TRY(mth__read_need(&x->in, "axis"));
            TRY(mth__read_small(&x->in, 0, m->naxes - 1, &a));
            TRY(mth__read_need(&x->in, "at"));
            TRY(mth__read_small(&x->in, 0, m->dim[a] - 1, &c));
            on = mth__place_slice(m, a, c);
        }
    }
    PUSH(x->in.arena, x->placement, on);
    return NULL;
}

static mth_status entry(mth__plan_parser *x) {
    mth__entry e = {0};
    int kind;
    TRY(mth__parse_number(x, "entry", x->p->entry.n));
    TRY(mth__read_one_of(&x->in, mth__entry_words, MTH__ENTRY_KINDS, "kind of entry", &kind));
    e.kind = (mth__entry_kind)kind;
    TRY(mth__read_name(&x->in, &e.name));
    TRY(mth__read_need(&x->in, ":"));
    TRY(mth__parse_typed_shape(x, &e.dtype, &e.shape));
    TRY(mth__parse_sharding(x, e.shape, &e.sharding));
    PUSH(x->in.arena, x->p->entry, e);
    return NULL;
}

static mth_status exit_line(mth__plan_parser *x) {
    mth__exit e = {.entry = -1};
    int kind;
    TRY(mth__parse_number(x, "exit", x->p->exit.n));
    TRY(mth__read_one_of(&x->in, mth__exit_words, MTH__EXIT_KINDS, "kind of exit", &kind));
    e.kind = (mth__exit_kind)kind;
    if (e.kind == MTH__EXIT_SUCCESSOR) {
        TRY(mth__read_need(&x->in, "of"));
        TRY(mth__read_small(&x->in, 0, (int)x->p->entry.n - 1, &e.entry));
    }
    TRY(mth__read_name(&x->in, &e.name));
    TRY(mth__read_need(&x->in, ":"));
    TRY(mth__parse_typed_shape(x, &e.dtype, &e.shape));
    TRY(mth__parse_sharding(x, e.shape, &e.sharding));
    PUSH(x->in.arena, x->p->exit, e);
    return NULL;
}

static mth_status channel(mth__plan_parser *x) {
    mth__channel c = {.dim = -1, .dim2 = -1};
    int number_, kind, algorithm, d;
    TRY(mth__read_reference(&x->in, 'c', x->p->channel.n + 1, &number_));
    if (number_ != (int)x->p->channel.n) return mth__read_fail(&x->in, F("channel c%d stands here", number_));
    TRY(mth__read_one_of(&x->in, mth__channel_names, MTH__CHANNEL_KINDS, "kind of communication", &kind));
    TRY(mth__read_one_of(&x->in, mth__algorithm_names, MTH__ALGORITHMS, "algorithm", &algorithm));
    c.kind = (mth__channel_kind)kind;
    c.algorithm = (mth__algorithm)algorithm;
    TRY(mth__parse_typed_shape(x, &c.dtype, &c.shape));
    TRY(mth__parse_sharding(x, c.shape, &c.from));
    TRY(mth__read_need(&x->in, "to"));
    TRY(mth__parse_sharding(x, c.shape, &c.to));
    c.reduce = c.from.reduce;
    if (mth__read_word(&x->in, "over")) {
        do {
            int8_t a;
            TRY(mth__parse_axis(x, &a));
            c.axes |= (uint8_t)(1u << a);
        } while (mth__read_symbol(&x->in, ','));
    }
    if (mth__read_word(&x->in, kind == MTH__ALL_TO_ALL ? "split" : "dimension")) {
        TRY(mth__read_small(&x->in, 0, MTH__RANK - 1, &d));
        c.dim = (int8_t)d;
    }
    if (mth__read_word(&x->in, "gathered")) {
        TRY(mth__read_small(&x->in, 0, MTH__RANK - 1, &d));
        c.dim2 = (int8_t)d;
    }
    TRY(mth__read_quoted(&x->in, &c.label));
    mth_status s = mth__channel_check(&c);
    if (s) return mth__error_operator(s, mth__format(x->in.arena, "line %d of the plan", x->in.line));
    PUSH(x->in.arena, x->p->channel, c);
    return NULL;
}

/* ---------------------------------------------------------------- roles */
static mth_status role(mth__plan_parser *x) {
    mth__role r = {0};
    devices list = {0};
    TRY(mth__parse_number(x, "role", x->p->role.n));
    TRY(mth__read_need(&x->in, "devices"));
    TRY(device_list(x, &list));
    for (size_t i = 0; i < list.at.n; i++) {
        int32_t *of = &x->role_of[list.at.at[i]];
        if (*of >= 0) return mth__read_fail(&x->in, F("device %d has two roles", list.at.at[i]));
        if (i && list.at.at[i] < list.at.at[i - 1]) return mth__read_fail(&x->in, F("devices don't ascend"));
        *of = (int32_t)x->p->role.n;
    }
    TRY(mth__read_need(&x->in, "slab"));
    TRY(mth__read_integer(&x->in, 0, INT64_MAX / 4, &r.slab[MTH__DEVICE]));
    if (mth__read_word(&x->in, "host")) TRY(mth__read_integer(&x->in, 0, INT64_MAX / 4, &r.slab[MTH__HOST]));
    r.ndevice = (int)list.at.n;
    r.device = list.at.at;
    PUSH(x->in.arena, x->p->role, r);
    x->role = &x->p->role.at[x->p->role.n - 1];
    x->names = (mth__names){0};
    return NULL;
}

static mth_status line(mth__plan_parser *x) {
    if (*x->in.at == ' ') {
        int view;
        if (mth__read_ends(&x->in)) return NULL;
        if (!x->role) return mth__read_fail(&x->in, F("an instruction of no role"));
        return *x->in.at >= '0' && *x->in.at <= '9' ? mth__parse_instruction(x) : mth__parse_value(x, false, &view);
    }
    if (mth__read_word(&x->in, "mesh")) return x->p->mesh ? mth__read_fail(&x->in, F("a second mesh")) : mesh(x);
    if (!x->p->mesh) return mth__read_fail(&x->in, F("the mesh is missing"));
    if (mth__read_word(&x->in, "role")) return role(x);
    if (x->role) return mth__read_fail(&x->in, F("roles stand last"));
    if (mth__read_word(&x->in, "placement")) return placement(x);
    if (mth__read_word(&x->in, "entry")) return entry(x);
    if (mth__read_word(&x->in, "exit")) return exit_line(x);
    if (mth__read_word(&x->in, "channel")) return channel(x);
    return mth__read_fail(&x->in, F("no placement, entry, exit, channel or role"));
}

mth_status mth__program_parse(mth__arena *arena, const char *text, mth__program **out) {
    mth__plan_parser x = {.in = {arena, text, 1}, .p = NEW(arena, mth__program)};
    x.p->arena = arena;
    if (!mth__read_word(&x.in, "program") || !mth__read_ends(&x.in))
        return mth__read_fail(&x.in, F("the first word of a plan, 'program', is missing"));
    while (*x.in.at) {
        TRY(mth__stop_check());
        if (*x.in.at == '#')
            x.in.at += strcspn(x.in.at, "\n");
        else if (*x.in.at != '\n')
            TRY(line(&x));
        if (!mth__read_ends(&x.in)) return mth__read_fail(&x.in, F("more than the line should hold"));
        if (*x.in.at == '\n') {
            x.in.at++;
            x.in.line++;
        }
    }
    if (!x.p->mesh) return mth__read_fail(&x.in, F("the mesh is missing"));
    *out = x.p;
    return NULL;
}
