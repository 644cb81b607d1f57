"""The package as Python sees it: signatures, stubs, help, the order of arguments, threads, signals."""

import importlib.metadata
import inspect
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import mithril as ml
from mithril import backends
from mithril.backends import CBackend, ReferenceBackend
from mithril.errors import MithrilKeyError
from support import (
    HANGS,
    check_that_signals_end,
    close,
    compile_on,
    computed,
    f64,
    handling,
    linear,
    one_block,
    random,
    strike,
    too_late,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
X = random(6, 8)


def test_signatures():
    signature = inspect.signature(ml.Linear)
    assert list(signature.parameters)[:2] == ["dimension", "bias"] and signature.parameters["bias"].default is True
    for name in ml.modules:
        cls = getattr(ml, name)
        assert issubclass(cls, ml.Module) and inspect.signature(cls) and cls.__doc__ and "Ports:" in cls.__doc__, name
    for function in (ml.compile, ml.CompiledModel.evaluate, ml.CompiledModel.get_parameters, backends.Backend.randint):
        assert inspect.signature(function)
    assert "device_mesh" in CBackend.__doc__


def test_stubs_are_current():
    run = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate_stubs.py", "--check"], capture_output=True, text=True, timeout=HANGS
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("what", ["examples", "package"])
def test_types(what):
    pytest.importorskip("mypy", reason="mypy is not installed")
    checked = (
        sorted(str(p) for p in (ROOT / "examples").glob("*.py"))
        if what == "examples"
        else ["--strict", "-p", "mithril"]
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--ignore-missing-imports",
        "--check-untyped-defs",
        "--cache-dir",
        os.devnull,
        *checked,
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, cwd=ROOT / "examples")
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("example", ["tensor_parallel.py", "pipeline.py", "mixture_of_experts.py", "xla.py"])
def test_example(example, request):
    if example == "xla.py":
        request.getfixturevalue("xla")
    run = subprocess.run([sys.executable, ROOT / "examples" / example], capture_output=True, text=True, timeout=HANGS)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout


def test_spellings():
    models = []
    for wire in (
        lambda m, **w: m(**w),
        lambda m, **w: m.connect(**w),
        lambda m, **w: m(**{k: ml.IOKey(v) for k, v in w.items()}),
    ):
        model = ml.Model()
        model |= wire(ml.Linear(4, True), input="x", output="h")
        model += wire(ml.Relu(), input="h", output="y")
        models.append(str(model))
    assert models[0] == models[1] == models[2] and "linear_0" in models[0]
    assert "input -> output" in ml.Linear(4).ports
    assert repr(ml.Linear(4)(input="x")) == "ml.Linear(input='x')"


def test_numpy_options():
    compiled = compile_on(
        tuple(np.array([2])),
        one_block(
            ml.Linear(np.int64(4), bias=np.bool_(True), weight_shard_spec=(np.int32(0), None)), input="x", output="y"
        ),
    )
    assert compiled.get_parameters({"x": X})["linear_0.weight"].shape == (8, 4)


def test_other_backends():
    with pytest.raises(AttributeError, match="CBackend"):
        backends.CpuBackend
    assert not hasattr(backends, "CpuBackend") and getattr(backends, "MlxBackend", None) is None
    with pytest.raises(ImportError, match="CBackend"):
        exec("from mithril.backends import CpuBackend")
    with pytest.raises(AttributeError):
        backends.Other


def test_reference_backend():
    model = one_block(ml.Linear(4, weight_shard_spec=(0, None)), input="x", output="y")
    for backend in (CBackend(device_mesh=(2,)), ReferenceBackend(device_mesh=(2,))):
        compiled = ml.compile(model, backend)
        params = compiled.get_parameters({"x": X}, seed=3)
        p = {k: f64(v) for k, v in params.items()}
        close(compiled.evaluate(params, {"x": X})["y"], linear(p, "linear_0", f64(X)), 1e-6)


def test_errors_travel():
    """str, pickle, and the attributes."""
    compiled = compile_on((1,), one_block(ml.Relu(), input="x", output="y"))
    with pytest.raises(KeyError) as caught:
        compiled.evaluate({}, {"z": X})
    error = caught.value
    assert (
        isinstance(error, MithrilKeyError)
        and isinstance(error, ml.MithrilError)
        and "\n" in str(error)
        and not str(error).startswith("'")
    )
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.fix, again.op, again.tensors) == (
        type(error),
        str(error),
        error.fix,
        error.op,
        error.tensors,
    )


