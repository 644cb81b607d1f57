/* contract: an einsum of two operands as matrix products of OpenBLAS. The letters fall in four groups: batch (in both
 * operands and the result), m (first, result), n (second, result), k (both operands). Where the letters of a group lie
 * in memory as one dimension does, BLAS reads the operands in place, transposed or not; an operand where they don't is
 * first copied to [batch, rows, columns]. */
#include "engine/native/kernel_util.h"

enum { A, B, C, OPERANDS };
enum { VECTOR_PANEL = 4096 }; /* in products with a vector, the chains of BLAS are longer */
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
    int64_t panel; /* terms of a sum that are left to float32 */
    mth_dtype dtype[OPERANDS];
    int64_t depth; /* of DIRECT and TURNED: terms for which operands of 16 bits are converted at a time */
    /* a block is computed in scratch: panels are added in double, and to the result */
    bool in_panels;
    int batch_chunks;
} contract_plan;

static void add_letter(group *g, int64_t size, int64_t a, int64_t b, int64_t c) {
    if (size == 1) return;
    g->size[g->n] = size;
    g->stride[A][g->n] = a;
    g->stride[B][g->n] = b;
    g->stride[C][g->n++] = c;
}
/* The letters in the order of descending stride of operand o. */
static void sort_group(group *g, int o) {
    for (int i = 1; i < g->n; i++)
        for (int j = i; j > 0 && g->stride[o][j] > g->stride[o][j - 1]; j--) {
            int64_t t = g->size[j];
            g->size[j] = g->size[j - 1];
            g->size[j - 1] = t;
            for (int q = 0; q < OPERANDS; q++) {
                t = g->stride[q][j];
                g->stride[q][j] = g->stride[q][j - 1];
                g->stride[q][j - 1] = t;
            }
        }
}
/* Whether operand o has the group as one dimension; its stride and the size. */
static bool as_one(const group *g, int o, int64_t *size, int64_t *stride) {
    *size = 1;
    *stride = g->n ? g->stride[o][g->n - 1] : 0;
    for (int i = g->n - 1; i >= 0; i--) {
        if (g->stride[o][i] != *stride * *size) return false;
        *size *= g->size[i];
    }
    return true;
}
/* Operand o as [batch, rows, columns], dense, with the letters of the groups in their order. */
static void permute(mth__call *c, contract_plan *p, int o, group *batch, group *rows, group *columns) {
    permuted *x = &p->operand[o];
    group *groups[3] = {batch, rows, columns};
    mth__loop *l = &x->copy.loop;
    int64_t dense = 1;
    x->copied = true;
    for (int g = 0; g < 3; g++)
        for (int i = 0; i < groups[g]->n; i++, l->rank++) {
            l->size[l->rank] = groups[g]->size[i];
            l->stride[1][l->rank] = groups[g]->stride[o][i];
        }
    for (int d = l->rank - 1; d >= 0; dense *= l->size[d--]) l->stride[0][d] = dense;
    for (int g = 0, d = 0; g < 3; g++)
        for (int i = 0; i < groups[g]->n; i++, d++) groups[g]->stride[o][i] = l->stride[0][d];
    if (o == C) /* from the scratch to the result */
        for (int d = 0; d < l->rank; d++) {
            const int64_t t = l->stride[0][d];
            l->stride[0][d] = l->stride[1][d];
            l->stride[1][d] = t;
        }
    x->back = x->copy; /* what is in the result's place, for its product to be added to */
    for (int d = 0; o == C && d < l->rank; d++) {
        x->back.loop.stride[0][d] = l->stride[1][d];
        x->back.loop.stride[1][d] = l->stride[0][d];
    }
    mth__copy_plan(&x->copy, p->dtype[o]);
    mth__copy_plan(&x->back, p->dtype[o]);
    x->at = c->call_scratch;
    c->call_scratch += ((size_t)dense * mth_dtype_size(p->dtype[o]) + 63) & ~(size_t)63;
}
/* A group without elements is one dimension of size 0, whatever the strides of its letters say. */
static void collapse_empty(group *g) {
    for (int i = 0; i < g->n; i++)
        if (!g->size[i]) {
            *g = (group){.n = 1, .stride = {{1}, {1}, {1}}};
            return;
        }
}
static bool unit(int64_t row, int64_t column, int64_t rows, int64_t columns) {
    return row == 1 || column == 1 || rows == 1 || columns == 1;
}

