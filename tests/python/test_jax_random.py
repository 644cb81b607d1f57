"""JaxBackend against CBackend: random models of all modules, with any options, XLA's partitioner included; and what was
found that way: parts that XLA's partitioner has not, NaN between devices, forked processes, plugins that are no
plugins, processes that share a cache. MITHRIL_SOAK=n runs n models of each kind, other ones than usual."""

import math
import multiprocessing
import os
import random as chance
import subprocess
import sys

import numpy as np
import pytest

import mithril as ml
from acceptance_support import model_of, shifted
from mithril.backends import CBackend, JaxBackend
from mithril.errors import MithrilValueError
from support import HANGS, close, f64, one_block, random
from test_acceptance_random import KINDS, OPTIONS, Blocks, random_spec

SOAK = int(os.environ.get("MITHRIL_SOAK", "0"))
MESHES = [(1,), (2,), (3,), (4,), (2, 2), (2, 3), (2, 2, 2)]


def spec_for(kind, draw, mesh, rank):
    """For XLA's partitioner mostly one axis a dimension: with several, in any order and of any sizes, it has few of the
    parts."""
    spec = random_spec(draw, mesh, rank)
    if kind == "mpmd" or draw.random() < 0.1:
        return spec
    return tuple(min(e) if isinstance(e, tuple) else e for e in spec)


class AllBlocks(Blocks):
    """More modules, and more of their options; `ids`: inputs of ids as (shape, limit), `masks`: those of masks."""

    def __init__(self, *args, kind="mpmd", **kwargs):
        super().__init__(*args, **kwargs)
        self.kind, self.ids, self.masks = kind, {}, {}

    def spec(self, rank):
        return spec_for(self.kind, self.draw, self.mesh, rank)

    def keep(self, x):
        draw, shape = self.draw, self.shape[x]
        tensor = {"tensor_axis": draw.randrange(len(self.mesh))} if self.mesh else {}
        activation = draw.choice(["gelu", "gelu_tanh", "relu", "silu"])
        kind = draw.choice(["attention", "experts", "feed forward", "positions", "norm", "divide", "other"])
        if kind == "attention" and len(shape) == 3:
            groups, rotary = draw.randint(1, 2), draw.random() < 0.4
            options = {
                "num_heads": groups * draw.randint(1, 3),
                "head_dim": 2 * draw.randint(1, 2),
                "num_kv_heads": groups,
            }
            options |= {
                "causal": draw.random() < 0.4,
                "rotary": rotary,
                "rope_interleaved": rotary and draw.random() < 0.5,
            }
            wires = {"input": x}
            if draw.random() < 0.5:
                wires["key"] = self.like(lambda s: len(s) == 3 and s[0] == shape[0])
            rows = self.shape[wires.get("key", x)][:2]
            if draw.random() < 0.5:
                wires["mask"] = f"mask{rows[0]}_{rows[1]}"
                self.masks[wires["mask"]] = rows
            return self.add("MultiHeadAttention", shape, options, self.place(tensor), **wires)
        if kind == "experts" and len(shape) > 1:
            count = draw.randint(1, 9)
            options = {"num_experts": count, "expert_dim": draw.randint(1, 5), "top_k": draw.randint(1, min(3, count))}
            options |= {
                "gated": draw.random() < 0.5,
                "activation": activation,
                "load_balancing_loss": draw.random() < 0.5,
            }
            options["capacity_factor"] = draw.choice([None, 0.5, 2.0])
            spread = {"expert_distribution": draw.choice(["one_per_device", "round_robin"])} if self.mesh else {}
            name = self.add("MoE", shape, options, self.place(spread), input=x)
            if options["capacity_factor"]:
                self.blocks[-1][3]["dropped"] = f"{name}_dropped"
            if options["load_balancing_loss"]:
                self.blocks[-1][3]["load_balancing_loss"] = f"{name}_balance"
            return name
        if kind == "feed forward":
            options = {"hidden_dim": draw.randint(1, 9), "gated": draw.random() < 0.5, "bias": draw.random() < 0.6}
            return self.add("FeedForward", shape, options | {"activation": activation}, self.place(tensor), input=x)
        if kind == "positions" and len(shape) > 1 and shape[-1] % 2 == 0:
            options = {"max_len": shape[-2] + 1, "kind": "rotary", "interleaved": draw.random() < 0.5}
            return self.add("PositionalEncoding", shape, options, self.place(), input=x)
        if kind == "norm":
            spec = {"shard_specs": {"weight": self.spec(1)}} if self.mesh else {}
            return self.add(draw.choice(["LayerNorm", "RMSNorm"]), shape, {}, self.place(spec), input=x)
        if kind == "divide":
            y = self.add("Sigmoid", shape, {}, self.place(), input=x)
            return self.add("Divide", shape, {}, self.place(), inputs=[self.like(lambda s: s == shape), y])
        return super().keep(x)

    def embed(self, name, shape):
        draw = self.draw
        self.ids[name] = (shape, draw.randint(1, 12))
        width = draw.randint(1, 8)
        options = {"vocab_size": self.ids[name][1], "embedding_dim": width}
        return self.add(
            "Embedding", shape + (width,), options, self.place({"weight_shard_spec": self.spec(2)}), input=name
        )

    def loss(self, x):
        shape, options = self.shape[x], {"reduction": self.draw.choice(["mean", "sum", "none"])}
        if self.draw.random() < 0.5:
            y = self.like(lambda s: s == shape)
            return self.add("SquaredError", (), options, self.place(), input=x, target=y)
        self.ids["target"] = (shape[:-1], shape[-1])
        return self.add("CrossEntropy", (), options, self.place(), input=x, target="target")


