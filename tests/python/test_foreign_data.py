"""Memory of other libraries: what it says of itself is checked; and ours in their hands: nobody writes into an
array."""

import ctypes
import gc
import sys

import numpy as np
import pytest

import foreign
from foreign import BFLOAT, BOOL, COMPLEX, IS_COPIED, READ_ONLY, Producer, export, refused, tensor_of
from support import random

X = random(6, 8)
LOW, HIGH = -(2**63), 2**63 - 1


# ---------------------------------------------------------------- memory that is described truly
TRUE = {
    "matrix": X,
    "reversed": X[::-1, ::-1],
    "every other": X[::2, 1::3],
    "transposed": X.T,
    "broadcast": np.broadcast_to(X[:1], (7, 8)),
    "number": np.array(3, np.float32),
    "empty": X[:0],
    "empty inside": np.zeros((3, 0, 2), np.float32),
    "eight dimensions": X[:2, :2].reshape((2, 1, 1, 1, 2, 1, 1, 1)),
    "doubles": X.astype(np.float64),
    "halves": X.astype(np.float16),
    "longs": np.arange(-6, 6).reshape(3, 4),
    "bytes": np.arange(250, 256, dtype=np.uint8),
    "truths": X > 0,
}


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("name", TRUE)
def test_capsules(backend, relu, name, versioned):
    """The consumer renames the capsule and calls its deleter once, when it has done with the memory."""
    given = TRUE[name]
    producer = Producer(given, versioned)
    assert np.array_equal(np.asarray(backend.array(producer)), given)
    if given.dtype.kind == "f" and given.size:
        assert np.array_equal(
            np.asarray(relu.evaluate({}, {"x": producer})["y"]), np.maximum(given, 0).astype(np.float32)
        )
    gc.collect()
    assert producer.freed == len(producer.capsules)
    assert {foreign.capsule_name(c) for c in producer.capsules} == {foreign.USED[versioned]}


@pytest.mark.parametrize("name", TRUE)
def test_buffers(backend, name):
    assert np.array_equal(np.asarray(backend.array(export(TRUE[name]))), TRUE[name])


def test_memory_without_strides(backend):
    """NULL strides are row-major; a scalar has no shape either; where there is no element there need be no memory."""
    assert backend.array((ctypes.c_float * 4)(1, 2, 3, 4)).tolist() == [1, 2, 3, 4]
    assert backend.array((ctypes.c_int64 * 3 * 2)((1, 2, 3), (4, 5, 6))).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert backend.array(ctypes.c_double(2.5)).item() == 2.5
    for given in (Producer(X, strides=None), export(X, strides=None)):
        assert np.array_equal(np.asarray(backend.array(given)), X)
    for given in (Producer(X[:0], data=None, strides=None), export(X[:0], buf=None, strides=None)):
        assert backend.array(given).shape == (0, 8)
    assert backend.array(Producer(np.array(3, np.float32), shape=None, strides=None)).item() == 3


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2", ">i2", ">i4", ">i8", ">u2", ">u8", "<i4", "=u4"])
def test_byte_order(backend, dtype):
    given = np.array([[1, 2, 300], [7, 40, 127]], dtype)[:, ::2]
    assert np.array_equal(np.asarray(backend.array(given)), given)


def test_addresses_that_are_not_multiples_of_the_size(backend, relu):
    given = np.frombuffer(b"x" + X.tobytes(), np.float32, offset=1).reshape(X.shape)
    assert np.array_equal(np.asarray(backend.array(given)), X)
    assert np.array_equal(np.asarray(relu.evaluate({}, {"x": given})["y"]), np.maximum(X, 0))


def test_truths_of_other_bytes(backend):
    assert np.asarray(backend.array(np.array([0, 1, 2, 255], np.uint8).view(bool))).view(np.uint8).tolist() == [
        0,
        1,
        1,
        1,
    ]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint64"])
def test_integers_are_rounded_once(backend, dtype):
    """To float32 as NumPy does it: by way of float64 the ties would be rounded twice."""
    top = np.iinfo(dtype).max
    near = [t + d for e in range(24, 64) for t in (2**e + 2 ** (e - 24), 2**e) for d in (-1, 0, 1) if t + d <= top]
    given = np.array(near + [0, 1, top], dtype)
    assert np.array_equal(np.asarray(backend.array(given, dtype="float32")), given.astype(np.float32))
    assert np.array_equal(np.asarray(backend.array(given, dtype="float64")), given.astype(np.float64))


