#include "_mithril_view.h"
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- capsules of DLPack */
static int is_on_host(const dlpack_tensor *tensor) {
    return tensor->device_type == DLPACK_CPU || tensor->device_type == DLPACK_CUDA_HOST;
}

/* The tensor of a capsule is ours from here on: the capsule is renamed, so that nobody else frees it. NULL: an error
   is set. */
static const dlpack_tensor *take_tensor(const conversion *target, PyObject *capsule, source *from) {
    if (PyCapsule_IsValid(capsule, "dltensor")) {
        dlpack_managed *managed = PyCapsule_GetPointer(capsule, "dltensor");
        if (PyCapsule_SetName(capsule, "used_dltensor")) return NULL;
        from->plain = managed;
        return &managed->tensor;
    }
    if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
        dlpack_versioned *managed = PyCapsule_GetPointer(capsule, "dltensor_versioned");
        if (PyCapsule_SetName(capsule, "used_dltensor_versioned")) return NULL;
        from->versioned = managed;
        if (managed->major == 1) return &managed->tensor;
        return raise_fix(target->s, MTH_ERROR_TYPE, /* of another major version nothing but the deleter is known */
            TEXT("%s: __dlpack__(max_version=(1, 0)) gave DLPack %u.%u", target->name, managed->major, managed->minor),
            TEXT("pass numpy.asarray(x)"));
    }
    const int used =
        PyCapsule_IsValid(capsule, "used_dltensor") || PyCapsule_IsValid(capsule, "used_dltensor_versioned");
    return raise_fix(target->s, MTH_ERROR_TYPE,
        TEXT("%s: __dlpack__() gave no capsule named dltensor%s", target->name,
            used ? ", but one that was used before" : ""),
        TEXT("pass numpy.asarray(x)"));
}

/* Version 1 where the producer knows it: it can then say which version it really gives. */
static PyObject *ask_for_capsule(PyObject *method) {
    PyObject *none = PyTuple_New(0), *keywords = Py_BuildValue("{s(ii)}", "max_version", 1, 0), *capsule = NULL;
    if (none && keywords) capsule = PyObject_Call(method, none, keywords);
    Py_XDECREF(none), Py_XDECREF(keywords);
    if (capsule || !PyErr_ExceptionMatches(PyExc_TypeError)) return capsule;
    PyErr_Clear();
    return PyObject_CallNoArgs(method);
}

/* ---------------------------------------------------------------- refusals */
/* Why an object gave no data: the exception that it raised, and its text. `elements`: NumPy has it, and has no format
   for its elements. */
typedef struct {
    PyObject *cause, *text;
    int elements;
} refusal;

/* An exception that is not ours to answer stays set. The first reason that is noted stays. */
static void note_refusal(refusal *reason) {
    PyObject *cause = take_exception(), *text = cause && !reason->text ? exception_text(cause) : NULL;
    if (text)
        reason->text = text, reason->cause = cause;
    else
        Py_XDECREF(cause);
}

/* Whether an array of NumPy's can be cast; -1: an exception that stops. `why`: the text of what NumPy raised, if it is
   to be kept and was none before. */
static int can_cast(PyObject *array, const char *dtype, PyObject **why) {
    PyObject *cast = PyObject_CallMethod(array, "astype", "s", dtype), *raised = cast ? NULL : take_exception();
    if (raised && why && !*why) *why = exception_text(raised);
    Py_XDECREF(cast), Py_XDECREF(raised);
    return PyErr_Occurred() ? -1 : cast != NULL;
}

/* Tries it with the first elements: a view may repeat one without end. */
PyObject *cast_fix(PyObject *object) {
    PyObject *numpy = PyImport_ImportModule("numpy"), *why = NULL;
    PyObject *array = numpy ? PyObject_CallMethod(numpy, "asarray", "(O)", object) : NULL;
    PyObject *flat = array ? PyObject_GetAttrString(array, "flat") : NULL;
    PyObject *first = flat ? PySequence_GetSlice(flat, 0, MAX_ITEMS) : NULL, *raised = first ? NULL : take_exception();
    int real = first ? can_cast(first, "float64", &why) : 0, complex = 0;
    if (first && !real) real = can_cast(first, "int64", NULL);
    if (first && !real) complex = can_cast(first, "complex128", NULL);
    PyObject *word = PyErr_Occurred() ? NULL : PyUnicode_FromString("sequence"); /* NumPy's, of elements */
    const int lists = word && why && PyUnicode_Contains(why, word) == 1;
    Py_XDECREF(numpy), Py_XDECREF(array), Py_XDECREF(flat), Py_XDECREF(first), Py_XDECREF(raised);
    Py_XDECREF(why), Py_XDECREF(word);
    if (PyErr_Occurred()) return NULL;
    return TEXT(real  ? "cast it first: numpy.asarray(x).astype(\"float32\"), or \"int64\" for ids"
            : complex ? "they are complex: give their parts apart, y.real and y.imag of y = "
                        "numpy.asarray(x).astype(\"complex64\")"
            : lists   ? "make its elements lists of one length, pad the shorter ones with 0.0 say, and give x.tolist()"
                      : "give numbers: no cast makes any of these elements");
}

