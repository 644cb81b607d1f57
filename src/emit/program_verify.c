/* The verifier. A set of programs that verifies cannot deadlock, cannot read a byte that is unwritten or that another
 * value has overwritten, and cannot use a partial sum as a value, on any engine that keeps what program.h says of
 * streams, channels and spaces. So engines have no check of their own, and a text from anywhere may be run.
 *
 * What is proved of each role, in this order; what holds for one of its devices is made sure to hold for all:
 *   labels    stand in a stage of a region, or outside of both; a microbatch in a stage alone, below
 *             MTH__MOST_MICROBATCHES
 *   values    (verify_values.c) lie inside their placement, with the local shape that their sharding gives; inside the
 *             slab of their space, an entry or an exit, even where they are empty; a view shows rows of its base that
 *             are the device's own
 *   order     (verify_order.c) each value is written once, before it is read; what is started or sent is waited for,
 *             once; each instruction stands on a stream of its kind; kernels and channels touch the device's memory
 *             alone
 *   rows      (verify_rows.c) operands fit the operator; splits agree factor by factor; partial sums arise where a
 *             summed factor is split, and go through what is linear in them alone
 *   bytes     (verify_bytes.c) two values that live at the same time share no byte of any space, except in place; an
 *             entry that has a successor is not read once that is being written
 *   exits     each is written, last, by its own value, on every device that must have it
 * and of all together:
 *   channels  (verify_channels.c) exactly the roles that must take part do, once, with what the channel carries; the
 *             waiting among roles and streams has no cycle
 *   cuts      (verify_cuts.c) in each dimension that a channel changes, the parts of the finer side fill those of the
 *             coarser one without overlap, on every device; in the others all of a group hold the same
 *   moves     (verify_moves.c) what the first device of each role takes by a channel lies in what its peers hold and in
 *             its own memory, and arrives where the same element of the tensor belongs; of a direct channel the copies
 *             have as many elements as the result, and each peer's term is added once
 *   templates (collective_verify.c) the steps of each algorithm that the plan uses, for its number of ranks, leave on
 *             every rank what the collective promises, and no round reads what it overwrites
 *
 * What is not proved: that kernels compute what their rows say, that the numbers are those that the user's model means,
 * and what depends on data, such as ids, which engines check in the run. That buffers which the caller gives for two
 * entries are two. That a label tells the truth: profiles and errors repeat it, and an engine with a compiler cuts its
 * modules by it. That memory suffices: sizes are known, and allocating them is the engine's.
 *
 * What it shares with what makes programs, where a mistake would pass unseen: the catalog's rules of shapes and
 * factors; the arithmetic of shardings and their local shapes (base/types.c); the groups, the scratch and the check of
 * channels (collective.c, channel_check.c); the generator of steps, which engines run as well; and the set of ranges.
 * Roles, instructions, waits, offsets and views are checked by code of its own, and in tests against a plain walk over
 * every byte of every device.
 *
 * Sizes are numbers below 2^62 or refused: no product or sum of those that a text says wraps. Time is about linear in
 * the text and the devices of its placements. Where devices must be looked at one by one, because an uneven split is
 * nested or a part is kept across placements, and single parts of splits, more than MTH__MOST_LOOKS looks are refused.
 * Moves of direct collectives beyond the first MTH__MOST_MOVE_LOOKS rest on the cuts alone. Each template is proved
 * once; what would take more than MOST_STEPS steps together, or one more than MOST_SET_BYTES, is refused by name:
 * rings of more than some 1600 ranks. Of all algorithms but the direct one more than 32767 ranks are refused
 * (channel_check.c). Nothing is taken as proved. */
#include "emit/verify.h"
#include "emit/verify_moves.h"
#include "emit/collective.h"
#include <string.h>

/* The most steps that the plan's templates may have together, and the most bytes of the sets of ranks that say whose
 * contributions the chunks of one template hold. */
enum { MOST_STEPS = 1 << 25, MOST_SET_BYTES = 1 << 29 };

/* ---------------------------------------------------------------- exits */
/* Is the value what the exit is said to be? */
static bool is_exit(const mth__program_value *value, const mth__exit *exit) {
    return value->dtype == exit->dtype && mth__shape_equal(value->shape, exit->shape) &&
        mth__sharding_equal(&value->sharding, &exit->sharding, exit->shape.rank);
}

