/* base/: memory and guards, errors, options, placements, shardings, random numbers. */
#include "base/graph.h"
#include "base/option.h"
#include "base/philox.h"
#include "unit.h"

/* Runs the body inside a guard with an arena that is freed afterwards. */
static mth__arena *arena;
static mth_status in_arena(void *body) {
    arena = mth__arena_new();
    mth_status status = ((mth_status(*)(void))body)();
    mth__arena_free(arena);
    return status;
}
#define ARENA_TEST(name)                                                                                               \
    static mth_status body_##name(void);                                                                               \
    TEST(name) {                                                                                                       \
        int64_t before = mth_debug_live_allocations();                                                                 \
        CHECK_STATUS(mth__guard(in_arena, (void *)body_##name));                                                       \
        CHECK(mth_debug_live_allocations() == before);                                                                 \
    }                                                                                                                  \
    static mth_status body_##name(void)

/* ---------------------------------------------------------------- memory */
static mth_status allocate_much(void *unused) {
    (void)unused;
    mth__arena *a = mth__arena_new(), *b = mth__arena_new();
    for (int i = 0; i < 20; i++) mth__alloc(i % 2 ? a : b, 3000);
    mth__arena_free(a);
    mth__arena_free(b);
    return NULL;
}

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
static bool only_this_is_open(const char *at, size_t size) {
    return !__asan_region_is_poisoned((void *)at, size) && __asan_address_is_poisoned(at + size);
}

ARENA_TEST(the_address_sanitizer_sees_the_ends_of_allocations) {
    char *first = mth__alloc(arena, 10), *large = mth__alloc(arena, 100000), *second = mth__alloc(arena, 32);
    CHECK(only_this_is_open(first, 10) && only_this_is_open(large, 100000) && only_this_is_open(second, 32));
    VEC(int) list = {0};
    for (int i = 0; i < 100; i++) {
        PUSH(arena, list, i);
        CHECK(only_this_is_open((char *)list.at, list.room * sizeof(int)));
        if (i == 50) mth__alloc(arena, 8); /* from here on it can't grow where it is */
    }
    return NULL;
}
#endif

TEST(guard_frees_when_any_allocation_fails) {
    int64_t before = mth_debug_live_allocations(), count = mth_debug_allocation_count();
    CHECK_STATUS(mth__guard(allocate_much, NULL));
    count = mth_debug_allocation_count() - count;
    CHECK(count > 4);
    for (int64_t i = 0; i < count; i++) {
        mth_debug_fail_allocation(i);
        CHECK_FAILS(mth__guard(allocate_much, NULL), MTH_ERROR_MEMORY, "memory is exhausted");
        mth_debug_fail_allocation(-1);
        CHECK(mth_debug_live_allocations() == before);
    }
}

static mth__arena *kept;
static mth_status keep_one(void *fail) {
    kept = mth__arena_new();
    mth__arena_new();
    mth__arena_keep(kept);
    return fail ? FAIL(MTH_ERROR_VALUE, F("no"), F("yes")) : NULL;
}
static mth_status outer(void *unused) {
    (void)unused;
    TRY(mth__guard(keep_one, NULL)); /* leaves an arena, which is now ours */
    return FAIL(MTH_ERROR_KEY, F("outer"), F("fix"));
}

TEST(guards_nest_and_keep) {
    int64_t before = mth_debug_live_allocations();
    CHECK_FAILS(mth__guard(keep_one, (void *)1), MTH_ERROR_VALUE, "no");
    CHECK(mth_debug_live_allocations() == before + 1);
    mth__arena_free(kept);
    CHECK_FAILS(mth__guard(outer, NULL), MTH_ERROR_KEY, "outer");
    mth__arena_free(kept);
    CHECK(mth_debug_live_allocations() == before);
}

ARENA_TEST(arena_memory_is_zero_and_aligned) {
    for (size_t n = 1; n < 300000; n = n * 3 + 1) {
        char *p = mth__alloc(arena, n);
        CHECK((uintptr_t)p % 16 == 0);
        for (size_t i = 0; i < n; i += 7) CHECK(p[i] == 0);
        memset(p, 1, n);
    }
    VEC(int) v = {0};
    for (int i = 0; i < 5000; i++) PUSH(arena, v, i);
    for (int i = 0; i < 5000; i++) CHECK(v.at[i] == i);
    mth__text text = mth__text_new(arena);
    for (int i = 0; i < 1000; i++) mth__text_add(&text, "%d,", i);
    CHECK(text.n == strlen(text.at) && !strncmp(text.at + text.n - 8, "998,999,", 8));
    mth__text_add(&text, "\nab");
    mth__text_pad(&text, 5);
    mth__text_add(&text, "c");
    CHECK(!strcmp(text.at + text.n - 6, "ab   c"));
    return NULL;
}

TEST(malloc_refuses_the_impossible) {
    CHECK(mth__calloc(SIZE_MAX / 2, 4) == NULL);
    CHECK(mth__malloc(SIZE_MAX - 8) == NULL);
    void *p = mth__malloc(0);
    CHECK(p && (uintptr_t)p % 64 == 0);
    mth__free(p);
}

/* ---------------------------------------------------------------- errors */
TEST(an_error_is_dressed) {
    mth_set_source_line("train.py:12");
    mth_status status = FAIL(MTH_ERROR_VALUE, F("weight has %d dimensions", 2), F("give 2 entries"));
    mth_set_source_line(NULL);
    status = mth__error_tensor(mth__error_operator(status, "linear_0"), F("weight: float32 (2, 3)"));
    status = mth__error_operator(status, "other");
    CHECK(!strcmp(mth_error_get_message(status),
        "linear_0: weight has 2 dimensions\n  weight: float32 (2, 3)\n  at train.py:12\n  fix: give 2 entries"));
    CHECK(!strcmp(mth_error_get_operator(status), "linear_0") && mth_error_get_tensor_count(status) == 1);
    CHECK(!strcmp(mth_error_get_fix(status), "give 2 entries") &&
        !strcmp(mth_error_get_what(status), "weight has 2 dimensions"));
    mth_error_free(status);
    CHECK_FAILS(INTERNAL("broken"), MTH_ERROR_INTERNAL, "test_base.c:");
}

TEST(errors_survive_without_memory) {
    int64_t before = mth_debug_live_allocations();
    for (int64_t i = 0; i < 8; i++) {
        mth_debug_fail_allocation(i);
        mth_status status = mth__error_operator(FAIL(MTH_ERROR_VALUE, F("what"), F("fix")), "op");
        status = mth__error_tensor(status, F("tensor"));
        mth_debug_fail_allocation(-1);
        CHECK(status && mth_error_get_message(status)[0] && mth_error_get_fix(status)[0]);
        CHECK(mth_error_get_code(status) == MTH_ERROR_VALUE || mth_error_get_code(status) == MTH_ERROR_MEMORY);
        mth_error_free(status);
    }
    CHECK(mth_debug_live_allocations() == before);
}

TEST(nearest_names) {
    const char *names[] = {"dimension", "bias", "weight_shard_spec", "name"};
    CHECK(!strcmp(mth__nearest("dimenson", names, 4), "dimension"));
    CHECK(!strcmp(mth__nearest("Bias", names, 4), "bias"));
    CHECK(!strcmp(mth__nearest("bisa", names, 4), "bias"));
    CHECK(!strcmp(mth__nearest("dim", names, 4), "dimension")); /* an abbreviation of one alone */
    CHECK(mth__nearest("d", names, 4) == NULL);
    CHECK(mth__nearest("key", (const char *[]){"key_weight_of_head", "key_bias_of_head"}, 2) == NULL);
    CHECK(mth__nearest("weight_spec", names, 4) == NULL);
    CHECK(mth__nearest("zzzzzz", names, 4) == NULL);
}

/* ---------------------------------------------------------------- placements */
ARENA_TEST(placements_are_interned) {
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 2, (int64_t[]){2, 4}, &mesh));
    const mth__placement *whole = mth__place_whole(mesh), *row = mth__place_slice(mesh, 0, 1),
                         *column = mth__place_slice(mesh, 1, 2);
    CHECK(whole->count == 8 && row->count == 4 && row->device[0] == 4 && row->mesh_axis[0] == 1);
    CHECK(column->count == 2 && column->device[1] == 6 && column->rank_of[6] == 1 && column->rank_of[5] == -1);
    CHECK(mth__place_slice(mesh, 0, 1) == row);
    CHECK(mth__place_list(mesh, 4, (int32_t[]){4, 5, 6, 7}) == row);
    CHECK(mth__place_list(mesh, 4, (int32_t[]){4, 6, 5, 7}) != row);
    CHECK(mth__place_list(mesh, 1, (int32_t[]){3}) == mth__place_device(mesh, 3));
    const mth__placement *one = mth__place_device(mesh, 5);
    CHECK(one->naxes == 0 && one->count == 1 && one->lowest == 5);
    for (int d = 0; d < 8; d++) CHECK(one->rank_of[d] == (d == 5 ? 0 : -1));
    int c[MTH__AXES];
    mth__placement_coordinates(whole, 6, c);
    CHECK(c[0] == 1 && c[1] == 2);
    CHECK(!strcmp(mth__placement_text(arena, whole), "mesh(2, 4)"));
    CHECK(!strcmp(mth__placement_text(arena, row), "devices[4..7]"));
    CHECK(!strcmp(mth__placement_text(arena, column), "devices[2,6]"));
    char room[16];
    const mth__placement *some = mth__place_list(mesh, 5, (int32_t[]){0, 1, 3, 4, 7});
    CHECK(mth__placement_write(room, sizeof room, some) == strlen("devices[0,1,3,4,7]"));
    CHECK(!strcmp(room, "devices[0,1,..."));
    CHECK(!strcmp(mth__placement_text(arena, one), "device 5"));
    mth__mesh *cube;
    TRY(mth__mesh_new(arena, 3, (int64_t[]){2, 2, 4}, &cube));
    CHECK(!strcmp(mth__placement_text(arena, mth__place_slice(cube, 0, 1)), "devices[8..15](2, 4)"));
    CHECK(!strcmp(mth__placement_text(arena, mth__place_slice(cube, 2, 0)), "devices[0..12:4](2, 2)"));
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            if (i != j)
                CHECK(mth__place_list(cube, 2, (int32_t[]){i, j}) == mth__place_list(cube, 2, (int32_t[]){i, j}));
    CHECK_FAILS(mth__mesh_new(arena, 1, (int64_t[]){0}, &mesh), MTH_ERROR_VALUE, "size 0");
    CHECK_FAILS(mth__mesh_new(arena, 5, (int64_t[]){1, 1, 1, 1, 1}, &mesh), MTH_ERROR_VALUE, "axes");
    return NULL;
}

