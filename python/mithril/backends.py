"""Where models run: a backend is an engine, opened on a mesh of devices."""

from ._mithril import Backend, _backend_option_doc

__all__ = ["Backend", "CBackend", "ReferenceBackend"]


def _doc(text: str, engine: str) -> str:
    return f"{text}\n\nOptions:\n" + "".join(f"    {line}\n" for line in (_backend_option_doc(engine) or "").splitlines())


class CBackend(Backend):
    __doc__ = _doc("The native engine: this machine's cores, as any number of devices.", "native")
    __slots__ = ()
    _engine = "native"


class ReferenceBackend(Backend):
    __doc__ = _doc("The reference: naive and in double precision inside. Slow; what other engines are tested against.", "reference")
    __slots__ = ()
    _engine = "reference"


def __getattr__(name: str) -> object:
    if name in ("JaxBackend", "TorchBackend"):
        raise ImportError(f"this version of mithril has no {name}: its engine is CBackend; write CBackend(device_mesh=...) in its place")
    raise AttributeError(f"module 'mithril.backends' has no attribute '{name}'")
