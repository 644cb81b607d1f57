#include "_mithril.h"
#include <string.h>

typedef struct {
    const char *engine;
    const mth_option *options;
    size_t count;
    mth_backend *backend;
} backend_opening;

static mth_status open_backend(void *context) {
    backend_opening *job = context;
    return mth_backend_create(job->engine, job->options, job->count, &job->backend);
}

/* A Python subclass names its engine in the attribute _engine (mithril/backends.py). */
static PyObject *backend_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    module_state *state = state_of(type);
    PyObject *engine;
    if (find_attribute((PyObject *)type, "_engine", &engine) < 0) return NULL;
    if (!engine)
        return raise_fix(state, MTH_ERROR_TYPE, TEXT("Backend is what the backends have in common, and has no engine"),
            TEXT("make one of mithril.backends: CBackend(device_mesh=(4,)), JaxBackend(...), TorchBackend(...)"));
    const char *name = to_name(state, engine, "_engine");
    size_t given = (size_t)PyTuple_Size(args), count;
    mth_option *options;
    backend_object *self = NULL;
    pool scratch = {.operator= "backend" };
    if (!name) goto end;
    if (given > 1) {
        raise_fix(state, MTH_ERROR_TYPE, TEXT("%zu arguments are given by position; only device_mesh may be", given),
            TEXT("name the options: device_mesh=(4,), overlap_communication=True"));
        goto end;
    }
    if (to_options(state, keywords, mth_backend_option_doc(name), given, &scratch, &options, &count)) goto end;
    if (given) {
        options[0].name = "device_mesh";
        if (to_arg(state, PyTuple_GetItem(args, 0), "device_mesh", &scratch, &options[0].value)) goto end;
    }
    backend_opening job = {name, options, count, NULL};
    if (call_with_models(state, scratch.models, open_backend, &job)) goto end;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    if ((self = (backend_object *)allocate(type, 0)))
        self->backend = job.backend;
    else
        mth_backend_free(job.backend);
end:
    pool_free(&scratch);
    Py_XDECREF(engine);
    return (PyObject *)self;
}

static int backend_init(PyObject *self, PyObject *args, PyObject *keywords) { /* backend_new has done it */
    (void)self, (void)args, (void)keywords;
    return 0;
}

static void free_backend(void *backend) { mth_backend_free(backend); }

/* Hooks may hold the backend. */
static int backend_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((backend_object *)self)->hooks);
    return 0;
}

static int backend_clear(PyObject *self) {
    Py_CLEAR(((backend_object *)self)->hooks);
    return 0;
}

static void backend_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    backend_clear(self);
    free_unlocked(free_backend, ((backend_object *)self)->backend); /* which ends its threads */
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* ---------------------------------------------------------------- making arrays */
typedef struct {
    module_state *state;
    mth_backend *backend;
    int rank;
    int64_t shape[8];
    uint64_t seed;
    mth_arg spec;
    int has_spec;
    long long low, high; /* of randint */
    double value;        /* of zeros and ones */
    mth_dtype dtype;
    mth_array *array; /* what is made */
    pool scratch;
} making;

static int is_text(PyObject *object) {
    return PyUnicode_Check(object) || PyBytes_Check(object) || PyByteArray_Check(object) || PyMemoryView_Check(object);
}

/* Sizes, of one, a sequence or an array of them, as a tuple. NULL without an error where `given` is no such thing, with
   what it raised (NULL: nothing), or where it is more than any shape has, which *longer says. */
enum { SIZES = 8 };
static PyObject *to_sizes(PyObject *given, PyObject **cause, int *longer) {
    PyObject *method = NULL, *sizes = NULL;
    int found = is_text(given) ? 0 : find_attribute(given, "tolist", &method);
    *longer = found < 0 || is_text(given) ? 0 : is_longer(given, SIZES);
    if (*longer < 0) found = -1, *longer = 0;
    PyObject *plain = found < 0 || *longer ? NULL : found ? PyObject_CallNoArgs(method) : Py_NewRef(given);
    if (plain && PyIndex_Check(plain))
        sizes = PyTuple_Pack(1, plain);
    else if (plain && PySequence_Check(plain) && !is_text(plain))
        sizes = PySequence_Tuple(plain);
    Py_XDECREF(method), Py_XDECREF(plain);
    *cause = PyErr_Occurred() ? take_exception() : NULL;
    return sizes;
}

