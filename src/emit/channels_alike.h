/* The channels of a program that move alike, each once: what follows from the channel alone is found once for all. */
#ifndef MTH__CHANNELS_ALIKE_H
#define MTH__CHANNELS_ALIKE_H
#include "emit/program.h"

typedef struct {
    const mth__channel *like;
    int64_t times; /* that the program has such a channel */
} mth__alike_channels;
/* In the order in which each is met first; returns how many. */
size_t mth__channels_alike(mth__arena *, const mth__program *, mth__alike_channels **out);
#endif
