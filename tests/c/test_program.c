/* From graphs sharded by hand to programs: roles, memory, waits, text, bytes. */
#include "emit/collective.h"
#include "emit/traffic.h"
#include "distribute/distribute.h"
#include "plans.h"
#include "guarded.h"

/* Emitted, verified, printed, read back, printed again: the same text. */
static mth__program *round_trip(const mth__graph *graph, mth__emit_options options) {
    mth__program *program = emit_plan(graph, &options), *again = NULL;
    if (!program) return NULL;
    CHECK_STATUS(mth__program_verify(program));
    const char *text = plan_text(program);
    CHECK_STATUS(mth__program_parse(graph->arena, text, &again));
    if (!again) return program;
    CHECK_STATUS(mth__program_verify(again));
    CHECK(strcmp(text, plan_text(again)) == 0);
    return program;
}

static const mth__program_value *value_named(const mth__role *role, const char *name) {
    for (size_t i = 0; i < role->value.n; i++)
        if (!strcmp(role->value.at[i].name, name)) return &role->value.at[i];
    CHECK(!"the role has such a value");
    return NULL;
}
static int instr_of(const mth__role *role, mth__instr_kind kind, const char *op) {
    for (size_t i = 0; i < role->instr.n; i++)
        if (role->instr.at[i].kind == kind && (!op || !strcmp(role->instr.at[i].op->name, op))) return (int)i;
    return -1;
}

/* ---------------------------------------------------------------- roles */
GUARDED(even_splits_make_one_role) {
    mth__program *program =
        round_trip(two_layers(arena, MESH(arena, 4), 8, 32, 64, 16), (mth__emit_options){.views = true});
    CHECK(program->role.n == 1 && program->role.at[0].ndevice == 4 && program->channel.n == 1);
    CHECK(mth__shape_equal(value_named(&program->role.at[0], "linear_0.weight")->local, SHAPE(32, 16)));
}

GUARDED(uneven_splits_make_roles_of_equal_shapes) {
    mth__program *program =
        round_trip(two_layers(arena, MESH(arena, 3), 8, 32, 64, 16), (mth__emit_options){.views = true});
    /* 64 over 3 is 22, 22, 20 */
    CHECK(program->role.n == 2 && program->role.at[0].ndevice == 2 && program->role.at[1].ndevice == 1);
    CHECK(value_named(&program->role.at[1], "linear_0.weight")->local.dim[1] == 20);
}

GUARDED(stages_are_roles_and_idle_devices_have_none) {
    mth__program *program =
        round_trip(pipeline(arena, MESH(arena, 5), 3, 4, 8, 16), (mth__emit_options){.views = true});
    CHECK(program->role.n == 3);
    CHECK(program->role_of[3] == -1 && program->role_of[4] == -1);
}

/* Sixteen stages of 8 x 128 devices: the roles are the stages, and a plan of thousands of nodes takes milliseconds. */
GUARDED(sixteen_thousand_devices_have_sixteen_roles) {
    mth__mesh *mesh = MESH(arena, 16, 8, 128);
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__builder b = builder(graph);
    mth__value *value =
        source(graph, MTH__VALUE_INPUT, "x", SHAPE(256, 64), mth__place_slice(mesh, 0, 0), SPLIT(1, -1));
    for (int s = 0; s < 16; s++) {
        const mth__placement *on = mth__place_slice(mesh, 0, s);
        if (s) value = node1(&b, "transfer", NULL, value, on, SPLIT(1, -1), 0);
        for (int l = 0; l < 5; l++) {
            mth__value *up = source(
                graph, MTH__VALUE_PARAMETER, mth__format(arena, "up_%d_%d", s, l), SHAPE(64, 256), on, SPLIT(-1, 0));
            mth__value *down = source(
                graph, MTH__VALUE_PARAMETER, mth__format(arena, "down_%d_%d", s, l), SHAPE(256, 64), on, SPLIT(0, -1));
            mth__value *y = contract(&b, "bi,io->bo", value, up, on, SPLIT(1, 0), 0);
            y = contract(&b, "bi,io->bo", y, down, on, SPLIT(1, -1), 1);
            value = node1(&b, "all_reduce", &(mth__attrs){.axes = 1}, y, on, SPLIT(1, -1), 0);
        }
    }
    output(graph, "y", value);
    mth__program *program = round_trip(graph, (mth__emit_options){.algorithm = {"ring"}, .views = true});
    CHECK(program->role.n == 16);
    for (size_t role_number = 0; role_number < program->role.n; role_number++)
        CHECK(program->role.at[role_number].ndevice == 1024);
}

