"""What the API answers to generated requests is what its own document says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from engine.control.app import openapi_document
from engine.control.contract import TestConnectionAnswer
from engine.control.probe import Probed
from engine.supervisor.server import HttpServer
from tests.support.control import Control


def tried(_: Probed) -> TestConnectionAnswer:
    """No source is asked: a generated host may be anybody's."""
    answer = {"ok": False, "error": "dns", "message": "m", "latencyMs": None, "estimatedSizeGb": None}
    return TestConnectionAnswer.model_validate({**answer, "availableSchemas": [], "readiness": None})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Control]]:
    with Control.on(tmp_path_factory.mktemp("control"), probing=tried) as control:
        server = HttpServer("127.0.0.1", 0)
        server.start(control.app, lambda _: None)
        yield server.url, control
        server.stop()


def _document() -> dict[str, Any]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, Control.on(Path(folder)) as control:
        return openapi_document(control.app)


schema = schemathesis.openapi.from_dict(_document())


@schema.parametrize()
@hypothesis.settings(max_examples=25, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_answers_are_as_documented(case: schemathesis.Case, served: tuple[str, Control]) -> None:
    url, control = served
    case.call_and_validate(
        base_url=f"{url}/v1",
        headers={"Authorization": f"Bearer {control.token}"},
        checks=[
            not_a_server_error,
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_headers_conformance,
            checks.response_schema_conformance,
            checks.negative_data_rejection,
            checks.ignored_auth,
            checks.use_after_free,
            checks.unsupported_method,
            checks.allow_header_conformance,
        ],
    )
