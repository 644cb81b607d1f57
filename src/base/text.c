#include "base/text.h"
#include <stdatomic.h>
#include <string.h>

mth__text mth__text_new(mth__arena *arena) { return (mth__text){.arena = arena}; }

static void reserve(mth__text *t, size_t more) {
    while (t->room < t->n + more + 1) t->at = mth__grow(t->arena, t->at, t->at ? t->n + 1 : 0, &t->room, 1);
}

void mth__text_add(mth__text *t, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int n = mth__vprint(t->at ? t->at + t->n : NULL, t->at ? t->room - t->n : 0, format, list);
    va_end(list);
    if (!t->at || (size_t)n >= t->room - t->n) {
        reserve(t, (size_t)n);
        va_start(list, format);
        mth__vprint(t->at + t->n, t->room - t->n, format, list);
        va_end(list);
    }
    t->n += (size_t)n;
}

void mth__text_pad(mth__text *t, size_t column) {
    size_t line = t->n;
    while (line > 0 && t->at[line - 1] != '\n') line--;
    size_t width = t->n - line;
    if (width < column) mth__text_add(t, "%*s", (int)(column - width), "");
}

char *mth__text_publish(const mth__text *t) {
    char *s = mth__malloc(t->n + 1);
    if (!s) return NULL;
    if (t->n) memcpy(s, t->at, t->n);
    s[t->n] = 0;
    return s;
}

typedef struct {
    char *_Atomic *kept;
    mth__write *write;
    const void *about;
} once;

static mth_status make_once(void *argument) {
    const once *o = argument;
    mth__arena *arena = mth__arena_new();
    mth__text t = mth__text_new(arena);
    o->write(&t, o->about);
    char *made = mth__text_publish(&t), *none = NULL;
    /* another thread's stays */
    if (made && !atomic_compare_exchange_strong(o->kept, &none, made)) mth__free(made);
    mth__arena_free(arena);
    return NULL;
}

const char *mth__text_once(char *_Atomic *kept, mth__write *write, const void *about) {
    once o = {kept, write, about};
    if (!atomic_load(kept)) mth_error_free(mth__guard(make_once, &o));
    return atomic_load(kept);
}

void mth_text_free(char *s) { mth__free(s); }
