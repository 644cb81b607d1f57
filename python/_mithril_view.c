#include "_mithril_view.h"
#include <string.h>

/* ---------------------------------------------------------------- what a producer says */
static char kind_of_class(mth_dtype_class kind) {
    return kind == MTH_CLASS_FLOATING ? 'f' : kind == MTH_CLASS_INTEGER ? 'i' : 'b';
}
/* The dtype of elements that arrays can have, bfloat16 apart; 0: there is none. */
static mth_dtype dtype_of(char kind, int size) {
    for (mth_dtype dtype = (mth_dtype)1; mth_dtype_size(dtype); dtype++) {
        const char own = kind_of_class(mth_dtype_get_class(dtype));
        if (*mth_dtype_format(dtype) && own == kind && mth_dtype_size(dtype) == (size_t)size) return dtype;
    }
    return (mth_dtype)0;
}

/* What a producer says of its memory, by either protocol. None of it is believed before view_of_claim has read it. */
typedef struct {
    const void *data;
    uint64_t offset; /* bytes from data to the first element */
    int64_t rank;
    const int64_t *shape, *stride; /* stride NULL: row-major */
    int64_t unit;                  /* the bytes that a stride of 1 means */
} claim;

static int refuse_claim(module_state *state, const char *name, PyObject *what) {
    raise_fix(state, MTH_ERROR_VALUE,
        what ? TEXT("%s describes its memory wrongly: it says that it has %U", name, what) : NULL,
        TEXT("give the values as a numpy.array: the library that made the object has a defect"));
    Py_XDECREF(what);
    return -1;
}

int refuse_size(module_state *state, const char *name, const view *memory) {
    PyObject *shape = shape_to_tuple(memory->rank, memory->shape);
    raise_fix(state, MTH_ERROR_VALUE,
        shape ? TEXT("%s has the shape %R, which is 2^62 bytes or more", name, shape) : NULL,
        TEXT("use smaller dimensions"));
    Py_XDECREF(shape);
    return -1;
}

/* Where the memory of programs lies on Linux: the kernel keeps the first page, and the upper part of the addresses. */
#define LOWEST_ADDRESS ((uintptr_t)4096)
#if defined __x86_64__
#define ADDRESS_LIMIT (((uintptr_t)1 << 47) - 1)
#elif defined __aarch64__
#define ADDRESS_LIMIT (((uintptr_t)1 << 48) - 1)
#else
#define ADDRESS_LIMIT UINTPTR_MAX
#endif

/* Sizes, strides and where the elements lie. `v` has kind and size. */
static int view_of_claim(module_state *state, const char *name, const claim *claimed, view *memory) {
    if (claimed->rank < 0) return refuse_claim(state, name, TEXT("%lld dimensions", (long long)claimed->rank));
    if (claimed->rank > MAX_RANK) {
        raise_fix(state, MTH_ERROR_VALUE,
            TEXT("%s has %lld dimensions; arrays have at most %d", name, (long long)claimed->rank, MAX_RANK),
            TEXT("reshape it"));
        return -1;
    }
    if (claimed->rank && !claimed->shape)
        return refuse_claim(state, name, TEXT("%lld dimensions and no sizes of them", (long long)claimed->rank));
    memory->rank = (int)claimed->rank;
    int empty = 0;
    for (int d = 0; d < memory->rank; d++) {
        memory->shape[d] = claimed->shape[d];
        if (memory->shape[d] < 0)
            return refuse_claim(state, name, TEXT("the size %lld in dimension %d", (long long)memory->shape[d], d));
        empty |= memory->shape[d] == 0;
    }
    int64_t bytes = memory->size, low = 0, high = 0; /* of a row-major part; the ends of what the strides reach */
    for (int d = memory->rank - 1; d >= 0; d--) {
        int64_t steps = memory->shape[d] - 1, reach;
        memory->stride[d] = bytes;
        if (__builtin_mul_overflow(bytes, memory->shape[d] ? memory->shape[d] : 1, &bytes) || bytes >= MAX_BYTES)
            return refuse_size(state, name, memory);
        if (empty || steps < 1)
            memory->stride[d] = 0; /* whatever is said of it */
        else if (claimed->stride &&
            (__builtin_mul_overflow(claimed->stride[d], claimed->unit, &memory->stride[d]) ||
                __builtin_mul_overflow(memory->stride[d], steps, &reach) || reach > MAX_BYTES || reach < -MAX_BYTES))
            return refuse_claim(state, name, TEXT("the stride %lld in dimension %d", (long long)claimed->stride[d], d));
        reach = memory->stride[d] * (steps < 1 ? 0 : steps);
        *(reach < 0 ? &low : &high) += reach;
        if (low < -MAX_BYTES || high > MAX_BYTES)
            return refuse_claim(state, name, TEXT("strides that reach further than memory does"));
    }
    memory->count = empty ? 0 : bytes / memory->size;
    const uintptr_t base = (uintptr_t)claimed->data;
    uintptr_t first, end;
    if (memory->count && !base)
        return refuse_claim(state, name, TEXT("%lld elements and no memory", (long long)memory->count));
    if (__builtin_add_overflow(base, claimed->offset, &first) || (uintptr_t)-low > first ||
        __builtin_add_overflow(first, (uintptr_t)high + (uintptr_t)memory->size, &end) ||
        (memory->count && (first - (uintptr_t)-low < LOWEST_ADDRESS || end > ADDRESS_LIMIT)))
        return refuse_claim(state, name, TEXT("elements at addresses that do not exist"));
    memory->data = (const char *)claimed->data + (memory->count ? claimed->offset : 0);
    return 0;
}

