"""The contract every restorer keeps, the runtime under it, and the whole path on odd input."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
import torch
from tiny_restorers import Brighten, noisy, restorer_of
from torch import nn

from bfr_core.diffusion.predictions import Prediction
from bfr_core.diffusion.samplers import dpm_solver_pp
from bfr_core.diffusion.schedules import linear
from bfr_core.errors import InputMediaError, RestoreError, SettingsError
from bfr_core.models.checkpoints.unfilled import unfilled
from bfr_core.registry import Config, Method, get_method, methods
from bfr_core.restoration.options import RestoreOptions
from bfr_core.restoration.photo import restore_aligned, restore_photo
from bfr_core.restorer import Restorer, face_seed, load_restorer
from bfr_core.runtime import Runtime, pick_device
from bfr_core.settings import declared_params, param
from bfr_core.types import Face


class Fixed:
    """A detector that finds what it is told."""

    name = "fixed"

    def __init__(self, *boxes):
        self.boxes = boxes

    def detect(self, frames, *, threshold=None):
        from bfr_core.faces.align import points_from_box

        return [[Face(box, points_from_box(box), 0.99) for box in self.boxes] for _ in frames]

    def to_device(self, device):
        pass


@pytest.mark.parametrize("most", [1, 2, 10])
def test_inputs_stay_with_their_faces_whatever_the_batch(most):
    codes = torch.rand(5, 1, dtype=torch.float16)
    restored = restorer_of(Brighten(most)).restore(
        torch.rand(5, 3, 64, 64), seeds=range(5), inputs={"codes": codes}, runtime=Runtime(batch=3)
    )
    assert torch.equal(restored[:, 1, 7, 7], codes[:, 0].float())


def test_unfit_inputs_are_refused_before_the_network_runs():
    net = Brighten()
    for error, inputs in (
        (SettingsError, {"code": torch.rand(2, 1)}),
        (InputMediaError, {"codes": torch.rand(3, 1)}),
        (InputMediaError, {"codes": torch.rand(2)}),
        (InputMediaError, {"codes": torch.ones(2, 1, dtype=torch.int64)}),
        (InputMediaError, {"codes": [[0.5], [0.5]]}),
        (InputMediaError, {"codes": torch.tensor([[0.5], [float("nan")]])}),
        (InputMediaError, {"codes": torch.tensor([[0.5], [1e300]], dtype=torch.float64)}),
    ):
        with pytest.raises(error) as caught:
            restorer_of(net).restore(torch.rand(2, 3, 64, 64), seeds=[0, 1], inputs=inputs, runtime=Runtime())
        assert "codes" in str(caught.value) and caught.value.found and caught.value.todo
    assert not net.batches
    with pytest.raises(SettingsError, match="none at all"):
        get_method("irn").check_inputs({"codes": torch.rand(1, 1)}, 1)


def test_loading_imports_no_compiler():
    """Random numbers on the meta device would: seconds, for weights that are replaced at once."""
    # torch 2.7 takes sympy for the shapes of that device itself.
    compilers = {"torch._dynamo"} if torch.__version__.startswith("2.7.") else {"sympy", "torch._dynamo"}
    script = (
        "import sys\nfrom bfr_core.restorer import load_restorer\nload_restorer('irn')\n"
        f"assert not {compilers} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_row15_any_batch(count):
    restored = restorer_of(Brighten()).restore(
        torch.rand(count, 3, 64, 64) * 0.5, seeds=range(count), runtime=Runtime()
    )
    assert restored.shape == (count, 3, 64, 64) and restored.dtype == torch.float32


@pytest.mark.parametrize(
    ("faces", "word"),
    [
        (torch.rand(1, 64, 64, 3), r"\(B, H, W, C\)"),
        (torch.rand(1, 3, 32, 32), "64, 64"),
        (torch.rand(3, 64, 64), "shape"),
        (torch.rand(1, 3, 64, 64).double(), "float64"),
        ((torch.rand(1, 3, 64, 64) * 255).byte(), "uint8"),
        (torch.rand(1, 3, 64, 64) * 255, "values from"),
        (torch.full((1, 3, 64, 64), float("nan")), "NaN"),
    ],
)
def test_row16_unfit_faces_are_refused_with_a_guess(faces, word):
    with pytest.raises(InputMediaError, match=word) as caught:
        restorer_of(Brighten()).restore(faces, seeds=[0], runtime=Runtime())
    assert "[0, 1]" in caught.value.found and caught.value.todo


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (torch.rand(40, 40, 3), r"\(H, W, C\)"),
        (torch.rand(1, 3, 40, 40), "batch"),
        (torch.rand(4, 40, 40), "shape"),
        (torch.rand(3, 0, 40), "empty"),
        (torch.rand(3, 40, 40).double(), "float64"),
        ((torch.rand(3, 40, 40) * 255).byte(), "255"),
        (torch.full((3, 40, 40), float("inf")), "infinite"),
    ],
)
def test_row16_unfit_frames_are_refused_with_a_guess(frame, word):
    with pytest.raises(InputMediaError, match=word):
        restore_photo(frame, restorer_of(Brighten()), Fixed())


def test_row16_layout_in_memory_does_not_matter():
    frame = torch.rand(80, 70, 3).permute(2, 0, 1)
    assert not frame.is_contiguous()
    detector = Fixed((20.0, 20.0, 60.0, 70.0))
    ours = restore_photo(frame, restorer_of(Brighten()), detector).image
    assert torch.equal(ours, restore_photo(frame.contiguous(), restorer_of(Brighten()), detector).image)


FACES = {
    "none": [],
    "fifty": [
        (10.0 + 20 * (i % 10), 10.0 + 20 * (i // 10), 28.0 + 20 * (i % 10), 30.0 + 20 * (i // 10)) for i in range(50)
    ],
    "cut by the border": [(-30.0, -20.0, 40.0, 60.0)],
    "larger than the frame": [(-500.0, -500.0, 700.0, 700.0)],
    "4 px": [(50.0, 50.0, 54.0, 54.0)],
}


@pytest.mark.parametrize("name", FACES)
def test_row14_few_many_and_odd_faces(name):
    frame = torch.rand(3, 120, 220) * 0.7
    # Noise is as sharp as can be.
    options = RestoreOptions(quality_filter=None)
    result = restore_photo(frame, restorer_of(Brighten()), Fixed(*FACES[name]), options=options)
    assert len(result.report.faces) == len(FACES[name])
    assert torch.equal(result.image[:, result.mask == 0], frame[:, result.mask == 0])
    restored = [face for face in result.report.faces if face.action == "restored"]
    if name in ("none", "4 px"):
        assert not restored and torch.equal(result.image, frame)
        assert all("below the minimum" in face.reason for face in result.report.faces)
    else:
        assert len(restored) == len(FACES[name]) and result.mask.max() > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (2, 3000), (37, 53)])
def test_row15_odd_frames(shape):
    frame = torch.rand(3, *shape)
    result = restore_photo(frame, restorer_of(Brighten()), Fixed((0.0, 0.0, 30.0, 30.0)))
    assert result.image.shape == frame.shape and result.image.isfinite().all()


def test_row15_8k_costs_one_copy_of_the_frame():
    frame = torch.zeros(3, 4320, 7680)
    result = restore_photo(frame, restorer_of(Brighten()), Fixed((4000.0, 2000.0, 4100.0, 2120.0)))
    rows, columns = torch.where(result.mask > 0)
    assert rows.min() > 1900 and rows.max() < 2250 and columns.min() > 3900 and columns.max() < 4250
    assert not result.image[:, :1900].any()


def test_row51_out_of_memory_halves_the_batch_and_changes_nothing():
    faces = torch.rand(7, 3, 64, 64) * 0.5
    net = Brighten(most=2)
    runtime = Runtime(batch=8)
    settings = {"noise": True}
    small = restorer_of(net).restore(faces, seeds=range(7), settings=settings, runtime=runtime)
    whole = restorer_of(Brighten()).restore(faces, seeds=range(7), settings=settings, runtime=Runtime(batch=8))
    assert torch.equal(small, whole)
    assert net.batches[:3] == [7, 4, 2] and max(net.batches[2:]) == 2
    assert any("reduced to 2" in note for note in runtime.notes)


def test_row51_one_face_too_many_ends_with_advice():
    with pytest.raises(RestoreError, match="cpu"):
        restorer_of(Brighten(most=0)).restore(torch.rand(2, 3, 64, 64), seeds=[0, 1], runtime=Runtime())


def test_row51_an_error_named_like_it_is_not_taken_for_it():
    class Decoder(Brighten):
        def forward(self, x):
            raise MemoryError("Sample size 2885681224 is too large")

    with pytest.raises(MemoryError):
        restorer_of(Decoder()).restore(torch.rand(1, 3, 64, 64), seeds=[0], runtime=Runtime())


def test_row12_half_precision_that_overflows_is_run_again_and_said():
    runtime = Runtime(dtype=torch.bfloat16)
    net = Brighten(half_breaks=True)
    restored = restorer_of(net).restore(torch.rand(1, 3, 64, 64) * 0.5, seeds=[0], runtime=runtime)
    assert restored.isfinite().all() and len(net.batches) == 2
    assert any("float32" in note for note in runtime.notes)
    with pytest.raises(RestoreError, match="finite"):
        restorer_of(Brighten(always_breaks=True)).restore(torch.rand(1, 3, 64, 64), seeds=[0], runtime=runtime)


def read_and_brighten(net, faces, settings, seeds, inputs, context):
    context.tell("Read", {"light": faces.mean((1, 2, 3)).tolist(), "seed": list(seeds)})
    return net(faces)


def reading(net: nn.Module) -> Restorer:
    config = Config("tiny", "Tiny", 64)
    method = Method("test", "Test method", "", (), (config,), lambda c: net, read_and_brighten, lambda keys: None)
    return Restorer(method, config, net, "test")


def shades(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 64, 64).contiguous()


@pytest.mark.parametrize(
    ("net", "dtype", "notes"),
    [
        (Brighten(), torch.float32, 1),
        (Brighten(most=3), torch.float32, 3),
        (Brighten(half_breaks=True), torch.bfloat16, 2),
    ],
    ids=["at once", "out of memory", "overflow"],
)
def test_what_is_told_counts_each_face_once_whatever_was_tried_twice(net, dtype, notes):
    runtime = Runtime(batch=8, dtype=dtype)
    reading(net).restore(shades(0.125, 0.5, 0.25, 0.5, 0.25), seeds=[3, 1, 4, 1, 5], runtime=runtime)
    assert len(runtime.notes) == notes
    (line,) = [note for note in runtime.notes if note.startswith("Read")]
    assert line == "Read. 5 faces: light 0.12 to 0.5 (mean 0.33), seed 1 to 5 (mean 2.8)"


def test_what_is_told_of_a_film_stays_one_line_and_a_few_of_the_log(caplog):
    runtime, restorer = Runtime(), reading(Brighten())
    runtime.note("A fault")
    caplog.clear()
    with caplog.at_level("INFO", "bfr"):
        for frame in range(300):
            restorer.restore(shades(frame / 1000, 0.5), seeds=[frame, frame], runtime=runtime)
    assert runtime.notes == ["A fault", "Read. 600 faces: light 0 to 0.5 (mean 0.32), seed 0 to 299 (mean 149.5)"]
    assert {record.levelname for record in caplog.records} == {"INFO"} and 5 < len(caplog.records) < 12
    assert caplog.records[0].message == "Read. 2 faces: light 0 to 0.5 (mean 0.25), seed 0"


def test_what_is_told_begins_anew_with_the_notes_and_not_with_a_failure():
    runtime, restorer = Runtime(), reading(Brighten())
    restorer.restore(shades(0.25), seeds=[1], runtime=runtime)
    runtime = runtime.renewed()  # as for the next file
    broken = reading(Brighten(always_breaks=True))
    with pytest.raises(RestoreError):
        broken.restore(shades(0.75), seeds=[7], runtime=runtime)
    assert not runtime.notes
    restorer.restore(shades(0.5), seeds=[2], runtime=runtime)
    assert runtime.notes == ["Read. 1 face: light 0.5, seed 2"]


class Sampling(nn.Module):
    """Ten steps, one of which breaks in half precision, or in any."""

    def __init__(self, breaks_at: int, always: bool = False) -> None:
        super().__init__()
        self.breaks_at, self.always, self.evaluations = breaks_at, always, 0

    def forward(self, x, seeds):
        noise = torch.stack([torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

        def predict(x, level):
            self.evaluations += 1
            low = self.always or torch.is_autocast_enabled("cpu")
            broken = float("nan") if low and level.t == self.breaks_at else 1.0
            clean = 0.5 * torch.ones_like(x) * broken
            return Prediction(clean=clean, noise=(x - clean * level.alpha) / level.sigma)

        return dpm_solver_pp(predict, x + noise, linear().levels(10))


def sampled(net: nn.Module, runtime: Runtime) -> torch.Tensor:
    config = Config("tiny", "Tiny", 16)
    method = Method(
        "test", "Test method", "", (), (config,), lambda c: net,
        lambda net, faces, settings, seeds, inputs, context: net(faces, seeds), lambda keys: None,
    )  # fmt: skip
    return Restorer(method, config, net, "test").restore(torch.rand(2, 3, 16, 16), seeds=[1, 2], runtime=runtime)


def test_row12_numbers_that_break_in_the_middle_of_sampling_are_run_again_in_float32():
    step = int(linear().levels(10)[3].t)
    for dtype in (torch.bfloat16, torch.float16):
        net, runtime = Sampling(step), Runtime(dtype=dtype)
        torch.testing.assert_close(sampled(net, runtime), torch.full((2, 3, 16, 16), 0.5))
        assert net.evaluations == 4 + 10 and any("again in float32" in note for note in runtime.notes)


def test_row12_sampling_that_breaks_in_float32_names_the_step():
    step = int(linear().levels(10)[3].t)
    for dtype, evaluations in ((torch.float32, 4), (torch.bfloat16, 8)):
        net = Sampling(step, always=True)
        with pytest.raises(RestoreError, match="evaluation 4 of 10") as caught:
            sampled(net, Runtime(dtype=dtype))
        assert net.evaluations == evaluations and "Test method" in str(caught.value)
        assert "float32" in caught.value.found and caught.value.kept and caught.value.todo


@dataclasses.dataclass(frozen=True, slots=True)
class Stepping:
    steps: int = param(40, "how many", low=1, high=100)
    scale: float = param(0.5, "how far", low=0.0, high=1.0)
    way: Literal["there", "back"] = param("there", "which way")


def test_settings_are_declared_by_the_fields_of_a_class():
    steps, scale, way = declared_params(Stepping)
    assert (steps.name, steps.default, steps.help, steps.low, steps.high, steps.step) == (
        "steps",
        40,
        "how many",
        1,
        100,
        1,
    )
    assert scale.step is None and way.choices == ("there", "back")
    for given, found in ((0, "from 1 to 100"), (True, "int"), (2.0, "int"), ("2", "int")):
        with pytest.raises(SettingsError, match=found):
            steps.check(given)
    for given in (float("nan"), float("inf"), True, "0.5"):
        with pytest.raises(SettingsError, match="from 0 to 1"):
            scale.check(given)
    assert type(scale.check(1)) is float
    with pytest.raises(SettingsError, match="one of there, back"):
        way.check("up")

    @dataclasses.dataclass(frozen=True, slots=True)
    class Bare:
        steps: int = 40

    with pytest.raises(TypeError, match=r"Bare\.steps .* param\(default, help\)"):
        declared_params(Bare)


def test_a_config_has_defaults_of_its_own():
    configs = (Config("small", "", 64, defaults={"steps": 10, "scale": 1}), Config("large", "", 64))
    method = Method("m", "M", "", (), configs, lambda c: nn.Identity(), noisy, lambda keys: None, Stepping)
    assert method.settings({}) == method.settings({}, configs[0]) == Stepping(10, 1.0)
    assert method.settings({}, configs[1]) == Stepping(40, 0.5)
    assert method.settings({"steps": 3}, configs[0]).steps == 3
    with pytest.raises(SettingsError, match="leave steps out for 10"):
        method.settings({"steps": 0}, configs[0])
    assert [type(one.default) for one in method.params_of(configs[0])] == [int, float, str]


def test_networks_loaded_by_a_host_in_inference_mode_take_part_in_gradients():
    with torch.inference_mode():
        net = load_restorer("irn").net
    assert not any(tensor.is_inference() for tensor in (*net.parameters(), *net.buffers()))
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    net(x).mean().backward()
    assert x.grad is not None and bool(x.grad.any())


def test_noise_belongs_to_the_face_not_to_the_batch():
    faces = torch.rand(5, 3, 64, 64) * 0.5
    seeds = [face_seed(7, 0, index) for index in range(5)]
    results = [
        restorer_of(Brighten()).restore(faces, seeds=seeds, settings={"noise": True}, runtime=Runtime(batch=batch))
        for batch in (1, 2, 8)
    ]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    alone = restorer_of(Brighten()).restore(faces[3:4], seeds=seeds[3:4], settings={"noise": True}, runtime=Runtime())
    assert torch.equal(alone[0], results[0][3])
    assert len({face_seed(s, f, i) for s in range(3) for f in range(50) for i in range(30)}) == 3 * 50 * 30


def test_settings_are_checked_by_name_and_range():
    restorer, faces = restorer_of(Brighten()), torch.rand(1, 3, 64, 64)
    with pytest.raises(SettingsError, match="Did you mean 'level'"):
        restorer.restore(faces, seeds=[0], settings={"levle": 0.5}, runtime=Runtime())
    for bad in (1.5, float("nan"), "high", True):
        with pytest.raises(SettingsError, match="level"):
            restorer.restore(faces, seeds=[0], settings={"level": bad}, runtime=Runtime())
    with pytest.raises(SettingsError, match="seeds"):
        restorer.restore(faces, seeds=[], runtime=Runtime())


@pytest.mark.parametrize("field", ["strength", "feather", "max_faces", "min_size"])
def test_row58_options_out_of_range(field):
    with pytest.raises(SettingsError, match=field):
        restore_photo(torch.rand(3, 9, 9), restorer_of(Brighten()), Fixed(), options=RestoreOptions(**{field: -1}))


def test_cancel_passes_through_untouched():
    class StopError(Exception):
        pass

    def stop():
        raise StopError

    with pytest.raises(StopError):
        restorer_of(Brighten()).restore(torch.rand(1, 3, 64, 64), seeds=[0], runtime=Runtime(check_cancel=stop))


def test_progress_reaches_the_total_once():
    heard = []
    runtime = Runtime(batch=2, on_progress=lambda done, total: heard.append((done, total)))
    restorer_of(Brighten()).restore(torch.rand(5, 3, 64, 64) * 0.5, seeds=range(5), runtime=runtime)
    assert heard == [(2, 5), (4, 5), (5, 5)]


def test_strength_and_size_options_reach_the_picture():
    frame, faces = torch.full((3, 200, 200), 0.5), Fixed((60.0, 60.0, 120.0, 140.0), (140.0, 20.0, 190.0, 80.0))
    half = restore_photo(frame, restorer_of(Brighten()), faces, options=RestoreOptions(strength=0.5, max_faces=1))
    assert abs(half.image[0, 100, 90].item() - 0.625) < 1e-4
    assert [face.action for face in half.report.faces] == ["restored", "kept"]
    assert "largest" in half.report.faces[1].reason


def test_gray_pictures_stay_gray():
    class Tint(Brighten):
        def forward(self, x):
            return x + torch.tensor([0.2, 0.0, -0.2]).view(3, 1, 1)

    frame = torch.rand(1, 100, 100).expand(3, -1, -1).contiguous() * 0.5
    image = restore_photo(frame, restorer_of(Tint()), Fixed((30.0, 30.0, 70.0, 80.0))).image
    assert torch.equal(image[0], image[1]) and torch.equal(image[1], image[2])


def test_aligned_pictures_of_any_size():
    for size in (64, 100, 31):
        frame = torch.full((3, size, size), 0.5)
        result = restore_aligned(frame, restorer_of(Brighten()))
        assert torch.allclose(result.image, torch.full_like(frame, 0.75), atol=1e-3)


def test_every_method_is_declared_whole():
    assert methods()
    for method in methods().values():
        assert method.summary and method.papers and method.stages
        names = [one.name for one in method.params]
        assert len(set(names)) == len(names)
        for one in method.params:
            assert one.check(one.default) == one.default and one.help
        states = {config.name: unfilled(method, config).state_dict() for config in method.configs}
        for config in method.configs:
            keys = states[config.name].keys()
            told = method.recognise(keys)
            assert told == config.name or states[told].keys() == keys
            assert set(config.defaults) <= set(names)
            assert dataclasses.asdict(method.settings({}, config)).keys() == set(names)
        taken = [*names, *(declared.name for declared in method.inputs)]
        assert len(set(taken)) == len(taken), "a setting and an input of one name cannot share a node"
    with pytest.raises(SettingsError, match="irn"):
        get_method("gfpgan")
    with pytest.raises(SettingsError, match="compact, paper"):
        get_method("irn").config("huge")


def test_declarations_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_method("irn").id = "other"


def test_embedded_restorer_keeps_its_limits():
    restorer = load_restorer("irn")
    parameters = sum(p.numel() for p in restorer.net.parameters())
    assert parameters <= 8_000_000 and restorer.size == 512
    face = torch.rand(1, 3, 512, 512)
    twice = [restorer.restore(face, seeds=[seed], runtime=Runtime()) for seed in (0, 1)]
    assert torch.equal(*twice) and not np.isclose(twice[0], face).all()


def test_unknown_device_is_a_clear_error():
    with pytest.raises(SettingsError, match="auto, cpu"):
        pick_device("gpu7")
