# Every verb sets up what it needs first: .venv in this folder and the base model in the cache (scripts/setup.sh).

PY := .venv/bin/python
# More arguments for pytest or the benchmarks: make test ARGS="-k ratio", make bench ARGS="length"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-ray lint format typecheck bench pack-gpu train-gpu

help: ## show these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv and fetch the base model; quick when both are there
	@scripts/setup.sh

demo: setup ## compress a real document and answer questions from its latents
	@$(PY) -m latentpress.demo

test: setup lint typecheck ## lint, types and all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-ray: setup ## install Ray and test synthesis in a local cluster
	$(PY) -m pip install --quiet --requirement requirements-ray.lock
	OMP_NUM_THREADS=1 $(PY) -m pytest -v tests/synthesis/test_on_ray.py $(ARGS)

lint: setup ## check style and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: setup ## mend style and format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

typecheck: setup ## check types (mypy, strict)
	$(PY) -m mypy

bench: setup ## measure speed and memory, each beside its floor
	$(PY) -m benchmarks.run $(ARGS)

pack-gpu: setup ## pack what train-gpu needs on a machine without network (ARGS="--data-dir data --part-mib 24")
	$(PY) scripts/pack_for_gpu.py $(ARGS)

# Sets nothing up: it runs where there is no network, with the Python that has torch. Exit code 3: call it again.
train-gpu: ## train and judge by configs/train-gpu.toml, 9 minutes a call (ARGS="--data-dir data")
	$(if $(wildcard $(PY)),$(PY),python3) scripts/train_gpu.py --minutes 9 $(ARGS)