/* What is kept in several stages: a stack of their grids, whose first axis counts them. */
ARENA_TEST(grids_are_stacked) {
    mth__mesh *mesh;
    int axis;
    TRY(mth__mesh_new(arena, 2, (int64_t[]){3, 2}, &mesh));
    const mth__placement *row[] = {mth__place_slice(mesh, 0, 0), mth__place_slice(mesh, 0, 1),
        mth__place_slice(mesh, 0, 2)},
                         *column[] = {mth__place_slice(mesh, 1, 0), mth__place_slice(mesh, 1, 1)},
                         *outer[] = {row[0], row[2]},
                         *device[] = {mth__place_device(mesh, 1), mth__place_device(mesh, 4)};
    CHECK(mth__place_stack(mesh, 3, row, &axis) == mesh->whole && axis == 0);
    CHECK(mth__place_stack(mesh, 2, column, &axis) == mesh->whole && axis == 1);
    CHECK(mth__place_stack(mesh, 2, device, &axis) == mth__place_list(mesh, 2, (int32_t[]){1, 4}) && axis == 0);
    const mth__placement *stack = mth__place_stack(mesh, 2, outer, &axis);
    CHECK(axis == 0 && stack->naxes == 2 && stack->dim[0] == 2 && stack->dim[1] == 2);
    CHECK(stack->mesh_axis[0] == -1 && stack->mesh_axis[1] == 1);
    CHECK(!strcmp(mth__placement_text(arena, stack), "devices[0,1,4,5](2, 2)"));
    CHECK(mth__place_grid(mesh, 2, (int[]){2, 2}, (int32_t[]){0, 1, 4, 5}) == stack);
    CHECK(mth__place_stacked(stack, row[0]) && mth__place_stacked(stack, row[2]));
    CHECK(
        !mth__place_stacked(stack, row[1]) && !mth__place_stacked(stack, mth__place_list(mesh, 2, (int32_t[]){1, 4})));
    CHECK(mth__place_holds(stack, row[2]) && !mth__place_holds(stack, row[1]) && !mth__place_holds(row[0], stack));
    CHECK(mth__place_holds(mesh->whole, stack) && mth__place_holds(stack, device[0]));
    return NULL;
}

