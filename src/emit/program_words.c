#include "emit/program_words.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const char *const mth__memory_words[MTH__MEMORY_KINDS] = {
    "activation", "weight", "gradient", "input", "output", "communication", "optimizer"};
const char *const mth__entry_words[MTH__ENTRY_KINDS] = {"input", "parameter", "seed", "state", "scalar"};
const char *const mth__exit_words[MTH__EXIT_KINDS] = {"output", "gradient", "successor"};
const char *const mth__space_words[MTH__SPACES] = {"slab", "host"};
const char *const mth__copy_words[MTH__SPACES] = {"reload", "offload"};
const char *const mth__stream_owners[MTH__STREAMS] = {"computes", "communicates", "copies between spaces"};

/* what may follow operands, and where values lie */
static const char *const reserved[] = {"work", "region", "stage", "microbatch", "recompute", "backward", "update",
    "from", "entry", "exit", "slab", "host", "own"};

bool mth__plain_name(const char *name, size_t n) {
    for (size_t k = 0; k < sizeof reserved / sizeof *reserved; k++)
        if (strlen(reserved[k]) == n && !memcmp(reserved[k], name, n)) return false;
    if (n && name[0] >= '0' && name[0] <= '9') return false;
    for (size_t i = 0; i < n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.%~", name[i]) || !name[i])
            return false;
    return n > 0;
}

mth__memory_kind mth__usual_memory(const mth__program *program, mth__storage storage, int index) {
    static const mth__memory_kind of_entry[MTH__ENTRY_KINDS] = {
        MTH__MEMORY_INPUT, MTH__MEMORY_WEIGHT, MTH__MEMORY_INPUT, MTH__MEMORY_OPTIMIZER, MTH__MEMORY_INPUT};
    if (storage == MTH__IN_ENTRY) return of_entry[program->entry.at[index].kind];
    if (storage != MTH__IN_EXIT) return MTH__MEMORY_ACTIVATION;
    const mth__exit *exit = &program->exit.at[index];
    if (exit->kind == MTH__EXIT_SUCCESSOR) return of_entry[program->entry.at[exit->entry].kind];
    return exit->kind == MTH__EXIT_GRADIENT ? MTH__MEMORY_GRADIENT : MTH__MEMORY_OUTPUT;
}

int mth__usual_stream(mth__instr_kind kind) { return kind == MTH__COMPUTE ? 0 : kind == MTH__COPY ? 2 : 1; }

/* ---------------------------------------------------------------- reading */
mth_status mth__read_fail(const mth__reader *reader, char *what) {
    char line[256], near[40];
    size_t n = strcspn(reader->at, "\n");
    mth__print(line, sizeof line, "%.*s", (int)(n < sizeof line ? n : sizeof line - 1), reader->at);
    mth__brief(near, sizeof near, line);
    mth_status status = FAIL(MTH_ERROR_VALUE, F("line %d of the plan: %s at '%s'", reader->line, what, near),
        F("give a text as mth_plan_print makes it"));
    mth__free(what);
    return status;
}

/* ---------------------------------------------------------------- words */
void mth__read_skip(mth__reader *reader) { reader->at += strspn(reader->at, " "); }
bool mth__read_ends(mth__reader *reader) {
    mth__read_skip(reader);
    return *reader->at == '\n' || *reader->at == 0;
}
bool mth__is_word(char character) {
    return character && strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.%~", character);
}

bool mth__read_symbol(mth__reader *reader, char character) {
    mth__read_skip(reader);
    if (*reader->at != character) return false;
    reader->at++;
    return true;
}

bool mth__read_word(mth__reader *reader, const char *word) {
    size_t n = strlen(word);
    mth__read_skip(reader);
    if (strncmp(reader->at, word, n) || mth__is_word(reader->at[n])) return false;
    reader->at += n;
    return true;
}

mth_status mth__read_need(mth__reader *reader, const char *word) {
    bool found = mth__is_word(*word) ? mth__read_word(reader, word) : mth__read_symbol(reader, *word);
    return found ? NULL : mth__read_fail(reader, F("'%s' is missing", word));
}

mth_status mth__read_one_of(mth__reader *reader, const char *const *words, int n, const char *what, int *out) {
    for (int i = 0; i < n; i++)
        if (mth__read_word(reader, words[i])) {
            *out = i;
            return NULL;
        }
    return mth__read_fail(reader, F("no %s", what));
}

mth_status mth__read_integer(mth__reader *reader, int64_t low, int64_t high, int64_t *out) {
    mth__read_skip(reader);
    const char *from = reader->at;
    bool minus = *from == '-';
    if (minus) from++;
    if (*from < '0' || *from > '9') return mth__read_fail(reader, F("a number is missing"));
    int64_t value = 0;
    for (; *from >= '0' && *from <= '9'; from++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_sub_overflow(value, *from - '0', &value))
            return mth__read_fail(reader, F("the number is too large"));
    if (!minus && __builtin_sub_overflow((int64_t)0, value, &value))
        return mth__read_fail(reader, F("the number is too large"));
    if (value < low || value > high)
        return mth__read_fail(reader, F("the number is outside %" PRId64 " to %" PRId64, low, high));
    reader->at = from;
    *out = value;
    return NULL;
}

mth_status mth__read_small(mth__reader *reader, int low, int high, int *out) {
    int64_t value;
    TRY(mth__read_integer(reader, low, high, &value));
    *out = (int)value;
    return NULL;
}

/* "c3", "p0" */
mth_status mth__read_reference(mth__reader *reader, char letter, size_t count, int *out) {
    mth__read_skip(reader);
    if (*reader->at != letter) return mth__read_fail(reader, F("'%c' and a number are missing", letter));
    reader->at++;
    return mth__read_small(reader, 0, (int)count - 1, out);
}

mth_status mth__read_quoted(mth__reader *reader, const char **out) {
    TRY(mth__read_need(reader, "\""));
    const char *end = reader->at;
    while (*end != '"' && *end != '\n' && *end) end += *end == '\\' && end[1] && end[1] != '\n' ? 2 : 1;
    if (*end != '"') return mth__read_fail(reader, F("a quote does not end"));
    char *text = mth__alloc(reader->arena, (size_t)(end - reader->at) + 1), *to = text;
    while (reader->at < end) {
        if (*reader->at == '\\' && reader->at[1] == 'x') {
            char hex[3] = {reader->at[2], reader->at[2] ? reader->at[3] : 0, 0}, *stop;
            long code = strtol(hex, &stop, 16);
            if (stop != hex + 2 || code == 0) return mth__read_fail(reader, F("\\x needs two digits, not 00"));
            *to++ = (char)code;
            reader->at += 4;
        } else {
            reader->at += *reader->at == '\\';
            *to++ = *reader->at++;
        }
    }
    reader->at++;
    *out = text;
    return NULL;
}

mth_status mth__read_name(mth__reader *reader, const char **out) {
    mth__read_skip(reader);
    if (*reader->at == '"') return mth__read_quoted(reader, out);
    size_t n = 0;
    while (mth__is_word(reader->at[n])) n++;
    if (!mth__plain_name(reader->at, n)) return mth__read_fail(reader, F("a name is missing"));
    char *name = mth__alloc(reader->arena, n + 1);
    memcpy(name, reader->at, n);
    reader->at += n;
    *out = name;
    return NULL;
}
