/* The search tries hundreds of plans of a model whose blocks repeat, and the answer is the same for each of them: of a
 * run of equal blocks the first, the second and the last stay, and the second counts for all in between. Blocks are
 * found as runs of modules: module i equals module i + period in its nodes, and in where its operands come from,
 * counted from itself. */
#include "distribute/fold.h"
#include "base/table.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 6, RUNS = 64, KEPT = 3 };
typedef struct {
    size_t first;
    int nodes;
    double weight;
    uint64_t hash;
} member;
typedef struct {
    int start, period, units;
} run;
typedef struct {
    mth__graph *graph;
    mth__arena *arena;
    member *module;
    int modules;
    int *module_of;    /* by position of a node */
    int *position;     /* by value id: of its maker; -1 */
    int *first_reader; /* by value id, of parameters: a module */
} fold_pass;

typedef struct {
    const char *module;
    double weight;
} module_weight;
struct mth__folding {
    VEC(module_weight) module;
    mth__table table; /* of modules, by where their names stand */
};

uint64_t mth__mix(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    return hash ^ hash >> 29;
}
uint64_t mth__mix_name(uint64_t hash, const char *name) {
    for (const char *at = name; at && *at; at++)
        if (!isdigit((unsigned char)*at))
            hash = mth__mix(hash, (unsigned char)*at);
        else if (!isdigit((unsigned char)at[1]))
            hash = mth__mix(hash, '0'); /* 9 and 10 are alike */
    return hash;
}
uint64_t mth__mix_place(uint64_t hash, const mth__placement *on) {
    for (int axis = 0; on && axis < on->naxes; axis++) hash = mth__mix(hash, (uint64_t)on->dim[axis]);
    return mth__mix(hash, on ? (uint64_t)on->naxes : 99);
}
uint64_t mth__mix_shape(uint64_t hash, mth__shape shape) {
    for (int d = 0; d < shape.rank; d++) hash = mth__mix(hash, (uint64_t)shape.dim[d]);
    return mth__mix(hash, (uint64_t)shape.rank);
}

static uint64_t mix_sharding(uint64_t hash, const mth__value *value) {
    hash = mth__mix_place(mth__mix(hash, value->pinned), value->sharding.on);
    for (int d = 0; d < value->shape.rank; d++) {
        const mth__split *split = &value->sharding.dim[d];
        for (int k = 0; k < split->naxes; k++) hash = mth__mix(hash, (uint64_t)split->axis[k]);
        hash = mth__mix(hash, (uint64_t)split->naxes << 33 | (uint64_t)split->grain << 1 | split->cyclic);
    }
    return hash;
}

static uint64_t mix_operand(
    const fold_pass *pass, uint64_t hash, const mth__node *node, const mth__value *value, int here) {
    hash = mth__mix(hash, value->kind);
    if (value->kind == MTH__VALUE_INPUT) return mth__mix(hash, (uint64_t)value->id);
    if (value->kind != MTH__VALUE_NODE) {
        hash = mix_sharding(mth__mix_shape(mth__mix_name(hash, value->name), value->shape), value);
        return mth__mix(hash, (uint64_t)(here - pass->first_reader[value->id]));
    }
    int at = pass->position[value->id], from = pass->module_of[at];
    bool together = value->node->on == node->on && value->node->label.region == node->label.region &&
        value->node->label.stage == node->label.stage;
    hash = mth__mix(mth__mix(hash, (uint64_t)(here - from)), (uint64_t)at - pass->module[from].first);
    return mth__mix(hash, (uint64_t)value->index << 1 | together);
}

static uint64_t mix_attributes(uint64_t hash, const mth__node *node) {
    mth__attrs attrs = node->attrs;
    const mth__attribute *attribute;
    for (int k = 0; (attribute = mth__op_attribute(node->op, k)); k++) {
        uint64_t bits = 0;
        if (attribute->draws) continue;
        if (attribute->kind == MTH__ATTRIBUTE_INTEGER) bits = (uint64_t)*mth__attribute_integer(&attrs, attribute);
        if (attribute->kind == MTH__ATTRIBUTE_REAL) memcpy(&bits, mth__attribute_real(&attrs, attribute), sizeof bits);
        hash = mth__mix(hash, bits);
        if (attribute->kind != MTH__ATTRIBUTE_TEXT) continue;
        for (const char *at = *mth__attribute_text(&attrs, attribute); at && *at; at++)
            hash = mth__mix(hash, (unsigned char)*at);
    }
    return hash;
}

