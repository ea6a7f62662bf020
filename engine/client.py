"""Asks a running instance over HTTP; used by ``reflex-engine query`` and ``status``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

DEFAULT_URL = "http://127.0.0.1:8080"

ACCEPT = {
    "table": "application/json",
    "json": "application/json",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
}
"""What is asked for, by output format."""


class ClientError(Exception):
    """The instance cannot be reached, or refuses. `status` is the HTTP status (None: no answer), `word` its error."""

    def __init__(self, message: str, *, status: int | None = None, word: str = "unreachable") -> None:
        self.status = status
        self.word = word
        super().__init__(message)

    @property
    def is_callers(self) -> bool:
        """Whether the request is at fault (bad SQL, no token), and not the instance."""
        return self.status is not None and 400 <= self.status < 500


class InstanceClient:
    """One instance at `url`. Every method raises ClientError."""

    def __init__(self, url: str = DEFAULT_URL, token: str | None = None, *, timeout: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        try:
            parsed = httpx.URL(self.url)
        except (httpx.InvalidURL, UnicodeError):
            parsed = httpx.URL("")
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ClientError(f"{url} is not a URL such as {DEFAULT_URL}", status=400, word="usage")
        # Authorities take time to load, and only HTTPS asks them.
        tls = parsed.scheme == "https"
        self._http = httpx.Client(base_url=parsed, headers=headers, timeout=timeout, verify=tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def health(self) -> dict[str, Any]:
        """The body of ``GET /health``, whatever its status says."""
        with self._answer("GET", "/health", also=(503,)) as answer:
            return dict(_json(answer))

    def tables(self) -> list[dict[str, Any]]:
        """The entries of ``GET /tables``."""
        with self._answer("GET", "/tables") as answer:
            body = _json(answer)
        return list(body["tables"] if isinstance(body, dict) else body)

    def query(self, sql: str, *, after: str | None = None, timeout_ms: int | None = None) -> dict[str, Any]:
        """Answer `sql` as JSON: ``columns``, ``rows``, ``rowCount``, ``truncated``, ``position``.

        `after`: not before the replica has reached this position of the source. `timeout_ms`: how long it may take.
        """
        with self._answer("POST", "/query", json=_request(sql, after, timeout_ms), accept=ACCEPT["json"]) as answer:
            return dict(_json(answer))

    def stream(
        self, sql: str, accept: str, *, after: str | None = None, timeout_ms: int | None = None
    ) -> Iterator[bytes]:
        """Answer `sql` in the media type `accept`, as it arrives; `after` and `timeout_ms` as for `query`."""
        with self._answer("POST", "/query", json=_request(sql, after, timeout_ms), accept=accept) as answer:
            try:
                yield from answer.iter_bytes()
            except httpx.HTTPError as error:
                raise ClientError(f"the answer of {self.url} broke off ({type(error).__name__})") from None

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        accept: str = "application/json",
        also: tuple[int, ...] = (),
    ) -> Iterator[httpx.Response]:
        # A query may take as long as the instance lets it: only connecting has a limit of ours.
        timeout = httpx.Timeout(None, connect=5.0) if path == "/query" else httpx.USE_CLIENT_DEFAULT
        try:
            with self._http.stream(method, path, json=json, headers={"Accept": accept}, timeout=timeout) as answer:
                if answer.status_code >= 400 and answer.status_code not in also:
                    answer.read()
                    raise _refusal(answer)
                yield answer
        except httpx.HTTPError as error:
            raise ClientError(f"no instance answers at {self.url} ({type(error).__name__})") from None


def _request(sql: str, after: str | None, timeout_ms: int | None) -> dict[str, Any]:
    request = {"sql": sql, "after": after, "timeout_ms": timeout_ms}
    return {name: value for name, value in request.items() if value is not None}


def _json(answer: httpx.Response) -> Any:
    answer.read()
    try:
        return answer.json()
    except ValueError:
        raise ClientError(f"{answer.url} answers, but not as an instance of reflex-engine does") from None


def _refusal(answer: httpx.Response) -> ClientError:
    try:
        body = answer.json()
        message, word = str(body["message"]), str(body["error"])
    except (ValueError, KeyError, TypeError):
        message, word = f"{answer.url} answered {answer.status_code}", "http"
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        message += " (give the token with --token or REFLEX_TOKEN)"
    return ClientError(message, status=answer.status_code, word=word)
