"""Playlist expansion: each entry becomes one job, however often a worker reports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime
from hashlib import sha256

from google.rpc import status_pb2

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.model import ids
from reelhaul_jobs.model.job import AttemptOutcome, Expansion, Job
from reelhaul_jobs.model.queue_transitions import enqueue
from reelhaul_jobs.model.retries import normalize_error
from reelhaul_jobs.model.states import AttemptState, Kind, State
from reelhaul_jobs.model.transition import Refusal, RefusalReason, Transition

# Bounds of the key columns; few sites have ids of more than 64 characters.
_MAX_ID_LENGTH = 200
_MAX_EXTRACTOR_LENGTH = 64

#: Expansions of a tenant that have not ended, and that CreateJob adds to: each may become 10,000 jobs.
MAX_LIVE_PER_TENANT = 1000


def add_children(
    change: Transition, entries: Sequence[media_pb2.PlaylistEntry], seen: Set[tuple[str, str]], now: datetime
) -> Transition:
    """Return *change*, a renewal, with the jobs that *entries* become.

    Entries up to the last position taken are ignored, so that a repeated renewal creates nothing twice. An
    entry without a URL cannot be fetched and is skipped; so is one that the schedule has *seen* if only new
    entries are wanted.
    """
    job = change.job
    expansion = job.expansion
    if job.state is not State.RUNNING or expansion is None:
        return change
    children: list[Job] = []
    new_entries: dict[tuple[str, str], None] = {}
    position = expansion.last_position
    for entry in sorted(entries, key=lambda entry: entry.position):
        if not position < entry.position <= expansion.max_entries:
            continue
        position = entry.position
        key = _extractor(job), entry_key(entry)
        skip = expansion.new_entries_only and (key in seen or key in new_entries)
        if entry.url and not skip:
            children.append(create_child(job, entry, now, len(children)))
            new_entries[key] = None
    if position == expansion.last_position:
        return change
    job_count = expansion.job_count + len(children)
    after = replace(expansion, job_count=job_count, skipped_count=position - job_count)
    remember = expansion.new_entries_only and job.schedule
    return replace(
        change,
        job=job.bump(now, expansion=after),
        children=tuple(children),
        seen_entries=tuple(new_entries) if remember else (),
    )


def stop(change: Transition, admitted: Sequence[Job], error: status_pb2.Status, now: datetime) -> Transition:
    """Return *change* with the first of its children only, which are *admitted*, as the end of its job.

    *error* says why the next one is not admitted. If a user retries the job, it continues with that one.
    """
    job, before = change.job, change.before.expansion
    assert before is not None
    job_count = before.job_count + len(admitted)
    last_position = change.children[len(admitted)].position - 1
    expansion = replace(job.expansion or before, job_count=job_count, skipped_count=last_position - job_count)
    error = normalize_error(error)
    return replace(
        change,
        job=job.end(State.FAILED, now, error=error, expansion=expansion),
        children=tuple(admitted),
        seen_entries=change.seen_entries[: len(admitted)],
        attempt_outcome=AttemptOutcome(state=AttemptState.FAILED, error=error),
        refusal=Refusal(reason=RefusalReason.ENDED, message=error.message),
    )


def with_entry_count(expansion: Expansion | None, media: media_pb2.MediaInfo | None) -> Expansion | None:
    """Return *expansion* with the number of entries that the site tells, if it does."""
    if expansion is None or media is None or not media.entry_count:
        return expansion
    return replace(expansion, entry_count=media.entry_count)


def summarize_progress(
    job: Job, counts: Mapping[State, int], running: Sequence[media_pb2.Progress], received: int
) -> media_pb2.Progress:
    """Return the progress of the expansion *job* over all of its jobs.

    *counts*: its jobs by state; *running*: the progress of leased jobs; *received*: bytes of ended attempts.
    Each job has the same share of the percentage, which is 100 only when all have ended.
    """
    result = media_pb2.Progress()
    if job.progress is not None:
        result.CopyFrom(job.progress)
    expansion = job.expansion or Expansion()
    number, ended = sum(counts.values()), sum(n for state, n in counts.items() if state.is_terminal)
    expected = number
    if not job.state.is_terminal:
        listed = min(expansion.entry_count, expansion.max_entries) - expansion.skipped_count
        expected = max(number, listed)
    elif ended < number:
        result.stage = media_pb2.Progress.DOWNLOADING
    else:
        result.ClearField("stage")
    result.ClearField("percent")
    if expected:
        done = ended + sum(min(each.percent, 100.0) / 100 for each in running)
        has_ended = job.state.is_terminal and ended == number
        result.percent = 100.0 if has_ended else min(100.0 * done / expected, 99.0)
    result.ClearField("eta")
    result.downloaded_bytes = received + sum(each.downloaded_bytes for each in running)
    result.bytes_per_second = sum(each.bytes_per_second for each in running)
    result.job_counts.update({state.name: n for state, n in counts.items() if n})
    failed = counts.get(State.FAILED, 0)
    result.detail = f"{ended} of {expected} jobs have ended" + (f", {failed} failed" if failed else "")
    return result


def create_child(parent: Job, entry: media_pb2.PlaylistEntry, now: datetime, position: int) -> Job:
    """Return the job that downloads *entry* as *parent* asks; jobs of the same time sort by *position*."""
    job = Job(
        id=ids.new_id(now, position),
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
        deliver_to=parent.deliver_to,
        api_key=parent.api_key,
        media=_media_of(entry),
    )
    return enqueue(job)


def entry_key(entry: media_pb2.PlaylistEntry) -> str:
    """Return what identifies *entry* within its extractor: the site's own id, else its URL."""
    key = entry.media_id or entry.url
    return key if len(key) <= _MAX_ID_LENGTH else sha256(key.encode()).hexdigest()


def _extractor(job: Job) -> str:
    # PostgreSQL rejects NUL.
    return job.media.extractor.replace("\0", "")[:_MAX_EXTRACTOR_LENGTH] if job.media else ""


def _media_of(entry: media_pb2.PlaylistEntry) -> media_pb2.MediaInfo | None:
    """Return what the playlist tells about the entry; the attempt adds what its own page tells."""
    if not entry.title:
        return None
    media = media_pb2.MediaInfo(title=entry.title, url=entry.url, media_id=entry.media_id)
    if entry.HasField("duration"):
        media.duration.CopyFrom(entry.duration)
    return media
