"""Embeddings, positions, losses and dropout on any mesh against NumPy in float64, with gradients written down by
hand."""

import itertools
import math

import numpy as np
import pytest

import mithril as ml
from acceptance_support import devices, model_of, on, shifted
from support import every_engine, close, f64, few, random, rotary, softmax

MESHES = [(1,), (3,), (4,), (2, 2)]


def table_specs(mesh):
    return [{}, {"weight_shard_spec": (0, None)}, {"weight_shard_spec": (None, 0)}, {"tensor_axis": 0}] + (
        [{"weight_shard_spec": (0, 1)}, {"weight_shard_spec": ((1, 0), None)}] if len(mesh) == 2 else []
    )


@every_engine
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_embedding(mesh):
    """A vocabulary of 10 over devices that don't divide it; a token that stands several times; ids of both kinds; ids
    that are sharded."""
    ids = np.random.default_rng(1).integers(0, 10, (5, 4))
    shards = ({}, {"input_shard_specs": {"ids": (len(mesh) - 1, None)}})
    for options, dtype, shard in few(itertools.product(table_specs(mesh), (np.int32, np.int64), shards), 5):
        compiled = ml.compile(model_of(ml.Embedding(10, 7, **options)(input="ids", output="y")), on(*mesh), **shard)
        inputs, seed = {"ids": ids.astype(dtype)}, random(5, 4, 7)
        params = compiled.get_parameters(inputs)
        table = f64(params["embedding_0.weight"])
        values, gradients = compiled.evaluate(params, inputs, {"y": seed})
        assert np.array_equal(np.asarray(values["y"]), table[ids].astype(np.float32))
        want = np.zeros_like(table)
        np.add.at(want, ids, f64(seed))
        close(gradients["embedding_0.weight"], want)


@every_engine
@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize(
    "kind, options",
    [
        ("sinusoidal", {}),
        ("learned", {}),
        ("rotary", {}),
        ("rotary", {"interleaved": True}),
        ("rotary", {"head_dim": 2}),
    ],
)
def test_positions(mesh, kind, options):
    """Positions are those of the whole sequence where a device holds a part of it."""
    specs = (None, (0, None, None), (None, 0, None), (None, None, 0))
    for width, spec in few(itertools.product((6,) if kind == "rotary" else (6, 7), specs), 3):
        compiled = ml.compile(
            model_of(ml.PositionalEncoding(9, kind=kind, **options)(input="x", output="y")),
            on(*mesh),
            **({"input_shard_specs": {"x": spec}} if spec else {}),
        )
        x, seed = random(2, 5, width), random(2, 5, width, seed=7)
        params = shifted(compiled.get_parameters({"x": x}))
        values, gradients = compiled.evaluate(params, {"x": x}, {"y": seed}, ["x"])
        if kind == "rotary":
            size, interleaved = options.get("head_dim", width), options.get("interleaved", False)
            turn = lambda t: rotary(t.reshape(2, 5, -1, size).transpose(0, 2, 1, 3), interleaved=interleaved)
            close(values["y"], turn(f64(x)).transpose(0, 2, 1, 3).reshape(2, 5, width))
            assert (
                abs((f64(gradients["x"]) * f64(x)).sum() - (f64(seed) * f64(values["y"])).sum()) < 1e-4
            )  # it is linear
            continue
        if kind == "learned":
            assert params["positional_encoding_0.weight"].shape == (9, width)
            added, want = f64(params["positional_encoding_0.weight"])[:5], np.zeros((9, width))
            want[:5] = f64(seed).sum(0)
            close(gradients["positional_encoding_0.weight"], want)
        else:
            angle = [[s / 10000 ** ((j - j % 2) / width) for j in range(width)] for s in range(5)]
            added = np.array([[math.cos(a) if j % 2 else math.sin(a) for j, a in enumerate(row)] for row in angle])
        close(values["y"], f64(x) + added, 1e-5)
        close(gradients["x"], seed)


