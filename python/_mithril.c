#include "_mithril.h"
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- errors */
static PyObject *lossy(const char *text) { return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace"); }

/* The library's words for its functions and constants, and Python's. */
static const struct {
    const char *c, *python;
} words[] = {
    {"mth_get_parameters", "get_parameters()"},
    {"mth_get_memory_usage", "get_memory_usage()"},
    {"mth_plan_print", "program_text()"},
    {"mth_explain", "explain()"},
    {"mth_evaluate", "evaluate()"},
    {"mth_model_connect", "connect(source, destination)"},
    {"mth_module_copy", "copy()"},
    {"mth_model_expose", "IOKey(name, expose=True)"},
    {"mth_model_add", "|= or +="},
    {"mth_module_type_name", "mithril.modules"},
    {"mth_bool", "a bool"},
    {"mth_int", "an int"},
    {"mth_list", "a list"},
    {"mth_string", "a str"},
    {"MTH_PLAIN", "|="},
    {"MTH_CHAIN", "+="},
    {"the engine pjrt", "JaxBackend"},
};

/* A text of the library in Python's words. */
static PyObject *in_python(const char *text) {
    PyObject *said = lossy(text);
    for (size_t i = 0; said && i < sizeof words / sizeof *words; i++) {
        if (!strstr(text, words[i].c)) continue;
        PyObject *next = PyObject_CallMethod(said, "replace", "ss", words[i].c, words[i].python);
        Py_DECREF(said);
        said = next;
    }
    return said;
}

static PyObject *class_of(module_state *state, mth_error_code code) {
    switch (code) {
    case MTH_ERROR_TYPE: return state->type_error;
    case MTH_ERROR_KEY: return state->key_error;
    case MTH_ERROR_MEMORY: return state->memory_error;
    case MTH_ERROR_INTERNAL: return state->internal_error;
    case MTH_ERROR_INTERRUPTED: return PyExc_KeyboardInterrupt;
    case MTH_ERROR_VALUE:
    case MTH_ERROR_IO:
    case MTH_ERROR_UNSUPPORTED: break;
    }
    return state->value_error;
}

PyObject *take_exception(void) {
    if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError)) return NULL;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace) PyException_SetTraceback(value, trace);
    Py_XDECREF(type), Py_XDECREF(trace);
    return value;
}

PyObject *exception_text(PyObject *exception) {
    PyObject *text = PyObject_Str(exception), *raised = text ? NULL : take_exception();
    if (raised) text = PyType_GetName(Py_TYPE(exception));
    Py_XDECREF(raised);
    return text;
}

const char *show(PyObject *object, char room[SHOWN]) {
    room[0] = '?', room[1] = 0;
    if (!object || PyErr_Occurred()) return room;
    PyObject *text = PyObject_Repr(object), *raised = text ? NULL : take_exception();
    if (raised) {
        PyObject *name = PyType_GetName(Py_TYPE(object));
        text = name ? TEXT("<%U>", name) : NULL;
        Py_XDECREF(name);
    }
    PyObject *cut = text ? PyUnicode_Substring(text, 0, 80) : NULL;
    PyObject *bytes = cut ? PyUnicode_AsEncodedString(cut, "utf-8", "backslashreplace") : NULL;
    if (bytes) PyOS_snprintf(room, SHOWN, "%s", PyBytes_AsString(bytes));
    Py_XDECREF(raised), Py_XDECREF(text), Py_XDECREF(cut), Py_XDECREF(bytes);
    return room;
}

/* "train.py:12": the line of the user's program that is running, or NULL: what can't be told is left out, and an
   exception that take_exception leaves stays set. Frames of the package itself are passed over. */
