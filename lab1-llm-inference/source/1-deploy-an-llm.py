# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   workshop:
#     minutes: 30
#     track: core
# ---

# %% [markdown]
# # Deploy a language model, and learn what its settings do
#
# **Lab 1, notebook 1 of the day.** You put a language model behind a web address that any program can call, and then you
# turn every knob that such a model has, one at a time, and measure what it does.
#
# When you are done you will be able to
#
# - say what a SageMaker *endpoint* is made of, and create one from a model archive;
# - send it a prompt and read the answer, whole or token by token;
# - explain what `temperature`, `top_k`, `top_p`, the penalties, `stop` and `seed` do, because you saw it in numbers;
# - find an endpoint's logs and metrics, say what it costs, and delete it so that nothing is left.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 30 minutes of reading, 2 of computing | the same, and 5 to 10 minutes of waiting for the endpoint |
# | **cost** | nothing | the instance's price per hour for as long as the endpoint exists; the embedded model's costs about 0.12 USD for half an hour |
# | **you need** | this repository, set up by `make jupyter` | an execution role with SageMaker and S3 rights; the quota for one endpoint instance |
#
# You should know some Python. You need no machine learning.
#
# > **In SageMaker Studio**, run this line once in a terminal, from the repository's folder, before you begin:
# > `pip install -r requirements.txt`

# %% [markdown]
# ## 1. Choose where it runs, and which model
#
# Three settings. `BACKEND = "auto"` means AWS if you are inside SageMaker Studio, else a SageMaker that runs on this very
# machine. `MODEL = "embedded"` is a small model that came with this repository; the end of this notebook names larger
# ones. `KEEP = False` means that the last cell deletes what you made.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # or a name from the catalogue, a Hugging Face Hub id, a folder
KEEP = False  # True keeps the endpoint for the lab's next notebook

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view  # IPython has a `display` of its own
from shared.workshop import Workshop

workshop = Workshop(lab="1", backend=BACKEND, model=MODEL)
workshop

# %% [markdown]
# The card above is worth a look before you spend anything: which account and region, which **role** (the identity that
# SageMaker takes on when it works for you), which **bucket** (your folder in S3, Amazon's file store), and which model.
#
# ## 2. What an endpoint is
#
# <img src="images/endpoint.svg" alt="A notebook sends a prompt by HTTPS to an endpoint. Behind the endpoint is an instance that runs a container. The container holds a web server and your inference.py, which loaded the model from model.tar.gz in S3. The answer returns the same way; logs and metrics go to CloudWatch." width="760">
#
# An **endpoint** is a web address with a model behind it. Four things make it up:
#
# - an **image**: a frozen file system with Python, PyTorch and a web server. Running it makes a **container**;
# - a **model archive**, `model.tar.gz`, in S3: the model's weights, and your code that says how to use them;
# - an **instance**: the (virtual) computer that you rent by the hour, with or without a GPU;
# - a **configuration** that ties them together: which model on how many instances of which type.
#
# SageMaker starts the instance, runs the image, unpacks your archive into `/opt/ml/model`, and asks the container over and
# over, "are you there?" (`GET /ping`, to be answered within 2 seconds). Once it says yes, each call to the endpoint becomes a
# `POST /invocations` to the container, which has 60 seconds to answer.
#
# On a laptop the same steps happen with the same requests. The "instance" is your own machine and the "container" a
# process of its own, and that is the whole difference.
#
# ## 3. The model
#
# A **language model** computes one thing: given some text, how probable is each possible next piece of text. The pieces
# are called **tokens**: short words, parts of longer words, punctuation. All that you will see today follows from that.

# %%
workshop.model

# %% [markdown]
# **Parameters** are the numbers that training adjusted. The embedded model has a few million; GPT-J, this lab's classic,
# has six thousand million. A small model writes simple English about simple things. That is plenty to study how
# generation works, and every knob acts the same on a large one.
#
# ## 4. Package it: `model.tar.gz`
#
# SageMaker wants one archive. Ours has the model's files at the top, and a folder `code/` with `inference.py`. The
# container calls functions of that file by name:
#
# | function | is called | and does |
# |---|---|---|
# | `model_fn` | once, at the start | loads the weights |
# | `input_fn` | for each request | turns the request's bytes into Python |
# | `predict_fn` | for each request | runs the model |
# | `output_fn` | for each request | turns the result into bytes |
#
# You may leave out any of them; the container has defaults. Ours checks its input, batches requests that come at the same
# time, and streams. Open [code/inference.py](code/inference.py) and find the functions.

