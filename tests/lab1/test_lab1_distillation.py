"""Lab 1's distillation: rows of tokens, half a teacher, and a student that comes nearer to its teacher."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "lab1-llm-inference"))

import distillation  # noqa: E402

TEXTS = ["The cat and the dog ran to the river.", "Once upon a time there was a small blue bird."] * 60


@pytest.fixture
def tokenizer(model_dirs):
    return AutoTokenizer.from_pretrained(model_dirs["llama"])


@pytest.fixture
def teacher(model_dirs):
    return AutoModelForCausalLM.from_pretrained(model_dirs["llama"], dtype=torch.float32).eval()


def test_rows_hold_the_texts_one_after_the_other_with_an_end_after_each(tokenizer):
    rows = distillation.token_rows(tokenizer, iter(TEXTS), rows=3, length=20)
    assert rows.shape == (3, 21)
    text = tokenizer.decode(rows.flatten())
    assert text.startswith(TEXTS[0] + tokenizer.eos_token + TEXTS[1])


def test_too_little_text_is_said(tokenizer):
    with pytest.raises(ValueError, match="2 rows of 101 need 202"):
        distillation.token_rows(tokenizer, TEXTS[:1], rows=2, length=100)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_student_has_every_other_layer_of_the_teacher(model_dirs, architecture):
    teacher = AutoModelForCausalLM.from_pretrained(model_dirs[architecture]).eval()
    student = distillation.half_of(teacher)
    layers, chosen = teacher.model.layers, student.model.layers
    assert len(chosen) == (len(layers) + 1) // 2 == student.config.num_hidden_layers
    for number, layer in enumerate(chosen):
        for name, weight in layer.named_parameters():
            assert torch.equal(weight, layers[2 * number].get_parameter(name).float())
    assert torch.equal(student.get_input_embeddings().weight, teacher.get_input_embeddings().weight.float())


def test_training_a_student_leaves_the_teacher_alone(teacher, tokenizer):
    before = [weight.clone() for weight in teacher.parameters()]
    rows = distillation.token_rows(tokenizer, TEXTS, rows=4, length=16)
    distillation.train(distillation.half_of(teacher), rows, teacher=teacher, batch=2)
    assert all(torch.equal(old, new) for old, new in zip(before, teacher.parameters(), strict=True))


def test_with_a_teacher_the_student_comes_nearer_to_it(teacher, tokenizer):
    rows = distillation.token_rows(tokenizer, TEXTS, rows=48, length=16)

    def distance(student):
        with torch.inference_mode():
            return distillation.soft_loss(student(rows[:, :-1]).logits, teacher(rows[:, :-1]).logits, 1.0).item()

    student = distillation.half_of(teacher)
    before = distance(student)
    distillation.train(student, rows, teacher=teacher, temperature=2.0, batch=4, rate=3e-3)
    assert distance(student) < before


def test_without_a_teacher_the_student_learns_the_text(teacher, tokenizer):
    rows = distillation.token_rows(tokenizer, TEXTS, rows=48, length=16)
    student = distillation.half_of(teacher)
    before = distillation.mean_loss(student, rows)
    distillation.train(student, rows, batch=4, rate=3e-3)
    assert distillation.mean_loss(student, rows) < before


def test_the_soft_loss_is_smallest_at_the_teachers_own_distribution():
    torch.manual_seed(0)
    teacher = torch.randn(2, 3, 7)
    own = distillation.soft_loss(teacher + 5.0, teacher, 2.0)  # a constant changes no distribution
    assert all(own < distillation.soft_loss(teacher + 0.1 * torch.randn(2, 3, 7), teacher, 2.0) for _ in range(5))


def test_the_mean_loss_is_the_librarys(teacher, tokenizer):
    rows = distillation.token_rows(tokenizer, TEXTS, rows=6, length=16)
    with torch.inference_mode():
        expected = teacher(input_ids=rows, labels=rows).loss.item()
    assert distillation.mean_loss(teacher, rows, batch=4) == pytest.approx(expected, rel=1e-4)
