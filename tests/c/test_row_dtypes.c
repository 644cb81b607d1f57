/* The dtypes of every row: what its results have, and what each engine does with operands of each dtype. An engine runs
 * a node, or the error names the operand, its dtype and a fix, which is applied and runs. */
#include "compile.h"
#include "elements.h"
#include "unit.h"
#undef ROW
#include "operator_examples.h"

static const mth_dtype floats[] = {MTH_FLOAT32, MTH_FLOAT64, MTH_BFLOAT16, MTH_FLOAT16};
enum { FLOATS = sizeof floats / sizeof *floats };
static const mth__engine_vtable *const engines[] = {
    &mth__engine_native, &mth__engine_reference, &mth__engine_pjrt, &mth__engine_torch};
enum { ENGINES = sizeof engines / sizeof *engines };

/* ---------------------------------------------------------------- an example as a graph of one node */
static mth__arena *arena;
typedef struct {
    mth__graph *graph;
    mth__node *node;
} made;
static mth_status make(const example *of, const mth__attrs *attrs, const mth_dtype *dtype, made *to) {
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 1, (int64_t[]){1}, &mesh));
    to->graph = mth__graph_new(arena, mesh);
    mth__value *in[MTH__MAX_IN], *out[MTH__MAX_OUT];
    int nin = 0;
    for (const char *at = of->shapes; at; at = *at ? at + 1 : NULL, nin++) {
        mth__shape shape = {0};
        for (; *at && *at != ','; at++) shape.dim[shape.rank++] = size[(int)*at];
        in[nin] = mth__graph_value(to->graph, MTH__VALUE_INPUT, mth__format(arena, "in%d", nin), dtype[nin], shape);
    }
    mth__builder builder = {.graph = to->graph, .label = mth__label_outside("example", MTH__FORWARD)};
    TRY(mth__build(&builder, of->row, attrs, nin, in, out));
    to->node = out[0]->node;
    return NULL;
}
static mth__attrs draw_example(const example *of, mth_dtype *dtype) {
    draw_sizes(5);
    size['e'] = draw(2, 5);
    size['k'] = draw(1, 2);
    mth__attrs attrs = {.spec = of->spec};
    if (of->attrs) of->attrs(size, &attrs);
    for (int j = 0; of->kinds[j] && of->kinds[j] != '>'; j++) dtype[j] = dtype_of(of, j);
    return attrs;
}
static void complain(const example *of, const char *what, const char *more) {
    unit_failures++;
    if (unit_failures < 30)
        printf("  %s of %s: %s: %s\n", mth__op_at(of->row)->name, mth_dtype_name(floating), what, more);
}
/* Every example with floating operands of each dtype, some draws of each. */
typedef mth_status visit(const example *, const mth__attrs *, mth_dtype *dtype);
static mth_status visit_all(void *argument) {
    visit *one = *(visit **)argument;
    for (int x = 0; x < EXAMPLES; x++)
        for (int i = 0; i < FLOATS * 6; i++) {
            srand((unsigned)(x * 1000 + i));
            arena = mth__arena_new();
            floating = floats[i % FLOATS];
            mth_dtype dtype[MTH__MAX_IN];
            const mth__attrs attrs = draw_example(&examples[x], dtype);
            TRY(one(&examples[x], &attrs, dtype));
            mth__arena_free(arena);
        }
    return NULL;
}
static void all(visit *one) { CHECK_STATUS(mth__guard(visit_all, &one)); }

/* ---------------------------------------------------------------- results */
/* Said once more, row by row, for those whose results don't all have the dtype of the floating operands. */
static mth_dtype expected_dtype(const example *of, const mth__attrs *attrs, const mth_dtype *dtype, int result) {
    const mth_dtype wide = floating == MTH_FLOAT64 ? MTH_FLOAT64 : MTH_FLOAT32;
    switch (of->row) {
    case MTH__ROW_cast: return (mth_dtype)attrs->dtype;
    case MTH__ROW_mask: return MTH_BOOL;
    case MTH__ROW_sinusoid:
    case MTH__ROW_moe_count: return MTH_FLOAT32;
    case MTH__ROW_moe_capacity:
    case MTH__ROW_moe_rows: return MTH_INT32;
    case MTH__ROW_moe_route: return result ? MTH_INT32 : floating;
    case MTH__ROW_layer_norm:
    case MTH__ROW_rms_norm:
    case MTH__ROW_attention: return result ? wide : floating;
    case MTH__ROW_gather_grad:
    case MTH__ROW_pick_grad: return dtype[1];
    default: return dtype[0];
    }
}
static mth_status check_results(const example *of, const mth__attrs *attrs, mth_dtype *dtype) {
    made as;
    TRY(make(of, attrs, dtype, &as));
    for (int k = 0; k < as.node->nout; k++)
        if (as.node->out[k]->dtype != expected_dtype(of, attrs, dtype, k))
            complain(of, "a result's dtype", mth_dtype_name(as.node->out[k]->dtype));
    return NULL;
}
TEST(results_have_the_declared_dtypes) { all(check_results); }