static uint64_t hash_of(const fold_pass *pass, int m) {
    uint64_t hash = 0;
    for (int k = 0; k < pass->module[m].nodes; k++) {
        const mth__node *node = pass->graph->node.at[pass->module[m].first + (size_t)k];
        hash = mth__mix_place(mth__mix(hash, (uint64_t)node->op->row << 8 | (uint64_t)node->nin), node->on);
        hash = mth__mix(mix_attributes(hash, node), node->label.region >= 0);
        for (int j = 0; j < node->nin; j++) hash = mix_operand(pass, hash, node, node->in[j], m);
        for (int j = 0; j < node->nout; j++)
            hash = mth__mix(mth__mix_shape(hash, node->out[j]->shape), node->out[j]->dtype);
    }
    uint64_t word;
    memcpy(&word, &pass->module[m].weight, sizeof word);
    return mth__mix(hash, word);
}

/* ---------------------------------------------------------------- runs */
static bool starts_module(const mth__graph *graph, size_t i) {
    const char *a = graph->node.at[i]->label.module, *b = i ? graph->node.at[i - 1]->label.module : NULL;
    return !i || a != b;
}

static void list_modules(fold_pass *pass) {
    mth__graph *graph = pass->graph;
    pass->modules = 0;
    for (size_t i = 0; i < graph->node.n; i++) {
        if (starts_module(graph, i)) {
            pass->module[pass->modules].first = i; /* weights stay as they are */
            pass->module[pass->modules++].nodes = 0;
        }
        pass->module_of[i] = pass->modules - 1;
        pass->module[pass->modules - 1].nodes++;
        for (int k = 0; k < graph->node.at[i]->nout; k++) pass->position[graph->node.at[i]->out[k]->id] = (int)i;
    }
    for (size_t i = graph->node.n; i-- > 0;)
        for (int j = 0; j < graph->node.at[i]->nin; j++)
            pass->first_reader[graph->node.at[i]->in[j]->id] = pass->module_of[i];
    for (int m = 0; m < pass->modules; m++) pass->module[m].hash = hash_of(pass, m);
}

static int gain(const run *found) { return (found->units - KEPT) * found->period; }
static int by_gain(const void *a, const void *b) {
    const run *x = a, *y = b;
    if (gain(x) != gain(y)) return gain(x) < gain(y) ? 1 : -1;
    return x->period != y->period ? x->period - y->period : x->start - y->start;
}

/* Parameters in a row that are alike take turns (columns, rows): a unit has an even number of such, or of another kind
 * too. */
static bool odd(const fold_pass *pass, const run *found) {
    uint64_t last = 0;
    int alike = 0;
    for (int m = found->start; m < found->start + found->period; m++)
        for (int k = 0; k < pass->module[m].nodes; k++) {
            const mth__node *node = pass->graph->node.at[pass->module[m].first + (size_t)k];
            for (int j = 0; j < node->nin; j++) {
                if (node->in[j]->kind != MTH__VALUE_PARAMETER || node->in[j]->shape.rank < 2) continue;
                uint64_t hash = mth__mix_shape(mth__mix_name(0, node->in[j]->name), node->in[j]->shape);
                if (alike++ && hash != last) return false;
                last = hash;
            }
        }
    return alike & 1;
}

static void keep_run(const fold_pass *pass, run *runs, int *n, run found) {
    if (found.units > KEPT && odd(pass, &found)) found.period *= 2, found.units /= 2;
    if (found.units <= KEPT) return;
    if (*n == RUNS) {
        qsort(runs, RUNS, sizeof *runs, by_gain);
        if (by_gain(&found, &runs[RUNS - 1]) > 0) return;
        --*n;
    }
    runs[(*n)++] = found;
}

static int find_runs(const fold_pass *pass, run *runs) {
    int n = 0;
    for (int period = 1; period <= pass->modules / (KEPT + 1); period++) {
        int length = 0;
        for (int i = 0; i + period <= pass->modules; i++) {
            bool equal = i + period < pass->modules && pass->module[i].hash == pass->module[i + period].hash;
            if (equal) {
                length++;
                continue;
            }
            keep_run(pass, runs, &n, (run){i - length, period, length / period + 1});
            length = 0;
        }
    }
    qsort(runs, (size_t)n, sizeof *runs, by_gain);
    return n;
}

/* ---------------------------------------------------------------- one fold */
/* modules from..to leave; their stand-ins are `shift` before, from `start` on */
typedef struct {
    int start, from, to, shift;
} gap;

