"""Every option of every backend and of compile reaches what it steers: with a value other than its default something
that can be observed is as the option says."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import mithril as ml
from conftest import no_torch
from mithril.backends import CBackend, JaxBackend, ReferenceBackend, TorchBackend
from mithril.errors import MithrilError
from support import HANGS, random


def products(width=16):
    """Two tensor-parallel products, the sum of which is communicated."""
    model = ml.Model()
    model |= ml.Linear(width, weight_shard_spec=(None, 0))(input="x", output="h")
    model += ml.Relu()
    model += ml.Linear(width, weight_shard_spec=(0, None))(output="y")
    return model


def three_sums():
    model = ml.Model()
    for k in range(3):
        model |= ml.Linear(8, weight_shard_spec=(0, None))(input="x", output=f"h{k}")
    model |= ml.Add()(inputs=["h0", "h1", "h2"], output="y")
    return model


def sum_beside_a_product():
    model = products(512)
    model |= ml.Linear(256, weight_shard_spec=(0, None))(input="x", output="z")
    return model


def normalised():
    model = products(16)
    model += ml.LayerNorm()
    model += ml.Linear(16, weight_shard_spec=(None, 0))
    model += ml.Linear(16, weight_shard_spec=(0, None))(output="z")
    return model


def replicated(width=16):
    model = ml.Model()
    model |= ml.Linear(width)(input="x", output="y")
    return model


def products_that_nobody_placed():
    model = ml.Model()
    for k, width in enumerate((4, 4, 4, 64, 64)):
        model += ml.Linear(width)(**({"input": "x"} if k == 0 else {}), output=f"h{k}")
    return model


def plan(kind, model, mesh=(4,), rows=8, columns=16, **options):
    compiled = ml.compile(model, kind(device_mesh=mesh, **options))
    compiled.get_parameters({"x": random(rows, columns)})
    return compiled


def text(kind, model, **options):
    return plan(kind, model, **options).program_text()


def message(kind, **options):
    """What opening the backend says: its description, or its error."""
    try:
        return kind(device_mesh=(2,), **options).describe()
    except MithrilError as error:
        return str(error)


def weights(kind, **options):
    compiled = plan(kind, replicated(512), columns=512, **options)
    return compiled.get_memory_usage(None, {"x": random(8, 512)})[0]["weights"]


def device_mesh(kind, folder):
    assert kind(device_mesh=(2, 3)).device_count == 6


def threads(kind, folder):
    assert "3 threads" in message(kind, threads=3)


def collective_ops(kind, folder):
    assert " ring" in text(kind, products(), collective_ops={"all_reduce": "ring"})
    assert " ring" not in text(kind, products())


def communication_optimization(kind, folder):
    plain, merged = (text(kind, three_sums(), communication_optimization=on).count("\nchannel") for on in (False, True))
    assert merged < plain


def overlap_communication(kind, folder):
    plain, other = (
        text(kind, sum_beside_a_product(), rows=512, columns=512, overlap_communication=on) for on in (False, True)
    )
    assert not re.search(r"\bstart\b", plain) and re.search(r"\bstart\b", other)


def pipeline_communication(kind, folder):
    plain, cut = (
        text(kind, sum_beside_a_product(), rows=512, columns=512, pipeline_communication=on).count("\nchannel")
        for on in (False, True)
    )
    assert cut > plain


def sequence_parallel(kind, folder):
    assert "reduce_scatter" in text(kind, normalised(), sequence_parallel=True)
    assert "reduce_scatter" not in text(kind, normalised(), sequence_parallel=False)


def backend(kind, folder):
    assert "backend='tpu'" in message(kind, backend="tpu", plugin=str(plugin_of(kind)))


def plugin_of(kind):
    return pathlib.Path(re.search(r"(/\S+\.so)", kind(device_mesh=(1,)).describe())[1])


def plugin(kind, folder):
    shutil.copy(plugin_of(kind), folder / "other.so")
    assert "/nowhere/other.so" in message(kind, plugin="/nowhere/other.so")
    assert str(folder / "other.so") in message(kind, plugin=folder / "other.so")


def site_packages_of_torch(folder):
    """In a process that has no torch yet, a broken one in the folder is the one that is found."""
    (folder / "torch" / "lib").mkdir(parents=True)
    (folder / "torch" / "lib" / "libtorch.so").write_text("no library")
    script = f"""
