/* What a plan costs and where it runs, read off the program. */
#ifndef MTH__REPORT_H
#define MTH__REPORT_H
#include "emit/program.h"

/* Per device of the mesh. weights: parameters, whose successors have the same bytes; gradients: their gradients as they
   leave; optimizer: states; activations: inputs, outputs, the slab without what it holds for communication at its
   largest moment, and the most that is the engine's own at once; total is their sum: what a run allocates on that
   device, to the byte. host: the device's part of the host's pool, not in total. `padded`: what enters and leaves takes
   as much as the largest part of any device. `working`, `moving`: bytes by device that the engine takes of its own
   besides entries and exits, working on values and moving them; NULL, or -1 for a device: what the slabs have, and what
   the engine keeps with instructions (`keeps`; NULL: nothing). */
mth_status mth__report_memory(const mth__program *, bool padded, mth__keeps *keeps, const int64_t *working,
    const int64_t *moving, mth_memory_usage *device);
/* Bytes and messages of one run: each channel's, by its algorithm. */
mth_status mth__report_communication(const mth__program *, mth_communication_usage *device);
/* "linear_0\t0,1,2,3" a line, in order of first instruction. */
void mth__report_placement(mth__text *, const mth__program *);
#endif
