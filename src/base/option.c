#include "base/fork.h"
#include "base/option.h"
#include "base/names.h"
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- arguments */
enum {
    NESTED = 16,     /* lists in lists */
    ITEMS = 1 << 20, /* of one option, shared ones as often as they are met */
    TEXT_ITEM = 64   /* bytes of a text among them that count as one more */
};

static mth_status null_in(const char *name, const char *what) {
    return FAIL(MTH_ERROR_TYPE, F("the option '%s' has %s that is NULL", name, what),
        F("give %s, or leave the option out", what));
}

/* `left`: how many items may still come. They are copied: lists that share their items are as large as they are written
 * out. */
static mth_status count_items(size_t n, const char *name, size_t *left) {
    if (n > *left)
        return FAIL(MTH_ERROR_VALUE,
            F("the option '%s' has more than %d items in all, those of lists in lists included", name, ITEMS),
            F("give fewer items; a long text in a list counts once for each %d bytes", TEXT_ITEM));
    *left -= n;
    return NULL;
}

static mth_status check_arg(const mth_arg *value, const char *name, int depth, size_t *left) {
    switch (value->kind) {
    case MTH_ARG_NONE:
    case MTH_ARG_INT:
    case MTH_ARG_FLOAT: return NULL;
    case MTH_ARG_BOOL:
        if (value->integer == 0 || value->integer == 1) return NULL;
        return FAIL(MTH_ERROR_TYPE, F("the option '%s' has a boolean of the value %" PRId64, name, value->integer),
            F("make it by mth_bool"));
    case MTH_ARG_STRING:
        if (!value->string) return null_in(name, "a text");
        return depth ? count_items(strlen(value->string) / TEXT_ITEM, name, left) : NULL;
    case MTH_ARG_MODEL: return value->model ? NULL : null_in(name, "a model");
    case MTH_ARG_LIST:
    case MTH_ARG_DICT: {
        if (depth == NESTED)
            return FAIL(MTH_ERROR_VALUE, F("the option '%s' has lists nested more than %d deep", name, NESTED),
                F("nest them less deep"));
        TRY(count_items(value->count, name, left));
        if (value->count && !value->items) return null_in(name, "a list of items");
        if (value->count && value->kind == MTH_ARG_DICT && !value->keys) return null_in(name, "a list of keys");
        for (size_t i = 0; i < value->count; i++) {
            if (value->kind == MTH_ARG_DICT && !value->keys[i]) return null_in(name, "a key");
            if (value->kind == MTH_ARG_DICT) TRY(count_items(strlen(value->keys[i]) / TEXT_ITEM, name, left));
            TRY(check_arg(&value->items[i], name, depth + 1, left));
        }
        return NULL;
    }
    }
    return FAIL(MTH_ERROR_TYPE,
        F("the option '%s' has a value of the kind %d, which there is not", name, (int)value->kind),
        F("make values by mth_int, mth_string, mth_list and so on"));
}

mth_status mth__arg_check(const mth_arg *value, const char *name) {
    size_t left = ITEMS;
    return check_arg(value, name, 0, &left);
}

mth_arg mth__arg_copy(mth__arena *arena, mth_arg value) {
    if (value.kind == MTH_ARG_STRING) value.string = mth__copy_text(arena, value.string);
    if (value.kind == MTH_ARG_LIST || value.kind == MTH_ARG_DICT) {
        mth_arg *items = NEW_ARRAY(arena, mth_arg, value.count);
        const char **keys = value.kind == MTH_ARG_DICT ? NEW_ARRAY(arena, const char *, value.count) : NULL;
        for (size_t i = 0; i < value.count; i++) {
            items[i] = mth__arg_copy(arena, value.items[i]);
            if (keys) keys[i] = mth__copy_text(arena, value.keys[i]);
        }
        value.items = items;
        value.keys = keys;
    }
    return value;
}

bool mth__arg_equal(mth_arg a, mth_arg b) {
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case MTH_ARG_NONE: return true;
    case MTH_ARG_BOOL:
    case MTH_ARG_INT: return a.integer == b.integer;
    case MTH_ARG_FLOAT: return a.real == b.real;
    case MTH_ARG_STRING: return !strcmp(a.string, b.string);
    case MTH_ARG_MODEL: return a.model == b.model;
    case MTH_ARG_LIST:
    case MTH_ARG_DICT: break;
    }
    if (a.count != b.count) return false;
    for (size_t i = 0; i < a.count; i++)
        if (!mth__arg_equal(a.items[i], b.items[i]) || (a.kind == MTH_ARG_DICT && strcmp(a.keys[i], b.keys[i])))
            return false;
    return true;
}

