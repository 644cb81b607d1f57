"""Memory that says anything of itself: DLPack capsules and exporters of the buffer protocol, made by hand."""

import ctypes
from ctypes import (
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_ssize_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    py_object,
)

import pytest

from mithril.errors import MithrilTypeError, MithrilValueError

CPU = 1
CODES = {"i": 0, "u": 1, "f": 2}  # by numpy's dtype.kind
BFLOAT, COMPLEX, BOOL = 4, 5, 6
READ_ONLY, IS_COPIED = 1, 2
NAMES = {False: b"dltensor", True: b"dltensor_versioned"}
USED = {False: b"used_dltensor", True: b"used_dltensor_versioned"}

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = py_object, [c_void_p, c_char_p, c_void_p]
capsule_name = ctypes.pythonapi.PyCapsule_GetName
capsule_name.restype, capsule_name.argtypes = c_char_p, [py_object]
capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype, capsule_pointer.argtypes = c_void_p, [py_object, c_char_p]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("rank", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class Plain(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", c_void_p), ("deleter", c_void_p)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("context", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", Tensor),
    ]


DELETER = ctypes.CFUNCTYPE(None, c_void_p)


def describe(array, **lies):
    """The tensor of a numpy array; `lies` replace what it says: shape and strides by lists or None."""
    shape = lies.pop("shape", array.shape)
    strides = lies.pop("strides", [s // array.itemsize for s in array.strides])
    numbers = lambda items: (c_int64 * len(items))(*items) if items is not None else None
    fields = dict(
        data=array.ctypes.data,
        device_type=CPU,
        rank=array.ndim,
        code=BOOL if array.dtype == bool else CODES.get(array.dtype.kind, COMPLEX),
        bits=8 * array.itemsize,
        lanes=1,
        shape=numbers(shape),
        strides=numbers(strides),
    )
    return Tensor(**{**fields, **lies})


class Producer:
    """Gives one capsule after another of a tensor, and counts those that were freed by their consumers."""

    lent = []  # a consumer has no reference to the producer, whose memory and deleter it uses

    def __init__(self, array, versioned=False, major=1, deleter=True, **lies):
        self.array, self.versioned, self.freed = array, versioned, 0
        self.deleter = DELETER(self.count)
        tensor, pointer = describe(array, **lies), ctypes.cast(self.deleter, c_void_p) if deleter else None
        self.managed = (
            Versioned(major=major, deleter=pointer, tensor=tensor)
            if versioned
            else Plain(tensor=tensor, deleter=pointer)
        )
        self.capsules = []

    def count(self, managed):
        assert managed == ctypes.addressof(self.managed)
        self.freed += 1

    def __dlpack__(self, **options):
        if options and not self.versioned:
            raise TypeError("no keyword is known")
        self.lent.append(self)
        self.capsules.append(new_capsule(ctypes.addressof(self.managed), NAMES[self.versioned], None))
        return self.capsules[-1]


def tensor_of(capsule):
    """What a capsule that nobody has consumed says: its tensor, and its flags (None where it can't have any)."""
    name = capsule_name(capsule)
    kind = Versioned if name == NAMES[True] else Plain
    managed = kind.from_address(capsule_pointer(capsule, name))
    return managed.tensor, getattr(managed, "flags", None)


# ---------------------------------------------------------------- the buffer protocol
class Buffer(ctypes.Structure):
    _fields_ = [
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", c_ssize_t),
        ("itemsize", c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", ctypes.POINTER(c_ssize_t)),
        ("strides", ctypes.POINTER(c_ssize_t)),
        ("suboffsets", ctypes.POINTER(c_ssize_t)),
        ("internal", c_void_p),
    ]


class _Slot(ctypes.Structure):
    _fields_ = [("id", c_int), ("function", c_void_p)]


class _Spec(ctypes.Structure):
    _fields_ = [
        ("name", c_char_p),
        ("basicsize", c_int),
        ("itemsize", c_int),
        ("flags", ctypes.c_uint),
        ("slots", ctypes.POINTER(_Slot)),
    ]


_GET = ctypes.PYFUNCTYPE(c_int, py_object, ctypes.POINTER(Buffer), c_int)
_kept = []  # what the type points at
_says = {}  # what each exporter says, by its address


def _get(exporter, out, flags):
    out[0] = _says[id(exporter)]
    ctypes.pythonapi.Py_IncRef(py_object(exporter))
    out[0].obj = id(exporter)
    return 0


def _make_type():
    get = _GET(_get)
    slots = (_Slot * 2)(_Slot(1, ctypes.cast(get, c_void_p)), _Slot(0, None))
    spec = _Spec(b"foreign.Exporter", object.__basicsize__, 0, 0, slots)
    make = ctypes.pythonapi.PyType_FromSpec
    make.restype, make.argtypes = py_object, [ctypes.POINTER(_Spec)]
    _kept.extend([get, slots, spec])
    return make(ctypes.byref(spec))


Exporter = _make_type()


def export(array, **lies):
    """An object with the buffer of a numpy array, but for the lies: shape, strides and suboffsets by lists or None."""
    numbers = lambda items: (c_ssize_t * len(items))(*items) if items is not None else None
    lists = {"shape": array.shape, "strides": array.strides, "suboffsets": None}
    fields = dict(buf=array.ctypes.data, len=array.nbytes, itemsize=array.itemsize, readonly=1, ndim=array.ndim)
    fields["format"] = memoryview(array).format.encode()
    said = {**fields, **{name: lies.pop(name, given) for name, given in lists.items()}, **lies}
    exporter = Exporter()
    _says[id(exporter)] = Buffer(**{name: numbers(value) if name in lists else value for name, value in said.items()})
    _kept.append((exporter, array))
    return exporter


# ---------------------------------------------------------------- errors
def refused(make, *patterns):
    """The error of mithril that `make` raises: it names what is wrong, and what mends it."""
    with pytest.raises((MithrilTypeError, MithrilValueError)) as caught:
        make()
    error = caught.value
    assert error.what and error.fix and error.fix in str(error)
    for pattern in patterns:
        assert pattern in str(error)
    return error
