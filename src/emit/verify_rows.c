/* A COMPUTE against its row of the catalog: shapes and dtypes as the row infers them; every factor cut alike on all
 * operands and results that have it; whole where it must be; and partial sums exactly where they arise or pass. */
#include "catalog/rows.h"
#include "emit/verify.h"
#include <string.h>

typedef struct {
    bool set;
    mth__cut as;
} cut; /* of a factor */
typedef struct {
    mth__verification *proof;
    int i;
    const mth__instr *instruction;
    mth__rule rule;
    cut cut[MTH__FACTORS];
} row;

/* The node that this instruction would be in a graph, with results yet to be inferred. */
static mth__node *node_of(mth__verification *proof, const mth__instr *instruction) {
    mth__node *node = &proof->node;
    node->out = node->in + instruction->nin;
    node->op = instruction->op;
    node->attrs = *instruction->attrs;
    node->nin = instruction->nin;
    node->nout = instruction->nout;
    node->accumulates = instruction->accumulates;
    node->label = instruction->label;
    for (int j = 0; j < instruction->nin + instruction->nout; j++) {
        const mth__program_value *value =
            &proof->role->value.at[j < instruction->nin ? instruction->in[j] : instruction->out[j - instruction->nin]];
        node->in[j] = &proof->value[j];
        proof->value[j] = (mth__value){.id = j,
            .name = value->name,
            .dtype = value->dtype,
            .shape = value->shape,
            .sharding = value->sharding,
            .node = node,
            .index = j - instruction->nin};
    }
    return node;
}

/* One dimension that belongs to the factor, in units of `unit`. */
static mth_status check_cut(row *pass, int factor, int32_t unit, int d, int number) {
    const mth__program_value *value = &pass->proof->role->value.at[number];
    const mth__split *split = &value->sharding.dim[d];
    if (factor < 0)
        return split->naxes
            ? mth__refuse(pass->proof, pass->i, number, F("dimension %d of %s is split, and can't be", d, value->name))
            : NULL;
    cut *known = &pass->cut[factor];
    if (pass->rule.factor[factor].kind == MTH__WHOLE && split->naxes)
        return mth__refuse(
            pass->proof, pass->i, number, F("dimension %d of %s is split, and must be whole", d, value->name));
    if (pass->rule.factor[factor].kind == MTH__WHOLE) return NULL; /* its sizes may differ: concat, slice */
    if (value->local.dim[d] % unit)
        return mth__refuse(
            pass->proof, pass->i, number, F("dimension %d of %s is split inside a unit of %d", d, value->name, unit));
    const mth__cut as = {.n = value->shape.dim[d], .unit = unit, .split = *split};
    if (!known->set) *known = (cut){true, as};
    if (mth__verify_same_cut(value->sharding.on, &known->as, &as)) return NULL;
    return mth__refuse(pass->proof, pass->i, number,
        F("dimension %d of %s is split otherwise than in the other operands and results", d, value->name));
}

static mth_status check_cuts(row *pass) {
    const mth__instr *instruction = pass->instruction;
    for (int j = 0; j < instruction->nin; j++)
        for (int d = 0; d < pass->proof->role->value.at[instruction->in[j]].shape.rank; d++)
            TRY(check_cut(pass, pass->rule.in[j][d], pass->rule.in_unit[j][d], d, instruction->in[j]));
    for (int j = 0; j < instruction->nout; j++)
        for (int d = 0; d < pass->proof->role->value.at[instruction->out[j]].shape.rank; d++)
            TRY(check_cut(pass, pass->rule.out[j][d], pass->rule.out_unit[j][d], d, instruction->out[j]));
    return NULL;
}

