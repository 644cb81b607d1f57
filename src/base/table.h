/* A hash table from keys to numbers. The caller stores the keys. For each call it passes the key's hash (base/hash.h)
 * and a function that tells whether a number belongs to the key. Open addressing, at most half full. */
#ifndef MTH__TABLE_H
#define MTH__TABLE_H
#include "base/arena.h"
#include "base/hash.h"

typedef struct {
    uint64_t hash;
    int64_t number; /* 1 + it; 0: empty */
} mth__table_slot;
typedef struct {
    mth__table_slot *slot;
    size_t slots, count; /* slots: a power of 2, or 0 */
} mth__table;            /* {0}: empty */

typedef bool mth__is_key(const void *key, int number);

/* The number that stands for the key, or -1. */
int mth__table_find(const mth__table *, uint64_t hash, mth__is_key *, const void *key);
/* The number that stands for the key, which is `number` where there was none. For tables that do not outlive a failure:
 * the caller makes what the number stands for afterwards. */
int mth__table_add(mth__arena *, mth__table *, uint64_t hash, mth__is_key *, const void *key, int number);

/* The same in steps of which the last can't fail: room for one more, or zeroed slots of the caller's for `count`; what
 * the number stands for; then the number. */
void mth__table_reserve(mth__arena *, mth__table *);
size_t mth__table_slots_for(size_t count);
int mth__table_put(mth__table *, uint64_t hash, mth__is_key *, const void *key, int number);
#endif
