"""Any connection as an output: compile's `outputs`, IOKey's `expose`, Identity, and the lists of names. Values and
gradients against NumPy's
in float64, with the formulas of a softmax written out."""

import copy
import pickle

import numpy as np
import pytest

import mithril as ml
from error_cases_run import write_safetensors
from mithril.backends import CBackend, JaxBackend
from support import every_engine, close, compile_on, few, random, shaken

VOCABULARY, WIDTH = 11, 6
IDS = np.array([[1, 4, 4, 0, 9], [2, 10, 3, 3, 7], [5, 6, 8, 1, 0]], np.int32)
TARGET = np.roll(IDS, -1, axis=1)
INPUTS = {"ids": IDS, "target": TARGET}
MESHES = [(1,), (3,), (4,), (2, 2)]
LOGITS_GRADIENT = random(*IDS.shape, VOCABULARY, seed=5)


def head(expose=False, **split):
    model = ml.Model()
    model |= ml.Embedding(VOCABULARY, WIDTH, name="embed")(input="ids", output="words")
    model |= ml.Linear(VOCABULARY, name="head", **split)(input="words", output=ml.IOKey("logits", expose=expose))
    model |= ml.CrossEntropy()(input="logits", target="target", output="loss")
    return model


def expected(params, loss_gradient=0.0, logits_gradient=0.0):
    """Outputs and the gradients of loss_gradient * loss + sum(logits_gradient * logits), by hand."""
    table, weight, bias = (np.float64(params[f"{n}"]) for n in ("embed.weight", "head.weight", "head.bias"))
    words = table[IDS]
    logits = words @ weight + bias
    chance = np.exp(logits - logits.max(-1, keepdims=True))
    chance /= chance.sum(-1, keepdims=True)
    hit = np.eye(VOCABULARY)[TARGET]
    d = loss_gradient * (chance - hit) / TARGET.size + logits_gradient
    dwords = d @ weight.T
    dtable = np.zeros_like(table)
    np.add.at(dtable, IDS.ravel(), dwords.reshape(-1, WIDTH))
    flat = d.reshape(-1, VOCABULARY)
    outputs = {"words": words, "logits": logits, "loss": -np.log((chance * hit).sum(-1)).mean()}
    return outputs, {
        "embed.weight": dtable,
        "head.weight": words.reshape(-1, WIDTH).T @ flat,
        "head.bias": flat.sum(0),
    }


def check(compiled, inputs=INPUTS, rename=None):
    """All outputs, and the gradients of those that are there, of each alone and of both at once."""
    rename = rename or {}
    params = shaken(compiled.get_parameters(inputs))
    plain = {rename.get(k, k): v for k, v in params.items()}
    want, _ = expected(plain)
    got = compiled.evaluate(params, inputs)
    assert list(got) == compiled.outputs
    for name in got:
        close(got[name], want[rename.get(name, name)])
    seeds = {"loss": np.float32(1.5), "logits": LOGITS_GRADIENT}
    there = {name: seeds[rename.get(name, name)] for name in got if rename.get(name, name) in seeds}
    for given in [*({name: seed} for name, seed in there.items()), there]:
        by_name = {rename.get(name, name): seed for name, seed in given.items()}
        outputs, gradients = compiled.evaluate(params, inputs, given)
        _, slopes = expected(plain, by_name.get("loss", 0.0), by_name.get("logits", 0.0))
        assert list(outputs) == compiled.outputs and list(gradients) == list(params)
        for name in gradients:
            close(gradients[name], slopes[rename.get(name, name)], 1e-4)


@every_engine
@pytest.mark.parametrize("mesh", MESHES)
def test_an_intermediate_and_the_loss(mesh, engine):
    """By compile's option and by the model's own word; both gradients at once add up."""
    check(compile_on(mesh, head(), outputs=["logits", "loss"]))
    for compiled in few(
        [compile_on(mesh, head(expose=True)), compile_on(mesh, head(), outputs=["loss", "words", "logits"])], 2
    ):
        check(compiled)


