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
# # Retrieve, and answer from what you found
#
# **Lab 1, notebook 3, to go further.** A language model knows what was in its training data, and nothing of your files, your
# customers or what happened this morning. In this notebook you give it a library: the question is looked up first, and what was
# found goes into the prompt. This is called **retrieval-augmented generation**, RAG for short.
#
# When you are done you will be able to
#
# - cut documents into passages, and say what a bad cut destroys;
# - search them by words (BM25) and by vectors (embeddings), and measure which search finds more;
# - train vectors to search, in seconds, and see where that training stops helping;
# - have the model answer from the passages, with a reference that can be checked;
# - split wrong answers into those that the search caused and those that the model caused;
# - add facts without training, and show what a false passage does, and a missing one.
#
# | | on your laptop | on AWS |
# |---|---|---|
# | **time** | about 45 minutes of reading, 2 of computing | an estimate: the same, and 5 to 10 minutes of waiting for the endpoint |
# | **cost** | nothing | one rented computer for as long as the endpoint exists: about 0.2 USD for three quarters of an hour with the embedded model |
# | **you need** | this repository, set up by `make jupyter` | a role that may use SageMaker and S3, and a quota of one instance |
#
# You should have done [notebook 1](1-deploy-an-llm.ipynb) (endpoints, prompts) and should know what a prompt with a context is
# ([notebook 2](2-prompting.ipynb)).

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
# The endpoint is that of notebook 1, made with the same calls. We start it now and do not wait: while it starts, we look
# at the documents.

# %%
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

from shared.packaging import make_archive, upload

archive = make_archive("out/model.tar.gz", weights=workshop.model.weights, code="code")
container = workshop.container(upload(archive, workshop.s3_uri("model")))
model_name = workshop.name("model", container)
workshop.existing(Model, model_name) or Model.create(
    model_name=model_name,
    primary_container=ContainerDefinition(**container),
    execution_role_arn=workshop.role,
    tags=workshop.tags,
)
print(model_name)

# %%
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
endpoint_name = workshop.name("endpoint")
endpoint = workshop.existing(
    Endpoint, endpoint_name, endpoint_config_name=config_name
) or Endpoint.create(
    endpoint_name=endpoint_name, endpoint_config_name=config_name, tags=workshop.tags
)
print(endpoint_name)

# %% [markdown]
# ## 1. The whole way, once
#
# <img src="images/retrieval.svg" alt="Two paths. Beforehand: documents are cut into passages, and the passages go into an index. For each question: the question goes to the search, which looks into the index and returns the best passages; passages and question together make the prompt; the model answers with a reference to a passage." width="820">
#
# The upper path runs once, and again when documents change. The lower one runs for each question. Each arrow can lose the answer,
# and a wrong answer at the end does not say which arrow it was. So we measure them one by one.
#
# ## 2. The documents
#
# They tell of a valley that does not exist: who lives where, who keeps a goat, which shop sells lamps and is closed on Monday. All of it
# was invented for this notebook (see [documents/README.md](documents/README.md)), so no model can have met it in its training. What the
# model gets right, it got from the passages, or by luck.

# %%
from retrieval import read_documents, read_questions, sentences

documents = read_documents("documents")
rows = [(name, len(sentences(text)), text[:95] + " ...") for name, text in documents.items()]
view.table(rows, columns=["document", "sentences", "begins"])

# %% [markdown]
# With the documents come questions whose answers we know, and the place of the sentence that states each. Without such a list
# nothing below could be measured; for your own documents, write it first. There are four kinds:

# %%
questions = read_questions("documents")
rows = []
for kind in ("same words", "other words", "misspelt", "no answer"):
    some = [q for q in questions if q.kind == kind]
    first = some[0]
    told = documents[first.file][first.start : first.end] if first.file else "(told nowhere)"
    rows.append((kind, len(some), first.question, told, first.answer))
view.table(rows, columns=["kind", "how many", "for example", "the documents say", "answer"])

# %% [markdown]
# "Misspelt" has a slip of the pen in the name, as people make them. A part of the questions is there to *choose* settings with; every
# figure that we report is *measured* on the others. Who chooses and measures with the same questions reports luck as skill.

# %%
choosing = [q for q in questions if q.use == "choose"]
measured = [q for q in questions if q.use == "measure" and q.answer]
unanswerable = [q for q in questions if not q.answer]
print(len(choosing), "to choose with,", len(measured), "to measure with")
print(len(unanswerable), "without an answer")

# %% [markdown]
# ## 3. Cut them into passages
#
# A whole document is too long for the prompt, and most of it has nothing to do with the question. So documents are cut into
# **passages** (also called *chunks*). Two numbers describe the simplest cut: the **size**, here in sentences, and the **overlap**, how
# many sentences two neighbours share.

# %%
from retrieval import Passage, paragraphs


