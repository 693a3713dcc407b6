# %% [markdown]
# # 6. Prefix-LM and the algebra of masks: exercises
#
# You write two masks that real models use, follow one of them through the running example, choose the targets that a prefix-LM may be trained on, and find out what a change of the mask does to a cache.
# All belong to [chapter 6](../notebooks/06_prefix_lm.ipynb), and none is spelled out there.
#
# Masks are boolean, True = may attend; rows are queries, columns are keys.
# Arrays come in as NumPy arrays; you may answer with NumPy arrays or torch tensors.
# Leave the arrays that you are given as they are.

# %%
import numpy as np

from course_lib.checks import ask, check

# %% [markdown]
# ## 6.1 The prefix mask, for one text or for many
#
# The first `p` tokens of a text are its prefix and see each other in both directions.
# Every other token sees the whole prefix, itself, and what lies between.
# No token of the prefix sees anything after the prefix.
#
# | | | |
# |---|---|---|
# | in | `n` | int, number of tokens, at least 1 |
# | in | `p` | int from 0 to n: one prefix; or an int array `[B]`: one prefix for each of B texts |
# | out | | bool `[n, n]` for one prefix; bool `[B, 1, n, n]` for B of them |
#
# `p = 0` is the causal mask and `p = n` lets everybody see everything.
# The axis of size 1 is where the heads go.
#
# <details><summary>Hint 1</summary>
#
# Draw the mask for n = 5 and p = 3, and mark the cells that the causal mask does not have.
# What do they have in common: their rows or their columns?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# For many texts, write down the shape of each array that you compare, right-aligned under `[B, 1, n, n]`.
# Where do the axes of size 1 belong in `p`?
#
# </details>


# %% exercise="6.1" answer="prefix_lm_mask" points=3 minutes=10 difficulty=2 path="core"
def prefix_lm_mask(n, p):
    """Bool, True = may attend: [n, n] for an int p, [B, 1, n, n] for p of shape [B]."""
    ### BEGIN SOLUTION
    q_pos, k_pos = np.arange(n)[:, None], np.arange(n)
    p = np.asarray(p)
    if p.ndim == 1:
        p = p[:, None, None, None]  # [B, 1, 1, 1]
    return (k_pos < p) | (k_pos <= q_pos)
    ### END SOLUTION


# %% tags=["check"]
check("6.1", prefix_lm_mask)

# %% [markdown]
# ## 6.2 What a prefix does to the weights
#
# Here are the queries and keys of the running example, The / cat / sat / on / mat.
# Give the attention weights of all five tokens under the prefix mask, once with the prefix "The cat" (p = 2) and once with "The cat sat" (p = 3).
#
# `PREFIX_WEIGHTS` has shape `[2, 5, 5]`: first the table for p = 2, then the one for p = 3; rows are queries, columns are keys.
# Four decimals are enough.
# Type the numbers, or let the cell compute them.
#
# Before you start: how many of the five rows will differ from the causal table, for p = 2, and for p = 3?
#
# <details><summary>Hint 1</summary>
#
# A row of weights depends on the scores of its visible keys and on nothing else.
# Which rows see other keys than before?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Scores are divided by $\sqrt{d}$ = 2.
# For p = 2 the row of "The" has two visible scores, 0 and 1.
#
# </details>

# %% exercise="6.2" answer="PREFIX_WEIGHTS" points=2 minutes=10 difficulty=2 path="stretch"
Q = np.array([[1, 0, 1, 0], [0, 2, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]], dtype=float)
K = np.array(
    [[0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0.5, 0.5]], dtype=float
)

### BEGIN SOLUTION
q_pos, k_pos = np.arange(5)[:, None], np.arange(5)
prefixes = np.array([2, 3])[:, None, None]
visible = (k_pos < prefixes) | (k_pos <= q_pos)  # [2, 5, 5]
powers = np.where(visible, np.exp(Q @ K.T / 2), 0)
PREFIX_WEIGHTS = powers / powers.sum(axis=2, keepdims=True)
### END SOLUTION

# %% tags=["check"]
check("6.2", PREFIX_WEIGHTS)

