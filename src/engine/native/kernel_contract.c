/* contract: an einsum of two operands as matrix products of OpenBLAS. The letters fall in four groups: batch (in both
 * operands and the result), m (first, result), n (second, result), k (both operands). Where the letters of a group lie
 * in memory as one dimension does, BLAS reads the operands in place, transposed or not; an operand where they don't is
 * first copied to [batch, rows, columns]. */
#include "engine/native/kernel_util.h"

enum { A, B, C, OPERANDS };
/* What is left of the result beside whole blocks, where it is narrower than NARROW, belongs to the last block: a block
 * of its own packs the whole other operand again for it, and one row or column is a vector to BLAS, with long
 * chains. */
enum { NARROW = 16 };
typedef struct {
    int n;
    int64_t size[MTH__RANK], stride[OPERANDS][MTH__RANK];
} group;
typedef struct {
    bool copied;
    mth__copy copy, back;
    size_t at;
} permuted; /* `at`: its place in the call's scratch. back: of the result, from its place to the scratch */
typedef struct {
    mth__loop batch; /* operands A, B, C */
    int64_t batches, m, n, k;
    int64_t row[OPERANDS], column[OPERANDS]; /* strides: A (m, k), B (k, n), C (m, n) */
    /* the transposed product: A is the call's second operand */
    bool swapped;
    permuted operand[OPERANDS];
    /* DIRECT, TURNED: mth__vec->product, without packing; TURNED: of the transposes */
    enum { BY_BLAS, DIRECT, TURNED } way;
    bool packed; /* the small operand is first laid out as [k, small] */
    size_t packed_at;
    int64_t block_m, block_n, blocks_m, blocks_n;
    int64_t most_m, most_n; /* no block is larger */
    int64_t panel;          /* terms of a sum that are left to float32 */
    mth_dtype dtype[OPERANDS];
    int64_t depth; /* of DIRECT and TURNED: terms for which operands of 16 bits are converted at a time */
    /* a block is computed in scratch: panels are added in double, and to the result */
    bool in_panels;
    int batch_chunks;
} contract_plan;

static void add_letter(group *letters, int64_t size, int64_t stride_a, int64_t stride_b, int64_t stride_c) {
    if (size == 1) return;
    letters->size[letters->n] = size;
    letters->stride[A][letters->n] = stride_a;
    letters->stride[B][letters->n] = stride_b;
    letters->stride[C][letters->n++] = stride_c;
}
/* The letters in the order of descending stride of the operand. */
static void sort_group(group *letters, int operand) {
    for (int i = 1; i < letters->n; i++)
        for (int j = i; j > 0 && letters->stride[operand][j] > letters->stride[operand][j - 1]; j--) {
            int64_t swapped = letters->size[j];
            letters->size[j] = letters->size[j - 1];
            letters->size[j - 1] = swapped;
            for (int which = 0; which < OPERANDS; which++) {
                swapped = letters->stride[which][j];
                letters->stride[which][j] = letters->stride[which][j - 1];
                letters->stride[which][j - 1] = swapped;
            }
        }
}
/* Whether the operand has the group as one dimension; its stride and the size. */
static bool as_one(const group *letters, int which, int64_t *size, int64_t *stride) {
    *size = 1;
    *stride = letters->n ? letters->stride[which][letters->n - 1] : 0;
    for (int i = letters->n - 1; i >= 0; i--) {
        if (letters->stride[which][i] != *stride * *size) return false;
        *size *= letters->size[i];
    }
    return true;
}
/* The operand as [batch, rows, columns], dense, with the letters of the groups in their order. */
static void permute(mth__call *call, contract_plan *plan, int operand, group *batch, group *rows, group *columns) {
    permuted *copy = &plan->operand[operand];
    group *groups[3] = {batch, rows, columns};
    mth__loop *loop = &copy->copy.loop;
    int64_t dense = 1;
    copy->copied = true;
    for (int which = 0; which < 3; which++)
        for (int i = 0; i < groups[which]->n; i++, loop->rank++) {
            loop->size[loop->rank] = groups[which]->size[i];
            loop->stride[1][loop->rank] = groups[which]->stride[operand][i];
        }
    for (int d = loop->rank - 1; d >= 0; dense *= loop->size[d--]) loop->stride[0][d] = dense;
    for (int which = 0, d = 0; which < 3; which++)
        for (int i = 0; i < groups[which]->n; i++, d++) groups[which]->stride[operand][i] = loop->stride[0][d];
    if (operand == C) /* from the scratch to the result */
        for (int d = 0; d < loop->rank; d++) {
            const int64_t stride = loop->stride[0][d];
            loop->stride[0][d] = loop->stride[1][d];
            loop->stride[1][d] = stride;
        }
    copy->back = copy->copy; /* what is in the result's place, for its product to be added to */
    for (int d = 0; operand == C && d < loop->rank; d++) {
        copy->back.loop.stride[0][d] = loop->stride[1][d];
        copy->back.loop.stride[1][d] = loop->stride[0][d];
    }
    mth__copy_plan(&copy->copy, plan->dtype[operand]);
    mth__copy_plan(&copy->back, plan->dtype[operand]);
    copy->at = call->call_scratch;
    call->call_scratch += ((size_t)dense * mth_dtype_size(plan->dtype[operand]) + 63) & ~(size_t)63;
}
/* A group without elements is one dimension of size 0, whatever the strides of its letters say. */
static void collapse_empty(group *letters) {
    for (int i = 0; i < letters->n; i++)
        if (!letters->size[i]) {
            *letters = (group){.n = 1, .stride = {{1}, {1}, {1}}};
            return;
        }
}
static bool unit(int64_t row, int64_t column, int64_t rows, int64_t columns) {
    return row == 1 || column == 1 || rows == 1 || columns == 1;
}

