/* Where nodes run and values live. A node without an annotation runs where the last of its listed inputs lives; one
 * whose inputs live nowhere yet (inputs of the program, parameters), where its first placed consumer runs; else on the
 * whole mesh. Parameters live where their first consumer runs. An input is fed to each placement that consumes it, so
 * feeding needs no communication. */
#include "distribute/decide.h"
#include <string.h>

static const mth__placement *stage_place(const mth__graph *graph, const mth__node *node) {
    if (node->label.region < 0 || (size_t)node->label.region >= graph->region.n) return NULL;
    const mth__region *region = graph->region.at[node->label.region];
    return region->stage_on && node->label.stage >= 0 && node->label.stage < region->stages
        ? region->stage_on[node->label.stage]
        : NULL;
}

static bool from_inputs(mth__node *node) {
    const mth__placement *on = NULL;
    for (int j = node->nin - 1; j >= 0 && !on; j--)
        if (node->in[j]->node) on = node->in[j]->node->on;
    for (int j = node->nin - 1; j >= 0 && !on; j--)
        if (node->in[j]->kind == MTH__VALUE_PARAMETER) on = node->in[j]->sharding.on;
    node->on = on;
    return on != NULL;
}

/* The modules that nobody has placed yet, and those that no node is made by. */
typedef struct {
    mth__names name;
    VEC(mth__module_place *) place; /* by number of the name */
} open_modules;

static open_modules find_open(mth__arena *scratch, mth__graph *graph) {
    open_modules open = {0};
    for (size_t k = 0; k < graph->module_place.n; k++) {
        mth__module_place *place = &graph->module_place.at[k];
        if (place->on) continue;
        mth__names_add(scratch, &open.name, place->module);
        PUSH(scratch, open.place, place);
    }
    return open;
}

/* The first node of a module says where the module is. */
static void note(const open_modules *open, const mth__node *node, const char *reason) {
    const int number = open->place.n && node->label.module ? mth__names_find(&open->name, node->label.module) : -1;
    mth__module_place *place = number < 0 ? NULL : open->place.at[number];
    if (!place || place->on) return;
    place->on = node->on;
    place->policy = "none";
    place->reason = reason;
}

void mth__place_nodes(mth__graph *graph) {
    mth__arena *arena = mth__arena_new();
    const open_modules modules = find_open(arena, graph);
    bool open = false;
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i];
        if (!node->on) node->on = stage_place(graph, node);
        if (node->on) continue;
        if (from_inputs(node))
            note(&modules, node, "where its last placed input is");
        else
            open = true;
    }
    if (!open) {
        mth__arena_free(arena);
        return;
    }
    const mth__placement **consumer =
        NEW_ARRAY(arena, const mth__placement *, graph->values); /* the first placed one */
    for (size_t i = graph->node.n; i-- > 0;) {
        mth__node *node = graph->node.at[i];
        for (int k = 0; k < node->nout && !node->on; k++)
            if ((node->on = consumer[node->out[k]->id])) note(&modules, node, "where its first placed reader is");
        for (int j = 0; j < node->nin && node->on; j++) consumer[node->in[j]->id] = node->on;
    }
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i];
        if (node->on) continue;
        if (from_inputs(node)) {
            note(&modules, node, "where its last placed input is");
        } else {
            node->on = mth__place_whole(graph->mesh);
            note(&modules, node, "on the whole mesh, as nothing that it is connected to is placed");
        }
    }
    mth__arena_free(arena);
}

