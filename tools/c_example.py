"""Writes the C example of include/mithril.h (its opening comment) or of a page of the documentation (its ```c block) as
a C file, so that the build compiles it and the tests run it."""

import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()
if sys.argv[1].endswith(".h"):
    comment = "".join(
        line[7:] + "\n" if line.startswith(" *     ") else "\n" for line in text.split("*/")[0].splitlines()
    )
    example = re.search(r"^#include.*?^}\n", comment, re.M | re.S)[0]
else:
    example = re.search(r"^```c\n(.*?)^```$", text, re.M | re.S)[1]
open(sys.argv[2], "w", encoding="utf-8").write(example)
