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

mth_status mth__row_dress(mth_status status, const mth__node *node) {
    mth__error_operator(status, node->label.module ? node->label.module : node->op->name);
    if (node->label.source) mth__error_source(status, node->label.source);
    for (int j = 0; j < node->nin; j++) {
        if (j == 4 && node->nin > 5) {
            mth__error_tensor(status, F("and %d more", node->nin - j));
            break;
        }
        mth__error_tensor(status, mth__value_text(node->in[j]));
    }
    return status;
}
mth_status mth__row_error(const mth__node *node, char *what, char *fix) {
    return mth__row_dress(FAIL(MTH_ERROR_VALUE, what, fix), node);
}
mth_status mth__row_type_error(const mth__node *node, char *what, char *fix) {
    return mth__row_dress(FAIL(MTH_ERROR_TYPE, what, fix), node);
}

mth_status mth__row_dimension(const mth__node *node, const char *what, int64_t dimension) {
    int rank = node->in[0]->shape.rank;
    if (dimension >= 0 && dimension < rank) return NULL;
    char room[24];
    if (rank == 0)
        return mth__row_error(node,
            F("%s of %s is %lld, but %s has no dimension", what, node->op->name, (long long)dimension,
                mth__arg_name(node->op, 0, room)),
            F("give a tensor with at least one dimension"));
    return mth__row_error(node,
        F("%s of %s is %lld, outside the %d dimensions of %s", what, node->op->name, (long long)dimension, rank,
            mth__arg_name(node->op, 0, room)),
        F("give a dimension from 0 to %d", rank - 1));
}
mth_status mth__row_rank(const mth__node *node, int j, int rank) {
    if (node->in[j]->shape.rank == rank) return NULL;
    char room[24];
    return mth__row_error(node,
        F("%s of %s has %d dimensions, not %d", mth__arg_name(node->op, j, room), node->op->name,
            node->in[j]->shape.rank, rank),
        F("give a tensor of %d dimensions", rank));
}