/* ---------------------------------------------------------------- memory */
GUARDED(elementwise_rows_and_all_reduce_work_in_place) {
    mth__program *program =
        round_trip(two_layers(arena, MESH(arena, 4), 8, 32, 64, 16), (mth__emit_options){.views = true});
    const mth__role *role = &program->role.at[0];
    /* relu over its operand */
    CHECK(value_named(role, "%3")->offset == value_named(role, "%4")->offset);
    /* the partial sum in the exit */
    CHECK(value_named(role, "%5")->storage == MTH__IN_EXIT && value_named(role, "y")->storage == MTH__IN_EXIT);
    CHECK(role->slab[MTH__DEVICE] == 8 * 16 * 4);
}

GUARDED(memory_of_a_chain_does_not_grow_with_its_length) {
    int64_t slab[2];
    for (int k = 0; k < 2; k++) {
        mth__mesh *mesh = MESH(arena, 1);
        mth__graph *graph = mth__graph_new(arena, mesh);
        mth__builder b = builder(graph);
        const mth__placement *on = mth__place_whole(mesh);
        mth__value *h = source(graph, MTH__VALUE_INPUT, "x", SHAPE(8, 32), on, NULL);
        for (int l = 0; l < (k ? 200 : 10); l++) {
            mth__value *w = source(graph, MTH__VALUE_PARAMETER, mth__format(arena, "w%d", l), SHAPE(32, 32), on, NULL);
            h = node1(&b, "relu", NULL, contract(&b, "bi,io->bo", h, w, on, NULL, 0), on, NULL, 0);
        }
        output(graph, "y", h);
        slab[k] = round_trip(graph, (mth__emit_options){.views = true})->role.at[0].slab[MTH__DEVICE];
    }
    CHECK(slab[0] == slab[1] && slab[0] == 2 * 8 * 32 * 4);
}

GUARDED(an_operand_needed_later_is_not_overwritten) {
    mth__mesh *mesh = MESH(arena, 1);
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__builder b = builder(graph);
    const mth__placement *on = mth__place_whole(mesh);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(4, 16), on, NULL);
    mth__value *value = node1(&b, "exp", NULL, x, on, NULL, 0),
               *first = node1(&b, "slice", &(mth__attrs){.stop = 1}, value, on, NULL, 0);
    /* a row of h times h: a view of h is read at another place */
    output(graph, "y", node2(&b, "mul", NULL, value, first, on, NULL, 0));
    mth__program *program = round_trip(graph, (mth__emit_options){.views = true});
    const mth__role *role = &program->role.at[0];
    CHECK(value_named(role, "%2")->storage == MTH__IN_ALIAS);
    CHECK(value_named(role, "%1")->storage == MTH__IN_SLAB);
}

/* %3 is over when `late` is written, %4 is needed with it, and `early` has left before it: only %3 is lent bytes, those
 * of `late`. */
GUARDED(an_exit_is_lent_until_it_is_written) {
    for (int lends = 0; lends < 2; lends++) {
        mth__mesh *mesh = MESH(arena, 1);
        mth__graph *graph = mth__graph_new(arena, mesh);
        mth__builder b = builder(graph);
        const mth__placement *on = mth__place_whole(mesh);
        mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(16, 16), on, NULL),
                   *w = source(graph, MTH__VALUE_PARAMETER, "w", SHAPE(16, 16), on, NULL);
        output(graph, "early", contract(&b, "bi,io->bo", x, x, on, NULL, 0));
        mth__value *lent = contract(&b, "bi,io->bo", x, w, on, NULL, 0),
                   *y = contract(&b, "bi,io->bo", lent, w, on, NULL, 0);
        output(graph, "late", contract(&b, "bi,io->bo", y, w, on, NULL, 0));
        mth__program *program;
        CHECK_STATUS(mth__emit(graph->arena, graph, &(mth__emit_options){.views = true}, &program));
        CHECK_STATUS(mth__emit_memory(program, lends));
        CHECK_STATUS(mth__program_verify(program));
        const mth__role *role = &program->role.at[0];
        const mth__program_value *first = value_named(role, "%3"), *second = value_named(role, "%4");
        CHECK(role->slab[MTH__DEVICE] == (lends ? 1 : 2) * 16 * 16 * 4);
        CHECK(second->storage == MTH__IN_SLAB);
        CHECK(lends ? first->storage == MTH__IN_LENT && first->index == 1 && first->offset == 0
                    : first->storage == MTH__IN_SLAB);
        CHECK(!lends || strstr(plan_text(program), "on p0 at exit 1+0 = contract"));
        /* neither into an exit that has been written nor past its end */
        mth__program_value *v = (mth__program_value *)first;
        for (int k = 0; k < 3 && lends; k++) {
            mth__program_value was = *v;
            if (k == 0) v->index = 0;
            if (k == 1) v->offset = 64;
            if (k == 2) v->index = 2;
            static const char *const why[] = {
                "overlaps %2", "not inside its 1024 bytes", "lies in an exit that there is not"};
            CHECK_FAILS(mth__program_verify(program), MTH_ERROR_VALUE, why[k]);
            *v = was;
        }
    }
}

