#include "base/machine.h"
#include "base/number.h"
#include "base/types.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_BYTES = 1 << 16 /* of a file */ };

/* ---------------------------------------------------------------- figures */
static const char *const flops_dtypes[] = {"float64", "float32", "float16", "bfloat16"};
enum { FLOPS_DTYPES = sizeof flops_dtypes / sizeof *flops_dtypes, FLOAT32 = 1 };
typedef enum { FLOPS, MEMORY_RATE, KERNEL_LATENCY, LINK_RATE, LINK_LATENCY, DEVICE_MEMORY, CORES, KEYS } figure_key;
static const char *const keys[KEYS] = {
    "flops", "memory_rate", "kernel_latency", "link_rate", "link_latency", "device_memory", "cores"};

typedef struct {
    mth__arena *arena;
    const char *file, *at;
    int line;
    int line_of[KEYS], flops_line[FLOPS_DTYPES]; /* where it stands; 0: nowhere */
    double flops[FLOPS_DTYPES];
    int links[KEYS]; /* figures of LINK_RATE, LINK_LATENCY */
    mth__machine *machine;
} machine_reading;

static mth_status wrong(const machine_reading *r, char *what, char *fix) {
    mth_status s = FAIL(MTH_ERROR_VALUE, F("%s, line %d: %s", r->file, r->line, what), F("%s", fix));
    mth__free(what);
    mth__free(fix);
    return s;
}

static void skip_blanks(machine_reading *r) {
    while (*r->at == ' ' || *r->at == '\t' || *r->at == '\r') r->at++;
}
static bool at_end(machine_reading *r) {
    skip_blanks(r);
    return !*r->at || *r->at == '\n' || *r->at == '#';
}

/* What stands there, for an error; at most 40 bytes of it. */
static char *word(machine_reading *r) {
    skip_blanks(r);
    size_t n = strcspn(r->at, " \t\r\n#");
    char *text = mth__format(r->arena, "%.*s", (int)(n > 40 ? 40 : n), r->at);
    r->at += n;
    return text;
}

static mth_status read_figure(machine_reading *r, const char *what, bool zero, double *out) {
    const char *end;
    skip_blanks(r);
    double figure = mth__read_real(r->at, &end);
    const bool ends = end > r->at && strchr(" \t\r\n#", *end);
    if (!ends || !isfinite(figure) || figure < 0 || (figure == 0 && !zero) || (figure > 0 && figure < 1e-30) ||
        figure > 1e30)
        return wrong(r, F("'%s' is no figure of %s", word(r), what),
            F("give a number %s, such as 50e9", zero ? "of 0 or more" : "above 0"));
    r->at = end;
    *out = figure;
    return NULL;
}

static mth_status read_list(machine_reading *r, figure_key k, bool zero, double out[MTH__MACHINE_AXES]) {
    for (int n = 0; !at_end(r); n++) {
        if (n == MTH__MACHINE_AXES)
            return wrong(r, F("%s has more than %d figures", keys[k], MTH__MACHINE_AXES),
                F("give one for each axis of a mesh, the innermost first"));
        TRY(read_figure(r, keys[k], zero, &out[n]));
        r->links[k] = n + 1;
    }
    if (!r->links[k]) return wrong(r, F("%s has no figure", keys[k]), F("write it behind, as in '%s 1'", keys[k]));
    for (int n = r->links[k]; n < MTH__MACHINE_AXES; n++) out[n] = out[n - 1];
    return NULL;
}

static mth_status read_flops(machine_reading *r) {
    const char *name = word(r);
    int dtype = 0;
    while (dtype < FLOPS_DTYPES && strcmp(name, flops_dtypes[dtype])) dtype++;
    if (dtype == FLOPS_DTYPES) {
        const char *near = mth__nearest(name, flops_dtypes, FLOPS_DTYPES);
        return wrong(r, F("flops of '%s', which is no dtype of products", name),
            near ? F("write '%s'", near) : F("write flops float32, and others by dtype below it"));
    }
    if (r->flops_line[dtype])
        return wrong(r, F("flops %s stands in line %d already", name, r->flops_line[dtype]), F("leave one of them"));
    r->flops_line[dtype] = r->line;
    return read_figure(r, "flops", false, &r->flops[dtype]);
}

