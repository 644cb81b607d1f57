/* The promise: a program that verifies cannot deadlock, read an unwritten or overlapping byte, or use a partial sum as
 * a value. By role, so that it costs what the roles cost; whatever holds for one device of a role is made sure to hold
 *   for all (verify_values.c). In order: values      lie inside their placement, with the local shape of their
 *   sharding, inside the slab, an entry or an exit order       each is written once, before it is read; STARTs and
 *   SENDs are waited for
 *   rows        operands fit the operator; splits agree factor by factor; partial sums go through what is linear in
 *   them alone bytes       two values that live at the same time share no byte, except in place
 *   channels    exactly the roles that must take part do, once; the waiting among roles has no cycle
 *   exits       each is written, last, by its own value, on every device that must have it
 * An engine that runs a role's streams in order and keeps what program.h says of channels then needs no check of its
 * own.
 *
 * Places exist even where they are empty: whatever an instruction names, by however few bytes, lies in something that
 * each device of the role has. A value of an entry or an exit lies on that entry's or exit's placement; what lies in an
 * exit has the exit's bytes; bytes are lent by exits that the role writes; a view, at its offset, is inside its base,
 * and what the slab holds is inside the slab. Sizes are numbers below 2^62 or refused: no product or sum of those that
 * a text says wraps.
 *
 * Time is about linear in the text and the devices of its placements. Where devices must be looked at one by one,
 * because an uneven split is nested or a part is kept across placements, more than MOST_LOOKS looks are refused. Each
 * template of up to MOST_PROVED ranks that the plan uses is proved once; more than MOST_STEPS steps of them are
 * refused. */
#include "emit/verify.h"
#include "emit/collective.h"
#include <string.h>

/* Ranks up to which templates are proved with the plan, and the steps that they may have together. They are this
   library's own and follow one rule for any number of ranks: larger ones are taken as proved. */
enum { MOST_PROVED = 256, MOST_STEPS = 1 << 25 };
enum { MOST_LOOKS = 1 << 24 };

static const char *operator_name(const mth__verification *v, const mth__instr *k) {
    static const char *const names[] = {
        [MTH__SEND] = "send", [MTH__RECV] = "recv", [MTH__COPY] = "copy", [MTH__WAIT] = "wait"};
    if (k->kind == MTH__COMPUTE) return k->op ? k->op->name : "no operator";
    if (k->kind == MTH__COPY && k->nout == 1) return mth__space_of(v->r, k->out[0]) ? "offload" : "reload";
    return k->kind == MTH__COLLECTIVE ? mth__channel_names[v->p->channel.at[k->channel].kind] : names[k->kind];
}

static char *value_text(const mth__pvalue *p) {
    char local[256], global[256], where[512] = "nowhere";
    mth__shape_write(local, sizeof local, p->local);
    mth__shape_write(global, sizeof global, p->shape);
    if (p->sharding.on) mth__where_write(where, sizeof where, &p->sharding, p->shape.rank);
    return F("%s: %s %s of %s, %s", p->name ? p->name : "?", mth_dtype_name(p->dtype), local, global, where);
}

mth_status mth__refuse(const mth__verification *v, int instr, int value, char *what) {
    const mth__instr *k = instr >= 0 ? &v->r->instr.at[instr] : NULL;
    char *fix = F("make the plan anew; if mithril made it as it is, this is a defect of mithril: please report it with "
                  "this text");
    mth_status s;
    if (!k) {
        s = FAIL(MTH_ERROR_VALUE,
            F("role %d (from device %d): %s", v->role, v->r->ndevice ? v->r->device[0] : -1, what), fix);
    } else if (k->channel < 0) {
        s = FAIL(MTH_ERROR_VALUE,
            F("role %d (from device %d), instruction %d, %s%s: %s", v->role, v->r->device[0], instr,
                mth__is_started(k) ? "start " : "", operator_name(v, k), what),
            fix);
    } else {
        s = FAIL(MTH_ERROR_VALUE,
            F("role %d (from device %d), instruction %d, %s%s c%d (%s): %s", v->role, v->r->device[0], instr,
                mth__is_started(k) ? "start " : "", operator_name(v, k), k->channel, v->p->channel.at[k->channel].label,
                what),
            fix);
    }
    mth__free(what);
    if (k && k->label.module) s = mth__error_operator(s, k->label.module);
    return value >= 0 ? mth__error_tensor(s, value_text(&v->r->value.at[value])) : s;
}

