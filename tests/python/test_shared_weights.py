"""One parameter, several uses: the option `weight`, and one module or model object added twice. Values and gradients
against NumPy's in
float64, by hand; on devices of all kinds the parameter is one entry with one gradient."""

import copy
import re

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, JaxBackend
from support import every_engine, close, compile_on, few, random, shaken

VOCABULARY, WIDTH = 11, 6
IDS = np.array([[1, 4, 4, 0, 9], [2, 10, 3, 3, 7], [5, 6, 8, 1, 0], [7, 7, 2, 9, 10]], np.int32)
INPUTS = {"ids": IDS, "target": np.roll(IDS, -1, axis=1)}
SEED = {"loss": np.float32(1.5)}


def tied(model, embed="embed.weight", **split):
    model |= ml.Embedding(VOCABULARY, WIDTH, name="embed", **split)(input="ids", output="words")
    model |= ml.Linear(WIDTH, name="mid")(input="words", output="h")
    model |= ml.Linear(VOCABULARY, bias=False, weight=embed, name="head")(input="h", output="logits")
    model |= ml.CrossEntropy()(input="logits", target="target", output="loss")
    return model


def expected(table, weight, bias):
    table, weight, bias = np.float64(table), np.float64(weight), np.float64(bias)
    words = table[IDS]
    h = words @ weight + bias
    logits = h @ table.T
    chance = np.exp(logits - logits.max(-1, keepdims=True))
    chance /= chance.sum(-1, keepdims=True)
    hit = np.eye(VOCABULARY)[INPUTS["target"]]
    d = 1.5 * (chance - hit) / IDS.size
    dh = d @ table
    dtable = d.reshape(-1, VOCABULARY).T @ h.reshape(-1, WIDTH)
    np.add.at(dtable, IDS.ravel(), (dh @ weight.T).reshape(-1, WIDTH))
    return -np.log((chance * hit).sum(-1)).mean(), {
        "embed.weight": dtable,
        "mid.weight": words.reshape(-1, WIDTH).T @ dh.reshape(-1, WIDTH),
        "mid.bias": dh.reshape(-1, WIDTH).sum(0),
    }


def check(compiled, prefix=lambda name: name):
    params = shaken(compiled.get_parameters(INPUTS))
    names = {prefix(name): name for name in ("embed.weight", "mid.weight", "mid.bias")}
    assert set(params) == set(names) and list(params) == compiled.parameters
    outputs, gradients = compiled.evaluate(params, INPUTS, SEED)
    loss, slopes = expected(*(params[name] for name in names))
    close(outputs["loss"], loss)
    assert list(gradients) == list(params)
    for full, name in names.items():
        close(gradients[full], slopes[name], 1e-4)
    assert len(re.findall(rf"^entry \d+ parameter {prefix('embed.weight')}:", compiled.program_text(), re.M)) == 1
    return compiled


@every_engine
@pytest.mark.parametrize("mesh", [(1,), (3,), (4,), (2, 2)])
def test_a_tied_head(mesh, engine):
    check(compile_on(mesh, tied(ml.Model())))
    splits = [{"tensor_axis": len(mesh) - 1}, {"weight_shard_spec": (None, 0)}]
    for split in few(splits, 2):
        check(compile_on(mesh, tied(ml.Model(), **split)))


@every_engine
def test_vocabulary_parallel(engine):
    """The table split by rows: logits split over the vocabulary, and a loss that gathers none of them."""
    compiled = check(compile_on((4,), tied(ml.Model(), tensor_axis=0)))
    channels = [x for x in compiled.program_text().splitlines() if x.startswith("channel")]
    assert not any("all_gather" in x or "transfer" in x for x in channels), channels


def stages(scope="stage_0.", **split):
    first, middle, last = ml.Model(), ml.Model(), ml.Model()
    first |= ml.Embedding(VOCABULARY, WIDTH, name="embed", **split)(input="ids", output="words")
    middle |= ml.Linear(WIDTH, name="mid")(input="words", output="h")
    head = ml.Linear(VOCABULARY, bias=False, weight=f"{scope}embed.weight", name="head")
    last |= head(input="h", output="logits")
    last |= ml.CrossEntropy()(input="logits", target="target", output="loss")
    return [first, middle, last]


def in_stages(name):
    return f"p.stage_{int(name.startswith('mid'))}.{name}"