def cut(documents, size, overlap=0):
    """Passages of `size` sentences each, which share `overlap` of them with the one before."""
    passages = []
    for name, text in documents.items():
        spans = sentences(text)
        for first in range(0, max(1, len(spans) - overlap), size - overlap):
            start, end = spans[first][0], spans[min(first + size, len(spans)) - 1][1]
            passages.append(Passage(name, start, end, " ".join(text[start:end].split())))
    return passages


for passage in cut(documents, size=3, overlap=1)[:3]:
    print(passage.start, passage.end, passage.text)

# %% [markdown]
# Read the second one. It begins with "It", and what "it" is stands in the passage before; then it goes on with another feast. Who
# reads only this passage learns something wrong. A cut can destroy a fact although every word is still there.
#
# How often? For each question we look whether some passage holds both, the sentence that answers it and the name of whom it is about. The
# last line of the table cuts where the authors of the documents did: at the paragraphs.

# %%
def cut_paragraphs(documents):
    """Cut each document into its paragraphs."""
    return [
        Passage(name, start, end, text[start:end])
        for name, text in documents.items()
        for start, end in paragraphs(text)
    ]


def whole(question, passages):
    """Whether a passage holds the answer's sentence and the name of whom the question is about."""
    name = question.about.removeprefix("the ")
    return any(question.stated_in(passage) and name in passage.text for passage in passages)


sizes = [(1, 0), (2, 1), (3, 1), (4, 2), (6, 3)]
cuts = {f"{n} sentences, overlap {o}": cut(documents, n, o) for n, o in sizes}
cuts["paragraphs"] = cut_paragraphs(documents)
rows = []
for label, passages in cuts.items():
    words = sum(len(passage.text.split()) for passage in passages) / len(passages)
    kept = sum(whole(q, passages) for q in measured) / len(measured)
    rows.append((label, len(passages), round(words), f"{kept:.0%}"))
view.table(rows, columns=["cut", "passages", "words each", "facts that kept their name"])

# %% [markdown]
# Longer passages and more overlap keep more facts whole, and make the index larger and the prompts longer. Where a text has a
# structure, such as headings, paragraphs or rows of a table, cut there. We go on with the paragraphs.

# %%
passages = cuts["paragraphs"]
texts = [passage.text for passage in passages]

# %% [markdown]
# ## 4. Search by words: BM25
#
# **BM25** is the search that most search engines begin with. A passage scores for each word of the question that it holds. A rare word
# counts more than a common one, a second occurrence less than the first, a word in a short passage more than in a long one. We use the
# library `bm25s`.

# %%
import bm25s


def words(texts):
    """Each text's words, in lower case."""
    return bm25s.tokenize(texts, stopwords=[], return_ids=False, show_progress=False)


def build_bm25(texts):
    """An index of the words of `texts`."""
    index = bm25s.BM25()
    index.index(words(texts), show_progress=False)
    return index


bm25 = build_bm25(texts)

# %%
def by_words(queries, index, count):
    """For each query the numbers of the `count` passages in `index`, best first."""
    return index.retrieve(words(queries), k=count, show_progress=False).documents.tolist()


def search_bm25(queries):
    """For each query the numbers of all our passages, best first, by BM25."""
    return by_words(queries, bm25, len(texts))


query = "Which shop sells lamps?"
for number in search_bm25([query])[0][:3]:
    print(texts[number])

# %% [markdown]
# How good is it? The usual measure is **recall at k**: the share of questions for which the right passage is among the first *k*.
# Behind each share stands its **95% interval**: the range of true shares that would make our count unsurprising.

# %%
from retrieval import in_words, share

KS = (1, 2, 3, 5, 10)
KINDS = ("same words", "other words", "misspelt")


def places_in(orders, questions):
    """At which place of each order the passage is that answers the question; 0 is the first."""
    return [
        next(place for place, number in enumerate(order) if q.stated_in(passages[number]))
        for q, order in zip(questions, orders)
    ]


def places(search, questions):
    """The same for the orders that `search` gives."""
    return places_in(search([q.question for q in questions]), questions)


found = {"BM25": places(search_bm25, measured)}
rows = []
for kind in KINDS:
    here = [place for place, q in zip(found["BM25"], measured) if q.kind == kind]
    rows.append((kind, *(in_words([place < k for place in here]) for k in (1, 3, 10))))
view.table(rows, columns=["BM25, by kind of question", "recall at 1", "at 3", "at 10"])

# %% [markdown]
# Strong where the question and the passage share the rare word, here the name, and weak where one letter differs: to BM25 a misspelt
# name is another word. It cannot know either that *pet* and *animal* have to do with each other.
#
# ## 5. Search by vectors
#
# A language model turns every token into a **vector**, a list of numbers, before it computes anything else. Tokens are pieces of words,
# so a misspelt name still shares some pieces with the right one; and tokens that occur in similar places have similar vectors. If the
# vectors of a text's tokens are averaged, the whole text becomes one vector: an **embedding**. Texts are then compared by the angle between
# their vectors.
#
# These vectors are computed in this notebook, with the embedded model's own weights.

# %%
import torch
from transformers import AutoModel, AutoTokenizer, logging

