"""Tags that a parameter is given where it is made, for whoever builds the optimizer: whether it decays, whether it is hidden."""

from typing import TypeVar

from torch import nn

Tagged = TypeVar("Tagged", bound=nn.Parameter | nn.Module)


def tagged(target: Tagged, *, decay: bool | None = None, hidden: bool | None = None) -> Tagged:
    """`target`, its parameters tagged; None leaves a tag as it is. Copies of a parameter (deepcopy) lose their tags."""
    for parameter in target.parameters() if isinstance(target, nn.Module) else [target]:
        for name, value in (("wm_decay", decay), ("wm_hidden", hidden)):
            if value is not None:
                setattr(parameter, name, value)
    return target


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay pulls at it: as tagged, else where it has two axes or more, so no gains, biases, constants."""
    return bool(getattr(parameter, "wm_decay", parameter.ndim >= 2))


def is_hidden_matrix(parameter: nn.Parameter) -> bool:
    """Whether it maps hidden to hidden: two axes or a kernel's, and not tagged as what reads inputs or writes outputs."""
    return parameter.ndim >= 2 and bool(getattr(parameter, "wm_hidden", True))
