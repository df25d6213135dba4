"""Live tomographic reconstruction that steers the scan: a Bluesky/Ophyd beamline plugin.

The rooms, from the ground up (imports go one way, checked by import-linter): ``errors``, ``settings``, ``geometry``;
``ordering``, ``partition``, ``cuts``, ``preparation_steps``; ``wire``; ``beamline``, ``recon``, ``quality``,
``storage``; ``plans``, ``sim_devices``; ``profile``, ``evaluation``; ``cli``. Nothing heavy is imported here.
``requirements`` lists the packages that a job needs, and those that only a beamline needs.
"""

from __future__ import annotations

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("bluesky-streamrecon")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
