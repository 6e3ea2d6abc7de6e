"""Temporary Prefect server of a run, if none is configured.

Prefect would start one too, but only when the flow begins, and the flow's process would import the
server's code as well. This one starts while the values are checked.
"""

import contextlib
import functools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

from flows.process import exit_with_parent

_STOP_S = 5.0
"""Seconds between asking the server to end and killing it; time to store the last states."""


@contextlib.contextmanager
def temporary() -> Iterator[Callable[[], str]]:
    """Yield a function that starts the server in the first call and returns its API's URL.

    It does not wait until the server answers. The URL is "" if PREFECT_API_URL is set. If Prefect's
    profile or ``prefect.toml`` names a server, the new process ends at once.
    """
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda: _start(stack))


def _start(stack: contextlib.ExitStack) -> str:
    if "PREFECT_API_URL" in os.environ:
        return ""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        command = [sys.executable, "-m", "flows.server", str(os.getpid()), str(number)]
        # In a separate session, a terminal's Ctrl-C does not reach it. The flow still needs it.
        child = subprocess.Popen(command, pass_fds=[number], start_new_session=True)
        stack.callback(_stop, child)
        return f"http://127.0.0.1:{listener.getsockname()[1]}/api"


def _stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def main() -> None:
    """Serve a listening socket, given by its descriptor, until the parent process ends."""
    parent, listener = map(int, sys.argv[1:])
    exit_with_parent(parent)
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return
    import uvicorn
    from prefect.server.api import server

    # A run schedules no background tasks, and the idle worker for them polls all the time.
    vars(server)["background_worker"] = lambda *_, **__: contextlib.nullcontext()
    app = server.create_app(ephemeral=True, final=True)
    config = uvicorn.Config(app, log_level="error")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listener)])


if __name__ == "__main__":
    main()
