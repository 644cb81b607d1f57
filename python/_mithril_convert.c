#include "_mithril.h"
#include <string.h>

/* ---------------------------------------------------------------- texts */
/* `operator`: whose option it is, or NULL. `whole`: what mends half of a surrogate pair. */
static const char *read_name(
    module_state *state, PyObject *object, const char *operator, const char * what, const char *whole) {
    if (!PyUnicode_Check(object))
        return raise_error(state, operator, MTH_ERROR_TYPE, NULL,
            TEXT("%s is %s, where a text is expected", what, SHOW(object)), TEXT("give it as a str"));
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(object, &size);
    PyObject *cause = text ? NULL : take_exception();
    if (cause)
        return raise_error(state, operator, MTH_ERROR_VALUE, cause,
            TEXT("%s has half of a surrogate pair in it: %s", what, SHOW(object)), TEXT("%s", whole));
    if (text && strlen(text) != (size_t)size)
        return raise_error(state, operator, MTH_ERROR_VALUE, NULL,
            TEXT("%s has a NUL character in it: %s", what, SHOW(object)), TEXT("leave the character out"));
    return text;
}

const char *to_name(module_state *state, PyObject *object, const char *what) {
    return read_name(state, object, NULL, what, "leave it out");
}

const char *to_path(module_state *state, PyObject *object, const char *what, pool *scratch) {
    PyObject *bytes = NULL;
    if (PyUnicode_FSConverter(object, &bytes)) return pool_keep(scratch, bytes) ? NULL : PyBytes_AsString(bytes);
    const int wrong_type = PyErr_ExceptionMatches(PyExc_TypeError);
    PyObject *cause = take_exception(), *why = cause ? exception_text(cause) : NULL;
    if (why)
        raise_error(state, scratch->operator, wrong_type ? MTH_ERROR_TYPE : MTH_ERROR_VALUE, cause,
            TEXT("%s is %s, which is no path: %U", what, SHOW(object), why),
            wrong_type ? TEXT("give a str, bytes or pathlib.Path") : TEXT("leave the character out"));
    else
        Py_XDECREF(cause);
    Py_XDECREF(why);
    return NULL;
}

int find_attribute(PyObject *object, const char *name, PyObject **out) {
    if ((*out = PyObject_GetAttrString(object, name))) return 1;
    PyObject *raised = take_exception();
    if (!raised) return -1;
    Py_DECREF(raised);
    return 0;
}

PyObject *pairs_of(PyObject *dict) {
    PyObject *list = dict ? PyDict_Items(dict) : PyList_New(0), *pairs = list ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return pairs;
}

int to_truth(module_state *state, PyObject *object, const char *name, int *truth) {
    if ((*truth = PyObject_IsTrue(object)) >= 0) return 0;
    PyObject *cause = take_exception();
    if (cause)
        raise_error(state, NULL, MTH_ERROR_TYPE, cause, TEXT("%s=%s is neither true nor false", name, SHOW(object)),
            TEXT("give %s=True or %s=False", name, name));
    return -1;
}

int to_seed(module_state *state, PyObject *object, uint64_t *seed) {
    PyObject *index = PyIndex_Check(object) ? PyNumber_Index(object) : NULL;
    PyObject *cause = !index && PyErr_Occurred() ? take_exception() : NULL;
    if (!index) {
        raise_error(state, NULL, MTH_ERROR_TYPE, cause, TEXT("seed=%s is no whole number", SHOW(object)),
            TEXT("give seed=0, say"));
        return -1;
    }
    const unsigned long long value = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return -1;
        PyErr_Clear(); /* without its digits: Python refuses to print thousands of them */
        raise_fix(state, MTH_ERROR_VALUE, TEXT("the seed is negative or has more than 64 bits"),
            TEXT("give a seed from 0 to 2**64 - 1"));
        return -1;
    }
    *seed = value;
    return 0;
}

/* The dtype that an object stands for: "float32", numpy.dtype("float32"), numpy.float32, torch.float32. The name is the
   text, an attribute, or behind a dot. 1, 0 where it stands for none, or -1 with an exception that take_exception
   leaves. */
