#include "_mithril.h"
#include <string.h>

typedef struct {
    PyObject_HEAD mth_compiled *compiled;
    mth_backend *backend;
    PyObject *owner;
} compiled_object; /* owner keeps the backend */

static int compiled_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    /* There is no clear: runs need the owner. The collector cuts a cycle at the backend's own dict. */
    Py_VISIT(((compiled_object *)self)->owner);
    return 0;
}

static void free_compiled(void *compiled) { mth_compiled_free(compiled); }

static void compiled_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    free_unlocked(free_compiled, ((compiled_object *)object)->compiled);
    Py_XDECREF(((compiled_object *)object)->owner);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

/* ---------------------------------------------------------------- compile */
typedef struct {
    const mth_model *model;
    mth_backend *backend;
    const mth_option *options;
    size_t count;
    mth_compiled *compiled;
} compilation;

static mth_status make_compiled(void *context) {
    compilation *job = context;
    return mth_compile(job->model, job->backend, job->options, job->count, &job->compiled);
}

PyObject *compile_model(PyObject *module, PyObject *args, PyObject *keywords) {
    module_state *state = PyModule_GetState(module);
    PyObject *model, *backend;
    if (PyTuple_Size(args) != 2)
        return raise_fix(state, MTH_ERROR_TYPE,
            TEXT("compile takes a model and a backend, and %zd arguments are given by position", PyTuple_Size(args)),
            TEXT("write ml.compile(model, backend), with options by name: "
                 "ml.compile(model, backend, option=value)"));
    model = PyTuple_GetItem(args, 0), backend = PyTuple_GetItem(args, 1);
    if (PyObject_TypeCheck(model, state->module_type) || PyObject_TypeCheck(model, state->block_type))
        return raise_fix(state, MTH_ERROR_TYPE, TEXT("compile: %s is a module, no model", SHOW(model)),
            TEXT("put it in a model: model = ml.Model(); model |= ml.Linear(4)(input=\"x\", output=\"y\")"));
    if (!PyObject_TypeCheck(model, state->model_type))
        return raise_fix(state, MTH_ERROR_TYPE, TEXT("compile: %s is no model", SHOW(model)),
            TEXT("give an ml.Model, then the backend"));
    if (!PyObject_TypeCheck(backend, state->backend_type))
        return raise_fix(state, MTH_ERROR_TYPE, TEXT("compile: %s is no backend", SHOW(backend)),
            TEXT("give one of mithril.backends: CBackend(device_mesh=(4,))"));
    pool scratch = {.operator= "compile" };
    mth_option *options;
    size_t count;
    compiled_object *self = NULL;
    if (to_options(state, keywords, mth_compile_option_doc(), 0, &scratch, &options, &count)) goto end;
    if (use_model(&scratch, model)) goto end;
    compilation job = {((model_object *)model)->model, ((backend_object *)backend)->backend, options, count, NULL};
    if (call_with_models(state, scratch.models, make_compiled, &job)) goto end;
    allocfunc allocate = PyType_GetSlot(state->compiled_type, Py_tp_alloc);
    if ((self = (compiled_object *)allocate(state->compiled_type, 0))) {
        self->compiled = job.compiled;
        self->backend = job.backend;
        self->owner = Py_NewRef(backend);
    } else
        mth_compiled_free(job.compiled);
end:
    pool_free(&scratch);
    return (PyObject *)self;
}

/* ---------------------------------------------------------------- evaluate */
typedef struct {
    mth_compiled *compiled;
    const mth_arrays *parameters;
    const mth_named *inputs;
    size_t count;
    const mth_gradient_request *request;
    mth_arrays *outputs, *gradients;
} evaluation;

static mth_status evaluate(void *context) {
    evaluation *job = context;
    return mth_evaluate(
        job->compiled, job->parameters, job->inputs, job->count, job->request, &job->outputs, &job->gradients);
}

