"""Random models of all modules, with random devices, specs, nesting and options, and random pipelines: the values and
gradients of the same model on one device. MITHRIL_SOAK=n runs n of each, other ones than usual."""

import math
import os
import random as chance

import numpy as np
import pytest

import mithril as ml
from acceptance_support import model_of, on, same
from support import random

SOAK = int(os.environ.get("MITHRIL_SOAK", "0"))
SEEDS = range(10**6, 10**6 + SOAK) if SOAK else range(400)
MESHES = [(1,), (2,), (3,), (4,), (5,), (2, 2), (3, 2), (2, 2, 2)]
OPTIONS = ("communication_optimization", "overlap_communication", "pipeline_communication", "sequence_parallel")
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


def random_spec(draw, mesh, rank):
    entries = [[] for _ in range(rank)]
    for axis in draw.sample(range(len(mesh)), len(mesh)):
        place = draw.randrange(rank + 1)
        if place < rank:
            entries[place].append(axis)
    return tuple(tuple(e) if len(e) > 1 else e[0] if e else None for e in entries)


def random_backend(draw):
    options = {k: True for k in OPTIONS if draw.random() < 0.4}
    if draw.random() < 0.5:
        options["collective_ops"] = {k: draw.choice(["direct", "ring", "tree", "hierarchical"]) for k in KINDS}
    return options