static mth_status parse(const mth__call *c, group *batch, group *m, group *n, group *k) {
    const char *text[OPERANDS];
    int rank[OPERANDS];
    int64_t stride[OPERANDS][MTH__RANK], of[OPERANDS], size = 0;
    const mth__operand *operand[OPERANDS] = {&c->in[0], &c->in[1], &c->out[0]};
    const char *comma = c->attrs->spec ? strchr(c->attrs->spec, ',') : NULL,
               *arrow = comma ? strstr(comma, "->") : NULL;
    if (!arrow) return INTERNAL("contract: spec \"%s\"", c->attrs->spec ? c->attrs->spec : "");
    text[A] = c->attrs->spec;
    text[B] = comma + 1;
    text[C] = arrow + 2;
    rank[A] = (int)(comma - text[A]);
    rank[B] = (int)(arrow - text[B]);
    rank[C] = (int)strlen(text[C]);
    for (int o = 0; o < OPERANDS; o++) {
        if (rank[o] != operand[o]->shape.rank)
            return INTERNAL("contract %s: operand %d has %d dimensions", c->attrs->spec, o, operand[o]->shape.rank);
        mth__shape_strides(operand[o]->shape, stride[o]);
    }
    for (int first = 0; first < OPERANDS; first++)
        for (int i = 0; i < rank[first]; i++) {
            const char letter = text[first][i];
            unsigned in = 0;
            for (int o = 0; o < OPERANDS; o++) {
                const char *at = memchr(text[o], letter, (size_t)rank[o]);
                of[o] = 0;
                if (!at) continue;
                const int64_t here = operand[o]->shape.dim[at - text[o]];
                if (in && here != size)
                    return INTERNAL("contract %s: letter %c has sizes %lld and %lld", c->attrs->spec, letter,
                        (long long)size, (long long)here);
                size = here;
                in |= 1u << o;
                of[o] = stride[o][at - text[o]];
            }
            if (in & ((1u << first) - 1)) continue; /* seen with an earlier operand */
            group *g = in == 7 ? batch : in == 5 ? m : in == 6 ? n : in == 3 ? k : NULL;
            if (!g) return INTERNAL("contract %s: letter %c stands alone", c->attrs->spec, letter);
            add_letter(g, size, of[A], of[B], of[C]);
        }
    return NULL;
}

