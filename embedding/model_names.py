"""Names of models. One model is `Qwen/Qwen3-Embedding-0.6B` in some places and `qwen3-embedding-0.6b` in others."""


def base_name(model: str) -> str:
    """The name without the prefix of its publisher, in lower case."""
    return model.rstrip("/").rsplit("/", 1)[-1].casefold()


def is_same_model(name: str, other_name: str) -> bool:
    """Whether two names are of one model."""
    return base_name(name) == base_name(other_name)
