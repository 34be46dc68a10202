"""Files in and out: results folders, latency tables, histograms, shape lists."""