/* Which code: packing both operands, as BLAS does, doesn't pay where one dimension of the result is small. */
static void plan_way(mth__call *c, contract_plan *p) {
    const bool ta = p->k > 1 && p->column[A] != 1, tb = p->n > 1 && p->column[B] != 1;
    for (int o = 0; o < OPERANDS; o++)
        if (p->operand[o].copied) return;
    if (!mth__vec->product || p->batches != 1 || p->m < 2 || p->n < 2 || !p->k ||
        (p->m > MTH__SMALL && p->n > MTH__SMALL))
        return;
    if (p->m <= MTH__SMALL) {
        p->way = tb ? TURNED : DIRECT;
        p->packed = tb && !ta;
    } else if (!ta) {
        p->way = DIRECT;
        p->packed = tb;
    }
    if (!p->packed) return;
    p->packed_at = c->call_scratch;
    c->call_scratch += (size_t)(p->k * (p->way == TURNED ? p->m : p->n)) * sizeof(float);
}
/* Whether an operand is copied before the product: of the result what it is added to. */
static bool copied_in(const mth__call *c, const contract_plan *p, int o) {
    return p->operand[o].copied && (o != C || c->accumulates);
}
/* What a chunk has in its scratch; in bytes from the beginning. */
typedef struct {
    size_t panels, turned, result, tiles, bytes;
} rooms;
static rooms rooms_of(const contract_plan *p) {
    rooms at = {0};
    size_t end = p->in_panels ? (mth__panels_bytes(p->block_m, p->block_n) + 63) & ~(size_t)63 : 0;
    at.turned = end;
    end += p->way == TURNED ? (size_t)(p->block_n * p->m) * sizeof(float) : 0;
    at.result = end;
    end += mth__is_half(p->dtype[C]) ? (size_t)(p->block_m * p->block_n) * sizeof(float) : 0;
    at.tiles = end;
    at.bytes = end + mth__matrix_bytes(p->dtype[A], p->dtype[B], p->block_m, p->block_n, p->k);
    return at;
}
/* Blocks of the result: as square as may be, since a block of m x n packs (m + n) k elements of the operands again. */
static void plan_chunks(mth__call *c, contract_plan *p) {
    const double rate = p->m == 1 || p->n == 1 ? 12 : p->way != BY_BLAS ? 130 : p->m < 64 || p->n < 64 ? 80 : 150;
    const double ns = 2.0 * (double)p->batches * (double)p->m * (double)p->n * (double)mth__max64(p->k, 1) / rate;
    /* Long chunks repack less (512 x 512 of k = 2048 runs 8% faster than 256 x 256): as many as give each thread eight
       among the devices that multiply at the same time; but none above 20 ms, which is how long an interrupt waits. */
    const double count = c->threads ? fmax(1, 8.0 * c->threads / c->peers) : 16;
    const double each = fmin(fmax(ns / count, 4e5), 2e7);
    const int64_t want = mth__max64(1, (int64_t)(ns / each)),
                  pieces = p->batches >= want ? 1 : mth__ceil_div(want, mth__max64(p->batches, 1));
    int64_t best_m = 1, best_n = 1;
    double least = INFINITY;
    for (int64_t pm = 1; pm <= (p->way != BY_BLAS && p->m <= MTH__SMALL ? 1 : pieces); pm++) {
        const int64_t pn = p->way != BY_BLAS && p->m > MTH__SMALL ? 1 : mth__ceil_div(pieces, pm);
        const double cost = (double)pm / (double)mth__max64(p->m, 1) + (double)pn / (double)mth__max64(p->n, 1) +
            (pm * pn < pieces ? 1e6 : 0);
        if (cost < least) {
            least = cost;
            best_m = pm;
            best_n = pn;
        }
    }
    p->block_m = mth__max64(16, mth__ceil_div(mth__ceil_div(p->m, best_m), 16) * 16);
    p->block_n = mth__max64(64, mth__ceil_div(mth__ceil_div(p->n, best_n), 64) * 64);
    p->blocks_m = mth__max64(1, mth__ceil_div(p->m, p->block_m));
    p->blocks_n = mth__max64(1, mth__ceil_div(p->n, p->block_n));
    p->batch_chunks = (int)mth__max64(1, mth__min64(p->batches, pieces == 1 ? want : p->batches));
    p->panel = p->m == 1 || p->n == 1 ? VECTOR_PANEL : MTH__PANEL;
    /* Of a vector BLAS adds term by term to what is there, and so rounds each at the size of the sum. */
    p->in_panels = p->k > p->panel || (c->accumulates && (p->m == 1 || p->n == 1));
    p->depth =
        mth__is_half(p->dtype[A]) || mth__is_half(p->dtype[B]) ? mth__matrix_depth(p->block_m, p->block_n) : p->k;
    c->thread_scratch = rooms_of(p).bytes;
    c->phases = 0;
    double copy_ns = 0;
    int64_t rows = 1;
    for (int o = A; o <= C; o++)
        if (copied_in(c, p, o)) {
            copy_ns += (double)mth__size(o == C ? &c->out[0] : &c->in[o]);
            rows = mth__max64(rows, o == C ? p->operand[o].back.rows : p->operand[o].copy.rows);
        }
    if (copy_ns > 0) c->chunks[c->phases++] = mth__chunks(copy_ns, rows);
    if (p->packed) c->chunks[c->phases++] = 1; /* at most MTH__SMALL rows */
    c->chunks[c->phases++] = (int)(p->batch_chunks * p->blocks_m * p->blocks_n);
    if (p->operand[C].copied)
        c->chunks[c->phases++] = mth__chunks((double)mth__size(&c->out[0]), p->operand[C].copy.rows);
}

