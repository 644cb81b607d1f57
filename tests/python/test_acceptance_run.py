"""What is given to evaluate and what comes back: arrays of any kind, gradients on request; plans as text, dumps,
memory, threads and Ctrl-C."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import mithril as ml
from acceptance_support import linear, model_of, on, shifted
from support import HANGS, engines_of_arrays, every_engine, close, f64, random


def mlp(mesh, **options):
    model = ml.Model()
    model |= ml.Linear(64, weight_shard_spec=(None, 0))(input="x", output="h")
    model += ml.Relu()
    model += ml.Linear(24, weight_shard_spec=(0, None))(output="y")
    return ml.compile(model, on(*mesh, **options))


# ---------------------------------------------------------------- arrays
def forms(x, backend):
    """One matrix in every form that is an array."""
    frozen, shifted_bytes = x.copy(), np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:]
    frozen.setflags(write=False)
    yield from [
        ("float32", x),
        ("float64", f64(x)),
        ("float16", x.astype(np.float16)),
        ("Fortran", np.asfortranarray(x)),
        ("every second column", np.repeat(x, 2, 1)[:, ::2]),
        ("backwards", x[::-1].copy()[::-1]),
        ("read-only", frozen),
        ("unaligned", shifted_bytes.view(np.float32).reshape(x.shape)),
        ("memoryview", memoryview(x)),
        ("backend", backend.array(x)),
        ("from a list", backend.array(x.tolist())),
        ("sharded", backend.array(x, spec=(None, 0))),
        ("another backend", on(2).array(x)),
        ("float64 of the backend", backend.array(x, dtype="float64")),
    ]
    try:
        import torch
    except ImportError:
        return
    yield from [
        ("torch", torch.tensor(x)),
        ("torch transposed", torch.tensor(x.T.copy()).t()),
        ("torch float64", torch.tensor(x).double()),
        ("torch bfloat16", torch.tensor(x).bfloat16()),
    ]


@every_engine
def test_every_kind_of_array():
    """As an input, as a parameter and as the gradient of an output, mixed."""
    compiled = ml.compile(model_of(ml.Linear(5, weight_shard_spec=(0, None))(input="x", output="y")), on(3))
    x, seed = random(4, 6), random(4, 5, seed=1)
    params = shifted(compiled.get_parameters({"x": x}))
    weights = dict(forms(params["linear_0.weight"], compiled.backend))
    seeds = dict(forms(seed, compiled.backend))
    want, slope = linear(params, "linear_0", f64(x)), f64(seed) @ f64(params["linear_0.weight"]).T
    for name, given in forms(x, compiled.backend):
        rough = 2e-2 if name in ("float16", "torch bfloat16") else 2e-5
        mixed = {"linear_0.bias": f64(params["linear_0.bias"]), "linear_0.weight": weights[name]}
        values, gradients = compiled.evaluate(mixed, {"x": given}, {"y": seeds[name]}, ["x"])
        close(values["y"], want, rough)
        close(gradients["x"], slope, rough)


@every_engine
def test_scalars():
    compiled = ml.compile(
        model_of(ml.Multiply()(inputs=["x", "s"], output="m"), ml.Sum()(input="m", output="y")), on(2)
    )
    for scalar in (np.float32(2), np.array(2.0, np.float32), np.float64(2), compiled.backend.array(np.float32(2))):
        values, gradients = compiled.evaluate({}, {"x": random(3, 4), "s": scalar}, {"y": np.float64(1)}, ["x", "s"])
        assert values["y"].shape == () and abs(float(values["y"]) - 2 * random(3, 4).sum(dtype=np.float64)) < 1e-4
        close(gradients["x"], np.full((3, 4), 2.0))
        close(gradients["s"], random(3, 4).sum(dtype=np.float64))


@engines_of_arrays
def test_arrays_out():
    backend, x = on(2, 2), random(4, 6)
    for dtype in ("float32", "float64", "int32", "int64", "bool"):
        z = (np.arange(12).reshape(3, 4) % 3).astype(dtype)
        array = backend.array(z, dtype=dtype)
        assert (
            np.dtype(array.dtype) == z.dtype
            and np.array_equal(np.asarray(array), z)
            and np.array_equal(np.from_dlpack(array), z)
        )
    whole, split = backend.array(x), backend.array(x, spec=(0, 1))
    view = memoryview(whole)
    assert view.shape == (4, 6) and view.format == "f" and view.readonly
    assert np.array_equal(np.asarray(memoryview(split)), x) and np.array_equal(
        np.asarray(split, dtype=np.float64), f64(x)
    )
    assert whole.tolist() == x.tolist() and split.shape == (4, 6) and len(split) == 4
    kept = np.asarray(backend.array(x))
    assert np.array_equal(kept, x)  # outlives its array


@every_engine
def test_wrong_kinds_of_arrays():
    compiled = ml.compile(model_of(ml.Linear(5)(input="x", output="y")), on(3))
    params = compiled.get_parameters({"x": random(4, 6)})
    for wrong in (
        np.ones((4, 6), np.int32),
        np.ones((4, 6), bool),
        np.ones((4, 6), np.complex64),
        np.array([["a"] * 6] * 4),
        object(),
        None,
        "x",
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            compiled.evaluate(params, {"x": wrong})
        assert isinstance(caught.value, ml.MithrilError) and caught.value.fix
    ids = ml.compile(model_of(ml.Embedding(5, 3, weight_shard_spec=(0, None))(input="x", output="y")), on(3))
    table = ids.get_parameters({"x": np.array([[1, 2]])})
    for good in (np.array([[1, 2]], t) for t in (np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64)):
        assert np.array_equal(
            np.asarray(ids.evaluate(table, {"x": good})["y"])[0], np.asarray(table["embedding_0.weight"])[1:3]
        )
    for wrong in (
        np.array([[1.0, 2.0]]),
        np.array([[1, 5]]),
        np.array([[-1, 0]]),
        np.array([[2**40, 0]]),
        np.array([[True, False]]),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            ids.evaluate(table, {"x": wrong})
        assert caught.value.op == "embedding_0" and caught.value.tensors
        ids.evaluate(table, {"x": np.array([[4, 0]])})


# ---------------------------------------------------------------- gradients on request
@every_engine
def test_requests_for_gradients():
    compiled = ml.compile(model_of(ml.Linear(5)(input="x", output="y"), ml.Linear(3)(input="x", output="z")), on(2))
    x, seed = {"x": random(4, 6)}, np.ones((4, 5))
    params = compiled.get_parameters(x)
    _, gradients = compiled.evaluate(params, x, output_gradients={"y": seed})
    assert list(gradients) == list(params)
    assert not np.asarray(gradients["linear_1.weight"]).any() and np.asarray(gradients["linear_0.weight"]).any()
    for wrong, error in [
        ({"w": seed}, KeyError),
        ({"y": np.ones((4, 6))}, ValueError),
        ({"y": np.ones((1, 4, 5))}, ValueError),
        ({"y": np.ones((4, 5), int)}, TypeError),
        ({"y": "a"}, TypeError),
    ]:
        with pytest.raises(error) as caught:
            compiled.evaluate(params, x, wrong)
        assert caught.value.fix
    for wrong, error in [
        (["q"], KeyError),
        (["linear_0.weight"], KeyError),
        (["y"], KeyError),
        ("x", TypeError),
        ([1], TypeError),
    ]:
        with pytest.raises(error):
            compiled.evaluate(params, x, {"y": seed}, wrong)
    with pytest.raises(TypeError):
        compiled.evaluate(params, x, None, ["x"])


# ---------------------------------------------------------------- plans
def test_plans_as_text():
    compiled = mlp((2,))
    with pytest.raises(ValueError) as caught:
        compiled.program_text()
    assert "give inputs" in caught.value.fix
    compiled.get_parameters({"x": random(3, 16)})
    assert "f32[3,16]" in compiled.program_text()
    forward, both = (
        compiled.program_text({"x": random(5, 16)}),
        compiled.program_text({"x": random(5, 16)}, gradients=True),
    )
    for text in (forward, both):
        ml.verify_plan(text)
        assert ml.reprint_plan(text) == text
    assert "gradient linear_0.weight" in both and "gradient" not in forward
    for spoilt in (
        forward.replace("contract", "contrcat"),
        forward.replace("all_reduce", "all_gather"),
        "",
        forward[: len(forward) // 2],
        forward + "\nmore",
        "\n".join(line for line in both.splitlines() if " = all_reduce" not in line),
    ):
        with pytest.raises(ValueError) as caught:
            ml.verify_plan(spoilt)
        assert caught.value.fix


def test_large_plans():
    """2^31 and more elements: planned, with bytes that don't wrap; sizes beyond all memory are refused."""
    compiled = ml.compile(model_of(ml.Linear(2**31 + 3, weight_shard_spec=(None, 0))(input="x", output="y")), on(4))
    ml.verify_plan(compiled.program_text({"x": random(1, 1)}, gradients=True))
    usage = compiled.get_memory_usage(None, {"x": random(1, 1)})
    assert sum(u["weights"] for u in usage) == 2 * 4 * (2**31 + 3) == sum(u["gradients"] for u in usage)
    table = ml.compile(model_of(ml.Embedding(2**33, 4, tensor_axis=0)(input="x", output="y")), on(4))
    assert "f32[2147483648,4]" in table.program_text({"x": np.array([1])})
    for size in (2**62, 2**63 - 1):
        wide = ml.compile(model_of(ml.Linear(size)(input="x", output="y")), on(1))
        with pytest.raises(ValueError) as caught:
            wide.get_parameters({"x": random(7, 9)})
        assert caught.value.op == "linear_0" and str(size) in str(caught.value)
    with pytest.raises(MemoryError) as caught:
        ml.compile(model_of(ml.Linear(2**45)(input="x", output="y")), on(1)).get_parameters({"x": random(7, 9)})
    assert caught.value.fix


