/* Dictionaries of arrays. */
#include "data/array.h"
#include <string.h>

static char *own_text(const char *text) {
    size_t n = strlen(text) + 1;
    char *copy = mth__calloc(n, 1);
    if (copy) memcpy(copy, text, n);
    return copy;
}

mth_status mth__arrays_new(size_t count, mth_arrays **out) {
    mth_arrays *arrays = mth__calloc(1, sizeof *arrays);
    if (!arrays) return mth__lacks_memory("a dictionary of arrays", sizeof *arrays);
    arrays->table.slots = mth__table_slots_for(count);
    arrays->item = mth__calloc(count ? count : 1, sizeof *arrays->item);
    arrays->table.slot = mth__calloc(arrays->table.slots, sizeof *arrays->table.slot);
    if (!arrays->item || !arrays->table.slot) {
        int64_t bytes = (int64_t)(count * sizeof *arrays->item + arrays->table.slots * sizeof *arrays->table.slot);
        mth_arrays_free(arrays);
        return mth__lacks_memory("a dictionary of arrays", bytes);
    }
    arrays->count = count;
    *out = arrays;
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

mth_status mth__arrays_set(mth_arrays *arrays, size_t i, const char *name, mth_array *taken) {
    arrays->item[i].array = taken;
    arrays->item[i].name = own_text(name);
    if (!arrays->item[i].name) return mth__lacks_memory("a dictionary of arrays", (int64_t)strlen(name));
    mth__table_put(&arrays->table, mth__hash_text(name, strlen(name)), is_item, &(item_key){arrays, name}, (int)i);
    return NULL;
}

mth_status mth__arrays_allow(mth_arrays *arrays, const mth__names *names) {
    const size_t n = names->name.n;
    if (!n) return NULL;
    arrays->allowed = mth__calloc(n, sizeof *arrays->allowed);
    if (!arrays->allowed) return mth__lacks_memory("a dictionary of arrays", (int64_t)(n * sizeof *arrays->allowed));
    for (size_t i = 0; i < n; i++) {
        const char *name = names->name.at[i];
        if (!(arrays->allowed[arrays->allowances] = own_text(name)))
            return mth__lacks_memory("a dictionary of arrays", (int64_t)strlen(name));
        arrays->allowances++;
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

static mth_status add_once(mth_arrays *arrays, size_t i, const mth_named *item) {
    if (mth_arrays_find(arrays, item->name))
        return FAIL(MTH_ERROR_KEY, F("arrays: '%s' is given twice", item->name), F("give it once"));
    mth_array_retain(item->array);
    return mth__arrays_set(arrays, i, item->name, item->array);
}

mth_status mth_arrays_create(const mth_named *item, size_t count, mth_arrays **out) {
    mth_arrays *arrays = NULL;
    TRY(mth__result_given(out));
    TRY(mth__named_check(item, count, "arrays"));
    TRY(mth__arrays_new(count, &arrays));
    for (size_t i = 0; i < count; i++) {
        mth_status status = add_once(arrays, i, &item[i]);
        if (status) {
            mth_arrays_free(arrays);
            return status;
        }
    }
    *out = arrays;
    return NULL;
}

void mth_arrays_free(mth_arrays *arrays) {
    if (!arrays) return;
    for (size_t i = 0; i < arrays->count; i++) {
        mth_array_free(arrays->item[i].array);
        mth__free((void *)arrays->item[i].name);
    }
    for (size_t i = 0; i < arrays->allowances; i++) mth__free((void *)arrays->allowed[i]);
    mth__free(arrays->allowed);
    mth__free(arrays->item);
    mth__free(arrays->table.slot);
    mth__free(arrays);
}

size_t mth_arrays_get_count(const mth_arrays *arrays) { return arrays ? arrays->count : 0; }
mth_named mth_arrays_get(const mth_arrays *arrays, size_t i) {
    return i < mth_arrays_get_count(arrays) ? arrays->item[i] : (mth_named){NULL, NULL, NULL};
}

mth_array *mth_arrays_find(const mth_arrays *arrays, const char *name) {
    if (!arrays || !name) return NULL;
    const int found =
        mth__table_find(&arrays->table, mth__hash_text(name, strlen(name)), is_item, &(item_key){arrays, name});
    return found < 0 ? NULL : arrays->item[found].array;
}
