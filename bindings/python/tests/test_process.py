"""What happens to whole processes: forks, and ends with work under way."""

import subprocess
import sys
import textwrap

import pytest
from conftest import environment, python


def run(program: str, limit: float = 60) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        python("-X", "faulthandler", "-c", textwrap.dedent(program)),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=limit,
    )


FORK = """
    import asyncio, os, sys
    import dwcp, dwcp.sync

    node = dwcp.sync.Node("parent", backend="sim")
    node.start()
    shared = node.client()

    async def parent():
        async with dwcp.Node("loop", backend="sim", listen=["127.0.0.1:0"]) as other:
            async with dwcp.Client({"address": other.address(), "tls_enabled": False}) as client:
                await client.health()
        return client

    asyncio.run(parent())
    stream = shared.vm.watch_all()
    stream.open()

    async def child():
        try:
            shared.health()
        except dwcp.ForkedError as error:
            assert error.code == "forked" and "fork" in error.message, error
        else:
            raise RuntimeError("the parent's client works in the child")
        try:
            next(stream)
        except dwcp.ForkedError:
            pass
        assert not shared.is_connected
        async with dwcp.Node("child", backend="sim", listen=["127.0.0.1:0"]) as own:
            async with dwcp.Client({"address": own.address(), "tls_enabled": False}) as client:
                assert (await client.node()).name == "child"
        with dwcp.sync.Node("again", backend="sim") as own:
            assert own.client().node().name == "again"

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(child())
            code = 0
        finally:
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(code) if "HARD" == "{end}" or code else sys.exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    assert shared.health().node == "parent"
    stream.close()
    node.shutdown(0)
    print("parent: ok")
"""


@pytest.mark.parametrize("end", ["HARD", "SOFT"])
def test_fork(end: str) -> None:
    ended = run(FORK.replace("{end}", end))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "parent: ok\n", "")


LEAVE = """
    import asyncio, socket, sys
    import dwcp

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(50)
    hole = "127.0.0.1:%d" % listener.getsockname()[1]

    async def main():
        node = dwcp.Node("n", backend="sim", listen=["127.0.0.1:0"])
        await node.start()
        client = dwcp.Client({"address": node.address(), "tls_enabled": False})
        await client.connect()
        vm = await client.vm.create(dwcp.VMConfig("x", memory=16 << 20, cpus=1))
        await client.vm.start(vm.id)
        streams = [client.vm.stream_metrics(vm.id, "1ms") for _ in range(5)]
        for stream in streams:
            await stream.open()
        tasks = [asyncio.ensure_future(stream.__anext__()) for stream in streams]
        tasks += [asyncio.ensure_future(client.vm.get(vm.id)) for _ in range(50)]
        waiting = dwcp.Client({"address": hole, "tls_enabled": False})
        tasks += [asyncio.ensure_future(waiting.connect()) for _ in range(5)]
        await asyncio.sleep(0)
        globals().update(kept=(node, client, streams, tasks))

    {run}
    print("left")
    sys.exit(3)
"""


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(
    "how",
    [
        "asyncio.run(main())",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(main())",
    ],
    ids=["run", "loop left open"],
)
def test_fifty_exits_with_work_under_way(how: str, number: int) -> None:
    program = LEAVE.replace("{run}", how)
    running = [
        subprocess.Popen(
            # What asyncio says of a loop that was left is not ours: no `-W error`.
            [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    for process in running:
        out, error = process.communicate(timeout=60)
        assert (process.returncode, out) == (3, "left\n"), error
        for word in ("Fatal Python error", "panicked", "Segmentation"):
            assert word not in error, error


def test_ctrl_c_ends_a_wait() -> None:
    program = """
        import faulthandler, os, signal, socket, threading
        # Should it hang, it says where.
        faulthandler.dump_traceback_later(50, exit=True)
        # Whoever started this may have it ignored, as a shell does for what is in its background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import dwcp
        from dwcp.sync import Client

        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = "127.0.0.1:%d" % listener.getsockname()[1]

        # Kept, for a connection that ends would be an answer.
        connections = []

        def interrupt():
            # Once somebody waits for an answer.
            connections.append(listener.accept())
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        try:
            Client({"address": address, "tls_enabled": False}).connect()
        except KeyboardInterrupt:
            print("interrupted")
    """
    ended = run(program)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr
