/* The native executor on programs written by hand: every collective by every algorithm, transfers, overlap, stop,
 * fault, stuck, memory. */
#include "catalog/rows.h"
#include "engine/native/native.h"
#include "elements.h"
#include "guarded.h"
#include "program_maker.h"
#include <pthread.h>

static const mth__engine_vtable *const native = &mth__engine_native;
enum { THREADS = 4, ROUNDS = 3 /* of the communication in a program, in the same memory */ };

/* ---- numbers: small integers, so that every order of a sum gives the same bits */
static float number(int64_t i, int salt) { return (float)((i * 2654435761u + (int64_t)salt * 40503) % 23 - 11); }
/* Element i of the global value: a sum (or maximum) over the coordinates of the partial axes. */
static int term_of(const mth__sharding *sharding, int d) {
    int coordinate[MTH__AXES], term = 0;
    mth__placement_coordinates(sharding->on, sharding->on->rank_of[d], coordinate);
    for (int x = 0; x < sharding->on->naxes; x++)
        if (sharding->partial >> x & 1) term = term * 16 + coordinate[x] + 1;
    return term;
}
/* as device d is to have it: still partial over the axes of c->to */
static float expected(const mth__channel *channel, int64_t i, int d) {
    float v = channel->reduce == MTH__REDUCE_MAX ? -INFINITY : 0;
    int coordinate[MTH__AXES], mine[MTH__AXES];
    if (channel->from.on->rank_of[d] < 0) return number(i, 0);
    if (!(channel->from.partial & ~channel->to.partial)) return number(i, term_of(&channel->from, d));
    mth__placement_coordinates(channel->from.on, channel->from.on->rank_of[d], mine);
    for (int rank = 0; rank < channel->from.on->count; rank++) {
        mth__placement_coordinates(channel->from.on, rank, coordinate);
        bool counts = true;
        for (int x = 0; x < channel->from.on->naxes; x++)
            counts &= (channel->axes >> x & 1) || coordinate[x] == mine[x];
        float x = number(i, term_of(&channel->from, channel->from.on->device[rank]));
        if (counts) v = channel->reduce == MTH__REDUCE_MAX ? (x > v ? x : v) : v + x;
    }
    return v;
}

/* ---- engine, entry, exit */
/* An engine of so many devices and threads. */
static mth_status open_engine(int devices, int threads, mth__engine **out) {
    static const mth__opt options[] = {{"threads", MTH__OPT_SIZE, "None", "", NULL}, {0}};
    mth__mesh mesh = {.count = devices};
    mth_arg value = mth_int(threads);
    return native->open(&(mth__engine_setup){&mesh, (const mth__opt *const[]){options, NULL}, &value}, out);
}
typedef struct {
    mth__engine *engine;
    mth__executable *x;
    int devices;
    mth__buffer *entry[64], *exit[64];
} session;
static session session_new(mth__program *program, int threads) {
    session s = {.devices = program->mesh->count};
    CHECK_STATUS(open_engine(program->mesh->count, threads, &s.engine));
    CHECK_STATUS(native->load(s.engine, program, NULL, &s.x));
    return s;
}
static float *entry_new(session *s, int rank, int device, int64_t bytes) {
    CHECK_STATUS(native->memory.new(s->engine, device, bytes, &s->entry[rank]));
    return native->memory.host(s->entry[rank]);
}
static void release_exits(session *s) {
    for (int d = 0; d < s->devices; d++) {
        if (s->exit[d]) native->memory.release(s->exit[d]);
        s->exit[d] = NULL;
    }
}
static void session_end(session *s) {
    release_exits(s);
    for (int d = 0; d < s->devices; d++)
        if (s->entry[d]) native->memory.release(s->entry[d]);
    native->unload(s->x);
    native->close(s->engine);
}

/* ---- one channel, used ROUNDS times in the same memory: round i sends (i + 1) x; the exit is the sum of what came */
static void run_channel(maker *m, mth__channel c, bool start, bool in_place, int threads) {
    c.dtype = MTH_FLOAT32;
    int devices = m->mesh->count, channel[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) channel[i] = add_channel(m, c);
    for (int d = 0; d < devices; d++) {
        bool has = c.from.on->rank_of[d] >= 0, gets = c.to.on->rank_of[d] >= 0;
        int in = -1, sent = -1, got = -1, out = -1, scratch = -1;
        if (has) in = add_value(m, d, "x", MTH_FLOAT32, c.shape, &c.from, MTH__IN_ENTRY, 0, -1);
        if (has) sent = add_value(m, d, "sent", MTH_FLOAT32, c.shape, &c.from, MTH__IN_SLAB, 0, -1);
        if (gets) got = add_value(m, d, "got", MTH_FLOAT32, c.shape, &c.to, MTH__IN_SLAB, 0, in_place ? sent : -1);
        if (gets) out = add_value(m, d, "y", MTH_FLOAT32, c.shape, &c.to, MTH__IN_EXIT, 0, -1);
        if (c.kind != MTH__TRANSFER && mth__channel_scratch(&c, d))
            scratch = add_room(m, d, mth__channel_scratch(&c, d));
        bool takes_part = has || gets, apart = c.kind == MTH__TRANSFER && c.from.on != c.to.on;
        for (int i = 0; i < ROUNDS && takes_part; i++) {
            if (has) add_compute(m, d, "scale", i + 1, 1, &in, sent);
            if (apart) {
                if (has) add_comm(m, d, MTH__SEND, false, channel[i], sent, -1, -1);
                if (gets) add_comm(m, d, MTH__RECV, start && !has, channel[i], -1, got, -1);
                if (has || start) add_comm(m, d, MTH__WAIT, false, channel[i], -1, -1, -1);
            } else {
                add_comm(m, d, MTH__COLLECTIVE, start, channel[i], has ? sent : -1, got, scratch);
                if (start) add_comm(m, d, MTH__WAIT, false, channel[i], -1, -1, -1);
            }
            if (gets && !i) add_compute(m, d, "scale", 1, 1, &got, out);
            if (gets && i) add_compute(m, d, "add", 0, 2, (int[]){out, got}, out);
        }
    }
    session s = session_new(m->p, threads);
    for (int d = 0; d < devices; d++) {
        if (c.from.on->rank_of[d] < 0) continue;
        held p = held_by(c.shape, &c.from, d);
        int64_t n = mth__shape_size(p.local);
        float *x = entry_new(&s, c.from.on->rank_of[d], d, n * 4);
        for (int64_t i = 0; i < n; i++) x[i] = number(index_in_whole(&p, i), term_of(&c.from, d));
    }
    for (int again = 0; again < 2; again++) {
        release_exits(&s);
        CHECK_STATUS(native->run(s.x, s.entry, s.exit, NULL));
        for (int rank = 0; rank < devices; rank++) CHECK(!s.exit[rank] == (rank >= c.to.on->count));
        for (int rank = 0; rank < c.to.on->count && s.exit[rank]; rank++) {
            const int d = c.to.on->device[rank];
            const float *y = native->memory.host(s.exit[rank]);
            int64_t wrong = 0;
            held p = held_by(c.shape, &c.to, d);
            for (int64_t i = 0; i < mth__shape_size(p.local); i++)
                wrong += y[i] != (1 + 2 + 3) * expected(&c, index_in_whole(&p, i), d);
            if (wrong)
                printf("  %s %s: %lld wrong on device %d of %d, again %d\n", mth__channel_names[c.kind],
                    mth__algorithm_names[c.algorithm], (long long)wrong, d, devices, again);
            CHECK(!wrong);
        }
    }
    session_end(&s);
}

