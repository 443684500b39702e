"""One changing batch on mlx-lm's generator, in the one thread that loads the model and computes."""

from __future__ import annotations

import gc
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from modelport.errors import ModelError, RateLimited, ServerError
from modelport.local.base import Job
from modelport.local.mask import Matcher
from modelport.local.mlx.prefixes import Prefixes
from modelport.local.mlx.sampling import Processor, make_sampler
from modelport.local.mlx.thread import start

if TYPE_CHECKING:
    from modelport.local.mlx.loading import Loaded

CLOSED = "this model has been closed; make a new one"


@dataclass(slots=True)
class Chosen:
    """A token of an answer.

    Args:
        token: Its id.
        logprob: Its log probability, where asked for.
        best: The most likely tokens and theirs.
        cached: How many of the prompt's tokens were not computed, with the first token.
        finish: With the last token `stop` or `length`.
    """

    token: int
    logprob: float | None = None
    best: list[tuple[int, float]] | None = None
    cached: int | None = None
    finish: str | None = None


class Row:
    """One request, waiting or in the batch.

    Args:
        job: What to compute.
        bias: See `logit_bias_from`.
        matcher: Of its grammar.
        tell: Takes each `Chosen`, or the error that ends the request; False where nobody listens any more.
    """

    processor: Processor

    def __init__(
        self, job: Job, bias: Mapping[int, float], matcher: Matcher | None, tell: Callable[[Any], bool]
    ) -> None:
        self.job, self.bias, self.matcher, self.tell = job, bias, matcher, tell
        #: Whether it waits, or is in the batch.
        self.under_way = True
        self.uid = -1
        self.cached: int | None = None


class Batch:
    """The thread that owns the model, and the rows in it.

    Args:
        load: Gives the model; called in the thread.
        parallel: Rows in the batch; more wait their turn, in order.
        queue: Requests that may wait; a further one is refused.
        prefill_step_size: Tokens of prompts that are computed between two tokens of the answers.
        prefix_cache_bytes: For keys and values, of the rows under way and of earlier prompts and answers; 0 keeps none
            of those, and sets no limit.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        parallel: int,
        queue: int,
        prefill_step_size: int,
        prefix_cache_bytes: int,
    ) -> None:
        #: The model, until the end.
        self.loaded: Loaded | None = None
        self.prefixes = Prefixes(prefix_cache_bytes)
        #: Requests that wait or run.
        self.busy = 0
        self._parallel, self._most = parallel, parallel + queue
        self._prefill_step_size = prefill_step_size
        self._commands: SimpleQueue[tuple[bool, Row] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: deque[Row] = deque()
        self._rows: dict[int, Row] = {}
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

    def add(self, row: Row) -> None:
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

    def cancel(self, row: Row) -> None:
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

    def _work(self, load: list[Callable[[], Loaded]], ready: Future[None]) -> None:
        try:
            self.loaded = load.pop()()
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
            last = _failure(error)
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
        except Exception as error:
            # Nobody knows which row it was, or what state it left: those that run end, those that wait begin anew.
            import mlx.core as mx

            failure = _failure(error)
            del error
            self._end_rows(failure)
            gc.collect()  # of frames that the failure holds
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
                self._tell(row, _failure(error))
                self._leave(row)
        generator = self._generator
        # Prompts share the step, so that eight of them hold the answers up no longer than one.
        beginning = sum(row.cached is not None for row in self._rows.values())
        generator.prefill_step_size = max(32, self._prefill_step_size // max(1, beginning))
        prompts, answers = generator.next()
        for response in prompts:
            if response.end_of_segment and not response.end_of_prompt and self.prefixes.limit:
                cache, tokens = generator.extract_cache([response.uid])[response.uid]
                self._keep(tokens, cache)
        for response in answers:
            self._answer(self._rows[response.uid], response)
        self.prefixes.fit(self.running_bytes)

    @property
    def running_bytes(self) -> int:
        """What the keys and values of the rows under way take."""
        return int(self._generator.prompt_cache_nbytes)

    def _fits(self, row: Row) -> bool:
        """Whether the memory holds one more prompt, as large as the rows under way are."""
        running = self.running_bytes if self._rows else 0
        computed = sum(len(other.job.prompt.tokens) for other in self._rows.values())
        wanted = running * (1 + len(row.job.prompt.tokens) / computed) if running else 0
        return not self.prefixes.limit or wanted <= self.prefixes.limit

    def _enter(self, row: Row) -> None:
        """Puts a request into the batch, after what is known of its prompt."""
        tokens = row.job.prompt.tokens
        cache, length, shared = self.prefixes.find(tokens) if self.prefixes.limit else (None, 0, 0)
        row.cached = length
        assert self.loaded is not None
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

    def _answer(self, row: Row, response: Any) -> None:
        processor = row.processor
        if processor.error is not None:
            self._tell(row, _failure(processor.error))
            self._leave(row)
            return
        finish = response.finish_reason or ("stop" if processor.complete else None)
        chosen = Chosen(response.token, cached=row.cached, finish=finish)
        row.cached = None
        if row.job.parameters.get("logprobs"):
            logits = processor.logits.popleft() if processor.needed else response.logprobs
            top = row.job.parameters.get("top_logprobs", 0)
            chosen.logprob, chosen.best = _log_probabilities(logits, response.token, top)
        if response.finish_reason is not None:
            self._keep(response.all_tokens, response.prompt_cache)
            self._forget(row)
        heard = self._tell(row, chosen)
        if row.under_way and (finish or not heard):
            self._leave(row)

    def _tell(self, row: Row, item: Any) -> bool:
        try:
            return row.tell(item)
        except Exception:  # the caller's loop is theirs
            return False

    def _leave(self, row: Row) -> None:
        """Takes a row out wherever it is, and keeps what was computed of it."""
        if row.uid in self._rows:
            kept = self._generator.remove([row.uid], return_prompt_caches=bool(self.prefixes.limit))
            if row.uid in kept:
                cache, tokens = kept[row.uid]
                self._keep(tokens, cache)
        elif row in self._waiting:
            self._waiting.remove(row)
        self._forget(row)

    def _keep(self, tokens: list[int], cache: list[Any] | None) -> None:
        if cache and tokens:
            self.prefixes.put(tokens, cache, self.running_bytes)

    def _forget(self, row: Row) -> None:
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


def _log_probabilities(logits: Any, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The log probability of a token, and the most likely tokens with theirs."""
    import mlx.core as mx
    import numpy as np

    logits = logits.astype(mx.float32)
    values = np.array(logits - mx.logsumexp(logits))
    best = np.argpartition(-values, top)[:top] if top else np.zeros(0, np.int64)
    best = best[np.argsort(-values[best], kind="stable")]
    return float(values[token]), [(int(i), float(values[i])) for i in best]


def _failure(error: Exception) -> ModelError:
    if isinstance(error, ModelError):
        return error
    told = str(error).partition("\n")[0] or type(error).__name__
    if isinstance(error, MemoryError) or any(
        word in told.lower() for word in ("allocat", "out of memory", "insufficient memory")
    ):
        return ServerError(
            f"the memory is used up ({told}): lower parallel, context_length or prefix_cache_bytes", retryable=False
        )
    failed = ServerError(f"MLX failed: {type(error).__name__}: {told}", retryable=False)
    failed.__cause__ = error
    return failed