# %%
from shared.packaging import make_archive, upload

archive = make_archive("out/model.tar.gz", weights=workshop.model.weights, code="code")
archive

# %% [markdown]
# The line `sha256` is the archive's fingerprint. Pack the same files again and it stays the same, to the byte: that is
# how you know later what was deployed. Now the archive goes to S3, where SageMaker will look for it.

# %%
model_data = upload(archive, workshop.s3_uri("model"))
print(model_data)

# %% [markdown]
# ## 5. Create the model, the configuration, the endpoint
#
# Three calls, one for each noun of section 2. The first, `Model`, says which image and which archive belong together, and
# which role may read them. Nothing runs yet, and it costs nothing.

# %%
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

container = workshop.container(model_data)
view.table(container.items(), columns=["the container's", "value"])

# %%
name = workshop.name("model", container)
model = workshop.existing(Model, name) or Model.create(
    model_name=name,
    primary_container=ContainerDefinition(**container),
    execution_role_arn=workshop.role,
    tags=workshop.tags,
)
print(model.model_name)

# %% [markdown]
# `workshop.existing(...)` looks whether you made this one before. So you may run a cell twice without an error, or come
# back after lunch and go on where you were. The **tags** are labels on what you create; the last cell finds by them what
# to delete.
#
# Next the configuration: how many instances of which type. Each part of an endpoint that serves a share of the traffic is
# called a **variant**; we have one, for all of it.

# %%
variant = ProductionVariant(
    variant_name="AllTraffic",
    model_name=model.model_name,
    instance_type=workshop.model.instance_type,
    initial_instance_count=1,
    **workshop.model.variant_options,
)
name = workshop.name("config", variant.model_name, variant.instance_type)
config = workshop.existing(EndpointConfig, name) or EndpointConfig.create(
    endpoint_config_name=name, production_variants=[variant], tags=workshop.tags
)
print(config.endpoint_config_name)

# %% [markdown]
# And the endpoint. **From here on the clock runs**: on AWS you pay for the instance until you delete the endpoint,
# whether you call it or not.

# %%
name = workshop.name("endpoint")
uses = config.endpoint_config_name
endpoint = workshop.existing(Endpoint, name, endpoint_config_name=uses) or Endpoint.create(
    endpoint_name=name, endpoint_config_name=uses, tags=workshop.tags
)
workshop.watch(endpoint)

# %% [markdown]
# Read the log lines above. They come from the container: it starts, loads the model, and answers its first `/ping`; then
# the status turns from `Creating` to `InService`. When an endpoint ends as `Failed`, these lines nearly always say why.
#
# ## 6. The first prediction
#
# The endpoint takes JSON with the prompt under `inputs` and the settings under `parameters`. We use **boto3**, the plain
# AWS library for Python, so that nothing is hidden: this is the request that your own application would send.

# %%
import json

runtime = workshop.client("sagemaker-runtime")
prompt = workshop.model.prompts[0]

response = runtime.invoke_endpoint(
    EndpointName=endpoint.endpoint_name,
    ContentType="application/json",
    Body=json.dumps({"inputs": prompt, "parameters": {"max_new_tokens": 40}}),
)
answer = json.loads(response["Body"].read())
view.completions([{"prompt": prompt, "text": answer["generated_text"], "label": "first answer"}])

# %% [markdown]
# The dim part is your **prompt**, the rest was written by the model. `max_new_tokens` is how many tokens it may add. A
# token is not a word, so let us see some. With `"details": true` the endpoint says which tokens it chose and how sure it
# was of each.

# %%
def invoke(inputs, **parameters):
    """Send one prompt to the endpoint and return its answer as a dictionary."""
    body = json.dumps({"inputs": inputs, "parameters": parameters})
    response = runtime.invoke_endpoint(
        EndpointName=endpoint.endpoint_name, ContentType="application/json", Body=body
    )
    return json.loads(response["Body"].read())


# %%
from math import exp

details = invoke(prompt, max_new_tokens=12, details=True)["details"]
rows = [
    (token["id"], repr(token["text"]), f"{exp(token['log_prob']):.0%}") for token in details["tokens"]
]
view.table(rows, columns=["token id", "text", "probability"])

