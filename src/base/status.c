#include "base/status.h"
#include "base/malloc.h"
#include "base/sink.h"
#include "base/number.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { TENSORS = 8 };
struct mth_error {
    mth_error_code code;
    /* op, source: NULL where unknown; message: of all of it, remade as the error is dressed */
    char *what, *fix, *op, *source, *message;
    char *tensor[TENSORS];
    size_t tensors;
    bool of_call; /* source is the line of the call that fails, known first; that of the operator says more */
    int system;   /* errno, 0: none */
    const char *file;
    int line;
    void *cause; /* the caller's */
    void (*release)(void *cause);
};

static char no_memory_fix[] = "use smaller shapes or microbatches, or free arrays that are no longer needed";
static mth_error no_memory_error = {
    .code = MTH_ERROR_MEMORY, .what = mth__no_memory, .fix = no_memory_fix, .message = mth__no_memory};

/* ---------------------------------------------------------------- the user's source line */
static _Thread_local char source_line[256];
/* Of a longer one the end is kept, where the number of the line is. */
void mth_set_source_line(const char *where) {
    static const char dots[] = "...";
    size_t n = where ? strlen(where) : 0;
    if (n < sizeof source_line) {
        memcpy(source_line, where ? where : "", n + 1);
        return;
    }
    const char *end = where + n - (sizeof source_line - sizeof dots);
    while (((unsigned char)*end & 0xc0) == 0x80) end++; /* to the beginning of a character of UTF-8 */
    memcpy(source_line, dots, sizeof dots - 1);
    memcpy(source_line + sizeof dots - 1, end, strlen(end) + 1);
}
const char *mth__source_line(void) { return source_line[0] ? source_line : NULL; }

/* ---------------------------------------------------------------- making errors */
static char *copy(const char *text) {
    char *made = mth__malloc(strlen(text) + 1);
    return made ? strcpy(made, text) : NULL;
}

char *mth__strf(const char *format, ...) {
    va_list list;
    va_start(list, format);
    int n = mth__vprint(NULL, 0, format, list);
    va_end(list);
    char *text = n < 0 ? NULL : mth__malloc((size_t)n + 1);
    if (!text) return mth__no_memory;
    va_start(list, format);
    mth__vprint(text, (size_t)n + 1, format, list);
    va_end(list);
    return text;
}

static size_t append(char *buffer, size_t room, size_t at, const char *before, const char *text) {
    size_t left = at < room ? room - at : 0;
    return at + (size_t)snprintf(left ? buffer + at : NULL, left, "%s%s", before, text);
}

static size_t write_message(const mth_error *error, char *buffer, size_t room) {
    char where[32];
    size_t n = 0;
    if (error->op)
        n = append(buffer, room, append(buffer, room, n, "", error->op), ": ", error->what);
    else
        n = append(buffer, room, n, "", error->what);
    for (size_t i = 0; i < error->tensors; i++) n = append(buffer, room, n, "\n  ", error->tensor[i]);
    if (error->source) n = append(buffer, room, n, "\n  at ", error->source);
    if (error->code == MTH_ERROR_INTERNAL) {
        const char *slash = strrchr(error->file, '/');
        snprintf(where, sizeof where, ":%d", error->line);
        n = append(buffer, room, append(buffer, room, n, "\n  in ", slash ? slash + 1 : error->file), "", where);
    }
    return append(buffer, room, n, "\n  fix: ", error->fix);
}

/* Where memory is gone the old message stays, or the plain one. */
static mth_status remake_message(mth_error *error) {
    size_t n = write_message(error, NULL, 0) + 1;
    char *message = mth__malloc(n);
    if (!message) return error;
    write_message(error, message, n);
    if (error->message != error->what) mth__free(error->message);
    error->message = message;
    return error;
}

mth_status mth__fail(mth_error_code code, const char *file, int line, char *what, char *fix) {
    mth_error *error = mth__calloc(1, sizeof *error);
    if (!error || what == mth__no_memory) {
        mth__free(error);
        mth__free(what);
        mth__free(fix);
        return &no_memory_error;
    }
    *error = (mth_error){.code = code,
        .what = what,
        .fix = fix == mth__no_memory ? no_memory_fix : fix,
        .message = what,
        .file = file,
        .line = line};
    if (source_line[0]) error->source = copy(source_line);
    error->of_call = error->source != NULL;
    return remake_message(error);
}

mth_status mth_error_create(
    mth_error_code code, const char *what, const char *fix, void *cause, void (*release)(void *cause)) {
    mth_error *error = mth__fail(code, __FILE__, __LINE__, F("%s", what ? what : ""), F("%s", fix ? fix : ""));
    if (error != &no_memory_error) {
        error->cause = cause;
        error->release = release;
    } else if (release) {
        release(cause);
    }
    return error;
}

mth_status mth__error_operator(mth_status error, const char *op) {
    if (!error || error == &no_memory_error || error->op || !op) return error;
    error->op = copy(op);
    return remake_message(error);
}

mth_status mth__error_errno(mth_status error, int code) {
    if (error && error != &no_memory_error) error->system = code;
    return error;
}