def random_model(draw, mesh, kind, seed):
    """The blocks, and the inputs that they read."""
    shapes = {
        f"x{k}": tuple(draw.randint(1, 6) for _ in range(draw.choice([1, 2, 3, 3]))) for k in range(draw.randint(1, 2))
    }
    blocks = AllBlocks(draw, shapes, mesh, kind=kind, devices=math.prod(mesh) if kind == "mpmd" else 0)
    if draw.random() < 0.4:
        blocks.embed("ids", (draw.randint(1, 5), draw.randint(1, 5)))
    for _ in range(draw.randint(1, 5)):
        if blocks.shape:
            draw.choice([blocks.linear, blocks.keep, blocks.keep, blocks.change])(draw.choice(list(blocks.shape)))
            blocks.prune()
    if blocks.shape and draw.random() < 0.4:
        blocks.loss(draw.choice(list(blocks.shape)))
    numbers = np.random.default_rng(seed)
    inputs = {k: random(*s, seed=seed) for k, s in shapes.items()}
    inputs |= {k: numbers.integers(0, n, s).astype(draw.choice(["int32", "int64"])) for k, (s, n) in blocks.ids.items()}
    inputs |= {
        k: numbers.integers(0, 2, s).astype(draw.choice(["int32", "bool", "int64"])) for k, s in blocks.masks.items()
    }
    return blocks, {k: v for k, v in inputs.items() if k in blocks.reads()}


def mpmd_options(draw, mesh):
    options = {k: True for k in (*OPTIONS, "memory_optimization", "auto_sharding") if draw.random() < 0.3}
    if draw.random() < 0.5:
        options["collective_ops"] = {k: draw.choice(["direct", "ring", "tree", "hierarchical"]) for k in KINDS}
    return options


def spmd_options(draw, mesh):
    options = {k: True for k in ("memory_optimization", "auto_sharding", "sequence_parallel") if draw.random() < 0.3}
    return options | {"mesh_context": "spmd"} | ({"spmd_mesh_shape": mesh} if draw.random() < 0.5 else {})


def agree(got, want, floor=1e-6):
    assert set(got) == set(want)
    for k in want:
        assert str(got[k].dtype) == str(want[k].dtype)
        close(got[k], want[k], 1e-4, floor)


