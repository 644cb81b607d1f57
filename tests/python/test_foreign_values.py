"""Values of any kind that are handed in: taken where they can be, else an error with a fix."""

import collections
import ctypes
import functools
import itertools
import os
import pathlib
import sys
import types

import numpy as np
import pytest

import mithril as ml
from foreign import Producer, refused
from mithril.backends import CBackend
from support import compile_on, one_block, random

X = random(6, 8)


# ---------------------------------------------------------------- what stands for more than its memory
@pytest.mark.filterwarnings("ignore:Warning. converting a masked element")  # NumPy's own, of one among floats
def test_masked_arrays(backend, relu):
    masked = np.ma.masked_array(X, X > 1)
    for given in (masked, [masked[0], masked[1]], [[1.0, np.ma.masked]], np.ma.masked):
        refused(lambda: backend.array(given), "masked", "filled")
    refused(lambda: relu.evaluate({}, {"x": masked}), "inputs['x']", "masked")
    assert np.array_equal(
        np.asarray(relu.evaluate({}, {"x": masked.filled(0)})["y"]), np.maximum(np.where(X > 1, 0, X), 0)
    )
    for bare in (np.ma.masked_array(X), np.ma.masked_array(X, np.zeros_like(X, bool))):
        assert np.array_equal(np.asarray(backend.array(bare)), X)


class Keys:
    """The least that dict() takes for a mapping."""

    def __init__(self, stop=None, **items):
        self.stop, self.of = stop, items

    def keys(self):
        return self.of.keys()

    def __getitem__(self, name):
        if self.stop:
            raise self.stop
        return self.of[name]


def test_mappings(relu):
    for mapping in (Keys(x=X), types.MappingProxyType({"x": X}), collections.ChainMap({}, {"x": X})):
        assert np.array_equal(np.asarray(relu.evaluate({}, mapping)["y"]), np.maximum(X, 0))
    for other in ([X], {X.tobytes()}, X, "x", type("Pairs", (), {"items": lambda _: [1]})()):
        refused(lambda: relu.evaluate({}, other), "inputs")


def test_natural_numbers_of_evaluate(relu):
    """evaluate takes no dtype: its fix does without one."""
    x = np.full((2, 3), 2**63 + 2**40, np.uint64)
    fix = refused(lambda: relu.evaluate({}, {"x": x}), "inputs['x']", "int64").fix
    assert fix == 'give numbers below 2**63, or x.astype("float32")'
    y = relu.evaluate({}, {"x": eval(fix.rpartition(" or ")[2])})["y"]
    assert np.array_equal(np.asarray(y), x.astype(np.float32))


# ---------------------------------------------------------------- lists
def test_complex_numbers_keep_their_parts(backend):
    """A cast would drop the imaginary part: the fix is to give both."""
    for given in (np.array([1 + 2j, 3j], np.complex64), np.array([1j], ">c16"), np.complex128(1j)):
        for x in (given, [given], Producer(np.atleast_1d(given))):
            fix = refused(lambda: backend.array(x), "has elements of").fix
            assert fix == "they are complex: give their parts apart, x.real and x.imag"
        for part in (given.real, given.imag):
            assert np.array_equal(np.asarray(backend.array(part)), part)


def test_lists_of_what_numpy_does_not_know(backend):
    """They are as long as they should be: to pad them would not help."""

    class Record(ctypes.Structure):
        _fields_ = [("a", ctypes.c_float)]

    for x in (Record(), (ctypes.c_void_p * 2)(), (ctypes.c_longdouble * 2)(1, 2), np.zeros((1,) * 64)):
        assert refused(lambda: backend.array([x])).fix == "give numbers, or arrays of one shape"
    assert "pad" in refused(lambda: backend.array([X, X[:2]])).fix


