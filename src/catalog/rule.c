/* What follows from the factors of a row: rules, shapes, flops. */
#include "catalog/row_tools.h"
#include <string.h>

/* ---------------------------------------------------------------- rules */
int mth__rule_factor(mth__rule *r, int64_t size, mth__factor_kind kind) {
    int f = r->n++;
    r->factor[f].size = size;
    r->factor[f].kind = kind;
    r->factor[f].letter = (char)('a' + f);
    r->factor[f].positional = false;
    return f;
}

static void clear(int8_t *factor, int32_t *unit, int rank) {
    for (int d = 0; d < rank; d++) {
        factor[d] = -1;
        unit[d] = 1;
    }
}
void mth__rule_begin(const mth__node *n, mth__rule *r) {
    r->n = 0;
    for (int j = 0; j < n->nin; j++) clear(r->in[j], r->in_unit[j], n->in[j]->shape.rank);
    for (int k = 0; k < n->nout; k++) clear(r->out[k], r->out_unit[k], n->out[k]->shape.rank);
}

void mth__rule_along(const mth__node *n, unsigned whole, mth__rule *r) {
    mth__rule_begin(n, r);
    mth__shape s = n->out[0]->shape;
    for (int d = 0; d < s.rank; d++) {
        int f = mth__rule_factor(r, s.dim[d], whole >> d & 1 ? MTH__WHOLE : MTH__PASS);
        for (int j = 0; j < n->nin; j++)
            if (d < n->in[j]->shape.rank) r->in[j][d] = (int8_t)f;
        for (int k = 0; k < n->nout; k++)
            if (d < n->out[k]->shape.rank) r->out[k][d] = (int8_t)f;
    }
}

/* "*": NumPy's broadcasting. Dimensions are aligned at the right; one of size 1 against a larger one belongs to no
 * factor. */
static void broadcasting(const mth__node *n, mth__rule *r) {
    mth__shape s = n->out[0]->shape;
    mth__rule_begin(n, r);
    for (int d = 0; d < s.rank; d++) {
        mth__rule_factor(r, s.dim[d], MTH__PASS);
        for (int k = 0; k < n->nout; k++) r->out[k][d] = (int8_t)d;
    }
    for (int j = 0; j < n->nin; j++) {
        int skip = s.rank - n->in[j]->shape.rank;
        for (int d = 0; d < n->in[j]->shape.rank; d++)
            if (n->in[j]->shape.dim[d] == s.dim[d + skip]) r->in[j][d] = (int8_t)(d + skip);
    }
}

/* One operand of a spec: [begin, end) are letters, before them an ellipsis or not. */
typedef struct {
    const char *begin, *end;
    bool ellipsis;
} term;
static term next_term(const char **at) {
    term t = {*at, *at, false};
    if (t.begin[0] == '.') {
        t.ellipsis = true;
        t.begin += 3;
    }
    for (t.end = t.begin; *t.end && *t.end != ',' && *t.end != '-'; t.end++) {}
    *at = *t.end == ',' ? t.end + 1 : t.end;
    return t;
}
static const char *after_arrow(const char *factors) { return strstr(factors, "->") + 2; }

typedef struct {
    int8_t of[128];
    int8_t ellipsis[MTH__RANK];
    mth__rule *rule;
    const mth__letters *letters;
} letter_binding;

