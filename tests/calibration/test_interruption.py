from __future__ import annotations

import signal
import threading

import pytest

from fuselage.calibration.statistics.interruption import Interruption


def interrupted(times, steps):
    with Interruption() as interruption:
        assert interruption.pending is None
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
            steps.append(interruption.pending)


@pytest.mark.parametrize("times", [1, 2])
def test_signal_waits_for_the_end_of_the_block_and_a_second_one_does_not(times):
    steps = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(times, steps)
    assert steps == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_the_caller_are_called_and_put_back():
    calls = []

    def handler(number, _frame):
        calls.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with Interruption():
            signal.raise_signal(signal.SIGTERM)
            assert calls == []
        assert calls == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
            assert interruption.pending is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_leave_signals_alone():
    seen = []

    def work():
        with Interruption() as interruption:
            seen.append((interruption.pending, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, signal.default_int_handler)]


def test_error_in_the_block_is_not_lost():
    with pytest.raises(ValueError, match="boom"), Interruption():
        raise ValueError("boom")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
