#!/usr/bin/env python3
"""Eight experts on four devices: each token goes to the two experts that the router likes best, wherever they are."""

import numpy as np

import mithril as ml
from mithril.backends import CBackend

EXPERTS, TOKENS, WIDTH = 8, 64, 32

model = ml.Model()
model |= ml.MoE(
    num_experts=EXPERTS,
    expert_dim=128,
    top_k=2,
    expert_distribution="one_per_device",  # more experts than devices: a block of neighbours on each
    capacity_factor=1.0,  # an expert takes its even share of tokens, no more
    load_balancing_loss=True,
    device_mesh=(4,),
)(input="input", output="output", dropped="dropped", load_balancing_loss="loss")

backend = CBackend(device_mesh=(4,))
inputs = {"input": backend.randn(TOKENS, WIDTH, seed=2)}
for place, specs in (("replicated", None), ("split over the devices", {"input": (0, None)})):
    compiled = ml.compile(model, backend, input_shard_specs=specs)
    params = compiled.get_parameters(inputs)
    outputs = compiled.evaluate(params, inputs)
    print(
        f"tokens {place}: {int(outputs['dropped'])} of {2 * TOKENS} choices dropped, "
        f"load balancing loss {float(outputs['loss']):.3f} (1 is even)"
    )
    for device, traffic in enumerate(compiled.get_communication_usage()):
        experts = params["moe_0.experts.up.weight"].addressable_shards[device].index[0]
        print(
            f"  device {device} holds experts {experts.start} to {experts.stop - 1}, "
            f"receives {traffic['received']} bytes from other devices"
        )

logits = np.asarray(inputs["input"]) @ np.asarray(params["moe_0.router.weight"])
print("choices of each expert:", np.bincount(np.argsort(-logits, axis=1)[:, :2].ravel(), minlength=EXPERTS))
