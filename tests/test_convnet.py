"""The net: its counts against PyTorch's own, and several nets side by side against each alone."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nets.convnet import ConvNet
from nets.flop_count import macs_per_image, n_params, training_flops

WIDTHS = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45)


@pytest.mark.parametrize("width", WIDTHS)
def test_hand_written_counts_match_pytorch(width):
    net = ConvNet(width)
    assert n_params(width) == sum(parameter.numel() for parameter in net.parameters())
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(3, 1, 28, 28))
    assert counter.get_total_flops() == 2 * macs_per_image(width) * 3


def test_width_4_by_hand():
    # conv1 1->4: 36 + 4; conv2 4->8: 288 + 8; head 8 x 49 -> 10: 3920 + 10
    assert n_params(4) == 40 + 296 + 3930
    # 196 positions x 36, 196 x 288, 3920
    assert macs_per_image(4) == 7056 + 56448 + 3920
    assert training_flops(4, 1000) == 6 * 67424 * 1000


def test_backward_costs_twice_the_forward_but_for_the_image_gradient():
    # training_flops says 3 x forward; PyTorch skips the gradient of the image, one conv1's worth
    width, batch = 8, 5
    net = ConvNet(width)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(batch, 1, 28, 28)).sum().backward()
    conv1 = 2 * 9 * width * 14 * 14 * batch
    assert counter.get_total_flops() == training_flops(width, batch) - conv1


def test_members_are_independent_nets():
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1, 2)]
    together = ConvNet(5, members=3)
    together.init_weights(generators)
    x = torch.randn(7, 3, 28, 28)
    logits = together(x)
    assert logits.shape == (3, 7, 10)
    for k in range(3):
        alone = ConvNet(5)
        alone.init_weights([torch.Generator().manual_seed(k)])
        torch.testing.assert_close(alone(x[:, k : k + 1])[0], logits[k], rtol=1e-5, atol=1e-5)


def test_initial_scale_is_he_et_al():
    net = ConvNet(64)
    net.init_weights([torch.Generator().manual_seed(0)])
    assert net.conv2.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert net.head_weight.std().item() == pytest.approx((1 / (98 * 64)) ** 0.5, rel=0.02)


def test_relu_after_the_pool_is_relu_before_it():
    x = torch.randn(2, 3, 14, 14)
    pool, relu = torch.nn.functional.max_pool2d, torch.relu
    assert torch.equal(relu(pool(x, 2)), pool(relu(x), 2))


def test_dropout_acts_in_training_alone():
    net = ConvNet(3, dropout=0.5)
    net.init_weights([torch.Generator().manual_seed(0)])
    x = torch.randn(4, 1, 28, 28)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
