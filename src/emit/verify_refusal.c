/* How the verifier refuses: by role, instruction and value; and devices that are looked at one by one. */
#include "emit/verify.h"

static const char *operator_name(const mth__verification *proof, const mth__instr *instruction) {
    static const char *const names[] = {
        [MTH__SEND] = "send", [MTH__RECV] = "recv", [MTH__COPY] = "copy", [MTH__WAIT] = "wait"};
    if (instruction->kind == MTH__COMPUTE) return instruction->op ? instruction->op->name : "no operator";
    if (instruction->kind == MTH__COPY && instruction->nout == 1)
        return mth__space_of(proof->role, instruction->out[0]) ? "offload" : "reload";
    return instruction->kind == MTH__COLLECTIVE
        ? mth__channel_names[proof->program->channel.at[instruction->channel].kind]
        : names[instruction->kind];
}

static char *value_text(const mth__program_value *value) {
    char local[256], global[256], where[512] = "nowhere";
    mth__shape_write(local, sizeof local, value->local);
    mth__shape_write(global, sizeof global, value->shape);
    if (value->sharding.on) mth__where_write(where, sizeof where, &value->sharding, value->shape.rank);
    return F(
        "%s: %s %s of %s, %s", value->name ? value->name : "?", mth_dtype_name(value->dtype), local, global, where);
}

mth_status mth__refuse(const mth__verification *proof, int instruction_number, int number, char *what) {
    const mth__instr *instruction = instruction_number >= 0 ? &proof->role->instr.at[instruction_number] : NULL;
    char *fix = F("make the plan anew; if mithril made it as it is, this is a defect of mithril: please report it with "
                  "this text");
    mth_status status;
    if (!instruction) {
        status = FAIL(MTH_ERROR_VALUE,
            F("role %d (from device %d): %s", proof->number, proof->role->ndevice ? proof->role->device[0] : -1, what),
            fix);
    } else if (instruction->channel < 0) {
        status = FAIL(MTH_ERROR_VALUE,
            F("role %d (from device %d), instruction %d, %s%s: %s", proof->number, proof->role->device[0],
                instruction_number, mth__is_started(instruction) ? "start " : "", operator_name(proof, instruction),
                what),
            fix);
    } else {
        status = FAIL(MTH_ERROR_VALUE,
            F("role %d (from device %d), instruction %d, %s%s c%d (%s): %s", proof->number, proof->role->device[0],
                instruction_number, mth__is_started(instruction) ? "start " : "", operator_name(proof, instruction),
                instruction->channel, proof->program->channel.at[instruction->channel].label, what),
            fix);
    }
    mth__free(what);
    if (instruction && instruction->label.module) status = mth__error_operator(status, instruction->label.module);
    return number >= 0 ? mth__error_tensor(status, value_text(&proof->role->value.at[number])) : status;
}

mth_status mth__refuse_for(const mth__verification *proof, int instruction_number, int number, mth_status why) {
    mth_status status = mth__refuse(proof, instruction_number, number, F("%s", mth_error_get_what(why)));
    mth_error_free(why);
    return status;
}

int mth__verify_lacking(mth__verification *proof, const mth__placement *on,
    bool (*does)(const mth__role *, const mth__instr *, int), int subject) {
    enum { UNKNOWN, DOES };
    uint8_t *known =
        NEW_ARRAY(proof->arena, uint8_t, proof->program->role.n); /* a role that has none ends the search */
    for (int i = 0; i < on->count; i++) {
        int role_number = proof->program->role_of[on->device[i]];
        const mth__role *role = role_number < 0 ? NULL : &proof->program->role.at[role_number];
        for (size_t k = 0; role && k < role->instr.n && known[role_number] == UNKNOWN; k++)
            if (does(role, &role->instr.at[k], subject)) known[role_number] = DOES;
        if (!role || known[role_number] == UNKNOWN) return on->device[i];
    }
    return -1;
}

mth_status mth__verify_look(mth__verification *proof, int number) {
    proof->looks += proof->role->ndevice;
    if (proof->looks <= MTH__MOST_LOOKS) return NULL;
    const mth__program_value *value = &proof->role->value.at[number];
    mth_status status = FAIL(MTH_ERROR_VALUE,
        F("role %d, %s: the plan has more kinds of parts that differ from device to device than are verified: these "
          "would "
          "be more than %d looks at single devices",
            proof->number, value->name, MTH__MOST_LOOKS),
        F("use sizes that the axes of the mesh divide, or a smaller mesh"));
    return mth__error_tensor(status, value_text(value));
}
