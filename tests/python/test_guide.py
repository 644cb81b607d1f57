"""The guide's snippets, as they are printed, on both engines: each is followed by what must hold of its result."""

import numpy as np
import pytest

import mithril as ml
from support import every_engine, close, f64, layer_norm, linear, moe, on, relu, shaken

pytestmark = every_engine

CHAIN = """
model = ml.Model()
model |= ml.Linear(dimension=1024, device_id=0)(input="input", output="hidden1")
model += ml.Relu(device_id=0)(input="hidden1", output="hidden1_act")
model += ml.Linear(dimension=1024, device_id=1)(input="hidden1_act", output="hidden2")
model += ml.Relu(device_id=1)(input="hidden2", output="hidden2_act")
model += ml.Linear(dimension=1024, device_id=2)(input="hidden2_act", output="hidden3")
model += ml.Relu(device_id=2)(input="hidden3", output="hidden3_act")
model += ml.Linear(dimension=10, device_id=3)(input="hidden3_act", output="output")
"""
SHARDED = """
model |= ml.Linear(
    dimension=16384, 
    weight_shard_spec=(0, None),  # Shard first dimension of weights
    device_mesh=(4,)              # Across 4 devices
)(input="input", output="hidden")
"""
TENSOR = """
model = ml.Model()
model |= ml.Linear(
    dimension=16384,
    weight_shard_spec=(0, 1),  # Shard both dimensions of weights
    device_mesh=(2, 2)         # 2x2 device mesh (4 devices total)
)(input="input", output="hidden")
model += ml.Relu()(input="hidden", output="hidden_act")
model += ml.Linear(
    dimension=4096,
    weight_shard_spec=(0, None),  # Shard only input dimension
    device_mesh=(2, 2)
)(input="hidden_act", output="output")
"""
PIPELINE = """
def create_stage1():
    stage = ml.Model()
    stage |= ml.Linear(dimension=1024)(input="input", output="hidden1")
    stage += ml.Relu()(input="hidden1", output="hidden1_act")
    return stage

def create_stage2():
    stage = ml.Model()
    stage |= ml.Linear(dimension=1024)(input="input", output="hidden2")
    stage += ml.Relu()(input="hidden2", output="hidden2_act")
    return stage

def create_stage3():
    stage = ml.Model()
    stage |= ml.Linear(dimension=10)(input="input", output="output")
    return stage

# Create pipeline model
model = ml.Model()
model |= ml.Pipeline(
    stages=[create_stage1(), create_stage2(), create_stage3()],
    device_assignment=[0, 1, 2],  # Assign stages to devices
    microbatch_size=8              # Divide batch into microbatches
)(input="input", output="output")
"""
MOE = """
model |= ml.MoE(
    num_experts=8,
    expert_dim=1024,
    expert_distribution="one_per_device",  # Each expert on a different device
    device_mesh=(8,)                       # 8 devices for 8 experts
)(input="input", output="hidden")
"""


def run(code, mesh, inputs, **names):
    names.update(ml=ml)
    exec(code, names)
    compiled = ml.compile(names["model"], on(mesh))
    params = compiled.get_parameters(inputs)
    values = shaken(params)
    return params, {k: f64(v) for k, v in values.items()}, compiled.evaluate(values, inputs), compiled


def devices(array):
    return {s.device_id: np.asarray(s.data).shape for s in array.addressable_shards}


def test_operators_and_sharding():
    x = np.random.default_rng(0).standard_normal((32, 256)).astype(np.float32)
    params, p, out, _ = run(CHAIN + SHARDED, (4,), {"input": x})
    want = f64(x)
    for i in range(3):
        want = relu(linear(p, f"linear_{i}", want))
        assert set(devices(params[f"linear_{i}.weight"])) == {i}
    close(out["output"], linear(p, "linear_3", want))
    close(out["hidden"], linear(p, "linear_4", f64(x)))
    assert devices(params["linear_4.weight"]) == {d: (64, 16384) for d in range(4)}


def test_tensor_parallel():
    x = np.random.default_rng(0).standard_normal((8, 256)).astype(np.float32)
    params, p, out, _ = run(TENSOR.replace("16384", "1024").replace("4096", "128"), (2, 2), {"input": x})
    close(out["output"], linear(p, "linear_1", relu(linear(p, "linear_0", f64(x)))))
    assert devices(params["linear_0.weight"]) == {d: (128, 512) for d in range(4)} and devices(
        params["linear_1.weight"]
    ) == {d: (512, 128) for d in range(4)}


