/* Cases of rows as StableHLO: several in one module, run by a PJRT plugin for CPUs on padded parts with junk in the
 * padding, each compared with the reference engine's row on the same parts.
 *     hlo_module *m = hlo_begin(arena, 2, (int64_t[]){2, 2});
 *     hlo_add(m, MTH__ROW_add, NULL, 2, (hlo_in[]){{MTH_FLOAT32, shape, data, &split}, ...}, &split);
 *     CHECK_STATUS(hlo_run(m)); */
#ifndef HLO_CASE_H
#define HLO_CASE_H
#include "elements.h"
#include "engine/pjrt/segment.h"
#include "hlo_run.h"
#include <inttypes.h>

enum { HLO_CASES = 64 };
typedef struct {
    mth_dtype dtype;
    mth__shape shape;
    const double *data;
    const mth__sharding *sharding;
} hlo_in;
typedef struct {
    mth__node node;
    mth__hlo_operand in[MTH__MAX_IN], out[MTH__MAX_OUT];
    const double *data[MTH__MAX_IN];
    const int64_t *integers[MTH__MAX_IN]; /* instead of data, where not NULL: of all sizes */
    double tolerance;                     /* |got - wanted| <= tolerance * (1 + |wanted|); 0: equal */
    int first_in, first_out;              /* of the module's arguments and results */
} hlo_case;
typedef struct {
    mth__arena *arena;
    mth__mesh *mesh;
    int count;
    int32_t device[HLO_DEVICES];
    int cases;
    hlo_case at[HLO_CASES];
    int nin, nout;
    int checks; /* of ids, in the text: results behind the others */
    /* each of them is to find bad_id, and nothing else is compared; else none finds any */
    bool bad_ids;
    int32_t bad_id;
    mth__text text;
} hlo_module;

static hlo_module *hlo_begin(mth__arena *arena, int naxes, const int64_t *dim) {
    hlo_module *module = NEW(arena, hlo_module);
    module->arena = arena;
    CHECK_STATUS(mth__mesh_new(arena, naxes, dim, &module->mesh));
    module->count = module->mesh->count;
    for (int i = 0; i < module->count; i++) module->device[i] = i;
    return module;
}

/* out: of every result, in order. */
static mth_status hlo_add(
    hlo_module *module, int row, const mth__attrs *attrs, int nin, const hlo_in *in, const mth__sharding *out) {
    static const mth__attrs none;
    hlo_case *test = &module->at[module->cases++];
    mth__value *value = NEW_ARRAY(module->arena, mth__value, nin + MTH__MAX_OUT),
               **at = NEW_ARRAY(module->arena, mth__value *, nin + MTH__MAX_OUT);
    const mth__op *op = mth__op_at(row);
    int nout = 1;
    for (const char *letter = op->results; *letter; letter++) nout += *letter == ',';
    for (int j = 0; j < nin + nout; j++) at[j] = &value[j];
    test->node =
        (mth__node){.op = op, .attrs = attrs ? *attrs : none, .nin = nin, .nout = nout, .in = at, .out = at + nin};
    test->first_in = module->nin;
    test->first_out = module->nout;
    test->tolerance = 1e-5;
    for (int j = 0; j < nin; j++) {
        value[j] = (mth__value){.dtype = in[j].dtype, .shape = in[j].shape};
        test->in[j].part =
            mth__part_of(module->arena, in[j].dtype, in[j].shape, in[j].sharding, module->count, module->device);
        test->data[j] = in[j].data;
    }
    TRY(mth__op_infer(&test->node));
    for (int k = 0; k < nout; k++)
        test->out[k].part = mth__part_of(
            module->arena, value[nin + k].dtype, value[nin + k].shape, &out[k], module->count, module->device);
    module->nin += nin;
    module->nout += nout;
    return NULL;
}

/* ---------------------------------------------------------------- the text */
static void hlo_write_case(mth__hlo *hlo, hlo_case *test) {
    mth__hlo_call call = {
        .hlo = hlo, .op = test->node.op, .attrs = &test->node.attrs, .nin = test->node.nin, .nout = test->node.nout};
    mth__rule rule;
    mth__op_rule(&test->node, &rule);
    for (int j = 0; j < call.nin; j++) {
        const mth__hlo_part *part = test->in[j].part;
        call.in[j] = (mth__hlo_operand){{-1 - (test->first_in + j), part->dtype, part->local}, part};
        if (mth__hlo_masks_itself[call.op->row]) continue;
        for (int d = 0; d < part->local.rank; d++) {
            const int factor = rule.in[j][d];
            if (factor < 0 || (rule.factor[factor].kind != MTH__SUM && rule.factor[factor].kind != MTH__MAX)) continue;
            const double neutral = rule.factor[factor].kind == MTH__MAX && mth__is_float(part->dtype) ? -INFINITY : 0;
            call.in[j].value = mth__hlo_fill_padding(hlo, call.in[j].value, part, 1u << d, neutral);
        }
    }
    for (int k = 0; k < call.nout; k++) call.out[k].part = test->out[k].part;
    mth__text_add(&hlo->body, "    // %s\n", test->node.op->name);
    mth__hlo_rows[call.op->row](&call);
    for (int k = 0; k < call.nout; k++) {
        test->out[k].value = call.out[k].value;
        CHECK(call.out[k].value.dtype == test->out[k].part->dtype &&
            mth__shape_equal(call.out[k].value.shape, test->out[k].part->local));
    }
}

