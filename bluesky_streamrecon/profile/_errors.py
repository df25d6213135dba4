"""An error that is raised on purpose says all that is needed: at the prompt it is a line, not a traceback."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from bluesky_streamrecon.errors import StreamReconError

__all__ = ["shorten_errors"]


def shorten_errors() -> None:
    """Let IPython print errors of this package in one line; ``%tb`` shows the traceback. Elsewhere nothing happens."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.set_custom_exc((StreamReconError,), _print)


def _print(
    shell: Any,  # noqa: ARG001
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
    tb_offset: int | None = None,  # noqa: ARG001 - as IPython calls it
) -> None:
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace  # what %tb shows
    print(f"{kind.__name__}: {error}  (%tb: where it was raised)", file=sys.stderr)
