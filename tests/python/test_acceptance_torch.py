"""Attention, experts and small language models against torch's autograd in float64, on many meshes."""

import math

import numpy as np
import pytest

import mithril as ml
from acceptance_support import model_of, on, shifted
from support import close, f64, random

torch = pytest.importorskip("torch")
F = torch.nn.functional
ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": lambda t: F.gelu(t, approximate="tanh"), "relu": F.relu, "silu": F.silu}


def tensors(arrays):
    return {k: torch.tensor(f64(v), requires_grad=True) for k, v in arrays.items()}


def below(params, prefix):
    return {k[len(prefix) :]: v for k, v in params.items() if k.startswith(prefix)}


def affine(params, name, x):
    return x @ params[f"{name}.weight"] + params.get(f"{name}.bias", 0)


def rotate(x, base, interleaved):
    length, width = x.shape[-2:]
    frequency = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attention(
    params,
    query,
    key,
    value,
    heads,
    groups,
    mask=None,
    causal=False,
    rotary=False,
    rope_base=1e4,
    rope_interleaved=False,
    scale=None,
):
    q, k, v = affine(params, "query", query), affine(params, "key", key), affine(params, "value", value)
    width = q.shape[-1] // heads
    split = lambda t, n: t.reshape(*t.shape[:2], n, width).transpose(1, 2)
    q, k, v = split(q, heads), split(k, groups), split(v, groups)
    if rotary:
        q, k = rotate(q, rope_base, rope_interleaved), rotate(k, rope_base, rope_interleaved)
    k, v = (t.repeat_interleave(heads // groups, 1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * (scale or width**-0.5)
    hidden = torch.zeros(scores.shape, dtype=torch.bool)
    if causal:
        hidden |= torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    if mask is not None:
        hidden |= (torch.tensor(np.asarray(mask)) == 0)[:, None, None, :]
    weight = torch.softmax(scores.masked_fill(hidden, -1e30), -1) * ~hidden.all(-1, keepdim=True)
    return affine(params, "output", (weight @ v).transpose(1, 2).flatten(2))


def experts(params, x, top_k, activation="gelu", gated=False, capacity_factor=None):
    """(output, dropped, load-balancing loss), token by token."""
    tokens, act = x.reshape(-1, x.shape[-1]), ACTIVATIONS[activation]
    logits = tokens @ params["router.weight"]
    count = logits.shape[1]
    value, chosen = torch.topk(logits, top_k)
    weight = torch.softmax(value, -1)
    room = math.inf if capacity_factor is None else math.ceil(capacity_factor * len(tokens) * top_k / count)
    load, dropped, rows = [0] * count, 0, []
    one = lambda name, e, t: t @ params[f"experts.{name}.weight"][e] + (
        params[f"experts.{name}.bias"][e] if f"experts.{name}.bias" in params else 0
    )
    for t, token in enumerate(tokens):
        row = torch.zeros_like(token)
        for j in range(top_k):
            e = int(chosen[t, j])
            load[e] += 1
            if load[e] > room:
                dropped += 1
                continue
            up = one("up", e, token)
            row = row + weight[t, j] * one("down", e, act(one("gate", e, token)) * up if gated else act(up))
        rows.append(row)
    share = torch.tensor(load, dtype=torch.float64) / sum(load)
    return torch.stack(rows).reshape(x.shape), dropped, count * (share * torch.softmax(logits, -1).mean(0)).sum()


def compare_gradients(gradients, leaves, tolerance=5e-4):
    largest = max(float(t.grad.abs().max()) for t in leaves.values() if t.grad is not None)
    for k, leaf in leaves.items():
        want = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        close(gradients[k], want, tolerance, floor=1e-3 * largest)


# ---------------------------------------------------------------- attention
def check_attention(mesh, heads, width, groups=None, axis=None, others=0, mask=None, compiling=None, **options):
    wires, inputs = {"input": "x", "output": "y"}, {"x": random(3, 5, 7)}
    for name, size in [("key", 8), ("value", 9)][:others]:
        wires[name], inputs[name] = name, random(3, 4, size)
    if mask is not None:
        wires["mask"] = "mask"
    compiled = ml.compile(
        model_of(ml.MultiHeadAttention(heads, width, groups, tensor_axis=axis, **options)(**wires)),
        on(*mesh),
        **(compiling or {}),
    )
    given = {**inputs, **({} if mask is None else {"mask": mask})}
    params = shifted(compiled.get_parameters(given))
    leaves, data, seed = tensors(params), tensors(inputs), random(3, 5, 7, seed=3)
    key = data.get("key", data["x"])
    plain = {k: v for k, v in options.items() if k not in ("bias", "shard_specs")}
    y = attention(
        below(leaves, "multi_head_attention_0."),
        data["x"],
        key,
        data.get("value", key),
        heads,
        groups or heads,
        mask,
        **plain,
    )
    (y * torch.tensor(f64(seed))).sum().backward()
    close(compiled.evaluate(params, given)["y"], y.detach(), 5e-5)
    values, gradients = compiled.evaluate(params, given, {"y": seed}, list(inputs))
    close(values["y"], y.detach(), 5e-5)
    compare_gradients(gradients, {**leaves, **data})


@pytest.mark.parametrize(
    "mesh, axis", [((1,), None), ((2,), 0), ((3,), 0), ((4,), 0), ((2, 2), 1), ((2, 3), 1)], ids=str
)
def test_attention(mesh, axis):
    """Heads that the devices don't divide, groups of them, with and without rotation."""
    for heads, width, groups in [(1, 4, None), (3, 4, None), (4, 4, 2), (6, 2, 3), (4, 6, 1)]:
        for options in (
            {"causal": True},
            {"rotary": True, "causal": True},
            {"rotary": True, "rope_interleaved": True, "rope_base": 500.0},
            {"bias": False, "scale": 0.3},
        ):
            check_attention(mesh, heads, width, groups, axis, **options)


@pytest.mark.parametrize("others", [0, 1, 2], ids=["self", "key", "key and value"])
def test_masks_and_cross_attention(others):
    for mesh in [(1,), (3,), (2, 2)]:
        for dtype in (np.int32, np.int64, np.float32, np.bool_):
            mask = np.random.default_rng(2).integers(0, 2, (3, 4 if others else 5)).astype(dtype)
            mask[1], mask[0, 0] = 0, 1  # one sequence sees nothing
            check_attention(mesh, 4, 2, 2, 0, others, mask)
            if not others:
                check_attention(mesh, 4, 2, 2, 0, others, mask, causal=True)


def test_attention_of_sharded_inputs():
    for spec in [(0, None, None), (None, 0, None), (None, None, 0), (1, None, None)]:
        check_attention(
            (2, 3), 4, 2, 2, 1 if spec[0] == 0 else 0, compiling={"input_shard_specs": {"x": spec}}, causal=True
        )


def test_attention_with_own_specs():
    whole = {"query.weight": (None, 0), "key.weight": (None, 0), "value.weight": (None, 0), "output.weight": (0, None)}
    for specs in [
        {"query.weight": (None, 0)},
        {"query.weight": (0, None), "output.weight": (None, 1)},
        {"key.weight": (None, (0, 1))},
        whole,
    ]:
        check_attention((2, 2), 4, 3, shard_specs=specs)


# ---------------------------------------------------------------- experts
@pytest.mark.parametrize("place", [None, "one_per_device", "round_robin"])
@pytest.mark.parametrize("mesh", [(1,), (2,), (4,), (3,), (2, 2), (8,)], ids=str)
def test_experts(mesh, place):
    """More experts than devices and fewer, tokens replicated and sharded, with capacity, gates and the loss."""
    for count, top_k in [(1, 1), (5, 3), (9, 2)]:
        for shard in (None, 0):
            for options in (
                {},
                {"capacity_factor": 0.6, "gated": True, "activation": "silu", "bias": False},
                {"load_balancing_loss": True, "capacity_factor": 1.0, "activation": "gelu_tanh"},
            ):
                model = model_of(
                    ml.MoE(count, 5, top_k=top_k, expert_distribution=place, **options)(input="x", output="y")
                )
                compiled = ml.compile(
                    model, on(*mesh), **({} if shard is None else {"input_shard_specs": {"x": (shard, None)}})
                )
                x, seeds = random(7, 6, seed=count), {"y": random(7, 6, seed=9)}
                params = shifted(compiled.get_parameters({"x": x}), seed=count)
                leaves, data = tensors(params), tensors({"x": x})
                own = {k: v for k, v in options.items() if k in ("activation", "gated", "capacity_factor")}
                y, dropped, loss = experts(below(leaves, "moe_0."), data["x"], top_k, **own)
                values, total = compiled.evaluate(params, {"x": x}), (y * torch.tensor(f64(seeds["y"]))).sum()
                close(values["y"], y.detach(), 1e-4)
                if "capacity_factor" in options:
                    assert np.asarray(values["moe_0.dropped"]).tolist() == [dropped]
                if "load_balancing_loss" in options:
                    close(values["moe_0.load_balancing_loss"], loss.detach(), 1e-5)
                    seeds["moe_0.load_balancing_loss"], total = np.float32(0.7), total + 0.7 * loss
                total.backward()
                _, gradients = compiled.evaluate(params, {"x": x}, seeds, ["x"])
                compare_gradients(gradients, {**leaves, **data})


# ---------------------------------------------------------------- Llama and Mixtral, small
WIDTH, VOCABULARY, HEADS, GROUPS = 9, 13, 4, 2


def block(axis, mixture):
    model = model_of(
        ml.RMSNorm()(input="h", output="n1"),
        ml.MultiHeadAttention(HEADS, 4, GROUPS, causal=True, bias=False, rotary=True, tensor_axis=axis)(
            input="n1", output="a"
        ),
        ml.Add()(inputs=["h", "a"], output="r"),
        ml.RMSNorm()(input="r", output="n2"),
    )
    gates = {"activation": "silu", "gated": True, "bias": False}
    if mixture:
        model |= ml.MoE(5, 10, expert_distribution=None if mixture == "whole" else mixture, **gates)(
            input="n2", output="f"
        )
    else:
        model |= ml.FeedForward(10, tensor_axis=axis, **gates)(input="n2", output="f")
    model |= ml.Add()(inputs=["r", "f"], output="o")
    return model


def reference(params, ids, targets, blocks, mixture):
    norm = lambda x, w: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * w
    x = params["embedding_0.weight"][torch.tensor(ids)]
    for prefix in blocks:
        own = below(params, prefix)
        a = norm(x, own["rms_norm_0.weight"])
        x = x + attention(below(own, "multi_head_attention_0."), a, a, a, HEADS, GROUPS, causal=True, rotary=True)
        b = norm(x, own["rms_norm_1.weight"])
        if mixture:
            x = x + experts(below(own, "moe_0."), b, 2, "silu", True)[0]
        else:
            part = below(own, "feed_forward_0.")
            x = x + (F.silu(b @ part["gate.weight"]) * (b @ part["up.weight"])) @ part["down.weight"]
    logits = norm(x, params["rms_norm_0.weight"]) @ params["linear_0.weight"]
    return F.cross_entropy(logits.reshape(-1, VOCABULARY), torch.tensor(targets).reshape(-1))


def check_language_model(model, mesh, blocks, mixture, backend=None, **options):
    draw = np.random.default_rng(0)
    inputs = {k: draw.integers(0, VOCABULARY, (5, 6)) for k in ("ids", "t")}
    compiled = ml.compile(model, on(*mesh, **(backend or {})), **options)
    params = shifted(compiled.get_parameters(inputs))
    leaves = tensors(params)
    loss = reference(leaves, inputs["ids"], inputs["t"], blocks, mixture)
    loss.backward()
    close(compiled.evaluate(params, inputs)["loss"], loss.detach(), 1e-5)
    values, gradients = compiled.evaluate(params, inputs, {"loss": np.ones((), np.float32)})
    close(values["loss"], loss.detach(), 1e-5)
    compare_gradients(gradients, leaves)
    ml.verify_plan(compiled.program_text())


def with_ends(axis, middle, last):
    return model_of(
        ml.Embedding(VOCABULARY, WIDTH, tensor_axis=axis)(input="ids", output="x0"),
        *middle,
        ml.RMSNorm()(input=last, output="n"),
        ml.Linear(VOCABULARY, bias=False, weight_shard_spec=None if axis is None else (None, axis))(
            input="n", output="logits"
        ),
        ml.CrossEntropy()(input="logits", target="t", output="loss"),
    )


ALL = {
    "communication_optimization": True,
    "overlap_communication": True,
    "pipeline_communication": True,
    "collective_ops": {"all_reduce": "ring"},
}


@pytest.mark.parametrize("mixture", [None, "whole", "one_per_device", "round_robin"])
@pytest.mark.parametrize(
    "mesh, axis, batch", [((1,), None, None), ((3,), 0, None), ((5,), 0, None), ((2, 2), 0, 1), ((2, 3), 1, 0)], ids=str
)
def test_language_models(mesh, axis, batch, mixture):
    options = {} if batch is None else {"input_shard_specs": {"ids": (batch, None), "t": (batch, None)}}
    for backend in ({}, ALL):
        model = with_ends(axis, [block(axis, mixture)(h=f"x{i}", o=f"x{i + 1}") for i in range(2)], "x2")
        check_language_model(model, mesh, ["model_0.", "model_1."], mixture, backend, **options)


@pytest.mark.parametrize("mixture", [None, "whole"])
@pytest.mark.parametrize(
    "mesh, axis, place",
    [
        ((2,), None, {"device_assignment": [0, 1, 0]}),
        ((2, 2), 0, {"axis": 0}),
        ((2, 2, 2), 0, {"axis": 0}),
        ((4,), 0, {"device_assignment": [[0, 1], [2, 3], [1, 2]]}),
    ],
    ids=str,
)
def test_language_models_in_stages(mesh, axis, place, mixture):
    """Stages that are tensor-parallel inside, and on three axes data-parallel too."""
    for size in (2, 3) if mixture is None else (3,):
        for schedule in ("gpipe", "1f1b"):
            stages = [model_of(block(axis, mixture)(h="input", o="o", name="b")) for _ in range(3)]
            middle = ml.Pipeline(stages=stages, microbatch_size=size, schedule=schedule, **place)(
                input="x0", output="x1"
            )
            model = with_ends(None, [middle], "x1")
            options = {"input_shard_specs": {"ids": (2, None)}} if len(mesh) == 3 else {}
            check_language_model(model, mesh, [f"pipeline_0.stage_{i}.b." for i in range(3)], mixture, **options)
