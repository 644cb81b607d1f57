/* An instruction as calls of aten. A row (torch_rows.h) is written as an expression over tensors: each call gives a
 * tensor that lives until the instruction is done, and once one has failed the others do nothing, so that a row checks
 * no status of its own:
 *
 *     static void row_square(mth__torch_call *call) {
 *         mth__tensor x = call->in[0]->tensor;
 *         ATEN(call, mul_out, TENSOR(x), TENSOR(x), TENSOR(mth__torch_room(call, 0)));
 *     }
 *
 * A row writes a result in one of two ways: mth__torch_room gives the memory to write, for an operator that writes into
 * what it is given; mth__torch_result takes a tensor that torch has allocated. A row of ELEMENTWISE may have a result
 * where an operand lies, so all operands are read before the first result is written, or in the call that writes it.
 *
 * Calls run on a device's own thread (torch_run.c), without Python's lock. */
#ifndef MTH__TORCH_CALL_H
#define MTH__TORCH_CALL_H
#include "emit/program.h"
#include "engine/torch/torch_aten.h"
#include "engine/torch/torch_library.h"

/* One device's part of a value. */
typedef struct {
    mth__tensor tensor; /* of the local shape, dense, row by row; of a result: NULL before it is made */
    mth_dtype dtype;
    mth__shape shape, global; /* local, of the whole value */
    /* local index i of dimension d is global start[d] + i * step[d] */
    int64_t start[MTH__RANK], step[MTH__RANK];
} mth__torch_operand;

/* What an argument is: its kind as in torch_aten.h, in capitals, or 0 for NONE. */
typedef struct {
    char kind;
    int count;
    union {
        mth__tensor tensor;
        int64_t integer;
        double real;
        const int64_t *integers;
        const mth__tensor *tensors;
    };
} mth__torch_argument;
#define TENSOR(value) ((mth__torch_argument){.kind = 'T', .tensor = (value)})
#define INTEGER(value) ((mth__torch_argument){.kind = 'I', .integer = (value)})
#define REAL(value) ((mth__torch_argument){.kind = 'R', .real = (value)})
#define BOOL(value) ((mth__torch_argument){.kind = 'B', .integer = (value)})
#define INTEGERS(at, n) ((mth__torch_argument){.kind = 'L', .count = (n), .integers = (at)})
#define DIMENSION(d) INTEGERS((const int64_t[]){(d)}, 1)
#define TENSORS(at, n) ((mth__torch_argument){.kind = 'N', .count = (n), .tensors = (at)})
#define DTYPE(dtype) ((mth__torch_argument){.kind = 'D', .integer = (dtype)}) /* an mth_dtype */
#define DENSE ((mth__torch_argument){.kind = 'M'})                            /* row by row */
#define NONE ((mth__torch_argument){0})

typedef struct mth__torch_device mth__torch_device; /* torch_run.h */
enum { MTH__TORCH_KEPT = 4 };
typedef struct {
    const mth__torch_library *library;
    mth__torch_device *device;
    const mth__op *op;
    const mth__attrs *attrs;
    int nin, nout; /* nin: of the row, without sums so far */
    mth__torch_operand *in[MTH__MAX_IN], *out[MTH__MAX_OUT];
    /* By result: the sum so far that it is added to, in its memory; NULL: there is none. A row that can add in the
       product itself (contract) clears it. */
    mth__tensor sum[MTH__MAX_OUT];
    /* Tensors that the instruction keeps from run to run, NULL in the first one: tables, masks. A row fills them by
       mth__torch_keep. */
    mth__tensor *kept; /* MTH__TORCH_KEPT */
    mth_status status; /* the first failure */
} mth__torch_call;

/* The first tensor that comes back; NULL where there is none or something has failed. For operators that write (-1) it
   is the tensor written. */
mth__tensor mth__torch_aten(mth__torch_call *, enum mth__aten, int count, const mth__torch_argument *);
/* All that come back. */
void mth__torch_aten_all(
    mth__torch_call *, enum mth__aten, int count, const mth__torch_argument *, mth__tensor *results);
#define MTH__TORCH_LIST(...)                                                                                           \
    (const mth__torch_argument[]) { __VA_ARGS__ }
