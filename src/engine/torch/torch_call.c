#include "engine/fault.h"
#include "engine/torch/torch_call.h"
#include "engine/torch/torch_run.h"
#include <string.h>

const mth__torch_operator mth__torch_operators[MTH__ATEN_COUNT] = {
#define X(id, name, overload, arguments, results) [MTH__ATEN_##id] = {"aten::" name, overload, arguments, results},
    MTH__TORCH_ATEN(X)
#undef X
};

void mth__torch_fail(mth__torch_call *call, mth_status status) {
    if (call->status)
        mth_error_free(status);
    else
        call->status = status;
}
static void fail_of(mth__torch_call *call, const char *doing) {
    mth__torch_fail(call, mth__torch_error(call->library, doing));
}
mth_status mth__torch_outside(const mth__torch_call *call, const mth__torch_operand *ids, int64_t id, int64_t limit) {
    char shape[256];
    mth__shape_write(shape, sizeof shape, ids->global);
    return mth__error_tensor(
        mth__fault_error(call->op, id, "", limit, ""), F("ids: %s %s", mth_dtype_name(ids->dtype), shape));
}

/* ---------------------------------------------------------------- tensors of the instruction */
/* Takes the tensor; NULL where there is no room to note it. */
static mth__tensor note(mth__torch_call *call, mth__tensor tensor) {
    mth__torch_device *device = call->device;
    if (device->temporaries == device->temporary_room) {
        const int room = device->temporary_room ? 2 * device->temporary_room : 32;
        mth__tensor *wider = mth__calloc((size_t)room, sizeof *wider);
        if (!wider) {
            mth__torch_free(call->library, &tensor);
            mth__torch_fail(call, mth__lacks_memory("the tensors of an instruction", 0));
            return NULL;
        }
        if (device->temporaries) memcpy(wider, device->temporary, (size_t)device->temporaries * sizeof *wider);
        mth__free(device->temporary);
        device->temporary = wider;
        device->temporary_room = room;
    }
    return device->temporary[device->temporaries++] = tensor;
}

/* The tensor is the caller's again. */
static bool forget(mth__torch_call *call, mth__tensor tensor) {
    mth__torch_device *device = call->device;
    for (int i = device->temporaries - 1; i >= 0; i--)
        if (device->temporary[i] == tensor) {
            device->temporary[i] = device->temporary[--device->temporaries];
            return true;
        }
    return false;
}

void mth__torch_drop(mth__torch_call *call, mth__tensor tensor) {
    if (tensor && forget(call, tensor)) mth__torch_free(call->library, &tensor);
}

int mth__torch_mark(const mth__torch_call *call) { return call->device->temporaries; }

void mth__torch_drop_since(mth__torch_call *call, int mark) {
    mth__torch_device *device = call->device;
    while (device->temporaries > mark) mth__torch_free(call->library, &device->temporary[--device->temporaries]);
}

/* ---------------------------------------------------------------- arguments */
static bool new_handle(mth__torch_call *call, mth__tensor of, mth__torch_value *out) {
    mth__tensor own = NULL;
    if (!of || call->library->aoti_torch_new_tensor_handle(of, &own)) return false;
    *out = (mth__torch_value)(uintptr_t)own;
    return true;
}

/* An optional value: a pointer to it, which the callee deletes. */
static bool wrap(mth__torch_call *call, mth__torch_value value, mth__torch_value *out) {
    mth__torch_value *pointer = NULL;
    if (!call->library->torch_new_stable_ivalue)
        pointer = call->library->operator_new ? call->library->operator_new(sizeof *pointer) : NULL;
    else if (call->library->torch_new_stable_ivalue(&pointer))
        pointer = NULL;
    if (!pointer) return false;
    *pointer = value;
    *out = (mth__torch_value)(uintptr_t)pointer;
    return true;
}

static bool list(mth__torch_call *call, const mth__torch_argument *argument, mth__torch_value *out) {
    const mth__torch_library *library = call->library;
    void *made = NULL;
    if (library->torch_new_list_reserve_size((size_t)argument->count, &made)) return false;
    for (int i = 0; i < argument->count; i++) {
        mth__torch_value item = 0;
        bool good = true;
        if (argument->kind == 'L')
            item = (mth__torch_value)argument->integers[i];
        else
            good = new_handle(call, argument->tensors[i], &item);
        if (good && library->torch_list_push_back(made, item) == 0) continue;
        library->torch_delete_list(made);
        return false;
    }
    *out = (mth__torch_value)(uintptr_t)made;
    return true;
}