def test_lists_that_are_no_array(backend):
    for given in ([[1.0], [2.0, 3.0]], [[1, 2], 3], [[[1.0]], [[1.0, 2.0]]], [X, X[:2]]):
        error = refused(lambda: backend.array(given), "pad")
        assert isinstance(error, ValueError) and isinstance(error.__cause__, ValueError)
    assert backend.array([[1.0, 0.0], [2.0, 3.0]]).shape == (2, 2)
    for given in ((1.0,), (1.0, 2.0), (1, 2, 3), ((1.0, 2.0), [3.0, 4.0]), (X, X), ()):
        assert np.array_equal(np.asarray(backend.array(given)), np.asarray(given, np.float32))
    for given in ([None], [["a"]], [object()], [10**30], 10**5000, [{}], [np.datetime64(1, "s")]):
        refused(lambda: backend.array(given), "no number")
    endless = []
    endless.append(endless)
    for given in (endless, (endless, 1.0), [[endless]]):
        refused(lambda: backend.array(given), "more than 64 deep")
    refused(lambda: ml.Linear(4, weight_shard_spec=endless), "Linear", "more than 32 deep")


def test_lists_that_come_to_hold_themselves(backend):
    """Code of their elements runs while they are read."""

    class Grows(np.ndarray):
        @property
        def filled(self):
            inner[:] = [inner]
            raise AttributeError

    inner = [np.zeros(2, np.float32)]
    refused(lambda: backend.array([np.zeros((1, 2), np.float32).view(Grows), inner]), "more than 64 deep")


def test_masks_that_can_not_be_read(backend):
    two = np.zeros(2, [("weight", "f4"), ("id", "i4")])
    x = np.ma.masked_array(two, mask=[(True, False), (False, False)])
    error = refused(lambda: backend.array(x), "mask")
    assert error.__cause__ is not None and np.array_equal(np.asarray(backend.array(x["weight"].filled(0))), [0, 0])


def test_whole_numbers_that_no_integer_has(backend):
    """NumPy would make floats of them."""
    wide = 2**63
    for given in ([wide, -1], [[-1], [wide]], (0, wide + 1, -5), [np.uint64(wide), np.int64(-1)]):
        for dtype in (None, "int64", "int32"):
            refused(lambda: backend.array(given, dtype), str(max(np.ravel(np.array(given, object)))), "float64")
        assert np.array_equal(np.asarray(backend.array(given, "float64")), np.array(given, np.float64))
    assert backend.array([wide, 1.5]).tolist() == [2.0**63, 1.5]
    assert refused(lambda: backend.array([wide], "int32"), str(wide)).fix.startswith("give numbers below 2**31")
    assert backend.array([2**62, -1]).tolist() == [2**62, -1]


def test_fixes_of_values_that_are_no_array(backend, relu):
    """They work where they are offered: in backend.array as in evaluate."""
    for x, values in (
        ({3.0}, [3]),
        ((v for v in (1.0, 2.0)), [1, 2]),
        (map(float, "12"), [1, 2]),
        ({"a": 1.0, "b": 2.0}, [1, 2]),
        (b"ab", [97, 98]),
        (bytearray(b"ab"), [97, 98]),
        (3 + 4j, 3),
    ):
        refused(lambda: relu.evaluate({}, {"x": x}))
        expression = refused(lambda: backend.array(x)).fix.partition(": ")[2].split(", numpy")[0]
        assert np.array_equal(np.asarray(backend.array(eval(expression, {"x": x, "numpy": np}))), values)
    for x in ("12", object(), float):
        assert refused(lambda: backend.array(x)).fix == "give numbers: a list of them, or a numpy.array"
    for x, values in (([1.5, 2.6], [2, 3]), (np.float32(1.7), 2)):
        expression = refused(lambda: backend.array(x, "int32")).fix.partition(": ")[2]
        assert np.array_equal(np.asarray(backend.array(eval(expression, {"x": x, "numpy": np}))), values)


def test_elements_of_lists_that_numpy_can_not_read(backend):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    half = jax.numpy.ones(2, "bfloat16")
    assert backend.array([half, np.asarray(half)]).tolist() == [[1, 1], [1, 1]]
    x = torch.ones(2).bfloat16()
    assert refused(lambda: backend.array([x])).fix == "give x.float() for each x in them"
    assert backend.array([x.float()]).tolist() == [[1, 1]]
    assert "zeros_like" in refused(lambda: backend.array([torch.ones(2, device="meta")])).fix
    gone = jax.numpy.ones(3)
    gone.delete()
    assert "jax.numpy.copy(x)" in refused(lambda: backend.array([gone])).fix


