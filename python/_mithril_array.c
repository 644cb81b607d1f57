#include "_mithril.h"
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- memory as Python sees it */
/* The dtype in which memory is shown: bfloat16 has no format in the buffer protocol. */
static mth_dtype shown_dtype(mth_dtype dtype) { return *mth_dtype_format(dtype) ? dtype : MTH_FLOAT32; }
static size_t shown_size(mth_dtype dtype) { return mth_dtype_size(shown_dtype(dtype)); }

static int64_t count_of(int rank, const int64_t *shape) {
    int64_t n = 1;
    for (int d = 0; d < rank; d++) n *= shape[d];
    return n;
}

/* `n` elements in the dtype in which they are shown; NULL: there is no memory. */
static void *convert_to_shown(mth_dtype dtype, const void *from, int64_t n) {
    void *to = malloc((size_t)n * shown_size(dtype) + 1);
    if (to) mth_dtype_convert(dtype, from, shown_dtype(dtype), to, (size_t)n);
    return to;
}

typedef struct {
    const mth_array *array;
    const void *data; /* `count` elements of `dtype`; NULL: those of the array, gathered */
    int64_t count;
    mth_dtype dtype;
    void *shown; /* what is made */
} showing;

/* Makes a copy in the dtype in which elements are shown. */
static mth_status show_elements(showing *job) {
    void *gathered = job->data ? NULL : malloc((size_t)job->count * mth_dtype_size(job->dtype) + 1);
    if (!job->data && !gathered) return NULL;
    mth_status status = gathered ? mth_array_gather(job->array, gathered) : NULL;
    if (!status && gathered && shown_dtype(job->dtype) == job->dtype) {
        job->shown = gathered;
        return NULL;
    }
    if (!status) job->shown = convert_to_shown(job->dtype, gathered ? gathered : job->data, job->count);
    free(gathered);
    return status;
}

/* A copy of its own of what `job` says, or NULL with an exception set. No signal ends it: NumPy takes what the buffer
   protocol raises for a lack of it, KeyboardInterrupt too, and asks in another way. */
static void *shown_copy(module_state *state, showing *job) {
    mth_status status;
    Py_BEGIN_ALLOW_THREADS status = show_elements(job);
    Py_END_ALLOW_THREADS if (status) return raise_status(state, status);
    if (!job->shown) PyErr_NoMemory();
    return job->shown;
}

static void fill_strides(int rank, const int64_t *size, size_t element, Py_ssize_t *shape, Py_ssize_t *strides) {
    Py_ssize_t stride = (Py_ssize_t)element;
    for (int d = rank - 1; d >= 0; stride *= shape[d], d--) shape[d] = (Py_ssize_t)size[d], strides[d] = stride;
}