static int find_dtype(PyObject *object, mth_dtype *out) {
    PyObject *name = PyUnicode_Check(object) ? Py_NewRef(object) : NULL;
    for (int i = 0; !name && i < 2; i++)
        if (find_attribute(object, i ? "__name__" : "name", &name) < 0) return -1;
    if (!name) name = PyObject_Str(object);
    const char *text = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, NULL) : NULL;
    int found = 0;
    if (text && strrchr(text, '.')) text = strrchr(text, '.') + 1;
    const mth_dtype dtype = mth_dtype_find(text);
    if (dtype) *out = dtype, found = 1;
    Py_XDECREF(name);
    PyObject *raised = PyErr_Occurred() ? take_exception() : NULL;
    Py_XDECREF(raised);
    return PyErr_Occurred() ? -1 : found;
}

int to_dtype(module_state *s, PyObject *object, mth_dtype *out) {
    const int found = find_dtype(object, out);
    if (!found)
        raise_fix(s, MTH_ERROR_TYPE, TEXT("dtype is %s, which arrays can't have", SHOW(object)),
            TEXT("give the name of one: %s", mth_dtype_names()));
    return found == 1 ? 0 : -1;
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
    PyObject *first = near && PyObject_IsTrue(near) == 1 ? PySequence_GetItem(near, 0) : NULL;
    PyObject *text = first ? TEXT("did you mean '%S'?", first) : near ? TEXT("the keywords are: %R", known) : NULL;
    Py_XDECREF(known), Py_XDECREF(tools), Py_XDECREF(near), Py_XDECREF(first);
    return text;
}

static int is_listed(PyObject *key, char **names) {
    for (; *names; names++)
        if (PyUnicode_CompareWithASCIIString(key, *names) == 0) return 1;
    return 0;
}

int parse(
    module_state *state, pool *scratch, PyObject *args, PyObject *keywords, const char *format, char **names, ...) {
    const char *function = strrchr(format, ':') + 1;
    PyObject *key, *value;
    if (keywords && pool_keep(scratch, keywords = PyDict_Copy(keywords))) return 0;
    for (Py_ssize_t at = 0; keywords && PyDict_Next(keywords, &at, &key, &value);) {
        const char *text = is_listed(key, names) ? NULL : PyUnicode_AsUTF8AndSize(key, NULL), *why, *fix;
        if (text && (mth_absent(function, text, &why, &fix) || mth_absent("option", text, &why, &fix)))
            return raise_fix(
                       state, MTH_ERROR_TYPE, TEXT("%s(): the keyword '%s' %s", function, text, why), TEXT("%s", fix)),
                   0;
        if (!text) PyErr_Clear(); /* half of a surrogate pair is shown as it is */
        if (!is_listed(key, names))
            return raise_fix(
                       state, MTH_ERROR_TYPE, TEXT("%s() has no keyword %s", function, SHOW(key)), advise(key, names)),
                   0;
    }
    va_list out;
    va_start(out, names);
    int parsed = PyArg_VaParseTupleAndKeywords(args, keywords, format, names, out);
    va_end(out);
    if (parsed || !PyErr_ExceptionMatches(PyExc_TypeError)) return parsed;
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
    raise_fix(state, MTH_ERROR_TYPE, what, known ? TEXT("the arguments are: %R", known) : NULL);
    Py_XDECREF(type), Py_XDECREF(error), Py_XDECREF(trace), Py_XDECREF(known);
    return 0;
}

/* ---------------------------------------------------------------- options */
/* Of one option, far more than any has, as is MAX_ITEMS: neither the depth of a recursion nor memory is the caller's to
   choose. Lists may share items, which are as many as they are when written out. */
enum { MAX_DEPTH = 32 };

static int too_many(module_state *state, const char *name, pool *scratch) {
    raise_error(state, scratch->operator, MTH_ERROR_VALUE, NULL,
        TEXT("%s has more than %d items in all, those of lists in lists included", name, MAX_ITEMS),
        TEXT("give fewer items"));
    return -1;
}

