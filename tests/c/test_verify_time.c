/* How long texts take to verify and to print again: about linear in their length and in their devices, whatever they
 * say, or they are refused. A family of texts is measured at two sizes, in processor time, the least of some tries. */
#include "base/text.h"
#include "guarded.h"
#include <time.h>

enum { DEVICES = 1 << 17, GROWTH = 8 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define ADD(...) mth__text_add(text, __VA_ARGS__)
/* adds a text of n lines, or for n devices where that is what grows */
typedef void family(mth__text *text, int n);

static void whole_mesh(mth__text *text, int devices) { ADD("program\nmesh (%d,)\nplacement p0 whole\n", devices); }

/* Each line splits another number of elements: along one axis, cyclically, along two. */
static void entries(mth__text *text, int n, int64_t (*elements)(int), int devices, const char *split) {
    for (int i = 0; i < n; i++) ADD("entry %d input x%d: f32[%lld] (%s,) on p0\n", i, i, (long long)elements(i), split);
    ADD("role 0 devices 0..%d slab 0\n", devices - 1);
    for (int i = 0; i < n; i++)
        ADD("  x%d: f32[%d] of [%lld] (%s,) on p0 at entry %d\n", i, i + 2, (long long)elements(i), split, i);
}
static int64_t even(int i) { return (int64_t)DEVICES * (i + 2); }
static int64_t uneven(int i) { return (int64_t)DEVICES * (i + 2) - 1; }
static void even_splits(mth__text *text, int n) { whole_mesh(text, DEVICES), entries(text, n, even, DEVICES, "0"); }
static void uneven_splits(mth__text *text, int n) {
    whole_mesh(text, DEVICES), entries(text, n, uneven, DEVICES - 1, "0");
}
static void cyclic_splits(mth__text *text, int n) {
    whole_mesh(text, DEVICES), entries(text, n, uneven, DEVICES - 1, "0 cyclic");
}
static void nested_splits(mth__text *text, int n) {
    ADD("program\nmesh (128, %d)\nplacement p0 whole\n", DEVICES / 128);
    entries(text, n, uneven, DEVICES - 1, "(0, 1)");
}

/* Views of one value, each cut in other units; parts kept on another placement. */
static void views(mth__text *text, int n) {
    whole_mesh(text, DEVICES);
    ADD("entry 0 input x: f32[%d,720] (0, None) on p0\nrole 0 devices 0..%d slab 0\n", DEVICES, DEVICES - 1);
    ADD("  x: f32[1,720] of [%d,720] (0, None) on p0 at entry 0\n", DEVICES);
    for (int i = 0; i < n; i++) {
        int rows = (int[]){2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 18, 20, 24}[i % 14];
        ADD("  v%d: f32[%d,%d] of [%d,%d] (0 by %d, None) on p0 at x+0\n", i, rows, 720 / rows, rows * DEVICES,
            720 / rows, rows);
    }
}
static void keeps_of(mth__text *text, int n, bool alike) {
    const int half = DEVICES / 2;
    ADD("program\nmesh (2, %d)\nplacement p0 whole\nplacement p1 devices 0..%d\n", half, half - 1);
    for (int i = 0; i < (alike ? 1 : n); i++) ADD("entry %d input x%d: f32[%d] (1,) on p0\n", i, i, half * (i + 1));
    ADD("role 0 devices 0..%d slab %d\n", half - 1, 1024 * n);
    for (int i = 0; i < (alike ? 1 : n); i++)
        ADD("  x%d: f32[%d] of [%d] (1,) on p0 at entry %d\n", i, i + 1, half * (i + 1), i);
    for (int i = 0; i < n; i++)
        ADD("  %d  %%%d: f32[%d] of [%d] (0,) on p1 at slab+%d = keep x%d\n", i, i, alike ? 1 : i + 1,
            half * (alike ? 1 : i + 1), 1024 * i, alike ? 0 : i);
}
static void keeps(mth__text *text, int n) { keeps_of(text, n, true); }
static void other_keeps(mth__text *text, int n) { keeps_of(text, n, false); }

/* All templates of up to n ranks. */
static void templates(mth__text *text, int n) {
    static const char *const algorithms[] = {"ring", "tree", "hierarchical"};
    ADD("program\nmesh (%d,)\nplacement p0 device 0\n", n);
    for (int k = 2; k <= n; k++) ADD("placement p%d devices 0..%d\n", k - 1, k - 1);
    for (int k = 2, c = 0, p = 1; k <= n; k++, p++)
        for (int g = 0; g < 3; g++) {
            const char *w = algorithms[g];
            ADD("channel c%d all_reduce %s f32[%d] (None,) partial sum over 0 on p%d to (None,) on p%d over 0 \"\"\n",
                c++, w, k, p, p);
            ADD("channel c%d all_gather %s f32[%d] (0,) on p%d to (None,) on p%d over 0 dimension 0 \"\"\n", c++, w, k,
                p, p);
            ADD("channel c%d reduce_scatter %s f32[%d] (None,) partial sum over 0 on p%d to (0,) on p%d over 0 "
                "dimension 0 \"\"\n",
                c++, w, k, p, p);
            ADD("channel c%d all_to_all %s f32[%d,%d] (None, 0) on p%d to (0, None) on p%d over 0 split 0 gathered 1 "
                "\"\"\n",
                c++, w, k, k, p, p);
            ADD("channel c%d broadcast %s f32[%d] (None,) on p0 to (None,) on p%d \"\"\n", c++, w, k, p);
        }
}

/* One device of many does not take part; its role has nothing else to do, or n instructions. */
static void absent_device(mth__text *text, int n) {
    whole_mesh(text, DEVICES);
    ADD("entry 0 input x: f32[1] (None,) on p0\nchannel c0 transfer direct f32[1] (None,) on p0 to (None,) on p0 "
        "\"\"\n");
    ADD("role 0 devices 0..%d slab 128\n  x: f32[1] (None,) on p0 at entry 0\n", DEVICES - 2);
    for (int i = 0; i < n; i++)
        ADD("  %d  %%%d: f32[1,1] (None, None) on p0 at slab+0 = sinusoid length=1 width=1\n", i, i);
    ADD("  %d  y: f32[1] (None,) on p0 at slab+64 = transfer direct c0 x\n", n);
}

/* A role and an exit a device; the last exit is not written. */
static void roles_and_exits(mth__text *text, int n) {
    ADD("program\nmesh (%d,)\n", n);
    for (int i = 0; i < n; i++) ADD("placement p%d device %d\n", i, i);
    for (int i = 0; i < n; i++) ADD("exit %d output y%d: f32[1,1] (None, None) on p%d\n", i, i, i);
    for (int i = 0; i < n; i++) {
        ADD("role %d devices %d slab 64\n  0  y: f32[1,1] (None, None) on p%d at ", i, i, i);
        if (i < n - 1)
            ADD("exit %d = sinusoid length=1 width=1\n", i);
        else
            ADD("slab+0 = sinusoid length=1 width=1\n");
    }
}

/* A value that goes from device to device: each waits for the one before it, and the last for nobody. */
static void relay(mth__text *text, int n) {
    ADD("program\nmesh (%d,)\n", n);
    for (int i = 0; i < n; i++) ADD("placement p%d device %d\n", i, i);
    for (int i = 0; i + 1 < n; i++)
        ADD("channel c%d transfer direct f32[1,1] (None, None) on p%d to (None, None) on p%d \"\"\n", i, n - 1 - i,
            n - 2 - i);
    for (int i = 0; i < n; i++) {
        int k = 0, from = n - 2 - i, to = n - 1 - i; /* channels */
        ADD("role %d devices %d slab 64\n", i, i);
        if (from < 0)
            ADD("  %d  x: f32[1,1] (None, None) on p%d at slab+0 = sinusoid length=1 width=1\n", k++, i);
        else
            ADD("  %d  x: f32[1,1] (None, None) on p%d at slab+0 = recv c%d\n", k++, i, from);
        if (i) ADD("  %d  send c%d x\n  %d  wait c%d\n", k, to, k + 1, to);
    }
}

/* Channels that differ in the grain of a split alone; a transfer between cyclic parts over n and n - 1 devices. */
static void grains(mth__text *text, int n) {
    whole_mesh(text, 4);
    for (int i = 0; i < n; i++)
        ADD("channel c%d all_gather direct f32[1099511627776] (0 by %d,) on p0 to (None,) on p0 over 0 dimension 0 "
            "\"\"\n",
            i, 1000003 + 2 * i);
}
static void cyclic_transfer(mth__text *text, int n) {
    whole_mesh(text, n);
    ADD("placement p1 devices 0..%d\nchannel c0 transfer direct f32[1099511627776] (0 cyclic,) on p0 to (0 cyclic,) on "
        "p1 \"\"\n",
        n - 2);
}

static void placements(mth__text *text, int n) {
    whole_mesh(text, DEVICES);
    for (int i = 1; i < n; i++) ADD("placement p%d devices %d..%d\n", i, i, DEVICES - 1);
}
static void long_chain(mth__text *text, int n) {
    whole_mesh(text, 2);
    ADD("entry 0 input x: f32[4] (0,) on p0\nrole 0 devices 0, 1 slab 64\n  x: f32[2] of [4] (0,) on p0 at entry 0\n");
    for (int i = 0; i < n; i++) ADD("  %d  x%d: f32[2] of [4] (0,) on p0 at slab+0 = relu x%.*d\n", i, i + 1, i > 0, i);
}
static void many_values(mth__text *text, int n) { /* all alive at once */
    whole_mesh(text, 2);
    ADD("entry 0 input x: f32[4] (0,) on p0\nrole 0 devices 0, 1 slab %d\n  x: f32[2] of [4] (0,) on p0 at entry 0\n",
        64 * n + 64);
    for (int i = 0; i < n; i++)
        ADD("  %d  x%d: f32[2] of [4] (0,) on p0 at slab+%d = relu x\n", i, i + 1, 64 * (int)((int64_t)i * 7919 % n));
    for (int i = 0; i < n; i++)
        ADD("  %d  y%d: f32[2] of [4] (0,) on p0 at slab+%d = relu x%d\n", n + i, i, 64 * n, i + 1);
}

/* Names that FNV-1a, a usual hash of names, takes for one: after each block of letters two names are in the same state,
 * whichever of two blocks they have (Joux, "Multicollisions in iterated hash functions", 2004). */
enum { STAGES = 14, LETTERS = 8, BLOCKS = 400000, SLOTS = 1 << 20 };
typedef struct {
    char block[STAGES][2][LETTERS + 1];
} multicollision;

static uint32_t fnv(uint32_t h, const char *s) {
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    return h;
}
static void spell(int block, char *out) {
    uint64_t rest = (uint64_t)block * 0x9e3779b97f4a7c15 >> 24;
    for (int i = 0; i < LETTERS; i++, rest /= 26) out[i] = (char)('a' + rest % 26);
    out[LETTERS] = 0;
}
static multicollision *find_multicollision(void) {
    multicollision *m = NEW(arena, multicollision);
    int *slot = NEW_ARRAY(arena, int, SLOTS); /* 1 + block, by state */
    uint32_t state = 2166136261u;
    for (int s = 0; s < STAGES; s++) {
        memset(slot, 0, SLOTS * sizeof *slot);
        for (int block = 0; block < BLOCKS && !*m->block[s][1]; block++) {
            char here[LETTERS + 1], there[LETTERS + 1];
            spell(block, here);
            uint32_t h = fnv(state, here), at = h % SLOTS;
            for (; slot[at] && !*m->block[s][1]; at = (at + 1) % SLOTS) {
                spell(slot[at] - 1, there);
                if (fnv(state, there) != h) continue;
                strcpy(m->block[s][0], here);
                strcpy(m->block[s][1], there);
            }
            slot[at] = block + 1;
        }
        CHECK(fnv(state, m->block[s][0]) == fnv(state, m->block[s][1]) && *m->block[s][0]);
        state = fnv(state, m->block[s][0]);
    }
    return m;
}
static void colliding_names(mth__text *text, int n) {
    const multicollision *m = find_multicollision();
    whole_mesh(text, 2);
    ADD("role 0 devices 0, 1 slab 64\n");
    for (int i = 0; i < n; i++) {
        ADD("  %d  ", i);
        for (int s = 0; s < STAGES; s++) ADD("%s", m->block[s][i >> s & 1]);
        ADD(": f32[1,1] (None, None) on p0 at slab+0 = sinusoid length=1 width=1\n");
    }
}

static const struct {
    const char *name;
    family *make;
    int n;
} families[] = {
    {"even splits", even_splits, 16},
    {"uneven splits", uneven_splits, 16},
    {"cyclic splits", cyclic_splits, 16},
    {"nested splits", nested_splits, 16},
    {"views", views, 50},
    {"keeps", keeps, 25},
    {"other keeps", other_keeps, 25},
    {"templates", templates, 32},
    {"an absent device", absent_device, 200},
    {"roles and exits", roles_and_exits, 1000},
    {"a relay", relay, 1000},
    {"grains", grains, 1000},
    {"a cyclic transfer", cyclic_transfer, 1 << 12},
    {"placements", placements, 8},
    {"a long chain", long_chain, 2000},
    {"many values", many_values, 2000},
    {"colliding names", colliding_names, 2000},
};

/* Seconds of the least of three tries; `what` is what the verifier says. */
static double seconds(const char *text, bool print, char *what, size_t room) {
    double least = 1e9;
    for (int k = 0; k < 3; k++) {
        char *printed = NULL;
        double start = now();
        mth_status status = print ? mth_plan_reprint(text, &printed) : mth_plan_verify_text(text);
        double took = now() - start;
        if (took < least) least = took;
        if (printed) mth_text_free(printed);
        snprintf(what, room, "%s", status ? mth_error_get_message(status) : "right");
        CHECK(!status || mth_error_get_code(status) == MTH_ERROR_VALUE);
        mth_error_free(status);
    }
    return least;
}

GUARDED(time_is_about_linear) {
    /* ms: of which nothing can be said; of the largest text, under any sanitizer */
    enum { LITTLE = 20, MOST = 5000 };
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        for (int print = 0; print < 2; print++) {
            mth__text small = mth__text_new(arena), large = mth__text_new(arena);
            char said[2][100];
            families[f].make(&small, families[f].n);
            families[f].make(&large, GROWTH * families[f].n);
            double t = seconds(small.at, print, said[0], sizeof *said),
                   u = seconds(large.at, print, said[1], sizeof *said);
            /* refused: it took what the bound allows, however short the text */
            bool bounded = strstr(said[1], "than are proved") != NULL;
            bool slow = 1e3 * t > MOST || 1e3 * u > MOST || (!bounded && 1e3 * u > LITTLE && u > 2.5 * GROWTH * t);
            CHECK(!slow);
            if (slow || getenv("SHOW"))
                printf("%-18s %-7s %7zu bytes %8.2f ms, %8zu bytes %8.2f ms: %.60s\n", families[f].name,
                    print ? "print" : "verify", small.n, 1e3 * t, large.n, 1e3 * u, said[1]);
        }
}
RUN()