mth_status mth__refuse_for(const mth__verification *v, int instr, int value, mth_status why) {
    mth_status s = mth__refuse(v, instr, value, F("%s", mth_error_get_what(why)));
    mth_error_free(why);
    return s;
}

/* ---------------------------------------------------------------- order */
enum { UNWRITTEN, UNDER_WAY, WRITTEN };

/* Whether the stream takes instructions of this kind. */
static mth_status check_stream(const mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    const int owner = k->kind == MTH__COMPUTE ? 0 : k->kind == MTH__COPY ? 2 : 1;
    if (!mth__is_started(k)) return NULL;
    if (k->kind == MTH__SEND || k->kind == MTH__WAIT)
        return mth__refuse(v, i, -1, F("stands on stream %d, and belongs on stream 0", k->stream));
    if (k->stream >= MTH__STREAMS)
        return mth__refuse(v, i, -1, F("stands on stream %d, which there is not", k->stream));
    if (k->stream == owner) return NULL;
    return mth__refuse(v, i, -1,
        F("stands on stream %d, which %s, where it would be one that %s", k->stream, mth__stream_owners[k->stream],
            mth__stream_owners[owner]));
}

/* Kernels and channels read and write the device's own memory; copies bring a value from one space to another. */
static mth_status check_spaces(const mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    for (int j = 0; k->kind != MTH__COPY && j < k->nin + k->nout; j++) {
        const int x = j < k->nin ? k->in[j] : k->out[j - k->nin];
        if (mth__space_of(v->r, x) != MTH__DEVICE)
            return mth__refuse(
                v, i, x, F("%s lies in the host's pool, where only copies reach it", v->r->value.at[x].name));
    }
    if (k->kind != MTH__COPY) return NULL;
    if (k->nin != 1 || k->nout != 1)
        return mth__refuse(v, i, -1, F("a copy has one operand and one result, not %d and %d", k->nin, k->nout));
    const mth__pvalue *in = &v->r->value.at[k->in[0]], *out = &v->r->value.at[k->out[0]];
    if (mth__space_of(v->r, k->in[0]) == mth__space_of(v->r, k->out[0]))
        return mth__refuse(v, i, k->out[0], F("%s lies in the same space as %s", out->name, in->name));
    if (in->dtype != out->dtype || !mth__shape_equal(in->shape, out->shape) || in->sharding.on != out->sharding.on ||
        !mth__sharding_equal(&in->sharding, &out->sharding, in->shape.rank))
        return mth__refuse(v, i, k->out[0], F("%s is not what %s is", out->name, in->name));
    return NULL;
}

static mth_status check_instruction(const mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    const int values = (int)v->r->value.n, channels = (int)v->p->channel.n;
    const bool compute = k->kind == MTH__COMPUTE, wait = k->kind == MTH__WAIT;
    if ((unsigned)k->kind > MTH__WAIT || (compute && (!k->op || !k->attrs)) || k->channel < -1 ||
        k->channel >= channels || (k->channel >= 0) != (mth__has_channel(k) || (wait && k->awaited < 0)) ||
        k->awaited < -1 || k->awaited >= values || (k->awaited >= 0 && !wait))
        return INTERNAL("role %d, instruction %d is of no kind", v->role, i);
    if (k->nin < 0 || k->nin > MTH__MAX_IN || k->nout < 0 || k->nout > MTH__MAX_OUT)
        return mth__refuse(v, i, -1, F("%d operands and %d results", k->nin, k->nout));
    if (k->accumulates && (!compute || !k->op->accumulates || mth__row_operands(k->op, k->nin, true) < 0))
        return mth__refuse(v, i, -1, F("it has no sums to which it could add"));
    for (int j = 0; j < k->nin + k->nout; j++) {
        int x = j < k->nin ? k->in[j] : k->out[j - k->nin];
        if (x < 0 || x >= values) return mth__refuse(v, i, -1, F("it names a value that the role lacks"));
    }
    if (k->scratch >= values || (k->scratch >= 0 && !mth__has_channel(k)))
        return mth__refuse(v, i, -1, F("its scratch is no value, or there should be none"));
    TRY(check_stream(v, i));
    return check_spaces(v, i);
}

