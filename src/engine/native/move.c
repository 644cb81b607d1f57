/* Strided boxes: regions of a global tensor seen in the local parts of two devices. At load dimensions that both sides
 * hold without a gap are merged, large boxes cut into parts of MTH__PIECE_BYTES, small ones gathered into one chunk. */
#include "engine/native/native.h"
#include <string.h>

mth__area mth__area_local(mth__shape global, const mth__sharding *sharding, int device) {
    mth__area r = {.rank = global.rank};
    int64_t start[MTH__RANK], step[MTH__RANK];
    mth__shape local = mth__local_shape(global, sharding, sharding->on->rank_of[device], start, step);
    for (int d = 0; d < global.rank; d++) r.dim[d] = (mth__extent){start[d], local.dim[d], step[d] ? step[d] : 1};
    return r;
}

int64_t mth__area_size(const mth__area *r) {
    int64_t n = 1;
    for (int d = 0; d < r->rank; d++) n *= r->dim[d].size;
    return n;
}

/* Of two extents one's step divides the other's: shards are contiguous, or cyclic over one axis. */
static bool extent_intersect(mth__extent a, mth__extent b, mth__extent *out) {
    mth__extent coarse = a.step >= b.step ? a : b, fine = a.step >= b.step ? b : a;
    if (!coarse.size || !fine.size || coarse.step % fine.step || (coarse.start - fine.start) % fine.step) return false;
    int64_t last = fine.start + (fine.size - 1) * fine.step;
    int64_t skip = coarse.start < fine.start ? (fine.start - coarse.start + coarse.step - 1) / coarse.step : 0;
    int64_t from = coarse.start + skip * coarse.step;
    if (from > last) return false;
    int64_t fit = (last - from) / coarse.step + 1, have = coarse.size - skip;
    *out = (mth__extent){from, fit < have ? fit : have, coarse.step};
    return out->size > 0;
}
bool mth__area_intersect(const mth__area *a, const mth__area *b, mth__area *out) {
    out->rank = a->rank;
    for (int d = 0; d < a->rank; d++)
        if (!extent_intersect(a->dim[d], b->dim[d], &out->dim[d])) return false;
    return true;
}

bool mth__area_view(const mth__area *part, const mth__area *box, mth__view *out) {
    int64_t stride = 1;
    out->offset = 0;
    for (int d = part->rank - 1; d >= 0; d--) {
        mth__extent p = part->dim[d], b = box->dim[d];
        int64_t away = b.start - p.start, step = b.size > 1 ? b.step : p.step;
        if (away % p.step || step % p.step || away < 0 || (away + (b.size - 1) * step) / p.step >= p.size) return false;
        out->offset += away / p.step * stride;
        out->stride[d] = step / p.step * stride;
        stride *= p.size;
    }
    return true;
}

/* Drops dimensions of size 1, merges an outer dimension into the inner one where both sides are without a gap. */
static void merge(mth__box_move *m) {
    int n = 0;
    for (int d = 0; d < m->rank; d++) {
        if (m->size[d] == 1) continue;
        if (n && m->dst_stride[n - 1] == m->dst_stride[d] * m->size[d] &&
            m->src_stride[n - 1] == m->src_stride[d] * m->size[d]) {
            m->size[n - 1] *= m->size[d];
            m->dst_stride[n - 1] = m->dst_stride[d];
            m->src_stride[n - 1] = m->src_stride[d];
            continue;
        }
        m->size[n] = m->size[d];
        m->dst_stride[n] = m->dst_stride[d];
        m->src_stride[n++] = m->src_stride[d];
    }
    if (!n) {
        m->size[0] = m->dst_stride[0] = m->src_stride[0] = 1;
        n = 1;
    }
    m->rank = (int8_t)n;
}

bool mth__move_box(
    mth__box_move *m, mth_dtype dtype, const mth__area *box, const mth__area *whole, const mth__area *part) {
    const int64_t bytes = (int64_t)mth_dtype_size(dtype);
    mth__view dst, src;
    if (!mth__area_view(whole, box, &dst) || !mth__area_view(part, box, &src)) return false;
    *m = (mth__box_move){.rank = (int8_t)box->rank,
        .first = MTH__BOX_COPY,
        .dtype = dtype,
        .sources = 1,
        .to = dst.offset * bytes,
        .from = src.offset * bytes};
    for (int d = 0; d < box->rank; d++) {
        m->size[d] = box->dim[d].size;
        m->dst_stride[d] = dst.stride[d];
        m->src_stride[d] = src.stride[d];
    }
    return true;
}

