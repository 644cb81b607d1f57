/* Bytes that the graph says are live, beside the slabs of the program that is made of it. */
#include "distribute/liveness.h"
#include "random_plan.h"

static int devices, equal;
static double slabs, peaks, most;

static mth_status beside_slabs(void *argument) {
    const unsigned seed = *(unsigned *)argument;
    mth__arena *arena = mth__arena_new();
    mth__graph *graph = random_graph(arena, seed);
    const mth__emit_options options = {.views = seed % 2 != 0};
    mth__program *program;
    TRY(mth__emit(arena, graph, &options, &program));
    TRY(mth__emit_memory(program, 0));
    for (size_t r = 0; r < program->role.n; r++) {
        const mth__role *role = &program->role.at[r];
        int at;
        const double peak = (double)mth__live_peak(graph, role->device[0], options.views, &at);
        const double slab = (double)role->slab[MTH__DEVICE];
        if (peak > slab) printf("  seed %u, device %d: %.0f live, slab %.0f\n", seed, role->device[0], peak, slab);
        CHECK(peak <= slab);
        devices++;
        equal += peak == slab;
        slabs += slab;
        peaks += peak;
        if (slab > 0 && (slab - peak) / slab > most) most = (slab - peak) / slab;
    }
    mth__arena_free(arena);
    return NULL;
}

TEST(peaks_are_slabs) {
    for (unsigned seed = 0; seed < 2000; seed++) CHECK_STATUS(mth__guard(beside_slabs, &seed));
    printf("of %d slabs %d are the live bytes, all together %.1f%% more, one at most %.0f%%\n", devices, equal,
        100 * (slabs / peaks - 1), 100 * most);
    /* what differs: scratch of collectives, what a send still holds, gaps between blocks */
    CHECK(devices > 2000 && equal > 0.8 * devices && slabs < 1.08 * peaks);
}
RUN()
