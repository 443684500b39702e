"""Connections: which calls share one, which failures are retried on a new one, and what closes them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import threading
import weakref
from typing import Any

import openai
import pytest

from modelport import OpenAIServerModel
from modelport.errors import ConnectionFailed, ModelError
from modelport.runtime.per_loop import PerLoop
from tests.remote.http.models import ANSWER, TRANSPORTS, model_for
from tests.servers.faults import OK, Fault, FaultServer, Reply

pytestmark = pytest.mark.timeout(60)


def test_calls_share_one_connection(server: FaultServer, transport: str) -> None:
    with model_for(server.base_url, transport) as model:
        for _ in range(5):
            model.generate("hello")
            list(model.generate_stream("hello"))
        assert (len(server.requests), server.connections_opened) == (10, 1)

        async def calls() -> None:
            for _ in range(5):
                await model.agenerate("hello")
                async with model.agenerate_stream("hello") as stream:
                    async for _ in stream:
                        pass

        asyncio.run(calls())
    assert (len(server.requests), server.connections_opened) == (20, 2)


def test_stream_is_read_to_end_of_http_response(transport: str) -> None:
    """The HTTP response may end some time after [DONE]. Its connection can be reused only after that end."""
    connections: list[int] = []

    def serve(client: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), client:
            while client.recv(65536):
                connections.append(number)
                events = [*Reply().events("m", include_usage=True)]
                chunks = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                client.sendall(head + chunks)
                threading.Event().wait(0.05)
                client.sendall(b"0\r\n\r\n")

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for number in range(10):
                threading.Thread(target=serve, args=(listener.accept()[0], number), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        with model_for(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", transport) as model:
            for _ in range(3):
                assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == ANSWER
        listener.shutdown(socket.SHUT_RDWR)
    # At least one connection was reused. On a busy machine the end of a response may come too late.
    assert len(set(connections)) < len(connections)


def test_connection_is_reused_after_errors(server: FaultServer, transport: str) -> None:
    server.script([Fault.status(400), Fault.status(500), Fault.rate_limit()])
    with model_for(server.base_url, transport) as model:
        for _ in range(3):
            with pytest.raises(ModelError):
                model.generate("hello")
        model.generate("hello", stop_sequences=["zzz"])
        model.generate("hello")
    assert server.connections_opened == 1


def test_stream_ended_by_stop_sequence_closes_only_its_connection(server: FaultServer) -> None:
    """The server does not know the stop sequence, so modelport ends the stream. The next call uses a new connection."""
    server.script([Fault.cut("stall", stall_s=9.0)])
    with model_for(server.base_url, capabilities={"stop": False}) as model:
        assert "".join(d.content or "" for d in model.generate_stream("hello", stop_sequences=["tal"])) == "The capi"
        server.wait_for(lambda: server.open_connections == 0)
        assert model.generate("hello").content == ANSWER


@pytest.mark.parametrize("when", ["at_once", "on_next_request"])
@pytest.mark.parametrize("streamed", [False, True], ids=["non-streaming", "streamed"])
def test_stale_connection_is_retried_although_retries_are_off(server: FaultServer, when: Any, streamed: bool) -> None:
    """The server closed the connection before it saw the request."""
    server.script([Fault.stale(when), Fault.stale(when), OK])
    with model_for(server.base_url, retry=False) as model:
        for _ in range(3):
            if streamed:
                assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == ANSWER
            else:
                assert model.generate("hello").content == ANSWER
    assert len(server.requests) == 3
    assert server.connections_opened == 3
    assert server.stale_hits == (2 if when == "on_next_request" else 0)


def test_call_succeeds_after_many_stale_connections(server: FaultServer) -> None:
    """The second attempt closes all stale connections that it finds, and opens a new one."""
    server.script(then=Fault.stale("on_next_request").replace(delay_s=0.1))
    with model_for(server.base_url, retry=False) as model:

        async def main() -> None:
            await asyncio.gather(*(model.agenerate("hello") for _ in range(8)))
            server.script()
            assert (await model.agenerate("hello")).content == ANSWER

        asyncio.run(main())
    assert len(server.requests) == 9


def test_request_is_sent_at_most_twice_to_server_that_hangs_up(server: FaultServer) -> None:
    """The second attempt uses a new connection, however many idle connections there are, and its failure counts."""
    with model_for(server.base_url, retry=False) as model:

        async def main() -> None:
            server.script(then=Fault.slow(0.1))
            await asyncio.gather(*(model.agenerate("hello") for _ in range(8)))
            before, opened = len(server.requests), server.connections_opened
            server.script(then=Fault.hang_up())
            with pytest.raises(ConnectionFailed):
                await model.agenerate("hello")
            assert len(server.requests) - before == 2
            assert server.connections_opened - opened == 1

        asyncio.run(main())


def test_failure_on_new_connection_is_not_retried(server: FaultServer) -> None:
    server.script(then=Fault.hang_up())
    with model_for(server.base_url, retry=False) as model, pytest.raises(ConnectionFailed):
        model.generate("hello")
    assert len(server.requests) == 1


def test_stale_connection_through_sdk_is_retried_by_retry_layer(server: FaultServer) -> None:
    """The SDK does not tell a stale connection from a broken one, so the retry layer retries both."""
    server.script([Fault.stale("on_next_request"), OK])
    with model_for(server.base_url, "sdk", retry=2) as model:
        model.generate("hello")
        assert model.generate("hello").content == ANSWER
    assert server.stale_hits == 1


def test_abandoned_streams_leave_no_connection_and_no_task(server: FaultServer, transport: str) -> None:
    with model_for(server.base_url, transport) as model:

        async def main() -> None:
            await model.agenerate("hello")
            tasks = len(asyncio.all_tasks())
            server.script(then=Fault.cut("stall", stall_s=9.0))
            for _ in range(50):
                async with model.agenerate_stream("hello") as stream:
                    async for delta in stream:
                        if delta.content:
                            break
            await asyncio.to_thread(server.wait_for, lambda: server.open_connections <= 1)
            assert len(asyncio.all_tasks()) == tasks
            server.script()
            opened = server.connections_opened
            for _ in range(3):
                await model.agenerate("hello")
            assert server.connections_opened <= opened + 1

        asyncio.run(main())


def test_abandoned_stream_leaves_no_generators(server: FaultServer, transport: str) -> None:
    """Otherwise Python would end the generators of the HTTP library in any order, and may raise errors in doing so."""
    server.script(then=Fault.cut("stall", stall_s=9.0))

    async def main() -> list[str]:
        begin, end = sys.get_asyncgen_hooks()
        collected: list[str] = []

        def finalizer(generator: Any) -> None:
            collected.append(generator.__qualname__)
            assert end is not None
            end(generator)

        sys.set_asyncgen_hooks(begin, finalizer)
        async with model.agenerate_stream("hello") as stream:
            async for delta in stream:
                if delta.content:
                    break
        gc.collect()
        return collected

    with model_for(server.base_url, transport) as model:
        assert asyncio.run(main()) == []


def test_sdk_client_is_made_once_per_event_loop(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Counted(openai.AsyncOpenAI):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            made.append(self)

    monkeypatch.setattr(openai, "AsyncOpenAI", Counted)
    with model_for(server.base_url, "sdk") as model:

        async def several() -> None:
            await asyncio.gather(*(model.agenerate("hello") for _ in range(5)))

        for _ in range(3):
            model.generate("hello")
        assert len(made) == 1
        for number in (2, 3):
            asyncio.run(several())
            assert len(made) == number
            assert made[-1].is_closed()
        assert not made[0].is_closed()
    assert made[0].is_closed()


def test_calls_on_many_event_loops_at_once_succeed(server: FaultServer, transport: str) -> None:
    """Event loops that start and end in many threads do not disturb each other."""
    failures: list[BaseException] = []

    def calls() -> None:
        try:
            for _ in range(8):
                assert asyncio.run(model.agenerate("hello")).content == ANSWER
        except BaseException as error:
            failures.append(error)

    with model_for(server.base_url, transport) as model:
        threads = [threading.Thread(target=calls) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
    assert failures == []
    assert len(server.requests) == 96
    server.wait_for(lambda: server.open_connections == 0)


def test_per_loop_closes_resources_of_many_event_loops() -> None:
    """Some loops end in order, and some are only closed. None disturbs the resource of another loop."""
    closed: list[int] = []

    class Resource:
        async def close(self) -> None:
            closed.append(1)

    pool: PerLoop[Resource] = PerLoop(lambda resource: resource.close())
    failures: list[BaseException] = []

    async def use() -> None:
        resource = await pool.get(Resource)
        await asyncio.sleep(0)
        assert await pool.get(Resource) is resource

    def work(ends_in_order: bool) -> None:
        try:
            for _ in range(150):
                if ends_in_order:
                    asyncio.run(use())
                else:
                    loop = asyncio.new_event_loop()
                    loop.run_until_complete(use())
                    loop.close()
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert len(closed) == 6 * 150
    assert len(pool._entries) <= 6


def test_hundred_calls_at_once_succeed(server: FaultServer, transport: str) -> None:
    server.script(then=OK.replace(delay_s=0.05))
    with model_for(server.base_url, transport) as model:

        async def many() -> set[str | None]:
            messages = await asyncio.gather(*(model.agenerate("hello") for _ in range(100)))
            return {str(message.content) for message in messages}

        assert asyncio.run(many()) == {ANSWER}
    assert len(server.requests) == 100


def test_garbage_collected_model_closes_its_connections(server: FaultServer, transport: str) -> None:
    model = OpenAIServerModel("m", server.base_url, **TRANSPORTS[transport])
    model.generate("hello")
    assert server.open_connections == 1
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
    server.wait_for(lambda: server.open_connections == 0)


def test_model_opens_new_connection_after_release(server: FaultServer, transport: str) -> None:
    model = OpenAIServerModel("m", server.base_url, **TRANSPORTS[transport])
    for _ in range(2):
        model.generate("hello")
        model.release()
        server.wait_for(lambda: server.open_connections == 0)

    async def call_and_close() -> None:
        async with model:
            await model.agenerate("hello")
        await asyncio.to_thread(server.wait_for, lambda: server.open_connections == 0)

    asyncio.run(call_and_close())
    assert len(server.requests) == 3
