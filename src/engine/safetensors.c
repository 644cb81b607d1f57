/* Reading safetensors (https://github.com/huggingface/safetensors, format of 0.4): 8 bytes of header size, little-endian; a JSON object
 * {"name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, "__metadata__": {..}}; then the data. Each device copies its
 * slice straight out of the mapped file. Nothing in the header is believed before it is checked against the file's size. */
#include "base/status.h"
#include "engine/backend.h"
#include "engine/native/kernel.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct { const unsigned char *map; size_t bytes, data; const char *path; } file_view;
typedef struct { const char *at, *end; } cursor; /* in the header */
typedef struct { char dtype[8]; mth__shape shape; uint64_t begin, end; } entry_view;

static mth_status lies(const file_view *f, const char *what) {
    return FAIL(MTH_ERROR_IO, F("%s is no valid safetensors file: %s", f->path, what), F("fetch the file again: it is damaged or of another format"));
}

static mth_status file_open(const char *path, file_view *f) {
    *f = (file_view){.path = path};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        int e = errno;
        if (fd >= 0) close(fd);
        return FAIL(MTH_ERROR_IO, F("can't open %s: %s", path, strerror(e)), F("give the path of a safetensors file that can be read"));
    }
    f->bytes = (size_t)info.st_size;
    if (!S_ISREG(info.st_mode) || f->bytes < 10) {
        close(fd);
        return lies(f, "it is shorter than a header");
    }
    void *map = mmap(NULL, f->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return FAIL(MTH_ERROR_MEMORY, F("can't map %zu bytes of %s: %s", f->bytes, path, strerror(errno)), F("free memory and try again"));
    f->map = map;
    uint64_t header = 0;
    for (int i = 0; i < 8; i++) header |= (uint64_t)f->map[i] << 8 * i;
    if (header < 2 || header > f->bytes - 8) {
        munmap(map, f->bytes);
        return FAIL(MTH_ERROR_IO, F("%s is no valid safetensors file: its header claims %llu bytes, the file has %zu", path, (unsigned long long)header, f->bytes), F("fetch the file again: it is truncated or of another format"));
    }
    f->data = 8 + (size_t)header;
    return NULL;
}

/* ---------------------------------------------------------------- the header's JSON */
static void skip_space(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r')) c->at++;
}

static bool take(cursor *c, char wanted) {
    skip_space(c);
    if (c->at >= c->end || *c->at != wanted) return false;
    c->at++;
    return true;
}

/* A string, compared raw: tensor names with escapes can't be asked for. */
static bool take_string(cursor *c, const char **at, size_t *n) {
    if (!take(c, '"')) return false;
    *at = c->at;
    while (c->at < c->end && *c->at != '"') c->at += *c->at == '\\' && c->end - c->at > 1 ? 2 : 1;
    if (c->at >= c->end) return false;
    *n = (size_t)(c->at++ - *at);
    return true;
}

static bool take_number(cursor *c, uint64_t *out) {
    skip_space(c);
    uint64_t v = 0;
    const char *begin = c->at;
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
        if (v > (UINT64_MAX - 9) / 10) return false;
        v = v * 10 + (uint64_t)(*c->at - '0');
    }
    *out = v;
    return c->at > begin;
}

static bool skip_value(cursor *c) { /* strings and objects of strings: the metadata */
    const char *s;
    size_t n;
    skip_space(c);
    if (c->at < c->end && *c->at == '"') return take_string(c, &s, &n);
    if (!take(c, '{')) return false;
    if (take(c, '}')) return true;
    do
        if (!take_string(c, &s, &n) || !take(c, ':') || !take_string(c, &s, &n)) return false;
    while (take(c, ','));
    return take(c, '}');
}

static bool is(const char *at, size_t n, const char *text) { return n == strlen(text) && memcmp(at, text, n) == 0; }

static bool take_entry(cursor *c, entry_view *e) {
    *e = (entry_view){.shape.rank = -1};
    bool offsets = false;
    if (!take(c, '{')) return false;
    do {
        const char *key, *text;
        size_t n, m;
        uint64_t v;
        if (!take_string(c, &key, &n) || !take(c, ':')) return false;
        if (is(key, n, "dtype")) {
            if (!take_string(c, &text, &m) || m >= sizeof e->dtype) return false;
            memcpy(e->dtype, text, m);
            e->dtype[m] = 0;
        } else if (is(key, n, "shape")) {
            e->shape.rank = 0;
            if (!take(c, '[')) return false;
            if (!take(c, ']')) {
                do {
                    if (e->shape.rank == MTH__RANK || !take_number(c, &v) || v > INT64_MAX) return false;
                    e->shape.dim[e->shape.rank++] = (int64_t)v;
                } while (take(c, ','));
                if (!take(c, ']')) return false;
            }
        } else if (is(key, n, "data_offsets")) {
            if (!take(c, '[') || !take_number(c, &e->begin) || !take(c, ',') || !take_number(c, &e->end) || !take(c, ']')) return false;
            offsets = true;
        } else
            return false;
    } while (take(c, ','));
    return take(c, '}') && offsets && e->shape.rank >= 0 && e->dtype[0];
}

