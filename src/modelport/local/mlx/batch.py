"""Runs the requests to one model as one batch, with mlx-lm's `BatchGenerator`.

One thread loads the model and computes everything. A row is one request: it waits in a queue, and is then in the
generator until its output ends. Callers in other threads add and cancel rows through a queue of commands. Before each
step, the thread executes the commands, and moves waiting rows into the generator if their number and memory allow. A
step computes the next token of each output, and the next chunk of each prompt. The keys and values of a row that ends
are stored in the prefix cache.
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
#: The threads of all batches. A thread that has used MLX runs MLX's destructors when it ends. They need the
#: interpreter's lock (GIL), and abort the process if the interpreter is shutting down at that time. So these threads
#: never end: after a batch is closed, its thread waits for the next batch.
_threads = ThreadPool("modelport-mlx", "modelport-mlx-idle", idle_timeout=None)


class Batch:
    """The rows of one model, and the thread that loads the model and computes the rows.

    Args:
        load: Loads the model; called in the thread.
        parallel: The most rows in the generator; further rows wait, in order.
        queue: How many rows may wait; a further row is refused.
        prefill_step_size: How many tokens of prompts are computed in one step, all prompts together; `None` for the
            device's default.
        prefix_cache_bytes: The most bytes that the keys and values in the generator and those in the prefix cache may
            occupy together. 0 disables the prefix cache; then only MLX's memory limit applies to the generator.
    """

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        parallel: int,
        queue: int,
        prefill_step_size: int | None,
        prefix_cache_bytes: int,
    ) -> None:
        #: The loaded model; `None` before it is loaded, and after the batch is closed.
        self.loaded: LoadedModel | None = None
        self.prefixes = PrefixCache(prefix_cache_bytes)
        #: How many rows wait or are in the generator.
        self.busy = 0
        self._parallel, self._most_rows = parallel, parallel + queue
        #: 0 stands for the device's default until the model is loaded.
        self._prefill_step_size: int = prefill_step_size or 0
        #: Rows to add (with True) or to cancel (with False); `None` closes the batch.
        self._commands: SimpleQueue[tuple[bool, BatchRow] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: deque[BatchRow] = deque()
        #: The rows in the generator, by `BatchRow.uid`, in the order in which they were inserted.
        self._rows: dict[int, BatchRow] = {}
        self._generator: Any = None
        self._closed = False
        self._pid = os.getpid()
        ready: Future[None] = Future()
        self._ended = threading.Event()
        # `load` is a closure that refers to the caller's `MLXModel`. The thread must not keep that object alive, so the
        # thread takes `load` out of a list, which is empty afterwards.
        load_once = [load]
        del load
        _threads.start(lambda: self._run_thread(load_once, ready))
        try:
            ready.result()
        except BaseException:
            self.stop()
            raise

    # --- called by any thread -----------------------------------------------------------------------------------------

    def add(self, row: BatchRow) -> None:
        """Add a row to those that wait.

        Raises:
            RateLimited: Too many rows wait already.
            ModelError: The batch is closed.
        """
        with self._lock:
            if self._closed:
                raise model_closed()
            if self.busy >= self._most_rows:
                raise RateLimited(
                    f"{self.busy - self._parallel} requests wait for this engine already; try again, or raise `queue`",
                    retry_after=1.0,
                )
            self.busy += 1
            self._commands.put((True, row))

    def cancel(self, row: BatchRow) -> None:
        """End a row before its next token. A row that has ended is left as it is."""
        if not row.ended:
            self._commands.put((False, row))

    def stop(self) -> None:
        """Have the thread end all rows and free the model; don't wait for it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._commands.put(None)

    def close(self, timeout: float) -> None:
        """End all rows, and wait until the model is freed. In a forked process, return at once.

        Args:
            timeout: How long to wait, in seconds. The thread frees the model only after its current step.
        """
        self.stop()
        if self._pid == os.getpid():  # In a forked process, the thread does not exist.
            self._ended.wait(timeout)

    # --- called by the batch's thread only ----------------------------------------------------------------------------

    def _run_thread(self, load_once: list[Callable[[], LoadedModel]], ready: Future[None]) -> None:
        try:
            self.loaded = load_once.pop()()
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
        except Exception as error:  # This would be a bug in modelport. Every caller must still get an error.
            last_error = engine_error(error)
        self.stop()
        self._end_all(last_error)
        self._generator = self.loaded = None
        mx.clear_cache()
        self._ended.set()

    def _run_step(self) -> bool:
        """Execute the callers' commands, and compute one step; return False if the batch is to be closed."""
        try:
            if not self._execute_commands():
                return False
            self._step()
            return True
        except Exception as error:
            failure = engine_error(error.with_traceback(None))  # The traceback's frames would keep the model alive.
        # It is unknown which row caused the failure, and the generator's state may be inconsistent. So all rows in the
        # generator end with the error, and the rows that wait start in a new generator.
        import mlx.core as mx

        self._discard_generator(failure)
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
        """Execute the callers' commands; return False if the batch is to be closed.

        If there are no rows, wait for a command.
        """
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
            elif not row.ended:
                self._remove(row)

    def _step(self) -> None:
        """Insert waiting rows, and compute the next token of each output and the next chunk of each prompt."""
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
        self.prefixes.evict(reserved=self._reserved_bytes())
        generator = self._generator
        # In a step, the generator computes `generator.prefill_step_size` tokens of each prompt. So the configured size
        # is divided by the number of prompts: eight prompts delay the other rows no longer than one prompt does.
        prompts = sum(row.is_prefilling for row in self._rows.values())
        generator.prefill_step_size = max(1, self._prefill_step_size // max(1, prompts))
        prefilled, generated = generator.next()
        for response in prefilled:
            # `end_of_segment` says that a segment of the prompt is computed: the beginning that `_insert` has split
            # off, or the rest without the prompt's last token. The keys and values so far are stored now, so that other
            # prompts can use them before the row ends.
            if response.end_of_segment and not response.end_of_prompt and self.prefixes.limit:
                cache, tokens = generator.extract_cache([response.uid])[response.uid]
                self._store_prefix(tokens, cache)
        for response in generated:
            self._handle_token(self._rows[response.uid], response)

    @property
    def generator_bytes(self) -> int:
        """The memory that the keys and values of the rows in the generator occupy now."""
        return int(self._generator.prompt_cache_nbytes)

    def _reserved_bytes(self, *new_rows: BatchRow) -> int:
        """Return the most bytes that keys and values in the generator may occupy until the next step ends.

        The generator pads every row to the length of the longest.

        Args:
            *new_rows: Rows that are not in the generator, but are counted as if they were.
        """
        assert self.loaded is not None
        rows = [*self._rows.values(), *new_rows]
        longest = max((row.length for row in rows), default=0)
        return self.loaded.bytes_per_token * (longest + CACHE_STEP) * len(rows)

    def _has_memory_for(self, row: BatchRow) -> bool:
        """Return whether there is memory for one more row; always True if the generator has no rows."""
        if not self._rows:
            return True
        needed = self._reserved_bytes(row)
        if self.prefixes.limit and needed > self.prefixes.limit:
            return False
        return self._free_bytes() + self.prefixes.nbytes >= needed - self.generator_bytes

    def _free_bytes(self) -> int:
        """Return how many bytes may still be allocated until MLX's memory limit is reached.

        MLX itself does not enforce its limit. On a CPU, exceeding the physical memory crashes the process.
        """
        import mlx.core as mx

        return int(mx.get_memory_limit() - mx.get_active_memory())

    def _stay_within_memory(self) -> None:
        """If MLX's memory limit is exceeded, clear the prefix cache; if it still is, end the newest row."""
        if self._free_bytes() < 0:
            self.prefixes.clear()
        if self._free_bytes() < 0:
            row = next(reversed(self._rows.values()))
            self._notify(row, engine_error(MemoryError("MLX's limit is reached")))
            self._remove(row)
            self.prefixes.clear()  # `_remove` may have stored the row's keys and values.

    def _insert(self, row: BatchRow) -> None:
        """Insert a row into the generator, with the keys and values of its prompt that the prefix cache contains."""
        assert self.loaded is not None
        tokens, parameters = row.request.prompt.tokens, row.request.parameters
        needed = self.loaded.bytes_per_token * len(tokens)
        if self._free_bytes() < needed:
            self.prefixes.clear()
        if self._free_bytes() < needed:
            raise MemoryError(f"a prompt of {len(tokens)} tokens needs {needed / 1e6:.0f} MB")
        # `cache` contains the first `cached` tokens of the prompt. Some entry begins with the first `shared` tokens. If
        # `shared` is greater than `cached`, that entry can't be truncated to them.
        cache, cached, shared = self.prefixes.find(tokens) if self.prefixes.limit else (None, 0, 0)
        row.cached_tokens = cached
        row.processor = LogitsProcessor(parameters, row.bias, len(tokens), row.matcher, self.loaded.eos)
        uncached = tokens[cached:]
        # In that case the prompt is split after the shared tokens, so that `_step` can store them as an entry of their
        # own, which later prompts can use.
        shared_length = max(shared, cached) - cached
        (row.uid,) = self._generator.insert_segments(
            [[uncached[:shared_length], uncached[shared_length:]]],
            max_tokens=[row.request.max_tokens],
            caches=[cache],
            all_tokens=[tokens[:cached]],  # The tokens that `cache` contains.
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
        # If the grammar allows no further token, the output is complete, although the generator would go on.
        finish_reason = response.finish_reason or ("stop" if processor.is_complete else None)
        sampled = SampledToken(response.token, cached_tokens=row.cached_tokens, finish_reason=finish_reason)
        row.cached_tokens = None  # The count is reported with the first token only.
        if row.request.parameters.get("logprobs"):
            # The reported log probabilities are the model's own. `response.logprobs` are those after the processor.
            logits = processor.original_logits.popleft() if processor.is_needed else response.logprobs
            top = row.request.parameters.get("top_logprobs", 0)
            sampled.logprob, sampled.best = logprobs_of(logits, response.token, top)
        row.length += 1
        if response.finish_reason is not None:  # The generator has removed the row.
            self._mark_ended(row)
            self._store_prefix(response.all_tokens, response.prompt_cache)
        is_listening = self._notify(row, sampled)
        if not row.ended and (finish_reason or not is_listening):
            self._remove(row)

    def _notify(self, row: BatchRow, item: SampledToken | ModelError) -> bool:
        """Pass a token or an error to the row's caller; return whether the caller still listens."""
        try:
            return row.notify(item)
        except Exception:  # A failure in the caller's event loop must not end the batch's thread.
            return False

    def _remove(self, row: BatchRow) -> None:
        """Remove a row from the generator or the queue, and store its keys and values in the prefix cache."""
        removed: dict[int, Any] = {}
        if row.uid in self._rows:
            removed = self._generator.remove([row.uid], return_prompt_caches=bool(self.prefixes.limit))
        elif row in self._waiting:
            self._waiting.remove(row)
        self._mark_ended(row)
        for cache, tokens in removed.values():
            self._store_prefix(tokens, cache)

    def _store_prefix(self, tokens: list[int], cache: list[Any] | None) -> None:
        if cache and tokens:
            self.prefixes.store(tokens, cache, reserved=self._reserved_bytes())

    def _mark_ended(self, row: BatchRow) -> None:
        self._rows.pop(row.uid, None)
        row.ended = True
        with self._lock:
            self.busy -= 1

    def _discard_generator(self, error: ModelError) -> None:
        """End every row of the generator with this error, and close the generator."""
        rows = list(self._rows.values())
        self._rows.clear()
        for row in rows:
            self._mark_ended(row)
            self._notify(row, error)
        self._generator.close()
        self._generator = None
        self.prefixes.clear()  # The error may be that the memory is exhausted.

    def _end_all(self, error: ModelError) -> None:
        """End every row with this error: in the generator, waiting, or still in the queue of commands."""
        while not self._commands.empty():
            command = self._commands.get()
            if command is not None:
                is_new, row = command
                if is_new:
                    self._waiting.append(row)
        if self._generator is not None:
            self._discard_generator(error)
        while self._waiting:
            row = self._waiting.popleft()
            self._mark_ended(row)
            self._notify(row, error)
