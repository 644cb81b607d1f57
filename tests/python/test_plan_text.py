"""verify_plan and reprint_plan on long texts: other threads run meanwhile, and handlers of signals."""

import signal
import threading
import time

import pytest

import mithril as ml

CHAIN = (
    "program\nmesh (2,)\nplacement p0 whole\nentry 0 input x: f32[4] (0,) on p0\nrole 0 devices 0, 1 slab 64\n"
    "  x: f32[2] of [4] (0,) on p0 at entry 0\n"
)


def chain(n):
    """A text of n instructions, about 60 bytes each."""
    return CHAIN + "".join(f"  {i}  x{i + 1}: f32[2] of [4] (0,) on p0 at slab+0 = relu x{i or ''}\n" for i in range(n))


def with_alarm(seconds, handler, call):
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("read", [ml.verify_plan, ml.reprint_plan])
def test_a_handler_that_raises_ends_the_call(read):
    text, called = chain(150_000), []
    start = time.monotonic()
    read(text)
    whole = time.monotonic() - start

    def stop(number, frame):
        called.append(time.monotonic())
        raise KeyboardInterrupt("enough")

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="enough"):
        with_alarm(whole / 8, stop, lambda: read(text))
    assert len(called) == 1 and called[0] - start < whole / 2 and time.monotonic() - called[0] < whole / 2
    read(chain(10))


@pytest.mark.parametrize("read", [ml.verify_plan, ml.reprint_plan])
def test_a_handler_that_returns_loses_nothing(read):
    called = []
    with_alarm(0.02, lambda number, frame: called.append(number), lambda: read(chain(100_000)))
    assert called == [signal.SIGALRM]


@pytest.mark.parametrize("read", [ml.verify_plan, ml.reprint_plan])
def test_other_threads_run_meanwhile(read):
    text, done = chain(150_000), threading.Event()
    thread = threading.Thread(target=lambda: (read(text), done.set()))
    thread.start()
    turns = 0
    while not done.is_set():
        time.sleep(0.001)
        turns += 1
    thread.join()
    assert turns > 10
