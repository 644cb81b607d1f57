/* The CPython extension: mithril.h for Python, and what is Python's. It sees the public header alone and keeps to the
 * limited API of Python 3.11, so that one wheel serves all later versions.
 *   _mithril.c          the module, its state, errors
 *   _mithril_call.c     calls of the library: without the interpreter's lock, ended by signals
 *   _mithril_convert.c  Python values -> names, options, dtypes
 *   _mithril_view.c     what foreign memory looks like
 *   _mithril_memory.c   such memory -> arrays
 *   _mithril_foreign.c  foreign data -> arrays
 *   _mithril_signature.c  the options of modules, as Python writes signatures
 *   _mithril_model.c    Module with a class for each type of the table, Block (a wired module), Model
 *   _mithril_array.c    Array, Shard
 *   _mithril_lend.c     arrays -> capsules of DLPack
 *   _mithril_backend.c  Backend
 *   _mithril_hook.c     hooks of what goes from device to device
 *   _mithril_trace.c    what a backend has traced of its plans
 *   _mithril_run.c      compile, CompiledModel */
#ifndef MITHRIL_PYTHON_H
#define MITHRIL_PYTHON_H
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>
#include "mithril.h"

typedef struct {
    PyTypeObject *module_type, *block_type, *model_type, *array_type, *shard_type, *backend_type, *compiled_type;
    PyTypeObject *trace_type, *traced_type, *crossing_type, *handle_type;
    PyObject *value_error, *type_error, *key_error, *memory_error, *internal_error, *attribute_error;
    PyObject *file_error;        /* a function: makes the error of the class that fits the errno */
    const void *torch_exchange;  /* how tensors of torch are made (_mithril_torch.c): its table, or */
    PyObject *torch_from_dlpack; /* its function; NULL until one is asked for */
    PyObject *dtypes;            /* a dict: what Array.dtype returns, by name; NULL until one is asked for */
    unsigned long main_thread;   /* the only one that may handle signals */
    unsigned forks;              /* between the process that imported the module and this one */
} module_state;

/* The state, from any type of the module or a Python subclass of one. */
module_state *state_of(PyTypeObject *);
#define STATE(object) state_of(Py_TYPE((PyObject *)(object)))

/* ---------------------------------------------------------------- errors (_mithril.c) */
/* Raises what a status says and frees it. Returns NULL, so that functions can return it. */
void *raise_status(module_state *, mth_status);
/* The same for a mistake that is found here. Takes both references. An error that is set already stays, as it does
   where one of the two is NULL. */
void *raise_fix(module_state *, mth_error_code, PyObject *what, PyObject *fix);
/* The same with the operator that the mistake is in ("Linear"; NULL: none), because of an exception, which is taken and
   becomes the cause (NULL: none). */
void *raise_error(module_state *, const char *operator, mth_error_code, PyObject *cause, PyObject *what, PyObject *fix);
/* Takes the exception that is set, so that it can be answered. NULL where it is not ours to answer and stays set: what
   is no Exception (KeyboardInterrupt, SystemExit, GeneratorExit) stops the program, and MemoryError says nothing of the
   argument. */
PyObject *take_exception(void);
#define TEXT(...) PyUnicode_FromFormat(__VA_ARGS__)
/* repr(object) for an error, cut to 80 characters; the name of the type where the object can't be shown. An exception
   that take_exception leaves stays set, and raise_fix keeps it. */
enum { SHOWN = 4 * 80 + 1 };
const char *show(PyObject *, char room[SHOWN]);
#define SHOW(object) show(object, (char[SHOWN]){0})
PyObject *exception_text(PyObject *exception); /* str(exception), or the name of its type where that raises */
/* Py_tp_getattro of a type: of an attribute that there is not, the error says how it is written here (mth_absent), else
 * `otherwise`. */
PyObject *attribute_of(PyObject *self, PyObject *name, const char *place, const char *otherwise);
/* Py_tp_setattro of a type: what a subclass has room for is set; of what was said where an object was made the error
 * says that it stays. */
