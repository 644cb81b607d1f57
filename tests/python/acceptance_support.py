"""What the acceptance tests share: where the parts of an array are, by the rule of the documentation, and a model
against the same model on one device."""

import itertools

import numpy as np

import mithril as ml
import support
from mithril.backends import CBackend
from support import close, f64, random


def on(*mesh, **options):
    return support.on(mesh, **options)


def model_of(*blocks):
    model = ml.Model()
    for block in blocks:
        model |= block
    return model


def devices(array):
    return sorted(s.device_id for s in array.addressable_shards)


def shifted(params, seed=0):
    """The parameters with noise: nothing is zero or one, so that what is forgotten or added twice shows."""
    draw = np.random.default_rng(seed)
    return {k: (np.asarray(v) + 0.3 * draw.standard_normal(v.shape)).astype(np.float32) for k, v in params.items()}


def part(low, high, count, i):
    """Of [low, high) over `count` devices, what the i-th has: all have ceil(n / count), the last ones fewer or none."""
    each = -(-(high - low) // count)
    return min(low + i * each, high), min(low + (i + 1) * each, high)


def parts(shape, spec, mesh):
    """device -> ((start, stop), ...); devices are numbered row by row, a tuple of axes splits nested, the first
    outermost."""
    out = {}
    for device, coordinate in enumerate(itertools.product(*map(range, mesh))):
        index = []
        for size, entry in zip(shape, spec):
            low, high = 0, size
            for axis in () if entry is None else (entry,) if isinstance(entry, int) else entry:
                low, high = part(low, high, mesh[axis], coordinate[axis])
            index.append((low, high))
        out[device] = tuple(index)
    return out


def check_shards(array, spec, mesh):
    """Each device holds what the rule says, and that is what its index says."""
    whole, want = np.asarray(array), parts(array.shape, spec, mesh)
    assert devices(array) == list(want)
    for shard in array.addressable_shards:
        data = np.asarray(shard.data)
        assert np.array_equal(data, whole[shard.index])
        assert data.shape == tuple(high - low for low, high in want[shard.device_id])
        if data.size:
            assert tuple((i.start, i.stop) for i in shard.index) == want[shard.device_id]


def all_specs(rank, axes):
    """Every spec: each axis of the mesh on a dimension or on none, those on one dimension in any order."""
    for places in itertools.product(range(-1, rank), repeat=axes):
        entries = [[a for a in range(axes) if places[a] == d] for d in range(rank)]
        for order in itertools.product(*[list(itertools.permutations(e)) for e in entries]):
            yield tuple(None if not e else e[0] if len(e) == 1 else tuple(e) for e in order)


def same(make, mesh, inputs, backend=None, tolerance=1e-4, seed=3, verify=True, **options):
    """make(True) on the mesh gives the parameters, values and gradients of make(False) on one device. Returns both the
    compiled model and its fresh parameters."""
    floating = [k for k, v in inputs.items() if np.asarray(v).dtype.kind == "f"]
    plain, compiled = (
        ml.compile(make(False), CBackend(device_mesh=(1,))),
        ml.compile(make(True), on(*mesh, **(backend or {})), **options),
    )
    fresh = compiled.get_parameters(inputs, seed=seed)
    want = plain.get_parameters(inputs, seed=seed)
    assert list(fresh) == list(want)
    for k in want:
        assert np.asarray(fresh[k]).tobytes() == np.asarray(want[k]).tobytes(), k
    params = shifted(want)
    values, reference = compiled.evaluate(params, inputs), plain.evaluate(params, inputs)
    assert set(values) == set(reference)
    seeds = {k: random(*v.shape, seed=4) for k, v in reference.items() if "float" in str(v.dtype)}
    again, gradients = compiled.evaluate(params, inputs, seeds, floating)
    _, slopes = plain.evaluate(params, inputs, seeds, floating)
    for k in reference:
        close(values[k], reference[k], tolerance)
        close(again[k], reference[k], tolerance)
    assert set(gradients) == set(params) | set(floating)
    largest = max((np.abs(np.asarray(g)).max(initial=0) for g in slopes.values()), default=0)
    for k in slopes:
        close(gradients[k], slopes[k], 5 * tolerance, floor=max(1e-6, 1e-3 * largest))
    if verify:
        text = compiled.program_text()
        ml.verify_plan(text)
        assert ml.reprint_plan(text) == text
    return compiled, fresh


def received(compiled):
    return [d["received"] for d in compiled.get_communication_usage()]


def messages(compiled):
    return sum(d["messages"] for d in compiled.get_communication_usage())


def linear(params, name, x):
    return x @ f64(params[f"{name}.weight"]) + (f64(params[f"{name}.bias"]) if f"{name}.bias" in params else 0)
