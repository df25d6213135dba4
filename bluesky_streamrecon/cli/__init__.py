"""The ``streamrecon`` program: arguments in, exit code and one clear line out.

Exit codes: 0 success, 2 wrong usage, 1 failure. Progress and logs go to stderr; with ``--json`` the last line
of stdout is one JSON object.
"""

from __future__ import annotations

from bluesky_streamrecon.cli._app import main

__all__ = ["main"]
