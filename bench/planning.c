/* How long planning takes: the guide's transformer over 4 devices; 80 layers over 16,384 devices (tensor 8 x pipeline
 * 16 x data 128); and how the time grows with layers and with stages. Prints "what, seconds, bytes of the plan's text"
 * a line; fails where a limit is missed. */
#include "planned_models.h"
#include <sys/resource.h>

static bool report(const char *what, int n, planning_cost cost, double limit) {
    printf("%s %d: %.1f ms, %zu bytes of text%s\n", what, n, cost.seconds * 1e3, cost.text,
        limit && cost.seconds > limit ? "  ABOVE THE LIMIT" : "");
    fflush(stdout);
    return !limit || cost.seconds <= limit;
}

int main(void) {
    bool good = true;
    for (int gradients = 0; gradients < 2; gradients++) {
        good &=
            report(gradients ? "the guide's transformer with gradients, devices" : "the guide's transformer, devices",
                4, plan_transformer(gradients), 0.050);
    }
    good &= report("80 layers, forward, devices", 8 * 16 * 128, plan_layers(80, 8, 16, 128, 16, false), 2.0);
    good &= report("80 layers, with gradients, devices", 8 * 16 * 128, plan_layers(80, 8, 16, 128, 16, true), 2.0);
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("peak memory so far %.0f MB\n", (double)u.ru_maxrss / 1e3);
    good &= u.ru_maxrss < 1000000;
    for (int layers = 16; layers <= 128; layers *= 2)
        report("4 stages, 4 microbatches, layers", layers, plan_layers(layers, 2, 4, 2, 4, true), 0);
    for (int stages = 2; stages <= 32; stages *= 2)
        report("4 layers a stage, 4 microbatches, stages", stages, plan_layers(4 * stages, 2, stages, 2, 4, true), 0);
    return !good;
}
