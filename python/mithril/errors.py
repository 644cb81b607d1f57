"""What mithril raises. Each class is also the Python one that fits, so that `except ValueError` works as ever."""

import errno
from typing import Self


class MithrilError(Exception):
    """What is wrong, and what mends it.

    what: one sentence. fix: what mends it. op: the operator, "linear_0", or "". tensors: texts such as
    "weight: float32 (2048, 512), sharded (0, None) over mesh (4,)". str() of the error is all of them.
    """

    def __init__(
        self, message: str, what: str = "", fix: str = "", op: str = "", tensors: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.message, self.what, self.fix, self.op, self.tensors = message, what or message, fix, op, tuple(tensors)

    @classmethod
    def advise(cls, what: str, fix: str) -> Self:
        return cls(f"{what}\n  fix: {fix}", what, fix)

    def __str__(self) -> str:
        return self.message  # KeyError would print its repr

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.what, self.fix, self.op, self.tensors)


class MithrilValueError(MithrilError, ValueError):
    """A value out of its domain: a shape, a size, an axis; a file that can't be read; what an engine does not have."""


class MithrilFileError(MithrilValueError, OSError):
    """A file that the system refuses: errno says why. Where Python has a class for that, such as FileNotFoundError, it
    is this one too."""

    def __init__(
        self, message: str, what: str = "", fix: str = "", op: str = "", tensors: tuple[str, ...] = (), number: int = 0
    ) -> None:
        super().__init__(message, what, fix, op, tensors)
        self.errno = number

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.what, self.fix, self.op, self.tensors, self.errno)


class MithrilFileNotFoundError(MithrilFileError, FileNotFoundError):
    """There is no such file."""


class MithrilPermissionError(MithrilFileError, PermissionError):
    """The file may not be read or written by this user."""


class MithrilIsADirectoryError(MithrilFileError, IsADirectoryError):
    """A folder where a file is expected."""


class MithrilNotADirectoryError(MithrilFileError, NotADirectoryError):
    """A file where a folder is expected."""


_BY_ERRNO = {
    errno.ENOENT: MithrilFileNotFoundError,
    errno.EACCES: MithrilPermissionError,
    errno.EPERM: MithrilPermissionError,
    errno.EISDIR: MithrilIsADirectoryError,
    errno.ENOTDIR: MithrilNotADirectoryError,
}


def _file_error(message: str, what: str, fix: str, op: str, tensors: tuple[str, ...], number: int) -> MithrilFileError:
    return _BY_ERRNO.get(number, MithrilFileError)(message, what, fix, op, tensors, number)


class MithrilTypeError(MithrilError, TypeError):
    """A wrong kind of argument or dtype, an unknown keyword."""


class MithrilKeyError(MithrilError, KeyError):
    """An unknown or missing name of an input, a parameter or an output."""


class MithrilImportError(MithrilError, ModuleNotFoundError):
    """A name or a submodule that this version does not have, or that is elsewhere than in the published Mithril
    package."""


class MithrilAttributeError(MithrilError, AttributeError):
    """An attribute that there is not, or that is written in another way here than in the published Mithril package."""


class MithrilMemoryError(MithrilError, MemoryError):
    """An allocation failed."""


class MithrilInternalError(MithrilError, RuntimeError):
    """A defect of mithril; the message tells the place in its source."""
