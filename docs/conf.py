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
    "sphinx.ext.autosummary",
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
autosummary_generate = True
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