static PyObject *source_line(void) {
    PyObject *frame = Py_XNewRef((PyObject *)PyEval_GetFrame()), *line = NULL;
    while (frame && !line) {
        PyObject *code = (PyObject *)PyFrame_GetCode((PyFrameObject *)frame),
                 *file = PyObject_GetAttrString(code, "co_filename");
        PyObject *globals = PyObject_GetAttrString(frame, "f_globals"), *key = PyUnicode_FromString("__name__");
        PyObject *name = globals && key ? Py_XNewRef(PyDict_GetItemWithError(globals, key)) : NULL;
        const char *path = file ? PyUnicode_AsUTF8AndSize(file, NULL) : NULL;
        const char *module = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, NULL) : "";
        PyObject *back = NULL;
        if (module && (strncmp(module, "mithril.", 8) == 0 || strcmp(module, "mithril") == 0))
            back = PyObject_GetAttrString(frame, "f_back");
        else if (path) {
            const char *slash = strrchr(path, '/');
            line = TEXT("%s:%d", slash ? slash + 1 : path, PyFrame_GetLineNumber((PyFrameObject *)frame));
        }
        Py_DECREF(code);
        Py_XDECREF(file);
        Py_XDECREF(globals), Py_XDECREF(key), Py_XDECREF(name);
        Py_DECREF(frame);
        frame = back;
        if (frame == Py_None) Py_CLEAR(frame);
    }
    Py_XDECREF(frame);
    PyObject *raised = PyErr_Occurred() ? take_exception() : NULL; /* errors then lack the line */
    Py_XDECREF(raised);
    if (PyErr_Occurred()) Py_CLEAR(line);
    return line;
}

void *raise_status(module_state *state, mth_status status) {
    mth_error_code code = mth_error_get_code(status);
    PyObject *type = class_of(state, code), *error = NULL, *tensors = NULL, *line = NULL;
    PyObject *raised = mth_error_get_cause(status);
    if (raised) { /* by a function of the user's that the library called */
        PyErr_SetObject((PyObject *)Py_TYPE(raised), raised);
        mth_error_free(status);
        return NULL;
    }
    if (code == MTH_ERROR_INTERRUPTED) {
        PyErr_SetNone(type);
        mth_error_free(status);
        return NULL;
    }
    if ((line = source_line())) mth_error_set_source_line(status, PyUnicode_AsUTF8AndSize(line, NULL));
    Py_XDECREF(line);
    if (PyErr_Occurred()) {
        mth_error_free(status);
        return NULL;
    }
    size_t count = mth_error_get_tensor_count(status);
    const int number = mth_error_get_errno(status);
    tensors = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; tensors && i < count; i++) {
        PyObject *text = lossy(mth_error_get_tensor(status, i));
        if (!text || PyTuple_SetItem(tensors, (Py_ssize_t)i, text)) Py_CLEAR(tensors);
    }
    if (tensors)
        error = PyObject_CallFunction(number ? state->file_error : type, number ? "NNNNOi" : "NNNNO",
            in_python(mth_error_get_message(status)), in_python(mth_error_get_what(status)),
            in_python(mth_error_get_fix(status)), lossy(mth_error_get_operator(status)), tensors, number);
    if (error) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    Py_XDECREF(tensors);
    mth_error_free(status);
    return NULL;
}

int note_source_line(void) {
    PyObject *line = source_line();
    if (PyErr_Occurred()) return -1;
    mth_set_source_line(line ? PyUnicode_AsUTF8AndSize(line, NULL) : NULL);
    Py_XDECREF(line);
    return 0;
}

static PyObject *error_of(PyObject *type, const char *operator, PyObject * what, PyObject *fix) {
    PyObject *line = source_line(), *at = line ? TEXT("\n  at %U", line) : PyErr_Occurred() ? NULL : TEXT("%s", "");
    PyObject *message =
        at ? TEXT("%s%s%U%U\n  fix: %U", operator? operator: "", operator? ": " : "", what, at, fix) : NULL;
    Py_XDECREF(line);
    Py_XDECREF(at);
    return message ? PyObject_CallFunction(type, "NOOs()", message, what, fix, operator? operator: "") : NULL;
}

/* Takes cause, what and fix. */
static void *raise_class(PyObject *type, const char *operator, PyObject * cause, PyObject *what, PyObject *fix) {
    PyObject *error = what && fix && !PyErr_Occurred() ? error_of(type, operator, what, fix) : NULL;
    if (error) {
        if (cause) PyException_SetCause(error, Py_NewRef(cause));
        PyErr_SetObject(type, error);
    }
    Py_XDECREF(error);
    Py_XDECREF(cause);
    Py_XDECREF(what);
    Py_XDECREF(fix);
    return NULL;
}

void *raise_error(
    module_state *state, const char *operator, mth_error_code code, PyObject *cause, PyObject *what, PyObject *fix) {
    return raise_class(class_of(state, code), operator, cause, what, fix);
}

void *raise_fix(module_state *state, mth_error_code code, PyObject *what, PyObject *fix) {
    return raise_error(state, NULL, code, NULL, what, fix);
}

