/* Strided boxes between the memories of two devices. At load, dimensions that both sides hold
 * without a gap are merged, large boxes are cut into parts of MTH__PIECE_BYTES, and small ones go into one chunk. */
#include "engine/native/native.h"
#include <string.h>

/* Drops dimensions of size 1, merges an outer dimension into the inner one where both sides are without a gap. */
static void merge(mth__box_move *move) {
    int n = 0;
    for (int d = 0; d < move->rank; d++) {
        if (move->size[d] == 1) continue;
        if (n && move->dst_stride[n - 1] == move->dst_stride[d] * move->size[d] &&
            move->src_stride[n - 1] == move->src_stride[d] * move->size[d]) {
            move->size[n - 1] *= move->size[d];
            move->dst_stride[n - 1] = move->dst_stride[d];
            move->src_stride[n - 1] = move->src_stride[d];
            continue;
        }
        move->size[n] = move->size[d];
        move->dst_stride[n] = move->dst_stride[d];
        move->src_stride[n++] = move->src_stride[d];
    }
    if (!n) {
        move->size[0] = move->dst_stride[0] = move->src_stride[0] = 1;
        n = 1;
    }
    move->rank = (int8_t)n;
}

mth__box_move mth__move_of(const mth__strided_copy *copy, mth_dtype dtype) {
    const int64_t bytes = (int64_t)mth_dtype_size(dtype);
    mth__box_move move = {.rank = copy->rank,
        .first = MTH__BOX_COPY,
        .dtype = dtype,
        .sources = 1,
        .to = copy->to * bytes,
        .from = copy->from * bytes};
    for (int d = 0; d < copy->rank; d++) {
        move.size[d] = copy->size[d];
        move.dst_stride[d] = copy->to_stride[d];
        move.src_stride[d] = copy->from_stride[d];
    }
    return move;
}

static void *copy(mth__arena *arena, const void *from, size_t n, size_t size) {
    void *to = mth__alloc_array(arena, n, size);
    return n ? memcpy(to, from, n * size) : to;
}
mth__moves mth__moves_plan(mth__arena *arena, mth__move_list *list) {
    int64_t gathered = MTH__PIECE_BYTES; /* bytes of the last chunk, where it may grow */
    list->chunk.n = 0;
    for (size_t i = 0; i < list->move.n; i++) {
        mth__box_move *move = &list->move.at[i];
        merge(move);
        int64_t elements = 1, size = (int64_t)mth_dtype_size(move->dtype);
        for (int d = 0; d < move->rank; d++) elements *= move->size[d];
        int64_t bytes = elements * size, parts = bytes / MTH__PIECE_BYTES;
        parts = parts > move->size[0]       ? move->size[0]
            : parts < 1                     ? 1
            : parts > MTH__CHUNKS_MOST / 64 ? MTH__CHUNKS_MOST / 64
                                            : parts;
        move->rows = mth__ceil_div(move->size[0], parts);
        if (move->rank == 1) move->rows = (move->rows + 15) / 16 * 16; /* whole cache lines */
        move->parts = (int32_t)mth__ceil_div(move->size[0], move->rows);
        for (int part = 0; move->parts > 1 && part < move->parts; part++)
            PUSH(arena, list->chunk, (mth__move_chunk){(int32_t)i, 1, part});
        if (move->parts > 1)
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

static void run_part(const mth__box_move *move, void *to, int part) {
    int64_t size[MTH__RANK], from = part * move->rows, bytes = (int64_t)mth_dtype_size(move->dtype);
    memcpy(size, move->size, sizeof size);
    size[0] = size[0] - from < move->rows ? size[0] - from : move->rows;
    char *dst = (char *)to + move->to + from * move->dst_stride[0] * bytes;
    if (move->sources > 1 && mth__is_half(move->dtype)) {
        mth__box_combine(move->op, move->dtype, move->rank, size, dst, move->dst_stride, move->first != MTH__BOX_COPY,
            move->sources, move->src, move->from + from * move->src_stride[0] * bytes, move->src_stride);
        return;
    }
    for (int source = 0; source < move->sources; source++) {
        const char *src = (const char *)move->src[source] + move->from + from * move->src_stride[0] * bytes;
        mth__box_op op = source ? move->op : move->first;
        if (op != MTH__BOX_COPY || src != dst)
            mth__box(op, move->dtype, move->rank, size, dst, move->dst_stride, src, move->src_stride);
    }
}
void mth__moves_run(const mth__moves *all, void *dst, int chunk) {
    mth__move_chunk at = all->chunk[chunk];
    for (int i = 0; i < at.count; i++) run_part(&all->move[at.move + i], dst, at.part);
}

static void run_exchanged(const mth__exchange *exchange, int rank, int part) {
    const mth__collective_group *group = exchange->group;
    mth__area box;
    mth__strided_copy both;
    if (!mth__area_intersect(&group->from[rank], &group->to[exchange->rank], &box)) return;
    /* what two parts have in common lies in both */
    mth__area_copy(&box, &group->to[exchange->rank], &group->from[rank], &both);
    mth__box_move move = mth__move_of(&both, exchange->dtype);
    move.src = &group->memory[MTH__MOVE_OPERAND][rank];
    merge(&move);
    move.rows = mth__ceil_div(move.size[0], exchange->parts);
    if (part * move.rows < move.size[0]) run_part(&move, group->memory[MTH__MOVE_RESULT][exchange->rank], part);
}
void mth__exchange_run(const mth__exchange *exchange, int chunk) {
    const int first = exchange->parts > 1 ? chunk / exchange->parts : chunk * exchange->boxes,
              end = first + (exchange->parts > 1 ? 1 : exchange->boxes);
    for (int rank = first; rank < end && rank < exchange->group->n; rank++)
        run_exchanged(exchange, rank, exchange->parts > 1 ? chunk % exchange->parts : 0);
}
