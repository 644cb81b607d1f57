/* Arrays of ours for consumers of DLPack. */
#include "_mithril.h"
#include "_mithril_dlpack.h"
#include <stdlib.h>
#include <string.h>

/* What a capsule lends: the array's own memory (of `owner`), or a copy that the consumer may write into. */
typedef struct {
    PyObject *owner;
    void *copy;
    int64_t shape[8];
    union {
        dlpack_managed plain;
        dlpack_versioned versioned;
    };
} lent;

static void lent_free(lent *loan) {
    if (loan->owner) {
        PyGILState_STATE gil = PyGILState_Ensure(); /* a consumer may release it on any thread */
        Py_DECREF(loan->owner);
        PyGILState_Release(gil);
    }
    free(loan->copy);
    free(loan);
}
static void delete_plain(dlpack_managed *managed) { lent_free(managed->context); }
static void delete_versioned(dlpack_versioned *managed) { lent_free(managed->context); }
static void capsule_free(PyObject *capsule) { /* not consumed: a consumer renames it */
    if (PyCapsule_IsValid(capsule, "dltensor"))
        lent_free(((dlpack_managed *)PyCapsule_GetPointer(capsule, "dltensor"))->context);
    else if (PyCapsule_IsValid(capsule, "dltensor_versioned"))
        lent_free(((dlpack_versioned *)PyCapsule_GetPointer(capsule, "dltensor_versioned"))->context);
}

/* The arguments of __dlpack__. NULL: not given. */
typedef struct {
    PyObject *version, *device, *copy;
} dlpack_request;

static int is_given(PyObject *argument) { return argument && argument != Py_None; }

/* Whether the consumer keeps its hands off memory that is marked as read-only. DLPack can mark it from 1.0 on, but who
   asks for 1.0 need not heed the mark (torch 2.13 doesn't). Who gives dl_device too and leaves it open whether there is
   a copy, as NumPy does, speaks the whole of that protocol and is taken at its word. */
static int heeds_mark(const dlpack_request *request, long major) {
    return major >= 1 && request->device && request->copy == Py_None;
}

typedef struct {
    const mth_array *array;
    void *copy;
} dlpack_gathering;

static mth_status gather(void *context) {
    const dlpack_gathering *job = context;
    return mth_array_gather(job->array, job->copy);
}

/* Memory that is the consumer's own, where libraries want it to begin. NULL: an error is set. */
static void *copy_data(PyObject *self) {
    mth_array *array = ((array_object *)self)->array;
    const size_t alignment = 64,
                 bytes = (size_t)array_count((array_object *)self) * mth_dtype_size(mth_array_get_dtype(array));
    void *copy = aligned_alloc(alignment, (bytes / alignment + 1) * alignment);
    if (!copy) return PyErr_NoMemory();
    if (!call_interruptibly(STATE(self), gather, &(dlpack_gathering){array, copy})) return copy;
    free(copy);
    return NULL;
}

static dlpack_tensor describe_tensor(const mth_array *a, const void *data, int64_t *shape) {
    const mth_dtype dtype = mth_array_get_dtype(a);
    const int rank = mth_array_get_rank(a);
    memcpy(shape, mth_array_get_shape(a), (size_t)rank * sizeof *shape);
    return (dlpack_tensor){.data = (void *)data,
        .device_type = DLPACK_CPU,
        .rank = rank,
        .bits = (uint8_t)(8 * mth_dtype_size(dtype)),
        .lanes = 1,
        .shape = shape,
        .code = (uint8_t)mth_dtype_dlpack_code(dtype)};
}

static PyObject *refuse_export(const char *why) {
    PyErr_SetString(PyExc_BufferError, why); /* what the protocol asks for */
    return NULL;
}

/* The first of a pair of whole numbers, where one is given. 0, or -1 with an error set. */
static int read_pair(module_state *state, PyObject *pair, const char *name, long *first) {
    if (!is_given(pair)) return 0;
    int good = PyTuple_Check(pair) && PyTuple_Size(pair) == 2;
    for (Py_ssize_t i = 0; good && i < 2; i++) {
        PyObject *item = PyTuple_GetItem(pair, i);
        int overflow = 0;
        const long value = PyLong_Check(item) ? PyLong_AsLongAndOverflow(item, &overflow) : 0;
        good = PyLong_Check(item) && !overflow;
        if (!i && good) *first = value;
    }
    if (!good)
        raise_fix(state, MTH_ERROR_TYPE,
            TEXT("dl_device and max_version of __dlpack__ are pairs of numbers of 64 bits: %s is %s", name, SHOW(pair)),
            TEXT("give max_version=(1, 0) and dl_device=(1, 0), or leave them out"));
    return good ? 0 : -1;
}

static PyObject *make_capsule(PyObject *self, const dlpack_request *request) {
    module_state *state = STATE(self);
    long type = DLPACK_CPU, major = 0;
    if (read_pair(state, request->device, "dl_device", &type) ||
        read_pair(state, request->version, "max_version", &major))
        return NULL;
    int asked = 0;
    if (is_given(request->copy) && to_truth(state, request->copy, "copy", &asked)) return NULL;
    if (type != DLPACK_CPU) return refuse_export("the array lies on the host: share it there, and copy it afterwards");
    mth_array *array = ((array_object *)self)->array;
    const void *data = mth_array_get_whole(array);
    const int lend = data && heeds_mark(request, major);
    if (is_given(request->copy) && !asked)
        return refuse_export(data
                ? "the array is read-only, and a consumer need not heed that: leave copy=False out, or "
                  "share numpy.array(x), a copy"
                : "the array is sharded, so that no memory holds all of it: leave copy=False out, or "
                  "share numpy.array(x), a copy");
    lent *loan = calloc(1, sizeof *loan);
    if (!loan) return PyErr_NoMemory();
    if (lend)
        loan->owner = Py_NewRef(self);
    else if (!(data = loan->copy = copy_data(self))) {
        lent_free(loan);
        return NULL;
    }
    dlpack_tensor tensor = describe_tensor(array, data, loan->shape);
    PyObject *capsule;
    if (major >= 1) {
        const uint64_t flags = lend ? DLPACK_READ_ONLY : DLPACK_IS_COPIED;
        loan->versioned = (dlpack_versioned){1, 0, loan, delete_versioned, flags, tensor};
        capsule = PyCapsule_New(&loan->versioned, "dltensor_versioned", capsule_free);
    } else {
        loan->plain = (dlpack_managed){tensor, loan, delete_plain};
        capsule = PyCapsule_New(&loan->plain, "dltensor", capsule_free);
    }
    if (!capsule) lent_free(loan);
    return capsule;
}

PyObject *array_dlpack(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"stream", "max_version", "dl_device", "copy", NULL};
    dlpack_request request = {0};
    PyObject *stream = NULL; /* of a GPU: says nothing here */
    pool scratch = {0};
    const int parsed = parse(STATE(self), &scratch, args, keywords, "|$OOOO:__dlpack__", names, &stream,
        &request.version, &request.device, &request.copy);
    PyObject *capsule = parsed ? make_capsule(self, &request) : NULL;
    pool_free(&scratch);
    return capsule;
}

PyObject *array_dlpack_device(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return Py_BuildValue("ii", DLPACK_CPU, 0);
}