static mth_status parse(const mth__call *call, group *batch, group *rows, group *columns, group *terms) {
    const char *text[OPERANDS];
    int rank[OPERANDS];
    int64_t stride[OPERANDS][MTH__RANK], of[OPERANDS], size = 0;
    const mth__operand *operand[OPERANDS] = {&call->in[0], &call->in[1], &call->out[0]};
    const char *comma = call->attrs->spec ? strchr(call->attrs->spec, ',') : NULL,
               *arrow = comma ? strstr(comma, "->") : NULL;
    if (!arrow) return INTERNAL("contract: spec \"%s\"", call->attrs->spec ? call->attrs->spec : "");
    text[A] = call->attrs->spec;
    text[B] = comma + 1;
    text[C] = arrow + 2;
    rank[A] = (int)(comma - text[A]);
    rank[B] = (int)(arrow - text[B]);
    rank[C] = (int)strlen(text[C]);
    for (int which = 0; which < OPERANDS; which++) {
        if (rank[which] != operand[which]->shape.rank)
            return INTERNAL(
                "contract %s: operand %d has %d dimensions", call->attrs->spec, which, operand[which]->shape.rank);
        mth__shape_strides(operand[which]->shape, stride[which]);
    }
    for (int first = 0; first < OPERANDS; first++)
        for (int i = 0; i < rank[first]; i++) {
            const char letter = text[first][i];
            unsigned in = 0;
            for (int which = 0; which < OPERANDS; which++) {
                const char *at = memchr(text[which], letter, (size_t)rank[which]);
                of[which] = 0;
                if (!at) continue;
                const int64_t here = operand[which]->shape.dim[at - text[which]];
                if (in && here != size)
                    return INTERNAL("contract %s: letter %c has sizes %lld and %lld", call->attrs->spec, letter,
                        (long long)size, (long long)here);
                size = here;
                in |= 1u << which;
                of[which] = stride[which][at - text[which]];
            }
            if (in & ((1u << first) - 1)) continue; /* seen with an earlier operand */
            group *letters = in == 7 ? batch : in == 5 ? rows : in == 6 ? columns : in == 3 ? terms : NULL;
            if (!letters) return INTERNAL("contract %s: letter %c stands alone", call->attrs->spec, letter);
            add_letter(letters, size, of[A], of[B], of[C]);
        }
    return NULL;
}