/* The shortest digits that read back as the same number, with Python's choice between fixed and scientific. */
static void add_float(mth__text *text, double number) {
    char shown[40];
    if (!isfinite(number)) {
        mth__text_add(text, "%s", isnan(number) ? "nan" : number < 0 ? "-inf" : "inf");
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        mth__print(shown, sizeof shown, "%.*e", digits - 1, number);
        const char *end;
        if (mth__read_real(shown, &end) == number) {
            int exponent = atoi(strchr(shown, 'e') + 1);
            if (exponent >= -4 && exponent < 16)
                mth__print(shown, sizeof shown, "%.*f", digits - 1 - exponent > 0 ? digits - 1 - exponent : 1, number);
            break;
        }
    }
    mth__text_add(text, "%s", shown);
}

static void add_arg(mth__text *text, mth_arg value) {
    switch (value.kind) {
    case MTH_ARG_NONE: mth__text_add(text, "None"); break;
    case MTH_ARG_BOOL: mth__text_add(text, value.integer ? "True" : "False"); break;
    case MTH_ARG_INT: mth__text_add(text, "%" PRId64, value.integer); break;
    case MTH_ARG_FLOAT: add_float(text, value.real); break;
    case MTH_ARG_STRING: mth__text_add(text, strchr(value.string, '\'') ? "\"%s\"" : "'%s'", value.string); break;
    case MTH_ARG_MODEL: mth__text_add(text, "<model>"); break;
    case MTH_ARG_LIST:
        mth__text_add(text, "(");
        for (size_t i = 0; i < value.count; i++) {
            if (i) mth__text_add(text, ", ");
            add_arg(text, value.items[i]);
        }
        mth__text_add(text, value.count == 1 ? ",)" : ")");
        break;
    case MTH_ARG_DICT:
        mth__text_add(text, "{");
        for (size_t i = 0; i < value.count; i++) {
            mth__text_add(text, i ? ", '%s': " : "'%s': ", value.keys[i]);
            add_arg(text, value.items[i]);
        }
        mth__text_add(text, "}");
        break;
    }
}

const char *mth__arg_text(mth__arena *arena, mth_arg value) {
    mth__text text = mth__text_new(arena);
    add_arg(&text, value);
    return text.at;
}

/* ---------------------------------------------------------------- tables */
static const char *const type_names[] = {
    [MTH__OPT_BOOL] = "bool",
    [MTH__OPT_INT] = "int",
    [MTH__OPT_SIZE] = "int",
    [MTH__OPT_FLOAT] = "float",
    [MTH__OPT_CHOICE] = "str",
    [MTH__OPT_STRING] = "str",
    [MTH__OPT_SPEC] = "tuple",
    [MTH__OPT_MESH] = "tuple",
    [MTH__OPT_DICT] = "dict",
    [MTH__OPT_LIST] = "list",
    [MTH__OPT_ANY] = "object",
};
static const char *const type_words[] = {
    [MTH__OPT_BOOL] = "True or False",
    [MTH__OPT_INT] = "an integer",
    [MTH__OPT_SIZE] = "an integer of 1 or more",
    [MTH__OPT_FLOAT] = "a number",
    [MTH__OPT_CHOICE] = "a text",
    [MTH__OPT_STRING] = "a text",
    [MTH__OPT_SPEC] = "a tuple with a mesh axis, a tuple of axes or None for each dimension, such as (0, None)",
    [MTH__OPT_MESH] = "a tuple of 1 to 3 sizes, such as (4,) or (2, 2)",
    [MTH__OPT_DICT] = "a dict",
    [MTH__OPT_LIST] = "a list",
    [MTH__OPT_ANY] = "a value",
};

static size_t table_count(const mth__opt *const *tables) {
    size_t n = 0;
    for (; *tables; tables++)
        for (const mth__opt *option = *tables; option->name; option++) n++;
    return n;
}

static const mth__opt *option_at(const mth__opt *const *tables, size_t i) {
    for (;; tables++)
        for (const mth__opt *option = *tables; option->name; option++)
            if (i-- == 0) return option;
}

