"""Studies of measured latencies: the dispatch floor, tile boundaries, buckets."""
