"""Any bytes as a mapping end in a mapping or in one FormatError, and no path in one leads out of its folder."""

import json
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from npuscope.errors import FormatError, UsageError
from npuscope.formats.pattern_folder import MAPPING_NAME, find_profile, read_mapping
from tests.strategies import mutations

fuzz = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
MAPPING = json.dumps(
    {
        "pattern_execution_order": [["vmap", "/tmp/x/a.ntff"], ["scan", "b/b.ntff"]],
        "pattern_profile_mapping": {"/tmp/x/a.ntff": "vmap", "b/b.ntff": "scan"},
        "perfetto_files": ["vmap.pftrace"],
        "generated_timestamp": "2025-09-01T00:00:00",
    }
).encode()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["a.ntff", "b", "..", ".", "", "/", "C:", "\\", "in", "secret.ntff", "link.ntff", "\0", "é", "a" * 300]
)
paths = st.lists(names, max_size=6).map("/".join) | st.text(max_size=30)


def outcome(call, *arguments):
    """What a call returns, and else the line that it ends in."""
    try:
        return call(*arguments), ""
    except (FormatError, UsageError) as error:
        return None, str(error)


@fuzz
@given(mutations(MAPPING) | st.binary(max_size=60))
def test_any_bytes_are_a_mapping_or_a_format_error(tmp_path: Path, data):
    path = tmp_path / MAPPING_NAME
    path.write_bytes(data)
    found, refusal = outcome(read_mapping, path)
    if found is None:
        assert str(path) in refusal
        assert "\n" not in refusal
    else:
        assert all(isinstance(text, str) for pair in found.execution_order for text in pair)


@fuzz
@given(order=values, profiles=values, files=values, when=values)
@example(order=[["vmap", "\ud800"]], profiles={}, files=[], when=0)
def test_any_json_is_a_mapping_or_a_format_error(tmp_path: Path, order, profiles, files, when):
    keys = ("pattern_execution_order", "pattern_profile_mapping", "perfetto_files", "generated_timestamp")
    (tmp_path / MAPPING_NAME).write_text(json.dumps(dict(zip(keys, (order, profiles, files, when), strict=True))))
    found, refusal = outcome(read_mapping, tmp_path)
    assert (found is None) == bool(refusal)
    assert "\n" not in refusal


@fuzz
@given(paths, paths, st.sampled_from(["vmap", "a", "secret", "link", ".", "(", "\0", "é"]))
def test_what_is_found_is_a_file_of_the_folder(tmp_path: Path, first, second, pattern):
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True, exist_ok=True)
    for path in (tmp_path / "secret.ntff", folder / "a.ntff", folder / "b/a.ntff"):
        path.write_bytes(b"x")
    link = folder / "link.ntff"
    if not link.is_symlink():
        link.symlink_to(tmp_path / "secret.ntff")
    document = {"pattern_execution_order": [[pattern, first]], "pattern_profile_mapping": {second: pattern}}
    (folder / MAPPING_NAME).write_text(json.dumps(document))
    found, refusal = outcome(find_profile, folder, pattern)
    if found is None:
        assert "\n" not in refusal
    else:
        assert found[0] in {folder / "a.ntff", folder / "b/a.ntff"}