static int to_shape(making *request, PyObject *shape) {
    int longer;
    PyObject *cause, *list = to_sizes(shape, &cause, &longer);
    if (longer) {
        raise_fix(request->state, MTH_ERROR_VALUE,
            TEXT("the shape %s has more than %d sizes; arrays have at most %d dimensions", SHOW(shape), SIZES, SIZES),
            TEXT("merge some of them"));
        return -1;
    }
    if (!list) {
        raise_error(request->state, NULL, MTH_ERROR_TYPE, cause, TEXT("the shape is %s", SHOW(shape)),
            TEXT("give a tuple of sizes: (32, 2048)"));
        return -1;
    }
    if (pool_keep(&request->scratch, list)) return -1;
    Py_ssize_t n = PyTuple_Size(list);
    for (Py_ssize_t d = 0; d < n; d++) {
        PyObject *item = PyTuple_GetItem(list, d),
                 *size = PyIndex_Check(item) && !PyBool_Check(item) ? PyNumber_Index(item) : NULL;
        int overflow = 0;
        long long value = size ? PyLong_AsLongLongAndOverflow(size, &overflow) : 0;
        Py_XDECREF(size);
        cause = PyErr_Occurred() ? take_exception() : NULL;
        if (!size || overflow || value < 0) {
            raise_error(request->state, NULL, size ? MTH_ERROR_VALUE : MTH_ERROR_TYPE, cause,
                TEXT("the shape %s has a size that is %s", SHOW(list), SHOW(item)),
                TEXT("give whole numbers from 0 to 2**63 - 1"));
            return -1;
        }
        request->shape[d] = value;
    }
    request->rank = (int)n;
    return 0;
}

/* device_mesh says which mesh the spec's axes are of: there is one, the backend's. */
static int read_place(making *request, PyObject *mesh, PyObject *spec) {
    if (mesh && mesh != Py_None) {
        int64_t dim[4];
        int axes = mth_backend_get_mesh(request->backend, dim), longer;
        PyObject *cause, *given = to_sizes(mesh, &cause, &longer),
                         *own = PyErr_Occurred() ? NULL : shape_to_tuple(axes, dim);
        int same = own && longer ? 0 : own && given ? PyObject_RichCompareBool(own, given, Py_EQ) : -1;
        if (same < 0 && given && own) cause = take_exception();
        if (same < 0 && own && !PyErr_Occurred())
            raise_error(request->state, NULL, MTH_ERROR_TYPE, cause, TEXT("device_mesh=%s is no mesh", SHOW(mesh)),
                TEXT("give device_mesh=%s, or leave it out", SHOW(own)));
        else
            Py_XDECREF(cause);
        if (!same)
            raise_fix(request->state, MTH_ERROR_VALUE,
                TEXT("device_mesh=%s is not the backend's, %s", SHOW(given ? given : mesh), SHOW(own)),
                TEXT("give device_mesh=%s, or leave it out", SHOW(own)));
        Py_XDECREF(own);
        Py_XDECREF(given);
        if (same != 1) return -1;
    }
    if (!spec || spec == Py_None) return 0;
    request->has_spec = 1;
    return to_arg(request->state, spec, "spec", &request->scratch, &request->spec);
}

/* Without a seed each draw takes the next one, so that calls differ and a program repeats itself. The high bits keep
 * clear of users' seeds. */
static int read_seed(making *request, backend_object *self, PyObject *seed) {
    if (!seed || seed == Py_None) {
        request->seed = (uint64_t)0x6d697468 << 32 | self->draws++;
        return 0;
    }
    return to_seed(request->state, seed, &request->seed);
}

static const mth_arg *spec_of(const making *request) { return request->has_spec ? &request->spec : NULL; }

static mth_status randn(void *context) {
    making *request = context;
    return mth_array_randn(
        request->backend, request->rank, request->shape, request->seed, spec_of(request), &request->array);
}
static mth_status randint(void *context) {
    making *request = context;
    return mth_array_randint(request->backend, request->low, request->high, request->rank, request->shape,
        request->seed, spec_of(request), &request->array);
}
static mth_status full(void *context) {
    making *request = context;
    return mth_array_full(request->backend, request->dtype, request->value, request->rank, request->shape,
        spec_of(request), &request->array);
}

static PyObject *made(making *request, mth_status (*make)(void *)) {
    int failed = call_interruptibly(request->state, make, request);
    pool_free(&request->scratch);
    return failed ? NULL : array_new(request->state, request->array);
}
static PyObject *not_made(making *request) {
    pool_free(&request->scratch);
    return NULL;
}

static PyObject *backend_randn(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"seed", "device_mesh", "spec", NULL};
    making request = {.state = STATE(object), .backend = ((backend_object *)object)->backend};
    PyObject *seed = NULL, *mesh = NULL, *spec = NULL, *none = PyTuple_New(0);
    if (!none) return NULL;
    int parsed = parse(request.state, &request.scratch, none, keywords, "|$OOO:randn", names, &seed, &mesh, &spec);
    Py_DECREF(none);
    if (!parsed) return not_made(&request);
    PyObject *shape = PyTuple_Size(args) == 1 ? PyTuple_GetItem(args, 0) : args;
    if (to_shape(&request, shape) || read_place(&request, mesh, spec) ||
        read_seed(&request, (backend_object *)object, seed))
        return not_made(&request);
    return made(&request, randn);
}

