"""Gradual release: a canary answers a share of the requests, and a shadow's answers are compared.

The export that is tried out has its own engine, so it cannot hold up the others. All requests that
it cannot answer, and those about indexes, are answered by the stable exports.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from starlette.types import Message, Receive, Scope, Send

from albef.serving.batching import CLIENT
from albef.serving.engine import TEXT_RATE, Engine, Resources
from albef.serving.errors import ApiError
from albef.serving.following import Follower
from albef.serving.limits import MIB, Options, Trial
from albef.serving.metrics import Metrics
from albef.serving.middleware.exchange import HttpMiddleware, exchange_of, path_of
from albef.serving.routes.calls import CALLS

KEY = "x-albef-key"
"""Header whose value decides which version answers."""
STABLE, CANARY, SHADOW = "stable", "canary", "shadow"
_WAITING = 32  # Requests that wait for the shadow; further ones are dropped.
_WAITING_BYTES = 64 * MIB  # of their bodies
_COMPATIBLE = {"/v1/embeddings": "embed_text", "/v1/rerank": "match", "/v2/rerank": "match"}
_CALLS = {path: call for call, path in CALLS.items()} | _COMPATIBLE

log = logging.getLogger("albef")


def followers_of(options: Options, stable: Follower) -> dict[str, Follower]:
    """Return the followers of a server, by version.

    Raises:
        ExportError: the canary or shadow cannot be served.
        ValueError: it is an export of a run that is not served.
    """
    followers = {STABLE: stable}
    for version, trial in ((CANARY, options.canary), (SHADOW, options.shadow)):
        if trial:
            followers[version] = _follower(version, trial, options, stable.engine)
    return followers


def _follower(version: str, trial: Trial, options: Options, stable: Engine) -> Follower:
    own = replace(
        options, exports=[trial.export], refresh=trial.refresh, indexes=None, gallery=None
    )
    metrics = Metrics(trial_of=stable.metrics, name=version)
    engine = Engine(Resources(own, metrics))
    served = {queues.run for queues in stable.models}
    if others := {queues.run for queues in engine.models} - served:
        raise ValueError(
            f"--{version} {trial.export} is an export of run {min(others)}, but the server has "
            f"{', '.join(sorted(served))}; a {version} must be of the same run"
        )
    return Follower(engine, trial.share)


def is_chosen(key: str, share: float) -> bool:
    """Return whether a key belongs to a share of all keys, from 0 to 1.

    The result is the same on every server. A larger share contains the keys of a smaller one.
    """
    digest = hashlib.sha256(key.encode(errors="replace")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


@dataclass(eq=False)
class Current(HttpMiddleware):
    """Middleware that gives a request its client, and the current engine of a version.

    The canary is chosen by the header :data:`KEY`, or else by the name of the token or the client's
    address, so a client always gets the same version. The shadow gets requests that the stable
    version has answered, one at a time, after the answer was sent.
    """

    followers: Mapping[str, Follower]
    _waiting: list[int] = field(default_factory=list)  # bytes of each body
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        CLIENT.set(exchange.client.name)
        TEXT_RATE.set(exchange.client.text_rate)
        if len(self.followers) == 1:
            with self.followers[STABLE].engine.answering():
                await self.app(scope, receive, send)
            return
        path, key = path_of(scope), exchange.headers.get(KEY) or exchange.client.name
        exchange.version = CANARY if self._takes(CANARY, path, key) else STABLE
        engine = self.followers[exchange.version].engine
        is_shadowed = exchange.version == STABLE and self._takes(SHADOW, path, exchange.id)
        copy, body, answer = dict(scope), bytearray(), bytearray()

        async def keep_body() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def keep_answer(message: Message) -> None:
            answer.extend(message.get("body", b""))
            await send(message)

        with engine.answering():
            if not is_shadowed:
                await self.app(scope, receive, send)
                return
            await self.app(scope, keep_body, keep_answer)
        if exchange.status == 200:
            self._shadow(scope["route"].path, copy, bytes(body), bytes(answer))

    def _takes(self, version: str, path: str, key: str) -> bool:
        """Return whether a version has the call of a path, of the same run, and gets this key."""
        if (trial := self.followers.get(version)) is None:
            return False
        call = path.split("/")[3] if path.startswith("/v2/models/") else _CALLS.get(path, "")
        stable = self.followers[STABLE].engine.calls.get(call)
        tried = trial.engine.calls.get(call)
        is_same = stable is not None and tried is not None and stable.run == tried.run
        return is_same and is_chosen(key, trial.share)

    def _shadow(self, route: str, scope: Scope, body: bytes, answer: bytes) -> None:
        shadow = self.followers[SHADOW]
        if len(self._waiting) < _WAITING and sum(self._waiting) + len(body) <= _WAITING_BYTES:
            self._waiting.append(len(body))
            shadow.begin(self._compare(route, scope, body, answer))
        else:
            shadow.engine.metrics.compared.labels(route, "dropped").inc()

    async def _compare(self, route: str, scope: Scope, body: bytes, answer: bytes) -> None:
        """Send a request to the shadow, and compare its answer with the one that was sent."""
        try:
            async with self._turn:
                engine, start = self.followers[SHADOW].engine, time.perf_counter()
                status, other = await self._ask(engine, scope, body)
                engine.metrics.requests.labels(route, scope["method"], f"{status}").inc()
                engine.metrics.seconds.labels(route).observe(time.perf_counter() - start)
                if status == 200:
                    await asyncio.to_thread(_count, engine.metrics, route, answer, other)
                else:
                    engine.metrics.compared.labels(route, "failed").inc()
        finally:
            self._waiting.remove(len(body))

    async def _ask(self, engine: Engine, scope: Scope, body: bytes) -> tuple[int, bytes]:
        answer, status = bytearray(), 500
        TEXT_RATE.set(None)

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def collect(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))

        try:
            with engine.answering():
                async with asyncio.timeout(engine.limits.seconds):
                    await self.app(scope, replay, collect)
        except ApiError as error:
            status = error.status
        except Exception:
            log.exception("request %s to the shadow failed", exchange_of(scope).id)
        return status, bytes(answer)


def _count(metrics: Metrics, route: str, answer: bytes, other: bytes) -> None:
    """Count equal and different best answers, or the similarity of vectors."""
    sent, computed = json.loads(answer), json.loads(other)
    for one, two in zip(best_answers(sent), best_answers(computed), strict=False):
        metrics.compared.labels(route, "equal" if one == two else "different").inc()
    vectors = [np.array(_vectors(each)) for each in (sent, computed)]
    if vectors[0].ndim == 2 and vectors[0].shape == vectors[1].shape:
        products = np.prod([np.linalg.norm(each, axis=-1) for each in vectors], axis=0)
        for cosine in (vectors[0] * vectors[1]).sum(-1) / products:
            metrics.cosine.labels(route).observe(cosine)


def best_answers(answer: Any) -> list[Any]:
    """Return the best answer to each item of a response; empty for a response with vectors."""
    match answer:
        case {"probabilities": [chance]}:
            return [chance >= 0.5]
        case {"probabilities": chances}:
            return [int(np.argmax(chances))]
        case {"answers": answers}:
            return [best[0]["text"] if best else None for best in answers]
        case {"results": [{"index": first}, *_]}:
            return [first]
        case {"results": results}:
            return [
                each["label"] if "label" in each else (each["probability"] >= 0.5, each["best"])
                for each in results
            ]
    return []


def _vectors(answer: Any) -> list[Any]:
    data = answer.get("data", ())
    vectors: list[Any] = answer.get("embeddings") or [each["embedding"] for each in data]
    return vectors