def test_numbers_that_do_not_fit(backend):
    for given, dtype in ((2**63, "int64"), (2**64 - 1, None), (2**31, "int32")):
        refused(lambda: backend.array(np.array([1, given], np.uint64), dtype), str(given), "does not fit")
    refused(lambda: backend.array(np.array([-(2**31) - 1]), "int32"), "-2147483649")
    assert backend.array(np.uint64(2**31 - 1), "int32").item() == 2**31 - 1
    assert backend.array(np.array([2**63, 0], np.uint64), "bool").tolist() == [True, False]


# ---------------------------------------------------------------- lies
LIES = {
    "rank below zero": dict(rank=-1),
    "rank above all": dict(rank=2**31 - 1),
    "rank of nine": dict(rank=9, shape=[1] * 9, strides=[1] * 9),
    "no shape": dict(shape=None),
    "no memory": dict(data=None),
    "no memory but an offset": dict(data=None, byte_offset=4096),
    "size below zero": dict(shape=[6, -8]),
    "the lowest size": dict(shape=[LOW, 8]),
    "two sizes below zero": dict(shape=[-6, -8]),
    "product that wraps to zero": dict(shape=[2**32, 2**32], strides=[0, 0]),
    "product that wraps to one": dict(shape=[2**33 + 1, 2**32 * (2**31 - 1) + 1], strides=[0, 0]),
    "product of all bits": dict(shape=[HIGH, HIGH], strides=[0, 0]),
    "nothing of a size that is none": dict(shape=[0, HIGH, HIGH], rank=3, strides=[0, 0, 0]),
    "stride that wraps": dict(strides=[HIGH, 1]),
    "stride that wraps in bytes": dict(strides=[2**62, 1]),
    "stride to the other end": dict(strides=[LOW, 1]),
    "strides that wrap together": dict(strides=[2**58, 2**57]),
    "below address zero": dict(data=64, strides=[-8, 1]),
    "behind the last address": dict(data=2**64 - 64),
    "in the first page": dict(data=8),
    "above what programs have": dict(data=2**63),
    "an offset above what programs have": dict(byte_offset=2**56),
    "an offset of all of them": dict(byte_offset=2**63),
    "strides that reach above what programs have": dict(strides=[2**45, 1]),
    "a stride to the last address": dict(strides=[2**58, 1]),
    "strides down to the first page": dict(data=4096 + 64, strides=[-8, 1]),
    "offset that wraps": dict(byte_offset=2**64 - 1),
    "nine bits": dict(bits=9),
    "no bits": dict(bits=0),
    "a float of 8 bits": dict(bits=8),
    "bfloat16 of 32 bits": dict(code=BFLOAT),
    "bool of 32 bits": dict(code=BOOL),
    "complex": dict(code=COMPLEX, bits=64),
    "unknown code": dict(code=200),
    "four lanes": dict(lanes=4),
    "no lanes": dict(lanes=0),
    "another device": dict(device_type=2),
    "unknown device": dict(device_type=-7),
}


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("name", LIES)
def test_capsules_that_lie(backend, relu, name, versioned):
    producer = Producer(X, versioned, **LIES[name])
    refused(lambda: backend.array(producer), "data ")
    refused(lambda: relu.evaluate({}, {"x": producer}), "inputs['x']")
    assert producer.freed == 2, "the tensor was taken, so it is freed"