static int to_bound(module_state *state, PyObject *object, const char *name, long long *bound) {
    int overflow = 0;
    PyObject *index = PyIndex_Check(object) ? PyNumber_Index(object) : NULL;
    PyObject *cause = PyErr_Occurred() ? take_exception() : NULL;
    if (index) *bound = PyLong_AsLongLongAndOverflow(index, &overflow);
    if (!index || overflow)
        raise_error(state, NULL, index ? MTH_ERROR_VALUE : MTH_ERROR_TYPE, cause,
            TEXT("randint: %s=%s %s", name, SHOW(object), index ? "does not fit in 64 bits" : "is no whole number"),
            TEXT("give whole numbers for low <= x < high, then the shape: randint(0, 10, (4,))"));
    Py_XDECREF(index);
    return index && !overflow ? 0 : -1;
}

static PyObject *backend_randint(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"low", "high", "shape", "seed", "device_mesh", "spec", NULL};
    making request = {.state = STATE(object), .backend = ((backend_object *)object)->backend};
    PyObject *from, *to, *shape, *seed = NULL, *mesh = NULL, *spec = NULL;
    if (!parse(request.state, &request.scratch, args, keywords, "OOO|$OOO:randint", names, &from, &to, &shape, &seed,
            &mesh, &spec))
        return not_made(&request);
    if (to_bound(request.state, from, "low", &request.low) || to_bound(request.state, to, "high", &request.high))
        return not_made(&request);
    if (to_shape(&request, shape) || read_place(&request, mesh, spec) ||
        read_seed(&request, (backend_object *)object, seed))
        return not_made(&request);
    return made(&request, randint);
}

static PyObject *fill(PyObject *object, PyObject *args, PyObject *keywords, const char *format, double value) {
    static char *names[] = {"", "dtype", "device_mesh", "spec", NULL};
    making request = {.state = STATE(object), .backend = ((backend_object *)object)->backend};
    PyObject *dtype = NULL, *mesh = NULL, *spec = NULL;
    Py_ssize_t n = PyTuple_Size(args);
    PyObject *shape = n == 1 ? Py_NewRef(PyTuple_GetItem(args, 0)) : Py_NewRef(args),
             *one = Py_BuildValue("(N)", shape);
    if (!one) return NULL;
    request.dtype = MTH_FLOAT32;
    request.value = value;
    int failed = !parse(request.state, &request.scratch, one, keywords, format, names, &shape, &dtype, &mesh, &spec) ||
        to_shape(&request, shape) || (dtype && dtype != Py_None && to_dtype(request.state, dtype, &request.dtype)) ||
        read_place(&request, mesh, spec);
    Py_DECREF(one);
    if (failed) return not_made(&request);
    return made(&request, full);
}

static PyObject *backend_zeros(PyObject *self, PyObject *args, PyObject *keywords) {
    return fill(self, args, keywords, "O|$OOO:zeros", 0);
}
static PyObject *backend_ones(PyObject *self, PyObject *args, PyObject *keywords) {
    return fill(self, args, keywords, "O|$OOO:ones", 1);
}

static PyObject *backend_array(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"data", "dtype", "device_mesh", "spec", NULL};
    making request = {.state = STATE(object), .backend = ((backend_object *)object)->backend};
    PyObject *data, *dtype = NULL, *mesh = NULL, *spec = NULL;
    if (!parse(request.state, &request.scratch, args, keywords, "O|O$OO:array", names, &data, &dtype, &mesh, &spec))
        return not_made(&request);
    mth_dtype type = 0;
    if ((dtype && dtype != Py_None && to_dtype(request.state, dtype, &type)) || read_place(&request, mesh, spec))
        return not_made(&request);
    if (PyList_Check(data) || PyTuple_Check(data) || PyFloat_Check(data) || PyLong_Check(data)) {
        data = lists_to_numpy(request.state, data, "data", type);
        if (pool_keep(&request.scratch, data)) return not_made(&request);
    }
    mth_array *array = to_array(request.state, request.backend, data, "data", type, spec_of(&request));
    pool_free(&request.scratch);
    return array ? array_new(request.state, array) : NULL;
}

/* ---------------------------------------------------------------- what it is */
typedef struct {
    const mth_backend *backend;
    char *text;
} backend_description;

static mth_status describe(void *context) {
    backend_description *job = context;
    return mth_backend_describe(job->backend, &job->text);
}

static PyObject *backend_describe(PyObject *self, PyObject *unused) {
    (void)unused;
    backend_description job = {((backend_object *)self)->backend, NULL};
    return call_interruptibly(STATE(self), describe, &job) ? NULL : text_of(job.text);
}