def compare(xla, kind, seed):
    """One random model on XLA and on the native engine: True where their numbers were compared, False where XLA's
    partitioner has not the layout, None where the draw has no model."""
    draw = chance.Random(f"{kind}{seed}")
    mesh = draw.choice(MESHES)
    blocks, inputs = random_model(draw, mesh, kind, seed)
    if not inputs:
        return None
    specs = {k: spec_for(kind, draw, mesh, v.ndim) for k, v in inputs.items() if v.ndim and draw.random() < 0.4}
    options = (mpmd_options if kind == "mpmd" else spmd_options)(draw, mesh) | {
        "compile_options": {"xla_backend_optimization_level": 0}
    }
    plain = ml.compile(model_of(*blocks.build(True)), CBackend(device_mesh=mesh), input_shard_specs=specs)
    fresh = plain.get_parameters(inputs, seed=seed)
    params = shifted(fresh)
    want = plain.evaluate(params, inputs)
    leave = {k: spec_for(kind, draw, mesh, v.ndim) for k, v in want.items() if v.ndim and draw.random() < 0.3}
    seeds = {k: random(*v.shape, seed=4) for k, v in want.items() if "float" in str(v.dtype)}
    floating = [k for k, v in inputs.items() if v.dtype.kind == "f"]
    backend = xla(device_mesh=mesh, **options)
    try:  # refused where the layout is first known: at compile, for parameters, or for gradients
        compiled = ml.compile(model_of(*blocks.build(True)), backend, input_shard_specs=specs, output_shard_specs=leave)
        for k, v in compiled.get_parameters(inputs, seed=seed).items():
            assert np.asarray(v).tobytes() == np.asarray(fresh[k]).tobytes()
        got, slopes = compiled.evaluate({k: backend.array(v) for k, v in params.items()}, inputs, seeds, floating)
    except MithrilValueError as error:  # uneven parts in parts, axes against their order: refused, never wrong
        assert (
            kind == "spmd"
            and "XLA's partitioner (mesh_context='spmd')" in error.what
            and "mesh_context='mpmd'" in error.fix
        )
        return False
    agree(got, want)
    _, reference = plain.evaluate(params, inputs, seeds, floating)
    largest = max((np.abs(np.asarray(g)).max(initial=0) for g in reference.values()), default=0)
    agree(slopes, reference, max(1e-6, 1e-2 * largest))
    return True


@pytest.mark.parametrize("kind", ["mpmd", "spmd"])
def test_models(xla, kind):
    said = []
    for seed in range(10**6, 10**6 + SOAK) if SOAK else range(12):
        print(f"{kind} {seed}")  # of a failure, the last
        said.append(compare(xla, kind, seed))
    assert said.count(True) >= 0.8 * len(said) and (kind == "mpmd" or False in said), said


# ---------------------------------------------------------------- XLA's partitioner
def spmd(xla, model, mesh, inputs, **options):
    """Values and gradients of the native engine; gives the compiled model."""
    runs = []
    for backend in (CBackend(device_mesh=mesh), xla(device_mesh=mesh, mesh_context="spmd")):
        compiled = ml.compile(model(), backend, **options)
        params = compiled.get_parameters(inputs)
        values = compiled.evaluate(params, inputs)
        seeds = {k: random(*v.shape) for k, v in values.items() if "float" in str(v.dtype)}
        runs.append(compiled.evaluate(params, inputs, seeds, [k for k, v in inputs.items() if v.dtype.kind == "f"]))
    for want, got in zip(*runs):
        agree(got, want)
    return compiled


@pytest.mark.parametrize(
    "shape, spec, mesh", [((3, 4), (1, 0), (2, 2)), ((2, 1), (None, 0), (4,)), ((1, 5), (0, 1), (2, 3))], ids=str
)
def test_ports_of_sizes_that_the_mesh_does_not_divide(xla, shape, spec, mesh):
    """XLA drops the axes that don't divide an argument or a result: a wrong number, or a crash where sizes are then not
    what it was given."""
    model = lambda: one_block(ml.Gelu(), input="x", output="y")
    specs = {"input_shard_specs": {"x": spec}, "output_shard_specs": {"y": spec}}
    compiled = spmd(xla, model, mesh, {"x": random(*shape)}, **specs)
    assert "sharding_constraint" in compiled.stablehlo()


def test_a_view_that_leaves_has_its_own_parts(xla):
    model = lambda: model_of(ml.Reshape((4, 2))(input="x", output="r"), ml.Linear(3)(input="r", output="y"))
    spmd(xla, model, (2,), {"x": random(2, 2, 2)}, input_shard_specs={"x": (None, None, 0)})


LAYERS = [
    (4, (8, 4, 2), ((1, 2), (None, None)), (None, 2), None, ml.Relu),
    (4, (8, 8, 16), ((1, 2), (None, None)), (2, (0, 1)), (None, (1, 2)), ml.LayerNorm),
    (4, (8, 4, 4), ((0, 1), (2, None)), None, (2, (0, 1)), ml.Relu),
    (8, (4, 4, 8), (((0, 2), 1), ((0, 2), None)), (1, 2), (None, (0, 1)), None),
    (4, (16, 16, 8), (((0, 1), 2), (0, (1, 2))), (2, (0, 1)), ((0, 2), 1), ml.Relu),
    (8, (8, 8, 16), ((2, None), (1, (0, 2))), ((0, 2), 1), None, ml.Relu),
]


