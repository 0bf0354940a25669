"""What `compare_builds.py` has both builds do, and the small inputs that it is done to.

A case is a command line of `bfr`, or a saved workflow. In a command line `{in}` is the folder of inputs, `{out}` that
of the results that are compared, and `{work}` one for everything else that a run leaves behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

FEW_STEPS = {"clr_face": 2, "diffuse_restore": 2, "lpip_diff": 2}
"""Methods whose steps take the time; what they compute is the same in the first two. Others run as they are."""

CLIP_FRAMES, CLIP_RATE = 6, 15
"""Of small films. They last longer than 0.3 s: a face that is in sight for less is left alone."""

_DEVICE = ("--device", "cpu")
"""Graphics processors do not add up in the same order twice."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that both builds do."""

    name: str
    argv: tuple[str, ...] = ()
    """Of the command `bfr`; empty where it is a workflow."""
    workflow: str = ""
    """Its name, without a suffix."""
    saved_by: str = ""
    """The build whose file of it both run; empty: each its own."""
    pictures: tuple[str, ...] = ()
    """Inputs in the place of the pictures that the workflow loads, in the order of its nodes; the last for the rest."""
    film: str = ""
    """As `pictures`, for films."""

    @property
    def folder(self) -> str:
        """Return the name of the folder of its results."""
        return self.name.replace("/", "__")

    @property
    def inputs(self) -> set[str]:
        """Return the inputs that it reads, by name."""
        read = {part.removeprefix("{in}/") for part in self.argv if part.startswith("{in}/")}
        return read | set(self.pictures) | ({self.film} if self.film else set())


def _restore(name: str, source: str, target: str, *options: str, method: str = "irn") -> Case:
    steps = ("--steps", str(FEW_STEPS[method])) if method in FEW_STEPS else ()
    files = (f"{{in}}/{source}", "-o", f"{{out}}/{target}")
    return Case(name, ("restore", *files, "--method", method, *steps, *_DEVICE, *options))


def _film(name: str, source: str, *options: str, method: str = "irn") -> Case:
    # Without loss, so that what is decoded is what went to the encoder, and with the job's folder out of the way.
    kept = ("--codec", "ffv1", "--job", "{work}/job")
    return _restore(name, source, "restored.mkv", *kept, *options, method=method)


def method_cases(methods: Iterable[str]) -> list[Case]:
    """Return those that every method runs with its smallest config: a poor photo, and a clean one set otherwise."""
    cases = []
    for method in methods:
        cases.append(_restore(f"photo/{method}", "small.jpg", "restored.png", method=method))
        other = ("--seed", "3", "--fidelity", "0.8")
        cases.append(_restore(f"photo-set/{method}", "clean.png", "restored.png", *other, method=method))
    return cases


def fixed_cases() -> list[Case]:
    """Return those that name their method."""
    mask, reference = ("--mask", "{in}/mask.png"), ("--reference", "{in}/person.png", "--guide-strength", "10")
    first = ("--seconds", "0.4")
    degrade = ("--preset", "gfpgan", "--seed", "1", "--truth", "{out}/truth")
    heavy = ("--preset", "codeformer-2", "--seed", "4")
    clip = ("degrade", "{in}/clip.mp4", "-o", "{out}/clip.mp4", "--seed", "2")
    styles = ("styles", "{in}/small.jpg", "-o", "{out}/codes.safetensors", "--preview", "{out}/steps.png", *_DEVICE)
    return [
        _restore("aligned/irn", "aligned.png", "restored.png", "--aligned"),
        _restore("aligned/vspbfr", "aligned.png", "restored.png", "--aligned", method="vspbfr"),
        _restore("group/irn", "group.png", "restored.png", "--compare"),
        _restore("group/vspbfr", "group.png", "restored.png", "--max-faces", "2", "--seed", "5", method="vspbfr"),
        _restore("only/vspbfr", "two.png", "restored.png", "--only", "{in}/person.png", method="vspbfr"),
        _restore("except/irn", "two.png", "restored.png", "--except", "{in}/person.png"),
        # Between the drifts of these faces, so that some are taken back and some are not.
        _restore("drift/irn", "group.png", "restored.png", "--max-drift", "0.026"),
        _restore("whole/lpip_diff", "corner.png", "restored.png", "--whole", method="lpip_diff"),
        _restore("mask/diffuse_restore", "small.jpg", "restored.png", *mask, method="diffuse_restore"),
        _restore("reference/clr_face", "small.jpg", "restored.png", *reference, method="clr_face"),
        _restore("sixteen-bit/irn", "sixteen.png", "restored.png"),
        _restore("strength/irn", "small.jpg", "restored.png", "--strength", "0.5"),
        _restore("formats/irn", "formats", "restored"),
        _film("film/irn-talking", "talking_480x480.mp4", *first),
        _film("film/irn-cuts", "performance_cuts_640x360.mp4", *first, "--all-faces"),
        _film("film/irn-ten-bit", "ten_bit.mkv", "--all-faces", "--deflicker", "0"),
        _film("film/diffuse_restore-talking", "talking_480x480.mp4", *first, "--all-faces", method="diffuse_restore"),
        Case("degrade/pictures", ("degrade", "{in}/portraits", "-o", "{out}/poor", *degrade)),
        Case("degrade/codeformer-2", ("degrade", "{in}/portraits", "-o", "{out}/poor", *heavy)),
        Case("degrade/clip", clip),
        Case("styles/vspbfr", styles),
    ]