BUFFER_LIES = {
    "rank below zero": dict(ndim=-1),
    "rank above all": dict(ndim=2**31 - 1),
    "no shape": dict(shape=None),
    "no memory": dict(buf=None),
    "size below zero": dict(shape=[6, -8]),
    "two sizes below zero": dict(shape=[-6, -8]),
    "product that wraps to zero": dict(shape=[2**32, 2**32], strides=[0, 0], len=0),
    "product that wraps": dict(shape=[2**33 + 1, 2**32 * (2**31 - 1) + 1], strides=[0, 0]),
    "length of others": dict(len=4),
    "length of more": dict(shape=[7, 8]),
    "stride that wraps": dict(strides=[HIGH, 4]),
    "stride to the other end": dict(strides=[LOW, 4]),
    "strides that wrap together": dict(strides=[2**60, 2**59]),
    "below address zero": dict(buf=64, strides=[-32, 4]),
    "in the first page": dict(buf=8),
    "behind the last address": dict(buf=2**64 - 64),
    "strides that reach above what programs have": dict(strides=[2**47, 4]),
    "a stride to the last address": dict(strides=[2**59, 4]),
    "items of no bytes": dict(itemsize=0),
    "items of fewer bytes": dict(itemsize=2),
    "items of more bytes": dict(itemsize=2**40),
    "items below zero": dict(itemsize=-4),
    "doubles of four bytes": dict(format=b"d"),
    "standard longs of eight bytes": dict(format=b"=l", itemsize=8, shape=[6, 4], strides=[32, 8]),
    "no format": dict(format=None),
    "an empty format": dict(format=b""),
    "order alone": dict(format=b"<"),
    "two letters": dict(format=b"ff"),
    "counted": dict(format=b"1f"),
    "pairs": dict(format=b"T{f:x:}"),
    "pointers": dict(format=b"P", itemsize=8, shape=[6, 4], strides=[32, 8]),
    "characters": dict(format=b"c", itemsize=1, shape=[6, 32], strides=[32, 1]),
    "no standard size": dict(format=b"<n", itemsize=8, shape=[6, 4], strides=[32, 8]),
    "rows behind pointers": dict(suboffsets=[0, -1]),
}


@pytest.mark.parametrize("name", BUFFER_LIES)
def test_buffers_that_lie(backend, relu, name):
    exporter = export(X, **BUFFER_LIES[name])
    before = sys.getrefcount(exporter)
    refused(lambda: backend.array(exporter), "data ")
    refused(lambda: relu.evaluate({}, {"x": exporter}), "inputs['x']")
    assert sys.getrefcount(exporter) == before


def test_suboffsets_that_say_nothing(backend):
    assert np.array_equal(np.asarray(backend.array(export(X, suboffsets=[-1, -1]))), X)


EDGES = [LOW, -(2**62), -(2**32), -3, -1, 0, 1, 2, 3, 2**31, 2**32, 2**61, 2**62, HIGH]


def told_truly(shape, strides, size, room):
    """Whether elements of `size` bytes at the beginning of `room` bytes may have such a shape and strides (in
    elements). None: nobody can know, they are consistent and lie elsewhere."""
    count, low, high = 1, 0, 0
    if min(shape) < 0:
        return False
    for n in shape:
        count *= n or 1
    if size * count >= 2**62:
        return False
    if 0 in shape:
        return True
    for n, s in zip(shape, strides):
        reach = (n - 1) * s * size
        if n > 1 and (abs(reach) > 2**62 or abs(s * size) >= 2**63):
            return False
        low, high = low + min(reach, 0), high + max(reach, 0)
    if low < -(2**62) or high > 2**62 or high - low >= 2**48:  # more than programs have
        return False
    return True if low == 0 and high + size <= room else None


def test_random_lies(backend):
    """Headers drawn from the edges of 64 bits: an error where they contradict themselves, else the values."""
    draw = np.random.default_rng(5)
    memory = np.arange(16, dtype=np.float32)
    seen = {True: 0, False: 0}
    while min(seen.values()) < 150:
        rank = int(draw.integers(1, 4))
        shape, strides = ([EDGES[i] for i in draw.integers(0, len(EDGES), rank)] for _ in range(2))
        if draw.random() < 0.7:
            shape, strides = ([int(i) for i in draw.integers(0, 3, rank)] for _ in range(2))
        true = told_truly(shape, strides, 4, memory.nbytes)
        if true is None or (true and np.prod(shape, dtype=object) > 100) or seen[true] >= 300:
            continue
        seen[true] += 1
        in_bytes = [int(np.int64(np.uint64(s * 4 % 2**64))) for s in strides]
        length = int(np.prod(shape, dtype=object)) * 4
        makers = [Producer(memory, rank=rank, shape=shape, strides=strides)]
        if true and all(abs(s) < 2**60 for s in strides):
            makers.append(export(memory, ndim=rank, shape=shape, strides=in_bytes, len=length))
        for given in makers:
            if true:
                want = np.lib.stride_tricks.as_strided(
                    memory, shape, [s if n > 1 else 0 for s, n in zip(in_bytes, shape)]
                )
                assert np.array_equal(np.asarray(backend.array(given)), want)
            else:
                refused(lambda: backend.array(given))