def test_memory_by_kind():
    compiled, x = mlp((4,)), {"x": random(8, 16)}
    params = compiled.get_parameters(x)
    forward = compiled.get_memory_usage(params, x)
    compiled.evaluate(params, x, {"y": np.ones((8, 24), np.float32)})
    both = compiled.get_memory_usage(params, x)
    weights = 4 * (16 * 16 + 16 + 16 * 24 + 24)  # a quarter of the split ones, the whole last bias
    for usage in (*forward, *both):
        assert list(usage) == ["weights", "gradients", "optimizer", "activations", "communication", "host", "total"]
        assert (
            usage["total"] == sum(v for k, v in usage.items() if k not in ("host", "total"))
            and usage["weights"] == weights
        )
    assert [u["gradients"] for u in forward] == [0] * 4 and [u["gradients"] for u in both] == [weights] * 4


PROGRAM = """
import mithril as ml, numpy as np
model = ml.Model()
for k in range({layers}):
    wires = {{"input": "x"}} if k == 0 else {{"output": "y"}} if k == {layers} - 1 else {{}}
    model += ml.Linear({width}, weight_shard_spec=(0, None))(**wires)
compiled = ml.compile(model, ml.backends.CBackend(device_mesh=(2,)))
x = {{"x": np.ones(({batch}, {width}), np.float32)}}
params = compiled.get_parameters(x)
"""


