/* Reading safetensors. A file is opened once for all that is read of it; its header is checked as a whole
 * (safetensors_header.h). Then each device's part is read by pread, straight into the device's memory where it lies in
 * one piece, else through a buffer. Nothing is mapped: a file that is cut short while it is read is an error, no
 * signal. */
#include "data/safetensors.h"
#include "base/file.h"
#include "base/names.h"
#include "base/number.h"
#include "base/option.h"
#include "base/status.h"
#include "base/stop.h"
#include "data/box.h"
#include "data/fill.h"
#include "data/safetensors_header.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *path;
    int fd;               /* -1: not open */
    uint64_t bytes, data; /* of the file; before its data */
    mth__file_header header;
    mth__names names;                /* of its tensors */
    const mth__file_tensor **tensor; /* by number of the name */
    /* BUFFER elements of any dtype of a file, and of an array; made when first needed */
    unsigned char *buffer, *converted;
} open_file;
/* BUFFER: elements, 1 MiB of float32. APART: bytes from which a row is read on its own, without what lies between.
   ONCE: elements that are read without a look whether to stop. */
enum { BUFFER = 1 << 18, APART = 4096, ONCE = 1 << 22 };

static mth_status cant(const char *path, const char *verb, int code) {
    return mth__error_errno(FAIL(MTH_ERROR_IO, F("can't %s %s: %s", verb, path, mth__errno_text(code)),
                                F("give the path of a safetensors file that can be read")),
        code);
}