static void hlo_write(hlo_module *module) {
    mth__arena *arena = module->arena;
    mth__hlo hlo = hlo_body(arena, module->count, module->device);
    mth__text arguments = mth__text_new(arena), types = mth__text_new(arena), names = mth__text_new(arena);
    for (int i = 0; i < module->cases; i++) {
        hlo_case *test = &module->at[i];
        hlo_write_case(&hlo, test);
        for (int j = 0; j < test->node.nin; j++)
            mth__text_add(&arguments, "%s%%arg%d: %s", test->first_in + j ? ", " : "", test->first_in + j,
                mth__hlo_type(arena, test->in[j].part->dtype, test->in[j].part->local));
        for (int k = 0; k < test->node.nout; k++) {
            mth__text_add(&types, "%s%s", test->first_out + k ? ", " : "",
                mth__hlo_type(arena, test->out[k].value.dtype, test->out[k].value.shape));
            mth__text_add(&names, "%s%s", test->first_out + k ? ", " : "", mth__hlo_name(arena, test->out[k].value));
        }
    }
    module->checks = (int)hlo.check.n;
    for (int i = 0; i < module->checks; i++) {
        mth__text_add(&types, ", %s", mth__hlo_type(arena, MTH_INT32, hlo.check.at[i].value.shape));
        mth__text_add(&names, ", %s", mth__hlo_name(arena, hlo.check.at[i].value));
    }
    module->text = hlo_wrap(&hlo, &arguments, &types, &names);
}

/* ---------------------------------------------------------------- values */
/* The part that partition p really holds, without padding. */
static mth__ref_value hlo_ref(hlo_module *module, const mth__hlo_part *part, int partition) {
    mth__ref_value value = {.dtype = part->dtype, .local = part->local, .global = part->shape, .here = true};
    memcpy(value.local.dim, part->size[partition], sizeof value.local.dim);
    memcpy(value.start, part->start[partition], sizeof value.start);
    memcpy(value.step, part->step[partition], sizeof value.step);
    value.data = NEW_ARRAY(module->arena, mth__ref_element, mth__shape_size(value.local) + 1);
    return value;
}
static int64_t hlo_flat(mth__shape shape, const int64_t *at) {
    int64_t i = 0;
    for (int d = 0; d < shape.rank; d++) i = i * shape.dim[d] + at[d];
    return i;
}
/* The operand of partition p: for the reference, and padded: with NaN, and integers of which some could be ids. */
static mth__ref_value hlo_operand(hlo_module *module, const hlo_case *test, int j, int partition, void **padded) {
    const mth__hlo_part *part = test->in[j].part;
    const int64_t n = mth__shape_size(part->local);
    mth__ref_value value = hlo_ref(module, part, partition);
    *padded = mth__alloc(module->arena, (size_t)n * 8 + 64);
    for (int64_t i = 0; i < n; i++)
        element_put_real(part->dtype, *padded, i, mth__is_float(part->dtype) ? NAN : (double)(i % 3 ? i % 4 : 77));
    FOR_EACH(at, value.local) {
        int64_t global[MTH__RANK];
        for (int d = 0; d < value.local.rank; d++) global[d] = mth__ref_global(&value, d, at[d]);
        const int64_t i = hlo_flat(part->shape, global);
        const mth__ref_element x = test->integers[j] ? mth__ref_from_integer(part->dtype, test->integers[j][i])
                                                     : mth__ref_from_real(part->dtype, test->data[j][i]);
        *mth__ref_element_at(&value, at) = x;
        element_put(part->dtype, *padded, hlo_flat(part->local, at), x);
    }
    return value;
}
static bool hlo_near(double got, double want, double tolerance) {
    if (isnan(want)) return isnan(got);
    return got == want || fabs(got - want) <= tolerance * (1 + fabs(want));
}
static void hlo_compare(const hlo_case *test, int k, int partition, const mth__ref_value *want, const void *got) {
    int64_t wrong = 0;
    FOR_EACH(at, want->local) {
        const mth_dtype dtype = want->dtype;
        const mth__ref_element x = element_get(dtype, got, hlo_flat(test->out[k].part->local, at)),
                               y = *mth__ref_element_at(want, at);
        const bool real = mth__is_float(dtype);
        if (real ? hlo_near(x.real, mth__ref_from_real(dtype, y.real).real, test->tolerance) : x.integer == y.integer)
            continue;
        if (wrong++) continue;
        unit_failures++;
        printf("  %s %s: result %d on partition %d: %s, not %s, at", test->node.op->name,
            test->node.attrs.spec ? test->node.attrs.spec : "", k, partition, element_text(dtype, x),
            element_text(dtype, y));
        for (int d = 0; d < want->local.rank; d++) printf(" %" PRId64, at[d]);
        printf(" of");
        for (int d = 0; d < want->local.rank; d++) printf(" %" PRId64, want->local.dim[d]);
        printf("\n");
    }
    if (wrong > 1) printf("    and %" PRId64 " more\n", wrong - 1);
}

