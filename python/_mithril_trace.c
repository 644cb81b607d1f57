/* What a backend has traced of its plans: a text, and its rows. */
#include "_mithril.h"

typedef struct {
    PyObject_HEAD PyObject *text, *rows;
} trace_object;

static void trace_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((trace_object *)self)->text);
    Py_XDECREF(((trace_object *)self)->rows);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *trace_text(PyObject *self) { return Py_NewRef(((trace_object *)self)->text); }
static PyObject *trace_rows(PyObject *self, void *unused) {
    (void)unused;
    return Py_NewRef(((trace_object *)self)->rows);
}

/* ---------------------------------------------------------------- rows */
/* Sets a member; takes the reference. 0, or -1 where it is NULL. */
static int set_member(PyObject *row, Py_ssize_t at, PyObject *value) {
    if (!value) return -1;
    PyStructSequence_SetItem(row, at, value);
    return 0;
}

static PyObject *devices_of(const mth_traced_operator *of) {
    PyObject *devices = PyTuple_New((Py_ssize_t)of->device_count);
    for (size_t i = 0; devices && i < of->device_count; i++) {
        PyObject *device = PyLong_FromLongLong(of->devices[i]);
        if (!device || PyTuple_SetItem(devices, (Py_ssize_t)i, device)) Py_CLEAR(devices);
    }
    return devices;
}

static PyObject *device_or_none(int64_t device) {
    return device < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(device);
}

static PyObject *crossings_of(module_state *state, const mth_traced_operator *of, bool backward) {
    PyObject *crossings = PyList_New(0);
    for (size_t i = 0; crossings && i < of->crossing_count; i++) {
        const mth_traced_crossing *crossing = &of->crossings[i];
        if (crossing->backward != backward) continue;
        PyObject *row = PyStructSequence_New(state->crossing_type);
        if (!row || set_member(row, 0, PyUnicode_FromString(crossing->label)) ||
            set_member(row, 1, device_or_none(crossing->from_device)) ||
            set_member(row, 2, device_or_none(crossing->to_device)) ||
            set_member(row, 3, PyLong_FromLongLong(crossing->bytes)) || PyList_Append(crossings, row))
            Py_CLEAR(crossings);
        Py_XDECREF(row);
    }
    return crossings;
}

static PyObject *row_of(module_state *state, const mth_traced_operator *of) {
    PyObject *row = PyStructSequence_New(state->traced_type);
    if (row && !set_member(row, 0, PyLong_FromLongLong(of->model)) &&
        !set_member(row, 1, PyUnicode_FromString(of->name)) && !set_member(row, 2, devices_of(of)) &&
        !set_member(row, 3, PyUnicode_FromString(of->policy)) &&
        !set_member(row, 4, PyUnicode_FromString(of->reason)) && !set_member(row, 5, crossings_of(state, of, false)) &&
        !set_member(row, 6, crossings_of(state, of, true)))
        return row;
    Py_XDECREF(row);
    return NULL;
}

static PyObject *rows_of(module_state *state, const mth_partition_trace *trace) {
    const size_t count = mth_partition_trace_get_count(trace);
    PyObject *rows = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; rows && i < count; i++) {
        const mth_traced_operator of = mth_partition_trace_get(trace, i);
        PyObject *row = row_of(state, &of);
        if (!row || PyList_SetItem(rows, (Py_ssize_t)i, row)) Py_CLEAR(rows);
    }
    return rows;
}

typedef struct {
    mth_backend *backend;
    mth_partition_trace *trace;
} trace_reading;

static mth_status read_trace(void *context) {
    trace_reading *job = context;
    return mth_backend_get_partition_trace(job->backend, &job->trace);
}

PyObject *backend_partition_trace(PyObject *backend, PyObject *unused) {
    (void)unused;
    module_state *state = STATE(backend);
    trace_reading job = {((backend_object *)backend)->backend, NULL};
    if (call_interruptibly(state, read_trace, &job)) return NULL;
    allocfunc allocate = PyType_GetSlot(state->trace_type, Py_tp_alloc);
    trace_object *self = (trace_object *)allocate(state->trace_type, 0);
    if (self) {
        self->text = PyUnicode_FromString(mth_partition_trace_get_text(job.trace));
        self->rows = self->text ? rows_of(state, job.trace) : NULL;
        if (!self->rows) Py_CLEAR(self);
    }
    mth_partition_trace_free(job.trace);
    return (PyObject *)self;
}

/* ---------------------------------------------------------------- types */
static PyGetSetDef trace_getset[] = {
    {"rows", trace_rows, NULL, "A row for each operator: model, operator, devices, policy, reason, forward, backward.",
        NULL},
    {0},
};
static PyMethodDef trace_methods[] = {NO_PICKLE, COPY, DEEP_COPY, {0}};
static PyType_Slot trace_slots[] = {
    {Py_tp_doc, "What a backend's plans placed where: str() is a table, rows are its data."},
    {Py_tp_dealloc, trace_dealloc},
    {Py_tp_repr, trace_text},
    {Py_tp_methods, trace_methods},
    {Py_tp_getset, trace_getset},
    {0, NULL},
};
static PyType_Spec trace_spec = {"mithril.PartitionTrace", sizeof(trace_object), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, trace_slots};

static PyStructSequence_Field traced_fields[] = {
    {"model", "The number of the compiled model: models compiled for the backend are counted from 0."},
    {"operator", "Its name: model_0.linear_3."},
    {"devices", "The devices that run it, a tuple."},
    {"policy", "Who placed it: user, a partition_policy, or none: it follows what it is connected to."},
    {"reason", "device_id=2, bytes 12..20 of 40."},
    {"forward", "What goes from device to device for it: a list of crossings."},
    {"backward", "The same for gradients."},
    {NULL, NULL},
};
static PyStructSequence_Desc traced_description = {
    "mithril.TracedOperator", "An operator in a partition trace.", traced_fields, 7};
static PyStructSequence_Field crossing_fields[] = {
    {"label", "The communication: linear_1: transfer."},
    {"from_device", "The device that gives; None: many pairs of devices."},
    {"to_device", "The device that takes; None: many pairs of devices."},
    {"bytes", "How much, in one evaluate."},
    {NULL, NULL},
};
static PyStructSequence_Desc crossing_description = {
    "mithril.TracedCrossing", "What goes from one device to another for an operator.", crossing_fields, 4};

int add_trace_types(PyObject *module, module_state *state) {
    state->trace_type = add_type(module, &trace_spec, NULL);
    state->traced_type = PyStructSequence_NewType(&traced_description);
    state->crossing_type = PyStructSequence_NewType(&crossing_description);
    return state->trace_type && state->traced_type && state->crossing_type ? 0 : -1;
}
