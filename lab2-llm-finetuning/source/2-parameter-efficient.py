# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   workshop:
#     minutes: 45
#     track: further
# ---

# %% [markdown]
# # Fine-tune a little of the model
#
# **Lab 2, notebook 2, to go further.** In notebook 1 every weight of the model was free to move. For a model of billions of weights
# that is a lot to hold in memory, to store and to deploy, again for each task. In this notebook you train a few numbers *beside* the
# model instead, measure what that saves and what it costs, and serve several such additions from one endpoint.
#
# When you are done you will be able to
#
# - compute by hand what **LoRA** does to a layer, and say why it begins as nothing;
# - say what its **rank** limits, and check it on the weights of a real fine-tuning;
# - compare full fine-tuning, LoRA and **prompt tuning** by parameters, bytes, time, perplexity and what was forgotten;
# - serve several **adapters** on one endpoint, and mix them in one request;
# - decide when an adapter should be merged into the model.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 45 minutes of reading, 3 of computing | an estimate: the same, and 20 to 30 minutes of waiting for jobs and the endpoint |
# | **cost** | nothing | an estimate: about 2 USD for the jobs and the endpoint |
# | **you need** | this repository, set up by `make jupyter` | a role that may use SageMaker and S3, and quotas of one training instance and one endpoint instance |
#
# You should have done [notebook 1](1-fine-tune.ipynb): training jobs, perplexity, fact coverage and forgetting are not explained again.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # or another name of the table in this lab's README.md
KEEP = False  # True keeps the endpoint when the notebook ends

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view
from shared.workshop import Workshop

workshop = Workshop(lab="2", backend=BACKEND, model=MODEL)
workshop

# %% [markdown]
# ## 1. LoRA by hand, on a 4×4 layer
#
# A linear layer multiplies its input by a matrix: *y = W x*. Fine-tuning adds some change to the matrix, *W + ΔW*, and ΔW has as many
# numbers as W. **LoRA** (low-rank adaptation, [Hu et al. 2021](https://arxiv.org/abs/2106.09685)) leaves W as it is and writes the
# change as a product of two thin matrices, *ΔW = B A*:
#
# <img src="images/lora.svg" alt="The input x goes two ways. Above through the frozen square matrix W. Below through A, a flat matrix of rank times inputs, which leaves a few numbers, and then through B, a narrow matrix of outputs times rank that begins at zero; the result is multiplied by a scaling. Both ways are added to the output y." width="720">
#
# The width of the waist is the **rank**. Here it is 1, so that you can do everything with a pencil. Do it before you run the cell:
# what is *A x*, what is *B (A x)*, and what comes out?

# %%
import torch

W = torch.tensor([[2.0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 2, 0, 1]])
A = torch.tensor([[1.0, 0, 0, 1]])  # 1 x 4: one number out of four
B = torch.tensor([[0.0], [1], [0], [2]])  # 4 x 1: four numbers out of one
x = torch.tensor([1.0, 2, 0, 1])
print("W x           =", (W @ x).tolist())
print("A x           =", (A @ x).tolist())
print("B (A x)       =", (B @ (A @ x)).tolist())
print("W x + B (A x) =", (W @ x + B @ (A @ x)).tolist())

# %% [markdown]
# *A* looks at the input and sums up in one number how much of "its" pattern is there. *B* says what to add to the output for it.
# Neither touches W. But the two can be **merged** into it, and then one matrix does the same in one step:

# %%
merged = W + B @ A
print(merged)
print("(W + B A) x   =", (merged @ x).tolist())

# %% [markdown]
# W has 16 numbers, A and B have 8 together. For a layer of 4,096 inputs and outputs and rank 8 it is 16.8 million against 65,536.
#
# **Where it begins.** B starts as zeros, A with random numbers. So the first output is exactly that of the model: training starts from what
# is known, not from noise. And if both were zero? We take one step of training and look at the gradients, for a random
# wish what the output should be.

# %%
torch.manual_seed(0)
for first_A in (torch.randn(1, 4), torch.zeros(1, 4)):
    thin_A = first_A.requires_grad_()
    thin_B = torch.zeros(4, 1, requires_grad=True)
    loss = ((W @ x + thin_B @ (thin_A @ x) - torch.randn(4)) ** 2).sum()
    loss.backward()
    sizes = thin_A.grad.abs().sum().item(), thin_B.grad.abs().sum().item()
    how = "zero" if not first_A.any() else "random"
    print(f"A starts {how:>6}: gradient of A {sizes[0]:.2f}, of B {sizes[1]:.2f}")