/* ---------------------------------------------------------------- running */
/* Compiles, runs, and compares every case. `results`: NULL, or where the padded results go, [p * nout + i]. */
static mth_status hlo_run_to(hlo_module *module, void **results) {
    TRY(hlo_open());
    hlo_write(module);
    if (!hlo_client) return NULL;
    if (getenv("HLO_TEXT")) printf("%s\n", module->text.at); /* for who looks for a fault */
    /* A maximum passes NaN on; and machine code need not be good. */
    mth__pjrt_setting how[] = {
        {.name = "xla_cpu_enable_fast_min_max", .type = 'b'}, {.name = "xla_backend_optimization_level", .type = 'i'}};
    const mth__pjrt_env env = {how, 2};
    PJRT_Buffer **in = NEW_ARRAY(module->arena, PJRT_Buffer *, module->count * module->nin);
    const int made = module->nout + module->checks; /* results of a partition */
    PJRT_Buffer **out = NEW_ARRAY(module->arena, PJRT_Buffer *, module->count * made);
    mth__ref_value *ref = NEW_ARRAY(module->arena, mth__ref_value, module->count * module->nin);
    for (int partition = 0; partition < module->count; partition++)
        for (int i = 0; i < module->cases; i++)
            for (int j = 0; j < module->at[i].node.nin; j++) {
                void *padded;
                const int at = partition * module->nin + module->at[i].first_in + j;
                ref[at] = hlo_operand(module, &module->at[i], j, partition, &padded);
                TRY(hlo_send(module->at[i].in[j].part, padded, partition, &in[at]));
            }
    TRY(hlo_execute(module->arena, &module->text, &env, module->count, module->device, module->nin, in, made, out));
    for (int partition = 0; partition < module->count; partition++)
        for (int i = 0; i < module->checks; i++) {
            void *check;
            const mth__hlo_part pair = {.dtype = MTH_INT32, .local = {1, {2}}};
            TRY(hlo_fetch(module->arena, out[partition * made + module->nout + i], &pair, &check));
            CHECK(((int32_t *)check)[0] == module->bad_ids);
            if (module->bad_ids) CHECK(((int32_t *)check)[1] == module->bad_id);
        }
    for (int partition = 0; partition < module->count && module->bad_ids; partition++)
        for (int i = 0; i < module->nout; i++) TRY(hlo_drop(out[partition * made + i]));
    for (int partition = 0; partition < module->count && !module->bad_ids; partition++)
        for (int i = 0; i < module->cases; i++) {
            const hlo_case *test = &module->at[i];
            mth__ref_value want[MTH__MAX_OUT];
            mth__ref_call call = {
                .op = test->node.op, .attrs = &test->node.attrs, .nin = test->node.nin, .nout = test->node.nout};
            for (int j = 0; j < test->node.nin; j++) call.in[j] = &ref[partition * module->nin + test->first_in + j];
            for (int k = 0; k < test->node.nout; k++) {
                want[k] = hlo_ref(module, test->out[k].part, partition);
                call.out[k] = &want[k];
            }
            TRY(mth__ref_rows[test->node.op->row](&call));
            for (int k = 0; k < test->node.nout; k++) {
                void *got;
                TRY(hlo_fetch(module->arena, out[partition * made + test->first_out + k], test->out[k].part, &got));
                hlo_compare(test, k, partition, &want[k], got);
                if (results) results[partition * module->nout + test->first_out + k] = got;
            }
        }
    return NULL;
}
static mth_status hlo_run(hlo_module *module) { return hlo_run_to(module, NULL); }
#endif
