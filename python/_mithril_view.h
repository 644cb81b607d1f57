/* What foreign memory looks like, read from what its producer says of it, and the conversion of its elements. */
#ifndef MITHRIL_VIEW_H
#define MITHRIL_VIEW_H
#include "_mithril.h"
#include "_mithril_dlpack.h"

enum { MAX_RANK = 8 };
#define MAX_BYTES ((int64_t)1 << 62) /* arrays are smaller; sums of two sizes or offsets below it fit in 64 bits */

typedef struct {
    const char *data;
    int rank;
    int64_t shape[MAX_RANK], stride[MAX_RANK]; /* strides in bytes; 0 where there is no second element */
    int64_t count;                             /* elements */
    mth_dtype dtype;                           /* of an element; 0: it is an integer that arrays don't have */
    char kind;                                 /* 'f' floating, 'i' signed, 'u' unsigned, 'b' bool */
    int size;                                  /* bytes of an element */
    int swapped;                               /* its most significant byte stands first */
} view;

/* 0, or -1 with an error set that names the data `name`: what is said of the memory contradicts itself, or is nothing
   that arrays can have. An address that may exist can't be checked. */
int view_of_buffer(module_state *, const char *name, const Py_buffer *, view *);
int view_of_dlpack(module_state *, const char *name, const dlpack_tensor *, view *);
/* The errors of a shape and of elements that arrays can't have; takes the text, "format 'Zf'". Return -1. */
int refuse_size(module_state *, const char *name, const view *);
int refuse_elements(module_state *, const char *name, PyObject *what, PyObject *fix);
#define COMPLEX_FIX "they are complex: give their parts apart, x.real and x.imag"
/* What makes numbers of the elements of an object: a cast, where that works. NULL: an exception is set. */
PyObject *cast_fix(PyObject *);

const char *view_dtype_name(const view *); /* that of the elements, "uint8" */
mth_dtype view_dtype(const view *);        /* that of an array with such elements, unless another is asked for */
/* Whether the memory is what an array of the dtype has: then it needs no packing. */
int view_is_direct(const view *, mth_dtype);
/* All elements row-major in the dtype. `lost`: the index of the first one that the dtype can't hold: an integer out of
   range, a finite number that would become infinite; -1 where there is none. Fails where it is interrupted. Needs no
   GIL. */
mth_status view_pack(const view *v, mth_dtype, void *to, int64_t *lost);
/* Whether the object's attribute is true, or what the attribute returns where it is a method; 0 where there is none.
   -1: an exception is set that has to reach the user (KeyboardInterrupt, SystemExit). */
int attribute_is_true(PyObject *, const char *name);
/* Why a tensor of torch can't be read from the memory that it shares; NULL: it can, or an exception is set. */
const char *why_not_taken(PyObject *);
/* What mends an object x that gives no data, alone or in lists, where NumPy must know torch's floating numbers. NULL:
   an error is set. */
PyObject *remedy_of(PyObject *, bool in_lists, const char *otherwise);
/* An element by its index in row-major order, as Python has it. A new reference, or NULL with an error set. */
PyObject *view_element(const view *, int64_t index);

/* ---------------------------------------------------------------- from memory to an array (_mithril_memory.c) */
/* Whose memory a view shows: an exporter of the buffer protocol, or the tensor of a DLPack capsule, which has been
   taken out of it. */
typedef struct {
    Py_buffer buffer;
    dlpack_managed *plain;
    dlpack_versioned *versioned;
} source;

void source_free(source *);

/* What an object is to become: */
typedef struct {
    module_state *s;
    mth_backend *backend;
    const char *name;
    mth_dtype wanted;
    const mth_arg *spec;
    int borrow;         /* of evaluate, which takes no dtype */
    int exact;          /* float64 stays: it is a mask's */
    const char **given; /* where to put the name of the data's dtype if the array has another; or NULL */
} conversion;

/* Takes over `from` where it gives an array that borrows the memory. NULL: an error is set. */
mth_array *array_of_view(const conversion *, const view *, source **from);
#endif
