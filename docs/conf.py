"""Sphinx settings."""

project = "npuscope"
author = "The npuscope authors"
extensions = ["myst_parser"]
exclude_patterns = ["_build", "generate.py"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Measures, predicts and explains how fast a computation runs on an NPU.",
    "page_width": "1040px",
}
myst_heading_anchors = 3