static int to_names(module_state *state, PyObject *object, pool *scratch, const char *const **out, size_t *count) {
    if (PyUnicode_Check(object) || !PySequence_Check(object)) {
        raise_fix(state, MTH_ERROR_TYPE, TEXT("input_gradients is %s, where a list of names is expected", SHOW(object)),
            TEXT("give input_gradients=[\"input\"]"));
        return -1;
    }
    const int longer = is_longer(object, MAX_ITEMS);
    if (longer > 0)
        raise_fix(state, MTH_ERROR_VALUE, TEXT("input_gradients has more than %d items", MAX_ITEMS),
            TEXT("give each name once, input_gradients=[\"input\"]"));
    PyObject *list = longer ? NULL : PySequence_Tuple(object);
    if (pool_keep(scratch, list)) return -1;
    size_t n = (size_t)PyTuple_Size(list);
    const char **names = pool_take(scratch, n, sizeof *names);
    if (!names) return -1;
    for (size_t i = 0; i < n; i++)
        if (!(names[i] = to_name(state, PyTuple_GetItem(list, (Py_ssize_t)i), "input_gradients"))) return -1;
    *out = names;
    *count = n;
    return 0;
}

static PyObject *compiled_evaluate(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"params", "inputs", "output_gradients", "input_gradients", NULL};
    module_state *state = STATE(object);
    compiled_object *self = (compiled_object *)object;
    PyObject *params, *inputs, *output_gradients = Py_None, *wanted = Py_None, *result = NULL;
    pool scratch = {0};
    mth_named *parameter = NULL, *input = NULL, *gradient = NULL;
    size_t parameters = 0, count = 0, gradient_count = 0;
    mth_gradient_request request = {0};
    mth_arrays *all = NULL;
    if (!parse(state, &scratch, args, keywords, "OO|OO:evaluate", names, &params, &inputs, &output_gradients, &wanted))
        goto end;
    if (output_gradients == Py_None && wanted != Py_None) {
        raise_fix(state, MTH_ERROR_TYPE, TEXT("input_gradients is given without output_gradients"),
            TEXT("give the gradients of the outputs too: output_gradients={\"output\": g}"));
        goto end;
    }
    if (to_named(state, self->backend, NULL, params, "params", &scratch, &parameter, &parameters)) goto end;
    if (to_named(state, self->backend, self->compiled, inputs, "inputs", &scratch, &input, &count)) goto end;
    if (output_gradients != Py_None &&
        to_named(
            state, self->backend, NULL, output_gradients, "output_gradients", &scratch, &gradient, &gradient_count))
        goto end;
    if (wanted != Py_None && to_names(state, wanted, &scratch, &request.input_gradients, &request.input_gradient_count))
        goto end;
    request.output_gradients = gradient;
    request.output_gradient_count = gradient_count;
    mth_status status = mth_arrays_create(parameter, parameters, &all);
    evaluation job = {self->compiled, all, input, count, output_gradients == Py_None ? NULL : &request, NULL, NULL};
    if (status)
        raise_status(state, status);
    else if (!call_interruptibly(state, evaluate, &job)) {
        result = arrays_to_dict(state, job.outputs);
        if (output_gradients != Py_None) {
            PyObject *second = arrays_to_dict(state, job.gradients);
            result = result && second ? Py_BuildValue("(NN)", result, second)
                                      : (Py_XDECREF(result), Py_XDECREF(second), NULL);
        }
    }
end:
    if (all) mth_arrays_free(all);
    named_free(parameter, parameters);
    named_free(input, count);
    named_free(gradient, gradient_count);
    pool_free(&scratch);
    return result;
}

/* ---------------------------------------------------------------- parameters, plans */
/* What the methods below are given, and what their calls of the library leave. */
typedef struct {
    module_state *state;
    compiled_object *self;
    mth_named *input;
    size_t count;
    pool scratch;
    uint64_t seed;
    bool gradients;
    mth_status (*read)(mth_compiled *, const mth_named *, size_t, char **);
    mth_arrays *parameters;
    char *text;
    mth_memory_usage *memory;
    mth_communication_usage *communication;
} call;

