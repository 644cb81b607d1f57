/* An example or more of every row, with dimensions by letter, drawn anew in each trial. The table's own tests do the
 * rest. */
#ifndef OPERATOR_EXAMPLES_H
#define OPERATOR_EXAMPLES_H
#include "catalog/row_tools.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* `shapes`: of the operands, "bsi,io"; letters draw 1 to 5, digits are sizes. NULL: no operand.
   `kinds`: of the operands and, after '>', of results that are not plain:
     r normal   p in [0.5, 2]   u of -1, 0, 1   l a largest score   i ids below size v   m mask   n integers as floats
     of a wide range I integers of all sizes
     e experts [t,k]   E the same, -1 where dropped   w rows [e,t] of the same experts   R [e,t,...]: anything on
     padding,
         as a result 0 there
   `attrs` may also change sizes. */
typedef struct {
    int row;
    const char *shapes, *kinds;
    void (*attrs)(int64_t *size, mth__attrs *);
    const char *spec;
    mth_dtype dtype; /* of operand 0 and of all of kind I, where it isn't what its kind says */
} example;

static int64_t draw(int64_t low, int64_t high) { return low + rand() % (high - low + 1); }
static void any_dimension(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dimension = draw(0, 2);
}
static void by_factor(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->by = -1.75;
}
static void to_int(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dtype = MTH_INT32;
}
static void to_double(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dtype = MTH_FLOAT64;
}
static void to_long(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dtype = MTH_INT64;
}
static void to_bool(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dtype = MTH_BOOL;
}
static void to_float(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dtype = MTH_FLOAT32;
}
static void to_bfloat16(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dtype = MTH_BFLOAT16;
}
static void to_float16(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dtype = MTH_FLOAT16;
}
static void drop(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->key = 1234567;
    attrs->probability = 0.3;
}
static void drop_box(int64_t *size, mth__attrs *attrs) {
    drop(size, attrs);
    attrs->dimension = draw(0, 2);
    attrs->start = draw(0, 3);
    attrs->size = attrs->start + size[(int)"abc"[attrs->dimension]] + draw(0, 2);
}
static void reduce_some(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dimensions = draw(0, 7);
    attrs->keep = draw(0, 1);
}
static void shape(mth__attrs *attrs, int rank, int64_t d0, int64_t d1, int64_t d2, int64_t d3) {
    *attrs = (mth__attrs){.rank = rank, .shape = {d0, d1, d2, d3}};
}
static void broadcast_shape(int64_t *size, mth__attrs *attrs) { shape(attrs, 4, 3, size['a'], 2, size['c']); }
static void split_heads(int64_t *size, mth__attrs *attrs) { shape(attrs, 4, size['b'], size['s'], 4, 3); }
static void merge_heads(int64_t *size, mth__attrs *attrs) {
    shape(attrs, 3, size['b'], size['s'], size['h'] * size['d'], 0);
}
static void merge_rows(int64_t *size, mth__attrs *attrs) { shape(attrs, 2, size['b'] * size['s'], size['d'], 0, 0); }
static void split_rows(int64_t *size, mth__attrs *attrs) {
    (void)size;
    shape(attrs, 3, 4, 2, size['d'], 0);
}
static void shape_83(int64_t *size, mth__attrs *attrs) {
    (void)size;
    shape(attrs, 2, 8, 3, 0, 0);
}
static void shape_ones(int64_t *size, mth__attrs *attrs) { shape(attrs, 4, size['a'], 1, size['b'], 1); }
static void permute(int64_t *size, mth__attrs *attrs) {
    (void)size;
    static const int64_t all[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    const int64_t *order = all[draw(0, 5)];
    shape(attrs, 3, order[0], order[1], order[2], 0);
}
static void cut(int64_t *size, mth__attrs *attrs) {
    attrs->dimension = 1;
    attrs->start = draw(0, size['b'] - 1);
    attrs->stop = draw(attrs->start + 1, size['b']);
}
static void around(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dimension = draw(0, 2);
    attrs->before = draw(0, 2);
    attrs->after = draw(0, 2);
}
static void middle(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->dimension = 1;
}
static void table_rows(int64_t *size, mth__attrs *attrs) { attrs->rows = size['v']; }
static void classes(int64_t *size, mth__attrs *attrs) { attrs->size = size['v']; }
static void table_size(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->length = draw(1, 6);
    attrs->width = draw(1, 6);
}
static void rotate(int64_t *size, mth__attrs *attrs) {
    size['d'] = 2 * draw(1, 3);
    *attrs = (mth__attrs){.dimension = draw(0, 2), .inverse = draw(0, 1), .interleaved = draw(0, 1), .base = 100};
}
static void epsilon(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->epsilon = 0.1;
}
static void attend(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->causal = draw(0, 1);
    attrs->scale = 0.6;
}
static void attend_causally(int64_t *size, mth__attrs *attrs) {
    attend(size, attrs);
    attrs->causal = 1;
}
static void choices(int64_t *size, mth__attrs *attrs) { attrs->k = size['k']; }
static void experts(int64_t *size, mth__attrs *attrs) { attrs->experts = size['e']; }
static void capacity(int64_t *size, mth__attrs *attrs) {
    attrs->capacity = draw(0, 3);
    attrs->experts = size['e'];
}
static void activation(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->activation = draw(0, 3);
}
static void transposed(int64_t *size, mth__attrs *attrs) {
    (void)size;
    attrs->transposed = 1;
}

#define ROW_OF(id) .row = MTH__ROW_##id
static const example examples[] = {
    {ROW_OF(neg), "abc", "r"},
    {ROW_OF(neg), "", "r"},
    {ROW_OF(exp), "abc", "r"},
    {ROW_OF(log), "ab", "p"},
    {ROW_OF(sqrt), "ab", "p"},
    {ROW_OF(rsqrt), "ab", "p"},
    {ROW_OF(reciprocal), "ab", "p"},
    {ROW_OF(square), "abc", "r"},
    {ROW_OF(relu), "abc", "r"},
    {ROW_OF(gelu), "abc", "r"},
    {ROW_OF(gelu_tanh), "abc", "r"},
    {ROW_OF(silu), "abc", "r"},
    {ROW_OF(sigmoid), "abc", "r"},
    {ROW_OF(tanh), "abc", "r"},
    {ROW_OF(copy), "abc", "r"},
    {ROW_OF(copy), "ab", "i"},
    {ROW_OF(scale), "abc", "r", by_factor},
    {ROW_OF(shift), "abc", "r", by_factor},
    {ROW_OF(cast), "ab", "n", to_int},
    {ROW_OF(cast), "ab", "r", to_double},
    {ROW_OF(cast), "ab", "i", to_float},
    {ROW_OF(mask), "abc", "b"},
    {ROW_OF(mask), "abc", "m"},
    {ROW_OF(stop), "ab", "r"},
    {ROW_OF(relu_grad), "ab,ab", "rr"},
    {ROW_OF(gelu_grad), "ab,ab", "rr"},
    {ROW_OF(gelu_tanh_grad), "ab,ab", "rr"},
    {ROW_OF(silu_grad), "ab,ab", "rr"},
    {ROW_OF(sigmoid_grad), "ab,ab", "rr"},
    {ROW_OF(tanh_grad), "ab,ab", "rr"},
    {ROW_OF(mul_grad), "abc,abc,abc", "rrr"},
    {ROW_OF(mul_grad), "abc,c,abc", "rrr"},
    {ROW_OF(mul_grad), ",abc,abc", "rrr"},
    {ROW_OF(div_grad), "abc,abc,abc", "prr"},
    {ROW_OF(div_grad), "ab1,abc,abc", "prr"},
    {ROW_OF(maximum_grad), "abc,abc,abc", "uur"},
    {ROW_OF(maximum_grad), "abc,bc,abc", "uur"},
    {ROW_OF(add), "abc,abc", "rr"},
    {ROW_OF(add), "abc,c", "rr"},
    {ROW_OF(add), "1b,a1", "rr"},
    {ROW_OF(add), ",ab", "rr"},
    {ROW_OF(sub), "abc,abc", "rr"},
    {ROW_OF(sub), "c,abc", "rr"},
    {ROW_OF(sub), "a1c,ab1", "rr"},
    {ROW_OF(mul), "abc,abc", "rr"},
    {ROW_OF(mul), "abc,ab1", "rr"},
    {ROW_OF(mul), "b1,ab1c", "rr"},
    {ROW_OF(div), "abc,abc", "rp"},
    {ROW_OF(div), "bc,abc", "rp"},
    {ROW_OF(maximum), "abc,abc", "rr"},
    {ROW_OF(maximum), "abc,c", "rr"},
    {ROW_OF(maximum), "abc,abc", "uu"},
    {ROW_OF(equal), "abc,abc", "uu"},
    {ROW_OF(equal), "abc,bc", "uu"},
    {ROW_OF(dropout), "abc", "r", drop},
    {ROW_OF(dropout), "abc", "r", drop_box},
    {ROW_OF(contract), "bsi,io", "rr", .spec = "bsi,io->bso"},
    {ROW_OF(contract), "bso,io", "rr", .spec = "bso,io->bsi"},
    {ROW_OF(contract), "bsi,bso", "rr", .spec = "bsi,bso->io"},
    {ROW_OF(contract), "bshd,bthd", "rr", .spec = "bshd,bthd->bhst"},
    {ROW_OF(contract), "bi,bi", "rr", .spec = "bi,bi->b"},
    {ROW_OF(contract), "i,i", "rr", .spec = "i,i->"},
    {ROW_OF(contract), "a,b", "rr", .spec = "a,b->ba"},
    {ROW_OF(contract), "ji,jk", "rr", .spec = "ji,jk->ki"},
    {ROW_OF(contract), "abij,bjk", "rr", .spec = "abij,bjk->iabk"},
    {ROW_OF(contract), "ab,ab", "rr", .spec = "ab,ab->ab"},
    {ROW_OF(contract), "x,io", "rr", .spec = "x,io->oxi"},
    {ROW_OF(reduce_sum), "abc", "r", reduce_some},
    {ROW_OF(reduce_max), "abc", "r", reduce_some},
    {ROW_OF(reduce_max), "abc", "u", reduce_some},
    {ROW_OF(broadcast_to), "a1c", "r", broadcast_shape},
    {ROW_OF(reshape), "bs*", "r", split_heads},
    {ROW_OF(reshape), "bshd", "r", merge_heads},
    {ROW_OF(reshape), "bsd", "r", merge_rows},
    {ROW_OF(reshape), "8d", "r", split_rows},
    {ROW_OF(reshape), "46", "r", shape_83},
    {ROW_OF(reshape), "ab", "r", shape_ones},
    {ROW_OF(reshape), "46", "i", shape_83},
    {ROW_OF(transpose), "abc", "r", permute},
    {ROW_OF(slice), "abc", "r", cut},
    {ROW_OF(slice), "abc", "i", cut},
    {ROW_OF(pad), "abc", "r", around},
    {ROW_OF(concat), "abc,adc,aec", "rrr", middle},
    {ROW_OF(concat), "abc", "r", middle},
    {ROW_OF(gather), "vd,xy", "ri"},
    {ROW_OF(gather), "vd,", "ri"},
    {ROW_OF(gather_grad), "xy,xyd", "ir", table_rows},
    {ROW_OF(pick), "xyv,xy", "ri"},
    {ROW_OF(pick), "v,", "ri"},
    {ROW_OF(pick_grad), "xy,xy", "ir", classes},
    {ROW_OF(pick_grad), "xy,xy", "ir", classes, .dtype = MTH_INT64},
    {ROW_OF(gather_grad), "x,xd", "ir", table_rows, .dtype = MTH_INT64},
    {ROW_OF(sinusoid), NULL, "", table_size},
    {ROW_OF(rope), "bshd", "r", rotate},
    {ROW_OF(softmax), "abc", "r", any_dimension},
    {ROW_OF(softmax_grad), "abc,abc", "rr", any_dimension},
    {ROW_OF(layer_norm), "xyd,d,d", "rrr", epsilon},
    {ROW_OF(layer_norm), "d,d,d", "rrr", epsilon},
    {ROW_OF(layer_norm_grad), "xyd,d,xy,xy,xyd", "rrrpr"},
    {ROW_OF(rms_norm), "xyd,d", "rr", epsilon},
    {ROW_OF(rms_norm_grad), "xyd,d,xy,xyd", "rrpr"},
    {ROW_OF(attention), "bsgrd,btgd,btge", "rrr", attend},
    {ROW_OF(attention), "bsgrd,btgd,btge,bt", "rrrm", attend},
    {ROW_OF(attention), "bsgrd,btgd,btgd", "rrr", attend_causally},
    {ROW_OF(attention), "bsgrd,btgd,btgd,bt", "rrrm", attend_causally},
    {ROW_OF(attention_grad), "bsgrd,btgd,btge,bsgre,bsgr,bsgr,bsgre", "rrrrlpr", attend},
    {ROW_OF(attention_grad), "bsgrd,btgd,btge,bsgre,bsgr,bsgr,bsgre,bt", "rrrrlprm", attend},
    {ROW_OF(attention_grad), "bsgrd,btgd,btgd,bsgrd,bsgr,bsgr,bsgrd", "rrrrlpr", attend_causally},
    {ROW_OF(attention_grad), "bsgrd,btgd,btgd,bsgrd,bsgr,bsgr,bsgrd,bt", "rrrrlprm", attend_causally},
    {ROW_OF(moe_route), "te", "r>re", choices},
    {ROW_OF(moe_route_grad), "tk,tk,tk", "rer", experts},
    {ROW_OF(moe_capacity), "tk", "e", capacity},
    {ROW_OF(moe_rows), "tk", "E>w", experts},
    {ROW_OF(moe_count), "tk", "e", experts},
    {ROW_OF(moe_dispatch), "td,et", "rw>R"},
    {ROW_OF(moe_dispatch_weighted), "td,et,tk,tk", "rwrE>R"},
    {ROW_OF(moe_combine), "etd,et", "Rw"},
    {ROW_OF(moe_combine), "etd,et,tk,tk", "RwrE"},
    {ROW_OF(moe_combine_weights_grad), "etd,et,tk,td", "RwEr"},
    {ROW_OF(moe_matmul), "eti,eio,et", "Rrw>R"},
    {ROW_OF(moe_matmul), "eti,eoi,et", "Rrw>R", transposed},
    {ROW_OF(moe_outer), "eti,eto,et", "RRw"},
    {ROW_OF(moe_bias), "eto,eo,et", "Rrw>R"},
    {ROW_OF(moe_bias_grad), "eto,et", "Rw"},
    {ROW_OF(moe_act), "eth,et", "Rw>R", activation},
    {ROW_OF(moe_act_grad), "eth,eth,et", "RRw>R", activation},
    {ROW_OF(moe_mul), "eth,eth,et", "RRw>R"},
#define MOVES_INTEGERS(type)                                                                                           \
    {ROW_OF(copy), "ab", "I", .dtype = type}, {ROW_OF(stop), "ab", "I", .dtype = type},                                \
        {ROW_OF(broadcast_to), "a1c", "I", broadcast_shape, .dtype = type},                                            \
        {ROW_OF(reshape), "46", "I", shape_83, .dtype = type},                                                         \
        {ROW_OF(transpose), "abc", "I", permute, .dtype = type}, {ROW_OF(slice), "abc", "I", cut, .dtype = type},      \
        {ROW_OF(pad), "abc", "I", around, .dtype = type}, {                                                            \
        ROW_OF(concat), "abc,adc,aec", "III", middle, .dtype = type                                                    \
    }
    MOVES_INTEGERS(MTH_INT64),
    MOVES_INTEGERS(MTH_INT32),
    MOVES_INTEGERS(MTH_BOOL),
    MOVES_INTEGERS(MTH_BFLOAT16),
    MOVES_INTEGERS(MTH_FLOAT16),
#define CASTS_INTEGERS(type)                                                                                           \
    {ROW_OF(cast), "abc", "I", to_int, .dtype = type}, {ROW_OF(cast), "abc", "I", to_long, .dtype = type},             \
        {ROW_OF(cast), "abc", "I", to_bool, .dtype = type}, {ROW_OF(cast), "abc", "I", to_float, .dtype = type},       \
        {ROW_OF(cast), "abc", "I", to_bfloat16, .dtype = type}, {ROW_OF(cast), "abc", "I", to_float16, .dtype = type}, \
    {                                                                                                                  \
        ROW_OF(cast), "abc", "I", to_double, .dtype = type                                                             \
    }
    CASTS_INTEGERS(MTH_INT64),
    CASTS_INTEGERS(MTH_INT32),
    CASTS_INTEGERS(MTH_BOOL),
    CASTS_INTEGERS(MTH_BFLOAT16),
    CASTS_INTEGERS(MTH_FLOAT16),
    {ROW_OF(cast), "abc", "r", to_long},
    {ROW_OF(cast), "abc", "r", to_bool},
    {ROW_OF(cast), "abc", "n", to_bfloat16},
    {ROW_OF(cast), "abc", "n", to_float16},
    {ROW_OF(moe_route), "te", "u>re", choices},
};
enum { EXAMPLES = sizeof examples / sizeof *examples };

/* ---------------------------------------------------------------- what is drawn for the example at hand */
static int64_t size[128]; /* by letter */
static void draw_sizes(int64_t most) {
    for (int letter = 0; letter < 128; letter++)
        size[letter] = letter >= '0' && letter <= '9' ? letter - '0' : draw(1, most);
    size['*'] = 12;
}
static mth_dtype floating = MTH_FLOAT32; /* the dtype of floating operands */
static inline mth_dtype dtype_of(const example *of, int j) {
    if (of->dtype && (j == 0 || of->kinds[j] == 'I')) return of->dtype;
    if (of->kinds[j] == 'm') return (mth_dtype[]){MTH_BOOL, MTH_INT32, floating}[draw(0, 2)];
    if (strchr("ieEw", of->kinds[j])) return MTH_INT32;
    return mth__op_at(of->row)->sum_args >> j & 1 ? mth__dtypes[floating].sums : floating;
}
static double normal(void) {
    double u = (rand() + 1.0) / (RAND_MAX + 2.0), v = (rand() + 1.0) / (RAND_MAX + 2.0);
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}
/* Most of them no float has. */
static inline int64_t draw_integer(void) {
    static const int64_t some[] = {
        0, -1, (INT64_C(1) << 53) + 1, -(INT64_C(1) << 53) - 1, INT64_MIN, INT64_MAX, INT32_MIN, INT32_MAX};
    if (draw(0, 2)) return some[draw(0, 7)];
    return (int64_t)((uint64_t)rand() << 42 ^ (uint64_t)rand() << 21 ^ (uint64_t)rand());
}
static inline double draw_value(char kind) {
    switch (kind) {
    case 'p': return (float)(0.5 + 1.5 * rand() / RAND_MAX);
    case 'u': return (double)draw(-1, 1);
    case 'l': return (float)(3 + normal());
    case 'n': return (float)(100 * normal());
    case 'I': return (double)draw(-9, 9);
    case 'i': return (double)draw(0, size['v'] - 1);
    case 'b':
    case 'm': return (double)draw(0, 1);
    default: return normal();
    }
}
static int64_t *chosen; /* experts[t, k], different ones of a token; -1 where dropped */
static inline bool chose(int64_t token, int64_t expert) {
    for (int64_t j = 0; j < size['k']; j++)
        if (chosen[token * size['k'] + j] == expert) return true;
    return false;
}
static inline void choose(mth__arena *arena, const example *of) {
    const int64_t n = size['t'] * size['k'];
    chosen = NEW_ARRAY(arena, int64_t, n);
    for (int64_t i = 0; i < n; i++) chosen[i] = -1;
    for (int64_t i = 0; i < n; i++) {
        int64_t e;
        do e = draw(0, size['e'] - 1);
        while (chose(i / size['k'], e));
        chosen[i] = e;
    }
    for (int64_t i = 0; strchr(of->kinds, 'E') && i < n; i++)
        if (draw(0, 5) == 0) chosen[i] = -1;
}
#endif
