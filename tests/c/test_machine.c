/* Machine files: what they say is what plans use, and what is wrong in one is named with its line. */
#include "distribute/decide.h"
#include "plans.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "guarded.h"

#define GOOD "flops float32 50e9\nmemory_rate 10e9\nkernel_latency 0\nlink_rate 5e9\nlink_latency 20e-6\n"

static mth__machine *parsed(const char *text) {
    mth__machine *machine = NULL;
    CHECK_STATUS(mth__machine_parse(arena, "mine.txt", text, &machine));
    return machine;
}

GUARDED(figures_are_those_of_the_file) {
    mth__machine *machine =
        parsed("# a comment\n"
               "flops bfloat16 300e9   # behind\n"
               "\tflops float32 1.5e11\r\n"
               "memory_rate 2e9\nkernel_latency 1e-6\n\nlink_rate 8e9 4e9\nlink_latency 1e-6 2e-6 3e-6\n"
               "device_memory 16e9\ncores 4");
    CHECK(!strcmp(machine->name, "mine.txt"));
    CHECK(machine->flops[MTH_FLOAT32] == 1.5e11 && machine->flops[MTH_BFLOAT16] == 300e9);
    CHECK(
        machine->flops[MTH_FLOAT64] == 1.5e11 && machine->flops[MTH_INT32] == 1.5e11); /* without a line of their own */
    CHECK(machine->memory_rate == 2e9 && machine->kernel_latency == 1e-6 && machine->device_memory == 16e9 &&
        machine->cores == 4);
    CHECK(machine->link_rate[0] == 8e9 && machine->link_rate[1] == 4e9 && machine->link_rate[3] == 4e9);
    CHECK(machine->link_latency[1] == 2e-6 && machine->link_latency[3] == 3e-6);
    mth__text text = mth__text_new(arena);
    mth__machine_print(&text, machine);
    mth__machine *again = parsed(text.at);
    again->name = machine->name;
    CHECK(!memcmp(machine, again, sizeof *machine));
}

GUARDED(devices_of_one_machine_share_it) {
    mth__machine *machine = parsed(GOOD "device_memory 64e9\ncores 4\n");
    machine->kernel_latency = 1e-6;
    mth__device_model eight = mth__device_model_of(machine, 2, 8), two = mth__device_model_of(machine, 1, 2);
    CHECK(eight.flops[MTH_FLOAT32] == 50e9 / 8 && eight.memory_rate == 10e9 / 8 && eight.link_rate[1] == 5e9 / 8);
    CHECK(eight.device_memory == (int64_t)8e9 && eight.kernel_latency == 2e-6);
    CHECK(two.flops[MTH_FLOAT32] == 25e9 && two.kernel_latency == 1e-6); /* cores that nobody else wants are free */
    machine->cores = 0;
    CHECK(mth__device_model_of(machine, 1, 8).flops[MTH_FLOAT32] == 50e9);
}

/* The flops of a node are those of a device in the dtype that the node reads. */
GUARDED(nodes_compute_in_the_dtype_of_their_operands) {
    mth__mesh *mesh = MESH(arena, 1);
    mth__mesh_use(mesh,
        parsed("flops float32 1e9\nflops bfloat16 4e9\nmemory_rate 1e9\nkernel_latency 0\nlink_rate 1e9\n"
               "link_latency 0\n"));
    const mth__placement *on = mth__place_whole(mesh);
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__builder b = builder(graph);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(64, 32), on, NULL);
    mth__value *half = node1(&b, "cast", &(mth__attrs){.dtype = MTH_BFLOAT16}, x, on, NULL, 0);
    mth__value *full = node1(&b, "cast", &(mth__attrs){.dtype = MTH_FLOAT32}, half, on, NULL, 0);
    mth__value *ids = source(graph, MTH__VALUE_INPUT, "ids", SHAPE(64), on, NULL);
    ids->dtype = MTH_INT32;
    mth__value *table = node2(&b, "gather_grad", &(mth__attrs){.rows = 8}, ids, half, on, NULL, 0);
    mth__value *position = node(&b, "sinusoid", &(mth__attrs){.length = 8, .width = 4}, 0, NULL, on, NULL, 0);
    CHECK(mth__flops_rate(half->node) == 1e9); /* what it reads, not what it writes */
    CHECK(mth__flops_rate(full->node) == 4e9);
    CHECK(mth__flops_rate(table->node) == 4e9);    /* not in that of the ids */
    CHECK(mth__flops_rate(position->node) == 1e9); /* no operand: float32 */
}

