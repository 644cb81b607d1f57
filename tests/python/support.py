"""What several tests share: float64 references, and the comparison of values and gradients."""

import contextlib
import itertools
import math
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend

engine = CBackend
"""The class of backends that `on` and compile_on make; conftest.py sets it."""
HANGS = 600
"""Seconds after which a test says that what it waits for hangs: far more than it takes where others compute too."""
engines_of_arrays = pytest.mark.parametrize("engine", ["native", "xla"], indirect=True)  # of mithril.Array alone
every_engine = pytest.mark.parametrize("engine", ["native", "xla", "torch"], indirect=True)


def on(mesh, **options):
    return engine(device_mesh=mesh, **options)


def few(cases, step):
    """All cases, but each `step`-th one where XLA compiles: it takes a hundred times as long as a plan."""
    return [case for i, case in enumerate(cases) if engine is CBackend or i % step == 0]


def f64(a):
    if hasattr(a, "detach"):  # a tensor of torch, of which NumPy knows no bfloat16
        a = a.detach().double()
    return np.asarray(a, dtype=np.float64)


def close(got, want, tolerance=2e-5, floor=1e-6):
    """Against the largest magnitude, or `floor`: a float32 sum can't promise more for its small elements."""
    got, want = f64(got), f64(want)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    assert np.isfinite(got).all(), "not finite"
    if want.size:
        error = np.abs(got - want).max() / max(np.abs(want).max(), floor)
        assert error <= tolerance, f"relative error {error:.2e} above {tolerance:.0e}"


