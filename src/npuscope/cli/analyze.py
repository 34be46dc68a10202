"""`npuscope analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from npuscope.cli.output import JsonFlag, console, paragraph_width, print_json, say, tell
from npuscope.errors import UsageError

if TYPE_CHECKING:
    from npuscope.analysis.analyze import Analysis
    from npuscope.analysis.findings import Thresholds
    from npuscope.report.grid import Grid


def analyze(
    path: Annotated[
        Path | None, typer.Argument(help="A capture, profile JSON, Parquet folder, trace, or profile folder of ours.")
    ] = None,
    threshold: Annotated[
        list[str] | None, typer.Option(help="Another threshold of a rule, as name=value; may be repeated.")
    ] = None,
    rules: Annotated[str, typer.Option(help="Only these rules, separated by commas; `list` shows all.")] = "",
    json: JsonFlag = False,
) -> None:
    """Where the time of a profile went, what limits it, and what to do about it."""
    from npuscope.analysis.analyze import analyze as explain
    from npuscope.analysis.findings import Thresholds
    from npuscope.analysis.rules import choose_rules

    thresholds = Thresholds().with_values(threshold or [])
    if rules == "list":
        _list_rules(thresholds, as_json=json)
        return
    chosen = choose_rules(rules)
    if path is None:
        raise UsageError("no artifact given; npuscope analyze PATH, or --rules list")
    from npuscope.formats.artifact import read_profile

    analysis = explain(read_profile(path), thresholds, chosen)
    if json:
        print_json(analysis.document())
        return
    _show(analysis)


def _list_rules(thresholds: Thresholds, *, as_json: bool) -> None:
    from npuscope.analysis.rules import RULES
    from npuscope.report.profile_tables import rules_table

    if as_json:
        print_json(
            [
                {
                    "rule": rule.name,
                    "severity": rule.severity,
                    "applies_to": rule.statement,
                    "thresholds": {name: getattr(thresholds, name) for name in rule.thresholds},
                    "vendor": rule.vendor,
                }
                for rule in RULES
            ]
        )
        return
    console().print(rules_table(RULES, thresholds))


def _show(analysis: Analysis) -> None:
    from npuscope.report import profile_tables as show
    from npuscope.report.notes import telling

    screen = console()
    width = paragraph_width()

    def draw(made: Grid | None) -> None:
        if made is not None:
            say("")
            screen.print(made)

    tell([*show.heading_lines(analysis), *show.advice_lines(analysis)])
    tell([*show.bound_lines(analysis), *show.mix_lines(analysis), *show.roofline_lines(analysis)])
    draw(show.engine_table(analysis) if analysis.engines else None)
    draw(show.overlap_table(analysis))
    tell(show.concurrency_lines(analysis))
    tell(["", *show.dma_lines(analysis)] if analysis.dma else [])
    draw(show.dma_table(analysis))
    draw(show.bounds_table(analysis))
    tell(["", show.findings_line(analysis)])
    for number, finding in enumerate(analysis.findings, 1):
        for line in show.finding_lines(finding, number, width):
            say(line)
    tell([*show.difference_lines(analysis), *(f"note: {note}" for note in telling(analysis.notes))])
