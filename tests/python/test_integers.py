"""Integers keep every bit: what moves, cuts, looks up or communicates them, on every engine, against NumPy."""

import numpy as np
import pytest

import mithril as ml
from mithril.errors import MithrilError
from support import compile_on, few, on, one_block, random

every_engine = pytest.mark.parametrize("engine", ["native", "xla", "reference"], indirect=True)
BITS = [2**53 + 1, -(2**53) - 1, -(2**63), 2**63 - 1, 2**31, -(2**31) - 1, 2**32, -1, 0, 1, 2**62 + 1, 2**24 + 1]
"""Most of them no float64 has, and none but the small ones a float32."""


def integers(*shape, dtype="int64"):
    with np.errstate(over="ignore"):
        return np.resize(np.array(BITS, np.int64), shape).astype(dtype) if np.prod(shape) else np.zeros(shape, dtype)


MOVES = {
    "Reshape": (ml.Reshape([6, -1, 2]), lambda x: x.reshape(6, -1, 2)),
    "Transpose": (ml.Transpose(), lambda x: x.T),
    "Transpose of some": (ml.Transpose([0, 2, 1]), lambda x: x.transpose(0, 2, 1)),
    "Slice": (ml.Slice(1, 1, -1), lambda x: x[:, 1:-1]),
}
LAYOUTS = [
    ((1,), None, None),
    ((2,), (0, None, None), None),
    ((3,), (None, 0, None), (0, None, None)),
    ((2, 2), (0, 1, None), (None, (0, 1), None)),
    ((4,), (None, None, 0), (None, 0, None)),
]
"""A mesh, how the input is split, how the output is."""


def specs(given, returned):
    return {
        "input_shard_specs": {"x": given} if given else None,
        "output_shard_specs": {"y": returned} if returned else None,
    }


def evaluate(model, mesh, inputs, **options):
    compiled = compile_on(mesh, model, **options)
    return compiled.evaluate(compiled.get_parameters(inputs), inputs)


def check(got, want):
    got = np.asarray(got)
    assert got.dtype == want.dtype and np.array_equal(got, want), (got, want)


@every_engine
@pytest.mark.parametrize("dtype", ["int64", "int32", "bool"])
@pytest.mark.parametrize("name", MOVES)
def test_what_moves_integers_keeps_their_bits(engine, dtype, name):
    module, move = MOVES[name]
    x = integers(6, 5, 4, dtype=dtype)
    for mesh, given, returned in few(LAYOUTS, 3):
        options = specs(given, returned if returned and move(x).ndim == len(returned) else None)
        check(evaluate(one_block(module, input="x", output="y"), mesh, {"x": x}, **options)["y"], move(x))


@every_engine
@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_what_joins_and_cuts_integers_keeps_their_bits(engine, dtype):
    x, z = integers(6, 4, dtype=dtype), integers(6, 3, dtype=dtype)[::-1].copy()
    join = one_block(ml.Concat(axis=1), inputs=["x", "z"], output="y")
    cut = one_block(ml.Split(3), input="x", output0="a", output1="b", output2="c")
    for mesh, axes in few([((1,), None), ((2,), (0, None)), ((3,), (None, 0)), ((2, 2), (0, 1))], 2):
        given = {"input_shard_specs": {"x": axes} if axes else None}
        check(evaluate(join, mesh, {"x": x, "z": z}, **given)["y"], np.concatenate([x, z], 1))
        parts = evaluate(cut, mesh, {"x": x}, **given)
        for i, name in enumerate("abc"):
            check(parts[name], x[2 * i : 2 * i + 2])


@every_engine
def test_integers_pass_from_stage_to_stage(engine):
    stages = [one_block(ml.Reshape([-1, 3, 2])), one_block(ml.Transpose([0, 2, 1])), one_block(ml.Slice(2, 1))]
    x = integers(6, 6)
    want = x.reshape(6, 3, 2).transpose(0, 2, 1)[:, :, 1:]
    overlapping = {"device_assignment": [[0, 1], [2], [3, 0]]}
    for mesh, options in few([((3,), {}), ((2,), {"microbatch_size": 4}), ((4,), overlapping)], 2):
        check(evaluate(one_block(ml.Pipeline(stages, **options), input="x", output="y"), mesh, {"x": x})["y"], want)


@every_engine
def test_ids_of_64_bits_are_told_apart(engine):
    table = random(9, 4)
    model = one_block(ml.Embedding(9, 4, weight_shard_spec=(0, None)), input="x", output="y")
    compiled = compile_on((2,), model, input_shard_specs={"x": (0, None)})
    ids = np.array([[8, 0, 3], [1, 8, 7]], np.int64)
    weights = {"embedding_0.weight": table}
    check(compiled.evaluate(weights, {"x": ids})["y"], table[ids])
    for wrong in (2**53 + 1, 2**32, 2**32 + 3, -(2**63), 2**63 - 1, -(2**32)):  # in 32 bits some of them are ids
        with pytest.raises(MithrilError, match="token id -?[0-9]+.* is outside") as error:
            compiled.evaluate(weights, {"x": np.where(ids == 3, wrong, ids)})
        assert str(wrong) in str(error.value) or "or above" in str(error.value) or "or below" in str(error.value)


@every_engine
def test_a_mask_of_64_bits_is_zero_or_one(engine):
    """Of 2**32 the lower 32 bits are zero. What is refused counts as its fix says."""
    model = one_block(ml.MultiHeadAttention(2), input="x", mask="m", output="y")
    inputs = {"x": random(2, 4, 8), "m": np.array([[1, 1, 0, 1], [1, 0, 1, 0]], np.int64)}
    compiled = compile_on((2,), model)
    params = compiled.get_parameters(inputs, seed=1)
    want = np.asarray(compiled.evaluate(params, inputs)["y"])
    for much in (2**32, 2**53 + 1, -(2**63)):
        mask = inputs["m"] * np.int64(much)
        with pytest.raises(MithrilError, match="values other than 0 and 1") as error:
            compiled.evaluate(params, inputs | {"m": mask})
        if much > 0:
            assert "mask != 0" in error.value.fix
            got = compiled.evaluate(params, inputs | {"m": mask != 0})["y"]
            assert np.array_equal(np.asarray(got), want), much


@every_engine
def test_arrays_of_integers_keep_their_bits(engine):
    x = integers(4, 3)
    for mesh, spec in (((1,), None), ((2,), (0, None)), ((2, 2), (0, 1))):
        backend = on(mesh)
        a = backend.array(x, spec=spec)
        check(a, x)
        assert a.tolist() == x.tolist() and all(str(v) in str(a) for v in x.flat)
        check(backend.array(x.tolist(), dtype="int64", spec=spec), x)
        with np.errstate(over="ignore"):
            for dtype in ("float32", "float64", "bool"):  # rounded once
                check(backend.array(x, dtype=dtype, spec=spec), x.astype(dtype))
    backend = on((1,))
    for value in BITS:
        one = backend.array(np.int64(value))
        assert one.item() == value == int(one) and backend.array(value, dtype="int64").item() == value
    for tie in (2**54 + 2**30 + 1, 2**54 + 2**30 - 1, 2**62 + 2**38 + 1):  # by way of float64 another float32
        assert backend.array(np.int64(tie), dtype="float32").item() == float(np.float32(np.int64(tie)))
