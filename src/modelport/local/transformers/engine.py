"""The engine: one thread that computes all answers under way, a step at a time."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable

import torch

from modelport.errors import ModelError, RateLimited, ServerError
from modelport.local.grammar_matching import TokenMasks
from modelport.local.token_model import EngineRequest, Prompt, TokenBatch
from modelport.local.transformers.images import prompt_with_images
from modelport.local.transformers.loading import LoadedModel
from modelport.local.transformers.packing import Forward, PrefillChunk
from modelport.local.transformers.prefixes import Prefixes
from modelport.local.transformers.rows import BatchRow
from modelport.local.transformers.sampling import Sampler
from modelport.types.content import Image

#: Tokens of prompts in one pass: alone, and beside rows that write, which wait for it.
CHUNK_ALONE, CHUNK_BESIDE = 512, 128


class TransformersEngine:
    """Computes answers; see `TokenEngine`.

    Args:
        loaded: The model and what belongs to it.
        forward: How its rows are computed.
        parallel: Answers under way at once; more wait.
        queue: How many may wait.
        prefix_cache_bytes: See `Prefixes.limit`.
    """

    def __init__(
        self, loaded: LoadedModel, forward: Forward, *, parallel: int, queue: int, prefix_cache_bytes: int
    ) -> None:
        self.pid = os.getpid()
        self.tokenizer, self.template = loaded.tokenizer, loaded.template
        self.context_length, self.eos = loaded.context_length, loaded.eos
        self.sees = loaded.processor is not None
        self._loaded = loaded
        self.forward = forward
        self._masks = TokenMasks(loaded.tokenizer, loaded.vocab_size, loaded.eos)
        self._parallel, self._queue = parallel, queue
        self.prefixes = Prefixes(prefix_cache_bytes)
        self._rows: list[BatchRow] = []
        self._waiting: deque[BatchRow] = deque()
        self._wake = threading.Condition()
        self._closing = False
        # The thread must not keep alive an engine that everyone has forgotten.
        self._thread = threading.Thread(target=_work, args=(weakref.ref(self), self._wake), daemon=True)
        self._thread.name = "modelport-transformers"
        self._thread.start()

    @property
    def busy(self) -> int:
        """How many answers are under way or wait."""
        return len(self._rows) + len(self._waiting)

    def prompt(self, text: str, images: list[Image]) -> Prompt:
        """See `TokenEngine.prompt`."""
        if images:
            return prompt_with_images(self._loaded, text, images)
        # The tokenizer itself, not the library's wrapper, which threads may not share.
        return Prompt(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    async def run(self, job: EngineRequest) -> AsyncGenerator[TokenBatch, None]:
        """See `TokenEngine.run`."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[TokenBatch | BaseException] = asyncio.Queue()

        def tell(item: TokenBatch | BaseException) -> None:
            try:
                loop.call_soon_threadsafe(told.put_nowait, item)
            except RuntimeError:  # The loop has ended, and who waited on it.
                row.abandoned = True

        eos = [] if job.parameters.get("ignore_eos") else self._ends(job)
        sampler = Sampler(job.parameters, self._loaded.defaults, len(job.prompt.tokens), self.eos, self._loaded.device)
        matcher = self._masks.matcher(job.lark) if job.lark is not None else None
        row = BatchRow(job, sampler, matcher, self.tokenizer, eos, tell)
        self._submit(row)
        try:
            while True:
                item = await told.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            row.abandoned = True

    def _ends(self, job: EngineRequest) -> list[int]:
        given = job.parameters.get("eos_token_id")
        return self.eos if given is None else [given] if isinstance(given, int) else list(given)

    def _submit(self, row: BatchRow) -> None:
        with self._wake:
            if self._closing:
                raise ModelError("this model has been closed; make a new one")
            if len(self._waiting) >= self._queue:
                raise RateLimited(f"{self._queue} requests wait for this engine already; try again, or raise `queue`")
            self._waiting.append(row)
            self._wake.notify()

    def close(self) -> None:
        """Ends the thread and frees the memory; requests under way end with an error."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(10.0)

    def detach_after_fork(self) -> None:
        """Nothing is destroyed with an engine of the parent's but memory of its own."""

    # --- on the engine's thread ---------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Whether the thread has something to do."""
        return bool(self._rows or self._waiting or self._closing)

    def turn(self) -> bool:
        """Does one step of all rows; False once the engine is closed."""
        if self._closing:
            for row in [*self._rows, *self._waiting]:
                row.fail(ModelError("this model was closed while it answered"))
            self._rows, self._loaded = [], None  # type: ignore[assignment]
            self._waiting.clear()
            self.prefixes.clear()
            return False
        for row in [row for row in self._rows if row.abandoned]:
            self._leave(row)
        self._admit()
        if self._rows:
            self._step()
        return True

    def fail(self, error: Exception) -> None:
        """Ends every answer with this error."""
        for row in [*self._rows, *self._waiting]:
            row.fail(_failed(error))
        self._rows = []
        self._waiting.clear()
        self.prefixes.clear()

    def _admit(self) -> None:
        while self._waiting and len(self._rows) < self._parallel:
            row = self._waiting[0]
            if not row.abandoned:
                if self._rows and not self._fits(row):
                    return  # until another row has gone
                self._begin(row)
                self._rows.append(row)
            with self._wake:
                self._waiting.popleft()

    def _fits(self, row: BatchRow) -> bool:
        """Whether the limit of memory holds one more prompt, as large as the rows under way are."""
        running = sum(other.cache.nbytes for other in self._rows)
        computed = sum(other.cache.length for other in self._rows)
        per_token = running / computed if computed else 0.0
        return not self.prefixes.limit or running + per_token * len(row.tokens) <= self.prefixes.limit

    def _begin(self, row: BatchRow) -> None:
        running = [(other.keys(), other.cache) for other in self._rows]
        known = self.prefixes.take(row.keys(), running, row.images)
        if known is not None:
            row.started_from(known, known.length)
        else:
            row.started_from(self.forward.cache(len(row.tokens) + 64), 0)

    def _leave(self, row: BatchRow, keep: bool = True) -> None:
        self._rows.remove(row)
        if keep:
            self.prefixes.keep(row.keys(), row.cache, sum(other.cache.nbytes for other in self._rows))

    def _step(self) -> None:
        writing = [row for row in self._rows if not row.reading]
        budget = CHUNK_BESIDE if writing else CHUNK_ALONE
        pieces = [(row, row.piece(row.left)) for row in writing]
        for row in self._rows:
            if row.reading and budget > 0:
                piece = row.piece(budget)
                budget -= len(piece.tokens)
                pieces.append((row, piece))
        self.prefixes.evict(sum(row.cache.nbytes for row in self._rows))
        self._compute(pieces)

    def _compute(self, pieces: list[tuple[BatchRow, PrefillChunk]]) -> None:
        try:
            logits = self.forward.run([piece for _, piece in pieces])
        except Exception as error:
            self._recover(pieces, error)
            return
        greedy = logits.argmax(-1).tolist()
        for i, (row, _) in enumerate(pieces):
            if row.left:
                continue  # more of its prompt is to come
            try:
                ended = row.advance(logits[i], greedy[i])
            except Exception as error:  # A matcher or a processor of the user's: it fails alone.
                row.fail(error if isinstance(error, ModelError) else _failed(error))
                ended = True
            if ended:
                self._leave(row)

    def _recover(self, pieces: list[tuple[BatchRow, PrefillChunk]], error: Exception) -> None:
        """After a pass that failed: for want of memory, or by one row. Each row once more, alone."""
        self.prefixes.clear()
        if len(pieces) > 1:
            for pair in pieces:
                self._compute([pair])
            return
        row = pieces[0][0]
        row.fail(_failed(error))
        self._leave(row, keep=False)


def _failed(error: Exception) -> ServerError:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error).lower():
        return ServerError(
            f"out of memory: {error}. Shorten the conversation, lower `parallel`, or load the model in a smaller dtype",
            retryable=False,
        )
    return ServerError(f"the engine failed: {type(error).__name__}: {error}", retryable=False)


def _work(reference: Callable[[], TransformersEngine | None], wake: threading.Condition) -> None:
    with torch.inference_mode():
        while True:
            with wake:
                engine = reference()
                if engine is None:
                    return
                if not engine.has_work():
                    del engine
                    wake.wait(1.0)
                    continue
            try:
                if not engine.turn():
                    return
            except Exception as error:  # Of ours, then; nobody may wait for ever.
                engine.fail(error)
            del engine
