"""The mistakes of test_errors.py, second part: shapes and dtypes, evaluate, sizes, files."""

import json
import os
import pickle
import struct

import numpy as np

import foreign
import mithril as ml
from error_cases import LINEAR, X, case, chain, run
from mithril.backends import CBackend
from support import compile_on, one_block, random


# ---------------------------------------------------------------- shapes and dtypes
@case
def shapes_that_do_not_multiply(fixed):
    model = ml.Model()
    model |= ml.MatMul()(inputs=["x", "z"], output="y")
    run(model, {"x": X, "z": random(6 if fixed else 5, 2)})


@case
def shapes_that_do_not_broadcast(fixed):
    model = ml.Model()
    model |= ml.Add()(inputs=["x", "z"], output="y")
    run(model, {"x": X, "z": random(4, 1 if fixed else 5)})


@case
def residual_of_another_width(fixed):
    model = ml.Model()
    model |= ml.Linear(6 if fixed else 7)(input="x", output="h")
    model |= ml.Add()(inputs=["x", "h"], output="y")
    run(model)


@case
def width_without_whole_heads(fixed):
    run(chain(ml.MultiHeadAttention(3 if fixed else 5)), {"x": random(2, 4, 6)})


@case
def key_heads_that_do_not_divide(fixed):
    ml.MultiHeadAttention(6, num_kv_heads=3 if fixed else 4)


@case
def mask_of_another_rank(fixed):
    mask = np.ones((2, 4) if fixed else (2, 1, 4, 4), bool)
    run(one_block(ml.MultiHeadAttention(2), input="x", mask="m", output="y"), {"x": random(2, 4, 6), "m": mask})


@case
def mask_to_be_added(fixed):
    mask = np.array([[0, 0, -np.inf, 0], [0, 0, 0, 0]], np.float32)
    run(
        one_block(ml.MultiHeadAttention(2), input="x", mask="m", output="y"),
        {"x": random(2, 4, 6), "m": mask == 0 if fixed else mask},
    )


@case
def mask_of_numbers(fixed):
    mask = np.array([[2, 2, 0, 2], [2, 2, 2, 2]], np.int64)
    run(
        one_block(ml.MultiHeadAttention(2), input="x", mask="m", output="y"),
        {"x": random(2, 4, 6), "m": mask != 0 if fixed else mask},
    )


@case
def mask_that_rounds_to_zero(fixed):
    mask = np.array([[1, 1, 1e-60, 1], [1, 1, 1, 1]])
    run(
        one_block(ml.MultiHeadAttention(2), input="x", mask="m", output="y"),
        {"x": random(2, 4, 6), "m": mask != 0 if fixed else mask},
    )


@case
def seed_of_more_than_64_bits(fixed):
    compile_on((1,), LINEAR).get_parameters({"x": X}, seed=2**64 - 1 if fixed else 2**64)


@case
def seed_below_zero(fixed):
    CBackend(device_mesh=(1,)).randn(4, seed=1 if fixed else -1)


@case
def seed_that_is_no_number(fixed):
    CBackend(device_mesh=(1,)).randint(0, 5, (4,), seed=1 if fixed else 1.0)


@case
def output_gradient_of_what_is_read(fixed):
    run(chain(ml.Linear(3), ml.Relu()), None, (1,), None, {"y" if fixed else "linear_0.output": random(4, 3)}, [])


@case
def attention_over_a_matrix(fixed):
    run(chain(ml.MultiHeadAttention(2)), {"x": random(1, 4, 6) if fixed else X})


@case
def sequence_too_long(fixed):
    run(chain(ml.PositionalEncoding(4)), {"x": random(2, 4 if fixed else 5, 6)})


@case
def parts_that_do_not_divide(fixed):
    run(one_block(ml.Split(3 if fixed else 4, axis=1), input="x"))


@case
def reshape_to_another_size(fixed):
    run(chain(ml.Reshape((2, 12 if fixed else 13))))


@case
def transpose_with_a_repeated_dimension(fixed):
    run(chain(ml.Transpose((1, 0) if fixed else (1, 1))))


@case
def axis_outside_the_shape(fixed):
    run(chain(ml.Softmax(axis=1 if fixed else 2)))


@case
def concat_of_different_shapes(fixed):
    model = ml.Model()
    model |= ml.Concat(axis=0)(inputs=["x", "z"], output="y")
    run(model, {"x": X, "z": random(2, 6 if fixed else 5)})


@case
def floats_as_ids(fixed):
    run(chain(ml.Embedding(9, 4)), {"x": np.zeros((2, 3), np.int32 if fixed else np.float32)})


@case
def ids_as_floats(fixed):
    run(LINEAR, {"x": np.zeros((4, 6), np.float32 if fixed else np.int32)})


