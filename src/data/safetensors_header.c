#include "data/safetensors_header.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    char *at;
    const char *end;
} cursor;
enum { SHOWN = 100 }; /* bytes of a name in an error: a file may hold names of any length */

mth_status mth__file_lies(const char *path, char *what) {
    mth_status status = FAIL(MTH_ERROR_IO, F("%s is no valid safetensors file: %s", path, what),
        F("fetch the file again: it is damaged or of another format"));
    mth__free(what);
    return status;
}

/* ---------------------------------------------------------------- UTF-8 and JSON */
static bool is_continuation(unsigned char character) { return (character & 0xc0) == 0x80; }

/* How many bytes the character at `at` has; 0 where it is not valid: too long a form, a surrogate, or above
 * U+10FFFF. */
static size_t character(const unsigned char *at, size_t room) {
    if (at[0] < 0x80) return 1;
    const size_t n = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    if (at[0] < 0xc2 || at[0] > 0xf4 || n > room) return 0;
    for (size_t i = 1; i < n; i++)
        if (!is_continuation(at[i])) return 0;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90) ||
        (at[0] == 0xf4 && at[1] > 0x8f))
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

static void skip_space(cursor *text) {
    while (text->at < text->end && (*text->at == ' ' || *text->at == '\n' || *text->at == '\t' || *text->at == '\r'))
        text->at++;
}

static bool take(cursor *text, char wanted) {
    skip_space(text);
    if (text->at >= text->end || *text->at != wanted) return false;
    text->at++;
    return true;
}

static bool take_hex(cursor *text, uint32_t *out) {
    if (text->end - text->at < 6 || text->at[0] != '\\' || text->at[1] != 'u') return false;
    *out = 0;
    for (int i = 2; i < 6; i++) {
        const char digit = text->at[i];
        const int value = digit >= '0' && digit <= '9' ? digit - '0'
            : digit >= 'a' && digit <= 'f'             ? digit - 'a' + 10
            : digit >= 'A' && digit <= 'F'             ? digit - 'A' + 10
                                                       : -1;
        if (value < 0) return false;
        *out = *out << 4 | (uint32_t)value;
    }
    text->at += 6;
    return true;
}

/* An escape becomes UTF-8, which is never longer than the escape was. */
static bool take_escape(cursor *text, char **to) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (text->end - text->at < 2) return false;
    if (text->at[1] != 'u') {
        const char *name = text->at[1] ? strchr(names, text->at[1]) : NULL;
        if (!name) return false;
        *(*to)++ = values[name - names];
        text->at += 2;
        return true;
    }
    uint32_t code, low;
    if (!take_hex(text, &code) || (code >= 0xdc00 && code < 0xe000)) return false;
    if (code >= 0xd800 && code < 0xdc00) {
        if (!take_hex(text, &low) || low < 0xdc00 || low >= 0xe000) return false;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
    *(*to)++ = (char)(first[more] | code >> 6 * more);
    for (int i = more - 1; i >= 0; i--) *(*to)++ = (char)(0x80 | (code >> 6 * i & 63));
    return true;
}

static bool take_string(cursor *text, mth__file_text *out) {
    if (!take(text, '"')) return false;
    char *to = text->at;
    out->at = to;
    while (text->at < text->end && *text->at != '"') {
        if ((unsigned char)*text->at < 0x20) return false;
        if (*text->at != '\\')
            *to++ = *text->at++;
        else if (!take_escape(text, &to))
            return false;
    }
    if (text->at >= text->end) return false;
    text->at++;
    out->n = (size_t)(to - out->at);
    *to = 0; /* at the latest where the closing quote stood */
    return true;
}

/* A whole number, without a sign, a fraction or zeros in front. */
static bool take_number(cursor *text, uint64_t *out) {
    skip_space(text);
    uint64_t value = 0;
    const char *begin = text->at;
    for (; text->at < text->end && *text->at >= '0' && *text->at <= '9'; text->at++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text->at - '0'), &value))
            return false;
    *out = value;
    return text->at > begin && (*begin != '0' || text->at == begin + 1);
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