static PyObject *backend_devices(PyObject *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(mth_backend_get_device_count(((backend_object *)self)->backend));
}

static PyObject *backend_mesh(PyObject *self, void *unused) {
    (void)unused;
    int64_t dim[4];
    int axes = mth_backend_get_mesh(((backend_object *)self)->backend, dim);
    return shape_to_tuple(axes, dim);
}

static PyObject *backend_repr(PyObject *self) {
    PyObject *mesh = backend_mesh(self, NULL), *name = PyType_GetName(Py_TYPE(self)),
             *text = mesh && name ? TEXT("%U(device_mesh=%R)", name, mesh) : NULL;
    Py_XDECREF(mesh);
    Py_XDECREF(name);
    return text;
}

#define METHOD(name, function, doc) {name, (PyCFunction)(void (*)(void))function, METH_VARARGS | METH_KEYWORDS, doc}
#define PLACED                                                                                                         \
    "\n`spec` shards it over the mesh, an entry for each dimension: a mesh axis, a tuple of axes, or None; without "   \
    "one it is replicated."
static PyMethodDef backend_methods[] = {
    NO_PICKLE,
    METHOD("randn", backend_randn,
        "randn($self, *shape, seed=None, device_mesh=None, spec=None)\n--\n\n"
        "Normal random numbers, float32: the same for a seed on any mesh. Without one, successive calls differ, and a "
        "program\n"
        "repeats itself." PLACED),
    METHOD("randint", backend_randint,
        "randint($self, low, high, shape, *, seed=None, device_mesh=None, spec=None)\n--\n\nRandom int32, low <= x < "
        "high." PLACED),
    METHOD("zeros", backend_zeros,
        "zeros($self, *shape, dtype='float32', device_mesh=None, spec=None)\n--\n\nZeros." PLACED),
    METHOD(
        "ones", backend_ones, "ones($self, *shape, dtype='float32', device_mesh=None, spec=None)\n--\n\nOnes." PLACED),
    METHOD("array", backend_array,
        "array($self, data, dtype=None, *, device_mesh=None, spec=None)\n--\n\n"
        "A copy of data on the devices: of anything with the buffer protocol, DLPack or __array__ (float64 and\n"
        "float16 become float32, short integers int32, unless dtype says otherwise), or of Python's nested "
        "lists." PLACED),
    {"register_hook", backend_register_hook, METH_O,
        "register_hook($self, hook, /)\n--\n\n"
        "Calls hook(tensor, operator, from_device, to_device) with each piece of a tensor before it goes from one "
        "device into the memory\n"
        "of another, and returns a handle with remove(). The tensor is a copy; the hook returns None. What it raises "
        "ends the run and comes\n"
        "out of evaluate. It may be called from several threads, one at a time, and runs no model on this backend. It "
        "needs\n"
        "use_module_hooks=True."},
    {"partition_trace", backend_partition_trace, METH_NOARGS,
        "partition_trace($self, /)\n--\n\n"
        "Where the plans made so far run each operator, who says so, and what goes from device to device for it: str() "
        "is a table,\n"
        "rows are its data. Of each model compiled for the backend, the plan made last, or the last one with "
        "gradients. "
        "It needs\n"
        "trace_module_partitioning=True."},
    {"describe", backend_describe, METH_NOARGS,
        "describe($self, /)\n--\n\nThe engine, its devices and options, as text."},
    {0},
};
static PyGetSetDef backend_getset[] = {
    {"device_count", backend_devices, NULL, "The number of devices.", NULL},
    {"device_mesh", backend_mesh, NULL, "The mesh: (4,), (2, 2).", NULL},
    {0},
};
static PyObject *backend_attribute(PyObject *self, PyObject *name) {
    return attribute_of(self, name, "backend",
        "make arrays of any kind with NumPy: backend.array(numpy.arange(4)); help(type(backend)) tells what it has");
}
static PyType_Slot backend_slots[] = {
    {Py_tp_getattro, backend_attribute},
    {Py_tp_doc, "What all backends have in common: a mesh of devices, and arrays on it."},
    {Py_tp_new, backend_new},
    {Py_tp_init, backend_init},
    {Py_tp_traverse, backend_traverse},
    {Py_tp_clear, backend_clear},
    {Py_tp_dealloc, backend_dealloc},
    {Py_tp_repr, backend_repr},
    {Py_tp_methods, backend_methods},
    {Py_tp_getset, backend_getset},
    {0, NULL},
};
static PyType_Spec backend_spec = {"mithril.Backend", sizeof(backend_object), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE, backend_slots};

int add_backend_type(PyObject *module, module_state *state) {
    return (state->backend_type = add_type(module, &backend_spec, NULL)) ? 0 : -1;
}
