"""Bad input: each gives an error of the fitting class that names what is wrong and what mends it, and leaves everything
usable.

The cases stand in error_cases.py, error_cases_run.py, error_cases_share.py and error_cases_xla.py, the texts in
tests/golden/errors.txt; `MITHRIL_UPDATE_GOLDEN=1 pytest tests/python/test_errors.py` writes them anew, to be read in
the diff.
"""

import errno
import gc
import os
import pathlib
import pickle
import re

import numpy as np
import pytest

import error_cases_run  # noqa: F401  adds its cases
import error_cases_share  # noqa: F401  adds its cases
import error_cases_xla  # noqa: F401  adds its cases
import mithril as ml
from error_cases import CASES, X, chain
from mithril.backends import CBackend
from support import compile_on

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "errors.txt"


def perform(name, fixed, tmp_path):
    function = CASES[name]
    try:
        return function(fixed, tmp_path) if "tmp" in function.__code__.co_varnames else function(fixed)
    except ml.MithrilError as error:
        if error.what.startswith("no PJRT plugin"):
            pytest.skip(f"no XLA: {error}")
        raise


def told(name, tmp_path):
    """The error of a case as the golden file has it: without line numbers and folders."""
    with pytest.raises(Exception) as caught:
        perform(name, False, tmp_path)
    error = caught.value
    assert isinstance(error, ml.MithrilError), f"{type(error).__name__}: {error}"
    assert (
        isinstance(error, (ValueError, TypeError, KeyError, MemoryError))
        and error.what
        and error.fix
        and error.fix in str(error)
    )
    assert isinstance(error.op, str) and all(isinstance(t, str) and t in str(error) for t in error.tensors)
    text = str(error).replace(str(tmp_path), "TMP")
    text = re.sub(r"(at \w+\.py):\d+", r"\1:N", text)
    text = re.sub(
        r"(: \w+ on device) \d+", r"\1 N", text
    )  # devices run side by side: any of them may be the first to notice
    return f"{type(error).__name__}: {re.sub(r'0x[0-9a-f]+', '0xN', text)}"


def golden():
    if not GOLDEN.exists():
        return {}
    return dict(
        part.split("\n", 1)
        for part in GOLDEN.read_text(encoding="utf-8").rstrip("\n").removeprefix("== ").split("\n\n== ")
    )


def test_there_are_enough():
    assert len(CASES) >= 50
    if not os.environ.get("MITHRIL_UPDATE_GOLDEN"):
        assert set(golden()) == set(CASES), "MITHRIL_UPDATE_GOLDEN=1 writes the texts anew"


@pytest.mark.parametrize("name", CASES)
def test_error(name, tmp_path):
    text = told(name, tmp_path)
    if os.environ.get("MITHRIL_UPDATE_GOLDEN"):
        texts = {**golden(), name: text}
        GOLDEN.write_text("\n\n".join(f"== {n}\n{texts[n]}" for n in CASES if n in texts) + "\n", encoding="utf-8")
    else:
        assert text == golden()[name]


def test_errors_of_the_system_are_pythons_too(tmp_path):
    """What the system says of a file is caught by Python's own class for it, with its errno; the rest of a file error
    is a ValueError."""
    compiled = compile_on((1,), chain(ml.Linear(3)))
    names = {"linear_0.weight": "w", "linear_0.bias": "b"}
    (tmp_path / "file").write_bytes(b"")
    for path, kind, number in [
        (tmp_path / "nothing", FileNotFoundError, errno.ENOENT),
        (tmp_path, IsADirectoryError, errno.EISDIR),
        (tmp_path / "file" / "below", NotADirectoryError, errno.ENOTDIR),
        (tmp_path / ("x" * 300), OSError, errno.ENAMETOOLONG),
    ]:
        with pytest.raises(kind) as caught:
            ml.read_safetensors(compiled, {"x": X}, path, names)
        for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
            assert isinstance(error, (ml.MithrilError)) and isinstance(error, ValueError) and isinstance(error, kind)
            assert error.errno == number and error.fix and error.fix in str(error)
    with pytest.raises(ml.errors.MithrilValueError) as caught:
        ml.read_safetensors(compiled, {"x": X}, tmp_path / "file", names)
    assert not isinstance(caught.value, OSError)


@pytest.mark.parametrize("name", CASES)
def test_fix(name, tmp_path):
    perform(name, True, tmp_path)


def test_all_stays_usable(tmp_path):
    """The mistakes, one after the other around one compiled model, and nothing is left behind."""
    compiled = compile_on((2,), chain(ml.Linear(5, weight_shard_spec=(0, None)), ml.Relu()))
    params = compiled.get_parameters({"x": X})
    want = np.asarray(compiled.evaluate(params, {"x": X})["y"]).copy()
    for name in CASES:
        with pytest.raises((ml.MithrilError, pytest.skip.Exception)):
            perform(name, False, tmp_path)
        assert np.array_equal(np.asarray(compiled.evaluate(params, {"x": X})["y"]), want)


def test_no_leaks(tmp_path):
    """Each mistake, made again and again, leaves as many allocations as once: counted over all, and one by one where
    that differs."""

    def left_by(names):
        def make():
            for name in names:
                with pytest.raises(ml.MithrilError):
                    perform(name, False, tmp_path)
            gc.collect()
            return ml._mithril._allocations()[1]

        make()
        return make() - make()

    if left_by(CASES):
        assert not {name: left for name in CASES if (left := left_by([name]))}


def test_allocation_failure():
    """Memory that ends at any point of composing, compiling and running is an error, and the same works afterwards."""

    def journey():
        model = ml.Model()
        model |= ml.Linear(5, weight_shard_spec=(0, None))(input="x", output="h")
        model += ml.Relu()(output="y")
        backend = CBackend(device_mesh=(2,))
        compiled = ml.compile(model, backend)
        params = compiled.get_parameters({"x": X})
        return np.asarray(compiled.evaluate(params, {"x": X})["y"]).copy()

    before = ml._mithril._allocations()[0]
    want = journey()
    count = ml._mithril._allocations()[0] - before
    failed = 0
    for index in range(0, count + 1, max(1, count // 200)):
        ml._mithril._fail_allocation(index)
        try:
            assert np.array_equal(journey(), want)
        except MemoryError as error:
            failed += 1
            assert error.fix
        finally:
            ml._mithril._fail_allocation(-1)
    assert failed > count // max(1, count // 200) // 2
    assert np.array_equal(journey(), want)
