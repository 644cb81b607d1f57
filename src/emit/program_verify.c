/* The promise: a program that verifies cannot deadlock, read an unwritten or overlapping byte, or use a partial sum as a value. By role, so
 * that it costs what the roles cost; whatever holds for one device of a role is made sure to hold for all (verify_values.c). In order:
 *   values      lie inside their placement, with the local shape of their sharding, inside the slab, an entry or an exit
 *   order       each is written once, before it is read; STARTs and SENDs are waited for
 *   rows        operands fit the operator; splits agree factor by factor; partial sums go through what is linear in them alone
 *   bytes       two values that live at the same time share no byte, except in place
 *   channels    exactly the roles that must take part do, once; the waiting among roles has no cycle
 *   exits       each is written, last, by its own value, on every device that must have it
 * An engine that runs a role's streams in order and keeps what program.h says of channels then needs no check of its own. */
#include "emit/verify.h"
#include "emit/collective.h"
#include <string.h>

enum { MOST_PROVED = 256 }; /* ranks up to which a template is proved here; its rules are the same for any number */

static const char *operator_name(const mth__verification *v, const mth__instr *k) {
    static const char *const names[] = {"", "", "start", "send", "recv", "wait"};
    if (k->kind == MTH__COMPUTE) return k->op ? k->op->name : "no operator";
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
    char *fix = F("make the plan anew; if mithril made it as it is, this is a defect of mithril: please report it with this text");
    mth_status s;
    if (!k) {
        s = FAIL(MTH_ERROR_VALUE, F("role %d (from device %d): %s", v->role, v->r->ndevice ? v->r->device[0] : -1, what), fix);
    } else if (k->kind == MTH__COMPUTE) {
        s = FAIL(MTH_ERROR_VALUE, F("role %d (from device %d), instruction %d, %s: %s", v->role, v->r->device[0], instr,
                                    operator_name(v, k), what), fix);
    } else {
        s = FAIL(MTH_ERROR_VALUE, F("role %d (from device %d), instruction %d, %s c%d (%s): %s", v->role, v->r->device[0], instr,
                                    operator_name(v, k), k->channel,
                                    v->p->channel.at[k->channel].label, what), fix);
    }
    mth__free(what);
    if (k && k->module) s = mth__error_operator(s, k->module);
    return value >= 0 ? mth__error_tensor(s, value_text(&v->r->value.at[value])) : s;
}

mth_status mth__refuse_for(const mth__verification *v, int instr, int value, mth_status why) {
    mth_status s = mth__refuse(v, instr, value, F("%s", mth_error_get_what(why)));
    mth_error_free(why);
    return s;
}

/* ---------------------------------------------------------------- order */
enum { UNWRITTEN, UNDER_WAY, WRITTEN };

static mth_status check_instruction(const mth__verification *v, int i) {
    const mth__instr *k = &v->r->instr.at[i];
    const int values = (int)v->r->value.n;
    bool compute = k->kind == MTH__COMPUTE;
    if ((unsigned)k->kind > MTH__WAIT || (!compute && (k->channel < 0 || (size_t)k->channel >= v->p->channel.n))
        || (compute && (!k->op || !k->attrs)))
        return INTERNAL("role %d, instruction %d is of no kind", v->role, i);
    if (k->nin < 0 || k->nin > MTH__MAX_IN || k->nout < 0 || k->nout > MTH__MAX_OUT)
        return mth__refuse(v, i, -1, F("%d operands and %d results", k->nin, k->nout));
    for (int j = 0; j < k->nin + k->nout; j++) {
        int x = j < k->nin ? k->in[j] : k->out[j - k->nin];
        if (x < 0 || x >= values) return mth__refuse(v, i, -1, F("it names a value that the role lacks"));
    }
    if (k->scratch >= values || (compute && k->scratch >= 0))
        return mth__refuse(v, i, -1, F("its scratch is no value, or there should be none"));
    if (k->stream != (k->kind == MTH__START)) return mth__refuse(v, i, -1, F("it stands on the wrong stream"));
    return NULL;
}

static mth_status check_reads(const mth__verification *v, int i, const uint8_t *state) {
    const mth__instr *k = &v->r->instr.at[i];
    for (int j = 0; j < k->nin; j++) {
        int base = mth__verify_base(v->r, k->in[j]);
        if (state[base] == UNDER_WAY)
            return mth__refuse(v, i, k->in[j], F("reads %s, which a START brings, before the WAIT", v->r->value.at[k->in[j]].name));
        if (state[base] == UNWRITTEN)
            return mth__refuse(v, i, k->in[j], F("reads %s before anything has written it", v->r->value.at[k->in[j]].name));
    }
    return NULL;
}