static int count_items(module_state *state, PyObject *list, const char *name, pool *scratch) {
    const Py_ssize_t n = PyObject_Size(list);
    if (n < 0 && !PyErr_ExceptionMatches(PyExc_OverflowError)) return -1; /* a range may have more than 2^63 */
    PyErr_Clear();
    if (n < 0 || n > MAX_ITEMS - scratch->items) return too_many(state, name, scratch);
    scratch->items += n;
    return 0;
}

int is_longer(PyObject *object, int64_t limit) {
    PyObject *shape;
    const int known = find_attribute(object, "shape", &shape);
    if (known < 0) return -1;
    if (!known || !PyTuple_Check(shape)) {
        Py_XDECREF(shape);
        if (!PySequence_Check(object)) return 0;
        const Py_ssize_t n = PyObject_Size(object);
        const int endless = n < 0 && PyErr_ExceptionMatches(PyExc_OverflowError); /* a range beyond 2^63 */
        PyObject *raised = n < 0 ? take_exception() : NULL;
        Py_XDECREF(raised);
        return PyErr_Occurred() ? -1 : endless || n > limit;
    }
    int64_t lists = 1, items = 0; /* of a level, and of all levels above the next */
    int overflow = 0;
    for (Py_ssize_t d = 0; d < PyTuple_Size(shape) && !overflow && items <= limit; d++) {
        PyObject *size = PyTuple_GetItem(shape, d);
        const int64_t n = PyLong_Check(size) ? PyLong_AsLongLongAndOverflow(size, &overflow) : 0;
        overflow |= __builtin_mul_overflow(lists, n, &lists) || __builtin_add_overflow(items, lists, &items);
    }
    Py_DECREF(shape);
    return overflow || items > limit;
}

static int list_to_arg(module_state *state, PyObject *object, const char *name, pool *scratch, mth_arg *out) {
    if (count_items(state, object, name, scratch)) return -1;
    PyObject *list = PySequence_Tuple(object);
    if (pool_keep(scratch, list)) return -1;
    size_t n = (size_t)PyTuple_Size(list);
    mth_arg *items = pool_take(scratch, n, sizeof *items);
    if (!items) return -1;
    for (size_t i = 0; i < n; i++)
        if (to_arg(state, PyTuple_GetItem(list, (Py_ssize_t)i), name, scratch, &items[i])) return -1;
    *out = mth_list(n, items);
    return 0;
}

static int dict_to_arg(module_state *state, PyObject *object, const char *name, pool *scratch, mth_arg *out) {
    if (count_items(state, object, name, scratch)) return -1;
    PyObject *pairs = pairs_of(object);
    if (pool_keep(scratch, pairs)) return -1;
    size_t n = (size_t)PyTuple_Size(pairs);
    mth_arg *items = pool_take(scratch, n, sizeof *items);
    const char **keys = pool_take(scratch, n, sizeof *keys);
    if (!items || !keys) return -1;
    char what[80];
    PyOS_snprintf(what, sizeof what, "a key of %s", name);
    for (size_t i = 0; i < n; i++) {
        PyObject *pair = PyTuple_GetItem(pairs, (Py_ssize_t)i);
        if (!(keys[i] = read_name(state, PyTuple_GetItem(pair, 0), scratch->operator, what, "leave it out")) ||
            to_arg(state, PyTuple_GetItem(pair, 1), name, scratch, &items[i]))
            return -1;
    }
    *out = mth_dict(n, keys, items);
    return 0;
}

/* An object by the plain value that it gave for itself; NULL: it raised. Python has no plain value of NumPy's
   longdouble, which gives itself. */
