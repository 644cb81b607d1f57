#include "data/safetensors_header.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *at;
    const char *end;
} cursor;
enum { SHOWN = 100 }; /* bytes of a name in an error: a file may hold names of any length */

mth_status mth__file_lies(const char *path, char *what) {
    mth_status s = FAIL(MTH_ERROR_IO, F("%s is no valid safetensors file: %s", path, what),
        F("fetch the file again: it is damaged or of another format"));
    mth__free(what);
    return s;
}

/* ---------------------------------------------------------------- UTF-8 and JSON */
static bool is_continuation(unsigned char c) { return (c & 0xc0) == 0x80; }

/* The bytes of the character at `s`, 0 where there is no valid one: too long a form, a surrogate, or above U+10FFFF. */
static size_t character(const unsigned char *s, size_t room) {
    if (s[0] < 0x80) return 1;
    const size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || n > room) return 0;
    for (size_t i = 1; i < n; i++)
        if (!is_continuation(s[i])) return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

static bool is_utf8(const char *text, size_t n) {
    for (size_t i = 0, step; i < n; i += step) {
        step = character((const unsigned char *)text + i, n - i);
        if (!step) return false;
    }
    return true;
}

static void skip_space(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r')) c->at++;
}

static bool take(cursor *c, char wanted) {
    skip_space(c);
    if (c->at >= c->end || *c->at != wanted) return false;
    c->at++;
    return true;
}

static bool take_hex(cursor *c, uint32_t *out) {
    if (c->end - c->at < 6 || c->at[0] != '\\' || c->at[1] != 'u') return false;
    *out = 0;
    for (int i = 2; i < 6; i++) {
        const char digit = c->at[i];
        const int value = digit >= '0' && digit <= '9' ? digit - '0'
            : digit >= 'a' && digit <= 'f'             ? digit - 'a' + 10
            : digit >= 'A' && digit <= 'F'             ? digit - 'A' + 10
                                                       : -1;
        if (value < 0) return false;
        *out = *out << 4 | (uint32_t)value;
    }
    c->at += 6;
    return true;
}

/* An escape becomes UTF-8, which is never longer than the escape was. */
static bool take_escape(cursor *c, char **to) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (c->end - c->at < 2) return false;
    if (c->at[1] != 'u') {
        const char *name = c->at[1] ? strchr(names, c->at[1]) : NULL;
        if (!name) return false;
        *(*to)++ = values[name - names];
        c->at += 2;
        return true;
    }
    uint32_t code, low;
    if (!take_hex(c, &code) || (code >= 0xdc00 && code < 0xe000)) return false;
    if (code >= 0xd800 && code < 0xdc00) {
        if (!take_hex(c, &low) || low < 0xdc00 || low >= 0xe000) return false;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
    *(*to)++ = (char)(first[more] | code >> 6 * more);
    for (int i = more - 1; i >= 0; i--) *(*to)++ = (char)(0x80 | (code >> 6 * i & 63));
    return true;
}

static bool take_string(cursor *c, mth__file_text *out) {
    if (!take(c, '"')) return false;
    char *to = c->at;
    out->at = to;
    while (c->at < c->end && *c->at != '"') {
        if ((unsigned char)*c->at < 0x20) return false;
        if (*c->at != '\\')
            *to++ = *c->at++;
        else if (!take_escape(c, &to))
            return false;
    }
    if (c->at >= c->end) return false;
    c->at++;
    out->n = (size_t)(to - out->at);
    *to = 0; /* at the latest where the closing quote stood */
    return true;
}

/* A whole number, without a sign, a fraction or zeros in front. */
static bool take_number(cursor *c, uint64_t *out) {
    skip_space(c);
    uint64_t value = 0;
    const char *begin = c->at;
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*c->at - '0'), &value))
            return false;
    *out = value;
    return c->at > begin && (*begin != '0' || c->at == begin + 1);
}

/* ---------------------------------------------------------------- entries */
static const struct {
    const char *name;
    int bits;
} dtypes[] = {{"BOOL", 8}, {"U8", 8}, {"I8", 8}, {"U16", 16}, {"I16", 16}, {"F16", 16}, {"BF16", 16}, {"U32", 32},
    {"I32", 32}, {"F32", 32}, {"U64", 64}, {"I64", 64}, {"F64", 64}, {"C64", 64}, {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}};