GUARDED(gradients_accumulate_where_they_leave) {
    mth__mesh *mesh = MESH(arena, 1);
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__builder b = builder(graph);
    const mth__placement *on = mth__place_whole(mesh);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(32, 64), on, NULL), *sum = NULL;
    for (int k = 0; k < 4; k++) {
        mth__value *part = node1(&b, "slice", &(mth__attrs){.start = 8 * k, .stop = 8 * k + 8}, x, on, NULL, 0);
        mth__value *slope = contract(&b, "bi,bo->io", part, part, on, NULL, 0);
        sum = sum ? node2(&b, "add", NULL, sum, slope, on, NULL, 0) : slope;
    }
    PUSH(arena, graph->output, ((mth__output){.name = "x", .of = "x", .value = sum, .is_gradient = true}));
    mth__program *program = round_trip(graph, (mth__emit_options){.views = true});
    CHECK(program->role.at[0].slab[MTH__DEVICE] ==
        64 * 64 * 4); /* one part's; the sum lies in the exit from the first part on */
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i];
        node->label.phase = MTH__BACKWARD;
        node->need = NEW_ARRAY(arena, mth__sharding, node->nin);
        for (int j = 0; j < node->nin; j++) node->need[j] = node->in[j]->sharding;
    }
    CHECK_STATUS(mth__accumulate(graph));
    program = round_trip(graph, (mth__emit_options){.views = true});
    CHECK(program->role.at[0].slab[MTH__DEVICE] == 0 && program->role.at[0].instr.n == 4); /* no part lies anywhere */
    CHECK_STATUS(mth__program_verify(program));
    CHECK(strstr(plan_text(program), " at exit 0 = contract %9, %9 into %8 spec=") != NULL);
}

/* ---------------------------------------------------------------- exits */
GUARDED(outputs_that_are_entries_views_or_repeated) {
    mth__mesh *mesh = MESH(arena, 2);
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__builder b = builder(graph);
    const mth__placement *on = mth__place_whole(mesh);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(4, 6), on, NULL),
               *y = node1(&b, "exp", NULL, x, on, NULL, 0);
    output(graph, "entry", x);
    output(graph, "view of an entry", node1(&b, "reshape", &(mth__attrs){.rank = 1, .shape = {24}}, x, on, NULL, 0));
    output(graph, "first", y);
    output(graph, "second \"quoted\"\n", y);
    output(graph, "view of an output", node1(&b, "reshape", &(mth__attrs){.rank = 1, .shape = {24}}, y, on, NULL, 0));
    mth__value *value = node1(
        &b, "reshape", &(mth__attrs){.rank = 1, .shape = {24}}, node1(&b, "tanh", NULL, x, on, NULL, 0), on, NULL, 0);
    output(graph, "view of a value", value);
    mth__program *program = round_trip(graph, (mth__emit_options){.views = true});
    const mth__role *role = &program->role.at[0];
    int copies = 0;
    for (size_t i = 0; i < role->instr.n; i++) copies += role->instr.at[i].op->row == MTH__ROW_copy;
    CHECK(copies == 4); /* the value whose view leaves lies in the exit itself */
}