mth__by_name mth__by_name_new(mth__arena *arena, const mth__graph *graph, const mth__distribute_options *options) {
    mth__by_name all = {.next_input = NEW_ARRAY(arena, int, graph->input.n)};
    for (size_t i = 0; i < graph->parameter.n; i++) mth__names_add(arena, &all.parameter, graph->parameter.at[i]->name);
    for (size_t i = 0; i < graph->seed.n; i++) mth__names_add(arena, &all.seed, graph->seed.at[i]->name);
    for (size_t i = 0; options && i < options->specs; i++)
        if ((size_t)mth__names_add(arena, &all.spec, options->spec[i].name) == all.spec_at.n)
            PUSH(arena, all.spec_at, &options->spec[i]);
    for (size_t i = 0; i < graph->input.n; i++) mth__names_add(arena, &all.input, graph->input.at[i]->name);
    for (size_t i = 0; i < all.input.name.n; i++) PUSH(arena, all.first_input, -1);
    for (size_t i = graph->input.n; i-- > 0;) {
        int number = mth__names_find(&all.input, graph->input.at[i]->name);
        all.next_input[i] = all.first_input.at[number];
        all.first_input.at[number] = (int)i;
    }
    return all;
}

const mth__spec_of *mth__spec_named(const mth__by_name *all, const char *name) {
    int i = mth__names_find(&all->spec, name);
    return i < 0 ? NULL : all->spec_at.at[i];
}

mth__sharding mth__sharding_of_spec(
    const mth__graph *graph, const mth__sharding *spec, mth__shape shape, const mth__placement *on) {
    mth__sharding whole = *spec;
    whole.on = mth__place_whole(graph->mesh);
    if (on == whole.on) {
        mth__sharding_canonical(&whole, shape);
        return whole;
    }
    mth__sharding sharding = mth__sharding_carry(&whole, shape, on), all = whole;
    mth__sharding_canonical(&all, shape);
    for (int d = 0; d < shape.rank; d++)
        if (sharding.dim[d].naxes != all.dim[d].naxes) return all; /* an axis that `on` lacks */
    return sharding;
}

mth__sharding mth__output_need(const mth__graph *graph, const mth__by_name *all, const mth__output *out) {
    const mth__placement *on = out->value->sharding.on;
    mth__sharding need = {.on = on};
    if (!out->is_gradient) {
        const mth__spec_of *spec = out->has_spec ? mth__spec_named(all, out->name) : NULL;
        return spec ? mth__sharding_of_spec(graph, &spec->sharding, out->value->shape, on) : need;
    }
    int parameter = mth__names_find(&all->parameter, out->of), input = mth__names_find(&all->input, out->of);
    if (parameter >= 0) return graph->parameter.at[parameter]->sharding;
    const mth__value *of = NULL;
    for (int k = input < 0 ? -1 : all->first_input.at[input]; k >= 0; k = all->next_input[k])
        if (!of || graph->input.at[k]->sharding.on == on) of = graph->input.at[k];
    return of ? of->sharding : need;
}

/* An input: pinned to what the user said, one value for each placement that consumes it. */
typedef struct copies {
    const mth__placement *on;
    mth__value *value;
    struct copies *next;
} copies;
typedef struct {
    mth__graph *graph;
    mth__arena *arena;
    BY_VALUE(copies *) fed;
} feeding;

static mth__value *feed(feeding *state, mth__value *input, const mth__placement *on, const mth__spec_of *spec) {
    mth__graph *graph = state->graph;
    mth__sharding sharding =
        spec ? mth__sharding_of_spec(graph, &spec->sharding, input->shape, on) : (mth__sharding){.on = on};
    copies *first = *AT_VALUE(state->arena, state->fed, input);
    for (copies *fed = first; fed; fed = fed->next)
        if (fed->on == sharding.on) return fed->value;
    mth__value *copy = input;
    if (first) {
        copy = mth__graph_value(graph, MTH__VALUE_INPUT, input->name, input->dtype, input->shape);
        copy->origin = input->origin;
    }
    copy->sharding = sharding;
    copy->pinned = true;
    if (!copy->origin.said)
        copy->origin.said = spec ? "user, input_shard_specs" : "inputs are whole unless said otherwise";
    copies *made = NEW(state->arena, copies);
    *made = (copies){sharding.on, copy, first};
    *AT_VALUE(state->arena, state->fed, input) = made;
    return copy;
}

