"""A scan ends with the session at whose prompt it was begun: its plan cleans up, and its run gets a stop document.

Of itself IPython leaves a paused RunEngine as it is, and a signal ends the process at once: the shutter stays open.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from bluesky import RunEngine

__all__ = ["end_scan_with_session"]

REASON = "the session ended"

CLEAN_UP_SECONDS = 180.0
"""How long the clean-up of a plan may take after a signal."""


def end_scan_with_session(engine: RunEngine) -> None:
    """Abort what a RunEngine does when its session ends: by ``exit``, Ctrl-D, a closed terminal or SIGTERM.

    This is for the prompt: outside of IPython in a terminal nothing happens, so that a queue server keeps its own ways.
    A signal that is ignored (``nohup``), or that has a handler, is left as it is. After one that is not, a second
    SIGTERM, or a clean-up that takes longer than three minutes, ends the process at once.

    Parameters
    ----------
    engine : RunEngine
        That of the session.
    """
    shell = _terminal_shell()
    if shell is None:
        return
    leave, session = shell.ask_exit, os.getpid()
    terminal = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]  # once it is gone it is not one

    def end_scan_and_leave() -> None:
        _end(engine)
        leave()

    shell.ask_exit = end_scan_and_leave  # what `exit` and Ctrl-D call; made to be replaced, as IPython says

    def take_signal(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != session:  # a child that was forked has the handler, and not the scan
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a shell sends another one when it ends itself
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        last = threading.Timer(CLEAN_UP_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
        last.daemon = True
        last.start()
        if number == signal.SIGHUP:
            _let_go(terminal)
        in_plan = engine.state not in ("idle", "paused", "panicked")
        shell.ask_exit()
        if not in_plan:  # else the plan is waited for below this frame, and IPython leaves when it is over
            raise SystemExit(128 + number)

    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, take_signal)


def _terminal_shell() -> Any:
    """Return IPython's shell if this is a prompt in a terminal, else None."""
    if "IPython" not in sys.modules or threading.current_thread() is not threading.main_thread():
        return None
    from IPython import get_ipython
    from IPython.terminal.interactiveshell import TerminalInteractiveShell

    shell = get_ipython()
    return shell if isinstance(shell, TerminalInteractiveShell) else None


def _end(engine: RunEngine) -> None:
    """Abort a plan that is paused or running, and wait for its clean-up if it was paused."""
    if engine.state not in ("paused", "running", "pausing", "suspending"):
        return
    print(f"The session ends, and with it the scan that is {engine.state}: its plan cleans up.")
    try:
        engine.abort(REASON)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the person wants to leave
        print(f"The scan did not end as it should ({type(error).__name__}: {error}); look after shutter and sample.")


def _let_go(terminal: list[int]) -> None:
    """Let output go nowhere: to print to a terminal that is gone is an error, and would cut the clean-up short."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in terminal:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
