VENV = .venv
BIN = $(VENV)/bin
PYTHON = python3
PORT = 8888
RECORDS = postgresql
COUNT = 1000000
PYTEST = $(BIN)/pytest --numprocesses auto --dist worksteal

.PHONY: help serve serve-s3 moto quick coverage tests browser-tests tus-oracles fuzz walk \
	races bench bench-quick bench-scale lint format docs package clean

help:
	@echo "make serve          run a Kinto with the plugin, to try it (RECORDS=memory, PORT=9999)"
	@echo "make serve-s3       the same with its files in an S3 server on this machine"
	@echo "make moto           run a fake S3 in memory"
	@echo "make quick          run the tests that need no server, within a minute"
	@echo "make coverage       the same, and measure which lines of the package they run"
	@echo "make tests          run the whole suite"
	@echo "make browser-tests  run what needs Chromium and nginx, installed by apt-get"
	@echo "make tus-oracles    try the tests of tus on other servers of it"
	@echo "make bench          measure the speed, into var/bench (make bench-quick: in a minute)"
	@echo "make bench-scale    measure what a million attachments take (COUNT=100000: fewer)"
	@echo "make fuzz           read random forms for 10 minutes (FUZZ_SECONDS=600)"
	@echo "make walk           take a long random walk over all that changes records"
	@echo "make races          send all pairs of changes at once, 20 times each"
	@echo "make lint           check the code, its types and the pages of the package"
	@echo "make format         format the code"
	@echo "make docs           build the documentation into var/docs"
	@echo "make package        build the package and check its content"
	@echo "make clean          delete all that these commands made"

# What an extra of the package installs.
$(VENV)/installed-%: pyproject.toml setup.cfg setup.py | $(VENV)
	@echo "Installing the extra $* into $(VENV): this takes a minute or two"
	$(BIN)/pip install --quiet --editable ".[$*]"
	@touch $@

# pip has no PostgreSQL for some platforms: records are kept in memory there.
$(VENV)/installed-serve: pyproject.toml setup.cfg setup.py | $(VENV)
	@echo "Installing into $(VENV): this takes a minute"
	@$(BIN)/pip install --quiet --editable ".[serve]" || $(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV):
	$(PYTHON) -m venv $(VENV)

serve: $(VENV)/installed-serve
	@$(BIN)/python config/serve.py --port $(PORT) --records $(RECORDS)

serve-s3: $(VENV)/installed-serve $(VENV)/installed-serve-s3
	@$(BIN)/python config/serve.py --port $(PORT) --records $(RECORDS) --files s3

moto: $(VENV)/installed-test
	$(BIN)/moto_server -H 127.0.0.1 -p 5000

quick: $(VENV)/installed-test
	$(PYTEST) -m "not external"

coverage: $(VENV)/installed-test
	$(PYTEST) -m "not external" --cov

tests: $(VENV)/installed-test
	$(PYTEST)

# What needs Debian's Chromium and nginx. Screenshots go to var/screenshots.
browser-tests: $(VENV)/installed-test $(VENV)/installed-browser
	{ command -v chromium && command -v nginx; } || { apt-get update --quiet=2 && \
		DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends \
		chromium nginx-light; }
	$(BIN)/pytest tests/browser

tus-oracles: $(VENV)/installed-test $(VENV)/installed-tus-oracles
	TUS_ORACLES=1 $(BIN)/pytest tests/tus

# On a machine that does nothing else.
bench: $(VENV)/installed-test $(VENV)/installed-bench
	$(BIN)/python -m bench

bench-quick: $(VENV)/installed-test $(VENV)/installed-bench
	$(BIN)/python -m bench --quick

# A million take an hour and 10 GB.
bench-scale: $(VENV)/installed-test $(VENV)/installed-bench
	$(BIN)/python -m bench.scale --count $(COUNT)

fuzz: $(VENV)/installed-test
	$(BIN)/python -m tests.fuzz_uploads

walk: $(VENV)/installed-test
	WALKS=100 $(BIN)/pytest -s tests/attachments/test_walk.py tests/attachments/test_crowd.py

races: $(VENV)/installed-test
	RACE_ROUNDS=20 $(BIN)/pytest tests/attachments/test_races.py

lint: $(VENV)/installed-test $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for page in *.rst; do $(BIN)/python -m readme_renderer $$page -o /dev/null || exit 1; done
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: $(VENV)/installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed-docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs var/docs

package: $(VENV)/installed-lint
	$(BIN)/python tests/check_package.py

clean:
	rm -rf $(VENV) var build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .tox *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
