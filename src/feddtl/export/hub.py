"""Uploading an export to the Hugging Face Hub, or to a server that speaks its interface (HF_ENDPOINT)."""

from __future__ import annotations

from pathlib import Path

from feddtl.errors import ConfigError, FeddtlError, RunError
from feddtl.units import size


def require_repository_name(name: str) -> None:
    """Raise ConfigError if a text is not OWNER/NAME as the Hub allows it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
        problem = "" if name.count("/") == 1 else "an owner and a name are needed"
    except HFValidationError as error:
        problem = str(error).split(": ")[0].rstrip(".")
    if problem:
        raise ConfigError(f"--push '{name}' is no repository of the Hub: {problem}.", "Pass OWNER/NAME.")


def described_upload(folder: Path, repository: str, *, private: bool) -> list[str]:
    """What an upload would do, in lines: where to, who can read it, and each file with its size."""
    from huggingface_hub import constants

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    readers = "private: you, and those to whom you give access" if private else "public: anyone can read it"
    lines = [f"{size(bytes_):>10}  {path.relative_to(folder)}" for path, bytes_ in zip(files, sizes, strict=True)]
    return [f"To {constants.ENDPOINT}/{repository} ({readers}), {size(sum(sizes))}:", *lines]


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a folder into a model repository, which is created if there is none.

    Args:
        folder: The export.
        repository: OWNER/NAME.
        private: Who can read a new repository. An existing one must be as private as that.

    Returns:
        Address of the commit.

    Raises:
        RunError: The existing repository has other readers, or the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi()
    try:
        try:
            existing = api.model_info(repository)
        except RepositoryNotFoundError:
            api.create_repo(repository, private=private)
        else:
            _require_readers(repository, bool(existing.private), private)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload a model exported by feddtl"
        )
    except FeddtlError:
        raise
    except Exception as error:  # of HTTP, of the network and of files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(
            f"Nothing was committed to {repository}: {reason}",
            f"Log in with a token that may write (hf auth login, or HF_TOKEN), then: hf upload {repository} {folder}",
        ) from None
    return str(commit.commit_url)


def _require_readers(repository: str, is_private: bool, private: bool) -> None:
    if is_private != private:
        raise RunError(
            f"{repository} exists and is {'private' if is_private else 'public'}; nothing was uploaded.",
            "Add --private to upload to it." if is_private else "Omit --private, or choose another name.",
        )