static call call_begin(PyObject *object) { return (call){.state = STATE(object), .self = (compiled_object *)object}; }

/* The inputs of a call that may have none; they say which shapes are meant. */
static int read_inputs(call *query, PyObject *inputs) {
    return inputs && inputs != Py_None ? to_named(query->state, query->self->backend, query->self->compiled, inputs,
                                             "inputs", &query->scratch, &query->input, &query->count)
                                       : 0;
}

static void *call_end(call *query) {
    named_free(query->input, query->count);
    pool_free(&query->scratch);
    return NULL;
}

static mth_status draw_parameters(void *context) {
    call *query = context;
    return mth_get_parameters(query->self->compiled, query->input, query->count, query->seed, &query->parameters);
}

static PyObject *fresh_parameters(PyObject *object, PyObject *args, PyObject *keywords, const char *format) {
    static char *names[] = {"inputs", "seed", NULL};
    PyObject *inputs = NULL, *seed = NULL;
    call query = call_begin(object);
    if (!parse(query.state, &query.scratch, args, keywords, format, names, &inputs, &seed)) return call_end(&query);
    if (seed && to_seed(query.state, seed, &query.seed)) return call_end(&query);
    if (read_inputs(&query, inputs)) return call_end(&query);
    int failed = call_interruptibly(query.state, draw_parameters, &query);
    call_end(&query);
    return failed ? NULL : arrays_to_dict(query.state, query.parameters);
}

static PyObject *compiled_parameters(PyObject *self, PyObject *args, PyObject *keywords) {
    return fresh_parameters(self, args, keywords, "|OO:get_parameters");
}

static PyObject *compiled_randomize(PyObject *self, PyObject *args, PyObject *keywords) {
    return fresh_parameters(self, args, keywords, "|OO:randomize_params");
}

static PyObject *compiled_attribute(PyObject *self, PyObject *name) {
    return attribute_of(self, name, "compiled", "help(ml.CompiledModel) tells what a compiled model has");
}

static mth_status lay_out_parameters(void *context) {
    call *query = context;
    return mth_get_parameter_layout(query->self->compiled, query->input, query->count, &query->parameters);
}

static PyObject *compiled_layout(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"inputs", NULL};
    PyObject *inputs = NULL;
    call query = call_begin(object);
    if (!parse(query.state, &query.scratch, args, keywords, "|O:get_parameter_layout", names, &inputs) ||
        read_inputs(&query, inputs))
        return call_end(&query);
    int failed = call_interruptibly(query.state, lay_out_parameters, &query);
    call_end(&query);
    return failed ? NULL : arrays_to_dict(query.state, query.parameters);
}

static mth_status print_program(void *context) {
    call *query = context;
    mth_status status = query->count || query->gradients
        ? mth_plan(query->self->compiled, query->input, query->count, query->gradients)
        : NULL;
    return status ? status : mth_plan_print(query->self->compiled, &query->text);
}

static PyObject *compiled_program(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"inputs", "gradients", NULL};
    PyObject *inputs = NULL, *backward = Py_False;
    int gradients = 0;
    call query = call_begin(object);
    if (!parse(query.state, &query.scratch, args, keywords, "|OO:program_text", names, &inputs, &backward) ||
        to_truth(query.state, backward, "gradients", &gradients) || read_inputs(&query, inputs))
        return call_end(&query);
    query.gradients = gradients != 0;
    int failed = call_interruptibly(query.state, print_program, &query);
    call_end(&query);
    return failed ? NULL : text_of(query.text);
}

static mth_status read_text(void *context) {
    call *query = context;
    return query->read(query->self->compiled, query->input, query->count, &query->text);
}

