"""The timing model against published measurements: `validate()`."""

from npuscope.simulate.validation.report import Comparison, Errors, Report, validate

__all__ = ["Comparison", "Errors", "Report", "validate"]
