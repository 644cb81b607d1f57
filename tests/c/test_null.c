/* NULL in every place of the public API: each is an error that says so, leaves nothing behind and changes nothing. */
#include "unit.h"

/* The call is refused for a NULL, and what it was given is as it was. */
#define REFUSED(call)                                                                                                  \
    do {                                                                                                               \
        int64_t live = mth_debug_live_allocations();                                                                   \
        CHECK_FAILS(call, MTH_ERROR_TYPE, "NULL");                                                                     \
        CHECK(mth_debug_live_allocations() == live);                                                                   \
    } while (0)

static const int64_t shape[] = {4, 6};
static mth_arg null_list(size_t n) { return mth_list(n, NULL); }

TEST(composing) {
    mth_module *module = NULL, *made = NULL;
    mth_model *model = NULL, *sub = NULL;
    char *text = NULL;
    CHECK_STATUS(mth_module_create("Relu", NULL, 0, &module));
    CHECK_STATUS(mth_model_create(&model));
    CHECK_STATUS(mth_model_create(&sub));
    CHECK_STATUS(mth_model_add(sub, module, MTH_WIRES({"input", "x"}), MTH_PLAIN));

    REFUSED(mth_module_create(NULL, NULL, 0, &made));
    REFUSED(mth_module_create("Relu", NULL, 1, &made));
    REFUSED(mth_module_create("Relu", MTH_OPTIONS({NULL, mth_int(1)}), &made));
    REFUSED(mth_module_create("Relu", NULL, 0, NULL));
    REFUSED(mth_module_copy(NULL, &made));
    REFUSED(mth_module_copy(module, NULL));
    REFUSED(mth_model_copy(NULL, &sub));
    REFUSED(mth_model_copy(model, NULL));
    REFUSED(mth_model_create(NULL));
    REFUSED(mth_model_add(NULL, module, NULL, 0, MTH_PLAIN));
    REFUSED(mth_model_add(model, NULL, NULL, 0, MTH_PLAIN));
    REFUSED(mth_model_add(model, module, NULL, 1, MTH_PLAIN));
    REFUSED(mth_model_add(model, module, MTH_WIRES({NULL, "x"}), MTH_PLAIN));
    REFUSED(mth_model_add(model, module, MTH_WIRES({"input", NULL}), MTH_PLAIN));
    REFUSED(mth_model_add_model(NULL, sub, "s", NULL, 0, MTH_PLAIN));
    REFUSED(mth_model_add_model(model, NULL, "s", NULL, 0, MTH_PLAIN));
    REFUSED(mth_model_add_model(model, sub, "s", NULL, 2, MTH_PLAIN));
    REFUSED(mth_model_add_model(model, sub, "s", MTH_WIRES({NULL, NULL}), MTH_PLAIN));
    REFUSED(mth_model_connect(NULL, "a", "b"));
    REFUSED(mth_model_connect(model, NULL, "b"));
    REFUSED(mth_model_connect(model, "a", NULL));
    const char *const *names = NULL;
    size_t count = 7;
    REFUSED(mth_model_expose(NULL, "a"));
    REFUSED(mth_model_expose(model, NULL));
    REFUSED(mth_model_get_inputs(NULL, &names, &count));
    REFUSED(mth_model_get_inputs(model, NULL, &count));
    REFUSED(mth_model_get_outputs(model, &names, NULL));
    CHECK(!names && count == 7);
    CHECK(!mth_takes_mask(NULL, "mask"));
    CHECK(!mth_compiled_get_inputs(NULL, &count) && count == 0 && !mth_compiled_get_outputs(NULL, NULL) &&
        !mth_compiled_get_parameters(NULL, NULL));
    REFUSED(mth_model_print(NULL, &text));
    REFUSED(mth_model_print(sub, NULL));
    CHECK(!made && !text && !mth_module_get_ports(NULL));
    CHECK(!mth_module_type_signature(NULL) && !mth_module_type_ports(NULL) && !mth_module_type_doc(NULL));

    /* A model that refused all of that is as it was: empty. */
    CHECK_STATUS(mth_model_add_model(model, sub, NULL, MTH_WIRES({"x", "x"}), MTH_PLAIN));
    CHECK_STATUS(mth_model_print(model, &text));
    CHECK(text && strstr(text, "model_0") && !strstr(text, "relu_1"));
    mth_text_free(text);
    mth_text_free(NULL);
    mth_model_free(sub);
    mth_model_free(model);
    mth_model_free(NULL);
    mth_module_free(module);
    mth_module_free(NULL);
}

