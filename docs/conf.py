"""How Sphinx builds these pages: see .ci/run."""

from __future__ import annotations

import builtins
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

from docutils.nodes import Text
from sphinx.addnodes import pending_xref

import aioipc

if TYPE_CHECKING:
    from docutils.nodes import document
    from sphinx.application import Sphinx

project = "aioipc"
author = "The aioipc developers"
version = release = version_of("aioipc")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"aioipc {version}"

# Links to a heading of a page, as in waiting.md#giving-way.
myst_heading_anchors = 3

# What stands between backticks in a docstring is a link where it is a name of ours.
default_role = "py:obj"
# Links to other projects would take their inventories, and so the network.
# Type variables have no place of their own.
nitpick_ignore_regex = [("py:.*", r"(?!aioipc\.).*"), ("py:class", r".*\._Source")]
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 100
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": "__init__, __new__, extra, extra_attributes",
}
# It is imported for the type checker only, without which no hint of that signature is resolved.
autodoc_type_aliases = {"Self": "Self"}
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True


def aim_references(app: Sphinx, doctree: document) -> None:
    """Have short names mean what they mean in the code."""
    for node in list(doctree.findall(pending_xref)):
        name = node["reftarget"]
        if node["reftype"] == "class" and hasattr(builtins, name):
            node.replace_self(Text(name))  # Sphinx takes `bytes` for a field of that name
        elif name in aioipc.__all__:
            node["reftarget"] = f"aioipc.{name}"


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", aim_references)