int set_attribute_of(PyObject *self, PyObject *name, PyObject *value, const char *fix);
void *raise_operation(module_state *, const char *operation); /* "+" between connections or modules */
/* __reduce__ of all types: they hold what is not Python's */
PyObject *refuse_pickle(PyObject *self, PyObject *unused);
PyObject *itself(PyObject *self, PyObject *unused); /* __copy__ and __deepcopy__ of what never changes */
#define NO_PICKLE {"__reduce__", refuse_pickle, METH_NOARGS, "__reduce__($self, /)\n--\n\n"}
#define COPY {"__copy__", itself, METH_NOARGS, "__copy__($self, /)\n--\n\n"}
#define DEEP_COPY {"__deepcopy__", itself, METH_O, "__deepcopy__($self, memo, /)\n--\n\n"}
PyObject *list_of_names(const char *const *names, size_t count); /* a list of str */
PyObject *text_of(char *);       /* a Python text of one that the library made, which is freed */
PyObject *type_text(PyObject *); /* "a list" */
/* Tells the library which line of the user's program composes what follows; errors have the line of the call that they
   come from anyway. 0, or -1 with an exception that take_exception leaves. */
int note_source_line(void);

/* ---------------------------------------------------------------- a pool: memory and references until the end of a
 * call */
typedef struct pool_item pool_item;
typedef struct {
    PyObject_HEAD mth_model *model;
    unsigned mark; /* a call has it (_mithril_call.c); 0: none */
} model_object;
typedef struct model_use {
    struct model_use *next;
    model_object *model;
} model_use;
typedef struct {
    pool_item *first;
    model_use *models;    /* that the call reads or changes, those among its arguments included */
    const char *operator; /* whose options are read, "Linear", for errors; or NULL */
    int depth;            /* of the value that is being read inside others of an option */
    Py_ssize_t items;     /* of that option so far */
    int takes_float;      /* that option is a float: whole numbers of any size are read as such */
} pool;
void *pool_take(pool *, size_t count, size_t size); /* zeroed; NULL: MemoryError is set */
int pool_keep(pool *, PyObject *taken);             /* takes the reference, also where it fails; NULL fails */
void pool_free(pool *);

/* ---------------------------------------------------------------- conversions (_mithril_convert.c): 0, or -1 with an
 * error set */
int to_arg(module_state *, PyObject *, const char *name, pool *, mth_arg *);
/* Of an option that `known` lists, "dimension: int, bias: bool = True"; of others nothing is read. */
int option_to_arg(module_state *, PyObject *, const char *known, const char *name, pool *, mth_arg *);
/* Keyword arguments (NULL: none), behind the `given` options that the caller puts at the front. `known` is the
   documentation that lists the options (NULL: all are): the value of an unknown one is not read, so that the library
   says which names there are. */
int to_options(
    module_state *, PyObject *keywords, const char *known, size_t given, pool *, mth_option **, size_t *count);
/* As PyArg_ParseTupleAndKeywords, with errors of ours: 1, or 0 with one set. `format` ends in the function's name. What
   it gives lives as long as the pool: the dict of keywords may be the caller's own, and change while Python runs. */
int parse(module_state *, pool *, PyObject *args, PyObject *keywords, const char *format, char **names, ...);
const char *to_name(module_state *, PyObject *, const char *what); /* a text without NUL, lent by the object */
const char *to_path(
    module_state *, PyObject *, const char *what, pool *); /* of a str, bytes or os.PathLike, as the system has it */
int to_dtype(module_state *, PyObject *, mth_dtype *);
/* a whole number from 0 to 2^64 - 1: no two seeds are one */
int to_seed(module_state *, PyObject *, uint64_t *);
int to_truth(module_state *, PyObject *, const char *name, int *); /* what bool() says of it */
/* An attribute that an object may lack: 1 and a new reference, 0, or -1 with an exception that take_exception leaves.
   One that raises is lacking. */
int find_attribute(PyObject *, const char *name, PyObject **out);
enum { MAX_ITEMS = 1 << 20 }; /* of one option, or of any other list that a caller gives */
/* Whether a sequence has more items than the limit, those of its rows and rows of rows included, before any is made: a
   view may repeat one element without end, and a row may have none. -1: an exception that take_exception leaves. */
int is_longer(PyObject *, int64_t limit);
/* The pairs of a dict (NULL: none) as a tuple that keeps them, whatever becomes of the dict. */
PyObject *pairs_of(PyObject *dict);

/* ---------------------------------------------------------------- signatures (_mithril_signature.c) */
/* One parameter of a signature like "dimension: int, bias: bool = True, spec: tuple = (0, None)": where it ends, and
 * its parts. */
typedef struct {
    const char *name, *standard, *end;
    size_t name_size;
} parameter;
parameter next_parameter(const char *at);
/* "Linear(dimension, bias=True)\n--\n\n..." is what Python takes for a signature; it knows no annotations there. The
 * bytes that it takes; `to` NULL: counts only. */
size_t print_signature(char *to, const char *name, const char *signature, const char *doc);

