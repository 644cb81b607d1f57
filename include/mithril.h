/* Mithril: model parallelism as a library. The whole public C API, in the order in which a model lives:
 *
 *     #include <mithril.h>
 *     #include <stdio.h>
 *     #include <stdlib.h>
 *
 *     int main(void) {
 *         mth_module *up, *act, *down;
 *         mth_model *model;
 *         mth_backend *backend;
 *         mth_compiled *compiled;
 *         MTH_CHECK(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(64)}, {"weight_shard_spec",
 *           MTH_SPEC(MTH_NONE, mth_int(0))}), &up));
 *         MTH_CHECK(mth_module_create("Relu", NULL, 0, &act));
 *         MTH_CHECK(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(16)}, {"weight_shard_spec",
 *           MTH_SPEC(mth_int(0), MTH_NONE)}), &down));
 *         MTH_CHECK(mth_model_create(&model));
 *         MTH_CHECK(mth_model_add(model, up, MTH_WIRES({"input", "input"}, {"output", "h"}), MTH_PLAIN));
 *         MTH_CHECK(mth_model_add(model, act, NULL, 0, MTH_CHAIN));
 *         MTH_CHECK(mth_model_add(model, down, MTH_WIRES({"output", "output"}), MTH_CHAIN));
 *         MTH_CHECK(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(4)}), &backend));
 *         MTH_CHECK(mth_compile(model, backend, NULL, 0, &compiled));
 *         mth_array *x;
 *         mth_arrays *parameters, *outputs;
 *         MTH_CHECK(mth_array_randn(backend, 2, (int64_t[]){8, 32}, 0, NULL, &x));
 *         mth_named inputs[] = {{"input", x}};
 *         MTH_CHECK(mth_get_parameters(compiled, inputs, 1, 0, &parameters));
 *         MTH_CHECK(mth_evaluate(compiled, parameters, inputs, 1, NULL, &outputs, NULL));
 *         char *plan;
 *         MTH_CHECK(mth_plan_print(compiled, &plan));
 *         puts(plan); // the program of each device, with its collectives and bytes; examples/ show how all is freed
 *     }
 *
 * Ownership: what comes through an out-parameter `mth_x **` belongs to the caller and ends with `mth_x_free`, a text
 * with `mth_text_free`; `mth_x_get_y` lends. Every fallible function returns an `mth_status`: NULL is success, else an
 * error object that the caller frees. On failure what out-parameters point at is left as it was, and no object has
 * changed.
 * NULL: no function crashes on it. Where an object, a name, an out-parameter, a list whose count is above 0 or an item
 * of a list is NULL, a function that returns mth_status fails with MTH_ERROR_TYPE and says which; texts, lists and
 * models inside options are checked alike, at any depth. Comments say where NULL has a meaning of its own (`spec`,
 * `gradients`, the data of no elements). mth_x_free(NULL) does nothing, and what is read off NULL (`mth_x_get_y`), or
 * at an index out of range, is 0, NULL or an empty text.
 * Threads: a compiled model, its plans and arrays may be used from several threads; a model under composition from
 * one. */
#ifndef MITHRIL_H
#define MITHRIL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#define MTH_API __attribute__((visibility("default")))
#define MTH_MUST_USE __attribute__((warn_unused_result))
#else
#define MTH_API
#define MTH_MUST_USE
#endif
#define MTH_VERSION "0.2.0"

/* ---------------------------------------------------------------- errors */
typedef struct mth_error mth_error;
typedef mth_error *mth_status; /* NULL is success */

typedef enum {
    MTH_ERROR_VALUE = 1, /* a value out of its domain: a shape, a size, an axis (Python: ValueError) */
    MTH_ERROR_TYPE,      /* a wrong kind of argument or dtype, an unknown keyword (TypeError) */
    MTH_ERROR_KEY,       /* an unknown or missing name of an input, parameter or output (KeyError) */
    MTH_ERROR_MEMORY,    /* an allocation failed (MemoryError) */
    /* a file can't be read, or lies (ValueError; where the system refuses it also OSError, by its errno
     * FileNotFoundError, ...) */
    MTH_ERROR_IO,
    MTH_ERROR_INTERRUPTED, /* the run was asked to stop (KeyboardInterrupt) */
    MTH_ERROR_UNSUPPORTED, /* an engine has no such thing (ValueError) */
    MTH_ERROR_INTERNAL     /* our defect: the message tells the place in our source (RuntimeError) */
} mth_error_code;

