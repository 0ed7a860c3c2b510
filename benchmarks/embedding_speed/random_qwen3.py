"""A model with the shape of Qwen3-Embedding-0.6B and random weights, and random texts for it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

# From config.json of huggingface.co/Qwen/Qwen3-Embedding-0.6B
VOCABULARY = 151_669
HIDDEN, FEED_FORWARD, HEADS, KEY_HEADS, HEAD_SIZE = 1024, 3072, 16, 8, 128
LAYERS = 28
MAX_TOKENS = 512
_END = "<|endoftext|>"
_PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_PROMPT_WORDS = [*dict.fromkeys(re.findall(r"\w+|[^\w\s]", _PROMPT))]


def write_random_qwen3(directory: Path, layers: int) -> None:
    """Write a directory that sentence-transformers and the product can load, in bfloat16 like the published model.

    Each word (`w7`) is one token, so the token counts of texts can be chosen exactly.
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
    """Texts with log-normal token counts: about 235 on average, at most 512 including the end token."""
    random = np.random.default_rng(0)
    lengths = np.minimum(random.lognormal(np.log(215), 0.6, size=count).astype(int), MAX_TOKENS) - 1
    return [_text(random, max(1, length)) for length in lengths]


def queries(count: int) -> list[str]:
    """Queries of eight words."""
    random = np.random.default_rng(1)
    return [_text(random, 8) for _ in range(count)]


def matrix_flops(lengths: "np.typing.NDArray[np.int64]", layers: int) -> float:
    """Floating-point operations of the matrix products of the stock model, for texts with these token counts.

    Attention counts only the causal half, and padding is not counted. An implementation may do more operations
    (padding, full attention) or fewer.
    """
    squares = (lengths.astype(np.float64) ** 2).sum()
    return float(layers * (2 * _weights_per_layer() * lengths.sum() + 2 * HEADS * HEAD_SIZE * squares))


def full_depth_factor(layers: int) -> float:
    """Correction of the engine's seconds from a shortened model to full depth, relative to the baseline's seconds.

    In the last layer the engine computes the attention output and the feed-forward only for the last token of each
    text. This saves a larger share of the work of a few layers than of all layers.
    """
    saved = HIDDEN * (HEADS * HEAD_SIZE + 3 * FEED_FORWARD) / _weights_per_layer()
    return (1 - saved / LAYERS) / (1 - saved / layers)


def _weights_per_layer() -> int:
    return HIDDEN * (2 * HEADS + 2 * KEY_HEADS) * HEAD_SIZE + 3 * HIDDEN * FEED_FORWARD


def _text(random: np.random.Generator, words: int) -> str:
    return " ".join(f"w{number}" for number in random.integers(VOCABULARY // 2, size=words))
