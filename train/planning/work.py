"""Work through a plan: train what is not trained yet, measure it, keep it or not, and hand it on."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState

from bfr_core.errors import SettingsError
from bfr_core.models.checkpoints.files import sha256_of

from ..checkpoint import Checkpoints
from ..config import TrainConfig, scaled
from ..estimate import rates
from ..export import export
from ..licences import stated_licences
from ..loop import Outcome, train
from ..pictures import list_sources
from ..run import TrainOptions
from .folder import PlanFolder
from .judging import compare, in_words, measure
from .kept import publish_kept, targets
from .line import StageJournal, StatusLine
from .plan import Place, Plan, Planned, place_of


@dataclass(frozen=True, slots=True)
class How:
    """How the machine is used: the options of a run that are the same for every stage."""

    time_limit: float = math.inf
    """Seconds after which the stage at hand is saved and the plan ends."""
    skipped: Collection[str] = ()
    align: bool = False
    store: Path | None = None
    workers: int = 1
    memory: int = 1 << 30
    cpu: bool = False
    licence: str = ""


class Work:
    """One command's work on a plan.

    Args:
        plan: with what it was given.
        folder: held.
        how: how the machine is used.
        line: hears how far it is.
    """

    def __init__(self, plan: Plan, folder: PlanFolder, how: How, line: StatusLine | None = None) -> None:
        self.plan, self.folder, self.how, self.line = plan, folder, how, line or StatusLine()
        self._ends = time.monotonic() + how.time_limit

    def run(self) -> Outcome:
        """Train and decide every stage that is not decided.

        Raises:
            BfrError: a stage cannot be trained; those before it stay decided.
        """
        _require_one_process(self.how.cpu)
        self._require_licences()
        self._settle()
        for number, planned in enumerate(self.plan.stages, 1):
            self.line.prefix = f"[{number}/{len(self.plan.stages)}] {planned.name}: "
            result = self.folder.result(planned.name)
            if result is not None:
                self._say_if_rules_changed(planned, result)
                continue
            if planned.name in self.how.skipped:
                self.line.keep("left out")
                continue
            if self._left() <= 0:
                return "time limit"
            outcome = self._train(planned)
            if outcome != "done":
                return outcome
            if self._left() <= 0:
                return "time limit"
            self._decide(planned)
        self.line.prefix = ""
        return "done"

    def _settle(self) -> None:
        """Do what follows from the results that are there, where an earlier command was killed before it could."""
        for planned in self.plan.stages:
            if result := self.folder.result(planned.name):
                self._withdraw_misfits(planned.name, result)
        publish_kept(self.plan, self.folder)

    def _left(self) -> float:
        return self._ends - time.monotonic()

    def _require_licences(self) -> None:
        """Ask for the licence of the pictures before anything is trained on them: cards need it."""
        if self.how.licence:
            return
        open_stages = [planned for planned in self.plan.stages if planned.name not in self.how.skipped]
        for place in dict.fromkeys(path for planned in open_stages for path in self._pictures(planned.entry.data)):
            if not stated_licences(list_sources([place]), place):
                raise SettingsError(
                    f"Cannot train on {place}",
                    found="no licence is stated for its pictures, and the cards of the weights name it",
                    kept="Nothing was started",
                    todo="State it with --licence, or in a LICENCE.txt beside the pictures",
                )

    def _say_if_rules_changed(self, planned: Planned, result: Mapping[str, Any]) -> None:
        if result["keep"] != _plain(planned.entry.keep):
            self.line.keep("its rules changed since it was decided; to decide anew, remove its file below results")

    # What a stage is given ---------------------------------------------------------------------------------------

    def _pictures(self, texts: Sequence[str]) -> list[Path]:
        return [path for text in texts for path in self.plan.paths(place_of(text))]

    def _stands_for(self, name: str) -> list[Path]:
        """Return what an earlier stage gives: its own result where that is kept, else what it did not beat.

        Raises:
            SettingsError: the stage is not decided, and nothing stands in for it.
        """
        result = self.folder.result(name)
        if result is not None and result["kept"]:
            return [Path(self.folder.path / result["product"])]
        rivals = self._rivals(self.plan[name])
        if not rivals:
            raise SettingsError(
                f"There is nothing to give in place of {name}",
                found="the stage has no result, and names no weights that it is compared with",
                kept="Nothing was started",
                todo=f"Train {name} first",
            )
        return rivals

    def _rivals(self, planned: Planned) -> list[Path]:
        """Return the files that a stage's result is compared with."""
        return [
            path
            for place in planned.rivals
            for path in (self._stands_for(place.name) if place.kind == "stage" else self.plan.paths(place))
        ]

    def _files(self, planned: Planned) -> dict[str, Path]:
        """Return the files a stage is trained with."""
        return {need: self._file(place) for need, place in planned.files.items()}

    def _file(self, place: Place) -> Path:
        # Of a stage that takes the place of several files the first is the network itself, as embedded ones are named.
        return (self._stands_for(place.name) if place.kind == "stage" else self.plan.paths(place))[0]

    def _companions(self, planned: Planned) -> dict[str, Path]:
        """Return the files that go with what a stage's result is compared with, as it is without this plan."""

        def before(place: Place) -> Path:
            if place.kind != "stage":
                return self.plan.paths(place)[0]
            rivals = self.plan[place.name].rivals
            return before(rivals[0]) if rivals else self._file(place)

        return {need: before(place) for need, place in planned.files.items()}

    # Training ----------------------------------------------------------------------------------------------------

    def _options(self, planned: Planned) -> TrainOptions:
        how, entry = self.how, planned.entry
        command = f"python -m train plan {self.plan.path.name} --data DIR... --val DIR... --out DIR, stage {entry.name}"
        init = None
        if entry.init:
            place = place_of(entry.init)
            init = self._file(place)
            if place.kind == "stage" and planned.stage.folded:
                init = self.folder.run(place.name)
        return TrainOptions(
            out=self.folder.run(planned.name), data=self._pictures(entry.data), val=self._pictures(entry.val),
            time_limit=self._left(), init=init, align=how.align, store=how.store, workers=how.workers,
            memory=how.memory, cpu=how.cpu, licence=how.licence,
            command=command,
        )  # fmt: skip

    def _train(self, planned: Planned) -> Outcome:
        files, options = self._files(planned), self._options(planned)
        _forget_precision()
        config = self._budgeted(planned, files, options)
        if self._is_through(planned.name):
            return "done"
        journal = StageJournal(options.out, self.line)
        label = (planned.entry.stage, planned.config_name)
        options = dataclasses.replace(options, time_limit=self._left())
        outcome = train(label, planned.stage(config, files), options, journal)
        self.line.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return outcome

    def _budgeted(self, planned: Planned, files: Mapping[str, Path], options: TrainOptions) -> TrainConfig:
        """Return the config with as many images as its budget comes to, which is worked out once."""
        entry = planned.entry
        begun = self.folder.begun(entry.name)
        images = entry.images
        if entry.hours is not None:
            images = begun["images"] if begun else self._images_in(entry.hours, planned, files, options)
        config = scaled(planned.config, images) if images else planned.config
        told = {
            "stage": entry.stage, "config": planned.config_name, "overrides": entry.overrides, "hours": entry.hours,
            "images": sum(phase.images for phase in config.phases), "init": self._told(options.init),
            "files": {need: self._told(path) for need, path in files.items()},
        }  # fmt: skip
        self.folder.begin(entry.name, told)
        return config

    def _told(self, path: Path | None) -> str:
        """Return a file as records name it: within the plan's folder from there, else by its name."""
        if path is None:
            return ""
        return path.relative_to(self.folder.path).as_posix() if path.is_relative_to(self.folder.path) else path.name

    def _images_in(self, hours: float, planned: Planned, files: Mapping[str, Path], options: TrainOptions) -> int:
        self.line.show(f"measuring how many images {hours:g} hours are")
        label = (planned.entry.stage, planned.config_name)
        speeds = rates(label, planned.stage(planned.config, files), options)
        _forget_precision()
        phases = planned.config.phases
        seconds = sum(phase.images / speed for phase, speed in zip(phases, speeds, strict=True))
        images = round(sum(phase.images for phase in phases) * 3600 * hours / seconds)
        self.line.keep(f"{hours:g} hours are about {images:,} images here, validation not counted")
        return images

    def _is_through(self, name: str) -> bool:
        """Tell whether a stage's run has ended, without building its networks."""
        state = Checkpoints(self.folder.run(name)).load(lambda text: None)
        return state is not None and state["position"]["phase"] >= len(state["config"]["phases"])

    # What comes of it --------------------------------------------------------------------------------------------

    def _decide(self, planned: Planned) -> None:
        entry, name = planned.entry, planned.name
        files = self._files(planned)
        product = self._product(planned, files)
        rivals, checks, figures = self._rivals(planned), [], {}
        self.line.show("measuring its result")
        figures["after"] = self._measured(planned, files, [product])
        if rivals:
            self.line.show(f"measuring {', '.join(targets(self.plan, planned))}")
            # What this plan has made goes with its other results, what is there without it with what is there.
            made = any(self._is_kept(place.name) for place in planned.rivals if place.kind == "stage")
            companions = files if made else self._companions(planned)
            figures["before"] = self._measured(planned, companions, rivals)
            checks = compare(entry.keep, figures["before"], figures["after"])
        kept = all(check["holds"] for check in checks)
        trained_on = [
            place.name for place in planned.files.values() if place.kind == "stage" and self._is_kept(place.name)
        ]
        result = {
            "stage": entry.stage, "kept": kept, "product": self._told(product), "sha256": _hash(product), **figures,
            "against": {target: path.name for target, path in targets(self.plan, planned).items()},
            "keep": _plain(entry.keep), "checks": checks, "trained_on": trained_on, "judge_limit": entry.judge_limit,
        }  # fmt: skip
        if not kept and any(self.plan[other].rivals for other in trained_on):
            self.line.show("measuring what stays beside what is new")
            result["beside"] = self._measured(planned, files, rivals)
            stays = compare(entry.keep, figures["before"], result["beside"], stays=True)
            result["misfit"] = [check for check in stays if not check["holds"]]
        self.folder.decide(name, result)
        for fault in (check for check in checks if not check["holds"]):
            self.line.keep(f"not kept: {in_words(fault)}")
        self._withdraw_misfits(name, result)
        written = publish_kept(self.plan, self.folder).get(name, [])
        if kept:
            self.line.keep(
                f"kept: {', '.join(f'weights/{one}.safetensors' for one in written)}" if rivals else "handed on"
            )

    def _product(self, planned: Planned, files: Mapping[str, Path]) -> Path:
        """Write what a finished run gives, and return where it is."""
        run, target = self.folder.run(planned.name), self.folder.export(planned.name)
        if planned.entry.stage == "detector.search":
            return run  # it ships with the second look only, which reads its checkpoint
        if planned.entry.stage == "detector.refiner":
            from ..detection.export import export_detector

            export_detector(files["search"], run, target, licence=self.how.licence)
        else:
            export(run, target, licence=self.how.licence)
        return target

    def _measured(self, planned: Planned, files: Mapping[str, Path], weights: Sequence[Path]) -> dict[str, float]:
        config = dataclasses.replace(planned.config, validate_limit=planned.entry.judge_limit)
        stage = planned.stage(config, files)
        how = self.how
        held_out = stage.pictures(
            self._pictures(planned.entry.val), held=True, align=how.align, store=how.store, memory=how.memory
        )
        return measure(stage, weights, held_out, PartialState(cpu=how.cpu).device)

    def _is_kept(self, name: str) -> bool:
        result = self.folder.result(name)
        return result is not None and result["kept"]

    def _withdraw_misfits(self, name: str, result: Mapping[str, Any]) -> None:
        """Withdraw what a stage was trained on where what stays in that stage's place is worse off with it."""
        if misfit := result.get("misfit"):
            why = f"{name} is not kept, and what stays does not go with it: {in_words(misfit[0])}"
            for other in result["trained_on"]:
                self._withdraw(other, why)

    def _withdraw(self, name: str, why: str) -> None:
        """Give up a result that was kept, and with it whatever was trained on it."""
        result = self.folder.result(name)
        if result is None or not result["kept"] or not self._rivals(self.plan[name]):
            return  # nothing else could be handed on in its place
        self.folder.decide(name, {**result, "kept": False, "withdrawn": why})
        self.line.keep(f"{name} is withdrawn: {why}")
        for planned in self.plan.stages:
            other = self.folder.result(planned.name)
            if other is not None and name in other["trained_on"]:
                self._withdraw(planned.name, f"it was trained on {name}, which is withdrawn")


def _plain(keep: Any) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(keep)))


def _hash(product: Path) -> str:
    return sha256_of(product) if product.is_file() else ""


def _forget_precision() -> None:
    """Let the next run choose its precision: accelerate keeps one for a process, and has no other way to forget it."""
    AcceleratorState._reset_state()


def _require_one_process(cpu: bool) -> None:
    count = PartialState(cpu=cpu).num_processes
    if count > 1:
        raise SettingsError(
            "A plan is worked through by one process",
            found=f"{count} were launched",
            kept="Nothing was started",
            todo="Start it without accelerate launch; its stages can be run one by one on several GPUs",
        )
