"""The engine: one thread that computes all requests in progress, one step at a time.

A request becomes a row, and waits in a queue until it can join the batch. In each step, one forward pass computes
the next token of each row that generates, and a chunk of the prompt of each row in prefill. New tokens are passed to
the event loop of the row's caller.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable

import torch

from modelport.errors import ModelError, RateLimited, ServerError
from modelport.local.engine import model_closed
from modelport.local.grammar_matching import GrammarCompiler, GrammarMatcher
from modelport.local.token_engine import EngineRequest, Prompt, TokenBatch
from modelport.local.transformers.images import prompt_with_images
from modelport.local.transformers.loading import LoadedModel
from modelport.local.transformers.packing import Forward, RowChunk
from modelport.local.transformers.prefixes import PrefixCache
from modelport.local.transformers.rows import BatchRow
from modelport.local.transformers.sampling import Sampler
from modelport.types.content import Image

#: The most prompt tokens in one forward pass, if no row generates.
PREFILL_TOKENS_ALONE = 512
#: The most prompt tokens in a forward pass in which other rows generate. It is less, because the next tokens of these
#: rows are known only after the whole pass.
PREFILL_TOKENS_SHARED = 128


class TransformersEngine:
    """Generates outputs; see `TokenEngine`.

    Args:
        loaded: The model, with its tokenizer and settings.
        forward: Computes the forward passes.
        parallel: How many rows are computed at once; further requests wait.
        queue: How many requests may wait.
        prefix_cache_bytes: The most bytes of the keys and values of all rows and of the prefix cache together; 0
            disables the prefix cache.
    """

    def __init__(
        self, loaded: LoadedModel, forward: Forward, *, parallel: int, queue: int, prefix_cache_bytes: int
    ) -> None:
        self.pid = os.getpid()
        self.tokenizer, self.template = loaded.tokenizer, loaded.template
        self.context_length, self.eos = loaded.context_length, loaded.eos
        self.accepts_images = loaded.processor is not None
        self._loaded = loaded
        self.forward = forward
        self._compiler = GrammarCompiler(loaded.tokenizer, loaded.vocab_size, loaded.eos, extra="transformers")
        self._max_rows, self._max_waiting = parallel, queue
        self.prefixes = PrefixCache(prefix_cache_bytes)
        self._rows: list[BatchRow] = []
        self._waiting: deque[BatchRow] = deque()
        #: Its lock protects `_waiting`; the thread is notified when it has work.
        self._condition = threading.Condition()
        self._closing = False
        # The thread has only a weak reference, so that an engine that nobody uses any more can be garbage-collected.
        self._thread = threading.Thread(
            target=_run_engine_thread, args=(weakref.ref(self), self._condition), daemon=True
        )
        self._thread.name = "modelport-transformers"
        self._thread.start()

    @property
    def busy(self) -> int:
        """How many requests are being computed or wait."""
        return len(self._rows) + len(self._waiting)

    def encode_prompt(self, text: str, images: list[Image]) -> Prompt:
        """See `TokenEngine.encode_prompt`."""
        if images:
            return prompt_with_images(self._loaded, text, images)
        # `backend_tokenizer` is used directly, because threads must not share the library's wrapper around it.
        return Prompt(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def compile_grammar(self, lark: str) -> GrammarMatcher:
        """See `TokenEngine.compile_grammar`."""
        return self._compiler.matcher(lark)

    async def run(self, request: EngineRequest) -> AsyncGenerator[TokenBatch, None]:
        """See `TokenEngine.run`."""
        loop = asyncio.get_running_loop()
        received: asyncio.Queue[TokenBatch | BaseException] = asyncio.Queue()

        def notify(item: TokenBatch | BaseException) -> None:
            try:
                loop.call_soon_threadsafe(received.put_nowait, item)
            except RuntimeError:  # The caller's event loop has ended.
                row.abandoned = True

        parameters, device = request.parameters, self._loaded.device
        eos = [] if parameters.get("ignore_eos") else self._eos_of(request)
        sampler = Sampler(parameters, self._loaded.defaults, len(request.prompt.tokens), self.eos, device)
        row = BatchRow(request, sampler, request.grammar, self.tokenizer, eos, notify)
        self._submit(row)
        try:
            while True:
                item = await received.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            row.abandoned = True

    def _eos_of(self, request: EngineRequest) -> list[int]:
        """Return the token ids that end this output: those of the call's `eos_token_id`, or the model's."""
        given = request.parameters.get("eos_token_id")
        return self.eos if given is None else [given] if isinstance(given, int) else list(given)

    def _submit(self, row: BatchRow) -> None:
        with self._condition:
            if self._closing:
                raise model_closed()
            if len(self._waiting) >= self._max_waiting:
                raise RateLimited(
                    f"{self._max_waiting} requests wait for this engine already; try again, or raise `queue`"
                )
            self._waiting.append(row)
            self._condition.notify()

    def close(self) -> None:
        """End the thread and free the memory; requests in progress end with an error."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(10.0)

    def detach_after_fork(self) -> None:
        """Do nothing: a forked child may destroy its copy of the engine, which only frees the child's memory."""

    # --- on the engine's thread ---------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Return whether the thread has something to do."""
        return bool(self._rows or self._waiting or self._closing)

    def run_step(self) -> bool:
        """Compute one step of all rows; return False once the engine is closed."""
        if self._closing:
            for row in [*self._rows, *self._waiting]:
                row.fail(ModelError("this model was closed while the request was in progress"))
            self._rows, self._loaded = [], None  # type: ignore[assignment]
            self._waiting.clear()
            self.prefixes.clear()
            return False
        for row in [row for row in self._rows if row.abandoned]:
            self._remove(row)
        self._admit()
        if self._rows:
            self._compute_step()
        return True

    def fail(self, error: Exception) -> None:
        """End every request with this error."""
        for row in [*self._rows, *self._waiting]:
            row.fail(_engine_error(error))
        self._rows = []
        self._waiting.clear()
        self.prefixes.clear()

    def _admit(self) -> None:
        """Move rows from the queue to the batch, as long as `parallel` and the memory limit allow."""
        while self._waiting and len(self._rows) < self._max_rows:
            row = self._waiting[0]
            if not row.abandoned:
                if self._rows and not self._has_memory_for(row):
                    return
                self._prepare_cache(row)
                self._rows.append(row)
            with self._condition:
                self._waiting.popleft()

    def _has_memory_for(self, row: BatchRow) -> bool:
        """Return whether the memory limit allows one more row, estimated from the bytes per token of other rows."""
        used = self._row_bytes()
        computed = sum(other.cache.length for other in self._rows)
        per_token = used / computed if computed else 0.0
        return not self.prefixes.limit or used + per_token * len(row.tokens) <= self.prefixes.limit

    def _row_bytes(self) -> int:
        return sum(row.cache.nbytes for row in self._rows)

    def _prepare_cache(self, row: BatchRow) -> None:
        """Give a new row the cached beginning of its prompt, or an empty cache."""
        row_caches = [(other.fingerprints(), other.cache) for other in self._rows]
        cached = self.prefixes.acquire(row.fingerprints(), row_caches, row.image_span)
        if cached is not None:
            row.set_cache(cached, cached_tokens=cached.length)
        else:
            row.set_cache(self.forward.new_cache(capacity=len(row.tokens) + 64), cached_tokens=0)

    def _remove(self, row: BatchRow, store: bool = True) -> None:
        """Remove a row from the batch, and store its cache in the prefix cache."""
        self._rows.remove(row)
        if store:
            self.prefixes.store(row.fingerprints(), row.cache, self._row_bytes())

    def _compute_step(self) -> None:
        generating = [row for row in self._rows if not row.in_prefill]
        budget = PREFILL_TOKENS_SHARED if generating else PREFILL_TOKENS_ALONE
        chunks = [(row, row.next_chunk(row.uncomputed_count)) for row in generating]
        for row in self._rows:
            if row.in_prefill and budget > 0:
                chunk = row.next_chunk(budget)
                budget -= len(chunk.tokens)
                chunks.append((row, chunk))
        self.prefixes.evict(self._row_bytes())
        self._compute_chunks(chunks)

    def _compute_chunks(self, chunks: list[tuple[BatchRow, RowChunk]]) -> None:
        try:
            logits = self.forward.run([chunk for _, chunk in chunks])
        except Exception as error:
            self._retry_alone(chunks, error)
            return
        most_probable = logits.argmax(-1).tolist()
        for i, (row, _) in enumerate(chunks):
            if row.uncomputed_count:
                continue  # The rest of the prompt is not computed yet, so there is no next token to choose.
            try:
                has_ended = row.advance(logits[i], most_probable[i])
            except Exception as error:  # The grammar's matcher or a logits processor failed: only this row ends.
                row.fail(error if isinstance(error, ModelError) else _engine_error(error))
                has_ended = True
            if has_ended:
                self._remove(row)

    def _retry_alone(self, chunks: list[tuple[BatchRow, RowChunk]], error: Exception) -> None:
        """Compute each chunk of a failed pass in its own pass; if the failed pass had only one chunk, end its row.

        The pass may have failed because memory was short, or because of one row.
        """
        self.prefixes.clear()
        if len(chunks) > 1:
            for pair in chunks:
                self._compute_chunks([pair])
            return
        row = chunks[0][0]
        row.fail(_engine_error(error))
        self._remove(row, store=False)


def _engine_error(error: Exception) -> ServerError:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in str(error).lower():
        return ServerError(
            f"out of memory: {error}. Shorten the conversation, lower `parallel`, or load the model in a smaller dtype",
            retryable=False,
        )
    return ServerError(f"the engine failed: {type(error).__name__}: {error}", retryable=False)


def _run_engine_thread(reference: Callable[[], TransformersEngine | None], condition: threading.Condition) -> None:
    """Compute steps until the engine is closed or garbage-collected."""
    with torch.inference_mode():
        while True:
            with condition:
                engine = reference()
                if engine is None:
                    return
                if not engine.has_work():
                    del engine  # A reference during the wait would keep the engine from being garbage-collected.
                    condition.wait(1.0)
                    continue
            try:
                if not engine.run_step():
                    return
            except Exception as error:  # A bug in modelport. Without this, callers would wait for ever.
                engine.fail(error)
            del engine