GUARDED(names_that_look_like_ours) {
    mth__mesh *mesh = MESH(arena, 1);
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__builder b = builder(graph);
    const mth__placement *on = mth__place_whole(mesh);
    static const char *const names[] = {
        "%3", "work", "from", "3", "a b", "x:", "stage", "@m", "#", "", "x\\y", "%0~work", "x", "x"};
    mth__value *sum = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        mth__value *value = source(graph, MTH__VALUE_INPUT, names[i], SHAPE(2), on, NULL);
        sum = sum ? node2(&b, "add", NULL, sum, value, on, NULL, 0) : value;
    }
    b.label.module = "an operator, \"named\"";
    b.label.source = "train.py:12";
    output(graph, "backward", node1(&b, "relu", NULL, sum, on, NULL, 0));
    round_trip(graph, (mth__emit_options){.views = true});
}

/* ---------------------------------------------------------------- labels */
GUARDED(labels_reach_the_instructions_whole) {
    static const mth__phase phases[] = {MTH__FORWARD, MTH__RECOMPUTE, MTH__BACKWARD, MTH__UPDATE};
    mth__mesh *mesh = MESH(arena, 1);
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__builder b = builder(graph);
    const mth__placement *on = mth__place_whole(mesh);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(2), on, NULL);
    const int32_t last = MTH__MOST_MICROBATCHES - 4; /* up to the largest there is */
    for (int i = 0; i < 4; i++) {
        b.label = (mth__label){"m", "train.py:7", i, 2 * i, last + i, phases[i]};
        x = node1(&b, "exp", NULL, x, on, NULL, 0);
    }
    output(graph, "y", x);
    mth__program *program = round_trip(graph, (mth__emit_options){.views = true}), *read;
    const char *text = plan_text(program);
    CHECK_STATUS(mth__program_parse(arena, text, &read));
    for (int i = 0; i < 4; i++) {
        const mth__label *label = &read->role.at[0].instr.at[i].label;
        CHECK(!strcmp(label->module, "m") && !strcmp(label->source, "train.py:7") && label->region == i);
        CHECK(label->stage == 2 * i && label->microbatch == last + i && label->phase == phases[i]);
    }
    CHECK(strstr(text, "@m region 1 stage 2 microbatch 32765 recompute from \"train.py:7\"\n") != NULL);
}

TEST(phases_are_asked_by_functions) {
    static const struct {
        mth__phase phase;
        bool backward_time, gradients, follows;
    } of[] = {{MTH__FORWARD, false, false, false}, {MTH__RECOMPUTE, true, false, true},
        {MTH__BACKWARD, true, true, true}, {MTH__UPDATE, false, false, true}};
    for (int i = 0; i < 4; i++) {
        CHECK(mth__is_backward_time(of[i].phase) == of[i].backward_time);
        CHECK(mth__makes_gradients(of[i].phase) == of[i].gradients);
        CHECK(mth__follows_forward(of[i].phase) == of[i].follows);
        for (int j = 0; j < 4; j++) { /* recompute and backward share a part of the step, nothing else does */
            bool both = of[i].backward_time && of[j].backward_time;
            CHECK(mth__same_time(of[i].phase, of[j].phase) == (i == j || both));
            mth__label one = {.region = 0, .phase = of[i].phase}, other = {.region = 0, .phase = of[j].phase};
            CHECK(mth__same_unit(&one, &other) == (i == j || both));
            other.microbatch = 1;
            CHECK(!mth__same_unit(&one, &other));
        }
    }
}

/* ---------------------------------------------------------------- waits */
GUARDED(overlapped_collectives_are_waited_for_where_they_are_read) {
    mth__program *program = round_trip(two_layers(arena, MESH(arena, 4), 8, 32, 64, 16),
        (mth__emit_options){.algorithm = {"ring"}, .overlap = true, .views = true});
    const mth__role *role = &program->role.at[0];
    int start = instr_of(role, MTH__COLLECTIVE, NULL), wait = instr_of(role, MTH__WAIT, NULL);
    CHECK(start >= 0 && wait == (int)role->instr.n - 1 && role->instr.at[start].stream == 1);
}

