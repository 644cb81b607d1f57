#include "emit/collective_rules.h"

static void print_line(mth__text *text, const mth__rule_line *line, const char *rounds) {
    mth__text_add(text, "  ");
    if (rounds[0] == '1' && !rounds[1])
        mth__text_add(text, "round");
    else
        mth__text_add(text, "rounds k = 1..%s", rounds);
    if (line->let) mth__text_add(text, ", d = %s", line->let);
    if (line->when) mth__text_add(text, ", if %s", line->when);
    mth__text_add(text, ": %s chunk %s of rank %s", line->reduce ? "reduce" : "copy", line->from, line->peer);
    if (line->to) mth__text_add(text, " to chunk %s", line->to);
    if (line->each) mth__text_add(text, ", each j < %s", line->each);
    if (line->where) mth__text_add(text, " where %s", line->where);
    mth__text_add(text, "\n");
}

void mth__template_print(mth__text *text, const mth__template *template) {
    mth__formula_variables variables = mth__template_variables(template);
    const mth__rule_set *set = mth__template_rules(template);
    const int a = variables.letter[0], b = variables.letter[1], levels = variables.letter['l' - 'a'];
    mth__text_add(text, "%s %s, n = %d: %d round%s on %d chunk%s%s", mth__channel_names[template->kind],
        mth__algorithm_names[template->algorithm], template->n, template->rounds, template->rounds == 1 ? "" : "s",
        template->chunks, template->chunks == 1 ? "" : "s", template->double_buffer ? ", double-buffered" : "");
    if (template->algorithm == MTH__TREE) mth__text_add(text, ", l = ceil(log2 n) = %d", levels);
    if (template->algorithm == MTH__HIERARCHICAL && a > 1)
        mth__text_add(text, ", n = a * b = %d * %d, g = r div b, x = r mod b", a, b);
    mth__text_add(text, "\n");
    const char *rounds = "";
    for (size_t i = 0; i < sizeof set->line / sizeof *set->line && set->line[i].peer; i++) {
        if (set->line[i].rounds) rounds = set->line[i].rounds;
        print_line(text, &set->line[i], rounds);
    }
}