class Blocks:
    """Blocks as (class, options, options on the mesh, wires), each fed by values made before; `shape` of every
    value."""

    def __init__(self, draw, shapes, mesh, prefix="", devices=0):
        self.draw, self.shape, self.mesh, self.prefix, self.devices, self.blocks = (
            draw,
            dict(shapes),
            mesh,
            prefix,
            devices,
            [],
        )

    def place(self, options=None):
        """Options on the mesh: one device, or those given."""
        if self.devices and self.draw.random() < 0.35:
            return {"device_id": self.draw.randrange(self.devices)}
        return (options or {}) if self.draw.random() < 0.6 else {}

    def add(self, kind, shape, options, where, **wires):
        name = f"{self.prefix}v{len(self.blocks)}"
        outputs = (
            {"output": name} if isinstance(shape, tuple) else {f"output{i}": f"{name}_{i}" for i in range(len(shape))}
        )
        self.blocks.append((kind, options, where, {**wires, **outputs}))
        for i, out in enumerate(outputs.values()):
            self.shape[out] = shape if isinstance(shape, tuple) else shape[i]
        return name

    def spec(self, rank):
        return random_spec(self.draw, self.mesh, rank)

    def like(self, fits):
        return self.draw.choice([name for name, shape in self.shape.items() if fits(shape)])

    def keep(self, x):
        """A block whose output has the shape of x, and that keeps the rows of the first dimension apart."""
        draw, shape = self.draw, self.shape[x]
        kind = draw.choice(["map", "norm", "binary", "feed forward", "softmax", "dropout", "experts", "attention"])
        if kind == "map":
            return self.add(draw.choice(["Relu", "Gelu", "Silu", "Sigmoid", "Tanh"]), shape, {}, self.place(), input=x)
        if kind == "norm":
            return self.add(draw.choice(["LayerNorm", "RMSNorm"]), shape, {}, self.place(), input=x)
        if kind == "binary":
            pair = [x, self.like(lambda s: s == shape)]
            draw.shuffle(pair)
            return self.add(draw.choice(["Add", "Subtract", "Multiply"]), shape, {}, self.place(), inputs=pair)
        if kind == "softmax":
            return self.add("Softmax", shape, {}, self.place(), input=x)
        if kind == "dropout":
            return self.add("Dropout", shape, {"rate": 0.4, "seed": len(self.blocks)}, self.place(), input=x)
        tensor = {"tensor_axis": draw.randrange(len(self.mesh))} if self.mesh else {}
        if kind == "experts" and len(shape) > 1:
            count = draw.randint(1, 5)
            options = {
                "num_experts": count,
                "expert_dim": draw.randint(1, 5),
                "top_k": draw.randint(1, min(3, count)),
                "gated": draw.random() < 0.5,
            }
            spread = {"expert_distribution": draw.choice(["one_per_device", "round_robin"])} if self.mesh else {}
            return self.add("MoE", shape, options, self.place(spread), input=x)
        if kind == "attention" and len(shape) == 3:
            groups = draw.randint(1, 3)
            options = {
                "num_heads": groups * draw.randint(1, 2),
                "head_dim": 2,
                "num_kv_heads": groups,
                "causal": draw.random() < 0.5,
            }
            key = self.like(lambda s: len(s) == 3 and s[0] == shape[0])
            return self.add("MultiHeadAttention", shape, options, self.place(tensor), input=x, key=key)
        options = {"hidden_dim": draw.randint(1, 7), "gated": draw.random() < 0.5}
        return self.add("FeedForward", shape, options, self.place(tensor), input=x)

    def linear(self, x):
        width = self.draw.randint(1, 8)
        spec = {"weight_shard_spec": self.spec(2)} if self.mesh else {}
        return self.add(
            "Linear",
            self.shape[x][:-1] + (width,),
            {"dimension": width, "bias": self.draw.random() < 0.7},
            self.place(spec),
            input=x,
        )

    def change(self, x):
        """A block that may make another shape, of any dimensions."""
        draw, s = self.draw, self.shape[x]
        rank, d = len(s), draw.randrange(len(s))
        kind = draw.choice(
            [
                "broadcast",
                "reduce",
                "concat",
                "split",
                "slice",
                "reshape",
                "transpose",
                "matmul",
                "softmax",
                "positions",
            ]
        )
        if kind == "broadcast":
            fits = [y for y in self.shape if broadcast(s, self.shape[y])]
            y = draw.choice(fits)
            return self.add(
                draw.choice(["Add", "Multiply"]), broadcast(s, self.shape[y]), {}, self.place(), inputs=[x, y]
            )
        if kind == "reduce":
            axes, keep = tuple(draw.sample(range(rank), draw.randint(1, rank))), draw.random() < 0.5
            shape = tuple(1 if i in axes else n for i, n in enumerate(s) if keep or i not in axes)
            return self.add(
                draw.choice(["Mean", "Sum", "Max"]), shape, {"axis": axes, "keepdims": keep}, self.place(), input=x
            )
        if kind == "concat":
            y = self.like(lambda t: t[:d] + t[d + 1 :] == s[:d] + s[d + 1 :] and len(t) == rank)
            shape = s[:d] + (s[d] + self.shape[y][d],) + s[d + 1 :]
            return self.add("Concat", shape, {"axis": d}, self.place(), inputs=[x, y])
        if kind == "split":
            parts = draw.choice([n for n in range(1, 5) if s[d] % n == 0])
            shapes = [s[:d] + (s[d] // parts,) + s[d + 1 :]] * parts
            return self.add("Split", shapes, {"parts": parts, "axis": d}, self.place(), input=x)
        if kind == "slice":
            start = draw.randrange(s[d])
            stop = draw.randint(start + 1, s[d])
            return self.add(
                "Slice",
                s[:d] + (stop - start,) + s[d + 1 :],
                {"axis": d, "start": start, "stop": stop},
                self.place(),
                input=x,
            )
        if kind == "reshape":
            left, shape = math.prod(s), []
            while left > 1 and len(shape) < 3:
                shape.append(draw.choice([n for n in range(1, left + 1) if left % n == 0]))
                left //= shape[-1]
            shape.append(left)
            draw.shuffle(shape)
            return self.add("Reshape", tuple(shape), {"shape": tuple(shape)}, self.place(), input=x)
        if kind == "transpose":
            axes = draw.sample(range(rank), rank)
            return self.add("Transpose", tuple(s[a] for a in axes), {"axes": tuple(axes)}, self.place(), input=x)
        others = [y for y, t in self.shape.items() if 1 < len(t) <= rank and t[-2] == s[-1] and t[:-2] in ((), s[:-2])]
        if kind == "matmul" and others:
            y = draw.choice(others)
            return self.add("MatMul", s[:-1] + self.shape[y][-1:], {}, self.place(), inputs=[x, y])
        if kind == "positions" and rank > 1:
            options = {"max_len": s[-2] + 2, "kind": draw.choice(["sinusoidal", "learned"])}
            return self.add("PositionalEncoding", s, options, self.place(), input=x)
        return self.add("Softmax", s, {"axis": d}, self.place(), input=x)

    def prune(self):
        """Scalars and large values are not used further."""
        self.shape = {k: s for k, s in self.shape.items() if s and math.prod(s) <= 20000}

    def build(self, parallel, blocks=None):
        chosen = self.blocks if blocks is None else blocks
        return [
            getattr(ml, kind)(**options, **(where if parallel else {}))(**wires)
            for kind, options, where, wires in chosen
        ]

    def reads(self):
        return {v for *_, wires in self.blocks for port, v in flat(wires) if not port.startswith("output")}


def flat(wires):
    return [(port, v) for port, names in wires.items() for v in (names if isinstance(names, list) else [names])]


def broadcast(a, b):
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        return None


def nested(blocks, parallel):
    """The first half as a submodel, where the rest reads only what the half itself doesn't."""
    half, rest = blocks.blocks[: len(blocks.blocks) // 2], blocks.blocks[len(blocks.blocks) // 2 :]
    read = [{v for *_, w in part for port, v in flat(w) if not port.startswith("output")} for part in (half, rest)]
    made = {v for *_, w in half for port, v in flat(w) if port.startswith("output")}
    if not half or made & read[0] & read[1]:
        return model_of(*blocks.build(parallel))
    return model_of(model_of(*blocks.build(parallel, half)), *blocks.build(parallel, rest))


def check(make, mesh, inputs, draw):
    specs = {k: random_spec(draw, mesh, v.ndim) for k, v in inputs.items() if v.ndim and draw.random() < 0.4}
    with np.errstate(all="ignore"):
        same(make, mesh, inputs, random_backend(draw), tolerance=4e-4, seed=7, input_shard_specs=specs)


@pytest.mark.parametrize("block", range(0, len(SEEDS), 100))
def test_models(block):
    for seed in SEEDS[block : block + 100]:
        draw = chance.Random(seed)
        mesh = draw.choice(MESHES)
        shapes = {
            f"x{k}": tuple(draw.randint(1, 7) for _ in range(draw.choice([1, 2, 2, 3, 3, 4])))
            for k in range(draw.randint(1, 3))
        }
        blocks = Blocks(draw, shapes, mesh, devices=math.prod(mesh))
        for _ in range(draw.randint(1, 9)):
            if blocks.shape:
                x = draw.choice(list(blocks.shape))
                draw.choice([blocks.linear, blocks.keep, blocks.change])(x)
                blocks.prune()
        inputs = {k: random(*s, seed=seed) for k, s in shapes.items() if k in blocks.reads()}
        make = nested if draw.random() < 0.3 else lambda b, parallel: model_of(*b.build(parallel))
        check(lambda parallel: make(blocks, parallel), mesh, inputs, draw)


def random_stages(draw, mesh, shape):
    """Stages as blocks, where they are, and the shapes of what enters from outside. Some outputs of a stage are read by
    a later one."""
    count, devices = draw.randint(1, 5), math.prod(mesh)
    mode, axis = draw.choice(["device", "list", "axis", "default"]), draw.randrange(len(mesh))
    groups = [draw.sample(range(devices), draw.randint(1, devices)) for _ in range(count)]
    where = {
        "device": {"device_assignment": [draw.randrange(devices) for _ in range(count)]},
        "list": {"device_assignment": groups},
        "axis": {"axis": axis},
        "default": {},
    }[mode]
    outside, offered, stages = {"input": shape}, {}, []
    for s in range(count):
        own = (
            tuple(n for a, n in enumerate(mesh) if a != axis)
            if mode == "axis"
            else (len(groups[s]),)
            if mode == "list"
            else ()
        )
        entering = {"input": shape}
        if s and offered and draw.random() < 0.5:
            name = draw.choice(list(offered))
            entering[name] = offered[name]
        if draw.random() < 0.25:
            outside[f"k{s}"] = entering[f"k{s}"] = shape[:-1] + (draw.randint(1, 5),)
        blocks = Blocks(draw, entering, own if math.prod(own) > 1 else (), f"s{s}")
        ends = [draw.choice([blocks.linear, blocks.keep])(x) for x in entering]
        while len(ends) > 1 or draw.random() < 0.5:  # until one value depends on all that enters
            a = ends.pop()
            if not ends:
                ends = [draw.choice([blocks.linear, blocks.keep])(a)]
                continue
            b = ends.pop()
            ends.append(
                blocks.add(
                    "Concat", shape[:-1] + (blocks.shape[a][-1] + blocks.shape[b][-1],), {"axis": -1}, {}, inputs=[a, b]
                )
            )
        shape = blocks.shape[ends[0]]
        blocks.blocks.append(("Tanh", {}, {}, {"input": ends[0], "output": "output"}))
        for name, other in list(blocks.shape.items()):
            if name.startswith(f"s{s}") and draw.random() < 0.3:
                blocks.blocks.append(("Silu", {}, {}, {"input": name, "output": f"p{name}"}))
                offered[f"p{name}"] = other
        stages.append(blocks)
    return stages, where, outside, shape


@pytest.mark.parametrize("block", range(0, len(SEEDS), 100))
def test_pipelines(block):
    for seed in SEEDS[block : block + 100]:
        draw = chance.Random(seed)
        mesh = draw.choice(MESHES)
        lead = (draw.randint(1, 9),) if draw.random() < 0.6 else (draw.randint(1, 9), draw.randint(1, 4))
        stages, where, outside, last = random_stages(draw, mesh, lead + (draw.randint(1, 6),))
        inputs = {k: random(*s, seed=seed) for k, s in outside.items()}
        loss = draw.choice([None, "CrossEntropy", "SquaredError", "Mean"])
        if loss:
            module = {} if loss == "Mean" else {"reduction": draw.choice(["mean", "sum", "none"])}
            *others, end = [b for b in stages[-1].blocks if b[0] == "Tanh" and b[3]["output"] == "output"]
            stages[-1].blocks[stages[-1].blocks.index(end)] = ("Tanh", {}, {}, {**end[3], "output": "before"})
            target = {} if loss == "Mean" else {"target": "target"}
            stages[-1].blocks.append((loss, module, {}, {"input": "before", **target, "output": "output"}))
            if loss == "CrossEntropy":
                inputs["target"] = np.random.default_rng(seed).integers(0, last[-1], last[:-1])
            elif loss == "SquaredError":
                inputs["target"] = random(*last, seed=seed + 1)
        size, schedule = draw.choice([None, 1, 2, 3, 4, 20]), draw.choice(["gpipe", "1f1b"])

        def make(parallel):
            options = (
                {**where, "microbatch_size": size, "schedule": schedule}
                if parallel
                else {"device_assignment": [0] * len(stages)}
            )
            pipeline = ml.Pipeline(stages=[model_of(*s.build(parallel)) for s in stages], **options)
            return model_of(pipeline(output="y", **{k: k for k in inputs}))

        check(make, mesh, inputs, draw)


def test_meshes_of_one_device_are_no_special_case():
    for mesh in [(1,), (1, 1), (1, 1, 1)]:
        model = model_of(ml.Linear(3, weight_shard_spec=(0, None), device_mesh=mesh)(input="x", output="y"))
        assert ml.compile(model, on(*mesh)).get_parameters({"x": random(2, 4)})["linear_0.weight"].shape == (4, 3)