GUARDED(a_sender_goes_on_computing) {
    mth__program *program =
        round_trip(pipeline(arena, MESH(arena, 2), 2, 8, 16, 16), (mth__emit_options){.views = true});
    const mth__role *role = &program->role.at[0];
    int sent = 0, first = instr_of(role, MTH__WAIT, NULL);
    for (int i = 0; i < first; i++) sent += role->instr.at[i].kind == MTH__SEND;
    CHECK(sent == 4);
}

/* ---------------------------------------------------------------- bytes */
static mth__channel channel(
    mth__channel_kind kind, mth__algorithm algorithm, mth__shape shape, mth__sharding from, mth__sharding to) {
    return (mth__channel){.kind = kind,
        .algorithm = algorithm,
        .dtype = MTH_FLOAT32,
        .shape = shape,
        .from = from,
        .to = to,
        .axes = 1,
        .dim = -1,
        .dim2 = -1,
        .label = "test"};
}

static int64_t received(const mth__channel *channel, int device) {
    mth__traffic *traffic = NEW_ARRAY(arena, mth__traffic, 64);
    CHECK_STATUS(mth__channel_traffic(channel, traffic));
    return traffic[device].received;
}

GUARDED(bytes_match_the_formulas) {
    for (int n = 2; n <= 6; n++) {
        const mth__placement *on = mth__place_whole(MESH(arena, n));
        mth__shape shape = SHAPE(n * n, 5 * n);
        int64_t bytes = mth__shape_size(shape) * 4;
        mth__sharding whole = {.on = on}, partial = {.on = on, .partial = 1}, rows = split_by(on, shape, SPLIT(0, -1)),
                      columns = split_by(on, shape, SPLIT(-1, 0));
        for (int k = MTH__DIRECT; k <= MTH__RING; k++) {
            mth__channel reduce = channel(MTH__ALL_REDUCE, (mth__algorithm)k, shape, partial, whole);
            mth__channel gather = channel(MTH__ALL_GATHER, (mth__algorithm)k, shape, rows, whole);
            mth__channel scatter = channel(MTH__REDUCE_SCATTER, (mth__algorithm)k, shape, partial, rows);
            gather.dim = scatter.dim = 0;
            for (int d = 0; d < n; d++) {
                CHECK(received(&reduce, d) == 2 * bytes / n * (n - 1));
                CHECK(received(&gather, d) == bytes / n * (n - 1));
                CHECK(received(&scatter, d) == bytes / n * (n - 1));
            }
        }
        mth__channel turn = channel(MTH__ALL_TO_ALL, MTH__DIRECT, shape, rows, columns);
        turn.dim = 1;
        turn.dim2 = 0;
        for (int d = 0; d < n; d++) CHECK(received(&turn, d) == bytes / n / n * (n - 1));
        CHECK_STATUS(mth__channel_check(&turn));
    }
}

GUARDED(groups_are_in_rank_order) {
    mth__mesh *mesh = MESH(arena, 2, 3);
    mth__channel c = channel(MTH__ALL_REDUCE, MTH__RING, SHAPE(4),
        (mth__sharding){.on = mth__place_whole(mesh), .partial = 2}, (mth__sharding){.on = mth__place_whole(mesh)});
    int32_t member[6];
    c.axes = 2;
    CHECK(mth__channel_size(&c) == 3 && mth__channel_group(&c, 4, member) == 1);
    CHECK(member[0] == 3 && member[1] == 4 && member[2] == 5);
    c = channel(MTH__BROADCAST, MTH__TREE, SHAPE(4), (mth__sharding){.on = mth__place_device(mesh, 4)},
        (mth__sharding){.on = mth__place_whole(mesh)});
    CHECK(mth__channel_size(&c) == 6 && mth__channel_group(&c, 0, member) == 1 && member[0] == 4 && member[5] == 5);
}

