/* Dictionaries of arrays. */
#include "data/array.h"
#include <string.h>

static char *own_text(const char *text) {
    size_t n = strlen(text) + 1;
    char *copy = mth__malloc(n);
    if (copy) memcpy(copy, text, n);
    return copy;
}

mth_status mth__arrays_new(size_t count, mth_arrays **out) {
    mth_arrays *a = mth__calloc(1, sizeof *a);
    if (!a) return mth__lacks_memory("a dictionary of arrays", sizeof *a);
    a->table.slots = mth__table_slots_for(count);
    a->item = mth__calloc(count ? count : 1, sizeof *a->item);
    a->table.slot = mth__calloc(a->table.slots, sizeof *a->table.slot);
    if (!a->item || !a->table.slot) {
        int64_t bytes = (int64_t)(count * sizeof *a->item + a->table.slots * sizeof *a->table.slot);
        mth_arrays_free(a);
        return mth__lacks_memory("a dictionary of arrays", bytes);
    }
    a->count = count;
    *out = a;
    return NULL;
}

typedef struct {
    const mth_arrays *arrays;
    const char *name;
} item_key;

static bool is_item(const void *key, int number) {
    const item_key *wanted = key;
    return !strcmp(wanted->arrays->item[number].name, wanted->name);
}

mth_status mth__arrays_set(mth_arrays *a, size_t i, const char *name, mth_array *taken) {
    a->item[i].array = taken;
    a->item[i].name = own_text(name);
    if (!a->item[i].name) return mth__lacks_memory("a dictionary of arrays", (int64_t)strlen(name));
    mth__table_put(&a->table, mth__hash_text(name, strlen(name)), is_item, &(item_key){a, name}, (int)i);
    return NULL;
}

mth_status mth__arrays_allow(mth_arrays *a, const mth__names *names) {
    const size_t n = names->name.n;
    if (!n) return NULL;
    a->allowed = mth__calloc(n, sizeof *a->allowed);
    if (!a->allowed) return mth__lacks_memory("a dictionary of arrays", (int64_t)(n * sizeof *a->allowed));
    for (size_t i = 0; i < n; i++) {
        const char *name = names->name.at[i];
        if (!(a->allowed[a->allowances] = own_text(name)))
            return mth__lacks_memory("a dictionary of arrays", (int64_t)strlen(name));
        a->allowances++;
    }
    return NULL;
}

mth_status mth__named_check(const mth_named *item, size_t count, const char *what) {
    for (size_t i = 0; i < count; i++) {
        TRY(mth__given(item, what));
        if (!item[i].name)
            return FAIL(MTH_ERROR_TYPE, F("%s: the name of item %zu is NULL", what, i), F("give each a name"));
        if (!item[i].array)
            return FAIL(MTH_ERROR_TYPE, F("%s: the array of '%s' is NULL", what, item[i].name),
                F("give it one, or leave it out"));
    }
    return NULL;
}

typedef struct {
    const mth_named *item;
    size_t count;
} named_list;
static mth_status check_once(void *context) {
    const named_list *list = context;
    mth__arena *arena = mth__arena_new();
    mth__names names = {0};
    mth_status s = NULL;
    for (size_t i = 0; !s && i < list->count; i++)
        if (mth__names_add(arena, &names, list->item[i].name) != (int)i)
            s = FAIL(MTH_ERROR_KEY, F("arrays: '%s' is given twice", list->item[i].name), F("give it once"));
    mth__arena_free(arena);
    return s;
}

mth_status mth_arrays_create(const mth_named *item, size_t count, mth_arrays **out) {
    mth_arrays *a = NULL;
    TRY(mth__result_given(out));
    TRY(mth__named_check(item, count, "arrays"));
    TRY(mth__guard(check_once, &(named_list){item, count}));
    TRY(mth__arrays_new(count, &a));
    for (size_t i = 0; i < count; i++) {
        mth_array_retain(item[i].array);
        mth_status s = mth__arrays_set(a, i, item[i].name, item[i].array);
        if (s) {
            mth_arrays_free(a);
            return s;
        }
    }
    *out = a;
    return NULL;
}

void mth_arrays_free(mth_arrays *a) {
    if (!a) return;
    for (size_t i = 0; i < a->count; i++) {
        mth_array_free(a->item[i].array);
        mth__free((void *)a->item[i].name);
    }
    for (size_t i = 0; i < a->allowances; i++) mth__free((void *)a->allowed[i]);
    mth__free(a->allowed);
    mth__free(a->item);
    mth__free(a->table.slot);
    mth__free(a);
}

size_t mth_arrays_get_count(const mth_arrays *a) { return a ? a->count : 0; }
mth_named mth_arrays_get(const mth_arrays *a, size_t i) {
    return i < mth_arrays_get_count(a) ? a->item[i] : (mth_named){NULL, NULL};
}

mth_array *mth_arrays_find(const mth_arrays *a, const char *name) {
    if (!a || !name) return NULL;
    const int found = mth__table_find(&a->table, mth__hash_text(name, strlen(name)), is_item, &(item_key){a, name});
    return found < 0 ? NULL : a->item[found].array;
}
