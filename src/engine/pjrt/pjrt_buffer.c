#include "engine/pjrt/pjrt.h"
#include <string.h>

/* A view has the elements on one device, in the shape that a module takes. `memory` is the host's memory that a view of
   padded elements shares with the device, or NULL. `there` is the address at which the host sees the padded elements;
   NULL where it sees them nowhere, or where that is not known. */
typedef struct part_view {
    int device;
    mth_dtype dtype;
    mth__shape real, padded;
    PJRT_Buffer *buffer;
    void *memory, *there;
    struct part_view *next;
} part_view;

struct mth__buffer {
    atomic_int references;
    mth__engine *engine;
    int device;           /* where it was made; views may lie on others too */
    int64_t bytes;        /* of the real elements, row-major */
    pthread_mutex_t lock; /* of what follows */
    void *host;           /* NULL: only on a device */
    /* host is ours to free; somebody may hold its address: the buffer's reader, a view */
    bool owned, lent;
    void (*release)(void *);
    void *context;
    part_view *views;
};

static mth_status make(mth__engine *engine, int device, int64_t bytes, mth__buffer **out) {
    mth__buffer *buffer = mth__calloc(1, sizeof *buffer);
    if (!buffer) return mth__lacks_memory("an array", bytes);
    atomic_init(&buffer->references, 1);
    atomic_fetch_add(&engine->references, 1);
    buffer->engine = engine;
    buffer->device = device;
    buffer->bytes = bytes;
    pthread_mutex_init(&buffer->lock, NULL);
    *out = buffer;
    return NULL;
}

mth_status mth__pjrt_buffer_new(mth__engine *engine, int device, int64_t bytes, mth__buffer **out) {
    mth__buffer *buffer = NULL;
    TRY(make(engine, device, bytes, &buffer));
    buffer->host = mth__malloc(bytes > 64 ? (size_t)bytes : 64);
    buffer->owned = true;
    if (!buffer->host) {
        mth__pjrt_buffer_release(buffer);
        return mth__lacks_memory("an array", bytes);
    }
    *out = buffer;
    return NULL;
}

mth_status mth__pjrt_buffer_borrow(mth__engine *engine, int device, const void *data, int64_t bytes,
    void (*release)(void *), void *context, mth__buffer **out) {
    mth__buffer *buffer = NULL;
    TRY(make(engine, device, bytes, &buffer));
    buffer->host = (void *)data;
    buffer->release = release;
    buffer->context = context;
    *out = buffer;
    return NULL;
}

void mth__pjrt_buffer_retain(mth__buffer *buffer) { atomic_fetch_add(&buffer->references, 1); }

static void view_free(mth__engine *engine, part_view *view) {
    MTH__ARGS(PJRT_Buffer_Destroy, destroy);
    destroy.buffer = view->buffer;
    if (view->buffer && !mth__plugin_forked(engine->plugin))
        mth_error_free(
            mth__pjrt_status(engine->plugin, engine->plugin->api->PJRT_Buffer_Destroy(&destroy), "free a buffer"));
    mth__free(view->memory);
    mth__free(view);
}

void mth__pjrt_buffer_release(mth__buffer *buffer) {
    if (!buffer || atomic_fetch_sub(&buffer->references, 1) != 1) return;
    for (part_view *view = buffer->views, *next; view; view = next) {
        next = view->next;
        view_free(buffer->engine, view);
    }
    if (buffer->owned) mth__free(buffer->host);
    if (buffer->release) buffer->release(buffer->context);
    pthread_mutex_destroy(&buffer->lock);
    mth__pjrt_close(buffer->engine);
    mth__free(buffer);
}

/* ---------------------------------------------------------------- between real and padded */
/* Copies the box `size` between row-major memories of two shapes, from index 0 on. */
static void copy_box(
    mth_dtype dtype, mth__shape size, void *to, mth__shape to_shape, const void *from, mth__shape from_shape) {
    const size_t element = mth_dtype_size(dtype);
    if (mth__shape_size(size) == 0) return;
    int64_t to_stride[MTH__RANK], from_stride[MTH__RANK], at[MTH__RANK] = {0};
    mth__shape_strides(to_shape, to_stride);
    mth__shape_strides(from_shape, from_stride);
    const size_t row = size.rank ? (size_t)size.dim[size.rank - 1] * element : element;
    for (int d = size.rank - 2;;) {
        int64_t to_index = 0, from_index = 0;
        for (int k = 0; k < size.rank - 1; k++) {
            to_index += at[k] * to_stride[k];
            from_index += at[k] * from_stride[k];
        }
        memcpy((char *)to + (size_t)to_index * element, (const char *)from + (size_t)from_index * element, row);
        for (d = size.rank - 2; d >= 0 && ++at[d] == size.dim[d]; d--) at[d] = 0;
        if (d < 0) return;
    }
}

