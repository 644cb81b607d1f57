#include "engine/pjrt/pjrt.h"
#include <string.h>

/* A view: the elements on a device, in the shape that a module wants. `memory`: what a view of padded elements shares,
   where it shares. `there`: where the host sees the elements, padded; NULL: nowhere, or not known. */
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

static mth_status make(mth__engine *e, int device, int64_t bytes, mth__buffer **out) {
    mth__buffer *b = mth__calloc(1, sizeof *b);
    if (!b) return mth__lacks_memory("an array", bytes);
    atomic_init(&b->references, 1);
    atomic_fetch_add(&e->references, 1);
    b->engine = e;
    b->device = device;
    b->bytes = bytes;
    pthread_mutex_init(&b->lock, NULL);
    *out = b;
    return NULL;
}

mth_status mth__pjrt_buffer_new(mth__engine *e, int device, int64_t bytes, mth__buffer **out) {
    mth__buffer *b = NULL;
    TRY(make(e, device, bytes, &b));
    b->host = mth__malloc(bytes > 64 ? (size_t)bytes : 64);
    b->owned = true;
    if (!b->host) {
        mth__pjrt_buffer_release(b);
        return mth__lacks_memory("an array", bytes);
    }
    *out = b;
    return NULL;
}

mth_status mth__pjrt_buffer_borrow(mth__engine *e, int device, const void *data, int64_t bytes, void (*release)(void *),
    void *context, mth__buffer **out) {
    mth__buffer *b = NULL;
    TRY(make(e, device, bytes, &b));
    b->host = (void *)data;
    b->release = release;
    b->context = context;
    *out = b;
    return NULL;
}

void mth__pjrt_buffer_retain(mth__buffer *b) { atomic_fetch_add(&b->references, 1); }

static void view_free(mth__engine *e, part_view *v) {
    MTH__ARGS(PJRT_Buffer_Destroy, destroy);
    destroy.buffer = v->buffer;
    if (v->buffer && !mth__plugin_forked(e->plugin))
        mth_error_free(mth__pjrt_status(e->plugin, e->plugin->api->PJRT_Buffer_Destroy(&destroy), "free a buffer"));
    mth__free(v->memory);
    mth__free(v);
}

void mth__pjrt_buffer_release(mth__buffer *b) {
    if (!b || atomic_fetch_sub(&b->references, 1) != 1) return;
    for (part_view *v = b->views, *next; v; v = next) {
        next = v->next;
        view_free(b->engine, v);
    }
    if (b->owned) mth__free(b->host);
    if (b->release) b->release(b->context);
    pthread_mutex_destroy(&b->lock);
    mth__pjrt_close(b->engine);
    mth__free(b);
}

/* ---------------------------------------------------------------- between real and padded */
/* Copies the box `size` between row-major memories of two shapes, from index 0 on. */
static void copy_box(
    mth_dtype dtype, mth__shape size, void *to, mth__shape to_shape, const void *from, mth__shape from_shape) {
    const size_t element = mth_dtype_size(dtype);
    if (mth__shape_size(size) == 0) return;
    int64_t ts[MTH__RANK], fs[MTH__RANK], at[MTH__RANK] = {0};
    mth__shape_strides(to_shape, ts);
    mth__shape_strides(from_shape, fs);
    const size_t row = size.rank ? (size_t)size.dim[size.rank - 1] * element : element;
    for (int d = size.rank - 2;;) {
        int64_t t = 0, f = 0;
        for (int k = 0; k < size.rank - 1; k++) {
            t += at[k] * ts[k];
            f += at[k] * fs[k];
        }
        memcpy((char *)to + (size_t)t * element, (const char *)from + (size_t)f * element, row);
        for (d = size.rank - 2; d >= 0 && ++at[d] == size.dim[d]; d--) at[d] = 0;
        if (d < 0) return;
    }
}

static int64_t bytes_of(mth_dtype dtype, mth__shape s) { return mth__shape_size(s) * (int64_t)mth_dtype_size(dtype); }

mth_status mth__pjrt_await(mth__engine *e, PJRT_Event *event, const char *doing) {
    if (!event) return NULL;
    MTH__ARGS(PJRT_Event_Await, await);
    await.event = event;
    mth_status s = mth__pjrt_status(e->plugin, e->plugin->api->PJRT_Event_Await(&await), doing);
    MTH__ARGS(PJRT_Event_Destroy, destroy);
    destroy.event = event;
    mth_error_free(mth__pjrt_status(e->plugin, e->plugin->api->PJRT_Event_Destroy(&destroy), doing));
    return s;
}

