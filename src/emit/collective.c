#include "emit/collective_rules.h"

/* Hierarchical: rank r is place x = r mod b of group g = r div b. The slow links between groups carry as little as can
 * be: reductions go inside first, all_gather outside first. A tree's all_gather gathers to rank 0 and broadcasts, its
 *   reduce_scatter reduces to rank 0 and
 * scatters: any n. A ring's all_to_all passes every box on from neighbour to neighbour. */
static const mth__rule_set
    rules[MTH__TRANSFER]
         [MTH__ALGORITHMS] =
             {
                 [MTH__ALL_REDUCE] =
                     {
                         [MTH__DIRECT] = {"n", false,
                             {{.rounds = "1", .each = "n", .where = "j != r", .peer = "j", .from = "r", .reduce = true},
                                 {.rounds = "1", .each = "n", .where = "j != r", .peer = "j", .from = "j"}}},
                         [MTH__RING] = {"n", false,
                             {{.rounds = "n - 1", .peer = "(r - 1) mod n", .from = "(r - k) mod n", .reduce = true},
                                 {.rounds = "n - 1", .peer = "(r - 1) mod n", .from = "(r - k + 1) mod n"}}},
                         [MTH__TREE] = {"1", false,
                             {{.rounds = "l",
                                  .let = "2^(k - 1)",
                                  .when = "r mod (2 * d) = 0 and r + d < n",
                                  .peer = "r + d",
                                  .from = "0",
                                  .reduce = true},
                                 {.rounds = "l",
                                     .let = "2^(l - k)",
                                     .when = "r mod (2 * d) = d",
                                     .peer = "r - d",
                                     .from = "0"}}},
                         [MTH__HIERARCHICAL] = {"n", false,
                             {{.rounds = "b - 1",
                                  .each = "a",
                                  .peer = "g * b + (x - 1) mod b",
                                  .from = "((x - k) mod b) * a + j",
                                  .reduce = true},
                                 {.rounds = "a - 1",
                                     .peer = "((g - 1) mod a) * b + x",
                                     .from = "((x + 1) mod b) * a + (g - k) mod a",
                                     .reduce = true},
                                 {.rounds = "a - 1",
                                     .peer = "((g - 1) mod a) * b + x",
                                     .from = "((x + 1) mod b) * a + (g - k + 1) mod a"},
                                 {.rounds = "b - 1",
                                     .each = "a",
                                     .peer = "g * b + (x - 1) mod b",
                                     .from = "((x - k + 1) mod b) * a + j"}}},
                     },
                 [MTH__ALL_GATHER] =
                     {
                         [MTH__DIRECT] = {"n", false,
                             {{.rounds = "1", .each = "n", .where = "j != r", .peer = "j", .from = "j"}}},
                         [MTH__RING] = {"n", false,
                             {{.rounds = "n - 1", .peer = "(r - 1) mod n", .from = "(r - k) mod n"}}},
                         [MTH__TREE] = {"n", false,
                             {{.rounds = "l",
                                  .let = "2^(k - 1)",
                                  .when = "r mod (2 * d) = 0 and r + d < n",
                                  .each = "d",
                                  .where = "r + d + j < n",
                                  .peer = "r + d",
                                  .from = "r + d + j"},
                                 {.rounds = "l",
                                     .let = "2^(l - k)",
                                     .when = "r mod (2 * d) = d",
                                     .each = "n",
                                     .where = "j < r or j >= r + d",
                                     .peer = "r - d",
                                     .from = "j"}}},
                         [MTH__HIERARCHICAL] = {"n", false,
                             {{.rounds = "a - 1", .peer = "((g - 1) mod a) * b + x", .from = "((g - k) mod a) * b + x"},
                                 {.rounds = "b - 1",
                                     .each = "a",
                                     .peer = "g * b + (x - 1) mod b",
                                     .from = "j * b + (x - k) mod b"}}},
                     },
                 [MTH__REDUCE_SCATTER] =
                     {
                         [MTH__DIRECT] = {"n", false,
                             {{.rounds = "1",
                                 .each = "n",
                                 .where = "j != r",
                                 .peer = "j",
                                 .from = "r",
                                 .reduce = true}}},
                         [MTH__RING] =
                             {"n", false,
                                 {{.rounds = "n - 1",
                                     .peer = "(r - 1) mod n",
                                     .from = "(r - k - 1) mod n",
                                     .reduce = true}}},
                         [MTH__TREE] =
                             {"n", false,
                                 {{.rounds = "l",
                                      .let = "2^(k - 1)",
                                      .when = "r mod (2 * d) = 0 and r + d < n",
                                      .each = "n",
                                      .peer = "r + d",
                                      .from = "j",
                                      .reduce = true},
                                     {.rounds = "l",
                                         .let = "2^(l - k)",
                                         .when = "r mod (2 * d) = d",
                                         .each = "d",
                                         .where = "r + j < n",
                                         .peer = "r - d",
                                         .from = "r + j"}}},
                         [MTH__HIERARCHICAL] =
                             {"n", false,
                                 {{.rounds = "b - 1",
                                      .each = "a",
                                      .peer = "g * b + (x - 1) mod b",
                                      .from = "j * b + (x - k - 1) mod b",
                                      .reduce = true},
                                     {.rounds = "a - 1",
                                         .peer = "((g - 1) mod a) * b + x",
                                         .from = "((g - k - 1) mod a) * b + x",
                                         .reduce = true}}},
                     },
                 [MTH__ALL_TO_ALL] =
                     {
                         [MTH__DIRECT] = {"n", true,
                             {{.rounds = "1", .each = "n", .peer = "j", .from = "r", .to = "j"}}},
                         [MTH__RING] =
                             {"n", true,
                                 {{.rounds = "n - 1", .peer = "(r - 1) mod n", .from = "r", .to = "(r - k) mod n"},
                                     {.each = "n - 1 - k", .peer = "(r - 1) mod n", .from = "(r + 1 + j) mod n"},
                                     {.each = "k", .peer = "r", .from = "(r - j) mod n"}}},
                         [MTH__TREE] =
                             {"n", true,
                                 {/* Bruck */
                                     {.rounds = "1", .each = "n", .peer = "r", .from = "(r + j) mod n", .to = "j"},
                                     {.rounds = "l",
                                         .let = "2^(k - 1)",
                                         .each = "n",
                                         .where = "(j div d) mod 2 = 1",
                                         .peer = "(r - d) mod n",
                                         .from = "j"},
                                     {.let = "2^(k - 1)",
                                         .each = "n",
                                         .where = "(j div d) mod 2 = 0",
                                         .peer = "r",
                                         .from = "j"},
                                     {.rounds = "1", .each = "n", .peer = "r", .from = "j", .to = "(r - j) mod n"}}},
                         [MTH__HIERARCHICAL] =
                             {"n", true,
                                 {{.rounds = "1",
                                      .each = "n",
                                      .peer = "g * b + (j mod b)",
                                      .from = "(j div b) * b + x",
                                      .to = "j"},
                                     {.rounds = "1",
                                         .each = "n",
                                         .peer = "(j div b) * b + x",
                                         .from = "g * b + (j mod b)",
                                         .to = "j"}}},
                     },
                 [MTH__BROADCAST] =
                     {
                         [MTH__DIRECT] = {"1", false, {{.rounds = "1", .when = "r > 0", .peer = "0", .from = "0"}}},
                         [MTH__RING] = {"n", false,
                             {{.rounds = "2 * n - 2",
                                 .when = "r > 0 and r <= k and k < r + n",
                                 .peer = "r - 1",
                                 .from = "k - r"}}},
                         [MTH__TREE] = {"1", false,
                             {{.rounds = "l",
                                 .let = "2^(l - k)",
                                 .when = "r mod (2 * d) = d",
                                 .peer = "r - d",
                                 .from = "0"}}},
                         [MTH__HIERARCHICAL] = {"n", false,
                             {{.rounds = "a + n - 2",
                                  .when = "x = 0 and g > 0 and g <= k and k < g + n",
                                  .peer = "r - b",
                                  .from = "k - g"},
                                 {.rounds = "b + n - 2",
                                     .when = "x > 0 and x <= k and k < x + n",
                                     .peer = "r - 1",
                                     .from = "k - x"}}},
                     },
};
enum { LINES = sizeof rules[0][0].line / sizeof rules[0][0].line[0] };

