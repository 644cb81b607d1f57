"""The guide's workloads on the native engine and on XLA (JaxBackend), beside JAX (jit with NamedSharding on 4 virtual
CPU devices) and torch (one process, unsharded).

One process, in turns: a round runs each once, and rows quote medians over the rounds and the ratio of medians. Results
are checked against each other before anything is timed. `first_call_extra` is the first call (planning or compiling
included) beyond the steady time, the median of three beginnings with everything new; `first_call_kernel` is what the
operating system took of it, on both cores together: it hands out pages that are touched for the first time, at 0.1 ms a
MB, or at 2.4 where a virtual machine has to ask its host for them.

Writes bench/results.csv. `--quick` runs 3 rounds, `--only NAME` one workload.
"""

import argparse, csv, gc, os, pathlib, resource, statistics, sys, time

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
import numpy as np
import mithril as ml
from mithril.backends import CBackend, JaxBackend

try:
    import jax, jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
except ImportError:
    jax = None
try:
    import torch
except ImportError:
    torch = None

HERE = pathlib.Path(__file__).resolve().parent


def host(tree):
    return {k: np.asarray(v) for k, v in tree.items()}


class Workload:
    """A model as Mithril composes it, the same function in JAX and in torch, and the flops of one forward."""

    def __init__(self, name, mesh, model, jax_fn, torch_fn, inputs, specs, gradients, flops, options=None, repeat=1):
        self.repeat = repeat  # calls in one measurement, where one is too short to be measured
        self.name, self.mesh, self.model, self.jax_fn, self.torch_fn = name, mesh, model, jax_fn, torch_fn
        self.inputs, self.specs, self.gradients, self.flops, self.options = (
            inputs,
            specs,
            gradients,
            flops,
            options or {},
        )
        self.seed = (
            np.random.default_rng(1).standard_normal(
                (512, 2048) if "mlp" in name else (BATCH, SEQUENCE, WIDTH), dtype=np.float32
            )
            if gradients
            else None
        )


def mlp(mesh, widths, specs):
    m = ml.Model()
    m |= ml.Linear(dimension=widths[0], weight_shard_spec=specs[0], device_mesh=mesh)(input="input", output="h")
    m += ml.Relu()(input="h", output="a")
    m += ml.Linear(dimension=widths[1], weight_shard_spec=specs[1], device_mesh=mesh)(input="a", output="output")
    return m


def mlp_jax(p, x):
    a = jnp.maximum(x["input"] @ p["linear_0.weight"] + p["linear_0.bias"], 0)
    return a @ p["linear_1.weight"] + p["linear_1.bias"]


def mlp_torch(p, x):
    a = torch.relu(torch.addmm(p["linear_0.bias"], x["input"], p["linear_0.weight"]))
    return torch.addmm(p["linear_1.bias"], a, p["linear_1.weight"])


BLOCKS, WIDTH, HEADS, BATCH, SEQUENCE = 8, 512, 8, 8, 128