# %% [markdown]
# Mind the blanks: in most tokenizers the space belongs to the word that follows it. The last column is the probability
# that the model gave to the token that was taken. Where it is low, the text could have gone elsewhere.
#
# ## 7. One step of generation
#
# <img src="images/decoding.svg" alt="A loop. The text so far goes into the model; out comes a probability for every token; penalties, temperature, top-k and top-p change these probabilities; one token is picked; it is appended to the text, and the loop starts again until a stop rule holds." width="760">
#
# Generation is a loop of the step in this picture. All settings act in one of three places: they change the
# probabilities, they change how one token is picked from them, or they end the loop.
#
# So look at the probabilities themselves. `max_new_tokens=1` stops after one step; `top_n_tokens` asks for the most
# probable candidates.

# %%
def next_tokens(inputs, n=20):
    """The n most probable next tokens as (text, probability), most probable first."""
    details = invoke(inputs, max_new_tokens=1, details=True, top_n_tokens=n)["details"]
    return [(token["text"], exp(token["log_prob"])) for token in details["top_tokens"][0]]


candidates = next_tokens(prompt)
view.next_token_bars({"as the model computed it": candidates}, title="What may come next?")

# %% [markdown]
# This bar chart is what the model "thinks". To take the longest bar each time is called **greedy decoding**, and it is
# the default here: the same prompt gives the same answer, always. To roll a die whose faces have these sizes is called
# **sampling**, and you ask for it with `do_sample`.
#
# ## 8. Temperature
#
# **Temperature** $T$ reshapes the bars before the die is rolled: every probability $p_i$ becomes proportional to
# $p_i^{1/T}$. Below 1, tall bars grow and small ones vanish. Above 1, they level out. At 1 nothing changes.

# %%
def with_temperature(candidates, temperature):
    """Reshape the candidates' probabilities; they sum to one again, among themselves."""
    powers = [(text, p ** (1 / temperature)) for text, p in candidates]
    total = sum(power for _, power in powers)
    return [(text, power / total) for text, power in powers]


view.next_token_bars(
    {f"temperature {t}": with_temperature(candidates, t) for t in (0.3, 1.0, 1.5)},
    title="The same step at three temperatures",
)

# %% [markdown]
# That was a formula. Does the endpoint do it? Let us roll the die 100 times at each of six temperatures and count how often
# the most probable token comes up. Each call has a **seed**, the number that a random generator starts from, so that you
# get the counts that are printed here. Eight calls are under way at any time.

# %%
from collections import Counter
from concurrent.futures import ThreadPoolExecutor


def sample(inputs, count, **parameters):
    """Draw `count` answers, eight at a time, with the seeds 0, 1, 2, ..."""
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(invoke, inputs, do_sample=True, seed=seed, **parameters)
            for seed in range(count)
        ]
        return [call.result() for call in calls]


def first_tokens(inputs, count, **parameters):
    """Draw only the next token, `count` times."""
    answers = sample(inputs, count, max_new_tokens=1, details=True, **parameters)
    return [answer["details"]["tokens"][0]["text"] for answer in answers]


temperatures = [0.1, 0.3, 0.5, 0.7, 1.0, 1.5]
best = candidates[0][0]
measured = [first_tokens(prompt, 100, temperature=t).count(best) / 100 for t in temperatures]
by_formula = [dict(with_temperature(candidates, t))[best] for t in temperatures]

# %% [markdown]
# A count of 100 draws is itself a matter of chance. The band in the next figure is the **95% interval**: the range of true
# shares that would make such a count unsurprising (Wilson's formula).

