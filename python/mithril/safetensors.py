"""Parameters from a safetensors file: each device reads its own slices."""

import os
from collections.abc import Mapping
from typing import Any

from ._mithril import Array, CompiledModel, _read_safetensors
from .errors import MithrilKeyError, MithrilTypeError


def _tensor_of(name: str, entry: object) -> tuple[str, bool]:
    """What `names` says of a parameter: the tensor, and whether it is transposed."""
    match entry:
        case str():
            return entry, False
        case (str() as tensor, bool() as transpose) if isinstance(entry, tuple):
            return tensor, transpose
    raise _wrong_type(
        f"names[{name!r}] is of type {type(entry).__name__}, where the name of a tensor is expected, or (name, transpose)",
        'give a str, or a tuple of a str and a bool: ("layer.weight", True)',
    )


def _wrong_type(what: str, fix: str) -> MithrilTypeError:
    text = f"read_safetensors: {what}"
    return MithrilTypeError(f"{text}\n  fix: {fix}", text, fix, "read_safetensors")


def read_safetensors(
    compiled: CompiledModel,
    inputs: Mapping[str, Any] | None,
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    names: Mapping[str, str | tuple[str, bool]],
) -> dict[str, Array]:
    """The parameters of a compiled model, from a file.

    names maps each parameter to a tensor of the file, or to (tensor, transpose): a torch model stores a Linear's weight as (out, in),
    which is transposed here. A device reads the slices that it is to hold, and nothing else. `inputs` give the shapes, as for
    get_parameters.
    """
    if not isinstance(names, Mapping):
        raise _wrong_type(
            f"names is of type {type(names).__name__}, where a mapping is expected", 'give a dict: {"linear_0.weight": "layer.weight"}'
        )
    layout = compiled.get_parameter_layout(inputs)
    for given, known, what, fix in (
        (layout, names, "has no tensor in `names`", "name a tensor of the file for it"),
        (names, layout, "is no parameter of the model", "leave it out; the parameters are: " + ", ".join(layout)),
    ):
        for name in given:
            if name not in known:
                text = f"read_safetensors: {name!r} {what}"
                raise MithrilKeyError(f"{text}\n  fix: {fix}", text, fix)
    tensors = {name: _tensor_of(name, names[name]) for name in layout}
    return {name: _read_safetensors(like, path, *tensors[name]) for name, like in layout.items()}
