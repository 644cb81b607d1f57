/* What follows from the factors of a row: rules, shapes, flops. */
#include "catalog/row_tools.h"
#include <string.h>

/* ---------------------------------------------------------------- rules */
int mth__rule_factor(mth__rule *rule, int64_t size, mth__factor_kind kind) {
    int number = rule->n++;
    rule->factor[number].size = size;
    rule->factor[number].kind = kind;
    rule->factor[number].letter = (char)('a' + number);
    rule->factor[number].positional = false;
    return number;
}

static void clear(int8_t *factor, int32_t *unit, int rank) {
    for (int d = 0; d < rank; d++) {
        factor[d] = -1;
        unit[d] = 1;
    }
}
void mth__rule_begin(const mth__node *node, mth__rule *rule) {
    rule->n = 0;
    for (int j = 0; j < node->nin; j++) clear(rule->in[j], rule->in_unit[j], node->in[j]->shape.rank);
    for (int k = 0; k < node->nout; k++) clear(rule->out[k], rule->out_unit[k], node->out[k]->shape.rank);
}

void mth__rule_along(const mth__node *node, unsigned whole, mth__rule *rule) {
    mth__rule_begin(node, rule);
    mth__shape shape = node->out[0]->shape;
    for (int d = 0; d < shape.rank; d++) {
        int factor = mth__rule_factor(rule, shape.dim[d], whole >> d & 1 ? MTH__WHOLE : MTH__PASS);
        for (int j = 0; j < node->nin; j++)
            if (d < node->in[j]->shape.rank) rule->in[j][d] = (int8_t)factor;
        for (int k = 0; k < node->nout; k++)
            if (d < node->out[k]->shape.rank) rule->out[k][d] = (int8_t)factor;
    }
}

/* "*": NumPy's broadcasting. Dimensions are aligned at the right; one of size 1 against a larger one belongs to no
 * factor. */
static void broadcasting(const mth__node *node, mth__rule *rule) {
    mth__shape shape = node->out[0]->shape;
    mth__rule_begin(node, rule);
    for (int d = 0; d < shape.rank; d++) {
        mth__rule_factor(rule, shape.dim[d], MTH__PASS);
        for (int k = 0; k < node->nout; k++) rule->out[k][d] = (int8_t)d;
    }
    for (int j = 0; j < node->nin; j++) {
        int skip = shape.rank - node->in[j]->shape.rank;
        for (int d = 0; d < node->in[j]->shape.rank; d++)
            if (node->in[j]->shape.dim[d] == shape.dim[d + skip]) rule->in[j][d] = (int8_t)(d + skip);
    }
}

/* One operand of a spec: [begin, end) are letters, before them an ellipsis or not. */
typedef struct {
    const char *begin, *end;
    bool ellipsis;
} term;
static term next_term(const char **at) {
    term operand = {*at, *at, false};
    if (operand.begin[0] == '.') {
        operand.ellipsis = true;
        operand.begin += 3;
    }
    for (operand.end = operand.begin; *operand.end && *operand.end != ',' && *operand.end != '-'; operand.end++) {}
    *at = *operand.end == ',' ? operand.end + 1 : operand.end;
    return operand;
}
static const char *after_arrow(const char *factors) { return strstr(factors, "->") + 2; }

typedef struct {
    int8_t of[128];
    int8_t ellipsis[MTH__RANK];
    mth__rule *rule;
    const mth__letters *letters;
} letter_binding;

