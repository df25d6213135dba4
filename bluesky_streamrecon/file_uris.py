"""Files as documents name them: ``file://localhost/data/sample.h5``."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["file_path"]


def file_path(uri: str) -> Path:
    """Return the path that a URI of a file names; its host is not looked at.

    '#' and '?' are parts of the path: ophyd-async writes it as it is (seen with 0.21.3).

    Examples
    --------
    >>> file_path("file://localhost/data/sample%20#3/1.h5").as_posix()
    '/data/sample #3/1.h5'
    """
    return Path(unquote(urlsplit(uri.replace("#", "%23").replace("?", "%3F")).path))
