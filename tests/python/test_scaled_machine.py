"""Plans depend on how a machine's figures compare, and on no second, byte or rate of their own: a machine of which
every part is as many times faster has the same plans."""

import itertools
import re

import numpy as np
import pytest

import mithril as ml
from mithril.backends import CBackend

NOMINAL, NODES = (50e9, 10e9, 0, 5e9, 20e-6), (2e12, 1e11, 3e-6, (2e11, 1e10), (2e-6, 5e-6))
SCALES = (1e-15, 1e-3, 0.3, 10, 1e3, 1e6)


def machine(path, figures, scale):
    flops, memory, kernel, link, latency = (np.atleast_1d(figure) for figure in figures)

    def words(figure):
        return " ".join(repr(float(x)) for x in figure)

    path.write_text(
        f"flops float32 {words(flops * scale)}\nmemory_rate {words(memory * scale)}\n"
        f"kernel_latency {words(kernel / scale)}\nlink_rate {words(link * scale)}\n"
        f"link_latency {words(latency / scale)}\n"
    )
    return str(path)


def plan(model, mesh, inputs, path, specs=None, **options):
    compiled = ml.compile(model(), CBackend(device_mesh=mesh, machine=path, **options), **(specs or {}))
    parameters = compiled.get_parameters(inputs, seed=0)
    outputs = compiled.evaluate(parameters, inputs)
    seeds = {"output": np.ones(np.asarray(outputs["output"]).shape, np.float32)}
    compiled.evaluate(parameters, inputs, output_gradients=seeds)
    return re.sub(r' from "[^"]*"', "", compiled.program_text())


def same_at_all_scales(tmp_path, figures, *arguments, **options):
    file = tmp_path / "machine.txt"
    nominal = plan(*arguments, machine(file, figures, 1), **options)
    other = [s for s in SCALES if plan(*arguments, machine(file, figures, s), **options) != nominal]
    assert not other, f"another plan at scale {other}"


def stage(number, last):
    m = ml.Model()
    m |= ml.Linear(32, name="a")(input="input", output="h")
    m |= ml.Relu()(input="h", output="r")
    m |= ml.Linear(8 if last else 16 + 8 * number, name="b")(input="r", output="output")
    return m


def pipeline(stages, assignment, microbatch, schedule):
    def build():
        m = ml.Model()
        m |= ml.Pipeline(
            [stage(i, i == stages - 1) for i in range(stages)],
            device_assignment=assignment,
            microbatch_size=microbatch,
            schedule=schedule,
        )(input="input", output="output")
        return m

    return build


@pytest.mark.parametrize("figures", [NOMINAL, NODES], ids=["nominal", "nodes"])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_pipelines(schedule, figures, tmp_path):
    x = {"input": np.ones((8, 8), np.float32)}
    for assignment, microbatch in itertools.product(
        ([0, 1, 2, 0], [0, 1, 2], [0, 1, 0, 1, 0], [1, 0, 2, 1, 0, 2]), (1, 3)
    ):
        build = pipeline(len(assignment), assignment, microbatch, schedule)
        same_at_all_scales(tmp_path, figures, build, (max(assignment) + 1,), x)


def experts(count, width, top_k, spec, sharded):
    def build():
        m, into = ml.Model(), "input"
        if sharded:
            m |= ml.Linear(8, weight_shard_spec=(None, 0))(input="input", output="h")
            m |= ml.Linear(8, weight_shard_spec=(0, None))(input="h", output="s")
            into = "s"
        m |= ml.MoE(num_experts=count, expert_dim=width, top_k=top_k, weight_shard_spec=spec)(input=into, output="z")
        m |= ml.Linear(8, weight_shard_spec=(None, 0))(input="z", output="output")
        return m

    return build


@pytest.mark.parametrize("mesh", [(4,), (2, 2)])
@pytest.mark.parametrize("spec", [(0, None, None), None])
def test_experts(mesh, spec, tmp_path):
    x = {"input": np.ones((8, 4, 8), np.float32)}
    layout = {"input_shard_specs": {"input": (len(mesh) - 1, None, None)}}
    for count, width, sharded, specs in itertools.product((2, 4), (4, 16), (False, True), (None, layout)):
        build = experts(count, width, 2, spec, sharded)
        same_at_all_scales(tmp_path, NOMINAL, build, mesh, x, specs=specs)


def blocks(spec):
    def build():
        m = ml.Model()
        for i in range(2):
            into, output = ("input", "middle") if i == 0 else ("middle", "output")
            m |= ml.LayerNorm()(input=into, output=f"n{i}")
            m |= ml.MultiHeadAttention(4, causal=True, tensor_axis=spec)(input=f"n{i}", output=f"a{i}")
            m |= ml.Add()(inputs=[into, f"a{i}"], output=f"s{i}")
            m |= ml.LayerNorm()(input=f"s{i}", output=f"t{i}")
            m |= ml.FeedForward(128, tensor_axis=spec)(input=f"t{i}", output=f"f{i}")
            m |= ml.Add()(inputs=[f"s{i}", f"f{i}"], output=output)
        return m

    return build


@pytest.mark.parametrize("figures", [NOMINAL, NODES], ids=["nominal", "nodes"])
@pytest.mark.parametrize("mesh", [(4,), (2, 2)])
def test_transformer_blocks(mesh, figures, tmp_path):
    axis = len(mesh) - 1
    for tokens, options in (
        ((4, 8), {}),
        ((4, 8), {"communication_optimization": True, "overlap_communication": True}),
        ((4, 8), {"sequence_parallel": True}),
        ((16, 256), {"pipeline_communication": True, "overlap_communication": True}),
    ):
        x = {"input": np.ones((*tokens, 64), np.float32)}
        layout = {"input_shard_specs": {"input": (0, None, None)}} if axis else None
        same_at_all_scales(tmp_path, figures, blocks(axis), mesh, x, specs=layout, **options)
