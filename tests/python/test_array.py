"""Arrays: shards, sharing without a copy, and what is accepted in their place."""

import array as python_array
import gc
import operator

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend
from mithril.errors import MithrilTypeError, MithrilValueError
from support import compile_on, one_block, random

X = random(6, 8)


@pytest.fixture
def backend():
    return CBackend(device_mesh=(2, 2))


def test_properties(backend):
    a = backend.array(X)
    assert (a.shape, a.ndim, a.size, a.nbytes, len(a)) == ((6, 8), 2, 48, 192, 6)
    assert str(a.dtype) == "float32" and a.dtype == np.float32
    assert np.array_equal(np.asarray(a), X) and np.asarray(a, dtype=np.float64).dtype == np.float64
    assert a.tolist() == X.tolist()
    assert "float32 (6, 8)" in repr(a)
    for dtype in ("float32", "int32", "int64", "bool", "float64"):
        b = backend.ones(2, 3, dtype=dtype)
        assert str(b.dtype) == dtype and np.asarray(b).dtype == dtype and np.asarray(b).all()


@pytest.mark.parametrize("spec", [None, (0, None), (None, 1), (1, 0), ((0, 1), None), (None, (1, 0))], ids=str)
def test_shards(backend, spec):
    a = backend.array(X, spec=spec, device_mesh=(2, 2))
    seen = np.zeros(X.shape, int)
    assert [s.device_id for s in a.addressable_shards] == [0, 1, 2, 3]
    for s in a.addressable_shards:
        assert isinstance(s.data, memoryview) and np.array_equal(np.asarray(s.data), X[s.index])
        seen[s.index] += 1
    assert (
        seen.min()
        == seen.max()
        == (4 if spec is None else 2 if None in spec and spec not in (((0, 1), None), (None, (1, 0))) else 1)
    )
    assert np.array_equal(np.asarray(a), X)


def test_uneven_and_empty_shards():
    a = CBackend(device_mesh=(4,)).array(random(5, 3), spec=(0, None))
    assert [np.asarray(s.data).shape for s in a.addressable_shards] == [(2, 3), (2, 3), (1, 3), (0, 3)]
    assert np.array_equal(np.asarray(a), random(5, 3))


def test_scalars(backend):
    a = backend.array(2.5)
    assert a.shape == () and float(a) == 2.5 and int(a) == 2 and a.item() == 2.5
    assert int(backend.array(7)) == 7
    with pytest.raises(TypeError):
        len(a)
    with pytest.raises(MithrilValueError, match="48 elements"):
        float(backend.array(X))


def test_no_copy(backend):
    a = backend.array(X)
    view = np.asarray(a)
    assert view.ctypes.data == np.asarray(a.addressable_shards[0].data).ctypes.data == np.asarray(a).ctypes.data
    assert not view.flags.writeable
    with pytest.raises((BufferError, ValueError, TypeError)):
        memoryview(a)[0, 0] = 1
    sharded = backend.array(X, spec=(0, None))
    assert np.asarray(sharded).ctypes.data == np.asarray(sharded).ctypes.data, "the gathered copy is made once"
    assert np.array(a, copy=True).flags.writeable
    assert a.__array__(copy=False).ctypes.data == view.ctypes.data
    with pytest.raises(ValueError):
        sharded.__array__(copy=False)


def test_memory_outlives_the_array():
    view = np.asarray(CBackend(device_mesh=(2,)).array(X, spec=(0, None)).addressable_shards[1].data)
    whole = np.asarray(CBackend(device_mesh=(2,)).array(X))
    gc.collect()
    [CBackend(device_mesh=(2,)).zeros(6, 8) for _ in range(10)]
    assert np.array_equal(view, X[3:]) and np.array_equal(whole, X)


def test_dlpack(backend):
    a = backend.array(X)
    assert a.__dlpack_device__() == (1, 0)
    b = np.from_dlpack(a)
    assert np.array_equal(b, X) and b.ctypes.data == np.asarray(a).ctypes.data
    assert (
        a.__dlpack__() is not None and a.__dlpack__(max_version=(1, 1)) is not None
    )  # not consumed: released with the capsule
    assert np.array_equal(np.from_dlpack(backend.array(X, spec=(0, None))), X)
    del a
    gc.collect()
    assert np.array_equal(b, X)


def test_dlpack_to_torch(backend):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for dtype in ("float32", "int32", "int64", "bool"):
        a = backend.ones(3, 4, dtype=dtype)
        t = torch.from_dlpack(a)
        assert t.shape == (3, 4) and str(t.dtype) == f"torch.{dtype}" and t.all()
    assert np.array_equal(np.asarray(backend.array(torch.tensor(X).T)), X.T)
    assert np.array_equal(
        np.asarray(backend.array(torch.tensor(X, dtype=torch.bfloat16))),
        torch.tensor(X, dtype=torch.bfloat16).float().numpy(),
    )
    with pytest.raises(MithrilTypeError, match="detach"):
        backend.array(torch.tensor(X, requires_grad=True))