/* A text that is read off the plan for the inputs (or the last one). */
static PyObject *read_plan(PyObject *object, PyObject *args, PyObject *keywords, const char *format,
    mth_status (*read)(mth_compiled *, const mth_named *, size_t, char **)) {
    static char *names[] = {"inputs", NULL};
    PyObject *inputs = NULL;
    call query = call_begin(object);
    if (!parse(query.state, &query.scratch, args, keywords, format, names, &inputs) || read_inputs(&query, inputs))
        return call_end(&query);
    query.read = read;
    int failed = call_interruptibly(query.state, read_text, &query);
    call_end(&query);
    return failed ? NULL : text_of(query.text);
}
static PyObject *compiled_stablehlo(PyObject *self, PyObject *args, PyObject *keywords) {
    return read_plan(self, args, keywords, "|O:stablehlo", mth_stablehlo);
}
static PyObject *compiled_explain(PyObject *self, PyObject *args, PyObject *keywords) {
    return read_plan(self, args, keywords, "|O:explain", mth_explain);
}

static size_t devices_of(const compiled_object *self) { return (size_t)mth_backend_get_device_count(self->backend); }

/* A list with a dict for each device: `fields` int64_t members of the rows, under their names. */
static PyObject *table(const int64_t *rows, size_t devices, const char *const *field, size_t fields) {
    PyObject *list = PyList_New((Py_ssize_t)devices);
    for (size_t d = 0; list && d < devices; d++) {
        PyObject *row = PyDict_New();
        for (size_t k = 0; row && k < fields; k++) {
            PyObject *value = PyLong_FromLongLong(rows[d * fields + k]);
            if (!value || PyDict_SetItemString(row, field[k], value)) Py_CLEAR(row);
            Py_XDECREF(value);
        }
        if (!row || PyList_SetItem(list, (Py_ssize_t)d, row)) Py_CLEAR(list);
    }
    return list;
}

static mth_status count_memory(void *context) {
    call *query = context;
    return mth_get_memory_usage(
        query->self->compiled, query->input, query->count, query->memory, devices_of(query->self));
}

static PyObject *compiled_memory(PyObject *object, PyObject *args, PyObject *keywords) {
    static char *names[] = {"params", "inputs", NULL};
    static const char *const fields[] = {
        "weights", "gradients", "optimizer", "activations", "communication", "host", "total"};
    _Static_assert(sizeof(mth_memory_usage) == sizeof fields / sizeof *fields * sizeof(int64_t),
        "a field for each member, in order");
    PyObject *params = NULL, *inputs = NULL;
    call query = call_begin(object);
    if (!parse(query.state, &query.scratch, args, keywords, "|OO:get_memory_usage", names, &params, &inputs) ||
        read_inputs(&query, inputs))
        return call_end(&query);
    size_t devices = devices_of(query.self);
    PyObject *result = NULL;
    query.memory = pool_take(&query.scratch, devices, sizeof *query.memory);
    if (query.memory && !call_interruptibly(query.state, count_memory, &query))
        result = table(&query.memory->weights, devices, fields, sizeof fields / sizeof *fields);
    call_end(&query);
    return result;
}

static mth_status count_communication(void *context) {
    call *query = context;
    return mth_get_communication_usage(query->self->compiled, query->communication, devices_of(query->self));
}

static PyObject *compiled_communication(PyObject *object, PyObject *unused) {
    static const char *const fields[] = {"received", "sent", "messages"};
    _Static_assert(sizeof(mth_communication_usage) == sizeof fields / sizeof *fields * sizeof(int64_t),
        "a field for each member, in order");
    (void)unused;
    call query = call_begin(object);
    size_t devices = devices_of(query.self);
    PyObject *result = NULL;
    query.communication = pool_take(&query.scratch, devices, sizeof *query.communication);
    if (query.communication && !call_interruptibly(query.state, count_communication, &query))
        result = table(&query.communication->received, devices, fields, sizeof fields / sizeof *fields);
    call_end(&query);
    return result;
}

static PyObject *compiled_backend(PyObject *self, void *unused) {
    (void)unused;
    return Py_XNewRef(((compiled_object *)self)->owner);
}

/* ---------------------------------------------------------------- files */
typedef struct {
    call *query;
    const char *path;
    const mth_file_tensor *tensors;
    size_t count;
} tensors_reading;

