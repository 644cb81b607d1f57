#include "_mithril.h"
#include <string.h>

/* ---------------------------------------------------------------- wires */
typedef struct {
    PyObject_HEAD PyObject *what; /* a Module or a Model */
    PyObject *wires;              /* a tuple: port, name, port, name, ... */
    PyObject *name;               /* a Model's: the name of the block; else NULL */
} block_object;

/* `port=["a", "b"]` repeats the port. */
static int add_wires(module_state *state, PyObject *list, const char *port, PyObject *key, PyObject *value) {
    PyObject *names = PyList_Check(value) || PyTuple_Check(value) ? PySequence_Tuple(value) : PyTuple_Pack(1, value);
    int failed = !names;
    for (Py_ssize_t i = 0; !failed && i < PyTuple_Size(names); i++) {
        PyObject *one = PyTuple_GetItem(names, i);
        if (PyUnicode_Check(one))
            failed = PyList_Append(list, key) || PyList_Append(list, one);
        else {
            raise_fix(state, MTH_ERROR_TYPE,
                TEXT("%s is wired to %s, which is not the name of a connection", port, SHOW(one)),
                TEXT("give a str, or a list of str where the port takes several: %s=\"hidden\"", port));
            failed = 1;
        }
    }
    Py_XDECREF(names);
    return failed;
}

/* Takes `name` out where `named`. */
static PyObject *block_new(module_state *state, PyObject *what, PyObject *args, PyObject *keywords, int named) {
    if (PyTuple_Size(args)) {
        PyObject *first = PyTuple_GetItem(args, 0);
        return raise_fix(state, MTH_ERROR_TYPE,
            TEXT("a wire is given as %s, without the port that it goes to", SHOW(first)),
            TEXT("name the port: (input=%s, ...)", SHOW(first)));
    }
    PyObject *pairs = pairs_of(keywords), *list = PyList_New(0), *name = NULL, *wires = NULL;
    block_object *block = NULL;
    if (!pairs || !list) goto end;
    for (Py_ssize_t i = 0, n = PyTuple_Size(pairs); i < n; i++) {
        PyObject *pair = PyTuple_GetItem(pairs, i), *key = PyTuple_GetItem(pair, 0), *value = PyTuple_GetItem(pair, 1);
        const char *port = to_name(state, key, "a port");
        if (!port) goto end;
        if (named && strcmp(port, "name") == 0) {
            if (!to_name(state, value, "name")) goto end;
            name = value;
        } else if (add_wires(state, list, port, key, value))
            goto end;
    }
    if (!(wires = PyList_AsTuple(list)) || !(block = PyObject_GC_New(block_object, state->block_type))) goto end;
    block->what = Py_NewRef(what);
    block->wires = Py_NewRef(wires);
    block->name = Py_XNewRef(name);
    PyObject_GC_Track(block);
end:
    Py_XDECREF(pairs), Py_XDECREF(list), Py_XDECREF(wires);
    return (PyObject *)block;
}

static int block_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((block_object *)self)->what);
    Py_VISIT(((block_object *)self)->wires);
    Py_VISIT(((block_object *)self)->name);
    return 0;
}

