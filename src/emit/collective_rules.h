/* The rules that templates are made and printed from: rounds k = 1..`rounds`; in each, a rank r for which `when` holds
 * pulls, for each j = 0..`each` - 1 for which `where` holds, chunk `from` of rank `peer` into its chunk `to`. */
#ifndef MTH__COLLECTIVE_RULES_H
#define MTH__COLLECTIVE_RULES_H
#include "emit/collective.h"
#include "emit/formula.h"

typedef struct {
    const char *rounds; /* NULL: in the rounds of the rule above */
    const char *let;    /* the formula of d; NULL: d is not used */
    const char *when;   /* NULL: every rank */
    const char *each;   /* NULL: once, j = 0 */
    const char *where;  /* NULL: every j */
    const char *peer, *from;
    const char *to; /* NULL: `from` */
    bool reduce;
} mth__rule_line;
/* ends with a line without peer */
typedef struct {
    const char *chunks;
    bool double_buffer;
    mth__rule_line line[4];
} mth__rule_set;
const mth__rule_set *mth__template_rules(const mth__template *);
/* n; l = ceil(log2 n); n = a * b, a <= b, most square */
mth__formula_variables mth__template_variables(const mth__template *);
#endif