/* Called with an AttributeError set. Clears it if the type has no attribute of that name. Otherwise a property of a
   subclass failed: the error stays set, and the result is false. */
static bool clear_missing_attribute(PyObject *self, PyObject *name) {
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyObject *own = PyObject_GetAttr((PyObject *)Py_TYPE(self), name);
    if (own) {
        Py_DECREF(own);
        PyErr_Restore(type, error, trace);
        return false;
    }
    Py_XDECREF(type), Py_XDECREF(error), Py_XDECREF(trace);
    PyObject *lacking = take_exception();
    if (!lacking) return false;
    Py_DECREF(lacking);
    return true;
}

PyObject *attribute_of(PyObject *self, PyObject *name, const char *place, const char *otherwise) {
    PyObject *value = PyObject_GenericGetAttr(self, name);
    if (value || !PyErr_ExceptionMatches(PyExc_AttributeError)) return value;
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, NULL) : NULL, *why = NULL,
               *fix = otherwise;
    if (!text || *text == '_') return NULL; /* protocols that are asked for */
    if (!clear_missing_attribute(self, name)) return NULL;
    mth_absent(place, text, &why, &fix);
    PyObject *type_name = PyType_GetName(Py_TYPE(self)), *advice = in_python(fix);
    PyObject *what = !type_name ? NULL
        : why                   ? TEXT("%U.%U %s", type_name, name, why)
                                : TEXT("%U has no attribute '%U'", type_name, name);
    Py_XDECREF(type_name);
    return raise_class(STATE(self)->attribute_error, NULL, NULL, what, advice);
}

PyObject *refuse_pickle(PyObject *self, PyObject *unused) {
    (void)unused;
    module_state *state = STATE(self);
    PyObject *type = PyType_GetName(Py_TYPE(self));
    const char *fix = "compose it where it is needed: pickle the arguments of the function that does";
    if (PyObject_TypeCheck(self, state->array_type) || PyObject_TypeCheck(self, state->shard_type))
        fix = "pickle numpy.asarray(x), and give that to backend.array where it is needed";
    else if (PyObject_TypeCheck(self, state->backend_type))
        fix = "make it where it is needed: pickle the arguments of its class";
    else if (PyObject_TypeCheck(self, state->compiled_type))
        fix = "compile again where it is needed, ml.compile(model, backend); pickle numpy.asarray(x) of each parameter";
    PyObject *what = type ? TEXT("pickle and copy don't have what the %U holds: it is the library's", type) : NULL;
    Py_XDECREF(type);
    return raise_fix(state, MTH_ERROR_TYPE, what, TEXT("%s", fix));
}

PyObject *itself(PyObject *self, PyObject *unused) {
    (void)unused;
    return Py_NewRef(self);
}

int set_attribute_of(PyObject *self, PyObject *name, PyObject *value, const char *fix) {
    if (!PyObject_GenericSetAttr(self, name, value)) return 0;
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) return -1;
    if (!clear_missing_attribute(self, name)) return -1;
    PyObject *type_name = PyType_GetName(Py_TYPE(self));
    PyObject *what = type_name ? TEXT("%U.%U can't be %s", type_name, name, value ? "set" : "deleted") : NULL;
    Py_XDECREF(type_name);
    raise_class(STATE(self)->attribute_error, NULL, NULL, what, TEXT("%s", fix));
    return -1;
}

/* What is written in the place of an operator between connections, modules or models. */
static PyObject *composed(const char *operation) {
    static const char *const by[][2] = {
        {"+", "Add"}, {"-", "Subtract"}, {"*", "Multiply"}, {"/", "Divide"}, {"@", "MatMul"}};
    for (size_t i = 0; i < sizeof by / sizeof *by; i++)
        if (strcmp(by[i][0], operation) == 0)
            return TEXT(
                "write model |= ml.%s()(inputs=[\"a\", \"b\"], output=\"c\") for the connections \"a\" and \"b\" of a "
                "model",
                by[i][1]);
    if (strcmp(operation, "[]") == 0)
        return TEXT("compose a module in its place in a model: model |= ml.Slice(...)(input=\"a\", output=\"b\")");
    if (strcmp(operation, "|") == 0)
        return TEXT("blocks are added to a model, one by one: model = ml.Model(); model |= ml.Relu()(input=\"a\", "
                    "output=\"b\"); model += ml.Linear(4)");
    if (strcmp(operation, "**") == 0)
        return TEXT(
            "a square is the product of a connection with itself: model |= ml.Multiply()(inputs=[\"a\", \"a\"], "
            "output=\"b\")");
    if (strcmp(operation, "unary -") == 0)
        return TEXT("no module changes the sign alone: subtract in the place of an addition, model |= "
                    "ml.Subtract()(inputs=[\"b\", \"a\"], output=\"c\")");
    return TEXT(
        "no module does that: compute it outside of the model, and give it as an input; ml.modules names the modules");
}

