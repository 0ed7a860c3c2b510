"""The prompt before every query. A model's files may store one; Qwen3 models also have a published one."""

import re
from typing import Any

from embedding.model_settings import EmbeddingSettings

_WITH_TASK = re.compile(r"Instruct: .*(?P<rest>\n+Query: ?)", re.DOTALL)


def query_prompt(stored: str | None, model_type: str, settings: EmbeddingSettings) -> str:
    """The prompt to put before every query; empty if the model has none.

    If the stored prompt contains a task and EMBEDDING_QUERY_INSTRUCTION is set, the setting replaces the task.

    Args:
        stored: The prompt in the model's files, or None.
        model_type: As in `config.json`. A `qwen3` model without a stored prompt gets the published one.
        settings: The task of the published prompt.
    """
    if stored is None:
        return qwen3_query_prompt(settings.embedding_query_instruction) if model_type == "qwen3" else ""
    with_task = _WITH_TASK.fullmatch(stored)
    if with_task and "embedding_query_instruction" in settings.model_fields_set:
        return f"Instruct: {settings.embedding_query_instruction}{with_task['rest']}"
    return stored


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
