"""JaxBackend: its options, good and bad; what XLA is given and makes of it; arrays that change hands without a copy;
TPUs that are not here."""

import gc
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, JaxBackend
from mithril.errors import MithrilError, MithrilTypeError, MithrilValueError
from support import HANGS, close, f64, linear, one_block, random, relu

X = random(8, 16)


def mlp(first=(None, 0), second=(0, None)):
    model = ml.Model()
    model |= ml.Linear(12, weight_shard_spec=first)(input="x", output="h")
    model += ml.Relu()(input="h", output="a")
    model += ml.Linear(6, weight_shard_spec=second)(input="a", output="y")
    return model


def check(backend, model=None, gradients=True):
    """The values, and a gradient, against NumPy. Returns the compiled model."""
    compiled = ml.compile(model or mlp(), backend)
    params = compiled.get_parameters({"x": X}, seed=2)
    p = {k: f64(v) for k, v in params.items()}
    hidden = relu(linear(p, "linear_0", f64(X)))
    close(compiled.evaluate(params, {"x": X})["y"], linear(p, "linear_1", hidden))
    if gradients:
        _, slopes = compiled.evaluate(params, {"x": X}, {"y": np.ones((8, 6))})
        close(slopes["linear_1.weight"], hidden.T @ np.ones((8, 6)))
        compiled.evaluate(params, {"x": X})  # the forward plan is the last one again
    return compiled


