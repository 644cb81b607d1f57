/* How the verifier refuses: by role, instruction and value; and devices that are looked at one by one. */
#include "emit/verify.h"

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
    if (v->looks <= MTH__MOST_LOOKS) return NULL;
    const mth__pvalue *p = &v->r->value.at[value];
    mth_status s = FAIL(MTH_ERROR_VALUE,
        F("role %d, %s: the plan has more kinds of parts that differ from device to device than are verified: these "
          "would "
          "be more than %d looks at single devices",
            v->role, p->name, MTH__MOST_LOOKS),
        F("use sizes that the axes of the mesh divide, or a smaller mesh"));
    return mth__error_tensor(s, value_text(p));
}