@pytest.mark.parametrize("rows, widths, specs, come, leave, between", LAYERS, ids=str)
def test_products_that_the_partitioner_mixes_up(xla, rows, widths, specs, come, leave, between):
    """Where operands or the result of a product are split over axes that disagree, XLA gives parts in the wrong order;
    so none is."""

    def model():
        layers = [ml.Linear(widths[1], weight_shard_spec=specs[0])(input="x", output="h")]
        layers += [between()(input="h", output="a")] if between else []
        return model_of(
            *layers, ml.Linear(widths[2], weight_shard_spec=specs[1])(input="a" if between else "h", output="y")
        )

    options = ({"input_shard_specs": {"x": come}} if come else {}) | (
        {"output_shard_specs": {"y": leave}} if leave else {}
    )
    spmd(xla, model, (2, 2, 2), {"x": random(rows, widths[0])}, **options)


@pytest.mark.parametrize(
    "spec, size, fix",
    [(((0, 1, 2), None), 6, "sizes"), (((0, 1), None), 5, "sizes"), (((1, 0), None), 8, "order")],
    ids=str,
)
def test_parts_that_the_partitioner_has_not(xla, spec, size, fix):
    """Nested uneven parts are others than XLA's; axes against their order make it compute wrong gradients of two
    layers."""
    model, backend = (
        one_block(ml.Linear(7, weight_shard_spec=spec), input="x", output="y"),
        xla(device_mesh=(2, 2, 2), mesh_context="spmd"),
    )
    with pytest.raises(
        MithrilValueError, match="partitioner"
    ) as caught:  # a spec alone at compile, sizes once they are known
        ml.compile(model, backend).get_parameters({"x": random(4, size)})
    assert fix in caught.value.fix and "mpmd" in caught.value.fix
    assert "linear_0" in str(caught.value) and "weight" in str(caught.value)


# ---------------------------------------------------------------- numbers at the edge
@pytest.mark.parametrize("algorithm", ["direct", "ring"])
def test_nan_goes_through_maxima_between_devices(xla, algorithm):
    x = random(5, 6)
    x[1, 2], x[2, 3], x[3, 4], x[:, 5] = np.nan, np.inf, -np.inf, -np.abs(x[:, 5])
    backend = xla(device_mesh=(3,), collective_ops={"all_reduce": algorithm})
    compiled = ml.compile(one_block(ml.Max(axis=0), input="x", output="y"), backend, input_shard_specs={"x": (0, None)})
    assert np.array_equal(np.asarray(compiled.evaluate({}, {"x": x})["y"]), x.max(0), equal_nan=True)


@pytest.mark.parametrize(
    "bad, told", [(9, "9"), (-1, "-1"), (2**32 + 3, "2147483647 or above"), (-(2**63), "-2147483647 or below")]
)
def test_ids_of_64_bits(xla, bad, told):
    compiled = ml.compile(
        one_block(ml.Embedding(9, 4, weight_shard_spec=(0, None)), input="i", output="y"), xla(device_mesh=(3,))
    )
    good = {"i": np.array([[8, 1]])}
    params = compiled.get_parameters(good)
    with pytest.raises(MithrilValueError, match=f"id {told} is outside"):
        compiled.evaluate(params, {"i": np.array([[bad, 1]])})
    close(compiled.evaluate(params, good)["y"], np.asarray(params["embedding_0.weight"])[good["i"]])


# ---------------------------------------------------------------- processes
def in_child(connection, compiled, params, x):
    said = []
    for work in (
        lambda: compiled.evaluate(params, {"x": x}),
        lambda: JaxBackend(device_mesh=(2,)),
        lambda: compiled.explain(),
    ):
        try:
            said.append(str(work()))
        except MithrilValueError as error:
            said.append(error.fix)
    said.append(float(np.asarray(params["linear_0.weight"]).sum()))
    connection.send(said)
    del compiled, params  # and nothing that the plugin's threads hold is freed