static mth__split over(int axis) { return (mth__split){.naxes = 1, .axis = {(int8_t)axis}}; }
/* from and to of a collective over `axis` of `on`; other axes split dimension 2 where `third` says so */
static mth__channel collective(
    mth__channel_kind kind, mth__algorithm algorithm, const mth__placement *on, int axis, int third, mth__shape shape) {
    mth__channel channel = {.kind = kind,
        .algorithm = algorithm,
        .shape = shape,
        .from = {.on = on},
        .to = {.on = on},
        .axes = (uint8_t)(1 << axis),
        .dim = 0,
        .dim2 = 1};
    if (kind == MTH__ALL_REDUCE || kind == MTH__REDUCE_SCATTER) channel.from.partial = channel.axes;
    if (kind == MTH__ALL_GATHER) channel.from.dim[0] = over(axis);
    if (kind == MTH__REDUCE_SCATTER) channel.to.dim[0] = over(axis);
    if (kind == MTH__ALL_TO_ALL) {
        channel.from.dim[1] = over(axis);
        channel.to.dim[0] = over(axis);
    }
    if (third >= 0) channel.from.dim[2] = channel.to.dim[2] = over(third);
    return channel;
}

GUARDED(collectives) {
    static const mth__shape shapes[] = {
        {3, {12, 8, 4}}, {3, {7, 5, 3}}, {3, {3, 2, 1}}, {3, {1, 1, 1}}, {3, {0, 5, 2}}};
    for (int kind = 0; kind < MTH__BROADCAST; kind++)
        for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++)
            for (int n = 1; n <= 9; n++)
                for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
                    for (int start = 0; start < 2; start++) {
                        maker m = maker_new(arena, 1, (int64_t[]){n});
                        mth__channel channel = collective((mth__channel_kind)kind, (mth__algorithm)algorithm,
                            mth__place_whole(m.mesh), 0, -1, shapes[k]);
                        channel.reduce = k == 1 && start ? MTH__REDUCE_MAX : MTH__REDUCE_SUM;
                        if (channel.reduce == MTH__REDUCE_MAX) channel.from.reduce = MTH__REDUCE_MAX;
                        run_channel(&m, channel, start, kind == MTH__ALL_REDUCE && k != 1,
                            1 + (int)(k + (size_t)start) % THREADS);
                    }
}
GUARDED(collectives_in_groups) {
    for (int kind = 0; kind < MTH__BROADCAST; kind++)
        for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++)
            for (int axis = 0; axis < 2; axis++) {
                maker m = maker_new(arena, 2, (int64_t[]){2, 3});
                run_channel(&m,
                    collective((mth__channel_kind)kind, (mth__algorithm)algorithm, mth__place_whole(m.mesh), axis,
                        1 - axis, (mth__shape){3, {5, 7, 4}}),
                    false, false, THREADS);
            }
}
GUARDED(large_collectives_are_cut) { /* several chunks a move */
    for (int kind = 0; kind < MTH__BROADCAST; kind++)
        for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++) {
            maker m = maker_new(arena, 1, (int64_t[]){3});
            run_channel(&m,
                collective((mth__channel_kind)kind, (mth__algorithm)algorithm, mth__place_whole(m.mesh), 0, -1,
                    (mth__shape){3, {301, 203, 17}}),
                false, kind == MTH__ALL_REDUCE, THREADS);
        }
}
GUARDED(cyclic_shards) {
    for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++)
        for (int kind = MTH__ALL_GATHER; kind < MTH__BROADCAST; kind++) {
            maker m = maker_new(arena, 1, (int64_t[]){4});
            mth__channel channel = collective((mth__channel_kind)kind, (mth__algorithm)algorithm,
                mth__place_whole(m.mesh), 0, -1, (mth__shape){3, {11, 6, 2}});
            if (channel.from.dim[0].naxes) channel.from.dim[0].cyclic = true;
            if (channel.to.dim[0].naxes) channel.to.dim[0].cyclic = true;
            run_channel(&m, channel, false, false, THREADS);
        }
}
GUARDED(broadcasts) {
    for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++)
        for (int n = 1; n <= 9; n++)
            for (int inside = 0; inside < 2; inside++) { /* whether the source is one of the destinations */
                maker m = maker_new(arena, 1, (int64_t[]){n + 1});
                int32_t device[16];
                for (int i = 0; i < n; i++) device[i] = i;
                mth__channel channel = {
                    .kind = MTH__BROADCAST, .algorithm = (mth__algorithm)algorithm, .shape = {2, {9, 5}}};
                channel.from.on = mth__place_device(m.mesh, inside ? n / 2 : n);
                channel.to.on = mth__place_list(m.mesh, n, device);
                run_channel(&m, channel, n % 2, false, THREADS);
            }
}
GUARDED(transfers) {
    for (int k = 0; k < 24; k++) {
        maker m = maker_new(arena, 1, (int64_t[]){7});
        mth__channel channel = {.kind = MTH__TRANSFER, .shape = {2, {11, 6}}};
        const mth__placement *front = mth__place_list(m.mesh, 4, (int32_t[]){0, 1, 2, 3}),
                             *back = mth__place_list(m.mesh, 3, (int32_t[]){4, 5, 6});
        const mth__placement *middle = mth__place_list(m.mesh, 3, (int32_t[]){3, 1, 5});
        channel.from.on = k % 3 == 2 ? mth__place_whole(m.mesh) : front;
        channel.to.on = k % 3 == 0 ? back : k % 3 == 1 ? middle : mth__place_whole(m.mesh);
        if (k & 4) channel.from.dim[0] = over(0);
        if (k & 8) channel.to.dim[1] = over(0);
        if (k & 16) channel.from.dim[0].cyclic = channel.from.dim[0].naxes > 0;
        run_channel(&m, channel, k % 2, false, THREADS);
    }
}