#define MTH__TORCH_COUNT(...) ((int)(sizeof(MTH__TORCH_LIST(__VA_ARGS__)) / sizeof(mth__torch_argument)))
#define ATEN(call, id, ...)                                                                                            \
    mth__torch_aten(call, MTH__ATEN_##id, MTH__TORCH_COUNT(__VA_ARGS__), MTH__TORCH_LIST(__VA_ARGS__))
#define ATEN_ALL(call, id, results, ...)                                                                               \
    mth__torch_aten_all(call, MTH__ATEN_##id, MTH__TORCH_COUNT(__VA_ARGS__), MTH__TORCH_LIST(__VA_ARGS__), results)

/* Gives back a tensor of this instruction before its end, where several large ones would live at once; or all that were
   made since the mark. */
void mth__torch_drop(mth__torch_call *, mth__tensor);
int mth__torch_mark(const mth__torch_call *);
void mth__torch_drop_since(mth__torch_call *, int mark);

/* ---- what has no operator of the dispatcher, or a cheaper way */
/* a + scale * b; `out` NULL: into memory of torch's */
mth__tensor mth__torch_add(mth__torch_call *, mth__tensor a, mth__tensor b, double scale, mth__tensor out);
mth__tensor mth__torch_gelu(mth__torch_call *, mth__tensor x, bool tanh, mth__tensor out);
mth__tensor mth__torch_gelu_backward(mth__torch_call *, mth__tensor dy, mth__tensor x, bool tanh, mth__tensor out);
/* dy where x > 0, else 0: `x` may be relu's operand or its result */
mth__tensor mth__torch_relu_backward(mth__torch_call *, mth__tensor dy, mth__tensor x, mth__tensor out);
/* out = product + onto * out, matrices of two dimensions or batches of three; any strides */
void mth__torch_product(mth__torch_call *, mth__tensor a, mth__tensor b, int rank, double onto, mth__tensor out);
/* The elements of `tensor` in another shape, without a copy; strides in elements, NULL: dense. */
mth__tensor mth__torch_view(
    mth__torch_call *, mth__tensor tensor, mth__shape shape, const int64_t *strides, int64_t offset);
/* Uninitialised, dense, on the device. */
mth__tensor mth__torch_empty(mth__torch_call *, mth_dtype, mth__shape);
mth__tensor mth__torch_zeros(mth__torch_call *, mth_dtype, mth__shape);
/* A constant of no dimensions, made once a device: an operand of any shape takes it. */
mth__tensor mth__torch_real(mth__torch_call *, double);   /* float32 */
mth__tensor mth__torch_whole(mth__torch_call *, int64_t); /* int64 */
/* For operands of a floating dtype: float64 where that is it, else float32, with which torch computes also where the
   others have 16 bits. */
mth__tensor mth__torch_number(mth__torch_call *, mth_dtype, double);
/* from, from + step, ... : int64 of one dimension */
mth__tensor mth__torch_range(mth__torch_call *, int64_t from, int64_t count, int64_t step);
/* A tensor with the host's elements, copied. */
mth__tensor mth__torch_from_host(mth__torch_call *, mth_dtype, mth__shape, const void *elements);
/* The element of a tensor that has one: waits for the device. 0 where something has failed. */
double mth__torch_read_real(mth__torch_call *, mth__tensor);
int64_t mth__torch_read_whole(mth__torch_call *, mth__tensor);
mth__shape mth__torch_shape(mth__torch_call *, mth__tensor);
/* The elements of a dense tensor, in memory of the host's; NULL where something has failed. */
void *mth__torch_host(mth__torch_call *, mth__tensor);

/* ---- results */
mth__tensor mth__torch_room(mth__torch_call *, int result);
void mth__torch_result(mth__torch_call *, int result, mth__tensor);
/* The memory of the sum so far that a result is added to, for a row that adds to it itself: the result is made by that.
   NULL: there is none. */
mth__tensor mth__torch_take_sum(mth__torch_call *, int result);
/* Keeps the tensor with the instruction, as number `slot`; returns it. */
mth__tensor mth__torch_keep(mth__torch_call *, int slot, mth__tensor);

/* ---- errors */
void mth__torch_fail(mth__torch_call *, mth_status);
/* That of an id outside of [0, limit). */
mth_status mth__torch_outside(const mth__torch_call *, const mth__torch_operand *ids, int64_t id, int64_t limit);
#endif
