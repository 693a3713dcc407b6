"""A toy language whose entropy is known exactly (chapter 1; chapters 4 to 6 train on it).

A `Language` is a probabilistic automaton: in each state it says one word, with a known
probability, and moves to the next state. The next state is a function of state and word (the
automaton is *unifilar*), and the first state is fixed, so whoever has read the words so far knows
the state. That makes the uncertainty about the next word an exact, finite sum, with no estimate
in it (C. E. Shannon, "A Mathematical Theory of Communication", 1948, section 7).

Words are numbered 0..V-1. Entropies and log-probabilities are in nats.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Arc(NamedTuple):
    """One thing the automaton may do: in `state`, say `word` and go to `target`."""

    state: str
    word: str
    probability: float
    target: str


class Language:
    """A probabilistic automaton over words; a text is an endless stream of them.

    >>> coin = Language([Arc("s", "heads", 0.5, "s"), Arc("s", "tails", 0.5, "s")], start="s")
    >>> round(float(coin.entropy(3)[2]), 4)
    0.6931

    Args:
        arcs: everything the automaton may do, as `Arc`s or plain 4-tuples.
        start: the state in which every text begins.

    Raises:
        TypeError: if an arc is not a 4-tuple of (str, str, number, str).
        ValueError: if probabilities are not in (0, 1] or do not add up to 1 in each state, if
            one state says the same word on two arcs (the words would no longer tell the state,
            and the entropy no longer be exact), or if a state is missing or never reached.
    """

    def __init__(self, arcs: Iterable[Arc | tuple[str, str, float, str]], start: str) -> None:
        checked = [_arc(item) for item in arcs]
        _validate(checked, start)
        self.start = start
        self.states: tuple[str, ...] = tuple(dict.fromkeys([start, *(a.state for a in checked)]))
        self.words: tuple[str, ...] = tuple(dict.fromkeys(a.word for a in checked))
        self._number = {word: i for i, word in enumerate(self.words)}
        row = {state: i for i, state in enumerate(self.states)}
        shape = (len(self.states), len(self.words))
        #: p(word | state), shape [S, V].
        self.emission: Floats = np.zeros(shape)
        #: The state after a word, shape [S, V]; -1 where the word is not allowed.
        self.successor: Ints = np.full(shape, -1, dtype=np.int64)
        for state, word, probability, target in checked:
            self.emission[row[state], self._number[word]] = probability
            self.successor[row[state], self._number[word]] = row[target]

    def __repr__(self) -> str:
        """How large the automaton is."""
        return f"Language({len(self.words)} words, {len(self.states)} states)"

    # --- words and numbers ---------------------------------------------------------------

    def encode(self, text: str | Sequence[str]) -> Ints:
        """Word numbers of a text, shape [T].

        Args:
            text: words in a list, or in one string with spaces between them.

        Raises:
            ValueError: if a word is not in the vocabulary.
        """
        words = text.split() if isinstance(text, str) else list(text)
        for word in words:
            if word not in self._number:
                raise ValueError(f"text: expected words among {' '.join(self.words)}; got {word!r}")
        return np.array([self._number[word] for word in words], dtype=np.int64)

    def decode(self, tokens: Any) -> str:
        """The text of word numbers [T], with spaces between the words."""
        return " ".join(self.words[t] for t in self._tokens(tokens, dims=(1,)))

    # --- probabilities -------------------------------------------------------------------

    def sample(self, n: int, length: int, rng: np.random.Generator) -> Ints:
        """Fresh texts, independent of each other.

        Args:
            n: number of texts.
            length: words a text.
            rng: source of randomness.

        Returns:
            Word numbers, shape [n, length].
        """
        if n < 1 or length < 1:
            raise ValueError(f"n and length: expected at least 1; got {n} and {length}")
        thresholds = _thresholds(self.emission)
        states = np.zeros(n, dtype=np.int64)
        tokens = np.empty((n, length), dtype=np.int64)
        for t in range(length):
            tokens[:, t] = (rng.random((n, 1)) >= thresholds[states]).sum(axis=1)
            states = self.successor[states, tokens[:, t]]
        return tokens

    def next_word(self, tokens: Any) -> Floats:
        """p(next word | the words so far), exactly, at every position.

        Args:
            tokens: word numbers, shape [..., T].

        Returns:
            Shape [..., T, V]: row t is the distribution of word t + 1 given words 0..t. Rows
            after a word that the language does not allow are NaN: such a past has
            probability 0, so nothing is defined given it.
        """
        states = self._states(self._tokens(tokens))[..., 1:]
        return np.where((states < 0)[..., None], np.nan, self.emission[states])

    def log_prob(self, tokens: Any) -> Floats:
        """Exact log p(word t | words before t); the sum over t is log p of the text.

        Args:
            tokens: word numbers, shape [..., T].

        Returns:
            Nats, shape [..., T]; -inf from the first word on that the language does not allow.
        """
        tokens = self._tokens(tokens)
        states = self._states(tokens)[..., :-1]
        probability = np.where(states < 0, 0.0, self.emission[states, tokens])
        with np.errstate(divide="ignore"):
            return np.log(probability)

    def first_error(self, tokens: Any) -> Ints:
        """Position of the first word that the language does not allow; T if there is none.

        Args:
            tokens: word numbers, shape [..., T].

        Returns:
            Integers, shape [...].
        """
        wrong = self._states(self._tokens(tokens))[..., 1:] < 0
        return np.where(wrong.any(axis=-1), wrong.argmax(axis=-1), wrong.shape[-1])

    def legal(self, tokens: Any) -> NDArray[np.bool_]:
        """Whether the language can say the text. Shape [..., T] gives [...]."""
        tokens = self._tokens(tokens)
        return self.first_error(tokens) == tokens.shape[-1]

    def pairs(self) -> NDArray[np.bool_]:
        """Which word may ever follow which, shape [V, V] (row: the word, column: the next)."""
        allowed = self.successor >= 0
        follows = np.zeros((len(self.words), len(self.words)), dtype=bool)
        for state, word in zip(*np.nonzero(allowed), strict=True):
            follows[word] |= allowed[self.successor[state, word]]
        return follows

    def fill_in(self, tokens: Any, position: int) -> Floats:
        """p(word at `position` | all the other words), exactly: the task of BERT.

        By definition it is proportional to the probability of the whole text with each word of
        the vocabulary put there.

        Args:
            tokens: word numbers, shape [T]; the one at `position` does not matter.
            position: 0..T-1.

        Returns:
            Shape [V], sums to 1.

        Raises:
            ValueError: if no word fits there.
        """
        tokens = self._tokens(tokens, dims=(1,))
        if not 0 <= position < len(tokens):
            raise ValueError(f"position: expected 0..{len(tokens) - 1}; got {position}")
        variants = np.repeat(tokens[None], len(self.words), axis=0)
        variants[:, position] = np.arange(len(self.words))
        joint = np.exp(self.log_prob(variants).sum(axis=-1))
        if joint.sum() == 0:
            raise ValueError(f"tokens: no word fits at position {position} of the text")
        return joint / joint.sum()

    # --- entropy -------------------------------------------------------------------------

    def state_probabilities(self, length: int) -> Floats:
        """p(state before word t) for t = 0..length-1, shape [length, S]."""
        if length < 1:
            raise ValueError(f"length: expected at least 1; got {length}")
        step = self._transition()
        rows = [np.eye(len(self.states))[0]]
        for _ in range(length - 1):
            rows.append(rows[-1] @ step)
        return np.stack(rows)

    def state_entropy(self) -> Floats:
        """Entropy of the next word in each state, in nats, shape [S]."""
        logs = np.log(np.where(self.emission > 0, self.emission, 1.0))
        return -(self.emission * logs).sum(axis=-1)

    def entropy(self, length: int) -> Floats:
        """H(word t | words before t) for t = 0..length-1, in nats, shape [length].

        The words before t tell the state, so this is the entropy of the next word in each state,
        weighted by how likely the state is. No model that reads only the words before t
        can have a smaller expected loss at t: cross-entropy = entropy + KL divergence, and
        KL >= 0 (T. M. Cover and J. A. Thomas, "Elements of Information Theory", 2006, 2.6.3).
        """
        return self.state_probabilities(length) @ self.state_entropy()

    def min_loss(self, length: int) -> float:
        """Least expected loss of an honest model, in nats a predicted word.

        Args:
            length: words a text, at least 2. Word 0 is given; words 1..length-1 are predicted.

        Returns:
            The mean of `entropy(length)` over the predicted positions.
        """
        if length < 2:
            raise ValueError(f"length: expected at least 2; got {length}")
        return float(self.entropy(length)[1:].mean())

    # --- inside --------------------------------------------------------------------------

    def _transition(self) -> Floats:
        """p(next state | state), shape [S, S]."""
        step = np.zeros((len(self.states), len(self.states)))
        for state, word in zip(*np.nonzero(self.successor >= 0), strict=True):
            step[state, self.successor[state, word]] += self.emission[state, word]
        return step

    def _states(self, tokens: Ints) -> Ints:
        """The state before each word and after the last, shape [..., T + 1]; -1 once illegal."""
        states = np.zeros((*tokens.shape[:-1], tokens.shape[-1] + 1), dtype=np.int64)
        for t in range(tokens.shape[-1]):
            before = states[..., t]
            after = self.successor[before, tokens[..., t]]
            states[..., t + 1] = np.where(before < 0, -1, after)
        return states

    def _tokens(self, tokens: Any, dims: tuple[int, ...] | None = None) -> Ints:
        """Tokens as a checked int64 array (torch tensors on the CPU are welcome too)."""
        array = np.asarray(tokens)
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"tokens: expected integers; got {array.dtype}")
        if array.ndim == 0 or array.shape[-1] == 0 or (dims and array.ndim not in dims):
            wanted = "[T]" if dims else "[..., T]"
            raise ValueError(f"tokens: expected shape {wanted}, T > 0; got {list(array.shape)}")
        if array.size and not 0 <= array.min() <= array.max() < len(self.words):
            raise ValueError(
                f"tokens: expected numbers in 0..{len(self.words) - 1}; "
                f"got {array.min()}..{array.max()}"
            )
        return array.astype(np.int64)


def toy() -> Language:
    """The language of the course: "The big cat near the mat is hungry . A dog sat ." and so on.

    24 words. The verb "is" or "are" must agree with a noun that can be four words away, and what
    may follow "the mat" depends on whether a verb has been said, so that a model has to look back.
    """
    arcs: list[Arc] = []

    def say(state: str, choices: Mapping[str, float], target: str) -> None:
        arcs.extend(Arc(state, word, p, target) for word, p in choices.items())

    say("start", {"The": 0.7}, "the subject")
    say("start", {"A": 0.3}, "a subject")
    say("the subject", {"big": 0.12, "small": 0.08}, "the big subject")
    say("the subject", {"cat": 0.3, "dog": 0.07, "bird": 0.03}, "one")
    say("the subject", {"cats": 0.05, "dogs": 0.3, "birds": 0.05}, "many")
    say("the big subject", {"cat": 0.35, "dog": 0.1, "bird": 0.05}, "one")
    say("the big subject", {"cats": 0.05, "dogs": 0.4, "birds": 0.05}, "many")
    say("a subject", {"big": 0.1, "small": 0.1}, "a big subject")
    for state, scale in (("a subject", 0.8), ("a big subject", 1.0)):
        say(state, {"cat": 0.2 * scale, "dog": 0.1 * scale, "bird": 0.7 * scale}, "one")
    for number, verb in (("one", "is"), ("many", "are")):
        where, which = f"{number}, where", f"{number}, at which place"
        say(number, {"on": 0.05, "under": 0.05, "near": 0.3}, where)
        say(where, {"the": 0.9, "a": 0.1}, which)
        say(which, {"mat": 0.8, "sofa": 0.1, "roof": 0.1}, f"{number}, placed")
        for state, scale in ((number, 0.6), (f"{number}, placed", 1.0)):
            say(state, {"sat": 0.5 * scale, "slept": 0.1 * scale}, "did")
            say(state, {verb: 0.4 * scale}, "is what")
    say("is what", {"hungry": 0.8, "big": 0.1, "small": 0.1}, "end")
    say("did", {"on": 0.75, "under": 0.05, "near": 0.05}, "did, where")
    say("did", {".": 0.15}, "start")
    say("did, where", {"the": 0.9, "a": 0.1}, "did, at which place")
    say("did, at which place", {"mat": 0.7, "sofa": 0.2, "roof": 0.1}, "end")
    say("end", {".": 1.0}, "start")
    return Language(arcs, start="start")


def _arc(item: Any) -> Arc:
    """One arc, checked for its form."""
    ok = isinstance(item, tuple) and len(item) == 4
    if ok:
        state, word, probability, target = item
        ok = all(isinstance(name, str) for name in (state, word, target))
        ok = ok and isinstance(probability, (int, float, np.floating))
        ok = ok and not isinstance(probability, bool)
    if not ok:
        raise TypeError(f"arcs: expected (state, word, probability, target); got {item!r}")
    return Arc(state, word, float(probability), target)


def _validate(arcs: Sequence[Arc], start: str) -> None:
    """Refuse automata that are not proper, or whose entropy would not be exact."""
    if not arcs:
        raise ValueError("arcs: expected at least one; got none")
    states = {arc.state for arc in arcs}
    said: set[tuple[str, str]] = set()
    for arc in arcs:
        if arc.word.split() != [arc.word]:
            raise ValueError(f"arcs: expected words without spaces in them; got {arc.word!r}")
        if not 0 < arc.probability <= 1:
            raise ValueError(
                f"arcs: expected probabilities in (0, 1]; got {arc.probability} for {arc.word!r} "
                f"in state {arc.state!r}"
            )
        if arc.target not in states:
            raise ValueError(
                f"arcs: expected an arc out of every state; got none out of {arc.target!r}"
            )
        if (arc.state, arc.word) in said:
            raise ValueError(
                f"arcs: expected one arc a word in each state, so that the words tell the state; "
                f"got two for {arc.word!r} in state {arc.state!r}"
            )
        said.add((arc.state, arc.word))
    _validate_sums(arcs, states)
    _validate_reach(arcs, states, start)


def _validate_sums(arcs: Sequence[Arc], states: set[str]) -> None:
    """The probabilities out of each state must add up to 1."""
    for state in sorted(states):
        total = sum(arc.probability for arc in arcs if arc.state == state)
        if abs(total - 1) > 1e-9:
            raise ValueError(
                f"arcs: expected probabilities out of state {state!r} to add up to 1; got {total}"
            )


def _validate_reach(arcs: Sequence[Arc], states: set[str], start: str) -> None:
    """The start must exist and lead to every state."""
    if start not in states:
        raise ValueError(
            f"start: expected one of the states {', '.join(sorted(states))}; got {start!r}"
        )
    reached, frontier = {start}, {start}
    while frontier:
        frontier = {arc.target for arc in arcs if arc.state in frontier} - reached
        reached |= frontier
    if states - reached:
        lost = ", ".join(repr(state) for state in sorted(states - reached))
        raise ValueError(f"arcs: expected every state to be reached from the start; not {lost}")


def _thresholds(emission: ArrayLike) -> Floats:
    """Upper end of each word's share of [0, 1), shape [S, V].

    The last allowed word ends at infinity, so that rounding never lets a draw fall past it;
    words after it then never count.
    """
    emission = np.asarray(emission, dtype=np.float64)
    ends = np.cumsum(emission, axis=1)
    last = emission.shape[1] - 1 - (emission[:, ::-1] > 0).argmax(axis=1)
    ends[np.arange(emission.shape[1])[None, :] >= last[:, None]] = np.inf
    return ends