/* ---- a chain of `n` computations on each device */
static maker chain(mth__arena *scratch, int devices, int n, mth__shape shape) {
    maker m = maker_new(scratch, 1, (int64_t[]){devices});
    for (int d = 0; d < devices; d++) {
        mth__sharding sharding = {.on = mth__place_whole(m.mesh)};
        int in = add_value(&m, d, "x", MTH_FLOAT32, shape, &sharding, MTH__IN_ENTRY, 0, -1),
            out = add_value(&m, d, "y", MTH_FLOAT32, shape, &sharding, MTH__IN_EXIT, 0, -1);
        for (int i = 0; i < n; i++) add_compute(&m, d, "shift", 1, 1, i ? &out : &in, out);
    }
    return m;
}
static void fill_entries(session *s, int64_t elements) {
    for (int d = 0; d < s->devices; d++) {
        float *x = entry_new(s, d, d, elements * 4);
        for (int64_t i = 0; i < elements; i++) x[i] = (float)d;
    }
}

typedef struct {
    session s;
    int runs;
    float want;
} user;
static void *use(void *argument) {
    user *u = argument;
    for (int i = 0; i < u->runs; i++) {
        release_exits(&u->s);
        CHECK_STATUS(native->run(u->s.x, u->s.entry, u->s.exit, NULL));
        for (int d = 0; d < u->s.devices; d++)
            CHECK(((float *)native->memory.host(u->s.exit[d]))[1] == u->want + (float)d);
    }
    return NULL;
}
GUARDED(several_threads_share_an_engine) {
    maker one = chain(arena, 3, 50, (mth__shape){1, {1000}}), two = chain(arena, 3, 7, (mth__shape){2, {300, 1000}});
    user first = {session_new(one.p, THREADS), 60, 50}, second = {.runs = 20, .want = 7};
    second.s = (session){.devices = 3, .engine = first.s.engine};
    CHECK_STATUS(native->load(first.s.engine, two.p, NULL, &second.s.x));
    fill_entries(&first.s, 1000);
    fill_entries(&second.s, 300000);
    pthread_t thread;
    pthread_create(&thread, NULL, use, &second);
    use(&first);
    pthread_join(thread, NULL);
    release_exits(&second.s);
    for (int d = 0; d < 3; d++) native->memory.release(second.s.entry[d]);
    native->unload(second.s.x);
    session_end(&first.s);
}

