"""NaN, infinities and numbers too small to be normal: every engine hands them on alike."""

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, ReferenceBackend
from mithril.errors import MithrilValueError
from support import one_block, random

NAN, INF = float("nan"), float("inf")
EVERY = {
    "reference": lambda xla, mesh: ReferenceBackend(device_mesh=mesh),
    "native": lambda xla, mesh: CBackend(device_mesh=mesh),
    "mpmd": lambda xla, mesh: xla(device_mesh=mesh),
    "spmd": lambda xla, mesh: xla(device_mesh=mesh, mesh_context="spmd"),
}
every_engine = pytest.mark.parametrize("engine", EVERY)


@every_engine
@pytest.mark.parametrize("spec", [(None, None), (0, None), (None, 0)], ids=str)
def test_nan_in_a_maximum(xla, engine, spec):
    x = np.array(
        [
            [1, NAN, 3, 0],
            [-INF, -2, -0.5, -2],
            [INF, NAN, 1, 2],
            [-INF, -INF, -INF, -INF],
            [-NAN, -1, -2, -3],
            [5, 1, 5, 2],
        ],
        np.float32,
    )
    compiled = ml.compile(
        one_block(ml.Max(axis=1), input="x", output="y"), EVERY[engine](xla, (2,)), input_shard_specs={"x": spec}
    )
    seed = np.array([2, 3, 4, 5, 6, 7], np.float32)
    got, slopes = compiled.evaluate({}, {"x": x}, {"y": seed}, ["x"])
    with np.errstate(invalid="ignore"):
        want = x.max(1)
        won = x == want[:, None]
        slope = np.where(np.isnan(want)[:, None], NAN, won * seed[:, None] / np.maximum(won.sum(1, keepdims=True), 1))
    assert np.array_equal(np.asarray(got["y"]), want, equal_nan=True)
    assert np.array_equal(np.asarray(slopes["x"]), slope.astype(np.float32), equal_nan=True)


@every_engine
def test_a_gradient_that_is_nan_reaches_the_whole_row(xla, engine):
    compiled = ml.compile(one_block(ml.Max(axis=1), input="x", output="y"), EVERY[engine](xla, (1,)))
    _, slopes = compiled.evaluate(
        {}, {"x": np.array([[1, 3], [4, 2]], np.float32)}, {"y": np.array([NAN, 1], np.float32)}, ["x"]
    )
    assert np.array_equal(np.asarray(slopes["x"]), np.array([[NAN, NAN], [1, 0]], np.float32), equal_nan=True)


ODD = np.array([NAN, INF, -INF, 0.0, -0.0, 3e38, -3e38, 1e19, -1e19, 100, -100], np.float32)
HALF = [0.5, 0.5]
ACTIVATIONS = {  # values and slopes at ODD
    "Relu": (ml.Relu, [NAN, INF, 0, 0, 0, 3e38, 0, 1e19, 0, 100, 0], [0, 1, 0, 0, 0] + [1, 0] * 3),
    "Gelu": (ml.Gelu, [NAN, INF, NAN, 0, 0, 3e38, 0, 1e19, 0, 100, 0], [NAN] * 3 + HALF + [1, 0] * 3),
    "Gelu of tanh": (
        lambda: ml.Gelu(approximate=True),
        [NAN, INF, NAN, 0, 0, 3e38, 0, 1e19, 0, 100, 0],
        [NAN] * 3 + HALF + [1, 0] * 3,
    ),
    "Silu": (ml.Silu, [NAN, INF, NAN, 0, 0, 3e38, 0, 1e19, 0, 100, 0], [NAN] * 3 + HALF + [1, 0] * 3),
    "Sigmoid": (ml.Sigmoid, [NAN, 1, 0] + HALF + [1, 0] * 3, [NAN, 0, 0, 0.25, 0.25] + [0] * 6),
    "Tanh": (ml.Tanh, [NAN, 1, -1, 0, 0] + [1, -1] * 3, [NAN, 0, 0, 1, 1] + [0] * 6),
}