/* Which code: packing both operands, as BLAS does, doesn't pay where one dimension of the result is small. */
static void plan_way(mth__call *call, contract_plan *plan) {
    const bool ta = plan->k > 1 && plan->column[A] != 1, tb = plan->n > 1 && plan->column[B] != 1;
    for (int operand = 0; operand < OPERANDS; operand++)
        if (plan->operand[operand].copied) return;
    if (!mth__vec->product || plan->batches != 1 || plan->m < 2 || plan->n < 2 || !plan->k ||
        (plan->m > MTH__SMALL && plan->n > MTH__SMALL))
        return;
    if (plan->m <= MTH__SMALL) {
        plan->way = tb ? TURNED : DIRECT;
        plan->packed = tb && !ta;
    } else if (!ta) {
        plan->way = DIRECT;
        plan->packed = tb;
    }
    if (!plan->packed) return;
    plan->packed_at = call->call_scratch;
    call->call_scratch += (size_t)(plan->k * (plan->way == TURNED ? plan->m : plan->n)) * sizeof(float);
}
/* Whether an operand is copied before the product: of the result what it is added to. */
static bool copied_in(const mth__call *call, const contract_plan *plan, int operand) {
    return plan->operand[operand].copied && (operand != C || call->accumulates);
}
/* What a chunk has in its scratch; in bytes from the beginning. */
typedef struct {
    size_t panels, turned, result, tiles, bytes;
} rooms;
static rooms rooms_of(const contract_plan *plan) {
    rooms at = {0};
    size_t end = plan->in_panels ? (mth__panels_bytes(plan->most_m, plan->most_n) + 63) & ~(size_t)63 : 0;
    at.turned = end;
    end += plan->way == TURNED ? (size_t)(plan->most_n * plan->m) * sizeof(float) : 0;
    at.result = end;
    end += mth__is_half(plan->dtype[C]) ? (size_t)(plan->most_m * plan->most_n) * sizeof(float) : 0;
    at.tiles = end;
    at.bytes = end + mth__matrix_bytes(plan->dtype[A], plan->dtype[B], plan->most_m, plan->most_n, plan->k);
    return at;
}
static int64_t blocks_of(int64_t n, int64_t block) { return mth__max64(1, mth__ceil_div(n - NARROW + 1, block)); }
/* Blocks of the result: as square as may be, since a block of m x n packs (m + n) k elements of the operands again. */
static void plan_chunks(mth__call *call, contract_plan *plan) {
    const double rate = plan->m == 1 || plan->n == 1 ? 12
        : plan->way != BY_BLAS                       ? 130
        : plan->m < 64 || plan->n < 64               ? 80
                                                     : 150;
    const double ns =
        2.0 * (double)plan->batches * (double)plan->m * (double)plan->n * (double)mth__max64(plan->k, 1) / rate;
    /* Long chunks repack less (512 x 512 of k = 2048 runs 8% faster than 256 x 256): as many as give each thread eight
       among the devices that multiply at the same time; but none above 20 ms, which is how long an interrupt waits. */
    const double count = call->threads ? fmax(1, 8.0 * call->threads / call->peers) : 16;
    const double each = fmin(fmax(ns / count, 4e5), 2e7);
    const int64_t chunks_wanted = mth__max64(1, (int64_t)(ns / each)),
                  pieces =
                      plan->batches >= chunks_wanted ? 1 : mth__ceil_div(chunks_wanted, mth__max64(plan->batches, 1));
    int64_t best_m = 1, best_n = 1;
    double least = INFINITY;
    for (int64_t pm = 1; pm <= (plan->way != BY_BLAS && plan->m <= MTH__SMALL ? 1 : pieces); pm++) {
        const int64_t pn = plan->way != BY_BLAS && plan->m > MTH__SMALL ? 1 : mth__ceil_div(pieces, pm);
        const double cost = (double)pm / (double)mth__max64(plan->m, 1) + (double)pn / (double)mth__max64(plan->n, 1) +
            (pm * pn < pieces ? 1e6 : 0);
        if (cost < least) {
            least = cost;
            best_m = pm;
            best_n = pn;
        }
    }
    plan->block_m = mth__max64(16, mth__ceil_div(mth__ceil_div(plan->m, best_m), 16) * 16);
    plan->block_n = mth__max64(64, mth__ceil_div(mth__ceil_div(plan->n, best_n), 64) * 64);
    plan->blocks_m = blocks_of(plan->m, plan->block_m);
    plan->blocks_n = blocks_of(plan->n, plan->block_n);
    plan->most_m = mth__max64(plan->block_m, plan->m - (plan->blocks_m - 1) * plan->block_m);
    plan->most_n = mth__max64(plan->block_n, plan->n - (plan->blocks_n - 1) * plan->block_n);
    plan->batch_chunks = (int)mth__max64(1, mth__min64(plan->batches, pieces == 1 ? chunks_wanted : plan->batches));
    plan->panel = mth__panel(plan->m, plan->n, plan->column[A], plan->row[B]);
    plan->in_panels = mth__needs_panels(plan->m, plan->n, plan->k, plan->panel, call->accumulates);
    plan->depth = mth__is_half(plan->dtype[A]) || mth__is_half(plan->dtype[B])
        ? mth__matrix_depth(plan->most_m, plan->most_n)
        : plan->k;
    call->thread_scratch = rooms_of(plan).bytes;
    call->phases = 0;
    double copy_ns = 0;
    int64_t rows = 1;
    for (int operand = A; operand <= C; operand++)
        if (copied_in(call, plan, operand)) {
            copy_ns += (double)mth__size(operand == C ? &call->out[0] : &call->in[operand]);
            rows = mth__max64(rows, operand == C ? plan->operand[operand].back.rows : plan->operand[operand].copy.rows);
        }
    if (copy_ns > 0) call->chunks[call->phases++] = mth__chunks(copy_ns, rows);
    if (plan->packed) call->chunks[call->phases++] = 1; /* at most MTH__SMALL rows */
    call->chunks[call->phases++] = (int)(plan->batch_chunks * plan->blocks_m * plan->blocks_n);
    if (plan->operand[C].copied)
        call->chunks[call->phases++] = mth__chunks((double)mth__size(&call->out[0]), plan->operand[C].copy.rows);
}