def test_dumps(tmp_path):
    """The graph after every pass, then the program; a folder that can't be made is an error."""
    code = PROGRAM.format(layers=2, width=6, batch=3) + "compiled.evaluate(params, x, {'y': np.ones((3, 6))})"
    run = lambda folder: subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MITHRIL_DUMP": str(folder)}, capture_output=True, text=True
    )
    assert run(tmp_path / "plans").returncode == 0
    names = sorted(p.name for p in (tmp_path / "plans").iterdir())
    assert [n[:2] for n in names] == [f"{i:02d}" for i in range(1, len(names) + 1)] and len(names) >= 10
    texts = {n[3:-4]: (tmp_path / "plans" / n).read_text() for n in names}
    assert "all_reduce" in texts["reshard"] and "all_reduce" not in texts["shard"] and all(texts.values())
    ml.verify_plan(texts["verify"])
    failed = run(tmp_path / "none" / "plans")
    assert failed.returncode and "MITHRIL_DUMP" in failed.stderr and "fix:" in failed.stderr


# ---------------------------------------------------------------- running
def computed_by(process):
    """Seconds of the processor, in user and in system mode."""
    user, system = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_ctrl_c_stops_a_run():
    """In the middle of a long evaluate: KeyboardInterrupt soon, and all can be used again. When and how soon is
    measured by what the process computes."""
    code = (
        PROGRAM.format(layers=40, width=512, batch=8192)
        + """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell is born deaf to it
compiled.program_text(x)
print("go", flush=True)
began, last = time.process_time(), "done"
try:
    compiled.evaluate(params, x)
except KeyboardInterrupt:
    last = "stopped"
middle = time.process_time()
compiled.evaluate(params, x)
print(last, middle - began < 0.6 * (time.process_time() - middle))
print(np.isfinite(np.asarray(compiled.evaluate(params, {"x": x["x"][:2]})["y"])).all())
"""
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "go\n"
    begun = computed_by(process)
    while computed_by(process) < begun + 0.2:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=HANGS)
    assert out.split() == ["stopped", "True", "True"], out + err


def test_threads():
    """One compiled model, plans for new shapes, gradients and texts, from several threads at once."""
    compiled, x = mlp((3,)), random(8, 16)
    params = compiled.get_parameters({"x": x})
    want, wrong = np.asarray(compiled.evaluate(params, {"x": x})["y"]), []

    def work(k):
        try:
            for b in range(1, 10):
                rows = 1 + (b + k) % 8
                close(compiled.evaluate(params, {"x": x[:rows]})["y"], want[:rows], 1e-5)
                compiled.evaluate(params, {"x": x[:rows]}, {"y": np.ones((rows, 24), np.float32)})
                ml.verify_plan(compiled.program_text())
                compiled.get_memory_usage(params, {"x": x[:rows]})
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads):
    compiled, x = mlp((3,), threads=threads), random(8, 16)
    params = compiled.get_parameters({"x": x})
    h = np.maximum(linear(params, "linear_0", f64(x)), 0)
    close(compiled.evaluate(params, {"x": x})["y"], linear(params, "linear_1", h))
