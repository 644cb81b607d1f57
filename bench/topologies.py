"""Plans and compiles an 8-layer tensor-parallel transformer for TPU slices that are not here: seconds, and what XLA
says of a chip.

python bench/topologies.py            256 and 2048 chips of v5p (libtpu has to be installed; no TPU is needed)
python bench/topologies.py 64         other numbers of chips
"""

import argparse, time

import mithril as ml
from mithril.backends import JaxBackend

SLICES = {8: "v5p:2x2x2", 64: "v5p:2x4x8", 256: "v5p:4x8x8", 2048: "v5p:8x16x16"}
WIDTH, HEADS, SEQUENCE, TENSOR, LAYERS = 4096, 32, 1024, 8, 8


def transformer():
    m = ml.Model()
    x = "input"
    for i in range(LAYERS):
        m += ml.LayerNorm()(input=x, output=f"before{i}")
        m += ml.MultiHeadAttention(num_heads=HEADS, head_dim=WIDTH // HEADS, causal=True, tensor_axis=1)(
            input=f"before{i}", output=f"attention{i}"
        )
        m += ml.Add()(inputs=[x, f"attention{i}"], output=f"middle{i}")
        m += ml.LayerNorm()(input=f"middle{i}", output=f"behind{i}")
        m += ml.FeedForward(hidden_dim=4 * WIDTH, tensor_axis=1)(input=f"behind{i}", output=f"feed{i}")
        x = "output" if i == LAYERS - 1 else f"x{i}"
        m += ml.Add()(inputs=[f"middle{i}", f"feed{i}"], output=x)
    return m


def main():
    arg = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arg.add_argument("chips", nargs="*", type=int, default=[256, 2048])
    for chips in arg.parse_args().chips:
        begin = time.perf_counter()
        backend = JaxBackend(device_mesh=(chips // TENSOR, TENSOR), backend="tpu", topology=SLICES[chips])
        opened = time.perf_counter()
        compiled = ml.compile(
            transformer(),
            backend,
            input_shard_specs={"input": (0, None, None)},
            output_shard_specs={"output": (0, None, None)},
            shapes={"input": (chips // TENSOR, SEQUENCE, WIDTH)},
        )
        text = compiled.program_text()
        planned = time.perf_counter()
        report = compiled.explain()
        print(
            f"{chips} chips, {SLICES[chips]}: opened in {opened - begin:.2f} s, "
            f"planned in {planned - opened:.2f} s ({len(text.splitlines())} lines), "
            f"compiled in {time.perf_counter() - planned:.2f} s\n{report}"
        )


if __name__ == "__main__":
    main()