# ---------------------------------------------------------------- options
GOOD = {
    "none": ((4,), {}),
    "cpu": ((4,), {"backend": "cpu"}),
    "mpmd": ((4,), {"mesh_context": "mpmd"}),
    "spmd": ((4,), {"mesh_context": "spmd"}),
    "spmd mesh": ((2, 2), {"mesh_context": "spmd", "spmd_mesh_shape": (2, 2)}),
    "spmd mesh, cut": ((4,), {"mesh_context": "spmd", "spmd_mesh_shape": (2, 2)}),
    "auto": ((4,), {"auto_sharding": True}),
    "auto, one dimension": ((2, 2), {"auto_sharding": True, "spmd_partition_dims": 1}),
    "memory": ((4,), {"memory_optimization": True}),
    "compile options": ((2,), {"compile_options": {"xla_backend_optimization_level": 0}}),
    "ring": ((4,), {"collective_ops": {"all_reduce": "ring"}}),
    "tree": ((2, 2), {"collective_ops": {"all_reduce": "tree", "all_gather": "hierarchical"}}),
    "communication": (
        (4,),
        {"communication_optimization": True, "overlap_communication": True, "pipeline_communication": True},
    ),
    "16 devices": ((16,), {}),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_options(xla, name):
    mesh, options = GOOD[name]
    backend = xla(device_mesh=mesh, **options)
    text = backend.describe()
    assert "engine pjrt" in text and "cpu" in text.lower() and str(np.prod(mesh)) in text
    for option in options:
        assert option in text
    check(backend)


BAD = [
    ({"mesh_contxt": "spmd"}, MithrilTypeError, "did you mean 'mesh_context'"),
    ({"threads": 2}, MithrilTypeError, "the options are: device_mesh"),
    ({"mesh_context": "smpd"}, MithrilValueError, "did you mean mesh_context='spmd'"),
    ({"mesh_context": 3}, MithrilTypeError, "mesh_context"),
    ({"backend": "gpu"}, MithrilValueError, "cpu"),
    ({"auto_sharding": "yes"}, MithrilTypeError, "auto_sharding="),
    ({"memory_optimization": 1}, MithrilTypeError, "memory_optimization="),
    ({"mesh_context": "spmd", "spmd_mesh_shape": (2, 3)}, MithrilValueError, "spmd_mesh_shape"),
    ({"mesh_context": "spmd", "spmd_mesh_shape": "4"}, MithrilTypeError, "spmd_mesh_shape"),
    ({"mesh_context": "spmd", "spmd_mesh_shape": (4, 0)}, MithrilValueError, "sizes"),
    ({"spmd_mesh_shape": (4,)}, MithrilValueError, "spmd"),
    ({"auto_sharding": True, "spmd_partition_dims": 0}, MithrilValueError, "spmd_partition_dims"),
    ({"auto_sharding": True, "spmd_partition_dims": 7}, MithrilValueError, "spmd_partition_dims"),
    ({"spmd_partition_dims": 1}, MithrilValueError, "auto_sharding"),
    ({"plugin": "/nowhere/plugin.so"}, MithrilValueError, "plugin"),
    ({"plugin": __file__}, MithrilValueError, "plugin"),
    ({"plugin": 7}, MithrilTypeError, "plugin="),
    ({"topology": "2x4x8"}, MithrilValueError, "tpu"),
    ({"backend": "tpu", "topology": "round"}, MithrilError, ""),
    ({"platform_options": {"cpu_device_count": 9}}, MithrilValueError, "device_mesh"),
    ({"platform_options": {"visible_devices": (0,)}}, MithrilValueError, "'asynchronous'"),
    ({"compile_options": {"xla_dump_to": None}}, MithrilTypeError, ""),
    ({"collective_ops": {"all_reduce": "rnig"}}, MithrilValueError, "'ring'"),
]


@pytest.mark.parametrize(
    "options, error, fix", BAD, ids=[",".join(f"{k}={v}" for k, v in o.items())[:40] for o, *_ in BAD]
)
def test_bad_options(xla, options, error, fix):
    with pytest.raises(error) as caught:
        xla(device_mesh=(4,), **options)
    assert caught.value.op == "backend" and caught.value.fix and caught.value.what
    assert fix in caught.value.fix
    check(xla(device_mesh=(4,)), gradients=False)  # nothing is broken by it


@pytest.mark.parametrize(
    "options", [{"compile_options": {"xla_no_such_flag": 1}}, {"cache_dir": __file__ + "/below"}], ids=str
)
def test_options_that_fail_when_it_compiles(xla, options):
    """What only XLA or the file system knows."""
    compiled = ml.compile(mlp(), xla(device_mesh=(2,), **options))
    params = compiled.get_parameters({"x": X})
    with pytest.raises(MithrilValueError) as caught:
        compiled.evaluate(params, {"x": X})
    assert next(iter(options)) in caught.value.fix


def test_a_plugin_by_its_path(xla, monkeypatch):
    path = re.search(r"(/\S+\.so)", xla(device_mesh=(1,)).describe())[1]
    check(xla(device_mesh=(2,), plugin=path), gradients=False)
    monkeypatch.setenv("MITHRIL_PJRT_PLUGIN_CPU", path)
    check(xla(device_mesh=(2,)), gradients=False)
    monkeypatch.setenv("MITHRIL_PJRT_PLUGIN_CPU", "/nowhere/plugin.so")
    with pytest.raises(MithrilValueError, match="/nowhere/plugin.so"):
        xla(device_mesh=(2,))


def without_plugins(tmp_path, options):
    """How JaxBackend(...) says that its error is mended, in a process whose packages are mithril, NumPy and BLAS."""
    shutil.copytree(pathlib.Path(ml.__file__).parent, tmp_path / "mithril")
    for name in ("numpy", "scipy_openblas32"):
        for package in pathlib.Path(importlib.util.find_spec(name).origin).parents[1].glob(name + "*"):
            (tmp_path / package.name).symlink_to(package)
    code = (
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom mithril.backends import JaxBackend\n"
        f"try: print('found', JaxBackend({options}).describe())\nexcept ValueError as error: print(error.fix)"
    )
    environment = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("MITHRIL_PJRT") and k not in ("VIRTUAL_ENV", "PYTHONPATH", "HOME")
    }
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=HANGS, env=environment, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    if run.stdout.startswith("found"):
        pytest.skip("a plugin lies in the system's folders")
    return run.stdout


def test_no_plugin(tmp_path):
    assert 'pip install "mithril-parallel[jax]"' in without_plugins(tmp_path, "device_mesh=(2,)")


