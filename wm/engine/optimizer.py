"""The optimizers behind both learners: AdamW, and Muon for hidden matrices with AdamW for the rest.

Learners keep weights as flat tensors, of which a rank may own a part that begins in the middle of a matrix. Momentum is
element by element and stays so; only for the step is a matrix made whole, by one sum over ranks, where no rank has all of it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from wm.engine.offload import Shelf, kept_on
from wm.tags import decays, is_hidden_matrix

# Quintic Newton-Schulz whose slope at 0 is as large as it can be (Jordan et al. 2024, kellerjordan.github.io/posts/muon).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class ParameterGroup:
    """Trainable parameters that are treated alike, by name."""

    named: list[tuple[str, nn.Parameter]]
    decays: bool
    muon: bool


def parameter_groups(module: nn.Module, muon: bool = False) -> list[ParameterGroup]:
    """Hidden matrices where `muon`, then what has weight decay, then what has not (wm/tags.py); no empty group."""
    kinds: dict[tuple[bool, bool], list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            kinds[muon and is_hidden_matrix(parameter), decays(parameter)].append((name, parameter))
    if not kinds:
        raise ValueError(
            f"{type(module).__name__} has no parameter that requires a gradient; there is nothing to learn"
        )
    return [ParameterGroup(named, decay, of_muon) for (of_muon, decay), named in sorted(kinds.items(), reverse=True)]


@dataclass(frozen=True)
class Matrix:
    """Where a rank keeps its part of a hidden matrix: elements [start, start + size), at `offset` of `flat`."""

    flat: Tensor
    offset: int
    start: int
    size: int
    shape: tuple[int, int]
    split: bool = False  # over ranks, so that it has to be made whole for a step


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """(outputs, all the rest) of a parameter: a kernel is a matrix of what it reads at one place."""
    return shape[0], math.prod(shape[1:])


class AdamWAndMuon(torch.optim.AdamW):
    """AdamW, and in groups with `muon` Muon with Nesterov momentum.

    A step of Muon is 0.2 sqrt(max(rows, columns)) times the orthogonalised momentum, whose root mean square is that of an
    AdamW step, so one learning rate and one weight decay serve both (Liu et al. 2025, arXiv:2502.16982, equation 4).
    Until `lay_out` said where the matrices lie, groups with `muon` do not move: DeepSpeed steps while it is set up.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        momentum: float,
        iterations: int,
        iterate_in: torch.dtype,
        shelf: Shelf | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(groups, **settings)
        self.shelf = shelf  # where moments lie between steps; None: on the device
        self._momentum, self._iterations, self._iterate_in = momentum, iterations, iterate_in
        self._matrices: dict[int, list[Matrix]] = {}
        self._sum_over_ranks: Callable[[Tensor], None] | None = None

    def lay_out(self, matrices: Iterable[Matrix], sum_over_ranks: Callable[[Tensor], None] | None) -> None:
        """Say where the matrices lie, in the same order on all ranks; None where each rank has all of them."""
        self._matrices.clear()
        self._sum_over_ranks = sum_over_ranks
        for matrix in matrices:
            split = sum_over_ranks is not None and not self._is_whole_somewhere(matrix)
            self._matrices.setdefault(id(matrix.flat), []).append(replace(matrix, split=split))
        # What is split comes first: where it is a rank's last matrix and the next one's first, one would wait for the other.
        for of_flat in self._matrices.values():
            of_flat.sort(key=lambda matrix: not matrix.split)

    def _is_whole_somewhere(self, matrix: Matrix) -> bool:
        """Whether one rank has all of it; the same answer on all ranks, which ask together."""
        whole = torch.tensor(float(matrix.size == math.prod(matrix.shape)), device=matrix.flat.device)
        assert self._sum_over_ranks is not None
        self._sum_over_ranks(whole)
        return bool(whole)

    def has_matrices(self, flat: Tensor) -> bool:
        return id(flat) in self._matrices

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None, "the loss was taken before"
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            self._step_adamw()
        finally:
            self.param_groups = groups
        for group in groups:
            for flat in group["params"] if group["muon"] else ():
                if flat.grad is not None and self.has_matrices(flat):
                    self._step_muon(flat, flat.grad.reshape(-1), group["lr"], group["weight_decay"])

    def _step_adamw(self) -> None:
        if self.shelf is None:
            super().step()
            return
        for group in self.param_groups:
            for flat in group["params"]:
                if flat.grad is not None:
                    self._step_in_pieces(flat, flat.grad, group, self.shelf)

    def _step_in_pieces(self, flat: Tensor, gradient: Tensor, group: dict[str, Any], shelf: Shelf) -> None:
        kept, count = moments(self, flat), self.state[flat]["step"]
        beta1, beta2 = group["betas"]
        for (part, of_part), (mean, square) in shelf.pieces([flat, gradient], [kept["exp_avg"], kept["exp_avg_sq"]]):
            adamw(
                [part], [of_part], [mean], [square], [], [count.clone()],
                fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"],
                weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
            )  # fmt: skip
        count.add_(1)

    def _with_momentum(self, flat: Tensor, gradient: Tensor) -> Tensor:
        """`gradient` with Nesterov's momentum, in place: nobody reads the gradient after this."""
        momentum = moments(self, flat)["momentum"]
        pieces = (
            [([gradient], [momentum.view(-1)])] if self.shelf is None else self.shelf.pieces([gradient], [momentum])
        )
        for (part,), (kept,) in pieces:
            kept.mul_(self._momentum).add_(part)
            part.add_(kept, alpha=self._momentum)
        return gradient

    def _step_muon(self, flat: Tensor, gradient: Tensor, rate: float, weight_decay: float) -> None:
        wanted = self._with_momentum(flat, gradient)
        for matrix in self._matrices[id(flat)]:
            whole = self._whole(matrix, wanted)
            if not matrix.size:
                continue
            change = orthogonalised(whole.to(self._iterate_in), self._iterations).reshape(-1)
            change = change[matrix.start : matrix.start + matrix.size]
            owned = flat.view(-1)[matrix.offset : matrix.offset + matrix.size]
            owned.mul_(1 - rate * weight_decay).sub_(change, alpha=rate * 0.2 * max(matrix.shape) ** 0.5)

    def _whole(self, matrix: Matrix, values: Tensor) -> Tensor:
        owned = values[matrix.offset : matrix.offset + matrix.size]
        if not matrix.split:
            return owned.view(matrix.shape) if matrix.size else owned
        assert self._sum_over_ranks is not None
        whole = values.new_zeros(matrix.shape[0] * matrix.shape[1])
        whole[matrix.start : matrix.start + matrix.size] = owned
        self._sum_over_ranks(whole)
        return whole.view(matrix.shape)


