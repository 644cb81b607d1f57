/* Sums of many terms (a value with several consumers has as many gradients). The order of addition is free. Adding
 * partial sums before they are reduced costs one reduction; adding them one by one to a whole sum costs one for
 * each. */
#include "distribute/choice.h"

enum { TERMS = 32 };

static bool plain_add(const mth__node *node) {
    return node->op->row == MTH__ROW_add && mth__shape_equal(node->in[0]->shape, node->out[0]->shape) &&
        mth__shape_equal(node->in[1]->shape, node->out[0]->shape);
}

/* A term that one of the chain read is read by another one now. */
static void read_by(mth__info *term, mth__node *const *chain, int links, mth__node *now) {
    for (size_t k = 0; k < term->reader.n; k++)
        for (int i = 0; i < links; i++)
            if (term->reader.at[k] == chain[i]) {
                term->reader.at[k] = now;
                return;
            }
}

void mth__shard_group_terms(const mth__propagation *pass, mth__node *node) {
    if (!plain_add(node) || !mth__decided(pass, node->in[0]) || !mth__decided(pass, node->in[1])) return;
    mth__node *chain[TERMS];
    mth__value *term[TERMS + 1], **slot[TERMS + 1];
    int links = 1, terms = 2, partial = 0;
    chain[0] = node;
    for (int j = 0; j < 2; j++) slot[j] = &node->in[j];
    while (links < TERMS) {
        const mth__value *sum = chain[links - 1]->out[0];
        const mth__info *info = mth__info_of(pass, sum);
        mth__node *next = info->uses == 1 && info->reader.n ? info->reader.at[0] : NULL;
        if (!next || !plain_add(next) || next->on != node->on || !mth__same_unit(&next->label, &node->label)) break;
        int other = next->in[0] == sum;
        if (!mth__decided(pass, next->in[other])) break;
        slot[terms++] = &next->in[other];
        chain[links++] = next;
    }
    for (int i = 0; i < terms; i++)
        partial += (*slot[i])->sharding.partial != 0 && mth__info_of(pass, *slot[i])->uses == 1;
    if (partial < 2 || partial == terms) return;
    int at = 0;
    for (int i = 0; i < terms; i++) /* stable, each kind of partial sum together, whole terms last */
        for (int k = i; (*slot[i])->sharding.partial && k < terms; k++) {
            bool taken = false;
            for (int m = 0; m < at && !taken; m++) taken = term[m] == *slot[k];
            if (!taken && (*slot[k])->sharding.partial == (*slot[i])->sharding.partial) term[at++] = *slot[k];
        }
    for (int i = 0; i < terms; i++)
        if (!(*slot[i])->sharding.partial) term[at++] = *slot[i];
    if (at != terms) return; /* a term that occurs twice */
    for (int i = 0; i < terms; i++) {
        *slot[i] = term[i];
        read_by(mth__info_of(pass, term[i]), chain, links, i < 2 ? node : chain[i - 1]);
    }
}