/* Every element of the target is taken once, from a device that has it, and from the device itself where it has it. */
static void check_pieces(const mth__channel *channel) {
    for (int t = 0; t < channel->to.on->count; t++) {
        int device = channel->to.on->device[t];
        int64_t start[MTH__RANK], step[MTH__RANK], kept = 0;
        mth__shape want = mth__local_shape(channel->shape, &channel->to, t, start, step);
        uint8_t *seen = NEW_ARRAY(arena, uint8_t, mth__shape_size(channel->shape) + 1);
        mth__piece *piece;
        int n = mth__transfer_pieces(arena, channel, device, &piece);
        int64_t total = 0, columns = channel->shape.dim[1];
        for (int k = 0; k < n; k++) {
            int64_t from[MTH__RANK], by[MTH__RANK];
            int owner = channel->from.on->rank_of[piece[k].from_device];
            CHECK(owner >= 0);
            if (owner < 0) return;
            mth__shape has = mth__local_shape(channel->shape, &channel->from, owner, from, by);
            for (int64_t i = 0; i < piece[k].size[0]; i++)
                for (int64_t j = 0; j < piece[k].size[1]; j++) {
                    int64_t at[2] = {
                        piece[k].start[0] + i * piece[k].step[0], piece[k].start[1] + j * piece[k].step[1]};
                    for (int d = 0; d < 2; d++) {
                        CHECK(at[d] >= start[d] && (at[d] - start[d]) % step[d] == 0 &&
                            (at[d] - start[d]) / step[d] < want.dim[d]);
                        CHECK(at[d] >= from[d] && (at[d] - from[d]) % by[d] == 0 &&
                            (at[d] - from[d]) / by[d] < has.dim[d]);
                    }
                    CHECK(!seen[at[0] * columns + at[1]]++);
                    total++;
                    kept += piece[k].from_device == device;
                }
        }
        CHECK(total == mth__shape_size(want));
        CHECK(received(channel, device) == (total - kept) * 4);
    }
}

GUARDED(transfers_take_every_element_once) {
    mth__mesh *mesh = MESH(arena, 2, 3);
    const mth__placement *places[] = {mth__place_whole(mesh), mth__place_slice(mesh, 0, 1),
        mth__place_slice(mesh, 1, 2), mth__place_device(mesh, 4),
        mth__place_list(mesh, 4, (const int32_t[]){5, 0, 3, 1})};
    mth__shape shape = SHAPE(7, 10);
    for (int p = 0; p < 5; p++)
        for (int q = 0; q < 5; q++)
            for (int k = 0; k < 64; k++) {
                mth__sharding side[2] = {{.on = places[p]}, {.on = places[q]}};
                for (int e = 0; e < 2; e++) {
                    int style = k >> (3 * e) & 7, axes = side[e].on->naxes;
                    for (int x = 0; x < axes; x++) {
                        mth__split *split = &side[e].dim[style >> x & 1];
                        if (style < 6) split->axis[split->naxes++] = (int8_t)x;
                    }
                    if (style == 4 && axes)
                        side[e].dim[0] = (mth__split){.naxes = 1, .cyclic = true}, side[e].dim[1] = (mth__split){0};
                    if (style == 5 && axes) side[e].dim[1].grain = 4;
                    mth__sharding_canonical(&side[e], shape);
                }
                mth__channel c = channel(MTH__TRANSFER, MTH__DIRECT, shape, side[0], side[1]);
                c.axes = 0;
                CHECK_STATUS(mth__channel_check(&c));
                check_pieces(&c);
            }
}

/* ---------------------------------------------------------------- texts */
GUARDED(round_trips) {
    static const char *const names[] = {NULL, "ring", "tree", "hierarchical"};
    for (int n = 1; n <= 5; n++)
        for (int k = 0; k < 8; k++)
            round_trip(two_layers(arena, MESH(arena, n), 8, 32, 64, 16),
                (mth__emit_options){.algorithm = {names[k / 2]}, .overlap = k % 2, .views = true});
    for (int k = 0; k < 2; k++)
        round_trip(pipeline(arena, MESH(arena, 3), 3, 6, 12, 16), (mth__emit_options){.overlap = k, .views = true});
}

GUARDED(the_text_names_the_algorithm_and_its_steps) {
    const char *ring = plan_text(emit_plan(
        two_layers(arena, MESH(arena, 4), 8, 32, 64, 16), &(mth__emit_options){.algorithm = {"ring"}, .views = true}));
    const char *direct =
        plan_text(emit_plan(two_layers(arena, MESH(arena, 4), 8, 32, 64, 16), &(mth__emit_options){.views = true}));
    CHECK(strstr(ring, "= all_reduce ring c0") && strstr(ring, "rounds k = 1..n - 1"));
    CHECK(strstr(direct, "= all_reduce direct c0") && !strstr(direct, "ring"));
    CHECK(strstr(ring, "# devices 0..3: each receives 768 bytes")); /* 2 (n - 1) / n of 512 */
}

