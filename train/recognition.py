"""What the recogniser learns from and is judged on: views of faces, with the teacher's embedding of the clean one.

About a thousand people are few. So half of the views are of nobody: two faces blended, or halves of two joined, and
every face is bent a little. The teacher says who that would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bfr_core.bench.recogniser import judge, views_of
from bfr_core.degrade.chain import degrade, draw
from bfr_core.degrade.presets import DegradePreset
from bfr_core.errors import SettingsError
from bfr_core.faces.identity import ARCFACE_WINDOW, RecognizerNet
from bfr_core.media.luma import BT601
from bfr_core.networks.face_embedder import FaceEmbedder
from bfr_core.networks.mobilefacenet import MobileFaceNet

from .data import Examples
from .pictures import Pictures, fit
from .stage import Check, Nets, Validator

_BASE = 192
"""Side at which faces are kept in memory."""
_CLEAN = 150
"""Side of a whole aligned face whose ArcFace window has the teacher's 112 px."""
_FACE = 128
"""Side of one whose window has the recogniser's 96 px."""
_BORDER = cv2.BORDER_REFLECT_101

# In pixels of a face of 128: in those of one of 512, blur up to 10 and shrinking up to 22 times.
_HARD = DegradePreset(
    "recogniser-hard", blur_sigma=(0.05, 2.5), kernel=(11,), downscale=(1.0, 5.5), jpeg_quality=(30, 95)
)
_MILD = DegradePreset(
    "recogniser-mild", blur_sigma=(0.05, 0.7), kernel=(5,), downscale=(1.0, 1.6), noise_sigma=(0.0, 10.0)
)


