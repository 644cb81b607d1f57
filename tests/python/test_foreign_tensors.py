"""Tensors of torch and arrays of jax: taken where they can be, else an error whose fix gives their values."""

import subprocess
import sys

import numpy as np
import pytest

from foreign import Producer, refused
from support import HANGS, random

X = random(6, 8)


class Parts:
    """An array that lies in parts, as jax's over several devices: no protocol shares it, __array__ puts it together."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        raise BufferError("an array with a sharding over 4 devices was provided")

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_arrays_in_parts(backend, relu):
    assert np.array_equal(np.asarray(backend.array(Parts(X))), X)
    assert np.array_equal(np.asarray(relu.evaluate({}, {"x": Parts(X[::-1])})["y"]), np.maximum(X[::-1], 0))
    on_device = Producer(X, device_type=2)
    refused(lambda: backend.array(on_device), "another device")
    on_device.__array__ = lambda: X
    assert np.array_equal(np.asarray(backend.array(on_device)), X)
    refused(lambda: backend.array(Parts("text")), "4 devices")
    refused(lambda: backend.array(Parts(X.astype("M8[s]"))), "4 devices")


def tensor_with(**says):
    """Looks like torch's: refuses to share its memory, and says in what state it is."""

    def refuse(self, **options):
        raise BufferError("can't export")

    return type("Tensor", (), {"__dlpack__": refuse, **says})()


def test_fixes_of_tensors(backend):
    layout = type("layout", (), {"__repr__": lambda _: "torch.sparse_csr"})()
    no, yes = (lambda _: False), (lambda _: True)
    for says, fix in (
        (dict(requires_grad=True), "pass x.detach()"),
        (dict(requires_grad=False, layout=layout), "pass x.to_dense()"),
        (dict(requires_grad=True, layout=layout, is_cuda=True), "pass x.detach().to_dense().cpu()"),
        (dict(is_quantized=True, is_neg=no), "pass x.dequantize()"),
        (dict(is_nested=True, layout=layout), "pass x.to_padded_tensor(0)"),
        (dict(is_meta=True), 'torch.zeros_like(x, device="cpu")'),
        (dict(is_deleted=yes), "jax.numpy.copy(x)"),
        (dict(is_neg=yes), "pass x.resolve_neg()"),
        (dict(), "numpy.array"),
    ):
        assert fix in refused(lambda: backend.array(tensor_with(**says))).fix


def test_torch(backend):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    t = torch.tensor(X)
    csr = t.to_sparse_csr
    for make, expected in (
        (lambda: t.clone().requires_grad_(), X),
        (lambda: torch.nn.Parameter(t), X),
        (t.to_sparse, X),
        (csr, X),
        (lambda: t.to_sparse().requires_grad_(), X),
        (t.to_mkldnn, X),
        (lambda: torch.quantize_per_tensor(t.round(), 1.0, 0, torch.qint8), X.round()),
        (lambda: torch.complex(t, -t).conj().imag, X),
        (lambda: torch.complex(t, t).conj(), X),
    ):
        x = make()
        fix = refused(lambda: backend.array(x)).fix
        assert fix.startswith("pass x."), fix
        assert np.array_equal(np.asarray(backend.array(eval(fix.removeprefix("pass ")))), expected)
    fix = refused(lambda: backend.array([[t.clone().requires_grad_()]]), "requires grad").fix
    assert fix == "give x.detach() for each x in them"
    assert np.array_equal(np.asarray(backend.array([[t.clone().requires_grad_().detach()]])), X[None, None])
    x = t.to("meta")
    fix = refused(lambda: backend.array(x)).fix
    assert backend.array(eval(fix.removeprefix("give it memory and values: "))).shape == X.shape
    for given in (t.expand(2, *X.shape), t.T, t[::2], t.bfloat16(), t.half(), torch.tensor(3), t > 0, t[:0], t.flip(0)):
        want = (given.float() if given.dtype.is_floating_point else given).numpy()
        assert np.array_equal(np.asarray(backend.array(given)), want)
    refused(lambda: backend.array(torch.zeros((), dtype=torch.int8).expand(2**31, 2**31)), "2^62")


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_masked_tensors_of_torch(backend):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    shown = torch.tensor(X > 0)
    for gradients in (False, True):
        x = torch.masked.masked_tensor(torch.tensor(X), shown, requires_grad=gradients)
        for given in (x, [x]):
            assert "x.detach().to_tensor(0)" in refused(lambda: backend.array(given), "mask").fix
        values = np.asarray(backend.array(x.detach().to_tensor(0)))
        assert np.array_equal(values, np.where(X > 0, X, 0))
        assert np.array_equal(np.asarray(backend.array(x.get_mask())), X > 0)