const mth__opt *mth__options_row(const mth__opt *const *tables, const char *name) {
    for (; *tables; tables++)
        for (const mth__opt *option = *tables; option->name; option++)
            if (!strcmp(option->name, name)) return option;
    return NULL;
}

const mth_arg *mth__options_get(const mth__opt *const *tables, const mth_arg *values, const char *name) {
    for (; *tables; tables++)
        for (const mth__opt *option = *tables; option->name; option++, values++)
            if (*option->name == *name && !strcmp(option->name, name)) return values;
    return NULL;
}

/* "bias: bool = True" */
static void add_option(mth__text *text, const mth__opt *option) {
    bool none = option->standard && !strcmp(option->standard, "None") && option->type != MTH__OPT_ANY;
    mth__text_add(text, "%s: %s%s%s%s", option->name, type_names[option->type], none ? " | None" : "",
        option->standard ? " = " : "", option->standard ? option->standard : "");
}

char *mth__options_signature(mth__arena *arena, const mth__opt *const *tables) {
    mth__text text = mth__text_new(arena);
    mth__text_add(&text, "%s", "");
    for (; *tables; tables++)
        for (const mth__opt *option = *tables; option->name; option++) {
            if (text.n) mth__text_add(&text, ", ");
            add_option(&text, option);
        }
    return text.at;
}

void mth__options_doc(mth__text *text, const mth__opt *const *tables, const char *indent) {
    for (; *tables; tables++)
        for (const mth__opt *option = *tables; option->name; option++) {
            mth__text_add(text, "%s", indent);
            add_option(text, option);
            mth__text_add(text, ": %s", option->doc);
            if (option->choices) mth__text_add(text, " (%s)", option->choices);
            mth__text_add(text, "\n");
        }
}

/* A default, as Python prints it; defaults are ours, so what doesn't parse is a defect. NULL at the end of a list. */
static const char *parse(mth__arena *arena, const char *at, mth_arg *out) {
    while (*at == ' ') at++;
    if (!strncmp(at, "None", 4)) return *out = MTH_NONE, at + 4;
    if (!strncmp(at, "True", 4)) return *out = mth_bool(true), at + 4;
    if (!strncmp(at, "False", 5)) return *out = mth_bool(false), at + 5;
    if (*at == '\'') {
        const char *end = strchr(at + 1, '\'');
        *out = mth_string(mth__format(arena, "%.*s", (int)(end - at - 1), at + 1));
        return end + 1;
    }
    if (*at == '(' || *at == '[' || *at == '{') {
        VEC(mth_arg) items = {0};
        VEC(const char *) keys = {0};
        bool dict = *at == '{';
        for (at++; *at != ')' && *at != ']' && *at != '}';) {
            mth_arg item;
            at = parse(arena, at, &item);
            if (dict) {
                PUSH(arena, keys, item.string);
                at = parse(arena, at + 1, &item);
            }
            PUSH(arena, items, item);
            while (*at == ',' || *at == ' ') at++;
        }
        *out = dict ? mth_dict(items.n, keys.at, items.at) : mth_list(items.n, items.at);
        return at + 1;
    }
    char *after;
    const char *end;
    long long i = strtoll(at, &after, 10);
    double real = mth__read_real(at, &end);
    *out = end > after ? mth_float(real) : mth_int(i);
    return end;
}

/* ---------------------------------------------------------------- one value against its type */
static bool is_spec(const mth_arg *value) {
    if (value->kind != MTH_ARG_LIST) return false;
    for (size_t i = 0; i < value->count; i++) {
        const mth_arg *item = &value->items[i];
        if (item->kind == MTH_ARG_NONE || item->kind == MTH_ARG_INT) continue;
        if (item->kind != MTH_ARG_LIST) return false;
        for (size_t j = 0; j < item->count; j++)
            if (item->items[j].kind != MTH_ARG_INT) return false;
    }
    return true;
}

static bool is_ints(const mth_arg *value) {
    if (value->kind != MTH_ARG_LIST) return false;
    for (size_t i = 0; i < value->count; i++)
        if (value->items[i].kind != MTH_ARG_INT) return false;
    return true;
}

