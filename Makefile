# fuselage: `make help` lists the targets. Each does its own set-up and is quick when it is done.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= compile,cpu,demo,proof,rtx,serve

MODEL ?= minilm
PRECISION ?= int8
TARGETS ?=
TASK ?= auto
TEXT ?=
EVAL ?=
MAX_DROP ?=
MIN_SQNR ?= 20
WEIGHTS ?= pretrained
OUT ?=
GATE ?=
SEED ?= 0

BUILD = $(BIN)/fuselage build "$(MODEL)" $(if $(OUT),--out "$(OUT)") --precision $(PRECISION) --task $(TASK) \
	--weights $(WEIGHTS) $(foreach target,$(TARGETS),--target $(target)) \
	$(foreach file,$(TEXT),--text "$(file)") \
	$(if $(EVAL),--eval "$(EVAL)") $(foreach drop,$(MAX_DROP),--max-drop $(drop)) \
	$(if $(filter int8 int8-weight-only fp8,$(PRECISION)),$(if $(MIN_SQNR),--min-sqnr $(MIN_SQNR)))
BUNDLE = $(or $(OUT),build/$(notdir $(MODEL:%/=%)))
PACKAGE := graph passes engines calibration compiler proof serving
TEST = HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup engine compare evaluate bench report doctor families fuzz test test-all gpu-check lint format typecheck clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  engine and its like take MODEL PRECISION TARGETS TASK TEXT EVAL MAX_DROP MIN_SQNR WEIGHTS OUT;'
	@echo '  fuzz takes SEED'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[$(EXTRAS)]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e ".[$(EXTRAS),dev]"
	@touch $@

setup: $(VENV)/.installed  ## Make the virtual environment in .venv

engine: $(VENV)/.installed  ## Compile MODEL into a verified bundle in OUT
	@$(BUILD)

compare: engine  ## Build MODEL and compare what its engines answer with PyTorch; GATE is a file of bounds
	@$(BIN)/fuselage compare "torch:$(if $(filter random,$(WEIGHTS)),random:)$(MODEL)" \
		"bundle:$(BUNDLE)" --task $(TASK) \
		$(foreach file,$(TEXT),--text "$(file)") $(if $(GATE),--gate "$(GATE)")

evaluate: engine  ## Build MODEL and judge its engines on the examples in EVAL
	@$(BIN)/fuselage evaluate "$(BUNDLE)" --data "$(or $(EVAL),$(error EVAL=FILE says what to evaluate with))" \
		$(foreach drop,$(MAX_DROP),--max-drop $(drop))

bench: engine  ## Build MODEL and time its engines beside plain ONNX Runtime
	@$(BIN)/fuselage bench "$(BUNDLE)" --baseline ort $(foreach file,$(TEXT),--text "$(file)")

report: engine  ## Build MODEL and write all that is known of the bundle to one HTML file beside it
	@$(BIN)/fuselage report "$(BUNDLE)" --out "$(BUNDLE).html"

doctor: $(VENV)/.installed  ## Say what builds and runs on this machine
	@$(BIN)/fuselage doctor

test: $(VENV)/.installed-dev  ## Run the tests, the end-to-end build of MiniLM included
	@$(TEST) -m "not slow and not gpu"

test-all: $(VENV)/.installed-dev  ## Run the slow tests too
	@$(TEST) -m "not gpu"

families: $(VENV)/.installed  ## Export every family every way, fuse it, compare it; write docs/families.md
	@HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/family_coverage.py --markdown docs/families.md

fuzz: $(VENV)/.installed  ## Damage models and bundles by the thousand: each is mended, or refused
	@HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/fuzz_optimize.py --seed $(SEED)
	@HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/fuzz_loader.py --seed $(SEED)

# Not through the set-up: such a machine may have no network. PACKAGES is a folder of unpacked wheels.
gpu-check:  ## On a machine with an NVIDIA GPU: test and measure, into benchmarks/results
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu_check.py \
		$(if $(PACKAGES),--packages "$(PACKAGES)") $(if $(OUT),--out "$(OUT)")

lint: $(VENV)/.installed-dev  ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## Format the sources
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# The repository root is the package, so mypy needs a folder named fuselage to look at.
typecheck: $(VENV)/.installed-dev  ## Check the types
	@rm -rf build/typecheck && mkdir -p build/typecheck/fuselage
	@ln -s $(addprefix $(CURDIR)/,$(wildcard *.py) py.typed $(PACKAGE)) build/typecheck/fuselage/
	@MYPYPATH=build/typecheck $(BIN)/mypy -p fuselage

clean:  ## Remove what builds and tests left; the virtual environment stays
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