static void block_dealloc(PyObject *self) {
    block_object *block = (block_object *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(block->what);
    Py_XDECREF(block->wires);
    Py_XDECREF(block->name);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *block_repr(PyObject *self) {
    block_object *block = (block_object *)self;
    PyObject *text = PyObject_Repr(block->what);
    for (Py_ssize_t i = 0, n = PyTuple_Size(block->wires); text && i < n; i += 2) {
        PyObject *next = TEXT(
            "%U%s%U=%R", text, i ? ", " : "(", PyTuple_GetItem(block->wires, i), PyTuple_GetItem(block->wires, i + 1));
        Py_DECREF(text);
        text = next;
    }
    if (!text) return NULL;
    PyObject *whole = TEXT(PyTuple_Size(block->wires) ? "%U)" : "%U()", text);
    Py_DECREF(text);
    return whole;
}

/* ---------------------------------------------------------------- what is written in another way here */
/* All three types have these slots. Of the two operands, ours is the one whose type has this function in the slot. */
static PyObject *no_operation(PyObject *a, PyObject *b, int slot, void *function, const char *operation) {
    PyObject *ours = PyType_GetSlot(Py_TYPE(a), slot) == function ? a : b;
    return raise_operation(STATE(ours), operation);
}
#define BINARY(name, text)                                                                                             \
    static PyObject *no_##name(PyObject *a, PyObject *b) {                                                             \
        return no_operation(a, b, Py_nb_##name, (void *)no_##name, text);                                              \
    }
/* clang-format off */
BINARY(add, "+") BINARY(subtract, "-") BINARY(multiply, "*") BINARY(true_divide, "/") BINARY(matrix_multiply, "@")
BINARY(or, "|") BINARY(floor_divide, "//") BINARY(remainder, "%") BINARY(divmod, "divmod()") BINARY(and, "&")
BINARY(xor, "^") BINARY(lshift, "<<") BINARY(rshift, ">>")
/* clang-format on */

static PyObject *no_power(PyObject *a, PyObject *b, PyObject *modulus) {
    (void)modulus;
    return no_operation(a, b, Py_nb_power, (void *)no_power, "**");
}
#define UNARY(name, text)                                                                                              \
    static PyObject *no_##name(PyObject *a) { return raise_operation(STATE(a), text); }
/* clang-format off */
UNARY(negative, "unary -") UNARY(positive, "unary +") UNARY(invert, "~") UNARY(absolute, "abs()")
/* clang-format on */

static PyObject *no_subscript(PyObject *a, PyObject *key) {
    (void)key;
    return raise_operation(STATE(a), "[]");
}
#define NO_OPERATIONS                                                                                                  \
    {Py_nb_add, no_add}, {Py_nb_subtract, no_subtract}, {Py_nb_multiply, no_multiply},                                 \
        {Py_nb_true_divide, no_true_divide}, {Py_nb_matrix_multiply, no_matrix_multiply}, {Py_nb_or, no_or},           \
        {Py_nb_power, no_power}, {Py_nb_negative, no_negative}, {Py_nb_floor_divide, no_floor_divide},                 \
        {Py_nb_remainder, no_remainder}, {Py_nb_divmod, no_divmod}, {Py_nb_and, no_and}, {Py_nb_xor, no_xor},          \
        {Py_nb_lshift, no_lshift}, {Py_nb_rshift, no_rshift}, {Py_nb_positive, no_positive},                           \
        {Py_nb_invert, no_invert}, {Py_nb_absolute, no_absolute}, {                                                    \
        Py_mp_subscript, no_subscript                                                                                  \
    }

static PyObject *module_attribute(PyObject *self, PyObject *name) {
    return attribute_of(self, name, "module",
        "a port or a parameter is a name: ml.Linear(4)(input=\"x\", output=\"h\") makes the connection \"h\"");
}
static PyObject *model_attribute(PyObject *self, PyObject *name) {
    return attribute_of(
        self, name, "model", "a connection is a name, \"h\": wire it as input=\"h\"; print(model) lists them");
}

static int set_of_module(PyObject *self, PyObject *name, PyObject *value) {
    return set_attribute_of(self, name, value,
        "options are given where a module is made, and stay: ml.Linear(4, bias=False); make another");
}
static int set_of_model(PyObject *self, PyObject *name, PyObject *value) {
    return set_attribute_of(self, name, value,
        "add blocks with model |= block or model += block; a class of your own derived from ml.Model has "
        "attributes");
}

/* a deep copy would share a model, which may grow */
static PyMethodDef block_methods[] = {NO_PICKLE, COPY, {0}};
static PyType_Slot block_slots[] = {
    {Py_tp_methods, block_methods},
    {Py_tp_doc, "A module or a model with its wires: what calling one gives, and what |= and += add to a model."},
    {Py_tp_traverse, block_traverse},
    {Py_tp_dealloc, block_dealloc},
    {Py_tp_repr, block_repr},
    {Py_tp_getattro, module_attribute},
    {Py_tp_setattro, set_of_module},
    NO_OPERATIONS,
    {0, NULL},
};
static PyType_Spec block_spec = {"mithril.Block", sizeof(block_object), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, block_slots};

/* ---------------------------------------------------------------- modules */
typedef struct {
    const char *type;
    const mth_option *options;
    size_t count;
    mth_module *module;
} module_making;

static mth_status make_module(void *context) {
    module_making *job = context;
    return mth_module_create(job->type, job->options, job->count, &job->module);
}

static PyObject *module_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    module_state *state = state_of(type);
    mth_option *options;
    size_t count, given = (size_t)PyTuple_Size(args);
    module_object *self = NULL;
    PyObject *name = PyType_GetName(type);
    const char *type_name = name ? PyUnicode_AsUTF8AndSize(name, NULL) : NULL;
    pool scratch = {.operator= type_name };
    const char *at = type_name ? mth_module_type_signature(type_name) : NULL;
    if (!at || to_options(state, keywords, at, given, &scratch, &options, &count)) goto end;
    for (size_t i = 0; i < given; i++) { /* positional arguments, in the order of the signature */
        if (!*at) {
            raise_fix(state, MTH_ERROR_TYPE,
                TEXT("%s takes %zu options, and %zu are given by position", type_name, i, given),
                TEXT("leave the last out, or name them: %s(%s)", type_name, mth_module_type_signature(type_name)));
            goto end;
        }
        parameter each = next_parameter(at);
        char *option = pool_take(&scratch, each.name_size + 1, 1);
        if (!option) goto end;
        memcpy(option, each.name, each.name_size);
        options[i].name = option;
        for (size_t j = given; j < count; j++) {
            if (strcmp(options[j].name, option)) continue;
            raise_fix(state, MTH_ERROR_TYPE, TEXT("%s: %s is given twice, by position and by name", type_name, option),
                TEXT("leave one of the two out"));
            goto end;
        }
        if (option_to_arg(state, PyTuple_GetItem(args, (Py_ssize_t)i), mth_module_type_signature(type_name), option,
                &scratch, &options[i].value))
            goto end;
        at = *each.end ? each.end + 1 : each.end;
    }
    module_making job = {type_name, options, count, NULL};
    if ((scratch.models ? call_with_models : call_briefly)(state, scratch.models, make_module, &job)) goto end;
    const char *warning = mth_module_get_warning(job.module);
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    const int raised = warning && PyErr_WarnEx(PyExc_UserWarning, warning, 1);
    if (!raised && (self = (module_object *)allocate(type, 0))) {
        self->module = job.module;
        self->has_models = scratch.models != NULL;
    } else
        mth_module_free(job.module);
end:
    pool_free(&scratch);
    Py_XDECREF(name);
    return (PyObject *)self;
}

static void free_module(void *module) { mth_module_free(module); }

static void module_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (((module_object *)self)->has_models)
        free_unlocked(free_module, ((module_object *)self)->module);
    else
        mth_module_free(((module_object *)self)->module);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *module_call(PyObject *self, PyObject *args, PyObject *keywords) {
    return block_new(STATE(self), self, args, keywords, 0);
}

static PyObject *module_repr(PyObject *self) {
    PyObject *name = PyType_GetName(Py_TYPE(self)), *text = name ? TEXT("ml.%U", name) : NULL;
    Py_XDECREF(name);
    return text;
}

static PyObject *module_ports(PyObject *self, void *unused) {
    (void)unused;
    return PyUnicode_FromString(mth_module_get_ports(((module_object *)self)->module));
}

typedef struct {
    const mth_module *from;
    mth_module *copy;
} module_renewal;

static mth_status make_module_copy(void *context) {
    module_renewal *job = context;
    return mth_module_copy(job->from, &job->copy);
}

static PyObject *module_copy(PyObject *self, PyObject *unused) {
    (void)unused;
    const module_object *from = (module_object *)self;
    module_renewal job = {from->module, NULL};
    if ((from->has_models ? call_with_models : call_briefly)(STATE(self), NULL, make_module_copy, &job)) return NULL;
    allocfunc allocate = PyType_GetSlot(Py_TYPE(self), Py_tp_alloc);
    module_object *made = (module_object *)allocate(Py_TYPE(self), 0);
    if (made) {
        made->module = job.copy;
        made->has_models = from->has_models;
    } else
        mth_module_free(job.copy);
    return (PyObject *)made;
}

static PyMethodDef module_methods[] = {
    NO_PICKLE,
    COPY,
    {"__deepcopy__", module_copy, METH_O, "__deepcopy__($self, memo, /)\n--\n\n"},
    {"copy", module_copy, METH_NOARGS,
        "copy($self, /)\n--\n\nThe same module with weights of its own; the module itself, added twice, is one set of "
        "weights."},
    {"connect", (PyCFunction)(void (*)(void))module_call, METH_VARARGS | METH_KEYWORDS,
        "connect($self, /, **wires)\n--\n\nThe module with its wires; the same as calling it: "
        "Linear(4).connect(input=\"x\", output=\"h\")."},
    {0},
};
static PyGetSetDef module_getset[] = {
    {"ports", module_ports, NULL,
        "The ports of the module, \"input -> output\"; one with ? may be left open, one with * takes a list.", NULL},
    {0}};
static PyType_Slot module_slots[] = {
    {Py_tp_doc, "What all modules have in common. Calling one wires it: ml.Linear(4)(input=\"x\", output=\"h\")."},
    {Py_tp_dealloc, module_dealloc},
    {Py_tp_call, module_call},
    {Py_tp_repr, module_repr},
    {Py_tp_methods, module_methods},
    {Py_tp_getset, module_getset},
    {Py_tp_getattro, module_attribute},
    {Py_tp_setattro, set_of_module},
    NO_OPERATIONS,
    {0, NULL},
};
static PyType_Spec module_spec = {"mithril.Module", sizeof(module_object), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, module_slots};

static int add_module_class(PyObject *module, module_state *state, const char *name) {
    const char *signature = mth_module_type_signature(name), *doc = mth_module_type_doc(name);
    PyTypeObject *type = NULL;
    PyObject *full = TEXT("mithril.%s", name);
    char *text = signature && doc ? PyMem_Malloc(print_signature(NULL, name, signature, doc)) : NULL;
    if (!text)
        PyErr_NoMemory();
    else if (full) {
        print_signature(text, name, signature, doc);
        PyType_Slot slots[] = {{Py_tp_doc, text}, {Py_tp_new, module_new}, {0, NULL}};
        PyType_Spec spec = {PyUnicode_AsUTF8AndSize(full, NULL), sizeof(module_object), 0, Py_TPFLAGS_DEFAULT, slots};
        type = add_type(module, &spec, state->module_type);
    }
    PyMem_Free(text);
    Py_XDECREF(full);
    Py_XDECREF((PyObject *)type);
    return type ? 0 : -1;
}

/* ---------------------------------------------------------------- models */
static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    module_state *state = state_of(type);
    if (PyTuple_Size(args) || (keywords && PyDict_Size(keywords)))
        return raise_fix(state, MTH_ERROR_TYPE, TEXT("Model takes no argument"),
            TEXT("compose with |= and +=; name it where it is added: parent |= model(name=\"encoder\")"));
    mth_model *model;
    mth_status status = mth_model_create(&model);
    if (status) return raise_status(state, status);
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    model_object *self = (model_object *)allocate(type, 0);
    if (self)
        self->model = model;
    else
        mth_model_free(model);
    return (PyObject *)self;
}

