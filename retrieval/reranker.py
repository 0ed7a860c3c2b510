"""Scores passages with Qwen3-Reranker: the probability that a passage answers the query.

A reranker is a cross-encoder: it reads query and passage together. That is more accurate than comparing two vectors,
but takes one forward pass per passage, so only the best hits are reranked, best first. Qwen3-Reranker is a language
model that answers a yes/no question. The score is the softmax over the logits of `yes` and `no` at the last position.
Prompt and scoring follow the model card of Qwen3-Reranker-0.6B.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from embedding.engine.fallbacks import Float16Fallback, halve_if_out_of_memory
from embedding.engine.packing import CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS
from embedding.errors import ModelUnavailableError
from embedding.loader import load_model
from embedding.model_files.model_directory import check_model_files
from models.settings import Settings
from models.text import without_surrogates

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TokenizersBackend


PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
MOST_CHARACTERS_PER_TOKEN = 64
"""More than any text has on average."""
TOKENIZED_TOGETHER = 64
"""Documents that are tokenized at a time. To tokenize a thousand before the first score would leave no time for it."""
_REQUIRED_TOKENS = ("yes", "no", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


PrefixCache = list[tuple["torch.Tensor", "torch.Tensor"]]
"""KV cache of the shared prefix: for each layer, keys and values, each (1, heads, tokens, head size)."""


class RerankerSettings(Settings):
    """The rerank model, and the limits for its use in a search."""

    reranker_model_path: Path = Field(
        Path("./models/qwen3-reranker-0.6b"), description="Hugging Face directory of the rerank model."
    )
    reranker_device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="Like EMBEDDING_DEVICE, for the rerank model."
    )
    reranker_max_tokens: int = Field(
        1024,
        ge=256,
        le=8192,
        description="Maximum tokens of prompt, query and passage together; longer passages are truncated.",
    )
    reranker_instruction: str = Field(
        "Given a web search query, retrieve relevant passages that answer the query",
        description="Instruction in the prompt of the rerank model. It describes when a passage is relevant.",
    )
    reranker_timeout_seconds: float = Field(
        2.0,
        gt=0,
        description="Timeout of reranking in a search, and of POST /v1/rerank. The passages that were scored until "
        "then are reordered; in a search, the others follow in the order of the fused scores.",
    )
    reranker_top_n: int = Field(30, ge=1, description="Number of best passages of a search that are reranked.")


class RerankerError(Exception):
    """The passages could not be scored."""


class QueryTooLongError(RerankerError):
    """The query leaves no token for the documents."""


class RerankModelUnavailableError(RerankerError):
    """The model directory is missing, incomplete or broken, or does not contain a Qwen3-Reranker."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both arguments, so that the error survives pickling
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"no usable rerank model in {self.path}: {self.reason}. Download one with "
            "`course-search fetch-model --reranker`, or set RERANKER_MODEL_PATH to the directory of a Qwen3-Reranker."
        )


@dataclass(frozen=True, eq=False)
class _Scorer:
    """The model and the part of its output head that scores."""

    model: Any
    yes_minus_no: "torch.Tensor"
    """(hidden size,): its product with the last hidden state is the logit of yes minus the logit of no."""


