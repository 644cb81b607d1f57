/* A text in room that is given, in the manner of snprintf: for errors, which have no arena. What does not fit ends in
 * "...". */
#ifndef MTH__SINK_H
#define MTH__SINK_H
#include <stddef.h>

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