static void free_model(void *model) { mth_model_free(model); }

static void model_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    free_unlocked(free_model, ((model_object *)self)->model);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *model_call(PyObject *self, PyObject *args, PyObject *keywords) {
    return block_new(STATE(self), self, args, keywords, 1);
}

/* Of the name of a connection: IOKey says so. 1, 0, or -1 with an exception. */
static int is_exposed(PyObject *name) {
    PyObject *expose;
    int found = PyUnicode_CheckExact(name) ? 0 : find_attribute(name, "expose", &expose);
    if (found <= 0) return found;
    found = PyObject_IsTrue(expose);
    Py_DECREF(expose);
    return found;
}

typedef struct {
    mth_model *model;
    const mth_module *module; /* one of the two */
    const mth_model *sub;
    const char *name;
    const mth_wire *wires;
    size_t count;
    mth_add_mode mode;
    const bool *exposed; /* by wire */
} block_addition;

static mth_status add_block(void *context) {
    const block_addition *job = context;
    mth_status status = job->module
        ? mth_model_add(job->model, job->module, job->wires, job->count, job->mode)
        : mth_model_add_model(job->model, job->sub, job->name, job->wires, job->count, job->mode);
    for (size_t i = 0; !status && i < job->count; i++)
        if (job->exposed[i]) status = mth_model_expose(job->model, job->wires[i].name);
    return status;
}