static mth_status check_reads(const mth__verification *v, int i, const uint8_t *state) {
    const mth__instr *k = &v->r->instr.at[i];
    for (int j = 0; j < k->nin; j++) {
        int base = mth__verify_base(v->r, k->in[j]);
        if (state[base] == UNDER_WAY)
            return mth__refuse(
                v, i, k->in[j], F("reads %s, which is started and not waited for", v->r->value.at[k->in[j]].name));
        if (state[base] == UNWRITTEN)
            return mth__refuse(
                v, i, k->in[j], F("reads %s before anything has written it", v->r->value.at[k->in[j]].name));
    }
    return NULL;
}

static mth_status check_write(const mth__verification *v, int i, int x, uint8_t *state) {
    const mth__pvalue *p = &v->r->value.at[x];
    if (p->storage == MTH__IN_ENTRY) return mth__refuse(v, i, x, F("writes %s, which is the caller's", p->name));
    if (p->storage == MTH__IN_ALIAS) return mth__refuse(v, i, x, F("writes %s, which is a view", p->name));
    if (state[x] != UNWRITTEN) return mth__refuse(v, i, x, F("writes %s a second time", p->name));
    state[x] = mth__is_started(&v->r->instr.at[i]) ? UNDER_WAY : WRITTEN;
    return NULL;
}

/* Where the number of the open instruction is kept for which this one, its opener or its WAIT, stands. */
static int *opener_of(const mth__verification *v, const mth__instr *k) {
    if (k->channel >= 0) return &v->opened_by[k->channel];
    return &v->begun[k->kind == MTH__WAIT ? k->awaited : k->out[0]];
}

static bool is_opener(const mth__instr *k) { return k->kind == MTH__SEND || mth__is_started(k); }

static mth_status check_wait(mth__verification *v, int i, uint8_t *state) {
    const mth__role *r = v->r;
    const mth__instr *k = &r->instr.at[i];
    int *by = opener_of(v, k);
    if (*by < 0 || (k->channel >= 0 && v->opened_role[k->channel] != v->role))
        return mth__refuse(
            v, i, k->awaited, F("waits for what was not started or sent here, or is waited for already"));
    if (k->nin || k->nout || k->scratch >= 0) return mth__refuse(v, i, -1, F("a WAIT has no operand and no result"));
    for (int j = 0; j < r->instr.at[*by].nout; j++) state[r->instr.at[*by].out[j]] = WRITTEN;
    v->released[*by] = i;
    *by = -1;
    return NULL;
}

static mth_status check_order(mth__verification *v) {
    const mth__role *r = v->r;
    uint8_t *state = NEW_ARRAY(v->arena, uint8_t, r->value.n);
    int open = 0;
    v->begun = NEW_ARRAY(v->arena, int, r->value.n);
    memset(v->begun, -1, r->value.n * sizeof *v->begun);
    for (size_t x = 0; x < r->value.n; x++) state[x] = r->value.at[x].storage == MTH__IN_ENTRY ? WRITTEN : UNWRITTEN;
    v->released = NEW_ARRAY(v->arena, int, r->instr.n);
    for (int i = 0; i < (int)r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        TRY(mth__stop_check());
        TRY(check_instruction(v, i));
        TRY(check_reads(v, i, state));
        for (int j = 0; j < k->nout; j++) TRY(check_write(v, i, k->out[j], state));
        if (k->scratch >= 0) {
            const mth__storage storage = r->value.at[k->scratch].storage;
            if ((storage != MTH__IN_SLAB && storage != MTH__IN_LENT && storage != MTH__IN_OWN) ||
                mth__space_of(r, k->scratch) != MTH__DEVICE)
                return mth__refuse(v, i, k->scratch, F("its scratch is not in the slab"));
            TRY(check_write(v, i, k->scratch, state));
            state[k->scratch] = UNDER_WAY; /* for ever: nobody reads it */
        }
        v->released[i] = i;
        if (is_opener(k)) {
            if (k->channel >= 0 && v->opened_role[k->channel] == v->role)
                return mth__refuse(v, i, -1, F("a channel is started or sent on twice"));
            if (k->channel >= 0) v->opened_role[k->channel] = v->role;
            if (k->channel < 0 && !k->nout)
                return mth__refuse(v, i, -1, F("is started, and no WAIT can name a result"));
            *opener_of(v, k) = i;
            open++;
        } else if (k->kind == MTH__WAIT) {
            TRY(check_wait(v, i, state));
            open--;
        }
        if (mth__has_channel(k)) TRY(mth__verify_part(v, i));
        if (k->kind == MTH__COMPUTE) TRY(mth__verify_row(v, i));
    }
    for (int i = 0; i < (int)r->instr.n && open; i++) {
        const mth__instr *k = &r->instr.at[i];
        if (is_opener(k) && *opener_of(v, k) == i)
            return mth__refuse(v, i, k->nin ? k->in[0] : k->out[0], F("nothing waits for it"));
    }
    return NULL;
}

