"""Serves a run on this machine: a page for people, and JSON for programs.

The page names photos that are dropped, pasted or taken, explains a name against the second one,
compares two photos, and names a folder of photos as a table. Programs post photos to /v1/predict,
/v1/compare and /v1/explain; /openapi.json describes them, /metrics is for Prometheus.

Only this machine reaches the server, unless --host names another address. It has no passwords:
anyone who can reach it can use it. To install what it needs: pip install "apinet_jax[serve]".

Examples:
  python -m apinet_jax serve runs/birds
  python -m apinet_jax serve runs/birds --port 9000 --unknown
  curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/predict
"""

import argparse
import math
import socket

from apinet_jax.answers.photo_stream import warn_of_whole_photos
from apinet_jax.answers.trained_run import load
from apinet_jax.commands.naming_flags import (
    add_naming_flags,
    check_naming_flags,
    find_taxonomy,
    read_naming,
)
from apinet_jax.commands.open_world_flags import add_open_world_flags, read_open_world
from apinet_jax.system.compilation_cache import enable_compilation_cache
from apinet_jax.system.console import say
from apinet_jax.system.errors import InputError

_LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
_SHUTDOWN_SECONDS = 20  # for requests that have begun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run", metavar="RUN", help="a workdir, a checkpoint, or hf:OWNER/NAME")
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s; 0: any)")
    parser.add_argument("--checkpoint", help="last, best or a step; by default the run's choice")
    parser.add_argument("--data-dir", metavar="FOLDER", help="where the run's photos are now")
    add_naming_flags(parser)
    add_open_world_flags(parser)
    parser.add_argument(
        "--max-megabytes", type=float, default=20, help="of a request (default: %(default)s)"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=50, help="of a photo (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that have begun are answered.

    Raises:
        InputError: If the extra is missing, the address cannot be used, or as for `predict`.
    """
    try:
        import uvicorn

        from apinet_jax.serving.app import make_app
        from apinet_jax.serving.service import Settings
        from apinet_jax.serving.uploads import Limits
    except ImportError as error:
        raise InputError(
            f"serve needs packages that are not installed ({error}). Install them with: "
            'pip install "apinet_jax[serve]"'
        ) from error
    check_naming_flags(arguments)
    for name in ("max_megabytes", "max_megapixels"):
        if not 0 < getattr(arguments, name) < math.inf:
            raise InputError(f"--{name.replace('_', '-')} should be a number above 0.")
    listening = _listen(arguments.host, arguments.port)
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    address = f"http://{host}:{listening.getsockname()[1]}"
    with listening:
        enable_compilation_cache()
        trained = load(arguments.run, arguments.checkpoint, data_dir=arguments.data_dir)
        warn_of_whole_photos(trained.config)
        world = read_open_world(arguments, trained)
        world.provenance()  # refuses a share of false alarms that cannot be fitted
        taxonomy = find_taxonomy(arguments.taxonomy, trained)
        naming = read_naming(arguments, trained, world, taxonomy)
        limits = Limits(arguments.max_megabytes, arguments.max_megapixels)
        local = arguments.host in _LOOPBACK
        if not local:
            say(f"WARNING: {arguments.host} can be reached by others, and there are no passwords.")
        say("Compiling ...")
        app = make_app(
            trained,
            Settings(naming, world, limits),
            hosts=_LOOPBACK if local else None,
            ready=lambda: say(f"Serving {trained.checkpoint} on {address} (Ctrl-C stops)."),
        )
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a used port is reported before anything is loaded."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"{host}:{port} cannot be used: {error}. Choose another --port or --host."
        ) from error
