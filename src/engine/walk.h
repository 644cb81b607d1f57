/* Runs a program in order, instruction by instruction, over callbacks: for engines that call a library for each row
 * and move bytes themselves. Each device walks its role's list as far as it gets; a channel is followed round by round
 * (emit/channel_moves.h), and what was started on another stream goes on whenever the device would wait. All devices
 * run on the calling thread, or each on its thread of a crew. */
#ifndef MTH__WALK_H
#define MTH__WALK_H
#include "emit/channel_moves.h"
#include "engine/control.h"
#include "engine/crew.h"

/* From a value of the peer's role to one of the device's; the values may be the same. */
typedef struct {
    const mth__channel *channel;
    int device, to, peer, from;
    const mth__strided_copy *copy;
} mth__walk_move;
typedef struct {
    mth_status (*compute)(void *context, int device, const mth__instr *);
    mth_status (*copy)(void *context, int device, const mth__instr *); /* between spaces */
    mth_status (*move)(void *context, const mth__walk_move *);
    mth_status (*reduce)(void *context, const mth__walk_move *); /* by channel->reduce */
    /* What a move would take, row-major in the channel's dtype, into host memory. NULL: the engine has no
       traits.crossings. */
    mth_status (*read)(void *context, const mth__walk_move *, void *data);
    /* What was asked of the device is done, so that others may see it. NULL: calls return when it is. */
    mth_status (*wait)(void *context, int device);
} mth__walk_calls;

typedef struct mth__walk mth__walk;
/* Of a program that verifies, which outlives it as the arena does. */
mth_status mth__walk_new(mth__arena *, const mth__program *, mth__walk **out);
/* One run at a time. Calls for one device come one after another, on its thread of the crew; without a crew those of
 * all devices, on the calling thread. */
mth_status mth__walk_run(mth__walk *, const mth__walk_calls *, void *context, mth__crew *, const mth__control *);
#endif