static atomic_int questions; /* whether to stop, that are answered by no before all are by yes */
static bool is_stopped(void *left) { return atomic_fetch_sub((atomic_int *)left, 1) <= 0; }
static const mth__stop stop_after_questions = {is_stopped, &questions};
/* A run ends at any question, and asks for each instruction. */
GUARDED(stop) {
    enum { LENGTH = 4000 };
    maker m = chain(arena, 2, LENGTH, (mth__shape){2, {100, 1000}});
    session s = session_new(m.p, THREADS);
    fill_entries(&s, 100000);
    for (int i = 0; i < 4; i++) {
        atomic_store(&questions, i * LENGTH / 4);
        CHECK_FAILS(native->run(s.x, s.entry, s.exit, &(mth__control){.stop = &stop_after_questions}),
            MTH_ERROR_INTERRUPTED, "interrupted");
        CHECK(!s.exit[0] && !s.exit[1]);
    }
    atomic_store(&questions, INT32_MAX);
    CHECK_STATUS(native->run(s.x, s.entry, s.exit, &(mth__control){.stop = &stop_after_questions}));
    CHECK(((float *)native->memory.host(s.exit[1]))[99999] == LENGTH + 1);
    session_end(&s);
}

GUARDED(fault) {
    maker m = maker_new(arena, 1, (int64_t[]){2});
    for (int d = 0; d < 2; d++) {
        mth__sharding sharding = {.on = mth__place_whole(m.mesh)};
        int table = add_value(
            &m, d, "embedding_0.weight", MTH_FLOAT32, (mth__shape){2, {4, 3}}, &sharding, MTH__IN_ENTRY, 0, -1);
        int ids = add_value(&m, d, "ids", MTH_INT32, (mth__shape){1, {5}}, &sharding, MTH__IN_ENTRY, 1, -1);
        int out = add_value(&m, d, "y", MTH_FLOAT32, (mth__shape){2, {5, 3}}, &sharding, MTH__IN_EXIT, 0, -1);
        add_compute(&m, d, "gather", 0, 2, (int[]){table, ids}, out);
    }
    session s = session_new(m.p, THREADS);
    mth__buffer *entry[4];
    for (int d = 0; d < 2; d++) {
        CHECK_STATUS(native->memory.new(s.engine, d, 48, &entry[d]));
        CHECK_STATUS(native->memory.new(s.engine, d, 20, &entry[2 + d]));
        for (int i = 0; i < 12; i++) ((float *)native->memory.host(entry[d]))[i] = (float)i;
    }
    for (int wrong = 0; wrong < 4; wrong++) {
        int32_t ids[5] = {0, 3, 2, 1, 0};
        if (wrong == 1) ids[2] = 4;
        if (wrong == 2) ids[4] = -1;
        for (int d = 0; d < 2; d++) CHECK_STATUS(native->memory.write(entry[2 + d], 0, ids, sizeof ids));
        mth_status status = native->run(s.x, entry, s.exit, NULL);
        if (wrong % 3) {
            CHECK(status && mth_error_get_code(status) == MTH_ERROR_VALUE);
            const char *text = status ? mth_error_get_message(status) : "";
            CHECK(strstr(text, wrong == 1 ? "4 is outside [0, 4)" : "-1 is outside [0, 4)") &&
                strstr(text, "gather on device") && strstr(text, "ids must lie in [0, 4)"));
            CHECK(status && !strcmp(mth_error_get_operator(status), "block_0") &&
                mth_error_get_tensor_count(status) == 2);
            mth_error_free(status);
        } else {
            CHECK_STATUS(status);
            CHECK(((float *)native->memory.host(s.exit[1]))[3] == 9);
        }
        release_exits(&s);
    }
    mth__buffer *none[4] = {entry[0], entry[1], NULL, entry[3]};
    CHECK_FAILS(native->run(s.x, none, s.exit, NULL), MTH_ERROR_INTERNAL, "ids");
    for (int i = 0; i < 4; i++) native->memory.release(entry[i]);
    session_end(&s);
}

