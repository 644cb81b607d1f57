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

enum { MOST_BY_SIZE = 2048 };
static const int64_t MOST_BYTES = (int64_t)1 << 62; /* of a slab */
typedef struct {
    int first, last;
    int written; /* the last instruction of which a result lies in it */
    int64_t size, offset, best;
    mth__space space;
    int exit;  /* -1: in a slab */
    bool lent; /* borrows the exit's bytes, from offset on; else it is what leaves */
} block;
typedef struct {
    mth__arena *scratch;
    const mth__program *program;
    const mth__role *role;
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
static int last_of(const layout *pass, int base) { return later(pass->touched[base], pass->held[base]); }

static void find_lifetimes(layout *pass) {
    const mth__role *role = pass->role;
    int n = (int)role->instr.n;
    size_t values = role->value.n;
    pass->wait = NEW_ARRAY(pass->scratch, int, n);
    pass->touched = mth__role_uses(pass->scratch, role).last;
    pass->held = NEW_ARRAY(pass->scratch, int, values);
    pass->holders = NEW_ARRAY(pass->scratch, int, values);
    pass->begun = NEW_ARRAY(pass->scratch, int, values);
    memset(pass->held, -1, values * sizeof *pass->held);
    for (int i = 0; i < n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        if (instruction->kind == MTH__WAIT) {
            const int by =
                instruction->channel < 0 ? pass->begun[instruction->awaited] : pass->open[instruction->channel];
            pass->wait[by] = i;
            for (int at = 0, number; (number = mth__instr_value(&role->instr.at[by], at)) >= 0; at++)
                pass->held[mth__base_of(role, number)] = i;
        } else if (mth__is_started(instruction) || instruction->kind == MTH__SEND) {
            *(instruction->channel < 0 ? &pass->begun[instruction->out[0]] : &pass->open[instruction->channel]) = i;
            for (int j = 0; j < instruction->nin; j++) pass->holders[mth__base_of(role, instruction->in[j])]++;
        }
    }
}

/* ---------------------------------------------------------------- in place */
static bool may_run_in_place(const layout *pass, const mth__instr *instruction) {
    if (instruction->kind == MTH__COMPUTE) return instruction->op->flags & MTH__ELEMENTWISE;
    return instruction->kind == MTH__COLLECTIVE &&
        pass->program->channel.at[instruction->channel].kind == MTH__ALL_REDUCE;
}

static bool is_successor(const mth__program *program, const mth__program_value *value) {
    return value->storage == MTH__IN_EXIT && program->exit.at[value->index].kind == MTH__EXIT_SUCCESSOR;
}

/* The operand's bytes may become the result's: nobody needs them after instruction i, none of its other results lies in
 * the same block, and no operand lies otherwise in it. */
static bool may_lie_on(const layout *pass, int i, int result, int operand) {
    const mth__role *role = pass->role;
    const mth__instr *instruction = &role->instr.at[i];
    const mth__program_value *in = &role->value.at[operand], *out = &role->value.at[result];
    int base = mth__base_of(role, operand), other = pass->block_of[base];
    /* the operand of a successor would lie in the entry's bytes while that is still read */
    if (out->storage == MTH__IN_OWN || is_successor(pass->program, out)) return false;
    if (other < 0 || pass->block.at[other].exit >= 0 || pass->block.at[other].written == i || in->dtype != out->dtype ||
        in->bytes != out->bytes || in->bytes != role->value.at[base].bytes)
        return false;
    if (mth__is_started(instruction)) {
        if (pass->touched[base] != i || pass->holders[base] != 1 || pass->block.at[other].last != pass->wait[i])
            return false;
    } else if (pass->block.at[other].last != i) {
        return false;
    }
    for (int j = 0; j < instruction->nin; j++)
        if (pass->block_of[mth__base_of(role, instruction->in[j])] == other &&
            role->value.at[instruction->in[j]].bytes != in->bytes)
            return false;
    return true;
}

static void new_block(layout *pass, int number, int i, int last) {
    const mth__program_value *value = &pass->role->value.at[number];
    if (value->storage != MTH__IN_SLAB || value->bytes == 0) return;
    pass->block_of[number] = (int)pass->block.n;
    PUSH(pass->scratch, pass->block,
        ((block){.first = i,
            .last = last,
            .written = i,
            .size = mth__ceil_div(value->bytes, MTH__ALIGNMENT) * MTH__ALIGNMENT,
            .space = value->space,
            .exit = -1}));
}

static void take_over(layout *pass, int number, int i, int onto) {
    const mth__program_value *value = &pass->role->value.at[number];
    pass->block_of[number] = onto;
    pass->block.at[onto].last = last_of(pass, number);
    pass->block.at[onto].written = i;
    if (value->storage == MTH__IN_EXIT) pass->block.at[onto].exit = value->index;
}

/* The operand that result k of an instruction is added to, or -1. */
static int sum_below(const mth__instr *instruction, int k) {
    return instruction->accumulates ? mth__accumulator(instruction->op, instruction->nin, k) : -1;
}

/* The block that result k of an instruction lies in already, or -1. */
static int block_below(const layout *pass, int i, int k) {
    const mth__role *role = pass->role;
    const mth__instr *instruction = &role->instr.at[i];
    const int sum = sum_below(instruction, k);
    if (sum >= 0) return pass->block_of[instruction->in[sum]];
    if (!may_run_in_place(pass, instruction)) return -1;
    for (int j = 0; j < instruction->nin; j++)
        if (may_lie_on(pass, i, instruction->out[k], instruction->in[j]))
            return pass->block_of[mth__base_of(role, instruction->in[j])];
    return -1;
}

static void place_result(layout *pass, int i, int k) {
    const int number = pass->role->instr.at[i].out[k], below = block_below(pass, i, k);
    if (below >= 0)
        take_over(pass, number, i, below);
    else
        new_block(pass, number, i, last_of(pass, number));
}

static void form_blocks(layout *pass) {
    const mth__role *role = pass->role;
    pass->block_of = NEW_ARRAY(pass->scratch, int, role->value.n);
    memset(pass->block_of, -1, role->value.n * sizeof *pass->block_of);
    for (int i = 0; i < (int)role->instr.n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        for (int k = 0; k < instruction->nout; k++) /* the others may lie on no operand that is a sum */
            if (sum_below(instruction, k) >= 0) place_result(pass, i, k);
        for (int k = 0; k < instruction->nout; k++)
            if (sum_below(instruction, k) < 0) place_result(pass, i, k);
        if (instruction->scratch >= 0) new_block(pass, instruction->scratch, i, last_of(pass, instruction->scratch));
    }
}

/* ---------------------------------------------------------------- exits that are lent */
/* Most exits that are looked at for a block, most that are tried, and most blocks that one exit takes. They are bounded
 * so that a plan takes time linear in its length. */
enum { LOOKED_AT = 1024, LENDERS = 64, BORROWERS = 256 };
typedef struct {
    int exit, first;
    int64_t size;
    VEC(block *) in; /* by offset */
} exit_lender;

/* The lowest offset at which none of the blocks, which are in order of offset, lies while `item` lives. */
static int64_t lowest_free(block *const *at, size_t n, const block *item) {
    int64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        if (at[i]->last < item->first || at[i]->first > item->last) continue;
        if (at[i]->offset >= offset + item->size) break;
        if (at[i]->offset + at[i]->size > offset) offset = at[i]->offset + at[i]->size;
    }
    return offset;
}

