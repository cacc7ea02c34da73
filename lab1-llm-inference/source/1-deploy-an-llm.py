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
# | **time** | about 30 minutes of reading, 2 of computing | an estimate: the same, and 5 to 10 minutes of waiting for the endpoint |
# | **cost** | nothing | the price of one rented computer for as long as the endpoint exists: about 0.12 USD for half an hour with the embedded model |
# | **you need** | this repository, set up by `make jupyter` | a role that may use SageMaker and S3, and the right (a *quota*) to rent one computer of the type shown below |
#
# You should know some Python. You need no machine learning. Words in **bold** are explained where they first appear.
#
# > **In SageMaker Studio**, run this line once in a terminal, from the repository's folder, before you begin:
# > `pip install -r requirements.txt`

# %% [markdown]
# ## 1. Choose where it runs, and which model
#
# Three settings. `BACKEND = "auto"` means AWS if you are inside SageMaker Studio, else a SageMaker that runs on this very
# machine. `MODEL = "embedded"` is a small language model that came with this repository; the end of this notebook names
# larger ones. `KEEP = False` means that the last cell deletes what you made.

# %% tags=["parameters"]
BACKEND = "auto"  # "auto", "local" or "sagemaker"
MODEL = "embedded"  # or another name of the table in this lab's README.md
KEEP = False  # True keeps the endpoint when the notebook ends

# %%
import sys

sys.path.insert(0, "..")  # the folder that holds `shared`, the code that all labs use
from shared import display as view  # IPython has a `display` of its own
from shared.workshop import Workshop

workshop = Workshop(lab="1", backend=BACKEND, model=MODEL)
workshop

# %% [markdown]
# The card above is worth a look before you spend anything: the AWS account that pays and the **region** (the place on
# earth) where it happens, the **role** (the identity that SageMaker takes on when it works for you), the **bucket** (a named store
# in S3, Amazon's storage for files), and the model. On a laptop, account and role are made up.
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
# We deploy a *real-time* endpoint: it is there all the time and answers at once.
#
# SageMaker starts the instance, runs the image, unpacks your archive into `/opt/ml/model`, and asks the container over and
# over, "are you there?" (`GET /ping`, to be answered within 2 seconds). Once it says yes, each call to the endpoint becomes a
# `POST /invocations` to the container, which has 60 seconds to answer.
#
# On a laptop the same steps happen with the same requests. The "instance" is your own machine and the "container" a
# process of its own. What else differs stands in a table in [its README](../shared/local_sagemaker/README.md).
#
# ## 3. The model
#
# A **language model** computes one thing: given some text, how probable is each possible next piece of text. The pieces
# are called **tokens**: short words, parts of longer words, punctuation. All that you will see today follows from that.

# %%
workshop.model

# %% [markdown]
# **Parameters**, or **weights**, are the numbers that training adjusted. (The word has a second meaning: in section 6, `parameters` are the
# settings of a request.) The embedded model has a few million; GPT-J, this lab's classic, has 6 billion. A small model
# writes simple English about simple things. That is plenty to study how generation works: every knob acts the same on a large one.
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
# You may leave out any of them; the container has defaults. Ours checks its input and, where the server in the container allows it
# (section 13), computes requests that come at the same time together and streams. Open
# [code/inference.py](code/inference.py) and find the functions.
#
# (The larger models of the catalogue are fetched by the container itself; then the archive holds only `code/`, or is not used at all.)

# %%
from shared.packaging import make_archive, upload

archive = make_archive("out/model.tar.gz", weights=workshop.model.weights, code="code")
archive

# %% [markdown]
# `sha256` is the archive's fingerprint. It depends on the content alone: pack the same files again and it is the same, so
# you can tell later what was deployed.

# %%
again = make_archive("out/again.tar.gz", weights=workshop.model.weights, code="code")
print("the same to the byte:", again.sha256 == archive.sha256)

# %% [markdown]
# Now the archive goes to S3, where SageMaker will look for it. The first digits of the fingerprint are part of its address.

# %%
model_data = upload(archive, workshop.s3_uri("model"))
print(model_data)

# %% [markdown]
# ## 5. Create the model, the configuration, the endpoint
#
# Three calls: `Model` joins image and archive, `EndpointConfig` adds the instance, `Endpoint` starts it. We make them with
# the **SageMaker Python SDK**, Amazon's library for this. A `Model` also says which role may read the archive. Nothing runs yet,
# and it costs nothing.

