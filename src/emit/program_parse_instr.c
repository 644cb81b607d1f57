/* The instructions of a role, as program_text.c prints them. */
#include "emit/program_parse.h"
#include <string.h>

static bool value_follows(mth__plan_parser *parser) { /* a name and a colon */
    mth__read_skip(&parser->in);
    const char *at = parser->in.at;
    if (*at == '"') {
        for (at++; *at && *at != '"' && *at != '\n';) at += *at == '\\' && at[1] && at[1] != '\n' ? 2 : 1;
        return *at == '"' && at[1] == ':';
    }
    while (mth__is_word(*at)) at++;
    return at > parser->in.at && *at == ':';
}

static bool key_follows(mth__plan_parser *parser) { /* a word and = */
    mth__read_skip(&parser->in);
    const char *at = parser->in.at;
    while (mth__is_word(*at)) at++;
    return at > parser->in.at && *at == '=';
}

static mth_status attribute(mth__plan_parser *parser, const mth__op *op, mth__attrs *attrs) {
    const mth__attribute *attribute;
    for (int k = 0; (attribute = mth__op_attribute(op, k)); k++) {
        size_t length = strlen(attribute->name);
        if (strncmp(parser->in.at, attribute->name, length) || parser->in.at[length] != '=') continue;
        parser->in.at += length + 1;
        switch (attribute->kind) {
        case MTH__ATTRIBUTE_INTEGER:
            return mth__read_integer(&parser->in, INT64_MIN, INT64_MAX, mth__attribute_integer(attrs, attribute));
        case MTH__ATTRIBUTE_TEXT: return mth__read_quoted(&parser->in, mth__attribute_text(attrs, attribute));
        case MTH__ATTRIBUTE_REAL: break;
        }
        const char *end;
        *mth__attribute_real(attrs, attribute) = mth__read_real(parser->in.at, &end);
        if (end == parser->in.at) return mth__read_fail(&parser->in, F("a number is missing"));
        parser->in.at = end;
        return NULL;
    }
    return mth__read_fail(&parser->in, F("%s has no such attribute", op->name));
}

/* "offload" and "reload": the word says where the result lies. */
static mth_status copy_word(mth__plan_parser *parser, mth__instr *instruction, const int *out, bool *found) {
    for (int space = 0; space < MTH__SPACES; space++) {
        if (!mth__read_word(&parser->in, mth__copy_words[space])) continue;
        *found = true;
        instruction->kind = MTH__COPY;
        if (instruction->nout == 1 && (int)parser->role->value.at[out[0]].space == space) return NULL;
        return mth__read_fail(&parser->in,
            F("%s needs one result, which lies in %s", mth__copy_words[space],
                space == MTH__HOST ? "the host's pool" : "the device's memory"));
    }
    *found = false;
    return NULL;
}

static mth_status collective_word(mth__plan_parser *parser, mth__instr *instruction, bool *found) {
    int kind = 0, algorithm;
    while (kind < MTH__CHANNEL_KINDS && !mth__read_word(&parser->in, mth__channel_names[kind])) kind++;
    *found = kind < MTH__CHANNEL_KINDS;
    if (!*found) return NULL;
    instruction->kind = MTH__COLLECTIVE;
    TRY(mth__read_one_of(&parser->in, mth__algorithm_names, MTH__ALGORITHMS, "algorithm", &algorithm));
    TRY(mth__read_reference(&parser->in, 'c', parser->program->channel.n, &instruction->channel));
    const mth__channel *channel = &parser->program->channel.at[instruction->channel];
    if ((int)channel->kind == kind && (int)channel->algorithm == algorithm) return NULL;
    return mth__read_fail(&parser->in, F("channel c%d is %s", instruction->channel, channel->label));
}

static mth_status operator_word(mth__plan_parser *parser, mth__instr *instruction, const int *out) {
    bool started = mth__read_word(&parser->in, "start"), found;
    int stream = -1;
    if (started && mth__read_word(&parser->in, "on")) TRY(mth__read_small(&parser->in, 1, MTH__STREAMS - 1, &stream));
    if (!started && mth__read_word(&parser->in, "wait")) {
        instruction->kind = MTH__WAIT;
        if (mth__read_word(&parser->in, "for")) return mth__parse_value_named(parser, &instruction->awaited);
        return mth__read_reference(&parser->in, 'c', parser->program->channel.n, &instruction->channel);
    }
    TRY(copy_word(parser, instruction, out, &found));
    if (!found && mth__read_word(&parser->in, "send")) {
        found = true;
        instruction->kind = MTH__SEND;
    } else if (!found && mth__read_word(&parser->in, "recv")) {
        found = true;
        instruction->kind = MTH__RECV;
    }
    if (instruction->kind == MTH__SEND || instruction->kind == MTH__RECV)
        TRY(mth__read_reference(&parser->in, 'c', parser->program->channel.n, &instruction->channel));
    if (!found) TRY(collective_word(parser, instruction, &found));
    if (!found) {
        const char *word;
        TRY(mth__read_name(&parser->in, &word));
        instruction->op = mth__op_find(word);
        if (!instruction->op) return mth__read_fail(&parser->in, F("there is no operator %s", word));
    }
    if (started && stream < 0) stream = mth__usual_stream(instruction->kind);
    if (started && stream < 1)
        return mth__read_fail(&parser->in, F("%s is started on no stream", instruction->op->name));
    instruction->stream = started ? (uint8_t)stream : 0;
    return NULL;
}

