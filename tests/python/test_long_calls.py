"""Calls that take long let other threads of Python's run, and an alarm ends them."""

import threading
import time

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend
from support import HANGS, check_that_others_run, check_that_signals_end, in_child

BLOCKS = 15000
SIZE = 4096


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("long_calls")


@pytest.fixture(scope="module")
def model():
    model = ml.Model()
    for i in range(BLOCKS):
        model += ml.Relu()(input="x") if i == 0 else ml.Relu()
    return model


def add_to(model, block):
    model |= block
    return model


def numbers():
    return np.arange(SIZE * SIZE, dtype="float32").reshape(SIZE, SIZE)


def write_file(path, array):
    header = b'{"w":{"dtype":"F32","shape":[%d,%d],"data_offsets":[0,%d]}}' % (*array.shape, array.nbytes)
    path.write_bytes(len(header).to_bytes(8, "little") + header + array.tobytes())


def layout_of(backend):
    linear = ml.Model()
    linear |= ml.Linear(SIZE, bias=False)(input="x", output="y")
    return ml.compile(linear, backend, shapes={"x": (1, SIZE)})


def read_file(backend, files):
    path = files / "weights.safetensors"
    if not path.exists():
        write_file(path, numbers())
    compiled = layout_of(backend)
    return lambda: ml.read_safetensors(compiled, None, path, names={"linear_0.weight": "w"})


def split(backend):
    array = backend.array(numbers(), spec=(None, 0))
    return lambda: np.asarray(array)


# Each makes what a call needs, and gives the call.
CALLS = {
    "compile": lambda model, backend, files: lambda: ml.compile(model, backend),
    "copy": lambda model, backend, files: model.copy,
    "repr": lambda model, backend, files: lambda: repr(model),
    "inputs": lambda model, backend, files: lambda copy=model.copy(): copy.inputs,
    "outputs": lambda model, backend, files: lambda copy=model.copy(): copy.outputs,
    "add a model": lambda model, backend, files: lambda: add_to(ml.Model(), model()),
    "stages": lambda model, backend, files: lambda: ml.Pipeline([model]),
    "copy of stages": lambda model, backend, files: ml.Pipeline([model]).copy,
    "add stages": lambda model, backend, files: (
        lambda pipeline=ml.Pipeline([model]): add_to(ml.Model(), pipeline(input="x"))
    ),
    "calibrate": lambda model, backend, files: (
        lambda: CBackend(device_mesh=(2,), machine=f"calibrate:{files / f'machine{time.monotonic_ns()}.txt'}")
    ),
    "array": lambda model, backend, files: lambda given=numbers(): backend.array(given, spec=(None, 0)),
    "array of other numbers": lambda model, backend, files: (
        lambda given=numbers().astype("float64").T: backend.array(given)
    ),
    "asarray": lambda model, backend, files: split(backend),
    "read_safetensors": lambda model, backend, files: read_file(backend, files),
}


@pytest.mark.parametrize("name", CALLS)
def test_other_threads_run_meanwhile(name, model, files):
    backend = CBackend(device_mesh=(2,))
    check_that_others_run(lambda: CALLS[name](model, backend, files))


@pytest.mark.parametrize("name", [name for name in CALLS if name != "asarray"])  # NumPy loses what that raises
def test_alarms_end_calls(name, model, files):
    """An alarm early in a call ends it then, not when all is done, and the model is as it was."""
    backend = CBackend(device_mesh=(2,))
    check_that_signals_end(lambda: CALLS[name](model, backend, files))
    assert model.inputs == ["x"] and len(model.outputs) == 1
    assert str(model).count("relu_") >= BLOCKS


def test_a_model_that_threads_share():
    """Composing goes on while others compile: each finds the model as it was between two blocks."""
    model, backend, wrong = ml.Model(), CBackend(device_mesh=(1,)), []
    model |= ml.Relu()(input="x", output="y0")
    over = threading.Event()

    def compile_again():
        while not over.is_set():
            try:
                outputs = ml.compile(model, backend).outputs
                assert outputs == [f"y{i}" for i in range(len(outputs))]
                assert len(model.outputs) >= len(outputs)
                model.copy()
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=compile_again, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(1, 200):
        model |= ml.Relu()(input="x", output=f"y{i}")
    over.set()
    for thread in threads:
        thread.join(HANGS)
        assert not thread.is_alive()
    assert not wrong, wrong[:1]
    assert model.outputs == [f"y{i}" for i in range(200)]
    assert ml.compile(model, backend).outputs == model.outputs


def test_a_model_added_to_itself_and_both_ways():
    """Calls that have two models take both or none, so that none waits for ever."""
    one, other = ml.Model(), ml.Model()
    one |= ml.Relu()(input="x", output="y")
    other |= ml.Relu()(input="x", output="y")
    pairs = [(one, other), (other, one), (one, one)]
    added = [0, 0, 0]

    def add(k):
        for _ in range(3):
            model = pairs[k][0].copy()
            model |= pairs[k][1]()
            ml.Pipeline(list(pairs[k]))
            added[k] += 1

    threads = [threading.Thread(target=add, args=(k,), daemon=True) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS)
    assert added == [3, 3, 3]


def test_a_fork_in_the_midst_of_a_call(model):
    """A model that another thread's call had is refused in the child, unless the call was over; nobody hangs."""
    backend, over = CBackend(device_mesh=(1,)), threading.Event()

    def compile_again():
        while not over.is_set():
            ml.compile(model, backend)

    thread = threading.Thread(target=compile_again, daemon=True)
    thread.start()
    said = []
    try:
        for _ in range(100):  # until one comes when the other thread has the model
            time.sleep(0.02)
            said.append(in_child(lambda: model.inputs))
            if said[-1] != "['x']":
                break
    finally:
        over.set()
        thread.join(HANGS)
    assert not thread.is_alive()
    assert "forked off while another thread was in a call with the model" in said[-1], said
    assert "fix: compose it in the child" in said[-1]
    assert in_child(lambda: model.inputs) == "['x']"
    assert model.inputs == ["x"]
