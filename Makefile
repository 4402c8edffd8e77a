# Needs only Python 3.11 or newer, make, and access to package registries. Works with make 3.81, the version of macOS.

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip -qq --disable-pip-version-check
NPM := dev/azurite tests/browser/node bench/node
AZURITE := dev/azurite/node_modules/.installed

# The newest Python that can create a virtual environment; evaluated only if $(VENV) does not exist.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python dev/supported_python.py >/dev/null 2>&1 && { echo $$python; break; }; done)

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help up stores demo roll test test-manifests test-containers bench-worker bench-notifier bench-index bench-dashboard pictures check format lock release clean node browser prometheus

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

up: $(VENV)/.local $(AZURITE) ## Run everything on this machine until Ctrl-C; settings come from the environment
	@$(RUN) -m dev.up

stores: $(VENV)/.local $(AZURITE) ## Run only Azurite and Valkey until Ctrl-C, for services that you start yourself
	@$(RUN) -m dev.up stores

demo: $(VENV)/.local $(AZURITE) ## Run a few jobs in a separate system and show their progress in this terminal
	@$(RUN) -m dev.demo

roll: ## Restart or upgrade a running docker compose system, one replica at a time; ARGS="worker" for one service
	@$(or $(PYTHON),false) deploy/compose/roll.py $(ARGS)

# Tests often wait: two cores keep four workers busy. Each of them reads all modules, so that they are kept compiled.
test: browser $(VENV)/.test $(AZURITE) ## Run the tests of the code; ARGS="..." is passed to pytest, BROWSER=none skips the browser tests
	PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest --ignore=tests/deploy --numprocesses=4 --dist=loadfile --no-loadscope-reorder $(if $(filter none,$(BROWSER)),-m "not browser") $(ARGS)

test-manifests: prometheus $(VENV)/.test $(AZURITE) $(VENV)-checkov/.installed $(VENV)-release/.installed ## Check manifests, metrics and alerts with the tools of their users
	$(RUN) -m pytest tests/deploy -m "not containers" $(ARGS)

test-containers: $(VENV)/.test ## Build the image, run compose.yaml and kill containers; needs Docker
	@docker compose version >/dev/null && docker info >/dev/null
	$(RUN) -m pytest -m containers $(ARGS)

BENCH := $(VENV)/.local $(AZURITE) $(VENV)-bench/.installed bench/node/node_modules/.installed
bench-worker: $(BENCH) ## Compare the worker with Celery, arq and BullMQ; ARGS="--rounds 1" for a short run
	$(RUN) -m bench.worker $(ARGS)

LOAD := bench/notifier/build
bench-notifier: $(BENCH) $(LOAD)/load $(LOAD)/limit ## Compare the notifier with Socket.IO, FastAPI and others; needs a C compiler
	$(RUN) -m bench.notifier $(ARGS)

bench-index: $(BENCH) ## Measure lists with a million jobs; ARGS="--jobs 100000" for a short run
	$(RUN) -m bench.index $(ARGS)

bench-dashboard: browser $(VENV)/.test $(AZURITE) ## Measure the dashboard in Chromium; ARGS="--seconds 10" for a short run
	$(RUN) -m bench.dashboard $(ARGS)

pictures: browser $(VENV)/.test $(AZURITE) ## Take the pictures of the documentation, docs/images, from a running system
	$(RUN) -m dev.pictures

$(LOAD)/load: $(addprefix bench/notifier/,load.c frames.c meter.c options.c reports.c watchers.c load.h)
$(LOAD)/limit: bench/notifier/limit.c
$(LOAD)/%:
	@mkdir -p $(LOAD)
	$(CC) -O2 -Wall -Wextra -std=gnu17 -o $@ $(filter %.c,$^)

check: $(VENV)/.test ## Check format, lint and types
	$(RUN) -m ruff format --check
	$(RUN) -m ruff check
	$(RUN) -m mypy

format: $(VENV)/.test ## Format the code and apply ruff's automatic fixes
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

