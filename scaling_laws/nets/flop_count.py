"""What a net of one width costs: its parameters N, its multiply-adds M per image, and the FLOP C of its training."""

from nets.convnet import CLASSES


def n_params(width: int) -> int:
    """Weights and biases of one net: (9 + 1) w + (9w + 1) 2w + (98w + 1) 10."""
    return 10 * width + (9 * width + 1) * 2 * width + (98 * width + 1) * CLASSES


def macs_per_image(width: int) -> int:
    """Multiply-adds of one forward pass: per convolution 9 x channels in x channels out x positions, plus the head's.

    Biases, ReLU and pooling are left out, as `torch.utils.flop_counter` does (it counts two per multiply-add).
    """
    return 9 * width * 14 * 14 + 9 * width * 2 * width * 14 * 14 + 98 * width * CLASSES


def training_flops(width: int, n_samples: int) -> int:
    """6 x multiply-adds x samples: two operations per multiply-add; the backward pass costs twice the forward one.

    Kaplan et al. 2020, section 2.1, with the multiply-adds of the convolutions in the place of the parameters.
    """
    return 6 * macs_per_image(width) * n_samples
