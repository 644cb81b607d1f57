/* The builder: a node, checked, with its shapes, or an error and the graph as it was. */
#include "catalog/row_tools.h"
#include <string.h>

/* ---------------------------------------------------------------- checks */
static void count_args(const char *args, int *least, int *most) {
    *least = *most = 0;
    if (!args || !*args) return;
    bool optional = false, repeats = false;
    for (const char *at = args;; at++) {
        if (*at == '?')
            optional = true;
        else if (*at == '*')
            repeats = true;
        else if (*at == ',' || *at == 0) {
            ++*most;
            if (!optional) ++*least;
            optional = false;
            if (*at == 0) break;
        }
    }
    if (repeats) *most = MTH__MAX_IN;
}
static int count_results(const char *results) {
    int n = 1;
    for (; *results; results++) n += *results == ',';
    return n;
}

static bool is_bit(uint64_t bits, int j) { return bits >> j & 1; }

mth_dtype mth__operand_dtype(const mth__node *node) {
    const mth__op *op = node->op;
    for (int j = 0; j < node->nin; j++)
        if (!is_bit(op->mask_args | op->sum_args, j) && mth__is_float(node->in[j]->dtype)) return node->in[j]->dtype;
    return node->nin ? node->in[0]->dtype : MTH_FLOAT32;
}
static mth_dtype result_dtype(const mth__node *node, mth__type_rule rule) {
    switch (rule) {
    case MTH__TYPE_OPERAND: break;
    case MTH__TYPE_SUM: return mth__dtypes[mth__operand_dtype(node)].sums;
    case MTH__TYPE_ATTRIBUTE: return (mth_dtype)node->attrs.dtype;
    case MTH__TYPE_FLOAT32: return MTH_FLOAT32;
    case MTH__TYPE_INT32: return MTH_INT32;
    case MTH__TYPE_BOOL: return MTH_BOOL;
    }
    return mth__operand_dtype(node);
}
int mth__first_floating_but(const mth__node *node, mth_dtype dtype) {
    for (int at = 0; at < node->nin + node->nout; at++) {
        const mth_dtype has = mth__operand_or_result(node, at)->dtype;
        if (mth__is_float(has) && has != dtype) return at;
    }
    return -1;
}
mth_dtype mth__op_sum_dtype(const mth__node *node) {
    return node->op->flags & MTH__SUMS ? mth__dtypes[node->out[0]->dtype].sums : (mth_dtype)0;
}

static mth_status wrong_dtype(const mth__node *node, int j, const char *takes, const char *fix) {
    char room[24];
    return mth__row_type_error(node,
        F("%s of %s is %s, it takes %s", mth__arg_name(node->op, j, room), node->op->name,
            mth__value_dtype(node->in[j]), takes),
        F("give it as %s", fix));
}
/* Rows of any dtype that take several operands give one tensor of all of them. */
static mth_status check_any(const mth__node *node, int j) {
    const mth_dtype first = node->in[0]->dtype, other = node->in[j]->dtype;
    if (node->op->linear != MTH__LINEAR_JOINT || first == other) return NULL;
    return mth__row_type_error(node,
        F("the operands of %s have two dtypes, %s and %s", node->op->name, mth__value_dtype(node->in[0]),
            mth__value_dtype(node->in[j])),
        F("give all of them as %s", mth_dtype_name(mth__is_float(other) && !mth__is_float(first) ? other : first)));
}
static bool binds(const mth__op *op, int j) {
    return !is_bit(op->any_args | op->mask_args | op->index_args | op->sum_args, j);
}
/* Floating operands have one dtype, that of the first. */
static mth_status check_floating(const mth__node *node, int j) {
    int first = 0, count = 0;
    while (first < node->nin && !(binds(node->op, first) && mth__is_float(node->in[first]->dtype))) first++;
    const mth_dtype dtype = first < node->nin ? node->in[first]->dtype : MTH_FLOAT32, has = node->in[j]->dtype;
    if (!mth__is_float(has)) return wrong_dtype(node, j, "floating values", mth_dtype_name(dtype));
    if (has == dtype) return NULL;
    char room[2][24];
    for (int i = 0; i < node->nin; i++) count += binds(node->op, i);
    return mth__row_type_error(node,
        F("%s of %s is %s, %s is %s", mth__arg_name(node->op, first, room[0]), node->op->name, mth_dtype_name(dtype),
            mth__arg_name(node->op, j, room[1]), mth_dtype_name(has)),
        F("give %s as %s", count == 2 ? "both" : "all floating operands", mth_dtype_name(dtype)));
}