/* The axes over which the operands are partial, where the row lets that pass. */
static mth_status incoming(const row *pass, unsigned *axes) {
    const mth__instr *instruction = pass->instruction;
    const mth__op *op = instruction->op;
    int first = -1; /* of the operands of a JOINT row */
    *axes = 0;
    for (int j = 0; j < mth__row_operands(op, instruction->nin, instruction->accumulates); j++) {
        const mth__program_value *value = &pass->proof->role->value.at[instruction->in[j]];
        bool linear = op->linear != MTH__LINEAR_NONE && op->linear_args >> j & 1;
        if (op->linear == MTH__LINEAR_JOINT && linear) {
            if (first < 0) first = instruction->in[j];
            if (value->sharding.partial != pass->proof->role->value.at[first].sharding.partial)
                return mth__refuse(pass->proof, pass->i, instruction->in[j],
                    F("%s and the other operands are partial sums over different axes", value->name));
        } else if (value->sharding.partial && !linear) {
            return mth__refuse(
                pass->proof, pass->i, instruction->in[j], F("uses %s, a partial sum, as a value", value->name));
        } else if (*axes & value->sharding.partial) {
            return mth__refuse(pass->proof, pass->i, instruction->in[j],
                F("multiplies %s with another partial sum over the same axis", value->name));
        }
        if (value->sharding.partial && value->sharding.reduce != MTH__REDUCE_SUM)
            return mth__refuse(
                pass->proof, pass->i, instruction->in[j], F("uses %s, a partial maximum, as a value", value->name));
        *axes |= value->sharding.partial;
    }
    return NULL;
}

static unsigned axes_of(const mth__split *split) {
    unsigned axes = 0;
    for (int i = 0; i < split->naxes; i++) axes |= 1u << split->axis[i];
    return axes;
}

static mth_status check_partial(const row *pass) {
    const mth__instr *instruction = pass->instruction;
    unsigned in, split = 0;
    TRY(incoming(pass, &in));
    for (int factor = 0; factor < pass->rule.n; factor++) split |= axes_of(&pass->cut[factor].as.split);
    if (in & split)
        return mth__refuse(pass->proof, pass->i, instruction->in[0],
            F("an axis splits a dimension, and an operand is a partial sum over it"));
    for (int j = 0; j < instruction->nout; j++) {
        const mth__program_value *value = &pass->proof->role->value.at[instruction->out[j]];
        unsigned sum = in, max = 0, has = 0;
        for (int d = 0; d < value->shape.rank; d++)
            if (pass->rule.out[j][d] >= 0) has |= 1u << pass->rule.out[j][d];
        for (int factor = 0; factor < pass->rule.n; factor++) {
            if (has >> factor & 1) continue;
            unsigned axes = axes_of(&pass->cut[factor].as.split);
            if (axes && pass->rule.factor[factor].kind == MTH__PASS)
                return mth__refuse(pass->proof, pass->i, instruction->out[j],
                    F("%s lacks a dimension over which its operands are split", value->name));
            *(pass->rule.factor[factor].kind == MTH__MAX ? &max : &sum) |= axes;
        }
        if (sum && max)
            return mth__refuse(pass->proof, pass->i, instruction->out[j],
                F("%s would be both a partial sum and a partial maximum", value->name));
        if (value->sharding.partial != (sum | max) ||
            (value->sharding.partial && value->sharding.reduce != (max ? MTH__REDUCE_MAX : MTH__REDUCE_SUM)))
            return mth__refuse(pass->proof, pass->i, instruction->out[j],
                F("%s is said to be %s, and is %s", value->name,
                    value->sharding.partial ? "a partial sum over some axes" : "whole",
                    sum | max ? "a partial sum over others" : "no partial sum"));
    }
    return NULL;
}

/* What is added to a partial sum must be a partial sum over the same axes. */
static mth_status check_accumulators(const row *pass) {
    const mth__instr *instruction = pass->instruction;
    for (int j = 0; instruction->accumulates && j < instruction->nout; j++) {
        const int sum = mth__accumulator(instruction->op, instruction->nin, j);
        if (sum < 0) continue;
        const mth__program_value *from = &pass->proof->role->value.at[instruction->in[sum]],
                                 *to = &pass->proof->role->value.at[instruction->out[j]];
        bool same = from->sharding.partial == to->sharding.partial && from->sharding.reduce == to->sharding.reduce;
        if (same || (!from->sharding.partial && !to->sharding.partial)) continue;
        return mth__refuse(pass->proof, pass->i, instruction->in[sum],
            F("adds to %s, which is a partial sum over other axes than %s", from->name, to->name));
    }
    return NULL;
}

