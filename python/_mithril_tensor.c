/* Tensors of torch and jax whose values can't simply be read from their memory: wrapped, masked, traced, sparse, or
 * without memory. Why each is refused, and the expression that gives its values. */
#include "_mithril_view.h"
#include <string.h>

int attribute_is_true(PyObject *object, const char *name) {
    PyObject *value, *result;
    int found = find_attribute(object, name, &value);
    if (found < 1) return found;
    result = PyCallable_Check(value) ? PyObject_CallNoArgs(value) : Py_NewRef(value);
    int truth = result ? PyObject_IsTrue(result) : -1;
    Py_XDECREF(result);
    Py_DECREF(value);
    PyObject *raised = truth < 0 ? take_exception() : NULL;
    Py_XDECREF(raised);
    return raised ? 0 : truth;
}

/* ---------------------------------------------------------------- torch's tensors */
/* The result of a call. Where the call raised an exception, this is NULL, and the exception is dropped unless it has to
 * reach the user (KeyboardInterrupt, SystemExit). */
static PyObject *null_if_raised(PyObject *result) {
    PyObject *raised = !result && PyErr_Occurred() ? take_exception() : NULL;
    Py_XDECREF(raised);
    return result;
}

/* torch, where the object is a tensor of it. */
static PyObject *torch_of(PyObject *object) {
    PyObject *name = PyUnicode_FromString("torch"), *torch = name ? PyImport_GetModule(name) : NULL;
    PyObject *type = torch ? PyObject_GetAttrString(torch, "Tensor") : NULL;
    if (!type || PyObject_IsInstance(object, type) != 1) Py_CLEAR(torch);
    Py_XDECREF(name), Py_XDECREF(type);
    return null_if_raised(torch);
}

/* The tensor around which a transform of torch.func has wrapped this one; NULL: there is none. */
static PyObject *out_of_transforms(PyObject *torch, PyObject *tensor) {
    PyObject *functions = PyObject_GetAttrString(torch, "func");
    PyObject *inner = functions ? PyObject_CallMethod(functions, "debug_unwrap", "O", tensor) : NULL;
    Py_XDECREF(functions);
    if (inner == tensor) Py_CLEAR(inner);
    return null_if_raised(inner);
}

/* The values of a tensor that has a tangent beside them; NULL: it has none. */
static PyObject *out_of_dual(PyObject *torch, PyObject *tensor) {
    PyObject *autograd = PyObject_GetAttrString(torch, "autograd");
    PyObject *forward = autograd ? PyObject_GetAttrString(autograd, "forward_ad") : NULL;
    PyObject *pair = forward ? PyObject_CallMethod(forward, "unpack_dual", "O", tensor) : NULL;
    PyObject *tangent = pair ? PyObject_GetAttrString(pair, "tangent") : NULL;
    PyObject *value = tangent && tangent != Py_None ? PyObject_GetAttrString(pair, "primal") : NULL;
    Py_XDECREF(autograd), Py_XDECREF(forward), Py_XDECREF(pair), Py_XDECREF(tangent);
    return null_if_raised(value);
}

/* Whether an attribute of torch's is something else than "torch." and each of the usual names. */
static int is_unusual(PyObject *object, const char *attribute, const char *const *usual) {
    PyObject *value;
    int found = find_attribute(object, attribute, &value);
    if (found < 1) return found;
    char room[SHOWN];
    show(value, room);
    Py_DECREF(value);
    if (PyErr_Occurred()) return -1;
    if (strncmp(room, "torch.", 6) != 0) return 0;
    while (*usual && strcmp(room + 6, *usual) != 0) usual++;
    return !*usual;
}

/* Sparse ones, that of oneDNN. */
static int has_own_layout(PyObject *object) {
    return is_unusual(object, "layout", (const char *const[]){"strided", NULL});
}

/* Whether it has floating numbers that NumPy does not know. */
static int is_float_of_torch(PyObject *object) {
    const int floating = attribute_is_true(object, "is_floating_point");
    return floating > 0 ? is_unusual(object, "dtype", (const char *const[]){"float16", "float32", "float64", NULL})
                        : floating;
}

