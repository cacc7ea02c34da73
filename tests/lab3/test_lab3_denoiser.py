"""Notebook 0's small U-Net: its embedding of time, its blocks, its sizes, and that it learns to find noise."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "lab3-stable-diffusion"))

from small_unet import ResidualBlock, SmallUNet, sinusoidal_embedding  # noqa: E402

WIDTHS = (8, 16)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SmallUNet(widths=WIDTHS, embedded=16)


@pytest.fixture
def stirred(network):
    """The network with other weights than those it begins with, of which some are zero."""
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    return network


def test_embedding_has_sines_and_cosines_from_the_slowest_to_the_fastest():
    times = torch.tensor([0.0, 0.3])
    found = sinusoidal_embedding(times, width=4, slowest=1.0, fastest=10.0)
    expected = torch.stack([(times).sin(), (10 * times).sin(), times.cos(), (10 * times).cos()], dim=1)
    torch.testing.assert_close(found, expected)


def test_embedding_tells_times_apart_and_all_are_as_long():
    found = sinusoidal_embedding(torch.linspace(0, 1, 200), width=32)
    torch.testing.assert_close(found.norm(dim=1), torch.full((200,), 4.0))
    alike = found @ found.T / 16
    assert (alike.fill_diagonal_(0) < 0.999).all()


def test_embedding_of_odd_width_is_refused():
    with pytest.raises(ValueError, match=r"width \(5\) must be even"):
        sinusoidal_embedding(torch.zeros(1), width=5)


def test_a_new_block_hands_on_what_came_in():
    pictures, amount = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    torch.testing.assert_close(ResidualBlock(8, 8, 16)(pictures, amount), pictures)
    wider = ResidualBlock(8, 16, 16)
    torch.testing.assert_close(wider(pictures, amount), wider.shortcut(pictures))


def test_an_untrained_network_gives_zeros_of_the_pictures_size(network):
    for side in (8, 32):
        pictures = torch.randn(2, 3, side, side)
        assert torch.equal(network(pictures, torch.rand(2)), torch.zeros_like(pictures))


def test_every_picture_gets_its_own_amount_and_no_other_picture_matters(stirred):
    pictures, amounts = torch.randn(3, 3, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    together = stirred(pictures, amounts)
    for number in range(3):
        alone = stirred(pictures[number : number + 1], amounts[number : number + 1])
        torch.testing.assert_close(together[number : number + 1], alone, rtol=1e-4, atol=1e-6)
    assert (stirred(pictures, amounts.flip(0))[0] - together[0]).abs().max() > 1e-4


def test_the_copy_across_keeps_single_pixels(stirred):
    """With the way through the lower level cut, a change of one pixel still shows, and only around it."""
    with torch.no_grad():
        for weights in stirred.grow.parameters():
            weights.zero_()
    for block in [*stirred.down, *stirred.up]:  # a norm over the whole picture would carry the change everywhere
        block.norm1, block.norm2 = torch.nn.Identity(), torch.nn.Identity()
    stirred.norm = torch.nn.Identity()
    pictures, amounts = torch.zeros(1, 3, 32, 32), torch.tensor([0.5])
    dot = pictures.clone()
    dot[:, :, 16, 16] = 1.0
    change = (stirred(dot, amounts) - stirred(pictures, amounts)).abs().sum(1)[0]
    assert change[16, 16] > 0 and change[:8].max() == 0 and change[:, 26:].max() == 0


def test_sizes_that_do_not_fit_are_refused(network):
    with pytest.raises(ValueError, match=r"\(9, 9\) cannot be halved 1 times"):
        network(torch.zeros(1, 3, 9, 9), torch.zeros(1))
    with pytest.raises(ValueError, match="multiples of 8"):
        SmallUNet(widths=(12, 16))


def test_it_learns_to_find_noise(network):
    torch.manual_seed(1)
    pictures = torch.rand(4, 3, 1, 1).expand(4, 3, 8, 8) * 2 - 1  # of one colour each
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        noise, amounts = torch.randn(16, 3, 8, 8), torch.rand(16)
        signal, share = (1 - amounts).sqrt()[:, None, None, None], amounts.sqrt()[:, None, None, None]
        noisy = signal * pictures[torch.randint(4, (16,))] + share * noise
        loss = (network(noisy, amounts) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
