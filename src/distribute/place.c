/* Where nodes run and values live. A node without an annotation runs where the last of its listed inputs lives; one
 * whose inputs live nowhere yet (inputs of the program, parameters), where its first placed consumer runs; else on the
 * whole mesh. Parameters live where their first consumer runs. An input is fed to each placement that consumes it, so
 * feeding needs no communication. */
#include "distribute/decide.h"
#include <string.h>

static const mth__placement *stage_place(const mth__graph *g, const mth__node *n) {
    if (n->label.region < 0 || (size_t)n->label.region >= g->region.n) return NULL;
    const mth__region *r = g->region.at[n->label.region];
    return r->stage_on && n->label.stage >= 0 && n->label.stage < r->stages ? r->stage_on[n->label.stage] : NULL;
}

static bool from_inputs(mth__node *n) {
    const mth__placement *on = NULL;
    for (int j = n->nin - 1; j >= 0 && !on; j--)
        if (n->in[j]->node) on = n->in[j]->node->on;
    for (int j = n->nin - 1; j >= 0 && !on; j--)
        if (n->in[j]->kind == MTH__VALUE_PARAMETER) on = n->in[j]->sharding.on;
    n->on = on;
    return on != NULL;
}

void mth__place_nodes(mth__graph *graph) {
    bool open = false;
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i];
        if (!node->on) node->on = stage_place(graph, node);
        if (!node->on && !from_inputs(node)) open = true;
    }
    if (!open) return;
    mth__arena *arena = mth__arena_new();
    const mth__placement **consumer =
        NEW_ARRAY(arena, const mth__placement *, graph->values); /* the first placed one */
    for (size_t i = graph->node.n; i-- > 0;) {
        mth__node *node = graph->node.at[i];
        for (int k = 0; k < node->nout && !node->on; k++) node->on = consumer[node->out[k]->id];
        for (int j = 0; j < node->nin && node->on; j++) consumer[node->in[j]->id] = node->on;
    }
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i];
        if (!node->on && !from_inputs(node)) node->on = mth__place_whole(graph->mesh);
    }
    mth__arena_free(arena);
}