GUARDED(bad_texts_are_errors_with_their_line) {
#define ONE_INPUT                                                                                                      \
    "program\nmesh (1,)\nplacement p0 whole\nentry 0 input x: f32[8,8] (None, None) on p0\nrole 0 devices 0 slab 0\n"  \
    "  x: f32[8,8] (None, None) on p0 at entry 0\n  0  "
    static const struct {
        const char *text, *error;
    } bad[] = {
        {"", "'program'"},
        {"program", "the mesh is missing"},
        {"program\nmesh (0,)", "line 2"},
        {"program\nmesh (2000000,)", "line 2"},
        {"program\nmesh (4,)\nplacement p1 whole", "outside 0 to 0"},
        {"program\nmesh (4,)\nplacement p0 devices 0, 0", "device 0 is listed twice"},
        {"program\nmesh (4,)\nplacement p0 whole\nentry 0 input x: f32[8] (1,) on p0", "axis 1"},
        {"program\nmesh (4,)\nplacement p0 whole\nentry 0 input x: f32[8,8] (0, 0) on p0", "splits twice"},
        {"program\nmesh (4,)\nplacement p0 whole\nentry 0 input x: f32[1000000000000,1000000000000] (None, None) on p0",
            "too large"},
        {"program\nmesh (4,)\nplacement p0 whole\nchannel c0 all_reduce ring f32[8] (None,) on p0 to (None,) on p0 "
         "over 0 \"m\"",
            "nothing is partial"},
        {"program\nmesh (4,)\nrole 0 devices 0..3 slab 0\n  0  relu x", "nothing has written it"},
        {"program\nmesh (4,)\nrole 0 devices 0..3 slab 0\nrole 1 devices 3 slab 0", "two roles"},
        {"program\nmesh (4,)\nrole 0 devices 0 slab 0\n  0  wiat c0", "no operator wiat"},
        {ONE_INPUT "relu x into x", "relu adds to no sum"},
        {ONE_INPUT "contract x, x into x, x", "contract adds to 1 sum, not to 2"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mth__program *program;
        CHECK_FAILS(mth__program_parse(arena, bad[i].text, &program), MTH_ERROR_VALUE, bad[i].error);
    }
}

GUARDED(unknown_algorithms_are_errors) {
    mth__program *program;
    CHECK_FAILS(mth__emit(arena, two_layers(arena, MESH(arena, 2), 8, 32, 64, 16),
                    &(mth__emit_options){.algorithm = {"rnig"}, .views = true}, &program),
        MTH_ERROR_VALUE, "rnig");
}

/* ---------------------------------------------------------------- the global program */
/* As shard leaves it; outputs leave whole. */
static mth__graph *global_graph(mth__value *made[5]) {
    mth__mesh *mesh = MESH(arena, 2, 2);
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__builder b = builder(graph);
    const mth__placement *on = mesh->whole;
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(8, 6), on, SPLIT(0, -1)),
               *w = source(graph, MTH__VALUE_PARAMETER, "w", SHAPE(6, 10), on, SPLIT(-1, 1));
    mth__value *h = contract(&b, "bi,io->bo", x, w, on, SPLIT(0, 1), 0);
    mth__value *r = node1(&b, "reshape", &(mth__attrs){.rank = 3, .shape = {8, 2, 5}}, h, on, SPLIT(0, -1, -1), 0);
    mth__value *s = node1(&b, "slice", &(mth__attrs){.stop = 4}, r, on, SPLIT(-1, -1, -1), 0);
    output(graph, "y", node1(&b, "relu", NULL, s, on, SPLIT(-1, -1, -1), 0));
    output(graph, "h", h);
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i];
        node->need = NEW_ARRAY(arena, mth__sharding, node->nin);
        for (int j = 0; j < node->nin; j++) node->need[j] = node->in[j]->sharding;
    }
    for (size_t i = 0; i < graph->output.n; i++) graph->output.at[i].leaves.on = on;
    memcpy(made, (mth__value *[]){x, w, h, r, s}, 5 * sizeof *made);
    return graph;
}

