"""Compares src/engine/pjrt/pjrt_abi.h with a published pjrt_c_api.h: python tools/check_pjrt_abi.py PUBLISHED.h

Both headers declare the same names, so no program can include both. One list of names, read off ours, becomes one small
program; it is compiled against each header, and what the two print (every size, every offset of a member and its size,
every constant) must be equal. A newer published header may have longer structures and a longer table: those are named
as grown, which is no error. Exit: 0 equal, 1 not.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ROOT / "src/engine/pjrt/pjrt_abi.h"


def members(body):
    """The names of the members declared in the body of a structure; those of a union inside it are members too."""
    body = re.sub(r"\bunion \{(.*?)\};", r"\1", body, flags=re.S)
    for declaration in body.split(";"):
        pointer = re.search(r"\(\*(\w+)\)\(", declaration)
        name = pointer or re.search(r"(\w+)\s*$", declaration)
        if name:
            yield name.group(1)


def questions(header):
    """(label, C expression) of all that both headers must agree on."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    structures = {}
    for macro, name, body in re.findall(r"^MTH__(STRUCT|CALL)\((\w+), \w+,(.*?)\);$", text, flags=re.S | re.M):
        structures[name + ("_Args" if macro == "CALL" else "")] = ["struct_size", "extension_start", *members(body)]
    for name, body in re.findall(r"^typedef struct (\w+) \{(.*?)\} \1;", text, flags=re.S | re.M):
        structures[name] = list(members(body))
    for name, fields in structures.items():
        if name != "PJRT_Api":  # its end is where our version ends
            yield f"sizeof {name}", f"sizeof({name})"
            yield (
                f"size constant of {name}",
                f"{name}_STRUCT_SIZE" if name != "PJRT_Extension_Base" else f"sizeof({name})",
            )
        for field in fields:
            yield f"{name}.{field}", f"offsetof({name}, {field})"
            yield f"size of {name}.{field}", f"sizeof((({name} *)0)->{field})"
    for body in re.findall(r"^typedef enum \{(.*?)\} \w+;", text, flags=re.S | re.M):
        for constant in re.findall(r"\bPJRT_\w+", body):
            yield constant, f"(size_t){constant}"


def ask(header, asked):
    """The answers of a header, as numbers."""
    lines = "\n".join(f'    printf("%zu\\n", (size_t)({expression}));' for _, expression in asked)
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "ask.c")
        source.write_text(f'#include <stdio.h>\n#include "{header}"\nint main(void) {{\n{lines}\n}}\n')
        program = source.with_suffix("")
        subprocess.run(
            [*os.environ.get("CC", "cc").split(), "-std=c17", "-w", str(source), "-o", str(program)], check=True
        )
        return [
            int(line)
            for line in subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.split()
        ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("published", type=pathlib.Path, help="pjrt_c_api.h of OpenXLA, version 0.81 or later")
    published = parser.parse_args().published.resolve()
    asked = list(questions(OURS.read_text()))
    ours, theirs = ask(OURS, asked), ask(published, asked)
    bad, grown = [], []
    for (label, _), mine, other in zip(asked, ours, theirs, strict=True):
        if mine != other:
            is_longer = label.startswith(("sizeof ", "size constant ")) and other > mine
            (grown if is_longer else bad).append(f"{label}: {mine} in ours, {other} in the published one")
    for line in bad:
        print(f"differs: {line}")
    for line in grown:
        print(f"grown: {line}")
    print(f"{len(asked)} sizes, offsets and constants compared, {len(bad)} differ")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