@every_engine
@pytest.mark.parametrize("assignment", [[0, 1, 0], [0, 1, 2], [1, 0, 1]])
def test_stages(assignment, engine):
    for size, schedule in few([(4, "gpipe"), (1, "gpipe"), (1, "1f1b"), (3, "1f1b")], 3):
        model = ml.Model()
        pipeline = ml.Pipeline(
            stages(), device_assignment=assignment, microbatch_size=size, schedule=schedule, name="p"
        )
        model |= pipeline(input="ids", target="target", output="loss")
        compiled = check(compile_on((3,), model), in_stages)
        moved = [
            x
            for x in compiled.program_text().splitlines()
            if x.startswith("channel") and f"[{VOCABULARY},{WIDTH}]" in x.replace(" ", "")
        ]
        if assignment[0] == assignment[2]:
            assert not moved, moved  # held once, added where it is
        else:
            assert len(moved) == 2, moved  # the gradient to where the other is, and the sum back
            forward = [x for x in compiled.program_text(INPUTS).splitlines() if x.startswith("channel")]
            assert not any(f"[{VOCABULARY},{WIDTH}]" in x for x in forward)  # the weight itself is there already
        weights = [usage["weights"] for usage in compiled.get_memory_usage(inputs=INPUTS)]
        table, rest = 4 * VOCABULARY * WIDTH, 4 * (WIDTH * WIDTH + WIDTH)
        has = {assignment[0], assignment[2]}
        assert weights == [table * (d in has) + rest * (d == assignment[1]) for d in range(3)]
        shards = compiled.get_parameters(INPUTS)[in_stages("embed.weight")].addressable_shards
        assert {s.device_id for s in shards} == has


TABLE = 4 * VOCABULARY * WIDTH  # bytes
SEVERAL = [
    # mesh, options of the Pipeline, the devices of the first stage and of the last
    ((2, 2), {"axis": 0}, [0, 1], [0, 1]),
    ((3, 2), {"axis": 0}, [0, 1], [4, 5]),
    ((2, 3), {"axis": 1}, [0, 3], [2, 5]),
    ((3, 1), {"axis": 0}, [0], [2]),
    ((4,), {"device_assignment": [[0, 1], [2], [2, 3]]}, [0, 1], [2, 3]),
    ((4,), {"device_assignment": [[0, 1], [2, 3], [0, 1]]}, [0, 1], [0, 1]),
]
OVERLAPPING = [
    ((4,), {"device_assignment": [[0, 1], [2], [1, 3]]}, [0, 1], [1, 3]),
    ((4,), {"device_assignment": [[0, 1], [2], [3]]}, [0, 1], [3]),
    ((4,), {"device_assignment": [[0, 1], [2], [1, 0]]}, [0, 1], [0, 1]),
    ((2, 2), {"device_assignment": [0, 1, [0, 1, 2, 3]]}, [0], [0, 1, 2, 3]),
]


def on_engines(native, xla):
    cases = [(*case, "native") for case in native] + [(*case, "xla") for case in xla]
    return pytest.mark.parametrize("mesh, options, first, last, engine", cases, indirect=["engine"])


def tied_stages(options, split=None, size=2, schedule="1f1b"):
    model = ml.Model()
    pipeline = ml.Pipeline(
        stages("p.stage_0.", **(split or {})), microbatch_size=size, schedule=schedule, name="p", **options
    )
    model |= pipeline(input="ids", target="target", output="loss")
    return model


def channels_of_the_table(compiled, *inputs):
    lines = compiled.program_text(*inputs).splitlines()
    return [x for x in lines if x.startswith("channel") and f"f32[{VOCABULARY},{WIDTH}]" in x]


def held(compiled):
    """Bytes of the table by device."""
    shards = compiled.get_parameters(INPUTS)[in_stages("embed.weight")].addressable_shards
    return {s.device_id: s.data.nbytes for s in shards}