static mth__factor_kind kind_of(const mth__letters *letters, char letter) {
    if (letters->sum && strchr(letters->sum, letter)) return MTH__SUM;
    if (letters->whole && strchr(letters->whole, letter)) return MTH__WHOLE;
    if (letters->max && strchr(letters->max, letter)) return MTH__MAX;
    return MTH__PASS;
}
/* Ties the dimensions of one operand to factors; returns the dimension whose size contradicts its factor, or -1. */
static int tie(letter_binding *binding, term operand, mth__shape shape, int8_t *factor, int32_t *unit) {
    mth__rule *rule = binding->rule;
    int letters = (int)(operand.end - operand.begin), before = shape.rank - letters, wrong = -1;
    for (int d = 0; d < shape.rank; d++) {
        int8_t *tied = d < before ? &binding->ellipsis[MTH__RANK - before + d]
                                  : &binding->of[(unsigned char)operand.begin[d - before]];
        if (*tied < 0) {
            char letter = d < before ? '.' : operand.begin[d - before];
            *tied = (int8_t)mth__rule_factor(rule, shape.dim[d], kind_of(binding->letters, letter));
            rule->factor[*tied].letter = d < before ? (char)('0' + d) : letter;
            rule->factor[*tied].positional =
                binding->letters->positional && strchr(binding->letters->positional, letter);
        } else if (rule->factor[*tied].size != shape.dim[d] && wrong < 0)
            wrong = d;
        factor[d] = *tied;
        unit[d] = 1;
    }
    return wrong;
}

void mth__rule_from(const mth__node *node, const mth__letters *letters, mth__rule *rule) {
    if (letters->factors[0] == '*') {
        broadcasting(node, rule);
        return;
    }
    letter_binding binding = {.rule = rule, .letters = letters};
    memset(binding.of, -1, sizeof binding.of);
    memset(binding.ellipsis, -1, sizeof binding.ellipsis);
    rule->n = 0;
    const char *at = letters->factors;
    for (int j = 0; j < node->nin; j++)
        tie(&binding, next_term(&at), node->in[j]->shape, rule->in[j], rule->in_unit[j]);
    at = after_arrow(letters->factors);
    for (int k = 0; k < node->nout; k++)
        tie(&binding, next_term(&at), node->out[k]->shape, rule->out[k], rule->out_unit[k]);
}

void mth__op_rule(const mth__node *node, mth__rule *rule) {
    const mth__op *op = node->op;
    mth__node row = *node;
    row.nin = mth__row_operands(op, node->nin, node->accumulates);
    if (op->rule)
        op->rule(&row, rule);
    else
        mth__rule_from(&row, &(mth__letters){op->factors, op->sum, op->max, op->whole, op->positional}, rule);
    for (int k = 0; node->accumulates && k < node->nout; k++) {
        const int j = mth__accumulator(op, node->nin, k);
        if (j < 0) continue;
        memcpy(rule->in[j], rule->out[k], sizeof rule->in[j]);
        memcpy(rule->in_unit[j], rule->out_unit[k], sizeof rule->in_unit[j]);
    }
}

/* ---------------------------------------------------------------- shapes from factors */
static mth_status infer_broadcast(mth__node *node) {
    mth__shape first = node->in[0]->shape;
    for (int j = 1; j < node->nin; j++) {
        mth__shape a = first, b = node->in[j]->shape;
        if (a.rank < b.rank) {
            mth__shape second = a;
            a = b;
            b = second;
        }
        first = a;
        for (int d = 0; d < b.rank; d++) {
            int64_t *have = &first.dim[a.rank - b.rank + d], other = b.dim[d];
            if (*have == other || other == 1) continue;
            if (*have != 1)
                return mth__row_error(node,
                    F("the operands of %s can't be broadcast together: counted from the last dimension, number %d is "
                      "%lld in one and %lld "
                      "in another",
                        node->op->name, b.rank - d, (long long)*have, (long long)other),
                    F("give operands whose dimensions, aligned at the right, are equal or 1"));
            *have = other;
        }
    }
    for (int k = 0; k < node->nout; k++) node->out[k]->shape = first;
    return NULL;
}

static mth_status contradiction(const mth__node *node, const mth__rule *rule, const char *factors, int j, int d) {
    int factor = rule->in[j][d];
    char room[2][24];
    for (int i = 0; i < j; i++)
        for (int m = 0; m < node->in[i]->shape.rank; m++) {
            if (rule->in[i][m] != factor) continue;
            const char *first = mth__arg_name(node->op, i, room[0]), *second = mth__arg_name(node->op, j, room[1]);
            long long x = (long long)node->in[i]->shape.dim[m], y = (long long)node->in[j]->shape.dim[d];
            return mth__row_error(node,
                F("dimension %d of %s is %lld, dimension %d of %s is %lld: %s needs them equal (%s)", m, first, x, d,
                    second, y, node->op->name, factors),
                F("make dimension %d of %s %lld, or dimension %d of %s %lld", d, second, x, m, first, y));
        }
    return mth__row_error(node, F("two dimensions of operand %d of %s, tied by %s, differ", j, node->op->name, factors),
        F("give a tensor in which they are equal"));
}