@case
def target_of_the_wrong_shape(fixed):
    model = ml.Model()
    model |= ml.CrossEntropy()(input="x", target="t", output="y")
    run(model, {"x": X, "t": np.zeros(4 if fixed else 5, np.int32)})


@case
def id_outside_the_vocabulary(fixed):
    run(chain(ml.Embedding(9, 4)), {"x": np.array([[0, 8 if fixed else 9]])})


@case
def id_below_zero(fixed):
    run(chain(ml.Embedding(9, 4, tensor_axis=0)), {"x": np.array([[0, 0 if fixed else -1]])})


@case
def target_outside_the_classes(fixed):
    model = ml.Model()
    model |= ml.CrossEntropy()(input="x", target="t", output="y")
    run(model, {"x": X, "t": np.array([0, 1, 2, 5 if fixed else 6], np.int32)})


@case
def batch_that_stages_can_not_split(fixed):
    stage = chain(ml.Mean(axis=-1) if fixed else ml.Max(axis=0))
    model = ml.Model()
    model |= ml.Pipeline(stages=[stage], microbatch_size=2)(input="x", output="y")
    run(model)


# ---------------------------------------------------------------- evaluate
@case
def missing_input(fixed):
    run(
        LINEAR,
        params=compile_on((1,), LINEAR).get_parameters({"x": X}) if not fixed else None,
        inputs={"x": X} if fixed else {},
    )


@case
def extra_input(fixed):
    compiled = compile_on((1,), LINEAR)
    compiled.evaluate(compiled.get_parameters({"x": X}), {"x": X, **({} if fixed else {"mask": X})})


@case
def misspelt_input(fixed):
    compiled = compile_on((1,), LINEAR)
    compiled.evaluate(compiled.get_parameters({"x": X}), {"x" if fixed else "X": X})


@case
def missing_parameter(fixed):
    compiled = compile_on((1,), LINEAR)
    params = compiled.get_parameters({"x": X})
    compiled.evaluate(params if fixed else {"linear_0.weight": params["linear_0.weight"]}, {"x": X})


@case
def extra_parameter(fixed):
    compiled = compile_on((1,), LINEAR)
    params = compiled.get_parameters({"x": X})
    compiled.evaluate({**params, **({} if fixed else {"linear_0.wight": X})}, {"x": X})


@case
def parameter_of_the_wrong_shape(fixed):
    run(LINEAR, params={"linear_0.weight": random(6, 3) if fixed else random(3, 6), "linear_0.bias": random(3)})


@case
def parameter_of_the_wrong_dtype(fixed):
    run(
        LINEAR,
        params={"linear_0.weight": np.ones((6, 3), np.float32 if fixed else np.int32), "linear_0.bias": random(3)},
    )


@case
def list_as_input(fixed):
    run(LINEAR, {"x": X if fixed else X.tolist()}, params={"linear_0.weight": random(6, 3), "linear_0.bias": random(3)})


@case
def number_as_input(fixed):
    run(LINEAR, {"x": X if fixed else 3.0}, params={"linear_0.weight": random(6, 3), "linear_0.bias": random(3)})


@case
def complex_input(fixed):
    run(
        LINEAR,
        {"x": X if fixed else X.astype(np.complex64)},
        params={"linear_0.weight": random(6, 3), "linear_0.bias": random(3)},
    )


@case
def records_as_input(fixed):
    x = np.zeros((4, 6), [("x", np.float32), ("y", np.float32)])
    run(LINEAR, {"x": x["x"] if fixed else x}, params={"linear_0.weight": random(6, 3), "linear_0.bias": random(3)})


@case
def dates_as_input(fixed):
    x = np.array([1, 2], "M8[s]")
    CBackend(device_mesh=(1,)).array(x.astype("int64") if fixed else x)


@case
def masked_input(fixed):
    x = np.ma.masked_array(X, X > 1)
    run(
        LINEAR, {"x": x.filled(0) if fixed else x}, params={"linear_0.weight": random(6, 3), "linear_0.bias": random(3)}
    )


@case
def lists_of_different_lengths(fixed):
    CBackend(device_mesh=(1,)).array([[1.0, 0.0] if fixed else [1.0], [2.0, 3.0]])


@case
def memory_that_is_described_wrongly(fixed):
    CBackend(device_mesh=(1,)).array(X if fixed else foreign.export(X, shape=[-4, -6]))


@case
def tensor_that_needs_gradients(fixed):
    class Tensor:  # as torch's
        requires_grad = True

        def __dlpack__(self, **options):
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")

        def detach(self):
            return X

    x = Tensor()
    CBackend(device_mesh=(1,)).array(x.detach() if fixed else x)


