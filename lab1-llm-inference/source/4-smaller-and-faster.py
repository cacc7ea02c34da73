# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   workshop:
#     minutes: 50
#     track: further
# ---

# %% [markdown]
# # Smaller and faster
#
# **Lab 1, notebook 4, to go further.** A model that answers well can still be too large for the GPU that you can pay, or too
# slow for the people who wait. This notebook takes the techniques that change that, one at a time, and measures for each what it
# gives and what it costs.
#
# When you are done you will be able to
#
# - say what one token costs a computer, and why;
# - explain the **KV cache**, and compute the memory that it needs;
# - store a model in fewer bits (**quantization**), and find the place where quality breaks;
# - train a small model to imitate a large one (**distillation**), and say what the teacher was worth;
# - read a latency–throughput curve, and explain **continuous batching** with it;
# - work out on which GPUs a model of 7 or 70 billion parameters fits, and write the settings of the container that serves it.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 50 minutes of reading, 2 of computing | an estimate: the same, and 10 minutes of waiting for the endpoint |
# | **cost** | nothing | up to five rented computers while the endpoint exists: about 0.6 USD for half an hour |
# | **you need** | this repository, set up by `make jupyter` | a role that may use SageMaker and S3, and a quota of five instances (section 6: or fewer) |
#
# You should have done [notebook 1](1-deploy-an-llm.ipynb): prompts, tokens and endpoints are not explained again.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # or another name of the table in this lab's README.md
KEEP = False  # True keeps the endpoint when the notebook ends

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view
from shared.workshop import Workshop

workshop = Workshop(lab="1", backend=BACKEND, model=MODEL)
workshop

# %% [markdown]
# Two kinds of measurement follow. Where we open a model up, change its weights or train it, we always use the **embedded model**,
# in this notebook's own process, whatever `MODEL` says. Where we measure an endpoint (sections 6 and 7), it is the `MODEL` above. Each
# section says which.
#
# ## 1. What one token costs
#
# To produce one token, the computer multiplies the token's vector by every matrix of the model. So it must *read every weight
# from memory*, once for each token. Here is the embedded model, and what that means for it.

# %%
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from shared.catalogue import EMBEDDED_FOLDER

logging.disable_progress_bar()
logging.set_verbosity_error()
tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)
embedded = AutoModelForCausalLM.from_pretrained(EMBEDDED_FOLDER, dtype=torch.float32).eval()
embedded.requires_grad_(False)
weights = sum(weight.numel() for weight in embedded.parameters())
print(f"{weights:,} weights: {weights * 4 / 1e6:.1f} MB in float32, read once for each token")

# %% [markdown]
# A few megabytes are read in no time, and for so small a model other things take longer (section 2 measures them). A model of 7
# billion parameters is another matter. We take one of its matrices, about one percent of such a model, and time one
# multiplication, for one token and for several at once, in three number formats. (`pack_linear_layers` is what this lab's
# endpoint does with its layers, see [code/packed_linear.py](code/packed_linear.py).)

# %%
from statistics import median
from time import perf_counter

sys.path.insert(0, "code")
from packed_linear import pack_linear_layers


def seconds(work, *inputs, times=7, **named):
    """The median time of one call with these inputs, after a first call that does not count."""
    taken = []
    for _ in range(times + 1):
        start = perf_counter()
        work(*inputs, **named)
        taken.append(perf_counter() - start)
    return median(taken[1:])


def big_layer(dtype):
    """A 4096 x 14336 matrix, as in Mistral 7B, ready to multiply in `dtype`; and its bytes."""
    float_type = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    layer = torch.nn.Sequential(torch.nn.Linear(4096, 14336, bias=False, dtype=float_type))
    pack_linear_layers(layer.requires_grad_(False), int8=dtype == "int8")
    return layer, 4096 * 14336 * {"float32": 4, "bfloat16": 2, "int8": 1}[dtype]


# %%
tokens_at_once = [1, 2, 4, 8, 16, 32]
rows, read_per_second = [], {}
for dtype in ("float32", "bfloat16", "int8"):
    layer, size = big_layer(dtype)
    inputs = torch.randn(32, 4096).to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    with torch.inference_mode():
        times = [seconds(layer, inputs[:n]) for n in tokens_at_once]
    read_per_second[dtype] = size / times[0]
    speed = f"{read_per_second[dtype] / 1e9:.0f}"
    rows.append((dtype, f"{size / 1e6:.0f} MB", speed, *[f"{1000 * t:.1f}" for t in times]))
    del layer
view.table(
    rows,
    columns=["format", "size", "GB read per second", *[f"ms, {n} at once" for n in tokens_at_once]],
)

# %% [markdown]
# Read the table in two directions.
#
# - **Down the column of one token**: the time shrinks about as the bytes do. The processor waits for memory, so *fewer bytes are
#   more speed*. That is what quantization is after.
# - **Along a row**: several tokens at once cost far less than several times the time, up to a point, because each weight is read
#   once for all of them. *A batch shares the reading.* That is what batching is after.
#
# A GPU has the same two sides with larger numbers: an NVIDIA H100 reads about 3,350 GB per second, and its arithmetic is faster still
# in comparison.
#
# ## 2. The KV cache
#
# A model looks back at all tokens so far whenever it computes the next one. In each layer, each token is represented there by two
# vectors, its **key** (what it can be found by) and its **value** (what it has to say). They do not change once they are
# computed. So one keeps them:
#
# <img src="images/kv-cache.svg" alt="Two rows. Without a cache, all five tokens Once upon a time, there go through the whole model to get the word was. With a cache, the keys and values of the first four are kept, and only the last token goes through the model. The answer is the same." width="760">
#
# We give the embedded model a text of growing length and time one more token, without and with the cache.

# %%
from transformers import DynamicCache

text = "Once upon a time there was a girl. " * 80
ids = tokenizer(text, return_tensors="pt", truncation=True)["input_ids"]
longest = embedded.config.max_position_embeddings - 1
text_lengths = [length for length in (16, 64, 128, 192, 256, 384, 500) if length <= longest]


@torch.inference_mode()
def one_more_token(length):
    """Seconds for one token after `length` others, without and with a cache; and the full cache."""
    whole, last = ids[:, :length], ids[:, length - 1 : length]
    without = seconds(embedded, whole, use_cache=False, logits_to_keep=1, times=5)
    cache = DynamicCache()
    embedded(whole[:, :-1], past_key_values=cache, logits_to_keep=1)

    def step():
        embedded(last, past_key_values=cache)
        cache.crop(length - 1)  # forget the token again, so that each step is the same

    return without, seconds(step, times=15), cache


