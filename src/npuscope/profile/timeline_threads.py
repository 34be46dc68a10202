"""Processes and threads of a timeline, numbered as Perfetto's trace processor numbers them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import shorten
from npuscope.profile.tables import Profile
from npuscope.profile.timeline_sources import DRAWN, SliceSource, Texts, column, texts, thread_rank

Ticks = npt.NDArray[np.int64]
ProcessKey = tuple[str, int]
"""('core', pcore_idx), or the instance and process id of a process of the host."""
_CORE = "core"
_FIRST_FREE_ID = 1 << 20
"""Process and thread ids that the source does not give start here."""
_LARGEST_ID = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Thread:
    """One row of the thread table."""

    process: ProcessKey
    name: str
    kind: str
    wanted_tid: int = 0
    """The thread id that the source gives; 0 for none."""
    upid: int = 0
    utid: int = 0
    tid: int = 0


class Threads:
    """The processes and threads of one timeline: collected first, then numbered once."""

    def __init__(self, cores: dict[int, str]) -> None:
        self._cores = cores
        self._process_names: dict[ProcessKey, str] = {}
        self._codes: dict[tuple[Any, ...], int] = {}
        self._threads: list[Thread] = []
        self._processes: list[tuple[int, str]] = []
        self._upids: dict[ProcessKey, int] = {}
        self._by_utid: dict[int, Thread] = {}

    def core(self, index: int) -> ProcessKey:
        """The process of a physical core."""
        key = (_CORE, index)
        self._process_names[key] = self._cores.get(index, next(iter(self._cores.values())))
        return key

    def host_process(self, instance: str, process_id: int, name: str) -> ProcessKey:
        """A process of the host; its first name stays."""
        key = (f"host {instance}", process_id)
        self._process_names.setdefault(key, name)
        return key

    def add(self, thread: Thread) -> int:
        """A code for a thread; the same for equal ones."""
        key = (thread.process, thread.name, thread.kind, thread.wanted_tid)
        if key not in self._codes:
            self._codes[key] = len(self._threads)
            self._threads.append(thread)
        return self._codes[key]

    def number(self) -> Ticks:
        """Give every process and thread its ids; returns the utid of each code."""
        used: set[int] = set()
        utids = np.zeros(len(self._threads), np.int64)
        next_utid = 1
        keys = sorted(self._process_names, key=lambda key: (key[0] != _CORE, key))
        pids = {key: _own_id(key[1] + 1 if key[0] == _CORE else key[1], used) for key in keys}
        for upid, key in enumerate(keys, 1):
            pid = pids[key]
            self._upids[key] = upid
            self._processes.append((pid, self._process_names[key]))
            main, next_utid = next_utid, next_utid + 1
            own = [code for code, thread in enumerate(self._threads) if thread.process == key]
            for code in sorted(own, key=lambda code: thread_rank(self._threads[code].kind, self._threads[code].name)):
                thread = self._threads[code]
                if thread.wanted_tid == pid and main not in self._by_utid:
                    tid, utid = pid, main
                else:
                    tid, utid, next_utid = _own_id(thread.wanted_tid, used), next_utid, next_utid + 1
                utids[code] = utid
                self._by_utid[utid] = replace(thread, upid=upid, utid=utid, tid=tid)
        return utids

    def by_utid(self, utid: int) -> Thread:
        """A numbered thread."""
        return self._by_utid[utid]

    def upid(self, process: ProcessKey) -> int:
        """The number of a process."""
        return self._upids[process]

    def process_table(self) -> pa.Table:
        """upid, pid, name."""
        return pa.table(
            {
                "upid": pa.array(range(1, len(self._processes) + 1), pa.int64()),
                "pid": pa.array([pid for pid, _ in self._processes], pa.int64()),
                "name": pa.array([name for _, name in self._processes], pa.string()),
            }
        )

    def table(self) -> pa.Table:
        """utid, tid, upid, name, kind; in the order of utid."""
        threads = [self._by_utid[utid] for utid in sorted(self._by_utid)]
        return pa.table(
            {
                "utid": pa.array([thread.utid for thread in threads], pa.int64()),
                "tid": pa.array([thread.tid for thread in threads], pa.int64()),
                "upid": pa.array([thread.upid for thread in threads], pa.int64()),
                "name": pa.array([thread.name for thread in threads], pa.string()),
                "kind": pa.array([thread.kind for thread in threads], pa.string()),
            }
        )


def _own_id(wanted: int, used: set[int]) -> int:
    """`wanted` where it is an id that nobody has; else the next free one."""
    if not 0 < wanted <= _LARGEST_ID or wanted in used:
        wanted = _FIRST_FREE_ID
        while wanted in used:
            wanted += 1
    used.add(wanted)
    return wanted


def device_process_names(profile: Profile) -> dict[int, str]:
    """Physical core to the name of its process, which says what ran and whether it was measured or simulated."""
    found: set[int] = set()
    for name in DRAWN:
        if profile.has(name, "pcore_idx"):
            found |= set(pc.unique(column(profile, name, "pcore_idx")).drop_null().to_pylist())
    origin = "simulated" if profile.is_simulation else "measured"
    title = f"{shorten(profile.device, 200)} ({origin})"
    cores = sorted(found | {0}) if found else [0]
    return {core: title if len(cores) == 1 else f"{title}, core {core}" for core in cores}


def thread_codes(profile: Profile, source: SliceSource, threads: Threads) -> Ticks:
    """The code of the thread of every row of a table."""
    names, name_codes = _coded(source.threads(profile))
    if source.kind == "thread":
        return _host_codes(profile, source, threads, names, name_codes)
    cores, core_codes = np.unique(profile.numbers(source.table, "pcore_idx"), return_inverse=True)
    pairs, inverse = np.unique(core_codes.reshape(-1) * len(names) + name_codes, return_inverse=True)
    codes = [
        threads.add(Thread(threads.core(int(cores[core])), names[name], source.kind))
        for core, name in (divmod(pair, len(names)) for pair in pairs.tolist())
    ]
    return np.asarray(np.array(codes, np.int64)[inverse.reshape(-1)])


def _host_codes(profile: Profile, source: SliceSource, threads: Threads, names: list[str], name_codes: Ticks) -> Ticks:
    """Threads of the host: their instance, process and thread id tell them apart, then their name."""
    instances, instance_codes = _coded(texts(profile, source.table, "instance_id", ""))
    titles, title_codes = _coded(texts(profile, source.table, "process_name", ""))
    process, thread = profile.numbers(source.table, "process_id"), profile.numbers(source.table, "thread_id")
    keys = np.stack([instance_codes, process, thread, name_codes, title_codes])
    distinct, inverse = np.unique(keys, axis=1, return_inverse=True)
    codes = []
    for instance, pid, tid, name, title in distinct.T.tolist():
        label = titles[title] or f"host process {pid}" + (f" on {instances[instance]}" if instances[instance] else "")
        key = threads.host_process(instances[instance], pid, label)
        codes.append(threads.add(Thread(key, names[name] or f"thread {tid}", source.kind, tid)))
    return np.asarray(np.array(codes, np.int64)[inverse.reshape(-1)])


def _coded(values: Texts) -> tuple[list[str], Ticks]:
    """Distinct texts and the code of each value."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    encoded = array.dictionary_encode()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.to_numpy(), np.int64)