/* `kind`: what the operator takes there. */
static bool convert(mth__torch_call *call, char kind, const mth__torch_argument *argument, mth__torch_value *out) {
    *out = 0;
    const bool optional = kind >= 'a';
    const char base = optional ? (char)(kind - 'a' + 'A') : kind;
    if (!argument->kind) return optional;
    if (argument->kind != base) return false;
    switch (base) {
    case 'T':
        if (!new_handle(call, argument->tensor, out)) return false;
        break;
    case 'N': return list(call, argument, out);
    case 'L':
        if (!list(call, argument, out)) return false;
        break;
    case 'D': *out = (mth__torch_value)(int64_t)call->library->dtype[argument->integer]; break;
    case 'R': memcpy(out, &argument->real, sizeof argument->real); break;
    default: *out = (mth__torch_value)argument->integer; break;
    }
    return !optional || wrap(call, *out, out);
}

/* ---------------------------------------------------------------- calls */
static bool dispatch(mth__torch_call *call, enum mth__aten id, int count, const mth__torch_argument *argument,
    mth__torch_value stack[MTH__TORCH_ARGUMENTS]) {
    const mth__torch_operator *operator= & mth__torch_operators[id];
    if (call->status) return false;
    const int wanted = (int)strlen(operator->arguments);
    if (count != wanted) {
        mth__torch_fail(call, INTERNAL("%s takes %d arguments, not %d", operator->name, wanted, count));
        return false;
    }
    for (int i = 0; i < count; i++)
        if (!convert(call, operator->arguments[i], &argument[i], &stack[i])) {
            mth__torch_fail(call, INTERNAL("argument %d of %s can't be made", i, operator->name));
            return false; /* handles that were made before leak: this is a defect, not a state of a run */
        }
    if (call->library->torch_call_dispatcher(operator->name, operator->overload, stack, call->library->abi) == 0)
        return true;
    fail_of(call, operator->name);
    return false;
}

mth__tensor mth__torch_aten(mth__torch_call *call, enum mth__aten id, int count, const mth__torch_argument *argument) {
    mth__torch_value stack[MTH__TORCH_ARGUMENTS];
    if (!dispatch(call, id, count, argument, stack)) return NULL;
    const int results = mth__torch_operators[id].results;
    mth__tensor first = (mth__tensor)(uintptr_t)stack[0];
    for (int k = 1; k < results; k++) {
        mth__tensor other = (mth__tensor)(uintptr_t)stack[k];
        mth__torch_free(call->library, &other);
    }
    if (results >= 0) return first ? note(call, first) : NULL;
    mth__torch_free(call->library, &first); /* the same as the argument that was written */
    const char *kinds = mth__torch_operators[id].arguments;
    const bool in_place = mth__torch_operators[id].name[strlen(mth__torch_operators[id].name) - 1] == '_';
    return in_place ? argument[0].tensor : argument[strlen(kinds) - 1].tensor;
}

void mth__torch_aten_all(
    mth__torch_call *call, enum mth__aten id, int count, const mth__torch_argument *argument, mth__tensor *results) {
    mth__torch_value stack[MTH__TORCH_ARGUMENTS];
    const int n = mth__torch_operators[id].results;
    for (int k = 0; k < n; k++) results[k] = NULL;
    if (!dispatch(call, id, count, argument, stack)) return;
    for (int k = 0; k < n; k++) results[k] = note(call, (mth__tensor)(uintptr_t)stack[k]);
}

