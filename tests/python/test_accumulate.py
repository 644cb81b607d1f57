"""Gradients of microbatches add up in place: no memory for a term of the sum, and the values of the whole batch."""

import re

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend, JaxBackend, ReferenceBackend
from support import every_engine, close, few, on, random

WIDTH = 16
ROWS = 16  # of a batch

STAGES = {
    "Linear": lambda: [ml.Linear(512), ml.Linear(WIDTH)],
    "Embedding": lambda: [ml.Embedding(3000, WIDTH)],
    "learned positions": lambda: [ml.Embedding(30, WIDTH), ml.PositionalEncoding(max_len=2000, kind="learned")],
    "norms": lambda: [ml.LayerNorm(), ml.Linear(WIDTH), ml.RMSNorm()],
    "MultiHeadAttention": lambda: [ml.MultiHeadAttention(num_heads=4, num_kv_heads=2, head_dim=64, rotary=True)],
    "FeedForward": lambda: [ml.FeedForward(hidden_dim=700, gated=True, activation="silu")],
    "MoE": lambda: [ml.MoE(num_experts=4, expert_dim=300, gated=True)],
}


def pipeline(name, microbatches, parallel=True, **options):
    def stage(modules, port, output):
        model = ml.Model()
        for i, module in enumerate(modules):
            wires = ({"input": port} if i == 0 else {}) | ({"output": output} if i == len(modules) - 1 else {})
            model += module(**wires)
        return model

    stages = [stage(STAGES[name](), "input", "h"), stage([ml.Linear(8)], "input", "y")]
    options = {"microbatch_size": ROWS // microbatches, "schedule": "1f1b"} | options
    if not parallel:
        options["device_assignment"] = [0, 0]
    model = ml.Model()
    model += ml.Pipeline(stages=stages, name="p", **options)(input="x", output="y")
    return model


def batch(name):
    ids = name in ("Embedding", "learned positions")
    return {"x": np.arange(ROWS * 6, dtype=np.int32).reshape(ROWS, 6) * 7 % 30 if ids else random(ROWS, 6, WIDTH)}


@pytest.mark.parametrize("backend", [CBackend, JaxBackend, ReferenceBackend])
@pytest.mark.parametrize("name", STAGES)
def test_activations_do_not_grow_with_microbatches(name, backend, request):
    if backend is JaxBackend:
        request.getfixturevalue("xla")
    inputs, bytes_of = batch(name), {}
    for microbatches in (1, 2, 4, 8):
        compiled = ml.compile(pipeline(name, microbatches), backend(device_mesh=(2,)))
        text = compiled.program_text(inputs, gradients=True)
        sums = [line for line in text.splitlines() if "= add " in line and "backward" in line and "exit" in line]
        assert not sums, "a parameter's gradient is added up by an instruction of its own"
        assert (microbatches > 1) <= (" into " in text)
        ml.verify_plan(text)
        bytes_of[microbatches] = compiled.get_memory_usage(None, inputs)[0]["activations"]
    assert max(bytes_of.values()) == bytes_of[1], bytes_of


@every_engine
@pytest.mark.parametrize("name", STAGES)
def test_gradients_are_those_of_the_whole_batch(name):
    inputs, seed = batch(name), {"y": random(ROWS, 6, 8, seed=1)}
    whole = ml.compile(pipeline(name, 1, parallel=False), ReferenceBackend(device_mesh=(1,)))
    params = whole.get_parameters(inputs, seed=3)
    values, wanted = whole.evaluate(params, inputs, seed)
    params = {name: np.asarray(p) for name, p in params.items()}
    for schedule in few(("1f1b", "gpipe"), 2):
        compiled = ml.compile(pipeline(name, 4, schedule=schedule), on((2,)))
        got, gradients = compiled.evaluate(params, inputs, seed)
        close(got["y"], values["y"])
        for parameter in wanted:
            close(gradients[parameter], wanted[parameter], tolerance=2e-4)
        again = compiled.evaluate(params, inputs, seed)[1]
        assert all((np.asarray(again[p]) == np.asarray(gradients[p])).all() for p in wanted)


@every_engine
def test_data_and_tensor_parallel_stages():
    """Terms of a sum that are parts or partial sums: added up as they are, and reduced once, behind the last one."""

    def compiled_on(backend, tensor_axis, specs, **options):
        first, last, model = ml.Model(), ml.Model(), ml.Model()
        first += ml.Embedding(50, WIDTH, tensor_axis=tensor_axis)(input="input")
        first += ml.FeedForward(hidden_dim=33, tensor_axis=tensor_axis)(output="h")
        last += ml.Linear(5)(input="input", output="y")
        model += ml.Pipeline(stages=[first, last], name="p", **options)(input="x", output="y")
        return ml.compile(model, backend, **specs)

    inputs, seed = batch("Embedding"), {"y": random(ROWS, 6, 5, seed=1)}
    whole = compiled_on(ReferenceBackend(device_mesh=(1,)), None, {}, device_assignment=[0, 0])
    specs = {"input_shard_specs": {"x": (1, None)}}
    parts = compiled_on(on((2, 2, 2)), 1, specs, axis=0, microbatch_size=4, schedule="1f1b")
    wanted = whole.evaluate(whole.get_parameters(inputs, seed=3), inputs, seed)[1]
    gradients = parts.evaluate(parts.get_parameters(inputs, seed=3), inputs, seed)[1]
    for parameter in wanted:
        close(gradients[parameter], wanted[parameter], tolerance=2e-4)
    lines = [line for line in parts.program_text(inputs, gradients=True).splitlines() if "backward" in line]
    sums = [line for line in lines if " into " in line]
    assert sum("partial sum over" in line for line in sums) > len(sums) / 2
    reduced = {}
    for line in lines:
        if found := re.match(r" +\d+  (\S+): .* at (exit \d+) = (?:all_reduce|reduce_scatter) ", line):
            reduced.setdefault(found[2], set()).add(found[1])
    assert reduced and all(len(names) <= 2 for names in reduced.values())  # once over each axis of the stage


@pytest.mark.parametrize("width", [1, 16, 64, 300])
def test_many_microbatches_keep_the_precision(width):
    """256 terms of 128 products each, all positive: a product is summed by itself, then added. One by one its terms
    would be rounded at the size of the sum."""
    first, last, model = ml.Model(), ml.Model(), ml.Model()
    first += ml.Linear(width)(input="input", output="h")
    last += ml.Sum(axis=-1)(input="input", output="y")
    model += ml.Pipeline(stages=[first, last], microbatch_size=4, schedule="1f1b", name="p")(input="x", output="y")
    draw = np.random.default_rng(0)
    inputs = {"x": draw.uniform(0, 1, (1024, 32, 64)).astype(np.float32)}
    seed = {"y": draw.uniform(0, 1, (1024, 32)).astype(np.float32)}
    compiled = ml.compile(model, CBackend(device_mesh=(2,)))
    gradients = compiled.evaluate(compiled.get_parameters(inputs), inputs, seed)[1]
    slope = seed["y"].astype(np.float64).ravel()
    wanted = inputs["x"].astype(np.float64).reshape(-1, 64).T @ slope
    close(gradients["p.stage_0.linear_0.weight"], np.repeat(wanted[:, None], width, 1), tolerance=1.2e-6)
    close(gradients["p.stage_0.linear_0.bias"], np.full(width, slope.sum()), tolerance=1.2e-6)


def test_xla_adds_in_the_memory_of_the_sum(xla):
    """Each sum is donated, and the result that takes its memory over is the one that it is part of: also where an
    activation, which is donated as well, has the shape of a weight."""
    first, last = ml.Model(), ml.Model()
    first += ml.Embedding(500, 24)(input="input")
    first += ml.Linear(24)
    first += ml.Linear(24)(output="h")
    last += ml.Linear(24)(input="input")
    last += ml.Linear(24)(output="y")
    model = ml.Model()
    model += ml.Pipeline(stages=[first, last], microbatch_size=24, name="p")(input="x", output="y")
    inputs = {"x": np.arange(96, dtype=np.int32)}
    compiled = ml.compile(model, xla(device_mesh=(2,)))
    compiled.evaluate(compiled.get_parameters(inputs), inputs, {"y": random(96, 24)})
    assert max(int(n) for n in re.findall(r"donated (\d+)", compiled.explain())) >= 4 * (500 * 24 + 2 * 24 * 24)
    checked = 0
    for module in compiled.stablehlo(inputs).split("\nmodule @")[1:]:
        donated = re.findall(r"(%arg\d+): tensor<[^>]*> \{tf\.aliasing_output = (\d+) : i32\}", module)
        heirs = {argument: int(to) for argument, to in donated}
        returned = re.search(r"    return ([^:\n]*) :", module).group(1).split(", ")
        for result, argument in re.findall(r'(%\d+) = "?stablehlo\.(?:add|scatter)"?[ (](%arg\d+), ', module):
            if result in returned and argument in heirs:
                assert heirs[argument] == returned.index(result)
                checked += 1
    assert checked >= 5
