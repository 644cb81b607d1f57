"""Writes the example that opens include/mithril.h as a C file, so that the build compiles it and the tests run it."""
import sys

inside, out = False, []
for line in open(sys.argv[1], encoding="utf-8"):
    text = line[2:].rstrip() if line.startswith(" *") else ""
    if text.startswith("     #include"):
        inside = True
    if inside:
        out.append(text[5:])
    if inside and text == "     }":
        break
open(sys.argv[2], "w", encoding="utf-8").write("\n".join(out) + "\n")
