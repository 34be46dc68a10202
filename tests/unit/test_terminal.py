"""What a terminal shows: no figure cropped at any width, nothing left out without a word, units that the names carry."""

import io
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from npuscope.analysis.analyze import analyze
from npuscope.analysis.buckets import padding_table
from npuscope.analysis.compare import compare_profiles
from npuscope.analysis.findings import Thresholds
from npuscope.analysis.rules import RULES
from npuscope.cli.query import _grid
from npuscope.formats.cache_inspection import inspect_cache
from npuscope.formats.inspection import Inspection
from npuscope.formats.neff_inspection import inspect_neff
from npuscope.formats.neuron_log_inspection import inspect_neuron_log, message_of
from npuscope.formats.workdir_inspection import inspect_compiler_workdir
from npuscope.profile.schema import columns_of
from npuscope.profile.sql import list_tables
from npuscope.report import comparison_tables, profile_tables, tables
from npuscope.report.grid import fold, table, without_middle
from npuscope.report.inspection_tables import fact_lines, inspection_tables
from npuscope.report.notes import telling
from npuscope.report.quantities import label, quantity
from npuscope.tiling.model import tile_model
from npuscope.tiling.work import plan, tensor_engine_columns
from npuscope.workloads.matmul import MatmulConfig
from tests.profiles import instruction, packet, small_profile
from tests.writers import compile_cache, neff
from tests.writers.profiles import synthetic_profile

LONG = "a_rather_long_name_of_a_source"


def text_of(grid, width):
    """The table as lines, and the line in the end that says what was left out, if one does."""
    lines = [line for line, _ in grid.lines(width)]
    told = lines.pop() if lines and lines[-1].startswith(("too wide", "left out")) else ""
    return lines, told


def assert_figures_are_whole(grid, width):
    lines, told = text_of(grid, width)
    assert all(len(line) <= width for line in lines if line != grid.title)
    shown = " ".join(lines)
    for at, heading in enumerate(grid.headings):
        if grid.is_text[at] or (told.startswith("left out") and heading in told):
            continue
        for cell in {row[at] for row in grid.rows} - {"", "-"}:
            wanted = sum(row[at] == cell for row in grid.rows)
            assert shown.count(cell) >= wanted, (heading, cell, lines)


# the table itself

CELLS = st.text(st.sampled_from("ab /_-"), max_size=60)
FIGURES = st.integers(-(10**12), 10**12).map(lambda number: f"{number:,} ns")


@settings(max_examples=150, deadline=None)
@given(data=st.data(), width=st.integers(40, 130), whole=st.booleans())
def test_at_any_width_every_figure_is_whole_or_its_column_is_named(data, width, whole):
    numeric = data.draw(st.lists(st.booleans(), min_size=1, max_size=9))
    headings = [f"{'' if number else '<'}column {index}" for index, number in enumerate(numeric)]
    rows = data.draw(st.lists(st.tuples(*(FIGURES if number else CELLS for number in numeric)), max_size=20))
    assert_figures_are_whole(table(headings, rows, whole=whole), width)


def test_a_table_that_fits_is_printed_as_it_is():
    lines, told = text_of(table(["<name", "time"], [["a b", "1 ns"], ["c", "100 ns"]]), 80)
    assert lines == ["name    time", "a b     1 ns", "c     100 ns"]
    assert told == ""


def test_a_name_keeps_its_end_and_a_text_breaks_at_words():
    assert without_middle("profile_128x128x1000.ntff", 17) == "profi…8x1000.ntff"
    assert fold("load the next tile", 9, whole=False) == ["load the", "next tile"]
    assert "".join(fold("a" * 50, 20, whole=True)) == "a" * 50


def test_columns_that_do_not_fit_make_it_row_by_row_or_are_named():
    headings = [f"column {index}" for index in range(20)]
    few, told = text_of(table(headings, [[f"{index},000 ns" for index in range(20)]]), 80)
    assert "  column 19  19,000 ns" in few
    assert told.startswith("too wide for 80 characters")
    many, told = text_of(table(headings, [["1,000,000 ns"] * 20] * 30), 80)
    assert len(many) <= 32
    assert "column 19" in told
    assert "--json" in told


