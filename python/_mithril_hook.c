/* Hooks of a backend: functions in Python that are called with each piece of a tensor before it goes from one device to
 * another. The library knows one hook of a backend, which calls all of these, in the order in which they came. */
#include "_mithril.h"

typedef struct {
    PyObject_HEAD PyObject *backend, *number; /* its key in the backend's hooks */
} handle_object;

/* ---------------------------------------------------------------- what a hook is given */
/* The piece as an array of NumPy's, with memory of its own. NumPy has no bfloat16: that comes as float32. */
static PyObject *numpy_array(const mth_crossing *crossing, mth_dtype shown) {
    Py_ssize_t count = 1;
    for (int d = 0; d < crossing->rank; d++) count *= (Py_ssize_t)crossing->shape[d];
    PyObject *memory = PyByteArray_FromStringAndSize(NULL, count * (Py_ssize_t)mth_dtype_size(shown)),
             *numpy = memory ? PyImport_ImportModule("numpy") : NULL;
    if (numpy) mth_dtype_convert(crossing->dtype, crossing->data, shown, PyByteArray_AsString(memory), (size_t)count);
    PyObject *shape = numpy ? shape_to_tuple(crossing->rank, crossing->shape) : NULL,
             *row = shape ? PyObject_CallMethod(numpy, "frombuffer", "Os", memory, mth_dtype_name(shown)) : NULL,
             *array = row ? PyObject_CallMethod(row, "reshape", "O", shape) : NULL;
    Py_XDECREF(memory);
    Py_XDECREF(numpy);
    Py_XDECREF(shape);
    Py_XDECREF(row);
    return array;
}

/* What the backend's hooks know as a tensor: the class's `_crossing_tensor(array, dtype)` makes it, if there is one, of
 * NumPy's array and the name of the dtype that the piece has; else it is NumPy's array. */
static PyObject *tensor_of(PyObject *backend, const mth_crossing *crossing) {
    const mth_dtype shown = *mth_dtype_format(crossing->dtype) ? crossing->dtype : MTH_FLOAT32;
    PyObject *make, *array = numpy_array(crossing, shown);
    if (!array) return NULL;
    const int found = find_attribute((PyObject *)Py_TYPE(backend), "_crossing_tensor", &make);
    if (!found) return array;
    PyObject *tensor = found < 0 ? NULL : PyObject_CallFunction(make, "Os", array, mth_dtype_name(crossing->dtype));
    if (found > 0) Py_DECREF(make);
    Py_DECREF(array);
    return tensor;
}

/* ---------------------------------------------------------------- calls */
static void release_exception(void *exception) { /* any thread may be the one that frees the error */
    PyGILState_STATE gil = PyGILState_Ensure();
    Py_DECREF((PyObject *)exception);
    PyGILState_Release(gil);
}

/* The exception that is set, whichever it is, as an error that brings it to the caller of evaluate. */
static mth_status status_of_exception(void) {
    PyObject *type, *exception, *traceback;
    PyErr_Fetch(&type, &exception, &traceback);
    PyErr_NormalizeException(&type, &exception, &traceback);
    if (traceback) PyException_SetTraceback(exception, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return mth_error_create(
        MTH_ERROR_VALUE, "a hook raised an exception", "the exception says what it is", exception, release_exception);
}

static int call_hook(PyObject *backend, PyObject *hook, const mth_crossing *crossing) {
    PyObject *tensor = tensor_of(backend, crossing);
    if (!tensor) return -1;
    PyObject *answer = PyObject_CallFunction(
        hook, "NzLL", tensor, crossing->name, (long long)crossing->from_device, (long long)crossing->to_device);
    if (answer && answer != Py_None)
        raise_error(STATE(backend), crossing->name, MTH_ERROR_TYPE, NULL,
            TEXT("a hook returned %s, and what crosses can't be replaced", SHOW(answer)), TEXT("let it return None"));
    const int failed = answer != Py_None;
    Py_XDECREF(answer);
    return failed ? -1 : 0;
}

/* The backend is alive as long as its models run. */
static mth_status on_crossing(void *context, const mth_crossing *crossing) {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *backend = Py_NewRef((PyObject *)context), *hooks = ((backend_object *)backend)->hooks;
    PyObject *all = hooks ? PyDict_Values(hooks) : PyList_New(0); /* hooks may come and go meanwhile */
    int failed = all ? 0 : -1;
    for (Py_ssize_t i = 0; !failed && i < PyList_Size(all); i++)
        failed = call_hook(backend, PyList_GetItem(all, i), crossing);
    mth_status status = failed ? status_of_exception() : NULL;
    Py_XDECREF(all);
    Py_DECREF(backend);
    PyGILState_Release(gil);
    return status;
}

/* ---------------------------------------------------------------- registering */
static PyObject *set_hook(PyObject *backend, mth_crossing_hook *hook) {
    mth_status status = mth_backend_set_crossing_hook(((backend_object *)backend)->backend, hook, backend, NULL);
    if (status) return raise_status(STATE(backend), status);
    Py_RETURN_NONE;
}

PyObject *backend_register_hook(PyObject *object, PyObject *hook) {
    module_state *state = STATE(object);
    backend_object *self = (backend_object *)object;
    if (!PyCallable_Check(hook))
        return raise_fix(state, MTH_ERROR_TYPE, TEXT("register_hook: %s can't be called", SHOW(hook)),
            TEXT("give a function of (tensor, operator, from_device, to_device)"));
    if (!self->hooks && !(self->hooks = PyDict_New())) return NULL;
    PyObject *set = PyDict_Size(self->hooks) ? Py_NewRef(Py_None) : set_hook(object, on_crossing);
    Py_XDECREF(set);
    PyObject *number = set ? PyLong_FromUnsignedLongLong(self->hook_number++) : NULL;
    allocfunc allocate = PyType_GetSlot(state->handle_type, Py_tp_alloc);
    handle_object *handle = number ? (handle_object *)allocate(state->handle_type, 0) : NULL;
    if (handle) {
        handle->backend = Py_NewRef(object);
        handle->number = Py_NewRef(number);
        if (PyDict_SetItem(self->hooks, number, hook)) Py_CLEAR(handle);
    }
    Py_XDECREF(number);
    return (PyObject *)handle;
}

static PyObject *handle_remove(PyObject *object, PyObject *unused) {
    (void)unused;
    handle_object *self = (handle_object *)object;
    PyObject *hooks = ((backend_object *)self->backend)->hooks;
    const int there = hooks ? PyDict_Contains(hooks, self->number) : 0;
    if (there < 0 || (there && PyDict_DelItem(hooks, self->number))) return NULL;
    if (there && !PyDict_Size(hooks)) return set_hook(self->backend, NULL);
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- the type of handles */
/* A hook may hold its handle, and so the backend that holds the hook: the collector cuts that at the backend. */
static int handle_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((handle_object *)self)->backend);
    return 0;
}

static void handle_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((handle_object *)self)->backend);
    Py_XDECREF(((handle_object *)self)->number);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef handle_methods[] = {
    NO_PICKLE,
    {"remove", handle_remove, METH_NOARGS,
        "remove($self, /)\n--\n\nThe hook is called no more; once it is removed this does nothing."},
    {0},
};
static PyType_Slot handle_slots[] = {
    {Py_tp_doc, "A hook that is registered with a backend."},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_methods, handle_methods},
    {0, NULL},
};
static PyType_Spec handle_spec = {"mithril.HookHandle", sizeof(handle_object), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, handle_slots};

int add_hook_types(PyObject *module, module_state *state) {
    return (state->handle_type = add_type(module, &handle_spec, NULL)) ? 0 : -1;
}
