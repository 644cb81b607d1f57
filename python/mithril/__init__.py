"""Model parallelism: compose a model, plan how it runs on a mesh of devices, read the plan, run it.

    import mithril as ml
    from mithril.backends import CBackend

    model = ml.Model()
    model |= ml.Linear(64, weight_shard_spec=(None, 0))(input="input", output="h")
    model += ml.Relu()
    model += ml.Linear(16, weight_shard_spec=(0, None))(output="output")

    backend = CBackend(device_mesh=(4,))
    compiled = ml.compile(model, backend)
    inputs = {"input": backend.randn(8, 32)}
    params = compiled.get_parameters(inputs, seed=0)
    outputs = compiled.evaluate(params, inputs)
    print(compiled.program_text())

The classes of modules come from the library's own table; help(ml.Linear) tells options, ports and parameters.
"""

from typing import Any


def _check_memory():
    """OpenBLAS ends the process where memory lacks while it is loaded. So what it takes is tried before: a buffer of
    32 MiB and a stack for each core."""
    import mmap, os

    size = (64 + 40 * (len(os.sched_getaffinity(0)) - 1)) << 20
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError) as error:
        raise ImportError(
            f"mithril can't be loaded: there is no room for the {size >> 20} MiB of addresses that OpenBLAS takes\n"
            "  fix: raise the limit of the process (ulimit -v), or free memory"
        ) from error


_check_memory()
try:
    from . import _mithril
except (
    ImportError
) as _error:  # OpenBLAS is looked for beside this package; it may be installed in another folder of sys.path
    if "openblas" not in str(_error):
        raise
    import ctypes
    import pathlib
    import scipy_openblas32

    for _file in pathlib.Path(scipy_openblas32.get_lib_dir()).glob("libscipy_openblas*"):
        ctypes.CDLL(str(_file), ctypes.RTLD_GLOBAL)
    from . import _mithril
from ._mithril import Array, Block, CompiledModel, Model, Module, Shard, __version__, compile, reprint_plan, verify_plan
from . import _elsewhere, backends, errors
from .errors import MithrilError
from .safetensors import read_safetensors

modules = tuple(name for name, *_ in _mithril._module_types())
"""The names of the classes of modules."""
globals().update({name: getattr(_mithril, name) for name in modules})

__all__ = [
    "Array",
    "Block",
    "CompiledModel",
    "IOKey",
    "MithrilError",
    "Model",
    "Module",
    "Shard",
    "__version__",
    "backends",
    "compile",
    "errors",
    "modules",
    "read_safetensors",
    "reprint_plan",
    "verify_plan",
    *modules,
]


def _warn_of_namesake() -> None:
    """PyPI has another distribution, called mithril, whose files lie in the same folder: the one installed last is
    imported.

    Its metadata is looked for by name: importlib.metadata takes longer to import than this package."""
    import os
    import sys

    for folder in sys.path:
        try:
            names = os.listdir(folder or os.curdir)
        except (OSError, TypeError):  # a zip file, or nothing that import would take either
            continue
        for name in names:
            stem, kind = os.path.splitext(name)
            if not name.lower().startswith("mithril-") or kind not in (".dist-info", ".egg-info"):
                continue
            import warnings

            warnings.warn(
                f"the distribution 'mithril' {stem[8:].split('-')[0]} is installed beside 'mithril-parallel' "
                f"{__version__}, which this package is of: both are imported as mithril, and installing or upgrading "
                "either can replace the other's files\n"
                "  fix: pip uninstall -y mithril && pip install --force-reinstall --no-deps mithril-parallel",
                stacklevel=3,
            )
            return


_warn_of_namesake()
del _warn_of_namesake


def _operation(text: str) -> Any:
    return lambda *operands: _mithril._operation(text)


class IOKey(str):
    """The name of a connection. A str says the same, but for expose=True: it then stays an output of its model though
    blocks read it.

    An exposed connection of a submodel is a port of it, one of a stage a port of the Pipeline. An input can't be
    exposed.
    """

    __slots__ = ("expose",)
    expose: bool

    def __new__(cls, name: str | None = None, *others: object, expose: bool = False, **keywords: object) -> "IOKey":
        for keyword in keywords:
            why, fix = _mithril._absent("key", keyword) or (
                "is unknown",
                'give the name, and expose=True where it is to be an output',
            )
            raise errors.MithrilTypeError.advise(f"IOKey: the keyword '{keyword}' {why}", fix)
        if others or not isinstance(name, str):
            raise errors.MithrilTypeError.advise(
                "IOKey takes a name, a str, and expose=True or False", 'write IOKey("x"), or IOKey("x", expose=True)'
            )
        if not isinstance(expose, bool):
            raise errors.MithrilTypeError.advise(f"IOKey: expose={expose!r} is not a bool", "give expose=True or False")
        key = super().__new__(cls, name)
        key.expose = expose
        return key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        why, fix = _mithril._absent("key", name) or (
            "is nothing that a name has",
            "compose a module in its place in a model",
        )
        raise errors.MithrilAttributeError.advise(f"IOKey.{name} {why}", fix)

    def __mod__(self, values: object) -> str:
        return super().__mod__(values) if "%" in self else _mithril._operation("%")

    def __rmod__(self, text: object) -> str:
        return text % str(self) if isinstance(text, str) else _mithril._operation("%")

    # What a str would do with its characters is never meant, but where % puts them into a text.
    __add__ = __radd__ = _operation("+")
    __sub__ = __rsub__ = _operation("-")
    __neg__ = _operation("unary -")
    __pos__ = _operation("unary +")
    __invert__ = _operation("~")
    __abs__ = _operation("abs()")
    __mul__ = __rmul__ = _operation("*")
    __truediv__ = __rtruediv__ = _operation("/")
    __matmul__ = __rmatmul__ = _operation("@")
    __floordiv__ = __rfloordiv__ = _operation("//")
    __and__ = __rand__ = _operation("&")
    __or__ = __ror__ = _operation("|")
    __xor__ = __rxor__ = _operation("^")
    __lshift__ = __rlshift__ = _operation("<<")
    __rshift__ = __rrshift__ = _operation(">>")
    __pow__ = __rpow__ = _operation("**")
    __getitem__ = _operation("[]")


def __getattr__(name: str) -> Any:
    raise _elsewhere.attribute_error("mithril", name)


_elsewhere.install()