def test_more_elements_than_memory(backend):
    """Of one byte, shown 2^62 times: refused before anything is allocated."""
    for shape in ((2**31, 2**31), (2**20,) * 3, (2**30, 2**30)):
        given = np.broadcast_to(np.int8(0), shape)
        refused(lambda: backend.array(given), "2^62 bytes")
    with pytest.raises(MemoryError):
        backend.array(np.broadcast_to(np.int8(0), (2**28, 2**28)))


def test_scalars_that_show_their_bytes(backend, relu):
    """numpy.datetime64 exports raw bytes, which are not its elements."""
    for given in (np.datetime64(1, "s"), np.timedelta64(3, "D"), np.array([1, 2], "M8[s]")):
        refused(lambda: backend.array(given), "astype")
        refused(lambda: relu.evaluate({}, {"x": given}), "inputs['x']")
        assert np.array_equal(np.asarray(backend.array(given.astype("int64"))), given.astype("int64"))


# ---------------------------------------------------------------- the protocol of capsules
class Gives:
    def __init__(self, *capsules):
        self.capsules = iter(capsules)

    def __dlpack__(self, **options):
        return next(self.capsules)


def test_a_capsule_is_used_once(backend):
    capsule = Producer(X).__dlpack__()
    producer = Gives(capsule, capsule)
    backend.array(producer)
    refused(lambda: backend.array(producer), "used before")


def test_other_things_in_place_of_a_capsule(backend):
    for thing in (5, None, X, foreign.new_capsule(1, b"tensor", None)):
        refused(lambda: backend.array(Gives(thing)), "gave no capsule")


def test_a_capsule_without_a_deleter(backend):
    assert np.array_equal(np.asarray(backend.array(Producer(X, deleter=False))), X)


def test_another_major_version(backend):
    producer = Producer(X, versioned=True, major=2)
    refused(lambda: backend.array(producer), "2.0")
    assert producer.freed == 1


def test_the_version_is_asked_for(backend):
    asked = []

    class Modern(Producer):
        def __dlpack__(self, **options):
            asked.append(options)
            return super().__dlpack__(**options)

    backend.array(Modern(X, versioned=True))
    backend.array(Modern(X))
    assert asked == [{"max_version": (1, 0)}, {"max_version": (1, 0)}, {}]


def test_a_reason_is_passed_on(backend):
    """The exception of an object that refuses becomes the cause; it is asked no second time."""
    asked = []

    class Refuses:
        def __dlpack__(self, **options):
            asked.append(options)
            raise RuntimeError("not today")

    error = refused(lambda: backend.array(Refuses()), "not today")
    assert isinstance(error.__cause__, RuntimeError) and asked == [{"max_version": (1, 0)}]


# ---------------------------------------------------------------- nobody writes into an array
def test_lent_memory_is_marked(backend):
    """A consumer of the whole protocol gets the memory with the mark, as NumPy; any other gets a copy of its own."""
    y = backend.array(X)
    where = np.asarray(y).ctypes.data
    view = np.from_dlpack(y)
    assert view.ctypes.data == where and not view.flags.writeable
    with pytest.raises(ValueError):
        view.flags.writeable = True
    whole = dict(max_version=(1, 0), dl_device=None, copy=None)
    tensor, flags = tensor_of(capsule := y.__dlpack__(**whole))
    assert tensor.data == where and flags == READ_ONLY and capsule
    for options in (
        {},
        {"stream": None},
        {"max_version": (1, 0)},
        {"max_version": (0, 8), "dl_device": None, "copy": None},
        {**whole, "copy": True},
    ):
        capsule = y.__dlpack__(**options)
        tensor, flags = tensor_of(capsule)
        assert (
            tensor.data != where
            and tensor.data % 64 == 0
            and flags == (IS_COPIED if options.get("max_version") == (1, 0) else None)
        )
        memory = (ctypes.c_float * X.size).from_address(tensor.data)
        assert np.array_equal(np.ctypeslib.as_array(memory).reshape(X.shape), X)
        memory[0] = 5
        assert np.array_equal(np.asarray(y), X)
        del memory, capsule
    for options in ({"copy": False}, {"max_version": (1, 0), "copy": False}, {**whole, "copy": False}):
        with pytest.raises(BufferError, match="read-only"):
            y.__dlpack__(**options)
    assert y.__array__(copy=False).ctypes.data == where
    assert np.from_dlpack(y, copy=True).flags.writeable


