# Each target sets up what it needs in a virtual environment of its own, from nothing.
PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv
LINT := .venv-lint
DOCS := .venv-docs
# A file is one worker's: what its tests share is made once.
PYTEST_WORKERS ?= -n logical --maxprocesses 4 --dist loadfile
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-quick lint bench docs clean

help:
	@echo "make demo   measure matmuls here, read a capture, simulate and compare kernels (sets itself up)"
	@echo "make test   run the tests, with JAX and OpenVINO (sets itself up)"
	@echo "make lint   ruff, mypy --strict, import-linter"
	@echo "make bench  the benchmarks, each against a peer in one run"
	@echo "make docs   build the documentation into docs/_build"

demo: $(DEMO)/ready
	$(DEMO)/bin/npuscope doctor
	@echo
	$(DEMO)/bin/npuscope matmul --suite quick --shape 128x128x1024 --device cpu --out results/demo-quick-$$(date +%Y%m%d-%H%M%S)
	@echo
	@folder=results/demo-boundary-$$(date +%Y%m%d-%H%M%S); \
	$(DEMO)/bin/npuscope matmul --shapes examples/boundary_shapes.csv --device cpu --max-seconds 1 --out $$folder --chart && \
	echo && $(DEMO)/bin/npuscope tiling $$folder && \
	echo && echo "open $$folder/chart.html in a browser"
	@echo
	@echo "A capture, read and explained (synthetic: its times are made up)"
	@$(DEMO)/bin/python examples/synthetic_capture.py results/demo.ntff
	$(DEMO)/bin/npuscope analyze results/demo.ntff
	@echo
	$(DEMO)/bin/npuscope query results/demo.ntff "SELECT engine, opcode, count(*) AS n, sum(duration_ns) AS ns FROM Instruction GROUP BY ALL ORDER BY ns DESC"
	@echo
	@echo "A kernel, run on a simulated Trainium: predicted, not measured"
	$(DEMO)/bin/npuscope simulate examples/nki/rmsnorm.py:kernel --inputs inputs --reference reference --device sim:trn1
	@echo
	@echo "A matmul for AMD Ryzen AI: planned, and executed on an emulated array"
	$(DEMO)/bin/npuscope xdna plan 3001 512 512 --top 3
	@echo
	$(DEMO)/bin/npuscope xdna bench 3001 512 512 --strategy per-tile,k-on-device,whole-array --out results/demo-xdna-$$(date +%Y%m%d-%H%M%S)
	@echo
	@echo "Two kernels for one MLP, on a simulated Trainium 2: which is faster, and why"
	$(DEMO)/bin/npuscope mlp run --device sim:trn2 --out results/demo-mlp-$$(date +%Y%m%d-%H%M%S)

test: $(TEST)/ready
	$(TEST)/bin/python -m pytest $(PYTEST_WORKERS) $(PYTEST_ARGS)

lint: $(LINT)/ready
	$(LINT)/bin/ruff check .
	$(LINT)/bin/ruff format --check .
	$(LINT)/bin/mypy
	$(LINT)/bin/lint-imports

bench: $(TEST)/ready
	$(TEST)/bin/python -m benchmarks.run

docs: $(DOCS)/ready
	$(DOCS)/bin/python docs/generate.py
	$(DOCS)/bin/sphinx-build -q -W --keep-going docs docs/_build
	@echo "docs/_build/index.html"

$(DEMO)/ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python $(PIP) -e '.[charts]'
	@touch $@

$(TEST)/ready: pyproject.toml
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/python $(PIP) -e '.[test,jax,openvino]'
	@touch $@

$(LINT)/ready: pyproject.toml
	$(PYTHON) -m venv $(LINT)
	$(LINT)/bin/python $(PIP) -e '.[lint]'
	@touch $@

$(DOCS)/ready: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python $(PIP) -e '.[docs]'
	@touch $@

clean:
	rm -rf $(DEMO) $(TEST) $(LINT) $(DOCS) docs/_build build dist
