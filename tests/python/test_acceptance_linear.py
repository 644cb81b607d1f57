"""A Linear that is split in any way, on meshes of one to three axes, gives the numbers and the gradients of the whole
one."""

import itertools

import numpy as np
import pytest

import mithril as ml
from acceptance_support import all_specs, check_shards, devices, linear, model_of, on, received, shifted
from mithril.backends import ReferenceBackend
from support import engines_of_arrays, every_engine, close, f64, few, random

MESHES = [(1,), (2,), (3,), (4,), (7,), (2, 2), (3, 2), (1, 4), (2, 2, 2), (2, 1, 3)]


@every_engine
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_every_spec(mesh):
    """Sizes that divide and sizes that don't, empty parts, several leading dimensions; the bias is added once."""
    sizes = [(10, 6, (5,)), (3, 2, (2, 3)), (1, 1, (1,)), (6, 7, ())]
    for spec, (width, out, lead) in few(itertools.product(all_specs(2, len(mesh)), sizes), 13):
        compiled = ml.compile(
            model_of(ml.Linear(out, weight_shard_spec=spec, device_mesh=mesh)(input="x", output="y")), on(*mesh)
        )
        x, seed = random(*lead, width), random(*lead, out, seed=1)
        fresh = compiled.get_parameters({"x": x}, seed=5)
        check_shards(fresh["linear_0.weight"], spec, mesh)
        check_shards(fresh["linear_0.bias"], (spec[1],), mesh)
        params = {**fresh, "linear_0.bias": random(out, seed=2)}  # a sharded array and one of NumPy, mixed
        weight = f64(params["linear_0.weight"])
        want = linear(params, "linear_0", f64(x))
        close(compiled.evaluate(params, {"x": x})["y"], want)
        values, gradients = compiled.evaluate(params, {"x": x}, {"y": seed}, ["x"])
        close(values["y"], want)
        rows, slopes = f64(x).reshape(-1, width), f64(seed).reshape(-1, out)
        close(gradients["linear_0.weight"], rows.T @ slopes)
        close(gradients["linear_0.bias"], slopes.sum(0))
        close(gradients["x"], f64(seed) @ weight.T)


@every_engine
@pytest.mark.parametrize(
    "given", [(0, None), (None, 0), ((0, 1), None), ((1, 0), None), (1, 0), (None, (0, 1))], ids=str
)
def test_sharded_inputs(given):
    def build(spec):
        model = ml.Model()
        model |= ml.Linear(7, weight_shard_spec=spec)(input="x", output="h")
        model += ml.Gelu()
        model += ml.LayerNorm()
        model += ml.Linear(3, weight_shard_spec=spec and (0, 1))(output="y")
        return model

    x, seed = random(5, 4), {"y": random(5, 3)}
    plain = ml.compile(build(None), on(1))
    params = shifted(plain.get_parameters({"x": x}))
    want, slopes = plain.evaluate(params, {"x": x}, seed, ["x"])
    for spec in few([(0, None), (None, 1), ((1, 0), None), (None, (0, 1))], 3):
        compiled = ml.compile(build(spec), on(2, 3), input_shard_specs={"x": given})
        values, gradients = compiled.evaluate(params, {"x": x}, seed, ["x"])
        close(values["y"], want["y"])
        for k in slopes:
            close(gradients[k], slopes[k], 1e-4)


@every_engine
@pytest.mark.parametrize("spec", [(0, None), (None, 1), ((0, 1), None), (1, 0)], ids=str)
def test_sharded_outputs(spec):
    model = model_of(ml.Linear(7, weight_shard_spec=(0, None))(input="x", output="y"))
    compiled = ml.compile(model, on(2, 2), output_shard_specs={"y": spec})
    x, seed = random(5, 4), random(5, 7)
    params = shifted(compiled.get_parameters({"x": x}))
    values, gradients = compiled.evaluate(params, {"x": x}, {"y": seed})
    close(values["y"], linear(params, "linear_0", f64(x)))
    check_shards(values["y"], spec, (2, 2))
    close(gradients["linear_0.bias"], f64(seed).sum(0))


