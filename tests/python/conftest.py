"""Fixtures of several files. A test runs on CBackend, unless it says otherwise by support.every_engine."""

import functools

import pytest

import mithril as ml
import support
from mithril import MithrilError
from mithril.backends import CBackend, JaxBackend, ReferenceBackend, TorchBackend


@functools.cache
def missing():
    """Why there is no JaxBackend here; None: there is one."""
    try:
        JaxBackend(device_mesh=(1,))
    except MithrilError as error:
        return str(error)
    return None


@functools.cache
def no_torch():
    """Why there is no TorchBackend here; None: there is one."""
    try:
        TorchBackend(device_mesh=(1,))
    except MithrilError as error:
        return str(error)
    return None


ENGINES = {"native": CBackend, "xla": JaxBackend, "torch": TorchBackend, "reference": ReferenceBackend}


@pytest.fixture(autouse=True)
def engine(request):
    name = getattr(request, "param", "native")
    if name == "xla" and missing():
        pytest.skip(f"no XLA: {missing()}")
    if name == "torch" and no_torch():
        pytest.skip(f"no torch: {no_torch()}")
    support.engine = ENGINES[name]
    yield support.engine
    support.engine = CBackend


@pytest.fixture
def xla():
    """JaxBackend, where a plugin is installed."""
    if missing():
        pytest.skip(f"no XLA: {missing()}")
    return JaxBackend


@pytest.fixture
def backend():
    """Two devices of CBackend."""
    return CBackend(device_mesh=(2,))


@pytest.fixture
def relu():
    """A model of one Relu, from x to y, on two devices."""
    return support.compile_on((2,), support.one_block(ml.Relu(), input="x", output="y"))
