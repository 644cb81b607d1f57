/* Cases of rows as StableHLO: several in one module, run by a PJRT plugin for CPUs on padded parts with junk in the
 * padding, each compared with the reference engine's row on the same parts.
 *     hlo_module *m = hlo_begin(arena, 2, (int64_t[]){2, 2});
 *     hlo_add(m, MTH__ROW_add, NULL, 2, (hlo_in[]){{MTH_FLOAT32, shape, data, &split}, {MTH_FLOAT32, shape, data,
 *     &split}}, &split); CHECK_STATUS(hlo_run(m));
 */
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
    hlo_module *m = NEW(arena, hlo_module);
    m->arena = arena;
    CHECK_STATUS(mth__mesh_new(arena, naxes, dim, &m->mesh));
    m->count = m->mesh->count;
    for (int i = 0; i < m->count; i++) m->device[i] = i;
    return m;
}

/* out: of every result, in order. */
static mth_status hlo_add(
    hlo_module *m, int row, const mth__attrs *attrs, int nin, const hlo_in *in, const mth__sharding *out) {
    static const mth__attrs none;
    hlo_case *c = &m->at[m->cases++];
    mth__value *value = NEW_ARRAY(m->arena, mth__value, nin + MTH__MAX_OUT),
               **at = NEW_ARRAY(m->arena, mth__value *, nin + MTH__MAX_OUT);
    const mth__op *op = mth__op_at((size_t)row);
    int nout = 1;
    for (const char *s = op->results; *s; s++) nout += *s == ',';
    for (int j = 0; j < nin + nout; j++) at[j] = &value[j];
    c->node =
        (mth__node){.op = op, .attrs = attrs ? *attrs : none, .nin = nin, .nout = nout, .in = at, .out = at + nin};
    c->first_in = m->nin;
    c->first_out = m->nout;
    c->tolerance = 1e-5;
    for (int j = 0; j < nin; j++) {
        value[j] = (mth__value){.dtype = in[j].dtype, .shape = in[j].shape};
        c->in[j].part = mth__part_of(m->arena, in[j].dtype, in[j].shape, in[j].sharding, m->count, m->device);
        c->data[j] = in[j].data;
    }
    TRY(mth__op_infer(&c->node));
    for (int k = 0; k < nout; k++)
        c->out[k].part =
            mth__part_of(m->arena, value[nin + k].dtype, value[nin + k].shape, &out[k], m->count, m->device);
    m->nin += nin;
    m->nout += nout;
    return NULL;
}

/* ---------------------------------------------------------------- the text */
static void hlo_write_case(mth__hlo *h, hlo_case *c) {
    mth__hlo_call call = {.h = h, .op = c->node.op, .attrs = &c->node.attrs, .nin = c->node.nin, .nout = c->node.nout};
    mth__rule rule;
    mth__op_rule(&c->node, &rule);
    for (int j = 0; j < call.nin; j++) {
        const mth__hlo_part *part = c->in[j].part;
        call.in[j] = (mth__hlo_operand){{-1 - (c->first_in + j), part->dtype, part->local}, part};
        if (mth__hlo_masks_itself[call.op->row]) continue;
        for (int d = 0; d < part->local.rank; d++) {
            const int f = rule.in[j][d];
            if (f < 0 || (rule.factor[f].kind != MTH__SUM && rule.factor[f].kind != MTH__MAX)) continue;
            const double neutral = rule.factor[f].kind == MTH__MAX && mth__is_float(part->dtype) ? -INFINITY : 0;
            call.in[j].v = mth__hlo_fill_padding(h, call.in[j].v, part, 1u << d, neutral);
        }
    }
    for (int k = 0; k < call.nout; k++) call.out[k].part = c->out[k].part;
    mth__text_add(&h->body, "    // %s\n", c->node.op->name);
    mth__hlo_rows[call.op->row](&call);
    for (int k = 0; k < call.nout; k++) {
        c->out[k].v = call.out[k].v;
        CHECK(call.out[k].v.dtype == c->out[k].part->dtype &&
            mth__shape_equal(call.out[k].v.shape, c->out[k].part->local));
    }
}

