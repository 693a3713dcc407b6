"""Text to token numbers and back, with the vocabulary that a GGUF file carries.

A model reads sub-word pieces, not words: frequent words are one token, rare ones several. Two
families are known: byte-level BPE (A. Radford et al., "Language Models are Unsupervised Multitask
Learners", 2019; GPT-2, SmolLM, Llama 3) and SentencePiece BPE (T. Kudo and J. Richardson, 2018,
arXiv:1808.06226; Llama 1 and 2). The package `tokenizers` does the work.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from course_lib.gguf_file import NEEDS

#: How Llama 3 cuts a text before it merges: its published pattern.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: `tokenizer.ggml.pre`: names of the same cut.
_PLAIN, _DIGITS, _PATTERN = {"", "default", "gpt-2"}, {"smollm"}, {"llama-bpe", "llama3"}
#: Kinds of token in a file that are matched as a whole: control tokens and the user's own.
_CONTROL, _USER_DEFINED = 3, 4


class Tokenizer:
    """The tokenizer of a GGUF file.

    Args:
        metadata: the settings of the file, as in `GGUFFile.metadata`.

    Attributes:
        end: number of the token that ends a text, or None.

    Raises:
        ModuleNotFoundError: if the package `tokenizers` is not installed.
        ValueError: if the file has no vocabulary, or one that is cut by an unknown rule.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        try:
            import tokenizers
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{NEEDS} ({error.name} is missing)") from None
        about = {
            name.removeprefix("tokenizer.ggml."): value
            for name, value in metadata.items()
            if name.startswith("tokenizer.ggml.")
        }
        kind = about.get("model")
        if kind not in ("gpt2", "llama"):
            raise ValueError(
                "tokenizer.ggml.model: expected 'gpt2' (byte-level BPE) or 'llama' "
                f"(SentencePiece); got {kind!r}"
            )
        self._backend = _byte_level(about) if kind == "gpt2" else _sentence_piece(about)
        whole = [
            tokenizers.AddedToken(text, normalized=False, special=kind == _CONTROL)
            for text, kind in zip(about["tokens"], about.get("token_type", ()), strict=False)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
        self._backend.add_tokens(whole)
        self._first: list[int] = []
        if about.get("add_bos_token", kind == "llama"):
            self._first = [about["bos_token_id"]]
        self._added_space = kind == "llama" and about.get("add_space_prefix", True)
        self.end: int | None = about.get("eos_token_id")

    def __len__(self) -> int:
        return self._backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The token numbers of a text; a token that begins every text, if the file wants one.

        Special tokens such as "<|im_start|>" may be written in the text.
        """
        return self._first + self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Iterable[int] | torch.Tensor) -> str:
        """The text of token numbers, special tokens included.

        Bytes that are no whole character are shown as the replacement character.
        """
        text = self._backend.decode(_numbers(tokens), skip_special_tokens=False)
        return text.removeprefix(" ") if self._added_space else text

    def tokens(self, text: str | Iterable[int] | torch.Tensor) -> list[str]:
        """The pieces of a text, or of token numbers, as people read them: " cat", not "Ġcat"."""
        numbers = self.encode(text) if isinstance(text, str) else _numbers(text)
        return [self._backend.decode([n], skip_special_tokens=False) for n in numbers]


def _byte_level(about: Mapping[str, Any]) -> Any:
    """BPE over bytes that are written as visible characters."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    rule = about.get("pre", "")
    cuts: list[Any] = [pre_tokenizers.ByteLevel(False, use_regex=rule not in _PATTERN)]
    if rule in _PATTERN:
        cuts.insert(0, pre_tokenizers.Split(Regex(_LLAMA_3), behavior="isolated"))
    elif rule in _DIGITS:
        cuts.insert(0, pre_tokenizers.Digits(individual_digits=True))
    elif rule not in _PLAIN:
        known = sorted(_PLAIN | _DIGITS | _PATTERN)
        raise ValueError(f"tokenizer.ggml.pre: expected one of {known}; got {rule!r}")
    vocab = _vocabulary(about)
    bpe = models.BPE(vocab, _merges(about, vocab), ignore_merges=rule in _PATTERN)
    backend = Tokenizer(bpe)
    backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(about: Mapping[str, Any]) -> Any:
    """BPE over characters, with a sign for the space, and bytes for what has no piece."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = _vocabulary(about)
    bpe = models.BPE(vocab=vocab, merges=_merges(about, vocab), fuse_unk=True, byte_fallback=True)
    backend = Tokenizer(bpe)
    scheme = "first" if about.get("add_space_prefix", True) else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend


def _merges(about: Mapping[str, Any], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges of a file, or what its scores say: of two, the better piece is made first."""
    if "merges" in about:
        return [(a, b) for a, _, b in (pair.partition(" ") for pair in about["merges"])]
    found = [
        (score, i, (piece[:i], piece[i:]))
        for piece, score in zip(about["tokens"], about["scores"], strict=True)
        for i in range(1, len(piece))
        if piece[:i] in vocab and piece[i:] in vocab
    ]
    return [pair for _, _, pair in sorted(found, reverse=True)]


def _vocabulary(about: Mapping[str, Any]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(about["tokens"])}


def _numbers(tokens: Iterable[int] | torch.Tensor) -> Sequence[int]:
    """Token numbers as a plain list."""
    return tokens.tolist() if isinstance(tokens, torch.Tensor) else [int(n) for n in tokens]
