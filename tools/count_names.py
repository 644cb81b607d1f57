"""Counts what makes a source hard to read for a stranger: identifiers of one letter, and lines past the width of the
house.

Usage: python tools/count_names.py [FOLDER ...]    (src, unless said)

For each folder below the ones given, and for all of them together: lines, the longest line, lines of more than 120
columns, and the share of the identifiers in the code (comments, texts, keywords and member names of C's own library
aside) that are a single letter.
"""

import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 120
KEYWORDS = set(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while bool true "
    "false NULL define include ifdef ifndef endif".split()
)
NOT_CODE = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def measure(path):
    text = path.read_text()
    lines = text.splitlines()
    words = [w for w in re.findall(r"\b[A-Za-z_]\w*\b", NOT_CODE.sub(" ", text)) if w not in KEYWORDS]
    return Counter(
        lines=len(lines),
        wide=sum(len(line) > WIDTH for line in lines),
        identifiers=len(words),
        letters=sum(len(w) == 1 for w in words),
    ), max(map(len, lines), default=0)


def row(name, counts, longest):
    share = 100 * counts["letters"] / max(1, counts["identifiers"])
    print(
        f"{name:24}{counts['lines']:8}{longest:9}{counts['wide']:7}{counts['identifiers']:13}{counts['letters']:12}"
        f"{share:7.1f}%"
    )


def main():
    roots = [ROOT / folder for folder in sys.argv[1:] or ["src"]]
    folders = {}
    for path in sorted(f for root in roots for f in root.rglob("*") if f.suffix in (".c", ".h")):
        counts, longest = measure(path)
        total, most = folders.get(path.parent, (Counter(), 0))
        folders[path.parent] = (total + counts, max(most, longest))
    print(f"{'folder':24}{'lines':>8}{'longest':>9}{'wide':>7}{'identifiers':>13}{'one letter':>12}{'share':>8}")
    for folder, (counts, longest) in folders.items():
        row(str(folder.relative_to(ROOT)), counts, longest)
    row(
        "all",
        sum((counts for counts, _ in folders.values()), Counter()),
        max((longest for _, longest in folders.values()), default=0),
    )


if __name__ == "__main__":
    main()
