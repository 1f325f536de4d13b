# Every target sets up .venv first when it is missing. STUDENT chooses the demo's student, OUT its folder.
PYTHON ?= python3
BIN := .venv/bin
# The CPU build of torch, unless TORCH says otherwise: `make setup TORCH=torch` takes the index's own, on Linux with CUDA.
TORCH ?= torch --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu
STUDENT ?= qwen2.5-coder-0.5b-instruct
OUT ?= runs/demo
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup fmt check test test-all bench bench-serve demo docs clean

setup: $(BIN)/.ready

$(BIN)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	# What the losses are held against; alone, because it would pull a torchvision that does not fit this torch.
	$(BIN)/python -m pip install --quiet --no-deps torchdistill==1.1.5
	# axe-core, which finds faults of accessibility; alone, because it would pull a second browser driver.
	$(BIN)/python -m pip install --quiet --no-deps axe-playwright-python==0.1.8
	touch $@

fmt: setup
	$(BIN)/ruff format src tests benchmarks && $(BIN)/ruff check --fix src tests benchmarks

check: setup
	$(BIN)/ruff format --check src tests benchmarks && $(BIN)/ruff check src tests benchmarks && $(BIN)/mypy && $(BIN)/lint-imports

test: setup
	$(BIN)/pytest -m "not slow"

test-all: setup
	$(BIN)/pytest

bench: setup
	$(BIN)/python benchmarks/run.py

bench-serve: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/serve.py

demo: setup
	$(BIN)/tamis run recipes/demo.yaml --out $(OUT) --set student.model=$(STUDENT)

docs: setup
	$(BIN)/python docs/build.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
