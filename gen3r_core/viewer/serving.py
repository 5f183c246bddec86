"""Serves the page of a map until it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterator

import rich
import viser

from gen3r_core.errors import InputError
from gen3r_core.viewer.page import Page, Source, ViewOptions

__all__ = ["LOCAL", "QuietServer", "serve", "url_of"]

LOCAL = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - named here, bound only where asked for


class QuietServer(viser.ViserServer):
    """A server that gives the page to nobody but who reaches its port."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Nothing: a map of somebody's rooms is not handed to a relay on the Internet, whatever a page asks for."""
        del verbose
        return None


def check_address(host: str, port: int) -> None:
    """Try an address before the server does, which would look for another port, for ever on a wrong host.

    Raises:
        InputError: it cannot be listened on, and why.
    """

    async def listen() -> None:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
        server.close()

    try:
        asyncio.run(listen())
    except (OSError, OverflowError, UnicodeError) as error:
        code = error.errno if isinstance(error, OSError) else None
        if code == errno.EADDRINUSE:
            raise _taken(host, port) from error
        if code == errno.EACCES:
            raise InputError(
                f"port {port} is for administrators; choose another: --port {port + 8000}, or --port 0 for any"
            ) from error
        reason = (os.strerror(code) if code is not None and code > 0 else str(error)) or type(error).__name__
        raise InputError(
            f"cannot listen on --host {host} --port {port}: {reason}; --host is an address of this machine"
        ) from error


def serve(source: Source, options: ViewOptions, *, host: str = LOCAL, port: int, ready: Callable[[str], None]) -> None:
    """Show a map until the process is interrupted (Ctrl-C).

    Args:
        source: of the map.
        options: to begin with.
        host: address to listen on.
        port: 0 for any that is free.
        ready: called with the URL when the page can be opened.

    Raises:
        InputError: the map cannot be read, or the address not be listened on.
    """
    check_address(host, port)
    with _quiet():
        server = QuietServer(host=host, port=port, verbose=False)
    try:
        if port not in {0, server.get_port()}:
            raise _taken(host, port)
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        page = Page(server, source, options)
        ready(url_of(host, server.get_port()))
        page.run()
    except KeyboardInterrupt:
        return
    finally:
        with _quiet():
            server.stop()


def url_of(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    name = LOCAL if host in _EVERYWHERE else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def _taken(host: str, port: int) -> InputError:
    return InputError(
        f"port {port} of {host} is taken, perhaps by another gen3r view; choose another: --port {port + 1}, or "
        f"--port 0 for any"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """For viser, which greets and says goodbye through rich; the command does so in its own words."""
    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before
