"""Knowledge distillation of a small causal language model, for notebook 4: its data, a student, and the training loop.

The student learns from the teacher's whole distribution over the next token instead of the one token that came (Hinton
et al. 2015, https://arxiv.org/abs/1503.02531), and begins with every other layer of the teacher (as in DistilBERT, Sanh
et al. 2019, https://arxiv.org/abs/1910.01108).
"""

import copy
import sys
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm


def token_rows(tokenizer, texts: Iterable[str], rows: int, length: int) -> Tensor:
    """Texts as token ids, int64 [rows, length + 1]: an end-of-text token after each, cut into rows regardless of texts.

    Raises ValueError when there is too little text.
    """
    needed = rows * (length + 1)
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= needed:
            return torch.tensor(ids[:needed]).view(rows, length + 1)
    raise ValueError(f"the texts have {len(ids)} tokens, but {rows} rows of {length + 1} need {needed}")


def half_of(teacher):
    """A student: the same model with every other layer of `teacher`, as float32 weights of its own."""
    config = copy.deepcopy(teacher.config)
    chosen = range(0, config.num_hidden_layers, 2)
    config.num_hidden_layers = len(chosen)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[number] for number in chosen]
    student = type(teacher)(config).float()
    new_number = {old: new for new, old in enumerate(chosen)}
    weights = {}
    for name, weight in teacher.state_dict().items():
        before, found, after = name.partition(".layers.")
        if found:
            number, rest = after.split(".", 1)
            if int(number) not in new_number:
                continue
            name = f"{before}{found}{new_number[int(number)]}.{rest}"
        weights[name] = weight.float()
    student.load_state_dict(weights)
    return student


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy (float32 scalar) of the student's distributions against the teacher's, both at `temperature`.

    `student`, `teacher`: logits, float [..., vocabulary]. It is multiplied by the temperature's square, so that its
    gradients stay comparable with those of the usual loss.
    """
    targets = (teacher.flatten(0, -2) / temperature).softmax(-1)
    return F.cross_entropy(student.flatten(0, -2) / temperature, targets) * temperature**2


def train(student, rows: Tensor, *, teacher=None, temperature=1.0, batch=8, rate=6e-3, name="") -> None:
    """Train `student` on each of `rows` (int64 [rows, length + 1]) once, with AdamW and a falling rate.

    The target of each token is the teacher's distribution, or without a teacher the token that comes next.
    """
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    steps = len(rows) // batch
    student.train()
    progress = tqdm(range(steps), desc=name, unit="step", mininterval=2, file=sys.stdout)
    for step in progress:
        ids = rows[step * batch : (step + 1) * batch]
        logits = student(input_ids=ids[:, :-1], use_cache=False).logits
        if teacher is None:
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        else:
            with torch.no_grad():
                targets = teacher(input_ids=ids[:, :-1], use_cache=False).logits
            loss = soft_loss(logits, targets, temperature)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10) * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
    student.eval()


@torch.inference_mode()
def mean_loss(model, rows: Tensor, batch: int = 16) -> float:
    """Mean cross-entropy, in nats per token, of each token of `rows` (int64 [rows, length + 1]) but the first."""
    total = 0.0
    for ids in rows.split(batch):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        total += F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
    return total / rows[:, 1:].numel()
