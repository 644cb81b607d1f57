/* Reading and writing by index, shared by the rows that do. An index is i32; where one names no element, gather would
 * clamp it and scatter drop it: both functions here say so, nothing else relies on it. */
#ifndef MTH__HLO_INDEX_H
#define MTH__HLO_INDEX_H
#include "engine/pjrt/hlo.h"

mth__hlo_val mth__hlo_spread(mth__hlo *, mth__hlo_val scalar, mth__shape to);
/* Where the elements with these global indices (i32, any shape) lie in a dimension of the part; here: false where they
 * do not. */
typedef struct {
    mth__hlo_val at, here;
} mth__hlo_place;
mth__hlo_place mth__hlo_locate(mth__hlo *, const mth__hlo_part *, int dim, mth__hlo_val global);
/* table[n, w...], index[i...] -> [i..., w...]. An index outside [0, n) reads some row. */
mth__hlo_val mth__hlo_lookup(mth__hlo *, mth__hlo_val table, mth__hlo_val index);
/* x[n, w...] with `rows`[i..., w...] put in at index[i...] where `here`[i...]: added, or, where no two have one index,
 * set. */
typedef enum { MTH__HLO_ADD, MTH__HLO_SET } mth__hlo_put_kind;
mth__hlo_val mth__hlo_put(mth__hlo *, mth__hlo_put_kind, mth__hlo_val x, mth__hlo_place place, mth__hlo_val rows);
/* What a row that puts starts result k from: the sum that the result is added to, which is taken hereby, or zeros. */
mth__hlo_val mth__hlo_start_of(mth__hlo_call *, int k);
#endif