static mth_status upload(mth__engine *e, part_view *v, const void *data) {
    MTH__ARGS(PJRT_Client_BufferFromHostBuffer, put);
    put.client = e->client;
    put.data = data;
    put.type = (PJRT_Buffer_Type)mth__pjrt_type(v->dtype);
    put.dims = v->padded.dim;
    put.num_dims = (size_t)v->padded.rank;
    const bool shares = e->host_visible && mth__shape_size(v->padded) > 0 && (uintptr_t)data % 64 == 0;
    put.host_buffer_semantics = shares ? PJRT_HostBufferSemantics_kImmutableZeroCopy
                                       : PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes;
    put.device = e->device[v->device];
    TRY(mth__pjrt_status(
        e->plugin, e->plugin->api->PJRT_Client_BufferFromHostBuffer(&put), "copy an array to a device"));
    v->buffer = put.buffer;
    if (!shares) return mth__pjrt_await(e, put.done_with_host_buffer, "copy an array to a device");
    MTH__ARGS(PJRT_Event_Destroy, destroy);
    /* comes when the view dies, and the memory lives longer than that */
    destroy.event = put.done_with_host_buffer;
    return put.done_with_host_buffer
        ? mth__pjrt_status(e->plugin, e->plugin->api->PJRT_Event_Destroy(&destroy), "copy an array to a device")
        : NULL;
}

/* ---------------------------------------------------------------- the host's side */
static mth_status device_pointer(mth__engine *e, PJRT_Buffer *buffer, void **out) {
    MTH__ARGS(PJRT_Buffer_OpaqueDeviceMemoryDataPointer, get);
    get.buffer = buffer;
    TRY(mth__pjrt_status(e->plugin, e->plugin->api->PJRT_Buffer_OpaqueDeviceMemoryDataPointer(&get), "read an array"));
    *out = get.device_memory_ptr;
    return NULL;
}

static mth_status download(mth__engine *e, PJRT_Buffer *buffer, void *to, int64_t bytes) {
    TRY(mth__plugin_check_process(e->plugin));
    MTH__ARGS(PJRT_Buffer_ToHostBuffer, get);
    get.src = buffer;
    get.dst = to;
    get.dst_size = (size_t)bytes;
    TRY(mth__pjrt_status(e->plugin, e->plugin->api->PJRT_Buffer_ToHostBuffer(&get), "read an array"));
    return mth__pjrt_await(e, get.event, "read an array");
}

/* With the lock held: makes b->host from the first view. */
static mth_status bring_home(mth__buffer *b) {
    mth__engine *e = b->engine;
    part_view *v = b->views;
    const bool whole = mth__shape_equal(v->real, v->padded);
    void *there = v->there, *copy = NULL, *raw = NULL;
    if (there && whole) {
        b->host = there;
        return NULL;
    }
    mth_status s = NULL;
    copy = mth__malloc(b->bytes > 64 ? (size_t)b->bytes : 64);
    if (!copy) return mth__lacks_memory("an array", b->bytes);
    if (b->bytes && whole)
        s = download(e, v->buffer, copy, b->bytes);
    else if (b->bytes) {
        int64_t bytes = bytes_of(v->dtype, v->padded);
        if (!there) {
            there = raw = mth__malloc((size_t)bytes);
            s = raw ? download(e, v->buffer, raw, bytes) : mth__lacks_memory("an array", bytes);
        }
        if (!s) copy_box(v->dtype, v->real, copy, v->real, there, v->padded);
        mth__free(raw);
    }
    if (s) {
        mth__free(copy);
        return s;
    }
    b->host = copy;
    b->owned = true;
    return NULL;
}

/* In a child by fork nobody may hold the buffer's lock any more who could let go of it: there one lock stands for all.
 */
static pthread_mutex_t *host_lock(mth__buffer *b) {
    mth__plugin *plugin = b->engine->plugin;
    return plugin && mth__plugin_forked(plugin) ? mth__plugin_child_lock() : &b->lock;
}