static mth_status read_file(void *context) {
    const tensors_reading *job = context;
    const call *query = job->query;
    mth_arrays *layout = NULL;
    mth_status status = mth_get_parameter_layout(query->self->compiled, query->input, query->count, &layout);
    if (!status)
        status = mth_arrays_read_safetensors(layout, job->path, job->tensors, job->count, &job->query->parameters);
    mth_arrays_free(layout);
    return status;
}

/* (compiled, inputs, path, list of (parameter, tensor, transpose)) -> dict of arrays. */
PyObject *read_safetensors_arrays(PyObject *module, PyObject *args) {
    module_state *state = PyModule_GetState(module);
    PyObject *compiled, *inputs, *given, *list;
    if (!PyArg_ParseTuple(args, "OOOO!:_read_safetensors", &compiled, &inputs, &given, &PyList_Type, &list))
        return NULL;
    if (!PyObject_TypeCheck(compiled, state->compiled_type)) {
        PyObject *type = type_text(compiled);
        raise_error(state, "read_safetensors", MTH_ERROR_TYPE, NULL,
            type ? TEXT("compiled is %U, where a compiled model is expected", type) : NULL,
            TEXT("give what ml.compile(model, backend) gave"));
        Py_XDECREF(type);
        return NULL;
    }
    call query = call_begin(compiled);
    query.scratch.operator= "read_safetensors";
    PyObject *sources = PyList_AsTuple(list); /* stays, whatever the path's own methods do */
    const size_t count = pool_keep(&query.scratch, sources) ? 0 : (size_t)PyTuple_Size(sources);
    mth_file_tensor *tensor = sources ? pool_take(&query.scratch, count, sizeof *tensor) : NULL;
    const char *path = tensor ? to_path(state, given, "path", &query.scratch) : NULL;
    int good = path && !read_inputs(&query, inputs);
    for (size_t i = 0; good && i < count; i++) { /* tuples of three, of ours */
        PyObject *source = PyTuple_GetItem(sources, (Py_ssize_t)i);
        tensor[i].parameter = to_name(state, PyTuple_GetItem(source, 0), "the name of a parameter");
        tensor[i].tensor =
            tensor[i].parameter ? to_name(state, PyTuple_GetItem(source, 1), "the name of a tensor") : NULL;
        tensor[i].transpose = PyTuple_GetItem(source, 2) == Py_True;
        good = tensor[i].tensor != NULL;
    }
    tensors_reading job = {&query, path, tensor, count};
    if (good) good = !call_interruptibly(state, read_file, &job);
    call_end(&query);
    return good ? arrays_to_dict(state, query.parameters) : NULL;
}

