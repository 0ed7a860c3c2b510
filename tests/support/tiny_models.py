"""Writes tiny model directories that have the files and the architecture of real models.

`make_tiny_qwen3` imitates Qwen3-Embedding, `make_tiny_reranker` Qwen3-Reranker, and `make_tiny_bert` a mean-pooled
sentence-transformers model. `python -m tests.support.tiny_models DIR` writes the tiny Qwen3 to a directory.

Random weights would give all texts nearly the same vector. To make search testable, the weights of the tiny Qwen3
compute an average of word vectors. Each word has a random direction. Attention is almost uniform and copies these
directions, because the value and output projections of the first layer are the identity. The end token, whose embedding
is near zero, becomes their average. Texts with common words then have similar vectors. The embeddings of function words
and of the query prompt have an RMS far below the square root of the RMS norm's epsilon, so they hardly count. Wrong
masks or positions still change the vectors, through the queries and keys of the attention and through the small random
feed-forward.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

END_TOKEN = "<|endoftext|>"
QUERY_PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

_FUNCTION_WORDS = (
    "a about all also an and any are as at be because been but by can could do does each for from had has have how if "
    "in into is it its may more most must no not of on one only or other our over same should so some such than that "
    "the their them then there these they this those through to under up use used using very was we were what when "
    "where which while who why will with would you your "
    "的 了 是 在 和 有 我 不 人 这 中 大 为 上 个 以 到 说 们 与 什么 怎么 如何"
)
_TEXT = """
Copper thickness is measured with a micrometer. The lecture explains gradient descent: the learning rate scales every
step down the slope of the loss. A neural network is trained on examples by back propagation of errors. Photosynthesis
turns light, water and carbon dioxide into sugar and oxygen inside the chloroplast of a plant cell. The database keeps
an index so that a query need not read every row; a transaction is committed or rolled back. Matrix multiplication,
eigenvalue, vector space, probability, variance, hypothesis test. The treaty ended the war and drew new borders.
铜的厚度用千分尺测量。梯度下降按照学习率沿损失函数的斜率前进。神经网络通过反向传播训练。植物的光合作用把光、水和二氧化碳变成糖和氧气。
数据库用索引加快查询，事务要么提交要么回滚。矩阵乘法、特征值、向量空间、概率、方差、假设检验。条约结束了战争并划定了新的边界。
"""
_WORDS = sorted(set(re.findall(r"[A-Za-z]+", f"{QUERY_PROMPT} {_FUNCTION_WORDS} {_TEXT}".lower())))
# Each word with and without a leading space and a capital letter; Chinese as single characters, because otherwise whole
# clauses would become tokens.
_CORPUS = [form for word in _WORDS for form in (word, f" {word}", word.capitalize(), f" {word.capitalize()}")] * 4 + [
    character for character in _FUNCTION_WORDS + _TEXT if character > "\u2e7f"
] * 4
_SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tiny_qwen3(directory: Path, *, seed: int = 0, hidden_size: int = 128, layers: int = 2) -> Path:
    """Write a tiny Qwen3-Embedding in less than a second; returns the directory.

    Different seeds give different weights with the same tokenizer. `hidden_size` is a multiple of 16.
    """
    import torch
    from transformers import Qwen3Config, Qwen3Model

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_byte_level_bpe()
    tokenizer.save(str(directory / "tokenizer.json"))
    end = tokenizer.get_vocab()[END_TOKEN]
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        head_dim=16,
        num_key_value_heads=hidden_size // 16,
        num_attention_heads=hidden_size // 8,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
    )
    random = torch.Generator().manual_seed(seed)
    model: Any = Qwen3Model(config)
    with torch.no_grad():
        model.embed_tokens.weight.copy_(_embeddings(tokenizer, end, hidden_size, random))
        copy = torch.eye(hidden_size)
        for number, layer in enumerate(model.layers):
            attention, feed_forward = layer.self_attn, layer.mlp
            attention.v_proj.weight.copy_(copy)
            # two query heads share one key-value head: averaging both gives the identity again
            shared = copy.view(hidden_size, -1, 16).repeat_interleave(2, dim=1).flatten(1) / 2
            attention.o_proj.weight.copy_(shared if number == 0 else 0.05 * shared)
            for projection in (attention.q_proj, attention.k_proj, feed_forward.gate_proj, feed_forward.up_proj):
                projection.weight.normal_(std=hidden_size**-0.5, generator=random)
            attention.q_norm.weight.fill_(0.2)
            feed_forward.down_proj.weight.normal_(std=0.1 / hidden_size, generator=random)
    model.to(torch.bfloat16).save_pretrained(directory)
    _edit_json(directory / "config.json", architectures=["Qwen3ForCausalLM"])
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "padding_side": "left",
            "model_max_length": 131072,
            "pad_token": END_TOKEN,
            "eos_token": "<|im_end|>",
            "unk_token": None,
        },
    )
    _write_sentence_transformers_files(directory, hidden_size, pooling="lasttoken")
    _write_json(
        directory / "config_sentence_transformers.json",
        {
            "prompts": {"query": QUERY_PROMPT, "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
    return directory


def make_tiny_reranker(directory: Path, *, seed: int = 0, tied: bool = True, answers: str = "yes no") -> Path:
    """Write a tiny Qwen3-Reranker with random weights: its scores are deterministic but meaningless.

    The answers and the chat markers are single tokens. Unlike the real tokenizer, this one appends an end token to
    texts, which the reranker must remove. `tied`: the output layer shares the embedding matrix, as in the real model.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_byte_level_bpe(answers.split(), ["<|im_start|>", "<think>", "</think>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        head_dim=16,
        num_key_value_heads=2,
        num_attention_heads=4,
        initializer_range=0.15,
        tie_word_embeddings=tied,
    )
    model: Any = Qwen3ForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(directory)
    _write_json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "Qwen2Tokenizer", "padding_side": "left", "pad_token": END_TOKEN, "unk_token": None},
    )
    return directory