static void hlo_write(hlo_module *m) {
    mth__arena *arena = m->arena;
    mth__hlo h = hlo_body(arena, m->count, m->device);
    mth__text arguments = mth__text_new(arena), types = mth__text_new(arena), names = mth__text_new(arena);
    for (int i = 0; i < m->cases; i++) {
        hlo_case *c = &m->at[i];
        hlo_write_case(&h, c);
        for (int j = 0; j < c->node.nin; j++)
            mth__text_add(&arguments, "%s%%arg%d: %s", c->first_in + j ? ", " : "", c->first_in + j,
                mth__hlo_type(arena, c->in[j].part->dtype, c->in[j].part->local));
        for (int k = 0; k < c->node.nout; k++) {
            mth__text_add(&types, "%s%s", c->first_out + k ? ", " : "",
                mth__hlo_type(arena, c->out[k].v.dtype, c->out[k].v.shape));
            mth__text_add(&names, "%s%s", c->first_out + k ? ", " : "", mth__hlo_name(arena, c->out[k].v));
        }
    }
    m->checks = (int)h.check.n;
    for (int i = 0; i < m->checks; i++) {
        mth__text_add(&types, ", %s", mth__hlo_type(arena, MTH_INT32, h.check.at[i].v.shape));
        mth__text_add(&names, ", %s", mth__hlo_name(arena, h.check.at[i].v));
    }
    m->text = hlo_wrap(&h, &arguments, &types, &names);
}

/* ---------------------------------------------------------------- values */
/* The part that partition p really holds, without padding. */
static mth__ref_value hlo_ref(hlo_module *m, const mth__hlo_part *part, int p) {
    mth__ref_value v = {.dtype = part->dtype, .local = part->local, .global = part->shape, .here = true};
    memcpy(v.local.dim, part->size[p], sizeof v.local.dim);
    memcpy(v.start, part->start[p], sizeof v.start);
    memcpy(v.step, part->step[p], sizeof v.step);
    v.data = NEW_ARRAY(m->arena, mth__ref_element, mth__shape_size(v.local) + 1);
    return v;
}
static int64_t hlo_flat(mth__shape s, const int64_t *at) {
    int64_t i = 0;
    for (int d = 0; d < s.rank; d++) i = i * s.dim[d] + at[d];
    return i;
}
/* The operand of partition p: for the reference, and padded: with NaN, and integers of which some could be ids. */
static mth__ref_value hlo_operand(hlo_module *m, const hlo_case *c, int j, int p, void **padded) {
    const mth__hlo_part *part = c->in[j].part;
    const int64_t n = mth__shape_size(part->local);
    mth__ref_value v = hlo_ref(m, part, p);
    *padded = mth__alloc(m->arena, (size_t)n * 8 + 64);
    for (int64_t i = 0; i < n; i++)
        element_put_real(part->dtype, *padded, i, mth__is_float(part->dtype) ? NAN : (double)(i % 3 ? i % 4 : 77));
    FOR_EACH(at, v.local) {
        int64_t global[MTH__RANK];
        for (int d = 0; d < v.local.rank; d++) global[d] = mth__ref_global(&v, d, at[d]);
        const int64_t i = hlo_flat(part->shape, global);
        const mth__ref_element x = c->integers[j] ? mth__ref_from_integer(part->dtype, c->integers[j][i])
                                                  : mth__ref_from_real(part->dtype, c->data[j][i]);
        *mth__ref_element_at(&v, at) = x;
        element_put(part->dtype, *padded, hlo_flat(part->local, at), x);
    }
    return v;
}
static bool hlo_near(double got, double want, double tolerance) {
    if (isnan(want)) return isnan(got);
    return got == want || fabs(got - want) <= tolerance * (1 + fabs(want));
}
static void hlo_compare(const hlo_case *c, int k, int p, const mth__ref_value *want, const void *got) {
    int64_t wrong = 0;
    FOR_EACH(at, want->local) {
        const mth_dtype dtype = want->dtype;
        const mth__ref_element x = element_get(dtype, got, hlo_flat(c->out[k].part->local, at)),
                               y = *mth__ref_element_at(want, at);
        const bool real = mth__is_float(dtype);
        if (real ? hlo_near(x.real, mth__ref_from_real(dtype, y.real).real, c->tolerance) : x.integer == y.integer)
            continue;
        if (wrong++) continue;
        unit_failures++;
        printf("  %s %s: result %d on partition %d: %s, not %s, at", c->node.op->name,
            c->node.attrs.spec ? c->node.attrs.spec : "", k, p, element_text(dtype, x), element_text(dtype, y));
        for (int d = 0; d < want->local.rank; d++) printf(" %" PRId64, at[d]);
        printf(" of");
        for (int d = 0; d < want->local.rank; d++) printf(" %" PRId64, want->local.dim[d]);
        printf("\n");
    }
    if (wrong > 1) printf("    and %" PRId64 " more\n", wrong - 1);
}

