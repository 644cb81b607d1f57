/* Copies between spaces: the host's pool is memory like any other here, and so a copy is a move of one contiguous box
 * from the operand to the result, in chunks that idle threads take. */
#include "engine/native/native.h"

void mth__load_copy(mth__loader *loader, int instruction_number) {
    const mth__instr *instruction = &loader->role->instr.at[instruction_number];
    const mth__program_value *from = &loader->role->value.at[instruction->in[0]];
    const int64_t elements = mth__shape_size(from->local);
    void **slot = NEW_ARRAY(loader->arena, void *, 2);
    mth__moves *moves = NEW(loader->arena, mth__moves);
    mth__move_list list = {0};
    mth__load_bind(loader, loader->device, instruction->in[0], 0, &slot[0]);
    mth__load_bind(loader, loader->device, instruction->out[0], 0, &slot[1]);
    if (elements)
        PUSH(loader->arena, list.move,
            ((mth__box_move){.rank = 1,
                .first = MTH__BOX_COPY,
                .dtype = from->dtype,
                .sources = 1,
                .size = {elements},
                .dst_stride = {1},
                .src_stride = {1},
                .src = &slot[0]}));
    *moves = mth__moves_plan(loader->arena, &list);
    mth__task *task = mth__load_task(loader, instruction->stream, MTH__TASK_MOVES, instruction_number);
    task->work.moves.all = moves;
    task->work.moves.dst = &slot[1];
    task->phases = 1;
    task->chunks[0] = moves->chunks;
    if (mth__is_started(instruction)) loader->copied[instruction->out[0]] = loader->tasks[instruction->stream];
}