/* What the role writes to an exit belongs there; the exit is the last value written, or a view of all of it. */
static mth_status check_exits(mth__verification *proof) {
    const mth__role *role = proof->role;
    for (size_t i = 0; i < role->instr.n; i++)
        for (int j = 0; j < role->instr.at[i].nout; j++) {
            int number = role->instr.at[i].out[j];
            if (role->value.at[number].storage == MTH__IN_EXIT) proof->exit_last[role->value.at[number].index] = number;
        }
    bool *fits = NEW_ARRAY(proof->arena, bool, role->value.n); /* by the value that is written last */
    for (int number = 0; number < (int)role->value.n; number++) {
        int base = mth__verify_base(role, number), exit_number = role->value.at[base].index;
        if (role->value.at[base].storage != MTH__IN_EXIT || proof->exit_last[exit_number] != base ||
            role->value.at[number].bytes != role->value.at[base].bytes)
            continue;
        fits[base] |= is_exit(&role->value.at[number], &proof->program->exit.at[exit_number]);
    }
    for (size_t k = 0; k < proof->exits.n; k++) {
        int exit_number = proof->exits.at[k], last = proof->exit_last[exit_number];
        const mth__exit *exit = &proof->program->exit.at[exit_number];
        if (last < 0)
            return mth__refuse(
                proof, -1, -1, F("nothing writes exit %d, %s, in which it has values", exit_number, exit->name));
        if (!fits[last])
            return mth__refuse(
                proof, -1, last, F("what leaves as exit %d, %s, is not what the exit is", exit_number, exit->name));
        proof->left[exit_number] += role->ndevice; /* all are on its placement, as that value is */
    }
    return NULL;
}

static bool writes_exit(const mth__role *role, const mth__instr *instruction, int exit_number) {
    for (int j = 0; j < instruction->nout; j++)
        if (role->value.at[instruction->out[j]].storage == MTH__IN_EXIT &&
            role->value.at[instruction->out[j]].index == exit_number)
            return true;
    return false;
}

/* Every device of an exit's placement writes it. */
static mth_status check_left(mth__verification *proof) {
    for (size_t exit_number = 0; exit_number < proof->program->exit.n; exit_number++) {
        const mth__exit *exit = &proof->program->exit.at[exit_number];
        if (proof->left[exit_number] == exit->sharding.on->count) continue;
        int d = mth__verify_lacking(proof, exit->sharding.on, writes_exit, (int)exit_number);
        if (d < 0) return INTERNAL("exit %zu: devices are counted wrongly", exit_number);
        int role_number = proof->program->role_of[d];
        if (role_number < 0)
            return mth__error_operator(
                FAIL(MTH_ERROR_VALUE,
                    F("exit %zu, %s: %d devices must write it, %lld do; device %d has no role", exit_number, exit->name,
                        exit->sharding.on->count, (long long)proof->left[exit_number], d),
                    F("give every device of its placement a role that writes it")),
                exit->name);
        proof->role = &proof->program->role.at[role_number];
        proof->number = role_number;
        return mth__refuse(
            proof, -1, -1, F("nothing writes exit %zu, %s, which its devices must have", exit_number, exit->name));
    }
    return NULL;
}

/* ---------------------------------------------------------------- entries, roles */
static mth_status whole(
    const char *kind, size_t i, const char *name, const mth__sharding *sharding, mth__shape shape, mth_dtype dtype) {
    mth_status bad = mth__shape_check(shape, dtype);
    if (!bad) bad = mth__sharding_check(sharding, shape);
    if (!bad && sharding->partial)
        bad = FAIL(MTH_ERROR_VALUE, F("%s %zu, %s, is a partial sum", kind, i, name),
            F("reduce it before it leaves the program, and give inputs whole"));
    return bad ? mth__error_operator(bad, name) : NULL;
}

/* An exit may succeed a parameter or a state of its dtype, shape and sharding that has no other successor. */
static mth_status check_successor(const mth__verification *proof, size_t i) {
    const mth__exit *exit = &proof->program->exit.at[i];
    if (exit->entry < 0 || (size_t)exit->entry >= proof->program->entry.n)
        return INTERNAL("exit %zu, %s, is the successor of an entry that there is not", i, exit->name);
    const mth__entry *entry = &proof->program->entry.at[exit->entry];
    char *what = NULL;
    if (entry->kind != MTH__ENTRY_PARAMETER && entry->kind != MTH__ENTRY_STATE)
        what = F("exit %zu, %s, is the successor of entry %d, %s, which is the caller's to keep", i, exit->name,
            exit->entry, entry->name);
    else if (exit->dtype != entry->dtype || !mth__shape_equal(exit->shape, entry->shape) ||
        exit->sharding.on != entry->sharding.on ||
        !mth__sharding_equal(&exit->sharding, &entry->sharding, exit->shape.rank))
        what = F("exit %zu, %s, is not what entry %d, %s, is, whose successor it is said to be", i, exit->name,
            exit->entry, entry->name);
    else if (proof->successor[exit->entry] >= 0)
        what = F("exits %d and %zu are both the successor of entry %d, %s", proof->successor[exit->entry], i,
            exit->entry, entry->name);
    proof->successor[exit->entry] = (int)i;
    if (!what) return NULL;
    return mth__error_operator(FAIL(MTH_ERROR_VALUE, what,
                                   F("let each parameter and state have one successor, of its dtype, shape and "
                                     "sharding")),
        exit->name);
}