ARENA_TEST(a_large_mesh_is_cheap) {
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 3, (int64_t[]){8, 16, 128}, &mesh));
    for (int d = 0; d < mesh->count; d++) mth__place_device(mesh, d);
    for (int s = 0; s < 16; s++) mth__place_slice(mesh, 1, s);
    CHECK(mth__arena_bytes(arena) < 16 << 20);
    return NULL;
}

/* ---------------------------------------------------------------- shardings */
static void sizes(int64_t n, mth__sharding sharding, int64_t *size, int64_t *start) {
    for (int rank = 0; rank < sharding.on->count; rank++) {
        int64_t at[MTH__RANK];
        mth__shape local = mth__local_shape((mth__shape){1, {n}}, &sharding, rank, at, NULL);
        size[rank] = local.dim[0];
        start[rank] = at[0];
    }
}

ARENA_TEST(uneven_and_nested_splits) {
    mth__mesh *mesh;
    int64_t size[4], start[MTH__RANK];
    TRY(mth__mesh_new(arena, 2, (int64_t[]){2, 2}, &mesh));
    mth__sharding nested = {.on = mth__place_whole(mesh), .dim = {{.naxes = 2, .axis = {0, 1}}}};
    sizes(10, nested, size, start);
    CHECK(size[0] == 3 && size[1] == 2 && size[2] == 3 && size[3] == 2 && start[2] == 5 && start[3] == 8);
    CHECK(!mth__sharding_even((mth__shape){1, {10}}, &nested) && mth__sharding_even((mth__shape){1, {12}}, &nested));
    TRY(mth__mesh_new(arena, 1, (int64_t[]){4}, &mesh));
    mth__sharding flat = {.on = mth__place_whole(mesh), .dim = {{.naxes = 1}}};
    sizes(5, flat, size, start);
    CHECK(size[0] == 2 && size[1] == 2 && size[2] == 1 && size[3] == 0 && start[3] == 5);
    sizes(0, flat, size, start);
    CHECK(size[0] == 0 && size[3] == 0);
    flat.dim[0].grain = 8; /* 3 heads of width 8 over 4 devices */
    sizes(24, flat, size, start);
    CHECK(size[0] == 8 && size[1] == 8 && size[2] == 8 && size[3] == 0);
    CHECK(!strcmp(mth__where_text(arena, &flat, 1), "(0 by 8,) over mesh (4,)"));
    flat.dim[0] = (mth__split){.naxes = 1, .cyclic = true};
    sizes(10, flat, size, start);
    CHECK(size[0] == 3 && size[1] == 3 && size[2] == 2 && size[3] == 2 && start[3] == 3);
    int64_t step[MTH__RANK];
    mth__local_shape((mth__shape){1, {10}}, &flat, 1, start, step);
    CHECK(step[0] == 4 && start[0] == 1);
    return NULL;
}

