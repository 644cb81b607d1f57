/* How long values live and what they take of a device's memory, asked of the graph before a program is made: for passes
 * that decide what to keep. The order of the nodes is the order of execution, as after schedule. */
#ifndef MTH__LIVENESS_H
#define MTH__LIVENESS_H
#include "distribute/distribute.h"

typedef struct {
    int value;       /* id of the value that was written first */
    int first, last; /* positions of the first writer and of the last reader */
    bool owned;      /* the engine's library allocates it */
    int64_t bytes;   /* of the device's part; in units of MTH__ALIGNMENT, where the program allocates it */
} mth__live;

/* What lies between the inputs and the outputs of one device, after reshard: in out, as many as the result says. Views,
   sums to which terms are added, and results that may take the bytes of an operand belong to what they lie in; what
   leaves the program has memory of its own and is not listed. `views` and `owns`: as mth__emit_options says. */
int mth__live_values(mth__arena *, const mth__graph *, int device, bool views, mth__owns *owns, mth__live **out);
/* The most bytes of them at once, and the node (of position *at) at which they are. A program's slab, where no exit
   lends bytes and nothing overlaps, is these bytes, or more: by scratch of collectives, by what a send still holds, and
   by gaps between blocks. With `owns` it is the slab and mth__own_peak together, which need not be at once. */
int64_t mth__live_peak(const mth__graph *, int device, bool views, mth__owns *owns, int *at);
#endif
