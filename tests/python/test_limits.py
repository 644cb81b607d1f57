"""docs/limits.md: each row of its table at the bound, which works, and one beyond, which is a clear error."""

import os
import pathlib
import re
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest

import mithril as ml
from error_cases_run import write_safetensors
from mithril.backends import CBackend, JaxBackend
from support import HANGS, one_block, random

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "limits.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \|", PAGE, re.M)
BACKEND = CBackend(device_mesh=(1,))
UNARY = {"input": "x", "output": "y"}
CASES = {}


def case(name):
    def add(function):
        CASES[name] = function
        return function

    return add


def plan(module, shape, backend=BACKEND, **options):
    return ml.compile(one_block(module, **UNARY), backend, shapes={"x": shape}, **options).program_text()


@case("dimensions")
def dimensions(beyond):
    shape = (1,) * (8 + beyond)
    if beyond:
        for make in (lambda: BACKEND.zeros(*shape), lambda: BACKEND.array(np.zeros(shape)), lambda: ml.Reshape(shape)):
            with pytest.raises((ValueError, TypeError), match="8"):
                make()
        for sizes in (range(2**40), *(np.broadcast_to(np.int8(0), s) for s in ((2**40,), (1, 2**40), (2**31, 2**30)))):
            with pytest.raises(ValueError, match="has more than 8 sizes; arrays have at most 8 dimensions"):
                BACKEND.zeros(sizes)
            with pytest.raises(ValueError, match="is not the backend's"):
                BACKEND.zeros(3, device_mesh=sizes)
    x = np.zeros(shape, np.float32)
    assert ml.compile(one_block(ml.Relu(), **UNARY), BACKEND).evaluate({}, {"x": x})["y"].shape == shape


@case("bytes")
def size(beyond):
    plan(ml.Relu(), (2**60 - 1 + beyond,))


@case("bytes of a device")
def bytes_of_a_device(beyond):
    """x and y0 to y2 of 2^61 bytes each, less four bytes here and there."""
    model = ml.Model()
    for i in range(3):
        model |= ml.Relu()(input="x", output=f"y{i}")
    compiled = ml.compile(model, BACKEND, shapes={"x": (2**59 - (not beyond),)})
    assert compiled.get_memory_usage()[0]["total"] == 4 * 4 * (2**59 - 1)


@case("microbatches")
def microbatches(beyond):
    plan(
        ml.Pipeline(stages=[one_block(ml.Relu(), input="input", output="output")], microbatch_size=1),
        (32768 + beyond, 1),
    )


@case("input size")
def input_size(beyond):
    plan(ml.Relu(), (0 if beyond else 1, 3))
    assert BACKEND.zeros(0, 3).shape == (0, 3)


@case("mesh axes")
def mesh_axes(beyond):
    CBackend(device_mesh=(1, 1, 2, 1) if beyond else (1, 1, 2))


@case("devices")
def devices(beyond):
    assert CBackend(device_mesh=(2**20 + beyond,)).device_count == 2**20


@case("cpu devices of XLA")
def devices_of_xla(beyond):
    assert JaxBackend(device_mesh=(1024 + beyond,)).device_count == 1024


@case("threads")
def threads(beyond):
    CBackend(device_mesh=(1,), threads=1024 + beyond)


@case("algorithm")
def algorithm(beyond):
    devices = 32767 + beyond
    for ops in ({}, {"collective_ops": {"all_reduce": "tree"}}):
        text = plan(ml.Linear(4, weight_shard_spec=(0, None)), (1, devices), CBackend(device_mesh=(devices,), **ops))
        assert "all_reduce" in text


@case("proved algorithm")
def proved_algorithm(beyond):
    devices = 1606 + beyond
    backend = CBackend(device_mesh=(devices,), collective_ops={"all_reduce": "ring", "all_gather": "tree"})
    rows, columns = ml.Linear(4, weight_shard_spec=(0, None)), ml.Linear(devices, weight_shard_spec=(None, 0))
    if not beyond:  # each of them is refused beyond the bound
        assert "all_gather tree" in plan(columns, (1, 1), backend)
    else:
        with pytest.raises(ml.MithrilError, match="all_gather tree over 1607 devices has more contributions"):
            plan(columns, (1, 1), backend)
    assert "all_reduce ring" in plan(rows, (1, devices), backend)


@case("steps")
def steps(beyond):
    devices = 1024 + beyond
    backend = CBackend(device_mesh=(devices,), collective_ops={"all_reduce": "ring"})
    compiled = ml.compile(one_block(ml.Linear(1, weight_shard_spec=(0, None)), **UNARY), backend)
    x = random(1, devices)
    params = compiled.get_parameters({"x": x})
    y = compiled.evaluate(params, {"x": x})["y"]
    assert np.allclose(y, x @ np.asarray(params["linear_0.weight"]), atol=1e-4)


