/* The instructions of a role, as program_text.c prints them. */
#include "emit/program_parse.h"
#include <string.h>

static bool value_follows(mth__plan_parser *x) { /* a name and a colon */
    mth__read_skip(&x->in);
    const char *s = x->in.at;
    if (*s == '"') {
        for (s++; *s && *s != '"' && *s != '\n';) s += *s == '\\' && s[1] && s[1] != '\n' ? 2 : 1;
        return *s == '"' && s[1] == ':';
    }
    while (mth__is_word(*s)) s++;
    return s > x->in.at && *s == ':';
}

static bool key_follows(mth__plan_parser *x) { /* a word and = */
    mth__read_skip(&x->in);
    const char *s = x->in.at;
    while (mth__is_word(*s)) s++;
    return s > x->in.at && *s == '=';
}

static mth_status attribute(mth__plan_parser *x, const mth__op *op, mth__attrs *attrs) {
    const mth__attribute *attribute;
    for (int k = 0; (attribute = mth__op_attribute(op, k)); k++) {
        size_t length = strlen(attribute->name);
        if (strncmp(x->in.at, attribute->name, length) || x->in.at[length] != '=') continue;
        x->in.at += length + 1;
        switch (attribute->kind) {
        case MTH__ATTRIBUTE_INTEGER:
            return mth__read_integer(&x->in, INT64_MIN, INT64_MAX, mth__attribute_integer(attrs, attribute));
        case MTH__ATTRIBUTE_TEXT: return mth__read_quoted(&x->in, mth__attribute_text(attrs, attribute));
        case MTH__ATTRIBUTE_REAL: break;
        }
        const char *end;
        *mth__attribute_real(attrs, attribute) = mth__read_real(x->in.at, &end);
        if (end == x->in.at) return mth__read_fail(&x->in, F("a number is missing"));
        x->in.at = end;
        return NULL;
    }
    return mth__read_fail(&x->in, F("%s has no such attribute", op->name));
}

/* "offload" and "reload": the word says where the result lies. */
static mth_status copy_word(mth__plan_parser *x, mth__instr *k, const int *out, bool *found) {
    for (int space = 0; space < MTH__SPACES; space++) {
        if (!mth__read_word(&x->in, mth__copy_words[space])) continue;
        *found = true;
        k->kind = MTH__COPY;
        if (k->nout == 1 && (int)x->role->value.at[out[0]].space == space) return NULL;
        return mth__read_fail(&x->in,
            F("%s needs one result, which lies in %s", mth__copy_words[space],
                space == MTH__HOST ? "the host's pool" : "the device's memory"));
    }
    *found = false;
    return NULL;
}

static mth_status collective_word(mth__plan_parser *x, mth__instr *k, bool *found) {
    int kind = 0, algorithm;
    while (kind < MTH__CHANNEL_KINDS && !mth__read_word(&x->in, mth__channel_names[kind])) kind++;
    *found = kind < MTH__CHANNEL_KINDS;
    if (!*found) return NULL;
    k->kind = MTH__COLLECTIVE;
    TRY(mth__read_one_of(&x->in, mth__algorithm_names, MTH__ALGORITHMS, "algorithm", &algorithm));
    TRY(mth__read_reference(&x->in, 'c', x->p->channel.n, &k->channel));
    const mth__channel *c = &x->p->channel.at[k->channel];
    if ((int)c->kind == kind && (int)c->algorithm == algorithm) return NULL;
    return mth__read_fail(&x->in, F("channel c%d is %s", k->channel, c->label));
}

static mth_status operator_word(mth__plan_parser *x, mth__instr *k, const int *out) {
    bool started = mth__read_word(&x->in, "start"), found;
    int stream = -1;
    if (started && mth__read_word(&x->in, "on")) TRY(mth__read_small(&x->in, 1, MTH__STREAMS - 1, &stream));
    if (!started && mth__read_word(&x->in, "wait")) {
        k->kind = MTH__WAIT;
        if (mth__read_word(&x->in, "for")) return mth__parse_value_named(x, &k->awaited);
        return mth__read_reference(&x->in, 'c', x->p->channel.n, &k->channel);
    }
    TRY(copy_word(x, k, out, &found));
    if (!found && mth__read_word(&x->in, "send")) {
        found = true;
        k->kind = MTH__SEND;
    } else if (!found && mth__read_word(&x->in, "recv")) {
        found = true;
        k->kind = MTH__RECV;
    }
    if (k->kind == MTH__SEND || k->kind == MTH__RECV)
        TRY(mth__read_reference(&x->in, 'c', x->p->channel.n, &k->channel));
    if (!found) TRY(collective_word(x, k, &found));
    if (!found) {
        const char *s;
        TRY(mth__read_name(&x->in, &s));
        k->op = mth__op_find(s);
        if (!k->op) return mth__read_fail(&x->in, F("there is no operator %s", s));
    }
    if (started && stream < 0) stream = mth__usual_stream(k->kind);
    if (started && stream < 1) return mth__read_fail(&x->in, F("%s is started on no stream", k->op->name));
    k->stream = started ? (uint8_t)stream : 0;
    return NULL;
}