class FaceViews(Examples[Pictures]):
    """Draw a `clean` view of a face, a worse view `seen` of the same, and the `number` of the clean one.

    Args:
        pictures: aligned faces.
        seed: together with the index it decides everything random.
        views: how many clean views there are, 68 kB each in memory; then they come again, with other degradations.
        hard: share of the views that are degraded hard.
        mild: share that is degraded mildly; the rest only changes in colour.
    """

    def __init__(self, pictures: Pictures, *, seed: int, views: int, hard: float, mild: float) -> None:
        super().__init__(pictures, seed)
        self.views, self.hard, self.mild = views, hard, mild
        self._faces: dict[int, np.ndarray] = {}
        self._views: dict[int, np.ndarray] = {}

    def example(self, index: int, rng: np.random.Generator, bad: dict[str, str]) -> dict[str, Any]:
        number = index % self.views
        if number not in self._views:
            self._views[number] = self._view(np.random.Generator(np.random.PCG64([self.seed, 1, number])), bad)
        face = self._views[number]
        seen = self._worse(fit(face, _FACE), rng)
        return {"clean": _window(face), "seen": _window(seen), "number": np.array(number)}

    def _face(self, rng: np.random.Generator, bad: dict[str, str]) -> np.ndarray:
        def read(which: int) -> np.ndarray:
            if which not in self._faces:
                self._faces[which] = fit(self.pictures[which], _BASE)
            return self._faces[which]

        face = self.drawn(rng, bad, read)
        return face[:, ::-1] if rng.random() < 0.5 else face

    def _view(self, rng: np.random.Generator, bad: dict[str, str]) -> np.ndarray:
        face = self._face(rng, bad)
        if rng.random() < 0.5:
            face = _merged(face, self._face(rng, bad), rng)
        return _bent(face, rng)

    def _worse(self, face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        face = _recoloured(face, rng)
        kind = rng.random()
        if kind < self.hard + self.mild:
            face = degrade(face, draw(_HARD if kind < self.hard else _MILD, int(rng.integers(2**62))))
        if rng.random() < 0.15:
            x, y, w, h = rng.uniform((0.1, 0.1, 0.1, 0.1), (0.8, 0.8, 0.35, 0.35)) * _FACE
            face = face.copy()
            face[int(y) : int(y + h), int(x) : int(x + w)] = rng.integers(0, 256, 3)
        return face

    def __getstate__(self) -> dict[str, object]:
        """Leave the faces behind when a worker process is spawned."""
        return {**self.__dict__, "_faces": {}, "_views": {}}


def _window(face: np.ndarray) -> np.ndarray:
    left, top, side = (round(share * len(face)) for share in ARCFACE_WINDOW)
    return face[top : top + side, left : left + side]


def _merged(face: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend two faces evenly, or along a soft straight border through the middle."""
    if rng.random() < 0.5:
        share = rng.uniform(0.3, 0.7)
    else:
        angle = rng.uniform(0, 2 * np.pi)
        x, y = np.meshgrid(np.linspace(-1, 1, _BASE), np.linspace(-1, 1, _BASE))
        away = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(-0.25, 0.25)
        share = (1 / (1 + np.exp(-away / 0.06)))[..., None].astype(np.float32)
    return (face * share + other * (1 - share)).round().astype(np.uint8)


def _bent(face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn, scale, stretch, shift and bend a face of _BASE into one of _CLEAN."""
    turn = rng.normal(0, 0.09)
    stretch = np.array([[rng.uniform(0.9, 1.1) ** 0.5], [1.0]])
    stretch[1] = 1 / stretch[0]
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * rng.uniform(0.92, 1.08)
    matrix = (stretch * turned).astype(np.float32)
    steps = (np.arange(_CLEAN, dtype=np.float32) + 0.5) / _CLEAN - 0.5
    x, y = np.meshgrid(steps, steps)
    shift = rng.normal(0, 0.02, 2)
    maps = [matrix[i, 0] * x + matrix[i, 1] * y + 0.5 + shift[i] for i in range(2)]
    if rng.random() < 0.6:
        coarse = rng.normal(0, 0.016, (6, 6, 2)).astype(np.float32)
        waves = cv2.resize(coarse, (_CLEAN, _CLEAN), interpolation=cv2.INTER_CUBIC)
        maps = [place + waves[..., i] for i, place in enumerate(maps)]
    u, v = ((place * _BASE - 0.5).astype(np.float32) for place in maps)
    return cv2.remap(face, u, v, cv2.INTER_LINEAR, borderMode=_BORDER)


def _recoloured(face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change light and colour, as another camera in another room would."""
    if rng.random() < 0.2:
        return face
    levels = face.astype(np.float32) / 255
    if rng.random() < 0.1:
        levels = np.repeat(levels @ np.array(BT601, np.float32)[:, None], 3, axis=2)
    levels = levels ** np.float32(np.exp(rng.normal(0, 0.25)))
    levels = (levels - 0.5) * np.float32(rng.uniform(0.65, 1.25)) + 0.5
    if rng.random() < 0.3:  # light from one side
        x, y = np.meshgrid(np.linspace(-1, 1, _FACE), np.linspace(-1, 1, _FACE))
        angle = rng.uniform(0, 2 * np.pi)
        slope = rng.uniform(0.1, 0.5) * (x * np.cos(angle) + y * np.sin(angle))
        levels = levels * (1 + slope[..., None]).astype(np.float32)
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.88, 1.12, size=3)
    return np.clip(levels * gain.astype(np.float32) * 255, 0, 255).round().astype(np.uint8)


class VerificationValidator(Validator):
    """Tell held-out people apart by views at several severities; the baseline is the teacher on the same views.

    Args:
        pictures: held-out aligned faces, a person each; at most `limit`, spread evenly, are used.
        teacher: who is learnt from.
        build: makes a recogniser of the judged networks.
        limit: most people to use.
    """

    columns: ClassVar[str] = "clean | moved | 8x down, JPEG 60 | 16x down, JPEG 60 | drawn as GFPGAN does"

    def __init__(
        self, pictures: Pictures, teacher: RecognizerNet, build: Callable[[Nets], RecognizerNet], *, limit: int
    ) -> None:
        chosen = range(0, len(pictures), max(len(pictures) // limit, 1))[:limit]
        self.views = views_of([pictures[index] for index in chosen])
        self.teacher, self.build = teacher, build
        self.baseline = judge(teacher, self.views)

    def run(self, nets: Nets) -> Check:
        """Judge every view."""
        figures = judge(self.build(nets), self.views, teacher=self.teacher)
        clean = self.views["clean"]
        rows = [[faces[i].permute(1, 2, 0).numpy() for faces in self.views.values()] for i in range(0, len(clean), 12)]
        return Check(figures, rows)


class Student(nn.Module):
    """The recogniser with what reads the teacher's maps from its own; only the first is shipped.

    Args:
        norm: with batch norms, for training; without them as it is shipped.
    """

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        self.net = FaceEmbedder(norm=norm)
        pairs = zip(FaceEmbedder.WIDTHS[-2:], Teacher.CHANNELS, strict=True)
        self.read = nn.ModuleList(nn.Conv2d(inp, out, 1) for inp, out in pairs)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return embeddings (B, 128) of unit length, and the teacher's two maps as far as they can be read."""
        maps = self.net.maps(x)
        read = [layer(one).float() for layer, one in zip(self.read, maps[-2:], strict=True)]
        return F.normalize(self.net.head(maps[-1]).float(), dim=1), read


class Teacher(nn.Module):
    """What the teacher says about clean views, each asked about once and kept in half precision: 46 kB a view.

    Args:
        recogniser: a MobileFaceNet.

    Raises:
        SettingsError: it is another network.
    """

    CHANNELS = (128, 128)
    """Of its maps at 1/8 and 1/16."""

    def __init__(self, recogniser: RecognizerNet) -> None:
        super().__init__()
        if not isinstance(recogniser.net, MobileFaceNet):
            raise SettingsError(
                f"Cannot learn from {recogniser.title}",
                found="its inner maps have other sizes; expected a MobileFaceNet",
                kept="Nothing was started",
                todo="Give --recogniser mobilefacenet.pt",
            )
        # Batches come with channels last; a network laid out otherwise takes twice as long on them.
        self.recogniser = recogniser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._known: dict[int, tuple[Tensor, ...]] = {}

    @torch.no_grad()
    def forward(self, numbers: Tensor, clean: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Return the embeddings (B, 128) of views and the maps of CHANNELS, brought to `sizes`.

        Shapes: numbers (B,) of the views; clean (B, 3, 112, 112) in [0, 1].
        """
        keys = numbers.tolist()
        places = [place for place, key in enumerate(keys) if key not in self._known]
        if places:
            for place, *said in zip(places, *self._ask(clean[places], sizes), strict=True):
                self._known[keys[place]] = tuple(part.half() for part in said)
        return [torch.stack(parts).float() for parts in zip(*(self._known[key] for key in keys), strict=True)]

    def _ask(self, clean: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        net = self.recogniser.net
        maps = self.recogniser.maps(clean)[-2:]
        # The head by itself: a second pass through the whole network would double the time.
        vectors = net.bn(net.conv3(net.gdconv(net.conv2(maps[-1])))).flatten(1)  # type: ignore[operator]
        fitted = [F.adaptive_avg_pool2d(one, size) for one, size in zip(maps, sizes, strict=True)]
        return [F.normalize(vectors, dim=1), *fitted]
