"""TorchBackend: arrays are torch's tensors, torch's own state changes nothing, and nobody waits for Python's lock."""

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, TorchBackend
from support import close, f64, random

torch = pytest.importorskip("torch")
ENGINE = pytest.mark.parametrize("mesh", [(1,), (4,)])


def tower(mesh):
    """Two layers split over the mesh, their parameters, an input, and what CBackend computes."""
    model = ml.Model()
    model |= ml.Linear(16, weight_shard_spec=(None, 0))(input="x", output="h")
    model += ml.Gelu()(input="h", output="a")
    model += ml.Linear(4, weight_shard_spec=(0, None))(input="a", output="y")
    x, seed = random(6, 8), random(6, 4)
    native = ml.compile(model, CBackend(device_mesh=mesh))
    params = {name: np.asarray(value) for name, value in native.get_parameters({"x": x}, seed=1).items()}
    outputs, gradients = native.evaluate(params, {"x": x}, {"y": seed})
    return ml.compile(model, TorchBackend(device_mesh=mesh)), params, x, seed, outputs["y"], gradients


@ENGINE
def test_arrays_are_tensors(mesh):
    backend = TorchBackend(device_mesh=mesh)
    made = {
        torch.float32: [backend.randn(3, 4), backend.zeros(3, 4), backend.ones((3, 4)), backend.array(random(3, 4))],
        torch.int32: [backend.randint(0, 9, (3, 4)), backend.zeros(3, 4, dtype="int32")],
        torch.int64: [backend.ones(3, 4, dtype="int64")],
        torch.bool: [backend.zeros(3, 4, dtype="bool")],
        torch.bfloat16: [backend.ones(3, 4, dtype="bfloat16")],
        torch.float16: [backend.ones(3, 4, dtype="float16")],
        torch.float64: [backend.array(random(3, 4), dtype="float64")],
    }
    for dtype, tensors in made.items():
        for tensor in tensors:
            assert type(tensor) is torch.Tensor and tensor.dtype == dtype and tensor.shape == (3, 4)
            assert tensor.sharding.endswith(f"over mesh {mesh}") and len(tensor.addressable_shards) == mesh[0]
            assert all(torch.equal(shard.data, tensor) for shard in tensor.addressable_shards)
    assert torch.equal(backend.randn(3, 4, seed=5), torch.from_numpy(np.asarray(CBackend(mesh).randn(3, 4, seed=5))))
    for shape in ((), (0,), (2, 0, 3)):
        assert backend.zeros(shape).shape == shape


def test_shards_are_tensors():
    array = TorchBackend(device_mesh=(2, 2)).array(np.arange(24, dtype=np.float32).reshape(4, 6), spec=(0, 1))
    whole = torch.from_numpy(np.asarray(array))
    for shard in array.addressable_shards:
        assert type(shard.data) is torch.Tensor and torch.equal(shard.data, whole[shard.index])


@ENGINE
def test_outputs_are_tensors_without_copies(mesh):
    """What a run returns is the memory that it wrote: views keep it, and writing to it reaches no later run."""
    compiled, params, x, seed, y, gradients = tower(mesh)
    outputs, found = compiled.evaluate(params, {"x": x}, {"y": torch.from_numpy(seed)})
    assert type(outputs["y"]) is torch.Tensor and not outputs["y"].requires_grad
    close(outputs["y"], y)
    for name, gradient in gradients.items():
        close(found[name], gradient)
        assert type(found[name]) is torch.Tensor or all(
            type(shard.data) is torch.Tensor for shard in found[name].addressable_shards
        )
    tensor = outputs["y"]
    assert tensor.data_ptr() == tensor.addressable_shards[0].data.data_ptr()
    view = tensor[2:4].T
    kept = view.clone()
    del outputs, tensor
    gc.collect()
    for _ in range(3):
        compiled.evaluate(params, {"x": x})["y"].zero_()
    assert torch.equal(view, kept)
    close(compiled.evaluate(params, {"x": x})["y"], y)