GUARDED(stuck_is_reported) { /* two collectives in opposite order */
    maker m = maker_new(arena, 1, (int64_t[]){2});
    mth__shape shape = {3, {4, 4, 4}};
    mth__channel c = collective(MTH__ALL_REDUCE, MTH__RING, mth__place_whole(m.mesh), 0, -1, shape);
    c.dtype = MTH_FLOAT32;
    int channel[2] = {add_channel(&m, c), add_channel(&m, c)};
    for (int d = 0; d < 2; d++) {
        int x = add_value(&m, d, "x", MTH_FLOAT32, shape, &c.from, MTH__IN_SLAB, 0, -1),
            y = add_value(&m, d, "y", MTH_FLOAT32, shape, &c.to, MTH__IN_SLAB, 0, -1);
        for (int i = 0; i < 2; i++) add_comm(&m, d, MTH__COLLECTIVE, false, channel[i ^ d], x, y, -1);
    }
    for (int threads = 1; threads <= THREADS; threads++) {
        session s = session_new(m.p, threads);
        for (int i = 0; i < 3; i++)
            CHECK_FAILS(native->run(s.x, s.entry, s.exit, NULL), MTH_ERROR_INTERNAL, "waits for device");
        session_end(&s);
    }
}

GUARDED(memory_failing_at_any_index) {
    maker m = maker_new(arena, 1, (int64_t[]){3});
    mth__channel c =
        collective(MTH__ALL_TO_ALL, MTH__TREE, mth__place_whole(m.mesh), 0, -1, (mth__shape){3, {6, 5, 4}});
    c.dtype = MTH_FLOAT32;
    int channel = add_channel(&m, c);
    for (int d = 0; d < 3; d++) {
        int x = add_value(&m, d, "x", MTH_FLOAT32, c.shape, &c.from, MTH__IN_ENTRY, 0, -1),
            y = add_value(&m, d, "y", MTH_FLOAT32, c.shape, &c.to, MTH__IN_EXIT, 0, -1);
        add_comm(&m, d, MTH__COLLECTIVE, false, channel, x, y, add_room(&m, d, mth__channel_scratch(&c, d)));
    }
    int failures = 0;
    for (int index = 0; index < 10000; index++) {
        int64_t live = mth_debug_live_allocations();
        session s = {.devices = 3};
        mth_debug_fail_allocation(index);
        mth_status status = open_engine(3, THREADS, &s.engine);
        if (!status) status = native->load(s.engine, m.p, NULL, &s.x);
        for (int d = 0; d < 3 && !status; d++) status = native->memory.new(s.engine, d, 240, &s.entry[d]);
        for (int d = 0; d < 3 && !status; d++) memset(native->memory.host(s.entry[d]), 0, 240);
        if (!status) status = native->run(s.x, s.entry, s.exit, NULL);
        mth_debug_fail_allocation(-1);
        bool done = !status;
        if (status) CHECK(mth_error_get_code(status) == MTH_ERROR_MEMORY);
        mth_error_free(status);
        release_exits(&s);
        for (int d = 0; d < 3; d++)
            if (s.entry[d]) native->memory.release(s.entry[d]);
        if (s.x) native->unload(s.x);
        if (s.engine) native->close(s.engine);
        CHECK(mth_debug_live_allocations() == live);
        if (done) break;
        failures++;
    }
    CHECK(failures > 10 && failures < 10000);
}

GUARDED(buffers_come_back) {
    mth__engine *engine;
    CHECK_STATUS(open_engine(2, 1, &engine));
    mth__buffer *buffer, *again;
    CHECK_STATUS(native->memory.new(engine, 1, 100000, &buffer));
    void *data = native->memory.host(buffer);
    CHECK((uintptr_t)data % 64 == 0);
    CHECK_STATUS(native->memory.write(buffer, 99996, "abc", 4));
    char text[4];
    CHECK_STATUS(native->memory.read(buffer, 99996, text, 4));
    CHECK(!strcmp(text, "abc"));
    native->memory.retain(buffer);
    native->memory.release(buffer);
    native->close(engine); /* the buffer keeps the engine */
    CHECK_STATUS(native->memory.new(engine, 0, 99999, &again));
    CHECK(native->memory.host(again) != data);
    native->memory.release(buffer);
    CHECK_STATUS(native->memory.new(engine, 0, 99998, &buffer));
    CHECK(native->memory.host(buffer) == data);
    native->memory.release(again);
    native->memory.release(buffer);
    for (int64_t bytes = 0; bytes < 5000; bytes += 7) {
        CHECK_STATUS(open_engine(1, 1, &engine));
        CHECK_STATUS(native->memory.new(engine, 0, bytes, &buffer));
        memset(native->memory.host(buffer), 1, (size_t)bytes);
        native->memory.release(buffer);
        native->close(engine);
    }
}

