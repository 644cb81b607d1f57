/* What the C library writes and reads differently under another locale, as in C's own whatever locale the program has
 * set: "0.25" and "No such file or directory" in Germany too. All formatting of the library passes through the first
 * function, all reading of floating numbers through the third, all words of the system through the last two. */
#ifndef MTH__NUMBER_H
#define MTH__NUMBER_H
#include <stdarg.h>
#include <stddef.h>

int mth__vprint(char *buffer, size_t room, const char *format, va_list); /* as vsnprintf */
/* as snprintf */
int mth__print(char *buffer, size_t room, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* A decimal number ("-1", "0.25", "1e-05"), inf or nan, that begins at `text`: no space before it, no hexadecimal. *end
   is where it ends, or `text` where there is none. */
double mth__read_real(const char *text, const char **end);
const char *mth__errno_text(int code); /* as strerror; valid until the thread's next call */
const char *mth__load_error(void);     /* as dlerror */
#endif
