"""Downloads a model directory from a Hugging Face hub with the client `huggingface_hub`.

The client shows progress, resumes interrupted transfers within a call, and keeps finished files for the next call. This
module selects the files, translates the client's errors into messages with advice, and checks the result.
"""

from collections.abc import Callable
from pathlib import Path

import httpx

from embedding.errors import ModelFetchError, ModelUnavailableError
from embedding.http_client import UnusableProxyError, usable_environment
from embedding.model_files.model_directory import read_model_directory
from models.settings import without_password

DEFAULT_REPOSITORY = "Qwen/Qwen3-Embedding-0.6B"

# Only the files that the loader reads: repositories often contain the weights in other formats (ONNX, pickle), too.
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
    """Download a model (1.2 GB for the default one), or complete an earlier download; return the directory.

    Args:
        destination: The directory for the files.
        repo_id: The repository on the hub.
        revision: A branch, tag or commit; by default the main branch.
        endpoint: URL of the hub; by default HF_ENDPOINT, else huggingface.co.
        check: Called with the directory; raises ModelUnavailableError if the model is not usable.

    Raises:
        ModelFetchError: The download failed, or the model is not usable. The message says how to fix this.
    """
    from huggingface_hub import HfApi, snapshot_download

    hub = HfApi(endpoint=endpoint)
    try:
        with usable_environment(hub.endpoint):
            # If the hub is unreachable, `model_info` raises an error. `snapshot_download` alone would return normally
            # if the directory is not empty.
            commit = hub.model_info(repo_id, revision=revision).sha
            snapshot_download(
                repo_id, revision=commit, local_dir=destination, endpoint=endpoint, allow_patterns=NEEDED_FILES
            )
    except (httpx.InvalidURL, UnusableProxyError) as error:
        reason = "HF_ENDPOINT is not a URL" if isinstance(error, httpx.InvalidURL) else error
        raise ModelFetchError(f"cannot download {repo_id} from {without_password(hub.endpoint)}: {reason}") from None
    except Exception as error:
        raise ModelFetchError(_advice(error, destination, repo_id, revision, without_password(hub.endpoint))) from error
    # Remove the partial files of killed downloads: the client does not reuse them.
    for partial in (destination / ".cache" / "huggingface" / "download").rglob("*.incomplete"):
        partial.unlink(missing_ok=True)
    try:
        check(destination)
    except ModelUnavailableError as error:
        raise ModelFetchError(
            f"{repo_id} from {without_password(hub.endpoint)} is not a usable model: {error.reason} (in {destination})."
        ) from error
    return destination


def _advice(error: Exception, destination: Path, repo_id: str, revision: str | None, endpoint: str) -> str:
    """Return a message with the error and how to fix it.

    The order of the checks matters, because some of the client's error classes derive from others.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated: accept its terms on {endpoint}/{repo_id}, and set HF_TOKEN to your access token."
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return f"{endpoint} has no model {repo_id}, or it is private. Check the name, or set HF_TOKEN."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision}. Check the name of the branch, tag or commit."
    if isinstance(error, HfHubHTTPError) and error.response.status_code in {401, 403}:
        return f"{endpoint} refused access to {repo_id} ({error.response.status_code}). Check HF_TOKEN."
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        return (
            f"cannot write to {destination} ({error.strerror}). Free some space, or choose another directory, and "
            "run it again: finished files are kept."
        )
    reason = (str(error).strip().splitlines() or [""])[0]
    return (
        f"cannot download {repo_id} from {endpoint} ({type(error).__name__}: {reason}). Check the network and the "
        "proxy settings (HTTPS_PROXY, NO_PROXY), or set HF_ENDPOINT to a mirror. Run it again to continue: finished "
        "files are kept."
    )
