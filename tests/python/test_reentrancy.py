"""Values whose own code changes what is being read, and threads that meet."""

import ctypes
import gc
import threading
import weakref

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend
from support import compile_on, on, one_block, random

X = random(6, 8)


def clobber():
    """Lets go of what nobody holds, and writes over where it was."""
    gc.collect()
    return [bytearray(b"\xff" * n) for n in range(16, 200, 8) for _ in range(200)]


class Evil:
    """Empties a container at the first call of any of its methods, then goes on as the value."""

    def __init__(self, container, value):
        self.container, self.value = container, value

    def act(self):
        self.container.clear()
        clobber()
        return self.value

    def tolist(self):
        return self.act()

    def __array__(self, dtype=None, copy=None):
        return self.act()


class EvilIndex(Evil):
    tolist = None

    def __getattribute__(self, name):
        if name == "tolist":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __index__(self):
        return self.act()


class EvilList(list):
    """A list that empties a container when it is read."""

    def __init__(self, container, *items):
        super().__init__(items)
        self.container = container

    def __iter__(self):
        items = list(super().__iter__())
        self.container.clear()
        clobber()
        return iter(items)

    __len__ = lambda self: (self.container.clear(), clobber(), list.__len__(self))[2]


call_with = ctypes.pythonapi.PyObject_Call
"""Calls with a dict of keywords that stays the caller's own, as _thread.start_new_thread and C code do."""
call_with.restype, call_with.argtypes = ctypes.py_object, [ctypes.py_object] * 3


def fresh(text):
    """A text that nobody else holds."""
    return "".join(list(text))


def same_layout(model, expected):
    compiled = lambda m: compile_on((2,), m).get_parameter_layout({"x": X})
    assert {k: v.sharding for k, v in compiled(model).items()} == {k: v.sharding for k, v in compiled(expected).items()}


def expected():
    return one_block(ml.Linear(4, shard_specs={"bias": (0,), "weight": (0, None)}), input="x", output="y")


def test_a_dict_that_is_emptied_while_it_is_read():
    for value in (lambda specs: Evil(specs, [0]), lambda specs: (EvilIndex(specs, 0),)):
        specs = {}
        specs[fresh("bias")] = value(specs)
        specs[fresh("weight")] = [0, None]
        same_layout(one_block(ml.Linear(4, shard_specs=specs), input="x", output="y"), expected())
        assert not specs


def test_a_value_that_nobody_holds_when_it_is_refused():
    specs = {}
    specs["weight"] = Evil(specs, [object()])
    with pytest.raises(ml.MithrilError, match="no option takes"):
        ml.Linear(4, shard_specs=specs)
    specs["weight"] = Evil(specs, None)
    specs["weight"].act = None  # is not callable: reading fails
    with pytest.raises(ml.MithrilError, match="can't be read"):
        ml.Linear(4, shard_specs=specs)


def test_a_dict_that_grows_while_it_is_read():
    class Growing(dict):
        def clear(self):
            self.update({str(i): i for i in range(1000)})

    specs = Growing()
    specs.update(bias=Evil(specs, [0]), weight=(0, None))
    same_layout(one_block(ml.Linear(4, shard_specs=specs), input="x", output="y"), expected())


def test_lists_that_are_emptied_while_they_are_read():
    specs = []
    specs += [EvilIndex(specs, 0), [fresh("x")]]
    with pytest.raises(ml.MithrilError, match="weight_shard_spec"):
        ml.Linear(4, weight_shard_spec=specs)
    shape = []
    shape += [EvilIndex(shape, 3), 4]
    assert CBackend(device_mesh=(1,)).zeros(shape).shape == (3, 4)
    names = {}
    names.update(input=EvilList(names, fresh("x")), output=fresh("y"))
    model = ml.Model()
    model |= call_with(ml.Relu(), (), names)
    assert np.array_equal(np.asarray(compile_on((1,), model).evaluate({}, {"x": X})["y"]), np.maximum(X, 0))