/* Of what there is no such way, nothing is added. */
TEST(ways_to_add) {
    mth_module *relu = NULL;
    mth_model *model = NULL, *sub = NULL;
    CHECK_STATUS(mth_module_create("Relu", NULL, 0, &relu));
    CHECK_STATUS(mth_model_create(&model));
    CHECK_STATUS(mth_model_create(&sub));
    CHECK_STATUS(mth_model_add(sub, relu, NULL, 0, MTH_PLAIN));
    static const int modes[] = {-1, 2, 77};
    for (int i = 0; i < 3; i++) {
        const mth_add_mode mode = (mth_add_mode)modes[i];
        CHECK_FAILS(mth_model_add(model, relu, NULL, 0, mode), MTH_ERROR_TYPE, "MTH_PLAIN or MTH_CHAIN");
        CHECK_FAILS(mth_model_add_model(model, sub, NULL, NULL, 0, mode), MTH_ERROR_TYPE, "MTH_PLAIN or MTH_CHAIN");
    }
    const char *const *names = NULL;
    size_t count = 7;
    CHECK_STATUS(mth_model_get_outputs(model, &names, &count));
    CHECK(count == 0);
    mth_model_free(sub);
    mth_model_free(model);
    mth_module_free(relu);
}

TEST(values_of_options) {
    mth_module *made = NULL;
    mth_backend *backend = NULL;
    static const char *const no_key[] = {NULL};
    const mth_arg one = mth_int(1), text = mth_string(NULL), nothing = mth_list(1, &text);
    const mth_arg keyless = mth_dict(1, NULL, &one), nameless = mth_dict(1, no_key, &one),
                  itemless = mth_dict(1, (const char *const[]){"weight"}, NULL);
    REFUSED(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(4)}, {"name", mth_string(NULL)}), &made));
    REFUSED(mth_module_create(
        "Linear", MTH_OPTIONS({"dimension", mth_int(4)}, {"weight_shard_spec", null_list(2)}), &made));
    REFUSED(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(4)}, {"weight_shard_spec", nothing}), &made));
    REFUSED(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(4)}, {"shard_specs", keyless}), &made));
    REFUSED(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(4)}, {"shard_specs", nameless}), &made));
    REFUSED(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(4)}, {"shard_specs", itemless}), &made));
    REFUSED(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(4)}, {"device_mesh", null_list(1)}), &made));
    REFUSED(
        mth_module_create("Pipeline", MTH_OPTIONS({"stages", mth_list(1, (mth_arg[]){mth_submodel(NULL)})}), &made));
    REFUSED(mth_backend_create("native", MTH_OPTIONS({"device_mesh", null_list(2)}), &backend));
    REFUSED(mth_backend_create(
        "native", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}, {"collective_ops", nameless}), &backend));
    REFUSED(
        mth_backend_create("pjrt", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}, {"plugin", mth_string(NULL)}), &backend));

    mth_arg deep[20] = {mth_int(0)}, strange = {.kind = (mth_arg_kind)99};
    const mth_arg seven = {MTH_ARG_BOOL, 0, {7}, NULL}; /* made by hand */
    CHECK_FAILS(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(4)}, {"bias", seven}), &made),
        MTH_ERROR_TYPE, "a boolean of the value 7");
    for (int i = 1; i < 20; i++) deep[i] = mth_list(1, &deep[i - 1]);
    mth_arg wide[15] = {mth_int(0)}; /* lists that share their items, 100 each */
    mth_arg hundred[15][100];
    for (int i = 1; i < 15; i++) {
        for (int k = 0; k < 100; k++) hundred[i][k] = wide[i - 1];
        wide[i] = mth_list(100, hundred[i]);
    }
    static char long_text[1 << 16];
    memset(long_text, 'x', sizeof long_text - 1);
    static mth_arg many[(1 << 20) + 1], texts[2000];
    const char *long_keys[2000];
    for (int i = 0; i < 2000; i++) texts[i] = mth_string(long_text), long_keys[i] = long_text;
    for (int i = 0; i <= 1 << 20; i++) many[i] = mth_int(0);
    mth_arg circle = mth_list(1, &circle);
    CHECK_FAILS(
        mth_module_create("Linear", MTH_OPTIONS({"dimension", deep[19]}), &made), MTH_ERROR_VALUE, "more than 16 deep");
    CHECK_FAILS(
        mth_module_create("Linear", MTH_OPTIONS({"dimension", deep[16]}), &made), MTH_ERROR_TYPE, "dimension=((((");
    CHECK_FAILS(
        mth_module_create("Linear", MTH_OPTIONS({"dimension", circle}), &made), MTH_ERROR_VALUE, "more than 16 deep");
    CHECK_FAILS(mth_module_create("Linear", MTH_OPTIONS({"dimension", strange}), &made), MTH_ERROR_TYPE, "the kind 99");
    CHECK_FAILS(mth_module_create("Linear", MTH_OPTIONS({"dimension", wide[14]}), &made), MTH_ERROR_VALUE,
        "more than 1048576 items");
    CHECK_FAILS(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_list(2000, texts)}), &made), MTH_ERROR_VALUE,
        "more than 1048576 items");
    CHECK_FAILS(mth_module_create("Linear", MTH_OPTIONS({"shard_specs", mth_dict(2000, long_keys, many)}), &made),
        MTH_ERROR_VALUE, "more than 1048576 items");
    CHECK_FAILS(mth_module_create("Linear", MTH_OPTIONS({"shard_specs", mth_list((1 << 20) + 1, many)}), &made),
        MTH_ERROR_VALUE, "more than 1048576 items");
    CHECK_FAILS(mth_module_create("Linear", MTH_OPTIONS({"shard_specs", mth_list(1 << 20, many)}), &made),
        MTH_ERROR_TYPE, "is not a dict");
    CHECK(!made && !backend);
}