static mth_status entry_lies(const parse *parser, const mth__file_tensor *tensor, char *what) {
    char *named = F("tensor '%.*s' %s", tensor->name.n < SHOWN ? (int)tensor->name.n : SHOWN, tensor->name.at, what);
    mth__free(what);
    return mth__file_lies(parser->path, named);
}

static mth_status read_shape(parse *parser, mth__file_tensor *tensor, uint64_t *elements) {
    uint64_t size;
    *elements = 1;
    tensor->rank = 0;
    if (!take(&parser->at, '[')) return entry_lies(parser, tensor, F("has a shape that is no list"));
    if (take(&parser->at, ']')) return NULL;
    do {
        if (!take_number(&parser->at, &size) || size > INT64_MAX)
            return entry_lies(parser, tensor, F("has a size that is no whole number from 0 to 2^63 - 1"));
        if (__builtin_mul_overflow(*elements, size, elements))
            return entry_lies(parser, tensor, F("has more elements than 2^64"));
        if (tensor->rank < MTH__RANK) tensor->dim[tensor->rank] = (int64_t)size;
        tensor->rank++;
    } while (take(&parser->at, ','));
    return take(&parser->at, ']') ? NULL : entry_lies(parser, tensor, F("has a shape that does not end"));
}

static mth_status read_entry(parse *parser, uint64_t data, mth__file_tensor *tensor) {
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    cursor *at = &parser->at;
    int seen = 0, bits = 0;
    uint64_t elements = 0, size;
    if (!take(at, '{')) return entry_lies(parser, tensor, F("is no object"));
    do {
        mth__file_text key, text;
        if (!take_string(at, &key) || !take(at, ':')) return entry_lies(parser, tensor, F("is broken JSON"));
        const int field = is(key, "dtype") ? DTYPE : is(key, "shape") ? SHAPE : is(key, "data_offsets") ? OFFSETS : 0;
        if (!field)
            return entry_lies(
                parser, tensor, F("has an unknown field '%.*s'", key.n < SHOWN ? (int)key.n : SHOWN, key.at));
        if (seen & field) return entry_lies(parser, tensor, F("has its %s twice", key.at));
        seen |= field;
        if (field == SHAPE)
            TRY(read_shape(parser, tensor, &elements));
        else if (field == OFFSETS) {
            if (!take(at, '[') || !take_number(at, &tensor->begin) || !take(at, ',') ||
                !take_number(at, &tensor->end) || !take(at, ']'))
                return entry_lies(parser, tensor, F("has data_offsets that are no two whole numbers"));
        } else {
            if (!take_string(at, &text)) return entry_lies(parser, tensor, F("has a dtype that is no text"));
            for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
                if (is(text, dtypes[i].name)) tensor->dtype = dtypes[i].name, bits = dtypes[i].bits;
            if (!tensor->dtype)
                return entry_lies(parser, tensor,
                    F("has the dtype '%.*s', which the format does not have", text.n < SHOWN ? (int)text.n : SHOWN,
                        text.at));
        }
    } while (take(at, ','));
    if (!take(at, '}')) return entry_lies(parser, tensor, F("is broken JSON"));
    if (seen != (DTYPE | SHAPE | OFFSETS))
        return entry_lies(
            parser, tensor, F("has no %s", seen & DTYPE ? seen & SHAPE ? "data_offsets" : "shape" : "dtype"));
    if (__builtin_mul_overflow(elements, (uint64_t)bits, &size) || size % 8)
        return entry_lies(parser, tensor, F("has no whole number of bytes below 2^61"));
    if (tensor->begin > tensor->end || tensor->end > data || tensor->end - tensor->begin != size / 8)
        return entry_lies(parser, tensor,
            F("claims bytes %llu to %llu of %llu for %llu bytes of shape and dtype", (unsigned long long)tensor->begin,
                (unsigned long long)tensor->end, (unsigned long long)data, (unsigned long long)(size / 8)));
    return NULL;
}

static mth_status read_metadata(parse *parser) {
    mth__file_text key, value;
    parser->key.n = 0;
    if (!take(&parser->at, '{')) return mth__file_lies(parser->path, F("its __metadata__ is no object"));
    if (take(&parser->at, '}')) return NULL;
    do {
        if (!take_string(&parser->at, &key) || !take(&parser->at, ':') || !take_string(&parser->at, &value))
            return mth__file_lies(parser->path, F("its __metadata__ is no object of texts"));
        PUSH(parser->arena, parser->key, key);
    } while (take(&parser->at, ','));
    return take(&parser->at, '}') ? NULL : mth__file_lies(parser->path, F("its __metadata__ does not end"));
}