@every_engine
@pytest.mark.parametrize("mesh", [(4,), (2, 2)])
def test_specs_of_outputs_that_are_read(mesh, engine):
    """Logits that are split over the vocabulary stay where they are made."""
    axis = len(mesh) - 1
    split = {"weight_shard_spec": (None, axis)}
    spec = {"logits": (None, None, axis)}
    for model, outputs in few([(head(**split), ["logits", "loss"]), (head(True, **split), None)], 2):
        compiled = compile_on(mesh, model, outputs=outputs, output_shard_specs=spec)
        check(compiled)
        params = compiled.get_parameters(INPUTS)
        logits = compiled.evaluate(params, INPUTS)["logits"]
        assert logits.addressable_shards[0].data.shape[-1] == -(-VOCABULARY // mesh[axis])
        assert "all_gather" not in "".join(x for x in compiled.program_text().splitlines() if x.startswith("channel"))


@pytest.mark.parametrize("mesh", [(3,), (2, 2)])
def test_by_the_partitioner_of_xla(mesh):
    backend = JaxBackend(device_mesh=mesh, mesh_context="spmd")
    check(ml.compile(head(True, weight_shard_spec=(None, len(mesh) - 1)) if mesh == (2, 2) else head(True), backend))
    check(ml.compile(head(), backend, outputs=["logits"]), {"ids": IDS})


@every_engine
@pytest.mark.parametrize("mesh, size", [((2,), 1), ((2,), 2), ((3,), 3)])
def test_of_stages(mesh, size, engine):
    """A connection within a stage is a port of the Pipeline where the stage exposes it; so is an output that the next
    stage takes."""
    first, last = ml.Model(), ml.Model()
    first |= ml.Embedding(VOCABULARY, WIDTH, name="embed")(input="ids", output=ml.IOKey("words", expose=True))
    last |= ml.Linear(VOCABULARY, name="head")(input="words", output=ml.IOKey("logits", expose=True))
    last |= ml.CrossEntropy()(input="logits", target="target", output="loss")
    for schedule in few(["gpipe", "1f1b"], 2):
        model = ml.Model()
        stages = ml.Pipeline([first, last], microbatch_size=size, schedule=schedule, name="p")
        model |= stages(input="ids", target="target", output="loss", words="words", logits="logits")
        assert model.outputs == ["words", "logits", "loss"]
        names = {"p.stage_0.embed.weight": "embed.weight", "p.stage_1.head.weight": "head.weight"}
        names["p.stage_1.head.bias"] = "head.bias"
        check(compile_on(mesh, model), rename=names)
        check(compile_on(mesh, model, outputs=["logits", "loss"]), rename=names)


def test_what_no_output_needs_is_not_computed():
    backend = CBackend(device_mesh=(2,))
    compiled = ml.compile(head(), backend, outputs=["words"])
    assert (compiled.inputs, compiled.outputs, compiled.parameters) == (["ids"], ["words"], ["embed.weight"])
    text = compiled.program_text({"ids": IDS})
    assert "head" not in text and "contract" not in text and "target" not in text
    close(
        compiled.evaluate({"embed.weight": random(VOCABULARY, WIDTH)}, {"ids": IDS})["words"],
        random(VOCABULARY, WIDTH)[IDS],
    )
    with pytest.raises(ml.MithrilError, match="no output that compile was told of needs it"):
        compiled.evaluate(
            compiled.get_parameters({"ids": IDS}), INPUTS, {"words": random(*IDS.shape, WIDTH)}, ["target"]
        )


def test_inside_of_submodels():
    """What a submodel exposes is its port; what its parent doesn't ask for takes with it what only that needs."""
    outer = ml.Model()
    outer |= head(expose=True)(ids="ids", target="target", logits="scores", loss="loss", name="lm")
    outer |= ml.Softmax()(input="scores", output="chances")
    assert outer.inputs == ["ids", "target"] and outer.outputs == ["loss", "chances"]
    compiled = compile_on((2,), outer, outputs=["scores", "chances"])
    assert compiled.inputs == ["ids"] and compiled.parameters == ["lm.embed.weight", "lm.head.weight", "lm.head.bias"]
    params = compiled.get_parameters({"ids": IDS})
    got = compiled.evaluate(params, {"ids": IDS})
    want, _ = expected({k.removeprefix("lm."): np.asarray(v) for k, v in params.items()})
    close(got["scores"], want["logits"])
    hidden = ml.Model()
    hidden |= head()(ids="ids", target="target", loss="loss", name="lm")
    with pytest.raises(
        ml.MithrilError, match=r"inside of lm\n(.*\n)*  fix: expose 'logits' where that model is composed: IOKey"
    ):
        compile_on((2,), hidden, outputs=["lm.logits"])


def test_a_chain_takes_the_last_output_not_an_exposed_one():
    block = ml.Model()
    block |= ml.Linear(4)(input="x", output=ml.IOKey("h", expose=True))
    block |= ml.Relu()(input="h", output="y")
    model = ml.Model()
    model |= block(x="x", name="a")
    model += ml.Tanh()(output="z")
    assert "input=y -> z" in str(model) or "input=a.y -> z" in str(model)
    assert model.outputs == ["h", "z"]


@every_engine
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 1), (1,) * 8])
def test_identity(dtype, shape, engine):
    model = ml.Model()
    model |= ml.Identity()(input="x", output="y")
    compiled = compile_on((2,), model)
    x = (random(*shape) * 3).astype(dtype)
    y = compiled.evaluate({}, {"x": x})["y"]
    assert np.asarray(y).dtype == x.dtype and np.array_equal(np.asarray(y), x)
    if dtype == "float32":
        _, gradients = compiled.evaluate({}, {"x": x}, {"y": x * 2}, ["x"])
        assert np.array_equal(np.asarray(gradients["x"]), x * 2)