def transformer():
    m = ml.Model()
    x = "input"
    for i in range(BLOCKS):
        m += ml.MultiHeadAttention(num_heads=HEADS, head_dim=WIDTH // HEADS, tensor_axis=0)(input=x, output=f"attn{i}")
        m += ml.Add()(inputs=[x, f"attn{i}"], output=f"res{i}")
        m += ml.LayerNorm()(input=f"res{i}", output=f"norm{i}")
        m += ml.FeedForward(hidden_dim=4 * WIDTH, tensor_axis=0)(input=f"norm{i}", output=f"ffn{i}")
        m += ml.Add()(inputs=[f"norm{i}", f"ffn{i}"], output=f"res_b{i}")
        x = "output" if i == BLOCKS - 1 else f"block{i}"
        m += ml.LayerNorm()(input=f"res_b{i}", output=x)
    return m


def transformer_jax(p, x):
    def norm(n, v):
        mean = v.mean(-1, keepdims=True)
        return (v - mean) * jax.lax.rsqrt(((v - mean) ** 2).mean(-1, keepdims=True) + 1e-5) * p[n + ".weight"] + p[
            n + ".bias"
        ]

    def linear(n, v):
        return v @ p[n + ".weight"] + p[n + ".bias"]

    v = x["input"]
    for i in range(BLOCKS):
        a = f"multi_head_attention_{i}"
        q, k, w = (linear(f"{a}.{part}", v).reshape(BATCH, SEQUENCE, HEADS, -1) for part in ("query", "key", "value"))
        s = jax.nn.softmax(jnp.einsum("bshd,bthd->bhst", q, k) * (WIDTH // HEADS) ** -0.5, axis=-1)
        o = jnp.einsum("bhst,bthd->bshd", s, w).reshape(BATCH, SEQUENCE, WIDTH)
        v = norm(f"layer_norm_{2 * i}", v + linear(f"{a}.output", o))
        f = linear(f"feed_forward_{i}.down", jax.nn.gelu(linear(f"feed_forward_{i}.up", v), approximate=False))
        v = norm(f"layer_norm_{2 * i + 1}", v + f)
    return v


def transformer_torch(p, x):
    F = torch.nn.functional
    linear = lambda n, v: v @ p[n + ".weight"] + p[n + ".bias"]
    norm = lambda n, v: F.layer_norm(v, (WIDTH,), p[n + ".weight"], p[n + ".bias"])
    v = x["input"]
    for i in range(BLOCKS):
        a = f"multi_head_attention_{i}"
        q, k, w = (
            linear(f"{a}.{part}", v).reshape(BATCH, SEQUENCE, HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        o = F.scaled_dot_product_attention(q, k, w).transpose(1, 2).reshape(BATCH, SEQUENCE, WIDTH)
        v = norm(f"layer_norm_{2 * i}", v + linear(f"{a}.output", o))
        v = norm(
            f"layer_norm_{2 * i + 1}", v + linear(f"feed_forward_{i}.down", F.gelu(linear(f"feed_forward_{i}.up", v)))
        )
    return v


def relu_model():
    m = ml.Model()
    m |= ml.Relu()(input="input", output="output")
    return m


def sum_model():
    m = ml.Model()
    m |= ml.Sum(axis=0)(input="input", output="output")
    return m


def workloads():
    rng = np.random.default_rng(0)
    x = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    tokens, columns, rows = BATCH * SEQUENCE, P(None, "a"), P("a", None)
    for gradients in (False, True):
        yield Workload(
            "mlp 512x2048x8192x2048" + (" with gradients" if gradients else ""),
            (4,),
            lambda: mlp((4,), (8192, 2048), ((None, 0), (0, None))),
            mlp_jax,
            mlp_torch,
            {"input": x(512, 2048)},
            {"linear_0.weight": columns, "linear_0.bias": P("a"), "linear_1.weight": rows},
            gradients,
            2 * 512 * 2048 * 8192 * 2,
        )
    yield Workload(
        "2-D 32x2048x16384x4096",
        (2, 2),
        lambda: mlp((2, 2), (16384, 4096), ((0, 1), (0, None))),
        mlp_jax,
        mlp_torch,
        {"input": x(32, 2048)},
        {"linear_0.weight": P("a", "b"), "linear_0.bias": P("b"), "linear_1.weight": P("a", None)},
        False,
        2 * 32 * (2048 * 16384 + 16384 * 4096),
    )
    yield Workload(
        "all_reduce 64 MiB",
        (4,),
        sum_model,
        lambda p, v: v["input"].sum(0),
        lambda p, v: v["input"].sum(0),
        {"input": x(4, 16 << 20)},
        {"input": P("a", None)},
        False,
        4 * (16 << 20),
        {"input_shard_specs": {"input": (0, None)}},
    )
    yield Workload(
        "dispatch to 4 devices",
        (4,),
        relu_model,
        lambda p, v: jnp.maximum(v["input"], 0),
        lambda p, v: torch.relu(v["input"]),
        {"input": x(4, 16)},
        {"input": P("a", None)},
        False,
        64,
        {"input_shard_specs": {"input": (0, None)}, "output_shard_specs": {"output": (0, None)}},
        repeat=500,
    )
    specs = {}
    for i in range(BLOCKS):
        for part in ("query", "key", "value"):
            specs[f"multi_head_attention_{i}.{part}.weight"], specs[f"multi_head_attention_{i}.{part}.bias"] = (
                columns,
                P("a"),
            )
        specs[f"multi_head_attention_{i}.output.weight"] = rows
        (
            specs[f"feed_forward_{i}.up.weight"],
            specs[f"feed_forward_{i}.up.bias"],
            specs[f"feed_forward_{i}.down.weight"],
        ) = columns, P("a"), rows
    flops = BLOCKS * (
        tokens * WIDTH * WIDTH * 2 * 4 + tokens * WIDTH * 4 * WIDTH * 2 * 2 + BATCH * SEQUENCE * SEQUENCE * WIDTH * 4
    )
    for gradients in (False, True):
        yield Workload(
            "8 transformer blocks" + (" with gradients" if gradients else ""),
            (4,),
            transformer,
            transformer_jax,
            transformer_torch,
            {"input": x(BATCH, SEQUENCE, WIDTH)},
            specs,
            gradients,
            flops,
        )


# ---------------------------------------------------------------- one runner a framework: returns (call, results)
def mithril_runner(w, kind):
    backend = kind(device_mesh=w.mesh)
    compiled = ml.compile(w.model(), backend, **w.options)
    x = {k: backend.array(v, spec=(0, None)) if w.options else backend.array(v) for k, v in w.inputs.items()}
    params = compiled.get_parameters(x)
    seed = None

    def call():
        if not w.gradients:
            return compiled.evaluate(params, x), None
        return compiled.evaluate(params, x, output_gradients={"output": seed})

    if w.gradients:
        seed = backend.array(w.seed)
    return call, params, lambda: [u["total"] for u in compiled.get_memory_usage(params, x)]


def jax_runner(w, params):
    devices = np.array(jax.devices()[:4]).reshape(w.mesh)
    mesh = Mesh(devices, ("a", "b")[: len(w.mesh)])
    put = lambda k, v: jax.device_put(v, NamedSharding(mesh, w.specs.get(k, P())))
    p, x = {k: put(k, np.asarray(v)) for k, v in params.items()}, {k: put(k, v) for k, v in w.inputs.items()}
    whole = NamedSharding(mesh, P("a", None) if "output_shard_specs" in w.options else P())
    forward = jax.jit(w.jax_fn, out_shardings=whole)
    seed = put(None, w.seed) if w.gradients else None
    jax.block_until_ready((p, x, seed))  # or its copies go on during the first call of another framework

    def both(p, x, seed):
        value, pull = jax.vjp(lambda q: w.jax_fn(q, x), p)
        return value, pull(seed)[0]

    with_gradients = jax.jit(both, out_shardings=(whole, {k: NamedSharding(mesh, w.specs.get(k, P())) for k in p}))

    def call():
        if w.gradients:
            return jax.block_until_ready(with_gradients(p, x, seed))
        return jax.block_until_ready(forward(p, x)), None

    return call


def torch_runner(w, params):
    p = {k: torch.tensor(np.asarray(v)).requires_grad_(w.gradients) for k, v in params.items()}
    x = {k: torch.tensor(v) for k, v in w.inputs.items()}
    seed = torch.tensor(w.seed) if w.gradients else None

    def call():
        if not w.gradients:
            with torch.no_grad():
                return w.torch_fn(p, x), None
        for v in p.values():
            v.grad = None
        y = w.torch_fn(p, x)
        y.backward(seed)
        return y.detach(), {k: v.grad for k, v in p.items()}

    return call


def start(w, xla):
    """Every framework with a backend, parameters and inputs of its own, and nothing planned or compiled."""
    runners = {}
    runners["mithril"], params, memory = mithril_runner(w, CBackend)
    if xla:
        runners["xla"], *_ = mithril_runner(w, JaxBackend)
    if jax:
        jax.clear_caches()
        runners["jax"] = jax_runner(w, params)
    if torch:
        runners["torch"] = torch_runner(w, params)
    return runners, params, memory


def timed(call, repeat=1):
    begin = time.perf_counter()
    for _ in range(repeat):
        result = call()
    return (time.perf_counter() - begin) / repeat, result


def agree(name, a, b, least=1e-30, tolerance=2e-3):
    """`least`: the size below which values are noise (the gradient of a key's bias is 0 but for rounding)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    error = np.abs(a - b).max() / max(np.abs(b).max(), least)
    assert a.shape == b.shape and error < tolerance, f"{name}: results differ by {error:.1e}"


def main():
    arg = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arg.add_argument("--quick", action="store_true")
    arg.add_argument("--only", default="")
    opt = arg.parse_args()
    rounds, rows = 3 if opt.quick else 9, []
    try:
        xla = JaxBackend(device_mesh=(4,)).describe()
        print(xla)
    except ml.MithrilError as error:
        xla = None
        print(f"no row of XLA: {error}")
    for w in workloads():
        if opt.only not in w.name:
            continue
        first, kernel = {}, {}
        for turn in range(3):
            runners = results = params = memory = call = None  # what came before is gone when it begins anew
            gc.collect()
            runners, params, memory = start(w, xla)
            results = {}
            names = list(runners)
            for name in (
                names[turn % len(names) :] + names[: turn % len(names)]
            ):  # who comes first finds the memory cold
                call = runners[name]
                before = resource.getrusage(resource.RUSAGE_SELF).ru_stime
                took, results[name] = timed(call)
                first.setdefault(name, []).append(took)
                kernel.setdefault(name, []).append(resource.getrusage(resource.RUSAGE_SELF).ru_stime - before)
                if name in ("mithril", "xla"):
                    results[name] = (results[name][0]["output"], results[name][1])
        first, kernel = ({name: statistics.median(t) for name, t in of.items()} for of in (first, kernel))
        value, slopes = results["mithril"]
        for other in results:
            if other == "mithril":
                continue
            agree(w.name, value, results[other][0])
            noise = 1e-3 * max(np.abs(np.asarray(v)).max() for v in slopes.values()) if slopes else 0
            for k in slopes or {}:
                agree(f"{w.name}: gradient of {k}", slopes[k], results[other][1][k], noise)
        del results, value, slopes
        times = {name: [] for name in runners}
        for _ in range(rounds):
            for name, call in runners.items():
                times[name].append(timed(call, w.repeat)[0])
        median = {name: statistics.median(t) for name, t in times.items()}
        digits = 1 if w.repeat == 1 else 4
        row = {"workload": w.name, "mithril_ms": f"{median['mithril'] * 1e3:.{digits}f}"}
        for other in ("jax", "torch", "xla"):
            row[f"{other}_ms"] = f"{median[other] * 1e3:.{digits}f}" if other in median else ""
            if other != "xla":
                row[f"mithril_over_{other}"] = f"{median['mithril'] / median[other]:.2f}" if other in median else ""
        row["xla_over_jax"] = f"{median['xla'] / median['jax']:.2f}" if "jax" in median and "xla" in median else ""
        row["gflops"] = f"{w.flops * (3 if w.gradients else 1) / median['mithril'] / 1e9:.0f}"
        for other, prefix in (("mithril", ""), ("xla", "xla_"), ("jax", "jax_")):
            row[f"{prefix}first_call_extra_ms"] = (
                f"{(first[other] - median[other]) * 1e3:.1f}" if other in median else ""
            )
            row[f"{prefix}first_call_kernel_ms"] = f"{kernel[other] * 1e3:.0f}" if other in median else ""
        row["peak_mb_per_device"] = f"{max(memory()) / 1e6:.1f}"
        rows.append(row)
        print("  ".join(f"{k}={v}" for k, v in row.items()), flush=True)
        del runners, params, memory, call  # a workload does not start among the memory of the one before
        gc.collect()
    if not opt.only:
        with open(HERE / "results.csv", "w", newline="") as f:
            out = csv.DictWriter(f, rows[0])
            out.writeheader()
            out.writerows(rows)
    print(f"peak resident memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