def test_program_text():
    compiled = compile_on((2,), one_block(ml.Linear(4, weight_shard_spec=(0, None)), input="x", output="y"))
    with pytest.raises(ValueError, match="not known yet"):
        compiled.program_text()
    text = compiled.program_text({"x": X})
    assert "linear_0" in text and text == compiled.program_text() == ml.reprint_plan(text)
    ml.verify_plan(text)
    assert compiled.program_text({"x": X}, gradients=True) != text
    with pytest.raises(ValueError):
        ml.verify_plan(text.replace("linear_0", "linear_0 (", 1)[: len(text) // 2])
    usage, traffic = compiled.get_memory_usage(None, {"x": X}), compiled.get_communication_usage()
    assert len(usage) == len(traffic) == 2 and set(usage[0]) == {
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "communication",
        "host",
        "total",
    }
    assert all(u["total"] == sum(u[k] for k in u if k not in ("total", "host")) for u in usage)
    assert set(traffic[0]) == {"received", "sent", "messages"} and sum(t["sent"] for t in traffic) == sum(
        t["received"] for t in traffic
    )


def test_threads():
    """One compiled model, used from several threads."""
    compiled = compile_on((2,), one_block(ml.Linear(64, weight_shard_spec=(0, None)), input="x", output="y"))
    params = compiled.get_parameters({"x": X})
    want = np.asarray(compiled.evaluate(params, {"x": X})["y"]).copy()
    wrong = []

    def work(rows):
        for _ in range(20):
            if not np.allclose(np.asarray(compiled.evaluate(params, {"x": X[:rows]})["y"]), want[:rows], atol=1e-5):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (6, 6, 3, 2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def long_model():
    model = ml.Model()
    for i in range(200):
        model += ml.Linear(512)(**({"input": "x"} if i == 0 else {}))
    return model


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM, signal.SIGTERM])
def test_signals_end_a_run(number):
    """Ctrl-C, a time limit by an alarm, a request to end: a handler that raises ends the run at once, with what it
    raised; all stays usable."""
    compiled = compile_on((1,), long_model())
    x, small = random(512, 512), {"x": random(1, 512)}
    params = compiled.get_parameters({"x": x})
    want = next(iter(compiled.evaluate(params, small).values()))
    compiled.program_text({"x": x})

    def check():
        assert np.array_equal(np.asarray(next(iter(compiled.evaluate(params, small).values()))), np.asarray(want))
        compiled.program_text({"x": x})

    handler = signal.default_int_handler if number == signal.SIGINT else too_late
    check_that_signals_end(lambda: lambda: compiled.evaluate(params, {"x": x}), check, number, handler)


def test_a_handler_that_returns_lets_a_run_finish():
    compiled, x = compile_on((1,), long_model()), random(256, 512)
    params = compiled.get_parameters({"x": x})
    want = np.asarray(next(iter(compiled.evaluate(params, {"x": x}).values())))
    results, seen = [], []
    run = lambda: results.append(next(iter(compiled.evaluate(params, {"x": x}).values())))
    whole, _ = computed(run)
    with handling(signal.SIGINT, lambda *_: seen.append(len(results))):
        for _ in range(12):  # a run that others' work makes faster than the first may be over before the signal
            computed(run, strike(0.3 * whole, signal.SIGINT))
            if seen:
                break
    assert seen == [len(results) - 1]  # before the run ended
    assert all(np.array_equal(np.asarray(result), want) for result in results)


def metadata_of_distribution():
    try:
        return importlib.metadata.metadata("mithril-parallel")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package was not installed by pip")


def test_distribution():
    """Its name, version, licence, authors and system; the licence itself lies in the wheel."""
    metadata = metadata_of_distribution()
    assert metadata["Version"] == ml.__version__ == "0.2.0"
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Author"] == "The Mithril authors"
    assert "Operating System :: POSIX :: Linux" in metadata.get_all("Classifier")
    assert set(metadata.get_all("Provides-Extra")) == {"test", "plots", "jax", "tpu", "cuda", "torch"}
    (licence,) = (f for f in importlib.metadata.files("mithril-parallel") if f.name == "LICENSE")
    assert licence.read_text() == (ROOT / "LICENSE").read_text() and "2026 The Mithril authors" in licence.read_text()


def test_namesake_is_named(tmp_path):
    """PyPI's distribution called mithril shares our folder: importing says that it is there, and how to part the
    two."""
    version = metadata_of_distribution()["Version"]
    code = "import mithril"
    run = lambda: subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=HANGS,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert run().stderr == ""
    (tmp_path / "mithril-0.1.2.dist-info").mkdir()
    (tmp_path / "mithril-0.1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mithril\nVersion: 0.1.2\n"
    )
    said = run()
    assert said.returncode == 0 and "<string>:1: UserWarning" in said.stderr
    for part in ("'mithril' 0.1.2", f"'mithril-parallel' {version}", "fix: pip uninstall -y mithril && pip install"):
        assert part in said.stderr, said.stderr


def test_subinterpreter_imports_cleanly():
    """The module keeps its state by itself: a second copy in one process works beside the first."""
    code = (
        "import sys, mithril as a\nfor n in [n for n in sys.modules if n.startswith('mithril')]: del sys.modules[n]\n"
        "import mithril as b\nassert a.Linear is not b.Linear\n"
        "for ml in (a, b):\n    m = ml.Model(); m |= ml.Relu()(input='x', output='y')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("make", ["randn", "randint", "zeros", "get_parameters"])
def test_signals_end_the_filling_of_arrays(make):
    """Drawing many numbers takes long: a handler that raises ends it at once."""
    backend = CBackend(device_mesh=(2,))
    compiled = compile_on((1,), one_block(ml.Linear(4000), input="x", output="y"), shapes={"x": (2, 4000)})
    calls = {
        "randn": lambda: backend.randn(4000, 4000),
        "randint": lambda: backend.randint(0, 5, (4000, 4000)),
        "zeros": lambda: backend.zeros(16000, 4000),
        "get_parameters": compiled.get_parameters,
    }
    check_that_signals_end(lambda: calls[make])
    assert np.asarray(backend.zeros(3)).tolist() == [0, 0, 0]
