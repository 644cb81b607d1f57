"""Errors of float32 against float64 sums: of long reductions, and of what exponentials and norms make of large
numbers. docs/accuracy.md has the
table, with torch's figures."""

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, JaxBackend, TorchBackend
from support import every_engine, f64, on

EPS = 2.0**-24


def run(module, given, params=None, dy=None, **wires):
    """The output, and with dy the gradients of all floating inputs and parameters."""
    model = ml.Model()
    model |= module(output="y", **wires)
    compiled = ml.compile(model, on((1,)))
    if dy is None:
        return np.asarray(compiled.evaluate(params or {}, given)["y"])
    floating = [k for k, v in given.items() if v.dtype == np.float32]
    y, g = compiled.evaluate(params or {}, given, output_gradients={"y": dy}, input_gradients=floating)
    return np.asarray(y["y"]), {k: np.asarray(v) for k, v in g.items()}


def error(got, want):
    return np.abs(f64(got) - want).max() / np.abs(want).max()


# ---------------------------------------------------------------- lengths
LONG = 2**22


def uniform(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).random(shape, dtype=np.float32)


def product(m, n, k):
    x, w = uniform(m, k), uniform(k, n, seed=1)
    return run(ml.MatMul(), {"x": x, "w": w}, inputs=["x", "w"]), f64(x) @ f64(w)


def total(module, shape, count=1):
    x = uniform(*shape)
    return run(module, {"x": x}, input="x"), x.sum(axis=0, dtype=np.float64) / count