@case("axes of a split")
def axes_of_a_split(beyond):
    backend = JaxBackend(device_mesh=(2, 2), mesh_context="spmd")
    for on, axes in ((CBackend(device_mesh=(2, 2)), (1, 0)), (backend, (1, 0) if beyond else (0, 1))):
        compiled = ml.compile(one_block(ml.Linear(8, weight_shard_spec=(None, axes)), **UNARY), on)
        x = random(4, 8)
        params = compiled.get_parameters({"x": x})
        want = x @ np.asarray(params["linear_0.weight"])
        assert np.allclose(compiled.evaluate(params, {"x": x})["y"], want, atol=1e-5)


@case("concat")
def concat(beyond):
    assert ml.compile(one_block(ml.Concat(axis=0), inputs=["a", "b"], output="y"), BACKEND)
    if beyond:
        with pytest.raises(ValueError, match="takes 2 or more inputs"):
            ml.compile(one_block(ml.Concat(axis=0), inputs=["a"], output="y"), BACKEND)
    names = [f"x{i}" for i in range(64 + beyond)]
    model = one_block(ml.Concat(axis=0), inputs=names, output="y")
    y = ml.compile(model, BACKEND).evaluate({}, {name: np.full((1, 2), i, np.float32) for i, name in enumerate(names)})[
        "y"
    ]
    assert np.array_equal(np.asarray(y)[:, 0], np.arange(64))


@case("split")
def split(beyond):
    parts = 1024 + beyond
    outputs = {f"output{i}": f"y{i}" for i in range(parts)}
    model = ml.Model()
    model |= ml.Split(parts)(input="x", **outputs)
    y = ml.compile(model, BACKEND).evaluate({}, {"x": np.arange(1024, dtype=np.float32)})
    assert [float(np.asarray(y[f"y{i}"])[0]) for i in range(1024)] == list(range(1024))


@case("experts")
def experts(beyond):
    ml.MoE(2**31 - 1 + beyond, 4)


@case("tokens")
def tokens(beyond):
    plan(ml.MoE(2, 4), (2**31 - 1 + beyond, 4))


@case("seed")
def seed(beyond):
    compiled = ml.compile(one_block(ml.Linear(3), **UNARY), BACKEND)
    draws = [
        lambda s: compiled.get_parameters({"x": random(2, 3)}, seed=s)["linear_0.weight"],
        lambda s: BACKEND.randn(9, seed=s),
        lambda s: BACKEND.randint(0, 2**31, (9,), seed=s),
    ]
    for draw in draws:
        if beyond:
            for value in (-1, 2**64 + 1, -(2**64), 10**5000):
                with pytest.raises(ValueError, match="seed"):
                    draw(value)
        assert len({np.asarray(draw(value)).tobytes() for value in (0, 1, 2**32, 2**63, 2**64 - 1)}) == 5
        draw(2**64 - 1 + beyond)


@case("dropout seed")
def dropout_seed(beyond):
    ml.Dropout(0.5, seed=-(2**63))
    ml.Dropout(0.5, seed=2**63 - 1 + beyond)


@case("randint")
def randint(beyond):
    values = np.asarray(BACKEND.randint(-(2**31), 2**31 + beyond, (1000,), seed=0))
    assert values.dtype == np.int32 and values.min() < -(2**30) and values.max() > 2**30


@case("models in models")
def models_in_models(beyond):
    model = one_block(ml.Relu(), **UNARY)
    for _ in range(255 + beyond):
        outer = ml.Model()
        outer |= model(x="x", y="y")
        model = outer
    x = random(2, 3)
    assert np.array_equal(ml.compile(model, BACKEND).evaluate({}, {"x": x})["y"], np.maximum(x, 0))


def nested(model, levels):
    for _ in range(levels):
        outer = ml.Model()
        outer |= model(input="input", output="output")
        model = outer
    return model