/* Buffers of any size, those that share pages too, made and released in any order by several threads: nobody writes
 * where another one is. */
enum { HELD = 24, DRAWS = 1500 };
typedef struct {
    mth__engine *engine;
    unsigned seed;
} holder;
static void *hold_and_release(void *context) {
    holder *h = context;
    mth__engine *engine = h->engine;
    mth__buffer *mine[HELD] = {0};
    int64_t bytes[HELD], wrong = 0;
    for (int i = 0; i < DRAWS; i++) {
        int k = (int)(rand_r(&h->seed) % HELD);
        if (mine[k]) {
            const char *at = native->memory.host(mine[k]);
            wrong += memcmp(at, &mine[k], sizeof mine[k]) != 0 ||
                memcmp(at + bytes[k] - sizeof mine[k], &mine[k], sizeof mine[k]) != 0;
            native->memory.release(mine[k]);
            mine[k] = NULL;
            if (i % 97 == 0) mth__buffers_trim(&engine->buffers);
            continue;
        }
        bytes[k] = (1024 + rand_r(&h->seed) % 1024) << rand_r(&h->seed) % 13;
        mth_status status = native->memory.new(engine, 0, bytes[k], &mine[k]);
        if (status) {
            mth_error_free(status);
            wrong++;
            continue;
        }
        char *at = native->memory.host(mine[k]); /* nobody else has this pointer */
        memcpy(at, &mine[k], sizeof mine[k]);
        memcpy(at + bytes[k] - sizeof mine[k], &mine[k], sizeof mine[k]);
    }
    for (int k = 0; k < HELD; k++)
        if (mine[k]) native->memory.release(mine[k]);
    return (void *)(intptr_t)wrong;
}
GUARDED(buffers_share_pages) {
    int64_t live = mth_debug_live_allocations();
    mth__engine *engine;
    mth__buffer *buffer[40], *large;
    CHECK_STATUS(open_engine(1, 1, &engine));
    for (int i = 0; i < 40; i++) CHECK_STATUS(native->memory.new(engine, 0, 1 << 20, &buffer[i]));
    for (int i = 1; i < 40; i++)
        CHECK(i % 8 == 0 ||
            (char *)native->memory.host(buffer[i]) - (char *)native->memory.host(buffer[i - 1]) == 1 << 20);
    int64_t all = mth_debug_live_allocations();
    for (int i = 0; i < 40; i++)
        if (i != 17) native->memory.release(buffer[i]);
    mth__buffers_trim(&engine->buffers);
    /* of spans of 8, 8, 16 and 32 MiB the one is left that the last buffer lies in; the records of the other buffers
     * are gone */
    CHECK(mth_debug_live_allocations() == all - 39 - 2 * 3);
    CHECK_STATUS(native->memory.new(engine, 0, 5 << 20, &large));
    native->memory.release(large);
    native->memory.release(buffer[17]);
    native->close(engine);
    CHECK(mth_debug_live_allocations() == live);

    CHECK_STATUS(open_engine(1, 1, &engine));
    pthread_t thread[3];
    holder h[3];
    for (int i = 0; i < 3; i++) {
        h[i] = (holder){engine, (unsigned)i};
        CHECK(!pthread_create(&thread[i], NULL, hold_and_release, &h[i]));
    }
    void *wrong;
    for (int i = 0; i < 3; i++) CHECK(!pthread_join(thread[i], &wrong) && !wrong);
    native->close(engine);
    CHECK(mth_debug_live_allocations() == live);
}
RUN()
