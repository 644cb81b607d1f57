/* The search tries hundreds of plans of a model whose blocks repeat, and the answer is the same for each of them: of a
 * run of equal blocks the first, the second and the last stay, and the second counts for all in between. Blocks are
 * found as runs of modules: module i equals module i + period in its nodes, and in where its operands come from,
 *   counted from itself. */
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

uint64_t mth__mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9e3779b97f4a7c15;
    return h ^ h >> 29;
}
uint64_t mth__mix_name(uint64_t h, const char *name) {
    for (const char *c = name; c && *c; c++)
        if (!isdigit((unsigned char)*c))
            h = mth__mix(h, (unsigned char)*c);
        else if (!isdigit((unsigned char)c[1]))
            h = mth__mix(h, '0'); /* 9 and 10 are alike */
    return h;
}
uint64_t mth__mix_place(uint64_t h, const mth__placement *on) {
    for (int a = 0; on && a < on->naxes; a++) h = mth__mix(h, (uint64_t)on->dim[a]);
    return mth__mix(h, on ? (uint64_t)on->naxes : 99);
}
uint64_t mth__mix_shape(uint64_t h, mth__shape s) {
    for (int d = 0; d < s.rank; d++) h = mth__mix(h, (uint64_t)s.dim[d]);
    return mth__mix(h, (uint64_t)s.rank);
}

static uint64_t mix_sharding(uint64_t h, const mth__value *v) {
    h = mth__mix_place(mth__mix(h, v->pinned), v->sharding.on);
    for (int d = 0; d < v->shape.rank; d++) {
        const mth__split *s = &v->sharding.dim[d];
        for (int k = 0; k < s->naxes; k++) h = mth__mix(h, (uint64_t)s->axis[k]);
        h = mth__mix(h, (uint64_t)s->naxes << 33 | (uint64_t)s->grain << 1 | s->cyclic);
    }
    return h;
}

static uint64_t mix_operand(const fold_pass *s, uint64_t h, const mth__node *n, const mth__value *v, int here) {
    h = mth__mix(h, v->kind);
    if (v->kind == MTH__VALUE_INPUT) return mth__mix(h, (uint64_t)v->id);
    if (v->kind != MTH__VALUE_NODE) {
        h = mix_sharding(mth__mix_shape(mth__mix_name(h, v->name), v->shape), v);
        return mth__mix(h, (uint64_t)(here - s->first_reader[v->id]));
    }
    int at = s->position[v->id], from = s->module_of[at];
    bool together =
        v->node->on == n->on && v->node->label.region == n->label.region && v->node->label.stage == n->label.stage;
    h = mth__mix(mth__mix(h, (uint64_t)(here - from)), (uint64_t)at - s->module[from].first);
    return mth__mix(h, (uint64_t)v->index << 1 | together);
}

static uint64_t mix_attributes(uint64_t h, const mth__node *node) {
    mth__attrs attrs = node->attrs;
    const mth__attribute *attribute;
    for (int k = 0; (attribute = mth__op_attribute(node->op, k)); k++) {
        uint64_t bits = 0;
        if (attribute->draws) continue;
        if (attribute->kind == MTH__ATTRIBUTE_INTEGER) bits = (uint64_t)*mth__attribute_integer(&attrs, attribute);
        if (attribute->kind == MTH__ATTRIBUTE_REAL) memcpy(&bits, mth__attribute_real(&attrs, attribute), sizeof bits);
        h = mth__mix(h, bits);
        if (attribute->kind != MTH__ATTRIBUTE_TEXT) continue;
        for (const char *c = *mth__attribute_text(&attrs, attribute); c && *c; c++) h = mth__mix(h, (unsigned char)*c);
    }
    return h;
}

