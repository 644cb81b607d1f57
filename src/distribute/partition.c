/* partition_policy: the operators that nobody placed get devices. They are modules, in the order in which they run, and
 * are cut in one piece for each device (partition_cut.c), by what the policy counts: the bytes of the parameters that a
 * piece reads, its operators, or the time that the device model predicts for its forward pass. The cut is that of the
 * first plan: later ones, for other shapes or with gradients, take it over, since parameters lie where it puts them.
 *
 * Operators that the user placed stay, and count on their devices: with the bytes that they hold there, as one
 * operator, or with an equal share of their time. One that is on a single device is an anchor: operators before it run
 * on devices up to its own, those behind it on its own and later ones. Two such operators that stand against the order
 * of devices, the later one on a lower device, anchor nothing. An operator without parameters that reads what operators
 * on several devices make, and nothing else but inputs of the model, stays with them, and is split as they are. */
#include "distribute/decide.h"
#include <limits.h>
#include <math.h>

typedef struct {
    mth__graph *graph;
    mth__arena *scratch;
    mth__partition_policy policy;
    size_t modules; /* placed or not */
    int *module_of; /* by node, -1: of none */
    /* by module: the things that count, each once */
    struct things {
        VEC(int) at;
    } *things;
    VEC(int64_t) weight; /* by thing */
    int *item_of;        /* by module, -1: the user placed it */
    int64_t *load;       /* by device */
} partitioning;

/* ---------------------------------------------------------------- what operators weigh */
/* By node: the module that made it. Nodes of one module stand together. */
static void find_modules(partitioning *pass) {
    const mth__graph *graph = pass->graph;
    mth__names names = {0};
    for (size_t k = 0; k < pass->modules; k++) mth__names_add(pass->scratch, &names, graph->module_place.at[k].module);
    pass->module_of = NEW_ARRAY(pass->scratch, int, graph->node.n);
    for (size_t i = 0; i < graph->node.n; i++) {
        const char *module = graph->node.at[i]->label.module;
        const bool same = i && module == graph->node.at[i - 1]->label.module;
        pass->module_of[i] = same ? pass->module_of[i - 1] : module ? mth__names_find(&names, module) : -1;
    }
}

static void add_thing(partitioning *pass, size_t module, int64_t weight) {
    PUSH(pass->scratch, pass->things[module].at, (int)pass->weight.n);
    PUSH(pass->scratch, pass->weight, weight);
}

static void weigh_operators(partitioning *pass) {
    for (size_t k = 0; k < pass->modules; k++) add_thing(pass, k, 1);
}

/* Whole picoseconds, so that sums are exact. */
static void weigh_time(partitioning *pass) {
    const mth__graph *graph = pass->graph;
    double *seconds = NEW_ARRAY(pass->scratch, double, pass->modules);
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        mth__shape in[MTH__MAX_IN], out[MTH__MAX_OUT];
        for (int j = 0; j < node->nin; j++) in[j] = node->in[j]->shape;
        for (int k = 0; k < node->nout; k++) out[k] = node->out[k]->shape;
        if (pass->module_of[i] >= 0)
            seconds[pass->module_of[i]] += mth__cost_compute(graph->mesh->model, node, in, out);
    }
    for (size_t k = 0; k < pass->modules; k++) add_thing(pass, k, llround(fmin(seconds[k] * 1e12, 0x1p61)));
}

static int64_t bytes_of(const mth__value *value) {
    return mth__size_product(mth__shape_size(value->shape), (int64_t)mth_dtype_size(value->dtype));
}

static void weigh_parameters(partitioning *pass) {
    const mth__graph *graph = pass->graph;
    int *thing = NEW_ARRAY(pass->scratch, int, graph->values);        /* by value id, + 1 */
    size_t *reader = NEW_ARRAY(pass->scratch, size_t, graph->values); /* by value id: the last module + 1 */
    for (size_t i = 0; i < graph->parameter.n; i++) {
        PUSH(pass->scratch, pass->weight, bytes_of(graph->parameter.at[i]));
        thing[graph->parameter.at[i]->id] = (int)pass->weight.n;
    }
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        for (int j = 0; j < node->nin && pass->module_of[i] >= 0; j++) {
            const size_t module = (size_t)pass->module_of[i];
            const int id = node->in[j]->id;
            if (!thing[id] || reader[id] == module + 1) continue;
            reader[id] = module + 1;
            PUSH(pass->scratch, pass->things[module].at, thing[id] - 1);
        }
    }
}