GUARDED(a_global_program_has_one_role_and_global_shapes) {
    mth__value *made[5];
    mth__graph *graph = global_graph(made);
    const mth__value *x = made[0], *w = made[1], *h = made[2], *r = made[3], *s = made[4];
    const mth__mesh *mesh = graph->mesh;
    const mth__node *last = s->node;
    last->need[0] = s->sharding;
    mth__program *program = NULL;
    CHECK_STATUS(mth__emit_global(arena, graph, &program));
    if (!program) return;
    CHECK(program->role.n == 1 && program->role.at[0].ndevice == 1 && program->role_of[0] == 0 &&
        program->role_of[3] == -1);
    CHECK(program->channel.n == 0 && program->entry.n == 2 && program->exit.n == 2 && program->mesh == mesh);
    const mth__role *role = &program->role.at[0];
    for (size_t i = 0; i < role->value.n; i++)
        CHECK(mth__shape_equal(role->value.at[i].local, role->value.at[i].shape));
    CHECK(value_named(role, "x")->sharding.dim[0].naxes == 1 && value_named(role, "w")->sharding.dim[1].axis[0] == 1);
    CHECK(instr_of(role, MTH__COMPUTE, "contract") == 0 && instr_of(role, MTH__COMPUTE, "slice") == 1 &&
        instr_of(role, MTH__COMPUTE, "relu") == 2);
    last->need[0] = r->sharding; /* what the program says was copied */
    const mth__sharding *layouts = role->instr.at[0].layouts;
    CHECK(mth__sharding_equal(&layouts[0], &x->sharding, 2) && mth__sharding_equal(&layouts[1], &w->sharding, 2));
    CHECK(mth__sharding_equal(&layouts[2], &h->sharding, 2) &&
        mth__sharding_equal(&role->instr.at[1].layouts[0], &s->sharding, 3));
    CHECK_STATUS(mth__global_verify(program));
    for (int e = 0; e < 2; e++) /* they leave as they are to leave, not as they are made */
        CHECK(!mth__sharding_axes(&program->exit.at[e].sharding, program->exit.at[e].shape.rank));
    CHECK(!mth__sharding_axes(&role->value.at[role->instr.at[0].out[0]].sharding, 2));
}

GUARDED(spoilt_global_programs_are_refused_by_name) {
    static const char *const why[] = {"", "%5 is not what exit 0 is", "exit 1, h, has two values",
        "relu: its result %5 has another shape", "%2 has not its global shape", "exit 0, y, is a partial sum",
        "nothing writes exit 0", "contract: writes w, which is the caller's", "slice: reads",
        "contract: x is laid out on a part of the mesh", "relu: a partitioner's program computes, and nothing else",
        "relu: its result %5 is int32, and not float32"};
    for (int k = 1; k < 12; k++) {
        mth__value *made[5];
        mth__program *program = NULL;
        CHECK_STATUS(mth__emit_global(arena, global_graph(made), &program));
        if (!program) return;
        mth__role *role = &program->role.at[0];
        mth__program_value *h = &role->value.at[role->instr.at[0].out[0]],
                           *y = &role->value.at[role->instr.at[2].out[0]];
        mth__instr first = role->instr.at[0];
        switch (k) {
        case 1: y->sharding.dim[0] = (mth__split){.naxes = 1, .axis = {0}}; break;
        case 2: *y = *h; break;
        case 3: y->shape.dim[0] = y->local.dim[0] = 2, y->bytes /= 2, program->exit.at[0].shape.dim[0] = 2; break;
        case 4: h->local.dim[0] = 4; break;
        case 5: program->exit.at[0].sharding.partial = 1; break;
        case 6: role->instr.n--; break;
        case 7: role->instr.at[0].out[0] = role->instr.at[0].in[1]; break;
        case 8: role->instr.at[0] = role->instr.at[1], role->instr.at[1] = first; break;
        case 9: ((mth__sharding *)first.layouts)[0].on = mth__place_device(program->mesh, 0); break;
        case 10: role->instr.at[2].stream = 1; break;
        default: y->dtype = program->exit.at[0].dtype = MTH_INT32;
        }
        CHECK_FAILS(mth__global_verify(program), MTH_ERROR_VALUE, why[k]);
    }
}
GUARDED(a_global_program_runs_on_the_whole_mesh) {
    mth__program *program = NULL;
    CHECK_FAILS(mth__emit_global(arena, pipeline(arena, MESH(arena, 2), 2, 2, 4, 8), &program), MTH_ERROR_UNSUPPORTED,
        "mesh_context='mpmd'");
}
RUN()
