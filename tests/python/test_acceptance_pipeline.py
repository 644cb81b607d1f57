"""Pipelines: devices, lists of devices and axes of the mesh, both schedules, batches that microbatches don't divide,
skip connections, losses in the last stage, what is refused, and the memory."""

import itertools

import numpy as np
import pytest

import mithril as ml
from acceptance_support import devices, linear, model_of, on, same, shifted
from support import every_engine, close, f64, few, random, relu

SCHEDULES = ("gpipe", "1f1b")


def stage(i, width, spec=None, port="input", activation="Relu"):
    return model_of(
        ml.Linear(width, weight_shard_spec=spec)(input=port, output=f"h{i}"),
        getattr(ml, activation)()(input=f"h{i}", output=f"o{i}"),
    )


def pipeline(stages, parallel, wires=None, **options):
    options = options if parallel else {"device_assignment": [0] * len(stages)}
    return model_of(ml.Pipeline(stages=stages, **options)(**(wires or {"input": "x", "output": "y"})))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("widths", [[5], [5, 3], [7, 6, 5, 2], [3, 9, 1, 4, 6]], ids=len)
def test_devices(widths, schedule):
    count = len(widths)
    places = [
        ((4,), None),
        ((3,), [2 * s % 3 for s in range(count)]),
        ((2, 2), [3 - s % 4 for s in range(count)]),
        ((2,), [s * 2 // count for s in range(count)]),
    ]
    for mesh, assignment in places:
        for size in (1, 3, 4, 100, None):
            options = {"device_assignment": assignment, "microbatch_size": size, "schedule": schedule}
            _, fresh = same(
                lambda p: pipeline([stage(i, n) for i, n in enumerate(widths)], p, **options), mesh, {"x": random(7, 4)}
            )
            for s in range(count):
                want = assignment[s] if assignment else s % mesh[0]
                assert devices(fresh[f"pipeline_0.stage_{s}.linear_0.weight"]) == [want]


@every_engine
def test_batches_of_any_size():
    """One compiled model, batches that divide, don't, and are smaller than a microbatch."""
    model = pipeline([stage(0, 4), stage(1, 3)], True, device_assignment=[1, 0], microbatch_size=4, schedule="1f1b")
    compiled = ml.compile(model, on(2))
    params = shifted(compiled.get_parameters({"x": random(8, 5)}))
    for batch in few((8, 1, 3, 4, 5, 12, 8, 16, 1), 2):
        x = random(batch, 5)
        values, gradients = compiled.evaluate(params, {"x": x}, {"y": np.ones((batch, 3), np.float32)}, ["x"])
        h = relu(linear(params, "pipeline_0.stage_0.linear_0", f64(x)))
        z = linear(params, "pipeline_0.stage_1.linear_0", h)
        close(values["y"], relu(z))
        close(gradients["pipeline_0.stage_1.linear_0.weight"], h.T @ (z > 0))


@every_engine
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spec", [(0, None), (None, 0)], ids=str)
def test_lists_of_devices(spec, schedule):
    cases = [
        ((4,), [[0, 1], [2, 3]]),
        ((4,), [[0, 2], [1]]),
        ((5,), [[4, 1, 0], [2, 3]]),
        ((2, 2), [[0, 1, 2], [1, 3]]),
    ]
    for (mesh, assignment), size in few(itertools.product(cases, (2, 3)), 5):

        def build(parallel):
            stages = [stage(i, n, spec if parallel and len(assignment[i]) > 1 else None) for i, n in enumerate([7, 5])]
            return pipeline(stages, parallel, device_assignment=assignment, microbatch_size=size, schedule=schedule)

        _, fresh = same(build, mesh, {"x": random(7, 5)})
        for s, group in enumerate(assignment):
            assert devices(fresh[f"pipeline_0.stage_{s}.linear_0.weight"]) == sorted(group)


@every_engine
@pytest.mark.parametrize("mesh, axis", [((2, 2), 0), ((2, 2), 1), ((3, 2), 1), ((2, 3, 2), 2), ((2, 3, 2), 1)], ids=str)
def test_along_an_axis(mesh, axis):
    """Stages along one axis, their weights split over the others, and the batch too."""
    rest = [a for a in range(len(mesh)) if a != axis]
    specs = [None, (None, 0), (0, None)] + ([(0, 1), ((1, 0), None)] if len(rest) == 2 else [])
    for spec, shard, count in few(itertools.product(specs, (None, rest[0]), (2, 3)), 11):

        def build(parallel):
            stages = [stage(i, n, spec if parallel else None) for i, n in enumerate([7, 5, 4][:count])]
            return pipeline(stages, parallel, axis=axis, microbatch_size=3, schedule="1f1b")

        same(
            build,
            mesh,
            {"x": random(8, 5)},
            **({"input_shard_specs": {"x": (shard, None)}} if shard is not None else {}),
        )


@every_engine
def test_the_mesh_of_a_stage():
    """device_mesh inside of a stage is the stage's; a stage of several layers."""

    def inside(width, mesh):
        model = ml.Model()
        model |= ml.Linear(width, weight_shard_spec=mesh and (None, 0), device_mesh=mesh)(input="input", output="h")
        model += ml.Gelu()
        model += ml.Linear(width, weight_shard_spec=mesh and (0, None), device_mesh=mesh)(output="o")
        return model

    def build(parallel):
        stages = [inside(6, (2,) if parallel else None), inside(4, (3,) if parallel else None)]
        return pipeline(stages, parallel, device_assignment=[[0, 1], [2, 3, 4]], microbatch_size=2)

    same(build, (5,), {"x": random(5, 3)})
    with pytest.raises(ValueError, match="the stage's"):
        wrong = pipeline([inside(6, (5,)), inside(4, (3,))], True, device_assignment=[[0, 1], [2, 3, 4]])
        ml.compile(wrong, on(5))


@every_engine
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_skip_connections_by_name(schedule):
    """One output goes to the next stage and to the last."""

    def build(parallel):
        stages = [
            model_of(ml.Linear(4)(input="input", output="early"), ml.Relu()(input="early", output="a")),
            model_of(ml.Linear(4)(input="a", output="b")),
            model_of(ml.Linear(4)(input="b", output="b2")),
            model_of(ml.Add()(inputs=["b2", "a"], output="s"), ml.Linear(2)(input="s", output="o")),
        ]
        return pipeline(stages, parallel, device_assignment=[0, 1, 2, 3], microbatch_size=2, schedule=schedule)

    same(build, (4,), {"x": random(5, 3)})


@every_engine
def test_inputs_by_keyword():
    """A value from outside for the second stage: one that is cut with the batch, and one that is not."""

    def build(parallel):
        stages = [
            stage(0, 4),
            model_of(
                ml.Add()(inputs=["input", "context"], output="s"),
                ml.Multiply()(inputs=["s", "scale"], output="m"),
                ml.Linear(4)(input="m", output="o"),
            ),
        ]
        model = model_of(ml.Linear(4)(input="c0", output="c1"))
        wires = {"input": "x", "context": "c1", "scale": "v", "output": "y"}
        model |= ml.Pipeline(
            stages=stages, device_assignment=[0, 1 if parallel else 0], **({"microbatch_size": 2} if parallel else {})
        )(**wires)
        model |= ml.Relu()(input="y", output="z")
        return model

    same(build, (2,), {"x": random(5, 3), "c0": random(5, 2), "v": random(4)})


@every_engine
def test_further_outputs():
    """Of several outputs of a stage, the next takes the one that it names; the others are ports of the Pipeline."""

    def build(parallel):
        first = model_of(
            ml.Linear(4)(input="input", output="a"),
            ml.Relu()(input="a", output="r"),
            ml.Mean(axis=1)(input="a", output="aux"),
        )
        wires = {"input": "x", "output": "y", "aux": "side"}
        return pipeline([first, stage(1, 3, port="r")], parallel, wires, device_assignment=[0, 1], microbatch_size=2)

    compiled, _ = same(build, (2,), {"x": random(7, 6)})
    assert set(compiled.evaluate(compiled.get_parameters(), {"x": random(7, 6)})) == {"y", "side"}


LOSSES = [
    *[(lambda r=r: ml.CrossEntropy(reduction=r), True) for r in ("mean", "sum", "none")],
    *[(lambda r=r: ml.SquaredError(reduction=r), True) for r in ("mean", "sum", "none")],
    *[(lambda a=a: ml.Mean(axis=a), False) for a in (None, 0, 1, (0, 1))],
    *[(lambda a=a: ml.Sum(axis=a), False) for a in (None, 0, 1)],
]


@every_engine
@pytest.mark.parametrize("loss, targets", LOSSES)
def test_losses_in_the_last_stage(loss, targets):
    """Weighted by the size of the microbatch: results are those of the whole batch."""
    module = loss()
    wires = {"input": "l", "output": "loss", **({"target": "target"} if targets else {})}
    kind = type(module).__name__
    inputs = {"x": random(7, 3)}
    if targets:
        inputs["t"] = np.arange(7) % 4 if kind == "CrossEntropy" else random(7, 4)
    for schedule, size in few(itertools.product(SCHEDULES, (2, 3, 7, 9)), 5):

        def build(parallel):
            last = model_of(ml.Linear(4)(input="input", output="l"), module(**wires))
            ports = {"input": "x", "output": "y", **({"target": "t"} if targets else {})}
            return pipeline(
                [stage(0, 5), last], parallel, ports, device_assignment=[0, 1], microbatch_size=size, schedule=schedule
            )

        same(build, (2,), inputs)


@pytest.mark.parametrize(
    "blocks, operator",
    [
        ([ml.Max(axis=0)(input="input", output="o")], "max_0"),
        ([ml.Softmax(axis=0)(input="input", output="o")], "softmax_0"),
        (
            [
                ml.Mean(axis=0, keepdims=True)(input="input", output="mu"),
                ml.Subtract()(inputs=["input", "mu"], output="o"),
            ],
            "subtract_0",
        ),
        ([ml.MoE(4, 5, load_balancing_loss=True)(input="input", output="o", load_balancing_loss="lb")], "moe_0"),
    ],
)
def test_what_cannot_be_accumulated_is_refused(blocks, operator):
    """By the operator's name; and what the error advises works."""
    model = pipeline([stage(0, 5), model_of(*blocks)], True, device_assignment=[0, 1], microbatch_size=2)
    compiled = ml.compile(model, on(2))
    with pytest.raises(ValueError) as caught:
        compiled.evaluate(compiled.get_parameters({"x": random(7, 3)}), {"x": random(7, 3)})
    assert (
        caught.value.op == f"pipeline_0.stage_1.{operator}"
        and "microbatch_size of at least the batch, 7" in caught.value.fix
    )
    same(
        lambda p: pipeline([stage(0, 5), model_of(*blocks)], p, device_assignment=[0, 1], microbatch_size=7),
        (2,),
        {"x": random(7, 3)},
    )


@every_engine
def test_between_other_operators():
    """Ids outside, a loss behind, two pipelines after one another with their own microbatches."""

    def build(parallel):
        place = (lambda d: {"device_id": d}) if parallel else (lambda d: {})
        one = {"device_assignment": [1, 2], "microbatch_size": 2} if parallel else {"device_assignment": [0, 0]}
        two = (
            {"device_assignment": [2, 0], "microbatch_size": 3, "schedule": "1f1b"}
            if parallel
            else {"device_assignment": [0, 0]}
        )
        return model_of(
            ml.Embedding(11, 6, **place(0))(input="ids", output="e"),
            ml.Pipeline(stages=[stage(0, 6), stage(1, 6)], **one)(input="e", output="h"),
            ml.Pipeline(stages=[stage(0, 5), stage(1, 6)], **two)(input="h", output="k"),
            ml.Linear(11, **place(3))(input="k", output="l"),
            ml.CrossEntropy()(input="l", target="t", output="loss"),
        )

    draw = np.random.default_rng(0)
    same(build, (4,), {"ids": draw.integers(0, 11, (5, 3)), "t": draw.integers(0, 11, (5, 3))})


@every_engine
def test_transformer_stages():
    def block(axis):
        return model_of(
            ml.MultiHeadAttention(3, 4, causal=True, tensor_axis=axis)(input="input", output="a"),
            ml.Add()(inputs=["input", "a"], output="r"),
            ml.LayerNorm()(input="r", output="n"),
            ml.FeedForward(10, tensor_axis=axis)(input="n", output="f"),
            ml.Add()(inputs=["n", "f"], output="o"),
        )

    places = [
        ((2, 2), {"axis": 0}),
        ((2, 2), {"axis": 1}),
        ((2, 3), {"axis": 0}),
        ((4,), {"device_assignment": [[0, 1], [2, 3]]}),
    ]
    for mesh, place in few(places, 4):

        def build(parallel):
            return pipeline(
                [block(0 if parallel else None) for _ in range(2)],
                parallel,
                microbatch_size=2,
                schedule="1f1b",
                **place,
            )

        same(build, mesh, {"x": random(5, 3, 6)})


@every_engine
def test_experts_and_dropout_in_stages():
    def build(parallel):
        stages = [
            model_of(ml.Linear(6)(input="input", output="h"), ml.Dropout(0.5, seed=3)(input="h", output="o")),
            model_of(
                ml.MoE(4, 5, expert_distribution="one_per_device" if parallel else None)(input="input", output="o")
            ),
        ]
        return pipeline(stages, parallel, device_assignment=[0, [1, 2]], microbatch_size=2)

    same(build, (3,), {"x": random(7, 6)})


def test_one_model_as_several_stages():
    """One object is one set of weights, under the names of its first stage; copies have their own."""
    one = stage(0, 6)
    for parts, named in (([one, one, one], [0]), ([one, one.copy(), one.copy()], [0, 1, 2])):
        compiled = ml.compile(pipeline(parts, True, device_assignment=[0, 1, 0], microbatch_size=2), on(2))
        assert list(compiled.get_parameters({"x": random(3, 6)})) == [
            f"pipeline_0.stage_{s}.linear_0.{k}" for s in named for k in ("weight", "bias")
        ]


def activations(schedule, size, gradients):
    stages = [stage(i, 32) for i in range(4)]
    compiled = ml.compile(
        pipeline(stages, True, device_assignment=[0, 1, 2, 3], microbatch_size=size, schedule=schedule), on(4)
    )
    x = random(64, 32)
    params = compiled.get_parameters({"x": x})
    compiled.evaluate(params, {"x": x}, *([{"y": np.ones((64, 32), np.float32)}] if gradients else []))
    return [u["activations"] for u in compiled.get_memory_usage(params, {"x": x})]


def test_memory_falls_with_the_microbatch():
    for schedule in SCHEDULES:
        by_size = [activations(schedule, size, False)[1] for size in (64, 16, 4)]
        assert by_size[0] > 1.2 * by_size[1] > 1.2 * by_size[2]
    assert activations("1f1b", 4, True)[1] < 0.5 * activations("1f1b", 64, True)[1]


def test_1f1b_holds_less_than_gpipe():
    gpipe, alternating = activations("gpipe", 4, True), activations("1f1b", 4, True)
    assert all(a <= b for a, b in zip(alternating, gpipe)) and alternating[2] < 0.5 * gpipe[2]
