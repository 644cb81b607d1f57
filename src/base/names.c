#include "base/names.h"
#include <string.h>

typedef struct {
    const mth__names *names;
    const char *name;
} named_key;

static bool is_named(const void *key, int number) {
    const named_key *wanted = key;
    return !strcmp(wanted->names->name.at[number], wanted->name);
}

int mth__names_find(const mth__names *names, const char *name) {
    return mth__table_find(&names->table, mth__hash_text(name, strlen(name)), is_named, &(named_key){names, name});
}

int mth__names_add(mth__arena *arena, mth__names *names, const char *name) {
    mth__table_reserve(arena, &names->table);
    const uint64_t hash = mth__hash_text(name, strlen(name));
    const int next = (int)names->name.n;
    PUSH(arena, names->name, name); /* taken back below if it is known */
    const int number = mth__table_put(&names->table, hash, is_named, &(named_key){names, name}, next);
    if (number != next) names->name.n = (size_t)next;
    return number;
}