def orthogonalised(matrix: Tensor, iterations: int = 5) -> Tensor:
    """U V^T of `matrix` = U S V^T, nearly: singular values between 0.7 and 1.2; zero stays zero. bfloat16 will do.

    Values below 3.44^-iterations of the matrix's norm stay smaller, which training hardly notices.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(iterations):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def build_optimizer(
    groups: Sequence[ParameterGroup],
    tensors: Sequence[Sequence[Tensor]],  # what is stepped on, by group
    *,
    muon: bool,
    rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    momentum: float,
    iterations: int,
    iterate_in: torch.dtype,
    shelf: Shelf | None,
) -> torch.optim.AdamW:
    """torch's AdamW over `tensors`, or AdamWAndMuon where matrices wait for `lay_out` or moments lie on a shelf."""
    trees = [
        {"params": list(of_group), "weight_decay": weight_decay if group.decays else 0.0, "muon": group.muon}
        for group, of_group in zip(groups, tensors, strict=True)
    ]
    if muon or shelf:
        return AdamWAndMuon(
            trees, momentum=momentum, iterations=iterations, iterate_in=iterate_in, shelf=shelf, lr=rate, betas=betas,
            fused=True,
        )  # fmt: skip
    return torch.optim.AdamW(trees, lr=rate, betas=betas, fused=True)


def shelf_of(optimizer: torch.optim.AdamW) -> Shelf | None:
    """Where its moments lie between steps; None where on the device."""
    return optimizer.shelf if isinstance(optimizer, AdamWAndMuon) else None


def moments(optimizer: torch.optim.AdamW, flat: Tensor) -> dict[str, Tensor]:
    """What the optimizer remembers of `flat`, made (zero) where no step was taken yet, as it would itself."""
    by_muon = isinstance(optimizer, AdamWAndMuon) and optimizer.has_matrices(flat)
    kinds = ("momentum",) if by_muon else ("exp_avg", "exp_avg_sq")
    state = optimizer.state[flat]
    if not state:
        state["step"] = torch.zeros((), device=flat.device)
        state.update({kind: kept_on(shelf_of(optimizer), torch.zeros_like(flat)) for kind in kinds})
    return {kind: state[kind] for kind in kinds}