/* ---------------------------------------------------------------- exits */
/* Is value x what the exit is said to be? */
static bool is_exit(const mth__pvalue *x, const mth__exit *e) {
    return x->dtype == e->dtype && mth__shape_equal(x->shape, e->shape) &&
        mth__sharding_equal(&x->sharding, &e->sharding, e->shape.rank);
}

/* What the role writes to an exit belongs there; the last value written, or a view of all of it, is what the exit is.
 */
static mth_status check_exits(mth__verification *v) {
    const mth__role *r = v->r;
    for (size_t i = 0; i < r->instr.n; i++)
        for (int j = 0; j < r->instr.at[i].nout; j++) {
            int x = r->instr.at[i].out[j];
            if (r->value.at[x].storage == MTH__IN_EXIT) v->exit_last[r->value.at[x].index] = x;
        }
    bool *fits = NEW_ARRAY(v->arena, bool, r->value.n); /* by the value that is written last */
    for (int x = 0; x < (int)r->value.n; x++) {
        int base = mth__verify_base(r, x), e = r->value.at[base].index;
        if (r->value.at[base].storage != MTH__IN_EXIT || v->exit_last[e] != base ||
            r->value.at[x].bytes != r->value.at[base].bytes)
            continue;
        fits[base] |= is_exit(&r->value.at[x], &v->p->exit.at[e]);
    }
    for (size_t k = 0; k < v->exits.n; k++) {
        int e = v->exits.at[k], last = v->exit_last[e];
        const mth__exit *x = &v->p->exit.at[e];
        if (last < 0)
            return mth__refuse(v, -1, -1, F("nothing writes exit %d, %s, in which it has values", e, x->name));
        if (!fits[last])
            return mth__refuse(v, -1, last, F("what leaves as exit %d, %s, is not what the exit is", e, x->name));
        v->left[e] += r->ndevice; /* all are on its placement, as that value is */
    }
    return NULL;
}

static bool writes_exit(const mth__role *r, const mth__instr *k, int exit) {
    for (int j = 0; j < k->nout; j++)
        if (r->value.at[k->out[j]].storage == MTH__IN_EXIT && r->value.at[k->out[j]].index == exit) return true;
    return false;
}

/* Every device of an exit's placement writes it. */
static mth_status check_left(mth__verification *v) {
    for (size_t e = 0; e < v->p->exit.n; e++) {
        const mth__exit *x = &v->p->exit.at[e];
        if (v->left[e] == x->sharding.on->count) continue;
        int d = mth__verify_lacking(v, x->sharding.on, writes_exit, (int)e);
        if (d < 0) return INTERNAL("exit %zu: devices are counted wrongly", e);
        int role = v->p->role_of[d];
        if (role < 0)
            return mth__error_operator(FAIL(MTH_ERROR_VALUE,
                                           F("exit %zu, %s: %d devices must write it, %lld do; device %d has no role",
                                               e, x->name, x->sharding.on->count, (long long)v->left[e], d),
                                           F("give every device of its placement a role that writes it")),
                x->name);
        v->r = &v->p->role.at[role];
        v->role = role;
        return mth__refuse(v, -1, -1, F("nothing writes exit %zu, %s, which its devices must have", e, x->name));
    }
    return NULL;
}

int mth__verify_lacking(mth__verification *v, const mth__placement *on,
    bool (*does)(const mth__role *, const mth__instr *, int), int subject) {
    enum { UNKNOWN, DOES };
    uint8_t *known = NEW_ARRAY(v->arena, uint8_t, v->p->role.n); /* a role that has none ends the search */
    for (int i = 0; i < on->count; i++) {
        int role = v->p->role_of[on->device[i]];
        const mth__role *r = role < 0 ? NULL : &v->p->role.at[role];
        for (size_t k = 0; r && k < r->instr.n && known[role] == UNKNOWN; k++)
            if (does(r, &r->instr.at[k], subject)) known[role] = DOES;
        if (!r || known[role] == UNKNOWN) return on->device[i];
    }
    return -1;
}

