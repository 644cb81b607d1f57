#include "base/text.h"
#include <stdatomic.h>
#include <string.h>

mth__text mth__text_new(mth__arena *arena) { return (mth__text){.arena = arena}; }

static void reserve(mth__text *text, size_t more) {
    while (text->room < text->n + more + 1)
        text->at = mth__grow(text->arena, text->at, text->at ? text->n + 1 : 0, &text->room, 1);
}

void mth__text_add(mth__text *text, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int n = mth__vprint(text->at ? text->at + text->n : NULL, text->at ? text->room - text->n : 0, format, list);
    va_end(list);
    if (!text->at || (size_t)n >= text->room - text->n) {
        reserve(text, (size_t)n);
        va_start(list, format);
        mth__vprint(text->at + text->n, text->room - text->n, format, list);
        va_end(list);
    }
    text->n += (size_t)n;
}

void mth__text_pad(mth__text *text, size_t column) {
    size_t line = text->n;
    while (line > 0 && text->at[line - 1] != '\n') line--;
    size_t width = text->n - line;
    if (width < column) mth__text_add(text, "%*s", (int)(column - width), "");
}

char *mth__text_publish(const mth__text *text) {
    char *copy = mth__malloc(text->n + 1);
    if (!copy) return NULL;
    if (text->n) memcpy(copy, text->at, text->n);
    copy[text->n] = 0;
    return copy;
}

typedef struct {
    char *_Atomic *kept;
    mth__write *write;
    const void *about;
} once;

static mth_status make_once(void *argument) {
    const once *job = argument;
    mth__arena *arena = mth__arena_new();
    mth__text text = mth__text_new(arena);
    job->write(&text, job->about);
    char *made = mth__text_publish(&text), *none = NULL;
    /* another thread's stays */
    if (made && !atomic_compare_exchange_strong(job->kept, &none, made)) mth__free(made);
    mth__arena_free(arena);
    return NULL;
}

const char *mth__text_once(char *_Atomic *kept, mth__write *write, const void *about) {
    once job = {kept, write, about};
    if (!atomic_load(kept)) mth_error_free(mth__guard(make_once, &job));
    return atomic_load(kept);
}

void mth_text_free(char *text) { mth__free(text); }