void *raise_operation(module_state *state, const char *operation) {
    return raise_fix(state, MTH_ERROR_TYPE,
        TEXT("connections, modules and models are composed by name: '%s' does nothing to them", operation),
        composed(operation));
}

PyObject *list_of_names(const char *const *names, size_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list && i < count; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (!name || PyList_SetItem(list, (Py_ssize_t)i, name)) Py_CLEAR(list);
    }
    return list;
}

PyObject *text_of(char *text) {
    PyObject *result = lossy(text);
    mth_text_free(text);
    return result;
}

PyObject *type_text(PyObject *object) {
    PyObject *name = PyType_GetName(Py_TYPE(object)), *text = name ? TEXT("a %U", name) : NULL;
    Py_XDECREF(name);
    return text;
}

/* ---------------------------------------------------------------- the pool */
struct pool_item {
    pool_item *next;
    PyObject *kept;
    max_align_t data[];
};

static pool_item *pool_add(pool *scratch, size_t bytes) {
    pool_item *item = PyMem_Calloc(1, sizeof *item + bytes);
    if (!item) {
        PyErr_NoMemory();
        return NULL;
    }
    item->next = scratch->first;
    scratch->first = item;
    return item;
}

void *pool_take(pool *scratch, size_t count, size_t size) {
    if (count > (size_t)PY_SSIZE_T_MAX / size - sizeof(pool_item)) {
        PyErr_NoMemory();
        return NULL;
    }
    pool_item *item = pool_add(scratch, count * size);
    return item ? item->data : NULL;
}

int pool_keep(pool *scratch, PyObject *taken) {
    if (!taken) return -1;
    pool_item *item = pool_add(scratch, 0);
    if (!item) {
        Py_DECREF(taken);
        return -1;
    }
    item->kept = taken;
    return 0;
}

void pool_free(pool *scratch) {
    for (pool_item *item = scratch->first, *next; item; item = next) {
        next = item->next;
        Py_XDECREF(item->kept);
        PyMem_Free(item);
    }
    scratch->first = NULL;
}

/* ---------------------------------------------------------------- the module */
module_state *state_of(PyTypeObject *type) {
    /* A Python subclass has no module of its own; its base in this module has. */
    for (; type; type = PyType_GetSlot(type, Py_tp_base)) {
        if (!(PyType_GetFlags(type) & Py_TPFLAGS_HEAPTYPE)) break;
        module_state *state = PyType_GetModuleState(type);
        if (state) return state;
        PyErr_Clear();
    }
    Py_FatalError("mithril: an object of a type that is not of the module");
}

PyTypeObject *add_type(PyObject *module, PyType_Spec *spec, PyTypeObject *base) {
    PyObject *type = PyType_FromModuleAndSpec(module, spec, (PyObject *)base);
    if (!type) return NULL;
    PyObject *name = PyType_GetName((PyTypeObject *)type);
    const char *text = name ? PyUnicode_AsUTF8AndSize(name, NULL) : NULL;
    if (!text || PyModule_AddObjectRef(module, text, type)) Py_CLEAR(type);
    Py_XDECREF(name);
    return (PyTypeObject *)type;
}

static PyObject *text_or_none(const char *text) {
    if (text) return PyUnicode_FromString(text);
    Py_RETURN_NONE;
}

static PyObject *module_types(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    size_t count = mth_module_type_count();
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list && i < count; i++) {
        const char *name = mth_module_type_name(i);
        PyObject *row = Py_BuildValue(
            "ssss", name, mth_module_type_signature(name), mth_module_type_ports(name), mth_module_type_doc(name));
        if (!row || PyList_SetItem(list, (Py_ssize_t)i, row)) Py_CLEAR(list);
    }
    return list;
}