def test_identity_copies_nothing_between_operators():
    model = ml.Model()
    model |= ml.Linear(4)(input="x", output="h")
    model |= ml.Identity()(input="h", output="i")
    model |= ml.Relu()(input="i", output="y")
    plain = ml.Model()
    plain |= ml.Linear(4)(input="x", output="h")
    plain |= ml.Relu()(input="h", output="y")
    x = {"x": random(3, 5)}
    usage = []
    for m in (model, plain):
        compiled = compile_on((1,), m)
        assert "copy" not in compiled.program_text(x)
        usage.append(compiled.get_memory_usage(inputs=x))
    assert usage[0] == usage[1]


def test_identity_moves_to_its_device():
    model = ml.Model()
    model |= ml.Linear(4, device_id=0)(input="x", output="h")
    model |= ml.Identity(device_id=1)(input="h", output="y")
    compiled = compile_on((2,), model)
    x = {"x": random(3, 5)}
    params = compiled.get_parameters(x)
    y = compiled.evaluate(params, x)["y"]
    assert [s.device_id for s in y.addressable_shards] == [1]
    close(y, x["x"] @ np.asarray(params["linear_0.weight"]) + np.asarray(params["linear_0.bias"]))


def test_names_of_models():
    model = ml.Model()
    assert model.inputs == [] and model.outputs == []
    model |= ml.Linear(4)(input="x", output="h")
    assert model.inputs == ["x"] and model.outputs == ["h"]
    model += ml.Relu()
    assert model.outputs == ["relu_0.output"]
    model |= ml.Tanh()(input=ml.IOKey("relu_0.output", expose=True), output="y")
    assert model.outputs == ["relu_0.output", "y"]
    model |= ml.Relu()(input="x", output="z")
    assert model.inputs == ["x"] and model.outputs == ["relu_0.output", "y", "z"]
    compiled = compile_on((2,), model)
    assert compiled.inputs == ["x"] and compiled.outputs == model.outputs
    assert compiled.parameters == list(compiled.get_parameters({"x": random(2, 3)}))
    model |= ml.Relu()(input="far", output="z")
    with pytest.raises(ml.MithrilError, match="'z' is written by"):
        model.outputs
    with pytest.raises((AttributeError, TypeError)):
        model.inputs = ["x"]


