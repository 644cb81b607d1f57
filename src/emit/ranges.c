#include "emit/ranges.h"

mth__ranges mth__ranges_new(mth__arena *arena) {
    mth__ranges ranges = {.arena = arena};
    PUSH(arena, ranges.node, ((mth__range){0})); /* node 0 is the empty tree */
    return ranges;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static void update(mth__ranges *ranges, int n) {
    mth__range *range = &ranges->node.at[n], *a = &ranges->node.at[range->left], *b = &ranges->node.at[range->right];
    range->largest = larger(range->size, larger(a->largest, b->largest));
    range->height = 1 + (a->height > b->height ? a->height : b->height);
}

static int turn_right(mth__ranges *ranges, int n) {
    int top = ranges->node.at[n].left;
    ranges->node.at[n].left = ranges->node.at[top].right;
    ranges->node.at[top].right = n;
    update(ranges, n);
    update(ranges, top);
    return top;
}

static int turn_left(mth__ranges *ranges, int n) {
    int top = ranges->node.at[n].right;
    ranges->node.at[n].right = ranges->node.at[top].left;
    ranges->node.at[top].left = n;
    update(ranges, n);
    update(ranges, top);
    return top;
}

static int lean(const mth__ranges *ranges, int n) {
    return ranges->node.at[ranges->node.at[n].left].height - ranges->node.at[ranges->node.at[n].right].height;
}

/* The root of the tree at n, of whose subtrees one has grown or shrunk by one. */
static int balance(mth__ranges *ranges, int n) {
    mth__range *range = &ranges->node.at[n];
    int to = lean(ranges, n);
    if (to > 1) {
        if (lean(ranges, range->left) < 0) range->left = turn_left(ranges, range->left);
        return turn_right(ranges, n);
    }
    if (to < -1) {
        if (lean(ranges, range->right) > 0) range->right = turn_right(ranges, range->right);
        return turn_left(ranges, n);
    }
    update(ranges, n);
    return n;
}

/* These three go down as far as the tree is high: 1.44 times the logarithm of its ranges, whatever they are. */
static int insert(mth__ranges *ranges, int n, int added) {
    mth__range *range = &ranges->node.at[n];
    if (!n) return added;
    if (ranges->node.at[added].start < range->start)
        range->left = insert(ranges, range->left, added);
    else
        range->right = insert(ranges, range->right, added);
    return balance(ranges, n);
}

static int take_first(mth__ranges *ranges, int n, int *first) {
    mth__range *range = &ranges->node.at[n];
    if (!range->left) return *first = n, range->right;
    range->left = take_first(ranges, range->left, first);
    return balance(ranges, n);
}

static int erase(mth__ranges *ranges, int n, int64_t start) {
    mth__range *range = &ranges->node.at[n];
    if (range->start != start) {
        if (start < range->start)
            range->left = erase(ranges, range->left, start);
        else
            range->right = erase(ranges, range->right, start);
        return balance(ranges, n);
    }
    int left = range->left, right = range->right, next;
    range->left = ranges->spare;
    ranges->spare = n;
    if (!right) return left;
    right = take_first(ranges, right, &next);
    ranges->node.at[next].left = left;
    ranges->node.at[next].right = right;
    return balance(ranges, next);
}

void mth__ranges_insert(mth__ranges *ranges, int64_t start, int64_t size, int tag) {
    int n = ranges->spare;
    if (n) {
        ranges->spare = ranges->node.at[n].left;
    } else {
        n = (int)ranges->node.n;
        PUSH(ranges->arena, ranges->node, ((mth__range){0}));
    }
    ranges->node.at[n] = (mth__range){.start = start, .size = size, .largest = size, .height = 1, .tag = tag};
    ranges->root = insert(ranges, ranges->root, n);
}

void mth__ranges_erase(mth__ranges *ranges, int64_t start) { ranges->root = erase(ranges, ranges->root, start); }

const mth__range *mth__ranges_overlapping(const mth__ranges *ranges, int64_t start, int64_t size) {
    /* the last that starts before the end: ranges are disjoint, so no other reaches as far */
    const mth__range *last = NULL;
    for (int n = ranges->root; n;) {
        const mth__range *range = &ranges->node.at[n];
        if (range->start < start + size) last = range;
        n = range->start < start + size ? range->right : range->left;
    }
    return last && last->start + last->size > start ? last : NULL;
}

const mth__range *mth__ranges_fit(const mth__ranges *ranges, int64_t size) {
    int n = ranges->root;
    if (ranges->node.at[n].largest < size) return NULL;
    for (;;) {
        const mth__range *range = &ranges->node.at[n];
        if (ranges->node.at[range->left].largest >= size)
            n = range->left;
        else if (range->size >= size)
            return range;
        else
            n = range->right;
    }
}