/* ---------------------------------------------------------------- what the user placed */
/* What a thing of a placed operator weighs on each of its devices. */
static int64_t share_of(const partitioning *pass, const mth__placement *on, int thing) {
    const int64_t weight = pass->weight.at[thing];
    if (pass->policy == MTH__EQUAL_OPERATORS) return weight;
    if (pass->policy == MTH__EQUAL_TIME) return mth__ceil_div(weight, on->count);
    const mth__value *value = pass->graph->parameter.at[thing];
    if (value->sharding.on != on) return weight;
    return mth__local_size(value->shape, &value->sharding) * (int64_t)mth_dtype_size(value->dtype);
}

static void load_devices(partitioning *pass) {
    const mth__mesh *mesh = pass->graph->mesh;
    int64_t everywhere = 0;
    pass->load = NEW_ARRAY(pass->scratch, int64_t, mesh->count);
    for (size_t k = 0; k < pass->modules; k++) {
        const mth__placement *on = pass->graph->module_place.at[k].on;
        for (size_t i = 0; on && i < pass->things[k].at.n; i++) {
            const int64_t share = share_of(pass, on, pass->things[k].at.at[i]);
            if (on == mesh->whole) everywhere = mth__size_sum(everywhere, share);
            for (int d = 0; on != mesh->whole && d < on->count; d++)
                pass->load[on->device[d]] = mth__size_sum(pass->load[on->device[d]], share);
        }
    }
    for (int d = 0; d < mesh->count; d++) pass->load[d] = mth__size_sum(pass->load[d], everywhere);
}

/* Of the nodes of one module: where the last operand that another module makes is; NULL where the module has
 * parameters, reads nothing that is made, or something that is not on several devices. */
static const mth__placement *spread_source(const partitioning *pass, size_t first, size_t end) {
    const mth__graph *graph = pass->graph;
    const mth__placement *on = NULL;
    for (size_t i = first; i < end; i++)
        for (int j = 0; j < graph->node.at[i]->nin; j++) {
            const mth__value *value = graph->node.at[i]->in[j];
            if (value->kind == MTH__VALUE_PARAMETER) return NULL;
            const int source = value->node ? pass->module_of[value->node->id] : -1;
            if (!value->node || source == pass->module_of[i]) continue;
            on = source < 0 ? NULL : graph->module_place.at[source].on;
            if (!on || on->count == 1) return NULL;
        }
    return on;
}

static void follow_spread(const partitioning *pass) {
    const mth__graph *graph = pass->graph;
    for (size_t first = 0, end; first < graph->node.n; first = end) {
        const int module = pass->module_of[first];
        for (end = first + 1; end < graph->node.n && pass->module_of[end] == module; end++) continue;
        mth__module_place *place = module < 0 ? NULL : &graph->module_place.at[module];
        const mth__placement *on = place && !place->on ? spread_source(pass, first, end) : NULL;
        if (on) *place = (mth__module_place){place->module, on, "none", "split as its inputs are"};
    }
}

static int single_device(const partitioning *pass, size_t module) {
    const mth__placement *on = pass->graph->module_place.at[module].on;
    return on && on->count == 1 ? on->lowest : -1;
}

/* By module: does it keep its neighbours in the order of devices? */
static const bool *find_anchors(const partitioning *pass) {
    const size_t n = pass->modules;
    bool *anchors = NEW_ARRAY(pass->scratch, bool, n);
    int *lowest = NEW_ARRAY(pass->scratch, int, n + 1); /* by module: of the single devices from it on */
    lowest[n] = INT_MAX;
    for (size_t k = n; k-- > 0;) {
        const int device = single_device(pass, k);
        lowest[k] = device >= 0 && device < lowest[k + 1] ? device : lowest[k + 1];
    }
    for (size_t k = 0, highest = 0; k < n; k++) {
        const int device = single_device(pass, k);
        if (device < 0) continue;
        anchors[k] = (size_t)device >= highest && device <= lowest[k + 1];
        if ((size_t)device > highest) highest = (size_t)device;
    }
    return anchors;
}

/* The devices that the anchors before and behind each item leave it. */
static void find_range(const partitioning *pass, int parts, int *least, int *most) {
    const bool *anchors = find_anchors(pass);
    int low = 0, high = parts - 1;
    for (size_t k = 0; k < pass->modules; k++) {
        if (pass->item_of[k] >= 0) least[pass->item_of[k]] = low;
        if (anchors[k]) low = single_device(pass, k);
    }
    for (size_t k = pass->modules; k-- > 0;) {
        if (pass->item_of[k] >= 0) most[pass->item_of[k]] = high;
        if (anchors[k]) high = single_device(pass, k);
    }
}