/* The last axis of the mesh is the innermost. */
GUARDED(communication_costs_what_its_axis_does) {
    mth__mesh *mesh = MESH(arena, 2, 4);
    mth__mesh_use(mesh,
        parsed("flops float32 1e12\nmemory_rate 1e12\nkernel_latency 0\n"
               "link_rate 8e9 1e9\nlink_latency 1e-6 5e-6\n"));
    const mth__placement *on = mth__place_whole(mesh);
    mth__shape shape = SHAPE(64, 32);
    const double bytes = 64 * 32 * 4;
    mth__value value = {.shape = shape, .dtype = MTH_FLOAT32};
    mth__sharding whole = {.on = on}, inner = split_by(on, shape, SPLIT(1, -1)),
                  outer = split_by(on, shape, SPLIT(0, -1));
    CHECK(mth__cost_reshard(&value, &inner, &whole) == 1e-6 + 0.75 * bytes / 8e9);
    CHECK(mth__cost_reshard(&value, &outer, &whole) == 5e-6 + 0.5 * bytes / 1e9);
    value.dtype = MTH_BFLOAT16;
    CHECK(mth__cost_reshard(&value, &outer, &whole) == 5e-6 + 0.5 * bytes / 2 / 1e9);
}

/* Of the slowest link of the axes; figures of the nominal machine are whole numbers of bytes. */
GUARDED(latencies_are_counted_in_bytes) {
    mth__mesh *mesh = MESH(arena, 2, 4);
    const mth__placement *on = mth__place_whole(mesh);
    CHECK(mth__latency_bytes(on, 1, 1) == 100000 && mth__latency_bytes(on, 0, 0.65536) == 64 << 10);
    CHECK(mth__latency_bytes(on, 3, 2.62144) == 256 << 10 && mth__latency_bytes(on, 2, 10.48576) == 1 << 20);
    CHECK(mth__worth_parts(on, 3, 4096) && !mth__worth_parts(on, 3, 4095));
    mth__mesh_use(
        mesh, parsed("flops float32 1\nmemory_rate 1\nkernel_latency 0\nlink_rate 8e9 1e9\nlink_latency 1e-6 5e-6\n"));
    CHECK(mth__latency_bytes(on, 2, 2) == 16000 && mth__latency_bytes(on, 1, 2) == 10000); /* axis 1 is innermost */
    CHECK(mth__latency_bytes(on, 3, 2) == 10000 && mth__latency_bytes(on, 0, 2) == 10000);
    CHECK(!mth__worth_parts(on, 2, 327) && mth__worth_parts(on, 2, 328)); /* 0.04096 x 8000 */
    mth__mesh_use(mesh, parsed("flops float32 1\nmemory_rate 1\nkernel_latency 0\nlink_rate 1e30\nlink_latency 0\n"));
    CHECK(mth__latency_bytes(on, 1, 3) == 0 && mth__worth_parts(on, 1, 1));
    mth__mesh_use(mesh, parsed("flops float32 1\nmemory_rate 1\nkernel_latency 0\nlink_rate 1e30\nlink_latency 1\n"));
    CHECK(mth__latency_bytes(on, 1, 3) == (int64_t)1 << 61);
}

/* Rows split over axes (0, 1), wanted over (1, 0): gathered and cut, or one transfer of boxes. The bytes decide, not
 * the elements: some values go one way in 4 bytes an element, the other in 8. */
GUARDED(moves_are_priced_by_the_bytes_of_an_element) {
    mth__mesh *mesh = MESH(arena, 2, 2);
    const mth__placement *on = mth__place_whole(mesh);
    int differ = 0;
    for (int64_t n = 64; n <= 1024; n += 8) {
        mth__shape shape = SHAPE(n, n);
        mth__sharding from = {.on = on}, to = from;
        from.dim[0] = (mth__split){.naxes = 2, .axis = {0, 1}};
        to.dim[0] = (mth__split){.naxes = 2, .axis = {1, 0}};
        mth__move moves[2][MTH__MOST_MOVES];
        int count[] = {mth__moves(shape, 4, &from, &to, moves[0]), mth__moves(shape, 8, &from, &to, moves[1])};
        differ += count[0] != count[1] || moves[0][0].row != moves[1][0].row;
        for (int k = 0; k < 2; k++) { /* whichever was chosen is no dearer than the transfer */
            double seconds = 0, transfer;
            const size_t element = k ? 8 : 4;
            for (int i = 0; i < count[k]; i++)
                seconds += mth__move_cost(shape, element, i ? &moves[k][i - 1].to : &from, &moves[k][i]);
            transfer = mth__move_cost(shape, element, &from, &(mth__move){.row = MTH__ROW_transfer, .to = to});
            CHECK(seconds <= transfer);
        }
    }
    CHECK(differ > 0);
}

GUARDED(those_that_are_built_in_are_good) {
    const char *names[] = {"nominal", "v100", "a100", "h100", "tpu_v5p"};
    mth__machine *machine[5];
    for (int i = 0; i < 5; i++) CHECK_STATUS(mth__machine_builtin(arena, names[i], &machine[i]));
    CHECK(machine[0]->flops[MTH_FLOAT32] == 50e9 && machine[0]->memory_rate == 10e9 && machine[0]->kernel_latency == 0);
    CHECK(machine[0]->link_rate[3] == 5e9 && machine[0]->link_latency[0] == 20e-6 && !machine[0]->cores &&
        !machine[0]->device_memory);
    for (int i = 1; i < 4; i++) {
        CHECK(machine[i]->link_rate[0] > machine[i]->link_rate[1] && machine[i]->device_memory >= 32e9);
        if (i == 1) continue;
        CHECK(machine[i]->memory_rate > machine[i - 1]->memory_rate);
        CHECK(machine[i]->flops[MTH_BFLOAT16] > 3 * machine[i - 1]->flops[MTH_BFLOAT16]);
    }
    CHECK(machine[4]->flops[MTH_BFLOAT16] == 459e12);
    CHECK_FAILS(mth__machine_builtin(arena, "h10", &machine[0]), MTH_ERROR_VALUE, "h100");
    CHECK_FAILS(mth__machine_builtin(arena, "callibrate", &machine[0]), MTH_ERROR_VALUE, "calibrate");
}

