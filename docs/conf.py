"""
Sphinx: MyST pages, furo's looks, the reference drawn from the code.

No network is used, so a build without one, as in CI, is the same build.
"""

from __future__ import annotations

import builtins
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import generate

project = "ghostd"
author = "The ghostd authors"
project_copyright = "2026, The ghostd authors"
version = release = metadata.version("ghostd")

generate.write()

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",  # "Returns:" and "Raises:" in docstrings
]

html_theme = "furo"
html_title = f"ghostd {release}"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist", "substitution"]
myst_heading_anchors = 3
myst_substitutions = generate.numbers()

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
nitpick_ignore_regex = [
    (r"py:.*", rf"({_stdlib})\..+"),
    (r"py:.*", _builtins),
    # In signatures that autodoc cannot evaluate, so that the module is not known.
    (r"py:class", "Choose|Path|Pool|PoolSettings"),
]


def keep_colons(
    _app: Any, what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Keep napoleon from reading "A number; None: nothing" as "type: text"."""
    if what == "property":
        lines[:0] = [".. a property", ""]  # a comment, which has no colon


def setup(app: Any) -> None:
    """Connect, to be called before napoleon is."""
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
