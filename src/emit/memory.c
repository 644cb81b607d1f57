/* Where values lie. Values that may share bytes by the rules of program.h (in place) form a block; a block lives from
 * its first writer to its last reader, or to the WAIT that lets go of it. Blocks that end before an exit is first
 * written may lie in its bytes: what forward keeps for backward lies in the gradients that backward computes last
 * (lend). The others get offsets in the slab by first fit in the order of time, forwards and backwards, and, where
 * these waste space and the blocks are few, by size; the smallest slab counts. */
#include "catalog/rows.h"
#include "emit/emit.h"
#include "emit/ranges.h"
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, MOST_BY_SIZE = 2048 };
static const int64_t MOST_BYTES = (int64_t)1 << 62; /* of a slab */
typedef struct {
    int first, last;
    int64_t size, offset, best;
    mth__space space;
    int exit;  /* -1: in a slab */
    bool lent; /* borrows the exit's bytes, from offset on; else it is what leaves */
} block;
typedef struct {
    mth__arena *scratch;
    const mth__program *p;
    const mth__role *r;
    int *open;  /* by channel: its SEND, or what is started of it */
    int *begun; /* by value: what is started and makes it first, of no channel */
    int *wait;  /* by instruction: the WAIT of a SEND or of what is started */
    /* by base: last instruction that reads or writes; last WAIT; SENDs and started ones that have it as operand */
    int *touched, *held, *holders;
    int *block_of; /* by value: -1 where it lies in no block */
    VEC(block) block;
    /* by instruction, by block: lists of those that begin and end there */
    int *starts, *next_start, *ends, *next_end;
} layout;

static int later(int a, int b) { return a > b ? a : b; }
static int last_of(const layout *l, int base) { return later(l->touched[base], l->held[base]); }

static void find_lifetimes(layout *l) {
    const mth__role *r = l->r;
    int n = (int)r->instr.n;
    size_t values = r->value.n;
    l->wait = NEW_ARRAY(l->scratch, int, n);
    l->touched = NEW_ARRAY(l->scratch, int, values);
    l->held = NEW_ARRAY(l->scratch, int, values);
    l->holders = NEW_ARRAY(l->scratch, int, values);
    l->begun = NEW_ARRAY(l->scratch, int, values);
    memset(l->touched, -1, values * sizeof *l->touched);
    memset(l->held, -1, values * sizeof *l->held);
    for (int i = 0; i < n; i++) {
        const mth__instr *k = &r->instr.at[i];
        const mth__instr *of = k;
        int *mark = l->touched;
        if (k->kind == MTH__WAIT) {
            const int by = k->channel < 0 ? l->begun[k->awaited] : l->open[k->channel];
            of = &r->instr.at[by];
            l->wait[by] = i;
            mark = l->held;
        } else if (mth__is_started(k) || k->kind == MTH__SEND) {
            *(k->channel < 0 ? &l->begun[k->out[0]] : &l->open[k->channel]) = i;
            for (int j = 0; j < k->nin; j++) l->holders[mth__base_of(r, k->in[j])]++;
        }
        for (int j = 0; j < of->nin; j++) mark[mth__base_of(r, of->in[j])] = i;
        for (int j = 0; j < of->nout; j++) mark[of->out[j]] = i;
        if (of->scratch >= 0) mark[of->scratch] = i;
    }
}

/* ---------------------------------------------------------------- in place */
static bool may_run_in_place(const layout *l, const mth__instr *k) {
    if (k->nout != 1) return false;
    if (k->kind == MTH__COMPUTE) return k->op->flags & MTH__ELEMENTWISE;
    return k->kind == MTH__COLLECTIVE && l->p->channel.at[k->channel].kind == MTH__ALL_REDUCE;
}

static bool is_successor(const mth__program *p, const mth__pvalue *v) {
    return v->storage == MTH__IN_EXIT && p->exit.at[v->index].kind == MTH__EXIT_SUCCESSOR;
}

/* The operand's bytes may become the result's: nobody needs them after instruction i, and no operand lies otherwise in
 * the same block. */