static mth__factor_kind kind_of(const mth__letters *l, char letter) {
    if (l->sum && strchr(l->sum, letter)) return MTH__SUM;
    if (l->whole && strchr(l->whole, letter)) return MTH__WHOLE;
    if (l->max && strchr(l->max, letter)) return MTH__MAX;
    return MTH__PASS;
}
/* Ties the dimensions of one operand to factors; returns the dimension whose size contradicts its factor, or -1. */
static int tie(letter_binding *b, term t, mth__shape s, int8_t *factor, int32_t *unit) {
    mth__rule *r = b->rule;
    int letters = (int)(t.end - t.begin), before = s.rank - letters, wrong = -1;
    for (int d = 0; d < s.rank; d++) {
        int8_t *f = d < before ? &b->ellipsis[MTH__RANK - before + d] : &b->of[(unsigned char)t.begin[d - before]];
        if (*f < 0) {
            char letter = d < before ? '.' : t.begin[d - before];
            *f = (int8_t)mth__rule_factor(r, s.dim[d], kind_of(b->letters, letter));
            r->factor[*f].letter = d < before ? (char)('0' + d) : letter;
            r->factor[*f].positional = b->letters->positional && strchr(b->letters->positional, letter);
        } else if (r->factor[*f].size != s.dim[d] && wrong < 0)
            wrong = d;
        factor[d] = *f;
        unit[d] = 1;
    }
    return wrong;
}

void mth__rule_from(const mth__node *n, const mth__letters *l, mth__rule *r) {
    if (l->factors[0] == '*') {
        broadcasting(n, r);
        return;
    }
    letter_binding b = {.rule = r, .letters = l};
    memset(b.of, -1, sizeof b.of);
    memset(b.ellipsis, -1, sizeof b.ellipsis);
    r->n = 0;
    const char *at = l->factors;
    for (int j = 0; j < n->nin; j++) tie(&b, next_term(&at), n->in[j]->shape, r->in[j], r->in_unit[j]);
    at = after_arrow(l->factors);
    for (int k = 0; k < n->nout; k++) tie(&b, next_term(&at), n->out[k]->shape, r->out[k], r->out_unit[k]);
}

void mth__op_rule(const mth__node *n, mth__rule *r) {
    const mth__op *op = n->op;
    mth__node row = *n;
    row.nin = mth__row_operands(op, n->nin, n->accumulates);
    if (op->rule)
        op->rule(&row, r);
    else
        mth__rule_from(&row, &(mth__letters){op->factors, op->sum, op->max, op->whole, op->positional}, r);
    for (int k = 0; n->accumulates && k < n->nout; k++) {
        const int j = mth__accumulator(op, n->nin, k);
        if (j < 0) continue;
        memcpy(r->in[j], r->out[k], sizeof r->in[j]);
        memcpy(r->in_unit[j], r->out_unit[k], sizeof r->in_unit[j]);
    }
}

/* ---------------------------------------------------------------- shapes from factors */
static mth_status infer_broadcast(mth__node *n) {
    mth__shape s = n->in[0]->shape;
    for (int j = 1; j < n->nin; j++) {
        mth__shape a = s, b = n->in[j]->shape;
        if (a.rank < b.rank) {
            mth__shape t = a;
            a = b;
            b = t;
        }
        s = a;
        for (int d = 0; d < b.rank; d++) {
            int64_t *have = &s.dim[a.rank - b.rank + d], other = b.dim[d];
            if (*have == other || other == 1) continue;
            if (*have != 1)
                return mth__row_error(n,
                    F("the operands of %s can't be broadcast together: counted from the last dimension, number %d is "
                      "%lld in one and %lld "
                      "in another",
                        n->op->name, b.rank - d, (long long)*have, (long long)other),
                    F("give operands whose dimensions, aligned at the right, are equal or 1"));
            *have = other;
        }
    }
    for (int k = 0; k < n->nout; k++) n->out[k]->shape = s;
    return NULL;
}

static mth_status contradiction(const mth__node *n, const mth__rule *r, const char *factors, int j, int d) {
    int f = r->in[j][d];
    char room[2][24];
    for (int i = 0; i < j; i++)
        for (int e = 0; e < n->in[i]->shape.rank; e++) {
            if (r->in[i][e] != f) continue;
            const char *first = mth__arg_name(n->op, i, room[0]), *second = mth__arg_name(n->op, j, room[1]);
            long long x = (long long)n->in[i]->shape.dim[e], y = (long long)n->in[j]->shape.dim[d];
            return mth__row_error(n,
                F("dimension %d of %s is %lld, dimension %d of %s is %lld: %s needs them equal (%s)", e, first, x, d,
                    second, y, n->op->name, factors),
                F("make dimension %d of %s %lld, or dimension %d of %s %lld", d, second, x, e, first, y));
        }
    return mth__row_error(n, F("two dimensions of operand %d of %s, tied by %s, differ", j, n->op->name, factors),
        F("give a tensor in which they are equal"));
}