static void insert(block **at, size_t n, block *item) { /* there is room for it */
    for (; n > 0 && at[n - 1]->offset > item->offset; n--) at[n] = at[n - 1];
    at[n] = item;
}

static int by_first(const void *a, const void *b) {
    const exit_lender *x = a, *y = b;
    return x->first != y->first ? (x->first > y->first) - (x->first < y->first)
                                : (x->exit > y->exit) - (x->exit < y->exit);
}

/* The exits of this role in the order in which they are written. */
static int find_lenders(layout *pass, exit_lender **out) {
    const mth__role *role = pass->role;
    size_t exits = pass->program->exit.n;
    exit_lender *of = *out = NEW_ARRAY(pass->scratch, exit_lender, exits);
    int n = 0;
    for (size_t exit_number = 0; exit_number < exits; exit_number++)
        of[exit_number] = (exit_lender){.exit = (int)exit_number, .first = (int)role->instr.n};
    for (int i = 0; i < (int)role->instr.n; i++)
        for (int j = 0; j < role->instr.at[i].nout; j++) {
            const mth__program_value *value = &role->value.at[role->instr.at[i].out[j]];
            if (value->storage != MTH__IN_EXIT || is_successor(pass->program, value)) continue;
            if (of[value->index].first > i) of[value->index].first = i;
            of[value->index].size = value->bytes;
        }
    /* taken over in place: the exit's bytes are the block's from its beginning */
    for (size_t block_number = 0; block_number < pass->block.n; block_number++) {
        const block *item = &pass->block.at[block_number];
        if (item->exit >= 0 && of[item->exit].first > item->first) of[item->exit].first = item->first;
    }
    for (size_t exit_number = 0; exit_number < exits; exit_number++)
        if (of[exit_number].size) of[n++] = of[exit_number];
    qsort(of, (size_t)n, sizeof *of, by_first);
    return n;
}

