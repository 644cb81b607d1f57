/* The cheapest assignment of a node: its cost is that of bringing the operands there, of computing, and of bringing the
 * results to where they are wanted. A model repeats its layers, and a pipeline its stages' nodes for each microbatch:
 * what all that counts is equal for has the same answer, which is found once. */
#include "distribute/choice.h"
#include <string.h>

static const double GATHERED_WEIGHT = 16; /* times dearer: a weight stays where it was laid */

/* Preferences come before seconds, whatever the machine: an assignment is better that goes against fewer of them. What
 * is FORBIDDEN goes against more than there are; the assignment that splits nothing never is. */
enum { FORBIDDEN = 1 << 16 };
typedef struct {
    int against;
    double seconds;
} assignment_price;
static bool cheaper(assignment_price a, assignment_price b) {
    return a.against < b.against || (a.against == b.against && a.seconds < b.seconds);
}

/* A question with what follows from it alone. */
typedef struct {
    const mth__question *question;
    /* seconds of the whole node; of an element of an operand, of a result */
    double compute, memory_in[MTH__MAX_IN], memory_out[MTH__MAX_OUT];
    mth__sharding need[MTH__MAX_IN];
} assignment_search;

/* ---------------------------------------------------------------- what an assignment costs */
static double bring(const mth__question *question, int j, const mth__sharding *need) {
    const mth__asked_operand *operand = &question->operand[j];
    const mth__value *value = operand->value;
    if (mth__sharding_equal(&value->sharding, need, value->shape.rank)) return 0;
    double cost = mth__cost_reshard(value, &value->sharding, need);
    for (size_t k = 0; k < operand->version.n && cost > 0; k++) {
        const mth__sharding *version = operand->version.at[k];
        if (mth__sharding_equal(version, need, value->shape.rank)) return 0;
        double seconds = mth__cost_reshard(value, version, need);
        if (seconds < cost) cost = seconds;
    }
    if (operand->laid) cost *= GATHERED_WEIGHT;
    bool gathers = mth__local_size(value->shape, need) > mth__local_size(value->shape, &value->sharding);
    return gathers ? cost / operand->sharers : cost;
}

/* A parameter not settled yet takes what the node needs, but for the dimensions that the user fixed. */
mth__sharding mth__settled(const mth__value *value, const mth__sharding *need) {
    mth__sharding sharding = value->copied ? mth__sharding_carry(need, value->shape, value->sharding.on) : *need;
    unsigned used = 0;
    for (int d = 0; d < value->shape.rank; d++)
        if (value->fixed[d]) {
            sharding.dim[d] = value->sharding.dim[d];
            for (int k = 0; k < sharding.dim[d].naxes; k++) used |= 1u << sharding.dim[d].axis[k];
        }
    for (int d = 0; d < value->shape.rank; d++)
        for (int k = 0; k < sharding.dim[d].naxes && !value->fixed[d]; k++)
            if (used >> sharding.dim[d].axis[k] & 1) memset(&sharding.dim[d], 0, sizeof sharding.dim[d]);
    mth__sharding_canonical(&sharding, value->shape);
    return sharding;
}

/* The two preferences: rows are named where their blocks are, and tokens are exchanged, not gathered. */
static assignment_price operand_price(assignment_search *search, int j, const mth__assignment *assignment) {
    const mth__question *question = search->question;
    const mth__asked_operand *operand = &question->operand[j];
    const mth__node *node = question->node;
    const mth__rule *rule = &question->rule;
    const mth__value *value = operand->value;
    mth__sharding need = mth__assigned(rule, rule->in[j], rule->in_unit[j], assignment, value->shape, node->on);
    if (assignment->pass && value->sharding.partial) {
        need.partial = (uint8_t)question->pass;
        /* a partial sum passes as it is or not at all */
        if (!mth__sharding_equal(&need, &value->sharding, value->shape.rank)) return (assignment_price){FORBIDDEN, 0};
    }
    search->need[j] = need;
    if (operand->free) {
        mth__sharding sharding = mth__settled(value, &need);
        bool equal = mth__sharding_equal(&sharding, &need, value->shape.rank);
        return (assignment_price){0, equal ? 0 : GATHERED_WEIGHT * mth__cost_reshard(value, &sharding, &need)};
    }
    assignment_price cost = {0, bring(question, j, &need)};
    if (operand->hinted && (node->op->flags & MTH__NAMES_ROWS) && !need.dim[0].naxes) cost.against++;
    if (question->rows < 0) return cost;
    if (j == question->rows) { /* rows name tokens of the blocks in which they were made: whole, or those blocks */
        if (need.dim[1].naxes && !mth__split_equal(&need.dim[1], &value->sharding.dim[1]))
            return (assignment_price){FORBIDDEN, 0};
    } else if (value->shape.rank == 3)
        cost.seconds *= question->filled;
    else if (j == 0 && cost.seconds > 0 && value->sharding.dim[0].naxes && !need.dim[0].naxes)
        cost.against++;
    return cost;
}

