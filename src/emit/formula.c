#include "emit/formula.h"
#include <assert.h>
#include <ctype.h>
#include <stdbool.h>
#include <string.h>

typedef struct {
    mth__formula *to;
    const char *at;
} formula_parser;

static void emit(formula_parser *p, char op, int value) {
    assert(p->to->n < (int)(sizeof p->to->code / sizeof *p->to->code));
    p->to->code[p->to->n].op = op;
    p->to->code[p->to->n++].value = value;
}
static bool accept(formula_parser *p, const char *word) {
    while (*p->at == ' ') p->at++;
    size_t n = strlen(word);
    if (strncmp(p->at, word, n) || (isalpha((unsigned char)word[0]) && isalpha((unsigned char)p->at[n]))) return false;
    p->at += n;
    return true;
}

static void either(formula_parser *p);
static void atom(formula_parser *p) {
    if (accept(p, "(")) {
        either(p);
        bool closed = accept(p, ")");
        assert(closed);
        (void)closed;
    } else if (isdigit((unsigned char)*p->at)) {
        int value = 0;
        while (isdigit((unsigned char)*p->at)) value = value * 10 + *p->at++ - '0';
        emit(p, 'c', value);
    } else {
        assert(islower((unsigned char)*p->at));
        emit(p, 'v', *p->at++ - 'a');
    }
}
static void power(formula_parser *p) {
    atom(p);
    if (accept(p, "^")) {
        atom(p);
        emit(p, '^', 0);
    }
}
static void term(formula_parser *p) {
    power(p);
    for (;;) {
        char op = accept(p, "*") ? '*' : accept(p, "div") ? '/' : accept(p, "mod") ? '%' : 0;
        if (!op) return;
        power(p);
        emit(p, op, 0);
    }
}
static void sum(formula_parser *p) {
    term(p);
    for (;;) {
        char op = accept(p, "+") ? '+' : accept(p, "-") ? '-' : 0;
        if (!op) return;
        term(p);
        emit(p, op, 0);
    }
}
static void comparison(formula_parser *p) {
    sum(p);
    char op = accept(p, "!=") ? '!'
        : accept(p, "<=")     ? 'l'
        : accept(p, ">=")     ? 'g'
        : accept(p, "=")      ? '='
        : accept(p, "<")      ? '<'
        : accept(p, ">")      ? '>'
                              : 0;
    if (op) {
        sum(p);
        emit(p, op, 0);
    }
}
static void both(formula_parser *p) {
    comparison(p);
    while (accept(p, "and")) {
        comparison(p);
        emit(p, '&', 0);
    }
}
static void either(formula_parser *p) {
    both(p);
    while (accept(p, "or")) {
        both(p);
        emit(p, '|', 0);
    }
}

void mth__formula_compile(mth__formula *f, const char *text) {
    formula_parser p = {f, text};
    f->n = 0;
    either(&p);
    assert(!*p.at);
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
        int v = 1;
        while (b-- > 0) v *= a;
        return v;
    }
    }
}
int mth__formula_value(const mth__formula *f, const mth__formula_variables *v) {
    int stack[16], top = 0;
    for (int i = 0; i < f->n; i++) {
        char op = f->code[i].op;
        if (op == 'c')
            stack[top++] = f->code[i].value;
        else if (op == 'v')
            stack[top++] = v->letter[f->code[i].value];
        else {
            top--;
            stack[top - 1] = apply(op, stack[top - 1], stack[top]);
        }
    }
    return stack[0];
}
