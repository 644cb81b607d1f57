"""Every module against NumPy in float64: values, and gradients by central differences; and against torch's autograd."""

import numpy as np
import pytest

import mithril as ml
from support import (
    every_engine,
    ACTIVATIONS,
    attention,
    check_against,
    close,
    compile_on,
    f64,
    feed_forward,
    gelu,
    gelu_tanh,
    layer_norm,
    linear,
    moe,
    one_block,
    random,
    relu,
    rms_norm,
    rotary,
    shaken,
    sigmoid,
    silu,
    softmax,
)

X = random(2, 5, 12)
IDS = np.random.default_rng(0).integers(0, 11, (3, 4)).astype(np.int32)
UNARY = {"input": "x", "output": "y"}
CASES = {}


def one_choice(*sizes):
    with pytest.warns(UserWarning, match="router.weight has no gradient"):
        return ml.MoE(*sizes, top_k=1)


def case(name, module, inputs, reference, wires=UNARY, **options):
    CASES[name] = (module, inputs, reference, wires, options)


case("Linear", lambda: ml.Linear(7), {"x": X}, lambda p, i: {"y": linear(p, "linear_0", i["x"])})
case(
    "Linear without bias", lambda: ml.Linear(7, bias=False), {"x": X}, lambda p, i: {"y": linear(p, "linear_0", i["x"])}
)
case("Embedding", lambda: ml.Embedding(11, 6), {"x": IDS}, lambda p, i: {"y": p["embedding_0.weight"][i["x"]]})
case(
    "Embedding of int64",
    lambda: ml.Embedding(11, 6),
    {"x": IDS.astype(np.int64)},
    lambda p, i: {"y": p["embedding_0.weight"][i["x"]]},
)


def sinusoid(s, d):
    position, i = np.arange(s)[:, None], np.arange(0, d, 2)[None]
    out = np.zeros((s, d))
    out[:, 0::2], out[:, 1::2] = np.sin(position / 10000 ** (i / d)), np.cos(position / 10000 ** (i / d))
    return out


case("PositionalEncoding", lambda: ml.PositionalEncoding(16), {"x": X}, lambda p, i: {"y": i["x"] + sinusoid(5, 12)})
case(
    "PositionalEncoding learned",
    lambda: ml.PositionalEncoding(16, kind="learned"),
    {"x": X},
    lambda p, i: {"y": i["x"] + p["positional_encoding_0.weight"][:5]},
)
case(
    "PositionalEncoding rotary",
    lambda: ml.PositionalEncoding(16, kind="rotary"),
    {"x": X},
    lambda p, i: {"y": rotary(i["x"])},
)
case(
    "PositionalEncoding rotary by heads",
    lambda: ml.PositionalEncoding(16, kind="rotary", head_dim=4, interleaved=True, base=100.0),
    {"x": X},
    lambda p, i: {
        "y": rotary(i["x"].reshape(2, 5, 3, 4).transpose(0, 2, 1, 3), 100.0, True)
        .transpose(0, 2, 1, 3)
        .reshape(2, 5, 12)
    },
)
case("LayerNorm", lambda: ml.LayerNorm(), {"x": X}, lambda p, i: {"y": layer_norm(p, "layer_norm_0", i["x"])})
case(
    "LayerNorm without bias",
    lambda: ml.LayerNorm(epsilon=1e-2, bias=False),
    {"x": X},
    lambda p, i: {"y": layer_norm(p, "layer_norm_0", i["x"], 1e-2)},
)
case("RMSNorm", lambda: ml.RMSNorm(), {"x": X}, lambda p, i: {"y": rms_norm(p, "rms_norm_0", i["x"])})
for name in ACTIVATIONS:
    case(
        f"FeedForward {name}",
        lambda name=name: ml.FeedForward(9, activation=name),
        {"x": X},
        lambda p, i, name=name: {"y": feed_forward(p, "feed_forward_0", i["x"], name)},
    )
case(
    "FeedForward gated",
    lambda: ml.FeedForward(9, activation="silu", gated=True, bias=False),
    {"x": X},
    lambda p, i: {"y": feed_forward(p, "feed_forward_0", i["x"], "silu", True)},
)