static void bind_parameters(mth__graph *graph, const mth__distribute_options *options) {
    size_t next = 0; /* layouts come in the order of parameters */
    for (size_t i = 0; options && options->fixed && i < graph->parameter.n; i++) {
        mth__value *value = graph->parameter.at[i];
        for (size_t k = 0; k < options->fixed; k++) {
            size_t next_fixed = (next + k) % options->fixed;
            if (strcmp(options->fixed_name[next_fixed], value->name)) continue;
            value->sharding = options->fixed_parameter[next_fixed];
            value->pinned = true;
            next = next_fixed + 1;
            break;
        }
    }
}

void mth__prune(mth__graph *graph) { /* first of all gradients that end in a constant */
    mth__arena *arena = mth__arena_new();
    bool *read = NEW_ARRAY(arena, bool, graph->values), *kept = NEW_ARRAY(arena, bool, graph->node.n + 1);
    for (size_t i = 0; i < graph->output.n; i++) read[graph->output.at[i].value->id] = true;
    for (size_t i = graph->node.n; i-- > 0;) {
        const mth__node *node = graph->node.at[i];
        for (int k = 0; k < node->nout; k++) kept[i] |= read[node->out[k]->id];
        for (int j = 0; j < node->nin && kept[i]; j++) read[node->in[j]->id] = true;
    }
    mth__graph_keep(graph, kept);
    mth__arena_free(arena);
}

static void feed_inputs(mth__graph *graph, mth__arena *arena, const mth__by_name *all) {
    feeding state = {.graph = graph, .arena = arena};
    size_t inputs = graph->input.n;
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i];
        for (int k = 0; k < node->nout; k++) node->out[k]->sharding.on = node->on;
        for (int j = 0; j < node->nin; j++) {
            mth__value *value = node->in[j];
            if (value->kind == MTH__VALUE_INPUT)
                node->in[j] = feed(&state, value, node->on, mth__spec_named(all, value->name));
            else if (value->kind == MTH__VALUE_PARAMETER && !value->sharding.on)
                value->sharding.on = node->on;
        }
    }
    for (size_t i = 0; i < inputs; i++) {
        mth__value *input = graph->input.at[i];
        if (!*AT_VALUE(arena, state.fed, input))
            feed(&state, input, mth__place_whole(graph->mesh), mth__spec_named(all, input->name));
    }
}

/* Where the nodes run that read a parameter: distinct placements, by their lowest devices. */
typedef struct {
    VEC(const mth__placement *) on;
} parameter_readers;

static void add_reader(mth__arena *scratch, parameter_readers *readers, const mth__placement *on) {
    for (size_t k = 0; k < readers->on.n; k++)
        if (readers->on.at[k] == on) return;
    PUSH(scratch, readers->on, on);
    size_t at = readers->on.n - 1;
    for (; at > 0 && readers->on.at[at - 1]->lowest > on->lowest; at--) readers->on.at[at] = readers->on.at[at - 1];
    readers->on.at[at] = on;
}

static bool on_all(const mth__placement *on, const parameter_readers *readers) {
    for (size_t k = 0; k < readers->on.n; k++)
        if (!mth__place_holds(on, readers->on.at[k])) return false;
    return true;
}

/* The devices of all readers, ascending. */
static const mth__placement *union_of(mth__arena *scratch, mth__mesh *mesh, const parameter_readers *readers) {
    bool *reads = NEW_ARRAY(scratch, bool, mesh->count);
    int32_t *device = NEW_ARRAY(scratch, int32_t, mesh->count);
    int devices = 0;
    for (size_t k = 0; k < readers->on.n; k++)
        for (int i = 0; i < readers->on.at[k]->count; i++) reads[readers->on.at[k]->device[i]] = true;
    for (int d = 0; d < mesh->count; d++)
        if (reads[d]) device[devices++] = d;
    return devices == mesh->count ? mesh->whole : mth__place_list(mesh, devices, device);
}