# %%
def interval(share, n, z=1.96):
    """Wilson's 95% interval of a share that was measured on n draws, as (low, high)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return middle - half, middle + half


low, high = zip(*(interval(share, 100) for share in measured))
view.line_with_interval(
    temperatures,
    {"measured, 100 draws": (measured, low, high), "by the formula": (by_formula,) * 3},
    xlabel="temperature",
    ylabel=f"share of {best!r}",
    alt=f"Share of the most probable token, measured and by formula, from {measured[0]:.0%} and "
    f"{by_formula[0]:.0%} at temperature 0.1 to {measured[-1]:.0%} and {by_formula[-1]:.0%} at 1.5.",
)

# %% [markdown]
# The endpoint does what the formula says. Towards the right the formula may lie a little high: it only knows the twenty
# candidates that we asked for, and at a high temperature the thousands of others take their share.
#
# What does that do to whole texts? We draw 20 continuations at each temperature and measure two things:
#
# - **distinct-2**: of all pairs of neighbouring words in the 20 texts, the share that are different from each other. 0
#   would be one phrase over and over, 1 means that no pair comes twice: *variety*;
# - the **mean log-probability** that the unchanged model gives to the tokens that were taken. Closer to 0 is more
#   ordinary, further below is more surprising: *plausibility*.

# %%
def distinct_2(texts):
    pairs = [pair for text in texts for pair in zip(text.split(), text.split()[1:])]
    return len(set(pairs)) / max(1, len(pairs))


def mean_log_prob(answers):
    log_probs = [token["log_prob"] for answer in answers for token in answer["details"]["tokens"]]
    return sum(log_probs) / len(log_probs)


drawn = {
    t: sample(prompt, 20, temperature=t, max_new_tokens=30, details=True) for t in temperatures
}

# %%
rows = []
for t, answers in drawn.items():
    texts = [answer["generated_text"] for answer in answers]
    rows.append((t, len(set(texts)), f"{distinct_2(texts):.2f}", f"{mean_log_prob(answers):.2f}"))
view.table(
    rows, columns=["temperature", "different texts of 20", "distinct-2", "mean log-probability"]
)

# %%
view.completions(
    [
        {"prompt": prompt, "text": drawn[t][0]["generated_text"], "label": f"temperature {t}"}
        for t in temperatures
    ]
)

# %% [markdown]
# Variety is bought with plausibility: as one column rises the other falls. At 0.1 the texts hardly differ; at 1.5 the
# sentences fall apart. Useful values lie between, low for facts and code, near 1 for stories. There is no setting that makes a
# model know more.
#
# > **Try it.** Change `temperatures` to values between 0.7 and 1.2. At which one does the first sentence stop making sense?
#
# ## 9. Top-k and top-p: cut off the tail
#
# At temperature 1 the unlikely tokens are rolled now and then, each rare, together not rare at all. Two settings cut them
# off before the die is rolled:
#
# - **`top_k`** keeps the `k` most probable tokens, whatever their probabilities;
# - **`top_p`** keeps the fewest tokens whose probabilities add up to `p`: few where the model is sure, many where it is not.

# %%
def within_top_p(candidates, p):
    """The candidates that top_p keeps: in order, until their probabilities have reached p."""
    kept, total = [], 0.0
    for text, probability in candidates:
        kept.append(text)
        total += probability
        if total >= p:
            break
    return kept


cuts = {
    "no cut": ({}, None),
    "top_k = 2": ({"top_k": 2}, [text for text, _ in candidates[:2]]),
    "top_p = 0.8": ({"top_p": 0.8}, within_top_p(candidates, 0.8)),
}

# %%
rows = []
for label, (cut, kept) in cuts.items():
    drawn_tokens = first_tokens(prompt, 100, temperature=1.0, **cut)
    outside = "" if kept is None else sum(token not in kept for token in drawn_tokens)
    rows.append((label, "all" if kept is None else len(kept), len(set(drawn_tokens)), outside))
view.table(
    rows, columns=["setting", "tokens allowed", "different tokens in 100 draws", "draws outside"]
)

# %% [markdown]
# Without a cut, 100 draws give many different tokens. With one, no draw falls outside the allowed set. The allowed set of
# `top_p` depends on the place in the text. Here are two places, one where the next token is open and one where it is nearly
# settled:

# %%
settled = "Once upon a"
rows = []
for text in (prompt, settled):
    options = next_tokens(text)
    (token, probability), kept = options[0], within_top_p(options, 0.9)
    rows.append((text, repr(token), f"{probability:.0%}", len(kept)))
view.table(
    rows, columns=["text so far", "best next token", "its probability", "kept by top_p = 0.9 (of 20)"]
)

# %% [markdown]
# ## 10. The seed
#
# With the same seed and the same settings you get the same text, whatever else the endpoint computes at that moment.
# Without one, each call is a new roll.

# %%
settings = {"do_sample": True, "temperature": 1.0, "max_new_tokens": 15}
calls = [("seed 7", 7), ("seed 7 again", 7), ("seed 8", 8), ("no seed", None), ("no seed again", None)]
items = []
for label, seed in calls:
    answer = invoke(prompt, **settings, **({} if seed is None else {"seed": seed}))
    items.append({"prompt": prompt, "text": answer["generated_text"], "label": label})
view.completions(items)

# %% [markdown]
# ## 11. Penalties: stop repeating yourself
#
# Greedy decoding has a known fault: it runs in circles, since what was probable once is probable again. Three settings push down
# tokens that were used before:
#
# - **`presence_penalty`** $a$ multiplies the probability of each token that the *answer* already holds by $e^{-a}$ (0 is off);
# - **`frequency_penalty`** $a$ does so once for *each time* the token was used: $e^{-a \cdot count}$ (0 is off);
# - **`repetition_penalty`** lowers the score of each token that is in the *prompt or* the answer (1 is off; useful values
#   go up to about 1.3). It works on the model's raw scores, so it has no formula in probabilities: we will measure it.
#
# First the formulas. We let the model write greedily, and stop at the step where it takes a word that it has used most often.

# %%
steps = invoke(prompt, max_new_tokens=80, details=True, top_n_tokens=8)["details"]
chosen = [token["text"] for token in steps["tokens"]]
used_before = [
    chosen[:i].count(text) if text.strip().isalpha() else 0 for i, text in enumerate(chosen)
]
step = max(range(len(chosen)), key=used_before.__getitem__)
print("..." + "".join(chosen[max(0, step - 30) : step]), "|", chosen[step])
print(f"{chosen[step]!r} was used {used_before[step]} times before.")

# %%
def penalise(candidates, so_far, presence=0.0, frequency=0.0):
    """Apply the two penalties to (text, probability) pairs; they sum to one again."""
    counts = Counter(so_far)
    weights = [
        (text, p * exp(-presence * (counts[text] > 0) - frequency * counts[text]))
        for text, p in candidates
    ]
    total = sum(weight for _, weight in weights)
    return [(text, weight / total) for text, weight in weights]


candidates_here = [(token["text"], exp(token["log_prob"])) for token in steps["top_tokens"][step]]
view.next_token_bars(
    {
        "no penalty": penalise(candidates_here, chosen[:step]),
        "presence_penalty 1.5": penalise(candidates_here, chosen[:step], presence=1.5),
        "frequency_penalty 0.7": penalise(candidates_here, chosen[:step], frequency=0.7),
    },
    title=f"The step that took {chosen[step]!r} once more",
)

# %% [markdown]
# Bars of words that were used before have shrunk, and the others took their share. Now `repetition_penalty`, measured: we give the
# text up to that step as a prompt and draw the next token 200 times, without and with the penalty.

# %%
so_far = prompt + "".join(chosen[:step])
shares = {}
for label, penalty in {"no penalty": 1.0, "repetition_penalty 1.3": 1.3}.items():
    counts = Counter(first_tokens(so_far, 200, temperature=1.0, repetition_penalty=penalty))
    shares[label] = [(text, counts[text] / 200) for text, _ in candidates_here]
view.next_token_bars(shares, title="The same step, 200 draws each")

# %% [markdown]
# What do the penalties do to a whole text? We write 120 tokens greedily and measure the share of three-word runs that stand
# in the text more than once.

# %%
def repeated(text):
    """Share of the text's three-word runs that occur more than once in it."""
    words = text.split()
    runs = Counter(zip(words, words[1:], words[2:]))
    return sum(count for count in runs.values() if count > 1) / max(1, sum(runs.values()))


