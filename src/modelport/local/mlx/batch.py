"""The batch of one model on mlx-lm's generator, in the one thread that loads the model and computes.

A row is one request in the batch. Callers add and cancel rows through a queue of commands. Before each step the thread
executes the commands, and moves waiting rows into the generator as far as slots and memory allow. A step computes one
token for each row that generates, and the next chunk of each prompt. The keys and values of finished rows go to the
prefix cache.
"""

from __future__ import annotations

import gc
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from modelport.errors import ModelError, RateLimited
from modelport.local.engine import model_closed
from modelport.local.mlx.prefixes import PrefixCache
from modelport.local.mlx.rows import BatchRow, SampledToken, engine_error, logprobs_of
from modelport.local.mlx.sampling import LogitsProcessor, make_sampler
from modelport.runtime.threads import ThreadPool

if TYPE_CHECKING:
    from modelport.local.mlx.loading import LoadedModel

#: The number of tokens by which mlx-lm's caches grow.
CACHE_STEP = 256
#: A thread that has used MLX runs MLX's destructors when it ends, after Python has finished with the thread. They need
#: the interpreter's lock, and abort the process if the interpreter is shutting down by then. So these threads never
#: end: they wait for the next model.
_threads = ThreadPool("modelport-mlx", "modelport-mlx-idle", idle_timeout=None)


