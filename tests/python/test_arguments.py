"""Arguments of many kinds: numbers, shapes and dtypes of other libraries are taken, what is no number is refused."""

import copy
import decimal
import fractions
import pickle

import numpy as np
import pytest

import mithril as ml
from foreign import refused
from mithril.backends import CBackend
from support import compile_on, one_block, random

X = random(2, 4)


def linear():
    return one_block(ml.Linear(4), input="x", output="y")


# ---------------------------------------------------------------- pickle and copy
def held(backend):
    y = backend.array(X, spec=(0, None))
    model = linear()
    return {
        "Array": y,
        "Shard": y.addressable_shards[0],
        "CompiledModel": ml.compile(model, backend),
        "Block": ml.Linear(4)(input="x"),
        "Model": model,
        "Linear": ml.Linear(4),
        "CBackend": backend,
        "dict of them": {"y": y},
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_pickled_without_what_it_holds(backend, protocol):
    for kind, thing in held(backend).items():
        error = refused(lambda: pickle.dumps(thing, protocol), "pickle")
        assert ("numpy.asarray(x)" in error.fix) == (kind in ("Array", "Shard", "CompiledModel", "dict of them"))


def test_copies_are_what_never_changes(backend):
    things = held(backend)
    for kind in ("Array", "Shard"):
        assert copy.copy(things[kind]) is things[kind] and copy.deepcopy(things[kind]) is things[kind]
    assert copy.copy(things["Linear"]) is things["Linear"]
    assert copy.deepcopy(things["Linear"]) is not things["Linear"]  # with weights of its own
    assert copy.deepcopy(things["dict of them"])["y"] is things["Array"]
    assert copy.copy(things["Block"]) is things["Block"]
    for kind in ("Model", "CBackend", "CompiledModel"):
        refused(lambda: copy.copy(things[kind]), kind)
        refused(lambda: copy.deepcopy(things[kind]), kind)
    refused(lambda: copy.deepcopy(things["Block"]), "Block")


def test_a_subclass_says_how_it_is_pickled():
    backend = Reopened(device_mesh=(2,))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(backend, protocol)).device_mesh == (2,)


class Reopened(CBackend):
    def __reduce__(self):
        return open_again, (self.device_mesh,)


def open_again(mesh):
    return Reopened(device_mesh=mesh)


# ---------------------------------------------------------------- numbers and shapes
def test_bytes_are_no_numbers(backend):
    for given in (b"23", bytearray(b"23"), memoryview(b"23"), "23"):
        refused(lambda: backend.zeros(given), "shape")
        refused(lambda: backend.randn(given), "shape")
        refused(lambda: backend.zeros(2, device_mesh=given), "device_mesh")
    for given in (b"\0", bytearray(b"\0"), memoryview(b"\0")):
        refused(lambda: backend.zeros(2, spec=given), "bytes")
        refused(lambda: ml.Linear(4, weight_shard_spec=given), "bytes")
        refused(lambda: ml.Linear(given), "bytes")
        refused(lambda: ml.compile(linear(), backend, shapes={"x": given}), "bytes")


def test_shapes_of_other_libraries(backend):
    for shape in (np.array([2, 3]), np.array([2, 3], np.uint8), [np.int64(2), 3], range(2, 4), (np.array(2), 3)):
        assert backend.zeros(shape).shape == backend.randn(shape).shape == (2, 3)
        assert backend.randint(0, 5, shape).shape == (2, 3)
    for shape in (np.array(5), np.array([5]), np.int32(5)):
        assert backend.zeros(shape).shape == (5,)
    for mesh in (np.array([2]), np.int64(2), [2]):
        assert backend.array(X, device_mesh=mesh).shape == (2, 4)
    for shape in (np.array([2.0]), np.array([[2, 3]]), {2: 3}, {2, 3}, None, np.array(["2"]), np.ma.masked, [True]):
        refused(lambda: backend.zeros(shape), "shape")
    refused(lambda: backend.zeros(2**63), "from 0 to 2**63 - 1")
    refused(lambda: backend.zeros(-1), "from 0 to 2**63 - 1")
    for mesh in (np.array([2, 2]), np.array([2.5]), 2.5, "2", [[2]]):
        refused(lambda: backend.array(X, device_mesh=mesh), "device_mesh")
    for seed in (np.array([3, 4]), 1.0, "1", b"1"):
        refused(lambda: backend.randn(2, seed=seed), "seed")


