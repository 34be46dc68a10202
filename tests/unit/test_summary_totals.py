"""Figures of a summary that no integer column holds."""

import pytest

from npuscope.errors import FormatError
from npuscope.profile.tables import conform, one_row


def test_a_sum_beyond_int64_is_refused_in_words_where_a_whole_number_is_wanted():
    row = one_row({"hbm_read_bytes": 1 << 63, "total_time": 1.0})
    assert row.column("hbm_read_bytes")[0].as_py() == float(1 << 63)
    with pytest.raises(FormatError, match="hbm_read_bytes"):
        conform("Summary", row, source="a profile")
