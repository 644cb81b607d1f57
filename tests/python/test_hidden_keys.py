"""What is hidden must not be able to speak: NaN, infinities and huge numbers in masked keys, at later positions and
in padding, against float64
sums over the pairs that see each other alone."""

import re

import numpy as np
import pytest

import mithril as ml
import support
from support import close, few, on, random

engines = pytest.mark.parametrize("engine", ["native", "xla", "reference"], indirect=True)
POISON = [np.nan, np.inf, -np.inf, 1e30, 3e38]


def expected(q, k, v, seen, dout, heads, groups):
    """o, dq, dk, dv of q[b, s, heads * d], k, v[b, t, groups * d], seen[b, s, t]; a query with a gradient of 0 takes
    no part in dk and dv."""
    b, s, width = q.shape
    d, t = width // heads, k.shape[1]
    q, dout = q.astype(np.float64).reshape(b, s, heads, d), dout.astype(np.float64).reshape(b, s, heads, d)
    k, v = k.astype(np.float64).reshape(b, t, groups, d), v.astype(np.float64).reshape(b, t, groups, d)
    o, dq, dk, dv = np.zeros_like(q), np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for i, j, h in np.ndindex(b, s, heads):
        keys, g = np.flatnonzero(seen[i, j]), h // (heads // groups)
        if not len(keys):
            continue
        score = k[i, keys, g] @ q[i, j, h] / np.sqrt(d)
        p = np.exp(score - score.max())
        p /= p.sum()
        o[i, j, h] = p @ v[i, keys, g]
        if not dout[i, j, h].any():
            continue
        ds = p * (v[i, keys, g] @ dout[i, j, h] - dout[i, j, h] @ o[i, j, h]) / np.sqrt(d)
        dq[i, j, h] = ds @ k[i, keys, g]
        dk[i, keys, g] += np.outer(ds, q[i, j, h])
        dv[i, keys, g] += np.outer(p, dout[i, j, h])
    return [x.reshape(b, len(x[0]), -1) for x in (o, dq, dk, dv)]


def spoil(draw, x, rows):
    """x with something in each of the rows (b, t) that nobody may see."""
    x = x.copy()
    for i, j in zip(*np.nonzero(rows)):
        some = draw.random(x.shape[2]) < draw.choice([0.1, 1])
        some[draw.integers(x.shape[2])] = True
        x[i, j, some] = draw.choice(POISON, some.sum())
    return x


def check(
    mesh, sizes, heads=2, groups=2, causal=False, hidden=None, late=None, specs=None, axis=None, seed=0, **backend
):
    """hidden: masked keys, 'some' or 'end'. late: queries, keys and values are spoiled from this position on. The
    queries that see what is
    spoiled, or are, have a gradient of 0."""
    draw = np.random.default_rng([seed, *sizes])
    b, s, t, d = sizes
    q, k, v = random(b, s, heads * d), random(b, t, groups * d, seed=1), random(b, t, groups * d, seed=2)
    shown = np.ones((b, t), bool)
    if hidden == "some":
        shown = draw.random((b, t)) < 0.6
        shown[0] = False  # this batch sees nothing
        shown[-1, 0] = True
    if hidden == "end":
        shown = np.arange(t) < draw.integers(1, t + 1, (b, 1))
    spoiled, odd = ~shown, np.zeros((b, s), bool)
    if late is not None:
        spoiled = spoiled | (np.arange(t) >= late)
    if s == t:
        odd = spoiled
    seen = np.broadcast_to(shown[:, None, :], (b, s, t)).copy()
    if causal:
        seen &= np.arange(t) <= np.arange(s)[:, None]
    asked = ~odd & ~(seen & spoiled[:, None, :]).any(2)
    dout = random(b, s, heads * d, seed=3) * asked[:, :, None]
    o, dq, dk, dv = expected(q, k, v, seen, dout, heads, groups)
    inputs = {"q": spoil(draw, q, odd), "k": spoil(draw, k, spoiled), "v": spoil(draw, v, spoiled)}
    wires = {"input": "q", "key": "k", "value": "v", "output": "y"}
    if hidden:
        wires["mask"], inputs["m"] = "m", shown
    model = ml.Model()
    model |= ml.MultiHeadAttention(heads, d, groups, causal=causal, bias=False, tensor_axis=axis, name="a")(**wires)
    compiled = ml.compile(model, on(mesh, **backend), input_shard_specs=specs or {})
    eye = {
        f"a.{n}.weight": np.eye(w * d, dtype=np.float32)
        for n, w in (("query", heads), ("key", groups), ("value", groups), ("output", heads))
    }
    y, g = compiled.evaluate(eye, inputs, output_gradients={"y": dout}, input_gradients=["q", "k", "v"])
    y, g = np.asarray(y["y"]), {n: np.asarray(x) for n, x in g.items()}
    close(y[asked], o[asked])
    close(g["q"][asked], dq[asked], 1e-4, floor=0.1)
    close(g["k"][~spoiled], dk[~spoiled], 1e-4, floor=0.1)
    close(g["v"][~spoiled], dv[~spoiled], 1e-4, floor=0.1)


