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
    const uint64_t hash = mth__hash_text(name, strlen(name));
    const named_key key = {names, name};
    const int found = mth__table_find(&names->table, hash, is_named, &key);
    if (found >= 0) return found;
    mth__table_reserve(arena, &names->table);
    PUSH(arena, names->name, name);
    return mth__table_put(&names->table, hash, is_named, &key, (int)names->name.n - 1);
}