def test_text_of_which_every_character_counts_is_never_shortened():
    first, second = f"sg00/{'x' * 300}1/y", f"sg00/{'x' * 300}2/y"
    lines, _ = text_of(table(["<what", "<in first", "<in other"], [["files", first, second]], whole=True), 80)
    assert "…" not in "".join(lines)
    assert first in re.sub(r"\s+", "", "".join(lines))


def test_no_text_is_read_as_markup_or_steers_the_terminal():
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=True, color_system=None).print(table(["<n"], [["[red]x[/]\x1b[2J"]]))
    assert "[red]x[/]?[2J" in out.getvalue()
    assert "\x1b" not in out.getvalue()


# every builder


def profile(matmul_ns=4_000, source="a", **more):
    tensor = [
        instruction("Tensor", "MATMUL", 3_000 + 7 * index, matmul_ns, operands="S[5] (Tensor)++ src=fp32@0x1 64*128")
        for index in range(3)
    ]
    others = [instruction(engine, "ACTIVATE", 2_900, 333) for engine in ("Scalar", "Vector", "GpSimd", "Sync")]
    summary = {"total_time": (matmul_ns + 4_000) / 1e9, "model_flops": 123_456, "hbm_read_bytes": 4_096}
    tensors = [{"variable_name": "x", "type": "IN", "shape": "128 128", "size": 32768}]
    packets = [packet(100, 2_000), packet(2_500, 900, queue_name=f"q{LONG}-Q1-E0")]
    return small_profile([*tensor, *others], packets, summary=summary, source=source, TensorInfo=tensors, **more)


def trace(threads=30):
    """A trace without engines, of threads with long names."""
    rows = [
        {
            "start_ts": 10 * index,
            "end_ts": 10 * index + 7_654_321,
            "duration_ns": 7_654_321,
            "name": "fusion",
            "process_name": f"/device:{LONG}",
            "thread_name": f"{LONG} {index}",
        }
        for index in range(threads)
    ]
    return small_profile(source="trace.json", SystemProfileEvents=rows)


def cache_folder(folder):
    for number in (3, 4):
        members = neff.matmul_members(128, 128, 512, matmuls=number)
        flags = ["--target=inf2", f"-O{number}", "--model-type=transformer"]
        compile_cache.neuron_entry(folder, f"12345678901234567{number}", data=neff.neff_bytes(members), flags=flags)
    return folder


def neff_file(folder):
    path = folder / "graph.neff"
    path.write_bytes(neff.neff_bytes(neff.matmul_members(128, 128, 512, matmuls=1_234)))
    return path


def _compared():
    return compare_profiles([profile(), profile(5_000, source=f"{LONG}_{LONG}.ntff")])


def _plan():
    configs = [MatmulConfig(128, 128, 512, "float32"), MatmulConfig(4_096, 14_336, 4_096, "bfloat16")]
    columns = plan(configs, tile_model("tensor-engine")) | tensor_engine_columns(configs)
    return tables.plan_table(columns, [(config.dtype, config.name) for config in configs])