static mth_status check_dtypes(const mth__node *node) {
    const mth__op *op = node->op;
    for (int j = 0; j < node->nin; j++) {
        const mth_dtype dtype = node->in[j]->dtype;
        const bool is_integer = dtype == MTH_INT32 || (dtype == MTH_INT64 && op->flags & MTH__WIDE_IDS);
        if (is_bit(op->any_args, j))
            TRY(check_any(node, j));
        else if (is_bit(op->mask_args, j) && dtype == MTH_INT64)
            return wrong_dtype(node, j, "bool, int32 or floating values", "bool");
        else if (is_bit(op->index_args, j) && !is_integer)
            return wrong_dtype(node, j, op->flags & MTH__WIDE_IDS ? "int32 or int64" : "int32", "int32");
        else if (binds(op, j))
            TRY(check_floating(node, j));
    }
    const mth_dtype sums = mth__dtypes[mth__operand_dtype(node)].sums;
    for (int j = 0; j < node->nin; j++)
        if (is_bit(op->sum_args, j) && node->in[j]->dtype != sums)
            return wrong_dtype(node, j, mth_dtype_name(sums), mth_dtype_name(sums));
    return NULL;
}

/* ---------------------------------------------------------------- the builder */
static mth_status infer(mth__node *node) {
    for (int k = 0; k < node->nout; k++) node->out[k]->dtype = result_dtype(node, node->op->types[k]);
    TRY(node->op->infer ? node->op->infer(node) : mth__infer_from(node, node->op->factors));
    for (int k = 0; k < node->nout; k++) {
        mth_status status = mth__shape_check(node->out[k]->shape, node->out[k]->dtype);
        if (status) return mth__row_dress(status, node);
    }
    return NULL;
}

static mth_status check_count(const mth__op *op, int nin, const char *module) {
    int least, most;
    count_args(op->args, &least, &most);
    if (nin >= least && nin <= most) return NULL;
    const char *bound = most == least ? "" : nin < least ? "at least " : "at most ";
    int wanted = nin < least ? least : most;
    mth_status status = FAIL(MTH_ERROR_VALUE,
        F("%s takes %s%d operand%s, not %d", op->name, bound, wanted, wanted == 1 ? "" : "s", nin),
        F("give as many operands as %s has: %s", op->name, op->args ? op->args : "none"));
    return mth__error_operator(status, module ? module : op->name);
}

static mth_status check_accumulators(const mth__node *node) {
    for (int k = 0; k < node->nout; k++) {
        const int j = mth__accumulator(node->op, node->nin, k);
        if (j < 0) continue;
        if (!mth__is_float(node->out[k]->dtype))
            return mth__row_type_error(node,
                F("result %d of %s is to be added to a sum, and is %s", k, node->op->name,
                    mth_dtype_name(node->out[k]->dtype)),
                F("add floating values alone"));
        if (!mth__shape_equal(node->in[j]->shape, node->out[k]->shape) || node->in[j]->dtype != node->out[k]->dtype)
            return mth__row_error(node,
                F("result %d of %s and the sum to add it to differ in shape or dtype", k, node->op->name),
                F("give a sum of the result's shape and dtype"));
    }
    return NULL;
}

mth_status mth__op_infer(mth__node *node) {
    int nout = count_results(node->op->results), nin = mth__row_operands(node->op, node->nin, node->accumulates);
    if (node->accumulates && !node->op->accumulates)
        return mth__row_error(node, F("%s adds to no sum", node->op->name), F("add with a node of its own"));
    TRY(check_count(node->op, nin, node->label.module));
    if (node->nout != nout)
        return mth__row_error(node, F("%s has %d results, not %d", node->op->name, nout, node->nout),
            F("give room for its results: %s", node->op->results));
    mth__node row = *node;
    row.nin = nin;
    TRY(check_dtypes(&row));
    TRY(infer(&row));
    return node->accumulates ? check_accumulators(node) : NULL;
}