@engines
@pytest.mark.parametrize("hidden", ["some", "end"])
def test_masked_keys(engine, hidden):
    for i, sizes in few(list(enumerate([(2, 5, 7, 4), (3, 6, 6, 3), (2, 140, 300, 8), (2, 1, 9, 16)])), 2):
        if engine.__name__ == "ReferenceBackend" and sizes[1] > 100:
            continue
        check((1,), sizes, hidden=hidden, seed=i)
        check((1,), sizes, heads=4, groups=2, hidden=hidden, seed=i)


@engines
def test_later_positions(engine):
    for i, (length, late) in few(list(enumerate([(6, 3), (9, 1), (300, 130), (270, 257)])), 2):
        if engine.__name__ == "ReferenceBackend" and length > 100:
            continue
        check((1,), (2, length, length, 4), causal=True, late=late, seed=i)
        check((1,), (2, length, length, 4), heads=4, causal=True, late=late, hidden="end", seed=i)


@engines
def test_shards(engine):
    cases = [
        ((2,), dict(axis=0)),
        ((3,), dict(heads=4, groups=4, axis=0)),
        ((2, 2), dict(axis=1, specs={n: (0, None, None) for n in "qkv"})),
        ((3,), dict(specs={"q": (None, 0, None)})),
        ((2, 2), dict(heads=4, axis=0, specs={"q": (None, 1, None)})),
    ]
    for i, (mesh, options) in few(list(enumerate(cases)), 2):
        check(mesh, (2, 7, 7, 3), causal=True, late=4, seed=i, **options)
        check(mesh, (3, 5, 8, 3), hidden="some", seed=i, **options)


def test_shards_of_the_partitioner(xla):
    support.engine = xla
    check((2,), (2, 7, 7, 3), causal=True, late=4, axis=0, mesh_context="spmd")
    check((2,), (3, 5, 8, 3), hidden="some", specs={"q": (None, 0, None)}, mesh_context="spmd")


@engines
def test_finite_values_that_overflow_at_hidden_keys(engine):
    x = np.array([[[1, 0, 0, 0], [0, 1, 0, 0], [1e30, 0, 0, 0]]], np.float32)
    model = ml.Model()
    model |= ml.MultiHeadAttention(1, bias=False, name="a")(input="x", mask="m", output="y")
    eye = {f"a.{n}.weight": np.eye(4, dtype=np.float32) for n in ("query", "key", "value", "output")}
    given = {"x": x, "m": np.array([[1, 1, 0]], np.int32)}
    y, g = ml.compile(model, on((1,))).evaluate(
        eye, given, output_gradients={"y": np.ones((1, 3, 4), np.float32)}, input_gradients=["x"]
    )
    a, b = 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(0.5))
    close(y["y"], np.array([[[a, b, 0, 0], [b, a, 0, 0], [1, 0, 0, 0]]]))
    close(g["x"], np.array([[[2] * 4, [1] * 4, [0] * 4]]))


@engines
@pytest.mark.parametrize("length, odd", [(6, 3), (300, 7), (300, 256)])
def test_what_is_seen_speaks(engine, length, odd):
    """A NaN that a query sees comes out, and at that query alone."""
    if engine.__name__ == "ReferenceBackend" and length > 100:
        pytest.skip("too slow")
    x = random(1, length, 4)
    x[0, odd] = np.nan
    model = ml.Model()
    model |= ml.MultiHeadAttention(2, causal=True, name="a")(input="x", output="y")
    compiled = ml.compile(model, on((1,)))
    y = np.asarray(compiled.evaluate(compiled.randomize_params({"x": x}, seed=1), {"x": x})["y"])
    assert np.isfinite(y[0, :odd]).all() and np.isnan(y[0, odd:]).all()


@engines
@pytest.mark.parametrize("where", ["query", "key", "value", "gradient"])
def test_what_is_seen_speaks_in_gradients(engine, where):
    """What is not finite at position 3 of 6 comes out in the gradients of all that sees it or is seen by one that
    does, and of nothing else."""
    q, k, v, dy = (random(1, 6, 4, seed=i) for i in range(4))
    {"query": q, "key": k, "value": v, "gradient": dy}[where][0, 3] = np.nan
    dy[0, 4:] = 0  # the queries from here on ask nothing
    model = ml.Model()
    model |= ml.MultiHeadAttention(1, causal=True, bias=False, name="a")(input="q", key="k", value="v", output="y")
    eye = {f"a.{n}.weight": np.eye(4, dtype=np.float32) for n in ("query", "key", "value", "output")}
    g = ml.compile(model, on((1,))).evaluate(
        eye, {"q": q, "k": k, "v": v}, output_gradients={"y": dy}, input_gradients=["q", "k", "v"]
    )[1]
    finite = {name: np.isfinite(np.asarray(g[name])).all(2)[0].tolist() for name in "qkv"}
    assert finite["q"] == [True] * 3 + [False] + [True] * 2
    assert not any(finite["k"][:4]) and all(finite["k"][4:] + finite["v"][4:])


