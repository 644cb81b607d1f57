#include "base/machine.h"
#include "base/file.h"
#include "base/number.h"
#include "base/types.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

static mth_status wrong(const machine_reading *reading, char *what, char *fix) {
    mth_status status = FAIL(MTH_ERROR_VALUE, F("%s, line %d: %s", reading->file, reading->line, what), F("%s", fix));
    mth__free(what);
    mth__free(fix);
    return status;
}

static void skip_blanks(machine_reading *reading) {
    while (*reading->at == ' ' || *reading->at == '\t' || *reading->at == '\r') reading->at++;
}
static bool at_end(machine_reading *reading) {
    skip_blanks(reading);
    return !*reading->at || *reading->at == '\n' || *reading->at == '#';
}

/* What stands there, for an error; at most 40 bytes of it. */
static char *word(machine_reading *reading) {
    skip_blanks(reading);
    size_t n = strcspn(reading->at, " \t\r\n#");
    char *text = mth__format(reading->arena, "%.*s", (int)(n > 40 ? 40 : n), reading->at);
    reading->at += n;
    return text;
}

static mth_status read_figure(machine_reading *reading, const char *what, bool zero, double *out) {
    const char *end;
    skip_blanks(reading);
    double figure = mth__read_real(reading->at, &end);
    const bool ends = end > reading->at && strchr(" \t\r\n#", *end);
    if (!ends || !isfinite(figure) || figure < 0 || (figure == 0 && !zero) || (figure > 0 && figure < 1e-30) ||
        figure > 1e30)
        return wrong(reading, F("'%s' is no figure of %s", word(reading), what),
            F("give a number %s, such as 50e9", zero ? "of 0 or more" : "above 0"));
    reading->at = end;
    *out = figure;
    return NULL;
}

static mth_status read_list(machine_reading *reading, figure_key key, bool zero, double out[MTH__MACHINE_AXES]) {
    for (int n = 0; !at_end(reading); n++) {
        if (n == MTH__MACHINE_AXES)
            return wrong(reading, F("%s has more than %d figures", keys[key], MTH__MACHINE_AXES),
                F("give one for each axis of a mesh, the innermost first"));
        TRY(read_figure(reading, keys[key], zero, &out[n]));
        reading->links[key] = n + 1;
    }
    if (!reading->links[key])
        return wrong(reading, F("%s has no figure", keys[key]), F("write it behind, as in '%s 1'", keys[key]));
    for (int n = reading->links[key]; n < MTH__MACHINE_AXES; n++) out[n] = out[n - 1];
    return NULL;
}

static mth_status read_flops(machine_reading *reading) {
    const char *name = word(reading);
    int dtype = 0;
    while (dtype < FLOPS_DTYPES && strcmp(name, flops_dtypes[dtype])) dtype++;
    if (dtype == FLOPS_DTYPES) {
        const char *near = mth__nearest(name, flops_dtypes, FLOPS_DTYPES);
        return wrong(reading, F("flops of '%s', which is no dtype of products", name),
            near ? F("write '%s'", near) : F("write flops float32, and others by dtype below it"));
    }
    if (reading->flops_line[dtype])
        return wrong(
            reading, F("flops %s stands in line %d already", name, reading->flops_line[dtype]), F("leave one of them"));
    reading->flops_line[dtype] = reading->line;
    return read_figure(reading, "flops", false, &reading->flops[dtype]);
}

static mth_status read_line(machine_reading *reading) {
    if (at_end(reading)) return NULL;
    const char *name = word(reading);
    int k = 0;
    while (k < KEYS && strcmp(name, keys[k])) k++;
    if (k == KEYS) {
        char *fix = mth__name_fix("figure", name, keys, KEYS);
        return wrong(reading, F("'%s' is no figure of a machine", name), fix);
    }
    if (k != FLOPS && reading->line_of[k])
        return wrong(reading, F("%s stands in line %d already", name, reading->line_of[k]), F("leave one of them"));
    reading->line_of[k] = reading->line;
    mth__machine *machine = reading->machine;
    double cores;
    switch ((figure_key)k) {
    case FLOPS: TRY(read_flops(reading)); break;
    case MEMORY_RATE: TRY(read_figure(reading, name, false, &machine->memory_rate)); break;
    case KERNEL_LATENCY: TRY(read_figure(reading, name, true, &machine->kernel_latency)); break;
    case LINK_RATE: TRY(read_list(reading, LINK_RATE, false, machine->link_rate)); break;
    case LINK_LATENCY: TRY(read_list(reading, LINK_LATENCY, true, machine->link_latency)); break;
    case DEVICE_MEMORY: TRY(read_figure(reading, name, false, &machine->device_memory)); break;
    default:
        TRY(read_figure(reading, name, false, &cores));
        if (cores != floor(cores) || cores > 1 << 20)
            return wrong(reading, F("cores are counted in whole numbers up to 2^20"), F("write the number of cores"));
        machine->cores = (int)cores;
    }
    if (!at_end(reading))
        return wrong(reading, F("'%s' stands behind the figures of %s", word(reading), name), F("leave it out"));
    return NULL;
}