@every_engine
@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(mesh, reduction):
    """Logits that are split over the vocabulary, over the product's inner dimension, over both, or not at all."""
    specs = [(None, 0), (0, None), None] + ([(None, (0, 1)), (1, 0)] if len(mesh) == 2 else [])
    for spec, lead in few(itertools.product(specs, ((5,), (2, 3))), 3):
        model = model_of(
            ml.Linear(11, weight_shard_spec=spec)(input="x", output="l"),
            ml.CrossEntropy(reduction=reduction)(input="l", target="t", output="loss"),
        )
        compiled = ml.compile(model, on(*mesh))
        inputs = {"x": 3 * random(*lead, 4), "t": np.random.default_rng(3).integers(0, 11, lead)}
        params = shifted(compiled.get_parameters(inputs))
        weight, x, t = f64(params["linear_0.weight"]), f64(inputs["x"]).reshape(-1, 4), inputs["t"].reshape(-1)
        probability = softmax(x @ weight + f64(params["linear_0.bias"]))
        losses = -np.log(probability[np.arange(len(t)), t])
        want = {"mean": losses.mean(), "sum": losses.sum(), "none": losses.reshape(lead)}[reduction]
        seed = random(*lead) if reduction == "none" else np.float32(1.7)
        values, gradients = compiled.evaluate(params, inputs, {"loss": seed}, ["x"])
        close(values["loss"], want)
        each = np.broadcast_to(f64(seed), lead).reshape(-1, 1) / (len(t) if reduction == "mean" else 1)
        slope = (probability - np.eye(11)[t]) * each
        close(gradients["linear_0.weight"], x.T @ slope, 1e-4)
        close(gradients["linear_0.bias"], slope.sum(0), 1e-4)
        close(gradients["x"], (slope @ weight.T).reshape(*lead, 4), 1e-4)


@every_engine
def test_dropout_is_the_same_on_any_mesh():
    x, first = np.ones((40, 9), np.float32), None
    for mesh in [(1,), (2,), (3,), (2, 2)]:
        for spec in few([None] + [(a, b) for a in (None, 0) for b in (None, 1 if len(mesh) == 2 else None)], 3):
            compiled = ml.compile(
                model_of(ml.Dropout(0.3, seed=5)(input="x", output="y")),
                on(*mesh),
                **({"input_shard_specs": {"x": spec}} if spec else {}),
            )
            values, gradients = compiled.evaluate({}, {"x": x}, {"y": x}, ["x"])
            got = np.asarray(values["y"])
            assert np.array_equal(got, np.asarray(gradients["x"])) and np.array_equal(
                got, np.asarray(compiled.evaluate({}, {"x": x})["y"])
            )
            first = got if first is None else first
            assert np.array_equal(got, first)
    assert np.allclose(np.unique(first), [0, 1 / 0.7]) and 0.2 < (first == 0).mean() < 0.4
    model = model_of(ml.Dropout(0.3, seed=5)(input="x", output="a"), ml.Dropout(0.3, seed=5)(input="x", output="b"))
    both = ml.compile(model, on(1)).evaluate({}, {"x": x})
    assert not np.array_equal(np.asarray(both["a"]), np.asarray(both["b"]))


@every_engine
def test_heads_stay_whole():
    """Six heads over four devices: 2, 2, 2 and none; three groups of keys: 1, 1, 1 and none."""
    compiled = ml.compile(model_of(ml.MultiHeadAttention(6, 4, 3, tensor_axis=0)(input="x", output="y")), on(4))
    params = compiled.get_parameters({"x": random(2, 3, 5)})
    columns = lambda name: [
        s.index[-1].stop - s.index[-1].start for s in params[f"multi_head_attention_0.{name}"].addressable_shards
    ]
    assert columns("query.weight") == columns("query.bias") == [8, 8, 8, 0]
    assert columns("key.weight") == columns("value.bias") == [4, 4, 4, 0]
    rows = [
        s.index[0].stop - s.index[0].start for s in params["multi_head_attention_0.output.weight"].addressable_shards
    ]
    assert rows == [8, 8, 8, 0] and devices(params["multi_head_attention_0.output.bias"]) == [0, 1, 2, 3]