import mithril as ml
from mithril.backends import Backend
class Torch(Backend):
    _engine = "torch"
try:
    Torch(device_mesh=(1,), site_packages=[{str(folder)!r}])
except ml.MithrilError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANGS)
    assert f"{folder}/torch/lib/libtorch.so can't be loaded" in found.stdout, found


def site_packages(kind, folder):
    """Of two folders with a plugin the one that comes first; a description doesn't list them."""
    if kind is TorchBackend:
        return site_packages_of_torch(folder)
    place = folder / "jax_plugins" / "cpu_of_mine"
    place.mkdir(parents=True)
    (place / "pjrt_plugin.so").symlink_to(plugin_of(kind))
    (folder / "first").mkdir()
    described = message(kind, site_packages=[folder / "first", folder])
    assert (
        re.search(r"API \d+\.\d+: " + re.escape(str(plugin_of(kind))), described) and "site_packages" not in described
    )
    (place / "pjrt_plugin.so").unlink()
    (place / "pjrt_plugin.so").write_text("no library")
    assert str(place) in message(kind, site_packages=[folder / "first", folder])


def topology(kind, folder):
    assert "topology='v5p:2x2x1'" in message(kind, topology="v5p:2x2x1")


def platform_options(kind, folder):
    assert "'no_such'" in message(kind, platform_options={"no_such": 1})


def compile_options(kind, folder):
    with pytest.raises(MithrilError, match="xla_no_such_option"):
        plan(kind, replicated(), compile_options={"xla_no_such_option": 1}).explain()


def cache_dir(kind, folder):
    compiled = plan(kind, replicated(), cache_dir=folder)
    compiled.evaluate(compiled.get_parameters(), {"x": random(8, 16)})
    assert list(folder.iterdir())


def mesh_context(kind, folder):
    texts = [plan(kind, products(), mesh_context=context).stablehlo() for context in ("mpmd", "spmd")]
    assert "sdy.mesh" in texts[1] and "sdy.mesh" not in texts[0]


def auto_sharding(kind, folder):
    plain, found = (text(kind, replicated(512), rows=512, columns=512, auto_sharding=on) for on in (False, True))
    assert plain != found


def spmd_mesh_shape(kind, folder):
    shaped = plan(kind, products(), mesh_context="spmd", spmd_mesh_shape=(2, 2)).stablehlo()
    assert re.search(r'sdy\.mesh @\w+ = <\["\w+"=2, "\w+"=2\]>', shaped)


def spmd_partition_dims(kind, folder):
    assert "spmd_partition_dims=2 is more than the axes" in message(kind, auto_sharding=True, spmd_partition_dims=2)


def memory_optimization(kind, folder):
    whole, part = (weights(kind, memory_optimization=on) for on in (False, True))
    assert part < whole / 2


def partition_policy(kind, folder):
    layouts = [
        plan(kind, products_that_nobody_placed(), partition_policy=policy).get_parameter_layout()
        for policy in (None, "parameters", "operators", "balanced")
    ]
    homes = [[shard.device_id for array in layout.values() for shard in array.addressable_shards] for layout in layouts]
    assert all(homes[0] != other for other in homes[1:]) and homes[1] != homes[2]


