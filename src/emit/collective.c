#include "emit/collective_rules.h"

/* Hierarchical: rank r is place x = r mod b of group g = r div b. The slow links between groups carry as little as can
 * be: reductions go inside first, all_gather outside first. A tree's all_gather gathers to rank 0 and broadcasts, its
 * reduce_scatter reduces to rank 0 and scatters: any n. A ring's all_to_all passes every box on from neighbour to
 * neighbour. */
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

mth__formula_variables mth__template_variables(const mth__template *template) {
    mth__formula_variables variables = {{0}};
    int inner = 1, levels = 0;
    for (int i = 2; i * i <= template->n; i++)
        if (template->n % i == 0) inner = i;
    while (1 << levels < template->n) levels++;
    variables.letter['n' - 'a'] = template->n;
    variables.letter['l' - 'a'] = levels;
    variables.letter['a' - 'a'] = inner;
    variables.letter['b' - 'a'] = template->n / inner;
    return variables;
}
const mth__rule_set *mth__template_rules(const mth__template *template) {
    mth__formula_variables variables = mth__template_variables(template);
    bool prime = variables.letter[0] == 1; /* or 1: nothing to factor */
    return &rules[template->kind][template->algorithm == MTH__HIERARCHICAL && prime ? MTH__RING : template->algorithm];
}

static int value_of(const char *text, const mth__formula_variables *variables) {
    mth__formula formula;
    mth__formula_compile(&formula, text);
    return mth__formula_value(&formula, variables);
}

mth__template mth__template_get(mth__channel_kind kind, mth__algorithm algorithm, int n) {
    mth__template template = {.kind = kind, .algorithm = algorithm, .n = n};
    mth__formula_variables variables = mth__template_variables(&template);
    const mth__rule_set *set = mth__template_rules(&template);
    template.chunks = value_of(set->chunks, &variables);
    template.double_buffer = set->double_buffer;
    for (int i = 0; i < LINES && set->line[i].peer; i++)
        if (set->line[i].rounds) template.rounds += value_of(set->line[i].rounds, &variables);
    return template;
}

typedef struct {
    const mth__rule_line *line;
    mth__formula let, when, each, where, peer, from, to;
} compiled_line;
static void compile(compiled_line *compiled, const mth__rule_line *line) {
    compiled->line = line;
    if (line->let) mth__formula_compile(&compiled->let, line->let);
    if (line->when) mth__formula_compile(&compiled->when, line->when);
    if (line->each) mth__formula_compile(&compiled->each, line->each);
    if (line->where) mth__formula_compile(&compiled->where, line->where);
    mth__formula_compile(&compiled->peer, line->peer);
    mth__formula_compile(&compiled->from, line->from);
    if (line->to) mth__formula_compile(&compiled->to, line->to);
}

struct mth__step_maker {
    mth__formula_variables variables;
    int lines, rounds[LINES]; /* those that begin with the line; 0 where it stands in the rounds of a line above */
    compiled_line line[LINES];
};
static void read_rules(mth__step_maker *maker, const mth__template *template) {
    const mth__rule_set *set = mth__template_rules(template);
    maker->variables = mth__template_variables(template);
    for (maker->lines = 0; maker->lines < LINES && set->line[maker->lines].peer; maker->lines++) {
        const mth__rule_line *line = &set->line[maker->lines];
        compile(&maker->line[maker->lines], line);
        maker->rounds[maker->lines] = line->rounds ? value_of(line->rounds, &maker->variables) : 0;
    }
}
mth__step_maker *mth__step_maker_new(mth__arena *arena, const mth__template *template) {
    mth__step_maker *maker = NEW(arena, mth__step_maker);
    read_rules(maker, template);
    return maker;
}

/* The steps of one line in one round, for all j that it has. */
static void add_steps(
    mth__arena *arena, const mth__step_maker *maker, const compiled_line *compiled, int round, mth__steps *out) {
    enum { LANES = MTH__FORMULA_LANES };
    const mth__formula_variables *variables = &maker->variables;
    const int each = compiled->line->each ? mth__formula_value(&compiled->each, variables) : 1;
    int where[LANES], peer[LANES], from[LANES], to[LANES];
    const int *const into = compiled->line->to ? to : from;
    const bool sieved = compiled->line->where != NULL, reduce = compiled->line->reduce;
    for (int first = 0; first < each; first += LANES) {
        const int n = each - first < LANES ? each - first : LANES;
        if (sieved) mth__formula_values(&compiled->where, variables, 'j', first, n, where);
        mth__formula_values(&compiled->peer, variables, 'j', first, n, peer);
        mth__formula_values(&compiled->from, variables, 'j', first, n, from);
        if (into == to) mth__formula_values(&compiled->to, variables, 'j', first, n, to);
        while (out->room - out->n < (size_t)n) out->at = mth__grow(arena, out->at, out->n, &out->room, sizeof *out->at);
        mth__step *step = out->at + out->n;
        for (int i = 0; i < n; i++)
            if (!sieved || where[i])
                *step++ = (mth__step){round, (int16_t)peer[i], (int16_t)from[i], (int16_t)into[i], reduce};
        out->n = (size_t)(step - out->at);
    }
}