# %% [markdown]
# ## 6.3 A window with sinks
#
# Models that run for hours keep a short window of recent tokens and, so as not to break down, the very first tokens ("sinks").
# Write the mask.
#
# | | | |
# |---|---|---|
# | in | `n` | int, number of tokens, at least 1 |
# | in | `width` | int, at least 1, may be larger than n: how many recent keys a token sees, **itself included** |
# | in | `sinks` | int, at least 0, may be larger than n: the first `sinks` tokens stay visible however far away they are |
# | out | | bool `[n, n]` |
#
# Nobody sees the future, sinks or no sinks.
# Without its last argument, `sliding_window_mask(n, width)` is the plain window.
#
# <details><summary>Hint 1</summary>
#
# Count the True cells in the last row for n = 8, `width = 3` and no sinks.
# There should be three.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# There are three rules here.
# Say aloud which of them must *always* hold, and which two are alternatives; then set the brackets accordingly.
#
# </details>


# %% exercise="6.3" answer="sliding_window_mask" points=2 minutes=10 difficulty=2 path="stretch"
def sliding_window_mask(n, width, sinks=0):
    """Bool [n, n], True = may attend."""
    ### BEGIN SOLUTION
    q_pos, k_pos = np.arange(n)[:, None], np.arange(n)
    near = q_pos - k_pos < width
    return (k_pos <= q_pos) & (near | (k_pos < sinks))
    ### END SOLUTION


# %% tags=["check"]
check("6.3", sliding_window_mask)

# %% [markdown]
# ## 6.4 Which predictions to train on
#
# A batch of prompts with answers, of different prompt lengths, is to train a prefix-LM.
# Rows of the prompt see the tokens that they would have to predict, so only the answers are trained on: **all** tokens of the answer and **no** token of the prompt.
#
# | | | |
# |---|---|---|
# | in | `tokens` | ints `[B, T]`, T at least 2 |
# | in | `p` | ints `[B]`, each from 0 to T: the first `p[b]` tokens of text b are its prompt |
# | out | `inputs` | ints `[B, T - 1]`: what the model reads |
# | out | `targets` | ints `[B, T - 1]`: what each row has to predict, namely the token that follows |
# | out | `keep` | bool `[B, T - 1]`: True where the prediction counts |
#
# The three results are a tuple, in this order.
# If `p[b]` is 0 every target counts (the very first token is never a target), if it is T none does.
#
# <details><summary>Hint 1</summary>
#
# Take a text of five tokens and a prompt of two.
# Write inputs and targets below each other, and draw a ring around each target that belongs to the answer.
# In which row is the first ring?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The target in row t is token t + 1.
# When does a token belong to the answer?
#
# </details>


# %% exercise="6.4" answer="suffix_targets" points=3 minutes=10 difficulty=2 path="stretch"
def suffix_targets(tokens, p):
    """[B, T] and [B] -> (inputs, targets, keep), each [B, T - 1]."""
    ### BEGIN SOLUTION
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    positions = np.arange(tokens.shape[1])[1:]  # of the targets
    return inputs, targets, positions >= p[:, None]
    ### END SOLUTION


# %% tags=["check"]
check("6.4", suffix_targets)

# %% [markdown]
# ## 6.5 When does a cache stay valid?
#
# A text of n tokens was fed to a model in one go under `old_mask`, and the keys of every layer are in its cache.
# Now the text has grown to m tokens, its first n are still the same, and the whole of it is to be computed under `new_mask`.
# Which of the n old keys in which layer are still what the model would compute afresh, **whatever its weights are**?
# That is what a server has to know before it reuses a cache: in a chat with a prefix-LM, or after a change of the window.
#
# | | | |
# |---|---|---|
# | in | `old_mask` | bool `[n, n]`, True = may attend, n at least 1 |
# | in | `new_mask` | bool `[m, m]`, m at least n |
# | in | `layers` | int, at least 1 |
# | out | | bool `[layers, n]`: entry `[l, j]` is True if the cached key of token j in layer l is still right |
#
# How the model works: the keys of layer 0 are computed from the tokens, each from its own.
# A layer gives every token a new state, made of the keys and values *of that layer* that the token may see under the mask; the keys of layer l + 1 are computed from these states, each from its own.
# Both masks let every token see itself.
#
# For example, with two layers and the same three tokens, a causal `old_mask` and a `new_mask` that shows everything give
#
# ```
# [[ True,  True,  True],     layer 0: made from the tokens alone
#  [False, False,  True]]     layer 1: tokens 0 and 1 now see more than they did, token 2 does not
# ```
#
# (and with a third layer, its row would be all False: why?)
#
# <details><summary>Hint 1</summary>
#
# For layer 1, compare row j of the old mask with row j of the new one, in *all* its columns.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# From layer 2 on there is a second way to go wrong.
# A token may see exactly the same tokens as before, and yet read something else, if one of *them* is no longer what it was.
#
# </details>


