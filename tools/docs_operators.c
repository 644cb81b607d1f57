/* Writes docs/operators.md from the catalog.
 *
 *     docs_operators            prints the page
 *     docs_operators FILE       fails where FILE is not the page; with MITHRIL_UPDATE_GOLDEN set, writes it
 */
#include "catalog/op.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char head[] =
    "# Operators\n"
    "\n"
    "<!-- Written by tools/docs_operators.c from src/catalog: `make update-golden` renews it. -->\n"
    "\n"
    "The rows of the catalog: what modules expand into, what engines have kernels for. Letters are *factors*: a letter "
    "that operands share\n"
    "ties their dimensions. A factor may be split over devices, and how it may is what a row says of it:\n"
    "\n"
    "- a plain factor: each device computes its part;\n"
    "- **sum**, **max**: results that lack the letter become partial, to be combined over the devices;\n"
    "- **whole**: may not be split.\n"
    "\n"
    "`...` is any number of dimensions, `*` NumPy's broadcasting. *Linear in* x: where x is a partial sum, so is the "
    "result, and the\n"
    "combination can wait; *together*: if all those operands are. A row without a gradient ends what can be "
    "differentiated.\n"
    "What *may add to a sum so far* does, in sums of gradients and over microbatches, where the sum lies:\n"
    "`contract x, dy into %5`.\n"
    "\n"
    "Operands are floating, all of one dtype, and so are the results, where a row says nothing else. A row that *adds "
    "elements up* does so\n"
    "in the *dtype of sums*: float32 where the operands have 16 bits, else their own dtype. Each element of a result "
    "is "
    "rounded once.\n";

/* "axis:i0, epsilon:f0" without the slots; what numbers a shape or a permutation as one name. */
static void add_attributes(mth__text *text, const char *names) {
    if (!names) return;
    const char *separator = "\n- attributes: ";
    bool listed = false;
    for (const char *s = names; *s; s += strcspn(s, ","), s += strspn(s, ", ")) {
        size_t n = strcspn(s, ",");
        bool numbered = n == 2 && s[1] >= '0' && s[1] <= '9';
        if (numbered && listed) continue;
        mth__text_add(text, "%s%.*s%s", separator, numbered ? 1 : (int)n, s, numbered ? "..." : "");
        listed |= numbered;
        separator = ", ";
    }
}
/* Those of a row's operands or results that have a bit. */
static void add_names(mth__text *text, const char *names, uint64_t bits, const char *before, const char *after) {
    const char *s = names, *separator = before;
    for (int j = 0; *s; j++, s += strcspn(s, ","), s += strspn(s, ", ")) {
        if (!(bits >> j & 1)) continue;
        mth__text_add(text, "%s%.*s", separator, (int)strcspn(s, ",?*"), s);
        separator = ", ";
    }
    if (separator != before) mth__text_add(text, "%s", after);
}
static void add_linear(mth__text *text, const mth__op *op) {
    if (op->linear == MTH__LINEAR_NONE) return;
    add_names(text, op->args, op->linear_args, "\n- linear in ", op->linear == MTH__LINEAR_JOINT ? ", together" : "");
}
static void add_accumulates(mth__text *text, const mth__op *op) {
    add_names(text, op->results, op->accumulates, "\n- may add to a sum so far: ", "");
}
/* The dtypes of operands and results, where they are not simply one floating dtype. */
static void add_dtypes(mth__text *text, const mth__op *op) {
    static const char *const words[] = {[MTH__TYPE_SUM] = " in the dtype of sums",
        [MTH__TYPE_ATTRIBUTE] = " in the dtype that is asked for",
        [MTH__TYPE_FLOAT32] = " as float32",
        [MTH__TYPE_INT32] = " as int32",
        [MTH__TYPE_BOOL] = " as bool"};
    add_names(text, op->args, op->any_args, "\n- takes ", " of any dtype");
    add_names(
        text, op->args, op->index_args, "\n- takes ", op->flags & MTH__WIDE_IDS ? " as int32 or int64" : " as int32");
    add_names(text, op->args, op->mask_args, "\n- takes ", " as bool, int32 or floating");
    add_names(text, op->args, op->sum_args, "\n- takes ", " in the dtype of sums");
    for (int type = MTH__TYPE_SUM; type <= MTH__TYPE_BOOL; type++) {
        uint64_t bits = 0;
        for (int k = 0; k < MTH__MAX_OUT; k++) bits |= (uint64_t)(op->types[k] == (mth__type_rule)type) << k;
        add_names(text, op->results, bits, "\n- gives ", words[type]);
    }
    if (op->flags & MTH__SUMS) mth__text_add(text, "\n- adds elements up");
}
static void add_row(mth__text *text, const mth__op *op) {
    mth__text_add(text, "\n### %s\n\n`%s(%s) -> %s`\n\n%s\n", op->name, op->name, op->args, op->results, op->doc);
    size_t before = text->n;
    if (op->factors) mth__text_add(text, "\n- factors: `%s`", op->factors);
    if (op->sum) mth__text_add(text, ", sum `%s`", op->sum);
    if (op->max) mth__text_add(text, ", max `%s`", op->max);
    if (op->whole) mth__text_add(text, ", whole `%s`", op->whole);
    add_attributes(text, op->attributes);
    add_dtypes(text, op);
    add_linear(text, op);
    add_accumulates(text, op);
    if (!op->grad && !(op->flags & MTH__COMM)) mth__text_add(text, "\n- no gradient");
    if (text->n > before) mth__text_add(text, "\n");
}

static mth_status page(void *out) {
    mth__arena *arena = mth__arena_new();
    mth__text text = mth__text_new(arena);
    mth__text_add(&text, "%s", head);
    for (int communication = 0; communication < 2; communication++) {
        mth__text_add(&text, "\n## %s\n", communication ? "Communication, made by the planner" : "Computation");
        for (size_t i = 0; i < mth__op_count(); i++)
            if (!!(mth__op_at(i)->flags & MTH__COMM) == communication) add_row(&text, mth__op_at(i));
    }
    *(char **)out = mth__text_publish(&text);
    mth__arena_free(arena);
    return NULL;
}

static bool same(const char *path, const char *text) {
    FILE *file = fopen(path, "r");
    if (!file) return false;
    size_t at = 0;
    int c;
    while ((c = getc(file)) != EOF && text[at] && c == (unsigned char)text[at]) at++;
    fclose(file);
    return c == EOF && !text[at];
}

int main(int argc, char **argv) {
    char *text = NULL;
    MTH_CHECK(mth__guard(page, &text));
    if (!text) return 1;
    int result = 0;
    if (argc < 2) {
        fputs(text, stdout);
    } else if (getenv("MITHRIL_UPDATE_GOLDEN")) {
        FILE *file = fopen(argv[1], "w");
        result = !file || fputs(text, file) < 0 || fclose(file);
    } else if (!same(argv[1], text)) {
        fprintf(stderr, "%s is stale: run make update-golden\n", argv[1]);
        result = 1;
    }
    mth_text_free(text);
    return result;
}
