"""Parameters from a safetensors file: each device reads its own slices."""

import os
from collections.abc import Mapping
from typing import Any

from ._mithril import Array, CompiledModel, _read_safetensors
from .errors import MithrilKeyError


def read_safetensors(
    compiled: CompiledModel, inputs: Mapping[str, Any] | None, path: str | os.PathLike[str], names: Mapping[str, str | tuple[str, bool]]
) -> dict[str, Array]:
    """The parameters of a compiled model, from a file.

    names maps each parameter to a tensor of the file, or to (tensor, transpose): a torch model stores a Linear's weight as (out, in),
    which is transposed here. A device reads the slices that it is to hold, and nothing else. `inputs` give the shapes, as for
    get_parameters.
    """
    layout = compiled.get_parameter_layout(inputs)
    for given, known, what, fix in (
        (layout, names, "has no tensor in `names`", "name a tensor of the file for it"),
        (names, layout, "is no parameter of the model", "leave it out; the parameters are: " + ", ".join(layout)),
    ):
        for name in given:
            if name not in known:
                text = f"read_safetensors: '{name}' {what}"
                raise MithrilKeyError(f"{text}\n  fix: {fix}", text, fix)
    parameters = {}
    for name, like in layout.items():
        entry = names[name]
        tensor, transpose = (entry, False) if isinstance(entry, str) else entry
        parameters[name] = _read_safetensors(like, os.fspath(path), tensor, transpose)
    return parameters
