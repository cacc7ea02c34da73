"""Fine-tuning as the library's example has it: the Trainer in float32, a document a row, padded to the batch's longest.

    python plain_trainer.py MODEL TRAIN.jsonl VALIDATION.jsonl LEARNING_RATE

Prints a line of JSON: tokens of the documents trained on, seconds of the training, loss on held-out text.
"""

import json
import sys
import time
from pathlib import Path

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

sys.path.append(str(Path(__file__).resolve().parents[2] / "lab2-llm-finetuning" / "code"))

from language_metrics import measure  # noqa: E402
from processes import Processes  # noqa: E402
from text_documents import read_documents  # noqa: E402
from token_blocks import pack  # noqa: E402

BLOCK = 256


def main(model_dir: str, train: str, validation: str, learning_rate: str) -> None:
    """Train one epoch in batches of 8 documents, and measure as train.py does."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.pad_token = tokenizer.unk_token
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    documents = [document.text for document in read_documents(Path(train)).documents]
    rows = [tokenizer(text, truncation=True, max_length=BLOCK) for text in documents]
    arguments = TrainingArguments(
        output_dir="out",
        num_train_epochs=1,
        per_device_train_batch_size=8,
        learning_rate=float(learning_rate),
        warmup_steps=2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collator, processing_class=tokenizer
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    blocks = pack(read_documents(Path(validation)).documents, tokenizer, BLOCK, completion_only=False)
    found = measure(model, blocks, 8, False, Processes())
    tokens = sum(len(row["input_ids"]) for row in rows)
    print(json.dumps({"tokens": tokens, "seconds": seconds, "eval_loss": found.eval_loss}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
