/* contract: a sum of products of two tensors, by an einsum spec. */
#include "catalog/row_tools.h"
#include <stdio.h>
#include <string.h>

/* "bsi,io->bso": where each of the three terms begins, and its length. */
typedef struct {
    const char *at[3];
    int n[3];
} spec_parts;
static spec_parts parts(const char *spec) {
    const char *comma = strchr(spec, ','), *arrow = strstr(comma, "->");
    return (spec_parts){
        {spec, comma + 1, arrow + 2}, {(int)(comma - spec), (int)(arrow - comma - 1), (int)strlen(arrow + 2)}};
}
static bool has(const spec_parts *parts, int term, char letter) {
    return memchr(parts->at[term], letter, (size_t)parts->n[term]) != NULL;
}

static bool well_formed(const char *spec) {
    const char *comma = spec ? strchr(spec, ',') : NULL, *arrow = comma ? strstr(comma, "->") : NULL;
    if (!arrow) return false;
    spec_parts terms = parts(spec);
    for (int term = 0; term < 3; term++)
        for (int i = 0; i < terms.n[term]; i++) {
            char letter = terms.at[term][i];
            if (!((letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z'))) return false;
            /* twice in one term */
            if (memchr(terms.at[term], letter, (size_t)i)) return false;
            if (has(&terms, 0, letter) + has(&terms, 1, letter) + has(&terms, 2, letter) < 2)
                return false; /* in one term alone */
        }
    return true;
}
static mth_status infer(mth__node *node) {
    const char *spec = node->attrs.spec;
    if (!well_formed(spec))
        return mth__row_error(node, F("contract can't read the spec \"%s\"", spec ? spec : ""),
            F("give \"ab,bc->ac\": letters, none twice in a term, each in at least two of the three terms"));
    return mth__infer_from(node, spec);
}
static void rule(const mth__node *node, mth__rule *out) {
    spec_parts terms = parts(node->attrs.spec);
    mth__rule_from(node, &(mth__letters){.factors = node->attrs.spec}, out);
    for (int i = 0; i < out->n; i++)
        if (!has(&terms, 2, out->factor[i].letter)) out->factor[i].kind = MTH__SUM;
}
FLOPS(contract) {
    spec_parts terms = parts(node->attrs.spec);
    double products = (double)mth__shape_size(out[0]);
    for (int d = 0; d < terms.n[0]; d++)
        if (!has(&terms, 2, terms.at[0][d])) products *= (double)in[0].dim[d];
    return 2 * products;
}
/* The derivative by one operand contracts dy with the other: "bsi,io->bso" gives "bso,io->bsi" and "bsi,bso->io". */
GRAD(contract) {
    spec_parts terms = parts(node->attrs.spec);
    char spec[3 * MTH__RANK + 4];
    if (WANTED(builder, 0)) {
        snprintf(spec, sizeof spec, "%s,%.*s->%.*s", terms.at[2], terms.n[1], terms.at[1], terms.n[0], terms.at[0]);
        TRY(mth__build_contract(builder, spec, dout[0], node->in[1], &din[0]));
    }
    if (WANTED(builder, 1)) {
        snprintf(spec, sizeof spec, "%.*s,%s->%.*s", terms.n[0], terms.at[0], terms.at[2], terms.n[1], terms.at[1]);
        TRY(mth__build_contract(builder, spec, node->in[0], dout[0], &din[1]));
    }
    return NULL;
}
const mth__op mth__op_contract = {ROW(contract), .args = "a, b", .results = "y", .attributes = "spec",
    .flags = MTH__PRODUCT | MTH__SUMS, .linear = MTH__LINEAR_EACH, .linear_args = 3, .infer = infer, .rule = rule,
    .grad = grad_contract, .flops = flops_contract, .accumulates = 1,
    .doc = "Einstein's sum by `spec`, \"bsi,io->bso\": letters in both operands and not in the result are summed."};