def test_paths_in_the_home(xla, tmp_path, monkeypatch):
    path = pathlib.Path(re.search(r"(/\S+\.so)", xla(device_mesh=(1,)).describe())[1])
    monkeypatch.setenv("HOME", str(path.parent))
    check(xla(device_mesh=(2,), plugin=f"~/{path.name}"), gradients=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    check(xla(device_mesh=(2,), cache_dir="~/programs"), gradients=False)
    assert list((tmp_path / "programs").iterdir())


def test_cache_on_disk(xla, tmp_path):
    quiet = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}  # which this process has set by now
    for expected in (False, True):
        code = (
            f"import numpy as np, mithril as ml\nfrom mithril.backends import JaxBackend\nm = ml.Model()\n"
            "m |= ml.Linear(4)(input='x', output='y')\n"
            f"c = ml.compile(m, JaxBackend(device_mesh=(2,), cache_dir={str(tmp_path)!r}))\n"
            "x = {'x': np.ones((2, 3), 'f')}\nc.evaluate(c.get_parameters(x), x)\nprint(c.explain())"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, env=quiet)
        assert run.returncode == 0 and not run.stderr, run.stderr
        assert ("cache on disk" in run.stdout) == expected
    assert list(tmp_path.iterdir())


# ---------------------------------------------------------------- what XLA is given and makes of it
def test_stablehlo(xla):
    compiled = ml.compile(mlp(), xla(device_mesh=(4,)))
    with pytest.raises(MithrilValueError, match="shapes of the inputs"):
        compiled.stablehlo()
    text = compiled.stablehlo({"x": X})
    assert text == compiled.stablehlo() and "func.func public @main" in text and "stablehlo.dot_general" in text
    assert "stablehlo.all_reduce" in text and "tensor<16x3xf32>" in text  # local shapes
    assert "tensor<5x16xf32>" in compiled.stablehlo({"x": X[:5]})
    compiled.evaluate(compiled.get_parameters({"x": X}), {"x": X}, {"y": np.ones((8, 6))})
    assert compiled.stablehlo({"x": X}).count("dot_general") > text.count("dot_general"), (
        "the plan last used is that of the gradients"
    )


def alone(model, backend, x, rank):
    """Its rows over 4 devices, where nothing travels."""
    spec = (0,) + (None,) * (rank - 1)
    compiled = ml.compile(
        model, backend, input_shard_specs={"x": (0,) + (None,) * (x.ndim - 1)}, output_shard_specs={"y": spec}
    )
    return compiled, compiled.get_parameters({"x": x})