/* ---------------------------------------------------------------- the whole */
static int by_text(const void *a, const void *b) {
    const mth__file_text *x = a, *y = b;
    const int order = memcmp(x->at, y->at, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static mth_status no_key_twice(parse *parser, const char *where) {
    if (parser->key.n) qsort(parser->key.at, parser->key.n, sizeof *parser->key.at, by_text);
    for (size_t i = 1; i < parser->key.n; i++) {
        const mth__file_text key = parser->key.at[i];
        if (by_text(&key, &parser->key.at[i - 1]) == 0)
            return mth__file_lies(
                parser->path, F("%s has '%.*s' twice", where, key.n < SHOWN ? (int)key.n : SHOWN, key.at));
    }
    return NULL;
}

static int by_offset(const void *a, const void *b) {
    const mth__file_tensor *x = *(mth__file_tensor *const *)a, *y = *(mth__file_tensor *const *)b;
    return x->begin != y->begin ? (x->begin > y->begin) - (x->begin < y->begin) : (x->end > y->end) - (x->end < y->end);
}

static mth_status tiles(parse *parser, const mth__file_header *header, uint64_t data) {
    mth__file_tensor **order = NEW_ARRAY(parser->arena, mth__file_tensor *, header->count);
    uint64_t end = 0;
    for (size_t i = 0; i < header->count; i++) order[i] = &header->tensor[i];
    if (header->count) qsort(order, header->count, sizeof *order, by_offset);
    for (size_t i = 0; i < header->count; end = order[i++]->end)
        if (order[i]->begin != end)
            return entry_lies(parser, order[i],
                order[i]->begin < end ? F("begins at byte %llu, inside the tensor before it, which ends at %llu",
                                            (unsigned long long)order[i]->begin, (unsigned long long)end)
                                      : F("begins at byte %llu, and bytes from %llu on belong to none",
                                            (unsigned long long)order[i]->begin, (unsigned long long)end));
    if (end != data)
        return mth__file_lies(
            parser->path, F("its tensors end at byte %llu of %llu", (unsigned long long)end, (unsigned long long)data));
    return NULL;
}

mth_status mth__file_header_read(
    mth__arena *arena, const char *path, char *text, size_t n, uint64_t data, mth__file_header *out) {
    parse parser = {.arena = arena, .path = path, .at = {text, text + n}};
    VEC(mth__file_tensor) tensor = {0};
    size_t metadata = 0;
    if (!n || *text != '{') return mth__file_lies(path, F("its header does not begin with '{'"));
    if (!is_utf8(text, n)) return mth__file_lies(path, F("its header is no UTF-8"));
    take(&parser.at, '{');
    if (!take(&parser.at, '}')) {
        do {
            mth__file_tensor read = {0};
            if (!take_string(&parser.at, &read.name) || !take(&parser.at, ':'))
                return mth__file_lies(path, F("its header is broken JSON"));
            if (is(read.name, "__metadata__")) {
                if (metadata++) return mth__file_lies(path, F("its header has '__metadata__' twice"));
                TRY(read_metadata(&parser));
                TRY(no_key_twice(&parser, "its __metadata__"));
                continue;
            }
            TRY(read_entry(&parser, data, &read));
            PUSH(arena, tensor, read);
        } while (take(&parser.at, ','));
        if (!take(&parser.at, '}')) return mth__file_lies(path, F("its header is broken JSON"));
    }
    skip_space(&parser.at);
    if (parser.at.at < parser.at.end) return mth__file_lies(path, F("its header goes on behind the JSON object"));
    parser.key.n = 0;
    for (size_t i = 0; i < tensor.n; i++) PUSH(arena, parser.key, tensor.at[i].name);
    TRY(no_key_twice(&parser, "its header"));
    *out = (mth__file_header){tensor.at, tensor.n};
    return tiles(&parser, out, data);
}
