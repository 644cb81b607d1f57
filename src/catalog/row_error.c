/* Errors of rows: they carry all operands of the node. */
#include "catalog/row_tools.h"
#include <string.h>

const char *mth__arg_name(const mth__op *op, int j, char room[24]) {
    const char *at = op->args ? op->args : "";
    for (int i = 0; i < j; i++) {
        const char *comma = strchr(at, ',');
        if (!comma) break; /* xs*: the last name repeats */
        at = comma + 2;
    }
    size_t n = strcspn(at, ",?*");
    if (n > 23) n = 23;
    memcpy(room, at, n);
    room[n] = 0;
    return room;
}

mth_status mth__row_dress(mth_status s, const mth__node *n) {
    mth__error_operator(s, n->label.module ? n->label.module : n->op->name);
    if (n->label.source) mth__error_source(s, n->label.source);
    for (int j = 0; j < n->nin; j++) {
        if (j == 4 && n->nin > 5) {
            mth__error_tensor(s, F("and %d more", n->nin - j));
            break;
        }
        mth__error_tensor(s, mth__value_text(n->in[j]));
    }
    return s;
}
mth_status mth__row_error(const mth__node *n, char *what, char *fix) {
    return mth__row_dress(FAIL(MTH_ERROR_VALUE, what, fix), n);
}
mth_status mth__row_type_error(const mth__node *n, char *what, char *fix) {
    return mth__row_dress(FAIL(MTH_ERROR_TYPE, what, fix), n);
}

mth_status mth__row_dimension(const mth__node *n, const char *what, int64_t dimension) {
    int rank = n->in[0]->shape.rank;
    if (dimension >= 0 && dimension < rank) return NULL;
    char room[24];
    if (rank == 0)
        return mth__row_error(n,
            F("%s of %s is %lld, but %s has no dimension", what, n->op->name, (long long)dimension,
                mth__arg_name(n->op, 0, room)),
            F("give a tensor with at least one dimension"));
    return mth__row_error(n,
        F("%s of %s is %lld, outside the %d dimensions of %s", what, n->op->name, (long long)dimension, rank,
            mth__arg_name(n->op, 0, room)),
        F("give a dimension from 0 to %d", rank - 1));
}
mth_status mth__row_rank(const mth__node *n, int j, int rank) {
    if (n->in[j]->shape.rank == rank) return NULL;
    char room[24];
    return mth__row_error(n,
        F("%s of %s has %d dimensions, not %d", mth__arg_name(n->op, j, room), n->op->name, n->in[j]->shape.rank, rank),
        F("give a tensor of %d dimensions", rank));
}