static mth_status check_choice(mth__arena *arena, const mth__opt *option, const char *given) {
    VEC(const char *) names = {0};
    char *words = mth__copy_text(arena, option->choices);
    for (char *save, *word = strtok_r(words, "|", &save); word; word = strtok_r(NULL, "|", &save)) {
        if (!strcmp(word, given)) return NULL;
        PUSH(arena, names, word);
    }
    const char *near = mth__nearest(given, names.at, names.n);
    return FAIL(MTH_ERROR_VALUE, F("%s='%s' is none of %s", option->name, given, option->choices),
        F("%s %s='%s'", near ? "did you mean" : "use for example", option->name, near ? near : names.at[0]));
}

static mth_status check_value(mth__arena *arena, const mth__opt *option, mth_arg *value) {
    bool fits = false;
    switch (option->type) {
    case MTH__OPT_BOOL: fits = value->kind == MTH_ARG_BOOL; break;
    case MTH__OPT_INT:
    case MTH__OPT_SIZE: fits = value->kind == MTH_ARG_INT; break;
    case MTH__OPT_FLOAT:
        if (value->kind == MTH_ARG_INT) *value = mth_float((double)value->integer);
        fits = value->kind == MTH_ARG_FLOAT;
        break;
    case MTH__OPT_CHOICE:
    case MTH__OPT_STRING: fits = value->kind == MTH_ARG_STRING; break;
    case MTH__OPT_SPEC: fits = is_spec(value); break;
    case MTH__OPT_MESH:
        if (value->kind == MTH_ARG_INT) {
            mth_arg *item = NEW(arena, mth_arg);
            *item = *value;
            *value = mth_list(1, item);
        }
        fits = is_ints(value);
        break;
    case MTH__OPT_DICT: fits = value->kind == MTH_ARG_DICT; break;
    case MTH__OPT_LIST: fits = value->kind == MTH_ARG_LIST; break;
    case MTH__OPT_ANY: fits = true; break;
    }
    const char *text = mth__arg_text(arena, *value);
    if (!fits) {
        bool none = option->standard && !strcmp(option->standard, "None");
        return FAIL(MTH_ERROR_TYPE, F("%s=%s is not %s", option->name, text, type_words[option->type]),
            option->standard ? F("give %s=%s%s, or leave it out (default %s)", option->name, type_words[option->type],
                                   none ? " or None" : "", option->standard)
                             : F("give %s=%s", option->name, type_words[option->type]));
    }
    if (option->type == MTH__OPT_CHOICE) return check_choice(arena, option, value->string);
    if (option->type == MTH__OPT_SIZE && value->integer < 1)
        return FAIL(MTH_ERROR_VALUE, F("%s=%s is below 1", option->name, text),
            F("give %s a value of 1 or more", option->name));
    if (option->type == MTH__OPT_FLOAT && !isfinite(value->real))
        return FAIL(
            MTH_ERROR_VALUE, F("%s=%s is not finite", option->name, text), F("give %s a finite number", option->name));
    if (option->type == MTH__OPT_FLOAT && fabs(value->real) > FLT_MAX)
        return FAIL(MTH_ERROR_VALUE, F("%s=%s does not fit in float32: it would become infinite", option->name, text),
            F("give %s a number of at most %.8g in magnitude", option->name, (double)FLT_MAX));
    if (option->type == MTH__OPT_FLOAT && value->real != 0 && fabs(value->real) < FLT_MIN)
        return FAIL(MTH_ERROR_VALUE,
            F("%s=%s is too small for float32, in which engines may take it for 0", option->name, text),
            F("give %s a number of at least %.8g in magnitude", option->name, (double)FLT_MIN));
    if (option->type == MTH__OPT_MESH) {
        bool good = value->count >= 1 && value->count <= 3;
        for (size_t i = 0; i < value->count; i++) good &= value->items[i].integer >= 1;
        if (!good)
            return FAIL(
                MTH_ERROR_VALUE, F("%s=%s is no mesh", option->name, text), F("give %s", type_words[option->type]));
    }
    return NULL;
}

static mth_status unknown(mth__arena *arena, const mth__opt *const *tables, const char *name) {
    VEC(const char *) names = {0};
    size_t n = table_count(tables);
    for (size_t i = 0; i < n; i++) PUSH(arena, names, option_at(tables, i)->name);
    const char *near = mth__nearest(name, names.at, names.n), *why, *fix;
    if (mth_absent("option", name, &why, &fix))
        return FAIL(MTH_ERROR_TYPE, F("the option '%s' %s", name, why), F("%s", fix));
    if (near) return FAIL(MTH_ERROR_TYPE, F("there is no option '%s'", name), F("did you mean '%s'?", near));
    const char *signature = mth__options_signature(arena, tables);
    return FAIL(MTH_ERROR_TYPE, F("there is no option '%s'", name), F("the options are: %s", signature));
}