static bool operand_follows(mth__plan_parser *parser) {
    if (mth__read_ends(&parser->in) || *parser->in.at == '@' || key_follows(parser)) return false;
    if (*parser->in.at == '"') return true;
    size_t n = 0;
    while (mth__is_word(parser->in.at[n])) n++;
    return mth__plain_name(parser->in.at, n);
}

static mth_status operands(mth__plan_parser *parser, mth__instr *instruction, int *in) {
    do {
        if (instruction->nin == MTH__MAX_IN)
            return mth__read_fail(&parser->in, F("more than %d operands", MTH__MAX_IN));
        TRY(mth__parse_value_named(parser, &in[instruction->nin++]));
    } while (mth__read_symbol(&parser->in, ','));
    return NULL;
}

static mth_status number_behind(mth__plan_parser *parser, const char *word, int32_t *number) {
    int small;
    *number = -1;
    if (!mth__read_word(&parser->in, word)) return NULL;
    TRY(mth__read_small(&parser->in, 0, INT32_MAX, &small));
    *number = small;
    return NULL;
}

static mth_status label(mth__plan_parser *parser, mth__label *out) {
    mth__label read = {.phase = MTH__FORWARD};
    if (mth__read_symbol(&parser->in, '@')) TRY(mth__read_name(&parser->in, &read.module));
    TRY(number_behind(parser, "region", &read.region));
    TRY(number_behind(parser, "stage", &read.stage));
    if (read.region < 0 && read.stage >= 0) read.region = 0; /* the only one of most models, and not printed */
    TRY(number_behind(parser, "microbatch", &read.microbatch));
    for (int phase = MTH__FORWARD + 1; phase < MTH__PHASE_KINDS; phase++)
        if (mth__read_word(&parser->in, mth__phase_words[phase])) {
            read.phase = (mth__phase)phase;
            break;
        }
    if (mth__read_word(&parser->in, "from")) TRY(mth__read_quoted(&parser->in, &read.source));
    *out = read;
    return NULL;
}

mth_status mth__parse_instruction(mth__plan_parser *parser) {
    mth__instr instruction = {.scratch = -1, .channel = -1, .awaited = -1};
    int in[MTH__MAX_IN], out[MTH__MAX_OUT];
    TRY(mth__parse_number(parser, "instruction", parser->role->instr.n));
    if (value_follows(parser)) {
        do {
            if (instruction.nout == MTH__MAX_OUT)
                return mth__read_fail(&parser->in, F("more than %d results", MTH__MAX_OUT));
            TRY(mth__parse_value(parser, true, &out[instruction.nout++]));
        } while (mth__read_symbol(&parser->in, ','));
        TRY(mth__read_need(&parser->in, "="));
    }
    TRY(operator_word(parser, &instruction, out));
    if (operand_follows(parser)) TRY(operands(parser, &instruction, in));
    if (instruction.kind == MTH__COMPUTE && instruction.nin && mth__read_word(&parser->in, "into")) {
        const int own = instruction.nin;
        instruction.accumulates = true;
        TRY(operands(parser, &instruction, in));
        const int sums = __builtin_popcount(instruction.op->accumulates);
        if (!sums) return mth__read_fail(&parser->in, F("%s adds to no sum", instruction.op->name));
        if (instruction.nin - own != sums)
            return mth__read_fail(&parser->in,
                F("%s adds to %d sum%s, not to %d", instruction.op->name, sums, sums == 1 ? "" : "s",
                    instruction.nin - own));
    }
    if (instruction.kind == MTH__COMPUTE) {
        mth__attrs *attrs = NEW(parser->in.arena, mth__attrs);
        while (key_follows(parser)) TRY(attribute(parser, instruction.op, attrs));
        instruction.attrs = attrs;
    }
    if (mth__read_word(&parser->in, "work")) TRY(mth__parse_value(parser, true, &instruction.scratch));
    TRY(label(parser, &instruction.label));
    instruction.in = NEW_ARRAY(parser->in.arena, int, instruction.nin + instruction.nout);
    instruction.out = instruction.in + instruction.nin;
    memcpy(instruction.in, in, (size_t)instruction.nin * sizeof *in);
    memcpy(instruction.out, out, (size_t)instruction.nout * sizeof *out);
    PUSH(parser->in.arena, parser->role->instr, instruction);
    return NULL;
}
