/* Public functions that read what a backend has traced of its plans. */
#include "engine/backend.h"
#include "observe/partition_trace.h"
#include <string.h>

struct mth_partition_trace {
    mth__arena *arena;
    const char *text;
    size_t count;
    mth_traced_operator *row;
};

static mth_traced_operator copy_row(mth__arena *arena, const mth_traced_operator *row) {
    mth_traced_operator copy = *row;
    int64_t *device = NEW_ARRAY(arena, int64_t, row->device_count);
    mth_traced_crossing *crossing = NEW_ARRAY(arena, mth_traced_crossing, row->crossing_count);
    if (row->device_count) memcpy(device, row->devices, row->device_count * sizeof *device);
    for (size_t i = 0; i < row->crossing_count; i++) {
        crossing[i] = row->crossings[i];
        crossing[i].label = mth__copy_text(arena, row->crossings[i].label);
    }
    copy.name = mth__copy_text(arena, row->name);
    copy.policy = mth__copy_text(arena, row->policy);
    copy.reason = mth__copy_text(arena, row->reason);
    copy.devices = device;
    copy.crossings = crossing;
    return copy;
}

typedef struct {
    const mth_backend *backend;
    mth_partition_trace **out;
} trace_request;

static mth_status read_trace(void *context) {
    const trace_request *reading = context;
    mth__arena *arena = mth__arena_new();
    mth_partition_trace *trace = NEW(arena, mth_partition_trace);
    mth__text text = mth__text_new(arena);
    trace->arena = arena;
    for (const mth__traced_model *model = reading->backend->traced; model; model = model->next)
        trace->count += model->rows;
    trace->row = NEW_ARRAY(arena, mth_traced_operator, trace->count);
    size_t row = 0;
    for (const mth__traced_model *model = reading->backend->traced; model; model = model->next) {
        mth__text_add(&text, "%smodel %lld, planned %s\n", text.n ? "\n" : "", (long long)model->number,
            model->gradients ? "with gradients" : "forward");
        mth__trace_print(&text, model->row, model->rows, model->gradients);
        for (size_t i = 0; i < model->rows; i++) trace->row[row++] = copy_row(arena, &model->row[i]);
    }
    if (!text.n) mth__text_add(&text, "no model has been planned on this backend yet\n");
    trace->text = text.at;
    mth__arena_keep(arena);
    *reading->out = trace;
    return NULL;
}

mth_status mth_backend_get_partition_trace(mth_backend *backend, mth_partition_trace **out) {
    TRY(mth__given(backend, "the backend"));
    TRY(mth__result_given(out));
    if (!backend->traces)
        return mth__error_operator(
            FAIL(MTH_ERROR_VALUE, F("the backend does not trace where its plans place operators"),
                F("create it with trace_module_partitioning=True")),
            "backend");
    TRY(mth__backend_lock(backend));
    mth_status status = mth__guard(read_trace, &(trace_request){backend, out});
    mth__backend_unlock(backend);
    return status;
}

void mth_partition_trace_free(mth_partition_trace *trace) {
    if (trace) mth__arena_free(trace->arena);
}
const char *mth_partition_trace_get_text(const mth_partition_trace *trace) { return trace ? trace->text : ""; }
size_t mth_partition_trace_get_count(const mth_partition_trace *trace) { return trace ? trace->count : 0; }
mth_traced_operator mth_partition_trace_get(const mth_partition_trace *trace, size_t i) {
    return trace && i < trace->count ? trace->row[i] : (mth_traced_operator){0};
}
