"""Downloads, from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bfr_core.backends.detectors import yunet
from bfr_core.cli import main
from bfr_core.errors import WeightsError
from bfr_core.models.checkpoints.download import download
from bfr_core.models.spec import KnownFile

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    breaks_at = 0
    ranges = True
    asked: list[str] = []  # noqa: RUF012 - reset for each test

    def do_GET(self):
        start = 0
        wanted = self.headers.get("Range", "")
        type(self).asked.append(wanted)
        if self.path == "/gone":
            self.send_error(404)
            return
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
        else:
            self.send_response(200)
        body = CONTENT[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.breaks_at:
            body, type(self).breaks_at = body[: self.breaks_at], 0
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.breaks_at, Handler.ranges, Handler.asked = 0, True, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    server.shutdown()
    server.server_close()


def test_a_file_arrives_once(url, tmp_path):
    target, heard = tmp_path / "new" / "w.onnx", []
    assert download(url, target, sha256=DIGEST, size=len(CONTENT), on_progress=lambda *x: heard.append(x))
    assert target.read_bytes() == CONTENT and heard[-1] == (len(CONTENT), len(CONTENT))
    assert not download(url, target, sha256=DIGEST) and len(Handler.asked) == 1
    assert [path.name for path in target.parent.iterdir()] == ["w.onnx"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(url, tmp_path, ranges):
    target = tmp_path / "w.onnx"
    Handler.breaks_at, Handler.ranges = 300_000, ranges
    with pytest.raises(WeightsError, match="continues"):
        download(url, target, sha256=DIGEST)
    assert not target.exists()
    assert download(url, target, sha256=DIGEST) and target.read_bytes() == CONTENT
    assert Handler.asked[1].startswith("bytes=") and Handler.asked[1] != "bytes=0-"


def test_another_file_is_refused_and_the_old_one_kept(url, tmp_path):
    target = tmp_path / "w.onnx"
    target.write_bytes(b"old")
    with pytest.raises(WeightsError, match=DIGEST):
        download(url, target, sha256="0" * 64)
    assert target.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["w.onnx"]
    with pytest.raises(WeightsError, match="more than 1000"):
        download(url, target, sha256="0" * 64, size=1000)


def test_errors_say_what_to_do(url, tmp_path, monkeypatch):
    target = tmp_path / "w.onnx"
    with pytest.raises(WeightsError, match="404"):
        download(url.replace("/file", "/gone"), target, sha256=DIGEST)
    with pytest.raises(WeightsError, match="https"):
        download("http://example.org/file", target, sha256=DIGEST)
    with pytest.raises(WeightsError, match="cannot be reached"):
        download("http://127.0.0.1:9/file", target, sha256=DIGEST)
    monkeypatch.setenv("BFR_OFFLINE", "1")
    with pytest.raises(WeightsError, match="BFR_OFFLINE"):
        download(url, target, sha256=DIGEST)
    assert not Path(target).exists() and Handler.asked == [""]


def test_the_command_fetches_a_detectors_file(url, tmp_path, monkeypatch, capsys):
    known = KnownFile("w.onnx", DIGEST, "a test", url)
    monkeypatch.setattr(yunet, "SPEC", replace(yunet.SPEC, licence="MIT", files=(known,)))
    assert main(["models", "fetch", "yunet", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "w.onnx").read_bytes() == CONTENT and "MIT" in capsys.readouterr().out
    assert main(["models", "fetch", "insightface", "-o", str(tmp_path)]) == 1
