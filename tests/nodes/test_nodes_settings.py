"""What Restore Faces offers beside the method: its dial, its own settings, and where restoring may show."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from fake_host import FakeHost, Pack, execute
from tiny_nodes import pictures, refused

NODE = "BFR_RestoreFaces"


def settings_of(nodes: dict[str, Any], name: str = NODE) -> Any:
    return next(item for item in nodes[name].define_schema().inputs if item.id == "settings")


def used(tiny: Any) -> dict[str, Any]:
    return tiny.method.stages["seen"][-1][0]


def test_every_method_shows_its_own_settings(nodes: dict[str, Any], pack: Pack) -> None:
    item = settings_of(nodes)
    assert item.optional
    known = pack.module("bfr_core.registry").methods()
    default_config = pack.module("nodes.settings").default_config
    choices = {one.key: one.inputs for one in item.options}
    assert next(iter(choices)) == "as published" and not choices["as published"]
    for name, method in known.items():
        declared = {param.name: param for param in method.params_of(default_config(method))}
        assert "fidelity" in declared, f"{name} has no dial"
        del declared["fidelity"]
        assert (name in choices) == bool(declared)
        for widget in choices.get(name, ()):
            assert widget.optional, "a prompt says what it changes, and no more"
            assert widget.default == declared[widget.id].default
            assert widget.tooltip == declared[widget.id].help
        assert [widget.id for widget in choices.get(name, ())] == list(declared)


def test_settings_reach_the_method(nodes: dict[str, Any], tiny: Any, pack: Pack) -> None:
    plain = {"weight": 0.5, "steps": 4, "tiled": False, "mode": "soft"}
    for count, (given, expected) in enumerate(
        (
            (None, plain),
            ({"settings": "as published"}, plain),
            ({"settings": "probe", "steps": 9, "mode": "hard"}, plain | {"steps": 9, "mode": "hard"}),
            # As hosts give what a prompt left out.
            ({"settings": "probe", "steps": None, "weight": 0.1}, plain | {"weight": 0.1}),
            ({"settings": None}, plain),
        ),
        1,
    ):
        # Other pictures each time: what was restored before is not restored again.
        image = pictures(count)
        execute(nodes[NODE], image=image, method="any", settings=given)
        assert used(tiny) == expected
    error = refused(pack, "SettingsError", nodes[NODE], image=image, method="any", settings={"settings": "clr_face"})
    assert "CLR-Face" in error.found and "Probe" in error.found
    refused(pack, "SettingsError", nodes[NODE], image=image, method="any", settings={"settings": "probe", "steps": 0})


def test_the_dial_reaches_the_method(nodes: dict[str, Any], tiny: Any, pack: Pack) -> None:
    # A method of a test has no dial: left where it is, nobody asks for one.
    execute(nodes[NODE], image=pictures(1), method="any", fidelity=0.5)
    error = refused(pack, "SettingsError", nodes[NODE], image=pictures(1), method="any", fidelity=0.75)
    assert "fidelity" in error.what
    item = next(item for item in nodes[NODE].define_schema().inputs if item.id == "fidelity")
    assert (item.default, item.min, item.max, item.optional) == (0.5, 0.0, 1.0, True)


@pytest.mark.parametrize("count", [1, 2])
def test_a_mask_limits_what_shows(count: int, nodes: dict[str, Any], tiny: Any) -> None:
    image = pictures(count)
    plain, shown, *_ = execute(nodes[NODE], image=image, method="any")
    for mask in (torch.zeros(80, 96), torch.zeros(1, 80, 96), torch.zeros(count, 80, 96), torch.zeros(1, 40, 48)):
        mask[..., : mask.shape[-1] // 2] = 1
        out, replaced, *_ = execute(nodes[NODE], image=image, method="any", mask=mask)
        assert torch.equal(out[:, :, 50:], image[:, :, 50:])
        assert torch.equal(out[:, :, :46], plain[:, :, :46])
        assert not replaced[:, :, 50:].any() and torch.equal(replaced[:, :, :46], shown[:, :, :46])


def test_faces_outside_a_mask_are_told_of(nodes: dict[str, Any], tiny: Any, host: FakeHost, pack: Pack) -> None:
    image, mask = pictures(2), torch.zeros(2, 80, 96)
    mask[1] = 1
    out, _, _, report = execute(nodes[NODE], image=image, method="any", mask=mask)
    assert torch.equal(out[0], image[0]) and not torch.equal(out[1], image[1])
    assert [entry["faces"][0]["action"] for entry in json.loads(report)] == ["kept", "restored"]
    assert "mask" in json.loads(report)[0]["faces"][0]["reason"]
    assert host.progress[-1] == (1, 1), "the bar counts faces that are restored"
    error = refused(pack, "InputMediaError", nodes[NODE], image=image, method="any", mask=torch.ones(3, 80, 96))
    assert "3 masks for 2 pictures" in error.found


def test_choices_of_methods_have_labels_for_people(nodes: dict[str, Any], pack: Pack) -> None:
    known = pack.module("bfr_core.registry").methods()
    for name, everything in (
        (NODE, False),
        ("BFR_LoadRestorer", True),
        ("BFR_RestoreFacesInVideo", False),
        ("BFR_RestoreFacesInFrames", False),
    ):
        item = next(item for item in nodes[name].define_schema().inputs if item.id == "method")
        labels = item.extra_dict["labels"]
        assert list(labels) == item.options, "graphs keep the choices, pages show their labels"
        assert len(set(labels.values())) == len(labels)
        assert ("irn/paper" in labels) == everything
        for choice, label in labels.items():
            method, config = choice.split("/")
            assert label.startswith(f"{known[method].title}: ")
            assert label in item.tooltip, "pages that cannot show labels tell them here"
            if known[method].config(config).embedded:
                assert known[method].traits and label.endswith(known[method].traits)
    settings = settings_of(nodes)
    assert settings.extra_dict["labels"]["clr_face"] == known["clr_face"].title
    assert set(settings.extra_dict["labels"]) == {one.key for one in settings.options} - {"as published"}


def test_errors_are_called_by_words(nodes: dict[str, Any], tiny: Any, pack: Pack) -> None:
    """A host shows module, name and message of an error, the module not where it is `builtins`."""
    errors = pack.module("bfr_core.errors")
    for kind, words, inputs in (
        ("SettingsError", "Settings error", {"settings": {"settings": "clr_face"}}),
        ("InputMediaError", "Input media error", {"mask": torch.ones(3, 80, 96)}),
    ):
        with pytest.raises(getattr(errors, kind)) as caught:
            execute(nodes[NODE], image=pictures(1), method="any", **inputs)
        assert (caught.type.__module__, caught.type.__qualname__) == ("builtins", words)
        assert caught.traceback[-1].name in ("chosen_settings", "check_within"), "it still says where it comes from"


def test_other_errors_pass_as_they_are(nodes: dict[str, Any], tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(BaseException):
        pass

    for planned in (Stop("stop"), torch.OutOfMemoryError("full"), ValueError("strange")):

        def fail(*_: Any, **__: Any) -> Any:
            raise planned  # noqa: B023  called within the loop

        monkeypatch.setattr(tiny.detector, "detect", fail)
        with pytest.raises(type(planned)) as caught:
            execute(nodes[NODE], image=pictures(1), method="any")
        assert caught.value is planned and caught.type is type(planned)


def test_the_result_can_be_larger(nodes: dict[str, Any], tiny: Any) -> None:
    image = torch.cat([pictures(2), torch.rand(2, 80, 96, 1)], -1)
    small, _, found, _ = execute(nodes[NODE], image=image, method="any")
    mask = torch.zeros(1, 80, 96)
    mask[..., :40] = 1
    out, shown, boxes, report = execute(nodes[NODE], image=image, method="any", upscale="2", mask=mask)
    assert out.shape == (2, 160, 192, 4) and shown.shape == (2, 160, 192)
    plain, *_ = execute(nodes[NODE], image=image, method="any", upscale="2", mask=torch.zeros(80, 96))
    assert torch.equal(out[:, :, 84:], plain[:, :, 84:]) and not torch.equal(out[:, :, :76], plain[:, :, :76])
    assert (plain[..., :3] - image[..., :3].repeat_interleave(2, 1).repeat_interleave(2, 2)).abs().mean() < 0.1
    assert [box["x"] for box in boxes[0]] == [2 * box["x"] for box in found[0]], "boxes are those of the result"
    assert json.loads(report)[0]["upscale"] == 2
    assert small.shape == image.shape


def test_sharp_faces_are_left_alone_unless_all_are_wanted(nodes: dict[str, Any], tiny: Any) -> None:
    # Noise of single pixels, larger than the restorer's crop: as sharp as can be.
    generator = torch.Generator().manual_seed(0)
    tiny.face = type(tiny.face)((40.0, 40.0, 280.0, 280.0), tiny.face.points * 6 - 80, 0.9)
    tiny.detector.detect = lambda frames, threshold=None: [[tiny.face] for _ in frames]
    image = torch.rand(1, 320, 320, 3, generator=generator)
    out, _, _, report = execute(nodes[NODE], image=image, method="any")
    assert torch.equal(out, image) and "sharp" in json.loads(report)[0]["faces"][0]["reason"]
    out, _, _, report = execute(nodes[NODE], image=image, method="any", all_faces=True)
    assert not torch.equal(out, image) and json.loads(report)[0]["faces"][0]["action"] == "restored"
    assert json.loads(report)[0]["seconds"]["detect"] >= 0
