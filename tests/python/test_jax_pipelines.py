"""Pipelines on XLA: all microbatches of a stage run one module."""

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, JaxBackend
from support import close, random


def perceptron(*layers):
    model = ml.Model()
    for i, layer in enumerate(layers):
        model |= layer(input="input" if i == 0 else f"h{i}", output="output" if i == len(layers) - 1 else f"h{i + 1}")
    return model


def skipping():
    """An input that enters at the last stage, and the first stage's output there."""
    first, last = ml.Model(), ml.Model()
    first |= ml.Linear(6)(input="input", output="skip")
    last |= ml.Multiply()(inputs=["input", "scale"], output="scaled")
    last |= ml.Add()(inputs=["scaled", "skip"], output="output")
    return [first, perceptron(ml.Linear(6), ml.Gelu()), last]


def with_loss():
    last = ml.Model()
    last |= ml.Linear(6)(input="input", output="h")
    last |= ml.SquaredError()(input="h", target="scale", output="errors")
    last |= ml.Mean()(input="errors", output="output")
    return [perceptron(ml.Linear(8), ml.Dropout(0.3)), last]


# name: (mesh, stages, where they are, specs of inputs)
PIPELINES = {
    "stages": (
        (3,),
        lambda: [perceptron(ml.Linear(8), ml.Gelu()), perceptron(ml.Linear(5)), perceptron(ml.Linear(6))],
        {},
        {},
    ),
    "keyword": ((3,), skipping, {}, {}),
    "loss": ((2,), with_loss, {}, {}),
    "one device": (
        (1,),
        lambda: [perceptron(ml.Linear(6)), perceptron(ml.Relu(), ml.Linear(6))],
        {"device_assignment": [0, 0]},
        {},
    ),
    "data parallel": (
        (2, 2),
        lambda: [perceptron(ml.Linear(6)), perceptron(ml.Linear(6))],
        {"axis": 0},
        {"input": (1, None)},
    ),
}


def piped(backend, name, schedule, rows):
    """Microbatches of 2 rows: modules forward and with gradients, and the results."""
    _, stages, where, specs = PIPELINES[name]
    model, inputs = ml.Model(), {"input": random(rows, 6), "scale": random(rows, 6, seed=1)}
    keyword = {} if name not in ("keyword", "loss") else {"scale": "scale"}
    model |= ml.Pipeline(stages=stages(), microbatch_size=2, schedule=schedule, **where)(
        input="input", output="output", **keyword
    )
    inputs = {k: v for k, v in inputs.items() if k == "input" or keyword}
    compiled = ml.compile(model, backend, input_shard_specs=specs)
    params = compiled.get_parameters(inputs, seed=3)
    forward = compiled.evaluate(params, inputs)["output"]
    count = [compiled.stablehlo().count("// module ")] if isinstance(backend, JaxBackend) else []
    seed = random(*np.shape(forward), seed=2)
    _, slopes = compiled.evaluate(params, inputs, {"output": seed}, list(inputs))
    count += [compiled.stablehlo().count("// module ")] if isinstance(backend, JaxBackend) else []
    return count, {"output": forward, **slopes}


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("name", PIPELINES)
def test_microbatches_share_their_modules(xla, name, schedule):
    mesh = PIPELINES[name][0]
    backend, native = xla(device_mesh=mesh), CBackend(device_mesh=mesh)
    counts = []
    for rows in (8, 16, 32, 15, 31):
        count, got = piped(backend, name, schedule, rows)
        _, want = piped(native, name, schedule, rows)
        counts.append(count)
        for key in want:
            close(got[key], want[key], 1e-5)
    assert counts[0] == counts[1] == counts[2], "modules grow with the microbatches"
    assert counts[3] == counts[4], "modules grow with the microbatches before a smaller one"


def test_concats_of_many_microbatches_share_their_modules(xla):
    """More results than a concat has operands."""
    counts = [piped(xla(device_mesh=(3,)), "stages", "1f1b", rows)[0] for rows in (2 * 96, 2 * 160)]
    assert counts[0] == counts[1]