def test_head_dim_is_the_width_by_the_heads():
    compiled = ml.compile(model_of(ml.MultiHeadAttention(3)(input="x", output="y")), on(2))
    assert compiled.get_parameters({"x": random(2, 3, 12)})["multi_head_attention_0.query.weight"].shape == (12, 12)
    compiled = ml.compile(model_of(ml.MultiHeadAttention(5)(input="x", output="y")), on(2))
    with pytest.raises(ValueError, match="12 has no 5 equal heads"):
        compiled.get_parameters({"x": random(2, 3, 12)})


def test_where_experts_are():
    """Blocks of neighbours, dealt out with a step, fewer experts than devices; the slices say which."""

    def places(mesh, experts, distribution):
        model = model_of(ml.MoE(experts, 5, expert_distribution=distribution)(input="x", output="y"))
        array = ml.compile(model, on(*mesh)).get_parameters({"x": random(3, 6)})["moe_0.experts.up.weight"]
        whole = np.asarray(array)
        assert all(np.array_equal(np.asarray(s.data), whole[s.index]) for s in array.addressable_shards)
        return [list(range(experts))[s.index[0]] for s in array.addressable_shards]

    assert places((4,), 8, "one_per_device") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert places((4,), 8, "round_robin") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert places((4,), 10, "round_robin") == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    assert places((4,), 9, "one_per_device") == [[0, 1, 2], [3, 4, 5], [6, 7, 8], []]
    assert places((4,), 3, "one_per_device") == places((4,), 3, "round_robin") == [[0], [1], [2], []]
    assert places((2, 2), 6, None) == [list(range(6))] * 4
    spread = places((2, 2), 6, "one_per_device")
    assert sorted(sum(spread, [])) == list(range(6))


@every_engine
def test_a_device_without_tokens():
    """All tokens want the experts 1 and 2: the others' gradients are zero, and nothing hangs."""
    for shard in ({}, {"input_shard_specs": {"x": (0, None)}}):
        model = model_of(ml.MoE(4, 5, expert_distribution="one_per_device", device_mesh=(4,))(input="x", output="y"))
        compiled = ml.compile(model, on(4), **shard)
        x = np.abs(random(8, 6))
        params = shifted(compiled.get_parameters({"x": x}))
        router = np.zeros((6, 4), np.float32)
        router[:, 1], router[:, 2] = 5, 3
        params["moe_0.router.weight"] = router
        _, gradients = compiled.evaluate(params, {"x": x}, {"y": np.ones((8, 6), np.float32)}, ["x"])
        used = [np.asarray(gradients["moe_0.experts.up.weight"])[e].any() for e in range(4)]
        assert used == [False, True, True, False] and np.isfinite(np.asarray(gradients["x"])).all()


def test_parameters_of_experts():
    model = model_of(ml.MoE(3, 5)(input="x", output="y"), ml.MoE(3, 5, gated=True, bias=False)(input="x", output="z"))
    params = ml.compile(model, on(1)).get_parameters({"x": random(2, 4)})
    assert {k: v.shape for k, v in params.items() if k.startswith("moe_0")} == {
        "moe_0.router.weight": (4, 3),
        "moe_0.experts.up.weight": (3, 4, 5),
        "moe_0.experts.up.bias": (3, 5),
        "moe_0.experts.down.weight": (3, 5, 4),
        "moe_0.experts.down.bias": (3, 4),
    }
    assert [k for k in params if k.startswith("moe_1")] == ["moe_1.router.weight"] + [
        f"moe_1.experts.{k}.weight" for k in ("gate", "up", "down")
    ]
