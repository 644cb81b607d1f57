/* The property: any model, mesh, specs, schedule and options = the unsharded reference, forward and backward; its plan verifies and prints, parses, prints the same. */
#include "../../fuzz/random_model.h"
#include "unit.h"

TEST(random_models_equal_the_unsharded_reference) {
    static char report[4096];
    uint64_t state = 88172645463325252u;
    int cases = getenv("MITHRIL_PROPERTY_CASES") ? atoi(getenv("MITHRIL_PROPERTY_CASES")) : 300;
    for (int i = 0; i < cases; i++) {
        uint8_t data[96];
        for (size_t k = 0; k < sizeof data; k++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            data[k] = (uint8_t)(state >> 32);
        }
        if (random_compare(data, sizeof data, report, sizeof report)) {
            unit_failures++;
            printf("  case %d: %s\n", i, report);
            if (unit_failures >= 8) break;
        }
    }
}
RUN()
