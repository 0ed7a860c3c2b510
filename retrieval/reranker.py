"""Query and passage → the probability that the passage answers the query, by Qwen3-Reranker.

A reranker reads query and passage together (a cross-encoder). That is more accurate than comparing two vectors, but
takes a forward pass per passage, so only the best hits are reranked. Qwen3-Reranker is a language model that is asked a
yes/no question; the score is the softmax over the logits of `yes` and `no` at the last position. Prompt and scoring
follow the model card of Qwen3-Reranker-0.6B.
"""

from collections.abc import Callable, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from embedding.engine.packing import CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS, batches
from embedding.errors import ModelUnavailableError
from embedding.loader import load_model
from embedding.model_files.directory import check_model_files
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
_WHOLE_TOKENS = ("yes", "no", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


Start = list[tuple["torch.Tensor", "torch.Tensor"]]
"""Keys and values, each (1, heads, tokens, head size), of every layer."""


class RerankerSettings(Settings):
    """Which model reads query and passage together, how many passages of a search, and for how long."""

    reranker_model_path: Path = Field(
        Path("./models/qwen3-reranker-0.6b"), description="Hugging Face directory with the rerank model's files."
    )
    reranker_device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="As EMBEDDING_DEVICE, for the rerank model."
    )
    reranker_max_tokens: int = Field(
        1024,
        ge=256,
        le=8192,
        description="Prompt, query and passage together; a passage is cut at its end to fit in.",
    )
    reranker_instruction: str = Field(
        "Given a web search query, retrieve relevant passages that answer the query",
        description="What the rerank model is told a passage should do for a query.",
    )
    reranker_timeout_seconds: float = Field(
        2.0, gt=0, description="Longest wait of a search for the rerank model; then its order is that of fusion."
    )
    reranker_top_n: int = Field(30, ge=1, description="How many passages of a search, best first, are reranked.")


class RerankerError(Exception):
    """Passages could not be scored."""