static uint64_t hash_of(const fold_pass *s, int m) {
    uint64_t h = 0;
    for (int k = 0; k < s->module[m].nodes; k++) {
        const mth__node *n = s->graph->node.at[s->module[m].first + (size_t)k];
        h = mth__mix_place(mth__mix(h, (uint64_t)n->op->row << 8 | (uint64_t)n->nin), n->on);
        h = mth__mix(mix_attributes(h, n), n->label.region >= 0);
        for (int j = 0; j < n->nin; j++) h = mix_operand(s, h, n, n->in[j], m);
        for (int j = 0; j < n->nout; j++) h = mth__mix(mth__mix_shape(h, n->out[j]->shape), n->out[j]->dtype);
    }
    uint64_t w;
    memcpy(&w, &s->module[m].weight, sizeof w);
    return mth__mix(h, w);
}

/* ---------------------------------------------------------------- runs */
static bool starts_module(const mth__graph *g, size_t i) {
    const char *a = g->node.at[i]->label.module, *b = i ? g->node.at[i - 1]->label.module : NULL;
    return !i || a != b;
}

static void list_modules(fold_pass *s) {
    mth__graph *g = s->graph;
    s->modules = 0;
    for (size_t i = 0; i < g->node.n; i++) {
        if (starts_module(g, i)) {
            s->module[s->modules].first = i; /* weights stay as they are */
            s->module[s->modules++].nodes = 0;
        }
        s->module_of[i] = s->modules - 1;
        s->module[s->modules - 1].nodes++;
        for (int k = 0; k < g->node.at[i]->nout; k++) s->position[g->node.at[i]->out[k]->id] = (int)i;
    }
    for (size_t i = g->node.n; i-- > 0;)
        for (int j = 0; j < g->node.at[i]->nin; j++) s->first_reader[g->node.at[i]->in[j]->id] = s->module_of[i];
    for (int m = 0; m < s->modules; m++) s->module[m].hash = hash_of(s, m);
}

static int gain(const run *r) { return (r->units - KEPT) * r->period; }
static int by_gain(const void *a, const void *b) {
    const run *x = a, *y = b;
    if (gain(x) != gain(y)) return gain(x) < gain(y) ? 1 : -1;
    return x->period != y->period ? x->period - y->period : x->start - y->start;
}

/* Parameters in a row that are alike take turns (columns, rows): a unit has an even number of such, or of another kind
 * too. */
static bool odd(const fold_pass *s, const run *r) {
    uint64_t last = 0;
    int alike = 0;
    for (int m = r->start; m < r->start + r->period; m++)
        for (int k = 0; k < s->module[m].nodes; k++) {
            const mth__node *n = s->graph->node.at[s->module[m].first + (size_t)k];
            for (int j = 0; j < n->nin; j++) {
                if (n->in[j]->kind != MTH__VALUE_PARAMETER || n->in[j]->shape.rank < 2) continue;
                uint64_t h = mth__mix_shape(mth__mix_name(0, n->in[j]->name), n->in[j]->shape);
                if (alike++ && h != last) return false;
                last = h;
            }
        }
    return alike & 1;
}

static void keep_run(const fold_pass *s, run *runs, int *n, run r) {
    if (r.units > KEPT && odd(s, &r)) r.period *= 2, r.units /= 2;
    if (r.units <= KEPT) return;
    if (*n == RUNS) {
        qsort(runs, RUNS, sizeof *runs, by_gain);
        if (by_gain(&r, &runs[RUNS - 1]) > 0) return;
        --*n;
    }
    runs[(*n)++] = r;
}