@on_engines(SEVERAL + OVERLAPPING, [SEVERAL[1], OVERLAPPING[0]])
def test_stages_of_several_devices(mesh, options, first, last, engine):
    """Each device of a stage that reads the table has it: forward sends activations alone, and a step adds what the
    sum of two
    gradients costs, to one stage and back to the other."""
    compiled = check(compile_on(mesh, tied_stages(options)), in_stages)
    assert held(compiled) == dict.fromkeys({*first, *last}, TABLE)
    text = compiled.program_text()
    ml.verify_plan(text)
    assert ml.reprint_plan(text) == text
    sums = channels_of_the_table(compiled)
    assert not channels_of_the_table(compiled, INPUTS)
    ways = [not set(first) <= set(last), not set(last) <= set(first)]  # of the other's gradient, and of the sum
    assert all("transfer" in x or "broadcast" in x for x in sums) and len(sums) == sum(ways)


@pytest.mark.parametrize(
    "schedule, engine", [("gpipe", "native"), ("1f1b", "native"), ("1f1b", "xla")], indirect=["engine"]
)
def test_bytes_of_a_tied_step(schedule, engine):
    """Stages of two devices that do the same: each of them gets each activation and its gradient once, and of the
    table what the other
    stage's sum is, or the sum of both."""
    compiled = compile_on((3, 2), tied_stages({"axis": 0}, schedule=schedule))
    activations = 4 * IDS.size * WIDTH
    params = compiled.get_parameters(INPUTS)
    compiled.evaluate(params, INPUTS)
    usage = [d["received"] for d in compiled.get_communication_usage()]
    assert usage == [0, 0, activations, activations, activations, activations]
    compiled.evaluate(params, INPUTS, SEED)
    usage = [d["received"] for d in compiled.get_communication_usage()]
    assert usage == 2 * [activations + TABLE] + 2 * [2 * activations] + 2 * [activations + TABLE]


@on_engines(SEVERAL[:3], SEVERAL[1:2])
def test_pipeline_with_data_parallel_stages(mesh, options, first, last, engine):
    """Two gradients are summed over the devices of their stages, and then with each other."""
    spec = {name: (1 - options["axis"], None) for name in INPUTS}
    compiled = check(compile_on(mesh, tied_stages(options), input_shard_specs=spec), in_stages)
    assert held(compiled) == dict.fromkeys({*first, *last}, TABLE)
    sums = channels_of_the_table(compiled)
    assert not channels_of_the_table(compiled, INPUTS)
    stages_that_read = 1 if first == last else 2
    assert sum("all_reduce" in x for x in sums) == stages_that_read
    assert sum("transfer" in x for x in sums) == 2 * (stages_that_read - 1)


