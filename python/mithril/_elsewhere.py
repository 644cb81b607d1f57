"""What this package says of names that it has not: attributes of its modules, and imports from them.

Python makes `from mithril import Tensor` into an ImportError of its own where the attribute is not found; before that
it looks for a submodule of the name. So imports are answered there, by a finder that stands behind all others."""

import sys
from collections.abc import Sequence
from typing import Any

from ._mithril import _absent
from .errors import MithrilAttributeError, MithrilImportError

_PLACES = {"mithril": ("package", "ml.modules names the modules that there are"), "mithril.backends": ("backends", "")}


def _advice(module: str, name: str) -> tuple[str, str]:
    """What is wrong with a name, and what mends it."""
    place, otherwise = _PLACES[module]
    if absent := _absent(place, name):
        why, fix = absent
    else:
        import difflib

        names = sys.modules[module].__all__
        near = difflib.get_close_matches(name, names, 1)
        prefix = "ml." if module == "mithril" else ""
        why = "is not in this version"
        fix = f"did you mean {prefix}{near[0]}?" if near else otherwise or f"there are {', '.join(names)}"
    return f"{module}.{name} {why}", fix


def attribute_error(module: str, name: str) -> AttributeError:
    """What a module's __getattr__ raises: of names with an underscore, which protocols ask for, Python's own."""
    if name.startswith("_"):
        return AttributeError(f"module '{module}' has no attribute '{name}'")
    return MithrilAttributeError.advise(*_advice(module, name))


class Finder:
    """Refuses what can't be imported from mithril: names that the table of absent things has, and names of classes."""

    @classmethod
    def find_spec(cls, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        module, _, name = fullname.rpartition(".")
        if module not in _PLACES or not (_absent(_PLACES[module][0], name) or name[:1].isupper()):
            return
        raise MithrilImportError.advise(*_advice(module, name))


def install() -> None:
    """Puts the finder behind all others; once, however often the package is imported anew."""
    sys.meta_path[:] = [
        f for f in sys.meta_path if getattr(f, "__module__", None) != __name__ or getattr(f, "__name__", "") != "Finder"
    ]
    sys.meta_path.append(Finder)
