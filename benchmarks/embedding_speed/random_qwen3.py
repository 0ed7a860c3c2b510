"""A model of the shape of Qwen3-Embedding-0.6B with random weights, and texts for it: speed needs no real ones."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 151_669
HIDDEN, FEED_FORWARD, HEADS, KEY_HEADS, HEAD_SIZE = 1024, 3072, 16, 8, 128
LAYERS = 28
MAX_TOKENS = 512
_END = "<|endoftext|>"
_PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_PROMPT_WORDS = [*dict.fromkeys(re.findall(r"\w+|[^\w\s]", _PROMPT))]


def write_random_qwen3(directory: Path, layers: int) -> None:
    """Write a directory that sentence-transformers and the product can load, in bfloat16 as the published one.

    A word is a token (`w7`), so that texts have exactly the length they should.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import Qwen3Config, Qwen3Model

    words = [_END, *_PROMPT_WORDS]
    words += [f"w{number}" for number in range(VOCABULARY - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="w0"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {_END}", special_tokens=[(_END, 0)])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        head_dim=HEAD_SIZE,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device("meta"):
        model: Any = Qwen3Model(config)
    model.to(torch.bfloat16).to_empty(device="cpu")
    model.rotary_emb = type(model.rotary_emb)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=0.02 if "embed" in name else parameter.shape[1] ** -0.5)
    model.save_pretrained(directory)
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    files: dict[str, Any] = {
        "tokenizer_config.json": {
            "tokenizer_class": "TokenizersBackend",
            "padding_side": "left",
            "model_max_length": 32768,
            "pad_token": _END,
        },
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(steps)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": HIDDEN, "pooling_mode_lasttoken": True},
        "config_sentence_transformers.json": {"prompts": {"query": _PROMPT, "document": ""}},
    }
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content), encoding="utf-8")


def passages(count: int) -> list[str]:
    """Texts of log-normal lengths, about 235 tokens on average, the longest ones cut at 512 with the closing token."""
    random = np.random.default_rng(0)
    lengths = np.minimum(random.lognormal(np.log(215), 0.6, size=count).astype(int), MAX_TOKENS) - 1
    return [_text(random, max(1, length)) for length in lengths]


def questions(count: int) -> list[str]:
    """Queries of eight words."""
    random = np.random.default_rng(1)
    return [_text(random, 8) for _ in range(count)]


def work(lengths: "np.typing.NDArray[np.int64]", layers: int) -> float:
    """Floating-point operations of the matrix products for texts of so many tokens, in the stock model.

    Attention counts what lies under the diagonal; what a way does more of (padding, the other half) is its own cost,
    and what it leaves out is its gain.
    """
    squares = (lengths.astype(np.float64) ** 2).sum()
    return float(layers * (2 * _weights_of_a_layer() * lengths.sum() + 2 * HEADS * HEAD_SIZE * squares))


def lengthening(layers: int) -> float:
    """What our seconds on a cut model are to be multiplied by, so that their ratios are those of the whole.

    Our engine leaves out most of the last layer: the output of attention and the feed-forward, but for the last token
    of a text. Of a few layers that is a large part, of all of them a small one.
    """
    left_out = HIDDEN * (HEADS * HEAD_SIZE + 3 * FEED_FORWARD) / _weights_of_a_layer()
    return (1 - left_out / LAYERS) / (1 - left_out / layers)


def _weights_of_a_layer() -> int:
    return HIDDEN * (2 * HEADS + 2 * KEY_HEADS) * HEAD_SIZE + 3 * HIDDEN * FEED_FORWARD


def _text(random: np.random.Generator, words: int) -> str:
    return " ".join(f"w{number}" for number in random.integers(VOCABULARY // 2, size=words))
