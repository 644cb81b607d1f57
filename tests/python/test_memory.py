"""Memory that is taken is memory that get_memory_usage said: the growth of a process beside its report."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mithril as ml
from support import HANGS, one_block

# A model of `layers` pairs of matrices (n, m), (m, n); prints bytes of weights, said and taken, then of all, said and
# taken.
GROWTH = """
import os, sys, time, numpy as np, mithril as ml
from mithril.backends import CBackend, JaxBackend

name, mesh, spec, n, m, layers = sys.argv[1], *map(eval, sys.argv[2:])

def resident():
    # once XLA's threads have freed what they still held of the last run: all sleep, and nothing changes any more
    read = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
    state = lambda thread: open(f"/proc/self/task/{thread}/stat").read().rsplit(")", 1)[1].split()[0]
    others = lambda: [thread for thread in os.listdir("/proc/self/task") if int(thread) != os.getpid()]
    last, steady = read(), 0
    while steady < 10:
        time.sleep(0.02)
        now = read()
        steady = steady + 1 if now == last and all(state(thread) == "S" for thread in others()) else 0
        last = now
    return last

def compile(backend, layers, inputs):
    model = ml.Model()
    for i in range(layers):
        model += ml.Linear(m, bias=False, weight_shard_spec=spec)(**({"input": "x"} if i == 0 else {}))
        model += ml.Linear(n, bias=False, weight_shard_spec=spec)(**({"output": "y"} if i == layers - 1 else {}))
    return ml.compile(model, backend)

inputs, slopes = {"x": np.ones((8, n), "f")}, {"y": np.ones((8, n), "f")}

def measure(layers):
    compiled = compile({"native": CBackend, "xla": JaxBackend}[name](device_mesh=mesh), layers, inputs)
    compiled.program_text(inputs, True)
    if name == "xla":  # compiles, and frees what it ran on
        compiled.evaluate(compiled.get_parameters(inputs), inputs, slopes)
    before = resident()
    params = compiled.get_parameters(inputs)
    made = resident()
    results = compiled.evaluate(params, inputs, slopes)
    after, usage = resident(), compiled.get_memory_usage(None, inputs)
    weights, total = (sum(device[kind] for device in usage) for kind in ("weights", "total"))
    print(weights, made - before, total, after - before)

measure(1)  # makes threads, buffers of OpenBLAS, XLA's own
measure(layers)
"""
# Small allocations are given back to the system too, so that what is freed does not hide what is taken.
FRANK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def growth(*arguments):
    run = subprocess.run(
        [sys.executable, "-c", GROWTH, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=HANGS,
        env={**os.environ, **FRANK},
    )
    assert run.returncode == 0, run.stderr
    return map(int, run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("n, m", [(129, 130), (300, 500), (512, 1318), (576, 1536), (640, 1600), (1024, 1100)])
def test_native_memory(n, m):
    """Matrices of 0.07 to 4.5 MB, of sizes that divide no page: within 2% and half a megabyte."""
    weights, made, total, taken = growth("native", (1,), None, n, m, 12)
    assert weights == 12 * 2 * n * m * 4
    assert abs(made - weights) < 0.02 * weights + 5e5
    assert abs(taken - total) < 0.02 * total + 5e5


@pytest.mark.parametrize("mesh, spec, n, m", [((3,), (0, None), 1000, 1100), ((3,), (None, 0), 1000, 1103)])
def test_xla_memory(xla, mesh, spec, n, m):
    """Uneven parts are held once, as they are padded; activations are XLA's own."""
    weights, made, total, taken = growth("xla", mesh, spec, n, m, 4)
    assert abs(made - weights) < 0.02 * weights + 5e5
    assert abs(taken - total) < 0.03 * total + 1e6