mth_status mth__machine_parse(mth__arena *arena, const char *file, const char *text, mth__machine **out) {
    machine_reading reading = {
        .arena = arena, .file = file, .at = text, .line = 1, .machine = NEW(arena, mth__machine)};
    for (;; reading.line++) {
        TRY(read_line(&reading));
        reading.at += strcspn(reading.at, "\n");
        if (!*reading.at) break;
        reading.at++;
    }
    for (int k = 0; k < DEVICE_MEMORY; k++)
        if (!reading.line_of[k] || (k == FLOPS && !reading.flops_line[FLOAT32]))
            return wrong(&reading, F("the file ends without %s", k == FLOPS ? "flops float32" : keys[k]),
                F("add a line of it; machines/nominal.txt has them all"));
    mth__machine *machine = reading.machine;
    machine->name = mth__copy_text(arena, file);
    for (int dtype = 0; dtype < MTH__DTYPE_COUNT; dtype++) {
        machine->flops[dtype] = reading.flops[FLOAT32];
        for (int k = 0; k < FLOPS_DTYPES; k++)
            if (reading.flops_line[k] && !strcmp(mth_dtype_name((mth_dtype)dtype), flops_dtypes[k]))
                machine->flops[dtype] = reading.flops[k];
    }
    *out = machine;
    return NULL;
}

mth_status mth__machine_read(mth__arena *arena, const char *file, mth__machine **out) {
    char *text = mth__alloc(arena, MOST_BYTES + 2);
    uint64_t bytes;
    const char *other;
    const int descriptor = mth__open_to_read(file, &bytes, &other);
    if (descriptor < 0) {
        const int code = errno;
        mth_status status =
            FAIL(MTH_ERROR_IO, F("the machine file '%s' can't be opened: %s", file, mth__errno_text(code)),
                F("name a file that can be read, or a machine that is built in, such as 'nominal'"));
        return mth__error_errno(status, code);
    }
    size_t n = 0;
    ssize_t got = 1;
    while (!other && got > 0 && n <= MOST_BYTES) {
        got = read(descriptor, text + n, MOST_BYTES + 1 - n);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got > 0)
            n += (size_t)got;
    }
    close(descriptor);
    if (other || got < 0)
        return FAIL(MTH_ERROR_IO,
            F("the machine file '%s' can't be read%s%s", file, other ? ": it is a " : "", other ? other : ""),
            F("name a regular file, or a machine that is built in, such as 'nominal'"));
    if (n > MOST_BYTES || memchr(text, 0, n))
        return FAIL(MTH_ERROR_VALUE, F("'%s' is no machine file: it is no text of at most %d bytes", file, MOST_BYTES),
            F("write one as machines/nominal.txt"));
    return mth__machine_parse(arena, file, text, out);
}

/* ---------------------------------------------------------------- built in */
bool mth__machine_is_builtin(const char *name) {
    for (const mth__machine_file *builtin = mth__machine_files; builtin->name; builtin++)
        if (!strcmp(builtin->name, name)) return true;
    return false;
}

mth_status mth__machine_builtin(mth__arena *arena, const char *name, mth__machine **out) {
    enum { MOST = 32 };
    const char *known[MOST + 1] = {"calibrate"};
    size_t n = 1;
    for (const mth__machine_file *builtin = mth__machine_files; builtin->name; builtin++) {
        if (!strcmp(builtin->name, name)) return mth__machine_parse(arena, builtin->name, builtin->text, out);
        if (n < MOST) known[n++] = builtin->name;
    }
    return FAIL(MTH_ERROR_VALUE, F("there is no machine '%s'", name), mth__name_fix("machine", name, known, n));
}

/* ---------------------------------------------------------------- on a mesh */
mth__device_model mth__device_model_of(const mth__machine *machine, int naxes, int devices) {
    const double share = machine->cores ? devices : 1;
    const double turns =
        machine->cores && devices > machine->cores ? (double)devices / machine->cores : 1; /* to wait for a core */
    mth__device_model model = {.machine = machine,
        .memory_rate = machine->memory_rate / share,
        .kernel_latency = machine->kernel_latency * turns,
        .device_memory = machine->device_memory && machine->device_memory < 9e18
            ? (int64_t)(machine->device_memory / share)
            : INT64_MAX,
        .slowest_rate = INFINITY};
    for (int dtype = 0; dtype < MTH__DTYPE_COUNT; dtype++) model.flops[dtype] = machine->flops[dtype] / share;
    for (int k = 0; k < naxes; k++) {
        const int axis = naxes - 1 - k;
        model.link_rate[axis] = machine->link_rate[k] / share;
        model.link_latency[axis] = machine->link_latency[k] * turns;
        model.slowest_rate = fmin(model.slowest_rate, model.link_rate[axis]);
        model.slowest_latency = fmax(model.slowest_latency, model.link_latency[axis]);
    }
    return model;
}

static void print_list(mth__text *text, const char *name, const double figure[MTH__MACHINE_AXES]) {
    int n = MTH__MACHINE_AXES;
    while (n > 1 && figure[n - 1] == figure[n - 2]) n--;
    mth__text_add(text, "%s", name);
    for (int i = 0; i < n; i++) mth__text_add(text, " %.3g", figure[i]);
    mth__text_add(text, "\n");
}

void mth__machine_print(mth__text *text, const mth__machine *machine) {
    for (int dtype = 1; dtype < MTH__DTYPE_COUNT; dtype++)
        for (int k = 0; k < FLOPS_DTYPES; k++)
            if (!strcmp(mth_dtype_name((mth_dtype)dtype), flops_dtypes[k]) &&
                (k == FLOAT32 || machine->flops[dtype] != machine->flops[MTH_FLOAT32]))
                mth__text_add(text, "flops %s %.3g\n", flops_dtypes[k], machine->flops[dtype]);
    mth__text_add(text, "memory_rate %.3g\nkernel_latency %.3g\n", machine->memory_rate, machine->kernel_latency);
    print_list(text, "link_rate", machine->link_rate);
    print_list(text, "link_latency", machine->link_latency);
    if (machine->device_memory) mth__text_add(text, "device_memory %.3g\n", machine->device_memory);
    if (machine->cores) mth__text_add(text, "cores %d\n", machine->cores);
}