def test_keywords_that_are_emptied_while_they_are_read():
    backend = CBackend(device_mesh=(2,))
    specs = {}
    specs.update(dimension=4, bias=EvilIndex(specs, 1), name=fresh("long name of a layer"))
    with pytest.raises(ml.MithrilError, match="bias"):
        call_with(ml.Linear, (), specs)
    options = {}
    options.update(shapes=Evil(options, [1]), input_shard_specs={fresh("x"): [0, None]})
    with pytest.raises(ml.MithrilError, match="shapes"):
        call_with(ml.compile, (expected(), backend), options)
    options = {}
    options.update(device_mesh=Evil(options, [2]), collective_ops={fresh("all_reduce"): fresh("ring")})
    assert call_with(CBackend, (), options).device_count == 2
    arguments = {}
    dtype = type("Name", (), {"name": property(lambda _: (arguments.clear(), clobber(), "float64")[2])})()
    arguments.update(data=X.copy(), dtype=dtype, spec=[0, None])
    a = call_with(backend.array, (), arguments)
    assert str(a.dtype) == "float64" and np.array_equal(np.asarray(a), X)
    arguments.update(dtype=dtype, spec=[fresh("0"), None])
    with pytest.raises(ml.MithrilError):
        call_with(backend.zeros, ((4, 4),), arguments)
    arguments.update(
        max_version=None, copy=type("Truth", (), {"__bool__": lambda _: (arguments.clear(), clobber(), True)[2]})()
    )
    assert call_with(a.__dlpack__, (), arguments)


def test_arrays_that_are_emptied_while_they_are_read():
    """The mappings of evaluate, while their values are converted."""
    model = ml.Model()
    model |= ml.Add()(inputs=["x", "z"], output="y")
    compiled = compile_on((2,), model)
    inputs = {}
    inputs.update({fresh("x"): Evil(inputs, X + 1), fresh("z"): X.copy()})
    assert np.array_equal(np.asarray(compiled.evaluate({}, inputs)["y"]), X + 1 + X)

    class Pairs:
        def __init__(self, *pairs):
            self.pairs = list(pairs)

        def keys(self):
            return [name for name, _ in self.pairs]

        def items(self):
            return self.pairs

    pairs = Pairs()
    pairs.pairs += [(fresh("x"), Evil(pairs.pairs, X + 1)), (fresh("z"), X.copy())]
    assert np.array_equal(np.asarray(compiled.evaluate({}, pairs)["y"]), X + 1 + X)
    arguments = {}
    arguments.update(
        params={}, inputs={"x": Evil(arguments, X + 1), "z": X.copy()}, output_gradients={fresh("y"): X.copy()}
    )
    outputs, gradients = call_with(compiled.evaluate, (), arguments)
    assert np.array_equal(np.asarray(outputs["y"]), X + 1 + X) and gradients == {}


def test_a_model_that_changes_while_it_is_an_option():
    """It is taken as it is when all options are read."""

    def pipeline(change):
        stage = one_block(ml.Linear(8), input="input", output="h")

        class Devices:
            def tolist(self):
                nonlocal stage
                stage |= ml.Tanh()(input="h", output="output")
                stage = None
                clobber()
                return [0, 1]

        stages = [stage, stage]
        devices = Devices() if change else Devices().tolist()
        return one_block(ml.Pipeline(stages=stages, device_assignment=devices), input="x", output="y")

    changed, whole = (compile_on((2,), pipeline(change)) for change in (True, False))
    params = whole.get_parameters({"x": X})
    assert np.array_equal(*(np.asarray(c.evaluate(params, {"x": X})["y"]) for c in (changed, whole)))


def test_a_model_that_another_thread_composes():
    """compile copies a model at one moment."""
    model = one_block(ml.Relu(), input="x", output="y0")
    stop = threading.Event()

    def compose():
        nonlocal model
        for i in range(200):
            if stop.is_set():
                return
            model |= ml.Relu()(input=f"y{i}", output=f"y{i + 1}")

    thread = threading.Thread(target=compose)
    thread.start()
    try:
        for _ in range(20):
            (name,) = compile_on((1,), model).evaluate({}, {"x": X})
            assert name.startswith("y")
    finally:
        stop.set()
        thread.join()


def test_a_cycle_through_a_backend_is_collected():
    class Backend(CBackend):
        pass

    backend = Backend(device_mesh=(1,))
    backend.compiled = ml.compile(one_block(ml.Relu(), input="x", output="y"), backend)
    gone = weakref.ref(backend)
    del backend
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_gather_an_array_once(dtype):
    for _ in range(20):
        a = on((4,)).array(random(64, 64), dtype=dtype, spec=(0, None))
        barrier, seen = threading.Barrier(4), []

        def gather():
            barrier.wait()
            seen.append(np.asarray(a))

        threads = [threading.Thread(target=gather) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({view.ctypes.data for view in seen}) == 1
        del a
        assert all(np.array_equal(view, seen[0]) for view in seen)
