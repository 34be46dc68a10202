"""What AWS's profiler makes of a capture, by stand-ins for both tools: formats, places, refusals."""

import os

import pytest

from npuscope.backends import neuron_tools
from npuscope.backends.neuron_view import VIEW_FORMATS, show_session, view_capture, view_name
from npuscope.errors import FormatError, MeasurementError, OutputError, UnavailableError, UsageError
from npuscope.formats.artifact import identify, read_profile
from tests.standins.neuron_capture import add_views, install_profiler, make_shelf

HAS = {
    "neuron-explorer": VIEW_FORMATS,
    "neuron-profile": tuple(name for name in VIEW_FORMATS if name != "parquet"),
}
PAIRS = [(tool, name) for tool, formats in HAS.items() for name in formats]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("NEURON_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(neuron_tools, "TOOL_FOLDER", "/nothing")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    made = make_shelf(tmp_path_factory.mktemp("shelf") / "shelf")
    add_views(made)
    return made


@pytest.fixture
def view(tmp_path, shelf):
    """View the shelf's capture by a stand-in, as the file or folder `view` of the test's folder."""

    def run(output_format, *, name="neuron-explorer", mode="exec", version="2.33.38.0", output="view", **options):
        tool = install_profiler(tmp_path / "bin", shelf, name=name, mode=mode, version=version)
        (tmp_path / "to").mkdir(exist_ok=True)
        target = tmp_path / "to" / output
        return view_capture(
            shelf / "graph.neff", shelf / "graph.ntff", target, output_format=output_format, tool=tool, **options
        )

    return run


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "to").iterdir())


@pytest.mark.parametrize(("name", "output_format"), PAIRS)
def test_each_tool_gives_the_formats_that_it_has(name, output_format, view, tmp_path, shelf):
    made = view(output_format, name=name)
    assert made == tmp_path / "to" / "view"
    assert left(tmp_path) == ["view"]  # and nothing beside it
    if output_format == "parquet":
        assert {path.name for path in made.iterdir()} == {path.name for path in (shelf / "views" / "parquet").iterdir()}
    else:
        assert made.read_bytes().strip() == (shelf / "views" / output_format).read_bytes().strip()
    if output_format != "summary-text":
        assert identify(made).reader


def test_a_view_is_read_like_any_profile(view, tmp_path):
    assert read_profile(view("parquet")).tables["Instruction"].num_rows == 10
    assert read_profile(view("json", output="view.json")).tables["Instruction"].num_rows == 20


def test_parquet_is_refused_of_the_older_tool_and_json_of_too_new_a_one(view, tmp_path):
    with pytest.raises(UnavailableError, match="neuron-profile writes json, perfetto, summary-json and summary-text"):
        view("parquet", name="neuron-profile")
    with pytest.raises(
        UnavailableError, match=r"neuron-explorer 2\.34\.1 has no full profile as JSON, .* was 2\.33; view as par"
    ):
        view("json", version="2.34.1")
    assert left(tmp_path) == []
    assert view("json", version="2.33.38.0").is_file()


def test_a_tool_that_has_the_format_is_found(tmp_path, shelf):
    both = shelf / "graph.neff", shelf / "graph.ntff"
    with pytest.raises(UnavailableError, match="neither neuron-explorer nor neuron-profile"):
        view_capture(*both, tmp_path / "a", output_format="json")
    install_profiler(tmp_path / "bin", shelf, name="neuron-profile")
    with pytest.raises(UnavailableError, match="install neuron-explorer, or view as json"):
        view_capture(*both, tmp_path / "a", output_format="parquet")
    install_profiler(tmp_path / "bin", shelf, version="2.34.0")
    assert view_capture(*both, tmp_path / "a", output_format="json").is_file()  # by the older of the two
    assert view_capture(*both, tmp_path / "b", output_format="parquet").is_dir()  # by the newer


def test_tables_are_found_wherever_the_tool_puts_them_but_not_guessed(view, tmp_path):
    assert view("parquet", mode="elsewhere").is_dir()
    with pytest.raises(MeasurementError, match="wrote 2 results, which cannot be told apart"):
        view("parquet", mode="twice", output="other")