static void *raise_refused(const conversion *target, PyObject *object, refusal *reason) {
    static const char plain[] = "give its values as a numpy.array of float32, or int64 for ids";
    PyObject *cast = reason->elements ? cast_fix(object) : TEXT("%s", plain), *fix = NULL;
    const char *otherwise = cast ? PyUnicode_AsUTF8AndSize(cast, NULL) : NULL;
    if (otherwise) fix = remedy_of(object, false, otherwise);
    Py_XDECREF(cast);
    return raise_error(target->s, NULL, MTH_ERROR_TYPE, Py_XNewRef(reason->cause),
        TEXT("%s refuses to share its data: %U", target->name, reason->text), fix);
}

int is_masked(module_state *state, PyObject *object, const char *operator, const char * name) {
    if (PyType_GetSlot(Py_TYPE(object), Py_tp_base) == &PyBaseObject_Type)
        return 0; /* it derives from an array class */
    PyObject *mask, *filled, *any = NULL;
    int found = find_attribute(object, "filled", &filled);
    if (found < 1) return found;
    Py_DECREF(filled);
    if ((found = find_attribute(object, "mask", &mask)) < 1) return found;
    any = PyObject_CallMethod(mask, "any", NULL);
    int masked = any ? PyObject_IsTrue(any) : -1;
    Py_XDECREF(any);
    Py_DECREF(mask);
    PyObject *cause = masked < 0 ? take_exception() : NULL, *why = cause ? exception_text(cause) : NULL;
    if (why)
        raise_error(state, operator, MTH_ERROR_TYPE, Py_NewRef(cause),
            TEXT("%s has a mask that can't be read: %U", name, why),
            TEXT("give it without a mask, x.filled(0), and of records a field: x[\"weight\"].filled(0)"));
    Py_XDECREF(cause), Py_XDECREF(why);
    return masked;
}

void *raise_masked(module_state *state, const char *operator, const char * name) {
    return raise_error(state, operator, MTH_ERROR_VALUE, NULL,
        TEXT("%s has masked elements, and arrays have no mask", name),
        TEXT("say what stands in their place, x.filled(0), and give the mask apart where there is a port"));
}

/* ---------------------------------------------------------------- any object to an array */
/* A scalar whose dtype has no format, such as numpy.datetime64, shows its bytes, which are not its elements. */
static int check_bytes(const conversion *target, PyObject *object) {
    PyObject *dtype, *size = NULL;
    int found = find_attribute(object, "dtype", &dtype);
    if (found == 1) found = find_attribute(dtype, "itemsize", &size);
    int overflow = 0;
    const int wrong = found == 1 && PyLong_Check(size) && PyLong_AsLongLongAndOverflow(size, &overflow) != 1;
    if (wrong) refuse_elements(target->s, target->name, TEXT("%s", SHOW(dtype)), cast_fix(object));
    Py_XDECREF(dtype), Py_XDECREF(size);
    return wrong || found < 0 ? -1 : 0;
}

/* The three below give an array; or NULL with an error set; or NULL and the refusal of the object. */
static mth_array *array_of_buffer(const conversion *c, PyObject *object, int bfloat, refusal *r) {
    const int masked = is_masked(c->s, object, NULL, c->name);
    if (masked) return masked > 0 ? raise_masked(c->s, NULL, c->name) : NULL;
    source *from = calloc(1, sizeof *from);
    if (!from) {
        PyErr_NoMemory();
        return NULL;
    }
    mth_array *array = NULL;
    view v = {0};
    if (PyObject_GetBuffer(object, &from->buffer, PyBUF_STRIDES | PyBUF_FORMAT))
        note_refusal(r);
    else if (!view_of_buffer(c->s, c->name, &from->buffer, &v) &&
        (v.kind != 'u' || v.size > 1 || !check_bytes(c, object))) {
        if (bfloat && v.size == 2) v.dtype = MTH_BFLOAT16, v.kind = 'f';
        array = array_of_view(c, &v, &from);
    }
    source_free(from);
    return array;
}