static int64_t bytes_of(mth_dtype dtype, mth__shape shape) {
    return mth__shape_size(shape) * (int64_t)mth_dtype_size(dtype);
}

mth_status mth__pjrt_await(mth__engine *engine, PJRT_Event *event, const char *doing) {
    if (!event) return NULL;
    MTH__ARGS(PJRT_Event_Await, await);
    await.event = event;
    mth_status status = mth__pjrt_status(engine->plugin, engine->plugin->api->PJRT_Event_Await(&await), doing);
    MTH__ARGS(PJRT_Event_Destroy, destroy);
    destroy.event = event;
    mth_error_free(mth__pjrt_status(engine->plugin, engine->plugin->api->PJRT_Event_Destroy(&destroy), doing));
    return status;
}

static mth_status upload(mth__engine *engine, part_view *view, const void *data) {
    MTH__ARGS(PJRT_Client_BufferFromHostBuffer, put);
    put.client = engine->client;
    put.data = data;
    put.type = (PJRT_Buffer_Type)mth__pjrt_type(view->dtype);
    put.dims = view->padded.dim;
    put.num_dims = (size_t)view->padded.rank;
    const bool shares = engine->host_visible && mth__shape_size(view->padded) > 0 && (uintptr_t)data % 64 == 0;
    put.host_buffer_semantics = shares ? PJRT_HostBufferSemantics_kImmutableZeroCopy
                                       : PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes;
    put.device = engine->device[view->device];
    TRY(mth__pjrt_status(
        engine->plugin, engine->plugin->api->PJRT_Client_BufferFromHostBuffer(&put), "copy an array to a device"));
    view->buffer = put.buffer;
    if (!shares) return mth__pjrt_await(engine, put.done_with_host_buffer, "copy an array to a device");
    MTH__ARGS(PJRT_Event_Destroy, destroy);
    /* The event comes when the view is freed. The memory lives longer than the view, so nobody waits for the event. */
    destroy.event = put.done_with_host_buffer;
    return put.done_with_host_buffer
        ? mth__pjrt_status(
              engine->plugin, engine->plugin->api->PJRT_Event_Destroy(&destroy), "copy an array to a device")
        : NULL;
}

/* ---------------------------------------------------------------- the host's side */
static mth_status device_pointer(mth__engine *engine, PJRT_Buffer *buffer, void **out) {
    MTH__ARGS(PJRT_Buffer_OpaqueDeviceMemoryDataPointer, get);
    get.buffer = buffer;
    TRY(mth__pjrt_status(
        engine->plugin, engine->plugin->api->PJRT_Buffer_OpaqueDeviceMemoryDataPointer(&get), "read an array"));
    *out = get.device_memory_ptr;
    return NULL;
}

static mth_status download(mth__engine *engine, PJRT_Buffer *buffer, void *to, int64_t bytes) {
    TRY(mth__plugin_check_process(engine->plugin));
    MTH__ARGS(PJRT_Buffer_ToHostBuffer, get);
    get.src = buffer;
    get.dst = to;
    get.dst_size = (size_t)bytes;
    TRY(mth__pjrt_status(engine->plugin, engine->plugin->api->PJRT_Buffer_ToHostBuffer(&get), "read an array"));
    return mth__pjrt_await(engine, get.event, "read an array");
}

/* Makes the host's copy from the first view. The caller holds the lock. */
static mth_status bring_home(mth__buffer *buffer) {
    mth__engine *engine = buffer->engine;
    part_view *view = buffer->views;
    const bool whole = mth__shape_equal(view->real, view->padded);
    void *there = view->there, *copy = NULL, *raw = NULL;
    if (there && whole) {
        buffer->host = there;
        return NULL;
    }
    mth_status status = NULL;
    copy = mth__malloc(buffer->bytes > 64 ? (size_t)buffer->bytes : 64);
    if (!copy) return mth__lacks_memory("an array", buffer->bytes);
    if (buffer->bytes && whole)
        status = download(engine, view->buffer, copy, buffer->bytes);
    else if (buffer->bytes) {
        int64_t bytes = bytes_of(view->dtype, view->padded);
        if (!there) {
            there = raw = mth__malloc((size_t)bytes);
            status = raw ? download(engine, view->buffer, raw, bytes) : mth__lacks_memory("an array", bytes);
        }
        if (!status) copy_box(view->dtype, view->real, copy, view->real, there, view->padded);
        mth__free(raw);
    }
    if (status) {
        mth__free(copy);
        return status;
    }
    buffer->host = copy;
    buffer->owned = true;
    return NULL;
}

/* In a child by fork the thread that held the buffer's lock may not exist, so that nobody would unlock it. There one
   lock serves all buffers. */
static pthread_mutex_t *host_lock(mth__buffer *buffer) {
    mth__plugin *plugin = buffer->engine->plugin;
    return plugin && mth__plugin_forked(plugin) ? mth__plugin_child_lock() : &buffer->lock;
}

