/* contract: a sum of products of two tensors, by an einsum spec. */
#include "catalog/row_tools.h"
#include <stdio.h>
#include <string.h>

/* "bsi,io->bso": where each of the three terms begins, and its length. */
typedef struct {
    const char *at[3];
    int n[3];
} spec_parts;
static spec_parts parts(const char *s) {
    const char *comma = strchr(s, ','), *arrow = strstr(comma, "->");
    return (spec_parts){
        {s, comma + 1, arrow + 2}, {(int)(comma - s), (int)(arrow - comma - 1), (int)strlen(arrow + 2)}};
}
static bool has(const spec_parts *p, int term, char letter) {
    return memchr(p->at[term], letter, (size_t)p->n[term]) != NULL;
}

static bool well_formed(const char *s) {
    const char *comma = s ? strchr(s, ',') : NULL, *arrow = comma ? strstr(comma, "->") : NULL;
    if (!arrow) return false;
    spec_parts p = parts(s);
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < p.n[t]; i++) {
            char c = p.at[t][i];
            if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))) return false;
            /* twice in one term */
            if (memchr(p.at[t], c, (size_t)i)) return false;
            if (has(&p, 0, c) + has(&p, 1, c) + has(&p, 2, c) < 2) return false; /* in one term alone */
        }
    return true;
}
static mth_status infer(mth__node *n) {
    const char *s = n->attrs.spec;
    if (!well_formed(s))
        return mth__row_error(n, F("contract can't read the spec \"%s\"", s ? s : ""),
            F("give \"ab,bc->ac\": letters, none twice in a term, each in at least two of the three terms"));
    return mth__infer_from(n, s);
}
static void rule(const mth__node *n, mth__rule *r) {
    spec_parts p = parts(n->attrs.spec);
    mth__rule_from(n, &(mth__letters){.factors = n->attrs.spec}, r);
    for (int f = 0; f < r->n; f++)
        if (!has(&p, 2, r->factor[f].letter)) r->factor[f].kind = MTH__SUM;
}
FLOPS(contract) {
    spec_parts p = parts(n->attrs.spec);
    double products = (double)mth__shape_size(out[0]);
    for (int d = 0; d < p.n[0]; d++)
        if (!has(&p, 2, p.at[0][d])) products *= (double)in[0].dim[d];
    return 2 * products;
}
/* The derivative by one operand contracts dy with the other: "bsi,io->bso" gives "bso,io->bsi" and "bsi,bso->io". */
GRAD(contract) {
    spec_parts p = parts(n->attrs.spec);
    char spec[3 * MTH__RANK + 4];
    if (WANTED(b, 0)) {
        snprintf(spec, sizeof spec, "%s,%.*s->%.*s", p.at[2], p.n[1], p.at[1], p.n[0], p.at[0]);
        TRY(mth__build_contract(b, spec, dout[0], n->in[1], &din[0]));
    }
    if (WANTED(b, 1)) {
        snprintf(spec, sizeof spec, "%.*s,%s->%.*s", p.n[0], p.at[0], p.at[2], p.n[1], p.at[1]);
        TRY(mth__build_contract(b, spec, n->in[0], dout[0], &din[1]));
    }
    return NULL;
}
const mth__op mth__op_contract = {ROW(contract), .args = "a, b", .results = "y", .attributes = "spec",
    .flags = MTH__PRODUCT | MTH__SUMS, .linear = MTH__LINEAR_EACH, .linear_args = 3, .infer = infer, .rule = rule,
    .grad = grad_contract, .flops = flops_contract, .accumulates = 1,
    .doc = "Einstein's sum by `spec`, \"bsi,io->bso\": letters in both operands and not in the result are summed."};