timed = [one_more_token(length) for length in text_lengths]

# %%
without, with_cache = [1000 * t[0] for t in timed], [1000 * t[1] for t in timed]
view.line_with_interval(
    text_lengths,
    {"without a cache": (without,) * 3, "with a cache": (with_cache,) * 3},
    xlabel="tokens so far",
    ylabel="ms for one more token",
    alt=f"Milliseconds for one more token after {text_lengths[0]} to {text_lengths[-1]} tokens: "
    f"without a cache {without[0]:.1f} to {without[-1]:.1f}, with one {with_cache[0]:.1f} to "
    f"{with_cache[-1]:.1f}.",
)

# %% [markdown]
# Without the cache the time grows with the text; with it, it hardly does. It does not go down to nothing either. What takes the
# time of such a step?

# %%
reading_time = 1000 * 4 * weights / read_per_second["float32"]
print(f"One step after {text_lengths[0]} tokens: {with_cache[0]:.2f} ms.")
print(f"Reading all weights, at the speed measured in section 1: {reading_time:.2f} ms.")

# %% [markdown]
# The rest is Python, and the start of each of some hundred operations: in a small model the largest part of a step, in a large one the
# smallest. And is the text the same, with the cache and without?

# %%
start = ids[:, :20]
options = {"attention_mask": torch.ones_like(start), "do_sample": False, "max_new_tokens": 60}
texts = [embedded.generate(start, use_cache=use, **options) for use in (True, False)]
print("the same 60 tokens:", torch.equal(*texts))

# %% [markdown]
# What it costs is memory. For each token, in each layer, two vectors for each **KV head** (models split their attention into
# heads, and several heads may share one set of keys and values):
#
# $$\text{bytes per token} = 2 \cdot \text{layers} \cdot \text{KV heads} \cdot \text{head size} \cdot \text{bytes per number}$$


# %%
def kv_bytes_per_token(layers, kv_heads, head_size, bytes_per_number=2):
    return 2 * layers * kv_heads * head_size * bytes_per_number


config = embedded.config
shape = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
cache = timed[-1][2]
measured = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
computed = kv_bytes_per_token(*shape, bytes_per_number=4) * cache.get_seq_length()
print(f"{cache.get_seq_length()} tokens: {computed:,} bytes computed, {measured:,} measured.")
print(f"That is {measured / (4 * weights):.0%} of the weights' size, for one single text.")

# %% [markdown]
# The cache is why serving takes more memory than the weights, and why the number of texts that a GPU can work on at the same time has a
# limit. Section 8 does this sum for 7 and 70 billion parameters.
#
# It also splits every request into two phases. Reading the prompt (**prefill**) computes all its tokens in one go, and so they
# share the reading of the weights. Writing the answer (**decode**) takes one step for each token:

# %%
n = text_lengths[-1]
print(f"Reading a prompt of {n} tokens: {without[-1]:.0f} ms.")
print(f"Writing as many, one by one: about {n * median(with_cache):.0f} ms.")

# %% [markdown]
# ## 3. Quantization: fewer bits for each weight
#
# <img src="images/number-formats.svg" alt="Four number formats as bars. float32: 1 bit for the sign, 8 for the range, 23 for precision, 4 bytes. bfloat16: the first half of a float32, 1, 8 and 7 bits, 2 bytes. int8: a whole number from -127 to 127 times a scale that its row shares, 1 byte. 4 bits: the same with 15 values, half a byte." width="760">
#
# A trained weight does not need seven decimals. **Quantization** stores it in fewer bits. bfloat16 simply cuts a float32 in
# half. Below that one stores *whole numbers* and, for each group of weights, one **scale** to multiply them by. Here is one row of the
# embedded model in 8 bits:

# %%
row = embedded.model.layers[0].mlp.gate_proj.weight[0]
scale = row.abs().max() / 127
integers = (row / scale).round().to(torch.int8)
back = integers * scale
view.table(
    [
        (f"{w:.5f}", i.item(), f"{b:.5f}", f"{b - w:+.5f}")
        for w, i, b in zip(row[:5], integers, back)
    ],
    columns=["weight", "stored as", "read back as", "error"],
    caption=f"scale {scale:.6f}",
)

# %% [markdown]
# The error is half a scale at most. With fewer bits there are fewer whole numbers, so the scale is larger, and so is the error. How far
# can one go? To find out quickly, we round the weights and go on computing with floats (**fake quantization**): it shows the
# loss of quality, not the gain of speed.
#
# How many weights share a scale matters too: one large weight makes the scale of its whole group coarse. We try one scale for a whole
# matrix, one for each row, and one for each 32 weights.

# %%
import copy


def rounded(weight, bits, group):
    """`weight` in whole numbers of `bits` bits; `group` weights in a row share a scale."""
    groups = weight.reshape(-1, group)
    largest = groups.abs().amax(1, keepdim=True).clamp(min=1e-9)
    scale = largest / (2 ** (bits - 1) - 1)
    return ((groups / scale).round() * scale).reshape(weight.shape)


@torch.no_grad()
def fake_quantized(model, bits, sharing):
    """A copy of `model` with all its matrices rounded; and the bytes that it would take."""
    smaller, size = copy.deepcopy(model), 0
    for weight in smaller.parameters():
        if weight.ndim == 2:
            group = {"matrix": weight.numel(), "row": weight.shape[1], "32 weights": 32}[sharing]
            weight.copy_(rounded(weight, bits, group))
            size += weight.numel() * bits / 8 + weight.numel() / group * 2  # scales in 2 bytes
        else:
            size += weight.numel() * 2
    pack_linear_layers(smaller)  # changes no number, only makes the test below quicker
    return smaller, size


# %% [markdown]
# And how good is a model? We ask three questions, on texts and words that it was not trained on. (They are those of its
# [model card](../shared/models/language/README.md).)
#
# - **Perplexity** on fresh text: among how many equally likely tokens does the model hesitate, on average? 1 would be certainty.
# - **Few-shot**: four examples each of two invented labels, then a sentence. Is its label right?
# - **Reading**: a context about invented people, then a question on it.

# %%
from distillation import mean_loss, token_rows

from shared.pretraining.language import trials
from shared.pretraining.language.corpus import documents
from shared.pretraining.language.document import plain

few_shot, reading = trials.few_shot(100, k=4), trials.context(100)
test_rows = token_rows(tokenizer, map(plain, documents(seed=900_000)), rows=32, length=256)
view.completions(
    [
        {"label": label, "prompt": trial.prompt, "text": f" {trial.answer}"}
        for label, trial in (("few-shot", few_shot[0]), ("reading", reading[0]))
    ]
)