/* Whatever the split: the parts of all coordinates are disjoint and cover the whole, and canonical form keeps them. */
ARENA_TEST(splits_partition) {
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 3, (int64_t[]){3, 1, 2}, &mesh));
    const mth__placement *on = mth__place_whole(mesh);
    for (int64_t n = 0; n < 40; n++)
        for (int32_t grain = 0; grain < 6; grain++)
            for (int form = 0; form < 5; form++) {
                static const int8_t axes[5][4] = {{0}, {2}, {0, 2}, {2, 0}, {1, 0, 2}};
                mth__sharding s = {.on = on}, c;
                s.dim[0] = (mth__split){.naxes = (int8_t)(form < 2 ? 1 : form < 4 ? 2 : 3), .grain = grain};
                s.dim[0].cyclic = form == 0 && grain == 5;
                memcpy(s.dim[0].axis, axes[form], 4);
                if (s.dim[0].cyclic) s.dim[0].grain = 0;
                c = s;
                c.partial = 2; /* over the axis of one device: no sum at all */
                mth__sharding_canonical(&c, (mth__shape){1, {n}});
                CHECK(c.partial == 0);
                int seen[64] = {0}, per_part = on->count / (form == 0 ? 3 : form == 1 ? 2 : 6);
                for (int rank = 0; rank < on->count; rank++) {
                    int64_t a[MTH__RANK], step[MTH__RANK], b[MTH__RANK];
                    int64_t size = mth__local_shape((mth__shape){1, {n}}, &s, rank, a, step).dim[0];
                    CHECK(mth__local_shape((mth__shape){1, {n}}, &c, rank, b, NULL).dim[0] == size &&
                        (size == 0 || a[0] == b[0]));
                    if (grain > 1 && n % grain == 0 && !s.dim[0].cyclic) CHECK(size % grain == 0);
                    for (int64_t i = 0; i < size; i++) seen[a[0] + i * step[0]]++;
                }
                for (int64_t i = 0; i < n; i++) CHECK(seen[i] == per_part);
                /* canonical: a grain that stays does change an extent */
                if (c.dim[0].grain > 1) {
                    mth__sharding plain = c;
                    plain.dim[0].grain = 0;
                    bool differs = false;
                    for (int rank = 0; rank < on->count; rank++)
                        differs |= mth__local_shape((mth__shape){1, {n}}, &c, rank, NULL, NULL).dim[0] !=
                            mth__local_shape((mth__shape){1, {n}}, &plain, rank, NULL, NULL).dim[0];
                    CHECK(differs);
                }
            }
    return NULL;
}