from shared.catalogue import EMBEDDED_FOLDER

logging.disable_progress_bar()
folder = workshop.model.weights or EMBEDDED_FOLDER
tokenizer = AutoTokenizer.from_pretrained(folder)
network = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def token_ids(text):
    """The text's tokens. The blank before it matters: without it, a first word has other tokens."""
    return tokenizer(" " + text, add_special_tokens=False).input_ids


for text in ("Timfund", "Timfnud", "She keeps a goat."):
    print(tokenizer.convert_ids_to_tokens(token_ids(text)))

# %% [markdown]
# (`Ġ` is how this tokenizer writes a blank.) The network has one vector per token at its input, and after each layer another, which
# also depends on the tokens before. Which of them is best to search with? We average each, and count with the questions for choosing.
#
# The nearest vectors are found by an **index**. For some hundreds of vectors, comparing with every one is the right way: exact, and
# quick. scikit-learn's `NearestNeighbors` does that.

# %%
import numpy as np
from sklearn.neighbors import NearestNeighbors


@torch.inference_mode()
def averages(texts):
    """Averages of each text's vectors, input and each layer: [texts, 1 + layers, width]."""
    runs = [
        network(torch.tensor([token_ids(text)]), output_hidden_states=True) for text in texts
    ]
    return np.array([[layer[0].mean(0).numpy() for layer in run.hidden_states] for run in runs])


def build_index(vectors):
    """An index that compares with every vector, by the angle."""
    return NearestNeighbors(metric="cosine", algorithm="brute").fit(vectors)


def by_vectors(queries, index):
    """For each query vector the numbers of all vectors in `index`, nearest first."""
    return index.kneighbors(queries, index.n_samples_fit_, return_distance=False).tolist()


# %%
of_passages = averages(texts)
of_questions = averages([q.question for q in choosing])
rows = []
for layer in range(of_passages.shape[1]):
    orders = by_vectors(of_questions[:, layer], build_index(of_passages[:, layer]))
    place = places_in(orders, choosing)
    label = "input" if layer == 0 else f"after layer {layer}"
    rows.append((label, *(f"{sum(p < k for p in place) / len(place):.0%}" for k in (1, 3, 10))))
view.table(rows, columns=["vectors", "recall at 1", "at 3", "at 10"])

# %% [markdown]
# No better than BM25 even at the input, and far worse deeper down. There is no mystery in it: the last layer's vectors were trained for one purpose, to say
# which token comes next. Nothing in that training asked that a question lie near its answer.
#
# The vectors at the input do better, and have two faults that can be repaired without training. Some are much longer than others
# and drown them in the average. And they all point more or less the same way, so that any two texts look alike. We cut them to equal
# length, and then turn and stretch the space until they spread evenly in all directions (**whitening**).

# %%
def whitened(vectors):
    """Unit vectors, then turned and scaled so that every direction has the same variance."""
    vectors = torch.nn.functional.normalize(vectors)
    vectors = vectors - vectors.mean(0)
    _, lengths, directions = torch.linalg.svd(vectors, full_matrices=False)
    return torch.nn.functional.normalize(vectors @ directions.T / lengths)


def embed(texts, vectors, weights):
    """One unit vector per text: the sum of its tokens' vectors, each times e to its weight."""
    ids = [token_ids(text) for text in texts]
    flat = torch.tensor([token for tokens in ids for token in tokens])
    starts = torch.tensor([0] + [len(tokens) for tokens in ids[:-1]]).cumsum(0)
    sums = torch.nn.functional.embedding_bag(
        flat, vectors, starts, mode="sum", per_sample_weights=weights[flat].exp()
    )
    return torch.nn.functional.normalize(sums)


def searcher(vectors, weights):
    """A search over our passages with these vectors and weights of tokens."""
    index = build_index(embed(texts, vectors, weights))
    return lambda queries: by_vectors(embed(queries, vectors, weights), index)


# %%
own = network.get_input_embeddings().weight.detach()
equal = torch.zeros(len(own))
for label, vectors in {"as they are": own, "whitened": whitened(own)}.items():
    place = places(searcher(vectors, equal), choosing)
    print(f"{label}: recall at 3 is {in_words([p < 3 for p in place])}")
found["model's own vectors, whitened"] = places(searcher(whitened(own), equal), measured)

# %% [markdown]
# ## 6. Train the vectors to search
#
# <img src="images/contrastive.svg" alt="A practice query and the passages as points. Training pulls the query towards the passage that it was made from, and pushes it away from all other passages." width="640">
#
# What a search needs, it can be trained for. Embedding models are language models with a second training, by **contrastive
# learning**: a query's vector is pulled towards its passage and pushed away from all other passages.
#
# Training needs pairs of query and passage. Real ones are best. Here we make them from the documents: a name and some words of a passage,
# now and then with a slip of the pen. What we train is small, one vector and one weight for each token, so that seconds suffice.
#
# One thing we must not forget: documents that come later were not there when the vectors were trained. So we lay three documents
# aside, train on the others, and look at both groups separately.

