/* A growing text in an arena, the public malloc'ed copy of it, and texts in room that is given. None is cut without a
   word. */
#ifndef MTH__TEXT_H
#define MTH__TEXT_H
#include "base/arena.h"
#include "base/number.h"

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

/* For errors, which have no arena: into given room, in the manner of snprintf. What does not fit ends in "...". */
typedef struct {
    char *at;
    size_t room, n; /* that the whole text needs */
} mth__sink;
void mth__sink_add(mth__sink *, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Room may be NULL and 0: then it is counted. */
static inline mth__sink mth__sink_new(char *room, size_t size) {
    if (size) *room = 0;
    return (mth__sink){room, size, 0};
}
/* `text`, or its beginning and "..."; strlen(text) */
size_t mth__brief(char *room, size_t size, const char *text);
#endif
