#include "_mithril_view.h"
#include <math.h>
#include <string.h>

/* ---------------------------------------------------------------- what a producer says */
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

int refuse_elements(module_state *state, const char *name, PyObject *what, const char *fix) {
    raise_fix(state, MTH_ERROR_TYPE,
        what ? TEXT("%s has elements of the %U, which arrays can't have", name, what) : NULL, TEXT("%s", fix));
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
    if (!v->size) {
        const char last = *format ? format[strlen(format) - 1] : 0; /* of a record '}' */
        return refuse_elements(s, name, TEXT("format '%s'", format),
            last == '}'                          ? "they are records: give a field of them, x[\"weight\"] say"
                : last && strchr("cpsuwx", last) ? "they are texts or bytes: give numbers"
                                                 : CAST_FIX);
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
static int is_known_element(const dlpack_tensor *t) {
    switch (t->code) {
    case DLPACK_BOOL: return t->bits == 8;
    case DLPACK_BFLOAT: return t->bits == 16;
    case DLPACK_FLOAT: return t->bits == 16 || t->bits == 32 || t->bits == 64;
    case DLPACK_INT:
    case DLPACK_UINT: return t->bits == 8 || t->bits == 16 || t->bits == 32 || t->bits == 64;
    }
    return 0;
}

int view_of_dlpack(module_state *s, const char *name, const dlpack_tensor *t, view *v) {
    static const char kinds[] = {
        [DLPACK_INT] = 'i', [DLPACK_UINT] = 'u', [DLPACK_FLOAT] = 'f', [DLPACK_BFLOAT] = 'h', [DLPACK_BOOL] = 'b'};
    if (!is_known_element(t) || t->lanes != 1) {
        raise_fix(s, MTH_ERROR_TYPE,
            TEXT("%s has elements of DLPack type code %d with %d bits, %d to an element, which arrays can't have", name,
                t->code, t->bits, t->lanes),
            TEXT("cast it to float32 first (x.real of complex numbers), or to int64 for ids"));
        return -1;
    }
    *v = (view){.kind = kinds[t->code], .size = t->bits / 8};
    return view_of_claim(s, name, &(claim){t->data, t->byte_offset, t->rank, t->shape, t->strides, v->size}, v);
}

/* ---------------------------------------------------------------- conversion of elements */
mth_dtype view_dtype(const view *v) {
    if (v->kind == 'f' || v->kind == 'h') return MTH_FLOAT32;
    if (v->kind == 'b') return MTH_BOOL;
    return v->size < 4 || (v->size == 4 && v->kind == 'i') ? MTH_INT32 : MTH_INT64;
}

static float half_to_float(uint16_t h) {
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double value = exponent == 31 ? (fraction ? NAN : INFINITY)
        : exponent                ? ldexp(1024 + fraction, exponent - 25)
                                  : ldexp(fraction, -24);
    return (float)(h >> 15 ? -value : value);
}

static float bfloat_to_float(uint16_t b) {
    uint32_t bits = (uint32_t)b << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static number read_number(const char *at, const view *v) {
    union {
        uint64_t u;
        float f;
        double d;
        uint16_t h;
    } bits = {0};
    memcpy(&bits, at, (size_t)v->size); /* little-endian, as all machines that the library is built for */
    if (v->swapped) bits.u = __builtin_bswap64(bits.u) >> (64 - 8 * v->size);
    if (v->kind == 'h') return (number){'f', .real = bfloat_to_float(bits.h)};
    if (v->kind == 'f')
        return (number){'f', .real = v->size == 2 ? half_to_float(bits.h) : v->size == 4 ? bits.f : bits.d};
    if (v->kind != 'i') return (number){'u', .natural = bits.u};
    const int unused = 64 - 8 * v->size;
    return (number){'i', .integer = (int64_t)(bits.u << unused) >> unused};
}

static int fits(const number *n, int64_t low, int64_t high) {
    return n->kind == 'u' ? n->natural <= (uint64_t)high : n->integer >= low && n->integer <= high;
}

/* Rounded once. Returns 0 where an integer does not fit. */
static int write_number(void *to, int64_t i, mth_dtype dtype, const number *n) {
    switch (dtype) {
    case MTH_FLOAT64:
        ((double *)to)[i] = n->kind == 'u' ? (double)n->natural : n->kind == 'i' ? (double)n->integer : n->real;
        return 1;
    case MTH_BOOL:
        ((uint8_t *)to)[i] = n->kind == 'u' ? n->natural != 0 : n->kind == 'i' ? n->integer != 0 : n->real != 0;
        return 1;
    case MTH_INT32:
        ((int32_t *)to)[i] = (int32_t)(n->kind == 'u' ? (int64_t)n->natural : n->integer);
        return fits(n, INT32_MIN, INT32_MAX);
    case MTH_INT64:
        ((int64_t *)to)[i] = n->kind == 'u' ? (int64_t)n->natural : n->integer;
        return fits(n, INT64_MIN, INT64_MAX);
    case MTH_FLOAT32:
    case MTH_BFLOAT16: break;
    }
    float value = n->kind == 'u' ? (float)n->natural : n->kind == 'i' ? (float)n->integer : (float)n->real;
    if (dtype == MTH_FLOAT32) {
        ((float *)to)[i] = value;
        return 1;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16; /* to nearest even */
    ((uint16_t *)to)[i] = (uint16_t)bits;
    return 1;
}

int view_pack(const view *v, mth_dtype dtype, void *to, number *bad) {
    const int64_t inner = v->rank ? v->shape[v->rank - 1] : 1, step = v->rank ? v->stride[v->rank - 1] : 0;
    /* what most data is */
    const int plain = dtype == MTH_FLOAT32 && v->kind == 'f' && !v->swapped ? v->size : 0;
    int64_t index[MAX_RANK] = {0};
    for (int64_t done = 0; done < v->count; done += inner) {
        const char *row = v->data;
        for (int d = 0; d < v->rank - 1; d++) row += index[d] * v->stride[d];
        if (plain == 8)
            for (int64_t i = 0; i < inner; i++) {
                double real;
                memcpy(&real, row + i * step, sizeof real);
                ((float *)to)[done + i] = (float)real;
            }
        else if (plain == 4)
            for (int64_t i = 0; i < inner; i++) memcpy((float *)to + done + i, row + i * step, sizeof(float));
        else
            for (int64_t i = 0; i < inner; i++) {
                number n = read_number(row + i * step, v);
                if (write_number(to, done + i, dtype, &n)) continue;
                *bad = n;
                return -1;
            }
        for (int d = v->rank - 2; d >= 0 && ++index[d] == v->shape[d]; d--) index[d] = 0;
    }
    return 0;
}

int view_is_direct(const view *v, mth_dtype dtype) {
    const char kind = dtype == MTH_BOOL            ? 'b'
        : dtype == MTH_BFLOAT16                    ? 'h'
        : dtype == MTH_INT32 || dtype == MTH_INT64 ? 'i'
                                                   : 'f';
    if (v->kind != kind || v->swapped || (size_t)v->size != mth_dtype_size(dtype) || !is_row_major(v)) return 0;
    unsigned char bits = 0; /* a true of other producers may be any byte but 0 */
    for (int64_t i = 0; kind == 'b' && i < v->count; i++) bits |= (unsigned char)v->data[i];
    return bits <= 1 && (uintptr_t)v->data % (uintptr_t)v->size == 0;
}
