/* The moves of channels, checked: the verifier's part, and what it says of one device's. */
#ifndef MTH__VERIFY_MOVES_H
#define MTH__VERIFY_MOVES_H
#include "emit/channel_moves.h"
#include "emit/verify.h"

mth_status mth__verify_moves(mth__verification *);
/* verify_cuts.c: all devices' parts of what the channel takes and gives fit together */
mth_status mth__verify_cuts(mth__verification *, const mth__channel *);
mth_status mth__verify_device_moves(const mth__channel *, int device, const mth__channel_part *);
#endif
