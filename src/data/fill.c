/* Contents of arrays: numbers drawn or constant. Each element's value follows from its index in the whole array alone,
 * so that a part is filled by as many threads as there are, with the same bits as by one. */
#include "data/fill.h"
#include "base/cores.h"
#include "base/graph.h"
#include "base/philox.h"
#include "base/stop.h"
#include "data/box.h"
#include <pthread.h>
#include <signal.h>
#include <string.h>

/* ---------------------------------------------------------------- elements */
int64_t mth__held_elements(const mth_array *a, const mth__held *h) {
    int64_t n = 1;
    for (int d = 0; d < a->shape.rank; d++) n *= h->size[d];
    return n;
}

void mth__held_strides(
    const mth_array *a, const mth__held *h, int64_t local[MTH__RANK], int64_t global[MTH__RANK], int64_t *offset) {
    mth__shape part = a->shape;
    memcpy(part.dim, h->size, sizeof part.dim);
    mth__shape_strides(part, local);
    mth__shape_strides(a->shape, global);
    *offset = 0;
    for (int d = 0; d < a->shape.rank; d++) {
        *offset += h->start[d] * global[d];
        global[d] *= h->step[d];
    }
}

/* ---------------------------------------------------------------- copies */
enum { ELEMENTS_EACH = 1 << 17 /* some ten thousandths of a second, or a millisecond of random numbers */ };

mth_status mth__held_copy(const mth_array *a, const mth__held *h, void *part, void *whole, bool to_whole) {
    const size_t bytes = mth_dtype_size(a->dtype);
    int64_t local[MTH__RANK], global[MTH__RANK], offset;
    mth__held_strides(a, h, local, global, &offset);
    mth__copy c = {.loop = {.rank = a->shape.rank, .operands = 2}};
    for (int d = 0; d < a->shape.rank; d++) {
        if (!h->size[d]) return NULL;
        c.loop.size[d] = h->size[d];
        c.loop.stride[0][d] = (to_whole ? global : local)[d];
        c.loop.stride[1][d] = (to_whole ? local : global)[d];
    }
    mth__copy_plan(&c, a->dtype);
    whole = (char *)whole + offset * (int64_t)bytes;
    const int64_t each = mth__held_elements(a, h) / c.rows, rows = each < ELEMENTS_EACH ? ELEMENTS_EACH / each : 1;
    for (int64_t row = 0; row < c.rows; row += rows) {
        TRY(mth__stop_check());
        mth__copy_run(
            &c, to_whole ? whole : part, to_whole ? part : whole, row, c.rows - row < rows ? c.rows : row + rows);
    }
    return NULL;
}

mth_status mth__fill_from_whole(void *whole, const mth_array *a, const mth__held *h, void *data) {
    return mth__held_copy(a, h, data, whole, false);
}

/* ---------------------------------------------------------------- threads */
enum { THREADS_MOST = 64, AT_ONCE = 256 };
typedef struct range {
    void (*fill)(const struct range *);
    const void *what;
    const mth_array *array;
    const mth__held *held;
    void *data;
    int64_t begin, end;
    const mth__stop *stop;
} range;

/* Piece by piece, so that a thread looks about every millisecond whether it should go on. */
static void fill_range(const range *whole) {
    for (range piece = *whole; piece.begin < whole->end && !mth__stop_asked(whole->stop); piece.begin = piece.end) {
        piece.end = whole->end - piece.begin < ELEMENTS_EACH ? whole->end : piece.begin + ELEMENTS_EACH;
        piece.fill(&piece);
    }
}

static void *thread_main(void *argument) {
    fill_range(argument);
    return NULL;
}

/* Fills [0, n) in ranges, one a thread, unless the caller's thread is asked to stop meanwhile. Where no thread can be
   had, the caller does its part too. */
