"""A critic's part in training: hinge or logistic losses, R1, and a weight that follows the reconstruction's."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CriticLoss = Literal["hinge", "logistic"]


def critic_loss(real: Tensor, made: Tensor, kind: CriticLoss = "hinge") -> Tensor:
    """What the critic minimises, from its logits on real and decoded frames.

    Hinge: Lim & Ye 2017 (arXiv:1705.02894), equation 13. Logistic: Goodfellow et al. 2014, equation 1.
    """
    if kind == "hinge":
        return F.relu(1.0 - real).mean() + F.relu(1.0 + made).mean()
    return F.softplus(-real).mean() + F.softplus(made).mean()


def fooling_loss(made: Tensor, kind: CriticLoss = "hinge", share: Tensor | None = None) -> Tensor:
    """What the decoder minimises, from logits (B, ...) on its frames, each sample weighted by its `share` (B,).

    Hinge: minus the logit (Lim & Ye 2017, equation 14). Logistic: the form that does not saturate (Goodfellow et al. 2014).
    """
    values = -made if kind == "hinge" else F.softplus(-made)
    return values.mean() if share is None else (values.flatten(1).mean(1) * share).mean()


def r1_penalty(logits: Tensor, video: Tensor) -> Tensor:
    """Mean squared norm of the gradient of each sample's mean logit by its real frames (Mescheder et al. 2018, equation 9).

    `logits` (B, ...) come of `video` (B, ...), which asks for gradients. Half the weight of the paper's gamma is the caller's.
    """
    (slope,) = torch.autograd.grad(logits.flatten(1).mean(1).sum(), video, create_graph=True)
    return slope.float().square().flatten(1).sum(1).mean()


def adaptive_share(reconstruction: Tensor, fooling: Tensor, made: Tensor, largest: float = 1e4) -> Tensor:
    """How much fooling counts in each sample so that it pulls at the frames as strongly as the reconstruction, (B,).

    |grad reconstruction| / |grad fooling| (Esser et al. 2021, arXiv:2012.09841, equation 7), taken at the frames `made`
    (B, ...) and not at the decoder's last layer: so it is a sample's own, whatever batch it is in and whoever holds the layer.
    """
    pulls = [torch.autograd.grad(loss, made, retain_graph=True)[0] for loss in (reconstruction, fooling)]
    strong, weak = (pull.float().flatten(1).norm(dim=1) for pull in pulls)
    return (strong / weak.clamp_min(1e-12)).clamp(max=largest).detach()