static void *copy(mth__arena *arena, const void *from, size_t n, size_t size) {
    void *to = mth__alloc_array(arena, n, size);
    return n ? memcpy(to, from, n * size) : to;
}
mth__moves mth__moves_plan(mth__arena *arena, mth__move_list *list) {
    int64_t gathered = MTH__PIECE_BYTES; /* bytes of the last chunk, where it may grow */
    list->chunk.n = 0;
    for (size_t i = 0; i < list->move.n; i++) {
        mth__box_move *m = &list->move.at[i];
        merge(m);
        int64_t elements = 1, size = (int64_t)mth_dtype_size(m->dtype);
        for (int d = 0; d < m->rank; d++) elements *= m->size[d];
        int64_t bytes = elements * size, parts = bytes / MTH__PIECE_BYTES;
        parts = parts > m->size[0]          ? m->size[0]
            : parts < 1                     ? 1
            : parts > MTH__CHUNKS_MOST / 64 ? MTH__CHUNKS_MOST / 64
                                            : parts;
        m->rows = (m->size[0] + parts - 1) / parts;
        if (m->rank == 1) m->rows = (m->rows + 15) / 16 * 16; /* whole cache lines */
        m->parts = (int32_t)((m->size[0] + m->rows - 1) / m->rows);
        for (int p = 0; m->parts > 1 && p < m->parts; p++)
            PUSH(arena, list->chunk, (mth__move_chunk){(int32_t)i, 1, p});
        if (m->parts > 1)
            gathered = MTH__PIECE_BYTES;
        else if (gathered + bytes <= MTH__PIECE_BYTES) {
            list->chunk.at[list->chunk.n - 1].count++;
            gathered += bytes;
        } else {
            PUSH(arena, list->chunk, (mth__move_chunk){(int32_t)i, 1, 0});
            gathered = bytes;
        }
    }
    return (mth__moves){copy(arena, list->move.at, list->move.n, sizeof *list->move.at),
        copy(arena, list->chunk.at, list->chunk.n, sizeof *list->chunk.at), (int)list->move.n, (int)list->chunk.n};
}

static void run_part(const mth__box_move *m, void *to, int part) {
    int64_t size[MTH__RANK], from = part * m->rows, bytes = (int64_t)mth_dtype_size(m->dtype);
    memcpy(size, m->size, sizeof size);
    size[0] = size[0] - from < m->rows ? size[0] - from : m->rows;
    char *dst = (char *)to + m->to + from * m->dst_stride[0] * bytes;
    for (int s = 0; s < m->sources; s++) {
        const char *src = (const char *)m->src[s] + m->from + from * m->src_stride[0] * bytes;
        mth__box_op op = s ? m->op : m->first;
        if (op != MTH__BOX_COPY || src != dst)
            mth__box(op, m->dtype, m->rank, size, dst, m->dst_stride, src, m->src_stride);
    }
}
void mth__moves_run(const mth__moves *all, void *dst, int chunk) {
    mth__move_chunk c = all->chunk[chunk];
    for (int i = 0; i < c.count; i++) run_part(&all->move[c.move + i], dst, c.part);
}

static void run_exchanged(const mth__exchange *x, int r, int part) {
    const mth__collective_group *g = x->group;
    mth__area box;
    mth__box_move m;
    if (!mth__area_intersect(&g->from[r], &g->to[x->rank], &box)) return;
    /* what two parts have in common lies in both */
    mth__move_box(&m, x->dtype, &box, &g->to[x->rank], &g->from[r]);
    m.src = &g->in[r];
    merge(&m);
    m.rows = (m.size[0] + x->parts - 1) / x->parts;
    if (part * m.rows < m.size[0]) run_part(&m, g->out[x->rank], part);
}
void mth__exchange_run(const mth__exchange *x, int chunk) {
    const int first = x->parts > 1 ? chunk / x->parts : chunk * x->boxes, end = first + (x->parts > 1 ? 1 : x->boxes);
    for (int r = first; r < end && r < x->group->n; r++) run_exchanged(x, r, x->parts > 1 ? chunk % x->parts : 0);
}
