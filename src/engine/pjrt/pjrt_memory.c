/* What a run takes of each device besides its entries and exits: what modules leave for later ones, and by XLA's own
 * statistics what a module needs while it runs. A device runs its modules one after another, so that the most of these
 * moments counts. */
#include "engine/pjrt/pjrt_job.h"

typedef struct {
    mth__executable *executable;
    int64_t *held;             /* by cell: bytes of a buffer that a module or a hop has made */
    int64_t *live, *exits;     /* by device: now, exits included; of exits */
    int64_t *working, *moving; /* by device: the most so far, in modules and in hops */
    bool told;
} memory_count;

static int64_t slot_bytes(const mth__slot *slot) {
    return mth__shape_size(slot->local) * (int64_t)mth_dtype_size(slot->any->dtype);
}
static void raise_to(int64_t *most, int64_t bytes) {
    if (bytes > *most) *most = bytes;
}
static int64_t *held_of(const memory_count *count, int slot, int device) {
    const int rank = count->executable->segments->slot.at[slot].any->sharding.on->rank_of[device];
    return rank < 0 ? NULL : &count->held[count->executable->first[slot] + rank];
}
static void make(memory_count *count, int slot, int device) {
    const mth__slot *made = &count->executable->segments->slot.at[slot];
    int64_t *held = held_of(count, slot, device);
    if (!held) return;
    *held = slot_bytes(made);
    count->live[device] += *held;
    if (made->last_read == MTH__AT_EXIT) count->exits[device] += *held;
}

static void run_segment(memory_count *count, const mth__job *job) {
    const mth__segment *segment = job->segment;
    const bool global = count->executable->segments->global;
    const int devices = global ? count->executable->program->mesh->count : segment->count;
    const mth__module *module = job->module;
    count->told &= module->temporaries >= 0;
    for (int d = 0; d < devices; d++) {
        const int device = global ? d : segment->device[d];
        const int64_t before = count->live[device];
        for (size_t i = 0; i < segment->out.n; i++) make(count, segment->out.at[i], device);
        /* Results that take over the memory of arguments are counted once. */
        const int64_t after = count->live[device] - (module->aliased > 0 ? module->aliased : 0);
        raise_to(&count->working[device], (after > before ? after : before) + module->temporaries);
    }
}

static void run_hop(memory_count *count, const mth__job *job) {
    for (int i = 0; i < job->targets; i++) {
        const mth__hop_target *target = &job->target[i];
        int64_t pieces = 0;
        bool copied = target->join != NULL;
        for (int k = 0; k < target->pieces; k++) {
            const mth__hop_piece *piece = &target->piece[k];
            const mth__slot *from = &count->executable->segments->slot.at[job->hop.from];
            const int64_t bytes = piece->cut ? piece->cut->outputs : slot_bytes(from);
            if (piece->cut) raise_to(&count->moving[piece->from_device], bytes + piece->cut->temporaries);
            if (piece->cut || piece->from_device != target->device) {
                pieces += bytes;
                copied = true;
            }
        }
        if (target->join) raise_to(&count->moving[target->device], pieces + target->join->temporaries);
        if (copied) make(count, job->hop.to, target->device);
        raise_to(&count->working[target->device], count->live[target->device]);
    }
}

static void drop(memory_count *count, const mth__job *job) {
    for (int i = 0; i < job->drops; i++) {
        const mth__placement *on = count->executable->segments->slot.at[job->drop[i]].any->sharding.on;
        for (int rank = 0; rank < on->count; rank++) {
            int64_t *held = held_of(count, job->drop[i], on->device[rank]);
            count->live[on->device[rank]] -= *held;
            *held = 0;
        }
    }
}

typedef struct {
    mth__executable *executable;
    int64_t *working, *moving;
} memory_request;
static mth_status count_body(void *argument) {
    const memory_request *request = argument;
    mth__executable *executable = request->executable;
    const int devices = executable->program->mesh->count;
    mth__arena *arena = mth__arena_new();
    memory_count count = {.executable = executable,
        .held = NEW_ARRAY(arena, int64_t, executable->first[executable->segments->slot.n]),
        .live = NEW_ARRAY(arena, int64_t, devices),
        .exits = NEW_ARRAY(arena, int64_t, devices),
        .working = request->working,
        .moving = request->moving,
        .told = true};
    for (size_t i = 0; i < executable->module.n; i++) {
        mth__module *module = executable->module.at[i];
        mth__xla_facts facts;
        mth__xla_memory(module->xla, &facts);
        module->outputs = facts.outputs;
        module->temporaries = facts.temporaries;
        module->aliased = facts.aliased;
    }
    for (int d = 0; d < devices; d++) count.working[d] = count.moving[d] = 0;
    for (size_t number = 0; number < executable->job.n; number++) {
        const mth__job *job = &executable->job.at[number];
        if (job->segment)
            run_segment(&count, job);
        else
            run_hop(&count, job);
        drop(&count, job);
    }
    for (int d = 0; d < devices; d++) {
        /* Exits are not counted here: what was there before they were made may have taken no more. */
        count.working[d] = count.working[d] > count.exits[d] ? count.working[d] - count.exits[d] : 0;
        if (!count.told) count.working[d] = count.moving[d] = -1;
    }
    mth__arena_free(arena);
    return NULL;
}

mth_status mth__pjrt_memory(mth__executable *executable, int64_t *working, int64_t *moving) {
    memory_request request = {executable, working, moving};
    return mth__executable_read(executable, count_body, &request);
}