static mth_array *array_of_dlpack(const conversion *target, PyObject *object, PyObject *method, refusal *reason) {
    /* torch shares memory whose negatives are the values, with no word */
    const int negative = attribute_is_true(object, "is_neg");
    if (negative < 0) return NULL;
    PyObject *capsule = negative ? NULL : ask_for_capsule(method);
    if (!capsule) {
        if (negative) PyErr_SetString(PyExc_BufferError, "its values are the negatives of what is in its memory");
        note_refusal(reason);
        return NULL;
    }
    source *from = calloc(1, sizeof *from);
    mth_array *array = NULL;
    view memory;
    const dlpack_tensor *tensor = from ? take_tensor(target, capsule, from) : NULL;
    if (!from) PyErr_NoMemory();
    if (tensor && !is_on_host(tensor)) {
        PyErr_Format(PyExc_BufferError, "it is on another device than the host (DLPack device type %d)",
            (int)tensor->device_type);
        note_refusal(reason);
    } else if (tensor && !view_of_dlpack(target->s, target->name, tensor, &memory))
        array = array_of_view(target, &memory, &from);
    source_free(from);
    Py_DECREF(capsule);
    return array;
}

/* Whether a dtype has a name; -1: an exception that stops. */
static int is_named(PyObject *dtype, const char *expected) {
    PyObject *name;
    int found = find_attribute(dtype, "name", &name);
    if (found == 1) found = PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, expected) == 0;
    Py_XDECREF(name);
    return found;
}

/* What __array__ gives: the whole of an array that lies in parts, or on another device. */
static mth_array *array_of_numpy(const conversion *target, PyObject *object, PyObject *method, refusal *reason) {
    (void)object;
    PyObject *given = PyObject_CallNoArgs(method), *dtype = NULL;
    int found = given ? find_attribute(given, "dtype", &dtype) : 0;
    const int has_dtype = found == 1, bfloat = has_dtype ? found = is_named(dtype, "bfloat16") : 0;
    Py_XDECREF(dtype);
    if (bfloat > 0) { /* NumPy has no format for it */
        PyObject *bits = PyObject_CallMethod(given, "view", "s", "uint16");
        Py_DECREF(given);
        given = bits;
    }
    mth_array *array = NULL;
    if (!given)
        note_refusal(reason);
    else if (found >= 0) {
        array = array_of_buffer(target, given, bfloat, reason);
        reason->elements = !array && has_dtype;
    }
    Py_XDECREF(given);
    return array;
}

static void *raise_not_array(module_state *state, PyObject *object, const char *name) {
    if (object == Py_None)
        return raise_fix(state, MTH_ERROR_TYPE, TEXT("%s is None, where an array is expected", name),
            TEXT("leave it out, or give an array"));
    PyObject *type = type_text(object);
    PyObject *what =
        type ? TEXT("%s is %U, where an array is expected: its dtype and shape would be a guess", name, type) : NULL;
    Py_XDECREF(type);
    PyObject *iterate = NULL;
    const int iterable = PyType_Check(object) ? 0 : find_attribute(object, "__iter__", &iterate);
    Py_XDECREF(iterate);
    const char *fix = "give numbers: a list of them, or a numpy.array";
    if (PyList_Check(object) || PyTuple_Check(object) || PyFloat_Check(object) || PyLong_Check(object))
        fix = "pass backend.array(x), or numpy.asarray(x, dtype=\"float32\") (\"int32\" for ids)";
    else if (PyBytes_Check(object) || PyByteArray_Check(object))
        fix = "say what the bytes are: numpy.frombuffer(x, dtype=\"uint8\")";
    else if (PyComplex_Check(object))
        fix = "give its parts apart: numpy.asarray(x.real), numpy.asarray(x.imag)";
    else if (PyDict_Check(object))
        fix = "give its values: numpy.asarray(list(x.values()))";
    else if (iterable > 0 && !PyUnicode_Check(object))
        fix = "give its elements: numpy.asarray(list(x))";
    return raise_fix(state, MTH_ERROR_TYPE, what, iterable < 0 ? NULL : TEXT("%s", fix));
}

