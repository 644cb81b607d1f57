"""Any model, on any mesh and engine, with any specs, schedule and microbatches, gives the values and gradients of the
unsharded model."""

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mithril as ml
from conftest import missing
from mithril.backends import CBackend, JaxBackend
from support import close, random

SOAK = int(os.environ.get("MITHRIL_SOAK", "0"))  # so many examples of each kind, other ones each time


def some(count):
    return settings(
        max_examples=SOAK or count,
        derandomize=not SOAK,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


MESHES = [(1,), (2,), (3,), (4,), (5,), (2, 2), (2, 3), (4, 1), (2, 2, 2)]


def specs(mesh, rank):
    """A random spec: each axis of the mesh on one dimension, or on none."""

    def build(places):
        entries = [[] for _ in range(rank)]
        for axis, place in enumerate(places):
            if place < rank:
                entries[place].append(axis)
        return tuple(tuple(e) if len(e) > 1 else e[0] if e else None for e in entries)

    return st.lists(st.integers(0, rank), min_size=len(mesh), max_size=len(mesh)).map(build)


def collectives():
    names = ("direct", "ring", "tree", "hierarchical")
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
    return st.fixed_dictionaries({}, optional={k: st.sampled_from(names) for k in kinds})


ENGINES = [CBackend] * 24 + [
    CBackend if missing() else JaxBackend
]  # a plan takes XLA's compiler a hundred times as long


def backends(mesh):
    return st.sampled_from(ENGINES).flatmap(lambda engine: backends_of(mesh, engine))


def backends_of(mesh, engine):
    cut = {"partition_policy": st.sampled_from(["parameters", "operators", "balanced"])} if engine is CBackend else {}
    return st.fixed_dictionaries(
        {},
        optional={
            **cut,
            "collective_ops": collectives(),
            "communication_optimization": st.booleans(),
            "overlap_communication": st.booleans(),
            "pipeline_communication": st.booleans(),
        },
    ).map(lambda o: engine(device_mesh=mesh, **o))


def same(build, plain, backend, inputs, tolerance=5e-5, **options):
    """build() for the backend against plain() on one device: the same parameters, values and gradients."""
    runs = []
    for model, target, more in ((build(), backend, options), (plain(), CBackend(device_mesh=(1,)), {})):
        compiled = ml.compile(model, target, **more)
        params = compiled.get_parameters(inputs, seed=11)
        floating = [k for k, v in inputs.items() if v.dtype.kind == "f"]
        values = compiled.evaluate(params, inputs)
        seeds = {k: random(*v.shape, seed=5) for k, v in values.items() if str(v.dtype) == "float32"}
        again, gradients = compiled.evaluate(params, inputs, seeds, floating)
        runs.append((params, values, again, gradients))
        ml.verify_plan(compiled.program_text())
    (p, v, a, g), (p0, v0, a0, g0) = runs
    assert list(p) == list(p0) and set(v) == set(v0) and set(g) == set(g0) == set(p) | set(floating)
    for k in p:
        assert np.array_equal(np.asarray(p[k]), np.asarray(p0[k])), k
    for k in v:  # where terms of size 1 nearly cancel, what is left of them has their rounding errors
        close(v[k], v0[k], tolerance, floor=1e-3)
        close(a[k], v0[k], tolerance, floor=1e-3)
    largest = max(
        (np.abs(np.asarray(x)).max(initial=0) for x in g0.values()), default=0
    )  # some gradients are zero but for rounding: a key's bias
    for k in g:
        close(g[k], g0[k], 10 * tolerance, floor=max(1e-6, 1e-2 * largest))


@some(300)
@given(st.data())
def test_mlp(data):
    """Linear layers with random specs on random meshes: sizes that don't divide, devices per operator, batches that are
    sharded."""
    mesh = data.draw(st.sampled_from(MESHES), "mesh")
    backend = data.draw(backends(mesh), "backend")
    sizes = data.draw(st.lists(st.integers(1, 13), min_size=2, max_size=4), "sizes")
    batch = data.draw(st.integers(1, 9), "batch")
    devices = int(np.prod(mesh))
    layers = []
    for size in sizes[1:]:
        place = data.draw(st.sampled_from(["spec", "device", "free"]), "place")
        option = (
            {"weight_shard_spec": data.draw(specs(mesh, 2), "spec")}
            if place == "spec"
            else {"device_id": data.draw(st.integers(0, devices - 1), "device")}
            if place == "device"
            else {}
        )
        layers.append(
            (
                size,
                data.draw(st.booleans(), "bias"),
                data.draw(st.sampled_from(["Relu", "Gelu", "LayerNorm", "Softmax"]), "act"),
                option,
            )
        )

    def build(sharded):
        model = ml.Model()
        for i, (size, bias, act, option) in enumerate(layers):
            model += ml.Linear(size, bias=bias, **(option if sharded else {}))(**({"input": "x"} if i == 0 else {}))
            model += getattr(ml, act)()(output=f"y{i}")
        return model

    options = (
        {"input_shard_specs": {"x": data.draw(specs(mesh, 2), "input spec")}}
        if data.draw(st.booleans(), "shard the input")
        else {}
    )
    same(lambda: build(True), lambda: build(False), backend, {"x": random(batch, sizes[0])}, **options)


@some(200)
@given(st.data())
def test_attention(data):
    """Tensor-parallel transformer blocks: any number of heads over any number of devices, grouped queries, causal or
    with a mask."""
    mesh = data.draw(st.sampled_from([m for m in MESHES if len(m) < 3]), "mesh")
    backend = data.draw(backends(mesh), "backend")
    groups, each, dim = (
        data.draw(st.integers(1, 4), "groups"),
        data.draw(st.integers(1, 2), "each"),
        data.draw(st.sampled_from([2, 4]), "dim"),
    )
    axis = data.draw(st.sampled_from([None, *range(len(mesh))]), "axis")
    causal, turn, masked = (
        data.draw(st.booleans(), "causal"),
        data.draw(st.booleans(), "rotary"),
        data.draw(st.booleans(), "masked"),
    )
    batch, length, width = (
        data.draw(st.integers(1, 4), "batch"),
        data.draw(st.integers(1, 6), "length"),
        data.draw(st.integers(1, 9), "width"),
    )
    hidden, vocabulary = data.draw(st.integers(1, 11), "hidden"), data.draw(st.integers(1, 10), "vocabulary")
    options = {}
    if data.draw(st.booleans(), "shard the batch"):
        axes = [a for a in range(len(mesh)) if a != axis]
        options = {"input_shard_specs": {k: (axes[0] if axes else None, None) for k in ["ids"] + ["mask"] * masked}}

    def build(axis):
        model = ml.Model()
        model |= ml.Embedding(vocabulary, width, tensor_axis=axis)(input="ids", output="x")
        model |= ml.MultiHeadAttention(groups * each, dim, groups, causal=causal, rotary=turn, tensor_axis=axis)(
            input="x", output="a", **({"mask": "mask"} if masked else {})
        )
        model |= ml.Add()(inputs=["x", "a"], output="s")
        model |= ml.RMSNorm()(input="s", output="n")
        model |= ml.FeedForward(hidden, gated=causal, tensor_axis=axis)(input="n", output="y")
        return model

    draw = np.random.default_rng(batch * 7 + length)
    inputs = {"ids": draw.integers(0, vocabulary, (batch, length)).astype(np.int32)}
    if masked:
        inputs["mask"] = draw.integers(0, 2, (batch, length)).astype(np.int32)
    same(lambda: build(axis), lambda: build(None), backend, inputs, **options)


@some(200)
@given(st.data())
def test_experts(data):
    """Experts over devices: fewer or more than devices, dealt or in blocks, tokens replicated or sharded, with and
    without capacity."""
    mesh = data.draw(st.sampled_from([m for m in MESHES if len(m) < 3]), "mesh")
    backend = data.draw(backends(mesh), "backend")
    experts = data.draw(st.integers(1, 9), "experts")
    own = dict(
        top_k=data.draw(st.integers(1, min(3, experts)), "top_k"),
        gated=data.draw(st.booleans(), "gated"),
        bias=data.draw(st.booleans(), "bias"),
        load_balancing_loss=data.draw(st.booleans(), "loss"),
        capacity_factor=data.draw(st.sampled_from([None, 0.5, 1.25]), "capacity"),
    )
    place = data.draw(st.sampled_from([None, "one_per_device", "round_robin"]), "distribution")
    tokens, width, hidden = (
        data.draw(st.integers(1, 12), "tokens"),
        data.draw(st.integers(1, 7), "width"),
        data.draw(st.integers(1, 7), "hidden"),
    )
    options = (
        {"input_shard_specs": {"x": (data.draw(st.integers(0, len(mesh) - 1), "axis"), None)}}
        if data.draw(st.booleans(), "shard the tokens")
        else {}
    )

    def build(place):
        model = ml.Model()
        model |= ml.MoE(experts, hidden, expert_distribution=place, **own)(input="x", output="y")
        return model

    same(lambda: build(place), lambda: build(None), backend, {"x": random(tokens, width)}, **options)


@some(200)
@given(st.data())
def test_pipeline(data):
    """Pipelines of random stages, on a device, on several, along an axis of the mesh; several on one device, both
    schedules, batches that microbatches don't divide, weights that are split inside of a stage, a skip connection."""
    along = data.draw(st.booleans(), "along an axis")
    mesh = data.draw(st.sampled_from([(2, 2), (3, 2), (2, 1), (1, 3)] if along else [(1,), (2,), (3,), (4,)]), "mesh")
    backend = data.draw(backends(mesh), "backend")
    count = data.draw(st.integers(1, 5), "stages")
    widths = data.draw(st.lists(st.integers(1, 8), min_size=count, max_size=count), "widths")
    split = data.draw(st.sampled_from([None, (None, 0), (0, None)]), "split")
    schedule, size = (
        data.draw(st.sampled_from(["gpipe", "1f1b"]), "schedule"),
        data.draw(st.integers(1, 7), "microbatch"),
    )
    batch, width = data.draw(st.integers(1, 13), "batch"), data.draw(st.integers(1, 6), "width")
    skip = count > 1 and data.draw(st.booleans(), "skip")
    devices = int(np.prod(mesh))
    if along:
        place = {"axis": data.draw(st.integers(0, 1), "axis")}
    elif split:
        group = st.permutations(range(devices)).flatmap(lambda p: st.integers(1, devices).map(lambda n: p[:n]))
        place = {"device_assignment": data.draw(st.lists(group, min_size=count, max_size=count), "assignment")}
        split = None if any(len(g) < 2 for g in place["device_assignment"]) else split
    else:
        place = {
            "device_assignment": data.draw(
                st.lists(st.integers(0, devices - 1), min_size=count, max_size=count), "assignment"
            )
        }

    def stage(i, spec):
        model = ml.Model()
        model |= ml.Linear(widths[i], weight_shard_spec=spec)(input="input", output="h")
        model += ml.Gelu()(input="h", output="first" if skip and i == 0 else "out")
        if skip and i == count - 1:  # reads the first stage's output beside its own
            model |= ml.Linear(widths[i])(input="first", output="f")
            model |= ml.Add()(inputs=["out", "f"], output="sum")
        return model

    def build(spec, **options):
        model = ml.Model()
        stages = [stage(i, spec) for i in range(count)]
        model |= ml.Pipeline(stages=stages, schedule=schedule, **options)(input="x", output="y")
        return model

    shard = (
        {"input_shard_specs": {"x": (1 - place["axis"], None)}}
        if along and data.draw(st.booleans(), "shard the batch")
        else {}
    )
    plain = {"device_assignment": [0] * count}
    same(
        lambda: build(split, microbatch_size=size, **place),
        lambda: build(None, **plain),
        backend,
        {"x": random(batch, width)},
        **shard,
    )
