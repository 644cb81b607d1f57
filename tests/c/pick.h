/* Numbers at random: pick(n) is in [0, n), and follows from what `state` was set to. */
#ifndef PICK_H
#define PICK_H
#include <stddef.h>

static unsigned state;
static int pick(size_t n) {
    state = state * 1664525u + 1013904223u;
    return n ? (int)((state >> 10) % (unsigned)n) : -1;
}
#endif
