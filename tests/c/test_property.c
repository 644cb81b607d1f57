/* The property, for every engine: any model, mesh, specs, schedule and options = the unsharded reference, forward and backward; its plan verifies and prints, parses,
 * prints the same. An engine added to `engines` is held to it: this is the engines' conformance suite, with the operator table beside it. */
#include "../../fuzz/random_model.h"
#include "unit.h"

static void run_cases(const char *engine, int cases, uint64_t state) {
    static char report[4096];
    for (int i = 0; i < cases && unit_failures < 8; i++) {
        uint8_t data[96];
        for (size_t k = 0; k < sizeof data; k++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            data[k] = (uint8_t)(state >> 32);
        }
        if (random_compare(engine, data, sizeof data, report, sizeof report)) {
            unit_failures++;
            printf("  %s, case %d: %s\n", engine, i, report);
        }
    }
}

static int cases(int usual) { return getenv("MITHRIL_PROPERTY_CASES") ? atoi(getenv("MITHRIL_PROPERTY_CASES")) : usual; }

TEST(random_models_on_the_native_engine) { run_cases("native", cases(400), 88172645463325252u); }
TEST(random_models_on_the_reference_engine) { run_cases("reference", cases(100), 73592645463325252u); }
RUN()
