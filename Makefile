# Two commands: `make run` does the main job, `make test` passes the tests. Both set up .venv first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin

# Python 3.11 to 3.13: the first one found that runs and is in this range. PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

.PHONY: help run physics toys check test test-faults test-triton test-slurm lint clean

help:
	@echo "make run      stage the data, train the models, validate them: ends with results/report/index.html"
	@echo "make physics  the same with several seeds, for figures with uncertainties"
	@echo "make toys     the same on rings and grids of Gaussians: which modes are found, which collapse"
	@echo "make check    linters, types, import contracts, and the tests not marked slow (none over some five seconds; no Ray,"
	@echo "              no SLURM): minutes, before every commit"
	@echo "make test     all tests, linters and types; in a random order, whose seed is printed (repeat it with"
	@echo "              .venv/bin/pytest tests --randomly-seed=SEED; -p no:randomly keeps the order of the files)"
	@echo "make test-faults  what clusters do to trainings, done to them on a SLURM of two nodes: one part of make test"
	@echo "make clean    remove the environment; results stay"

# Networks this small train faster on one worker each, two models at a time.
run: .venv/installed
	@$(BIN)/snakemake --set-threads train=1 --quiet all
	@$(BIN)/kantor summary results/report

physics: .venv/installed
	@$(BIN)/snakemake report-physics --set-threads train=1 --quiet all
	@$(BIN)/kantor summary results/report-physics

toys: .venv/installed
	@$(BIN)/snakemake report-toys --set-threads train=1 --quiet all
	@$(BIN)/kantor summary results/report-toys

# What is slow creeps in: the five longest are shown.
check: .venv/tested lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" --durations=5 --durations-min=5

# A test that waits for SLURM or Ray leaves its core to the other process. Whole files, as their tests share what is slow
# to make; the files that take longest are first (tests/conftest.py).
test: .venv/tested
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint test-triton
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20 tests

# A real SLURM of two nodes, which slurm/testcluster brings up as root: part of make test.
test-slurm: .venv/tested
	$(BIN)/pytest tests/slurm

# Of these, what clusters do to trainings, done to them. Prints the times of docs/faults.md.
test-faults: .venv/tested
	$(BIN)/pytest -s -v tests/slurm/test_faults.py

# The oldest Triton that the kernels support, in a folder of its own. Its interpreter turns arrays into numbers in a way
# that NumPy 2.3 warns about and 2.4 refuses.
OLD_TRITON := .venv/triton-3.6
test-triton: .venv/tested
	@test -d $(OLD_TRITON)/triton || $(BIN)/python -m pip install --quiet --no-deps --target $(OLD_TRITON) \
		triton==3.6.0 'numpy>=2.3,<2.4'
	PYTHONPATH=$(OLD_TRITON) PYTEST_ADDOPTS='-W "ignore:Conversion of an array:DeprecationWarning"' $(BIN)/pytest tests/kernels/test_static.py tests/kernels/pairwise/test_triton.py \
		-k "compiles or quick" -m "not slow"

lint: .venv/tested
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflows

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Kantor needs Python 3.11, 3.12 or 3.13, and found none." >&2; \
		echo "  cure: install one (Debian and Ubuntu: apt-get install python3 python3-venv), or say PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments." >&2; \
		echo "  cure: apt-get install python3-venv (or python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv)" >&2; exit 2; }
	@echo "installing Kantor into .venv (once; a few minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dis,mpi,root,parquet,slurm]'
	@touch $@

# The Triton that tests/kernels/static_budget.json holds for, in a folder of its own beside the one that a CUDA build of
# torch brings; where torch brings none, it is the environment's.
PINNED_TRITON := .venv/triton-3.9
.venv/tested: .venv/installed
	@echo "installing the test tools"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[geant4,download]' --group test --group lint
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(PINNED_TRITON) triton==3.9.0
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/python -c \
		'import sysconfig; open(sysconfig.get_path("purelib") + "/pinned-triton.pth", "w").write("../../../triton-3.9\n")'
	@touch $@

clean:
	rm -rf .venv
