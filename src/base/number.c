#include "base/number.h"
#include <dlfcn.h>
#include <locale.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* C's own locale is static in the C library: this allocates nothing, and nobody frees it. */
static locale_t own_locale(void) { return newlocale(LC_ALL_MASK, "C", (locale_t)0); }

/* What is written to a buffer, which keeps as much of it as there is room for. */
typedef struct {
    char *buffer;
    size_t room, n;
} plain_writer;
static void write_bytes(plain_writer *out, const char *text, size_t n) {
    if (out->n < out->room) memcpy(out->buffer + out->n, text, n < out->room - out->n ? n : out->room - out->n);
    out->n += n;
}
static void write_integer(plain_writer *out, uint64_t size, bool negative) {
    char digits[24];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + size % 10);
    while (size /= 10);
    if (negative) digits[--at] = '-';
    write_bytes(out, digits + at, sizeof digits - at);
}
static void write_signed(plain_writer *out, int64_t value) {
    write_integer(out, value < 0 ? -(uint64_t)value : (uint64_t)value, value < 0);
}

/* Nearly all formats have plain texts and integers alone, which every locale writes alike. -1: the format has more. */
static int print_plain(char *buffer, size_t room, const char *format, va_list list) {
    plain_writer out = {buffer, room, 0};
    for (const char *at = format;; at++) {
        const char *plain = at;
        while (*at && *at != '%') at++;
        write_bytes(&out, plain, (size_t)(at - plain));
        if (!*at++) break;
        const bool bounded = !strncmp(at, ".*s", 3), wide = *at == 'z', wider = !strncmp(at, "ll", 2);
        const bool is_long = (*at == 'l' && !wider) || wide;
        const int most = bounded ? va_arg(list, int) : -1;
        at += bounded || wider ? 2 : is_long;
        const bool is_int = !is_long && !wider;
        if (*at == 's' && is_int) {
            const char *text = va_arg(list, const char *);
            if (!text) return -1;
            write_bytes(&out, text, most < 0 ? strlen(text) : strnlen(text, (size_t)most));
        } else if (*at == 'd' && !wide) {
            write_signed(&out, wider ? va_arg(list, long long) : is_long ? va_arg(list, long) : va_arg(list, int));
        } else if (*at == 'u') {
            const uint64_t value = wide ? va_arg(list, size_t)
                : wider                 ? va_arg(list, unsigned long long)
                : is_long               ? va_arg(list, unsigned long)
                                        : va_arg(list, unsigned);
            write_integer(&out, value, false);
        } else if (*at == 'c' && is_int) {
            const char letter = (char)va_arg(list, int);
            write_bytes(&out, &letter, 1);
        } else if (*at == '%' && is_int) {
            write_bytes(&out, at, 1);
        } else {
            return -1;
        }
    }
    if (room) buffer[out.n < room ? out.n : room - 1] = 0;
    return (int)out.n;
}

int mth__vprint(char *buffer, size_t room, const char *format, va_list list) {
    va_list plain;
    va_copy(plain, list);
    int n = print_plain(buffer, room, format, plain);
    va_end(plain);
    if (n >= 0) return n;
    locale_t users = uselocale(own_locale()); /* of this thread alone */
    n = vsnprintf(buffer, room, format, list);
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