static mth_status check_keys(mth__arena *arena, const char *name, const mth_arg *dict) {
    mth__names keys = {0};
    for (size_t i = 0; dict->kind == MTH_ARG_DICT && i < dict->count; i++)
        if (mth__names_add(arena, &keys, dict->keys[i]) != (int)i)
            return FAIL(MTH_ERROR_KEY, F("%s has the key '%s' twice", name, dict->keys[i]), F("give it once"));
    return NULL;
}

/* Refuses an option that is given as something else than its default where, for want of another option, it would have
 * no effect. */
static mth_status check_needs(
    mth__arena *arena, const mth__opt *const *tables, const mth__opt *option, const mth_arg *values) {
    mth_arg standard;
    parse(arena, option->standard, &standard);
    const mth_arg *value = mth__options_get(tables, values, option->name);
    if (mth__arg_equal(*value, standard)) return NULL;
    const char *is = strchr(option->needs, '=');
    const mth_arg *other =
        mth__options_get(tables, values, mth__format(arena, "%.*s", (int)(is - option->needs), option->needs));
    if (!strcmp(mth__arg_text(arena, *other), is + 1)) return NULL;
    const char *text = mth__arg_text(arena, *value);
    return FAIL(MTH_ERROR_VALUE, F("%s=%s says nothing without %s", option->name, text, option->needs),
        F("leave %s out, or give %s", option->name, option->needs));
}

static mth_status read_all(
    mth__arena *arena, const mth__opt *const *tables, const mth_option *given, size_t count, mth_arg *values) {
    size_t n = table_count(tables);
    bool *set = NEW_ARRAY(arena, bool, n + 1);
    for (size_t k = 0; k < count; k++) {
        TRY(mth__given(given, "the array of options"));
        TRY(mth__given(given[k].name, "the name of an option"));
        const mth_arg *slot = mth__options_get(tables, values, given[k].name);
        if (!slot) return unknown(arena, tables, given[k].name);
        size_t i = (size_t)(slot - values);
        const mth__opt *option = option_at(tables, i);
        if (set[i])
            return FAIL(
                MTH_ERROR_TYPE, F("option '%s' is given twice", option->name), F("give '%s' once", option->name));
        set[i] = true;
        TRY(mth__arg_check(&given[k].value, option->name));
        TRY(check_keys(arena, option->name, &given[k].value));
        values[i] = mth__arg_copy(arena, given[k].value);
        if (values[i].kind == MTH_ARG_NONE && option->standard && !strcmp(option->standard, "None")) continue;
        TRY(check_value(arena, option, &values[i]));
    }
    for (size_t i = 0; i < n; i++) {
        const mth__opt *option = option_at(tables, i);
        if (set[i]) continue;
        if (!option->standard)
            return FAIL(MTH_ERROR_TYPE, F("the option '%s' is missing", option->name),
                F("give %s=%s: %s", option->name, type_words[option->type], option->doc));
        parse(arena, option->standard, &values[i]);
    }
    for (size_t i = 0; i < n; i++)
        if (option_at(tables, i)->needs) TRY(check_needs(arena, tables, option_at(tables, i), values));
    return NULL;
}

mth_status mth__options_read(mth__arena *arena, const char *owner, const mth__opt *const *tables,
    const mth_option *given, size_t count, mth_arg **values) {
    mth_arg *read = NEW_ARRAY(arena, mth_arg, table_count(tables) + 1);
    mth_status status = read_all(arena, tables, given, count, read);
    if (status) return mth__error_operator(status, owner);
    *values = read;
    return NULL;
}

/* ---------------------------------------------------------------- readers */
mth_status mth__options_hand_out(
    const mth__opt *const *tables, const mth_arg *values, const mth__opt *table, void *into) {
    for (const mth__opt *option = table; option->name; option++)
        TRY(option->read((char *)into + option->at, mth__options_get(tables, values, option->name)));
    return NULL;
}

mth_status mth__read_bool(void *field, const mth_arg *value) {
    *(bool *)field = value->kind == MTH_ARG_BOOL && value->integer;
    return NULL;
}

