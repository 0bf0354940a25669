"""Run cases in the process of one build, for `compare_builds.py`: python drive_build.py JOB.json

It reaches into the build through its command `bfr`, and through its ComfyUI nodes on the stand-in host of its own
tests, and through nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

Prompt = dict[str, dict[str, Any]]
MAX_STEPS = 2
"""Of every node with a number of steps."""
SINKS = ("SaveImage", "PreviewImage", "MaskPreview", "PreviewAny", "SaveVideo")
"""Core nodes that a host runs a graph for; what reaches them is kept where it is made."""


def main(path: Path) -> None:
    """Run the cases of a job that have no result yet, and write a line of JSON for each."""
    job = json.loads(path.read_text("utf-8"))
    build, results = Path(job["build"]), Path(job["results"])
    # This folder belongs to another tree; in its place stands the one with the build's own stand-in host.
    sys.path[0] = str(next(build.glob("tests/**/fake_host.py"), build).parent)
    command = load_command(build, job["command"])
    done = {json.loads(line)["case"] for line in results.read_text("utf-8").splitlines()}
    # What a method draws must come from the seed that it is given. Were it from the generators of the process, no two
    # runs would be equal.
    torch.seed()
    random.seed()
    np.random.seed()
    for case in job["cases"]:
        if case["name"] in done:
            continue
        start, error = time.process_time(), ""
        said = io.StringIO()
        out, work = Path(case["out"]), Path(case["work"])
        try:
            out.mkdir(parents=True)
            work.mkdir(parents=True)
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                if case["argv"]:
                    run_command(command, case["argv"])
                else:
                    run_workflow(build, case, out, work)
        except KeyboardInterrupt:
            raise
        except BaseException as failure:  # a host's cancel is one, and so is the exit of a command
            lines = "\n".join([*said.getvalue().splitlines()[-3:], f"{type(failure).__name__}: {failure}"])
            error = lines.strip()
        seconds = time.process_time() - start
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"case": case["name"], "error": error, "seconds": seconds}) + "\n")
        ended = f"{seconds:.1f} s{', failed' if error else ''}"
        print(f"{job['side']}: {case['name']}, {ended}", file=sys.stderr, flush=True)


def load_command(build: Path, name: str) -> Callable[[list[str]], int]:
    """Return the function behind a command, as `module:function`, and see that it is this build's."""
    module, _, function = name.partition(":")
    loaded = importlib.import_module(module)
    found = Path(loaded.__file__ or "").resolve()
    if not found.is_relative_to(build.resolve()):
        raise SystemExit(f"{module} is imported from {found}, not from {build}")
    return getattr(loaded, function)


def run_command(command: Callable[[list[str]], int], argv: list[str]) -> None:
    """Run it, and raise where it ends with another status than 0."""
    status = command(argv)
    if status:
        raise RuntimeError(f"it ended with status {status}")


def run_workflow(build: Path, case: dict[str, Any], out: Path, work: Path) -> None:
    """Run a saved workflow on the stand-in host and keep every picture, mask, film and file that its nodes make."""
    fake_host = importlib.import_module("fake_host")
    prompt: Prompt = json.loads(Path(case["prompt"]).read_text("utf-8"))
    with fake_host.FakeHost(work) as host:
        shutil.copytree(case["inputs"], host.input, dirs_exist_ok=True)
        extension = asyncio.run(host.load(build).root.comfy_entrypoint())
        nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
        graph = _Graph(prompt, nodes, fake_host.execute, out, Path(host.input))
        graph.give(case["pictures"], case["film"])
        for number, entry in prompt.items():
            kind = entry["class_type"]
            if kind in SINKS or (kind in nodes and nodes[kind].define_schema().is_output_node):
                graph.outputs(number)
        for path in sorted(Path(host.output).rglob("*.safetensors")):
            shutil.copyfile(path, out / path.name)


class _Graph:
    """A graph in API form, which is run from its ends, each node once."""

    def __init__(
        self, prompt: Prompt, nodes: dict[str, Any], execute: Callable[..., tuple[Any, ...]], out: Path, given: Path
    ) -> None:
        self._prompt, self._nodes, self._execute, self._out, self._given = prompt, nodes, execute, out, given
        self._done: dict[str, tuple[Any, ...]] = {}

    def give(self, pictures: list[str], film: str) -> None:
        """Put inputs in the place of what a person would choose, and take few steps."""
        left = list(pictures)
        for _, entry in sorted(self._prompt.items(), key=lambda item: int(item[0])):
            inputs = entry["inputs"]
            if entry["class_type"] == "LoadImage":
                inputs["image"] = left.pop(0) if len(left) > 1 else left[0]
            elif entry["class_type"] == "LoadVideo":
                inputs["file"] = film
            elif type(inputs.get("steps")) is int:
                inputs["steps"] = min(inputs["steps"], MAX_STEPS)

    def outputs(self, number: str) -> tuple[Any, ...]:
        """Return what a node gives, having run whatever it needs."""
        if number not in self._done:
            entry = self._prompt[number]
            kind = entry["class_type"]
            inputs = {
                name: self.outputs(value[0])[value[1]] if isinstance(value, list) else value
                for name, value in entry["inputs"].items()
            }
            if kind in self._nodes:
                made = self._execute(self._nodes[kind], **inputs)
                for slot, value in enumerate(made):
                    self._keep(f"{int(number):03}_{kind}_{slot}", value)
            else:
                made = () if kind in SINKS else getattr(self, f"_{kind}")(**inputs)
            self._done[number] = made
        return self._done[number]

    def _keep(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            np.save(self._out / f"{name}.npy", value.detach().to("cpu", torch.float32).numpy())
        elif hasattr(value, "get_stream_source"):
            source = value.get_stream_source()
            if isinstance(source, io.BytesIO):
                (self._out / f"{name}.mkv").write_bytes(source.getvalue())
            else:
                shutil.copyfile(source, self._out / f"{name}{Path(source).suffix}")

    # The core nodes that saved workflows use, named as they are there.

    def _LoadImage(self, image: str, **_: Any) -> tuple[Any, ...]:
        picture = np.asarray(Image.open(self._given / image).convert("RGB"))
        return torch.from_numpy(picture.astype(np.float32) / 255)[None], torch.zeros(1, 64, 64)

    def _LoadVideo(self, file: str, **_: Any) -> tuple[Any, ...]:
        return (_input_impl().VideoFromFile(str(self._given / file)),)

    def _GetVideoComponents(self, video: Any) -> tuple[Any, ...]:
        with av.open(str(video.get_stream_source())) as container:
            rate = float(container.streams.video[0].average_rate or 25)
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return torch.from_numpy(frames.astype(np.float32) / 255), None, rate

    def _CreateVideo(self, images: torch.Tensor, fps: float, audio: Any = None) -> tuple[Any, ...]:
        components = SimpleNamespace(images=images, audio=audio, frame_rate=fps)
        return (_input_impl().VideoFromComponents(components),)


def _input_impl() -> Any:
    return importlib.import_module("comfy_api.latest").InputImpl


if __name__ == "__main__":
    main(Path(sys.argv[1]))
