"""verify_plan and reprint_plan on long texts: other threads run meanwhile, and handlers of signals."""

import signal

import pytest

import mithril as ml
from support import check_that_others_run, check_that_signals_end, computed, handling, strike

CHAIN = (
    "program\nmesh (2,)\nplacement p0 whole\nentry 0 input x: f32[4] (0,) on p0\nrole 0 devices 0, 1 slab 64\n"
    "  x: f32[2] of [4] (0,) on p0 at entry 0\n"
)


def chain(n):
    """A text of n instructions, about 60 bytes each."""
    return CHAIN + "".join(f"  {i}  x{i + 1}: f32[2] of [4] (0,) on p0 at slab+0 = relu x{i or ''}\n" for i in range(n))


@pytest.mark.parametrize("read", [ml.verify_plan, ml.reprint_plan])
def test_a_handler_that_raises_ends_the_call(read):
    text = chain(60_000)
    check_that_signals_end(lambda: lambda: read(text))
    read(chain(10))


@pytest.mark.parametrize("read", [ml.verify_plan, ml.reprint_plan])
def test_a_handler_that_returns_loses_nothing(read):
    text, said, called = chain(60_000), [], []
    whole, _ = computed(lambda: said.append(read(text)))
    with handling(signal.SIGALRM, lambda number, frame: called.append(number)):
        for _ in range(12):  # a call that others' work makes faster than the first may be over before the alarm
            computed(lambda: said.append(read(text)), strike(0.3 * whole))
            if called:
                break
    assert called == [signal.SIGALRM] and said[-1] == said[0]


@pytest.mark.parametrize("read", [ml.verify_plan, ml.reprint_plan])
def test_other_threads_run_meanwhile(read):
    text = chain(60_000)
    check_that_others_run(lambda: lambda: read(text))