def test_shapes_of_torch(backend):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert backend.zeros(torch.tensor([2, 3])).shape == backend.zeros(torch.ones(2, 3).shape).shape == (2, 3)
    refused(lambda: backend.zeros(torch.tensor([2, 3], device="meta")), "shape")


def test_bounds_of_randint(backend):
    for low, high in (("a", 2), (0, "b"), (0.0, 2), (None, 2), (np.array([0, 1]), 2), (0, 2**70)):
        refused(lambda: backend.randint(low, high, (2,)), "randint(0, 10, (4,))")
    assert set(backend.randint(np.int64(3), 4, (5,)).tolist()) == {3}


def test_dtypes_of_shapes(backend):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for dtype in ("float32", np.float32, np.dtype("f4"), torch.float32):
        compiled = ml.compile(linear(), backend, shapes={"x": ((2, 3), dtype)})
        assert compiled.get_parameters()["linear_0.weight"].shape == (3, 4)
    refused(lambda: ml.compile(linear(), backend, shapes={"x": ((2, 3), np.complex64)}), "shapes")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_shapes_of_inputs_that_are_converted(backend, dtype):
    """An input of another floating dtype is computed in float32, whether its array or its shape comes first."""
    compiled = ml.compile(linear(), backend, shapes={"x": ((2, 3), dtype)})
    params = compiled.get_parameters()
    y = compiled.evaluate(params, {"x": np.ones((2, 3), np.float16)})
    assert all(value.dtype == "float32" for value in y.values())


def test_bounds_are_named(backend):
    nine = (1,) * 9
    refused(lambda: ml.compile(linear(), backend, shapes={"x": nine}), "at most 8")
    refused(lambda: ml.compile(linear(), backend, input_shard_specs={"x": (None,) * 9}), "at most 8")
    for seed in (2**63, -(2**63) - 1):
        refused(lambda: ml.Dropout(seed=seed), "from -2**63 to 2**63 - 1")


FLOATS = [  # options that are floats, and what is wrong with their sizes
    lambda x: ml.Dropout(rate=x),
    lambda x: ml.Dropout(x),
    lambda x: ml.LayerNorm(epsilon=x),
    lambda x: ml.RMSNorm(epsilon=x),
    lambda x: ml.MultiHeadAttention(2, scale=x),
    lambda x: ml.MultiHeadAttention(2, rotary=True, rope_base=x),
    lambda x: ml.PositionalEncoding(9, kind="rotary", base=x),
    lambda x: ml.MoE(4, 8, capacity_factor=x),
]


@pytest.mark.parametrize("make", FLOATS)
def test_huge_floats(make):
    """What float32 does not hold is refused, not taken as infinite; whole numbers are read as floats are."""
    for huge in (10**400, -(10**400), 10**100, 1e300, -1e39, np.longdouble("1e300"), np.float64(1e300)):
        error = refused(lambda: make(huge), "does not fit in float32")
        assert "3.4028235e+38" in error.fix and error.op
    for infinite in (float("inf"), np.float32("nan"), np.longdouble("inf")):
        assert "finite" in refused(lambda: make(infinite), "not finite").fix
    for half in (0.5, np.float16(0.5), np.longdouble(0.5), np.array(0.5)):
        assert make(half) is not None
    for other in (decimal.Decimal("0.5"), fractions.Fraction(1, 2)):
        fix = refused(lambda: make(other), type(other).__name__).fix
        assert fix == "give the number as Python's own: float(x), or int(x)"
        assert make(float(other)) is not None


@pytest.mark.parametrize("make", FLOATS)
def test_tiny_floats(make):
    """Engines may take for 0 what float32 has no normal number for, and a norm of equal elements is then no number."""
    for tiny in (1e-46, 1e-40, -1e-40, 5e-324, np.float32(1e-45), np.float64(1.17549434e-38)):
        error = refused(lambda: make(tiny), "too small for float32")
        assert "1.1754944e-38" in error.fix and error.op
    assert make(1.1754944e-38) is not None


def test_options_that_need_another():
    """An option that says nothing where it stands is no mistake as long as it is the default."""
    for make, other in (
        (lambda **options: ml.PositionalEncoding(8, **options), {"kind": "rotary"}),
        (lambda **options: ml.MultiHeadAttention(2, **options), {"rotary": True}),
    ):
        prefix = "" if "kind" in other else "rope_"
        cases = {prefix + "base": (500.0, 10000), prefix + "interleaved": (True, False)}
        if "kind" in other:
            cases["head_dim"] = (4, None)
        for name, (value, default) in cases.items():
            need = ", ".join(f"{k}={v!r}" for k, v in other.items())
            error = refused(lambda: make(**{name: value}), name, f"says nothing without {need}")
            assert error.fix == f"leave {name} out, or give {need}"
            assert make(**{name: default}) and make(**{name: value}, **other)
        for base in (0, -0.0, -1, -(2**63)):
            error = refused(lambda: make(**{prefix + "base": base}, **other), prefix + "base")
            assert error.fix == f"give {prefix}base a value above 0, such as 10000"
    for kind in ("sinusoidal", "learned"):
        refused(lambda: ml.PositionalEncoding(8, kind=kind, base=10.0), "kind='rotary'")