mth_status mth__prepare_contract(mth__arena *arena, mth__call *c) {
    contract_plan *p = NEW(arena, contract_plan);
    for (int o = A; o <= C; o++) p->dtype[o] = (o == C ? &c->out[0] : &c->in[o])->dtype;
    group batch = {0}, m = {0}, n = {0}, k = {0};
    TRY(parse(c, &batch, &m, &n, &k));
    collapse_empty(&batch);
    collapse_empty(&m);
    collapse_empty(&n);
    collapse_empty(&k);
    sort_group(&batch, C);
    sort_group(&m, C);
    sort_group(&n, C);
    sort_group(&k, A);
    int64_t none;
    if (!as_one(&m, A, &p->m, &p->row[A]) || !as_one(&k, A, &p->k, &p->column[A]) ||
        !unit(p->row[A], p->column[A], p->m, p->k))
        permute(c, p, A, &batch, &m, &k);
    if (!as_one(&k, B, &none, &p->row[B]) || !as_one(&n, B, &none, &p->column[B]) ||
        !unit(p->row[B], p->column[B], p->k, p->n))
        permute(c, p, B, &batch, &k, &n);
    if (!as_one(&m, C, &none, &p->row[C]) || !as_one(&n, C, &none, &p->column[C]) ||
        !unit(p->row[C], p->column[C], p->m, p->n))
        permute(c, p, C, &batch, &m, &n);
    as_one(&m, A, &p->m, &p->row[A]);
    as_one(&k, A, &p->k, &p->column[A]);
    as_one(&k, B, &p->k, &p->row[B]);
    as_one(&n, B, &p->n, &p->column[B]);
    as_one(&m, C, &p->m, &p->row[C]);
    as_one(&n, C, &p->n, &p->column[C]);
    p->batch.rank = batch.n;
    p->batch.operands = OPERANDS;
    memcpy(p->batch.size, batch.size, sizeof batch.size);
    memcpy(p->batch.stride, batch.stride, sizeof batch.stride);
    mth__loop_merge(&p->batch);
    p->batches = 1;
    for (int d = 0; d < p->batch.rank; d++) p->batches *= p->batch.size[d];
    p->swapped = p->n > 1 && p->column[C] != 1;
    if (p->swapped) { /* the result is written by columns: c' = b' a' */
        contract_plan t = *p;
        p->m = t.n;
        p->n = t.m;
        p->row[A] = t.column[B], p->column[A] = t.row[B];
        p->row[B] = t.column[A], p->column[B] = t.row[A];
        p->row[C] = t.column[C], p->column[C] = t.row[C];
        p->dtype[A] = t.dtype[B], p->dtype[B] = t.dtype[A];
        for (int d = 0; d < p->batch.rank; d++) {
            p->batch.stride[A][d] = t.batch.stride[B][d];
            p->batch.stride[B][d] = t.batch.stride[A][d];
        }
    }
    const int64_t most[] = {p->m, p->n, p->k, p->row[A], p->column[A], p->row[B], p->column[B], p->row[C]};
    for (size_t i = 0; i < sizeof most / sizeof *most; i++)
        if (most[i] > INT32_MAX)
            return FAIL(MTH_ERROR_UNSUPPORTED,
                F("a matrix product with a dimension or row of %lld elements", (long long)most[i]),
                F("shard the operands so that it is below 2^31"));
    plan_way(c, p);
    plan_chunks(c, p);
    c->plan = p;
    return NULL;
}

