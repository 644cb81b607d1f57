"""Signals, forks and a lack of memory, while threads of Python's evaluate."""

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, ReferenceBackend
from support import HANGS, every_engine, check_that_signals_end, compile_on, in_child, one_block, random


@pytest.fixture
def sigint():
    """A function that sets a handler, which is gone after the test."""
    old = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, old)


class Worker(threading.Thread):
    """Evaluates until it is told to end, and keeps what went wrong."""

    def __init__(self, compiled, params, x, want):
        super().__init__(daemon=True)
        self.call, self.want, self.over, self.count, self.wrong = (
            (lambda: compiled.evaluate(params, {"x": x})["y"]),
            want,
            False,
            0,
            [],
        )
        self.start()

    def run(self):
        while not self.over:
            try:
                assert np.array_equal(np.asarray(self.call()), self.want)
                self.count += 1
            except BaseException as error:
                self.wrong.append(error)

    def end(self):
        while not self.count and not self.wrong:
            time.sleep(0.001)
        self.over = True
        self.join(HANGS)
        assert not self.is_alive() and not self.wrong, self.wrong[:1]


def shared_model(size=512, rows=256):
    model = ml.Model()
    for i in range(4):
        model += ml.Linear(size)(**({"input": "x"} if i == 0 else {"output": "y"} if i == 3 else {}))
    compiled, x = compile_on((2,), model), random(rows, size)
    params = compiled.get_parameters({"x": x})
    return compiled, params, x, np.array(compiled.evaluate(params, {"x": x})["y"])


def strike_often(seen, count, pause):
    """Ctrl-C again and again, until the handler, which adds to `seen`, has run so often."""

    def strike():
        for _ in range(100 * count):
            if len(seen) >= count:
                break
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(pause)

    thread = threading.Thread(target=strike)
    thread.start()
    return thread


@every_engine
def test_a_handler_that_returns(engine, sigint):
    """No run is lost, in the main thread or in another, however often signals come."""
    compiled, params, x, want = shared_model()
    seen = []
    sigint(lambda *_: seen.append(1))
    worker, striker, count = Worker(compiled, params, x, want), strike_often(seen, 50, 0.002), 0
    while striker.is_alive() or not count:
        assert np.array_equal(np.asarray(compiled.evaluate(params, {"x": x})["y"]), want)
        count += 1
    striker.join()
    worker.end()
    assert len(seen) >= 50


@every_engine
def test_a_handler_that_evaluates(engine, sigint):
    compiled, params, x, want = shared_model()
    seen = []
    sigint(lambda *_: seen.append(np.array_equal(np.asarray(compiled.evaluate(params, {"x": x})["y"]), want)))
    striker = strike_often(seen, 4, 0.05)
    while striker.is_alive():
        assert np.array_equal(np.asarray(compiled.evaluate(params, {"x": x})["y"]), want)
    striker.join()
    assert len(seen) >= 4 and all(seen)


@every_engine
def test_a_handler_that_raises(engine, sigint):
    """What it raises comes out of the main thread's call, and of no other's; the next call is right."""
    compiled, params, x, want = shared_model()

    class Enough(Exception):
        pass

    def handler(*_):
        raise Enough

    sigint(handler)
    worker = Worker(compiled, params, x, want)
    for _ in range(5):
        striker = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Enough):
            striker.start()
            while True:
                compiled.evaluate(params, {"x": x})
        striker.join()
        assert np.array_equal(np.asarray(compiled.evaluate(params, {"x": x})["y"]), want)
    worker.end()


def test_a_handler_that_changes_the_handler(sigint):
    """The second Ctrl-C of a program whose first one asks for patience."""
    compiled, params, x, want = shared_model()
    asked = threading.Event()

    def handler(*_):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asked.set()

    def strike_twice():
        os.kill(os.getpid(), signal.SIGINT)
        asked.wait()
        os.kill(os.getpid(), signal.SIGINT)

    sigint(handler)
    striker = threading.Timer(0.05, strike_twice)
    with pytest.raises(KeyboardInterrupt):
        striker.start()
        while True:
            compiled.evaluate(params, {"x": x})
    striker.join()
    assert np.array_equal(np.asarray(compiled.evaluate(params, {"x": x})["y"]), want)


class TooLate(Exception):
    pass


def too_late(*_):
    raise TooLate


@pytest.fixture
def alarm():
    """A function that sets an alarm, which raises TooLate; there is none after the test."""
    old = signal.signal(signal.SIGALRM, too_late)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


def seconds_until_too_late(call):
    began = time.perf_counter()
    with pytest.raises(TooLate):
        call()
        time.sleep(5)  # a machine that is faster than that
    return time.perf_counter() - began


@pytest.mark.parametrize("after", [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2])
def test_an_alarm_as_a_call_begins(alarm, after):
    """Whenever it comes: signal.signal() has just changed what the calls before left."""
    backend = CBackend(device_mesh=(1,))
    took = []
    for _ in range(5):
        backend.zeros(3)
        signal.signal(signal.SIGALRM, too_late)
        took.append(seconds_until_too_late(lambda: (alarm(after), backend.randn(20000, 10000))))
    assert max(took) < 1, took


