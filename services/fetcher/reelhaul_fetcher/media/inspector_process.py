"""The inspector's process: gives up its privileges, then answers requests. See ``inspector_client``."""

from __future__ import annotations

import json
import os
import resource
import socket
from dataclasses import asdict
from typing import Any, NoReturn

from reelhaul_fetcher.media import landlock, seccomp
from reelhaul_fetcher.media.inspect import MediaFile
from reelhaul_fetcher.media.inspection import MAX_MESSAGE, NotMedia, Unplayable
from reelhaul_runtime.parent_death import die_with_parent

# CPU time for all files of one fetch: a second of the largest pictures takes seconds.
_CPU_SECONDS = 600


def run(channel: socket.socket) -> NoReturn:
    """Answer the requests on *channel* until it is closed, and exit."""
    try:
        die_with_parent()
        _close_all_but(channel.fileno())
        for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            resource.setrlimit(limit, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
        with landlock.open_ruleset({}) as ruleset:
            landlock.restrict_self(ruleset)
        seccomp.install_filter()
        _serve(channel)
    finally:
        os._exit(1)


def _close_all_but(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))


def _serve(channel: socket.socket) -> None:
    media_file: MediaFile | None = None
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE, 1)
        if not request:
            return
        try:
            response: dict[str, Any] = {}
            arguments = json.loads(request)
            if arguments["method"] == "inspect":
                media_file = None
                media_file = MediaFile(descriptors[0], arguments["demuxer"])
                inspection = media_file.inspection
                response = {**asdict(inspection), "containers": sorted(inspection.containers)}
            elif media_file is None:
                response = {"unplayable": "no file is open"}
            elif arguments["method"] == "measure_play_time":
                response = {"seconds": media_file.measure_play_time()}
            else:
                response = {"rotated": media_file.decode_check()}
        except NotMedia as error:
            response = {"not_media": str(error)}
        except Unplayable as error:
            response = {"unplayable": str(error)}
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(json.dumps(response).encode())
