/* Communication: the same global value in another sharding. Made by reshard alone; the shardings of operand and result
   say all, the attributes repeat it for the text. Never differentiated: gradients are made before shardings are. */
#include "catalog/row_tools.h"

#define COMMUNICATION(id, names, text)                                                                                 \
    const mth__op mth__op_##id = {ROW(id), .args = "x", .results = "y", .attributes = names, .factors = "*",           \
        .flags = MTH__COMM, .any_args = 1, .infer = mth__infer_same, .flops = mth__flops_none, .doc = text}
COMMUNICATION(all_reduce, "axes", "Partial sums (or maxima) over mesh axes become whole on every device.");
COMMUNICATION(all_gather, "axes, dimension", "A dimension split over mesh axes becomes whole on every device.");
COMMUNICATION(reduce_scatter, "axes, dimension",
    "Partial sums over mesh axes become whole, each device keeping its part of a "
    "dimension.");
COMMUNICATION(
    all_to_all, "axes, split, gathered", "A dimension split over mesh axes becomes whole, another one split.");
COMMUNICATION(
    transfer, NULL, "Each device takes the parts it lacks from devices that have them, between any placements.");
COMMUNICATION(broadcast, NULL, "One device's value goes to all devices of another placement.");
const mth__op mth__op_keep = {ROW(keep), .args = "x", .results = "y", .factors = "*",
    .flags = MTH__COMM | MTH__MOVES | MTH__FREE, .any_args = 1, .infer = mth__infer_same, .flops = mth__flops_none,
    .doc = "Each device keeps its part of what it already holds: no communication."};

bool mth__keeps_whole(const mth__node *node) {
    if (node->op->row != MTH__ROW_keep || node->in[0]->kind != MTH__VALUE_PARAMETER) return false;
    const mth__sharding *from = &node->in[0]->sharding, *to = &node->out[0]->sharding;
    const int rank = node->in[0]->shape.rank;
    return from->on != to->on && !mth__sharding_axes(from, rank) && !mth__sharding_axes(to, rank) && !from->partial;
}
