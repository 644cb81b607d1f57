/* Ranks plans of one model by the seconds that the device model predicts and by those that they take: 20 plans of a
 * chain of products on a machine that was calibrated before. Prints both, their ratio and Spearman's rank correlation;
 * fails where that is below 0.9, or where the plans span less than a factor of 3. */
#include "distribute/decide.h"
#include "plan_cache.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LAYERS = 6, WIDTH = 768, BATCH = 384, TURNS = 5, PLANS = 20 };

/* How weights are split over the last axis: by columns, by rows, or in turns. The first `split` layers are, the others
 * are computed whole by every device. `data`: the batch is split over the first axis. */
typedef enum { COLUMNS, ROWS, BOTH } layout;
typedef struct {
    const char *name;
    int axes;
    int64_t mesh[2];
    layout layout;
    int split;
    bool data;
} kind_of_plan;
static const kind_of_plan kinds[PLANS] = {
    {"1 device", 1, {1}, BOTH, 0, false},
    {"2, all by columns and rows", 1, {2}, BOTH, 6, false},
    {"2, half by columns", 1, {2}, COLUMNS, 3, false},
    {"2, replicated", 1, {2}, BOTH, 0, false},
    {"4, all by columns", 1, {4}, COLUMNS, 6, false},
    {"4, 5 by rows", 1, {4}, ROWS, 5, false},
    {"4, 4 by columns and rows", 1, {4}, BOTH, 4, false},
    {"4, 3 by columns", 1, {4}, COLUMNS, 3, false},
    {"4, 2 by rows", 1, {4}, ROWS, 2, false},
    {"4, 1 by columns", 1, {4}, BOTH, 1, false},
    {"4, replicated", 1, {4}, BOTH, 0, false},
    {"8, all by columns and rows", 1, {8}, BOTH, 6, false},
    {"8, 5 by columns", 1, {8}, COLUMNS, 5, false},
    {"8, 4 by rows", 1, {8}, ROWS, 4, false},
    {"8, 3 by columns and rows", 1, {8}, BOTH, 3, false},
    {"8, 2 by columns", 1, {8}, COLUMNS, 2, false},
    {"8, 1 by rows", 1, {8}, ROWS, 1, false},
    {"8, replicated", 1, {8}, BOTH, 0, false},
    {"2 x 2, data and columns, rows", 2, {2, 2}, BOTH, 6, true},
    {"3 x 2, 5 by rows, replicated", 2, {3, 2}, ROWS, 5, false},
};
typedef struct {
    const kind_of_plan *kind;
    mth_backend *backend;
    mth_compiled *compiled;
    mth_arrays *parameters;
    mth_array *input;
    double predicted, taken[TURNS], measured;
} plan;

/* ---------------------------------------------------------------- what is predicted */
static double compute_seconds(const mth__role *role, const mth__instr *instr) {
    mth__value value[MTH__MAX_IN + MTH__MAX_OUT], *in[MTH__MAX_IN], *out[MTH__MAX_OUT];
    mth__shape local[MTH__MAX_IN + MTH__MAX_OUT];
    const int nin = mth__row_operands(instr->op, instr->nin, instr->accumulates);
    for (int i = 0; i < nin + instr->nout; i++) {
        const mth__program_value *v = &role->value.at[i < nin ? instr->in[i] : instr->out[i - nin]];
        value[i] = (mth__value){.dtype = v->dtype, .shape = v->shape, .sharding = v->sharding};
        local[i] = v->local;
        *(i < nin ? &in[i] : &out[i - nin]) = &value[i];
    }
    mth__node node = {.op = instr->op,
        .attrs = *instr->attrs,
        .on = value[nin].sharding.on,
        .nin = nin,
        .nout = instr->nout,
        .in = in,
        .out = out};
    return mth__cost_compute(&node, local, local + nin);
}

static double channel_seconds(const mth__channel *channel) {
    static const enum mth__row row[] = {MTH__ROW_all_reduce, MTH__ROW_all_gather, MTH__ROW_reduce_scatter,
        MTH__ROW_all_to_all, MTH__ROW_broadcast, MTH__ROW_transfer};
    return mth__move_cost(channel->shape, mth_dtype_size(channel->dtype), &channel->from,
        &(mth__move){.row = row[channel->kind], .attrs = {.axes = channel->axes}, .to = channel->to});
}

/* Devices that share the machine's cores are priced at a share of it each; whoever has less to do leaves his share to
 * the others, so the machine is done after the mean of them. */
static double predict(const mth__program *program) {
    double all = 0;
    for (size_t role_number = 0; role_number < program->role.n; role_number++) {
        double seconds = 0;
        for (size_t i = 0; i < program->role.at[role_number].instr.n; i++) {
            const mth__instr *instr = &program->role.at[role_number].instr.at[i];
            if (instr->kind == MTH__COMPUTE) seconds += compute_seconds(&program->role.at[role_number], instr);
            if (mth__has_channel(instr) && instr->nout)
                seconds += channel_seconds(&program->channel.at[instr->channel]);
        }
        all += seconds * program->role.at[role_number].ndevice;
    }
    return all / program->mesh->count;
}