mth__sharding mth__result_of(const mth__question *question, int k, const mth__assignment *assignment) {
    const mth__node *node = question->node;
    const mth__rule *rule = &question->rule;
    mth__sharding sharding =
        mth__assigned(rule, rule->out[k], rule->out_unit[k], assignment, node->out[k]->shape, node->on);
    sharding.partial = (uint8_t)(mth__partial_of(rule, node, k, assignment, &sharding.reduce) |
        (assignment->pass ? question->pass : 0));
    if (!sharding.partial) sharding.reduce = 0;
    return sharding;
}

static assignment_price evaluate(assignment_search *search, const mth__assignment *assignment, assignment_price best) {
    const mth__question *question = search->question;
    const mth__node *node = question->node;
    assignment_price cost = {0, 0};
    double memory = 0;
    for (int j = 0; j < node->nin; j++) {
        assignment_price operand = operand_price(search, j, assignment);
        cost.against += operand.against;
        cost.seconds += operand.seconds;
        if (!cheaper(cost, best)) return cost;
        if (search->memory_in[j] > 0)
            memory += search->memory_in[j] * (double)mth__local_size(node->in[j]->shape, &search->need[j]);
    }
    double compute = search->compute * mth__fraction(&question->rule, assignment, node->on);
    for (int k = 0; k < node->nout; k++) {
        const mth__asked_result *result = &question->result[k];
        mth__sharding sharding = mth__result_of(question, k, assignment);
        memory += search->memory_out[k] * (double)mth__local_size(node->out[k]->shape, &sharding);
        if (!result->used) continue;
        mth__sharding end = result->awaited ? result->end : sharding;
        end.partial = end.reduce = 0;
        if (sharding.partial || !mth__sharding_equal(&sharding, &end, node->out[k]->shape.rank))
            cost.seconds += mth__cost_reshard(node->out[k], &sharding, &end) / result->terms;
    }
    cost.seconds += compute > memory ? compute : memory;
    return cost;
}

/* ---------------------------------------------------------------- combinations of proposals */
enum { CHOICES = 6 };
typedef struct {
    int n;
    int8_t factor[CHOICES];
} axis_choices; /* the last is -1: none */

static void choices_of(const mth__question *question, axis_choices choice[MTH__AXES]) {
    const mth__placement *on = question->node->on;
    for (int axis = 0; axis < on->naxes; axis++) {
        choice[axis].n = 0;
        for (int i = 0; i < question->sources; i++) {
            const mth__proposal *proposal = &question->source[i];
            bool has = false, known = false;
            for (int k = 0; k < proposal->split.naxes; k++) has |= proposal->split.axis[k] == axis;
            for (int k = 0; k < choice[axis].n; k++) known |= choice[axis].factor[k] == proposal->factor;
            if (has && !known && choice[axis].n < CHOICES - 1) choice[axis].factor[choice[axis].n++] = proposal->factor;
        }
        choice[axis].factor[choice[axis].n++] = -1;
    }
}

static void compose(const mth__question *question, const axis_choices choice[MTH__AXES], const int pick[MTH__AXES],
    mth__assignment *assignment) {
    memset(assignment, 0, sizeof *assignment);
    for (int x = 0; x < question->node->on->naxes; x++) {
        int factor = choice[x].factor[pick[x]];
        if (factor < 0 || assignment->of[factor].naxes) continue;
        unsigned axes = 0;
        for (int y = 0; y < question->node->on->naxes; y++)
            if (choice[y].factor[pick[y]] == factor) axes |= 1u << y;
        assignment->of[factor] = mth__compose_split(question->source, question->sources, factor, axes);
    }
}

/* What the whole of a node costs, of which each device computes and moves its share. */
static assignment_search begin(const mth__question *question) {
    const mth__node *node = question->node;
    const double memory_rate = node->on->mesh->model->memory_rate;
    const bool costs = !(node->op->flags & (MTH__ALIAS | MTH__FREE));
    assignment_search search = {.question = question};
    mth__shape in[MTH__MAX_IN], out[MTH__MAX_OUT];
    for (int j = 0; j < node->nin; j++) {
        in[j] = node->in[j]->shape;
        search.memory_in[j] = costs ? (double)mth_dtype_size(node->in[j]->dtype) / memory_rate : 0;
    }
    for (int k = 0; k < node->nout; k++) {
        out[k] = node->out[k]->shape;
        search.memory_out[k] = costs ? (double)mth_dtype_size(node->out[k]->dtype) / memory_rate : 0;
    }
    search.compute = costs ? mth__op_flops(node, in, out) / mth__flops_rate(node) : 0;
    return search;
}

