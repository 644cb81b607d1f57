/* Numbers in texts. Whatever locale the program has set, a number is written and read as in C's own: "0.25" in Germany
 * too. All formatting of the library passes through the first function, all reading of floating numbers through the
 * last. */
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
#endif
