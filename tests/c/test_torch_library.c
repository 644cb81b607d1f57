/* Opening libtorch: where there is none, where it is broken or too old, and on each release whose functions differ; and
 * the trial of its operators, which must notice each one that does something else. */
#include "base/packages.h"
#include "engine/torch/torch_call.h"
#include "engine/torch/torch_trial.h"
#include "row_sheets.h"
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

static mth_status open_torch(const mth__torch_library **library) {
    mth__arena *arena = mth__arena_new();
    mth_status status = mth__torch_library_open(arena, NULL, library);
    mth__arena_free(arena);
    return status;
}
/* NULL, and the test is skipped, where no torch is installed. */
static const mth__torch_library *opened(void) {
    const mth__torch_library *library = NULL;
    mth_status none = open_torch(&library);
    if (none && mth_error_get_code(none) == MTH_ERROR_IO) {
        SKIP("%s", mth_error_get_what(none));
        mth_error_free(none);
    } else {
        CHECK_STATUS(none);
    }
    return library;
}
static bool find_torch(char folder[PATH_MAX]) {
    static const char *const patterns[] = {"torch/lib/libtorch.so", NULL};
    if (!mth__packages_find(NULL, patterns, folder)) return false;
    *strrchr(folder, '/') = 0;
    return true;
}

/* ---------------------------------------------------------------- what is installed */
/* In a process of its own: one that has loaded torch finds that again. */
static void in_child(void (*check)(void)) {
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        check();
        fflush(stdout);
        _exit(unit_failures != 0);
    }
    int state = -1;
    CHECK(child > 0 && waitpid(child, &state, 0) == child && state == 0);
}

static char folder[] = "/tmp/mithril_torch_XXXXXX";
static void fails_without_library(void) {
    const mth__torch_library *library;
    setenv("MITHRIL_TORCH", folder, 1);
    CHECK_FAILS(open_torch(&library), MTH_ERROR_IO, "a folder without a readable libtorch.so");
    CHECK_FAILS(
        open_torch(&library), MTH_ERROR_IO, "set it to the folder torch/lib of an installed torch, or unset it");
}
static void fails_with_broken_library(void) {
    const mth__torch_library *library;
    setenv("MITHRIL_TORCH", folder, 1);
    CHECK_FAILS(open_torch(&library), MTH_ERROR_IO, "libtorch.so can't be loaded: ");
    CHECK_FAILS(open_torch(&library), MTH_ERROR_IO, "pip install --force-reinstall torch");
}
static void opens_after_unset(void) {
    const mth__torch_library *library;
    fails_with_broken_library();
    unsetenv("MITHRIL_TORCH");
    CHECK_STATUS(open_torch(&library));
}
static void opens_after_set(void) {
    const mth__torch_library *library;
    char installed[PATH_MAX];
    CHECK(find_torch(installed));
    fails_with_broken_library();
    setenv("MITHRIL_TORCH", installed, 1);
    CHECK_STATUS(open_torch(&library));
}
TEST(folders_without_a_good_library_are_refused_and_the_fixes_work) {
    char path[sizeof folder + 32], installed[PATH_MAX];
    CHECK(mkdtemp(folder) != NULL);
    in_child(fails_without_library);
    snprintf(path, sizeof path, "%s/libtorch.so", folder);
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    if (!file) return;
    fputs("no library", file);
    fclose(file);
    in_child(fails_with_broken_library);
    if (!find_torch(installed)) {
        SKIP("no torch is installed: the fixes were not tried");
    } else {
        in_child(opens_after_unset);
        in_child(opens_after_set);
    }
    unlink(path);
    rmdir(folder);
}

static void fails_without_torch(void) {
    const mth__torch_library *library;
    unsetenv("MITHRIL_TORCH");
    CHECK_FAILS(open_torch(&library), MTH_ERROR_IO, "no torch is installed: looked for torch/lib/libtorch.so");
    CHECK_FAILS(open_torch(&library), MTH_ERROR_IO, "pip install \"mithril-parallel[torch]\"");
}
TEST(an_environment_without_torch_is_told_what_to_install) {
    const char *const names[] = {"VIRTUAL_ENV", "HOME"};
    char *before[2], installed[PATH_MAX];
    for (int i = 0; i < 2; i++) {
        before[i] = getenv(names[i]) ? strdup(getenv(names[i])) : NULL;
        unsetenv(names[i]);
    }
    if (find_torch(installed))
        SKIP("torch is installed for the whole system, at %.100s", installed);
    else
        in_child(fails_without_torch);
    for (int i = 0; i < 2; i++) {
        if (before[i]) setenv(names[i], before[i], 1);
        free(before[i]);
    }
}

