"""`GenerationExplorer`: a model writes a text word by word, honestly or with a cheat (chapter 5).

Without arguments it shows the two models of chapter 1, recorded by `recordings`; with arguments
it runs the reader's own.
"""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from course_lib.explorers.base import (
    MOST_TOKENS,
    Explorer,
    State,
    one_of,
    visible_text,
    whole,
)
from course_lib.explorers.recordings import (
    Run,
    language_of_recording,
    load,
    record_reading,
    record_writing,
)
from course_lib.figures.cache import Key, cache_view
from course_lib.figures.plot import lines
from course_lib.generation import generate
from course_lib.gpt import GPT
from course_lib.language import Language
from course_lib.lesson import listed
from course_lib.sampling import Sampling, probabilities
from course_lib.validate import check_count

#: Words whose probability is shown at each step.
_SHOWN = 6
#: Keys that moved by less are the same, up to rounding.
_MOVED = 1e-4
_TASKS = ("writes", "reads")
_ACTORS = {"honest": "The honest model", "cheater": "The cheater"}
#: Steps in the static view.
_STATIC_STEPS = 7


def _cheat(explorer: Any, name: str, value: Any) -> bool:
    """A check: True or False, and True only if there is a model that cheats."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False; got {type(value).__name__}")
    if value and "cheater" not in explorer.runs:
        raise ValueError(f"{name}: expected False, because no cheater was given; got True")
    return bool(value)


class GenerationExplorer(Explorer):
    """A model writes word by word: what it sees, what it says, what its cache holds.

    >>> e = GenerationExplorer()  # the honest model and the cheater of chapter 1, as recorded
    >>> e.cheat = True  # the model that was trained without a mask
    >>> e.task = "reads"  # a given text, as in training, where cheating pays
    >>> e.step = 3

    Args:
        model: your own `GPT`; the recorded models if not given.
        prompt: your own first words, word numbers, [P]; needed with a model.
        n: new words to write, 1..24; 12 at most for the recorded models.
        cheater: a second `GPT`, shown when `cheat` is on.
        reads: a text for the task "reads", word numbers, at least n + 1; by default what the
            model wrote.
        words: the vocabulary, V labels; numbers if not given.
        language: the exact language, to show its probabilities beside the model's; its words are
            the default for `words`.
        temperature: as for `generate`; 0 takes the likeliest word.
        seed: of the generator that draws the words.
        text: which of the three texts that chapter 1 prints to show; recorded models only.
        step: position in the text, 0..n-1.
        task: "writes" (free running) or "reads" (a given text, teacher forced).
        cheat: show the cheater.

    Raises:
        TypeError: if a model is no `GPT`.
        ValueError: if an argument is out of range, or belongs to the other kind of use.
    """

    script = "generation"
    step = State(0, whole(0, lambda explorer: explorer.steps - 1))
    task = State("writes", one_of(*_TASKS))
    cheat = State(False, _cheat)

    def __init__(
        self,
        model: GPT | None = None,
        prompt: Sequence[int] | None = None,
        *,
        n: int = 12,
        cheater: GPT | None = None,
        reads: Sequence[int] | None = None,
        words: Sequence[str] | None = None,
        language: Language | None = None,
        temperature: float = 1.0,
        seed: int = 0,
        text: int = 1,
        step: int = 0,
        task: str = "writes",
        cheat: bool = False,
    ) -> None:
        self.training: dict[str, Any] | None = None
        own = {"prompt": prompt, "cheater": cheater, "reads": reads, "words": words,
               "language": language}  # fmt: skip
        if model is None:
            for name, value in own.items():
                if value is not None:
                    raise ValueError(f"{name}: expected a model with it; got model=None")
            self.training = load()
            self.language: Language | None = language_of_recording()
            self.runs = _recorded(self.training, text)
        else:
            self.language = language
            models = {"honest": model} | ({} if cheater is None else {"cheater": cheater})
            check_count("n", n, 1)
            self.runs = _own_runs(models, prompt, n, reads, temperature, seed)
        self.temperature = 1.0 if temperature == 0 else temperature
        self._name_words(words)
        longest = min(len(run.logits) for pair in self.runs.values() for run in pair.values())
        if check_count("n", n, 1) > longest:
            raise ValueError(f"n: expected 1..{longest}; got {n}")
        self.steps = n
        shown = {who: {t: self._task(who, t) for t in _TASKS} for who in self.runs}
        super().__init__(
            {"models": shown, "steps": n, "training": self._training_data()},
            step=step, task=task, cheat=cheat,
        )  # fmt: skip

    @property
    def who(self) -> str:
        """The model that is shown: "honest" or "cheater"."""
        return "cheater" if self.cheat else "honest"

    @property
    def run(self) -> Run:
        """The run that is shown."""
        return self.runs[self.who][self.task]

    def words(self) -> str:
        """What the model sees, says and keeps at this step."""
        return self.data["models"][self.who][self.task]["steps"][self.step]["words"]

    def picture(self) -> str:
        """The texts, the caches of the first steps, and how the models were trained."""
        panels, paragraphs = {}, ""
        steps = min(_STATIC_STEPS, self.steps)
        for who in self.runs:
            run = self.runs[who]["writes"]
            title = "the honest model writes" if who == "honest" else "the cheater, if it kept keys"
            keys = np.stack([self._keys(run, s) for s in range(steps)])
            panels[title] = keys = keys[:, : run.first + steps - 1]
            text = " ".join(self.vocabulary[w] for w in run.tokens[: run.first + self.steps])
            paragraphs += f"<p>{html.escape(_ACTORS[who])} writes: {html.escape(text)}</p>"
        positions = [str(j) for j in range(keys.shape[1])]
        shown = cache_view(panels, steps=[f"step {s}" for s in range(steps)], words=positions)
        curves = "" if self.training is None else _curves(self.training)
        return paragraphs + shown._repr_html_() + curves

    # --- inside ------------------------------------------------------------------------------

    def _name_words(self, words: Sequence[Any] | None) -> None:
        vocabulary = next(iter(self.runs.values()))["writes"].logits.shape[1]
        if words is None:
            words = self.language.words if self.language else range(vocabulary)
        self.vocabulary = tuple(map(visible_text, words))
        if len(self.vocabulary) != vocabulary:
            raise ValueError(f"words: expected {vocabulary} labels; got {len(self.vocabulary)}")

    def _task(self, who: str, task: str) -> dict[str, Any]:
        run = self.runs[who][task]
        return {
            "text": [self.vocabulary[w] for w in run.tokens[: self._ends(run, task)[-1] + 1]],
            "steps": [self._step(who, task, s) for s in range(self.steps)],
            "visible": run.visible[: self.steps, : self.steps].astype(int).tolist(),
        }

    def _ends(self, run: Run, task: str) -> NDArray[np.int64]:
        """How many words stand before the asked-for word, at each step."""
        return (run.first if task == "writes" else 1) + np.arange(self.steps)

    def _step(self, who: str, task: str, s: int) -> dict[str, Any]:
        run = self.runs[who][task]
        end = int(self._ends(run, task)[s])
        there = end if task == "writes" else self.steps  # words that are there to be seen
        sees = np.flatnonzero(run.visible[end - 1, :there])
        exact = self._exact(run.tokens[:end])
        p = probabilities(torch.from_numpy(run.logits[s : s + 1]), Sampling(self.temperature))
        bars, words = self._bars(p[0].numpy(), exact, int(run.tokens[end]))
        return {
            "end": end,
            "sees": sees.tolist(),
            "bars": bars,
            "keys": self._keys(run, s).tolist() if task == "writes" else None,
            "moved": np.round(run.moved[s], 4).tolist() if task == "writes" else None,
            "words": f"{self._seen_words(who, task, run, end, sees)} {words} "
            f"{self._cost_words(who, task, run, s, end)}",
        }

    def _exact(self, text: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """The language's own distribution of the next word; None if it has none."""
        if self.language is None or not bool(self.language.legal(text)):
            return None
        return self.language.next_word(text)[-1]

    def _bars(
        self, p: NDArray[np.float64], exact: NDArray[np.float64] | None, asked: int
    ) -> tuple[list[list[Any]], str]:
        """The likeliest words (and the asked-for one): name, p, exact p, whether asked for."""
        top = np.argsort(-p, kind="stable")[:_SHOWN].tolist()
        if asked not in top:
            top[-1] = asked
        bars = [
            [self.vocabulary[w], float(p[w]), None if exact is None else float(exact[w]),
             w == asked] for w in top
        ]  # fmt: skip
        rest = len(p) - len(top)
        if rest:
            others = [x for w, x in enumerate(p) if w not in top]
            right = None if exact is None else float(exact.sum() - exact[top].sum())
            bars.append([f"{rest} others", float(sum(others)), right, False])
        if exact is None:
            truth = " (no text of the language begins like this)" if self.language else ""
        else:
            truth = f" (the language: {exact[asked]:.2f})"
            truth += ", a word that the grammar forbids here" if exact[asked] == 0 else ""
        return bars, f"probability {p[asked]:.2f}{truth}."

    def _seen_words(self, who: str, task: str, run: Run, end: int, sees: NDArray[np.int64]) -> str:
        names = [self.vocabulary[w] for w in run.tokens]
        future = int((sees >= end).sum())
        past = [names[j] for j in sees if j < end]
        count = f"all {end}" if len(past) == end else f"{len(past)} of {end}"
        shown = listed(past) if len(past) < 6 else f"{count} words so far"
        words = f'{_ACTORS[who]} {task}. At position {end - 1}, "{names[end - 1]}", it sees {shown}'
        if future:
            words += f", and {future} word{'s' * (future > 1)} of the future"
            words += ", the answer among them" if end in sees else ""
        verb = "Next it says" if task == "writes" else "Asked for"
        return f'{words}. {verb} "{names[end]}":'

    def _cost_words(self, who: str, task: str, run: Run, s: int, end: int) -> str:
        if task == "reads":
            return f"All {self.steps} positions are computed in one pass."
        new = run.first if s == 0 else 1
        again = sum(range(run.first, end + 1))
        moved = run.moved[s, : end - new]
        stale = int((moved > _MOVED).sum())
        if stale:
            return (
                f"No cache: of {end - new} earlier keys and values {stale} are no longer what they "
                f"were, by up to {moved.max():.2f}, so all {end} are computed again "
                f"({again} so far)."
            )
        return (
            f"Cache: {end} position{'s' * (end > 1)} x {run.bytes_each:,} bytes = "
            f"{end * run.bytes_each:,} bytes; {new} computed in this step, {end} so far "
            f"(without a cache {again})."
        )

    def _keys(self, run: Run, s: int) -> NDArray[np.int64]:
        """What happens to the key of each position in a step of writing: values of `Key`."""
        end, before = run.first + s, 0 if s == 0 else run.first + s - 1
        keys = np.full(run.moved.shape[1], Key.ABSENT, dtype=np.int64)
        keys[:before] = np.where(run.moved[s, :before] > _MOVED, Key.STALE, Key.KEPT)
        keys[before:end] = Key.COMPUTED
        return keys

    def _training_data(self) -> dict[str, Any] | None:
        if self.training is None:
            return None
        kept = ("curve", "loss", "standard_error", "grammatical")
        models = self.training["models"].items()
        return {
            "floor": self.training["floor"],
            "models": {who: {k: model[k] for k in kept} for who, model in models},
        }


