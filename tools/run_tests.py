"""Runs the suites asked for and prints the sum of what they report: the last line is "N passed, N failed"."""
import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNSEEN = {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1"}  # a plugin of XLA synchronises its threads where the sanitizer can't see it
THREADED = r"test_(api|native|program|property)|example_\w+|fuzz_model"


def run(title, command, environment=None):
    """Returns (passed, failed). A suite that reports no count is one test, which its exit status decides."""
    print(f"== {title}", flush=True)
    done = subprocess.run([str(c) for c in command], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})})
    counted = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    passed, failed = (sum(int(n) for n in re.findall(rf"(\d+) {word}", counted[-1])) if counted else 0 for word in ("passed", "(?:failed|error)"))
    if not counted:
        passed, failed = int(done.returncode == 0), int(done.returncode != 0)
    elif done.returncode != 0 and failed == 0:
        failed = 1  # it died after its count, or at exit (a leak)
    if failed or title.startswith("python"):
        print(done.stdout, end="")
    print(f"   {passed} passed, {failed} failed", flush=True)
    return passed, failed


def stage_environment(stage):
    package = next(Path(stage).rglob("_mithril*.so")).parent.parent
    import scipy_openblas32
    return {"PYTHONPATH": str(package.resolve()), "LD_LIBRARY_PATH": scipy_openblas32.get_lib_dir()}


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--build", action="append", default=[], help="a build directory with C tests and examples; may be repeated")
    options.add_argument("--threads", action="append", default=[], help="the same, but only what runs on several threads")
    options.add_argument("--python", action="store_true", help="pytest of tests/python")
    options.add_argument("--layering", action="store_true", help="tools/layering.py")
    options.add_argument("--install", action="store_true", help="tools/check_install.py on each build")
    options.add_argument("--stage", help="take the Python package from this installation tree")
    given = options.parse_args()
    sums = []
    for build in map(Path, [*given.build, *given.threads]):
        tests = json.loads((build / "meson-info" / "intro-tests.json").read_text())
        if not tests:
            print(f"{build} holds no tests")
            sums.append((0, 1))
        for test in tests:
            if str(build) not in given.threads or re.fullmatch(THREADED, test["name"]):
                sums.append(run(f"{build.name}/{test['name']}", test["cmd"], {**UNSEEN, **test["env"]}))
    for build in given.build if given.install else []:
        sums.append(run(f"{build}/install", [sys.executable, "tools/check_install.py", build]))
    if given.layering:
        library = [lib for build in given.build for lib in Path(build).glob("libmithril.so")]
        sums.append(run("layering", [sys.executable, "tools/layering.py", *library[:1]]))
    if given.python:
        sums.append(run("python", [sys.executable, "-m", "pytest", "-q", "--tb=short", "tests/python"], stage_environment(given.stage) if given.stage else None))
    passed, failed = (sum(column) for column in zip(*sums)) if sums else (0, 0)
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
