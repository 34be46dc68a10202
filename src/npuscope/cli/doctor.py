"""`npuscope doctor`."""

from __future__ import annotations

from npuscope.cli.output import JsonFlag, console, print_json, say


def doctor(json: JsonFlag = False) -> None:
    """What can be measured here: devices, SDKs, tools, drivers, versions, and what is missing."""
    from npuscope.measure.doctor import examine

    report = examine()
    if json:
        print_json(report)
        return
    from npuscope.report.grid import table
    from npuscope.units import format_bytes

    host = report.host
    say(f"npuscope {report.npuscope}, Python {report.python}")
    shared = ", a virtual machine: neighbours may take time from it" if host.hypervisor else ""
    say(f"host: {host.model}, {host.usable_cores} cores, {format_bytes(host.memory_bytes)} memory{shared}")
    say(report.auto)
    say("")
    rows = [
        [
            device.device,
            "no" if device.info is None else "simulated" if device.info.is_simulated else "yes",
            ", ".join(device.info.dtypes) if device.info else "",
            device.info.description if device.info else device.missing,
        ]
        for device in report.devices
    ]
    console().print(table(["<device", "<here", "<types", "<what it is, or what it lacks"], rows))
    say("")
    console().print(
        table(
            ["<tool", "<path", "<version"],
            [[tool.name, tool.path or "not found", tool.version] for tool in report.tools],
        )
    )
    say("")
    console().print(
        table(["<driver", "<version"], [[driver.name, driver.version or "not loaded"] for driver in report.drivers])
    )
    say("")
    say("packages: " + ", ".join(f"{name} {version}" for name, version in report.packages.items()))
    for device in report.devices:
        if not device.available:
            say(f"to get {device.device}: {device.remedy}")
