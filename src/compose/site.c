/* What the annotations of modules refer to: device ids count the devices of the backend's mesh row by row; device_mesh
 * and the axes of specs are those of the whole mesh, or, inside a stage of a Pipeline, of the stage's placement. */
#include "compose/model.h"
#include "compose/parts.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *mesh_text(char *buffer, size_t room, const mth__placement *placement) {
    mth__sink sink = mth__sink_new(buffer, room);
    mth__sink_add(&sink, "(");
    for (int axis = 0; axis < placement->naxes; axis++)
        mth__sink_add(&sink, axis ? ", %d" : "%d", placement->dim[axis]);
    mth__sink_add(&sink, placement->naxes == 1 ? ",)" : placement->naxes ? ")" : "1,)");
    return buffer;
}

static mth_status check_device(int64_t device, const mth__site *site, mth__mesh *mesh) {
    char place[256], whole[64];
    if (device < 0 || device >= mesh->count)
        return FAIL(MTH_ERROR_VALUE,
            F("device_id=%" PRId64 " lies outside of the mesh %s, which has %d %s", device,
                mesh_text(whole, sizeof whole, mth__place_whole(mesh)), mesh->count,
                mesh->count == 1 ? "device" : "devices"),
            F("give a device_id from 0 to %d, or a backend with a larger device_mesh", mesh->count - 1));
    if (site->place->rank_of[device] >= 0) return NULL;
    mth__placement_write(place, sizeof place, site->place);
    return FAIL(MTH_ERROR_VALUE, F("device_id=%" PRId64 " lies outside of the stage, which is on %s", device, place),
        F("use a device of the stage, such as %d, or leave device_id out", site->place->lowest));
}

static mth_status check_mesh(const mth_arg *given, const mth__site *site) {
    char expected[64];
    const mth__placement *placement = site->place;
    bool same = placement->naxes == (int)given->count ||
        (placement->naxes == 0 && given->count == 1 && given->items[0].integer == 1);
    for (int axis = 0; axis < placement->naxes && same; axis++)
        same = given->items[axis].integer == placement->dim[axis];
    if (same) return NULL;
    char text[96];
    mth__sink sink = mth__sink_new(text, sizeof text);
    mth__sink_add(&sink, "(");
    for (size_t axis = 0; axis < given->count; axis++)
        mth__sink_add(&sink, axis ? ", %" PRId64 : "%" PRId64, given->items[axis].integer);
    mth__sink_add(&sink, given->count == 1 ? ",)" : ")");
    mesh_text(expected, sizeof expected, placement);
    return FAIL(MTH_ERROR_VALUE,
        F("device_mesh=%s differs from %s, %s", text, site->stage < 0 ? "the backend's" : "the stage's", expected),
        F("give device_mesh=%s, or leave it out", expected));
}

mth_status mth__site_on(const mth_module *module, mth__mesh *mesh, const mth__site *site, const mth__placement **on) {
    const mth_arg *id = mth__module_option(module, "device_id"), *grid = mth__module_option(module, "device_mesh");
    *on = site->stage < 0 ? NULL : site->place;
    if (grid->kind == MTH_ARG_LIST) {
        TRY(check_mesh(grid, site));
        *on = site->place;
    }
    if (mth__module_sharded(module)) *on = site->place;
    if (id->kind != MTH_ARG_INT) return NULL;
    TRY(check_device(id->integer, site, mesh));
    *on = mth__place_device(mesh, (int)id->integer);
    return NULL;
}

const char *mth__site_reason(
    mth__arena *arena, const mth_module *module, const mth__site *site, const mth__graph *graph) {
    const mth_arg *id = mth__module_option(module, "device_id"), *grid = mth__module_option(module, "device_mesh");
    const char *sharded = mth__module_sharded(module);
    if (id->kind == MTH_ARG_INT) return mth__format(arena, "device_id=%" PRId64, id->integer);
    if (sharded) return mth__format(arena, "%s over %s", sharded, mth__placement_text(arena, site->place));
    if (grid->kind == MTH_ARG_LIST) return mth__format(arena, "device_mesh=%s", mth__arg_text(arena, *grid));
    if (site->stage < 0) return NULL;
    return mth__format(arena, "stage %d of %s", site->stage, graph->region.at[site->region]->name);
}

/* ---------------------------------------------------------------- XLA's partitioner */
/* Takes `why`. */
static mth_status unpartitionable(char *why, const char *fix) {
    mth_status status = FAIL(MTH_ERROR_UNSUPPORTED, F("XLA's partitioner (mesh_context='spmd') %s", why ? why : ""),
        F("use mesh_context='mpmd', or %s", fix));
    mth__free(why);
    return status;
}

