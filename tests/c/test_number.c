/* Numbers and names in texts: what is written and read is what C's own locale has. */
#include "base/number.h"
#include "unit.h"
#include <inttypes.h>
#include <limits.h>

static __attribute__((format(printf, 3, 4))) int print_as_c(char *buffer, size_t room, const char *format, ...) {
    va_list list;
    va_start(list, format);
    const int n = vsnprintf(buffer, room, format, list);
    va_end(list);
    return n;
}
/* as the C library writes them, cut where there is no room */
#define PRINTS_AS_C(...)                                                                                               \
    for (size_t room = 0; room < sizeof ours; room++) {                                                                \
        memset(ours, '#', sizeof ours), memset(theirs, '#', sizeof theirs);                                            \
        CHECK(                                                                                                         \
            mth__print(room ? ours : NULL, room, __VA_ARGS__) == print_as_c(room ? theirs : NULL, room, __VA_ARGS__)); \
        CHECK(!memcmp(ours, theirs, sizeof ours));                                                                     \
    }
TEST(texts_and_integers_are_written_as_the_c_library_does) {
    char ours[40], theirs[40];
    PRINTS_AS_C("%s", "");
    PRINTS_AS_C("plain, 100%%, %s and %s.%s", "a", "bc", "d");
    PRINTS_AS_C("%.*s|%.*s|%.*s|%.*s", 2, "abcdef", 9, "ab", 0, "x", -1, "all");
    PRINTS_AS_C("%d %d %d %d", 0, -1, INT_MAX, INT_MIN);
    PRINTS_AS_C("%ld %lld", LONG_MIN, LLONG_MIN);
    PRINTS_AS_C("%ld %lld", LONG_MAX, LLONG_MAX);
    PRINTS_AS_C("%u %lu", UINT_MAX, ULONG_MAX);
    PRINTS_AS_C("%llu %zu %c", ULLONG_MAX, SIZE_MAX / 3, 'k');
    PRINTS_AS_C("%" PRId64 "%" PRIu64, INT64_C(-7), UINT64_C(7));
    PRINTS_AS_C("%3d %-3d| %5s %x %zd %g %.9g %p", 7, 8, "r", 255u, (size_t)3, 0.25, 1e-5, (void *)ours);
    PRINTS_AS_C("%s %d %5.1f %s", "before", 12, 2.5, "behind");
}

TEST(numbers_are_read_as_far_as_they_go) {
    static const struct {
        const char *text;
        double value;
        int length;
    } cases[] = {
        {"0.25", 0.25, 4},
        {"-1e-05,", -1e-5, 6},
        {"+3 4", 3, 2},
        {"7.", 7, 2},
        {".5x", 0.5, 2},
        {"1e", 1, 1},
        {"1e+", 1, 1},
        {"2E3", 2000, 3},
        {"0,25", 0, 1},
        {"1.797e308", 1.797e308, 9},
        {"-inf", -INFINITY, 4},
        {"", 0, 0},
        {"-", 0, 0},
        {".", 0, 0},
        {"e5", 0, 0},
        {" 1", 0, 0},
        {"\n1", 0, 0},
        {"0x10", 0, 0},
        {"infinite", INFINITY, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *end;
        double value = mth__read_real(cases[i].text, &end);
        if (value == cases[i].value && end == cases[i].text + cases[i].length) continue;
        unit_failures++;
        printf("  '%s' is read as %g, %d characters\n", cases[i].text, value, (int)(end - cases[i].text));
    }
    const char *end;
    CHECK(isnan(mth__read_real("nan", &end)) && !*end);
    char text[32];
    CHECK(mth__print(text, sizeof text, "%.17g", 0.1) == 19 && strcmp(text, "0.10000000000000001") == 0);
    CHECK(mth__print(text, 4, "%d", 12345) == 5 && strcmp(text, "123") == 0);
}
RUN()