MTH_API mth_error_code mth_error_get_code(const mth_error *);
MTH_API const char *mth_error_get_message(const mth_error *); /* all fields, as one text of a few lines */
MTH_API const char *mth_error_get_what(const mth_error *);    /* what is wrong, one sentence */
/* What mends it; never empty. Texts name functions as here (Python shows its own names), and write options and wires as
   name=value, as mth_compile_option_doc does: None is MTH_NONE, (0, None) a list, {'x': ...} a dict, inputs=['a', 'b']
   a port with two wires. */
MTH_API const char *mth_error_get_fix(const mth_error *);
MTH_API const char *mth_error_get_operator(const mth_error *); /* "linear_0", or "" */
MTH_API size_t mth_error_get_tensor_count(const mth_error *);
/* "weight: float32 (2048, 512), sharded (0, None) over mesh (4,)" */
MTH_API const char *mth_error_get_tensor(const mth_error *, size_t i);
/* what the system said of a file, ENOENT and so on (errno.h); else 0 */
MTH_API int mth_error_get_errno(const mth_error *);
/* The user's source line of the call that failed ("train.py:12"), in place of what mth_set_source_line told before the
   call. Where the error has the line that composed an operator, that one stays. NULL changes nothing. */
MTH_API void mth_error_set_source_line(mth_error *, const char *where);
MTH_API void mth_error_free(mth_error *);
/* An error of the caller's own, for what the library calls back: it comes out of the function that called. It keeps
   `cause`, any object of the caller's, until release(cause), which is called once, by whichever thread frees the error;
   both may be NULL. */
MTH_API MTH_MUST_USE mth_status mth_error_create(
    mth_error_code, const char *what, const char *fix, void *cause, void (*release)(void *cause));
MTH_API void *mth_error_get_cause(const mth_error *); /* NULL: there is none */

/* What users look for and this version does not have under that name: an "option", or an attribute of the Python
   "package", its "backends", a "model", "module", "compiled" model or "key" (the name of a connection). `why` and `fix`
   are lent: "is not in this version", "leave it out; ..."; either may be NULL. False: nothing is known of the name. */
MTH_API bool mth_absent(const char *place, const char *name, const char **why, const char **fix);

/* ---------------------------------------------------------------- words: types and options */
typedef enum { MTH_FLOAT32 = 1, MTH_FLOAT64, MTH_INT32, MTH_INT64, MTH_BOOL, MTH_BFLOAT16, MTH_FLOAT16 } mth_dtype;
typedef enum { MTH_CLASS_NONE, MTH_CLASS_BOOLEAN, MTH_CLASS_INTEGER, MTH_CLASS_FLOATING } mth_dtype_class;
/* Of what is no dtype: "unknown", 0 bytes, MTH_CLASS_NONE, "", 0. */
MTH_API const char *mth_dtype_name(mth_dtype); /* "float32" */
MTH_API size_t mth_dtype_size(mth_dtype);      /* bytes of an element */
MTH_API mth_dtype_class mth_dtype_get_class(mth_dtype);
MTH_API const char *mth_dtype_format(mth_dtype);    /* of Python's buffer protocol, "f"; "": it has none (bfloat16) */
MTH_API int mth_dtype_dlpack_code(mth_dtype);       /* DLPack's type code; its bits are 8 * mth_dtype_size */
MTH_API double mth_dtype_largest(mth_dtype);        /* the largest finite value; of int64 2^63, the nearest double */
MTH_API mth_dtype mth_dtype_find(const char *name); /* 0: there is no such dtype */
MTH_API const char *mth_dtype_names(void);          /* all of them, "float32, ... or float16" */
/* Converts `count` elements, dense in both memories, which don't overlap. Floating elements are rounded once, to the
   nearest even; to an integer toward zero, past its range to the least or the largest, NaN to 0; of a longer integer
   the lower bits stay; a bool is whether the element is not 0. Returns the index of the first element that `to` can't
   hold: a finite value that became infinite, an integer out of range; -1 where there is none. NULL or no dtype: does
   nothing, and returns -1. */