static mth_status fill_ranges(range all, int64_t n) {
    range part[THREADS_MOST];
    pthread_t thread[THREADS_MOST];
    bool started[THREADS_MOST] = {false};
    sigset_t every, before;
    int64_t count = n / ELEMENTS_EACH, cores = count > 1 ? mth__core_count() : 1;
    if (count > cores) count = cores;
    if (count > THREADS_MOST) count = THREADS_MOST;
    if (count < 1) count = 1;
    all.stop = mth__thread_stop(); /* of this thread, which waits for the others */
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before); /* signals are for the threads of the program */
    for (int64_t i = 0; i < count; i++) {
        part[i] = all;
        part[i].begin = n / count * i;
        part[i].end = i + 1 < count ? n / count * (i + 1) : n;
        started[i] = i > 0 && pthread_create(&thread[i], NULL, thread_main, &part[i]) == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    for (int64_t i = 0; i < count; i++)
        if (!started[i]) fill_range(&part[i]);
    for (int64_t i = 1; i < count; i++)
        if (started[i]) pthread_join(thread[i], NULL);
    return mth__stop_check();
}

/* ---------------------------------------------------------------- random numbers */
static void draw(
    const mth__random *f, mth_dtype dtype, uint64_t element, int64_t stride, int64_t n, void *data, int64_t at) {
    float some[AT_ONCE];
    for (int64_t done = 0; done < n; done += AT_ONCE) {
        const int64_t count = n - done < AT_ONCE ? n - done : AT_ONCE;
        const uint64_t first = element + (uint64_t)(done * stride);
        if (f->range) {
            for (int64_t i = 0; i < count; i++)
                ((int32_t *)data)[at + done + i] =
                    (int32_t)(f->low + mth__philox_below(f->seed, f->stream, first + (uint64_t)(i * stride), f->range));
            continue;
        }
        const float scale = (float)f->scale;
        if (f->init == MTH__INIT_NORMAL) {
            mth__philox_normals(f->seed, f->stream, first, (uint64_t)stride, (size_t)count, some);
            for (int64_t i = 0; i < count; i++) some[i] *= scale;
        } else if (f->init == MTH__INIT_UNIFORM) {
            for (int64_t i = 0; i < count; i++)
                some[i] = scale * (2 * mth__philox_uniform(f->seed, f->stream, first + (uint64_t)(i * stride)) - 1);
        } else {
            for (int64_t i = 0; i < count; i++) some[i] = f->init == MTH__INIT_ONE;
        }
        mth__dtype_convert(
            MTH_FLOAT32, some, dtype, (char *)data + (at + done) * (int64_t)mth_dtype_size(dtype), count);
    }
}

static void random_range(const range *r) {
    const mth__held *h = r->held;
    const int last = r->array->shape.rank - 1;
    int64_t local[MTH__RANK], global[MTH__RANK], offset;
    mth__held_strides(r->array, h, local, global, &offset);
    const int64_t inner = last < 0 ? 1 : h->size[last], stride = last < 0 ? 1 : global[last];
    for (int64_t i = r->begin, n; i < r->end; i += n) { /* a row, or what the range has of it */
        const int64_t within = i % inner;
        int64_t row = i / inner, element = offset + within * stride;
        for (int d = last - 1; d >= 0; d--) {
            element += row % h->size[d] * global[d];
            row /= h->size[d];
        }
        n = inner - within < r->end - i ? inner - within : r->end - i;
        draw(r->what, r->array->dtype, (uint64_t)element, stride, n, r->data, i);
    }
}

mth_status mth__fill_random(void *context, const mth_array *a, const mth__held *h, void *data) {
    return fill_ranges((range){random_range, context, a, h, data, 0, 0, NULL}, mth__held_elements(a, h));
}

/* ---------------------------------------------------------------- constants */
static void constant_range(const range *r) {
    const double value = *(const double *)r->what;
    const mth_dtype dtype = r->array->dtype;
    uint64_t bits[1] = {0};
    mth__dtype_store(dtype, bits, 0, value);
    switch (mth_dtype_size(dtype)) {
    case 1: memset((char *)r->data + r->begin, (int)(bits[0] & 0xff), (size_t)(r->end - r->begin)); break;
    case 2:
        for (int64_t i = r->begin; i < r->end; i++) memcpy((char *)r->data + 2 * i, bits, 2);
        break;
    case 4:
        for (int64_t i = r->begin; i < r->end; i++) memcpy((char *)r->data + 4 * i, bits, 4);
        break;
    default:
        for (int64_t i = r->begin; i < r->end; i++) memcpy((char *)r->data + 8 * i, bits, 8);
    }
}

mth_status mth__fill_constant(void *context, const mth_array *a, const mth__held *h, void *data) {
    return fill_ranges((range){constant_range, context, a, h, data, 0, 0, NULL}, mth__held_elements(a, h));
}