/* ---------------------------------------------------------------- direct functions */
typedef struct {
    const mth__torch_library *library;
    mth__tensor a, b, out;
    mth__torch_scalar scalar;
    mth__torch_text text;
} direct_call;
static void direct_add(int64_t begin, int64_t end, void *context) {
    (void)begin, (void)end;
    const direct_call *job = context;
    job->library->direct.add_out(job->a, job->b, &job->scalar, job->out);
}
static void direct_threshold(int64_t begin, int64_t end, void *context) {
    (void)begin, (void)end;
    const direct_call *job = context;
    job->library->direct.threshold_backward_out(job->a, job->b, &job->scalar, job->out);
}
static void direct_gelu(int64_t begin, int64_t end, void *context) {
    (void)begin, (void)end;
    const direct_call *job = context;
    job->library->direct.gelu_out(job->a, job->text, job->out);
}
static void direct_gelu_backward(int64_t begin, int64_t end, void *context) {
    (void)begin, (void)end;
    const direct_call *job = context;
    job->library->direct.gelu_backward_out(job->a, job->b, job->text, job->out);
}
static mth__tensor call_direct(
    mth__torch_call *call, void (*work)(int64_t, int64_t, void *), direct_call *job, const char *doing) {
    job->library = call->library;
    if (call->status || !job->a || !job->out) return NULL;
    if (!mth__torch_guarded(call->library, work, job)) fail_of(call, doing);
    return call->status ? NULL : job->out;
}
static mth__torch_text approximation(bool tanh) {
    return tanh ? (mth__torch_text){4, "tanh"} : (mth__torch_text){4, "none"};
}

/* The dtype of a tensor, as torch numbers it. */
static int32_t dtype_of(mth__torch_call *call, mth__tensor tensor) {
    int32_t dtype = 0;
    if (!call->status && tensor) call->library->aoti_torch_get_dtype(tensor, &dtype);
    return dtype;
}

mth__tensor mth__torch_add(mth__torch_call *call, mth__tensor a, mth__tensor b, double scale, mth__tensor out) {
    const mth__torch_library *library = call->library;
    if (call->status || !a || !b) return NULL;
    if (out && library->direct.add_out) {
        direct_call job = {.a = a, .b = b, .out = out};
        const int32_t dtype = dtype_of(call, out);
        const bool real = dtype == library->dtype[MTH_FLOAT32] || dtype == library->dtype[MTH_FLOAT64] ||
            dtype == library->dtype[MTH_FLOAT16] || dtype == library->dtype[MTH_BFLOAT16];
        if (real)
            job.scalar = (mth__torch_scalar){.tag = 0, .real = scale};
        else
            job.scalar = (mth__torch_scalar){.tag = 1, .integer = (int64_t)scale};
        return call_direct(call, direct_add, &job, "add");
    }
    mth__tensor sum = NULL;
    if (library->aoti_torch_cpu_add_Tensor(a, b, scale, &sum)) {
        fail_of(call, "add");
        return NULL;
    }
    note(call, sum);
    return out ? ATEN(call, copy_, TENSOR(out), TENSOR(sum), BOOL(false)) : sum;
}

/* x / 2 * (1 + erf(x / sqrt 2)), or by tanh: sqrt(2 / pi) * (x + 0.044715 x^3) */
static mth__tensor gelu_gate(mth__torch_call *call, mth__tensor x, bool tanh) {
    mth__tensor one = mth__torch_real(call, 1), inner;
    if (tanh) {
        mth__tensor square = ATEN(call, mul, TENSOR(x), TENSOR(x)), cube = ATEN(call, mul, TENSOR(square), TENSOR(x));
        inner = mth__torch_add(call, x, cube, 0.044715, NULL);
        inner = ATEN(call, mul, TENSOR(inner), TENSOR(mth__torch_real(call, 0.79788456080286535588)));
        inner = ATEN(call, tanh, TENSOR(inner));
    } else {
        inner = ATEN(call, mul, TENSOR(x), TENSOR(mth__torch_real(call, 0.70710678118654752440)));
        inner = ATEN(call, erf, TENSOR(inner));
    }
    mth__tensor sum = mth__torch_add(call, inner, one, 1, NULL);
    return ATEN(call, mul, TENSOR(sum), TENSOR(mth__torch_real(call, 0.5)));
}

mth__tensor mth__torch_gelu(mth__torch_call *call, mth__tensor x, bool tanh, mth__tensor out) {
    if (out && call->library->direct.gelu_out) {
        direct_call job = {.a = x, .out = out, .text = approximation(tanh)};
        return call_direct(call, direct_gelu, &job, "gelu");
    }
    mth__tensor gate = gelu_gate(call, x, tanh);
    return out ? ATEN(call, mul_out, TENSOR(x), TENSOR(gate), TENSOR(out)) : ATEN(call, mul, TENSOR(x), TENSOR(gate));
}

/* dy * (gate + x * gate'), gate' being the density exp(-x^2 / 2) / sqrt(2 pi), or (1 - tanh^2) / 2 times the inner
 * derivative. */
