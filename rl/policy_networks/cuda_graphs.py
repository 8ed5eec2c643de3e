"""CUDA graphs of what is done thousands of times: launching hundreds of small kernels takes longer than running them."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

WARM_UPS = 3  # calls before the capture, in which libraries choose their kernels and allocate
OFTEN = (
    3  # the call of which a capture is made: some shapes, of the last observations of episodes for one, come but once
)
MOST = 8  # graphs: each keeps its memory


class Replays:
    """Functions of tensors on a CUDA device, each captured once it was called often with these shapes, and then replayed.

    What a function reads besides its arguments, parameters for one, must stay where it lies in memory; a replay reads what
    is there then. On other devices the functions are called as they are.
    """

    def __init__(self) -> None:
        self._captured: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Tensor], list[Tensor]]] = {}
        self._calls: Counter[Hashable] = Counter()

    def __call__(self, key: Hashable, function: Callable[..., Sequence[Tensor]], *tensors: Tensor) -> Sequence[Tensor]:
        """`function(*tensors)`, known by `key`: the same key must mean the same function, down to all it closes over."""
        if not tensors[0].is_cuda:
            return function(*tensors)
        grad = torch.is_grad_enabled()
        # What is made in inference mode could not be written to outside it, where later calls may come from.
        with torch.inference_mode(False), torch.set_grad_enabled(grad):
            key = (key, grad, *((t.shape, t.dtype) for t in tensors))
            if key not in self._captured:
                self._calls[key] += 1
                if self._calls[key] < OFTEN or len(self._captured) == MOST:
                    return function(*tensors)
                self._captured[key] = _capture(function, tensors)
            graph, given, found = self._captured[key]
            with torch.no_grad():
                for mine, theirs in zip(given, tensors, strict=True):
                    mine.copy_(theirs)
                graph.replay()
                return [tensor.clone() for tensor in found]


def _capture(
    function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor]
) -> tuple[torch.cuda.CUDAGraph, list[Tensor], list[Tensor]]:
    """The graph of a call, and the memory of its arguments and results."""
    given = [torch.empty_like(t).copy_(t) for t in tensors]
    aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            function(*given)
    with torch.cuda.graph(graph, stream=aside):
        found = list(function(*given))
    torch.cuda.current_stream().wait_stream(aside)
    return graph, given, found