trials = {
    "none": {},
    "repetition_penalty 1.3": {"repetition_penalty": 1.3},
    "presence_penalty 1.5": {"presence_penalty": 1.5},
    "frequency_penalty 0.7": {"frequency_penalty": 0.7},
}
written = {
    label: invoke(prompt, max_new_tokens=120, **penalty)["generated_text"]
    for label, penalty in trials.items()
}
rows = [(label, len(text.split()), f"{repeated(text):.0%}") for label, text in written.items()]
view.table(rows, columns=["penalty", "words", "three-word runs that repeat"])

# %%
view.completions(
    [{"prompt": prompt, "text": text, "label": label} for label, text in written.items()]
)

# %% [markdown]
# Read the texts as well as the numbers. A penalty knows nothing of meaning: it also pushes down words that ought to come again,
# such as names, "the", or a full stop. Too much of it and the language breaks.
#
# ## 12. When it ends
#
# Generation ends for one of three reasons, and the answer says which: the number of tokens is used up (`length`), the
# model itself says that the text is finished (`eos_token`, for *end of sequence*), or one of your **stop** texts
# appears (`stop_sequence`). `return_full_text` puts your prompt before the answer.

# %% tags=["nbval-check-output"]
endings = {
    "max_new_tokens 8": {"max_new_tokens": 8},
    "max_new_tokens 200": {"max_new_tokens": 200},
    "stop at a full stop": {"max_new_tokens": 200, "stop": ["."]},
    "return_full_text": {"max_new_tokens": 8, "return_full_text": True},
}
rows = []
for label, parameters in endings.items():
    answer = invoke(prompt, details=True, **parameters)
    text, ended = answer["generated_text"], answer["details"]
    shown = f"{text[:50]} ... {text[-25:]}" if len(text) > 80 else text
    rows.append((label, ended["generated_tokens"], ended["finish_reason"], shown))