mth__formula_variables mth__template_variables(const mth__template *t) {
    mth__formula_variables v = {{0}};
    int a = 1, l = 0;
    for (int i = 2; i * i <= t->n; i++)
        if (t->n % i == 0) a = i;
    while (1 << l < t->n) l++;
    v.letter['n' - 'a'] = t->n;
    v.letter['l' - 'a'] = l;
    v.letter['a' - 'a'] = a;
    v.letter['b' - 'a'] = t->n / a;
    return v;
}
const mth__rule_set *mth__template_rules(const mth__template *t) {
    mth__formula_variables v = mth__template_variables(t);
    bool prime = v.letter[0] == 1; /* or 1: nothing to factor */
    return &rules[t->kind][t->algorithm == MTH__HIERARCHICAL && prime ? MTH__RING : t->algorithm];
}

static int value_of(const char *text, const mth__formula_variables *v) {
    mth__formula f;
    mth__formula_compile(&f, text);
    return mth__formula_value(&f, v);
}

mth__template mth__template_get(mth__channel_kind kind, mth__algorithm algorithm, int n) {
    mth__template t = {.kind = kind, .algorithm = algorithm, .n = n};
    mth__formula_variables v = mth__template_variables(&t);
    const mth__rule_set *set = mth__template_rules(&t);
    t.chunks = value_of(set->chunks, &v);
    t.double_buffer = set->double_buffer;
    for (int i = 0; i < LINES && set->line[i].peer; i++)
        if (set->line[i].rounds) t.rounds += value_of(set->line[i].rounds, &v);
    return t;
}

