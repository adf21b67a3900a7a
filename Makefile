# Every target makes what it needs, from a bare Python 3.11 to 3.14: `make book`.

PYTHON ?= python3
PORT ?= 8000
CHAPTER ?= 03_vae
INPUTS ?= 20000
WITH := $(if $(SOLUTIONS),--config solutions=$(SOLUTIONS)) # else as the configuration says
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PEERS := benchmarks/peers

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv book pdf full lab test fuzz lint bench peers replicate sensitivity serve clean

help:
	@echo 'make book    run the notebooks and build the book (book/_build/html/index.html)'
	@echo '             without the solutions of the exercises: make book SOLUTIONS=no'
	@echo 'make pdf     the same, and all of it as one PDF (needs Chromium): book/_build/html/book.pdf'
	@echo 'make full    the same with further pages on Fashion-MNIST, where it is found'
	@echo 'make serve   the same, then show it at http://127.0.0.1:$(PORT)'
	@echo 'make lab     open a chapter in JupyterLab: make lab CHAPTER=$(CHAPTER)'
	@echo 'make test    run the tests, which build a small book'
	@echo 'make replicate   run every chapter on ten other blocks of seeds (hours), for the page Replication'
	@echo 'make sensitivity  the same under other data, activations, widths and learning rates'
	@echo 'make fuzz    try many more inputs than the tests do: make fuzz INPUTS=100000'
	@echo 'make lint    check style, types, the order of the layers, and metadata'
	@echo 'make bench   measure the speed of training and of gradient estimation'
	@echo 'make peers   measure a step of training beside JAX, in an environment of its own'
	@echo 'make venv    only create the virtual environment, $(VENV)'
	@echo 'make clean   remove what was built, but not $(VENV)'

venv: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'vae_lab needs Python 3.11 or newer, and $(PYTHON) is older. Name another one: make PYTHON=python3.12 ...' >&2; \
		exit 1; }
	@echo 'Installing the packages of requirements.lock into $(VENV) (a few minutes) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

book: $(READY)
	$(BIN)/python -m snakemake $(WITH)

pdf: $(READY)
	$(BIN)/python -m snakemake pdf $(WITH)

replicate: $(READY)
	$(BIN)/python -m snakemake table --forcerun table --configfile config/replicate.yaml

sensitivity: $(READY)
	$(BIN)/python -m snakemake table --forcerun table --configfile config/sensitivity.yaml

full: $(READY)
	$(BIN)/python -m snakemake --configfile config/book.yaml config/full.yaml $(WITH)

test: $(READY) # in processes with one thread each (see tests/conftest.py); a file's tests share its book and browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

fuzz: $(READY)
	INPUTS=$(INPUTS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/test_fuzz_*.py

lint: $(READY) # of files that git knows: what else lies in notebooks/ is somebody's own
	git ls-files -z '*.py' '*.ipynb' | xargs -0 $(BIN)/ruff check
	git ls-files -z '*.py' '*.ipynb' | xargs -0 $(BIN)/ruff format --check
	$(BIN)/python -m mypy vae_lab vae_workflow
	$(BIN)/lint-imports --no-cache
	git ls-files -z notebooks | xargs -0 $(BIN)/nbstripout --verify --keep-id
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

bench: $(READY)
	$(BIN)/python benchmarks/speed.py

peers: $(PEERS)/.venv/ready
	OMP_NUM_THREADS=1 PYTHONPATH=.:benchmarks $(PEERS)/.venv/bin/python $(PEERS)/jax_training.py

$(PEERS)/.venv/ready: $(PEERS)/requirements.lock
	@$(PYTHON) -m venv $(PEERS)/.venv
	@$(PEERS)/.venv/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

lab: $(READY)
	$(BIN)/jupyter lab notebooks/$(CHAPTER).ipynb

serve: book
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory book/_build/html

clean:
	rm -rf build book/_build .snakemake .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis
	find . -name __pycache__ -not -path '*/.venv/*' -prune -exec rm -rf {} +
