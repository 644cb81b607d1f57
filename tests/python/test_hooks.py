"""use_module_hooks: a hook is given each piece of a tensor that goes from device to device, before it goes."""

import gc
import signal
import threading
import weakref

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, JaxBackend, ReferenceBackend, TorchBackend
from support import close, random, shaken

X = {"x": random(6, 8)}


def hooked(mesh, **options):
    return ReferenceBackend(device_mesh=mesh, use_module_hooks=True, **options)


def chain():
    model = ml.Model()
    model |= ml.Linear(5, device_id=0)(input="x", output="h0")
    model |= ml.Relu(device_id=0)(input="h0", output="a0")
    model |= ml.Linear(4, device_id=1)(input="a0", output="h1")
    model |= ml.Tanh(device_id=2)(input="h1", output="y")
    return model


def compiled_chain(backend):
    compiled = ml.compile(chain(), backend)
    return compiled, shaken(compiled.get_parameters(X))


class Seen(list):
    """A hook that keeps what it is given."""

    def __call__(self, *arguments):
        self.append(arguments)


# ---------------------------------------------------------------- what a hook is given
@pytest.mark.parametrize("threads", [False, True])
def test_activations_and_gradients(threads):
    backend = hooked((3,), device_threads=threads)
    compiled, params = compiled_chain(backend)
    seen = Seen()
    backend.register_hook(seen)
    seed = random(6, 4)
    compiled.evaluate(params, X, {"y": seed})
    a0 = np.maximum(X["x"] @ params["linear_0.weight"] + params["linear_0.bias"], 0)
    h1 = a0 @ params["linear_1.weight"] + params["linear_1.bias"]
    dh1 = seed * (1 - np.tanh(h1) ** 2)
    da0 = dh1 @ params["linear_1.weight"].T
    want = [("linear_1", 0, 1, a0), ("tanh_0", 1, 2, h1), ("linear_1", 2, 1, dh1), ("relu_0", 1, 0, da0)]
    assert [(operator, source, target) for _, operator, source, target in seen] == [w[:3] for w in want]
    for (tensor, *_), (*_, value) in zip(seen, want):
        assert isinstance(tensor, np.ndarray) and tensor.dtype == np.float32
        close(tensor, value)


def test_dtypes():
    model = ml.Model()
    model |= ml.Slice(0, start=1, stop=3, device_id=0)(input="ids", output="part")
    model |= ml.Embedding(9, 4, device_id=1)(input="part", output="y")
    backend = hooked((3,))
    seen = Seen()
    backend.register_hook(seen)
    ids = np.arange(8).reshape(4, 2)
    for dtype in (np.int32, np.int64):
        compiled = ml.compile(model, backend)
        compiled.evaluate(compiled.get_parameters({"ids": ids.astype(dtype)}), {"ids": ids.astype(dtype)})
        ((tensor, *rest),) = seen
        assert tensor.dtype == dtype and np.array_equal(tensor, ids[1:3]) and rest == ["embedding_0", 0, 1]
        seen.clear()
    x = {"x": backend.array(X["x"], dtype="float64")}
    compiled = ml.compile(chain(), backend)
    compiled.evaluate(compiled.get_parameters(x), x)
    assert [tensor.dtype for tensor, *_ in seen] == [np.float64] * 2


def split():
    model = ml.Model()
    model |= ml.Linear(7, weight_shard_spec=(0, None))(input="x", output="h")
    model += ml.LayerNorm()
    model += ml.Linear(5, weight_shard_spec=(None, 0))
    model += ml.MoE(5, 6, expert_distribution="round_robin")(output="y")
    return model


def stages():
    def stage(width):
        model = ml.Model()
        model |= ml.Linear(width)(input="input", output="output")
        return model

    model = ml.Model()
    model |= ml.Pipeline(stages=[stage(8), stage(5), stage(4)], device_assignment=[0, [1, 2], 3], microbatch_size=2)(
        input="x", output="y"
    )
    return model


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("make", [split, stages, chain])
def test_every_byte_that_crosses(make, threads):
    """As the reports count it, and the trace."""
    backend = hooked((4,), device_threads=threads, trace_module_partitioning=True)
    compiled = ml.compile(make(), backend)
    seen = Seen()
    backend.register_hook(seen)
    params = compiled.get_parameters(X)
    width = compiled.evaluate(params, X)["y"].shape
    seen.clear()
    compiled.evaluate(params, X, {"y": random(*width)})
    usage = compiled.get_communication_usage()
    for device, counted in enumerate(usage):
        assert sum(tensor.nbytes for tensor, _, _, target in seen if target == device) == counted["received"]
        assert sum(tensor.nbytes for tensor, _, source, _ in seen if source == device) == counted["sent"]
    traced = {}
    for row in backend.partition_trace().rows:
        for crossing in [*row.forward, *row.backward]:
            key = row.operator, crossing.from_device, crossing.to_device
            traced[key] = traced.get(key, 0) + crossing.bytes
    have = {}
    for tensor, operator, source, target in seen:
        while operator not in {row.operator for row in backend.partition_trace().rows}:  # of an inner parameter
            operator = operator.rpartition(".")[0]
        have[operator, source, target] = have.get((operator, source, target), 0) + tensor.nbytes
    assert have == traced and have