def random(*shape, seed=0, scale=1.0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def shaken(params, seed=1):
    """Parameters at which nothing is zero or one: a bias that is forgotten or added twice shows."""
    draw = np.random.default_rng(seed)
    return {
        k: np.asarray(p) + draw.standard_normal(p.shape).astype(np.float32) * np.float32(0.2) for k, p in params.items()
    }


def one_block(module, **wires):
    """A model of one module with its ports as the names; `inputs` and outputs as given."""
    model = ml.Model()
    model |= module(**wires)
    return model


def compile_on(mesh, model, backend_options=None, **options):
    return ml.compile(model, on(mesh, **(backend_options or {})), **options)


def in_child(work):
    """What work() gives in a child by os.fork, as text; a child that hangs is ended, and says so."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(HANGS)
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(theirs, said.encode()[:4000])
        os._exit(0)
    os.close(theirs)
    with open(ours) as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    return said if status == 0 else f"ended by {status}, said {said!r}"


# ---------------------------------------------------------------- signals
# Time below is what the process computes: how much others on the machine compute meanwhile does not count.
def computed(call, beside=None):
    """The seconds that a call computes, and the TimeoutError or KeyboardInterrupt that ended it, else None. With it
    begins beside(began, over) in another thread, which has the interpreter only while the call lets go of it."""

    def wait_for_the_call():
        with before_call:
            beside(began, over)

    over, before_call, error = threading.Event(), threading.Lock(), None
    thread = threading.Thread(target=wait_for_the_call, daemon=True)
    interval = sys.getswitchinterval()
    try:
        with before_call:
            if beside:
                thread.start()
            sys.setswitchinterval(HANGS)
            began = time.process_time()
        _ = call()  # what it gives is freed when all is measured
        over.set()
    except (TimeoutError, KeyboardInterrupt) as raised:
        error = raised
    finally:
        took = time.process_time() - began
        over.set()
        sys.setswitchinterval(interval)
        if beside:
            thread.join()
    return took, error


def strike(after, number=signal.SIGALRM, moments=None):
    """What sends a signal, beside a call, once that has computed for `after`: never before it begins or when it is
    over. Where others have the processor first it comes later; the list `moments` gets how late."""

    def beside(began, over):
        while not over.is_set() and time.process_time() - began < after:
            time.sleep(0.0005)
        if not over.is_set():
            if moments is not None:
                moments.append(time.process_time() - began)
            os.kill(os.getpid(), number)

    return beside


@contextlib.contextmanager
def handling(number, handler):
    old = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, old)


def too_late(*_):
    raise TimeoutError("too late")


def check_that_signals_end(make, check=lambda: None, number=signal.SIGALRM, handler=too_late, latest=0.6):
    """Of a call that make() makes, a signal ends it then, and not when all is done: it computes less than half of what
    was left. What check() asserts holds whenever one was ended so. The signal comes once a tenth is computed; where
    others' work delays it beyond the share `latest`, it proves nothing. Whole calls are measured in turns with ended
    ones, and the least counts."""
    said = "too late" if handler is too_late else ""
    whole, struck = [computed(make())[0] for _ in range(2)], []  # the first one also gets memory from the system
    with handling(number, handler):
        for _ in range(100):
            moments = []
            whole.append(computed(make())[0])
            took, error = computed(make(), strike(0.1 * min(whole), number, moments))
            if not moments or moments[0] > latest * min(whole):
                continue
            assert error and str(error) == said
            struck.append((moments[0], took))
            check()
            rests = [(took - moment) / max(min(whole) - moment, 1e-9) for moment, took in struck]
            if len(rests) >= 3 and min(rests) < 0.5:
                return
            if len(rests) == 12:
                break
    raise AssertionError(f"calls compute {whole} s; struck at, they compute {struck}")


def check_that_others_run(make):
    """While a call that make() makes computes, another thread can have the interpreter: it has it in each stretch of
    three fifths of the call."""
    longest = []
    for _ in range(50):
        moments = [0]

        def note(began, over, moments=moments):
            while not over.is_set():
                moments.append(time.process_time() - began)
                time.sleep(0.0005)

        took, _ = computed(make(), note)
        longest.append(max(b - a for a, b in itertools.pairwise([*moments, took])) / took)
        if longest[-1] < 0.6:
            return
    raise AssertionError(f"the shares of calls that nobody else had the interpreter: {longest}")


def check_against(reference, compiled, params, inputs, slopes=True, tolerance=2e-5, gradient_tolerance=2e-4, skip=()):
    """Outputs against reference(params, inputs) -> dict in float64; gradients against its central differences along
    random directions."""
    got = compiled.evaluate(params, inputs)
    p, x = (
        {k: f64(v) for k, v in params.items()},
        {k: f64(v) if np.asarray(v).dtype.kind == "f" else np.asarray(v) for k, v in inputs.items()},
    )
    want = reference(p, x)
    assert set(got) == set(want)
    for name in want:
        close(got[name], want[name], tolerance)
    if not slopes:
        return
    draw = np.random.default_rng(3)
    seeds = {
        k: draw.standard_normal(np.shape(v)).astype(np.float32)
        for k, v in want.items()
        if np.asarray(got[k]).dtype.kind == "f"
    }
    floating = [k for k, v in x.items() if v.dtype.kind == "f" and k not in skip]
    again, gradients = compiled.evaluate(params, inputs, output_gradients=seeds, input_gradients=floating)
    for name in want:
        close(again[name], want[name], tolerance)
    assert set(gradients) == set(p) | set(floating)
    largest = (
        max(np.linalg.norm(f64(g)) for g in gradients.values()) if gradients else 0
    )  # some are zero: that of an attention's key bias

    def loss(p, x):
        out = reference(p, x)
        return sum((f64(seeds[k]) * out[k]).sum() for k in seeds)

    for source, name in [(p, k) for k in p] + [(x, k) for k in floating]:
        for trial in range(2):
            v, e = draw.choice([-1.0, 1.0], source[name].shape), 1e-6
            values = [
                loss(
                    {**p, name: p[name] + s * e * v} if source is p else p,
                    {**x, name: x[name] + s * e * v} if source is x else x,
                )
                for s in (1, -1)
            ]
            numeric, have = (values[0] - values[1]) / (2 * e), (f64(gradients[name]) * v).sum()
            norm = np.linalg.norm(f64(gradients[name])) + np.abs(f64(gradients[name])).max(initial=0)
            assert abs(numeric - have) <= gradient_tolerance * max(norm, 1e-2 * largest), (
                f"gradient of {name} along a direction is {have:.7g}, expected {numeric:.7g}"
            )


# ---------------------------------------------------------------- references in float64
def erf(x):
    return np.vectorize(math.erf, otypes=[float])(x)


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu}


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def linear(p, name, x):
    return x @ p[f"{name}.weight"] + p.get(f"{name}.bias", 0)


def layer_norm(p, name, x, epsilon=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * p[f"{name}.weight"] + p.get(
        f"{name}.bias", 0
    )


def rms_norm(p, name, x, epsilon=1e-5):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * p[f"{name}.weight"]


def rotary(x, base=10000.0, interleaved=False):
    """Of (..., s, d): pair j turns by s * base^(-2j / d)."""
    s, d = x.shape[-2:]
    angle = np.arange(s)[:, None] * base ** (-2 * np.arange(d // 2) / d)
    one, two = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., : d // 2], x[..., d // 2 :])
    a, b = one * np.cos(angle) - two * np.sin(angle), two * np.cos(angle) + one * np.sin(angle)
    out = np.empty_like(x)
    if interleaved:
        out[..., 0::2], out[..., 1::2] = a, b
    else:
        out[..., : d // 2], out[..., d // 2 :] = a, b
    return out


def attention(p, name, x, heads, key=None, value=None, mask=None, kv_heads=None, causal=False, turn=None):
    key = x if key is None else key
    value = key if value is None else value
    q, k, v = linear(p, f"{name}.query", x), linear(p, f"{name}.key", key), linear(p, f"{name}.value", value)
    kv_heads = kv_heads or heads
    dim = q.shape[-1] // heads
    split = lambda t, n: t.reshape(*t.shape[:2], n, dim).transpose(0, 2, 1, 3)
    q, k, v = split(q, heads), split(k, kv_heads), split(v, kv_heads)
    if turn:
        q, k = turn(q), turn(k)
    k, v = (np.repeat(t, heads // kv_heads, axis=1) for t in (k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(dim)
    hidden = np.zeros(scores.shape[-2:], bool)
    if causal:
        hidden = np.triu(np.ones_like(hidden), 1)
    hidden = np.broadcast_to(hidden, scores.shape).copy()
    if mask is not None:
        hidden |= (np.asarray(mask) == 0)[:, None, None, :]
    weight = softmax(np.where(hidden, -1e300, scores))
    weight = np.where(hidden.all(-1, keepdims=True), 0, weight)
    out = (weight @ v).transpose(0, 2, 1, 3)
    return linear(p, f"{name}.output", out.reshape(*out.shape[:2], heads * dim))


def feed_forward(p, name, x, activation="gelu", gated=False):
    up, act = linear(p, f"{name}.up", x), ACTIVATIONS[activation]
    return linear(p, f"{name}.down", act(linear(p, f"{name}.gate", x)) * up if gated else act(up))


def moe(p, name, x, top_k=2, activation="gelu", gated=False, capacity_factor=None, router_softmax="after"):
    """(output, dropped, load balancing loss)"""
    shape, x = x.shape, x.reshape(-1, x.shape[-1])
    logits = x @ p[f"{name}.router.weight"]
    experts, act = logits.shape[1], ACTIVATIONS[activation]
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    take = lambda values: np.take_along_axis(values, chosen, 1)
    weight = softmax(take(logits)) if router_softmax == "after" else take(softmax(logits))
    room = math.inf if capacity_factor is None else math.ceil(capacity_factor * len(x) * top_k / experts)
    out, load, dropped = np.zeros_like(x), np.zeros(experts, int), 0
    part = lambda kind, e, v: v @ p[f"{name}.experts.{kind}.weight"][e] + (
        p[f"{name}.experts.{kind}.bias"][e] if f"{name}.experts.{kind}.bias" in p else 0
    )
    for t in range(len(x)):
        for e, w in zip(chosen[t], weight[t]):
            load[e] += 1
            if load[e] > room:
                dropped += 1
                continue
            up = part("up", e, x[t])
            out[t] += w * part("down", e, act(part("gate", e, x[t])) * up if gated else act(up))
    share = load / max(load.sum(), 1)
    return out.reshape(shape), dropped, experts * (share * softmax(logits).mean(0)).sum()
