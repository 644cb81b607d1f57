#include "base/number.h"
#include <dlfcn.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* C's own locale is static in the C library: this allocates nothing, and nobody frees it. */
static locale_t own_locale(void) { return newlocale(LC_ALL_MASK, "C", (locale_t)0); }

int mth__vprint(char *buffer, size_t room, const char *format, va_list list) {
    locale_t users = uselocale(own_locale()); /* of this thread alone */
    int n = vsnprintf(buffer, room, format, list);
    uselocale(users);
    return n;
}

int mth__print(char *buffer, size_t room, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int n = mth__vprint(buffer, room, format, list);
    va_end(list);
    return n;
}

static const char *skip_digits(const char *at) {
    while (*at >= '0' && *at <= '9') at++;
    return at;
}

/* Where the number that begins here ends; NULL: there is none. */
static const char *end_of_number(const char *text) {
    const char *whole = text + (*text == '-' || *text == '+'), *at = skip_digits(whole);
    if (!strncmp(whole, "inf", 3) || !strncmp(whole, "nan", 3)) return whole + 3;
    const char *fraction = *at == '.' ? at + 1 : at, *after = skip_digits(fraction);
    if (at == whole && after == fraction) return NULL;
    if (*after != 'e' && *after != 'E') return after;
    const char *exponent = after + 1 + (after[1] == '-' || after[1] == '+'), *last = skip_digits(exponent);
    return last > exponent ? last : after;
}

double mth__read_real(const char *text, const char **end) {
    const char *last = end_of_number(text);
    char *read = NULL;
    double value = last ? strtod_l(text, &read, own_locale()) : 0;
    bool whole = last && read == last; /* "0x1" is a number to the C library only */
    *end = whole ? last : text;
    return whole ? value : 0;
}

const char *mth__errno_text(int code) { return strerror_l(code, own_locale()); }

const char *mth__load_error(void) {
    locale_t users = uselocale(own_locale());
    const char *error = dlerror();
    uselocale(users);
    return error;
}
