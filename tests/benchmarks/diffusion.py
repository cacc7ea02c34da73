"""Lab 3's endpoint: pictures per second against a plain pipeline, what is not the UNet, and bfloat16 on this CPU."""

import sys
import time
from pathlib import Path
from statistics import median

from tests.benchmarks import load
from tests.benchmarks.endpoints import ROOT, LocalSageMaker
from tests.benchmarks.report import Table

CODE = ROOT / "lab3-stable-diffusion" / "code"
EMBEDDED = ROOT / "shared" / "models" / "diffusion"
_PLAIN = Path(__file__).with_name("handlers") / "plain_pipeline.py"
_WANTED = {1: 1.0, 4: 1.5, 8: 1.7}
# Requests per client and round: about equal seconds for each number of clients.
_REQUESTS = {1: 6, 4: 2, 8: 1}
_SETTINGS = {"guidance_scale": 2.0, "num_inference_steps": 20}


def requests(count: int, seed: int) -> list[dict]:
    """Requests for one picture each, all with other prompts and seeds."""
    colours, shapes = ("red", "green", "blue", "yellow", "purple"), ("circle", "square", "triangle", "ring")
    return [
        {"prompt": f"a {colours[number % 5]} {shapes[number % 4]} on a white background", "seed": seed + number}
        | _SETTINGS
        for number in range(count)
    ]


def images_per_second(server: LocalSageMaker, weights: Path, rounds: int) -> Table:
    """The endpoint against one on the same server that calls the pipeline once per request, behind a lock."""
    table = Table(
        "Pictures per second, the endpoint against a plain pipeline call per request, 20 steps (the embedded model)",
        ["clients", "endpoint", "plain pipeline", "ratio", "wanted"],
    )
    names = {"images-ours": CODE, "images-plain": _PLAIN}
    for name, code in names.items():
        server.prepare(name, weights, code)
        server.create_endpoint(name)
        server.invoke(name, requests(1, 0)[0])
    for clients, wanted in _WANTED.items():
        speeds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            batch = requests(clients * _REQUESTS[clients], seed=1000 * clients + 100 * turn)
            for name in names if turn % 2 == 0 else reversed(names):
                speed = load.requests_per_second(
                    lambda request, name=name: server.invoke(name, request), batch, clients
                )
                speeds[name].append(speed)
        ratio = median(a / b for a, b in zip(*speeds.values(), strict=True))
        table.add(clients, *(f"{median(found):.2f}" for found in speeds.values()), f"{ratio:.2f}", f"{wanted}")
    for name in names:
        server.sagemaker.delete_endpoint(EndpointName=name)
    return table


def share_outside_the_unet(weights: Path, rounds: int) -> Table:
    """What of a request's time, from decoded JSON to JSON, is not spent in the UNet; no server in between."""
    import torch
    from diffusers import StableDiffusionPipeline

    sys.path.insert(0, str(CODE))
    import inference

    service = inference.model_fn(str(weights))
    plain = StableDiffusionPipeline.from_pretrained(weights, torch_dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)

    def ours(request: dict) -> None:
        inference.output_fn(inference.predict_fn(request, service), "application/json")

    def library(request: dict) -> None:
        generator = torch.Generator().manual_seed(request["seed"])
        plain(request["prompt"], generator=generator, **_SETTINGS)

    table = Table(
        "One request at a time, ms, and the share of it outside the UNet (the embedded model)",
        ["", "UNet", "in all", "share outside", "wanted"],
    )
    calls = {
        "the handlers": (ours, service.engine._sampler.pipeline.unet, "15% at most"),
        "a plain pipeline call": (library, plain.unet, ""),
    }
    clocks = {name: _Clock(unet) for name, (_, unet, _) in calls.items()}
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn, request in enumerate(requests(4 * rounds + 1, seed=1)):
        for name, (call, _, _) in calls.items():
            clocks[name].seconds = 0.0
            start = time.perf_counter()
            call(request)
            if turn:  # the first one is slower
                measured[name].append((clocks[name].seconds, time.perf_counter() - start))
    service.engine.close()
    for name, (_, _, wanted) in calls.items():
        unet, whole = (1000 * median(column) for column in zip(*measured[name], strict=True))
        share = median(1 - inside / total for inside, total in measured[name])
        table.add(name, f"{unet:.0f}", f"{whole:.0f}", f"{100 * share:.1f}%", wanted)
    return table


class _Clock:
    """Adds up the seconds spent in a module's forward passes."""

    def __init__(self, module):
        self.seconds, self._start = 0.0, 0.0
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def _begin(self, *_) -> None:
        self._start = time.perf_counter()

    def _end(self, *_) -> None:
        self.seconds += time.perf_counter() - self._start


def unet_precision(rounds: int, pixels: int = 256, channels: tuple[int, ...] = (320, 640, 1280, 1280)) -> Table:
    """A UNet in the shape of Stable Diffusion 1.5: plain float32 against bfloat16 as the handlers arrange it.

    Args:
        pixels: side of the picture; latents are an eighth.
        channels: of the UNet's levels.
    """
    import torch
    from diffusers import UNet2DConditionModel

    sys.path.insert(0, str(CODE))
    from pipeline_loading import arrange, choose_dtype

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=channels, cross_attention_dim=768, attention_head_dim=8
        )
    unet = unet.to_empty(device="cpu").eval().requires_grad_(False)
    for parameter in unet.parameters():
        parameter.fill_(1e-3)  # how fast it is does not depend on the numbers, and random ones take a while

    def seconds(times: int) -> float:
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(2, 4, pixels // 8, pixels // 8, generator=generator).to(unet.dtype)
        text = torch.randn(2, 77, 768, generator=generator).to(unet.dtype)
        timesteps = torch.full((2,), 500)

        def call() -> None:
            with torch.inference_mode():
                unet(latents, timesteps, encoder_hidden_states=text, return_dict=False)

        call()
        return load.median_seconds(call, times)

    chosen = choose_dtype("auto", torch.device("cpu"))
    table = Table(
        f"A UNet in the shape of Stable Diffusion 1.5, {pixels} px, guided, one step on this CPU",
        ["plain float32, s", f"as the handlers run it ({str(chosen).removeprefix('torch.')}), s", "ratio", "wanted"],
    )
    # One after the other: both at once would be 5 GB.
    full = seconds(rounds)
    unet = unet.to(chosen)
    arrange(unet, torch.device("cpu"))
    half = seconds(rounds)
    table.add(f"{full:.2f}", f"{half:.2f}", f"{full / half:.2f}", "2.2 where the processor has bfloat16")
    return table