/* Readers on grids of equal dimensions, which have no device in common: stages of a pipeline. */
static bool stackable(mth__arena *scratch, const mth__mesh *mesh, const parameter_readers *readers) {
    bool *met = NEW_ARRAY(scratch, bool, mesh->count);
    const mth__placement *first = readers->on.at[0];
    for (size_t k = 0; k < readers->on.n; k++) {
        const mth__placement *on = readers->on.at[k];
        if (on->naxes != first->naxes || on->naxes == MTH__AXES) return false;
        if (memcmp(on->dim, first->dim, sizeof(int) * (size_t)on->naxes)) return false;
        for (int i = 0; i < on->count; i++) {
            if (met[on->device[i]]) return false;
            met[on->device[i]] = true;
        }
    }
    return true;
}

/* The parameter on a stack of all grids that read it, split in each as it is where it was: each stage has a copy. */
static bool stack(mth__arena *scratch, mth__mesh *mesh, mth__value *value, const parameter_readers *readers) {
    if (!stackable(scratch, mesh, readers)) return false;
    int axis;
    const mth__placement *on = mth__place_stack(mesh, (int)readers->on.n, readers->on.at, &axis);
    mth__sharding sharding = value->sharding, said = value->sharding;
    mth__sharding_canonical(&said, value->shape);
    if (sharding.on != on) sharding = mth__sharding_carry(&said, value->shape, on);
    for (int d = 0; d < value->shape.rank; d++)
        if (sharding.dim[d].naxes != said.dim[d].naxes) return false; /* it is split over axes that no reader has */
    if (mth__sharding_axes(&sharding, value->shape.rank) >> axis & 1) return false;
    value->sharding = sharding;
    value->copied = (uint8_t)(1u << axis);
    return true;
}

/* A parameter that is read in several places is held on each device that reads it, so that it does not have to be sent.
 * It is sent only where no layout describes a copy for each reader: where its module splits it and the grids of the
 * readers differ. With memory_optimization, readers on grids that differ take it from where its module is. */
static void spread_parameters(mth__graph *graph, mth__arena *scratch, const mth__distribute_options *options) {
    parameter_readers *readers = NEW_ARRAY(scratch, parameter_readers, graph->values); /* by value id */
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        for (int j = 0; j < node->nin; j++)
            if (node->in[j]->kind == MTH__VALUE_PARAMETER) add_reader(scratch, &readers[node->in[j]->id], node->on);
    }
    for (size_t i = 0; i < graph->parameter.n; i++) {
        mth__value *value = graph->parameter.at[i];
        const parameter_readers *of = &readers[value->id];
        if (of->on.n < 2) continue;
        if (!stack(scratch, graph->mesh, value, of)) {
            const bool split = mth__sharding_axes(&value->sharding, value->shape.rank) != 0;
            if (split || on_all(value->sharding.on, of) || (options && options->store_sharded)) continue;
            value->sharding = (mth__sharding){.on = union_of(scratch, graph->mesh, of)};
            value->pinned = true;
            for (int d = 0; d < value->shape.rank; d++) value->fixed[d] = true;
        }
        if (!value->origin.said) value->origin.said = "on each device that reads it";
    }
}

mth_status mth__place(mth__graph *graph, const mth__distribute_options *options) {
    mth__arena *scratch = mth__arena_new();
    mth__by_name all = mth__by_name_new(scratch, graph, options);
    bind_parameters(graph, options);
    mth__prune(graph);
    mth__place_nodes(graph);
    feed_inputs(graph, scratch, &all);
    spread_parameters(graph, scratch, options);
    for (size_t i = 0; i < graph->parameter.n; i++)
        if (!graph->parameter.at[i]->sharding.on) graph->parameter.at[i]->sharding.on = mth__place_whole(graph->mesh);
    for (size_t k = graph->output.n; k-- > 0;) {
        const mth__output *out = &graph->output.at[k];
        int seed = out->is_gradient ? -1 : mth__names_find(&all.seed, out->name);
        if (seed >= 0) graph->seed.at[seed]->sharding = mth__output_need(graph, &all, out);
    }
    for (size_t i = 0; i < graph->seed.n; i++) {
        mth__value *value = graph->seed.at[i];
        if (!value->sharding.on) value->sharding.on = mth__place_whole(graph->mesh);
        value->pinned = true;
        value->origin.said = "that of its output";
    }
    mth__arena_free(scratch);
    return NULL;
}
