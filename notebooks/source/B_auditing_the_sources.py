# %% [markdown]
# # B. Auditing the sources
#
# This course did not fall from the sky.
# It began with five documents on causal attention: a blog article, two lessons, a textbook chapter and a post with a session at the prompt.
# They are good documents, written by people who know the subject and gave their time to explain it.
# They also contain errors, as everything does that people write, this course included.
# Here we check them: every number, every code fragment, every claim that can be computed, tested or looked up.
# The aim is not to score our colleagues. It is to learn how one reads a technical text, and what errors look like from outside.

# %% [markdown]
# ## What you will be able to do
#
# - Split a text into claims, and say for each what would settle it: a computation, an experiment, a reference, or nothing.
# - Find a wrong table of weights in ten seconds, without a computer.
# - Tell from an error how it may have come about, and how far that can be told.
# - Recognise a claim that is true of a part and printed of the whole, and a true result with a wrong reason.
# - Say, when two sources contradict each other, who is right and when.
#
# **Before you start.** Chapters [1](01_contract.ipynb) to [6](06_prefix_lm.ipynb); a look at [7](07_flash_on_gpu.ipynb) helps.
# The documents themselves are not part of the course, and you do not need them: claims are given in our words, numbers as they were printed.

# %%
import math

import numpy as np
import torch

from course_lib.costs import kv_cache_bytes
from course_lib.factcheck import (
    DOCUMENTS,
    REASONS,
    load_claims,
    load_disagreements,
    load_numbers,
    settle,
    settle_all,
)
from course_lib.factcheck.figures import Page, claims_page, disagreements_page, verdicts_view
from course_lib.factcheck.record import parse
from course_lib.figures.plot import Grid, grids
from course_lib.lesson import table
from course_lib.masks import Mask, causal, prefix_lm

torch.set_num_threads(1)
claims = load_claims()

# %% [markdown]
# ## What there is to check
#
# Two lists were made before anything was judged.
# The first holds every number that the documents print, line by line.
# The second holds their claims.
# Making the lists first matters: whoever starts by looking for errors finds those that are easy to find, and stops.

# %%
numbers = load_numbers()
for number, document in DOCUMENTS.items():
    printed = sum(len(row.tokens) for row in numbers if row.document == number)
    made = sum(claim.document == number for claim in claims.values())
    counts = f"{document.words:>6,} words{printed:>6,} numbers{made:>4} claims"
    print(f"{number}  {document.name:<21}{counts}")
total = sum(len(row.tokens) for row in numbers)
print(f"in all {total:,} numbers and {len(claims)} claims")

# %% [markdown]
# Each claim gets one of five verdicts.
#
# | verdict | means | rests on |
# |---|---|---|
# | holds | true as it stands | a computation that runs here |
# | wrong | false as it stands | a computation that runs here |
# | depends | true in one case, false in another | a computation of both cases |
# | cited | a matter of record | a reference, which agrees, agrees in part, or differs |
# | not knowable | nobody outside can tell | the reason why |
#
# The first three come out of a check: it compares something, and the verdict follows from the comparison.
# Code is not copied: a check replays a fragment in our words, and so tests what it does, not how it was typed.
# (The record holds them as well, and a cell at the end compares the two.)
# Look at one.

# %%
print(claims["004.24"].says)
print(settle("004.24"))

# %% [markdown]
# Token 1 has 0.92, and it is token 0 that has everything.
# An index one too high, in a sentence beside a table that is entirely right.

# %% [markdown]
# ## Three tables
#
# Here are three printed tables of attention weights under a causal mask.
# The first is said to be the softmax of scores that are printed beside it, the second to be a pattern of GPT-2, the third is one row, masked, from four scores.

# %%
for key in ("000.11", "001.07", "003.11"):
    rows = claims[key].printed if key != "003.11" else claims[key].printed[2:]
    print(f"{DOCUMENTS[key[:3]].name}:")
    print("\n".join(f"   {row}" for row in rows))

