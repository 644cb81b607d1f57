/* Tests inside a guard, each with an arena of its own. */
#ifndef GUARDED_H
#define GUARDED_H
#include "base/arena.h"
#include "unit.h"

/* the running test's; others have an `arena` of their own, so this file is included last */
static mth__arena *arena;

static mth_status in_guard(void *body) {
    arena = mth__arena_new();
    ((void (*)(void))body)();
    mth__arena_free(arena);
    return NULL;
}
/* A test, where the condition holds. */
#define GUARDED_IF(condition, id)                                                                                      \
    static void id##_body(void);                                                                                       \
    TEST(id) {                                                                                                         \
        if (condition) CHECK_STATUS(mth__guard(in_guard, (void *)id##_body));                                          \
    }                                                                                                                  \
    static void id##_body(void)
#define GUARDED(id) GUARDED_IF(true, id)
#endif