@pytest.mark.parametrize("output_format", VIEW_FORMATS)
@pytest.mark.parametrize("mode", ["garbage", "silent", "fail", "hang", "killed"])
def test_a_view_that_fails_is_one_line_and_leaves_nothing(mode, output_format, view, tmp_path):
    words = {
        "garbage": "ended well but (gave|wrote)",
        "silent": "ended well but (gave|wrote)",
        "fail": "ended with status 1: level=fatal msg=.unsupported NTFF version",
        "hang": "took longer than 0.5 s",
        "killed": "was killed by SIGKILL",
    }
    told = rf"neuron-explorer view of .* as {output_format}:? .*{words[mode]}"
    with pytest.raises(MeasurementError, match=told) as raised:
        view(output_format, mode=mode, timeout_s=0.5 if mode == "hang" else 60)
    assert "\n" not in str(raised.value)
    assert left(tmp_path) == []


@pytest.mark.parametrize("output_format", ["json", "perfetto", "parquet"])
def test_a_view_that_is_cut_off_is_refused_though_the_tool_ended_well(
    output_format, view, shelf, tmp_path, monkeypatch
):
    place = shelf / "views" / output_format
    file = place if place.is_file() else place / "Instruction.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    try:
        with pytest.raises(MeasurementError, match=f"ended well but gave no {output_format}"):
            view(output_format)
    finally:
        file.write_bytes(whole)
    assert left(tmp_path) == []


def test_what_is_there_is_never_replaced(view, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "view").write_text("mine")
    for output_format in VIEW_FORMATS:
        with pytest.raises(OutputError, match="view exists"):
            view(output_format)
    assert (tmp_path / "to" / "view").read_text() == "mine"
    with pytest.raises(OutputError, match="is no folder"):
        view("json", output="none/view")


def test_bad_arguments_are_refused(view, shelf, tmp_path):
    with pytest.raises(UsageError, match="unknown view format 'parket'; did you mean 'parquet'"):
        view("parket")
    tool = install_profiler(tmp_path / "bin", shelf)
    with pytest.raises(FormatError, match="expected a capture"):
        view_capture(shelf / "graph.neff", tmp_path / "no.ntff", tmp_path / "v", output_format="json", tool=tool)
    with pytest.raises(FormatError, match="NEFF"):
        view_capture(shelf / "damaged.neff", shelf / "graph.ntff", tmp_path / "v", output_format="json", tool=tool)
    with pytest.raises(MeasurementError, match="the NTFF is of another NEFF"):
        view_capture(shelf / "other.neff", shelf / "graph.ntff", tmp_path / "v", output_format="json", tool=tool)


def test_names_of_views_tell_the_format():
    names = [view_name("a", output_format) for output_format in VIEW_FORMATS]
    assert names == ["a_parquet", "a.json", "a.pftrace", "a.json", "a.txt"]


# show-session


@pytest.fixture
def session(tmp_path, shelf):
    def run(*, mode="exec", name="neuron-profile", ntff="graph", **options):
        tool = install_profiler(tmp_path / "bin", shelf, name=name, mode=mode)
        return show_session(shelf / f"{ntff}.ntff", tool=tool, **options)

    return run


def test_the_time_of_each_core_is_its_cycles_in_picoseconds(session):
    rows = session()
    assert [(row.executor, row.name, row.ticks, row.duration_ns) for row in rows] == [
        ("ND 0 NC 0", "sg00", 7654321, 7654.321),
        ("ND 0 NC 1", "sg01", 7000500, 7000.5),
    ]


def test_the_older_tool_is_found_and_the_newer_refused(session, shelf, tmp_path):
    with pytest.raises(UnavailableError, match="neuron-profile is not on PATH"):
        show_session(shelf / "graph.ntff")
    with pytest.raises(
        UnavailableError, match="a command of neuron-profile, and no document has it in neuron-explorer"
    ):
        session(name="neuron-explorer")
    install_profiler(tmp_path / "bin", shelf, name="neuron-profile")
    assert len(show_session(shelf / "graph.ntff")) == 2


@pytest.mark.parametrize(
    ("mode", "error", "told"),
    [
        ("garbage", FormatError, "show-session of .*graph.ntff, line 1: expected a column CYCLES"),
        ("silent", FormatError, "show-session of .*graph.ntff: expected a show-session table"),
        ("fail", MeasurementError, "ended with status 1: level=fatal msg=.unsupported trace format"),
        ("hang", MeasurementError, "took longer than 0.5 s"),
    ],
)
def test_a_session_that_cannot_be_told_is_one_line(mode, error, told, session):
    with pytest.raises(error, match=told) as raised:
        session(mode=mode, timeout_s=0.5 if mode == "hang" else 60)
    assert "\n" not in str(raised.value)


def test_a_capture_that_is_not_there_is_told(session):
    with pytest.raises(FormatError, match="expected a capture"):
        session(ntff="none")
