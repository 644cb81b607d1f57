/* Integer formulas over one-letter variables: "(r - k) mod n", "r mod (2 * d) = 0 and r + d < n". The templates of
 * collectives are written in them, so that what is printed is what runs. Operators, loosest first: or; and; = != < <= >
 * >=; + -; * div mod (of floor); ^. */
#ifndef MTH__FORMULA_H
#define MTH__FORMULA_H

typedef struct {
    int n;
    struct {
        char op;
        int value;
    } code[40];
} mth__formula; /* postfix */
typedef struct {
    int letter[26];
} mth__formula_variables;
/* the text is ours: it is right */
void mth__formula_compile(mth__formula *, const char *text);
int mth__formula_value(const mth__formula *, const mth__formula_variables *);
/* The same where `letter` is first, first + 1, ...: n values at once, at most MTH__FORMULA_LANES. */
enum { MTH__FORMULA_LANES = 64 };
void mth__formula_values(
    const mth__formula *, const mth__formula_variables *, char letter, int first, int n, int *value);
#endif
