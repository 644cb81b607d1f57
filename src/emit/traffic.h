/* What devices receive from and send to other devices, by the moves of channels. */
#ifndef MTH__TRAFFIC_H
#define MTH__TRAFFIC_H
#include "emit/channel_moves.h"

typedef struct {
    int64_t received, sent; /* bytes; INT64_MAX: as many or more */
    int64_t messages;       /* channels in which the device receives something */
} mth__traffic;
/* Adds one use of the channel to every device's. */
mth_status mth__channel_traffic(const mth__channel *, mth__traffic *by_device);
/* Adds a run of the program to every device's. *counted: false, and nothing is added, where that would take more than
   some 10^7 steps; NULL: however long it takes. */
mth_status mth__program_traffic(const mth__program *, mth__traffic *by_device, bool *counted);
#endif
