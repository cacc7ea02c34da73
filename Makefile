# The commands of this repository; `make` alone lists them. GNU make 3.81 (macOS) is enough.
# Each command sets up .venv first if it is missing or stale: see `python3 -m shared.environment`.

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(if $(shell command -v $(name) 2>/dev/null),$(name))) python3)
VENV := .venv/bin/python
unexport PYTHONPATH PYTHONHOME

PARAMETERS := ALL LAB BACKEND MODEL PYTHON
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNKNOWN := $(filter-out $(PARAMETERS),$(GIVEN))
ifneq ($(UNKNOWN),)
$(error Unknown parameter $(UNKNOWN). There are: $(PARAMETERS))
endif

.PHONY: help labs test test-clients jupyter bench notebooks requirements lint stop clean distclean environment
.DEFAULT_GOAL := help

help:
	@echo 'make labs          run the core notebooks of all labs, then write out/report.html'
	@echo '                     ALL=1                the further notebooks too'
	@echo '                     LAB=1                only this lab'
	@echo '                     BACKEND=sagemaker    on AWS instead of this machine (it costs money)'
	@echo '                     LAB=1 MODEL=name     with another model: catalogue name, Hub id or folder'
	@echo 'make jupyter       open the labs in JupyterLab'
	@echo 'make test          lint, generated files, all tests: at most 15 minutes'
	@echo 'make test-clients  tests with SDK v2, awscli, and transformers of the training image'
	@echo 'make bench         measure speed'
	@echo 'make notebooks     build the notebooks from lab*/source and execute them'
	@echo 'make requirements  write the requirement files from pyproject.toml'
	@echo 'make lint          only the lint of make test'
	@echo 'make stop          stop the local SageMaker'
	@echo 'make clean         stop it and remove what was generated, but not .venv'
	@echo 'make distclean     remove .venv and .venv-clients too'
	@echo
	@echo 'The first command sets up .venv, and says beforehand what that costs in download, disk and time.'

environment:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo 'There is no python3 here: install Python 3.11, 3.12 or 3.13.' >&2; exit 1; }
	@$(PYTHON) -m shared.environment

labs: environment
	@$(VENV) -m shared.runner --out out $(if $(LAB),--lab "$(LAB)") $(if $(filter-out 0,$(ALL)),--all) $(if $(BACKEND),--backend "$(BACKEND)") $(if $(MODEL),--model "$(MODEL)")

test: environment
	$(VENV) -m ruff check .
	$(VENV) -m shared.environment.generate --check
	$(VENV) -m pytest -n 2 --dist loadfile

test-clients: environment
	@$(VENV) -m shared.environment.clients tests/clients tests/lab2/test_lab2_train_image.py

jupyter: environment
	@$(VENV) -m shared.environment.jupyter

bench: environment
	@$(VENV) -m tests.benchmarks

notebooks: environment
	@$(VENV) -m shared.notebooks build

requirements: environment
	@$(VENV) -m shared.environment.generate

lint: environment
	$(VENV) -m ruff check .

stop:
	@if [ -x $(VENV) ]; then $(VENV) -m shared.local_sagemaker stop; else echo 'Nothing runs: there is no .venv.'; fi

clean: stop
	rm -rf out lab*/out .sagemaker-local .pytest_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-clients
