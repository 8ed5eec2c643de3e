"""What stands in for a Mac in the tests: a mode in which any float64 tensor is an error, as it is on MPS.

A script joins with one line: `with no_float64():` around its training in this process, on a tiny configuration (the
mode does not reach worker processes, so a sweep's script guards the function that its workers call).
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class no_float64(TorchDispatchMode):
    """Raises TypeError as soon as an operation takes or gives a float64 or complex128 tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs or {}, result)):
            if isinstance(value, torch.Tensor) and value.dtype in (torch.float64, torch.complex128):
                raise TypeError(f"{func} uses {value.dtype}, which MPS does not have")
        return result