static bool may_lie_on(const layout *l, int i, const mth__instr *k, int operand) {
    const mth__role *r = l->r;
    const mth__pvalue *in = &r->value.at[operand], *out = &r->value.at[k->out[0]];
    int base = mth__base_of(r, operand), b = l->block_of[base];
    /* the operand of a successor would lie in the entry's bytes while that is still read */
    if (out->storage == MTH__IN_OWN || is_successor(l->p, out)) return false;
    if (b < 0 || l->block.at[b].exit >= 0 || in->dtype != out->dtype || in->bytes != out->bytes ||
        in->bytes != r->value.at[base].bytes)
        return false;
    if (mth__is_started(k)) {
        if (l->touched[base] != i || l->holders[base] != 1 || l->block.at[b].last != l->wait[i]) return false;
    } else if (l->block.at[b].last != i) {
        return false;
    }
    for (int j = 0; j < k->nin; j++)
        if (l->block_of[mth__base_of(r, k->in[j])] == b && r->value.at[k->in[j]].bytes != in->bytes) return false;
    return true;
}

static void new_block(layout *l, int v, int i, int last) {
    const mth__pvalue *p = &l->r->value.at[v];
    if (p->storage != MTH__IN_SLAB || p->bytes == 0) return;
    l->block_of[v] = (int)l->block.n;
    PUSH(l->scratch, l->block,
        ((block){
            .first = i, .last = last, .size = (p->bytes + ALIGN - 1) / ALIGN * ALIGN, .space = p->space, .exit = -1}));
}

static void take_over(layout *l, int v, int onto) {
    const mth__pvalue *p = &l->r->value.at[v];
    l->block_of[v] = onto;
    l->block.at[onto].last = last_of(l, v);
    if (p->storage == MTH__IN_EXIT) l->block.at[onto].exit = p->index;
}

/* The block that the result of an instruction lies in already, or -1. */
static int block_below(const layout *l, int i, int result) {
    const mth__role *r = l->r;
    const mth__instr *k = &r->instr.at[i];
    int sum = k->accumulates ? mth__accumulator(k->op, k->nin, result) : -1;
    if (sum >= 0) return l->block_of[k->in[sum]];
    if (!may_run_in_place(l, k)) return -1;
    for (int j = 0; j < k->nin; j++)
        if (may_lie_on(l, i, k, k->in[j])) return l->block_of[mth__base_of(r, k->in[j])];
    return -1;
}

static void form_blocks(layout *l) {
    const mth__role *r = l->r;
    l->block_of = NEW_ARRAY(l->scratch, int, r->value.n);
    memset(l->block_of, -1, r->value.n * sizeof *l->block_of);
    for (int i = 0; i < (int)r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        for (int j = 0; j < k->nout; j++) {
            int below = block_below(l, i, j);
            if (below >= 0)
                take_over(l, k->out[j], below);
            else
                new_block(l, k->out[j], i, last_of(l, k->out[j]));
        }
        if (k->scratch >= 0) new_block(l, k->scratch, i, last_of(l, k->scratch));
    }
}

/* ---------------------------------------------------------------- exits that are lent */
/* Exits that are looked at for a block, and tried; blocks that one exit takes: a plan costs time linear in its length.
 */
enum { LOOKED_AT = 1024, LENDERS = 64, BORROWERS = 256 };
typedef struct {
    int exit, first;
    int64_t size;
    VEC(block *) in; /* by offset */
} lender;

/* Of blocks by offset: the lowest at which nobody is in x's time. */
static int64_t lowest_free(block *const *at, size_t n, const block *x) {
    int64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        if (at[i]->last < x->first || at[i]->first > x->last) continue;
        if (at[i]->offset >= offset + x->size) break;
        if (at[i]->offset + at[i]->size > offset) offset = at[i]->offset + at[i]->size;
    }
    return offset;
}

static void insert(block **at, size_t n, block *x) { /* there is room for it */
    for (; n > 0 && at[n - 1]->offset > x->offset; n--) at[n] = at[n - 1];
    at[n] = x;
}

static int by_first(const void *a, const void *b) {
    const lender *x = a, *y = b;
    return x->first != y->first ? (x->first > y->first) - (x->first < y->first)
                                : (x->exit > y->exit) - (x->exit < y->exit);
}

