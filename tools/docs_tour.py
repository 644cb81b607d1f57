#!/usr/bin/env python3
"""Renews the dumps inside docs/tour.md.

    python tools/docs_tour.py            rewrites the page
    python tools/docs_tour.py --check    fails where it is stale

The Python blocks of the page run one after the other, each with MITHRIL_DUMP at a directory of its own.
Between the lines

    <!-- dump 1/05_shard: x, %2..%9, output -->
    <!-- end -->

stands what the first block's last plan left after that pass: the lines whose first or second word is among those listed
(all, where there is no list), with "..." for those between. `slab` in place of `dump` draws the slab of a program with
one role over its instructions; `1/printed` is what the block printed. What a block without a plugin of XLA would have
left stays as it is.
"""

import contextlib
import io
import os
import pathlib
import re
import sys
import tempfile

from mithril import MithrilError

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "tour.md"
MARK = re.compile(r"^<!-- (dump|slab) (\d+)/(\w+)(?:: ([^\n]*))? -->\n.*?^<!-- end -->$", re.M | re.S)


def run_blocks(text: str, folder: pathlib.Path) -> None:
    names: dict[str, object] = {"__name__": "tour.py"}
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S), 1):
        os.environ["MITHRIL_DUMP"] = str(folder / str(number))
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(block, "tour.py", "exec"), names)
        except MithrilError as error:
            if not error.what.startswith("no PJRT plugin"):
                raise
            break  # what needs one stands last
        (folder / str(number)).mkdir(exist_ok=True)
        (folder / str(number) / "printed.txt").write_text(printed.getvalue().rstrip("\n"), encoding="utf-8")


def chosen(lines: list[str], listed: str | None) -> list[str]:
    if not listed:
        return lines
    wanted = set()
    for word in listed.split(", "):
        ends = re.fullmatch(r"%(\d+)\.\.%(\d+)", word)
        wanted |= {f"%{i}" for i in range(int(ends[1]), int(ends[2]) + 1)} if ends else {word}
    out: list[str] = []
    for line in lines:
        words = line.split()[: 1 if line.startswith(("output", "gradient")) else 2]
        if wanted & {word.rstrip(":") for word in words}:
            out.append(line)
        elif out[-1:] != ["..."]:
            out.append("...")
    return out


def slab(lines: list[str]) -> list[str]:
    """A row for each place in the slab, a column for each instruction: the value that lives there."""
    place, life = {}, {}
    steps = [line for line in lines if re.match(r"  \d+  ", line)]
    for step, line in enumerate(steps):
        made = re.match(r"  \d+  (%\d+): .* at slab\+(\d+) = ", line)
        if made:
            place[made[1]], life[made[1]] = int(made[2]), [step, step]
        for name in re.findall(r"%\d+", line.split(" @")[0].partition(" = ")[2]):
            if name in life:
                life[name][1] = step
    table = []
    for offset in sorted(set(place.values())):
        cells = [
            [n for n in place if place[n] == offset and life[n][0] <= step <= life[n][1]] for step in range(len(steps))
        ]
        table.append(f"slab+{offset:<7d}" + "".join(f"{names[-1] if names else '.':>5s}" for names in cells))
    return ["instruction " + "".join(f"{step:5d}" for step in range(len(steps))), *table]


def renewed(text: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        run_blocks(text, pathlib.Path(folder))

        def box(mark: re.Match[str]) -> str:
            kind, block, name, words = mark.groups()
            path = pathlib.Path(folder) / block / f"{name}.txt"
            if not path.exists() and name == "printed":
                return mark[0]
            lines = path.read_text(encoding="utf-8").splitlines()
            body = "\n".join(line.rstrip() for line in (slab(lines) if kind == "slab" else chosen(lines, words)))
            return f"{mark[0].splitlines()[0]}\n```console\n{body}\n```\n<!-- end -->"

        return MARK.sub(box, text)


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    new = renewed(text)
    if new != text and "--check" in sys.argv:
        print("stale: tour.md; run python tools/docs_tour.py", file=sys.stderr)
        return 1
    if new != text:
        PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