/* ---------------------------------------------------------------- running */
/* Compiles, runs, and compares every case. `results`: NULL, or where the padded results go, [p * nout + i]. */
static mth_status hlo_run_to(hlo_module *m, void **results) {
    TRY(hlo_open());
    hlo_write(m);
    if (!hlo_client) return NULL;
    if (getenv("HLO_TEXT")) printf("%s\n", m->text.at); /* for who looks for a fault */
    /* A maximum passes NaN on; and machine code need not be good. */
    mth__pjrt_setting how[] = {
        {.name = "xla_cpu_enable_fast_min_max", .type = 'b'}, {.name = "xla_backend_optimization_level", .type = 'i'}};
    const mth__pjrt_env env = {how, 2};
    PJRT_Buffer **in = NEW_ARRAY(m->arena, PJRT_Buffer *, m->count * m->nin);
    const int made = m->nout + m->checks; /* results of a partition */
    PJRT_Buffer **out = NEW_ARRAY(m->arena, PJRT_Buffer *, m->count * made);
    mth__ref_value *ref = NEW_ARRAY(m->arena, mth__ref_value, m->count * m->nin);
    for (int p = 0; p < m->count; p++)
        for (int i = 0; i < m->cases; i++)
            for (int j = 0; j < m->at[i].node.nin; j++) {
                void *padded;
                const int at = p * m->nin + m->at[i].first_in + j;
                ref[at] = hlo_operand(m, &m->at[i], j, p, &padded);
                TRY(hlo_send(m->at[i].in[j].part, padded, p, &in[at]));
            }
    TRY(hlo_execute(m->arena, &m->text, &env, m->count, m->device, m->nin, in, made, out));
    for (int p = 0; p < m->count; p++)
        for (int i = 0; i < m->checks; i++) {
            void *check;
            const mth__hlo_part pair = {.dtype = MTH_INT32, .local = {1, {2}}};
            TRY(hlo_fetch(m->arena, out[p * made + m->nout + i], &pair, &check));
            CHECK(((int32_t *)check)[0] == m->bad_ids);
            if (m->bad_ids) CHECK(((int32_t *)check)[1] == m->bad_id);
        }
    for (int p = 0; p < m->count && m->bad_ids; p++)
        for (int i = 0; i < m->nout; i++) TRY(hlo_drop(out[p * made + i]));
    for (int p = 0; p < m->count && !m->bad_ids; p++)
        for (int i = 0; i < m->cases; i++) {
            const hlo_case *c = &m->at[i];
            mth__ref_value want[MTH__MAX_OUT];
            mth__ref_call call = {.op = c->node.op, .attrs = &c->node.attrs, .nin = c->node.nin, .nout = c->node.nout};
            for (int j = 0; j < c->node.nin; j++) call.in[j] = &ref[p * m->nin + c->first_in + j];
            for (int k = 0; k < c->node.nout; k++) {
                want[k] = hlo_ref(m, c->out[k].part, p);
                call.out[k] = &want[k];
            }
            TRY(mth__ref_rows[c->node.op->row](&call));
            for (int k = 0; k < c->node.nout; k++) {
                void *got;
                TRY(hlo_fetch(m->arena, out[p * made + c->first_out + k], c->out[k].part, &got));
                hlo_compare(c, k, p, &want[k], got);
                if (results) results[p * m->nout + c->first_out + k] = got;
            }
        }
    return NULL;
}
static mth_status hlo_run(hlo_module *m) { return hlo_run_to(m, NULL); }
#endif
