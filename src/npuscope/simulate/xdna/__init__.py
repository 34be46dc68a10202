"""The timing model of XDNA matmuls against published measurements: `validate_xdna()`."""

from npuscope.simulate.xdna.validation import Comparison, SetErrors, XdnaReport, validate_xdna

__all__ = ["Comparison", "SetErrors", "XdnaReport", "validate_xdna"]
