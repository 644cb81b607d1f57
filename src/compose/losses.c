/* CrossEntropy, SquaredError: of small rows, so that logits may be split over the vocabulary, the batch over devices
 * and microbatches. */
#include "compose/parts.h"
#include <string.h>

#define REDUCTION                                                                                                      \
    {"reduction", MTH__OPT_CHOICE, "'mean'", "what becomes of the losses of the elements", "mean|sum|none"}

static mth_status reduce(mth__expansion *expansion, mth__value *loss, mth__value **out) {
    const char *how = mth__opt_string(expansion, "reduction");
    if (!strcmp(how, "none")) return *out = loss, NULL;
    unsigned all = (1u << loss->shape.rank) - 1;
    return mth__part_reduce(&expansion->builder, !strcmp(how, "mean") ? MTH__MEAN : MTH__TOTAL, loss, all, false, out);
}

static mth_status shapes_differ(const mth__value *input, const mth__value *target, const char *what, const char *fix) {
    mth_status status = FAIL(MTH_ERROR_VALUE, F("%s", what), F("%s", fix));
    return mth__error_tensor(
        mth__error_tensor(status, mth__port_text("input", input)), mth__port_text("target", target));
}

static mth_status cross_entropy_expand(mth__expansion *expansion) {
    mth__builder *builder = &expansion->builder;
    mth__value *x = expansion->in[0], *labels = expansion->in[1], *value, *picked;
    TRY(mth__need_float(x, "input"));
    TRY(mth__need_rank(x, "input", 1, MTH__RANK));
    TRY(mth__need_ids(labels, "target"));
    int last = x->shape.rank - 1;
    mth__shape lead = x->shape;
    lead.rank = last;
    lead.dim[last] = 0;
    if (!mth__shape_equal(lead, labels->shape))
        return shapes_differ(x, labels, "the targets do not fit the logits",
            "give one class for each row of logits: the shape of input without its last dimension");
    TRY(mth__build1(builder, MTH__ROW_reduce_max, &(mth__attrs){.dimensions = 1 << last, .keep = 1}, x, &value));
    TRY(mth__build1(builder, MTH__ROW_stop, NULL, value, &value)); /* it cancels: no gradient flows through it */
    TRY(mth__build2(builder, MTH__ROW_sub, NULL, x, value, &x));
    TRY(mth__build1(builder, MTH__ROW_exp, NULL, x, &value));
    TRY(mth__build1(builder, MTH__ROW_reduce_sum, &(mth__attrs){.dimensions = 1 << last}, value, &value));
    TRY(mth__build1(builder, MTH__ROW_log, NULL, value, &value));
    TRY(mth__build2(builder, MTH__ROW_pick, NULL, x, labels, &picked));
    TRY(mth__build2(builder, MTH__ROW_sub, NULL, value, picked, &value));
    return reduce(expansion, value, &expansion->out[0]);
}

const mth__module_type mth__type_CrossEntropy = {
    .name = "CrossEntropy",
    .inputs = "input, target",
    .outputs = "output",
    .integers = "target",
    .options = (const mth__opt[]){REDUCTION, {0}},
    .doc = "-log softmax(input)[target]: input[..., v] (logits), target[...] (int32 or int64 classes) -> output, a "
           "scalar for mean and "
           "sum, [...] for none. Logits that are split over v stay split.",
    .parameters = "",
    .expand = cross_entropy_expand,
};

static mth_status squared_error_expand(mth__expansion *expansion) {
    mth__value *value;
    for (int i = 0; i < 2; i++) TRY(mth__need_float(expansion->in[i], i ? "target" : "input"));
    if (!mth__shape_equal(expansion->in[0]->shape, expansion->in[1]->shape))
        return shapes_differ(
            expansion->in[0], expansion->in[1], "input and target have different shapes", "give both the same shape");
    TRY(mth__build2(&expansion->builder, MTH__ROW_sub, NULL, expansion->in[0], expansion->in[1], &value));
    TRY(mth__build1(&expansion->builder, MTH__ROW_square, NULL, value, &value));
    return reduce(expansion, value, &expansion->out[0]);
}

const mth__module_type mth__type_SquaredError = {
    .name = "SquaredError",
    .inputs = "input, target",
    .outputs = "output",
    .options = (const mth__opt[]){REDUCTION, {0}},
    .doc = "(input - target)^2: input[...], target[...] -> output, a scalar for mean and sum, [...] for none.",
    .parameters = "",
    .expand = squared_error_expand,
};
