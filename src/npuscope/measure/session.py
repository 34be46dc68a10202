"""A results folder while it is being filled: a journal that survives SIGKILL, and what is made from it.

journal.jsonl holds one line per event: a workload prepared, a chunk of samples taken, a row finished. Each line goes
out in one write before the next chunk is timed, so that a killed sweep loses at most the chunk in flight. results.csv
grows by a line per finished row. When all rows are there, results.csv and results.parquet are written in plan order
and the journal goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from npuscope._files import write_text_atomically
from npuscope.backends.base import CacheStatus, DeviceInfo
from npuscope.errors import FormatError, NpuscopeError, OutputError, UsageError, shorten
from npuscope.formats.results import (
    CSV_NAME,
    PARQUET_NAME,
    PREDICTED,
    PredictedColumns,
    ResultRow,
    csv_line,
    csv_text,
    read_parquet,
    row_from_mapping,
    write_parquet,
)
from npuscope.measure.settings import Settings
from npuscope.workloads.matmul import MatmulConfig

RUN_NAME = "run.json"
JOURNAL_NAME = "journal.jsonl"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep is to measure, enough to go on after a kill."""

    device: str
    configs: tuple[MatmulConfig, ...]
    settings: Settings
    suite: str = ""
    removed_duplicates: int = 0
    predicted: PredictedColumns = field(default_factory=dict)
    """What a model predicts for each config, by column; kept as it was when the sweep began."""

    def predicted_of(self, indices: Sequence[int]) -> dict[str, list[float | str]]:
        """The predicted columns of some configs."""
        return {name: [values[index] for index in indices] for name, values in self.predicted.items()}


@dataclass(slots=True)
class Taken:
    """What the journal holds of one workload that is not finished."""

    prepared: dict[str, Any] = field(default_factory=dict)
    samples_ns: list[int] = field(default_factory=list)
    sample_round: list[int] = field(default_factory=list)
    sessions: int = 0


class Session:
    """An open results folder; one process at a time."""

    def __init__(self, folder: Path, plan: Plan, document: dict[str, Any]) -> None:
        self.folder = folder
        self.plan = plan
        self.rows: dict[int, ResultRow] = {}
        self.taken: dict[int, Taken] = {}
        self.next_round = 0
        """Rounds are numbered through the whole sweep: equal numbers mean the same time."""
        self._document = document
        try:
            self._journal = (folder / JOURNAL_NAME).open("a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
        try:
            _lock(self._journal)
        except BlockingIOError:
            raise UsageError(f"{folder} is in use by another npuscope; wait for it or choose another folder") from None

    @property
    def remaining(self) -> list[int]:
        """Indices of the plan without a row."""
        return [index for index in range(len(self.plan.configs)) if index not in self.rows]

    def record(self, event: Mapping[str, Any]) -> None:
        """Append one event as one line.

        Raises:
            OutputError: The disk is full or the folder gone; what was recorded before stays.
        """
        self._write(self._journal, json.dumps(event, separators=(",", ":")) + "\n")

    def finish_row(self, index: int, row: ResultRow) -> None:
        """Record a finished row and append it to results.csv."""
        self.record(
            {
                "event": "row",
                "index": index,
                "row": row.summary(),
                "floor_samples_ns": row.floor_samples_ns,
                "warmup_ns": row.warmup_ns,
            }
        )
        self.rows[index] = row
        path = self.folder / CSV_NAME
        try:
            with path.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
                self._write(file, csv_line(row, (values[index] for values in self.plan.predicted.values())))
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error.strerror}; what is measured is kept, free space and run npuscope matmul --resume {self.folder}"
            ) from error

    def close(self, *, complete: bool) -> None:
        """Write the results in plan order; drop the journal once all of them are safe."""
        ordered, predicted = ordered_rows(self), self.plan.predicted_of(sorted(self.rows))
        write_text_atomically(self.folder / CSV_NAME, csv_text(ordered, predicted))
        write_parquet(self.folder / PARQUET_NAME, ordered, predicted)
        self._document["status"] = "complete" if complete else "interrupted"
        self._document["rows"] = {
            "planned": len(self.plan.configs),
            "measured": sum(row.status == "ok" for row in ordered),
            "failed": sum(row.status == "failed" for row in ordered),
        }
        write_text_atomically(self.folder / RUN_NAME, json.dumps(self._document, indent=1) + "\n")
        self._journal.close()
        if complete:
            (self.folder / JOURNAL_NAME).unlink(missing_ok=True)

    def _write(self, file: Any, line: str) -> None:
        try:
            file.write(line)
            file.flush()
        except OSError as error:
            raise OutputError(
                f"{self.folder} cannot be written: {error.strerror}; what is measured is kept, "
                f"free space and run npuscope matmul --resume {self.folder}"
            ) from error