@case
def unsigned_number_too_large(fixed):
    run(
        chain(ml.Embedding(9, 4)),
        {"x": np.array([[1 if fixed else 2**64 - 1]], np.uint64)},
        params={"embedding_0.weight": random(9, 4)},
    )


@case
def inputs_in_a_list(fixed):
    run(LINEAR, {"x": X} if fixed else [X], params={"linear_0.weight": random(6, 3), "linear_0.bias": random(3)})


@case
def no_shapes_for_parameters(fixed):
    compile_on((1,), LINEAR, **({"shapes": {"x": (4, 6)}} if fixed else {})).get_parameters()


@case
def gradient_of_an_unknown_output(fixed):
    run(LINEAR, seeds={"y" if fixed else "yy": random(4, 3)})


@case
def gradient_of_the_wrong_shape(fixed):
    run(LINEAR, seeds={"y": random(4, 3) if fixed else random(3, 4)})


@case
def gradient_for_an_unknown_input(fixed):
    run(LINEAR, seeds={"y": random(4, 3)}, slopes=["x" if fixed else "z"])


@case
def gradient_for_ids(fixed):
    run(
        chain(ml.Embedding(9, 4)),
        {"x": np.zeros((2, 3), np.int32)},
        seeds={"y": random(2, 3, 4)},
        slopes=[] if fixed else ["x"],
    )


@case
def gradients_of_inputs_alone(fixed):
    run(LINEAR, seeds={"y": random(4, 3)} if fixed else None, slopes=["x"])


@case
def plan_before_shapes(fixed):
    compiled = compile_on((1,), LINEAR)
    compiled.program_text({"x": X} if fixed else None)


# ---------------------------------------------------------------- sizes
@case
def negative_size(fixed):
    CBackend(device_mesh=(1,)).zeros(4, 1 if fixed else -1)


@case
def more_elements_than_memory(fixed):
    CBackend(device_mesh=(1,)).zeros(2**10 if fixed else 2**50, 2)


@case
def more_bytes_than_numbers(fixed):
    CBackend(device_mesh=(1,)).zeros(2**10 if fixed else 2**62, 2)


@case
def parameter_larger_than_memory(fixed):
    run(chain(ml.Linear(2**10 if fixed else 2**48)))


@case
def unknown_dtype(fixed):
    CBackend(device_mesh=(1,)).zeros(2, dtype="float32" if fixed else "float31")


@case
def empty_range(fixed):
    CBackend(device_mesh=(1,)).randint(0, 5 if fixed else 0, (3,))


@case
def shape_of_bytes(fixed):
    CBackend(device_mesh=(1,)).zeros((32, 2048) if fixed else b"23")


@case
def whole_numbers_of_more_than_64_bits(fixed):
    CBackend(device_mesh=(1,)).array([2**63 - fixed, -1])


@case
def array_that_is_pickled(fixed):
    x = CBackend(device_mesh=(1,)).zeros(3)
    pickle.dumps(np.asarray(x) if fixed else x, 0)


@case
def shape_of_texts(fixed):
    CBackend(device_mesh=(1,)).randn((3, 4) if fixed else ("3", "4"))


# ---------------------------------------------------------------- files
def write_safetensors(path, tensors, lie=None, text=None, behind=b""):
    header, data = {}, b""
    for name, value in tensors.items():
        header[name] = {
            "dtype": "F64" if value.dtype == np.float64 else "F32",
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + value.nbytes],
        }
        data += value.tobytes()
    if lie:
        lie(header)
    written = json.dumps(header)
    written = (text(written) if text else written).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + data + behind)


def from_file(path, tensor="w", cut=None, weight=random(6, 3), read=None, **lies):
    write_safetensors(path, {"w": weight, "b": random(3)}, **lies)
    if cut:
        path.write_bytes(path.read_bytes()[:cut])
    names = {"linear_0.weight": tensor, "linear_0.bias": "b"}
    return ml.read_safetensors(compile_on((2,), LINEAR), {"x": X}, read or path, names)


@case
def file_without_tensors(fixed, tmp):
    from_file(tmp / "a.safetensors")
    write_safetensors(tmp / "b.safetensors", {})
    from_file(tmp / "a.safetensors", read=None if fixed else tmp / "b.safetensors")


@case
def tensor_of_another_dtype(fixed, tmp):
    from_file(tmp / "a.safetensors", lie=None if fixed else lambda h: h["w"].update(dtype="I32"))


@case
def file_that_is_missing(fixed, tmp):
    (
        from_file(tmp / "a.safetensors")
        if fixed
        else ml.read_safetensors(
            compile_on((2,), LINEAR), {"x": X}, "/nowhere/a.safetensors", {"linear_0.weight": "w", "linear_0.bias": "b"}
        )
    )


