"""The mistakes of test_errors.py, third part: JaxBackend. Where no plugin is installed those that need one are
skipped."""

import numpy as np

import mithril as ml
from error_cases import LINEAR, X, case
from mithril.backends import CBackend, JaxBackend
from support import one_block


def run(model, inputs, mesh=(4,), **options):
    compiled = ml.compile(model, JaxBackend(device_mesh=mesh, **options))
    return compiled.evaluate(compiled.get_parameters(inputs), inputs)


# ---------------------------------------------------------------- XLA
@case
def unknown_mesh_context(fixed):
    JaxBackend(device_mesh=(4,), mesh_context="spmd" if fixed else "smpd")


@case
def mesh_for_a_partitioner_that_is_not_used(fixed):
    JaxBackend(device_mesh=(4,), spmd_mesh_shape=(2, 2), **({"mesh_context": "spmd"} if fixed else {}))


@case
def mesh_of_other_sizes_for_the_partitioner(fixed):
    JaxBackend(device_mesh=(8,), spmd_mesh_shape=(2, 4) if fixed else (2, 3), mesh_context="spmd")


@case
def limit_of_a_search_that_is_not_made(fixed):
    JaxBackend(device_mesh=(4,), spmd_partition_dims=1, **({"auto_sharding": True} if fixed else {}))


@case
def algorithm_for_the_partitioner(fixed):
    JaxBackend(device_mesh=(4,), collective_ops={"all_reduce": "ring"}, **({} if fixed else {"mesh_context": "spmd"}))


@case
def topology_without_tpus(fixed):
    JaxBackend(device_mesh=(4,), **({} if fixed else {"topology": "v5p:2x2x1"}))


@case
def plugin_that_is_not_there(fixed):
    JaxBackend(device_mesh=(4,), **({} if fixed else {"plugin": "/nowhere/plugin.so"}))


@case
def folder_of_packages_that_is_no_text(fixed):
    JaxBackend(device_mesh=(1,), site_packages=["/nowhere"] if fixed else ["/nowhere", 3])


@case
def platform_option_of_another_platform(fixed):
    JaxBackend(device_mesh=(1,), **({} if fixed else {"platform_options": {"visible_devices": (0,)}}))


@case
def stablehlo_of_the_native_engine(fixed):
    ml.compile(LINEAR, (JaxBackend if fixed else CBackend)(device_mesh=(2,))).stablehlo({"x": X})


@case
def device_for_the_partitioner(fixed):
    run(one_block(ml.Linear(4, device_id=1), input="x", output="y"), {"x": X}, mesh_context="mpmd" if fixed else "spmd")


@case
def parts_that_the_partitioner_lacks(fixed):
    layer = ml.Linear(4, weight_shard_spec=((0, 1), None))
    run(one_block(layer, input="x", output="y"), {"x": X}, mesh=(2, 2), mesh_context="mpmd" if fixed else "spmd")


def compile_for_the_partitioner(fixed, model, mesh=(2, 2), **options):
    ml.compile(model, JaxBackend(device_mesh=mesh, mesh_context="mpmd" if fixed else "spmd"), **options)


@case
def axes_against_the_order_for_the_partitioner(fixed):
    compile_for_the_partitioner(fixed, one_block(ml.Linear(4, weight_shard_spec=((1, 0), None)), input="x", output="y"))


@case
def axes_of_an_input_against_the_order_for_the_partitioner(fixed):
    compile_for_the_partitioner(fixed, LINEAR, input_shard_specs={"x": ((1, 0), None)})


@case
def experts_dealt_for_the_partitioner(fixed):
    experts = ml.MoE(6, 8, expert_distribution="one_per_device" if fixed else "round_robin")
    compile_for_the_partitioner(fixed, one_block(experts, input="x", output="y"), mesh=(2,))


@case
def stages_for_the_partitioner(fixed):
    stages = [one_block(ml.Linear(4), input="input", output="output") for _ in range(2)]
    pipeline = ml.Pipeline(stages=stages, device_assignment=[0, 1], microbatch_size=2)
    compile_for_the_partitioner(fixed, one_block(pipeline, input="x", output="y"), mesh=(2,))


@case
def shapes_for_the_partitioner(fixed):
    layer = ml.Linear(4, weight_shard_spec=((0, 1), None))
    compile_for_the_partitioner(fixed, one_block(layer, input="x", output="y"), shapes={"x": (2, 5)})


@case
def an_output_in_parts_for_the_partitioner(fixed):
    model = one_block(ml.Linear(3), input="x", output="y")
    specs = {"y": (None, (0, 1), None)}
    compile_for_the_partitioner(fixed, model, output_shard_specs=specs, shapes={"x": (4, 6, 8)})


@case
def id_outside_its_table_on_xla(fixed):
    table = ml.Embedding(9, 4, weight_shard_spec=(0, None))
    run(one_block(table, input="ids", output="y"), {"ids": np.array([[1, 8 if fixed else 9]])}, mesh=(2,))


@case
def parts_for_the_partitioner_that_options_tell(fixed):
    layer = ml.Linear(14, weight_shard_spec=(None, (0, 1)))
    compile_for_the_partitioner(fixed, one_block(layer, input="x", output="y"))


@case
def heads_for_the_partitioner(fixed):
    compile_for_the_partitioner(
        fixed, one_block(ml.MultiHeadAttention(3, tensor_axis=0), input="x", output="y"), mesh=(2,)
    )
