"""Peak rates of the device of a profile: from its Metadata, else from the hardware facts, and which of the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from npuscope.hardware.model import NeuronChip, hardware_names, load_hardware, neuron_core_of
from npuscope.profile.tables import Profile


@dataclass(frozen=True, slots=True)
class Constants:
    """Peaks of one NeuronCore; None where neither the profile nor the hardware facts know the device."""

    tensor_flops_per_s: float | None
    """2 x rows x columns x clock of the TensorEngine: dense bf16 or fp16."""
    tensor_clock_ghz: float | None
    hbm_bytes_per_s: float | None
    dma_bytes_per_s: float | None
    sources: Mapping[str, str]
    """Field to where it comes from: `Metadata`, or `hardware facts of inf2`. An NTFF holds no peak: those that the
    `Metadata` of such a profile has were put there from the hardware facts, and are told as such."""

    @property
    def ridge_flop_per_byte(self) -> float | None:
        """Arithmetic intensity above which the TensorEngine and not the HBM is the limit."""
        peak, width = self.tensor_flops_per_s, self.hbm_bytes_per_s
        return peak / width if peak and width else None


def constants_of(profile: Profile) -> Constants:
    """The peaks for a profile."""
    known = profile.metadata
    chip = chip_name(str(known.get("instance_type") or known.get("device") or ""))
    facts = _facts(chip)
    values: dict[str, float | None] = {}
    sources: dict[str, str] = {}
    rows, columns, clock = (
        known.get(f"tensor_engine_{name}") or facts.get(name) for name in ("num_rows", "num_cols", "clock_freq")
    )
    told = {
        "tensor_clock_ghz": known.get("tensor_engine_clock_freq"),
        "hbm_bytes_per_s": known.get("hbm_ddr_bandwidth"),
        "dma_bytes_per_s": known.get("dma_ddr_bandwidth"),
    }
    from_facts = known.get("source_format") == "ntff"
    for name, value in told.items():
        values[name] = value or facts.get(name)
        facts_source = f"hardware facts of {chip}" if chip else "unknown"
        sources[name] = "Metadata" if value and not (from_facts and chip) else facts_source
    if not values["tensor_clock_ghz"]:
        clock = None
    peak = 2e9 * rows * columns * clock if rows and columns and clock else None
    return Constants(
        tensor_flops_per_s=peak,
        tensor_clock_ghz=values["tensor_clock_ghz"],
        hbm_bytes_per_s=values["hbm_bytes_per_s"],
        dma_bytes_per_s=values["dma_bytes_per_s"],
        sources={"tensor_flops_per_s": sources["tensor_clock_ghz"], **sources},
    )


def is_v2(metadata: Mapping[str, Any]) -> bool:
    """Whether `Metadata` names an inf2 or trn1, which have NeuronCore-v2."""
    return chip_name(str(metadata.get("instance_type") or metadata.get("device") or "")) in {"inf2", "trn1"}


def chip_name(device: str) -> str:
    """The hardware key of an instance or device name: `inf2.xlarge`, `sim:inf2` and `trn1n.32xlarge` have one."""
    bare = device.lower().removeprefix("sim:").partition(".")[0]
    chips = [key for key in hardware_names() if isinstance(load_hardware(key), NeuronChip)]
    return next((key for key in chips if bare.startswith(key)), "")


def _facts(chip: str) -> dict[str, float]:
    """The hardware facts under the names used here; {} for an unknown device."""
    if not chip:
        return {}
    core, facts = neuron_core_of(chip), load_hardware(chip)
    if not isinstance(facts, NeuronChip):
        return {}
    return {
        "num_rows": core.pe_rows,
        "num_cols": core.pe_columns,
        "clock_freq": core.tensor_clock_ghz,
        "tensor_clock_ghz": core.tensor_clock_ghz,
        "hbm_bytes_per_s": 1e9 * facts.hbm_gb_s_per_chip / facts.cores_per_chip,
        "dma_bytes_per_s": 1e9 * core.dma_engines * core.dma_engine_gb_s,
    }