/* ---------------------------------------------------------------- refusals */
static int operand_called(const mth__op *op, int nin, const char *name, size_t length) {
    for (int j = 0; j < nin; j++) {
        char room[24];
        const char *has = mth__arg_name(op, j, room);
        if (strlen(has) == length && !memcmp(has, name, length)) return j;
    }
    return -1;
}
static mth_dtype dtype_called(const char *text) {
    char name[16] = {0};
    memcpy(name, text, strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789") % sizeof name);
    return mth_dtype_find(name);
}
/* Does as "give x, weight as float32, mean as float64" says; an operand that repeats (xs) stands for all of it. */
static bool apply_fix(const char *fix, const mth__op *op, int nin, mth_dtype *dtype) {
    bool waiting[MTH__MAX_IN] = {false};
    if (strncmp(fix, "give ", 5)) return false;
    for (const char *at = fix + 5; *at;) {
        const size_t length = strcspn(at, ", ");
        const int j = operand_called(op, nin, at, length);
        if (j < 0) return false;
        for (int i = j; i < nin && (i == j || strchr(op->args, '*')); i++) waiting[i] = true;
        at += length;
        if (!strncmp(at, " as ", 4)) {
            const mth_dtype to = dtype_called(at + 4);
            if (!to) return false;
            for (int i = 0; i < nin; i++)
                if (waiting[i]) dtype[i] = to, waiting[i] = false;
            at += 4 + strlen(mth_dtype_name(to));
        }
        at += strspn(at, ", ");
    }
    for (int i = 0; i < nin; i++)
        if (waiting[i]) return false;
    return true;
}
/* The operand that the error names is one whose dtype it tells. */
static bool names_operand(const char *what, const mth__node *node) {
    for (int j = 0; j < node->nin; j++) {
        char room[24], text[128];
        mth__print(text, sizeof text, "%s of %s is %s: ", mth__arg_name(node->op, j, room), node->op->name,
            mth_dtype_name(node->in[j]->dtype));
        if (!strncmp(what, text, strlen(text))) return true;
    }
    return false;
}
static int refused, ran;
static mth_status check_engines(const example *of, const mth__attrs *attrs, mth_dtype *dtype) {
    for (int e = 0; e < ENGINES; e++) {
        made as, other;
        TRY(make(of, attrs, dtype, &as));
        mth_status error = mth__check_kernels(as.graph, engines[e]);
        if (!error) {
            ran++;
            continue;
        }
        refused++;
        if (floating == MTH_FLOAT32) complain(of, "refused", mth_error_get_message(error));
        if (mth_error_get_code(error) != MTH_ERROR_UNSUPPORTED || !names_operand(mth_error_get_what(error), as.node))
            complain(of, "the operand is not named", mth_error_get_message(error));
        mth_dtype fixed[MTH__MAX_IN];
        memcpy(fixed, dtype, sizeof fixed);
        if (!apply_fix(mth_error_get_fix(error), as.node->op, as.node->nin, fixed))
            complain(of, "the fix can't be read", mth_error_get_fix(error));
        mth_status again = make(of, attrs, fixed, &other);
        if (!again) again = mth__check_kernels(other.graph, engines[e]);
        if (again) complain(of, "the fix doesn't help", mth_error_get_message(again));
        mth_error_free(again);
        mth_error_free(error);
    }
    return NULL;
}
TEST(an_engine_runs_a_row_or_names_operand_and_fix) {
    refused = ran = 0;
    all(check_engines);
    printf("  %d nodes run, %d refused\n", ran, refused);
    CHECK(ran > 0 && refused > 0);
}

/* ---------------------------------------------------------------- what the catalog refuses, by itself */
static int other_class(mth_dtype from, mth_dtype *to) { /* dtypes that `from` may be mistaken for */
    int n = 0;
    for (int d = 1; d < MTH__DTYPE_COUNT; d++)
        if ((mth_dtype)d != from) to[n++] = (mth_dtype)d;
    return n;
}
static mth_status check_mistakes(const example *of, const mth__attrs *attrs, mth_dtype *dtype) {
    made as;
    TRY(make(of, attrs, dtype, &as));
    const mth__op *op = as.node->op;
    const int nin = as.node->nin;
    for (int j = 0; j < nin; j++) {
        mth_dtype others[MTH__DTYPE_COUNT], wrong[MTH__MAX_IN];
        for (int i = 0, n = other_class(dtype[j], others); i < n; i++) {
            memcpy(wrong, dtype, sizeof wrong);
            wrong[j] = others[i];
            mth_status error = make(of, attrs, wrong, &as);
            if (!error) continue;
            const char *fix = mth_error_get_fix(error);
            if (mth_error_get_code(error) != MTH_ERROR_TYPE || !strstr(mth_error_get_what(error), op->name))
                complain(of, "no error of a type", mth_error_get_message(error));
            const mth_dtype to = strstr(fix, " as ") ? dtype_called(strstr(fix, " as ") + 4) : (mth_dtype)0;
            if (!to) complain(of, "a fix without a dtype", fix);
            for (int k = 0; k < nin; k++) /* "it": the operand that was changed; "both", "all": the floating ones */
                if (!strncmp(fix, "give it", 7) ? k == j : mth__is_float(wrong[k]) || op->any_args >> k & 1)
                    wrong[k] = op->sum_args >> k & 1 ? mth__dtypes[to].sums : to;
            mth_status again = make(of, attrs, wrong, &as);
            if (again) complain(of, fix, mth_error_get_message(again));
            mth_error_free(again);
            mth_error_free(error);
        }
    }
    return NULL;
}
TEST(a_wrong_dtype_has_a_fix_that_works) { all(check_mistakes); }
RUN()
