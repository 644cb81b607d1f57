/* A growing text in an arena, and the public malloc'ed copy of it. */
#ifndef MTH__TEXT_H
#define MTH__TEXT_H
#include "base/arena.h"
#include "base/number.h"
#include "base/sink.h"

typedef struct {
    mth__arena *arena;
    char *at;
    size_t n, room;
} mth__text;
mth__text mth__text_new(mth__arena *);
void mth__text_add(mth__text *, const char *format, ...) __attribute__((format(printf, 2, 3)));
void mth__text_pad(mth__text *, size_t column); /* spaces up to a column of the current line */
char *mth__text_publish(const mth__text *);     /* for mth_text_free; NULL where memory is gone */
/* A text that is made at first use and stays until the process ends, to be lent. NULL where memory is gone: the next
   call tries again. */
typedef void mth__write(mth__text *, const void *about);
const char *mth__text_once(char *_Atomic *kept, mth__write *, const void *about);
#endif