static int plain_to_arg(
    module_state *state, PyObject *object, PyObject *plain, const char *name, pool *scratch, mth_arg *out) {
    if (plain && Py_TYPE(plain) == Py_TYPE(object)) {
        PyObject *number = PyNumber_Float(plain);
        Py_DECREF(plain);
        plain = number;
    }
    PyObject *cause = plain ? NULL : take_exception(), *why = cause ? exception_text(cause) : NULL;
    if (why)
        raise_error(state, scratch->operator, MTH_ERROR_TYPE, Py_NewRef(cause),
            TEXT("%s is %s, which can't be read: %U", name, SHOW(object), why),
            TEXT("give None, a bool, a number, a str, a tuple or list of such, a dict, or a Model"));
    Py_XDECREF(cause), Py_XDECREF(why);
    return pool_keep(scratch, plain) ? -1 : to_arg(state, plain, name, scratch, out);
}

static int is_bytes(PyObject *object) {
    return PyBytes_Check(object) || PyByteArray_Check(object) || PyMemoryView_Check(object);
}

/* Of another type than Python's own: what it says of itself decides. What a class says is of its objects. */
static int other_to_arg(module_state *state, PyObject *object, const char *name, pool *scratch, mth_arg *out) {
    PyObject *found = NULL;
    const int bytes = is_bytes(object), silent = bytes || PyType_Check(object);
    int known = silent ? 0 : find_attribute(object, "tolist", &found); /* NumPy's scalars and arrays */
    if (known == 1) {
        const int masked = is_masked(state, object, scratch->operator, name),
                  huge = masked ? 0 : is_longer(object, MAX_ITEMS - scratch->items);
        if (masked > 0) raise_masked(state, scratch->operator, name);
        PyObject *plain = masked || huge ? NULL : PyObject_CallNoArgs(found);
        Py_DECREF(found);
        if (masked) return -1;
        if (huge) return huge > 0 ? too_many(state, name, scratch) : -1;
        return plain_to_arg(state, object, plain, name, scratch, out);
    }
    if (known == 0 && PyIndex_Check(object))
        return plain_to_arg(state, object, PyNumber_Index(object), name, scratch, out);
    if (known == 0 && !silent && (known = find_attribute(object, "__fspath__", &found)) == 1) {
        Py_DECREF(found);
        const char *path = to_path(state, object, name, scratch);
        if (path) *out = mth_string(path);
        return path ? 0 : -1;
    }
    mth_dtype dtype;
    if (known == 0 && !bytes) known = find_dtype(object, &dtype);
    if (known == 1) *out = mth_string(mth_dtype_name(dtype));
    if (known) return known > 0 ? 0 : -1;
    if (PyObject_TypeCheck(object, state->module_type) || PyObject_TypeCheck(object, state->block_type))
        raise_error(state, scratch->operator, MTH_ERROR_TYPE, NULL,
            TEXT("%s holds a module, %s, where a model is expected", name, SHOW(object)),
            TEXT("put it into a model first: stage = ml.Model(); stage |= ...(input=\"input\", output=\"output\")"));
    else if (bytes)
        raise_error(state, scratch->operator, MTH_ERROR_TYPE, NULL,
            TEXT("%s is %s, and no option takes bytes", name, SHOW(object)),
            TEXT("give what the option takes: a str where that is a text, os.fsdecode(x)"));
    else
        raise_error(state, scratch->operator, MTH_ERROR_TYPE, NULL,
            TEXT("%s is %s: no option takes a %s", name, SHOW(object), SHOW((PyObject *)Py_TYPE(object))),
            PyType_GetSlot(Py_TYPE(object), Py_nb_float)
                ? TEXT("give the number as Python's own: float(x), or int(x)")
                : TEXT("give None, a bool, a number, a str, a tuple or list of such, a dict, or a Model"));
    return -1;
}

static int int_to_arg(module_state *state, PyObject *object, const char *name, pool *scratch, mth_arg *out) {
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    *out = mth_int(value);
    if (!overflow) return 0;
    if (scratch->takes_float && scratch->depth == 1) {
        *out = mth_float(PyLong_AsDouble(object));
        if (!PyErr_Occurred()) return 0;
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return -1;
        PyErr_Clear();
        raise_error(state, scratch->operator, MTH_ERROR_VALUE, NULL,
            TEXT("%s is %s, which does not fit in float32: it would become infinite", name, SHOW(object)),
            TEXT("give a number of at most 3.4028235e+38 in magnitude"));
        return -1;
    }
    raise_error(state, scratch->operator, MTH_ERROR_VALUE, NULL,
        TEXT("%s is %s, which does not fit in 64 bits", name, SHOW(object)),
        TEXT("give a number from -2**63 to 2**63 - 1"));
    return -1;
}