mth__tensor mth__torch_gelu_backward(mth__torch_call *call, mth__tensor dy, mth__tensor x, bool tanh, mth__tensor out) {
    if (out && call->library->direct.gelu_backward_out) {
        direct_call job = {.a = dy, .b = x, .out = out, .text = approximation(tanh)};
        return call_direct(call, direct_gelu_backward, &job, "gelu_backward");
    }
    mth__tensor gate = gelu_gate(call, x, tanh), square = ATEN(call, mul, TENSOR(x), TENSOR(x)), slope;
    if (tanh) { /* (1 - tanh^2) / 2 is 2 * gate * (1 - gate) */
        mth__tensor rest = mth__torch_add(call, mth__torch_real(call, 1), gate, -1, NULL);
        slope = ATEN(call, mul, TENSOR(gate), TENSOR(rest));
        mth__tensor inner = ATEN(call, mul, TENSOR(square), TENSOR(mth__torch_real(call, 3 * 0.044715)));
        inner = mth__torch_add(call, inner, mth__torch_real(call, 1), 1, NULL);
        slope = ATEN(call, mul, TENSOR(slope), TENSOR(inner));
        slope = ATEN(call, mul, TENSOR(slope), TENSOR(mth__torch_real(call, 2 * 0.79788456080286535588)));
    } else {
        slope = ATEN(call, mul, TENSOR(square), TENSOR(mth__torch_real(call, -0.5)));
        slope = ATEN(call, exp, TENSOR(slope));
        slope = ATEN(call, mul, TENSOR(slope), TENSOR(mth__torch_real(call, 0.39894228040143267794)));
    }
    slope = ATEN(call, mul, TENSOR(slope), TENSOR(x));
    slope = mth__torch_add(call, gate, slope, 1, NULL);
    return out ? ATEN(call, mul_out, TENSOR(dy), TENSOR(slope), TENSOR(out))
               : ATEN(call, mul, TENSOR(dy), TENSOR(slope));
}

mth__tensor mth__torch_relu_backward(mth__torch_call *call, mth__tensor dy, mth__tensor x, mth__tensor out) {
    if (out && call->library->direct.threshold_backward_out) {
        direct_call job = {.a = dy, .b = x, .out = out, .scalar = {.tag = 0, .real = 0}};
        return call_direct(call, direct_threshold, &job, "threshold_backward");
    }
    mth__tensor zero = mth__torch_real(call, 0), hides = ATEN(call, le, TENSOR(x), TENSOR(zero));
    return out ? ATEN(call, where_out, TENSOR(hides), TENSOR(zero), TENSOR(dy), TENSOR(out))
               : ATEN(call, where, TENSOR(hides), TENSOR(zero), TENSOR(dy));
}

void mth__torch_product(mth__torch_call *call, mth__tensor a, mth__tensor b, int rank, double onto, mth__tensor out) {
    const mth__torch_library *library = call->library;
    if (call->status || !a || !b || !out) return;
    int32_t failed;
    if (onto != 0)
        failed = rank == 2 ? library->aoti_torch_cpu_addmm_out(out, out, a, b, onto, 1)
                           : library->aoti_torch_cpu_baddbmm_out(out, out, a, b, onto, 1);
    else
        failed = rank == 2 ? library->aoti_torch_cpu_mm_out(out, a, b) : library->aoti_torch_cpu_bmm_out(out, a, b);
    if (failed) fail_of(call, "a product");
}

/* ---------------------------------------------------------------- making tensors */
mth__tensor mth__torch_view(
    mth__torch_call *call, mth__tensor tensor, mth__shape shape, const int64_t *strides, int64_t offset) {
    int64_t dense[MTH__RANK];
    mth__tensor view = NULL;
    if (call->status || !tensor) return NULL;
    if (!strides) mth__shape_strides(shape, dense);
    if (call->library->aoti_torch__reinterpret_tensor(
            tensor, shape.rank, shape.dim, strides ? strides : dense, offset, &view)) { /* from where `tensor` begins */
        fail_of(call, "a view");
        return NULL;
    }
    return note(call, view);
}