# %%
from random import Random

from retrieval import practice_query

ASIDE = {"residents-f-h.txt", "residents-n-s.txt", "feasts.txt"}
trained_on = [n for n, passage in enumerate(passages) if passage.file not in ASIDE]
rng = Random(0)
for number in trained_on[:3]:
    print(practice_query(rng, texts[number]), " ->", texts[number])

# %%
import time

vectors = whitened(own).clone().requires_grad_()
weights = equal.clone().requires_grad_()
optimizer = torch.optim.Adam([{"params": [vectors], "lr": 3e-3}, {"params": [weights], "lr": 0.03}])
known = [texts[number] for number in trained_on]
start, losses = time.perf_counter(), []
for _ in range(150):
    batch = rng.sample(range(len(known)), 64)
    queries = [practice_query(rng, known[number]) for number in batch]
    alike = embed(queries, vectors, weights) @ embed(known, vectors, weights).T
    loss = torch.nn.functional.cross_entropy(alike / 0.05, torch.tensor(batch))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} in {time.perf_counter() - start:.1f} s")

# %% [markdown]
# `alike` holds how near each query is to each passage. The loss is that of a choice among all passages: it is small when the
# right one is by far the nearest. Dividing by 0.05, the *temperature* of this choice, makes small differences count.

# %%
vectors, weights = vectors.detach(), weights.detach()
search_trained = searcher(vectors, weights)
found["trained vectors"] = places(search_trained, measured)

# %% [markdown]
# ## 7. Two searches in one
#
# BM25 and vectors fail on different questions, so one may help the other out. Their scores cannot be added, for they have different units.
# But their *places* can. **Reciprocal rank fusion** gives a passage $1 / (60 + \text{place})$ from each list and adds up. Search engines
# call the combination **hybrid search**.

# %%
def fuse(orders, constant=60):
    """Join several lists, each best first, into one, by reciprocal rank fusion."""
    scores = {}
    for order in orders:
        for place, number in enumerate(order, 1):
            scores[number] = scores.get(number, 0) + 1 / (constant + place)
    return sorted(scores, key=scores.get, reverse=True)


def search_both(queries):
    """BM25 and the trained vectors, fused."""
    return [fuse(orders) for orders in zip(search_bm25(queries), search_trained(queries))]


found["both, fused"] = places(search_both, measured)

# %% [markdown]
# Now all four, by kind of question. Bands are 95% intervals.

# %%
from matplotlib import pyplot


def panels(found, groups, title):
    """Recall at k of every search, a panel for each group: {name: [is the question in it?]}."""
    view.style()
    size = (3.1 * len(groups) + 0.6, 3.6)
    figure, axes = pyplot.subplots(1, len(groups), figsize=size, sharey=True)
    described = []
    for axis, (group, members) in zip(axes, groups.items()):
        for (name, place), colour, marker in zip(found.items(), view.COLOURS, "osD^"):
            here = [p for p, member in zip(place, members) if member]
            middle, low, high = zip(*(share([p < k for p in here]) for k in KS))
            axis.plot(range(len(KS)), middle, color=colour, marker=marker, markersize=5, label=name)
            axis.fill_between(range(len(KS)), low, high, color=colour, alpha=0.15, linewidth=0)
            described.append(f"{group}, {name}: {middle[0]:.0%} at 1, {middle[2]:.0%} at 3.")
        axis.set(title=f"{group} ({sum(members)})", xlabel="k", ylim=(0, 1.03))
        axis.set_xticks(range(len(KS)), KS)
        axis.grid(axis="y")
    axes[0].set_ylabel("recall at k")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    view.show(figure, alt=f"{title}: " + " ".join(described))


by_kind = {kind: [q.kind == kind for q in measured] for kind in KINDS}
panels(found, by_kind, "Recall at k by kind of question")

# %% [markdown]
# And the same figures, split by whether the vectors were trained on the document that holds the answer:

# %%
new = [q.file in ASIDE for q in measured]
panels(
    found,
    {"documents of the training": [not n for n in new], "documents laid aside": new},
    "Recall at k, known and new documents",
)

# %% [markdown]
# Three things to take from the two figures:
#
# - The same model's vectors are another search as they are, spread evenly, and trained. "Embeddings" is not one thing: ask what was
#   done to them, what they were trained for, and on what.
# - On documents that the training did not see, its gain over the whitened vectors is gone, or nearly: compare the two in both panels. BM25
#   was never trained, so it has nothing to lose there.
# - Fusion is at its best where both searches are good and fail differently. Where one of the two is far better, the other pulls
#   it down: look at the misspelt names, and at the documents laid aside.
#
# So no search is best everywhere, and you choose by questions like those that will be asked. We take the one that has most of the answers among
# its first three for the questions we choose with:

# %%
searches = {"BM25": search_bm25, "trained vectors": search_trained, "both, fused": search_both}
recall = {}
for name, search in searches.items():
    recall[name] = [place < 3 for place in places(search, choosing)]
    print(f"{name}: recall at 3 is {in_words(recall[name])}")