# %% [markdown]
# **Predict.** Which of these three tables is wrong, or which are?
# You have half a minute, no computer, and you do not know the scores.
#
# <details><summary>What one can use without knowing the scores</summary>
#
# Weights come out of a softmax.
# So no entry is negative, each row sums to 1 (up to the rounding of its entries), the first row of a causal table is 1 and then zeros, and everything above the diagonal is 0.
#
# </details>

# %%
for key in ("000.11", "001.07", "003.11"):
    rows = parse(claims[key].printed if key != "003.11" else claims[key].printed[2:])
    print(f"{DOCUMENTS[key[:3]].name:<21} row sums:", " ".join(f"{row.sum():.2f}" for row in rows))

# %% [markdown]
# The second table is wrong in every row, its first entry to begin with: a token that sees only itself gives itself 1.00, not 0.40.
# The first is wrong in its last row.
# The third sums to 1, and a sum of 1 proves nothing yet.
#
# **Predict.** Row 2 of the first table (0.30, 0.55, 0.15) sums to 1.00. Is it right?
# Now you need the scores: they were 0.7, 1.3 and 0.2.

# %%
scores = np.array(parse(claims["000.10"].given))
exact = np.exp(np.where(causal().matrix(4), scores, -np.inf))
exact /= exact.sum(axis=1, keepdims=True)
print("printed")
print("\n".join(f"   {row}" for row in claims["000.11"].printed))
print("recomputed")
print(table(exact, digits=2))
print("the library's check:", settle("000.11"))

# %% [markdown]
# Three entries of that row are wrong as well, and they add up to 1.
# So a row sum is a quick test that convicts, and never one that acquits.

# %% [markdown]
# ## What an error tells about its origin
#
# Can one find out how a wrong row came about?
# Each printed weight is $e^{s}$ divided by some number, the same for the whole row.
# Rounding leaves an interval for that number. Let us see whether one number fits the row.

# %%
for i in (1, 2, 3):
    printed = parse(claims["000.11"].printed)[i][: i + 1]
    powers = np.exp(scores[i, : i + 1])
    low, high = powers / (printed + 0.005), powers / (printed - 0.005)
    spans = "  ".join(f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True))
    common = f"{low.max():.2f} to {high.min():.2f}" if low.max() < high.min() else "none"
    print(f"row {i}: divided by {spans}")
    print(f"       one number that fits all: {common}; the true sum is {powers.sum():.2f}")

# %% [markdown]
# Row 1 is right.
# In row 3 all four weights fit one denominator between 9.08 and 9.24, where the sum is 8.37: the exponentials were right, and the sum was not.
# In row 2 the first two weights were divided by too little, and the third fits nothing: it looks as if it had been filled in so that the row adds up.
# Whether a person slipped or a program wrote what looked likely, the numbers do not say, and we do not guess.
#
# The second table invites a guess too.
# Zeros on the future and rows that sum to less than 1 are what you get by masking *after* the softmax (chapter 3).
#
# **Predict.** One row of that table refutes this guess. Which?

# %%
missing = 1 - np.array([row.sum() for row in parse(claims["001.07"].printed)])
for i, share in enumerate(missing):
    print(f"row {i}: {share:.2f} of the weight is missing; blocked keys: {4 - i}")

# %% [markdown]
# The last row.
# It has no future, so masking late takes nothing from it, and still 0.35 is missing.
# The likeliest reading is that these numbers were drawn by hand to show a pattern, and called GPT-2's.
# An invented illustration is a fine thing, as long as it is called one and obeys the rules of what it illustrates.
#
# Now the opposite case: a table that gives itself away as genuine.
# The post prints a session: random $x$ (not shown), its scores $x x^\top / \sqrt{4}$, the weights, and the output, weights times $x$.
#
# **Predict.** $x$ was never printed. Can the scores be checked at all?

