"""The tables of a catalogue, copied from those of another: making them starts a program that imports all of Tiled."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["give_tables", "tables_once"]


def give_tables(directory: Path) -> None:
    """Put the tables into a directory where a program that is to be started opens its catalogue."""
    directory.mkdir(parents=True, exist_ok=True)
    where = f"sqlite+aiosqlite:///{directory / 'catalog.db'}"
    subprocess.run([sys.executable, "-m", "tiled", "catalog", "init", "--if-not-exists", where], check=True)


def tables_once() -> None:
    """Copy the tables of new catalogues of this process from ``$STREAMRECON_TEST_TABLES``, once they are there."""
    start, made = subprocess.run, Path(os.environ["STREAMRECON_TEST_TABLES"])

    def run(command: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(command, list) or command[1:6] != ["-m", "tiled", "catalog", "init", "--if-not-exists"]:
            return start(command, *arguments, **options)
        path = Path(command[6].partition(":///")[2])
        with made.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several workers that begin with a catalogue, one makes the tables
            if not made.exists():
                done = start(command, *arguments, **options)
                copy = made.with_suffix(f".{os.getpid()}")
                shutil.copyfile(path, copy)
                copy.replace(made)
                return done
        if not path.exists():
            shutil.copyfile(made, path)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    subprocess.run = run  # type: ignore[assignment]
