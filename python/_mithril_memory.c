#include "_mithril_view.h"
#include <stdlib.h>

void source_free(source *from) {
    if (!from) return;
    PyObject *type, *value, *trace; /* an exporter may run Python code, which begins without an exception */
    PyErr_Fetch(&type, &value, &trace);
    if (from->buffer.obj) PyBuffer_Release(&from->buffer);
    if (from->plain && from->plain->deleter) from->plain->deleter(from->plain);
    if (from->versioned && from->versioned->deleter) from->versioned->deleter(from->versioned);
    PyErr_Restore(type, value, trace);
    free(from);
}
static void source_release(void *from) { /* by the array that borrowed it: on any thread */
    PyGILState_STATE gil = PyGILState_Ensure();
    source_free(from);
    PyGILState_Release(gil);
}

/* (3, 4): where an element lies. */
static PyObject *index_of(const view *v, int64_t element) {
    int64_t index[MAX_RANK];
    for (int d = v->rank - 1; d >= 0; element /= v->shape[d], d--) index[d] = element % v->shape[d];
    return shape_to_tuple(v->rank, index);
}

static void *raise_unfit(const conversion *c, const view *v, mth_dtype dtype, int64_t element) {
    PyObject *value = view_element(v, element), *index = value ? index_of(v, element) : NULL, *fix = NULL;
    const char *name = mth_dtype_name(dtype);
    /* not PyOS_snprintf, which follows the locale */
    char *largest = index ? PyOS_double_to_string(mth_dtype_largest(dtype), 'g', 8, 0, NULL) : NULL;
    if (!largest)
        Py_CLEAR(index);
    else if (mth_dtype_get_class(dtype) == MTH_CLASS_FLOATING)
        fix = TEXT("scale the numbers first, or cut them off: numpy.clip(x, -%s, %s)", largest, largest);
    else if (v->kind == 'u' && v->size == 8)
        fix = TEXT(c->borrow ? "give numbers below 2**%d, or x.astype(\"float32\")"
                             : "give numbers below 2**%d, or dtype=\"float64\"",
            dtype == MTH_INT32 ? 31 : 63);
    else
        fix = TEXT("give numbers from -2**31 to 2**31 - 1, or dtype=\"int64\"");
    raise_fix(c->s, MTH_ERROR_VALUE,
        index ? TEXT("%s holds %S at index %S, which does not fit in %s%s", c->name, value, index, name,
                    mth_dtype_get_class(dtype) == MTH_CLASS_FLOATING ? ": it would become infinite" : "")
              : NULL,
        fix);
    PyMem_Free(largest);
    Py_XDECREF(value), Py_XDECREF(index);
    return NULL;
}

typedef struct {
    const conversion *target;
    const view *memory;
    mth_dtype dtype;
    source *from;
    mth_array *array; /* what is made; or `lost`: an element doesn't fit; or `bytes`: there is no memory for them */
    int64_t lost, bytes;
    bool borrowed; /* the array has `from` */
} view_reading;

static mth_status read_view(void *context) {
    view_reading *job = context;
    const view *v = job->memory;
    const conversion *c = job->target;
    job->lost = -1;
    if (view_is_direct(v, job->dtype)) {
        job->borrowed = c->borrow;
        mth_status status = c->borrow
            ? mth_array_borrow(
                  c->backend, job->dtype, v->rank, v->shape, v->data, source_release, job->from, &job->array)
            : mth_array_from_data(c->backend, job->dtype, v->rank, v->shape, v->data, c->spec, &job->array);
        if (status) job->borrowed = false;
        return status;
    }
    const int64_t bytes = v->count * (int64_t)mth_dtype_size(job->dtype);
    void *packed = malloc((size_t)bytes + 1);
    if (!packed) {
        job->bytes = bytes;
        return NULL;
    }
    mth_status status = view_pack(v, job->dtype, packed, &job->lost);
    if (!status && job->lost < 0)
        status = mth_array_from_data(c->backend, job->dtype, v->rank, v->shape, packed, c->spec, &job->array);
    free(packed);
    return status;
}

mth_array *array_of_view(const conversion *c, const view *v, source **from) {
    module_state *s = c->s;
    const mth_dtype dtype = c->wanted ? c->wanted : c->exact && v->kind == 'f' ? v->dtype : view_dtype(v);
    if (mth_dtype_get_class(dtype) == MTH_CLASS_INTEGER && v->kind == 'f')
        return raise_fix(s, MTH_ERROR_TYPE,
            TEXT("%s holds floating numbers, where %s is expected", c->name, mth_dtype_name(dtype)),
            TEXT("round and cast them first: numpy.rint(numpy.asarray(x)).astype(\"%s\")", mth_dtype_name(dtype)));
    if (v->count > (MAX_BYTES - 1) / (int64_t)mth_dtype_size(dtype)) return refuse_size(s, c->name, v), NULL;
    view_reading job = {.target = c, .memory = v, .dtype = dtype, .from = *from};
    if (call_interruptibly(s, read_view, &job)) return NULL;
    if (job.bytes)
        return raise_fix(s, MTH_ERROR_MEMORY, TEXT("no memory for %lld bytes of %s", (long long)job.bytes, c->name),
            TEXT("free other arrays first, or give smaller ones"));
    if (job.lost >= 0) return raise_unfit(c, v, dtype, job.lost);
    if (job.borrowed) *from = NULL;
    if (c->given && v->dtype != dtype) *c->given = view_dtype_name(v);
    return job.array;
}
