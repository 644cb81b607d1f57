/* The dtypes: one table with all that is known of each of them, and the conversions between them. */
#ifndef MTH__DTYPE_H
#define MTH__DTYPE_H
#include "mithril.h"

/* The size of tables that are indexed by mth_dtype. Its values begin at 1: element 0 of such a table is for none. */
enum { MTH__DTYPE_COUNT = MTH_FLOAT16 + 1 };

typedef struct {
    const char *name;   /* "float32": as users and NumPy write it */
    const char *word;   /* "f32": in texts of plans */
    const char *xla;    /* in StableHLO: "f32", but "i1" for a bool */
    const char *file;   /* in safetensors files: "F32" */
    const char *format; /* of an element in the buffer protocol: "f"; "": the protocol has none (bfloat16) */
    int size;           /* bytes of an element */
    int dlpack;         /* the type code of DLPack; its bits are 8 * size */
    mth_dtype_class kind;
    mth_dtype sums; /* in which its elements are added up: float32 for those of 16 bits, else itself */
    /* Of floating dtypes: the largest finite value, and the least magnitude that rounds to infinity. */
    double largest, infinite;
    /* Of integers and bool: the range. */
    int64_t least, most;
} mth__dtype_facts;
/* [0] describes what is no dtype: "unknown", of 0 bytes. */
extern const mth__dtype_facts mth__dtypes[MTH__DTYPE_COUNT];

bool mth__is_dtype(mth_dtype);
bool mth__is_float(mth_dtype);
bool mth__is_integer(mth_dtype); /* a bool is none */
bool mth__is_half(mth_dtype);    /* floating, of 16 bits: what computes with it does so in float32 */

/* Converts `count` elements, which lie without gaps, from one dtype to another. The two memories don't overlap, unless
   they are the same and so are the dtypes. The rules are those of the operator cast: a floating result is rounded once,
   to nearest even, with subnormals, infinities and NaN (a quiet one, with the upper bits of what it carried); to an
   integer toward zero, and past its range to the least or the largest, NaN to 0; of a longer integer the lower bits
   stay; a bool is whether the element is not 0. */
void mth__dtype_convert(mth_dtype from, const void *in, mth_dtype to, void *out, int64_t count);
/* The index of the first element that `to` can't hold: a finite value that would become infinite, an integer outside
   the range, for an integer also what is no number. -1: there is none. Rounding loses nothing in this sense. */
int64_t mth__dtype_first_lost(mth_dtype from, const void *in, mth_dtype to, int64_t count);
/* Both, in one pass over memory. Elements that are lost are converted all the same. */
int64_t mth__dtype_convert_checked(mth_dtype from, const void *in, mth_dtype to, void *out, int64_t count);

/* One element as a double: integers past 2^53 are rounded. */
double mth__dtype_load(mth_dtype, const void *data, int64_t i);
/* Element i of `data` becomes the double, converted as above. */
void mth__dtype_store(mth_dtype, void *data, int64_t i, double value);

/* The pairs that matter for speed, with the best instructions that this machine has. */
typedef struct {
    const char *name;
    void (*from_bfloat16)(int64_t count, const uint16_t *in, float *out);
    void (*to_bfloat16)(int64_t count, const float *in, uint16_t *out);
    void (*from_float16)(int64_t count, const uint16_t *in, float *out);
    void (*to_float16)(int64_t count, const float *in, uint16_t *out);
    void (*from_float64)(int64_t count, const double *in, float *out);
    void (*from_int64)(int64_t count, const int64_t *in, int32_t *out);
    /* Whether a finite element has at least this magnitude; whether an integer is none of int32. */
    bool (*reaches)(int64_t count, const float *in, float magnitude);
    bool (*reaches64)(int64_t count, const double *in, double magnitude);
    bool (*exceeds_int32)(int64_t count, const int64_t *in);
} mth__dtype_vector;
/* Those that run on this machine, worst first; NULL past the last: for tests. They give the same bits. */
const mth__dtype_vector *mth__dtype_variant(int i);
#endif
