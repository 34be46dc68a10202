"""The rules behind `npuscope analyze`, by what they look at."""

from __future__ import annotations

from npuscope.analysis.findings import Rule
from npuscope.analysis.rules import capture, compute, limiter, memory, schedule
from npuscope.errors import unknown_name

RULES: tuple[Rule, ...] = (
    *capture.RULES,
    *limiter.RULES,
    *schedule.RULES,
    *compute.RULES,
    *memory.RULES,
)
"""Every rule; names are unique."""


def choose_rules(names: str) -> tuple[Rule, ...]:
    """The rules of a comma-separated list; all for ''.

    Raises:
        UsageError: An unknown name.
    """
    known = {rule.name: rule for rule in RULES}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise unknown_name("rule", name, known)
    return tuple(known[name] for name in wanted) if wanted else RULES
