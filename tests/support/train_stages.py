"""Tiny training stages that the tests of the harness run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import nn

from bfr_core.networks.discriminators import PatchDiscriminator
from bfr_core.networks.restore_unet import RestoreUNet
from train import losses
from train.config import STRICT
from train.pairs import RestoreConfig, RestorePhase, face_pairs
from train.stage import Objective, Stage
from train.validation import RestoreValidator


@dataclass(frozen=True, config=STRICT)
class TinyConfig(RestoreConfig):
    """A restorer of a few thousand weights."""

    poison: tuple[int, ...] = ()
    """Steps whose loss is not a number, by images seen."""


def config(**changes) -> TinyConfig:
    fields = {
        "phases": (
            RestorePhase("one", 12, batch=4, size=48, lr=(0.01, 0.005), weights={"l1": 1.0}),
            RestorePhase(
                "two",
                8,
                batch=4,
                size=64,
                lr=(0.005, 0.001),
                weights={"l1": 1.0, "adversarial": 0.01, "discriminator": 1.0},
            ),
        ),
        "face_size": 64,
        "optimiser": "muon",
        "validate_images": 8,
        "validate_limit": 2,
        "bad_images": 0.0,
    }
    return TinyConfig(**{**fields, **changes})


class TinyStage(Stage[TinyConfig]):
    """Two objectives, noise from the step's generator and from the global one."""

    title: ClassVar[str] = "Tiny restorer"
    method: ClassVar[str] = "irn"
    source: ClassVar[str] = "Only for tests."
    terms: ClassVar[Mapping[str, str]] = {"l1": "L1", "adversarial": "non-saturating", "discriminator": "logistic"}
    configs: ClassVar[Mapping[str, TinyConfig]] = {"compact": config()}

    def networks(self) -> dict[str, nn.Module]:
        return {"net": RestoreUNet((8, 16), (1, 1)), "critic": PatchDiscriminator()}

    def objectives(self):
        return (
            Objective("restore", ("net",), self._restore),
            Objective("judge", ("critic",), self._judge, lr=0.03, needs="adversarial"),
        )

    def _restore(self, nets, batch, step):
        low = batch["low"]
        noise = torch.rand(low.shape, generator=step.generator) + torch.rand(low.shape)
        output = nets["net"](low + 0.01 * (noise - 1))
        step.kept["output"] = output.detach()
        loss = losses.l1(output, batch["truth"], batch["enlarged"])
        terms = {"l1": loss * torch.nan if step.seen in self.config.poison else loss}
        if step.weight("adversarial"):
            terms["adversarial"] = losses.generator_loss(nets["critic"](output))
        return terms

    def _judge(self, nets, batch, step):
        real, fake = nets["critic"](batch["truth"]), nets["critic"](step.kept["output"])
        return {"discriminator": losses.discriminator_loss(real, fake)}

    def examples(self, pictures, phase):
        return face_pairs(self.config, pictures, phase)

    def validator(self, pictures):
        return RestoreValidator(
            pictures, self.config.preset(), lambda nets: nets["net"], recogniser=None, size=64, limit=2
        )


def tiny(files: Mapping[str, Path] | None = None, **changes) -> TinyStage:
    return TinyStage(config(**changes), files or {})
