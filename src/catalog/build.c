/* The builder: a node, checked, with its shapes, or an error and the graph as it was. */
#include "catalog/row_tools.h"
#include <string.h>

/* ---------------------------------------------------------------- checks */
static void count_args(const char *args, int *least, int *most) {
    *least = *most = 0;
    if (!args || !*args) return;
    bool optional = false, repeats = false;
    for (const char *c = args;; c++) {
        if (*c == '?')
            optional = true;
        else if (*c == '*')
            repeats = true;
        else if (*c == ',' || *c == 0) {
            ++*most;
            if (!optional) ++*least;
            optional = false;
            if (*c == 0) break;
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

/* The dtype that the floating operands have, else that of operand 0. */
static mth_dtype operand_dtype(const mth__node *n) {
    const mth__op *op = n->op;
    for (int j = 0; j < n->nin; j++)
        if (!is_bit(op->mask_args | op->sum_args, j) && mth__is_float(n->in[j]->dtype)) return n->in[j]->dtype;
    return n->nin ? n->in[0]->dtype : MTH_FLOAT32;
}
static mth_dtype result_dtype(const mth__node *n, mth__type_rule rule) {
    switch (rule) {
    case MTH__TYPE_OPERAND: break;
    case MTH__TYPE_SUM: return mth__dtypes[operand_dtype(n)].sums;
    case MTH__TYPE_ATTRIBUTE: return (mth_dtype)n->attrs.dtype;
    case MTH__TYPE_FLOAT32: return MTH_FLOAT32;
    case MTH__TYPE_INT32: return MTH_INT32;
    case MTH__TYPE_BOOL: return MTH_BOOL;
    }
    return operand_dtype(n);
}
int mth__first_floating_but(const mth__node *node, mth_dtype dtype) {
    for (int at = 0; at < node->nin + node->nout; at++) {
        const mth_dtype has = mth__operand_or_result(node, at)->dtype;
        if (mth__is_float(has) && has != dtype) return at;
    }
    return -1;
}
mth_dtype mth__op_sum_dtype(const mth__node *n) {
    return n->op->flags & MTH__SUMS ? mth__dtypes[n->out[0]->dtype].sums : (mth_dtype)0;
}

static mth_status wrong_dtype(const mth__node *n, int j, const char *takes, const char *fix) {
    char room[24];
    return mth__row_type_error(n,
        F("%s of %s is %s, it takes %s", mth__arg_name(n->op, j, room), n->op->name, mth_dtype_name(n->in[j]->dtype),
            takes),
        F("give it as %s", fix));
}
/* Rows of any dtype that take several operands give one tensor of all of them. */
static mth_status check_any(const mth__node *n, int j) {
    const mth_dtype first = n->in[0]->dtype, other = n->in[j]->dtype;
    if (n->op->linear != MTH__LINEAR_JOINT || first == other) return NULL;
    return mth__row_type_error(n,
        F("the operands of %s have two dtypes, %s and %s", n->op->name, mth_dtype_name(first), mth_dtype_name(other)),
        F("give all of them as %s", mth_dtype_name(mth__is_float(other) && !mth__is_float(first) ? other : first)));
}
static bool binds(const mth__op *op, int j) {
    return !is_bit(op->any_args | op->mask_args | op->index_args | op->sum_args, j);
}
/* Floating operands have one dtype, that of the first. */
static mth_status check_floating(const mth__node *n, int j) {
    int first = 0, count = 0;
    while (first < n->nin && !(binds(n->op, first) && mth__is_float(n->in[first]->dtype))) first++;
    const mth_dtype dtype = first < n->nin ? n->in[first]->dtype : MTH_FLOAT32, has = n->in[j]->dtype;
    if (!mth__is_float(has)) return wrong_dtype(n, j, "floating values", mth_dtype_name(dtype));
    if (has == dtype) return NULL;
    char room[2][24];
    for (int i = 0; i < n->nin; i++) count += binds(n->op, i);
    return mth__row_type_error(n,
        F("%s of %s is %s, %s is %s", mth__arg_name(n->op, first, room[0]), n->op->name, mth_dtype_name(dtype),
            mth__arg_name(n->op, j, room[1]), mth_dtype_name(has)),
        F("give %s as %s", count == 2 ? "both" : "all floating operands", mth_dtype_name(dtype)));
}

static mth_status check_dtypes(const mth__node *n) {
    const mth__op *op = n->op;
    for (int j = 0; j < n->nin; j++) {
        const mth_dtype dtype = n->in[j]->dtype;
        const bool is_integer = dtype == MTH_INT32 || (dtype == MTH_INT64 && op->flags & MTH__WIDE_IDS);
        if (is_bit(op->any_args, j))
            TRY(check_any(n, j));
        else if (is_bit(op->mask_args, j) && dtype == MTH_INT64)
            return wrong_dtype(n, j, "bool, int32 or floating values", "bool");
        else if (is_bit(op->index_args, j) && !is_integer)
            return wrong_dtype(n, j, op->flags & MTH__WIDE_IDS ? "int32 or int64" : "int32", "int32");
        else if (binds(op, j))
            TRY(check_floating(n, j));
    }
    const mth_dtype sums = mth__dtypes[operand_dtype(n)].sums;
    for (int j = 0; j < n->nin; j++)
        if (is_bit(op->sum_args, j) && n->in[j]->dtype != sums)
            return wrong_dtype(n, j, mth_dtype_name(sums), mth_dtype_name(sums));
    return NULL;
}

/* ---------------------------------------------------------------- the builder */
static mth_status infer(mth__node *n) {
    for (int k = 0; k < n->nout; k++) n->out[k]->dtype = result_dtype(n, n->op->types[k]);
    TRY(n->op->infer ? n->op->infer(n) : mth__infer_from(n, n->op->factors));
    for (int k = 0; k < n->nout; k++) {
        mth_status s = mth__shape_check(n->out[k]->shape, n->out[k]->dtype);
        if (s) return mth__row_dress(s, n);
    }
    return NULL;
}

static mth_status check_count(const mth__op *op, int nin, const char *module) {
    int least, most;
    count_args(op->args, &least, &most);
    if (nin >= least && nin <= most) return NULL;
    const char *bound = most == least ? "" : nin < least ? "at least " : "at most ";
    int wanted = nin < least ? least : most;
    mth_status s = FAIL(MTH_ERROR_VALUE,
        F("%s takes %s%d operand%s, not %d", op->name, bound, wanted, wanted == 1 ? "" : "s", nin),
        F("give as many operands as %s has: %s", op->name, op->args ? op->args : "none"));
    return mth__error_operator(s, module ? module : op->name);
}

static mth_status check_accumulators(const mth__node *n) {
    for (int k = 0; k < n->nout; k++) {
        const int j = mth__accumulator(n->op, n->nin, k);
        if (j < 0) continue;
        if (!mth__is_float(n->out[k]->dtype))
            return mth__row_type_error(n,
                F("result %d of %s is to be added to a sum, and is %s", k, n->op->name,
                    mth_dtype_name(n->out[k]->dtype)),
                F("add floating values alone"));
        if (!mth__shape_equal(n->in[j]->shape, n->out[k]->shape) || n->in[j]->dtype != n->out[k]->dtype)
            return mth__row_error(n,
                F("result %d of %s and the sum to add it to differ in shape or dtype", k, n->op->name),
                F("give a sum of the result's shape and dtype"));
    }
    return NULL;
}

mth_status mth__op_infer(mth__node *n) {
    int nout = count_results(n->op->results), nin = mth__row_operands(n->op, n->nin, n->accumulates);
    if (n->accumulates && !n->op->accumulates)
        return mth__row_error(n, F("%s adds to no sum", n->op->name), F("add with a node of its own"));
    TRY(check_count(n->op, nin, n->label.module));
    if (n->nout != nout)
        return mth__row_error(n, F("%s has %d results, not %d", n->op->name, nout, n->nout),
            F("give room for its results: %s", n->op->results));
    mth__node row = *n;
    row.nin = nin;
    TRY(check_dtypes(&row));
    TRY(infer(&row));
    return n->accumulates ? check_accumulators(n) : NULL;
}

mth_status mth__build(
    mth__builder *b, const mth__op *op, const mth__attrs *attrs, int nin, mth__value *const *in, mth__value **out) {
    int nout = count_results(op->results);
    TRY(check_count(op, nin, b->label.module));
    mth__arena *arena = b->graph->arena;
    mth__node *n = NEW(arena, mth__node);
    mth__value *results = NEW_ARRAY(arena, mth__value, nout);
    n->in = NEW_ARRAY(arena, mth__value *, nin + nout);
    n->out = n->in + nin;
    n->op = op;
    if (attrs) n->attrs = *attrs;
    n->nin = nin;
    n->nout = nout;
    n->label = b->label;
    n->on = b->on;
    for (int j = 0; j < nin; j++) n->in[j] = in[j];
    for (int k = 0; k < nout; k++) {
        n->out[k] = &results[k];
        results[k].kind = MTH__VALUE_NODE;
        results[k].node = n;
        results[k].index = k;
    }
    TRY(check_dtypes(n));
    TRY(infer(n));
    n->id = (int)b->graph->node.n;
    PUSH(arena, b->graph->node, n);
    for (int k = 0; k < nout; k++) {
        results[k].id = b->graph->values++;
        out[k] = &results[k];
    }
    return NULL;
}

mth_status mth__build_n(
    mth__builder *b, const char *op, const mth__attrs *attrs, int nin, mth__value *const *in, mth__value **out) {
    const mth__op *row = mth__op_find(op);
    if (!row) return INTERNAL("the catalog has no operator '%s'", op);
    return mth__build(b, row, attrs, nin, in, out);
}
mth_status mth__build1(mth__builder *b, const char *op, const mth__attrs *attrs, mth__value *x, mth__value **out) {
    return mth__build_n(b, op, attrs, 1, (mth__value *[]){x}, out);
}
mth_status mth__build2(
    mth__builder *b, const char *op, const mth__attrs *attrs, mth__value *x, mth__value *y, mth__value **out) {
    return mth__build_n(b, op, attrs, 2, (mth__value *[]){x, y}, out);
}
mth_status mth__build3(mth__builder *b, const char *op, const mth__attrs *attrs, mth__value *x, mth__value *y,
    mth__value *z, mth__value **out) {
    return mth__build_n(b, op, attrs, 3, (mth__value *[]){x, y, z}, out);
}
mth_status mth__build_contract(mth__builder *b, const char *spec, mth__value *x, mth__value *y, mth__value **out) {
    mth__attrs a = {.spec = mth__copy_text(b->graph->arena, spec)};
    return mth__build(b, &mth__op_contract, &a, 2, (mth__value *[]){x, y}, out);
}
mth_status mth__build_shaped(mth__builder *b, const char *op, mth__value *x, mth__shape shape, mth__value **out) {
    if (mth__shape_equal(x->shape, shape)) {
        *out = x;
        return NULL;
    }
    mth__attrs a = mth__attrs_of_shape(shape);
    return mth__build1(b, op, &a, x, out);
}
mth_status mth__build_scale(mth__builder *b, mth__value *x, double by, mth__value **out) {
    return mth__build(b, &mth__op_scale, &(mth__attrs){.by = by}, 1, &x, out);
}

mth_status mth__build_unbroadcast(mth__builder *b, mth__value *v, mth__shape shape, mth__value **out) {
    if (mth__shape_equal(v->shape, shape)) {
        *out = v;
        return NULL;
    }
    int extra = v->shape.rank - shape.rank;
    int64_t leading = ((int64_t)1 << extra) - 1, bits = leading;
    for (int d = 0; d < shape.rank; d++)
        if (shape.dim[d] == 1 && v->shape.dim[d + extra] != 1) bits |= (int64_t)1 << (d + extra);
    /* where only leading dimensions go, the sum has the shape already */
    mth__attrs a = {.dimensions = bits, .keep = bits != leading};
    if (bits) TRY(mth__build(b, &mth__op_reduce_sum, &a, 1, &v, &v));
    return mth__build_shaped(b, "reshape", v, shape, out);
}

/* ---------------------------------------------------------------- what gradients share */
mth_status mth__grad_none(mth__builder *b, const mth__node *n, mth__value *const *dout, mth__value **din) {
    (void)b;
    (void)n;
    (void)dout;
    (void)din;
    return NULL;
}
mth_status mth__grad_only_first(const mth__node *n, mth__value *const *dout) {
    for (int k = 1; k < n->nout; k++)
        if (dout[k])
            return mth__row_dress(FAIL(MTH_ERROR_UNSUPPORTED,
                                      F("result %d of %s (%s) has no gradient: it serves the backward pass alone", k,
                                          n->op->name, n->op->results),
                                      F("use its first result alone")),
                n);
    return NULL;
}