static bool is(mth__file_text text, const char *word) {
    return text.n == strlen(word) && memcmp(text.at, word, text.n) == 0;
}

typedef struct {
    mth__arena *arena;
    const char *path;
    cursor at;
    VEC(mth__file_text) key; /* of the object that is read */
} parse;

static mth_status entry_lies(const parse *p, const mth__file_tensor *t, char *what) {
    char *named = F("tensor '%.*s' %s", t->name.n < SHOWN ? (int)t->name.n : SHOWN, t->name.at, what);
    mth__free(what);
    return mth__file_lies(p->path, named);
}

static mth_status read_shape(parse *p, mth__file_tensor *t, uint64_t *elements) {
    uint64_t size;
    *elements = 1;
    t->rank = 0;
    if (!take(&p->at, '[')) return entry_lies(p, t, F("has a shape that is no list"));
    if (take(&p->at, ']')) return NULL;
    do {
        if (!take_number(&p->at, &size) || size > INT64_MAX)
            return entry_lies(p, t, F("has a size that is no whole number from 0 to 2^63 - 1"));
        if (__builtin_mul_overflow(*elements, size, elements))
            return entry_lies(p, t, F("has more elements than 2^64"));
        if (t->rank < MTH__RANK) t->dim[t->rank] = (int64_t)size;
        t->rank++;
    } while (take(&p->at, ','));
    return take(&p->at, ']') ? NULL : entry_lies(p, t, F("has a shape that does not end"));
}

static mth_status read_entry(parse *p, uint64_t data, mth__file_tensor *t) {
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    cursor *c = &p->at;
    int seen = 0, bits = 0;
    uint64_t elements = 0, size;
    if (!take(c, '{')) return entry_lies(p, t, F("is no object"));
    do {
        mth__file_text key, text;
        if (!take_string(c, &key) || !take(c, ':')) return entry_lies(p, t, F("is broken JSON"));
        const int field = is(key, "dtype") ? DTYPE : is(key, "shape") ? SHAPE : is(key, "data_offsets") ? OFFSETS : 0;
        if (!field)
            return entry_lies(p, t, F("has an unknown field '%.*s'", key.n < SHOWN ? (int)key.n : SHOWN, key.at));
        if (seen & field) return entry_lies(p, t, F("has its %s twice", key.at));
        seen |= field;
        if (field == SHAPE)
            TRY(read_shape(p, t, &elements));
        else if (field == OFFSETS) {
            if (!take(c, '[') || !take_number(c, &t->begin) || !take(c, ',') || !take_number(c, &t->end) ||
                !take(c, ']'))
                return entry_lies(p, t, F("has data_offsets that are no two whole numbers"));
        } else {
            if (!take_string(c, &text)) return entry_lies(p, t, F("has a dtype that is no text"));
            for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
                if (is(text, dtypes[i].name)) t->dtype = dtypes[i].name, bits = dtypes[i].bits;
            if (!t->dtype)
                return entry_lies(p, t,
                    F("has the dtype '%.*s', which the format does not have", text.n < SHOWN ? (int)text.n : SHOWN,
                        text.at));
        }
    } while (take(c, ','));
    if (!take(c, '}')) return entry_lies(p, t, F("is broken JSON"));
    if (seen != (DTYPE | SHAPE | OFFSETS))
        return entry_lies(p, t, F("has no %s", seen & DTYPE ? seen & SHAPE ? "data_offsets" : "shape" : "dtype"));
    if (__builtin_mul_overflow(elements, (uint64_t)bits, &size) || size % 8)
        return entry_lies(p, t, F("has no whole number of bytes below 2^61"));
    if (t->begin > t->end || t->end > data || t->end - t->begin != size / 8)
        return entry_lies(p, t,
            F("claims bytes %llu to %llu of %llu for %llu bytes of shape and dtype", (unsigned long long)t->begin,
                (unsigned long long)t->end, (unsigned long long)data, (unsigned long long)(size / 8)));
    return NULL;
}

