"""What a process computes with, once it was told."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from launch.resources import Resources, compute_with, num_cores
from launch.runtime import ThisProcess


def smallest(share: float) -> tuple[float, float]:
    """A product that is `share` of the smallest normal number, and its gradient, which is as large."""
    x = torch.full((7,), torch.finfo(torch.float32).tiny, requires_grad=True)
    y = x * share
    y.backward(torch.full((7,), torch.finfo(torch.float32).tiny))
    assert x.grad is not None
    return y[0].item(), x.grad[0].item()


def told() -> dict[str, float]:
    product, gradient = smallest(0.5)
    return {"product": product, "gradient": gradient, "threads": torch.get_num_threads()}


def test_what_is_too_small_to_be_normal_is_zero_forwards_and_backwards() -> None:
    def compute() -> None:
        torch.set_flush_denormal(False)
        assert min(smallest(0.5)) > 0
        compute_with(torch.get_num_threads())
        assert smallest(0.5) == (0.0, 0.0)
        assert smallest(1.5)[0] == torch.tensor(1.5 * torch.finfo(torch.float32).tiny).item()

    on_a_thread_of_its_own(compute)


def test_a_stage_without_ray_computes_so() -> None:
    def compute() -> None:
        torch.set_flush_denormal(False)
        resources, done = Resources(num_workers=1), list[int]()
        answers = ThisProcess().map_tasks(told, [(), ()], resources, done.append)
        assert answers == 2 * [{"product": 0.0, "gradient": 0.0, "threads": num_cores()}]

    on_a_thread_of_its_own(compute)


def on_a_thread_of_its_own(work: Callable[[], None]) -> None:
    """What a thread is told about small numbers ends with it; the number of threads is the process's."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result()
    finally:
        torch.set_num_threads(threads)
