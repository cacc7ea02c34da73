"""Command line: `python -m tests.benchmarks [--rounds N] [--only PART ...] [--out FOLDER]`."""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

# Before transformers is imported: nothing here needs the network, and progress bars would tear the output.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

from tests.benchmarks import (  # noqa: E402
    diffusion,
    engines,
    measurements,
    model,
    openvino_engine,
    report,
    serve,
    training,
)
from tests.benchmarks.endpoints import ROOT, LocalSageMaker, local_sagemaker  # noqa: E402

PARTS = (
    *("naive", "serve", "first-token", "tokens", "overhead", "start", "engine", "precision", "openvino", "train"),
    *("images", "unet-share", "unet-precision"),
)
_EMBEDDED = ROOT / "shared" / "models" / "language"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, write them to bench.md and bench.json; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure the speed of Lab 1's and Lab 3's endpoints and of Lab 2's training here. All parts: about "
        "25 minutes.",
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often A and B take turns (default 3)")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="threads of every measured process (default: all; 1 compares more fairly on a busy machine)",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="folder for bench.md and bench.json (default out)"
    )
    options = parser.parse_args(arguments)
    if min(options.rounds, options.threads) < 1:
        parser.error("--rounds and --threads must be at least 1")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    # As after Ctrl-C, so that no server stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    busy = os.getloadavg()[0]
    tables: list[report.Table] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, local_sagemaker(Path(folder) / "state") as server:
        for table in _measure(server, Path(folder), options.rounds, set(options.only), notes):
            print(table.markdown(), flush=True)
            tables.append(table)
    notes.append(
        f"Other work on the machine: load average of the last minute {busy:.1f} before, {os.getloadavg()[0]:.1f} after."
    )
    print("\n".join(notes))
    path = report.write(options.out, f"{measurements.machine()}; {options.rounds} rounds", tables, notes)
    print(f"Written to {path} and {path.with_suffix('.json')}")
    return 0


def _measure(server: LocalSageMaker, folder: Path, rounds: int, parts: set[str], notes: list[str]):
    if "overhead" in parts:
        yield measurements.overhead(server, rounds)
    if "images" in parts:
        yield diffusion.images_per_second(server, diffusion.EMBEDDED, rounds)
    if "unet-share" in parts:
        yield diffusion.share_outside_the_unet(diffusion.EMBEDDED, rounds)
    if "unet-precision" in parts:
        yield diffusion.unet_precision(rounds)
    if parts <= {"overhead", "images", "unet-share", "unet-precision"}:
        return
    weights = model.save_model(folder / "model")
    embedded = (_EMBEDDED / "config.json").is_file()
    what = "the embedded model" if embedded else "the 82M GPT-2: there is no embedded model in shared/models/language"
    small = _EMBEDDED if embedded else weights
    if "start" in parts:
        yield measurements.start(server, small, what, min(rounds, 3))
    if "engine" in parts:
        yield engines.against_the_library(weights, rounds)
    if "precision" in parts:
        yield engines.precision(weights, small, what, rounds)
    if "openvino" in parts:
        if reason := openvino_engine.why_not():
            notes.append(f"Not measured against OpenVINO GenAI: {reason}")
        else:
            yield measurements.against_openvino(server, weights, folder, rounds)
    if "train" in parts:
        yield from training.tables(weights, folder / "training", rounds)
    if parts.isdisjoint({"naive", "serve", "first-token", "tokens"}):
        return
    with contextlib.ExitStack() as stack:
        for name, code in (("ours", measurements.CODE), ("naive", measurements.HANDLERS / "naive.py")):
            server.prepare(name, weights, code)
            server.create_endpoint(name)

        def send(name: str):
            return lambda prompt: server.generate(name, prompt, max_new_tokens=model.NEW_TOKENS)

        for name in ("ours", "naive"):
            send(name)(model.prompts(1)[0])
        if "tokens" in parts:
            yield measurements.same_tokens(server, "ours", weights)
        if "naive" in parts:
            yield measurements.throughput(
                "Against the naive handler on the same server (`generate` behind a lock)",
                send("ours"),
                send("naive"),
                {1: 0.95, 8: 3},
                rounds,
            )
        reference = None
        if parts & {"serve", "first-token"}:
            if reason := serve.why_not():
                notes.append(f"Not measured against transformers serve: {reason}")
            else:
                reference = stack.enter_context(serve.transformers_serve(weights, folder / "serve.log"))
                reference.generate(model.prompts(1)[0], model.NEW_TOKENS)
        if "serve" in parts and reference:
            yield measurements.throughput(
                f"Against `transformers serve {' '.join(serve.OPTIONS)}`",
                send("ours"),
                lambda prompt: reference.generate(prompt, model.NEW_TOKENS),
                {8: 0.9, 16: 0.9},
                rounds,
            )
        if "first-token" in parts:
            yield measurements.first_token(server, "ours", "naive", reference, rounds)


if __name__ == "__main__":
    sys.exit(main())
