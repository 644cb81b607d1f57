/* Collectives as StableHLO: modules of random channels, run by a PJRT plugin for CPUs on padded parts with junk in the
 * padding, and compared with the global truth. Without a plugin only what is read off the text is checked. */
#include "engine/pjrt/hlo_group.h"
#include "engine/pjrt/segment.h"
#include "emit/collective.h"
#include "elements.h"
#include "hlo_run.h"
#include "guarded.h"

enum { DEVICES = HLO_DEVICES, CASES = 6 };

static uint64_t state = 1;
static int random_below(int n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int)((state >> 33) % (uint64_t)n);
}

/* ---------------------------------------------------------------- a module of several channels */
typedef struct {
    mth__channel c;
    mth__hlo_operand in, out;
    const char *text;
} channel_case;
typedef struct {
    mth__arena *arena;
    mth__mesh *mesh;
    const mth__placement *on; /* of collectives */
    int count;
    int32_t device[DEVICES];
    int cases;
    channel_case at[CASES];
    mth__text text;
} module;

static int ascending(const void *x, const void *y) { return *(const int32_t *)x - *(const int32_t *)y; }

static module *new_module(mth__arena *scratch, int naxes, const int64_t *dim, int placed) {
    module *m = NEW(scratch, module);
    m->arena = scratch;
    CHECK_STATUS(mth__mesh_new(scratch, naxes, dim, &m->mesh));
    m->on = m->mesh->whole;
    if (placed == 1) { /* some of the devices, in any order */
        int32_t list[DEVICES];
        int n = 0;
        for (int d = 0; d < m->mesh->count; d++) list[d] = d;
        for (int d = m->mesh->count - 1; d > 0; d--) {
            int e = random_below(d + 1);
            int32_t swap = list[d];
            list[d] = list[e];
            list[e] = swap;
        }
        n = 1 + random_below(m->mesh->count);
        m->on = n == 1 ? mth__place_device(m->mesh, list[0]) : mth__place_list(m->mesh, n, list);
    }
    if (placed == 2 && naxes > 1) m->on = mth__place_slice(m->mesh, 0, random_below((int)dim[0]));
    m->count = m->on->count;
    memcpy(m->device, m->on->device, sizeof *m->device * (size_t)m->count);
    qsort(m->device, (size_t)m->count, sizeof *m->device, ascending);
    return m;
}

static void add_case(module *m, const mth__channel *channel) {
    channel_case *k = &m->at[m->cases++];
    k->c = *channel;
    k->in.part = mth__part_of(m->arena, channel->dtype, channel->shape, &k->c.from, m->count, m->device);
    k->out.part = mth__part_of(m->arena, channel->dtype, channel->shape, &k->c.to, m->count, m->device);
    if (channel->kind == MTH__BROADCAST) k->in.part = k->out.part; /* an operand on every partition */
    k->text = mth__format(m->arena, "%s %s of %s over axes %x: %s -> %s on %s", mth__channel_names[channel->kind],
        mth__algorithm_names[channel->algorithm], mth__shape_text(m->arena, channel->shape), channel->axes,
        mth__sharding_text(m->arena, &k->c.from, channel->shape.rank),
        mth__sharding_text(m->arena, &k->c.to, channel->shape.rank), mth__placement_text(m->arena, channel->from.on));
}