/* Strided, with elements and no address. Of meta tensors torch itself says so. */
static int lacks_memory(PyObject *tensor) {
    int known = attribute_is_true(tensor, "data_ptr");
    if (!known) known = has_own_layout(tensor);
    if (!known) known = attribute_is_true(tensor, "is_meta");
    if (known) return known < 0 ? -1 : 0;
    PyObject *elements = null_if_raised(PyObject_CallMethod(tensor, "numel", NULL));
    const int some = PyErr_Occurred() ? -1 : !elements || PyObject_IsTrue(elements);
    Py_XDECREF(elements);
    return some;
}

/* Whether it has a mask beside its values. */
static int is_masked_tensor(PyObject *torch, PyObject *tensor) {
    PyObject *masked = PyObject_GetAttrString(torch, "masked");
    PyObject *is = null_if_raised(masked ? PyObject_CallMethod(masked, "is_masked_tensor", "O", tensor) : NULL);
    const int found = is == Py_True;
    Py_XDECREF(masked), Py_XDECREF(is);
    return found;
}

typedef struct {
    PyObject *inner; /* the object itself, or what it is wrapped around */
    int transform, dual, masked, absent;
} tensor_state;

static int unwrap_to(tensor_state *state, PyObject *inner) {
    if (!inner) return 0;
    Py_DECREF(state->inner);
    state->inner = inner;
    return 1;
}

/* Finds out what the object is. -1: an exception is set that has to reach the user; else `inner` is a new reference. */
static int examine(PyObject *object, tensor_state *state) {
    *state = (tensor_state){Py_NewRef(object), 0, 0, 0, 0};
    PyObject *torch = torch_of(object), *inner = torch ? out_of_transforms(torch, object) : NULL;
    state->transform = unwrap_to(state, inner);
    inner = torch && !PyErr_Occurred() ? out_of_dual(torch, state->inner) : NULL;
    state->dual = unwrap_to(state, inner);
    if (torch && !PyErr_Occurred()) state->masked = is_masked_tensor(torch, state->inner);
    if (torch && !state->masked && !PyErr_Occurred()) state->absent = lacks_memory(state->inner);
    Py_XDECREF(torch);
    if (!PyErr_Occurred()) return 0;
    Py_CLEAR(state->inner);
    return -1;
}

const char *why_not_taken(PyObject *object) {
    tensor_state state;
    if (examine(object, &state)) return NULL;
    Py_DECREF(state.inner);
    if (state.transform)
        return "it is a tensor inside of a transform of torch.func, which ends here: its values alone can be taken";
    if (state.dual)
        return "it is a dual tensor of torch's forward-mode differentiation, which ends here: its values alone can be "
               "taken";
    if (state.masked) return "it is a masked tensor, and arrays have no mask";
    return state.absent ? "it is a tensor without memory: one that is traced, or stands for others" : NULL;
}

/* ---------------------------------------------------------------- what mends it */
/* "x.detach().to_dense()": what makes of a tensor one whose memory can be read; "x" where nothing is known. NULL: an
   error is set. */
static PyObject *readable_form(const tensor_state *state) {
    PyObject *form = PyUnicode_FromString("x");
    static const struct {
        const char *state, *step;
    } steps[] = {
        {"requires_grad", ".detach()"},
        {"is_nested", ".to_padded_tensor(0)"},
        {NULL /* has_own_layout */, ".to_dense()"},
        {"is_quantized", ".dequantize()"},
        {"is_complex", ".real"},
        {"is_neg", ".resolve_neg()"},
        {"_is_zerotensor", ".clone()"},
        {"is_cuda", ".cpu()"},
        {"is_mps", ".cpu()"},
        {"is_xpu", ".cpu()"},
    };
    for (size_t i = 0; form && i < sizeof steps / sizeof *steps; i++) {
        int found = steps[i].state ? attribute_is_true(state->inner, steps[i].state) : has_own_layout(state->inner);
        PyObject *before = form;
        if (found) form = found > 0 ? TEXT("%U%s", before, steps[i].step) : NULL;
        if (found) Py_DECREF(before);
        if (found > 0 && !strcmp(steps[i].step, ".to_padded_tensor(0)")) i++; /* which is strided */
    }
    /* at last: what is done to a tensor inside of them is inside of them again */
    for (int dual = 0; form && dual < 2; dual++) {
        if (!(dual ? state->dual : state->transform)) continue;
        PyObject *before = form;
        form = dual ? TEXT("torch.autograd.forward_ad.unpack_dual(%U).primal", before)
                    : TEXT("torch.func.debug_unwrap(%U)", before);
        Py_DECREF(before);
    }
    return form;
}