ARENA_TEST(sharding_texts_and_equality) {
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 2, (int64_t[]){2, 2}, &mesh));
    mth__sharding a = {.on = mth__place_whole(mesh), .dim = {{.naxes = 2, .axis = {0, 1}}}}, b = a;
    CHECK(!strcmp(mth__sharding_text(arena, &a, 2), "((0, 1), None)"));
    CHECK(mth__sharding_axes(&a, 2) == 3);
    b.dim[0].axis[0] = 1, b.dim[0].axis[1] = 0;
    CHECK(!mth__sharding_equal(&a, &b, 2) && mth__sharding_equal(&a, &a, 2));
    b = (mth__sharding){.on = mth__place_whole(mesh), .partial = 1};
    CHECK(!strcmp(mth__where_text(arena, &b, 2), "(None, None) partial sum over 0 over mesh (2, 2)"));
    b.partial = 3, b.reduce = MTH__REDUCE_MAX;
    CHECK(!strcmp(mth__sharding_text(arena, &b, 0), "() partial max over (0, 1)"));
    b = (mth__sharding){.on = mth__place_device(mesh, 3)};
    CHECK(!strcmp(mth__where_text(arena, &b, 1), "(None,) on device 3"));
    CHECK(!strcmp(mth__shape_text(arena, (mth__shape){1, {4}}), "(4,)"));
    return NULL;
}

/* Against a list that is searched from end to end; hashes that collide are keys of their own. */
static const int *keys_of_table;
static bool is_number(const void *key, int number) { return keys_of_table[number] == *(const int *)key; }
static mth_status table_body(void *colliding) {
    enum { KEYS = 300 };
    int key_of[KEYS], count = 0;
    mth__table table = {0};
    mth__arena *own = mth__arena_new();
    keys_of_table = key_of;
    CHECK(mth__table_find(&table, 1, is_number, &(int){1}) == -1);
    for (int i = 0; i < 4 * KEYS; i++) {
        const int key = (i * 7919 + 13) % KEYS;
        const uint64_t hash = colliding ? (uint64_t)(key % 3) : (uint64_t)key * 0x9e3779b97f4a7c15;
        int found = -1;
        for (int k = 0; k < count; k++)
            if (key_of[k] == key) found = k;
        CHECK(mth__table_find(&table, hash, is_number, &key) == found);
        if (found < 0) key_of[count] = key;
        CHECK(mth__table_add(own, &table, hash, is_number, &key, count) == (found < 0 ? count : found));
        count += found < 0;
    }
    CHECK(count == KEYS && table.count == KEYS && 2 * table.count <= table.slots);
    mth__arena_free(own);
    return NULL;
}

TEST(tables_find_what_was_added) {
    CHECK_STATUS(mth__guard(table_body, NULL));
    CHECK_STATUS(mth__guard(table_body, ""));
}

TEST(shapes_are_checked) {
    CHECK_STATUS(mth__shape_check((mth__shape){2, {0, INT64_C(1) << 40}}, MTH_FLOAT32));
    CHECK_FAILS(mth__shape_check((mth__shape){1, {-1}}, MTH_FLOAT32), MTH_ERROR_VALUE, "size -1");
    CHECK_FAILS(
        mth__shape_check((mth__shape){2, {(int64_t)1 << 31, (int64_t)1 << 31}}, MTH_FLOAT32), MTH_ERROR_VALUE, "2^62");
    /* its strides do not fit */
    CHECK_FAILS(mth__shape_check((mth__shape){3, {0, INT64_C(1) << 40, INT64_C(1) << 40}}, MTH_FLOAT32),
        MTH_ERROR_VALUE, "2^62");
    CHECK_FAILS(mth__shape_check((mth__shape){9, {0}}, MTH_FLOAT32), MTH_ERROR_VALUE, "dimensions");
    CHECK_FAILS(mth__shape_check((mth__shape){0}, (mth_dtype)77), MTH_ERROR_TYPE, "dtype");
    CHECK(mth_dtype_size(MTH_BFLOAT16) == 2 && !strcmp(mth_dtype_name(MTH_INT64), "int64") && !mth__is_float(MTH_BOOL));
}