static void write_module(module *m, bool steps) {
    mth__arena *scratch = m->arena;
    mth__hlo hlo = hlo_body(scratch, m->count, m->device);
    mth__text arguments = mth__text_new(scratch), types = mth__text_new(scratch), names = mth__text_new(scratch);
    for (int i = 0; i < m->cases; i++) {
        channel_case *k = &m->at[i];
        k->in.value = (mth__hlo_val){-1 - i, k->c.dtype, k->in.part->local};
        mth__text_add(&hlo.body, "    // %s\n", k->text);
        if (k->c.kind == MTH__TRANSFER)
            mth__hlo_exchange(&hlo, &k->c, &k->in, &k->out);
        else
            (steps ? mth__hlo_steps : mth__hlo_collective)(&hlo, &k->c, &k->in, &k->out);
        CHECK(k->out.value.dtype == k->c.dtype && mth__shape_equal(k->out.value.shape, k->out.part->local));
        mth__text_add(
            &arguments, "%s%%arg%d: %s", i ? ", " : "", i, mth__hlo_type(scratch, k->c.dtype, k->in.part->local));
        mth__text_add(&types, "%s%s", i ? ", " : "", mth__hlo_type(scratch, k->c.dtype, k->out.part->local));
        mth__text_add(&names, "%s%s", i ? ", " : "", mth__hlo_name(scratch, k->out.value));
    }
    m->text = hlo_wrap(&hlo, &arguments, &types, &names);
}

/* ---------------------------------------------------------------- values */
static int64_t term(const mth__channel *channel, int64_t i, int device) {
    bool partial = channel->kind == MTH__ALL_REDUCE || channel->kind == MTH__REDUCE_SCATTER;
    int64_t v = (i * 7 + i / 11 + (partial ? device * 13 : 0)) % 1009 - 400;
    if (channel->dtype == MTH_INT64) return (int64_t)((uint64_t)v * ((UINT64_C(1) << 53) + 1)); /* no double */
    return channel->dtype == MTH_BOOL ? v & 1 : v;
}
static int64_t expected(const mth__channel *channel, int64_t i, int device) {
    if (channel->kind != MTH__ALL_REDUCE && channel->kind != MTH__REDUCE_SCATTER) return term(channel, i, device);
    int32_t member[DEVICES];
    mth__channel_group(channel, device, member);
    int64_t v = term(channel, i, member[0]);
    for (int r = 1; r < mth__channel_size(channel); r++) {
        int64_t w = term(channel, i, member[r]);
        v = channel->reduce != MTH__REDUCE_MAX ? (int64_t)((uint64_t)v + (uint64_t)w) : v > w ? v : w;
    }
    return channel->dtype == MTH_BOOL ? v != 0 : v;
}
/* Walks a partition's padded part: for each element its global index, or -1 in the padding. */
static void global_indices(mth__arena *scratch, const mth__hlo_part *hlo_part, int partition, int64_t **out) {
    int64_t n = mth__shape_size(hlo_part->local), stride[MTH__RANK];
    mth__shape_strides(hlo_part->shape, stride);
    *out = NEW_ARRAY(scratch, int64_t, n + 1);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = i, at = 0;
        for (int d = hlo_part->local.rank - 1; d >= 0; d--) {
            int64_t l = rest % hlo_part->local.dim[d];
            rest /= hlo_part->local.dim[d];
            if (l >= hlo_part->size[partition][d])
                at = INT64_MIN;
            else if (at >= 0)
                at += (hlo_part->start[partition][d] + l * hlo_part->step[partition][d]) * stride[d];
        }
        (*out)[i] = at < 0 ? -1 : at;
    }
}

/* ---------------------------------------------------------------- running one */
static mth_status send_argument(module *m, int i, int p, PJRT_Buffer **out) {
    const channel_case *k = &m->at[i];
    int64_t n = mth__shape_size(k->in.part->local), *index;
    const mth_dtype dtype = k->c.dtype;
    const mth__ref_element junk = mth__ref_from_real(dtype, mth__is_float(dtype) ? NAN : 0x5a5a5a5a);
    void *data = NEW_ARRAY(m->arena, char, n * 8 + 64);
    bool is_root = k->c.kind != MTH__BROADCAST || m->device[p] == k->c.from.on->device[0];
    global_indices(m->arena, k->in.part, p, &index);
    for (int64_t j = 0; j < n; j++)
        element_put(dtype, data, j,
            index[j] < 0 || !is_root ? junk : mth__ref_from_integer(dtype, term(&k->c, index[j], m->device[p])));
    if (k->c.kind == MTH__BROADCAST && is_root) /* it need not be among those that have the result */
        for (int64_t j = 0; j < n; j++)
            element_put(dtype, data, j, mth__ref_from_integer(dtype, term(&k->c, j, m->device[p])));
    return hlo_send(k->in.part, data, m->device[p], out);
}