/* ---------------------------------------------------------------- what is measured */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void make_plan(plan *p, const char *machine) {
    const kind_of_plan *k = p->kind;
    mth_model *model;
    mth_arg mesh[2] = {mth_int(k->mesh[0]), mth_int(k->mesh[1])};
    MTH_CHECK(mth_model_create(&model));
    for (int i = 0; i < LAYERS; i++) {
        mth_module *linear, *relu;
        const bool columns = k->layout == COLUMNS || (k->layout == BOTH && i % 2 == 0);
        mth_arg axis = mth_int(k->axes - 1), split[2] = {columns ? MTH_NONE : axis, columns ? axis : MTH_NONE};
        mth_option option[] = {{"dimension", mth_int(WIDTH)}, {"weight_shard_spec", mth_list(2, split)}};
        MTH_CHECK(mth_module_create("Linear", option, i < k->split ? 2 : 1, &linear));
        MTH_CHECK(mth_module_create("Relu", NULL, 0, &relu));
        if (i == 0)
            MTH_CHECK(mth_model_add(model, linear, MTH_WIRES({"input", "x"}), MTH_CHAIN));
        else
            MTH_CHECK(mth_model_add(model, linear, NULL, 0, MTH_CHAIN));
        if (i + 1 < LAYERS)
            MTH_CHECK(mth_model_add(model, relu, NULL, 0, MTH_CHAIN));
        else
            MTH_CHECK(mth_model_add(model, relu, MTH_WIRES({"output", "y"}), MTH_CHAIN));
        mth_module_free(linear);
        mth_module_free(relu);
    }
    MTH_CHECK(mth_backend_create("native",
        MTH_OPTIONS({"device_mesh", mth_list((size_t)k->axes, mesh)}, {"machine", mth_string(machine)}), &p->backend));
    const char *x = "x", *y = "y";
    mth_arg rows[2] = {mth_int(0), MTH_NONE}, spec = mth_list(2, rows);
    mth_option option[] = {
        {"input_shard_specs", mth_dict(1, &x, &spec)}, {"output_shard_specs", mth_dict(1, &y, &spec)}};
    MTH_CHECK(mth_compile(model, p->backend, option, k->data ? 2 : 0, &p->compiled));
    MTH_CHECK(mth_array_randn(p->backend, 2, (int64_t[]){BATCH, WIDTH}, 0, k->data ? &spec : NULL, &p->input));
    MTH_CHECK(mth_get_parameters(p->compiled, (mth_named[]){{"x", p->input}}, 1, 0, &p->parameters));
    mth_model_free(model);
}

static double evaluate(plan *p) {
    mth_arrays *outputs;
    const double begin = now();
    MTH_CHECK(mth_evaluate(p->compiled, p->parameters, (mth_named[]){{"x", p->input}}, 1, NULL, &outputs, NULL));
    const double seconds = now() - begin;
    mth_arrays_free(outputs);
    return seconds;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---------------------------------------------------------------- how well they agree */
static void rank(const double *value, double *out) { /* ties share their mean rank */
    for (int i = 0; i < PLANS; i++) {
        int less = 0, same = 0;
        for (int k = 0; k < PLANS; k++) less += value[k] < value[i], same += value[k] == value[i];
        out[i] = less + (same + 1) / 2.0;
    }
}
static double correlation(const double *a, const double *b) {
    double mean = (PLANS + 1) / 2.0, ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < PLANS; i++) {
        ab += (a[i] - mean) * (b[i] - mean);
        aa += (a[i] - mean) * (a[i] - mean);
        bb += (b[i] - mean) * (b[i] - mean);
    }
    return ab / sqrt(aa * bb);
}

int main(void) {
    static plan plans[PLANS];
    char file[64], machine[80];
    snprintf(file, sizeof file, "/tmp/mithril_predict_%d.txt", (int)getpid());
    snprintf(machine, sizeof machine, "calibrate:%s", file);
    for (int i = 0; i < PLANS; i++) {
        plans[i].kind = &kinds[i];
        make_plan(&plans[i], machine);
        evaluate(&plans[i]);
        plans[i].predicted = predict(plans[i].compiled->last->program);
    }
    for (int turn = 0; turn < TURNS; turn++)
        for (int i = 0; i < PLANS; i++) plans[i].taken[turn] = evaluate(&plans[i]);
    double predicted[PLANS], measured[PLANS], ranks[2][PLANS], least = INFINITY, most = 0, worst = 0;
    for (int i = 0; i < PLANS; i++) {
        plan *p = &plans[i];
        qsort(p->taken, TURNS, sizeof *p->taken, by_value);
        predicted[i] = p->predicted;
        measured[i] = p->taken[TURNS / 2];
        least = fmin(least, measured[i]);
        most = fmax(most, measured[i]);
        worst = fmax(worst, fabs(log(predicted[i] / measured[i])));
        printf("%-30s predicted %7.2f ms, measured %7.2f ms, ratio %.2f\n", p->kind->name, 1e3 * predicted[i],
            1e3 * measured[i], predicted[i] / measured[i]);
    }
    rank(predicted, ranks[0]);
    rank(measured, ranks[1]);
    const double rho = correlation(ranks[0], ranks[1]);
    printf("%d plans, slowest to fastest %.1f, Spearman's rho %.3f, off by a factor of %.2f at most\n", PLANS,
        most / least, rho, exp(worst));
    FILE *figures = fopen(file, "re");
    for (int c; figures && (c = fgetc(figures)) != EOF;) putchar(c);
    if (figures) fclose(figures);
    unlink(file);
    for (int i = 0; i < PLANS; i++) {
        mth_arrays_free(plans[i].parameters);
        mth_array_free(plans[i].input);
        mth_compiled_free(plans[i].compiled);
        mth_backend_free(plans[i].backend);
    }
    return rho < 0.9 || most / least < 3;
}
