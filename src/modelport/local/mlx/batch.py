"""One changing batch on mlx-lm's generator, in the one thread that loads the model and computes."""

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
from modelport.local.mlx.prefixes import Prefixes
from modelport.local.mlx.rows import BatchRow, SampledToken, failure, log_probabilities
from modelport.local.mlx.sampling import Processor, make_sampler
from modelport.local.mlx.thread import start

if TYPE_CHECKING:
    from modelport.local.mlx.loading import LoadedModel

#: By so many tokens mlx-lm's caches grow at a time.
CACHE_STEP = 256
CLOSED = "this model has been closed; make a new one"


class Batch:
    """The thread that owns the model, and the rows in it.

    Args:
        load: Gives the model; called in the thread.
        parallel: Rows in the batch; more wait their turn, in order.
        queue: Requests that may wait; a further one is refused.
        prefill_step_size: Tokens of prompts that are computed between two tokens of the answers; `None` for the
            device's default.
        prefix_cache_bytes: For keys and values, of the rows under way and of earlier prompts and answers; 0 keeps none
            of those, and sets no limit.
    """

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        parallel: int,
        queue: int,
        prefill_step_size: int | None,
        prefix_cache_bytes: int,
    ) -> None:
        #: The model, until the end.
        self.loaded: LoadedModel | None = None
        self.prefixes = Prefixes(prefix_cache_bytes)
        #: Requests that wait or run.
        self.busy = 0
        self._parallel, self._most = parallel, parallel + queue
        self._prefill_step_size: int = prefill_step_size or 0
        self._commands: SimpleQueue[tuple[bool, BatchRow] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: deque[BatchRow] = deque()
        self._rows: dict[int, BatchRow] = {}
        self._generator: Any = None
        self._closed = False
        self._pid = os.getpid()
        ready: Future[None] = Future()
        self._ended = threading.Event()
        # In a list, from which the thread takes it: it knows the caller's model, which must not live on in the thread.
        loads = [load]
        del load
        start(lambda: self._work(loads, ready))
        try:
            ready.result()
        except BaseException:
            self.stop()
            raise

    # --- for callers, in any thread -----------------------------------------------------------------------------------

    def add(self, row: BatchRow) -> None:
        """Has a request computed.

        Raises:
            RateLimited: Too many wait already.
            ModelError: The batch was closed.
        """
        with self._lock:
            if self._closed:
                raise ModelError(CLOSED)
            if self.busy >= self._most:
                raise RateLimited(
                    f"{self.busy - self._parallel} requests wait for this engine already; try again, or raise `queue`",
                    retry_after=1.0,
                )
            self.busy += 1
            self._commands.put((True, row))

    def cancel(self, row: BatchRow) -> None:
        """Takes a request out of the batch before its next token."""
        if row.under_way:
            self._commands.put((False, row))

    def stop(self) -> None:
        """Has the thread end and free the model, without waiting for it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._commands.put(None)

    def close(self, timeout: float) -> None:
        """`stop`, and waits for it.

        Args:
            timeout: In seconds; the thread is busy for as long as one step of a prompt takes.
        """
        self.stop()
        if self._pid == os.getpid():
            self._ended.wait(timeout)

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _work(self, load: list[Callable[[], LoadedModel]], ready: Future[None]) -> None:
        try:
            self.loaded = load.pop()()
            self._prefill_step_size = self._prefill_step_size or self.loaded.prefill_step_size
            self._renew()
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        import mlx.core as mx

        last = ModelError(CLOSED)
        try:
            with mx.stream(self._generator.stream):
                while self._turn():
                    pass
        except Exception as error:  # of ours, then; nobody may wait for ever
            last = failure(error)
        self.stop()
        self._end(last)
        self._generator = self.loaded = None
        mx.clear_cache()
        self._ended.set()

    def _turn(self) -> bool:
        """Does what callers have asked for, and one step of all rows; False at the end."""
        try:
            if not self._take_commands():
                return False
            self._step()
            return True
        except Exception as error:
            problem = failure(error.with_traceback(None))  # its frames hold the model
        # Nobody knows which row it was, or what state it left: those that run end, those that wait begin anew.
        import mlx.core as mx

        self._end_rows(problem)
        gc.collect()
        mx.clear_cache()
        self._renew()
        return True

    def _renew(self) -> None:
        from mlx_lm.generate import BatchGenerator

        assert self.loaded is not None
        self._generator = BatchGenerator(
            self.loaded.model,
            stop_tokens=[[token] for token in self.loaded.eos],
            completion_batch_size=self._parallel,
            prefill_batch_size=min(8, self._parallel),
            prefill_step_size=self._prefill_step_size,
        )

    def _take_commands(self) -> bool:
        """Does what callers have asked for, and waits for it where there is nothing else to do; False at the end."""
        while True:
            try:
                command = self._commands.get(block=not self._rows and not self._waiting)
            except Empty:
                return True
            if command is None:
                return False
            wanted, row = command
            if wanted:
                self._waiting.append(row)
            elif row.under_way:
                self._leave(row)

    def _step(self) -> None:
        """One token for each answer, and the next piece of each prompt."""
        while self._waiting and len(self._rows) < self._parallel and self._fits(self._waiting[0]):
            row = self._waiting.popleft()
            try:
                self._enter(row)
            except Exception as error:
                self._tell(row, failure(error))
                self._leave(row)
        if not self._rows:
            return
        self._hold_memory()
        self.prefixes.evict(self._reserved())
        generator = self._generator
        # Prompts share the step, so that eight of them hold the answers up no longer than one.
        beginning = sum(row.cached is not None for row in self._rows.values())
        generator.prefill_step_size = max(1, self._prefill_step_size // max(1, beginning))
        prompts, answers = generator.next()
        for response in prompts:
            if response.end_of_segment and not response.end_of_prompt and self.prefixes.limit:
                cache, tokens = generator.extract_cache([response.uid])[response.uid]
                self._keep(tokens, cache)
        for response in answers:
            self._answer(self._rows[response.uid], response)

    @property
    def running_bytes(self) -> int:
        """What the keys and values of the rows under way take."""
        return int(self._generator.prompt_cache_nbytes)

    def _reserved(self, *more: BatchRow) -> int:
        """What the rows under way, and more, take at most until the next step ends: all are as long as the longest."""
        assert self.loaded is not None
        rows = [*self._rows.values(), *more]
        longest = max((row.length for row in rows), default=0)
        return self.loaded.bytes_per_token * (longest + CACHE_STEP) * len(rows)

    def _fits(self, row: BatchRow) -> bool:
        """Whether the memory holds one more row beside those under way; alone it may always try."""
        if not self._rows:
            return True
        wanted = self._reserved(row)
        if self.prefixes.limit and wanted > self.prefixes.limit:
            return False
        return self._free_memory() + self.prefixes.nbytes >= wanted - self.running_bytes

    def _free_memory(self) -> int:
        """Bytes up to MLX's own limit. It does not keep to that by itself; on a CPU it crashes where memory ends."""
        import mlx.core as mx

        return int(mx.get_memory_limit() - mx.get_active_memory())

    def _hold_memory(self) -> None:
        """Where memory runs out, what is kept goes first, then the youngest row."""
        if self._free_memory() < 0:
            self.prefixes.clear()
        if self._free_memory() < 0:
            row = next(reversed(self._rows.values()))
            self._tell(row, failure(MemoryError("MLX's limit is reached")))
            self._leave(row)
            self.prefixes.clear()

    def _enter(self, row: BatchRow) -> None:
        """Puts a request into the batch, after what is known of its prompt."""
        assert self.loaded is not None
        tokens = row.job.prompt.tokens
        wanted = self.loaded.bytes_per_token * len(tokens)
        if self._free_memory() < wanted:
            self.prefixes.clear()
        if self._free_memory() < wanted:
            raise MemoryError(f"a prompt of {len(tokens)} tokens needs {wanted / 1e6:.0f} MB")
        cache, length, shared = self.prefixes.find(tokens) if self.prefixes.limit else (None, 0, 0)
        row.cached = length
        parameters = row.job.parameters
        sampler = make_sampler(parameters, self.loaded.vocab_size)
        row.processor = Processor(parameters, row.bias, len(tokens), row.matcher, self.loaded.eos)
        rest = tokens[length:]
        # Where the prompt departs from one that could not be cut: the generator halts there, and the next to come finds
        # what both have in common.
        cut = max(shared, length) - length
        (row.uid,) = self._generator.insert_segments(
            [[rest[:cut], rest[cut:]]],
            max_tokens=[row.job.max_tokens],
            caches=[cache],
            all_tokens=[tokens[:length]],
            samplers=[sampler],
            logits_processors=[[row.processor] if row.processor.needed else []],
        )
        self._rows[row.uid] = row

    def _answer(self, row: BatchRow, response: Any) -> None:
        processor = row.processor
        if processor.error is not None:
            self._tell(row, failure(processor.error))
            self._leave(row)
            return
        finish = response.finish_reason or ("stop" if processor.complete else None)
        chosen = SampledToken(response.token, cached=row.cached, finish=finish)
        row.cached = None
        if row.job.parameters.get("logprobs"):
            logits = processor.logits.popleft() if processor.needed else response.logprobs
            top = row.job.parameters.get("top_logprobs", 0)
            chosen.logprob, chosen.best = log_probabilities(logits, response.token, top)
        row.length += 1
        if response.finish_reason is not None:
            self._forget(row)
            self._keep(response.all_tokens, response.prompt_cache)
        heard = self._tell(row, chosen)
        if row.under_way and (finish or not heard):
            self._leave(row)

    def _tell(self, row: BatchRow, item: Any) -> bool:
        try:
            return row.tell(item)
        except Exception:  # the caller's loop is theirs
            return False

    def _leave(self, row: BatchRow) -> None:
        """Takes a row out wherever it is, and keeps what was computed of it."""
        kept: dict[int, Any] = {}
        if row.uid in self._rows:
            kept = self._generator.remove([row.uid], return_prompt_caches=bool(self.prefixes.limit))
        elif row in self._waiting:
            self._waiting.remove(row)
        self._forget(row)
        for cache, tokens in kept.values():
            self._keep(tokens, cache)

    def _keep(self, tokens: list[int], cache: list[Any] | None) -> None:
        if cache and tokens:
            self.prefixes.put(tokens, cache, self._reserved())

    def _forget(self, row: BatchRow) -> None:
        self._rows.pop(row.uid, None)
        row.under_way = False
        with self._lock:
            self.busy -= 1

    def _end_rows(self, error: ModelError) -> None:
        """Ends every row of the batch."""
        rows = list(self._rows.values())
        self._rows.clear()
        for row in rows:
            self._forget(row)
            self._tell(row, error)
        self._generator.close()
        self._generator = None
        self.prefixes.clear()  # above all where memory ran out

    def _end(self, error: ModelError) -> None:
        """Ends every request, those that wait and those that were to wait too."""
        while not self._commands.empty():
            command = self._commands.get()
            if command is not None and command[0]:
                self._waiting.append(command[1])
        if self._generator is not None:
            self._end_rows(error)
        while self._waiting:
            row = self._waiting.popleft()
            self._forget(row)
            self._tell(row, error)