BUILDERS = {
    "sides": lambda _: [comparison_tables.sides_table(_compared())],
    "changes": lambda _: [comparison_tables.changes_table(_compared().differences[0])],
    "engines": lambda _: [profile_tables.engine_table(analyze(profile()))],
    "tracks": lambda _: [profile_tables.engine_table(analyze(trace()))],
    "overlap": lambda _: [profile_tables.overlap_table(analyze(profile()))],
    "overlap of tracks": lambda _: [profile_tables.overlap_table(analyze(trace()))],
    "dma": lambda _: [profile_tables.dma_table(analyze(profile()))],
    "bounds": lambda _: [profile_tables.bounds_table(analyze(profile()))],
    "rules": lambda _: [profile_tables.rules_table(RULES, Thresholds())],
    "cache": lambda folder: list(inspection_tables(inspect_cache(cache_folder(folder)))),
    "neff": lambda folder: list(inspection_tables(inspect_neff(neff_file(folder)))),
    "list of tables": lambda _: [_grid(list_tables(synthetic_profile()), 100)],
    "wide rows": lambda _: [_grid(synthetic_profile().tables["Instruction"], 3)],
    "plan": lambda _: [_plan()],
    "padding": lambda _: [tables.padding_rows_table(padding_table([100, 5_000], [128, 8_192]))],
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("builder", BUILDERS.values(), ids=list(BUILDERS))
def test_no_builder_crops_a_figure(builder, width, tmp_path):
    made = builder(tmp_path)
    assert made
    for grid in made:
        assert grid.rows
        assert_figures_are_whole(grid, width)
        out = io.StringIO()
        Console(file=out, width=width, force_terminal=True, color_system=None, soft_wrap=True).print(grid)
        assert out.getvalue().splitlines() == [line for line, _ in grid.lines(width)]


def test_what_differs_between_two_entries_of_a_cache_is_readable_on_80_columns(tmp_path):
    grid = next(
        grid for grid in inspection_tables(inspect_cache(cache_folder(tmp_path))) if grid.title == "what differs"
    )
    text = re.sub(r"\s+", " ", " ".join(text_of(grid, 80)[0]))
    assert "…" not in text
    for row in grid.rows:
        assert all(cell in text for cell in row)


def test_a_query_of_many_columns_is_row_by_row_on_a_terminal_and_whole_in_a_pipe():
    names = [f"column_{index}" for index in range(61)]
    rows = pa.table({name: [index, None] for index, name in enumerate(names)})
    grid = _grid(rows, 10)
    lines, told = text_of(grid, 80)
    assert "  column_60  60" in lines
    assert told
    assert [len(line.split()) for line, _ in grid.lines(1 << 30)] == [61, 61, 61]


# units


@pytest.mark.parametrize(("unit", "ending"), [("percent", " %"), ("seconds", "ms"), ("bytes", "B"), ("flops", "FLOP")])
def test_every_field_of_the_summary_is_shown_with_its_unit(unit, ending):
    fields = [name for name, column in columns_of("Summary").items() if column.unit == unit]
    assert len(fields) > 3
    for name in fields:
        assert quantity(name, 0.00123 if unit == "seconds" else 0.5 if unit == "percent" else 123).endswith(ending), (
            name
        )


def test_figures_have_four_digits_and_thousands_are_separated():
    assert quantity("total_time", 0.001) == "1 ms"
    assert quantity("mfu_estimated_percent", 0.5) == "50.0 %"
    assert quantity("average_pe_utilization_percent", 0.000244140625) == "0.024 %"
    assert quantity("flop_per_byte", 0.9965635538101196) == "0.9966"
    assert [quantity("loads", count) for count in (999, 1_160, 28_672)] == ["999", "1,160", "28,672"]
    assert label("mfu_estimated_percent") == "mfu estimated"


def test_the_compilers_percent_become_fractions_and_read_as_percent(tmp_path):
    (tmp_path / "tensorizer_metric_store.json").write_text(
        '{"Average": {"tensorizer": {"StaticProfiler::AveragePeUtilization": 0.0244140625}}}', encoding="utf-8"
    )
    (tmp_path / "log-neuron-cc.txt").write_text("", encoding="utf-8")
    found = inspect_compiler_workdir(tmp_path)
    assert found.tables["tiling"] == [{"figure": "average_pe_utilization_percent", "value": 0.000244140625}]
    (grid,) = (grid for grid in inspection_tables(found) if grid.title == "tiling")
    assert grid.rows == (("average pe utilization", "0.024 %"),)


def test_a_summary_without_events_is_shown_with_units():
    found = analyze(small_profile(summary={"total_time": 0.001, "mfu_estimated_percent": 0.5}, source="s.json"))
    told = [line.split(maxsplit=1) for line in profile_tables.heading_lines(found)]
    assert ["mfu", "estimated  50.0 %"] in told
    assert ["total", "time     1 ms"] in told


# sentences


def test_a_comparison_without_a_change_says_so():
    (same,) = compare_profiles([profile(), profile(source="b")]).differences
    assert comparison_tables.changes_table(same) is None
    assert comparison_tables.difference_lines(same)[-1].strip() == "no difference in any part of the kernel's time"


def test_shares_of_a_change_are_shown_only_where_no_part_exceeds_the_whole():
    (plain,) = _compared().differences
    assert comparison_tables.changes_table(plain).headings[-1] == "share of the change"
    other = small_profile(
        [instruction("Tensor", "MATMUL", 1_000, 4_000)], [packet(0, 1_000)], source="b", summary={"total_time": 5e-6}
    )
    base = small_profile(
        [instruction("Tensor", "MATMUL", 2_900, 2_000)], [packet(0, 2_900)], source="a", summary={"total_time": 4.9e-6}
    )
    (mixed,) = compare_profiles([base, other], different_work=True).differences
    assert max(abs(change.share_of_change) for change in mixed.changes) > 1
    assert "%" not in " ".join(" ".join(row) for row in comparison_tables.changes_table(mixed).rows)
    assert any("cancel" in line for line in comparison_tables.difference_lines(mixed))


def test_what_to_do_first_is_what_could_gain_most():
    found = analyze(profile())
    gains = {finding.gain.ns: finding for finding in found.findings if finding.gain.ns}
    first, *others = profile_tables.advice_lines(found)
    best = gains[max(gains)]
    assert first.startswith(f"do first: {best.action} (finding {found.findings.index(best) + 1}, up to ")
    assert all(line.startswith("then: ") for line in others)
    assert len(others) <= 2


def test_shares_name_what_they_are_of_and_the_window_is_told_of_a_warm_profile():
    found = analyze(profile())
    assert not found.kernel_time.is_cold
    assert any(line.startswith("window ") for line in profile_tables.heading_lines(found))
    assert re.search(r"; of the (window|total_time), each instant once: ", profile_tables.bound_lines(found)[0])
    assert "of window" in profile_tables.engine_table(found).headings


def test_notes_of_every_capture_are_not_repeated_under_every_command():
    notes = (
        "196 instructions before the begin marker are left out, as the vendor's tool leaves them out",
        "real",
        "real",
    )
    assert telling(notes) == ["real"]
    assert telling(["2 trace records were left over: starts of Tensor instructions without an end"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('2026-01-30T01:55:10Z WARNING 4326 [ErrorInjector]: Unknown value "0"', '[ErrorInjector]: Unknown value "0"'),
        ("2026-01-30 01:55:08.040496: I hilo/Dump.cc:89] [WARNING] No file", "hilo/Dump.cc:89] [WARNING] No file"),
        ("2024-10-31 20:42:06.000071:  2107025  ERROR ||NEURON_CC_WRAPPER||: Got it", "||NEURON_CC_WRAPPER||: Got it"),
        ("2024-10-31 20:42:06 2024-10-31 20:42:06.000071:  1 ERROR twice", "twice"),
        ("[ERROR]: Got a cached failed neff", "Got a cached failed neff"),
        ("plain", "plain"),
        ("2026-01-30T01:55:10Z", "2026-01-30T01:55:10Z"),
    ],
)
def test_a_warning_is_its_message_without_what_leads_it(line, message):
    assert message_of(line) == message


def test_a_long_warning_of_a_log_is_shown_whole(tmp_path):
    path = tmp_path / "log-neuron-cc.txt"
    tail = "and writes to /opt/" + "x" * 60 + "/MetricMetadata.json"
    path.write_text(f"2026-01-30T01:55:15Z WARNING 4326 [NeffFileWriter]: {'word ' * 30}{tail}\n", encoding="utf-8")
    (grid,) = (grid for grid in inspection_tables(inspect_neuron_log(path)) if grid.title == "warnings and errors")
    assert tail.replace(" ", "") in re.sub(r"\s+", "", "".join(text_of(grid, 80)[0]))


def test_facts_stay_within_the_terminal():
    found = Inspection("neuron-log", "p", "t", {"command": "neuronx-cc " + "--flag=value " * 20, "lines": 2_328})
    title, *facts = fact_lines(found, 79)
    assert title == "p: t"
    assert all(len(line) <= 79 for line in facts)
    assert facts[-1] == "  lines    2,328"
