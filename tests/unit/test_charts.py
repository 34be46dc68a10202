"""Chart specifications and the offline page."""

import json
import re

import pytest

from npuscope.analysis.boundary import boundary_study
from npuscope.report.charts import axis_charts, boundary_chart, latency_chart, to_svg
from npuscope.report.page import matmul_page
from npuscope.tiling.model import TENSOR_ENGINE
from tests.unit.test_boundary import row

DEVICE = {"name": "cpu", "is_simulated": False, "description": "a <b>processor</b>", "versions": {"numpy": "2"}}


def rows():
    return [row(M, 0.1 + M / 1000) for M in (120, 128, 136)]


def test_the_latency_chart_holds_every_measured_row_and_the_floor():
    specification = latency_chart(rows())
    assert [value["latency_us"] for value in specification["data"]["values"]] == [1e3 * r.latency_ms for r in rows()]
    assert specification["layer"][2]["data"]["values"][0]["floor_us"] == 10


def test_a_dimension_that_varies_alone_gets_a_chart_with_its_tile_edges():
    (chart,) = axis_charts(rows(), TENSOR_ENGINE)
    assert chart["title"]["text"] == "Latency along M"
    assert chart["layer"][0]["data"]["values"] == [{"edge": 128}]


def test_the_boundary_chart_shows_each_crossing():
    values = boundary_chart(boundary_study(rows()))["data"]["values"]
    assert len(values) == 1
    assert values[0]["crossing"].startswith("M 128 → 136")


def test_charts_become_svg_without_a_browser():
    pytest.importorskip("vl_convert")
    for specification in (
        latency_chart(rows()),
        *axis_charts(rows(), TENSOR_ENGINE),
        boundary_chart(boundary_study(rows())),
    ):
        assert to_svg(specification).startswith("<svg")


def test_the_page_is_self_contained_and_no_text_becomes_markup():
    pytest.importorskip("vl_convert")
    hostile = "</script><script>alert(1)</script>"
    measured = [*rows(), row(200, 1.0, name=hostile, warnings="x", warning_details=f"{hostile}; next: {hostile}")]
    page = matmul_page(measured, boundary_study(measured), TENSOR_ENGINE, DEVICE)
    assert "alert(1)" not in re.sub(r"&lt;[^<]*&gt;|\\u003c[^<]*\\u003e", "", page)
    assert "<b>processor</b>" not in page
    assert page.count("<script") == page.count("</script>") == 3
    assert not re.search(r"""(src|href)=["']https?:""", page)
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', page, re.S).group(1))
    assert len(charts) >= 2
    assert len(page) < 3_000_000
