"""Sphinx configuration. Nothing is fetched: the documentation builds without a network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

import figures  # noqa: E402 - they lie beside this file
import reference  # noqa: E402

project = "lossmith"
author = "The lossmith developers"
copyright = author
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "lossmith"

# Docstrings are Google style with single backticks for code; their shape annotations are read in the source, not in a signature.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Options", "params_style")]

# References to ourselves must resolve. Names of other packages and of Python would need their inventories from the network, and
# annotations name types of all kinds: private ones, and ours by the module that defines them instead of the package that shows them.
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(?!lossmith\b).*|lossmith\.([a-z.]+\.)?_.*|lossmith\.\w+(\.\w+){2,}"),
    ("py:exc", r"\w+"),
    ("py:.*", r"(?!lossmith\b)\w+(\.\w+)+"),
]

reference.write_pages(HERE / "api")
figures.draw(HERE / "_static" / "convex")


def setup(app):
    app.connect("autodoc-process-docstring", reference.prepare, priority=100)  # before napoleon, at 500
