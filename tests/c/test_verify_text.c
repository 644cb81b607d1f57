/* What the verifier says of texts: sizes that wrap or lie, and plans spoilt at random. */
#include "emit/collective.h"
#include "offloads.h"
#include "plain_verify.h"
#include "random_plan.h"
#include "guarded.h"

/* ---------------------------------------------------------------- sizes that a text says */
#define TWO                                                                                                            \
    "program\nmesh (2,)\nplacement p0 device 0\nplacement p1 device 1\nexit 0 output y: f32[1,1] (None, None) on p0\n"
#define EMPTY "f32[0,1] (None, None) on p1 at "
#define SINUSOID(n) " = sinusoid length=" #n " width=1\n"
#define FIRST "role 0 devices 0 slab 0\n  0  y: f32[1,1] (None, None) on p0 at exit 0" SINUSOID(1)
#define EIGHT "program\nmesh (8,)\nplacement p0 whole\n"
#define HUGE_FROM "(None, None, 0, None) on p0"
#define HUGE_TO "(None, None, None, 0) on p0"

/* Nothing lies in an exit but on the devices that have it, not even no bytes; a product of sizes that wraps is not
 * small. */
GUARDED(places_exist_where_they_are_empty) {
    static const struct {
        const char *text, *why;
    } all[] = {
        {TWO FIRST "role 1 devices 1 slab 0\n  0  z: " EMPTY "exit 0+0" SINUSOID(0),
            "z lies in exit 0, which the role doesn't write"},
        {TWO FIRST "role 1 devices 1 slab 0\n  0  z: " EMPTY "exit 0" SINUSOID(0),
            "exit 0, y, is written where it does not belong"},
        {TWO "role 0 devices 0 slab 0\n  0  z: f32[0,1] (None, None) on p0 at exit 0" SINUSOID(
             0) "  1  y: f32[1,1] (None, None) on p0 at exit 0" SINUSOID(1),
            "z has 0 bytes, and exit 0, in which it lies, has 4"},
        {TWO FIRST "role 1 devices 1 slab 0\n  0  z: " EMPTY "slab+64" SINUSOID(0), "z, at 64 of the slab, is not"},
        {TWO FIRST "role 1 devices 1 slab 0\n  0  z: " EMPTY "slab+0" SINUSOID(0) "  v: " EMPTY "z+4\n",
            "v, at 4, is not inside z"},
        {TWO FIRST "role 1 devices 1 slab 0\n  0  z: " EMPTY "slab+0" SINUSOID(0) "  v: " EMPTY "z+0\n", NULL},
        {"program\nmesh (2,)\nplacement p0 whole\nentry 0 input x: f32[0,4] (0, None) on p0\nrole 0 devices 0, 1 slab "
         "0\n"
         "  x: f32[0,4] (0, None) on p0 at entry 0\n  v: f32[2,0] of [4,0] (0, None) on p0 at x+0\n",
            "dimension 0 of v is cut otherwise"},
        {EIGHT "entry 0 input x: f32[1,1,1099511627776,131072] " HUGE_FROM "\n"
               "channel c0 all_to_all ring f32[1,1,1099511627776,131072] " HUGE_FROM " to " HUGE_TO
               " over 0 split 3 gathered 2 \"c\"\n"
               "role 0 devices 0..7 slab 2305843009213693951\n"
               "  x: f32[1,1,137438953472,131072] of [1,1,1099511627776,131072] " HUGE_FROM " at entry 0\n"
               "  0  y: f32[1,1,1099511627776,16384] of [1,1,1099511627776,131072] " HUGE_TO
               " at slab+0 = all_to_all ring c0 x work w: f32[4] (None,) on p0 at slab+1152921504606846976\n",
            "ring needs 144115188075855872 bytes of scratch"},
        {EIGHT "entry 0 input x: f32[8,144115188075855872] (0 by 8, None) on p0\n", "number is outside"},
        {EIGHT "placement p1 grid (4) 0..3\n", "a grid has two axes or more"},
        {EIGHT "placement p1 grid (2, 2) 0, 1, 4\n", "3 devices for a grid of 4"},
        {EIGHT "placement p1 grid (2, 2) 0, 1, 4, 4\n", "twice"},
        {EIGHT "placement p1 grid (1, 1, 1, 1, 2) 0, 1\n", "more than 4 axes"},
        {EIGHT "placement p1 grid (2, 9) 0, 1\n", "number is outside"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        mth_status status = mth_plan_verify_text(all[i].text);
        if (!all[i].why)
            CHECK_STATUS(status);
        else
            CHECK_FAILS(status, MTH_ERROR_VALUE, all[i].why);
    }
    mth__template ring = mth__template_get(MTH__ALL_TO_ALL, MTH__RING, 32767);
    CHECK(mth__template_scratch(&ring, 0, (int64_t)1 << 61) == INT64_MAX); /* 2 * 32767 * 2^61 */
}

/* A stage is of a region, a microbatch of a stage, and there are no more of those than planning makes. */
GUARDED(labels_stand_in_stages) {
    static const struct {
        const char *label, *why;
    } all[] = {
        {"", NULL},
        {"@m backward", NULL},
        {"@m stage 3", NULL},
        {"region 2 stage 3", NULL},
        {"@m stage 0 microbatch 32767", NULL},
        {"@m microbatch 0", "its microbatch 0 is of no stage"},
        {"region 1 microbatch 5", "its region is 1 and its stage -1"},
        {"@m region 0", "its region is 0 and its stage -1"},
        {"@m stage 0 microbatch 32768", "its microbatch is 32768, and a batch is cut into at most 32768"},
        {"@m region 1 stage 0 microbatch 2147483647", "its microbatch is 2147483647"},
        {"@m stage 2147483648", "number is outside"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *text = mth__format(arena,
            "program\nmesh (1,)\nplacement p0 whole\nexit 0 output y: f32[1,1] (None, None) on p0\nrole 0 devices 0 "
            "slab 0\n  0  y: f32[1,1] (None, None) on p0 at exit 0 = sinusoid length=1 width=1 %s\n",
            all[i].label);
        mth_status status = mth_plan_verify_text(text);
        if (all[i].why)
            CHECK_FAILS(status, MTH_ERROR_VALUE, all[i].why);
        else
            CHECK_STATUS(status);
    }
}

/* Values of 2^61 bytes, three of them at once. */
GUARDED(no_sum_of_sizes_wraps) {
    mth__builder b;
    mth__program *program = NULL;
    mth__graph *graph = mth__graph_new(arena, MESH(arena, 1));
    b = builder(graph);
    const mth__placement *on = mth__place_whole(graph->mesh);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE((int64_t)1 << 40, 1 << 19), on, NULL), *term[3];
    for (int i = 0; i < 3; i++) term[i] = node1(&b, "scale", &(mth__attrs){.by = i + 1}, x, on, NULL, 0);
    output(graph, "y",
        node2(&b, "add", NULL, node2(&b, "add", NULL, term[0], term[1], on, NULL, 0), term[2], on, NULL, 0));
    CHECK_STATUS(mth__emit(graph->arena, graph, &(mth__emit_options){.views = true}, &program));
    CHECK_FAILS(
        mth__emit_memory(program, 1), MTH_ERROR_VALUE, "the values of device 0 together have 2^62 bytes or more");
}

/* Rings as large as are proved, and one that is refused by name: nothing is taken as proved. */
GUARDED(templates_of_many_ranks_are_proved_or_refused) {
    static const struct {
        int n;
        const char *algorithm, *why;
    } all[] = {{300, "ring", "channel c0, all_reduce: device 0 (role -1) must give its part and does not"},
        {1024, "ring", "device 0 (role -1) must give its part"},
        {4096, "tree", "device 0 (role -1) must give its part"},
        {2048, "ring",
            "channel c0 (big): all_reduce ring over 2048 devices has more contributions to follow than are"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *text = mth__format(arena,
            "program\nmesh (%d,)\nplacement p0 whole\nchannel c0 all_reduce %s f32[4096] (None,) partial sum over 0 on "
            "p0 to (None,) on p0 over 0 \"big\"\n",
            all[i].n, all[i].algorithm);
        CHECK_FAILS(mth_plan_verify_text(text), MTH_ERROR_VALUE, all[i].why);
    }
}

/* ---------------------------------------------------------------- texts */
/* Characters changed, lines dropped, doubled and swapped, numbers made wild. */
static char *spoil(const char *text) {
    static const char *const bits[] = {"0", "1", "9223372036854775807", "-1", "None", "(", ")", ",", "\n", " ",
        "cyclic", "by 3", "p0", "c0", "c1", "slab", "exit 0", "x0", "%5", "wait c0", "partial sum over 0", "[", "]",
        "65536", "1048576", "over 0", "work", "\"", "\\", "start", "ring", "tree", "i0=5", "transfer", "devices 0..3",
        "host+0", "own", "own host", "offload", "reload", "start on 2", "wait for %5", "successor of 0", "state",
        "scalar"};
    size_t n = strlen(text);
    char *s = NEW_ARRAY(arena, char, n + 64);
    memcpy(s, text, n);
    for (int k = 1 + pick(3); k > 0; k--) {
        size_t at = (size_t)pick(n), length, end;
        const char *bit = bits[pick(sizeof bits / sizeof *bits)];
        switch (pick(4)) {
        case 0: s[at] = " 0123456789()[],:=+%cp\n"[pick(23)]; break;
        case 1: /* a line away */
            while (at > 0 && s[at - 1] != '\n') at--;
            end = at + strcspn(s + at, "\n");
            memmove(s + at, s + end, n - end + 1);
            n -= end - at;
            break;
        default: /* a word for a word */
            length = strlen(bit);
            while (at > 0 && !strchr(" \n(,[+", s[at - 1])) at--;
            end = at + strcspn(s + at, " \n),]:");
            if (length > end - at + 20) break;
            memmove(s + at + length, s + end, n - end + 1);
            memcpy(s + at, bit, length);
            n = n - (end - at) + length;
        }
        if (n == 0) break;
    }
    return s;
}

GUARDED(spoilt_texts_do_no_harm) {
    mth__arena *outer = arena;
    int parsed = 0, verified = 0;
    for (unsigned seed = 0; seed < 120; seed++) {
        arena = mth__arena_new();
        mth__emit_options options = random_emit_options(seed);
        mth__program *plan = NULL;
        CHECK_STATUS(mth__emit(arena, random_graph(arena, seed), &options, &plan));
        if (seed % 2) add_offloads(arena, plan, seed);
        CHECK_STATUS(mth__emit_memory(plan, 1));
        const char *text = plan_text(plan);
        state = seed;
        for (int k = 0; k < 40; k++) {
            mth__program *program = NULL, *again = NULL;
            mth_status status = mth__program_parse(arena, spoil(text), &program);
            if (!status) {
                parsed++;
                const char *once = plan_text(program);
                status = mth__program_verify(program);
                verified += status == NULL;
                if (!status) {
                    const char *fault = plain_verify(arena, program, seed);
                    CHECK(fault == NULL);
                    if (fault) printf("%s\n%s\n", fault, once);
                }
                CHECK_STATUS(mth__program_parse(arena, once, &again));
                if (again) CHECK(strcmp(once, plan_text(again)) == 0);
            }
            mth_error_free(status);
        }
        mth__arena_free(arena);
        if (unit_failures > 3) break;
    }
    arena = outer;
    CHECK(parsed > 100);
    if (getenv("SHOW")) printf("%d parsed, %d verified\n", parsed, verified);
}
RUN()