/* A scalar, which is known at run time only, is one number that every device holds whole. */
static mth_status check_scalar(size_t i, const mth__entry *entry) {
    if (entry->kind != MTH__ENTRY_SCALAR || entry->shape.rank == 0) return NULL;
    return mth__error_operator(
        FAIL(MTH_ERROR_VALUE, F("entry %zu, %s, is a scalar and has %d dimensions", i, entry->name, entry->shape.rank),
            F("give it no dimension")),
        entry->name);
}

/* Refuses what would take too long to prove. */
static mth_status check_template(
    const mth__verification *proof, size_t channel_number, const mth__template *template, int64_t *steps) {
    const int64_t slots = (int64_t)template->n * template->chunks * (template->double_buffer ? 2 : 1);
    const int64_t bytes = mth__size_product(slots, ((int64_t)template->n + 63) / 64 * 8);
    *steps = mth__size_sum(*steps, mth__template_size(template));
    if (bytes <= MOST_SET_BYTES && *steps <= MOST_STEPS) return mth__template_verify(template);
    const mth__channel *channel = &proof->program->channel.at[channel_number];
    return mth__error_operator(
        FAIL(MTH_ERROR_VALUE,
            bytes > MOST_SET_BYTES
                ? F("%s %s over %d devices has more contributions to follow than are proved",
                      mth__channel_names[template->kind], mth__algorithm_names[template->algorithm], template->n)
                : F("the plan uses more templates of collectives than are proved: they have more "
                    "than %d steps together",
                      MOST_STEPS),
            F("use the direct algorithm, or groups of fewer devices or fewer different sizes")),
        mth__format(proof->arena, "channel c%zu (%s)", channel_number, channel->label));
}

static mth_status check_channels(const mth__verification *proof) {
    const mth__program *program = proof->program;
    int64_t steps = 0;
    int largest = 0;
    for (size_t i = 0; i < program->channel.n; i++) {
        const mth__channel *channel = &program->channel.at[i];
        TRY(mth__stop_check());
        mth_status bad = mth__channel_check(channel);
        if (bad) return mth__error_operator(bad, mth__format(proof->arena, "channel c%zu (%s)", i, channel->label));
        if (channel->algorithm != MTH__DIRECT && mth__channel_size(channel) > largest)
            largest = mth__channel_size(channel);
    }
    bool *proved = NEW_ARRAY(proof->arena, bool, MTH__TRANSFER *MTH__ALGORITHMS *(largest + 1));
    for (size_t i = 0; i < program->channel.n; i++) {
        const mth__channel *channel = &program->channel.at[i];
        if (channel->kind == MTH__TRANSFER || channel->algorithm == MTH__DIRECT) continue;
        const int n = mth__channel_size(channel);
        bool *done = &proved[((int)channel->kind * MTH__ALGORITHMS + (int)channel->algorithm) * (largest + 1) + n];
        if (*done) continue;
        const mth__template template = mth__template_get(channel->kind, channel->algorithm, n);
        TRY(check_template(proof, i, &template, &steps));
        *done = true;
    }
    return NULL;
}

static mth_status check_head(const mth__verification *proof) {
    const mth__program *program = proof->program;
    for (size_t i = 0; i < program->entry.n; i++)
        TRY(whole("entry", i, program->entry.at[i].name, &program->entry.at[i].sharding, program->entry.at[i].shape,
            program->entry.at[i].dtype));
    for (size_t i = 0; i < program->exit.n; i++)
        TRY(whole("exit", i, program->exit.at[i].name, &program->exit.at[i].sharding, program->exit.at[i].shape,
            program->exit.at[i].dtype));
    for (size_t i = 0; i < program->entry.n; i++) TRY(check_scalar(i, &program->entry.at[i]));
    for (size_t i = 0; i < program->exit.n; i++)
        if (program->exit.at[i].kind == MTH__EXIT_SUCCESSOR) TRY(check_successor(proof, i));
    return check_channels(proof);
}

