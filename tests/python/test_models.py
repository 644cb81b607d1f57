"""BERT, GPT-2, Llama and Mixtral of examples/language_models.py, over devices in all ways: the loss and the logits
against NumPy in float64, the gradients against torch's autograd in float64."""

import functools
import importlib.util
import math
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend
from support import (
    HANGS,
    attention,
    close,
    f64,
    feed_forward,
    gelu,
    layer_norm,
    linear,
    moe,
    on,
    rms_norm,
    rotary,
    shaken,
    softmax,
)

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "language_models.py"
spec = importlib.util.spec_from_file_location("language_models", EXAMPLE)
models = sys.modules["language_models"] = importlib.util.module_from_spec(spec)  # a dataclass looks itself up
spec.loader.exec_module(models)

FAMILIES = list(models.FAMILIES)
BATCH, LENGTH = 5, 7  # nothing divides
ONE = {"loss": np.float32(1)}


# ---------------------------------------------------------------- the references
def numpy_logits(family, p, x):
    """From the parameters by name, independent of how mithril composes."""
    c = models.FAMILIES[family][0]
    h = p["embedding.word.weight"][x["ids"]]
    if family in ("bert", "gpt2"):
        h = h + p["embedding.position.weight"][: h.shape[1]]
    if family == "bert":
        h = layer_norm(p, "embedding.norm", h + p["embedding.type.weight"][x["types"]], 1e-12)
    for i in range(c.layers):
        a, f = f"layer_{i}.attention", f"layer_{i}.feed_forward"
        if family == "bert":
            h = layer_norm(p, f"{a}_norm", h + attention(p, a, h, c.heads, mask=x["mask"]), 1e-12)
            h = layer_norm(p, f"layer_{i}.output_norm", h + feed_forward(p, f, h), 1e-12)
        elif family == "gpt2":
            h = h + attention(p, a, layer_norm(p, f"{a}_norm", h), c.heads, causal=True)
            h = h + feed_forward(p, f, layer_norm(p, f"{f}_norm", h), "gelu_tanh")
        else:
            h = h + attention(p, a, rms_norm(p, f"{a}_norm", h), c.heads, kv_heads=c.kv_heads, causal=True, turn=rotary)
            n = rms_norm(p, f"{f}_norm", h)
            h = h + (moe(p, f, n, 2, "silu", True)[0] if c.experts else feed_forward(p, f, n, "silu", True))
    if family == "bert":
        h = layer_norm(p, "head.norm", gelu(linear(p, "head.transform", h)), 1e-12)
    else:
        h = (layer_norm if family == "gpt2" else rms_norm)(p, "head.norm", h)
    return h @ p["embedding.word.weight"].T if family == "gpt2" else linear(p, "head.decoder", h)


def numpy_loss(logits, target):
    return -np.log(np.take_along_axis(softmax(logits), target[..., None], -1)).mean()


