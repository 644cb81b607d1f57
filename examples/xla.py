#!/usr/bin/env python3
"""The tensor-parallel layer on XLA: what it was given, what it made of it, and who placed the collectives; then for a
TPU that is not here.

pip install "mithril-parallel[jax]"    a plugin of XLA for CPUs
pip install "mithril-parallel[tpu]"    Google's libtpu, for the last part
"""

import numpy as np

import mithril as ml
from mithril.backends import CBackend, JaxBackend


def mlp() -> ml.Model:
    model = ml.Model()
    model |= ml.Linear(1024, weight_shard_spec=(None, 0))(input="input", output="hidden")  # columns over the devices
    model += ml.Gelu()
    model += ml.Linear(256, weight_shard_spec=(0, None))(output="output")  # rows, and one all-reduce
    return model


backend = JaxBackend(device_mesh=(4,))
print(backend.describe())
inputs = {"input": np.asarray(backend.randn(32, 512))}
slopes = {"output": np.ones((32, 256), np.float32)}

# The same numbers by mithril's own engine, by XLA with the plan's collectives, and by XLA's partitioner.
compiled = ml.compile(mlp(), CBackend(device_mesh=(4,)))
same, same_gradients = compiled.evaluate(compiled.get_parameters(inputs), inputs, output_gradients=slopes)
for context in ("mpmd", "spmd"):
    compiled = ml.compile(mlp(), JaxBackend(device_mesh=(4,), mesh_context=context))
    outputs, gradients = compiled.evaluate(compiled.get_parameters(inputs), inputs, output_gradients=slopes)
    print(f"mesh_context={context!r}\n{compiled.explain(inputs)}")
    for name, a, b in [("output", outputs["output"], same["output"])] + [
        (n, gradients[n], same_gradients[n]) for n in gradients
    ]:
        difference = np.abs(np.asarray(a) - np.asarray(b)).max()
        print(f"{name:16s} differs from the native engine by {difference:.1e}")
        assert difference < 1e-3

print("the all-reduce as XLA was given it:")
text = ml.compile(mlp(), backend).stablehlo(inputs)
print(text[text.index("    // linear_1: all_reduce") : text.index("    // linear_1: add")])

# With the layouts left open, and weights of which no device need hold all.
plain = ml.Model()
plain |= ml.Linear(1024)(input="input", output="hidden")
plain += ml.Gelu()
plain += ml.Linear(256)(output="output")
for option, backend in [
    ("auto_sharding", JaxBackend(device_mesh=(4,), auto_sharding=True)),
    ("memory_optimization", JaxBackend(device_mesh=(4,), memory_optimization=True)),
]:
    layouts = {name: p.sharding for name, p in ml.compile(plain, backend).get_parameters(inputs).items()}
    print(f"{option}: {layouts}")

try:
    tpu = JaxBackend(device_mesh=(4,), backend="tpu", topology="v5p:2x2x1")
    print(ml.compile(mlp(), tpu, shapes={"input": (32, 512)}).explain())
except ml.MithrilError as error:  # without libtpu, the way to get it
    print(error)
