"""Numbers in plans, errors and StableHLO, and the system's reasons in errors, are the same under every locale: here one
whose decimal point is a comma, and whose messages are German where this machine has them."""

import os
import shutil
import subprocess
import sys

import pytest

from support import HANGS

COMMA = """LC_NUMERIC
decimal_point ","
thousands_sep "."
grouping 3;3
END LC_NUMERIC
LC_MESSAGES
yesexpr "^j"
noexpr "^n"
END LC_MESSAGES
"""

# Prints all that has numbers in it; behind the first line, which shows that the locale is the one asked for.
PROGRAM = """
import locale, sys
import numpy as np
print(locale.setlocale(locale.LC_NUMERIC, sys.argv[1]), locale.localeconv()["decimal_point"])
locale.setlocale(locale.LC_MESSAGES, sys.argv[1])
import mithril as ml
from mithril.backends import CBackend, JaxBackend
model = ml.Model()
model |= ml.Linear(8, weight_shard_spec=(None, 0))(input="x", output="h")
model += ml.LayerNorm(epsilon=2.5e-7)
model += ml.Dropout(rate=0.375)
model += ml.Gelu()
model += ml.MultiHeadAttention(num_heads=2, rotary=True, rope_base=10000.5, scale=0.3333333333333333)(output="y")
x = np.linspace(-1, 1, 2 * 4 * 8, dtype=np.float32).reshape(2, 4, 8)
for backend in [CBackend(device_mesh=(2,))] + [JaxBackend(device_mesh=(2,))] * ("xla" in sys.argv):
    compiled = ml.compile(model, backend)
    params = compiled.get_parameters({"x": x})
    outputs, gradients = compiled.evaluate(params, {"x": x}, output_gradients={"y": np.ones((2, 4, 8), np.float32)})
    text = compiled.program_text()
    ml.verify_plan(text)
    assert ml.reprint_plan(text) == text
    print(text)
    print(*(float(np.sum(np.asarray(a, np.float64))) for a in [outputs["y"], *gradients.values()]))
    if isinstance(backend, JaxBackend):
        print(compiled.stablehlo())
print(ml.Dropout.__doc__)
for bad in (
    lambda: ml.Dropout(rate=1.25),
    lambda: ml.LayerNorm(epsilon=-0.125),
    lambda: ml.MoE(4, 8, capacity_factor=-0.5),
    lambda: backend.array([1e39]),
    lambda: backend.array([1e5], dtype="float16"),
    lambda: compiled.evaluate(params, {"x": np.full((2, 4, 8), 1e300)}),
    lambda: ml.read_safetensors(compiled, {"x": x}, "/absent", {}),
    lambda: CBackend(device_mesh=(2,), machine="/absent"),
    lambda: JaxBackend(device_mesh=(2,), plugin="/absent"),
):
    try:
        bad()
    except ml.MithrilError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def comma(tmp_path_factory):
    """A folder with a locale called comma; it needs no other locale on this machine."""
    folder = tmp_path_factory.mktemp("locales")
    if not shutil.which("localedef"):
        pytest.skip("localedef is not installed")
    (folder / "source").write_text(COMMA)
    subprocess.run(
        ["localedef", "-c", "-i", folder / "source", "-f", "ANSI_X3.4-1968", folder / "comma"],
        capture_output=True,
        timeout=HANGS,
    )
    if not all((folder / "comma" / part).exists() for part in ("LC_NUMERIC", "LC_MESSAGES")):
        pytest.skip("localedef made no locale here")
    return folder


def said(name, folder, *words):
    environment = {**os.environ, "LOCPATH": str(folder), "LANGUAGE": "de"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, *words], capture_output=True, text=True, timeout=HANGS, env=environment
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split("\n", 1)


@pytest.mark.parametrize("engine", ["native", "xla"], indirect=True)
def test_texts_are_the_same_in_every_locale(engine, comma):
    words = ["xla"] if engine.__name__ == "JaxBackend" else []
    first, plain = said("C", comma, *words)
    other, under_comma = said("comma", comma, *words)
    assert first == "C ." and other == "comma ,"
    assert under_comma == plain
    assert "rate=1.25" in plain and "epsilon=-0.125" in plain and "capacity_factor=-0.5" in plain
    assert "2.5e-07" in plain and "0.375" in plain and "0.3333333333333333" in plain and "rate: float = 0.5" in plain
    assert "clip(x, -3.4028235e+38, 3.4028235e+38)" in plain and "clip(x, -65504, 65504)" in plain
    assert "/absent" in plain and "No such file or directory" in plain