static bool operand_follows(mth__plan_parser *x) {
    if (mth__read_ends(&x->in) || *x->in.at == '@' || key_follows(x)) return false;
    if (*x->in.at == '"') return true;
    size_t n = 0;
    while (mth__is_word(x->in.at[n])) n++;
    return mth__plain_name(x->in.at, n);
}

static mth_status operands(mth__plan_parser *x, mth__instr *k, int *in) {
    do {
        if (k->nin == MTH__MAX_IN) return mth__read_fail(&x->in, F("more than %d operands", MTH__MAX_IN));
        TRY(mth__parse_value_named(x, &in[k->nin++]));
    } while (mth__read_symbol(&x->in, ','));
    return NULL;
}

static mth_status number_behind(mth__plan_parser *x, const char *word, int32_t *number) {
    int small;
    *number = -1;
    if (!mth__read_word(&x->in, word)) return NULL;
    TRY(mth__read_small(&x->in, 0, INT32_MAX, &small));
    *number = small;
    return NULL;
}

static mth_status label(mth__plan_parser *x, mth__label *out) {
    mth__label read = {.phase = MTH__FORWARD};
    if (mth__read_symbol(&x->in, '@')) TRY(mth__read_name(&x->in, &read.module));
    TRY(number_behind(x, "region", &read.region));
    TRY(number_behind(x, "stage", &read.stage));
    if (read.region < 0 && read.stage >= 0) read.region = 0; /* the only one of most models, and not printed */
    TRY(number_behind(x, "microbatch", &read.microbatch));
    for (int phase = MTH__FORWARD + 1; phase < MTH__PHASE_KINDS; phase++)
        if (mth__read_word(&x->in, mth__phase_words[phase])) {
            read.phase = (mth__phase)phase;
            break;
        }
    if (mth__read_word(&x->in, "from")) TRY(mth__read_quoted(&x->in, &read.source));
    *out = read;
    return NULL;
}

mth_status mth__parse_instruction(mth__plan_parser *x) {
    mth__instr k = {.scratch = -1, .channel = -1, .awaited = -1};
    int in[MTH__MAX_IN], out[MTH__MAX_OUT];
    TRY(mth__parse_number(x, "instruction", x->role->instr.n));
    if (value_follows(x)) {
        do {
            if (k.nout == MTH__MAX_OUT) return mth__read_fail(&x->in, F("more than %d results", MTH__MAX_OUT));
            TRY(mth__parse_value(x, true, &out[k.nout++]));
        } while (mth__read_symbol(&x->in, ','));
        TRY(mth__read_need(&x->in, "="));
    }
    TRY(operator_word(x, &k, out));
    if (operand_follows(x)) TRY(operands(x, &k, in));
    if (k.kind == MTH__COMPUTE && k.nin && mth__read_word(&x->in, "into")) {
        const int own = k.nin;
        k.accumulates = true;
        TRY(operands(x, &k, in));
        const int sums = __builtin_popcount(k.op->accumulates);
        if (!sums) return mth__read_fail(&x->in, F("%s adds to no sum", k.op->name));
        if (k.nin - own != sums)
            return mth__read_fail(
                &x->in, F("%s adds to %d sum%s, not to %d", k.op->name, sums, sums == 1 ? "" : "s", k.nin - own));
    }
    if (k.kind == MTH__COMPUTE) {
        mth__attrs *a = NEW(x->in.arena, mth__attrs);
        while (key_follows(x)) TRY(attribute(x, k.op, a));
        k.attrs = a;
    }
    if (mth__read_word(&x->in, "work")) TRY(mth__parse_value(x, true, &k.scratch));
    TRY(label(x, &k.label));
    k.in = NEW_ARRAY(x->in.arena, int, k.nin + k.nout);
    k.out = k.in + k.nin;
    memcpy(k.in, in, (size_t)k.nin * sizeof *in);
    memcpy(k.out, out, (size_t)k.nout * sizeof *out);
    PUSH(x->in.arena, x->role->instr, k);
    return NULL;
}