TEST(backends_and_arrays) {
    mth_backend *backend = NULL, *none = NULL;
    mth_array *x = NULL, *a = NULL;
    mth_arrays *all = NULL;
    char *text = NULL;
    float data[24] = {0};
    const mth_arg spec = null_list(2);
    CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}), &backend));
    CHECK_STATUS(mth_array_randn(backend, 2, shape, 0, NULL, &x));

    REFUSED(mth_backend_create(NULL, NULL, 0, &none));
    REFUSED(mth_backend_create("native", NULL, 1, &none));
    REFUSED(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}), NULL));
    REFUSED(mth_backend_describe(NULL, &text));
    REFUSED(mth_backend_describe(backend, NULL));
    mth_partition_trace *trace = NULL;
    REFUSED(mth_backend_get_partition_trace(NULL, &trace));
    REFUSED(mth_backend_get_partition_trace(backend, NULL));
    CHECK(!mth_partition_trace_get_count(NULL) && !*mth_partition_trace_get_text(NULL) &&
        !mth_partition_trace_get(NULL, 0).name);
    mth_partition_trace_free(NULL);
    REFUSED(mth_array_from_data(NULL, MTH_FLOAT32, 2, shape, data, NULL, &a));
    REFUSED(mth_array_from_data(backend, MTH_FLOAT32, 2, NULL, data, NULL, &a));
    REFUSED(mth_array_from_data(backend, MTH_FLOAT32, 2, shape, NULL, NULL, &a));
    REFUSED(mth_array_from_data(backend, MTH_FLOAT32, 2, shape, data, &spec, &a));
    REFUSED(mth_array_from_data(backend, MTH_FLOAT32, 2, shape, data, NULL, NULL));
    REFUSED(mth_array_borrow(NULL, MTH_FLOAT32, 2, shape, data, NULL, NULL, &a));
    REFUSED(mth_array_borrow(backend, MTH_FLOAT32, 2, NULL, data, NULL, NULL, &a));
    REFUSED(mth_array_borrow(backend, MTH_FLOAT32, 2, shape, NULL, NULL, NULL, &a));
    REFUSED(mth_array_borrow(backend, MTH_FLOAT32, 2, shape, data, NULL, NULL, NULL));
    REFUSED(mth_array_randn(NULL, 2, shape, 0, NULL, &a));
    REFUSED(mth_array_randn(backend, 2, NULL, 0, NULL, &a));
    REFUSED(mth_array_randn(backend, 2, shape, 0, &spec, &a));
    REFUSED(mth_array_randn(backend, 2, shape, 0, NULL, NULL));
    REFUSED(mth_array_randint(NULL, 0, 2, 2, shape, 0, NULL, &a));
    REFUSED(mth_array_randint(backend, 0, 2, 2, NULL, 0, NULL, &a));
    REFUSED(mth_array_randint(backend, 0, 2, 2, shape, 0, NULL, NULL));
    REFUSED(mth_array_full(NULL, MTH_FLOAT32, 1, 2, shape, NULL, &a));
    REFUSED(mth_array_full(backend, MTH_FLOAT32, 1, 2, NULL, NULL, &a));
    REFUSED(mth_array_full(backend, MTH_FLOAT32, 1, 2, shape, NULL, NULL));
    REFUSED(mth_array_from_safetensors(NULL, "file", "a", false, NULL, &a));
    REFUSED(mth_array_from_safetensors(backend, NULL, "a", false, NULL, &a));
    REFUSED(mth_array_from_safetensors(backend, "file", NULL, false, NULL, &a));
    REFUSED(mth_array_from_safetensors(backend, "file", "a", false, NULL, NULL));
    REFUSED(mth_array_read_safetensors(NULL, "file", "a", false, &a));
    REFUSED(mth_array_read_safetensors(x, NULL, "a", false, &a));
    REFUSED(mth_array_read_safetensors(x, "file", NULL, false, &a));
    REFUSED(mth_array_read_safetensors(x, "file", "a", false, NULL));
    mth_arrays *layout = NULL, *read = NULL;
    CHECK_STATUS(mth_arrays_create((mth_named[]){{"w", x}}, 1, &layout));
    REFUSED(mth_arrays_read_safetensors(NULL, "file", &(mth_file_tensor){"w", "a", false}, 1, &read));
    REFUSED(mth_arrays_read_safetensors(layout, NULL, &(mth_file_tensor){"w", "a", false}, 1, &read));
    REFUSED(mth_arrays_read_safetensors(layout, "file", NULL, 1, &read));
    REFUSED(mth_arrays_read_safetensors(layout, "file", &(mth_file_tensor){NULL, "a", false}, 1, &read));
    REFUSED(mth_arrays_read_safetensors(layout, "file", &(mth_file_tensor){"w", NULL, false}, 1, &read));
    REFUSED(mth_arrays_read_safetensors(layout, "file", &(mth_file_tensor){"w", "a", false}, 1, NULL));
    mth_arrays_free(layout);
    REFUSED(mth_array_gather(NULL, data));
    REFUSED(mth_array_gather(x, NULL));
    REFUSED(mth_arrays_create(NULL, 1, &all));
    REFUSED(mth_arrays_create((mth_named[]){{NULL, x}}, 1, &all));
    REFUSED(mth_arrays_create((mth_named[]){{"x", NULL}}, 1, &all));
    REFUSED(mth_arrays_create((mth_named[]){{"x", x}}, 1, NULL));
    CHECK(!none && !a && !all && !text);

    /* Numbers that lie are refused before anything is read by them. */
    static const int ranks[] = {-1, 9, 100, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 5; i++) {
        CHECK_FAILS(
            mth_array_from_data(backend, MTH_FLOAT32, ranks[i], shape, data, NULL, &a), MTH_ERROR_VALUE, "dimensions");
        CHECK_FAILS(mth_array_borrow(backend, MTH_FLOAT32, ranks[i], shape, data, NULL, NULL, &a), MTH_ERROR_VALUE,
            "dimensions");
        CHECK_FAILS(mth_array_full(backend, MTH_FLOAT32, 1, ranks[i], shape, NULL, &a), MTH_ERROR_VALUE, "dimensions");
        CHECK_FAILS(mth_array_randn(backend, ranks[i], shape, 0, NULL, &a), MTH_ERROR_VALUE, "dimensions");
    }
    static const uint8_t truths[64] __attribute__((aligned(64))) = {1, 0, 7};
    CHECK_FAILS(mth_array_from_data(backend, MTH_BOOL, 1, (int64_t[]){3}, truths, NULL, &a), MTH_ERROR_VALUE,
        "element 2 of the bool data is 7");
    CHECK_FAILS(
        mth_array_borrow(backend, MTH_BOOL, 1, (int64_t[]){3}, truths, NULL, NULL, &a), MTH_ERROR_VALUE, "element 2");
    CHECK_FAILS(mth_array_full(backend, MTH_BOOL, 2, 0, NULL, NULL, &a), MTH_ERROR_VALUE, "0 or 1");
    CHECK_FAILS(mth_array_full(backend, MTH_INT32, 1.5, 0, NULL, NULL, &a), MTH_ERROR_VALUE, "whole");
    CHECK_FAILS(
        mth_arrays_create((mth_named[]){{"x", x}, {"y", x}, {"x", x}}, 3, &all), MTH_ERROR_KEY, "'x' is given twice");
    const mth_arg ring[] = {mth_string("ring"), mth_string("tree")};
    CHECK_FAILS(mth_backend_create("native",
                    MTH_OPTIONS({"device_mesh", MTH_INTS(2)},
                        {"collective_ops", mth_dict(2, (const char *const[]){"all_reduce", "all_reduce"}, ring)}),
                    &none),
        MTH_ERROR_KEY, "'all_reduce' twice");
    CHECK(!none && !a && !all);

    CHECK(mth_backend_get_mesh(NULL, NULL) == 0 && mth_backend_get_mesh(backend, NULL) == 1 &&
        mth_backend_get_device_count(NULL) == 0);
    CHECK(!mth_backend_option_doc(NULL) && !mth_array_get_dtype(NULL) && !mth_array_get_rank(NULL) &&
        !mth_array_get_shape(NULL));
    CHECK(!*mth_array_get_sharding(NULL) && !mth_array_get_shard_count(NULL) && !mth_array_get_shard(NULL, 0).data &&
        !mth_array_get_whole(NULL));
    CHECK(!mth_arrays_get_count(NULL) && !mth_arrays_get(NULL, 0).name && !mth_arrays_find(NULL, "x"));
    CHECK_STATUS(mth_arrays_create(NULL, 0, &all));
    CHECK(!mth_arrays_find(all, NULL) && !mth_arrays_find(all, "x"));
    mth_arrays_free(all);
    mth_arrays_free(NULL);
    mth_array_retain(NULL);
    mth_array_free(x);
    mth_array_free(NULL);
    mth_backend_free(backend);
    mth_backend_free(NULL);
}

