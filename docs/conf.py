"""
Sphinx: MyST pages, furo's looks, the reference drawn from the code.

No network is used, so a build without one, as in CI, is the same build.
"""

from __future__ import annotations

import builtins
import sys
from importlib import metadata

project = "ghostd"
author = "The ghostd authors"
project_copyright = "2026, The ghostd authors"
version = release = metadata.version("ghostd")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",  # "Returns:" and "Raises:" in docstrings
]

html_theme = "furo"
html_title = f"ghostd {release}"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]  # where a rule came from

# Every name of ours must lead somewhere. The standard library's would too with
# intersphinx, but that fetches an inventory at each build.
_stdlib = "|".join(sorted(sys.stdlib_module_names))
_builtins = "|".join(sorted(dir(builtins)))
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", rf"({_stdlib})\..+"), (r"py:.*", _builtins)]