def use_module_hooks(kind, folder):
    if kind is CBackend:
        assert "use_module_hooks: the native engine can't say" in message(kind, use_module_hooks=True)
        return
    seen, backend = [], kind(device_mesh=(2,), use_module_hooks=True)
    backend.register_hook(lambda tensor, *_: seen.append(tensor.shape))
    compiled = ml.compile(products(), backend)
    compiled.evaluate(compiled.get_parameters({"x": random(8, 16)}), {"x": random(8, 16)})
    assert seen
    with pytest.raises(MithrilError, match="use_module_hooks=True"):
        kind(device_mesh=(2,)).register_hook(print)


def trace_module_partitioning(kind, folder):
    backend = kind(device_mesh=(2,), trace_module_partitioning=True)
    ml.compile(products(), backend).get_parameters({"x": random(8, 16)})
    assert [row.operator for row in backend.partition_trace().rows] == ["linear_0", "relu_0", "linear_1"]
    with pytest.raises(MithrilError, match="trace_module_partitioning=True"):
        kind(device_mesh=(2,)).partition_trace()


def machine(kind, folder):
    assert "machine: h100" in message(kind, machine="h100") and "machine: nominal" in message(kind)


def device_threads(kind, folder):
    assert "on a thread each" in message(kind, device_threads=True) and "on one thread" in message(kind)


def outputs(kind, folder):
    compiled = ml.compile(products(), kind(device_mesh=(1,)), outputs=["h", "y"])
    results = compiled.evaluate(compiled.get_parameters({"x": random(8, 16)}), {"x": random(8, 16)})
    assert set(results) == {"h", "y"}


def input_shard_specs(kind, folder):
    compiled = ml.compile(replicated(), kind(device_mesh=(4,)), input_shard_specs={"x": (0, None)})
    y = compiled.evaluate(compiled.get_parameters({"x": random(8, 16)}), {"x": random(8, 16)})["y"]
    assert "input x: f32[8,16] (0, None)" in compiled.program_text() and y.shape == (8, 16)


def output_shard_specs(kind, folder):
    compiled = ml.compile(replicated(), kind(device_mesh=(4,)), output_shard_specs={"y": (0, None)})
    y = compiled.evaluate(compiled.get_parameters({"x": random(8, 16)}), {"x": random(8, 16)})["y"]
    assert y.addressable_shards[0].data.shape == (2, 16)


def shapes(kind, folder):
    compiled = ml.compile(replicated(), kind(device_mesh=(1,)), shapes={"x": (8, 24)})
    assert compiled.get_parameters()["linear_0.weight"].shape == (24, 16)


EFFECT = {
    effect.__name__: effect
    for effect in (
        device_mesh, threads, collective_ops, communication_optimization, overlap_communication, pipeline_communication,
        sequence_parallel, backend, plugin, site_packages, topology, platform_options, compile_options, cache_dir,
        mesh_context, auto_sharding, spmd_mesh_shape, spmd_partition_dims, memory_optimization, machine, device_threads,
        partition_policy, use_module_hooks, trace_module_partitioning,
        outputs, input_shard_specs, output_shard_specs, shapes,
    )
}  # fmt: skip
KINDS = {
    "compile": CBackend,
    **{kind.__name__: kind for kind in (CBackend, JaxBackend, TorchBackend, ReferenceBackend)},
}


def options_of(owner):
    if owner == "compile":
        lines = ml._mithril._compile_option_doc().splitlines()
    else:
        lines = [line for line in KINDS[owner].__doc__.split("Options:\n")[1].splitlines() if line]
    return [re.match(r"\s*(\w+): ", line)[1] for line in lines]


@pytest.mark.parametrize("owner, option", [(owner, option) for owner in KINDS for option in options_of(owner)])
def test_has_its_effect(owner, option, request, tmp_path):
    if owner == "JaxBackend":
        request.getfixturevalue("xla")
    if owner == "TorchBackend" and no_torch():
        pytest.skip(f"no torch: {no_torch()}")
    EFFECT[option](KINDS[owner], tmp_path)
