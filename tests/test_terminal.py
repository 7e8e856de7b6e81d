"""The end of a command that somebody interrupts, in the process that it runs in."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType

import pytest

from specc import terminal


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What is asked for a signal in a test is forgotten afterwards."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def killed(number: signal.Signals) -> int:
    """The exit code of a command that gets a signal."""

    def action() -> int:
        os.kill(os.getpid(), number)
        return 7

    return terminal.guarded(action)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_exit_code_has_the_signal_s_number(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, usual)
    assert killed(number) == 128 + number
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(number) == usual, "handled behind a command as before it"


def test_a_signal_that_a_program_handles_itself_stays_its_own() -> None:
    heard: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    signal.signal(signal.SIGTERM, handler)
    assert killed(signal.SIGTERM) == 7
    assert heard == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == handler


def test_another_thread_runs_a_command_without_signals() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(terminal.guarded(lambda: 7)))
    thread.start()
    thread.join()
    assert codes == [7]


def test_an_interrupt_that_became_another_mistake_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """As TVM makes a RuntimeError of one that is raised in a callback."""

    def action() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("a callback") from None
        return 0

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert terminal.guarded(action) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_that_was_dropped_is_raised_again(capsys: pytest.CaptureFixture[str]) -> None:
    """As Python drops one that is raised in a destructor: the next step of a compilation ends it."""

    def action() -> int:
        with terminal.progress("compiling") as step:
            with suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            step(None)  # type: ignore[arg-type]
        return 0

    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert terminal.guarded(action) == 130
    assert terminal.guarded(lambda: 0) == 0, "the next command begins anew"


def test_a_command_that_fails_behind_an_interrupted_one_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> int:
        raise RuntimeError("of its own")

    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert killed(signal.SIGINT) == 130
    assert terminal.guarded(action) == terminal.OUR_FAULT
    assert "of its own" in capsys.readouterr().err