typedef struct {
    const mth__rule_line *line;
    mth__formula let, when, each, where, peer, from, to;
} compiled_line;
static void compile(compiled_line *c, const mth__rule_line *line) {
    c->line = line;
    if (line->let) mth__formula_compile(&c->let, line->let);
    if (line->when) mth__formula_compile(&c->when, line->when);
    if (line->each) mth__formula_compile(&c->each, line->each);
    if (line->where) mth__formula_compile(&c->where, line->where);
    mth__formula_compile(&c->peer, line->peer);
    mth__formula_compile(&c->from, line->from);
    if (line->to) mth__formula_compile(&c->to, line->to);
}

int mth__template_steps(mth__arena *arena, const mth__template *t, int rank, mth__step **out) {
    VEC(mth__step) steps = {0};
    mth__formula_variables v = mth__template_variables(t);
    const mth__rule_set *set = mth__template_rules(t);
    compiled_line *line = NEW_ARRAY(arena, compiled_line, LINES);
    int lines = 0;
    for (; lines < LINES && set->line[lines].peer; lines++) compile(&line[lines], &set->line[lines]);
    int *const j = &v.letter['j' - 'a'], *const k = &v.letter['k' - 'a'];
    v.letter['r' - 'a'] = rank;
    v.letter['g' - 'a'] = rank / v.letter['b' - 'a'];
    v.letter['x' - 'a'] = rank % v.letter['b' - 'a'];
    for (int first = 0, last, before = 0; first < lines; first = last) {
        for (last = first + 1; last < lines && !set->line[last].rounds;) last++;
        int rounds = value_of(set->line[first].rounds, &v);
        for (*k = 1; *k <= rounds; ++*k)
            for (int i = first; i < last; i++) {
                const compiled_line *c = &line[i];
                if (c->line->let) v.letter['d' - 'a'] = mth__formula_value(&c->let, &v);
                if (c->line->when && !mth__formula_value(&c->when, &v)) continue;
                int each = c->line->each ? mth__formula_value(&c->each, &v) : 1;
                for (*j = 0; *j < each; ++*j) {
                    if (c->line->where && !mth__formula_value(&c->where, &v)) continue;
                    mth__step s = {.round = before + *k - 1,
                        .peer = (int16_t)mth__formula_value(&c->peer, &v),
                        .reduce = c->line->reduce};
                    s.from_chunk = (int16_t)mth__formula_value(&c->from, &v);
                    s.to_chunk = c->line->to ? (int16_t)mth__formula_value(&c->to, &v) : s.from_chunk;
                    PUSH(arena, steps, s);
                }
            }
        before += rounds;
    }
    *out = steps.at;
    return (int)steps.n;
}

