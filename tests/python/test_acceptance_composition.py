"""Models of blocks, submodels and wires: names, the order of parameters, where operators without an annotation run,
inputs and outputs."""

import numpy as np
import pytest

import mithril as ml
from acceptance_support import devices, linear, model_of, on, shifted
from support import every_engine, close, f64, layer_norm, random, relu, softmax


def evaluate(model, inputs, mesh=(1,)):
    compiled = ml.compile(model, on(*mesh))
    params = compiled.get_parameters(inputs)
    return compiled, params, compiled.evaluate(params, inputs)


@every_engine
def test_runs_where_the_last_listed_input_lives():
    model = model_of(
        ml.Linear(5, device_id=0)(input="x", output="a"),
        ml.Linear(5, device_id=2)(input="x", output="b"),
        ml.Add()(inputs=["a", "b"], output="s"),
        ml.LayerNorm()(input="s", output="n"),
        ml.Add()(inputs=["b", "a"], output="s2"),
        ml.Linear(3)(input="s2", output="z"),
        ml.Multiply(device_id=3)(inputs=["n", "s2"], output="q"),
        ml.Add()(inputs=["q", "x"], output="r"),  # an input of the model lives nowhere
        ml.Linear(2)(input="r", output="t"),
    )
    x = random(4, 5)
    compiled = ml.compile(model, on(4))
    fresh = compiled.get_parameters({"x": x})
    assert [devices(fresh[f"{k}.weight"]) for k in ("layer_norm_0", "linear_2", "linear_3")] == [[2], [0], [3]]
    params = shifted(fresh)
    values = compiled.evaluate(params, {"x": x})
    s = linear(params, "linear_0", f64(x)) + linear(params, "linear_1", f64(x))
    q = layer_norm({k: f64(v) for k, v in params.items()}, "layer_norm_0", s) * s
    assert set(values) == {"z", "t"}
    close(values["z"], linear(params, "linear_2", s))
    close(values["t"], linear(params, "linear_3", q + f64(x)))


def test_without_annotations_all_devices_hold_all():
    model = ml.Model()
    model |= ml.Linear(6)(input="x", output="a")
    model += ml.Relu()
    model += ml.Linear(2)(output="y")
    _, params, _ = evaluate(model, {"x": random(3, 4)}, (2, 2))
    assert devices(params["linear_0.weight"]) == [0, 1, 2, 3]
    assert list(params) == ["linear_0.weight", "linear_0.bias", "linear_1.weight", "linear_1.bias"]


@every_engine
def test_several_inputs_and_outputs():
    model = model_of(
        ml.Split(parts=3, axis=1)(input="x", output0="a", output1="b", output2="c"),
        ml.Linear(4, device_id=1)(input="a", output="la"),
        ml.Linear(4, device_id=2, bias=False)(input="w", output="lw"),
        ml.Concat(axis=1)(inputs=["la", "lw", "b"], output="cat"),
    )
    inputs = {"x": random(5, 9), "w": random(5, 7)}
    compiled, params, _ = evaluate(model, inputs, (3,))
    params, x, w = shifted(params), f64(inputs["x"]), f64(inputs["w"])
    values = compiled.evaluate(params, inputs)
    assert set(values) == {"cat", "c"}
    close(values["c"], x[:, 6:])
    close(
        values["cat"],
        np.concatenate([linear(params, "linear_0", x[:, :3]), linear(params, "linear_1", w), x[:, 3:6]], 1),
    )
    seed = random(5, 11, seed=1)
    _, gradients = compiled.evaluate(params, inputs, {"cat": seed}, ["x", "w"])
    close(gradients["w"], f64(seed)[:, 4:8] @ f64(params["linear_1.weight"]).T)
    close(
        gradients["x"],
        np.concatenate([f64(seed)[:, :4] @ f64(params["linear_0.weight"]).T, seed[:, 8:], np.zeros((5, 3))], 1),
    )
    _, gradients = compiled.evaluate(params, inputs, {}, ["x"])  # what is missing is zero
    assert set(gradients) == set(params) | {"x"} and not any(np.asarray(g).any() for g in gradients.values())
    _, gradients = compiled.evaluate(params, inputs, {"c": random(5, 3)}, ["x"])
    assert np.array_equal(
        np.asarray(gradients["x"]), np.concatenate([np.zeros((5, 6)), random(5, 3)], 1).astype(np.float32)
    )


