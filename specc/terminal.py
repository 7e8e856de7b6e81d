"""What a person sees beside the data: messages on stderr, in colour on a terminal; progress; and the end of a command.

Exit codes: 0 fine, 1 a diagnostic or a failed check, 2 a wrong command line, 3 a mistake of specc's own,
128 and the number of the signal that ended it: 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from specc.diagnostics import SpeccError
from specc.files import FULL

if TYPE_CHECKING:
    from specc import driver

FINE, FAILED, USAGE, OUR_FAULT = 0, 1, 2, 3
INTERRUPTED = 128 + signal.SIGINT
_SIGNALS: dict[signal.Signals, Callable[[int, FrameType | None], Any] | signal.Handlers] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
"""What ends a command, which clears away what it began; and how each is handled where nobody has changed that."""
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""What PyTorch says in a RuntimeError where others raise a MemoryError."""


def say(text: str) -> None:
    """A message to the person, on stderr."""
    click.echo(text, err=True)


def complain(problem: SpeccError) -> None:
    """The diagnostics on stderr; in colour where that is a terminal and NO_COLOR does not forbid it."""
    text = problem.render()
    if not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        say(text)
        return
    from rich.console import Console
    from rich.text import Text

    rendered = Text(text)
    rendered.highlight_regex(r"(?m)^error\[\w+\]", "bold red")
    rendered.highlight_regex(r"(?m)^ *(-->|\d* \||=)", "blue")
    rendered.highlight_regex(r"(?m)^ *\| *\^[\^ ]*", "red")
    Console(stderr=True, highlight=False, soft_wrap=True).print(rendered)


class _Interrupts:
    """Ctrl-C and other signals that end a command, remembered: Python drops a KeyboardInterrupt that is raised in a
    destructor, and TVM makes a RuntimeError of one that is raised in a callback, which may be taken for a kernel that
    cannot be made."""

    def __init__(self) -> None:
        self.heard: int | None = None

    @contextmanager
    def listened(self) -> Iterator[None]:
        """Hears them in the meantime; not in a thread besides the main one, nor those that a program handles itself."""
        self.heard = None
        main = threading.current_thread() is threading.main_thread()
        free = [number for number, usual in _SIGNALS.items() if main and signal.getsignal(number) is usual]
        for number in free:
            signal.signal(number, self._hear)
        try:
            yield
        finally:
            for number in free:
                signal.signal(number, _SIGNALS[number])

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = number
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt where one was heard and dropped."""
        if self.heard is not None:
            raise KeyboardInterrupt

    def end(self) -> int:
        """Says that the command was ended; the exit code."""
        say("interrupted")
        return 128 + (self.heard or signal.SIGINT)


_interrupts = _Interrupts()


def guarded(action: Callable[[], int | None]) -> int:
    """Runs a command to its exit code; whatever happens, the person sees a message and never a traceback."""
    with _interrupts.listened():
        return _guarded(action)


def _guarded(action: Callable[[], int | None]) -> int:
    try:
        return action() or FINE
    except SpeccError as problem:
        complain(problem)
        return FAILED
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as problem:
        problem.show()
        return problem.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _interrupts.end()
    except BrokenPipeError:
        # Who read our output has gone. What is still buffered must not raise once more at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as problem:
        if problem.filename is not None or problem.errno not in FULL:
            return _our_fault(problem)
        # A full disk, met where stdout goes: what is written to files says S0002 itself.
        with suppress(OSError):
            sys.stdout.close()
        say(f"error[S0002]: the output cannot be written: {problem.strerror}")
        return FAILED
    except Exception as problem:
        if _interrupts.heard is not None:  # what TVM says of a callback that did not come to its end
            return _interrupts.end()
        if isinstance(problem, MemoryError) or _NO_MEMORY in str(problem):
            say("error[S0804]: there is less memory than this needs\n   = --shapes makes it smaller")
            return FAILED
        return _our_fault(problem)


def _our_fault(problem: Exception) -> int:
    """Says that this is a mistake of specc's own; the exit code."""
    if os.environ.get("SPECC_DEBUG"):
        traceback.print_exception(problem)
    say(f"error[S1099]: specc made a mistake: {type(problem).__name__}: {problem}")
    if not os.environ.get("SPECC_DEBUG"):
        say("  = this is a bug in specc, not in your file; SPECC_DEBUG=1 shows where it happened")
    return OUR_FAULT


@contextmanager
def progress(title: str) -> Iterator[Callable[[driver.Progress], None]]:
    """An observer of a compilation: a bar on stderr where that is a terminal, silence elsewhere.

    Every call is a place where a Ctrl-C that was dropped is raised again.
    """
    if not sys.stderr.isatty():
        yield lambda _: _interrupts.check()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        bar.add_task(title, total=None)

        def advance(now: driver.Progress) -> None:
            _interrupts.check()
            (task,) = bar.tasks
            stage = f"{now.stage} at {now.size}" if now.size else now.stage
            if task.description != stage:  # a new task: a total, once known, cannot become unknown again
                bar.remove_task(task.id)
                bar.add_task(stage, total=now.total or None)
            bar.update(bar.task_ids[0], completed=now.done)

        yield advance
