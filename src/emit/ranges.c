#include "emit/ranges.h"

mth__ranges mth__ranges_new(mth__arena *arena) {
    mth__ranges r = {.arena = arena};
    PUSH(arena, r.node, ((mth__range){0})); /* node 0 is the empty tree */
    return r;
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static void update(mth__ranges *r, int n) {
    mth__range *x = &r->node.at[n], *a = &r->node.at[x->left], *b = &r->node.at[x->right];
    x->largest = larger(x->size, larger(a->largest, b->largest));
    x->height = 1 + (a->height > b->height ? a->height : b->height);
}

static int turn_right(mth__ranges *r, int n) {
    int top = r->node.at[n].left;
    r->node.at[n].left = r->node.at[top].right;
    r->node.at[top].right = n;
    update(r, n);
    update(r, top);
    return top;
}

static int turn_left(mth__ranges *r, int n) {
    int top = r->node.at[n].right;
    r->node.at[n].right = r->node.at[top].left;
    r->node.at[top].left = n;
    update(r, n);
    update(r, top);
    return top;
}

static int lean(const mth__ranges *r, int n) {
    return r->node.at[r->node.at[n].left].height - r->node.at[r->node.at[n].right].height;
}

/* The root of the tree at n, of whose subtrees one has grown or shrunk by one. */
static int balance(mth__ranges *r, int n) {
    mth__range *x = &r->node.at[n];
    int to = lean(r, n);
    if (to > 1) {
        if (lean(r, x->left) < 0) x->left = turn_left(r, x->left);
        return turn_right(r, n);
    }
    if (to < -1) {
        if (lean(r, x->right) > 0) x->right = turn_right(r, x->right);
        return turn_left(r, n);
    }
    update(r, n);
    return n;
}

/* These three go down as far as the tree is high: 1.44 times the logarithm of its ranges, whatever they are. */
static int insert(mth__ranges *r, int n, int added) {
    mth__range *x = &r->node.at[n];
    if (!n) return added;
    if (r->node.at[added].start < x->start)
        x->left = insert(r, x->left, added);
    else
        x->right = insert(r, x->right, added);
    return balance(r, n);
}

static int take_first(mth__ranges *r, int n, int *first) {
    mth__range *x = &r->node.at[n];
    if (!x->left) return *first = n, x->right;
    x->left = take_first(r, x->left, first);
    return balance(r, n);
}

static int erase(mth__ranges *r, int n, int64_t start) {
    mth__range *x = &r->node.at[n];
    if (x->start != start) {
        if (start < x->start)
            x->left = erase(r, x->left, start);
        else
            x->right = erase(r, x->right, start);
        return balance(r, n);
    }
    int left = x->left, right = x->right, next;
    x->left = r->spare;
    r->spare = n;
    if (!right) return left;
    right = take_first(r, right, &next);
    r->node.at[next].left = left;
    r->node.at[next].right = right;
    return balance(r, next);
}

void mth__ranges_insert(mth__ranges *r, int64_t start, int64_t size, int tag) {
    int n = r->spare;
    if (n) {
        r->spare = r->node.at[n].left;
    } else {
        n = (int)r->node.n;
        PUSH(r->arena, r->node, ((mth__range){0}));
    }
    r->node.at[n] = (mth__range){.start = start, .size = size, .largest = size, .height = 1, .tag = tag};
    r->root = insert(r, r->root, n);
}

void mth__ranges_erase(mth__ranges *r, int64_t start) { r->root = erase(r, r->root, start); }

const mth__range *mth__ranges_overlapping(const mth__ranges *r, int64_t start, int64_t size) {
    /* the last that starts before the end: ranges are disjoint, so no other reaches as far */
    const mth__range *last = NULL;
    for (int n = r->root; n;) {
        const mth__range *x = &r->node.at[n];
        if (x->start < start + size) last = x;
        n = x->start < start + size ? x->right : x->left;
    }
    return last && last->start + last->size > start ? last : NULL;
}

const mth__range *mth__ranges_fit(const mth__ranges *r, int64_t size) {
    int n = r->root;
    if (r->node.at[n].largest < size) return NULL;
    for (;;) {
        const mth__range *x = &r->node.at[n];
        if (r->node.at[x->left].largest >= size)
            n = x->left;
        else if (x->size >= size)
            return x;
        else
            n = x->right;
    }
}
