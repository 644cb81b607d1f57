"""What mithril raises. Each class is also the Python one that fits, so that `except ValueError` works as ever."""


class MithrilError(Exception):
    """What is wrong, and what mends it.

    what: one sentence. fix: what mends it. op: the operator, "linear_0", or "". tensors: texts such as
    "weight: float32 (2048, 512), sharded (0, None) over mesh (4,)". str() of the error is all of them.
    """

    def __init__(self, message: str, what: str = "", fix: str = "", op: str = "", tensors: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message, self.what, self.fix, self.op, self.tensors = message, what or message, fix, op, tuple(tensors)

    def __str__(self) -> str:
        return self.message  # KeyError would print its repr

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.what, self.fix, self.op, self.tensors)


class MithrilValueError(MithrilError, ValueError):
    """A value out of its domain: a shape, a size, an axis; a file that can't be read; what an engine does not have."""


class MithrilTypeError(MithrilError, TypeError):
    """A wrong kind of argument or dtype, an unknown keyword."""


class MithrilKeyError(MithrilError, KeyError):
    """An unknown or missing name of an input, a parameter or an output."""


class MithrilMemoryError(MithrilError, MemoryError):
    """An allocation failed."""


class MithrilInternalError(MithrilError, RuntimeError):
    """A defect of mithril; the message tells the place in its source."""
