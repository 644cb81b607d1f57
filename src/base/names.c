#include "base/names.h"
#include "base/hash.h"
#include <string.h>

static int *slot_of(const mth__names *t, const char *name) {
    size_t i = mth__hash_text(name, strlen(name)) & (t->slots - 1);
    while (t->slot[i] && strcmp(t->name.at[t->slot[i] - 1], name)) i = (i + 1) & (t->slots - 1);
    return &t->slot[i];
}

int mth__names_find(const mth__names *t, const char *name) { return t->slots ? *slot_of(t, name) - 1 : -1; }

int mth__names_add(mth__arena *arena, mth__names *t, const char *name) {
    if (2 * (t->name.n + 1) > t->slots) {
        mth__names larger = {.name = t->name, .slots = t->slots ? 2 * t->slots : 8};
        larger.slot = NEW_ARRAY(arena, int, larger.slots);
        for (size_t i = 0; i < t->name.n; i++) *slot_of(&larger, t->name.at[i]) = (int)i + 1;
        *t = larger;
    }
    int *slot = slot_of(t, name);
    if (!*slot) {
        PUSH(arena, t->name, name);
        *slot = (int)t->name.n;
    }
    return *slot - 1;
}
