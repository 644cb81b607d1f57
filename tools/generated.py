"""Files that a tool writes, and checks with --check."""

import pathlib
import sys
from collections.abc import Iterable


def renew(tool: str, folder: pathlib.Path, files: Iterable[tuple[str, str]]) -> int:
    """Writes those that are stale; with --check says which they are and returns 1."""
    stale = []
    for name, text in files:
        path = folder / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"stale: {', '.join(stale)}; run python tools/{tool}", file=sys.stderr)
        return 1
    return 0