@engines
def test_products_that_overflow_at_hidden_keys(engine):
    """Values at later positions whose products with finite gradients are infinite."""
    q, k, v = random(1, 3, 4), random(1, 3, 4, seed=1), random(1, 3, 4, seed=2)
    dy = np.full((1, 3, 4), 64, np.float32)
    dy[0, 2] = 0
    model = ml.Model()
    model |= ml.MultiHeadAttention(1, causal=True, bias=False, name="a")(input="q", key="k", value="v", output="y")
    eye = {f"a.{n}.weight": np.eye(4, dtype=np.float32) for n in ("query", "key", "value", "output")}
    compiled, results = ml.compile(model, on((1,))), []
    for last in (3e38, 1):
        v[0, 2] = last
        results.append(
            compiled.evaluate(
                eye, {"q": q, "k": k, "v": v.copy()}, output_gradients={"y": dy}, input_gradients=["q", "k", "v"]
            )[1]
        )
    for name in "qkv":
        close(results[0][name], np.asarray(results[1][name]))


@pytest.mark.parametrize("gradients", [False, True])
def test_protection_takes_no_memory(xla, gradients):
    """XLA's temporaries hold two arrays of the scores' size, three with gradients, and little else: with a mask as
    without."""
    length, temporaries = 512, []
    support.engine = xla
    for hidden in ({}, {"mask": "m"}):
        model = ml.Model()
        model |= ml.MultiHeadAttention(4, causal=bool(hidden))(input="x", output="y", **hidden)
        compiled = ml.compile(model, on((1,)))
        x = random(1, length, 64)
        inputs = {"x": x, "m": np.ones((1, length), bool)} if hidden else {"x": x}
        params = compiled.get_parameters(inputs)
        compiled.evaluate(params, inputs, **({"output_gradients": {"y": x}} if gradients else {}))
        temporaries.append(int(compiled.explain().split("temporaries ")[1].split(",")[0]))
    scores = 4 * length * length * 4
    assert max(temporaries) < (3.5 if gradients else 2.5) * scores and temporaries[1] < 1.02 * temporaries[0]


MASKS = [  # a value beside 0 and 1, the dtypes that have it, and what the error's fix makes of such a mask
    (-1e4, "int32 int64 float16 float32 float64", lambda mask: mask == 0),
    (-np.inf, "float16 float32 float64", lambda mask: mask == 0),
    (-(2.0**33), "int64 float32 float64", lambda mask: mask == 0),
    (-1e300, "float64", lambda mask: mask == 0),
    (2, "int8 uint8 int64 float32 float64", lambda mask: mask != 0),
    (255, "uint8 int32", lambda mask: mask != 0),
    (2**32, "int64 uint64", lambda mask: mask != 0),  # its low 32 bits are 0
    (1e-60, "float64", lambda mask: mask != 0),  # 0 as a float32
    (1 + 1e-12, "float64", lambda mask: mask != 0),  # 1 as a float32
    (1e-40, "float32 float64", lambda mask: mask != 0),
    (np.nan, "float16 float32 float64", lambda mask: mask == 1),
]


@engines
def test_masks_of_other_values(engine):
    """They are refused as they were given, whatever their dtype, and what the fix offers is the mask that was meant."""
    model = ml.Model()
    model |= ml.MultiHeadAttention(2)(input="x", mask="mask", output="y")
    compiled = ml.compile(model, on((2,)), input_shard_specs={"mask": (0, None), "x": (0, None, None)})
    x = random(2, 5, 4)
    shown = np.array([[1, 1, 0, 1, 1], [1, 0, 0, 0, 1]], bool)
    params = compiled.get_parameters({"x": x, "mask": shown})

    def run(mask):
        return np.asarray(compiled.evaluate(params, {"x": x, "mask": mask})["y"])

    expected = run(shown)
    for value, dtypes, fix in MASKS:
        for dtype in dtypes.split():
            meant = fix(np.array([value])).item()  # whether the value shows a key
            mask = np.where(shown == meant, value, 0 if fix(np.array([0])).item() != meant else 1).astype(dtype)
            with pytest.raises(ml.MithrilError, match="values other than 0 and 1") as caught:
                run(mask)
            offered = eval(re.search("mask [=!]= [01]", caught.value.fix).group(), {"mask": mask})
            assert np.array_equal(offered, fix(mask)) and np.array_equal(offered, shown), (value, dtype)
            assert np.array_equal(run(offered), expected), (value, dtype)
    for dtype in ("bool", "int8", "int64", "float16", "float32", "float64"):
        assert np.array_equal(run(shown.astype(dtype)), expected), dtype