static mth_status read_bytes(const open_file *file, uint64_t at, void *to, size_t n) {
    for (char *next = to; n;) {
        const ssize_t got = pread(file->fd, next, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return cant(file->path, "read", errno);
        if (!got)
            return mth__file_lies(file->path,
                F("it ends at byte %llu of %llu: it was cut short while it was read", (unsigned long long)at,
                    (unsigned long long)file->bytes));
        next += got, n -= (size_t)got, at += (uint64_t)got;
    }
    return NULL;
}

static mth_status open_regular(const char *path, open_file *file) {
    const char *other;
    *file = (open_file){.path = path};
    file->fd = mth__open_to_read(path, &file->bytes, &other);
    if (file->fd < 0) return cant(path, "open", errno);
    if (!other) return NULL;
    if (!strcmp(other, "folder")) return cant(path, "read", EISDIR);
    return FAIL(MTH_ERROR_IO, F("%s is a %s, no file", path, other),
        F("give the path of a regular file: save what comes from elsewhere first"));
}

/* Inside a guard; the header lives in the arena. */
static mth_status read_header(open_file *file, mth__arena *arena) {
    unsigned char size[8];
    uint64_t header = 0;
    if (file->bytes < 10) return mth__file_lies(file->path, F("it is shorter than a header"));
    TRY(read_bytes(file, 0, size, sizeof size));
    for (int i = 0; i < 8; i++) header |= (uint64_t)size[i] << 8 * i;
    if (header < 2 || header > file->bytes - 8)
        return FAIL(MTH_ERROR_IO,
            F("%s is no valid safetensors file: its header claims %llu bytes, the file has %llu", file->path,
                (unsigned long long)header, (unsigned long long)file->bytes),
            F("fetch the file again: it is truncated or of another format"));
    if (header > MTH__HEADER_LIMIT)
        return FAIL(MTH_ERROR_IO,
            F("%s has a header of %llu bytes, the format allows %d", file->path, (unsigned long long)header,
                MTH__HEADER_LIMIT),
            F("store the tensors in several files"));
    file->data = 8 + header;
    char *text = mth__alloc(arena, header);
    TRY(read_bytes(file, 8, text, header));
    return mth__file_header_read(arena, file->path, text, header, file->bytes - file->data, &file->header);
}

/* By their names; one that holds a zero can't be asked for. */
static void list_tensors(mth__arena *arena, open_file *file) {
    file->tensor = NEW_ARRAY(arena, const mth__file_tensor *, file->header.count);
    for (size_t i = 0; i < file->header.count; i++) {
        const mth__file_tensor *tensor = &file->header.tensor[i];
        if (!memchr(tensor->name.at, 0, tensor->name.n))
            file->tensor[mth__names_add(arena, &file->names, tensor->name.at)] = tensor;
    }
}

static mth_status find_tensor(const open_file *file, const char *name, const mth__file_tensor **out) {
    const int at = mth__names_find(&file->names, name);
    if (at >= 0) return *out = file->tensor[at], NULL;
    char *fix = file->names.name.n ? mth__name_fix("tensor", name, file->names.name.at, file->names.name.n)
        : file->header.count
        ? F("save its tensors under names without a NUL character (\\u0000), which all of its %zu have",
              file->header.count)
        : F("give the path of another file: this one holds no tensors at all");
    return FAIL(MTH_ERROR_KEY, F("%s holds no tensor '%s'", file->path, name), fix);
}

/* ---------------------------------------------------------------- data */
/* A tensor of the file on its way to a device. Strides are those of the library's array, transposed where asked. */
typedef struct {
    open_file *file;
    const mth__file_tensor *tensor;
    uint64_t begin;     /* bytes of the file before it */
    mth_dtype from, to; /* of its elements in the file, in the array */
    int64_t stride[MTH__RANK];
    bool transposed;
} file_source;

static mth_status make_buffer(unsigned char **buffer, size_t size, const char *path) {
    if (!*buffer) *buffer = mth__malloc(BUFFER * size);
    return *buffer ? NULL
                   : FAIL(MTH_ERROR_MEMORY, F("no memory for a buffer of %zu bytes to read %s", BUFFER * size, path),
                         F("free memory and try again"));
}

static mth_status misfit(const file_source *source, const void *element, int64_t at) {
    const mth__file_tensor *tensor = source->tensor;
    mth__shape shape = {.rank = tensor->rank};
    memcpy(shape.dim, tensor->dim, sizeof tensor->dim);
    char *what = F("tensor '%.*s' of %s", (int)tensor->name.n, tensor->name.at, source->file->path);
    mth_status status =
        what ? mth__misfit(what, source->from, element, shape, at, source->to) : mth__lacks_memory("an error", 0);
    mth__free(what);
    return status;
}

/* `rows` runs of `n` elements of the file, the first from element `at` on, each `step` elements behind the last: one
   after the other, in the array's dtype; valid until the next call. */
static mth_status read_runs(
    const file_source *source, int64_t rows, int64_t step, int64_t at, int64_t n, const void **out) {
    open_file *file = source->file;
    const size_t size = mth_dtype_size(source->from);
    TRY(make_buffer(&file->buffer, sizeof(double), file->path));
    for (int64_t i = 0; i < rows; i++)
        TRY(read_bytes(file, source->begin + (uint64_t)(at + i * step) * size, file->buffer + (size_t)(i * n) * size,
            (size_t)n * size));
    *out = file->buffer;
    if (source->from == source->to) return NULL;
    TRY(make_buffer(&file->converted, sizeof(double), file->path));
    const int64_t lost = mth__dtype_convert_checked(source->from, file->buffer, source->to, file->converted, rows * n);
    if (lost >= 0) return misfit(source, file->buffer + (size_t)lost * size, at + lost / n * step + lost % n);
    *out = file->converted;
    return NULL;
}

/* The part of an array, dimensions in the file's order: sizes, strides in the file and in memory, in elements. */
typedef struct {
    int rank;
    int64_t size[MTH__RANK], from[MTH__RANK], to[MTH__RANK];
    mth_dtype dtype;
    char *data;
} file_box;

/* Elements of the file from the first to the last of `n` indices of dimension d. */
static int64_t span(const file_box *box, int d, int64_t n) {
    int64_t last = (n - 1) * box->from[d];
    for (int i = d + 1; i < box->rank; i++) last += (box->size[i] - 1) * box->from[i];
    return last + 1;
}

/* The number of elements of dimensions d and on where they lie in the file as in memory, without gaps; else 0. */
static int64_t one_piece(const file_box *box, int d) {
    int64_t n = 1;
    for (int i = box->rank - 1; i >= d; n *= box->size[i--])
        if (box->size[i] != 1 && (box->from[i] != n || box->to[i] != n)) return 0;
    return n;
}

/* Reads the dimensions d and on: at once where they are one piece; else as many indices of d as the buffer has room
   for; else each index on its own. */
static mth_status read_box(const file_source *source, const file_box *box, int d, int64_t at, int64_t to) {
    const bool as_it_is = source->from == source->to;
    const int64_t element = (int64_t)mth_dtype_size(box->dtype), piece = as_it_is ? one_piece(box, d) : 0;
    for (int64_t i = 0, n; i < piece; i += n) {
        n = piece - i < ONCE ? piece - i : ONCE;
        TRY(mth__stop_check());
        TRY(read_bytes(source->file, source->begin + (uint64_t)((at + i) * element), box->data + (to + i) * element,
            (size_t)(n * element)));
    }
    if (piece) return NULL;
    const int64_t one = span(box, d, 1), step = box->from[d];
    const bool apart = step > one && one * element >= APART;
    if (one > BUFFER || (apart && as_it_is && one_piece(box, d + 1))) {
        for (int64_t i = 0; i < box->size[d]; i++)
            TRY(read_box(source, box, d + 1, at + i * step, to + i * box->to[d]));
        return NULL;
    }
    const int64_t room = apart ? BUFFER / one : (BUFFER - one) / step + 1;
    for (int64_t i = 0, n; i < box->size[d]; i += n) {
        const void *data;
        int64_t size[MTH__RANK], from[MTH__RANK];
        TRY(mth__stop_check());
        n = room < box->size[d] - i ? room : box->size[d] - i;
        memcpy(size, box->size, sizeof size);
        memcpy(from, box->from, sizeof from);
        size[d] = n;
        if (apart) from[d] = one;
        TRY(read_runs(source, apart ? n : 1, step, at + i * step, apart ? one : span(box, d, n), &data));
        mth__box_copy(box->dtype, box->rank - d, size + d, box->data + (to + i * box->to[d]) * element, box->to + d,
            data, from + d);
    }
    return NULL;
}

static mth_status fill_from_file(void *context, const mth_array *array, const mth__held *held, void *data) {
    const file_source *source = context;
    int64_t local[MTH__RANK], global[MTH__RANK], offset, at = 0;
    file_box box = {.rank = array->shape.rank, .dtype = array->dtype, .data = data};
    mth__held_strides(array, held, local, global, &offset);
    for (int d = 0; d < box.rank; d++) {
        const int i = source->transposed ? 1 - d : d;
        at += held->start[d] * source->stride[d];
        box.size[i] = held->size[d];
        box.from[i] = source->stride[d] * held->step[d];
        box.to[i] = local[d];
    }
    if (!box.rank) box.rank = 1, box.size[0] = box.from[0] = box.to[0] = 1;
    return read_box(source, &box, 0, at, 0);
}

static mth_dtype dtype_of_file(const char *name) {
    for (int i = 1; i < MTH__DTYPE_COUNT; i++)
        if (strcmp(mth__dtypes[i].file, name) == 0) return (mth_dtype)i;
    return (mth_dtype)0;
}

/* The tensor's shape as the library will see it, and where its data lies. Floating elements become `floating`. */
static mth_status view_tensor(
    open_file *file, const char *name, bool transpose, mth_dtype floating, mth__shape *shape, file_source *out) {
    const mth__file_tensor *tensor = NULL;
    TRY(find_tensor(file, name, &tensor));
    const mth_dtype dtype = dtype_of_file(tensor->dtype);
    if (!dtype)
        return FAIL(MTH_ERROR_UNSUPPORTED, F("tensor '%s' of %s has the dtype %s", name, file->path, tensor->dtype),
            F("store it as F32, F16, BF16, F64, I32, I64 or BOOL"));
    *shape = (mth__shape){.rank = tensor->rank};
    if (tensor->rank <= MTH__RANK) memcpy(shape->dim, tensor->dim, sizeof tensor->dim);
    TRY(mth__shape_check(*shape, MTH_FLOAT64));
    if (transpose && tensor->rank != 2)
        return FAIL(MTH_ERROR_VALUE,
            F("tensor '%s' of %s has %d dimensions and can't be transposed", name, file->path, tensor->rank),
            F("leave transpose out"));
    *out = (file_source){.file = file,
        .tensor = tensor,
        .begin = file->data + tensor->begin,
        .from = dtype,
        .to = mth__is_float(dtype) ? floating : dtype,
        .transposed = transpose};
    mth__shape_strides(*shape, out->stride);
    if (transpose) {
        shape->dim[0] = tensor->dim[1];
        shape->dim[1] = tensor->dim[0];
        out->stride[0] = 1;
        out->stride[1] = tensor->dim[1];
    }
    return NULL;
}

/* ---------------------------------------------------------------- arrays */
/* A tensor that is asked for: in the layout of `like`, or where that is NULL by `spec`. */
typedef struct {
    const char *tensor;
    bool transpose;
    const mth_array *like;
    const mth_arg *spec;
    mth_array *array;
} wish;
typedef struct {
    mth__devices *devices;
    open_file file;
    wish *wish;
    size_t count;
} file_reading;

/* What mends a tensor that is not as the parameter is. */
static char *mismatch_fix(const wish *wanted, mth_dtype dtype, mth__shape shape) {
    const mth__shape expected = wanted->like->shape;
    bool turned = shape.rank == expected.rank && shape.rank >= 2;
    for (int d = 0; turned && d < shape.rank; d++) turned = shape.dim[d] == expected.dim[shape.rank - 1 - d];
    const bool same = mth__shape_equal(shape, expected);
    if (dtype != wanted->like->dtype && (same || turned))
        return F("save it as %s, or name another tensor%s", mth_dtype_name(wanted->like->dtype),
            same ? "" : "; and change transpose");
    return turned ? F("change transpose, or name another tensor")
                  : F("name another tensor, or give the model the sizes of this one");
}

static mth_status read_array(file_reading *reading, wish *wanted) {
    mth__shape shape;
    file_source from;
    mth__sharding sharding = {.on = mth__place_whole(reading->devices->mesh)};
    const mth_dtype floating = wanted->like && mth__is_float(wanted->like->dtype) ? wanted->like->dtype : MTH_FLOAT32;
    TRY(view_tensor(&reading->file, wanted->tensor, wanted->transpose, floating, &shape, &from));
    const mth_dtype dtype = from.to;
    if (wanted->like) {
        if (dtype != wanted->like->dtype || !mth__shape_equal(shape, wanted->like->shape)) {
            char text[2][256];
            mth__shape_write(text[0], sizeof text[0], shape);
            mth__shape_write(text[1], sizeof text[1], wanted->like->shape);
            mth_status status = FAIL(MTH_ERROR_VALUE,
                F("tensor '%s' of %s is %s %s%s", wanted->tensor, reading->file.path, mth_dtype_name(dtype), text[0],
                    wanted->transpose ? " once transposed" : ""),
                mismatch_fix(wanted, dtype, shape));
            return mth__error_tensor(status, F("expected: %s %s", mth_dtype_name(wanted->like->dtype), text[1]));
        }
        sharding = wanted->like->sharding;
    } else if (wanted->spec && wanted->spec->kind != MTH_ARG_NONE)
        TRY(mth__spec_read(*wanted->spec, sharding.on, shape.rank, wanted->tensor, &sharding));
    TRY(mth__array_new(reading->devices, dtype, shape, &sharding, true, &wanted->array));
    return mth__array_fill(wanted->array, fill_from_file, &from);
}

static mth_status read_body(void *context) {
    file_reading *reading = context;
    mth__arena *arena = mth__arena_new();
    mth_status status = open_regular(reading->file.path, &reading->file);
    if (!status) status = read_header(&reading->file, arena);
    if (!status) list_tensors(arena, &reading->file);
    for (size_t i = 0; !status && i < reading->count; i++) status = read_array(reading, &reading->wish[i]);
    mth__arena_free(arena);
    return status;
}

/* All or none of the wishes. */
static mth_status read_all(mth__devices *devices, const char *path, wish *wishes, size_t count) {
    file_reading reading = {.devices = devices, .file = {.path = path, .fd = -1}, .wish = wishes, .count = count};
    TRY(mth__given(path, "the path"));
    for (size_t i = 0; i < count; i++) TRY(mth__given(wishes[i].tensor, "the tensor's name"));
    mth_status status = mth__guard(read_body, &reading);
    if (reading.file.fd >= 0) close(reading.file.fd);
    mth__free(reading.file.buffer);
    mth__free(reading.file.converted);
    for (size_t i = 0; status && i < count; i++) mth_array_free(wishes[i].array);
    return status;
}

mth_status mth__array_from_safetensors(
    mth__devices *devices, const char *path, const char *tensor, bool transpose, const mth_arg *spec, mth_array **out) {
    wish wanted = {.tensor = tensor, .transpose = transpose, .spec = spec};
    TRY(read_all(devices, path, &wanted, 1));
    *out = wanted.array;
    return NULL;
}

mth_status mth_array_read_safetensors(
    const mth_array *like, const char *path, const char *tensor, bool transpose, mth_array **out) {
    TRY(mth__given(like, "the array whose layout is meant"));
    wish wanted = {.tensor = tensor, .transpose = transpose, .like = like};
    TRY(mth__result_given(out));
    TRY(read_all(like->devices, path, &wanted, 1));
    *out = wanted.array;
    return NULL;
}

/* Each parameter of the layout has one tensor, and nothing else has but those that it allows, which are not read.
   `known` are the names of both. */
static mth_status match(
    const mth_arrays *layout, const mth__names *known, const mth_file_tensor *names, size_t count, wish *wishes) {
    for (size_t i = 0; i < count; i++) {
        TRY(mth__given(names[i].parameter, "the name of a parameter"));
        const int at = mth__names_find(known, names[i].parameter);
        if (at < 0) {
            char *right = mth__name_fix("parameter", names[i].parameter, known->name.at, known->name.n);
            mth_status status =
                FAIL(MTH_ERROR_KEY, F("reading parameters: '%s' is no parameter of the model", names[i].parameter),
                    F("leave it out, or correct it: %s", right));
            mth__free(right);
            return status;
        }
        if (wishes[at].tensor)
            return FAIL(MTH_ERROR_KEY, F("reading parameters: '%s' is named twice", names[i].parameter),
                F("name one tensor for it"));
        TRY(mth__given(names[i].tensor, "the tensor's name"));
        mth_array *like = (size_t)at < layout->count ? layout->item[at].array : NULL;
        wishes[at] = (wish){.tensor = names[i].tensor, .transpose = names[i].transpose, .like = like};
    }
    for (size_t i = 0; i < layout->count; i++)
        if (!wishes[i].tensor)
            return FAIL(MTH_ERROR_KEY, F("reading parameters: '%s' has no tensor", layout->item[i].name),
                F("name a tensor of the file for it"));
    return NULL;
}

typedef struct {
    const mth_arrays *layout;
    const mth_file_tensor *names;
    size_t count;
    wish *wishes;
} matching;

static mth_status match_body(void *context) {
    const matching *matched = context;
    mth__arena *arena = mth__arena_new();
    mth__names known = {0};
    for (size_t i = 0; i < matched->layout->count; i++) mth__names_add(arena, &known, matched->layout->item[i].name);
    for (size_t i = 0; i < matched->layout->allowances; i++) mth__names_add(arena, &known, matched->layout->allowed[i]);
    mth_status status = match(matched->layout, &known, matched->names, matched->count, matched->wishes);
    mth__arena_free(arena);
    return status;
}

mth_status mth_arrays_read_safetensors(
    const mth_arrays *layout, const char *path, const mth_file_tensor *names, size_t count, mth_arrays **out) {
    TRY(mth__given(layout, "the layout"));
    if (count) TRY(mth__given(names, "the names of tensors"));
    TRY(mth__given(path, "the path"));
    TRY(mth__result_given(out));
    mth_arrays *read = NULL;
    wish *wishes = mth__calloc(layout->count + layout->allowances + 1, sizeof *wishes);
    if (!wishes)
        return FAIL(MTH_ERROR_MEMORY, F("no memory for the names of %zu parameters", layout->count),
            F("free memory and try again"));
    mth_status status = mth__guard(match_body, &(matching){layout, names, count, wishes});
    if (!status) status = mth__arrays_new(layout->count, &read);
    if (!status && layout->count) status = read_all(layout->item[0].array->devices, path, wishes, layout->count);
    for (size_t i = 0; read && !status && i < layout->count; i++) {
        status = mth__arrays_set(read, i, layout->item[i].name, wishes[i].array);
        for (size_t k = i + 1; status && k < layout->count; k++) mth_array_free(wishes[k].array);
    }
    mth__free(wishes);
    if (status)
        mth_arrays_free(read);
    else
        *out = read;
    return status;
}
