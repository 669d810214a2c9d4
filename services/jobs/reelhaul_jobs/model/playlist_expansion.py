"""Expansions: how the entries of a list become jobs, each once, however often they are told."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from datetime import datetime
from hashlib import sha256

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import ids
from reelhaul_jobs.model.job import Expansion, Job
from reelhaul_jobs.model.queue_transitions import enqueue
from reelhaul_jobs.model.states import Kind, State
from reelhaul_jobs.model.transition import Transition

# What a key column takes; few sites have ids of more than 64 characters.
_LONGEST_ID = 200
_LONGEST_EXTRACTOR = 64


def add_children(
    change: Transition, entries: Sequence[media_pb2.PlaylistEntry], seen: Set[tuple[str, str]], now: datetime
) -> Transition:
    """A renewal with the jobs that *entries* become.

    Passed over is what is not beyond the positions taken, so that a repeated renewal makes
    nothing twice. An entry without a URL is one that cannot be fetched: it is skipped, and so
    is what the schedule has *seen*, if only new entries are wanted.
    """
    job = change.job
    expansion = job.expansion
    if job.state is not State.RUNNING or expansion is None:
        return change
    made: list[Job] = []
    noted: dict[tuple[str, str], None] = {}
    taken = expansion.last_position
    for entry in sorted(entries, key=lambda entry: entry.position):
        if not taken < entry.position <= expansion.max_entries:
            continue
        taken = entry.position
        key = _extractor(job), entry_key(entry)
        known = expansion.new_entries_only and (key in seen or key in noted)
        if entry.url and not known:
            made.append(create_child(job, entry, now, len(made)))
            noted[key] = None
    if taken == expansion.last_position:
        return change
    jobs = expansion.job_count + len(made)
    after = replace(expansion, job_count=jobs, skipped_count=taken - jobs)
    remembers = expansion.new_entries_only and job.schedule
    return replace(
        change,
        job=job.bump(now, expansion=after),
        children=tuple(made),
        seen_entries=tuple(noted) if remembers else (),
    )


def with_entry_count(expansion: Expansion | None, media: media_pb2.MediaInfo | None) -> Expansion | None:
    """*expansion* with what the site says of its list."""
    if expansion is None or media is None or not media.entry_count:
        return expansion
    return replace(expansion, entry_count=media.entry_count)


def create_child(parent: Job, entry: media_pb2.PlaylistEntry, now: datetime, place: int) -> Job:
    """The job that downloads *entry*, as *parent* asked for it; jobs of one time sort by *place*."""
    job = Job(
        id=ids.new_id(now, place),
        tenant=parent.tenant,
        url=entry.url,
        format=parent.format,
        create_time=now,
        update_time=now,
        priority=parent.priority,
        kind=Kind.SINGLE,
        labels=parent.labels,
        retry=parent.retry,
        attempt_deadline=parent.attempt_deadline,
        ttl=parent.ttl,
        expire_time=parent.expire_time,
        batch_id=parent.batch_id,
        traceparent=parent.traceparent,
        schedule=parent.schedule,
        parent=parent.id,
        position=entry.position,
        media=_flat(entry),
    )
    return enqueue(job)


def entry_key(entry: media_pb2.PlaylistEntry) -> str:
    """What *entry* is known again by, with its extractor: the site's own id, else its URL."""
    told = entry.media_id or entry.url
    return told if len(told) <= _LONGEST_ID else sha256(told.encode()).hexdigest()


def _extractor(job: Job) -> str:
    return job.media.extractor[:_LONGEST_EXTRACTOR] if job.media else ""


def _flat(entry: media_pb2.PlaylistEntry) -> media_pb2.MediaInfo | None:
    """What the list says of the entry: its own page says the rest later."""
    if not entry.title:
        return None
    told = media_pb2.MediaInfo(title=entry.title, url=entry.url, media_id=entry.media_id)
    if entry.HasField("duration"):
        told.duration.CopyFrom(entry.duration)
    return told