static mth_status check_result(module *m, int i, int p, PJRT_Buffer *buffer) {
    const channel_case *k = &m->at[i];
    int64_t n = mth__shape_size(k->out.part->local), *index, wrong = 0, at = -1;
    void *got;
    TRY(hlo_fetch(m->arena, buffer, k->out.part, &got));
    global_indices(m->arena, k->out.part, p, &index);
    const mth_dtype dtype = k->c.dtype;
    for (int64_t j = 0; j < n; j++) {
        const mth__ref_element have = element_get(dtype, got, j);
        const int64_t want = index[j] < 0 ? 0 : expected(&k->c, index[j], m->device[p]);
        if (index[j] < 0 || (mth__is_float(dtype) ? have.real == (double)want : have.integer == want)) continue;
        wrong++;
        if (at < 0) at = j;
    }
    CHECK(wrong == 0);
    if (wrong)
        printf("  %lld of %lld wrong on device %d, first at %lld: %s\n", (long long)wrong, (long long)n, m->device[p],
            (long long)at, k->text);
    return NULL;
}

static mth_status run_module(module *m) {
    TRY(hlo_open());
    if (!hlo_client) return NULL;
    PJRT_Buffer *in[DEVICES * CASES], *out[DEVICES * CASES];
    for (int p = 0; p < m->count; p++)
        for (int i = 0; i < m->cases; i++) TRY(send_argument(m, i, p, &in[p * m->cases + i]));
    TRY(hlo_execute(m->arena, &m->text, NULL, m->count, m->device, m->cases, in, m->cases, out));
    for (int p = 0; p < m->count; p++)
        for (int i = 0; i < m->cases; i++) TRY(check_result(m, i, p, out[p * m->cases + i]));
    return NULL;
}

/* ---------------------------------------------------------------- random channels */
static void shuffle(int n, int8_t *at) {
    for (int i = n - 1; i > 0; i--) {
        int j = random_below(i + 1);
        int8_t swap = at[i];
        at[i] = at[j];
        at[j] = swap;
    }
}

/* `coarse` cut further by `axes` in any order */
static mth__split further(mth__split coarse, const mth__placement *on, unsigned axes) {
    int first = coarse.naxes;
    for (int x = 0; x < on->naxes; x++)
        if (axes >> x & 1) coarse.axis[coarse.naxes++] = (int8_t)x;
    shuffle(coarse.naxes - first, coarse.axis + first);
    if (first == 0 && coarse.naxes == 1 && random_below(4) == 0)
        coarse = (mth__split){.naxes = 1, .axis = {coarse.axis[0]}, .cyclic = true};
    return coarse;
}

