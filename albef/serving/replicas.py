"""A Ray Serve application of the same server: replicas on one machine or many (extra ``ray``).

``serve run albef.serving.replicas:application exports=/models/retrieval replicas=2``

Each replica is a process with its own runtime; Ray's proxies do what a balancer does else. Indexes
of pictures are each replica's own, in memory: a service that needs them keeps to one replica.
"""

from pathlib import Path

from ray import serve
from starlette.types import ASGIApp

from albef.serving.app import create_app
from albef.serving.limits import Options
from albef.serving.middleware.access import read_tokens
from albef.serving.middleware.exchange import State


def application(options: dict[str, str]) -> serve.Application:
    """The application that ``serve run`` or a configuration file names.

    Tokens of clients are in the environment of the replicas, as of ``albef serve``.

    Args:
        options: ``exports``, folders separated by commas, the same on every node; ``replicas``, how
            many; ``threads`` of each; ``host_name`` by which clients ask, where they need no token.

    Raises:
        KeyError: ``exports`` is missing.
    """
    folders = [Path(name) for name in options["exports"].split(",")]
    threads, replicas = int(options.get("threads", "2")), int(options.get("replicas", "1"))

    def replica() -> ASGIApp:
        hosts = [options["host_name"]] if "host_name" in options else []
        served = Options(folders, tokens=read_tokens(), hosts=hosts, threads=threads)
        return create_app(served, State())

    deployed = serve.deployment(
        name="albef", num_replicas=replicas, ray_actor_options={"num_cpus": threads}
    )
    ready: serve.Application = deployed(serve.ingress(replica)(_Replica)).bind()
    return ready


class _Replica:
    """What Ray starts; all it does is in the application that it is given."""