@pytest.mark.parametrize("batch", [32, 20, 5])
def test_pipeline(batch):
    x = np.random.default_rng(0).standard_normal((batch, 64)).astype(np.float32)
    params, p, out, compiled = run(PIPELINE, (4,), {"input": x})
    names = [f"pipeline_0.stage_{i}.linear_0" for i in range(3)]
    assert list(params) == [f"{n}.{k}" for n in names for k in ("weight", "bias")]
    hidden = relu(linear(p, names[1], relu(linear(p, names[0], f64(x)))))
    close(out["output"], linear(p, names[2], hidden))
    _, gradients = compiled.evaluate(p, {"input": x}, output_gradients={"output": np.ones((batch, 10))})
    close(gradients[names[2] + ".weight"], hidden.T @ np.ones((batch, 10)))


def test_experts():
    x = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    params, p, out, _ = run(MOE, (8,), {"input": x}, model=ml.Model())
    close(out["hidden"], moe(p, "moe_0", f64(x))[0])
    assert devices(params["moe_0.experts.up.weight"]) == {d: (1, 64, 1024) for d in range(8)}


@pytest.mark.parametrize("algorithm", ["direct", "ring", "tree", "hierarchical"])
def test_collectives(algorithm):
    model = ml.Model()
    model |= ml.Linear(64, weight_shard_spec=(None, 0), device_mesh=(4,))(input="input", output="h")
    model += ml.Relu()(input="h", output="a")
    model += ml.Linear(16, weight_shard_spec=(0, None), device_mesh=(4,))(input="a", output="output")
    x = {"input": np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)}
    backend = on((4,), collective_ops={"all_reduce": algorithm, "all_gather": "tree", "reduce_scatter": "hierarchical"})
    compiled = ml.compile(model, backend)
    params = shaken(compiled.get_parameters(x))
    p = {k: f64(v) for k, v in params.items()}
    close(compiled.evaluate(params, x)["output"], linear(p, "linear_1", relu(linear(p, "linear_0", f64(x["input"])))))
    reductions = [line for line in compiled.program_text().splitlines() if "all_reduce" in line]
    assert any(algorithm in line for line in reductions)


def test_transformer():
    """The guide's last example, at a size for a test."""

    def block(i, device):
        n = f"layer{i}_"
        b = ml.Model()
        b |= ml.MultiHeadAttention(num_heads=4, head_dim=8, device_id=device)(input=n + "input", output=n + "attn")
        b += ml.Add()(inputs=[n + "input", n + "attn"], output=n + "attn_res")
        b += ml.LayerNorm()(input=n + "attn_res", output=n + "norm1")
        b += ml.FeedForward(hidden_dim=64, device_id=(device + 1) % 4)(input=n + "norm1", output=n + "ffn")
        b += ml.Add()(inputs=[n + "norm1", n + "ffn"], output=n + "ffn_res")
        b += ml.LayerNorm()(input=n + "ffn_res", output=n + "output")
        return b

    from support import attention, feed_forward

    model = ml.Model()
    model |= ml.Embedding(vocab_size=50, embedding_dim=32, device_id=0)(input="input", output="embedding")
    model += ml.PositionalEncoding(max_len=24, device_id=0)(input="embedding", output="pos_embedding")
    for i in range(4):
        model += block(i, i)
        model.connect(source="pos_embedding" if i == 0 else f"layer{i - 1}_output", destination=f"layer{i}_input")
    model += ml.Linear(dimension=50, device_id=3)(input="layer3_output", output="logits")
    backend = on((4,))
    compiled = ml.compile(model, backend)
    inputs = {"input": backend.randint(0, 50, (3, 16))}
    params = compiled.get_parameters(inputs)
    values = shaken(params)
    p, ids = {k: f64(v) for k, v in values.items()}, np.asarray(inputs["input"])
    position, k = np.arange(16)[:, None], np.arange(0, 32, 2)[None]
    x = p["embedding_0.weight"][ids]
    x[..., 0::2] += np.sin(position / 10000 ** (k / 32))
    x[..., 1::2] += np.cos(position / 10000 ** (k / 32))
    for i in range(4):
        n = f"model_{i}."
        x = layer_norm(p, n + "layer_norm_0", x + attention(p, n + "multi_head_attention_0", x, 4))
        x = layer_norm(p, n + "layer_norm_1", x + feed_forward(p, n + "feed_forward_0", x))
        assert (
            set(devices(params[n + "multi_head_attention_0.query.weight"]))
            == {i}
            == set(devices(params[n + "layer_norm_0.weight"]))
        )
        assert (
            set(devices(params[n + "feed_forward_0.up.weight"]))
            == {(i + 1) % 4}
            == set(devices(params[n + "layer_norm_1.weight"]))
        )
    outputs = compiled.evaluate(values, inputs)
    assert list(outputs) == ["logits"]
    close(outputs["logits"], linear(p, "linear_0", x), 1e-4)