@ENGINE
def test_any_tensor_is_an_input(mesh):
    compiled, params, x, _, y, _ = tower(mesh)
    tensor = torch.from_numpy(x)
    tracked = tensor.clone().requires_grad_()
    strided, offset = tensor.T.contiguous().T, torch.cat([torch.zeros(1, 8), tensor])[1:]
    inputs = [tensor, tracked, tracked * 1, strided, offset, torch.nn.Parameter(tensor), tensor.double()]
    for given in inputs:
        result = compiled.evaluate({k: torch.from_numpy(v) for k, v in params.items()}, {"x": given})["y"]
        close(result, y)
        assert not result.requires_grad
    assert tracked.grad is None


@ENGINE
def test_grad_modes_change_nothing(mesh):
    compiled, params, x, seed, y, gradients = tower(mesh)
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            outputs, found = compiled.evaluate(params, {"x": torch.from_numpy(x)}, {"y": seed})
            close(outputs["y"], y)
            close(found["linear_0.weight"], gradients["linear_0.weight"])
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_tensors_on_any_thread():
    """Devices run while others hold Python's lock, and free tensors of Python's threads."""
    compiled, params, x, _, y, _ = tower((4,))
    wrong = []

    def work():
        for _ in range(50):
            tensors = {name: torch.from_numpy(value.copy()) for name, value in params.items()}
            result = compiled.evaluate(tensors, {"x": torch.from_numpy(x.copy())})["y"]
            del tensors
            if np.abs(f64(result) - f64(y)).max() > 1e-4:
                wrong.append(result)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_parameters_are_trained_in_place():
    """The memory of a tensor is the parameter's: an optimizer of torch that steps it is seen by the next run."""
    compiled, params, x, seed, _, _ = tower((1,))
    tensors = {name: torch.from_numpy(value.copy()) for name, value in params.items()}
    optimizer = torch.optim.SGD(tensors.values(), lr=0.1)
    expected = {name: f64(value) for name, value in params.items()}
    native = ml.compile(native_model(), CBackend(device_mesh=(1,)))
    for _ in range(3):
        _, found = compiled.evaluate(tensors, {"x": x}, {"y": seed})
        for name, tensor in tensors.items():
            tensor.grad = found[name]
        optimizer.step()
        narrow = {name: value.astype(np.float32) for name, value in expected.items()}
        _, wanted = native.evaluate(narrow, {"x": x}, {"y": seed})
        for name in expected:
            expected[name] -= 0.1 * f64(wanted[name])
    for name in expected:
        close(tensors[name], expected[name])


def native_model():
    model = ml.Model()
    model |= ml.Linear(16)(input="x", output="h")
    model += ml.Gelu()(input="h", output="a")
    model += ml.Linear(4)(input="a", output="y")
    return model


# ---------------------------------------------------------------- torch that is missing, or another
def run(script, **variables):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **variables}, timeout=600
    )


def test_without_torch():
    """The error names the package to install."""
    script = """
import sys
sys.modules["torch"] = None  # an import of it fails
import mithril as ml
from mithril.backends import TorchBackend
try:
    TorchBackend(device_mesh=(2,), site_packages=[])
except ml.MithrilError as error:
    print(type(error).__name__, error)
"""
    # libmithril also looks beside itself: in an installed package torch may be there
    found = run(script, MITHRIL_TORCH="/nowhere")
    assert "MITHRIL_TORCH is '/nowhere', a folder without a readable libtorch.so" in found.stdout, found
    assert "unset it" in found.stdout


def test_imported_torch_is_the_one():
    backend = TorchBackend(device_mesh=(2,))
    folder = os.path.join(os.path.dirname(torch.__file__), "lib")
    assert os.path.realpath(folder) in os.path.realpath(backend.describe().split(" at ")[1].split("\n")[0])
    assert torch.__version__.split(".")[:2] == backend.describe().split("torch ")[1].split(" ")[0].split(".")[:2]


def test_leaving_while_devices_run():
    """A process ends in time, whatever its threads compute."""
    script = """
import threading
import numpy as np
import mithril as ml
from mithril.backends import TorchBackend
model = ml.Model()
model |= ml.Linear(64)(input="x", output="y")
compiled = ml.compile(model, TorchBackend(device_mesh=(2,)))
x = np.ones((64, 64), np.float32)
params = compiled.get_parameters({"x": x})
def work():
    while True:
        compiled.evaluate(params, {"x": x})
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
for _ in range(20):
    compiled.evaluate(params, {"x": x})
print("left")
"""
    done = run(script)
    assert done.returncode == 0 and done.stdout == "left\n", done
