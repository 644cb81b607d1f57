/* The table of rows. */
#include "base/table.h"
#include "catalog/row_tools.h"
#include <pthread.h>
#include <string.h>

static const mth__op *const rows[MTH__ROW_COUNT] = {
#define X(name) &mth__op_##name,
    MTH__ROWS(X)
#undef X
};

/* ---------------------------------------------------------------- lookup, by a table that is filled once */
enum { SLOTS = 256 };
_Static_assert(MTH__ROW_COUNT * 2 <= SLOTS, "the table of names is at most half full");
static mth__table_slot slot[SLOTS];
static mth__table names = {.slot = slot, .slots = SLOTS};
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool is_called(const void *name, int number) { return !strcmp(rows[number]->name, name); }
static uint64_t hash(const char *name) { return mth__hash_text(name, strlen(name)); }
static void fill_names(void) {
    for (int i = 0; i < MTH__ROW_COUNT; i++) mth__table_put(&names, hash(rows[i]->name), is_called, rows[i]->name, i);
}
const mth__op *mth__op_find(const char *name) {
    pthread_once(&once, fill_names);
    const int found = mth__table_find(&names, hash(name), is_called, name);
    return found < 0 ? NULL : rows[found];
}
size_t mth__op_count(void) { return MTH__ROW_COUNT; }
const mth__op *mth__op_at(enum mth__row row) { return rows[row]; }
