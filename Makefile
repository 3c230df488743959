# make demo: install, fit three tiny LLM experts, evolve them.   make demo-sam: the same with four tiny SAM experts, in
# pairs and all at once; with -j2 two experts are fitted at a time.   make test: install, run the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := runs/demo/llm
DEMO_SAM := runs/demo/sam
CYQD := $(BIN)/python -m cyqd

.PHONY: install demo demo-sam test lint clean-demo

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

demo-sam: $(foreach task,camouflage polyp skin leaf,$(DEMO_SAM)/$(task)/cyqd.json)
	$(CYQD) evolve --config configs/demo/sam/table4.yaml --ckpt_path last
	$(CYQD) evolve --config configs/demo/sam/evolve.yaml --ckpt_path last

$(DEMO_SAM)/init/config.json: | install
	$(BIN)/python -m cyqd.sam.demo --out $(DEMO_SAM)

$(DEMO_SAM)/base/cyqd.json: $(DEMO_SAM)/init/config.json
	$(CYQD) fit --config configs/demo/sam/fit_base.yaml

$(DEMO_SAM)/%/cyqd.json: $(DEMO_SAM)/base/cyqd.json
	$(CYQD) fit --config configs/demo/sam/fit_$*.yaml

clean-demo:
	rm -rf $(DEMO) $(DEMO_SAM)

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 15

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