/* The line of the operator takes the place of that of the call. */
static mth_status replace_source(mth_status error, const char *line, bool of_call) {
    if (!error || error == &no_memory_error || (error->source && !error->of_call) || !line) return error;
    char *own = copy(line);
    if (!own) return error;
    mth__free(error->source);
    error->source = own;
    error->of_call = of_call;
    return remake_message(error);
}
mth_status mth__error_source(mth_status error, const char *line) { return replace_source(error, line, false); }
void mth_error_set_source_line(mth_error *error, const char *line) { (void)replace_source(error, line, true); }

mth_status mth__error_tensor(mth_status error, char *text) {
    if (!error || error == &no_memory_error || error->tensors == TENSORS || !text || text == mth__no_memory) {
        mth__free(text);
        return error;
    }
    error->tensor[error->tensors++] = text;
    return remake_message(error);
}

/* ---------------------------------------------------------------- reading errors */
mth_error_code mth_error_get_code(const mth_error *error) { return error ? error->code : (mth_error_code)0; }
const char *mth_error_get_message(const mth_error *error) { return error ? error->message : ""; }
const char *mth_error_get_what(const mth_error *error) { return error ? error->what : ""; }
const char *mth_error_get_fix(const mth_error *error) { return error ? error->fix : ""; }
const char *mth_error_get_operator(const mth_error *error) { return error && error->op ? error->op : ""; }
size_t mth_error_get_tensor_count(const mth_error *error) { return error ? error->tensors : 0; }
const char *mth_error_get_tensor(const mth_error *error, size_t i) {
    return error && i < error->tensors ? error->tensor[i] : "";
}

int mth_error_get_errno(const mth_error *error) { return error ? error->system : 0; }
void *mth_error_get_cause(const mth_error *error) { return error ? error->cause : NULL; }

void mth_error_free(mth_error *error) {
    if (!error || error == &no_memory_error) return;
    if (error->release) error->release(error->cause);
    if (error->message != error->what) mth__free(error->message);
    mth__free(error->what);
    if (error->fix != no_memory_fix) mth__free(error->fix);
    mth__free(error->op);
    mth__free(error->source);
    for (size_t i = 0; i < error->tensors; i++) mth__free(error->tensor[i]);
    mth__free(error);
}

/* ---------------------------------------------------------------- nearest names */
static int lower(int letter) { return letter >= 'A' && letter <= 'Z' ? letter - 'A' + 'a' : letter; }

/* Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours. Case costs nothing. */
static int distance(const char *a, size_t n, const char *b, size_t m) {
    enum { LONGEST = 64 };
    int row[3][LONGEST + 1];
    if (n > LONGEST || m > LONGEST) return LONGEST;
    for (size_t j = 0; j <= m; j++) row[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int *now = row[i % 3], *last = row[(i - 1) % 3], *before = row[(i + 1) % 3];
        now[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int x = lower(a[i - 1]), y = lower(b[j - 1]);
            int best = last[j - 1] + (x != y);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && x == lower(b[j - 2]) && lower(a[i - 2]) == y && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[n % 3][m];
}

/* The only name that begins with these letters: 'eps' means 'epsilon'. */
static const char *abbreviated(const char *name, size_t n, const char *const *names, size_t count) {
    const char *only = NULL;
    for (size_t i = 0; n > 1 && i < count; i++) {
        if (strncasecmp(names[i], name, n) != 0) continue;
        if (only) return NULL;
        only = names[i];
    }
    return only;
}

const char *mth__nearest(const char *name, const char *const *names, size_t count) {
    const char *best = NULL;
    size_t n = strlen(name);
    int limit = (int)(n / 3) < 2 ? 2 : (int)(n / 3), least = limit + 1;
    for (size_t i = 0; i < count; i++) {
        size_t m = strlen(names[i]);
        int d = distance(name, n, names[i], m);
        if (d < least && (size_t)d < m) least = d, best = names[i];
    }
    return best ? best : abbreviated(name, n, names, count);
}

char *mth__name_fix(const char *kind, const char *name, const char *const *known, size_t count) {
    enum { READABLE = 400 }; /* characters of names */
    const char *near = mth__nearest(name, known, count);
    if (near) return F("use '%s'", near);
    if (!count) return F("leave '%s' out: there is no %s", name, kind);
    size_t shown = 0, room = 1;
    while (shown < count && (shown == 0 || room + strlen(known[shown]) < READABLE))
        room += strlen(known[shown++]) + strlen(", ''");
    char *list = mth__malloc(room);
    if (!list) return mth__no_memory;
    mth__sink sink = mth__sink_new(list, room);
    for (size_t i = 0; i < shown; i++) mth__sink_add(&sink, i ? ", '%s'" : "'%s'", known[i]);
    char *fix = count == 1 ? F("the only %s is %s", kind, list)
        : shown < count    ? F("the %ss are %s and %zu more", kind, list, count - shown)
                           : F("the %ss are %s", kind, list);
    mth__free(list);
    return fix;
}

mth_status mth__result_given(const void *out) { return mth__given(out, "the address of the result"); }

mth_status mth__given(const void *object, const char *what) {
    return object ? NULL : FAIL(MTH_ERROR_TYPE, F("%s is NULL", what), F("give %s", what));
}

mth_status mth__lacks_memory(const char *what, int64_t bytes) {
    return FAIL(MTH_ERROR_MEMORY,
        bytes ? F("no memory for %lld bytes of %s", (long long)bytes, what) : F("no memory for %s", what),
        F("free arrays and models that are no longer needed, give smaller inputs, or spread the model over more "
          "devices"));
}
