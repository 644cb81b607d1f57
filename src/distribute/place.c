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

void mth__place_nodes(mth__graph *g) {
    bool open = false;
    for (size_t i = 0; i < g->node.n; i++) {
        mth__node *n = g->node.at[i];
        if (!n->on) n->on = stage_place(g, n);
        if (!n->on && !from_inputs(n)) open = true;
    }
    if (!open) return;
    for (size_t i = g->node.n; i-- > 0;) { /* the last write is that of the first placed consumer */
        mth__node *n = g->node.at[i];
        if (!n->on) { /* what its consumers noted */
            for (int j = 0; j < n->nout && !n->on; j++) n->on = n->out[j]->sharding.on;
            if (!n->on) continue;
        }
        for (int j = 0; j < n->nin; j++)
            if (n->in[j]->node && !n->in[j]->node->on) n->in[j]->sharding.on = n->on;
    }
    for (size_t i = 0; i < g->node.n; i++) {
        mth__node *n = g->node.at[i];
        if (!n->on && !from_inputs(n)) n->on = mth__place_whole(g->mesh);
    }
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

static mth__value *feed(mth__graph *g, mth__value *v, const mth__placement *on, const mth__spec_of *spec) {
    copies *c = v->scratch;
    mth__sharding s = spec ? mth__sharding_of_spec(g, &spec->sharding, v->shape, on) : (mth__sharding){.on = on};
    for (; c; c = c->next)
        if (c->on == s.on) return c->value;
    mth__value *copy = v;
    if (v->sharding.on) {
        copy = mth__graph_value(g, MTH__VALUE_INPUT, v->name, v->dtype, v->shape);
        copy->origin = v->origin;
    }
    copy->sharding = s;
    copy->pinned = true;
    if (!copy->origin) copy->origin = spec ? "user, input_shard_specs" : "inputs are whole unless said otherwise";
    copies *first = NEW(g->arena, copies);
    *first = (copies){s.on, copy, v->scratch};
    v->scratch = first;
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

void mth__prune(mth__graph *g) { /* first of all gradients that end in a constant */
    for (size_t i = 0; i < g->node.n; i++) g->node.at[i]->cost_rank = 0;
    for (size_t i = 0; i < g->output.n; i++)
        if (g->output.at[i].value->node) g->output.at[i].value->node->cost_rank = 1;
    for (size_t i = g->node.n; i-- > 0;)
        for (int j = 0; j < g->node.at[i]->nin && g->node.at[i]->cost_rank; j++)
            if (g->node.at[i]->in[j]->node) g->node.at[i]->in[j]->node->cost_rank = 1;
    size_t kept = 0;
    for (size_t i = 0; i < g->node.n; i++)
        if (g->node.at[i]->cost_rank) g->node.at[kept++] = g->node.at[i];
    g->node.n = kept;
}

static void feed_inputs(mth__graph *g, const mth__by_name *all) {
    size_t inputs = g->input.n;
    for (size_t i = 0; i < inputs; i++) {
        g->input.at[i]->scratch = NULL;
        g->input.at[i]->sharding.on = NULL;
    }
    for (size_t i = 0; i < g->node.n; i++) {
        mth__node *n = g->node.at[i];
        for (int j = 0; j < n->nout; j++) n->out[j]->sharding.on = n->on;
        for (int j = 0; j < n->nin; j++) {
            mth__value *v = n->in[j];
            if (v->kind == MTH__VALUE_INPUT)
                n->in[j] = feed(g, v, n->on, mth__spec_named(all, v->name));
            else if (v->kind == MTH__VALUE_PARAMETER && !v->sharding.on)
                v->sharding.on = n->on;
        }
    }
    for (size_t i = 0; i < inputs; i++)
        if (!g->input.at[i]->sharding.on)
            feed(g, g->input.at[i], mth__place_whole(g->mesh), mth__spec_named(all, g->input.at[i]->name));
}

mth_status mth__place(mth__graph *g, const mth__distribute_options *o) {
    mth__arena *scratch = mth__arena_new();
    mth__by_name all = mth__by_name_new(scratch, g, o);
    bind_parameters(g, o);
    mth__prune(g);
    mth__place_nodes(g);
    feed_inputs(g, &all);
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