def workflow_cases(before: Mapping[str, str], after: Mapping[str, str]) -> list[Case]:
    """Return the saved workflows of both builds, whose texts are given by name.

    A graph that was saved before is run by both, too, where the new build ships another in its place.
    """
    cases = []
    for name in sorted({*before, *after}):
        pictures = ("two.png", "person.png") if name == "restore_person" else ("clean.png",)
        pictures = ("corner.png",) if name == "whole_picture" else pictures
        case = Case(f"workflow/{name}", workflow=name, pictures=pictures, film="clip.mp4")
        cases.append(case)
        if name in before and before[name] != after.get(name):
            cases.append(replace(case, name=f"workflow-before/{name}", saved_by="before"))
    return cases


def prepare(names: Iterable[str], data: Path, folder: Path) -> None:
    """Make inputs in a folder, from the real pictures and films in `data`."""
    for name in sorted(names):
        if name in _COPIED:
            shutil.copyfile(data / _COPIED[name], folder / name)
        else:
            _MADE[name](data, folder / name)


def _read(path: Path, width: int, mode: str = "RGB") -> Image.Image:
    """Read a picture and bring it to a width."""
    picture = Image.open(path).convert(mode)
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


def _smaller(source: str, width: int) -> Callable[[Path, Path], None]:
    return lambda data, path: _read(data / source, width).save(path)


def _sixteen(picture: Image.Image) -> np.ndarray:
    """Return a picture enlarged by a half with all 16 bits in use, (H, W, 3) BGR."""
    values = cv2.resize(np.asarray(picture)[..., ::-1].astype(np.float32), None, fx=1.5, fy=1.5)
    return (values * 257).round().clip(0, 65535).astype(np.uint16)


def _write_sixteen(data: Path, path: Path) -> None:
    cv2.imwrite(str(path), _sixteen(_read(data / _CLEAN, 240)))


def _write_mask(data: Path, path: Path) -> None:
    """White where the mouth and chin of the small photo may be, with a soft edge."""
    width, height = Image.open(data / _SMALL).size
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2, height * 5 // 8), (width // 5, height // 6), 0, 0, 360, 255, -1)
    cv2.imwrite(str(path), cv2.GaussianBlur(mask, (0, 0), 4))


def _write_corner(data: Path, path: Path) -> None:
    _read(data / "photos/clean/two_people.jpg", 420).crop((70, 0, 182, 96)).save(path)


def _write_formats(data: Path, path: Path) -> None:
    """Write one face as every kind of picture: turned by EXIF, gray, with alpha, of 16 bit, of floats."""
    path.mkdir()
    face = _read(data / _CLEAN, 240)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    face.transpose(Image.Transpose.ROTATE_90).save(path / "turned.jpg", exif=exif, quality=92)
    face.convert("L").save(path / "gray.jpg", quality=90)
    clear = face.copy()
    clear.putalpha(Image.linear_gradient("L").resize(face.size))
    clear.save(path / "alpha.png")
    face.save(path / "lossless.webp", lossless=True)
    cv2.imwrite(str(path / "sixteen.tif"), _sixteen(face))
    cv2.imwrite(str(path / "floats.tif"), np.asarray(face)[..., ::-1].astype(np.float32) / 255)


def _write_portraits(data: Path, path: Path) -> None:
    path.mkdir()
    _read(data / "photos/degraded/Adele_crop.png", 256).save(path / "one.png")
    _read(data / _CLEAN, 240).save(path / "two.png")


def _write_clip(data: Path, path: Path, codec: str = "libx264", pix_fmt: str = "yuv420p") -> None:
    """Write the first frames of a film, smaller and without sound."""
    with av.open(str(data / _TALKING)) as source, av.open(str(path), "w") as target:
        options = {"crf": "12", "threads": "1"} if codec == "libx264" else {}
        made: Any = target.add_stream(codec, rate=CLIP_RATE, options=options)
        made.width, made.height, made.pix_fmt = 320, 320, pix_fmt
        for index, frame in zip(range(CLIP_FRAMES), source.decode(video=0), strict=False):
            small = frame.reformat(320, 320, pix_fmt, interpolation="AREA")
            small.pts, small.time_base = index, Fraction(1, CLIP_RATE)
            target.mux(made.encode(small))
        target.mux(made.encode(None))


_SMALL = "photos/degraded/pd_small_J000288.jpg"
_CLEAN = "photos/clean/obama-240p.jpg"
_TALKING = "video/talking_480x480.mp4"

_COPIED = {
    "small.jpg": _SMALL,
    "aligned.png": "photos/degraded/Adele_crop.png",
    "talking_480x480.mp4": _TALKING,
    "performance_cuts_640x360.mp4": "video/performance_cuts_640x360.mp4",
}
"""Inputs that are files of `data` as they are."""

_MADE: dict[str, Callable[[Path, Path], None]] = {
    "clean.png": _smaller(_CLEAN, 320),
    "group.png": _smaller("photos/groups/2008_002079.jpg", 400),
    "two.png": _smaller("photos/clean/two_people.jpg", 420),
    "person.png": _smaller("photos/clean/obama.jpg", 300),
    "corner.png": _write_corner,
    "sixteen.png": _write_sixteen,
    "mask.png": _write_mask,
    "formats": _write_formats,
    "portraits": _write_portraits,
    "clip.mp4": _write_clip,
    "ten_bit.mkv": lambda data, path: _write_clip(data, path, "ffv1", "yuv420p10le"),
}
"""Inputs that are made of them."""
