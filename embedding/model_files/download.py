"""Downloads a model directory from a Hugging Face hub, with the hub's own client.

The client shows progress, resumes what broke off within a call and keeps finished files for the next one. Here it is
told which files are needed, its many errors become one that says what to do, and the result is checked.
"""

from collections.abc import Callable
from pathlib import Path

from embedding.errors import ModelFetchError, ModelUnavailableError
from embedding.model_files.directory import read_model_directory

DEFAULT_REPOSITORY = "Qwen/Qwen3-Embedding-0.6B"

# Everything the loader reads, and nothing twice: hubs also hold the weights as onnx, openvino and pickle files.
NEEDED_FILES = [
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "*_Pooling/config.json",
]


def fetch_model(
    destination: Path,
    repo_id: str = DEFAULT_REPOSITORY,
    revision: str | None = None,
    *,
    endpoint: str | None = None,
    check: Callable[[Path], object] = read_model_directory,
) -> Path:
    """Download a model into a directory, or complete what is there already; returns the directory.

    `endpoint` is the hub's address; by default HF_ENDPOINT, or huggingface.co. 1.2 GB for the default model. `check`
    raises a ModelUnavailableError where a directory is not of the kind that is wanted.

    Raises:
        ModelFetchError: the download failed, or what arrived is no usable model. The message says what to do.
    """
    from huggingface_hub import HfApi, snapshot_download

    hub = HfApi(endpoint=endpoint)
    try:
        # Asked first and alone: given a directory with anything in it, a download from a hub that cannot be reached
        # returns as if it had succeeded.
        commit = hub.model_info(repo_id, revision=revision).sha
        snapshot_download(
            repo_id, revision=commit, local_dir=destination, endpoint=endpoint, allow_patterns=NEEDED_FILES
        )
    except Exception as error:
        raise ModelFetchError(_advice(error, destination, repo_id, revision, hub.endpoint)) from error
    # What killed downloads left behind: the client writes to a new file each time.
    for partial in (destination / ".cache" / "huggingface" / "download").rglob("*.incomplete"):
        partial.unlink(missing_ok=True)
    try:
        check(destination)
    except ModelUnavailableError as error:
        raise ModelFetchError(
            f"{repo_id} from {hub.endpoint} is not a usable model: {error.reason} (in {destination})."
        ) from error
    return destination


def _advice(error: Exception, destination: Path, repo_id: str, revision: str | None, endpoint: str) -> str:
    """What went wrong, and what to do. The client's errors inherit from each other: the order matters."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated: accept its terms on {endpoint}/{repo_id}, and set HF_TOKEN to a token of yours."
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return f"{endpoint} has no model {repo_id}, or it is private. Check the name, or set HF_TOKEN."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision}. Check the name of the branch, tag or commit."
    if isinstance(error, HfHubHTTPError) and error.response.status_code in {401, 403}:
        return f"{endpoint} refused access to {repo_id} ({error.response.status_code}). Check HF_TOKEN."
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        return (
            f"cannot write to {destination} ({error.strerror}). Make room there, or choose another directory, and run "
            "it again: finished files are kept."
        )
    reason = (str(error).strip().splitlines() or [""])[0]
    return (
        f"cannot download {repo_id} from {endpoint} ({type(error).__name__}: {reason}). Check the network and the "
        "proxy settings (HTTPS_PROXY, NO_PROXY), or set HF_ENDPOINT to a mirror. Run it again to continue: finished "
        "files are kept."
    )