# ---------------------------------------------------------------- names, numbers and paths
def test_numbers_too_long_to_print():
    error = refused(lambda: ml.Linear(10**5000), "Linear", "does not fit in 64 bits")
    assert error.op == "Linear"
    refused(lambda: CBackend(device_mesh=(10**5000,)), "64 bits")
    refused(lambda: CBackend(device_mesh=(1,)).zeros(10**5000))


def test_halves_of_surrogate_pairs(backend, relu):
    """Texts that have no UTF-8: an error that names the operator, and can be printed."""
    bad = "w\udc80"
    for call in (
        lambda: ml.Linear(4, name=bad),
        lambda: ml.Linear(4, **{bad: 1}),
        lambda: ml.Linear(4, shard_specs={bad: (0, None)}),
        lambda: ml.Model().__ior__(ml.Relu()(input=bad, output="y")),
        lambda: ml.Relu()(**{bad: "x"}),
        lambda: backend.zeros(3, dtype=bad),
        lambda: relu.evaluate({}, {bad: X}),
        lambda: backend.zeros(3, **{bad: 1}),
        lambda: ml.verify_plan(bad),
    ):
        str(refused(call)).encode()


def test_an_option_that_does_not_exist_comes_first(backend):
    """Its value, whatever it is, is not what is wrong."""
    model = one_block(ml.Relu(), input="x", output="y")
    for make, operator in (
        (lambda **options: ml.Linear(4, **options), "Linear"),
        (lambda **options: ml.compile(model, backend, **options), "compile"),
        (lambda **options: CBackend(device_mesh=(1,), **options), "backend"),
    ):
        for value in ({1, 2}, object(), 10**5000, b"x", "\udc80"):
            error = refused(lambda: make(colour=value), "there is no option 'colour'")
            assert error.op == operator
    refused(lambda: ml.Linear(4, **{"": {1}}), "there is no option ''")
    for call in (lambda: ml.Linear(4, bias={1}), lambda: ml.Linear({1}), lambda: ml.Linear(4, name=b"x")):
        assert refused(call).op == "Linear"


def write_file(path):
    from error_cases_run import write_safetensors

    path.write_bytes(b"")
    write_safetensors(path, {"w": random(6, 3), "b": random(3)})
    return {"linear_0.weight": "w", "linear_0.bias": "b"}


def test_paths_of_every_kind(tmp_path):
    compiled = compile_on((1,), one_block(ml.Linear(3), input="x", output="y"))
    path = tmp_path / "na\udcefve é.safetensors"  # a byte that is no UTF-8
    names = write_file(path)
    read = lambda given: ml.read_safetensors(compiled, {"x": random(4, 6)}, given, names)
    for given in (path, str(path), bytes(path), type("P", (), {"__fspath__": lambda _: bytes(path)})()):
        assert np.array_equal(np.asarray(read(given)["linear_0.weight"]), random(6, 3))
    for given in (3, None, path.name + "\0", b"a\0b", "\ud800", pathlib.Path("\ud800")):
        error = refused(lambda: read(given), "path")
        assert error.op == "read_safetensors"