static mth_status check_role(const mth__verification *proof) {
    const mth__role *role = proof->role;
    if (role->ndevice < 1) return INTERNAL("role %d has no device", proof->number);
    for (int i = 0; i < role->ndevice; i++) {
        int d = role->device[i];
        if (d < 0 || d >= proof->program->mesh->count || (i && d <= role->device[i - 1]) ||
            proof->program->role_of[d] != proof->number)
            return mth__refuse(proof, -1, -1, F("its devices don't ascend, or one has another role"));
    }
    for (int space = 0; space < MTH__SPACES; space++)
        if (role->slab[space] < 0)
            return mth__refuse(proof, -1, -1, F("its slab has %lld bytes", (long long)role->slab[space]));
    return NULL;
}

/* A label says where in the pipelines its instruction stands, or that it stands outside. */
static mth_status check_labels(const mth__verification *proof) {
    const mth__role *role = proof->role;
    for (int i = 0; i < (int)role->instr.n; i++) {
        const mth__label *label = &role->instr.at[i].label;
        if ((label->region < 0) != (label->stage < 0))
            return mth__refuse(proof, i, -1,
                F("its region is %d and its stage %d, where one is -1 only with the other", label->region,
                    label->stage));
        if (label->microbatch >= 0 && label->stage < 0)
            return mth__refuse(proof, i, -1, F("its microbatch %d is of no stage", label->microbatch));
        if (label->microbatch >= MTH__MOST_MICROBATCHES)
            return mth__refuse(proof, i, -1,
                F("its microbatch is %d, and a batch is cut into at most %d", label->microbatch,
                    MTH__MOST_MICROBATCHES));
    }
    return NULL;
}

static int *all_minus_one(const mth__verification *proof, size_t n) {
    int *at = NEW_ARRAY(proof->arena, int, n);
    return memset(at, -1, n * sizeof *at);
}

static mth_status verify(mth__verification *proof) {
    const mth__program *program = proof->program;
    const size_t channels = program->channel.n;
    proof->successor = all_minus_one(proof, program->entry.n);
    TRY(check_head(proof));
    int **by_channel[] = {&proof->opened_by, &proof->opened_role, &proof->sent_role, &proof->taken_role};
    for (size_t k = 0; k < sizeof by_channel / sizeof *by_channel; k++) *by_channel[k] = all_minus_one(proof, channels);
    proof->exit_role = all_minus_one(proof, program->exit.n);
    proof->exit_last = NEW_ARRAY(proof->arena, int, program->exit.n);
    proof->exit_entry = NEW_ARRAY(proof->arena, int, program->exit.n);
    proof->exit_bytes = NEW_ARRAY(proof->arena, int64_t, program->exit.n);
    proof->exit_start = NEW_ARRAY(proof->arena, int64_t, program->exit.n);
    proof->reach = NEW_ARRAY(proof->arena, mth__reach, program->mesh->placements.n);
    for (size_t i = 0; i < program->mesh->placements.n; i++) proof->reach[i].role = -1;
    proof->value = NEW_ARRAY(proof->arena, mth__value, MTH__MAX_IN + MTH__MAX_OUT);
    proof->node.in = NEW_ARRAY(proof->arena, mth__value *, MTH__MAX_IN + MTH__MAX_OUT);
    proof->sent = NEW_ARRAY(proof->arena, int64_t, channels);
    proof->taken = NEW_ARRAY(proof->arena, int64_t, channels);
    proof->left = NEW_ARRAY(proof->arena, int64_t, program->exit.n);
    for (size_t i = 0; i < program->role.n; i++) {
        proof->role = &program->role.at[i];
        proof->number = (int)i;
        proof->arena = mth__arena_new();
        mth_status status = check_role(proof);
        if (!status) status = check_labels(proof);
        if (!status) status = mth__verify_values(proof);
        if (!status) status = mth__verify_order(proof);
        if (!status) status = mth__verify_bytes(proof);
        if (!status) status = check_exits(proof);
        mth__arena_free(proof->arena);
        proof->arena = proof->lasting;
        if (status) return status;
    }
    TRY(check_left(proof));
    TRY(mth__verify_moves(proof));
    return mth__verify_channels(proof);
}

mth_status mth__program_verify(const mth__program *program) {
    mth__arena *arena = mth__arena_new();
    mth__verification proof = {.arena = arena, .lasting = arena, .program = program};
    mth_status status = verify(&proof);
    mth__arena_free(arena);
    return status;
}