# %%
weights, output = (np.array(parse(claims[key].printed)) for key in ("004.22", "004.25"))
x = np.linalg.solve(weights, output)  # output = weights @ x, and weights is triangular
print("x, recovered:")
print(table(x))
gap = np.abs(x @ x.T / math.sqrt(4) - np.array(parse(claims["004.18"].printed))).max()
print(f"its scores differ from the printed ones by at most {gap:.4f}")

# %% [markdown]
# Three tables, and they hang together to the last digits.
# Nobody makes that up by hand: this session was run.
# It is worth knowing for your own texts: paste what the machine printed, and a reader can check it even without your seed.

# %% [markdown]
# ## A number that slipped
#
# **Predict.** The article multiplies $2 \times 61 \times 128 \times 128 \times 128{,}000 \times 2$ bytes, for keys and values, layers, heads, head size, tokens and bytes a number.
# Round each factor to a power of two or ten and multiply in your head. Is it nearer to 5, 50 or 500 gigabytes?

# %%
print("by hand:    ", f"{2 * 61 * 128 * 128 * 128_000 * 2 / 1e9:.1f} GB")
print("the library:", f"{kv_cache_bytes(61, 128, 128, 128_000) / 1e9:.1f} GB")
print("printed:     50+ GB")
print(settle("000.24"))

# %% [markdown]
# A factor of ten, in a sentence that writes out all the factors: the printed product refutes the printed result.
# Errors of this kind survive because everyone reads the product and nobody multiplies.
#
# The next sentence says that MLA saves 93%.
# That number is published, and it is not about this cache.

# %%
print(settle("000.26"))

# %% [markdown]
# It compares two *other* models, and comes out only if the newer one stores its numbers in 6 bits (chapter 5 tells the story).
# **A percentage has two ends.** When a text gives one, ask: of what, and against what?

# %% [markdown]
# ## Code that runs, and is wrong
#
# The short lesson prints an attention layer with a cache.
# In our words, its mask is a lower triangle with as many rows as there are *new* tokens and as many columns as there are keys.

# %%
T_NEW, S = 1, 5
as_printed = torch.tril(torch.ones(T_NEW, S)).bool().numpy()
by_position = causal().matrix(np.arange(S - T_NEW, S), S)
keys = [f"t{j}" for j in range(S)]
grids(
    [
        Grid(as_printed, ["t4"], keys, "as printed", kind="mask"),
        Grid(by_position, ["t4"], keys, "by position", kind="mask"),
    ]
)

# %% [markdown]
# **Predict.** Does this code raise an error?
# Does the contract tester of chapter 1 find anything?
# And what will a reader see who trains with it?

# %%
print("without a cache:", settle("001.09"))
print("with a cache:   ", settle("001.10"))
print("keys opened that must be closed:", int((as_printed & ~by_position).sum()))
print("keys closed that should be open:", int((by_position & ~as_printed).sum()))

# %% [markdown]
# No error, no leak, and perfect training: without a cache the triangle is square, and right.
# Only generation goes wrong, where every new token sees the very first key and nothing else.
# This bug has shipped in serious projects ([museum](A_mask_bug_museum.ipynb), room 5).
# The tests to have: feed a text at once, feed it token by token, compare.
#
# Three smaller finds of the same kind, code that is right where it stands and wrong one step further:

# %%
for key in ("004.21", "002.79", "002.65"):
    print(f"{key} {claims[key].says}")
    print(f"       {settle(key)}\n")

# %% [markdown]
# - `dim=1` is the last axis of a [T, T] matrix, and the *heads* of a batch.
# - The chapter recommends the built-in function because it uses Flash Attention by itself, and shows a call with three axes. PyTorch's flash kernel takes four, so the very call that is shown falls back to plain products. The result is right, so nobody notices.
# - Replacing what is not finite by $-10^9$ makes a row with nothing to see average over everything, and turns a NaN, which would have told you of a bug elsewhere, into a number.
#
# And one that no program finds, because it is about the page itself.
# The chapter walks through its listing line by line, with line numbers.

