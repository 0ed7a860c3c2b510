"""The prompts: texts before every query and every document, which the model was trained with.

A setting decides, else the model's files, which may store them. Qwen3 models also have a published query prompt.
"""

import re
from typing import Any

from embedding.model_settings import EmbeddingSettings

NO_PROMPT = "none"
"""Value of a setting for no prompt, because an empty value selects the default."""
_WITH_TASK = re.compile(r"Instruct: .*(?P<rest>\n+Query: ?)", re.DOTALL)


def query_prompt(stored: str | None, model_type: str, settings: EmbeddingSettings) -> str:
    """The prompt to put before every query; empty if the model has none.

    EMBEDDING_QUERY_PROMPT replaces the prompt. Otherwise, if the stored prompt contains a task and
    EMBEDDING_QUERY_INSTRUCTION is set, that setting replaces the task.

    Args:
        stored: The prompt in the model's files, or None.
        model_type: As in `config.json`. A `qwen3` model without a stored prompt gets the published one.
        settings: The prompt, or the task of the published one.
    """
    if settings.embedding_query_prompt is not None:
        return _configured(settings.embedding_query_prompt)
    if stored is None:
        return qwen3_query_prompt(settings.embedding_query_instruction) if model_type == "qwen3" else ""
    with_task = _WITH_TASK.fullmatch(stored)
    if with_task and "embedding_query_instruction" in settings.model_fields_set:
        return f"Instruct: {settings.embedding_query_instruction}{with_task['rest']}"
    return stored


def served_query_prompt(model: str, settings: EmbeddingSettings) -> str:
    """The same for the model of a server of which only the name is known.

    Without a setting, only Qwen3 models have a prompt, and no model of a server that adds the prompts itself (see
    EMBEDDING_SERVICE_INPUT_TYPES).
    """
    if settings.input_types and settings.embedding_query_prompt is None:
        return ""
    has_task = "embedding_query_instruction" in settings.model_fields_set
    return query_prompt(None, "qwen3" if has_task or "qwen3" in model.casefold() else "", settings)


def document_prompt(stored: str | None, settings: EmbeddingSettings) -> str:
    """The prompt to put before every document: EMBEDDING_DOCUMENT_PROMPT, else the stored one; empty if none."""
    if settings.embedding_document_prompt is not None:
        return _configured(settings.embedding_document_prompt)
    return stored or ""


def qwen3_query_prompt(task: str) -> str:
    """The prompt of the model card (huggingface.co/Qwen/Qwen3-Embedding-0.6B), which has no space after `Query:`."""
    return f"Instruct: {task}\nQuery:"


def stored_prompt(config: dict[str, Any], *names: str) -> str | None:
    """The first of the named prompts that `config_sentence_transformers.json` stores, else its default prompt."""
    prompts = config.get("prompts") or {}
    for name in (*names, config.get("default_prompt_name")):
        if isinstance(prompts.get(name), str):
            return str(prompts[name])
    return None


def _configured(prompt: str) -> str:
    return "" if prompt == NO_PROMPT else prompt
