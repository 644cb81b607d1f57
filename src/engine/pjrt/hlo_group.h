/* What XLA's collectives and the steps of a template share: groups as partitions, and dimensions put together from
 * parts. */
#ifndef MTH__HLO_GROUP_H
#define MTH__HLO_GROUP_H
#include "engine/pjrt/hlo.h"

typedef struct {
    int size, count; /* ranks of a group; groups */
    int *member;     /* [group * size + rank]: its partition */
    int *rank;       /* by partition; -1: takes no part */
} mth__hlo_groups;
mth__hlo_groups mth__hlo_groups_of(mth__hlo *, const mth__channel *);
int mth__hlo_partition_of(const mth__hlo *, int32_t device); /* one of the module's */

/* x along `dim` in the order of an index: x[.., index[i], ..]. */
mth__hlo_val mth__hlo_take(mth__hlo *, mth__hlo_val x, int dim, mth__hlo_val index /* i32, (n) */);
/* `whole` holds the dimension, or a part of it, that a group's `parts` cut further. Joins the padded parts, laid one
   after another in order of ranks, to what whole's partitions hold, and back. */
mth__hlo_val mth__hlo_join_parts(mth__hlo *, const mth__hlo_groups *, mth__hlo_val x, int dim,
    const mth__hlo_part *parts, const mth__hlo_part *whole);
mth__hlo_val mth__hlo_cut_parts(mth__hlo *, const mth__hlo_groups *, mth__hlo_val x, int dim,
    const mth__hlo_part *whole, const mth__hlo_part *parts);
/* From partition to partition: `pairs` lists "[from, to]", `count` of them; who receives nothing gets zeros. */
mth__hlo_val mth__hlo_permute(mth__hlo *, mth__hlo_val, const char *pairs, int count);
/* "add", "maximum"; the operand as it is reduced: truth values are added as numbers. */
const char *mth__hlo_reduction(const mth__channel *);
mth__hlo_val mth__hlo_reduced_as(mth__hlo *, const mth__channel *, mth__hlo_val);
#endif