def test_names_of_tensors(tmp_path):
    compiled = compile_on((1,), one_block(ml.Linear(3, bias=False), input="x", output="y"))
    path = tmp_path / "a.safetensors"
    write_file(path)
    read = lambda names: ml.read_safetensors(compiled, {"x": random(4, 6)}, path, names)
    assert read({"linear_0.weight": ("w", False)})["linear_0.weight"].shape == (6, 3)
    for arguments in ((), (compiled,), (compiled, None, path, {}, 1)):
        refused(lambda: ml.read_safetensors(*arguments), "read_safetensors: ", "argument")
    refused(lambda: ml.read_safetensors(compiled, None, path, names={}, strict=True), "strict")
    model = one_block(ml.Relu(), input="x", output="y")
    for other in (None, CBackend(device_mesh=(1,)), model, {"w": 1}):
        refused(lambda: ml.read_safetensors(other, None, path, {}), "ml.compile(model, backend)")
    mistakes = [{}, {3: "w"}, *({"linear_0.weight": name} for name in ("zz", "", "b", ("w", True)))]
    for call in [functools.partial(read, names) for names in mistakes]:
        with pytest.raises(ml.MithrilError) as caught:
            call()
        assert caught.value.op == "read_safetensors" and str(caught.value).startswith("read_safetensors: ")

    class Compiled:
        __class__ = ml.CompiledModel

    refused(lambda: ml.read_safetensors(Compiled(), None, path, {"w": "w"}), "a compiled model is expected")
    for entry in (3, None, ("w",), ("w", "v"), ("w", 1), ["w", True], ("w", True, False), 10**5000, b"w"):
        refused(lambda: read({"linear_0.weight": entry}), "read_safetensors", "linear_0.weight")
    fix = refused(lambda: read({"linear_0.weight": ("w", 1)}), "x of type int", "transpose").fix
    assert fix == 'give "w", or ("w", True) to transpose it'
    for no in (np.False_, np.array([False])[0]):
        assert read({"linear_0.weight": ("w", no)})["linear_0.weight"].shape == (6, 3)
    refused(lambda: read({"linear_0.weight": ("w", np.True_)}), "transposed")
    refused(lambda: read({"linear_0.weight": "\udc80"}), "surrogate")
    refused(lambda: read(["linear_0.weight"]), "mapping")


def test_folders_of_a_cache(xla, tmp_path):
    model = one_block(ml.Relu(), input="x", output="y")
    for folder in (tmp_path / "a", str(tmp_path / "b"), tmp_path / "na\udcefve", os.fsdecode(bytes(tmp_path / "c"))):
        backend = xla(device_mesh=(1,), cache_dir=folder)
        assert np.array_equal(np.asarray(ml.compile(model, backend).evaluate({}, {"x": X})["y"]), np.maximum(X, 0))
        assert os.listdir(folder) and "cache_dir" in backend.describe()
    refused(lambda: xla(device_mesh=(1,), cache_dir=bytes(tmp_path)), "os.fsdecode(x)")
    refused(lambda: xla(device_mesh=(1,), cache_dir=str(tmp_path / "na\udcefve")), "pathlib.Path(x)")


def test_options_may_be_paths():
    assert ml.Linear(4, name=pathlib.PurePosixPath("layer")) is not None
    refused(lambda: ml.Linear(pathlib.Path("x")), "dimension='x' is not an integer")
    refused(lambda: ml.Linear(4, name=bytearray(b"x")), "os.fsdecode")


def test_search_path_of_every_kind(xla, monkeypatch):
    """Python passes over entries that are no str; some are no names of folders."""
    monkeypatch.setattr(
        sys, "path", [pathlib.Path("/nowhere"), b"/bytes", None, 3, "", "a\0b", "\ud800", "caf\udce9", *sys.path]
    )
    assert xla(device_mesh=(1,)).device_count == 1


# ---------------------------------------------------------------- exceptions that stop a program
STOPS = [KeyboardInterrupt, SystemExit, GeneratorExit, type("Stop", (BaseException,), {}), MemoryError]


def raises(stop, **methods):
    """An object each of whose methods raises; with `properties` attributes do."""

    def method(*args, **options):
        raise stop

    return type(
        "Raises", (), {name: property(method) if kind == "property" else method for name, kind in methods.items()}
    )()


class Mapping(dict):
    def __init__(self, stop, where):
        super().__init__(x=X)
        self.stop, self.where = stop, where

    def items(self):
        if self.where == "items":
            raise self.stop
        return self.generate()

    def generate(self):
        yield "x", X
        raise self.stop


def masked_by(stop):
    return type("Masked", (np.ndarray,), {"filled": 1, "mask": property(lambda _: (_ for _ in ()).throw(stop))})(3)


