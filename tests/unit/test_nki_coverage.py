"""The table of what the simulator supports is true: it is read off the modules that kernels import."""

from types import ModuleType
from typing import Any

import pytest

from npuscope.simulate.nki.coverage import (
    ApiModule,
    Support,
    api_modules,
    coverage,
    coverage_page,
    find,
    undocumented,
)
from npuscope.simulate.nki.modules import simulated_modules

MODULES = simulated_modules()


@pytest.mark.parametrize("module", api_modules(), ids=lambda module: module.name)
def test_every_supported_name_is_there(module: ApiModule) -> None:
    place = find(module.name, MODULES)
    for entry in coverage(module, MODULES):
        if entry.support is not Support.NONE:
            assert entry.name in dir(place), entry.name


@pytest.mark.parametrize("name", ["neuronxcc.nki.isa", "nki.isa", "neuronxcc.nki.language", "nki.language"])
def test_every_supported_operation_can_be_called(name: str) -> None:
    module = next(module for module in api_modules() if module.name == name)
    for entry in coverage(module, MODULES):
        if entry.support is not Support.NONE and entry.lowering:
            assert callable(getattr(MODULES[name], entry.name)), entry.name


@pytest.mark.parametrize("module", api_modules(), ids=lambda module: module.name)
def test_every_public_name_of_a_module_is_documented(module: ApiModule) -> None:
    assert undocumented(module, MODULES) == ()


def test_every_operation_says_what_it_becomes() -> None:
    for name in ("neuronxcc.nki.isa", "nki.isa"):
        module = next(module for module in api_modules() if module.name == name)
        silent = [
            entry.name
            for entry in coverage(module, MODULES)
            if entry.support is not Support.NONE
            and not entry.lowering
            and callable(getattr(MODULES[name], entry.name))
            and not isinstance(getattr(MODULES[name], entry.name), type)
        ]
        assert [found for found in silent if not found.startswith("get_nc")] == []


def test_a_name_without_code_and_one_that_only_says_no_are_not_supported() -> None:
    fake: Any = ModuleType("fake")
    fake.works = lambda: None
    fake.refuses = lambda: None
    fake.refuses.is_unsupported = True
    module = ApiModule("fake", "current", "here", ("works", "refuses", "absent"))
    assert [entry.support for entry in coverage(module, {"fake": fake})] == [Support.FULL, Support.NONE, Support.NONE]


def test_what_lacks_something_is_partly_supported_and_says_what() -> None:
    entries = {e.name: e for module in api_modules() if module.name == "nki.isa" for e in coverage(module, MODULES)}
    assert entries["topk"].support is Support.PART
    assert entries["topk"].lacks
    assert entries["nc_matmul"].support is Support.FULL
    assert entries["sendrecv"].support is Support.NONE


def test_the_page_has_a_row_per_documented_name() -> None:
    page = coverage_page(MODULES)
    assert page.count("\n| `") == len(api_modules()) + sum(len(module.names) for module in api_modules())
