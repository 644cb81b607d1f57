#include "emit/ranges.h"

mth__ranges mth__ranges_new(mth__arena *arena) {
    mth__ranges r = {.arena = arena, .state = 2463534242u};
    PUSH(arena, r.node, ((mth__range){0})); /* node 0 is the empty tree */
    return r;
}

static void update(mth__ranges *r, int n) {
    mth__range *x = &r->node.at[n];
    int64_t a = r->node.at[x->left].largest, b = r->node.at[x->right].largest;
    x->largest = x->size > a ? x->size : a;
    if (b > x->largest) x->largest = b;
}

/* Those that start before `start`, and the others. */
static void split(mth__ranges *r, int n, int64_t start, int *before, int *behind) {
    if (!n) {
        *before = *behind = 0;
        return;
    }
    mth__range *x = &r->node.at[n];
    if (x->start < start) {
        split(r, x->right, start, &x->right, behind);
        *before = n;
    } else {
        split(r, x->left, start, before, &x->left);
        *behind = n;
    }
    update(r, n);
}

static int join(mth__ranges *r, int a, int b) {
    if (!a || !b) return a + b;
    mth__range *x = &r->node.at[a], *y = &r->node.at[b];
    if (x->priority > y->priority) {
        x->right = join(r, x->right, b);
        update(r, a);
        return a;
    }
    y->left = join(r, a, y->left);
    update(r, b);
    return b;
}

void mth__ranges_insert(mth__ranges *r, int64_t start, int64_t size, int tag) {
    int n = r->spare, before, behind;
    if (n) {
        r->spare = r->node.at[n].left;
    } else {
        n = (int)r->node.n;
        PUSH(r->arena, r->node, ((mth__range){0}));
    }
    r->state ^= r->state << 13;
    r->state ^= r->state >> 17;
    r->state ^= r->state << 5;
    r->node.at[n] = (mth__range){start, size, size, r->state, 0, 0, tag};
    split(r, r->root, start, &before, &behind);
    r->root = join(r, join(r, before, n), behind);
}

static int erase(mth__ranges *r, int n, int64_t start) {
    mth__range *x = &r->node.at[n];
    if (x->start == start) {
        int rest = join(r, x->left, x->right);
        x->left = r->spare;
        r->spare = n;
        return rest;
    }
    if (start < x->start) x->left = erase(r, x->left, start);
    else x->right = erase(r, x->right, start);
    update(r, n);
    return n;
}

void mth__ranges_erase(mth__ranges *r, int64_t start) { r->root = erase(r, r->root, start); }

const mth__range *mth__ranges_overlapping(const mth__ranges *r, int64_t start, int64_t size) {
    const mth__range *last = NULL; /* the last that starts before the end: ranges are disjoint, so no other reaches as far */
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
        if (r->node.at[x->left].largest >= size) n = x->left;
        else if (x->size >= size) return x;
        else n = x->right;
    }
}
