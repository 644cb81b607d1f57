#include "emit/formula.h"
#include <assert.h>
#include <ctype.h>
#include <stdbool.h>
#include <string.h>

typedef struct {
    mth__formula *to;
    const char *at;
} formula_parser;

static void emit(formula_parser *parser, char op, int number) {
    assert(parser->to->n < (int)(sizeof parser->to->code / sizeof *parser->to->code));
    parser->to->code[parser->to->n].op = op;
    parser->to->code[parser->to->n++].value = number;
}
static bool accept(formula_parser *parser, const char *word) {
    while (*parser->at == ' ') parser->at++;
    if (*parser->at != *word) return false; /* most words are told apart by that */
    size_t n = strlen(word);
    if (strncmp(parser->at, word, n) || (isalpha((unsigned char)word[0]) && isalpha((unsigned char)parser->at[n])))
        return false;
    parser->at += n;
    return true;
}

static void either(formula_parser *parser);
static void atom(formula_parser *parser) {
    if (accept(parser, "(")) {
        either(parser);
        bool closed = accept(parser, ")");
        assert(closed);
        (void)closed;
    } else if (isdigit((unsigned char)*parser->at)) {
        int number = 0;
        while (isdigit((unsigned char)*parser->at)) number = number * 10 + *parser->at++ - '0';
        emit(parser, 'c', number);
    } else {
        assert(islower((unsigned char)*parser->at));
        emit(parser, 'v', *parser->at++ - 'a');
    }
}
static void power(formula_parser *parser) {
    atom(parser);
    if (accept(parser, "^")) {
        atom(parser);
        emit(parser, '^', 0);
    }
}
static void term(formula_parser *parser) {
    power(parser);
    for (;;) {
        char op = accept(parser, "*") ? '*' : accept(parser, "div") ? '/' : accept(parser, "mod") ? '%' : 0;
        if (!op) return;
        power(parser);
        emit(parser, op, 0);
    }
}
static void sum(formula_parser *parser) {
    term(parser);
    for (;;) {
        char op = accept(parser, "+") ? '+' : accept(parser, "-") ? '-' : 0;
        if (!op) return;
        term(parser);
        emit(parser, op, 0);
    }
}
static void comparison(formula_parser *parser) {
    sum(parser);
    char op = accept(parser, "!=") ? '!'
        : accept(parser, "<=")     ? 'l'
        : accept(parser, ">=")     ? 'g'
        : accept(parser, "=")      ? '='
        : accept(parser, "<")      ? '<'
        : accept(parser, ">")      ? '>'
                                   : 0;
    if (op) {
        sum(parser);
        emit(parser, op, 0);
    }
}
static void both(formula_parser *parser) {
    comparison(parser);
    while (accept(parser, "and")) {
        comparison(parser);
        emit(parser, '&', 0);
    }
}
static void either(formula_parser *parser) {
    both(parser);
    while (accept(parser, "or")) {
        both(parser);
        emit(parser, '|', 0);
    }
}

void mth__formula_compile(mth__formula *formula, const char *text) {
    formula_parser parser = {formula, text};
    formula->n = 0;
    either(&parser);
    assert(!*parser.at);
}

/* b > 0 */
static int floor_mod(int a, int b) {
    if (a >= 0 && a < b) return a; /* most are within, and a division takes as long as all the rest */
    const int rest = a % b;
    return rest < 0 ? rest + b : rest;
}
static int power_of(int a, int b) {
    int power = 1;
    while (b-- > 0) power *= a;
    return power;
}

/* `same`: b has one value for all. */
#define EACH(expression)                                                                                               \
    if (same)                                                                                                          \
        for (int *end = a + n, y = *b; a < end; a++) {                                                                 \
            const int x = *a;                                                                                          \
            *a = (expression);                                                                                         \
        }                                                                                                              \
    else                                                                                                               \
        for (int *end = a + n; a < end; a++, b++) {                                                                    \
            const int x = *a, y = *b;                                                                                  \
            *a = (expression);                                                                                         \
        }                                                                                                              \
    return
static void apply(char op, int *restrict a, const int *restrict b, bool same, int n) {
    switch (op) {
    case '+': EACH(x + y);
    case '-': EACH(x - y);
    case '*': EACH(x * y);
    case '/': EACH((x - floor_mod(x, y)) / y);
    case '%': EACH(floor_mod(x, y));
    case '=': EACH(x == y);
    case '!': EACH(x != y);
    case '<': EACH(x < y);
    case '>': EACH(x > y);
    case 'l': EACH(x <= y);
    case 'g': EACH(x >= y);
    case '&': EACH(x && y);
    case '|': EACH(x || y);
    default: EACH(power_of(x, y)); /* ^ */
    }
}
#undef EACH

static void fill_values(int *value, int n, int start, int step) {
    for (int *end = value + n; value < end; value++, start += step) *value = start;
}

void mth__formula_values(
    const mth__formula *formula, const mth__formula_variables *variables, char letter, int first, int n, int *value) {
    enum { DEPTH = 16 };
    int stack[DEPTH][MTH__FORMULA_LANES], top = 0;
    bool each[DEPTH]; /* not one value for all, which stands in front */
    assert(n <= MTH__FORMULA_LANES);
    for (int i = 0; i < formula->n; i++) {
        const char op = formula->code[i].op;
        const int operand = formula->code[i].value;
        if (op == 'c' || op == 'v') {
            each[top] = op == 'v' && operand == letter - 'a';
            if (each[top])
                fill_values(stack[top], n, first, 1);
            else
                stack[top][0] = op == 'c' ? operand : variables->letter[operand];
            top++;
        } else {
            int *const a = stack[top - 2], *const b = stack[top - 1];
            if (each[top - 1] && !each[top - 2]) fill_values(a, n, *a, 0);
            each[top - 2] |= each[top - 1];
            apply(op, a, b, !each[top - 1], each[top - 2] ? n : 1);
            top--;
        }
    }
    if (each[0])
        memcpy(value, stack[0], (size_t)n * sizeof *value);
    else
        fill_values(value, n, stack[0][0], 0);
}
int mth__formula_value(const mth__formula *formula, const mth__formula_variables *variables) {
    int number;
    mth__formula_values(formula, variables, 0, 0, 1, &number);
    return number;
}