/* What a reader behind the gap reads instead; NULL: something that no stand-in makes. */
static mth__value *instead(const fold_pass *pass, const gap *between, mth__value *value) {
    int m = value->node ? pass->module_of[pass->position[value->id]] : -1;
    if (m < between->from || m >= between->to) return value;
    if (m - between->shift < between->start) return NULL;
    const mth__node *node =
        pass->graph->node
            .at[pass->module[m - between->shift].first + (size_t)pass->position[value->id] - pass->module[m].first];
    return node->out[value->index];
}

static bool fold(fold_pass *pass, const run *found) {
    mth__graph *graph = pass->graph;
    gap out = {found->start, found->start + 2 * found->period, found->start + (found->units - 1) * found->period,
        (found->units - KEPT) * found->period};
    for (size_t i = 0; i < graph->output.n; i++)
        if (instead(pass, &out, graph->output.at[i].value) != graph->output.at[i].value) return false;
    size_t behind = pass->module[out.to].first;
    for (int change = 0; change < 2; change++)
        for (size_t i = behind; i < graph->node.n; i++)
            for (int j = 0; j < graph->node.at[i]->nin; j++) {
                mth__value *value = instead(pass, &out, graph->node.at[i]->in[j]);
                if (!value) return false;
                if (change) graph->node.at[i]->in[j] = value;
            }
    size_t from = pass->module[out.from].first;
    memmove(graph->node.at + from, graph->node.at + behind, (graph->node.n - behind) * sizeof *graph->node.at);
    graph->node.n -= behind - from;
    for (int m = found->start + found->period; m < out.from; m++) pass->module[m].weight *= found->units - 2;
    memmove(pass->module + out.from, pass->module + out.to, (size_t)(pass->modules - out.to) * sizeof *pass->module);
    return true;
}

static void drop_parameters(fold_pass *pass) {
    mth__graph *graph = pass->graph;
    bool *read = NEW_ARRAY(pass->arena, bool, graph->values);
    size_t kept = 0;
    for (size_t i = 0; i < graph->node.n; i++)
        for (int j = 0; j < graph->node.at[i]->nin; j++) read[graph->node.at[i]->in[j]->id] = true;
    for (size_t i = 0; i < graph->output.n; i++) read[graph->output.at[i].value->id] = true;
    for (size_t i = 0; i < graph->parameter.n; i++)
        if (read[graph->parameter.at[i]->id]) graph->parameter.at[kept++] = graph->parameter.at[i];
    graph->parameter.n = kept;
}

/* ---------------------------------------------------------------- the result */
static uint64_t hash_module(const char *module) { return mth__hash_add(mth__hash_key(), (uint64_t)(uintptr_t)module); }

typedef struct {
    const mth__folding *folding;
    const char *module;
} module_key;

static bool is_module(const void *key, int number) {
    const module_key *wanted = key;
    return wanted->folding->module.at[number].module == wanted->module;
}

double mth__folded_weight(const mth__folding *folding, const char *module) {
    const int found =
        module ? mth__table_find(&folding->table, hash_module(module), is_module, &(module_key){folding, module}) : -1;
    return found < 0 ? 1 : folding->module.at[found].weight;
}

mth__folding *mth__fold(mth__graph *graph) {
    fold_pass pass = {.graph = graph, .arena = mth__arena_new()};
    pass.module = NEW_ARRAY(pass.arena, member, graph->node.n + 1);
    pass.module_of = NEW_ARRAY(pass.arena, int, graph->node.n + 1);
    pass.position = NEW_ARRAY(pass.arena, int, graph->values);
    pass.first_reader = NEW_ARRAY(pass.arena, int, graph->values);
    for (size_t i = 0; i < graph->node.n; i++) pass.module[i].weight = 1;
    run runs[RUNS];
    list_modules(&pass);
    for (int round = 0; round < ROUNDS; round++) {
        bool folded = false;
        int n = find_runs(&pass, runs);
        for (int k = 0; k < n && !folded; k++) folded = fold(&pass, &runs[k]);
        if (!folded) break;
        list_modules(&pass);
    }
    drop_parameters(&pass);
    mth__graph_number(graph);
    mth__folding *folding = NEW(graph->arena, mth__folding);
    for (int m = 0; m < pass.modules; m++) {
        const char *name = graph->node.at[pass.module[m].first]->label.module;
        if (!name) continue;
        const int next = (int)folding->module.n,
                  found = mth__table_add(
                      graph->arena, &folding->table, hash_module(name), is_module, &(module_key){folding, name}, next);
        if (found == next) PUSH(graph->arena, folding->module, ((module_weight){.module = name}));
        folding->module.at[found].weight = pass.module[m].weight;
    }
    mth__arena_free(pass.arena);
    return folding;
}
