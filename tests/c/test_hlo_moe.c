/* Mixture of experts as StableHLO against the reference engine: random experts (a token may have one twice, or none),
 * rows in the blocks in which devices fill them, NaN in all that rows leave unused, parts of tokens, experts and
 * widths. */
#include "hlo_case.h"
#include "operator_examples.h"

static mth__arena *arena;
static void run_in_arena(mth_status (*body)(void *)) { CHECK_STATUS(mth__guard(body, NULL)); }
/* cut: by axis; '-': no letter */
static mth__sharding split_by(const hlo_module *m, const char *letters, const char *cut, bool cyclic) {
    mth__sharding sharding = {.on = m->mesh->whole};
    mth__shape shape = {0};
    for (const char *at = letters; *at && *at != ','; at++, shape.rank++) {
        shape.dim[shape.rank] = size[(int)*at];
        for (int axis = 0; axis < m->mesh->naxes; axis++) {
            mth__split *split = &sharding.dim[shape.rank];
            if (cut[axis] != *at) continue;
            split->axis[split->naxes++] = (int8_t)axis;
            split->cyclic = cyclic;
        }
    }
    mth__sharding_canonical(&sharding, shape);
    return sharding;
}

typedef struct {
    double *experts, *rows;
} routing;
/* Rows of the blocks of t that `split` makes. */
static routing draw_routing(hlo_module *m, const mth__sharding *split, bool dropped) {
    const int64_t t = size['t'], k = size['k'], e = size['e'];
    routing r = {NEW_ARRAY(arena, double, t *k), NEW_ARRAY(arena, double, e *t)};
    for (int64_t i = 0; i < t * k; i++) r.experts[i] = dropped && !draw(0, 4) ? -1 : (double)draw(0, e - 1);
    for (int64_t i = 0; i < e * t; i++) r.rows[i] = -1;
    for (int64_t x = 0; x < e; x++)
        for (int p = 0; p < m->count; p++) {
            int64_t start[MTH__RANK], step[MTH__RANK], n = 0;
            const mth__shape local = mth__local_shape((mth__shape){2, {e, t}}, split, p, start, step);
            for (int64_t i = 0; i < local.dim[1]; i++) {
                const int64_t token = start[1] + i * step[1];
                bool has = false;
                for (int64_t j = 0; j < k; j++) has |= r.experts[token * k + j] == (double)x;
                if (has) r.rows[x * t + start[1] + n++ * step[1]] = (double)token;
            }
        }
    return r;
}

static mth_status add_example(hlo_module *m, const example *x, const char *cut, bool cyclic) {
    draw_sizes(6);
    size['t'] = draw(1, 12);
    size['k'] = draw(1, size['e'] < 3 ? size['e'] : 3);
    mth__attrs attrs = {0};
    if (x->attrs) x->attrs(size, &attrs);
    const mth__op *op = mth__op_at(x->row);
    hlo_in in[MTH__MAX_IN];
    mth__sharding *sharding = NEW_ARRAY(arena, mth__sharding, MTH__MAX_IN + MTH__MAX_OUT),
                  blocks = split_by(m, "et", cut, cyclic);
    if (!strchr(cut, 't') && draw(0, 1)) { /* made in blocks, whole now */
        char other[MTH__AXES + 1] = "----";
        other[draw(0, m->mesh->naxes - 1)] = 't';
        blocks = split_by(m, "et", other, draw(0, 3) == 0);
    }
    const routing r = draw_routing(m, &blocks, strchr(x->kinds, 'E') != NULL);
    int nin = 0, nout = 0;
    for (const char *at = x->shapes; at; nin++) {
        const char kind = x->kinds[nin];
        mth__shape shape = {0};
        sharding[nin] = split_by(m, at, cut, cyclic);
        for (; *at && *at != ','; at++) shape.dim[shape.rank++] = size[(int)*at];
        at = *at ? at + 1 : NULL;
        double *data = kind == 'w'       ? r.rows
            : kind == 'e' || kind == 'E' ? r.experts
                                         : NEW_ARRAY(arena, double, mth__shape_size(shape));
        const int64_t width = shape.rank == 3 ? shape.dim[2] : 1;
        const bool real = strchr("rRu", kind) != NULL;
        for (int64_t i = 0; real && i < mth__shape_size(shape); i++)
            data[i] = kind == 'R' && r.rows[i / width] < 0 ? NAN
                : x->row == MTH__ROW_moe_route             ? (double)draw(0, 3)
                                                           : normal();
        in[nin] = (hlo_in){real ? MTH_FLOAT32 : MTH_INT32, shape, data, &sharding[nin]};
    }
    const char *factors = op->factors ? strstr(op->factors, "->") + 2 : "eto"; /* moe_matmul has a rule */
    for (const char *at = factors; at; nout++) {
        sharding[nin + nout] = split_by(m, at, cut, cyclic);
        at = strchr(at, ',');
        if (at) at++;
    }
    return hlo_add(m, x->row, &attrs, nin, in, sharding + nin);
}
/* Which letters the axes cut: of those that the row may split. */
static void draw_cut(const hlo_module *m, const example *x, char *cut) {
    const mth__op *op = mth__op_at(x->row);
    for (int axis = 0; axis < m->mesh->naxes; axis++) {
        const char letter = "etdioh-"[draw(0, 6)];
        cut[axis] =
            letter == '-' || (op->whole && strchr(op->whole, letter)) || !strchr(x->shapes, letter) ? '-' : letter;
        if (x->row == MTH__ROW_moe_rows && letter == 'e') cut[axis] = 'e';
    }
}
static mth_status random_parts(void *unused) {
    (void)unused;
    static const struct {
        int naxes;
        int64_t dim[2];
    } mesh[] = {{1, {1}}, {1, {3}}, {1, {4}}, {2, {2, 2}}, {1, {2}}};
    for (int trial = 0; trial < 20; trial++) {
        srand((unsigned)trial);
        arena = mth__arena_new();
        hlo_module *m = hlo_begin(arena, mesh[trial % 5].naxes, mesh[trial % 5].dim);
        for (int i = 0; i < 2; i++)
            for (int x = 0; x < EXAMPLES && m->cases < HLO_CASES; x++) {
                if (examples[x].row < MTH__ROW_moe_route || examples[x].row > MTH__ROW_moe_count) continue;
                char cut[MTH__AXES + 1] = "----";
                draw_cut(m, &examples[x], cut);
                TRY(add_example(m, &examples[x], cut, m->mesh->naxes == 1 && draw(0, 2) == 0));
            }
        TRY(hlo_run(m));
        mth__arena_free(arena);
    }
    return NULL;
}
TEST(experts_on_random_parts) { run_in_arena(random_parts); }

/* ---------------------------------------------------------------- corner cases */
static mth_status ties(void *unused) {
    (void)unused;
    static const double x[] = {1, 1, 1, 1, -INFINITY, -INFINITY, 2, -INFINITY, 0, -0.0, 0, -1, 3, 5, 5, 3};
    arena = mth__arena_new();
    hlo_module *m = hlo_begin(arena, 1, (int64_t[]){1});
    const mth__sharding whole[2] = {{.on = m->mesh->whole}, {.on = m->mesh->whole}};
    for (int64_t k = 1; k <= 4; k++)
        TRY(hlo_add(
            m, MTH__ROW_moe_route, &(mth__attrs){.k = k}, 1, (hlo_in[]){{MTH_FLOAT32, {2, {4, 4}}, x, whole}}, whole));
    TRY(hlo_run(m));
    mth__arena_free(arena);
    return NULL;
}
TEST(ties_go_to_the_lower_expert) { run_in_arena(ties); }
RUN()
