"""What to run: matmul shapes, the suites that list them, and the LLM scenarios that shapes come from."""
