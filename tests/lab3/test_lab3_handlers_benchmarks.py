"""The benchmark of Lab 3's endpoint at toy size: that it measures what it says. No speed is tested here."""

from tests.benchmarks import diffusion


def test_requests_differ_in_prompt_and_seed():
    batch = diffusion.requests(8, seed=100)
    assert len({request["prompt"] for request in batch}) == 8 and len({request["seed"] for request in batch}) == 8
    assert batch == diffusion.requests(8, seed=100)


def test_the_unet_is_timed_in_both_precisions():
    table = diffusion.unet_precision(1, pixels=64, channels=(32, 32, 32, 32))
    (row,) = table.rows
    assert "64 px" in table.title and "as the handlers run it" in table.columns[1]
    assert all(float(cell) >= 0 for cell in row[:3])