# The largest set is locked first and constrains the others, so that a package has the same version in all of them.
# The lock files contain no URL of a registry.
UV ?= $(shell command -v uv || echo $(RUN) -m uv)
COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --no-annotate --no-header $(ARGS)
SERVICES := pyproject.toml --extra submitter --extra worker --extra notifier --extra otel
LOCAL := $(SERVICES) --extra cli --group local
WITHIN := --constraint requirements-test.lock
lock: $(RUN) node ## Regenerate the lock files; ARGS=--upgrade uses the newest versions
	@$(UV) --version >/dev/null 2>&1 || $(PIP) install uv
	$(COMPILE) $(LOCAL) --group test --output-file requirements-test.lock
	$(COMPILE) $(LOCAL) $(WITHIN) --output-file requirements-local.lock
	$(COMPILE) $(SERVICES) $(WITHIN) --output-file requirements.lock
	$(COMPILE) --group node --output-file requirements-node.lock
	$(COMPILE) $(WITHIN) --group build --output-file requirements-build.lock
	$(COMPILE) --group checkov --output-file requirements-checkov.lock
	$(COMPILE) $(WITHIN) --group release --output-file requirements-release.lock
	$(COMPILE) --group bench --output-file requirements-bench.lock
	@for folder in $(NPM); do \
		$(RUN) -m dev.node npm --prefix $$folder install --package-lock-only --ignore-scripts && \
		$(RUN) -m dev.npm_lock $$folder/package-lock.json || exit 1; done

release: $(VENV)-release/.installed ## Release the tagged version; ARGS="--dry-run IMAGE" shows what would be published
	PYTHON=$(VENV)-release/bin/python deploy/release.sh $(ARGS)

clean: ## Remove all files that make has created, including the jobs and keys in .headway
	rm -rf $(VENV) $(VENV)-checkov $(VENV)-release $(VENV)-bench dist .headway $(NPM:%=%/node_modules) $(LOAD) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Prerequisites of the targets above. A stamp file that is older than its lock file triggers an installation.

$(RUN):
	@$(or $(PYTHON),false) dev/supported_python.py 2>/dev/null || { echo "Headway needs Python 3.11 or newer with venv" \
		"(Debian: apt-get install python3-venv); PYTHON=... names one that is not on the PATH" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.%: requirements-%.lock pyproject.toml | $(RUN)
	@echo "Installing Python packages from $< into $(VENV) (a minute or two the first time)"
	@$(PIP) install --require-hashes -r $<
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# checkov, the tools of a release and the systems of the benchmarks have separate environments: they need many packages.
$(VENV)-%/.installed: requirements-%.lock | $(RUN)
	@echo "Installing Python packages from $< into $(VENV)-$* (a minute or two)"
	@$(PYTHON) -m venv --clear $(VENV)-$*
	@$(VENV)-$*/bin/python -m pip -qq --disable-pip-version-check install --require-hashes -r $<
	@touch $@

%/node_modules/.installed: %/package-lock.json | node
	@echo "Installing npm packages into $*/node_modules (up to half a minute)"
	@$(RUN) -m dev.node npm --prefix $* ci --ignore-scripts --loglevel=error >/dev/null
	@touch $@

node: | $(RUN)
	@$(RUN) -m dev.node || { echo "Installing Node.js into $(VENV), because no Node.js of version 20 or newer with npm was found"; \
		$(PIP) install --require-hashes -r requirements-node.lock; }

CHROMIUM := chromium chromium-browser google-chrome
browser:
ifneq ($(BROWSER),none)
browser: tests/browser/node/node_modules/.installed
	@for name in $(CHROMIUM); do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium"; apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else \
		echo "The browser tests need Chromium: sudo apt-get install chromium, or skip them: make test BROWSER=none" >&2; \
		exit 1; \
	fi
endif

# Without these tools, the tests that need them are skipped.
prometheus:
	@command -v prometheus >/dev/null && command -v haproxy >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Prometheus and HAProxy"; apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus haproxy >/dev/null; \
	else \
		echo "Some tests need Prometheus and HAProxy, and are skipped: sudo apt-get install prometheus haproxy" >&2; \
	fi
