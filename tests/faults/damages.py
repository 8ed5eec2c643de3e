"""What happens to a file: a bit is flipped, its end is missing, it is empty, gone, or holds code."""

import random
from pathlib import Path

WAYS = ("flipped", "truncated", "emptied", "deleted")


def damage(path: Path, way: str, chance: random.Random) -> str:
    """Do it to a file; what was done, in words."""
    data = path.read_bytes()
    if way == "deleted":
        path.unlink()
        return f"{path.name} deleted"
    if way == "emptied" or not data:
        path.write_bytes(b"")
        return f"{path.name} emptied"
    if way == "truncated":
        kept = chance.randrange(1, len(data)) if len(data) > 1 else 0
        path.write_bytes(data[:kept])
        return f"{path.name} cut from {len(data)} to {kept} bytes"
    place, bit = chance.randrange(len(data)), chance.randrange(8)
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    if path.suffix in (".json", ".csv", ".partial") and digits and chance.random() < 0.7:
        place, bit = chance.choice(digits), 0  # another digit: the text stays well-formed
    path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
    return f"{path.name}: bit {bit} of byte {place} of {len(data)} flipped"


class Touch:
    """Unpickled, it makes a file in the working folder."""

    def __reduce__(self) -> tuple:
        return open, ("touched", "w")


def put_code(path: Path, chance: random.Random) -> str:
    """Replace a file by one of its kind that carries code; what was done, in words."""
    import io
    import pickle

    import numpy as np
    import torch

    held = {"step": 1, "model": {}, "code": Touch()}
    memory = io.BytesIO()
    kind = "pickle"
    if path.suffix == ".npy":
        np.save(memory, np.array([Touch()], dtype=object), allow_pickle=True)
        kind = "array of objects"
    elif path.suffix == ".pt" and chance.random() < 0.5:
        torch.save(held, memory)
        kind = "PyTorch archive"
    else:
        pickle.dump(held, memory)
    path.write_bytes(memory.getvalue())
    return f"{path.name} replaced by a {kind} that carries code"