mth_status mth__infer_from(mth__node *n, const char *factors) {
    if (factors[0] == '*') return infer_broadcast(n);
    mth__rule r;
    const mth__letters none = {.factors = factors};
    letter_binding b = {.rule = &r, .letters = &none};
    memset(b.of, -1, sizeof b.of);
    memset(b.ellipsis, -1, sizeof b.ellipsis);
    r.n = 0;
    int ellipsis = -1, first = 0;
    const char *at = factors;
    for (int j = 0; j < n->nin; j++) {
        term t = next_term(&at);
        int before = n->in[j]->shape.rank - (int)(t.end - t.begin);
        char room[2][24];
        if (before < 0 || (before > 0 && !t.ellipsis)) {
            int letters = (int)(t.end - t.begin);
            return mth__row_error(n,
                F("%s of %s has %d dimensions; %s needs %s%d", mth__arg_name(n->op, j, room[0]), n->op->name,
                    n->in[j]->shape.rank, factors, t.ellipsis ? "at least " : "", letters),
                F("give a tensor of %s%d dimensions", t.ellipsis ? "at least " : "", letters));
        }
        if (t.ellipsis && ellipsis >= 0 && before != ellipsis) {
            int wanted = ellipsis + (int)(t.end - t.begin);
            return mth__row_error(n,
                F("%s of %s has %d dimensions, but with %s as it is it needs %d (%s)", mth__arg_name(n->op, j, room[0]),
                    n->op->name, n->in[j]->shape.rank, mth__arg_name(n->op, first, room[1]), wanted, factors),
                F("give a tensor of %d dimensions", wanted));
        }
        if (t.ellipsis && ellipsis < 0) {
            ellipsis = before;
            first = j;
        }
        int wrong = tie(&b, t, n->in[j]->shape, r.in[j], r.in_unit[j]);
        if (wrong >= 0) return contradiction(n, &r, factors, j, wrong);
    }
    at = after_arrow(factors);
    for (int k = 0; k < n->nout; k++) {
        term t = next_term(&at);
        mth__shape *s = &n->out[k]->shape;
        int letters = (int)(t.end - t.begin), before = t.ellipsis && ellipsis > 0 ? ellipsis : 0;
        s->rank = before + letters;
        if (s->rank > MTH__RANK)
            return mth__row_error(n, F("the result of %s would have %d dimensions", n->op->name, s->rank),
                F("give tensors whose result has at most %d", MTH__RANK));
        for (int d = 0; d < s->rank; d++) {
            int f = d < before ? b.ellipsis[MTH__RANK - before + d] : b.of[(unsigned char)t.begin[d - before]];
            s->dim[d] = f < 0 ? 0 : r.factor[f].size;
        }
    }
    return NULL;
}

mth_status mth__infer_same(mth__node *n) {
    for (int k = 0; k < n->nout; k++) n->out[k]->shape = n->in[0]->shape;
    return NULL;
}

/* ---------------------------------------------------------------- flops */
double mth__flops_none(const mth__node *n, const mth__shape *in, const mth__shape *out) {
    (void)n;
    (void)in;
    (void)out;
    return 0;
}
double mth__op_flops(const mth__node *n, const mth__shape *in, const mth__shape *out) {
    if (n->op->flops) return n->op->flops(n, in, out);
    double most = 0;
    for (int k = 0; k < n->nout; k++) {
        double size = (double)mth__shape_size(out[k]);
        if (size > most) most = size;
    }
    return most;
}