static mth_status read_line(machine_reading *r) {
    if (at_end(r)) return NULL;
    const char *name = word(r);
    int k = 0;
    while (k < KEYS && strcmp(name, keys[k])) k++;
    if (k == KEYS) {
        char *fix = mth__name_fix("figure", name, keys, KEYS);
        return wrong(r, F("'%s' is no figure of a machine", name), fix);
    }
    if (k != FLOPS && r->line_of[k])
        return wrong(r, F("%s stands in line %d already", name, r->line_of[k]), F("leave one of them"));
    r->line_of[k] = r->line;
    mth__machine *m = r->machine;
    double cores;
    switch ((figure_key)k) {
    case FLOPS: TRY(read_flops(r)); break;
    case MEMORY_RATE: TRY(read_figure(r, name, false, &m->memory_rate)); break;
    case KERNEL_LATENCY: TRY(read_figure(r, name, true, &m->kernel_latency)); break;
    case LINK_RATE: TRY(read_list(r, LINK_RATE, false, m->link_rate)); break;
    case LINK_LATENCY: TRY(read_list(r, LINK_LATENCY, true, m->link_latency)); break;
    case DEVICE_MEMORY: TRY(read_figure(r, name, false, &m->device_memory)); break;
    default:
        TRY(read_figure(r, name, false, &cores));
        if (cores != floor(cores) || cores > 1 << 20)
            return wrong(r, F("cores are counted in whole numbers up to 2^20"), F("write the number of cores"));
        m->cores = (int)cores;
    }
    if (!at_end(r)) return wrong(r, F("'%s' stands behind the figures of %s", word(r), name), F("leave it out"));
    return NULL;
}

mth_status mth__machine_parse(mth__arena *arena, const char *file, const char *text, mth__machine **out) {
    machine_reading r = {.arena = arena, .file = file, .at = text, .line = 1, .machine = NEW(arena, mth__machine)};
    for (;; r.line++) {
        TRY(read_line(&r));
        r.at += strcspn(r.at, "\n");
        if (!*r.at) break;
        r.at++;
    }
    for (int k = 0; k < DEVICE_MEMORY; k++)
        if (!r.line_of[k] || (k == FLOPS && !r.flops_line[FLOAT32]))
            return wrong(&r, F("the file ends without %s", k == FLOPS ? "flops float32" : keys[k]),
                F("add a line of it; machines/nominal.txt has them all"));
    mth__machine *m = r.machine;
    m->name = mth__copy_text(arena, file);
    for (int dtype = 0; dtype < MTH__MACHINE_DTYPES; dtype++) {
        m->flops[dtype] = r.flops[FLOAT32];
        for (int k = 0; k < FLOPS_DTYPES; k++)
            if (r.flops_line[k] && !strcmp(mth_dtype_name((mth_dtype)dtype), flops_dtypes[k]))
                m->flops[dtype] = r.flops[k];
    }
    *out = m;
    return NULL;
}

mth_status mth__machine_read(mth__arena *arena, const char *file, mth__machine **out) {
    char *text = mth__alloc(arena, MOST_BYTES + 2);
    FILE *f = fopen(file, "re");
    if (!f) {
        const int code = errno;
        mth_status s = FAIL(MTH_ERROR_IO, F("the machine file '%s' can't be opened: %s", file, strerror(code)),
            F("name a file that can be read, or a machine that is built in, such as 'nominal'"));
        return mth__error_errno(s, code);
    }
    size_t n = fread(text, 1, MOST_BYTES + 1, f);
    const bool failed = ferror(f) != 0;
    fclose(f);
    if (failed)
        return FAIL(MTH_ERROR_IO, F("the machine file '%s' can't be read", file), F("name a file, not a folder"));
    if (n > MOST_BYTES || memchr(text, 0, n))
        return FAIL(MTH_ERROR_VALUE, F("'%s' is no machine file: it is no text of at most %d bytes", file, MOST_BYTES),
            F("write one as machines/nominal.txt"));
    return mth__machine_parse(arena, file, text, out);
}

