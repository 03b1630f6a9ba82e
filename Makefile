# setup  both environments: .venv (ours) and .triton (the embedded server's own, numpy < 2)
# demo   the whole way on generated tissue; check  linters and types; test  every test there is on this machine
# soak   half an hour of mixed load with killed processes: memory, lost requests, recovery times
# soak-clients  ten minutes of Python and Node.js callers that stop waiting at random, while stubs and servers are killed: no wrong answer, no leak
# bench-peers  other tools and histoserve on the same slide and weights, side by side (SLIDE=…; installs the others, an hour)
# api    write clients/API.md anew from the model repository
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check unit soak soak-clients bench-peers api clean

setup: .venv/.done .triton/.done

# torchvision would pull a CUDA build of torch: where a CPU build of torch 2.13.0 is at hand, installing it first keeps that one.
.venv/.done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[client,train,export,serve,ui,bench]' --group dev
	touch $@

# pytriton's own dependencies pin an older client; of the wheel only Triton's binaries are used.
.triton/.done: serving/embedded-requirements.txt
	$(PYTHON) -m venv .triton
	.triton/bin/pip install --quiet --upgrade pip
	.triton/bin/pip install --quiet --no-deps nvidia-pytriton==0.7.0
	.triton/bin/pip install --quiet --requirement serving/embedded-requirements.txt
	touch $@

demo: setup
	$(BIN)/histoserve demo

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=2 --no-loadscope-reorder --max-worker-restart=0 -m "not triton and not install and not slow"

# Two processes, since most tests keep one core busy; tests/conftest.py says which belong together.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=2 --no-loadscope-reorder --max-worker-restart=0

soak: setup
	$(BIN)/python -m benchmarks.soak --minutes 30 --output out/soak.json

soak-clients: setup
	$(BIN)/python -m benchmarks.soak_clients --output out/soak-clients.json

bench-peers: setup
	$(BIN)/histoserve bench peers $(if $(SLIDE),--slide $(SLIDE)) --output out/bench-peers.json

api: setup
	$(BIN)/python -m clients.api_page

clean:
	rm -rf demo out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