static bool borrow(layout *pass, exit_lender *of, block *item) {
    int64_t at = lowest_free(of->in.at, of->in.n, item);
    if (at + item->size > of->size) return false;
    item->offset = at;
    item->exit = of->exit;
    item->lent = true;
    PUSH(pass->scratch, of->in, item);
    insert(of->in.at, of->in.n - 1, item);
    return true;
}

static void try_to_lend(layout *pass, exit_lender *of, int n, block *item) {
    int low = 0, high = n;
    /* begins at the first exit that is written when `item` is over: later exits are for what lives longer */
    while (low < high) {
        int middle = (low + high) / 2;
        if (of[middle].first > item->last)
            high = middle;
        else
            low = middle + 1;
    }
    for (int k = low, tried = 0; k < n && k < low + LOOKED_AT && tried < LENDERS; k++) {
        if (of[k].size < item->size || of[k].in.n == BORROWERS) continue;
        if (borrow(pass, &of[k], item)) return;
        tried++;
    }
}

/* Is the block one that gets an offset in the slab of this space? */
static bool in_slab(const block *item, mth__space space) { return item->exit < 0 && item->space == space; }

/* Of these: the most bytes that are live at once, and the instruction at which they are. */
static int64_t most_live(const layout *pass, mth__space space, int *at) {
    int64_t *change = NEW_ARRAY(pass->scratch, int64_t, pass->role->instr.n + 1), live = 0, most = 0;
    *at = 0;
    for (size_t block_number = 0; block_number < pass->block.n; block_number++) {
        const block *item = &pass->block.at[block_number];
        if (!in_slab(item, space)) continue;
        change[item->first] += item->size;
        change[item->last + 1] -= item->size;
    }
    for (size_t i = 0; i < pass->role->instr.n; i++) {
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
static void lend(layout *pass, int64_t least) {
    exit_lender *of;
    int n = find_lenders(pass, &of), at, candidates = 0;
    most_live(pass, MTH__DEVICE, &at);
    block **order = NEW_ARRAY(pass->scratch, block *, pass->block.n);
    for (int round = 0; round < 2; round++) {
        int begin = candidates;
        for (size_t block_number = 0; block_number < pass->block.n; block_number++) {
            block *item = &pass->block.at[block_number];
            if (in_slab(item, MTH__DEVICE) && item->size >= least &&
                (item->first <= at && at <= item->last) == (round == 0))
                order[candidates++] = item;
        }
        qsort(order + begin, (size_t)(candidates - begin), sizeof *order, by_size);
        for (int k = begin; k < candidates; k++) try_to_lend(pass, of, n, order[k]);
    }
}

/* ---------------------------------------------------------------- offsets */
static void list_events(layout *pass, mth__space space) {
    size_t n = pass->role->instr.n;
    pass->starts = NEW_ARRAY(pass->scratch, int, n);
    pass->ends = NEW_ARRAY(pass->scratch, int, n);
    pass->next_start = NEW_ARRAY(pass->scratch, int, pass->block.n);
    pass->next_end = NEW_ARRAY(pass->scratch, int, pass->block.n);
    memset(pass->starts, -1, n * sizeof *pass->starts);
    memset(pass->ends, -1, n * sizeof *pass->ends);
    for (int number = (int)pass->block.n - 1; number >= 0; number--) {
        const block *item = &pass->block.at[number];
        if (!in_slab(item, space)) continue;
        pass->next_start[number] = pass->starts[item->first];
        pass->starts[item->first] = number;
        pass->next_end[number] = pass->ends[item->last];
        pass->ends[item->last] = number;
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
    mth__range range = *mth__ranges_fit(space, size);
    mth__ranges_erase(space, range.start);
    if (range.size > size) mth__ranges_insert(space, range.start + size, range.size - size, 0);
    return range.start;
}

/* First fit in the order of time; against it, blocks begin where they end. Returns the bytes used. */
static int64_t first_fit(layout *pass, bool backwards) {
    mth__ranges space = mth__ranges_new(pass->scratch);
    const int *begin = backwards ? pass->ends : pass->starts,
              *next_begin = backwards ? pass->next_end : pass->next_start;
    const int *end = backwards ? pass->starts : pass->ends, *next_end = backwards ? pass->next_start : pass->next_end;
    int64_t used = 0;
    int n = (int)pass->role->instr.n;
    mth__ranges_insert(&space, 0, MOST_BYTES, 0);
    for (int time = 0; time < n; time++) {
        int i = backwards ? n - 1 - time : time;
        for (int number = begin[i]; number >= 0; number = next_begin[number]) {
            block *item = &pass->block.at[number];
            item->offset = take(&space, item->size);
            if (item->offset + item->size > used) used = item->offset + item->size;
        }
        for (int number = end[i]; number >= 0; number = next_end[number])
            give(&space, pass->block.at[number].offset, pass->block.at[number].size);
    }
    return used;
}

/* The largest first, each at the lowest offset that no block of its time holds. Ends where that takes `most` bytes. */
static int64_t largest_first(layout *pass, mth__space space, int64_t most) {
    int n = 0, placed = 0;
    int64_t used = 0;
    /* `at`: placed, by offset */
    block **order = NEW_ARRAY(pass->scratch, block *, pass->block.n),
          **at = NEW_ARRAY(pass->scratch, block *, pass->block.n);
    for (size_t block_number = 0; block_number < pass->block.n; block_number++)
        if (in_slab(&pass->block.at[block_number], space)) order[n++] = &pass->block.at[block_number];
    qsort(order, (size_t)n, sizeof *order, by_size);
    for (int k = 0; k < n && used < most; k++) {
        block *item = order[k];
        item->offset = lowest_free(at, (size_t)placed, item);
        insert(at, (size_t)placed++, item);
        if (item->offset + item->size > used) used = item->offset + item->size;
    }
    return used;
}

static void take_if_smaller(layout *pass, mth__space space, int64_t used, int64_t *best) {
    if (used >= *best) return;
    *best = used;
    for (size_t block_number = 0; block_number < pass->block.n; block_number++)
        if (in_slab(&pass->block.at[block_number], space))
            pass->block.at[block_number].best = pass->block.at[block_number].offset;
}

/* The bytes of the slab. */
static int64_t place_blocks(layout *pass, mth__space space) {
    list_events(pass, space);
    int at;
    int64_t least = most_live(pass, space, &at), best = INT64_MAX;
    take_if_smaller(pass, space, first_fit(pass, false), &best);
    if (best > least) take_if_smaller(pass, space, first_fit(pass, true), &best);
    if (best > least && pass->block.n <= MOST_BY_SIZE)
        take_if_smaller(pass, space, largest_first(pass, space, best), &best);
    return best;
}

static void assign(const layout *pass, mth__role *role) {
    for (size_t number = 0; number < role->value.n; number++) {
        mth__program_value *value = &role->value.at[number];
        if (value->storage != MTH__IN_SLAB) continue;
        const block *item = pass->block_of[number] >= 0 ? &pass->block.at[pass->block_of[number]] : NULL;
        value->offset = item && item->exit < 0 ? item->best : 0;
        if (item && item->lent) {
            value->storage = MTH__IN_LENT;
            value->index = item->exit;
            value->offset = item->offset;
        } else if (item && item->exit >= 0) {
            value->storage = MTH__IN_EXIT;
            value->index = item->exit;
            value->memory = pass->program->exit.at[item->exit].kind == MTH__EXIT_GRADIENT ? MTH__MEMORY_GRADIENT
                                                                                          : MTH__MEMORY_OUTPUT;
        }
    }
}

/* What a device holds outside of its slab as well, which is `slab` at most: reports add it up in 64 bits. */
static mth_status check_outside(const layout *pass, int64_t slab) {
    bool *counted = NEW_ARRAY(pass->scratch, bool, pass->program->exit.n); /* one exit may have many names */
    int64_t all = slab;
    for (size_t number = 0; number < pass->role->value.n; number++) {
        const mth__program_value *value = &pass->role->value.at[number];
        if (value->storage != MTH__IN_ENTRY && value->storage != MTH__IN_EXIT && value->storage != MTH__IN_OWN)
            continue;
        if (value->storage == MTH__IN_EXIT && counted[value->index]) continue;
        if (value->storage == MTH__IN_EXIT) counted[value->index] = true;
        all = mth__size_sum(all, value->bytes);
    }
    if (all < INT64_MAX) return NULL;
    return FAIL(MTH_ERROR_VALUE,
        F("inputs, outputs and what lies between them would take 2^63 bytes or more of device %d",
            pass->role->device[0]),
        F("use smaller shapes, or more devices to split them over"));
}

/* All blocks behind each other would fit in a slab, so every sum of sizes does. */
static mth_status check_sizes(const layout *pass) {
    int64_t all = 0, largest = 0;
    for (size_t block_number = 0; block_number < pass->block.n; block_number++) {
        all = mth__size_sum(all, pass->block.at[block_number].size);
        if (pass->block.at[block_number].size > largest) largest = pass->block.at[block_number].size;
    }
    if (all < MOST_BYTES) return check_outside(pass, all);
    return FAIL(MTH_ERROR_VALUE,
        F("the values of device %d together have 2^62 bytes or more, the largest of them %lld", pass->role->device[0],
            (long long)largest),
        F("use smaller shapes, or more devices to split them over"));
}

mth_status mth__emit_memory(mth__program *program, int64_t least_lent) {
    for (size_t i = 0; i < program->role.n; i++) {
        mth__arena *scratch = mth__arena_new();
        layout pass = {.scratch = scratch,
            .program = program,
            .role = &program->role.at[i],
            .open = NEW_ARRAY(scratch, int, program->channel.n)};
        find_lifetimes(&pass);
        form_blocks(&pass);
        mth_status status = check_sizes(&pass);
        if (status) {
            mth__arena_free(scratch);
            return status;
        }
        if (least_lent) lend(&pass, least_lent);
        for (int space = 0; space < MTH__SPACES; space++)
            program->role.at[i].slab[space] = place_blocks(&pass, (mth__space)space);
        assign(&pass, &program->role.at[i]);
        mth__arena_free(scratch);
    }
    return NULL;
}

void mth__last_uses(mth__arena *arena, const mth__program *program, const mth__role *role, int *last) {
    layout pass = {
        .scratch = arena, .program = program, .role = role, .open = NEW_ARRAY(arena, int, program->channel.n)};
    find_lifetimes(&pass);
    for (int number = 0; number < (int)role->value.n; number++)
        last[number] = last_of(&pass, mth__base_of(role, number));
}

/* By instruction, adds the bytes of exits that it is the first to write; returns those of all. */
static int64_t count_exits(mth__arena *scratch, const mth__program *program, const mth__role *role, int64_t *change) {
    bool *begun = NEW_ARRAY(scratch, bool, program->exit.n);
    int64_t all = 0;
    for (size_t i = 0; i < role->instr.n; i++)
        for (int k = 0; k < role->instr.at[i].nout; k++) {
            const mth__program_value *value = &role->value.at[mth__base_of(role, role->instr.at[i].out[k])];
            if (value->storage != MTH__IN_EXIT || is_successor(program, value) || begun[value->index]) continue;
            begun[value->index] = true;
            change[i] += value->bytes;
            all += value->bytes;
        }
    return all;
}

int64_t mth__own_peak(const mth__program *program, const mth__role *role, mth__space space, bool exits) {
    mth__arena *scratch = mth__arena_new();
    int64_t *change = NEW_ARRAY(scratch, int64_t, role->instr.n + 2), live = 0, peak = 0;
    if (exits && space == MTH__DEVICE) live = -count_exits(scratch, program, role, change);
    int *last_use = NEW_ARRAY(scratch, int, role->value.n);
    mth__last_uses(scratch, program, role, last_use);
    for (int i = 0; i < (int)role->instr.n; i++) {
        const mth__instr *instruction = &role->instr.at[i];
        for (int j = 0; j < instruction->nout + (instruction->scratch >= 0); j++) {
            const int number = j < instruction->nout ? instruction->out[j] : instruction->scratch,
                      last = last_use[number];
            const int sum = instruction->accumulates && j < instruction->nout
                ? mth__accumulator(instruction->op, instruction->nin, j)
                : -1;
            if (role->value.at[number].storage != MTH__IN_OWN || role->value.at[number].space != space) continue;
            if (sum >= 0 && last == i) continue; /* it is the sum's memory, whose time ends here */
            change[i + (sum >= 0)] += role->value.at[number].bytes;
            change[last + 1] -= role->value.at[number].bytes;
        }
    }
    for (size_t i = 0; i < role->instr.n; i++) {
        live += change[i];
        if (live > peak) peak = live;
    }
    mth__arena_free(scratch);
    return peak;
}