MTH_API int64_t mth_dtype_convert(mth_dtype from, const void *data, mth_dtype to, void *converted, size_t count);

/* A value of an option: None, a boolean, a number, a text, a list (a Python tuple or list), a dict, or a model. */
typedef enum {
    MTH_ARG_NONE,
    MTH_ARG_BOOL,
    MTH_ARG_INT,
    MTH_ARG_FLOAT,
    MTH_ARG_STRING,
    MTH_ARG_LIST,
    MTH_ARG_DICT,
    MTH_ARG_MODEL
} mth_arg_kind;
typedef struct mth_model mth_model;
typedef struct mth_arg mth_arg;
struct mth_arg {
    mth_arg_kind kind;
    size_t count; /* of items, for LIST and DICT */
    union {
        int64_t integer; /* BOOL and INT */
        double real;
        const char *string;
        const mth_arg *items;
        mth_model *model;
    };
    const char *const *keys; /* DICT only: count keys */
};
typedef struct {
    const char *name;
    mth_arg value;
} mth_option;
#define MTH_NONE ((mth_arg){MTH_ARG_NONE, 0, {0}, NULL})
static inline mth_arg mth_bool(bool b) { return (mth_arg){MTH_ARG_BOOL, 0, {b}, NULL}; }
static inline mth_arg mth_int(int64_t i) { return (mth_arg){MTH_ARG_INT, 0, {i}, NULL}; }
static inline mth_arg mth_float(double real) {
    mth_arg a = {MTH_ARG_FLOAT, 0, {0}, NULL};
    a.real = real;
    return a;
}
static inline mth_arg mth_string(const char *text) {
    mth_arg a = {MTH_ARG_STRING, 0, {0}, NULL};
    a.string = text;
    return a;
}
static inline mth_arg mth_list(size_t n, const mth_arg *items) {
    mth_arg a = {MTH_ARG_LIST, n, {0}, NULL};
    a.items = items;
    return a;
}
static inline mth_arg mth_dict(size_t n, const char *const *keys, const mth_arg *items) {
    mth_arg a = {MTH_ARG_DICT, n, {0}, keys};
    a.items = items;
    return a;
}
static inline mth_arg mth_submodel(mth_model *model) {
    mth_arg a = {MTH_ARG_MODEL, 0, {0}, NULL};
    a.model = model;
    return a;
}
/* The literals below live as long as the block they stand in; every function copies what it keeps. */
#define MTH_SPEC(...) mth_list(sizeof((mth_arg[]){__VA_ARGS__}) / sizeof(mth_arg), (mth_arg[]){__VA_ARGS__})
#define MTH_INTS(...)                                                                                                  \
    mth__ints(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]){__VA_ARGS__},                            \
        (mth_arg[sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)]){{MTH_ARG_NONE, 0, {0}, NULL}})
static inline mth_arg mth__ints(size_t n, const int64_t *values, mth_arg *room) {
    for (size_t i = 0; i < n; i++) room[i] = mth_int(values[i]);
    return mth_list(n, room);
}
#define MTH_OPTIONS(...)                                                                                               \
    (const mth_option[]){__VA_ARGS__}, sizeof((const mth_option[]){__VA_ARGS__}) / sizeof(mth_option)
#define MTH_WIRES(...) (const mth_wire[]){__VA_ARGS__}, sizeof((const mth_wire[]){__VA_ARGS__}) / sizeof(mth_wire)

/* ---------------------------------------------------------------- compose */
/* An operator with its options: immutable, may be added to several models. One object is one set of weights: added
   again, to the same model or inside of a model that is, it shares the parameters of its first block, whose names they
   bear. mth_module_copy makes one with weights of its own. */
typedef struct mth_module mth_module;

/* A port of a module and the name it is wired to: {"input", "hidden1"}. A port that takes several values ("inputs" of
   Add) is repeated, in order. */
typedef struct {
    const char *port;
    const char *name;
} mth_wire;
/* `|=`: only the wires given; `+=`: the one open input takes the previous block's output */
typedef enum { MTH_PLAIN, MTH_CHAIN } mth_add_mode;

/* `type` is a name of the table of modules ("Linear", "MultiHeadAttention", ...: mth_module_type_name). Checks every
 * option. */
