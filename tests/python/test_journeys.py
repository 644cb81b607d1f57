"""Golden journeys: the plans of small models, as they are printed, in tests/golden/plans. A change of any pass shows
here, to be read in the diff; `MITHRIL_UPDATE_GOLDEN=1 pytest tests/python/test_journeys.py` writes them anew. Each plan
also runs and is checked against the same model on one device.
"""

import os
import pathlib
import re

import mithril as ml
import numpy as np
import pytest
from mithril.backends import CBackend
from support import every_engine, on

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "plans"


def mlp(first, second):
    m = ml.Model()
    m |= ml.Linear(dimension=16, **first)(input="input", output="h")
    m += ml.Relu()(input="h", output="a")
    m += ml.Linear(dimension=6, **second)(input="a", output="output")
    return m


def block(device=None, **options):
    here = {} if device is None else {"device_id": device}
    m = ml.Model()
    m |= ml.MultiHeadAttention(num_heads=4, head_dim=4, causal=True, **options, **here)(input="input", output="attn")
    m += ml.Add()(inputs=["input", "attn"], output="res")
    m += ml.LayerNorm()(input="res", output="norm")
    m += ml.FeedForward(hidden_dim=32, **options, **here)(input="norm", output="ffn")
    m += ml.Add()(inputs=["norm", "ffn"], output="output")
    return m


def stages(**options):
    def stage(width):
        s = ml.Model()
        s |= ml.Linear(dimension=width)(input="input", output="h")
        s += ml.Gelu()(input="h", output="output")
        return s

    m = ml.Model()
    m |= ml.Pipeline(stages=[stage(8), stage(8), stage(4)], microbatch_size=2, **options)(
        input="input", output="output"
    )
    return m


def moe(**options):
    m = ml.Model()
    m |= ml.MoE(num_experts=4, expert_dim=8, expert_distribution="one_per_device", **options)(
        input="input", output="output"
    )
    return m


def chain():
    m = ml.Model()
    for i in range(3):
        m += ml.Linear(dimension=8, device_id=i)(input="input" if i == 0 else f"a{i - 1}", output=f"h{i}")
        m += ml.Relu(device_id=i)(input=f"h{i}", output="output" if i == 2 else f"a{i}")
    return m


def tokens():
    m = ml.Model()
    m |= ml.Embedding(vocab_size=10, embedding_dim=8, tensor_axis=0)(input="ids", output="e")
    m += ml.Linear(dimension=10, weight_shard_spec=(None, 0))(input="e", output="logits")
    m += ml.CrossEntropy()(input="logits", target="labels", output="loss")
    return m


IDS = {"ids": np.arange(6, dtype=np.int32).reshape(2, 3), "labels": np.arange(6, dtype=np.int32).reshape(2, 3) + 2}
# name: model with and without places, mesh, options of the backend, of compile, inputs, gradients?
COLUMN, ROW = {"weight_shard_spec": (None, 0)}, {"weight_shard_spec": (0, None)}
JOURNEYS = {
    "tensor_parallel": (lambda: mlp(COLUMN, ROW), lambda: mlp({}, {}), (4,), {}, {}, (8, 12), True),
    "tensor_parallel_uneven": (lambda: mlp(COLUMN, ROW), lambda: mlp({}, {}), (3,), {}, {}, (8, 10), False),
    "two_dimensions": (
        lambda: mlp({"weight_shard_spec": (0, 1)}, ROW),
        lambda: mlp({}, {}),
        (2, 2),
        {},
        {},
        (8, 12),
        False,
    ),
    "data_and_tensor": (
        lambda: mlp({"weight_shard_spec": (None, 1)}, {"weight_shard_spec": (1, None)}),
        lambda: mlp({}, {}),
        (2, 2),
        {},
        {"input_shard_specs": {"input": (0, None)}},
        (8, 12),
        True,
    ),
    "ring": (
        lambda: mlp(COLUMN, ROW),
        lambda: mlp({}, {}),
        (4,),
        {"collective_ops": {"all_reduce": "ring"}},
        {},
        (8, 12),
        False,
    ),
    "overlap": (
        lambda: mlp(COLUMN, ROW),
        lambda: mlp({}, {}),
        (4,),
        {"overlap_communication": True, "communication_optimization": True},
        {},
        (8, 12),
        True,
    ),
    "device_per_operator": (chain, chain, (3,), {}, {}, (4, 6), True),
    "gpipe": (
        lambda: stages(device_assignment=[0, 1, 2]),
        lambda: stages(device_assignment=[0, 0, 0]),
        (3,),
        {},
        {},
        (6, 5),
        True,
    ),
    "1f1b": (
        lambda: stages(device_assignment=[0, 1, 2], schedule="1f1b"),
        lambda: stages(device_assignment=[0, 0, 0]),
        (3,),
        {},
        {},
        (6, 5),
        True,
    ),
    "interleaved": (
        lambda: stages(device_assignment=[0, 1, 0], schedule="1f1b"),
        lambda: stages(device_assignment=[0, 0, 0]),
        (2,),
        {},
        {},
        (5, 5),
        False,
    ),
    "transformer_block": (lambda: block(tensor_axis=0), block, (2,), {}, {}, (2, 3, 16), True),
    "experts": (moe, moe, (4,), {}, {}, (6, 8), False),
    "experts_of_sharded_tokens": (moe, moe, (4,), {}, {"input_shard_specs": {"input": (0, None)}}, (8, 8), False),
    "vocabulary": (tokens, tokens, (2,), {}, {}, IDS, True),
}


def run(make, mesh, backend_options, options, given, gradients):
    backend = on(mesh, **backend_options)
    compiled = ml.compile(make(), backend, **options)
    inputs = (
        given
        if isinstance(given, dict)
        else {"input": np.random.default_rng(0).standard_normal(given, dtype=np.float32)}
    )
    params = compiled.get_parameters(inputs, seed=1)
    outputs = compiled.evaluate(params, inputs)
    slopes = {}
    if gradients:
        outputs, slopes = compiled.evaluate(
            params, inputs, output_gradients={k: np.ones(v.shape, np.float32) for k, v in outputs.items()}
        )
    return {
        **{f"output {k}": np.asarray(v) for k, v in outputs.items()},
        **{k: np.asarray(v) for k, v in slopes.items()},
    }, compiled.program_text()


@every_engine
@pytest.mark.parametrize("name", JOURNEYS)
def test_journey(name, engine):
    make, plain, mesh, backend_options, options, given, gradients = JOURNEYS[name]
    got, text = run(make, mesh, backend_options, options, given, gradients)
    if name != "device_per_operator":
        want, _ = run(plain, (1,), {}, {}, given, gradients)
        assert set(got) == set(want)
        for key, value in want.items():
            np.testing.assert_allclose(got[key], value, atol=2e-5 * max(1, np.abs(value).max()), err_msg=key)
    ml.verify_plan(text)
    assert ml.reprint_plan(text) == text
    if engine is not CBackend:
        return  # another engine's plan may hold other slices
    text = re.sub(r' from "test_journeys.py:\d+"', "", text)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("MITHRIL_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"the plan of {name} has changed: MITHRIL_UPDATE_GOLDEN=1 writes it anew"


def test_no_golden_is_left_over():
    assert {p.stem for p in GOLDEN.glob("*.txt")} == set(JOURNEYS)