/* Operand o of the call. */
static mth__operand operand(const mth__call *c, const contract_plan *p, int o) {
    const mth__operand *x = o == C ? &c->out[0] : &c->in[o];
    return (mth__operand){
        .data = p->operand[o].copied ? (char *)c->shared + p->operand[o].at : x->data, .dtype = x->dtype};
}
static mth__matrix matrix(const mth__call *c, const contract_plan *p, int o, int64_t at) {
    const mth__operand x = operand(c, p, p->swapped ? B - o : o);
    return mth__matrix_of(&x, at, p->row[o], p->column[o]);
}
/* Terms [k0, k0 + k) of a block of the result, at row m0 and column n0 of batch `at`. */
typedef struct {
    const int64_t *at;
    int64_t m0, n0, m, n, k0, k;
} result_block;
/* By mth__vec->product, some terms at a time where they are converted. */
static void multiply_unpacked(const mth__call *c, const contract_plan *p, const result_block *x, bool add, float *out,
    int64_t ldc, float *tiles) {
    const mth__matrix a = matrix(c, p, A, 0), b = matrix(c, p, B, 0);
    const int64_t wide = p->way == TURNED ? p->m : p->n; /* of the packed operand */
    const float *small = p->packed ? (const float *)(const void *)((const char *)c->shared + p->packed_at) : NULL;
    float *other = tiles + (mth__is_half(a.dtype) ? x->m * mth__min64(p->depth, p->k) : 0);
    for (int64_t done = 0, k; done < x->k; done += k) {
        const int64_t k0 = x->k0 + done;
        const bool sum = add || done;
        k = mth__min64(p->depth, x->k - done);
        mth__matrix left = {.data = small ? small + k0 * wide : NULL, .row = 1, .column = wide},
                    right = {.data = small ? small + k0 * wide + x->n0 : NULL, .row = wide, .column = 1};
        if (!small || p->way == DIRECT) left = mth__matrix_read(&a, x->m0, x->m, k0, k, tiles);
        if (!small || p->way == TURNED) right = mth__matrix_read(&b, k0, k, x->n0, x->n, other);
        if (p->way == DIRECT)
            mth__vec->product(x->m, x->n, k, left.data, left.row, left.column, right.data, right.row, out, ldc, sum);
        else
            mth__vec->product(
                x->n, x->m, k, right.data, right.column, right.row, left.data, left.column, out, ldc, sum);
    }
}
static void multiply_panel(const mth__call *c, const contract_plan *p, const result_block *x, bool add, float *out,
    int64_t ldc, char *scratch) {
    const rooms room = rooms_of(p);
    float *turned = (float *)(void *)(scratch + room.turned), *tiles = (float *)(void *)(scratch + room.tiles);
    if (p->way == DIRECT) {
        multiply_unpacked(c, p, x, add, out, ldc, tiles);
    } else if (p->way == TURNED) {
        multiply_unpacked(c, p, x, false, turned, x->m, tiles);
        const int64_t size[] = {x->m, x->n}, to[] = {ldc, 1}, from[] = {1, x->m};
        if (add)
            mth__box(MTH__BOX_ADD, MTH_FLOAT32, 2, size, out, to, turned, from);
        else
            mth__transpose_tiles(x->n, x->m, turned, x->m, out, ldc);
    } else {
        const mth__matrix a = matrix(c, p, A, x->at[A] + x->m0 * p->row[A] + x->k0 * p->column[A]),
                          b = matrix(c, p, B, x->at[B] + x->k0 * p->row[B] + x->n0 * p->column[B]);
        mth__matrix_product(x->m, x->n, x->k, &a, &b, add, out, ldc, tiles);
    }
}
static void multiply(const mth__call *c, const contract_plan *p, int chunk, char *scratch) {
    const int64_t bn = chunk % p->blocks_n, bm = chunk / p->blocks_n % p->blocks_m,
                  bb = chunk / (p->blocks_n * p->blocks_m);
    const mth__chunk_range r = mth__chunk_of(p->batches, p->batch_chunks, bb);
    const mth__operand y = operand(c, p, C);
    int64_t at[OPERANDS] = {0};
    result_block x = {.at = at, .m0 = bm * p->block_m, .n0 = bn * p->block_n};
    x.m = mth__min64(p->block_m, p->m - x.m0);
    x.n = mth__min64(p->block_n, p->n - x.n0);
    const int64_t ld = p->m > 1 ? mth__max64(p->row[C], 1) : mth__max64(p->n, 1);
    float *tile = (float *)(void *)(scratch + rooms_of(p).result);
    for (int64_t i = r.lo; i < r.hi; i++) {
        mth__loop_at(&p->batch, p->batch.rank, i, at);
        const int64_t place = at[C] + x.m0 * ld + x.n0;
        int64_t ldc;
        float *out = mth__tile_rows(&y, place, x.m, x.n, ld, c->accumulates, tile, &ldc);
        if (p->in_panels) {
            mth__panels sum;
            float *term = mth__panels_begin(&sum, x.m, x.n, scratch);
            for (x.k0 = 0; x.k0 < p->k; x.k0 += x.k) {
                x.k = mth__min64(p->panel, p->k - x.k0);
                multiply_panel(c, p, &x, false, term, x.n, scratch);
                mth__panels_add(&sum);
            }
            mth__panels_end(&sum, c->accumulates, out, ldc);
        } else {
            x.k = p->k;
            multiply_panel(c, p, &x, c->accumulates, out, ldc, scratch);
        }
        mth__tile_rows_store(&y, place, x.m, x.n, ld, out);
    }
}
/* The small operand from rows along k to [k, small]. */
static void pack(const mth__call *c, const contract_plan *p, float *tile) {
    float *small = (float *)(void *)((char *)c->shared + p->packed_at);
    const bool turned = p->way == TURNED;
    const mth__matrix x = matrix(c, p, turned ? A : B, 0);
    const int64_t wide = turned ? p->m : p->n;
    for (int64_t k0 = 0, k; k0 < p->k; k0 += k) {
        k = mth__min64(p->depth, p->k - k0);
        const mth__matrix part =
            turned ? mth__matrix_read(&x, 0, wide, k0, k, tile) : mth__matrix_read(&x, k0, k, 0, wide, tile);
        mth__transpose_tiles(wide, k, part.data, turned ? part.row : part.column, small + k0 * wide, wide);
    }
}
void mth__run_contract(const mth__call *c, int phase, int chunk, void *scratch) {
    const contract_plan *p = c->plan;
    const int copies = copied_in(c, p, A) || copied_in(c, p, B) || copied_in(c, p, C), product = copies + p->packed;
    if (phase == product) {
        multiply(c, p, chunk, scratch);
        return;
    }
    if (phase == copies && p->packed) {
        pack(c, p, (float *)(void *)((char *)scratch + rooms_of(p).tiles));
        return;
    }
    for (int o = A; o <= C; o++) {
        const permuted *x = &p->operand[o];
        const bool back = o == C && phase < product;
        if (back ? !copied_in(c, p, C) : !x->copied || (phase < product) == (o == C)) continue;
        const mth__copy *copy = back ? &x->back : &x->copy;
        const mth__chunk_range r = mth__chunk_of(copy->rows, c->chunks[phase], chunk);
        void *room = (char *)c->shared + x->at, *place = o == C ? c->out[0].data : c->in[o].data;
        mth__copy_run(copy, o == C && !back ? place : room, o == C && !back ? room : place, r.lo, r.hi);
    }
}