static int is_row_major(const view *memory) {
    int64_t stride = memory->size;
    for (int d = memory->rank - 1; d >= 0 && memory->count; stride *= memory->shape[d], d--)
        if (memory->shape[d] != 1 && memory->stride[d] != stride) return 0;
    return 1;
}

/* ---------------------------------------------------------------- the buffer protocol */
/* Sizes in bytes where the format begins with '@' or no sign, and where it begins with another; 0: there is none. */
static const struct {
    char code, kind;
    int native, standard;
} formats[] = {
    {'?', 'b', sizeof(bool), 1},
    {'b', 'i', 1, 1},
    {'B', 'u', 1, 1},
    {'h', 'i', sizeof(short), 2},
    {'H', 'u', sizeof(short), 2},
    {'i', 'i', sizeof(int), 4},
    {'I', 'u', sizeof(int), 4},
    {'l', 'i', sizeof(long), 4},
    {'L', 'u', sizeof(long), 4},
    {'q', 'i', sizeof(long long), 8},
    {'Q', 'u', sizeof(long long), 8},
    {'n', 'i', sizeof(Py_ssize_t), 0},
    {'N', 'u', sizeof(size_t), 0},
    {'e', 'f', 2, 2},
    {'f', 'f', sizeof(float), 4},
    {'d', 'f', sizeof(double), 8},
};

int refuse_elements(module_state *state, const char *name, PyObject *what, PyObject *fix) {
    raise_fix(state, MTH_ERROR_TYPE,
        what ? TEXT("%s has elements of the %U, which arrays can't have", name, what) : NULL, fix);
    Py_XDECREF(what);
    return -1;
}

static int read_format(module_state *s, const char *name, const Py_buffer *b, view *v) {
    const char *const format = b->format ? b->format : "B";
    const int is_signed = *format && strchr("@=<>!", *format);
    const char sign = is_signed ? *format : '@', *code = format + is_signed;
    v->size = 0;
    for (size_t i = 0; *code && !code[1] && i < sizeof formats / sizeof *formats; i++) {
        if (formats[i].code != *code) continue;
        v->kind = formats[i].kind;
        v->size = sign == '@' ? formats[i].native : formats[i].standard;
    }
    v->swapped = v->size > 1 && (sign == '>' || sign == '!');
    v->dtype = dtype_of(v->kind, v->size);
    if (!v->size) {
        const char last = *format ? format[strlen(format) - 1] : 0; /* of a record '}' */
        const char *fix = last == '}'        ? "they are records: give a field of them, x[\"weight\"] say"
            : strchr(format, 'Z')            ? COMPLEX_FIX
            : last && strchr("cpsuwx", last) ? "they are texts or bytes: give numbers"
                                             : NULL;
        return refuse_elements(s, name, TEXT("format '%s'", format), fix ? TEXT("%s", fix) : cast_fix(b->obj));
    }
    if (b->itemsize != v->size)
        return refuse_claim(s, name, TEXT("elements of %zd bytes in the format '%s'", b->itemsize, format));
    return 0;
}