mth_status mth__prepare_contract(mth__arena *arena, mth__call *call) {
    contract_plan *plan = NEW(arena, contract_plan);
    for (int which = A; which <= C; which++)
        plan->dtype[which] = (which == C ? &call->out[0] : &call->in[which])->dtype;
    group batch = {0}, rows = {0}, columns = {0}, terms = {0};
    TRY(parse(call, &batch, &rows, &columns, &terms));
    collapse_empty(&batch);
    collapse_empty(&rows);
    collapse_empty(&columns);
    collapse_empty(&terms);
    sort_group(&batch, C);
    sort_group(&rows, C);
    sort_group(&columns, C);
    sort_group(&terms, A);
    int64_t none;
    if (!as_one(&rows, A, &plan->m, &plan->row[A]) || !as_one(&terms, A, &plan->k, &plan->column[A]) ||
        !unit(plan->row[A], plan->column[A], plan->m, plan->k))
        permute(call, plan, A, &batch, &rows, &terms);
    if (!as_one(&terms, B, &none, &plan->row[B]) || !as_one(&columns, B, &none, &plan->column[B]) ||
        !unit(plan->row[B], plan->column[B], plan->k, plan->n))
        permute(call, plan, B, &batch, &terms, &columns);
    if (!as_one(&rows, C, &none, &plan->row[C]) || !as_one(&columns, C, &none, &plan->column[C]) ||
        !unit(plan->row[C], plan->column[C], plan->m, plan->n))
        permute(call, plan, C, &batch, &rows, &columns);
    as_one(&rows, A, &plan->m, &plan->row[A]);
    as_one(&terms, A, &plan->k, &plan->column[A]);
    as_one(&terms, B, &plan->k, &plan->row[B]);
    as_one(&columns, B, &plan->n, &plan->column[B]);
    as_one(&rows, C, &plan->m, &plan->row[C]);
    as_one(&columns, C, &plan->n, &plan->column[C]);
    plan->batch.rank = batch.n;
    plan->batch.operands = OPERANDS;
    memcpy(plan->batch.size, batch.size, sizeof batch.size);
    memcpy(plan->batch.stride, batch.stride, sizeof batch.stride);
    mth__loop_merge(&plan->batch);
    plan->batches = 1;
    for (int d = 0; d < plan->batch.rank; d++) plan->batches *= plan->batch.size[d];
    plan->swapped = plan->n > 1 && plan->column[C] != 1;
    if (plan->swapped) { /* the result is written by columns: c' = b' a' */
        contract_plan unswapped = *plan;
        plan->m = unswapped.n;
        plan->n = unswapped.m;
        plan->row[A] = unswapped.column[B], plan->column[A] = unswapped.row[B];
        plan->row[B] = unswapped.column[A], plan->column[B] = unswapped.row[A];
        plan->row[C] = unswapped.column[C], plan->column[C] = unswapped.row[C];
        plan->dtype[A] = unswapped.dtype[B], plan->dtype[B] = unswapped.dtype[A];
        for (int d = 0; d < plan->batch.rank; d++) {
            plan->batch.stride[A][d] = unswapped.batch.stride[B][d];
            plan->batch.stride[B][d] = unswapped.batch.stride[A][d];
        }
    }
    const int64_t most[] = {
        plan->m, plan->n, plan->k, plan->row[A], plan->column[A], plan->row[B], plan->column[B], plan->row[C]};
    for (size_t i = 0; i < sizeof most / sizeof *most; i++)
        if (most[i] > INT32_MAX)
            return FAIL(MTH_ERROR_UNSUPPORTED,
                F("a matrix product with a dimension or row of %lld elements", (long long)most[i]),
                F("shard the operands so that it is below 2^31"));
    plan_way(call, plan);
    plan_chunks(call, plan);
    call->plan = plan;
    return NULL;
}

