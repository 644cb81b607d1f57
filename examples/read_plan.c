/* A plan can be read before it runs, parsed back, and proved; a plan that was tampered with is refused by name. */
#include <mithril.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    mth_module *linear;
    mth_model *model;
    mth_backend *backend;
    mth_compiled *compiled;
    char *plan, *again, *placement;
    MTH_CHECK(mth_module_create("Linear",
        MTH_OPTIONS({"dimension", mth_int(8)}, {"weight_shard_spec", MTH_SPEC(mth_int(0), MTH_NONE)}), &linear));
    MTH_CHECK(mth_model_create(&model));
    MTH_CHECK(mth_model_add(model, linear, MTH_WIRES({"input", "input"}, {"output", "output"}), MTH_PLAIN));
    const char *kinds[] = {"all_reduce"};
    mth_arg names[] = {mth_string("ring")};
    MTH_CHECK(mth_backend_create(
        "native", MTH_OPTIONS({"device_mesh", MTH_INTS(4)}, {"collective_ops", mth_dict(1, kinds, names)}), &backend));
    MTH_CHECK(mth_compile(model, backend,
        MTH_OPTIONS({"shapes", mth_dict(1, (const char *[]){"input"}, (mth_arg[]){MTH_INTS(4, 16)})}), &compiled));
    MTH_CHECK(mth_plan(compiled, NULL, 0, false)); /* nothing has run, nothing has been allocated on a device */
    MTH_CHECK(mth_plan_print(compiled, &plan));
    MTH_CHECK(mth_get_placement_text(compiled, &placement));
    printf("%s\n%s", plan, placement);

    MTH_CHECK(mth_plan_verify_text(plan));
    MTH_CHECK(mth_plan_reprint(plan, &again));
    bool same = strcmp(plan, again) == 0;

    /* Let the bias be added to what the collective takes (%2), not to what it gives (%6): a partial sum used as a
     * value. */
    char *collective = strstr(plan, "= all_reduce"), *operand = collective ? strstr(collective, " c0 ") : NULL,
         *add = collective ? strstr(collective, "= add ") : NULL;
    bool refused = false;
    if (operand && add) {
        memcpy(add + strlen("= add "), operand + strlen(" c0 "), 2);
        mth_status s = mth_plan_verify_text(plan);
        refused = s != NULL && strstr(mth_error_get_message(s), "partial sum");
        if (s) printf("the tampered plan is refused:\n%s\n", mth_error_get_message(s));
        mth_error_free(s);
    }
    mth_text_free(plan);
    mth_text_free(again);
    mth_text_free(placement);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
    mth_model_free(model);
    mth_module_free(linear);
    return !same || !refused;
}
