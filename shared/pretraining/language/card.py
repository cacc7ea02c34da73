"""The model card: what the model is, how it was made, what it was measured to do, and ten samples nobody chose."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM

from shared.pretraining.language.corpus import MIXTURE
from shared.pretraining.language.evaluation import STORY_PROMPTS
from shared.pretraining.language.export import sha256
from shared.pretraining.language.recipe import Recipe

# A reader's words on the samples: a person's judgement, so a file of its own and not computed.
REMARKS = Path(__file__).with_name("remarks.md")
_TEMPLATE = Path(__file__).with_name("card_template.md")


def write_card(folder: Path, recipe: Recipe, results: dict, run: dict) -> Path:
    """Write `folder`/README.md from the template, the measurements (`evaluation.evaluate`) and the reader's remarks.

    `run` holds cpu_seconds, wall_seconds, threads, machine and final_loss of the training.
    """
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = folder / "model.safetensors"
    text = _TEMPLATE.read_text(encoding="utf-8").format(
        **recipe.as_dict(),
        parameters=f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}",
        megabytes=f"{weights.stat().st_size / 1e6:.1f}",
        sha256=sha256(weights),
        kinds=", ".join(f"{name} {share:.0%}" for name, share, _ in MIXTURE),
        million_tokens=f"{recipe.steps * recipe.batch_rows * recipe.context / 1e6:.1f}",
        cpu_seconds=f"{run['cpu_seconds']:,.0f}",
        idle_minutes=f"{run['cpu_seconds'] / run['threads'] / 60:.0f}",
        minutes=f"{run['wall_seconds'] / 60:.0f}",
        machine=run["machine"],
        final_loss=f"{run['final_loss']:.3f}",
        table=_table(results),
        openings=len(STORY_PROMPTS),
        variety=_variety(results["variety"]),
        samples=_samples(results["samples"]),
        remarks=REMARKS.read_text(encoding="utf-8").strip(),
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _table(results: dict) -> str:
    entropy, capitals, context = results["entropy"], results["capitals"], results["context"]
    rows = [
        (
            "perplexity per token, fresh documents",
            ", ".join(f"{kind} {value:.1f}" for kind, value in results["perplexity"].items()),
        ),
        (
            "entropy of the next token, first 60 tokens of fresh stories",
            f"mean {entropy['mean']:.2f} nats, median {entropy['median']:.2f}; above 1 nat at {entropy['above_1']:.0%} "
            f"of the places, above 2 nats at {entropy['above_2']:.0%}",
        ),
        (
            "capitals of the countries that it was taught",
            f"as a sentence {capitals['sentence']:.0%}, as a question {capitals['question']:.0%}",
        ),
        ("sentiment of fresh reviews in known words, no example", f"{results['sentiment']:.0%}"),
        (
            "question on a context, invented people and places",
            f"with the context {context['with']:.0%}, without it {context['without']:.0%}",
        ),
        (
            "two classes with invented labels, k examples of each",
            ", ".join(f"k={k}: {value:.0%}" for k, value in results["few_shot"].items()),
        ),
        (
            "stories at temperature 0.8 that break a rule of writing",
            ", ".join(f"{name}: {value:.0%}" for name, value in results["rules"].items()),
        ),
        ("speed, one sequence, one thread, fp32", f"{results['tokens_per_second']:.0f} tokens/s"),
    ]
    return "| measured | result |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _variety(rows: list[dict]) -> str:
    keys = ("temperature", "different_of_20", "distinct_2", "mean_log_prob")
    lines = ["| temperature | different texts of 20 | distinct-2 | mean log-probability |", "|---|---|---|---|"]
    lines += ["| {} | {:.1f} | {:.2f} | {:.2f} |".format(*(row[key] for key in keys)) for row in rows]
    return "\n".join(lines)


def _samples(samples: list[dict]) -> str:
    blocks = []
    for number, sample in enumerate(samples, 1):
        text = f"**{sample['prompt']}**{sample['text']}".rstrip().replace("\n", "\n   > ")
        blocks.append(f"{number}. Seed {sample['seed']}\n\n   > {text}")
    return "\n\n".join(blocks)