static mth__tensor new_empty(mth__torch_call *call, mth_dtype dtype, mth__shape shape) {
    const mth__torch_library *library = call->library;
    int64_t stride[MTH__RANK];
    mth__tensor made = NULL;
    if (call->status) return NULL;
    mth__shape_strides(shape, stride);
    if (library->aoti_torch_empty_strided(
            shape.rank, shape.dim, stride, library->dtype[dtype], library->cpu, -1, &made)) {
        mth__torch_fail(call, mth__lacks_memory("a tensor", mth__shape_size(shape) * (int64_t)mth_dtype_size(dtype)));
        return NULL;
    }
    return made;
}

mth__tensor mth__torch_empty(mth__torch_call *call, mth_dtype dtype, mth__shape shape) {
    mth__tensor made = new_empty(call, dtype, shape);
    return made ? note(call, made) : NULL;
}

mth__tensor mth__torch_zeros(mth__torch_call *call, mth_dtype dtype, mth__shape shape) {
    mth__tensor made = mth__torch_empty(call, dtype, shape);
    if (made && call->library->aoti_torch_zero_(made)) fail_of(call, "zeros");
    return made;
}

mth__tensor mth__torch_from_host(mth__torch_call *call, mth_dtype dtype, mth__shape shape, const void *elements) {
    mth__tensor made = mth__torch_empty(call, dtype, shape);
    const size_t bytes = (size_t)mth__shape_size(shape) * mth_dtype_size(dtype);
    void *data = bytes ? mth__torch_host(call, made) : NULL;
    if (data) memcpy(data, elements, bytes);
    return made;
}

mth__tensor mth__torch_range(mth__torch_call *call, int64_t from, int64_t count, int64_t step) {
    mth__tensor made = mth__torch_empty(call, MTH_INT64, (mth__shape){1, {count}});
    int64_t *number = mth__torch_host(call, made);
    for (int64_t i = 0; number && i < count; i++) number[i] = from + i * step;
    return made;
}

/* One that the device has, or makes now. */
static mth__tensor constant(mth__torch_call *call, mth_dtype dtype, mth__torch_value bits, const void *element) {
    mth__torch_device *device = call->device;
    for (int i = 0; i < device->constants; i++)
        if (device->constant[i].dtype == dtype && device->constant[i].bits == bits) return device->constant[i].tensor;
    if (device->constants == device->constant_room) {
        const int room = device->constant_room ? 2 * device->constant_room : 16;
        mth__torch_constant *wider = mth__calloc((size_t)room, sizeof *wider);
        if (!wider) {
            mth__torch_fail(call, mth__lacks_memory("constants of a device", 0));
            return NULL;
        }
        if (device->constants) memcpy(wider, device->constant, (size_t)device->constants * sizeof *wider);
        mth__free(device->constant);
        device->constant = wider;
        device->constant_room = room;
    }
    mth__tensor made = mth__torch_from_host(call, dtype, (mth__shape){0}, element);
    if (!made) return NULL;
    forget(call, made);
    device->constant[device->constants++] = (mth__torch_constant){dtype, bits, made};
    return made;
}

mth__tensor mth__torch_real(mth__torch_call *call, double number) {
    const float narrow = (float)number;
    mth__torch_value bits = 0;
    memcpy(&bits, &narrow, sizeof narrow);
    return call->status ? NULL : constant(call, MTH_FLOAT32, bits, &narrow);
}

mth__tensor mth__torch_whole(mth__torch_call *call, int64_t number) {
    return call->status ? NULL : constant(call, MTH_INT64, (mth__torch_value)number, &number);
}

mth__tensor mth__torch_number(mth__torch_call *call, mth_dtype dtype, double number) {
    mth__torch_value bits;
    if (dtype != MTH_FLOAT64) return mth__torch_real(call, number);
    memcpy(&bits, &number, sizeof bits);
    return call->status ? NULL : constant(call, MTH_FLOAT64, bits, &number);
}

/* ---------------------------------------------------------------- reading tensors */
mth__shape mth__torch_shape(mth__torch_call *call, mth__tensor tensor) {
    mth__shape shape = {0};
    int64_t rank = 0, *sizes = NULL;
    if (call->status || !tensor) return shape;
    if (call->library->aoti_torch_get_dim(tensor, &rank) || call->library->aoti_torch_get_sizes(tensor, &sizes) ||
        rank > MTH__RANK) {
        fail_of(call, "a shape");
        return shape;
    }
    shape.rank = (int)rank;
    for (int d = 0; d < shape.rank; d++) shape.dim[d] = sizes[d];
    return shape;
}

