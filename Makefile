PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: train test lint setup

# A virtual environment with everything that was tested together.
.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv (once; a minute or two) ..."
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; give PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: .venv/ready

# Train on the embedded data, evaluate on held-out articles, label the example article.
train: .venv/ready
	$(BIN)/stance train experiment=minilm name=minilm resume=true example=data/example_article.txt

test: .venv/ready
	$(BIN)/python -m pytest tests

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
