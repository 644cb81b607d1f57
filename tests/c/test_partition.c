/* Cuts of rows, against all cuts that there are. */
#include "distribute/decide.h"
#include "unit.h"

enum { ITEMS = 6, PARTS = 4, THINGS = 8 };
typedef struct {
    int thing[ITEMS * THINGS], begin[ITEMS + 1], least[ITEMS], most[ITEMS];
    int64_t weight[THINGS], load[PARTS];
    mth__row_cut cut;
} problem;

static uint64_t state = 88172645463325252u;
static int below(int n) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (int)(state >> 33) % n;
}

/* Each item with a thing of its own, or with any that others have too; in any range that ascends. */
static void draw(problem *made, bool shared, bool ranges, bool loads) {
    const int items = below(ITEMS + 1), parts = 1 + below(PARTS), things = shared ? 1 + below(THINGS) : items;
    int n = 0;
    *made = (problem){.begin = {0}};
    for (int thing = 0; thing < things; thing++) made->weight[thing] = below(3) ? below(9) : 0;
    for (int item = 0; item < items; item++) {
        for (int thing = 0; thing < things; thing++)
            if (shared ? below(3) == 0 : thing == item) made->thing[n++] = thing;
        made->begin[item + 1] = n;
        made->least[item] = item ? made->least[item - 1] : 0;
        if (ranges && below(3) == 0) made->least[item] += below(parts - made->least[item]);
    }
    for (int item = items; item-- > 0;) {
        made->most[item] = item == items - 1 ? parts - 1 : made->most[item + 1];
        if (ranges && below(3) == 0) made->most[item] -= below(made->most[item] - made->least[item] + 1);
    }
    for (int part = 0; part < parts; part++) made->load[part] = loads ? below(12) : 0;
    made->cut = (mth__row_cut){
        items, parts, made->thing, made->begin, things, made->weight, made->load, made->least, made->most};
}

/* What one cut is worth: the heaviest part, the sum of squares, and how many items each part has, from the last on. */
typedef struct {
    int64_t worth[2 + PARTS];
} value_of_cut;

static value_of_cut value_of(const mth__row_cut *cut, const int *part_of) {
    value_of_cut value = {{0}};
    for (int part = 0; part < cut->parts; part++) {
        bool met[THINGS] = {false};
        int64_t weight = cut->load[part];
        for (int item = 0; item < cut->items; item++)
            for (int i = cut->begin[item]; part_of[item] == part && i < cut->begin[item + 1]; i++) {
                if (!met[cut->thing[i]]) weight += cut->weight[cut->thing[i]];
                met[cut->thing[i]] = true;
            }
        if (weight > value.worth[0]) value.worth[0] = weight;
        value.worth[1] += weight * weight;
        for (int item = 0; item < cut->items; item++) value.worth[2 + cut->parts - 1 - part] += part_of[item] == part;
    }
    return value;
}

static bool is_better(const value_of_cut *one, const value_of_cut *other) {
    for (int k = 0; k < 2 + PARTS; k++)
        if (one->worth[k] != other->worth[k]) return one->worth[k] < other->worth[k];
    return false;
}

/* All cuts, item by item; the best one stays. */
static void try_all(const mth__row_cut *cut, int item, int *part_of, value_of_cut *best, bool *found) {
    if (item == cut->items) {
        const value_of_cut value = value_of(cut, part_of);
        if (!*found || is_better(&value, best)) *best = value;
        *found = true;
        return;
    }
    int part = item ? part_of[item - 1] : 0;
    if (part < cut->least[item]) part = cut->least[item];
    for (; part <= cut->most[item]; part++) {
        part_of[item] = part;
        try_all(cut, item + 1, part_of, best, found);
    }
}

static mth_status compare(void *context) {
    problem *made = context;
    const mth__row_cut *cut = &made->cut;
    mth__arena *arena = mth__arena_new();
    int part_of[ITEMS] = {0}, tried[ITEMS] = {0};
    value_of_cut best;
    bool found = false;
    try_all(cut, 0, tried, &best, &found);
    TRY(mth__cut_row(arena, cut, part_of));
    for (int item = 0; item < cut->items; item++) {
        CHECK(part_of[item] >= cut->least[item] && part_of[item] <= cut->most[item]);
        CHECK(item == 0 || part_of[item] >= part_of[item - 1]);
    }
    const value_of_cut value = value_of(cut, part_of);
    CHECK(found && !memcmp(&value, &best, sizeof best));
    mth__arena_free(arena);
    return NULL;
}

TEST(the_best_of_all_cuts) {
    for (int k = 0; k < 8000 && unit_failures < 8; k++) {
        problem made;
        draw(&made, k & 1, k & 2, k & 4);
        CHECK_STATUS(mth__guard(compare, &made));
    }
}

/* A chain of a thousand equal items in sixteen parts; and one heavy item, beside which all cuts of the others do. */
static mth_status long_rows(void *unused) {
    enum { MANY = 1000, DEVICES = 16 };
    (void)unused;
    mth__arena *arena = mth__arena_new();
    int *thing = NEW_ARRAY(arena, int, MANY), *begin = NEW_ARRAY(arena, int, MANY + 1),
        *least = NEW_ARRAY(arena, int, MANY), *most = NEW_ARRAY(arena, int, MANY),
        *part_of = NEW_ARRAY(arena, int, MANY);
    int64_t *weight = NEW_ARRAY(arena, int64_t, MANY), *load = NEW_ARRAY(arena, int64_t, DEVICES);
    const mth__row_cut cut = {MANY, DEVICES, thing, begin, MANY, weight, load, least, most};
    for (int k = 0; k < MANY; k++) thing[k] = k, begin[k + 1] = k + 1, most[k] = DEVICES - 1, weight[k] = 1 << 20;
    TRY(mth__cut_row(arena, &cut, part_of));
    int count[DEVICES] = {0};
    for (int k = 0; k < MANY; k++) count[part_of[k]]++;
    for (int d = 0; d < DEVICES; d++) CHECK(count[d] == (d < 8 ? 63 : 62)); /* 1000 = 8 * 63 + 8 * 62 */
    weight[0] = (int64_t)1 << 40;
    TRY(mth__cut_row(arena, &cut, part_of));
    for (int d = 0; d < DEVICES; d++) count[d] = 0;
    for (int k = 0; k < MANY; k++) count[part_of[k]]++;
    for (int d = 0; d < DEVICES; d++) CHECK(count[d] == (d == 0 ? 1 : d <= 9 ? 67 : 66)); /* 999 = 9 * 67 + 6 * 66 */
    mth__arena_free(arena);
    return NULL;
}
TEST(long_rows_are_cut_evenly) { CHECK_STATUS(mth__guard(long_rows, NULL)); }
RUN()
