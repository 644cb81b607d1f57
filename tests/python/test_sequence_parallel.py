"""Sequence parallelism: what lies between tensor-parallel products is split by positions. The numbers and gradients of
one device on random towers, and a plan that sends the same bytes forward and keeps less."""

import os
import random as chance
import re

import numpy as np
import pytest

import mithril as ml
from acceptance_support import model_of, same
from mithril.backends import CBackend
from support import every_engine, few, random

SOAK = int(os.environ.get("MITHRIL_SOAK", "0"))
SEEDS = range(10**6, 10**6 + SOAK) if SOAK else range(160)
MESHES = [(2,), (3,), (4,), (2, 2), (2, 3), (2, 2, 2)]
OPTIONS = ("communication_optimization", "overlap_communication", "pipeline_communication")
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


# ---------------------------------------------------------------- plans
def block(x, y, n, axis=0, before=False, hidden=64, norm=ml.LayerNorm):
    """A transformer block, with its norms before the products or behind the sums."""
    attention = ml.MultiHeadAttention(num_heads=4, head_dim=8, tensor_axis=axis)
    feed_forward = ml.FeedForward(hidden_dim=hidden, tensor_axis=axis)
    if before:
        return [
            norm()(input=x, output=f"n{n}"),
            attention(input=f"n{n}", output=f"a{n}"),
            ml.Add()(inputs=[x, f"a{n}"], output=f"r{n}"),
            norm()(input=f"r{n}", output=f"m{n}"),
            feed_forward(input=f"m{n}", output=f"f{n}"),
            ml.Add()(inputs=[f"r{n}", f"f{n}"], output=y),
        ]
    return [
        attention(input=x, output=f"a{n}"),
        ml.Add()(inputs=[x, f"a{n}"], output=f"r{n}"),
        norm()(input=f"r{n}", output=f"n{n}"),
        feed_forward(input=f"n{n}", output=f"f{n}"),
        ml.Add()(inputs=[f"n{n}", f"f{n}"], output=f"s{n}"),
        norm()(input=f"s{n}", output=y),
    ]


def tower(layers, **options):
    names = ["x", *[f"x{i}" for i in range(1, layers)], "y"]
    return model_of(*[b for i in range(layers) for b in block(names[i], names[i + 1], i, **options)])


def planned(model, inputs, gradients, **options):
    """How often each collective moves activations, and the compiled model."""
    compiled = ml.compile(model, CBackend(device_mesh=(4,), **options))
    text = compiled.program_text(inputs, gradients)
    width = "x".join(map(str, inputs["x"].shape))
    found = re.findall(r"^channel c\d+ (\w+) \w+ \w+\[([\d,]*)\]", text, re.M)
    return [kind for kind, shape in found if shape.replace(",", "x") == width], compiled


@pytest.mark.parametrize("before", [False, True])
def test_the_same_bytes_and_less_memory(before):
    inputs, used = {"x": random(4, 16, 32)}, {}
    for on in (False, True):
        forward, compiled = planned(tower(2, before=before), inputs, False, sequence_parallel=on)
        assert sorted(forward) == (["all_gather"] * 4 + ["reduce_scatter"] * 4 if on else ["all_reduce"] * 4)
        params = compiled.get_parameters(inputs)
        compiled.evaluate(params, inputs)
        sent = sum(u["sent"] for u in compiled.get_communication_usage())
        compiled.evaluate(params, inputs, {"y": random(4, 16, 32)})
        used[on] = sent, [u["activations"] for u in compiled.get_memory_usage(params, inputs)]
    assert used[True][0] == used[False][0] == 4 * 2 * 3 * 4 * 16 * 32 * 4
    assert max(used[True][1]) < 0.75 * min(used[False][1])


def test_it_is_taken_where_it_pays():
    """By the cost model: work that is saved, and latency that is not."""
    small, large = {"x": random(4, 16, 32)}, {"x": random(8, 128, 512)}
    assert "reduce_scatter" not in planned(tower(2), small, True)[0]
    assert planned(tower(2), large, True)[0].count("reduce_scatter") >= 3
    assert "reduce_scatter" not in planned(tower(2), large, True, sequence_parallel=False)[0]


def test_backward_gathers_again():
    """What forward gathered is not kept: one all_gather for the gradients of all weights that take it."""
    inputs = {"x": random(4, 16, 32)}
    forward, both = (planned(tower(2), inputs, g, sequence_parallel=True)[0] for g in (False, True))
    # 4 gradients are gathered for the product that made the sum, and 3 operands for the gradients of weights; the first
    # has its input whole
    assert both.count("all_gather") - forward.count("all_gather") == 7


def after(*between):
    """A product of parts, and behind it `between`, as (module, options)."""
    blocks, at = [ml.FeedForward(hidden_dim=8, tensor_axis=0)(input="x", output="h0")], 0
    for module in between:
        blocks.append(module(input=f"h{at}", output=f"h{at + 1}"))
        at += 1
    return model_of(*blocks)


