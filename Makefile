VENV = .venv
BIN = $(VENV)/bin
PYTHON = python3

.PHONY: help serve tests lint format readme package clean

help:
	@echo "make serve    run a Kinto with the plugin, for trying things out"
	@echo "make tests    run the whole suite"
	@echo "make lint     check the code and the README"
	@echo "make format   format the code"
	@echo "make package  build the package and check what is in it"
	@echo "make clean    delete all that these commands made"

$(VENV)/installed: setup.cfg setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[test,lint]"
	@touch $@

serve: $(VENV)/installed
	@mkdir -p var
	@echo "Kinto with attachments: http://localhost:8888/v1/ (Ctrl-C stops it)"
	@$(BIN)/kinto start --ini config/serve.ini

tests: $(VENV)/installed
	$(BIN)/pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m readme_renderer README.rst -o /dev/null
	$(BIN)/python -m readme_renderer CHANGELOG.rst -o /dev/null

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

package: $(VENV)/installed
	$(BIN)/python tests/check_package.py

clean:
	rm -rf $(VENV) var build dist .pytest_cache .ruff_cache .tox *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