def make_tiny_bert(directory: Path, *, seed: int = 0, pooling: str = "mean") -> Path:
    """Write a tiny sentence-transformers BERT with random weights, 512 positions and a `max_seq_length` of 128."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel

    directory.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        _CORPUS, trainers.WordPieceTrainer(vocab_size=800, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=128)  # as in published models: the embedder must disable it
    tokenizer.save(str(directory / "tokenizer.json"))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(directory)
    _write_json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512},
    )
    _write_sentence_transformers_files(directory, 64, pooling=pooling)
    _write_json(directory / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
    return directory


def _train_byte_level_bpe(words: Sequence[str] = (), special_tokens: Sequence[str] = ()) -> "Tokenizer":
    """Train a tokenizer in which each of the words and of the special tokens is one token."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [*_CORPUS, *words, *words], trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in (END_TOKEN, "<|im_end|>", *special_tokens)]
    )
    end = tokenizer.token_to_id(END_TOKEN)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"$A {END_TOKEN}", special_tokens=[(END_TOKEN, end)]),
        ]
    )
    return tokenizer


def _embeddings(tokenizer: "Tokenizer", end: int, hidden_size: int, random: "torch.Generator") -> "torch.Tensor":
    """One random direction per word, the same for `Copper`, ` copper` and `copper`.

    Vectors much shorter than 1e-3, the square root of the epsilon of the RMS norm, stay short after normalization.
    """
    import torch

    vocabulary = tokenizer.get_vocab()
    spellings = {token: token.lstrip("Ġ").lower() for token in vocabulary}
    directions = {spelling: torch.randn(hidden_size, generator=random) for spelling in sorted(set(spellings.values()))}
    unimportant = set(re.findall(r"\w+", f"{QUERY_PROMPT} {_FUNCTION_WORDS}".lower())) | {""}
    table = torch.empty(len(vocabulary), hidden_size)
    for token, index in vocabulary.items():
        spelling = spellings[token]
        text = tokenizer.decode([index]).strip().lower()
        length = (
            1e-4 if text in unimportant or not re.search(r"\w|\ufffd", text) else 3e-4 if len(spelling) == 1 else 1.0
        )
        table[index] = length * directions[spelling]
    table[end] = 2e-4 * directions[END_TOKEN]
    return table


def _write_sentence_transformers_files(directory: Path, dimensions: int, *, pooling: str) -> None:
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    _write_json(
        directory / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    flags = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
    (directory / "1_Pooling").mkdir(exist_ok=True)
    _write_json(
        directory / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": dimensions,
            **{f"pooling_mode_{flag}": name == pooling for name, flag in flags.items()},
            "include_prompt": True,
        },
    )


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _edit_json(file: Path, **changes: Any) -> None:
    _write_json(file, json.loads(file.read_text(encoding="utf-8")) | changes)


if __name__ == "__main__":
    make_tiny_qwen3(Path(sys.argv[1]))
