#include "base/names.h"
#include "base/hash.h"
#include <string.h>

static int *slot_of(const mth__names *names, const char *name) {
    size_t i = mth__hash_text(name, strlen(name)) & (names->slots - 1);
    while (names->slot[i] && strcmp(names->name.at[names->slot[i] - 1], name)) i = (i + 1) & (names->slots - 1);
    return &names->slot[i];
}

int mth__names_find(const mth__names *names, const char *name) { return names->slots ? *slot_of(names, name) - 1 : -1; }

int mth__names_add(mth__arena *arena, mth__names *names, const char *name) {
    if (2 * (names->name.n + 1) > names->slots) {
        mth__names larger = {.name = names->name, .slots = names->slots ? 2 * names->slots : 8};
        larger.slot = NEW_ARRAY(arena, int, larger.slots);
        for (size_t i = 0; i < names->name.n; i++) *slot_of(&larger, names->name.at[i]) = (int)i + 1;
        *names = larger;
    }
    int *slot = slot_of(names, name);
    if (!*slot) {
        PUSH(arena, names->name, name);
        *slot = (int)names->name.n;
    }
    return *slot - 1;
}