chosen = max(recall, key=lambda name: sum(recall[name]))
search = searches[chosen]
print("We go on with:", chosen)

# %% [markdown]
# **How large may it get?** Our index compares the query with every vector. That is exact, and its time grows with their number:

# %%
rows = []
for count in (1_000, 10_000, 100_000):
    many = np.random.default_rng(0).standard_normal((count, own.shape[1]), dtype=np.float32)
    index = build_index(many)
    start = time.perf_counter()
    index.kneighbors(many[:20], 10)
    milliseconds = 1000 * (time.perf_counter() - start) / 20
    rows.append((f"{count:,}", f"{milliseconds:.2f}", f"{many.nbytes / 1e6:.0f} MB"))
view.table(rows, columns=["vectors", "milliseconds per query", "memory"])

# %% [markdown]
# For millions of vectors one uses an **approximate** index, which looks at a small part of them and may miss a neighbour. The best known is
# **HNSW**, a graph that one walks from neighbour to nearer neighbour; `faiss`, OpenSearch and most vector databases have it. Below some
# hundred thousand vectors you rarely need one.
#
# ## 8. Answer from the passages
#
# Now the endpoint. The prompt lists the passages with numbers, then the question. The answer is to end with the number of the passage
# it came from.

# %%
workshop.watch(endpoint)

# %%
import json
from concurrent.futures import ThreadPoolExecutor

runtime = workshop.client("sagemaker-runtime")


def generate(prompt):
    """Send one prompt to the endpoint; return the first line of its greedy answer."""
    parameters = {"max_new_tokens": 16, "do_sample": False, "stop": ["\n"]}
    response = runtime.invoke_endpoint(
        EndpointName=endpoint_name,
        ContentType="application/json",
        Body=json.dumps({"inputs": workshop.model.prompt(prompt), "parameters": parameters}),
    )
    return json.loads(response["Body"].read())["generated_text"].strip()