MTH_API MTH_MUST_USE mth_status mth_module_create(const char *type, const mth_option *, size_t count, mth_module **out);
/* The same operator and options, with weights of its own. Models among the options keep theirs: mth_model_copy. */
MTH_API MTH_MUST_USE mth_status mth_module_copy(const mth_module *, mth_module **out);
MTH_API void mth_module_free(mth_module *);
MTH_API size_t mth_module_type_count(void);
MTH_API const char *mth_module_type_name(size_t i);
/* The documentation of a type: signature, options with defaults, ports, parameters. NULL: there is no such type. */
MTH_API const char *mth_module_type_signature(const char *type); /* "dimension: int, bias: bool = True, ..." */
MTH_API const char *mth_module_type_ports(const char *type);     /* "input -> output" */
MTH_API const char *mth_module_type_doc(const char *type);
/* The ports of one module: its options can change them (Split has `parts` outputs). "input, key -> output". Lent. */
MTH_API const char *mth_module_get_ports(const mth_module *);
/* What is right and perhaps not what was meant: one sentence, lent; NULL: nothing. In Python a UserWarning. */
MTH_API const char *mth_module_get_warning(const mth_module *);

MTH_API MTH_MUST_USE mth_status mth_model_create(mth_model **out);
/* The same composition with weights of its own; what is shared inside of it is shared inside of the copy. */
MTH_API MTH_MUST_USE mth_status mth_model_copy(const mth_model *, mth_model **out);
MTH_API void mth_model_free(mth_model *); /* a model added to others stays alive inside them */
MTH_API MTH_MUST_USE mth_status mth_model_add(
    mth_model *, const mth_module *, const mth_wire *, size_t count, mth_add_mode);
/* A copy of the submodel as it is now becomes a block of the model. Added again, it is another block with the same
   weights (mth_model_copy: with its own). `name`: NULL is "model_0" and so on. Models lie in
   models at most 256 deep, the outermost and stages of a Pipeline included. */
MTH_API MTH_MUST_USE mth_status mth_model_add_model(
    mth_model *, const mth_model *sub, const char *name, const mth_wire *, size_t count, mth_add_mode);
/* Joins an output named `source` with the input named `destination`. Idempotent; a contradiction is an error naming
 * both wires. */
MTH_API MTH_MUST_USE mth_status mth_model_connect(mth_model *, const char *source, const char *destination);
/* The connection `name` stays an output of the model although something reads it; inside a submodel, a port that its
   parent sees. To say it twice changes nothing, nor to say it of an input. A chain never takes such an output. That
   there is one of the name is checked with the wiring. compile's option `outputs` names those of one compiled model. */
MTH_API MTH_MUST_USE mth_status mth_model_expose(mth_model *, const char *name);
/* The names of its inputs and outputs as it is now, in order; lent as long as the model lives. What is wrong with its
   wiring is an error. */
MTH_API MTH_MUST_USE mth_status mth_model_get_inputs(const mth_model *, const char *const **names, size_t *count);
MTH_API MTH_MUST_USE mth_status mth_model_get_outputs(const mth_model *, const char *const **names, size_t *count);
/* A summary: inputs, blocks with their wires, one a line, outputs; submodels indented. */
MTH_API MTH_MUST_USE mth_status mth_model_print(const mth_model *, char **out);
/* The user's source line of the calls that follow on this thread, for errors ("train.py:12"); NULL forgets it. */
MTH_API void mth_set_source_line(const char *where);
MTH_API void mth_text_free(char *);

/* ---------------------------------------------------------------- backends */
typedef struct mth_backend mth_backend;
/* engine: "native" (this machine's cores), "pjrt" (XLA, through a plugin of the PJRT C API: a CPU's, a GPU's, a TPU's),
   "torch" (the libtorch that is installed, through its C ABI) or "reference" (naive, in double precision inside,
   integers in 64 bits: the oracle of the tests). Options: mth_backend_option_doc. */
MTH_API MTH_MUST_USE mth_status mth_backend_create(
    const char *engine, const mth_option *, size_t count, mth_backend **out);