static PyObject *model_add(PyObject *self, PyObject *added, mth_add_mode mode) {
    module_state *state = STATE(self);
    block_object *block = PyObject_TypeCheck(added, state->block_type) ? (block_object *)added : NULL;
    PyObject *what = block ? block->what : added;
    int is_module = PyObject_TypeCheck(what, state->module_type);
    if (!is_module && !PyObject_TypeCheck(what, state->model_type)) {
        PyObject *fix = PyType_Check(what) ? TEXT("make one of the class: ml.Relu()(input=\"x\"), with its parentheses")
                                           : TEXT("add a module, ml.Linear(4)(input=\"x\", output=\"h\"), or a model");
        return raise_fix(state, MTH_ERROR_TYPE, TEXT("%s is neither a module nor a model", SHOW(what)), fix);
    }
    pool scratch = {0};
    size_t count = block ? (size_t)PyTuple_Size(block->wires) / 2 : 0;
    mth_wire *wires = pool_take(&scratch, count, sizeof *wires);
    bool *exposed = wires ? pool_take(&scratch, count, sizeof *exposed) : NULL;
    PyObject *result = NULL;
    if (!exposed) goto end;
    for (size_t i = 0; i < count; i++) {
        PyObject *port = PyTuple_GetItem(block->wires, (Py_ssize_t)(2 * i)),
                 *name = PyTuple_GetItem(block->wires, (Py_ssize_t)(2 * i + 1));
        const int says = is_exposed(name);
        wires[i].port = says < 0 ? NULL : to_name(state, port, "a port");
        wires[i].name = wires[i].port ? to_name(state, name, "the name of a connection") : NULL;
        if (!wires[i].name) goto end;
        exposed[i] = says;
    }
    block_addition job = {.model = ((model_object *)self)->model,
        .module = is_module ? ((module_object *)what)->module : NULL,
        .sub = is_module ? NULL : ((model_object *)what)->model,
        .wires = wires,
        .count = count,
        .mode = mode,
        .exposed = exposed};
    if (block && block->name && !(job.name = to_name(state, block->name, "name"))) goto end;
    if (use_model(&scratch, self) || (!is_module && use_model(&scratch, what)) || note_source_line()) goto end;
    const bool brief = is_module && !((module_object *)what)->has_models;
    if (!(brief ? call_briefly : call_with_models)(state, scratch.models, add_block, &job)) result = Py_NewRef(self);
end:
    pool_free(&scratch);
    return result;
}