class RerankModelUnavailableError(RerankerError):
    """The model directory is missing, incomplete, broken, or holds no reranker of this kind."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both arguments, so that the error survives pickling
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"no usable rerank model in {self.path}: {self.reason}. Download one with "
            "`course-search fetch-model --reranker`, or set RERANKER_MODEL_PATH to the directory of a Qwen3-Reranker."
        )


class Reranker:
    """A loaded model. It is immutable after construction, so threads may share it."""

    def __init__(self, tokenizer: "TokenizersBackend", model: "PreTrainedModel", settings: RerankerSettings) -> None:
        self.device: str = model.device.type
        self._instruction = settings.reranker_instruction
        self._batch_tokens = CUDA_BATCH_TOKENS if self.device == "cuda" else CPU_BATCH_TOKENS
        self._model: Any = model.base_model
        # The backend is configured once and only read afterwards, see LocalEmbedder.
        self._tokenizer = tokenizer.backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._prefix, self._suffix = self._encode(PREFIX), self._encode(SUFFIX)
        self._room = settings.reranker_max_tokens - len(self._prefix) - len(self._suffix)
        # From here on `<|im_end|>` in a text is encoded as plain text: no passage can end the question and answer it.
        self._tokenizer.encode_special_tokens = True
        yes, no = (self._tokenizer.token_to_id(answer) for answer in ("yes", "no"))
        head = model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        # (hidden size,): its product with the last hidden state is the logit of yes minus the logit of no.
        self._yes_minus_no = head[yes].detach().float() - head[no].detach().float()

    @classmethod
    def load(cls, settings: RerankerSettings | None = None) -> Self:
        """Load the configured model, which takes seconds.

        Raises:
            RerankModelUnavailableError: The model directory is missing, incomplete, broken or of another kind.
        """
        settings = settings or RerankerSettings()
        path = settings.reranker_model_path.expanduser()
        try:
            check_model_files(path)
            tokenizer, model = load_model(path, settings.reranker_device, language_model=True)
        except ModelUnavailableError as error:
            raise RerankModelUnavailableError(error.path, error.reason) from error
        for token in _WHOLE_TOKENS:
            if tokenizer.backend_tokenizer.token_to_id(token) is None:
                raise RerankModelUnavailableError(path, f"its tokenizer has no token {token!r}")
        return cls(tokenizer, model, settings)

    def scores(
        self, query: str, documents: Sequence[str], is_over: Callable[[], bool] = lambda: False
    ) -> NDArray[np.float32]:
        """The probability that each document answers the query, (documents,), 0.0 to 1.0.

        Documents are not deduplicated here: the search has done that.

        Args:
            query: The query.
            documents: Texts; a long one is truncated.
            is_over: Called before each batch, because a forward pass cannot be interrupted.

        Raises:
            TimeoutError: `is_over` returned true.
            RerankerError: The model failed, or the query leaves no room for documents.
        """
        prompts = self._prompts(query, documents)
        scores = np.empty(len(prompts), dtype=np.float32)
        if not prompts:
            return scores
        # All prompts share their beginning, at least up to the document. It is computed once, without the last token of
        # the shortest prompt, so that every prompt has at least one token of its own.
        alike = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False)))
        shared = min(alike, *(len(prompt) - 1 for prompt in prompts))
        rests = [prompt[shared:] for prompt in prompts]
        try:
            start = self._start(prompts[0][:shared])
            for batch in batches([len(rest) for rest in rests], self._batch_tokens):
                if is_over():
                    raise TimeoutError
                scores[batch] = self._forward(start, [rests[index] for index in batch])
        except RuntimeError as error:  # torch's errors, including GPU out of memory
            raise RerankerError(f"the rerank model failed on {self.device}: {error}") from error
        if not np.isfinite(scores).all():
            raise RerankerError(f"the rerank model gave a score that is not a number, on {self.device}")
        return scores

    def _prompts(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """The token ids of each prompt; a prompt that is too long loses the end of its document."""
        about = without_surrogates(f"<Instruct>: {self._instruction}\n<Query>: {query}\n<Document>: ")
        if len(self._encode(about)) >= self._room:
            raise RerankerError(
                f"RERANKER_INSTRUCTION and the query take all of the {self._room} tokens that they share with a "
                "document; raise RERANKER_MAX_TOKENS"
            )
        bodies = self._tokenizer.encode_batch_fast(
            [about + without_surrogates(document) for document in documents], add_special_tokens=False
        )
        return [[*self._prefix, *body.ids[: self._room], *self._suffix] for body in bodies]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _start(self, tokens: list[int]) -> Start:
        """Keys and values of the tokens that all prompts share."""
        import torch

        with torch.inference_mode():
            ids = torch.tensor([tokens], device=self._model.device)
            cache = self._model(input_ids=ids, use_cache=True).past_key_values
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _forward(self, start: Start, rests: list[list[int]]) -> NDArray[np.float32]:
        """P(yes) of prompts that continue `start` with these tokens: (prompts,).

        Padding is on the right. Attention is causal, so no token of a prompt sees it, and all positions are right.
        """
        import torch
        from transformers import DynamicCache

        count, device = len(rests), self._model.device
        lengths = torch.tensor([len(rest) for rest in rests])
        ids = torch.zeros((count, int(lengths.max())), dtype=torch.long)
        ids[torch.arange(ids.shape[1]) < lengths.unsqueeze(1)] = torch.tensor([*chain(*rests)])
        with torch.inference_mode():
            cache = DynamicCache([tuple(part.expand(count, -1, -1, -1) for part in layer) for layer in start])
            hidden = self._model(input_ids=ids.to(device), past_key_values=cache, use_cache=True).last_hidden_state
            last = hidden[torch.arange(count), lengths - 1].float()
            scores: NDArray[np.float32] = torch.sigmoid(last @ self._yes_minus_no).cpu().numpy()
        return scores