def test_numbers_of_other_sizes():
    assert ml.MultiHeadAttention(2, scale=10**20) is not None  # no whole number of 64 bits, and a float
    assert "below 1" in refused(lambda: ml.Dropout(rate=10**20)).fix
    assert "an integer" in refused(lambda: ml.Linear(np.longdouble(4))).fix
    for huge in (10**20, 10**400, -(10**400)):
        refused(lambda: ml.Linear(huge), "64 bits")
        refused(lambda: ml.Dropout(seed=huge), "64 bits")
        refused(lambda: ml.Linear(4, weight_shard_spec=(huge, None)), "64 bits")


def test_names_that_are_nearly_right(backend):
    """Typing errors, abbreviations, and ports that an option makes; what is meant works."""
    assert refused(lambda: ml.LayerNorm(eps=1e-5), "eps").fix == "did you mean 'epsilon'?"
    assert refused(lambda: ml.Linear(dim=4), "dim").fix == "did you mean 'dimension'?"
    assert refused(lambda: CBackend(device_mash=(2,)), "device_mash").fix == "did you mean 'device_mesh'?"
    assert "did you mean 'outputs'?" == refused(lambda: ml.compile(linear(), backend, output=["y"]), "output").fix

    def wired(port, **options):
        return one_block(ml.MoE(4, 8, **options), input="x", output="y", **{port: "d"})

    error = refused(lambda: wired("droped").outputs, "no port 'droped'")
    assert error.fix == "did you mean 'dropped'? Give MoE capacity_factor=1.25 for it"
    assert "did you mean 'dropped'?" in refused(lambda: wired("droped", capacity_factor=1.25).outputs).fix
    assert refused(lambda: wired("dropped").outputs).fix == "give MoE capacity_factor=1.25"
    assert wired("dropped", capacity_factor=1.25).outputs == ["y", "d"]
    assert "load_balancing_loss=True" in refused(lambda: wired("load_balancing_los").outputs).fix


def test_keys_that_are_no_text(backend):
    for make, operator, option in (
        (lambda: ml.Linear(4, shard_specs={0: (0,)}), "Linear", "shard_specs"),
        (lambda: ml.compile(linear(), backend, shapes={0: (2,)}), "compile", "shapes"),
        (lambda: CBackend(device_mesh=(2,), collective_ops={None: "ring"}), "backend", "collective_ops"),
    ):
        assert refused(make, option).op == operator


def test_masked_options():
    masked = np.ma.masked
    for make in (
        lambda: ml.Linear(masked),
        lambda: ml.Linear(4, bias=masked),
        lambda: ml.Linear(4, weight_shard_spec=np.ma.masked_array([0, 1], [0, 1])),
    ):
        assert refused(make, "masked").op == "Linear"
    assert ml.Linear(np.ma.masked_array(4, False)) is not None


def test_arguments_of_compile(backend):
    model = linear()
    for arguments in ((), (model,), (model, backend, 1)):
        refused(lambda: ml.compile(*arguments), "compile", "ml.compile(model, backend)")
    refused(lambda: ml.compile(model=model, backend=backend), "by position")


def test_truths(backend):
    compiled = compile_on((2,), linear())
    refused(lambda: compiled.program_text({"x": X}, np.array([1, 0])), "gradients=")
    assert compiled.program_text({"x": X}, np.True_) == compiled.program_text({"x": X}, gradients=1)


def test_keys_are_formatted():
    assert "%s" % ml.IOKey("b") == "b" and "%s %s" % (ml.IOKey("a"), ml.IOKey("b")) == "a b"
    assert ml.IOKey("layer%d") % 3 == "layer3" and f"{ml.IOKey('b')}" == "b"
    for operate in (lambda: ml.IOKey("b") % 3, lambda: 3 % ml.IOKey("b"), lambda: ml.IOKey("a") % ml.IOKey("b")):
        refused(operate, "'%' does nothing to them")