def told(compiled, inputs):
    """XLA's own figures of the modules: bytes of (arguments, results, temporaries)."""
    return [
        [int(line.split(f"{what} ")[1].split(",")[0]) for what in ("arguments", "results", "temporaries")]
        for line in compiled.explain(inputs).splitlines()
        if "bytes of a device" in line
    ]


def test_xla_says_its_temporaries(xla):
    """Attention's scores are XLA's own temporaries, which no plan knows: in the report before the first run, and the
    same after it."""
    x = np.ones((1, 256, 64), np.float32)
    compiled = ml.compile(one_block(ml.MultiHeadAttention(4), input="x", output="y"), xla(device_mesh=(1,)))
    before = compiled.get_memory_usage(inputs={"x": x})
    compiled.evaluate(compiled.get_parameters({"x": x}), {"x": x})
    [(arguments, results, temporaries)] = told(compiled, {"x": x})
    [usage] = compiled.get_memory_usage(inputs={"x": x})
    assert [usage] == before and temporaries > 2 * 4 * 256 * 256 * 4
    assert usage["total"] == arguments + results + temporaries and usage["activations"] == 2 * x.nbytes + temporaries


def test_xla_says_what_modules_leave(xla):
    """Of a pipeline, at most the sum of its modules and what all microbatches keep for backward; sums that become
    gradients are held once."""
    x, width = np.ones((32, 256), np.float32), 256
    stages = [one_block(ml.Linear(width, name=name), input="input", output="output") for name in "ab"]
    model = one_block(ml.Pipeline(stages, microbatch_size=8, name="p"), input="x", output="y")
    compiled = ml.compile(model, xla(device_mesh=(2,)))
    compiled.evaluate(compiled.get_parameters({"x": x}), {"x": x}, {"y": x})
    for usage in compiled.get_memory_usage(inputs={"x": x}):
        assert usage["weights"] == usage["gradients"] == 4 * (width * width + width)
        assert x.nbytes <= usage["activations"] < 4 * x.nbytes + usage["weights"]


PEAK = """
import numpy as np, mithril as ml
from mithril.backends import CBackend

def kilobytes(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))

model = ml.Model()
for i in range(4):
    model += ml.Linear(5632, bias=False, weight_shard_spec=(None, 0))(**({"input": "x"} if i == 0 else {}))
    model += ml.Linear(5632, bias=False, weight_shard_spec=(0, None))(**({"output": "y"} if i == 3 else {}))
compiled = ml.compile(model, CBackend(device_mesh=(4,)), shapes={"x": (256, 5632)})
x = np.ones((256, 5632), np.float32)
compiled.program_text()
before = kilobytes("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak begins again here
params = compiled.get_parameters()
y = compiled.evaluate(params, {"x": x})
usage = compiled.get_memory_usage(params, {"x": x})
print(sum(device["total"] for device in usage), (kilobytes("VmHWM") - before) * 1024)
"""


def test_the_peak_is_the_report():
    """A model of 1 GB over 4 devices: the process takes what all devices are said to take, within 5%."""
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, timeout=HANGS)
    assert run.returncode == 0, run.stderr
    said, taken = map(int, run.stdout.split())
    assert said > 1e9 and abs(taken - said) < 0.05 * said


def test_uneven_parts_are_said(xla):
    """4 rows over 3 devices are 2, 2 and none, and on XLA each takes 2."""
    from mithril.backends import CBackend

    x = np.ones((2, 4), np.float32)
    said = []
    for backend in (CBackend(device_mesh=(3,)), xla(device_mesh=(3,))):
        compiled = ml.compile(
            one_block(ml.Linear(100, weight_shard_spec=(0, None), bias=False), input="x", output="y"), backend
        )
        params = compiled.get_parameters({"x": x})
        y, gradients = compiled.evaluate(params, {"x": x}, {"y": np.ones((2, 100), np.float32)})
        said.append([(u["weights"], u["gradients"]) for u in compiled.get_memory_usage(params, {"x": x})])
        assert np.allclose(np.asarray(y["y"]), x @ np.asarray(params["linear_0.weight"]), atol=1e-5)
        assert np.array_equal(np.asarray(gradients["linear_0.weight"]), np.full((4, 100), 2, np.float32))
        assert np.allclose(np.asarray(compiled.evaluate(params, {"x": x})["y"]), np.asarray(y["y"]))
    assert said == [[(800, 800), (800, 800), (0, 0)], [(800, 800)] * 3]


