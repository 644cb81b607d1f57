"""Installs a build into a folder of its own and builds an example against what is there, as a user of the C library
would.

Usage: python tools/check_install.py BUILD. Prints "N passed, N failed".
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def flags(pc, sysroot):
    """The compiler flags of the pkg-config file: by pkg-config where it is there, else read as it would."""
    if shutil.which("pkg-config"):
        environment = {**os.environ, "PKG_CONFIG_PATH": str(pc.parent), "PKG_CONFIG_SYSROOT_DIR": str(sysroot)}
        done = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "mithril"], env=environment, text=True, capture_output=True, check=True
        )
        return done.stdout.split()
    text = pc.read_text()
    values = dict(re.findall(r"^(\w+)=(.*)$", text, re.M))
    expand = lambda s: re.sub(r"\$\{(\w+)\}", lambda m: expand(values[m[1]]), s)
    found = [expand(f) for line in re.findall(r"^(?:Libs|Cflags): *(.*)$", text, re.M) for f in line.split()]
    return [re.sub(r"^(-[IL])(/.*)", lambda m: m[1] + str(sysroot) + m[2], f) for f in found]


def main():
    build = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        sysroot = Path(folder)
        subprocess.run(
            ["meson", "install", "-C", str(build), "--quiet", "--no-rebuild"],
            env={**os.environ, "DESTDIR": folder},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        pc = next(sysroot.rglob("mithril.pc"))
        header = next(sysroot.rglob("mithril.h"))
        library = next(sysroot.rglob("libmithril.so"))
        program = sysroot / "read_plan"
        subprocess.run(
            [
                "cc",
                "-std=c17",
                str(ROOT / "examples/read_plan.c"),
                "-o",
                str(program),
                *flags(pc, sysroot),
                f"-Wl,-rpath,{library.parent}",
            ],
            check=True,
        )
        assert header.read_text() == (ROOT / "include/mithril.h").read_text()
        done = subprocess.run([str(program)], text=True, capture_output=True)
        assert done.returncode == 0 and "all_reduce ring" in done.stdout, done.stdout + done.stderr
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
