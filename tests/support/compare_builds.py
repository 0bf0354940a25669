"""Compare the pixels of two builds of this project: a redesign must change none.

    python tests/support/compare_builds.py --before-commit HASH --data ../shared/data
    python tests/support/compare_builds.py --before DIR --after DIR --data DIR --only 'film/*' --expected FILE.toml

Both builds do the same with the same small inputs, side by side in processes of their own, through the command `bfr`
and through the nodes of the saved workflows. The pictures, films (as they come from the decoder, without loss),
masks, codes and latents that result are compared bit by bit.

It ends with 1 where something differs, or where the new build can no longer do what the old one did. Differences that
are meant are named in a file with a line for each case, which says why:

    "whole/lpip_diff" = "The colours of the picture are kept, as README says of every restorer."
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build_cases import Case, fixed_cases, method_cases, prepare, workflow_cases
from output_files import Difference, compare_folders

PROJECT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("drive_build.py")
FAILING = ("differs", "only before", "neither", "nothing to compare")
"""Results that have to be expected. What only the new build can do is no fault of it."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a case went in one build."""

    error: str = ""
    seconds: float = 0.0
    """Of processor time, which tells the builds apart on a busy machine, too."""


@dataclass(slots=True)
class Row:
    """What is said of a case."""

    case: Case
    result: str
    before: Ran
    after: Ran
    found: Difference = field(default_factory=Difference)

    @property
    def details(self) -> str:
        """Return what the table has no column for."""
        if self.result == "differs":
            found = self.found
            most = f"{len(found.unequal)} of {found.files} files differ in their values, most {found.where}"
            return "; ".join(text for text in (found.other, most if found.unequal else "") if text)
        texts = [("before", self.before.error), ("after", self.after.error)]
        return "; ".join(f"{side}: {' '.join(text.split())[:400]}" for side, text in texts if text)


@dataclass(frozen=True, slots=True)
class Build:
    """A checkout, and where its results go."""

    side: str
    folder: Path
    out: Path

    def results_of(self, case: Case) -> Path:
        """Return the folder of a case's results."""
        return self.out / self.side / case.folder

    @property
    def command(self) -> str:
        """Return the function behind `bfr`, as `module:function`."""
        return read_toml(self.folder / "pyproject.toml")["project"]["scripts"]["bfr"]

    def methods(self) -> list[str]:
        """Return the ids of its methods, as `bfr models list` names them."""
        module, _, function = self.command.partition(":")
        code = f"import sys; from {module} import {function}; sys.exit({function}())"
        asked = [sys.executable, "-c", code, "models", "list"]
        with tempfile.TemporaryDirectory() as place:
            run = subprocess.run(asked, env=self.environment(1), cwd=place, capture_output=True, text=True, check=True)
        return re.findall(r"^(\w+): ", run.stdout.partition("detectors:")[0], re.MULTILINE)

    def workflows(self) -> dict[str, str]:
        """Return its saved workflows in the form that a host takes, by name."""
        return {path.stem: path.read_text("utf-8") for path in sorted(self.folder.glob("tests/**/api/*.json"))}

    def environment(self, threads: int) -> dict[str, str]:
        """Return the environment of its processes: its own modules first, and as many threads as the other has."""
        count = str(threads)
        own = {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        return {**os.environ, **own, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(path.read_text("utf-8"))


def list_cases(before: Build, after: Build, only: Sequence[str]) -> list[Case]:
    """Return the cases whose names match one of the patterns in `only`, or all.

    Methods and workflows are those of both builds together.
    """
    cases = fixed_cases()
    names = {case.name for case in cases}
    if not only or not names.issuperset(only):  # asking for the methods takes as long as a case
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            old, new = pool.map(Build.methods, (before, after))
        cases = [*method_cases(dict.fromkeys([*old, *new])), *cases]
        cases += workflow_cases(before.workflows(), after.workflows())
    return [case for case in cases if not only or any(fnmatch.fnmatch(case.name, pattern) for pattern in only)]


def run_build(build: Build, cases: Sequence[Case], others: Mapping[str, str], threads: int) -> dict[str, Ran]:
    """Run all cases in a process of the build, and in a new one where a case ends it.

    Args:
        build: to run.
        cases: in this order.
        others: workflows as they were saved before, by name.
        threads: of its arithmetic.
    """
    inputs, work = build.out / "inputs", build.out / "work" / build.side
    work.mkdir(parents=True)
    results, job = work / "results.jsonl", work / "job.json"
    results.touch()
    own, ran, tasks = build.workflows(), {}, []
    for case in cases:
        out, place = build.results_of(case), work / case.folder
        task = {"name": case.name, "out": str(out), "work": str(place), "inputs": str(inputs)}
        places = {"{in}": str(inputs), "{out}": str(out), "{work}": str(place)}
        argv = list(case.argv)
        for mark, path in places.items():
            argv = [part.replace(mark, path) for part in argv]
        task |= {"argv": argv, "pictures": case.pictures, "film": case.film}
        if case.workflow:
            text = (others if case.saved_by else own).get(case.workflow)
            if not text:
                ran[case.name] = Ran("it has no such workflow")
                continue
            prompt = work / f"{case.folder}.json"
            prompt.write_text(text, "utf-8")
            task["prompt"] = str(prompt)
        tasks.append(task)
    told = {"side": build.side, "build": str(build.folder), "command": build.command, "results": str(results)}
    job.write_text(json.dumps({**told, "cases": tasks}), "utf-8")
    while any(task["name"] not in ran for task in tasks):
        done = subprocess.run(
            [sys.executable, str(DRIVER), str(job)], env=build.environment(threads), cwd=work,
            stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        for line in map(json.loads, results.read_text("utf-8").splitlines()):
            ran[line["case"]] = Ran(line["error"], line["seconds"])
        lost = [task for task in tasks if task["name"] not in ran]
        # A process that ends before it begins a case would do so again for every other.
        begun = bool(lost) and Path(lost[0]["work"]).exists()
        for task in lost[:1] if begun else lost:
            error = f"its process ended with status {done.returncode}"
            ran[task["name"]] = Ran(error)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"case": task["name"], "error": error, "seconds": 0}) + "\n")
    return ran