static PyObject *backend_option_doc(PyObject *module, PyObject *engine) {
    const char *name = to_name(PyModule_GetState(module), engine, "the engine");
    return name ? text_or_none(mth_backend_option_doc(name)) : NULL;
}

/* (place, name) -> (why, fix), or None. */
static PyObject *absent(PyObject *module, PyObject *args) {
    const char *place, *name, *why, *fix;
    (void)module;
    if (!PyArg_ParseTuple(args, "ss:_absent", &place, &name)) return NULL;
    if (!mth_absent(place, name, &why, &fix)) Py_RETURN_NONE;
    return Py_BuildValue("sN", why, in_python(fix));
}

static PyObject *operation(PyObject *module, PyObject *text) {
    const char *name = PyUnicode_AsUTF8AndSize(text, NULL);
    return name ? raise_operation(PyModule_GetState(module), name) : NULL;
}

static PyObject *compile_option_doc(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return text_or_none(mth_compile_option_doc());
}

typedef struct {
    const char *plan;
    char *printed;
} reading;

static mth_status verify_text(void *context) { return mth_plan_verify_text(((reading *)context)->plan); }
static mth_status reprint_text(void *context) {
    reading *job = context;
    return mth_plan_reprint(job->plan, &job->printed);
}

/* -1: an exception is set. */
static int read_text(module_state *state, PyObject *text, mth_status (*call)(void *), char **printed) {
    reading job = {to_name(state, text, "the text of a plan"), NULL};
    if (!job.plan || call_interruptibly(state, call, &job)) return -1;
    if (printed) *printed = job.printed;
    return 0;
}

static PyObject *verify_plan(PyObject *module, PyObject *text) {
    if (read_text(PyModule_GetState(module), text, verify_text, NULL)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *reprint_plan(PyObject *module, PyObject *text) {
    char *printed;
    return read_text(PyModule_GetState(module), text, reprint_text, &printed) ? NULL : text_of(printed);
}

static PyObject *fail_allocation(PyObject *module, PyObject *index) {
    (void)module;
    long long i = PyLong_AsLongLong(index);
    if (i == -1 && PyErr_Occurred()) return NULL;
    mth_debug_fail_allocation(i);
    Py_RETURN_NONE;
}

static PyObject *allocations(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return Py_BuildValue("LL", (long long)mth_debug_allocation_count(), (long long)mth_debug_live_allocations());
}

static PyMethodDef functions[] = {
    {"compile", (PyCFunction)(void (*)(void))compile_model, METH_VARARGS | METH_KEYWORDS,
        "compile(model, backend, **options)\n--\n\n"
        "Compiles a model for a backend. All that needs no shapes is checked here; a plan is made at the first "
        "evaluate for each set of\n"
        "shapes, and kept. The model is copied: what is composed later does not change what was compiled."},
    {"verify_plan", verify_plan, METH_O,
        "verify_plan(text, /)\n--\n\n"
        "Proves the text of a plan: it can't deadlock, read a byte that is unwritten or shared, or use a partial\n"
        "sum as a value. Raises what is wrong."},
    {"reprint_plan", reprint_plan, METH_O,
        "reprint_plan(text, /)\n--\n\nParses the text of a plan and prints it: the same text."},
    {"_read_safetensors", read_safetensors_arrays, METH_VARARGS,
        "_read_safetensors(compiled, inputs, path, names)\n--\n\n"},
    {"_module_types", module_types, METH_NOARGS,
        "_module_types()\n--\n\n(name, signature, ports, documentation) of each type of module."},
    {"_backend_option_doc", backend_option_doc, METH_O, "_backend_option_doc(engine, /)\n--\n\n"},
    {"_absent", absent, METH_VARARGS,
        "_absent(place, name, /)\n--\n\n(why, fix) of a name that mithril has not, or None."},
    {"_operation", operation, METH_O,
        "_operation(operation, /)\n--\n\nRaises the error of an operator between connections."},
    {"_compile_option_doc", compile_option_doc, METH_NOARGS, "_compile_option_doc()\n--\n\n"},
    {"_fail_allocation", fail_allocation, METH_O,
        "_fail_allocation(index, /)\n--\n\nThe index-th allocation of the library from now on fails; -1: none."},
    {"_after_fork", after_fork, METH_NOARGS, "_after_fork()\n--\n\n"},
    {"_allocations", allocations, METH_NOARGS,
        "_allocations()\n--\n\n(allocations so far, those not freed) of the library."},
    {0},
};

/* Data that arrays borrow is given back by whichever thread is the last to use it. Such a thread can enter the main
   interpreter only (PyGILState_Ensure): in another one it would wait for ever. A slot of the module could say so from
   Python 3.12 on, but 3.11 takes no slot that it doesn't know, and Python's own message has no fix. */
static int refuse_subinterpreter(void) {
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) == 0) return 0;
    PyErr_SetString(PyExc_ImportError,
        "mithril can't be imported in a subinterpreter: its threads enter the main interpreter only\n"
        "  fix: import it in the main interpreter, or start a process: multiprocessing, subprocess");
    return -1;
}