void mth__round_steps(mth__arena *arena, mth__step_maker *maker, int rank, int round, mth__steps *out) {
    int *const letter = maker->variables.letter, line = 0, before = 0;
    for (int i = 0; i < maker->lines && before <= round; before += maker->rounds[i++])
        if (maker->rounds[i]) line = i, letter['k' - 'a'] = round - before + 1;
    letter['r' - 'a'] = rank;
    letter['g' - 'a'] = rank / letter['b' - 'a'];
    letter['x' - 'a'] = rank % letter['b' - 'a'];
    do {
        const compiled_line *compiled = &maker->line[line];
        if (compiled->line->let) letter['d' - 'a'] = mth__formula_value(&compiled->let, &maker->variables);
        if (!compiled->line->when || mth__formula_value(&compiled->when, &maker->variables))
            add_steps(arena, maker, compiled, round, out);
    } while (++line < maker->lines && !maker->line[line].line->rounds);
}

int mth__template_steps(mth__arena *arena, const mth__template *template, int rank, mth__step **out) {
    mth__step_maker *maker = mth__step_maker_new(arena, template);
    mth__steps steps = {0};
    for (int round = 0; round < template->rounds; round++) mth__round_steps(arena, maker, rank, round, &steps);
    *out = steps.at;
    return (int)steps.n;
}

/* Of one line on one rank that takes part in all its rounds. */
static int64_t line_size(const compiled_line *compiled, mth__formula_variables variables, int rounds) {
    if (!compiled->line->each) return rounds;
    int64_t steps = 0;
    for (int k = 1; k <= rounds; k++) {
        variables.letter['k' - 'a'] = k;
        if (compiled->line->let) variables.letter['d' - 'a'] = mth__formula_value(&compiled->let, &variables);
        steps += mth__formula_value(&compiled->each, &variables);
    }
    return steps;
}

int64_t mth__template_size(const mth__template *template) {
    mth__step_maker maker;
    read_rules(&maker, template);
    int64_t steps = 0;
    for (int i = 0, rounds = 0; i < maker.lines; i++) {
        if (maker.line[i].line->rounds) rounds = maker.rounds[i];
        steps += line_size(&maker.line[i], maker.variables, rounds);
    }
    return steps * template->n;
}

void mth__template_trace(
    mth__arena *arena, const mth__template *template, mth__step *const *steps, const int *count, mth__box_name **out) {
    size_t n = (size_t)template->n, chunks = (size_t)template->chunks;
    mth__box_name *held = NEW_ARRAY(arena, mth__box_name, n * chunks),
                  *next = NEW_ARRAY(arena, mth__box_name, n * chunks);
    int *at = NEW_ARRAY(arena, int, n);
    for (size_t rank = 0; rank < n; rank++) {
        out[rank] = NEW_ARRAY(arena, mth__box_name, count[rank]);
        for (size_t chunk = 0; chunk < chunks; chunk++)
            held[rank * chunks + chunk] = (mth__box_name){(int16_t)rank, (int16_t)chunk};
    }
    for (int round = 0; round < template->rounds; round++) {
        for (size_t i = 0; i < n * chunks; i++) next[i] = held[i];
        for (size_t rank = 0; rank < n; rank++)
            for (; at[rank] < count[rank] && steps[rank][at[rank]].round == round; at[rank]++) {
                mth__step step = steps[rank][at[rank]];
                out[rank][at[rank]] = next[rank * chunks + (size_t)step.to_chunk] =
                    held[(size_t)step.peer * chunks + (size_t)step.from_chunk];
            }
        mth__box_name *swap = held;
        held = next;
        next = swap;
    }
}

mth__known_template *mth__template_known(mth__templates *all, mth__channel_kind kind, mth__algorithm algorithm, int n) {
    for (mth__known_template *known = all->first; known; known = known->next)
        if (known->template.kind == kind && known->template.algorithm == algorithm && known->template.n == n)
            return known;
    mth__known_template *known = NEW(all->arena, mth__known_template);
    known->template = mth__template_get(kind, algorithm, n);
    known->step = NEW_ARRAY(all->arena, mth__step *, n);
    known->count = NEW_ARRAY(all->arena, int, n);
    known->next = all->first;
    all->first = known;
    return known;
}

void mth__template_know_rank(mth__templates *all, mth__known_template *known, int rank) {
    if (!known->step[rank])
        known->count[rank] = mth__template_steps(all->arena, &known->template, rank, &known->step[rank]);
}

void mth__template_know_all(mth__templates *all, mth__known_template *known) {
    for (int rank = 0; rank < known->template.n; rank++) mth__template_know_rank(all, known, rank);
    if (known->template.kind != MTH__ALL_TO_ALL || known->box) return;
    known->box = NEW_ARRAY(all->arena, mth__box_name *, known->template.n);
    mth__template_trace(all->arena, &known->template, known->step, known->count, known->box);
}

int64_t mth__template_scratch(const mth__template *template, int64_t operand_bytes, int64_t largest_box_bytes) {
    if (template->n == 1 || template->algorithm == MTH__DIRECT) return 0;
    if (template->kind == MTH__REDUCE_SCATTER) return operand_bytes;
    return template->kind == MTH__ALL_TO_ALL ? mth__size_product(2 * (int64_t)template->n, largest_box_bytes) : 0;
}

void mth__chunk_range(int64_t elements, int chunks, int chunk, int64_t *start, int64_t *size) {
    int64_t each = elements / chunks + (elements % chunks != 0);
    *start =
        each && chunk > elements / each ? elements : each * chunk; /* no overflow: each * chunk <= elements + each */
    *size = elements - *start < each ? elements - *start : each;
}