static mth_array *array_of_foreign(const conversion *target, PyObject *object, refusal *reason) {
    mth_array *array = PyObject_CheckBuffer(object) ? array_of_buffer(target, object, 0, reason) : NULL;
    const char *why = array || PyErr_Occurred() ? NULL : why_not_taken(object);
    if (why) { /* torch shares what lies anywhere of some of them, with no word */
        PyErr_SetString(PyExc_BufferError, why);
        note_refusal(reason);
        return NULL;
    }
    mth_array *(*const ways[])(const conversion *, PyObject *, PyObject *, refusal *) = {
        array_of_dlpack, array_of_numpy};
    static const char *const methods[] = {"__dlpack__", "__array__"};
    for (int i = 0; i < 2 && !array && !PyErr_Occurred(); i++) {
        PyObject *method;
        if (find_attribute(object, methods[i], &method) < 1) continue;
        array = ways[i](target, object, method, reason);
        Py_DECREF(method);
    }
    return array;
}

/* Of an array of ours a new reference; else NULL. */
static mth_array *array_of_ours(module_state *state, PyObject *object) {
    mth_array *array = PyObject_TypeCheck(object, state->array_type) ? ((array_object *)object)->array : NULL;
    mth_array_retain(array);
    return array;
}

/* The torch engine takes the values of a tensor whatever torch's own gradients are. Else a new reference to the object
   itself; NULL: an error is set. */
static PyObject *without_autograd(const conversion *target, PyObject *object) {
    if (strcmp(mth_backend_get_engine(target->backend), "torch") != 0) return Py_NewRef(object);
    const int tracked = attribute_is_true(object, "requires_grad");
    if (tracked < 0) return NULL;
    return tracked ? PyObject_CallMethod(object, "detach", NULL) : Py_NewRef(object);
}

static mth_array *convert(const conversion *target, PyObject *object) {
    module_state *state = target->s;
    mth_array *own = target->spec ? NULL : array_of_ours(state, object);
    if (own && (!target->wanted || target->wanted == mth_array_get_dtype(own))) return own;
    mth_array_free(own);
    if (PyBytes_Check(object) || PyByteArray_Check(object) || PyType_Check(object))
        return raise_not_array(state, object, target->name);
    refusal reason = {0};
    PyObject *values = without_autograd(target, object);
    mth_array *array = values ? array_of_foreign(target, values, &reason) : NULL;
    if (!array && !PyErr_Occurred())
        reason.text ? raise_refused(target, object, &reason) : raise_not_array(state, object, target->name);
    Py_XDECREF(values), Py_XDECREF(reason.cause), Py_XDECREF(reason.text);
    return array;
}

mth_array *to_array(module_state *state, mth_backend *backend, PyObject *object, const char *name, mth_dtype wanted,
    const mth_arg *spec) {
    return convert(&(conversion){state, backend, name, wanted, spec, 0, 0, NULL}, object);
}

/* ---------------------------------------------------------------- lists */
/* Goes through the elements of lists: `visit` returns 0 to go on. Lists may change while code of their elements runs,
   and one may hold itself, so that their depth is bounded by that of NumPy's arrays. Returns what ended it; -1: an
   error is set. */
enum { LISTS_DEPTH = 64 };
typedef struct {
    module_state *state;
    const char *name;
    int (*visit)(const void *walk, PyObject *element);
    PyObject **found; /* a new reference, for the visitor */
} list_walk;

static int walk_lists(const list_walk *walk, PyObject *lists, int depth) {
    if (!PyList_Check(lists) && !PyTuple_Check(lists)) return walk->visit(walk, lists);
    if (depth == LISTS_DEPTH) {
        raise_fix(walk->state, MTH_ERROR_VALUE,
            TEXT("%s has lists inside lists, more than %d deep", walk->name, LISTS_DEPTH),
            TEXT("give flatter ones; a list that holds itself has no end"));
        return -1;
    }
    PyObject *items = PySequence_Tuple(lists);
    int ended = items ? 0 : -1;
    for (Py_ssize_t i = 0; !ended && i < PyTuple_Size(items); i++)
        ended = walk_lists(walk, PyTuple_GetItem(items, i), depth + 1);
    Py_XDECREF(items);
    return ended;
}

/* Whether it is a masked array, which NumPy would take without its mask. A tensor of which it would take what lies
   anywhere, or the values alone, is an error. */