static mth__assignment cheapest(const mth__question *question) {
    const mth__placement *on = question->node->on;
    assignment_search search = begin(question);
    axis_choices choice[MTH__AXES];
    choices_of(question, choice);
    assignment_price least = {FORBIDDEN, 0};
    mth__assignment best;
    memset(&best, 0, sizeof best);
    for (int through = question->pass != 0; through >= 0; through--) {
        int pick[MTH__AXES] = {0};
        for (bool more = true; more;) {
            bool clash = false;
            for (int axis = 0; axis < on->naxes; axis++)
                clash |= through && (question->pass >> axis & 1) && choice[axis].factor[pick[axis]] >= 0;
            if (!clash) {
                mth__assignment assignment;
                compose(question, choice, pick, &assignment);
                assignment.pass = through != 0;
                assignment_price cost = evaluate(&search, &assignment, least);
                if (cheaper(cost, least)) {
                    least = cost;
                    best = assignment;
                }
            }
            more = false;
            for (int axis = 0; axis < on->naxes && !more; axis++) {
                if (++pick[axis] < choice[axis].n)
                    more = true;
                else
                    pick[axis] = 0;
            }
        }
    }
    return best;
}

/* ---------------------------------------------------------------- answers */
static uint64_t bits_of(double real) {
    uint64_t bits;
    memcpy(&bits, &real, sizeof bits);
    return bits;
}

static void add_value(mth__arena *arena, mth__keys *keys, const mth__value *value) {
    mth__keys_add(arena, keys, value->dtype);
    mth__keys_add_shape(arena, keys, value->shape);
}

static void add_operand(mth__arena *arena, mth__keys *keys, const mth__asked_operand *operand) {
    const mth__value *value = operand->value;
    const int rank = value->shape.rank;
    add_value(arena, keys, value);
    mth__keys_add_sharding(arena, keys, &value->sharding, rank);
    uint64_t said = (uint64_t)operand->free | (uint64_t)operand->laid << 1 | (uint64_t)operand->hinted << 2;
    if (operand->free) {
        said |= (uint64_t)value->copied << 8;
        for (int d = 0; d < rank; d++) said |= (uint64_t)value->fixed[d] << (16 + d);
    }
    mth__keys_add(arena, keys, said | (uint64_t)operand->sharers << 32);
    mth__keys_add(arena, keys, operand->version.n);
    for (size_t i = 0; i < operand->version.n; i++) mth__keys_add_sharding(arena, keys, operand->version.at[i], rank);
}

/* All that the price of an assignment reads. */
static int number_of(mth__arena *arena, mth__keys *keys, const mth__question *question) {
    const mth__node *node = question->node;
    mth__keys_begin(keys);
    mth__keys_add(arena, keys, (uint64_t)node->op->row << 32 | (uint64_t)node->nin << 16 | (uint64_t)node->nout);
    mth__keys_add(arena, keys, (uint64_t)node->on->id << 32 | question->pass);
    mth__keys_add_attrs(arena, keys, &node->attrs);
    mth__keys_add(arena, keys, bits_of(question->filled));
    for (int j = 0; j < node->nin; j++) add_operand(arena, keys, &question->operand[j]);
    for (int k = 0; k < node->nout; k++) {
        const mth__asked_result *result = &question->result[k];
        add_value(arena, keys, node->out[k]);
        mth__keys_add(arena, keys, (uint64_t)result->used << 1 | result->awaited);
        mth__keys_add(arena, keys, bits_of(result->terms));
        if (result->awaited) mth__keys_add_sharding(arena, keys, &result->end, node->out[k]->shape.rank);
    }
    for (int i = 0; i < question->sources; i++) {
        mth__keys_add(arena, keys, (uint64_t)question->source[i].factor);
        mth__keys_add_split(arena, keys, &question->source[i].split);
    }
    return mth__keys_number(arena, keys);
}

const mth__assignment *mth__answer(mth__arena *arena, mth__answers *answers, const mth__question *question) {
    const int number = number_of(arena, &answers->asked, question);
    if (number == (int)answers->assignment.n) PUSH(arena, answers->assignment, cheapest(question));
    return &answers->assignment.at[number];
}