static bool is_inside(mth__extent part, mth__extent whole) {
    int64_t low = part.start - whole.start, last = low + (part.size - 1) * part.step;
    return low >= 0 && low % whole.step == 0 && last <= (whole.size - 1) * whole.step &&
        (part.size == 1 || part.step % whole.step == 0);
}

static mth__extent extent_on(
    const mth__verification *proof, int64_t n, const mth__split *split, const mth__placement *on, int i) {
    int coordinate[MTH__AXES];
    mth__placement_coordinates(on, on->rank_of[proof->role->device[i]], coordinate);
    return mth__split_extent(n, split, on, coordinate);
}

/* A device of the role on which dimension d of the value is neither empty nor in its part of `in`; -1: none. */
static mth_status find_unkept(mth__verification *proof, int in, int number, int d, int *device) {
    const mth__program_value *a = &proof->role->value.at[in], *b = &proof->role->value.at[number];
    const mth__contained contained = {
        a->shape.dim[d], a->sharding.dim[d], b->sharding.dim[d], a->sharding.on, b->sharding.on};
    bool kept = contained.from.naxes == 0 ||
        (contained.from_on == contained.to_on &&
            mth__split_begins(contained.n, &contained.from, &contained.to, contained.from_on));
    *device = -1;
    for (int i = 0; i < MTH__CONTAINED && !kept; i++) {
        const mth__contained *known = &proof->contained[i];
        kept = known->n == contained.n && known->from_on == contained.from_on && known->to_on == contained.to_on &&
            mth__split_equal(&known->from, &contained.from) && mth__split_equal(&known->to, &contained.to);
    }
    if (kept) return NULL;
    TRY(mth__verify_look(proof, number));
    for (int i = 0; i < proof->role->ndevice; i++) {
        mth__extent part = extent_on(proof, contained.n, &contained.to, contained.to_on, i);
        if (!part.size || is_inside(part, extent_on(proof, contained.n, &contained.from, contained.from_on, i)))
            continue;
        *device = proof->role->device[i];
        return NULL;
    }
    proof->contained[proof->contained_next] = contained;
    proof->contained_next = (proof->contained_next + 1) % MTH__CONTAINED;
    return NULL;
}

/* keep: each device's part of the result lies in its part of the operand. */
static mth_status check_keep(mth__verification *proof, int i) {
    const mth__instr *instruction = &proof->role->instr.at[i];
    const mth__program_value *in = &proof->role->value.at[instruction->in[0]],
                             *out = &proof->role->value.at[instruction->out[0]];
    const mth__sharding *a = &in->sharding, *b = &out->sharding;
    if (a->partial != b->partial || (a->partial && (a->on != b->on || a->reduce != b->reduce)))
        return mth__refuse(proof, i, instruction->out[0], F("keeps a part of another partial sum"));
    for (int d = 0; d < in->shape.rank; d++) {
        int device;
        TRY(find_unkept(proof, instruction->in[0], instruction->out[0], d, &device));
        if (device >= 0)
            return mth__refuse(proof, i, instruction->out[0],
                F("device %d does not hold in %s all that it keeps as %s", device, in->name, out->name));
    }
    return NULL;
}

