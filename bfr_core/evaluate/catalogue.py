"""Every metric of an evaluation, declared once: its name, direction, definition, needs and how it is measured.

A new metric is a function and one entry of METRICS; the table, the report and the JSON follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import InputMediaError
from ..metrics import temporal
from ..metrics.distribution import fid, paired_unpaired_ids, statistics
from ..metrics.fidelity import laplacian_variance, psnr, ssim
from ..metrics.identity import degrees
from ..metrics.landmarks import lmd, nme
from ..metrics.texture import grain, weave
from .tools import FaceSample, FramePair, MetricModels

Scope = Literal["face", "pair", "set"]
Better = Literal["higher", "lower", "truth"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of an evaluation."""

    key: str
    """Its name in the JSON; never changes."""
    title: str
    better: Better
    """Which way is better; `truth` where the nearest to the truth's own value is."""
    about: str
    """What it measures and whose definition it is, for a reader of the report."""
    measure: Callable[..., float]
    """By scope: (tools, picture, truth), (tools, pair, side) or (tools, side).

    Raises InputMediaError where it cannot be measured on this face; the reason goes into the report.
    """
    unit: str = ""
    digits: int = 2
    scope: Scope = "face"
    """What one value belongs to: a face, a pair of consecutive frames, or the whole set."""
    tool: str = ""
    """Attribute of MetricModels that is loaded before the first face."""
    needs: tuple[str, ...] = ()
    """Files it cannot do without: keys of `metrics.files.files` or of `tools.FEATURES`."""
    own: bool = False
    """It looks at one picture alone, so the truth has a value too."""
    share: bool = False
    """Each value is 0 or 100, of which a histogram shows nothing."""

    @property
    def label(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


def _psnr(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return psnr(face.image, truth.image).item()


def _ssim(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return ssim(face.image, truth.image).item()


def _lpips(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return tools.lpips(face.seen, truth.seen).item()


def _lpips_alex(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return tools.lpips_alex(face.seen, truth.seen).item()


def _niqe(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return tools.niqe(face.image).item()


def _sharpness(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return laplacian_variance(face.image).item()


def _grain(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return grain(face.image, truth.image).item()


def _weave(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return weave(face.image).item()


def _identity(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    # `metrics.identity.identity_scores` of two pictures, with the embeddings they remember.
    return float(face.identity @ truth.identity)


def _identity_degrees(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return degrees(face.identity @ truth.identity).item()


def _found(face: FaceSample, whose: str) -> np.ndarray:
    if face.five_points is None:
        raise _unmeasured(f"the built-in detector finds no face in the {whose}")
    return face.five_points


def _both(face: FaceSample, truth: FaceSample) -> tuple[np.ndarray, np.ndarray]:
    true = _found(truth, "truth")
    return _found(face, "picture")[None], true[None]


def _lmd_5(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return lmd(*_both(face, truth), face.scale).item()


def _nme_5(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return 100 * nme(*_both(face, truth)).item()


def _detected(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    _found(truth, "truth")
    return 100.0 * (face.five_points is not None)


def _98(face: FaceSample) -> np.ndarray:
    if len(face.many_points) != 98:
        raise _unmeasured(f"the landmark network gives {len(face.many_points)} points, not the 98 of WFLW")
    return face.many_points


def _lmd_98(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return lmd(_98(face)[None], _98(truth)[None], face.scale).item()


def _nme_98(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return 100 * nme(_98(face)[None], _98(truth)[None]).item()


def _emotion(tools: MetricModels, face: FaceSample, truth: FaceSample) -> float:
    return 100.0 * (face.emotion == truth.emotion)


def _warp_error(tools: MetricModels, pair: FramePair, side: str) -> float:
    if not pair.motion.measurable:
        raise _unmeasured("a cut, or motion that cannot be followed")
    return 1e3 * temporal.pair_warp_error(pair.motion, pair.frames[0][side], pair.frames[1][side])


def _flicker(tools: MetricModels, pair: FramePair, side: str) -> float:
    first, second = _same_person(pair)
    if pair.face_motion is None or not pair.face_motion.measurable:
        raise _unmeasured("the motion of the face cannot be followed")
    faces, truth = ((first[name].image[0].cpu(), second[name].image[0].cpu()) for name in (side, "truth"))
    return temporal.pair_flicker(pair.face_motion, faces, truth)


def _tlme_5(tools: MetricModels, pair: FramePair, side: str) -> float:
    first, second = _same_person(pair)
    points = (_found(first[side], "picture"), _found(second[side], "picture"))
    truth = (_found(first["truth"], "truth"), _found(second["truth"], "truth"))
    return first[side].scale * temporal.pair_landmark_motion(points, truth)


def _tlme_98(tools: MetricModels, pair: FramePair, side: str) -> float:
    first, second = _same_person(pair)
    points, truth = ((_98(first[name]), _98(second[name])) for name in (side, "truth"))
    return first[side].scale * temporal.pair_landmark_motion(points, truth)


def _same_person(pair: FramePair) -> tuple:
    if pair.faces is None:
        raise _unmeasured("the two frames do not show a face at the same place")
    return pair.faces


def _fid(tools: MetricModels, side: str) -> float:
    return fid(tools.features(side), tools.reference)


def _fid_truth(tools: MetricModels, side: str) -> float:
    return fid(tools.features(side), statistics(tools.features("truth")))


def _p_ids(tools: MetricModels, side: str) -> float:
    return paired_unpaired_ids(tools.features("truth"), tools.features(side))[0]


def _u_ids(tools: MetricModels, side: str) -> float:
    return paired_unpaired_ids(tools.features("truth"), tools.features(side))[1]


def _unmeasured(why: str) -> InputMediaError:
    return InputMediaError(
        "Cannot measure this", found=why, kept="The other metrics go on", todo="Look at the picture by its name"
    )


_RECOGNISER: dict[str, Any] = {"tool": "recognizer"}
_LANDMARKS = {"tool": "landmarker", "needs": ("landmarker",)}
_PAIRED = {"scope": "set", "needs": ("features_restored", "features_truth")}

METRICS: tuple[Metric, ...] = (
    Metric(
        "psnr", "PSNR", "higher",
        "Peak signal-to-noise ratio of all RGB values at 8 bit (BasicSR protocol). Rewards the blurred average.",
        _psnr, unit="dB",
    ),
    Metric(
        "ssim", "SSIM", "higher",
        "Structural similarity, mean of the RGB channels, Gaussian window of 11 px (Wang et al. 2004).",
        _ssim, digits=4,
    ),
    Metric(
        "lpips", "LPIPS, VGG", "lower",
        "Learned perceptual distance, version 0.1 on VGG16 (Zhang et al. 2018), as the papers on face restoration use.",
        _lpips, digits=4, tool="lpips", needs=("lpips_backbone", "lpips_heads"),
    ),
    Metric(
        "lpips_alex", "LPIPS, AlexNet", "lower",
        "The same distance on AlexNet; not comparable with that on VGG.",
        _lpips_alex, digits=4, tool="lpips_alex", needs=("lpips_backbone_alex", "lpips_heads_alex"),
    ),
    Metric(
        "identity", "Identity, cosine", "higher",
        "Cosine between the embeddings of face and truth: 1 is the same person. Figures of two recognisers are not "
        "comparable; published ones are ArcFace's.",
        _identity, digits=4, **_RECOGNISER,
    ),
    Metric(
        "identity_degrees", "Identity, angle", "lower",
        "The same as an angle, as VQFR reports it.",
        _identity_degrees, unit="degrees", **_RECOGNISER,
    ),
    Metric(
        "lmd_5", "LMD, 5 points, built-in detector", "lower",
        "Mean distance of eyes, nose and mouth corners to those found in the truth, for a face of 512 px. Not the "
        "LMD of the papers, which has 98 points.",
        _lmd_5, unit="px", tool="detector",
    ),
    Metric(
        "nme_5", "NME, 5 points, built-in detector", "lower",
        "The same distance as a share of the distance between the true eyes.",
        _nme_5, unit="%", tool="detector",
    ),
    Metric(
        "detected", "Faces detected", "higher",
        "Share of faces that the built-in detector finds, of those it finds in the truth (DSR of VSPBFR with another "
        "detector).",
        _detected, unit="%", digits=1, tool="detector", share=True,
    ),
    Metric(
        "lmd", "LMD, 98 points", "lower",
        "Mean distance of 98 landmarks (adaptive-wing FAN) to those of the truth, for a face of 512 px (VQFR).",
        _lmd_98, unit="px", **_LANDMARKS,
    ),
    Metric(
        "nme", "NME, 98 points", "lower",
        "The same distance as a share of the distance between the outer corners of the true eyes.",
        _nme_98, unit="%", **_LANDMARKS,
    ),
    Metric(
        "emotion", "Emotion kept", "higher",
        "Share of faces whose predicted expression is that of the truth (VSPBFR).",
        _emotion, unit="%", digits=1, tool="expression", needs=("expression",), share=True,
    ),
    Metric(
        "niqe", "NIQE", "lower",
        "Distance from the statistics of natural pictures, without a truth (Mittal et al. 2013).",
        _niqe, digits=3, tool="niqe", needs=("niqe",), own=True,
    ),
    Metric(
        "sharpness", "Sharpness", "truth",
        "Variance of the Laplacian of the luma at 8 bit. Best near the truth: noise is sharp too.",
        _sharpness, digits=1, own=True,
    ),
    Metric(
        "grain", "Grain of flat regions", "truth",
        "High-frequency energy where the truth is flat, relative to the truth's (Immerkær's operator). Above 1: noise "
        "where there was none; below: smoother than the truth. Our definition.",
        _grain, own=True,
    ),
    Metric(
        "weave", "Weave", "lower",
        "How far the spectral lines of a grid of 2, 4 or 8 pixels stand out of their neighbours; 1 is not at all. "
        "Networks that fold their maps draw such grids, and so do the blocks of JPEG. Our definition.",
        _weave, own=True,
    ),
    Metric(
        "warp_error", "Warp error", "lower",
        "Mean squared difference of consecutive frames along the motion of the truth, values in [0, 1] (Lai et al. "
        "2018, flow by DIS). Read it beside the truth's own: a blurred clip can lie below it.",
        _warp_error, unit="10^-3", digits=3, scope="pair", own=True,
    ),
    Metric(
        "aligned_flicker", "Flicker of the aligned face", "lower",
        "Mean change of the error along the motion of the face; what is wrong but steady does not count. Our "
        "definition.",
        _flicker, unit="8-bit levels", digits=3, scope="pair",
    ),
    Metric(
        "tlme_5", "TLME, 5 points, built-in detector", "lower",
        "Mean error of the landmarks' steps from frame to frame, for a face of 512 px. Not comparable with published "
        "figures, whose definition is not public.",
        _tlme_5, unit="px", scope="pair", tool="detector",
    ),
    Metric(
        "tlme", "TLME, 98 points", "lower",
        "The same with 98 landmarks.",
        _tlme_98, unit="px", scope="pair", **_LANDMARKS,
    ),
    Metric(
        "fid", "FID to real faces", "lower",
        "Fréchet distance of Inception features to a reference set such as FFHQ (Heusel et al. 2017). Depends on the "
        "number of faces.",
        _fid, scope="set", needs=("features_restored", "inception_reference"),
    ),
    Metric(
        "fid_truth", "FID to the truth", "lower",
        "The same to the true faces (FID-dagger of VSPBFR).",
        _fid_truth, **_PAIRED,
    ),
    Metric(
        "p_ids", "P-IDS", "higher",
        "Share of restored faces that a linear classifier holds for more real than their truth (Co-Mod-GAN); at "
        "most about 0.5.",
        _p_ids, digits=4, **_PAIRED,
    ),
    Metric(
        "u_ids", "U-IDS", "higher",
        "Share of faces that the classifier mistakes; at most about 0.5.",
        _u_ids, digits=4, **_PAIRED,
    ),
)  # fmt: skip
"""In the order of the table."""

BY_KEY = {metric.key: metric for metric in METRICS}
WORST_BY = ("identity", "lpips", "psnr")
"""By which the worst faces are chosen unless told: the first of these that can be measured."""