static mth_status host_of(mth__buffer *buffer, bool lend, void **out) {
    pthread_mutex_t *lock = host_lock(buffer);
    pthread_mutex_lock(lock);
    mth_status status = buffer->host ? NULL : bring_home(buffer);
    buffer->lent |= lend;
    *out = buffer->host;
    pthread_mutex_unlock(lock);
    return status;
}

void *mth__pjrt_buffer_host(mth__buffer *buffer) {
    void *host;
    mth_error_free(host_of(buffer, true, &host)); /* the caller takes NULL for memory that is gone */
    return host;
}

void *mth__pjrt_buffer_fill(mth__buffer *buffer) { return buffer->host; }

mth_status mth__pjrt_buffer_write(mth__buffer *buffer, int64_t offset, const void *data, int64_t bytes) {
    void *host;
    TRY(host_of(buffer, true, &host));
    memcpy((char *)host + offset, data, (size_t)bytes);
    return NULL;
}

mth_status mth__pjrt_buffer_read(mth__buffer *buffer, int64_t offset, void *data, int64_t bytes) {
    void *host;
    TRY(host_of(buffer, true, &host));
    memcpy(data, (const char *)host + offset, (size_t)bytes);
    return NULL;
}

/* ---------------------------------------------------------------- the devices' side */
static mth_status new_view(
    mth__buffer *buffer, int device, mth_dtype dtype, mth__shape real, mth__shape padded, part_view **out) {
    part_view *view = mth__calloc(1, sizeof *view);
    if (!view) return mth__lacks_memory("an array", buffer->bytes);
    *view = (part_view){.device = device, .dtype = dtype, .real = real, .padded = padded};
    mth_status status = buffer->host ? NULL : bring_home(buffer);
    const void *data = buffer->host;
    if (!status && !mth__shape_equal(real, padded)) {
        int64_t bytes = bytes_of(dtype, padded);
        data = view->memory = mth__calloc_aligned(bytes > 64 ? (size_t)bytes : 64, 1);
        if (!view->memory)
            status = mth__lacks_memory("an array", bytes);
        else
            copy_box(dtype, real, view->memory, padded, buffer->host, real);
    } else
        buffer->lent = true;
    if (!status) status = upload(buffer->engine, view, data);
    if (!status && view->memory && !buffer->engine->host_visible) {
        mth__free(view->memory);
        view->memory = NULL;
    }
    if (status)
        view_free(buffer->engine, view);
    else
        *out = view;
    return status;
}

/* The host's copy is freed once a padded view has all of its elements. That view then becomes the first,
   since the host's copy is made again from the first view. */
static void insert(mth__buffer *buffer, part_view *view) {
    const bool instead = view->memory && buffer->owned && !buffer->lent;
    part_view **at = buffer->views && !instead ? &buffer->views->next : &buffer->views;
    view->there = view->memory;
    view->next = *at;
    *at = view;
    if (!instead) return;
    mth__free(buffer->host);
    buffer->host = NULL;
    buffer->owned = false;
}

mth_status mth__pjrt_view(
    mth__buffer *buffer, int device, mth_dtype dtype, mth__shape real, mth__shape padded, PJRT_Buffer **out) {
    mth_status status = NULL;
    pthread_mutex_lock(&buffer->lock);
    part_view *view = buffer->views;
    /* An array that was laid out anew has equal bytes in another shape, and needs a view of its own. */
    while (view &&
        (view->device != device || view->dtype != dtype || !mth__shape_equal(view->padded, padded) ||
            !mth__shape_equal(view->real, real)))
        view = view->next;
    if (!view) {
        status = new_view(buffer, device, dtype, real, padded, &view);
        if (!status) insert(buffer, view);
    }
    if (!status) *out = view->buffer;
    pthread_mutex_unlock(&buffer->lock);
    return status;
}

mth_status mth__pjrt_adopt(mth__engine *engine, int device, mth_dtype dtype, mth__shape real, mth__shape padded,
    PJRT_Buffer *buffer, mth__buffer **out) {
    mth__buffer *made = NULL;
    part_view *view = mth__calloc(1, sizeof *view);
    mth_status status = view ? make(engine, device, bytes_of(dtype, real), &made)
                             : mth__lacks_memory("an array", bytes_of(dtype, real));
    if (view) *view = (part_view){.device = device, .dtype = dtype, .real = real, .padded = padded, .buffer = buffer};
    /* The address is asked for now, since a child by fork can't ask the plugin. */
    if (!status && made->bytes && engine->host_visible) status = device_pointer(engine, buffer, &view->there);
    if (status) {
        if (made) mth__pjrt_buffer_release(made);
        mth__free(view);
        return status;
    }
    made->views = view;
    *out = made;
    return NULL;
}