static PyObject *model_or(PyObject *self, PyObject *added) { return model_add(self, added, MTH_PLAIN); }
static PyObject *model_plus(PyObject *self, PyObject *added) { return model_add(self, added, MTH_CHAIN); }

typedef struct {
    mth_model *model;
    const char *source, *destination;
    int source_exposed, destination_exposed;
} model_joining;

static mth_status join(void *context) {
    const model_joining *job = context;
    mth_status status = mth_model_connect(job->model, job->source, job->destination);
    if (!status && job->source_exposed) status = mth_model_expose(job->model, job->source);
    if (!status && job->destination_exposed) status = mth_model_expose(job->model, job->destination);
    return status;
}

static PyObject *model_connect(PyObject *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"source", "destination", NULL};
    module_state *state = STATE(self);
    PyObject *from, *to, *result = NULL;
    pool scratch = {0};
    model_joining job = {.model = ((model_object *)self)->model};
    if (parse(state, &scratch, args, keywords, "OO:connect", names, &from, &to) &&
        (job.source = to_name(state, from, "source")) && (job.destination = to_name(state, to, "destination")) &&
        (job.source_exposed = is_exposed(from)) >= 0 && (job.destination_exposed = is_exposed(to)) >= 0 &&
        !use_model(&scratch, self) && !note_source_line() && !call_briefly(state, scratch.models, join, &job))
        result = Py_NewRef(Py_None);
    pool_free(&scratch);
    return result;
}

/* What a model is asked for; it may find out how its blocks are wired first. */
typedef struct {
    const mth_model *model;
    mth_status (*get)(const mth_model *, const char *const **, size_t *);
    const char *const *names; /* the model's own: they stay, whatever is added to it */
    size_t count;
    char *text;
    mth_status refused;
    mth_model *copy;
} model_question;

static int ask(PyObject *self, mth_status (*call)(void *), model_question *asked) {
    pool scratch = {0};
    asked->model = ((model_object *)self)->model;
    const int failed = use_model(&scratch, self) || call_with_models(STATE(self), scratch.models, call, asked) ? -1 : 0;
    pool_free(&scratch);
    return failed;
}

