"""Checks the house rules that a compiler can't: who includes whom, file sizes, unique names
of files and types, complete lists in meson.build, numbers in texts, the format, exported symbols,
files that call each other in a circle.

Usage: python tools/layering.py [libmithril.so]
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINES = 600
COLUMNS = 120
BELOW = {
    "base": [],
    "catalog": ["base"],
    "compose": ["base", "catalog"],
    "derive": ["base", "catalog"],
    "distribute": ["base", "catalog"],
    "emit": ["base", "catalog"],
    "data": ["base", "catalog", "emit"],
    "engine": ["base", "catalog", "emit", "data"],
    "observe": ["base", "catalog", "emit", "engine"],
}  # and a folder inside of a layer (engine/native) sees what lies beside it (engine/*.h), not its sisters (engine/pjrt)
# What distribute/ may name: what it makes itself. All else it asks of the row (catalog/op.h).
NAMED = "reshape slice concat add all_reduce all_gather reduce_scatter all_to_all keep transfer broadcast".split()
HAND_WRITTEN = ["include", "src", "python", "tools", "tests", "fuzz", "bench", "examples"]


def files(folders, *endings):
    return sorted(f for folder in folders for f in (ROOT / folder).rglob("*") if f.suffix in endings and f.is_file())


def includes(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if match := re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line):
            yield number, match[1] == '"', match[2]


def check_includes():
    for path in files(["src"], ".c", ".h"):
        inside = path.relative_to(ROOT / "src").parts
        layer = inside[0] if len(inside) > 1 else None
        for number, own, name in includes(path):
            target = name.split("/")[0] if "/" in name else None
            room = name.split("/")[:-1]
            if not own or name == "mithril.h":
                if name == "mithril.h" and not own:
                    yield f"{path.relative_to(ROOT)}:{number}: include \"mithril.h\" with quotes"
                continue
            if not (ROOT / "src" / name).is_file():
                yield f"{path.relative_to(ROOT)}:{number}: \"{name}\" is not a path from src/"
            elif layer and (target is None or target not in [layer, *BELOW[layer]]):
                yield f"{path.relative_to(ROOT)}:{number}: {layer} may not include \"{name}\""
            elif layer and len(room) > 1 and room != list(inside[:-1]):
                yield f"{path.relative_to(ROOT)}:{number}: \"{name}\" is a part of {'/'.join(room)} alone"
    for path in files(["python", "examples"], ".c", ".h"):
        for number, own, name in includes(path):
            beside = own and (path.parent / name).is_file()
            if own and not beside and name != "mithril.h":
                yield f"{path.relative_to(ROOT)}:{number}: only mithril.h is public, not \"{name}\""


def check_lines():
    for path in files(HAND_WRITTEN, ".c", ".h", ".py"):
        count = len(path.read_text().splitlines())
        if count > LINES:
            yield f"{path.relative_to(ROOT)}: {count} lines, at most {LINES}: split it by idea"


def check_lists():
    build = (ROOT / "meson.build").read_text()
    for path in [
        *files(["src"], ".c"),
        *sorted((ROOT / "python").glob("*.c")),
        *sorted((ROOT / "python" / "mithril").glob("*.py*")),
    ]:
        if f"'{path.relative_to(ROOT)}'" not in build:
            yield f"{path.relative_to(ROOT)} is not in meson.build"
    for folder, prefix in [("tests/c", "test_"), ("examples", ""), ("bench", "")]:
        for path in sorted((ROOT / folder).glob(f"{prefix}*.c")):
            if f"'{path.stem.removeprefix(prefix)}'" not in build:
                yield f"{path.relative_to(ROOT)} is not in meson.build"


def check_names():
    where = defaultdict(list)
    for path in files(["include", "src", "python"], ".c", ".h", ".py"):
        where[path.name].append(str(path.relative_to(ROOT)))
    for places in where.values():
        if len(places) > 1:
            yield f"one name, several files: {', '.join(places)}"


def defined_types(text):
    """Names of the types that a C file defines: of structs, unions and enums with a body, and of typedefs of other
    types."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    for match in re.finditer(r"\b(?:struct|union|enum)\s+(\w+)\s*\{", text):
        yield match[1]
    for match in re.finditer(r"\btypedef\b", text):
        depth, end = 0, match.end()
        while depth or text[end] != ";":
            depth += (text[end] in "{(") - (text[end] in "})")
            end += 1
        body = re.sub(r"\[[^\]]*\]", "", text[match.end() : end]).strip()
        if "{" in body or not body.startswith(("struct ", "union ", "enum ")):
            function = "{" not in body and re.search(r"\(\*?\s*(\w+)\)\s*\(|(\w+)\s*\(", body)
            yield function[1] or function[2] if function else re.findall(r"\w+", body)[-1]


def check_types():
    """No two types share a name, but the engines' own bodies of what engine.h and devices.h leave open."""
    where, opaque = defaultdict(set), set()
    for path in files(["include", "src", "python"], ".c", ".h"):
        text = path.read_text()
        for name in defined_types(text):
            where[name].add(str(path.relative_to(ROOT)))
        if path.parent.name in ("data", "engine"):
            opaque.update(re.findall(r"typedef struct (\w+) \1;", text))
    for name, places in sorted(where.items()):
        if len(places) > 1 and not (name in opaque and all(place.count("/") == 3 for place in places)):
            yield f"one name, types in several files: {name} in {', '.join(sorted(places))}"


def check_numbers():
    """Floating numbers and words of the system go in and out of texts by base/number.c alone, which no locale changes;
    in python/ by PyOS_double_to_string and PyOS_string_to_double, which none changes either."""
    direct = re.compile(
        r'\b(?:vsn?printf|PyOS_vsnprintf|strto(?:d|f|ld)|atof|strerror(?:_r)?|dlerror)\('
        r'|\b\w*printf\([^;]*?%[-+ #0-9.*]*L?[aefgAEFG]'
    )
    for path in files(["src", "python"], ".c", ".h"):
        text = path.read_text()
        for match in direct.finditer(text):
            if path.name != "number.c":
                number = text.count("\n", 0, match.start()) + 1
                yield f"{path.relative_to(ROOT)}:{number}: {match[0].split('(')[0]} follows the locale: base/number.h"


def check_operators():
    rows = set(re.findall(r"X\((\w+)\)", (ROOT / "src/catalog/rows.h").read_text())) - {"name"}
    for path in files(["src/distribute"], ".c", ".h"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            named = re.findall(r"MTH__ROW_(\w+)|mth__op_(\w+)", line) + re.findall(r'()"(\w+)"', line)
            for name in {a or b for a, b in named} & rows - set(NAMED):
                yield f"{path.relative_to(ROOT)}:{number}: names the operator {name}; let its row say what matters"
            if re.search(r"cmp\([^;]*->name\b", line) and "op->name" in line:
                yield f"{path.relative_to(ROOT)}:{number}: compares an operator's name; let its row say what matters"


def check_format():
    """`make format` would change nothing, and no line is wider than the limit, in C, in Python or in a stub."""
    tools = Path(sys.executable).parent
    c, python = files(HAND_WRITTEN, ".c", ".h"), files(HAND_WRITTEN, ".py")
    for command in ([tools / "clang-format", "--dry-run", *c], [tools / "ruff", "format", "--check", *python]):
        done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for line in done.stdout.splitlines():
            if re.search(r"clang-format-violations|^Would reformat|[Nn]o such file", line):
                yield f"{line.replace(f'{ROOT}/', '')}: run make format"
    for path in [*c, *python, *files(HAND_WRITTEN, ".pyi")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if len(line) > COLUMNS:
                yield f"{path.relative_to(ROOT)}:{number}: {len(line)} columns, at most {COLUMNS}"


def check_symbols(library):
    listing = subprocess.run(["nm", "-D", "--defined-only", library], text=True, capture_output=True, check=True).stdout
    for line in listing.splitlines():
        name = line.split()[-1].split("@")[0]
        if not re.match(r"mth_[a-z0-9]", name) and name not in ("_init", "_fini"):
            yield f"{library} exports {name}"


def check_loops(library):
    """No file is called by what it calls, however many files lie between: what both need is a file below them.
    Tables are data, not calls."""
    sources = {str(path.relative_to(ROOT)).replace("/", "_") + ".o": path for path in files(["src"], ".c")}
    objects = {path: sources[path.name] for path in Path(library).parent.glob("*.a.p/*.o") if path.name in sources}
    listing = subprocess.run(["nm", "-A", *objects], text=True, capture_output=True, check=True).stdout
    defined, needed = {}, defaultdict(set)
    for line in listing.splitlines():
        place, kind, name = re.match(r"(.*\.o):[0-9a-f ]*(\w) (\S+)", line).groups()
        if kind == "T":
            defined[name] = objects[Path(place)]
        elif kind == "U":
            needed[objects[Path(place)]].add(name)
    calls = defaultdict(dict)  # by caller, by file: the functions
    for caller, names in needed.items():
        for name in names:
            if defined.get(name, caller) != caller:
                calls[caller].setdefault(defined[name], set()).add(name)

    def reaches(start):
        met, open_ = set(), [start]
        while open_:
            for other in calls[open_.pop()]:
                if other not in met:
                    met.add(other)
                    open_.append(other)
        return met

    reached = {path: reaches(path) for path in list(calls)}
    for one in sorted(path for path in reached if path in reached[path]):
        circle = {other for other in reached[one] if one in reached.get(other, ())}
        ways = "; ".join(
            f"{other.relative_to(ROOT)} ({', '.join(sorted(names))})"
            for other, names in sorted(calls[one].items())
            if other in circle
        )
        yield f"{one.relative_to(ROOT)} is called by what it calls, {ways}: move what both need below them"


def main():
    checks = {
        "includes": check_includes(),
        "lines": check_lines(),
        "names": check_names(),
        "types": check_types(),
        "lists": check_lists(),
        "numbers": check_numbers(),
        "operators": check_operators(),
        "format": check_format(),
    }
    if len(sys.argv) > 1:
        checks["symbols"] = check_symbols(sys.argv[1])
        checks["loops"] = check_loops(sys.argv[1])
    passed = 0
    for name, broken in checks.items():
        found = list(broken)
        passed += not found
        for line in found:
            print(f"{name}: {line}")
    print(f"{passed} passed, {len(checks) - passed} failed")
    return passed != len(checks)


if __name__ == "__main__":
    sys.exit(main())