def test_keys_of_inputs():
    """An input can't be an output as well: the fix is to give it a second name."""
    model = ml.Model()
    model |= ml.Relu()(input=ml.IOKey("x", expose=True), output="y")
    with pytest.raises(ml.MithrilError, match="'x' is to be an output, and it is an input of the model") as caught:
        model.outputs
    assert "Identity with input='x', output='x_out'" in caught.value.fix
    with pytest.raises(ml.MithrilError, match="'x' is to be an output"):
        compile_on((1,), model)
    mended = ml.Model()
    mended |= ml.Relu()(input="x", output="y")
    mended |= ml.Identity()(input="x", output="x_out")
    x = random(2, 3)
    result = compile_on((1,), mended).evaluate({}, {"x": x})
    close(result["x_out"], x)
    close(result["y"], np.maximum(x, 0))


def test_keys_of_connect():
    for end in (0, 1):
        model = ml.Model()
        model |= ml.Relu()(input="x", output="h")
        model |= ml.Tanh()(input="t", output="y")
        names = ["h", "t"]
        names[end] = ml.IOKey(names[end], expose=True)
        model.connect(*names)
        assert model.outputs == ["h", "y"]


def test_parameters_of_a_model_that_is_cut():
    """All parameters of a model may be given where its outputs need some; those that are no parameters may not."""
    model = head()
    whole, cut = compile_on((2,), model), compile_on((2,), model, outputs=["words"])
    ids = np.arange(8, dtype=np.int32).reshape(2, 4) % VOCABULARY
    inputs = {"ids": ids, "target": ids}
    params = whole.get_parameters(inputs)
    assert cut.parameters == list(cut.get_parameters({"ids": ids})) == list(cut.randomize_params({"ids": ids}))
    assert set(cut.parameters) < set(params)
    some = {name: params[name] for name in cut.parameters}
    for given in (some, params):
        result, gradients = cut.evaluate(given, {"ids": ids}, {"words": np.ones((2, 4, WIDTH), np.float32)})
        close(result["words"], np.asarray(params["embed.weight"])[ids])
        assert list(gradients) == cut.parameters
    with pytest.raises(ml.MithrilError, match="no parameter 'head.weigth'"):
        cut.evaluate({**some, "head.weigth": params["head.weight"]}, {"ids": ids})
    with pytest.raises(ml.MithrilError, match="parameter 'embed.weight' is missing"):
        cut.evaluate({"head.weight": params["head.weight"]}, {"ids": ids})


def test_inputs_of_a_model_that_is_cut():
    """What the whole model takes may be given to a part of it, wherever inputs and parameters are named; what neither
    has may not."""
    shapes = {"ids": (IDS.shape, "int32"), "target": ((9, 9, 9), "int32")}
    specs = {"target": (0, None), "ids": (0, None)}
    cut = compile_on((2,), head(), outputs=["words"], shapes=shapes, input_shard_specs=specs)
    plain = compile_on((2,), head(), outputs=["words"])
    assert cut.inputs == ["ids"]
    assert list(cut.get_parameters()) == ["embed.weight"] and "target" not in cut.program_text()
    table = random(VOCABULARY, WIDTH)
    for target in (IDS, np.zeros((0, 5), bool), plain.backend.zeros((3,))):
        given = {"target": target, "ids": IDS}
        calls = [
            lambda: cut.get_parameters(given),
            lambda: cut.randomize_params(given),
            lambda: cut.get_parameter_layout(given),
            lambda: cut.get_memory_usage(None, given),
        ]
        for call in calls:
            call()
        assert plain.program_text(given) == plain.program_text({"ids": IDS})
        close(cut.evaluate({"embed.weight": table}, given)["words"], table[IDS])
    given = {"target": IDS, "tarket": IDS, "ids": IDS}
    for refused in (
        lambda: cut.evaluate({"embed.weight": table}, given),
        lambda: cut.get_parameters(given),
        lambda: compile_on((2,), head(), outputs=["words"], shapes={"tarket": (1,)}),
        lambda: compile_on((2,), head(), outputs=["words"], input_shard_specs={"tarket": (0,)}),
    ):
        with pytest.raises(ml.MithrilError, match="no input 'tarket'"):
            refused()
    for options in ({"shapes": {"target": (0, 3)}}, {"input_shard_specs": {"target": (5, None)}}):
        with pytest.raises(ml.MithrilError, match="target"):
            compile_on((2,), head(), outputs=["words"], **options)