static bool random_channel(const mth__placement *on, mth__channel *channel) {
    static const mth_dtype dtypes[] = {MTH_FLOAT32, MTH_FLOAT32, MTH_FLOAT32, MTH_INT32, MTH_INT64, MTH_BOOL};
    *channel = (mth__channel){.kind = (mth__channel_kind)random_below(MTH__BROADCAST),
        .algorithm = (mth__algorithm)random_below(MTH__ALGORITHMS),
        .dtype = dtypes[random_below((int)(sizeof dtypes / sizeof *dtypes))],
        .from = {.on = on},
        .to = {.on = on}};
    channel->shape.rank = 1 + random_below(4);
    if (channel->kind == MTH__ALL_TO_ALL && channel->shape.rank == 1) channel->shape.rank = 2;
    for (int d = 0; d < channel->shape.rank; d++) channel->shape.dim[d] = random_below(12) ? 1 + random_below(13) : 0;
    if (channel->kind == MTH__ALL_REDUCE && random_below(6) == 0) channel->shape.rank = 0;
    for (int x = 0; x < on->naxes; x++)
        if (on->dim[x] > 1 && random_below(2)) channel->axes |= (uint8_t)(1 << x);
    channel->dim = (int8_t)random_below(channel->shape.rank ? channel->shape.rank : 1);
    do channel->dim2 = (int8_t)random_below(channel->shape.rank > 1 ? channel->shape.rank : 2);
    while (channel->dim2 == channel->dim);
    /* the axes that take no part split some dimension, or none */
    int8_t rest[MTH__AXES];
    int n = 0;
    for (int x = 0; x < on->naxes; x++)
        if (!(channel->axes >> x & 1)) rest[n++] = (int8_t)x;
    shuffle(n, rest);
    for (int i = 0; i < n && channel->shape.rank; i++) {
        mth__split *split = &channel->from.dim[random_below(channel->shape.rank)];
        if (random_below(3)) split->axis[split->naxes++] = rest[i];
    }
    for (int d = 0; d < channel->shape.rank; d++) {
        channel->from.dim[d].grain = 1 + (random_below(4) ? 0 : random_below(3));
        channel->to.dim[d] = channel->from.dim[d];
    }
    if (channel->kind == MTH__ALL_GATHER)
        channel->from.dim[channel->dim] = further(channel->from.dim[channel->dim], on, channel->axes);
    if (channel->kind == MTH__REDUCE_SCATTER || channel->kind == MTH__ALL_TO_ALL)
        channel->to.dim[channel->dim] = further(channel->to.dim[channel->dim], on, channel->axes);
    if (channel->kind == MTH__ALL_TO_ALL)
        channel->from.dim[channel->dim2] = further(channel->from.dim[channel->dim2], on, channel->axes);
    if (channel->kind == MTH__ALL_REDUCE || channel->kind == MTH__REDUCE_SCATTER) {
        channel->from.partial = channel->axes;
        channel->reduce = channel->from.reduce = channel->to.reduce =
            random_below(3) ? MTH__REDUCE_SUM : MTH__REDUCE_MAX;
    }
    mth__sharding_canonical(&channel->from, channel->shape);
    mth__sharding_canonical(&channel->to, channel->shape);
    mth_status status = mth__channel_check(channel);
    bool right = status == NULL;
    mth_error_free(status);
    return right;
}

/* Any part to any part. */
static bool random_transfer(const mth__placement *on, mth__channel *channel) {
    static const mth_dtype dtypes[] = {MTH_FLOAT32, MTH_BOOL, MTH_INT64};
    *channel =
        (mth__channel){.kind = MTH__TRANSFER, .dtype = dtypes[random_below(3)], .from = {.on = on}, .to = {.on = on}};
    channel->shape.rank = 1 + random_below(3);
    for (int d = 0; d < channel->shape.rank; d++) channel->shape.dim[d] = random_below(12) ? 1 + random_below(13) : 0;
    for (int side = 0; side < 2; side++) {
        mth__sharding *sharding = side ? &channel->to : &channel->from;
        unsigned axes[MTH__RANK] = {0};
        for (int x = 0; x < on->naxes; x++)
            if (on->dim[x] > 1 && random_below(5)) axes[random_below(channel->shape.rank)] |= 1u << x;
        for (int d = 0; d < channel->shape.rank; d++)
            sharding->dim[d] = further((mth__split){.grain = 1 + (random_below(4) ? 0 : random_below(3))}, on, axes[d]);
        mth__sharding_canonical(sharding, channel->shape);
    }
    mth_status status = mth__channel_check(channel);
    bool right = status == NULL;
    mth_error_free(status);
    return right && mth__is_exchange(channel);
}

static const struct {
    int naxes;
    int64_t dim[3];
} meshes[] = {{1, {1}}, {1, {2}}, {1, {3}}, {1, {4}}, {1, {5}}, {1, {7}}, {1, {8}}, {2, {2, 2}}, {2, {2, 3}},
    {2, {3, 2}}, {2, {4, 2}}, {2, {1, 4}}, {3, {2, 2, 2}}, {3, {2, 1, 3}}};
enum { MESHES = sizeof meshes / sizeof *meshes };

