"""The one training loop. Progress is counted in images; running the same command again continues."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import time
from collections.abc import Iterator
from typing import Literal

import torch

from bfr_core.errors import TrainError
from bfr_core.media.sheets import caption, row, stack

from .config import Phase, to_dict
from .data import Feed
from .journal import Journal
from .licences import stated_licences
from .optim import learning_rate
from .pictures import Pictures
from .precision import called
from .run import Run, Tally, TrainOptions
from .stage import Check, Stage, Validator

Outcome = Literal["done", "time limit", "interrupted"]
REPORT_SECONDS = 30.0
_SHEET_HEIGHT = 256


def train(name: tuple[str, str], stage: Stage, options: TrainOptions, journal: Journal | None = None) -> Outcome:
    """Train until the phases are through, the time is up, or somebody interrupts; in each case a checkpoint is kept.

    Args:
        name: METHOD.STAGE and the config's name.
        stage: what is trained.
        options: places and limits.
        journal: hears what happens, in place of the terminal and the log in the run's folder.

    Raises:
        BfrError: what it was given cannot be used, or the run cannot go on.
    """
    run = Run(name, stage, options, journal)
    pictures, held_out = open_data(run)
    journal = run.journal
    resumed = run.resume()
    run.prepare()
    told = {"stage": name[0], "config": name[1], **to_dict(run.config), "computed_in": called(run.precision)}
    journal.write_once("config.json", told)
    validator = stage.validator(held_out) if run.accelerator.is_main_process else None
    place = f"{run.world} x {run.device}, {called(run.precision)}"
    place += " (precision auto)" if run.config.precision == "auto" else ""
    journal.note(
        f"{name[0]} {name[1]}: {len(pictures)} pictures, {len(held_out)} held out, {place}, "
        + (f"continuing after {run.position.total} images" if resumed else "from the beginning")
    )
    if validator is not None and not resumed:
        journal.write({"baseline": dict(validator.baseline)})
        run.figures["input"] = dict(validator.baseline)
    with _interruptible() as interrupted:
        try:
            return _phases(run, pictures, validator, interrupted)
        finally:
            journal.close()


def open_data(run: Run) -> tuple[Pictures, Pictures]:
    """Open the training and the held-out pictures, and note what they are.

    Raises:
        InputMediaError: a place is missing or empty, or a licence list leaves pictures out.
    """
    options = run.options
    memory = options.memory // max(options.workers, 1)
    pictures, held_out = (
        run.stage.pictures(places, held=held, align=options.align, store=options.store, memory=memory)
        for places, held in ((options.data, False), (options.val, True))
    )
    licences = {
        place: stated_licences([source for source in pictures.sources if source.path.is_relative_to(place)], place)
        for place in options.data
    }
    names = "\n".join(source.name for source in pictures.sources)
    run.data_facts = {
        "places": [f"{place.parent.name}/{place.name}" for place in options.data],
        "pictures": len(pictures),
        "licences": options.licence or "; ".join(dict.fromkeys(filter(None, licences.values()))),
        "unlicensed": [] if options.licence else [str(place) for place, text in licences.items() if not text],
        "fingerprint": hashlib.sha256(names.encode()).hexdigest(),
    }
    if run.data_facts["unlicensed"]:
        run.journal.note(
            "No licence is stated for the pictures in "
            f"{', '.join(run.data_facts['unlicensed'])}: export will ask for it (--licence states it)"
        )
    return pictures, held_out


def _phases(run: Run, pictures: Pictures, validator: Validator | None, interrupted: list[int]) -> Outcome:
    began = saved = time.monotonic()
    while run.position.phase < len(run.config.phases):
        phase = run.config.phases[run.position.phase]
        feed = Feed(
            run.stage.examples(pictures, phase),
            start=run.position.seen,
            batch=phase.batch,
            parts=run.config.accumulate,
            rank=run.rank,
            world=run.world,
            workers=run.options.workers,
            device=run.device,
        )
        tally = Tally()
        try:
            while run.position.seen < phase.images:
                before = run.position.total
                run.step(feed, phase, tally)
                _count_bad(run, feed, len(pictures))
                now = time.monotonic()
                through = run.position.seen >= phase.images
                ends = now - began > run.options.time_limit or run.position.total >= run.options.stop_after
                ends = _agree(run, ends or bool(interrupted))
                if now - tally.began > REPORT_SECONDS or ends or through:
                    _report(run, phase, feed, tally)
                    tally = Tally(waited=feed.waited)
                every = run.config.validate_images
                if through or (before // every != run.position.total // every and not ends):
                    _validate(run, validator)
                    tally.began += time.monotonic() - now
                if ends or now - saved > 60 * run.config.save_minutes:
                    run.save()
                    saved = time.monotonic()
                if ends:
                    outcome: Outcome = "interrupted" if interrupted else "time limit"
                    run.journal.note(f"Ended ({outcome}) after {run.position.total} images; the same command continues")
                    return outcome
        finally:
            feed.close()
        run.position.phase, run.position.seen = run.position.phase + 1, 0
        run.save()
    run.journal.note(f"Done: {run.position.total} images, {run.position.skipped} steps left out, {len(run.bad)} bad")
    return "done"


def _agree(run: Run, ends: bool) -> bool:
    """End in all processes at the same step or in none."""
    if run.world == 1:
        return ends
    if ends:
        run.accelerator.set_trigger()
    return run.accelerator.check_trigger()


def _count_bad(run: Run, feed: Feed, pictures: int) -> None:
    """Name each picture that could not be used, once, and end where there are too many."""
    for name in feed.bad.keys() - run.bad.keys():
        run.bad[name] = feed.bad[name]
        run.journal.note(f"Bad picture {len(run.bad)}: {feed.bad[name]}")
    most = max(int(run.config.bad_images * pictures), 1)
    if len(run.bad) > most:
        saved = run.save()
        raise TrainError(
            f"Training of {run.name[0]} stopped: too many bad pictures",
            found=f"{len(run.bad)} of {pictures} cannot be used, expected at most {most}: "
            f"{', '.join(sorted(run.bad)[:5])}{' and more, all named in the log' if len(run.bad) > 5 else ''}",
            kept=f"The run so far is in {saved}" if saved else "The run so far was saved",
            todo="Remove or repair them, or allow more with --set bad_images=0.1",
        )


def _report(run: Run, phase: Phase, feed: Feed, tally: Tally) -> None:
    spent = time.monotonic() - tally.began
    rate = tally.images / max(spent, 1e-9)
    waiting = (feed.waited - tally.waited) / max(spent, 1e-9)
    losses = {name: value.item() / tally.counts[name] for name, value in tally.sums.items()}
    left = (phase.images - run.position.seen) / max(rate, 1e-9) / 60
    entry = {
        "phase": phase.name,
        "seen": run.position.seen,
        "total": run.position.total,
        "images_per_second": round(rate, 2),
        "seconds": round(spent, 2),
        "waiting": round(waiting, 3),
        "lr": learning_rate(phase, run.position.seen),
        **{name: float(f"{value:.5g}") for name, value in losses.items()},
    }
    if run.device.type == "cuda":
        entry["gpu_gib"] = round(torch.cuda.max_memory_allocated(run.device) / 2**30, 2)
    run.journal.write(entry)
    run.journal.scalars({f"loss/{key}": value for key, value in losses.items()}, run.position.total)
    run.journal.scalars(
        {"run/images_per_second": rate, "run/waiting": waiting, "run/lr": entry["lr"]}, run.position.total
    )
    shown = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
    run.journal.say(
        f"{phase.name} {run.position.seen:,}/{phase.images:,}  {rate:.2f} images/s  {max(left, 0):.0f} min left  "
        f"waiting {100 * waiting:.0f} %  {shown}"
    )


def _validate(run: Run, validator: Validator | None) -> None:
    if validator is not None:
        began = time.monotonic()
        check: Check = validator.run(run.judged())
        figures = {key: round(value, 4) for key, value in check.figures.items()}
        run.figures["validation"] = figures
        run.figures["validated_at"] = run.position.total
        seconds = round(time.monotonic() - began, 2)
        run.journal.write({"total": run.position.total, "validation": figures, "seconds": seconds})
        run.journal.scalars({f"validation/{key}": value for key, value in figures.items()}, run.position.total)
        run.journal.say("validation  " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
        if check.rows:
            rows = [row(images, _SHEET_HEIGHT) for images in check.rows]
            text = [f"{run.name[0]}, {run.position.total} images: {validator.columns}"]
            run.journal.sheet(stack([caption(text, max(part.shape[1] for part in rows)), *rows]), run.position.total)


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collect Ctrl-C and termination so that a step ends and is saved; a second one ends at once."""
    caught: list[int] = []

    def note(number: int, frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        old = {}
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
