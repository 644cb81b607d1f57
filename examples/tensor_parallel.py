#!/usr/bin/env python3
"""A layer too large for one device: its weight split over four, forward and backward, and the plan that does it."""

import numpy as np

import mithril as ml
from mithril.backends import CBackend

model = ml.Model()
model |= ml.Linear(256, weight_shard_spec=(None, 0))(
    input="input", output="h"
)  # each device computes 64 of the 256 columns,
model += ml.Gelu()  # applies the activation to them,
model += ml.Linear(64, weight_shard_spec=(0, None))(
    output="output"
)  # multiplies by its 64 rows, and the results are summed
print(model)

backend = CBackend(device_mesh=(4,))
compiled = ml.compile(model, backend)
inputs = {"input": backend.randn(32, 128)}
params = compiled.get_parameters(inputs, seed=0)  # the same numbers on any mesh

for shard in params["linear_0.weight"].addressable_shards:
    part = [f"{s.start}:{s.stop}" for s in shard.index]
    print(f"device {shard.device_id} holds weight{part}: {shard.data.nbytes} bytes")

outputs, gradients = compiled.evaluate(params, inputs, output_gradients={"output": np.ones((32, 64), np.float32)})
print(compiled.program_text())

# The same model on one device gives the same numbers.
alone = ml.compile(model, CBackend(device_mesh=(1,)))
x = {"input": np.asarray(inputs["input"])}
same, slopes = alone.evaluate(
    alone.get_parameters(x, seed=0), x, output_gradients={"output": np.ones((32, 64), np.float32)}
)
for name, a, b in [("output", outputs["output"], same["output"])] + [(n, gradients[n], slopes[n]) for n in gradients]:
    difference = np.abs(np.asarray(a) - np.asarray(b)).max()
    print(f"{name:16s} {a.sharding:32s} differs from one device by {difference:.1e}")
    assert difference < 1e-3
