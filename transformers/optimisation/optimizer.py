"""The optimiser of the whole model: Muon for the hidden matrices, RowAdam for the tables, AdamW for the rest."""

from typing import Any

import torch
from torch import Tensor, nn

from optimisation.muon import Muon
from optimisation.row_adam import RowAdam

MOMENTUM_WARMUP = 100  # steps from 0.85 to Muon's full momentum (Jordan et al. 2024)


class Optimizer:
    """One step for the whole model: `rates` maps the kinds of `kind_of` to learning rates.

    The table of n-grams is RowAdam's. `with_muon`: the matrices are the blocks'. Without it Adam takes them too (Vaswani et
    al. 2017, section 5.3: beta2 0.98, eps 1e-9). `decay` is decoupled weight decay, on the blocks' matrices only.
    """

    def __init__(self, model: nn.Module, rates: dict[str, float], decay: float, with_muon: bool, dtype: torch.dtype):
        self.parameters = list(model.parameters())
        kinds: dict[str, list[nn.Parameter]] = {}
        self.tables: list[RowAdam] = []
        for name, p in model.named_parameters():
            if name == "ngrams":
                self.tables.append(RowAdam(p))
            else:
                kinds.setdefault(kind_of(name, p), []).append(p)
        self.rates, self.decay = rates, decay
        self.muon = Muon(kinds.pop("matrix"), dtype) if with_muon else None
        groups = [
            {"params": ps, "kind": kind, "weight_decay": decay if kind == "matrix" else 0.0}
            for kind, ps in kinds.items()
        ]
        betas, eps = ((0.9, 0.95), 1e-10) if with_muon else ((0.9, 0.98), 1e-9)
        fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=fused)

    def step(self, step: int, scale: float) -> None:
        """Update number `step` (from 0) with every rate times `scale`; the gradients are cleared."""
        for group in self.adam.param_groups:
            group["lr"] = self.rates[group["kind"]] * scale
        self.adam.step()
        for table in self.tables:
            table.step(self.rates["ngrams"] * scale)
        if self.muon:
            momentum = 0.85 + 0.10 * min(1.0, step / MOMENTUM_WARMUP)
            self.muon.step(self.rates["matrix"] * scale, momentum, self.decay)
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""
        moments = [*self.muon.moments.values()] if self.muon else []
        tables = [table.state_dict() for table in self.tables]
        return {"adam": self.adam.state_dict(), "moments": moments, "tables": tables}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The state that `state_dict` gave for a model of the same shape."""
        self.adam.load_state_dict(state["adam"])
        for table, saved in zip(self.tables, state["tables"], strict=True):
            table.load_state_dict(saved)
        if self.muon:
            for moment, saved in zip(self.muon.moments.values(), state["moments"], strict=True):
                moment.copy_(saved)


def kind_of(name: str, p: Tensor) -> str:
    """Which learning rate a parameter of the decoder gets."""
    if p.ndim < 2:
        return "scalar"
    return "matrix" if name.startswith("blocks.") else "ngrams" if name.startswith("ngram") else name