class Reranker:
    """A loaded rerank model. Threads may share it. If float16 fails, a model in bfloat16 replaces it.

    Args:
        tokenizer: The tokenizer of the model.
        model: A causal language model with its output head.
        settings: Instruction and maximum length.
        batch_tokens: Maximum tokens of a padded batch; None selects the default for the device.
    """

    def __init__(
        self,
        tokenizer: "TokenizersBackend",
        model: "PreTrainedModel",
        settings: RerankerSettings,
        batch_tokens: int | None = None,
    ) -> None:
        self.device: str = model.device.type
        self._instruction = settings.reranker_instruction
        self._batch_tokens = batch_tokens or (CUDA_BATCH_TOKENS if self.device == "cuda" else CPU_BATCH_TOKENS)
        self._settings = settings
        # Configured once and only read afterwards, so threads may share it (as in LocalEmbedder).
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._prefix, self._suffix = self._encode(PREFIX), self._encode(SUFFIX)
        self._body_tokens = settings.reranker_max_tokens - len(self._prefix) - len(self._suffix)
        # From now on, special tokens in a text are encoded as plain text. Otherwise a passage with `<|im_end|>` could
        # end the question and answer it.
        self._tokenizer.encode_special_tokens = True
        self._scorer = Float16Fallback(
            self._scorer_of(model),
            lambda scorer: str(scorer.model.dtype).removeprefix("torch."),
            self._load_bfloat16,
            settings.reranker_model_path.name,
        )

    @classmethod
    def load(cls, settings: RerankerSettings | None = None) -> Self:
        """Load the configured model. Takes seconds.

        Raises:
            RerankModelUnavailableError: The model directory is missing, incomplete or broken, or of another kind of
                model.
        """
        settings = settings or RerankerSettings()
        path = settings.reranker_model_path
        try:
            check_model_files(path)
            tokenizer, model = load_model(path, settings.reranker_device, language_model=True)
        except ModelUnavailableError as error:
            raise RerankModelUnavailableError(error.path, error.reason) from error
        for token in _REQUIRED_TOKENS:
            if tokenizer.backend_tokenizer.token_to_id(token) is None:
                raise RerankModelUnavailableError(path, f"its tokenizer has no token {token!r}")
        return cls(tokenizer, model, settings)

    def scores(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """The probability that each document answers the query: (documents,), 0.0 to 1.0.

        The documents are not deduplicated: the search has already done that. Raises the same errors as
        `scores_by_batch`.
        """
        return np.concatenate([np.empty(0, dtype=np.float32), *self.scores_by_batch(query, documents)])

    def token_counts(self, query: str, documents: Sequence[str]) -> list[int]:
        """Tokens of the prompt with each document, after truncation; raises `QueryTooLongError`."""
        return [len(prompt) for prompt in self._prompts(query, documents)]

    def scores_by_batch(
        self, query: str, documents: Sequence[str], room: Callable[[int], float] = lambda _: math.inf
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the scores of the documents batch by batch, in the order of the documents.

        Args:
            query: The query.
            documents: The texts to score; long ones are truncated at the end.
            room: Called before each batch with the number of tokens that were computed, including padding. It returns
                how many the next batch may have; the first batch has at least one document if that is above 0. If a
                document does not fit, it and the remaining ones are not scored. A forward pass cannot be interrupted.

        Raises:
            RerankerError: The model failed, or the query is so long that no token is left for the documents.
        """
        computed = 0
        for first in range(0, len(documents), TOKENIZED_TOGETHER):
            prompts = self._prompts(query, documents[first : first + TOKENIZED_TOGETHER])
            # All prompts share a prefix, at least up to the document; its KV cache is computed once. The prefix
            # excludes the last token of the shortest prompt, so that at least one token per prompt remains.
            equal_tokens = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False)))
            shared = min(equal_tokens, *(len(prompt) - 1 for prompt in prompts))
            remainders = [prompt[shared:] for prompt in prompts]
            prefix_cache = cache(partial(_compute_prefix, tokens=prompts[0][:shared]))  # of each scorer
            try:
                self._scorer.run(partial(_last_values, prefix_cache=prefix_cache))
                start = 0
                while start < len(remainders):
                    tokens_left = room(computed)
                    # Half of the room: if a batch takes longer than expected, the scores of the earlier ones remain.
                    size = _batch_size(remainders[start:], min(self._batch_tokens, tokens_left / 2))
                    batch = remainders[start : start + size]
                    tokens = size * max(map(len, batch))
                    if tokens_left <= 0 or (computed and tokens > tokens_left):
                        return
                    scores = self._scorer.run(partial(_forward, prefix_cache=prefix_cache, remainders=batch))
                    start += size
                    computed += tokens
                    if not np.isfinite(scores).all():
                        raise RerankerError(f"the rerank model returned a score that is not a number, on {self.device}")
                    yield scores
            except RuntimeError as error:  # torch's errors, including GPU out of memory
                raise RerankerError(f"the rerank model failed on {self.device}: {error}") from error

    def _prompts(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """The token ids of each prompt. If a prompt is too long, the end of its document is truncated."""
        body_start = without_surrogates(f"<Instruct>: {self._instruction}\n<Query>: {query}\n<Document>: ")
        if len(self._encode(body_start)) >= self._body_tokens:
            raise QueryTooLongError(
                f"RERANKER_INSTRUCTION and the query fill all {self._body_tokens} tokens that they share with the "
                "document; raise RERANKER_MAX_TOKENS"
            )
        longest = self._body_tokens * MOST_CHARACTERS_PER_TOKEN  # tokenizing what is cut off takes time
        bodies = self._tokenizer.encode_batch_fast(
            [body_start + without_surrogates(document[:longest]) for document in documents], add_special_tokens=False
        )
        return [[*self._prefix, *body.ids[: self._body_tokens], *self._suffix] for body in bodies]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _scorer_of(self, model: "PreTrainedModel") -> _Scorer:
        yes, no = (self._tokenizer.token_to_id(answer) for answer in ("yes", "no"))
        head = model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        return _Scorer(model.base_model, head[yes].detach().float() - head[no].detach().float())

    def _load_bfloat16(self) -> _Scorer:
        settings = self._settings
        _, model = load_model(
            settings.reranker_model_path, settings.reranker_device, on_gpu="bfloat16", language_model=True
        )
        self.device = model.device.type
        return self._scorer_of(model)


def _compute_prefix(scorer: _Scorer, tokens: list[int]) -> PrefixCache:
    import torch

    with torch.inference_mode():
        ids = torch.tensor([tokens], device=scorer.model.device)
        prefix = scorer.model(input_ids=ids, use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in prefix.layers]


def _last_values(scorer: _Scorer, prefix_cache: Callable[[_Scorer], PrefixCache]) -> NDArray[np.float32]:
    """The values of the prefix in the last layer, which are not finite if a number of an earlier layer is not."""
    values: NDArray[np.float32] = prefix_cache(scorer)[-1][1].float().cpu().numpy()
    return values


def _forward(
    scorer: _Scorer, prefix_cache: Callable[[_Scorer], PrefixCache], remainders: Sequence[list[int]]
) -> NDArray[np.float32]:
    """P(yes) of the prompts that continue the shared prefix with these tokens: (prompts,).

    Padding is on the right. Attention is causal, so no token of a prompt attends to the padding, and the position ids
    are correct without a mask. A batch that does not fit in the memory of the GPU is halved.
    """
    import torch
    from transformers import DynamicCache

    def score(part: Sequence[list[int]]) -> NDArray[np.float32]:
        count, device = len(part), scorer.model.device
        lengths = torch.tensor([len(remainder) for remainder in part])
        ids = torch.zeros((count, int(lengths.max())), dtype=torch.long)
        ids[torch.arange(ids.shape[1]) < lengths.unsqueeze(1)] = torch.tensor([*chain(*part)])
        with torch.inference_mode():
            past = DynamicCache(
                [tuple(side.expand(count, -1, -1, -1) for side in layer) for layer in prefix_cache(scorer)]
            )
            hidden = scorer.model(input_ids=ids.to(device), past_key_values=past, use_cache=True).last_hidden_state
            last = hidden[torch.arange(count), lengths - 1].float()
            scores: NDArray[np.float32] = torch.sigmoid(last @ scorer.yes_minus_no).cpu().numpy()
        return scores

    return halve_if_out_of_memory(score, remainders)


def _batch_size(prompts: Sequence[list[int]], budget: float) -> int:
    """How many of the prompts, from the first on, fit into a batch of `budget` tokens including padding; at least 1."""
    longest = len(prompts[0])
    for size, prompt in enumerate(prompts):
        longest = max(longest, len(prompt))
        if size and (size + 1) * longest > budget:
            return size
    return len(prompts)
