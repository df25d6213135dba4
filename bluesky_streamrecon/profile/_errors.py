"""An error that is raised on purpose says all that is needed: at the prompt it is a line, not a traceback.

The RunEngine logs the traceback of every plan that fails, or is aborted, before IPython prints anything.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Any

from bluesky.utils import RequestAbort

from bluesky_streamrecon.errors import StreamReconError

__all__ = ["shorten_errors"]


def shorten_errors() -> None:
    """Let IPython and the RunEngine's log say errors of this package in one line; ``%tb`` shows the traceback.

    Without IPython nothing happens.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.set_custom_exc((StreamReconError,), _print)
        logging.getLogger("bluesky").addFilter(_leave_out_traceback)


def _leave_out_traceback(record: logging.LogRecord) -> bool:
    """Return True, after a record about an error on purpose was freed of its traceback."""
    if record.exc_info and isinstance(record.exc_info[1], StreamReconError | RequestAbort):
        record.exc_info = None
    return True


def _print(
    shell: Any,  # noqa: ARG001
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
    tb_offset: int | None = None,  # noqa: ARG001 - as IPython calls it
) -> None:
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace  # what %tb shows
    print(f"{kind.__name__}: {error}  (%tb: where it was raised)", file=sys.stderr)