def test_forked_processes(xla):
    """XLA's threads stay with the parent: the child gets errors, not a hang, can read arrays, and ends in peace."""
    compiled, x = ml.compile(one_block(ml.Linear(4), input="x", output="y"), xla(device_mesh=(2,))), random(3, 5)
    params = compiled.get_parameters({"x": x})
    compiled.evaluate(params, {"x": x})
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=in_child, args=(theirs, compiled, params, x))
    child.start()
    assert ours.poll(HANGS), "the child hangs"
    *fixes, total = ours.recv()
    child.join(HANGS)
    assert (
        child.exitcode == 0
        and all("spawn" in f for f in fixes[:2])
        and total == float(np.asarray(params["linear_0.weight"]).sum())
    )
    compiled.evaluate(params, {"x": x})


def test_a_plugin_that_was_cut_short(xla, tmp_path):
    path = next(word for word in xla(device_mesh=(1,)).describe().split() if word.startswith("/") and ".so" in word)
    with open(path, "rb") as whole, open(tmp_path / "plugin.so", "wb") as part:
        part.write(whole.read(1 << 20))
    with pytest.raises(MithrilValueError, match="shorter"):
        xla(device_mesh=(1,), plugin=str(tmp_path / "plugin.so"))


def test_processes_share_a_cache(xla, tmp_path):
    code = (
        "import numpy as np, mithril as ml\nfrom mithril.backends import JaxBackend\nfor n in range(1, 4):\n"
        " m = ml.Model()\n m |= ml.Linear(n, weight_shard_spec=(0, None))(input='x', output='y')\n"
        f" c = ml.compile(m, JaxBackend(device_mesh=(2,), cache_dir={str(tmp_path)!r}))\n x = np.ones((2, 4), 'f')\n"
        " p = c.get_parameters({'x': x})\n"
        " expected = x @ np.asarray(p['linear_0.weight'])\n"
        " assert np.allclose(np.asarray(c.evaluate(p, {'x': x})['y']), expected, atol=1e-5)\n"
    )
    for _ in range(2):
        runs = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
        for run in runs:
            assert run.wait(HANGS) == 0, run.stderr.read().decode()
            run.stderr.close()
    assert len(list(tmp_path.glob("*.xla"))) == 3


def test_memory_is_flat(xla):
    pages = lambda: int(open("/proc/self/statm").read().split()[1])
    compiled = ml.compile(
        one_block(ml.Linear(64, weight_shard_spec=(0, None)), input="x", output="y"), xla(device_mesh=(4,))
    )
    x, slopes = random(256, 256), {"y": random(256, 64)}
    params = compiled.get_parameters({"x": x})
    for k in range(350):
        if k == 50:
            before = pages()
        compiled.evaluate({name: np.array(v) for name, v in params.items()}, {"x": x.copy()}, slopes, ["x"])
    assert (pages() - before) * 4096 < 24 << 20  # a leak of one input alone would be 75 MB


@pytest.mark.parametrize(
    "mesh, sizes, input_spec, weight_spec",
    [
        ((2, 2), (5, 4, 10, 6), (None, 0), None),
        ((2, 3), (7, 6, 8, 6), (1, None), (1, None)),
        ((3, 2), (10, 5, 10, 8), (1, None), (1, None)),
    ],
)
def test_the_partitioner_takes_the_gradient_of_any_output(xla, mesh, sizes, input_spec, weight_spec):
    """The output is made in parts that can't come in as they are: its gradient comes in as the output leaves."""
    rows, width, hidden, out = sizes
    model = ml.Model()
    model |= ml.Linear(hidden, bias=False, weight_shard_spec=weight_spec or (None, None))(input="x", output="h")
    model |= ml.Linear(out, bias=False, weight_shard_spec=(None, None))(input="h", output="y")
    compiled = ml.compile(model, xla(device_mesh=mesh, mesh_context="spmd"), input_shard_specs={"x": input_spec})
    x, dy = random(rows, width), random(rows, out, seed=1)
    params = compiled.get_parameters({"x": x})
    first, second = (f64(np.asarray(params[f"linear_{i}.weight"])) for i in range(2))
    y, g = compiled.evaluate(params, {"x": x}, {"y": dy}, input_gradients=["x"])
    close(y["y"], f64(x) @ first @ second)
    close(g["x"], f64(dy) @ second.T @ first.T)
    close(g["linear_0.weight"], f64(x).T @ (f64(dy) @ second.T))
    close(g["linear_1.weight"], (f64(x) @ first).T @ f64(dy))