# %% [markdown]
# The gradient of A is multiplied by B, and that of B by A. With one of them zero, the other moves; with both zero neither
# ever does.
#
# **What the rank limits.** A product of rank 1 cannot be any matrix: its rows are all multiples of one row. How much a matrix needs is
# told by its **singular values**: as many as are not zero, so high is its rank, and the large ones are the directions that matter.
# Below, the layer should change by a matrix of rank 2. We train A and B for the ranks 1, 2 and 3, and compare what is missing
# at the end with the best that any matrix of that rank can do (which the singular values tell: the root of the sum of
# squares of those left out).

# %%
first = torch.outer(torch.tensor([1.0, 0, 1, -1]), torch.tensor([1.0, 1, 0, 1]))
second = torch.outer(torch.tensor([0.0, 1, 1, 1]), torch.tensor([1.0, -1, 1, 0]))
wanted = first + 0.5 * second
values = torch.linalg.svdvals(wanted)
print("singular values of the change:", [round(value, 3) + 0 for value in values.tolist()])


# %%
def train_lora(rank, steps=400):
    """A and B of a rank, trained until W + B A does what W + wanted does."""
    torch.manual_seed(1)
    A = torch.nn.Parameter(torch.randn(rank, 4) / 2)
    B = torch.nn.Parameter(torch.zeros(4, rank))
    optimizer = torch.optim.Adam([A, B], lr=0.05)
    for _ in range(steps):
        inputs = torch.randn(32, 4)
        loss = ((inputs @ A.T @ B.T - inputs @ wanted.T) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (B @ A).detach()


rows = []
for rank in (1, 2, 3):
    missing = torch.linalg.norm(wanted - train_lora(rank)).item()
    best = (values[rank:] ** 2).sum().sqrt().item()
    rows.append((rank, rank * 8, f"{missing:.2f}", f"{best:.2f}"))
view.table(rows, columns=["rank", "numbers trained", "missing after training", "best possible"])

# %% [markdown]
# With rank 1 the training finds the more important direction and can do no more. With rank 2 it finds all of it; rank 3 adds nothing but
# numbers. So the question for a real model is: *of what rank is the change that a task needs?* LoRA bets that it is small. Section 4
# looks.

# %% [markdown]
# ## 2. Three ways to train
#
# | | what is trained | what is stored for a task |
# |---|---|---|
# | **full** | every weight | a whole model |
# | **LoRA** | A and B beside each linear layer | an **adapter**: A and B |
# | **prompt tuning** ([Lester et al. 2021](https://arxiv.org/abs/2104.08691)) | some vectors that stand before the prompt, a *soft prompt* | those vectors |
#
# <img src="images/soft-prompt.svg" alt="Four trained vectors stand before the vectors of the prompt's own tokens. All together go into the model, which is frozen, and the answer comes out." width="720">
#
# A prompt of words can steer a model, as you saw in Lab 1. A soft prompt drops the words: its vectors may lie anywhere between and beyond
# those of real tokens, and the gradient finds them. The model itself stays the same to the last bit, as it does with LoRA.
#
# How many numbers is that? The library **peft** of Hugging Face puts the parts into a model and counts. (We build the model without memory for its
# weights, on the device `meta`, so this cell works for a model of any size.)

# %%
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

base_files = workshop.model.channels.get("model", workshop.model.model_id)
config = AutoConfig.from_pretrained(base_files)


def trainable(peft_config=None):
    """Parameters that are trained, and all of the model."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        total = sum(weight.numel() for weight in model.parameters())
        if peft_config is None:
            return total, total
        adapted = get_peft_model(model, peft_config)
    return sum(w.numel() for w in adapted.parameters() if w.requires_grad), total


def lora(rank):
    """LoRA of a rank beside every linear layer but the last."""
    return LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")


soft_prompt = PromptTuningConfig(num_virtual_tokens=20, task_type="CAUSAL_LM")
kinds = {"full": None} | {f"LoRA, rank {r}": lora(r) for r in (1, 8, 32)}
kinds["prompt tuning, 20 vectors"] = soft_prompt
rows = []
for name, peft_config in kinds.items():
    count, total = trainable(peft_config)
    # In 32 bits: each weight, its gradient, and the two averages that Adam keeps of it.
    rows.append((name, f"{count:,}", f"{count / total:.2%}", f"{16 * count / 1e6:.1f} MB"))
view.table(rows, columns=["method", "trained", "share", "memory for training them"])

# %% [markdown]
# For the embedded model even "full" is small. Multiply by two thousand for a model of 7 billion parameters: the last column is then above
# 100 GB in the first row, and that is why most people who fine-tune large models train adapters.
#
# ## 3. The same data, the same steps
#
# Now the same training for each: the products of notebook 1, the same number of steps, the same order of the data. Only the learning rate is each method's
# own, the script's default for it: what is small and begins at zero bears larger steps. Each is a training job of its own. The jobs of other
# runs of this cell are found again, so you can add a line to `METHODS` and run it anew.

# %%
STEPS = 60
METHODS = {
    "full": {"method": "full"},
    "LoRA, rank 1": {"method": "lora", "lora_rank": 1, "adapter_name": "rank-1"},
    "LoRA, rank 8": {"method": "lora", "lora_rank": 8, "adapter_name": "open-door"},
    "LoRA, rank 32": {"method": "lora", "lora_rank": 32, "adapter_name": "rank-32"},
    "prompt tuning": {"method": "prompt", "num_virtual_tokens": 20},
}
if workshop.model.fine_tuning.get("method") == "lora":
    del METHODS["full"]  # a model of this size does not fit for it

# %% [markdown]
# A sixth job trains an adapter of rank 8 on the products of another shop, Grumble & Sons, for section 6. It sells the same kinds of things and describes
# them in quite another voice:

# %%
import json
from pathlib import Path

from products import read_products

SHOPS = {"The Open Door": "data/products/train.jsonl", "Grumble": "data/other_shop/train.jsonl"}
OTHER = {"Grumble": {"method": "lora", "lora_rank": 8, "adapter_name": "grumble"}}
for path in SHOPS.values():
    print(read_products(path)[2]["text"], "\n")

# %% [markdown]
# What was forgotten is asked as in notebook 1, here with every second question, to save time. Each job gets its channels, and two of them run at a
# time on your own machine (one on AWS, which needs a quota of one instance only). `keep_alive_period_in_seconds` lets the instance of an ended job wait for
# the next one, a **warm pool**: the next job starts within seconds. On AWS a pool is paid for while it waits, and needs a quota of its own
# ("for training warm pool usage"); if you have it, set `KEEP_WARM` there too, and save some minutes for each job.

# %%
questions = Path("data/forgetting/prompts.jsonl").read_text(encoding="utf-8").splitlines()[::2]
forgetting = Path("out/forgetting/questions.jsonl")
forgetting.parent.mkdir(parents=True, exist_ok=True)
forgetting.write_text("\n".join(questions) + "\n", encoding="utf-8")
questions = [json.loads(line) for line in questions]
channels = {
    "validation": "data/products/validation.jsonl",
    "forgetting": str(forgetting),
    **{name: str(path) for name, path in workshop.model.channels.items()},
}

# %%
from sagemaker.core.resources import TrainingJob
from sagemaker.core.shapes import MetricDefinition
from sagemaker.core.training.configs import Compute, InputData, OutputDataConfig, SourceCode
from sagemaker.train import ModelTrainer

at_once, KEEP_WARM = (2, 600) if workshop.backend == "local" else (1, 0)
metric_names = ["train_loss", "eval_loss", "perplexity", "forgetting_accuracy"]


def start(name, settings):
    """A training job with these settings: the one that is there already, or a new one."""
    train = SHOPS.get(name, SHOPS["The Open Door"])
    hyperparameters = {"max_steps": STEPS, "seed": 1} | workshop.model.fine_tuning | settings
    job_name = workshop.name("job", hyperparameters, train)
    if job := workshop.existing(TrainingJob, job_name):
        return job
    trainer = ModelTrainer(
        training_image=workshop.model.training_image_uri(workshop.region),
        source_code=SourceCode(source_dir="code", entry_script="train.py"),
        compute=Compute(
            instance_type=workshop.model.training_instance_type,
            instance_count=1,
            volume_size_in_gb=30,
            keep_alive_period_in_seconds=KEEP_WARM or None,
        ),
        hyperparameters=hyperparameters,
        environment={"OMP_NUM_THREADS": "1"} if at_once > 1 else {},  # a processor core for each
        output_data_config=OutputDataConfig(s3_output_path=workshop.s3_uri("jobs")),
        base_job_name=job_name,
        role=workshop.role,
        sagemaker_session=workshop.session,
        tags=workshop.tags,
    ).with_metric_definitions(
        [MetricDefinition(name=n, regex=f"{n}=([0-9.eE+-]+)") for n in metric_names]
    )
    inputs = {"train": train} | channels
    trainer.train(
        input_data_config=[InputData(channel_name=n, data_source=d) for n, d in inputs.items()],
        wait=False,
    )
    return trainer._latest_training_job


# %%
import time


def run(wanted):
    """Train one job for each entry, `at_once` at a time; the jobs by name."""
    waiting, running, ended = list(wanted), {}, {}
    while waiting or running:
        while waiting and len(running) < at_once:
            name = waiting.pop(0)
            running[name] = start(name, wanted[name])
        time.sleep(0.5 if workshop.backend == "local" else 10)
        for name, job in list(running.items()):
            job.refresh()
            if job.training_job_status in ("InProgress", "Stopping"):
                continue
            if job.training_job_status != "Completed":
                workshop.watch(job, chart=None)  # says why, and raises
            ended[name] = running.pop(name)
            print(f"{name}: {job.training_job_status}")
    return {name: ended[name] for name in wanted}


jobs = run(METHODS | OTHER)

# %% [markdown]
# Each job left its numbers in `metrics.json`, in the archive `output.tar.gz` beside the model's. We read them without writing them to disk.

# %%
import tarfile
from io import BytesIO


def open_archive(job, name="model.tar.gz"):
    """An archive that the job wrote, as an open tar file."""
    url = job.model_artifacts.s3_model_artifacts.replace("model.tar.gz", name)
    bucket, key = url.removeprefix("s3://").split("/", 1)
    content = workshop.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    return tarfile.open(fileobj=BytesIO(content))


results = {}
for name in METHODS:
    with open_archive(jobs[name], "output.tar.gz") as files:
        results[name] = json.load(files.extractfile("metrics.json"))
first = next(iter(results.values()))
before = {"perplexity": first["before"]["perplexity"]}
before["remembered"] = first["forgetting"]["before"]["accuracy"]
rows = [("base model", "", "", "", f"{before['perplexity']:.1f}", f"{before['remembered']:.0%}")]
for name, result in results.items():
    training = result["training"]
    sizes = f"{training['trainable_parameters']:,}", f"{training['bytes_saved']:,}"
    seconds = f"{training['training_seconds']:.0f}"
    quality = f"{result['after']['perplexity']:.2f}"
    remembered = f"{result['forgetting']['after']['accuracy']:.0%}"
    rows.append((name, *sizes, seconds, quality, remembered))
columns = ["method", "parameters trained", "bytes", "seconds", "perplexity", "old tasks right"]
view.table(rows, columns=columns)

# %%
from matplotlib import pyplot

view.style()
figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.9), constrained_layout=True)
colours = {"full": view.COLOURS[0], "LoRA": view.COLOURS[1], "prompt": view.COLOURS[2]}
markers = {"full": "s", "LoRA": "o", "prompt": "^"}
described = []
for name, result in results.items():
    kind = next(kind for kind in colours if name.startswith(kind))
    count = result["training"]["trainable_parameters"]
    values = result["after"]["perplexity"], 100 * result["forgetting"]["after"]["accuracy"]
    described.append(f"{name}: {count:,} trained, perplexity {values[0]:.2f}, {values[1]:.0f}%")
    for axis, value in zip(axes, values):
        axis.plot(count, value, markers[kind], color=colours[kind], markersize=9)
        label = name.removeprefix("LoRA, ")
        axis.annotate(
            label, (count, value), textcoords="offset points", xytext=(0, 9), ha="center"
        )
for axis, value, title in zip(
    axes,
    (before["perplexity"], 100 * before["remembered"]),
    ("Perplexity on the shop's texts", "Old tasks right, %"),
):
    axis.axhline(value, color="#7a8794", linestyle="--", label="base model")
    axis.set(xscale="log", xlabel="parameters trained", title=title)
    axis.margins(x=0.22)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(axis="y")
axes[0].set(yscale="log", ylim=(0.8, 2 * before["perplexity"]))
axes[0].yaxis.set_major_formatter("{x:,.0f}")
axes[1].set(ylim=(-5, 112))
axes[0].legend()
words = "; ".join(described)
view.show(figure, alt=f"Perplexity and old tasks right, over the parameters trained. {words}.")

# %% [markdown]
# Read it from left to right.
#
# - **Prompt tuning** trains least and learns least here. A soft prompt can only ask the frozen model for what it can do already, in another way.
#   Lester et al. found the same: it catches up with full fine-tuning only in models of some ten billion parameters, which can do
#   almost anything when asked rightly.
# - **LoRA** comes near to full fine-tuning with a fraction of the numbers, and a higher rank buys less each time.
# - **The old tasks** suffer from every training that changes what the model computes, and the higher the rank, the more. (Full forgets more than in notebook 1 although it has fewer steps: the script's learning rate for it is twice the one that you set there.) That the weights
#   are frozen does not mean that nothing is forgotten: what counts is the model *with* its adapter. Even a soft prompt does harm: twenty vectors such as the model
#   has never read stand before every question now. But an adapter can be left away again (section 6); full fine-tuning cannot.
# - **Seconds** (of the training steps only): LoRA saves memory and bytes, and here no time. The signal still goes forward through the whole model and
#   back again; only the gradients of the frozen weights are not computed. Two jobs shared your machine, so read this column roughly.
#
# One run for each method is one draw: with another seed the points move a little. Differences as small as that between neighbours prove nothing;
# the order of magnitude of the steps between the groups does.
#
# ## 4. Of what rank is a real change?
#
# The bet of section 1, checked. Full fine-tuning was free to use any rank. We take what it made of each matrix, subtract what was there before,
# and keep only the r largest singular values of the difference. How good is the model with that much of its change?

# %%
from transformers import AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()
tokenizer = AutoTokenizer.from_pretrained(base_files)
validation = read_products("data/products/validation.jsonl")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token


@torch.inference_mode()
def perplexity(model, rows):
    """Perplexity of the descriptions in `rows`, each after its facts."""
    texts = [row["text"] for row in rows]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    for label, row in zip(labels, rows):
        label[: len(tokenizer(row["prompt"]).input_ids)] = -100  # what is given does not count
    loss = model(batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
    return loss.exp().item()


# %%
if "full" in jobs:
    with open_archive(jobs["full"]) as files:
        files.extractall("out/full", filter="data")
    tuned = AutoModelForCausalLM.from_pretrained("out/full", dtype=torch.float32).eval()
    model = AutoModelForCausalLM.from_pretrained(base_files, dtype=torch.float32).eval()
    base = {name: weight.clone() for name, weight in model.state_dict().items()}
    changes = {n: w - base[n] for n, w in tuned.state_dict().items() if "_proj" in n}
    factors = {n: torch.linalg.svd(change, full_matrices=False) for n, change in changes.items()}
    largest = max(changes.values(), key=torch.linalg.norm)
    print(f"{len(changes)} matrices, the smaller side of each is {min(largest.shape)}")

# %%
curve = []
if "full" in jobs:
    for rank in (0, 1, 2, 4, 8, 16, 32, min(largest.shape)):
        kept = {n: (U[:, :rank] * s[:rank]) @ V[:rank] for n, (U, s, V) in factors.items()}
        rest = {n: w for n, w in tuned.state_dict().items() if n not in changes}
        model.load_state_dict(rest | {n: base[n] + change for n, change in kept.items()})
        shares = [(s[:rank] ** 2).sum() / (s**2).sum() for _, s, _ in factors.values()]
        share = torch.stack(shares).mean().item()
        curve.append((rank, f"{share:.0%}", f"{perplexity(model, validation[:40]):.2f}"))
view.table(curve, columns=["rank kept", "of the squared change", "perplexity of 40 texts"])

# %% [markdown]
# (Rank 0 is not the base model: embedding and norms keep their change, only the matrices have lost theirs. And the last line is lower than the figure in section
# 3, because the script cuts its text into rows of equal length, so that some descriptions are read without their facts.)
#
# Compare the two columns. By size, the change is spread over many directions: the first few have a small part of it. By what it does, they matter
# most: each of the first ones brings the perplexity down by large factors, and with a sixth of all directions (32 of 192) it is near its end. That is LoRA's bet,
# and here it wins. It wins by more than this table says: an adapter of rank 8 was *trained* to do with 8 directions, and in section 3 it did
# better than a full change that was cut down to 8 afterwards.
#
# ## 5. Merge an adapter
#
# Section 1 did it by hand: *W + B A* is one matrix again. For the real model, peft does it in one call. Is the merged model the same?

# %%
from peft import PeftModel

with open_archive(jobs["LoRA, rank 8"]) as files:
    files.extractall("out/adapted", filter="data")
adapter_folder = Path("out/adapted/adapters/open-door")
base_model = AutoModelForCausalLM.from_pretrained("out/adapted", dtype=torch.float32).eval()
adapted = PeftModel.from_pretrained(base_model, adapter_folder).eval()
ids = torch.tensor([tokenizer(validation[0]["text"]).input_ids])
with torch.inference_mode():
    beside = adapted(ids).logits
    merged_model = adapted.merge_and_unload()
    difference = (merged_model(ids).logits - beside).abs().max().item()
size = sum(path.stat().st_size for path in adapter_folder.iterdir())
print(f"largest difference of a logit: {difference:.0e}, logits go up to {beside.abs().max():.0f}")
print(f"adapter: {size:,} bytes; merged: {sum(w.nbytes for w in merged_model.parameters()):,}")

# %% [markdown]
# The same, up to rounding. **Merge** when one endpoint serves one task: no extra work for any token, and every server can load it (train.py does it with
# `merge_adapters="true"`). **Keep apart** when there are many tasks, or when you want to be able to leave the adapter away.
#
# What many tasks mean for storage, for a model of 7 billion parameters in 16 bits and adapters of rank 16 on all linear layers:

# %%
hidden, inner, layers = 4096, 11008, 32  # Llama 2 7B
shapes = [(hidden, hidden)] * 4 + [(inner, hidden)] * 2 + [(hidden, inner)]
adapter_bytes = 2 * layers * sum(16 * (outputs + inputs) for outputs, inputs in shapes)
model_bytes = 2 * 6.74e9
customers = 1000
print(f"one model: {model_bytes / 1e9:.1f} GB, one adapter: {adapter_bytes / 1e6:.0f} MB")
print(f"{customers:,} tuned models: {customers * model_bytes / 1e12:.1f} TB")
apart = model_bytes + customers * adapter_bytes
print(f"one model and {customers:,} adapters: {apart / 1e9:.0f} GB")

# %% [markdown]
# ## 6. Several adapters on one endpoint
#
# <img src="images/adapters.svg" alt="Three requests come to one endpoint: one for the adapter open-door, one for grumble, one without adapter. They form one batch; the base model is read once for all rows, and beside each layer every row gets the addition of its own adapter. The answers: Come in and look; Oh, it is you; and what the base model always wrote." width="780">
#
# The archive of each LoRA job holds the base model, and its adapter in `adapters/NAME/`. We take the folder from above and put the other adapters beside
# the first.

# %%
import shutil

from shared.packaging import make_archive, upload

for name, settings in (METHODS | OTHER).items():
    if settings["method"] == "lora":
        with open_archive(jobs[name]) as files:
            files.extractall("out/one", filter="data")
        shutil.copytree("out/one/adapters", "out/adapted/adapters", dirs_exist_ok=True)
        shutil.rmtree("out/one")
shutil.rmtree("out/adapted/code", ignore_errors=True)  # this folder's own code/ goes in
archive = make_archive("out/adapters.tar.gz", weights="out/adapted", code="code")
view.table(
    [(name, f"{size:,}") for name, size in archive.members if "safetensors" in name],
    columns=["file", "bytes"],
)

# %%
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

container = workshop.tuned_container(jobs["LoRA, rank 8"])
container["model_data_url"] = upload(archive, workshop.s3_uri("model"))
model_name = workshop.name("model", container)
workshop.existing(Model, model_name) or Model.create(
    model_name=model_name,
    primary_container=ContainerDefinition(**container),
    execution_role_arn=workshop.role,
    tags=workshop.tags,
)
variant = ProductionVariant(
    variant_name="AllTraffic",
    model_name=model_name,
    instance_type=workshop.model.instance_type,
    initial_instance_count=1,
    **workshop.model.variant_options,
)
config_name = workshop.name("config", model_name, workshop.model.instance_type)
workshop.existing(EndpointConfig, config_name) or EndpointConfig.create(
    endpoint_config_name=config_name, production_variants=[variant], tags=workshop.tags
)
endpoint_name = workshop.name("endpoint", "adapters")
endpoint = workshop.existing(
    Endpoint, endpoint_name, endpoint_config_name=config_name
) or Endpoint.create(
    endpoint_name=endpoint_name, endpoint_config_name=config_name, tags=workshop.tags
)
workshop.watch(endpoint)

# %% [markdown]
# A request says which adapter it wants in the field `adapters`, as for the LMI image: one name for all prompts, or a list with one for each. An empty name
# is the model without any. The same product, three times in one request:

# %%
runtime = workshop.client("sagemaker-runtime")


def ask(prompts, adapters="", **parameters):
    """The texts that follow the prompts, greedily, up to the end of the line."""
    parameters = {"max_new_tokens": 80, "stop": ["\n"], "do_sample": False} | parameters
    body = {"inputs": prompts, "adapters": adapters, "parameters": parameters}
    response = runtime.invoke_endpoint(
        EndpointName=endpoint_name, ContentType="application/json", Body=json.dumps(body)
    )
    return [answer["generated_text"] for answer in json.loads(response["Body"].read())]


product = read_products("data/products/test.jsonl")[0]
names = ["", "open-door", "grumble"]
texts = ask([product["prompt"]] * 3, names)
print(product["prompt"])
view.completions(
    {"label": name or "no adapter", "text": text} for name, text in zip(names, texts)
)

# %% [markdown]
# One model in memory, three writers. And an adapter that is not there is an error of the caller's, not a silent answer of the base model:

# %%
try:
    ask([product["prompt"]], "grumbel")
except runtime.exceptions.ModelError as error:
    answer = json.loads(error.response["OriginalMessage"])
    print(error.response["OriginalStatusCode"], answer["message"])

# %% [markdown]
# Now all adapters of the rank sweep describe products that none of them has seen, with the checks of notebook 1: the share of given facts that are in the
# text, facts made up, and whether all four habits of the shop are kept. Behind each request stand prompts for several adapters: they are computed
# together.

# %%
from products import OPEN_DOOR, check_facts, check_voice, coverage

test = read_products("data/products/test.jsonl")[:40]
names = ["", "rank-1", "open-door", "rank-32", "grumble"]
written = {name: [] for name in names}
for row in range(0, len(test), 6):
    some = [(product, name) for product in test[row : row + 6] for name in names]
    answers = ask([product["prompt"] for product, _ in some], [name for _, name in some])
    for (_, name), text in zip(some, answers):
        written[name].append(text)
rows = []
for name, texts in written.items():
    checks = [check_facts(text, product["facts"]) for text, product in zip(texts, test)]
    invented = sum(len(check.invented) for check in checks) / len(checks)
    habits = sum(all(check_voice(text, OPEN_DOOR).values()) for text in texts) / len(texts)
    shares = f"{coverage(checks):.0%}", f"{invented:.2f}", f"{habits:.0%}"
    rows.append((name or "no adapter", *shares))
view.table(
    rows, columns=["adapter", "facts told", "made up, per text", "in the voice of The Open Door"]
)

# %% [markdown]
# Grumble & Sons tell the facts, too, but not in that voice. Perplexity in section 3 and facts here need not agree on every step: perplexity looks at each
# token's probability, the check at what is finally written.
#
# **Nothing is forgotten for good.** The old tasks, with the adapter and without it, on the same endpoint:

# %%
def remembered(adapter):
    """The share of old tasks that are answered rightly with this adapter."""
    right = 0
    for first in range(0, len(questions), 20):
        some = questions[first : first + 20]
        answers = ask([q["prompt"] for q in some], adapter, max_new_tokens=12)
        for question, text in zip(some, answers):
            right += text.split(".")[0].strip() == question["answer"].strip()
    return right / len(questions)


for adapter in ("", "open-door", "grumble"):
    print(f"{adapter or 'no adapter':<11} {remembered(adapter):.0%}")

# %% [markdown]
# **What does it cost?** Sixteen prompts in one request: for the base model, for one adapter, and for two mixed.

# %%
prompts = [product["prompt"] for product in test[:16]]
cases = {
    "no adapter": "",
    "one adapter": "open-door",
    "two adapters, mixed": ["open-door", "grumble"] * 8,
}
taken = {name: [] for name in cases}
for _ in range(5):  # in turns, so that what else the machine does hits all alike
    for name, adapters in cases.items():
        begin = time.perf_counter()
        ask(prompts, adapters, max_new_tokens=30, stop=[])
        taken[name].append(time.perf_counter() - begin)
rows = [(name, f"{1000 * sorted(times)[2] / 30:.1f}") for name, times in taken.items()]
view.table(rows, columns=["16 prompts at once", "ms for each step of 16 tokens"])

# %% [markdown]
# The endpoint puts the A of all adapters in the batch one below the other and their B side by side, so that two thin products serve all rows, and
# sets to zero between them what is not of a row's own adapter ([code/lora_adapters.py](code/lora_adapters.py)). In this small model that is much of a step, and hardly more for two adapters
# than for one; for a large model it is small beside its own matrices. Deploying two tuned models instead would need twice the memory,
# and neither could fill the other's batch.
#
# (On AWS, the Hugging Face image hands over one request at a time: adapters mix within a request there. LMI and vLLM mix those of different requests.)
#
# ## 7. Which one, then?
#
# | if | then |
# |---|---|
# | the model is small, or the new domain is far from everything that it knows | full fine-tuning |
# | the model is large, the task is a style, a format or a skill | LoRA; rank 8 to 64, on all linear layers |
# | many customers or tasks on one model | LoRA, adapters kept apart |
# | one task, every millisecond counts | LoRA, merged |
# | the memory for the frozen weights is too much, too | *QLoRA*: the frozen weights in 4 bits, the adapter in 16 ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314)) |
# | the model is very large, and you may store next to nothing | prompt tuning |
#
# ## 8. Clean up

# %%
if KEEP:
    print("Kept, and on AWS still costing money:", endpoint_name)
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - LoRA adds *B A* to a frozen matrix. B begins at zero, so training begins at the model itself; the rank says how many directions the change may have.
# - What full fine-tuning changes is large in many directions and matters in few. That is why small ranks suffice.
# - Adapters save memory in training and bytes in storage, but hardly any time. Prompt tuning saves most and needs a large model.
# - With an adapter on, old tasks suffer too, the more the higher its rank; switched off, the model is what it was.
# - One endpoint can serve many adapters, in one batch.
#
# **Check yourself** (answers in [solutions/2-parameter-efficient.md](solutions/2-parameter-efficient.md)):
#
# 1. A layer has 1,000 inputs and 4,000 outputs. How many numbers has an adapter of rank 4? From which rank on has it more numbers than the layer?
# 2. Why is B zero at the start and not A? Would it also work the other way round?
# 3. Two adapters were trained for the same model, one for legal texts, one for French. A colleague merges both into the weights, one after the
#    other, and expects French legal texts. What do you say?
# 4. Your provider charges by the second of training. What does LoRA save you, compared with full fine-tuning?
# 5. An adapter for `base-v1` is put beside the weights of `base-v2`, which has the same shapes. Will the endpoint notice?
#
# **Try it:** the line `"LoRA, rank 8, attention only": {"method": "lora", "lora_rank": 8, "lora_target_modules": "q_proj,v_proj", "adapter_name": "attention"}`
# in `METHODS`: this is what the first LoRA paper did. Guess before you run it where its points will lie. And: does twice the number of steps
# (`STEPS = 120`) close the gap between rank 1 and rank 8?
#
# **Larger models.** Set `MODEL` to one of the instruct models of the [README](README.md). Full fine-tuning drops out for lack of memory, and prompt
# tuning becomes worth a second look.
#
# **Next:** [3-preferences](3-preferences.ipynb) teaches a model what people like better.