static mth_status check_write(const mth__verification *v, int i, int x, uint8_t *state) {
    const mth__pvalue *p = &v->r->value.at[x];
    if (p->storage == MTH__IN_ENTRY) return mth__refuse(v, i, x, F("writes %s, which is the caller's", p->name));
    if (p->storage == MTH__IN_ALIAS) return mth__refuse(v, i, x, F("writes %s, which is a view", p->name));
    if (state[x] != UNWRITTEN) return mth__refuse(v, i, x, F("writes %s a second time", p->name));
    state[x] = v->r->instr.at[i].kind == MTH__START ? UNDER_WAY : WRITTEN;
    return NULL;
}

static mth_status check_order(mth__verification *v) {
    const mth__role *r = v->r;
    uint8_t *state = NEW_ARRAY(v->arena, uint8_t, r->value.n);
    int open = 0;
    for (size_t x = 0; x < r->value.n; x++) state[x] = r->value.at[x].storage == MTH__IN_ENTRY ? WRITTEN : UNWRITTEN;
    v->released = NEW_ARRAY(v->arena, int, r->instr.n);
    for (int i = 0; i < (int)r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        TRY(check_instruction(v, i));
        TRY(check_reads(v, i, state));
        for (int j = 0; j < k->nout; j++) TRY(check_write(v, i, k->out[j], state));
        if (k->scratch >= 0) {
            if (r->value.at[k->scratch].storage != MTH__IN_SLAB && r->value.at[k->scratch].storage != MTH__IN_LENT)
                return mth__refuse(v, i, k->scratch, F("its scratch is not in the slab"));
            TRY(check_write(v, i, k->scratch, state));
            state[k->scratch] = UNDER_WAY; /* for ever: nobody reads it */
        }
        v->released[i] = i;
        if (k->kind == MTH__START || k->kind == MTH__SEND) {
            if (v->opened_role[k->channel] == v->role) return mth__refuse(v, i, -1, F("a channel is started or sent on twice"));
            v->opened_role[k->channel] = v->role;
            v->opened_by[k->channel] = i;
            open++;
        } else if (k->kind == MTH__WAIT) {
            int by = v->opened_by[k->channel];
            if (v->opened_role[k->channel] != v->role || by < 0)
                return mth__refuse(v, i, -1, F("waits for what was not started or sent here, or is waited for already"));
            if (k->nin || k->nout || k->scratch >= 0) return mth__refuse(v, i, -1, F("a WAIT has no operand and no result"));
            for (int j = 0; j < r->instr.at[by].nout; j++) state[r->instr.at[by].out[j]] = WRITTEN;
            v->released[by] = i;
            v->opened_by[k->channel] = -1;
            open--;
        }
        if (k->kind != MTH__COMPUTE && k->kind != MTH__WAIT) TRY(mth__verify_part(v, i));
        if (k->kind == MTH__COMPUTE) TRY(mth__verify_row(v, i));
    }
    for (int i = 0; i < (int)r->instr.n && open; i++) {
        const mth__instr *k = &r->instr.at[i];
        if ((k->kind == MTH__START || k->kind == MTH__SEND) && v->opened_by[k->channel] == i)
            return mth__refuse(v, i, k->nin ? k->in[0] : k->out[0], F("nothing waits for it"));
    }
    return NULL;
}

/* ---------------------------------------------------------------- exits, entries, roles */
/* Is value x what the exit is said to be? */
static bool is_exit(const mth__pvalue *x, const mth__exit *e) {
    return x->dtype == e->dtype && mth__shape_equal(x->shape, e->shape) && mth__sharding_equal(&x->sharding, &e->sharding, e->shape.rank);
}

