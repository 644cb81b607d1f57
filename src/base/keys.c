#include "base/keys.h"
#include <string.h>

void mth__keys_add_text(mth__arena *arena, mth__keys *keys, const char *text) {
    size_t n = text ? strlen(text) : 0;
    mth__keys_add(arena, keys, text ? n + 1 : 0);
    for (uint64_t word; n > 0;) {
        const size_t part = n < sizeof word ? n : sizeof word;
        word = 0;
        memcpy(&word, text, part);
        mth__keys_add(arena, keys, word);
        text += part;
        n -= part;
    }
}

void mth__keys_add_shape(mth__arena *arena, mth__keys *keys, mth__shape shape) {
    mth__keys_add(arena, keys, (uint64_t)shape.rank);
    for (int d = 0; d < shape.rank; d++) mth__keys_add(arena, keys, (uint64_t)shape.dim[d]);
}

void mth__keys_add_split(mth__arena *arena, mth__keys *keys, const mth__split *split) {
    uint64_t axes = (uint8_t)split->naxes;
    for (int k = 0; k < MTH__AXES; k++) axes = axes << 8 | (uint8_t)split->axis[k]; /* whatever naxes says */
    mth__keys_add(arena, keys, axes);
    if (split->naxes) mth__keys_add(arena, keys, (uint64_t)(uint32_t)split->grain << 1 | split->cyclic);
}

void mth__keys_add_sharding(mth__arena *arena, mth__keys *keys, const mth__sharding *sharding, int rank) {
    const uint64_t place = sharding->on ? (uint64_t)sharding->on->id + 1 : 0;
    mth__keys_add(arena, keys, place << 16 | (uint64_t)sharding->partial << 8 | sharding->reduce);
    for (int d = 0; d < rank; d++) mth__keys_add_split(arena, keys, &sharding->dim[d]);
}

typedef struct {
    const mth__keys *keys;
    const uint64_t *word;
    size_t n;
} asked_key;

static bool is_wanted(const void *key, int number) {
    const asked_key *wanted = key;
    const mth__key *known = &wanted->keys->key.at[number];
    return known->n == wanted->n &&
        !memcmp(wanted->keys->word.at + known->first, wanted->word, wanted->n * sizeof *wanted->word);
}

int mth__keys_number(mth__arena *arena, mth__keys *keys) {
    const uint64_t *word = keys->word.at + keys->first;
    const mth__key key = {keys->first, keys->word.n - keys->first};
    const uint64_t hash = mth__hash_words(word, key.n);
    const int next = (int)keys->key.n,
              number = mth__table_add(arena, &keys->table, hash, is_wanted, &(asked_key){keys, word, key.n}, next);
    if (number == next)
        PUSH(arena, keys->key, key);
    else
        keys->word.n = keys->first;
    return number;
}