MTH_API void mth_backend_free(mth_backend *); /* arrays and compiled models keep what they need of it */
MTH_API const char *mth_backend_get_engine(const mth_backend *);       /* the name that it was created with: "native" */
MTH_API int mth_backend_get_mesh(const mth_backend *, int64_t dim[4]); /* number of mesh axes */
MTH_API int64_t mth_backend_get_device_count(const mth_backend *);
/* engine, devices, threads, options, and the machine whose figures plans assume */
MTH_API MTH_MUST_USE mth_status mth_backend_describe(const mth_backend *, char **out);
/* What the plans place where, of a backend with the option trace_module_partitioning: of each compiled model that has a
   plan, the last 64 of them, the plan that was made last, or the last one with gradients where there is such. It stays
   as it was when it was asked for. */
typedef struct mth_partition_trace mth_partition_trace;
/* What goes from device to device in one evaluate, of all communications with that label. */
typedef struct {
    const char *label; /* "linear_1: transfer" */
    bool backward;     /* for gradients */
    /* -1: between more pairs of devices than are listed */
    int64_t from_device, to_device, bytes;
} mth_traced_crossing;
typedef struct {
    int64_t model;    /* the number of the compiled model: models compiled for the backend are counted from 0 */
    const char *name; /* "model_0.linear_3", each once; "(model)" for communication that belongs to no operator */
    const int64_t *devices;
    size_t device_count;
    const char *policy; /* "user", a partition_policy, or "none": it follows what it is connected to */
    const char *reason; /* "device_id=2", "bytes 12..20 of 40" */
    const mth_traced_crossing *crossings;
    size_t crossing_count;
} mth_traced_operator;
MTH_API MTH_MUST_USE mth_status mth_backend_get_partition_trace(mth_backend *, mth_partition_trace **out);
MTH_API void mth_partition_trace_free(mth_partition_trace *);
MTH_API const char *mth_partition_trace_get_text(const mth_partition_trace *); /* a table for each model */
MTH_API size_t mth_partition_trace_get_count(const mth_partition_trace *);
MTH_API mth_traced_operator mth_partition_trace_get(const mth_partition_trace *, size_t i); /* lent by the trace */
/* A piece of a tensor before it goes from one device into the memory of another. */
typedef struct {
    const char *label; /* of the communication: "linear_1: transfer" */
    const char *name;  /* of the operator that it is for; NULL: none */
    int64_t from_device, to_device;
    mth_dtype dtype;
    /* a box of the tensor; of the named algorithms of collective_ops, which move chunks, a row of elements */
    int rank;
    const int64_t *shape;
    const void *data; /* a copy, row-major, lent for the call */
} mth_crossing;
/* NULL: the run goes on; an error (mth_error_create) ends it, and comes out of mth_evaluate. It is called by whichever
   threads move data, by one at a time, and runs no model on its backend: mth_evaluate refuses that. */
typedef mth_status mth_crossing_hook(void *context, const mth_crossing *);
/* Sets the hook of a backend with the option use_module_hooks, in place of the one before; NULL: there is none. Runs
   that are under way keep theirs. release(context) is called once, when no run has the hook any more; after a failure
   it is not. */
MTH_API MTH_MUST_USE mth_status mth_backend_set_crossing_hook(
    mth_backend *, mth_crossing_hook *, void *context, void (*release)(void *context));
/* one option a line: "name: type = default: text"; NULL: no such engine */
MTH_API const char *mth_backend_option_doc(const char *engine);
MTH_API const char *mth_compile_option_doc(void);

/* ---------------------------------------------------------------- arrays */
typedef struct mth_array mth_array;
typedef struct {
    const char *name;
    mth_array *array;
    const char
        *given; /* for errors: the dtype of the caller's own data, "uint8", where the array has another; or NULL */
} mth_named;
/* Data on the backend's devices. `spec`: NULL is replicated over the whole mesh (held once where devices share memory),
   else a list with an entry a dimension: a mesh axis, a list of axes, or None. Shapes are global. Data given is copied,
   row-major; of MTH_BOOL bytes of 0 and 1. */
MTH_API MTH_MUST_USE mth_status mth_array_from_data(
    mth_backend *, mth_dtype, int rank, const int64_t *shape, const void *data, const mth_arg *spec, mth_array **out);
