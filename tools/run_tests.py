"""Runs the suites asked for, side by side, and prints the sum of what they report: the last line is "N passed, N failed"."""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
THREADED = r"test_(api|native|pjrt_run|program|property|xla)|example_\w+|fuzz_model"
# With sanitizers. A plugin is not instrumented: it synchronises its threads where nobody can see it. And it is three times as slow: tests that
# ask XLA for numbers run without one, up to the StableHLO that they make.
NUMBERS = r"test_hlo\w*"
SANITIZED = {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1"}
NO_PLUGIN = {"MITHRIL_PJRT_PLUGIN_CPU": ""}


def sanitized(build, test):
    """What a test of a sanitized build gets in its environment; nothing in other builds."""
    options = json.loads((build / "meson-info" / "intro-buildoptions.json").read_text())
    if next(option["value"] for option in options if option["name"] == "b_sanitize") in ("none", []):
        return {}
    return SANITIZED | (NO_PLUGIN if re.fullmatch(NUMBERS, test) else {})


def run(title, command, environment):
    """Returns (passed, failed). A suite that reports no count is one test, which its exit status decides."""
    done = subprocess.run([str(c) for c in command], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    counted = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    passed, failed = (sum(int(n) for n in re.findall(rf"(\d+) {word}", counted[-1])) if counted else 0 for word in ("passed", "(?:failed|error)"))
    if not counted:
        passed, failed = int(done.returncode == 0), int(done.returncode != 0)
    elif done.returncode != 0 and failed == 0:
        failed = 1  # it died after its count, or at exit (a leak)
    shown = done.stdout if failed or title == "python" else "".join(dict.fromkeys(re.findall(r"^ *skipped.*\n", done.stdout, re.M)))
    if done.returncode < 0:
        shown += f"ended by {signal.Signals(-done.returncode).name}\n"
    print(f"== {title}\n{shown}   {passed} passed, {failed} failed\n", end="", flush=True)
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
    suites = []  # (priority, title, command, environment)
    if given.python:
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "tests/python"]
        suites.append((1000, "python", command, stage_environment(given.stage) if given.stage else {}))
    for build in map(Path, [*given.build, *given.threads]):
        tests = json.loads((build / "meson-info" / "intro-tests.json").read_text())
        if not tests:
            suites.append((0, f"{build} holds no tests", ["false"], {}))
        for test in tests:
            if str(build) not in given.threads or re.fullmatch(THREADED, test["name"]):
                suites.append((test["priority"], f"{build.name}/{test['name']}", test["cmd"], {**sanitized(build, test["name"]), **test["env"]}))
    for build in given.build if given.install else []:
        suites.append((0, f"{build}/install", [sys.executable, "tools/check_install.py", build], {}))
    if given.layering:
        library = [lib for build in given.build for lib in Path(build).glob("libmithril.so")]
        suites.append((0, "layering", [sys.executable, "tools/layering.py", *library[:1]], {}))
    suites.sort(key=lambda suite: -suite[0])  # what takes long is begun first, so that no core is idle at the end
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        sums = list(pool.map(lambda suite: run(*suite[1:]), suites))
    passed, failed = (sum(column) for column in zip((0, 0), *sums))
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
