/* The table of rows. */
#include "catalog/row_tools.h"
#include <pthread.h>
#include <string.h>

static const mth__op *const rows[MTH__ROW_COUNT] = {
#define X(name) &mth__op_##name,
    MTH__ROWS(X)
#undef X
};

/* ---------------------------------------------------------------- lookup: open addressing, filled once */
enum { SLOTS = 256 };
_Static_assert(MTH__ROW_COUNT * 2 <= SLOTS, "the table of names is at most half full");
static int16_t slot[SLOTS]; /* row + 1 */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t hash(const char *name) {
    uint32_t h = 2166136261u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
    return h ^ h >> 15;
}
static void fill(void) {
    for (int i = 0; i < MTH__ROW_COUNT; i++) {
        uint32_t h = hash(rows[i]->name);
        while (slot[h % SLOTS]) h++;
        slot[h % SLOTS] = (int16_t)(i + 1);
    }
}
const mth__op *mth__op_find(const char *name) {
    pthread_once(&once, fill);
    for (uint32_t h = hash(name); slot[h % SLOTS]; h++) {
        const mth__op *op = rows[slot[h % SLOTS] - 1];
        if (strcmp(op->name, name) == 0) return op;
    }
    return NULL;
}
size_t mth__op_count(void) { return MTH__ROW_COUNT; }
const mth__op *mth__op_at(size_t i) { return rows[i]; }
int mth__op_index(const mth__op *op) { return op->row; }