static mth_status print_model(void *context) {
    model_question *asked = context;
    asked->refused = mth_model_print(asked->model, &asked->text);
    if (mth_error_get_code(asked->refused) != MTH_ERROR_INTERRUPTED) return NULL;
    return asked->refused;
}

static PyObject *model_repr(PyObject *self) {
    model_question asked = {0};
    if (ask(self, print_model, &asked)) return NULL;
    if (!asked.refused) return text_of(asked.text);
    const char *op = mth_error_get_operator(asked.refused); /* a model in the making: to show it must not fail */
    PyObject *shown = TEXT("<mithril.Model: %s%s%s>", op, *op ? ": " : "", mth_error_get_what(asked.refused));
    mth_error_free(asked.refused);
    return shown;
}

static mth_status list_names(void *context) {
    model_question *asked = context;
    return asked->get(asked->model, &asked->names, &asked->count);
}

static PyObject *names_of_model(PyObject *self, mth_status (*get)(const mth_model *, const char *const **, size_t *)) {
    model_question asked = {.get = get};
    return ask(self, list_names, &asked) ? NULL : list_of_names(asked.names, asked.count);
}
static PyObject *model_inputs(PyObject *self, void *unused) {
    (void)unused;
    return names_of_model(self, mth_model_get_inputs);
}
static PyObject *model_outputs(PyObject *self, void *unused) {
    (void)unused;
    return names_of_model(self, mth_model_get_outputs);
}
static PyGetSetDef model_getset[] = {
    {"inputs", model_inputs, NULL, "The names that the model reads and nothing writes, in order.", NULL},
    {"outputs", model_outputs, NULL, "The names that nothing reads or that are exposed, in order.", NULL}, {0}};

static mth_status copy_model(void *context) {
    model_question *asked = context;
    return mth_model_copy(asked->model, &asked->copy);
}

static PyObject *model_copy(PyObject *self, PyObject *unused) {
    (void)unused;
    module_state *s = STATE(self);
    model_question asked = {0};
    if (ask(self, copy_model, &asked)) return NULL;
    allocfunc allocate = PyType_GetSlot(s->model_type, Py_tp_alloc);
    model_object *made = (model_object *)allocate(s->model_type, 0);
    if (made)
        made->model = asked.copy;
    else
        mth_model_free(asked.copy);
    return (PyObject *)made;
}

static PyMethodDef model_methods[] = {
    NO_PICKLE,
    {"copy", model_copy, METH_NOARGS,
        "copy($self, /)\n--\n\nThe same composition, an ml.Model, with weights of its own; the model itself, added "
        "twice, is one set\nof weights."},
    {"connect", (PyCFunction)(void (*)(void))model_connect, METH_VARARGS | METH_KEYWORDS,
        "connect($self, /, source, destination)\n--\n\nJoins the output `source` with the input `destination`. To say "
        "it twice\n"
        "changes nothing; a contradiction is an error."},
    {0},
};
static PyType_Slot model_slots[] = {
    {Py_tp_doc,
        "Model()\n--\n\n"
        "A model under composition. `model |= block` adds a block with just the wires that it names; `model += block` "
        "also feeds its one\n"
        "open input from the block before. A block is a wired module, ml.Linear(4)(input=\"x\", output=\"h\"), or a "
        "model, called with\n"
        "wires and a name or as it is. Its inputs are the names that nothing writes, its outputs those that nothing "
        "reads or that\n"
        "IOKey(name, expose=True) says."},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_call, model_call},
    {Py_tp_repr, model_repr},
    {Py_tp_methods, model_methods},
    {Py_tp_getset, model_getset},
    {Py_tp_getattro, model_attribute},
    {Py_tp_setattro, set_of_model},
    NO_OPERATIONS,
    {Py_nb_inplace_or, model_or},
    {Py_nb_inplace_add, model_plus},
    {0, NULL},
};
static PyType_Spec model_spec = {
    "mithril.Model", sizeof(model_object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, model_slots};

int add_model_types(PyObject *module, module_state *state) {
    state->module_type = add_type(module, &module_spec, NULL);
    state->block_type = add_type(module, &block_spec, NULL);
    state->model_type = add_type(module, &model_spec, NULL);
    if (!state->module_type || !state->block_type || !state->model_type) return -1;
    for (size_t i = 0; i < mth_module_type_count(); i++)
        if (add_module_class(module, state, mth_module_type_name(i))) return -1;
    return 0;
}