/* The exits of this role in the order in which they are written. */
static int find_lenders(layout *l, lender **out) {
    const mth__role *r = l->r;
    size_t exits = l->p->exit.n;
    lender *of = *out = NEW_ARRAY(l->scratch, lender, exits);
    int n = 0;
    for (size_t e = 0; e < exits; e++) of[e] = (lender){.exit = (int)e, .first = (int)r->instr.n};
    for (int i = 0; i < (int)r->instr.n; i++)
        for (int j = 0; j < r->instr.at[i].nout; j++) {
            const mth__pvalue *p = &r->value.at[r->instr.at[i].out[j]];
            if (p->storage != MTH__IN_EXIT || is_successor(l->p, p)) continue;
            if (of[p->index].first > i) of[p->index].first = i;
            of[p->index].size = p->bytes;
        }
    /* taken over in place: the exit's bytes are the block's from its beginning */
    for (size_t b = 0; b < l->block.n; b++) {
        const block *x = &l->block.at[b];
        if (x->exit >= 0 && of[x->exit].first > x->first) of[x->exit].first = x->first;
    }
    for (size_t e = 0; e < exits; e++)
        if (of[e].size) of[n++] = of[e];
    qsort(of, (size_t)n, sizeof *of, by_first);
    return n;
}

static bool borrow(layout *l, lender *of, block *x) {
    int64_t at = lowest_free(of->in.at, of->in.n, x);
    if (at + x->size > of->size) return false;
    x->offset = at;
    x->exit = of->exit;
    x->lent = true;
    PUSH(l->scratch, of->in, x);
    insert(of->in.at, of->in.n - 1, x);
    return true;
}

static void try_to_lend(layout *l, lender *of, int n, block *x) {
    int low = 0, high = n;
    /* from the first that is written when x is over: later ones are for what lives longer */
    while (low < high) {
        int middle = (low + high) / 2;
        if (of[middle].first > x->last)
            high = middle;
        else
            low = middle + 1;
    }
    for (int k = low, tried = 0; k < n && k < low + LOOKED_AT && tried < LENDERS; k++) {
        if (of[k].size < x->size || of[k].in.n == BORROWERS) continue;
        if (borrow(l, &of[k], x)) return;
        tried++;
    }
}

/* Is the block one that gets an offset in the slab of this space? */
static bool in_slab(const block *x, mth__space space) { return x->exit < 0 && x->space == space; }

/* Of these: the most bytes that are live at once, and the instruction at which they are. */
static int64_t most_live(const layout *l, mth__space space, int *at) {
    int64_t *change = NEW_ARRAY(l->scratch, int64_t, l->r->instr.n + 1), live = 0, most = 0;
    *at = 0;
    for (size_t b = 0; b < l->block.n; b++) {
        const block *x = &l->block.at[b];
        if (!in_slab(x, space)) continue;
        change[x->first] += x->size;
        change[x->last + 1] -= x->size;
    }
    for (size_t i = 0; i < l->r->instr.n; i++) {
        live += change[i];
        if (live > most) most = live, *at = (int)i;
    }
    return most;
}

static int by_size(const void *a, const void *b) {
    const block *const *x = a, *const *y = b;
    if ((*x)->size != (*y)->size) return (*x)->size < (*y)->size ? 1 : -1;
    return (*x)->first != (*y)->first ? ((*x)->first > (*y)->first) - ((*x)->first < (*y)->first)
                                      : (*x > *y) - (*x < *y);
}

/* First what lives where the slab would be fullest, then the rest; large ones first. */
static void lend(layout *l, int64_t least) {
    lender *of;
    int n = find_lenders(l, &of), at, candidates = 0;
    most_live(l, MTH__DEVICE, &at);
    block **order = NEW_ARRAY(l->scratch, block *, l->block.n);
    for (int round = 0; round < 2; round++) {
        int begin = candidates;
        for (size_t b = 0; b < l->block.n; b++) {
            block *x = &l->block.at[b];
            if (in_slab(x, MTH__DEVICE) && x->size >= least && (x->first <= at && at <= x->last) == (round == 0))
                order[candidates++] = x;
        }
        qsort(order + begin, (size_t)(candidates - begin), sizeof *order, by_size);
        for (int k = begin; k < candidates; k++) try_to_lend(l, of, n, order[k]);
    }
}

