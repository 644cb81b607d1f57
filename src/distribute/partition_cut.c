/* A row of items is cut in pieces. First the least weight that no part has to exceed is found: whether a weight will do
 * is seen by filling one part after the other, and weights are whole numbers, so halving finds it. Then, among the cuts
 * that keep to it, the most even one is found by dynamic programming over the pieces that are light enough. */
#include "base/stop.h"
#include "distribute/decide.h"
#include <math.h>

/* What a thing weighs once more in a piece that grows item by item. */
typedef struct {
    int *seen; /* by thing: the piece that it was last met in */
    int piece;
} growing;

static int64_t weight_more(const mth__row_cut *cut, growing *piece, int item) {
    int64_t more = 0;
    for (int i = cut->begin[item]; i < cut->begin[item + 1]; i++) {
        if (piece->seen[cut->thing[i]] == piece->piece) continue;
        piece->seen[cut->thing[i]] = piece->piece;
        more = mth__size_sum(more, cut->weight[cut->thing[i]]);
    }
    return more;
}

/* Is there a cut of which no part weighs more? A part that takes all it can leaves the least to the others. */
static bool will_do(const mth__row_cut *cut, growing *piece, int64_t most) {
    int part = 0;
    int64_t weight = cut->load[0];
    piece->piece++;
    for (int item = 0; item < cut->items; item++) {
        if (part >= cut->least[item]) {
            weight = mth__size_sum(weight, weight_more(cut, piece, item));
            if (weight <= most) continue;
            part++;
        } else {
            part = cut->least[item];
        }
        for (;; part++) {
            if (part > cut->most[item]) return false;
            piece->piece++;
            weight = mth__size_sum(cut->load[part], weight_more(cut, piece, item));
            if (weight <= most) break;
        }
    }
    return true;
}

static int64_t least_weight(mth__arena *scratch, const mth__row_cut *cut) {
    growing piece = {NEW_ARRAY(scratch, int, cut->things), 0};
    int64_t low = 0, high = 0;
    for (int part = 0; part < cut->parts; part++)
        if (cut->load[part] > low) low = cut->load[part];
    high = low;
    for (int thing = 0; thing < cut->things; thing++) high = mth__size_sum(high, cut->weight[thing]);
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (will_do(cut, &piece, middle))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* By item and thing of it, in the order of cut->thing: the next item that has the thing, or the number of items. */
static const int *next_items(mth__arena *scratch, const mth__row_cut *cut) {
    int *next = NEW_ARRAY(scratch, int, cut->begin[cut->items]), *later = NEW_ARRAY(scratch, int, cut->things);
    for (int thing = 0; thing < cut->things; thing++) later[thing] = cut->items;
    for (int item = cut->items - 1; item >= 0; item--)
        for (int i = cut->begin[item]; i < cut->begin[item + 1]; i++) {
            next[i] = later[cut->thing[i]];
            later[cut->thing[i]] = item;
        }
    return next;
}

static double square(int64_t weight) { return (double)weight * (double)weight; }

/* The first `n` items in the first `parts` parts: the least sum of squares, and where the last part begins. */
typedef struct {
    double sum;
    int begin;
} best_cut;
static best_cut *best_of(best_cut *best, const mth__row_cut *cut, int n, int parts) {
    return &best[(size_t)n * (size_t)(cut->parts + 1) + (size_t)parts];
}

/* Pieces that end before item `end`, from the shortest on: later cuts come first, and are kept where sums are equal. */
static void end_pieces(const mth__row_cut *cut, const int *next, int64_t most, int end, best_cut *best) {
    int64_t weight = 0;
    for (int begin = end - 1; begin >= 0 && cut->most[begin] >= cut->least[end - 1]; begin--) {
        for (int i = cut->begin[begin]; i < cut->begin[begin + 1]; i++)
            if (next[i] >= end) weight = mth__size_sum(weight, cut->weight[cut->thing[i]]);
        if (weight > most) break;
        for (int part = cut->least[end - 1]; part <= cut->most[begin]; part++) {
            const int64_t all = mth__size_sum(weight, cut->load[part]);
            const double sum = best_of(best, cut, begin, part)->sum + square(all);
            best_cut *found = best_of(best, cut, end, part + 1);
            if (all <= most && sum < found->sum) *found = (best_cut){sum, begin};
        }
    }
    for (int part = 0; part < cut->parts; part++) { /* the part stays empty */
        const double sum = best_of(best, cut, end, part)->sum + square(cut->load[part]);
        best_cut *found = best_of(best, cut, end, part + 1);
        if (sum <= found->sum) *found = (best_cut){sum, end};
    }
}

mth_status mth__cut_row(mth__arena *scratch, const mth__row_cut *cut, int *part_of) {
    const int64_t most = least_weight(scratch, cut);
    const int *next = next_items(scratch, cut);
    best_cut *best = NEW_ARRAY(scratch, best_cut, (size_t)(cut->items + 1) * (size_t)(cut->parts + 1));
    for (int end = 0; end <= cut->items; end++) {
        for (int parts = 0; parts <= cut->parts; parts++)
            *best_of(best, cut, end, parts) = (best_cut){end || parts ? (double)INFINITY : 0, end};
        end_pieces(cut, next, most, end, best);
        TRY(mth__stop_check()); /* of thousands of items each step takes long */
    }
    for (int part = cut->parts - 1, end = cut->items; part >= 0; part--) {
        const int begin = best_of(best, cut, end, part + 1)->begin;
        for (int item = begin; item < end; item++) part_of[item] = part;
        end = begin;
    }
    return NULL;
}