mth__by_name mth__by_name_new(mth__arena *arena, const mth__graph *g, const mth__distribute_options *o) {
    mth__by_name all = {.next_input = NEW_ARRAY(arena, int, g->input.n)};
    for (size_t i = 0; i < g->parameter.n; i++) mth__names_add(arena, &all.parameter, g->parameter.at[i]->name);
    for (size_t i = 0; i < g->seed.n; i++) mth__names_add(arena, &all.seed, g->seed.at[i]->name);
    for (size_t i = 0; o && i < o->specs; i++)
        if ((size_t)mth__names_add(arena, &all.spec, o->spec[i].name) == all.spec_at.n)
            PUSH(arena, all.spec_at, &o->spec[i]);
    for (size_t i = 0; i < g->input.n; i++) mth__names_add(arena, &all.input, g->input.at[i]->name);
    for (size_t i = 0; i < all.input.name.n; i++) PUSH(arena, all.first_input, -1);
    for (size_t i = g->input.n; i-- > 0;) {
        int number = mth__names_find(&all.input, g->input.at[i]->name);
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
    const mth__graph *g, const mth__sharding *spec, mth__shape shape, const mth__placement *on) {
    mth__sharding whole = *spec;
    whole.on = mth__place_whole(g->mesh);
    if (on == whole.on) {
        mth__sharding_canonical(&whole, shape);
        return whole;
    }
    mth__sharding s = mth__sharding_carry(&whole, shape, on), all = whole;
    mth__sharding_canonical(&all, shape);
    for (int d = 0; d < shape.rank; d++)
        if (s.dim[d].naxes != all.dim[d].naxes) return all; /* an axis that `on` lacks */
    return s;
}

mth__sharding mth__output_need(const mth__graph *g, const mth__by_name *all, const mth__output *out) {
    const mth__placement *on = out->value->sharding.on;
    mth__sharding need = {.on = on};
    if (!out->is_gradient) {
        const mth__spec_of *s = out->has_spec ? mth__spec_named(all, out->name) : NULL;
        return s ? mth__sharding_of_spec(g, &s->sharding, out->value->shape, on) : need;
    }
    int parameter = mth__names_find(&all->parameter, out->of), input = mth__names_find(&all->input, out->of);
    if (parameter >= 0) return g->parameter.at[parameter]->sharding;
    const mth__value *of = NULL;
    for (int k = input < 0 ? -1 : all->first_input.at[input]; k >= 0; k = all->next_input[k])
        if (!of || g->input.at[k]->sharding.on == on) of = g->input.at[k];
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
    if (!copy->origin) copy->origin = spec ? "user, input_shard_specs" : "inputs are whole unless said otherwise";
    copies *made = NEW(state->arena, copies);
    *made = (copies){sharding.on, copy, first};
    *AT_VALUE(state->arena, state->fed, input) = made;
    return copy;
}

static void bind_parameters(mth__graph *g, const mth__distribute_options *o) {
    size_t next = 0; /* layouts come in the order of parameters */
    for (size_t i = 0; o && o->fixed && i < g->parameter.n; i++) {
        mth__value *v = g->parameter.at[i];
        for (size_t k = 0; k < o->fixed; k++) {
            size_t f = (next + k) % o->fixed;
            if (strcmp(o->fixed_name[f], v->name)) continue;
            v->sharding = o->fixed_parameter[f];
            v->pinned = true;
            next = f + 1;
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

/* A parameter that several single devices read is kept whole on each of them, so that none has to be sent. Where a
 * reader runs on more than one device, the parameter stays where its module says, and is brought from there. */
typedef struct {
    VEC(const mth__placement *) on; /* distinct */
} parameter_readers;

static void spread_parameters(mth__graph *graph, mth__arena *scratch) {
    parameter_readers *readers = NEW_ARRAY(scratch, parameter_readers, graph->values); /* by value id */
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        for (int j = 0; j < node->nin; j++) {
            parameter_readers *known = &readers[node->in[j]->id];
            bool listed = node->in[j]->kind != MTH__VALUE_PARAMETER;
            for (size_t k = 0; k < known->on.n && !listed; k++) listed = known->on.at[k] == node->on;
            if (!listed) PUSH(scratch, known->on, node->on);
        }
    }
    for (size_t i = 0; i < graph->parameter.n; i++) {
        mth__value *value = graph->parameter.at[i];
        const parameter_readers *known = &readers[value->id];
        bool single = known->on.n > 1 && !mth__sharding_axes(&value->sharding, value->shape.rank);
        for (size_t k = 0; k < known->on.n && single; k++) single = known->on.at[k]->count == 1;
        if (!single) continue;
        int32_t *device = NEW_ARRAY(scratch, int32_t, known->on.n);
        int devices = 0;
        for (size_t k = 0; k < known->on.n;
            k++) { /* ascending; a mesh of one device and that device are two placements */
            const int32_t next = known->on.at[k]->lowest;
            int at = devices;
            while (at > 0 && device[at - 1] > next) at--;
            if (at > 0 && device[at - 1] == next) continue;
            memmove(device + at + 1, device + at, (size_t)(devices - at) * sizeof *device);
            device[at] = next;
            devices++;
        }
        if (devices < 2) continue;
        value->sharding = (mth__sharding){.on = mth__place_list(graph->mesh, devices, device)};
        value->pinned = true;
        for (int d = 0; d < value->shape.rank; d++) value->fixed[d] = true;
        value->origin = "on each device that reads it";
    }
}

mth_status mth__place(mth__graph *g, const mth__distribute_options *o) {
    mth__arena *scratch = mth__arena_new();
    mth__by_name all = mth__by_name_new(scratch, g, o);
    bind_parameters(g, o);
    mth__prune(g);
    mth__place_nodes(g);
    feed_inputs(g, scratch, &all);
    spread_parameters(g, scratch);
    for (size_t i = 0; i < g->parameter.n; i++)
        if (!g->parameter.at[i]->sharding.on) g->parameter.at[i]->sharding.on = mth__place_whole(g->mesh);
    for (size_t k = g->output.n; k-- > 0;) {
        const mth__output *out = &g->output.at[k];
        int seed = out->is_gradient ? -1 : mth__names_find(&all.seed, out->name);
        if (seed >= 0) g->seed.at[seed]->sharding = mth__output_need(g, &all, out);
    }
    for (size_t i = 0; i < g->seed.n; i++) {
        mth__value *v = g->seed.at[i];
        if (!v->sharding.on) v->sharding.on = mth__place_whole(g->mesh);
        v->pinned = true;
        v->origin = "that of its output";
    }
    mth__arena_free(scratch);
    return NULL;
}
