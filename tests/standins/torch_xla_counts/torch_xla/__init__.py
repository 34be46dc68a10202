"""A stand-in for torch_xla as far as the recompilation doctor meets it: graphs that are looked up, and counters.

On a path of its own, since it is imported in the process of a user's program. Like torch_xla's, a counter that was never raised
reads None, as does a metric without samples; names must be texts, which its C++ functions insist on.
"""

__version__ = "2.9.0"
_compiled: set[object] = set()
_counters: dict[str, int] = {}
_samples: dict[str, list[float]] = {}


def execute(graph: object, compile_ns: float = 4e9) -> None:
    """What `torch_xla.sync()` does with the graph that was recorded: look it up, compile it if it is new, run it."""
    name = "CachedCompile" if graph in _compiled else "UncachedCompile"
    _counters[name] = _counters.get(name, 0) + 1
    if graph not in _compiled:
        _compiled.add(graph)
        _samples.setdefault("CompileTime", []).append(compile_ns)
    _samples.setdefault("ExecuteTime", []).append(1e6)
