/* A small harness: each TEST registers itself; RUN() runs them all, or those whose names contain one of argv's words,
 * and prints "N passed, N failed, N skipped". */
#ifndef UNIT_H
#define UNIT_H
#include "mithril.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct unit_test {
    const char *name;
    void (*run)(void);
    struct unit_test *next;
} unit_test;
static unit_test *unit_first, **unit_last = &unit_first;
static int unit_failures;      /* of the running test */
static char unit_skipped[256]; /* why the running test is skipped, in whole or in part; empty where it is not */
static void (*unit_end)(void); /* after all tests; NULL: nothing */

#define TEST(id)                                                                                                       \
    static void test_##id(void);                                                                                       \
    __attribute__((constructor)) static void unit_add_##id(void) {                                                     \
        static unit_test t = {#id, test_##id, NULL};                                                                   \
        *unit_last = &t;                                                                                               \
        unit_last = &t.next;                                                                                           \
    }                                                                                                                  \
    static void test_##id(void)
#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            unit_failures++;                                                                                           \
            printf("  %s:%d: %s\n", __FILE__, __LINE__, #cond);                                                        \
        }                                                                                                              \
    } while (0)
#define CHECK_STATUS(call)                                                                                             \
    do {                                                                                                               \
        mth_status unit_s = (call);                                                                                    \
        if (unit_s) {                                                                                                  \
            unit_failures++;                                                                                           \
            printf("  %s:%d: %s\n%s\n", __FILE__, __LINE__, #call, mth_error_get_message(unit_s));                     \
            mth_error_free(unit_s);                                                                                    \
        }                                                                                                              \
    } while (0)
/* What the running test needs is not here: it counts as skipped, for the first reason given, unless a check of it
 * fails. */
#define SKIP(...)                                                                                                      \
    do {                                                                                                               \
        if (!*unit_skipped) snprintf(unit_skipped, sizeof unit_skipped, __VA_ARGS__);                                  \
    } while (0)
/* The call fails with this code and its message contains the text. */
#define CHECK_FAILS(call, code, text)                                                                                  \
    do {                                                                                                               \
        mth_status unit_s = (call);                                                                                    \
        if (!unit_s) {                                                                                                 \
            unit_failures++;                                                                                           \
            printf("  %s:%d: %s succeeded\n", __FILE__, __LINE__, #call);                                              \
        } else {                                                                                                       \
            if (mth_error_get_code(unit_s) != (code) || !strstr(mth_error_get_message(unit_s), text)) {                \
                unit_failures++;                                                                                       \
                printf("  %s:%d: %s gave %d:\n%s\n", __FILE__, __LINE__, #call, (int)mth_error_get_code(unit_s),       \
                    mth_error_get_message(unit_s));                                                                    \
            }                                                                                                          \
            mth_error_free(unit_s);                                                                                    \
        }                                                                                                              \
    } while (0)

static int unit_run(int argc, char **argv) {
    int passed = 0, failed = 0, skipped = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);            /* what checks said is known of a process that died, too, */
    const bool watched = !isatty(STDOUT_FILENO); /* and where it was */
    for (unit_test *test = unit_first; test; test = test->next) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++) wanted |= strstr(test->name, argv[i]) != NULL;
        if (!wanted) continue;
        unit_failures = 0;
        *unit_skipped = 0;
        if (watched) printf("RUN %s\n", test->name);
        test->run();
        if (unit_failures) {
            failed++;
            printf("FAIL %s\n", test->name);
        } else if (*unit_skipped) {
            skipped++;
            printf("SKIP %s: %s\n", test->name, unit_skipped);
        } else
            passed++;
    }
    if (unit_end) unit_end();
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0;
}
#define RUN()                                                                                                          \
    int main(int argc, char **argv) { return unit_run(argc, argv); }
#endif
