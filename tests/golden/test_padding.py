"""The padding table against the one that the public bucket experiment published with its measurements."""

import csv

from npuscope.analysis.buckets import padding_table, vllm_neuron_buckets


def test_the_padding_table_equals_the_published_one(samples):
    with (samples / "inf2-wall-latency" / "bucket_equivalence_test.csv").open() as file:
        published = list(csv.DictReader(file))
    ours = padding_table([int(row["actual_N"]) for row in published], vllm_neuron_buckets(2048))
    assert [(row.actual_N, row.bucket_N, row.padding_size) for row in ours] == [
        (int(row["actual_N"]), int(row["bucket_N"]), int(row["padding_size"])) for row in published
    ]
    assert all(
        abs(row.padding_pct - float(was["padding_pct"])) < 1e-9 for row, was in zip(ours, published, strict=True)
    )