mth_status mth__verify_look(mth__verification *v, int value) {
    v->looks += v->r->ndevice;
    if (v->looks <= MOST_LOOKS) return NULL;
    const mth__pvalue *p = &v->r->value.at[value];
    mth_status s = FAIL(MTH_ERROR_VALUE,
        F("role %d, %s: the plan has more kinds of parts that differ from device to device than are verified: these "
          "would "
          "be more than %d looks at single devices",
            v->role, p->name, MOST_LOOKS),
        F("use sizes that the axes of the mesh divide, or a smaller mesh"));
    return mth__error_tensor(s, value_text(p));
}

/* ---------------------------------------------------------------- entries, roles */
static mth_status whole(
    const char *kind, size_t i, const char *name, const mth__sharding *s, mth__shape shape, mth_dtype dtype) {
    mth_status bad = mth__shape_check(shape, dtype);
    if (!bad) bad = mth__sharding_check(s, shape);
    if (!bad && s->partial)
        bad = FAIL(MTH_ERROR_VALUE, F("%s %zu, %s, is a partial sum", kind, i, name),
            F("reduce it before it leaves the program, and give inputs whole"));
    return bad ? mth__error_operator(bad, name) : NULL;
}

/* A successor is what its entry is, and the only one. */
static mth_status check_successor(const mth__verification *v, size_t i) {
    const mth__exit *x = &v->p->exit.at[i];
    if (x->entry < 0 || (size_t)x->entry >= v->p->entry.n)
        return INTERNAL("exit %zu, %s, is the successor of an entry that there is not", i, x->name);
    const mth__entry *e = &v->p->entry.at[x->entry];
    char *what = NULL;
    if (e->kind != MTH__ENTRY_PARAMETER && e->kind != MTH__ENTRY_STATE)
        what = F("exit %zu, %s, is the successor of entry %d, %s, which is the caller's to keep", i, x->name, x->entry,
            e->name);
    else if (x->dtype != e->dtype || !mth__shape_equal(x->shape, e->shape) || x->sharding.on != e->sharding.on ||
        !mth__sharding_equal(&x->sharding, &e->sharding, x->shape.rank))
        what = F("exit %zu, %s, is not what entry %d, %s, is, whose successor it is said to be", i, x->name, x->entry,
            e->name);
    else if (v->successor[x->entry] >= 0)
        what =
            F("exits %d and %zu are both the successor of entry %d, %s", v->successor[x->entry], i, x->entry, e->name);
    v->successor[x->entry] = (int)i;
    if (!what) return NULL;
    return mth__error_operator(FAIL(MTH_ERROR_VALUE, what,
                                   F("let each parameter and state have one successor, of its dtype, shape and "
                                     "sharding")),
        x->name);
}

/* What is known at run time only is one number, whole everywhere. */
static mth_status check_scalar(size_t i, const mth__entry *e) {
    if (e->kind != MTH__ENTRY_SCALAR || e->shape.rank == 0) return NULL;
    return mth__error_operator(
        FAIL(MTH_ERROR_VALUE, F("entry %zu, %s, is a scalar and has %d dimensions", i, e->name, e->shape.rank),
            F("give it no dimension")),
        e->name);
}