static mth_status read_metadata(parse *p) {
    mth__file_text key, value;
    p->key.n = 0;
    if (!take(&p->at, '{')) return mth__file_lies(p->path, F("its __metadata__ is no object"));
    if (take(&p->at, '}')) return NULL;
    do {
        if (!take_string(&p->at, &key) || !take(&p->at, ':') || !take_string(&p->at, &value))
            return mth__file_lies(p->path, F("its __metadata__ is no object of texts"));
        PUSH(p->arena, p->key, key);
    } while (take(&p->at, ','));
    return take(&p->at, '}') ? NULL : mth__file_lies(p->path, F("its __metadata__ does not end"));
}

/* ---------------------------------------------------------------- the whole */
static int by_text(const void *a, const void *b) {
    const mth__file_text *x = a, *y = b;
    const int order = memcmp(x->at, y->at, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static mth_status no_key_twice(parse *p, const char *where) {
    if (p->key.n) qsort(p->key.at, p->key.n, sizeof *p->key.at, by_text);
    for (size_t i = 1; i < p->key.n; i++) {
        const mth__file_text key = p->key.at[i];
        if (by_text(&key, &p->key.at[i - 1]) == 0)
            return mth__file_lies(p->path, F("%s has '%.*s' twice", where, key.n < SHOWN ? (int)key.n : SHOWN, key.at));
    }
    return NULL;
}

static int by_offset(const void *a, const void *b) {
    const mth__file_tensor *x = *(mth__file_tensor *const *)a, *y = *(mth__file_tensor *const *)b;
    return x->begin != y->begin ? (x->begin > y->begin) - (x->begin < y->begin) : (x->end > y->end) - (x->end < y->end);
}

static mth_status tiles(parse *p, const mth__file_header *header, uint64_t data) {
    mth__file_tensor **order = NEW_ARRAY(p->arena, mth__file_tensor *, header->count);
    uint64_t end = 0;
    for (size_t i = 0; i < header->count; i++) order[i] = &header->tensor[i];
    if (header->count) qsort(order, header->count, sizeof *order, by_offset);
    for (size_t i = 0; i < header->count; end = order[i++]->end)
        if (order[i]->begin != end)
            return entry_lies(p, order[i],
                order[i]->begin < end ? F("begins at byte %llu, inside the tensor before it, which ends at %llu",
                                            (unsigned long long)order[i]->begin, (unsigned long long)end)
                                      : F("begins at byte %llu, and bytes from %llu on belong to none",
                                            (unsigned long long)order[i]->begin, (unsigned long long)end));
    if (end != data)
        return mth__file_lies(
            p->path, F("its tensors end at byte %llu of %llu", (unsigned long long)end, (unsigned long long)data));
    return NULL;
}

mth_status mth__file_header_read(
    mth__arena *arena, const char *path, char *text, size_t n, uint64_t data, mth__file_header *out) {
    parse p = {.arena = arena, .path = path, .at = {text, text + n}};
    VEC(mth__file_tensor) tensor = {0};
    size_t metadata = 0;
    if (!n || *text != '{') return mth__file_lies(path, F("its header does not begin with '{'"));
    if (!is_utf8(text, n)) return mth__file_lies(path, F("its header is no UTF-8"));
    take(&p.at, '{');
    if (!take(&p.at, '}')) {
        do {
            mth__file_tensor t = {0};
            if (!take_string(&p.at, &t.name) || !take(&p.at, ':'))
                return mth__file_lies(path, F("its header is broken JSON"));
            if (is(t.name, "__metadata__")) {
                if (metadata++) return mth__file_lies(path, F("its header has '__metadata__' twice"));
                TRY(read_metadata(&p));
                TRY(no_key_twice(&p, "its __metadata__"));
                continue;
            }
            TRY(read_entry(&p, data, &t));
            PUSH(arena, tensor, t);
        } while (take(&p.at, ','));
        if (!take(&p.at, '}')) return mth__file_lies(path, F("its header is broken JSON"));
    }
    skip_space(&p.at);
    if (p.at.at < p.at.end) return mth__file_lies(path, F("its header goes on behind the JSON object"));
    p.key.n = 0;
    for (size_t i = 0; i < tensor.n; i++) PUSH(arena, p.key, tensor.at[i].name);
    TRY(no_key_twice(&p, "its header"));
    *out = (mth__file_header){tensor.at, tensor.n};
    return tiles(&p, out, data);
}
