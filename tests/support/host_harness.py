"""Start a real ComfyUI on this machine with the project linked in, and drive it over HTTP.

    COMFYUI_PATH    a ComfyUI checkout (the folder that holds main.py)
    COMFYUI_PYTHON  the interpreter with its requirements; default: the one that runs the tests

    with Host() as host:
        name = host.upload(Path("face.png"))
        entry = host.run({"1": {"class_type": "LoadImage", "inputs": {"image": name}}, ...})
        files = host.outputs(entry, "2")

Standard library only, so that the tests need nothing the host does not.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = ("custom_nodes", "input", "output", "temp", "models")
POLL_S = 0.1
LOG_TAIL_LINES, LOG_LINE_CHARS = 40, 300

Prompt = Mapping[str, Mapping[str, Any]]


class HostError(Exception):
    """The host refused, failed or ended; the text is what it said."""


class PromptRejected(HostError):  # noqa: N818  named for what happened, as ComfyUI names it
    """HTTP 400: the host did not accept the prompt. `body` is its answer."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(json.dumps(body, indent=1))
        self.body = body


class PromptInterrupted(HostError):  # noqa: N818
    """The prompt ran and was stopped by `interrupt`."""


def checkout() -> Path | None:
    """Return the checkout named by COMFYUI_PATH, or None where there is none to test against."""
    path = os.environ.get("COMFYUI_PATH")
    return Path(path) if path and (Path(path) / "main.py").is_file() else None


