/* What users of the published Mithril package and of the guide look for: options and attributes that this version does
 * not have, or has in another way. One table; errors of the library and of the Python package are made from it. */
#include "mithril.h"
#include <string.h>

typedef enum { LATER, ELSEWHERE } absence;
typedef struct {
    const char *place, *names /* words */;
    absence reason;
    const char *fix;
} absent_feature;

#define IS_COMPUTED "leave it out: this version computes in float32"
#define IS_TORCHS "leave it out: it is of an engine for PyTorch, which this version does not have"
#define IS_NUMPYS "use CBackend, or ReferenceBackend, of mithril.backends"
#define HAS_PORTS                                                                                                      \
    "ports are named where a module is wired: ml.Linear(4)(input=\"x\", output=\"h\"); \"h\" is then the connection"
#define IS_OPERATOR                                                                                                    \
    "compose it: model |= ml.Slice(...), ml.Reshape(...), ml.Transpose(...), ml.Mean(...), with input=\"x\" and "      \
    "output=\"y\""

static const absent_feature rows[] = {
    /* options of compile, of backends, of modules, and keywords of functions */
    {"option",
        "checkpointing activation_checkpointing gradient_checkpointing use_gradient_checkpointing checkpoint recompute "
        "recomputation remat rematerialize checkpoint_policy",
        LATER, "leave it out; a smaller microbatch_size and schedule='1f1b' hold fewer activations"},
    {"option",
        "activation_offload activation_offloading offload_activations offload_threshold offload offloading cpu_offload "
        "offload_to_cpu offload_params optimizer_offload",
        LATER, "leave it out; input_shard_specs and tensor_axis split activations over more devices"},
    {"option",
        "weight_dtype activation_dtype compute_dtype param_dtype parameter_dtype params_dtype grad_dtype "
        "gradient_dtype "
        "reduce_dtype output_dtype mixed_precision amp autocast fp16 bf16 fp8 quantization loss_scale grad_scaler "
        "allow_tf32",
        LATER, IS_COMPUTED},
    {"option", "profile profiling profiler enable_profiling trace", LATER,
        "leave it out; mth_get_memory_usage tells what a device needs, mth_plan_print what it runs and sends"},
    {"option", "optimizer optimizer_options optim lr learning_rate zero zero_stage fsdp", LATER,
        "leave it out: gradients come with mth_evaluate, and the step that takes them is yours"},
    {"option", "visualize visualization", LATER, "leave it out: mth_plan_print shows what each device runs"},
    {"option",
        "auto_partition auto_partitioning automatic_partition automatic_partitioning auto_parallel partition_objective "
        "partition_strategy max_memory_per_device memory_limit",
        LATER,
        "leave it out; auto_sharding=True of the engine pjrt searches how tensors are split, mth_get_memory_usage "
        "tells "
        "what a device needs"},
    {"option", "partition_hooks", LATER, IS_TORCHS},
    {"option", "precision dtype", ELSEWHERE, IS_COMPUTED},
    {"option", "device", ELSEWHERE,
        "leave it out: device_mesh=(4,) makes four devices, device_id=0 puts a module on one"},
    {"option", "jit file_path", ELSEWHERE, "leave it out: each plan is compiled, and mth_plan_print shows it"},
    {"option", "constant_keys data_keys static_keys", ELSEWHERE,
        "leave it out: what the model reads and nothing writes is an input, given to mth_evaluate"},
    {"option", "trainable_keys", ELSEWHERE,
        "leave it out: parameters have gradients, and inputs those that input_gradients names"},
    {"option", "discard_keys", ELSEWHERE,
        "leave it out, and name the outputs that are wanted: ml.compile(model, backend, outputs=[\"logits\"])"},
    {"option", "inference", ELSEWHERE, "leave it out: gradients are computed where output_gradients are given"},
    {"option", "safe_shapes safe_names use_short_namings", ELSEWHERE,
        "leave it out: names and shapes are always checked, and names are as composed"},
    {"option", "excluded_keys", ELSEWHERE,
        "leave it out, and put arrays of your own in the place of those that come back"},
    {"option", "shards", ELSEWHERE, "leave it out: shard_specs of a module says how its parameters are split"},
    {"option", "use_bias", ELSEWHERE, "give bias=False"},
    /* attributes of the package */
    {"package", "profile", LATER,
        "use compiled.get_memory_usage() and compiled.get_communication_usage(), and compiled.explain() of a "
        "JaxBackend"},
    {"package", "visualize", LATER, "print(model) shows the blocks, compiled.program_text() what each device runs"},
    {"package", "CBackend JaxBackend TorchBackend ReferenceBackend Backend", ELSEWHERE,
        "import it from mithril.backends: from mithril.backends import CBackend"},
    {"package", "NumpyBackend MlxBackend GGMLBackend UnavailableBackend", ELSEWHERE, IS_NUMPYS},
    {"package", "models", ELSEWHERE,
        "modules are here: ml.Linear, or from mithril import Linear; ml.modules names them all"},
    {"package", "framework cores core common types utils", ELSEWHERE,
        "import from mithril itself: from mithril import Linear, Model; ml.modules names all modules"},
    {"package", "TBD Constant Tensor Connection Connect ExtendInfo", ELSEWHERE, HAS_PORTS},
    {"package", "DataType float16 bfloat16 float32 float64 double int16 int32 int64 short", ELSEWHERE,
        "dtypes are named by texts: backend.zeros(3, dtype=\"int32\")"},
    {"package", "Buffer", ELSEWHERE,
        "leave it out: a connection may be read by several blocks and be an output under its name"},
    {"package", "TrainModel", ELSEWHERE,
        "compose the loss: model |= ml.CrossEntropy()(input=\"y\", target=\"t\", output=\"loss\"); evaluate(..., "
        "output_gradients={\"loss\": np.float32(1)}) gives gradients"},
    {"package", "MLP", ELSEWHERE, "compose it of ml.Linear and ml.Relu, or take ml.FeedForward(hidden_dim=64)"},
    {"package", "LeakyRelu Elu Softplus", LATER, "use ml.Relu, ml.Gelu or ml.Silu"},
    /* of mithril.backends */
    {"backends", "CudaBackend GpuBackend GPUBackend", LATER,
        "write JaxBackend(device_mesh=..., backend=\"cuda\") in its place"},
    {"backends", "TpuBackend TPUBackend", LATER, "write JaxBackend(device_mesh=..., backend=\"tpu\") in its place"},
    {"backends", "XlaBackend XLABackend PjrtBackend", LATER, "write JaxBackend(device_mesh=...) in its place"},
    {"backends", "CpuBackend CPUBackend NativeBackend", LATER, "write CBackend(device_mesh=...) in its place"},
    {"backends", "with_autograd with_manualgrad backend parallel", ELSEWHERE,
        "import backends from mithril.backends itself: from mithril.backends import CBackend"},
    {"backends", "NumpyBackend MlxBackend GGMLBackend UnavailableBackend", ELSEWHERE,
        "write CBackend(device_mesh=...) or ReferenceBackend(...) in its place"},
    /* of functions of a backend: keywords that others have */
    {"randn", "shape size sizes dims", LATER, "give the sizes by themselves: backend.randn(2, 3)"},
    {"zeros", "shape size sizes dims", LATER, "give the sizes by themselves: backend.zeros(2, 3)"},
    {"ones", "shape size sizes dims", LATER, "give the sizes by themselves: backend.ones(2, 3)"},
    {"randint", "size sizes dims", LATER, "give them as shape=(2, 3)"},
    /* of a model, a module, a wired module */
    {"model", "cin cout set_cin set_cout", ELSEWHERE,
        "name the connection where it is made: ml.Linear(4)(input=\"x\", output=\"h\"), and give \"h\"; model += block "
        "reads the block before"},
    {"model", "set_shapes", ELSEWHERE,
        "give the shapes to compile: ml.compile(model, backend, shapes={\"x\": (8, 4)})"},
    {"model", "set_types", ELSEWHERE,
        "give the dtypes to compile: ml.compile(model, backend, shapes={\"x\": ((8, 4), \"int32\")})"},
    {"model", "set_values", ELSEWHERE, "give values to evaluate, as inputs or as parameters"},
    {"model", "set_differentiability", ELSEWHERE,
        "ask evaluate for gradients: output_gradients={\"y\": g}, input_gradients=[\"x\"]"},
    {"model", "expose_keys", ELSEWHERE,
        "expose a connection where it is wired: output=ml.IOKey(\"y\", expose=True); compile takes outputs=[\"y\"]"},
    {"model", "input_keys output_keys", ELSEWHERE, "model.inputs and model.outputs are lists of names"},
    {"model", "all_keys conns dag summary", ELSEWHERE,
        "print(model) lists its inputs, blocks with their wires, and outputs"},
    {"model", "add_loss add_regularization add_metric set_loss", ELSEWHERE,
        "compose the loss as a block: model |= ml.CrossEntropy()(input=\"y\", target=\"t\", output=\"loss\")"},
    {"model", "merge_connections", ELSEWHERE, "join them: model.connect(source=\"a\", destination=\"b\")"},
    {"model", "extend", ELSEWHERE, "write model |= block, or model += block"},
    {"model", "evaluate get_parameters randomize_params", ELSEWHERE,
        "compile the model first: compiled = ml.compile(model, CBackend(device_mesh=(4,)))"},
    {"module", "cin cout input output set_cin set_cout", ELSEWHERE, HAS_PORTS},
    /* of a compiled model */
    {"compiled", "get_partition_map", LATER,
        "use get_parameter_layout(): its arrays' addressable_shards tell who holds what, program_text() who computes "
        "what"},
    {"compiled", "evaluate_gradients evaluate_all", ELSEWHERE,
        "use evaluate(params, inputs, output_gradients={\"y\": g}): it returns (outputs, gradients)"},
    {"compiled", "input_keys output_keys", ELSEWHERE, "compiled.inputs and compiled.outputs are lists of names"},
    /* of the name of a connection, IOKey: keywords and attributes */
    {"key", "shape", ELSEWHERE, "give the shape to compile: ml.compile(model, backend, shapes={\"x\": (8, 4)})"},
    {"key", "type", ELSEWHERE,
        "give the dtype to compile: ml.compile(model, backend, shapes={\"x\": ((8, 4), \"int32\")})"},
    {"key", "value", ELSEWHERE, "give the value to evaluate, as an input"},
    {"key", "connections", ELSEWHERE, "leave it out: wires of one name are one connection"},
    {"key", "differentiable", ELSEWHERE, "leave it out, and ask evaluate for the gradient: input_gradients=[\"x\"]"},
    {"key", "interval", ELSEWHERE, "leave it out"},
    {"key", "T transpose reshape mean sum max sqrt exp item", ELSEWHERE, IS_OPERATOR},
};

static bool has_word(const char *words, const char *word) {
    const size_t n = strlen(word);
    for (const char *at = words; n && (at = strstr(at, word)); at += n)
        if ((at == words || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return true;
    return false;
}

bool mth_absent(const char *place, const char *name, const char **why, const char **fix) {
    for (size_t i = 0; place && name && i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].place, place) || strchr(name, ' ') || !has_word(rows[i].names, name)) continue;
        if (why)
            *why = rows[i].reason == LATER ? "is not in this version"
                                           : "is of the published Mithril package, and written in another way here";
        if (fix) *fix = rows[i].fix;
        return true;
    }
    return false;
}
