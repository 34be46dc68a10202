"""Why programs are compiled again: each cause with what it means, how it is recognised, and what to do, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason for compiling."""

    name: str
    meaning: str
    fix: str
    recognised: str
    """By what evidence it is told."""


_NKI_JIT: Final = "nki_jit() (torch_neuronx.nki_jit up to SDK 2.23, torch_neuronx.xla_impl.ops.nki_jit to 2.28)"
"""AWS's announcement of 2025-06-24 ended the former; NxD Inference imports the latter up to SDK 2.28."""
_BEFOREHAND: Final = "compile it beforehand (as npuscope mlp build --method klir does) and load the NEFF"
_ALL: Final = (
    Cause(
        "none",
        "each program is compiled once",
        "nothing to do",
        "no function has more compilations than programs that it needs",
    ),
    Cause(
        "shape-change",
        "a function is called with arrays of other shapes, and each shape is a program of its own",
        "pad to a few fixed shapes (npuscope buckets plans them from your lengths), drop or pad the last partial batch, and"
        " compile them before serving",
        "arguments, or parameters of the compiled programs, differ in shape",
    ),
    Cause(
        "dtype-change",
        "a function is called with other types, among them weak ones: a Python number in place of an array",
        "convert arguments once, where they are made: jnp.asarray(x, jnp.float32), x.to(torch.bfloat16)",
        "arguments, or parameters of the compiled programs, differ in type or in being weakly typed",
    ),
    Cause(
        "structure-change",
        "a function is called with another number of arguments, other keys, or None in place of an array",
        "give it one structure of arguments: all keys always, zeros in place of None",
        "the paths of the arguments differ",
    ),
    Cause(
        "placement-change",
        "a function is called with arrays that lie elsewhere, or are divided otherwise",
        "place arguments once with jax.device_put(x, sharding), and give jax.jit in_shardings",
        "arguments differ in their sharding or device only",
    ),
    Cause(
        "static-argument",
        "an argument that is part of the program has other values, and each value is a program of its own",
        "pass it as an array instead (drop it from static_argnums and static_argnames), or allow only a few"
        " values; an object, such as self, is another value each time unless it is a pytree or compares by what it holds",
        "static arguments of the calls differ",
    ),
    Cause(
        "constant-embedded",
        "a value is written into the program, so that each value is another program",
        "hoist it out: pass the value as an argument of the function rather than closing over it; in torch_xla use a tensor on the"
        " device rather than a Python number",
        "the compiled programs differ in the values of constants only, and the arguments do not",
    ),
    Cause(
        "new-function",
        "a new function object is jitted for each call, so that nothing is found in the cache of the process",
        "define and jit the function once, outside of the loop: no jax.jit(lambda ...), functools.partial or nested def per call;"
        f" an NKI kernel is wrapped once, at the top of the module, by {_NKI_JIT}",
        "the compiled programs are the same, the function objects are not",
    ),
    Cause(
        "unstable-names",
        "programs that do the same have other names, numbers or ids, and the key of the cache covers them",
        "give the function and the kernel a fixed name (no counter, no id); with torch_xla wrap an NKI kernel in"
        f" {_NKI_JIT} instead of @nki.jit, or {_BEFOREHAND}",
        "programs are equal but for names, numbers and order, and their keys differ",
    ),
    Cause(
        "program-change",
        "the function becomes another program although its arguments look the same",
        "look for Python that decides while tracing: a branch on a global, a counter, a random choice, a setting; make it an argument"
        " or use jax.lax.cond and jax.lax.fori_loop",
        "the compiled programs differ in what they do, and the arguments do not",
    ),
    Cause(
        "flags-differ",
        "one program is compiled for several sets of flags or settings",
        "set flags once for all processes: NEURON_CC_FLAGS, XLA_FLAGS, jax.config; an unset variable is another set of flags",
        "the program is the same; settings, or the part of the key that covers them, are not",
    ),
    Cause(
        "compiler-version-differs",
        "one program is compiled by several versions of the compiler, none of which uses what another made",
        "use one version everywhere, fill the cache again after an upgrade, and remove the old one's entries: npuscope cache prune"
        " --compiler OTHER-THAN-NEWEST",
        "one program under several compilers",
    ),
    Cause(
        "cache-off",
        "no cache is kept between processes, so that each compiles everything again",
        "set JAX_COMPILATION_CACHE_DIR (jax_compilation_cache_dir) to a folder that all processes share; for torch_xla"
        " NEURON_COMPILE_CACHE_URL or NEURON_CC_FLAGS='--cache_dir=...', without --no_cache",
        "a later process compiled again what an earlier one had, and no cache is set",
    ),
    Cause(
        "cache-not-writable",
        "a cache is set, but nothing can be written there",
        "make the folder, and make it writable for the user who runs this; or set JAX_COMPILATION_CACHE_DIR or"
        " NEURON_COMPILE_CACHE_URL to one that is",
        "entries should have been written and are not there, or the folder refuses to be written to",
    ),
    Cause(
        "cache-not-shared",
        "each process has a cache folder of its own",
        "set one fixed folder for all processes, ranks and containers: jax_compilation_cache_dir, NEURON_COMPILE_CACHE_URL, or"
        " NEURON_CC_FLAGS='--cache_dir=...'; no tempfile.mkdtemp, no folder of the job",
        "processes, or lines of a log, name several cache folders",
    ),
    Cause(
        "cache-not-kept",
        "what was compiled is compiled again under the same key",
        "look for what empties the cache: jax.clear_caches(), a container without a volume, a clean-up job,"
        " jax_compilation_cache_max_size; host callbacks are never kept",
        "one key is compiled more than once",
    ),
    Cause(
        "too-fast-to-cache",
        "programs compile faster, or are smaller, than what JAX's persistent cache keeps",
        "set jax_persistent_cache_min_compile_time_secs=0 and jax_persistent_cache_min_entry_size_bytes=-1"
        " (JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0)",
        "JAX says that it does not write the entry for that reason",
    ),
    Cause(
        "failed-compile-cached",
        "a compilation failed, and the failure is kept: the program will not be compiled, nor run",
        "read its model.log, repair what is told there, then have it tried again: NEURON_CC_FLAGS='--retry_failed_compilation', or"
        " npuscope cache prune --failed",
        "a log line says so, or an entry has a log and no NEFF",
    ),
    Cause(
        "entry-incomplete",
        "entries are half-written, unreadable or locked, so that they are compiled again, waited for, or fail when they are loaded",
        "npuscope cache prune --incomplete; nothing else may be compiling",
        "entries without a NEFF that can be read, or without the mark that it is whole; locks that are old",
    ),
    Cause(
        "eager",
        "operations run one by one outside of jax.jit, and each is a program of its own, compiled at its first use",
        "put them into a function of jax.jit, or make the arrays with NumPy",
        "only JAX's own functions are called, each compiled once",
    ),
    Cause(
        "not-seen",
        "the program starts processes of its own, and compiles there: only the process that was started is watched",
        "run the doctor on what those processes run, as a script of its own, or name a function that does the work in this one"
        " (SCRIPT.py:FUNCTION); a log and the cache folder tell of all of them",
        "forks, multiprocessing and subprocesses, and no function of the user's in the process that was watched",
    ),
    Cause(
        "unexplained",
        "programs are, or may be, compiled again, and what was seen does not tell why",
        "give the doctor the script, its log and the cache folder together, so that programs are compared; where an NKI kernel of"
        f" @nki.jit is compiled in each iteration, wrap it in {_NKI_JIT}, or {_BEFOREHAND}",
        "compilations without keys, programs or arguments to compare",
    ),
)


CAUSES: Final = {cause.name: cause for cause in _ALL}
"""By name, in the order of the documentation."""