ATTENTION = "multi_head_attention_0"
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
KEY, VALUE = random(2, 7, 10, seed=1), random(2, 7, 9, seed=2)
case(
    "MultiHeadAttention",
    lambda: ml.MultiHeadAttention(3),
    {"x": X},
    lambda p, i: {"y": attention(p, ATTENTION, i["x"], 3)},
)
case(
    "MultiHeadAttention causal",
    lambda: ml.MultiHeadAttention(3, causal=True),
    {"x": X},
    lambda p, i: {"y": attention(p, ATTENTION, i["x"], 3, causal=True)},
)
case(
    "MultiHeadAttention with a mask",
    lambda: ml.MultiHeadAttention(2, head_dim=5),
    {"x": X, "m": MASK},
    lambda p, i: {"y": attention(p, ATTENTION, i["x"], 2, mask=i["m"])},
    {**UNARY, "mask": "m"},
)
case(
    "MultiHeadAttention that sees nothing",
    lambda: ml.MultiHeadAttention(2),
    {"x": X, "m": MASK[::-1] * np.array([[0], [1]], np.int32)},
    lambda p, i: {"y": attention(p, ATTENTION, i["x"], 2, mask=i["m"])},
    {**UNARY, "mask": "m"},
)
case(
    "MultiHeadAttention cross",
    lambda: ml.MultiHeadAttention(3, bias=False),
    {"x": X, "k": KEY, "v": VALUE},
    lambda p, i: {"y": attention(p, ATTENTION, i["x"], 3, i["k"], i["v"])},
    {**UNARY, "key": "k", "value": "v"},
)
case(
    "MultiHeadAttention grouped",
    lambda: ml.MultiHeadAttention(6, num_kv_heads=2),
    {"x": X},
    lambda p, i: {"y": attention(p, ATTENTION, i["x"], 6, kv_heads=2)},
)
case(
    "MultiHeadAttention rotary",
    lambda: ml.MultiHeadAttention(3, rotary=True, causal=True),
    {"x": X},
    lambda p, i: {"y": attention(p, ATTENTION, i["x"], 3, causal=True, turn=rotary)},
)

case("MoE", lambda: ml.MoE(4, 8), {"x": X}, lambda p, i: {"y": moe(p, "moe_0", i["x"])[0]})
case(
    "MoE gated",
    lambda: ml.MoE(5, 8, top_k=1, gated=True, activation="silu", bias=False, router_softmax="before"),
    {"x": X},
    lambda p, i: {"y": moe(p, "moe_0", i["x"], 1, "silu", True, router_softmax="before")[0]},
)
case(
    "MoE of one choice",
    lambda: one_choice(5, 8),
    {"x": X},
    lambda p, i: {"y": moe(p, "moe_0", i["x"], 1)[0]},
)
case(
    "MoE of probabilities",
    lambda: ml.MoE(5, 8, top_k=3, router_softmax="before", capacity_factor=0.75, load_balancing_loss=True),
    {"x": X},
    lambda p, i: dict(
        zip(
            ("y", "dropped", "loss"),
            (lambda r: (r[0], np.array([r[1]]), r[2]))(
                moe(p, "moe_0", i["x"], 3, capacity_factor=0.75, router_softmax="before")
            ),
        )
    ),
    {**UNARY, "dropped": "dropped", "load_balancing_loss": "loss"},
)
case(
    "MoE with loss",
    lambda: ml.MoE(4, 8, top_k=3, load_balancing_loss=True),
    {"x": X},
    lambda p, i: dict(zip(("y", "loss"), moe(p, "moe_0", i["x"], 3)[::2])),
    {**UNARY, "load_balancing_loss": "loss"},
)
case(
    "MoE with capacity",
    lambda: ml.MoE(4, 8, capacity_factor=0.75),
    {"x": X},
    lambda p, i: (lambda r: {"y": r[0], "dropped": np.array([r[1]])})(moe(p, "moe_0", i["x"], capacity_factor=0.75)),
    {**UNARY, "dropped": "dropped"},
)

for name, function in (
    ("Relu", relu),
    ("Gelu", gelu),
    ("Silu", silu),
    ("Sigmoid", sigmoid),
    ("Tanh", np.tanh),
    ("Identity", np.copy),
):
    case(name, getattr(ml, name), {"x": X}, lambda p, i, function=function: {"y": function(i["x"])})
case("Gelu approximate", lambda: ml.Gelu(approximate=True), {"x": X}, lambda p, i: {"y": gelu_tanh(i["x"])})
case("Identity", ml.Identity, {"x": X}, lambda p, i: {"y": i["x"]})
case("Softmax", lambda: ml.Softmax(), {"x": X}, lambda p, i: {"y": softmax(i["x"])})
case("Softmax along 1", lambda: ml.Softmax(axis=1), {"x": X}, lambda p, i: {"y": softmax(i["x"], 1)})