static mth_status find_tensor(const file_view *f, const char *tensor, entry_view *out) {
    cursor c = {(const char *)f->map + 8, (const char *)f->map + f->data};
    char near[128] = "";
    if (!take(&c, '{')) return lies(f, "its header is no JSON object");
    if (take(&c, '}')) return lies(f, "it holds no tensor");
    do {
        const char *name;
        size_t n;
        entry_view e;
        if (!take_string(&c, &name, &n) || !take(&c, ':')) return lies(f, "its header is broken JSON");
        if (is(name, n, "__metadata__")) {
            if (!skip_value(&c)) return lies(f, "its metadata is broken JSON");
            continue;
        }
        if (!take_entry(&c, &e)) return lies(f, "the entry of a tensor is broken or has an unknown field");
        if (is(name, n, tensor)) {
            *out = e;
            return NULL;
        }
        char this[128];
        snprintf(this, sizeof this, "%.*s", (int)(n < 127 ? n : 127), name);
        const char *both[] = {near, this};
        const char *better = *near ? mth__nearest(tensor, both, 2) : mth__nearest(tensor, both + 1, 1);
        if (better == this) memcpy(near, this, sizeof near);
    } while (take(&c, ','));
    return FAIL(MTH_ERROR_KEY, F("%s holds no tensor '%s'", f->path, tensor), *near ? F("use '%s'", near) : F("name a tensor of the file"));
}

/* ---------------------------------------------------------------- data */
static const struct { const char *name; mth_dtype as; int size; } dtypes[] = {
    {"F32", MTH_FLOAT32, 4}, {"I32", MTH_INT32, 4}, {"I64", MTH_INT64, 8}, {"BOOL", MTH_BOOL, 1}, {"F64", MTH_FLOAT32, 8}, {"BF16", MTH_FLOAT32, 2}, {"F16", MTH_FLOAT32, 2}};

typedef struct { const unsigned char *data; int kind; int64_t stride[MTH__RANK]; } source_view; /* strides in elements, transposed where asked */

