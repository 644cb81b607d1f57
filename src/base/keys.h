/* Keys by number: each is a list of words, written word by word, and gets the next number when it is first met. What
 * depends on the words alone is so computed once for all that have the same:
 *     mth__keys_begin(&keys);
 *     mth__keys_add(arena, &keys, word); ...
 *     const int number = mth__keys_number(arena, &keys);   keys.key.n - 1 where it is new */
#ifndef MTH__KEYS_H
#define MTH__KEYS_H
#include "base/types.h"

typedef struct {
    size_t first, n; /* of the words */
} mth__key;
typedef struct {
    VEC(uint64_t) word;
    VEC(mth__key) key;
    size_t first; /* of the key that is being written */
    mth__table table;
} mth__keys; /* {0}: empty */

static inline void mth__keys_begin(mth__keys *keys) { keys->first = keys->word.n; }
static inline void mth__keys_add(mth__arena *arena, mth__keys *keys, uint64_t word) { PUSH(arena, keys->word, word); }
void mth__keys_add_text(mth__arena *, mth__keys *, const char *); /* NULL: none */
void mth__keys_add_shape(mth__arena *, mth__keys *, mth__shape);
void mth__keys_add_split(mth__arena *, mth__keys *, const mth__split *);
void mth__keys_add_sharding(mth__arena *, mth__keys *, const mth__sharding *, int rank);
int mth__keys_number(mth__arena *, mth__keys *);
#endif