static mth_status host_of(mth__buffer *b, bool lend, void **out) {
    pthread_mutex_t *lock = host_lock(b);
    pthread_mutex_lock(lock);
    mth_status s = b->host ? NULL : bring_home(b);
    b->lent |= lend;
    *out = b->host;
    pthread_mutex_unlock(lock);
    return s;
}

void *mth__pjrt_buffer_host(mth__buffer *b) {
    void *host;
    mth_error_free(host_of(b, true, &host)); /* the caller takes NULL for memory that is gone */
    return host;
}

void *mth__pjrt_buffer_fill(mth__buffer *b) { return b->host; }

mth_status mth__pjrt_buffer_write(mth__buffer *b, int64_t offset, const void *data, int64_t bytes) {
    void *host;
    TRY(host_of(b, true, &host));
    memcpy((char *)host + offset, data, (size_t)bytes);
    return NULL;
}

mth_status mth__pjrt_buffer_read(mth__buffer *b, int64_t offset, void *data, int64_t bytes) {
    void *host;
    TRY(host_of(b, true, &host));
    memcpy(data, (const char *)host + offset, (size_t)bytes);
    return NULL;
}

/* ---------------------------------------------------------------- the devices' side */
static mth_status new_view(
    mth__buffer *b, int device, mth_dtype dtype, mth__shape real, mth__shape padded, part_view **out) {
    part_view *v = mth__calloc(1, sizeof *v);
    if (!v) return mth__lacks_memory("an array", b->bytes);
    *v = (part_view){.device = device, .dtype = dtype, .real = real, .padded = padded};
    mth_status s = b->host ? NULL : bring_home(b);
    const void *data = b->host;
    if (!s && !mth__shape_equal(real, padded)) {
        int64_t bytes = bytes_of(dtype, padded);
        data = v->memory = mth__calloc(bytes > 64 ? (size_t)bytes : 64, 1);
        if (!v->memory)
            s = mth__lacks_memory("an array", bytes);
        else
            copy_box(dtype, real, v->memory, padded, b->host, real);
    } else
        b->lent = true;
    if (!s) s = upload(b->engine, v, data);
    if (!s && v->memory && !b->engine->host_visible) {
        mth__free(v->memory);
        v->memory = NULL;
    }
    if (s)
        view_free(b->engine, v);
    else
        *out = v;
    return s;
}

/* The first view is where the data is when the host has it no more: once a padded view has all of it. */
static void insert(mth__buffer *b, part_view *v) {
    const bool instead = v->memory && b->owned && !b->lent;
    part_view **at = b->views && !instead ? &b->views->next : &b->views;
    v->there = v->memory;
    v->next = *at;
    *at = v;
    if (!instead) return;
    mth__free(b->host);
    b->host = NULL;
    b->owned = false;
}

mth_status mth__pjrt_view(
    mth__buffer *b, int device, mth_dtype dtype, mth__shape real, mth__shape padded, PJRT_Buffer **out) {
    mth_status s = NULL;
    pthread_mutex_lock(&b->lock);
    part_view *v = b->views;
    /* equal bytes in another shape (an array laid out anew) make a view of their own */
    while (v &&
        (v->device != device || v->dtype != dtype || !mth__shape_equal(v->padded, padded) ||
            !mth__shape_equal(v->real, real)))
        v = v->next;
    if (!v) {
        s = new_view(b, device, dtype, real, padded, &v);
        if (!s) insert(b, v);
    }
    if (!s) *out = v->buffer;
    pthread_mutex_unlock(&b->lock);
    return s;
}

mth_status mth__pjrt_adopt(mth__engine *e, int device, mth_dtype dtype, mth__shape real, mth__shape padded,
    PJRT_Buffer *buffer, mth__buffer **out) {
    mth__buffer *b = NULL;
    part_view *v = mth__calloc(1, sizeof *v);
    mth_status s =
        v ? make(e, device, bytes_of(dtype, real), &b) : mth__lacks_memory("an array", bytes_of(dtype, real));
    if (v) *v = (part_view){.device = device, .dtype = dtype, .real = real, .padded = padded, .buffer = buffer};
    /* asked for now: a child by fork can ask the plugin nothing */
    if (!s && b->bytes && e->host_visible) s = device_pointer(e, buffer, &v->there);
    if (s) {
        if (b) mth__pjrt_buffer_release(b);
        mth__free(v);
        return s;
    }
    b->views = v;
    *out = b;
    return NULL;
}