mth_status mth__check_partitionable(const mth__sharding *sharding, int rank, const char *what) {
    if (!mth__sharding_disordered(sharding, rank)) return NULL;
    return unpartitionable(
        F("computes wrong values where axes split a dimension against their order: the spec of %s", what),
        "name the axes in the order of the mesh");
}

/* It takes one program for all devices, and deals nothing round robin. */
static mth_status check_partitioned(
    const mth_module *module, mth__mesh *mesh, const mth__site *site, const mth__placement *on) {
    const mth_arg *distribution = mth__module_option(module, "expert_distribution"),
                  *experts = mth__module_option(module, "num_experts");
    char where[256];
    int axis = 0;
    if (on && on != mth__place_whole(mesh)) {
        mth__placement_write(where, sizeof where, on);
        return unpartitionable(F("takes one program for the whole mesh, and this runs on %s", where),
            "take the device or stage from the operator");
    }
    while (axis < site->place->naxes && site->place->dim[axis] == 1) axis++;
    if (distribution && distribution->kind == MTH_ARG_STRING && !strcmp(distribution->string, "round_robin") &&
        axis < site->place->naxes && experts->integer > site->place->dim[axis])
        return unpartitionable(
            F("has no such parts as experts dealt round robin"), "expert_distribution='one_per_device'");
    return NULL;
}

/* A dimension of a parameter whose size options tell: the input is not needed to see that its parts are none of the
 * partitioner's. */
static mth_status check_blocks(
    const mth_module *module, const char *parameter, int d, mth__split split, const mth__placement *on) {
    int64_t size, devices = 1;
    if (!mth__parameter_extent(module, parameter, d, &size, &split.grain) || mth__split_in_blocks(size, &split, on))
        return NULL;
    for (int axis = 0; axis < split.naxes; axis++) devices *= on->dim[split.axis[axis]];
    return unpartitionable(F("has no such parts as %" PRId64 "%s over %" PRId64 " devices: dimension %d of %s",
                               size / split.grain, split.grain > 1 ? " that stay whole" : "", devices, d, parameter),
        "sizes that the mesh divides");
}

/* The parameters that weight_shard_spec is of: weight, or the weights of a MoE's experts. */
static bool is_of_weight(const mth_module *module, const char *parameter) {
    const size_t n = strlen(parameter);
    if (mth__parameter_rank(module->type, "weight")) return !strcmp(parameter, "weight");
    return !strncmp(parameter, "experts.", 8) && n > 7 && !strcmp(parameter + n - 7, ".weight");
}

static mth_status check_parameter(const mth_module *module, const char *parameter, const mth__site *site) {
    const mth_arg *spec = mth__module_option(module, "weight_shard_spec"),
                  *specs = mth__module_option(module, "shard_specs"), *axis = mth__module_option(module, "tensor_axis");
    if (spec && !is_of_weight(module, parameter)) spec = NULL;
    for (size_t i = 0; specs && i < specs->count; i++)
        if (!strcmp(specs->keys[i], parameter)) spec = &specs->items[i];
    const int rank = mth__parameter_rank(module->type, parameter);
    mth__sharding said = {.on = site->place};
    if (spec && spec->kind == MTH_ARG_LIST) TRY(mth__spec_read(*spec, site->place, rank, parameter, &said));
    for (int d = 0; d < rank; d++) {
        int64_t size;
        int32_t grain;
        if (!spec && axis && axis->kind == MTH_ARG_INT && mth__parameter_extent(module, parameter, d, &size, &grain) &&
            grain > 1)
            /* without grains one axis leaves parts in order */
            said.dim[d] = (mth__split){1, {(int8_t)axis->integer}, false, 0};
        if (said.dim[d].naxes) TRY(check_blocks(module, parameter, d, said.dim[d], site->place));
    }
    return NULL;
}

/* ---------------------------------------------------------------- all modules */
typedef struct {
    mth__mesh *mesh;
    bool partitioned;
    mth__arena *scratch;
} checking;

/* The axes alone: how many dimensions there are, only the shapes say. */
static mth_status check_spec(const mth_arg *spec, const char *what, const mth__site *site, bool partitioned) {
    mth__sharding axes;
    if (spec->kind == MTH_ARG_NONE) return NULL;
    if (spec->kind == MTH_ARG_LIST && spec->count > MTH__RANK)
        return FAIL(MTH_ERROR_VALUE, F("the spec of %s has %zu entries", what, spec->count),
            F("give one entry a dimension, at most %d", MTH__RANK));
    TRY(mth__spec_read(*spec, site->place, (int)spec->count, what, &axes));
    return partitioned ? mth__check_partitionable(&axes, (int)spec->count, what) : NULL;
}

