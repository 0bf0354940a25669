"""Which faces of photos are left alone, what large ones keep, and what is said where no face is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_restorers import Brighten, restorer_of
from torch import nn

from bfr_core.cli import main
from bfr_core.faces.align import points_from_box
from bfr_core.faces.quality import QualityFilter, detail
from bfr_core.media.pictures import read_picture, to_float
from bfr_core.restoration.options import RestoreOptions
from bfr_core.restoration.photo import restore_aligned, restore_photo
from bfr_core.types import Face

BOX = (40.0, 30.0, 140.0, 150.0)


class Untouched(nn.Module):
    """Gives back what it is given."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return faces.clone()


class Smooth(nn.Module):
    """Take the fine detail out of faces, as restorers do."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(faces, 5, 1, 2, count_include_pad=False)


def noise(size: int = 200) -> torch.Tensor:
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2


def face(box: tuple[float, float, float, float] = BOX, **said) -> Face:
    return Face(box, points_from_box(box), 0.99, **said)


@pytest.fixture(scope="module")
def portrait(shared) -> Path:
    """A sharp portrait, 0.63 by our own measure."""
    return shared / "faces" / "pd512" / "val" / "A000361.jpg"


@pytest.fixture(scope="module")
def blurred(shared) -> Path:
    return shared / "photos" / "degraded" / "Eliane_Karp_0001_00_lq.png"


def reports(folder: Path) -> list[dict]:
    return json.loads((folder / "report.json").read_text("utf-8"))["files"]


def restored(out: Path, *inputs: Path, options: tuple[str, ...] = ()) -> list[dict]:
    command = ["restore", *map(str, inputs), "-o", str(out), "--report", str(out / "report.json"), *options]
    assert main(command) == 0
    return reports(out)


# --- faces that have nothing to gain -------------------------------------------------------------------------------


def test_a_sharp_portrait_is_left_alone_and_a_degraded_one_is_restored(tmp_path, portrait, blurred, capsys):
    sharp, poor = restored(tmp_path / "out", portrait, blurred)
    (left,), (done,) = sharp["report"]["faces"], poor["report"]["faces"]
    assert left["action"] == "kept" and left["reason"] == f"sharp already: {left['sharpness']:.2f}, at least 0.55"
    assert done["action"] == "restored" and done["sharpness"] < 0.4 and done["seconds"] > 0
    assert (tmp_path / "out" / portrait.name).read_bytes() == portrait.read_bytes()
    assert "1 left alone as sharp already (--all-faces restores them too)" in capsys.readouterr().out


def test_all_faces_overrides_the_filter(tmp_path, portrait):
    (entry,) = restored(tmp_path / "out", portrait, options=("--all-faces",))
    assert entry["report"]["faces"][0]["action"] == "restored"


def test_a_fairly_sharp_face_is_not_softened(shared, tmp_path):
    """0.51 is below the limit of sharp faces, and restoring takes half of the detail."""
    portrait = shared / "faces" / "pd512" / "val" / "S001142.jpg"
    (entry,) = restored(tmp_path / "out", portrait)
    (left,) = entry["report"]["faces"]
    assert left["action"] == "kept" and left["reason"].startswith("restoring would soften it: 0.")
    frame = to_float(read_picture(portrait))
    assert torch.equal(to_float(read_picture(tmp_path / "out" / portrait.name)), frame)


def test_turned_heads_are_left_alone():
    turned = face()
    turned.points[2, 0] = turned.points[1, 0] + 8  # the nose beyond the right eye
    (left,) = restore_photo(noise(), restorer_of(Brighten()), faces=[turned]).report.faces
    assert left.action == "kept" and "degrees aside, more than 55" in left.reason


@pytest.mark.parametrize("size", [100, 64])
def test_who_a_person_chose_is_restored(size):
    """A box drawn by hand and an aligned face are orders; the same face found by a detector is left alone."""
    frame, restorer = noise(), restorer_of(Smooth())
    strict = RestoreOptions(quality_filter=QualityFilter(sharp=0.0))
    box = (50.0, 50.0, 50.0 + size, 50.0 + size)
    (found,) = restore_photo(frame, restorer, faces=[face(box)], options=strict).report.faces
    (drawn,) = restore_photo(frame, restorer, faces=[face(box, origin="drawn")], options=strict).report.faces
    assert (found.action, drawn.action) == ("kept", "restored")
    assert restore_aligned(noise(size), restorer, options=strict).report.faces[0].action == "restored"


def test_faces_that_are_left_alone_take_no_place_among_the_largest():
    small, turned = face((10.0, 10.0, 60.0, 70.0)), face((80.0, 60.0, 190.0, 190.0))
    turned.points[2, 0] = turned.points[1, 0] + 8
    options = RestoreOptions(max_faces=1, quality_filter=QualityFilter(sharp=2.0))
    made = restore_photo(noise(), restorer_of(Brighten()), faces=[small, turned], options=options)
    assert [one.action for one in made.report.faces] == ["restored", "kept"]


# --- faces larger than the restorer's square -----------------------------------------------------------------------


@pytest.mark.parametrize("aligned", [False, True])
def test_an_untouched_restorer_gives_a_large_face_back(aligned):
    """Its square has 64 px, the face 120: shrinking and enlarging would lose all of the noise."""
    frame, options = noise(), RestoreOptions(quality_filter=None)
    if aligned:
        image = restore_aligned(frame, restorer_of(Untouched()), options=options).image
    else:
        image = restore_photo(frame, restorer_of(Untouched()), faces=[face()], options=options).image
    assert torch.allclose(image, frame, atol=1e-6)


def test_a_large_sharp_face_keeps_its_detail_and_the_report_says_so(shared):
    """The portrait has 512 px, the restorer takes 64: eight times as many as it can hold."""
    frame = to_float(read_picture(shared / "faces" / "pd512" / "val" / "A000361.jpg"))
    box = (130.0, 100.0, 382.0, 440.0)
    options = RestoreOptions(quality_filter=None)
    made = restore_photo(frame, restorer_of(Smooth()), faces=[face(box)], options=options)
    assert made.mask.max() == 1 and (made.image - frame).abs().max() > 0.05
    inside = (..., slice(150, 400), slice(150, 360))
    assert detail(made.image[inside]) > 0.9 * detail(frame[inside])
    larger = "1 face is larger than the 64 px of the restorer, and restored at that size"
    assert made.report.notes == [f"{larger}; the picture's own fine detail was kept"]


# --- no face -------------------------------------------------------------------------------------------------------


def test_row14_a_picture_without_a_face_says_so_and_what_to_try(tmp_path, capsys):
    plain = tmp_path / "wall.png"
    Image.new("RGB", (300, 200), (90, 120, 80)).save(plain)
    (entry,) = restored(tmp_path / "out", plain)
    (note,) = entry["report"]["notes"]
    assert note.startswith("No face was found, at any angle.")
    assert "threshold" in note and "--aligned" in note
    assert f"{plain}: {note}" in capsys.readouterr().out
    assert entry["report"]["seconds"]["detect"] > 0
    assert (tmp_path / "out" / "wall.png").read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_row14_turned_scans_are_restored(tmp_path, blurred, turns):
    """What is found and changed in a turned picture is what is found and changed in the upright one, turned."""
    upright = to_float(read_picture(blurred))
    with Image.open(blurred) as picture:
        picture.convert("RGB").rotate(90 * turns, expand=True).save(tmp_path / "scan.png")
    (entry,) = restored(tmp_path / "out", tmp_path / "scan.png")
    (there,) = entry["report"]["faces"]
    assert there["action"] == "restored" and abs(there["turned"] - (360 - 90 * turns)) < 10  # as the face leans
    (note,) = entry["report"]["notes"]
    assert note == f"1 face was found when the picture was turned by about {360 - 90 * turns} degrees to the left"
    straight = restored(tmp_path / "straight", blurred)[0]
    made, expected = (to_float(read_picture(tmp_path / name)) for name in ("out/scan.png", f"straight/{blurred.name}"))
    assert straight["report"]["faces"][0]["turned"] == 0
    off = (torch.rot90(made, -turns, (1, 2)) - expected).abs().mean()
    assert off < 0.25 * (expected - upright).abs().mean()
