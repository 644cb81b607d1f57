/* Where values lie: in the slab, in the caller's buffers, in memory that torch has allocated for one of them, or in
   another value. Tensors of values are made when they are first asked for. */
#include "engine/torch/torch_run.h"

mth__tensor mth__torch_storage(mth__torch_device *device, int number, int64_t *offset) {
    const mth__program_value *value = &device->role->value.at[number];
    *offset = 0;
    if (value->storage == MTH__IN_ALIAS) {
        *offset = value->offset;
        number = value->index;
        value = &device->role->value.at[number];
    }
    switch (value->storage) {
    case MTH__IN_SLAB: *offset += value->offset; return device->slab;
    case MTH__IN_EXIT: return device->exit[value->index];
    case MTH__IN_ENTRY:
    case MTH__IN_OWN: return device->operand[number].tensor;
    case MTH__IN_LENT:
    case MTH__IN_ALIAS: break;
    }
    return NULL;
}

mth_status mth__torch_operand_of(mth__torch_device *device, int number, mth__torch_operand **out) {
    mth__torch_operand *operand = &device->operand[number];
    *out = operand;
    if (operand->tensor) return NULL;
    int64_t offset;
    mth__tensor storage = mth__torch_storage(device, number, &offset);
    if (!storage) return NULL; /* a result that torch allocates */
    return mth__torch_dense(
        device->executable->engine->library, storage, offset, operand->dtype, operand->shape, &operand->tensor);
}
