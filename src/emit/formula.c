#include "emit/formula.h"
#include <assert.h>
#include <ctype.h>
#include <stdbool.h>
#include <string.h>

typedef struct {
    mth__formula *to;
    const char *at;
} formula_parser;

static void emit(formula_parser *parser, char op, int value) {
    assert(parser->to->n < (int)(sizeof parser->to->code / sizeof *parser->to->code));
    parser->to->code[parser->to->n].op = op;
    parser->to->code[parser->to->n++].value = value;
}
static bool accept(formula_parser *parser, const char *word) {
    while (*parser->at == ' ') parser->at++;
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
        int value = 0;
        while (isdigit((unsigned char)*parser->at)) value = value * 10 + *parser->at++ - '0';
        emit(parser, 'c', value);
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

static int floor_mod(int a, int b) { return (a % b + b) % b; }
static int apply(char op, int a, int b) {
    switch (op) {
    case '+': return a + b;
    case '-': return a - b;
    case '*': return a * b;
    case '/': return (a - floor_mod(a, b)) / b;
    case '%': return floor_mod(a, b);
    case '=': return a == b;
    case '!': return a != b;
    case '<': return a < b;
    case '>': return a > b;
    case 'l': return a <= b;
    case 'g': return a >= b;
    case '&': return a && b;
    case '|': return a || b;
    default: { /* ^ */
        int power = 1;
        while (b-- > 0) power *= a;
        return power;
    }
    }
}
int mth__formula_value(const mth__formula *formula, const mth__formula_variables *variables) {
    int stack[16], top = 0;
    for (int i = 0; i < formula->n; i++) {
        char op = formula->code[i].op;
        if (op == 'c')
            stack[top++] = formula->code[i].value;
        else if (op == 'v')
            stack[top++] = variables->letter[formula->code[i].value];
        else {
            top--;
            stack[top - 1] = apply(op, stack[top - 1], stack[top]);
        }
    }
    return stack[0];
}
