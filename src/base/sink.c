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

void mth__sink_add(mth__sink *s, const char *format, ...) {
    size_t left = s->n < s->room ? s->room - s->n : 0;
    va_list list;
    va_start(list, format);
    s->n += (size_t)mth__vprint(left ? s->at + s->n : NULL, left, format, list);
    va_end(list);
    if (left && s->n >= s->room) end_cut(s->at, s->room);
}

size_t mth__brief(char *room, size_t size, const char *text) {
    mth__sink s = mth__sink_new(room, size);
    mth__sink_add(&s, "%s", text);
    return s.n;
}