static void run_random(mth__arena *scratch, bool (*draw)(const mth__placement *, mth__channel *), bool steps) {
    int rounds = getenv("UNIT_ROUNDS") ? atoi(getenv("UNIT_ROUNDS")) : 1;
    state = getenv("UNIT_SEED") ? (uint64_t)atoll(getenv("UNIT_SEED")) : 1;
    for (int round = 0; round < rounds; round++)
        for (int k = 0; k < MESHES; k++) {
            module *m = new_module(scratch, meshes[k].naxes, meshes[k].dim, random_below(4));
            mth__channel channel;
            for (int attempt = 0; attempt < 1000 && m->cases < CASES; attempt++)
                if (draw(m->on, &channel)) add_case(m, &channel);
            if (!m->cases) continue;
            write_module(m, steps);
            mth_status status = run_module(m);
            if (status) printf("%s\n", m->text.at);
            CHECK_STATUS(status);
        }
}
GUARDED(collectives_of_xla) { run_random(arena, random_channel, false); }
GUARDED(named_algorithms) { run_random(arena, random_channel, true); }
GUARDED(transfers_inside_a_module) { run_random(arena, random_transfer, false); }

GUARDED(broadcasts) {
    for (int n = 1; n < DEVICES; n++) { /* devices of the result; the source is one of them, or the next one */
        module *m = new_module(arena, 1, (const int64_t[]){n + 1}, 0);
        int32_t list[DEVICES];
        for (int i = 0; i < n; i++) list[i] = n - 1 - i;
        for (int algorithm = MTH__RING; algorithm < MTH__ALGORITHMS; algorithm++)
            for (int inside = 0; inside < 2; inside++) {
                mth__channel channel = {.kind = MTH__BROADCAST,
                    .algorithm = (mth__algorithm)algorithm,
                    .dtype = MTH_FLOAT32,
                    .shape = {2, {7, 5}}};
                channel.from.on = mth__place_device(m->mesh, inside ? n / 2 : n);
                channel.to.on = n == 1 ? mth__place_device(m->mesh, 0) : mth__place_list(m->mesh, n, list);
                CHECK_STATUS(mth__channel_check(&channel));
                add_case(m, &channel);
            }
        write_module(m, true);
        CHECK_STATUS(run_module(m));
    }
}

/* ---------------------------------------------------------------- what the text says */
/* The permutes of a module, and the elements that one partition sends in them. */
static int permutes(const char *text, int64_t *elements) {
    int n = 0;
    *elements = 0;
    for (const char *at = text; (at = strstr(at, "\"stablehlo.collective_permute\"")); n++) {
        at = strstr(at, ") -> tensor<") + strlen(") -> tensor<");
        int64_t size = 1;
        char *end;
        for (; *at >= '0' && *at <= '9'; at = end + 1) size *= strtoll(at, &end, 10);
        *elements += size;
    }
    return n;
}

/* As many permutes as the busiest device sends or receives boxes, its own included. */
GUARDED(transfers_take_few_permutes) {
    static const int64_t dim[] = {2, 2, 2};
    for (int k = 0; k < 60; k++) {
        module *m = new_module(arena, 3, dim, 0);
        mth__channel channel;
        while (!random_transfer(m->on, &channel)) {}
        add_case(m, &channel);
        write_module(m, false);
        int busy[2][DEVICES] = {{0}}, most = 0;
        for (int p = 0; p < m->count; p++) {
            mth__piece *piece;
            busy[1][p] = mth__transfer_pieces(arena, &channel, p, &piece);
            for (int i = 0; i < busy[1][p]; i++) busy[0][piece[i].from_device]++;
        }
        for (int i = 0; i < 2 * DEVICES; i++)
            if (busy[i / DEVICES][i % DEVICES] > most) most = busy[i / DEVICES][i % DEVICES];
        int64_t elements;
        CHECK(permutes(m->text.at, &elements) == most);
    }
}

