VENV = .venv
BIN = $(VENV)/bin
PYTHON = python3
PORT = 8888

define SAY_WHERE
echo "Kinto with attachments: http://localhost:$(PORT)/v1/ (Ctrl-C stops it)"; \
echo "A page to try it:       http://localhost:$(PORT)/v1/__playground__/"
endef

.PHONY: help serve serve-s3 moto quick tests browser-tests fuzz walk races bench bench-quick lint format package clean

help:
	@echo "make serve    run a Kinto with the plugin, for trying things out"
	@echo "make serve-s3 the same with its files in an S3 server on this machine"
	@echo "make moto     run a fake S3 in memory"
	@echo "make quick    run the tests that need no server, within a minute"
	@echo "make tests    run the whole suite"
	@echo "make browser-tests  run what needs Chromium and nginx, installed by apt-get"
	@echo "make bench    measure how fast it is, into var/bench (make bench-quick: in a minute)"
	@echo "make fuzz     read random forms for 10 minutes (FUZZ_SECONDS=600)"
	@echo "make walk     take a long random walk over all that changes records"
	@echo "make races    send all pairs of changes at once, 20 times each"
	@echo "make lint     check the code and the README"
	@echo "make format   format the code"
	@echo "make package  build the package and check what is in it"
	@echo "make clean    delete all that these commands made"

$(VENV)/installed: pyproject.toml setup.cfg setup.py
	@echo "Installing into $(VENV): this takes a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[test,lint]"
	@touch $@

serve: $(VENV)/installed
	@mkdir -p var
	@$(SAY_WHERE)
	@$(BIN)/kinto start --ini config/serve.ini --port $(PORT)

# Kinto with its files in a real S3 server, SeaweedFS, both on this machine. Ctrl-C stops both.
serve-s3: $(VENV)/installed
	mkdir -p var/s3
	@$(BIN)/weed mini -dir=var/s3 -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3.port=8333 \
		-filer.port=8334 -s3.config=config/seaweedfs.json -bucket=attachments \
		-s3.autoCreateBucket=false -s3.port.iceberg=0 -s3.port.lance=0 -webdav=false \
		-admin.ui=false -master.telemetry=false > var/s3.log 2>&1 & weed=$$!; \
	trap 'kill $$weed 2>/dev/null; wait $$weed' EXIT; trap 'exit 130' INT TERM; \
	until $(BIN)/python -c "import socket; socket.create_connection(('127.0.0.1', 8333))" 2>/dev/null; do \
		kill -0 $$weed 2>/dev/null || { cat var/s3.log; exit 1; }; sleep 0.3; \
	done; \
	$(SAY_WHERE); \
	KINTO_ATTACHMENT_BASE_PATH= \
	KINTO_ATTACHMENT_SERVE_FILES=false \
	KINTO_ATTACHMENT_AWS_BUCKET_NAME=attachments \
	KINTO_ATTACHMENT_AWS_ENDPOINT_URL=http://127.0.0.1:8333 \
	KINTO_ATTACHMENT_AWS_ACCESS_KEY=kinto \
	KINTO_ATTACHMENT_AWS_SECRET_KEY=for-trying-things-out \
	$(BIN)/kinto start --ini config/serve.ini --port $(PORT)

# A fake S3 in memory, for hand trials.
moto: $(VENV)/installed
	$(BIN)/moto_server -H 127.0.0.1 -p 5000

tests: $(VENV)/installed
	$(BIN)/pytest --numprocesses auto --dist worksteal

# The tests that need no server and start no program.
quick: $(VENV)/installed
	$(BIN)/pytest --numprocesses auto --dist worksteal -m "not external"

# What needs Debian's Chromium and nginx. Screenshots go to var/screenshots.
browser-tests: $(VENV)/installed-browser
	$(BIN)/pytest tests/browser

$(VENV)/installed-browser: $(VENV)/installed
	{ command -v chromium && command -v nginx; } || { apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive \
		apt-get install --yes --quiet=2 --no-install-recommends chromium nginx-light; }
	$(BIN)/pip install --quiet --editable ".[browser]"
	@touch $@

$(VENV)/bench-installed: $(VENV)/installed
	$(BIN)/pip install --quiet --editable ".[bench]"
	@touch $@

# Beside the usual way, a bare pipeline and a plain record, on a machine that does nothing else.
bench: $(VENV)/bench-installed
	$(BIN)/python -m bench

bench-quick: $(VENV)/bench-installed
	$(BIN)/python -m bench --quick

fuzz: $(VENV)/installed
	$(BIN)/python -m tests.fuzz_uploads

walk: $(VENV)/installed
	WALKS=200 $(BIN)/pytest -s tests/attachments/test_walk.py

races: $(VENV)/installed
	RACE_ROUNDS=20 $(BIN)/pytest tests/attachments/test_races.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for page in *.rst; do $(BIN)/python -m readme_renderer $$page -o /dev/null || exit 1; done

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

package: $(VENV)/installed
	$(BIN)/python tests/check_package.py

clean:
	rm -rf $(VENV) var build dist .pytest_cache .ruff_cache .tox *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