static int fill_buffer(PyObject *owner, Py_buffer *out, int flags, const void *data, mth_dtype dtype, int rank,
    Py_ssize_t *shape, Py_ssize_t *strides) {
    static char nothing[8]; /* where a part of no elements lies */
    out->obj = NULL;
    if (flags & PyBUF_WRITABLE) {
        PyErr_SetString(
            PyExc_BufferError, "arrays of mithril are read-only; numpy.array(x) makes a copy that can be written");
        return -1;
    }
    if ((flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS && rank > 1) {
        PyErr_SetString(
            PyExc_BufferError, "arrays of mithril are row-major; numpy.asfortranarray(x) makes a copy that is not");
        return -1;
    }
    Py_ssize_t bytes = (Py_ssize_t)shown_size(dtype);
    for (int d = 0; d < rank; d++) bytes *= shape[d];
    *out = (Py_buffer){.buf = (void *)(bytes ? data : nothing),
        .obj = Py_NewRef(owner),
        .len = bytes,
        .itemsize = (Py_ssize_t)shown_size(dtype),
        .readonly = 1,
        .ndim = rank,
        .format = flags & PyBUF_FORMAT ? (char *)mth_dtype_format(shown_dtype(dtype)) : NULL,
        .shape = flags & PyBUF_ND ? shape : NULL,
        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? strides : NULL};
    return 0;
}

/* ---------------------------------------------------------------- shards */
typedef struct {
    PyObject_HEAD PyObject *array; /* whose memory it is */
    mth_shard shard;
    mth_dtype dtype;
    int rank;
    void *converted; /* where it is shown in another dtype than it has; when first asked for */
    Py_ssize_t shape[8], strides[8];
} shard_object;

static PyObject *shard_new(module_state *s, array_object *array, size_t i) {
    allocfunc allocate = PyType_GetSlot(s->shard_type, Py_tp_alloc);
    shard_object *self = (shard_object *)allocate(s->shard_type, 0);
    if (!self) return NULL;
    self->array = Py_NewRef((PyObject *)array);
    self->shard = mth_array_get_shard(array->array, i);
    self->dtype = mth_array_get_dtype(array->array);
    self->rank = mth_array_get_rank(array->array);
    fill_strides(self->rank, self->shard.size, shown_size(self->dtype), self->shape, self->strides);
    return (PyObject *)self;
}

static void shard_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    free(((shard_object *)self)->converted);
    Py_XDECREF(((shard_object *)self)->array);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static void *raise_layout(module_state *state) {
    return raise_fix(state, MTH_ERROR_VALUE, TEXT("the array is a layout: it has a shape and a sharding, and no data"),
        TEXT("take get_parameters(), or ml.read_safetensors"));
}

static int shard_buffer(PyObject *object, Py_buffer *out, int flags) {
    shard_object *self = (shard_object *)object;
    int64_t n = count_of(self->rank, self->shard.size);
    const void *data = self->shard.data;
    out->obj = NULL;
    if (!data && n) {
        raise_layout(STATE(object));
        return -1;
    }
    if (data && shown_dtype(self->dtype) != self->dtype) {
        if (!self->converted) {
            void *shown = shown_copy(STATE(object), &(showing){.data = data, .count = n, .dtype = self->dtype});
            if (!shown) return -1;
            if (self->converted)
                free(shown); /* another thread was here meanwhile */
            else
                self->converted = shown;
        }
        data = self->converted;
    }
    return fill_buffer(object, out, flags, data, self->dtype, self->rank, self->shape, self->strides);
}

static PyObject *shard_data(PyObject *object, void *unused) {
    (void)unused;
    shard_object *self = (shard_object *)object;
    mth_array *array = ((array_object *)self->array)->array;
    if (self->shard.data && leaves_as_tensors(array))
        return tensor_over(STATE(object), array, self->shard.data, self->rank, self->shard.size);
    return PyMemoryView_FromObject(object);
}
static PyObject *shard_device(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(((shard_object *)self)->shard.device_id);
}

static PyObject *shard_index(PyObject *object, void *unused) {
    (void)unused;
    shard_object *self = (shard_object *)object;
    PyObject *index = PyTuple_New(self->rank);
    for (int d = 0; index && d < self->rank; d++) {
        long long start = self->shard.start[d], size = self->shard.size[d], step = self->shard.step[d];
        PyObject *from = PyLong_FromLongLong(start),
                 *to = PyLong_FromLongLong(size ? start + (size - 1) * step + 1 : start);
        PyObject *by = step > 1 ? PyLong_FromLongLong(step) : Py_NewRef(Py_None);
        PyObject *slice = from && to && by ? PySlice_New(from, to, by) : NULL;
        Py_XDECREF(from), Py_XDECREF(to), Py_XDECREF(by);
        if (!slice || PyTuple_SetItem(index, d, slice)) Py_CLEAR(index);
    }
    return index;
}

static PyObject *shard_repr(PyObject *self) {
    PyObject *index = shard_index(self, NULL),
             *text = index
        ? TEXT("Shard(device_id=%lld, index=%R)", (long long)((shard_object *)self)->shard.device_id, index)
        : NULL;
    Py_XDECREF(index);
    return text;
}

static PyGetSetDef shard_getset[] = {
    {"device_id", shard_device, NULL, "The device that holds the part.", NULL},
    {"index", shard_index, NULL,
        "Where the part lies in the whole: a slice for each dimension, so that numpy.asarray(array)[shard.index] is "
        "its data.",
        NULL},
    {"data", shard_data, NULL,
        "The device's own memory, without a copy: a memoryview (bfloat16 is shown as float32), of TorchBackend a "
        "torch.Tensor.",
        NULL},
    {0},
};
static PyMethodDef shard_methods[] = {NO_PICKLE, COPY, DEEP_COPY, {0}};
static PyType_Slot shard_slots[] = {
    {Py_tp_methods, shard_methods},
    {Py_tp_doc, "The part of an array that one device holds."},
    {Py_tp_dealloc, shard_dealloc},
    {Py_tp_repr, shard_repr},
    {Py_tp_getset, shard_getset},
    {Py_bf_getbuffer, shard_buffer},
    {0, NULL},
};
static PyType_Spec shard_spec = {
    "mithril.Shard", sizeof(shard_object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, shard_slots};

/* ---------------------------------------------------------------- arrays */
static PyObject *list_shards(module_state *state, array_object *self) {
    size_t n = mth_array_get_shard_count(self->array);
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list && i < n; i++) {
        PyObject *shard = shard_new(state, self, i);
        if (!shard || PyList_SetItem(list, (Py_ssize_t)i, shard)) Py_CLEAR(list);
    }
    return list;
}

/* A tensor over the array's memory, which has the array's attributes that tensors have not. Takes the array. */
static PyObject *as_tensor(module_state *state, array_object *array) {
    PyObject *tensor = tensor_over(state, array->array, mth_array_get_whole(array->array),
        mth_array_get_rank(array->array), mth_array_get_shape(array->array));
    PyObject *shards = tensor ? list_shards(state, array) : NULL,
             *sharding = shards ? PyUnicode_FromString(mth_array_get_sharding(array->array)) : NULL;
    if (!sharding || PyObject_SetAttrString(tensor, "addressable_shards", shards) ||
        PyObject_SetAttrString(tensor, "sharding", sharding))
        Py_CLEAR(tensor);
    Py_XDECREF(shards), Py_XDECREF(sharding);
    Py_DECREF(array);
    return tensor;
}

PyObject *array_new(module_state *state, mth_array *taken) {
    allocfunc allocate = PyType_GetSlot(state->array_type, Py_tp_alloc);
    array_object *self = (array_object *)allocate(state->array_type, 0);
    if (!self) {
        mth_array_free(taken);
        return NULL;
    }
    self->array = taken;
    fill_strides(mth_array_get_rank(taken), mth_array_get_shape(taken), shown_size(mth_array_get_dtype(taken)),
        self->shape, self->strides);
    return leaves_as_tensors(taken) && mth_array_get_whole(taken) ? as_tensor(state, self) : (PyObject *)self;
}

PyObject *arrays_to_dict(module_state *state, mth_arrays *taken) {
    PyObject *dict = PyDict_New();
    for (size_t i = 0, n = mth_arrays_get_count(taken); dict && i < n; i++) {
        mth_named named = mth_arrays_get(taken, i);
        mth_array_retain(named.array);
        PyObject *array = array_new(state, named.array);
        if (!array || PyDict_SetItemString(dict, named.name, array)) Py_CLEAR(dict);
        Py_XDECREF(array);
    }
    mth_arrays_free(taken);
    return dict;
}

int64_t array_count(const array_object *self) {
    return count_of(mth_array_get_rank(self->array), mth_array_get_shape(self->array));
}

enum { LARGE = 1 << 24 /* bytes that take long to be given back */ };
static void free_array(void *array) { mth_array_free(array); }

static void array_dealloc(PyObject *object) {
    array_object *self = (array_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    const bool large = array_count(self) * (int64_t)mth_dtype_size(mth_array_get_dtype(self->array)) > LARGE;
    if (large)
        free_unlocked(free_array, self->array);
    else
        mth_array_free(self->array);
    if (large)
        free_unlocked(free, self->gathered);
    else
        free(self->gathered);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* The whole data: the memory of the shard that is all of it, or else a copy that is gathered once and stays. */
static const void *array_whole(array_object *self) {
    if (self->whole) return self->whole;
    const void *whole = mth_array_get_whole(self->array);
    const mth_dtype dtype = mth_array_get_dtype(self->array);
    if (whole && shown_dtype(dtype) == dtype) return self->whole = whole;
    void *shown = shown_copy(STATE(self), &(showing){self->array, whole, array_count(self), dtype, NULL});
    if (!shown) return NULL;
    if (self->whole)
        free(shown); /* another thread was here meanwhile */
    else
        self->whole = self->gathered = shown;
    return self->whole;
}

static int array_buffer(PyObject *object, Py_buffer *out, int flags) {
    array_object *self = (array_object *)object;
    out->obj = NULL;
    const void *whole = array_whole(self);
    if (!whole) return -1;
    return fill_buffer(object, out, flags, whole, mth_array_get_dtype(self->array), mth_array_get_rank(self->array),
        self->shape, self->strides);
}

PyObject *shape_to_tuple(int rank, const int64_t *shape) {
    PyObject *tuple = PyTuple_New(rank);
    for (int d = 0; tuple && d < rank; d++) {
        PyObject *size = PyLong_FromLongLong(shape[d]);
        if (!size || PyTuple_SetItem(tuple, d, size)) Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *array_shape(PyObject *self, void *unused) {
    (void)unused;
    mth_array *array = ((array_object *)self)->array;
    return shape_to_tuple(mth_array_get_rank(array), mth_array_get_shape(array));
}
static PyObject *array_rank(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(mth_array_get_rank(((array_object *)self)->array));
}
static PyObject *array_size(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(array_count((array_object *)self));
}
static PyObject *array_bytes(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(array_count((array_object *)self) *
        (long long)mth_dtype_size(mth_array_get_dtype(((array_object *)self)->array)));
}
static PyObject *array_sharding(PyObject *self, void *unused) {
    (void)unused;
    return PyUnicode_FromString(mth_array_get_sharding(((array_object *)self)->array));
}

static PyObject *array_dtype(PyObject *self, void *unused) {
    (void)unused;
    module_state *s = STATE(self);
    mth_dtype dtype = mth_array_get_dtype(((array_object *)self)->array);
    const char *name = mth_dtype_name(dtype);
    if (!s->dtypes && !(s->dtypes = PyDict_New())) return NULL;
    PyObject *key = PyUnicode_FromString(name), *made = key ? PyDict_GetItemWithError(s->dtypes, key) : NULL;
    if (key && !made && !PyErr_Occurred()) { /* NumPy's where it has one, else the name */
        PyObject *numpy = shown_dtype(dtype) != dtype ? NULL : PyImport_ImportModule("numpy");
        const int missing = !numpy && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_ImportError);
        if (missing) PyErr_Clear();
        made = numpy ? PyObject_CallMethod(numpy, "dtype", "s", name) : PyErr_Occurred() ? NULL : Py_NewRef(key);
        Py_XDECREF(numpy);
        if (made && PyDict_SetItem(s->dtypes, key, made)) Py_CLEAR(made);
    } else
        Py_XINCREF(made);
    Py_XDECREF(key);
    return made;
}

static PyObject *array_shards(PyObject *self, void *unused) {
    (void)unused;
    return list_shards(STATE(self), (array_object *)self);
}

static Py_ssize_t array_length(PyObject *self) {
    mth_array *array = ((array_object *)self)->array;
    if (mth_array_get_rank(array)) return (Py_ssize_t)mth_array_get_shape(array)[0];
    PyErr_SetString(PyExc_TypeError, "len() of an array without dimensions");
    return -1;
}

static PyObject *array_tolist(PyObject *self, PyObject *unused) {
    (void)unused;
    PyObject *view = PyMemoryView_FromObject(self), *list = view ? PyObject_CallMethod(view, "tolist", NULL) : NULL;
    Py_XDECREF(view);
    return list;
}

static PyObject *array_item(PyObject *self, PyObject *unused) {
    (void)unused;
    array_object *a = (array_object *)self;
    int64_t n = array_count(a);
    if (n != 1)
        return raise_fix(STATE(self), MTH_ERROR_VALUE, TEXT("an array of %lld elements is no number", (long long)n),
            TEXT("take numpy.asarray(x), or tolist()"));
    const void *data = array_whole(a);
    if (!data) return NULL;
    const mth_dtype dtype = mth_array_get_dtype(a->array);
    double real = 0;
    int64_t integer = 0;
    if (mth_dtype_get_class(dtype) == MTH_CLASS_FLOATING) {
        mth_dtype_convert(shown_dtype(dtype), data, MTH_FLOAT64, &real, 1);
        return PyFloat_FromDouble(real);
    }
    mth_dtype_convert(dtype, data, MTH_INT64, &integer, 1);
    return dtype == MTH_BOOL ? PyBool_FromLong(integer != 0) : PyLong_FromLongLong(integer);
}

static PyObject *array_float(PyObject *self) {
    PyObject *item = array_item(self, NULL), *number = item ? PyNumber_Float(item) : NULL;
    Py_XDECREF(item);
    return number;
}
static PyObject *array_int(PyObject *self) {
    PyObject *item = array_item(self, NULL), *number = item ? PyNumber_Long(item) : NULL;
    Py_XDECREF(item);
    return number;
}

static PyObject *array_numpy(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"dtype", "copy", NULL};
    PyObject *dtype = Py_None, *copy = Py_None, *result = NULL;
    pool scratch = {0};
    const int parsed = parse(STATE(self), &scratch, args, keywords, "|OO:__array__", names, &dtype, &copy);
    PyObject *numpy = parsed ? PyImport_ImportModule("numpy") : NULL,
             *view = numpy ? PyMemoryView_FromObject(self) : NULL;
    if (view) result = PyObject_CallMethod(numpy, copy == Py_True ? "array" : "asarray", "OO", view, dtype);
    if (result && copy == Py_False) { /* asked not to copy: a cast, or a gathered array, is one */
        PyObject *own = PyObject_GetAttrString(result, "dtype"), *have = array_dtype(self, NULL);
        int same = own && have && !((array_object *)self)->gathered ? PyObject_RichCompareBool(own, have, Py_EQ) : 0;
        Py_XDECREF(own), Py_XDECREF(have);
        if (same <= 0) {
            Py_CLEAR(result);
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError,
                    "the array can't be had without a copy: it is sharded, or of another dtype; leave copy=False out");
        }
    }
    Py_XDECREF(view);
    Py_XDECREF(numpy);
    pool_free(&scratch);
    return result;
}

static PyObject *array_repr(PyObject *self) {
    array_object *shown = (array_object *)self;
    mth_dtype dtype = mth_array_get_dtype(shown->array);
    size_t shards = mth_array_get_shard_count(shown->array);
    int has_data = 0;
    for (size_t i = 0; i < shards; i++) has_data |= mth_array_get_shard(shown->array, i).data != NULL;
    PyObject *shape = array_shape(self, NULL), *values = NULL, *text = NULL;
    if (shape && has_data && array_count(shown) <= 1000) {
        PyObject *numpy = PyImport_ImportModule("numpy"),
                 *array = numpy ? PyObject_CallMethod(numpy, "asarray", "O", self) : NULL;
        values = array ? PyObject_Str(array) : NULL;
        Py_XDECREF(array);
        Py_XDECREF(numpy);
        PyObject *raised = values ? NULL : take_exception(); /* without NumPy: no values */
        Py_XDECREF(raised);
    }
    if (shape && !PyErr_Occurred())
        text = values
            ? TEXT("Array(%s %R, %s\n%U)", mth_dtype_name(dtype), shape, mth_array_get_sharding(shown->array), values)
            : TEXT("Array(%s %R, %s)", mth_dtype_name(dtype), shape, mth_array_get_sharding(shown->array));
    Py_XDECREF(values);
    Py_XDECREF(shape);
    return text;
}

static PyMethodDef array_methods[] = {
    NO_PICKLE,
    COPY,
    DEEP_COPY,
    {"tolist", array_tolist, METH_NOARGS, "tolist($self, /)\n--\n\nThe values as nested lists of Python numbers."},
    {"item", array_item, METH_NOARGS, "item($self, /)\n--\n\nThe one element, as a Python number."},
    {"__array__", (PyCFunction)(void (*)(void))array_numpy, METH_VARARGS | METH_KEYWORDS,
        "__array__($self, dtype=None, copy=None)\n--\n\n"},
    {"__dlpack__", (PyCFunction)(void (*)(void))array_dlpack, METH_VARARGS | METH_KEYWORDS,
        "__dlpack__($self, *, stream=None, max_version=None, dl_device=None, copy=None)\n--\n\n"
        "A capsule of the array: of its own memory, marked as read-only, for a consumer that gives max_version of (1, "
        "0) or\n"
        "above, dl_device, and copy=None, as numpy.from_dlpack does; else of a copy, since nothing else keeps a "
        "consumer\n"
        "from writing. A sharded array is gathered into a copy."},
    {"__dlpack_device__", array_dlpack_device, METH_NOARGS, "__dlpack_device__($self, /)\n--\n\n"},
    {0},
};
static PyGetSetDef array_getset[] = {
    {"shape", array_shape, NULL, "The global shape.", NULL},
    {"dtype", array_dtype, NULL, "NumPy's dtype, or its name where NumPy has none (bfloat16) or is not installed.",
        NULL},
    {"ndim", array_rank, NULL, "The number of dimensions.", NULL},
    {"size", array_size, NULL, "The number of elements.", NULL},
    {"nbytes", array_bytes, NULL, "The bytes of the whole, held once.", NULL},
    {"sharding", array_sharding, NULL, "How it lies on the devices: \"(0, None) over mesh (4,)\".", NULL},
    {"addressable_shards", array_shards, NULL, "The part that each device holds: .device_id, .index, .data.", NULL},
    {0},
};
static PyType_Slot array_slots[] = {
    {Py_tp_doc,
        "An array on the devices of a backend, read-only. numpy.asarray(x) gives the whole of it (without a copy where "
        "one device holds it\n"
        "all), x.addressable_shards what each device holds. That memory is shared and read-only, and torch ignores\n"
        "NumPy's mark of it: numpy.array(x) is for writing, torch.from_dlpack(x) and jax.dlpack.from_dlpack(x) give a "
        "copy."},
    {Py_tp_dealloc, array_dealloc},
    {Py_tp_repr, array_repr},
    {Py_tp_methods, array_methods},
    {Py_tp_getset, array_getset},
    {Py_bf_getbuffer, array_buffer},
    {Py_sq_length, array_length},
    {Py_nb_float, array_float},
    {Py_nb_int, array_int},
    {0, NULL},
};
static PyType_Spec array_spec = {
    "mithril.Array", sizeof(array_object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, array_slots};

int add_array_types(PyObject *module, module_state *state) {
    state->array_type = add_type(module, &array_spec, NULL);
    state->shard_type = add_type(module, &shard_spec, NULL);
    return state->array_type && state->shard_type ? 0 : -1;
}