def test_names_of_nested_submodels():
    def inner():
        model = ml.Model()
        model |= ml.Linear(4)(input="u", output="v")
        model += ml.Gelu()
        model += ml.Linear(4, name="last")(output="w")
        return model

    def middle():
        return model_of(inner()(u="p", w="q"), inner()(u="q", w="r"), ml.RMSNorm()(input="r", output="s"))

    model = model_of(ml.Linear(4)(input="x", output="h"), middle()(p="h", s="y", name="block"), middle()(p="y", s="z"))
    _, params, values = evaluate(model, {"x": random(2, 4)}, (2,))
    want = ["linear_0.weight", "linear_0.bias"]
    for block in ("block", "model_0"):
        want += [
            f"{block}.model_{i}.{name}.{k}" for i in (0, 1) for name in ("linear_0", "last") for k in ("weight", "bias")
        ]
        want += [f"{block}.rms_norm_0.weight"]
    assert list(params) == want and set(values) == {"z"}


def test_names_of_classes():
    model = ml.Model()
    model |= ml.Linear(4, name="first")(input="x", output="a")
    for module in (
        ml.Linear(4),
        ml.MultiHeadAttention(2, name="att"),
        ml.MoE(2, 3),
        ml.MultiHeadAttention(2),
        ml.RMSNorm(),
        ml.FeedForward(3),
    ):
        model += module
    model += ml.PositionalEncoding(9, kind="learned")
    _, params, values = evaluate(model, {"x": random(2, 3, 4)})
    assert list(dict.fromkeys(k.split(".")[0] for k in params)) == [
        "first",
        "linear_0",
        "att",
        "moe_0",
        "multi_head_attention_0",
        "rms_norm_0",
        "feed_forward_0",
        "positional_encoding_0",
    ]
    assert [k for k in params if k.startswith("att.")] == [
        f"att.{p}.{k}" for p in ("query", "key", "value", "output") for k in ("weight", "bias")
    ]
    assert list(values) == ["positional_encoding_0.output"]


def test_parameters_stand_as_composed():
    """The second block feeds the first: it runs before, and is listed after."""
    model = model_of(ml.Linear(3)(input="h", output="y"), ml.Linear(4)(input="x", output="h"))
    _, params, values = evaluate(model, {"x": random(2, 5)})
    assert list(params) == ["linear_0.weight", "linear_0.bias", "linear_1.weight", "linear_1.bias"]
    close(values["y"], linear(params, "linear_0", linear(params, "linear_1", f64(random(2, 5)))))


@every_engine
def test_an_uncalled_submodel_finds_its_names():
    inner = model_of(ml.Add()(inputs=["h", "x"], output="t"))
    model = model_of(ml.Linear(3)(input="x", output="h"), inner, ml.Relu()(input="t", output="y"))
    _, params, values = evaluate(model, {"x": random(2, 3)})
    assert set(values) == {"y"}
    close(values["y"], relu(linear(params, "linear_0", f64(random(2, 3))) + f64(random(2, 3))))


def test_chain_through_a_submodel():
    inner = model_of(ml.Linear(3)(input="in", output="mid"), ml.Relu()(input="mid", output="out"))
    model = model_of(ml.Linear(5)(input="x", output="h"))
    model += inner
    model += ml.Softmax()(output="y")
    _, params, values = evaluate(model, {"x": random(2, 3)}, (2,))
    assert set(values) == {"y"}
    close(values["y"], softmax(relu(linear(params, "model_0.linear_0", linear(params, "linear_0", f64(random(2, 3)))))))


def test_a_chain_passes_side_results_by():
    model = model_of(ml.Linear(4)(input="x", output="h"))
    model += ml.MoE(4, 5, capacity_factor=1.0, load_balancing_loss=True)
    model += ml.Linear(3)(output="y")
    _, _, values = evaluate(model, {"x": random(6, 4)}, (2,))
    assert set(values) == {"y", "moe_0.dropped", "moe_0.load_balancing_loss"}


def test_connect():
    model = model_of(
        ml.Linear(4)(input="x", output="a"), ml.Relu()(input="b", output="c"), ml.Linear(4)(input="x2", output="a2")
    )
    model.connect(source="a", destination="b")
    model.connect(source="a", destination="b")
    with pytest.raises(ValueError, match="'a2'.*'a'"):
        model.connect(source="a2", destination="b")
    inputs = {"x": random(2, 3), "x2": random(2, 3, seed=1)}
    _, params, values = evaluate(model, inputs)
    assert set(values) == {"c", "a2"}
    close(values["c"], relu(linear(params, "linear_0", f64(inputs["x"]))))


