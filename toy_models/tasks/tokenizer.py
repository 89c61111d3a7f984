"""Word-level tokenizers: every word is one token, and words are separated by single spaces.

On text whose words are all known, encoding and decoding are inverse to each other. An unknown word raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["word_ids", "word_tokenizer"]


def word_tokenizer(words: Sequence[str], *, pad: str, eos: str) -> PreTrainedTokenizerBase:
    """A tokenizer of transformers with exactly the given words; it pads on the left.

    Args:
        words: The vocabulary, `pad` and `eos` among them; the ids are 0, 1, … in this order.
        pad: The padding token.
        eos: The end token.

    Returns:
        A `PreTrainedTokenizerFast` that adds no special tokens.

    >>> tokenizer = word_tokenizer(["<pad>", "$", "a", "b"], pad="<pad>", eos="$")
    >>> tokenizer.encode("a b $"), tokenizer.decode([3, 2, 1])
    ([2, 3, 1], 'b a $')
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    # Not `Whitespace`, which would split "+3" into two words.
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        eos_token=eos,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def word_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> dict[str, int]:
    """The token id of each word in any tokenizer. Raises ValueError where a word is not a single token."""
    ids: dict[str, int] = {}
    for word in words:
        try:
            encoded = tokenizer.encode(word, add_special_tokens=False)
        except Exception as error:  # tokenizers raises a bare Exception for a word it cannot encode
            raise ValueError(_mismatch(word, f"it cannot be encoded ({error})")) from error
        if len(encoded) != 1 or str(tokenizer.decode(encoded)).strip() != word:
            raise ValueError(_mismatch(word, f"it is encoded as {encoded}, which reads {tokenizer.decode(encoded)!r}"))
        ids[word] = int(encoded[0])
    return ids


def _mismatch(word: str, got: str) -> str:
    return (
        f"tokenizer: expected every word of the task to be one token, but for the word {word!r} {got}; "
        "use a model with the task's own tokenizer (get_task(name).tokenizer)"
    )
