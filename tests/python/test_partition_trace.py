"""trace_module_partitioning: each operator once, with its devices, who placed it and why, and what crosses between
devices for it, to the byte."""

import gc

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, JaxBackend, ReferenceBackend
from support import random


def traced(mesh, kind=CBackend, **options):
    return kind(device_mesh=mesh, trace_module_partitioning=True, **options)


def run(model, backend, inputs, gradients=False):
    compiled = ml.compile(model, backend)
    params = compiled.get_parameters(inputs)
    values = compiled.evaluate(params, inputs)
    if gradients:
        compiled.evaluate(params, inputs, {name: np.ones(value.shape, np.float32) for name, value in values.items()})
    return compiled


def by_name(backend, model=0):
    rows = [row for row in backend.partition_trace().rows if row.model == model]
    found = {row.operator: row for row in rows}
    assert len(found) == len(rows), "an operator stands there twice"
    return found


def chain(**placed):
    model = ml.Model()
    for k, width in enumerate((8, 8, 4)):
        model += ml.Linear(width, **placed.get(f"linear_{k}", {}))(**({"input": "x"} if k == 0 else {}), output=f"h{k}")
        model += ml.Relu(**placed.get(f"relu_{k}", {}))(output=f"y{k}")
    return model


X = {"x": random(6, 8)}


