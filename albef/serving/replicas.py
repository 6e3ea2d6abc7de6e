"""Ray Serve application: replicas of the server on one or more machines (extra ``ray``).

``serve run albef.serving.replicas:application exports=/models/retrieval replicas=2``

Each replica is a process with a separate runtime. Ray's proxies replace a load balancer. Each
replica has separate image indexes in memory, so a service that needs indexes must have one replica.
"""

from pathlib import Path

from ray import serve
from starlette.types import ASGIApp

from albef.serving.app import create_app
from albef.serving.limits import Options
from albef.serving.middleware.access import read_tokens
from albef.serving.middleware.exchange import State


def application(options: dict[str, str]) -> serve.Application:
    """Return the application that ``serve run`` or a configuration file names.

    ``options`` has ``exports``, folders separated by commas, the same on every node; ``replicas``,
    their number; ``threads`` of each; ``host_name``, which clients without a token use. Tokens are
    in the environment, as for ``albef serve``.
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
    """Class that Ray starts. All behaviour is in its ASGI application."""