/* ---------------------------------------------------------------- built in */
bool mth__machine_is_builtin(const char *name) {
    for (const mth__machine_file *f = mth__machine_files; f->name; f++)
        if (!strcmp(f->name, name)) return true;
    return false;
}

mth_status mth__machine_builtin(mth__arena *arena, const char *name, mth__machine **out) {
    enum { MOST = 32 };
    const char *known[MOST + 1] = {"calibrate"};
    size_t n = 1;
    for (const mth__machine_file *f = mth__machine_files; f->name; f++) {
        if (!strcmp(f->name, name)) return mth__machine_parse(arena, f->name, f->text, out);
        if (n < MOST) known[n++] = f->name;
    }
    return FAIL(MTH_ERROR_VALUE, F("there is no machine '%s'", name), mth__name_fix("machine", name, known, n));
}

/* ---------------------------------------------------------------- on a mesh */
mth__device_model mth__device_model_of(const mth__machine *m, int naxes, int devices) {
    const double share = m->cores ? devices : 1;
    const double turns = m->cores && devices > m->cores ? (double)devices / m->cores : 1; /* to wait for a core */
    mth__device_model model = {.machine = m,
        .memory_rate = m->memory_rate / share,
        .kernel_latency = m->kernel_latency * turns,
        .device_memory = m->device_memory && m->device_memory < 9e18 ? (int64_t)(m->device_memory / share) : INT64_MAX,
        .slowest_rate = INFINITY};
    for (int dtype = 0; dtype < MTH__MACHINE_DTYPES; dtype++) model.flops[dtype] = m->flops[dtype] / share;
    for (int a = 0; a < naxes; a++) {
        const int axis = naxes - 1 - a;
        model.link_rate[axis] = m->link_rate[a] / share;
        model.link_latency[axis] = m->link_latency[a] * turns;
        model.slowest_rate = fmin(model.slowest_rate, model.link_rate[axis]);
        model.slowest_latency = fmax(model.slowest_latency, model.link_latency[axis]);
    }
    return model;
}

static void print_list(mth__text *t, const char *name, const double figure[MTH__MACHINE_AXES]) {
    int n = MTH__MACHINE_AXES;
    while (n > 1 && figure[n - 1] == figure[n - 2]) n--;
    mth__text_add(t, "%s", name);
    for (int i = 0; i < n; i++) mth__text_add(t, " %.3g", figure[i]);
    mth__text_add(t, "\n");
}

void mth__machine_print(mth__text *t, const mth__machine *m) {
    for (int dtype = 1; dtype < MTH__MACHINE_DTYPES; dtype++)
        for (int k = 0; k < FLOPS_DTYPES; k++)
            if (!strcmp(mth_dtype_name((mth_dtype)dtype), flops_dtypes[k]) &&
                (k == FLOAT32 || m->flops[dtype] != m->flops[MTH_FLOAT32]))
                mth__text_add(t, "flops %s %.3g\n", flops_dtypes[k], m->flops[dtype]);
    mth__text_add(t, "memory_rate %.3g\nkernel_latency %.3g\n", m->memory_rate, m->kernel_latency);
    print_list(t, "link_rate", m->link_rate);
    print_list(t, "link_latency", m->link_latency);
    if (m->device_memory) mth__text_add(t, "device_memory %.3g\n", m->device_memory);
    if (m->cores) mth__text_add(t, "cores %d\n", m->cores);
}