/* ---------------------------------------------------------------- options */
static const mth__opt own[] = {{"dimension", MTH__OPT_SIZE, NULL, "Width.", NULL},
    {"bias", MTH__OPT_BOOL, "True", "Adds a bias.", NULL},
    {"epsilon", MTH__OPT_FLOAT, "1e-05", "Added to the variance.", NULL},
    {"kind", MTH__OPT_CHOICE, "'ring'", "Algorithm.", "ring|tree"}, {0}};
static const mth__opt common[] = {{"device_mesh", MTH__OPT_MESH, "None", "Mesh.", NULL},
    {"spec", MTH__OPT_SPEC, "(None, 0)", "Spec.", NULL}, {"any", MTH__OPT_ANY, "{'a': 1}", "Any.", NULL}, {0}};
static const mth__opt *const tables[] = {own, common, NULL};
static mth_status try_options(const mth_option *option, size_t n) {
    mth_arg *values;
    return mth__options_read(arena, "linear_0", tables, option, n, &values);
}

/* An option whose documentation is longer than any buffer. */
static void write_long(mth__text *text, const void *about) {
    mth__options_doc(text, (const mth__opt *const[]){about, NULL}, "");
}
ARENA_TEST(no_text_is_cut_in_silence) {
    char *words = NEW_ARRAY(arena, char, 200001), room[16], one[2];
    memset(words, 'w', 200000);
    const mth__opt long_one[] = {{"long", MTH__OPT_CHOICE, words, words, words}, {0}};
    static char *_Atomic made;
    const char *doc = mth__text_once(&made, write_long, long_one);
    CHECK(strlen(doc) == 3 * 200000 + strlen("long: str = :  ()\n"));
    CHECK(doc == mth__text_once(&made, write_long, long_one));
    mth__free(made);
    CHECK(mth__brief(room, sizeof room, "fifteen letters") == 15 && !strcmp(room, "fifteen letters"));
    CHECK(mth__brief(room, sizeof room, "sixteen letters!") == 16 && !strcmp(room, "sixteen lett..."));
    CHECK(mth__brief(room, sizeof room, "elf Zeichen\xc3\xa4\xc3\xb6\xc3\xbc") == 17);
    CHECK(!strcmp(room, "elf Zeichen...")); /* no half of a letter */
    CHECK(mth__brief(one, sizeof one, "ab") == 2 && !strcmp(one, "a") && mth__brief(NULL, 0, "ab") == 2);
    const char *names[100];
    for (int i = 0; i < 100; i++) names[i] = mth__format(arena, "a name of some length %d", i);
    char *fix = mth__name_fix("output", "?", names, 100);
    CHECK(!strncmp(fix, "the outputs are 'a name of some length 0', ", 43) && strstr(fix, "' and 86 more"));
    mth__free(fix);
    names[0] = words;
    fix = mth__name_fix("output", "?", names, 2);
    CHECK(strlen(fix) == strlen("the outputs are '' and 1 more") + 200000);
    mth__free(fix);
    mth_set_source_line(mth__format(arena, "%s.py:12345", words + 199000));
    mth_status status = FAIL(MTH_ERROR_VALUE, F("?"), F("?"));
    CHECK(strstr(mth_error_get_message(status), "at ...wwww") && strstr(mth_error_get_message(status), "www.py:12345"));
    mth_error_free(status);
    mth_set_source_line(NULL);
    return NULL;
}

