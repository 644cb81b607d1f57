"""The mistakes of test_errors.py, first part: options, composing, devices and specs.

A case is a function that makes the mistake, or, with `fixed`, does what the error advises: that must then work.
"""

import os

import numpy as np

import mithril as ml
from mithril.backends import CBackend, ReferenceBackend
from support import one_block, random

X = random(4, 6)
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def run(model, inputs=None, mesh=(4,), params=None, seeds=None, slopes=None, **options):
    inputs = {"x": X} if inputs is None else inputs
    compiled = ml.compile(model, CBackend(device_mesh=mesh), **options)
    params = compiled.get_parameters(inputs) if params is None else params
    return compiled.evaluate(params, inputs, seeds, slopes)


def chain(*modules):
    model = ml.Model()
    for i, module in enumerate(modules):
        model += module(**({"input": "x"} if i == 0 else {}), **({"output": "y"} if i == len(modules) - 1 else {}))
    return model


LINEAR = chain(ml.Linear(3))


# ---------------------------------------------------------------- options and keywords
@case
def unknown_keyword(fixed):
    ml.Linear(**{"dimension" if fixed else "dimenson": 4})


@case
def unknown_keyword_far_from_all(fixed):
    ml.Linear(4, **({} if fixed else {"colour": "red"}))


@case
def missing_option(fixed):
    ml.Linear(4) if fixed else ml.Linear()


@case
def option_of_too_many_items(fixed):
    shared = [0] * 1024
    ml.Linear(4, weight_shard_spec=(0, None) if fixed else [shared] * 1024)


@case
def bytes_of_a_device(fixed):
    model = ml.Model()
    for i in range(4):
        model |= ml.Relu()(input="x", output=f"y{i}")
    ml.compile(model, CBackend(device_mesh=(1,)), shapes={"x": (8 if fixed else 2**59,)}).program_text()


@case
def option_of_the_wrong_type(fixed):
    ml.Linear(4 if fixed else "four")


@case
def option_below_its_range(fixed):
    ml.Linear(4 if fixed else 0)


@case
def option_too_large(fixed):
    ml.Linear(4 if fixed else 2**70)


@case
def option_not_finite(fixed):
    ml.LayerNorm(1e-5 if fixed else float("nan"))


@case
def option_twice(fixed):
    ml.Linear(4) if fixed else ml.Linear(4, dimension=4)


@case
def too_many_positions(fixed):
    ml.Relu() if fixed else ml.Relu("a", 1, None, 4)


@case
def unknown_choice(fixed):
    ml.FeedForward(8, activation="relu" if fixed else "rleu")


@case
def object_as_option(fixed):
    ml.Linear(4, bias=True if fixed else object())


@case
def set_for_an_unknown_option(fixed):
    ml.Linear(4, **({"bias": True} if fixed else {"baas": {True}}))


@case
def bytes_as_option(fixed):
    ml.Linear(4, name=os.fsdecode(b"up") if fixed else b"up")


@case
def masked_option(fixed):
    width = np.ma.masked_array(4, True)
    ml.Linear(width.filled(0) + 4 if fixed else width)


@case
def key_that_is_no_text(fixed):
    ml.Linear(4, shard_specs={"bias" if fixed else 0: (None,)})


@case
def option_that_holds_itself(fixed):
    spec = [0, None]
    if not fixed:
        spec.append(spec)
    ml.Linear(4, weight_shard_spec=spec)


@case
def module_as_stage(fixed):
    ml.Pipeline(stages=[LINEAR if fixed else ml.Linear(3)])


@case
def unknown_compile_option(fixed):
    ml.compile(
        LINEAR,
        CBackend(device_mesh=(1,)),
        **{"input_shard_specs" if fixed else "input_shard_spec": {"x": (None, None)}},
    )


@case
def unknown_backend_option(fixed):
    CBackend(**{"device_mesh" if fixed else "devices_mesh": (4,)})


@case
def unknown_machine(fixed):
    CBackend(device_mesh=(2,), machine="a100" if fixed else "a10")


@case
def machine_file_with_a_misspelt_figure(fixed, tmp):
    figures = ["flops float32 5e10", "memory_rate 1e10", "kernel_latency 0", "link_rate 5e9", "link_latency 2e-5"]
    (tmp / "machine.txt").write_text("\n".join(figures).replace("rate 1", "rate 1" if fixed else "rat 1"))
    CBackend(device_mesh=(2,), machine=str(tmp / "machine.txt"))


@case
def option_of_another_backend(fixed):
    CBackend(device_mesh=(4,), **({} if fixed else {"mesh_context": "spmd"}))


@case
def unknown_partition_policy(fixed):
    CBackend(device_mesh=(4,), partition_policy="parameters" if fixed else "parameter")


@case
def hooks_of_the_native_engine(fixed):
    CBackend(device_mesh=(4,), use_module_hooks=not fixed)


@case
def no_hooks(fixed):
    ReferenceBackend(device_mesh=(4,), use_module_hooks=fixed).register_hook(print)


