"""Runs the suites asked for, side by side. Its last lines: what was skipped and why, the end of what failing suites
printed, what failed and the command that runs it alone, and the sum of all suites, "N passed, N failed, N skipped"."""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
THREADED = r"test_(api|crew|native|pjrt_record|pjrt_run|program|property|threads|walk|xla)|example_\w+|fuzz_model"
# With sanitizers. A plugin is not instrumented: it synchronises its threads where nobody can see it. And it is three
# times as slow: tests that ask XLA for numbers run without one, up to the StableHLO that they make.
NUMBERS = r"test_hlo\w*"
SANITIZED = {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1"}
NO_PLUGIN = {"MITHRIL_PJRT_PLUGIN_CPU": ""}
ENDING = 40  # lines of a failing suite that are printed again at the end, where a log that is cut still has them
NOTHING_CHOSEN = 5  # pytest's exit status where no test has the name asked for
PARTS = 4  # of the Python tests: one process would run long after all other suites are through, on one core


def sanitized(build, test):
    """What a test of a sanitized build gets in its environment; nothing in other builds."""
    options = json.loads((build / "meson-info" / "intro-buildoptions.json").read_text())
    if next(option["value"] for option in options if option["name"] == "b_sanitize") in ("none", []):
        return {}
    return SANITIZED | (NO_PLUGIN if re.fullmatch(NUMBERS, test) else {})


class Suite:
    """A command that runs tests and prints "N passed, N failed, N skipped" at its end; one that prints no count is
    one test."""

    def __init__(self, title, command, environment=None, priority=0):
        self.title, self.command, self.environment, self.priority = (
            title,
            [str(c) for c in command],
            environment or {},
            priority,
        )
        self.is_python = title.startswith("python")
        self.counts, self.skips, self.failures, self.ending = Counter(), [], [], ""

    def run(self):
        everything = {**os.environ, **self.environment}
        done = subprocess.run(
            self.command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=everything
        )
        lines = done.stdout.splitlines()
        begun = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]
        lines = [line for line in lines if not line.startswith("RUN ")]
        counts = [line for line in lines if re.search(r"\d+ (passed|failed|error|skipped)", line)]
        self.counts = count_of(counts, done.returncode)
        self.skips = [line for line in lines if re.match(r"SKIP(PED)? ", line)]
        failed = self.counts["failed"]
        self.failures = [
            self.alone(m[1] or m[2]) for m in map(re.compile(r"FAIL (\S+)|FAILED (\S+)").match, lines) if m
        ]
        died_in = begun[-1] if begun and not counts else ""
        if died_in:
            lines.append(f"it ended inside of {died_in}")
        if failed and not self.failures:
            self.failures = [self.alone(died_in)]
        if done.returncode < 0:
            lines.append(f"ended by {signal.Signals(-done.returncode).name}")
        elif failed:
            lines.append(f"exit status {done.returncode}")
        if failed:
            self.ending = "\n".join(lines[-ENDING:])
        shown = "\n".join(lines) + "\n" if failed or self.is_python else ""
        if self.counts.total():
            print(f"== {self.title}\n{shown}   {sentence(self.counts)}\n", end="", flush=True)

    def alone(self, test):
        """The command that runs one of its tests alone."""
        set_first = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        command = [sys.executable, "-m", "pytest"] if self.is_python else self.command
        return " ".join([*set_first, shlex.join([*command, test] if test else command)])


def count_of(lines, status):
    """Counts of a suite from the last line that has some. One that died after its count, or at exit (a leak), has
    failed."""
    if status == NOTHING_CHOSEN:
        return Counter()
    if not lines:
        return Counter(passed=int(status == 0), failed=int(status != 0))
    found = Counter()
    for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", lines[-1]):
        found["failed" if word == "error" else word] += int(number)
    if status and not found["failed"]:
        found["failed"] = 1
    return found


def sentence(counts):
    return ", ".join(f"{counts[word]} {word}" for word in ("passed", "failed", "skipped"))


def stage_environment(stage):
    package = next(Path(stage).rglob("_mithril*.so")).parent.parent
    import scipy_openblas32

    return {"PYTHONPATH": str(package.resolve()), "LD_LIBRARY_PATH": scipy_openblas32.get_lib_dir()}


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--build", action="append", default=[], help="a build directory with C tests and examples; may be repeated"
    )
    options.add_argument(
        "--threads", action="append", default=[], help="the same, but only what runs on several threads"
    )
    options.add_argument("--python", action="store_true", help="pytest of tests/python")
    options.add_argument("--layering", action="store_true", help="tools/layering.py")
    options.add_argument("--install", action="store_true", help="tools/check_install.py on each build")
    options.add_argument("--stage", help="take the Python package from this installation tree")
    options.add_argument("--only", metavar="NAME", help="only suites or tests whose names contain this")
    options.add_argument("--targets", action="store_true", help="print what must be built for the suites, and end")
    given = options.parse_args()
    suites = []
    if given.python:
        files = sorted(ROOT.glob("tests/python/test_*.py"), key=lambda file: -file.stat().st_size)
        command = [sys.executable, "-m", "pytest", "-q", "-rsfE", "--tb=short", "-p", "no:cacheprovider"]
        environment = stage_environment(given.stage) if given.stage else {}
        for i in range(PARTS):
            part = [file.relative_to(ROOT) for file in files[i::PARTS]]
            suites.append(Suite(f"python/{i + 1}", [*command, *part], environment, 1000))
    for build in map(Path, [*given.build, *given.threads]):
        tests = json.loads((build / "meson-info" / "intro-tests.json").read_text())
        if not tests:
            suites.append(Suite(f"{build} holds no tests", ["false"]))
        for test in tests:
            if str(build) not in given.threads or re.fullmatch(THREADED, test["name"]):
                title, environment = f"{build.name}/{test['name']}", {**sanitized(build, test["name"]), **test["env"]}
                suites.append(Suite(title, test["cmd"], environment, test["priority"]))
    for build in given.build if given.install else []:
        suites.append(Suite(f"{build}/install", [sys.executable, "tools/check_install.py", build]))
    if given.layering:
        library = [lib for build in given.build for lib in Path(build).glob("libmithril.so")]
        suites.append(Suite("layering", [sys.executable, "tools/layering.py", *library[:1]]))
    if given.only:
        suites = [suite for suite in suites if chosen(suite, given.only)]
    if given.targets:
        print(*sorted({Path(suite.command[0]).name for suite in suites}))
        return 0
    suites.sort(key=lambda suite: -suite.priority)  # what takes long is begun first, so that no core is idle at the end
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(Suite.run, suites))
    total = sum((suite.counts for suite in suites), Counter())
    for suite in suites:
        for line in suite.skips:
            print(f"{suite.title}: {line}")
    for suite in suites:
        if suite.ending:
            print(f"== the end of {suite.title}\n{suite.ending}")
    for suite in suites:
        for command in suite.failures:
            print(f"failed in {suite.title}; alone: {command}")
    print(sentence(total))
    return total["failed"] != 0 or not total["passed"]


def chosen(suite, name):
    """Is the suite itself asked for, or may it hold a test of that name, which it is then told to look for?"""
    if name in suite.title:
        return True
    if suite.is_python:
        suite.command += ["-k", name]
    elif "/test_" in suite.title:
        suite.command.append(name)
    else:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
