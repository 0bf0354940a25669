"""Have the tools of ComfyUI's registry and of its users judge what the registry would hand out.

    python tests/support/validate.py OUT TOOLS

`OUT` is the folder for what each tool says, `TOOLS` the bin folder of an environment that holds them
(`versions/tools.txt`). What is judged is the working tree as `comfy node pack` packs it: tracked files, less those that
.comfyignore names. Two of the tools need a ComfyUI: COMFYUI_PATH and COMFYUI_PYTHON say which, as for `make host`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from host_harness import PROJECT, Host, checkout

NOT_FOLLOWED = {
    r"nn\.\w+\*?d?\(\) -- use operations\.": "the library runs without ComfyUI, which has no comfy.ops to offer there; "
    "nodes hand whole networks to the host's model management",
    r"torch\.autocast\(\) -- use comfy\.ops": "the same; most of them switch autocast off for what needs float32",
}
"""Rules of comfy-test that we break on purpose, and why."""


def git(*arguments: str, folder: Path = PROJECT) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Validators:
    """Runs the tools one after the other and keeps what they said."""

    def __init__(self, out: Path, tools: Path, folder: Path) -> None:
        self.out, self.tools, self.folder = out, tools, folder
        self.failed: list[str] = []
        out.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, *command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a tool in `folder`, with a home of its own, and keep its output as OUT/name.txt."""
        environment = os.environ | {"HOME": str(self.folder), "NO_COLOR": "1", "COLUMNS": "160", "DO_NOT_TRACK": "1"}
        done = subprocess.run(
            [str(self.tools / command[0]), *command[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        (self.out / f"{name}.txt").write_text(done.stdout + done.stderr, "utf-8")
        return done

    def say(self, name: str, passed: bool, words: str) -> None:
        print(f"{'passed' if passed else 'FAILED'}  {name}: {words}")
        if not passed:
            self.failed.append(name)

    def registry(self, clone: Path) -> Path:
        """Validate and pack as for publishing; return the unpacked archive, in its place in a base directory."""
        self.run("tracking", "comfy", "--skip-prompt", "tracking", "disable", folder=clone)
        done = self.run("comfy_node_validate", "comfy", "--skip-prompt", "node", "validate", folder=clone)
        self.say("comfy node validate", "All validation checks passed" in done.stdout + done.stderr, last_line(done))
        done = self.run("comfy_node_pack", "comfy", "--skip-prompt", "node", "pack", folder=clone)
        pack = self.folder / "base" / "custom_nodes" / "bfr-faces"
        with zipfile.ZipFile(clone / "node.zip") as archive:
            archive.extractall(pack)
            names = sorted(archive.namelist())
        (self.out / "archive.txt").write_text("\n".join(names) + "\n", "utf-8")
        size = (clone / "node.zip").stat().st_size
        self.say("comfy node pack", done.returncode == 0, f"{len(names)} files, {size / 1e6:.1f} MB")
        return pack

    def lint(self, pack: Path) -> None:
        """The static levels of comfy-test; what we break on purpose is counted and does not fail."""
        done = self.run("comfy_test_lint", "comfy-test", "lint", "--json", "--strict", str(pack), folder=pack)
        results = json.loads(done.stdout)["results"]
        left, waived = [], 0
        for name, result in results.items():
            found = re.findall(r"^  Line .*$", result["details"] or "", re.MULTILINE)
            known = [line for line in found if any(re.search(rule, line) for rule in NOT_FOLLOWED)]
            waived += len(known)
            left += sorted(set(found) - set(known)) if found else [] if result["passed"] else [f"{name}: {result}"]
        words = [f"{waived} lines break a rule that we do not follow", *left]
        self.say("comfy-test lint", not left, "\n  ".join(words))

    def guard(self, pack: Path, comfyui: Path) -> None:
        """Whether every name of ComfyUI that the pack uses is there, by comfy-import-guard, which reads a git clone."""
        cache = self.folder / "guard"
        try:
            git("clone", "--quiet", "--shared", "--sparse", str(comfyui), str(cache / "ComfyUI"), folder=comfyui)
        except subprocess.CalledProcessError as error:
            self.say("comfy-import-guard", False, f"{comfyui} is no git checkout: {error.stderr.strip()}")
            return
        done = self.run(
            "comfy_import_guard",
            *("comfy-import-guard", "--offline", "--cache-dir", str(cache), "check"),
            *("--target", "HEAD", "--comfy-dir", str(pack.parents[1])),
            folder=pack,
        )
        counted = re.search(r"^\d+ pack\(s\):.*$", done.stdout, re.MULTILINE)
        self.say("comfy-import-guard", done.returncode == 0, counted[0] if counted else last_line(done))

    def workflows(self, pack: Path) -> None:
        """Whether a running host would take every workflow, by comfy-lint."""
        files = sorted((PROJECT / "tests" / "nodes" / "api").glob("*.json"))
        schema = self.folder / "object_info.json"
        with Host(pack, pack_name=pack.name, start_timeout_s=600) as host:
            for file in files:
                for one in json.loads(file.read_text("utf-8")).values():
                    if one["class_type"] in {"LoadImage", "LoadVideo"}:  # what a person would have chosen or dropped
                        chosen = [value for value in one["inputs"].values() if isinstance(value, str) and "." in value]
                        for name in chosen:
                            (host.base / "input" / name).touch()
            schema.write_text(json.dumps(host.object_info()), "utf-8")
            version = host.version
        done = self.run("comfy_lint", "comfy-lint", "--schema-cache", str(schema), *map(str, files), folder=PROJECT)
        counted = re.findall(r"^\d+ errors?, .*$", done.stdout, re.MULTILINE) or [last_line(done)]
        self.say("comfy-lint", done.returncode == 0, f"{counted[0]}, by ComfyUI {version}")


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {done.returncode}"


def main() -> int:
    out, tools = (Path(argument).resolve() for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clone = folder / "clone"
        git("clone", "--quiet", "--shared", str(PROJECT), str(clone))
        # A commit of changes that are not committed yet; it belongs to no branch, and is empty where there are none.
        git("checkout", "--quiet", git("stash", "create") or "HEAD", folder=clone)
        validators = Validators(out, tools, folder)
        pack = validators.registry(clone)
        validators.lint(pack)
        comfyui = checkout()
        if comfyui is None:
            print("left out  comfy-import-guard, comfy-lint: COMFYUI_PATH names no ComfyUI checkout")
        else:
            validators.guard(pack, comfyui)
            validators.workflows(pack)
    print(f"what they said: {out}")
    return 1 if validators.failed else 0


if __name__ == "__main__":
    sys.exit(main())
