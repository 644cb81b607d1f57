#!/usr/bin/env python3
"""A pipeline of three stages: what the schedule and the size of the microbatches do to memory, at the same
gradients."""

import numpy as np

import mithril as ml
from mithril.backends import CBackend

WIDTH, CLASSES, BATCH = 64, 10, 768


def stage(width: int, last: bool = False) -> ml.Model:
    model = ml.Model()
    model |= ml.Linear(width)(input="input", output="h" if not last else "output")
    if not last:
        model += ml.Gelu()(output="output")
    return model


def pipeline(schedule: str, microbatch: int) -> ml.Model:
    model = ml.Model()
    model |= ml.Pipeline(
        stages=[stage(WIDTH), stage(WIDTH), stage(CLASSES, last=True)],
        device_assignment=[0, 1, 2],  # a list of devices in place of one shards a stage
        microbatch_size=microbatch,
        schedule=schedule,
    )(input="input", output="output")
    return model


backend = CBackend(device_mesh=(3,))
inputs = {"input": backend.randn(BATCH, WIDTH, seed=1)}
seeds = {"output": np.ones((BATCH, CLASSES), np.float32)}
reference = None
for schedule, microbatch in (
    ("gpipe", BATCH),
    ("gpipe", 32),
    ("1f1b", 32),
    ("1f1b", 100),
):  # 100: the last microbatch is smaller
    compiled = ml.compile(pipeline(schedule, microbatch), backend)
    params = compiled.get_parameters(inputs)
    outputs, gradients = compiled.evaluate(params, inputs, output_gradients=seeds)
    usage = [u["activations"] for u in compiled.get_memory_usage(params, inputs)]
    slope = np.asarray(gradients["pipeline_0.stage_0.linear_0.weight"])
    if reference is None:
        reference = slope
    print(
        f"{schedule:5s} microbatches of {microbatch:3d}: activations of the stages {usage} bytes, "
        f"gradients differ by {np.abs(slope - reference).max():.1e}"
    )
    assert np.allclose(slope, reference, atol=1e-3)
