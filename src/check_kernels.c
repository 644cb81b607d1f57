/* Whether an engine runs all nodes of a graph, and what to do where it doesn't. */
#include "compile.h"

/* Most users have float32 at hand; then come the dtypes that hold its values. */
static const mth_dtype candidates[] = {
    MTH_FLOAT32, MTH_FLOAT64, MTH_BFLOAT16, MTH_FLOAT16, MTH_BOOL, MTH_INT32, MTH_INT64};
enum { CANDIDATES = sizeof candidates / sizeof *candidates };

/* The operands that have to change with operand `at`: a mask or an operand of a row of any dtype alone, else all
   floating ones. */
static uint64_t changed_with(const mth__node *node, int at) {
    const mth__op *op = node->op;
    const uint64_t free = op->linear == MTH__LINEAR_JOINT ? op->mask_args : op->mask_args | op->any_args;
    if (at < node->nin && free >> at & 1) return (uint64_t)1 << at;
    uint64_t changed = 0;
    for (int j = 0; j < node->nin; j++)
        if (!((op->mask_args | op->sum_args) >> j & 1) && mth__is_float(node->in[j]->dtype))
            changed |= (uint64_t)1 << j;
    return changed;
}

/* The node with the operands `changed` in another dtype, in memory of `room`. */
typedef struct {
    mth__node node;
    mth__value value[MTH__MAX_IN + MTH__MAX_OUT];
    mth__value *at[MTH__MAX_IN + MTH__MAX_OUT];
} variant;
static void make_variant(const mth__node *node, uint64_t changed, mth_dtype dtype, variant *to) {
    to->node = *node;
    to->node.in = to->at;
    to->node.out = to->at + node->nin;
    for (int i = 0; i < node->nin + node->nout; i++) {
        to->value[i] = *mth__operand_or_result(node, i);
        to->at[i] = &to->value[i];
        if (i >= node->nin) continue;
        if (changed >> i & 1)
            to->value[i].dtype = dtype;
        else if (node->op->sum_args >> i & 1 && changed)
            to->value[i].dtype = mth__dtypes[dtype].sums;
    }
}
/* Whether the node runs with what must change with operand `at`, and with each other operand that the engine then
   refuses, in this dtype. */
static bool runs_with(
    const mth__node *node, int at, mth_dtype dtype, const mth__engine_vtable *engine, variant *other) {
    uint64_t changed = 0;
    while (at >= 0) {
        const uint64_t more = changed | changed_with(node, at);
        if (more == changed) return false;
        changed = more;
        make_variant(node, changed, dtype, other);
        mth_status refused = mth__op_infer(&other->node);
        mth_error_free(refused);
        if (refused) return false;
        if (!engine->lacks(&other->node, &at)) return true;
    }
    return false;
}
/* "give q, k, v as float32" */
static char *fix_by_dtype(mth__arena *arena, const mth__node *node, const mth__node *other) {
    mth__text text = mth__text_new(arena);
    mth_dtype last = (mth_dtype)0;
    for (int j = 0; j < node->nin; j++) {
        const mth_dtype dtype = other->in[j]->dtype;
        if (dtype == node->in[j]->dtype) continue;
        if (last && last != dtype) mth__text_add(&text, " as %s", mth_dtype_name(last));
        char room[24];
        mth__text_add(&text, "%s%s", last ? ", " : "give ", mth__arg_name(node->op, j, room));
        last = dtype;
    }
    mth__text_add(&text, " as %s", mth_dtype_name(last));
    return F("%s", text.at);
}
static char *fix_of(const mth__graph *graph, const mth__node *node, int at, const mth__engine_vtable *engine) {
    variant *other = NEW(graph->arena, variant);
    for (int i = 0; i < CANDIDATES; i++)
        if (runs_with(node, at, candidates[i], engine, other)) return fix_by_dtype(graph->arena, node, &other->node);
    return F("compile for another backend");
}

static mth_status check_kernel(const mth__graph *graph, const mth__node *node, const mth__engine_vtable *engine) {
    int at;
    const char *reason = node->op->flags & MTH__COMM ? NULL : engine->lacks(node, &at);
    if (!reason) return NULL;
    const mth__value *value = at < 0 ? NULL : mth__operand_or_result(node, at);
    char room[24];
    char *what = !value ? F("%s: %s", node->op->name, reason)
                        : F("%s of %s is %s: %s", at < node->nin ? mth__arg_name(node->op, at, room) : "a result",
                              node->op->name, mth_dtype_name(value->dtype), reason);
    mth_status status = FAIL(MTH_ERROR_UNSUPPORTED, what, fix_of(graph, node, at, engine));
    mth__error_operator(status, node->label.module ? node->label.module : node->op->name);
    mth__error_source(status, node->label.source);
    return value ? mth__error_tensor(status, mth__value_text(value)) : status;
}

mth_status mth__check_kernels(const mth__graph *graph, const mth__engine_vtable *engine) {
    for (size_t i = 0; i < graph->node.n; i++) TRY(check_kernel(graph, graph->node.at[i], engine));
    return NULL;
}
