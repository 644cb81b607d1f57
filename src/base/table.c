#include "base/table.h"
#include <assert.h>

static mth__table_slot *slot_of(const mth__table *table, uint64_t hash, mth__is_key *is_key, const void *key) {
    size_t at = hash & (table->slots - 1);
    for (; table->slot[at].number; at = (at + 1) & (table->slots - 1))
        if (table->slot[at].hash == hash && is_key(key, (int)table->slot[at].number - 1)) break;
    return &table->slot[at];
}

int mth__table_find(const mth__table *table, uint64_t hash, mth__is_key *is_key, const void *key) {
    return table->slots ? (int)slot_of(table, hash, is_key, key)->number - 1 : -1;
}

size_t mth__table_slots_for(size_t count) {
    size_t slots = 8;
    while (slots < 2 * count) slots *= 2;
    return slots;
}

int mth__table_put(mth__table *table, uint64_t hash, mth__is_key *is_key, const void *key, int number) {
    mth__table_slot *slot = slot_of(table, hash, is_key, key);
    if (!slot->number) {
        assert(2 * (table->count + 1) <= table->slots);
        *slot = (mth__table_slot){hash, number + 1};
        table->count++;
    }
    return (int)slot->number - 1;
}

void mth__table_reserve(mth__arena *arena, mth__table *table) {
    if (2 * (table->count + 1) <= table->slots) return;
    mth__table larger = {.slots = mth__table_slots_for(table->count + 1), .count = table->count};
    larger.slot = NEW_ARRAY(arena, mth__table_slot, larger.slots);
    for (size_t i = 0; i < table->slots; i++) {
        if (!table->slot[i].number) continue;
        size_t at = table->slot[i].hash & (larger.slots - 1);
        while (larger.slot[at].number) at = (at + 1) & (larger.slots - 1);
        larger.slot[at] = table->slot[i];
    }
    *table = larger;
}

int mth__table_add(
    mth__arena *arena, mth__table *table, uint64_t hash, mth__is_key *is_key, const void *key, int number) {
    mth__table_reserve(arena, table);
    return mth__table_put(table, hash, is_key, key, number);
}