# %%
print(claims["002.64"].says)
print(settle("002.64"))
print("one pair that differs most (walk, listing):", claims["002.64"].printed_pairs[28])

# %% [markdown]
# The listings seem to have been edited after the walk was written.
# Prose about code goes stale when the two are kept apart; our explorer of the same kind takes both from one source, and a test compares them.

# %% [markdown]
# ## A formula, and the two tests that miss it
#
# For the prefix mask the chapter prints "1 if $i < P$ or $j \le i$", row $i$, column $j$, and adds two sanity checks: with $P = 0$ it is causal, with $P = N$ it is full.
#
# **Predict.** The formula passes both. Draw its row 0 for $P = 2$ and $N = 5$.

# %%
P, N = 2, 5
as_printed = Mask(lambda q, k: (q < P) | (k <= q), "i < P or j <= i")
names = [f"t{i}" for i in range(N)]
ahead = as_printed.matrix(N) & ~prefix_lm(P).matrix(N)
grids(
    [
        Grid(as_printed.matrix(N), names, names, "as printed", kind="mask", leak=ahead),
        Grid(prefix_lm(P).matrix(N), names, names, "j < P or j <= i", kind="mask"),
    ]
)

# %%
for p in (0, N):
    rule = Mask(lambda q, k, p=p: (q < p) | (k <= q), "")
    print(
        f"P = {p}: same as the right rule:", np.array_equal(rule.matrix(N), prefix_lm(p).matrix(N))
    )
print(settle("002.55"))

# %% [markdown]
# One letter, $i$ for $j$, and the prefix reads the continuation that it is supposed to produce.
# Tests at the ends of a range are the ones that everybody writes, and they are blind to what varies in between.
# An exercise further down in the same chapter describes the right mask in words.

# %% [markdown]
# ## Right results, wrong reasons
#
# A reason can be wrong although what it explains is true. These are the hardest to see.

# %%
wrong_reasons = ("004.05", "002.61", "002.37", "004.10")
findings = {key: settle(key) for key in wrong_reasons}
claims_page([claims[key] for key in wrong_reasons], findings, "True results, wrong reasons")

# %% [markdown]
# - Future weights do vanish. Not because a dot product is near zero, but because the exponential of a very negative number *is* zero in floating point.
# - Causal attention is as complex as full attention. Not because building the mask takes $N^2$ steps, but because half of $N^2$ is still quadratic. If the reason were right, leaving the mask out would help.
# - The two entries are right to four digits. They come from three values, and the text names two.
# - Training without a mask does ruin a model. But not because it learns $p(x_i \mid \text{all other tokens})$.
#
# The last one deserves a closer look.
#
# **Predict.** Suppose the model learned the distribution of each word given all *others*. How low could its loss get? Could it reach zero?

# %%
print("claim: ", claims["004.10"].says)
print("check: ", settle("004.10").computed)
print("copies:", settle("004.13").computed)

# %% [markdown]
# The toy language of chapter 1 has an exact answer: even with all other words given, 0.52 nats of uncertainty are left.
# The unmasked model goes far below.
# It did not learn the harder task well; it was given an easier one: the word to be predicted is *among its inputs*, one position to the right.
# BERT hides that word, and that is why BERT learns something.
#
# Why care about reasons, if the results are right?
# Because one applies a reason to the next case, where it gives the wrong result.

# %% [markdown]
# ## It depends: on what?
#
# A claim can be true of a part and printed of the whole, or true under a condition that was left out.
# These are not errors so much as sentences that stopped too early.
# For each, the check tries several cases, and finds both a yes and a no.

# %%
everything = settle_all()
claims_page(
    [claims[key] for key, finding in everything.items() if finding.verdict == "depends"],
    everything,
    "Claims that depend",
)