# %% exercise="6.5" answer="valid_entries" points=4 minutes=20 difficulty=3 path="stretch"
def valid_entries(old_mask, new_mask, layers):
    """[n, n] and [m, m] -> bool [layers, n], True where a cached key is still right."""
    ### BEGIN SOLUTION
    n = len(old_mask)
    changed = (new_mask[:n, :n] != old_mask).any(axis=1) | new_mask[:n, n:].any(axis=1)
    valid = np.ones((layers, n), dtype=bool)
    for layer in range(1, layers):
        reads_stale = (old_mask & ~valid[layer - 1]).any(axis=1)
        valid[layer] = ~(changed | reads_stale)
    return valid
    ### END SOLUTION


# %% tags=["check"]
check("6.5", valid_entries)

# %% [markdown]
# ## 6.A A printed formula
#
# One of the course's sources prints the prefix mask as "1 if i < P or j ≤ i, otherwise 0", with i the row (query) and j the column (key).
# What does it do for P = 2 in a text of five tokens?
#
# - **a.** The same as the right mask: both are causal for P = 0 and full for P = N.
# - **b.** It lets tokens 0 and 1 see the whole answer, which is to be predicted.
# - **c.** It hides the prefix from the answer.
# - **d.** It lets token 0 see token 1, as it should, and nothing else changes.

# %% tags=["check"]
ask("6.A", "")  # your letter

# %% [markdown]
# ## 6.B Set the brackets
#
# A streaming model should see a window of 8 tokens and the first 4, and never the future.
# Which of these, in Python with the rules of `course_lib.masks`, is right?
#
# - **a.** `causal() & sliding_window(8) | sinks(4)`
# - **b.** `causal() & sliding_window(8) & sinks(4)`
# - **c.** `causal() & (sliding_window(8) | sinks(4))`
# - **d.** `causal() | sinks(4)`

# %% tags=["check"]
ask("6.B", "")  # your letter

# %% [markdown]
# ## 6.C Chunks of a prompt
#
# A server feeds long prompts in chunks of 1,024 tokens. A prefix-LM gets a prompt of 3,000 tokens, all of it prefix. May the server cut it?
#
# - **a.** Yes: chapter 5 has shown that any way of cutting gives the same result.
# - **b.** Yes, if each chunk gets the right rows of the prefix mask.
# - **c.** No: tokens of the first chunk must see tokens of the later ones, whose keys do not exist yet.
# - **d.** No: prefix-LMs cannot use a cache.

# %% tags=["check"]
ask("6.C", "")  # your letter

# %% [markdown]
# ## 6.D One layer, two-way prompt
#
# A model with a *single* attention layer is trained on answers only, once with a causal mask and once with a prefix mask.
# What does the prefix mask change for the answer?
#
# - **a.** Nothing: the answer reads keys and values of single prompt tokens, and sees all of them under either mask.
# - **b.** The answer gets better, because the prompt has been understood in both directions.
# - **c.** The answer gets worse, because the prompt leaks.
# - **d.** The answer may now see its own future.

# %% tags=["check"]
ask("6.D", "")  # your letter

# %% [markdown]
# ## 6.E Who uses it?
#
# A source says that "some models (e.g., T5, UL2, PaLM 2 in certain modes)" use a prefix-LM. Which sentence do the papers bear out?
#
# - **a.** All three are prefix-LMs.
# - **b.** T5's paper compares prefix-LMs with others and settles on an encoder-decoder; UL2 trains with prefix-LM as one objective of several; PaLM 2's report does not say enough to know.
# - **c.** None of the three papers speaks of prefix-LMs.
# - **d.** Only PaLM 2 is a prefix-LM; the others are encoders.

# %% tags=["check"]
ask("6.E", "")  # your letter