void *mth__torch_host(mth__torch_call *call, mth__tensor tensor) {
    void *data = NULL;
    if (call->status || !tensor) return NULL;
    if (call->library->aoti_torch_get_data_ptr(tensor, &data)) fail_of(call, "the elements of a tensor");
    return data;
}

static const void *only_element(mth__torch_call *call, mth__tensor tensor, mth_dtype *dtype) {
    const int32_t is = dtype_of(call, tensor);
    const void *data = mth__torch_host(call, tensor);
    for (int known = 1; known < MTH__DTYPE_COUNT; known++)
        if (call->library->dtype[known] == is) *dtype = (mth_dtype)known;
    return data;
}

double mth__torch_read_real(mth__torch_call *call, mth__tensor tensor) {
    mth_dtype dtype = (mth_dtype)0;
    const void *data = only_element(call, tensor, &dtype);
    return data && dtype ? mth__dtype_load(dtype, data, 0) : 0;
}

int64_t mth__torch_read_whole(mth__torch_call *call, mth__tensor tensor) {
    mth_dtype dtype = (mth_dtype)0;
    const void *data = only_element(call, tensor, &dtype);
    if (data && dtype == MTH_INT64) return *(const int64_t *)data;
    return data && dtype ? (int64_t)mth__dtype_load(dtype, data, 0) : 0;
}

/* ---------------------------------------------------------------- results */
mth__tensor mth__torch_room(mth__torch_call *call, int k) {
    mth__torch_operand *out = call->out[k];
    if (call->status) return NULL;
    if (call->sum[k]) /* added when the row is done */
        return out->tensor ? out->tensor : (out->tensor = new_empty(call, out->dtype, out->shape));
    if (!out->tensor) out->tensor = new_empty(call, out->dtype, out->shape);
    return out->tensor;
}

static bool same_memory(mth__torch_call *call, mth__tensor a, mth__tensor b) {
    void *first = NULL, *second = NULL;
    return b && call->library->aoti_torch_get_data_ptr(a, &first) == 0 &&
        call->library->aoti_torch_get_data_ptr(b, &second) == 0 && first == second;
}

/* Is its memory the result's alone, dense from its beginning? Views and conversions that change nothing share theirs
 * with an operand, or with what the instruction keeps. */
static bool may_be_taken(mth__torch_call *call, const mth__torch_operand *out, mth__tensor tensor) {
    const mth__torch_library *library = call->library;
    for (int j = 0; j < call->nin; j++)
        if (same_memory(call, tensor, call->in[j]->tensor)) return false;
    for (int slot = 0; slot < MTH__TORCH_KEPT; slot++)
        if (same_memory(call, tensor, call->kept[slot])) return false;
    int64_t offset = 1, bytes = 0;
    bool dense = false;
    const int64_t own = mth__shape_size(out->shape) * (int64_t)mth_dtype_size(out->dtype);
    return library->aoti_torch_get_storage_offset(tensor, &offset) == 0 && offset == 0 &&
        library->aoti_torch_is_contiguous(tensor, &dense) == 0 && dense &&
        library->aoti_torch_get_storage_size(tensor, &bytes) == 0 && bytes == own &&
        dtype_of(call, tensor) == library->dtype[out->dtype];
}

void mth__torch_result(mth__torch_call *call, int k, mth__tensor tensor) {
    mth__torch_operand *out = call->out[k];
    if (call->status || !tensor) return;
    if (!out->tensor && may_be_taken(call, out, tensor) && forget(call, tensor)) {
        out->tensor = tensor;
        return;
    }
    mth__tensor room = mth__torch_room(call, k);
    ATEN(call, copy_, TENSOR(room), TENSOR(tensor), BOOL(false));
}

mth__tensor mth__torch_take_sum(mth__torch_call *call, int k) {
    mth__tensor sum = call->sum[k];
    call->sum[k] = NULL;
    return sum;
}

mth__tensor mth__torch_keep(mth__torch_call *call, int slot, mth__tensor tensor) {
    if (call->status || !tensor) return NULL;
    if (!forget(call, tensor)) {
        mth__torch_fail(call, INTERNAL("%s keeps a tensor that is not its own", call->op->name));
        return NULL;
    }
    return call->kept[slot] = tensor;
}