GUARDED(what_is_wrong_is_named_with_its_line) {
    static const struct {
        const char *text, *line, *names;
    } bad[] = {
        {"", "line 1", "flops float32"},
        {"flops float32 50e9\n", "line 2", "memory_rate"},
        {GOOD "memory_rat 3\n", "line 6", "memory_rate"},
        {GOOD "wings 2\n", "line 6", "wings"},
        {GOOD "cores 1.5\n", "line 6", "cores"},
        {GOOD "cores 0\n", "line 6", "cores"},
        {GOOD "\n\nlink_rate 1\n", "line 8", "line 4"},
        {GOOD "flops float32 3\n", "line 6", "line 1"},
        {GOOD "flops int33 3\n", "line 6", "int33"},
        {GOOD "flops floot16 3\n", "line 6", "float16"},
        {GOOD "flops float64\n", "line 6", "flops"},
        {GOOD "device_memory -1\n", "line 6", "device_memory"},
        {GOOD "device_memory inf\n", "line 6", "device_memory"},
        {GOOD "device_memory nan\n", "line 6", "device_memory"},
        {GOOD "device_memory 1e99\n", "line 6", "device_memory"},
        {GOOD "device_memory 80GB\n", "line 6", "80GB"},
        {GOOD "device_memory 80e9 bytes\n", "line 6", "bytes"},
        {"link_rate 1 2 3 4 5\n", "line 1", "more than 4"},
        {"link_rate\n", "line 1", "no figure"},
        {"link_rate 0\n", "line 1", "link_rate"},
        {"kernel_latency -0.1\n", "line 1", "kernel_latency"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mth__machine *machine;
        mth_status status = mth__machine_parse(arena, "mine.txt", bad[i].text, &machine);
        CHECK(status != NULL);
        if (!status) continue;
        const char *text = mth_error_get_message(status);
        bool named = strstr(text, "mine.txt") && strstr(text, bad[i].line) && strstr(text, bad[i].names) &&
            *mth_error_get_fix(status);
        if (!named) printf("%s\n", text);
        CHECK(named);
        mth_error_free(status);
    }
}

/* Cut off anywhere, with any byte changed: an error or a machine. */
GUARDED(spoilt_files_are_refused) {
    static const char text[] = "# x\n" GOOD "device_memory 1e9\ncores 2\nflops bfloat16 1e12\n";
    char spoilt[sizeof text];
    int refused = 0;
    for (size_t at = 0; at < sizeof text - 1; at++)
        for (int byte = 1; byte < 256; byte += 5) {
            mth__machine *machine;
            memcpy(spoilt, text, sizeof text);
            spoilt[at] = (char)byte;
            if (byte == 251) spoilt[at] = 0;
            mth_status status = mth__machine_parse(arena, "spoilt", spoilt, &machine);
            refused += status != NULL;
            mth_error_free(status);
        }
    CHECK(refused > 1000);
}

/* ---------------------------------------------------------------- memory that is gone */
/* A backend with this machine, the n-th allocation failing: an error, and nothing is left behind. Returns whether it
 * succeeded. */
static bool fails_well(const char *machine, int64_t n) {
    mth_backend *backend = NULL;
    const int64_t before = mth_debug_live_allocations();
    mth_arg dim = mth_int(4);
    const mth_option option[] = {{"device_mesh", mth_list(1, &dim)}, {"machine", mth_string(machine)}};
    mth_debug_fail_allocation(n);
    mth_status status = mth_backend_create("native", option, 2, &backend);
    mth_debug_fail_allocation(-1);
    CHECK((status == NULL) == (backend != NULL));
    if (status) CHECK(mth_error_get_code(status) == MTH_ERROR_MEMORY);
    const bool made = backend != NULL;
    mth_error_free(status);
    mth_backend_free(backend);
    CHECK(mth_debug_live_allocations() == before);
    return made;
}

TEST(every_allocation_may_fail) {
    char path[64], calibrate[80];
    snprintf(path, sizeof path, "/tmp/mithril_test_machine_%d.txt", (int)getpid());
    snprintf(calibrate, sizeof calibrate, "calibrate:%s", path);
    int64_t n = 0, step = 0;
    for (bool made = false; !made; step = step < 3 ? step + 1 : 3, n += step) {
        made = fails_well(calibrate, n);
        CHECK(made == (access(path, F_OK) == 0)); /* what was not measured to the end is not kept */
    }
    CHECK(n > 20);
    for (n = 0; !fails_well(path, n); n++) continue;
    CHECK(n > 5);
    unlink(path);
}

RUN()