static float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, fraction = h & 1023, bits;
    if (exponent == 31) bits = sign | 0x7f800000u | fraction << 13;
    else if (exponent) bits = sign | (exponent + 112) << 23 | fraction << 13;
    else {
        float tiny = (float)fraction * 0x1p-24f; /* a subnormal half is a normal float */
        memcpy(&bits, &tiny, 4);
        bits |= sign;
    }
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static float read_float(const unsigned char *at, int kind) {
    if (kind == 4) {
        double d;
        memcpy(&d, at, 8);
        return (float)d;
    }
    uint16_t h;
    memcpy(&h, at, 2);
    if (kind == 6) return half_to_float(h);
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static mth_status fill_from_file(void *context, const mth_array *a, const mth__held *h, void *data) {
    const source_view *s = context;
    int64_t local[MTH__RANK], from[MTH__RANK], offset = 0, n = 1;
    mth__shape part = a->shape;
    memcpy(part.dim, h->size, sizeof part.dim);
    mth__shape_strides(part, local);
    for (int d = 0; d < a->shape.rank; d++) {
        offset += h->start[d] * s->stride[d];
        from[d] = s->stride[d] * h->step[d];
        n *= h->size[d];
    }
    int size = dtypes[s->kind].size;
    if (s->kind < 4 && (uintptr_t)s->data % (size_t)size == 0) {
        mth__box(MTH__BOX_COPY, a->dtype, a->shape.rank, h->size, data, local, s->data + offset * size, from);
        return NULL;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t at = offset, rest = i;
        for (int d = a->shape.rank - 1; d >= 0; d--) {
            at += rest % h->size[d] * from[d];
            rest /= h->size[d];
        }
        if (s->kind < 4) memcpy((char *)data + i * size, s->data + at * size, (size_t)size); /* a header of odd length leaves the data unaligned */
        else ((float *)data)[i] = read_float(s->data + at * size, s->kind);
    }
    return NULL;
}

/* Checks the tensor and returns its dtype, its shape as the library will see it, and where the data lies. */
static mth_status view_tensor(const file_view *f, const char *tensor, bool transpose, mth_dtype *dtype, mth__shape *shape, source_view *source) {
    entry_view e;
    TRY(find_tensor(f, tensor, &e));
    int kind = -1;
    for (int i = 0; i < (int)(sizeof dtypes / sizeof *dtypes); i++)
        if (strcmp(dtypes[i].name, e.dtype) == 0) kind = i;
    if (kind < 0) return FAIL(MTH_ERROR_UNSUPPORTED, F("tensor '%s' of %s has the dtype %s", tensor, f->path, e.dtype), F("store it as F32, F16, BF16, F64, I32, I64 or BOOL"));
    TRY(mth__shape_check(e.shape, MTH_FLOAT64));
    uint64_t bytes = (uint64_t)mth__shape_size(e.shape) * (uint64_t)dtypes[kind].size;
    if (e.begin > e.end || e.end > f->bytes - f->data || e.end - e.begin != bytes)
        return FAIL(MTH_ERROR_IO, F("%s: tensor '%s' claims bytes %llu to %llu of %zu for %llu bytes of shape and dtype", f->path, tensor, (unsigned long long)e.begin, (unsigned long long)e.end, f->bytes - f->data, (unsigned long long)bytes),
                    F("fetch the file again: it is truncated or damaged"));
    if (transpose && e.shape.rank != 2) return FAIL(MTH_ERROR_VALUE, F("tensor '%s' of %s has %d dimensions and can't be transposed", tensor, f->path, e.shape.rank), F("leave transpose out"));
    *dtype = dtypes[kind].as;
    *source = (source_view){f->map + f->data + e.begin, kind, {0}};
    mth__shape_strides(e.shape, source->stride);
    *shape = e.shape;
    if (transpose) {
        shape->dim[0] = e.shape.dim[1];
        shape->dim[1] = e.shape.dim[0];
        source->stride[0] = 1;
        source->stride[1] = e.shape.dim[1];
    }
    return NULL;
}

static mth_status read_array(mth_backend *b, const file_view *f, const char *tensor, bool transpose, const mth_array *like, const mth_arg *spec, mth_array **out) {
    mth_dtype dtype = MTH_FLOAT32;
    mth__shape shape;
    source_view source;
    mth__sharding sharding = {.on = mth__place_whole(b->mesh)};
    TRY(view_tensor(f, tensor, transpose, &dtype, &shape, &source));
    if (like) {
        if (dtype != like->dtype || !mth__shape_equal(shape, like->shape)) {
            char text[2][256];
            mth__shape_write(text[0], sizeof text[0], shape);
            mth__shape_write(text[1], sizeof text[1], like->shape);
            mth_status s = FAIL(MTH_ERROR_VALUE, F("tensor '%s' of %s is %s %s%s", tensor, f->path, mth_dtype_name(dtype), text[0], transpose ? " once transposed" : ""), F("name another tensor, or change transpose"));
            return mth__error_tensor(s, F("expected: %s %s", mth_dtype_name(like->dtype), text[1]));
        }
        sharding = like->sharding;
    } else if (spec && spec->kind != MTH_ARG_NONE)
        TRY(mth__spec_read(*spec, sharding.on, shape.rank, tensor, &sharding));
    mth_array *a;
    TRY(mth__array_new(b, dtype, shape, &sharding, true, &a));
    mth_status s = mth__array_fill(a, fill_from_file, &source);
    if (s) mth_array_free(a);
    else *out = a;
    return s;
}

typedef struct { mth_backend *backend; const file_view *file; const char *tensor; bool transpose; const mth_array *like; const mth_arg *spec; mth_array **out; } reading;

static mth_status read_body(void *context) {
    reading *r = context;
    return read_array(r->backend, r->file, r->tensor, r->transpose, r->like, r->spec, r->out);
}

static mth_status read_guarded(reading r, const char *path) {
    file_view f;
    TRY(mth__given(r.backend, "the backend"));
    TRY(mth__given(path, "the path"));
    TRY(mth__given(r.tensor, "the tensor's name"));
    TRY(mth__result_given(r.out));
    TRY(file_open(path, &f));
    r.file = &f;
    mth_status s = mth__guard(read_body, &r);
    munmap((void *)f.map, f.bytes);
    return mth__error_operator(s, r.tensor);
}

mth_status mth_array_from_safetensors(mth_backend *b, const char *path, const char *tensor, bool transpose, const mth_arg *spec, mth_array **out) {
    return read_guarded((reading){.backend = b, .tensor = tensor, .transpose = transpose, .spec = spec, .out = out}, path);
}

mth_status mth_array_read_safetensors(const mth_array *like, const char *path, const char *tensor, bool transpose, mth_array **out) {
    TRY(mth__given(like, "the array whose layout is meant"));
    return read_guarded((reading){.backend = like->backend, .tensor = tensor, .transpose = transpose, .like = like, .out = out}, path);
}
