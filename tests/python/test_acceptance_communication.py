"""Collectives by name: the text shows each, its bytes are those of the formula; the options of communication change the
program and not the numbers."""

import math

import numpy as np
import pytest

import mithril as ml
from acceptance_support import linear, messages, model_of, on, received, shifted
from support import close, f64, random, relu

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
ALGORITHMS = ("direct", "ring", "tree", "hierarchical")


def channels(text, kind):
    return [line for line in text.splitlines() if line.startswith("channel") and f" {kind} " in line]


def one_collective(kind, columns):
    """A model whose forward pass has one communication, of this kind, of its output or (broadcast) of relu(x)."""
    if kind == "all_to_all":
        return model_of(ml.Relu()(input="x", output="y")), {
            "input_shard_specs": {"x": (0, None)},
            "output_shard_specs": {"y": (None, 0)},
        }
    spec = (None, 0) if kind in ("all_gather", "broadcast") else (0, None)
    product = ml.Linear(columns, bias=False, weight_shard_spec=spec)
    if kind == "broadcast":
        model = model_of(ml.Relu(device_id=0)(input="x", output="h"), product(input="h", output="y"))
        return model, {"output_shard_specs": {"y": (None, 0)}}
    return model_of(product(input="x", output="y")), {
        "output_shard_specs": {"y": (0, None)}
    } if kind == "reduce_scatter" else {}