GUARDED(a_ring_moves_what_it_has_to) {
    for (int n = 2; n <= DEVICES; n++) {
        module *m = new_module(arena, 1, (const int64_t[]){n}, 0);
        mth__channel channel = {.kind = MTH__ALL_REDUCE,
            .algorithm = MTH__RING,
            .dtype = MTH_FLOAT32,
            .shape = {2, {840, 3}},
            .from = {.on = m->on, .partial = 1},
            .to = {.on = m->on},
            .axes = 1};
        CHECK_STATUS(mth__channel_check(&channel));
        add_case(m, &channel);
        write_module(m, true);
        int64_t elements;
        CHECK(permutes(m->text.at, &elements) == 2 * (n - 1));
        CHECK(elements == 2 * (n - 1) * 840 * 3 / n);
    }
}

/* No round has more permutes than its busiest rank has steps. */
GUARDED(rounds_have_as_few_permutes_as_they_can) {
    for (int n = 2; n <= DEVICES; n++)
        for (int kind = 0; kind < MTH__BROADCAST; kind++)
            for (int algorithm = 0; algorithm < MTH__ALGORITHMS; algorithm++) {
                module *m = new_module(arena, 1, (const int64_t[]){n}, 0);
                mth__channel channel = {.kind = (mth__channel_kind)kind,
                    .algorithm = (mth__algorithm)algorithm,
                    .dtype = MTH_FLOAT32,
                    .shape = {2, {840, 840}},
                    .from = {.on = m->on},
                    .to = {.on = m->on},
                    .axes = 1,
                    .dim2 = 1};
                mth__split split = {.naxes = 1, .grain = 1};
                if (kind == MTH__ALL_REDUCE || kind == MTH__REDUCE_SCATTER) channel.from.partial = 1;
                if (kind == MTH__ALL_GATHER) channel.from.dim[0] = split;
                if (kind == MTH__REDUCE_SCATTER || kind == MTH__ALL_TO_ALL) channel.to.dim[0] = split;
                if (kind == MTH__ALL_TO_ALL) channel.from.dim[1] = split;
                CHECK_STATUS(mth__channel_check(&channel));
                add_case(m, &channel);
                write_module(m, true);
                mth__template template = mth__template_get(channel.kind, channel.algorithm, n);
                int *busy = NEW_ARRAY(arena, int, template.rounds *n * 2), least = 0;
                for (int rank = 0; rank < n; rank++) {
                    mth__step *step;
                    int count = mth__template_steps(arena, &template, rank, &step);
                    for (int i = 0; i < count; i++)
                        if (step[i].peer != rank)
                            busy[(step[i].round * n + rank) * 2]++, busy[(step[i].round * n + step[i].peer) * 2 + 1]++;
                }
                for (int k = 0; k < template.rounds; k++) {
                    int most = 0;
                    for (int i = 0; i < 2 * n; i++)
                        if (busy[k * n * 2 + i] > most) most = busy[k * n * 2 + i];
                    least += most;
                }
                int64_t elements;
                int have = permutes(m->text.at, &elements);
                CHECK(have == least);
                if (have != least) printf("  %s: %d permutes, %d would do\n", m->at[0].text, have, least);
            }
}

GUARDED(even_parts_need_no_order) {
    module *m = new_module(arena, 2, (const int64_t[]){2, 4}, 0);
    for (int axis = 0; axis < 2; axis++) {
        mth__channel channel = {.kind = MTH__ALL_GATHER,
            .dtype = MTH_FLOAT32,
            .shape = {2, {16, 8}},
            .from = {.on = m->on},
            .to = {.on = m->on},
            .axes = (uint8_t)(1 << axis)};
        channel.from.dim[0] = (mth__split){.naxes = 1, .axis = {(int8_t)axis}, .grain = 1};
        add_case(m, &channel);
        if (axis) { /* the padding is at the end: a slice */
            channel.shape.dim[0] = 15;
            add_case(m, &channel);
        }
    }
    write_module(m, false);
    int64_t elements;
    CHECK(permutes(m->text.at, &elements) == 0);
    CHECK(!strstr(m->text.at, "stablehlo.gather") && strstr(m->text.at, "stablehlo.slice"));
}
RUN()