def test_a_handler_of_another_library(alarm):
    """faulthandler's stands before what it found and calls it; calls are watched, whoever came first."""
    backend = CBackend(device_mesh=(1,))
    long_call = lambda: (alarm(0.05), backend.randn(20000, 10000))
    with tempfile.TemporaryFile() as file:
        for chained in (False, True, True, False, True):
            if chained:
                faulthandler.register(signal.SIGALRM, file, chain=True)
            for _ in range(3):
                assert seconds_until_too_late(long_call) < 1
            faulthandler.unregister(signal.SIGALRM)
        file.seek(0)
        assert file.read().count(b"most recent call first") >= 3 * 3


PLANNING = {
    "program_text": lambda compiled, inputs: compiled.program_text(inputs, gradients=True),
    "get_parameters": lambda compiled, inputs: compiled.get_parameters(inputs),
    "get_parameter_layout": lambda compiled, inputs: compiled.get_parameter_layout(inputs),
    "get_memory_usage": lambda compiled, inputs: compiled.get_memory_usage(inputs=inputs),
    "evaluate": lambda compiled, inputs: compiled.evaluate({}, inputs),
}


@pytest.mark.parametrize("method", PLANNING)
def test_alarms_end_planning(method):
    """An alarm early in a long plan ends it then, not when it is made; the next call makes it."""
    names = [f"x{i}" for i in range(40000)]
    model = ml.Model()
    model |= ml.Add()(inputs=names, output="y")
    backend = CBackend(device_mesh=(1,))
    one = backend.array(np.ones((1, 2), np.float32))
    inputs = dict.fromkeys(names, one)
    compiled = None

    def make():
        nonlocal compiled
        compiled = ml.compile(model, backend)
        return lambda: PLANNING[method](compiled, inputs)

    def check():
        with pytest.raises(ValueError, match="the shapes of the inputs are not known yet"):
            compiled.get_memory_usage()

    check_that_signals_end(make, check, latest=0.2)  # the text is printed when the plan is made
    assert np.asarray(compiled.evaluate({}, inputs)["y"]).tolist() == [[40000, 40000]]


# ---------------------------------------------------------------- forks
@pytest.mark.parametrize("backend", [CBackend, ReferenceBackend])
def test_forks_while_threads_evaluate(backend):
    """The child runs the inherited model, a new one, and Ctrl-C in them is its own."""
    size = 768 if backend is CBackend else 24  # a run of some milliseconds, so that forks come into one
    model = one_block(ml.Linear(size), input="x", output="y")
    compiled = ml.compile(model, backend(device_mesh=(2,)))
    x = random(2 * size, size)
    params = compiled.get_parameters({"x": x})
    want = np.array(compiled.evaluate(params, {"x": x})["y"])

    def work():
        y = compiled.evaluate(params, {"x": x})["y"]
        own = ml.compile(model, backend(device_mesh=(2,)))
        z = own.evaluate({n: np.asarray(p) for n, p in params.items()}, {"x": x})["y"]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            while True:
                compiled.evaluate(params, {"x": x})
        except KeyboardInterrupt:
            return np.array_equal(np.asarray(y), want) and np.array_equal(np.asarray(z), want)

    workers = [Worker(compiled, params, x, want) for _ in range(2)]
    forkers = [threading.Thread(target=lambda: said.append(in_child(work))) for _ in range(3)]
    said = [in_child(work) for _ in range(10)]
    for forker in forkers:  # a child is the main thread's wherever it comes from
        forker.start()
    for forker in forkers:
        forker.join()
    for worker in workers:
        worker.end()
    assert said == ["True"] * 13


def load(array, k):
    return float(np.asarray(array)[k].sum())


@every_engine
def test_children_that_read_arrays(engine):
    """As a loader of data does: the parent trains, its forked children read what it made."""
    compiled, params, x, want = shared_model(128, 64)
    outputs = compiled.evaluate(params, {"x": x})
    data = compiled.backend.array(x)
    worker = Worker(compiled, params, x, want)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        rows = pool.starmap_async(load, [(x, k) for k in range(64)]).get(HANGS)
    said = [in_child(lambda: [load(a, 3) for a in (data, outputs["y"], next(iter(params.values())))]) for _ in range(5)]
    worker.end()
    assert rows == [float(row.sum()) for row in x]
    assert said == [str([float(a[3].sum()) for a in (x, want, np.asarray(next(iter(params.values()))))])] * 5