# %% [markdown]
# Four questions bring out most of the missing conditions:
#
# 1. **Of which part?** A step is O(1) in the keys computed and O(t) in the attention (001.12).
# 2. **At what size?** Half the work is the limit of long texts; a text of one block saves nothing (002.47).
# 3. **How deep?** In one layer the last token does not notice the mask, and a cache would survive without it. From the second layer on, neither is true (002.28, 002.51).
# 4. **In which number format, and in which rows?** $-10^9$ is harmless in float32 and does not exist in float16 (003.05, 004.20).

# %% [markdown]
# ## Where the sources contradict each other
#
# Two sources that disagree are a gift: at least one of them has something to teach you.
#
# **Predict.** One says that a cache makes a step O(1) instead of O(n), two say O(t) instead of O(t²).
# One says that the mask is not needed at inference, another that the cache rests on it.
# In each pair, who is right?

# %%
disagreements_page(load_disagreements(), "Contradictions, and who is right when")

# %%
convicted = [
    d.question
    for d in load_disagreements()
    if any(
        key in everything and everything[key].verdict == "wrong" for _, s in d.sides for key in s
    )
]
print(f"{len(load_disagreements())} contradictions; in {len(convicted)} a claim involved is wrong:")
print("\n".join(f"  {question}" for question in convicted))

# %% [markdown]
# Where nobody is wrong, the quarrel is over what was left unsaid: the part, the layer, the convention.
#
# The one about True and False is the most dangerous for a programmer.
# Each fragment of code is consistent with itself, and two of them from different places, put together, are a bug.
# The chapter even uses both conventions, 1 for visible in its table and True for blocked in its code, and says so, which is all that one can ask.

# %% [markdown]
# ## What cannot be computed
#
# Some claims are matters of record.
# For these we give the reference, say whether it agrees, and say how far we looked: at the passage (as quoted elsewhere), at the abstract, second-hand (what others write about it), or when an earlier chapter of this course needed it.
# We worked without access to the papers' servers, so none of these says "we read the whole paper today".

# %%
cited = [claim for claim in claims.values() if claim.verdict == "cited"]
claims_page(
    [claim for claim in cited if claim.agrees != "yes"], {}, "References that differ, or in part"
)

# %%
agreeing = [claim for claim in cited if claim.agrees == "yes"]
claims_page(agreeing, {}, f"References that agree: {len(agreeing)} claims", folded=True)

# %% [markdown]
# **Predict.** Two of the documents list GPT, Claude and Gemini among the models that use causal masking.
# It is very likely true. What verdict does it get?

# %%
claims_page(
    [claim for claim in claims.values() if claim.verdict == "not knowable"], {}, "Not knowable"
)

# %% [markdown]
# Likely is not known.
# A closed model can be described by its makers and by nobody else, and a list in a textbook adds no evidence.
# If a claim matters to you, name models whose code or report you can read.
# And look twice at the word "every": one exception settles it.

# %% [markdown]
# ## The count

# %%
verdicts = {
    key: everything[key].verdict if claim.check else claim.verdict for key, claim in claims.items()
}
verdicts_view(verdicts)

# %%
for verdict in ("holds", "wrong", "depends", "cited", "not knowable"):
    print(f"{verdict:<13}{sum(v == verdict for v in verdicts.values()):>4}")
print("cited, and the reference differs:", sum(claim.agrees == "no" for claim in cited))
tables = [key for key, c in claims.items() if c.kind == "table" and c.document == "002"]
print(f"tables of the chapter: {len(tables)}, right: {sum(verdicts[k] == 'holds' for k in tables)}")

# %% [markdown]
# Most of what is computable holds, digit by digit: the chapter's tables, one of them printed six times, contain not a single wrong entry.
# The shares say little about quality: a document that claims little is seldom wrong, and we chose how finely to split.
# What the wrong ones have in common says more:

# %%
claims_page(
    [claims[key] for key, verdict in verdicts.items() if verdict == "wrong"],
    everything,
    "Everything that is wrong",
)