@case
def file_that_is_a_folder(fixed, tmp):
    from_file(tmp / "a.safetensors", read=None if fixed else tmp)


@case
def file_that_is_a_pipe(fixed, tmp):
    if not (tmp / "pipe").exists():
        os.mkfifo(tmp / "pipe")
    from_file(tmp / "a.safetensors", read=None if fixed else tmp / "pipe")


@case
def data_of_no_tensor(fixed, tmp):
    from_file(tmp / "a.safetensors", behind=b"" if fixed else b"\0")


@case
def tensors_that_overlap(fixed, tmp):
    from_file(tmp / "a.safetensors", lie=None if fixed else lambda h: h["b"].update(data_offsets=[60, 72]))


@case
def tensor_twice(fixed, tmp):
    from_file(tmp / "a.safetensors", text=None if fixed else lambda text: text.replace('"b"', '"w"'))


@case
def garbage_behind_the_header(fixed, tmp):
    from_file(tmp / "a.safetensors", text=None if fixed else lambda text: text + "\0")


@case
def field_that_is_unknown(fixed, tmp):
    from_file(tmp / "a.safetensors", lie=None if fixed else lambda h: h["w"].update(scale="2"))


@case
def two_tensors_for_one_parameter(fixed, tmp):
    from_file(tmp / "a.safetensors", tensor=("w", False) if fixed else ("w", "b"))


@case
def parameter_that_is_unknown(fixed, tmp):
    path = tmp / "a.safetensors"
    write_safetensors(path, {"w": random(6, 3), "b": random(3)})
    names = {"linear_0.weight": "w", "linear_0.bias": "b", **({} if fixed else {"linear_1.bias": "b"})}
    ml.read_safetensors(compile_on((2,), LINEAR), {"x": X}, path, names)


@case
def truncated_file(fixed, tmp):
    from_file(tmp / "a.safetensors", cut=None if fixed else -10)


@case
def truncated_header(fixed, tmp):
    from_file(tmp / "a.safetensors", cut=None if fixed else 20)


@case
def empty_file(fixed, tmp):
    from_file(tmp / "a.safetensors", cut=None if fixed else -(10**6))


@case
def offsets_that_lie(fixed, tmp):
    from_file(tmp / "a.safetensors", lie=None if fixed else lambda h: h["w"].update(data_offsets=[0, 10**15]))


@case
def offsets_that_do_not_fit_the_shape(fixed, tmp):
    from_file(tmp / "a.safetensors", lie=None if fixed else lambda h: h["w"].update(shape=[6, 300]))


@case
def shape_that_is_negative(fixed, tmp):
    from_file(tmp / "a.safetensors", lie=None if fixed else lambda h: h["w"].update(shape=[-6, -3]))


@case
def number_of_the_file_that_float32_lacks(fixed, tmp):
    weight = np.full((6, 3), 1e39)
    from_file(tmp / "a.safetensors", weight=np.clip(weight, -3.4028235e38, 3.4028235e38) if fixed else weight)


@case
def dtype_that_is_unknown(fixed, tmp):
    from_file(tmp / "a.safetensors", lie=None if fixed else lambda h: h["w"].update(dtype="F33"))


@case
def tensor_that_is_missing(fixed, tmp):
    from_file(tmp / "a.safetensors", tensor="w" if fixed else "v")


@case
def tensor_of_another_shape(fixed, tmp):
    from_file(tmp / "a.safetensors", weight=random(6, 3) if fixed else random(3, 6))


@case
def parameter_without_a_tensor(fixed, tmp):
    path = tmp / "a.safetensors"
    write_safetensors(path, {"w": random(6, 3), "b": random(3)})
    ml.read_safetensors(
        compile_on((2,), LINEAR), {"x": X}, path, {"linear_0.weight": "w", **({"linear_0.bias": "b"} if fixed else {})}
    )


@case
def number_in_place_of_a_tensor(fixed, tmp):
    from_file(tmp / "a.safetensors", tensor="w" if fixed else 3)


@case
def input_that_float32_lacks(fixed, tmp):
    x = np.where(X == X.max(), 1e39, X.astype(np.float64))
    run(LINEAR, {"x": np.clip(x, -3.4028235e38, 3.4028235e38) if fixed else x})


@case
def number_that_float16_lacks(fixed, tmp):
    CBackend(device_mesh=(2,)).array(np.full(3, 100.0 if fixed else 1e5), dtype="float16")


@case
def array_that_float32_lacks(fixed, tmp):
    backend = CBackend(device_mesh=(4,))
    x = backend.array(np.full((4, 6), 1.0 if fixed else 1e39), dtype="float64")
    compiled = ml.compile(LINEAR, backend)
    compiled.evaluate(compiled.get_parameters({"x": X}), {"x": x})
