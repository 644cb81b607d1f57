/* Strided boxes between the memories of two devices. At load dimensions that both sides
 * hold without a gap are merged, large boxes cut into parts of MTH__PIECE_BYTES, small ones gathered into one chunk. */
#include "engine/native/native.h"
#include <string.h>

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

mth__box_move mth__move_of(const mth__strided_copy *copy, mth_dtype dtype) {
    const int64_t bytes = (int64_t)mth_dtype_size(dtype);
    mth__box_move m = {.rank = copy->rank,
        .first = MTH__BOX_COPY,
        .dtype = dtype,
        .sources = 1,
        .to = copy->to * bytes,
        .from = copy->from * bytes};
    for (int d = 0; d < copy->rank; d++) {
        m.size[d] = copy->size[d];
        m.dst_stride[d] = copy->to_stride[d];
        m.src_stride[d] = copy->from_stride[d];
    }
    return m;
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
        m->rows = mth__ceil_div(m->size[0], parts);
        if (m->rank == 1) m->rows = (m->rows + 15) / 16 * 16; /* whole cache lines */
        m->parts = (int32_t)mth__ceil_div(m->size[0], m->rows);
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
    if (m->sources > 1 && mth__is_half(m->dtype)) {
        mth__box_combine(m->op, m->dtype, m->rank, size, dst, m->dst_stride, m->first != MTH__BOX_COPY, m->sources,
            m->src, m->from + from * m->src_stride[0] * bytes, m->src_stride);
        return;
    }
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
    mth__strided_copy both;
    if (!mth__area_intersect(&g->from[r], &g->to[x->rank], &box)) return;
    /* what two parts have in common lies in both */
    mth__area_copy(&box, &g->to[x->rank], &g->from[r], &both);
    mth__box_move m = mth__move_of(&both, x->dtype);
    m.src = &g->memory[MTH__MOVE_OPERAND][r];
    merge(&m);
    m.rows = mth__ceil_div(m.size[0], x->parts);
    if (part * m.rows < m.size[0]) run_part(&m, g->memory[MTH__MOVE_RESULT][x->rank], part);
}
void mth__exchange_run(const mth__exchange *x, int chunk) {
    const int first = x->parts > 1 ? chunk / x->parts : chunk * x->boxes, end = first + (x->parts > 1 ? 1 : x->boxes);
    for (int r = first; r < end && r < x->group->n; r++) run_exchanged(x, r, x->parts > 1 ? chunk % x->parts : 0);
}