# One operator on each of many devices: prints how much memory a call takes at its peak, and whether it is right.
MANY = """
import numpy as np, mithril as ml
from mithril.backends import CBackend

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

count, model = 2048, ml.Model()
for i in range(count):
    model |= ml.Relu(device_id=i)(input=f"x{i}", output=f"y{i}")
backend = CBackend(device_mesh=(count,))
compiled = ml.compile(model, backend)
inputs = {f"x{i}": backend.array(np.full((1, 1), i, "f")) for i in range(count)}
compiled.evaluate({}, inputs)
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = peak()
results = compiled.evaluate({}, inputs)
print(peak() - before, all(np.asarray(results[f"y{i}"]) == i for i in range(count)))
"""


def test_a_call_takes_memory_by_what_devices_hold():
    """Lists with a place for each entry and device would take 67 MB."""
    run = subprocess.run(
        [sys.executable, "-c", MANY], env=os.environ | FRANK, capture_output=True, text=True, timeout=HANGS
    )
    assert run.returncode == 0, run.stderr
    grown, right = run.stdout.split()
    assert int(grown) < 16 * 2**20 and right == "True"


# Prints bytes said and taken of one device, by torch's own allocator, at the most of a run.
TAKEN = """
import ctypes, gc, sys, numpy as np, mithril as ml
from mithril.backends import TorchBackend

count = ctypes.CDLL(sys.argv[1])
count.count_live.restype = count.count_peak.restype = ctypes.c_long
backend = TorchBackend(device_mesh=(1,))
x = np.random.default_rng(0).standard_normal((4, 512, 256), "f")
before = count.count_live()
model = ml.Model()
model |= eval(sys.argv[2])(input="x", output="y")
compiled = ml.compile(model, backend)
inputs = {"x": backend.array(x)}
params = compiled.get_parameters(inputs)
run = [params, inputs] + ([{"y": backend.array(np.ones_like(x))}, ["x"]] if eval(sys.argv[3]) else [])
compiled.evaluate(*run)
gc.collect()
count.count_anew()
results = compiled.evaluate(*run)
taken = count.count_peak() - before
print(compiled.get_memory_usage(None, {"x": x})[0]["total"], taken)
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    pytest.importorskip("torch")
    compiler = shutil.which("cc")
    if not compiler or os.environ.get("LD_PRELOAD"):
        pytest.skip("allocations are counted by a library of C that is compiled and preloaded")
    path = tmp_path_factory.mktemp("count") / "count.so"
    source = Path(__file__).with_name("count_allocations.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", path, source, "-lpthread"], check=True)
    return str(path)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    "module",
    [
        "ml.Relu()",
        "ml.Softmax()",
        "ml.Dropout(0.5)",
        "ml.LayerNorm()",
        "ml.RMSNorm()",
        "ml.FeedForward(1024)",
        "ml.MultiHeadAttention(8, 32, 8, causal=True)",
        "ml.MoE(8, 512, top_k=2)",
    ],
)
def test_torch_memory(counter, module, gradients):
    """Within 5% of what torch's allocator has at most during a run."""
    run = subprocess.run(
        [sys.executable, "-c", TAKEN, counter, module, str(gradients)],
        capture_output=True,
        text=True,
        timeout=HANGS,
        env={**os.environ, "LD_PRELOAD": counter},
    )
    assert run.returncode == 0, run.stderr
    said, taken = map(int, run.stdout.split())
    assert abs(said - taken) < 0.05 * taken