@case("thread stack")
def thread_stack(beyond):
    """Compiles, runs, prints and proves in a thread that has no more, and beyond, in one that has. The product (700,
    600) x (600, 33) is one of
    those whose blocks lie on the stack."""
    done = []

    def work():
        stage = one_block(ml.Relu(), input="input", output="output")
        block = ml.Model()
        block |= ml.MultiHeadAttention(2, causal=True, name="a")(input="input", output="h")
        block |= ml.FeedForward(64, name="f")(input="h", output="output")
        experts = one_block(ml.MoE(4, 16, top_k=2, name="m"), input="input", output="output")
        pipeline = ml.Pipeline([block, nested(experts, 3)], microbatch_size=1, name="p")
        for model, shape in (
            (one_block(pipeline, **UNARY), (2, 70, 32)),
            (one_block(nested(stage, 254), **UNARY), (2, 3)),
            (one_block(ml.Linear(33), **UNARY), (700, 600)),
        ):
            compiled = ml.compile(model, CBackend(device_mesh=(2,)))
            x = random(*shape)
            params = compiled.randomize_params({"x": x}, seed=1)
            y = compiled.evaluate(params, {"x": x})["y"]
            compiled.evaluate(params, {"x": x}, {"y": np.ones(y.shape, np.float32)}, ["x"])
            ml.verify_plan(compiled.program_text())
            done.append((repr(model), repr(compiled)))
        with pytest.raises(ml.MithrilError):
            ml.compile(one_block(pipeline, **UNARY), BACKEND, input_shard_specs={"x": (3,)})
        done.append(None)

    before = threading.stack_size(256 << 10 + beyond)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert len(done) == 4


@case("option lists")
def option_lists(beyond):
    value = 0
    for _ in range(16 + beyond):
        value = [value]
    with pytest.raises(TypeError, match="is not a text"):  # read as deep as it is
        ml.Linear(3, name=value)


@case("option items")
def option_items(beyond):
    """Shared items count each time: they are written out. Lists of lists, ranges, dicts and arrays are counted
    alike."""
    shared = [[1] * 1024] * 1023 + [range(beyond)]
    values = [
        shared,
        [0] * (2**20 + beyond),
        [np.zeros(2**20 - 1 + beyond, np.int8)],
        {"a": [0] * (2**20 - 1 + beyond)},
    ]
    deep = [0] * 10
    for _ in range(13):
        deep = [deep] * 10
    if beyond:
        values += [deep, {"a": deep}, [{"a": deep}] * 3, range(2**70)]
        shapes = [(2**40,), (2**40, 0), (1, 2**40, 0), (2**31, 2**30), (2**20, 1)]
        values += [np.broadcast_to(np.int8(0), shape) for shape in shapes]
        values += [[*range(2**19), np.broadcast_to(np.int8(0), (2**19,))]]
        compiled, x = ml.compile(one_block(ml.Relu(), **UNARY), BACKEND), np.zeros(2, np.float32)
        for names in (range(2**40), np.broadcast_to("x", (2**40,))):
            with pytest.raises(ValueError, match="input_gradients has more than 1048576 items"):
                compiled.evaluate({}, {"x": x}, {"y": x}, names)
    for value in values:
        with pytest.raises(
            ValueError if beyond else TypeError, match="1048576 items" if beyond else "is not a text"
        ) as caught:
            ml.Linear(3, name=value)
    if beyond:
        raise caught.value


@case("plans")
def plans(beyond):
    """Beyond: what was forgotten is made again, with the same values and the parameters' layout of the first."""
    compiled = ml.compile(one_block(ml.Linear(2), **UNARY), BACKEND)
    params = compiled.get_parameters({"x": random(1, 3)})
    for rows in [*range(1, 65 + 40 * beyond), 1, 2]:
        x = random(rows, 3)
        assert np.allclose(
            compiled.evaluate(params, {"x": x})["y"], x @ np.asarray(params["linear_0.weight"]), atol=1e-5
        )


@case("safetensors header")
def safetensors_header(beyond, path):
    compiled = ml.compile(one_block(ml.Linear(1, bias=False), **UNARY), BACKEND)
    size = 100_000_000 + beyond
    header = b'{"w":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}'
    path.write_bytes(struct.pack("<Q", size) + header.ljust(size) + struct.pack("<f", 5))
    try:
        assert (
            ml.read_safetensors(compiled, {"x": random(1, 1)}, path, {"linear_0.weight": "w"})["linear_0.weight"].item()
            == 5
        )
    finally:
        path.unlink()


@case("machine file")
def machine_file(beyond, path):
    figures = (pathlib.Path(__file__).resolve().parents[2] / "machines" / "nominal.txt").read_bytes()
    path.write_bytes(figures + b"\n" * (65536 + beyond - len(figures)))
    assert CBackend(device_mesh=(1,), machine=str(path)).device_count == 1


