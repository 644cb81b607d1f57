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
int64_t mth__held_elements(const mth_array *array, const mth__held *held) {
    int64_t n = 1;
    for (int d = 0; d < array->shape.rank; d++) n *= held->size[d];
    return n;
}

void mth__held_strides(const mth_array *array, const mth__held *held, int64_t local[MTH__RANK],
    int64_t global[MTH__RANK], int64_t *offset) {
    mth__shape part = array->shape;
    memcpy(part.dim, held->size, sizeof part.dim);
    mth__shape_strides(part, local);
    mth__shape_strides(array->shape, global);
    *offset = 0;
    for (int d = 0; d < array->shape.rank; d++) {
        *offset += held->start[d] * global[d];
        global[d] *= held->step[d];
    }
}

/* ---------------------------------------------------------------- copies */
enum { ELEMENTS_EACH = 1 << 17 /* some ten thousandths of a second, or a millisecond of random numbers */ };

mth_status mth__held_copy(const mth_array *array, const mth__held *held, void *part, void *whole, bool to_whole) {
    const size_t bytes = mth_dtype_size(array->dtype);
    int64_t local[MTH__RANK], global[MTH__RANK], offset;
    mth__held_strides(array, held, local, global, &offset);
    mth__copy copy = {.loop = {.rank = array->shape.rank, .operands = 2}};
    for (int d = 0; d < array->shape.rank; d++) {
        if (!held->size[d]) return NULL;
        copy.loop.size[d] = held->size[d];
        copy.loop.stride[0][d] = (to_whole ? global : local)[d];
        copy.loop.stride[1][d] = (to_whole ? local : global)[d];
    }
    mth__copy_plan(&copy, array->dtype);
    whole = (char *)whole + offset * (int64_t)bytes;
    const int64_t each = mth__held_elements(array, held) / copy.rows,
                  rows = each < ELEMENTS_EACH ? ELEMENTS_EACH / each : 1;
    for (int64_t row = 0; row < copy.rows; row += rows) {
        TRY(mth__stop_check());
        mth__copy_run(&copy, to_whole ? whole : part, to_whole ? part : whole, row,
            copy.rows - row < rows ? copy.rows : row + rows);
    }
    return NULL;
}

mth_status mth__fill_from_whole(void *whole, const mth_array *array, const mth__held *held, void *data) {
    return mth__held_copy(array, held, data, whole, false);
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
    const mth__random *random, mth_dtype dtype, uint64_t element, int64_t stride, int64_t n, void *data, int64_t at) {
    float some[AT_ONCE];
    for (int64_t done = 0; done < n; done += AT_ONCE) {
        const int64_t count = n - done < AT_ONCE ? n - done : AT_ONCE;
        const uint64_t first = element + (uint64_t)(done * stride);
        if (random->range) {
            for (int64_t i = 0; i < count; i++)
                ((int32_t *)data)[at + done + i] = (int32_t)(random->low +
                    mth__philox_below(random->seed, random->stream, first + (uint64_t)(i * stride), random->range));
            continue;
        }
        const float scale = (float)random->scale;
        if (random->init == MTH__INIT_NORMAL) {
            mth__philox_normals(random->seed, random->stream, first, (uint64_t)stride, (size_t)count, some);
            for (int64_t i = 0; i < count; i++) some[i] *= scale;
        } else if (random->init == MTH__INIT_UNIFORM) {
            for (int64_t i = 0; i < count; i++)
                some[i] =
                    scale * (2 * mth__philox_uniform(random->seed, random->stream, first + (uint64_t)(i * stride)) - 1);
        } else {
            for (int64_t i = 0; i < count; i++) some[i] = random->init == MTH__INIT_ONE;
        }
        mth__dtype_convert(
            MTH_FLOAT32, some, dtype, (char *)data + (at + done) * (int64_t)mth_dtype_size(dtype), count);
    }
}

static void random_range(const range *piece) {
    const mth__held *held = piece->held;
    const int last = piece->array->shape.rank - 1;
    int64_t local[MTH__RANK], global[MTH__RANK], offset;
    mth__held_strides(piece->array, held, local, global, &offset);
    const int64_t inner = last < 0 ? 1 : held->size[last], stride = last < 0 ? 1 : global[last];
    for (int64_t i = piece->begin, n; i < piece->end; i += n) { /* a row, or what the range has of it */
        const int64_t within = i % inner;
        int64_t row = i / inner, element = offset + within * stride;
        for (int d = last - 1; d >= 0; d--) {
            element += row % held->size[d] * global[d];
            row /= held->size[d];
        }
        n = inner - within < piece->end - i ? inner - within : piece->end - i;
        draw(piece->what, piece->array->dtype, (uint64_t)element, stride, n, piece->data, i);
    }
}

mth_status mth__fill_random(void *context, const mth_array *array, const mth__held *held, void *data) {
    return fill_ranges((range){random_range, context, array, held, data, 0, 0, NULL}, mth__held_elements(array, held));
}

/* ---------------------------------------------------------------- constants */
static void constant_range(const range *piece) {
    const double value = *(const double *)piece->what;
    const mth_dtype dtype = piece->array->dtype;
    uint64_t bits[1] = {0};
    mth__dtype_store(dtype, bits, 0, value);
    switch (mth_dtype_size(dtype)) {
    case 1:
        memset((char *)piece->data + piece->begin, (int)(bits[0] & 0xff), (size_t)(piece->end - piece->begin));
        break;
    case 2:
        for (int64_t i = piece->begin; i < piece->end; i++) memcpy((char *)piece->data + 2 * i, bits, 2);
        break;
    case 4:
        for (int64_t i = piece->begin; i < piece->end; i++) memcpy((char *)piece->data + 4 * i, bits, 4);
        break;
    default:
        for (int64_t i = piece->begin; i < piece->end; i++) memcpy((char *)piece->data + 8 * i, bits, 8);
    }
}

mth_status mth__fill_constant(void *context, const mth_array *array, const mth__held *held, void *data) {
    return fill_ranges(
        (range){constant_range, context, array, held, data, 0, 0, NULL}, mth__held_elements(array, held));
}