TEST(compiled_models) {
    mth_backend *backend = NULL;
    mth_module *linear = NULL;
    mth_model *model = NULL;
    mth_compiled *compiled = NULL, *none = NULL;
    mth_array *array = NULL;
    mth_arrays *parameters = NULL, *outputs = NULL, *slopes = NULL;
    char *text = NULL;
    mth_memory_usage memory[2];
    mth_communication_usage traffic[2];
    CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}), &backend));
    CHECK_STATUS(mth_array_randn(backend, 2, shape, 0, NULL, &array));
    CHECK_STATUS(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(3)}), &linear));
    CHECK_STATUS(mth_model_create(&model));
    CHECK_STATUS(mth_model_add(model, linear, MTH_WIRES({"input", "x"}, {"output", "y"}), MTH_PLAIN));
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &compiled));
    const mth_named input[] = {{"x", array}}, nameless[] = {{NULL, array}}, empty[] = {{"x", NULL}};
    CHECK_STATUS(mth_get_parameters(compiled, input, 1, 0, &parameters));

    REFUSED(mth_compile(NULL, backend, NULL, 0, &none));
    REFUSED(mth_compile(model, NULL, NULL, 0, &none));
    REFUSED(mth_compile(model, backend, NULL, 1, &none));
    REFUSED(mth_compile(model, backend,
        MTH_OPTIONS({"input_shard_specs", mth_dict(1, (const char *const[]){"x"}, (mth_arg[]){null_list(2)})}), &none));
    REFUSED(mth_compile(model, backend,
        MTH_OPTIONS({"shapes", mth_dict(1, (const char *const[]){NULL}, (mth_arg[]){MTH_INTS(4, 6)})}), &none));
    REFUSED(mth_compile(model, backend, NULL, 0, NULL));
    const mth_gradient_request unlisted = {NULL, 1, NULL, 0}, unnamed = {NULL, 0, NULL, 1},
                               no_name = {NULL, 0, (const char *const[]){NULL}, 1}, no_array = {empty, 1, NULL, 0};
    REFUSED(mth_get_parameters(NULL, input, 1, 0, &slopes));
    REFUSED(mth_get_parameters(compiled, NULL, 1, 0, &slopes));
    REFUSED(mth_get_parameters(compiled, nameless, 1, 0, &slopes));
    REFUSED(mth_get_parameters(compiled, empty, 1, 0, &slopes));
    REFUSED(mth_get_parameters(compiled, input, 1, 0, NULL));
    REFUSED(mth_get_parameter_layout(NULL, input, 1, &slopes));
    REFUSED(mth_get_parameter_layout(compiled, NULL, 1, &slopes));
    REFUSED(mth_get_parameter_layout(compiled, input, 1, NULL));
    REFUSED(mth_evaluate(NULL, parameters, input, 1, NULL, &outputs, NULL));
    REFUSED(mth_evaluate(compiled, parameters, NULL, 1, NULL, &outputs, NULL));
    REFUSED(mth_evaluate(compiled, parameters, nameless, 1, NULL, &outputs, NULL));
    REFUSED(mth_evaluate(compiled, parameters, empty, 1, NULL, &outputs, NULL));
    REFUSED(mth_evaluate(compiled, parameters, input, 1, NULL, NULL, NULL));
    REFUSED(mth_evaluate(compiled, parameters, input, 1, &unlisted, &outputs, &slopes));
    REFUSED(mth_evaluate(compiled, parameters, input, 1, &unnamed, &outputs, &slopes));
    REFUSED(mth_evaluate(compiled, parameters, input, 1, &no_name, &outputs, &slopes));
    REFUSED(mth_evaluate(compiled, parameters, input, 1, &no_array, &outputs, &slopes));
    REFUSED(mth_plan_print(NULL, &text));
    REFUSED(mth_plan_print(compiled, NULL));
    REFUSED(mth_plan(NULL, input, 1, false));
    REFUSED(mth_plan(compiled, NULL, 1, true));
    REFUSED(mth_plan_verify_text(NULL));
    REFUSED(mth_plan_reprint(NULL, &text));
    REFUSED(mth_plan_reprint("program\nmesh (1,)\n", NULL));
    REFUSED(mth_get_memory_usage(NULL, input, 1, memory, 2));
    REFUSED(mth_get_memory_usage(compiled, NULL, 1, memory, 2));
    REFUSED(mth_get_memory_usage(compiled, input, 1, NULL, 2));
    REFUSED(mth_get_communication_usage(NULL, traffic, 2));
    REFUSED(mth_get_communication_usage(compiled, NULL, 2));
    REFUSED(mth_stablehlo(NULL, input, 1, &text));
    REFUSED(mth_stablehlo(compiled, input, 1, NULL));
    REFUSED(mth_explain(NULL, input, 1, &text));
    REFUSED(mth_explain(compiled, input, 1, NULL));
    REFUSED(mth_get_placement_text(NULL, &text));
    REFUSED(mth_get_placement_text(compiled, NULL));
    mth_compiled_interrupt(NULL);
    CHECK(!none && !outputs && !slopes && !text);

    /* All of it works on. */
    CHECK_STATUS(mth_evaluate(compiled, parameters, input, 1, &(mth_gradient_request){0}, &outputs, NULL));
    mth_arrays_free(outputs);
    mth_arrays_free(parameters);
    mth_array_free(array);
    mth_compiled_free(compiled);
    mth_compiled_free(NULL);
    mth_model_free(model);
    mth_module_free(linear);
    mth_backend_free(backend);
}

TEST(errors) {
    CHECK(!mth_error_get_code(NULL) && !*mth_error_get_message(NULL) && !*mth_error_get_what(NULL) &&
        !*mth_error_get_fix(NULL));
    CHECK(!*mth_error_get_operator(NULL) && !mth_error_get_tensor_count(NULL) && !*mth_error_get_tensor(NULL, 0));
    CHECK(strcmp(mth_dtype_name((mth_dtype)0), "unknown") == 0 && mth_dtype_size((mth_dtype)99) == 0);
    mth_set_source_line(NULL);
    mth_error_set_source_line(NULL, "train.py:12");
    mth_error_free(NULL);
}
RUN()