static int visit_masked(const void *walk, PyObject *element) {
    const list_walk *lists = walk;
    if (PyFloat_Check(element) || PyLong_Check(element)) return 0;
    const int masked = is_masked(lists->state, element, NULL, lists->name);
    const char *why = masked ? NULL : why_not_taken(element);
    if (why)
        raise_fix(lists->state, MTH_ERROR_TYPE, TEXT("%s holds what can't be taken: %s", lists->name, why),
            remedy_of(element, true, "give numbers, or arrays of one shape"));
    return masked ? masked : PyErr_Occurred() ? -1 : 0;
}

/* Finds an element that is neither a list nor a number. */
static int visit_object(const void *walk, PyObject *element) {
    if (PyFloat_Check(element) || PyLong_Check(element)) return 0;
    *((const list_walk *)walk)->found = Py_NewRef(element);
    return 1;
}

/* Finds a whole number that no integer type has; others than whole numbers end the search. */
static int visit_wide(const void *walk, PyObject *element) {
    int overflow = 0;
    PyObject *index = PyIndex_Check(element) ? PyNumber_Index(element) : NULL;
    if (index) PyLong_AsLongLongAndOverflow(index, &overflow);
    PyObject *raised = PyErr_Occurred() ? take_exception() : NULL, **found = ((const list_walk *)walk)->found;
    Py_XDECREF(raised);
    if (overflow && !*found) *found = Py_NewRef(index);
    Py_XDECREF(index);
    return index ? 0 : PyErr_Occurred() ? -1 : 1;
}

/* NumPy couldn't make an array of lists: an error with its reason. */
static void *raise_no_array(module_state *state, PyObject *lists, const char *name) {
    PyObject *cause = take_exception(), *why = cause ? exception_text(cause) : NULL;
    PyObject *word = PyUnicode_FromString("inhomogeneous"); /* NumPy's, of shapes */
    const int ragged = why && word && PyUnicode_Contains(why, word) == 1;
    PyObject *object = NULL, *remedy = NULL;
    const list_walk walk = {state, name, visit_object, &object};
    const int found = why ? walk_lists(&walk, lists, 0) : -1;
    static const char plain[] = "give numbers, or arrays of one shape";
    if (found >= 0 && ragged)
        remedy = TEXT("make the lists of a level equally long: pad the shorter ones, with 0.0 say");
    else if (found >= 0)
        remedy = object ? remedy_of(object, true, plain) : TEXT("%s", plain);
    raise_error(state, NULL, ragged ? MTH_ERROR_VALUE : MTH_ERROR_TYPE, Py_XNewRef(cause),
        remedy ? TEXT("%s is no array: %U", name, why) : NULL, remedy);
    Py_XDECREF(cause), Py_XDECREF(why), Py_XDECREF(word), Py_XDECREF(object);
    return NULL;
}

/* The kind of elements that an array of NumPy's has: one of "biufcV" (V: bfloat16), 0 where they are no numbers. -1: an
   exception is set. */
static int kind_of(PyObject *array) {
    PyObject *dtype, *kind = NULL;
    int found = find_attribute(array, "dtype", &dtype);
    if (found == 1) found = find_attribute(dtype, "kind", &kind);
    const char *text = found == 1 ? PyUnicode_AsUTF8AndSize(kind, NULL) : NULL;
    int result = !text ? -1 : strchr("biufc", *text) ? *text : 0;
    if (text && *text == 'V' && (result = is_named(dtype, "bfloat16")) == 1) result = 'V';
    Py_XDECREF(dtype), Py_XDECREF(kind);
    return result;
}

/* Where NumPy made floating numbers of whole ones, since no integer type has them all. */
static int check_wide(module_state *state, PyObject *lists, const char *name) {
    PyObject *wide = NULL;
    const list_walk walk = {state, name, visit_wide, &wide};
    const int ended = walk_lists(&walk, lists, 0);
    if (!ended && wide)
        raise_fix(state, MTH_ERROR_VALUE, TEXT("%s holds %s, which does not fit in int64", name, SHOW(wide)),
            TEXT("give whole numbers from -2**63 to 2**63 - 1, or dtype=\"float64\""));
    Py_XDECREF(wide);
    return ended < 0 || PyErr_Occurred() ? -1 : 0;
}