def judge(case: Case, before: Ran, after: Ran, theirs: Path, ours: Path) -> Row:
    """Compare the results of a case in two folders."""
    if before.error or after.error:
        which = "neither" if before.error and after.error else "only after" if before.error else "only before"
        return Row(case, which, before, after)
    found = compare_folders(theirs, ours)
    if not found.files and not found.other:
        return Row(case, "nothing to compare", before, after)
    return Row(case, "equal" if found.equal else "differs", before, after, found)


def report(rows: Sequence[Row], expected: Mapping[str, str]) -> bool:
    """Print the table and what it comes to, and return whether all is as it should be."""
    width = max(len(row.case.name) for row in rows)
    heads = f"{'largest difference':>20}  {'share':>9}  {'CPU before':>10}  {'CPU after':>10}"
    print(f"{'case':{width}}  {'result':18}  {heads}")
    for row in rows:
        found, result = row.found, row.result
        meant = " (expected)" if result in FAILING and row.case.name in expected else ""
        most, share = "", ""
        if found.values:
            most = f"{found.largest:.6g} of {found.of}" if found.of else f"{found.largest:.6g}"
            share = f"{found.share:.4%}"
        times = [f"{ran.seconds:.1f} s" for ran in (row.before, row.after)]
        print(f"{row.case.name:{width}}  {result + meant:18}  {most:>20}  {share:>9}  {times[0]:>10}  {times[1]:>10}")
    told = [row for row in rows if row.details]
    if told:
        print("\nWhere it is not equal:")
    for row in told:
        print(f"  {row.case.name}: {row.result}: {row.details}")
        if row.case.name in expected:
            print(f"    expected: {expected[row.case.name]}")
    stale = [row.case.name for row in rows if row.result == "equal" and row.case.name in expected]
    if stale:
        print(f"\nExpected to differ, but equal: {', '.join(stale)}")
    bad = [row for row in rows if row.result in FAILING and row.case.name not in expected]
    counts = {result: sum(row.result == result for row in rows) for result in dict.fromkeys(row.result for row in rows)}
    totals = [
        f"{sum(ran.seconds for ran in side):.0f} s" for side in zip(*((r.before, r.after) for r in rows), strict=True)
    ]
    print(f"\n{len(rows)} cases, {totals[0]} before and {totals[1]} after:", end=" ")
    print(f"{', '.join(f'{count} {result}' for result, count in counts.items())}.", end=" ")
    print(f"{len(bad)} of them not expected: {', '.join(row.case.name for row in bad)}." if bad else "All as expected.")
    return not bad


def compare(before: Build, after: Build, data: Path, cases: Sequence[Case], threads: int) -> list[Row]:
    """Run the cases in both builds at once, and compare what they give."""
    inputs = before.out / "inputs"
    inputs.mkdir(parents=True)
    prepare({name for case in cases for name in case.inputs}, data, inputs)
    saved = before.workflows()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        old, new = pool.map(lambda build: run_build(build, cases, saved, threads), (before, after))
    return [
        judge(case, old[case.name], new[case.name], before.results_of(case), after.results_of(case)) for case in cases
    ]


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Give a worktree of a commit, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "build"
        git = ["git", "-C", str(PROJECT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, and return the exit status: 0 all as expected, 1 something is not, 2 wrong usage."""
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--before", type=Path, metavar="DIR", help="a checkout of the build before")
    source.add_argument("--before-commit", metavar="HASH", help="the commit of it, checked out for the time")
    parser.add_argument("--after", type=Path, metavar="DIR", default=PROJECT, help="the build after (this checkout)")
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="real pictures and films")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these cases; * stands for any letters")
    parser.add_argument("--expected", type=Path, metavar="FILE", help="differences that are meant, and why, as TOML")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep inputs and results in this new folder")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each build (%(default)s)")
    parser.add_argument("--list", action="store_true", help="name the cases, and run none")
    args = parser.parse_args(argv)
    if args.out and args.out.exists() and any(args.out.iterdir()):
        parser.error(f"{args.out} is not empty; results of another run would be compared")
    expected = read_toml(args.expected) if args.expected else {}
    if not all(isinstance(reason, str) and reason.strip() for reason in expected.values()):
        parser.error(f"{args.expected}: expected a line of text for each case, which says why it differs")
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(checkout(args.before_commit)) if args.before_commit else args.before
        for folder in (old, args.after):
            if not (folder / "pyproject.toml").is_file():
                parser.error(f"{folder} is no checkout of this project")
        out = (args.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        before, after = (Build(*side, out) for side in (("before", old.resolve()), ("after", args.after.resolve())))
        cases = list_cases(before, after, args.only)
        if not cases:
            parser.error(f"no case is named {' or '.join(args.only)}; --list names them")
        if args.list:
            print("\n".join(case.name for case in cases))
            return 0
        rows = compare(before, after, args.data, cases, args.threads)
    return 0 if report(rows, expected) else 1


if __name__ == "__main__":
    sys.exit(main())