ARENA_TEST(options_are_read) {
    mth_arg *values;
    TRY(mth__options_read(arena, "linear_0", tables,
        MTH_OPTIONS({"epsilon", mth_int(1)}, {"dimension", mth_int(4)}, {"device_mesh", mth_int(4)}), &values));
    CHECK(mth__options_get(tables, values, "dimension")->integer == 4 &&
        mth__options_get(tables, values, "epsilon")->real == 1);
    CHECK(!strcmp(mth__arg_text(arena, *mth__options_get(tables, values, "device_mesh")), "(4,)"));
    CHECK(!strcmp(mth__arg_text(arena, *mth__options_get(tables, values, "spec")), "(None, 0)"));
    CHECK(!strcmp(mth__arg_text(arena, *mth__options_get(tables, values, "any")), "{'a': 1}"));
    CHECK(!strcmp(mth__arg_text(arena, *mth__options_get(tables, values, "kind")), "'ring'") &&
        mth__options_get(tables, values, "nothing") == NULL);
    CHECK(!strcmp(mth__options_signature(arena, tables),
        "dimension: int, bias: bool = True, epsilon: float = 1e-05, kind: str = 'ring', "
        "device_mesh: tuple | None = None, spec: tuple = (None, 0), any: object = {'a': 1}"));
    mth__text doc = mth__text_new(arena);
    mth__options_doc(&doc, (const mth__opt *const[]){own, NULL}, "  ");
    CHECK(!strcmp(doc.at,
        "  dimension: int: Width.\n  bias: bool = True: Adds a bias.\n"
        "  epsilon: float = 1e-05: Added to the variance.\n  kind: str = 'ring': Algorithm. (ring|tree)\n"));
    CHECK_FAILS(try_options(MTH_OPTIONS({"dimensoin", mth_int(4)})), MTH_ERROR_TYPE, "did you mean 'dimension'");
    CHECK_FAILS(try_options(MTH_OPTIONS({"zzz", mth_int(4)})), MTH_ERROR_TYPE, "the options are: dimension: int");
    CHECK_FAILS(try_options(NULL, 0), MTH_ERROR_TYPE, "'dimension' is missing");
    CHECK_FAILS(
        try_options(MTH_OPTIONS({"dimension", mth_bool(true)})), MTH_ERROR_TYPE, "dimension=True is not an integer");
    CHECK_FAILS(try_options(MTH_OPTIONS({"dimension", mth_int(0)})), MTH_ERROR_VALUE, "below 1");
    CHECK_FAILS(
        try_options(MTH_OPTIONS({"dimension", mth_int(1)}, {"dimension", mth_int(1)})), MTH_ERROR_TYPE, "twice");
    CHECK_FAILS(try_options(MTH_OPTIONS({"dimension", mth_int(1)}, {"bias", mth_int(1)})), MTH_ERROR_TYPE, "bias=1");
    CHECK_FAILS(try_options(MTH_OPTIONS({"dimension", mth_int(1)}, {"bias", MTH_NONE})), MTH_ERROR_TYPE, "bias=None");
    CHECK_FAILS(try_options(MTH_OPTIONS({"dimension", mth_int(1)}, {"kind", mth_string("rign")})), MTH_ERROR_VALUE,
        "did you mean kind='ring'");
    CHECK_FAILS(try_options(MTH_OPTIONS({"dimension", mth_int(1)}, {"device_mesh", MTH_INTS(2, 0)})), MTH_ERROR_VALUE,
        "no mesh");
    CHECK_FAILS(try_options(MTH_OPTIONS({"dimension", mth_int(1)}, {"spec", MTH_SPEC(mth_string("x"))})),
        MTH_ERROR_TYPE, "spec=('x',)");
    CHECK_FAILS(
        try_options(MTH_OPTIONS({"dimension", mth_int(1)}, {"epsilon", mth_float(NAN)})), MTH_ERROR_VALUE, "finite");
    return NULL;
}

