"""What the hub's client raises becomes one sentence, the same for artifacts and checkpoints."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi, constants, errors
from poolrt.runtime.errors import ArtifactError, CheckpointError
from poolrt.runtime.store.hub_errors import reported

REPLY: Any = httpx.Response(503, request=httpx.Request("GET", "http://hub"))
"""The client takes the response of any of httpx's releases."""


@pytest.mark.parametrize("kind", [ArtifactError, CheckpointError])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.GatedRepoError("x", response=REPLY), "access must be asked for on the hub"),
        (errors.RevisionNotFoundError("x", response=REPLY), "has no revision 'v9'"),
        (errors.RepositoryNotFoundError("x", response=REPLY), "spelled right"),
        (errors.OfflineModeIsEnabled("x"), "not in the local cache"),
        (errors.LocalEntryNotFoundError("x"), "not in the local cache"),
        (errors.HfHubHTTPError("503 busy", response=REPLY), "the hub refuses: 503 busy"),
        (RuntimeError("upload"), r"upload \(upload\)"),
        (ConnectionError("reset"), r"not reachable \(reset\)"),
        (OSError(28, "No space left on device", "/cache/x"), "/cache/x: No space left on device$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_of_the_hub_says_what_to_do(
    error: Exception, words: str, kind: type[ArtifactError] | type[CheckpointError]
) -> None:
    with pytest.raises(kind, match=f"^me/x: .*{words}"), reported("me/x", "v9", kind):
        raise error


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Its client raises its HTTP library's own error here, which is no OSError.
    with (
        pytest.raises(ArtifactError, match=r"^me/x: the hub is not reachable"),
        reported("me/x", None, ArtifactError),
    ):
        HfApi(endpoint="http://127.0.0.1:9").model_info("me/x")