def torch_loss(family, p, x):
    """With torch's own functions, where numpy_logits has formulas."""
    import torch
    import torch.nn.functional as F

    c = models.FAMILIES[family][0]
    x = {k: torch.tensor(np.asarray(v)).long() for k, v in x.items()}

    def norm(name, h, epsilon=1e-5):
        if f"{name}.bias" in p:
            return F.layer_norm(h, h.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], epsilon)
        return F.rms_norm(h, h.shape[-1:], p[f"{name}.weight"], epsilon)

    def affine(name, h):
        return F.linear(h, p[f"{name}.weight"].T, p.get(f"{name}.bias"))

    def turn(t):
        half = t.shape[-1] // 2
        angle = torch.outer(torch.arange(t.shape[-2]).double(), 10000.0 ** (-torch.arange(half).double() / half))
        turned = torch.view_as_complex(torch.stack([t[..., :half], t[..., half:]], -1)) * torch.polar(
            torch.ones_like(angle), angle
        )
        return torch.cat([turned.real, turned.imag], -1)

    def attend(name, h):
        heads = lambda part: affine(f"{name}.{part}", h).unflatten(-1, (-1, c.width // c.heads)).transpose(1, 2)
        q, k, v = heads("query"), heads("key"), heads("value")
        if family in ("llama", "mixtral"):
            q, k = turn(q), turn(k)
        mask = x["mask"][:, None, None, :].bool() if "mask" in x else None
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)
        return affine(f"{name}.output", out.transpose(1, 2).flatten(2))

    def feed(name, h):
        if c.experts:
            flat = h.flatten(0, 1)
            scores, chosen = (flat @ p[f"{name}.router.weight"]).topk(2)
            weight = torch.zeros(len(flat), c.experts, dtype=flat.dtype).scatter(1, chosen, scores.softmax(-1))
            up, gate = (
                torch.einsum("td,edh->teh", flat, p[f"{name}.experts.{part}.weight"]) for part in ("up", "gate")
            )
            return torch.einsum("teh,ehd,te->td", F.silu(gate) * up, p[f"{name}.experts.down.weight"], weight).view_as(
                h
            )
        up = affine(f"{name}.up", h)
        if family == "llama":
            return affine(f"{name}.down", F.silu(affine(f"{name}.gate", h)) * up)
        return affine(f"{name}.down", F.gelu(up, approximate="tanh" if family == "gpt2" else "none"))

    h = F.embedding(x["ids"], p["embedding.word.weight"])
    if "embedding.position.weight" in p:
        h = h + p["embedding.position.weight"][: h.shape[1]]
    if family == "bert":
        h = norm("embedding.norm", h + F.embedding(x["types"], p["embedding.type.weight"]), 1e-12)
    for i in range(c.layers):
        a, f = f"layer_{i}.attention", f"layer_{i}.feed_forward"
        if family == "bert":
            h = norm(f"{a}_norm", h + attend(a, h), 1e-12)
            h = norm(f"layer_{i}.output_norm", h + feed(f, h), 1e-12)
        else:
            h = h + attend(a, norm(f"{a}_norm", h))
            h = h + feed(f, norm(f"{f}_norm", h))
    if family == "bert":
        h = norm("head.norm", F.gelu(affine("head.transform", h)), 1e-12)
    else:
        h = norm("head.norm", h)
    logits = F.linear(h, p["embedding.word.weight"]) if family == "gpt2" else affine("head.decoder", h)
    return F.cross_entropy(logits.flatten(0, 1), x["target"].flatten())


class Case:
    """Parameters and inputs of a family, and what any mesh must give for them; gradients where torch is there."""

    def __init__(self, family):
        self.inputs = models.sentences(family, BATCH, LENGTH)
        compiled = ml.compile(models.build(family), CBackend(device_mesh=(1,)))
        self.params = shaken(compiled.get_parameters(self.inputs, seed=3))
        self.logits = numpy_logits(family, {k: f64(v) for k, v in self.params.items()}, self.inputs)
        self.loss = numpy_loss(self.logits, self.inputs["target"])
        self.gradients = None
        try:
            import torch
        except ImportError:
            return
        leaves = {k: torch.tensor(f64(v), requires_grad=True) for k, v in self.params.items()}
        loss = torch_loss(family, leaves, self.inputs)
        close(loss.item(), self.loss, 1e-12)
        loss.backward()
        self.gradients = {k: v.grad.numpy() for k, v in leaves.items()}


@functools.cache
def case_of(family):
    return Case(family)


def plain(name):
    """The name of the model without a pipeline."""
    return re.sub(r"^pipeline\.stage_\d+\.", "", name)


def check(family, mesh, model=None, backend_options=None, data=None, **options):
    """The loss, and all gradients, of a way to run the family over devices."""
    case = case_of(family)
    if data is not None:
        options["input_shard_specs"] = {name: (data, None) for name in case.inputs}
    compiled = ml.compile(
        models.build(family, len(mesh) - 1) if model is None else model, on(mesh, **(backend_options or {})), **options
    )
    layout = compiled.get_parameter_layout(case.inputs)
    assert sorted(map(plain, layout)) == sorted(case.params)
    params = {name: case.params[plain(name)] for name in layout}
    close(compiled.evaluate(params, case.inputs)["loss"], case.loss)
    outputs, gradients = compiled.evaluate(params, case.inputs, output_gradients=ONE)
    close(outputs["loss"], case.loss)
    assert set(gradients) == set(params)
    if case.gradients is not None:
        largest = max(np.abs(g).max() for g in case.gradients.values())
        for name, gradient in gradients.items():
            assert gradient.sharding == layout[name].sharding
            close(gradient, case.gradients[plain(name)], 1e-4, floor=1e-2 * largest)  # that of a key's bias is zero
    return compiled, params


# ---------------------------------------------------------------- tensor parallelism
@pytest.mark.parametrize("mesh", [(1,), (4,), (2, 2), (3,), (7,)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_tensor_parallel(family, mesh):
    """Neither 4 nor 5 nor 6 heads divide 3, 4 and 7 devices; the vocabulary of 61 divides nothing."""
    check(family, mesh)


@pytest.mark.parametrize("mesh", [(1,), (4,), (2, 2)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family, mesh):
    case = case_of(family)
    inputs = {k: v for k, v in case.inputs.items() if k != "target"}
    compiled = ml.compile(models.build(family, len(mesh) - 1, loss=False), CBackend(device_mesh=mesh))
    close(compiled.evaluate(case.params, inputs)["logits"], case.logits)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch gives the gradients")
@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_without_torch(family):
    case = case_of(family)
    compiled = ml.compile(models.build(family, 0), CBackend(device_mesh=(4,)))
    _, gradients = compiled.evaluate(case.params, case.inputs, output_gradients=ONE)
    p, draw = {k: f64(v) for k, v in case.params.items()}, np.random.default_rng(5)
    v = {k: draw.choice([-1e-6, 1e-6], t.shape) for k, t in p.items()}
    high, low = (
        numpy_loss(numpy_logits(family, {k: p[k] + s * v[k] for k in p}, case.inputs), case.inputs["target"])
        for s in (1, -1)
    )
    slope = sum((f64(gradients[k]) * v[k]).sum() for k in p)
    assert abs((high - low) / 2 - slope) <= 2e-3 * math.sqrt(sum(((f64(gradients[k]) * v[k]) ** 2).sum() for k in p))


# ---------------------------------------------------------------- on XLA
@pytest.mark.parametrize("engine", ["xla"], indirect=True)
@pytest.mark.parametrize("family", FAMILIES)
def test_on_xla(family):
    """Data and tensor parallelism over uneven parts; stages of two devices each."""
    quick = {"compile_options": {"xla_backend_optimization_level": 0}}
    check(family, (2, 3), data=0, backend_options=quick)
    if family == "gpt2":
        check(
            family,
            (2, 2),
            models.pipelined(family, 2, 0, axis=0, microbatch_size=3, schedule="1f1b"),
            backend_options=quick,
        )


# ---------------------------------------------------------------- data and tensor parallelism, an axis each
@pytest.mark.parametrize("mesh", [(2, 2), (4, 1), (3, 2), (7,)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_data_parallel(family, mesh):
    """A batch of 5 over 2, 4, 3 devices, and over 7 of which two have none of it."""
    model = models.build(family) if len(mesh) == 1 else None
    check(family, mesh, model, data=0)


@pytest.mark.parametrize(
    "mesh, tensor, batch, sequence",
    [
        ((3,), 0, None, 0),
        ((4,), 0, 0, None),
        ((2, 2), None, 0, 1),
        ((2, 2, 2), 2, 0, 1),
        ((2, 2), 0, 1, 0),
        ((2, 3), 1, (0, 1), None),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_any_split_of_the_inputs(family, mesh, tensor, batch, sequence):
    """The sequence split too, and axes that split heads and inputs alike: attention, positions and experts see what
    they must."""
    specs = {name: (batch, sequence) for name in case_of(family).inputs}
    check(family, mesh, models.build(family, tensor), input_shard_specs=specs)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_of_one_compiled_model(family):
    p = {k: f64(v) for k, v in case_of(family).params.items()}
    for mesh, model, data in (
        ((4,), models.build(family, 0), None),
        ((2, 2), models.build(family, 1), 0),
        ((2, 2), models.pipelined(family, 2, 0, axis=0, microbatch_size=2, schedule="1f1b"), None),
    ):
        specs = None if data is None else {name: (data, None) for name in case_of(family).inputs}
        compiled = ml.compile(model, CBackend(device_mesh=mesh), input_shard_specs=specs)
        for batch, length in ((1, 2), (1, 16), (9, 3), (2, 2)):
            inputs = models.sentences(family, batch, length)
            params = {name: case_of(family).params[plain(name)] for name in compiled.get_parameter_layout(inputs)}
            outputs, _ = compiled.evaluate(params, inputs, output_gradients=ONE)
            close(outputs["loss"], numpy_loss(numpy_logits(family, p, inputs), inputs["target"]))


# ---------------------------------------------------------------- pipelines
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("stages, size", [(2, 2), (3, 1), (3, 3), (3, 5)])
@pytest.mark.parametrize("family", FAMILIES)
def test_pipeline(family, stages, size, schedule):
    """Microbatches of 2 and 3 leave a smaller last one; the router of experts sees a microbatch at a time."""
    check(family, (3,), models.pipelined(family, stages, microbatch_size=size, schedule=schedule))


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(
    "mesh, stages, data", [((2, 2), 2, None), ((2, 3), 3, None), ((2, 2, 2), 2, 1), ((3, 1, 2), 3, 1)], ids=str
)
@pytest.mark.parametrize("family", FAMILIES)
def test_pipeline_of_sharded_stages(family, mesh, stages, data, schedule):
    """Stages along axis 0 (three on two: two of them on one), split over the last axis, data-parallel over the middle
    one."""
    model = models.pipelined(family, stages, len(mesh) - 2, axis=0, microbatch_size=2, schedule=schedule)
    check(family, mesh, model, data=data)


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_on_lists_of_devices(family):
    model = models.pipelined(family, 2, 0, device_assignment=[[0, 2], [4, 1, 3]], microbatch_size=3, schedule="1f1b")
    check(family, (5,), model)


# ---------------------------------------------------------------- how it communicates
OPTIONS = {
    "ring": {
        "collective_ops": {k: "ring" for k in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")}
    },
    "tree": {"collective_ops": {"all_reduce": "tree", "broadcast": "tree"}},
    "hierarchical": {"collective_ops": {"all_reduce": "hierarchical"}},
    "optimized": {"communication_optimization": True},
    "overlapped": {"overlap_communication": True},
    "sequence parallel": {"sequence_parallel": True},
    "all": {
        "communication_optimization": True,
        "overlap_communication": True,
        "pipeline_communication": True,
        "sequence_parallel": True,
    },
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_communication_options(family, options):
    check(family, (4,), backend_options=OPTIONS[options])
    check(family, (2, 2), backend_options=OPTIONS[options], data=0)
    model = models.pipelined(family, 2, 0, axis=0, microbatch_size=2, schedule="1f1b")
    check(family, (2, 2), model, backend_options=OPTIONS[options])


def channels(compiled, inputs, gradients):
    """(kind, shape, module) of each."""
    text = compiled.program_text(inputs, gradients)
    found = re.findall(r'^channel c\d+ (\w+) \w+ \w+\[([\d,]*)\].*"(\S+): \w+"$', text, re.M)
    return [(kind, tuple(map(int, filter(None, shape.split(",")))), module) for kind, shape, module in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_are_those_of_megatron(family):
    """Forward 2 all-reduces of the activations a layer, and one for the words; the loss exchanges its rows, never the
    logits."""
    case, c, n = case_of(family), models.FAMILIES[family][0], 4
    compiled = ml.compile(models.build(family, 0), CBackend(device_mesh=(n,)))
    found = channels(compiled, case.inputs, False)
    activations, rows = (BATCH, LENGTH, c.width), (BATCH, LENGTH)
    wide = [f for f in found if math.prod(f[1]) >= math.prod(activations)]
    assert {kind for kind, _, _ in found} == {"all_reduce"}
    assert len(wide) == 1 + 2 * c.layers
    for i in range(c.layers):
        assert [m.split(".")[1] for _, _, m in wide if m.startswith(f"layer_{i}.")] == ["attention", "feed_forward"]
    rest = [f for f in found if f not in wide]
    assert len(rest) == 3 and all(
        math.prod(shape) == math.prod(rows) for _, shape, _ in rest
    )  # the maximum, the sum, the target's logit
    compiled.evaluate(case.params, case.inputs)
    total = 4 * (len(wide) * math.prod(activations) + 3 * math.prod(rows))
    usage = compiled.get_communication_usage()
    assert sum(u["sent"] for u in usage) == sum(u["received"] for u in usage) == 2 * (n - 1) * total


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_backward_communicates_as_much(family):
    """2 more all-reduces a layer, and one for the head, which is split by columns."""
    case, c = case_of(family), models.FAMILIES[family][0]
    compiled = ml.compile(models.build(family, 0), CBackend(device_mesh=(4,)))
    forward, both = (channels(compiled, case.inputs, gradients) for gradients in (False, True))
    activations = math.prod((BATCH, LENGTH, c.width))
    extra = sorted(m for _, shape, m in both if math.prod(shape) == activations)
    for f in forward:
        if math.prod(f[1]) == activations:
            extra.remove(f[2])
    assert len(extra) == 2 * c.layers + 1


def test_three_ways_at_once():
    """Pipeline x data x tensor, with gradients: for each microbatch the all-reduces of tensor parallelism and what
    crosses to the next stage and back; each weight's gradient once, behind the last microbatch, in the parts in which
    the weight is; no part of the batch and no logits meet those of another device."""
    family, batch, length, size = "llama", 16, 8, 4
    c = models.FAMILIES[family][0]
    inputs = models.sentences(family, batch, length)
    model = models.pipelined(family, 2, 1, axis=0, microbatch_size=size, schedule="1f1b")
    compiled = ml.compile(
        model, CBackend(device_mesh=(2, 2, 2)), input_shard_specs={name: (1, None) for name in inputs}
    )
    found = channels(compiled, inputs, True)
    layout = compiled.get_parameter_layout(inputs)
    microbatches, activations = batch // size, math.prod((size, length, c.width))
    assert sum(kind == "transfer" and math.prod(shape) == activations for kind, shape, _ in found) == 2 * microbatches
    assert {kind for kind, _, _ in found} == {"all_reduce", "transfer"}
    wide = [module for kind, shape, module in found if kind == "all_reduce" and shape == (size, length, c.width)]
    assert len(wide) == microbatches * (4 * c.layers + 2)
    reduced = [(shape, module) for kind, shape, module in found if kind == "all_reduce" and shape and shape[0] != size]
    assert sorted(shape for shape, _ in reduced) == sorted(p.shape for p in layout.values())
    for line in compiled.program_text(inputs, True).splitlines():
        if line.startswith("channel") and f"[{c.vocabulary},{c.width}]" in line:
            assert "(1, None) partial sum over 0" in line  # the table's gradient is as the table


def test_nothing_is_exchanged_where_all_is_whole():
    compiled, _ = check("llama", (3,), models.build("llama"))
    assert [u["sent"] for u in compiled.get_communication_usage()] == [0, 0, 0]


# ---------------------------------------------------------------- tied embeddings
def test_tied_embeddings():
    """GPT-2's head has no weight of its own; with a pipeline, the table is held in both of the stages that read it, and
    nowhere else."""
    case = case_of("gpt2")
    assert "embedding.word.weight" in case.params and "head.decoder.weight" not in case.params
    name = "pipeline.stage_0.embedding.word.weight"
    compiled, params = check("gpt2", (3, 2), models.pipelined("gpt2", 3, 0, axis=0, microbatch_size=2, schedule="1f1b"))
    table = compiled.get_parameters(case.inputs)[name]
    assert [shard.device_id for shard in table.addressable_shards] == [0, 1, 4, 5]
    shape = ",".join(map(str, table.shape))
    compiled.evaluate(params, case.inputs)
    assert not [x for x in compiled.program_text().splitlines() if x.startswith("channel") and f"[{shape}]" in x]


# ---------------------------------------------------------------- the example
@pytest.mark.parametrize(
    "arguments", ["", "bert mixtral --mesh 2,2", "gpt2 --stages 3", "llama --stages 2 --mesh 2,2,2"]
)
def test_example(arguments):
    run = subprocess.run([sys.executable, EXAMPLE, *arguments.split()], capture_output=True, text=True, timeout=HANGS)
    assert run.returncode == 0, run.stderr
    losses = re.findall(r"loss (\S+) to ([\d.]+)", run.stdout)
    assert len(losses) == (sum(family in arguments for family in FAMILIES) or len(FAMILIES))
    assert all(float(last) < 0.75 * float(first) for first, last in losses)
