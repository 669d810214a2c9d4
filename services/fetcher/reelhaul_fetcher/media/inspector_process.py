"""The process that looks into files, from within: it gives up what it has, and answers. See ``tasting``."""

from __future__ import annotations

import json
import os
import resource
import socket
from dataclasses import asdict
from typing import NoReturn

from reelhaul_fetcher.media import seccomp
from reelhaul_fetcher.media.inspect import MediaFile, NotMedia, Unplayable
from reelhaul_runtime.parent_death import die_with_parent

#: A question, or an answer, is no longer than this.
MAX_MESSAGE = 16 * 1024

# Of CPU, for all files of one order: a second of the largest pictures takes seconds.
_CPU_SECONDS = 600


def live(line: socket.socket) -> NoReturn:
    """Answer what is asked over *line* until nobody asks any more, and die."""
    try:
        die_with_parent()
        _forget_all_but(line.fileno())
        for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            resource.setrlimit(kind, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
        seccomp.install_filter()
        _answer(line)
    finally:
        os._exit(1)


def _forget_all_but(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, os.sysconf("SC_OPEN_MAX"))


def _answer(line: socket.socket) -> None:
    """Answer until nobody asks any more."""
    film: MediaFile | None = None
    while True:
        question, descriptors, _, _ = socket.recv_fds(line, MAX_MESSAGE, 1)
        if not question:
            return
        try:
            if descriptors:
                film = None
                film = MediaFile(descriptors[0])
                seen = film.inspection
                answer = {**asdict(seen), "containers": sorted(seen.containers)}
            elif film is not None:
                film.decode_check()
                answer = {}
        except NotMedia as error:
            answer = {"not_media": str(error)}
        except Unplayable as error:
            answer = {"unplayable": str(error)}
        for descriptor in descriptors:
            os.close(descriptor)
        line.send(json.dumps(answer).encode())