def test_the_other_spelling():
    model = ml.Model()
    model |= ml.Linear(5).connect(input="x", output=ml.IOKey("y"))
    compiled = ml.compile(model, on(1), shapes={"x": (3, 4)})
    params, same = compiled.get_parameters(), compiled.randomize_params()
    assert params["linear_0.weight"].shape == (4, 5)
    assert list(params) == list(same) and all(
        np.array_equal(np.asarray(params[k]), np.asarray(same[k])) for k in params
    )


@every_engine
def test_one_value_twice():
    """Both inputs of an operator, and an output that is also read."""
    model = model_of(
        ml.Linear(3, weight_shard_spec=(0, None))(input="x", output="h"), ml.Multiply()(inputs=["h", "h"], output="y")
    )
    compiled, params, _ = evaluate(model, {"x": random(2, 5)}, (3,))
    values, gradients = compiled.evaluate(params, {"x": random(2, 5)}, {"y": np.ones((2, 3), np.float32)}, ["x"])
    h = linear(params, "linear_0", f64(random(2, 5)))
    close(values["y"], h * h)
    close(gradients["x"], 2 * h @ f64(params["linear_0.weight"]).T)


def test_errors_name_connections():
    """Operands are called as the user called them, inside of submodels too."""
    inner = model_of(
        ml.Linear(3)(input="x", output="u"),
        ml.Linear(2)(input="x", output="v"),
        ml.Add()(inputs=["u", "v"], output="w"),
    )
    with pytest.raises(ValueError) as caught:
        evaluate(model_of(inner(x="x", w="y", name="block")), {"x": random(2, 5)})
    assert caught.value.op == "block.add_0"
    assert caught.value.tensors == ("block.u: float32 (2, 3)", "block.v: float32 (2, 2)")


def test_misspelt_keywords():
    compiled, params, _ = evaluate(model_of(ml.Linear(3)(input="x", output="y")), {"x": random(2, 5)})
    backend = compiled.backend
    for wrong, fix in [
        (lambda: compiled.evaluate(params, {"x": random(2, 5)}, output_gradient={}), "output_gradients"),
        (lambda: compiled.get_parameters(seeds=1), "seed"),
        (lambda: compiled.program_text(gradient=True), "gradients"),
        (lambda: compiled.get_memory_usage(input={}), "inputs"),
        (lambda: backend.randn(3, sed=1), "seed"),
        (lambda: backend.zeros(3, dtyp="int32"), "dtype"),
        (lambda: model_of(ml.Relu()(input="a", output="b")).connect(sourc="b", destination="a"), "source"),
    ]:
        with pytest.raises(TypeError) as caught:
            wrong()
        assert isinstance(caught.value, ml.MithrilError) and fix in caught.value.fix
    for wrong in (lambda: compiled.evaluate(params), lambda: backend.array(), lambda: backend.randint(0, "a", (3,))):
        with pytest.raises(TypeError) as caught:
            wrong()
        assert caught.value.fix
    with pytest.raises(ValueError):
        backend.randint(0, 2**70, (3,))


@pytest.mark.parametrize(
    "build",
    [
        lambda: ml.Linear(3, weight_shard_spec=(0, None), shard_specs={"weight": (None, 0)}),
        lambda: ml.Embedding(5, 3, weight_shard_spec=(0, None), shard_specs={"weight": (0, None)}),
    ],
)
def test_two_specs_for_one_parameter(build):
    with pytest.raises(ValueError, match="both say"):
        build()


def test_a_dimension_reduced_twice():
    with pytest.raises(ValueError, match="dimension 0 twice"):
        evaluate(model_of(ml.Mean(axis=(0, -2))(input="x", output="y")), {"x": random(2, 5)})


def test_a_model_in_the_making_can_be_shown():
    assert "Linear(dimension=3): input=x -> y" in repr(model_of(ml.Linear(3)(input="x", output="y")))
    assert "add_0: Add takes 2 or more inputs, and has 1" in repr(model_of(ml.Add()(inputs=["a"], output="b")))