# %%
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

container = workshop.container(model_data)
view.table(container.items(), columns=["the container's", "value"])

# %%
model_name = workshop.name("model", container)
model = workshop.existing(Model, model_name) or Model.create(
    model_name=model_name,
    primary_container=ContainerDefinition(**container),
    execution_role_arn=workshop.role,
    tags=workshop.tags,
)
print(model_name)

# %% [markdown]
# `workshop.existing(...)` looks whether you made this one before (and deletes it if it failed or does not fit any more). So you may
# run a cell twice without an error, or come back after lunch and go on where you were. The **tags** are labels on what
# you create; the last cell finds by them what to delete.
#
# Next the configuration: how many instances of which type. Each part of an endpoint that serves a share of the traffic is
# called a **variant**; we have one, for all of it.

# %%
variant = ProductionVariant(
    variant_name="AllTraffic",
    model_name=model_name,
    instance_type=workshop.model.instance_type,
    initial_instance_count=1,
    **workshop.model.variant_options,
)
config_name = workshop.name("config", model_name, workshop.model.instance_type)
config = workshop.existing(EndpointConfig, config_name) or EndpointConfig.create(
    endpoint_config_name=config_name, production_variants=[variant], tags=workshop.tags
)
print(config_name)

# %% [markdown]
# And the endpoint. **From here on the clock runs**: on AWS you pay for the instance until you delete the endpoint,
# whether you call it or not.

# %%
endpoint_name = workshop.name("endpoint")
endpoint = workshop.existing(
    Endpoint, endpoint_name, endpoint_config_name=config_name
) or Endpoint.create(
    endpoint_name=endpoint_name, endpoint_config_name=config_name, tags=workshop.tags
)
workshop.watch(endpoint)

# %% [markdown]
# The lines with a bar come from the container: it looks whether the packages that `code/requirements.txt` asks for are there,
# imports your `inference.py`, and loads the model. SageMaker meanwhile keeps asking `/ping`; after the first answer the
# status turns from `Creating` to `InService`. When an endpoint ends as `Failed`, these lines nearly always say why. (If the
# endpoint was there already, you only see `InService`.)
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
    EndpointName=endpoint_name,
    ContentType="application/json",
    Body=json.dumps({"inputs": prompt, "parameters": {"max_new_tokens": 40}}),
)
answer = json.loads(response["Body"].read())
view.completions([{"prompt": prompt, "text": answer["generated_text"], "label": "first answer"}])

# %% [markdown]
# The dim part is your **prompt**, the rest was written by the model. `max_new_tokens` is how many tokens it may add. A
# token is not a word, so let us see some. With `"details": true` the endpoint says which tokens it chose, and gives the
# natural logarithm of the probability of each, `log_prob`, as the unchanged model computed it; `exp` turns it back.

# %%
def invoke(inputs, **parameters):
    """Send one prompt to the endpoint and return its answer as a dictionary."""
    parameters = {"do_sample": False, **parameters}  # some servers would sample by default
    body = json.dumps({"inputs": inputs, "parameters": parameters})
    response = runtime.invoke_endpoint(
        EndpointName=endpoint_name, ContentType="application/json", Body=body
    )
    return json.loads(response["Body"].read())


# %%
from math import exp


def log_prob(token):
    """The token's log-probability; the LMI image spells the name in another way."""
    return token["log_prob"] if "log_prob" in token else token["logprob"]


details = invoke(prompt, max_new_tokens=12, details=True)["details"]
rows = [(t["id"], repr(t["text"]), f"{exp(log_prob(t)):.0%}") for t in details["tokens"]]
view.table(rows, columns=["token id", "text", "probability"])

# %% [markdown]
# Mind the blanks: in most tokenizers the space belongs to the word that follows it. The last column is the probability
# that the model gave to the token that was taken. Where it is low, the text could have gone elsewhere.
#
# ## 7. One step of generation
#
# <img src="images/decoding.svg" alt="A loop. The text so far goes into the model; out comes a probability for every token; penalties, temperature, top-k and top-p change these probabilities; one token is picked; it is appended to the text, and the loop starts again until a stop rule holds." width="760">
#
# Generation is a loop of the step in this picture. The settings that steer the text act in one of three places: they
# change the probabilities, they change how one token is picked from them, or they end the loop.
#
# So look at the probabilities themselves. `max_new_tokens=1` stops after one step; `top_n_tokens` asks for the most
# probable candidates.