static int text_to_arg(module_state *state, PyObject *object, const char *name, pool *scratch, mth_arg *out) {
    static const char whole[] = "leave it out; a path may have one: give pathlib.Path(x)";
    const char *text = read_name(state, object, scratch->operator, name, whole);
    if (!text || pool_keep(scratch, Py_NewRef(object))) return -1;
    *out = mth_string(text);
    return 0;
}

int to_arg(module_state *state, PyObject *object, const char *name, pool *scratch, mth_arg *out) {
    if (scratch->depth == MAX_DEPTH) {
        raise_error(state, scratch->operator, MTH_ERROR_VALUE, NULL,
            TEXT("%s has values inside values, more than %d deep", name, MAX_DEPTH),
            TEXT("give a flat tuple or dict; one that holds itself has no end"));
        return -1;
    }
    int failed = 0;
    if (!scratch->depth++) scratch->items = 0;
    if (object == Py_None)
        *out = MTH_NONE;
    else if (PyBool_Check(object))
        *out = mth_bool(object == Py_True);
    else if (PyFloat_Check(object))
        *out = mth_float(PyFloat_AsDouble(object));
    else if (PyUnicode_Check(object))
        failed = text_to_arg(state, object, name, scratch, out);
    else if (PyLong_Check(object))
        failed = int_to_arg(state, object, name, scratch, out);
    else if (PyObject_TypeCheck(object, state->model_type)) {
        *out = mth_submodel(((model_object *)object)->model);
        failed = use_model(scratch, object);
    } else if (PyDict_Check(object))
        failed = dict_to_arg(state, object, name, scratch, out);
    else if (PyList_Check(object) || PyTuple_Check(object) || PyRange_Check(object))
        failed = list_to_arg(state, object, name, scratch, out);
    else
        failed = other_to_arg(state, object, name, scratch, out);
    scratch->depth--;
    return failed;
}

/* What "dimension: int, bias: bool = True" (or an option a line, with its documentation) says behind the colon of an
   option; NULL: it has none of the name. */
static const char *type_of_option(const char *list, const char *name) {
    for (const char *at = list; *name && (at = strstr(at, name)); at++)
        if ((at == list || strchr(" \n", at[-1])) && at[strlen(name)] == ':') return at + strlen(name) + 1;
    return NULL;
}

int option_to_arg(
    module_state *state, PyObject *object, const char *known, const char *name, pool *scratch, mth_arg *out) {
    const char *type = type_of_option(known, name);
    scratch->takes_float = type && strncmp(type, " float", strlen(" float")) == 0;
    return type ? to_arg(state, object, name, scratch, out) : 0;
}

int to_options(module_state *state, PyObject *keywords, const char *known, size_t given, pool *scratch,
    mth_option **out, size_t *count) {
    PyObject *pairs = pairs_of(keywords);
    if (pool_keep(scratch, pairs)) return -1;
    size_t n = (size_t)PyTuple_Size(pairs);
    mth_option *options = pool_take(scratch, given + n, sizeof *options);
    if (!options) return -1;
    for (size_t i = 0; i < n; i++) {
        PyObject *pair = PyTuple_GetItem(pairs, (Py_ssize_t)i);
        mth_option *option = &options[given + i];
        if (!(option->name = to_name(state, PyTuple_GetItem(pair, 0), "a keyword"))) return -1;
        option->value = MTH_NONE;
        if (known ? option_to_arg(state, PyTuple_GetItem(pair, 1), known, option->name, scratch, &option->value)
                  : to_arg(state, PyTuple_GetItem(pair, 1), option->name, scratch, &option->value))
            return -1;
    }
    *out = options;
    *count = given + n;
    return 0;
}