PyObject *lists_to_numpy(module_state *s, PyObject *lists, const char *name, mth_dtype wanted) {
    PyObject *numpy = PyImport_ImportModule("numpy"), *array;
    if (!numpy && PyErr_ExceptionMatches(PyExc_ImportError)) {
        PyErr_Clear();
        raise_fix(s, MTH_ERROR_TYPE, TEXT("array of Python's lists and numbers needs NumPy, which is not installed"),
            TEXT("install numpy, or give a memoryview or array.array"));
    }
    if (!numpy) return NULL;
    array = PyObject_CallMethod(numpy, "asarray", "(O)", lists); /* the brackets keep a tuple one argument */
    Py_DECREF(numpy);
    if (!array) return raise_no_array(s, lists, name);
    const int masked = walk_lists(&(list_walk){s, name, visit_masked, NULL}, lists, 0);
    const int kind = masked ? 0 : kind_of(array);
    int good = kind > 0;
    if (masked > 0)
        raise_masked(s, NULL, name);
    else if (!masked && !kind)
        raise_fix(s, MTH_ERROR_TYPE, TEXT("%s holds what is no number, or none of 64 bits: %s", name, SHOW(lists)),
            TEXT("give truths, floats, or whole numbers below 2**63"));
    else if (kind == 'f' && (!wanted || mth_dtype_get_class(wanted) == MTH_CLASS_INTEGER))
        good = !check_wide(s, lists, name);
    if (!good) Py_CLEAR(array);
    return array;
}

/* ---------------------------------------------------------------- mappings */
void named_free(mth_named *named, size_t count) {
    for (size_t i = 0; named && i < count; i++) mth_array_free(named[i].array);
}

/* An argument of a call, which a mapping gives under a name. */
static mth_array *convert_named(module_state *state, mth_backend *backend, const mth_compiled *compiled,
    const char *what, PyObject *object, mth_named *out) {
    mth_array *own = array_of_ours(state, object);
    PyObject *label = own ? NULL : TEXT("%s['%s']", what, out->name);
    const char *called = label ? PyUnicode_AsUTF8AndSize(label, NULL) : NULL;
    if (called)
        own =
            convert(&(conversion){state, backend, called, 0, NULL, 1, mth_takes_mask(compiled, out->name), &out->given},
                object);
    Py_XDECREF(label);
    return own;
}

/* The pairs of any mapping, in a tuple that keeps them: what has items(), or keys() and an element for each. */
static PyObject *items_of(module_state *state, PyObject *mapping, const char *what) {
    PyObject *method = NULL, *copy;
    int found = PyDict_Check(mapping) ? 1 : find_attribute(mapping, "items", &method);
    Py_XDECREF(method);
    if (!found && (found = find_attribute(mapping, "keys", &method)) == 1) {
        Py_DECREF(method);
        PyObject *pairs = (copy = PyDict_New()) && !PyDict_Update(copy, mapping) ? pairs_of(copy) : NULL;
        Py_XDECREF(copy);
        return pairs;
    }
    if (found < 0) return NULL;
    if (!found) {
        PyObject *type = type_text(mapping);
        raise_fix(state, MTH_ERROR_TYPE,
            type ? TEXT("%s is %U, where a mapping of names to arrays is expected", what, type) : NULL,
            TEXT("give a dict: {\"name\": array}"));
        Py_XDECREF(type);
        return NULL;
    }
    PyObject *list = PyMapping_Items(mapping), *items = list ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return items;
}

int to_named(module_state *state, mth_backend *backend, const mth_compiled *compiled, PyObject *mapping,
    const char *what, pool *scratch, mth_named **out, size_t *count) {
    PyObject *items = items_of(state, mapping, what);
    if (pool_keep(scratch, items)) return -1;
    size_t n = (size_t)PyTuple_Size(items), i = 0;
    mth_named *named = pool_take(scratch, n, sizeof *named);
    for (; named && i < n; i++) {
        PyObject *item = PyTuple_GetItem(items, (Py_ssize_t)i);
        if (!PyTuple_Check(item) || PyTuple_Size(item) != 2) {
            raise_fix(state, MTH_ERROR_TYPE,
                TEXT("the items() of %s hold %s, where pairs of name and array are expected", what, SHOW(item)),
                TEXT("give a dict: {\"name\": array}"));
            break;
        }
        if ((named[i].name = to_name(state, PyTuple_GetItem(item, 0), "a name")))
            named[i].array = convert_named(state, backend, compiled, what, PyTuple_GetItem(item, 1), &named[i]);
        if (!named[i].array) break;
    }
    if (!named || i < n) {
        named_free(named, i);
        return -1;
    }
    *out = named;
    *count = n;
    return 0;
}
