"""Writes machines/*.txt as the C table that base/machine.h declares: embed_machines.py OUTPUT FILES."""

import json
import pathlib
import sys

output, *files = map(pathlib.Path, sys.argv[1:])
rows = []
for file in sorted(files):
    lines = file.read_text(encoding="ascii").splitlines(keepends=True)
    rows.append(
        f"    {{{json.dumps(file.stem)},\n" + "".join(f"        {json.dumps(line)}\n" for line in lines) + "    },\n"
    )
output.write_text(
    '#include "base/machine.h"\n\nconst mth__machine_file mth__machine_files[] = {\n'
    + "".join(rows)
    + "    {0, 0},\n};\n",
    encoding="ascii",
)