def test_files_of_a_model_that_is_cut(tmp_path):
    whole, cut = (compile_on((2,), head(), outputs=outputs) for outputs in (None, ["words"]))
    path = tmp_path / "whole.safetensors"
    tensors = {name: np.asarray(array) for name, array in whole.get_parameters(INPUTS, seed=3).items()}
    write_safetensors(path, tensors)
    read = ml.read_safetensors(cut, INPUTS, path, {name: name for name in whole.parameters})
    assert list(read) == ["embed.weight"]
    close(read["embed.weight"], tensors["embed.weight"])
    names = {name: name for name in whole.parameters}
    for refused, why in (
        ({**names, "head.weigth": "head.weight"}, "'head.weigth' is no parameter"),
        ({"head.weight": "head.weight"}, "'embed.weight' has no tensor"),
    ):
        with pytest.raises(ml.MithrilError, match=why):
            ml.read_safetensors(cut, INPUTS, path, refused)


def test_outputs_that_compile_was_not_told_of():
    """With outputs= given, to expose a connection would not help: the fix is to list it."""
    compiled = compile_on((2,), head(), outputs=["loss"])
    ids = np.zeros((2, 4), np.int32)
    params = compiled.get_parameters({"ids": ids, "target": ids})
    slope = {"words": np.ones((2, 4, WIDTH), np.float32)}
    for refused in (
        lambda: compiled.evaluate(params, {"ids": ids, "target": ids}, slope),
        lambda: compile_on((2,), head(), outputs=["loss"], output_shard_specs={"words": (0, None, None)}),
    ):
        with pytest.raises(ml.MithrilError, match="compile was told which outputs there are") as caught:
            refused()
        assert caught.value.fix == "add it to compile's list of outputs: outputs=[..., 'words']"
    compiled = compile_on((2,), head(), outputs=["loss", "words"])
    assert set(compiled.evaluate(params, {"ids": ids, "target": ids}, slope)[0]) == {"loss", "words"}


def test_keys():
    key = ml.IOKey("x", expose=True)
    for other in (copy.copy(key), copy.deepcopy(key), pickle.loads(pickle.dumps(key))):
        assert other == "x" and other.expose is True
    assert ml.IOKey("x").expose is False


MODULES = [
    ml.Linear(4),
    ml.Linear(4, bias=False),
    ml.LayerNorm(bias=False),
    ml.LayerNorm(),
    ml.RMSNorm(),
    ml.PositionalEncoding(9),
    ml.PositionalEncoding(9, kind="learned"),
    ml.FeedForward(8),
    ml.FeedForward(8, gated=True, bias=False),
    ml.MultiHeadAttention(2),
    ml.MultiHeadAttention(2, bias=False),
    ml.MoE(3, 5),
    ml.MoE(3, 5, gated=True, bias=False),
    ml.MoE(3, 5, gated=True),
]


@pytest.mark.parametrize("i", range(len(MODULES)))
def test_names_of_parameters_need_no_shapes(i):
    model = ml.Model()
    model |= MODULES[i](input="x", output="y")
    compiled = compile_on((1,), model)
    names = compiled.parameters
    assert names == list(compiled.get_parameters({"x": random(2, 3, 4)}))
    pipeline = ml.Model()
    pipeline |= ml.Pipeline([model, model])(input="x", output="y")
    compiled = compile_on((2,), pipeline)
    assert compiled.parameters == list(compiled.get_parameters({"x": random(2, 3, 4)}))
