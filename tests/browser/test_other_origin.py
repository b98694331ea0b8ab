"""The documentation's JavaScript, on a page of another origin than Kinto's (CORS)."""

import requests

from tests.browser.conftest import run
from tests.support.documentation import only


def test_the_documented_fetch_attaches_and_detaches_across_origins(page, try_out, other_origin):
    example = only("docs/how-to/attach-files", "javascript", "FormData")
    example = example.replace("http://localhost:8888", try_out.url.removesuffix("/v1"))
    page.goto(other_origin)
    attached = run(
        page,
        'const file = new File(["from elsewhere"], "photo.txt", { type: "text/plain" });'
        f"{example}; return {{ url, headers, attachment, etag }};",
    )
    assert attached["attachment"]["filename"] == "photo.txt"
    try_out.assert_stored("photos", [b"from elsewhere"])

    record_url = attached["url"].removesuffix("/attachment")
    record = requests.get(record_url, headers=attached["headers"], timeout=10)
    assert attached["etag"] == record.headers["ETag"]
    assert record.json()["data"]["title"] == "Spring"

    statuses = run(
        page,
        """
        const detach = async (etag) => {
          const headers = { ...argument.headers, "If-Match": etag };
          return (await fetch(argument.url, { method: "DELETE", headers })).status;
        };
        return [await detach('"1"'), await detach(argument.etag)];
        """,
        attached,
    )
    assert statuses == [412, 204]
    try_out.assert_stored("photos", [])
    record = requests.get(record_url, headers=attached["headers"], timeout=10)
    assert record.json()["data"]["attachment"] is None

    preflights = [
        line
        for line in try_out.log.read_text().splitlines()
        if '"OPTIONS"' in line and "/records/first/attachment" in line
    ]
    assert preflights


def test_a_refusal_can_be_read_across_origins(page, try_out, other_origin):
    page.goto(other_origin)
    refusal = run(
        page,
        """
        const headers = { Authorization: "Basic " + btoa("alice:secret") };
        const response = await fetch(argument, { method: "POST", headers, body: new FormData() });
        return { status: response.status, ...(await response.json()) };
        """,
        f"{try_out.url}/buckets/default/collections/photos/records/first/attachment",
    )
    assert (refusal["status"], refusal["errno"]) == (400, 109)
    assert refusal["message"] == "Attachment missing."