@on_engines([SEVERAL[i] for i in (0, 1, 2, 4)], SEVERAL[:2])
def test_pipeline_with_tensor_parallel_stages(mesh, options, first, last, engine):
    """The table is split over the vocabulary in each stage, and so are the logits; no row of it is sent forward."""
    axis = {"tensor_axis": 0}
    compiled = check(compile_on(mesh, tied_stages(options, axis)), in_stages)
    rows = [-(-VOCABULARY // 2), VOCABULARY // 2]
    assert held(compiled) == {d: 4 * WIDTH * rows[k] for stage in (first, last) for k, d in enumerate(stage)}
    assert len(channels_of_the_table(compiled)) == (0 if first == last else 2)
    assert not channels_of_the_table(compiled, INPUTS)


def test_split_tables_are_sent_where_no_layout_has_both():
    """The first stage splits the table, and the other one's devices are others of its grid: it stays where its module
    says."""
    for mesh, options, first, _ in OVERLAPPING[:3]:
        compiled = check(compile_on(mesh, tied_stages(options, {"tensor_axis": 0})), in_stages)
        assert set(held(compiled)) == set(first)


@pytest.mark.parametrize("option", ["memory_optimization", "auto_sharding"])
def test_stages_with_options_of_the_planner(option):
    """A stage keeps its copy in parts, which its own devices gather; or the search splits it alike in both stages."""
    rows, width = 1024, 64

    def compiled_on(backend, **options):
        first, last = ml.Model(), ml.Model()
        first |= ml.Embedding(rows, width, name="embed")(input="ids", output="words")
        head = ml.Linear(rows, bias=False, weight="p.stage_0.embed.weight", name="head")
        last |= head(input="words", output="logits")
        last |= ml.CrossEntropy()(input="logits", target="target", output="loss")
        model = ml.Model()
        model |= ml.Pipeline([first, last], name="p", **options)(input="ids", target="target", output="loss")
        return ml.compile(model, backend)

    whole = compiled_on(CBackend(device_mesh=(1,)), device_assignment=[0, 0])
    compiled = compiled_on(JaxBackend(device_mesh=(2, 2), **{option: True}), axis=0)
    params = shaken(whole.get_parameters(INPUTS))
    loss, gradients = compiled.evaluate(params, INPUTS, SEED)
    want, slopes = whole.evaluate(params, INPUTS, SEED)
    close(loss["loss"], want["loss"])
    close(gradients["p.stage_0.embed.weight"], slopes["p.stage_0.embed.weight"], 1e-4)
    shards = compiled.get_parameters(INPUTS)["p.stage_0.embed.weight"].addressable_shards
    assert [s.data.nbytes for s in shards] == [4 * rows * width // 2] * 4
    lines = [x for x in compiled.program_text().splitlines() if x.startswith("channel") and f"[{rows},{width}]" in x]
    between = [x for x in lines if "transfer" in x]
    assert len(between) == 2 and all("all_gather" in x or "reduce_scatter" in x for x in lines if x not in between)


@every_engine
def test_devices_of_their_own(engine):
    model = ml.Model()
    model |= ml.Embedding(VOCABULARY, WIDTH, name="embed", device_id=1)(input="ids", output="words")
    model |= ml.Linear(WIDTH, name="mid", device_id=0)(input="words", output="h")
    head = ml.Linear(VOCABULARY, bias=False, weight="embed.weight", name="head", device_id=2)
    model |= head(input="h", output="logits")
    model |= ml.CrossEntropy()(input="logits", target="target", output="loss")
    check(compile_on((3,), model))


def test_the_owner_may_come_later_and_lie_across():
    """An Embedding that shares a Linear's weight reads it transposed; names are looked for from the module outward."""
    inner = ml.Model()
    inner |= ml.Embedding(VOCABULARY, WIDTH, weight="head.weight", name="embed")(input="ids", output="words")
    inner |= ml.Linear(VOCABULARY, bias=False, name="head")(input="words", output="logits")
    model = ml.Model()
    model |= inner(ids="ids", logits="y", name="lm")
    compiled = compile_on((2,), model)
    assert compiled.parameters == ["lm.head.weight"]
    weight = random(WIDTH, VOCABULARY)
    y, gradients = compiled.evaluate(
        {"lm.head.weight": weight}, {"ids": IDS}, {"y": np.ones((*IDS.shape, VOCABULARY), np.float32)}
    )
    close(y["y"], weight.T[IDS] @ weight)
    slope = np.zeros((VOCABULARY, WIDTH))
    np.add.at(slope, IDS.ravel(), np.broadcast_to(np.float64(weight).sum(1), (IDS.size, WIDTH)))
    slope += np.float64(weight).T[IDS].reshape(-1, WIDTH).sum(0)
    close(gradients["lm.head.weight"], slope.T, 1e-4)
    fresh = compiled.get_parameters({"ids": IDS})["lm.head.weight"]
    alone = ml.Model()
    lone = ml.Model()
    lone |= ml.Linear(VOCABULARY, bias=False, name="head")(input="words", output="logits")
    alone |= lone(words="words", logits="y", name="lm")
    drawn = compile_on((1,), alone).get_parameters({"words": random(2, 3, WIDTH)})["lm.head.weight"]
    assert np.array_equal(np.asarray(fresh), np.asarray(drawn))  # it starts as it would alone


@every_engine
@pytest.mark.parametrize("mesh", [(1,), (3,), (2, 2)])
def test_one_object_is_one_set_of_weights(mesh, engine):
    linear = ml.Linear(5, name="twice")
    model = ml.Model()
    model |= linear(input="x", output="h")
    model |= ml.Tanh()(input="h", output="a")
    model |= linear(input="a", output="y")
    assert "twice_0" in str(model)
    compiled = compile_on(mesh, model)
    x = random(4, 5)
    params = shaken(compiled.get_parameters({"x": x}))
    assert list(params) == compiled.parameters == ["twice.weight", "twice.bias"]
    w, b = np.float64(params["twice.weight"]), np.float64(params["twice.bias"])
    a = np.tanh(x @ w + b)
    outputs, gradients = compiled.evaluate(params, {"x": x}, {"y": np.ones((4, 5), np.float32)})
    close(outputs["y"], a @ w + b)
    d = np.ones((4, 5))
    dh = (d @ w.T) * (1 - a * a)
    close(gradients["twice.weight"], a.T @ d + np.float64(x).T @ dh, 1e-4)
    close(gradients["twice.bias"], d.sum(0) + dh.sum(0), 1e-4)


@every_engine
@pytest.mark.parametrize("assignment", [[0, 0], [0, 1]])
def test_one_model_object_as_two_stages(assignment, engine):
    """And a copy of it has weights of its own."""
    block = ml.Model()
    block |= ml.FeedForward(7, name="ff")(input="x", output="y")
    x = {"x": random(6, 4)}
    values = []
    for parts in ([block, block], [block, block.copy()]):
        model = ml.Model()
        pipeline = ml.Pipeline(parts, device_assignment=assignment, microbatch_size=2, name="p")
        model |= pipeline(input="x", output="y")
        compiled = compile_on((2,), model)
        params = shaken(compiled.get_parameters(x))
        assert len(params) == (4 if parts[0] is parts[1] else 8)
        both = dict(params)
        for name in params:
            both.setdefault(name.replace("stage_0", "stage_1"), params[name])
            both[name.replace("stage_0", "stage_1")] = params[name.replace("stage_1", "stage_0")]
        given = {name: both[name] for name in compiled.parameters}
        outputs, gradients = compiled.evaluate(given, x, {"y": np.ones((6, 4), np.float32)})
        values.append((outputs["y"], gradients, given))
    (y, shared, given), (again, apart, _) = values
    params = {k: v for k, v in given.items()}
    second = compiled.evaluate(
        {n: params[n.replace("stage_1", "stage_0")] for n in compiled.parameters}, x, {"y": np.ones((6, 4), np.float32)}
    )
    close(y, second[0]["y"])
    for name, gradient in shared.items():
        sum_of_both = np.float64(second[1][name]) + np.float64(second[1][name.replace("stage_0", "stage_1")])
        close(gradient, sum_of_both, 1e-4)


def test_copies_have_weights_of_their_own():
    linear = ml.Linear(4)
    model = ml.Model()
    for module in (linear, copy.copy(linear), linear.copy(), copy.deepcopy(linear)):
        model += module()
    assert compile_on((1,), model).parameters == [
        f"linear_{i}.{name}" for i in (0, 2, 3) for name in ("weight", "bias")
    ]
    inside = ml.Model()
    inside |= linear(input="x", output="h")
    inside |= linear(input="h", output="y")
    both = ml.Model()
    both |= inside(x="x", y="m", name="a")
    both |= inside.copy()(x="m", y="y", name="b")
    both |= inside(x="y", y="z", name="c")
    assert compile_on((1,), both).parameters == [
        "a.linear_0.weight",
        "a.linear_0.bias",
        "b.linear_0.weight",
        "b.linear_0.bias",
    ]


def test_layouts_and_memory_know_it_once():
    compiled = compile_on((2,), tied(ml.Model(), tensor_axis=0))
    assert list(compiled.get_parameter_layout(INPUTS)) == ["embed.weight", "mid.weight", "mid.bias"]
    elements = -(-VOCABULARY // 2) * WIDTH + WIDTH * WIDTH + WIDTH
    assert compiled.get_memory_usage(inputs=INPUTS)[0]["weights"] == 4 * elements


def test_outputs_without_the_owner():
    """An owner that no output needs leaves the parameter to those that share it, under its name."""
    compiled = compile_on((1,), tied(ml.Model()), outputs=["words"])
    assert compiled.parameters == ["embed.weight"]
    model = ml.Model()
    model |= ml.Embedding(VOCABULARY, WIDTH, name="embed")(input="ids", output="words")
    model |= ml.Linear(VOCABULARY, bias=False, weight="embed.weight", name="head")(input="x", output="logits")
    compiled = ml.compile(model, CBackend(device_mesh=(2,)), outputs=["logits"])
    assert (compiled.inputs, compiled.parameters) == (["x"], ["embed.weight"])
    x, table = random(3, WIDTH), random(VOCABULARY, WIDTH)
    assert compiled.get_parameters({"x": x})["embed.weight"].shape == (VOCABULARY, WIDTH)
    close(compiled.evaluate({"embed.weight": table}, {"x": x})["logits"], x @ table.T)
