"""Identity recovery network: the regressor that CLR-Face and Diffuse-and-Restore train first.

Sources: CLR-Face Sec. 3.3, Eq. 11 (there: IRN); Diffuse-and-Restore Sec. 3.1, Eq. 4 (there: IPC). One network, one
loss, L1 plus identity. Both papers call it model-agnostic: config `paper` is their SwinIR, config `compact` a dense
U-Net that restores a face in a fraction of a second on a CPU. It is a fast restorer by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ...dial import Dial, fidelity_param
from ...networks.restore_unet import RestoreUNet
from ...networks.swinir import SwinIR
from ...registry import Config, Context, Method, Paper

_NETWORKS: dict[str, type[nn.Module]] = {"compact": RestoreUNet, "paper": SwinIR}

CORRECTION = Dial("share of its correction that is made", 1, 1, 0.5, linear=True)


@dataclass(frozen=True, slots=True)
class IrnSettings:
    """A regressor has nothing to choose but how much of it to take."""

    fidelity: float = fidelity_param()


_HEADS = {"head.0.weight", "head.conv2.weight"}
"""Of compact weights: the folded head, and the one at full size that is being trained."""


def build(config: Config) -> nn.Module:
    """Make the untrained network of a config."""
    return _NETWORKS[config.name](**config.options)


def recognise(keys: Collection[str]) -> str | None:
    """Tell a config by keys that only it has."""
    if "layers.0.residual_group.blocks.0.attn.qkv.weight" in keys and "conv_up3.weight" in keys:
        return "paper"
    if "encoder.0.0.conv1.weight" in keys and "middle.0.conv1.weight" in keys and not _HEADS.isdisjoint(keys):
        return "compact"
    return None


def restore(
    net: nn.Module,
    faces: Tensor,
    settings: IrnSettings,
    seeds: Collection[int],
    inputs: Mapping[str, Tensor],
    context: Context,
) -> Tensor:
    """Restore faces, x_hat = f_phi(x_d): one pass without noise, so seeds change nothing.

    Dial: up to 0.5 the published result, as a regressor has nothing to paint; beyond it, part of the correction is
    held back, half of it at 1.
    """
    restored = net(faces)
    share = CORRECTION.at(settings.fidelity)
    return restored if share == 1 else faces + share * (restored - faces)


METHOD = Method(
    id="irn",
    title="Identity recovery network",
    summary="Fast: one pass of a regression network trained to keep the person recognisable.",
    traits="fast, closest to the person",
    papers=(
        Paper("CLR-Face", "https://arxiv.org/abs/2402.06106", "Sec. 3.3, Eq. 11"),
        Paper("Diffuse and Restore (WACV 2024)", "", "Sec. 3.1, Eq. 4"),
    ),
    configs=(
        Config(
            "compact",
            "Compact U-Net, embedded weights",
            512,
            embedded=("irn_compact",),
            variants={"head.conv2.weight": {"head": "full"}},
        ),
        Config("paper", "SwinIR with pixel-unshuffle, bring your weights", 512, colours="method"),
    ),
    build=build,
    restore=restore,
    recognise=recognise,
    settings_type=IrnSettings,
    dials=(CORRECTION,),
    stages={"irn": "irn"},
    default=True,
    draws=False,
)
