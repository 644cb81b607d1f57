"""Where models run: a backend is an engine, opened on a mesh of devices."""

import contextlib
import importlib
import os
import pathlib
import sys
from typing import Any

from ._elsewhere import attribute_error
from ._mithril import Backend, _backend_option_doc

__all__ = ["Backend", "CBackend", "JaxBackend", "ReferenceBackend", "TorchBackend"]
__path__: list[
    str
] = []  # no folder: Python then asks finders of what it is to import from here, and _elsewhere's answers


def _doc(text: str, engine: str) -> str:
    return f"{text}\n\nOptions:\n" + "".join(
        f"    {line}\n" for line in (_backend_option_doc(engine) or "").splitlines()
    )


def _folders(path: list[object]) -> list[str]:
    """The entries of sys.path that are folders. Python too passes over what is no str; some texts are no names of
    files."""

    def is_name(entry: str) -> bool:
        try:
            return bool(entry) and b"\0" not in os.fsencode(entry)
        except UnicodeEncodeError:
            return False

    return [entry for entry in path if isinstance(entry, str) and is_name(entry)]


class CBackend(Backend):
    __doc__ = _doc("The native engine: this machine's cores, as any number of devices.", "native")
    __slots__ = ()
    _engine = "native"


class JaxBackend(Backend):
    __doc__ = _doc(
        "XLA, through a plugin of the PJRT C API: `pip install \"mithril-parallel[jax]\"` brings the CPU's, "
        "[tpu] and [cuda] theirs; jax itself is not\nneeded. device_mesh sets the number of CPU devices.",
        "pjrt",
    )
    __slots__ = ()
    _engine = "pjrt"

    def __new__(cls, *args: object, **options: object) -> "JaxBackend":
        options.setdefault("site_packages", [pathlib.Path(folder) for folder in _folders(sys.path)])
        return super().__new__(cls, *args, **options)


class TorchBackend(Backend):
    __doc__ = _doc(
        "The torch that is installed (2.10 or newer), through its C ABI: this machine's cores, as any number of "
        "devices, a thread each.\nArrays that lie whole are torch.Tensors, and so is the data of shards: "
        '`pip install "mithril-parallel[torch]"`.',
        "torch",
    )
    __slots__ = ()
    _engine = "torch"

    def __new__(cls, *args: object, **options: object) -> "TorchBackend":
        with contextlib.suppress(ImportError):  # the engine finds none either, and says what to install
            importlib.import_module("torch")
        options.setdefault("site_packages", [pathlib.Path(folder) for folder in _folders(sys.path)])
        return super().__new__(cls, *args, **options)

    @staticmethod
    def _crossing_tensor(array: Any, dtype: str) -> Any:
        """What hooks are given: a torch.Tensor, in the dtype of what crosses."""
        torch = importlib.import_module("torch")
        return torch.from_numpy(array).to(getattr(torch, dtype))


class ReferenceBackend(Backend):
    __doc__ = _doc(
        "The reference: naive, in double precision inside, integers in 64 bits. Slow; what other engines are tested "
        "against.",
        "reference",
    )
    __slots__ = ()
    _engine = "reference"


def __getattr__(name: str) -> object:
    raise attribute_error("mithril.backends", name)