/* The same, replicated, without a copy where the engine can and `data` is 64-byte aligned: it then belongs to the
   array, and nobody changes it, until release(context) is called: once, by whichever thread lets go of it last. Outputs
   of mth_evaluate never share it: when the array is freed and no run reads it, it is released. Where a copy is made,
   release is called before this returns; after a failure it is not. `release` NULL: nothing is to be done. */
MTH_API MTH_MUST_USE mth_status mth_array_borrow(mth_backend *, mth_dtype, int rank, const int64_t *shape,
    const void *data, void (*release)(void *context), void *context, mth_array **out);
/* float32, standard normal. Philox4x32-10 by element index: the same values on any mesh. */
MTH_API MTH_MUST_USE mth_status mth_array_randn(
    mth_backend *, int rank, const int64_t *shape, uint64_t seed, const mth_arg *spec, mth_array **out);
/* int32, low <= x < high */
MTH_API MTH_MUST_USE mth_status mth_array_randint(mth_backend *, int64_t low, int64_t high, int rank,
    const int64_t *shape, uint64_t seed, const mth_arg *spec, mth_array **out);
/* `value` everywhere, rounded to a floating dtype, where a finite value that would become infinite is an error; so is
   for an integer dtype what is no whole number that it holds, and for MTH_BOOL what is not 0 or 1. Not every int64 past
   2^53 is a double: those are for mth_array_from_data. */
MTH_API MTH_MUST_USE mth_status mth_array_full(
    mth_backend *, mth_dtype, double value, int rank, const int64_t *shape, const mth_arg *spec, mth_array **out);
/* A tensor of a safetensors file, each device reading its slice straight from the file. `transpose` swaps the two
   dimensions of a matrix (files of torch models store (out, in)). F64, F16 and BF16 become float32; a number of F64
   that would become infinite is an error. The file is checked first: its whole header, and that its tensors tile its
   data. One that is cut short while it is read is an error. */
MTH_API MTH_MUST_USE mth_status mth_array_from_safetensors(
    mth_backend *, const char *path, const char *tensor, bool transpose, const mth_arg *spec, mth_array **out);
MTH_API void mth_array_retain(mth_array *);
MTH_API void mth_array_free(mth_array *);
MTH_API mth_dtype mth_array_get_dtype(const mth_array *);
MTH_API int mth_array_get_rank(const mth_array *);
MTH_API const int64_t *mth_array_get_shape(const mth_array *); /* global */
MTH_API const char *mth_array_get_engine(const mth_array *);   /* of its backend: "native" */
MTH_API const char *mth_array_get_sharding(const mth_array *); /* "(0, None) over mesh (4,)" */
/* one for each device it is on; the part of one may be empty */
MTH_API size_t mth_array_get_shard_count(const mth_array *);
typedef struct {
    int64_t device_id;
    int64_t start[8], size[8], step[8]; /* the part of the global array; step is above 1 for cyclic shardings */
    /* row-major, `size` elements; lent as long as the array lives; NULL in a layout */
    const void *data;
} mth_shard;
MTH_API mth_shard mth_array_get_shard(const mth_array *, size_t i);
/* the whole array, row-major, into the caller's memory */
MTH_API MTH_MUST_USE mth_status mth_array_gather(const mth_array *, void *data);
/* Data of the whole array where the first shard is all of it; else NULL (use mth_array_gather). Lent. */
MTH_API const void *mth_array_get_whole(const mth_array *);

typedef struct mth_arrays mth_arrays; /* an ordered dictionary of arrays */
/* retains each array */
MTH_API MTH_MUST_USE mth_status mth_arrays_create(const mth_named *, size_t count, mth_arrays **out);
MTH_API void mth_arrays_free(mth_arrays *);
MTH_API size_t mth_arrays_get_count(const mth_arrays *);
MTH_API mth_named mth_arrays_get(const mth_arrays *, size_t i);           /* lent */
MTH_API mth_array *mth_arrays_find(const mth_arrays *, const char *name); /* lent; NULL where there is none */

/* ---------------------------------------------------------------- compile, run */
typedef struct mth_compiled mth_compiled;
/* Checks all that needs no shapes. The model is copied. Options: mth_compile_option_doc. */
MTH_API MTH_MUST_USE mth_status mth_compile(
    const mth_model *, mth_backend *, const mth_option *, size_t count, mth_compiled **out);