# %% [markdown]
# Hardly any error sits in the main line of an argument.
# They sit in the *margins*: a second example, an aside on size or speed, a number taken over from elsewhere, a comment, the explanation of why.
# The main line is what an author checks. So read the margins.

# %% [markdown]
# ## Nothing left over
#
# An audit is complete if every number has been settled, and can say by what.
# Every printed number leads to a claim, or to one of a few plain reasons for claiming nothing.

# %%
settled = {"by a claim": 0}
for row in numbers:
    reason = row.settled_by if row.settled_by in REASONS else "by a claim"
    assert reason != "by a claim" or row.settled_by in claims
    settled[reason] = settled.get(reason, 0) + len(row.tokens)
Page(
    f"{sum(settled.values()):,} numbers, and what settles them",
    ("settled", "numbers", "what they are"),
    (
        (reason, f"{count:,}", REASONS.get(reason, "see the claims"))
        for reason, count in sorted(settled.items(), key=lambda item: -item[1])
    ),
)

# %% [markdown]
# The verdicts that were recorded when the list was made must be those that come out today.

# %%
changed = [key for key, claim in claims.items() if verdicts[key] != claim.verdict]
computed = sum(bool(claim.check) for claim in claims.values())
print(f"{computed} claims computed just now, {len(changed)} verdicts differ from the record")

# %% [markdown]
# Here is the whole record, one folded table a document.

# %%
from IPython.display import display

for number, document in DOCUMENTS.items():
    own = [claim for claim in claims.values() if claim.document == number]
    title = f"{number} {document.name}: {len(own)} claims"
    display(claims_page(own, everything, title, folded=True))

# %% [markdown]
# ## Audit a text of your own
#
# 1. List first, judge later. Every number, every fragment, every "is".
# 2. For each item, write down what would settle it *before* you look.
# 3. Sum rows. Multiply products. Count layers. It takes seconds and finds the most.
# 4. Run fragments one step beyond where they stand: a batch, a cache, another dtype, an empty row.
# 5. Ask of each "because" what would follow if it were so, and look whether it does.
# 6. Ask of each percentage: of what, against what? Of each O: of which part?
# 7. Give verdicts that can be wrong themselves: a check that could have come out the other way.
# 8. Write what is right, not only what is wrong, and tell the author kindly. You will be audited too.
#
# This course has been, by its tests.
# They recompute what the text says; where they do not, we invite you to find our margins.
#
# Here is one to begin with. We made it up; it is of the kind that one reads every day.
#
# > A model of 80 layers with 64 query heads of size 128 that share 8 key heads has a cache that is 87.5% smaller than without sharing: 2.7 GB for 8,192 tokens in bfloat16. So a card of 24 GB serves eight such texts at once.
#
# **Predict.** How many claims are in it, and which verdicts will they get?
#
# <details><summary>Our list</summary>
#
# Three claims: a percentage, a size, a conclusion.
# The percentage says what it compares (sharing against not sharing), and can be computed.
# So can the size.
# The conclusion compares eight caches with the memory of the card, and forgets something.
#
# </details>

# %%
shared, unshared = (kv_cache_bytes(80, heads, 128, 8_192) for heads in (8, 64))
print(f"saved: {1 - shared / unshared:.1%}; size: {shared / 1e9:.1f} GB")
print(f"eight caches: {8 * shared / 1e9:.1f} GB of 24")
weights_alone = 2 * 12 * 80 * (64 * 128) ** 2  # 12 C^2 a layer is the usual estimate
print(f"the weights, at two bytes each: some {weights_alone / 1e9:.0f} GB")

# %% [markdown]
# Two claims hold.
# The third is wrong: eight caches fit, and nothing else does, the model itself least of all.
# (If the weights are on other cards, it depends. But then the sentence would have to say so.)
# The error was in no number. It was in what the numbers were about.