/* Of one line on one rank that takes part in all its rounds. */
static int64_t line_size(const mth__rule_line *line, mth__formula_variables v, int rounds) {
    int64_t steps = 0;
    for (int k = 1; k <= rounds; k++) {
        v.letter['k' - 'a'] = k;
        if (line->let) v.letter['d' - 'a'] = value_of(line->let, &v);
        steps += line->each ? value_of(line->each, &v) : 1;
    }
    return steps;
}

int64_t mth__template_size(const mth__template *t) {
    mth__formula_variables v = mth__template_variables(t);
    const mth__rule_set *set = mth__template_rules(t);
    int64_t steps = 0;
    for (int i = 0, rounds = 0; i < LINES && set->line[i].peer; i++) {
        if (set->line[i].rounds) rounds = value_of(set->line[i].rounds, &v);
        steps += line_size(&set->line[i], v, rounds);
    }
    return steps * t->n;
}

void mth__template_trace(
    mth__arena *arena, const mth__template *t, mth__step *const *steps, const int *count, mth__box_name **out) {
    size_t n = (size_t)t->n, chunks = (size_t)t->chunks;
    mth__box_name *held = NEW_ARRAY(arena, mth__box_name, n * chunks),
                  *next = NEW_ARRAY(arena, mth__box_name, n * chunks);
    int *at = NEW_ARRAY(arena, int, n);
    for (size_t r = 0; r < n; r++) {
        out[r] = NEW_ARRAY(arena, mth__box_name, count[r]);
        for (size_t c = 0; c < chunks; c++) held[r * chunks + c] = (mth__box_name){(int16_t)r, (int16_t)c};
    }
    for (int round = 0; round < t->rounds; round++) {
        for (size_t i = 0; i < n * chunks; i++) next[i] = held[i];
        for (size_t r = 0; r < n; r++)
            for (; at[r] < count[r] && steps[r][at[r]].round == round; at[r]++) {
                mth__step s = steps[r][at[r]];
                out[r][at[r]] = next[r * chunks + (size_t)s.to_chunk] =
                    held[(size_t)s.peer * chunks + (size_t)s.from_chunk];
            }
        mth__box_name *swap = held;
        held = next;
        next = swap;
    }
}

mth__known_template *mth__template_known(mth__templates *all, mth__channel_kind kind, mth__algorithm algorithm, int n) {
    for (mth__known_template *known = all->first; known; known = known->next)
        if (known->t.kind == kind && known->t.algorithm == algorithm && known->t.n == n) return known;
    mth__known_template *known = NEW(all->arena, mth__known_template);
    known->t = mth__template_get(kind, algorithm, n);
    known->step = NEW_ARRAY(all->arena, mth__step *, n);
    known->count = NEW_ARRAY(all->arena, int, n);
    known->next = all->first;
    all->first = known;
    return known;
}

void mth__template_know_rank(mth__templates *all, mth__known_template *known, int rank) {
    if (!known->step[rank]) known->count[rank] = mth__template_steps(all->arena, &known->t, rank, &known->step[rank]);
}

void mth__template_know_all(mth__templates *all, mth__known_template *known) {
    for (int rank = 0; rank < known->t.n; rank++) mth__template_know_rank(all, known, rank);
    if (known->t.kind != MTH__ALL_TO_ALL || known->box) return;
    known->box = NEW_ARRAY(all->arena, mth__box_name *, known->t.n);
    mth__template_trace(all->arena, &known->t, known->step, known->count, known->box);
}

int64_t mth__template_scratch(const mth__template *t, int64_t operand_bytes, int64_t largest_box_bytes) {
    if (t->n == 1 || t->algorithm == MTH__DIRECT) return 0;
    if (t->kind == MTH__REDUCE_SCATTER) return operand_bytes;
    return t->kind == MTH__ALL_TO_ALL ? mth__size_product(2 * (int64_t)t->n, largest_box_bytes) : 0;
}

void mth__chunk_range(int64_t elements, int chunks, int chunk, int64_t *start, int64_t *size) {
    int64_t each = elements / chunks + (elements % chunks != 0);
    *start =
        each && chunk > elements / each ? elements : each * chunk; /* no overflow: each * chunk <= elements + each */
    *size = elements - *start < each ? elements - *start : each;
}