/* The results are what the row infers. *out: the node that the instruction would be. */
static mth_status check_shapes(mth__verification *proof, int i, mth__node **out) {
    const mth__instr *instruction = &proof->role->instr.at[i];
    if (instruction->op->flags & MTH__ALIAS)
        return mth__refuse(proof, i, -1, F("moves nothing: it is a view, no instruction"));
    if (instruction->op->flags & MTH__COMM && instruction->op->row != MTH__ROW_keep)
        return mth__refuse(proof, i, -1, F("is communication, which needs a channel"));
    mth__node *node = node_of(proof, instruction);
    mth_status bad = mth__op_infer(node);
    if (bad) return mth__refuse_for(proof, i, instruction->nin ? instruction->in[0] : -1, bad);
    for (int j = 0; j < instruction->nout; j++) {
        const mth__program_value *value = &proof->role->value.at[instruction->out[j]];
        if (!mth__shape_equal(node->out[j]->shape, value->shape))
            return mth__refuse(proof, i, instruction->out[j], F("its result %s has another shape", value->name));
        if (node->out[j]->dtype != value->dtype)
            return mth__refuse(proof, i, instruction->out[j],
                F("its result %s is %s, and not %s", value->name, mth_dtype_name(value->dtype),
                    mth_dtype_name(node->out[j]->dtype)));
    }
    *out = node;
    return NULL;
}

mth_status mth__verify_layouts(mth__verification *proof, int i) {
    const mth__instr *instruction = &proof->role->instr.at[i];
    mth__node *node;
    TRY(check_shapes(proof, i, &node));
    for (int j = 0; j < instruction->nin + instruction->nout; j++) {
        const int number = j < instruction->nin ? instruction->in[j] : instruction->out[j - instruction->nin];
        const mth__sharding *layout =
            instruction->layouts ? &instruction->layouts[j] : &proof->role->value.at[number].sharding;
        if (layout->on != proof->program->mesh->whole)
            return mth__refuse(
                proof, i, number, F("%s is laid out on a part of the mesh", proof->role->value.at[number].name));
        mth_status bad = mth__sharding_check(layout, proof->role->value.at[number].shape);
        if (bad) return mth__refuse_for(proof, i, number, bad);
    }
    return NULL;
}

/* Has an instruction of the same row and attributes on values of the same layouts been proved? Then this one is, if
   its values lie on one placement. */
static bool is_proved(mth__verification *proof, const mth__instr *instruction) {
    mth__keys *rows = &proof->rows;
    mth__keys_begin(rows);
    mth__keys_add(proof->lasting, rows, (uint64_t)(uintptr_t)instruction->op);
    mth__keys_add(proof->lasting, rows,
        (uint64_t)instruction->accumulates << 16 | (uint64_t)instruction->nin << 8 | (uint64_t)instruction->nout);
    mth__keys_add_attrs(proof->lasting, rows, instruction->attrs);
    for (int j = 0; j < instruction->nin; j++)
        mth__keys_add(proof->lasting, rows, (uint64_t)proof->layout_of.at[proof->kind_of[instruction->in[j]]]);
    for (int j = 0; j < instruction->nout; j++)
        mth__keys_add(proof->lasting, rows, (uint64_t)proof->layout_of.at[proof->kind_of[instruction->out[j]]]);
    const int known = (int)rows->key.n;
    return mth__keys_number(proof->lasting, rows) < known;
}

mth_status mth__verify_row(mth__verification *proof, int i) {
    const mth__instr *instruction = &proof->role->instr.at[i];
    mth__node *node;
    const bool keeps = instruction->op->row == MTH__ROW_keep, proved = !keeps && is_proved(proof, instruction);
    if (!proved) TRY(check_shapes(proof, i, &node));
    if (keeps) return check_keep(proof, i);
    for (int j = 0; j < instruction->nin; j++)
        if (proof->role->value.at[instruction->in[j]].sharding.on !=
            proof->role->value.at[instruction->out[0]].sharding.on)
            return mth__refuse(proof, i, instruction->in[j],
                F("%s lies on another placement than the result", proof->role->value.at[instruction->in[j]].name));
    for (int j = 1; j < instruction->nout; j++)
        if (proof->role->value.at[instruction->out[j]].sharding.on !=
            proof->role->value.at[instruction->out[0]].sharding.on)
            return mth__refuse(proof, i, instruction->out[j], F("its results lie on several placements"));
    if (proved) return NULL; /* a refusal would have been the end */
    row pass = {.proof = proof, .i = i, .instruction = instruction};
    mth__op_rule(node, &pass.rule);
    TRY(check_cuts(&pass));
    TRY(check_partial(&pass));
    return check_accumulators(&pass);
}