@case
def an_answer_of_a_hook(fixed):
    backend = ReferenceBackend(device_mesh=(2,), use_module_hooks=True)
    model = ml.Model()
    model |= ml.Linear(4, weight_shard_spec=(0, None))(input="x", output="y")
    backend.register_hook(lambda *_: None if fixed else 1.5)
    compiled = ml.compile(model, backend)
    compiled.evaluate(compiled.get_parameters({"x": X}), {"x": X})


@case
def a_hook_that_cannot_be_called(fixed):
    ReferenceBackend(device_mesh=(4,), use_module_hooks=True).register_hook(print if fixed else 3)


@case
def no_trace(fixed):
    CBackend(device_mesh=(4,), trace_module_partitioning=fixed).partition_trace()


@case
def unknown_algorithm(fixed):
    CBackend(device_mesh=(4,), collective_ops={"all_reduce": "ring" if fixed else "rnig"})


@case
def unknown_collective(fixed):
    CBackend(device_mesh=(4,), collective_ops={"all_reduce" if fixed else "allreduce": "ring"})


@case
def empty_mesh(fixed):
    CBackend(device_mesh=(2,) if fixed else ())


@case
def mesh_with_a_zero(fixed):
    CBackend(device_mesh=(2, 2) if fixed else (2, 0))


@case
def mesh_of_four_axes(fixed):
    CBackend(device_mesh=(2, 2, 1) if fixed else (2, 2, 1, 1))


@case
def name_with_nul(fixed):
    ml.Linear(4, name="a" if fixed else "a\0b")


@case
def name_with_half_of_a_surrogate_pair(fixed):
    ml.Linear(4, name="a" if fixed else "a\ud800")


# ---------------------------------------------------------------- composing
@case
def class_in_place_of_a_module(fixed):
    model = ml.Model()
    model |= ml.Relu()(input="x", output="y") if fixed else ml.Relu


@case
def something_else_in_place_of_a_module(fixed):
    model = ml.Model()
    model += ml.Relu() if fixed else np.maximum


@case
def unknown_port(fixed):
    model = ml.Model()
    model |= ml.Relu()(**{"input" if fixed else "inptu": "x", "output": "y"})
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def wire_without_a_port(fixed):
    ml.Relu()(input="x") if fixed else ml.Relu()("x")


@case
def wire_to_a_number(fixed):
    ml.Relu()(input="x" if fixed else 3)


@case
def list_for_a_single_port(fixed):
    model = ml.Model()
    model |= ml.Relu()(input="x" if fixed else ["x", "z"], output="y")
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def list_with_one_value(fixed):
    model = ml.Model()
    model |= ml.Add()(inputs=["x", "z"] if fixed else ["x"], output="y")
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def cycle(fixed):
    model = ml.Model()
    model |= ml.Add()(inputs=["x", "z" if fixed else "y"], output="h")
    model |= ml.Relu()(input="h", output="y")
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def two_writers(fixed):
    model = ml.Model()
    model |= ml.Relu()(input="x", output="y")
    model |= ml.Tanh()(input="x", output="z" if fixed else "y")
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def input_named_like_a_parameter(fixed):
    model = ml.Model()
    model |= ml.Linear(4, name="first")(input="x", output="h")
    model |= ml.Add()(inputs=["h", "first_bias" if fixed else "first.bias"], output="y")
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def output_named_like_a_parameter(fixed):
    model = ml.Model()
    model |= ml.Linear(4)(input="x", output="linear_0_weight" if fixed else "linear_0.weight")
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def connect_to_a_parameter(fixed):
    model = ml.Model()
    model |= ml.Linear(4)(input="x", output="h")
    model |= ml.Add()(inputs=["h", "w"], output="y")
    if not fixed:
        model.connect(source="linear_0.bias", destination="w")
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def contradictory_connect(fixed):
    model = ml.Model()
    model |= ml.Relu()(input="x", output="a")
    model |= ml.Tanh()(input="x", output="b")
    model |= ml.Relu()(input="c", output="y")
    model.connect(source="a", destination="c")
    model.connect(source="a" if fixed else "b", destination="c")
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def connect_to_nothing(fixed):
    model = chain(ml.Relu())
    model |= ml.Tanh()(input="z", output="w")
    model.connect(source="y", destination="z" if fixed else "nowhere")
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def name_taken_twice(fixed):
    model = ml.Model()
    model |= ml.Linear(4, name="a")(input="x", output="h")
    model |= ml.Linear(4, name="b" if fixed else "a")(input="h", output="y")
    ml.compile(model, CBackend(device_mesh=(1,)))


@case
def empty_model(fixed):
    ml.compile(LINEAR if fixed else ml.Model(), CBackend(device_mesh=(1,)))


@case
def open_stage_input(fixed):
    stage = ml.Model()
    stage |= ml.Add()(inputs=["input", "other"], output="out")
    first = ml.Model()
    first |= ml.Linear(6)(input="input", output="h")
    model = ml.Model()
    model |= ml.Pipeline(stages=[first, stage], device_assignment=[0, 1])(
        input="x", output="y", **({"other": "x"} if fixed else {})
    )
    run(model)


