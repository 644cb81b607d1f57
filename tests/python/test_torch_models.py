"""Random transformers and mixtures of experts on the torch engine, whole and over devices, beside the unsharded model
on the reference engine."""

import numpy as np
import pytest

import mithril as ml
from mithril.backends import ReferenceBackend, TorchBackend
from support import close, random

pytest.importorskip("torch")
MESHES = [(1,), (2,), (3,), (2, 2)]


def same(draw, build, inputs, **options):
    """build(True) over devices on torch against build(False) on one of the reference: values and all gradients."""
    mesh = MESHES[draw.integers(len(MESHES))]
    runs, seeds = [], {}
    for model, backend, more in (
        (build(False, mesh), ReferenceBackend(device_mesh=(1,)), {}),
        (build(True, mesh), TorchBackend(device_mesh=mesh), options),
    ):
        compiled = ml.compile(model, backend, **more)
        params = compiled.randomize_params(inputs, seed=3)
        floating = [name for name, x in inputs.items() if x.dtype == np.float32]
        values = compiled.evaluate(params, inputs)
        seeds = seeds or {k: random(*v.shape, seed=4) for k, v in values.items() if str(v.dtype) == "float32"}
        runs.append(compiled.evaluate(params, inputs, seeds, floating))
    (v0, g0), (v, g) = runs
    assert set(v) == set(v0) and set(g) == set(g0)
    largest = max(np.abs(np.asarray(x)).max(initial=0) for x in g0.values())
    for name in v0:
        close(v[name], v0[name], 5e-5, floor=1e-3)
    for name in g0:  # those of a key's bias are 0 but for rounding
        close(g[name], g0[name], 5e-4, floor=1e-2 * largest)


def transformer(draw):
    """Blocks of attention and of feed-forward layers or experts, behind an embedding; heads, experts and the batch over
    the axes of the mesh."""
    groups, each, head = int(draw.integers(1, 4)), int(draw.integers(1, 4)), int(draw.choice([2, 4, 8]))
    vocabulary, width, hidden = (int(draw.integers(2, 12)) for _ in range(3))
    blocks, experts = int(draw.integers(1, 3)), int(draw.integers(2, 8))
    causal, rotary, masked, mixed, gated = (bool(x) for x in draw.integers(0, 2, 5))
    top_k, capacity = int(draw.integers(1, 3)), [None, 0.5, 1.5][draw.integers(3)]
    place = [None, "one_per_device", "round_robin"][draw.integers(3)]
    axis_of = [None, 0, -1][draw.integers(3)]

    def build(sharded, mesh):
        axis = axis_of if axis_of is None or not sharded else axis_of % len(mesh)
        model = ml.Model()
        model |= ml.Embedding(vocabulary, width, name="e")(input="ids", output="x0")
        for i in range(blocks):
            wires = {"input": f"n{i}", "output": f"a{i}"} | ({"mask": "mask"} if masked else {})
            model |= ml.RMSNorm(name=f"norm{i}")(input=f"x{i}", output=f"n{i}")
            model |= ml.MultiHeadAttention(
                groups * each,
                head,
                groups,
                causal=causal,
                rotary=rotary,
                tensor_axis=axis if sharded else None,
                name=f"attention{i}",
            )(**wires)
            model |= ml.Add()(inputs=[f"x{i}", f"a{i}"], output=f"s{i}")
            part = (
                ml.MoE(
                    experts,
                    hidden,
                    top_k=top_k,
                    router_softmax="before",
                    gated=gated,
                    capacity_factor=capacity,
                    expert_distribution=place if sharded else None,
                    name=f"part{i}",
                )
                if mixed
                else ml.FeedForward(hidden, gated=gated, tensor_axis=axis if sharded else None, name=f"part{i}")
            )
            model |= part(input=f"s{i}", output=f"f{i}")
            model |= ml.Add()(inputs=[f"s{i}", f"f{i}"], output=f"x{i + 1}" if i + 1 < blocks else "y")
        return model

    batch, length = int(draw.integers(1, 5)), int(draw.integers(1, 13))
    inputs = {"ids": draw.integers(0, vocabulary, (batch, length)).astype(np.int32)}
    if masked:
        inputs["mask"] = draw.integers(0, 2, (batch, length)).astype(np.int32)
    return build, inputs


@pytest.mark.parametrize("seed", range(40))
def test_transformers(seed):
    draw = np.random.default_rng(seed)
    build, inputs = transformer(draw)
    shard = {"input_shard_specs": {name: (0, None) for name in inputs}} if draw.integers(2) else {}
    same(draw, build, inputs, **shard)


@pytest.mark.parametrize("seed", range(40))
def test_experts(seed):
    """Experts alone, of more tokens, also where the tokens are split and where experts have none."""
    draw = np.random.default_rng(seed)
    experts, hidden, width, tokens = (int(draw.integers(1, most)) for most in (12, 9, 9, 40))
    own = dict(
        top_k=int(draw.integers(1, min(3, experts) + 1)),
        router_softmax="before",
        gated=bool(draw.integers(2)),
        bias=bool(draw.integers(2)),
        activation=["relu", "gelu", "gelu_tanh", "silu"][draw.integers(4)],
        load_balancing_loss=bool(draw.integers(2)),
        capacity_factor=[None, 0.5, 1.25][draw.integers(3)],
    )
    place = [None, "one_per_device", "round_robin"][draw.integers(3)]

    def build(sharded, mesh):
        model = ml.Model()
        model |= ml.MoE(experts, hidden, expert_distribution=place if sharded else None, name="m", **own)(
            input="x", output="y"
        )
        return model

    shard = {"input_shard_specs": {"x": (0, None)}} if draw.integers(2) else {}
    same(draw, build, {"x": random(tokens, width, seed=seed)}, **shard)


@pytest.mark.parametrize("seed", range(10))
def test_positions_over_devices(seed):
    """Queries split in blocks, of causal attention over more keys than a block of torch's kernel has."""
    draw = np.random.default_rng(seed)
    length, heads = int(draw.integers(33, 90)), int(draw.integers(1, 3))
    masked = bool(draw.integers(2))

    def build(sharded, mesh):
        wires = {"input": "q", "key": "k", "value": "v", "output": "y"} | ({"mask": "mask"} if masked else {})
        model = ml.Model()
        model |= ml.MultiHeadAttention(heads, 4, 1, causal=True, bias=False, name="a")(**wires)
        return model

    inputs = {name: random(2, length, 5, seed=seed + i) for i, name in enumerate("qkv")}
    if masked:
        inputs["mask"] = draw.integers(0, 2, (2, length)).astype(np.int32)
    same(draw, build, inputs, input_shard_specs={"q": (None, 0, None)})
