"""The benchmark runs, and says which bars are met and which are missed."""

import http.server
import json
import threading

import pytest
import requests

from bench import report, scale
from bench.client import BLOCK_BYTES, MIB, NO_BODY, Client
from bench.environment import WITHOUT_PLUGIN, Environment
from bench.measure import Bar, Figure, Outcome
from bench.scenarios import SERVERS, SMALLEST
from bench.workloads import PREPARED_BY


@pytest.mark.external
def test_the_smallest_scenarios_measure_every_workload(tmp_path):
    with Environment(tmp_path) as environment:
        outcomes = [scenario.run(environment) for scenario in SMALLEST]
        for name, size in (("small", MIB), ("large", MIB + 1)):
            (environment.files / name).write_bytes(bytes(size))
        environment.clear()
        plain = requests.get(environment.server(WITHOUT_PLUGIN).url, timeout=30).json()
        assert (environment.files / "small").exists()
        assert not (environment.files / "large").exists()
    assert "attachments" not in plain["capabilities"]
    for outcome in outcomes:
        for figure in outcome.figures.values():
            # Memory need not grow.
            assert figure.median > 0 or figure.unit == "MiB", outcome
    assert outcomes[0].figures.keys() == {"put", "bare", *PREPARED_BY}
    assert outcomes[1].figures.keys() == {f"ours, {server}" for server in SERVERS}
    assert outcomes[2].figures.keys() == {"resumable", "plain POST", "growth"}
    report.write_json(tmp_path / "bench.json", outcomes)
    first, *_ = json.loads((tmp_path / "bench.json").read_text())["scenarios"]
    assert [bar["met"] for bar in first["bars"]] == [True]


@pytest.mark.external
def test_the_smallest_scale_measures_requests_commands_and_deletions(tmp_path):
    outcomes = {outcome.scenario: outcome for outcome in scale.run(tmp_path, 200, 1, few=100)}
    kinds = [*scale.REQUESTS, *(f"kinto-attachment {name}" for name in scale.COMMANDS)]
    deletions = ["deleting a collection of 2 attachments", "deleting a bucket of 20 attachments"]
    assert list(outcomes) == [*kinds, *deletions]
    for outcome in outcomes.values():
        assert all(figure.median > 0 for figure in outcome.figures.values()), outcome


def test_an_answer_in_json_is_returned_whole_and_a_file_is_not_kept():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(["a" * BLOCK_BYTES] * 3).encode()
            self.send_response(200)
            self.send_header(
                "Content-Type", "application/json" if self.path == "/" else "text/plain"
            )
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        answers = []
        for path in ("/", "/file"):
            client = Client(server.server_port)
            answers.append(client.send("GET", path, NO_BODY))
            client.close()
        server.shutdown()
    assert len(json.loads(answers[0])) == 3
    assert len(answers[1]) <= BLOCK_BYTES


@pytest.fixture
def outcome():
    figures = {
        "ours": Figure("ours", "MB/s", [100, 20, 300]),
        "bare": Figure("bare", "MB/s", [200, 20, 200]),
    }
    bars = (
        Bar("ours / bare", "ours", "bare", at_least=0.9, stretch_goal=1.1),
        Bar("ours", "ours", at_most=99),
    )
    return Outcome("100 MiB", figures, bars)


def test_a_ratio_is_the_median_of_those_of_the_rounds(outcome):
    assert outcome.bars[0].value(outcome.figures) == 1


def test_the_sum_of_two_workloads_is_divided_by(outcome):
    bar = Bar("bare / (ours + bare)", "bare", "ours", at_most=1, plus="bare")
    assert bar.value(outcome.figures) == 0.5


def test_figures_have_their_quartiles(outcome):
    assert outcome.figures["ours"].spread == (60, 200)
    assert "100.00 MB/s       (60.00 to 200.00, 3 rounds)" in report.figures_table(outcome)[1]


def test_a_bar_is_met_or_missed(outcome):
    met, missed = report.bars_table([outcome])
    assert met.endswith("1.00  ≥ 0.9, stretch goal 1.1: met")
    assert missed.endswith("100.00  ≤ 99: MISSED")