class Batch:
    """The thread that owns the model, and the rows that it computes.

    Args:
        load: Loads the model; called in the thread.
        parallel: How many rows are in the batch; further rows wait, in order.
        queue: How many requests may wait; a further request is refused.
        prefill_step_size: How many tokens of prompts are computed in one step; `None` for the device's default.
        prefix_cache_bytes: The most bytes of keys and values, of the rows in progress and of the prefix cache. 0
            disables the prefix cache; then only MLX's memory limit applies to the rows in progress.
    """

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        parallel: int,
        queue: int,
        prefill_step_size: int | None,
        prefix_cache_bytes: int,
    ) -> None:
        #: The model, until the batch is closed.
        self.loaded: LoadedModel | None = None
        self.prefixes = PrefixCache(prefix_cache_bytes)
        #: How many requests wait or are in the batch.
        self.busy = 0
        self._parallel, self._most_requests = parallel, parallel + queue
        self._prefill_step_size: int = prefill_step_size or 0
        #: Rows to add (True) or to cancel (False); `None` ends the thread.
        self._commands: SimpleQueue[tuple[bool, BatchRow] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: deque[BatchRow] = deque()
        self._rows: dict[int, BatchRow] = {}
        self._generator: Any = None
        self._closed = False
        self._pid = os.getpid()
        ready: Future[None] = Future()
        self._ended = threading.Event()
        # `load` refers to the caller's model, which the thread must not keep alive: the thread removes it from this
        # list.
        loads = [load]
        del load
        _threads.start(lambda: self._run_thread(loads, ready))
        try:
            ready.result()
        except BaseException:
            self.stop()
            raise

    # --- for callers, in any thread -----------------------------------------------------------------------------------

    def add(self, row: BatchRow) -> None:
        """Add a request.

        Raises:
            RateLimited: Too many requests wait already.
            ModelError: The batch is closed.
        """
        with self._lock:
            if self._closed:
                raise model_closed()
            if self.busy >= self._most_requests:
                raise RateLimited(
                    f"{self.busy - self._parallel} requests wait for this engine already; try again, or raise `queue`",
                    retry_after=1.0,
                )
            self.busy += 1
            self._commands.put((True, row))

    def cancel(self, row: BatchRow) -> None:
        """Remove a request from the batch before its next token."""
        if row.in_progress:
            self._commands.put((False, row))

    def stop(self) -> None:
        """Tell the thread to end its work and to free the model, without waiting for it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._commands.put(None)

    def close(self, timeout: float) -> None:
        """Stop, and wait until the model is freed.

        Args:
            timeout: How long to wait, in seconds. The thread can't stop until its current step ends.
        """
        self.stop()
        if self._pid == os.getpid():
            self._ended.wait(timeout)

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _run_thread(self, loads: list[Callable[[], LoadedModel]], ready: Future[None]) -> None:
        try:
            self.loaded = loads.pop()()
            self._prefill_step_size = self._prefill_step_size or self.loaded.prefill_step_size
            self._make_generator()
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        import mlx.core as mx

        last_error = model_closed()
        try:
            with mx.stream(self._generator.stream):
                while self._run_step():
                    pass
        except Exception as error:  # A mistake in modelport: every caller must get an error.
            last_error = engine_error(error)
        self.stop()
        self._end_all(last_error)
        self._generator = self.loaded = None
        mx.clear_cache()
        self._ended.set()

    def _run_step(self) -> bool:
        """Execute the callers' commands, and compute one step of all rows; return False once the batch is closed."""
        try:
            if not self._execute_commands():
                return False
            self._step()
            return True
        except Exception as error:
            failure = engine_error(error.with_traceback(None))  # The traceback's frames would keep the model alive.
        # It is unknown which row caused the failure, and the generator's state may be inconsistent: the rows in the
        # batch end, and those that wait start in a new generator.
        import mlx.core as mx

        self._end_rows(failure)
        gc.collect()
        mx.clear_cache()
        self._make_generator()
        return True

    def _make_generator(self) -> None:
        from mlx_lm.generate import BatchGenerator

        assert self.loaded is not None
        self._generator = BatchGenerator(
            self.loaded.model,
            stop_tokens=[[token] for token in self.loaded.eos],
            completion_batch_size=self._parallel,
            prefill_batch_size=min(8, self._parallel),
            prefill_step_size=self._prefill_step_size,
        )

    def _execute_commands(self) -> bool:
        """Execute the callers' commands, and wait for one if there are no rows; return False once closed."""
        while True:
            try:
                command = self._commands.get(block=not self._rows and not self._waiting)
            except Empty:
                return True
            if command is None:
                return False
            is_new, row = command
            if is_new:
                self._waiting.append(row)
            elif row.in_progress:
                self._remove(row)

    def _step(self) -> None:
        """Compute one token for each row that generates, and the next chunk of each prompt."""
        while self._waiting and len(self._rows) < self._parallel and self._has_memory_for(self._waiting[0]):
            row = self._waiting.popleft()
            try:
                self._insert(row)
            except Exception as error:
                self._notify(row, engine_error(error))
                self._remove(row)
        if not self._rows:
            return
        self._stay_within_memory()
        self.prefixes.evict(self._reserved_bytes())
        generator = self._generator
        # A row has `cached_tokens` until its first token: until then, its prompt is being computed.
        # The prompts share one step, so that eight prompts delay the other rows no longer than one prompt does.
        prompts = sum(row.cached_tokens is not None for row in self._rows.values())
        generator.prefill_step_size = max(1, self._prefill_step_size // max(1, prompts))
        prefilled, generated = generator.next()
        for response in prefilled:
            if response.end_of_segment and not response.end_of_prompt and self.prefixes.limit:
                cache, tokens = generator.extract_cache([response.uid])[response.uid]
                self._store_prefix(tokens, cache)
        for response in generated:
            self._handle_token(self._rows[response.uid], response)

    @property
    def running_bytes(self) -> int:
        """The memory of the keys and values of the rows in progress."""
        return int(self._generator.prompt_cache_nbytes)

    def _reserved_bytes(self, *more: BatchRow) -> int:
        """Return the most bytes that the rows in progress use until the next step ends.

        The generator pads every row to the length of the longest.

        Args:
            *more: Further rows to count, as if they were in progress.
        """
        assert self.loaded is not None
        rows = [*self._rows.values(), *more]
        longest = max((row.length for row in rows), default=0)
        return self.loaded.bytes_per_token * (longest + CACHE_STEP) * len(rows)

    def _has_memory_for(self, row: BatchRow) -> bool:
        """Return whether there is memory for one more row. If no row is in progress, the first is always admitted."""
        if not self._rows:
            return True
        needed = self._reserved_bytes(row)
        if self.prefixes.limit and needed > self.prefixes.limit:
            return False
        return self._free_bytes() + self.prefixes.nbytes >= needed - self.running_bytes

    def _free_bytes(self) -> int:
        """Return the bytes that are left up to MLX's own limit, which MLX does not enforce.

        On a CPU, exceeding the physical memory crashes the process.
        """
        import mlx.core as mx

        return int(mx.get_memory_limit() - mx.get_active_memory())

    def _stay_within_memory(self) -> None:
        """Free memory if the limit is exceeded: first the prefix cache, then the row that was added last."""
        if self._free_bytes() < 0:
            self.prefixes.clear()
        if self._free_bytes() < 0:
            row = next(reversed(self._rows.values()))
            self._notify(row, engine_error(MemoryError("MLX's limit is reached")))
            self._remove(row)
            self.prefixes.clear()

    def _insert(self, row: BatchRow) -> None:
        """Put a request into the generator, after what the prefix cache contains of its prompt."""
        assert self.loaded is not None
        tokens, parameters = row.request.prompt.tokens, row.request.parameters
        needed = self.loaded.bytes_per_token * len(tokens)
        if self._free_bytes() < needed:
            self.prefixes.clear()
        if self._free_bytes() < needed:
            raise MemoryError(f"a prompt of {len(tokens)} tokens needs {needed / 1e6:.0f} MB")
        # `cache` contains the first `length` tokens of the prompt. Some entry begins with the first `shared` tokens,
        # but can't be truncated to them if `shared` is greater than `length`.
        cache, length, shared = self.prefixes.find(tokens) if self.prefixes.limit else (None, 0, 0)
        row.cached_tokens = length
        row.processor = LogitsProcessor(parameters, row.bias, len(tokens), row.matcher, self.loaded.eos)
        uncached = tokens[length:]
        # If the prompt shares only a beginning with a prefix-cache entry, and that entry can't be truncated to it, the
        # prompt is split after the beginning. So `_step` can store the beginning for the next prompt.
        shared_length = max(shared, length) - length
        (row.uid,) = self._generator.insert_segments(
            [[uncached[:shared_length], uncached[shared_length:]]],
            max_tokens=[row.request.max_tokens],
            caches=[cache],
            all_tokens=[tokens[:length]],
            samplers=[make_sampler(parameters, self.loaded.vocab_size)],
            logits_processors=[[row.processor] if row.processor.is_needed else []],
        )
        self._rows[row.uid] = row

    def _handle_token(self, row: BatchRow, response: Any) -> None:
        processor = row.processor
        if processor.error is not None:
            self._notify(row, engine_error(processor.error))
            self._remove(row)
            return
        finish_reason = response.finish_reason or ("stop" if processor.is_complete else None)
        sampled = SampledToken(response.token, cached_tokens=row.cached_tokens, finish_reason=finish_reason)
        row.cached_tokens = None  # The prompt is complete, and the count is reported with the first token only.
        if row.request.parameters.get("logprobs"):
            logits = processor.logits.popleft() if processor.is_needed else response.logprobs
            top = row.request.parameters.get("top_logprobs", 0)
            sampled.logprob, sampled.best = logprobs_of(logits, response.token, top)
        row.length += 1
        if response.finish_reason is not None:
            self._forget(row)
            self._store_prefix(response.all_tokens, response.prompt_cache)
        is_listening = self._notify(row, sampled)
        if row.in_progress and (finish_reason or not is_listening):
            self._remove(row)

    def _notify(self, row: BatchRow, item: SampledToken | ModelError) -> bool:
        """Notify the row's caller, and return whether the caller still listens."""
        try:
            return row.notify(item)
        except Exception:  # A failure in the caller's event loop must not end the batch's thread.
            return False

    def _remove(self, row: BatchRow) -> None:
        """Remove a row from the generator or from the queue, and store what was computed of it."""
        removed: dict[int, Any] = {}
        if row.uid in self._rows:
            removed = self._generator.remove([row.uid], return_prompt_caches=bool(self.prefixes.limit))
        elif row in self._waiting:
            self._waiting.remove(row)
        self._forget(row)
        for cache, tokens in removed.values():
            self._store_prefix(tokens, cache)

    def _store_prefix(self, tokens: list[int], cache: list[Any] | None) -> None:
        if cache and tokens:
            self.prefixes.store(tokens, cache, self._reserved_bytes())

    def _forget(self, row: BatchRow) -> None:
        self._rows.pop(row.uid, None)
        row.in_progress = False
        with self._lock:
            self.busy -= 1

    def _end_rows(self, error: ModelError) -> None:
        """End every row of the generator with this error."""
        rows = list(self._rows.values())
        self._rows.clear()
        for row in rows:
            self._forget(row)
            self._notify(row, error)
        self._generator.close()
        self._generator = None
        self.prefixes.clear()  # In case the memory is exhausted.

    def _end_all(self, error: ModelError) -> None:
        """End every request with this error, including those that wait and those whose command was not executed yet."""
        while not self._commands.empty():
            command = self._commands.get()
            if command is not None and command[0]:
                self._waiting.append(command[1])
        if self._generator is not None:
            self._end_rows(error)
        while self._waiting:
            row = self._waiting.popleft()
            self._forget(row)
            self._notify(row, error)
