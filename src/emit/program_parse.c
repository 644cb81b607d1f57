/* Reads what program_text.c prints. Any text gives a program or an error with its line; memory and time are bounded by
 * the text and the mesh. What it accepts can be printed; whether it is right is the verifier's to say. */
#include "base/hash.h"
#include "emit/program_words.h"
#include <inttypes.h>
#include <string.h>

enum { MOST_PLACED = 1 << 24 }; /* devices in all placements together */
static const int64_t MOST_EXTENT = (int64_t)1 << 40;

typedef struct {
    const char *name;
    int value;
} named;
typedef struct {
    mth__reader in;
    mth__program *p;
    VEC(const mth__placement *) placement;
    int64_t placed;
    int32_t *role_of;
    int *mark, marks; /* by device: the list that it was last seen in */
    mth__role *role;
    named *name;
    size_t names_room; /* of the role's values: open addressing */
} parser;

/* ---------------------------------------------------------------- devices, shapes, shardings */
typedef struct {
    VEC(int32_t) at;
} devices;

/* "0..3, 8, 10..14:2", each once. */
static mth_status device_list(parser *x, devices *out) {
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

static mth_status shape(parser *x, mth__shape *out) {
    *out = (mth__shape){0};
    TRY(mth__read_need(&x->in, "["));
    int64_t product = 1;
    if (mth__read_symbol(&x->in, ']')) return NULL;
    do {
        int64_t n;
        if (out->rank == MTH__RANK) return mth__read_fail(&x->in, F("more than %d dimensions", MTH__RANK));
        TRY(mth__read_integer(&x->in, 0, MOST_EXTENT, &n));
        if (n && (__builtin_mul_overflow(product, n, &product) || product > INT64_MAX / 32))
            return mth__read_fail(&x->in, F("the shape is too large"));
        out->dim[out->rank++] = n;
    } while (mth__read_symbol(&x->in, ','));
    return mth__read_need(&x->in, "]");
}

static mth_status typed_shape(parser *x, mth_dtype *dtype, mth__shape *out) {
    int d;
    mth__read_skip(&x->in);
    TRY(mth__read_one_of(&x->in, mth__dtype_words + 1, MTH_BFLOAT16, "dtype", &d));
    *dtype = (mth_dtype)(d + 1);
    return shape(x, out);
}

static mth_status axis(parser *x, int8_t *out) {
    int a;
    TRY(mth__read_small(&x->in, 0, MTH__AXES - 1, &a));
    *out = (int8_t)a;
    return NULL;
}

static mth_status split(parser *x, mth__split *out) {
    if (mth__read_word(&x->in, "None")) return NULL;
    if (mth__read_symbol(&x->in, '(')) {
        do {
            if (out->naxes == MTH__AXES) return mth__read_fail(&x->in, F("more than %d axes", MTH__AXES));
            TRY(axis(x, &out->axis[out->naxes++]));
        } while (mth__read_symbol(&x->in, ','));
        TRY(mth__read_need(&x->in, ")"));
    } else {
        TRY(axis(x, &out->axis[out->naxes++]));
    }
    int grain = 0;
    if (mth__read_word(&x->in, "cyclic"))
        out->cyclic = true;
    else if (mth__read_word(&x->in, "by"))
        TRY(mth__read_small(&x->in, 2, INT32_MAX, &grain));
    out->grain = grain;
    return NULL;
}

static mth_status sharding(parser *x, mth__shape s, mth__sharding *out) {
    *out = (mth__sharding){0};
    TRY(mth__read_need(&x->in, "("));
    for (int d = 0; d < s.rank; d++) {
        if (d) TRY(mth__read_need(&x->in, ","));
        TRY(split(x, &out->dim[d]));
    }
    if (s.rank == 1) TRY(mth__read_need(&x->in, ","));
    TRY(mth__read_need(&x->in, ")"));
    if (mth__read_word(&x->in, "partial")) {
        int8_t a;
        if (mth__read_word(&x->in, "max"))
            out->reduce = MTH__REDUCE_MAX;
        else
            TRY(mth__read_need(&x->in, "sum"));
        TRY(mth__read_need(&x->in, "over"));
        bool several = mth__read_symbol(&x->in, '(');
        do {
            TRY(axis(x, &a));
            out->partial |= (uint8_t)(1u << a);
        } while (several && mth__read_symbol(&x->in, ','));
        if (several) TRY(mth__read_need(&x->in, ")"));
    }
    int p;
    TRY(mth__read_need(&x->in, "on"));
    TRY(mth__read_reference(&x->in, 'p', x->placement.n, &p));
    out->on = x->placement.at[p];
    mth_status status = mth__sharding_check(out, s);
    if (status) return mth__error_operator(status, mth__format(x->in.arena, "line %d of the plan", x->in.line));
    mth__sharding_canonical(out, s);
    return NULL;
}

/* ---------------------------------------------------------------- the head */
static mth_status mesh(parser *x) {
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

static mth_status placement(parser *x) {
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

static mth_status number(parser *x, const char *what, size_t next) {
    int n;
    TRY(mth__read_small(&x->in, 0, INT32_MAX, &n));
    return n == (int)next ? NULL : mth__read_fail(&x->in, F("%s %d stands where %zu should", what, n, next));
}

static mth_status entry(parser *x) {
    mth__entry e = {0};
    int kind;
    TRY(number(x, "entry", x->p->entry.n));
    TRY(mth__read_one_of(&x->in, mth__entry_words, MTH__ENTRY_SEED + 1, "kind of entry", &kind));
    e.kind = (mth__entry_kind)kind;
    TRY(mth__read_name(&x->in, &e.name));
    TRY(mth__read_need(&x->in, ":"));
    TRY(typed_shape(x, &e.dtype, &e.shape));
    TRY(sharding(x, e.shape, &e.sharding));
    PUSH(x->in.arena, x->p->entry, e);
    return NULL;
}

static mth_status exit_line(parser *x) {
    mth__exit e = {0};
    TRY(number(x, "exit", x->p->exit.n));
    e.gradient = mth__read_word(&x->in, "gradient");
    if (!e.gradient) TRY(mth__read_need(&x->in, "output"));
    TRY(mth__read_name(&x->in, &e.name));
    TRY(mth__read_need(&x->in, ":"));
    TRY(typed_shape(x, &e.dtype, &e.shape));
    TRY(sharding(x, e.shape, &e.sharding));
    PUSH(x->in.arena, x->p->exit, e);
    return NULL;
}

static mth_status channel(parser *x) {
    mth__channel c = {.dim = -1, .dim2 = -1};
    int number_, kind, algorithm, d;
    TRY(mth__read_reference(&x->in, 'c', x->p->channel.n + 1, &number_));
    if (number_ != (int)x->p->channel.n) return mth__read_fail(&x->in, F("channel c%d stands here", number_));
    TRY(mth__read_one_of(&x->in, mth__channel_names, MTH__CHANNEL_KINDS, "kind of communication", &kind));
    TRY(mth__read_one_of(&x->in, mth__algorithm_names, MTH__ALGORITHMS, "algorithm", &algorithm));
    c.kind = (mth__channel_kind)kind;
    c.algorithm = (mth__algorithm)algorithm;
    TRY(typed_shape(x, &c.dtype, &c.shape));
    TRY(sharding(x, c.shape, &c.from));
    TRY(mth__read_need(&x->in, "to"));
    TRY(sharding(x, c.shape, &c.to));
    c.reduce = c.from.reduce;
    if (mth__read_word(&x->in, "over")) {
        do {
            int8_t a;
            TRY(axis(x, &a));
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

/* ---------------------------------------------------------------- roles: values */
static size_t slot_of(const parser *x, const char *s) {
    size_t at = mth__hash_text(s, strlen(s)) & (x->names_room - 1);
    while (x->name[at].name && strcmp(x->name[at].name, s)) at = (at + 1) & (x->names_room - 1);
    return at;
}

static mth_status declare(parser *x, const char *s, mth__pvalue v, int *out) {
    if (2 * (x->role->value.n + 1) > x->names_room) {
        named *old = x->name;
        size_t n = x->names_room;
        x->names_room = n ? 2 * n : 64;
        x->name = NEW_ARRAY(x->in.arena, named, x->names_room);
        for (size_t i = 0; i < n; i++)
            if (old[i].name) x->name[slot_of(x, old[i].name)] = old[i];
    }
    size_t at = slot_of(x, s);
    if (x->name[at].name) return mth__read_fail(&x->in, F("%s is written a second time", s));
    *out = (int)x->role->value.n;
    x->name[at] = (named){s, *out};
    PUSH(x->in.arena, x->role->value, v);
    return NULL;
}

static mth_status value_named(parser *x, int *out) {
    const char *s;
    TRY(mth__read_name(&x->in, &s));
    size_t at = x->names_room ? slot_of(x, s) : 0;
    if (!x->names_room || !x->name[at].name)
        return mth__read_fail(&x->in, F("%s is read, and nothing has written it on this role", s));
    *out = x->name[at].value;
    return NULL;
}

static mth_status location(parser *x, mth__pvalue *v) {
    if (mth__read_word(&x->in, "entry")) {
        v->storage = MTH__IN_ENTRY;
        return mth__read_small(&x->in, 0, (int)x->p->entry.n - 1, &v->index);
    }
    if (mth__read_word(&x->in, "exit")) {
        v->storage = MTH__IN_EXIT;
        TRY(mth__read_small(&x->in, 0, (int)x->p->exit.n - 1, &v->index));
        if (!mth__read_symbol(&x->in, '+')) return NULL;
        v->storage = MTH__IN_LENT;
        return mth__read_integer(&x->in, 0, INT64_MAX / 4, &v->offset);
    }
    if (mth__read_word(&x->in, "slab")) {
        v->storage = MTH__IN_SLAB;
        v->offset = -1;
        return mth__read_symbol(&x->in, '+') ? mth__read_integer(&x->in, 0, INT64_MAX / 4, &v->offset) : NULL;
    }
    v->storage = MTH__IN_ALIAS;
    TRY(value_named(x, &v->index));
    if (x->role->value.at[v->index].storage == MTH__IN_ALIAS) return mth__read_fail(&x->in, F("a view of a view"));
    TRY(mth__read_need(&x->in, "+"));
    return mth__read_integer(&x->in, 0, INT64_MAX / 4, &v->offset);
}

/* "%5: f32[8,16] of [8,64] (None, 0) on p0 at slab+0". Entries and views stand on lines of their own, what is `written`
 * with its writer. */
static mth_status value(parser *x, bool written, int *out) {
    mth__pvalue v = {0};
    const char *s;
    TRY(mth__read_name(&x->in, &s));
    TRY(mth__read_need(&x->in, ":"));
    v.name = s;
    TRY(typed_shape(x, &v.dtype, &v.local));
    v.shape = v.local;
    if (mth__read_word(&x->in, "of")) TRY(shape(x, &v.shape));
    TRY(sharding(x, v.shape, &v.sharding));
    TRY(mth__read_need(&x->in, "at"));
    TRY(location(x, &v));
    if (written != (v.storage == MTH__IN_SLAB || v.storage == MTH__IN_EXIT || v.storage == MTH__IN_LENT))
        return mth__read_fail(&x->in, written ? F("an entry or a view is written") : F("no instruction writes %s", s));
    v.klass = mth__usual_class(x->p, v.storage, v.index);
    if (mth__read_word(&x->in, "class")) {
        int k;
        TRY(mth__read_one_of(&x->in, mth__class_words, MTH__CLASS_COMMUNICATION + 1, "class", &k));
        v.klass = (mth__value_class)k;
    }
    v.bytes = mth__shape_size(v.local) * (int64_t)mth_dtype_size(v.dtype);
    return declare(x, s, v, out);
}

static bool value_follows(parser *x) { /* a name and a colon */
    mth__read_skip(&x->in);
    const char *s = x->in.at;
    if (*s == '"') {
        for (s++; *s && *s != '"' && *s != '\n';) s += *s == '\\' && s[1] && s[1] != '\n' ? 2 : 1;
        return *s == '"' && s[1] == ':';
    }
    while (mth__is_word(*s)) s++;
    return s > x->in.at && *s == ':';
}

/* ---------------------------------------------------------------- roles: instructions */
static bool key_follows(parser *x) { /* a word and = */
    mth__read_skip(&x->in);
    const char *s = x->in.at;
    while (mth__is_word(*s)) s++;
    return s > x->in.at && *s == '=';
}

static mth_status attribute(parser *x, const mth__op *op, mth__attrs *attrs) {
    const mth__attribute *attribute;
    for (int k = 0; (attribute = mth__op_attribute(op, k)); k++) {
        size_t length = strlen(attribute->name);
        if (strncmp(x->in.at, attribute->name, length) || x->in.at[length] != '=') continue;
        x->in.at += length + 1;
        switch (attribute->kind) {
        case MTH__ATTRIBUTE_INTEGER:
            return mth__read_integer(&x->in, INT64_MIN, INT64_MAX, mth__attribute_integer(attrs, attribute));
        case MTH__ATTRIBUTE_TEXT: return mth__read_quoted(&x->in, mth__attribute_text(attrs, attribute));
        case MTH__ATTRIBUTE_REAL: break;
        }
        const char *end;
        *mth__attribute_real(attrs, attribute) = mth__read_real(x->in.at, &end);
        if (end == x->in.at) return mth__read_fail(&x->in, F("a number is missing"));
        x->in.at = end;
        return NULL;
    }
    return mth__read_fail(&x->in, F("%s has no such attribute", op->name));
}

static mth_status operator_word(parser *x, mth__instr *k) {
    int kind, algorithm;
    if (mth__read_word(&x->in, "send"))
        k->kind = MTH__SEND;
    else if (mth__read_word(&x->in, "recv"))
        k->kind = MTH__RECV;
    else if (mth__read_word(&x->in, "wait"))
        k->kind = MTH__WAIT;
    else {
        k->kind = mth__read_word(&x->in, "start") ? MTH__START : MTH__COLLECTIVE;
        for (kind = 0; kind < MTH__CHANNEL_KINDS && !mth__read_word(&x->in, mth__channel_names[kind]);) kind++;
        if (kind == MTH__CHANNEL_KINDS) {
            const char *s;
            if (k->kind == MTH__START) return mth__read_fail(&x->in, F("no kind of communication"));
            TRY(mth__read_name(&x->in, &s));
            k->kind = MTH__COMPUTE;
            k->op = mth__op_find(s);
            return k->op ? NULL : mth__read_fail(&x->in, F("there is no operator %s", s));
        }
        TRY(mth__read_one_of(&x->in, mth__algorithm_names, MTH__ALGORITHMS, "algorithm", &algorithm));
        TRY(mth__read_reference(&x->in, 'c', x->p->channel.n, &k->channel));
        const mth__channel *c = &x->p->channel.at[k->channel];
        if ((int)c->kind == kind && (int)c->algorithm == algorithm) return NULL;
        return mth__read_fail(&x->in, F("channel c%d is %s", k->channel, c->label));
    }
    return mth__read_reference(&x->in, 'c', x->p->channel.n, &k->channel);
}

static bool operand_follows(parser *x) {
    if (mth__read_ends(&x->in) || *x->in.at == '@' || key_follows(x)) return false;
    if (*x->in.at == '"') return true;
    size_t n = 0;
    while (mth__is_word(x->in.at[n])) n++;
    return mth__plain_name(x->in.at, n);
}

static mth_status operands(parser *x, mth__instr *k, int *in) {
    do {
        if (k->nin == MTH__MAX_IN) return mth__read_fail(&x->in, F("more than %d operands", MTH__MAX_IN));
        TRY(value_named(x, &in[k->nin++]));
    } while (mth__read_symbol(&x->in, ','));
    return NULL;
}

static mth_status number_behind(parser *x, const char *word, int32_t *number) {
    int small;
    *number = -1;
    if (!mth__read_word(&x->in, word)) return NULL;
    TRY(mth__read_small(&x->in, 0, INT32_MAX, &small));
    *number = small;
    return NULL;
}

static mth_status label(parser *x, mth__label *out) {
    mth__label read = {.phase = MTH__FORWARD};
    if (mth__read_symbol(&x->in, '@')) TRY(mth__read_name(&x->in, &read.module));
    TRY(number_behind(x, "region", &read.region));
    TRY(number_behind(x, "stage", &read.stage));
    if (read.region < 0 && read.stage >= 0) read.region = 0; /* the only one of most models, and not printed */
    TRY(number_behind(x, "microbatch", &read.microbatch));
    for (int phase = MTH__FORWARD + 1; phase < MTH__PHASE_KINDS; phase++)
        if (mth__read_word(&x->in, mth__phase_words[phase])) {
            read.phase = (mth__phase)phase;
            break;
        }
    if (mth__read_word(&x->in, "from")) TRY(mth__read_quoted(&x->in, &read.source));
    *out = read;
    return NULL;
}

static mth_status instruction(parser *x) {
    mth__instr k = {.scratch = -1, .channel = -1};
    int in[MTH__MAX_IN], out[MTH__MAX_OUT];
    TRY(number(x, "instruction", x->role->instr.n));
    if (value_follows(x)) {
        do {
            if (k.nout == MTH__MAX_OUT) return mth__read_fail(&x->in, F("more than %d results", MTH__MAX_OUT));
            TRY(value(x, true, &out[k.nout++]));
        } while (mth__read_symbol(&x->in, ','));
        TRY(mth__read_need(&x->in, "="));
    }
    TRY(operator_word(x, &k));
    if (operand_follows(x)) TRY(operands(x, &k, in));
    if (k.kind == MTH__COMPUTE && k.nin && mth__read_word(&x->in, "into")) {
        const int own = k.nin;
        k.accumulates = true;
        TRY(operands(x, &k, in));
        const int sums = __builtin_popcount(k.op->accumulates);
        if (!sums) return mth__read_fail(&x->in, F("%s adds to no sum", k.op->name));
        if (k.nin - own != sums)
            return mth__read_fail(
                &x->in, F("%s adds to %d sum%s, not to %d", k.op->name, sums, sums == 1 ? "" : "s", k.nin - own));
    }
    if (k.kind == MTH__COMPUTE) {
        mth__attrs *a = NEW(x->in.arena, mth__attrs);
        while (key_follows(x)) TRY(attribute(x, k.op, a));
        k.attrs = a;
    }
    if (mth__read_word(&x->in, "work")) TRY(value(x, true, &k.scratch));
    TRY(label(x, &k.label));
    k.stream = k.kind == MTH__START;
    k.in = NEW_ARRAY(x->in.arena, int, k.nin + k.nout);
    k.out = k.in + k.nin;
    memcpy(k.in, in, (size_t)k.nin * sizeof *in);
    memcpy(k.out, out, (size_t)k.nout * sizeof *out);
    PUSH(x->in.arena, x->role->instr, k);
    return NULL;
}

static mth_status role(parser *x) {
    mth__role r = {0};
    devices list = {0};
    TRY(number(x, "role", x->p->role.n));
    TRY(mth__read_need(&x->in, "devices"));
    TRY(device_list(x, &list));
    for (size_t i = 0; i < list.at.n; i++) {
        int32_t *of = &x->role_of[list.at.at[i]];
        if (*of >= 0) return mth__read_fail(&x->in, F("device %d has two roles", list.at.at[i]));
        if (i && list.at.at[i] < list.at.at[i - 1]) return mth__read_fail(&x->in, F("devices don't ascend"));
        *of = (int32_t)x->p->role.n;
    }
    TRY(mth__read_need(&x->in, "slab"));
    TRY(mth__read_integer(&x->in, 0, INT64_MAX / 4, &r.slab));
    r.ndevice = (int)list.at.n;
    r.device = list.at.at;
    PUSH(x->in.arena, x->p->role, r);
    x->role = &x->p->role.at[x->p->role.n - 1];
    x->name = NULL;
    x->names_room = 0;
    return NULL;
}

static mth_status line(parser *x) {
    if (*x->in.at == ' ') {
        int view;
        if (mth__read_ends(&x->in)) return NULL;
        if (!x->role) return mth__read_fail(&x->in, F("an instruction of no role"));
        return *x->in.at >= '0' && *x->in.at <= '9' ? instruction(x) : value(x, false, &view);
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
    parser x = {.in = {arena, text, 1}, .p = NEW(arena, mth__program)};
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