MTH_API void mth_compiled_free(mth_compiled *);
/* The names of its inputs, outputs and parameters in order, `count` of them; lent as long as it lives. Inputs and
   parameters are those that its outputs need. What is given for others that the whole model has (the inputs of any
   function, parameters of mth_evaluate, tensors of mth_arrays_read_safetensors) is not looked at. */
MTH_API const char *const *mth_compiled_get_inputs(const mth_compiled *, size_t *count);
MTH_API const char *const *mth_compiled_get_outputs(const mth_compiled *, size_t *count);
MTH_API const char *const *mth_compiled_get_parameters(const mth_compiled *, size_t *count);
/* Fresh parameters, named and ordered as the model was composed. Shapes come from `inputs`; where there are none, from
   those of the plan last used, from the option `shapes`, or, in a model whose inputs are ids, from 8 sequences of at
   most 128. */
MTH_API MTH_MUST_USE mth_status mth_get_parameters(
    mth_compiled *, const mth_named *inputs, size_t count, uint64_t seed, mth_arrays **out);
typedef struct {
    const mth_named *output_gradients; /* what is missing is zero */
    size_t output_gradient_count;
    /* names of floating inputs whose gradients are wanted beside those of the parameters */
    const char *const *input_gradients;
    size_t input_gradient_count;
} mth_gradient_request;
/* outputs: by name, those of the option `outputs`, else all that nothing reads or that are exposed.
   With `request` also the gradients of all floating parameters;
   `gradients` NULL: nobody takes them. `parameters` NULL: there are none. */
MTH_API MTH_MUST_USE mth_status mth_evaluate(mth_compiled *, const mth_arrays *parameters, const mth_named *inputs,
    size_t count, const mth_gradient_request *request, mth_arrays **outputs, mth_arrays **gradients);
/* Whether a module reads this input as a mask or as ids: floating values in it have to be 0 or 1 as they are given,
   before they are rounded. False where there is no such input. */
MTH_API bool mth_takes_mask(const mth_compiled *, const char *input);
/* Asks the calls of mth_evaluate that are under way now, in all threads, to stop at the next instruction: they return
   MTH_ERROR_INTERRUPTED, or their results where nothing was left to do. Calls that begin later are not asked.
   Async-signal-safe. */
MTH_API void mth_compiled_interrupt(mth_compiled *);
/* The same for this thread alone: from now on its calls that may take long return MTH_ERROR_INTERRUPTED, and change
   nothing, once asked(context) is true, which it then stays. Those are mth_compile and all that make a plan, load it or
   print it (mth_plan, mth_plan_print, mth_get_parameters, mth_get_parameter_layout, mth_get_memory_usage,
   mth_get_communication_usage, mth_get_placement_text, mth_stablehlo, mth_explain), between the steps of that work, and
   while another thread plans on the same backend; all that go through the blocks of a model (mth_model_add,
   mth_model_add_model, mth_model_copy, mth_model_print, mth_model_get_inputs, ...); mth_backend_create, between the
   measurements of machine='calibrate'; mth_evaluate, between instructions; mth_plan_verify_text and mth_plan_reprint;
   and those that fill arrays (mth_array_randn, from data, from files, ...) or read them (mth_array_gather), between
   pieces of data. XLA's compilation of one module is not interrupted. It is called often, by the engine's threads too
   and by several at once, so it is short and takes no lock. NULL: nothing is asked. */
MTH_API void mth_set_interrupt_check(bool (*asked)(void *context), void *context);
/* MTH_ERROR_INTERRUPTED where this thread's calls are asked so now: for work of the caller's own between them. */
MTH_API MTH_MUST_USE mth_status mth_check_interrupt(void);

/* ---------------------------------------------------------------- read a plan */
/* the program of the plan last used, else of a forward plan for the shapes given to mth_compile; mth_text_free */
MTH_API MTH_MUST_USE mth_status mth_plan_print(mth_compiled *, char **out);
/* Plans without running, for the names, dtypes and shapes of these inputs (none: as in mth_get_parameters);
   `gradients`: those of the parameters, for gradients of all outputs. */