A, B = random(4, 6, seed=3), random(4, 6, seed=4)
PAIR = {"inputs": ["a", "b"], "output": "y"}
case("Add", ml.Add, {"a": A, "b": B}, lambda p, i: {"y": i["a"] + i["b"]}, PAIR)
case(
    "Add of three, broadcast",
    ml.Add,
    {"a": A, "b": random(6), "c": random(4, 1)},
    lambda p, i: {"y": i["a"] + i["b"] + i["c"]},
    {"inputs": ["a", "b", "c"], "output": "y"},
)
case("Subtract", ml.Subtract, {"a": A, "b": B}, lambda p, i: {"y": i["a"] - i["b"]}, PAIR)
case("Multiply", ml.Multiply, {"a": A, "b": random(6)}, lambda p, i: {"y": i["a"] * i["b"]}, PAIR)
case("Divide", ml.Divide, {"a": A, "b": np.abs(B) + 1}, lambda p, i: {"y": i["a"] / i["b"]}, PAIR)
case("MatMul", ml.MatMul, {"a": random(3, 4, 5), "b": random(3, 5, 2)}, lambda p, i: {"y": i["a"] @ i["b"]}, PAIR)
case(
    "Concat",
    lambda: ml.Concat(axis=1),
    {"a": A, "b": random(4, 2)},
    lambda p, i: {"y": np.concatenate([i["a"], i["b"]], 1)},
    PAIR,
)
case(
    "Split",
    lambda: ml.Split(3, axis=1),
    {"x": A},
    lambda p, i: dict(zip("abc", np.split(i["x"], 3, 1))),
    {"input": "x", "output0": "a", "output1": "b", "output2": "c"},
)
case("Slice", lambda: ml.Slice(axis=1, start=1, stop=-1), {"x": X}, lambda p, i: {"y": i["x"][:, 1:-1]})
case("Reshape", lambda: ml.Reshape((5, -1, 4)), {"x": X}, lambda p, i: {"y": i["x"].reshape(5, -1, 4)})
case("Transpose", lambda: ml.Transpose((1, 2, 0)), {"x": X}, lambda p, i: {"y": i["x"].transpose(1, 2, 0)})
for name, function in (("Mean", np.mean), ("Sum", np.sum), ("Max", np.max)):
    for axis, keep in ((None, False), (-1, False), ((0, 2), True)):
        case(
            f"{name} over {axis}",
            lambda name=name, axis=axis, keep=keep: getattr(ml, name)(axis=axis, keepdims=keep),
            {"x": X},
            lambda p, i, function=function, axis=axis, keep=keep: {"y": function(i["x"], axis=axis, keepdims=keep)},
        )

LABELS = np.array([[0, 3], [5, 1], [2, 2]], np.int32)
LOSS = {"input": "x", "target": "t", "output": "y"}


def cross_entropy(x, t):
    return -np.log(np.take_along_axis(softmax(x), t[..., None], -1))[..., 0]


for reduction, function in (("mean", np.mean), ("sum", np.sum), ("none", lambda v: v)):
    case(
        f"CrossEntropy {reduction}",
        lambda reduction=reduction: ml.CrossEntropy(reduction=reduction),
        {"x": random(3, 2, 6), "t": LABELS},
        lambda p, i, function=function: {"y": function(cross_entropy(i["x"], i["t"]))},
        LOSS,
    )
    case(
        f"SquaredError {reduction}",
        lambda reduction=reduction: ml.SquaredError(reduction=reduction),
        {"x": A, "t": B},
        lambda p, i, function=function: {"y": function((i["x"] - i["t"]) ** 2)},
        LOSS,
    )


@every_engine
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mesh", [(1,), (3,)], ids=str)
def test_module(name, mesh):
    module, inputs, reference, wires, options = CASES[name]
    compiled = compile_on(mesh, one_block(module(), **wires))
    check_against(reference, compiled, shaken(compiled.get_parameters(inputs)), inputs, **options)


def test_every_module_has_a_case():
    assert {name.split()[0] for name in CASES} | {"Dropout", "Pipeline"} == set(ml.modules)


