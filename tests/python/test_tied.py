"""A head tied to an embedding, with a loss that is parallel over the vocabulary: finite differences, torch's modules
that share a
parameter, and a file that has it once."""

import re

import numpy as np
import pytest

import mithril as ml
from error_cases_run import write_safetensors
from support import check_against, close, compile_on, linear, shaken, softmax
from test_shared_weights import INPUTS, SEED, VOCABULARY, WIDTH, expected, tied, tied_stages


def tied_logits(p, ids):
    return linear(p, "mid", p["embed.weight"][ids]) @ p["embed.weight"].T


def tied_loss(p, x):
    return {"loss": -np.log(np.take_along_axis(softmax(tied_logits(p, x["ids"])), x["target"][..., None], -1)).mean()}


@pytest.mark.parametrize("mesh", [(1,), (3,), (4,), (2, 2)])
def test_finite_differences(mesh):
    """With a loss that is parallel over the vocabulary; also where sentences are split over the other axis."""
    model = tied(ml.Model(), tensor_axis=len(mesh) - 1)
    specs = {name: (0, None) for name in INPUTS} if len(mesh) == 2 else None
    compiled = compile_on(mesh, model, input_shard_specs=specs)
    check_against(tied_loss, compiled, shaken(compiled.get_parameters(INPUTS)), INPUTS)


@pytest.mark.parametrize("mesh", [(1,), (3,), (4,), (2, 2)])
def test_as_torch_ties(mesh):
    """Modules of torch of which one is given the other's parameter, which then has the sum of both gradients."""
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    embed, middle = torch.nn.Embedding(VOCABULARY, WIDTH).double(), torch.nn.Linear(WIDTH, WIDTH).double()
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False).double()
    head.weight = embed.weight
    ids, target = (torch.tensor(INPUTS[name]).long() for name in ("ids", "target"))
    loss = torch.nn.functional.cross_entropy(head(middle(embed(ids))).flatten(0, 1), target.flatten())
    (1.5 * loss).backward()
    params = {"embed.weight": embed.weight, "mid.weight": middle.weight.T, "mid.bias": middle.bias}
    params = {name: p.detach().float().numpy() for name, p in params.items()}
    slopes = {"embed.weight": embed.weight.grad, "mid.weight": middle.weight.grad.T, "mid.bias": middle.bias.grad}
    compiled = compile_on(mesh, tied(ml.Model(), tensor_axis=len(mesh) - 1))
    outputs, gradients = compiled.evaluate(params, INPUTS, SEED)
    close(outputs["loss"], loss.item())
    for name, slope in slopes.items():
        close(gradients[name], slope.numpy(), 1e-4)


@pytest.mark.parametrize(
    "mesh, model, second",
    [
        ((3,), tied(ml.Model(), tensor_axis=0), "head.weight"),
        ((3, 1), tied_stages({"axis": 0}), "p.stage_2.head.weight"),
    ],
)
def test_a_file_has_it_once(mesh, model, second, tmp_path):
    """Files name a tied weight once, by its owner, and it is read once; the name of another use is no parameter's."""
    compiled = compile_on(mesh, model)
    params = shaken(compiled.get_parameters(INPUTS))
    files = dict(zip(params, ("tok", "w", "b"), strict=True))
    write_safetensors(tmp_path / "tied.safetensors", {files[name]: value for name, value in params.items()})
    read = ml.read_safetensors(compiled, INPUTS, tmp_path / "tied.safetensors", files)
    assert list(read) == compiled.parameters == list(params)
    for name in params:
        assert np.array_equal(np.asarray(read[name]), params[name])
        assert read[name].sharding == compiled.get_parameter_layout(INPUTS)[name].sharding
    close(compiled.evaluate(read, INPUTS)["loss"], expected(*params.values())[0])
    with pytest.raises(ml.MithrilError, match=re.escape(second)):
        ml.read_safetensors(compiled, INPUTS, tmp_path / "tied.safetensors", {**files, second: "tok"})
