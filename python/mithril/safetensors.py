"""Parameters from a safetensors file: each device reads its own slices."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ._mithril import Array, CompiledModel, _read_safetensors
from .errors import MithrilError, MithrilTypeError


def _plain(value: object) -> object:
    """NumPy's truth values as Python's, which other options take too."""
    return bool(value) if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_") else value


def _source(parameter: str, entry: object) -> tuple[str, str, bool]:
    """What `names` says of a parameter: (parameter, tensor, whether it is transposed)."""
    match entry:
        case str():
            return parameter, entry, False
        case (str() as tensor, flag) if isinstance(entry, tuple) and isinstance(truth := _plain(flag), bool):
            return parameter, tensor, truth
        case (str() as tensor, str() as other) if isinstance(entry, tuple):
            raise _wrong_type(
                f"names[{parameter!r}] is ({tensor!r}, {other!r}), where the name of one tensor is expected, "
                "or (name, transpose)",
                f'give "{tensor}", or ("{tensor}", True) to transpose it',
            )
        case (str() as tensor, flag) if isinstance(entry, tuple):
            raise _wrong_type(
                f"names[{parameter!r}] is ({tensor!r}, x) with x of type {type(flag).__name__}, where a bool says "
                "whether to transpose",
                f'give "{tensor}", or ("{tensor}", True) to transpose it',
            )
        case tuple():
            raise _wrong_type(
                f"names[{parameter!r}] is a tuple that is not (name, transpose)",
                'give a str, or a tuple of a str and a bool: ("layer.weight", True)',
            )
    raise _wrong_type(
        f"names[{parameter!r}] is of type {type(entry).__name__}, where the name of a tensor is expected, "
        "or (name, transpose)",
        'give a str, or a tuple of a str and a bool: ("layer.weight", True)',
    )


def _wrong_type(what: str, fix: str) -> MithrilTypeError:
    text = f"read_safetensors: {what}"
    return MithrilTypeError(f"{text}\n  fix: {fix}", text, fix, "read_safetensors")


_Function = TypeVar("_Function", bound=Callable[..., Any])


def _named(function: _Function) -> _Function:
    """The errors of all that the function calls name it, where they name no operator; so do those of its arguments."""

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        try:
            return function(*args, **keywords)
        except MithrilError as error:
            if not error.op:
                error.op, error.message = function.__name__, f"{function.__name__}: {error.message}"
            raise
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next:  # not of the call itself
                raise
            text = str(error).removeprefix(f"{function.__name__}()").strip()
            raise _wrong_type(text, "the arguments are: compiled, inputs, path, names") from None

    return call  # type: ignore[return-value]


@_named
def read_safetensors(
    compiled: CompiledModel,
    inputs: Mapping[str, Any] | None,
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    names: Mapping[str, str | tuple[str, bool]],
) -> dict[str, Array]:
    """The parameters of a compiled model, from a file.

    names maps each parameter to a tensor of the file, or to (tensor, transpose): with True the tensor is transposed,
    since a torch model stores a Linear's weight as (out, in). A device reads the slices that it is to hold, and nothing
    else. `inputs` give the shapes, as for get_parameters. Of a model that compile's outputs= cut, names may have the
    parameters of the whole: what is not needed is not read. A file that lies about its tensors, or is cut short while
    it is read, is an error.
    """
    if not isinstance(names, Mapping):
        raise _wrong_type(
            f"names is of type {type(names).__name__}, where a mapping is expected",
            'give a dict: {"linear_0.weight": "layer.weight"}',
        )
    sources = [_source(parameter, entry) for parameter, entry in names.items()]
    return _read_safetensors(compiled, inputs, path, sources)