static mth_status check_head(const mth__verification *v) {
    const mth__program *p = v->p;
    for (size_t i = 0; i < p->entry.n; i++)
        TRY(whole(
            "entry", i, p->entry.at[i].name, &p->entry.at[i].sharding, p->entry.at[i].shape, p->entry.at[i].dtype));
    for (size_t i = 0; i < p->exit.n; i++)
        TRY(whole("exit", i, p->exit.at[i].name, &p->exit.at[i].sharding, p->exit.at[i].shape, p->exit.at[i].dtype));
    for (size_t i = 0; i < p->entry.n; i++) TRY(check_scalar(i, &p->entry.at[i]));
    for (size_t i = 0; i < p->exit.n; i++)
        if (p->exit.at[i].kind == MTH__EXIT_SUCCESSOR) TRY(check_successor(v, i));
    int64_t steps = 0;
    bool proved[MTH__TRANSFER][MTH__ALGORITHMS][MOST_PROVED + 1] = {0};
    for (size_t i = 0; i < p->channel.n; i++) {
        const mth__channel *c = &p->channel.at[i];
        TRY(mth__stop_check());
        mth_status bad = mth__channel_check(c);
        if (bad) return mth__error_operator(bad, mth__format(v->arena, "channel c%zu (%s)", i, c->label));
        int n = mth__channel_size(c);
        if (c->kind == MTH__TRANSFER || c->algorithm == MTH__DIRECT || n > MOST_PROVED ||
            proved[c->kind][c->algorithm][n])
            continue;
        mth__template t = mth__template_get(c->kind, c->algorithm, n);
        TRY(mth__template_verify(&t, &steps));
        if (steps > MOST_STEPS)
            return mth__error_operator(
                FAIL(MTH_ERROR_VALUE,
                    F("the plan uses more templates of collectives than are proved: they have more "
                      "than %d steps together",
                        MOST_STEPS),
                    F("use the direct algorithm, or groups of fewer different sizes")),
                mth__format(v->arena, "channel c%zu (%s)", i, c->label));
        proved[c->kind][c->algorithm][n] = true;
    }
    return NULL;
}

static mth_status check_role(const mth__verification *v) {
    const mth__role *r = v->r;
    if (r->ndevice < 1) return INTERNAL("role %d has no device", v->role);
    for (int i = 0; i < r->ndevice; i++) {
        int d = r->device[i];
        if (d < 0 || d >= v->p->mesh->count || (i && d <= r->device[i - 1]) || v->p->role_of[d] != v->role)
            return mth__refuse(v, -1, -1, F("its devices don't ascend, or one has another role"));
    }
    for (int space = 0; space < MTH__SPACES; space++)
        if (r->slab[space] < 0) return mth__refuse(v, -1, -1, F("its slab has %lld bytes", (long long)r->slab[space]));
    return NULL;
}

static int *all_minus_one(const mth__verification *v, size_t n) {
    int *at = NEW_ARRAY(v->arena, int, n);
    return memset(at, -1, n * sizeof *at);
}

static mth_status verify(mth__verification *v) {
    const mth__program *p = v->p;
    const size_t channels = p->channel.n;
    v->successor = all_minus_one(v, p->entry.n);
    TRY(check_head(v));
    int **by_channel[] = {&v->opened_by, &v->opened_role, &v->sent_role, &v->taken_role};
    for (size_t k = 0; k < sizeof by_channel / sizeof *by_channel; k++) *by_channel[k] = all_minus_one(v, channels);
    v->exit_role = all_minus_one(v, p->exit.n);
    v->exit_last = NEW_ARRAY(v->arena, int, p->exit.n);
    v->exit_entry = NEW_ARRAY(v->arena, int, p->exit.n);
    v->exit_bytes = NEW_ARRAY(v->arena, int64_t, p->exit.n);
    v->exit_start = NEW_ARRAY(v->arena, int64_t, p->exit.n);
    v->reach = NEW_ARRAY(v->arena, mth__reach, p->mesh->placements.n);
    for (size_t i = 0; i < p->mesh->placements.n; i++) v->reach[i].role = -1;
    v->value = NEW_ARRAY(v->arena, mth__value, MTH__MAX_IN + MTH__MAX_OUT);
    v->node.in = NEW_ARRAY(v->arena, mth__value *, MTH__MAX_IN + MTH__MAX_OUT);
    v->sent = NEW_ARRAY(v->arena, int64_t, channels);
    v->taken = NEW_ARRAY(v->arena, int64_t, channels);
    v->left = NEW_ARRAY(v->arena, int64_t, p->exit.n);
    mth__arena *all = v->arena;
    for (size_t i = 0; i < p->role.n; i++) {
        v->r = &p->role.at[i];
        v->role = (int)i;
        v->arena = mth__arena_new();
        mth_status s = check_role(v);
        if (!s) s = mth__verify_values(v);
        if (!s) s = check_order(v);
        if (!s) s = mth__verify_bytes(v);
        if (!s) s = check_exits(v);
        mth__arena_free(v->arena);
        v->arena = all;
        if (s) return s;
    }
    TRY(check_left(v));
    return mth__verify_channels(v);
}

mth_status mth__program_verify(const mth__program *p) {
    mth__verification v = {.arena = mth__arena_new(), .p = p};
    mth__arena *arena = v.arena;
    mth_status s = verify(&v);
    mth__arena_free(arena);
    return s;
}