ARENA_TEST(arguments_print_as_python_does) {
    const struct {
        mth_arg arg;
        const char *text;
    } cases[] = {{MTH_NONE, "None"}, {mth_bool(false), "False"}, {mth_float(0.1), "0.1"}, {mth_float(2), "2.0"},
        {mth_float(1e-5), "1e-05"}, {mth_float(0.0001), "0.0001"}, {mth_float(1e16), "1e+16"},
        {mth_float(123456), "123456.0"}, {mth_float(-INFINITY), "-inf"}, {mth_int(-3), "-3"},
        {mth_string("it's"), "\"it's\""}, {mth_list(0, NULL), "()"},
        {MTH_SPEC(mth_list(2, (mth_arg[]){mth_int(0), mth_int(1)}), MTH_NONE), "((0, 1), None)"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(!strcmp(mth__arg_text(arena, cases[i].arg), cases[i].text));
        CHECK(mth__arg_equal(cases[i].arg, mth__arg_copy(arena, cases[i].arg)));
        for (size_t j = 0; j < i; j++) CHECK(!mth__arg_equal(cases[i].arg, cases[j].arg));
    }
    return NULL;
}

ARENA_TEST(specs_are_read) {
    mth__mesh *mesh;
    mth__sharding sharding;
    TRY(mth__mesh_new(arena, 2, (int64_t[]){2, 2}, &mesh));
    const mth__placement *on = mth__place_whole(mesh);
    TRY(mth__spec_read(
        MTH_SPEC(mth_list(2, (mth_arg[]){mth_int(1), mth_int(0)}), MTH_NONE), on, 2, "weight", &sharding));
    CHECK(!strcmp(mth__sharding_text(arena, &sharding, 2), "((1, 0), None)"));
    TRY(mth__spec_read(MTH_NONE, on, 2, "weight", &sharding));
    CHECK(sharding.on == on && mth__sharding_axes(&sharding, 2) == 0);
    CHECK_FAILS(mth__spec_read(MTH_SPEC(mth_int(0)), on, 2, "weight", &sharding), MTH_ERROR_VALUE,
        "weight has 2 dimensions, its spec 1 entry");
    CHECK_FAILS(mth__spec_read(MTH_SPEC(mth_int(2), MTH_NONE), on, 2, "weight", &sharding), MTH_ERROR_VALUE,
        "names axis 2, the mesh has 2 axes");
    CHECK_FAILS(
        mth__spec_read(MTH_SPEC(mth_int(-1), MTH_NONE), on, 2, "weight", &sharding), MTH_ERROR_VALUE, "axis -1");
    CHECK_FAILS(mth__spec_read(MTH_SPEC(mth_int(1), mth_int(1)), on, 2, "weight", &sharding), MTH_ERROR_VALUE,
        "weight: spec (1, 1) over mesh(2, 2)");
    CHECK_FAILS(mth__spec_read(mth_int(1), on, 2, "weight", &sharding), MTH_ERROR_TYPE, "not a tuple");
    CHECK_FAILS(mth__spec_read(MTH_SPEC(mth_int(0)), mth__place_device(mesh, 1), 1, "bias", &sharding), MTH_ERROR_VALUE,
        "single device");
    return NULL;
}

/* ---------------------------------------------------------------- random numbers */
TEST(philox_known_answers) { /* of Random123's kat_vectors */
    uint32_t w[4];
    mth__philox(0, 0, 0, w);
    CHECK(w[0] == 0x6627e8d5 && w[1] == 0xe169c58d && w[2] == 0xbc57ac4c && w[3] == 0x9b00dbd8);
    mth__philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, w);
    CHECK(w[0] == 0x408f276d && w[1] == 0x41c83b0e && w[2] == 0xa20bc7c6 && w[3] == 0x6d5451fd);
    mth__philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e, w);
    CHECK(w[0] == 0xd16cfe09 && w[1] == 0x94fdcceb && w[2] == 0x5001e420 && w[3] == 0x24126ea1);
}

TEST(philox_distributions) {
    double sum = 0, square = 0, mean = 0;
    enum { N = 20000 };
    for (uint64_t i = 0; i < N; i++) {
        float x = mth__philox_normal(7, mth__philox_stream("linear_0.weight"), i), u = mth__philox_uniform(7, 1, i);
        sum += x, square += (double)x * x, mean += u;
        CHECK(u >= 0 && u < 1);
    }
    CHECK(fabs(sum / N) < 0.03 && fabs(square / N - 1) < 0.04 && fabs(mean / N - 0.5) < 0.01);
    CHECK(mth__philox_stream("a") != mth__philox_stream("b"));
}

/* ---------------------------------------------------------------- graph */
ARENA_TEST(values_have_texts) {
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 1, (int64_t[]){4}, &mesh));
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__value *w = mth__graph_value(graph, MTH__VALUE_PARAMETER, "weight", MTH_FLOAT32, (mth__shape){2, {2048, 512}});
    TRY(mth__spec_read(MTH_SPEC(mth_int(0), MTH_NONE), mth__place_whole(mesh), 2, "weight", &w->sharding));
    char *text = mth__value_text(w);
    CHECK(!strcmp(text, "weight: float32 (2048, 512), sharded (0, None) over mesh (4,)"));
    mth__free(text);
    mth__value *v = mth__graph_value(graph, MTH__VALUE_NODE, NULL, MTH_INT32, (mth__shape){0});
    CHECK(!strcmp(mth__value_label(arena, v), "%1"));
    TRY(mth__graph_check(graph));
    PUSH(arena, graph->output, (mth__output){.name = "y", .value = v});
    CHECK_FAILS(mth__graph_check(graph), MTH_ERROR_INTERNAL, "output y is not made");
    w->sharding.dim[1] = w->sharding.dim[0];
    CHECK_FAILS(mth__graph_check(graph), MTH_ERROR_INTERNAL, "split twice");
    return NULL;
}
RUN()