def stopping(stop, backend, relu):
    """Every place at which a value of the caller's runs code of its own."""
    make = lambda **methods: raises(stop, **methods)
    y = backend.array(X)
    for name, kind in itertools.product(("__dlpack__", "__array__"), ("method", "property")):
        yield lambda: backend.array(make(**{name: kind}))
        yield lambda: relu.evaluate({}, {"x": make(**{name: kind})})
    yield lambda: backend.array([make(__array__="method")])
    yield lambda: backend.array(make(__array__="method", requires_grad="property"))
    yield lambda: backend.array(masked_by(stop))
    yield lambda: ml.Linear(make(__repr__="method"))
    yield lambda: ml.Linear(make(tolist="method"))
    yield lambda: ml.Linear(make(tolist="property"))
    yield lambda: ml.Linear(make(__index__="method"))
    yield lambda: ml.Linear(4, name=make(__fspath__="method"))
    yield lambda: ml.Relu()(input=make(__repr__="method"))
    yield lambda: ml.Model().__ior__(make(__repr__="method"))
    yield lambda: ml.compile(make(__repr__="method"), backend)
    yield lambda: backend.zeros(4, spec=(make(tolist="method"),))
    yield lambda: backend.zeros((make(__index__="method"),))
    yield lambda: backend.zeros(4, dtype=make(name="property"))
    yield lambda: backend.zeros(4, dtype=make(__str__="method"))
    yield lambda: backend.randn(4, seed=make(__index__="method"))
    yield lambda: relu.get_parameters(None, make(__index__="method"))
    yield lambda: relu.evaluate({}, make(keys="property"))
    yield lambda: relu.evaluate({}, Mapping(stop, "items"))
    yield lambda: relu.evaluate({}, Mapping(stop, "inside"))
    yield lambda: relu.evaluate({}, Keys(stop, x=X))
    for methods in ({"__getitem__": "method", "__len__": "method"}, {"__getitem__": "method"}):
        yield lambda: backend.zeros(make(**methods))
        yield lambda: relu.evaluate({}, {"x": X}, {}, make(**methods))
        yield lambda: backend.zeros(3, device_mesh=make(**methods))
    yield lambda: relu.evaluate({}, {"x": X}, {}, make(__repr__="method"))
    yield lambda: ml._mithril._read_safetensors(relu, None, make(__fspath__="method"), [("w", "w", False)])
    yield lambda: y.__dlpack__(copy=make(__bool__="method"))


@pytest.mark.parametrize("stop", STOPS, ids=lambda c: c.__name__)
def test_a_stop_while_the_line_of_a_call_is_looked_for(backend, relu, stop):
    """The namespace of the caller may run code when it is read."""

    class Key:
        __hash__ = lambda _: hash("__name__")

        def __eq__(self, other):
            raise stop

    model = one_block(ml.Relu(), input="x", output="y")
    names = {Key(): 1, "ml": ml, "backend": backend, "model": model, "relu": relu, "X": X}
    for call in (
        "ml.Linear('x')",
        "ml.Linear(-4)",
        "backend.zeros('x')",
        "backend.zeros(-1)",
        "ml.compile(model, backend, outputs=['z'])",
        "type(backend)(device_mesh=(0,))",
        "relu.evaluate({}, {'z': X})",
        "relu.get_parameters({'z': X})",
        "model.connect('a', 'b')",
        "model.__ior__(ml.Relu()(input='y', output='z'))",
    ):
        with pytest.raises(stop) as caught:
            eval(call, names)
        assert caught.type is stop
    assert "outputs: y" in repr(model)


@pytest.mark.parametrize("stop", STOPS, ids=lambda c: c.__name__)
def test_exceptions_that_stop(backend, relu, stop):
    for call in stopping(stop, backend, relu):
        with pytest.raises(stop) as caught:
            call()
        assert caught.type is stop
    assert np.array_equal(np.asarray(relu.evaluate({}, {"x": X})["y"]), np.maximum(X, 0))


def test_exceptions_of_objects_have_a_fix(backend):
    """Those that say something of the argument become errors of ours, also where the object can't even be shown."""
    for call in (
        lambda: ml.Linear(raises(ValueError("no"), __repr__="method")),
        lambda: ml.Linear(raises(ValueError("no"), tolist="method", __repr__="method")),
        lambda: ml.Linear(raises(ValueError("no"), __index__="method")),
        lambda: backend.array(raises(ZeroDivisionError("no"), __array__="method", __repr__="method")),
        lambda: backend.array([raises(ZeroDivisionError("no"), __array__="method")]),
        lambda: ml.Relu()(input=raises(ValueError("no"), __repr__="method")),
    ):
        refused(call)