/* The call's operand A, B or C. */
static mth__operand operand(const mth__call *call, const contract_plan *plan, int which) {
    const mth__operand *x = which == C ? &call->out[0] : &call->in[which];
    return (mth__operand){
        .data = plan->operand[which].copied ? (char *)call->shared + plan->operand[which].at : x->data,
        .dtype = x->dtype};
}
static mth__matrix matrix(const mth__call *call, const contract_plan *plan, int which, int64_t at) {
    const mth__operand x = operand(call, plan, plan->swapped ? B - which : which);
    return mth__matrix_of(&x, at, plan->row[which], plan->column[which]);
}
/* Terms [k0, k0 + k) of a block of the result, at row m0 and column n0 of batch `at`. */
typedef struct {
    const int64_t *at;
    int64_t m0, n0, m, n, k0, k;
} result_block;
/* By mth__vec->product, some terms at a time where they are converted. */
static void multiply_unpacked(const mth__call *call, const contract_plan *plan, const result_block *x, bool add,
    float *out, int64_t ldc, float *tiles) {
    const mth__matrix a = matrix(call, plan, A, 0), b = matrix(call, plan, B, 0);
    const int64_t wide = plan->way == TURNED ? plan->m : plan->n; /* of the packed operand */
    const float *small =
        plan->packed ? (const float *)(const void *)((const char *)call->shared + plan->packed_at) : NULL;
    float *other = tiles + (mth__is_half(a.dtype) ? x->m * mth__min64(plan->depth, plan->k) : 0);
    for (int64_t done = 0, k; done < x->k; done += k) {
        const int64_t k0 = x->k0 + done;
        const bool sum = add || done;
        k = mth__min64(plan->depth, x->k - done);
        mth__matrix left = {.data = small ? small + k0 * wide : NULL, .row = 1, .column = wide},
                    right = {.data = small ? small + k0 * wide + x->n0 : NULL, .row = wide, .column = 1};
        if (!small || plan->way == DIRECT) left = mth__matrix_read(&a, x->m0, x->m, k0, k, tiles);
        if (!small || plan->way == TURNED) right = mth__matrix_read(&b, k0, k, x->n0, x->n, other);
        if (plan->way == DIRECT)
            mth__vec->product(x->m, x->n, k, left.data, left.row, left.column, right.data, right.row, out, ldc, sum);
        else
            mth__vec->product(
                x->n, x->m, k, right.data, right.column, right.row, left.data, left.column, out, ldc, sum);
    }
}
static void multiply_panel(const mth__call *call, const contract_plan *plan, const result_block *x, bool add,
    float *out, int64_t ldc, char *scratch) {
    const rooms room = rooms_of(plan);
    float *turned = (float *)(void *)(scratch + room.turned), *tiles = (float *)(void *)(scratch + room.tiles);
    if (plan->way == DIRECT) {
        multiply_unpacked(call, plan, x, add, out, ldc, tiles);
    } else if (plan->way == TURNED) {
        multiply_unpacked(call, plan, x, false, turned, x->m, tiles);
        const int64_t size[] = {x->m, x->n}, to[] = {ldc, 1}, from[] = {1, x->m};
        if (add)
            mth__box(MTH__BOX_ADD, MTH_FLOAT32, 2, size, out, to, turned, from);
        else
            mth__transpose_tiles(x->n, x->m, turned, x->m, out, ldc);
    } else {
        const mth__matrix a = matrix(call, plan, A, x->at[A] + x->m0 * plan->row[A] + x->k0 * plan->column[A]),
                          b = matrix(call, plan, B, x->at[B] + x->k0 * plan->row[B] + x->n0 * plan->column[B]);
        mth__matrix_product(x->m, x->n, x->k, &a, &b, add, out, ldc, tiles);
    }
}
static void multiply(const mth__call *call, const contract_plan *plan, int chunk, char *scratch) {
    const int64_t bn = chunk % plan->blocks_n, bm = chunk / plan->blocks_n % plan->blocks_m,
                  bb = chunk / (plan->blocks_n * plan->blocks_m);
    const mth__chunk_range range = mth__chunk_of(plan->batches, plan->batch_chunks, bb);
    const mth__operand y = operand(call, plan, C);
    int64_t at[OPERANDS] = {0};
    result_block x = {.at = at, .m0 = bm * plan->block_m, .n0 = bn * plan->block_n};
    x.m = bm == plan->blocks_m - 1 ? plan->m - x.m0 : plan->block_m;
    x.n = bn == plan->blocks_n - 1 ? plan->n - x.n0 : plan->block_n;
    const int64_t ld = plan->m > 1 ? mth__max64(plan->row[C], 1) : mth__max64(plan->n, 1);
    float *tile = (float *)(void *)(scratch + rooms_of(plan).result);
    for (int64_t i = range.lo; i < range.hi; i++) {
        mth__loop_at(&plan->batch, plan->batch.rank, i, at);
        const int64_t place = at[C] + x.m0 * ld + x.n0;
        int64_t ldc;
        float *out = mth__tile_rows(&y, place, x.m, x.n, ld, call->accumulates, tile, &ldc);
        if (plan->in_panels) {
            mth__panels sum;
            float *term = mth__panels_begin(&sum, x.m, x.n, scratch);
            for (x.k0 = 0; x.k0 < plan->k; x.k0 += x.k) {
                x.k = mth__min64(plan->panel, plan->k - x.k0);
                multiply_panel(call, plan, &x, false, term, x.n, scratch);
                mth__panels_add(&sum);
            }
            mth__panels_end(&sum, call->accumulates, out, ldc);
        } else {
            x.k = plan->k;
            multiply_panel(call, plan, &x, call->accumulates, out, ldc, scratch);
        }
        mth__tile_rows_store(&y, place, x.m, x.n, ld, out);
    }
}
/* The small operand from rows along k to [k, small]. */
static void pack(const mth__call *call, const contract_plan *plan, float *tile) {
    float *small = (float *)(void *)((char *)call->shared + plan->packed_at);
    const bool turned = plan->way == TURNED;
    const mth__matrix x = matrix(call, plan, turned ? A : B, 0);
    const int64_t wide = turned ? plan->m : plan->n;
    for (int64_t k0 = 0, k; k0 < plan->k; k0 += k) {
        k = mth__min64(plan->depth, plan->k - k0);
        const mth__matrix part =
            turned ? mth__matrix_read(&x, 0, wide, k0, k, tile) : mth__matrix_read(&x, k0, k, 0, wide, tile);
        mth__transpose_tiles(wide, k, part.data, turned ? part.row : part.column, small + k0 * wide, wide);
    }
}
void mth__run_contract(const mth__call *call, int phase, int chunk, void *scratch) {
    const contract_plan *plan = call->plan;
    const int copies = copied_in(call, plan, A) || copied_in(call, plan, B) || copied_in(call, plan, C),
              product = copies + plan->packed;
    if (phase == product) {
        multiply(call, plan, chunk, scratch);
        return;
    }
    if (phase == copies && plan->packed) {
        pack(call, plan, (float *)(void *)((char *)scratch + rooms_of(plan).tiles));
        return;
    }
    for (int which = A; which <= C; which++) {
        const permuted *moved = &plan->operand[which];
        const bool back = which == C && phase < product;
        if (back ? !copied_in(call, plan, C) : !moved->copied || (phase < product) == (which == C)) continue;
        const mth__copy *copy = back ? &moved->back : &moved->copy;
        const mth__chunk_range range = mth__chunk_of(copy->rows, call->chunks[phase], chunk);
        void *room = (char *)call->shared + moved->at, *place = which == C ? call->out[0].data : call->in[which].data;
        mth__copy_run(copy, which == C && !back ? place : room, which == C && !back ? room : place, range.lo, range.hi);
    }
}
