#include "base/sink.h"
#include "base/number.h"
#include <stdarg.h>
#include <string.h>

/* Ends what fills the room with "...", behind a whole character of UTF-8. */
static void end_cut(char *at, size_t room) {
    static const char dots[] = "...";
    if (room < sizeof dots) return;
    size_t n = room - sizeof dots;
    while (n > 0 && ((unsigned char)at[n] & 0xc0) == 0x80) n--;
    memcpy(at + n, dots, sizeof dots);
}

void mth__sink_add(mth__sink *sink, const char *format, ...) {
    size_t left = sink->n < sink->room ? sink->room - sink->n : 0;
    va_list list;
    va_start(list, format);
    sink->n += (size_t)mth__vprint(left ? sink->at + sink->n : NULL, left, format, list);
    va_end(list);
    if (left && sink->n >= sink->room) end_cut(sink->at, sink->room);
}

size_t mth__brief(char *room, size_t size, const char *text) {
    mth__sink sink = mth__sink_new(room, size);
    mth__sink_add(&sink, "%s", text);
    return sink.n;
}
