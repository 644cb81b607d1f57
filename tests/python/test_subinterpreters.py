"""Subinterpreters, where mithril can't be imported."""

import importlib
import subprocess
import sys

import pytest

from support import HANGS


def interpreters():
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    pytest.skip("no module makes subinterpreters")


@pytest.mark.parametrize("first", ["main", "sub"])
def test_subinterpreters_are_refused(first):
    """With a text that has a fix; the main interpreter goes on working, whichever was the first to import."""
    made = interpreters().__name__
    work = "from mithril.backends import CBackend; import array; CBackend((1,)).array(array.array('f', range(64)))"
    main, sub = "exec(work)", "print(interpreters.run_string(made, attempt))"
    attempt = (
        "try:\n import mithril\nexcept ImportError as error:\n print('refused:', error)\nelse:\n print('no error')"
    )
    program = "\n".join(
        [
            f"import {made} as interpreters",
            f"work, attempt = {work!r}, {attempt!r}",
            "made = interpreters.create()",
            *([main, sub] if first == "main" else [sub, main]),
            "print('done')",
        ]
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANGS)
    assert "refused:" in run.stdout and "subinterpreter" in run.stdout and "fix:" in run.stdout, run
    assert "done" in run.stdout and run.returncode == 0, run