@every_engine
def test_outputs_come_back_whole():
    compiled = ml.compile(model_of(ml.Linear(7, weight_shard_spec=(None, (0, 1)))(input="x", output="y")), on(2, 2))
    x = random(5, 4)
    out = compiled.evaluate(compiled.get_parameters({"x": x}), {"x": x})["y"]
    assert all(np.array_equal(np.asarray(s.data), np.asarray(out)) for s in out.addressable_shards)


@every_engine
def test_layout_stays():
    """The first call fixes how parameters lie; later batches, with and without gradients, don't move them."""
    model = model_of(
        ml.Linear(6)(input="x", output="h"), ml.Relu()(input="h", output="a"), ml.Linear(5)(input="a", output="y")
    )
    compiled = ml.compile(model, on(2, 2), input_shard_specs={"x": (0, 1)})
    params = compiled.get_parameters({"x": random(64, 3)})
    layout = {k: v.sharding for k, v in params.items()}
    for batch in (1, 7, 200):
        _, gradients = compiled.evaluate(params, {"x": random(batch, 3)}, {"y": np.ones((batch, 5), np.float32)})
        assert {k: v.sharding for k, v in gradients.items()} == layout
        assert {k: v.sharding for k, v in compiled.get_parameters({"x": random(batch, 3)}).items()} == layout


def test_same_weights_on_any_mesh():
    def build(spec):
        model = ml.Model()
        model |= ml.Embedding(13, 12, weight_shard_spec=spec)(input="ids", output="e")
        model += ml.PositionalEncoding(8, kind="learned")
        model += ml.MultiHeadAttention(3, 4)
        model += ml.LayerNorm()
        model += ml.MoE(5, 7, expert_distribution="round_robin")
        model += ml.FeedForward(9, gated=True)
        model += ml.Linear(11, weight_shard_spec=spec)(output="y")
        return model

    ids, first = np.zeros((2, 3), np.int32), None
    for mesh in [(1,), (4,), (2, 2), (3,), (2, 1, 2), (7,)]:
        for spec in [None, (0, None), (None, 0)] + ([(0, 1), (None, (1, 0))] if len(mesh) == 2 else []):
            params = {
                k: np.asarray(v).tobytes()
                for k, v in ml.compile(build(spec), on(*mesh)).get_parameters({"ids": ids}, seed=7).items()
            }
            first = first or params
            assert list(params) == list(first) and params == first
    other = ml.compile(build(None), on(1)).get_parameters({"ids": ids}, seed=8)
    assert np.asarray(other["linear_0.weight"]).tobytes() != first["linear_0.weight"]


@every_engine
def test_arrays_of_other_backends():
    """A parameter, an input or a gradient may live on another mesh, or on another engine: it is an array as any
    other."""

    def build(**options):
        return model_of(ml.Linear(3, **options)(input="x", output="y"))

    x = random(2, 5)
    backend = on(4)
    models = [
        ml.compile(build(device_id=0), backend),
        ml.compile(build(device_id=2), backend),
        ml.compile(build(), on(3)),
        ml.compile(build(weight_shard_spec=(0, None)), on(4)),
        ml.compile(build(weight_shard_spec=((1, 0), None)), on(2, 2)),
        ml.compile(build(), ReferenceBackend(device_mesh=(3,))),
    ]
    for one in models:
        params = one.get_parameters({"x": x})
        for other in models:
            got, gradients = other.evaluate(params, {"x": one.backend.array(x)}, {"y": one.backend.ones(2, 3)})
            close(got["y"], linear(params, "linear_0", f64(x)))
            close(gradients["linear_0.bias"], [2, 2, 2])


@engines_of_arrays
def test_arrays_of_the_backend():
    backend = on(2, 3)
    x = random(5, 7)
    for array, spec in [
        (backend.randn(5, 7, seed=3, spec=(0, 1), device_mesh=(2, 3)), (0, 1)),
        (backend.randint(0, 9, (5, 7), seed=1, spec=((1, 0), None)), ((1, 0), None)),
        (backend.zeros(5, 7, spec=(None, 1)), (None, 1)),
        (backend.ones((5, 7), spec=(0, None), dtype="int64"), (0, None)),
        (backend.ones(5, 7, dtype="bfloat16", spec=(0, None)), (0, None)),
        (backend.array(x, spec=(1, 0)), (1, 0)),
        (backend.array(x, dtype="float64", spec=(None, (0, 1))), (None, (0, 1))),
    ]:
        check_shards(array, spec, (2, 3))
    assert np.array_equal(np.asarray(backend.randn(5, 7, seed=3, spec=(0, 1))), np.asarray(on(4).randn(5, 7, seed=3)))
    assert np.array_equal(
        np.asarray(backend.randint(0, 99, (5, 7), seed=3, spec=(0, 1))),
        np.asarray(on(4).randint(0, 99, (5, 7), seed=3)),
    )
    wide = np.asarray(backend.randint(-(2**31), 2**31, (4096,), seed=1)).astype(np.int64)
    assert wide.min() < -(2**30) and wide.max() > 2**30 and len(np.unique(wide % 128)) == 128


