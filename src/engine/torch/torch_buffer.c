/* Buffers: storage of torch's own allocator, so that it can leave as a tensor without a copy, or memory of the
   caller's. A buffer keeps its engine alive. */
#include "engine/torch/torch_run.h"
#include <string.h>

void mth__torch_close(mth__engine *engine) {
    if (!engine || atomic_fetch_sub(&engine->references, 1) > 1) return;
    mth__crew_free(engine->crew);
    mth__free(engine);
}

void mth__torch_free(const mth__torch_library *library, mth__tensor *tensor) {
    if (*tensor) library->aoti_torch_delete_tensor_object(*tensor);
    *tensor = NULL;
}

mth_status mth__torch_dense(const mth__torch_library *library, mth__tensor of, int64_t offset, mth_dtype dtype,
    mth__shape shape, mth__tensor *out) {
    int64_t stride[MTH__RANK];
    mth__shape_strides(shape, stride);
    TORCH_TRY(library, "a view",
        library->aoti_torch__alloc_from_pool(of, offset, library->dtype[dtype], shape.rank, shape.dim, stride, out));
    return NULL;
}

static mth_status make(mth__engine *engine, mth__tensor tensor, int64_t bytes, mth__buffer **out) {
    mth__buffer *buffer = mth__calloc(1, sizeof *buffer);
    if (!buffer) {
        mth__torch_free(engine->library, &tensor);
        return mth__lacks_memory("an array", bytes);
    }
    atomic_init(&buffer->references, 1);
    atomic_fetch_add(&engine->references, 1);
    buffer->engine = engine;
    buffer->tensor = tensor;
    buffer->bytes = bytes;
    *out = buffer;
    return NULL;
}

mth_status mth__torch_buffer_new(mth__engine *engine, int device, int64_t bytes, mth__buffer **out) {
    (void)device;
    const int64_t size = bytes > MTH__ALIGNMENT ? bytes : MTH__ALIGNMENT, stride = 1;
    const mth__torch_library *library = engine->library;
    mth__tensor tensor;
    if (library->aoti_torch_empty_strided(
            1, &size, &stride, library->aoti_torch_dtype_uint8(), library->cpu, -1, &tensor))
        return mth__lacks_memory("an array", bytes);
    return make(engine, tensor, bytes, out);
}

mth_status mth__torch_buffer_take(mth__engine *engine, mth__tensor tensor, int64_t bytes, mth__buffer **out) {
    return make(engine, tensor, bytes, out);
}

mth_status mth__torch_buffer_borrow(mth__engine *engine, int device, const void *data, int64_t bytes,
    void (*release)(void *), void *context, mth__buffer **out) {
    (void)device;
    const int64_t stride = 1;
    const mth__torch_library *library = engine->library;
    mth__tensor tensor;
    TORCH_TRY(library, "a tensor over the caller's memory",
        library->aoti_torch_create_tensor_from_blob(
            (void *)data, 1, &bytes, &stride, 0, library->aoti_torch_dtype_uint8(), library->cpu, -1, &tensor));
    TRY(make(engine, tensor, bytes, out));
    (*out)->release = release;
    (*out)->context = context;
    return NULL;
}

void mth__torch_buffer_retain(mth__buffer *buffer) { atomic_fetch_add(&buffer->references, 1); }

void mth__torch_buffer_release(mth__buffer *buffer) {
    if (!buffer || atomic_fetch_sub(&buffer->references, 1) > 1) return;
    mth__engine *engine = buffer->engine;
    mth__torch_free(engine->library, &buffer->tensor);
    if (buffer->release) buffer->release(buffer->context);
    mth__free(buffer);
    mth__torch_close(engine);
}

/* torch has no address for a tensor without elements. */
void *mth__torch_buffer_host(mth__buffer *buffer) {
    void *data = NULL;
    if (buffer->engine->library->aoti_torch_get_data_ptr(buffer->tensor, &data)) return NULL;
    return data || buffer->bytes ? data : buffer;
}

mth_status mth__torch_buffer_write(mth__buffer *buffer, int64_t offset, const void *data, int64_t bytes) {
    if (bytes) memcpy((char *)mth__torch_buffer_host(buffer) + offset, data, (size_t)bytes);
    return NULL;
}

mth_status mth__torch_buffer_read(mth__buffer *buffer, int64_t offset, void *data, int64_t bytes) {
    if (bytes) memcpy(data, (const char *)mth__torch_buffer_host(buffer) + offset, (size_t)bytes);
    return NULL;
}
