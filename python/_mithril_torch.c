/* Arrays of the torch engine leave as torch's own tensors: over the memory that the engine's library allocated, so
 * without a copy, and writable. An array that lies in several parts stays an Array, whose shards' data are tensors. */
#include "_mithril.h"
#include "_mithril_dlpack.h"
#include <stdlib.h>
#include <string.h>

/* DLPack's table of C functions, which types of tensors have as __dlpack_c_exchange_api__ since DLPack 1.3. */
typedef struct {
    uint32_t major, minor;
    void *previous;
    int (*allocate)(void *, void **, void *, void (*)(void *, const char *, const char *));
    int (*from_object)(void *object, dlpack_versioned **out);
    int (*to_object)(dlpack_versioned *taken, void **object);
} dlpack_exchange;

/* Finds how tensors are made: by torch's table where it has one, else by torch.from_dlpack. */
static int find_maker(module_state *state) {
    if (state->torch_exchange || state->torch_from_dlpack) return 0;
    PyObject *torch = PyImport_ImportModule("torch"), *type = torch ? PyObject_GetAttrString(torch, "Tensor") : NULL,
             *table = NULL;
    int found = type ? find_attribute(type, "__dlpack_c_exchange_api__", &table) : -1;
    const dlpack_exchange *exchange = found > 0 && PyCapsule_IsValid(table, "dlpack_exchange_api")
        ? PyCapsule_GetPointer(table, "dlpack_exchange_api")
        : NULL;
    if (exchange && exchange->major == 1 && exchange->to_object)
        state->torch_exchange = exchange;
    else if (found >= 0)
        state->torch_from_dlpack = PyObject_GetAttrString(torch, "from_dlpack");
    Py_XDECREF(torch), Py_XDECREF(type), Py_XDECREF(table);
    return state->torch_exchange || state->torch_from_dlpack ? 0 : -1;
}

/* What a tensor over an array's memory keeps: freed on whichever thread gives it up last, without Python's lock. */
typedef struct {
    dlpack_versioned exchanged;
    mth_array *array;
    int64_t shape[8], strides[8];
} lent_tensor;
static void give_back(dlpack_versioned *exchanged) {
    lent_tensor *lent = exchanged->context;
    mth_array_free(lent->array);
    free(lent);
}
static void drop_capsule(PyObject *capsule) { /* that nobody has taken */
    if (PyCapsule_IsValid(capsule, "dltensor_versioned"))
        give_back(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
}

PyObject *tensor_over(module_state *state, mth_array *array, const void *data, int rank, const int64_t *size) {
    static char nothing[8]; /* where a part of no elements lies */
    if (find_maker(state)) return NULL;
    lent_tensor *lent = calloc(1, sizeof *lent);
    if (!lent) return PyErr_NoMemory();
    const mth_dtype dtype = mth_array_get_dtype(array);
    int64_t stride = 1;
    for (int d = rank - 1; d >= 0; stride *= size[d], d--) lent->shape[d] = size[d], lent->strides[d] = stride;
    lent->exchanged = (dlpack_versioned){.major = 1,
        .context = lent,
        .deleter = give_back,
        .tensor = {.data = (void *)(data ? data : nothing),
            .device_type = DLPACK_CPU,
            .rank = rank,
            .code = (uint8_t)mth_dtype_dlpack_code(dtype),
            .bits = (uint8_t)(8 * mth_dtype_size(dtype)),
            .lanes = 1,
            .shape = lent->shape,
            .strides = lent->strides}};
    mth_array_retain(array);
    lent->array = array;
    if (state->torch_exchange) {
        void *tensor = NULL;
        if (((const dlpack_exchange *)state->torch_exchange)->to_object(&lent->exchanged, &tensor) == 0) return tensor;
        give_back(&lent->exchanged);
        return NULL;
    }
    PyObject *capsule = PyCapsule_New(&lent->exchanged, "dltensor_versioned", drop_capsule);
    if (!capsule) {
        give_back(&lent->exchanged);
        return NULL;
    }
    PyObject *tensor = PyObject_CallOneArg(state->torch_from_dlpack, capsule);
    Py_DECREF(capsule);
    return tensor;
}

bool leaves_as_tensors(const mth_array *array) { return strcmp(mth_array_get_engine(array), "torch") == 0; }
