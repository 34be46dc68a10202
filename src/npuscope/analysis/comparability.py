"""May two profiles be compared? Only with the same work, the same method and the same device, or as the user insists."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from npuscope.analysis.analyze import Analysis
from npuscope.errors import ComparisonError
from npuscope.profile.tables import Profile

_SAME_FLOPS = 1e-9


@dataclass(frozen=True, slots=True)
class Work:
    """What a program computes, as far as its profile tells."""

    program: str
    """UUID of the NEFF, up to its first zero byte; '' where unknown."""
    tensors: tuple[tuple[str, str, int], ...]
    """Kind, shape and bytes of each input and output, sorted; names do not count."""
    model_flops: int | None
    io_bytes: int | None
    """Inputs and outputs without weights, which the compiler adds to (an identity matrix for transposes)."""


def work_of(profile: Profile) -> Work:
    """What a profile says of its work."""
    known = profile.summary
    io_bytes, weights = known.get("inputs_outputs_weights_size_bytes"), known.get("weight_size_bytes") or 0
    names = ("type", "shape", "size")
    table = profile.table("TensorInfo").select(list(names)).to_pylist()
    tensors = Counter(
        (row["type"], row["shape"] or "", row["size"] or 0) for row in table if row["type"] in {"IN", "OUT"}
    )
    uuid = str(profile.metadata.get("capture_uuid") or profile.first("NeffHeader").get("uuid") or "")
    return Work(
        program=uuid.replace("-", "").lower()[:32],
        tensors=tuple(sorted(tensors.elements())),
        model_flops=known.get("model_flops") or None,
        io_bytes=io_bytes - weights if io_bytes else None,
    )


def same_work(left: Work, right: Work) -> tuple[bool | None, str]:
    """Whether two works are the same, and what tells: None where nothing does."""
    if left.program and left.program == right.program:
        return True, "the same NEFF"
    told = []
    if left.tensors and right.tensors:
        if left.tensors != right.tensors:
            return False, f"inputs and outputs are {_tensors(left)} against {_tensors(right)}"
        told.append("inputs and outputs of the same shapes and sizes")
    if left.model_flops and right.model_flops:
        if abs(left.model_flops - right.model_flops) > _SAME_FLOPS * left.model_flops:
            return False, f"{left.model_flops:,} model FLOPs against {right.model_flops:,}"
        told.append("the same model FLOPs")
    if left.io_bytes and right.io_bytes:
        if left.io_bytes != right.io_bytes:
            return False, f"{left.io_bytes:,} bytes of inputs and outputs against {right.io_bytes:,}"
        told.append("as many bytes of inputs and outputs")
    if not told:
        return None, "neither tensors, FLOPs nor a NEFF's UUID are in both artifacts"
    return True, ", ".join(told)


def require_comparable(
    first: Analysis, other: Analysis, works: tuple[Work, Work], *, different_work: bool, across_devices: bool
) -> list[str]:
    """Remarks on a comparison that may be made.

    Args:
        first: The baseline.
        other: What is compared with it.
        works: Of the two.
        different_work: The user insists although the work differs or is unknown.
        across_devices: The user wants another device compared.

    Raises:
        ComparisonError: The reason why not, and what to do.
    """
    names = f"{first.source} and {other.source}"
    if first.kernel_time is None or other.kernel_time is None:
        empty = first.source if first.kernel_time is None else other.source
        raise ComparisonError(f"{empty} holds no events: there is no time to compare")
    if first.is_simulated != other.is_simulated:
        simulated = first.source if first.is_simulated else other.source
        raise ComparisonError(f"{names} are not comparable: {simulated} is simulated and the other measured")
    if first.kernel_time.is_cold != other.kernel_time.is_cold:
        cold = first.source if first.kernel_time.is_cold else other.source
        raise ComparisonError(
            f"{names} are not comparable: {cold} is a cold capture and the other is not; capture it again with "
            "--profile-nth-exec 2"
        )
    remarks = []
    if first.device != other.device:
        if not across_devices:
            raise ComparisonError(
                f"{names} are not comparable: {first.device} against {other.device}; --across-devices compares them"
            )
        remarks.append(f"DIFFERENT DEVICES: {first.device} against {other.device}")
    same, reason = same_work(*works)
    if same is not True:
        what = "differs" if same is False else "is unknown"
        if not different_work:
            raise ComparisonError(
                f"{names} are not comparable: their work {what} ({reason}); --allow-different-work compares them all the same"
            )
        remarks.append(f"THE WORK {what.upper()}: {reason}; a ratio of times says nothing of which is better")
    else:
        remarks.append(f"same work: {reason}")
    if bool(first.kernel_time.program_instructions) != bool(other.kernel_time.program_instructions):
        remarks.append(
            "only one of the artifacts tells the kernel's instructions from the runtime's; the windows differ by that"
        )
    return remarks


def _tensors(work: Work) -> str:
    return ", ".join(f"{kind} {shape}" for kind, shape, _ in work.tensors[:4]) + (
        ", ..." if len(work.tensors) > 4 else ""
    )