MTH_API MTH_MUST_USE mth_status mth_plan(mth_compiled *, const mth_named *inputs, size_t count, bool gradients);
/* Parses the text of a plan and verifies it: NULL where it can't deadlock, read an unwritten or overlapping byte, or
 * use a partial sum as a value. */
MTH_API MTH_MUST_USE mth_status mth_plan_verify_text(const char *text);
MTH_API MTH_MUST_USE mth_status mth_plan_reprint(const char *text, char **out); /* parse, then print */
/* Where a parameter is to be: for loaders that place data themselves. */
/* arrays without data: name, dtype, shape, sharding */
MTH_API MTH_MUST_USE mth_status mth_get_parameter_layout(
    mth_compiled *, const mth_named *inputs, size_t count, mth_arrays **out);
/* An array with the layout of `like` (of mth_get_parameter_layout), read from a safetensors file: each device its
 * slice. */
MTH_API MTH_MUST_USE mth_status mth_array_read_safetensors(
    const mth_array *like, const char *path, const char *tensor, bool transpose, mth_array **out);
/* the tensor of a file that a parameter is read from */
typedef struct {
    const char *parameter, *tensor;
    bool transpose;
} mth_file_tensor;
/* All arrays of a layout, each from the tensor that is named for it. The file is opened and its header checked once.
   Tensors may be named for parameters too that the whole model has and its outputs don't need: they are not read. */
MTH_API MTH_MUST_USE mth_status mth_arrays_read_safetensors(
    const mth_arrays *layout, const char *path, const mth_file_tensor *, size_t count, mth_arrays **out);

typedef struct {
    /* bytes of one device; host is not in total */
    int64_t weights, gradients, optimizer, activations, communication, host, total;
} mth_memory_usage;
/* Of the plan last used for such inputs (none: for any), else of a forward plan. `devices`: the room in device[], as
 * many as the mesh has. The engine pjrt reports what XLA will use, by XLA's own statistics: activations are inputs,
 * outputs, what modules leave for later ones and the temporaries of a module (its collectives' included) at the fullest
 * moment; communication is what copies between devices need besides. The modules are compiled for it where they aren't
 * yet, and stay compiled for the run. Where a plugin doesn't tell, the plan's figures stand. */
MTH_API MTH_MUST_USE mth_status mth_get_memory_usage(
    mth_compiled *, const mth_named *inputs, size_t count, mth_memory_usage *device, size_t devices);
typedef struct {
    int64_t received, sent; /* bytes that one device takes from others, gives to others in one evaluate */
    int64_t messages;       /* communications in which it receives */
} mth_communication_usage;
/* Of the plan last used. */
MTH_API MTH_MUST_USE mth_status mth_get_communication_usage(
    mth_compiled *, mth_communication_usage *device, size_t devices);
/* What a compiler behind the engine is given and makes of it: of the plan last used for such inputs (none: for any),
   else of a forward plan, which is loaded; no device is needed. UNSUPPORTED where the engine has no such compiler.
   mth_stablehlo: the modules as StableHLO text, one after another. mth_explain: memory, flops and the collectives that
     were really emitted, beside those of the program. */
MTH_API MTH_MUST_USE mth_status mth_stablehlo(mth_compiled *, const mth_named *inputs, size_t count, char **out);
MTH_API MTH_MUST_USE mth_status mth_explain(mth_compiled *, const mth_named *inputs, size_t count, char **out);
/* Which devices run each operator of the plan last used: lines "operator<TAB>device,device,...". */
MTH_API MTH_MUST_USE mth_status mth_get_placement_text(mth_compiled *, char **out);

/* ---------------------------------------------------------------- for tests of error handling */
/* the index-th allocation from now on fails (0: the next one); -1: none */
MTH_API void mth_debug_fail_allocation(int64_t index);
MTH_API int64_t mth_debug_allocation_count(void); /* allocations since the process began */
MTH_API int64_t mth_debug_live_allocations(void); /* allocations that have not been freed */

#define MTH_CHECK(call)                                                                                                \
    do {                                                                                                               \
        mth_status mth_s_ = (call);                                                                                    \
        if (mth_s_) {                                                                                                  \
            fprintf(stderr, "%s\n", mth_error_get_message(mth_s_));                                                    \
            mth_error_free(mth_s_);                                                                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#ifdef __cplusplus
}
#endif
#endif
