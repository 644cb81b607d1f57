/* What the types of modules share: options they have in common, checks of operands, small graphs. */
#ifndef MTH__PARTS_H
#define MTH__PARTS_H
#include "compose/compose.h"

/* Every type, in the order in which they are listed. */
/* clang-format off */
#define MTH__TYPES(X) \
    X(Linear) X(Embedding) X(PositionalEncoding) X(LayerNorm) X(RMSNorm) X(Dropout) X(FeedForward) \
    X(MultiHeadAttention) X(MoE) X(Pipeline) X(Relu) X(Gelu) X(Silu) X(Sigmoid) X(Tanh) X(Softmax) X(Identity) \
    X(Add) X(Subtract) X(Multiply) X(Divide) X(MatMul) X(Concat) X(Split) X(Slice) X(Reshape) X(Transpose) \
    X(Mean) X(Sum) X(Max) X(CrossEntropy) X(SquaredError)
/* clang-format on */
#define X(name) extern const mth__module_type mth__type_##name;
MTH__TYPES(X)
#undef X

/* Rows of option tables. */
#define MTH__SHARD_SPECS                                                                                               \
    {"shard_specs", MTH__OPT_DICT, "{}",                                                                               \
        "how parameters are split, by name: {'weight': (0, None)}; an entry per dimension: a mesh axis, a tuple of "   \
        "axes, or None",                                                                                               \
        NULL}
#define MTH__WEIGHT_SPEC(doc) {"weight_shard_spec", MTH__OPT_SPEC, "None", doc, NULL}
#define MTH__SHARED_WEIGHT                                                                                             \
    {"weight", MTH__OPT_STRING, "None",                                                                                \
        "the full name of another module's parameter ('embed.weight') that is the weight: one tensor, held once, "     \
        "with "                                                                                                        \
        "one gradient; transposed where one of the two is a table (a row for each id) and the other is none",          \
        NULL}
#define MTH__TENSOR_AXIS(doc) {"tensor_axis", MTH__OPT_INT, "None", doc, NULL}
#define MTH__ACTIVATION                                                                                                \
    {"activation", MTH__OPT_CHOICE, "'gelu'", "the function between the two products; gelu is exact",                  \
        "gelu|gelu_tanh|relu|silu"}

/* Options, once read. */
bool mth__opt_bool(const mth__expansion *, const char *name);
int64_t mth__opt_int(const mth__expansion *, const char *name, int64_t where_none); /* SIZE and INT */
double mth__opt_float(const mth__expansion *, const char *name);
const char *mth__opt_string(const mth__expansion *, const char *name);
const char *mth__module_sharded(const mth_module *); /* the option that splits its parameters, or NULL */
mth_status mth__name_check(const char *name, const char *what);

/* Operands. `port` names them in errors. */
char *mth__port_text(const char *port, const mth__value *); /* "input: int32 (4, 8)", for mth__error_tensor */
mth_status mth__need_float(const mth__value *, const char *port);
mth_status mth__need_ids(const mth__value *, const char *port);
mth_status mth__need_rank(const mth__value *, const char *port, int least, int most);
/* A dimension as the user counts it (-1 is the last) -> 0 .. rank - 1. */
mth_status mth__need_axis(const mth__value *, const char *port, const char *option, int64_t axis, int *out);
mth_status mth__product(int64_t a, int64_t b, const char *what, int64_t *out); /* refuses what doesn't fit */
mth_status mth__check_base(const mth_module *, const char *option);            /* of angles: above 0 */
mth_status mth__check_one_spec(const mth_module *); /* weight_shard_spec or tensor_axis, not both */

/* Small graphs. */
mth_status mth__part_reshape(mth__builder *, mth__value *x, mth__shape shape, mth__value **out);
typedef enum { MTH__TOTAL, MTH__MEAN, MTH__MAXIMUM } mth__reduction_kind;
mth_status mth__part_reduce(
    mth__builder *, mth__reduction_kind, mth__value *x, unsigned dims, bool keep, mth__value **out);

/* x[..., in] -> x weight + bias, with the parameters "<prefix>weight" (in, width) and, if wanted, "<prefix>bias"
   (width,). axis_in, axis_out: a mesh axis that splits the dimension (tensor_axis), or -1; grain_in, grain_out:
   elements that stay together. */
typedef struct {
    const char *prefix; /* "", "query.", "up." */
    int64_t width;
    bool bias;
    const mth_arg *spec; /* weight_shard_spec, or NULL */
    int64_t axis_in, axis_out;
    int32_t grain_in, grain_out;
} mth__linear_part;
mth_status mth__part_linear(mth__expansion *, const mth__linear_part *, mth__value *x, mth__value **out);
#endif
