/* The property, for every engine: any model, mesh, specs, schedule and options = the unsharded reference, forward and
 * backward; its plan verifies and prints, parses, prints the same. An engine that gets a test here is held to it: this
 * is the engines' conformance suite, with the operator table beside it. MITHRIL_PROPERTY_CASES: how many models each
 * engine gets. */
#include "../../fuzz/random_model.h"
#include "open_or_skip.h"

static void run_cases(const random_engine *engine, int cases, uint64_t state) {
    static char report[4096];
    if (getenv("MITHRIL_PROPERTY_CASES")) cases = atoi(getenv("MITHRIL_PROPERTY_CASES"));
    int compared = 0, tried = 0;
    for (; tried < cases && unit_failures < 8; tried++) {
        uint8_t data[96];
        for (size_t k = 0; k < sizeof data; k++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            data[k] = (uint8_t)(state >> 32);
        }
        random_result result = random_compare(engine, data, sizeof data, report, sizeof report);
        compared += result == RANDOM_EQUAL;
        if (result == RANDOM_DIFFERENT) {
            unit_failures++;
            printf("  %s, case %d: %s\n", engine->name, tried, report);
        }
    }
    printf("  %s: of %d models %d were compared, the others refused\n", engine->name, tried, compared);
    CHECK(5 * compared >= 4 * tried);
}

TEST(random_models_on_the_native_engine) { run_cases(&(random_engine){.name = "native"}, 400, 88172645463325252u); }
TEST(random_models_on_the_reference_engine) {
    run_cases(&(random_engine){.name = "reference"}, 100, 73592645463325252u);
}

static void run_policy(const char *policy, uint64_t state) {
    run_cases(&(random_engine){.name = "native", .count = 1, .option = {{"partition_policy", mth_string(policy)}}}, 100,
        state);
}
TEST(random_models_cut_by_parameters) { run_policy("parameters", 31172645463325252u); }
TEST(random_models_cut_by_operators) { run_policy("operators", 42172645463325252u); }
TEST(random_models_cut_by_time) { run_policy("balanced", 53172645463325252u); }
/* torch normalizes by x * rstd - mean * rstd, whose rounding shows where all elements of a row are equal. */
TEST(random_models_on_the_torch_engine) {
    mth_backend *backend = open_or_skip("torch", 1);
    if (backend) run_cases(&(random_engine){.name = "torch", .noise = 8}, 200, 61592645463325252u);
    mth_backend_free(backend);
}

/* Few, since XLA compiles each for a second, with sanitizers for three; and without LLVM's optimizations, which are
 * none of ours. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { XLA_CASES = 8 };
#else
enum { XLA_CASES = 25 };
#endif
TEST(random_models_on_the_pjrt_engine) {
    const char *const level = "xla_backend_optimization_level";
    const mth_arg none = mth_int(0);
    const random_engine engine = {
        .name = "pjrt", .once = true, .count = 1, .option = {{"compile_options", mth_dict(1, &level, &none)}}};
    mth_backend *backend = open_or_skip(engine.name, 1);
    if (backend) run_cases(&engine, XLA_CASES, 52645463325288172u);
    mth_backend_free(backend);
}
RUN()
