# make demo: install, fit three tiny LLM experts, evolve them.   make test: install, run the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := runs/demo/llm
CYQD := $(BIN)/python -m cyqd

.PHONY: install demo test lint clean-demo

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

# Each step is skipped where its result exists, and an evolution that was stopped is continued.
demo: $(DEMO)/coding/cyqd.json $(DEMO)/database/cyqd.json $(DEMO)/os/cyqd.json
	$(CYQD) evolve --config configs/demo/llm/evolve.yaml --ckpt_path last

$(DEMO)/init/model.safetensors: | install
	$(BIN)/python -m cyqd.llm.demo --out $(DEMO)

$(DEMO)/base/cyqd.json: $(DEMO)/init/model.safetensors
	$(CYQD) fit --config configs/demo/llm/fit_base.yaml

$(DEMO)/%/cyqd.json: $(DEMO)/base/cyqd.json
	$(CYQD) fit --config configs/demo/llm/fit_$*.yaml

clean-demo:
	rm -rf $(DEMO)

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
