#!/usr/bin/env python3
"""Writes the pages of the documentation that come from tables: docs/modules.md and docs/options.md from the library's
own, docs/errors.md from the texts that tests/python/test_errors.py holds to.

    python tools/generate_docs.py            writes them
    python tools/generate_docs.py --check    fails where they are stale
"""

import pathlib
import re
import sys

from generated import renew

import mithril as ml
from mithril import _mithril

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASES = ("error_cases.py", "error_cases_share.py", "error_cases_run.py", "error_cases_xla.py")
HEAD = "<!-- Written by tools/generate_docs.py: `make update-golden` renews it. -->\n"

MODULES = """# Modules

{head}
What a model is composed of. A class of `mithril` for each, with the same options in C: \
`mth_module_create("Linear", ...)`. Shapes are of
the whole tensors; `...` is any number of dimensions.

All modules take, beside their own options:

{common}

A port marked `?` may be left unwired, `*` takes several values. [guide.md](guide.md) shows them at work, \
[operators.md](operators.md) is
what they expand into.

{index}
"""

OPTIONS = """# Options

{head}
An option that is unknown, of a wrong type or out of its range is an error that says what would do; none is ignored. \
Modules have theirs in
[modules.md](modules.md).

## Backends

{backends}
## compile

`ml.compile(model, backend, ...)`, `mth_compile`:

{compile}

## Environment

- `MITHRIL_PJRT_PLUGIN_CPU`, `MITHRIL_PJRT_PLUGIN_CUDA`, `MITHRIL_PJRT_PLUGIN_TPU`: the path of the plugin of that \
platform, where JaxBackend's
  option `plugin` does not say; an empty text hides those that are installed.
- `MITHRIL_DUMP`: a directory into which each pass of a plan writes what it leaves: the graph, later the program \
([tour.md](tour.md)).
"""

ERRORS = """# Errors

{head}
Each error names what is wrong, the operator and the tensors where there are any, the line of your program, and a fix. \
In Python all are
`mithril.MithrilError`, with the parts `.what .fix .op .tensors`, and also the class that Python uses for the like:

{classes}

In C `mth_error_get_code` tells the classes apart.

Below are the mistakes that the tests make, with their texts to the letter (less the line of the program). \
Where a fix can be applied, the
tests apply it and see that it works.
"""


def plain(text: str) -> str:
    return re.sub(r"([*<])", r"\\\1", text)


def option_lines(text: str, without: tuple[str, ...] = ()) -> str:
    """A list from lines 'name: type = default: text'."""
    lines = re.findall(r"^\s*((\w+): [^:]+): (.*)$", text, re.M)
    return "\n".join(f"- `{head}`: {plain(doc)}" for head, name, doc in lines if name not in without)


def modules() -> str:
    rows = _mithril._module_types()
    text_of = {
        name: re.fullmatch(r"(.*?)\n\nPorts: (.*?)\n(?:Parameters: (.*?)\n)?Options:\n(.*)", doc, re.S)
        for name, _, _, doc in rows
    }
    names = [re.findall(r"^\s*(\w+):", text_of[name][4], re.M) for name, *_ in rows]
    common = tuple(option for option in names[0] if all(option in others for others in names))
    own = {name: option_lines(text_of[name][4], common) for name, *_ in rows}
    shared = "\n".join(
        line for line in option_lines(text_of[rows[0][0]][4]).splitlines() if line[3:].split(":")[0] in common
    )
    index = " · ".join(f"[{name}](#{name.lower()})" for name, *_ in rows)
    page = MODULES.format(head=HEAD, common=shared, index=index)
    for name, signature, _, _ in rows:
        about, ports, parameters, _ = text_of[name].groups()
        mine = re.sub(rf"(, )?({'|'.join(common)}): .*$", "", signature)
        page += f"\n## {name}\n\n`{name}({mine})`, ports `{ports}`\n\n{plain(about)}\n"
        if parameters:
            page += "\nParameters: " + ", ".join(f"`{p}`" for p in re.findall(r"[\w.]+ \([^)]*\)", parameters)) + "\n"
        page += f"\n{own[name]}\n" if own[name] else ""
    return page


def options() -> str:
    backends = ""
    for name, engine in (
        ("CBackend", "native"),
        ("JaxBackend", "pjrt"),
        ("TorchBackend", "torch"),
        ("ReferenceBackend", "reference"),
    ):
        doc = getattr(ml.backends, name).__doc__.split("\n\n")[0].replace("\n", " ")
        backends += f"### {name}\n\n{doc} In C: `mth_backend_create(\"{engine}\", ...)`.\n\n"
        backends += option_lines(_mithril._backend_option_doc(engine) or "") + "\n\n"
    return OPTIONS.format(
        head=HEAD, backends=backends.rstrip("\n") + "\n", compile=option_lines(_mithril._compile_option_doc())
    )


def errors() -> str:
    golden = (ROOT / "tests" / "golden" / "errors.txt").read_text(encoding="utf-8")
    texts = dict(part.split("\n", 1) for part in golden.rstrip("\n").removeprefix("== ").split("\n\n== "))
    cases = "".join((ROOT / "tests" / "python" / f).read_text(encoding="utf-8") for f in CASES)
    classes = [
        c
        for c in vars(ml.errors).values()
        if isinstance(c, type) and issubclass(c, ml.MithrilError) and c is not ml.MithrilError
    ]
    page = ERRORS.format(
        head=HEAD,
        classes="\n".join(
            f"- `{c.__name__}`, a `{c.__bases__[1].__name__}`: {' '.join(c.__doc__.split())}" for c in classes
        ),
    )
    for title, name in re.findall(r"^# -{20,} (.*)$|^def (\w+)\(fixed", cases, re.M):
        if title:
            page += f"\n## {title[0].upper()}{title[1:]}\n"
        elif name in texts:
            text = re.sub(r"^  at \w+\.py:N\n", "", texts.pop(name), flags=re.M)
            page += f"\n{name.replace('_', ' ')}:\n\n```console\n{text.rstrip()}\n```\n"
    assert not texts, f"cases without a place on the page: {', '.join(texts)}"
    return page


if __name__ == "__main__":
    pages = (("modules.md", modules), ("options.md", options), ("errors.md", errors))
    sys.exit(renew("generate_docs.py", ROOT / "docs", ((name, make()) for name, make in pages)))