view.table(rows, columns=["setting", "tokens", "ended by", "text"])

# %% [markdown]
# ## 13. Streaming
#
# People read while the model still writes. A **streaming** call hands over each token as it is made. What counts for
# the reader is then the **time to first token**, not the time to the last.
#
# The call is another one, and the answer arrives as events. Each line in them is a JSON object with one token.

# %%
import time


def stream(inputs, **parameters):
    """Yield the answer's pieces of text as they arrive; note seconds and chunks in `seen`."""
    body = json.dumps({"inputs": inputs, "parameters": parameters, "stream": True})
    start = time.perf_counter()
    seen.update(first=None, chunks=0)
    response = runtime.invoke_endpoint_with_response_stream(
        EndpointName=endpoint.endpoint_name, ContentType="application/json", Body=body
    )
    pending = b""
    for event in response["Body"]:
        seen["first"] = seen["first"] or time.perf_counter() - start
        seen["chunks"] += 1
        *lines, pending = (pending + event["PayloadPart"]["Bytes"]).split(b"\n")
        for line in lines:
            if line.strip():
                yield json.loads(line)["token"]["text"]
    seen["last"] = time.perf_counter() - start


seen = {}
text = view.stream_text(stream(prompt, max_new_tokens=100, do_sample=True, temperature=0.7, seed=1))

# %%
how = "token by token" if seen["chunks"] > 1 else "in one piece: this server does not stream"
print(f"The text came {how}, in {seen['chunks']} chunks.")
print(f"First text after {seen['first'] * 1000:.0f} ms, last after {seen['last'] * 1000:.0f} ms.")

# %% [markdown]
# Servers differ here. The local one and the large-model images (LMI, vLLM) stream. The Hugging Face image, which serves
# the small models on AWS, hands the whole answer over in one chunk. The cell above works with both and says which it met.
#
# ## 14. What a bad request gets
#
# An endpoint is used by programs that other people wrote, so its errors have to say what is wrong. A bad request must
# cost neither the server nor the requests beside it. Five bad ones:

# %% tags=["nbval-check-output"]
from botocore.exceptions import ClientError

bad = {
    "not JSON": "Once upon a time",
    "no prompt": json.dumps({"parameters": {"max_new_tokens": 5}}),
    "temperature -1": json.dumps({"inputs": prompt, "parameters": {"temperature": -1}}),
    "a misspelt name": json.dumps({"inputs": prompt, "parameters": {"max_tokens": 5}}),
    "far too long": json.dumps({"inputs": prompt * 20_000}),
}
rows = []
for label, body in bad.items():
    try:
        runtime.invoke_endpoint(
            EndpointName=endpoint.endpoint_name, ContentType="application/json", Body=body
        )
        rows.append((label, "accepted", "", ""))
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["OriginalStatusCode"]
        rows.append((label, code, status, json.loads(error.response["OriginalMessage"])["message"]))
view.table(rows, columns=["request", "AWS's error", "container's status", "container's message"])

# %% [markdown]
# `ModelError` is AWS's word for "the container refused". The status 400 in the third column says that the caller is at
# fault, and the message names the mistake. The endpoint lives on:

# %% tags=["nbval-check-output"]
print(invoke(prompt, max_new_tokens=10)["generated_text"])

# %% [markdown]
# ## 15. Logs and metrics
#
# What the container prints goes to **CloudWatch Logs**, in a group named after the endpoint, and stays when the endpoint
# is gone.