/* ---------------------------------------------------------------- offsets */
static void list_events(layout *l, mth__space space) {
    size_t n = l->r->instr.n;
    l->starts = NEW_ARRAY(l->scratch, int, n);
    l->ends = NEW_ARRAY(l->scratch, int, n);
    l->next_start = NEW_ARRAY(l->scratch, int, l->block.n);
    l->next_end = NEW_ARRAY(l->scratch, int, l->block.n);
    memset(l->starts, -1, n * sizeof *l->starts);
    memset(l->ends, -1, n * sizeof *l->ends);
    for (int b = (int)l->block.n - 1; b >= 0; b--) {
        const block *x = &l->block.at[b];
        if (!in_slab(x, space)) continue;
        l->next_start[b] = l->starts[x->first];
        l->starts[x->first] = b;
        l->next_end[b] = l->ends[x->last];
        l->ends[x->last] = b;
    }
}

static void give(mth__ranges *space, int64_t start, int64_t size) {
    const mth__range *near;
    if (start > 0 && (near = mth__ranges_overlapping(space, start - 1, 1))) {
        size += near->size;
        start = near->start;
        mth__ranges_erase(space, start);
    }
    if ((near = mth__ranges_overlapping(space, start + size, 1))) {
        size += near->size;
        mth__ranges_erase(space, near->start);
    }
    mth__ranges_insert(space, start, size, 0);
}

static int64_t take(mth__ranges *space, int64_t size) {
    mth__range x = *mth__ranges_fit(space, size);
    mth__ranges_erase(space, x.start);
    if (x.size > size) mth__ranges_insert(space, x.start + size, x.size - size, 0);
    return x.start;
}

/* First fit in the order of time; against it, blocks begin where they end. Returns the bytes used. */
static int64_t first_fit(layout *l, bool backwards) {
    mth__ranges space = mth__ranges_new(l->scratch);
    const int *begin = backwards ? l->ends : l->starts, *next_begin = backwards ? l->next_end : l->next_start;
    const int *end = backwards ? l->starts : l->ends, *next_end = backwards ? l->next_start : l->next_end;
    int64_t used = 0;
    int n = (int)l->r->instr.n;
    mth__ranges_insert(&space, 0, MOST_BYTES, 0);
    for (int t = 0; t < n; t++) {
        int i = backwards ? n - 1 - t : t;
        for (int b = begin[i]; b >= 0; b = next_begin[b]) {
            block *x = &l->block.at[b];
            x->offset = take(&space, x->size);
            if (x->offset + x->size > used) used = x->offset + x->size;
        }
        for (int b = end[i]; b >= 0; b = next_end[b]) give(&space, l->block.at[b].offset, l->block.at[b].size);
    }
    return used;
}

/* The largest first, each at the lowest offset that no block of its time holds. */
static int64_t largest_first(layout *l, mth__space space) {
    int n = 0, placed = 0;
    int64_t used = 0;
    /* `at`: placed, by offset */
    block **order = NEW_ARRAY(l->scratch, block *, l->block.n), **at = NEW_ARRAY(l->scratch, block *, l->block.n);
    for (size_t b = 0; b < l->block.n; b++)
        if (in_slab(&l->block.at[b], space)) order[n++] = &l->block.at[b];
    qsort(order, (size_t)n, sizeof *order, by_size);
    for (int k = 0; k < n; k++) {
        block *x = order[k];
        x->offset = lowest_free(at, (size_t)placed, x);
        insert(at, (size_t)placed++, x);
        if (x->offset + x->size > used) used = x->offset + x->size;
    }
    return used;
}

static void keep_if_smaller(layout *l, mth__space space, int64_t used, int64_t *best) {
    if (used >= *best) return;
    *best = used;
    for (size_t b = 0; b < l->block.n; b++)
        if (in_slab(&l->block.at[b], space)) l->block.at[b].best = l->block.at[b].offset;
}

/* The bytes of the slab. */
static int64_t place_blocks(layout *l, mth__space space) {
    list_events(l, space);
    int at;
    int64_t least = most_live(l, space, &at), best = INT64_MAX;
    keep_if_smaller(l, space, first_fit(l, false), &best);
    if (best > least) keep_if_smaller(l, space, first_fit(l, true), &best);
    if (best > least && l->block.n <= MOST_BY_SIZE) keep_if_smaller(l, space, largest_first(l, space), &best);
    return best;
}