# %% [markdown]
# ## Pause and recall
#
# Answer before you unfold.
#
# <details><summary>1. A table of causal attention weights has row sums of 1. What have you shown?</summary>
#
# That it passes a test that catches most slips.
# Row 2 of the article's table passes and is wrong in three entries.
#
# </details>
#
# <details><summary>2. Why does the late-mask explanation fail for the 5 by 5 table?</summary>
#
# Its last row has no blocked key, and its sum is 0.65 all the same.
#
# </details>
#
# <details><summary>3. Why did the contract tester find nothing in the cached layer?</summary>
#
# The new query sees too little. The contract forbids the future, and does not demand the past.
# Comparing with the text fed at once finds it.
#
# </details>
#
# <details><summary>4. "With P = 0 causal, with P = N full": why is that not a test of the prefix mask?</summary>
#
# A wrong rule passes both. The prefix and the rest must both be there, so 0 &lt; P &lt; N.
#
# </details>
#
# <details><summary>5. "O(1) per step" and "O(t) per step": who is right?</summary>
#
# Both, about different things: what is computed anew (tokens, keys, values, projections) and what the new query is compared with.
# The step as a whole is O(t).
#
# </details>
#
# <details><summary>6. How does one show that an unmasked model has not learned to fill in words?</summary>
#
# By a bound: the entropy of a word given all others is 0.52 nats in the toy language, and no model of that task can go below it in expectation. The unmasked model is at 0.06.
#
# </details>

# %% [markdown]
# ## Summary
#
# - A text is a list of claims. Each can be settled by a computation, an experiment or a reference, or it cannot be settled, and then one says so.
# - Quick tests convict (row sums, products, first rows); only recomputing acquits.
# - Errors keep traces: a common wrong denominator, a row filled up to 1, a factor of ten. They tell how, seldom why.
# - Code can be right where it stands and wrong with a cache, a batch, an empty row.
# - Tests at the ends of a range miss what varies in between.
# - True results with wrong reasons are worth finding, because reasons travel.
# - Most contradictions are two halves of a sentence. Ask for the part, the size, the depth, the format.
#
# **Next:** [appendix C](C_when_one_gpu_is_not_enough.ipynb) leaves the single machine, and counts who waits for whom.

# %% [markdown]
# ## References
#
# Cited by claims, beside those of earlier chapters:
#
# - OpenAI, [GPT-4 Technical Report](https://arxiv.org/abs/2303.08774), 2023: a Transformer-style model that predicts the next token, with no further details of the architecture.
# - Gemini Team, [Gemini: A Family of Highly Capable Multimodal Models](https://arxiv.org/abs/2312.11805), 2023.
# - J. Hoffmann and others, [Training Compute-Optimal Large Language Models](https://arxiv.org/abs/2203.15556), 2022.
# - A. Q. Jiang and others, [Mixtral of Experts](https://arxiv.org/abs/2401.04088), 2024.
# - P. Dhariwal and others, [Jukebox: A Generative Model for Music](https://arxiv.org/abs/2005.00341), 2020.
# - B. Peng and others, [RWKV: Reinventing RNNs for the Transformer Era](https://arxiv.org/abs/2305.13048), 2023.
# - Z. Borsos and others, [AudioLM: a Language Modeling Approach to Audio Generation](https://arxiv.org/abs/2209.03143), 2022.
# - OpenAI, [gpt-2](https://github.com/openai/gpt-2): the notes that correct the report's counts of parameters.
# - S. Raschka, *Build a Large Language Model (From Scratch)*, Manning, 2024.
# - The discussion of nanoGPT's mask: [nanoGPT#170](https://github.com/karpathy/nanoGPT/issues/170) (pfeatherstone, 2023-02-20).
# - DeepSeek-AI, [DeepSeek-V2](https://arxiv.org/abs/2405.04434) and [DeepSeek-V3](https://arxiv.org/abs/2412.19437), 2024.