@every_engine
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_floating_arrays(dtype):
    """The native engine computes in float32: arrays of another floating type are converted, parameters are float32."""
    backend = on(2)
    compiled = ml.compile(model_of(ml.Linear(3, weight_shard_spec=(0, None))(input="x", output="y")), backend)
    x = backend.array(random(4, 5), dtype=dtype)
    params = compiled.get_parameters({"x": x})
    assert all(str(v.dtype).removeprefix("torch.") == "float32" for v in params.values())
    values, gradients = compiled.evaluate(params, {"x": x}, {"y": backend.array(random(4, 3), dtype=dtype)}, ["x"])
    close(values["y"], linear(params, "linear_0", f64(x)))
    close(gradients["x"], f64(backend.array(random(4, 3), dtype=dtype)) @ f64(params["linear_0.weight"]).T)
    stored = {k: backend.array(np.asarray(v), dtype=dtype) for k, v in params.items()}
    close(compiled.evaluate(stored, {"x": x})["y"], linear(stored, "linear_0", f64(x)))


def test_float64_on_the_reference_engine():
    backend = ReferenceBackend(device_mesh=(3,))
    compiled = ml.compile(model_of(ml.Linear(3, weight_shard_spec=(0, None))(input="x", output="y")), backend)
    x = backend.array(random(4, 5), dtype="float64")
    params = compiled.get_parameters({"x": x}, seed=2)
    single = ml.compile(model_of(ml.Linear(3)(input="x", output="y")), on(1)).get_parameters(
        {"x": random(4, 5)}, seed=2
    )
    close(params["linear_0.weight"], single["linear_0.weight"], 1e-6)
    close(compiled.evaluate(params, {"x": x})["y"], linear(params, "linear_0", f64(x)), 1e-13)


@every_engine
def test_devices_by_operator():
    """A chain that goes back and forth: where parameters are, the gradients, and the bytes of the hand-overs."""
    for mesh in few([(4,), (2, 2), (2, 1, 2)], 2):
        ids, x = [3, 1, 2, 0, 3], random(3, 5)
        model = ml.Model()
        for k, device in enumerate(ids):
            model += ml.Linear(4 + k, device_id=device)(**({"input": "x"} if k == 0 else {}))
            model += ml.Tanh(device_id=ids[(k + 1) % 5])(output=f"t{k}")
        compiled = ml.compile(model, on(*mesh))
        fresh = compiled.get_parameters({"x": x})
        assert [devices(fresh[f"linear_{k}.weight"]) for k in range(5)] == [[d] for d in ids]
        params = shifted(fresh)
        values = compiled.evaluate(params, {"x": x})
        assert sum(received(compiled)) == 4 * 3 * (4 + 5 + 6 + 7)  # the last two run on one device
        again, gradients = compiled.evaluate(params, {"x": x}, {"t4": np.ones((3, 8), np.float32)}, ["x"])
        h, seen = f64(x), []
        for k in range(5):
            seen.append(h)
            h = np.tanh(linear(params, f"linear_{k}", h))
        close(values["t4"], h)
        close(again["t4"], h)
        slope, seen = np.ones((3, 8)), seen + [h]
        for k in reversed(range(5)):
            slope = slope * (1 - seen[k + 1] ** 2)
            close(gradients[f"linear_{k}.weight"], seen[k].T @ slope, 1e-4)
            close(gradients[f"linear_{k}.bias"], slope.sum(0), 1e-4)
            slope = slope @ f64(params[f"linear_{k}.weight"]).T
        close(gradients["x"], slope, 1e-4)
