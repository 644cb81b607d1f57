#!/usr/bin/env python3
"""BERT, GPT-2, Llama and Mixtral, small and untrained: the same layers over devices in any way, trained for a few
steps. GPT-2's head is tied to its embedding: in a pipeline, the first and the last stage each hold a copy of the table.

python examples/language_models.py                         each on 4 devices, tensor-parallel
python examples/language_models.py llama --mesh 2,2        sentences over one axis of the mesh, heads over the other
python examples/language_models.py gpt2 --stages 3         a pipeline of 3 stages, on a device each
python examples/language_models.py gpt2 --stages 2 --mesh 2,2    stages over one axis, heads over the other
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import mithril as ml
from mithril.backends import CBackend


@dataclass(frozen=True)
class Config:
    vocabulary: int = 61
    positions: int = 16
    width: int = 32
    heads: int = 4
    kv_heads: int | None = None
    hidden: int = 64
    experts: int = 0
    layers: int = 3


def residual(model: ml.Model, source: str, branch: str, output: str) -> None:
    model |= ml.Add()(inputs=[source, branch], output=output)


# ---------------------------------------------------------------- BERT: norms after the sums, a padding mask
def bert_embedding(c: Config, axis: int | None) -> ml.Model:
    model = ml.Model()
    model |= ml.Embedding(c.vocabulary, c.width, tensor_axis=axis, name="word")(input="ids", output="words")
    model |= ml.PositionalEncoding(c.positions, kind="learned", name="position")(input="words", output="placed")
    model |= ml.Embedding(2, c.width, name="type")(input="types", output="kind")
    residual(model, "placed", "kind", "sum")
    model |= ml.LayerNorm(1e-12, name="norm")(input="sum", output="y")
    return model


def bert_layer(c: Config, axis: int | None) -> ml.Model:
    model = ml.Model()
    model |= ml.MultiHeadAttention(c.heads, tensor_axis=axis, name="attention")(input="x", mask="mask", output="a")
    residual(model, "x", "a", "s")
    model |= ml.LayerNorm(1e-12, name="attention_norm")(input="s", output="h")
    model |= ml.FeedForward(c.hidden, tensor_axis=axis, name="feed_forward")(input="h", output="f")
    residual(model, "h", "f", "t")
    model |= ml.LayerNorm(1e-12, name="output_norm")(input="t", output="y")
    return model


def bert_head(c: Config, axis: int | None, table: str) -> ml.Model:
    """What predicts the masked words."""
    model = ml.Model()
    model |= ml.Linear(c.width, name="transform")(input="x", output="h")
    model += ml.Gelu()
    model += ml.LayerNorm(1e-12, name="norm")
    model += ml.Linear(c.vocabulary, weight_shard_spec=(None, axis), name="decoder")(output="y")
    return model


# ---------------------------------------------------------------- GPT-2: norms before, gelu by tanh, causal
def gpt2_embedding(c: Config, axis: int | None) -> ml.Model:
    model = ml.Model()
    model |= ml.Embedding(c.vocabulary, c.width, tensor_axis=axis, name="word")(input="ids", output="words")
    model |= ml.PositionalEncoding(c.positions, kind="learned", name="position")(input="words", output="y")
    return model


def gpt2_layer(c: Config, axis: int | None) -> ml.Model:
    model = ml.Model()
    model |= ml.LayerNorm(name="attention_norm")(input="x", output="n")
    model |= ml.MultiHeadAttention(c.heads, causal=True, tensor_axis=axis, name="attention")(input="n", output="a")
    residual(model, "x", "a", "h")
    model |= ml.LayerNorm(name="feed_forward_norm")(input="h", output="m")
    model |= ml.FeedForward(c.hidden, activation="gelu_tanh", tensor_axis=axis, name="feed_forward")(
        input="m", output="f"
    )
    residual(model, "h", "f", "y")
    return model


def gpt2_head(c: Config, axis: int | None, table: str) -> ml.Model:
    """Its decoder is the table of words, transposed: one parameter, split as the embedding says, with one gradient."""
    model = ml.Model()
    model |= ml.LayerNorm(name="norm")(input="x", output="n")
    model |= ml.Linear(c.vocabulary, bias=False, weight=table, name="decoder")(input="n", output="y")
    return model


# ---------------------------------------------------------------- Llama and Mixtral
# RMSNorm, rotary, grouped heads, gates, no biases.
def llama_embedding(c: Config, axis: int | None) -> ml.Model:
    model = ml.Model()
    model |= ml.Embedding(c.vocabulary, c.width, tensor_axis=axis, name="word")(input="ids", output="y")
    return model


def llama_layer(c: Config, axis: int | None) -> ml.Model:
    model = ml.Model()
    model |= ml.RMSNorm(name="attention_norm")(input="x", output="n")
    attention = ml.MultiHeadAttention(
        c.heads, num_kv_heads=c.kv_heads, causal=True, rotary=True, bias=False, tensor_axis=axis, name="attention"
    )
    model |= attention(input="n", output="a")
    residual(model, "x", "a", "h")
    model |= ml.RMSNorm(name="feed_forward_norm")(input="h", output="m")
    if c.experts:
        spec = None if axis is None else (axis, None, None)
        experts = ml.MoE(
            c.experts,
            c.hidden,
            top_k=2,
            activation="silu",
            gated=True,
            bias=False,
            weight_shard_spec=spec,
            name="feed_forward",
        )
        model |= experts(input="m", output="f")
    else:
        feed = ml.FeedForward(
            c.hidden, activation="silu", gated=True, bias=False, tensor_axis=axis, name="feed_forward"
        )
        model |= feed(input="m", output="f")
    residual(model, "h", "f", "y")
    return model


def llama_head(c: Config, axis: int | None, table: str) -> ml.Model:
    model = ml.Model()
    model |= ml.RMSNorm(name="norm")(input="x", output="n")
    model |= ml.Linear(c.vocabulary, bias=False, weight_shard_spec=(None, axis), name="decoder")(input="n", output="y")
    return model


# ---------------------------------------------------------------- all of them
Part = Callable[[Config, int | None], ml.Model]
Head = Callable[[Config, int | None, str], ml.Model]  # the last is the name of the table of words
FAMILIES: dict[str, tuple[Config, tuple[Part, Part, Head]]] = {
    "bert": (Config(), (bert_embedding, bert_layer, bert_head)),
    "gpt2": (
        Config(width=40, heads=5, hidden=70),
        (gpt2_embedding, gpt2_layer, gpt2_head),
    ),  # 5 heads go over 4 devices
    "llama": (Config(width=48, heads=6, kv_heads=3, hidden=56), (llama_embedding, llama_layer, llama_head)),
    "mixtral": (Config(kv_heads=2, hidden=40, experts=6), (llama_embedding, llama_layer, llama_head)),
}


def inputs_of(family: str) -> tuple[str, ...]:
    return ("ids", "types", "mask") if family == "bert" else ("ids",)


def part(family: str, first: int, last: int, axis: int | None, loss: bool = True) -> ml.Model:
    """Layers first to last - 1, with the embedding before the first layer, and the head and the loss behind the
    last."""
    c, (embedding, layer, head) = FAMILIES[family]
    model = ml.Model()
    if first == 0:
        model |= embedding(c, axis)(
            **{name: name for name in inputs_of(family) if name != "mask"}, y="h0", name="embedding"
        )
    for i in range(first, last):
        mask = {"mask": "mask"} if family == "bert" else {}
        model |= layer(c, axis)(x=f"h{i}", y=f"h{i + 1}", **mask, name=f"layer_{i}")
    if last == c.layers:
        table = "embedding.word.weight" if first == 0 else "stage_0.embedding.word.weight"
        model |= head(c, axis, table)(x=f"h{last}", y="logits", name="head")
        if loss:
            model |= ml.CrossEntropy()(input="logits", target="target", output="loss")
    return model


def build(family: str, tensor_axis: int | None = None, loss: bool = True) -> ml.Model:
    """Heads, hidden columns, experts and the vocabulary split over a mesh axis; the one output is the loss, or the
    logits."""
    return part(family, 0, FAMILIES[family][0].layers, tensor_axis, loss)


def pipelined(family: str, stages: int, tensor_axis: int | None = None, loss: bool = True, **options: Any) -> ml.Model:
    """The same as a pipeline, each stage of it split over tensor_axis of the stage's mesh."""
    layers = FAMILIES[family][0].layers
    bounds = [layers * s // stages for s in range(stages + 1)]
    parts = [part(family, first, last, tensor_axis, loss) for first, last in zip(bounds, bounds[1:])]
    names = inputs_of(family)
    wires = (
        {name: name for name in names} if len(names) > 1 else {"input": names[0]}
    )  # the one input of the first stage is `input`
    if loss:
        wires["target"] = "target"
    model = ml.Model()
    model |= ml.Pipeline(stages=parts, name="pipeline", **options)(**wires, output="loss" if loss else "logits")
    return model


def sentences(family: str, batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Counting with a stride: what follows can be learned. BERT has to find the words that are masked by 0."""
    c, draw = FAMILIES[family][0], np.random.default_rng(seed)
    start, stride = draw.integers(0, c.vocabulary, (batch, 1)), draw.integers(1, 4, (batch, 1))
    words = ((start + stride * np.arange(length + 1)) % (c.vocabulary - 1) + 1).astype(np.int32)
    if family != "bert":
        return {"ids": words[:, :-1], "target": words[:, 1:]}
    words = words[:, :-1]
    ids = np.where(draw.random(words.shape) < 0.2, 0, words).astype(np.int32)
    types = np.broadcast_to(np.arange(length) >= length // 2, words.shape).astype(np.int32)
    mask = (np.arange(length) < draw.integers(length // 2, length + 1, (batch, 1))).astype(np.int32)
    return {"ids": ids, "types": types, "mask": mask, "target": words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="MODEL", help=" ".join(FAMILIES))
    parser.add_argument(
        "--mesh", default=None, help="sizes of the mesh's axes, such as 4 or 2,2; the last one splits the heads"
    )
    parser.add_argument(
        "--stages", type=int, default=0, help="a pipeline of so many stages, over the mesh's first axis"
    )
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    mesh = tuple(int(n) for n in (options.mesh or str(options.stages or 4)).split(","))
    staged = options.stages > 0
    inner = mesh[staged:]  # what a stage is split over, to whose axes its specs refer
    tensor_axis = len(inner) - 1 if inner else None
    data_axis = staged if len(inner) > 1 else None

    for family in options.families or FAMILIES:
        if family not in FAMILIES:
            parser.error(f"there is no model '{family}': {', '.join(FAMILIES)}")
        model = (
            build(family, tensor_axis)
            if not staged
            else pipelined(family, options.stages, tensor_axis, axis=0, microbatch_size=2, schedule="1f1b")
        )
        inputs = sentences(family, 8, 12)
        specs = None if data_axis is None else {name: (int(data_axis), None) for name in inputs}
        compiled = ml.compile(model, CBackend(device_mesh=mesh), input_shard_specs=specs)
        params = {name: np.array(p) for name, p in compiled.get_parameters(inputs).items()}
        losses = []
        for _ in range(options.steps):
            outputs, gradients = compiled.evaluate(params, inputs, output_gradients={"loss": np.float32(1)})
            losses.append(float(outputs["loss"]))
            for name, gradient in gradients.items():
                params[name] -= 0.2 * np.asarray(gradient)
        sent = [usage["sent"] for usage in compiled.get_communication_usage()]
        print(
            f"{family:8s} {sum(p.size for p in params.values()):6d} parameters on mesh {mesh}: "
            f"loss {losses[0]:.3f} to {losses[-1]:.3f}, bytes that each device sends in a step: {sent}"
        )


if __name__ == "__main__":
    main()