/* ---------------------------------------------------------------- foreign data (_mithril_foreign.c) */
/* A new reference; foreign data is copied. `wanted` 0: the dtype that the data has, with float64 and float16 as float32
 * and short integers as int32. */
mth_array *to_array(module_state *, mth_backend *, PyObject *, const char *name, mth_dtype wanted, const mth_arg *spec);
/* Python's lists and numbers as an array of NumPy's, which finds their shape; the dtype that is wanted afterwards (0:
   any) says whether whole numbers may become floating ones. */
PyObject *lists_to_numpy(module_state *, PyObject *lists, const char *name, mth_dtype wanted);
/* A masked array of NumPy's shows the values behind its mask too. 1: an element is masked; -1: an exception. */
int is_masked(module_state *, PyObject *, const char *operator, const char * name);
void *raise_masked(module_state *, const char *operator, const char * name);
/* A mapping of names to arrays for one call; `what` is "inputs", .... The arrays are new references, named_free;
   foreign data is borrowed where it can be, and so must not outlive the call. */
/* `compiled`: whose inputs they are, or NULL. */
int to_named(module_state *, mth_backend *, const mth_compiled *, PyObject *mapping, const char *what, pool *,
    mth_named **, size_t *count);
void named_free(mth_named *, size_t count);

/* ---------------------------------------------------------------- objects */
typedef struct {
    PyObject_HEAD mth_module *module;
    bool has_models; /* stages, which a copy copies */
} module_object;
typedef struct {
    PyObject_HEAD mth_backend *backend;
    uint64_t draws;
    PyObject *hooks; /* by number, in the order in which they came; NULL: there never was one */
    uint64_t hook_number;
} backend_object;
typedef struct {
    PyObject_HEAD mth_array *array;
    void *gathered;    /* the whole data where no shard is it; made when first asked for */
    const void *whole; /* what the buffer protocol gives: gathered, or a shard's memory */
    Py_ssize_t shape[8], strides[8];
} array_object;
/* takes the reference, also where it fails; of the torch engine, one that lies whole is a torch.Tensor */
PyObject *array_new(module_state *, mth_array *taken);
PyObject *arrays_to_dict(module_state *, mth_arrays *taken);
PyObject *shape_to_tuple(int rank, const int64_t *);
int64_t array_count(const array_object *); /* of elements */
/* Tensors of torch (_mithril_torch.c): of `size` elements at `data`, dense, memory of the array, which lives as long.
 */
PyObject *tensor_over(module_state *, mth_array *, const void *data, int rank, const int64_t *size);
bool leaves_as_tensors(const mth_array *);
/* Methods of arrays (_mithril_lend.c). */
PyObject *array_dlpack(PyObject *self, PyObject *args, PyObject *keywords);
PyObject *array_dlpack_device(PyObject *self, PyObject *unused);

int add_model_types(PyObject *module, module_state *);
int add_array_types(PyObject *module, module_state *);
int add_backend_type(PyObject *module, module_state *);
int add_compiled_type(PyObject *module, module_state *);
int add_trace_types(PyObject *module, module_state *);
int add_hook_types(PyObject *module, module_state *);
/* Methods of backends (_mithril_hook.c, _mithril_trace.c). */
PyObject *backend_register_hook(PyObject *backend, PyObject *hook);
PyObject *backend_partition_trace(PyObject *backend, PyObject *unused);
/* Makes a type and adds it to the module under its name. */
PyTypeObject *add_type(PyObject *module, PyType_Spec *, PyTypeObject *base);
PyObject *compile_model(PyObject *module, PyObject *args, PyObject *keywords);
PyObject *read_safetensors_arrays(PyObject *module, PyObject *args);
PyObject *after_fork(PyObject *module, PyObject *unused); /* called in the child */

/* ---------------------------------------------------------------- calls of the library (_mithril_call.c) */
/* All that may take long is called so: without the lock of the interpreter, and ended by signals, as the file says. 0,
 * or -1 with an exception set. */
int call_interruptibly(module_state *, mth_status (*call)(void *context), void *context);
/* The same of a call that has models, of a pool: other calls that have one of them wait until it is over. */
int call_with_models(module_state *, const model_use *, mth_status (*call)(void *context), void *context);
/* Of one that has models and is short, whatever their size: it waits for others, and keeps the lock. */
int call_briefly(module_state *, const model_use *, mth_status (*call)(void *context), void *context);
int use_model(pool *, PyObject *model); /* adds it to the pool's models; 0, or -1 with an exception */
/* Frees what may be large, without the lock. */
void free_unlocked(void (*release)(void *), void *object);
#endif