# %% [markdown]
# We need not generate to know whether greedy decoding would give the right answer: it would if, at each token of the answer, that
# token is the most probable one. A single pass over prompt and answer shows it.


# %%
@torch.inference_mode()
def share_right(model, questions, batch=25):
    """The share of questions to which greedy decoding would begin its answer rightly."""
    right = 0
    for start in range(0, len(questions), batch):
        prompts, answers = [], []
        for trial in questions[start : start + batch]:
            prompts.append(tokenizer(trial.prompt)["input_ids"])
            answers.append(tokenizer(f" {trial.answer}")["input_ids"])
        longest = max(len(p) + len(a) for p, a in zip(prompts, answers))
        texts = [(p + a + [0] * longest)[:longest] for p, a in zip(prompts, answers)]
        best = model(torch.tensor(texts), use_cache=False).logits.argmax(-1)
        for row, prompt, answer in zip(best, prompts, answers):
            right += row[len(prompt) - 1 : len(prompt) + len(answer) - 1].tolist() == answer
    return right / len(questions)


def interval(share, n, z=1.96):
    """Wilson's 95% interval of a share that was measured on n questions, as in notebook 1."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return middle - half, middle + half


def quality(model):
    """Perplexity, few-shot accuracy and reading accuracy of a model in this process."""
    perplexity = torch.tensor(mean_loss(model, test_rows)).exp().item()
    return perplexity, share_right(model, few_shot), share_right(model, reading)


# %%
import re

from model_loading import load_model


def percent(share):
    return f"{share:.0%}"


rows = []
for dtype in ("float32", "bfloat16", "int8"):
    model, _, note = load_model(str(EMBEDDED_FOLDER), None, dtype)  # as the endpoint does
    in_memory = int(re.search(r"take ([\d,]+) in memory", note)[1].replace(",", ""))
    perplexity, labelled, answered = quality(model)
    rows.append(
        (
            dtype,
            f"{in_memory / 1e6:.1f} MB",
            f"{perplexity:.2f}",
            percent(labelled),
            percent(answered),
        )
    )
view.table(rows, columns=["weights", "in memory", "perplexity", "few-shot", "reading"])

# %% [markdown]
# As far as these questions can tell, it is the same model three times. (With 100 questions, differences of a few percent are
# chance.) int8 is not a quarter of float32 here: it is the matrices that are stored in 8 bits, while the embedding (one vector
# for each token of the vocabulary) stays in float32, and in so small a model that is a large part. In a model of 7 billion
# parameters it is a few percent. This int8 also rounds the vectors that go into each matrix, each token's with a scale of its
# own, so that the processor multiplies whole numbers.
#
# So let us go on until it breaks. (The grey band in the figure is the 95% interval of the float32 model: what lies inside may be
# chance.)

# %%
sharings, bit_counts = ["matrix", "row", "32 weights"], [8, 6, 5, 4, 3, 2]
found = {}
for sharing in sharings:
    for bits in bit_counts:
        model, size = fake_quantized(embedded, bits, sharing)
        found[sharing, bits] = (size, *quality(model))

# %%
from matplotlib import pyplot

view.style()
figure, axes = pyplot.subplots(1, 3, figsize=(10.5, 3.4))
best = quality(embedded)
for column, title in enumerate(["perplexity (log)", "few-shot accuracy", "reading accuracy"], 1):
    axis = axes[column - 1]
    for sharing, marker in zip(sharings, "osD"):
        values = [found[sharing, bits][column] for bits in bit_counts]
        axis.plot(bit_counts, values, marker=marker, label=f"a scale for each {sharing}")
    axis.axhline(best[column - 1], color="#8a8a8a", linestyle=":", label="float32")
    if column > 1:
        axis.axhspan(*interval(best[column - 1], len(few_shot)), color="#8a8a8a", alpha=0.15)
        axis.set(ylim=(-0.03, 1.03))
        axis.yaxis.set_major_formatter(lambda share, _: percent(share))
    axis.set(title=title, xlabel="bits for each weight", xticks=bit_counts)
    axis.invert_xaxis()
axes[0].set_yscale("log", base=2)
axes[0].yaxis.set_major_formatter("{x:g}")
axes[0].legend(fontsize=8)
summary = "; ".join(
    f"{sharing}: " + ", ".join(f"{bits} bits {found[sharing, bits][2]:.0%}" for bits in bit_counts)
    for sharing in sharings
)
view.show(
    figure, alt=f"Perplexity, few-shot and reading accuracy by bits. Few-shot accuracy: {summary}."
)


# %%
def first_break(sharing, column):
    """The most bits at which perplexity is a tenth higher, or an accuracy a tenth lower."""
    for bits in bit_counts:
        now, before = found[sharing, bits][column], best[column - 1]
        if (now > 1.1 * before) if column == 1 else (now < 0.9 * before):
            return bits
    return "none of these"


view.table(
    [
        (
            f"a scale for each {sharing}",
            *[f"{found[sharing, bits][0] / 1e6:.2f} MB" for bits in (8, 4)],
            *[first_break(sharing, column) for column in (1, 2, 3)],
        )
        for sharing in sharings
    ],
    columns=["", "8 bits", "4 bits", "perplexity", "few-shot", "reading"],
    caption="Size; and the first number of bits at which a tenth is lost of",
)

# %% [markdown]
# There is a cliff, not a slope: down to some number of bits nearly nothing happens, then everything goes at once. Where the cliff is
# depends on how many weights share a scale. A scale for each row instead of each matrix moves it; smaller groups still may lower the
# perplexity a little, for some more memory.
#
# > **Try it.** Leave the embedding (`smaller.get_input_embeddings().weight`) in float32 and round the rest. How much of the damage at
# > 3 bits goes away? (Answer in [solutions/4-smaller-and-faster.md](solutions/4-smaller-and-faster.md).)
#
# Large models break later: they hold more weights for each thing that they know, and better methods than plain rounding
# (GPTQ, AWQ) choose the rounding so that the layers' *outputs* stay right. 4 bits are common for models of 7 billion parameters and
# more.
#
# ## 4. Distillation: a smaller model, taught by a larger one
#
# Quantization keeps all weights and makes each smaller. The other way is *fewer weights*. One could take half of the layers and
# train on. **Knowledge distillation** does it with help: the large model, the **teacher**, shows the small one, the
# **student**, not only which token came next, but how probable it finds every token.
#
# <img src="images/distillation.svg" alt="A text goes to a frozen teacher with all layers and to a student with half of the layers. The teacher gives a soft target, a probability for each token; the student gives its own probabilities; the loss measures how far apart they are, and the student is adjusted." width="760">
#
# The usual target is **hard**: the one token that stands in the text is right, all others are wrong. The teacher's target is
# **soft**. See the difference at one place of a text:

# %%
sample = "On Monday Anna went to the"
with torch.inference_mode():
    logits = embedded(torch.tensor([tokenizer(sample)["input_ids"]])).logits[0, -1]


def best_tokens(temperature, count=8):
    probabilities, tokens = (logits / temperature).softmax(-1).topk(count)
    return [(tokenizer.decode(t), p) for t, p in zip(tokens, probabilities.tolist())]


view.next_token_bars(
    {"soft target": best_tokens(1.0), "the same at temperature 2": best_tokens(2.0)},
    title=f"{sample} ...",
)

# %% [markdown]
# The text had *one* of these words. The teacher knows that the others would have done as well, and says how well. So each token of
# text teaches more, and less by chance. A **temperature** above 1 levels the target, as in notebook 1, so that the small
# probabilities ("what else might fit?") count for more in the student's lesson.
#
# The experiment must be fair. Two students begin with the same weights (every other layer of the teacher), read the same text once, in
# the same order, for the same number of steps. One is trained on the text alone, the other on the teacher's soft targets. The loop
# is in [distillation.py](distillation.py), 25 lines. The text comes from the generator that made the embedded model's own
# training data, from a part that it never saw.

# %%
from distillation import half_of, train

LENGTH, BATCH, STEPS = 128, 8, 160
text = map(plain, documents(seed=777_000))
train_rows = token_rows(tokenizer, text, rows=BATCH * STEPS, length=LENGTH)
students = {"alone": half_of(embedded), "with a teacher": half_of(embedded)}
untrained = half_of(embedded)
count = sum(weight.numel() for weight in untrained.parameters())
print(f"{train_rows.numel():,} tokens of text")
print(f"students of {count:,} weights, {count / weights:.0%} of the teacher's {weights:,}")

# %%
teachers = {"alone": None, "with a teacher": embedded}
options, taken = {"batch": BATCH, "rate": 6e-3, "temperature": 1.0}, {}
for name, student in students.items():
    start = perf_counter()
    train(student, train_rows, teacher=teachers[name], name=name, **options)
    taken[name] = perf_counter() - start

# %%
rows = []
losses = {}
everyone = {"teacher": embedded, "student, untrained": untrained, **students}
for name, model in everyone.items():
    losses[name] = mean_loss(model, test_rows)
    perplexity, labelled, answered = quality(model)
    size = sum(weight.numel() for weight in model.parameters())
    cost = f"{taken[name]:.0f} s" if name in taken else ""
    rows.append(
        (name, f"{size:,}", cost, f"{perplexity:.2f}", percent(labelled), percent(answered))
    )
view.table(rows, columns=["model", "weights", "training", "perplexity", "few-shot", "reading"])

# %% [markdown]
# The lowest loss that the students can hope for is about the teacher's. The **gap** is what the student trained alone lacks to it; how
# much of this gap did the teacher close? (Loss is the logarithm of perplexity.)

# %%
gap = losses["alone"] - losses["teacher"]
closed = (losses["alone"] - losses["with a teacher"]) / gap
print("nats per token:", ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
print(f"The teacher closed {closed:.0%} of the gap, on the same text in the same number of steps.")

# %% [markdown]
# The student with a teacher took more time for the same steps, since the teacher must read the text too. And no student came near the
# teacher in a minute of training; real distillations run for days. DistilGPT2, a student of GPT-2, was made this way.
#
# > **Try it.** Set `temperature` to 2. Then, back at 1, give both students a quarter of the text (`train_rows[: BATCH * 40]`):
# > does the teacher help more or less?
#
# ## 5. Compilation
#
# PyTorch runs a model one operation after the other, and Python says which comes next. A **compiler** (`torch.compile`) reads
# the operations of a layer together, joins what can be joined, and writes machine code for it. The gain is a faster step, the price a
# slower start. A cheaper trick for a CPU is to lay out the weights once in the order in which its matrix instructions want them
# (**packing**); that is what this lab's endpoint does. We measure all three on one layer of the embedded model: one token, as in
# decoding, and 256 tokens, as in reading a prompt.

# %%
import os
import tempfile

layer = embedded.model.layers[0]
steps = {"1 token": 1, "256 tokens": 256}


def layer_input(tokens):
    states = torch.randn(1, tokens, config.hidden_size)
    return states, embedded.model.rotary_emb(states, torch.arange(tokens)[None])


def step_times(layer, which=steps):
    """Milliseconds of one call of the layer, for each number of tokens."""
    times = []
    with torch.inference_mode():
        for tokens in which.values():
            states, positions = layer_input(tokens)
            call = seconds(layer, states, position_embeddings=positions, times=30)
            times.append(f"{1000 * call:.2f}")
    return times


rows = [("plain", "", *step_times(layer))]
start = perf_counter()
packed = copy.deepcopy(layer)
pack_linear_layers(packed)
rows.append(("packed", f"{perf_counter() - start:.2f} s", *step_times(packed)))

# %% [markdown]
# The compiler keeps what it compiled in a folder and would find it there the next time. We give it an empty one, so that the
# first start is what you see. (It needs a C++ compiler on your machine; the cell says so if there is none.)

# %%
with tempfile.TemporaryDirectory() as folder:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    states, positions = layer_input(1)
    compiled = torch.compile(copy.deepcopy(layer), dynamic=True)
    start = perf_counter()
    try:
        with torch.inference_mode():
            compiled(states, position_embeddings=positions)
        rows.append(("compiled", f"{perf_counter() - start:.1f} s", *step_times(compiled)))
    except RuntimeError as error:
        print("This machine cannot compile:", str(error).strip().splitlines()[0])
    del os.environ["TORCHINDUCTOR_CACHE_DIR"]
view.table(rows, columns=["one layer", "extra start", *[f"ms for {name}" for name in steps]])

# %% [markdown]
# A container that compiles answers `/ping` that much later, at *each* start, also when a busy endpoint is given a second
# instance. vLLM compiles too, and records the whole step for the GPU (a *CUDA graph*), since for a GPU the Python between two
# operations is what costs most. On a CPU, for a model that does little work between two lines of Python, look at the table and
# decide. Neither way need be the faster one in both columns.
#
# ## 6. Deploy them side by side
#
# Now the same questions to an endpoint. An endpoint may have several **variants**: models, or versions of one, each on its own
# instances, behind one address. We make one variant for each number format; one that computes requests one after the other, for
# section 7; and, if `MODEL` is the embedded model, the student that had a teacher.
#
# A variant's settings are environment variables of its container. Which there are depends on the server in it: this lab's own
# `code/inference.py` (with the Hugging Face image, or locally), or an LMI image with its own server.

# %%
import psutil

on_cpu = {
    "float32": {"DTYPE": "float32"},
    "bfloat16": {"DTYPE": "bfloat16"},
    "int8": {"DTYPE": "int8"},
    "one-at-a-time": {"DTYPE": "float32", "MAX_BATCH_SIZE": "1"},
}
on_gpu = {
    "bfloat16": {"DTYPE": "bfloat16"},
    "float16": {"DTYPE": "float16"},
    "one-at-a-time": {"DTYPE": "bfloat16", "MAX_BATCH_SIZE": "1"},
}
on_lmi = {
    "bfloat16": {"OPTION_DTYPE": "bfloat16"},
    "fp8": {"OPTION_DTYPE": "bfloat16", "OPTION_QUANTIZE": "fp8"},
    "one-at-a-time": {"OPTION_DTYPE": "bfloat16", "OPTION_MAX_ROLLING_BATCH_SIZE": "1"},
}
image = workshop.model.image if workshop.backend == "sagemaker" else "huggingface-cpu"
settings = {"huggingface-cpu": on_cpu, "huggingface-gpu": on_gpu, "lmi": on_lmi}[image]
standard = next(iter(settings))
print(f"{len(settings)} variants for {image}: {', '.join(settings)}")
if workshop.backend == "local":
    needed = len(settings) * workshop.model.memory_needed(gpu=False) / 1e9
    free = psutil.virtual_memory().available / 1e9
    print(f"They need about {needed:.1f} GB of this machine's memory; {free:.1f} GB are free.")

# %% [markdown]
# On AWS each variant rents an instance of its own, so your quota must allow them all. If it does not, take lines out of the dictionary
# above. On your own machine each is a process that holds the model.

# %%
from pathlib import Path

from shared.packaging import make_archive, upload

archive = make_archive("out/model.tar.gz", weights=workshop.model.weights, code="code")
model_data = upload(archive, workshop.s3_uri("model"))
containers = {}
for variant_name, environment in settings.items():
    containers[variant_name] = workshop.container(model_data)
    containers[variant_name]["environment"] |= environment
if workshop.model.name == "embedded":
    folder = Path("out/student")
    copy.deepcopy(students["with a teacher"]).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    small = make_archive("out/student.tar.gz", weights=folder, code="code")
    containers["student"] = workshop.container(upload(small, workshop.s3_uri("model")))
    print(f"teacher: {archive.size:,} bytes, student: {small.size:,} bytes")

# %% [markdown]
# From here on it is notebook 1 again, `Model`, `EndpointConfig`, `Endpoint`, with a list of variants. Each has a **weight**:
# its share of the requests that do not say which variant they want.

# %%
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant


def model_of(container):
    """The name of a SageMaker model with this container; made if it is not there yet."""
    name = workshop.name("model", container)
    if not workshop.existing(Model, name):
        Model.create(
            model_name=name,
            primary_container=ContainerDefinition(**container),
            execution_role_arn=workshop.role,
            tags=workshop.tags,
        )
    return name


variants = [
    ProductionVariant(
        variant_name=variant_name,
        model_name=model_of(container),
        instance_type=workshop.model.instance_type,
        initial_instance_count=1,
        initial_variant_weight=6 if variant_name == standard else 1,
        **workshop.model.variant_options,
    )
    for variant_name, container in containers.items()
]

# %%
made_of = [[v.variant_name, v.model_name, v.instance_type] for v in variants]
config_name = workshop.name("config", *made_of)
if not workshop.existing(EndpointConfig, config_name):
    EndpointConfig.create(
        endpoint_config_name=config_name, production_variants=variants, tags=workshop.tags
    )
endpoint_name = workshop.name("endpoint", "variants")
endpoint = workshop.existing(
    Endpoint, endpoint_name, endpoint_config_name=config_name
) or Endpoint.create(
    endpoint_name=endpoint_name, endpoint_config_name=config_name, tags=workshop.tags
)
workshop.watch(endpoint)

# %% [markdown]
# First the requests that do not care. The answer names the variant that gave it. Sending a small share of the traffic to a new
# version and watching it is how one changes a model without risk (a *canary*, or an A/B test).

# %%
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

runtime = boto3.client(
    "sagemaker-runtime", region_name=workshop.region, config=Config(max_pool_connections=32)
)


def ask(inputs, variant=None, **parameters):
    """One request: the answer as a dictionary, and the variant that gave it."""
    body = json.dumps({"inputs": inputs, "parameters": {"do_sample": False, **parameters}})
    target = {"TargetVariant": variant} if variant else {}
    response = runtime.invoke_endpoint(
        EndpointName=endpoint_name, ContentType="application/json", Body=body, **target
    )
    return json.loads(response["Body"].read()), response["InvokedProductionVariant"]


prompt = workshop.model.prompts[0]
chosen = Counter(ask(prompt, max_new_tokens=1)[1] for _ in range(100))
total = sum(v.initial_variant_weight for v in variants)
view.table(
    [
        (v.variant_name, f"{v.initial_variant_weight / total:.0%}", chosen[v.variant_name])
        for v in variants
    ],
    columns=["variant", "share by weight", "of 100 requests"],
)

# %% [markdown]
# Now each by name, with `TargetVariant`. Three measures: tokens per second for one caller and for eight, and the two accuracies
# of section 3, this time from generated text.


# %%
def accuracy(variant, questions, callers=8):
    """The share of questions that the variant answers rightly, in generated text."""

    def right(trial):
        answer, _ = ask(trial.prompt, variant, max_new_tokens=16, stop=["\n"])
        return answer["generated_text"].strip().rstrip(".") == trial.answer

    with ThreadPoolExecutor(callers) as pool:
        return sum(pool.map(right, questions)) / len(questions)


def speed(variant, callers, requests):
    """Tokens per second of `requests` requests of 60 tokens, from so many callers at once."""

    def tokens(_):
        answer, _ = ask(prompt, variant, max_new_tokens=60, details=True)
        return answer["details"]["generated_tokens"]

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(tokens, range(callers)))  # the first ones do not count
        start = perf_counter()
        return sum(pool.map(tokens, range(requests))) / (perf_counter() - start)


# %%
events = workshop.client("logs").filter_log_events(logGroupName=workshop.log_group(endpoint))
sizes = {}
for event in events["events"]:  # this lab's container writes how many bytes its weights take
    if match := re.search(r"take ([\d,]+) in memory", event["message"]):
        sizes[event["logStreamName"].split("/")[0]] = match[1]
results = {}
for name in containers:
    results[name] = (
        speed(name, 1, 8),
        speed(name, 8, 32),
        accuracy(name, few_shot),
        accuracy(name, reading),
    )
view.table(
    [
        (
            name,
            sizes.get(name, ""),
            f"{one:,.0f}",
            f"{eight:,.0f}",
            percent(labelled),
            percent(answered),
        )
        for name, (one, eight, labelled, answered) in results.items()
    ],
    columns=[
        "variant",
        "bytes in memory",
        "tokens/s, 1 caller",
        "8 callers",
        "few-shot",
        "reading",
    ],
)

# %% [markdown]
# Compare this with the table of section 1. There, on a matrix of a large model, fewer bytes were more speed. For a model as
# small as the embedded one the weights fit into the processor's own fast memory, and a step is mostly Python and the start of
# each operation; so the format changes little, and rounding the inputs for int8 is work of its own. *Measure on your own model
# before you believe a speed-up.* What shows here too: the formats answer alike, and half of the layers are faster than any
# format.
#
# ## 7. Many callers: batching
#
# Section 1 showed that several tokens in one step cost little more than one. But requests do not come at the same moment, and
# their answers do not have the same length.
#
# <img src="images/batching.svg" alt="Two timelines with three places each for seven requests A to G. Static batching: A, B, C start together, and D, E, F only when B, the longest, is done; short requests leave their place empty. Continuous batching: each place is taken by the next request as soon as it is free, and all are done much earlier." width="760">
#
# **Static batching** collects some requests and runs them until the last one is done. **Continuous batching** (also called *rolling* or
# *in-flight* batching) decides anew after every token who is in the batch: an ended answer leaves, a waiting request joins. This
# lab's engine does so ([code/batching_engine.py](code/batching_engine.py)), as do vLLM and LMI.
#
# We put load on two variants: the standard one, and the one that takes a single request at a time. Each of 1 to 16 callers sends its
# next request when it has its answer, for answers of 10 to 100 tokens. We note the whole throughput, and what a single caller
# feels: the milliseconds for each token of its answer, waiting included.

# %%
from random import Random


def under_load(variant, callers, duration=1.5):
    """(tokens per second of all callers, ms per token of each request, tokens of each request)."""
    deadline = perf_counter() + duration

    def caller(number):
        rng, answers = Random(number), []
        while perf_counter() < deadline:
            options = {
                "max_new_tokens": rng.randint(10, 100),
                "do_sample": True,
                "temperature": 1.0,
            }
            start = perf_counter()
            answer, _ = ask(prompt, variant, **options, seed=rng.randrange(10**6), details=True)
            taken = perf_counter() - start
            tokens = answer["details"]["generated_tokens"]
            answers.append((1000 * taken / tokens, tokens))
        return answers

    start = perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        answers = [answer for of_one in pool.map(caller, range(callers)) for answer in of_one]
    waits, tokens = zip(*answers)
    return sum(tokens) / (perf_counter() - start), waits, tokens


# %%
from statistics import quantiles

clients, price = [1, 2, 4, 8, 16], workshop.model.price_per_hour
curves = {name: [under_load(name, n) for n in clients] for name in (standard, "one-at-a-time")}
rows = []
for name, points in curves.items():
    for n, (throughput, waits, _) in zip(clients, points):
        slow = quantiles(waits, n=20)[-1] if len(waits) > 1 else waits[0]
        dollars = f"{price / (throughput * 3600) * 1e6:.2f} USD" if price else ""
        measures = f"{throughput:,.0f}", f"{median(waits):.1f}", f"{slow:.1f}"
        rows.append((name, n, len(waits), *measures, dollars))
view.table(
    rows,
    columns=[
        "variant",
        "callers",
        "requests",
        "tokens/s",
        "ms per token, median",
        "95th percentile",
        "a million tokens",
    ],
    caption="The last column: at the price of the instance on AWS",
)

# %%
figure, axis = pyplot.subplots(figsize=(6.8, 3.8))
for (name, points), marker in zip(curves.items(), "os"):
    x, y = [point[0] for point in points], [median(point[1]) for point in points]
    axis.plot(x, y, marker=marker, label=name)
    for n, across, up in zip(clients, x, y):
        axis.annotate(f"{n}", (across, up), textcoords="offset points", xytext=(5, 5), fontsize=9)
axis.set(xlabel="tokens per second, all callers", ylabel="ms per token of one caller")
axis.set(
    title="Latency against throughput; the numbers are callers", ylim=(0, None), xlim=(0, None)
)
axis.grid(axis="y")
axis.legend()
words = "; ".join(
    f"{name}: {points[0][0]:,.0f} tokens/s at {median(points[0][1]):.1f} ms per token with one, "
    f"{points[-1][0]:,.0f} at {median(points[-1][1]):.1f} with {clients[-1]}"
    for name, points in curves.items()
)
view.show(figure, alt=f"Latency against throughput for 1 to 16 callers. {words}.")

# %% [markdown]
# This is the figure by which servers are compared. Without batching, more callers only mean a longer queue: the curve goes
# *up*. With continuous batching it first goes *right*, more tokens for the same instance at a price in latency that grows
# slowly, and turns up where the processor has no more to give. Where to work on the curve is a decision: a chat wants a low
# latency, a nightly job wants throughput. (On AWS, the Hugging Face image hands over one request at a time, so both curves go
# up there. LMI and vLLM batch.)
#
# What would static batching have done? We take the lengths of the answers that were measured with 16 callers, and count steps for 16
# places: all places wait for the longest answer, or each is filled again at once.


# %%
def static_steps(lengths, places):
    """Steps of a server that runs `places` answers until the longest is done, then the next."""
    return sum(max(lengths[i : i + places]) for i in range(0, len(lengths), places))


def continuous_steps(lengths, places):
    """Steps of a server where the next request takes a place as soon as it is free."""
    busy_until = [0] * places
    for length in lengths:
        busy_until[busy_until.index(min(busy_until))] += length
    return max(busy_until)


lengths = curves[standard][-1][2]
rows = []
for name, count in (("static", static_steps), ("continuous", continuous_steps)):
    steps_needed = count(lengths, 16)
    rows.append((name, steps_needed, f"{sum(lengths) / (16 * steps_needed):.0%}"))
view.table(rows, columns=["batching", f"steps for {len(lengths)} answers", "places in use"])

# %% [markdown]
# vLLM adds a third idea to these two. Its KV cache is not one long strip for each request, which would have to be as long as
# the longest possible answer, but is cut into small **pages** that are handed out as an answer grows (*PagedAttention*). More
# requests fit into the same memory, and requests that begin alike can share pages (*prefix caching*).
#
# ## 8. Large models on several GPUs
#
# The same ideas, with numbers that matter. A 16-bit model of 70 billion parameters has more bytes than any single GPU of the
# instances below. **Tensor parallelism** splits each matrix over several GPUs, so that every GPU reads only its part:
#
# <img src="images/tensor-parallel.svg" alt="The token's vector goes to two GPUs. GPU 0 has the upper half of the first matrix and the left half of the second, GPU 1 the lower half and the right half. The two results are added, an all-reduce, twice in each layer." width="760">
#
# It is the same arithmetic in another order. We can check that here, with the feed-forward part of one layer of the embedded
# model and two "GPUs" that are just two halves:

# %%
mlp, vector = embedded.model.layers[0].mlp, torch.randn(1, config.hidden_size)
middle = config.intermediate_size // 2
parts = []
for gpu in (slice(0, middle), slice(middle, None)):
    gate, up = vector @ mlp.gate_proj.weight[gpu].T, vector @ mlp.up_proj.weight[gpu].T
    parts.append((torch.nn.functional.silu(gate) * up) @ mlp.down_proj.weight[:, gpu].T)
difference = (sum(parts) - mlp(vector)).abs().max().item()
print(f"Largest difference between one device and two: {difference:.0e}")

# %% [markdown]
# Two such additions for each layer, over a fast link between the GPUs (an **all-reduce**), are the price. The number of parts, the
# **tensor parallel degree**, should divide the number of KV heads, so that each GPU keeps whole heads in its cache.
#
# Will a model fit? Weights, plus a KV cache for everybody who is served at the same time. The function of section 2 gives the second:

# %%
GIB = 2**30
LARGE = {  # parameters, layers, KV heads, head size (from the models' configurations)
    "Llama 2 7B": (6.74e9, 32, 32, 128),
    "Mistral 7B": (7.25e9, 32, 8, 128),
    "Llama 3.3 70B": (70.55e9, 80, 8, 128),
}
rows = []
for name, (parameters, *shape) in LARGE.items():
    in_gib = [f"{parameters * width / GIB:.1f}" for width in (2, 1, 0.5)]
    one_text = kv_bytes_per_token(*shape) * 8192
    cache_kib = f"{kv_bytes_per_token(*shape) / 1024:.0f}"
    rows.append((name, *in_gib, cache_kib, f"{one_text / GIB:.2f}", f"{32 * one_text / GIB:.0f}"))
view.table(
    rows,
    columns=[
        "model",
        "GiB in 16 bits",
        "in 8",
        "in 4",
        "cache, KiB per token",
        "GiB, 1 text of 8,192",
        "GiB, 32 such texts",
    ],
)

# %% [markdown]
# Look at the two models of 7 billion. The older one has a KV head for each attention head. The newer lets four attention heads
# share one (*grouped-query attention*), and needs a quarter of the cache.
#
# Now the instances. vLLM takes a share of each GPU's memory (`gpu_memory_utilization`, here 0.9), puts its part of the weights there,
# keeps about 1.5 GiB for intermediate results (our estimate), and makes the rest KV cache.

# %%
PLANS = [  # model, bytes for each weight, instance, GPUs, GB of each
    ("Mistral 7B", 2, "ml.g5.2xlarge", 1, 24),
    ("Mistral 7B", 1, "ml.g6.xlarge", 1, 24),
    ("Llama 3.3 70B", 2, "ml.g5.12xlarge", 4, 24),
    ("Llama 3.3 70B", 0.5, "ml.g5.12xlarge", 4, 24),
    ("Llama 3.3 70B", 1, "ml.g6e.12xlarge", 4, 48),
    ("Llama 3.3 70B", 2, "ml.p4d.24xlarge", 8, 40),
    ("Llama 3.3 70B", 2, "ml.p5.48xlarge", 8, 80),
]


def cache_tokens(model, width, gpus, gigabytes, utilization=0.9, overhead=1.5 * GIB):
    """Tokens of KV cache for which all GPUs together have room; below 0, it does not fit."""
    parameters, layers, kv_heads, head_size = LARGE[model]
    assert kv_heads % gpus == 0, "the tensor parallel degree should divide the KV heads"
    free = utilization * gigabytes * 1e9 - parameters * width / gpus - overhead
    return int(gpus * free / kv_bytes_per_token(layers, kv_heads, head_size))


rows = []
for model, width, instance, gpus, gigabytes in PLANS:
    tokens = cache_tokens(model, width, gpus, gigabytes)
    weights_gib = LARGE[model][0] * width / gpus / GIB
    room = (f"{tokens:,}", tokens // 8192) if tokens > 0 else ("does not fit", "")
    gpu_words = f"{gpus} of {gigabytes} GB"
    rows.append((model, f"{8 * width:.0f}", instance, gpu_words, f"{weights_gib:.1f}", *room))
view.table(
    rows,
    columns=[
        "model",
        "bits",
        "instance",
        "GPUs",
        "weights, GiB per GPU",
        "tokens of cache",
        "texts of 8,192",
    ],
)

# %% [markdown]
# Read it as a buyer. The weights decide whether a model fits at all; what is left decides how many people you can serve at
# once. Half of the bits for the weights may multiply that number.
#
# And these are the settings. AWS has two containers for it: **LMI** (DJL Serving around vLLM) and a plain **vLLM** image. Both
# are told by environment variables; those of the vLLM image are vLLM's own options with `SM_VLLM_` before them.


# %%
def server_settings(model_id, gpus, max_length, texts, quantize=None):
    """(what it does, LMI, vLLM image) for each setting."""
    quantization = [("quantize while loading", "OPTION_QUANTIZE", "QUANTIZATION", quantize)]
    table = [
        ("model, from the Hub", "HF_MODEL_ID", "MODEL", model_id),
        ("tensor parallel degree", "OPTION_TENSOR_PARALLEL_DEGREE", "TENSOR_PARALLEL_SIZE", gpus),
        ("number format", "OPTION_DTYPE", "DTYPE", "bfloat16"),
        *(quantization if quantize else []),
        ("prompt and answer at most", "OPTION_MAX_MODEL_LEN", "MAX_MODEL_LEN", max_length),
        ("texts at the same time", "OPTION_MAX_ROLLING_BATCH_SIZE", "MAX_NUM_SEQS", texts),
        ("share of GPU memory", "OPTION_GPU_MEMORY_UTILIZATION", "GPU_MEMORY_UTILIZATION", 0.9),
    ]
    lmi = {lmi_name: str(value) for _, lmi_name, _, value in table}
    lmi |= {
        "OPTION_ASYNC_MODE": "true",
        "OPTION_ROLLING_BATCH": "disable",
        "OPTION_ENTRYPOINT": "djl_python.lmi_vllm.vllm_async_service",
        "SERVING_FAIL_FAST": "true",
    }
    vllm = {f"SM_VLLM_{vllm_name}": str(value) for _, _, vllm_name, value in table}
    return table, lmi, vllm


seven = server_settings("mistralai/Mistral-7B-Instruct-v0.3", 1, 8192, 8, quantize="fp8")
seventy = server_settings("meta-llama/Llama-3.3-70B-Instruct", 4, 8192, 32, quantize="fp8")
view.table(
    [
        (what, lmi, f"SM_VLLM_{vllm}", small, large)
        for (what, lmi, vllm, small), (*_, large) in zip(seven[0], seventy[0])
    ],
    columns=["it says", "LMI", "vLLM image", "7B on ml.g6.xlarge", "70B on ml.g6e.12xlarge"],
)

# %% [markdown]
# LMI has four more, which look stranger than they are. `OPTION_ROLLING_BATCH` is `disable` because DJL's own rolling batch is
# the older way; in **async mode** every request goes straight to vLLM, which batches continuously by itself.
# `SERVING_FAIL_FAST` ends the container when the model does not load, so that the endpoint fails at once with the reason in its
# log. Here are two whole containers, ready for `ContainerDefinition(**...)`: the 70B model with LMI, and the 7B model with the
# vLLM image. (The latter speaks OpenAI's protocol, `prompt` and `max_tokens` instead of `inputs` and `parameters`.)

# %%
from shared.container_images import LMI, image_uri

lmi_image = image_uri(LMI, workshop.region)
vllm_image = lmi_image.split("/")[0] + "/vllm:0.30.0-gpu-py312-cu130-ubuntu24.04-sagemaker"
for container_image, environment in ((lmi_image, seventy[1]), (vllm_image, seven[2])):
    print(json.dumps({"image": container_image, "environment": environment}, indent=2))

# %% [markdown]
# Four things that the table does not say:
#
# - **Driver.** These images are built with CUDA 13, and the default machine image of many instance types is too old for it. Give
#   the `ProductionVariant` an `inference_ami_version="al2023-ami-sagemaker-inference-gpu-4-1"`, as this lab's catalogue does.
# - **Patience.** 70 billion parameters are 140 GB to download: set `container_startup_health_check_timeout_in_seconds` to 1800
#   or more.
# - **Licence.** Llama is *gated*: accept its licence on the Hub, and give the container a `HF_TOKEN`.
# - **fp8** multiplies in 8 bits on newer GPUs (L4, L40S, H100); an A10G (`ml.g5`) only stores in 8 bits and computes in 16.
#   Quantizing while loading makes every start slower; a model that is stored in 8 or 4 bits already (fp8, AWQ, GPTQ) is better,
#   and needs no `QUANTIZE`: vLLM sees it in its files.
#
# Nothing of this section has been run by us on AWS: the sums follow from the models' configurations, the names from the
# documentation of [LMI](https://docs.djl.ai/master/docs/serving/serving/docs/lmi/user_guides/vllm_user_guide.html) and of the
# [vLLM image](https://aws.github.io/deep-learning-containers/vllm/configuration/) (November 2026). To try LMI yourself, set
# `MODEL = "qwen3-8b"` and `BACKEND = "sagemaker"`: sections 6 and 7 then measure it on `ml.g5.2xlarge` instances.
#
# ## 9. Which one when?
#
# What each technique gave, measured above in this very run:

# %%
alone, crowd = results[standard][0], curves[standard][-1]
plain_size = 4 * weights / 1e6
four_bits = found["32 weights", 4]
kv_mb = measured / 1e6
queue = curves["one-at-a-time"][-1]
summary = [
    (
        "KV cache",
        f"a token after {text_lengths[-1]} others: {with_cache[-1]:.1f} ms, not {without[-1]:.1f}",
        f"{kv_mb:.1f} MB for one text",
    ),
    (
        "quantization (4 bits)",
        f"{four_bits[0] / 1e6:.1f} MB, not {plain_size:.1f}",
        f"perplexity {four_bits[1]:.2f}, not {best[0]:.2f}",
    ),
    (
        "distillation",
        f"half of the layers; the teacher closed {closed:.0%} of the gap",
        "training, and a model that is not as good",
    ),
    (
        "continuous batching",
        f"{crowd[0]:,.0f} tokens/s with {clients[-1]} callers, not {queue[0]:,.0f}",
        f"{median(crowd[1]):.1f} ms per token, where one caller alone has {1000 / alone:.1f}",
    ),
]
view.table(summary, columns=["technique", "gives", "costs"])

# %% [markdown]
# They add up: a large endpoint is quantized, keeps a paged cache, batches continuously, is compiled, and is split over GPUs,
# all at once. If you need an order to try them in: first a server that batches (vLLM, LMI), since it changes nothing in the
# answers; then 8 bits, which almost never does; then 4 bits, with your own questions as a test; then a smaller model, distilled
# or simply a smaller one that exists.
#
# ## 10. Clean up
#
# Several instances, so several prices: do not forget this cell.

# %%
if price is not None:
    print(f"On AWS: {len(variants)} x {price:.2f} = {len(variants) * price:.2f} USD per hour.")
if KEEP:
    print("Kept, and on AWS still costing money:", endpoint_name)
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - To write one token, every weight is read once. Fewer bytes make a large model faster, and a batch shares the reading.
# - The KV cache makes the time for a token nearly independent of the text before it. It costs memory for each token of each text, and
#   often decides how many people an instance can serve.
# - Quantization loses nothing for a while, and then everything. Where the cliff is, you find out by measuring your own questions.
# - A teacher's probabilities teach a student more than the text alone.
# - Continuous batching moves a server along the latency–throughput curve; where to work on it is your decision.
# - Whether a model fits is a sum that you can do in your head: parameters times bytes, plus tokens times bytes per token.
#
# **Check yourself** (answers in [solutions/4-smaller-and-faster.md](solutions/4-smaller-and-faster.md)):
#
# 1. A model of 13 billion parameters in 16 bits: does it fit on a GPU of 24 GB? In 8 bits?
# 2. Your endpoint answers one caller with 50 tokens per second and sixteen callers with 400 in all. What does each of the sixteen get?
# 3. You double `MAX_MODEL_LEN`. What becomes smaller?
# 4. A colleague quantizes to 3 bits and shows you a fluent story as proof that all is well. What do you ask for?
# 5. Why can a student never be better on the teacher's soft targets than the teacher itself?
#
# **Next:** Lab 2 fine-tunes a language model. Back to the [lab's overview](README.md).