# ---------------------------------------------------------------- who placed what
@pytest.mark.parametrize("kind", [CBackend, ReferenceBackend])
def test_policies_and_reasons(kind):
    backend = traced((2,), kind, partition_policy="parameters")
    run(chain(), backend, X)
    rows = by_name(backend)
    assert list(rows) == ["linear_0", "relu_0", "linear_1", "relu_1", "linear_2", "relu_2"]
    assert [row.devices for row in rows.values()] == [(0,), (0,), (1,), (1,), (1,), (1,)]
    assert {row.policy for row in rows.values()} == {"parameters"}
    assert [row.reason for row in rows.values()] == [
        f"bytes {a}..{b} of 720" for a, b in [(0, 288), (288, 288), (288, 576), (576, 576), (576, 720), (720, 720)]
    ]
    backend = traced((3,), kind, partition_policy="operators")
    run(chain(), backend, X)
    assert [(row.devices, row.reason) for row in by_name(backend).values()] == [
        ((k // 2,), f"operator {k + 1} of 6") for k in range(6)
    ]
    backend = traced((3,), kind, partition_policy="balanced")
    run(chain(), backend, X)
    rows = list(by_name(backend).values())
    ends = [row.reason.removeprefix("microseconds ").removesuffix(", predicted") for row in rows]
    bounds = [[float(n) for n in end.replace(" of ", "..").split("..")] for end in ends]
    assert bounds[0][0] == 0 and bounds[-1][1] == bounds[-1][2] == pytest.approx(max(b[1] for b in bounds))
    assert all(b[1] == after[0] and b[0] < b[1] for b, after in zip(bounds, bounds[1:]))


def test_users_and_what_follows_them():
    model = ml.Model()
    model |= ml.Linear(8, weight_shard_spec=(None, 0), device_mesh=(4,))(input="x", output="a")
    model |= ml.Relu()(input="a", output="b")
    model |= ml.Linear(8, device_id=2)(input="b", output="c")
    model |= ml.Identity()(input="c", output="d")
    model |= ml.Gelu(device_mesh=(4,))(input="d", output="e")
    model |= ml.FeedForward(8, tensor_axis=0)(input="e", output="f")
    model |= ml.MoE(4, 8, expert_distribution="one_per_device")(input="f", output="g")
    model |= ml.LayerNorm(shard_specs={"weight": (0,)})(input="g", output="y")
    model |= ml.Relu()(input="z", output="first")
    model |= ml.Linear(3, device_id=1)(input="first", output="second")
    backend = traced((4,))
    run(model, backend, {"x": random(4, 8), "z": random(2, 3)})
    everywhere = (0, 1, 2, 3)
    assert {name: (row.devices, row.policy, row.reason) for name, row in by_name(backend).items()} == {
        "linear_0": (everywhere, "user", "weight_shard_spec over mesh(4,)"),
        "relu_0": (everywhere, "none", "where its last placed input is"),
        "linear_1": ((2,), "user", "device_id=2"),
        "identity_0": ((2,), "none", "where its last placed input is"),
        "gelu_0": (everywhere, "user", "device_mesh=(4,)"),
        "feed_forward_0": (everywhere, "user", "tensor_axis over mesh(4,)"),
        "moe_0": (everywhere, "user", "expert_distribution over mesh(4,)"),
        "layer_norm_0": (everywhere, "user", "shard_specs over mesh(4,)"),
        "relu_1": ((1,), "none", "where its first placed reader is"),
        "linear_2": ((1,), "user", "device_id=1"),
    }
    backend = traced((4,))
    run(chain(), backend, X)
    rows = by_name(backend)
    assert rows["linear_0"].reason == "on the whole mesh, as nothing that it is connected to is placed"
    assert rows["relu_2"].reason == "where its last placed input is" and rows["relu_2"].devices == everywhere


def stages():
    def stage(width):
        model = ml.Model()
        model |= ml.Linear(width)(input="input", output="h")
        model += ml.Gelu()(output="output")
        return model

    model = ml.Model()
    model |= ml.Pipeline(stages=[stage(8), stage(5), stage(4)], device_assignment=[0, [1, 2], 3], microbatch_size=2)(
        input="x", output="y"
    )
    return model


def test_stages_and_submodels():
    inner = ml.Model()
    inner |= ml.Linear(8)(input="i", output="o")
    model = ml.Model()
    model |= inner(i="x", o="h")
    model |= stages()(x="h", y="y")
    backend = traced((4,), partition_policy="operators")
    run(model, backend, X, gradients=True)
    rows = by_name(backend)
    assert list(rows)[:3] == [
        "model_0.linear_0", "model_1.pipeline_0.stage_0.linear_0", "model_1.pipeline_0.stage_0.gelu_0"
    ]  # fmt: skip
    assert len(rows) == 7 and rows["model_0.linear_0"].devices == (0,)
    second = rows["model_1.pipeline_0.stage_1.linear_0"]
    assert (second.devices, second.policy, second.reason) == ((1, 2), "user", "stage 1 of model_1.pipeline_0")
    # three microbatches of 2 rows of 8, to each of the stage's two devices
    assert [(c.from_device, c.to_device, c.bytes) for c in second.forward] == [(0, 1, 6 * 8 * 4), (0, 2, 6 * 8 * 4)]


# ---------------------------------------------------------------- what crosses
def products():
    model = ml.Model()
    model |= ml.Linear(16, weight_shard_spec=(None, 0))(input="x", output="h")
    model += ml.Relu()
    model += ml.Linear(7, weight_shard_spec=(0, None))
    model += ml.LayerNorm()(output="y")
    return model


def experts():
    model = ml.Model()
    model |= ml.MoE(5, 8, expert_distribution="round_robin")(input="x", output="y")
    return model


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("algorithm", ["direct", "ring", "tree"])
@pytest.mark.parametrize("make", [chain, stages, products, experts])
def test_every_byte_is_traced(make, algorithm, gradients):
    ops = {kind: algorithm for kind in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")}
    backend = traced((4,), partition_policy="operators", collective_ops=ops)
    compiled = run(make(), backend, X, gradients)
    rows, usage = by_name(backend), compiled.get_communication_usage()
    crossings = [c for row in rows.values() for c in [*row.forward, *row.backward]]
    for device, counted in enumerate(usage):
        assert sum(c.bytes for c in crossings if c.to_device == device) == counted["received"]
        assert sum(c.bytes for c in crossings if c.from_device == device) == counted["sent"]
    assert crossings and all(c.from_device != c.to_device for c in crossings)
    assert any(row.backward for row in rows.values()) == gradients
    for row in rows.values():
        assert all(c.label.startswith(f"{row.operator}: ") for c in [*row.forward, *row.backward])
        for way in (row.forward, row.backward):
            assert len({(c.label, c.from_device, c.to_device) for c in way}) == len(way)


def test_forward_and_backward_of_a_chain():
    backend = traced((3,), ReferenceBackend, partition_policy="operators")
    run(chain(), backend, X, gradients=True)
    rows = by_name(backend)
    there = lambda name: [(c.from_device, c.to_device, c.bytes) for c in rows[name].forward]
    back = lambda name: [(c.from_device, c.to_device, c.bytes) for c in rows[name].backward]
    size = 6 * 8 * 4
    assert there("linear_1") == [(0, 1, size)] and there("linear_2") == [(1, 2, size)]
    assert back("relu_0") == [(1, 0, size)] and back("relu_1") == [(2, 1, size)]
    assert sum(len(row.forward) + len(row.backward) for row in rows.values()) == 4


def test_what_belongs_to_no_operator():
    """One gradient that leaves twice, as that of two inputs which are laid out differently, is sent for no operator."""
    model = ml.Model()
    model |= ml.Add()(inputs=["x", "z"], output="y")
    backend = traced((2,))
    inputs = {"x": random(4, 8), "z": random(4, 8)}
    compiled = ml.compile(model, backend, input_shard_specs={"x": (0, None)})
    compiled.evaluate({}, inputs, {"y": random(4, 8)}, ["x", "z"])
    rows = by_name(backend)
    assert list(rows) == ["add_0", "(model)"] and rows["(model)"].policy == "none"
    received = sum(device["received"] for device in compiled.get_communication_usage())
    assert sum(c.bytes for row in rows.values() for c in [*row.forward, *row.backward]) == received
    assert rows["(model)"].backward and not rows["(model)"].forward


def test_gradients_of_inner_parameters():
    """They bear the names of parts of a module, which are no operators."""
    model = ml.Model()
    model |= ml.MultiHeadAttention(2, 4)(input="x", output="y")
    model |= ml.MoE(3, 4)(input="y", output="z")
    backend = traced((2,))
    compiled = ml.compile(model, backend, input_shard_specs={"x": (0, None, None)})
    inputs = {"x": random(4, 3, 8)}
    compiled.evaluate(compiled.get_parameters(inputs), inputs, {"z": random(4, 3, 8)})
    rows = by_name(backend)
    assert list(rows) == ["multi_head_attention_0", "moe_0"] and all(row.backward for row in rows.values())


def test_many_pairs_are_counted_together():
    model = ml.Model()
    model |= ml.Linear(160, weight_shard_spec=(0, None))(input="x", output="y")
    backend = traced((80,))
    compiled = ml.compile(model, backend)
    compiled.get_parameters({"x": random(2, 160)})
    (crossing,) = by_name(backend)["linear_0"].forward
    received = sum(device["received"] for device in compiled.get_communication_usage())
    assert (crossing.from_device, crossing.to_device, crossing.bytes) == (None, None, received) and received
    assert f"{received} bytes between many devices" in str(backend.partition_trace())


# ---------------------------------------------------------------- the object
def test_the_text():
    backend = traced((2,), partition_policy="operators")
    assert str(backend.partition_trace()) == "no model has been planned on this backend yet\n"
    assert backend.partition_trace().rows == []
    run(chain(), backend, X, gradients=True)
    text = str(backend.partition_trace())
    lines = text.splitlines()
    assert lines[0] == "model 0, planned with gradients"
    assert lines[1].split() == ["operator", "devices", "policy", "reason", "forward", "backward"]
    at = [lines[1].index(title) for title in ("operator", "devices", "policy", "reason", "forward", "backward")]
    cells = [[line[a:b].strip() for a, b in zip(at, [*at[1:], None])] for line in lines[2:]]
    assert cells[3] == ["relu_1", "1", "operators", "operator 4 of 6", "0 -> 1: 192 bytes", "-"]
    assert not any(line.endswith(" ") for line in lines) and repr(backend.partition_trace()) == text


def test_plans_and_models():
    """A model that is gone stays; a plan with gradients stays where one without comes; each model has its rows."""
    backend = traced((2,), partition_policy="operators")
    compiled = run(chain(), backend, X)
    assert "planned forward" in str(backend.partition_trace())
    params = compiled.get_parameters(X)
    compiled.evaluate(params, X, {"y2": np.ones((6, 4), np.float32)})
    assert by_name(backend)["relu_1"].forward[0].bytes == 192
    compiled.evaluate(params, {"x": random(3, 8)})
    assert by_name(backend)["relu_1"].forward[0].bytes == 192 and "with gradients" in str(backend.partition_trace())
    compiled.evaluate(params, {"x": random(3, 8)}, {"y2": np.ones((3, 4), np.float32)})
    assert by_name(backend)["relu_1"].forward[0].bytes == 96
    before = backend.partition_trace()
    run(products(), backend, X)
    del compiled
    gc.collect()
    assert {row.model for row in backend.partition_trace().rows} == {0, 1} and len(by_name(backend, 1)) == 4
    assert {row.model for row in before.rows} == {0}
    for _ in range(70):
        ml.compile(chain(), backend).get_parameters(X)
    numbers = sorted({row.model for row in backend.partition_trace().rows})
    assert numbers == list(range(72 - 64, 72))


def test_errors():
    with pytest.raises(ml.MithrilError, match="trace_module_partitioning=True"):
        CBackend(device_mesh=(2,)).partition_trace()
    with pytest.raises(TypeError):
        JaxBackend(device_mesh=(2,), trace_module_partitioning=True)
    trace = traced((2,)).partition_trace()
    with pytest.raises(TypeError):
        type(trace)()
    with pytest.raises(AttributeError):
        trace.rows = []