@pytest.mark.parametrize("rows", [8, 10, 3])
def test_devices_that_run_alone(xla, rows):
    """A module that tells no device from another is one of a single device, which each of them runs."""
    model = ml.Model()
    model |= ml.LayerNorm()(input="x", output="h")
    model += ml.Relu()(input="h", output="y")
    x = random(rows, 5)
    compiled, params = alone(model, xla(device_mesh=(4,)), x, 2)
    assert re.match("// module 1 of 1: 1 device, on devices 0; 1; 2; 3\n.*num_replicas = 1 ", compiled.stablehlo())
    assert "module 1: 1 device, 4 runs of" in compiled.explain()
    y = compiled.evaluate(params, {"x": x})["y"]
    assert [s.data.shape[0] for s in y.addressable_shards] == [
        max(0, min(-(-rows // 4), rows - d * -(-rows // 4))) for d in range(4)
    ]
    centred = f64(x) - f64(x).mean(1, keepdims=True)
    close(y, relu(centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)))


def test_devices_that_are_told_apart(xla):
    """Dropout counts elements of the whole tensor: where a device's begin depends on the device."""
    model = ml.Model()
    model |= ml.Dropout(0.5)(input="x", output="y")
    x = random(8, 16) + 3
    compiled, params = alone(model, xla(device_mesh=(4,)), x, 2)
    assert re.match("// module 1 of 1: 4 devices, on devices 0,1,2,3\n.*num_replicas = 4 ", compiled.stablehlo())
    one = ml.compile(model, CBackend(device_mesh=(1,)))
    assert np.array_equal(
        compiled.evaluate(params, {"x": x})["y"], one.evaluate(one.get_parameters({"x": x}), {"x": x})["y"]
    )


@pytest.mark.parametrize("at", range(4))
def test_ids_of_devices_that_run_alone(xla, at):
    model = ml.Model()
    model |= ml.Embedding(7, 3)(input="x", output="y")
    good = np.arange(8) % 7
    compiled, params = alone(model, xla(device_mesh=(4,)), good, 2)
    bad = good.copy()
    bad[2 * at + 1] = 9
    with pytest.raises(MithrilValueError, match="id 9 is outside"):
        compiled.evaluate(params, {"x": bad})
    close(compiled.evaluate(params, {"x": good})["y"], f64(params["embedding_0.weight"])[good])


def test_stablehlo_of_named_algorithms(xla):
    for algorithm in ("ring", "tree", "hierarchical"):
        text = ml.compile(mlp(), xla(device_mesh=(4,), collective_ops={"all_reduce": algorithm})).stablehlo({"x": X})
        assert "collective_permute" in text and "stablehlo.all_reduce" not in text


def test_stablehlo_of_the_partitioner(xla):
    compiled = check(xla(device_mesh=(4,), mesh_context="spmd"), gradients=False)
    text = compiled.stablehlo()
    assert "sdy.mesh" in text and "sdy.sharding" in text and "stablehlo.all_reduce" not in text
    assert "tensor<16x12xf32>" in text  # global shapes
    assert "all_reduce" in compiled.explain()


def test_explain(xla):
    compiled = check(xla(device_mesh=(4,)))
    text = compiled.explain()
    row = re.search(r"all_reduce\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", text)
    assert row and row[1] == row[3] == "1" and int(row[2]) == int(row[4]) == 2 * 8 * 6 * 4 * 3 // 4
    assert "bytes of a device" in text and text == compiled.explain()


def test_other_engines_have_none():
    compiled = ml.compile(mlp(), CBackend(device_mesh=(2,)))
    for read in (compiled.stablehlo, compiled.explain):
        with pytest.raises(MithrilValueError) as caught:
            read({"x": X})
        assert "JaxBackend" in caught.value.fix


def test_ids_are_checked(xla):
    model = ml.Model()
    model |= ml.Embedding(9, 4, weight_shard_spec=(0, None))(input="ids", output="y")
    compiled = ml.compile(model, xla(device_mesh=(2,)))
    good, bad = np.array([[1, 8]]), np.array([[1, 9]])
    params = compiled.get_parameters({"ids": good})
    with pytest.raises(MithrilValueError, match="9 is outside") as caught:
        compiled.evaluate(params, {"ids": bad})
    assert caught.value.op == "embedding_0"
    close(compiled.evaluate(params, {"ids": good})["y"], f64(params["embedding_0.weight"])[good])


def test_auto_sharding_shards(xla):
    backend = xla(device_mesh=(4,), auto_sharding=True)
    model = ml.Model()
    model |= ml.Linear(512)(input="x", output="h")
    model += ml.Relu()
    model += ml.Linear(256)(output="y")
    x = random(16, 128)
    compiled = ml.compile(model, backend)
    params = compiled.get_parameters({"x": x})
    p = {k: f64(v) for k, v in params.items()}
    close(compiled.evaluate(params, {"x": x})["y"], linear(p, "linear_1", relu(linear(p, "linear_0", f64(x)))))
    assert any(
        np.asarray(s.data).size < params["linear_0.weight"].size for s in params["linear_0.weight"].addressable_shards
    )


def test_threads(xla):
    compiled = ml.compile(mlp(), xla(device_mesh=(4,)))
    params = compiled.get_parameters({"x": X})
    want, wrong = np.asarray(compiled.evaluate(params, {"x": X})["y"]).copy(), []

    def work(rows):
        for _ in range(10):
            if not np.allclose(np.asarray(compiled.evaluate(params, {"x": X[:rows]})["y"]), want[:rows], atol=1e-5):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (8, 8, 3, 2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_nothing_is_kept(xla):
    backend = xla(device_mesh=(2,))

    def work():
        compiled = ml.compile(mlp(), backend)
        params = compiled.get_parameters({"x": X})
        compiled.evaluate(params, {"x": X}, {"y": np.ones((8, 6))}, ["x"])
        np.asarray(params["linear_0.weight"]), compiled.explain(), compiled.stablehlo()

    work(), work()  # XLA's programs stay in the backend's cache
    gc.collect()
    before = ml._mithril._allocations()[1]
    for _ in range(3):
        work()
    gc.collect()
    assert ml._mithril._allocations()[1] == before


# ---------------------------------------------------------------- arrays without a copy
def aligned(x, offset=0):
    """A copy of x that begins on 64 bytes, and `offset` further."""
    room = np.zeros(x.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    out = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


ENGINES = pytest.mark.parametrize("cls", [CBackend, JaxBackend], ids=["native", "xla"])


@pytest.fixture
def make(cls, request):
    if cls is JaxBackend:
        request.getfixturevalue("xla")
    return cls


@ENGINES
@pytest.mark.parametrize("offset", [0, 4])
def test_inputs_are_borrowed_for_the_call(make, offset):
    """The outputs are their own, even one that is an input in another shape; the input is let go of, and may then
    change."""
    model = ml.Model()
    model |= ml.Reshape((16, 8))(input="x", output="same")
    model |= ml.Relu()(input="x", output="y")
    compiled = ml.compile(model, make(device_mesh=(2,)))
    x = aligned(X, offset)
    references = sys.getrefcount(x)
    outputs = compiled.evaluate({}, {"x": x})
    assert sys.getrefcount(x) == references
    x[...] = 99
    assert np.array_equal(np.asarray(outputs["same"]), X.reshape(16, 8)) and np.array_equal(
        np.asarray(outputs["y"]), np.maximum(X, 0)
    )
    close(compiled.evaluate({}, {"x": x})["y"], np.full((8, 16), 99.0))  # nobody remembers what stood there


@ENGINES
def test_parameters_and_slopes_may_be_borrowed_too(make):
    compiled = ml.compile(mlp(), make(device_mesh=(2,)))
    params = {k: aligned(np.asarray(v)) for k, v in compiled.get_parameters({"x": X}).items()}
    _, want = compiled.evaluate(params, {"x": X}, {"y": np.ones((8, 6), np.float32)})
    alive = [weakref.ref(v.base) if v.base is not None else weakref.ref(v) for v in params.values()]
    _, got = compiled.evaluate(params, {"x": aligned(X)}, {"y": aligned(np.ones((8, 6), np.float32))})
    del params
    gc.collect()
    assert not any(r() is not None for r in alive), "parameters are kept alive"
    for k in want:
        assert np.array_equal(np.asarray(got[k]), np.asarray(want[k]))


@ENGINES
def test_array_copies(make):
    """backend.array means the values at that moment."""
    backend, x = make(device_mesh=(2,)), aligned(X)
    a = backend.array(x)
    compiled = ml.compile(one_block(ml.Relu(), input="x", output="y"), backend)
    first = compiled.evaluate({}, {"x": a})["y"]
    x[...] = -1
    assert np.array_equal(np.asarray(a), X) and np.array_equal(
        np.asarray(first), np.asarray(compiled.evaluate({}, {"x": a})["y"])
    )


@ENGINES
def test_a_failed_call_lets_go(make):
    compiled = ml.compile(mlp(), make(device_mesh=(2,)))
    x = aligned(X)
    references = sys.getrefcount(x)
    for params in ({}, {"linear_0.weight": aligned(np.zeros((3, 3), np.float32))}):
        with pytest.raises(MithrilError):
            compiled.evaluate(params, {"x": x})
    with pytest.raises(MithrilError):
        compiled.evaluate({}, {"x": x, "z": object()})
    assert sys.getrefcount(x) == references


@ENGINES
def test_dlpack_out(make):
    compiled = ml.compile(one_block(ml.Relu(), input="x", output="y"), make(device_mesh=(2,)))
    y = compiled.evaluate({}, {"x": X})["y"]
    where = np.asarray(y).ctypes.data
    assert np.from_dlpack(y).ctypes.data == where and np.asarray(y.addressable_shards[0].data).ctypes.data == where
    split = make(device_mesh=(2,)).array(X, spec=(0, None))
    assert np.array_equal(np.from_dlpack(split), X)  # gathered into a copy
    with pytest.raises(BufferError):
        split.__dlpack__(copy=False)


@ENGINES
def test_dlpack_with_torch(make):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    compiled = ml.compile(one_block(ml.Relu(), input="x", output="y"), make(device_mesh=(2,)))
    y = compiled.evaluate({}, {"x": torch.from_numpy(X)})["y"]
    t = torch.from_dlpack(y)
    assert np.array_equal(t.numpy(), np.maximum(X, 0))
    t[0, 0] = 5
    assert np.array_equal(np.asarray(y), np.maximum(X, 0)), "arrays are read-only, and torch doesn't heed the mark"
    shared = torch.from_numpy(np.asarray(y))
    assert shared.data_ptr() == np.asarray(y).ctypes.data
    del y
    gc.collect()
    assert np.array_equal(shared.numpy(), np.maximum(X, 0))


@ENGINES
def test_dlpack_with_jax(make):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    compiled = ml.compile(one_block(ml.Relu(), input="x", output="y"), make(device_mesh=(2,)))
    given = jax.numpy.asarray(X)
    y = compiled.evaluate({}, {"x": given})["y"]
    assert np.array_equal(np.asarray(jax.dlpack.from_dlpack(y)), np.maximum(X, 0))
    j = jax.device_put(np.asarray(y))
    assert j.unsafe_buffer_pointer() == np.asarray(y).ctypes.data and np.array_equal(np.asarray(j), np.maximum(X, 0))
    again = compiled.evaluate({}, {"x": j})["y"]
    del y, given
    gc.collect()
    assert np.array_equal(np.asarray(again), np.asarray(j)) and np.array_equal(np.asarray(j), np.maximum(X, 0))


# ---------------------------------------------------------------- TPUs that are not here
LIBTPU = importlib.util.find_spec("libtpu") is not None or bool(os.environ.get("MITHRIL_PJRT_PLUGIN_TPU"))


def guide_tpu():
    return JaxBackend(
        device_mesh=(2, 4),        # 2x4 TPU slice
        backend="tpu",             # Use TPU backend
        topology="2x4x8",          # Specify TPU topology
        memory_optimization=True   # Enable TPU memory optimization
    )  # fmt: skip


def test_without_libtpu(tmp_path):
    assert "pip install libtpu" in without_plugins(
        tmp_path, "device_mesh=(2, 4), backend='tpu', topology='2x4x8', memory_optimization=True"
    )


@pytest.mark.skipif(not LIBTPU, reason="libtpu is not installed")
def test_tpu_plan():
    backend = guide_tpu()
    assert "v5p" in backend.describe() and "tpu" in backend.describe().lower()
    compiled = ml.compile(mlp((None, 1), (1, None)), backend)
    text = compiled.explain({"x": X})
    assert "flops" in text and "all_reduce" in text and "stablehlo.all_reduce" in compiled.stablehlo({"x": X})
    params = compiled.get_parameters({"x": X})
    with pytest.raises(MithrilValueError, match="no tpu is here") as caught:
        compiled.evaluate(params, {"x": X})
    assert caught.value.fix


@pytest.mark.skipif(not LIBTPU, reason="libtpu is not installed")
@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v5e:2x4", "v6e:2x4", "v4:2x2x1"])
def test_topologies(topology):
    backend = JaxBackend(device_mesh=(4,), backend="tpu", topology=topology)
    assert topology in backend.describe()
    text = ml.compile(mlp(), backend).explain({"x": X})
    assert "module 1: 4 devices, 1 run of" in text and re.search(r"all_reduce +1 +288 +1 +288\n", text)
    rows = {"input_shard_specs": {"x": (0, None)}, "output_shard_specs": {"y": (0, None)}}
    model = ml.Model()
    model |= ml.Relu()(input="x", output="y")
    assert "module 1: 1 device, 4 runs of 1 instruction," in ml.compile(model, backend, **rows).explain({"x": X})


def test_without_cuda(xla):
    if importlib.util.find_spec("jax_plugins") and importlib.util.find_spec("jax_plugins.xla_cuda12"):
        pytest.skip("a CUDA plugin is installed")
    with pytest.raises(MithrilValueError) as caught:
        xla(device_mesh=(1,), backend="cuda", platform_options={"allocator": "bfc", "visible_devices": (0,)})
    assert "jax-cuda12-pjrt" in caught.value.fix


def test_what_the_partitioner_lacks_is_told_by_compile_where_options_say_it(xla):
    """Sizes among the options tell the parts of a parameter before any input does: compile refuses exactly what a plan
    would."""
    ids, x = np.zeros((2, 4), np.int32), random(2, 4, 12)
    for mesh, module, value in (
        ((2,), lambda n: ml.MultiHeadAttention(n, tensor_axis=0), x),
        ((2,), lambda n: ml.MultiHeadAttention(2 * n, num_kv_heads=n, head_dim=1, tensor_axis=0), x),
        ((2,), lambda n: ml.MultiHeadAttention(n, shard_specs={"key.weight": (None, 0)}), x),
        ((2,), lambda n: ml.MultiHeadAttention(n, shard_specs={"output.weight": (0, None)}), x),
        ((2, 2), lambda n: ml.Linear(14 if n % 2 else 16, weight_shard_spec=(None, (0, 1))), x),
        ((2, 2), lambda n: ml.Linear(14 if n % 2 else 16, shard_specs={"bias": ((0, 1),)}), x),
        ((2, 2), lambda n: ml.FeedForward(14 if n % 2 else 15, shard_specs={"up.weight": (None, (0, 1))}), x),
        (
            (2, 2),
            lambda n: ml.FeedForward(14 if n % 2 else 16, gated=True, shard_specs={"down.weight": ((0, 1), None)}),
            x,
        ),
        ((2, 2), lambda n: ml.Embedding(14 if n % 2 else 15, 3, weight_shard_spec=((0, 1), None)), ids),
        ((2, 2), lambda n: ml.Embedding(5, 14 if n % 2 else 16, weight_shard_spec=(None, (0, 1))), ids),
        ((2, 2), lambda n: ml.MoE(6 if n % 2 else 8, 4, weight_shard_spec=((0, 1), None, None)), x),
        ((2, 2), lambda n: ml.MoE(2, 6 if n % 2 else 4, shard_specs={"experts.up.bias": (None, (0, 1))}), x),
        (
            (2, 2),
            lambda n: ml.PositionalEncoding(6 if n % 2 else 8, kind="learned", shard_specs={"weight": ((0, 1), None)}),
            x,
        ),
        ((3,), lambda n: ml.MultiHeadAttention(4 if n % 2 else 6, tensor_axis=0), x),
    ):
        backend = xla(device_mesh=mesh, mesh_context="spmd")
        for n in (3, 4):
            model = one_block(module(n), input="x", output="y")
            if n == 3:
                with pytest.raises(MithrilValueError, match="has no such parts as") as caught:
                    ml.compile(model, backend)
                assert caught.value.op and "mpmd" in caught.value.fix
            else:
                ml.compile(model, backend).get_parameter_layout({"x": value})
    one_column = ml.compile(
        one_block(ml.MultiHeadAttention(3, head_dim=1, tensor_axis=0), input="x", output="y"),
        xla(device_mesh=(2,), mesh_context="spmd"),
    )
    assert one_column.get_parameter_layout({"x": x})


def test_what_the_partitioner_lacks_is_told_before_parameters_are(xla):
    """Uneven parts that are nested, which only shapes show: neither parameters nor a plan come of them."""
    backend = xla(device_mesh=(2, 2), mesh_context="spmd")
    model = one_block(ml.Linear(4, weight_shard_spec=((0, 1), None)), input="x", output="y")
    compiled = ml.compile(model, backend)
    for read in (compiled.get_parameters, compiled.stablehlo):
        with pytest.raises(MithrilValueError, match="no such parts") as caught:
            read({"x": random(2, 5)})
        assert caught.value.op == "linear_0.weight"
    with pytest.raises(MithrilValueError, match="no such parts"):
        ml.compile(model, backend, shapes={"x": (2, 5)})
    check_linear = ml.compile(model, backend, shapes={"x": (2, 8)})
    params = check_linear.get_parameters()
    close(
        check_linear.evaluate(params, {"x": random(2, 8)})["y"],
        linear({k: f64(v) for k, v in params.items()}, "linear_0", f64(random(2, 8))),
    )
