"""Names of inputs, outputs and wires against those of parameters: what meets in one dictionary has different names."""

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend
from support import random


def add(model, name, of="h", output="y"):
    model |= ml.Add()(inputs=[of, name], output=output)
    return model


def linear(**wires):
    model = ml.Model()
    model |= ml.Linear(4)(**{"input": "x", "output": "h", **wires})
    return model


def in_a_submodel(name):
    model = ml.Model()
    model |= linear()(x="x", h="h")
    return add(model, name)


def inside_of_a_submodel(name):
    model = ml.Model()
    model |= add(linear(), name)(x="x", y="y")
    return model


def in_a_stage(name):
    model = ml.Model()
    model |= ml.Pipeline(stages=[linear(), linear()])(input="x", output="h")
    return add(model, name)


def inside_of_a_stage(name):
    model = ml.Model()
    model |= ml.Pipeline(stages=[linear(), add(linear(), name)])(input="x", output="y")
    return model


def of_experts(name):
    model = ml.Model()
    model |= ml.MoE(4, 8, name="moe")(input="x", output="h")
    return add(model, name)


def of_attention(name):
    model = ml.Model()
    model |= ml.MultiHeadAttention(2, 4, name="attend")(input="x", output="h")
    return add(model, name)


def joined(name):
    model = add(linear(), "w")
    model.connect(source=name, destination="w")
    return model


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda name: add(linear(), name), "linear_0.bias"),
        (lambda name: add(linear(), ml.IOKey(name)), "linear_0.weight"),
        (lambda name: linear(output=name), "linear_0.bias"),
        (lambda name: linear(input=name), "linear_0.weight"),
        (lambda name: add(add(linear(), "b", output=name), "c", of=name, output="z"), "linear_0.weight"),
        (joined, "linear_0.bias"),
        (in_a_submodel, "model_0.linear_0.weight"),
        (inside_of_a_submodel, "linear_0.bias"),
        (in_a_stage, "pipeline_0.stage_1.linear_0.bias"),
        (inside_of_a_stage, "linear_0.bias"),
        (of_experts, "moe.experts.up.weight"),
        (of_experts, "moe.router.weight"),
        (of_attention, "attend.key.weight"),
    ],
)
def test_a_wire_has_no_parameters_name(make, name):
    with pytest.raises(ml.errors.MithrilValueError, match="parameter of") as caught:
        ml.compile(make(name), CBackend(device_mesh=(2,)))
    assert name in caught.value.what and caught.value.fix


@pytest.mark.parametrize(
    "name",
    ["linear_1.bias", "linear_0.x", "linear_0.bias.x", "linear_0bias", "model_0.linear_0.bias", "x.linear_0.bias"],
)
def test_other_names_with_dots_are_free(name):
    ml.compile(add(linear(), name), CBackend(device_mesh=(1,)))


def test_the_fix_keeps_both_gradients():
    """A bias read a second time, as an input of its own: the gradients of the two come apart, and add up to the shared
    one's."""
    compiled = ml.compile(add(linear(), "linear_0_bias"), CBackend(device_mesh=(1,)))
    x, bias = random(3, 5), random(4)
    inputs = {"x": x, "linear_0_bias": bias}
    params = {**compiled.get_parameters(inputs), "linear_0.bias": bias}
    outputs, gradients = compiled.evaluate(params, inputs, {"y": np.ones((3, 4), np.float32)}, ["linear_0_bias"])
    assert np.allclose(outputs["y"], x @ np.asarray(params["linear_0.weight"]) + 2 * bias, atol=1e-5)
    assert set(gradients) == {"linear_0.weight", "linear_0.bias", "linear_0_bias"}
    assert np.array_equal(gradients["linear_0.bias"], np.full(4, 3)) and np.array_equal(
        gradients["linear_0_bias"], np.full(4, 3)
    )


def test_a_gradient_is_asked_for_once():
    compiled = ml.compile(linear(), CBackend(device_mesh=(1,)))
    inputs = {"x": random(3, 5)}
    with pytest.raises(KeyError, match="'x' is given twice"):
        compiled.evaluate(compiled.get_parameters(inputs), inputs, {"h": np.ones((3, 4), np.float32)}, ["x", "x"])