# %%
from collections import Counter


def next_tokens(inputs, n=20):
    """The n most probable next tokens as (text, probability), most probable first."""
    details = invoke(inputs, max_new_tokens=1, details=True, top_n_tokens=n)["details"]
    if "top_tokens" in details:
        return [(token["text"], exp(log_prob(token))) for token in details["top_tokens"][0]]
    # The LMI image gives no candidates: count 100 draws instead (sections 8 and 10 explain how).
    rolls = [{"do_sample": True, "max_new_tokens": 1, "seed": seed} for seed in range(100)]
    drawn = Counter(invoke(inputs, **roll)["generated_text"] for roll in rolls)
    return [(text, count / 100) for text, count in drawn.most_common(n)]


candidates = next_tokens(prompt)
view.next_token_bars({"as the model computed it": candidates}, title="What may come next?")

# %% [markdown]
# This bar chart is what the model "thinks". To take the longest bar each time is called **greedy decoding**, and it is
# the default here: the same prompt gives the same answer. To roll a die whose faces have these sizes is called
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
# That was a formula. Does the endpoint do it? We draw the next token 100 times at each of six temperatures, and count how often
# the most probable one comes up. Each call has a **seed**, the number that a random generator starts from, so that a second
# run on this machine counts the same. To save time, eight calls are under way at once.

# %%
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


print(first_tokens(prompt, 10, temperature=1.0))

# %%
temperatures = [0.1, 0.3, 0.5, 0.7, 1.0, 1.5]
best = candidates[0][0]
measured = [first_tokens(prompt, 100, temperature=t).count(best) / 100 for t in temperatures]
by_formula = [dict(with_temperature(candidates, t))[best] for t in temperatures]
view.table(
    [(t, f"{m:.0%}", f"{f:.0%}") for t, m, f in zip(temperatures, measured, by_formula)],
    columns=["temperature", f"drew {best!r}", "by the formula"],
)

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
    {
        "measured, 100 draws": (measured, low, high),
        "by the formula": (by_formula, by_formula, by_formula),  # exact, so its band has no width
    },
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
    log_probs = [log_prob(token) for answer in answers for token in answer["details"]["tokens"]]
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
# Variety is bought with plausibility: as distinct-2 rises, the log-probability falls. At the lowest temperature the texts
# share nearly all their word pairs; at the highest the sentences fall apart. Which value is best depends on the use: read the texts and
# choose. None of them makes a model know more.
#
# > **Try it.** Change `temperatures` to values between 0.7 and 1.2. At which one does the first sentence stop making sense?
#
# ## 9. Top-k and top-p: cut off the tail
#
# At temperature 1 each unlikely token is drawn rarely, but there are so many that together they do come up. Two settings cut
# them off before the die is rolled:
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
draws = {
    label: first_tokens(prompt, 100, temperature=1.0, **cut) for label, (cut, _) in cuts.items()
}
view.next_token_bars(
    {
        label: [(text, tokens.count(text) / 100) for text, _ in candidates]
        for label, tokens in draws.items()
    },
    title="100 draws each",
)

# %%
rows = []
for label, (cut, kept) in cuts.items():
    outside = "" if kept is None else sum(token not in kept for token in draws[label])
    texts = [a["generated_text"] for a in sample(prompt, 20, temperature=1.0, max_new_tokens=30, **cut)]
    allowed = "all" if kept is None else len(kept)
    rows.append((label, allowed, len(set(draws[label])), outside, f"{distinct_2(texts):.2f}"))
view.table(
    rows, columns=["setting", "tokens allowed", "drawn in 100", "of them not allowed", "distinct-2"]
)

# %% [markdown]
# With a cut, no draw falls outside the allowed set, and whole texts vary less (distinct-2 of 20 continuations of 30 tokens). The
# allowed set of `top_p` depends on the place in the text. Here are two places, one where the next token is open and one where
# it is nearly settled:

# %%
settled = "Once upon a"
rows = []
for text in (prompt, settled):
    options = next_tokens(text)
    token, probability = options[0]
    kept = len(within_top_p(options, 0.9))
    rows.append((text, repr(token), f"{probability:.0%}", kept))
view.table(
    rows, columns=["text so far", "best next token", "its probability", "kept by top_p = 0.9"]
)

# %% [markdown]
# ## 10. The seed
#
# With the same seed and the same settings you get the same text, on the same machine and model. Without one, each call is a
# new roll.

# %%
settings = {"do_sample": True, "temperature": 1.0, "max_new_tokens": 15}
calls = [("seed 7", {"seed": 7}), ("seed 7 again", {"seed": 7}), ("seed 8", {"seed": 8})]
calls += [("no seed", {}), ("no seed again", {})]
items = []
for label, extra in calls:
    answer = invoke(prompt, **settings, **extra)
    items.append({"prompt": prompt, "text": answer["generated_text"], "label": label})
view.completions(items)

# %% [markdown]
# Does it hold when the endpoint is busy? Eight seeds one after the other, then the same eight at once, computed in one batch:

# %%
alone = [invoke(prompt, **settings, seed=seed)["generated_text"] for seed in range(8)]
settings.pop("do_sample")  # `sample` sets it
together = [answer["generated_text"] for answer in sample(prompt, 8, **settings)]
same = sum(a == b for a, b in zip(alone, together))
print(f"{same} of 8 texts are the same, and {len(set(alone))} differ from each other.")

# %% [markdown]
# ## 11. Penalties: stop repeating yourself
#
# Greedy decoding has a known fault: it runs in circles, since what was probable once is probable again. Three settings push down
# tokens that were used before:
#
# - **`presence_penalty`** $a$ takes each token that is already in the *answer* and multiplies its probability by $e^{-a}$ (0 is
#   off);
# - **`frequency_penalty`** $a$ does so once for *each time* the token was used: $e^{-a \cdot count}$ (0 is off);
# - **`repetition_penalty`** lowers each token that is in the *prompt or* the answer (1 is off; useful values go up to about
#   1.3). It works on the model's raw scores, before they are made into probabilities, so we will measure it instead.
#
# After that all probabilities are scaled to a sum of one again. First the formulas. We let the model write greedily, and look
# for the step that repeats its most-used word.

# %%
answer = invoke(prompt, max_new_tokens=80, details=True)
chosen = [token["text"] for token in answer["details"]["tokens"]]
step, most = 0, 0
for i, text in enumerate(chosen):
    used = chosen[:i].count(text)
    if text.strip().isalpha() and used > most:
        step, most = i, used
print("..." + "".join(chosen[max(0, step - 30) : step]), "|", chosen[step])
print(f"{chosen[step]!r} was used {most} times before.")

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


so_far = prompt + "".join(chosen[:step])
candidates_here = next_tokens(so_far, 8)
view.next_token_bars(
    {
        "no penalty": penalise(candidates_here, chosen[:step]),
        "presence_penalty 1.5": penalise(candidates_here, chosen[:step], presence=1.5),
        "frequency_penalty 0.7": penalise(candidates_here, chosen[:step], frequency=0.7),
    },
    title=f"The step that took {chosen[step]!r} once more",
)

# %% [markdown]
# Bars of words that were used before have shrunk, and the others took their share. (The figure knows the 8 best candidates.)
# Does the endpoint do it? The formula predicts where a greedy answer with the penalty must part from the one without:
# at the first step where another token wins. Let us ask the endpoint.

# %%
rows = []
for setting, value in [("presence", 1.5), ("frequency", 0.7)]:
    for predicted in range(len(chosen)):
        options = next_tokens(prompt + "".join(chosen[:predicted]), 8)
        penalised = penalise(options, chosen[:predicted], **{setting: value})
        winner = max(penalised, key=lambda pair: pair[1])[0]
        if winner != chosen[predicted]:
            break
    answer = invoke(prompt, max_new_tokens=80, details=True, **{f"{setting}_penalty": value})
    written = [token["text"] for token in answer["details"]["tokens"]]
    parted = next((i for i, (a, b) in enumerate(zip(chosen, written)) if a != b), -1)
    rows.append((f"{setting}_penalty {value}", predicted, repr(winner), parted, repr(written[parted])))