def _recorded(training: dict[str, Any], text: int) -> dict[str, dict[str, Run]]:
    models = training["models"]
    texts = len(models["honest"]["writes"])
    if check_count("text", text, 0) >= texts:
        raise ValueError(f"text: expected 0..{texts - 1}; got {text}")
    return {who: {"writes": m["writes"][text], "reads": m["reads"]} for who, m in models.items()}


def _own_runs(
    models: dict[str, GPT],
    prompt: Sequence[int] | None,
    n: int,
    reads: Sequence[int] | None,
    temperature: float,
    seed: int,
) -> dict[str, dict[str, Run]]:
    """Let the reader's models write and read."""
    for name, model in models.items():
        if not isinstance(model, GPT):
            argument = "model" if name == "honest" else name
            raise TypeError(f"{argument}: expected a GPT; got {type(model).__name__}")
    if prompt is None:
        raise ValueError("prompt: expected word numbers with a model; got None")
    if np.ndim(prompt) != 1 or not 1 <= len(prompt) <= MOST_TOKENS - n or n > 24:
        raise ValueError(
            f"prompt: expected one text of 1 to {MOST_TOKENS} words less n, and n up to 24; "
            f"got shape {list(np.shape(prompt))} and n={n}"
        )
    runs: dict[str, dict[str, Run]] = {}
    for name, model in models.items():
        rng = np.random.default_rng(seed)
        text = generate(model, prompt, n, temperature=temperature, rng=rng).cpu().numpy()
        given = runs["honest"]["writes"].tokens if runs else text
        given = given if reads is None else np.asarray(reads)
        if given.ndim != 1 or len(given) < n + 1:
            raise ValueError(f"reads: expected at least n + 1 = {n + 1} words; got {given.shape}")
        runs[name] = {
            "writes": record_writing(model, text, len(prompt)),
            "reads": record_reading(model, given[: n + 1]),
        }
    return runs


def _curves(training: dict[str, Any]) -> str:
    models, floor = training["models"], training["floor"]
    endings = "; ".join(
        f"the {who} model ends at {m['loss']:.4f} nats a word on held-out texts and writes "
        f"{m['grammatical']:.1%} of its texts without a mistake" for who, m in models.items()
    )  # fmt: skip
    return lines(
        {who: m["curve"] for who, m in models.items()},
        "training step",
        "loss (nats a word)",
        "The cheat in training",
        hlines={f"floor of an honest model: {floor:.3f}": round(floor, 3)},
        logy=True,
        alt=f"Training loss of both models. The floor of an honest model is {floor:.4f}; "
        f"{endings}.",
    )._repr_html_()