def total_bytes(kind, algorithm, n, size):
    """What the devices receive in all, of a tensor of `size` bytes that n divides; None: not a simple formula."""
    if kind == "all_reduce":
        return 2 * (n - 1) * size
    if kind in ("all_gather", "broadcast"):
        return (n - 1) * size
    if kind == "reduce_scatter":
        return (n - 1) * size if algorithm != "tree" else None
    return {"direct": (n - 1) * size // n, "ring": (n - 1) * size // 2}.get(algorithm)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_runs_as_named(kind, algorithm):
    for n in range(2, 10):
        rows, columns = 4 * n, 8 * n
        model, options = one_collective(kind, columns)
        compiled = ml.compile(model, on(n, collective_ops={kind: algorithm}), **options)
        x = random(rows, columns)
        params = compiled.get_parameters({"x": x})
        got = compiled.evaluate(params, {"x": x})["y"]
        a = relu(f64(x)) if kind in ("broadcast", "all_to_all") else f64(x)
        close(got, a if kind == "all_to_all" else linear(params, "linear_0", a))
        text, size = compiled.program_text(), rows * columns * 4
        ml.verify_plan(text)
        assert ml.reprint_plan(text) == text
        assert len(channels(text, kind)) == 1 and f" {kind} {algorithm} " in channels(text, kind)[0]
        steps = [line for line in text.splitlines() if line.startswith(f"# {kind} {algorithm}, n = {n}:")]
        assert bool(steps) == (algorithm != "direct")
        want = total_bytes(kind, algorithm, n, size)
        assert want is None or sum(received(compiled)) == want
        if algorithm == "ring" and kind == "all_reduce":
            assert received(compiled) == [2 * (n - 1) * size // n] * n
        if algorithm == "ring" and kind in ("all_gather", "reduce_scatter"):
            assert received(compiled) == [(n - 1) * size // n] * n
        sent = [d["sent"] for d in compiled.get_communication_usage()]
        assert sum(sent) == sum(received(compiled))
        if kind == "broadcast" and algorithm in SENT_BY_BROADCAST:
            assert sent == [takers * size for takers in SENT_BY_BROADCAST[algorithm](n)]


def children(rank, n):
    """Those who take from a rank in a binomial tree."""
    return sum(rank % (2 * d) == 0 and rank + d < n for d in (1, 2, 4, 8))


SENT_BY_BROADCAST = {
    "direct": lambda n: [n - 1] + [0] * (n - 1),
    "ring": lambda n: [1] * (n - 1) + [0],
    "tree": lambda n: [children(rank, n) for rank in range(n)],
}


@pytest.mark.parametrize("algorithm", ["direct", "ring"])
def test_uneven_parts_are_not_sent_as_often_as_received(algorithm):
    """13 columns over 5 devices: 3, 3, 3, 3, 1 of each row are gathered."""
    model = ml.Model()
    model |= ml.Linear(13, weight_shard_spec=(None, 0))(input="x", output="y")
    compiled = ml.compile(model, on(5, collective_ops={"all_gather": algorithm}))
    x = random(8, 6)
    compiled.evaluate(compiled.get_parameters({"x": x}), {"x": x})
    own = [8 * columns * 4 for columns in (3, 3, 3, 3, 1)]
    usage = compiled.get_communication_usage()
    assert [d["received"] for d in usage] == [sum(own) - part for part in own]
    if algorithm == "direct":
        assert [d["sent"] for d in usage] == [4 * part for part in own]
    else:  # all but what the next device has
        assert [d["sent"] for d in usage] == [sum(own) - own[(rank + 1) % 5] for rank in range(5)]


def test_hierarchical_takes_the_most_square_factors():
    for n, a in [(4, 2), (6, 2), (8, 2), (9, 3), (12, 3), (16, 4)]:
        model, _ = one_collective("all_reduce", n)
        compiled = ml.compile(model, on(n, collective_ops={"all_reduce": "hierarchical"}))
        assert f"n = a * b = {a} * {n // a}" in compiled.program_text({"x": random(n, n)})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_uneven_and_with_gradients(algorithm):
    """A width that 5 devices don't divide, all collectives by one algorithm."""
    model = ml.Model()
    model |= ml.Linear(13, weight_shard_spec=(None, 0))(input="x", output="h")
    model += ml.Relu()
    model += ml.Linear(7, weight_shard_spec=(0, None))(output="y")
    compiled = ml.compile(
        model, on(5, collective_ops=dict.fromkeys(KINDS, algorithm)), input_shard_specs={"x": (0, None)}
    )
    x, seed = random(8, 6), random(8, 7, seed=1)
    params = shifted(compiled.get_parameters({"x": x}))
    values, gradients = compiled.evaluate(params, {"x": x}, {"y": seed}, ["x"])
    h = linear(params, "linear_0", f64(x))
    close(values["y"], linear(params, "linear_1", relu(h)))
    slope = f64(seed) @ f64(params["linear_1.weight"]).T * (h > 0)
    close(gradients["linear_0.weight"], f64(x).T @ slope)
    close(gradients["x"], slope @ f64(params["linear_0.weight"]).T)
    kinds = {
        line.split()[2]: line.split()[3] for line in compiled.program_text().splitlines() if line.startswith("channel")
    }
    assert all(used == algorithm for kind, used in kinds.items() if kind in KINDS) and set(kinds) & set(KINDS)


# ---------------------------------------------------------------- the options of communication
def run(build, backend_options, mesh, x, **options):
    compiled = ml.compile(build(), on(*mesh, **backend_options), **options)
    params = shifted(compiled.get_parameters({"x": x}))
    seeds = {k: random(*v.shape, seed=2) for k, v in compiled.evaluate(params, {"x": x}).items()}
    forward = compiled.program_text(), messages(compiled), sum(received(compiled))
    values, gradients = compiled.evaluate(params, {"x": x}, seeds, ["x"])
    ml.verify_plan(compiled.program_text())
    return (
        forward,
        (compiled.program_text(), messages(compiled), sum(received(compiled))),
        {**values, **{f"d {k}": v for k, v in gradients.items()}},
    )


def compare(build, option, mesh, x, tolerance=1e-5, **options):
    """The program with the option and without: each (text, messages, bytes), forward and with gradients. The numbers
    are the same."""
    plain, other = run(build, {}, mesh, x, **options), run(build, {option: True}, mesh, x, **options)
    for k in plain[2]:
        close(other[2][k], plain[2][k], tolerance)
    return plain[:2], other[:2]


def test_sums_of_one_input_are_merged():
    """Three products of one input: their sums go in one message, though each is read at once."""

    def build():
        parts = [ml.Linear(8, weight_shard_spec=(0, None))(input="x", output=f"h{k}") for k in range(3)]
        return model_of(
            *parts,
            *[ml.Gelu()(input=f"h{k}", output=f"a{k}") for k in range(3)],
            ml.Add()(inputs=["a0", "a1", "a2"], output="y"),
        )

    (plain, _), (merged, _) = compare(build, "communication_optimization", (4,), random(8, 12))
    assert (plain[1], merged[1]) == (12, 4) and plain[2] == merged[2]
    assert len(channels(plain[0], "all_reduce")) == 3 and len(channels(merged[0], "all_reduce")) == 1


def test_gradients_of_data_parallel_training_are_merged():
    def build():
        model = ml.Model()
        model |= ml.Linear(8)(input="x", output="h")
        model += ml.Gelu()
        model += ml.Linear(6)(output="y")
        return model

    (_, plain), (_, merged) = compare(
        build, "communication_optimization", (4,), random(8, 12), input_shard_specs={"x": (0, None)}
    )
    assert (
        len(channels(plain[0], "all_reduce")) == 4
        and len(channels(merged[0], "all_reduce")) == 1
        and plain[2] == merged[2]
    )


def test_transfers_of_one_way_are_merged():
    def build():
        return model_of(
            ml.Linear(5, device_id=0)(input="x", output="a"),
            ml.Linear(3, device_id=0)(input="a", output="b"),
            ml.Relu(device_id=1)(input="a", output="c"),
            ml.Linear(5, device_id=1)(input="b", output="d"),
            ml.Add()(inputs=["c", "d"], output="y"),
        )

    (plain, both), (merged, less) = compare(build, "communication_optimization", (2,), random(3, 5))
    assert plain[1] > merged[1] and both[1] > less[1] and plain[2] == merged[2]


def test_a_transfer_does_not_wait_for_a_later_one():
    """What device 1 needs first is sent first: device 0 goes on with a long chain before it has the second value."""

    def build():
        return model_of(
            ml.Linear(5, device_id=0)(input="x", output="a"),
            ml.Relu(device_id=1)(input="a", output="c"),
            ml.Linear(5, device_id=0)(input="a", output="b"),
            ml.Add(device_id=1)(inputs=["c", "b"], output="y"),
        )

    (plain, _), (merged, _) = compare(build, "communication_optimization", (2,), random(3, 5))
    assert plain[1] == merged[1] == 2


def test_a_deep_model_is_merged_in_layers():
    """Sums that wait for each other stay apart; those of one layer become one, in each layer."""

    def build():
        model = ml.Model()
        for k in range(12):
            model |= ml.Linear(8, weight_shard_spec=(0, None))(input=f"x{k}" if k else "x", output=f"a{k}")
            model |= ml.Linear(8, weight_shard_spec=(0, None))(input=f"x{k}" if k else "x", output=f"b{k}")
            model |= ml.Softmax()(input=f"a{k}", output=f"c{k}")
            model |= ml.LayerNorm()(input=f"b{k}", output=f"d{k}")
            model |= ml.Multiply()(inputs=[f"c{k}", f"d{k}"], output=f"x{k + 1}")
        return model

    (plain, _), (merged, _) = compare(build, "communication_optimization", (2,), random(4, 8), tolerance=1e-4)
    assert len(channels(plain[0], "all_reduce")) == 24 and len(channels(merged[0], "all_reduce")) == 12


def test_a_sum_of_which_a_part_is_kept_is_scattered():
    def build():
        model = ml.Model()
        model |= ml.Linear(8, weight_shard_spec=(0, None))(input="x", output="h")
        model += ml.Linear(6, weight_shard_spec=(0, None))(output="y")
        return model

    (plain, _), (less, _) = compare(build, "communication_optimization", (4,), random(8, 12))
    assert less[2] <= plain[2]


@pytest.mark.parametrize("option", ["overlap_communication", "pipeline_communication"])
def test_large_sums(option):
    """A sum of 1 MB beside a product that doesn't need it: started early and waited for late, or cut in chunks."""

    def build():
        model = ml.Model()
        model |= ml.Linear(512, weight_shard_spec=(None, 0))(input="x", output="h")
        model += ml.Relu()
        model += ml.Linear(512, weight_shard_spec=(0, None))(output="y")
        model |= ml.Linear(256, weight_shard_spec=(0, None))(input="x", output="z")
        return model

    (plain, both), (other, more) = compare(build, option, (4,), random(512, 512))
    assert plain[0] != other[0] and both[0] != more[0]
    if option == "pipeline_communication":
        assert other[1] > plain[1] and other[2] == plain[2]
    else:
        lines = other[0].splitlines()
        start, wait = (
            next(i for i, line in enumerate(lines) if word in line and not line.startswith("channel"))
            for word in ("start", "wait")
        )
        assert any("contract" in line for line in lines[start:wait])


def test_all_options_together():
    def build():
        model = ml.Model()
        model |= ml.Linear(256, weight_shard_spec=(None, 0))(input="x", output="h")
        model += ml.Gelu()
        model += ml.Linear(512, weight_shard_spec=(0, 1))(output="y")
        return model

    x = random(300, 64)
    plain = run(build, {}, (2, 3), x)
    options = dict.fromkeys(("communication_optimization", "overlap_communication", "pipeline_communication"), True)
    for algorithm in ALGORITHMS:
        other = run(build, {**options, "collective_ops": dict.fromkeys(KINDS, algorithm)}, (2, 3), x)
        for k in plain[2]:
            close(other[2][k], plain[2][k], 1e-5)


def test_options_do_not_change_parameters():
    model = model_of(ml.Linear(8, weight_shard_spec=(0, None))(input="x", output="y"))
    first = ml.compile(model, on(4)).get_parameters({"x": random(2, 12)}, seed=3)
    other = ml.compile(
        model, on(4, communication_optimization=True, collective_ops={"all_reduce": "ring"})
    ).get_parameters({"x": random(2, 12)}, seed=3)
    assert all(np.array_equal(np.asarray(first[k]), np.asarray(other[k])) for k in first)


def test_experts_send_tokens_by_all_to_all():
    """Where tokens are sharded, dispatch and combine are all-to-all; where they are replicated only the combination
    communicates."""
    for n, experts in [(4, 8), (3, 3), (2, 5)]:
        model = model_of(ml.MoE(experts, 5, expert_distribution="one_per_device")(input="x", output="y"))
        sharded, whole = ml.compile(model, on(n), input_shard_specs={"x": (0, None)}), ml.compile(model, on(n))
        x = random(16, 6)
        text = sharded.program_text({"x": x})
        assert len(channels(text, "all_to_all")) >= 2 and "moe_0" in channels(text, "all_to_all")[0]
        assert "all_to_all" not in whole.program_text({"x": x}) and channels(whole.program_text(), "all_reduce")


def test_logits_that_are_split_are_never_gathered():
    for n in (2, 3, 4):
        model = model_of(
            ml.Linear(11, weight_shard_spec=(None, 0))(input="x", output="l"),
            ml.CrossEntropy()(input="l", target="t", output="loss"),
        )
        compiled = ml.compile(model, on(n))
        inputs = {"x": random(64, 4), "t": np.arange(64) % 11}
        params = compiled.get_parameters(inputs)
        compiled.evaluate(params, inputs, {"loss": np.ones((), np.float32)})
        text = compiled.program_text()
        assert "all_gather" not in text and max(received(compiled)) < 64 * 11 * 4
        assert math.isfinite(float(compiled.evaluate(params, inputs)["loss"]))
