"""What JAX logs of its persistent compilation cache: keys, the hashes that they are made of, and why nothing was written.

The messages are those of JAX 0.10; where another version words them otherwise, nothing is heard.
"""

from __future__ import annotations

import logging
import re
import threading
from typing import Any, Final

_LOGGERS: Final = ("jax._src.compiler", "jax._src.cache_key", "jax._src.compilation_cache")
_KEY: Final = re.compile(r"compilation cache (?:hit|miss) for '.*' with key '(?P<key>[^']+)'", re.IGNORECASE)
_PART: Final = re.compile(r"get_cache_key hash of serialized (?P<part>.+): (?P<hash>[0-9a-f]{64})")
_NOT_WRITTEN: Final = (
    ("too fast", re.compile(r"because it took < (?P<detail>[\d.]+) seconds")),
    ("too small", re.compile(r"is less than threshold \((?P<detail>\d+) bytes\)")),
    ("callbacks", re.compile(r"because it uses host (?P<detail>callbacks)")),
    ("other process", re.compile(r"Not writing .* since (?P<detail>process_id) != 0")),
)
_PART_NAMES: Final = {
    "computation": "program",
    "jax_lib version": "version of jaxlib",
    "backend version": "version of the compiler",
    "XLA flags": "XLA_FLAGS",
    "compile_options": "compile options",
    "accelerator_config": "devices",
    "custom_hook": "custom hook of the key",
}


class LogWatch:
    """Hears some of JAX's loggers, below the levels at which they are shown."""

    def __init__(self) -> None:
        self._heard: dict[int, dict[str, Any]] = {}

    def begin(self) -> None:
        """Start to listen; who reads the log sees what he would see without."""
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            own = logger.level
            logger.setLevel(logging.DEBUG)
            logger.addFilter(_Listener(self, logger, own))

    def hear(self, text: str) -> None:
        """One message, for the compilation that this thread is in."""
        told = self._heard.setdefault(threading.get_ident(), {})
        if found := _KEY.search(text):
            told["key"] = found["key"]
        elif found := _PART.search(text):
            told.setdefault("key_parts", {})[_PART_NAMES.get(found["part"], found["part"])] = found["hash"][:16]
        for reason, pattern in _NOT_WRITTEN:
            if found := pattern.search(text):
                told["not_written"] = [reason, found["detail"]]

    def take(self) -> dict[str, Any]:
        """What this thread's last compilation logged."""
        return self._heard.pop(threading.get_ident(), {})


class _Listener(logging.Filter):
    """Hears a message, and hides it if it would not have been shown."""

    def __init__(self, watch: LogWatch, logger: logging.Logger, own_level: int) -> None:
        super().__init__()
        self._watch = watch
        self._logger = logger
        self._own_level = own_level

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is shown."""
        self._watch.hear(record.getMessage())
        parent = self._logger.parent
        shown_from = self._own_level or (parent.getEffectiveLevel() if parent else logging.WARNING)
        return record.levelno >= shown_from