@pytest.mark.parametrize(
    "model, shape",
    [
        (lambda: after(), (4, 16, 32)),  # a sum that goes out
        (lambda: after(ml.LayerNorm()), (4, 16, 32)),
        (lambda: tower(2), (3, 3, 32)),  # no dimension of positions divides by 4
        (lambda: after(ml.LayerNorm(), ml.Linear(32)), (4, 16, 32)),  # a product that every device computes whole
        (
            lambda: after(ml.Softmax(axis=1), ml.FeedForward(hidden_dim=8, tensor_axis=0)),
            (4, 16, 32),
        ),  # no work on positions alone
    ],
)
def test_where_it_can_not_be(model, shape):
    found, _ = planned(model(), {"x": random(*shape)}, False, sequence_parallel=True)
    assert set(found) == {"all_reduce"}


def test_an_algorithm_for_all_reduce_keeps_it():
    large = {"x": random(8, 128, 512)}
    for algorithm in ("ring", "tree", "hierarchical", "direct"):
        assert set(planned(tower(2), large, False, collective_ops={"all_reduce": algorithm})[0]) == {"all_reduce"}
    both = {"collective_ops": {"all_reduce": "ring"}, "sequence_parallel": True}
    assert set(planned(tower(2), large, False, **both)[0]) == {"all_gather", "reduce_scatter"}
    assert "all_reduce" not in planned(tower(2), large, False, collective_ops={"all_gather": "ring"})[0]


def test_another_value_is_an_error():
    with pytest.raises(TypeError, match="sequence_parallel"):
        CBackend(device_mesh=(2,), sequence_parallel="yes")


# ---------------------------------------------------------------- numbers
class Tower:
    """Layers of products that are split over an axis, and between them what works on positions, at random."""

    def __init__(self, draw, mesh):
        self.draw, self.mesh, self.blocks, self.values = draw, mesh, [], 0
        self.axis = draw.randrange(len(mesh))
        self.width = draw.choice([4, 6])
        lead = draw.choice([[4], [6], [12], [2, 6], [1, 4], [6, 3], [3, 8], [5, 5]])
        self.shape = (*lead, self.width)

    def add(self, kind, options=None, parallel=None, **wires):
        self.values += 1
        name = f"v{self.values}"
        self.blocks.append((kind, options or {}, parallel or {}, {**wires, "output": name}))
        return name

    def product(self, x):
        tensor = {"tensor_axis": self.axis}
        if self.draw.random() < 0.4 and len(self.shape) == 3:
            return self.add(
                "MultiHeadAttention", {"num_heads": self.draw.choice([2, 3, 4]), "head_dim": 2}, tensor, input=x
            )
        if self.draw.random() < 0.6:
            return self.add(
                "FeedForward",
                {"hidden_dim": self.draw.choice([6, 8]), "gated": self.draw.random() < 0.5},
                tensor,
                input=x,
            )
        bias = {"bias": self.draw.random() < 0.7}
        h = self.add("Linear", {"dimension": 8, **bias}, {"weight_shard_spec": (None, self.axis)}, input=x)
        return self.add(
            "Linear", {"dimension": self.width, **bias}, {"weight_shard_spec": (self.axis, None)}, input=self.map(h)
        )

    def map(self, x):
        return self.add(self.draw.choice(["Relu", "Gelu", "Silu", "Tanh"]), input=x)

    def between(self, x, old):
        for _ in range(self.draw.randrange(4)):
            kind = self.draw.choice(["map", "norm", "norm", "dropout", "gate", "residual", "subtract"])
            if kind == "map":
                x = self.map(x)
            elif kind == "norm":
                x = self.add(self.draw.choice(["LayerNorm", "RMSNorm"]), input=x)
            elif kind == "dropout":
                x = self.add("Dropout", {"rate": 0.3, "seed": self.values}, input=x)
            elif kind == "gate":
                x = self.add("Multiply", inputs=[x, self.add("Sigmoid", input=x)])
            elif kind == "subtract":
                x = self.add("Subtract", inputs=[self.draw.choice(old), x])
            else:
                x = self.add("Add", inputs=self.draw.sample([x, self.draw.choice(old)], 2))
        return x

    def grow(self, x):
        old = [x]
        for _ in range(self.draw.randint(1, 4)):
            x = self.between(self.product(x), old)
            old.append(x)
        end = self.draw.choice(["as it is", "head", "split head", "second output"])
        if "head" in end:
            x = self.add(
                "Linear",
                {"dimension": 5},
                {"weight_shard_spec": (None, self.axis)} if end == "split head" else {},
                input=x,
            )
        elif end == "second output":
            self.add("Tanh", input=self.draw.choice(old))
        return x

    def build(self, parallel, name=None):
        return model_of(
            *[
                getattr(ml, kind)(**options, **(where if parallel else {}))(**wires)
                for kind, options, where, wires in self.blocks
            ]
        )


