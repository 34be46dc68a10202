"""Rows of a sweep in which nothing is measured: a folder for predictions alone."""

from __future__ import annotations

from typing import Final

from npuscope.backends.base import DeviceInfo
from npuscope.formats.results import UNMEASURED, ResultRow
from npuscope.measure.session import Session
from npuscope.measure.sweep import common_columns
from npuscope.workloads.dtypes import OPERAND_TYPES

NO_DEVICE_INFO: Final = DeviceInfo(
    "none", "no device: every figure is predicted", is_simulated=True, dtypes=OPERAND_TYPES
)


def leave_unmeasured(session: Session) -> None:
    """Give every workload without a row one that has no latency and says so."""
    for index in session.remaining:
        columns = common_columns(NO_DEVICE_INFO, session.plan.configs[index], session.plan.settings)
        session.rows[index] = ResultRow(**columns, status=UNMEASURED, latency_ms=None)