/* Each exit that the role's devices must have is written there; the last value written, or a view of all of it, is what the exit is. */
static mth_status check_exits(mth__verification *v) {
    const mth__role *r = v->r;
    int *last = NEW_ARRAY(v->arena, int, v->p->exit.n); /* 1 + value */
    bool *fits = NEW_ARRAY(v->arena, bool, v->p->exit.n);
    for (size_t i = 0; i < r->instr.n; i++)
        for (int j = 0; j < r->instr.at[i].nout; j++) {
            int x = r->instr.at[i].out[j];
            if (r->value.at[x].storage == MTH__IN_EXIT) last[r->value.at[x].index] = x + 1;
        }
    for (int x = 0; x < (int)r->value.n; x++) {
        int base = mth__verify_base(r, x), e = r->value.at[base].index;
        if (r->value.at[base].storage != MTH__IN_EXIT || last[e] != base + 1 || r->value.at[x].bytes != r->value.at[base].bytes) continue;
        fits[e] |= is_exit(&r->value.at[x], &v->p->exit.at[e]);
    }
    for (size_t e = 0; e < v->p->exit.n; e++) {
        const mth__exit *x = &v->p->exit.at[e];
        bool here = x->sharding.on->rank_of[r->device[0]] >= 0;
        if (!last[e] && here) return mth__refuse(v, -1, -1, F("nothing writes exit %zu, %s, which its devices must have", e, x->name));
        if (last[e] && !here) return mth__refuse(v, -1, last[e] - 1, F("exit %zu, %s, is written where it does not belong", e, x->name));
        if (last[e] && !fits[e])
            return mth__refuse(v, -1, last[e] - 1, F("what leaves as exit %zu, %s, is not what the exit is", e, x->name));
    }
    return NULL;
}

static mth_status whole(const char *kind, size_t i, const char *name, const mth__sharding *s, mth__shape shape, mth_dtype dtype) {
    mth_status bad = mth__shape_check(shape, dtype);
    if (!bad) bad = mth__sharding_check(s, shape);
    if (!bad && s->partial)
        bad = FAIL(MTH_ERROR_VALUE, F("%s %zu, %s, is a partial sum", kind, i, name),
                   F("reduce it before it leaves the program, and give inputs whole"));
    return bad ? mth__error_operator(bad, name) : NULL;
}

static mth_status check_head(const mth__verification *v) {
    const mth__program *p = v->p;
    for (size_t i = 0; i < p->entry.n; i++)
        TRY(whole("entry", i, p->entry.at[i].name, &p->entry.at[i].sharding, p->entry.at[i].shape, p->entry.at[i].dtype));
    for (size_t i = 0; i < p->exit.n; i++)
        TRY(whole("exit", i, p->exit.at[i].name, &p->exit.at[i].sharding, p->exit.at[i].shape, p->exit.at[i].dtype));
    mth__template last = {0};
    for (size_t i = 0; i < p->channel.n; i++) {
        const mth__channel *c = &p->channel.at[i];
        mth_status bad = mth__channel_check(c);
        if (bad) return mth__error_operator(bad, mth__format(v->arena, "channel c%zu (%s)", i, c->label));
        if (c->algorithm == MTH__DIRECT || mth__channel_size(c) > MOST_PROVED) continue;
        mth__template t = mth__template_get(c->kind, c->algorithm, mth__channel_size(c));
        if (t.kind == last.kind && t.algorithm == last.algorithm && t.n == last.n) continue;
        bool again = false;
        for (size_t j = 0; j < i && !again; j++) {
            const mth__channel *b = &p->channel.at[j];
            again = b->kind == c->kind && b->algorithm == c->algorithm && mth__channel_size(b) == t.n;
        }
        if (!again) TRY(mth__template_verify(&t));
        last = t;
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
    return r->slab >= 0 ? NULL : mth__refuse(v, -1, -1, F("its slab has %lld bytes", (long long)r->slab));
}

static mth_status verify(mth__verification *v) {
    const mth__program *p = v->p;
    const size_t channels = p->channel.n;
    TRY(check_head(v));
    int **by_channel[] = {&v->opened_by, &v->opened_role, &v->sent_role, &v->taken_role};
    for (size_t k = 0; k < sizeof by_channel / sizeof *by_channel; k++) {
        *by_channel[k] = NEW_ARRAY(v->arena, int, channels);
        memset(*by_channel[k], -1, channels * sizeof(int));
    }
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
        for (size_t e = 0; e < p->exit.n; e++)
            if (p->exit.at[e].sharding.on->rank_of[v->r->device[0]] >= 0) v->left[e] += v->r->ndevice;
    }
    for (size_t e = 0; e < p->exit.n; e++)
        if (v->left[e] != p->exit.at[e].sharding.on->count)
            return mth__error_operator(FAIL(MTH_ERROR_VALUE, F("exit %zu, %s: %d devices must write it, %lld do", e, p->exit.at[e].name,
                                                               p->exit.at[e].sharding.on->count, (long long)v->left[e]),
                                            F("give every device of its placement a role that writes it")), p->exit.at[e].name);
    return mth__verify_channels(v);
}

mth_status mth__program_verify(const mth__program *p) {
    mth__verification v = {.arena = mth__arena_new(), .p = p};
    mth__arena *arena = v.arena;
    mth_status s = verify(&v);
    mth__arena_free(arena);
    return s;
}