def random_options(draw):
    options = {k: True for k in OPTIONS if draw.random() < 0.3} | {"sequence_parallel": True}
    if draw.random() < 0.4:
        options["collective_ops"] = {k: draw.choice(["direct", "ring", "tree", "hierarchical"]) for k in KINDS}
    return options


@every_engine
@pytest.mark.parametrize("part", range(0, len(SEEDS), 40))
def test_towers(engine, part):
    scattered, seeds = 0, few(SEEDS[part : part + 40], 10)
    for seed in seeds:
        draw = chance.Random(seed)
        mesh = draw.choice(MESHES)
        t = Tower(draw, mesh)
        t.grow("x")
        axes = [a for a in range(len(mesh)) if a != t.axis]
        specs = {"x": (draw.choice(axes), *[None] * (len(t.shape) - 1))} if axes and draw.random() < 0.6 else {}
        compiled, _ = same(
            t.build,
            mesh,
            {"x": random(*t.shape, seed=seed)},
            random_options(draw),
            tolerance=4e-4,
            input_shard_specs=specs,
        )
        scattered += "reduce_scatter" in compiled.program_text()
    assert scattered > len(seeds) / 4


@pytest.mark.parametrize("part", range(0, len(SEEDS) // 2, 40))
def test_pipelines_of_towers(part):
    """Stages along one axis, products split over another, microbatches of any size."""
    scattered = 0
    for seed in SEEDS[part : part + 40]:
        draw = chance.Random(seed)
        mesh = draw.choice([m for m in MESHES if len(m) > 1])
        axis = draw.randrange(len(mesh))
        rest = tuple(n for a, n in enumerate(mesh) if a != axis)
        stages = []
        for s in range(draw.randint(1, 3)):
            t = Tower(draw, rest)
            t.shape, t.width = (8, 4, 4), 4
            x = "input"
            for _ in range(draw.randint(1, 2)):
                x = t.between(t.product(x), [x])
            t.blocks.append(("Tanh", {}, {}, {"input": x, "output": "output"}))
            stages.append(t)
        size, schedule = draw.choice([None, 2, 3, 4]), draw.choice(["gpipe", "1f1b"])

        def make(parallel):
            where = (
                {"axis": axis, "microbatch_size": size, "schedule": schedule}
                if parallel
                else {"device_assignment": [0] * len(stages)}
            )
            return model_of(ml.Pipeline(stages=[t.build(parallel) for t in stages], **where)(input="x", output="y"))

        compiled, _ = same(make, mesh, {"x": random(8, 4, 4, seed=seed)}, random_options(draw), tolerance=4e-4)
        scattered += "reduce_scatter" in compiled.program_text()
    assert scattered > 3


# ---------------------------------------------------------------- gradients lend their bytes
@pytest.mark.parametrize("seed", range(int(SOAK / 50) or 6))
def test_activations_in_gradients(seed):
    """Towers large enough that activations lie in gradients that are written later: the numbers of one device, call
    after call."""
    draw = chance.Random(f"large {seed}")
    mesh = draw.choice([(1,), (2,), (2, 2)])
    axis, layers, width = draw.randrange(len(mesh)), draw.randint(2, 4), 256
    options = [
        (draw.choice([ml.LayerNorm, ml.RMSNorm]), draw.choice([512, 1024]), draw.random() < 0.5) for _ in range(layers)
    ]

    def make(parallel):
        blocks, x = [], "x"
        for i, (norm, hidden, before) in enumerate(options):
            where = {"tensor_axis": axis} if parallel else {}
            blocks.append(ml.FeedForward(hidden_dim=hidden, gated=before, **where)(input=x, output=f"f{i}"))
            blocks.append(ml.Add()(inputs=[x, f"f{i}"], output=f"s{i}"))
            blocks.append(norm()(input=f"s{i}", output=f"x{i}"))
            x = f"x{i}"
        return model_of(*blocks, ml.Tanh()(input=x, output="y"))

    shape = (draw.choice([64, 96]), width)
    compiled, fresh = same(make, mesh, {"x": random(*shape, seed=seed)}, random_options(draw), tolerance=4e-4)
    assert re.search(r"at exit \d+\+\d+ = ", compiled.program_text())
    x, dy = {"x": random(*shape, seed=seed)}, {"y": random(*shape, seed=seed + 1)}
    first, slopes = compiled.evaluate(fresh, x, dy)
    kept = {k: np.array(v) for k, v in slopes.items()}
    for _ in range(2):
        again, slopes_again = compiled.evaluate(fresh, x, dy)
        assert np.array_equal(np.asarray(first["y"]), np.asarray(again["y"]))
        assert all(
            np.array_equal(kept[k], np.asarray(slopes_again[k])) and np.array_equal(kept[k], np.asarray(slopes[k]))
            for k in kept
        )