static mth_status check_module(const checking *check, const mth_module *module, const mth__site *site) {
    const mth__placement *on;
    TRY(mth__site_on(module, check->mesh, site, &on));
    if (check->partitioned) TRY(check_partitioned(module, check->mesh, site, on));
    const mth_arg *weight = mth__module_option(module, "weight_shard_spec"),
                  *specs = mth__module_option(module, "shard_specs"), *axis = mth__module_option(module, "tensor_axis");
    if (weight) TRY(check_spec(weight, "weight", site, check->partitioned));
    for (size_t i = 0; specs && i < specs->count; i++)
        TRY(check_spec(&specs->items[i], specs->keys[i], site, check->partitioned));
    if (axis && axis->kind == MTH_ARG_INT && (axis->integer < 0 || axis->integer >= site->place->naxes)) {
        char text[64];
        mesh_text(text, sizeof text, site->place);
        if (site->place->naxes == 0)
            return FAIL(MTH_ERROR_VALUE,
                F("tensor_axis=%" PRId64 ", and there is a single device, no axis to split over", axis->integer),
                F("leave tensor_axis out"));
        return FAIL(MTH_ERROR_VALUE, F("tensor_axis=%" PRId64 " is no axis of the mesh %s", axis->integer, text),
            site->place->naxes == 1 ? F("give tensor_axis=0")
                                    : F("give a tensor_axis from 0 to %d", site->place->naxes - 1));
    }
    const mth__ports parameters =
        check->partitioned ? mth__parameter_names(check->scratch, module->type) : (mth__ports){0};
    for (int i = 0; i < parameters.n; i++) TRY(check_parameter(module, parameters.at[i].name, site));
    return NULL;
}

static mth_status check_model(checking *check, const mth_model *model, const mth__site *site, const char *prefix) {
    for (size_t i = 0; i < model->block.n; i++) {
        const mth__block *block = model->block.at[i];
        const char *path = mth__format(check->scratch, "%s%s", prefix, block->name);
        if (block->model) {
            TRY(check_model(check, block->model, site, mth__format(check->scratch, "%s.", path)));
            continue;
        }
        TRY(mth__error_source(mth__error_operator(check_module(check, block->module, site), path), block->line));
        for (size_t number = 0; number < mth__pipeline_stages(block->module); number++) {
            mth__site stage = {NULL, 0, (int)number};
            TRY(mth__error_source(
                mth__error_operator(mth__pipeline_place(block->module, check->mesh, number, &stage.place), path),
                block->line));
            TRY(check_model(check, mth__pipeline_stage(block->module, number), &stage,
                mth__format(check->scratch, "%s.stage_%zu.", path, number)));
        }
    }
    return NULL;
}

mth_status mth__site_check(const mth_model *model, mth__mesh *mesh, const mth__site *site, bool partitioned) {
    checking check = {mesh, partitioned, mth__arena_new()};
    TRY(check_model(&check, model, site, ""));
    mth__arena_free(check.scratch);
    return NULL;
}

/* ---------------------------------------------------------------- the stages of a Pipeline */
mth_status mth__pipeline_place(const mth_module *module, mth__mesh *mesh, size_t stage, const mth__placement **on) {
    const mth_arg *assignment = mth__module_option(module, "device_assignment"),
                  *axis = mth__module_option(module, "axis");
    if (axis->kind == MTH_ARG_INT) {
        if (axis->integer < 0 || axis->integer >= mesh->naxes)
            return FAIL(MTH_ERROR_VALUE,
                F("axis=%" PRId64 ", and the mesh has %d %s", axis->integer, mesh->naxes,
                    mesh->naxes == 1 ? "axis" : "axes"),
                mesh->naxes == 1 ? F("give axis=0, or leave it out") : F("give an axis from 0 to %d", mesh->naxes - 1));
        *on = mth__place_slice(mesh, (int)axis->integer, (int)(stage % (size_t)mesh->dim[axis->integer]));
        return NULL;
    }
    if (assignment->kind == MTH_ARG_NONE)
        return *on = mth__place_device(mesh, (int)(stage % (size_t)mesh->count)), NULL;
    const mth_arg *value = &assignment->items[stage], *id = value->kind == MTH_ARG_LIST ? value->items : value;
    size_t n = value->kind == MTH_ARG_LIST ? value->count : 1;
    for (size_t i = 0; i < n; i++)
        if (id[i].integer < 0 || id[i].integer >= mesh->count)
            return FAIL(MTH_ERROR_VALUE,
                F("device_assignment gives stage_%zu device %" PRId64 ", and the mesh has %d", stage, id[i].integer,
                    mesh->count),
                F("give devices from 0 to %d, or a backend with a larger device_mesh", mesh->count - 1));
    int32_t *device = NEW_ARRAY(mesh->arena, int32_t, n);
    for (size_t i = 0; i < n; i++) device[i] = (int32_t)id[i].integer;
    *on = mth__place_list(mesh, (int)n, device);
    return NULL;
}