@every_engine
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_corners_of_activations(xla, engine, name):
    module, values, slopes = ACTIVATIONS[name]
    compiled = ml.compile(one_block(module(), input="x", output="y"), EVERY[engine](xla, (1,)))
    y, g = compiled.evaluate({}, {"x": ODD}, {"y": np.full(ODD.shape, 2, np.float32)}, ["x"])
    assert np.allclose(y["y"], values, rtol=1e-6, atol=1e-30, equal_nan=True)
    assert np.allclose(g["x"], 2 * np.array(slopes), rtol=1e-6, atol=1e-30, equal_nan=True)
    if name == "Relu":  # what arrives where the output is not above 0 is not looked at
        for seed in (NAN, INF):
            g = compiled.evaluate({}, {"x": ODD}, {"y": np.full(ODD.shape, seed, np.float32)}, ["x"])[1]
            assert np.array_equal(g["x"], np.where(slopes, seed, 0), equal_nan=True)


def routed(scores, k, capacity):
    """Choices that find no room: the largest scores first, NaN before them all, ties to the lower index."""
    taken, dropped = [0] * scores.shape[1], 0
    for row in scores:
        order = sorted(range(len(row)), key=lambda e: (not np.isnan(row[e]), -row[e] if not np.isnan(row[e]) else 0, e))
        for expert in order[:k]:
            dropped += taken[expert] >= capacity
            taken[expert] += 1
    return dropped


@pytest.mark.parametrize("engine", ["reference", "native", "mpmd"])
@pytest.mark.parametrize("seed", range(4))
def test_nan_among_the_scores_of_experts(xla, engine, seed):
    draw = np.random.default_rng(seed)
    model = ml.Model()
    model |= ml.MoE(4, 8, top_k=2, capacity_factor=1.0)(input="x", output="y", dropped="dropped")
    compiled = ml.compile(model, EVERY[engine](xla, (1,)))
    x = draw.integers(-2, 3, (8, 4)).astype(np.float32)
    params = {k: np.asarray(v) for k, v in compiled.get_parameters({"x": x}).items()}
    router = next(k for k in params if k.endswith("router.weight"))
    params[router] = np.eye(4, dtype=np.float32)  # scores are the input
    x[draw.random(x.shape) < 0.3] = NAN
    got = compiled.evaluate(params, {"x": x})
    with np.errstate(invalid="ignore"):
        scores = x @ np.eye(4, dtype=np.float32)
    assert int(np.asarray(got["dropped"]).item()) == routed(scores, 2, 4)


@every_engine
@pytest.mark.parametrize(
    "last, seen", [(1.0, True), (0.0, False), (-0.0, False), (1e-40, None), (-1e-45, None), (NAN, None)]
)
def test_numbers_as_truth_values(xla, engine, last, seen):
    """A mask that the model puts together: what is neither 0 nor 1 is refused, however small it is (XLA flushes
    denormal numbers)."""
    model = ml.Model()
    model |= ml.Concat(axis=1)(inputs=["first", "last"], output="mask")
    model |= ml.MultiHeadAttention(1)(input="x", mask="mask", output="y")
    compiled = ml.compile(model, EVERY[engine](xla, (1,)))
    inputs = {"x": random(1, 3, 4), "first": np.ones((1, 2), np.float32), "last": np.full((1, 1), last, np.float32)}
    params = compiled.get_parameters(inputs)
    if seen is None:
        with pytest.raises(MithrilValueError, match="other than 0 and 1"):
            compiled.evaluate(params, inputs)
        return
    changed = {
        **inputs,
        "x": inputs["x"] + np.array([[[0], [0], [1]]], np.float32),
    }  # what is hidden does not reach the others
    a, b = (np.asarray(compiled.evaluate(params, x)["y"])[:, :2] for x in (inputs, changed))
    assert np.array_equal(a, b) != seen
