"""Looks at a model's repository on Hugging Face, or commits files to it.

What to do comes as JSON over stdin, the token in it: {"do": "look" | "change", "endpoint", "token", "repository", …}.
The answer goes to stdout as JSON: what there is, or {"error": {"status", "said"}}. It runs in the client, not on a
target.
"""

import json
import os
import sys
from pathlib import Path

# Before the import, which reads them.
os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="0")

import requests
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, configure_http_backend, constants
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import HfHubHTTPError, RepositoryNotFoundError

# Seconds to connect, and between two bytes; for a large commit a hub takes its time. The library has no limit.
LIMITS = (15, 120)


class Session(requests.Session):
    def request(self, *arguments, timeout=None, **options):
        return super().request(*arguments, timeout=timeout or LIMITS, **options)


configure_http_backend(Session)
request = json.load(sys.stdin)
repository = request["repository"]
api = HfApi(endpoint=request["endpoint"], token=request["token"])


def look() -> dict:
    try:
        information = api.model_info(repository, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except RepositoryNotFoundError as error:
        # To a token that may not see it, the hub says 401.
        if error.response.status_code != 404:
            raise
        return {"absent": True}
    entries = api.list_repo_tree(repository, recursive=True, revision=information.sha)
    files = {
        entry.path: f"sha256 {entry.lfs.sha256}" if entry.lfs else f"git {entry.blob_id}"
        for entry in entries
        if isinstance(entry, RepoFile)
    }
    return {"files": files, "private": information.private, "version": information.sha}


def change() -> dict:
    private, seen = request["private"], request["seen"]
    # What may be amiss with a repository is that it is public instead of private, or private instead of public.
    if seen is None:
        api.create_repo(repository, private=private)
    elif private and seen["amiss"]:
        # Nobody may see for a moment what is to be private.
        api.update_repo_settings(repository, private=True)
    operations = [
        *(CommitOperationAdd(name, Path(request["folder"]) / name) for name in request["send"]),
        *(CommitOperationDelete(name) for name in request["remove"]),
    ]
    if operations:
        api.create_commit(
            repository,
            operations,
            commit_message=request["message"],
            # What somebody else has committed meanwhile is not lost.
            parent_commit=None if seen is None else seen["version"],
        )
    if seen is not None and seen["amiss"] and not private:
        api.update_repo_settings(repository, private=False)
    return {}


def of_network(error: BaseException) -> str:
    """Such as "Connection refused"."""
    cause = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def refusal(error: BaseException) -> dict:
    """The hub's own words, or those of the network, are in what an error was raised from."""
    cause = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            said = cause.server_message or cause.response.reason or ""
            return {"status": cause.response.status_code, "said": said}
        if isinstance(cause, requests.Timeout):
            return {"status": 0, "said": "it does not answer"}
        if isinstance(cause, requests.ConnectionError):
            return {"status": 0, "said": of_network(cause)}
        cause = cause.__cause__ or cause.__context__
    return {"status": None, "said": f"{error}".strip() or type(error).__name__}


try:
    answer = look() if request["do"] == "look" else change()
except Exception as error:
    answer = {"error": refusal(error)}
print(json.dumps(answer))