class Host:
    """One headless ComfyUI process with a base directory of its own; use it in a `with`."""

    def __init__(
        self,
        pack: Path = PROJECT,
        *,
        pack_name: str | None = None,
        arguments: Sequence[str] = ("--cpu",),
        start_timeout_s: float = 180.0,
    ) -> None:
        """Start the host and return when it answers.

        `pack` is linked as custom_nodes/`pack_name` (default: the folder's own name).

        Raises: HostError, with the end of the host's log, when it does not answer in time.
        """
        comfyui = checkout()
        if comfyui is None:
            raise HostError(f"COMFYUI_PATH is {os.environ.get('COMFYUI_PATH')!r}: no ComfyUI checkout is there.")
        self._folder = tempfile.TemporaryDirectory(prefix="comfy-host-", ignore_cleanup_errors=True)
        self.base = Path(self._folder.name)
        for folder in FOLDERS:
            (self.base / folder).mkdir()
        link = self.base / "custom_nodes" / (pack_name or pack.name)
        link.symlink_to(pack, target_is_directory=True)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log_path = self.base / "host.log"
        python = os.environ.get("COMFYUI_PYTHON", sys.executable)
        command = [
            python, "main.py", "--listen", "127.0.0.1", "--port", str(self.port),
            "--base-directory", str(self.base), "--database-url", "sqlite:///:memory:",
            "--disable-api-nodes", "--disable-auto-launch", *arguments,
        ]  # fmt: skip
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=comfyui,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                # PASSIVE: idle OpenMP threads that spin would starve the tests on a small machine.
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONUNBUFFERED": "1"},
            )
        # A finaliser also runs when the interpreter exits, so no failing test leaves a host behind.
        self._end = weakref.finalize(self, _end, self._process, self._folder)
        try:
            self._wait_until_ready(start_timeout_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and remove the base directory; a second call does nothing."""
        self._end()

    @property
    def log(self) -> str:
        """All the host has written so far; empty after `close`."""
        if not self._log_path.exists():
            return ""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def version(self) -> str:
        """The host's own version, as in "0.19.3"."""
        return self._get("/system_stats")["system"]["comfyui_version"]

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """Return the schema of one node, or {id: schema} of all; {} for an unknown node."""
        if node is None:
            return self._get("/object_info", timeout_s=60)
        return self._get(f"/object_info/{urllib.parse.quote(node)}").get(node, {})

    def upload(self, path: Path) -> str:
        """Put a file in the input folder the way the page does; return the name to load it by."""
        boundary = uuid.uuid4().hex
        field = '--{}\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
        body = b"".join(
            (
                field.format(boundary, "type", "").encode() + b"input\r\n",
                field.format(boundary, "overwrite", "").encode() + b"true\r\n",
                field.format(boundary, "image", f'; filename="{path.name}"').encode(),
                path.read_bytes(),
                f"\r\n--{boundary}--\r\n".encode(),
            )
        )
        answer = self._request("/upload/image", body, f"multipart/form-data; boundary={boundary}", timeout_s=60)
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def submit(self, prompt: Prompt) -> str:
        """Queue a prompt in API form and return its id.

        Raises: PromptRejected, when the host's own checks refuse it.
        """
        body = json.dumps({"prompt": prompt, "client_id": "host_harness"}).encode()
        return self._request("/prompt", body, "application/json")["prompt_id"]

    def wait(self, prompt_id: str, timeout_s: float = 120.0) -> dict[str, Any]:
        """Wait for a queued prompt and return its history entry.

        Raises: HostError with the host's error text, PromptInterrupted, or TimeoutError
            (after which the prompt has been interrupted).
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            entry = self._get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                return _succeeded(entry)
            time.sleep(POLL_S)
        self.interrupt()
        raise TimeoutError(f"Prompt {prompt_id} ran longer than {timeout_s:g} s.\n{self._tail()}")

    def run(self, prompt: Prompt, timeout_s: float = 120.0) -> dict[str, Any]:
        """Run a prompt in API form to its end; see `submit` and `wait`."""
        return self.wait(self.submit(prompt), timeout_s)

    def validation_error(self, prompt: Prompt) -> dict[str, Any]:
        """Return the host's answer to a prompt it must refuse: {"error": ..., "node_errors": ...}.

        Raises: HostError, when the host accepts it.
        """
        try:
            prompt_id = self.submit(prompt)
        except PromptRejected as rejected:
            return rejected.body
        self.interrupt()
        raise HostError(f"The host accepted prompt {prompt_id}, which it should refuse.")

    def interrupt(self) -> None:
        """Stop the prompt that runs now; the next `wait` for it raises PromptInterrupted."""
        self._request("/interrupt", b"{}", "application/json")

    def free(self) -> None:
        """Have the host unload every model and drop its cached results, as its button does."""
        self._request("/free", b'{"unload_models": true, "free_memory": true}', "application/json")

    def finished(self, prompt_id: str) -> bool:
        """Say whether a queued prompt has ended, well or badly."""
        return bool(self._get(f"/history/{prompt_id}"))

    def outputs(self, entry: Mapping[str, Any], node_id: str) -> list[Path]:
        """List the files a node saved or showed, as its history entry names them."""
        shown = entry["outputs"].get(node_id, {})
        files = (item for items in shown.values() for item in items if isinstance(item, dict) and "filename" in item)
        return [self.base / f["type"] / f["subfolder"] / f["filename"] for f in files]

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                self._get("/system_stats", timeout_s=2)
            except OSError:
                time.sleep(POLL_S)
            else:
                return
        raise HostError(f"ComfyUI did not answer within {timeout_s:g} s.\n{self._tail()}")

    def _tail(self) -> str:
        lines = self.log.splitlines()[-LOG_TAIL_LINES:]
        return "End of its log:\n" + "\n".join(line[:LOG_LINE_CHARS] for line in lines)

    def _get(self, path: str, *, timeout_s: float = 30.0) -> dict[str, Any]:
        return self._request(path, None, None, timeout_s=timeout_s)

    def _request(
        self, path: str, body: bytes | None, content_type: str | None, *, timeout_s: float = 30.0
    ) -> dict[str, Any]:
        if self._process.poll() is not None:
            code = self._process.returncode
            raise HostError(f"ComfyUI has ended with exit code {code}.\n{self._tail()}")
        headers = {"Content-Type": content_type} if content_type else {}
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310  ours
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as error:
            text = error.read()
            if path == "/prompt" and error.code == 400:
                raise PromptRejected(json.loads(text)) from error
            raise HostError(f"{path} answered {error.code}: {text.decode()[:500]}") from error
        return json.loads(text) if text else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    folder.cleanup()


def _succeeded(entry: dict[str, Any]) -> dict[str, Any]:
    for name, message in entry["status"]["messages"]:
        if name == "execution_interrupted":
            raise PromptInterrupted(f"Interrupted in node {message['node_id']}.")
        if name == "execution_error":
            raise HostError(
                f"{message['node_type']} (node {message['node_id']}): "
                f"{message['exception_type']}: {message['exception_message'].strip()}\n" + "".join(message["traceback"])
            )
    if entry["status"]["status_str"] != "success":
        raise HostError(json.dumps(entry["status"]))
    return entry