# ---------------------------------------------------------------- MoE
def test_what_weighs_one_choice():
    """With top_k=1 the router learns where its softmax comes before the choice, and only there: else there is a
    warning."""
    gradients = {}
    for softmax_is in ("after", "before"):
        module = ml.MoE(4, 8, top_k=1, router_softmax="before") if softmax_is == "before" else one_choice(4, 8)
        compiled = compile_on((1,), one_block(module, **UNARY))
        params = shaken(compiled.get_parameters({"x": X}))
        gradients[softmax_is] = f64(
            compiled.evaluate(params, {"x": X}, {"y": np.ones_like(X)})[1]["moe_0.router.weight"]
        )
    assert not gradients["after"].any() and np.abs(gradients["before"]).max() > 1e-3


@pytest.mark.filterwarnings("error")
def test_no_warning_where_nothing_is_wrong():
    ml.MoE(4, 8)
    ml.MoE(4, 8, top_k=1, router_softmax="before")
    ml.MoE(1, 8, top_k=1)  # one expert: there is nothing to learn
    with pytest.raises(UserWarning):
        ml.MoE(4, 8, top_k=1)


@every_engine
@pytest.mark.parametrize("distribution", ["one_per_device", "round_robin"])
def test_probabilities_of_split_experts(distribution):
    module = ml.MoE(5, 8, top_k=2, router_softmax="before", expert_distribution=distribution)
    compiled = compile_on((3,), one_block(module, **UNARY), input_shard_specs={"x": (0, None, None)})
    reference = lambda p, i: {"y": moe(p, "moe_0", i["x"], router_softmax="before")[0]}
    check_against(reference, compiled, shaken(compiled.get_parameters({"x": X})), {"x": X})


# ---------------------------------------------------------------- masks
MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]])


@every_engine
@pytest.mark.parametrize("mesh", [(1,), (3,)], ids=str)
def test_masks_of_numbers(mesh):
    """A floating mask holds 0 and 1, and is one of booleans; whatever else it holds is an error of the run, wherever it
    lies."""
    model = one_block(ml.MultiHeadAttention(2), **UNARY, mask="m")
    compiled = compile_on(mesh, model, input_shard_specs={"x": (0, None, None), "m": (0, None)})
    params = compiled.get_parameters({"x": X, "m": MASK.astype(bool)})
    want = f64(compiled.evaluate(params, {"x": X, "m": MASK.astype(bool)})["y"])
    for dtype in (np.float32, np.float64, np.float16, np.int32, np.int64):
        assert np.array_equal(f64(compiled.evaluate(params, {"x": X, "m": MASK.astype(dtype)})["y"]), want)
    assert np.array_equal(
        f64(compiled.evaluate(params, {"x": X, "m": np.where(MASK, 1, -0.0).astype(np.float32)})["y"]), want
    )
    for other in (-np.inf, np.inf, np.nan, -1, 2, 0.5, 1e-40, -10000):
        for at in ((0, 0), (1, 4)):
            mask = MASK.astype(np.float32)
            mask[at] = other
            with pytest.raises(ml.errors.MithrilValueError, match="values other than 0 and 1") as caught:
                compiled.evaluate(params, {"x": X, "m": mask})
            assert caught.value.op == "multi_head_attention_0"
    for dtype, other, said in (
        ("int32", 2**24 + 1, r"16777217"),
        ("int32", -(2**24) - 1, r"-16777217"),
        ("int64", 2**32 + 1, r"(4294967297|2147483647 or above)"),  # XLA's modules tell 32 bits
        ("int64", -(2**32), r"(-4294967296|-2147483647 or below)"),
    ):
        mask = MASK.astype(dtype)
        mask[0, 1] = other
        with pytest.raises(ml.errors.MithrilValueError, match=f"holds {said}\n"):
            compiled.evaluate(params, {"x": X, "m": mask})
    added = np.where(MASK, 0, -np.inf).astype(np.float32)  # torch's additive form
    with pytest.raises(ml.errors.MithrilValueError, match="give mask == 0"):
        compiled.evaluate(params, {"x": X, "m": added})
    assert np.array_equal(f64(compiled.evaluate(params, {"x": X, "m": added == 0})["y"]), want)