ACCEPTED = {
    "float64": X.astype(np.float64),
    "float16": X.astype(np.float16),
    "fortran": np.asfortranarray(X),
    "strided": np.repeat(X, 2, 1)[:, ::2],
    "reversed": X[::-1].copy()[::-1],
    "memoryview": memoryview(X),
    "transposed": X.T.copy().T,
    "read-only": np.frombuffer(X.tobytes(), np.float32).reshape(X.shape),
    "broadcast": np.broadcast_to(X[:1], X.shape),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_inputs(name):
    given = ACCEPTED[name]
    compiled = compile_on((2,), one_block(ml.Relu(), input="x", output="y"))
    assert np.array_equal(
        np.asarray(compiled.evaluate({}, {"x": given})["y"]), np.maximum(np.asarray(given).astype(np.float32), 0)
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_accepted_ids(dtype):
    compiled = compile_on((2,), one_block(ml.Embedding(9, 4), input="x", output="y"))
    ids = np.array([[1, 8], [0, 3]], dtype)
    params = compiled.get_parameters({"x": ids})
    assert np.array_equal(
        np.asarray(compiled.evaluate(params, {"x": ids})["y"]), np.asarray(params["embedding_0.weight"])[ids]
    )


def test_python_arrays(backend):
    assert np.array_equal(np.asarray(backend.array(python_array.array("d", [1, 2, 3]))), [1, 2, 3])
    a = backend.array([[1, 2], [3, 4]])
    assert a.shape == (2, 2) and str(a.dtype) == "int64"
    assert str(backend.array([[1, 2], [3, 4]], dtype="float32").dtype) == "float32"
    assert str(backend.array(np.arange(3), np.int32).dtype) == "int32"
    assert np.array_equal(np.asarray(backend.array(a)), np.asarray(a))


def test_random(backend):
    a, b = backend.randn(50, 40), backend.randn((50, 40))
    assert a.shape == b.shape == (50, 40) and not np.array_equal(np.asarray(a), np.asarray(b)), (
        "successive draws differ"
    )
    assert np.array_equal(np.asarray(CBackend(device_mesh=(3,)).randn(50, 40)), np.asarray(a)), (
        "a program repeats itself"
    )
    sharded = CBackend(device_mesh=(4,)).randn(50, 40, seed=3, spec=(None, 0))
    assert np.array_equal(np.asarray(sharded), np.asarray(backend.randn(50, 40, seed=3))), (
        "a seed gives the same on any mesh"
    )
    assert abs(np.asarray(a).mean()) < 0.1 and abs(np.asarray(a).std() - 1) < 0.05
    ids = np.asarray(backend.randint(-3, 5, (1000,)))
    assert ids.dtype == np.int32 and set(ids) == set(range(-3, 5))


def test_backend(backend):
    assert backend.device_mesh == (2, 2) and backend.device_count == 4
    assert repr(backend) == "CBackend(device_mesh=(2, 2))" and "native" in backend.describe()
    assert CBackend((3,)).device_mesh == (3,) and CBackend(device_mesh=3).device_count == 3


def test_mixed_mappings():
    """Parameters from several sources at once, in a mapping that is no dict."""
    import types

    compiled = compile_on((2,), one_block(ml.Linear(4), input="x", output="y"))
    params = compiled.get_parameters({"x": X})
    mixed = types.MappingProxyType({"linear_0.weight": params["linear_0.weight"], "linear_0.bias": np.zeros(4)})
    y = compiled.evaluate(params=mixed, inputs={"x": X})["y"]
    assert np.allclose(np.asarray(y), X @ np.asarray(params["linear_0.weight"]), atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [[1.0, 2.0], 3, 3.5, None, "text", b"bytes", object(), np.array([1j]), np.array(["a"]), np.zeros((1,) * 9)],
    ids=lambda v: type(v).__name__,
)
def test_refused_inputs(bad):
    compiled = compile_on((1,), one_block(ml.Relu(), input="x", output="y"))
    with pytest.raises((MithrilTypeError, MithrilValueError)) as caught:
        compiled.evaluate({}, {"x": bad})
    assert "inputs['x']" in str(caught.value) and caught.value.fix
    assert compiled.evaluate({}, {"x": X})["y"].shape == X.shape


def test_layout_has_no_data():
    compiled = compile_on((2,), one_block(ml.Linear(4, weight_shard_spec=(0, None)), input="x", output="y"))
    layout = compiled.get_parameter_layout({"x": X})["linear_0.weight"]
    assert (
        layout.shape == (8, 4)
        and [s.index[0] for s in layout.addressable_shards] == [slice(0, 4), slice(4, 8)]
        and "(8, 4)" in repr(layout)
    )
    for use in (np.asarray, lambda a: a.addressable_shards[0].data):
        with pytest.raises(ValueError, match="layout"):
            use(layout)


def test_nothing_is_kept():
    """Arrays, models and runs leave no allocation behind."""

    def work():
        backend = CBackend(device_mesh=(2,))
        model = one_block(ml.Linear(4, weight_shard_spec=(0, None)), input="x", output="y")
        compiled = ml.compile(model, backend)
        params = compiled.get_parameters({"x": X})
        compiled.evaluate(params, {"x": X}, {"y": np.ones((6, 4))}, ["x"])
        np.asarray(params["linear_0.weight"]), compiled.program_text(), repr(model)

    work()
    gc.collect()
    before = operator.itemgetter(1)(ml._mithril._allocations())
    for _ in range(3):
        work()
    gc.collect()
    assert ml._mithril._allocations()[1] == before


def test_dlpack_of_other_kinds_is_refused():
    class Number:
        def __dlpack__(self):
            return 5

    backend = CBackend(device_mesh=(2,))
    with pytest.raises(TypeError, match="gave no capsule"):
        backend.array(Number())
    with pytest.raises(TypeError, match="pairs of numbers"):
        backend.zeros(3).__dlpack__(max_version="1.0")


def test_buffers_are_row_major():
    x = CBackend(device_mesh=(2,)).array(np.arange(6, dtype="float32").reshape(2, 3))
    fortran = np.asarray(x, order="F")
    assert fortran.flags.f_contiguous and fortran.tolist() == x.tolist() == [[0, 1, 2], [3, 4, 5]]
