/* Planning, the verifier included, takes milliseconds; and neither time nor memory grows with the number of devices. */
#include "planned_models.h"
#include "unit.h"
#include <math.h>
#include <sys/resource.h>

/* Of the limits on a quiet machine: room for a slower or busier one; and how often a plan is made, of which the fastest
 * counts, as others' work can only slow one down. */
enum { NOISE = 3, TRIES = 5 };

static bool is_within(double limit, planning_cost (*plan)(void)) {
    double seconds = INFINITY;
    for (int again = 0; again < TRIES && seconds >= limit; again++) seconds = fmin(seconds, plan().seconds);
    return seconds < limit;
}

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
static bool is_slowed(void) {
    SKIP("sanitizers take time and memory of their own");
    return true;
}
#else
static bool is_slowed(void) { return false; }
#endif

static planning_cost forward_of_transformer(void) { return plan_transformer(false); }
static planning_cost both_of_transformer(void) { return plan_transformer(true); }
TEST(the_guides_transformer) {
    if (is_slowed()) return;
    CHECK(is_within(NOISE * 0.050, forward_of_transformer));
    CHECK(is_within(NOISE * 0.050, both_of_transformer));
}

/* 80 layers, tensor 8 x stages 16 x data 128. */
static planning_cost forward_of_layers(void) { return plan_layers(80, 8, 16, 128, 16, false); }
static planning_cost both_of_layers(void) { return plan_layers(80, 8, 16, 128, 16, true); }
TEST(sixteen_thousand_devices) {
    if (is_slowed()) return;
    CHECK(is_within(NOISE * 2.0, forward_of_layers) && is_within(NOISE * 2.0, both_of_layers));
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    CHECK(usage.ru_maxrss < 1000000); /* KB */
}

/* The same roles, with 64 times the devices: texts name ranges of devices, so they grow by digits alone. */
static planning_cost many_devices(void) { return plan_layers(16, 2, 4, 256, 4, true); }
TEST(plans_cost_what_their_roles_cost) {
    if (is_slowed()) return;
    planning_cost few = plan_layers(16, 2, 4, 4, 4, true), many = many_devices();
    CHECK(many.text < few.text + few.text / 4);
    CHECK(is_within(NOISE * few.seconds + 0.1, many_devices));
}
RUN()
