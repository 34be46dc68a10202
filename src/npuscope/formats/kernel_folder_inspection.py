"""What `npuscope inspect` says of a build folder of kernels."""

from __future__ import annotations

from pathlib import Path

from npuscope.formats.inspection import Inspection
from npuscope.formats.kernel_folder import read_manifest


def inspect_kernel_folder(folder: Path) -> Inspection:
    """What was built, from which inputs, and which Profiles came of it.

    Raises:
        FormatError: The manifest is damaged.
    """
    manifest = read_manifest(folder)
    built = [item for item in manifest.builds if item.status == "built"]
    rows = [
        {
            "kernel": item.name,
            "config": f"{item.config.text}, {item.config.dtype}",
            "device": item.device,
            "status": item.status,
            "method": item.method,
            "compile_ms": item.compile_ms,
            "neff": item.neff,
            "error": item.error,
        }
        for item in manifest.builds
    ]
    inputs = [{"config": f"{item.config.text}, {item.config.dtype}", "sha256": item.sha256} for item in manifest.inputs]
    profiles = sorted(path.name for path in (folder / "profiles").glob("*") if path.is_dir())
    return Inspection(
        "kernel-build",
        str(folder),
        f"build of {len(built)} of {len(rows)} {manifest.family} implementations for {len(inputs)} sets of sizes",
        {"seed": manifest.seed, "npuscope": str(manifest.provenance.get("npuscope", ""))},
        {"builds": rows, "inputs": inputs, "profiles": [{"folder": f"profiles/{name}"} for name in profiles]},
    )
