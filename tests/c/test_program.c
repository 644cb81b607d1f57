#include "plans.h"

static mth__arena *a;
static mth_status in_guard(void *body) {
    a = mth__arena_new();
    ((void (*)(void))body)();
    mth__arena_free(a);
    return NULL;
}
#define GUARDED(id) static void body_##id(void); TEST(id) { CHECK_STATUS(mth__guard(in_guard, (void *)body_##id)); } static void body_##id(void)

/* Emitted, verified, printed, read back, printed again: the same text. */
static mth__program *round_trip(const mth__graph *g, mth__emit_options o) {
    mth__program *p = emit_plan(g, &o), *again = NULL;
    if (!p) return NULL;
    CHECK_STATUS(mth__program_verify(p));
    const char *text = plan_text(p);
    CHECK_STATUS(mth__program_parse(g->arena, text, &again));
    if (!again) return p;
    CHECK_STATUS(mth__program_verify(again));
    const char *second = plan_text(again);
    CHECK(strcmp(text, second) == 0);
    if (strcmp(text, second)) printf("%s\n----\n%s\n", text, second);
    return p;
}

GUARDED(round_trips) {
    for (int n = 1; n <= 5; n++)
        for (int k = 0; k < 8; k++) round_trip(two_layers(a, MESH(a, n), 8, 32, 64, 16), (mth__emit_options){.algorithm = {(const char *[]){NULL, "ring", "tree", "hierarchical"}[k / 2]}, .overlap = k % 2});
    for (int k = 0; k < 2; k++) round_trip(pipeline(a, MESH(a, 3), 3, 6, 12, 16), (mth__emit_options){.overlap = k});
}

GUARDED(show) {
    puts(plan_text(emit_plan(two_layers(a, MESH(a, 4), 8, 32, 64, 16), &(mth__emit_options){.algorithm = {"ring"}, .overlap = true})));
    puts(plan_text(emit_plan(two_layers(a, MESH(a, 3), 8, 32, 64, 16), &(mth__emit_options){.algorithm = {"tree"}})));
    puts(plan_text(emit_plan(pipeline(a, MESH(a, 3), 3, 6, 12, 16), &(mth__emit_options){.overlap = false})));
}
RUN()