static int find_runs(const fold_pass *s, run *runs) {
    int n = 0;
    for (int p = 1; p <= s->modules / (KEPT + 1); p++) {
        int length = 0;
        for (int i = 0; i + p <= s->modules; i++) {
            bool equal = i + p < s->modules && s->module[i].hash == s->module[i + p].hash;
            if (equal) {
                length++;
                continue;
            }
            keep_run(s, runs, &n, (run){i - length, p, length / p + 1});
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
static mth__value *instead(const fold_pass *s, const gap *g, mth__value *v) {
    int m = v->node ? s->module_of[s->position[v->id]] : -1;
    if (m < g->from || m >= g->to) return v;
    if (m - g->shift < g->start) return NULL;
    const mth__node *n =
        s->graph->node.at[s->module[m - g->shift].first + (size_t)s->position[v->id] - s->module[m].first];
    return n->out[v->index];
}

static bool fold(fold_pass *s, const run *r) {
    mth__graph *g = s->graph;
    gap out = {
        r->start, r->start + 2 * r->period, r->start + (r->units - 1) * r->period, (r->units - KEPT) * r->period};
    for (size_t i = 0; i < g->output.n; i++)
        if (instead(s, &out, g->output.at[i].value) != g->output.at[i].value) return false;
    size_t behind = s->module[out.to].first;
    for (int change = 0; change < 2; change++)
        for (size_t i = behind; i < g->node.n; i++)
            for (int j = 0; j < g->node.at[i]->nin; j++) {
                mth__value *v = instead(s, &out, g->node.at[i]->in[j]);
                if (!v) return false;
                if (change) g->node.at[i]->in[j] = v;
            }
    size_t from = s->module[out.from].first;
    memmove(g->node.at + from, g->node.at + behind, (g->node.n - behind) * sizeof *g->node.at);
    g->node.n -= behind - from;
    for (int m = r->start + r->period; m < out.from; m++) s->module[m].weight *= r->units - 2;
    memmove(s->module + out.from, s->module + out.to, (size_t)(s->modules - out.to) * sizeof *s->module);
    return true;
}

static void drop_parameters(fold_pass *s) {
    mth__graph *g = s->graph;
    bool *read = NEW_ARRAY(s->arena, bool, g->values);
    size_t kept = 0;
    for (size_t i = 0; i < g->node.n; i++)
        for (int j = 0; j < g->node.at[i]->nin; j++) read[g->node.at[i]->in[j]->id] = true;
    for (size_t i = 0; i < g->output.n; i++) read[g->output.at[i].value->id] = true;
    for (size_t i = 0; i < g->parameter.n; i++)
        if (read[g->parameter.at[i]->id]) g->parameter.at[kept++] = g->parameter.at[i];
    g->parameter.n = kept;
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

double mth__folded_weight(const mth__folding *f, const char *module) {
    const int found =
        module ? mth__table_find(&f->table, hash_module(module), is_module, &(module_key){f, module}) : -1;
    return found < 0 ? 1 : f->module.at[found].weight;
}

mth__folding *mth__fold(mth__graph *g) {
    fold_pass s = {.graph = g, .arena = mth__arena_new()};
    s.module = NEW_ARRAY(s.arena, member, g->node.n + 1);
    s.module_of = NEW_ARRAY(s.arena, int, g->node.n + 1);
    s.position = NEW_ARRAY(s.arena, int, g->values);
    s.first_reader = NEW_ARRAY(s.arena, int, g->values);
    for (size_t i = 0; i < g->node.n; i++) s.module[i].weight = 1;
    run runs[RUNS];
    list_modules(&s);
    for (int round = 0; round < ROUNDS; round++) {
        bool folded = false;
        int n = find_runs(&s, runs);
        for (int k = 0; k < n && !folded; k++) folded = fold(&s, &runs[k]);
        if (!folded) break;
        list_modules(&s);
    }
    drop_parameters(&s);
    mth__graph_number(g);
    mth__folding *f = NEW(g->arena, mth__folding);
    for (int m = 0; m < s.modules; m++) {
        const char *name = g->node.at[s.module[m].first]->label.module;
        if (!name) continue;
        const int next = (int)f->module.n,
                  found =
                      mth__table_add(g->arena, &f->table, hash_module(name), is_module, &(module_key){f, name}, next);
        if (found == next) PUSH(g->arena, f->module, ((module_weight){.module = name}));
        f->module.at[found].weight = s.module[m].weight;
    }
    mth__arena_free(s.arena);
    return f;
}