def _lock(file: Any) -> None:
    """Hold the file for this process, where the platform and the file system can.

    Raises:
        BlockingIOError: Another process holds it.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return


def create_session(folder: Path, plan: Plan, device: DeviceInfo, provenance: dict[str, Any]) -> Session:
    """Start a results folder.

    Raises:
        UsageError: The folder holds something already.
        OutputError: It cannot be made or written.
    """
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"--out {shorten(str(folder))} is no text; choose a name in UTF-8") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = next(folder.iterdir(), None)
    except OSError as error:
        raise OutputError(f"{folder} cannot be used for results: {error.strerror}") from error
    if occupied is not None:
        resume = f"go on with --resume {folder}" if (folder / RUN_NAME).exists() else "it holds other files"
        raise UsageError(f"{folder} is not empty; choose another --out ({resume})")
    document = {
        "schema": _SCHEMA,
        "status": "running",
        "device": asdict(device),
        "suite": plan.suite,
        "removed_duplicates": plan.removed_duplicates,
        "settings": asdict(plan.settings),
        "configs": [asdict(config) for config in plan.configs],
        "predicted": {name: list(values) for name, values in plan.predicted.items()},
        "sessions": [provenance],
    }
    write_text_atomically(folder / RUN_NAME, json.dumps(document, indent=1) + "\n")
    write_text_atomically(folder / CSV_NAME, csv_text((), plan.predicted_of(())))
    return Session(folder, plan, document)


def resume_session(folder: Path, provenance: dict[str, Any]) -> Session:
    """Open a results folder to go on where it stopped; rows that are there stay as they are.

    Raises:
        UsageError: No results folder, or in use.
        FormatError: run.json or the journal is not what npuscope wrote.
    """
    path = folder / RUN_NAME
    document = _read_run(folder)
    plan = _plan_of(document, path)
    session = Session(folder, plan, document)
    if document.get("status") == "complete":
        rows = read_parquet(folder / PARQUET_NAME)
        for index, row in enumerate(rows):
            _check_row(plan, index, row, folder / PARQUET_NAME)
        session.rows = dict(enumerate(rows))
        return session
    for event in _events(folder / JOURNAL_NAME):
        _replay(session, event, folder / JOURNAL_NAME)
    document["status"] = "running"
    document.setdefault("sessions", []).append(provenance)
    write_text_atomically(path, json.dumps(document, indent=1) + "\n")
    write_text_atomically(folder / CSV_NAME, csv_text(ordered_rows(session), plan.predicted_of(sorted(session.rows))))
    return session


def recorded_device(folder: Path) -> dict[str, Any]:
    """The device that a results folder was measured on, as run.json has it.

    Raises:
        UsageError: No results folder.
        FormatError: run.json is not what npuscope wrote.
    """
    device = _read_run(folder).get("device")
    if not isinstance(device, dict) or not isinstance(device.get("name"), str):
        raise FormatError(folder / RUN_NAME, where="device", expected="an object with a name", found=str(device))
    return device


def _read_run(folder: Path) -> dict[str, Any]:
    if not (folder / RUN_NAME).is_file():
        raise UsageError(f"{folder} has no {RUN_NAME}: nothing to resume")
    return _read_json(folder / RUN_NAME)


def _plan_of(document: dict[str, Any], path: Path) -> Plan:
    if document.get("schema") != _SCHEMA:
        raise FormatError(path, where="schema", expected=str(_SCHEMA), found=str(document.get("schema")))
    if not isinstance(document.get("sessions"), list):
        raise FormatError(path, where="sessions", expected="a list", found=str(document.get("sessions")))
    try:
        configs = tuple(MatmulConfig(**entry) for entry in document["configs"])
        settings = Settings(**document["settings"])
        device, suite, removed = document["device"]["name"], document["suite"], document["removed_duplicates"]
    except (KeyError, TypeError, NpuscopeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise FormatError(path, expected="the run.json of npuscope matmul", found=found) from error
    texts = (device, suite, *(text for config in configs for text in (config.name, config.dtype)))
    if not all(isinstance(text, str) for text in texts) or type(removed) is not int or not configs:
        raise FormatError(path, expected="the run.json of npuscope matmul", found="a value of another type")
    return Plan(device, configs, settings, suite, removed, _predicted_of(document, len(configs), path))


def _predicted_of(document: dict[str, Any], count: int, path: Path) -> PredictedColumns:
    """The predicted columns of run.json; none in folders from before there were any."""
    columns = document.get("predicted", {})
    if not isinstance(columns, dict):
        raise FormatError(path, where="predicted", expected="an object of columns", found=type(columns).__name__)
    for name, values in columns.items():
        kinds = {type(value) for value in values} if isinstance(values, list) else set()
        alike = kinds == {str} or (kinds and kinds <= {int, float})
        if not name.startswith(PREDICTED) or not alike or len(values) != count:
            expected = f"{count} numbers or texts under a name that starts with {PREDICTED}"
            raise FormatError(path, where=f"predicted, {shorten(name)}", expected=expected, found=str(values))
    return columns


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """The journal's events; a last line cut by a kill is left out and cut off, so that the next one starts fresh."""
    if not path.exists():
        return
    whole = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                event = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FormatError(path, where=f"byte {whole}", expected="a JSON line", found=str(error)) from error
            whole += len(line)
            yield event
    with path.open("rb+") as file:
        file.truncate(whole)