/* ---------------------------------------------------------------- releases */
/* Every row gives the right numbers with what the release has, and without functions that nothing promises. */
static void check_release(int version) {
    const mth__torch_library *library;
    if (!opened()) return;
    mth__torch_library_pretend(version, true);
    CHECK_STATUS(open_torch(&library));
    CHECK(library->version == version);
    CHECK((library->torch_new_stable_ivalue != NULL) == (version >= 213));
    CHECK((library->torch_exception_get_what_without_backtrace != NULL) == (version >= 213));
    CHECK((library->torch_from_blob != NULL) == (version >= 211));
    CHECK(!library->direct.add_out && !library->direct.threshold_backward_out);
    CHECK(!library->direct.gelu_out && !library->direct.gelu_backward_out);
    const sheet_engine engine = {&mth__engine_torch, .means_nothing = MTH__ROW_layer_norm};
    check_every_row(engine);
    check_specials(engine);
    mth__torch_library_pretend(0, false);
}
TEST(every_row_as_on_2_10) { check_release(210); }
TEST(every_row_as_on_2_11) { check_release(211); }
TEST(every_row_as_on_2_13) { check_release(213); }
TEST(releases_before_2_10_are_refused) {
    const mth__torch_library *library;
    if (!opened()) return;
    mth__torch_library_pretend(209, false);
    CHECK_FAILS(open_torch(&library), MTH_ERROR_UNSUPPORTED, "torch 2.9 at ");
    CHECK_FAILS(open_torch(&library), MTH_ERROR_UNSUPPORTED, "pip install --upgrade \"mithril-parallel[torch]\"");
    mth__torch_library_pretend(0, false);
}

/* ---------------------------------------------------------------- the trial */
static const mth__torch_library *real;
static enum mth__aten victim; /* the operator of which the dispatcher gives something else */
static bool refuses;          /* instead, it fails */

static bool is_victim(const char *name, const char *overload) {
    const mth__torch_operator *of = &mth__torch_operators[victim];
    return strcmp(name, of->name) == 0 && strcmp(overload, of->overload) == 0;
}
static int32_t dispatch_otherwise(const char *name, const char *overload, mth__torch_value *stack, uint64_t abi) {
    if (real->torch_call_dispatcher(name, overload, stack, abi)) return 1;
    if (!is_victim(name, overload)) return 0;
    if (refuses) {
        const int results = mth__torch_operators[victim].results;
        for (int k = 0; k < (results > 0 ? results : 1); k++)
            real->aoti_torch_delete_tensor_object((mth__tensor)(uintptr_t)stack[k]);
        return 1;
    }
    mth__tensor first = (mth__tensor)(uintptr_t)stack[0];
    void *data;
    int32_t dtype;
    if (real->aoti_torch_get_data_ptr(first, &data) || real->aoti_torch_get_dtype(first, &dtype)) return 1;
    if (dtype == real->dtype[MTH_BOOL])
        *(bool *)data = !*(bool *)data;
    else if (dtype == real->dtype[MTH_INT32] || dtype == real->dtype[MTH_INT64])
        *(int32_t *)data += 1;
    else if (dtype == real->dtype[MTH_FLOAT64])
        *(double *)data += 0.001;
    else
        *(float *)data += 0.001f; /* of a complex number, the real part */
    return 0;
}
static void check_named(void) {
    const mth__torch_operator *of = &mth__torch_operators[victim];
    mth__torch_library other = *real;
    char named[128];
    other.torch_call_dispatcher = dispatch_otherwise;
    snprintf(
        named, sizeof named, "is not as mithril knows it: %s%s%s: ", of->name, *of->overload ? "." : "", of->overload);
    CHECK_FAILS(mth__torch_try(&other), MTH_ERROR_UNSUPPORTED, named);
}
TEST(an_operator_that_gives_another_number_is_named) {
    if (!(real = opened())) return;
    for (int id = 0; id < MTH__ATEN_COUNT; id++) {
        victim = (enum mth__aten)id;
        check_named();
    }
}
TEST(an_operator_that_fails_is_named) {
    if (!(real = opened())) return;
    refuses = true;
    for (int id = 0; id < MTH__ATEN_COUNT; id++) {
        victim = (enum mth__aten)id;
        check_named();
    }
    refuses = false;
}

static mth__tensor *adds_nothing(mth__tensor a, mth__tensor b, const mth__torch_scalar *scale, mth__tensor out) {
    (void)a, (void)b, (void)scale, (void)out;
    return NULL;
}
TEST(a_direct_function_that_does_nothing_is_not_used) {
    if (!(real = opened())) return;
    mth__torch_library other = *real;
    other.direct.add_out = other.direct.threshold_backward_out = adds_nothing;
    CHECK_STATUS(mth__torch_try(&other));
    CHECK(!other.direct.add_out && !other.direct.threshold_backward_out);
    CHECK(other.direct.gelu_out == real->direct.gelu_out);
}

/* The first backend of a process pays for it. */
TEST(the_trial_takes_less_than_10_milliseconds) {
    if (!(real = opened())) return;
    mth__torch_begin_thread(real, 1); /* as when a library is opened */
    double least = INFINITY;
    for (int i = 0; i < 10; i++) {
        mth__torch_library other = *real;
        struct timespec from, to;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        CHECK_STATUS(mth__torch_try(&other));
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        least = fmin(least, (double)(to.tv_sec - from.tv_sec) * 1e3 + (double)(to.tv_nsec - from.tv_nsec) * 1e-6);
    }
    CHECK(least < 10);
}
RUN()
