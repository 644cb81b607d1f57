#include "_mithril.h"
#include "_mithril_dlpack.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- texts */
const char *to_name(module_state *s, PyObject *object, const char *what) {
    if (!PyUnicode_Check(object))
        return raise_fix(s, MTH_ERROR_TYPE, TEXT("%s is %.80R, where a text is expected", what, object), TEXT("give it as a str"));
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(object, &size);
    if (text && strlen(text) != (size_t)size)
        return raise_fix(s, MTH_ERROR_VALUE, TEXT("%s has a NUL character in it: %.80R", what, object), TEXT("leave the character out"));
    return text;
}

/* ---------------------------------------------------------------- arguments */
static PyObject *list_of(char **names) {
    PyObject *list = PyList_New(0);
    for (; list && *names; names++) {
        PyObject *name = PyUnicode_FromString(*names);
        if (!name || PyList_Append(list, name)) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

/* "did you mean 'inputs'?", or all names; NULL: an error is set. */
static PyObject *advise(PyObject *key, char **names) {
    PyObject *known = list_of(names), *tools = known ? PyImport_ImportModule("difflib") : NULL;
    PyObject *near = tools ? PyObject_CallMethod(tools, "get_close_matches", "OOi", key, known, 1) : NULL;
    PyObject *first = near && PyList_Size(near) ? PyList_GetItem(near, 0) : NULL;
    PyObject *text = first ? TEXT("did you mean '%U'?", first) : near ? TEXT("the keywords are: %R", known) : NULL;
    Py_XDECREF(known), Py_XDECREF(tools), Py_XDECREF(near);
    return text;
}

int parse(module_state *s, PyObject *args, PyObject *keywords, const char *format, char **names, ...) {
    const char *function = strrchr(format, ':') + 1;
    PyObject *key, *value;
    for (Py_ssize_t at = 0; keywords && PyDict_Next(keywords, &at, &key, &value);) {
        int known = 0;
        for (char **name = names; *name && !known; name++) known = PyUnicode_CompareWithASCIIString(key, *name) == 0;
        if (!known)
            return raise_fix(s, MTH_ERROR_TYPE, TEXT("%s() has no keyword '%U'", function, key), advise(key, names)), 0;
    }
    va_list out;
    va_start(out, names);
    int parsed = PyArg_VaParseTupleAndKeywords(args, keywords, format, names, out);
    va_end(out);
    int overflow = !parsed && PyErr_ExceptionMatches(PyExc_OverflowError);
    if (parsed || (!overflow && !PyErr_ExceptionMatches(PyExc_TypeError))) return parsed;
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyObject *what = error ? PyObject_Str(error) : PyUnicode_FromString("wrong arguments"), *known = list_of(names);
    PyObject *start = PyUnicode_FromString(function);
    int named = what && start && PyUnicode_Tailmatch(what, start, 0, PY_SSIZE_T_MAX, -1) > 0;
    if (what && !named) {
        PyObject *alone = what;
        what = TEXT("%s(): %U", function, alone);
        Py_DECREF(alone);
    }
    Py_XDECREF(start);
    raise_fix(s, overflow ? MTH_ERROR_VALUE : MTH_ERROR_TYPE, what,
              overflow ? TEXT("give numbers below 2**63") : known ? TEXT("the arguments are: %R", known) : NULL);
    Py_XDECREF(type), Py_XDECREF(error), Py_XDECREF(trace), Py_XDECREF(known);
    return 0;
}

/* ---------------------------------------------------------------- options */
static int list_to_arg(module_state *s, PyObject *object, const char *name, pool *p, mth_arg *out) {
    PyObject *list = PySequence_List(object);
    if (pool_keep(p, list)) return -1;
    size_t n = (size_t)PyList_Size(list);
    mth_arg *items = pool_take(p, n, sizeof *items);
    if (!items) return -1;
    for (size_t i = 0; i < n; i++) if (to_arg(s, PyList_GetItem(list, (Py_ssize_t)i), name, p, &items[i])) return -1;
    *out = mth_list(n, items);
    return 0;
}

static int dict_to_arg(module_state *s, PyObject *object, const char *name, pool *p, mth_arg *out) {
    size_t n = (size_t)PyDict_Size(object), i = 0;
    mth_arg *items = pool_take(p, n, sizeof *items);
    const char **keys = pool_take(p, n, sizeof *keys);
    if (!items || !keys) return -1;
    PyObject *key, *value;
    for (Py_ssize_t at = 0; i < n && PyDict_Next(object, &at, &key, &value); i++) {
        if (pool_keep(p, Py_NewRef(key)) || !(keys[i] = to_name(s, key, "a key")) || to_arg(s, value, name, p, &items[i])) return -1;
    }
    *out = mth_dict(i, keys, items);
    return 0;
}

int to_arg(module_state *s, PyObject *object, const char *name, pool *p, mth_arg *out) {
    int failed = -1;
    if (Py_EnterRecursiveCall(" in an option")) return -1;
    if (object == Py_None) *out = MTH_NONE, failed = 0;
    else if (PyBool_Check(object)) *out = mth_bool(object == Py_True), failed = 0;
    else if (PyFloat_Check(object)) *out = mth_float(PyFloat_AsDouble(object)), failed = 0;
    else if (PyUnicode_Check(object)) {
        const char *text = to_name(s, object, name);
        if (text && !pool_keep(p, Py_NewRef(object))) *out = mth_string(text), failed = 0;
    }
    else if (PyLong_Check(object)) {
        int overflow;
        long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
        if (overflow)
            raise_fix(s, MTH_ERROR_VALUE, TEXT("%s is %.80R, which does not fit in 64 bits", name, object),
                      TEXT("give a number below 2**63"));
        else *out = mth_int(value), failed = 0;
    }
    else if (PyObject_TypeCheck(object, s->model_type)) {
        if (!pool_keep(p, Py_NewRef(object))) *out = mth_submodel(((model_object *)object)->model), failed = 0;
    }
    else if (PyDict_Check(object)) failed = dict_to_arg(s, object, name, p, out);
    else if (PyList_Check(object) || PyTuple_Check(object) || PyRange_Check(object)) failed = list_to_arg(s, object, name, p, out);
    else if (PyObject_HasAttrString(object, "tolist")) { /* NumPy's scalars and arrays */
        PyObject *plain = PyObject_CallMethod(object, "tolist", NULL);
        if (!pool_keep(p, plain)) failed = to_arg(s, plain, name, p, out);
    }
    else if (PyIndex_Check(object)) {
        PyObject *plain = PyNumber_Index(object);
        if (!pool_keep(p, plain)) failed = to_arg(s, plain, name, p, out);
    }
    else if (PyObject_TypeCheck(object, s->module_type) || PyObject_TypeCheck(object, s->block_type))
        raise_fix(s, MTH_ERROR_TYPE, TEXT("%s holds a module, %.80R, where a model is expected", name, object),
                  TEXT("put it into a model first: stage = ml.Model(); stage |= ...(input=\"input\", output=\"output\")"));
    else raise_fix(s, MTH_ERROR_TYPE, TEXT("%s is %.80R: no option takes a %.80R", name, object, (PyObject *)Py_TYPE(object)),
                   TEXT("give None, a bool, a number, a str, a tuple or list of such, a dict, or a Model"));
    Py_LeaveRecursiveCall();
    return failed;
}

int to_options(module_state *s, PyObject *keywords, size_t given, pool *p, mth_option **out, size_t *count) {
    size_t n = keywords ? (size_t)PyDict_Size(keywords) : 0, i = given;
    mth_option *options = pool_take(p, given + n, sizeof *options);
    if (!options) return -1;
    PyObject *key, *value;
    for (Py_ssize_t at = 0; i < given + n && PyDict_Next(keywords, &at, &key, &value); i++) {
        if (!(options[i].name = to_name(s, key, "a keyword")) || to_arg(s, value, options[i].name, p, &options[i].value)) return -1;
    }
    *out = options;
    *count = i;
    return 0;
}

int to_dtype(module_state *s, PyObject *object, mth_dtype *out) {
    /* "float32", numpy.dtype("float32"), numpy.float32, torch.float32: the name is the text, an attribute, or behind a dot. */
    PyObject *name = PyUnicode_Check(object) ? Py_NewRef(object) : NULL;
    for (int i = 0; !name && i < 2; i++) if (!(name = PyObject_GetAttrString(object, i ? "__name__" : "name"))) PyErr_Clear();
    if (!name) name = PyObject_Str(object);
    const char *text = name ? to_name(s, name, "dtype") : NULL;
    int found = 0;
    if (text) {
        if (strrchr(text, '.')) text = strrchr(text, '.') + 1;
        for (mth_dtype d = MTH_FLOAT32; (int)d < DTYPES; d++) if (strcmp(text, mth_dtype_name(d)) == 0) *out = d, found = 1;
        if (!found) raise_fix(s, MTH_ERROR_TYPE, TEXT("dtype is %.80R, which arrays can't have", object),
                              TEXT("give 'float32', 'float64', 'int32', 'int64', 'bool' or 'bfloat16'"));
    }
    Py_XDECREF(name);
    return found ? 0 : -1;
}

/* ---------------------------------------------------------------- arrays: what foreign data looks like */
typedef struct {
    const char *data;
    int rank;
    int64_t shape[8], stride[8]; /* strides in bytes */
    char kind;                   /* 'f' float, 'h' bfloat16, 'i' signed, 'u' unsigned, 'b' bool */
    int size;                    /* bytes of an element */
} view;

static mth_dtype natural(const view *v) {
    if (v->kind == 'f' || v->kind == 'h') return MTH_FLOAT32;
    if (v->kind == 'b') return MTH_BOOL;
    return v->size < 4 || (v->size == 4 && v->kind == 'i') ? MTH_INT32 : MTH_INT64;
}

static int is_row_major(const view *v) {
    int64_t stride = v->size;
    for (int d = v->rank - 1; d >= 0; d--) {
        if (v->shape[d] != 1 && v->stride[d] != stride) return v->shape[d] == 0;
        stride *= v->shape[d];
    }
    return 1;
}

static float half_to_float(uint16_t h) {
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double value = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return (float)(h >> 15 ? -value : value);
}

static float bfloat_to_float(uint16_t b) {
    uint32_t bits = (uint32_t)b << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double read_real(const char *at, char kind, int size) {
    union { float f; double d; uint16_t h; } u;
    memcpy(&u, at, (size_t)size);
    return kind == 'h' ? bfloat_to_float(u.h) : size == 2 ? half_to_float(u.h) : size == 4 ? u.f : u.d;
}

static int64_t read_integer(const char *at, char kind, int size) {
    uint64_t u = 0;
    memcpy(&u, at, (size_t)size); /* little-endian, as all machines that the library is built for */
    return kind == 'i' && size < 8 && u >> (8 * size - 1) ? (int64_t)(u | ~(uint64_t)0 << (8 * size)) : (int64_t)u;
}

static void write_element(void *to, size_t i, mth_dtype dtype, double real, int64_t integer) {
    switch (dtype) {
    case MTH_FLOAT32: ((float *)to)[i] = (float)real; break;
    case MTH_FLOAT64: ((double *)to)[i] = real; break;
    case MTH_INT32: ((int32_t *)to)[i] = (int32_t)integer; break;
    case MTH_INT64: ((int64_t *)to)[i] = integer; break;
    case MTH_BOOL: ((uint8_t *)to)[i] = real != 0; break;
    case MTH_BFLOAT16: {
        float value = (float)real;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        ((uint16_t *)to)[i] = (uint16_t)(value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to nearest even */
    }
    }
}

/* Row-major, in dtype. Returns 0, or -1 where an integer doesn't fit (`bad` is it). */
static int pack(const view *v, mth_dtype dtype, void *to, int64_t *bad) {
    int64_t index[8] = {0}, total = 1, inner = v->rank ? v->shape[v->rank - 1] : 1, step = v->rank ? v->stride[v->rank - 1] : 0;
    for (int d = 0; d < v->rank; d++) total *= v->shape[d];
    for (int64_t done = 0; done < total; done += inner) {
        const char *row = v->data;
        for (int d = 0; d < v->rank - 1; d++) row += index[d] * v->stride[d];
        if (dtype == MTH_FLOAT32 && v->kind == 'f' && v->size == 8)
            for (int64_t i = 0; i < inner; i++) {
                double real;
                memcpy(&real, row + i * step, sizeof real);
                ((float *)to)[done + i] = (float)real;
            }
        else if (dtype == MTH_FLOAT32 && v->kind == 'f' && v->size == 4)
            for (int64_t i = 0; i < inner; i++) memcpy((float *)to + done + i, row + i * step, sizeof(float));
        else for (int64_t i = 0; i < inner; i++) {
            if (v->kind == 'f' || v->kind == 'h') {
                double real = read_real(row + i * step, v->kind, v->size);
                write_element(to, (size_t)(done + i), dtype, real, (int64_t)real);
                continue;
            }
            int64_t integer = read_integer(row + i * step, v->kind, v->size);
            if ((dtype == MTH_INT32 && integer != (int32_t)integer) || (v->kind == 'u' && v->size == 8 && integer < 0)) {
                *bad = integer;
                return -1;
            }
            write_element(to, (size_t)(done + i), dtype, (double)integer, integer);
        }
        for (int d = v->rank - 2; d >= 0 && ++index[d] == v->shape[d]; d--) index[d] = 0;
    }
    return 0;
}

/* Whose memory a view shows: an exporter of the buffer protocol, or a DLPack capsule, whose own destructor releases it. */
typedef struct { Py_buffer buffer; PyObject *capsule; } source;

static void source_free(source *from) {
    if (!from) return;
    if (from->buffer.obj) PyBuffer_Release(&from->buffer);
    Py_XDECREF(from->capsule);
    free(from);
}
static void source_release(void *from) { /* by the array that borrowed it: on any thread */
    PyGILState_STATE gil = PyGILState_Ensure();
    source_free(from);
    PyGILState_Release(gil);
}

typedef struct { module_state *s; mth_backend *backend; const char *name; mth_dtype wanted; const mth_arg *spec; int borrow; } conversion;

/* Takes over `from` where it gives an array that borrows the memory. */
static mth_array *array_of_view(const conversion *c, const view *v, source **from) {
    module_state *s = c->s;
    const char *name = c->name;
    mth_dtype wanted = c->wanted;
    mth_dtype dtype = wanted ? wanted : natural(v);
    if ((dtype == MTH_INT32 || dtype == MTH_INT64) && (v->kind == 'f' || v->kind == 'h'))
        return raise_fix(s, MTH_ERROR_TYPE, TEXT("%s holds floating numbers, where %s is expected", name, mth_dtype_name(dtype)),
                         TEXT("round and cast them first: x.astype(\"%s\")", mth_dtype_name(dtype)));
    mth_array *array = NULL;
    mth_status status;
    int direct = is_row_major(v) && (size_t)v->size == mth_dtype_size(dtype) &&
                 v->kind == (dtype == MTH_BOOL                          ? 'b'
                             : dtype == MTH_BFLOAT16                    ? 'h'
                             : dtype == MTH_INT32 || dtype == MTH_INT64 ? 'i'
                                                                        : 'f');
    void *packed = NULL;
    if (!direct) {
        size_t total = 1;
        for (int d = 0; d < v->rank; d++) total *= (size_t)v->shape[d];
        packed = malloc(total * mth_dtype_size(dtype) + 1);
        if (!packed) { PyErr_NoMemory(); return NULL; }
    }
    int64_t bad = 0;
    int failed = 0;
    const int borrow = direct && c->borrow;
    Py_BEGIN_ALLOW_THREADS
    if (packed) failed = pack(v, dtype, packed, &bad);
    status = failed   ? NULL
             : borrow ? mth_array_borrow(c->backend, dtype, v->rank, v->shape, v->data, source_release, *from, &array)
                      : mth_array_from_data(c->backend, dtype, v->rank, v->shape, packed ? packed : v->data, c->spec, &array);
    Py_END_ALLOW_THREADS
    if (borrow && !status) *from = NULL;
    free(packed);
    if (failed)
        return raise_fix(
            s, MTH_ERROR_VALUE,
            TEXT("%s holds a number that does not fit in %s: %lld (read as signed)", name, mth_dtype_name(dtype), (long long)bad),
            TEXT("use int64 with values below 2**63"));
    return status ? raise_status(s, status) : array;
}

/* ---------------------------------------------------------------- the buffer protocol */
static int view_of_buffer(module_state *s, const Py_buffer *b, const char *name, view *v) {
    const char *format = b->format ? b->format : "B";
    if (*format == '@' || *format == '=' || *format == '<') format++;
    *v = (view){.data = b->buf, .rank = b->ndim, .size = (int)b->itemsize};
    v->kind = *format && !format[1] ? (char)(strchr("fde", *format)      ? 'f'
                                             : strchr("bhilqn", *format) ? 'i'
                                             : strchr("BHILQN", *format) ? 'u'
                                             : *format == '?'            ? 'b'
                                                                         : 0)
                                    : 0;
    if (!v->kind || b->itemsize > 8) {
        raise_fix(s, MTH_ERROR_TYPE, TEXT("%s has elements of the format '%s', which arrays can't have", name, b->format ? b->format : "B"),
                  TEXT("cast it first: x.astype(\"float32\"), or \"int64\" for ids"));
        return -1;
    }
    if (b->ndim > 8) {
        raise_fix(s, MTH_ERROR_VALUE, TEXT("%s has %d dimensions; arrays have at most 8", name, b->ndim), TEXT("reshape it"));
        return -1;
    }
    for (int d = 0; d < b->ndim; d++) v->shape[d] = b->shape[d], v->stride[d] = b->strides[d];
    return 0;
}

/* ---------------------------------------------------------------- DLPack */
static int view_of_dlpack(module_state *s, const dlpack_tensor *t, const char *name, view *v) {
    if (t->device_type != DLPACK_CPU && t->device_type != DLPACK_CUDA_HOST) {
        raise_fix(s, MTH_ERROR_VALUE, TEXT("%s is on another device than the host (DLPack device type %d)", name, t->device_type),
                  TEXT("copy it to the host first: x.cpu()"));
        return -1;
    }
    *v = (view){.data = (const char *)t->data + t->byte_offset, .rank = t->rank, .size = t->bits / 8};
    v->kind = (char)(t->code == DLPACK_FLOAT    ? 'f'
                     : t->code == DLPACK_BFLOAT ? 'h'
                     : t->code == DLPACK_INT    ? 'i'
                     : t->code == DLPACK_UINT   ? 'u'
                     : t->code == DLPACK_BOOL   ? 'b'
                                                : 0);
    int known = v->kind && t->lanes == 1 &&
                (v->kind == 'b'   ? t->bits == 8
                 : v->kind == 'h' ? t->bits == 16
                 : v->kind == 'f' ? t->bits == 16 || t->bits == 32 || t->bits == 64
                                  : t->bits == 8 || t->bits == 16 || t->bits == 32 || t->bits == 64);
    if (!known) {
        raise_fix(s, MTH_ERROR_TYPE,
                  TEXT("%s has elements of DLPack type code %d with %d bits, which arrays can't have", name, t->code, t->bits),
                  TEXT("cast it to float32 first, or to int64 for ids"));
        return -1;
    }
    if (t->rank > 8) {
        raise_fix(s, MTH_ERROR_VALUE, TEXT("%s has %d dimensions; arrays have at most 8", name, t->rank), TEXT("reshape it"));
        return -1;
    }
    int64_t stride = v->size;
    for (int d = t->rank - 1; d >= 0; stride *= t->shape[d], d--)
        v->shape[d] = t->shape[d], v->stride[d] = t->strides ? t->strides[d] * v->size : stride;
    return 0;
}

static mth_array *array_of_dlpack(const conversion *c, PyObject *object) {
    module_state *s = c->s;
    const char *name = c->name;
    source *from = calloc(1, sizeof *from);
    if (!from) { PyErr_NoMemory(); return NULL; }
    from->capsule = PyObject_CallMethod(object, "__dlpack__", NULL);
    if (!from->capsule) { /* torch says so for a tensor that requires gradients; keep its reason */
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        PyObject *why = value ? PyObject_Str(value) : PyUnicode_FromString("no reason given");
        Py_XDECREF(type), Py_XDECREF(value), Py_XDECREF(trace);
        raise_fix(s, MTH_ERROR_TYPE, why ? TEXT("%s refuses to share its data: %U", name, why) : NULL,
                  TEXT("pass x.detach(), or numpy.asarray(x)"));
        Py_XDECREF(why);
        source_free(from);
        return NULL;
    }
    mth_array *array = NULL;
    dlpack_managed *managed = PyCapsule_GetPointer(from->capsule, "dltensor");
    if (managed) {
        view v;
        if (!view_of_dlpack(s, &managed->tensor, name, &v)) array = array_of_view(c, &v, &from);
    } else {
        PyErr_Clear();
        raise_fix(s, MTH_ERROR_TYPE, TEXT("%s: __dlpack__() gave no capsule named dltensor", name), TEXT("pass numpy.asarray(x)"));
    }
    source_free(from);
    return array;
}

/* Memory that the buffer protocol can't describe, such as bfloat16, raises BufferError or another of Python's own. */
static mth_array *array_of_buffer(const conversion *c, PyObject *object, int *refused) {
    source *from = calloc(1, sizeof *from);
    if (!from) { PyErr_NoMemory(); return NULL; }
    mth_array *array = NULL;
    view v;
    *refused = PyObject_GetBuffer(object, &from->buffer, PyBUF_STRIDES | PyBUF_FORMAT);
    if (!*refused && !view_of_buffer(c->s, &from->buffer, c->name, &v)) array = array_of_view(c, &v, &from);
    source_free(from);
    return array;
}

static void *raise_not_array(module_state *s, PyObject *object, const char *name) {
    if (object == Py_None)
        return raise_fix(s, MTH_ERROR_TYPE, TEXT("%s is None, where an array is expected", name), TEXT("leave it out, or give an array"));
    PyObject *type = type_text(object);
    PyObject *what = type ? TEXT("%s is %U, where an array is expected: its dtype and shape would be a guess", name, type) : NULL;
    Py_XDECREF(type);
    return raise_fix(s, MTH_ERROR_TYPE, what, TEXT("pass backend.array(x), or numpy.asarray(x, dtype=\"float32\") (\"int32\" for ids)"));
}

static mth_array *convert(const conversion *c, PyObject *object) {
    module_state *s = c->s;
    if (PyObject_TypeCheck(object, s->array_type)) {
        mth_array *array = ((array_object *)object)->array;
        if (!c->spec && (!c->wanted || c->wanted == mth_array_get_dtype(array))) {
            mth_array_retain(array);
            return array;
        }
    }
    if (PyBytes_Check(object) || PyByteArray_Check(object)) return raise_not_array(s, object, c->name);
    int dlpack = PyObject_HasAttrString(object, "__dlpack__");
    if (PyObject_CheckBuffer(object)) {
        int refused = 0;
        mth_array *array = array_of_buffer(c, object, &refused);
        if (!refused || !dlpack) return array;
        PyErr_Clear();
    }
    return dlpack ? array_of_dlpack(c, object) : raise_not_array(s, object, c->name);
}

mth_array *to_array(module_state *s, mth_backend *backend, PyObject *object, const char *name, mth_dtype wanted, const mth_arg *spec) {
    return convert(&(conversion){s, backend, name, wanted, spec, 0}, object);
}

/* ---------------------------------------------------------------- mappings */
void named_free(mth_named *named, size_t count) {
    for (size_t i = 0; named && i < count; i++) mth_array_free(named[i].array);
}

int to_named(module_state *s, mth_backend *backend, PyObject *mapping, const char *what, pool *p, mth_named **out, size_t *count) {
    if (!PyDict_Check(mapping) && !PyObject_HasAttrString(mapping, "keys")) {
        PyObject *type = type_text(mapping);
        raise_fix(s, MTH_ERROR_TYPE, type ? TEXT("%s is %U, where a mapping of names to arrays is expected", what, type) : NULL,
                  TEXT("give a dict: {\"name\": array}"));
        Py_XDECREF(type);
        return -1;
    }
    PyObject *items = PyMapping_Items(mapping);
    if (pool_keep(p, items)) return -1;
    size_t n = (size_t)PyList_Size(items), i = 0;
    mth_named *named = pool_take(p, n, sizeof *named);
    for (; named && i < n; i++) {
        PyObject *item = PyList_GetItem(items, (Py_ssize_t)i);
        if (!PyTuple_Check(item) || PyTuple_Size(item) != 2) {
            PyErr_SetString(PyExc_TypeError, "items() of a mapping must be pairs");
            break;
        }
        const char *name = to_name(s, PyTuple_GetItem(item, 0), "a name");
        char label[160];
        if (!name) break;
        PyOS_snprintf(label, sizeof label, "%s['%s']", what, name);
        named[i].name = name;
        if (!(named[i].array = convert(&(conversion){s, backend, label, 0, NULL, 1}, PyTuple_GetItem(item, 1)))) break;
    }
    if (!named || i < n) {
        named_free(named, i);
        return -1;
    }
    *out = named;
    *count = n;
    return 0;
}