@case("flags of XLA")
def flags_of_xla(beyond):
    """A process of its own: a plugin reads them once."""
    flag = "--xla_force_host_platform_device_count=4"
    code = (
        "from mithril.backends import JaxBackend\ntry: JaxBackend(device_mesh=(1,))\nexcept ValueError as e: print(e)"
    )
    flags = {**os.environ, "XLA_FLAGS": flag.ljust(16382 + beyond)}
    run = subprocess.run([sys.executable, "-c", code], env=flags, capture_output=True, text=True, timeout=HANGS)
    assert run.returncode == 0, run.stderr
    if run.stdout:
        assert "more than 16382 bytes of flags" in run.stdout
        raise ml.errors.MithrilValueError(run.stdout, run.stdout, run.stdout.split("fix: ")[1].strip())


@case("placements of a text")
def placements_of_a_text(beyond):
    text = plan(ml.Relu(), (2, 3), CBackend(device_mesh=(2**20,)))
    more = "".join(f"placement p{i} devices 0,1\n" for i in range(1, 17 + beyond))
    ml.verify_plan(text.replace("placement p0 whole\n", "placement p0 whole\n" + more))


@case("labels")
def labels(beyond):
    names = [f"x{i}" for i in range(5 + beyond)]
    model = one_block(ml.Concat(axis=0), inputs=names, output="y")
    shapes = {name: np.zeros((1, 2 if i else 3), np.float32) for i, name in enumerate(names)}
    with pytest.raises(ValueError) as caught:
        ml.compile(model, BACKEND).evaluate({}, shapes)
    assert len(caught.value.tensors) == 5 and caught.value.tensors[-1] == (
        "and 2 more" if beyond else "x4: float32 (1, 2)"
    )


def test_each_row_has_a_case():
    assert len(ROWS) == len(set(ROWS)) and set(ROWS) == set(CASES)


@pytest.mark.parametrize("beyond", [False, True], ids=["at", "beyond"])
@pytest.mark.parametrize("name", ROWS)
def test_limit(name, beyond, tmp_path, request):
    if "XLA" in name or name == "axes of a split":
        request.getfixturevalue("xla")
    arguments = (beyond, tmp_path / "file") if name in ("safetensors header", "machine file") else (beyond,)
    # what is kept, what is shown, and what must be there: beyond them nothing fails
    if not beyond or name in ("plans", "labels", "thread stack"):
        CASES[name](*arguments)
        return
    with pytest.raises(ml.MithrilError) as caught:
        CASES[name](*arguments)
    assert caught.value.what and caught.value.fix and caught.value.fix in str(caught.value)


def test_what_has_no_limit(tmp_path):
    """What the page says to be bounded by memory alone."""
    name = "n" * 10_000
    long = ml.compile(one_block(ml.Linear(2, name=name), input=name, output="y"), BACKEND)
    assert list(long.get_parameters({name: random(1, 2)})) == [f"{name}.weight", f"{name}.bias"]
    wide = BACKEND.array(np.full((1, 2), 1e39), "float64")
    path = tmp_path / "long.safetensors"
    write_safetensors(path, {name: np.full((2, 2), 1e39), "b": np.ones(2)})
    sources = {f"{name}.weight": name, f"{name}.bias": "b"}
    for refused in (
        lambda: long.evaluate(long.get_parameters({name: random(1, 2)}), {name: wide}),
        lambda: ml.read_safetensors(long, {name: random(1, 2)}, path, sources),
    ):  # nor is one cut where an error names it
        with pytest.raises(ml.MithrilError) as caught:
            refused()
        assert name in caught.value.what
    names = [f"x{i}" for i in range(300)]
    total = ml.compile(one_block(ml.Add(), inputs=names, output="y"), BACKEND).evaluate(
        {}, {n: np.ones(2, np.float32) for n in names}
    )["y"]
    assert np.array_equal(total, [300, 300])
    parts = ml.compile(one_block(ml.Split(300, axis=0), input="x"), BACKEND).evaluate({}, {"x": random(300, 2)})
    assert len(parts) == 300
    stage = one_block(ml.Linear(2), input="input", output="output")
    for stages, batch, size in ((2, 500, 1), (200, 4, 2), (2, 3, 100)):
        model = one_block(
            ml.Pipeline(stages=[stage] * stages, device_assignment=[0, 1] * (stages // 2), microbatch_size=size),
            **UNARY,
        )
        compiled = ml.compile(model, CBackend(device_mesh=(2,)))
        x = random(batch, 2)
        assert compiled.evaluate(compiled.get_parameters({"x": x}), {"x": x})["y"].shape == (batch, 2)


def test_long_names_in_refusals_of_the_partitioner(xla):
    name = "n" * 10_000
    model = one_block(ml.Linear(2), input=name, output="y")
    with pytest.raises(ml.MithrilError) as caught:
        ml.compile(
            model,
            xla(device_mesh=(2, 2), mesh_context="spmd"),
            input_shard_specs={name: ((1, 0), None)},
        )
    assert name in caught.value.what
