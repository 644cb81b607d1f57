"""float16 and the narrowing of numbers, against NumPy and torch."""

import mithril as ml
import numpy as np
import pytest
import torch
from mithril import errors
from mithril.backends import CBackend, ReferenceBackend

backend = CBackend(device_mesh=(2,))
EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def equal(a, b):
    assert np.array_equal(np.asarray(a), b, equal_nan=True)


def test_every_float16_both_ways():
    array = backend.array(EVERY, dtype="float16")
    assert array.dtype == np.float16 and np.asarray(array).dtype == np.float16
    equal(array, EVERY)
    equal(backend.array(EVERY), EVERY.astype(np.float32))
    equal(backend.array(EVERY.astype(np.float32), dtype="float16"), EVERY)
    equal(backend.array(EVERY.astype(np.float64), dtype="float16"), EVERY)
    equal(backend.array(EVERY.astype(">f2"), dtype="float16"), EVERY)
    equal(np.from_dlpack(array), EVERY)
    equal(torch.from_dlpack(array).numpy(), EVERY)
    equal(backend.array(torch.from_numpy(EVERY), dtype=torch.float16), EVERY)


def test_every_bfloat16_both_ways():
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    array = backend.array(bits, dtype="bfloat16")
    equal(array, bits.float().numpy())
    equal(torch.from_dlpack(array).float().numpy(), bits.float().numpy())


def test_random_float32_are_rounded_as_elsewhere():
    x = np.random.default_rng(5).integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)
    small = x[~(np.isfinite(x) & (np.abs(x) >= 65520))]
    with np.errstate(all="ignore"):
        equal(backend.array(small, dtype="float16"), small.astype(np.float16))
    fits = x[~(np.isfinite(x) & (np.abs(x) >= 3.3961775e38))]
    equal(backend.array(fits, dtype="bfloat16"), torch.from_numpy(fits).bfloat16().float().numpy())


@pytest.mark.parametrize("given, dtype", [("f8", None), ("f8", "bfloat16"), ("f4", "float16"), ("i8", "float16")])
def test_what_would_become_infinite_is_an_error(given, dtype):
    x = np.ones((3, 5), given)
    x[1, 4] = 1e300 if given == "f8" else 70000
    for form in (x, x[:, ::-1][:, ::-1], np.asfortranarray(x), torch.from_numpy(x)):
        with pytest.raises(errors.MithrilValueError, match=r"index \(1, 4\), which does not fit in"):
            backend.array(form, dtype=dtype) if dtype else backend.array(form)
    x[1, 4] = 2
    equal(backend.array(x, dtype=dtype) if dtype else backend.array(x), x)


def test_an_array_is_checked_where_it_is_narrowed():
    model = ml.Model()
    model |= ml.Relu()(input="input", output="output")
    compiled = ml.compile(model, backend)
    wide = backend.array(np.array([[1.0, -1e39]]), dtype="float64")
    with pytest.raises(errors.MithrilValueError, match=r"input 'input' holds -1e\+39 at index \(0, 1\)"):
        compiled.evaluate({}, {"input": wide})
    with pytest.raises(errors.MithrilValueError, match="does not fit in float16"):
        backend.array(np.ones(2) * 65520, dtype="float16")


@pytest.mark.parametrize("kind", [CBackend, ReferenceBackend])
@pytest.mark.parametrize("given", ["float16", "bfloat16", "float32", "float64"])
def test_models_compute_in_float32_and_the_reference_in_float64(kind, given):
    on = kind(device_mesh=(2,))
    model = ml.Model()
    model |= ml.Linear(3)(input="input", output="output")
    compiled = ml.compile(model, on)
    numbers = on.array(np.random.default_rng(2).uniform(0, 1, (4, 5)).astype(np.float32), dtype=given)
    params = compiled.get_parameters({"input": numbers})
    output = np.asarray(compiled.evaluate(params, {"input": numbers})["output"])
    wide = given == "float64" and kind is ReferenceBackend
    assert output.dtype == (np.float64 if wide else np.float32)
    assert all(p.dtype == output.dtype for p in params.values())
    x, weight, bias = (
        np.asarray(a, dtype=np.float64) for a in (numbers, params["linear_0.weight"], params["linear_0.bias"])
    )
    np.testing.assert_allclose(output, x @ weight + bias, rtol=1e-14 if wide else 1e-5)


def test_what_does_not_fit_a_row_names_it_and_a_dtype_that_does():
    model = ml.Model()
    model |= ml.Concat(axis=1)(inputs=["a", "b"], output="output")
    compiled = ml.compile(model, backend)
    a, b = np.ones((2, 3), np.int32), np.ones((2, 3), np.float32)
    with pytest.raises(errors.MithrilTypeError, match="give all of them as float32"):
        compiled.evaluate({}, {"a": a, "b": b})
    equal(compiled.evaluate({}, {"a": a.astype(np.float32), "b": b})["output"], np.ones((2, 6)))