# %%
print(workshop.log_group(endpoint))
print("\n".join(workshop.logs(endpoint, last=8)))

# %% [markdown]
# **CloudWatch metrics** count the calls and time them. `ModelLatency` is what the container took, `OverheadLatency` what
# SageMaker added, both in microseconds. On AWS they appear about a minute late; the cell says so if there is nothing yet.

# %%
from datetime import UTC, datetime, timedelta

cloudwatch = workshop.client("cloudwatch")
now = datetime.now(UTC)
rows = []
for metric, statistic in [
    ("Invocations", "Sum"),
    ("Invocation4XXErrors", "Sum"),
    ("ModelLatency", "Average"),
    ("OverheadLatency", "Average"),
]:
    points = cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint.endpoint_name},
            {"Name": "VariantName", "Value": "AllTraffic"},
        ],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=1),
        Period=3600,
        Statistics=[statistic],
    )["Datapoints"]
    value = f"{points[-1][statistic]:,.0f} {points[-1]['Unit']}" if points else "nothing yet"
    rows.append((metric, statistic, value))
view.table(rows, columns=["metric", "statistic", "last hour"])

# %% [markdown]
# ## 16. What it costs
#
# A real-time endpoint is rented by time, not by token. Busy or idle, an hour is an hour, so the price of a token depends on
# how well you use it. The instance's price is that of the catalogue; look it up before you rely on it.

# %% tags=["nbval-check-output"]
price = workshop.model.price_per_hour
rows = [
    ("this notebook, 30 minutes", price / 2),
    ("a working day, 8 hours", price * 8),
    ("forgotten over a weekend, 64 hours", price * 64),
    ("forgotten for a month, 730 hours", price * 730),
]
view.table(
    [(what, f"{usd:,.2f} USD") for what, usd in rows],
    columns=[f"one {workshop.model.instance_type}", "on AWS"],
)
print("Price:", workshop.model.price_note)
print(f"What this run costs per hour: {workshop.price_per_hour:.2f} USD ({workshop.backend}).")

# %% [markdown]
# The third row is the most common surprise on a bill. Hence the last section of every notebook of this workshop.
#
# ## 17. Play
#
# Move the sliders and press *Generate*. The line below it makes the same call without a widget.

# %%
def generate(inputs, **parameters):
    """The answer's text."""
    return invoke(inputs, **parameters)["generated_text"]


view.playground(generate, prompt=prompt, max_new_tokens=40)

# %%
print(generate(prompt, max_new_tokens=40, do_sample=True, temperature=0.8, top_p=0.9, seed=3))

# %% [markdown]
# ## 18. Clean up
#
# The cell deletes the endpoint (the clock stops), its configuration, the model and the archive in S3. Then it asks
# SageMaker and S3 what still carries this workshop's tags, which is the proof that nothing is left.

# %%
if KEEP:
    print("Kept for the next notebook, and on AWS still costing money:", endpoint.endpoint_name)
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - An endpoint is an image, a model archive, an instance and a configuration that ties them together. You created each
#   with one call.
# - A language model gives a probability to every possible next token. Greedy decoding takes the best, sampling rolls a die.
# - `temperature` trades plausibility for variety; `top_k` and `top_p` cut off the tail; penalties stop loops, and too much of
#   them breaks the language; a `seed` makes a sample repeatable.
# - Streaming shortens the wait for the first token, not the whole.
# - You pay for the hour. Delete what you do not use.
#
# **Check yourself** (answers in [solutions/1-deploy-an-llm.md](solutions/1-deploy-an-llm.md)):
#
# 1. Which of `temperature=0.3` and `top_k=3` can make an unlikely token impossible?
# 2. You set `top_p=0.9` and get the same token in every one of 100 draws. Is the endpoint broken?
# 3. A colleague wants the same answer every time and sets `seed=1`, `temperature=1`. What is simpler?
# 4. The endpoint was idle all night. What did the night cost?
#
# **Larger models.** Set `MODEL` in the first cell and run the notebook again: `"gpt-j-6b"` for this lab's classic, or one of the
# instruct models of the table in [README.md](README.md). On a laptop they must fit into memory; the notebook says so before it
# downloads anything.
#
# **Next:** the lab's second notebook, on prompting, is being written. Until then, play with section 17.