def test_xla_in_a_fork(xla):
    """Its threads stay with the parent: a clear error, whatever they were doing."""
    compiled = ml.compile(one_block(ml.Linear(64), input="x", output="y"), xla(device_mesh=(2,)))
    x = random(32, 64)
    params = compiled.get_parameters({"x": x})
    want = np.array(compiled.evaluate(params, {"x": x})["y"])
    workers = [Worker(compiled, params, x, want) for _ in range(2)]
    works = (
        lambda: compiled.evaluate(params, {"x": x}),
        lambda: xla(device_mesh=(2,)),
        lambda: compiled.explain(),
        lambda: compiled.backend.describe(),
    )
    said = [in_child(work) for work in works for _ in range(5)]
    for worker in workers:
        worker.end()
    assert all(s.startswith("MithrilValueError") and "is a fork of process" in s and "spawn" in s for s in said), said


# ---------------------------------------------------------------- a lack of memory
LACK = """
import os, resource, signal, sys
import numpy as np, mithril as ml
from mithril.backends import CBackend

def linear(threads, rows, size, gradients=False):
    model, x = ml.Model(), np.ones((rows, size), "f")
    model |= ml.Linear(size, bias=False)(input="x", output="y")
    def work():
        compiled = ml.compile(model, CBackend(device_mesh=(1,), threads=threads))
        params = {"linear_0.weight": np.ones((size, size), "f")}
        for _ in range(3):
            if gradients: y = compiled.evaluate(params, {"x": x}, {"y": x})[0]["y"]
            else: y = compiled.evaluate(params, {"x": x})["y"]
            assert (np.asarray(y) == size).all()
    return work

def attention():
    model, x = ml.Model(), np.ones((2, 256, 256), "f")
    model |= ml.MultiHeadAttention(4)(input="x", output="y")
    def work():
        compiled = ml.compile(model, CBackend(device_mesh=(1,), threads=3))
        y = compiled.evaluate(compiled.get_parameters({"x": x}), {"x": x}, {"y": x})[0]["y"]
        assert np.isfinite(np.asarray(y)).all()
    return work

def cold(work, more):
    child = os.fork()
    if child == 0:
        signal.alarm(600)
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))
        code = 3
        try:
            work()
            code = 0
        except MemoryError:
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for name, work in {"product": linear(1, 512, 512), "threads": linear(4, 512, 512), "vector": linear(2, 1, 2048),
                   "gradients": linear(2, 512, 512, True), "attention": attention()}.items():
    print(name, *(cold(work, mib << 19) for mib in [*range(0, 40, 6), *range(40, 200, 12), 300, 600]))
"""


def test_a_lack_of_memory():
    """From just below what a cold process needs to well above: the right number or a MemoryError, never the end of
    the process."""
    run = subprocess.run([sys.executable, "-c", LACK], capture_output=True, text=True, timeout=HANGS)
    assert run.returncode == 0 and not run.stderr, run.stderr
    for line in run.stdout.splitlines():
        name, *codes = line.split()
        assert set(codes) == {"0", "1"} and codes[0] == "1" and codes[-1] == "0", line
    assert len(run.stdout.splitlines()) == 5


LOADING = """
import os, resource, sys
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1]), size + int(sys.argv[1])))
try:
    import mithril
except (ImportError, MemoryError) as error:  # Python too may find no room
    assert type(error) is not ImportError or "fix: raise the limit of the process" in str(error), error
    print("refused")
else:
    print("loaded")
"""


def test_a_lack_of_memory_while_it_is_loaded():
    """Import answers with an error where OpenBLAS would end the process, and the error's fix, more room, works."""
    said = []
    for room in (0, 24, 48, 80, 300, 1 << 17):
        run = subprocess.run(
            [sys.executable, "-c", LOADING, str(room << 20)], capture_output=True, text=True, timeout=HANGS
        )
        assert run.returncode == 0 and not run.stderr, (room, run.stderr)
        said.append(run.stdout.strip())
    assert said[0] == "refused" and said[-1] == "loaded" and said == sorted(said, reverse=True), said


SIGACTION = """
import ctypes, os, signal, sys
import numpy as np
import mithril as ml
from mithril.backends import CBackend

class Action(ctypes.Structure):  # struct sigaction of glibc on 64-bit Linux
    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_byte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]

SA_SIGINFO = 4
libc = ctypes.CDLL(None)
model = ml.Model()
model |= ml.Relu()(input="x", output="y")
compiled = ml.compile(model, CBackend(device_mesh=(1,)))
assert libc.sigaction(int(signal.SIGTERM), ctypes.byref(Action(handler=int(sys.argv[1]), flags=SA_SIGINFO)), None) == 0
compiled.evaluate({}, {"x": np.ones(4, np.float32)})
os.kill(os.getpid(), signal.SIGTERM)
print("lives")
"""


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_no_handler_with_the_flags_of_one(handler):
    """Signals that are ignored or end the process stay so where the kernel has kept flags of an earlier handler."""
    done = subprocess.run([sys.executable, "-c", SIGACTION, str(int(handler))], capture_output=True, text=True)
    if handler == signal.SIG_IGN:
        assert done.returncode == 0 and done.stdout == "lives\n", done
    else:
        assert done.returncode == -signal.SIGTERM and not done.stdout, done
