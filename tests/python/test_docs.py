"""The documentation is true: every ```python block of README.md and docs/*.md runs, and prints what the ```text block
behind it shows.

Blocks of one page share their names. In a text block "..." stands for anything: for what was left out, and for what
differs from run to run. `MITHRIL_UPDATE_GOLDEN=1 pytest tests/python/test_docs.py` writes anew the text blocks without
"...", and the generated pages.

A page ends at the first block whose plugin of XLA isn't installed: what needs one stands last, and behind it what needs
libtpu.
"""

import contextlib
import doctest
import io
import os
import pathlib
import re
import subprocess
import sys

import pytest

from mithril import MithrilError
from support import HANGS

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
UPDATE = bool(os.environ.get("MITHRIL_UPDATE_GOLDEN"))


def run_page(page):
    """The page with the real outputs in its text blocks; and the plugin that is missing, or None."""
    text = page.read_text(encoding="utf-8")
    name = f"{page.stem.lower()}.py"  # what plans and errors call the source; lines count within a block
    names, printed, parts, end = {"__name__": name}, None, [], 0
    for fence in FENCE.finditer(text):
        kind, body = fence.groups()
        if kind == "python":
            out = io.StringIO()
            try:
                with contextlib.redirect_stdout(out):
                    exec(compile(body, name, "exec"), names)
            except MithrilError as error:
                if not error.what.startswith("no PJRT plugin"):
                    raise
                return "".join(parts) + text[end:], error.what
            printed = "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines()) + "\n"
        elif kind == "text" and printed is not None:
            if not doctest.OutputChecker().check_output(body, printed, doctest.ELLIPSIS):
                shown = "".join(f"    {line}\n" for line in printed.splitlines())
                at = text[: fence.start()].count("\n") + 1
                assert UPDATE and "..." not in body, f"{page.name}:{at}: the block prints\n{shown}"
                parts += [text[end : fence.start(2)], printed]
                end = fence.end(2)
            printed = None
    return "".join(parts) + text[end:], None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, missing = run_page(page)
    if UPDATE:
        page.write_text(text, encoding="utf-8")
    if missing and "backend='tpu'" not in missing:  # libtpu is nobody's dependency
        pytest.skip(f"the end of the page: {missing}")


@pytest.mark.parametrize("tool", ["generate_docs.py", "docs_tour.py"])
def test_generated(tool):
    arguments = [] if UPDATE else ["--check"]
    run = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, *arguments], capture_output=True, text=True, timeout=HANGS
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\":]+)\"", text):
        target = "".join(target)
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
