/* The table of attributes: where each name lies in mth__attrs, for texts and comparisons, which know no row. */
#include "catalog/row_tools.h"
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#define INTEGER(name) {#name, offsetof(mth__attrs, name), MTH__ATTRIBUTE_INTEGER, false}
#define REAL(name) {#name, offsetof(mth__attrs, name), MTH__ATTRIBUTE_REAL, false}
#define ELEMENT(name, list, d)                                                                                         \
    {name #d, offsetof(mth__attrs, list) + d * sizeof(int64_t), MTH__ATTRIBUTE_INTEGER, false}
#define ELEMENTS(name, list)                                                                                           \
    ELEMENT(name, list, 0), ELEMENT(name, list, 1), ELEMENT(name, list, 2), ELEMENT(name, list, 3),                    \
        ELEMENT(name, list, 4), ELEMENT(name, list, 5), ELEMENT(name, list, 6), ELEMENT(name, list, 7)
static const mth__attribute attributes[] = {INTEGER(dimension), INTEGER(start), INTEGER(stop), INTEGER(rank),
    ELEMENTS("d", shape), ELEMENTS("p", permutation), INTEGER(dimensions), INTEGER(keep), INTEGER(axes), INTEGER(split),
    INTEGER(gathered), INTEGER(before), INTEGER(after), INTEGER(dtype), INTEGER(size), INTEGER(rows), INTEGER(length),
    INTEGER(width), INTEGER(inverse), INTEGER(interleaved), INTEGER(causal), INTEGER(k), INTEGER(experts),
    INTEGER(capacity), INTEGER(transposed), INTEGER(activation), REAL(by), REAL(probability), REAL(base), REAL(epsilon),
    REAL(scale), {"spec", offsetof(mth__attrs, spec), MTH__ATTRIBUTE_TEXT, false},
    {"key", offsetof(mth__attrs, key), MTH__ATTRIBUTE_INTEGER, true}};
enum { COUNT = sizeof attributes / sizeof *attributes, MOST = 1 + MTH__RANK };
_Static_assert(MTH__RANK == 8, "ELEMENTS lists d0 to d7");

static const mth__attribute *of_row[MTH__ROW_COUNT][MOST + 1]; /* NULL behind the last */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const mth__attribute *find(const char *name, size_t length) {
    for (int k = 0; k < COUNT; k++)
        if (strlen(attributes[k].name) == length && !memcmp(attributes[k].name, name, length)) return &attributes[k];
    return NULL;
}
static void fill_rows(void) {
    for (int row = 0; row < MTH__ROW_COUNT; row++) {
        int count = 0;
        for (const char *name = mth__op_at(row)->attributes; name && *name && count < MOST;) {
            size_t length = strcspn(name, ",");
            of_row[row][count++] = find(name, length);
            name += length;
            name += strspn(name, ", ");
        }
    }
}
const mth__attribute *mth__op_attribute(const mth__op *op, int k) {
    pthread_once(&once, fill_rows);
    return of_row[op->row][k];
}

bool mth__attribute_is_zero(const mth__attrs *attrs, const mth__attribute *attribute) {
    mth__attrs *all = (mth__attrs *)attrs; /* read alone */
    switch (attribute->kind) {
    case MTH__ATTRIBUTE_INTEGER: return *mth__attribute_integer(all, attribute) == 0;
    case MTH__ATTRIBUTE_REAL: return *mth__attribute_real(all, attribute) == 0;
    case MTH__ATTRIBUTE_TEXT: break;
    }
    return *mth__attribute_text(all, attribute) == NULL;
}

void mth__keys_add_attrs(mth__arena *arena, mth__keys *keys, const mth__attrs *attrs) {
    uint64_t word[sizeof(mth__attrs) / sizeof(uint64_t)];
    _Static_assert(offsetof(mth__attrs, spec) == 0 && sizeof word == sizeof *attrs, "all but the text are words");
    memcpy(word, attrs, sizeof word);
    mth__keys_add_text(arena, keys, attrs->spec);
    for (size_t i = 1; i < sizeof word / sizeof *word; i++) mth__keys_add(arena, keys, word[i]);
}

void mth__resize_shape(mth__attrs *attrs, int dimension, int64_t size) { attrs->shape[dimension] = size; }

mth__attrs mth__attrs_of_shape(mth__shape shape) {
    mth__attrs attrs = {.rank = shape.rank};
    for (int d = 0; d < shape.rank; d++) attrs.shape[d] = shape.dim[d];
    return attrs;
}
mth__shape mth__shape_of_attrs(const mth__attrs *attrs) {
    mth__shape shape = {.rank = (int)attrs->rank};
    for (int d = 0; d < shape.rank; d++) shape.dim[d] = attrs->shape[d];
    return shape;
}