mth_status mth__build(mth__builder *builder, enum mth__row row, const mth__attrs *attrs, int nin, mth__value *const *in,
    mth__value **out) {
    const mth__op *op = mth__op_at(row);
    int nout = count_results(op->results);
    TRY(check_count(op, nin, builder->label.module));
    mth__arena *arena = builder->graph->arena;
    mth__node *node = NEW(arena, mth__node);
    mth__value *results = NEW_ARRAY(arena, mth__value, nout);
    node->in = NEW_ARRAY(arena, mth__value *, nin + nout);
    node->out = node->in + nin;
    node->op = op;
    if (attrs) node->attrs = *attrs;
    node->nin = nin;
    node->nout = nout;
    node->label = builder->label;
    node->on = builder->on;
    for (int j = 0; j < nin; j++) node->in[j] = in[j];
    for (int k = 0; k < nout; k++) {
        node->out[k] = &results[k];
        results[k].kind = MTH__VALUE_NODE;
        results[k].node = node;
        results[k].index = k;
    }
    TRY(check_dtypes(node));
    TRY(infer(node));
    node->id = (int)builder->graph->node.n;
    PUSH(arena, builder->graph->node, node);
    for (int k = 0; k < nout; k++) {
        results[k].id = builder->graph->values++;
        out[k] = &results[k];
    }
    return NULL;
}

mth_status mth__build1(
    mth__builder *builder, enum mth__row row, const mth__attrs *attrs, mth__value *x, mth__value **out) {
    return mth__build(builder, row, attrs, 1, (mth__value *[]){x}, out);
}
mth_status mth__build2(
    mth__builder *builder, enum mth__row row, const mth__attrs *attrs, mth__value *x, mth__value *y, mth__value **out) {
    return mth__build(builder, row, attrs, 2, (mth__value *[]){x, y}, out);
}
mth_status mth__build3(mth__builder *builder, enum mth__row row, const mth__attrs *attrs, mth__value *x, mth__value *y,
    mth__value *z, mth__value **out) {
    return mth__build(builder, row, attrs, 3, (mth__value *[]){x, y, z}, out);
}
mth_status mth__build_contract(
    mth__builder *builder, const char *spec, mth__value *x, mth__value *y, mth__value **out) {
    mth__attrs attrs = {.spec = mth__copy_text(builder->graph->arena, spec)};
    return mth__build(builder, MTH__ROW_contract, &attrs, 2, (mth__value *[]){x, y}, out);
}
mth_status mth__build_shaped(
    mth__builder *builder, enum mth__row row, mth__value *x, mth__shape shape, mth__value **out) {
    if (mth__shape_equal(x->shape, shape)) {
        *out = x;
        return NULL;
    }
    mth__attrs attrs = mth__attrs_of_shape(shape);
    return mth__build1(builder, row, &attrs, x, out);
}
mth_status mth__build_scale(mth__builder *builder, mth__value *x, double by, mth__value **out) {
    return mth__build(builder, MTH__ROW_scale, &(mth__attrs){.by = by}, 1, &x, out);
}

mth_status mth__build_unbroadcast(mth__builder *builder, mth__value *value, mth__shape shape, mth__value **out) {
    if (mth__shape_equal(value->shape, shape)) {
        *out = value;
        return NULL;
    }
    int extra = value->shape.rank - shape.rank;
    int64_t leading = ((int64_t)1 << extra) - 1, bits = leading;
    for (int d = 0; d < shape.rank; d++)
        if (shape.dim[d] == 1 && value->shape.dim[d + extra] != 1) bits |= (int64_t)1 << (d + extra);
    /* where only leading dimensions go, the sum has the shape already */
    mth__attrs attrs = {.dimensions = bits, .keep = bits != leading};
    if (bits) TRY(mth__build(builder, MTH__ROW_reduce_sum, &attrs, 1, &value, &value));
    return mth__build_shaped(builder, MTH__ROW_reshape, value, shape, out);
}

/* ---------------------------------------------------------------- what gradients share */
mth_status mth__grad_none(mth__builder *builder, const mth__node *node, mth__value *const *dout, mth__value **din) {
    (void)builder;
    (void)node;
    (void)dout;
    (void)din;
    return NULL;
}
mth_status mth__grad_only_first(const mth__node *node, mth__value *const *dout) {
    for (int k = 1; k < node->nout; k++)
        if (dout[k])
            return mth__row_dress(FAIL(MTH_ERROR_UNSUPPORTED,
                                      F("result %d of %s (%s) has no gradient: it serves the backward pass alone", k,
                                          node->op->name, node->op->results),
                                      F("use its first result alone")),
                node);
    return NULL;
}
