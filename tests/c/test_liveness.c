/* Bytes that the graph says are live, beside the slabs of the program that is made of it. */
#include "distribute/liveness.h"
#include "random_plan.h"

static int devices, equal;
static double slabs, peaks, most;
static bool some_owned; /* the engine's library allocates some */

static mth_status beside_slabs(void *argument) {
    const unsigned seed = *(unsigned *)argument;
    mth__arena *arena = mth__arena_new();
    mth__graph *graph = random_graph(arena, seed);
    const mth__emit_options options = {.views = seed % 2 != 0, .owns = some_owned ? owns_some : NULL};
    owned_salt = seed;
    mth__program *program;
    TRY(mth__emit(arena, graph, &options, &program));
    TRY(mth__emit_memory(program, 0));
    for (size_t role_number = 0; role_number < program->role.n; role_number++) {
        const mth__role *role = &program->role.at[role_number];
        int at;
        const double peak = (double)mth__live_peak(graph, role->device[0], options.views, options.owns, &at);
        const double slab = (double)(role->slab[MTH__DEVICE] + mth__own_peak(program, role, MTH__DEVICE, false));
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

TEST(peaks_are_slabs_and_what_the_library_allocates) {
    devices = equal = 0;
    slabs = peaks = most = 0;
    some_owned = true;
    for (unsigned seed = 0; seed < 2000; seed++) CHECK_STATUS(mth__guard(beside_slabs, &seed));
    printf("of %d slabs with what the library allocates %d are the live bytes, all together %.1f%% more, one at most "
           "%.0f%%\n",
        devices, equal, 100 * (slabs / peaks - 1), 100 * most);
    CHECK(devices > 2000 && equal > 0.3 * devices && slabs < 1.25 * peaks);
}

/* mul_grad's two results, and the second of them where it may not lie. */
static mth_status two_results(void *argument) {
    mth__arena *arena = argument;
    mth__graph *graph = mth__graph_new(arena, MESH(arena, 1));
    mth__builder builder = {.graph = graph, .label = mth__label_outside("example", MTH__FORWARD)};
    const mth__placement *on = mth__place_whole(graph->mesh);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", (mth__shape){2, {16, 16}}, on, NULL), *operand[3], *value[2];
    static const char *const made_by[] = {"exp", "square", "sigmoid"};
    for (int j = 0; j < 3; j++) operand[j] = node1(&builder, made_by[j], NULL, x, on, NULL, 0);
    TRY(mth__build(&builder, MTH__ROW_mul_grad, NULL, 3, operand, value));
    for (int k = 0; k < 2; k++) value[k]->sharding = split_by(on, value[k]->shape, NULL);
    output(graph, "y", contract(&builder, "bi,bi->b", value[0], value[1], on, NULL, 0));
    mth__program *program;
    TRY(mth__emit(arena, graph, &(mth__emit_options){.views = true}, &program));
    TRY(mth__emit_memory(program, 0));
    TRY(mth__program_verify(program));
    const mth__role *role = &program->role.at[0];
    const mth__instr *gradient = &role->instr.at[3];
    int at;
    CHECK(gradient->op == mth__op_find("mul_grad") && role->slab[MTH__DEVICE] == 3 * 16 * 16 * 4);
    CHECK(mth__live_peak(graph, 0, true, NULL, &at) == role->slab[MTH__DEVICE]);
    mth__program_value *in[3], *out[2];
    for (int j = 0; j < 3; j++) in[j] = &role->value.at[gradient->in[j]];
    for (int k = 0; k < 2; k++) out[k] = &role->value.at[gradient->out[k]];
    CHECK(out[0]->offset == in[0]->offset && out[1]->offset == in[1]->offset);
    out[1]->offset = in[2]->offset;
    CHECK_STATUS(mth__program_verify(program));
    out[1]->offset = out[0]->offset;
    CHECK_FAILS(mth__program_verify(program), MTH_ERROR_VALUE, "overlaps %4");
    out[1]->offset = in[1]->offset + (in[1]->offset ? -64 : 64);
    CHECK_FAILS(mth__program_verify(program), MTH_ERROR_VALUE, "overlaps");
    return NULL;
}
TEST(each_result_lies_on_an_operand_of_its_own) {
    mth__arena *arena = mth__arena_new();
    CHECK_STATUS(mth__guard(two_results, arena));
    mth__arena_free(arena);
}
RUN()