static int watch_forks(PyObject *module) {
    PyObject *os = PyImport_ImportModule("os"), *watch = os ? PyObject_GetAttrString(os, "register_at_fork") : NULL;
    PyObject *arguments = PyTuple_New(0), *keywords = PyDict_New(),
             *call = PyObject_GetAttrString(module, "_after_fork"), *done = NULL;
    if (watch && arguments && keywords && call && !PyDict_SetItemString(keywords, "after_in_child", call))
        done = PyObject_Call(watch, arguments, keywords);
    Py_XDECREF(os);
    Py_XDECREF(watch);
    Py_XDECREF(arguments);
    Py_XDECREF(keywords);
    Py_XDECREF(call);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static int execute(PyObject *module) {
    if (refuse_subinterpreter()) return -1;
    module_state *state = PyModule_GetState(module);
    PyObject *errors = PyImport_ImportModule("mithril.errors");
    if (!errors) return -1;
    state->value_error = PyObject_GetAttrString(errors, "MithrilValueError");
    state->type_error = PyObject_GetAttrString(errors, "MithrilTypeError");
    state->key_error = PyObject_GetAttrString(errors, "MithrilKeyError");
    state->memory_error = PyObject_GetAttrString(errors, "MithrilMemoryError");
    state->internal_error = PyObject_GetAttrString(errors, "MithrilInternalError");
    state->file_error = PyObject_GetAttrString(errors, "_file_error");
    state->attribute_error = PyObject_GetAttrString(errors, "MithrilAttributeError");
    Py_DECREF(errors);
    if (!state->value_error || !state->type_error || !state->key_error || !state->memory_error ||
        !state->internal_error || !state->file_error || !state->attribute_error)
        return -1;
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *thread = threading ? PyObject_CallMethod(threading, "main_thread", NULL) : NULL;
    PyObject *ident = thread ? PyObject_GetAttrString(thread, "ident") : NULL;
    if (ident) state->main_thread = PyLong_AsUnsignedLong(ident);
    Py_XDECREF(ident);
    Py_XDECREF(thread);
    Py_XDECREF(threading);
    if (PyErr_Occurred() || watch_forks(module)) return -1;
    return add_model_types(module, state) || add_array_types(module, state) || add_backend_type(module, state) ||
            add_compiled_type(module, state) || add_trace_types(module, state) || add_hook_types(module, state) ||
            PyModule_AddStringConstant(module, "__version__", MTH_VERSION)
        ? -1
        : 0;
}

#define EACH(each)                                                                                                     \
    each(s->module_type) each(s->block_type) each(s->model_type) each(s->array_type) each(s->shard_type)               \
        each(s->backend_type) each(s->compiled_type) each(s->trace_type) each(s->traced_type) each(s->crossing_type)   \
            each(s->handle_type) each(s->value_error) each(s->type_error) each(s->key_error) each(s->memory_error)     \
                each(s->internal_error) each(s->file_error) each(s->attribute_error) each(s->dtypes)                   \
                    each(s->torch_from_dlpack)

static int traverse(PyObject *module, visitproc visit, void *arg) {
    module_state *s = PyModule_GetState(module);
#define VISIT(member) Py_VISIT(member);
    EACH(VISIT)
    return 0;
}

static int clear(PyObject *module) {
    module_state *s = PyModule_GetState(module);
#define CLEAR(member) Py_CLEAR(member);
    EACH(CLEAR)
    return 0;
}

static void release(void *module) { clear(module); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0}};
static PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "mithril._mithril",
    .m_doc = "The C library of mithril.",
    .m_size = sizeof(module_state),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};
PyMODINIT_FUNC PyInit__mithril(void);
PyMODINIT_FUNC PyInit__mithril(void) { return PyModuleDef_Init(&definition); }