int view_of_buffer(module_state *s, const char *name, const Py_buffer *b, view *v) {
    if (read_format(s, name, b, v)) return -1;
    if (view_of_claim(s, name, &(claim){b->buf, 0, b->ndim, b->shape, b->strides, 1}, v)) return -1;
    if (b->len != v->count * v->size)
        return refuse_claim(s, name, TEXT("%zd bytes and %lld elements of %d", b->len, (long long)v->count, v->size));
    for (int d = 0; b->suboffsets && d < v->rank; d++)
        if (b->suboffsets[d] >= 0)
            return refuse_claim(s, name, TEXT("rows behind pointers, where it was asked for strides"));
    return 0;
}

/* ---------------------------------------------------------------- DLPack */
/* Kind and dtype of the elements, or false. */
static int read_element(const dlpack_tensor *t, view *v) {
    *v = (view){.size = t->bits / 8};
    for (mth_dtype dtype = (mth_dtype)1; mth_dtype_size(dtype); dtype++)
        if (t->code == mth_dtype_dlpack_code(dtype) && t->bits == 8 * mth_dtype_size(dtype)) {
            v->dtype = dtype;
            v->kind = kind_of_class(mth_dtype_get_class(dtype));
            return 1;
        }
    v->kind = t->code == DLPACK_INT ? 'i' : 'u';
    return (t->code == DLPACK_INT || t->code == DLPACK_UINT) &&
        (t->bits == 8 || t->bits == 16 || t->bits == 32 || t->bits == 64);
}

int view_of_dlpack(module_state *s, const char *name, const dlpack_tensor *t, view *v) {
    if (!read_element(t, v) || t->lanes != 1) {
        raise_fix(s, MTH_ERROR_TYPE,
            TEXT("%s has elements of DLPack type code %d with %d bits, %d to an element, which arrays can't have", name,
                t->code, t->bits, t->lanes),
            TEXT(t->code == DLPACK_COMPLEX ? COMPLEX_FIX : "cast it to float32 first, or to int64 for ids"));
        return -1;
    }
    return view_of_claim(s, name, &(claim){t->data, t->byte_offset, t->rank, t->shape, t->strides, v->size}, v);
}

/* ---------------------------------------------------------------- conversion of elements */
enum { PIECE = 1024 }; /* elements that are converted at once */

const char *view_dtype_name(const view *v) {
    static const char *const integers[][4] = {
        {"int8", "int16", "int32", "int64"}, {"uint8", "uint16", "uint32", "uint64"}};
    return v->dtype ? mth_dtype_name(v->dtype) : integers[v->kind == 'u'][__builtin_ctz((unsigned)v->size)];
}
mth_dtype view_dtype(const view *v) {
    if (v->kind == 'f') return MTH_FLOAT32;
    if (v->kind == 'b') return MTH_BOOL;
    return v->size < 4 || (v->size == 4 && v->kind == 'i') ? MTH_INT32 : MTH_INT64;
}

/* `count` elements from the address on, `step` bytes apart, one behind the other in this machine's order of bytes. */
static void gather(const char *from, int64_t step, int64_t count, int size, int swapped, void *to) {
#define GATHER(type, swap)                                                                                             \
    for (int64_t i = 0; i < count; i++) {                                                                              \
        type bits;                                                                                                     \
        memcpy(&bits, from + i * step, sizeof bits);                                                                   \
        ((type *)to)[i] = swapped ? swap(bits) : bits;                                                                 \
    }                                                                                                                  \
    break
#define ITSELF(bits) (bits)
    switch (size) {
    case 1: GATHER(uint8_t, ITSELF);
    case 2: GATHER(uint16_t, __builtin_bswap16);
    case 4: GATHER(uint32_t, __builtin_bswap32);
    default: GATHER(uint64_t, __builtin_bswap64);
    }
#undef GATHER
#undef ITSELF
}

/* Integers that arrays don't have, in place of which int64 is converted; those of 64 bits without a sign are made below
   2^63 where they are. `to` may be `from`. */
static void extend(const void *from, char kind, int size, int64_t count, int64_t *to) {
#define EXTEND(type)                                                                                                   \
    for (int64_t i = count - 1; i >= 0; i--) to[i] = (int64_t)((const type *)from)[i];                                 \
    break
    switch (kind == 'u' ? -size : size) {
    case 1: EXTEND(int8_t);
    case 2: EXTEND(int16_t);
    case -1: EXTEND(uint8_t);
    case -2: EXTEND(uint16_t);
    case -4: EXTEND(uint32_t);
    }
#undef EXTEND
}

/* Natural numbers of 64 bits. Those from 2^63 on are rounded once: to 53 bits, or to fewer with the last of 53 set
   where any behind it is. */
