/* The native engine's kernels: a table indexed by row. A call is prepared once, at load; its chunks then run on any
 * threads, in any order, and give the same bits however they are spread. Nothing is allocated or locked in `run`. */
#ifndef MTH__KERNEL_H
#define MTH__KERNEL_H
#include "catalog/rows.h"
#include "emit/program.h"
#include <stdatomic.h>

typedef struct {
    /* dense, row-major; set before each run (entries and exits move), not known in prepare */
    void *data;
    mth_dtype dtype;
    mth__shape shape; /* local */
    mth__shape global;
    int64_t start[MTH__RANK], step[MTH__RANK]; /* where the local part lies in the global value */
} mth__operand;

/* The first fault of a call wins: mth__fault_error tells it. */
typedef struct {
    atomic_int set;
    int64_t value, limit;
} mth__fault;
enum { MTH__PHASES = 3 };
typedef struct mth__call {
    const mth__op *op;
    const mth__attrs *attrs;
    bool accumulates; /* results in op->accumulates are added to what their memory holds */
    int nin, nout;    /* nin: of the row */
    /* each result of an ELEMENTWISE row may be the memory of an operand of its size, no two of the same one */
    mth__operand *in, *out;
    /* set before prepare: of the engine; devices that run this call, so at about the same time. 0: not known */
    int threads, peers;
    /* set by prepare */
    /* every chunk of a phase is done before the next phase begins; chunks of a phase are independent */
    int phases, chunks[MTH__PHASES];
    size_t thread_scratch; /* bytes that each running chunk gets (any contents) */
    size_t call_scratch;   /* bytes shared by the chunks of this call */
    void *plan;            /* the kernel's own, in the arena */
    /* set by the executor */
    void *shared; /* call_scratch bytes */
    mth__fault *fault;
} mth__call;
typedef struct {
    /* picks chunks of about 0.3 to 1 ms; NULL: one phase, chunks by output elements */
    mth_status (*prepare)(mth__arena *, mth__call *);
    void (*run)(const mth__call *, int phase, int chunk, void *scratch);
    const char *reason; /* run NULL: why there is none */
} mth__kernel;
extern const mth__kernel mth__kernels[MTH__ROW_COUNT];
/* Before the first prepare: chooses the instruction set, keeps OpenBLAS to one thread. Idempotent. */
void mth__kernels_open(void);
/* before the first run: what kernels can fail to get in a run is taken here */
mth_status mth__kernels_start(void);
/* NULL: there is a kernel for the node; else the reason, as of the vtable's lacks */
const char *mth__kernel_lacks(const mth__node *, int *at);
void mth__kernel_fault(mth__fault *, int64_t value, int64_t limit);

/* Strided boxes, for collectives and transfers: for each element of box `size` (rank dims): dst = src, dst += src, or
   dst = max(dst, src). Strides in elements. */
typedef enum { MTH__BOX_COPY, MTH__BOX_ADD, MTH__BOX_MAX } mth__box_op;
void mth__box(mth__box_op, mth_dtype, int rank, const int64_t *size, void *dst, const int64_t *dst_stride,
    const void *src, const int64_t *src_stride);
/* The same of several boxes, `from` bytes behind each src[s], without or with (`onto`) what dst holds, for elements of
   16 bits: combined in float32, in order, and rounded once. */
void mth__box_combine(mth__box_op, mth_dtype, int rank, const int64_t *size, void *dst, const int64_t *dst_stride,
    bool onto, int sources, void *const *src, int64_t from, const int64_t *src_stride);
/* dst[j][i] for all j = sum or max over s of src[s][i], i in [0, count): one pass over memory, for direct all_reduce.
   In order of s. dst[j] may be src[j], and else no destination lies on a source. `all`: elements of the whole reduction
   that this is a piece of: the results of a large one are written past the caches. */
void mth__reduce_to_all(mth__box_op, mth_dtype, int64_t count, int sources, const void *const *src, int destinations,
    void *const *dst, int64_t all);
#endif
