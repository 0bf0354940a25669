"""The identity recovery network, for CLR-Face (IRN) and Diffuse-and-Restore (IPC) alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from bfr_core.faces.identity import load_recognizer
from bfr_core.models.checkpoints.files import fill
from bfr_core.networks.restore_unet import full_from_folded
from bfr_core.registry import get_method

from .. import losses
from ..config import STRICT, Phase
from ..data import Batch, Examples
from ..pairs import FREE, RestoreConfig, RestorePhase, face_pairs
from ..pictures import Pictures
from ..stage import FileNeed, Nets, Objective, Stage, Step, Validator
from ..validation import RestoreValidator

_FACE = {"l1": 1.0, "identity": 0.03}


@dataclass(frozen=True, config=STRICT)
class IrnConfig(RestoreConfig):
    """The identity recovery network."""

    head: Literal["folded", "full"] = "folded"
    """How the compact network ends, see `RestoreUNet`."""


COMPACT = IrnConfig(
    phases=(
        RestorePhase("crops", 7_400, batch=8, size=256, lr=(0.015, 0.004), warmup=160, weights={"l1": 1.0}),
        RestorePhase("faces", 2_000, batch=4, lr=(0.004, 0.0006), warmup=160, weights=_FACE),
        RestorePhase("mild", 800, batch=4, lr=(0.002, 0.0003), warmup=160, weights=_FACE, mild=0.6),
    ),
    optimiser="muon",
    clip=0.1,
    ema=1_400.0,
    precision="auto",
    folder_weights=FREE,
)
"""Two cores (AVX2): about an hour. The first phase sees crops without the identity term, four times as many pictures
in the same time. The last mixes in pictures that are nearly good: after the papers' ranges alone the net lowered their
identity (0.994 to 0.983 at half resolution)."""

PAPER = IrnConfig(
    network="paper",
    phases=(RestorePhase("faces", 9_600_000, batch=32, lr=(5e-5, 5e-5), weights={"l1": 1.0, "identity": 0.1}),),
    degradation="difface",
    colour=True,
    betas=(0.9, 0.99),
    ema=10_000.0,
    precision="bf16",
)
"""DifFace's SwinIR schedule: 300,000 steps of 32 at 5e-5. alpha of Eq. 11 is not published; 10 keeps identity the
smaller term."""


class IrnStage(Stage[IrnConfig]):
    """Train x_hat = f_phi(x_d)."""

    title: ClassVar[str] = "Identity recovery network"
    method: ClassVar[str] = "irn"
    source: ClassVar[str] = (
        "CLR-Face Eq. 11 = Diffuse-and-Restore Eq. 4: alpha * L1 + D_cos(f(x_hat), f(x)), here divided by alpha. Both "
        "papers use ArcFace; any recogniser file serves."
    )
    terms: ClassVar[Mapping[str, str]] = {
        "l1": "|x_hat - x|, at half size where the truth was enlarged",
        "identity": "D_cos(f(x_hat), f(x)) = 1 - cos",
    }
    configs: ClassVar[Mapping[str, IrnConfig]] = {"compact": COMPACT, "paper": PAPER}
    needs: ClassVar[Mapping[str, FileNeed]] = {
        "recogniser": FileNeed("face recogniser of the identity loss: MobileFaceNet, IR-SE50 or resnet18 ArcFace")
    }

    weaknesses: ClassVar[str] = (
        "A regressor: skin and hair come out smoother than they were, more so the poorer the input. It does not invent "
        "what blur of more than about 10 px has removed."
    )

    def __init__(self, config: IrnConfig, files: Mapping[str, Path]) -> None:
        super().__init__(config, files)
        self.recogniser = load_recognizer(files["recogniser"])
        self.frozen["recogniser"] = self.recogniser  # type: ignore[assignment]

    def networks(self) -> dict[str, nn.Module]:
        method = get_method("irn")
        config = method.config(self.config.network)
        if self.config.head == "full":
            config = replace(config, options={**config.options, "head": "full"})
        return {"net": method.build(config)}

    def adopted(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return weights to start from, with the head that is trained."""
        return full_from_folded(weights) if self.config.head == "full" and "head.0.weight" in weights else weights

    def from_shipped(self, weights: Mapping[str, Tensor]) -> dict[str, nn.Module]:
        """Return the network with weights that a restorer loads, as they are: their own head decides."""
        method = get_method("irn")
        net = method.build(method.config(self.config.network).for_keys(weights.keys()))
        wanted = net.state_dict().keys()
        fill(net, {key: tensor for key, tensor in weights.items() if key in wanted}, what=self.title)
        return {"net": net}

    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("restore", ("net",), self._restore),)

    def _restore(self, nets: Nets, batch: Batch, step: Step) -> dict[str, losses.Tensor]:
        output = nets["net"](batch["low"])
        terms = {"l1": losses.l1(output, batch["truth"], batch["enlarged"])}
        if step.weight("identity"):
            terms["identity"] = losses.identity(self.recogniser, output, batch["truth"])
        return terms

    def examples(self, pictures: Pictures, phase: Phase) -> Examples:
        return face_pairs(self.config, pictures, phase)  # type: ignore[arg-type]

    def validator(self, pictures: Pictures) -> Validator:
        return RestoreValidator(
            pictures,
            self.config.preset(),
            lambda nets: nets["net"],
            recogniser=self.recogniser,
            size=self.config.face_size,
            limit=self.config.validate_limit,
        )


STAGE = IrnStage