mth_status mth__infer_from(mth__node *node, const char *factors) {
    if (factors[0] == '*') return infer_broadcast(node);
    mth__rule rule;
    const mth__letters none = {.factors = factors};
    letter_binding binding = {.rule = &rule, .letters = &none};
    memset(binding.of, -1, sizeof binding.of);
    memset(binding.ellipsis, -1, sizeof binding.ellipsis);
    rule.n = 0;
    int ellipsis = -1, first = 0;
    const char *at = factors;
    for (int j = 0; j < node->nin; j++) {
        term operand = next_term(&at);
        int before = node->in[j]->shape.rank - (int)(operand.end - operand.begin);
        char room[2][24];
        if (before < 0 || (before > 0 && !operand.ellipsis)) {
            int letters = (int)(operand.end - operand.begin);
            return mth__row_error(node,
                F("%s of %s has %d dimensions; %s needs %s%d", mth__arg_name(node->op, j, room[0]), node->op->name,
                    node->in[j]->shape.rank, factors, operand.ellipsis ? "at least " : "", letters),
                F("give a tensor of %s%d dimensions", operand.ellipsis ? "at least " : "", letters));
        }
        if (operand.ellipsis && ellipsis >= 0 && before != ellipsis) {
            int wanted = ellipsis + (int)(operand.end - operand.begin);
            return mth__row_error(node,
                F("%s of %s has %d dimensions, but with %s as it is it needs %d (%s)",
                    mth__arg_name(node->op, j, room[0]), node->op->name, node->in[j]->shape.rank,
                    mth__arg_name(node->op, first, room[1]), wanted, factors),
                F("give a tensor of %d dimensions", wanted));
        }
        if (operand.ellipsis && ellipsis < 0) {
            ellipsis = before;
            first = j;
        }
        int wrong = tie(&binding, operand, node->in[j]->shape, rule.in[j], rule.in_unit[j]);
        if (wrong >= 0) return contradiction(node, &rule, factors, j, wrong);
    }
    at = after_arrow(factors);
    for (int k = 0; k < node->nout; k++) {
        term operand = next_term(&at);
        mth__shape *shape = &node->out[k]->shape;
        int letters = (int)(operand.end - operand.begin), before = operand.ellipsis && ellipsis > 0 ? ellipsis : 0;
        shape->rank = before + letters;
        if (shape->rank > MTH__RANK)
            return mth__row_error(node, F("the result of %s would have %d dimensions", node->op->name, shape->rank),
                F("give tensors whose result has at most %d", MTH__RANK));
        for (int d = 0; d < shape->rank; d++) {
            int factor = d < before ? binding.ellipsis[MTH__RANK - before + d]
                                    : binding.of[(unsigned char)operand.begin[d - before]];
            shape->dim[d] = factor < 0 ? 0 : rule.factor[factor].size;
        }
    }
    return NULL;
}

mth_status mth__infer_same(mth__node *node) {
    for (int k = 0; k < node->nout; k++) node->out[k]->shape = node->in[0]->shape;
    return NULL;
}

/* ---------------------------------------------------------------- flops */
double mth__flops_none(const mth__node *node, const mth__shape *in, const mth__shape *out) {
    (void)node;
    (void)in;
    (void)out;
    return 0;
}
double mth__op_flops(const mth__node *node, const mth__shape *in, const mth__shape *out) {
    if (node->op->flops) return node->op->flops(node, in, out);
    double most = 0;
    for (int k = 0; k < node->nout; k++) {
        double size = (double)mth__shape_size(out[k]);
        if (size > most) most = size;
    }
    return most;
}