@case
def models_in_models_too_deep(fixed):
    model = chain(ml.Relu())
    for _ in range(255 if fixed else 20_000):
        parent = ml.Model()
        parent |= model(x="x", y="y")
        model = parent
    run(model, mesh=(1,))


def ring_over(devices, fixed):
    backend = CBackend(device_mesh=(devices,), **({} if fixed else {"collective_ops": {"all_reduce": "ring"}}))
    compiled = ml.compile(chain(ml.Linear(1, weight_shard_spec=(0, None))), backend)
    inputs = {"x": random(1, devices)}
    compiled.evaluate(compiled.get_parameters(inputs), inputs)


@case
def ring_over_more_devices_than_the_engine_keeps(fixed):
    ring_over(1200, fixed)


@case
def ring_over_too_many_devices(fixed):
    ring_over(2048, fixed)


# ---------------------------------------------------------------- devices and specs
@case
def device_outside_the_mesh(fixed):
    run(chain(ml.Linear(3, device_id=3 if fixed else 4)))


@case
def negative_device(fixed):
    run(chain(ml.Linear(3, device_id=0 if fixed else -1)))


@case
def mesh_of_another_size(fixed):
    run(chain(ml.Linear(3, weight_shard_spec=(0, None), device_mesh=(4,) if fixed else (2, 2))))


@case
def device_and_spec(fixed):
    run(chain(ml.Linear(3, **({} if fixed else {"device_id": 1}), weight_shard_spec=(0, None))))


@case
def spec_of_the_wrong_rank(fixed):
    run(chain(ml.Linear(3, weight_shard_spec=(0, None) if fixed else (0, None, None))))


@case
def spec_with_an_unknown_axis(fixed):
    run(chain(ml.Linear(3, weight_shard_spec=(0, None) if fixed else (1, None))))


@case
def spec_with_a_repeated_axis(fixed):
    run(chain(ml.Linear(3, weight_shard_spec=(0, None) if fixed else (0, 0))))


@case
def spec_of_texts(fixed):
    ml.Linear(3, weight_shard_spec=(0, None) if fixed else ("x", None))


@case
def spec_for_an_unknown_parameter(fixed):
    run(chain(ml.Linear(3, shard_specs={"weight" if fixed else "wieght": (0, None)})))


@case
def tensor_axis_outside_the_mesh(fixed):
    run(chain(ml.FeedForward(8, tensor_axis=0 if fixed else 2)))


@case
def input_spec_for_an_unknown_input(fixed):
    run(LINEAR, input_shard_specs={"x" if fixed else "z": (0, None)})


@case
def output_spec_for_what_is_read(fixed):
    run(chain(ml.Linear(3), ml.Relu()), output_shard_specs={"y" if fixed else "linear_0.output": (0, None)})


@case
def input_spec_for_what_is_written(fixed):
    run(chain(ml.Linear(3), ml.Relu()), input_shard_specs={"x" if fixed else "linear_0.output": (0, None)})


@case
def shapes_with_a_negative_size(fixed):
    ml.compile(LINEAR, CBackend(device_mesh=(1,)), shapes={"x": (4 if fixed else -1, 3)})


@case
def shapes_with_a_zero(fixed):
    ml.compile(LINEAR, CBackend(device_mesh=(1,)), shapes={"x": (4 if fixed else 0, 3)})


@case
def port_that_an_option_makes(fixed):
    one_block(ml.MoE(4, 8, **({"capacity_factor": 1.25} if fixed else {})), input="x", dropped="d", output="y")


@case
def port_that_a_switch_makes(fixed):
    one_block(ml.MoE(4, 8, load_balancing_loss=fixed), input="x", load_balancing_loss="l", output="y")


@case
def input_spec_of_the_wrong_rank(fixed):
    run(LINEAR, input_shard_specs={"x": (0, None) if fixed else (0,)})


@case
def array_spec_with_an_unknown_axis(fixed):
    CBackend(device_mesh=(4,)).randn(4, 6, spec=(0, None) if fixed else (2, None))


@case
def array_on_another_mesh(fixed):
    CBackend(device_mesh=(4,)).randn(4, 6, device_mesh=(4,) if fixed else (2,))


@case
def stages_and_devices_differ_in_number(fixed):
    model = ml.Model()
    model |= ml.Pipeline(stages=[LINEAR, LINEAR.copy()], device_assignment=[0, 1] if fixed else [0])(
        input="x", output="y"
    )
    run(model)


@case
def microbatch_of_zero(fixed):
    ml.Pipeline(stages=[LINEAR], microbatch_size=1 if fixed else 0)


@case
def microbatch_below_zero(fixed):
    ml.Pipeline(stages=[LINEAR], microbatch_size=1 if fixed else -8)


@case
def pipeline_without_stages(fixed):
    ml.Pipeline(stages=[LINEAR] if fixed else [])


@case
def more_chosen_than_experts(fixed):
    ml.MoE(4, 8, top_k=4 if fixed else 5)


@case
def capacity_of_zero(fixed):
    ml.MoE(4, 8, capacity_factor=1.25 if fixed else 0)