/* NULL: an error is set, or no form is known and none is needed. */
static PyObject *pass_form(const tensor_state *state, bool in_lists) {
    PyObject *form = readable_form(state), *remedy = NULL;
    const int known = form && PyUnicode_CompareWithASCIIString(form, "x");
    const int cast = form && in_lists ? is_float_of_torch(state->inner) : 0;
    if (form && cast >= 0 && (known || cast))
        remedy = TEXT(in_lists ? "give %U%s for each x in them" : "pass %U%s", form, cast ? ".float()" : "");
    Py_XDECREF(form);
    return remedy;
}

/* A tracer stands for an array while jax compiles a function, and has no values. */
static int is_tracer(PyObject *object) {
    PyObject *name = PyUnicode_FromString("jax.core"), *core = name ? PyImport_GetModule(name) : NULL;
    PyObject *type = core ? PyObject_GetAttrString(core, "Tracer") : NULL;
    const int found = type ? PyObject_IsInstance(object, type) : 0;
    Py_XDECREF(name), Py_XDECREF(core), Py_XDECREF(type);
    null_if_raised(NULL);
    return PyErr_Occurred() ? -1 : found > 0;
}

/* A key of jax.random has no numbers to take; its bits are jax.random.key_data. */
static int is_random_key(PyObject *object) {
    PyObject *name = PyUnicode_FromString("jax"), *jax = name ? PyImport_GetModule(name) : NULL, *dtype = NULL;
    int found = jax ? find_attribute(object, "dtype", &dtype) : 0;
    PyObject *dtypes = found == 1 ? PyObject_GetAttrString(jax, "dtypes") : NULL;
    PyObject *kind = dtypes ? PyObject_GetAttrString(dtypes, "prng_key") : NULL;
    PyObject *is = null_if_raised(kind ? PyObject_CallMethod(dtypes, "issubdtype", "OO", dtype, kind) : NULL);
    found = is == Py_True;
    Py_XDECREF(name), Py_XDECREF(jax), Py_XDECREF(dtype), Py_XDECREF(dtypes), Py_XDECREF(kind), Py_XDECREF(is);
    return PyErr_Occurred() ? -1 : found;
}

PyObject *remedy_of(PyObject *object, bool in_lists, const char *otherwise) {
    tensor_state state;
    const int traced = is_tracer(object);
    if (traced > 0)
        return TEXT("call it outside of jit, grad and vmap, or in a jax.pure_callback, which is given the values");
    const int key = traced ? 0 : is_random_key(object);
    if (key > 0)
        return TEXT(in_lists ? "give jax.random.key_data(x) for each x in them" : "pass jax.random.key_data(x)");
    if (traced || key || examine(object, &state)) return NULL;
    PyObject *remedy = NULL;
    const int deleted = attribute_is_true(state.inner, "is_deleted"),
              meta = deleted ? -1 : attribute_is_true(state.inner, "is_meta");
    if (deleted > 0)
        remedy = TEXT("keep a copy of what is deleted or donated, jax.numpy.copy(x), and give that");
    else if (meta > 0)
        remedy = TEXT("give it memory and values: torch.zeros_like(x, device=\"cpu\")");
    else if (state.masked && !deleted && !meta)
        remedy = TEXT("say what stands in place of masked elements%s, x.detach().to_tensor(0), and give the mask apart "
                      "where there is a port, x.get_mask()",
            in_lists ? " for each x in them" : "");
    else if (state.absent && !deleted && !meta && !attribute_is_true(state.inner, "_is_zerotensor"))
        remedy = TEXT("give the tensor that it stands for, or zeros: numpy.zeros(shape, \"float32\")");
    else if (!deleted && !meta)
        remedy = pass_form(&state, in_lists);
    Py_DECREF(state.inner);
    return remedy || PyErr_Occurred() ? remedy : TEXT("%s", otherwise);
}