#define METHOD(name, function, doc) {name, (PyCFunction)(void (*)(void))function, METH_VARARGS | METH_KEYWORDS, doc}
static PyMethodDef compiled_methods[] = {
    NO_PICKLE,
    METHOD("evaluate", compiled_evaluate,
        "evaluate($self, /, params, inputs, output_gradients=None, input_gradients=None)\n--\n\n"
        "Runs the model: a dict of its outputs by name. With output_gradients={name: array} also the gradients of all "
        "floating\n"
        "parameters, (outputs, gradients); those of the inputs named by input_gradients=[...] stand beside them. A "
        "missing output gradient\n"
        "is zero. Arrays are mithril's or anything with the buffer protocol or DLPack: NumPy's, torch's. float64 and "
        "float16 become float32."),
    METHOD("get_parameters", compiled_parameters,
        "get_parameters($self, /, inputs=None, seed=0)\n--\n\n"
        "Fresh parameters by name, in the order of composition. A seed gives the same values on any mesh. Shapes come "
        "from the inputs, or\n"
        "from those of an earlier call, or from compile's option `shapes`."),
    METHOD("randomize_params", compiled_randomize,
        "randomize_params($self, /, inputs=None, seed=0)\n--\n\nget_parameters by the name that it has in the "
        "published Mithril package."),
    METHOD("get_parameter_layout", compiled_layout,
        "get_parameter_layout($self, /, inputs=None)\n--\n\n"
        "Name, dtype, shape and shards of each parameter, without data: for loaders."),
    METHOD("program_text", compiled_program,
        "program_text($self, /, inputs=None, gradients=False)\n--\n\n"
        "The program of each role of devices, as text: of the plan last used, or of one for the shapes of these "
        "inputs."),
    METHOD("stablehlo", compiled_stablehlo,
        "stablehlo($self, /, inputs=None)\n--\n\n"
        "What XLA is given, as text: the modules of the plan last used for the shapes of these inputs, or of a forward "
        "plan. JaxBackend only."),
    METHOD("explain", compiled_explain,
        "explain($self, /, inputs=None)\n--\n\n"
        "What XLA makes of it: memory, flops, time where it tells, and the collectives of its optimized program beside "
        "those of our own.\n"
        "Of the plan last used for the shapes of these inputs, or of a forward plan. JaxBackend only."),
    METHOD("get_memory_usage", compiled_memory,
        "get_memory_usage($self, /, params=None, inputs=None)\n--\n\n"
        "Bytes by device, as the plan reserves them: a list of dicts with weights, gradients, optimizer, activations, "
        "communication,\n"
        "host, total (host is not in total). The plan is the one last used for the shapes of these inputs; params play "
        "no part, their\n"
        "shapes are the model's. On JaxBackend the figures are XLA's own: activations hold inputs, outputs, what "
        "modules leave "
        "for later\n"
        "ones, and temporaries; what isn't compiled yet is compiled for it, once."),
    {"get_communication_usage", compiled_communication, METH_NOARGS,
        "get_communication_usage($self, /)\n--\n\n"
        "Bytes that each device receives from and sends to others in one evaluate of the plan last used, and its "
        "messages: a list of dicts."},
    {0},
};
static PyObject *names_of_compiled(PyObject *self, const char *const *(*get)(const mth_compiled *, size_t *)) {
    size_t count;
    const char *const *names = get(((compiled_object *)self)->compiled, &count);
    return list_of_names(names, count);
}
static PyObject *compiled_inputs(PyObject *self, void *unused) {
    (void)unused;
    return names_of_compiled(self, mth_compiled_get_inputs);
}
static PyObject *compiled_outputs(PyObject *self, void *unused) {
    (void)unused;
    return names_of_compiled(self, mth_compiled_get_outputs);
}
static PyObject *compiled_parameter_names(PyObject *self, void *unused) {
    (void)unused;
    return names_of_compiled(self, mth_compiled_get_parameters);
}
static PyGetSetDef compiled_getset[] = {
    {"inputs", compiled_inputs, NULL, "The names of the inputs that evaluate takes: those that the outputs need.",
        NULL},
    {"outputs", compiled_outputs, NULL, "The names of the outputs that evaluate gives, in order.", NULL},
    {"parameters", compiled_parameter_names, NULL,
        "The names of the parameters that the outputs need, in the order of composition.", NULL},
    {"backend", compiled_backend, NULL, "The backend that it was compiled for.", NULL}, {0}};
static PyType_Slot compiled_slots[] = {
    {Py_tp_getattro, compiled_attribute},
    {Py_tp_doc,
        "A model compiled for a backend: what ml.compile gives. Plans are made for each set of input shapes at their "
        "first use, and kept."},
    {Py_tp_traverse, compiled_traverse},
    {Py_tp_dealloc, compiled_dealloc},
    {Py_tp_methods, compiled_methods},
    {Py_tp_getset, compiled_getset},
    {0, NULL},
};
static PyType_Spec compiled_spec = {"mithril.CompiledModel", sizeof(compiled_object), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, compiled_slots};

int add_compiled_type(PyObject *module, module_state *state) {
    return (state->compiled_type = add_type(module, &compiled_spec, NULL)) ? 0 : -1;
}
