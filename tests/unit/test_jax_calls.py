"""Calls of jitted functions in a host trace: the outermost count."""

import gzip
import json
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from npuscope.backends.jax_calls import CallTrace, _json_events, count_calls
from npuscope.backends.jax_logs import LogWatch


def call(name, start, end, thread=0):
    return thread, f"PjitFunction({name})", float(start), float(end)


def mark(number, at, thread=0):
    return thread, f"npuscope.compile#{number}", float(at), float(at)


def test_calls_within_a_call_are_part_of_its_tracing():
    calls, places = count_calls([call("f", 0, 10), call("f", 0.1, 9), call("add", 2, 3), mark(0, 5), call("f", 11, 12)])
    assert calls == {"f": 2}
    assert places == {0: ["f", 0]}


def test_threads_do_not_enclose_each_other():
    calls, places = count_calls(
        [call("f", 0, 10), call("g", 2, 3, thread=1), mark(4, 2.5, thread=1), mark(5, 2.5, thread=2)]
    )
    assert calls == {"f": 1, "g": 1}
    assert places == {4: ["g", 0]}


def test_other_events_are_no_calls():
    assert count_calls([(0, "PjitFunction", 0.0, 1.0), (0, "Execute", 2.0, 3.0)])[0] == {}


@given(order=st.permutations([call("f", n, n + 0.5) for n in range(6)] + [mark(n, n + 0.25) for n in range(6)]))
def test_the_order_of_the_file_does_not_matter(order):
    calls, places = count_calls(order)
    assert calls == {"f": 6}
    assert places == {n: ["f", n] for n in range(6)}


def test_programs_that_were_compiled_ahead_of_time_and_pmap_are_counted_by_their_names():
    events = [
        call("jit(f)", 0, 1),
        call("f", 2, 3),
        (0, "JaxPmapFunction(g)", 4.0, 5.0),
        (0, "PmapFunction(g)", 6.0, 7.0),
    ]
    assert count_calls(events)[0] == {"jit(f)": 1, "f": 1, "g": 2}


def test_a_jax_without_the_session_of_its_profiler_is_told(tmp_path):
    trace = CallTrace(tmp_path)
    trace.begin(SimpleNamespace(__version__="99.0", profiler=SimpleNamespace()))
    trace.mark(0)
    assert trace.end() == {
        "missing": "JAX 99.0 has no session of a profiler to record calls alone with",
        "by_name": None,
        "of_compile": {},
    }


def test_the_trace_that_older_jax_exports_tells_the_same(tmp_path):
    events = [{"ph": "M", "name": "process_name"}, {"ph": "X", "tid": 3, "name": "Execute", "ts": 0.0, "dur": 1.0}]
    events += [{"ph": "X", "tid": 3, "name": "PjitFunction(f)", "ts": 1.5 * n, "dur": 1.0} for n in range(3)]
    path = tmp_path / "vm.trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    assert list(_json_events(path)) == [(3, "PjitFunction(f)", 1500.0 * n, 1500.0 * n + 1000.0) for n in range(3)]


def test_keys_and_reasons_are_heard_from_jax_s_own_messages():
    watch = LogWatch()
    watch.hear("PERSISTENT COMPILATION CACHE MISS for 'jit_f' with key 'jit_f-00ff'")
    watch.hear("get_cache_key hash of serialized compile_options: " + "a" * 64)
    watch.hear("Not writing persistent cache entry for 'jit_f' because it took < 1.00 seconds to compile (0.02s)")
    watch.hear("anything else")
    assert watch.take() == {
        "key": "jit_f-00ff",
        "key_parts": {"compile options": "a" * 16},
        "not_written": ["too fast", "1.00"],
    }
    assert watch.take() == {}