static int64_t pack_naturals(const uint64_t *from, int64_t count, mth_dtype dtype, void *to) {
    double real[PIECE];
    const int is_integer = mth_dtype_get_class(dtype) == MTH_CLASS_INTEGER;
    int64_t lost = -1;
    for (int64_t i = 0; i < count; i++) {
        const uint64_t n = from[i];
        real[i] =
            dtype == MTH_FLOAT64 || n < (uint64_t)1 << 53 ? (double)n : (double)(n >> 11 | !!(n & 0x7ff)) * 0x1p11;
        if (is_integer && lost < 0 && n > INT64_MAX) lost = i;
    }
    if (!is_integer) return mth_dtype_convert(MTH_FLOAT64, real, dtype, to, (size_t)count);
    const int64_t other = mth_dtype_convert(MTH_INT64, from, dtype, to, (size_t)count);
    return lost < 0 || (other >= 0 && other < lost) ? other : lost;
}

/* At most PIECE elements. */
static int64_t pack_piece(const view *v, const char *from, int64_t step, int64_t count, mth_dtype dtype, void *to) {
    uint64_t elements[PIECE];
    int64_t wide[PIECE];
    const int in_place = v->dtype && !v->swapped && step == v->size && (uintptr_t)from % (uintptr_t)v->size == 0;
    if (in_place) return mth_dtype_convert(v->dtype, from, dtype, to, (size_t)count);
    gather(from, step, count, v->size, v->swapped, elements);
    if (v->dtype) return mth_dtype_convert(v->dtype, elements, dtype, to, (size_t)count);
    if (v->kind == 'u' && v->size == 8) return pack_naturals(elements, count, dtype, to);
    extend(elements, v->kind, v->size, count, wide);
    return mth_dtype_convert(MTH_INT64, wide, dtype, to, (size_t)count);
}

mth_status view_pack(const view *v, mth_dtype dtype, void *to, int64_t *lost) {
    enum { PIECES = 256 };            /* between two questions whether to stop */
    const int flat = is_row_major(v); /* all is one row */
    const int64_t inner = flat ? v->count : v->shape[v->rank - 1], step = flat ? v->size : v->stride[v->rank - 1];
    int64_t index[MAX_RANK] = {0}, pieces = 0;
    *lost = -1;
    for (int64_t done = 0; done < v->count; done += inner) {
        const char *row = v->data;
        for (int d = 0; !flat && d < v->rank - 1; d++) row += index[d] * v->stride[d];
        for (int64_t i = 0; i < inner; i += PIECE) {
            mth_status status = pieces++ % PIECES == 0 ? mth_check_interrupt() : NULL;
            if (status) return status;
            const int64_t some = inner - i < PIECE ? inner - i : PIECE,
                          first = pack_piece(v, row + i * step, step, some, dtype,
                              (char *)to + (done + i) * (int64_t)mth_dtype_size(dtype));
            if (first < 0) continue;
            *lost = done + i + first;
            return NULL;
        }
        for (int d = v->rank - 2; d >= 0 && ++index[d] == v->shape[d]; d--) index[d] = 0;
    }
    return NULL;
}

PyObject *view_element(const view *v, int64_t index) {
    const char *from = v->data;
    for (int d = v->rank - 1; d >= 0; d--) {
        from += index % v->shape[d] * v->stride[d];
        index /= v->shape[d];
    }
    uint64_t element = 0;
    int64_t wide = 0;
    double real = 0;
    gather(from, 0, 1, v->size, v->swapped, &element);
    if (v->kind == 'f') {
        mth_dtype_convert(v->dtype, &element, MTH_FLOAT64, &real, 1);
        return PyFloat_FromDouble(real);
    }
    if (v->kind == 'u' && v->size == 8) return PyLong_FromUnsignedLongLong(element);
    if (v->dtype)
        mth_dtype_convert(v->dtype, &element, MTH_INT64, &wide, 1);
    else
        extend(&element, v->kind, v->size, 1, &wide);
    return PyLong_FromLongLong(wide);
}

int view_is_direct(const view *v, mth_dtype dtype) {
    if (v->dtype != dtype || v->swapped || !is_row_major(v)) return 0;
    unsigned char bits = 0; /* a true of other producers may be any byte but 0 */
    for (int64_t i = 0; v->kind == 'b' && i < v->count; i++) bits |= (unsigned char)v->data[i];
    return bits <= 1 && (uintptr_t)v->data % (uintptr_t)v->size == 0;
}
