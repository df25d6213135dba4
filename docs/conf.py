"""Sphinx configuration: MyST pages in Diataxis folders, numpydoc for the API, warnings are errors in CI."""

from importlib.metadata import version as _version

project = "bluesky_streamrecon"
author = "the bluesky_streamrecon developers"
copyright = "2026, the bluesky_streamrecon developers"
release = _version("bluesky-streamrecon")
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "undoc-members": False}
nitpicky = False
suppress_warnings = ["config.cache"]

html_theme = "pydata_sphinx_theme"
html_title = "bluesky_streamrecon"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False, "navbar_align": "left"}
html_show_sourcelink = False


def setup(app):
    """Make ``:doi:`` a link."""
    from docutils import nodes

    def doi(name, rawtext, text, lineno, inliner, options=None, content=()):
        return [nodes.reference(rawtext, f"doi:{text}", refuri=f"https://doi.org/{text}")], []

    app.add_role("doi", doi)


def _write_commands():
    """Write reference/commands.md from the program itself, so that it is never out of date."""
    import os
    import subprocess
    import sys
    from pathlib import Path

    plain = os.environ | {"TERM": "dumb", "COLUMNS": "100", "NO_COLOR": "1"}

    def help_of(*command):
        call = [sys.executable, "-m", "bluesky_streamrecon", *command, "--help"]
        return subprocess.run(call, env=plain, capture_output=True, text=True, check=True).stdout

    pages = ["# Commands\n", f"```text\n{help_of().strip()}\n```\n"]
    from typer.main import get_command

    from bluesky_streamrecon.cli._app import app
    from bluesky_streamrecon.cli._commands import register

    register(app)
    for name, command in sorted(get_command(app).commands.items()):
        pages.append(f"## streamrecon {name}\n\n```text\n{help_of(name).strip()}\n```\n")
        for child in sorted(getattr(command, "commands", {})):
            pages.append(f"### streamrecon {name} {child}\n\n```text\n{help_of(name, child).strip()}\n```\n")
    Path(__file__).with_name("reference").joinpath("commands.md").write_text("\n".join(pages))


_write_commands()