static void assign(const layout *l, mth__role *r) {
    for (size_t v = 0; v < r->value.n; v++) {
        mth__pvalue *p = &r->value.at[v];
        if (p->storage != MTH__IN_SLAB) continue;
        const block *b = l->block_of[v] >= 0 ? &l->block.at[l->block_of[v]] : NULL;
        p->offset = b && b->exit < 0 ? b->best : 0;
        if (b && b->lent) {
            p->storage = MTH__IN_LENT;
            p->index = b->exit;
            p->offset = b->offset;
        } else if (b && b->exit >= 0) {
            p->storage = MTH__IN_EXIT;
            p->index = b->exit;
            p->memory = l->p->exit.at[b->exit].kind == MTH__EXIT_GRADIENT ? MTH__MEMORY_GRADIENT : MTH__MEMORY_OUTPUT;
        }
    }
}

/* What a device holds outside of its slab as well, which is `slab` at most: reports add it up in 64 bits. */
static mth_status check_outside(const layout *l, int64_t slab) {
    bool *counted = NEW_ARRAY(l->scratch, bool, l->p->exit.n); /* one exit may have many names */
    int64_t all = slab;
    for (size_t v = 0; v < l->r->value.n; v++) {
        const mth__pvalue *value = &l->r->value.at[v];
        if (value->storage != MTH__IN_ENTRY && value->storage != MTH__IN_EXIT && value->storage != MTH__IN_OWN)
            continue;
        if (value->storage == MTH__IN_EXIT && counted[value->index]) continue;
        if (value->storage == MTH__IN_EXIT) counted[value->index] = true;
        all = mth__size_sum(all, value->bytes);
    }
    if (all < INT64_MAX) return NULL;
    return FAIL(MTH_ERROR_VALUE,
        F("inputs, outputs and what lies between them would take 2^63 bytes or more of device %d", l->r->device[0]),
        F("use smaller shapes, or more devices to split them over"));
}

/* All blocks behind each other would fit in a slab, so every sum of sizes does. */
static mth_status check_sizes(const layout *l) {
    int64_t all = 0, largest = 0;
    for (size_t b = 0; b < l->block.n; b++) {
        all = mth__size_sum(all, l->block.at[b].size);
        if (l->block.at[b].size > largest) largest = l->block.at[b].size;
    }
    if (all < MOST_BYTES) return check_outside(l, all);
    return FAIL(MTH_ERROR_VALUE,
        F("the values of device %d together have 2^62 bytes or more, the largest of them %lld", l->r->device[0],
            (long long)largest),
        F("use smaller shapes, or more devices to split them over"));
}

mth_status mth__emit_memory(mth__program *p, int64_t least_lent) {
    for (size_t i = 0; i < p->role.n; i++) {
        mth__arena *scratch = mth__arena_new();
        layout l = {.scratch = scratch, .p = p, .r = &p->role.at[i], .open = NEW_ARRAY(scratch, int, p->channel.n)};
        find_lifetimes(&l);
        form_blocks(&l);
        mth_status s = check_sizes(&l);
        if (s) {
            mth__arena_free(scratch);
            return s;
        }
        if (least_lent) lend(&l, least_lent);
        for (int space = 0; space < MTH__SPACES; space++)
            p->role.at[i].slab[space] = place_blocks(&l, (mth__space)space);
        assign(&l, &p->role.at[i]);
        mth__arena_free(scratch);
    }
    return NULL;
}

int64_t mth__own_peak(const mth__program *p, const mth__role *r, mth__space space) {
    mth__arena *scratch = mth__arena_new();
    layout l = {.scratch = scratch, .p = p, .r = r, .open = NEW_ARRAY(scratch, int, p->channel.n)};
    int64_t *change = NEW_ARRAY(scratch, int64_t, r->instr.n + 2), live = 0, peak = 0;
    find_lifetimes(&l);
    for (int i = 0; i < (int)r->instr.n; i++) {
        const mth__instr *k = &r->instr.at[i];
        for (int j = 0; j < k->nout + (k->scratch >= 0); j++) {
            const int v = j < k->nout ? k->out[j] : k->scratch, last = last_of(&l, v);
            const int sum = k->accumulates && j < k->nout ? mth__accumulator(k->op, k->nin, j) : -1;
            if (r->value.at[v].storage != MTH__IN_OWN || r->value.at[v].space != space) continue;
            if (sum >= 0 && last == i) continue; /* it is the sum's memory, whose time ends here */
            change[i + (sum >= 0)] += r->value.at[v].bytes;
            change[last + 1] -= r->value.at[v].bytes;
        }
    }
    for (size_t i = 0; i < r->instr.n; i++) {
        live += change[i];
        if (live > peak) peak = live;
    }
    mth__arena_free(scratch);
    return peak;
}