def test_results_do_not_depend_on_hooks():
    """A hook has a copy; what it does with it changes nothing."""
    plain, params = compiled_chain(hooked((3,)))
    want = plain.evaluate(params, X, {"y": random(6, 4)})
    backend = hooked((3,))
    compiled, _ = compiled_chain(backend)

    def spoil(tensor, *_):
        tensor[...] = np.nan

    seen = Seen()
    backend.register_hook(spoil)
    backend.register_hook(seen)
    got = compiled.evaluate(params, X, {"y": random(6, 4)})
    for have, expected in zip(got, want):
        assert all(np.array_equal(np.asarray(have[k]), np.asarray(expected[k])) for k in expected)
    assert len(seen) == 4 and not any(np.isnan(tensor).any() for tensor, *_ in seen)


def test_a_class_may_make_tensors_of_its_own():
    class Named(ReferenceBackend):
        @staticmethod
        def _crossing_tensor(array, dtype):
            return dtype, array.shape

    backend = Named(device_mesh=(3,), use_module_hooks=True)
    compiled, params = compiled_chain(backend)
    seen = Seen()
    backend.register_hook(seen)
    compiled.evaluate(params, X)
    assert [tensor for tensor, *_ in seen] == [("float32", (6, 5)), ("float32", (6, 4))]


@pytest.mark.parametrize("gradients", [False, True])
def test_torch_tensors(gradients):
    """On TorchBackend the same, as tensors of torch's; and exceptions, which come from threads of its devices."""
    torch = pytest.importorskip("torch")
    plain = Seen()
    reference = hooked((3,))
    reference.register_hook(plain)
    compiled, params = compiled_chain(reference)
    seed = ({"y": random(6, 4)},) if gradients else ()
    compiled.evaluate(params, X, *seed)
    backend = TorchBackend(device_mesh=(3,), use_module_hooks=True, trace_module_partitioning=True)
    seen = Seen()
    handle = backend.register_hook(seen)
    compiled = ml.compile(chain(), backend)
    compiled.evaluate(params, X, *seed)
    assert [rest for _, *rest in seen] == [rest for _, *rest in plain] and len(seen) == (4 if gradients else 2)
    for (tensor, *_), (array, *_) in zip(seen, plain):
        assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
        close(tensor.numpy(), array)
    rows = {row.operator: row for row in backend.partition_trace().rows}
    assert [(c.from_device, c.to_device, c.bytes) for c in rows["linear_1"].forward] == [(0, 1, 6 * 5 * 4)]
    handle.remove()

    def fail(*_):
        raise ZeroDivisionError("mine")

    handle = backend.register_hook(fail)
    with pytest.raises(ZeroDivisionError, match="mine"):
        compiled.evaluate(params, X)
    handle.remove()
    compiled.evaluate(params, X)


# ---------------------------------------------------------------- handles
def test_handles():
    backend = hooked((3,))
    compiled, params = compiled_chain(backend)
    order = []
    first = backend.register_hook(lambda *_: order.append("first"))
    second = backend.register_hook(lambda *_: order.append("second"))
    compiled.evaluate(params, X)
    assert order == ["first", "second"] * 2
    first.remove()
    first.remove()
    third = backend.register_hook(lambda *_: order.append("third"))
    order.clear()
    compiled.evaluate(params, X)
    assert order == ["second", "third"] * 2
    second.remove(), third.remove()
    order.clear()
    compiled.evaluate(params, X)
    assert order == []
    with pytest.raises(TypeError):
        type(first)()


def test_hooks_that_come_and_go_in_a_call():
    backend = hooked((3,))
    compiled, params = compiled_chain(backend)
    calls = []

    def once(*_):
        calls.append("once")
        handle.remove()
        backend.register_hook(lambda *_: calls.append("later"))

    handle = backend.register_hook(once)
    compiled.evaluate(params, X)
    assert calls == ["once", "later"]