# ---------------------------------------------------------------- Dropout
@every_engine
def test_dropout():
    x = random(200, 300)
    model = one_block(ml.Dropout(0.25, seed=5), **UNARY)
    runs = []
    for mesh in ((1,), (4,)):
        compiled = compile_on(mesh, model, input_shard_specs={"x": (0, None)})
        outputs, gradients = compiled.evaluate(
            {}, {"x": x}, output_gradients={"y": np.ones_like(x)}, input_gradients=["x"]
        )
        y, g = np.asarray(outputs["y"]), np.asarray(gradients["x"])
        kept = y != 0
        assert 0.73 < kept.mean() < 0.77
        close(y[kept], x[kept] / 0.75, 1e-6)
        assert np.array_equal(g != 0, kept) and np.allclose(g[kept], 1 / 0.75)
        runs.append(kept)
    assert np.array_equal(*runs), "the mesh changed which elements are dropped"
    other = compile_on((1,), one_block(ml.Dropout(0.25, seed=6), **UNARY)).evaluate({}, {"x": x})["y"]
    assert not np.array_equal(np.asarray(other) != 0, runs[0])


# ---------------------------------------------------------------- the same weights on any mesh
def test_same_seed_same_weights():
    model = ml.Model()
    model |= ml.Linear(24, weight_shard_spec=(None, 0))(input="x", output="h")
    model += ml.LayerNorm()
    model += ml.Linear(10, weight_shard_spec=(0, None))(output="y")
    seen = []
    for mesh in ((1,), (4,), (2, 2), (3,)):
        params = compile_on(mesh, model).get_parameters({"x": X}, seed=7)
        assert list(params) == [
            "linear_0.weight",
            "linear_0.bias",
            "layer_norm_0.weight",
            "layer_norm_0.bias",
            "linear_1.weight",
            "linear_1.bias",
        ]
        seen.append({k: np.asarray(v).tobytes() for k, v in params.items()})
    assert all(s == seen[0] for s in seen)
    weight = np.asarray(compile_on((1,), model).get_parameters({"x": X}, seed=8)["linear_0.weight"])
    assert weight.tobytes() != seen[0]["linear_0.weight"]
    assert abs(weight.std() * np.sqrt(12) - 1) < 0.2


# ---------------------------------------------------------------- torch
@every_engine
def test_transformer_against_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    block = ml.Model()
    block |= ml.MultiHeadAttention(4, causal=True)(input="x", output="a")
    block |= ml.Add()(inputs=["x", "a"], output="s")
    block |= ml.LayerNorm()(input="s", output="n")
    block |= ml.FeedForward(32, activation="relu")(input="n", output="f")
    block |= ml.Add()(inputs=["n", "f"], output="r")
    block |= ml.LayerNorm()(input="r", output="y")
    compiled = compile_on((2,), block)
    x = random(3, 6, 16)
    params = shaken(compiled.get_parameters({"x": x}))
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    leaf = lambda name, transpose=False: torch.tensor(
        params[name].T.copy() if transpose else params[name], requires_grad=True
    )
    names = {k: leaf(k, k.endswith("weight") and "norm" not in k) for k in params}
    m, f = "multi_head_attention_0", "feed_forward_0"
    values = {
        "self_attn.in_proj_weight": torch.cat([names[f"{m}.{k}.weight"] for k in ("query", "key", "value")]),
        "self_attn.in_proj_bias": torch.cat([names[f"{m}.{k}.bias"] for k in ("query", "key", "value")]),
        "self_attn.out_proj.weight": names[f"{m}.output.weight"],
        "self_attn.out_proj.bias": names[f"{m}.output.bias"],
        "linear1.weight": names[f"{f}.up.weight"],
        "linear1.bias": names[f"{f}.up.bias"],
        "linear2.weight": names[f"{f}.down.weight"],
        "linear2.bias": names[f"{f}.down.bias"],
        **{f"norm{i + 1}.{k}": names[f"layer_norm_{i}.{k}"] for i in range(2) for k in ("weight", "bias")},
    }
    source = torch.tensor(x, requires_grad=True)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(6)
    want = torch.func.functional_call(layer, values, (source,), {"src_mask": mask, "is_causal": True})
    seed = torch.tensor(random(3, 6, 16, seed=9))
    want.backward(seed)
    outputs, gradients = compiled.evaluate(
        params, {"x": torch.tensor(x)}, output_gradients={"y": seed}, input_gradients=["x"]
    )
    close(outputs["y"], want.detach().numpy())
    close(gradients["x"], source.grad.numpy(), 1e-4)
    for name, value in names.items():
        gradient = value.grad.numpy()
        close(gradients[name], gradient.T if value.ndim == 2 else gradient, 1e-4, floor=1e-1)