/* ---------------------------------------------------------------- the cut */
/* Where a piece stands in the row, as reasons say it: "bytes 0..4224 of 8448". */
static const char *range_text(const partitioning *pass, int64_t from, int64_t to, int64_t all) {
    mth__arena *arena = pass->graph->arena;
    if (pass->policy == MTH__EQUAL_OPERATORS)
        return mth__format(arena, "operator %lld of %lld", (long long)to, (long long)all);
    if (pass->policy == MTH__EQUAL_PARAMETERS)
        return mth__format(arena, "bytes %lld..%lld of %lld", (long long)from, (long long)to, (long long)all);
    return mth__format(arena, "microseconds %.4g..%.4g of %.4g, predicted", (double)from * 1e-6, (double)to * 1e-6,
        (double)all * 1e-6);
}

static void set_places(const partitioning *pass, const int *device_of) {
    static const char *const names[] = {"", "parameters", "operators", "balanced"};
    int64_t all = 0, *new = NEW_ARRAY(pass->scratch, int64_t, pass->modules);
    bool *met = NEW_ARRAY(pass->scratch, bool, pass->weight.n);
    for (size_t k = 0; k < pass->modules; k++)
        for (size_t i = 0; pass->item_of[k] >= 0 && i < pass->things[k].at.n; i++) {
            const int thing = pass->things[k].at.at[i];
            if (!met[thing]) new[k] = mth__size_sum(new[k], pass->weight.at[thing]);
            met[thing] = true;
        }
    for (size_t k = 0; k < pass->modules; k++) all = mth__size_sum(all, new[k]);
    int64_t at = 0;
    for (size_t k = 0; k < pass->modules; k++) {
        if (pass->item_of[k] < 0) continue;
        mth__module_place *place = &pass->graph->module_place.at[k];
        place->on = mth__place_device(pass->graph->mesh, device_of[pass->item_of[k]]);
        place->policy = names[pass->policy];
        place->reason = range_text(pass, at, mth__size_sum(at, new[k]), all);
        at = mth__size_sum(at, new[k]);
    }
}

static mth_status cut(partitioning *pass, int items) {
    mth__arena *scratch = pass->scratch;
    pass->things = NEW_ARRAY(scratch, struct things, pass->modules);
    if (pass->policy == MTH__EQUAL_PARAMETERS) weigh_parameters(pass);
    if (pass->policy == MTH__EQUAL_OPERATORS) weigh_operators(pass);
    if (pass->policy == MTH__EQUAL_TIME) weigh_time(pass);
    load_devices(pass);
    VEC(int) thing = {0};
    int *begin = NEW_ARRAY(scratch, int, items + 1), *least = NEW_ARRAY(scratch, int, items),
        *most = NEW_ARRAY(scratch, int, items), *device_of = NEW_ARRAY(scratch, int, items);
    for (size_t k = 0; k < pass->modules; k++) {
        if (pass->item_of[k] < 0) continue;
        for (size_t i = 0; i < pass->things[k].at.n; i++) PUSH(scratch, thing, pass->things[k].at.at[i]);
        begin[pass->item_of[k] + 1] = (int)thing.n;
    }
    int parts = pass->graph->mesh->count;
    if ((size_t)items == pass->modules && items < parts) parts = items; /* of even devices the first are enough */
    find_range(pass, parts, least, most);
    TRY(mth__cut_row(scratch,
        &(mth__row_cut){.items = items,
            .parts = parts,
            .thing = thing.at,
            .begin = begin,
            .things = (int)pass->weight.n,
            .weight = pass->weight.at,
            .load = pass->load,
            .least = least,
            .most = most},
        device_of));
    set_places(pass, device_of);
    return NULL;
}

/* As an earlier plan has it, whose modules are the same. */
static void take_over(const partitioning *pass, const mth__module_place *earlier) {
    for (size_t k = 0; k < pass->modules; k++) {
        mth__module_place *place = &pass->graph->module_place.at[k];
        *place = (mth__module_place){place->module, earlier[k].on, earlier[k].policy, earlier[k].reason};
    }
}

mth_status mth__partition(mth__graph *graph, const mth__distribute_options *options) {
    if (options->partition == MTH__NOT_CUT) return NULL;
    mth__arena *scratch = mth__arena_new();
    partitioning pass = {
        .graph = graph, .scratch = scratch, .policy = options->partition, .modules = graph->module_place.n};
    int items = 0;
    find_modules(&pass);
    follow_spread(&pass);
    pass.item_of = NEW_ARRAY(scratch, int, pass.modules);
    for (size_t k = 0; k < pass.modules; k++) pass.item_of[k] = graph->module_place.at[k].on ? -1 : items++;
    if (options->fixed_place)
        take_over(&pass, options->fixed_place);
    else if (items)
        TRY(cut(&pass, items));
    for (size_t i = 0; i < graph->node.n; i++)
        if (!graph->node.at[i]->on && pass.module_of[i] >= 0)
            graph->node.at[i]->on = graph->module_place.at[pass.module_of[i]].on;
    mth__arena_free(scratch);
    return NULL;
}