view.table(rows, columns=["setting", "predicted step", "token", "step of the endpoint", "its token"])

# %% [markdown]
# Now `repetition_penalty`, measured: we give the text up to the step of the figure as a prompt and draw the next token 200
# times, without and with the penalty.

# %%
shares = {}
for label, penalty in {"no penalty": 1.0, "repetition_penalty 1.3": 1.3}.items():
    counts = Counter(first_tokens(so_far, 200, temperature=1.0, repetition_penalty=penalty))
    shares[label] = [(text, counts[text] / 200) for text, _ in candidates_here]
view.next_token_bars(shares, title="The same step, 200 draws each")

# %% [markdown]
# What do the penalties do to a whole text? We take an opening after which greedy decoding runs in circles, let it write 60 tokens,
# and measure the share of three-word runs that stand in the text more than once.

# %%
def repeated(text):
    """Share of the text's three-word runs that occur more than once in it."""
    words = text.split()
    runs = Counter(zip(words, words[1:], words[2:]))
    return sum(count for count in runs.values() if count > 1) / max(1, sum(runs.values()))


circle = "The capital of France is"
trials = {
    "no penalty": {},
    "presence_penalty 1.5": {"presence_penalty": 1.5},
    "frequency_penalty 0.7": {"frequency_penalty": 0.7},
    "repetition_penalty 1.3": {"repetition_penalty": 1.3},
}
written = {
    label: invoke(circle, max_new_tokens=60, **penalty)["generated_text"]
    for label, penalty in trials.items()
}
rows = [(label, len(text.split()), f"{repeated(text):.0%}") for label, text in written.items()]
view.table(rows, columns=["penalty", "words", "three-word runs that repeat"])

# %%
view.completions(
    [{"prompt": circle, "text": text, "label": label} for label, text in written.items()]
)

# %% [markdown]
# A penalty knows nothing of meaning. It also pushes down words that ought to come again: names, "the", a full stop. Read what
# happens to the story when we turn `repetition_penalty` up. Do people keep their names? Do the sentences hold? (What we saw is in
# [solutions/1-deploy-an-llm.md](solutions/1-deploy-an-llm.md).)

# %%
items = []
for penalty in (1.0, 1.3, 2.0):
    text = invoke(prompt, max_new_tokens=90, repetition_penalty=penalty)["generated_text"]
    items.append({"prompt": prompt, "text": text, "label": f"repetition_penalty {penalty}"})
view.completions(items)

# %% [markdown]
# ## 12. When it ends
#
# Generation ends for one of three reasons, and the answer says which: the number of tokens is used up (`length`), the
# model itself says that the text is finished (`eos_token`, for *end of sequence*), or one of your **stop** texts
# appears (`stop_sequence`); the stop text itself is left out of the answer. `return_full_text` puts your prompt before the
# answer.

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
# Streaming has its own call. The answer arrives in chunks of bytes; put together they are lines, each a JSON object with one
# token.

# %%
import time

seen = {}


def stream(inputs, **parameters):
    """Yield the answer's pieces of text as they arrive; note seconds, tokens and chunks in `seen`."""
    body = json.dumps({"inputs": inputs, "parameters": parameters, "stream": True})
    seen.update(start=time.perf_counter(), first=None, tokens=0, chunks=0)
    response = runtime.invoke_endpoint_with_response_stream(
        EndpointName=endpoint_name, ContentType="application/json", Body=body
    )
    buffer = b""
    for event in response["Body"]:
        seen["chunks"] += 1
        seen["first"] = seen["first"] or time.perf_counter() - seen["start"]
        buffer += event["PayloadPart"]["Bytes"]
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            seen["tokens"] += 1
            yield json.loads(line)["token"]["text"]
    seen["last"] = time.perf_counter() - seen["start"]


settings = {"max_new_tokens": 100, "do_sample": True, "temperature": 0.7, "seed": 1}
text = view.stream_text(stream(prompt, **settings))

# %%
start = time.perf_counter()
whole = invoke(prompt, **settings)["generated_text"]
seconds = time.perf_counter() - start
print(f"{seen['tokens']} tokens came in {seen['chunks']} chunk(s).")
if seen["chunks"] == 1:
    print("This server does not stream: it sent the whole answer at once.")
