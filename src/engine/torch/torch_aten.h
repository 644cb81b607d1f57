/* The operators of aten that the engine calls, each with its overload, the kinds of its arguments in the order of its
 * schema, and what it returns. The C ABI tells no schema: every row is tried at load (torch_trial.c).
 *
 * Kinds of arguments: T Tensor, t Tensor?, I int or SymInt, R float, r float?, B bool, L int[] or SymInt[], l int[]?,
 * N Tensor[], D ScalarType, d ScalarType?, M MemoryFormat, m MemoryFormat?. Optional ones may be NONE.
 * What comes back: 1 to 4 tensors of the caller's; -1: the tensor that was written, once more. */
#ifndef MTH__TORCH_ATEN_H
#define MTH__TORCH_ATEN_H

/* clang-format off */
#define MTH__TORCH_ATEN(X) \
    /* one pass over elements, into memory that is given */ \
    X(neg_out, "neg", "out", "TT", -1) X(exp_out, "exp", "out", "TT", -1) X(log_out, "log", "out", "TT", -1) \
    X(sqrt_out, "sqrt", "out", "TT", -1) X(rsqrt_out, "rsqrt", "out", "TT", -1) \
    X(reciprocal_out, "reciprocal", "out", "TT", -1) X(sigmoid_out, "sigmoid", "out", "TT", -1) \
    X(tanh_out, "tanh", "out", "TT", -1) X(silu_out, "silu", "out", "TT", -1) X(mul_out, "mul", "out", "TTT", -1) \
    X(div_out, "div", "out", "TTT", -1) X(maximum_out, "maximum", "out", "TTT", -1) \
    X(where_out, "where", "self_out", "TTTT", -1) X(eq_out, "eq", "Tensor_out", "TTT", -1) \
    X(gt_out, "gt", "Tensor_out", "TTT", -1) X(ge_out, "ge", "Tensor_out", "TTT", -1) \
    X(sigmoid_backward_out, "sigmoid_backward", "grad_input", "TTT", -1) \
    X(tanh_backward_out, "tanh_backward", "grad_input", "TTT", -1) \
    X(silu_backward_out, "silu_backward", "grad_input", "TTT", -1) X(copy_, "copy_", "", "TTB", -1) \
    X(zero_, "zero_", "", "T", -1) X(fill_, "fill_", "Tensor", "TT", -1) \
    X(masked_fill_, "masked_fill_", "Tensor", "TTT", -1) \
    /* one pass over elements, into memory of torch's */ \
    X(exp, "exp", "", "T", 1) X(log, "log", "", "T", 1) X(reciprocal, "reciprocal", "", "T", 1) \
    X(tanh, "tanh", "", "T", 1) X(erf, "erf", "", "T", 1) X(mul, "mul", "Tensor", "TT", 1) \
    X(div, "div", "Tensor", "TT", 1) X(where, "where", "self", "TTT", 1) X(isfinite, "isfinite", "", "T", 1) \
    X(ne, "ne", "Tensor", "TT", 1) X(gt, "gt", "Tensor", "TT", 1) \
    X(le, "le", "Tensor", "TT", 1) X(logical_or, "logical_or", "", "TT", 1) X(logical_not, "logical_not", "", "T", 1) \
    X(to_dtype, "to", "dtype", "TDBBm", 1) X(contiguous, "contiguous", "", "TM", 1) \
    /* views */ \
    X(permute, "permute", "", "TL", 1) X(reshape, "reshape", "", "TL", 1) X(narrow, "narrow", "", "TIII", 1) \
    X(squeeze, "squeeze", "dim", "TI", 1) X(transpose, "transpose", "int", "TII", 1) \
    X(view_as_complex, "view_as_complex", "", "T", 1) \
    /* products */ \
    X(bmm, "bmm", "", "TT", 1) \
    /* sums and the like */ \
    X(sum, "sum", "dim_IntList", "TlBd", 1) X(sum_out, "sum", "IntList_out", "TlBdT", -1) \
    X(amax, "amax", "", "TLB", 1) X(amax_out, "amax", "out", "TLBT", -1) \
    X(norm, "norm", "ScalarOpt_dim", "TrLB", 1) /* Euclidean: its Scalar? is NONE */ \
    X(mean, "mean", "dim", "TlBd", 1) X(cumsum, "cumsum", "", "TId", 1) X(any, "any", "", "T", 1) \
    X(softmax, "_softmax", "", "TIB", 1) X(softmax_out, "_softmax", "out", "TIBT", -1) \
    X(softmax_backward_out, "_softmax_backward_data", "out", "TTIDT", -1) \
    X(layer_norm, "native_layer_norm", "", "TLttR", 3) \
    X(layer_norm_backward, "native_layer_norm_backward", "", "TTLTTttL", 3) \
    /* attention of CPUs, in blocks: output and the logarithm of the sum of exponentials */ \
    X(attention_cpu, "_scaled_dot_product_flash_attention_for_cpu", "", "TTTRBtr", 2) \
    X(attention_cpu_backward, "_scaled_dot_product_flash_attention_for_cpu_backward", "", "TTTTTTRBtr", 3) \
    /* by index, and in order */ \
    X(cat_out, "cat", "out", "NIT", -1) X(index_select, "index_select", "", "TIT", 1) \
    X(index_select_out, "index_select", "out", "TITT", -1) \
    X(embedding_bag, "_embedding_bag_forward_only", "", "TTTBIBtBI", 4) X(gather_out, "gather", "out", "TITBT", -1) \
    X(scatter_add_, "scatter_add_", "", "TITT", -1) X(scatter_, "scatter_", "src", "TITT", -1)
/* clang-format on */

enum mth__aten {
#define X(id, name, overload, arguments, results) MTH__ATEN_##id,
    MTH__TORCH_ATEN(X)
#undef X
        MTH__ATEN_COUNT
};
enum { MTH__TORCH_ARGUMENTS = 16, MTH__TORCH_RESULTS = 4 }; /* of an operator, at most */
typedef struct {
    const char *name, *overload, *arguments; /* "aten::mul", "out", "TTT" */
    int results;
} mth__torch_operator;
extern const mth__torch_operator mth__torch_operators[MTH__ATEN_COUNT];
#endif