def norm_weight(module, name):
    x, dy = uniform(LONG // 64, 8) - np.float32(0.5), uniform(LONG // 64, 8, seed=1)
    params = {f"{name}.weight": np.ones(8, np.float32)} | (
        {f"{name}.bias": np.zeros(8, np.float32)} if name == "layer_norm_0" else {}
    )
    g = run(module, {"x": x}, params, dy, input="x")[1][f"{name}.weight"]
    h = f64(x) - (f64(x).mean(1, keepdims=True) if name == "layer_norm_0" else 0)
    return g, (h / np.sqrt((h * h).mean(1, keepdims=True) + 1e-5) * dy).sum(0)


def one_token(count, width):
    dy = uniform(count, width)
    params = {"e.weight": np.ones((3, width), np.float32)}
    g = run(ml.Embedding(3, width, name="e"), {"ids": np.ones(count, np.int32)}, params, dy, input="ids")[1]["e.weight"]
    return g[1], dy.sum(0, dtype=np.float64)


def norm_row(module, name):
    x, params = uniform(2, LONG // 2) - np.float32(0.5), {f"{name}.weight": np.ones(LONG // 2, np.float32)}
    params |= {f"{name}.bias": np.zeros(LONG // 2, np.float32)} if name == "layer_norm_0" else {}
    h = f64(x) - (f64(x).mean(1, keepdims=True) if name == "layer_norm_0" else 0)
    return run(module, {"x": x}, params, input="x"), h / np.sqrt((h * h).mean(1, keepdims=True) + 1e-5)


def weight(m, n, k):
    """The gradient of a weight (m, n) over a batch of k."""
    x, dy = uniform(k, m), uniform(k, n, seed=1)
    g = run(ml.Linear(n, bias=False, name="l"), {"x": x}, {"l.weight": np.zeros((m, n), np.float32)}, dy, input="x")[1]
    return g["l.weight"], f64(x).T @ f64(dy)


def softmax_row():
    x = uniform(1, LONG)
    e = np.exp(f64(x))
    return run(ml.Softmax(), {"x": x}, input="x"), e / e.sum()


def squared_error():
    x, t = uniform(LONG), uniform(LONG, seed=1)
    return run(ml.SquaredError(), {"x": x, "t": t}, input="x", target="t"), ((f64(x) - t) ** 2).mean()


def loss(rows, classes):
    x, t = uniform(rows, classes), np.random.default_rng(1).integers(0, classes, rows).astype(np.int32)
    want = (np.log(np.exp(f64(x)).sum(1)) - f64(x)[np.arange(len(x)), t]).mean()
    return run(ml.CrossEntropy(), {"x": x, "t": t}, input="x", target="t"), want


LENGTHS = {  # name: (case, bound in units of 2^-24 of the largest result, XLA's where it is another)
    "product 36 x 64, 49152 terms": (lambda: product(36, 64, 49152), 12),
    "product 2 x 2, 2^22 terms": (lambda: product(2, 2, LONG), 12),
    "product 65 x 49, 16384 terms": (lambda: product(65, 49, 2**14), 12, 24),
    "product 1 x 7, 4096 terms": (lambda: product(1, 7, 2**12), 12),
    "product of vectors, 2^22 terms": (lambda: product(1, 1, LONG), 12),
    "product 1 x 4, 2^22 terms": (lambda: product(1, 4, LONG), 12),
    "product 4 x 1, 2^16 terms": (lambda: product(4, 1, 2**16), 12, 24),
    "product 4 x 1, 2^22 terms": (lambda: product(4, 1, LONG), 12, 1200),
    "weight 4 x 1, batch of 2^22": (lambda: weight(4, 1, LONG), 12),
    "weight 2 x 2, batch of 2^22": (lambda: weight(2, 2, LONG), 12),
    "weight 1 x 16, batch of 1000003": (lambda: weight(1, 16, 1000003), 12, 24),
    "weight 16 x 16, batch of 2^18": (lambda: weight(16, 16, 2**18), 12, 24),
    "weight 64 x 65, batch of 2^14": (lambda: weight(64, 65, 2**14), 12, 24),
    "sum of a row of 2^22": (lambda: total(ml.Sum(), (LONG,)), 12),
    "sums of 4 columns of 2^22": (lambda: total(ml.Sum(axis=0), (LONG, 4)), 12),
    "sums of 2^15 columns of 2^12": (lambda: total(ml.Sum(axis=0), (2**12, 2**15)), 12),
    "mean of 2^22": (lambda: total(ml.Mean(), (LONG,), LONG), 12),
    "softmax of 2^22": (softmax_row, 12),
    "LayerNorm of 2^21": (lambda: norm_row(ml.LayerNorm(), "layer_norm_0"), 12),
    "RMSNorm of 2^21": (lambda: norm_row(ml.RMSNorm(epsilon=1e-5), "rms_norm_0"), 12),
    "weight of LayerNorm, 2^16 rows": (lambda: norm_weight(ml.LayerNorm(), "layer_norm_0"), 40),
    "weight of RMSNorm, 2^16 rows": (lambda: norm_weight(ml.RMSNorm(epsilon=1e-5), "rms_norm_0"), 40),
    "SquaredError of 2^22": (squared_error, 12),
    "CrossEntropy of 2^16 rows": (lambda: loss(2**16, 64), 12),
    "CrossEntropy of 2^20 classes": (lambda: loss(4, 2**20), 12),
    "embedding of one id, 2^18 times": (lambda: one_token(2**18, 4), 12, 250),
    "embedding of one id, 2^22 times": (lambda: one_token(LONG, 1), 12, 1200),
}


@every_engine
@pytest.mark.parametrize("name", LENGTHS)
def test_lengths(engine, name):
    case, *bounds = LENGTHS[name]
    got, want = case()
    print(f"{engine.__name__} {name}: {error(got, want):.1e}")
    assert error(got, want) <= bounds[0 if engine is CBackend else -1] * EPS


@every_engine
@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("keys, bound", [(2**17, 64), (2**20, 1000)])
def test_attention_over_many_keys(engine, queries, keys, bound):
    """The mean of equal values: one addition for every 256 keys, for a single query too; XLA's chains don't grow with
    the keys, and torch's kernel adds block by block."""
    bound = {CBackend: bound, JaxBackend: {1: 250, 2: 1000}[queries], TorchBackend: 1000}[engine]
    width = 8
    model = ml.Model()
    model |= ml.MultiHeadAttention(1, head_dim=width, bias=False, name="a")(input="x", key="k", value="v", output="y")
    compiled = ml.compile(model, on((1,)))
    params = {f"a.{name}.weight": np.eye(width, dtype=np.float32) for name in ("query", "key", "value", "output")}
    value = np.full((1, keys, width), 0.7, np.float32)
    inputs = {"x": np.full((1, queries, width), 0.1, np.float32), "k": np.zeros_like(value), "v": value}
    error = np.abs(f64(compiled.evaluate(params, inputs)["y"]) / f64(value[0, 0]) - 1).max()
    print(f"{engine.__name__} attention of {queries} over {keys}: {error:.1e}")
    assert error < bound * EPS


@every_engine
@pytest.mark.parametrize("algorithm", ["direct", "ring", "tree"])
def test_sums_over_devices(engine, algorithm):
    x, w = uniform(4, 1600), uniform(1600, 4, seed=1)
    model = ml.Model()
    model |= ml.MatMul()(inputs=["x", "w"], output="y")
    backend = on((16,), collective_ops={"all_reduce": algorithm})
    compiled = ml.compile(model, backend, input_shard_specs={"x": (None, 0), "w": (0, None)})
    got = compiled.evaluate({}, {"x": x, "w": w})["y"]
    print(f"{engine.__name__} {algorithm}: {error(got, f64(x) @ f64(w)):.1e}")
    assert error(got, f64(x) @ f64(w)) <= 16 * EPS


@every_engine
def test_sums_over_microbatches(engine):
    x, dy = uniform(256, 3), uniform(256, 2, seed=1)
    model = ml.Model()
    stages = []
    for width, name in ((4, "a"), (2, "b")):
        stage = ml.Model()
        stage |= ml.Linear(width, bias=False, name=name)(input="input", output="output")
        stages.append(stage)
    model |= ml.Pipeline(stages, microbatch_size=1, name="p")(input="x", output="y")
    compiled = ml.compile(model, on((2,)))
    params = {k: np.ones(v.shape, np.float32) for k, v in compiled.get_parameters({"x": x}).items()}
    g = compiled.evaluate(params, {"x": x}, output_gradients={"y": dy})[1]
    (first,) = [np.asarray(v) for k, v in g.items() if k.endswith("a.weight")]
    want = f64(x).T @ (f64(dy) @ np.ones((2, 4)))
    print(f"{engine.__name__}: {error(first, want):.1e}")
    assert error(first, want) <= 16 * EPS


# ---------------------------------------------------------------- scales
def softmax(x, dy):
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p, p * (dy - (p * dy).sum(1, keepdims=True))


def attention(x, dy):
    root = np.sqrt(x.shape[1])
    p, _ = softmax(x @ x.T / root, 0 * x @ x.T)
    ds = softmax(x @ x.T / root, dy @ x.T)[1] / root
    return p @ x, ds @ x + ds.T @ x + p.T @ dy


def layer_norm(x, dy):
    r = 1 / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    h = (x - x.mean(1, keepdims=True)) * r
    return h, r * (dy - dy.mean(1, keepdims=True) - h * (dy * h).mean(1, keepdims=True))


def rms_norm(x, dy):
    r = 1 / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5)
    return x * r, r * (dy - x * r * (dy * x * r).mean(1, keepdims=True))


ONE, EYE = np.ones(32, np.float32), np.eye(32, dtype=np.float32)
# With ties, and scores that float32 holds: the largest relative error of y and dx is near 1e-7 at every scale.
OPERATORS = {
    "softmax": (ml.Softmax, {}, softmax),
    "LayerNorm": (lambda: ml.LayerNorm(name="n"), {"n.weight": ONE, "n.bias": 0 * ONE}, layer_norm),
    "RMSNorm": (lambda: ml.RMSNorm(epsilon=1e-5, name="n"), {"n.weight": ONE}, rms_norm),
    "attention": (
        lambda: ml.MultiHeadAttention(1, bias=False, name="a"),
        {f"a.{n}.weight": EYE for n in ("query", "key", "value", "output")},
        attention,
    ),
}


@every_engine
@pytest.mark.parametrize("name", OPERATORS)
def test_scales(engine, name):
    module, params, reference = OPERATORS[name]
    draw = np.random.default_rng(5)
    x = draw.integers(-3, 4, (16, 32)).astype(np.float32)
    x[3] = x[2]
    dy = draw.standard_normal((16, 32)).astype(np.float32)
    for scale in (1, 2**5, 2**10, 2**15, 2**20):
        given = x * np.float32(scale)
        batch = (lambda a: a[None]) if name == "attention" else (lambda a: a)
        y, g = run(module(), {"x": batch(given)}, params, batch(dy), input="x")
        want, slope = reference(f64(given), f64(dy))
        assert error(y, batch(want)) <= 8e-7 and error(g["x"], batch(slope)) <= 8e-7, (name, scale)


def many_heads(q, k, v, dout, seen):
    """o, dq, dk, dv of q[s, g, r, d], k, v[t, g, d] in float64."""
    root = np.sqrt(q.shape[-1])
    score = np.where(seen, np.einsum("sgrd,tgd->grst", q, k, optimize=True) / root, -np.inf)
    p = np.exp(score - score.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = np.einsum("sgrd,tgd->grst", dout, v, optimize=True)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / root
    return [
        np.einsum(*a, optimize=True)
        for a in (
            ("grst,tgd->sgrd", p, v),
            ("grst,tgd->sgrd", ds, k),
            ("grst,sgrd->tgd", ds, q),
            ("grst,sgrd->tgd", p, dout),
        )
    ]


LONG_ATTENTION = {  # keys, groups of heads, heads of a group; what is hidden; mesh, specs, axis of the heads
    "257 keys": (257, 1, 1, {}, (1,), {}, None),
    "causal": (300, 2, 1, {"causal"}, (1,), {}, None),
    "masked": (1000, 1, 1, {"masked"}, (1,), {}, None),
    "grouped": (300, 2, 2, {"causal", "masked"}, (1,), {}, None),
    "heads split": (300, 2, 2, {"causal"}, (2,), {}, 0),
    "positions split": (520, 1, 1, {"causal"}, (2,), {"q": (None, 0, None)}, None),
}


@every_engine
@pytest.mark.parametrize("name", LONG_ATTENTION)
def test_scales_of_attention_over_many_keys(engine, name):
    """Equal keys that lie far apart, of equal values, share what a query gives: what is left of their gradient is as
    small as dp - delta, which
    must not be a difference of sums that were rounded in other orders."""
    keys, groups, each, hidden, mesh, specs, axis = LONG_ATTENTION[name]
    draw = np.random.default_rng(keys)
    k, v = (draw.integers(-3, 4, (keys, groups, 64)).astype(np.float32) for _ in range(2))
    k[-1], v[-1], k[5], v[5] = k[2], v[2], k[4], v[4]
    q = np.repeat(k[:, :, None], each, 2)
    dout = draw.standard_normal(q.shape).astype(np.float32)
    shown = draw.random(keys) < (0.7 if "masked" in hidden else 1)
    shown[:6] = True
    seen = np.tri(keys, dtype=bool) & shown if "causal" in hidden else np.tile(shown, (keys, 1))
    model = ml.Model()
    wires = {"input": "q", "key": "k", "value": "v", "output": "y"} | ({"mask": "m"} if "masked" in hidden else {})
    model |= ml.MultiHeadAttention(
        groups * each, 64, groups, causal="causal" in hidden, bias=False, tensor_axis=axis, name="a"
    )(**wires)
    compiled = ml.compile(model, on(mesh), input_shard_specs=specs)
    eye = {
        f"a.{n}.weight": np.eye(w * 64, dtype=np.float32)
        for n, w in (("query", groups * each), ("key", groups), ("value", groups), ("output", groups * each))
    }
    for scale in (1, 2**10, 2**23):
        big = np.float32(scale)
        given = {n: x.reshape(1, keys, -1) for n, x in (("q", q * big), ("k", k * big), ("v", v * big))}
        given |= {"m": shown[None]} if "masked" in hidden else {}
        y, g = compiled.evaluate(
            eye, given, output_gradients={"y": dout.reshape(1, keys, -1)}, input_gradients=["q", "k", "v"]
        )
        want = many_heads(f64(q) * scale, f64(k) * scale, f64(v) * scale, f64(dout), seen)
        # beside the largest of all gradients: dq and dk vanish where one key gets all
        largest = max(np.abs(x).max() for x in want[1:])
        print(f"{engine.__name__} {name} {scale}: {error(y['y'], want[0].reshape(1, keys, -1)):.1e}")
        assert error(y["y"], want[0].reshape(1, keys, -1)) <= 2e-6, scale
        for n, x in zip("qkv", want[1:]):
            worst = np.abs(f64(g[n]) - x.reshape(1, keys, -1)).max() / largest
            print(f"    d{n} {worst:.1e} of {np.abs(x).max() / largest:.1e}")
            assert worst <= 2e-6, (n, scale)
