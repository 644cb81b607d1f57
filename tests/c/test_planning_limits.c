/* Planning, the verifier included, takes milliseconds; and neither time nor memory grows with the number of devices. */
#include "planned_models.h"
#include "unit.h"
#include <sys/resource.h>

/* Of the limits on a quiet machine: room for a slower or busier one. */
enum { NOISE = 3 };

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
static bool is_slowed(void) {
    SKIP("sanitizers take time and memory of their own");
    return true;
}
#else
static bool is_slowed(void) { return false; }
#endif

TEST(the_guides_transformer) {
    if (is_slowed()) return;
    CHECK(plan_transformer(false).seconds < NOISE * 0.050);
    CHECK(plan_transformer(true).seconds < NOISE * 0.050);
}

/* 80 layers, tensor 8 x stages 16 x data 128. */
TEST(sixteen_thousand_devices) {
    if (is_slowed()) return;
    planning_cost forward = plan_layers(80, 8, 16, 128, 16, false), both = plan_layers(80, 8, 16, 128, 16, true);
    CHECK(forward.seconds < NOISE * 2.0 && both.seconds < NOISE * 2.0);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    CHECK(usage.ru_maxrss < 1000000); /* KB */
}

/* The same roles, with 64 times the devices: texts name ranges of devices, so they grow by digits alone. */
TEST(plans_cost_what_their_roles_cost) {
    if (is_slowed()) return;
    planning_cost few = plan_layers(16, 2, 4, 4, 4, true), many = plan_layers(16, 2, 4, 256, 4, true);
    CHECK(many.text < few.text + few.text / 4);
    CHECK(many.seconds < NOISE * few.seconds + 0.1);
}
RUN()