def _replay(session: Session, event: object, path: Path) -> None:
    """Take one event over.

    Raises:
        FormatError: It is not one that npuscope writes at this place.
    """
    if not isinstance(event, dict) or event.get("event") not in ["prepared", "chunk", "row"]:
        raise FormatError(path, expected="an event of npuscope matmul", found=str(event))
    index = event.get("index")
    if type(index) is not int or not 0 <= index < len(session.plan.configs) or index in session.rows:
        raise FormatError(path, where="index", expected="a workload of the plan without a row", found=str(index))
    taken = session.taken.setdefault(index, Taken())
    if event["event"] == "prepared":
        _replay_prepared(taken, event, path)
    elif not taken.prepared:
        raise FormatError(path, where=f"index {index}", expected="the workload prepared first", found=event["event"])
    elif event["event"] == "chunk":
        _replay_chunk(session, taken, event, path)
    else:
        extra = {name: event.get(name) for name in ("floor_samples_ns", "warmup_ns")}
        kept = {"samples_ns": taken.samples_ns, "sample_round": taken.sample_round}
        fields_of_row = event.get("row")
        row = row_from_mapping({**(fields_of_row if isinstance(fields_of_row, dict) else {}), **extra, **kept}, path)
        _check_row(session.plan, index, row, path)
        session.rows[index] = row
        del session.taken[index]


def _replay_prepared(taken: Taken, event: dict[str, Any], path: Path) -> None:
    numbers = [event.get("compile_ns"), event.get("first_run_ns"), *_list(event.get("warmup_ns"))]
    if not _counts(numbers) or event.get("cache") not in [status.value for status in CacheStatus]:
        raise FormatError(path, where=f"index {event['index']}", expected="a prepared workload", found=str(event))
    taken.sessions += 1
    taken.prepared = taken.prepared or event


def _replay_chunk(session: Session, taken: Taken, event: dict[str, Any], path: Path) -> None:
    samples, number = event.get("samples_ns"), event.get("round", -1)
    if (
        not isinstance(samples, list)
        or not isinstance(number, int)
        or not _counts([number, *samples])
        or number in taken.sample_round
    ):
        raise FormatError(path, where=f"index {event['index']}", expected="a chunk of a new round", found=str(event))
    taken.samples_ns += samples
    taken.sample_round += [number] * len(samples)
    session.next_round = max(session.next_round, number + 1)


def _check_row(plan: Plan, index: int, row: ResultRow, path: Path) -> None:
    """Raise unless a row is of the plan's workload and device and, where it did not fail, has its samples."""
    wanted = (*plan.configs[index].shape, plan.configs[index].dtype, plan.device) if index < len(plan.configs) else ()
    found = (row.M, row.K, row.N, row.dtype, row.device)
    if found != wanted or (row.status == "ok" and len(row.samples_ns) != row.samples):
        raise FormatError(path, where=f"row {index}", expected=f"{wanted} with its samples", found=str(found))


def _counts(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(path, expected="a JSON document", found=str(error)) from error
    if not isinstance(document, dict):
        raise FormatError(path, expected="a JSON object", found=type(document).__name__)
    return document


def ordered_rows(session: Session) -> Sequence[ResultRow]:
    """The finished rows in plan order."""
    return [session.rows[index] for index in sorted(session.rows)]