def test_the_collector_finds_hooks():
    class Sentinel:
        pass

    sentinel, backend = Sentinel(), hooked((3,))
    compiled, params = compiled_chain(backend)
    kept = []

    def hook(*_, sentinel=sentinel):
        kept.append((backend, sentinel))

    kept.append(backend.register_hook(hook))
    compiled.evaluate(params, X)
    gone = weakref.ref(sentinel)
    del sentinel, backend, hook, compiled, kept
    gc.collect()
    assert gone() is None


# ---------------------------------------------------------------- what a hook may not do
@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), KeyboardInterrupt(), SystemExit(3), StopIteration()])
def test_exceptions_come_out_unchanged(error, threads):
    backend = hooked((3,), device_threads=threads)
    compiled, params = compiled_chain(backend)
    want = compiled.evaluate(params, X)["y"]

    def fail(*_):
        raise error

    handle = backend.register_hook(fail)
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            compiled.evaluate(params, X)
        assert caught.value is error and caught.traceback[-1].name == "fail"
    handle.remove()
    assert np.array_equal(np.asarray(compiled.evaluate(params, X)["y"]), np.asarray(want))
    live = ml._mithril._allocations()[1]
    handle = backend.register_hook(fail)
    for _ in range(3):
        with pytest.raises(type(error)):
            compiled.evaluate(params, X)
    handle.remove()
    assert ml._mithril._allocations()[1] == live


def test_signals_in_a_hook():
    """What a handler raises in a hook comes out; where it returns, the run goes on, perhaps from its start."""

    class Rang(Exception):
        pass

    backend = hooked((3,))
    compiled, params = compiled_chain(backend)
    want = np.asarray(compiled.evaluate(params, X)["y"])
    calls, rung = [], []

    def ring_once(*_):
        calls.append(1)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGALRM)

    backend.register_hook(ring_once)
    before = signal.getsignal(signal.SIGALRM)
    try:
        signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
        assert np.array_equal(np.asarray(compiled.evaluate(params, X)["y"]), want)
        assert rung == [1] and len(calls) in (2, 1 + 2)

        def rings(*_):
            raise Rang

        calls.clear()
        signal.signal(signal.SIGALRM, rings)
        with pytest.raises(Rang):
            compiled.evaluate(params, X)
        assert np.array_equal(np.asarray(compiled.evaluate(params, X)["y"]), want)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_answer_is_refused():
    backend = hooked((3,))
    compiled, params = compiled_chain(backend)
    handle = backend.register_hook(lambda tensor, *_: tensor * 2)
    with pytest.raises(TypeError, match="returned array") as caught:
        compiled.evaluate(params, X)
    assert isinstance(caught.value, ml.MithrilError) and caught.value.op == "linear_1"
    assert "return None" in caught.value.fix
    handle.remove()
    compiled.evaluate(params, X)


def test_one_call_at_a_time():
    backend = hooked((4,), device_threads=True)
    compiled = ml.compile(split(), backend)
    params = compiled.get_parameters(X)
    inside, most, names = [], [], set()

    def hook(*_):
        inside.append(1)
        most.append(len(inside))
        names.add(threading.get_ident())
        threading.Event().wait(0.0005)  # lets go of the interpreter's lock
        inside.pop()

    backend.register_hook(hook)
    others = [threading.Thread(target=compiled.evaluate, args=(params, X)) for _ in range(2)]
    for other in others:
        other.start()
    compiled.evaluate(params, X)
    for other in others:
        other.join()
    assert max(most) == 1 and len(most) > 20 and len(names) > 1


def test_a_hook_runs_no_model_on_its_backend():
    backend, other = hooked((3,)), hooked((3,))
    compiled, params = compiled_chain(backend)
    elsewhere, _ = compiled_chain(other)
    second = ml.compile(split(), backend)
    seen = []
    other.register_hook(lambda *_: seen.append("other"))

    def nested(*_):
        seen.append(elsewhere.evaluate(params, X)["y"])
        for model in (compiled, second):
            with pytest.raises(ValueError, match="own backend"):
                model.evaluate(params, X)

    backend.register_hook(nested)
    compiled.evaluate(params, X)
    assert len(seen) == 6 and seen.count("other") == 4


def test_errors():
    for backend in (ReferenceBackend(device_mesh=(2,)), CBackend(device_mesh=(2,)), hooked((2,))):
        if "use_module_hooks" in backend.describe():
            with pytest.raises(TypeError, match="can't be called"):
                backend.register_hook(3)
        else:
            with pytest.raises(ml.MithrilError, match="use_module_hooks=True"):
                backend.register_hook(print)
    with pytest.raises(ValueError, match="use_module_hooks: the native engine"):
        CBackend(device_mesh=(2,), use_module_hooks=True)
    with pytest.raises(TypeError):
        JaxBackend(device_mesh=(2,), use_module_hooks=True)