def generate_all(prompts):
    """All answers, sixteen requests at a time, so that the server can compute them together."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(generate, prompts))

# %%
def prompt_for(question, passages=()):
    """The passages, numbered from 1, then the question."""
    lines = [f"[{number}] {text}" for number, text in enumerate(passages, 1)]
    return "\n".join([*lines, f"Question: {question}", "Answer:"])


def best(questions, k, search=search):
    """For each question the texts of the `k` best passages."""
    orders = search([q.question for q in questions])
    return [[texts[number] for number in order[:k]] for order in orders]


example = next(q for q in measured if q.matter == "home")
prompt = prompt_for(example.question, best([example], k=3)[0])
text = " " + generate(prompt)
view.completions([{"prompt": prompt, "text": text, "label": "with three passages"}])

# %% [markdown]
# The same question without passages, and some more of both:

# %%
from retrieval import is_right

some = measured[::40]
without = generate_all([prompt_for(q.question) for q in some])
having = generate_all([prompt_for(q.question, p) for q, p in zip(some, best(some, 3))])
rows = [(q.question, a, b, q.answer) for q, a, b in zip(some, without, having)]
view.table(rows, columns=["question", "without passages", "with three passages", "right answer"])

# %% [markdown]
# Without passages the model still writes something: an instrument where one was asked for, a name out of the question, now and then `not given`. It was trained to
# continue text, not to stay silent. We measure this now, on all questions, for prompts with no passage up to five.
#
# An answer counts as right if the right words stand in it. (For an exact match a model that answers in whole sentences would be wrong each
# time.)

# %%
def answer_all(questions, passages_of):
    """The answers to `questions`, each with its own passages in the prompt."""
    return generate_all([prompt_for(q.question, p) for q, p in zip(questions, passages_of)])


def right(questions, answers):
    """For each question whether its answer is right."""
    return [is_right(answer, q.answer) for q, answer in zip(questions, answers)]


given = {k: best(measured, k) for k in (0, 1, 2, 3, 5)}
answers = {k: answer_all(measured, given[k]) for k in given}
outcomes = {k: right(measured, answers[k]) for k in given}
print("without passages:", in_words(outcomes[0]))

# %%
place = places(search, measured)
in_passages = {k: [p < k for p in place] for k in given}
series = {
    "the passages hold the answer": [share(in_passages[k]) for k in given],
    "the answer is right": [share(outcomes[k]) for k in given],
}
view.line_with_interval(
    list(given),
    {name: tuple(zip(*values)) for name, values in series.items()},
    xlabel="passages in the prompt",
    ylabel="share of questions",
    alt="; ".join(
        f"{name}: " + ", ".join(f"{value[0]:.0%} at {k}" for k, value in zip(given, values))
        for name, values in series.items()
    ),
)

# %% [markdown]
# The upper line is the search, the lower one the whole. The gap between them is what the *reading* costs. More passages raise the upper line
# and give the reader more to confuse: from some number on the lower line does not rise any more, and every passage more only costs time and money. A small reader is confused
# early. Find the best number in your own measurement, not in an article.

# %%
K = max(given, key=lambda k: sum(outcomes[k]))
print(f"Best here: {K} passages, {in_words(outcomes[K])} right.")
print(f"Without passages: {in_words(outcomes[0])}.")

# %% [markdown]
# ## 9. Can we believe it? Faithfulness and references
#
# In use nobody has a list of right answers. Two checks need none: is what the model says in the passages at all (**faithfulness**), and does
# the passage that it refers to say it? A program can make both checks while the reader waits, and withhold an answer that fails.

# %%
from retrieval import references, without_references


def faithful(answer, passages):
    """Whether the words of the answer stand in one of the passages."""
    return any(is_right(text, without_references(answer)) for text in passages)


def reference_holds(answer, passages):
    """Whether the passage that the answer refers to first has the words of the answer."""
    numbers = [n for n in references(answer) if 1 <= n <= len(passages)]
    return bool(numbers) and is_right(passages[numbers[0] - 1], without_references(answer))


rows = []
for k in [k for k in given if k]:
    pairs = list(zip(answers[k], given[k]))
    checked = [reference_holds(*pair) for pair in pairs]
    kept = [ok for ok, good in zip(outcomes[k], checked) if good]
    dropped = [ok for ok, good in zip(outcomes[k], checked) if not good]
    rows.append(
        (
            k,
            in_words([faithful(*pair) for pair in pairs]),
            in_words([bool(references(answer)) for answer in answers[k]]),
            in_words(checked),
            in_words(kept) if kept else "none",
            in_words(dropped) if dropped else "none",
        )
    )
view.table(
    rows,
    columns=["passages", "answer is in the passages", "gives a reference", "reference holds",
             "right, where it holds", "right, where it does not"],
)  # fmt: skip

# %% [markdown]
# Compare the last two columns. Where the first of them is far higher, a reference that holds is a sign of a right answer. It is never a
# proof: an answer can stand word for word in a passage that speaks of somebody else. And the sign itself can fail. Look for a line where
# few references hold although many answers are right: there the model reads well and writes the wrong number, and the check would
# withhold good answers. So measure a check, too, before you switch it on.
#
# ## 10. Who is to blame?
#
# When an answer is wrong, was the passage missing (then improve the search) or was it there (then improve the prompt or the model)? The
# table splits the questions for a prompt of three passages.

# %%
def blame(members, k=3):
    """Shares of the four cases among the questions that `members` marks, as text."""
    cases = [(p < k, ok) for p, ok, member in zip(place, outcomes[k], members) if member]
    order = [(True, True), (True, False), (False, False), (False, True)]
    return [f"{sum(case == wanted for case in cases) / len(cases):.0%}" for wanted in order]


groups = {kind: [q.kind == kind for q in measured] for kind in KINDS}
groups["about residents"] = [q.file.startswith("residents") for q in measured]
groups["about shops and feasts"] = [not q.file.startswith("residents") for q in measured]
groups["all"] = [True] * len(measured)
rows = [(name, sum(members), *blame(members)) for name, members in groups.items()]
view.table(
    rows,
    columns=["questions", "how many", "found, read right", "found, read wrong", "not found, wrong",
             "not found, right"],
)  # fmt: skip

# %% [markdown]
# "Found, read wrong" is a **reading error**, "not found, wrong" a **search error**. The last column is luck, or a second place that says
# the same. Work on the larger column first. What would a perfect search bring? Give the model the right passage and nothing else:

# %%
passage_of = {q: next(p.text for p in passages if q.stated_in(p)) for q in measured}
alone = right(measured, answer_all(measured, [[passage_of[q]] for q in measured]))
with_bm25 = right(measured, answer_all(measured, best(measured, 3, search_bm25)))
rows = [
    ("the right passage alone", in_words(alone)),
    (f"three passages by {chosen}", in_words(outcomes[3])),
    ("three passages by BM25", in_words(with_bm25)),
]
view.table(rows, columns=["the model gets", "right answers"])

# %% [markdown]
# The first line is the most that any search can give this reader. The rest, up to 100%, is up to the model. Where does it stumble?

# %%
from collections import defaultdict

by_matter = defaultdict(list)
for q, ok in zip(measured, alone):
    by_matter[q.matter].append((q.kind == "other words", ok))


def count_right(cases):
    """How many of the cases are right, as text."""
    return f"{sum(ok for _, ok in cases)} of {len(cases)}"


def share_right(matter):
    """The share of right answers of this matter."""
    return sum(ok for _, ok in by_matter[matter]) / len(by_matter[matter])


rows = []
for matter in sorted(by_matter, key=share_right):
    cases = by_matter[matter]
    same, other = [c for c in cases if not c[0]], [c for c in cases if c[0]]
    rows.append((matter, count_right(same), count_right(other)))
view.table(rows, columns=["asked for", "right, the text's words", "right, other words"])

# %% [markdown]
# ## 11. New facts, without training
#
# The valley got a new document this morning. We cut it, put it into the index, and ask. Nothing is trained, neither the language
# model nor the vectors.

# %%
news = {
    "news.txt": "Kitge came to the valley in spring. She lives in Winpin. "
    "She works as a weaver."
    "\n\nThe Amber Kite is a new shop in Trivat. It belongs to Kitge."
    "\n\nVovosim has left the school. He works as a sailor. He keeps an owl as a pet."
}
asked = {
    "Where does Kitge live?": "Winpin",
    "What does Kitge work as?": "a weaver",
    "In which town is the Amber Kite?": "Trivat",
    "To whom does the Amber Kite belong?": "Kitge",
    "What does Vovosim work as?": "a sailor",
    "What pet does Vovosim keep?": "an owl",
}


def answer_from(texts, orders):
    """The answers to what is asked, each with the three best of `texts` in its prompt."""
    best_three = [[texts[number] for number in order[:3]] for order in orders]
    return generate_all([prompt_for(q, three) for q, three in zip(asked, best_three)])


before = answer_from(texts, search(list(asked)))

# %%
start = time.perf_counter()
texts_now = texts + [passage.text for passage in cut_paragraphs(news)]
bm25_now = build_bm25(texts_now)
index_now = build_index(embed(texts_now, vectors, weights))
milliseconds = 1000 * (time.perf_counter() - start)
print(f"{len(texts_now) - len(texts)} passages more, in {milliseconds:.0f} ms")

# %%
lists = (
    by_words(list(asked), bm25_now, len(texts_now)),
    by_vectors(embed(asked, vectors, weights), index_now),
)
after = answer_from(texts_now, [fuse(pair) for pair in zip(*lists)])
rows = [(q, a, b, asked[q]) for q, a, b in zip(asked, before, after)]
view.table(rows, columns=["question", "before", "after", "right answer"])

# %%
print("right before:", sum(map(is_right, before, asked.values())), "of", len(asked))
print("right after:", sum(map(is_right, after, asked.values())), "of", len(asked))

# %% [markdown]
# For new passages we searched with both searches fused, since the vectors were not trained on them and BM25 needs no training. (Section 7 shows what that is worth: the vectors alone would have done.) To take a fact
# away is as easy: remove its passage. From a model's weights you cannot remove a fact.
#
# ## 12. When the passage is wrong
#
# The model believes what it reads. We replace the answer in the right passage by another one of the same kind and ask again. Then
# we put both into the prompt, the true passage and the false one.

# %%
rng = Random(1)
kinds_of_answers = defaultdict(set)
for q in questions:
    kinds_of_answers[q.matter].add(q.answer)
lies = {}
for q in measured[::2]:
    sentence = documents[q.file][q.start : q.end]
    other = rng.choice(sorted(kinds_of_answers[q.matter] - {q.answer}))
    lies[q] = (other, passage_of[q].replace(sentence, sentence.replace(q.answer, other)))
q, (other, text) = next(iter(lies.items()))
print(q.question, "\ntrue: ", passage_of[q], "\nfalse:", text)

# %%
prompts = {
    "the false passage alone": [[lies[q][1]] for q in lies],
    "first the true one, then the false": [[passage_of[q], lies[q][1]] for q in lies],
    "first the false one, then the true": [[lies[q][1], passage_of[q]] for q in lies],
}
rows = []
for label, given_passages in prompts.items():
    said = answer_all(list(lies), given_passages)
    follows = [is_right(answer, lies[q][0]) for q, answer in zip(lies, said)]
    rows.append((label, in_words(follows), in_words(right(list(lies), said))))
view.table(rows, columns=["the prompt holds", "gives the false answer", "gives the true answer"])

# %% [markdown]
# With the false passage alone, the lie is repeated, and with a reference that holds. Faithfulness is not truth: a system with retrieval is
# as good as its documents. So ask of yours: who may write them, how old are they, which one wins when two contradict each other? Whoever can put a
# text into your index can put words into your model's mouth (**prompt injection**, when the text is an order).
#
# ## 13. When no passage has the answer
#
# For the questions without an answer the search still returns something: it always returns the *nearest*. May the model decline? We
# compare a prompt without and with a first line that permits it. The price of this permission is questions that have an answer and
# are declined too, so we count both.

# %%
PERMISSION = 'Answer from the context. If it does not say, answer "not given".\n'


def declines(answer):
    """Whether the answer is that there is none."""
    return "not given" in answer.lower()


answerable = measured[::3]
rows = []
for label, line in {"no": "", "yes": PERMISSION}.items():
    nothing = generate_all(
        [line + prompt_for(q.question, p) for q, p in zip(unanswerable, best(unanswerable, 3))]
    )
    something = generate_all(
        [line + prompt_for(q.question, p) for q, p in zip(answerable, best(answerable, 3))]
    )
    rows.append(
        (
            label,
            in_words([declines(answer) for answer in nothing]),
            in_words([declines(answer) for answer in something]),
            in_words(right(answerable, something)),
        )
    )
view.table(
    rows,
    columns=["permission", "declined: no answer exists", "declined: an answer exists",
             "right: an answer exists"],
)  # fmt: skip

# %%
view.table(
    [(q.question, answer) for q, answer in zip(unanswerable[:6], nothing)],
    columns=["told nowhere", "answer with the permission"],
)

# %% [markdown]
# Where it does not decline, it invents, and the invention looks like an answer. Besides the permission, one can refuse when the best passage is too far
# away from the question, or let the check of section 9 decide.
#
# ## 14. Prompt, retrieve, fine-tune, or train anew?
#
# Four ways to bring a model to what you need. They can be combined, and the order of the lines is a good order to try them in.
#
# | | it changes | you need | new facts | you control | a start costs | each call costs |
# |---|---|---|---|---|---|---|
# | **prompt** | the text before the question | some examples | by hand | wording, format, tone | an hour | longer prompts |
# | **retrieve** | what stands in the prompt | your documents, an index, questions to test with | within seconds, and removable | which sources, with references, with rights per reader | days | a search, and prompts longer by the passages |
# | **fine-tune** | some or all weights | hundreds to thousands of examples of good answers | not a good way to store facts | style, format, a skill | hours of a GPU, then again at each change | as before, or less: prompts get shorter |
# | **pre-train** | all weights, from random | billions of tokens or more | in the next training | everything, and you answer for everything | from days of one GPU to months of thousands | a model of the size that you chose |
#
# A rule of thumb: what changes or must be proved belongs into retrieval; *how* to answer belongs into the prompt, and into fine-tuning when
# the prompt does not suffice. Lab 2 fine-tunes.
#
# ## 15. The same on AWS, at scale
#
# | here | on AWS |
# |---|---|
# | text files | objects in S3 |
# | `cut` | Bedrock **Knowledge Bases** cut on their own: by default about 300 tokens with whole sentences, or fixed size with overlap, hierarchical, semantic, or not at all |
# | our trained vectors | an embedding model, such as Titan Text Embeddings V2 on Bedrock (`amazon.titan-embed-text-v2:0`: 256, 512 or 1,024 numbers, up to 8,192 tokens), or one of the Hugging Face Hub on a SageMaker endpoint with the image `huggingface-tei` (variable `HF_MODEL_ID`) |
# | `NearestNeighbors` | **OpenSearch**: a field of type `knn_vector` with HNSW, in a cluster or serverless; or S3 Vectors, Aurora PostgreSQL with pgvector |
# | `bm25s` | the same OpenSearch index: BM25 is how it scores text |
# | `fuse` | OpenSearch's `hybrid` query; reciprocal rank fusion is built in from version 2.19 on |
# | our two loops | the Knowledge Base's API: `Retrieve` returns passages, `RetrieveAndGenerate` an answer with citations |
# | our endpoint | the same, with a larger `MODEL`; or a model of Bedrock |
#
# With `Retrieve` and an endpoint of your own you keep this notebook's prompt and its checks, and hand over the cutting and the index.
# Between search and prompt, large systems often put a **reranker**: a model that reads question and passage together, slower and more
# exact than comparing vectors, and so used on the first fifty only. A cost to watch: an OpenSearch cluster is rented by the hour, whether
# one asks or not.
#
# ## 16. Clean up

# %%
if KEEP:
    print("Kept, and on AWS still costing money:", endpoint_name)
else:
    workshop.cleanup()

# %% [markdown]
# ## What you learned
#
# - Retrieval puts what the model cannot know into its prompt. Accuracy went from near nothing to what the last figures of section 8 show, without
#   any training of the language model.
# - A system has two parts that fail on their own: the search and the reader. Measure recall at k for the one, the share right with the
#   right passage for the other.
# - Words find names and numbers; vectors find other wordings and misspellings, if they were trained to search. Fusing both helps where they
#   are about equally good.
# - References can be checked by a program. They show where an answer comes from, not that it is true: a false passage is believed.
# - The model answers even when no passage has the answer. Permission to decline helps, and costs some right answers.
#
# **Exercises** (answers in [solutions/3-retrieve-and-answer.md](solutions/3-retrieve-and-answer.md)):
#
# 1. Let `words` in section 4 cut a final *s* off each word ("lives", "live"). What happens to BM25's recall at 1 for other words, and why?
# 2. In section 3, use the cut of 3 sentences with overlap 1 for the whole notebook (`passages = cuts[...]`). Which of the two columns of blame
#    in section 10 grows?
# 3. A colleague reports "recall 100%, so our answers are right". What did he not measure?
# 4. Your documents hold an old price list and a new one. Which line of section 12 tells what will happen, and what would you do about it?
#
# **Larger models.** Set `MODEL` to one of the instruct models of the [README](README.md). The prompts are the same plain text. Expect fewer
# reading errors and more declined questions; whether references come depends on whether the model takes up the format.
#
# **Next:** [4-smaller-and-faster](4-smaller-and-faster.ipynb) makes the model cheaper to run.