print(f"Streamed: first text after {seen['first']:.3f} s, the last after {seen['last']:.3f} s.")
print(f"Not streamed: everything after {seconds:.3f} s. The same text: {whole == text}.")

# %% [markdown]
# Servers differ here. The local one streams, and so do AWS's images for large models (LMI, for *large model inference*, and
# vLLM). The Hugging Face image, which serves the small models on AWS, hands the whole answer over in one chunk. The cell
# works with both and says which it met.
#
# ## 14. What a bad request gets
#
# An endpoint is used by programs that other people wrote, so its errors have to say what is wrong. A bad request must not
# stop the server or disturb other requests. Five bad ones:

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
            EndpointName=endpoint_name, ContentType="application/json", Body=body
        )
        rows.append((label, "accepted", "", ""))
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["OriginalStatusCode"]
        message = json.loads(error.response["OriginalMessage"])
        rows.append((label, code, status, message.get("message", message)))
view.table(rows, columns=["request", "AWS's error", "container's status", "container's message"])

# %% [markdown]
# `ModelError` means that the container did not answer with success. This image gives the status 400 for any error in your
# code, so it is the message that counts: here each names the mistake and what would be right. The endpoint lives on:

# %% tags=["nbval-check-output"]
print(invoke(prompt, max_new_tokens=10)["generated_text"])

# %% [markdown]
# ## 15. Logs and metrics
#
# What the container prints goes to **CloudWatch Logs**, Amazon's store for log lines, in a group named after the endpoint. It stays when
# the endpoint is gone. The bad requests of section 14 left tracebacks there; here are their last lines.

# %%
print(workshop.log_group(endpoint))
print("\n".join(line for line in workshop.logs(endpoint, last=120) if "Error:" in line))

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
            {"Name": "EndpointName", "Value": endpoint_name},
            {"Name": "VariantName", "Value": "AllTraffic"},
        ],
        StartTime=now - timedelta(minutes=58),
        EndTime=now + timedelta(minutes=2),
        Period=3600,
        Statistics=[statistic],
    )["Datapoints"]
    rows.append((metric, statistic, points[0][statistic] if points else "nothing yet"))
view.table(rows, columns=["metric", "statistic", "last hour"])

# %% [markdown]
# ## 16. What it costs
#
# A real-time endpoint is rented by time, not by token: busy or idle, an hour is an hour. The price comes from a table in
# this repository; check it on AWS's pricing page before you rely on it.

# %% tags=["nbval-check-output"]
price = workshop.model.price_per_hour
print("Price:", workshop.model.price_note)
print(f"This run costs {workshop.price_per_hour:.2f} USD per hour ({workshop.backend}).")
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

# %% [markdown]
# So the price of a token depends on how well you use the hour. What would it be if this endpoint were kept busy by one caller,
# or by eight? (Measured on the machine that serves it now, priced as the instance on AWS.)

# %%
rows = []
for callers in (1, 8):
    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        calls = [pool.submit(invoke, prompt, max_new_tokens=60, details=True) for _ in range(16)]
        tokens = sum(call.result()["details"]["generated_tokens"] for call in calls)
    rate = tokens / (time.perf_counter() - start)
    rows.append((callers, f"{rate:,.0f}", f"{price / (rate * 3600) * 1_000_000:.2f} USD"))
view.table(rows, columns=["callers", "tokens per second", "a million tokens"])

# %% [markdown]
# An hour without calls costs the same, and its tokens are infinitely dear. Hence the last section of every notebook of this
# workshop.
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
# The cell deletes the endpoint (the clock stops), its configuration, the model and the archive in S3. Then it lists again what
# carries this workshop's tags and what lies in this lab's folder in S3: the proof that nothing is left. The log group stays,
# to be read later, and costs a fraction of a cent. On AWS, remember that Studio itself is billed until you stop it.

# %%
if KEEP:
    print("Kept, and on AWS still costing money:", endpoint_name)
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - An endpoint is an image, a model archive, an instance and a configuration that ties them together. You made it with three
#   calls: `Model`, `EndpointConfig`, `Endpoint`.
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
# instruct models (trained to follow instructions) of the table in [README.md](README.md). On a laptop they must fit into memory; the notebook says so before it
# downloads anything.
#
# **Next:** the lab's second notebook, on prompting, is being written. Until then, play with section 17.