def test_transforms_of_torch(backend):
    """Inside of grad and vmap a tensor has no memory, detached or not: what the fix offers gives its values."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    t, seen = torch.tensor(X), []

    def visit(x):
        for given in (x, x.detach()):
            fix = refused(lambda: backend.array(given), "transform of torch.func").fix
            assert fix.startswith("pass torch.func.debug_unwrap(x"), fix
            value = eval(fix.removeprefix("pass "), {"torch": torch, "x": given})
            seen.append(np.asarray(backend.array(value)))
        listed = refused(lambda: backend.array([x])).fix
        form = refused(lambda: backend.array(x)).fix.removeprefix("pass ")
        assert listed == f"give {form} for each x in them"
        return (x * x).sum()

    for transform in (torch.func.grad(visit), torch.func.vmap(visit), torch.func.vmap(torch.func.grad(visit))):
        transform(t)
    torch.func.jvp(visit, (t,), (t,)), torch.func.functionalize(visit)(t)
    torch.func.grad(visit)(t.clone().requires_grad_())
    assert len(seen) == 12 and all(np.array_equal(values, X) for values in seen)


def test_dual_tensors_of_torch(backend, relu):
    """A tangent would be lost: the values alone are what the fix gives, and what has no tangent is taken."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    forward_ad = torch.autograd.forward_ad
    t, ones = torch.tensor(X), torch.ones(*X.shape)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(t, ones)
        for given, prefix in (
            (dual, "unpack_dual(x).primal"),
            (dual.detach(), None),
            (dual * 2, "unpack_dual(x).primal"),
            (dual.T[::2], "unpack_dual(x).primal"),
            (dual.bfloat16(), "unpack_dual(x).primal"),
            (forward_ad.make_dual(t.clone().requires_grad_(), ones), "unpack_dual(x.detach()).primal"),
            (forward_ad.make_dual(torch.nn.Parameter(t), ones), "unpack_dual(x.detach()).primal"),
            (forward_ad.make_dual(torch._neg_view(t), ones), "unpack_dual(x.resolve_neg()).primal"),
            (forward_ad.unpack_dual(dual).primal, None),
            (forward_ad.unpack_dual(dual).tangent, None),
            (dual > 0, None),
        ):
            if prefix is None:
                assert forward_ad.unpack_dual(given).tangent is None
                assert np.array_equal(np.asarray(backend.array(given)), given.numpy())
                continue
            primal = forward_ad.unpack_dual(given).primal.detach().resolve_neg().float().numpy()
            for call in (backend.array, lambda x: relu.evaluate({}, {"x": x})["y"]):
                fix = refused(lambda: call(given), "dual tensor").fix
                assert fix == f"pass torch.autograd.forward_ad.{prefix}"
                value = np.asarray(call(eval(fix.removeprefix("pass "), {"torch": torch, "x": given})))
                assert np.array_equal(value, primal if call == backend.array else np.maximum(primal, 0))
            fix = refused(lambda: backend.array([given])).fix
            form = fix.removeprefix("give ").removesuffix(" for each x in them")
            assert np.array_equal(np.asarray(backend.array([eval(form, {"torch": torch, "x": given})])), primal[None])
    assert np.array_equal(np.asarray(backend.array(dual)), X)  # outside of its level a tensor as any other


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_tensors_of_torch_without_memory(backend, relu):
    """Of them torch shares no address, or says nothing and NumPy takes what lies anywhere."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from torch._subclasses.fake_tensor import FakeTensorMode

    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            raise NotImplementedError

    t = torch.tensor(X)
    emptied = torch.zeros(3, 4)
    emptied.untyped_storage().resize_(0)
    with FakeTensorMode() as mode:
        fake = torch.zeros(3, 4)
        refused(lambda: backend.array(fake), "without memory")
    for given in (
        fake,
        mode.from_tensor(t),
        torch._to_functional_tensor(t),
        torch._to_functional_tensor(t.clone().requires_grad_()),
        Wrapper(t),
        torch.nn.UninitializedParameter(),
        emptied,
    ):
        for call in (backend.array, lambda x: relu.evaluate({}, {"x": x})):
            fix = refused(lambda: call(given), "without memory").fix
            assert fix == 'give the tensor that it stands for, or zeros: numpy.zeros(shape, "float32")'
        assert refused(lambda: backend.array([given, given])).fix == fix
    zeros = torch._efficientzerotensor(3)
    for fix in (refused(lambda: backend.array(zeros)).fix, refused(lambda: backend.array([zeros])).fix):
        assert "x.clone()" in fix
    assert backend.array(zeros.clone()).tolist() == [0, 0, 0]
    for given in (emptied[:0], torch.zeros(0, 3)):  # where there are no elements there need be no memory
        assert backend.array(given).shape == tuple(given.shape)


def test_torch_writes_into_a_copy(backend):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    y = backend.array(X)
    for t in (
        torch.from_dlpack(y),
        torch.from_dlpack(y.__dlpack__()),
        torch.from_dlpack(y, copy=True),
        torch.from_dlpack(y, device="cpu"),
    ):
        assert np.array_equal(t.numpy(), X)
        t[0, 0] = 5
        assert np.array_equal(np.asarray(y), X)
    sharded = backend.array(X, spec=(0, None))
    for t in (torch.from_dlpack(sharded), torch.from_dlpack(sharded, copy=True), torch.from_numpy(np.array(sharded))):
        t[0, 0] = 5
        assert np.array_equal(np.asarray(sharded), X) and sharded.tolist()[0][0] == X[0, 0]
    for options in ({}, {"device": "cpu"}):
        with pytest.raises(BufferError, match="read-only"):
            torch.from_dlpack(y, copy=False, **options)


def test_jax(backend, relu):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = jax.numpy.asarray(X)
    gone = jax.numpy.copy(x)
    kept = jax.numpy.copy(gone)
    gone.delete()
    assert "jax.numpy.copy(x)" in refused(lambda: backend.array(gone), "deleted").fix
    assert np.array_equal(np.asarray(backend.array(kept)), X)
    assert np.array_equal(np.asarray(jax.dlpack.from_dlpack(backend.array(x))), X)


def test_random_keys_of_jax(backend):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    key = jax.random.key(5)
    assert refused(lambda: backend.array(key)).fix == "pass jax.random.key_data(x)"
    assert refused(lambda: backend.array([key, key])).fix == "give jax.random.key_data(x) for each x in them"
    assert np.array_equal(np.asarray(backend.array(jax.random.key_data(key))), [0, 5])
    assert np.array_equal(np.asarray(backend.array([jax.random.key_data(key)] * 2)), [[0, 5]] * 2)


def test_tracers_of_jax(backend, relu):
    """They have no values, which a callback has."""
    jax = pytest.importorskip("jax", reason="jax is not installed")

    def refuse(x):
        for call in (backend.array, lambda x: backend.array([x]), lambda x: relu.evaluate({}, {"x": x})):
            assert "jax.pure_callback" in refused(lambda: call(x), "trace").fix
        return (x * x).sum()

    x = jax.numpy.asarray(X)
    jax.jit(refuse)(x), jax.grad(refuse)(x), jax.vmap(refuse)(x), jax.jvp(refuse, (x,), (x,))
    run = jax.jit(
        lambda x: jax.pure_callback(
            lambda x: np.asarray(relu.evaluate({}, {"x": x})["y"]), jax.ShapeDtypeStruct(X.shape, X.dtype), x
        )
    )
    assert np.array_equal(np.asarray(run(x)), np.maximum(X, 0))


JAX_PARTS = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import mithril as ml
from mithril.backends import CBackend
X = np.arange(48, dtype=np.float32).reshape(8, 6)
mesh, backend = Mesh(np.array(jax.devices()), ("a",)), CBackend(device_mesh=(2,))
for spec in (PartitionSpec("a"), PartitionSpec()):
    for dtype in ("float32", "bfloat16", "int32"):
        x = jax.device_put(jax.numpy.asarray(X, dtype), NamedSharding(mesh, spec))
        assert np.array_equal(np.asarray(backend.array(x)), X), (spec, dtype)
"""


def test_jax_arrays_over_devices():
    pytest.importorskip("jax", reason="jax is not installed")
    run = subprocess.run([sys.executable, "-c", JAX_PARTS], capture_output=True, text=True, timeout=HANGS)
    assert run.returncode == 0, run.stderr