mth_status mth__read_when(void *field, const mth_arg *value) {
    *(mth__when *)field = value->kind != MTH_ARG_BOOL ? MTH__WHEN_NONE
        : value->integer                              ? MTH__WHEN_TRUE
                                                      : MTH__WHEN_FALSE;
    return NULL;
}

mth_status mth__read_int(void *field, const mth_arg *value) {
    *(int64_t *)field = value->kind == MTH_ARG_INT ? value->integer : 0;
    return NULL;
}

mth_status mth__read_text(void *field, const mth_arg *value) {
    *(const char **)field = value->kind == MTH_ARG_STRING ? value->string : NULL;
    return NULL;
}

mth_status mth__read_value(void *field, const mth_arg *value) {
    *(const mth_arg **)field = value;
    return NULL;
}

/* ---------------------------------------------------------------- specs */
static void put_spec(mth__sink *sink, const mth_arg *spec) {
    mth__sink_add(sink, "(");
    for (size_t d = 0; d < spec->count; d++) {
        const mth_arg *item = &spec->items[d];
        if (d) mth__sink_add(sink, ", ");
        if (item->kind == MTH_ARG_LIST)
            put_spec(sink, item);
        else if (item->kind == MTH_ARG_INT)
            mth__sink_add(sink, "%" PRId64, item->integer);
        else
            mth__sink_add(sink, "None");
    }
    mth__sink_add(sink, spec->count == 1 ? ",)" : ")");
}

/* No arena here: the texts given must not be lost to a jump. `on`: NULL where it is not known yet. */
static mth_status bad_spec(const mth_arg *spec, const char *what, const mth__placement *on, char *problem, char *fix) {
    char text[256], place[256] = "";
    mth__sink sink = mth__sink_new(text, sizeof text);
    put_spec(&sink, spec);
    if (on) mth__placement_write(place, sizeof place, on);
    return mth__error_tensor(
        FAIL(MTH_ERROR_VALUE, problem, fix), F("%s: spec %s%s%s", what, text, on ? " over " : "", place));
}

mth_status mth__spec_rank(mth_arg spec, int rank, const char *what) {
    if (spec.kind != MTH_ARG_LIST || spec.count == (size_t)rank) return NULL;
    return bad_spec(&spec, what, NULL,
        F("%s has %d %s, its spec %zu %s", what, rank, rank == 1 ? "dimension" : "dimensions", spec.count,
            spec.count == 1 ? "entry" : "entries"),
        F("give %d %s: a mesh axis, a tuple of axes or None for each dimension", rank,
            rank == 1 ? "entry" : "entries"));
}

mth_status mth__spec_read(mth_arg spec, const mth__placement *on, int rank, const char *what, mth__sharding *out) {
    mth__sharding sharding = {.on = on};
    unsigned used = 0;
    TRY(mth__arg_check(&spec, "spec"));
    if (spec.kind == MTH_ARG_NONE) {
        *out = sharding;
        return NULL;
    }
    if (!is_spec(&spec))
        return FAIL(
            MTH_ERROR_TYPE, F("the spec of %s is not a tuple of axes", what), F("give %s", type_words[MTH__OPT_SPEC]));
    TRY(mth__spec_rank(spec, rank, what));
    for (int d = 0; d < rank; d++) {
        const mth_arg *item = &spec.items[d], *axes = item->kind == MTH_ARG_LIST ? item->items : item;
        size_t n = item->kind == MTH_ARG_LIST ? item->count : item->kind == MTH_ARG_INT;
        for (size_t i = 0; i < n; i++) {
            int64_t axis = axes[i].integer;
            if (axis < 0 || axis >= on->naxes)
                return bad_spec(&spec, what, on,
                    F("the spec of %s names axis %" PRId64 ", the mesh has %d %s", what, axis, on->naxes,
                        on->naxes == 1 ? "axis" : "axes"),
                    on->naxes == 0       ? F("use None: it is on a single device")
                        : on->naxes == 1 ? F("use axis 0, the only one, or None")
                                         : F("use an axis from 0 to %d, or None", on->naxes - 1));
            if (used >> axis & 1)
                return bad_spec(&spec, what, on, F("the spec of %s uses axis %" PRId64 " twice", what, axis),
                    F("use each axis of the mesh for one dimension at most"));
            used |= 1u << axis;
            sharding.dim[d].axis[sharding.dim[d].naxes++] = (int8_t)axis;
        }
    }
    *out = sharding;
    return NULL;
}