def test_a_sharded_array_is_copied_where_a_copy_is_asked_for(backend):
    y = backend.array(X, spec=(0, None))
    copy = np.from_dlpack(y, copy=True)
    assert np.array_equal(copy, X) and copy.flags.writeable
    copy[:] = 0
    for options in ({}, {"max_version": (1, 0)}, dict(max_version=(1, 0), dl_device=None, copy=None)):
        tensor, flags = tensor_of(capsule := y.__dlpack__(**options))
        assert flags == (IS_COPIED if options else None)
        (ctypes.c_float * X.size).from_address(tensor.data)[0] = 5
        del capsule
    assert np.array_equal(np.from_dlpack(y), X) and np.array_equal(np.asarray(y), X)
    with pytest.raises(BufferError, match="sharded.*leave copy=False out"):
        np.from_dlpack(y, copy=False)


def test_requests_that_are_none(backend):
    y = backend.array(X)
    for options in (
        dict(max_version=(1,)),
        dict(max_version=(2**70, 0)),
        dict(max_version=[1, 0]),
        dict(max_version=("1", "0")),
        dict(dl_device=(1.0, 0)),
        dict(dl_device=1),
    ):
        refused(lambda: y.__dlpack__(**options), "pairs of numbers")
    refused(lambda: y.__dlpack__(copy=np.array([1, 0])), "copy=")


def test_no_protocol_gives_writable_memory(backend):
    y = backend.array(X)
    for shared in (y, y.addressable_shards[0], y.addressable_shards[0].data, memoryview(y)):
        with pytest.raises((TypeError, BufferError)):
            ctypes.c_char.from_buffer(shared)
        assert memoryview(shared).readonly and not np.asarray(shared).flags.writeable
    empty = backend.zeros(0, 3)
    assert np.from_dlpack(empty).shape == np.from_dlpack(empty, copy=True).shape == (0, 3)


def test_fixes_of_elements_do_work(backend):
    """A cast is offered where it works, and what it gives is taken; else another way, which is one."""
    objects = lambda *elements: np.array([*elements, None], object)[:-1]
    for given in (objects(1, 2.5), objects("1.5", "2"), objects(*[7] * 3)):
        assert "numpy.asarray(x).astype" in refused(lambda: backend.array(given)).fix
        assert np.array_equal(np.asarray(backend.array(given.astype("float32"))), given.astype("float32"))
    endless = np.broadcast_to(objects(3), (2**40,))
    assert "numpy.asarray(x).astype" in refused(lambda: backend.array(endless)).fix
    lists = objects([1], [2, 3])
    assert "give x.tolist()" in refused(lambda: backend.array(lists)).fix
    assert np.array_equal(np.asarray(backend.array(objects([1, 0], [2, 3]).tolist())), [[1, 0], [2, 3]])
    given = objects(1 + 2j, 3)
    assert 'y.real and y.imag of y = numpy.asarray(x).astype("complex64")' in refused(lambda: backend.array(given)).fix
    parts = np.asarray(given).astype("complex64")
    assert np.array_equal(np.asarray(backend.array(parts.real)), [1, 3])
    assert np.array_equal(np.asarray(backend.array(parts.imag)), [2, 0])
    for given in (objects("a"), objects({}), (ctypes.POINTER(ctypes.c_int) * 2)(), np.array(["a"], "T")):
        assert refused(lambda: backend.array(given)).fix == "give numbers: no cast makes any of these elements"
    given = np.array(["1.5"], "T")
    assert "numpy.asarray(x).astype" in refused(lambda: backend.array(given)).fix
